"""Running probes: `run` one, `run_all`, `estimate` beforehand.

    >>> result = run("stillness", pipe, "results/limitations", images=["scene-1", "scene-2"], seeds=1, quick=True)
    >>> print(result)
    >>> result.findings[["key", "value", "low", "high", "verdict"]]
    >>> result.figure()

A result lies in the study's folder too: clips.csv, findings.csv and result.json for each probe.
"""

import importlib.util
import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from svdlab.errors import (
    BrokenClipError,
    InputError,
    MissingExtraError,
    columns,
    flag,
    folder,
    kind,
    one_of,
    path,
    seed,
    several,
    takes,
    text,
    whole,
)
from svdlab.measure.files import csv_text, exported, plain, write_whole
from svdlab.pipeline.conditions import Conditions, conditions_of
from svdlab.pipeline.generate import ProbePipeline, Source, generate_batch, resolve
from svdlab.pipeline.pipeline import pipeline
from svdlab.probes.conditioning import OffConditions, Stillness
from svdlab.probes.content import Faces, Legibility
from svdlab.probes.duration import Duration
from svdlab.probes.probe import Check, Example, Probe, Study
from svdlab.probes.quality import Autoencoder, Realism
from svdlab.probes.stimuli import Stimuli
from svdlab.probes.text_control import TextControl
from svdlab.show.page import Strong, blocks
from svdlab.stats import effects
from svdlab.stats.effects import LEAST_IMAGES, Effect
from svdlab.study import ledger, sweep
from svdlab.study.workers import device_name

ALL = (Duration, Realism, Stillness, TextControl, Legibility, Faces, Autoencoder, OffConditions)  # as the card has them
PROBES: dict[str, type[Probe]] = {probe.name: probe for probe in ALL}
SEEDS, QUICK_SEEDS = 2, 1
QUICK_STEPS = 10  # at most, where the user did not choose
TIMED_STEPS = 2
MOST_SEEDS = 10_000
COMMON = ("images", "seeds", "quick", "conditions", "progress")  # arguments of `prepare` that are no probe's own


@dataclass(frozen=True, repr=False)
class Result:
    """What a probe found.

    status: "done", "no verdict" (the audit failed, or there were too few images), or "not run". verdict: a sentence, which
    says so where there is none. table: a row per clip. audit, effects: as the probe made them, the headline first. examples:
    for the figure. stimuli: names, sources and licences of the images. source: of the weights. seconds: what it took, in
    wall time, on `device`.
    """

    probe: Probe
    status: str
    verdict: str
    table: pd.DataFrame = field(default_factory=pd.DataFrame)
    audit: tuple[Check, ...] = ()
    effects: tuple[Effect, ...] = ()
    examples: tuple[Example, ...] = ()
    stimuli: pd.DataFrame = field(default_factory=partial(pd.DataFrame, columns=["name", "source", "licence"]))
    notes: tuple[str, ...] = ()
    source: Source = field(default_factory=Source)
    seconds: float = 0.0
    device: str = ""

    @property
    def findings(self) -> pd.DataFrame:
        """A row per effect, with its sentence."""
        return effects.as_table(self.effects)

    @property
    def clips(self) -> pd.DataFrame:
        """The table without failed rows."""
        return _done(self.table)

    def figure(self) -> Any:
        """Findings with their intervals, the probe's graphs, examples and audit: see `svdlab.probes.card`."""
        from svdlab.probes.card import draw

        return draw(self)

    def __repr__(self) -> str:
        return f"<{self.probe.name}: {self.status}, {len(self.table)} clips. {self.verdict}>"

    def _repr_html_(self) -> str:
        return blocks(*self.words(), self.figure())

    def words(self) -> list[Any]:
        """Question, verdict and findings, as blocks of a page."""
        return [Strong(self.probe.question), self.verdict, [e.sentence for e in self.effects] or ["no findings"]]

    def __str__(self) -> str:
        return "\n  ".join([f"{self.probe.name}: {self.verdict}", *(e.sentence for e in self.effects), *self.notes])

    def facts(self) -> dict[str, Any]:
        """The result as plain JSON: its part of the limitations card."""
        found = {key: getattr(self.probe, key) for key in ("name", "card", "question")}
        found |= {key: getattr(self, key) for key in ("status", "verdict", "notes", "seconds", "device")}
        found |= {"source": asdict(self.source), "clips": len(self.table), "stimuli": self.stimuli.to_dict("records")}
        found["findings"] = [{**asdict(e), "sentence": e.sentence} for e in self.effects]
        return exported(plain(found | {"audit": [asdict(c) for c in self.audit]}))

    def save(self, folder: Path) -> None:
        """The tables of clips and findings as CSV and the result as JSON, each file whole or not at all."""
        texts = {"clips.csv": csv_text(self.table), "findings.csv": csv_text(self.findings)}
        for name, content in {**texts, "result.json": json.dumps(self.facts(), indent=1) + "\n"}.items():
            with write_whole(folder / name) as part:
                part.write_text(content, encoding="utf-8")


