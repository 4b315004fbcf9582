from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from svdlab import probes
from svdlab.errors import InputError
from svdlab.probes import text_control
from svdlab.stats.effects import EFFECT, EQUIVALENT, Effect
from tests.probes.conftest import FAST, findings_of


def steered(share: float, noise: float = 0.05) -> dict[str, Effect]:
    """Findings where an exchange takes every clip that share of the way to the other image's."""
    rng = np.random.default_rng(0)
    names = [f"p{i}" for i in range(8)]
    base = {n: rng.random((4, 16, 16, 3)) for n in names}
    other = text_control.partner(names)
    clips = {("none", n): base[n] for n in names}
    clips |= {("another seed", n): base[n] + rng.normal(0, noise, base[n].shape) for n in names}
    clips |= {("swap", n): base[n] + share * (base[other[n]] - base[n]) for n in names}
    table = pd.DataFrame([{"stimulus": n, "seed": 0, "kind": kind, "flow_px": 1.0} for kind, n in clips])
    return findings_of("text_control", text_control.compare(table, lambda r: clips[r["kind"], r["stimulus"]], other))


@pytest.mark.parametrize("share", [0.2, 0.6])
def test_steering_is_recovered_at_its_size(share: float) -> None:
    found = steered(share)
    assert found["towards"].value == pytest.approx(share) and found["towards"].verdict == EFFECT
    assert found["swap"].verdict == EFFECT and found["speed"].value == 0


def test_where_nothing_steers_that_is_reported() -> None:
    found = steered(0.0)
    assert found["swap"].value < 1e-5 and found["swap"].verdict == EQUIVALENT
    assert found["towards"].value == 0 and found["towards"].verdict == EQUIVALENT


@pytest.mark.parametrize("images", [["scene-1"], ["scene-1", "scene-2", "scene-1"]])
def test_an_image_is_not_given_its_own_embedding_as_another_ones(pipe: Any, tmp_path: Path, images: list[str]) -> None:
    with pytest.raises(InputError, match="two images that differ"):
        probes.run("text_control", pipe, tmp_path / "out", images=images, conditions=FAST, progress=False)
    assert not (tmp_path / "out").exists()


def test_edits_have_runs_of_their_own_and_latents_are_kept(pipe: Any, tmp_path: Path) -> None:
    given = dict(images=["scene-1", "scene-4"], seeds=1, conditions=FAST)
    result = probes.run("text_control", pipe, tmp_path, progress=False, scales=("zero",), **given)
    table = result.table
    assert sorted(table["kind"].unique()) == ["another seed", "none", "swap", "zero"]
    assert table["run_id"].is_unique and all(check.passed for check in result.audit)
    assert (table.loc[table["kind"].isin(["swap", "zero"]), "change"] > 0).all()
    again = probes.estimate(pipe, tmp_path, names=["text_control"], **given)
    assert again["missing"].iloc[0] == 4  # the two scales that were left out, for two images
