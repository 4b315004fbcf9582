"""What happens inside the denoising: attention maps, and the noise level at which image and motion are settled."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import matplotlib
import numpy as np
import pandas as pd

from svdlab import errors
from svdlab.errors import InputError, TraceError, number, several, takes
from svdlab.measure import video as files
from svdlab.show.clips import kept_steps
from svdlab.show.figure import (
    COLOURS,
    GREY,
    INDICES,
    LABEL,
    MARKERS,
    NARROW,
    SMALL,
    Figure,
    beside,
    chosen,
    draw,
    fitted,
    graphs,
    images,
    room,
    scaled,
    side_by_side,
)
from svdlab.show.labels import WORDS, block

PLACE = partial(several, check=partial(several, check=partial(number, least=0, most=1)))
VEIL = (0.15, 0.75)  # of a frame that is covered by its map: least, most
CURVES = {"motion": "agreement of the flow", "image": "agreement of the frames"}  # columns of svdlab.study.lock_in


def _names(name: str, value: Any) -> tuple[str, ...]:
    return several(name, [value] if isinstance(value, str) else value, errors.text, distinct=True)


@takes(names=_names, frames=INDICES, queries=PLACE, title=WORDS)
def attention(
    tr: Any,
    names: str | Sequence[str] | None = None,
    *,
    steps: Sequence[int] | None = None,
    frames: int | Sequence[int] | None = None,
    clip: Any = None,
    queries: Sequence[Sequence[float]] = ((0.5, 0.5),),
    title: str = "",
) -> Figure:
    """Attention maps that a trace kept, a column for each step: of which frame sees which, or of what a place sees.

    >>> with svdlab.trace(pipe, attention="temporal") as seen:
    ...     seen.clip = svdlab.generate(pipe, image, num_inference_steps=4)
    >>> show.attention(seen)                                         # query frames downwards, key frames to the right
    >>> with svdlab.trace(pipe, attention="unet.mid_block*.transformer_blocks.0.attn1") as seen:
    ...     seen.clip = svdlab.generate(pipe, image, num_inference_steps=4)
    >>> show.attention(seen, "unet.mid_block.attentions.0.transformer_blocks.0.attn1", clip=seen.clip, frames=[0, 7])

    tr: a Trace of one sample. names: modules, default all of the trace's temporal maps, else its first spatial one. steps: as
    in `show.denoising`. Spatial maps have a row for each of `frames` (default 3) and of `queries`, the positions (y, x) that
    `svdlab.trace` was given; the query is a cross. clip: frames that they are laid over. Of both halves the conditional one is
    shown. All maps share a scale from 0. Raises TraceError for a trace without such maps.
    """
    kept_steps(tr)
    maps = [n.removesuffix(".weights") for n in tr.names if n.endswith(".weights")]
    if not maps:
        raise TraceError('this trace holds no attention maps: svdlab.trace(pipe, attention="temporal") keeps them.')
    temporal = [n for n in maps if n.endswith("temporal_transformer_blocks.0.attn1") or tr[f"{n}.weights"].ndim == 4]
    wanted = [n.removesuffix(".weights") for n in names or temporal or maps[:1]]
    for name in wanted:
        errors.one_of("names", name, maps)
    if len({name in temporal for name in wanted}) > 1:
        raise InputError("names holds temporal and spatial attention: show one kind at a time.")
    picked = chosen(steps, len(tr), side_by_side(6, 80), "step")
    weights = [tr[f"{name}.weights"][picked][:, -1].float().numpy() for name in wanted]  # the conditional half
    sigmas = [f"{tr.sigmas[i]:.3g}" for i in picked]
    words: dict[str, Any] = dict(column_labels=sigmas, column_title="sigma, the noise level before the step")
    if wanted[0] in temporal:
        split = lambda n: block(n).replace(".att", ". att") if room() < NARROW else block(n)  # where a line may end
        rows = [(split(n), w) for n, w in zip(wanted, weights, strict=True)]
        title = title or "Temporal attention: each frame (down) on each frame (right), mean over sites and heads"
        return _maps(tr, rows, picked, {**words, "title": title})
    if len(wanted) > 1:
        raise InputError("names: spatial attention is shown for one module at a time.")
    shown = chosen(frames, weights[0].shape[1], 3, "frame")
    if len(queries) != weights[0].shape[2] or any(len(q) != 2 for q in queries):
        raise InputError(
            f"queries: the trace holds {weights[0].shape[2]} position(s); give them as svdlab.trace was given them."
        )
    under = None if clip is None else files.as_frames(clip, least=1, name="clip")
    if under is not None and len(under) != weights[0].shape[1]:
        raise InputError(f"clip has {len(under)} frames, the maps {weights[0].shape[1]}: give the clip of this trace.")
    many = len(queries) > 1
    rows = [
        (f"frame {f}" + f", ({q[0]:g}, {q[1]:g})" * many, weights[0][:, f, k]) for f in shown for k, q in enumerate(queries)
    ]
    below = [None if under is None else under[f] for f in shown for _ in queries]
    marks = [q for _ in shown for q in queries]
    title = title or f"Spatial attention of {block(wanted[0])}: where a place (cross) looks, mean over heads"
    return _maps(tr, rows, picked, {**words, "title": title}, below, marks)


def _maps(
    tr: Any, rows: list[tuple[str, np.ndarray]], picked: list[int], words: dict[str, Any], under: Any = None, marks: Any = None
) -> Figure:
    """Maps "s y x" by row, on one scale; under: a frame for each row, or None. marks: its query."""
    texts, top = [text for text, _ in rows], float(max(w.max() for _, w in rows)) or 1.0
    cmap, table = matplotlib.colormaps["viridis"], []
    over = under is not None and under[0] is not None
    shape = under[0].shape if over else max((w.shape[1:] for _, w in rows), key=lambda s: s[1])
    size = fitted(shape, columns=len(picked), width=room() - beside(texts) - 60, most=180)
    fig, axes = images(size=size, of=tr, row_labels=texts, **words)
    for r, (text, maps) in enumerate(rows):
        for ax, step, one in zip(axes[r], picked, maps, strict=True):
            if over:
                veil = np.array(np.clip(one / top, 0, 1), np.float32)
                y, x = ((np.arange(n) + 0.5) * m // n for n, m in zip(size, one.shape, strict=True))
                veil = veil[y.astype(int)][:, x.astype(int)][..., None]
                share = VEIL[0] + (VEIL[1] - VEIL[0]) * veil
                draw(ax, (1 - share) * scaled(under[r], size).mean(-1, keepdims=True) + share * cmap(veil[..., 0])[..., :3])
            else:
                draw(ax, one, vmin=0, vmax=top, cmap=cmap)
            if marks is not None:
                h, w = ax.images[0].get_size()
                ax.plot(marks[r][1] * w - 0.5, marks[r][0] * h - 0.5, "+", color="white", markersize=7, markeredgewidth=1.6)
            grid = pd.DataFrame(one).rename_axis("y").melt(var_name="x", value_name="weight", ignore_index=False)
            table.append(grid.reset_index().assign(map=text, step=tr.steps[step].index, sigma=tr.steps[step].sigma))
    key = axes[len(axes) // 2, -1].inset_axes((1 + 12 / size[1], 0, 10 / size[1], 1))
    bar = matplotlib.cm.ScalarMappable(matplotlib.colors.Normalize(0, top), cmap)
    fig.colorbar(bar, cax=key).outline.set_visible(False)
    key.tick_params(labelsize=SMALL + 0.5, color=GREY)
    first = ["map", "step", "sigma", "y", "x", "weight"]
    return fig.finish(pd.concat(table, ignore_index=True)[first], "cross: the query" if marks is not None else "")


@takes(threshold=partial(number, above=0, most=1), title=WORDS)
def lock_in(table: pd.DataFrame, *, threshold: float = 0.9, title: str = "") -> Figure:
    """When image and motion are settled: how well each step's estimate agrees with the finished clip, against the noise level.

    >>> from svdlab.study.lock_in import lock_in
    >>> show.lock_in(lock_in(pipe, "scene-27", num_inference_steps=4, seeds=[0, 1]), threshold=0.9)

    table: of `svdlab.study.lock_in.lock_in`: columns `seed`, `sigma`, `motion`, `image`. Noise falls to the right. Thin lines
    are seeds, thick ones their mean; the dashed line is the threshold, and a mark on it the sigma from which on a curve's mean
    stays above it. Raises InputError for another table.
    """
    errors.columns("table", table, "seed", "sigma", *CURVES)
    fig, axes = graphs(size=(520, 320), of=table, title=title or "Agreement of the estimate with the finished clip")
    ax, drawn = axes[0, 0], []
    for (column, words), colour, marker in zip(CURVES.items(), COLOURS, MARKERS, strict=False):
        for _, one in table.groupby("seed"):
            ax.plot(one["sigma"], one[column], color=colour, linewidth=0.7, alpha=0.45)
        mean = table.groupby("sigma")[column].mean().sort_index(ascending=False)
        ax.plot(mean.index, mean, color=colour, marker=marker, markersize=4, linewidth=1.8, label=words)
        below = np.flatnonzero(mean.to_numpy() < threshold)
        at = 0 if not len(below) else below[-1] + 1
        if at < len(mean):
            ax.plot(mean.index[at], threshold, marker, color="white", markeredgecolor=colour, markersize=9, markeredgewidth=2)
        drawn.append(pd.DataFrame({"curve": column, "sigma": mean.index, "mean": mean.to_numpy()}))
    ax.axhline(threshold, color=GREY, linestyle="--", linewidth=1, zorder=0)
    ax.set_xscale("log")
    ax.invert_xaxis()
    ax.set_yticks(np.arange(0, 1.01, 0.2))
    low = float(min(0.0, table[[*CURVES]].min().min()))
    ax.set(xlabel="sigma, the noise level before the step", ylabel="agreement (1: the clip's own)", ylim=(low - 0.05, 1.06))
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=1 if room() < 400 else 2, frameon=False, fontsize=LABEL)
    runs = table[["seed", "sigma", *CURVES]].melt(["seed", "sigma"], var_name="curve", value_name="agreement")
    data = runs.merge(pd.concat(drawn), on=["curve", "sigma"])
    return fig.finish(data, "thin: seeds", f"dashed: threshold {threshold:g}", "mark: from there on above it")
