"""What every panel has: a figure where no widget runs, a small state, an export that makes the same clips again."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from ipywidgets import HTML
from PIL import Image

import svdlab
from svdlab import errors, widgets
from svdlab.measure.video import as_bytes, read_frames
from svdlab.study.plans import read_plan
from svdlab.widgets.panel import animation, still

VIEW = "application/vnd.jupyter.widget-view+json"


@pytest.fixture(params=["explore", "step_through", "live", "compare"])
def panel(request: pytest.FixtureRequest, pipe: Any, results: pd.DataFrame, traced: Any, tmp_path: Path) -> Any:
    make = {
        "explore": lambda: widgets.explore(results, out=tmp_path),
        "step_through": lambda: widgets.step_through(traced[0], pipe, out=tmp_path),
        "live": lambda: widgets.live(pipe, "scene-27", svdlab.Conditions(num_inference_steps=2), out=tmp_path),
        "compare": lambda: widgets.compare(results, out=tmp_path),
    }
    return make[request.param]()


def inside(widget: Any) -> list[Any]:
    return [widget, *(inner for child in getattr(widget, "children", ()) for inner in inside(child))]


def test_small_images_lose_nothing_and_animations_keep_their_length(decoded: Any) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (5, 40, 48, 3), dtype=np.uint8)
    assert (decoded(still(frames[0])) == frames[0]).all()
    moving = animation(frames, fps=10)
    assert Image.open(io.BytesIO(moving)).n_frames == 5 and (decoded(moving) == frames[-1]).all()
    assert still(np.zeros((300, 300, 3)))[:2] == b"\xff\xd8"  # JPEG


def test_a_panel_shows_a_figure_where_no_widget_runs(panel: Any) -> None:
    data, metadata = panel._repr_mimebundle_()
    image = Image.open(io.BytesIO(base64.b64decode(data["image/png"])))
    assert VIEW in data and image.width >= 300 and metadata["image/png"]["alt"]
    assert np.asarray(image.convert("RGB")).std() > 5  # something is drawn


def test_a_panels_state_stays_small(panel: Any) -> None:
    values = [v for widget in inside(panel) for v in widget.get_state().values()]
    assert 1_000 < sum(len(v) for v in values if isinstance(v, (bytes, memoryview, str))) < 2_000_000


def test_an_export_makes_the_same_clips_again(pipe: Any, results: pd.DataFrame, traced: Any, tmp_path: Path) -> None:
    tr, clip = traced
    panels = [widgets.explore(results), widgets.step_through(tr), widgets.compare([clip])]
    originals = [read_frames(results["frames"].iloc[0]), as_bytes(clip.frames), as_bytes(clip.frames)]
    for n, (one, frames) in enumerate(zip(panels, originals, strict=True)):
        files = one.export(tmp_path / str(n))
        assert {p.suffix for p in files} == {".png", ".pdf", ".csv", ".mp4", ".json"} and all(p.stat().st_size for p in files)
        plan = read_plan(next(p for p in files if p.suffix == ".json"))
        again = svdlab.sweep(pipe, plan, tmp_path / "again", measure=(), progress=False)
        assert again["run_id"].iloc[0] == plan.get("label_run", again["run_id"]).iloc[0]
        made = read_frames(again["frames"].iloc[0]).astype(int)
        assert np.abs(made - frames).max() <= 1  # a sweep's batches and convolutions round differently from a single call
        assert one.export(tmp_path / str(n)) == files  # the same view replaces itself


def test_an_export_that_the_disk_refuses_is_reported(results: pd.DataFrame, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    panel = widgets.explore(results, out=tmp_path / "file")
    with pytest.raises(errors.OutputError):
        panel.export()
    panel.export_button.click()
    assert "Could not" in panel.message.value and "written" in panel.message.value


def test_labels_cannot_smuggle_markup() -> None:
    panel = widgets.compare({"<img src=x onerror=alert(1)>": np.zeros((2, 32, 32, 3), np.uint8)})
    text = json.dumps([widget.value for widget in inside(panel) if isinstance(widget, HTML)])
    assert "<img" not in text and "&lt;img" in text
