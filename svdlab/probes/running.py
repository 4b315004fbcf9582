"""Running probes: `run` one, `run_all`, `estimate` beforehand."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from svdlab.errors import BrokenClipError, InputError, MissingExtraError, OutputError
from svdlab.pipeline.conditions import Conditions, conditions_of
from svdlab.pipeline.generate import ProbePipeline, generate_batch, resolve
from svdlab.probes import findings as rules
from svdlab.probes.base import Check, Cost, Probe, ProbeResult, Shown, Study
from svdlab.probes.findings import Finding
from svdlab.probes.stimuli import Stimuli
from svdlab.study import ledger
from svdlab.study.plans import CONDITIONS
from svdlab.study.sweep import missing
from svdlab.study.workers import device_name

# In the order of the card's sentences. Each module has one PROBE.
PROBES = {
    "duration": "svdlab.probes.duration",
    "realism": "svdlab.probes.realism",
    "stillness": "svdlab.probes.stillness",
    "text_control": "svdlab.probes.text_control",
    "legibility": "svdlab.probes.legibility",
    "faces": "svdlab.probes.faces",
    "autoencoder": "svdlab.probes.autoencoder",
    "off_conditions": "svdlab.probes.off_conditions",
}
SEEDS, QUICK_SEEDS = (0, 1), (0,)
QUICK_STEPS = 10  # at most, where the user gave no conditions
TIMED_STEPS = 2
_TIMES: dict[tuple, tuple[float, float]] = {}  # of this process: what was timed -> seconds per step, seconds per decode


def find(name: str) -> Probe:
    """A probe by name; raises InputError for an unknown one."""
    if name not in PROBES:
        raise InputError(f"there is no probe {name!r}: there are {', '.join(PROBES)}.")
    probe: Probe = importlib.import_module(PROBES[name]).PROBE
    return probe


def run(
    name: str,
    pipe: ProbePipeline,
    out: str | Path,
    *,
    images: Any = None,
    seeds: int | Iterable[int] | None = None,
    quick: bool = False,
    conditions: Conditions | None = None,
    progress: bool = True,
    **options: Any,
) -> ProbeResult:
    """Run one probe: audit, clips, findings, verdict.

    >>> result = run("stillness", pipe, "results/limitations", images="photographs", seeds=3)
    >>> result.verdict, result.findings, result.figure()

    out: the study's folder: a ledger that all probes share, and a folder for each probe's tables. images: a folder, a
    manifest, a set's name or a list (see `Stimuli.of`); default the probe's own. seeds: how many, or which; default 2,
    and 1 with `quick`, which also takes fewer pictures, levels and steps. conditions: what every clip starts from; default
    the checkpoint's preset, else diffusers' defaults (10 steps of them with `quick`). options: the probe's own, see
    `find(name).options`.

    Started again, it makes what is missing. Raises InputError before any model runs; MissingExtraError where an optional
    part is missing, with the extra's name.
    """
    study = _study(name, pipe, out, images, seeds, quick, conditions, progress, options)
    probe = study.probe
    ledger.prepare(study.out)
    cost = _cost(study)
    if progress:
        print(f"probe {name}: {cost}", file=sys.stderr)
    start = time.perf_counter()
    audit = _audit(study)
    table = probe.measure(study)
    done = table[table["status"] == "done"].reset_index(drop=True) if "status" in table else table
    if failed := len(table) - len(done):
        first = table.loc[table["status"] != "done", "reason"].iloc[0]
        study.notes.append(f"{failed} of {len(table)} clips failed and are left out; the first: {first}")
    found = probe.findings(study, done) if len(done) else []
    status, verdict = _verdict(study, audit, found)
    result = ProbeResult(
        name=name,
        card=probe.card,
        question=probe.question,
        status=status,
        verdict=verdict,
        table=table,
        audit=pd.DataFrame([asdict(c) for c in audit], columns=list(Check.__dataclass_fields__)),
        findings=rules.as_table(found),
        panels=tuple(probe.panels(study, done)) if probe.panels and len(done) else (),
        pictures=tuple(_pictures(study, done)) if len(done) else (),
        stimuli=study.stimuli.table,
        skipped=study.original.skipped,
        notes=tuple(study.notes),
        cost=replace(cost, took=round(time.perf_counter() - start, 1)),
        source=asdict(pipe.source),
        quick=quick,
    )
    _save(result, study.folder)
    return result


def run_all(
    pipe: ProbePipeline, out: str | Path, *, names: Sequence[str] | None = None, progress: bool = True, **kwargs: Any
) -> dict[str, ProbeResult]:
    """Run the probes one after the other; the arguments are those of `run`.

    >>> results = run_all(pipe, "results/limitations", quick=True)
    >>> card.write(results, "results/limitations")

    A probe that lacks an optional part, or cannot use the pictures, has status "not run" and says why; the others go on.
    """
    chosen = list(PROBES if names is None else names)
    for name in chosen:
        if name not in PROBES:
            find(name)  # raises with the names that there are
    _seeds(kwargs.get("seeds"), False)
    if kwargs.get("images") is not None:
        kwargs["images"] = Stimuli.of(kwargs["images"])  # what none of them could use is raised here, and not eight times
    results = {}
    for name in tqdm(chosen, desc="probes", unit="probe", disable=not progress):
        try:
            results[name] = run(name, pipe, out, progress=progress, **kwargs)
        except (MissingExtraError, InputError, BrokenClipError) as error:
            print(f"probe {name}: not run: {error}", file=sys.stderr)
            results[name] = not_run(name, str(error), pipe)
    return results


def not_run(name: str, why: str, pipe: ProbePipeline | None = None) -> ProbeResult:
    """A result that says why there is none."""
    try:
        probe = find(name)
        card, question = probe.card, probe.question
    except ImportError:  # the module itself needs the part that is missing
        card = question = ""
    source = asdict(pipe.source) if pipe is not None else {}
    return ProbeResult(name, card, question, "not run", f"Not run: {why}", source=source)


def estimate(
    pipe: ProbePipeline, out: str | Path, *, names: Sequence[str] | None = None, timed: bool = True, **kwargs: Any
) -> pd.DataFrame:
    """What probes would take, before they start: a row each with clips, those missing, seconds of device time, extra.

    >>> estimate(pipe, "results/limitations", quick=True)[["probe", "missing", "seconds"]]

    timed: time two denoising steps and one decode on this device first (seconds at full size); without, seconds are
    unknown. Measuring (OCR, optical flow) is not in it; `tests/benchmarks` has its cost per clip.
    """
    rows = []
    for name in PROBES if names is None else names:
        try:
            study = _study(name, pipe, out, **{**_NOTHING, **kwargs})
            cost = _cost(study, timed=timed)
            rows.append({"probe": name, **asdict(cost), "why": ""})
        except (MissingExtraError, InputError) as error:
            rows.append({"probe": name, "clips": 0, "missing": 0, "seconds": 0.0, "device": "", "why": str(error)})
    return pd.DataFrame(rows).drop(columns="took", errors="ignore")


_NOTHING: dict[str, Any] = dict(images=None, seeds=None, quick=False, conditions=None, progress=False, options={})


# --- before -----------------------------------------------------------------------------------------------------------


def _study(
    name: str,
    pipe: ProbePipeline,
    out: str | Path,
    images: Any,
    seeds: int | Iterable[int] | None,
    quick: bool,
    conditions: Conditions | None,
    progress: bool,
    options: dict[str, Any],
) -> Study:
    probe = find(name)
    _need(probe)
    if not isinstance(pipe, ProbePipeline):
        raise InputError(f"pipe is a {type(pipe).__name__}: load it with svdlab.load_pipeline.")
    known = {**probe.options, **(probe.quick_options if quick else {})}
    unknown = sorted(set(options) - set(known))
    if unknown:
        has = f"its options are {', '.join(known)}" if known else "it has no options of its own"
        raise InputError(f"probe {name}: unknown option {', '.join(unknown)}: {has}.")
    source = pipe.source.stimuli
    original = probe.stimuli(source, quick) if images is None else Stimuli.of(images)
    base = conditions or base_conditions(pipe)
    if quick and conditions is None:
        base = base.replace(num_inference_steps=min(QUICK_STEPS, base.num_inference_steps))
    base = resolve(pipe, base)
    study = Study(
        probe=probe,
        pipe=pipe,
        out=Path(out),
        stimuli=original.prepared(base.height or 0, base.width or 0),
        original=original,
        seeds=_seeds(seeds, quick),
        conditions=base,
        quick=quick,
        progress=progress,
        options={**known, **options},
    )
    study.plan = probe.plan(study) if probe.plan else pd.DataFrame()
    return study


def base_conditions(pipe: ProbePipeline) -> Conditions:
    """The preset of Stability's own checkpoints, else diffusers' defaults."""
    return conditions_of(pipe.source.checkpoint)


def _need(probe: Probe) -> None:
    missing = [m for m in probe.modules if importlib.util.find_spec(m) is None]
    if missing:
        names = ", ".join(missing)
        raise MissingExtraError(
            f"probe {probe.name} needs {names}: pip install 'svdlab[{probe.extra}]'. The others run without."
        )


def _seeds(seeds: int | Iterable[int] | None, quick: bool) -> tuple[int, ...]:
    if seeds is None:
        return QUICK_SEEDS if quick else SEEDS
    chosen = tuple(range(seeds)) if isinstance(seeds, int) else tuple(int(s) for s in seeds)
    if not chosen:
        raise InputError(f"seeds={seeds!r}: give how many, at least 1, or which.")
    return chosen


def _cost(study: Study, timed: bool = True) -> Cost:
    plan, device = study.plan, device_name()
    if not len(plan):
        return Cost(0, 0, 0.0, device)
    missing = _missing(study)
    if not missing:
        return Cost(len(plan), 0, 0.0, device)
    if not timed:
        return Cost(len(plan), missing, None, device)
    step, decode = _timed(study)
    steps = plan["num_inference_steps"].mean() if "num_inference_steps" in plan else study.conditions.num_inference_steps
    return Cost(len(plan), missing, missing * (steps * step + decode), device)


def _missing(study: Study) -> int:
    """Clips that the ledger lacks; a plan's column `label_intervention` says in which edits its rows are made."""
    plan = study.plan
    if "label_intervention" not in plan:
        return missing(study.pipe, plan, study.out)
    parts = plan.groupby("label_intervention", dropna=False)
    return sum(
        missing(study.pipe, rows, study.out, intervention=name if isinstance(name, str) else None) for name, rows in parts
    )


