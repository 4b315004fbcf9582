"""Figures show what they are given, pixel by pixel and number by number, say where it comes from, and touch nothing else."""

from __future__ import annotations

import copy
import io
import json
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from IPython.core.formatters import DisplayFormatter
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from skimage.color import rgb2lab

import svdlab
from svdlab import show
from svdlab.errors import InputError, OutputError, TraceError
from svdlab.measure import motion, video
from svdlab.organism import world
from svdlab.pipeline.conditions import Conditions
from svdlab.pipeline.generate import Call, Clip, ProbePipeline, Source
from svdlab.pipeline.images import image_hash
from svdlab.pipeline.trace import colour, colour_map
from svdlab.show.style import scaled
from svdlab.stats.intervals import mean_interval

NOTE = "model organism, not SVD"


def made_of(frames: np.ndarray, **conditions: Any) -> Clip:
    """A clip with these frames, as if the organism had made them."""
    picture = Image.fromarray((frames[0] * 255).round().astype(np.uint8))
    source = Source(checkpoint="organism", height=frames.shape[1], width=frames.shape[2], label=NOTE)
    call = Call(Conditions(**conditions), 0, image_hash(picture), source)
    return Clip(frames, call, picture, torch.zeros(len(frames), 4, 16, 16))


@pytest.fixture(scope="module")
def pan() -> world.Scenes:
    return world.scenes(1, seed=3, motion="pan", direction="right", background="light", fps=7, motion_bucket_id=127)


@pytest.fixture(scope="module")
def clip(pan: world.Scenes) -> Clip:
    return made_of(pan.video[0], motion_bucket_id=127)


@pytest.fixture(scope="module")
def tr(pipe: Any) -> svdlab.Trace:
    with svdlab.trace(pipe) as tr:
        svdlab.generate(pipe, "scene-27", seed=0, num_inference_steps=4)
    return tr


@pytest.fixture(scope="module")
def results() -> pd.DataFrame:
    """A table as a sweep returns it: three fps, four buckets, five seeds."""
    rng = np.random.default_rng(0)
    fixed = dict(
        checkpoint="organism", label=NOTE, image="scene-27", status="done", max_guidance_scale=1.0, min_guidance_scale=1.0
    )
    return pd.DataFrame(
        dict(fixed, fps=f, motion_bucket_id=b, seed=s, object_px=0.14 * b / f + 0.1 * rng.normal())
        for f in (6, 8, 12)
        for b in (10, 60, 120, 170)
        for s in range(5)
    )


def texts(fig: Figure) -> str:
    return "\n".join(t.get_text() for t in fig.findobj(matplotlib.text.Text))


def pixels(fig: Figure) -> np.ndarray:
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=fig.dpi)
    return np.asarray(Image.open(buffer).convert("RGB"))


def drawn_in(fig: Figure, ax: Any) -> np.ndarray:
    """What the file shows where an axes is."""
    shot = pixels(fig)
    box = ax.get_window_extent()
    x0, x1 = round(box.x0), round(box.x1)
    top, bottom = round(len(shot) - box.y1), round(len(shot) - box.y0)
    return shot[top:bottom, x0:x1]


FIGURES = {
    "filmstrip": lambda clip, tr, results: show.filmstrip(clip, given=True),
    "denoising": lambda clip, tr, results: show.denoising(tr, frame=[0, 4]),
    "latents": lambda clip, tr, results: show.latents(tr, frame=2),
    "pca": lambda clip, tr, results: show.latents(tr, mode="pca", name="denoised"),
    "colours": lambda clip, tr, results: show.latents(tr, mode="colours"),
    "flow": lambda clip, tr, results: show.flow(clip),
    "quiver": lambda clip, tr, results: show.quiver(clip, pair=2),
    "trajectories": lambda clip, tr, results: show.trajectories(clip),
    "xt_slice": lambda clip, tr, results: show.xt_slice(clip, row=20),
    "stepwise": lambda clip, tr, results: show.stepwise(clip),
    "camera_path": lambda clip, tr, results: show.camera_path(clip),
    "dose_response": lambda clip, tr, results: show.dose_response(results, x="motion_bucket_id", y="object_px", by="fps"),
    "sheet": lambda clip, tr, results: show.sheet(
        results[results.seed == 0], rows="motion_bucket_id", columns="fps", note="object_px", clips=[clip] * 12
    ),
}


