"""The limitations card: all results of a study as Markdown, HTML and JSON, fit to lie beside a model.

    >>> results = probes.run_all(pipe, "results/limitations", quick=True)
    >>> card.write(results, "results/limitations")["html"]
    PosixPath('results/limitations/limitations.html')

The HTML is one file with its figures inside; the Markdown shows them from `figures/`; the JSON has every number. All three
name the weights that were measured, by revision and hash, the pictures with their licences, and what the weights' own
licence asks to be said. Write it into a model's folder to attach it.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from svdlab import __version__
from svdlab.errors import InputError, OutputError
from svdlab.measure import video
from svdlab.probes.base import ProbeResult

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 1rem 0; font-size: 0.9rem; } td, th { text-align: left; vertical-align: top; }
td, th { padding: 0.25rem 0.75rem 0.25rem 0; border-bottom: 1px solid #ddd; } img { max-width: 100%; height: auto; }
blockquote { color: #666; font-style: italic; margin: 0; } .label { background: #f3e9d2; padding: 0.25rem 0.5rem; }
h2 { margin-top: 3rem; } .small { font-size: 0.85rem; color: #555; }
"""
NAMES = {"markdown": "limitations.md", "html": "limitations.html", "json": "limitations.json"}


def write(results: Mapping[str, ProbeResult], folder: str | Path, *, figures: bool = True) -> dict[str, Path]:
    """Write the card into a folder; returns where "markdown", "html" and "json" are.

    results: as `svdlab.probes.run_all` returns them; those that were not run are in it, with the reason. figures=False
    leaves them out. Raises InputError for no results or for results of different weights, OutputError where the folder
    cannot be written.
    """
    folder = Path(folder)
    facts = facts_of(results)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        drawn = _figures(results, folder / "figures") if figures else {}
        texts = {
            "markdown": markdown(results, facts, {n: f"figures/{p.name}" for n, p in drawn.items()}),
            "html": html(results, facts, {n: _inline(p) for n, p in drawn.items()}),
            "json": json.dumps(facts, indent=1, default=str) + "\n",
        }
        written = {}
        for kind, text in texts.items():
            target = folder / NAMES[kind]
            part = target.with_name(f".{target.name}.part")
            part.write_text(text, encoding="utf-8")
            os.replace(part, target)
            written[kind] = target
        (folder / "NOTICE").write_text(video.notice())
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"{folder} could not be written: {error}. Choose a folder that you may write to.") from error
    return written


def facts_of(results: Mapping[str, ProbeResult]) -> dict[str, Any]:
    """The machine-readable card: what was measured on which weights, and each probe's `facts`."""
    if not results:
        raise InputError("no results: run some probes first, as in probes.run_all(pipe, out).")
    sources = {r.source.get("weights_hash"): r.source for r in results.values() if r.source}
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


def _figures(results: Mapping[str, ProbeResult], folder: Path) -> dict[str, Path]:
    """A PNG for each probe that was run, with its provenance in it."""
    from svdlab import show

    drawn = {}
    for name, result in results.items():
        if result.status == "not run":
            continue
        path = folder / f"{name}.png"
        show.save(show.probe(result), path, formats=("png",))
        video.tag_png(path, video.describe(source=result.source, probe=name))
        drawn[name] = path
    return drawn


