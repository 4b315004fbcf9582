"""Widgets without a browser: what they show, find, stop and export. How they look is in tests/slow/test_browser.py."""

from __future__ import annotations

import base64
import io
import json
import re
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import svdlab
from svdlab import errors, show, widgets
from svdlab.measure import motion
from svdlab.measure.video import as_bytes
from svdlab.study import ledger
from svdlab.study.plans import read_plan
from svdlab.widgets.background import Latest
from svdlab.widgets.cells import Cells
from svdlab.widgets.encode import animation, film, picture, restarted

VIEW = "application/vnd.jupyter.widget-view+json"


@pytest.fixture(scope="module")
def results(pipe: Any, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Two buckets by two seeds, one point not run."""
    plan = svdlab.grid(motion_bucket_id=[20, 200], seed=[0, 1], num_inference_steps=2).drop(index=3)
    return svdlab.sweep(pipe, plan, tmp_path_factory.mktemp("widgets") / "ledger", image="scene-27", progress=False)


@pytest.fixture(scope="module")
def traced(pipe: Any) -> Any:
    with svdlab.trace(pipe, keep=("latents", "denoised", "guidance_pressure")) as tr:
        clip = svdlab.generate(pipe, "scene-27", seed=3, num_inference_steps=3)
    return tr, clip


def decoded(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(bytes(data))).convert("RGB"))


# --- finding runs -----------------------------------------------------------------------------------------------------


def test_a_run_is_found_by_its_conditions_and_what_is_missing_is_known(results: pd.DataFrame) -> None:
    cells = Cells(results)
    assert cells.axes == {"motion_bucket_id": [20, 200], "seed": [0, 1]}
    for place in range(len(cells)):
        assert cells.at(cells.point(place)) == place
    missing = {"motion_bucket_id": 200, "seed": 1}
    assert cells.at(missing) is None
    assert cells.point(cells.nearest(missing)) in ({"motion_bucket_id": 20, "seed": 1}, {"motion_bucket_id": 200, "seed": 0})
    row = cells.row_to_make(missing)
    assert (row["motion_bucket_id"], row["seed"], row["image"], row["num_inference_steps"]) == (200, 1, "scene-27", 2)


def test_the_nearest_run_differs_in_as_few_axes_as_can_be() -> None:
    rows = [(6, 10, 0), (6, 40, 0), (24, 10, 1)]
    table = pd.DataFrame(rows, columns=["fps", "motion_bucket_id", "seed"]).assign(frames="", preview="")
    cells = Cells(table)
    assert cells.nearest({"fps": 24, "motion_bucket_id": 40, "seed": 0}) == 1  # only fps differs
    assert cells.nearest({"fps": 6, "motion_bucket_id": 10, "seed": 1}) == 0


def test_two_versions_of_a_checkpoint_are_told_apart_and_one_is_not_an_axis() -> None:
    rows = [("mine", "aaa", 7), ("mine", "aaa", 14), ("other", "bbb", 7), ("other", "bbb", 14)]
    table = pd.DataFrame(rows, columns=["checkpoint", "weights", "fps"]).assign(frames="", preview="")
    assert list(Cells(table).axes) == ["checkpoint", "fps"]
    again = pd.concat([table, table[:2].assign(weights="ccc")], ignore_index=True)
    cells = Cells(again)
    assert list(cells.axes) == ["checkpoint", "weights", "fps"]
    assert cells.at({"checkpoint": "mine", "weights": "ccc", "fps": 14}) == 5
    assert cells.at({"checkpoint": "other", "weights": "ccc", "fps": 14}) is None


def test_what_is_no_table_of_runs_is_refused(tmp_path: Path) -> None:
    for wrong in (pd.DataFrame({"fps": [1]}), [1, 2], pd.DataFrame({"frames": [], "preview": []}), tmp_path):
        with pytest.raises(errors.InputError):
            widgets.explore(wrong)


# --- pictures ---------------------------------------------------------------------------------------------------------


def test_small_pictures_lose_nothing_and_films_keep_their_length() -> None:
    frames = np.random.default_rng(0).integers(0, 255, (5, 40, 48, 3), dtype=np.uint8)
    assert (decoded(picture(frames[0])) == frames[0]).all()
    moving = Image.open(io.BytesIO(animation(frames, fps=10)))
    assert moving.n_frames == 5 and (np.asarray(moving.convert("RGB")) == frames[0]).all()
    mp4 = film(frames, fps=10)
    for data in (mp4, restarted(mp4, 1)):
        import mediapy

        assert mediapy.decompress_video(data).shape == (5, 280, 336, 3)
    assert restarted(mp4, 1) != mp4 == restarted(mp4, 2)


def test_of_many_tasks_the_last_is_done() -> None:
    done: list[int] = []
    draw = Latest(wait=0.05)
    for n in range(20):
        draw(lambda n=n: done.append(n))
    assert draw.settled(10) and done == [19]
    draw(lambda: done.append(20))
    assert draw.settled(10) and done == [19, 20]


# --- every panel is a figure too --------------------------------------------------------------------------------------


@pytest.fixture(params=["explore", "step_through", "live", "compare"])
def panel(request: pytest.FixtureRequest, pipe: Any, results: pd.DataFrame, traced: Any, tmp_path: Path) -> Any:
    tr, _ = traced
    make = {
        "explore": lambda: widgets.explore(results, out=tmp_path),
        "step_through": lambda: widgets.step_through(tr, pipe, out=tmp_path),
        "live": lambda: widgets.live(pipe, "scene-27", svdlab.Conditions(num_inference_steps=2), out=tmp_path),
        "compare": lambda: widgets.compare(results, out=tmp_path),
    }
    return make[request.param]()


def test_a_panel_shows_a_picture_where_no_widget_runs(panel: Any) -> None:
    data, metadata = panel._repr_mimebundle_()
    still = Image.open(io.BytesIO(base64.b64decode(data["image/png"])))
    assert VIEW in data and still.width >= 300 and metadata["image/png"]["alt"]
    assert np.asarray(still.convert("RGB")).std() > 5  # something is drawn


def test_a_panels_state_stays_small(panel: Any) -> None:
    from ipywidgets import Widget

    def of(widget: Any) -> list[Any]:
        children = list(getattr(widget, "children", ()))
        return [widget, *(inner for child in children for inner in of(child))]

    total = 0
    for widget in of(panel):
        state = widget.get_state()
        total += sum(len(v) for v in state.values() if isinstance(v, (bytes, memoryview, str)))
    assert isinstance(panel, Widget) and 1_000 < total < 2_000_000


def test_an_export_makes_the_very_clips_again(
    pipe: Any, results: pd.DataFrame, traced: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tr, clip = traced
    panels = [widgets.explore(results), widgets.step_through(tr), widgets.compare([clip])]
    originals = [ledger.read_frames(Path(results["frames"].iloc[0]).parents[2], results["run_id"].iloc[0])]
    originals += [as_bytes(clip.frames)] * 2
    for n, (one, frames) in enumerate(zip(panels, originals, strict=True)):
        files = one.export(tmp_path / str(n))
        assert {p.suffix for p in files} == {".png", ".svg", ".csv", ".mp4", ".json"} and all(p.stat().st_size for p in files)
        plan = read_plan(next(p for p in files if p.suffix == ".json"))
        again = svdlab.sweep(pipe, plan, tmp_path / "again", measure=(), progress=False)
        assert again["run_id"].iloc[0] == plan.get("label_run", again["run_id"]).iloc[0]
        made = ledger.read_frames(tmp_path / "again", again["run_id"].iloc[0]).astype(int)
        assert np.abs(made - frames).max() <= 1  # a sweep's batches and convolutions round otherwise than a single call
        assert one.export(tmp_path / str(n)) == files  # the same view replaces itself


def test_an_export_that_the_disk_refuses_is_told(results: pd.DataFrame, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    panel = widgets.explore(results, out=tmp_path / "file")
    with pytest.raises(errors.OutputError):
        panel.export()
    panel.export_button.click()
    assert "could not be written" in panel._said.value


# --- explore ----------------------------------------------------------------------------------------------------------


def test_explore_follows_its_controls(results: pd.DataFrame) -> None:
    panel = widgets.explore(results)
    pane = panel.panes[0]
    first = bytes(pane.video.value)
    assert first == Path(results["preview"].iloc[0]).read_bytes()
    panel.select(motion_bucket_id=200)
    assert bytes(pane.video.value) == Path(results.query("motion_bucket_id == 200")["preview"].iloc[0]).read_bytes() != first
    pane.walk.value = 1
    assert pane.point() == {"motion_bucket_id": 20, "seed": 1} and "seed 1" in pane.caption.value
    panel.select(motion_bucket_id=200)
    assert pane.place is None and "not run" in pane.caption.value and panel.current == []
    pane.near.click()
    assert pane.place is not None
    with pytest.raises(errors.InputError, match="no point of this sweep"):
        panel.select(motion_bucket_id=7)


def test_explore_marks_the_run_where_its_numbers_are(results: pd.DataFrame) -> None:
    """The mark lies over the drawn point: its place follows the axes' own scale."""
    panel = widgets.explore(results, x="motion_bucket_id", y="object_px")
    panel.tabs.selected_index = 1
    assert panel.draw.settled()
    places = []
    for bucket in (20, 200):
        panel.select(motion_bucket_id=bucket, seed=0)
        panel.draw.settled()
        left, top = (float(v) for v in re.findall(r"(?:left|top):([\d.]+)%", panel.curve.over.value))
        places.append((left, top))
    fig = panel._curve()
    fig.draw_without_rendering()
    box = fig.axes[0].get_position()
    low, high = fig.axes[0].get_xlim()
    for (left, _), bucket in zip(places, (20, 200), strict=True):
        assert left == pytest.approx(100 * (box.x0 + box.width * (bucket - low) / (high - low)), abs=0.5)
    speeds = results.query("seed == 0")["object_px"].tolist()
    assert (places[0][1] > places[1][1]) == (speeds[0] < speeds[1])  # what is faster stands higher


def test_a_missing_run_leaves_no_mark_and_the_other_panes_mark_stays_its_own(results: pd.DataFrame) -> None:
    panel = widgets.explore(results)
    panel.tabs.selected_index, panel.two.value = 1, True
    assert panel.draw.settled()
    assert re.findall('class="(.*?)"', panel.curve.over.value) == ["first", "second"]
    panel.select(motion_bucket_id=200, seed=1)
    assert panel.draw.settled() and panel.panes[0].place is None
    assert re.findall('class="(.*?)"', panel.curve.over.value) == ["second"]


def test_a_missing_point_is_made_from_here(pipe: Any, results: pd.DataFrame) -> None:
    panel = widgets.explore(results, pipe=pipe)
    pane = panel.panes[0]
    panel.select(motion_bucket_id=200, seed=1)
    pane.make.click()
    assert pane.run is not None and pane.run.join(60)
    assert pane.place == 3 and panel.current[0]["status"] == "done" and len(pane.video.value) > 1000
    assert "forward_pre_hooks" not in str(pipe.unet._forward_pre_hooks) and not pipe.unet._forward_pre_hooks


# --- live -------------------------------------------------------------------------------------------------------------


def test_live_makes_what_generate_makes_and_keeps_a_plan(pipe: Any, tmp_path: Path) -> None:
    panel = widgets.live(pipe, "scene-27", svdlab.Conditions(num_inference_steps=2), seed=5, out=tmp_path)
    with pytest.raises(errors.InputError, match="nothing was generated"):
        panel.to_plan()
    given = bytes(panel.preview.value)
    assert panel.generate().join(60)
    panel.controls["motion_bucket_id"].value = 9
    assert panel.generate().join(60)
    want = svdlab.generate(pipe, "scene-27", seed=5, num_inference_steps=2, motion_bucket_id=9)
    assert (panel.clips[1].frames == want.frames).all() and bytes(panel.preview.value) != given
    assert panel.bar.value == 2 and "made in" in panel.status.value

    plan = panel.to_plan()
    assert plan["motion_bucket_id"].tolist() == [127, 9] and set(plan["image"]) == {"scene-27"}
    table = svdlab.sweep(pipe, plan, tmp_path / "ledger", measure=(), batch_size=1, progress=False)
    made = ledger.read_frames(tmp_path / "ledger", table["run_id"].iloc[1]).astype(int)
    assert np.abs(made - as_bytes(want.frames)).max() <= 1
    panel.compare()
    assert len(panel.comparing.children[0].films) == 2
    panel.history.value = (0,)
    panel.use()
    assert panel.conditions.motion_bucket_id == 127


def test_live_shows_an_estimate_that_sharpens(pipe: Any) -> None:
    panel = widgets.live(pipe, "scene-27", svdlab.Conditions(num_inference_steps=4, motion_bucket_id=100, fps=6))
    seen: list[np.ndarray] = []
    panel.preview.observe(lambda change: seen.append(last_frame(change["new"])), "value")
    assert panel.generate().join(60)
    estimates, final = seen[:-1], seen[-1]
    assert len(estimates) == 4
    small = np.asarray(Image.fromarray(final.astype(np.uint8)).resize(estimates[0].shape[1::-1], Image.Resampling.BOX), float)
    likeness = [float(np.corrcoef(e.ravel(), small.ravel())[0, 1]) for e in estimates]
    assert likeness[-1] > likeness[0]  # where things went is open at the start


def last_frame(value: bytes) -> np.ndarray:
    """Of a film in a picture's bytes: the frame that is decided last."""
    film = Image.open(io.BytesIO(value))
    film.seek(getattr(film, "n_frames", 1) - 1)
    return np.asarray(film.convert("RGB"), float)


def test_cancel_stops_before_the_next_step_and_leaves_the_pipeline_whole(pipe: Any) -> None:
    before = svdlab.generate(pipe, "scene-3", num_inference_steps=2).frames
    panel = widgets.live(pipe, "scene-27", svdlab.Conditions(num_inference_steps=40))
    told: list[int] = []
    reached = threading.Event()
    panel.bar.observe(lambda change: (told.append(change["new"]), change["new"] >= 2 and reached.set()), "value")
    run = panel.generate()
    with pytest.raises(errors.InputError, match="being made"):
        panel.generate()
    assert reached.wait(60)
    panel.cancel()
    at = max(told)
    assert run.join(30) and max(told) <= at + 1 and panel.clips == [] and "stopped at step" in panel.status.value
    assert not panel.go.disabled and panel.halt.disabled
    assert not pipe.unet._forward_hooks and not pipe.unet._forward_pre_hooks and "progress_bar" not in vars(pipe)
    assert (svdlab.generate(pipe, "scene-3", num_inference_steps=2).frames == before).all()


def test_two_panels_take_turns_and_another_thread_is_refused(pipe: Any) -> None:
    panels = [widgets.live(pipe, "scene-27", svdlab.Conditions(num_inference_steps=3), seed=s) for s in (0, 1)]
    runs = [panel.generate() for panel in panels]
    deadline = time.monotonic() + 30
    while not any(panel.bar.value for panel in panels) and time.monotonic() < deadline:
        time.sleep(0.005)
    with pytest.raises(errors.InputError, match="another thread"):
        svdlab.generate(pipe, "scene-3", num_inference_steps=2)
    assert all(run.join(60) for run in runs)
    for seed, panel in enumerate(panels):
        want = svdlab.generate(pipe, "scene-27", seed=seed, num_inference_steps=3)
        assert (panel.clips[0].frames == want.frames).all()


def test_live_says_what_goes_wrong(pipe: Any) -> None:
    with pytest.raises(errors.InputError):
        widgets.live(pipe, "no-such-picture.png")
    panel = widgets.live(pipe, "scene-27", svdlab.Conditions(num_inference_steps=2))
    panel.controls["fps"].value = 2
    assert "Unusual" in panel.unusual.value
    with svdlab.edit(pipe, "denoised", lambda value, step: value * float("nan")):
        assert panel.generate().join(60)
    assert "Could not" in panel.status.value and panel.clips == []


# --- step_through -----------------------------------------------------------------------------------------------------


def test_step_through_shows_the_real_decoders_pictures(pipe: Any, traced: Any) -> None:
    tr, _ = traced
    panel = widgets.step_through(tr, pipe)
    whole = tr.decode(pipe)
    for step, frame in ((0, 4), (2, 0), (2, 7)):
        panel.step.value, panel.frame.value = step, frame
        assert panel.draw.settled()
        assert (decoded(panel.picture.value) == as_bytes(whole[step])[frame]).all()
    assert "sigma" in panel.told.value and panel.sigma.over.value != "" and panel.pressure.over.value != ""
    given = widgets.step_through(tr, decoded=whole)
    given.step.value = 1
    assert (decoded(given.picture.value) == as_bytes(whole[1])[4]).all()


def test_step_through_has_a_view_for_everything_that_was_kept(traced: Any) -> None:
    tr, _ = traced
    panel = widgets.step_through(tr)
    seen = set()
    for what in panel.what.options:
        panel.what.value = what
        for step in (0, 2):
            panel.step.value = step
            seen.add(bytes(panel.picture.value))
    assert len(seen) == 2 * len(panel.what.options) == 8
    with pytest.raises(errors.InputError, match="s f h w 3"):
        widgets.step_through(tr, decoded=np.zeros((1, 8, 64, 64, 3)))


# --- compare ----------------------------------------------------------------------------------------------------------


def test_compare_keeps_clips_in_step_and_overlays_say_what_is_so() -> None:
    """A picture that moves by known pixels against one that stands: flow and difference have known answers."""
    base = np.asarray(svdlab.sample_image("scene-27"), np.float32) / 255
    still = np.stack([base] * 4)
    moving = np.stack([np.roll(base, 2 * t, axis=1) for t in range(4)])
    panel = widgets.compare({"still": still, "moving": moving})
    panel.frame.value = 3
    assert (decoded(panel.pictures[1].value) == as_bytes(moving)[3]).all()
    assert (decoded(panel.pictures[0].value) == as_bytes(still)[3]).all()

    panel.overlay.value = "difference"
    assert panel.draw.settled()
    panel.frame.value = 0
    none = decoded(panel.pictures[1].value)
    assert len(np.unique(none.reshape(-1, 3), axis=0)) == 1  # in frame 0 both are the same
    panel.frame.value = 3
    assert len(np.unique(decoded(panel.pictures[1].value).reshape(-1, 3), axis=0)) > 20

    panel.overlay.value = "flow"
    assert panel.draw.settled()
    fastest = float(np.percentile(np.linalg.norm(motion.flow(moving), axis=-1), 99.5))
    right = show.flow_colours(np.array([[[2.0, 0.0]]], np.float32), max(0.5, fastest))[0, 0] * 255
    middle = decoded(panel.pictures[1].value)[16:48, 16:48].reshape(-1, 3)
    assert np.abs(np.median(middle, axis=0) - right).max() < 30  # the colour of "two pixels to the right"


def test_compare_waits_for_the_longest_and_refuses_unequal_sizes() -> None:
    short, long = (
        np.zeros((3, 32, 32, 3), np.uint8),
        np.arange(6, dtype=np.uint8)[:, None, None, None] * np.ones((1, 32, 32, 3), np.uint8),
    )
    panel = widgets.compare([short, long], labels=["a", "b"])
    panel.frame.value = 5
    assert (decoded(panel.pictures[0].value) == short[2]).all() and (decoded(panel.pictures[1].value) == long[5]).all()
    with pytest.raises(errors.InputError, match="one size"):
        widgets.compare([short, np.zeros((3, 48, 32, 3), np.uint8)])


def test_labels_cannot_smuggle_markup(results: pd.DataFrame) -> None:
    panel = widgets.compare({"<img src=x onerror=alert(1)>": np.zeros((2, 32, 32, 3), np.uint8)})
    text = json.dumps([w.value for row in panel.children for w in _htmls(row)])
    assert "<img" not in text and "&lt;img" in text


def _htmls(widget: Any) -> list[Any]:
    from ipywidgets import HTML

    inner = [h for child in getattr(widget, "children", ()) for h in _htmls(child)]
    return [widget, *inner] if isinstance(widget, HTML) else inner


# --- verdicts ---------------------------------------------------------------------------------------------------------


def test_verdicts_open_to_the_probes_own_figure(tmp_path: Path) -> None:
    from svdlab.probes.base import Panel, ProbeResult

    table = pd.DataFrame({"bucket": [1, 2, 3], "share": [0.1, 0.5, 0.9]})
    found = ProbeResult(
        "stillness", "may not move", "How often <b>nothing</b> moves?", "done", "Found.",
        panels=(Panel("Share that is still", table, "bucket", "share"),),
    )  # fmt: skip
    panel = widgets.verdicts({"stillness": found, "other": found}, out=tmp_path)
    assert panel.lines.titles[0] == "stillness · done · Found." and "<b>nothing</b>" not in panel.told[0].value
    assert not panel.pictures[1].value
    panel.lines.selected_index = 1
    assert panel.draw.settled() and decoded(panel.pictures[1].value).std() > 5 and not panel.pictures[0].value
    assert {p.suffix for p in panel.export()} == {".png", ".svg"} | ({".csv"} if found.figure().data is not None else set())
    with pytest.raises(errors.InputError, match="run_all"):
        widgets.verdicts([])
