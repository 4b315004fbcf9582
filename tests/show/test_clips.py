"""Videos, strips, sheets and denoisings show what they are given, pixel by pixel, under the labels that belong to it."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from IPython.core.formatters import DisplayFormatter
from PIL import Image

import svdlab
from svdlab import show
from svdlab.errors import InputError, TraceError
from svdlab.measure import video
from svdlab.show.clips import as_colours
from svdlab.show.figure import scaled
from tests.show.conftest import NOTE, drawn_in, nothing_cut, overlapping, pixels, texts


def test_small_images_grow_by_whole_factors_unsmoothed(clip: Any) -> None:
    fig = show.filmstrip(clip, frames=[0, 7])
    shown = drawn_in(fig, fig.axes[1])
    factor = shown.shape[0] / 64
    assert factor == int(factor) >= 2
    assert np.abs(shown - scaled(clip.frames[7], shown.shape[:2]) * 255.0).max() <= 1
    assert fig.data.frame.tolist() == [0, 7] and fig.data.red[1] == pytest.approx(clip.frames[7, ..., 0].mean(), abs=1e-4)


def test_a_strip_begins_with_the_input_image(clip: Any) -> None:
    red = replace(clip, image=Image.new("RGB", (64, 64), "red"))
    fig = show.filmstrip({"a": red, "b": red}, given=True, frames=[3])
    assert (drawn_in(fig, fig.axes[0]) == (255, 0, 0)).all()
    assert {"input", "frame 3", "a", "b"} <= set(texts(fig).split("\n"))
    with pytest.raises(InputError, match="Clips"):
        show.filmstrip(clip.frames, given=True)


def test_a_sheet_orders_by_number_and_marks_what_is_missing(results: pd.DataFrame) -> None:
    one = results[results.seed == 0].sample(frac=1, random_state=1)
    clips = [np.full((2, 32, 32, 3), b / 255, np.float32) for b in one.motion_bucket_id]
    keep = ~((one.motion_bucket_id == 60) & (one.fps == 6)).to_numpy()
    left = [c for c, k in zip(clips, keep, strict=True) if k]
    fig = show.sheet(one[keep], rows="motion_bucket_id", columns="fps", clips=left)
    shades = [[int(drawn_in(fig, fig.axes[r * 3 + c]).mean()) for c in range(3)] for r in range(4)]
    assert shades[0] == [10] * 3 and shades[1][1:] == [60] * 2 and shades[2] == [120] * 3 and shades[3] == [170] * 3
    assert texts(fig).count("not run") == 1
    unknown = show.sheet(one.assign(object_px=np.nan), rows="motion_bucket_id", columns="fps", note="object_px", clips=clips)
    assert texts(unknown).count("no value") == 12
    for wrong in (dict(rows="speed"), dict(frame=9)):
        with pytest.raises(InputError, match=r"speed|frame 9"):
            show.sheet(one, **{**dict(rows="motion_bucket_id", columns="fps", clips=clips), **wrong})


def test_a_sheet_keeps_the_shapes_of_its_clips_and_counts_rows_without_a_place(results: pd.DataFrame) -> None:
    one = results[(results.seed == 0) & (results.motion_bucket_id == 10)].assign(fps=[6.0, 12.0, np.nan])
    wide, square = np.zeros((2, 32, 64, 3), np.float32), np.zeros((2, 64, 64, 3), np.float32)
    fig = show.sheet(one, rows="motion_bucket_id", columns="fps", clips=[wide, square, square])
    assert (drawn_in(fig, fig.axes[0]).mean((1, 2)) < 10).mean() == 0.5 and (drawn_in(fig, fig.axes[1]) == 0).all()
    assert "nan" not in texts(fig) and "1 without fps left out" in fig.footer
    with pytest.raises(InputError, match="no row has a value of both 'motion_bucket_id' and 'fps'"):
        show.sheet(one[2:], rows="motion_bucket_id", columns="fps", clips=[square])


def test_long_names_and_notes_of_a_sheet_stay_apart(results: pd.DataFrame) -> None:
    one = results[(results.seed == 0) & (results.motion_bucket_id == 10)]
    one = one.assign(image=[f"a name of {n} words, as cameras and people write them.png" for n in ("many", "more", "other")])
    clips = [np.zeros((2, 32, 32, 3), np.float32)] * 3
    fig = show.sheet(
        one.assign(reason="what went wrong in this clip, in words"), rows="fps", columns="image", note="reason", clips=clips
    )
    assert nothing_cut(fig) and [pair for pair in overlapping(fig) if "image" not in pair] == []
    above = next(t for t in fig.axes[1].texts if t.get_text() == "image").get_window_extent()
    assert above.y0 > max(t.get_window_extent().y1 for t in [fig.axes[1].title]) - 16  # in the line that is left free


def test_a_sheet_reads_the_clips_of_a_sweep(results: pd.DataFrame, tmp_path: Path) -> None:
    two = results[(results.seed == 0) & (results.motion_bucket_id == 10)][:2].assign(status=["done", "failed"])
    video.write_frames(tmp_path / "frames.mkv", np.full((3, 32, 32, 3), 90, np.uint8))
    fig = show.sheet(two.assign(frames=[str(tmp_path / "frames.mkv"), ""]), rows="seed", columns="fps")
    assert (drawn_in(fig, fig.axes[0]) == 90).all() and "failed" in texts(fig)
    rows = two.assign(frames=str(tmp_path / "frames.mkv"))
    strip = show.filmstrip(rows)  # a row for each run, under its conditions
    assert len(strip.axes) == 6 and {"fps 6", "fps 8"} <= set(texts(strip).split("\n"))  # and nothing that is the same
    with pytest.raises(InputError, match="none of the 2 runs has frames: their status is done, failed"):
        show.sheet(two.assign(frames=""), rows="seed", columns="fps")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: show.filmstrip([]), "at least one"),
        (lambda c: show.filmstrip(c, frames=[8]), "frames 0 to 7"),
        (lambda c: show.filmstrip([c, c.frames[:, :32]]), "one size"),
        (lambda c: show.filmstrip([c, c], labels=["one"]), "1 labels for 2"),
        (lambda c: show.video(c, fps=-1), "fps"),
    ],
)
def test_bad_input_is_named(call: Any, message: str, clip: Any) -> None:
    with pytest.raises(InputError, match=message):
        call(clip)


def test_a_video_plays_in_browsers_under_its_labels(clip: Any, tmp_path: Path) -> None:
    made = show.video({"seven": clip, "three": clip.frames[:3]}, fps=5)
    read = video.read_frames(made.save(tmp_path / "video.mp4"))
    assert read.shape == made.frames.shape and read.shape[1] % 2 == read.shape[2] % 2 == 0
    assert np.abs(read.astype(float) - made.frames).mean() < 2
    half = made.frames.shape[2] // 2
    assert (made.frames[2:, :, half:] == made.frames[2, :, half:]).all()  # the shorter one waits on its last frame
    assert (made.frames[0, :20] < 128).any() and (made.frames[:, :20] == made.frames[0, :20]).all()  # a label, and it stays

    facts = video.read_tags(tmp_path / "video.mp4")
    assert facts["source"]["checkpoint"] == "organism" and facts["source"]["label"] == NOTE
    assert facts["DigitalSourceType"].endswith("/compositeWithTrainedAlgorithmicMedia")
    assert json.loads((tmp_path / "video.mp4.json").read_text()) == facts and len(list(tmp_path.iterdir())) == 2
    real = show.video(clip.frames, fps=5).save(tmp_path / "real.mp4")  # frames that nobody said a model made
    assert video.read_tags(real) == {} and not real.with_name("real.mp4.json").exists()

    bundle = DisplayFormatter().format(made)[0]
    assert all(word in bundle["text/html"] for word in ("<video", " loop", " autoplay", " muted", 'aria-label="seven; three"'))
    assert bundle["image/png"]


def test_a_video_takes_its_rate_from_the_clip(clip: Any) -> None:
    assert show.video(clip).fps == 7
    twelve = SimpleNamespace(frames=clip.frames, playback_fps=12)
    assert show.video(twelve).fps == 12 and show.video(clip.frames).fps == 7 and show.video(clip, fps=3.5).fps == 3.5


def test_a_video_is_enlarged_unsmoothed(clip: Any) -> None:
    board = show.video(clip.frames, labels=[""]).frames[5]
    drawn = np.argwhere((board < 255).any(-1))  # the rest is white
    shown = board[slice(drawn[0, 0], drawn[-1, 0] + 1), slice(drawn[:, 1].min(), drawn[:, 1].max() + 1)]
    assert shown.shape == (640, 640, 3)
    assert (shown[::10, ::10] == (clip.frames[5] * 255).round()).all() and (shown[9::10, 9::10] == shown[::10, ::10]).all()


# --- the denoising -----------------------------------------------------------------------------------------------------


def test_columns_are_titled_by_sigma(tr: Any) -> None:
    fig = show.denoising(tr, frame=4, steps=[0, 3])
    assert "700" in texts(fig) and "0.002" in texts(fig) and "sigma" in texts(fig)
    assert fig.data["sigma"].tolist() == tr.sigmas[[0, 3]].tolist()
    shown = drawn_in(fig, fig.axes[1])
    expected = scaled(tr.as_colours(tr.denoised[3, 4]), shown.shape[:2])
    assert np.abs(shown - expected * 255.0).max() <= 1


def test_decoded_images_are_shown_as_given_or_the_chosen_part_of_all(pipe: Any, tr: Any) -> None:
    decoded = tr.decode(pipe)
    whole = show.denoising(tr, frame=[0, 4], steps=[0, 3], decoded=decoded)
    some = show.denoising(tr, frame=[0, 4], steps=[0, 3], decoded=decoded[[0, 3]][:, [0, 4]])
    assert (pixels(whole) == pixels(some)).all()
    shown = drawn_in(some, some.axes[3])
    assert np.abs(shown - scaled(decoded[3, 4], shown.shape[:2]) * 255.0).max() <= 1
    with pytest.raises(InputError, match="decode"):
        show.denoising(tr, frame=4, steps=[0, 3], decoded=decoded[:1])


def test_components_follow_the_directions_of_most_variance() -> None:
    rng = np.random.default_rng(0)
    latents = rng.normal(size=(2, 3, 4, 8, 8)) * np.array([0.1, 5.0, 1.0, 0.01])[:, None, None]
    parts, _ = as_colours(svdlab.Trace(), latents, pca=True)
    assert parts.shape == (2, 3, 8, 8, 3) and parts.min() == 0 and parts.max() == 1
    for i, channel in enumerate((1, 2, 0)):
        assert np.corrcoef(parts[..., i].ravel(), latents[:, :, channel].ravel())[0, 1] > 0.97


def test_channels_share_a_scale_centred_at_zero(tr: Any) -> None:
    fig = show.latents(tr, frame=1, steps=[0, 2])
    limits = {ax.images[0].get_clim() for ax in fig.axes[:8]}
    assert len(limits) == 1 and sum(limits.pop()) == 0
    # Noise at the first step has unit spread in the UNet's own units.
    assert 0.85 < fig.data[fig.data.step == 0].sd.mean() < 1.15


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda t: show.denoising(t, steps=[4]), InputError, "steps 0 to 3"),
        (lambda t: show.latents(t, mode="heat"), InputError, "channels"),
        (lambda t: show.latents(t, name="cond"), TraceError, "cond"),
        (lambda t: show.denoising(replace(t, batch=2)), TraceError, r"tr\[0\]"),
        (lambda t: show.denoising(svdlab.Trace()), TraceError, "empty"),
    ],
)
def test_what_a_trace_lacks_is_named(call: Any, error: type, message: str, tr: Any) -> None:
    with pytest.raises(error, match=message):
        call(tr)