def _inline(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


# --- what both texts say ----------------------------------------------------------------------------------------------


def _title(facts: dict[str, Any]) -> str:
    name = str(facts["checkpoint"]["checkpoint"] or "unknown").rstrip("/").split("/")[-1]
    return f"Limitations of {name}, measured"


def _weights(facts: dict[str, Any]) -> str:
    c = facts["checkpoint"]
    parts = [f"checkpoint {c['checkpoint']}"]
    parts += [f"revision {c['revision']}"] if c["revision"] else []
    parts += [f"weights sha256 {str(c['weights_hash'])[:16]}"] if c["weights_hash"] else []
    return f"Measured by svdlab {facts['svdlab']} on {facts['made'][:10]}: {', '.join(parts)}."


def _cost(result: ProbeResult) -> str:
    if result.cost is None:
        return ""
    took = "" if result.cost.took is None else f", {result.cost.took:.0f} s in all"
    return f"{len(result.table)} rows{took} on {result.cost.device}" + (", quick" if result.quick else "")


def _notes(result: ProbeResult) -> list[str]:
    notes = [*result.notes, *(f"Left out: {s}" for s in result.skipped)]
    if len(result.audit):
        failed = result.audit[~result.audit["passed"].astype(bool)]
        notes.append(f"Audit: {len(result.audit) - len(failed)} of {len(result.audit)} checks passed.")
        notes += [f"Failed: {r.check}: expected {r.expected}, measured {r.measured}." for r in failed.itertuples()]
    return [*notes, *filter(None, [_cost(result)])]


def _numbers(result: ProbeResult) -> list[tuple[str, str, str, str]]:
    """Finding, value with interval, sample, kind."""
    rows = []
    for f in result.findings.to_dict("records"):
        factor, unit = (100, "%") if f["unit"] == "share" else (1, f["unit"])
        limits = f" ({factor * f['low']:.3g} to {factor * f['high']:.3g})" if pd.notna(f["low"]) else ""
        sample = f"{f['n_images']} x {f['n_seeds']}"
        rows.append((f["what"], f"{factor * f['value']:.3g}{limits} {unit}".strip(), sample, f["kind"]))
    return rows


def _pictures(results: Mapping[str, ProbeResult]) -> list[str]:
    """Every picture that was shown to the model, with source and licence, one line for each source and licence."""
    tables = [r.stimuli[["name", "source", "licence"]] for r in results.values() if len(r.stimuli)]
    if not tables:
        return []
    table = pd.concat(tables).drop_duplicates()
    groups = table.groupby(["source", "licence"], sort=False)["name"]
    return [f"{', '.join(_short(names))}: {licence} ({source})" for (source, licence), names in groups]


def _short(names: pd.Series) -> list[str]:
    listed = list(names)
    return listed if len(listed) <= 12 else [*listed[:6], f"and {len(listed) - 6} more"]


HOW = (
    "Each statement has a 95 % interval over images (seeds averaged within an image first). "
    "'Found': an effect. 'None within margin': the interval lies inside a margin fixed beforehand, which is evidence of "
    "none. 'Cannot tell': no evidence either way. 'Measured': a quantity with nothing to test. Below six images there are "
    "numbers only, and where the audit of the instrument fails there is no verdict."
)


# --- Markdown ---------------------------------------------------------------------------------------------------------


def markdown(results: Mapping[str, ProbeResult], facts: dict[str, Any], figures: Mapping[str, str]) -> str:
    """The card as Markdown. figures: where each probe's figure lies, relative to the card."""
    lines = [f"# {_title(facts)}", "", _weights(facts), ""]
    if label := facts["checkpoint"]["label"]:
        lines += [f"**{label}**", ""]
    lines += [HOW, "", "| probe | the card says | measured |", "|---|---|---|"]
    lines += [f"| [{n}](#{n}) | {_cell(r.card)} | {_cell(r.verdict)} |" for n, r in results.items()]
    for name, result in results.items():
        lines += ["", f"## {name}", "", f"> {result.card}", "", result.question, "", f"**{result.verdict}**", ""]
        if rows := _numbers(result):
            lines += ["| finding | value (95 %) | images x seeds | |", "|---|---|---|---|"]
            lines += [f"| {' | '.join(map(_cell, row))} |" for row in rows]
        lines += ["", *(f"- {_flat(note)}" for note in _notes(result))]
        if name in figures:
            lines += ["", f"![{name}: findings, pictures and audit]({figures[name]})"]
    if pictures := _pictures(results):
        lines += ["", "## Pictures", "", *(f"- {_flat(p)}" for p in pictures)]
    if licence := facts["checkpoint"]["licence"]:
        lines += ["", "## Licence of the weights", "", str(licence)]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return _flat(text).replace("|", "\\|")


def _flat(text: str) -> str:
    return " ".join(str(text).split()).replace("<", "&lt;")


# --- HTML -------------------------------------------------------------------------------------------------------------


def html(results: Mapping[str, ProbeResult], facts: dict[str, Any], figures: Mapping[str, str]) -> str:
    """The card as one HTML page. figures: each probe's figure as a URL, such as data:image/png;base64,..."""
    label = facts["checkpoint"]["label"]
    body = [f"<h1>{escape(_title(facts))}</h1>", f"<p>{escape(_weights(facts))}</p>"]
    body += [f'<p><span class="label">{escape(label)}</span></p>'] if label else []
    summary = [(f'<a href="#{n}">{n}</a>', escape(r.card), escape(r.verdict)) for n, r in results.items()]
    body += [f"<p>{escape(HOW)}</p>", _table(("probe", "the card says", "measured"), summary)]
    for name, result in results.items():
        body += [f'<h2 id="{name}">{name}</h2>', f"<blockquote>{escape(result.card)}</blockquote>"]
        body += [f"<p>{escape(result.question)}</p>", f"<p><strong>{escape(result.verdict)}</strong></p>"]
        if numbers := _numbers(result):
            top = ("finding", "value (95 %)", "images x seeds", "")
            body.append(_table(top, [tuple(map(escape, row)) for row in numbers]))
        body.append(_list(_notes(result)))
        if name in figures:
            alt = escape(f"{name}: {result.verdict}", quote=True)
            body.append(f'<img src="{figures[name]}" alt="{alt}">')
    if pictures := _pictures(results):
        body += ["<h2>Pictures</h2>", _list(pictures)]
    if licence := facts["checkpoint"]["licence"]:
        body += ["<h2>Licence of the weights</h2>", f"<p>{escape(str(licence))}</p>"]
    head = f'<meta charset="utf-8"><title>{escape(_title(facts))}</title><style>{STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n' + "\n".join(body) + "\n</body></html>\n"


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Cells are HTML already."""
    top = "".join(f"<th>{escape(h)}</th>" for h in head)
    return f"<table><tr>{top}</tr>" + "".join(f"<tr>{''.join(f'<td>{c}</td>' for c in row)}</tr>" for row in rows) + "</table>"


def _list(lines: list[str]) -> str:
    return f'<ul class="small">{"".join(f"<li>{escape(line)}</li>" for line in lines)}</ul>' if lines else ""