def _timed(study: Study) -> tuple[float, float]:
    """Seconds of one denoising step and of one decode at the study's size, from a short clip made for that."""
    c = study.conditions
    key = (
        study.pipe.source.weights_hash,
        c.num_frames,
        c.height,
        c.width,
        c.guided,
        c.decode_chunk_size,
        str(study.pipe.device),
    )
    if key not in _TIMES:
        first = study.stimuli.pictures[0]
        clip = generate_batch(study.pipe, [first], [c.replace(num_inference_steps=TIMED_STEPS)], [0])[0]
        _TIMES[key] = clip.seconds["denoising"] / TIMED_STEPS, clip.seconds["decoding"]
    return _TIMES[key]


# --- after ------------------------------------------------------------------------------------------------------------


def _audit(study: Study) -> list[Check]:
    checks = study.probe.audit(study)
    if not checks:
        raise InputError(f"probe {study.probe.name} has an empty audit: an instrument that was never checked says nothing.")
    return checks


def _verdict(study: Study, audit: list[Check], found: list[Finding]) -> tuple[str, str]:
    wrong = [c for c in audit if not c.passed]
    if wrong:
        first = f"{wrong[0].check}: expected {wrong[0].expected}, measured {wrong[0].measured}"
        return "no verdict", f"No verdict: the audit failed ({len(wrong)} of {len(audit)} checks; {first})."
    if not found:
        return "no verdict", "No verdict: nothing could be measured."
    sentence = rules.capital(study.probe.verdict(study, found) if study.probe.verdict else found[0].sentence)
    if max(f.n_images for f in found) < rules.LEAST_IMAGES:
        return "no verdict", f"No verdict below {rules.LEAST_IMAGES} images. {sentence}"
    return "done", sentence


