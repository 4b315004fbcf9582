"""Figures of a bias study: the pairs themselves, each pair as a line, and the pairs that differ most as videos.

pairs(result.manifest)
slopes(result, result.table.iloc[0])
worst_pairs(result, result.table.iloc[0]).save("results/worst.mp4")
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from svdlab.errors import InputError
from svdlab.pipeline.images import open_image
from svdlab.probes.bias.contrasts import ODD, measure_of, pair_values
from svdlab.probes.bias.study import BiasResult
from svdlab.show.clips import Video, video
from svdlab.show.figure import COLOURS, GREY, INK, LABEL, WIDTH, Figure, draw, fitted, graphs, images, save
from svdlab.stats.effects import numbers, quantity
from svdlab.study.pairs import Contrast, pairs_of

ORDINARY = {"images": ("sd_images", COLOURS[2]), "seeds": ("sd_seeds", COLOURS[3])}


def slopes(result: BiasResult, row: Any, *, title: str = "") -> Figure:
    """Each pair as a line from group a to group b, and beside it the differences, with how much ordinary images vary.

    row: a row of `result.table`: which contrast, which measure. Seeds are averaged.
    """
    contrast, measure, values = _values(result, row)
    known = measure_of(measure)
    axis = f"{known.says} ({known.unit})" if known.unit not in ("", "share") else known.says
    title = title or f"{contrast.scheme}: {known.says}, pair by pair"
    fig, axes = graphs(size=(330, 300), columns=2, of=result.clips, title=title, sharex=False, sharey=False)
    left, right = axes[0]
    falls = values.a > values.b
    for pair, down in zip(values.to_numpy(), falls, strict=True):
        left.plot([0, 1], pair, color=COLOURS[0] if down else COLOURS[1], alpha=0.35, linewidth=0.9, zorder=1)
    left.plot([0, 1], values.mean().to_numpy(), color=INK, linewidth=2.2, marker="o", markersize=5, zorder=3)
    left.set(xlim=(-0.25, 1.25), ylabel=axis)
    left.set_xticks([0, 1], [contrast.a, contrast.b])
    left.set_title(
        f"higher in {contrast.a} in {int(falls.sum())} of {len(values)} pairs", fontsize=LABEL, loc="left", color=INK
    )
    d = (values.a - values.b).to_numpy()
    right.axhline(0, color=GREY, linewidth=0.8)
    right.plot(np.random.default_rng(0).uniform(-0.12, 0.12, len(d)), d, "o", markersize=3.5, mfc="none", mec=GREY)
    notes = [f"{len(values)} pairs, seeds averaged"]
    if np.isfinite(row["low"]):
        right.plot([0.3, 0.3], [row["low"], row["high"]], color=INK, linewidth=2, solid_capstyle="butt")
        notes.append(f"black line: {100 * (1 - row['alpha']):g} % interval of the mean")
    right.plot(0.3, d.mean(), "o", color=INK, markersize=6)
    ticks = {0.0: "pairs", 0.3: "mean"}
    for place, (name, (column, colour)) in zip((0.65, 0.95), ORDINARY.items(), strict=True):
        if np.isfinite(row[column]):
            right.plot([place] * 2, [-row[column], row[column]], color=colour, linewidth=5, alpha=0.6, solid_capstyle="butt")
            ticks[place] = name
    if len(ticks) > 2:
        notes.append(f"broad bars: ±1 standard deviation of ordinary {' and '.join(list(ticks.values())[2:])}")
    right.set_xticks(list(ticks), list(ticks.values()))
    right.set(xlim=(-0.25, 1.15), ylabel=f"{contrast.a} minus {contrast.b}")
    flips = result.manifest.loc[pairs_of(result.manifest, contrast).b].get("flip_noise", pd.Series(dtype=str))
    if any(measure in ODD.get(flip, ()) for flip in flips):
        notes.append(f"directions in {contrast.b} are turned back")
    return fig.finish(values.reset_index(), *notes)


def worst_pairs(result: BiasResult, row: Any, *, count: int = 3, title: str = "") -> Video:
    """The pairs whose clips differ most in a measure, side by side and in step: group a on the left, b on the right.

    row: as for `slopes`. Of each image, the clip of the first seed that has frames.
    """
    contrast, measure, values = _values(result, row)
    places, clips = pairs_of(result.manifest, contrast), result.clips
    labels, shown = [], []
    for pair in (values.a - values.b).abs().sort_values(ascending=False).index[:count]:
        for side, group in (("a", contrast.a), ("b", contrast.b)):
            place = places.loc[pair, side]
            own = clips[(clips.label_row == place) & clips.frames.fillna("").ne("")]
            if own.empty:
                path = result.manifest.path[place]
                raise InputError(f"the clips of {path} have no frames: they failed, or their runs are gone.")
            labels.append(f"{pair}, {group}: {quantity(numbers(own[measure]).iloc[0], measure_of(measure).unit)}")
            shown.append(own.iloc[[0]])
    head = title or f"{contrast.scheme}, most different in {measure_of(measure).says}"
    return video(pd.concat(shown), labels=labels, columns=2, title=head, fps=float(clips.fps.iloc[0]))


def pairs(manifest: pd.DataFrame, *, count: int = 6, title: str = "") -> Figure:
    """The first pairs of each scheme as they are: a row per group, a column per pair.

    manifest: of `svdlab.study.pairs.read_manifest`. Images are drawn at one size, whatever theirs is.
    """
    groups = list(manifest.groupby(["group_scheme", "group"], sort=False))
    columns = min(count, max(len(part) for _, part in groups))
    first = open_image(manifest.file.iloc[0])
    size = fitted((first.height, first.width), columns=columns, width=WIDTH - 160, most=128)
    names = [f"{scheme}: {group}" for (scheme, group), _ in groups]
    title = title or "Pairs: each column of a scheme differs in one respect"
    fig, axes = images(size=size, title=title, row_labels=names, column_labels=[""] * columns)
    how = Image.Resampling.NEAREST if size[0] >= first.height else None
    for row, (_, part) in zip(axes, groups, strict=True):
        for ax, file in zip(row, part.sort_values("pair_id").file, strict=False):
            draw(ax, np.asarray(open_image(file).resize(size[::-1], how)) / np.float32(255))
    notes = [f"{len(manifest)} images"]
    for what, column in (("labels", manifest.label_source), ("licence", manifest.licence)):
        known = list(dict.fromkeys(column))
        notes.append(f"{what}: {'; '.join(known[:3])}" + (f" and {len(known) - 3} more" if len(known) > 3 else ""))
    return fig.finish(manifest[["path", "pair_id", "group", "group_scheme", "label_source", "licence"]], *notes)


def save_figures(result: BiasResult, out: str | Path, *, count: int = 3) -> None:
    """The figures of a study into `out/figures/`: the forest, and slopes and videos of the largest effects.

    count: how many effects, the surest first, get slopes and a video.
    """
    folder = Path(out, "figures")
    save(result.figure(), folder / "forest")
    seen = result.table[result.table.n >= 1].sort_values(["q", "p"], kind="stable")
    for _, row in seen.head(count).iterrows():
        name = f"{row.scheme}-{row.measure}".replace(os.sep, "-")
        save(slopes(result, row), folder / f"slopes-{name}", formats=("png", "csv"))
        worst_pairs(result, row).save(folder / f"worst-{name}")


def _values(result: BiasResult, row: Any) -> tuple[Contrast, str, pd.DataFrame]:
    try:
        contrast, measure = Contrast(row["scheme"], row["a"], row["b"]), str(row["measure"])
    except (KeyError, TypeError) as error:
        raise InputError("row is no row of a bias study's table: give result.table.iloc[0], for example.") from error
    values = pair_values(result.clips, result.manifest, contrast, measure).dropna()
    if values.empty:
        raise InputError(f"{contrast} in {measure}: no pair has a number in both images.")
    return contrast, measure, values
