"""What all figures share: layout at every width, images at whole pixels, footer and file that name the source."""

import inspect
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from IPython.core.formatters import DisplayFormatter
from PIL import Image

from svdlab import show
from svdlab.errors import InputError, OutputError
from svdlab.measure import video
from svdlab.show.figure import Figure, draw, fitted, graphs, images, save, scaled
from svdlab.show.labels import about, axis, caption, captions, name, number, sources
from svdlab.stats.effects import mean
from tests.show.conftest import NOTE, nothing_cut, overlapping, texts

MADE = SimpleNamespace(checkpoint="owner/svd", label=NOTE, licence="a licence")
LONG = "subject speed in every one of the four background conditions, at three frame rates and all five motion buckets"
SHEET = dict(rows="motion_bucket_id", columns="fps", note="object_px")
ORIGIN = dict(checkpoint="organism", label=NOTE, licence="Apache-2.0")
FIGURES: dict[str, Any] = {  # of clip, trace, table
    "attention": lambda c, tr, t: show.attention(tr),
    "camera_path": lambda c, tr, t: show.camera_path(c),
    "denoising": lambda c, tr, t: show.denoising(tr, frame=[0, 4]),
    "dose_response": lambda c, tr, t: show.dose_response(t, x="motion_bucket_id", y="object_px", by="fps"),
    "failures": lambda c, tr, t: show.failures(t[:4].assign(frames=[c.frames] * 4, drift_colour_last=[0.1, 0.2, 0.3, np.nan])),
    "filmstrip": lambda c, tr, t: show.filmstrip(c, given=True),
    "flow": lambda c, tr, t: show.flow(c),
    "forest": lambda c, tr, t: show.forest([mean("speed", "speed", t, "object_px", unit="px/frame")], of=t),
    "heat": lambda c, tr, t: show.heat(pd.DataFrame(np.eye(3)), tr, title="A table", key="share"),
    "lock_in": lambda c, tr, t: show.lock_in(
        pd.DataFrame({"seed": [0, 0, 1, 1], "sigma": [700.0, 0.1] * 2, "motion": [0.1, 1, 0.2, 1], "image": 1.0}).assign(
            **ORIGIN
        )
    ),
    "latents": lambda c, tr, t: show.latents(tr, frame=2),
    "sheet": lambda c, tr, t: show.sheet(t[t.seed == 0], **SHEET, clips=[c] * 12),
    "stepwise": lambda c, tr, t: show.stepwise(c),
    "trajectories": lambda c, tr, t: show.trajectories(c),
    "xt_slice": lambda c, tr, t: show.xt_slice(c, row=20),
}


def test_no_figure_is_left_out() -> None:
    functions = {name for name in show.__all__ if inspect.isfunction(getattr(show, name))}
    assert set(FIGURES) == functions - {"about", "block", "flow_colours", "for_paper", "save", "video"}


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_names_its_source_in_its_footer_and_its_file(
    name: str, clip: Any, tr: Any, results: pd.DataFrame, tmp_path: Path
) -> None:
    fig = FIGURES[name](clip, tr, results)
    assert isinstance(fig, Figure) and nothing_cut(fig)
    assert NOTE in " ".join(texts(fig).split()) and "organism" in fig.footer
    assert save(fig, tmp_path / "figure") is fig
    assert {path.name for path in tmp_path.iterdir()} == {"figure.png", "figure.pdf", "figure.csv"}
    assert len(pd.read_csv(tmp_path / "figure.csv")) == len(fig.data) > 0
    facts = video.read_tags(tmp_path / "figure.png")
    kind = "compositeWithTrainedAlgorithmicMedia" if any(ax.images for ax in fig.axes) else "dataDrivenMedia"
    assert facts["DigitalSourceType"].endswith(kind)
    assert facts["source"]["checkpoint"] == "organism" and "Apache-2.0" in facts["source"]["licence"]


def graph() -> Figure:
    fig, axes = graphs(columns=2, size=(300, 220), of=MADE, title=LONG)
    for ax in axes.flat:
        ax.plot([0, 1], [3, 1])
        ax.set(xlabel="motion bucket", ylabel="speed (px/frame)")
    return fig.finish(pd.DataFrame({"x": [0, 1], "y": [3, 1]}), "line: camera")


IMAGE = np.random.default_rng(0).random((64, 48, 3))


def strip() -> Figure:
    size = fitted(IMAGE.shape, columns=3)
    labels = dict(row_labels=["first", "a longer label"], column_labels=["0", "1", "2"])
    fig, axes = images(size=size, of=MADE, title=LONG, row_title="clip", column_title="frame", **labels)
    for ax in axes.flat:
        draw(ax, scaled(IMAGE, size))
        ax.set_xlabel("caption")
    axes[0, -1].inset_axes((1.2, 0.2, 0.1, 0.6)).plot([0, 1])
    return fig.finish(pd.DataFrame({"x": [0]}))


@pytest.mark.parametrize("make", [graph, strip])
def test_no_text_is_cut_at_any_width_nor_without_title_and_footer(make: Any, tmp_path: Path) -> None:
    whole = make().get_size_inches()[1]
    for column in (3.3, 7.0):
        with show.for_paper(column, title=True, footer=True):
            fig = make()
        assert nothing_cut(fig) and fig.get_size_inches()[0] == pytest.approx(column)
        assert NOTE in " ".join(texts(fig).split()) and LONG in " ".join(texts(fig).split())
    with show.for_paper(column=3.3):
        fig = save(make(), tmp_path / "narrow")
    assert not {t.get_text() for t in fig.texts} & {LONG, fig.footer} and fig.get_size_inches()[1] < whole
    with Image.open(tmp_path / "narrow.png") as image:
        assert image.width == 660
    assert video.read_tags(tmp_path / "narrow.png")["source"]["checkpoint"] == "owner/svd"  # it still says what made it
    assert make().get_size_inches()[1] == pytest.approx(whole)  # outside the block all is as it was


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_fits_a_journals_column(name: str, clip: Any, tr: Any, results: pd.DataFrame) -> None:
    with show.for_paper(column=3.3):
        fig = FIGURES[name](clip, tr, results)
    assert nothing_cut(fig) and fig.get_size_inches()[0] == pytest.approx(3.3) and fig.get_size_inches()[1] < 9
    assert not overlapping(fig)


