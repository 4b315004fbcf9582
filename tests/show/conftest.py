"""One clip, one trace and one table of a sweep for all tests of figures; and what a figure holds when it is drawn."""

import io
from dataclasses import replace
from typing import Any

import matplotlib.text
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

import svdlab
from svdlab.organism import world

NOTE = "model organism, not SVD"
SPATIAL = "unet.mid_block.attentions.0.transformer_blocks.0.attn1"


@pytest.fixture(scope="session")
def pan() -> world.Scenes:
    """A drawn camera pan to the right."""
    return world.scenes(1, seed=3, motion="pan", direction="right", background="light", fps=7, motion_bucket_id=127)


@pytest.fixture(scope="session")
def tr(pipe: Any) -> Any:
    with svdlab.trace(pipe, attention=("temporal", SPATIAL)) as tr:
        tr.clip = svdlab.generate(pipe, "scene-27", seed=0, num_inference_steps=4)
    return tr


@pytest.fixture(scope="session")
def clip(tr: Any, pan: world.Scenes) -> Any:
    """The pan's frames, as if the organism had made them."""
    return replace(tr.clip, frames=pan.video[0])


@pytest.fixture(scope="session")
def results() -> pd.DataFrame:
    """A table as a sweep returns it: three fps, four buckets, five seeds."""
    rng = np.random.default_rng(0)
    fixed = dict(checkpoint="organism", label=NOTE, licence="Apache-2.0", image="scene-27", stimulus="scene-27", status="done")
    fixed |= dict(max_guidance_scale=1.0, min_guidance_scale=1.0)
    return pd.DataFrame(
        dict(fixed, fps=f, motion_bucket_id=b, seed=s, object_px=0.14 * b / f + 0.1 * rng.normal())
        for f in (6, 8, 12)
        for b in (10, 60, 120, 170)
        for s in range(5)
    )


def texts(fig: Any) -> str:
    return "\n".join(t.get_text() for t in fig.findobj(matplotlib.text.Text))


def pixels(fig: Any) -> np.ndarray:
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=fig.dpi)
    return np.asarray(Image.open(buffer).convert("RGB"))


def drawn_in(fig: Any, ax: Any) -> np.ndarray:
    """What the file shows where an axes is, uint8 "h w 3"."""
    shot, box = pixels(fig), ax.get_window_extent()
    return shot[round(len(shot) - box.y1) : round(len(shot) - box.y0), round(box.x0) : round(box.x1)]


def nothing_cut(fig: Any) -> bool:
    """Whether everything that is drawn lies inside the figure, to half a pixel."""
    fig.draw(renderer := FigureCanvasAgg(fig).get_renderer())
    box, (width, height) = fig.get_tightbbox(renderer), fig.get_size_inches()
    return min(box.x0, box.y0, width - box.x1, height - box.y1) > -0.005


def overlapping(fig: Any) -> list[tuple[str, str]]:
    """Texts that lie over each other by more than a pixel each way."""
    fig.draw(renderer := FigureCanvasAgg(fig).get_renderer())
    boxes = [(t.get_text(), t.get_window_extent(renderer)) for t in fig.findobj(matplotlib.text.Text) if shown(t)]
    pairs = [(a, b) for i, a in enumerate(boxes) for b in boxes[:i]]
    across = lambda a, b: min(a.x1, b.x1) - max(a.x0, b.x0) > 1 and min(a.y1, b.y1) - max(a.y0, b.y0) > 1
    reserved = lambda a, b: (a[0] + " " + b[0])[0] == "\n" or b[0][0] == "\n"  # a line left free for what stands over columns
    return [(a[0], b[0]) for a, b in pairs if across(a[1], b[1]) and not reserved(a, b)]


def shown(text: Any) -> bool:
    ax = text.axes
    return bool(text.get_visible() and text.get_text().strip() and (ax is None or ax.get_visible()) and in_view(text, ax))


def in_view(text: Any, ax: Any) -> bool:
    """A tick's label that lies beyond the limits of its axis is not drawn."""
    ticks = [] if ax is None else [(a, t) for a in (ax.xaxis, ax.yaxis) for t in a.get_major_ticks() + a.get_minor_ticks()]
    for axis, tick in ticks:
        if text in (tick.label1, tick.label2):
            low, high = sorted(axis.get_view_interval())
            return low - 1e-9 <= tick.get_loc() <= high + 1e-9 and ax.axison
    return True
