"""How many steps are enough: errors fall with the steps, and the least number that suffices is found."""

from typing import Any

import pandas as pd
import pytest

import svdlab
from svdlab.errors import InputError
from svdlab.study.steps import _enough

NAMES = ["EulerDiscreteScheduler", "HeunDiscreteScheduler"]


def test_errors_fall_and_every_sampler_has_its_number(pipe: Any) -> None:
    plan = svdlab.grid(scheduler=NAMES, image="scene-27", max_guidance_scale=1.0)
    table = svdlab.steps_needed(pipe, plan, steps=(6, 2), within=8.0, reference=20, progress=False)
    assert table.num_inference_steps.tolist() == [2, 6] * 2 and table.scheduler.tolist() == [NAMES[0]] * 2 + [NAMES[1]] * 2
    assert table.unet_calls.tolist() == [2, 6, 3, 11] and set(table.sigma_max) == {700.0}
    for _, part in table.groupby("scheduler"):
        assert part.error.iloc[0] > part.error.iloc[1] > 0 and part.needed.nunique() <= 1
    again = svdlab.steps_needed(pipe, plan[:1], steps=(2,), within=1e-9, reference=20, progress=False)
    assert again.needed.isna().all() and again.error[0] == pytest.approx(table.error[0])
    assert svdlab.show.dose_response(table, x="num_inference_steps", y="error", by="scheduler") is not None


@pytest.mark.parametrize(
    ("errors", "needed"), [({2: 9, 4: 1, 8: 0.5}, 4), ({2: 1, 4: 9, 8: 1}, 8), ({2: 1, 4: 1}, 2), ({2: 9, 4: 3}, None)]
)
def test_enough_is_where_no_later_number_is_too_few(errors: dict[int, float], needed: int | None) -> None:
    clips = pd.DataFrame({"num_inference_steps": list(errors) * 2, "error": [*errors.values(), *[0.0] * len(errors)]})
    found = _enough(clips, 2.0)
    assert found == needed or (needed is None and found != found)


@pytest.mark.parametrize(
    ("plan", "how", "said"),
    [
        ([{"num_inference_steps": 4}], {}, "'num_inference_steps' has no place here"),
        ([{"lora": "a.safetensors"}], {}, "'lora' has no place here"),
        ([{}], {"reference": 4, "steps": (4,)}, "more steps than the most"),
        ([{}], {"image": None}, "no image"),
        ([{}], {"steps": ()}, "at least 1"),
        ([{"scheduler": "euler"}], {}, "scheduler='euler'"),
        ([{}, {"scheduler": "DDIMScheduler"}], {}, "DDIMScheduler does not work"),
        ([{}, {"image": "gone.png"}], {}, "gone.png"),
    ],
)
def test_what_cannot_be_compared_is_refused(pipe: Any, plan: Any, how: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        svdlab.steps_needed(pipe, plan, **{"image": "scene-27", "progress": False, **how})
