"""Walk over a sweep: controls for what was varied, the clip of that point, its place among all runs.

>>> svdlab.widgets.explore(results)
>>> svdlab.widgets.explore(out, pipe=pipe)               # a study's folder; missing points can be made
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ipywidgets
import pandas as pd

from svdlab import show
from svdlab.errors import InputError
from svdlab.measure.video import read_frames
from svdlab.show.clips import Video
from svdlab.show.figure import Figure
from svdlab.show.labels import about, axis, name, number
from svdlab.study.sweep import sweep
from svdlab.widgets.background import Job, Latest
from svdlab.widgets.export import row_of_run
from svdlab.widgets.panel import (
    ImageView,
    Panel,
    Plot,
    VideoView,
    button,
    pale,
    put,
    put_figure,
    status,
    visible,
    wide,
    wrapping,
)
from svdlab.widgets.runs import Runs

PANE = 340  # px
NAN = float("nan")
EMPTY_BOX = (
    b"\x00\x00\x00\x08free"  # at the end of an MP4 players skip it, but a browser starts the new bytes from the beginning
)


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
    >>> explore(results, pipe=pipe, measures=["object_px", "camera_px"], y="camera_px")

    results: the table of `svdlab.sweep` or `load_results`, or a study's folder. pipe: with it, a point that was not run can
    be made from here, into the same study. measures: columns to compare by, default those that vary. x, y: what the
    dose-response curve begins with. out: where the export button writes. Raises InputError for a table without runs.
    """
    return Explorer(results, pipe, measures, x, y, out)


