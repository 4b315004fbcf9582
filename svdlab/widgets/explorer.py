"""Walk over a sweep: controls for what was swept, the clip that answers, where it stands among all others.

>>> svdlab.widgets.explore(results)
>>> svdlab.widgets.explore("results/study/ledger", pipe=pipe)          # missing points can be made
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ipywidgets
import pandas as pd

from svdlab import show
from svdlab.errors import InputError, SvdlabError
from svdlab.show.provenance import about, axis, number
from svdlab.show.style import Figure
from svdlab.show.videos import Video
from svdlab.study import ledger
from svdlab.study.sweeps import sweep
from svdlab.widgets.background import Latest
from svdlab.widgets.cells import Cells, ledger_of
from svdlab.widgets.encode import restarted
from svdlab.widgets.export import row_of_run
from svdlab.widgets.panel import Film, Panel, Picture, Plot, button, put, said, shown, warning
from svdlab.widgets.ranks import ranks, strips
from svdlab.widgets.running import Cancelled, Run, start, steps_told

TABS = ("Measures", "Dose and response", "Motion")
WIDE = 340  # px of a pane


def explore(
    results: Any,
    *,
    pipe: Any = None,
    measures: Sequence[str] | None = None,
    x: str | None = None,
    y: str | None = None,
    out: str | Path = "results/exports",
) -> Explorer:
    """A sweep to walk over: a control for each condition that varies, the clip there, and how it compares.

    >>> explore(results)
    >>> explore("results/study/ledger", pipe=pipe, measures=["object_px", "camera_px"])

    results: the table of `svdlab.sweep` or `load_results`, or a ledger's path. pipe: with it, a point that was not run can be
    made from here, into the same ledger. measures: columns to compare by, default those that vary. x, y: what the
    dose-response curve begins with. out: where the export button writes. Raises InputError for a table without runs.
    """
    return Explorer(results, pipe=pipe, measures=measures, x=x, y=y, out=out)


class Explorer(Panel):
    """What `explore` returns. select: go to a point. current: the runs on screen, rows of `cells.table`."""

    kind = "explore"

    def __init__(
        self, results: Any, *, pipe: Any, measures: Sequence[str] | None, x: str | None, y: str | None, out: str | Path
    ) -> None:
        self.cells = Cells(results)
        self.pipe = pipe
        self.measures = self.cells.measures(measures)
        self.panes = [Pane(self, "first"), Pane(self, "second")]
        self.panes[1].box.layout.display = "none"
        self.two = ipywidgets.ToggleButton(
            description="Second pane", icon="columns", tooltip="Compare two runs", tabbable=True
        )
        self.two.observe(self._show_second, "value")
        self.draw = Latest()
        self._strips = ipywidgets.HTML(strips(self.cells.table, self.measures), layout=ipywidgets.Layout(display="none"))
        self.ranks = ipywidgets.HTML()
        self.curve, self.flow = Plot(), Picture(format="png")
        self._drawn: Any = None
        self._trouble = ipywidgets.HTML()
        numeric = [n for n, values in self.cells.axes.items() if all(isinstance(v, (int, float)) for v in values)]
        doses = [n for n in numeric if n != "seed"] or numeric
        self.x = self._dropdown("against", doses, x)
        self.y = self._dropdown("measure", self.measures, y)
        graph = [ipywidgets.HBox([self.x, self.y]), self.curve] if doses and self.measures else []
        self.tabs = ipywidgets.Tab(
            [
                ipywidgets.VBox([self._strips, self.ranks]),
                ipywidgets.VBox(graph or [ipywidgets.HTML(said("no condition with numbers varies"))]),
                ipywidgets.VBox([self.flow]),
            ],
            titles=TABS,
        )
        self.tabs.observe(lambda _: self.refresh(), "selected_index")
        head = ipywidgets.HTML(said(f"{len(self.cells)} runs · {about(self.cells.table)}"))
        head.add_class("svdlab-pale")
        panes = ipywidgets.HBox([p.box for p in self.panes], layout=ipywidgets.Layout(flex_flow="row wrap", grid_gap="16px"))
        super().__init__([head, panes, self.two, self._trouble, self.tabs], out=out)
        for pane in self.panes:
            pane.go(0)

    def _dropdown(self, description: str, columns: Sequence[str], chosen: str | None) -> ipywidgets.Dropdown:
        if chosen is not None and chosen not in columns:
            raise InputError(f"{chosen!r} cannot be drawn {description}: choose of {', '.join(columns) or 'nothing'}.")
        options = [(axis(c), c) for c in columns]
        value = chosen or (columns[0] if columns else None)
        layout = ipywidgets.Layout(width="26em")
        dropdown = ipywidgets.Dropdown(description=description, options=options, value=value, layout=layout, tabbable=True)
        dropdown.observe(lambda _: self.refresh(), "value")
        return dropdown

    @property
    def current(self) -> list[pd.Series]:
        """The runs on screen: one, or two with the second pane; without those that are missing."""
        places = [p.place for p in self._visible()]
        return [self.cells.table.iloc[place] for place in places if place is not None]

    def _visible(self) -> list[Pane]:
        return self.panes if self.two.value else self.panes[:1]

    def select(self, pane: int = 0, **values: Any) -> None:
        """Go to a point by name, as the controls do; values that are not named stay. Raises InputError for unknown ones.

        >>> explorer.select(fps=12, seed=1)
        """
        self.panes[pane].select(values)

    def _show_second(self, change: Any) -> None:
        self.panes[1].box.layout.display = "" if self.two.value else "none"
        self.in_step()
        self.refresh()

    def in_step(self) -> None:
        """With two panes, both films begin anew together."""
        if self.two.value:
            for pane in self.panes:
                pane.restart()

    def refresh(self) -> None:
        """Everything below the panes. What takes long is drawn beside the kernel's other work, once the controls rest."""
        places = [p.place for p in self._visible()]
        self.ranks.value = ranks(self.cells.table, self.measures, places)
        self._mark()
        if self.tabs.selected_index == 1 and self.x.value and self.y.value:
            self.draw(lambda: self._safely(self._draw_curve))
        elif self.tabs.selected_index == 2:
            self.draw(lambda: self._safely(self._draw_flow))

    def _safely(self, task: Any) -> None:
        try:
            task()
            self._trouble.value = ""
        except SvdlabError as error:
            self._trouble.value = warning(str(error))

    def _curve_key(self) -> tuple:
        point = self.panes[0].point()
        return (len(self.cells), self.x.value, self.y.value, *(point[n] for n in self.cells.axes if n not in self._free()))

    def _free(self) -> tuple[str, ...]:
        """What the curve runs over or averages: its own axis, seeds, pictures."""
        return (self.x.value, "seed", "image")

    def _draw_curve(self) -> None:
        key = self._curve_key()
        if key != self._drawn:
            fig = self._curve()
            self.curve.set(fig, fig.axes[0])
            self._drawn = key
        self._mark()

    def _curve(self) -> Figure:
        x, y = self.x.value, self.y.value
        point = self.panes[0].point()
        like = self.cells.like(point, self._free())
        others = [f"{axis(n)} {number(point[n])}" for n in self.cells.axes if n not in self._free()]
        title = f"{axis(y)} against {axis(x)}" + (f", at {', '.join(others)}" if others else "")
        return show.dose_response(like, x=x, y=y, title=title)

    def _mark(self) -> None:
        if self._drawn is not None and self._drawn == self._curve_key():
            self.curve.mark(*(self._spot(pane.place) for pane in self._visible()))

    def _spot(self, place: int | None) -> tuple[float, float]:
        """Where a pane's run lies on the curve; not a number where it was not run, so that no mark stands for another pane."""
        if place is None:
            return float("nan"), float("nan")
        run = self.cells.table.iloc[place]
        return float(run[self.x.value]), _float(run[self.y.value])

    def _draw_flow(self) -> None:
        runs = self.current
        if not runs:
            return
        fig = show.flow(frames_of(runs[0]), label=about(runs[0]))
        data, metadata = fig._repr_mimebundle_()
        alt = f"Optical flow of the first pane's clip: {caption(self.cells, runs[0])}"
        put(self.flow, base64.b64decode(data["image/png"]), alt, width=str(metadata["image/png"]["width"]))

    # --- export -------------------------------------------------------------------------------------------------------

    def figure(self) -> Figure:
        runs = self._shown()
        labels = [caption(self.cells, run) for run in runs]
        table = pd.DataFrame(runs)
        fig = show.filmstrip(table, labels=labels, title=f"{len(runs)} of {len(self.cells)} runs: {'; '.join(labels)}")
        fig.data = table[["run_id", *self.cells.axes, *self.measures]]
        return fig

    def film(self) -> Video:
        runs = self._shown()
        return show.video(pd.DataFrame(runs), labels=[caption(self.cells, run) for run in runs], fps=_rate(runs[0]))

    def plan(self) -> list[dict[str, Any]]:
        return [row_of_run(run) for run in self._shown()]

    def _shown(self) -> list[pd.Series]:
        runs = [run for run in self.current if run["frames"]]
        if not runs:
            raise InputError("no run is on screen: choose a point that was run.")
        return runs

    def view(self) -> dict[str, Any]:
        return {"widget": "explore", "points": [p.point() for p in self._visible()], "x": self.x.value, "y": self.y.value}


