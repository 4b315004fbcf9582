"""Does the model degrade some inputs more than others, and how sure is that? Groups of images, compared in many measures.

    from svdlab.probes import bias
    design = bias.Design("people.csv", margins={"object_px": 0.3}, seeds=range(4))
    print(bias.register(pipe, design, "results/people").expectation)  # what so many pairs can and cannot show
    result = bias.run(pipe, design, "results/people")
    result.table[["scheme", "measure", "value", "low", "high", "q", "verdict"]]
    print(result.report())
    bias.slopes(result, result.table.iloc[0])

In image-to-video the person and the place are in the input, so the question is not who the model draws but whether it gives
some inputs less motion, faster loss of the image, more blur, or a preferred direction. Images come in pairs, or in groups
without (`svdlab.study.manifest`); the pair or the identity is the unit. A clip's measure is compared minus that of the
image's round trip through the autoencoder. Contrasts, margins and sample are in plan.json before the first clip; all tests of
a study are one family. See `bias.planted` for pairs whose truth is known, `bias.symmetry` for directions.
"""

import json
import re
import sys
import warnings
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
    text,
)
from svdlab.measure.files import csv_text, exported, plain, read_json, write_whole
from svdlab.pipeline.conditions import Conditions, conditions_of
from svdlab.pipeline.generate import ProbePipeline
from svdlab.pipeline.images import CropWarning
from svdlab.pipeline.pipeline import pipeline
from svdlab.probes.bias.differences import (
    MEASURES,
    ODD,
    ROUND_TRIP,
    any_difference,
    can_show,
    compare,
    manifest_rows,
    margins_of,
    pair_values,
)
from svdlab.probes.bias.measured import autoencoder_loss, blocks, face, measurable
from svdlab.probes.conditioning import classify
from svdlab.show import page
from svdlab.show.clips import Video, video
from svdlab.show.figure import COLOURS, INK, WIDTH, Figure, draw, fitted, graphs, images, save
from svdlab.show.page import Sections, Strong, markdown
from svdlab.show.tables import forest
from svdlab.stats.effects import EFFECT, VERDICTS, numbers, quantity
from svdlab.study import ledger
from svdlab.study.groups import OTHERS, Contrast, check_covariates, confounds, contrasts, pairs_of
from svdlab.study.manifest import BOX, image_of, paired, read_manifest, units
from svdlab.study.sweep import sweep
from svdlab.study.weights import weights_hash

PLAN = "plan.json"
PLANNED: dict[str, Any] = dict(  # its schema
    **dict.fromkeys(("pairs", "margins", "conditions", "reference"), dict),
    **dict.fromkeys(("measures", "seeds", "sample", "covariates"), list),
    **dict.fromkeys(("expectation", "svdlab", "written"), str),
    **dict.fromkeys(("checkpoint", "weights"), (str, type(None))),
    alpha=float,
)
LARGEST = 2**26  # bytes of a plan that is read
APART = 100_000  # between the seeds of one pair and the next
LIMITS = """What such a study can and cannot show: it compares the groups that the manifest names, on these images, at these
conditions. Labels are the manifest's; images within a pair may differ in more than the group (see the confounds). An effect
means that the model, its autoencoder or the instruments respond differently, not why. "Inconclusive" is no evidence of
fairness; "equivalent" holds for the margin that was set beforehand, and no other. A measure of motion or blur is no measure
of harm."""


