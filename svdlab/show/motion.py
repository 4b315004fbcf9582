"""Motion: optical flow as hue and arrows, tracks over the first frame, slices through time, speed and camera path."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from skimage.color import lab2rgb

from svdlab.errors import POSITIVE, InputError, shown, takes
from svdlab.measure import motion
from svdlab.measure.flow import each_window, estimator, there_and_back
from svdlab.measure.video import CLIP, FPS
from svdlab.show.clips import frames_of, made_by
from svdlab.show.figure import (
    COLOURS,
    INDEX,
    INK,
    LABEL,
    MARKERS,
    PALE,
    SMALL,
    Figure,
    chosen,
    draw,
    fitted,
    graphs,
    images,
    room,
    scaled,
    side_by_side,
)
from svdlab.show.labels import WORDS, number

HALO = [patheffects.withStroke(linewidth=2.4, foreground="white", alpha=0.85)]
ARROWS = 7  # across the shorter side
KEY = 64  # px of the disc of directions
LOST = np.float32(0.72)  # the grey of pixels that the flow loses


def FLOW(name: str, value: Any) -> np.ndarray:
    """The kind of a flow "... h w 2" in px."""
    field = np.asarray(value)
    if field.dtype.kind not in "fiu" or field.shape[-1:] != (2,) or field.size == 0 or not np.isfinite(field).all():
        raise InputError(f'{name}={shown(value)}: give a flow "... h w 2" of finite numbers, in px.')
    return field if field.dtype.kind == "f" else field.astype(np.float32)


@takes(title=WORDS)
def flow(clip: Any, *, pairs: Sequence[int] | None = None, title: str = "") -> Figure:
    """Optical flow of frame pairs: hue is the direction, paler is slower; arrows show the same without colour.

    >>> show.flow(clip)
    >>> show.flow(np.ones((7, 64, 64, 2)), title="Ground truth")

    clip: a Clip, frames "f h w c", or a flow "t h w 2" in px (x right, y down). pairs: which, default 5 evenly spread. All
    pairs share one key, whose rim is the 99.5th percentile of their speeds. Pixels that the flow loses (they get hidden, or
    going and coming back disagree) are grey and count for nothing. The figure's table has the flow on the arrows' grid.
    """
    known = getattr(clip, "ndim", 0) == 4 and clip.shape[-1] == 2
    frames = FLOW("clip", clip) if known else CLIP("clip", frames_of(clip))
    picked = chosen(pairs, len(frames) - (not known), side_by_side(5, 150), "frame pair")
    if known:
        field, seen = frames[picked], np.ones(frames[picked].shape[:-1], bool)
    else:  # of these pairs alone: the flow of a minute of video would not fit in memory
        found, _, _ = each_window(frames, there_and_back(estimator(frames)), pairs=picked)
        field, _, seen = map(np.stack, zip(*found, strict=True))
    full = rim(field, seen)
    size = fitted(field.shape[1:3], columns=len(picked), width=room() - 140)
    labels = dict(title=title or "Optical flow (px/frame)", column_title="from frame to frame")
    fig, axes = images(size=size, of=made_by(clip), column_labels=[_pair(i) for i in picked], **labels)
    arrows = []
    for ax, one, mask in zip(axes[0], field, seen, strict=True):
        draw(ax, scaled(np.where(mask[..., None], flow_colours(one, full), LOST), size))
        arrows.append(_arrows(ax, one, mask, size, full))
    _disc(axes[0, -1], size, full)
    table = pd.concat(arrows, keys=picked, names=["pair"]).reset_index("pair")
    return fig.finish(table, "" if seen.all() else f"grey: lost by the flow, {number(round(100 * (1 - seen.mean()), 1))} %")


@takes(title=WORDS)
def trajectories(clip: Any, *, title: str = "") -> Figure:
    """Where a grid of points of the first frame travels until the last, drawn over the first frame; a dot is where each ends.

    >>> show.trajectories(clip)

    Tracks chain the flow, so errors add up; a track ends where it leaves the image.
    """
    frames = frames_of(clip)
    h, w = frames.shape[1:3]
    tracks = motion.points(motion.flow(frames), _grid(h, w, min(h, w) / (ARROWS + 1)).T.astype(np.float32))  # "f n 2"
    size = fitted(frames.shape[1:], columns=1, width=min(560, room()), most=512)
    fig, axes = images(size=size, of=made_by(clip), title=title or f"Tracks of points through frames 0 to {len(frames) - 1}")
    ax = axes[0, 0]
    draw(ax, scaled(frames[0], size))
    k = size[1] / w
    ax.set(xlim=(-0.5, size[1] - 0.5), ylim=(size[0] - 0.5, -0.5))
    for track in tracks.transpose(1, 0, 2):
        path = track[~np.isnan(track[:, 0])] * k + (k - 1) / 2
        ax.plot(*path.T, color=COLOURS[1], linewidth=1.3, path_effects=HALO, solid_capstyle="round")
        ax.plot(*path[-1], marker="o", markersize=3, color=COLOURS[1], markeredgecolor="white", markeredgewidth=0.6)
    index = pd.MultiIndex.from_product([range(tracks.shape[1]), range(len(tracks))], names=["point", "frame"])
    table = pd.DataFrame(tracks.transpose(1, 0, 2).reshape(-1, 2), index, columns=["x", "y"])
    return fig.finish(table.reset_index(), "dot: end of a track")


@takes(row=INDEX, title=WORDS)
def xt_slice(clip: Any, *, row: int | None = None, title: str = "") -> Figure:
    """One row of the image over time, later downwards: upright lines stand still, slanted ones move.

    >>> show.xt_slice(clip, row=32)

    row: of the image, default the middle one.
    """
    frames = frames_of(clip)
    which = chosen(frames.shape[1] // 2 if row is None else row, frames.shape[1], 1, "row")[0]
    cut = frames[:, which]  # "f w c"
    table = pd.DataFrame(cut.mean(-1)).rename_axis("frame").reset_index()
    k = max(1, 480 // cut.shape[1])
    cut = cut.repeat(max(k, 160 // len(cut)), 0).repeat(k, 1)  # so that few frames make more than a line
    fig, axes = images(size=cut.shape[:2], of=made_by(clip), title=title or f"Row {which} of the image, time downwards")
    draw(axes[0, 0], cut)
    return fig.finish(table)


@takes(playback_fps=FPS, title=WORDS)
def stepwise(clip: Any, *, playback_fps: float | None = None, title: str = "") -> Figure:
    """How fast things move from each frame to the next: the camera, and the subject against the background.

    >>> show.stepwise(clip)

    In px/frame, or px/s with playback_fps. Pairs that could not be measured are marked, not drawn as zero.
    """
    table = motion.measure(frames_of(clip), playback_fps=playback_fps)
    suffix, unit = ("_px", "px/frame") if playback_fps is None else ("_px_s", "px/s")
    fig, axes = graphs(size=(520, 280), of=made_by(clip), title=title or "Speed from frame to frame")
    ax, speeds = axes[0, 0], table[["camera" + suffix, "object" + suffix]]
    for label, column, colour, marker in zip(("camera", "subject"), speeds, COLOURS, MARKERS, strict=False):
        ax.plot(table["pair"], table[column], color=colour, marker=marker, markersize=4, linewidth=1.5, label=label)
    for pair in table["pair"][table["abstained"]]:
        ax.axvspan(pair - 0.5, pair + 0.5, color=PALE, alpha=0.6, linewidth=0, zorder=0)
    shown = table["pair"][:: 4 if len(table) > 12 else 1]
    ax.set_xticks(shown, [_pair(i) for i in shown])
    fastest = max(0.5, float(np.nanmax(speeds.to_numpy(), initial=0.0)))
    ax.set(ylim=(-0.04 * fastest, 1.1 * fastest), xlabel="frame pair", ylabel=f"speed ({unit})")
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0, frameon=False, fontsize=LABEL)
    return fig.finish(table, "grey: could not be measured" if table["abstained"].any() else "")


@takes(title=WORDS)
def camera_path(clip: Any, *, title: str = "") -> Figure:
    """Where the camera goes: its path to the side and up on the left, zoom and roll over the frames on the right.

    >>> show.camera_path(clip)

    The camera's own motion: it goes right where the image goes left. Pairs that could not be measured count as no motion, and
    the footer says how many.
    """
    pairs = motion.measure(frames_of(clip))
    path, unknown = motion.camera_path(pairs), int(pairs["abstained"].sum())
    columns = side_by_side(3, 250)
    fig, grid = graphs(
        rows=3 // columns, columns=columns, size=(280, 250), of=made_by(clip), title=title or "Path of the camera", share=False
    )
    axes = grid.ravel()
    reach = max(1.0, 1.25 * float(path[["pan_px", "tilt_px"]].abs().to_numpy().max()))
    turned = max(2.0, 1.1 * float(path["roll_deg"].abs().max()))
    zoomed = min(0.9, path["zoom"].min()), max(1.1, path["zoom"].max())
    for ax, x, y, xlabel, ylabel, limits in (
        (axes[0], path["pan_px"], path["tilt_px"], "pan (px, right is +)", "tilt (px, up is +)", (-reach, reach)),
        (axes[1], path.index, path["zoom"], "frame", "zoom (factor)", zoomed),
        (axes[2], path.index, path["roll_deg"], "frame", "roll (degrees, clockwise is +)", (-turned, turned)),
    ):
        ax.plot(x, y, color=COLOURS[0], marker="o", markersize=3.5, linewidth=1.5)
        ax.set(xlabel=xlabel, ylabel=ylabel, ylim=limits)
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(MaxNLocator(5, integer=x is path.index and axis is ax.xaxis, steps=[1, 2, 5, 10]))
    track = axes[0]
    track.set(xlim=(-reach, reach), box_aspect=1)
    track.axhline(0, color=PALE, linewidth=0.8, zorder=0)
    track.axvline(0, color=PALE, linewidth=0.8, zorder=0)
    start, end = (path[["pan_px", "tilt_px"]].iloc[i].to_numpy() for i in (0, -1))
    still = np.linalg.norm(end - start) < 0.2 * reach  # then both labels would lie over each other
    ends = [(start, f"frames 0 to {len(path) - 1}")] if still else [(start, "frame 0"), (end, f"frame {len(path) - 1}")]
    for at, text in ends:
        where = dict(xytext=(0, -13 if at is start else 7), textcoords="offset points", ha="center")
        track.annotate(text, tuple(at), fontsize=SMALL + 1, path_effects=HALO, **where)
    lost = f"{unknown} of {len(pairs)} frame pairs could not be measured: drawn as no motion" if unknown else ""
    return fig.finish(path.reset_index(), lost)


@takes(field=FLOW, fastest=POSITIVE)
def flow_colours(field: np.ndarray, fastest: float) -> np.ndarray:
    """Flow "... h w 2" as colours "... h w 3": hue by direction at even lightness, darker and stronger with speed.

    Made in CIELAB, so that a grey print still shows the speed.
    """
    speed = np.clip(np.linalg.norm(field, axis=-1) / fastest, 0, 1)
    angle = np.arctan2(-field[..., 1], field[..., 0])
    lab = np.stack([97 - 37 * speed, 62 * speed * np.cos(angle), 62 * speed * np.sin(angle)], axis=-1)
    return np.clip(lab2rgb(lab), 0, 1).astype(np.float32)


def _pair(i: int) -> str:
    return f"{i}\N{RIGHTWARDS ARROW}{i + 1}"


def rim(field: np.ndarray, seen: np.ndarray) -> float:
    """The speed of full colour for a flow "... h w 2": the 99.5th percentile of what is seen, bool "... h w"."""
    return max(0.5, float(np.percentile(np.linalg.norm(field, axis=-1)[seen], 99.5))) if seen.any() else 0.5


def _arrows(ax: Axes, field: np.ndarray, seen: np.ndarray, size: tuple[int, int], full: float) -> pd.DataFrame:
    """Arrows on a grid, the fastest as long as the grid is wide; none for what is slow beside `full`, or not seen. Returns the
    grid's flow: `x_px`, `y_px`, `dx_px`, `dy_px`, and whether an arrow was `drawn`."""
    h, w = field.shape[:2]
    k, step = size[1] / w, min(h, w) / ARROWS
    xs, ys = _grid(h, w, step)
    there = ys.astype(int), xs.astype(int)
    u, v = field[there].T
    keep = seen[there] & (np.hypot(u, v) > 0.15 * full)
    longest = max(0.1, float(np.percentile(np.linalg.norm(field[seen], axis=-1), 99))) if seen.any() else 0.1
    look: dict[str, Any] = dict(width=max(0.004, 1.6 / size[1]), headwidth=4, headlength=4, headaxislength=3.6)
    look |= dict(angles="xy", scale_units="xy", scale=longest / (0.95 * step * k), pivot="mid", color="#000000", alpha=0.75)
    ax.quiver(xs[keep] * k, ys[keep] * k, u[keep], v[keep], **look)
    ax.set(xlim=(-0.5, size[1] - 0.5), ylim=(size[0] - 0.5, -0.5))
    return pd.DataFrame({"x_px": xs, "y_px": ys, "dx_px": u, "dy_px": v, "drawn": keep})