@pytest.fixture(params=FIGURES)
def figure(request: pytest.FixtureRequest, clip: Clip, tr: svdlab.Trace, results: pd.DataFrame) -> Figure:
    before = dict(matplotlib.rcParams)
    fig = FIGURES[request.param](clip, tr, results)
    assert dict(matplotlib.rcParams) == before
    return fig


# --- every figure ---------------------------------------------------------------------------------------------------


def test_a_figure_says_what_it_shows_and_stands_alone(figure: Figure, tmp_path: Path) -> None:
    assert isinstance(figure, Figure) and plt.get_fignums() == []
    assert NOTE in texts(figure) and "organism" in texts(figure)
    assert isinstance(figure.data, pd.DataFrame) and len(figure.data)

    # Nothing that is written lies outside the picture, and nothing in it is drawn over the title.
    width, height = figure.get_size_inches() * figure.dpi
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    for text in figure.texts:
        box = text.get_window_extent(renderer)
        assert box.x0 >= 0 and box.x1 <= width and box.y0 >= 0 and box.y1 <= height, text.get_text()

    written = show.save(figure, tmp_path / "deep" / "figure")
    assert [p.name for p in written] == ["figure.png", "figure.svg", "figure.pdf", "figure.csv"]
    assert len(pd.read_csv(written[3])) == len(figure.data)
    with Image.open(written[0]) as picture:
        assert NOTE in picture.info["Description"]
        said = picture.getxmp()["xmpmeta"]["RDF"]["Description"]
    kind = "compositeWithTrainedAlgorithmicMedia" if any(ax.images for ax in figure.axes) else "dataDrivenMedia"
    assert said["DigitalSourceType"].endswith(f"/digitalsourcetype/{kind}") and said["AISystemUsed"] == "organism"
    assert ElementTree.parse(written[1]).getroot().tag.endswith("svg") and written[2].read_bytes()[:5] == b"%PDF-"


def test_a_notebook_shows_a_figure_whatever_its_backend(clip: Clip) -> None:
    bundle, metadata = DisplayFormatter().format(show.filmstrip(clip, title="A title"))
    assert bundle["image/png"] and metadata["image/png"]["alt"] == "A title"


def test_saving_is_the_same_each_time_and_whole_or_not_at_all(clip: Clip, tmp_path: Path) -> None:
    first, second = (show.save(show.filmstrip(clip), tmp_path / name) for name in ("a", "b"))
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]
    assert not list(tmp_path.glob("*.part"))
    with pytest.raises(InputError, match=r"jpg.*png, svg, pdf, csv"):
        show.save(show.filmstrip(clip), tmp_path / "c", formats=("jpg",))
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="could not be written"):
        show.save(show.filmstrip(clip), tmp_path / "file" / "c")


# --- pictures -------------------------------------------------------------------------------------------------------


def test_small_pictures_grow_by_whole_factors_unsmoothed(clip: Clip) -> None:
    fig = show.filmstrip(clip, frames=[0, 7])
    shown = drawn_in(fig, fig.axes[1])
    factor = shown.shape[0] / 64
    assert factor == int(factor) >= 2
    assert np.abs(shown - scaled(clip.frames[7], shown.shape[:2]) * 255.0).max() <= 1


def test_large_pictures_shrink_to_fit() -> None:
    frames = np.linspace(0, 1, 3 * 576 * 1024 * 3, dtype=np.float32).reshape(3, 576, 1024, 3)
    fig = show.filmstrip(frames)
    shape = drawn_in(fig, fig.axes[0]).shape
    assert shape[1] < 400 and abs(shape[0] / shape[1] - 576 / 1024) < 0.01


def test_a_strip_begins_with_the_given_picture(clip: Clip) -> None:
    red = replace(clip, image=Image.new("RGB", (64, 64), "red"))
    fig = show.filmstrip({"a": red, "b": red}, given=True, frames=[3])
    assert (drawn_in(fig, fig.axes[0]) == (255, 0, 0)).all()
    assert "given" in texts(fig) and "a" in texts(fig)
    with pytest.raises(InputError, match="Clips"):
        show.filmstrip(clip.frames, given=True)