@dataclass
class Design:
    """What a study will do.

    Design("people.csv", measures=["still"], margins={"still": 0.1}, seeds=range(4))

    manifest: a file or a DataFrame (see `study.manifest`), read and checked at once. measures: names of MEASURES; default
    all that can be measured here. margins: by measure, in its unit; only those that are in the plan count. seeds: of the first
    pair; each further pair (or image without one) has its own, 100,000 higher, so that a result is not that of a few seeds.
    conditions: default the checkpoint's preset, else diffusers' defaults. alpha: of the family. reference: scheme -> the group
    that all others are compared with; default the mean of the others. covariates: columns adjusted for by regression. Raises
    InputError before any model runs.
    """

    manifest: Any
    measures: Any = None
    margins: Mapping[str, float] = field(default_factory=dict)
    seeds: Any = (0, 1)
    conditions: Conditions | None = None
    alpha: float = 0.05
    reference: Mapping[str, str] = field(default_factory=dict)
    covariates: Any = ()

    def __post_init__(self) -> None:
        self.manifest = read_manifest(self.manifest)
        named = partial(one_of, options=MEASURES)
        chosen = measurable(self.manifest) if self.measures is None else self.measures
        self.measures = list(several("measures", chosen, named, distinct=True))
        self.margins = margins_of(self.margins, list(MEASURES))
        self.seeds = list(several("seeds", self.seeds, seed, distinct=True))
        self.alpha = LEVEL("alpha", self.alpha)
        kind(Conditions, type(None))("conditions", self.conditions)
        self.reference = dict(kind(Mapping)("reference", self.reference))
        contrasts(self.manifest, self.reference)
        self.covariates = list(several("covariates", self.covariates, text, least=0, distinct=True))
        check_covariates(self.manifest, self.covariates, self.reference)

    @property
    def pairs(self) -> dict[str, Any]:
        """How many pairs each contrast has; of unpaired groups, how many units on both sides ("12 and 30")."""
        return {name: n if n == m else f"{n} and {m}" for name, (n, m, _) in self._sizes().items()}

    def _sizes(self) -> dict[str, tuple[int, int, bool]]:
        """Units of both sides of each contrast, and whether they are pairs."""
        found = {}
        for c in contrasts(self.manifest, self.reference):
            part = self.manifest[self.manifest.group_scheme == c.scheme]
            own, of_b = units(part), part.group.ne(c.a) if c.b == OTHERS else part.group.eq(c.b)
            both = own[of_b].nunique(), own[part.group == c.a].nunique()
            found[str(c)] = (min(both), min(both), True) if paired(part) else (both[1], both[0], False)
        return found

    @property
    def expectation(self) -> str:
        """What so many pairs can and cannot show, at alpha over the number of tests, the strictest of the correction."""
        tests = len(self.pairs) * len(self.measures)
        strictest = self.alpha / tests
        lines = [
            f"{tests} tests: {len(self.pairs)} contrast(s) in {len(self.measures)} measure(s), alpha {self.alpha:g} over all."
        ]
        for contrast, (n, m, in_pairs) in self._sizes().items():
            lines.append(f"{contrast}: {can_show(n, m, in_pairs, strictest)}.")
        if self.covariates:
            lines.append(f"Adjusted by regression on {', '.join(self.covariates)}.")
        if unset := [name for name in self.measures if name not in self.margins]:
            lines.append(f"Equivalence cannot be shown for {', '.join(unset)}: no margin was set.")
        return "\n".join(lines)

    def plan(self, pipe: ProbePipeline) -> dict[str, Any]:
        """Every decision as plain JSON: the design's, and what the pipeline and the images add. sample: of each image."""
        sample = [f"{row.group_scheme}/{row.pair_id}/{row.group}: {row.image_hash[:12]}" for row in self.manifest.itertuples()]
        conditions = plain((self.conditions or conditions_of(pipe.source.checkpoint)).asdict())
        names = ("pairs", "measures", "margins", "seeds", "alpha", "expectation", "reference", "covariates")
        own = {name: getattr(self, name) for name in names}
        made_by = dict(checkpoint=exported(pipe.source.checkpoint), weights=weights_hash(pipe), svdlab=__version__)
        written = datetime.now(UTC).isoformat(timespec="seconds")
        return own | dict(conditions=conditions, sample=sample) | made_by | dict(written=written)