def _grid(h: int, w: int, step: float) -> np.ndarray:
    """Points of an image on a grid of `step` px, "xy n"."""
    return np.array([(x, y) for y in np.arange(step / 2, h, step) for x in np.arange(step / 2, w, step)]).T


def _disc(beside: Axes, size: tuple[int, int], fastest: float) -> None:
    """The key: a disc of all directions, full speed at its rim, with words around it."""
    across, tall = KEY / size[1], KEY / size[0]
    key = beside.inset_axes((1 + 40 / size[1], 0.5 - tall / 2, across, tall))
    key.set_axis_off()
    y, x = np.mgrid[-1:1:128j, -1:1:128j]
    draw(key, np.where((np.hypot(x, y) <= 1)[..., None], flow_colours(np.stack([x, y], -1), 1.0), 1.0))
    rim = f"rim: {number(round(fastest, 2))} px/frame"
    for text, at, ha, va in (
        ("right", (1.06, 0.5), "left", "center"),
        ("left", (-0.06, 0.5), "right", "center"),
        ("up", (0.5, 1.02), "center", "bottom"),
        ("down", (0.5, -0.04), "center", "top"),
        (rim, (0.5, -0.32), "center", "top"),
    ):
        key.text(*at, text, transform=key.transAxes, fontsize=SMALL + 0.5, color=INK, ha=ha, va=va)
