"""What all figures share: layout at every width, images at whole pixels, footer and file that name the source."""

from __future__ import annotations

import inspect
import subprocess
import sys
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
from svdlab.show.figure import Figure, draw, fitted, graphs, images, key_beside, save, scaled
from svdlab.show.labels import about, axis, caption, name, number, sources
from svdlab.stats.effects import mean
from tests.show.drawn import NOTE, drawn_in, nothing_cut, texts

MADE = SimpleNamespace(checkpoint="owner/svd", label=NOTE, licence="a licence")
LONG = "subject speed in every one of the four background conditions, at three frame rates and all five motion buckets"


FIGURES: dict[str, Any] = {
    "camera_path": lambda clip, tr, results: show.camera_path(clip),
    "denoising": lambda clip, tr, results: show.denoising(tr, frame=[0, 4]),
    "dose_response": lambda clip, tr, results: show.dose_response(results, x="motion_bucket_id", y="object_px", by="fps"),
    "filmstrip": lambda clip, tr, results: show.filmstrip(clip, given=True),
    "flow": lambda clip, tr, results: show.flow(clip),
    "forest": lambda clip, tr, results: show.forest(
        [mean("speed", "speed", results, "object_px", unit="px/frame")], of=results
    ),
    "heat": lambda clip, tr, results: show.heat(pd.DataFrame(np.eye(3)), tr, title="A table", key="share"),
    "latents": lambda clip, tr, results: show.latents(tr, frame=2),
    "sheet": lambda clip, tr, results: show.sheet(
        results[results.seed == 0], rows="motion_bucket_id", columns="fps", note="object_px", clips=[clip] * 12
    ),
    "stepwise": lambda clip, tr, results: show.stepwise(clip),
    "trajectories": lambda clip, tr, results: show.trajectories(clip),
    "xt_slice": lambda clip, tr, results: show.xt_slice(clip, row=20),
}
NO_FIGURE = {"about", "flow_colours", "save", "video"}
ELSEWHERE = {"probe"}  # has tests of its own


def test_no_figure_is_left_out() -> None:
    functions = {name for name in show.__all__ if inspect.isfunction(getattr(show, name))}
    assert set(FIGURES) == functions - NO_FIGURE - ELSEWHERE


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_names_its_source_in_its_footer_and_its_file(
    name: str, clip: Any, tr: Any, results: pd.DataFrame, tmp_path: Path
) -> None:
    fig = FIGURES[name](clip, tr, results)
    assert isinstance(fig, Figure) and nothing_cut(fig)
    assert NOTE in " ".join(texts(fig).split()) and "organism" in fig.footer
    assert isinstance(fig.data, pd.DataFrame) and len(fig.data)
    assert save(fig, tmp_path / "figure") is fig
    assert {path.name for path in tmp_path.iterdir()} == {"figure.png", "figure.pdf", "figure.csv"}
    assert len(pd.read_csv(tmp_path / "figure.csv")) == len(fig.data)
    facts = video.read_tags(tmp_path / "figure.png")
    kind = "compositeWithTrainedAlgorithmicMedia" if any(ax.images for ax in fig.axes) else "dataDrivenMedia"
    assert facts["DigitalSourceType"].endswith(kind)
    assert facts["source"]["checkpoint"] == "organism" and "Apache-2.0" in facts["source"]["licence"]


def test_figures_need_no_torch() -> None:
    code = "import sys, svdlab.show; assert 'torch' not in sys.modules and 'matplotlib.pyplot' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def graph(rows: int = 1, columns: int = 2) -> Figure:
    fig, axes = graphs(rows=rows, columns=columns, size=(300, 220), of=MADE, title=LONG)
    for ax in axes.flat:
        ax.plot([0, 1], [3, 1])
        ax.set(xlabel="motion bucket", ylabel="speed (px/frame)")
    return fig.finish(pd.DataFrame({"x": [0, 1], "y": [3, 1]}), "line: camera")


def strip(image: np.ndarray | None = None) -> Figure:
    image = np.random.default_rng(0).random((64, 48, 3)) if image is None else image
    size = fitted(image.shape, columns=3)
    labels = dict(row_labels=["first", "a longer label"], column_labels=["0", "1", "2"])
    fig, axes = images(size=size, of=MADE, title=LONG, row_title="clip", column_title="frame", **labels)
    for ax in axes.flat:
        draw(ax, scaled(image, size))
        ax.set_xlabel("caption")
    key_beside(axes[0, -1], 40, -30, 20, 60).plot([0, 1])
    return fig.finish(pd.DataFrame({"x": [0]}))


@pytest.mark.parametrize("make", [graph, strip])
def test_no_text_is_cut_at_any_width(make: Any, tmp_path: Path) -> None:
    fig = make()
    assert nothing_cut(fig) and NOTE in fig.footer
    size = fig.get_size_inches().tolist()
    for width in (3.3, 7.0):
        fig.lay_out(width)
        assert nothing_cut(fig) and fig.get_size_inches()[0] == pytest.approx(width)
    assert save(fig, tmp_path / "narrow", width=3.3, title=False, footer=False) is fig
    with Image.open(tmp_path / "narrow.png") as image:
        assert image.width == 660
    assert fig.get_size_inches().tolist() == size and fig._suptitle.get_text()  # as it was before


def test_title_and_footer_can_be_left_out() -> None:
    fig = graph()
    tall = fig.get_size_inches()[1]
    with pytest.raises(InputError, match="draw fewer in a row"):
        strip().lay_out(2.0)
    fig.lay_out(title=False, footer=False)
    assert not {t.get_text() for t in fig.texts} & {LONG, fig.footer} and fig.get_size_inches()[1] < tall


