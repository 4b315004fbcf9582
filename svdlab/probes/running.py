"""Running probes: `run` one, `run_all`, `estimate` beforehand.

    >>> result = run("stillness", pipe, "results/limitations", images="photographs", seeds=3)
    >>> print(result)
    >>> result.findings[["key", "value", "low", "high", "verdict"]]
    >>> result.figure()

A result lies in the study's folder too: clips.csv, audit.csv, findings.csv, stimuli.csv and result.json for each probe.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from svdlab.errors import BrokenClipError, InputError, MissingExtraError
from svdlab.measure.files import plain, write_whole
from svdlab.pipeline.conditions import Conditions, conditions_of
from svdlab.pipeline.generate import ProbePipeline, generate_batch, resolve
from svdlab.probes.probe import Check, Example, Graph, Probe, Study
from svdlab.probes.stimuli import Stimuli
from svdlab.stats import effects
from svdlab.stats.effects import LEAST_IMAGES, Effect
from svdlab.study import ledger, sweep
from svdlab.study.workers import device_name

# In the order of the card's sentences: the module's name, and the class in it.
PROBES = {
    "duration": "Duration",
    "realism": "Realism",
    "stillness": "Stillness",
    "text_control": "TextControl",
    "legibility": "Legibility",
    "faces": "Faces",
    "autoencoder": "Autoencoder",
    "off_conditions": "OffConditions",
}
SEEDS, QUICK_SEEDS = (0, 1), (0,)
QUICK_STEPS = 10  # at most, where the user did not choose
TIMED_STEPS = 2


@dataclass(frozen=True)
class Cost:
    """What a probe takes: clips in all, those that are missing, and seconds for these where a step was timed on this device.

    took: what it did take, in wall time, once it ran.
    """

    clips: int
    missing: int
    seconds: float | None
    device: str
    took: float | None = None

    def __str__(self) -> str:
        time = "time unknown" if self.seconds is None else f"about {_duration(self.seconds)} of device time"
        return f"{self.clips} clips, {self.missing} to make, {time} on {self.device}"


@dataclass(frozen=True)
class Result:
    """What a probe found.

    status: "done", "no verdict" (the audit failed, or there were too few images), or "not run". verdict: a sentence, which
    says so where there is none. table: a row per clip. audit, effects: as the probe made them, the headline first. graphs,
    examples: for the figure. stimuli: names, sources and licences of the images. source: of the weights.
    """

    name: str
    card: str
    question: str
    status: str
    verdict: str
    table: pd.DataFrame
    audit: tuple[Check, ...] = ()
    effects: tuple[Effect, ...] = ()
    graphs: tuple[Graph, ...] = ()
    examples: tuple[Example, ...] = ()
    stimuli: pd.DataFrame | None = None
    notes: tuple[str, ...] = ()
    cost: Cost | None = None
    source: Mapping[str, Any] | None = None
    quick: bool = False

    @property
    def findings(self) -> pd.DataFrame:
        """A row per effect, with its sentence."""
        return effects.as_table(self.effects)

    @property
    def clips(self) -> pd.DataFrame:
        """The table without failed rows."""
        return _done(self.table)

    @property
    def checkpoint(self) -> str:
        return str((self.source or {}).get("checkpoint", ""))

    @property
    def label(self) -> str:
        """What figures must state of the checkpoint, such as "model organism, not SVD"."""
        return str((self.source or {}).get("label", ""))

    @property
    def licence(self) -> str:
        return str((self.source or {}).get("licence", ""))

    def figure(self) -> Any:
        """Findings with their intervals, the probe's graphs, examples and audit: see `svdlab.probes.figure`."""
        from svdlab.probes.figure import draw

        return draw(self)

    def __str__(self) -> str:
        return "\n  ".join([f"{self.name}: {self.verdict}", *(e.sentence for e in self.effects), *self.notes])

    def facts(self) -> dict[str, Any]:
        """The result as plain JSON: its part of the limitations card."""
        stimuli = [] if self.stimuli is None else self.stimuli.to_dict("records")
        found = [{**asdict(e), "sentence": e.sentence} for e in self.effects]
        own = ("name", "card", "question", "status", "verdict", "notes", "quick", "source")
        facts = {key: getattr(self, key) for key in own} | {"findings": found, "audit": [asdict(c) for c in self.audit]}
        return plain(
            facts | {"stimuli": stimuli, "clips": len(self.table), "cost": None if self.cost is None else asdict(self.cost)}
        )

    def save(self, folder: Path) -> None:
        """The tables as CSV and the result as JSON, each file whole or not at all."""
        stimuli = pd.DataFrame() if self.stimuli is None else self.stimuli
        audit = pd.DataFrame([asdict(c) for c in self.audit], columns=list(Check.__dataclass_fields__))
        tables = {"clips": self.table, "audit": audit, "findings": self.findings, "stimuli": stimuli}
        texts = {f"{name}.csv": table.to_csv(index=False) for name, table in tables.items()}
        for name, text in {**texts, "result.json": json.dumps(self.facts(), indent=1) + "\n"}.items():
            with write_whole(folder / name) as part:
                part.write_text(text, encoding="utf-8")