class Pane:
    """One clip and its controls. place: its run's row in the table, None where the point was not run."""

    def __init__(self, panel: Explorer, which: str) -> None:
        self.panel, self.which = panel, which
        self.place: int | None = None
        self.run: Run | None = None
        self._moving = False
        self._restarts = 0
        self._mp4 = b""
        wide = ipywidgets.Layout(width="100%")
        self.controls = {name: _control(name, values, wide) for name, values in panel.cells.axes.items()}
        for control in self.controls.values():
            control.observe(lambda _: self._moved(), "value")
        self.walk = ipywidgets.IntSlider(
            description="run", min=0, max=len(panel.cells) - 1, layout=wide, tabbable=True, readout=True
        )
        self.walk.observe(self._walked, "value")
        self.video = Film(format="mp4", width=str(WIDE), autoplay=True, loop=True)
        self.caption = ipywidgets.HTML()
        self.make = button("Make it", "play", self._make)
        self.cancel = button("Cancel", "stop", lambda: self.run.cancel() if self.run else None)
        self.near = button("Nearest run", "location-arrow", lambda: self.go(panel.cells.nearest(self.point())))
        self.bar = ipywidgets.IntProgress(min=0, layout=ipywidgets.Layout(width="100%", display="none"))
        shown(self.cancel, False)
        self.offer = ipywidgets.HBox([self.make, self.cancel, self.near])
        parts = [*self.controls.values(), self.walk, self.video, self.caption, self.offer, self.bar]
        self.box = ipywidgets.VBox(parts, layout=ipywidgets.Layout(width=f"{WIDE + 60}px", max_width="100%"))
        self.box.add_class("svdlab-pane")

    def point(self) -> dict[str, Any]:
        return {name: control.value for name, control in self.controls.items()}

    def select(self, values: dict[str, Any]) -> None:
        axes = self.panel.cells.axes
        for name, value in values.items():
            if name not in axes or value not in axes[name]:
                raise InputError(f"{name}={value!r} is no point of this sweep: its axes are {axes}.")
        self._set(values)
        self._moved()

    def go(self, place: int) -> None:
        """Show a run by its place in the table."""
        self._set(self.panel.cells.point(place))
        self._arrive(place)

    def _set(self, values: dict[str, Any]) -> None:
        self._moving = True
        for name, value in values.items():
            self.controls[name].value = value
        self._moving = False

    def _moved(self) -> None:
        if not self._moving:
            self._arrive(self.panel.cells.at(self.point()))

    def _walked(self, change: Any) -> None:
        if not self._moving:
            self.go(self.walk.value)

    def _arrive(self, place: int | None) -> None:
        """The film first, which is read as it lies on disk; everything else after it."""
        self.place = place
        run = None if place is None else self.panel.cells.table.iloc[place]
        path = run["preview"] if run is not None else ""
        try:
            self._mp4 = Path(path).read_bytes() if path else b""
            trouble = ""
        except OSError as error:
            self._mp4, trouble = b"", f"{error}"
        self._restarts = 0
        if run is not None and self._mp4:  # a browser complains of a film without bytes: the old one is only hidden
            put(self.video, self._mp4, f"Clip at {caption(self.panel.cells, run)}, looping")
        shown(self.video, bool(self._mp4))
        self._tell(run, trouble)
        self._moving = True
        if place is not None:
            self.walk.value = place
        self._moving = False
        shown(self.near, run is None)
        shown(self.make, run is None and self.panel.pipe is not None)
        self.panel.in_step()
        self.panel.refresh()

    def _tell(self, run: pd.Series | None, trouble: str) -> None:
        cells = self.panel.cells
        if run is None:
            how = "" if self.panel.pipe is not None else " Give explore(..., pipe=pipe) to make it from here."
            text = f"not run: {_at(self.point())}.{how}"
        elif trouble or not run["preview"]:
            text = f"no film: {trouble or run.get('reason') or run.get('status')}"
        else:
            text = caption(cells, run)
        self.caption.value = said(text)
        (self.caption.remove_class if run is not None else self.caption.add_class)("svdlab-missing")

    def restart(self) -> None:
        self._restarts += 1
        if self._mp4:
            self.video.value = restarted(self._mp4, self._restarts)

    # --- making what is missing ---------------------------------------------------------------------------------------

    def _make(self) -> None:
        panel, row, point = self.panel, self.panel.cells.row_to_make(self.point()), self.point()
        out = ledger_of(panel.cells.table)
        if out is None:
            self.caption.value = warning("the runs are not all in one ledger: nowhere to put another.")
            return
        self.bar.max, self.bar.value, self.bar.layout.display = int(row.get("num_inference_steps", 25)), 0, ""
        shown(self.make, False)
        shown(self.cancel, True)

        def work(run: Run) -> pd.DataFrame:
            with steps_told(panel.pipe, run, lambda n: setattr(self.bar, "value", n)):
                return sweep(panel.pipe, [row], out, progress=False)

        self.caption.value = said(f"making {_at(point)} …")
        self.run = start(panel.pipe, work, done=lambda table: self._made(table), failed=self._failed)

    def _made(self, table: pd.DataFrame) -> None:
        place = self.panel.cells.add(table)
        self._end()
        for pane in self.panel.panes:
            pane.walk.max = len(self.panel.cells) - 1
        self.go(place)

    def _failed(self, error: BaseException) -> None:
        self._end()
        shown(self.make, True)
        stopped = isinstance(error, Cancelled)
        self.caption.value = said(f"stopped, not run: {_at(self.point())}") if stopped else warning(str(error))

    def _end(self) -> None:
        shown(self.cancel, False)
        shown(self.bar, False)