def test_a_sheet_orders_by_number_and_says_what_is_missing(results: pd.DataFrame, clip: Clip) -> None:
    one = results[results.seed == 0].sample(frac=1, random_state=1)
    films = [np.full((2, 32, 32, 3), b / 255, np.float32) for b in one.motion_bucket_id]
    gone = (one.motion_bucket_id == 60) & (one.fps == 6)
    keep = ~gone.to_numpy()
    fig = show.sheet(
        one[keep], rows="motion_bucket_id", columns="fps", clips=[f for f, k in zip(films, keep, strict=True) if k]
    )
    shades = [[int(drawn_in(fig, fig.axes[r * 3 + c]).mean()) for c in range(3)] for r in range(4)]
    assert shades[0] == [10] * 3 and shades[1][1:] == [60] * 2 and shades[2] == [120] * 3 and shades[3] == [170] * 3
    assert texts(fig).count("not run") == 1

    unknown = show.sheet(one.assign(object_px=np.nan), rows="motion_bucket_id", columns="fps", note="object_px", clips=films)
    assert texts(unknown).count("cannot tell") == 12
    with pytest.raises(InputError, match=r"no column 'speed'.*object_px"):
        show.sheet(one, rows="speed", columns="fps", clips=films)
    with pytest.raises(InputError, match="no rows"):
        show.sheet(one[:0], rows="motion_bucket_id", columns="fps", clips=[])
    with pytest.raises(InputError, match="frame 9"):
        show.sheet(one, rows="motion_bucket_id", columns="fps", clips=films, frame=9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: show.filmstrip([]), "at least one"),
        (lambda c: show.filmstrip(c, frames=[8]), "frames 0 to 7"),
        (lambda c: show.filmstrip([c, c.frames[:, :32]]), "one size"),
        (lambda c: show.filmstrip([c, c], labels=["one"]), "1 labels for 2"),
        (lambda c: show.video([c, c.frames[:, :32]]), "one size"),
        (lambda c: show.video(c, fps=0), "more than 0"),
        (lambda c: show.flow(c, pairs=[7]), "frame pairs 0"),
        (lambda c: show.flow(np.full((2, 32, 32, 2), np.nan)), "NaN"),
        (lambda c: show.quiver(c, pair=-1), "frame pairs 0"),
        (lambda c: show.trajectories(c, points=[(64, 3)]), "x from 0 to 63"),
        (lambda c: show.xt_slice(c, row=64), "64"),
        (lambda c: show.stepwise(pd.DataFrame({"pair": [0]})), "lacks"),
    ],
)
def test_bad_input_says_what_is_allowed(call: Any, message: str, clip: Clip) -> None:
    with pytest.raises(InputError, match=message):
        call(clip)


# --- films ----------------------------------------------------------------------------------------------------------


def test_a_film_plays_in_browsers_under_its_label(clip: Clip, tmp_path: Path) -> None:
    film = show.video({"seven": clip, "three": clip.frames[:3]}, fps=5)
    path = film.save(tmp_path / "film.mp4")
    reader = imageio_ffmpeg.read_frames(path)
    facts = next(reader)
    assert facts["codec"] == "h264" and facts["pix_fmt"].startswith("yuv420p") and facts["fps"] == 5
    assert facts["size"][0] % 2 == facts["size"][1] % 2 == 0
    assert len(list(reader)) == 8

    assert (film.frames[2:, :, -200:] == film.frames[2, :, -200:]).mean() > 0.99  # the shorter one waits on its last frame
    top = film.frames[0, :20]
    assert (top < 128).any() and (film.frames[:, :20] == top).all()  # a label, and it stays

    said = video.read_tags(path)  # by ffmpeg
    assert (
        said["source"]["checkpoint"] == "organism"
        and said["source"]["label"] == NOTE
        and "digitalsourcetype" in said["DigitalSourceType"]
    )
    assert json.loads((tmp_path / "film.mp4.json").read_text()) == said and len(list(tmp_path.iterdir())) == 2
    real = show.video(clip.frames, fps=5).save(tmp_path / "real.mp4")  # frames that nobody said a model made
    assert video.read_tags(real) == {} and not real.with_name("real.mp4.json").exists()

    html = DisplayFormatter().format(film)[0]["text/html"]
    assert all(word in html for word in ("<video", " loop", " autoplay", " muted", 'aria-label="seven; three"'))
    assert DisplayFormatter().format(film)[0]["image/png"]


def test_a_film_takes_its_rate_from_the_clip(clip: Clip) -> None:
    assert show.video(clip).fps == 7
    assert show.video(replace(clip, call=replace(clip.call, conditions=Conditions(playback_fps=12)))).fps == 12
    assert show.video(clip.frames).fps == 7
    assert show.video(clip, fps=3.5).fps == 3.5