@dataclass(frozen=True, repr=False)
class BiasResult:
    """What a study found.

    table: of `compare`, and whether each row was `planned`. clips: a row per clip. plan: of plan.json. departures: from it.
    overall: of `any_difference`, where a scheme has more than two groups.
    """

    table: pd.DataFrame
    clips: pd.DataFrame
    manifest: pd.DataFrame
    confounds: pd.DataFrame
    plan: dict[str, Any]
    departures: list[str] = field(default_factory=list)
    label: str = ""
    overall: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def verdict(self) -> str:
        """One sentence over all: how many comparisons of each verdict, and which are effects."""
        counts, found = self.table["verdict"].value_counts(), self.table[self.table["verdict"] == EFFECT]
        where = "; ".join(found["scheme"] + " in " + found["label"])
        parts = [f"{counts[v]} {v}{f' ({where})' if v == EFFECT else ''}" for v in VERDICTS if v in counts]
        return f"Of {len(self.table)} comparison{'s' * (len(self.table) != 1)}: {', '.join(parts)}."

    def figure(self) -> Figure:
        """All effects with their intervals, in standard deviations (of pairs' differences), a panel per contrast."""
        in_pairs = self.table["adjusted"].str.contains("pairs").all()
        title = f"Effects in standard deviations of {'the pair differences' if in_pairs else 'the difference per unit'}"
        return forest(self.table, by="contrast", standardised=True, of=self.clips, title=title)

    def __repr__(self) -> str:
        return f"<bias study of {len(self.manifest)} images, {len(self.clips)} clips. {self.verdict}>"

    def _repr_html_(self) -> str:
        return page.blocks(Strong(self.verdict), self.figure())

    def report(self) -> str:
        """The study as Markdown: departures from the plan come first, the limits last."""
        by_q = self.table.sort_values("q", kind="stable")
        mixed = self.confounds.loc[self.confounds["flagged"], "sentence"].tolist()
        rows = self.manifest[["group_scheme", "label_source", "notes"]].drop_duplicates().itertuples()
        labels = [f"{row.group_scheme}: labels by {row.label_source}{'. ' * bool(row.notes)}{row.notes}" for row in rows]
        terms = self.manifest[["licence", "consent"]].drop_duplicates().itertuples()
        taken_off = ", ".join(self.plan["covariates"])
        sections: Sections = {
            "": [Strong(self.verdict)],
            "Departures from the plan": [self.departures or "None."],
            "What was expected of the sample": [self.plan["expectation"].split("\n")],
            "Findings": [[sentence for v in VERDICTS for sentence in by_q.loc[by_q["verdict"] == v, "sentence"]]],
            "Any difference among several groups": [self.overall["sentence"].tolist() if len(self.overall) else "Not tested."],
            "Confounds: what else differs between the groups' images": [
                *[f"Adjusted for: {taken_off}. All others may be what the findings are due to."] * bool(taken_off),
                mixed or "None found in size, sharpness, light.",
            ],
            "Labels": [sorted(labels)],
            "Licence and consent": [[f"{row.licence}; {row.consent}" for row in terms]],
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
    if BOX[0] in manifest:
        boxed = [image_of(row) if row[BOX[0]] == row[BOX[0]] else row["file"] for _, row in manifest.iterrows()]
        plan["image"] = pd.Series(boxed, manifest.index, dtype=object)
    plan = plan.assign(block=APART * blocks(manifest)).merge(pd.DataFrame({"seed": design.seeds}), how="cross")
    plan = plan.assign(seed=plan["seed"] + plan.pop("block"))
    clips = sweep(pipe, plan, out, measure=instruments, progress=progress).reset_index(drop=True)
    if "object_px" in clips:  # as the stillness probe: what jitters about its place has not moved
        clips["still"] = numbers(classify(clips)["still"])
    with warnings.catch_warnings(category=CropWarning, action="ignore"):  # the sweep warned of it
        loss = autoencoder_loss(pipe, manifest, design.conditions, design.measures)
    clips = clips.merge(loss, on="label_row", how="left")
    measured = [name for name in design.measures if name in clips and numbers(clips[name]).notna().any()]
    if not measured:
        why = "; ".join(sorted(set(clips.loc[clips["status"] != "done", "reason"]))[:3])
        raise InputError(
            f"no clip gave a number for {', '.join(design.measures)}{f' ({why})' * bool(why)}: nothing to compare."
        )
    # A margin that was not fixed beforehand shows no equivalence; `departures` names it.
    margins = {name: m for name, m in design.margins.items() if name in measured and planned["margins"].get(name) == m}
    how: dict[str, Any] = dict(alpha=design.alpha, reference=design.reference, covariates=design.covariates)
    table = compare(clips, manifest, measured, margins=margins, **how)
    groups = any_difference(clips, manifest, measured, covariates=design.covariates)
    table["planned"] = table["contrast"].isin(planned["pairs"]) & table["measure"].isin(set(map(str, planned["measures"])))
    table.loc[~table["planned"], "sentence"] += " Exploratory: it was not planned."
    silent = [name for name in design.measures if name not in measured]
    left = [*departures(planned, done), *_lost(planned["written"], clips, silent, out)]
    mixed = confounds(manifest, design.reference)
    result = BiasResult(table, clips, manifest, mixed, planned, left, pipe.source.label, groups)
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
        first = {"reference": {}, "covariates": []} | read_json(file, LARGEST)
        if wrong := [name for name in PLANNED if not isinstance(first[name], PLANNED[name])]:
            raise TypeError(f"its {wrong[0]} is {shown(first[wrong[0]])}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, OutputError):
            raise
        why = shown(error) if isinstance(error, KeyError) else error
        raise InputError(f"{file} is no plan of a bias study ({why}): take another folder, or move it away.") from error
    return {name: exported(first[name]) for name in PLANNED}


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
    """Each pair as a line from group a to group b, seeds averaged, and their mean; unpaired images as points.

    row: a row of `result.table`: which contrast, which measure.
    """
    contrast = Contrast(row["scheme"], row["a"], row["b"])
    values = pair_values(result.clips, result.manifest, contrast, row["measure"])
    in_pairs = values.index.name == "pair_id"
    values = values.dropna(how="any" if in_pairs else "all")
    fig, axes = graphs(size=(420, 320), of=result.clips, title=f"{contrast.scheme}: {row['label']}, by {values.index.name}")
    ax, falls = axes[0, 0], values.a > values.b
    for pair, down in zip(values.to_numpy(), falls, strict=True):
        style: Any = dict(linewidth=0.9) if in_pairs else dict(marker="o", markersize=3)
        ax.plot([0, 1], pair, color=COLOURS[0] if down else COLOURS[1], alpha=0.35, zorder=1, **style)
    ax.plot([0, 1], values.mean().to_numpy(), color=INK, linewidth=2.2, marker="o", markersize=5, zorder=3)
    ax.set(xlim=(-0.25, 1.25), ylabel=f"{row['label']} ({row['unit']})" if row["unit"] not in ("", "share") else row["label"])
    ax.set_xticks([0, 1], [contrast.a, contrast.b])
    notes = [f"{len(values)} {'pairs' if in_pairs else 'units'}, seeds averaged", "black: mean"]
    notes += [f"blue: higher in {contrast.a} ({falls.sum()})"] * in_pairs
    notes += ["clip minus the image's round trip"] * (f"{row['measure']}{ROUND_TRIP}" in result.clips)
    flips = result.manifest.loc[pairs_of(result.manifest, contrast).b].flip_noise
    notes += [f"directions in {contrast.b} are turned back"] * any(row["measure"] in ODD.get(flip, ()) for flip in flips)
    return fig.finish(values.reset_index(), *notes)


@takes(result=kind(BiasResult), row=row_of_table, count=COUNT)
def worst_pairs(result: BiasResult, row: Any, *, count: int = 3) -> Video:
    """The pairs whose clips differ most in a measure, side by side and in step: group a on the left, b on the right.

    row: as for `slopes`. Of each image, the clip of the first seed that has frames. Of unpaired groups, the images of either
    side that lie furthest on the effect's side.
    """
    contrast = Contrast(row["scheme"], row["a"], row["b"])
    values = pair_values(result.clips, result.manifest, contrast, row["measure"])
    if values.index.name == "pair_id":
        whole = values.dropna()
        worst = (whole.a - whole.b).abs().sort_values(ascending=False).index[:count]
        found = pairs_of(result.manifest, contrast)
        found = found[~found.index.duplicated()].loc[worst]
        names = list(worst)
    else:
        rising = bool(values.a.mean() < values.b.mean())
        sides = (values.a.dropna().sort_values(ascending=rising), values.b.dropna().sort_values(ascending=not rising))
        n = min(count, *map(len, sides))
        part = result.manifest[result.manifest.group_scheme == contrast.scheme]
        first = lambda unit, group: part.index[(units(part) == unit) & ((part.group == contrast.a) == group)][0]
        found = pd.DataFrame(
            {"a": [first(u, True) for u in sides[0].index[:n]], "b": [first(u, False) for u in sides[1].index[:n]]}
        )
        names = [f"{i + 1}" for i in range(n)]
    if found.empty:
        raise InputError(
            f"no {'pair' if values.index.name == 'pair_id' else 'image of each side'} has a number: nothing to show."
        )
    places = found.to_numpy().ravel()
    made = result.clips[result.clips["frames"].fillna("").ne("")].drop_duplicates("label_row")
    clips = made.set_index("label_row").reindex(places)
    groups = [f"{pair}, {group}" for pair in names for group in (contrast.a, contrast.b)]
    labels = [f"{group}: {quantity(v, row['unit'])}" for group, v in zip(groups, numbers(clips[row["measure"]]), strict=True)]
    title = f"{contrast.scheme}, most different in {row['label']}"
    return video(clips, labels=labels, columns=2, title=title, fps=float(clips.fps.iloc[0]))


@takes(manifest=manifest_rows, count=COUNT)
def pairs(manifest: pd.DataFrame, *, count: int = 6) -> Figure:
    """The first pairs of each scheme as they are, drawn at one size: a row per group, a column per pair.

    manifest: of `svdlab.study.manifest.read_manifest`.
    """
    groups = list(manifest.groupby(["group_scheme", "group"], sort=False))
    across = min(count, max(len(part) for _, part in groups))
    first = image_of(manifest.iloc[0])
    size = fitted((first.height, first.width), columns=across, width=WIDTH - 160, most=128)
    names = [f"{scheme}: {group}" for (scheme, group), _ in groups]
    title = "Pairs: each column of a scheme differs in one respect" if (manifest.pair_id != "").all() else "Images by group"
    fig, axes = images(size=size, title=title, row_labels=names, column_labels=[""] * across)
    for line, (_, part) in zip(axes, groups, strict=True):
        for ax, (_, row) in zip(line, part.sort_values("pair_id").iterrows(), strict=False):
            image = image_of(row)
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
    for _, row in result.table.dropna(subset="value").sort_values(["q", "p"], kind="stable").head(3).iterrows():
        name = re.sub(r"[^\w.-]+", "-", f"{row.scheme}-{row.measure}")[:80]
        save(slopes(result, row), folder / f"slopes-{name}", formats=("png", "csv"))
        worst_pairs(result, row).save(folder / f"worst-{name}")