class Explorer(Panel):
    """What `explore` returns. select: go to a point. current: the runs on screen, rows of `runs.table`."""

    kind = "explore"

    def __init__(self, results: Any, pipe: Any, measures: Any, x: str | None, y: str | None, out: str | Path) -> None:
        self.runs, self.pipe = Runs(results), pipe
        self.measures = self.runs.measures(measures)
        self.panes = [Pane(self), Pane(self)]
        self.two = ipywidgets.ToggleButton(description="Second pane", icon="columns", tabbable=True)
        self.two.observe(lambda _: self.refresh(restart=True), "value")
        self.draw = Latest(self.report)
        self.ranks, self.curve, self.flow = ipywidgets.HTML(), Plot(), ImageView()
        self._drawn: tuple = ()  # what the curve shows
        numeric = [n for n, values in self.runs.axes.items() if all(isinstance(v, (int, float)) for v in values)]
        doses = [n for n in numeric if n != "seed"] or numeric
        self.x, self.y = self._dropdown("against", doses, x), self._dropdown("measure", self.measures, y)
        graph = [ipywidgets.HBox([self.x, self.y]), self.curve] if doses and self.measures else []
        self.tabs = ipywidgets.Tab(
            [self.ranks, ipywidgets.VBox(graph or [pale("no condition with numbers varies")]), self.flow],
            titles=("Measures", "Dose and response", "Motion"),
        )
        self.tabs.observe(lambda _: self.refresh(), "selected_index")
        head = pale(f"{len(self.runs)} runs · {about(self.runs.table)}")
        super().__init__([head, wrapping(*self.panes), self.two, self.tabs], out=out)
        for pane in self.panes:
            pane.go(0)
            pane.play()  # the hidden one, too: a browser complains of a video without bytes

    def _dropdown(self, description: str, columns: Sequence[str], chosen: str | None) -> ipywidgets.Dropdown:
        if chosen is not None and chosen not in columns:
            raise InputError(f"{chosen!r} cannot be drawn {description}: choose one of {', '.join(columns) or 'nothing'}.")
        options, value = [(axis(c), c) for c in columns], chosen or next(iter(columns), None)
        dropdown = ipywidgets.Dropdown(description=description, options=options, value=value, **wide("26em"))
        dropdown.observe(lambda _: self.refresh(), "value")
        return dropdown

    def _visible(self) -> list[Pane]:
        return self.panes if self.two.value else self.panes[:1]

    @property
    def current(self) -> list[pd.Series]:
        """The runs on screen: one, or two with the second pane; without those that are missing."""
        return [self.runs.table.iloc[pane.place] for pane in self._visible() if pane.place is not None]

    def select(self, pane: int = 0, **values: Any) -> None:
        """Go to a point by name, as the controls do; values that are not named stay. Raises InputError for unknown ones.

        >>> explore(results).select(fps=12)
        """
        for key, value in values.items():
            if value not in self.runs.axes.get(key, ()):
                raise InputError(f"{key}={value!r} is no point of this sweep: its axes are {self.runs.axes}.")
        self.panes[pane].show({**self.panes[pane].point(), **values})

    def refresh(self, *, restart: bool = False) -> None:
        """Everything below the panes; what takes long is drawn on a thread, once the controls rest.

        restart: the videos begin again, together.
        """
        visible(self.panes[1], self.two.value)
        for pane in self._visible() if restart else ():
            pane.play()
        self.ranks.value = _ranks(self.runs.table, self.measures, [pane.place for pane in self._visible()])
        self._mark()
        if self.tabs.selected_index == 1 and self.x.value and self.y.value:
            self.draw(self._draw_curve)
        elif self.tabs.selected_index == 2 and self.current:
            self.draw(self._draw_flow)

    def _held(self) -> dict[str, Any]:
        """What the curve holds constant: the first pane's point without the curve's own axis, and without what it averages."""
        return {n: v for n, v in self.panes[0].point().items() if n not in (self.x.value, "seed", "image")}

    def _subject(self) -> tuple:
        """What determines the curve, so that it is drawn again only when that changes."""
        return (len(self.runs), self.x.value, self.y.value, *self._held().values())

    def curve_figure(self) -> Figure:
        """The dose-response curve of the chosen measure, at the first pane's other conditions."""
        x, y, held = self.x.value, self.y.value, self._held()
        like = self.runs.like(self.panes[0].point(), [n for n in self.runs.axes if n not in held])
        at = ", ".join(f"{axis(n)} {number(v)}" for n, v in held.items())
        return show.dose_response(like, x=x, y=y, title=f"{axis(y)} against {axis(x)}" + (f", at {at}" if at else ""))

    def _draw_curve(self) -> None:
        if (subject := self._subject()) != self._drawn:
            self.curve.set(self.curve_figure())
            self._drawn = subject
        self._mark()

    def _mark(self) -> None:
        if self._drawn == self._subject():
            runs = [None if pane.place is None else self.runs.table.iloc[pane.place] for pane in self._visible()]
            self.curve.mark(*((NAN, NAN) if run is None else (run[self.x.value], run[self.y.value]) for run in runs))

    def _draw_flow(self) -> None:
        run = self.current[0]
        alt = f"Optical flow of the first pane's clip: {self.caption(run)}"
        put_figure(self.flow, show.flow(read_frames(run["frames"]), label=about(run)), alt)

    def caption(self, run: pd.Series) -> str:
        """What distinguishes a run from the others of its sweep."""
        return _text({n: run[n] for n in self.runs.axes}) or f"run {str(run['run_id'])[:8]}"

    # --- export -------------------------------------------------------------------------------------------------------

    def _on_screen(self) -> tuple[pd.DataFrame, list[str]]:
        runs = [run for run in self.current if run["frames"]]
        if not runs:
            raise InputError("no run is on screen: choose a point that was run.")
        return pd.DataFrame(runs), [self.caption(run) for run in runs]

    def figure(self) -> Figure:
        table, labels = self._on_screen()
        fig = show.filmstrip(table, labels=labels, title=f"{len(table)} of {len(self.runs)} runs: {'; '.join(labels)}")
        fig.data = table[["run_id", *self.runs.axes, *self.measures]]
        return fig

    def video(self) -> Video:
        table, labels = self._on_screen()
        rate = table.iloc[0].get("playback_fps")
        return show.video(table, labels=labels, fps=float(rate if rate and rate > 0 else table.iloc[0]["fps"]))

    def plan(self) -> list[dict[str, Any]]:
        return [row_of_run(run) for _, run in self._on_screen()[0].iterrows()]

    def view(self) -> dict[str, Any]:
        return {"points": [pane.point() for pane in self._visible()], "x": self.x.value, "y": self.y.value}