def _done(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["status"] == "done"].reset_index(drop=True) if "status" in table else table


# --- which probe, with which options ----------------------------------------------------------------------------------


def find(probe: str | Probe | type[Probe]) -> Probe:
    """A probe by its name or class; raises InputError for an unknown one.

    >>> find("stillness").question
    """
    if isinstance(probe, Probe):
        return probe
    if isinstance(probe, type) and issubclass(probe, Probe):
        return probe()
    return PROBES[one_of("probe", probe, PROBES)]()


def _several(name: str, probes: Any) -> tuple[Probe, ...]:
    found = several(name, probes, lambda _, probe: find(probe))
    several(name, [probe.name for probe in found], text, distinct=True)
    return found


@takes(probes=_several, given=kind(Mapping))
def options_of(probes: Sequence[Probe], given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The options of several probes, by name: `rounds` for every probe that has it, `duration.rounds` for one of them.

    >>> options_of([find("duration"), find("faces")], {"duration.rounds": 2, "share": 0.3})
    {'duration': {'rounds': 2}, 'faces': {'share': 0.3}}

    Raises InputError for an option that none of them has, and for a value that is none of its kind.
    """
    chosen: dict[str, dict[str, Any]] = {p.name: {} for p in probes}
    for key, value in given.items():
        owner, dot, option = text("option", key).rpartition(".")
        takers = [p for p in probes if (owner == p.name or not dot) and option in {**p.axes, **p.options}]
        if not takers:
            known = ", ".join(f"{p.name}.{o}" for p in probes for o in {**p.axes, **p.options})
            raise InputError(f"unknown option {key}: {known or 'no option'} can be given.")
        if twice := [p.name for p in takers if option in chosen[p.name]]:
            raise InputError(f"{option} of {twice[0]} is given twice: give it once.")
        for p in takers:
            chosen[p.name][option] = p.checked(key, option, value)
    return chosen


@takes(pipe=pipeline, out=path, quick=flag, conditions=kind(Conditions, Mapping), progress=flag)
def prepare(
    probe: str | Probe | type[Probe],
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
    if Path(text("a probe's name", one.name)).name != one.name or one.name[0] == ".":
        raise InputError(f"a probe's name, {one.name!r}, is that of the folder of its tables: give a plain name.")
    for method in ("audit", "findings"):
        if getattr(type(one), method) is getattr(Probe, method):
            raise InputError(f"probe {one.name} has no {method}: write it, as in the head of svdlab/probes/probe.py.")
    if missing := [m for m in one.modules if importlib.util.find_spec(m) is None]:
        raise MissingExtraError(f"probe {one.name} needs {', '.join(missing)}: pip install 'svdlab[{one.extra}]'.")
    return Study(
        probe=one,
        pipe=pipe,
        out=path("out", out),
        given=one.images(pipe.source.stimuli, quick) if images is None else Stimuli.of(images),
        seeds=_seeds((QUICK_SEEDS if quick else SEEDS) if seeds is None else seeds),
        conditions=_conditions(pipe, conditions, quick),
        options={**one.axes, **one.options, **(one.quick if quick else {}), **options_of([one], options)[one.name]},
        quick=quick,
        progress=progress,
    )


def _seeds(seeds: int | Iterable[int]) -> tuple[int, ...]:
    if isinstance(seeds, Iterable):
        return several("seeds", seeds, seed, distinct=True)
    return tuple(range(whole("seeds", seeds, least=1, most=MOST_SEEDS)))


def _conditions(pipe: ProbePipeline, given: Conditions | Mapping[str, Any] | None, quick: bool) -> Conditions:
    """What every clip starts from: Conditions as they are, or changes to the checkpoint's preset."""
    if not isinstance(given, Conditions):
        preset = conditions_of(pipe.source.checkpoint)
        steps = min(QUICK_STEPS, preset.num_inference_steps) if quick else preset.num_inference_steps
        changes = {text("conditions", name): value for name, value in (given or {}).items()}
        given = preset.replace(**{"num_inference_steps": steps, **changes})
    return resolve(pipe, given)


def _calls(
    function: Any, pipe: ProbePipeline, out: str | Path, names: Iterable[Any], given: Mapping[str, Any]
) -> list[tuple[Probe, Callable[[], Any]]]:
    """The call of each probe with the options that are its own. Raises InputError for what none could use."""
    probes, common = _several("names", names), {k: v for k, v in given.items() if k in COMMON and v is not None}
    checks: dict[str, Any] = {"quick": flag, "progress": flag, "conditions": kind(Conditions, Mapping)}
    for key, check in (checks | {"images": lambda _, v: Stimuli.of(v), "seeds": lambda _, v: _seeds(v)}).items():
        common |= {key: check(key, common[key])} if key in common else {}
    _conditions(pipe, common.get("conditions"), common.get("quick", False))
    options = options_of(probes, {k: v for k, v in given.items() if k not in COMMON})
    return [(probe, partial(function, probe, pipe, out, **common, **options[probe.name])) for probe in probes]


# --- running ----------------------------------------------------------------------------------------------------------


def run(probe: str | Probe | type[Probe], pipe: ProbePipeline, out: str | Path, **kwargs: Any) -> Result:
    """Run one probe: audit, clips, findings, verdict.

        result = run("stillness", pipe, "results/limitations", seeds=3, motion_bucket_id=(20, 250))
        result = run("duration", pipe, "results/limitations", conditions={"fps": 12}, rounds=6)

    Args:
        probe: a name of PROBES, or a class of your own.
        out: the study's folder: the runs that all probes share, and a folder for each probe's tables.
        images: a folder, a manifest, a set's name or a list (see `Stimuli.of`); default the probe's own.
        seeds: how many, or which; default 2, and 1 with quick. Added to 0, 1,000,000, 2,000,000 ... of the images.
        quick: fewer images, levels, seeds and steps.
        conditions: what every clip starts from: Conditions, or a dict of changes to the checkpoint's preset.
        progress: show progress bars.
        kwargs: the probe's own options: see `find(name).axes` and `.options`.

    Started again, it makes what is missing. Raises InputError before any model runs, and MissingExtraError, with the extra's
    name, where an optional part is missing.
    """
    study, start = prepare(probe, pipe, out, **kwargs), time.perf_counter()
    one = study.probe
    ledger.prepare(study.out)
    if study.progress:
        print(f"probe {one.name}: {len(study.plan)} clips, {_missing(study)} to make", file=sys.stderr)
    audit = several("audit", one.audit(study), kind(Check), least=0)
    if not audit:
        raise InputError(f"probe {one.name} has an empty audit: an instrument that was never checked gives no verdict.")
    study.notes += (short := _short(study))  # known before any clip is made
    if study.progress:
        failed_checks = sum(not c.passed for c in audit)
        warned = [*short, *([f"{failed_checks} checks of the audit failed: no verdict"] if failed_checks else [])]
        print(*(f"probe {one.name}: {w}" for w in warned), sep="\n", end="\n" * bool(warned), file=sys.stderr)
    table = columns("measure", one.measure(study), least=0)
    clips = _done(table)
    if failed := len(table) - len(clips):
        first = table.loc[table["status"] != "done", "reason"].iloc[0]
        study.notes.append(f"{failed} of {len(table)} clips failed and are left out; the first: {first}")
    found = tuple(effects.corrected(one.findings(study, clips))) if len(clips) else ()
    examples = several("examples", one.examples(study, clips), kind(Example), least=0) if len(clips) else ()
    status, verdict = _verdict(one, audit, found)
    quick = ["quick: fewer images, levels, seeds and steps"] if study.quick else []
    result = Result(
        *(one, status, verdict, table, audit, found, examples, study.stimuli.table),
        notes=(*study.notes, *(f"left out: {s}" for s in study.given.skipped), *quick),
        source=pipe.source,
        seconds=round(time.perf_counter() - start, 1),
        device=device_name(pipe._execution_device),
    )
    result.save(study.out / one.name)
    return result


@takes(pipe=pipeline, out=path)
def run_all(pipe: ProbePipeline, out: str | Path, *, names: Iterable[Any] = tuple(PROBES), **kwargs: Any) -> dict[str, Result]:
    """Run several probes one after the other, by default all; further arguments as for `run`.

        results = run_all(pipe, "results/limitations", quick=True, **{"duration.rounds": 2})
        card.write(results, "results/limitations")

    An option goes to every probe that has it, or to the one that it names. A probe that lacks an optional part, or cannot use
    the images, has status "not run" and states why; the others go on. All findings are corrected together (`together`). What
    none could use raises InputError.
    """
    folder("out", out)  # else each probe would be "not run"
    results, calls = {}, _calls(run, pipe, out, names, kwargs)
    for probe, call in tqdm(calls, desc="probes", unit="probe", disable=not kwargs.get("progress", True)):
        try:
            results[probe.name] = call()
        except (MissingExtraError, InputError, BrokenClipError) as error:
            print(f"probe {probe.name}: not run: {error}", file=sys.stderr)
            results[probe.name] = Result(probe, "not run", f"Not run: {error}", source=pipe.source)
    results = together(results)
    for name, result in results.items():
        if result.status == "done":
            result.save(path("out", out) / name)
    return results


@takes(results=kind(Mapping))
def together(results: Mapping[str, Result]) -> dict[str, Result]:
    """The same results with the findings of all of them corrected as one family, and their verdicts written anew.

    >>> results = together({"stillness": one, "duration": another})                   # doctest: +SKIP

    A report of many probes tests many findings, and some would seem effects by chance. Results without a verdict stay as they
    are and count for nothing. `effects.corrected` has the method.
    """
    for name, result in results.items():
        kind(Result)(f"results[{name!r}]", result)
    done = {name: result for name, result in results.items() if result.status == "done" and result.effects}
    if len(done) < 2:
        return dict(results)
    found = iter(effects.corrected([e for result in done.values() for e in result.effects]))
    new = dict(results)
    for name, result in done.items():
        own = tuple(next(found) for _ in result.effects)
        status, verdict = _verdict(result.probe, result.audit, own)
        new[name] = replace(result, effects=own, status=status, verdict=verdict)
    return new


@takes(pipe=pipeline, out=path)
def estimate(pipe: ProbePipeline, out: str | Path, *, names: Iterable[Any] = tuple(PROBES), **kwargs: Any) -> pd.DataFrame:
    """What probes would take, before they start: a row each, with clips, those missing, seconds of device time, and notes.

    >>> estimate(pipe, "results/limitations", names=["stillness"], quick=True)[["probe", "missing", "seconds", "why"]]

    Two denoising steps and one decode are timed on this device. Measuring (OCR, optical flow) is not included. why: why a
    probe cannot run, or which verdicts are out of its reach, with the number of images that they take.
    """
    rows, each, device = [], 0.0, device_name(pipe._execution_device)
    for probe, call in _calls(prepare, pipe, out, names, kwargs):
        row: dict[str, Any] = dict(probe=probe.name, clips=0, missing=0, seconds=0.0, device=device, why="")
        try:
            study = call()
            row |= {"clips": len(study.plan), "missing": _missing(study)}
            row["why"] = "; ".join(_short(study))
            if row["missing"]:
                each = each or _seconds(study)  # all probes make clips of one size
                row["seconds"] = row["missing"] * each
        except (MissingExtraError, InputError) as error:
            row["why"] = str(error)
        rows.append(row)
    return pd.DataFrame(rows)


def _verdict(probe: Probe, audit: Sequence[Check], found: Sequence[Effect]) -> tuple[str, str]:
    """Status and verdict: none where the audit failed, nothing could be measured, or the images are too few."""
    if wrong := [c for c in audit if not c.passed]:
        first = f"{wrong[0].check}: expected {wrong[0].expected}, measured {wrong[0].measured}"
        return "no verdict", f"No verdict: the audit failed ({len(wrong)} of {len(audit)} checks; {first})."
    if not found:
        return "no verdict", "No verdict: nothing could be measured."
    sentence = probe.verdict({e.key: e for e in found})
    if max(e.n for e in found) < LEAST_IMAGES:
        return "no verdict", f"No verdict below {LEAST_IMAGES} images. {sentence}"
    return "done", sentence


def _short(study: Study) -> list[str]:
    """Which verdicts the images are too few for, in words."""
    known = study.stimuli.table.set_index("name")
    images = known.get("wall", pd.Series(known.index, known.index))  # of signs, what they hang on
    n = images[study.plan["label_stimulus"].unique()].nunique() if "label_stimulus" in study.plan else len(study.stimuli)
    if n < LEAST_IMAGES:
        return [f"{n} image{'s' * (n != 1)}: numbers without a verdict, which takes {LEAST_IMAGES}"]
    return [f"{n} images: {what} takes {least}" for what, least in study.probe.needed(study).items() if n < least]


def _missing(study: Study) -> int:
    """Clips that the study's folder lacks, in each edit of the plan."""
    if study.plan.empty:
        return 0
    edits = study.plan.get("label_intervention", pd.Series("", study.plan.index)).fillna("")
    return sum(sweep.missing(study.pipe, p, study.out, intervention=n or None) for n, p in study.plan.groupby(edits))


def _seconds(study: Study) -> float:
    """Device time of one clip."""
    short = study.conditions.replace(num_inference_steps=TIMED_STEPS)
    seconds = generate_batch(study.pipe, [study.stimuli.images[0]], [short], [0])[0].seconds
    return seconds["denoising"] / TIMED_STEPS * study.conditions.num_inference_steps + seconds["decoding"]
