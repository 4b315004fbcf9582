"""What the probes found, a line each, that opens to findings and pictures.

>>> svdlab.widgets.verdicts(svdlab.probes.run_all(pipe, "results/limitations"))
"""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ipywidgets

from svdlab.errors import InputError, SvdlabError
from svdlab.show.style import Figure
from svdlab.widgets.background import Latest
from svdlab.widgets.panel import Panel, Picture, put, said, warning


def verdicts(results: Any, *, out: str | Path = "results/exports") -> Verdicts:
    """Probes by name with their status and verdict; a line opens to the probe's sentences and its figure.

    >>> verdicts(result)
    >>> verdicts({"stillness": result, "text": other})

    results: a ProbeResult, several, or a dict of them by name. Raises InputError for none.
    """
    if isinstance(results, Mapping):
        several = list(results.values())
    else:
        several = list(results) if isinstance(results, Sequence) else [results]
    if not several or not all(hasattr(r, "verdict") and hasattr(r, "figure") for r in several):
        raise InputError("give what svdlab.probes.run or run_all returned: at least one result with a verdict.")
    return Verdicts(several, out)


class Verdicts(Panel):
    """What `verdicts` returns. results: as given. lines: the accordion."""

    kind = "verdicts"

    def __init__(self, results: Sequence[Any], out: str | Path) -> None:
        self.results = results
        self.draw = Latest(wait=0.0)
        self.pictures = [Picture(format="png") for _ in results]
        self.told = [ipywidgets.HTML(_sentences(r)) for r in results]
        boxes = [ipywidgets.VBox(pair) for pair in zip(self.told, self.pictures, strict=True)]
        self.lines = ipywidgets.Accordion(boxes, titles=[f"{r.name} · {r.status} · {r.verdict}" for r in results])
        self.lines.observe(lambda change: self._open(change["new"]), "selected_index")
        label = ipywidgets.HTML(said("; ".join(sorted({f"{r.checkpoint} {r.label}".strip() for r in results}))))
        label.add_class("svdlab-pale")
        super().__init__([self.lines, label], out=out)

    def _open(self, n: int | None) -> None:
        """The figure of a line, drawn when it is first opened."""
        if n is not None and not self.pictures[n].value:
            self.draw(lambda: self._show(n))

    def _show(self, n: int) -> None:
        try:
            data, metadata = self.results[n].figure()._repr_mimebundle_()
        except SvdlabError as error:
            self.told[n].value = _sentences(self.results[n]) + warning(str(error))
            return
        facts = metadata["image/png"]
        put(self.pictures[n], base64.b64decode(data["image/png"]), facts["alt"], width=str(facts["width"]))

    def figure(self) -> Figure:
        """The figure of the line that is open, or of the first."""
        return self.results[self.lines.selected_index or 0].figure()

    def film(self) -> None:
        return None

    def plan(self) -> list[dict[str, Any]]:
        return []

    def view(self) -> dict[str, Any]:
        return {"widget": "verdicts", "probe": self.results[self.lines.selected_index or 0].name}


def _sentences(result: Any) -> str:
    lines = [html.escape(str(s)) for s in result.findings.get("sentence", ())]
    return (
        f"<p><b>{html.escape(result.question)}</b></p><p>{html.escape(result.verdict)}</p><ul><li>"
        + "</li><li>".join(lines or ["no findings"])
        + "</li></ul>"
    )
