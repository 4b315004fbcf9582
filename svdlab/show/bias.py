"""Bias studies: every effect with its interval, each pair as a line, and the pairs that differ most as films.

>>> show.forest(result.table, clips=result.clips)
>>> show.slopes(result.clips, result.manifest, result.table.iloc[0])
>>> show.worst_pairs(result.clips, result.manifest, result.table.iloc[0])
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from svdlab.errors import InputError, OutputError
from svdlab.pipeline.images import open_image
from svdlab.probes.paired import DIFFERENCE, EQUIVALENT, MEASURES, ODD, WITHIN, numbers, pair_values, said
from svdlab.show.provenance import about
from svdlab.show.style import COLOURS, GREY, INK, LABEL, PALE, SMALL, WIDTH, curves, draw, fitted, pictures, plain, save
from svdlab.show.videos import Video, video
from svdlab.stats.intervals import mean_limits
from svdlab.study.manifests import Contrast, pairs_of

STYLES = {DIFFERENCE: (COLOURS[1], "s"), WITHIN: (COLOURS[1], "D"), EQUIVALENT: (COLOURS[2], "^")}  # else an open grey circle
ROW, HEAD = 19, 74  # px of a measure's row, of a panel's head
REACHES = (3.0, 6.0)  # standard deviations that the axis goes to, at least and at most
ORDINARY = {"sd_pictures": COLOURS[2], "sd_seeds": COLOURS[3]}
CONTRAST = ["scheme", "a", "b"]


def forest(table: pd.DataFrame, *, clips: Any = None, title: str = "") -> Any:
    """Every contrast in every measure: effect and interval over the standard deviation of the pair differences.

    >>> show.forest(result.table, clips=result.clips)

    table: of `svdlab.probes.bias.compare`. clips: for the footer. A panel per contrast; the effect in its own unit and its q
    stand beside each row. Grey bars about zero are margins that were set beforehand. An arrow marks what lies beyond the axis.
    Raises InputError for any other table.
    """
    if not {*CONTRAST, "measure", "effect", "sd_pairs", "verdict"} <= set(table.columns):
        raise InputError("forest draws the table of svdlab.probes.bias.compare: this one lacks its columns.")
    groups = list(table.groupby(CONTRAST, sort=False))
    most = max(len(part) for _, part in groups)
    columns = min(2, len(groups))
    size = (WIDTH / columns if columns == 2 else 620, HEAD + ROW * most)
    counts = f"{table.n.min()}" if table.n.min() == table.n.max() else f"{table.n.min()} to {table.n.max()}"
    footer = (
        (f"{about(clips)} · " if clips is not None else "")
        + f"{counts} pairs · bars: 95 % intervals · square: difference (q < 0.05 over {table.p.notna().sum()} tests) · "
        "diamond: difference within the margin · triangle: equivalent within the margin (grey bar) · "
        "open: cannot tell, or too few pairs · thin lines: ±1 standard deviation of ordinary pictures (green), of seeds (pink)"
    )
    title = title or "Effects in standard deviations of the pair differences"
    fig, axes = curves(rows=-(-len(groups) // columns), columns=columns, size=size, title=title, footer=footer)
    spreads = table.sd_pairs.where(table.sd_pairs > 0)
    farthest = table[["effect", "low", "high"]].abs().max(axis=1) / spreads
    reach = float(np.clip(1.1 * np.nan_to_num(farthest.max()), *REACHES))
    for ax in list(axes.flat)[len(groups) :]:
        ax.set_visible(False)
    for ax, ((scheme, a, b), part) in zip(axes.flat, groups, strict=False):
        ax.set_title(f"{scheme}: {a} less {b}", fontsize=LABEL, loc="left", color=INK)
        ax.axvline(0, color=GREY, linewidth=0.8)
        for place, row in enumerate(part.to_dict("records")):
            _effect(ax, place, row, reach)
        ax.set_yticks(range(most), [said(name) for name in part.measure] + [""] * (most - len(part)), fontsize=LABEL - 1)
        ax.tick_params(axis="y", length=0, labelleft=True)
        ax.tick_params(axis="x", labelbottom=True)
        ax.set(xlim=(-reach, reach), ylim=(most - 0.5, -0.5))
        ax.set_xlabel("standard deviations", fontsize=LABEL - 1)
    fig.data = table
    return fig


def _effect(ax: Any, place: int, row: dict[Any, Any], most: float) -> None:
    spread = row["sd_pairs"]
    unit = MEASURES[row["measure"]].unit if row["measure"] in MEASURES else ""
    text = f"{row['effect']:.2g} {unit}".rstrip() + (f", q {row['q']:.2g}" if np.isfinite(row["q"]) else "")
    text = text if np.isfinite(row["effect"]) else "no number"
    ax.annotate(text, (1.02, place), xycoords=("axes fraction", "data"), fontsize=SMALL, color=INK, va="center")
    if not np.isfinite(spread):
        return
    d, low, high = (row[k] / spread if spread else 0.0 for k in ("effect", "low", "high"))
    colour, marker = STYLES.get(row["verdict"], (GREY, "o"))
    if np.isfinite(row["margin"]) and spread:
        reach = min(row["margin"] / spread, most)
        ax.barh(place, 2 * reach, left=-reach, height=0.9, color=PALE, alpha=0.6, linewidth=0, zorder=0)
    for (column, thin), below in zip(ORDINARY.items(), (0.28, 0.40), strict=True):
        if spread and np.isfinite(row[column]):
            reach = min(row[column] / spread, most)
            ax.plot([-reach, reach], [place + below] * 2, color=thin, linewidth=1, solid_capstyle="butt")
    ax.plot(np.clip([low, high], -most, most), [place, place], color=colour, linewidth=1.6, solid_capstyle="butt")
    if abs(d) > most:
        marker = ">" if d > 0 else "<"
    filled = row["verdict"] in STYLES
    ax.plot(np.clip(d, -0.98 * most, 0.98 * most), place, marker, color=colour, markersize=5,
            markerfacecolor=colour if filled else "white")  # fmt: skip


def slopes(clips: pd.DataFrame, manifest: pd.DataFrame, row: Any, *, title: str = "") -> Any:
    """Each pair as a line from group a to group b, and beside it the differences, with what ordinary pictures vary by.

    >>> show.slopes(result.clips, result.manifest, result.table.iloc[0])

    row: a row of `svdlab.probes.bias.compare`'s table: which contrast, which measure. Seeds are averaged.
    """
    contrast, measure = _of(row)
    values = pair_values(clips, manifest, contrast, measure).dropna()
    if values.empty:
        raise InputError(f"{contrast} in {measure}: no pair has a number in both pictures.")
    unit = f" ({MEASURES[measure].unit})" if measure in MEASURES and MEASURES[measure].unit else ""
    title = title or f"{contrast.scheme}: {said(measure)}, pair by pair"
    flips = manifest.loc[pairs_of(manifest, contrast).b, "flip_noise"] if "flip_noise" in manifest else []
    turned = any(measure in ODD.get(flip, ()) for flip in flips)
    footer = (
        f"{about(clips)} · {len(values)} pairs, seeds averaged · black bar: 95 % interval of the mean · "
        "broad bars: how much ordinary pictures of one group, and seeds of one picture, differ"
        + (f" · directions in {contrast.b} are turned back" if turned else "")
    )
    fig, axes = curves(rows=1, columns=2, size=(330, 300), title=title, footer=footer)
    for ax in axes.flat:
        ax.remove()  # the two have no axis in common
    left, right = (fig.add_subplot(1, 2, i + 1) for i in range(2))
    plain(left)
    plain(right)
    falls = values.a > values.b
    for (a, b), down in zip(values.to_numpy(), falls, strict=True):
        colour = COLOURS[0] if down else COLOURS[1]
        left.plot([0, 1], [float(a), float(b)], color=colour, alpha=0.35, linewidth=0.9, zorder=1)
    left.plot(
        [0, 1], [float(values.a.mean()), float(values.b.mean())], color=INK, linewidth=2.2, marker="o", markersize=5, zorder=3
    )
    left.set(xlim=(-0.25, 1.25), ylabel=f"{said(measure)}{unit}")
    left.set_xticks([0, 1], [contrast.a, contrast.b])
    left.set_title(
        f"{int(falls.sum())} of {len(values)} pairs: more in {contrast.a}", fontsize=LABEL - 0.5, loc="left", color=INK
    )
    d = (values.a - values.b).to_numpy()
    right.axhline(0, color=GREY, linewidth=0.8)
    across = np.random.default_rng(0).uniform(-0.12, 0.12, len(d))
    right.plot(across, d, "o", markersize=3.5, markerfacecolor="none", markeredgecolor=GREY)
    if len(d) > 1:
        right.plot([0.3, 0.3], list(mean_limits(d)), color=INK, linewidth=2, solid_capstyle="butt")
    right.plot(0.3, d.mean(), "o", color=INK, markersize=6)
    ticks = {0.0: "pairs", 0.3: "mean"}
    for place, name, (column, colour) in zip((0.65, 0.95), ("pictures", "seeds"), ORDINARY.items(), strict=True):
        if np.isfinite(row[column]):
            right.plot(
                [place, place], [-row[column], row[column]], color=colour, linewidth=5, alpha=0.6, solid_capstyle="butt"
            )
            ticks[place] = name
    right.set_xticks(list(ticks), list(ticks.values()))
    right.set(xlim=(-0.25, 1.15), ylabel=f"{contrast.a} less {contrast.b}{unit}")
    right.set_title("broad bars: ±1 standard deviation", fontsize=LABEL - 1.5, loc="left", color=INK)
    fig.data = values.reset_index()
    return fig


def worst_pairs(clips: pd.DataFrame, manifest: pd.DataFrame, row: Any, *, count: int = 3, title: str = "") -> Video:
    """The pairs whose clips differ most in a measure, side by side and in step: group a on the left, b on the right.

    >>> show.worst_pairs(result.clips, result.manifest, result.table.iloc[0]).save("results/worst.mp4")

    row: as for `slopes`. Of each picture, the clip of the first seed that has frames.
    """
    contrast, measure = _of(row)
    values = pair_values(clips, manifest, contrast, measure).dropna()
    order = (values.a - values.b).abs().sort_values(ascending=False).index[:count]
    places, unit = pairs_of(manifest, contrast), MEASURES[measure].unit if measure in MEASURES else ""
    labels, shown = [], []
    for pair in order:
        for side, group in (("a", contrast.a), ("b", contrast.b)):
            place = places.loc[pair, side]
            own = clips[(clips.label_row == place) & clips.frames.fillna("").ne("")]
            if own.empty:
                raise InputError(f"the clips of {manifest.path[place]} have no frames: they failed, or their runs are gone.")
            labels.append(f"{pair}, {group}: {numbers(own[measure]).iloc[0]:.2g} {unit}".rstrip())
            shown.append(own.iloc[[0]])
    if not shown:
        raise InputError(f"{contrast} in {measure}: no pair has a number in both pictures.")
    head = title or f"{contrast.scheme}, most different in {said(measure)}"
    return video(pd.concat(shown), labels=labels, columns=2, title=head, fps=float(clips.fps.iloc[0]))


def pairs(manifest: pd.DataFrame, *, count: int = 6, title: str = "") -> Any:
    """The first pairs of each scheme as they are: a row per group, a column per pair.

    >>> show.pairs(read_manifest("people.csv"))

    manifest: of `svdlab.study.manifests.read_manifest`. Pictures are drawn at one size, whatever theirs is.
    """
    groups = list(manifest.groupby(["group_scheme", "group"], sort=False))
    columns = min(count, max(len(part) for _, part in groups))
    first = open_image(manifest.file.iloc[0])
    size = fitted((first.height, first.width), columns=columns, width=WIDTH - 160, most=128)
    footer = f"{len(manifest)} pictures · labels: {_listed(manifest.label_source)} · licence: {_listed(manifest.licence)}"
    fig, axes = pictures(
        rows=len(groups), columns=columns, size=size, title=title or "Pairs: each column of a scheme differs in one respect",
        footer=footer, row_labels=[f"{scheme}: {group}" for (scheme, group), _ in groups],
    )  # fmt: skip
    for r, (_, part) in enumerate(groups):
        for ax in axes[r]:
            ax.set_axis_off()
        for ax, file in zip(axes[r], part.sort_values("pair_id").file, strict=False):
            picture = open_image(file).resize(size[::-1], Image.Resampling.NEAREST if size[0] >= first.height else None)
            draw(ax, np.asarray(picture) / np.float32(255))
    fig.data = manifest[["path", "pair_id", "group", "group_scheme", "label_source", "licence"]]
    return fig


def _listed(column: pd.Series) -> str:
    names = list(dict.fromkeys(column))
    return "; ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def save_bias(result: Any, out: str | Path, *, count: int = 3) -> list[Path]:
    """The figures of a study into `out/figures/`: the forest, and slopes and films of the largest effects.

    >>> save_bias(result, "results/people")

    result: of `svdlab.probes.bias.run`. count: how many effects, the surest first, get slopes and a film.
    """
    folder = Path(out, "figures")
    written = save(forest(result.table, clips=result.clips), folder / "forest")
    seen = result.table[result.table.n >= 1]
    for _, row in seen.sort_values(["q", "p"], kind="stable").head(count).iterrows():
        name = f"{row.scheme}-{row.measure}".replace(os.sep, "-")
        written += save(slopes(result.clips, result.manifest, row), folder / f"slopes-{name}", formats=("png", "csv"))
        written.append(worst_pairs(result.clips, result.manifest, row).save(folder / f"worst-{name}"))
    if not written:
        raise OutputError(f"{folder}: nothing was drawn.")
    return written


def _of(row: Any) -> tuple[Contrast, str]:
    try:
        return Contrast(str(row["scheme"]), str(row["a"]), str(row["b"])), str(row["measure"])
    except (KeyError, TypeError) as error:
        raise InputError("row is no row of svdlab.probes.bias.compare: give result.table.iloc[0], for example.") from error