def caption(cells: Cells, run: pd.Series) -> str:
    """What tells a run from the others of its sweep."""
    text = _at({name: run[name] for name in cells.axes})
    return text or f"run {str(run['run_id'])[:8]}"


def frames_of(run: pd.Series) -> Any:
    """A run's frames from the ledger, hash checked."""
    folder = Path(run["frames"]).parent
    return ledger.read_frames(folder.parents[1], folder.name)


def _at(point: dict[str, Any]) -> str:
    return ", ".join(f"{show.provenance.name(n)} {_label(v)}" for n, v in point.items())


def _label(value: Any) -> str:
    return "none" if value is None else number(value).rsplit("/", 1)[-1]


def _control(name: str, values: list[Any], layout: ipywidgets.Layout) -> Any:
    """A slider where values have an order, a list where they are names."""
    options = [(_label(v), v) for v in values]
    kind = ipywidgets.SelectionSlider if all(isinstance(v, (int, float)) for v in values) else ipywidgets.Dropdown
    return kind(description=show.provenance.name(name), options=options, value=values[0], layout=layout, tabbable=True)


def _rate(run: pd.Series) -> float:
    return _float(run.get("playback_fps")) if _float(run.get("playback_fps")) > 0 else float(run["fps"])


def _float(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) and value is not None else float("nan")