def test_a_film_is_enlarged_unsmoothed(clip: Clip) -> None:
    film = show.video(clip.frames, labels=[""])
    factor = film.frames.shape[2] // 64
    assert factor >= 4
    assert (film.frames[5][: 64 * factor, : 64 * factor][::factor, ::factor] == (clip.frames[5] * 255).round()).all()


# --- traces ---------------------------------------------------------------------------------------------------------


def test_columns_are_titled_by_sigma(tr: svdlab.Trace) -> None:
    fig = show.denoising(tr, frame=4, steps=[0, 3])
    assert "700" in texts(fig) and "0.002" in texts(fig) and "sigma" in texts(fig)
    assert fig.data["sigma"].tolist() == tr.sigmas[[0, 3]].tolist()
    shown = drawn_in(fig, fig.axes[1])
    expected = scaled(colour(tr.denoised[3, 4], tr.colours), shown.shape[:2])
    assert np.abs(shown - expected * 255.0).max() <= 1


def test_decoded_pictures_are_shown_as_given(tr: svdlab.Trace) -> None:
    pictures = np.random.default_rng(0).random((2, 1, 64, 64, 3), dtype=np.float32)
    fig = show.denoising(tr, frame=4, steps=[0, 3], decoded=pictures)
    shown = drawn_in(fig, fig.axes[1])
    assert np.abs(shown - scaled(pictures[1, 0], shown.shape[:2]) * 255.0).max() <= 1
    with pytest.raises(InputError, match=r"tr\.decode\(pipe, steps=\[0, 3\], frames=\[4\]\)"):
        show.denoising(tr, frame=4, steps=[0, 3], decoded=pictures[:1])


def test_a_trace_without_colours_is_shown_by_components(tr: svdlab.Trace) -> None:
    fig = show.denoising(replace(tr, colours=None))
    assert "principal components" in texts(fig)


def test_channels_share_a_scale_centred_at_zero(tr: svdlab.Trace) -> None:
    fig = show.latents(tr, frame=1, steps=[0, 2])
    maps = [ax.images[0] for ax in fig.axes[:8]]
    limits = {m.get_clim() for m in maps}
    assert len(limits) == 1 and sum(limits.pop()) == 0
    # Pure noise at the first step, in the UNet's own units: unit spread.
    assert 0.85 < fig.data[fig.data.step == 0].sd.mean() < 1.15


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda t: show.denoising(t, frame=8), InputError, "frames 0 to 7"),
        (lambda t: show.denoising(t, steps=[4]), InputError, "steps 0 to 3"),
        (lambda t: show.denoising(t, steps=[]), InputError, "step"),
        (lambda t: show.latents(t, mode="heat"), InputError, "channels, pca, colours"),
        (lambda t: show.latents(t, name="cond"), TraceError, "cond"),
        (lambda t: show.denoising(replace(t, batch=2)), TraceError, r"tr\[0\]"),
        (lambda t: show.denoising(svdlab.Trace()), TraceError, "empty"),
    ],
)
def test_what_a_trace_lacks_is_said(call: Any, error: type, message: str, tr: svdlab.Trace) -> None:
    with pytest.raises(error, match=message):
        call(tr)


def test_a_checkpoint_has_one_map_that_shows_its_pictures(pipe: Any, tr: svdlab.Trace) -> None:
    assert np.array_equal(tr.colours, colour_map(pipe))

    scenes = world.scenes(4, seed=11).video[:, 0]
    x = torch.from_numpy(scenes).permute(0, 3, 1, 2) * 2 - 1
    with torch.no_grad():
        z = pipe.vae.encode(x).latent_dist.mode() * pipe.vae.config.scaling_factor
    seen = colour(z, tr.colours)
    small = np.stack(
        [np.asarray(Image.fromarray((s * 255).astype(np.uint8)).resize((16, 16), Image.Resampling.BOX)) / 255 for s in scenes]
    )
    assert np.corrcoef(seen.ravel(), small.ravel())[0, 1] > 0.8


def test_in_half_precision_the_map_is_the_same_and_the_weights_stay_as_they_are(pipe: Any) -> None:
    own = ProbePipeline(**copy.deepcopy(pipe.components)).to(torch.bfloat16)
    own.source = pipe.source
    before = {name: value.clone() for name, value in own.vae.state_dict().items()}
    found = colour_map(own)
    assert own.vae.dtype == torch.bfloat16
    assert all(torch.equal(value, before[name]) for name, value in own.vae.state_dict().items())
    np.testing.assert_allclose(found, colour_map(pipe), atol=0.02)