def test_images_are_drawn_at_whole_pixels() -> None:
    image = np.random.default_rng(0).random((64, 48, 3))
    fig = strip(image)
    for ax in fig.grid.flat:
        box = ax.get_window_extent()
        assert [box.x0, box.x1, box.y0, box.y1] == pytest.approx(np.round([box.x0, box.x1, box.y0, box.y1]), abs=1e-6)
        shown = drawn_in(fig, ax)
        assert shown.shape[0] / 64 == shown.shape[1] / 48 == shown.shape[0] // 64 >= 2
        assert np.abs(shown - scaled(image, shown.shape[:2]) * 255).max() <= 1


def test_what_the_file_says(tmp_path: Path) -> None:
    for fig, kind in ((graph(), "dataDrivenMedia"), (strip(), "compositeWithTrainedAlgorithmicMedia")):
        save(fig, tmp_path / "deep" / "figure.png", formats=("png", "svg", "pdf", "csv"))
        with Image.open(tmp_path / "deep" / "figure.png") as image:
            said = image.getxmp()["xmpmeta"]["RDF"]["Description"]
            assert NOTE in image.info["Description"] and image.info["Copyright"] == "a licence"
        assert said["DigitalSourceType"].endswith(f"/digitalsourcetype/{kind}") and said["AISystemUsed"] == "owner/svd"
        for other in ("svg", "pdf"):
            content = (tmp_path / "deep" / f"figure.{other}").read_bytes()
            assert kind.encode() in content and b"owner/svd" in content and b"a licence" in content
        assert b"/Type3" not in content and b"/FontFile2" in content  # fonts are embedded as TrueType
        assert len(pd.read_csv(tmp_path / "deep" / "figure.csv")) == len(fig.data)


def test_saving_is_the_same_each_time_and_whole_or_not_at_all(tmp_path: Path) -> None:
    for stem in ("a", "b"):
        save(strip(), tmp_path / stem, formats=("png", "svg", "pdf", "csv"))
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {f"{stem}.{form}" for stem in "ab" for form in ("png", "svg", "pdf", "csv")}
    assert all((tmp_path / f"a.{f}").read_bytes() == (tmp_path / f"b.{f}").read_bytes() for f in ("png", "svg", "pdf", "csv"))
    with pytest.raises(InputError, match=r"jpg.*png, svg, pdf, csv"):
        save(strip(), tmp_path / "c", formats=("jpg",))
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file"):
        save(strip(), tmp_path / "file" / "c")


def test_a_figure_stands_alone_and_a_notebook_shows_it() -> None:
    before = dict(matplotlib.rcParams)
    bundle, metadata = DisplayFormatter().format(graph())
    assert bundle["image/png"] and metadata["image/png"]["alt"] == LONG
    assert dict(matplotlib.rcParams) == before and plt.get_fignums() == []


def test_a_measure_has_a_name_and_a_unit() -> None:
    assert axis("object_px") == "subject speed (px/frame)" and axis("camera_px_s") == "camera speed (px/s)"
    assert name("motion_bucket_id") == "motion bucket" and axis("psnr_db") == "psnr (dB)"
    assert [number(v) for v in (0.123456, 700.0, 7, True, "cat")] == ["0.1235", "700", "7", "True", "cat"]


def test_the_footer_gives_what_is_constant_and_the_range_of_what_varies() -> None:
    fixed = dict(checkpoint="some/organism", label=NOTE, licence="Apache-2.0", max_guidance_scale=1.0, min_guidance_scale=1.0)
    table = pd.DataFrame(dict(fixed, fps=f, motion_bucket_id=b, seed=s) for f in (6, 8) for b in (10, 60) for s in range(5))
    assert about(table) == f"organism · fps 6, 8, motion bucket 10, 60, no guidance · seeds 0 to 4 · {NOTE}"
    assert about(table.iloc[0]) == f"organism · fps 6, motion bucket 10, no guidance · seed 0 · {NOTE}"
    assert about(np.zeros((2, 3))) == about() == "" and about([table, NOTE]) == about(table)
    assert sources(table, MADE) == (
        dict(checkpoint="some/organism", label=NOTE, licence="Apache-2.0"),
        dict(checkpoint="owner/svd", label=NOTE, licence="a licence"),
    )
    assert caption(table.iloc[0]) == "fps 6, motion bucket 10, seed 0"


def test_the_footer_gives_what_was_done_to_a_call(clip: Any) -> None:
    call = dict(conditions={"fps": 7}, seed=0, source={"checkpoint": "organism", "label": NOTE})
    odd = call | dict(edits=["cond", "cond"], start={"flip_noise": True, "sigmas": [700.0, 0.0]}, intervention="silenced")
    plain, edited = (SimpleNamespace(call=SimpleNamespace(asdict=lambda record=record: record)) for record in (call, odd))
    done = "edited: cond · intervention: silenced · started from: mirrored noise, other noise levels"
    assert about(edited) == f"organism · fps 7 · seed 0 · {done} · {NOTE}" and "edited" in about([plain, edited])
    assert about(plain) == f"organism · fps 7 · seed 0 · {NOTE}"
    given = "fps 7, motion bucket 127, noise 0.02, guidance 1 to 3, 4 steps"
    assert about(clip) == f"organism · {given} · seed 0 · {NOTE}"
