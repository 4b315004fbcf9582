"""What a figure holds when it is drawn: its texts, its pixels, and those of one axes."""

from __future__ import annotations

import io
from typing import Any

import matplotlib.text
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

NOTE = "model organism, not SVD"


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
