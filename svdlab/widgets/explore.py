"""Walk over a sweep: controls for what was varied, the clip of that point, its place among all runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ipywidgets
import numpy as np
import pandas as pd

from svdlab import show
from svdlab.errors import InputError
from svdlab.measure import video
from svdlab.show.clips import Video
from svdlab.show.figure import COLOURS, Figure
from svdlab.show.labels import about, axis, name, number
from svdlab.study.sweep import sweep
from svdlab.widgets.job import Job
from svdlab.widgets.panel import ImageView, Panel, VideoView, button, control, pale, put, put_figure, status, visible, wrapping
from svdlab.widgets.runs import Runs, row_of_run, study_of

PANE = 340  # px
MARKS: dict[str, Any] = {  # of the first pane's run on the curve, and of the second's
    "ring": {"marker": "o", "color": COLOURS[1]},
    "square": {"marker": "s", "color": COLOURS[0]},
}
EMPTY_BOX = (
    b"\x00\x00\x00\x08free"  # at the end of an MP4 players skip it, but a browser starts the new bytes from the beginning
)


class Explorer(Panel):
    """A sweep to walk over: a control for each condition that varies, the clip there, and how it compares.

    >>> svdlab.widgets.explore(results, y="camera_px").select(fps=12)
    >>> svdlab.widgets.explore(out, pipe=pipe)               # a study's folder; missing points can be made

    results: the table of `svdlab.sweep` or `load_results`, or a study's folder. pipe: with it, a point that was not run can
    be made from here, into the same study. measures: columns to compare by, default those that vary. x, y: what the
    dose-response curve begins with. out: where the export button writes. Raises InputError for a table without runs.
    """

    def __init__(
        self,
        results: Any,
        *,
        pipe: Any = None,
        measures: Sequence[str] | None = None,
        x: str | None = None,
        y: str | None = None,
        out: str | Path = "results/exports",
    ) -> None:
        self.runs, self.pipe = Runs(results), pipe
        self.measures = self.runs.measures(measures)
        self.panes = [Pane(self), Pane(self)]
        again = lambda: self.refresh(restart=True)
        self.two = control(ipywidgets.ToggleButton, "Second pane", again, width=None, icon="columns")
        self.ranks, self.curve, self.flow = ipywidgets.HTML(), ImageView(), ImageView()
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

    def _dropdown(self, text: str, columns: Sequence[str], chosen: str | None) -> ipywidgets.Dropdown:
        if chosen is not None and chosen not in columns:
            raise InputError(f"{chosen!r} cannot be drawn {text}: choose one of {', '.join(columns) or 'nothing'}.")
        options, value = [(axis(c), c) for c in columns], chosen or next(iter(columns), None)
        return control(ipywidgets.Dropdown, text, self.refresh, width="26em", options=options, value=value)

    def _visible(self) -> list[Pane]:
        return self.panes if self.two.value else self.panes[:1]

    @property
    def current(self) -> pd.DataFrame:
        """The runs on screen, rows of `runs.table`: one, or two with the second pane; without those that are missing."""
        return self.runs.table.iloc[[pane.place for pane in self._visible() if pane.place is not None]]

    def select(self, pane: int = 0, **values: Any) -> None:
        """Go to a point by name, as the controls do; values that are not named stay. Raises InputError for unknown ones."""
        for key, value in values.items():
            if value not in self.runs.axes.get(key, ()):
                raise InputError(f"{key}={value!r} is no point of this sweep: its axes are {self.runs.axes}.")
        self.panes[pane].show({**self.panes[pane].point(), **values})

    def refresh(self, *, restart: bool = False) -> None:
        """Everything below the panes. restart: the videos begin again, together."""
        visible(self.panes[1], self.two.value)
        for pane in self._visible() if restart else ():
            pane.play()
        self.ranks.value = _ranks(self.runs.table, self.measures, [pane.place for pane in self._visible()])
        if self.tabs.selected_index == 1 and self.x.value and self.y.value:
            self.draw(lambda: put_figure(self.curve, self.curve_figure()))
        elif self.tabs.selected_index == 2 and len(self.current):
            self.draw(self._draw_flow)

    def curve_figure(self) -> Figure:
        """The dose-response curve of the chosen measure at the first pane's other conditions, with marks at what is on screen.

        A point is the mean over seeds and images: of these and of its own axis, the curve holds nothing constant.
        """
        x, y, point = self.x.value, self.y.value, self.panes[0].point()
        held = {n: v for n, v in point.items() if n not in (x, "seed", "image")}
        like = self.runs.like(point, point.keys() - held)
        marks = {m: self.runs.table.iloc[p.place] for m, p in zip(MARKS, self._visible(), strict=False) if p.place is not None}
        title = f"{axis(y)} against {axis(x)}{f', at {_text(held)}' if held else ''}"
        title = "; ".join([title, *(f"{mark}: {self.caption(run)}" for mark, run in marks.items())])
        fig = show.dose_response(like, x=x, y=y, title=title)
        limits = [*fig.axes[0].get_ylim()]
        for mark, run in marks.items():
            limits.append(float(pd.to_numeric(run[y], errors="coerce")))
            fig.axes[0].plot(run[x], limits[-1], gid=mark, fillstyle="none", ms=10, mew=2, clip_on=False, **MARKS[mark])
        fig.axes[0].set_ylim(np.nanmin(limits), np.nanmax(limits))
        return fig

    def _draw_flow(self) -> None:
        first = self.current[:1]
        frames = video.read_frames(first["frames"].iloc[0])
        title = f"Optical flow (px/frame) of {self.caption(first.iloc[0])}"
        put_figure(self.flow, show.flow(frames, label=about(first), title=title))

    def caption(self, run: pd.Series) -> str:
        """What distinguishes a run from the others of its sweep."""
        return _text({n: run[n] for n in self.runs.axes}) or f"run {str(run['run_id'])[:8]}"

    # --- export -------------------------------------------------------------------------------------------------------

    def _on_screen(self) -> tuple[pd.DataFrame, list[str]]:
        table = self.current[self.current["frames"].astype(bool)]
        if table.empty:
            raise InputError("no run is on screen: choose a point that was run.")
        return table, [self.caption(run) for _, run in table.iterrows()]

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


class Pane(ipywidgets.VBox):
    """One clip and its controls. place: its run's row in the table, None where the point was not run."""

    def __init__(self, panel: Explorer) -> None:
        self.panel = panel
        self.place: int | None = None
        self._mp4, self._alt = b"", ""
        self._following = False  # whether the controls are being set, rather than moved by hand
        self.controls: dict[str, Any] = {}
        for n, values in panel.runs.axes.items():  # a slider where values have an order, a list where they are names
            kind = ipywidgets.SelectionSlider if all(isinstance(v, (int, float)) for v in values) else ipywidgets.Dropdown
            options = [(_label(v), v) for v in values]
            self.controls[n] = control(kind, name(n), lambda: self.show(self.point()), options=options, value=values[0])
        self.walk = control(ipywidgets.IntSlider, "run", lambda: self.go(self.walk.value), max=len(panel.runs) - 1)
        self.video = VideoView(format="mp4", width=str(PANE), autoplay=True, loop=True)
        self.caption = ipywidgets.HTML()
        self.job = Job(panel.pipe, "Make it", self._make, self._made)
        self.near = button("Nearest run", "location-arrow", lambda: self.go(panel.runs.nearest(self.point())))
        parts = [*self.controls.values(), self.walk, self.video, self.caption, self.near, self.job]
        super().__init__(parts, layout=ipywidgets.Layout(width=f"{PANE + 60}px", max_width="100%"))
        self.add_class("svdlab-pane")

    def point(self) -> dict[str, Any]:
        return {n: control.value for n, control in self.controls.items()}

    def go(self, place: int) -> None:
        """Show a run by its place in the table."""
        self.show(self.panel.runs.point(place), place)

    def show(self, point: dict[str, Any], place: int | None = None) -> None:
        """Show the run at a point, or that there is none. The video comes first, read as it lies on disk."""
        if self._following:
            return
        self.place = self.panel.runs.at(point) if place is None else place
        self._following = True
        for n, value in point.items():
            self.controls[n].value = value
        if self.place is not None:
            self.walk.value = self.place
        self._following = False
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
        if self._mp4:
            again = b"" if bytes(self.video.value).endswith(EMPTY_BOX) else EMPTY_BOX
            put(self.video, self._mp4 + again, self._alt)
        visible(self.video, bool(self._mp4))

    # --- making what is missing ---------------------------------------------------------------------------------------

    def _make(self) -> Callable[[], pd.DataFrame]:
        runs, row = self.panel.runs, self.panel.runs.row_to_make(self.point())
        return lambda: sweep(self.panel.pipe, [row], study_of(runs.table), progress=False)

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


def _ranks(table: pd.DataFrame, measures: Sequence[str], places: Sequence[int | None]) -> str:
    """A table, as HTML, of each measure of one run or two, and their percentiles among all runs as bars."""
    values = table[list(measures)].apply(pd.to_numeric, errors="coerce")
    shares, columns, bars = values.rank(pct=True), {}, []
    for which, place in zip(("this run",) if len(places) == 1 else ("first", "second"), places, strict=True):
        bars.append("percentile" if len(places) == 1 else f"{which}, percentile")
        for column, of in ((which, values), (bars[-1], shares)):
            columns[column] = np.nan if place is None else of.iloc[place]
    shown = pd.DataFrame({**columns, "least": values.min(), "greatest": values.max()}, index=list(measures)).rename(index=axis)
    style: Any = shown.style
    style = style.format(number, na_rep="-").format("{:.0%}", subset=bars, na_rep="-").format_index(escape="html")
    style = style.bar(subset=bars, vmin=0, vmax=1, color="var(--svdlab-bar)", height=80)
    return style.set_caption("Measures of what is on screen, among all runs of the sweep").to_html()
