"""Clips as looping videos, strips of frames and contact sheets, and the denoising behind them, column by column."""

import base64
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from svdlab import errors
from svdlab.errors import COUNT, InputError, TraceError, flag, takes, text
from svdlab.measure import video as files
from svdlab.measure.files import printable, write_whole
from svdlab.show.figure import (
    GREY,
    INDEX,
    INDICES,
    INK,
    LABEL,
    SMALL,
    TEXTS,
    Figure,
    beside,
    broken,
    chosen,
    draw,
    facts_of,
    fitted,
    images,
    placed,
    room,
    scaled,
    side_by_side,
)
from svdlab.show.labels import WORDS, axis, caption, captions, name, number, ordered, short

CRF = 16  # of H.264: no visible loss
MODES = ("channels", "pca", "colours")
LATENTS = {"latents": "Latents", "next_latents": "Latents after the step", "denoised": "Denoised latents"}


@dataclass(repr=False)
class Video:
    """A video that a notebook shows, looping; `save` writes it as MP4 (H.264, yuv420p, plays in every browser).

    frames: uint8 "f h w 3", labels included. fps: of the player. alt: what is to be seen, for those who cannot. facts: what
    its file says about itself, where a model made what it shows (see `svdlab.measure.video`). Raises InputError for others.
    """

    frames: np.ndarray
    fps: float
    alt: str
    facts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.frames = files.as_bytes(self.frames)
        self.fps = files.FPS("fps", self.fps)
        self.alt = WORDS("alt", self.alt)
        errors.kind(Mapping)("facts", self.facts)

    def __repr__(self) -> str:
        return f"<Video: {self.alt}, {len(self.frames)} frames at {self.fps:g} frames/s>"

    def mp4(self) -> bytes:
        """The bytes of an MP4 file."""
        return files.h264(self.frames, self.fps, crf=CRF, facts=self.facts)

    @takes(path=errors.path)
    def save(self, path: str | Path) -> Path:
        """Write the MP4, whole or not at all, and beside it a .json of what it says about itself; returns its path.

        path: with or without the ending .mp4. Raises OutputError where the folder cannot be written.
        """
        path = Path(path)
        path = path if path.suffix.lower() == ".mp4" else Path(f"{path}.mp4")
        with write_whole(path) as part:
            part.write_bytes(self.mp4())
        if self.facts:
            files.write_sidecar(path, self.facts)
        return path

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        height, width = self.frames.shape[1:3]
        still = io.BytesIO()  # for viewers that show no videos
        Image.fromarray(self.frames[-1]).save(still, "PNG")
        bundle = {
            "text/html": files.tag(self.mp4(), width, height, self.alt),
            "image/png": base64.b64encode(still.getvalue()).decode(),
            "text/plain": repr(self),
        }
        return bundle, {"image/png": {"width": width, "height": height, "alt": self.alt}}


