"""The limitations card: all results of a study as HTML, Markdown and JSON, to be put beside a model.

    >>> results = probes.run_all(pipe, "results/limitations", quick=True)
    >>> card.write(results, "results/limitations")["html"]
    PosixPath('results/limitations/limitations.html')

The HTML is one file with its figures inside; the Markdown shows them from `figures/`; the JSON has every number. All three
name the weights that were measured, by revision and hash, the images with their licences, and what the weights' own licence
requires.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from svdlab import __version__
from svdlab.errors import InputError
from svdlab.measure import video
from svdlab.measure.files import write_whole
from svdlab.probes.running import Result
from svdlab.show.figure import save
from svdlab.show.page import Media, Quote, Strong, markdown, page
from svdlab.stats.effects import quantity

HOW = (
    "Each finding has a 95 % interval over images; seeds are averaged within an image first. Effect: the interval excludes 0, "
    "or lies above the threshold, and the test holds after correction for all findings of the probe. Equivalent within the "
    "margin: the interval lies inside a margin that was fixed beforehand, which is evidence of no relevant effect. "
    "Inconclusive: no evidence either way. Descriptive: a quantity with nothing to test. With fewer than six images, or where "
    "the audit of the instrument fails, there is no verdict."
)


def write(results: Mapping[str, Result], folder: str | Path, *, figures: bool = True) -> dict[str, Path]:
    """Write the card into a folder; returns where "markdown", "html" and "json" are.

    results: as `svdlab.probes.run_all` returns them. figures=False leaves the figures out. Raises InputError for no results or
    results of different weights, OutputError where the folder cannot be written.
    """
    folder = Path(folder).expanduser()
    facts = facts_of(results)
    drawn = {}
    for name, result in results.items() if figures else ():
        if result.status != "not run":
            save(result.figure(), folder / "figures" / name, formats=("png",))
            drawn[name] = folder / "figures" / f"{name}.png"
    checkpoint = facts["checkpoint"]
    title = f"Limitations of {str(checkpoint['checkpoint'] or 'unknown').rstrip('/').split('/')[-1]}, measured"
    sections, label = _sections(results, facts, drawn), str(checkpoint["label"] or "")
    texts = {
        "markdown": markdown(title, sections, label=label, folder=folder),
        "html": page(title, sections, label=label),
        "json": json.dumps(facts, indent=1) + "\n",
    }
    written = {kind: folder / f"limitations.{'md' if kind == 'markdown' else kind}" for kind in texts}
    for path, text in [*((written[kind], text) for kind, text in texts.items()), (folder / "NOTICE", video.notice())]:
        with write_whole(path) as part:
            part.write_text(text, encoding="utf-8")
    return written


def facts_of(results: Mapping[str, Result]) -> dict[str, Any]:
    """The machine-readable card: what was measured on which weights, and each probe's `facts`."""
    if not results:
        raise InputError("no results: run some probes first, as in probes.run_all(pipe, out).")
    sources = {(r.source or {}).get("weights_hash"): dict(r.source) for r in results.values() if r.source}
    if len(sources) > 1:
        named = ", ".join(str(s.get("checkpoint")) for s in sources.values())
        raise InputError(f"results of different weights ({named}) do not make one card: write one for each.")
    source = next(iter(sources.values()), {})
    return {
        "kind": "svdlab limitations card",
        "svdlab": __version__,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "checkpoint": {k: source.get(k) for k in ("checkpoint", "revision", "weights_hash", "label", "licence")},
        "probes": [r.facts() for r in results.values()],
    }


def _sections(results: Mapping[str, Result], facts: dict[str, Any], figures: Mapping[str, Path]) -> dict[str, list[Any]]:
    c = facts["checkpoint"]
    known = {"checkpoint": c["checkpoint"], "revision": c["revision"], "weights sha256": str(c["weights_hash"] or "")[:16]}
    weights = ", ".join(f"{key} {value}" for key, value in known.items() if value)
    rows = [(name, r.card, r.verdict) for name, r in results.items()]
    summary = pd.DataFrame(rows, columns=["probe", "the card says", "measured"])
    sections: dict[str, list[Any]] = {
        "": [f"Measured by svdlab {facts['svdlab']} on {facts['made'][:10]}: {weights}.", HOW, summary]
    }
    for name, result in results.items():
        sections[name] = [Quote(result.card), result.question, Strong(result.verdict), *_findings(result), _notes(result)]
        if name in figures:
            sections[name].append(Media(figures[name], f"{name}: {result.verdict}"))
    tables = [r.stimuli[["name", "source", "licence"]] for r in results.values() if r.stimuli is not None and len(r.stimuli)]
    if tables:
        groups = pd.concat(tables).drop_duplicates().groupby(["source", "licence"], sort=False)["name"]
        sections["Images"] = [[f"{_listed(list(names))}: {licence} ({source})" for (source, licence), names in groups]]
    if c["licence"]:
        sections["Licence of the weights"] = [str(c["licence"])]
    return sections


def _findings(result: Result) -> list[pd.DataFrame]:
    rows = []
    for e in result.effects:
        ends = [quantity(v, e.unit, bare=True) for v in (e.low, e.high)]
        interval = "" if pd.isna(e.low) else f" ({' to '.join(ends)})"
        rows.append((e.label, quantity(e.value, e.unit) + interval, f"{e.n} x {e.seeds}", e.verdict))
    return [pd.DataFrame(rows, columns=["finding", "value (95 % CI)", "images x seeds", "verdict"])] if rows else []


def _notes(result: Result) -> list[str]:
    """Notes, the audit, what it took."""
    notes = list(result.notes)
    if result.audit:
        failed = [check for check in result.audit if not check.passed]
        notes.append(f"Audit: {len(result.audit) - len(failed)} of {len(result.audit)} checks passed.")
        notes += [f"Failed: {f.check}: expected {f.expected}, measured {f.measured}." for f in failed]
    if cost := result.cost:
        took = "" if cost.took is None else f", {cost.took:.0f} s in all"
        notes.append(f"{len(result.table)} rows{took} on {cost.device}{', quick' if result.quick else ''}")
    return notes


def _listed(names: list[str]) -> str:
    return ", ".join(names if len(names) <= 12 else [*names[:6], f"and {len(names) - 6} more"])