class Pane(ipywidgets.VBox):
    """One clip and its controls. place: its run's row in the table, None where the point was not run."""

    def __init__(self, panel: Explorer) -> None:
        self.panel = panel
        self.place: int | None = None
        self._mp4, self._alt, self._starts = b"", "", 0
        self._setting = False  # whether the controls are being set, rather than moved by hand
        self.controls = {n: _control(n, values) for n, values in panel.runs.axes.items()}
        self.walk = ipywidgets.IntSlider(description="run", min=0, max=len(panel.runs) - 1, **wide())
        for control in (*self.controls.values(), self.walk):
            control.observe(self._moved, "value")
        self.video = VideoView(format="mp4", width=str(PANE), autoplay=True, loop=True)
        self.caption = ipywidgets.HTML()
        self.job = Job(panel.pipe, "Make it", self._make, self._made)
        self.near = button("Nearest run", "location-arrow", lambda: self.go(panel.runs.nearest(self.point())))
        parts = [*self.controls.values(), self.walk, self.video, self.caption, self.near, self.job]
        super().__init__(parts, layout=ipywidgets.Layout(width=f"{PANE + 60}px", max_width="100%"))
        self.add_class("svdlab-pane")

    def _moved(self, change: Any) -> None:
        if not self._setting:
            self.show(self.point()) if change["owner"] is not self.walk else self.go(self.walk.value)

    def point(self) -> dict[str, Any]:
        return {n: control.value for n, control in self.controls.items()}

    def go(self, place: int) -> None:
        """Show a run by its place in the table."""
        self.show(self.panel.runs.point(place), place)

    def show(self, point: dict[str, Any], place: int | None = None) -> None:
        """Show the run at a point, or that there is none. The video comes first, read as it lies on disk."""
        self.place = self.panel.runs.at(point) if place is None else place
        self._setting = True
        for n, value in point.items():
            self.controls[n].value = value
        if self.place is not None:
            self.walk.value = self.place
        self._setting = False
        run = None if self.place is None else self.panel.runs.table.iloc[self.place]
        self._mp4 = b""
        if run is None:
            how = "" if self.panel.pipe is not None else " Give explore(..., pipe=pipe) to make it from here."
            text = f"not run: {_text(point)}.{how}"
        elif not run["preview"]:
            text = f"no video: {run.get('reason') or run.get('status')}"
        else:
            try:
                text, self._mp4 = self.panel.caption(run), Path(run["preview"]).read_bytes()
            except OSError as error:
                text = f"no video: {error}"
        self._alt, self.caption.value = f"Clip at {text}, looping", status(text)
        (self.caption.add_class if run is None else self.caption.remove_class)("svdlab-missing")
        visible(self.near, run is None)
        running = not self.job.halt.disabled  # for a point that was left meanwhile
        visible(self.job, running or (run is None and self.panel.pipe is not None))
        self.panel.refresh(restart=True)

    def play(self) -> None:
        """The video from its beginning. Where there is none the old one is hidden, and keeps its bytes."""
        self._starts += 1
        if self._mp4:
            put(self.video, self._mp4 + EMPTY_BOX * (self._starts % 2), self._alt)
        visible(self.video, bool(self._mp4))

    # --- making what is missing ---------------------------------------------------------------------------------------

    def _make(self) -> Callable[[], pd.DataFrame]:
        runs, row = self.panel.runs, self.panel.runs.row_to_make(self.point())
        return lambda: sweep(self.panel.pipe, [row], runs.folder(), progress=False)

    def _made(self, table: pd.DataFrame) -> str:
        place = self.panel.runs.add(table)
        for pane in self.panel.panes:
            pane.walk.max = len(self.panel.runs) - 1
        self.go(place)
        return ""


def _text(point: dict[str, Any]) -> str:
    return ", ".join(f"{name(n)} {_label(v)}" for n, v in point.items())


def _label(value: Any) -> str:
    return "none" if value is None else number(value).rsplit("/", 1)[-1]


def _control(axis: str, values: list[Any]) -> Any:
    """A slider where values have an order, a list where they are names."""
    kind = ipywidgets.SelectionSlider if all(isinstance(v, (int, float)) for v in values) else ipywidgets.Dropdown
    return kind(description=name(axis), options=[(_label(v), v) for v in values], value=values[0], **wide())


def _ranks(table: pd.DataFrame, measures: Sequence[str], places: Sequence[int | None]) -> str:
    """A table, as HTML, of each measure of one run or two, and their percentiles among all runs as bars."""
    values = table[list(measures)].apply(pd.to_numeric, errors="coerce")
    shares, columns, bars = values.rank(pct=True), {}, []
    for which, place in zip(("this run",) if len(places) == 1 else ("first", "second"), places, strict=True):
        bars.append("percentile" if len(places) == 1 else f"{which}, percentile")
        for column, of in ((which, values), (bars[-1], shares)):
            columns[column] = NAN if place is None else of.iloc[place]
    shown = pd.DataFrame({**columns, "least": values.min(), "greatest": values.max()}, index=list(measures)).rename(index=axis)
    style: Any = shown.style
    style = style.format(number, na_rep="-").format("{:.0%}", subset=bars, na_rep="-").format_index(escape="html")
    style = style.bar(subset=bars, vmin=0, vmax=1, color="var(--svdlab-bar)", height=80)
    return style.set_caption("Measures of what is on screen, among all runs of the sweep").to_html()
