"""Frames laid out to be compared: one clip as a strip, a sweep as a labelled contact sheet.

>>> show.filmstrip([clip_a, clip_b])
>>> show.sheet(results, rows="motion_bucket_id", columns="fps", note="flow_px")
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from svdlab.errors import InputError
from svdlab.measure.frames import as_frames
from svdlab.measure.video import read_frames
from svdlab.show.provenance import about, axis, name, number
from svdlab.show.style import GREY, INK, LABEL, Figure, draw, fitted, pictures, scaled, text_width
from svdlab.show.videos import named


def filmstrip(
    clips: Any,
    *,
    labels: Sequence[str] | None = None,
    frames: Sequence[int] | None = None,
    given: bool = False,
    most: int = 8,
    title: str = "",
) -> Figure:
    """Frames from left to right, a row for each clip.

    >>> show.filmstrip({"truth": scenes.video[0], "model": clip})

    clips and labels: as in `show.video`. frames: which ones; default `most` of them, evenly spread, first and last
    included. given: begin with the picture that each Clip was made from. Raises InputError for no clips, or a frame
    that a clip does not have.
    """
    one = hasattr(clips, "frames") or isinstance(clips, np.ndarray)
    footer = about(clips)
    clips, labels = named(clips, labels)
    if given and not all(hasattr(c, "image") for c in clips):
        raise InputError("given=True needs Clips, which know the picture that they were made from.")
    films = [as_frames(getattr(c, "frames", c)) for c in clips]
    shortest = min(map(len, films))
    chosen = (
        list(frames) if frames is not None else np.linspace(0, shortest - 1, min(most, shortest)).round().astype(int).tolist()
    )
    for i in chosen:
        if not 0 <= i < shortest:
            raise InputError(f"frame {i}: the clips have frames 0 to {shortest - 1}.")
    if len({f.shape[1:] for f in films}) > 1:
        raise InputError(f"the clips have sizes {sorted({f.shape[1:3] for f in films})}: a strip needs one size.")
    row_labels = [] if one else labels
    taken = max((text_width(t, LABEL) for t in row_labels), default=0)
    size = fitted(films[0].shape[1:], columns=len(chosen) + given, width=900 - taken)
    fig, axes = pictures(
        rows=len(films),
        columns=len(chosen) + given,
        size=size,
        title=title or f"Frames 0 to {chosen[-1]}" + (f": {labels[0]}" if one and labels[0] else ""),
        footer=footer,
        column_labels=["given"] * given + [f"frame {i}" for i in chosen],
        row_labels=row_labels,
    )
    for r, film in enumerate(films):
        if given:
            draw(axes[r, 0], scaled(np.asarray(clips[r].image) / np.float32(255), size))
        for c, i in enumerate(chosen, start=int(given)):
            draw(axes[r, c], scaled(film[i], size))
    means = [
        {
            "clip": label,
            "frame": i,
            "red": film[i, ..., 0].mean(),
            "green": film[i, ..., 1].mean(),
            "blue": film[i, ..., 2].mean(),
        }
        for film, label in zip(films, labels, strict=True)
        for i in chosen
    ]
    fig.data = pd.DataFrame(means)
    return fig


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

    >>> show.sheet(results, rows="motion_bucket_id", columns="fps", note="flow_px")
    >>> show.sheet(results.query("seed == 0"), rows="seed", columns="max_guidance_scale", frame=4)

    results: the table that `svdlab.sweep` returns, narrowed to one run a cell (of several, the first is shown).
    frame: number in each clip, negative from the end. note: a column whose value stands under each picture.
    clips: in the table's order, instead of the ones on disk. A condition that was not run, or failed, is a blank cell
    that says so. Raises InputError for a column that the table lacks.
    """
    for column in filter(None, (rows, columns, note)):
        if column not in results.columns:
            raise InputError(f"no column {column!r}: the table has {', '.join(map(str, results.columns))}.")
    if results.empty:
        raise InputError("the table has no rows: nothing to lay out.")
    table = results.assign(_clip=range(len(results))).drop_duplicates([rows, columns])
    films = {int(i): _film(results, int(i), clips) for i in table["_clip"]}
    down, across = (sorted(table[c].unique(), key=_order) for c in (rows, columns))
    shape = next((f.shape[1:] for f in films.values() if f is not None), None)
    if shape is None:
        raise InputError(
            f"none of the {len(table)} runs has frames: their status is {', '.join(map(str, table['status'].unique()))}."
        )
    size = fitted(shape, columns=len(across), width=860, most=240)
    several = len(table) < len(results)
    fig, axes = pictures(
        rows=len(down),
        columns=len(across),
        size=size,
        title=title or f"{_which(frame)} by {name(rows)} and {name(columns)}" + (f", with {axis(note)}" if note else ""),
        footer=about(table) + (" · first of several runs a cell" if several else ""),
        column_labels=[number(v) for v in across],
        row_labels=[number(v) for v in down],
        column_title=axis(columns),
        row_title=axis(rows),
        captions=1 if note else 0,
    )
    shown = []
    for r, value in enumerate(down):
        for c, other in enumerate(across):
            ax = axes[r, c]
            hit = table[(table[rows] == value) & (table[columns] == other)]
            film = None if hit.empty else films[int(hit["_clip"].iloc[0])]
            if film is None:
                draw(ax, np.ones((1, 1, 3)))
                ax.text(
                    0.5,
                    0.5,
                    "not run" if hit.empty else "failed",
                    transform=ax.transAxes,
                    ha="center",
                    va="center",
                    fontsize=LABEL,
                    color=GREY,
                )
                continue
            if not -len(film) <= frame < len(film):
                raise InputError(f"frame {frame}: the clip has frames 0 to {len(film) - 1}.")
            draw(ax, scaled(film[frame], size))
            if note:
                text = _noted(hit[note].iloc[0])
                ax.text(0.5, -2 / size[0], text, transform=ax.transAxes, ha="center", va="top", fontsize=LABEL - 1, color=INK)
            shown.append(hit.drop(columns="_clip"))
    fig.data = pd.concat(shown)[[c for c in dict.fromkeys([rows, columns, note, "seed", "run_id"]) if c in results.columns]]
    return fig


def _film(results: pd.DataFrame, i: int, clips: Sequence[Any] | None) -> np.ndarray | None:
    """A run's frames: the given ones, or what its folder holds; None for a run that has none."""
    if clips is not None:
        return as_frames(getattr(clips[i], "frames", clips[i]))
    path = results.iloc[i].get("frames")
    return as_frames(read_frames(path)) if isinstance(path, str) and path else None


def _which(frame: int) -> str:
    return {-1: "Last frame", 0: "First frame"}.get(frame, f"Frame {frame}")


def _noted(value: Any) -> str:
    if _is_number(value):
        return number(round(float(value), 2)) if np.isfinite(value) else "cannot tell"
    return "cannot tell" if value is None else str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool)


def _order(value: Any) -> tuple[bool, Any]:
    """Numbers by size, then the rest by name."""
    return (not _is_number(value), value if _is_number(value) else str(value))
