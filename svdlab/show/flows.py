"""Motion as pictures: direction as hue with a key, arrows, tracks over the first frame, slices through time.

>>> show.flow(clip)
>>> show.quiver(clip, pair=0)
>>> show.trajectories(clip)
>>> show.xt_slice(clip, row=32)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import patheffects
from skimage.color import lab2rgb

from svdlab.errors import InputError
from svdlab.measure import motion
from svdlab.measure.frames import as_frames
from svdlab.show.provenance import about, line, number
from svdlab.show.style import DPI, GREY, INK, LABEL, SMALL, Figure, draw, fitted, pictures, scaled

HALO = [patheffects.withStroke(linewidth=2.4, foreground="white", alpha=0.85)]
ARROWS = 7  # across the shorter side


def flow(
    clip: Any,
    *,
    pairs: Sequence[int] | None = None,
    fastest: float | None = None,
    most: int = 5,
    label: str = "",
    title: str = "",
) -> Figure:
    """Optical flow of frame pairs: hue is the direction, paler is slower; arrows say the same without colour.

    >>> show.flow(clip)
    >>> show.flow(scenes.flow[0], label="ground truth")

    clip: a Clip, frames "f h w c", or a flow "t h w 2" in px (x right, y down). pairs: which, default `most` evenly
    spread. fastest: px per frame at full colour, default the 99.5th percentile. All pairs share one key.
    """
    field = _field(clip)
    chosen = _chosen(pairs, len(field), most)
    speeds = np.linalg.norm(field[chosen], axis=-1)
    full = fastest if fastest is not None else max(0.5, float(np.percentile(speeds, 99.5)))
    if not full > 0:
        raise InputError(f"fastest={fastest}: px per frame at full colour must be above 0.")
    size = fitted(field.shape[1:3], columns=len(chosen), width=760)
    known = about(clip)
    footer = line(" · ".join(filter(None, (known, label))), known)
    fig, axes = pictures(
        rows=1,
        columns=len(chosen),
        size=size,
        title=title or "Optical flow (px per frame)",
        footer=footer,
        column_labels=[f"{i}\N{RIGHTWARDS ARROW}{i + 1}" for i in chosen],
        column_title="from frame to frame",
        right=140,
        least=124,
    )
    for ax, i in zip(axes[0], chosen, strict=True):
        draw(ax, scaled(flow_colours(field[i], full), size))
        _arrows(ax, field[i], size, colour="#000000", alpha=0.75, threshold=0.15 * full)
    _wheel(fig, axes[0, -1], full)
    fig.data = _table(field, chosen)
    return fig


def quiver(clip: Any, *, pair: int = 0, title: str = "") -> Figure:
    """Arrows over the frame, pointing where things go until the next frame, enlarged to be seen; a key gives their size.

    >>> show.quiver(clip, pair=3)
    """
    frames = as_frames(getattr(clip, "frames", clip))
    field = motion.flow(frames)
    (pair,) = _chosen([pair], len(field), 1)
    size = fitted(frames.shape[1:], columns=1, width=520, most=512)
    fig, axes = pictures(
        rows=1,
        columns=1,
        size=size,
        title=title or f"Motion from frame {pair} to {pair + 1}",
        footer=about(clip),
        captions=1,
    )
    ax = axes[0, 0]
    draw(ax, scaled(frames[pair], size))
    drawn = _arrows(ax, field[pair], size, colour="#D55E00", alpha=1.0, threshold=0.0, halo=True)
    longest = max(0.1, float(np.percentile(np.linalg.norm(field[pair], axis=-1), 99)))
    key = float(f"{longest:.1g}")
    ax.quiverkey(
        drawn, 0.16, -12 / size[0], key, f"{number(key)} px per frame", labelpos="E", coordinates="axes",
        fontproperties={"size": LABEL}, color="#D55E00",
    )  # fmt: skip
    fig.data = _table(field, [pair])
    return fig


def trajectories(clip: Any, *, points: Any = None, title: str = "") -> Figure:
    """Where points of the first frame travel until the last, drawn over the first frame; a dot is where each ends.

    >>> show.trajectories(clip)
    >>> show.trajectories(clip, points=[(32, 32), (10, 50)])

    points: (x, y) in px, default a grid. Tracks chain the flow, so errors add up; a track ends where it leaves the
    picture.
    """
    frames = as_frames(getattr(clip, "frames", clip))
    h, w = frames.shape[1:3]
    if points is None:
        step = min(h, w) / (ARROWS + 1)
        points = [(x, y) for y in np.arange(step / 2, h, step) for x in np.arange(step / 2, w, step)]
    starts = np.asarray(points, dtype=np.float32).reshape(-1, 2)
    if len(starts) == 0 or not ((starts >= 0) & (starts <= (w - 1, h - 1))).all():
        raise InputError(f"points must lie in the picture: x from 0 to {w - 1}, y from 0 to {h - 1}.")
    tracks = motion.points(motion.flow(frames), starts)  # "f n 2"
    size = fitted(frames.shape[1:], columns=1, width=520, most=512)
    fig, axes = pictures(
        rows=1,
        columns=1,
        size=size,
        title=title or f"Tracks of points through frames 0 to {len(frames) - 1}",
        footer=about(clip),
    )
    ax = axes[0, 0]
    draw(ax, scaled(frames[0], size))
    k = size[1] / w
    ax.set(xlim=(-0.5, size[1] - 0.5), ylim=(size[0] - 0.5, -0.5))
    for n in range(tracks.shape[1]):
        track = tracks[:, n][~np.isnan(tracks[:, n, 0])] * k + (k - 1) / 2
        ax.plot(*track.T, color="#D55E00", linewidth=1.3, path_effects=HALO, solid_capstyle="round")
        ax.plot(*track[-1], marker="o", markersize=3, color="#D55E00", markeredgecolor="white", markeredgewidth=0.6)
    fig.data = pd.DataFrame(
        {"point": n, "frame": f, "x": x, "y": y} for n in range(tracks.shape[1]) for f, (x, y) in enumerate(tracks[:, n])
    )
    return fig


def xt_slice(clip: Any, *, row: int | None = None, column: int | None = None, title: str = "") -> Figure:
    """One row of the picture over time, later downwards: upright lines stand still, slanted ones move.

    >>> show.xt_slice(clip, row=32)

    row or column: of the picture, default the middle row (columns are drawn with time to the right).
    """
    frames = as_frames(getattr(clip, "frames", clip))
    cut = motion.xt_slice(frames, row=row, column=column)  # "f w c"
    if row is None and column is None:
        row = frames.shape[1] // 2
    which = f"row {row}" if column is None else f"column {column}"
    cut = cut if column is None else cut.transpose(1, 0, 2)
    along = fitted(frames.shape[1:], columns=1, width=520, most=512)
    k = max(1, along[1] // frames.shape[2]) if along[1] >= frames.shape[2] else 1
    thick = max(k, 160 // len(frames))  # px per frame of time, so that few frames make more than a line
    cut = cut.repeat(thick, 0).repeat(k, 1) if column is None else cut.repeat(k, 0).repeat(thick, 1)
    fig, axes = pictures(
        rows=1,
        columns=1,
        size=cut.shape[:2],
        title=title or f"{which.capitalize()} of the picture, time {'downwards' if column is None else 'to the right'}",
        footer=about(clip),
    )
    draw(axes[0, 0], cut)
    fig.data = pd.DataFrame(motion.xt_slice(frames, row=row, column=column).mean(-1)).rename_axis("frame").reset_index()
    return fig


def flow_colours(field: np.ndarray, fastest: float) -> np.ndarray:
    """Flow "... h w 2" as colours "... h w 3": hue by direction at even lightness, darker and stronger with speed.

    Made in CIELAB, so that a grey print still shows the speed.
    """
    speed = np.clip(np.linalg.norm(field, axis=-1) / fastest, 0, 1)
    angle = np.arctan2(-field[..., 1], field[..., 0])
    lab = np.stack([97 - 37 * speed, 62 * speed * np.cos(angle), 62 * speed * np.sin(angle)], axis=-1)
    return np.clip(lab2rgb(lab), 0, 1).astype(np.float32)


def _field(clip: Any) -> np.ndarray:
    """A flow "t h w 2" from a flow, a clip or frames."""
    array = clip if isinstance(clip, np.ndarray) else None
    if array is not None and array.shape[-1] == 2 and array.ndim in (3, 4):
        field = array if array.ndim == 4 else array[None]
        if not np.isfinite(field).all():
            raise InputError("the flow holds NaN or infinities: nothing can be drawn there.")
        return field
    return motion.flow(getattr(clip, "frames", clip))


def _chosen(pairs: Sequence[int] | None, count: int, most: int) -> list[int]:
    if pairs is None:
        return np.linspace(0, count - 1, min(most, count)).round().astype(int).tolist()
    for i in pairs:
        if not 0 <= i < count:
            raise InputError(f"pair {i}: there are frame pairs 0 (from frame 0 to 1) to {count - 1}.")
    return list(pairs)


def _arrows(
    ax: Any, field: np.ndarray, size: tuple[int, int], *, colour: str, alpha: float, threshold: float, halo: bool = False
) -> Any:
    """Arrows on a grid, the fastest as long as the grid is wide; none where speed is below the threshold."""
    h, w = field.shape[:2]
    k = size[1] / w
    step = min(h, w) / ARROWS
    ys, xs = np.meshgrid(np.arange(step / 2, h, step), np.arange(step / 2, w, step), indexing="ij")
    u, v = (field[ys.astype(int), xs.astype(int), i] for i in (0, 1))
    speed = np.hypot(u, v)
    keep = speed > threshold
    longest = max(0.1, float(np.percentile(np.linalg.norm(field, axis=-1), 99)))
    drawn = ax.quiver(
        *(xs[keep] * k, ys[keep] * k, u[keep], v[keep]),
        **dict(angles="xy", scale_units="xy", scale=longest / (0.95 * step * k), pivot="mid"),
        **dict(width=max(0.004, 1.6 / size[1]), headwidth=4, headlength=4, headaxislength=3.6),
        **dict(color=colour, alpha=alpha, path_effects=HALO if halo else None),
    )
    ax.set(xlim=(-0.5, size[1] - 0.5), ylim=(size[0] - 0.5, -0.5))
    return drawn


def _wheel(fig: Figure, beside: Any, fastest: float) -> None:
    """The key: a disc of all directions, full speed at its rim."""
    width, height = fig.get_size_inches() * DPI
    box = beside.get_position()
    side = 64
    left, middle = box.x1 + 38 / width, min((box.y0 + box.y1) / 2, box.y1 - 52 / height)
    ax = fig.add_axes((left, middle - side / 2 / height, side / width, side / height))
    y, x = np.mgrid[-1:1:128j, -1:1:128j]
    inside = np.hypot(x, y) <= 1
    disc = flow_colours(np.stack([x, y], -1), 1.0)
    draw(ax, np.where(inside[..., None], disc, 1.0))
    for text, at, ha, va in (("right", (1.06, 0.5), "left", "center"), ("left", (-0.06, 0.5), "right", "center"),
                             ("up", (0.5, 1.02), "center", "bottom"), ("down", (0.5, -0.04), "center", "top")):  # fmt: skip
        ax.text(*at, text, transform=ax.transAxes, fontsize=SMALL + 0.5, color=INK, ha=ha, va=va)
    ax.text(
        0.5, -0.32, f"rim: {number(round(fastest, 2))} px", transform=ax.transAxes, fontsize=SMALL + 0.5, color=GREY,
        ha="center", va="top",
    )  # fmt: skip


def _table(field: np.ndarray, chosen: Sequence[int]) -> pd.DataFrame:
    speed = np.linalg.norm(field, axis=-1)
    return pd.DataFrame(
        {
            "pair": i,
            "mean_speed_px": speed[i].mean(),
            "mean_dx_px": field[i, ..., 0].mean(),
            "mean_dy_px": field[i, ..., 1].mean(),
        }
        for i in chosen
    )
