"""What every panel has: a figure where no widget runs, a small state, an export that makes the same clips again."""

import base64
import dataclasses
import io
from pathlib import Path
from typing import Any

import ipywidgets
import numpy as np
import pandas as pd
import pytest
from ipywidgets import HTML
from PIL import Image

import svdlab
from svdlab import errors, probes, widgets
from svdlab.measure.video import as_bytes, read_frames
from svdlab.probes import Result
from svdlab.study.plans import read_plan
from svdlab.widgets.panel import Panel, webp

VIEW = "application/vnd.jupyter.widget-view+json"


def inside(widget: Any) -> list[Any]:
    return [widget, *(inner for child in getattr(widget, "children", ()) for inner in inside(child))]


@pytest.mark.parametrize("kind", ["explore", "step_through", "live", "compare"])
def test_a_panel_shows_a_figure_where_no_widget_runs_and_its_state_is_small(
    kind: str, pipe: Any, results: pd.DataFrame, traced: Any
) -> None:
    given = {"step_through": (traced[0], pipe), "live": (pipe, "scene-27")}.get(kind, (results,))
    panel = getattr(widgets, kind)(*given)
    data, metadata = panel._repr_mimebundle_()
    image = Image.open(io.BytesIO(base64.b64decode(data["image/png"])))
    assert VIEW in data and image.width >= 300 and metadata["image/png"]["alt"]
    assert np.asarray(image.convert("RGB")).std() > 5  # something is drawn
    values = [v for widget in inside(panel) for v in widget.get_state().values()]
    assert 1_000 < sum(len(v) for v in values if isinstance(v, (bytes, memoryview, str))) < 2_000_000


def test_small_images_lose_nothing_and_animations_keep_their_length(decoded: Any) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (5, 40, 48, 3), dtype=np.uint8)
    assert (decoded(webp(frames[:1])) == frames[0]).all()
    assert Image.open(io.BytesIO(webp(frames, fps=10))).n_frames == 5 and (decoded(webp(frames)) == frames[-1]).all()


def test_of_many_tasks_the_last_is_done_and_its_error_is_reported() -> None:
    panel, done = Panel([], out="nowhere"), list[Any]()
    for n in range(20):
        panel.draw(lambda n=n: done.append(n))
    assert panel.settled(10) and done == [19]
    panel.draw(lambda: panel.draw(lambda: 1 / 0))  # a task may ask for another one
    assert panel.settled(10) and "Could not: </b>division" in panel.message.value


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


def test_an_export_that_fails_says_so_on_screen(results: pd.DataFrame, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    panel = widgets.explore(results, out=tmp_path / "file")
    with pytest.raises(errors.OutputError):
        panel.export()
    panel.export_button.click()
    assert "Could not" in panel.message.value and "written" in panel.message.value


HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.mark.parametrize("kind", ["explore", "step_through", "live", "compare", "verdicts"])
def test_recorded_text_is_text(kind: str, pipe: Any, results: pd.DataFrame, traced: Any, tmp_path: Path) -> None:
    """Whatever a record, a label or an error says: it reaches the screen as text. Only ipywidgets.HTML reads markup."""
    texts = dict.fromkeys(("image", "checkpoint", "label", "licence", "intervention", "status", "reason"), HOSTILE)
    table = results.assign(**texts, preview="", object_px=[0.1, 0.2, 0.3])
    table.loc[0, "image"] = "other"
    table = table.rename(columns={"flow_px": HOSTILE}) if "flow_px" in table else table.assign(**{HOSTILE: [1.0, 2.0, 3.0]})
    clip, source = traced[1], dataclasses.replace(traced[1].call.source, checkpoint=HOSTILE, label=HOSTILE)
    clip = dataclasses.replace(clip, call=dataclasses.replace(clip.call, source=source))
    found = Result(probes.find("stillness"), HOSTILE, HOSTILE, source=source, notes=(HOSTILE,))
    tr = dataclasses.replace(traced[0], calls=(clip.call,))
    make = {
        "explore": lambda: widgets.explore(table),
        "step_through": lambda: widgets.step_through(tr),
        "live": lambda: widgets.live(pipe, "scene-27", svdlab.Conditions(num_inference_steps=1)),
        "compare": lambda: widgets.compare({HOSTILE: clip}),
        "verdicts": lambda: widgets.verdicts({HOSTILE: found}),
    }
    panel = make[kind]()
    if kind == "live":
        with svdlab.edit(pipe, "denoised", lambda value, step: exec("raise ValueError(HOSTILE)", {"HOSTILE": HOSTILE})):
            panel.generate()
            assert panel.job.join(60)
    if kind == "verdicts":
        panel.lines.selected_index = 0
    panel._attempt(lambda: Path(tmp_path / HOSTILE / "none").read_text())  # an error names a file
    assert panel.settled()
    shown = inside(panel)
    markup = [widget.value for widget in shown if isinstance(widget, HTML)]
    assert "<img src=x" not in "".join(markup) and "&lt;img src=x" in "".join(markup)
    assert not any(isinstance(widget, (ipywidgets.HTMLMath, ipywidgets.Output)) for widget in shown)
    allows = [name for widget in shown for name in widget.trait_names() if name.endswith("_allow_html")]
    assert allows and not any(getattr(widget, name) for widget in shown for name in set(allows) & set(widget.trait_names()))