# --- which probe, with which options ----------------------------------------------------------------------------------


def find(probe: str | type[Probe]) -> Probe:
    """A probe by its name or class; raises InputError for an unknown one.

    >>> find("stillness").question
    """
    if isinstance(probe, type) and issubclass(probe, Probe):
        return probe()
    if probe not in PROBES:
        raise InputError(f"there is no probe {probe!r}: there are {', '.join(PROBES)}.")
    found: Probe = getattr(importlib.import_module(f"svdlab.probes.{probe}"), PROBES[str(probe)])()
    return found


def options_of(probes: Sequence[Probe], given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The options of several probes, by name: `rounds` for every probe that has it, `duration.rounds` for one of them.

    >>> options_of([find("duration"), find("faces")], {"duration.rounds": 2, "share": 0.3})
    {'duration': {'rounds': 2}, 'faces': {'share': 0.3}}

    Raises InputError for an option that none of them has.
    """
    chosen: dict[str, dict[str, Any]] = {p.name: {} for p in probes}
    for key, value in given.items():
        owner, _, option = key.rpartition(".")
        takers = [p.name for p in probes if owner in ("", p.name) and option in {**p.axes, **p.options}]
        if not takers:
            known = ", ".join(f"{p.name}.{o}" for p in probes for o in {**p.axes, **p.options})
            raise InputError(f"unknown option {key}: {known or 'no option'} can be given.")
        for name in takers:
            chosen[name][option] = value
    return chosen


def prepare(
    probe: str | type[Probe],
    pipe: ProbePipeline,
    out: str | Path,
    *,
    images: Any = None,
    seeds: int | Iterable[int] | None = None,
    quick: bool = False,
    conditions: Conditions | Mapping[str, Any] | None = None,
    progress: bool = True,
    **options: Any,
) -> Study:
    """A probe's study, before anything is made: its stimuli, plan, conditions and options. Arguments as for `run`.

    >>> prepare("stillness", pipe, "results/limitations", quick=True).plan
    """
    one = find(probe)
    if missing := [m for m in one.modules if importlib.util.find_spec(m) is None]:
        raise MissingExtraError(f"probe {one.name} needs {', '.join(missing)}: pip install 'svdlab[{one.extra}]'.")
    if not isinstance(pipe, ProbePipeline):
        raise InputError(f"pipe is a {type(pipe).__name__}: load it with svdlab.load_pipeline.")
    return Study(
        probe=one,
        pipe=pipe,
        out=Path(out).expanduser(),
        given=one.images(pipe.source.stimuli, quick) if images is None else Stimuli.of(images),
        seeds=_seeds(seeds, quick),
        conditions=_conditions(pipe, conditions, quick),
        options={**one.axes, **one.options, **(one.quick if quick else {}), **options_of([one], options)[one.name]},
        quick=quick,
        progress=progress,
    )


def _conditions(pipe: ProbePipeline, given: Conditions | Mapping[str, Any] | None, quick: bool) -> Conditions:
    """What every clip starts from: as given, or the checkpoint's preset with changes; quick takes fewer steps."""
    if isinstance(given, Conditions):
        return resolve(pipe, given)
    base = conditions_of(pipe.source.checkpoint)
    if quick:
        base = base.replace(num_inference_steps=min(QUICK_STEPS, base.num_inference_steps))
    return resolve(pipe, base.replace(**(given or {})))


def _seeds(seeds: int | Iterable[int] | None, quick: bool) -> tuple[int, ...]:
    if seeds is None:
        return QUICK_SEEDS if quick else SEEDS
    chosen = tuple(range(seeds)) if isinstance(seeds, int) else tuple(int(s) for s in seeds)
    if not chosen:
        raise InputError(f"seeds={seeds!r}: give how many, at least 1, or which.")
    return chosen


# --- running ----------------------------------------------------------------------------------------------------------


def run(probe: str | type[Probe], pipe: ProbePipeline, out: str | Path, **kwargs: Any) -> Result:
    """Run one probe: audit, clips, findings, verdict.

    >>> result = run("stillness", pipe, "results/limitations", seeds=3, motion_bucket_id=(20, 250))
    >>> run("duration", pipe, "results/limitations", conditions={"fps": 12}, rounds=6)

    Args:
        probe: a name of PROBES, or a class of your own.
        out: the study's folder: the runs that all probes share, and a folder for each probe's tables.
        images: a folder, a manifest, a set's name or a list (see `Stimuli.of`); default the probe's own.
        seeds: how many, or which; default 2, and 1 with quick.
        quick: fewer images, levels, seeds and steps.
        conditions: what every clip starts from: Conditions, or a dict of changes to the checkpoint's preset.
        progress: show progress bars.
        kwargs: the probe's own options: see `find(name).axes` and `.options`.

    Started again, it makes what is missing. Raises InputError before any model runs, and MissingExtraError, with the extra's
    name, where an optional part is missing.
    """
    return _run(prepare(probe, pipe, out, **kwargs), {})


def run_all(
    pipe: ProbePipeline,
    out: str | Path,
    *,
    names: Sequence[str | type[Probe]] | None = None,
    images: Any = None,
    progress: bool = True,
    **kwargs: Any,
) -> dict[str, Result]:
    """Run several probes one after the other, by default all; further arguments as for `run`.

    >>> results = run_all(pipe, "results/limitations", quick=True, **{"duration.rounds": 2})
    >>> card.write(results, "results/limitations")

    An option goes to every probe that has it, or to the one that it names. A probe that lacks an optional part, or cannot use
    the images, has status "not run" and states why; the others go on. What none could use raises InputError.
    """
    probes = [find(name) for name in (PROBES if names is None else names)]
    common, options = _split(kwargs, probes)
    _seeds(common.get("seeds"), False)
    given = None if images is None else Stimuli.of(images)
    times: dict[tuple, tuple[float, float]] = {}
    results = {}
    for probe in tqdm(probes, desc="probes", unit="probe", disable=not progress):
        try:
            study = prepare(type(probe), pipe, out, images=given, progress=progress, **common, **options[probe.name])
            results[probe.name] = _run(study, times)
        except (MissingExtraError, InputError, BrokenClipError) as error:
            print(f"probe {probe.name}: not run: {error}", file=sys.stderr)
            results[probe.name] = Result(
                probe.name,
                probe.card,
                probe.question,
                "not run",
                f"Not run: {error}",
                pd.DataFrame(),
                source=asdict(pipe.source),
            )
    return results


def estimate(
    pipe: ProbePipeline, out: str | Path, *, names: Sequence[str] | None = None, timed: bool = True, **kwargs: Any
) -> pd.DataFrame:
    """What probes would take, before they start: a row each, with clips, those missing, seconds of device time, and notes.

    >>> estimate(pipe, "results/limitations", quick=True)[["probe", "missing", "seconds", "why"]]

    timed: first time two denoising steps and one decode on this device; without, seconds are unknown. Measuring (OCR,
    optical flow) is not included. why: why a probe cannot run, or can give no verdict.
    """
    probes = [find(name) for name in (PROBES if names is None else names)]
    common, options = _split(kwargs, probes)
    times: dict[tuple, tuple[float, float]] = {}
    rows = []
    for probe in probes:
        try:
            study = prepare(type(probe), pipe, out, **common, **options[probe.name])
            few = len(study.stimuli) < LEAST_IMAGES
            why = f"{len(study.stimuli)} images: numbers without a verdict, which takes {LEAST_IMAGES}" if few else ""
            rows.append({"probe": probe.name, **asdict(_cost(study, times, timed)), "why": why})
        except (MissingExtraError, InputError) as error:
            rows.append({"probe": probe.name, "clips": 0, "missing": 0, "seconds": 0.0, "device": "", "why": str(error)})
    return pd.DataFrame(rows).drop(columns="took", errors="ignore")


def _split(kwargs: dict[str, Any], probes: Sequence[Probe]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Arguments of `prepare`, and the options of each probe."""
    shared = ("images", "seeds", "quick", "conditions", "progress")
    common = {k: v for k, v in kwargs.items() if k in shared}
    return common, options_of(probes, {k: v for k, v in kwargs.items() if k not in common})


def _run(study: Study, times: dict[tuple, tuple[float, float]]) -> Result:
    probe = study.probe
    ledger.prepare(study.out)
    cost = _cost(study, times)
    if study.progress:
        print(f"probe {probe.name}: {cost}", file=sys.stderr)
    start = time.perf_counter()
    audit = tuple(probe.audit(study))
    if not audit:
        raise InputError(f"probe {probe.name} has an empty audit: an instrument that was never checked gives no verdict.")
    table = probe.measure(study)
    clips = _done(table)
    if failed := len(table) - len(clips):
        first = table.loc[table["status"] != "done", "reason"].iloc[0]
        study.notes.append(f"{failed} of {len(table)} clips failed and are left out; the first: {first}")
    found = effects.corrected(probe.findings(study, clips)) if len(clips) else []
    status, verdict = _verdict(study, audit, found)
    result = Result(
        probe.name,
        probe.card,
        probe.question,
        status,
        verdict,
        table,
        audit=audit,
        effects=tuple(found),
        graphs=probe.graphs,
        examples=tuple(probe.examples(study, clips)) if len(clips) else (),
        stimuli=study.stimuli.table,
        notes=(*study.notes, *(f"left out: {s}" for s in study.given.skipped)),
        cost=replace(cost, took=round(time.perf_counter() - start, 1)),
        source=asdict(study.pipe.source),
        quick=study.quick,
    )
    result.save(study.folder)
    return result


def _done(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["status"] == "done"].reset_index(drop=True) if "status" in table else table


def _verdict(study: Study, audit: Sequence[Check], found: Sequence[Effect]) -> tuple[str, str]:
    """Status and verdict: none where the audit failed, nothing could be measured, or the images are too few."""
    if wrong := [c for c in audit if not c.passed]:
        first = f"{wrong[0].check}: expected {wrong[0].expected}, measured {wrong[0].measured}"
        return "no verdict", f"No verdict: the audit failed ({len(wrong)} of {len(audit)} checks; {first})."
    if not found:
        return "no verdict", "No verdict: nothing could be measured."
    sentence = study.probe.verdict(study, {e.key: e for e in found})
    if max(e.n for e in found) < LEAST_IMAGES:
        return "no verdict", f"No verdict below {LEAST_IMAGES} images. {sentence}"
    return "done", sentence


# --- cost -------------------------------------------------------------------------------------------------------------


def _cost(study: Study, times: dict[tuple, tuple[float, float]], timed: bool = True) -> Cost:
    """times: what was timed already, by size and device."""
    plan, device = study.plan, device_name()
    missing = _missing(study) if len(plan) else 0
    if not missing or not timed:
        return Cost(len(plan), missing, None if missing else 0.0, device)
    c = study.conditions
    key = (c.num_frames, c.height, c.width, c.guided, c.decode_chunk_size)
    if key not in times:
        short = c.replace(num_inference_steps=TIMED_STEPS)
        seconds = generate_batch(study.pipe, [study.stimuli.images[0]], [short], [0])[0].seconds
        times[key] = seconds["denoising"] / TIMED_STEPS, seconds["decoding"]
    step, decode = times[key]
    return Cost(len(plan), missing, missing * (c.num_inference_steps * step + decode), device)


def _missing(study: Study) -> int:
    """Clips that the study's folder lacks, in each edit of the plan."""
    if "label_intervention" not in study.plan:
        return sweep.missing(study.pipe, study.plan, study.out)
    parts = study.plan.groupby("label_intervention", dropna=False)
    named = [(name if isinstance(name, str) else None, rows) for name, rows in parts]
    return sum(sweep.missing(study.pipe, rows, study.out, intervention=name) for name, rows in named)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