@takes(labels=TEXTS, fps=files.FPS, columns=COUNT, title=WORDS)
def video(
    clips: Any, *, labels: Sequence[str] | None = None, fps: float | None = None, columns: int = 4, title: str = ""
) -> Video:
    """One clip, or several side by side and in step, looping.

    >>> show.video(clip)
    >>> show.video({"slow": clip, "fast": clip.frames[::2]}, fps=7).save("results/compare.mp4")

    clips: a Clip, frames "f h w c" in [0, 1] or uint8 or a list of images, a video file, a list of these, a dict from label
    to these, or rows of the table that `svdlab.sweep` returns. labels: by default the conditions of each. fps: of the
    player; default that of the first clip, 7 for frames. A shorter clip waits on its last frame for the longest. Raises
    InputError for no clips, frames of different sizes, or labels of another number.
    """
    arrays, texts, given = named(clips, labels)
    rate = files.FPS("fps", rate_of(given[0])) if fps is None else fps
    columns = min(columns, len(arrays))
    size = fitted(arrays[0].shape[1:], columns=columns, most=640 if columns == 1 else 320)
    rows = -(-len(arrays) // columns)
    fig, axes = images(size=size, of=made_by(clips, given), title=title, row_labels=[""] * rows, column_labels=[""] * columns)
    for i, ax in enumerate(axes.flat):
        ax.set_visible(i < len(arrays))
        ax.set_title(broken(texts[i], LABEL, size[1]) if i < len(arrays) else "", fontsize=LABEL, color=INK, pad=3)
    canvas = FigureCanvasAgg(fig.finish())
    canvas.draw()
    board = np.asarray(canvas.buffer_rgba())[..., :3]  # at the screen's resolution
    movie = np.repeat(board[None], max(map(len, arrays)), axis=0)
    for ax, frames in zip(axes.flat, arrays, strict=False):
        box = ax.get_window_extent()
        top, left = len(board) - round(box.y1), round(box.x0)
        for t, shown in enumerate(movie):
            frame = scaled(frames[min(t, len(frames) - 1)], size)
            shown[top : top + size[0], left : left + size[1]] = (frame * 255).round()
    even = [(0, 0), (0, board.shape[0] % 2), (0, board.shape[1] % 2), (0, 0)]  # yuv420p halves both sides
    facts = facts_of(fig.sources, fig.footer, images=True)
    return Video(np.pad(movie, even, constant_values=255), rate, title or "; ".join(texts) or "clip", facts)


@takes(labels=TEXTS, given=flag, title=WORDS)
def filmstrip(
    clips: Any,
    *,
    labels: Sequence[str] | None = None,
    frames: Sequence[int] | None = None,
    given: bool = False,
    title: str = "",
) -> Figure:
    """Frames from left to right, a row for each clip.

    >>> show.filmstrip({"model": clip, "real": frames}, given=False)

    clips and labels: as in `show.video`. frames: which ones; default 8 of them, evenly spread, first and last included.
    given: begin with the image that each Clip was made from. Raises InputError for no clips, or a frame that a clip
    does not have.
    """
    arrays, texts, clips_given = named(clips, labels)
    if given and not all(hasattr(c, "image") for c in clips_given):
        raise InputError("given=True needs Clips, which know the image that they were made from.")
    shown = chosen(frames, min(map(len, arrays)), max(2, side_by_side(8 + given, 80) - given), "frame")
    alone = len(arrays) == 1
    columns = ["input"] * given + [f"frame {i}" for i in shown]
    size = fitted(arrays[0].shape[1:], columns=len(columns), width=room() - (0 if alone else beside(texts)))
    title = title or f"Frames {shown[0]} to {shown[-1]}" + (f": {texts[0]}" if alone and texts[0] else "")
    fig, axes = images(
        size=size, of=made_by(clips, clips_given), title=title, row_labels=[""] if alone else texts, column_labels=columns
    )
    for row, clip, array in zip(axes, clips_given, arrays, strict=True):
        inputs = [np.asarray(clip.image) / np.float32(255)] if given else []
        for ax, image in zip(row, [*inputs, *array[shown]], strict=True):
            draw(ax, scaled(image, size))
    rows = ({"clip": t, "frame": i} | _mean_colour(a[i]) for a, t in zip(arrays, texts, strict=True) for i in shown)
    return fig.finish(pd.DataFrame(rows))


@takes(rows=text, columns=text, frame=INDEX, note=text, title=WORDS)
def sheet(
    results: pd.DataFrame,
    *,
    rows: str,
    columns: str,
    frame: int = -1,
    note: str | None = None,
    clips: Sequence[Any] | None = None,
    title: str = "",
) -> Figure:
    """A sweep as a contact sheet: one frame of the clip at each pair of conditions, under shared labels.

    >>> show.sheet(results, rows="motion_bucket_id", columns="fps", note="object_px")
    >>> show.sheet(results.query("seed == 0"), rows="seed", columns="max_guidance_scale", frame=4)

    results: the table that `svdlab.sweep` returns, narrowed to one run a cell (of several, the first is shown).
    frame: number in each clip, negative from the end. note: a column whose value stands under each image.
    clips: in the table's order, instead of the ones on disk; those of several sizes keep their shapes. A condition that was
    not run, or failed, is a blank cell that says so. Raises InputError for a column that the table lacks, or where no run has
    frames.
    """
    errors.columns("results", results, rows, columns, *filter(None, (note, "frames" if clips is None else None)))
    known = results.assign(_at=range(len(results))).dropna(subset=[rows, columns])
    down, across, table = ordered(known[rows]), ordered(known[columns]), known.drop_duplicates([rows, columns])
    sources = errors.several("clips", results["frames"] if clips is None else clips, lambda _, clip: clip)
    if len(sources) != len(results):
        raise InputError(f"{len(sources)} clips for {len(results)} rows: give one for each, in the table's order.")
    arrays = {i: None if _absent(sources[i]) else frames_of(sources[i]) for i in table["_at"]}
    shapes = [a.shape[1:] for a in arrays.values() if a is not None]
    if table.empty:
        raise InputError(f"no row has a value of both {rows!r} and {columns!r}.")
    if not shapes:
        said = f": their status is {', '.join(map(str, table['status'].unique()))}" if "status" in table else ""
        raise InputError(f"none of the {len(table)} runs has frames{said}.")
    shape = tuple(map(max, zip(*shapes, strict=True)))
    labels, above = (
        [(short(v) if c == "image" else {}).get(w, number(w)) for w in v] for c, v in ((rows, down), (columns, across))
    )
    size = fitted(shape, columns=len(across), width=room() - beside([*labels, axis(rows)]), most=240)
    which = {-1: "Last frame", 0: "First frame"}.get(frame, f"Frame {frame}")
    fig, axes = images(
        size=size,
        of=table,
        title=title or f"{which} by {name(rows)} and {name(columns)}" + (f", with {axis(note)}" if note else ""),
        row_labels=labels,
        column_labels=above,
        row_title=axis(rows),
        column_title=axis(columns),
    )
    shown = []
    for (r, c), ax in np.ndenumerate(axes):
        hit = table[(table[rows] == down[r]) & (table[columns] == across[c])]
        array = None if hit.empty else arrays[hit["_at"].iloc[0]]
        if array is None:
            text = "not run" if hit.empty else "failed"
            ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", fontsize=LABEL, color=GREY)
            continue
        image = array[chosen(frame, len(array), 1, "frame")[0]]
        draw(ax, scaled(image, size) if image.shape == shape else placed(image, size)[0])
        if note:
            value = hit[note].iloc[0]
            words = "no value" if pd.isna(value) else broken(number(value), LABEL - 1, size[1])
            ax.set_xlabel(words, fontsize=LABEL - 1, color=INK, labelpad=2)
        shown.append(hit)
    kept = [c for c in dict.fromkeys([rows, columns, note, "seed", "run_id"]) if c in results.columns]
    lacking = " or ".join(name(c) for c in dict.fromkeys((rows, columns)) if results[c].isna().any())
    lost = f"{len(results) - len(known)} without {lacking} left out" if lacking else ""
    return fig.finish(pd.concat(shown)[kept], "first of several runs per cell" if len(table) < len(known) else "", lost)


def named(clips: Any, labels: Sequence[str] | None = None) -> tuple[list[np.ndarray], list[str], list[Any]]:
    """Whatever names one clip or several, as frames "f h w 3" in [0, 1] of one size, labels, and a list of the clips."""
    if isinstance(clips, pd.DataFrame):
        errors.columns("clips", clips, "frames")
        there = clips[[not _absent(path) for path in clips["frames"]]]
        labels, clips = labels or (captions(there) if len(there) > 1 else [caption(there)]), there["frames"].tolist()
    elif isinstance(clips, Mapping):
        labels, clips = labels or [str(k) for k in clips], list(clips.values())
    clips = [clips] if _is_one(clips) else list(errors.several("clips", clips, lambda _, clip: clip, least=0))
    if not clips:
        raise InputError("got no clip: give at least one.")
    texts = [printable(label) for label in labels] if labels is not None else [caption(made_by(c)) for c in clips]
    if len(texts) != len(clips):
        raise InputError(f"{len(texts)} labels for {len(clips)} clips: give one for each.")
    arrays = [frames_of(c) for c in clips]
    if len(sizes := {a.shape[1:3] for a in arrays}) > 1:
        raise InputError(f"the clips have sizes {sorted(sizes)}: show those of one size, side by side they need one.")
    return arrays, texts, clips


def made_by(clips: Any, given: Any = None) -> Any:
    """What a footer names as the source: a table, else the clips, but no paths, which would be taken for labels."""
    shown = clips if isinstance(clips, pd.DataFrame) or given is None else given
    if isinstance(shown, list):
        return [clip for clip in shown if not isinstance(clip, (str, os.PathLike))]
    return () if isinstance(shown, (str, os.PathLike)) else shown


def frames_of(clip: Any) -> np.ndarray:
    """Frames "f h w 3" in [0, 1] of a Clip, an array or a list of images, or of a video file, such as a run's row names."""
    return files.as_frames(clip)


def _is_one(clips: Any) -> bool:
    """Whether this is one clip, not several: a Clip, a file, an array, or a list of images."""
    if hasattr(clips, "frames") or isinstance(clips, (str, os.PathLike)) or len(getattr(clips, "shape", ())) in (3, 4):
        return True
    several = isinstance(clips, (list, tuple)) and len(clips) > 0
    return several and all(isinstance(c, Image.Image) or len(getattr(c, "shape", ())) in (2, 3) for c in clips)


def _absent(source: Any) -> bool:
    """Whether a row names no frames: nothing, or an empty path."""
    return bool(pd.api.types.is_scalar(source) and (pd.isna(source) or source == ""))


def rate_of(clip: Any) -> float:
    """Frames per second at which a clip is played."""
    fps = getattr(getattr(clip, "conditions", None), "fps", files.PLAYBACK_FPS)
    return float(getattr(clip, "playback_fps", None) or fps)


def _mean_colour(image: np.ndarray) -> dict[str, float]:
    return dict(zip(("red", "green", "blue"), image.reshape(-1, 3).mean(0, dtype=float), strict=True))


# --- the denoising ----------------------------------------------------------------------------------------------------


@takes(frame=INDICES, title=WORDS)
def denoising(
    tr: Any,
    *,
    frame: int | Sequence[int] = 0,
    steps: Sequence[int] | None = None,
    decoded: np.ndarray | None = None,
    title: str = "",
) -> Figure:
    """The denoised estimate from step to step: what the model would make of the noise if it stopped there.

    >>> show.denoising(tr, frame=4)
    >>> show.denoising(tr, frame=4, steps=[0, 2, 3], decoded=tr.decode(pipe, steps=[0, 2, 3], frames=[4]))
    >>> show.denoising(tr, frame=[0, 4], decoded=tr.decode(pipe))            # all is decoded, some of it is shown

    tr: a Trace of one sample with `denoised`. frame: one frame or several (a row each). steps: positions in the
    trace, default 8 of them, evenly spread. decoded: images "s f h w 3" in [0, 1] of those steps and frames, or of
    all, from `Trace.decode`; without, latents are shown as colours by the trace's linear map, or by their first three
    principal components where it has none. Raises TraceError for a batch or a trace without `denoised`, InputError for
    steps or frames that are not there.
    """
    values, picked, rows = kept(tr, "denoised", frame, steps)
    if decoded is None:
        board, how = as_colours(tr, values)
    else:
        board, how = np.asarray(decoded), "decoded by the VAE"
        if board.ndim == 5 and board.shape[:2] == tr.denoised.shape[:2]:
            board = board[np.ix_(picked, rows)]
        if board.ndim != 5 or board.shape[:2] != values.shape[:2]:
            call = f"tr.decode(pipe, steps={picked}, frames={rows})"
            raise InputError(f'decoded={errors.shown(decoded)}: "s f h w 3" is needed, as from {call}.')
        board = np.stack([files.as_frames(one, least=1, name="decoded") for one in board])
    which = f"frame {rows[0]}" if len(rows) == 1 else f"frames {', '.join(map(str, rows[:-1]))} and {rows[-1]}"
    return _by_frame(tr, board, picked, rows, title or f"Denoised estimate of {which}, {how}")


@takes(frame=INDEX, mode=partial(errors.one_of, options=MODES), name=text, title=WORDS)
def latents(
    tr: Any,
    *,
    frame: int = 0,
    steps: Sequence[int] | None = None,
    mode: str = "channels",
    name: str = "latents",
    title: str = "",
) -> Figure:
    """Latents of one frame from step to step: each channel as a map, or three components as colours.

    >>> show.latents(tr, frame=4)                                # a row per channel, blue below zero, red above
    >>> show.latents(tr, frame=4, mode="pca", name="denoised")

    name: latents (before the step, divided by sqrt(sigma^2 + 1), as the UNet sees them), or denoised, or another
    latent that was kept. mode: channels, pca (components over all shown steps), colours (the checkpoint's linear
    map). Raises as `denoising`.
    """
    values, picked, rows = kept(tr, name, frame, steps)
    what = f"{LATENTS.get(name, name)} of frame {frame}"
    if mode != "channels":
        board, how = as_colours(tr, values, pca=mode == "pca")
        return _by_frame(tr, board, picked, rows, title or f"{what}, {how}")
    maps, limit = values[:, 0], float(np.percentile(np.abs(values), 99.5)) or 1.0  # "s c h w", one scale around zero
    names, look = [f"channel {c}" for c in range(maps.shape[1])], dict(cmap="RdBu_r", vmin=-limit, vmax=limit)
    fig, axes = _board(tr, maps, picked, names, title or f"{what} by channel, in standard units", **look)
    key = axes[len(axes) // 2, -1].inset_axes((1 + 12 / fig.size[0], 0, 10 / fig.size[0], 1))
    fig.colorbar(axes[0, 0].images[0], cax=key).outline.set_visible(False)
    key.tick_params(labelsize=SMALL + 0.5, color=GREY)
    found = ({"channel": c, "mean": m.mean(), "sd": m.std()} for c in range(len(names)) for m in maps[:, c])
    return fig.finish(pd.DataFrame(step | row for step, row in zip(_steps(tr, picked) * len(names), found, strict=True)))


def as_colours(tr: Any, values: np.ndarray, *, pca: bool = False) -> tuple[np.ndarray, str]:
    """Latents "s f c h w" as images "s f h w 3", and how: by the trace's linear map, else by their first three principal
    components, each stretched to [0, 1]."""
    if not pca and tr.colours is not None:
        return tr.as_colours(values), "latents as colours"
    z = np.moveaxis(values, 2, -1)
    flat = z.reshape(-1, z.shape[-1])
    flat = flat - flat.mean(0)
    directions = np.linalg.svd(flat, full_matrices=False)[2][:3]
    directions *= np.sign(directions[np.arange(len(directions)), np.abs(directions).argmax(1)])[:, None]  # one sign, always
    parts = flat @ directions.T
    low, high = np.percentile(parts, [1, 99], axis=0)
    parts = np.clip((parts - low) / np.maximum(high - low, 1e-9), 0, 1)
    parts = np.pad(parts, [(0, 0), (0, 3 - parts.shape[1])]).reshape(*z.shape[:-1], 3)
    return parts, "first three principal components as red, green, blue"


def kept(tr: Any, name: str, frame: Any, steps: Any) -> tuple[np.ndarray, list[int], list[int]]:
    """What was kept under a name, float32 "s f c h w" at the chosen steps and frames, and those."""
    kept_steps(tr)
    found = tr[name]
    if found.ndim != 5:
        raise InputError(f'{name!r} has shape {tuple(found.shape)}: latents are "s f c h w".')
    picked = chosen(steps, found.shape[0], side_by_side(8, 70), "step")
    rows = chosen(frame, found.shape[1], 1, "frame")
    values = found[picked][:, rows].float().numpy()
    if name in ("latents", "next_latents"):  # as the UNet sees them
        ends = [tr.steps[i].sigma if name == "latents" else tr.steps[i].sigma_next for i in picked]
        values = values / np.sqrt(np.square(ends) + 1)[:, None, None, None, None]
    return values, picked, rows


def kept_steps(tr: Any) -> None:
    """InputError for what is no trace, TraceError for one of several samples."""
    if not hasattr(tr, "batch") or not hasattr(tr, "steps"):
        raise InputError(f"tr={errors.shown(tr)}: give a Trace, as from `with svdlab.trace(pipe) as tr`.")
    if tr.batch != 1:
        raise TraceError(f"this trace holds {tr.batch} samples: show one, as in show.denoising(tr[0]).")


def _steps(tr: Any, picked: list[int]) -> list[dict[str, Any]]:
    return [{"step": tr.steps[i].index, "sigma": tr.steps[i].sigma} for i in picked]


def _board(tr: Any, shown: np.ndarray, picked: list[int], names: Sequence[str], title: str, **look: Any) -> tuple[Figure, Any]:
    """Images or maps "s r h w ...", a column for each step and a row for each name."""
    size = fitted(shown.shape[2:4], columns=len(picked), width=room() - (beside(names) + 30 if len(names) > 1 else 0))
    sigmas = [f"{step['sigma']:.3g}" for step in _steps(tr, picked)]
    titles = dict(title=title, column_title="sigma, the noise level before the step")
    fig, axes = images(size=size, of=tr, row_labels=names, column_labels=sigmas, **titles)
    for (r, s), ax in np.ndenumerate(axes):
        draw(ax, scaled(shown[s, r], size), **look)
    return fig, axes


def _by_frame(tr: Any, shown: np.ndarray, picked: list[int], rows: list[int], title: str) -> Figure:
    """Images "s f h w 3", a column for each step and a row for each frame."""
    fig, _ = _board(tr, shown, picked, [f"frame {r}" for r in rows] if len(rows) > 1 else [""], title)
    found = [step | {"frame": r} | _mean_colour(image) for step, row in zip(_steps(tr, picked), shown, strict=True)
             for r, image in zip(rows, row, strict=True)]  # fmt: skip
    return fig.finish(pd.DataFrame(found))