@pytest.mark.parametrize(("make", "kind"), [(graph, b"dataDrivenMedia"), (strip, b"compositeWithTrainedAlgorithmicMedia")])
def test_what_the_file_says_is_the_same_each_time(make: Any, kind: bytes, tmp_path: Path) -> None:
    for stem in ("a", "b"):
        save(make(), tmp_path / "deep" / f"{stem}.png")
    for form in ("png", "pdf", "csv"):
        content = (tmp_path / "deep" / f"a.{form}").read_bytes()
        assert content == (tmp_path / "deep" / f"b.{form}").read_bytes()
        assert form == "csv" or all(word in content for word in (kind, b"owner/svd", b"a licence"))
    pdf = (tmp_path / "deep" / "a.pdf").read_bytes()
    assert b"/Type3" not in pdf and b"/FontFile2" in pdf  # fonts are embedded as TrueType
    with pytest.raises(InputError, match=r"jpg.*png, pdf, csv"):
        save(make(), tmp_path / "c", formats=("jpg",))
    with pytest.raises(OutputError, match="png"):
        save(make(), tmp_path / "deep" / "a.png" / "c")


def test_a_figure_stands_alone_and_a_notebook_shows_it() -> None:
    before = dict(matplotlib.rcParams)
    bundle, metadata = DisplayFormatter().format(graph())
    assert bundle["image/png"] and metadata["image/png"]["alt"] == LONG
    assert dict(matplotlib.rcParams) == before and plt.get_fignums() == []


def test_a_measure_has_a_name_and_a_unit() -> None:
    assert axis("object_px") == "subject speed (px/frame)" and axis("camera_px_s") == "camera speed (px/s)"
    assert name("motion_bucket_id") == "motion bucket" and axis("psnr_db") == "psnr (dB)"
    assert [number(v) for v in (0.123456, 700.0, 7, True, "cat")] == ["0.1235", "700", "7", "True", "cat"]


def test_the_footer_gives_what_is_constant_and_the_range_of_what_varies(clip: Any) -> None:
    fixed = dict(checkpoint="some/organism", label=NOTE, licence="Apache-2.0", max_guidance_scale=1.0, min_guidance_scale=1.0)
    table = pd.DataFrame(dict(fixed, fps=f, motion_bucket_id=b, seed=s) for f in (6, 8) for b in (10, 60) for s in range(5))
    assert about(table) == f"organism · fps 6, 8, motion bucket 10, 60, no guidance · seeds 0 to 4 · {NOTE}"
    assert about(table[:1]) == f"organism · fps 6, motion bucket 10, no guidance · seed 0 · {NOTE}"
    assert about(np.zeros((2, 3))) == about() == "" and about([table, NOTE]) == about(table)
    assert sources(table, MADE) == (dict(checkpoint="some/organism", label=NOTE, licence="Apache-2.0"), vars(MADE))
    assert caption(table[:1]) == "fps 6, motion bucket 10, seed 0"
    given = "fps 7, motion bucket 127, noise 0.02, guidance 1 to 3, 4 steps"
    assert about(clip) == f"organism · {given} · seed 0 · {NOTE}"


def test_the_footer_gives_what_was_done_to_a_call() -> None:
    call = dict(conditions={"fps": 7}, seed=0, source={"checkpoint": "organism", "label": NOTE})
    odd = call | dict(edits=["cond", "cond"], start={"flip_noise": True, "sigmas": [700.0, 0.0]}, intervention="silenced")
    edited = SimpleNamespace(call=SimpleNamespace(asdict=lambda: odd))
    done = "edited: cond · intervention: silenced · started from: flip noise, sigmas"
    assert about(edited) == f"organism · fps 7 · seed 0 · {done} · {NOTE}"
    other = odd | dict(edits=[], start={}, intervention=None, sampler={"scheduler": "HeunDiscreteScheduler"})
    other["source"] = odd["source"] | {"lora": "pan.safetensors", "lora_scale": 0.5}
    made = SimpleNamespace(call=SimpleNamespace(asdict=lambda: other))
    assert about(made) == f"organism · LoRA pan.safetensors at 0.5 · fps 7, HeunDiscreteScheduler · seed 0 · {NOTE}"


@pytest.mark.parametrize(
    ("column", "values", "said"),
    [
        ("scheduler", ["EulerDiscreteScheduler", "HeunDiscreteScheduler"], "scheduler HeunDiscreteScheduler"),
        ("lora_scale", [0.0, 0.5], "LoRA strength 0.5"),
        ("num_frames", [14, 25], "num frames 25"),
        ("height", [320, 576], "height 576"),
    ],
)
def test_every_condition_tells_the_runs_of_a_table_apart(column: str, values: list[Any], said: str) -> None:
    assert captions(pd.DataFrame({"fps": 7, "seed": 0, column: values}))[1] == said


def test_characters_that_the_font_lacks_give_no_warning_each(tmp_path: Path) -> None:
    fig = show.heat(np.eye(4), title="日落在水面 by a user", key="z")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        show.save(fig, tmp_path / "sunset")
    assert (tmp_path / "sunset.pdf").stat().st_size > 1000
