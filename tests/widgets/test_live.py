"""widgets.live: makes what generate makes, shows the estimate, stops when asked, keeps a plan."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import svdlab
from svdlab import errors, widgets
from svdlab.measure.video import as_bytes, read_frames


def test_live_makes_what_generate_makes_and_keeps_a_plan(pipe: Any, tmp_path: Path) -> None:
    panel = widgets.live(pipe, "scene-27", svdlab.Conditions(num_inference_steps=2), seed=5, out=tmp_path)
    assert panel.to_plan().empty
    given = bytes(panel.preview.value)
    panel.generate()
    assert panel.job.join(60)
    panel.controls["motion_bucket_id"].value = 9
    panel.job.go.click()
    assert panel.job.join(60)
    want = svdlab.generate(pipe, "scene-27", seed=5, num_inference_steps=2, motion_bucket_id=9)
    assert (list(panel.clips.values())[1].frames == want.frames).all() and bytes(panel.preview.value) != given
    assert panel.job.bar.value == 2 and "made in" in panel.job.status.value

    plan = panel.to_plan()
    assert plan["motion_bucket_id"].tolist() == [127, 9] and set(plan["image"]) == {"scene-27"}
    table = svdlab.sweep(pipe, plan, tmp_path / "study", measure=(), batch_size=1, progress=False)
    made = read_frames(table["frames"].iloc[1]).astype(int)
    assert np.abs(made - as_bytes(want.frames)).max() <= 1
    panel.compare()
    assert len(panel.comparing.children[0].videos) == 2


def test_live_shows_an_estimate_that_sharpens(pipe: Any, decoded: Any) -> None:
    panel = widgets.live(pipe, "scene-27", svdlab.Conditions(num_inference_steps=4, motion_bucket_id=100, fps=6))
    seen: list[np.ndarray] = []
    panel.preview.observe(lambda change: seen.append(decoded(change["new"])), "value")
    panel.generate()
    assert panel.job.join(60)
    *estimates, final = seen
    assert len(estimates) == 4
    small = np.asarray(Image.fromarray(final).resize(estimates[0].shape[1::-1], Image.Resampling.BOX), float)
    likeness = [float(np.corrcoef(e.ravel(), small.ravel())[0, 1]) for e in estimates]
    assert likeness[-1] > likeness[0]  # where things move is undecided at the start


def test_cancel_stops_before_the_next_step_and_leaves_the_pipeline_as_it_was(pipe: Any) -> None:
    before = svdlab.generate(pipe, "scene-3", num_inference_steps=2).frames
    panel = widgets.live(pipe, "scene-27", svdlab.Conditions(num_inference_steps=40))
    seen: list[int] = []
    reached = threading.Event()
    panel.job.bar.observe(lambda change: (seen.append(change["new"]), change["new"] >= 2 and reached.set()), "value")
    panel.generate()
    assert reached.wait(60)
    panel.job.halt.click()
    at = max(seen)
    assert panel.job.join(30) and max(seen) <= at + 1 and not panel.clips
    assert f"stopped after {max(seen)} steps" in panel.job.status.value
    assert not pipe.unet._forward_hooks and not pipe.unet._forward_pre_hooks
    assert (svdlab.generate(pipe, "scene-3", num_inference_steps=2).frames == before).all()


def test_a_panel_that_is_closed_gives_up_its_clip(pipe: Any) -> None:
    panel = widgets.live(pipe, "scene-27", svdlab.Conditions(num_inference_steps=1000))
    panel.generate()
    panel.close()
    assert panel.job.join(30) and not panel.clips and "stopped after" in panel.job.status.value
    with pytest.MonkeyPatch.context() as patch, pytest.raises(errors.InputError):
        patch.setattr("sys.unraisablehook", lambda said: pytest.fail(str(said.exc_value)))
        widgets.live(pipe, "no-such-image.png")  # never whole, and closed all the same


def test_live_offers_its_images_and_the_samples(pipe: Any, tmp_path: Path) -> None:
    """Case G8."""
    for name in ("b.png", "a.png"):
        svdlab.sample_image("scene-3").save(tmp_path / name)
    assert [label for label, _ in widgets.live(pipe, tmp_path).image.options[:3]] == ["a.png", "b.png", "scene-3"]
    panel = widgets.live(pipe, [svdlab.sample_image("scene-1"), "scene-27"], svdlab.Conditions(num_inference_steps=1))
    labels = [label for label, _ in panel.image.options]
    assert labels[:3] == ["image 0", "scene-27", "scene-3"] and labels.count("scene-27") == 1
    for place, shown in ((0, bytes(panel.preview.value)), (1, b"")):
        panel.image.value = place
        panel.generate()
        assert panel.job.join(60) and bytes(panel.preview.value) != shown
    want = svdlab.generate(pipe, "scene-27", num_inference_steps=1)
    assert (list(panel.clips.values())[1].frames == want.frames).all()
    assert panel.to_plan()["image"].isna().tolist() == [True, False] and panel.to_plan()["image"][1] == "scene-27"
    with pytest.raises(errors.InputError):
        widgets.live(pipe, [])


def test_an_image_without_a_name_is_no_column_of_the_plan(pipe: Any) -> None:
    panel = widgets.live(pipe, svdlab.sample_image("scene-27"), svdlab.Conditions(num_inference_steps=1))
    panel.generate()
    with pytest.raises(errors.InputError, match="being made"):
        panel.generate()
    assert panel.job.join(60) and panel.to_plan()["seed"].tolist() == [0] and "image" not in panel.to_plan()


def test_live_reports_what_goes_wrong(pipe: Any) -> None:
    with pytest.raises(errors.InputError):
        widgets.live(pipe, "no-such-image.png")
    with pytest.raises(errors.InputError, match="load_pipeline"):
        widgets.live("pipe", "scene-27")  # type: ignore[arg-type]
    panel = widgets.live(pipe, "scene-27", svdlab.Conditions(num_inference_steps=2))
    panel.controls["fps"].value = 2
    assert "Unusual" in panel.unusual.value
    with svdlab.edit(pipe, "denoised", lambda value, step: value * float("nan")):  # acts on the job's thread, too
        panel.generate()
        assert panel.job.join(60)
    assert "Could not" in panel.job.status.value and not panel.clips