# --- curves ---------------------------------------------------------------------------------------------------------


def test_a_curve_is_mean_and_interval_over_seeds(results: pd.DataFrame) -> None:
    fig = show.dose_response(results, x="motion_bucket_id", y="object_px", by="fps")
    assert len(fig.data) == 12 and [ax.get_title("left") for ax in fig.axes] == ["fps 6", "fps 8", "fps 12"]
    here = results[(results.fps == 8) & (results.motion_bucket_id == 120)].object_px
    row = fig.data[(fig.data.fps == 8) & (fig.data.motion_bucket_id == 120)].iloc[0]
    expected = mean_interval(here.to_numpy())
    assert (row.object_px_mean, row.low, row.high, row.runs) == pytest.approx((here.mean(), expected.low, expected.high, 5))
    assert fig.axes[0].get_ylabel() == "subject speed (px per frame)"


def test_images_not_runs_are_the_units_where_there_are_several(results: pd.DataFrame) -> None:
    one = results[(results.fps == 8)]
    several = pd.concat([one.assign(image=f"scene-{i}", object_px=one.object_px + i) for i in range(4)])
    fig = show.dose_response(several, x="motion_bucket_id", y="object_px")
    here = several[several.motion_bucket_id == 60].groupby("image").object_px.mean()
    expected = mean_interval(here.to_numpy())
    row = fig.data[fig.data.motion_bucket_id == 60].iloc[0]
    assert (row.low, row.high) == pytest.approx((expected.low, expected.high))
    assert "over images" in texts(fig)


def test_a_curve_can_go_onto_the_users_axes(results: pd.DataFrame) -> None:
    own = Figure()
    axes = own.subplots(1, 2)
    returned = show.dose_response(results[results.fps == 8], x="motion_bucket_id", y="object_px", ax=axes[1])
    assert returned is own and not axes[0].lines and axes[1].lines and NOTE in texts(own)
    show.stepwise(np.zeros((3, 32, 32, 3), np.float32), ax=axes[0])
    with pytest.raises(InputError, match="by="):
        show.dose_response(results, x="motion_bucket_id", y="object_px", by="fps", ax=axes[1])
    with pytest.raises(InputError, match="Axes"):
        show.dose_response(results, x="motion_bucket_id", y="object_px", ax=own)


def test_what_is_no_number_is_counted_not_drawn(results: pd.DataFrame) -> None:
    holed = results[results.fps == 8].reset_index(drop=True)
    holed.loc[[0, 7], "object_px"] = np.nan
    fig = show.dose_response(holed, x="motion_bucket_id", y="object_px")
    assert fig.data.runs.tolist() == [4, 4, 5, 5] and "2 runs without a number left out" in texts(fig).replace("\n", " ")
    with pytest.raises(InputError, match="no number in 20 rows"):
        show.dose_response(holed.assign(object_px=np.nan), x="motion_bucket_id", y="object_px")
    with pytest.raises(InputError, match="no column 'speed'"):
        show.dose_response(holed, x="motion_bucket_id", y="speed")


def test_names_stand_side_by_side(results: pd.DataFrame) -> None:
    named = results[results.fps == 8].assign(guidance_curve=lambda t: t.motion_bucket_id.map(lambda b: f"curve {b}"))
    fig = show.dose_response(named, x="guidance_curve", y="object_px")
    assert [t.get_text() for t in fig.axes[0].get_xticklabels()] == ["curve 10", "curve 120", "curve 170", "curve 60"]


# --- motion ---------------------------------------------------------------------------------------------------------


def test_flow_colours_are_pale_when_slow_and_darker_with_speed_in_every_direction() -> None:
    angle = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    rim = np.stack([np.cos(angle), np.sin(angle)], -1)
    lightness = [rgb2lab(show.flow_colours(rim * s, 1.0)[None])[0, :, 0] for s in (0, 0.5, 1)]
    assert (lightness[0] > 95).all() and (lightness[1] < lightness[0] - 8).all() and (lightness[2] < lightness[1] - 8).all()
    assert np.ptp(lightness[2]) < 6  # no direction stands out in a grey print
    colours_at_rim = show.flow_colours(rim, 1.0)
    apart = np.abs(colours_at_rim[:, None] - colours_at_rim[None]).sum(-1) + np.eye(16)
    assert apart.min() > 0.05
    np.testing.assert_allclose(show.flow_colours(rim * 7, 1.0), colours_at_rim)  # faster than the rim is drawn as the rim


