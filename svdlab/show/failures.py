"""The worst clips of a study, by every kind of failure, with the frame and the region where each shows."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.patches import Rectangle

from svdlab.errors import COUNT, InputError, MissingExtraError, takes
from svdlab.measure.failures import judge, kinds_of, place
from svdlab.show.clips import _absent, frames_of
from svdlab.show.figure import COLOURS, INK, LABEL, Figure, broken, draw, fitted, images, placed, room, side_by_side
from svdlab.show.labels import MODEL, RUN, SHAPE, WORDS, captions
from svdlab.show.motion import HALO

SHOWN, LEAST = 6, 90  # frames of a clip, each of at least so many px
SIDES = ("left", "top", "right", "bottom")
MADE = ("image", *RUN, *SHAPE, *MODEL)


@takes(k=partial(COUNT, most=100), kinds=kinds_of, title=WORDS)
def failures(results: pd.DataFrame, k: int = 6, *, kinds: Sequence[str] | None = None, title: str = "") -> Figure:
    """The k worst clips as filmstrips: the reason beside each, and a frame around the image and the region where it shows.

    >>> show.failures(results)                                       # of each kind the worst, then the second worst
    >>> show.failures(results, kinds=["blur"], k=3).data[["run_id", "seed", "fps", "reason", "frame"]]

    results: a table of runs with their `frames` (a sweep's, a measured folder's). kinds: of
    `svdlab.measure.failures.KINDS`, default all that the table can be judged by. Clips that reach a threshold come first;
    where fewer than k do, the worst of the others follow, and say so. The figure's table has the conditions and the seed that
    make each clip again. Raises InputError for a table without measures or without clips.
    """
    found = judge(results, kinds)
    sources = results["frames"].tolist() if "frames" in results else [""] * len(results)
    found = found[(found["severity"] > 0) & ~found["run"].map(lambda i: _absent(sources[i]))]
    if found.empty:
        raise InputError(f"none of {len(results)} clips shows any failure, or none has frames.")
    turn = found.groupby(["failed", "kind"], sort=False).cumcount()  # the worst of each kind, then the second worst
    order = pd.DataFrame({"failed": ~found["failed"], "turn": turn, "severity": -found["severity"]})
    found = found.loc[order.sort_values([*order], kind="stable").index[:k]].reset_index(drop=True)
    count, parts = side_by_side(SHOWN, LEAST), {}
    for run in found["run"].unique():  # one clip in memory at a time
        frames = frames_of(sources[run])
        for row in found.index[found["run"] == run]:
            at, box = _place(found["kind"][row], frames)
            shown = np.unique(np.linspace(0, len(frames) - 1, count).round().astype(int))
            shown[np.abs(shown - at).argmin()] = at
            parts[row] = at, box, shown, frames[shown]
    strips = [parts[row] for row in found.index]
    runs = results.iloc[found["run"]]
    labels = [f"{reason} ({made})" for reason, made in zip(found["reason"], captions(runs, results), strict=True)]
    size = fitted(max((strip.shape[1:] for *_, strip in strips), key=lambda shape: shape[1]), columns=count)
    reached = f"{int(found['failed'].sum()) or 'none'} of {len(found)} reach the threshold"
    title = title or f"Worst of {len(results)} clips by kind of failure: {reached}"
    fig, axes = images(size=size, of=runs, title=title, row_labels=[""] * len(found), column_labels=[""] * count)
    for row, label, (at, box, shown, strip) in zip(axes, labels, strips, strict=True):
        words = broken(label, LABEL, room() - 40)
        row[0].set_title("\n" * words.count("\n") + " ", fontsize=LABEL, pad=3)  # its place; it may be wider than the image
        look = dict(xycoords="axes fraction", textcoords="offset points", fontsize=LABEL, color=INK, annotation_clip=False)
        row[0].annotate(words, (0, 1), xytext=(0, 4), **look).set_in_layout(False)
        for ax in row[len(shown) :]:
            ax.set_visible(False)
        for ax, image, t in zip(row, strip, shown, strict=False):
            _frame(ax, image, size, t, marked=t == at, box=box)
    kept = runs[[c for c in ("run_id", *MADE) if c in runs]].reset_index(drop=True)
    where = pd.DataFrame([(at, *(box or [np.nan] * 4)) for at, box, *_ in strips], columns=["frame", *SIDES])
    return fig.finish(pd.concat([found.drop(columns="run"), where, kept], axis=1), "orange: where it shows most")


def _place(kind: str, frames: np.ndarray) -> Any:
    try:
        return place(kind, frames)
    except MissingExtraError:  # the table's numbers were made elsewhere
        return len(frames) - 1, None


def _frame(ax: Any, image: np.ndarray, size: tuple[int, int], t: int, *, marked: bool, box: Any) -> None:
    """One frame in the middle of an axes of that size; the clips of a folder may differ in theirs."""
    board, by, (down, across) = placed(image, size)
    draw(ax, board)
    ax.set_xlabel(f"frame {t}", fontsize=LABEL - 1, color=COLOURS[1] if marked else INK, labelpad=2)
    if marked:
        ax.spines[:].set(visible=True, color=COLOURS[1], linewidth=2)
        if box is not None:
            left, top, right, bottom = box
            corner = (across + left * by - 0.5, down + top * by - 0.5)
            look: dict[str, Any] = dict(fill=False, edgecolor=COLOURS[1], linewidth=1.4, path_effects=HALO)
            ax.add_patch(Rectangle(corner, (right - left) * by, (bottom - top) * by, **look))
