"""What the probes found, a line each, that opens to findings and figure.

>>> svdlab.widgets.verdicts(svdlab.probes.run_all(pipe, "results/limitations"))  # doctest: +SKIP
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ipywidgets

from svdlab.errors import InputError
from svdlab.show.figure import Figure
from svdlab.widgets.background import Latest
from svdlab.widgets.panel import ImageView, Panel, pale, put_figure


def verdicts(results: Any, *, out: str | Path = "results/exports") -> Verdicts:
    """Probes by name with their status and verdict; a line opens to the probe's sentences and its figure.

    >>> verdicts(result)  # doctest: +SKIP
    >>> verdicts({"stillness": result, "text": other})  # doctest: +SKIP

    results: a probe's Result, several, or a dict of them by name. Raises InputError for none.
    """
    several = list(results.values()) if isinstance(results, Mapping) else results
    several = list(several) if isinstance(several, Sequence) else [several]
    if not several or not all(hasattr(r, "verdict") and hasattr(r, "figure") for r in several):
        raise InputError("give what svdlab.probes.run or run_all returned: at least one result with a verdict.")
    return Verdicts(several, out)


class Verdicts(Panel):
    """What `verdicts` returns. results: as given. lines: the accordion. texts, images: what each line opens to."""

    kind = "verdicts"

    def __init__(self, results: Sequence[Any], out: str | Path) -> None:
        self.results = results
        self.draw = Latest(self.report, wait=0.0)
        self.images = [ImageView(format="png") for _ in results]
        self.texts = [ipywidgets.HTML(_text(r)) for r in results]
        boxes = [ipywidgets.VBox(pair) for pair in zip(self.texts, self.images, strict=True)]
        self.lines = ipywidgets.Accordion(boxes, titles=[f"{r.name} · {r.status} · {r.verdict}" for r in results])
        self.lines.observe(lambda change: self._open(change["new"]), "selected_index")
        foot = pale("; ".join(sorted({f"{r.source.checkpoint} {r.source.label}".strip() for r in results})))
        super().__init__([self.lines, foot], out=out)

    def _open(self, n: int | None) -> None:
        """The figure of a line, drawn when it is first opened."""
        if n is not None and not self.images[n].value:
            self.draw(lambda: put_figure(self.images[n], self.results[n].figure()))

    def _chosen(self) -> Any:
        return self.results[self.lines.selected_index or 0]

    def figure(self) -> Figure:
        """The figure of the line that is open, or of the first."""
        return self._chosen().figure()

    def view(self) -> dict[str, Any]:
        return {"probe": self._chosen().name}


def _text(result: Any) -> str:
    question, verdict = html.escape(result.question), html.escape(result.verdict)
    lines = [html.escape(str(s)) for s in result.findings.get("sentence", ())] or ["no findings"]
    return f"<p><b>{question}</b></p><p>{verdict}</p><ul><li>{'</li><li>'.join(lines)}</li></ul>"