def _pictures(study: Study, table: pd.DataFrame) -> list[Shown]:
    """The probe's own pictures, or its typical and its worst clip."""
    if study.probe.pictures:
        return study.probe.pictures(study, table)
    if study.probe.worst is None or "frames" not in table:
        return []
    column, high_is_worse = study.probe.worst
    seen = table.dropna(subset=[column]).sort_values(column, ascending=not high_is_worse, kind="stable")
    if seen.empty:
        return []
    chosen = {"worst": seen.iloc[0], "typical": seen.iloc[len(seen) // 2]}
    return [
        Shown(f"{what}: {row['stimulus']}, seed {row['seed']}, {_named(study, column, row)}", study.frames(row), row["run_id"])
        for what, row in reversed(chosen.items())
    ]


def _named(study: Study, column: str, row: Any) -> str:
    """What tells a clip from others of its picture: the conditions that the plan varies, and what it was picked by."""
    varied = [c for c in CONDITIONS if c in study.plan and study.plan[c].nunique() > 1]
    return ", ".join([*(f"{c} {row[c]}" for c in varied), f"{column} {row[column]:.3g}"])


def _save(result: ProbeResult, folder: Path) -> None:
    """Tables as CSV and the result as JSON, each whole or not at all."""
    tables = {"clips": result.table, "audit": result.audit, "findings": result.findings, "stimuli": result.stimuli}
    texts = {f"{name}.csv": table.to_csv(index=False) for name, table in tables.items()}
    texts["result.json"] = json.dumps(result.facts(), indent=1, default=str) + "\n"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            part = folder / f".{name}.part"
            part.write_text(text, encoding="utf-8")
            os.replace(part, folder / name)
    except OSError as error:
        raise OutputError(f"{folder} could not be written: {error}. Choose a folder that you may write to.") from error
