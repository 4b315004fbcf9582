"""What the probes found, a line each, that opens to findings and figure."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ipywidgets

from svdlab.errors import InputError, path, several, shown, takes
from svdlab.probes import Result
from svdlab.show.figure import Figure
from svdlab.show.page import blocks
from svdlab.widgets.panel import Panel, pale, put_figure


def _result(name: str, value: Any) -> Result:
    if not isinstance(value, Result):
        raise InputError(f"{name}={shown(value)}: give what svdlab.probes.run or run_all returned.")
    return value


def _results(name: str, value: Any) -> tuple[Result, ...]:
    """One result, several, or a dict of them, as several."""
    value = list(value.values()) if isinstance(value, Mapping) else [value] if isinstance(value, Result) else value
    if isinstance(value, list) and not value:
        raise InputError(f"{name} is empty: give what svdlab.probes.run or run_all returned.")
    return several(name, value, _result)


class Verdicts(Panel):
    """Probes by name with their status and verdict; a line opens to the probe's sentences and its figure.

    >>> svdlab.widgets.verdicts(svdlab.probes.run_all(pipe, "results/limitations"))  # doctest: +SKIP

    results: a probe's Result, several, or a dict of them by name. lines: the accordion. texts, images: what each line opens
    to. Raises InputError for no result.
    """

    @takes(results=_results, out=path)
    def __init__(self, results: Any, *, out: str | Path = "results/exports") -> None:
        self.results = results
        self.images = [ipywidgets.HTML() for _ in results]
        self.texts = [ipywidgets.HTML(blocks(*r.words())) for r in results]
        boxes = [ipywidgets.VBox(pair) for pair in zip(self.texts, self.images, strict=True)]
        self.lines = ipywidgets.Accordion(boxes, titles=[f"{r.probe.name} · {r.status} · {r.verdict}" for r in results])
        self.lines.observe(lambda change: self._open(change["new"]), "selected_index")
        foot = pale("; ".join(sorted({f"{r.source.checkpoint} {r.source.label}".strip() for r in results})))
        super().__init__([self.lines, foot], out=out)

    def _open(self, n: int | None) -> None:
        """The figure of a line, drawn when it is first opened."""
        if n is not None and not self.images[n].value:
            self.draw(lambda: put_figure(self.images[n], self.results[n].figure()))

    def figure(self) -> Figure:
        """The figure of the line that is open, or of the first."""
        return self.results[self.lines.selected_index or 0].figure()