def test_a_known_flow_is_drawn_in_its_keys_colour() -> None:
    field = np.zeros((1, 64, 64, 2), np.float32)
    field[..., 1] = -2.0  # upwards
    fig = show.flow(field, fastest=2.0)
    ours = drawn_in(fig, fig.axes[0])
    expected = (show.flow_colours(np.array([0.0, -1.0]), 1.0) * 255).round()
    assert (np.abs(ours - expected).max(-1) <= 1).mean() > 0.5  # the rest is arrows
    assert "rim: 2 px" in texts(fig)


def test_graphs_of_a_known_pan(pan: world.Scenes, clip: Clip) -> None:
    speed = pan.factors.displacement.iloc[0]
    path = show.camera_path(clip).data
    assert path.pan_px.iloc[-1] == pytest.approx(7 * speed, rel=0.1) and abs(path.tilt_px.iloc[-1]) < 1
    table = show.stepwise(clip).data
    assert table.camera_px.mean() == pytest.approx(speed, rel=0.1)

    tracks = show.trajectories(clip, points=[(50, 32), (55, 20)]).data
    moved = tracks.groupby("point").x.agg(lambda x: x.iloc[-1] - x.iloc[0])
    assert moved.tolist() == pytest.approx([-7 * speed] * 2, rel=0.15)  # the picture runs left under a camera that goes right


def test_a_slice_is_the_pictures_own_row(clip: Clip) -> None:
    fig = show.xt_slice(clip, row=20)
    shown = drawn_in(fig, fig.axes[0])
    expected = scaled(motion.xt_slice(clip.frames, row=20), (shown.shape[0], shown.shape[1]))
    assert np.abs(shown - expected * 255.0).max() <= 1


# --- provenance -----------------------------------------------------------------------------------------------------


def test_about_names_what_is_constant_and_what_varies(clip: Clip, results: pd.DataFrame) -> None:
    assert show.about(clip) == (
        "organism · fps 7, motion bucket 127, noise 0.02, guidance 1 to 3, 25 steps · seed 0 · model organism, not SVD"
    )
    assert show.about(results) == (
        "organism · fps 6, 8, 12, motion bucket 10, 60, 120, 170, no guidance · seeds 0 to 4 · model organism, not SVD"
    )
    assert show.about(clip.frames) == ""


def test_about_says_what_was_done_to_the_run(clip: Clip) -> None:
    odd = replace(clip, call=replace(clip.call, edits=("cond", "cond"), start={"flip_noise": True, "sigmas": [700.0, 0.0]}))
    assert show.about(odd).endswith(
        "seed 0 · edited: cond · started from: mirrored noise, other noise levels · model organism, not SVD"
    )
    assert "edited" in show.about([clip, odd]) and "edited" not in show.about(clip)


def test_no_line_is_drawn_between_categories(results: pd.DataFrame) -> None:
    named = results.assign(image=results.fps.map({6: "cat", 8: "coffee", 12: "rocket"}))
    fig = show.dose_response(named, x="image", y="object_px")
    assert [t.get_text() for t in fig.axes[0].get_xticklabels()] == ["cat", "coffee", "rocket"]
    assert not [line for line in fig.axes[0].lines if line.get_linewidth() == 1.8 and line.get_linestyle() == "-"]
    assert fig.data["low"].notna().all() and "over seeds" in fig.footer  # one picture a place: seeds are what varies there
    numbers = show.dose_response(results, x="fps", y="object_px").axes[0].lines
    assert [line for line in numbers if line.get_linewidth() == 1.8 and line.get_linestyle() == "-"]


def test_of_all_that_was_decoded_the_asked_for_is_shown(pipe: Any, tr: svdlab.Trace) -> None:
    films = tr.decode(pipe)
    whole = show.denoising(tr, frame=[0, 4], steps=[0, 3], decoded=films)
    some = show.denoising(tr, frame=[0, 4], steps=[0, 3], decoded=films[[0, 3]][:, [0, 4]])
    assert (pixels(whole) == pixels(some)).all()
    assert len(show.denoising(tr, frame=2, decoded=films, most=2).axes) == 2
    with pytest.raises(InputError, match="decoded has shape"):
        show.denoising(tr, frame=2, decoded=films[:, :3])
