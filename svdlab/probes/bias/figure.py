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


def slopes(result: BiasResult, row: Any) -> Figure:
    """Each pair as a line from group a to group b, and beside it the differences, with how much ordinary images vary.

    row: a row of `result.table`: which contrast, which measure. Seeds are averaged.
    """
    contrast, measure, values = _values(result, row)
    words, unit = measure_of(measure)
    title = f"{contrast.scheme}: {words}, pair by pair"
    fig, axes = graphs(size=(330, 300), columns=2, of=result.clips, title=title, share=False)
    left, right = axes[0]
    falls, d = values.a > values.b, (values.a - values.b).to_numpy()
    for pair, down in zip(values.to_numpy(), falls, strict=True):
        left.plot([0, 1], pair, color=COLOURS[0] if down else COLOURS[1], alpha=0.35, linewidth=0.9, zorder=1)
    left.plot([0, 1], values.mean().to_numpy(), color=INK, linewidth=2.2, marker="o", markersize=5, zorder=3)
    left.set(xlim=(-0.25, 1.25), ylabel=f"{words} ({unit})" if unit not in ("", "share") else words)
    left.set_xticks([0, 1], [contrast.a, contrast.b])
    above = f"higher in {contrast.a} in {int(falls.sum())} of {len(values)} pairs"
    left.set_title(above, fontsize=LABEL, loc="left", color=INK)
    right.axhline(0, color=GREY, linewidth=0.8)
    right.plot(np.random.default_rng(0).uniform(-0.12, 0.12, len(d)), d, "o", markersize=3.5, mfc="none", mec=GREY)
    right.plot(0.3, d.mean(), "o", color=INK, markersize=6)
    notes, ticks = [f"{len(values)} pairs, seeds averaged"], {0.0: "pairs", 0.3: "mean"}
    if np.isfinite(row["low"]):
        right.plot([0.3, 0.3], [row["low"], row["high"]], color=INK, linewidth=2, solid_capstyle="butt")
        notes.append(f"black line: {100 * (1 - row['alpha']):g} % interval of the mean")
    for place, name, colour in ((0.65, "images", COLOURS[2]), (0.95, "seeds", COLOURS[3])):
        sd = row[f"sd_{name}"]
        if np.isfinite(sd):
            right.plot([place] * 2, [-sd, sd], color=colour, linewidth=5, alpha=0.6, solid_capstyle="butt")
            ticks[place] = name
            notes.append(f"broad bar: ±1 standard deviation of ordinary {name}")
    right.set_xticks(list(ticks), list(ticks.values()))
    right.set(xlim=(-0.25, 1.15), ylabel=f"{contrast.a} minus {contrast.b}")
    if any(measure in ODD.get(flip, ()) for flip in result.manifest.loc[pairs_of(result.manifest, contrast).b].flip_noise):
        notes.append(f"directions in {contrast.b} are turned back")
    return fig.finish(values.reset_index(), *notes)


def worst_pairs(result: BiasResult, row: Any, *, count: int = 3) -> Video:
    """The pairs whose clips differ most in a measure, side by side and in step: group a on the left, b on the right.

    row: as for `slopes`. Of each image, the clip of the first seed that has frames.
    """
    contrast, measure, values = _values(result, row)
    (words, unit), clips = measure_of(measure), result.clips
    labels, shown = [], []
    for pair in (values.a - values.b).abs().sort_values(ascending=False).index[:count]:
        for side, place in pairs_of(result.manifest, contrast).loc[pair].items():
            own = clips[(clips.label_row == place) & clips.frames.fillna("").ne("")]
            if own.empty:
                raise InputError(
                    f"the clips of {result.manifest.path[place]} have no frames: they failed, or their runs are gone."
                )
            labels.append(f"{pair}, {vars(contrast)[str(side)]}: {quantity(numbers(own[measure]).iloc[0], unit)}")
            shown.append(own.iloc[[0]])
    title = f"{contrast.scheme}, most different in {words}"
    return video(pd.concat(shown), labels=labels, columns=2, title=title, fps=float(clips.fps.iloc[0]))


def pairs(manifest: pd.DataFrame, *, count: int = 6) -> Figure:
    """The first pairs of each scheme as they are, drawn at one size: a row per group, a column per pair.

    manifest: of `svdlab.study.pairs.read_manifest`.
    """
    groups = list(manifest.groupby(["group_scheme", "group"], sort=False))
    columns = min(count, max(len(part) for _, part in groups))
    first = open_image(manifest.file.iloc[0])
    size = fitted((first.height, first.width), columns=columns, width=WIDTH - 160, most=128)
    names = [f"{scheme}: {group}" for (scheme, group), _ in groups]
    title = "Pairs: each column of a scheme differs in one respect"
    fig, axes = images(size=size, title=title, row_labels=names, column_labels=[""] * columns)
    how = Image.Resampling.NEAREST if size[0] >= first.height else None
    for row, (_, part) in zip(axes, groups, strict=True):
        for ax, file in zip(row, part.sort_values("pair_id").file, strict=False):
            draw(ax, np.asarray(open_image(file).resize(size[::-1], how)) / np.float32(255))
    shown = manifest[["path", "pair_id", "group", "group_scheme", "label_source", "licence"]]
    sources = (f"{name}: {'; '.join(shown[column].unique()[:3])}" for name, column in
               (("labels by", "label_source"), ("licence", "licence")))  # fmt: skip
    return fig.finish(shown, f"{len(manifest)} images", *sources)


def save_figures(result: BiasResult, out: str | Path) -> None:
    """The figures of a study into `out/figures/`: the forest, and slopes and videos of the three surest effects."""
    folder = Path(out, "figures")
    save(result.figure(), folder / "forest")
    seen = result.table[result.table.n >= 1].sort_values(["q", "p"], kind="stable")
    for _, row in seen.head(3).iterrows():
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
