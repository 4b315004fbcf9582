"""Walk over a sweep: controls for what was varied, the clip of that point, its place among all runs."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import ipywidgets
import numpy as np
import pandas as pd

from svdlab import errors, show
from svdlab.errors import InputError, path, several, shown, takes, text, whole
from svdlab.pipeline.pipeline import pipeline
from svdlab.show.clips import Video
from svdlab.show.figure import COLOURS, Figure
from svdlab.show.labels import about, axis, name, number, ordered
from svdlab.study.plans import CONDITIONS
from svdlab.study.sweep import load_results, sweep
from svdlab.widgets.live import Job
from svdlab.widgets.panel import (
    Panel,
    VideoView,
    cell,
    checked,
    control,
    escaped,
    pale,
    put,
    put_figure,
    row_of,
    rows_of_runs,
    stacked,
    status,
    study_of,
    visible,
    with_files,
    wrapping,
)

MODEL = ("checkpoint", "lora", "lora_scale")  # which have one version of the weights each, or several
AXES = (*MODEL, "weights", "intervention", "image", *CONDITIONS, "seed")  # what a sweep may vary, in the order shown
NO_MEASURE = (*AXES, "fps_id", "seconds_denoising", "seconds_decoding", "abstained")  # numbers, but not of a clip
FIRST = ("object_px", "camera_px", "flow_px", "object_area", "zoom_pct", "drift_ssim_last", "drift_colour_last")
MOST_MEASURES = 12
PANE = 300  # px
MARKS: dict[str, Any] = {  # of the first pane's run on the curve, and of the second's
    "ring": {"marker": "o", "color": COLOURS[1]},
    "square": {"marker": "s", "color": COLOURS[0]},
}
# At the end of an MP4 players skip this empty box, but a browser starts the new bytes from the beginning.
EMPTY_BOX = b"\x00\x00\x00\x08free"


class Explorer(Panel):
    """A sweep to walk over: a control for each condition that varies, the clip there, and how it compares.

    >>> svdlab.widgets.explore(results, y="camera_px").select(fps=12)
    >>> svdlab.widgets.explore(out, pipe=pipe)               # a study's folder; missing points can be made

    results: the table of `svdlab.sweep` or `load_results`, or a study's folder. pipe: with it, a point that was not run can
    be made from here, into the same study. measures: columns to compare by, default those that vary. x, y: what the
    dose-response curve begins with. out: where the export button writes. Raises InputError for a table without runs.
    """

    @takes(pipe=pipeline, measures=partial(several, check=text, distinct=True), x=text, y=text, out=path)
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
        self.measures = list(measures or self.runs.measures())
        if y in self.runs.table.select_dtypes("number") and y not in self.measures:  # one that does not vary, too
            self.measures.append(str(y))
        errors.columns("results", self.runs.table, "run_id", "fps", *self.measures)
        self.turn = threading.RLock()  # JupyterLab hands over each control's moves on threads of their own
        self.panes = [Pane(self), Pane(self)]
        self.jobs = tuple(pane.job for pane in self.panes)
        again = lambda: self.refresh(restart=True)
        self.two = control(ipywidgets.ToggleButton, "Second pane", again, width=None, icon="columns")
        self.ranks, self.curve, self.failed = ipywidgets.HTML(), ipywidgets.HTML(), ipywidgets.HTML()
        known = {n: [v for v in values if v is not None] for n, values in self.runs.axes.items()}
        numeric = [n for n, values in known.items() if len(values) > 1 and all(isinstance(v, (int, float)) for v in values)]
        doses = [n for n in numeric if n != "seed"] or numeric
        self.x = self._dropdown("against", doses, x and errors.one_of("x", x, doses))
        self.y = self._dropdown("measure", self.measures, y and errors.one_of("y", y, self.measures))
        graph = [wrapping(self.x, self.y), self.curve] if doses and self.measures else []
        graph = graph or [pale("no condition with numbers varies")]
        boxes = [self.ranks, ipywidgets.VBox(graph), self.failed]
        self.tabs = ipywidgets.Tab(boxes, titles=("Measures", "Dose and response", "Failures"))
        self.tabs.observe(lambda _: self.refresh(), "selected_index")
        head = pale(f"{len(self.runs.table)} runs · {about(self.runs.table)}")
        super().__init__([head, wrapping(*self.panes, stacked(self.two, self.tabs))], out=out)
        for pane in self.panes:
            pane.go(0)
            pane.play()  # the hidden one, too: a browser complains of a video without bytes

    def _dropdown(self, text: str, columns: Sequence[str], chosen: str | None) -> ipywidgets.Dropdown:
        value = next(iter(columns), None) if chosen is None else chosen
        options = [(axis(c), c) for c in columns]
        return control(ipywidgets.Dropdown, text, self.refresh, width="26em", options=options, value=value)

    def _visible(self) -> list[Pane]:
        return self.panes if self.two.value else self.panes[:1]

    @property
    def current(self) -> pd.DataFrame:
        """The runs on screen, rows of `runs.table`: one, or two with the second pane; without those that are missing."""
        return self.runs.table.iloc[[pane.place for pane in self._visible() if pane.place is not None]]

    @takes(pane=partial(whole, most=1))
    def select(self, pane: int = 0, **values: Any) -> None:
        """Go to a point by name, as the controls do; values that are not named stay. Raises InputError for unknown ones."""
        chosen = {key: self.runs.value(key, value) for key, value in values.items()}
        self.panes[pane].show({**self.panes[pane].point(), **chosen})

    def refresh(self, *, restart: bool = False) -> None:
        """Everything below the panes. restart: the videos begin again, together."""
        visible(self.panes[1], self.two.value)
        for pane in self._visible() if restart else ():
            pane.play()
        self.ranks.value = _ranks(self.runs.table, self.measures, [pane.place for pane in self._visible()])
        if self.tabs.selected_index == 1 and self.x.value and self.y.value:
            self.draw(lambda: put_figure(self.curve, self.curve_figure()))
        elif self.tabs.selected_index == 2 and not self.failed.value:
            self.failed.value = status("looking for failures …")
            self.draw(self._draw_failures)

    def _draw_failures(self) -> None:
        try:
            put_figure(self.failed, show.failures(_with_frames(self.runs.table)))
        except InputError as error:
            self.failed.value = status(str(error))

    def curve_figure(self) -> Figure:
        """The dose-response curve of the chosen measure at the first pane's other conditions, with marks at what is on screen.

        A point is the mean over seeds and images: of these and of its own axis, the curve holds nothing constant.
        """
        x, y, point = self.x.value, self.y.value, self.panes[0].point()
        held = {n: v for n, v in point.items() if n not in (x, "seed", "image")}
        marks = {m: self.runs.table.iloc[p.place] for m, p in zip(MARKS, self._visible(), strict=False) if p.place is not None}
        title = f"{axis(y)} against {axis(x)}{f', at {_text(held)}' if held else ''}"
        title = "; ".join([title, *(f"{mark}: {self.caption(run)}" for mark, run in marks.items())])
        fig = show.dose_response(self.runs.like(point, held), x=x, y=y, title=title)
        limits = [*fig.axes[0].get_ylim()]
        for mark, run in marks.items():
            at, value = (float(pd.to_numeric(run[column], errors="coerce")) for column in (x, y))
            limits.append(value)
            fig.axes[0].plot(at, value, gid=mark, fillstyle="none", ms=10, mew=2, clip_on=False, **MARKS[mark])
        fig.axes[0].set_ylim(np.nanmin(limits), np.nanmax(limits))
        return fig

    def caption(self, run: pd.Series) -> str:
        """What distinguishes a run from the others of its sweep."""
        return _text({n: run[n] for n in self.runs.axes}) or f"run {str(run['run_id'])[:8]}"

    # --- export -------------------------------------------------------------------------------------------------------

    def _on_screen(self) -> tuple[pd.DataFrame, list[str]]:
        table = _with_frames(self.current)
        if table.empty:
            raise InputError("no run is on screen: choose a point that was run.")
        return table, [self.caption(run) for _, run in table.iterrows()]

    def figure(self) -> Figure:
        table, labels = self._on_screen()
        title = f"{len(table)} of {len(self.runs.table)} runs: {'; '.join(labels)}"
        fig = show.filmstrip(table, labels=labels, title=title)
        fig.data = table[["run_id", *self.runs.axes, *self.measures]]
        return fig

    def video(self) -> Video:
        table, labels = self._on_screen()
        rates = [table.iloc[0].get(column) for column in ("playback_fps", "fps")]  # a file's may be unknown
        return show.video(table, labels=labels, fps=next((float(r) for r in rates if pd.notna(r) and r > 0), None))

    def plan(self) -> list[dict[str, Any]]:
        return rows_of_runs(self._on_screen()[0])


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
            self.controls[n] = control(kind, name(n), self._moved, options=options, value=values[0])
        self.walk = control(ipywidgets.IntSlider, "run", lambda: self.go(self.walk.value), max=len(panel.runs.table) - 1)
        self.video = VideoView(format="mp4", width=str(PANE), autoplay=True, loop=True)
        self.caption = ipywidgets.HTML()
        self.job = Job(panel.pipe, "Make it", self._make, self._made)
        parts = [*self.controls.values(), self.walk, self.video, self.caption, self.job]
        super().__init__(parts, layout=ipywidgets.Layout(width=f"{PANE + 40}px", max_width="100%"))
        self.add_class("svdlab-pane")

    def point(self) -> dict[str, Any]:
        return {n: control.value for n, control in self.controls.items()}

    def go(self, place: int) -> None:
        """Show a run by its place in the table."""
        self.show(self.panel.runs.point(place), place)

    def show(self, point: dict[str, Any], place: int | None = None) -> None:
        """Show the run at a point, or that there is none. The video comes first, read as it lies on disk."""
        with self.panel.turn:
            if not self._following:
                self._following = True
                for n, value in point.items():
                    self.controls[n].value = value
                self._following = False
                self._show(point, place)

    def _moved(self) -> None:
        """The run that the controls say. They are not set: another one may be moving now."""
        with self.panel.turn:
            if not self._following:
                self._show(self.point())

    def _show(self, point: dict[str, Any], place: int | None = None) -> None:
        self.place = self.panel.runs.at(point) if place is None else place
        self._following = True
        if self.place is not None:
            self.walk.value = self.place
        self._following = False
        run = None if self.place is None else self.panel.runs.table.iloc[self.place]
        self._mp4 = b""
        pipe, wanted = self.panel.pipe, {**self.panel.runs.table.iloc[0], **point}
        able = pipe is not None and wanted.get("lora_scale", 0.0) == pipe.source.lora_scale
        if run is None:
            lacks = (
                "Give explore(..., pipe=pipe) to make it from here." if pipe is None else "A sweep makes it, with its LoRA."
            )
            how = "" if able else f" {lacks}"
            text = f"not run: {_text(point)}.{how}"
        elif not run["preview"]:
            text = f"no video: {run.get('reason') or run.get('status')}"
        else:
            try:
                text, self._mp4 = self.panel.caption(run), checked(run["preview"]).read_bytes()
            except (OSError, InputError) as error:
                text = f"no video: {error}"
        self._alt, self.caption.value = f"Clip at {text}, looping", status(text)
        (self.caption.add_class if run is None else self.caption.remove_class)("svdlab-missing")
        running = not self.job.halt.disabled  # for a point that was left meanwhile
        visible(self.job, running or (run is None and able))
        self.panel.refresh(restart=True)

    def play(self) -> None:
        """The video from its beginning. Where there is none the old one is hidden, and keeps its bytes."""
        if self._mp4:
            again = b"" if bytes(self.video.value).endswith(EMPTY_BOX) else EMPTY_BOX
            put(self.video, self._mp4 + again, self._alt)
        visible(self.video, bool(self._mp4))

    def _make(self) -> Callable[[], pd.DataFrame]:
        row, study = row_of({**self.panel.runs.table.iloc[0], **self.point()}), self.panel.runs.study()
        return lambda: sweep(self.panel.pipe, [row], study, progress=False)

    def _made(self, table: pd.DataFrame) -> str:
        runs = self.panel.runs
        runs.hold(pd.concat([runs.table, table], ignore_index=True))
        self.panel.failed.value = ""
        for pane in self.panel.panes:
            pane.walk.max = len(runs.table) - 1
        self.go(len(runs.table) - 1)
        return ""


class Runs:
    """A table of runs, found by their conditions.

    >>> runs = Runs(results)
    >>> runs.axes
    {'fps': [6, 12], 'motion_bucket_id': [40, 200]}
    >>> runs.at({"fps": 12, "motion_bucket_id": 40})        # row of `runs.table`, None where it was not run
    2

    table: the runs in the order of their conditions. axes: each column that varies, with its values.
    """

    def __init__(self, results: Any) -> None:
        table = load_results(path("results", results)) if isinstance(results, (str, os.PathLike)) else results
        table = with_files("results", table)
        self.hold(errors.columns("results", table, *table.columns))
        places = {n: values.index for n, values in self.axes.items()}
        order = sorted(range(len(table)), key=lambda i: [places[n](v) for n, v in self.point(i).items()])
        self.hold(table.iloc[order])

    def hold(self, table: pd.DataFrame) -> None:
        """Take these runs in the place of the others."""
        self.table = table.reset_index(drop=True)
        cells = {n: list(map(cell, table[n])) for n in AXES if n in table}
        cells = {n: values for n, values in cells.items() if len(set(values)) > 1}
        models = list(zip(*(cells[n] for n in MODEL if n in cells), strict=True))
        if models and "weights" in cells and len(set(zip(models, cells["weights"], strict=True))) == len(set(models)):
            del cells["weights"]  # one version of each checkpoint and LoRA: their names are enough
        self.axes = {n: ordered(values) for n, values in cells.items()}
        self._points = [{n: values[i] for n, values in cells.items()} for i in range(len(table))]

    def point(self, place: int) -> dict[str, Any]:
        """The values of a run on all axes."""
        return self._points[place]

    def value(self, axis: str, value: Any) -> Any:
        """A value as it stands on an axis: 7 for 7.0. Raises InputError for what is not there."""
        values = self.axes.get(axis, [])
        if (found := cell(value)) not in values or isinstance(found, bool):
            there = shown(values) if values else f"the axes are {', '.join(self.axes) or 'none'}"
            raise InputError(f"{axis}={shown(value)} is no point of this sweep: {there}.")
        return values[values.index(found)]

    def at(self, point: Mapping[str, Any]) -> int | None:
        """The run with these values on all axes, the first of several; None where there is none."""
        return self._points.index(dict(point)) if point in self._points else None

    def like(self, point: Mapping[str, Any], held: Collection[str]) -> pd.DataFrame:
        """The finished runs that agree with a point on the axes held."""
        same = [all(own[n] == point[n] for n in held) for own in self._points]
        table = self.table[same]
        return table[table["status"] == "done"] if "status" in table else table

    def study(self) -> Path:
        """The study that the runs are in, from the paths of their files. Raises InputError where it is not one."""
        roots = {study_of(place) for place in self.table["frames"] if place}
        if len(roots) != 1:
            raise InputError("the runs are not all in one study: nowhere to put another.")
        return roots.pop()

    def measures(self) -> list[str]:
        """Columns of measures that vary."""
        numeric = [str(c) for c in self.table.select_dtypes("number") if not str(c).startswith("label_")]
        varying = [c for c in numeric if c not in NO_MEASURE and self.table[c].nunique() > 1]
        return sorted(varying, key=lambda c: FIRST.index(c) if c in FIRST else len(FIRST))[:MOST_MEASURES]


def _with_frames(table: pd.DataFrame) -> pd.DataFrame:
    """The runs that have frames, which are no links."""
    table = table[table["frames"] != ""]
    return table.assign(frames=[str(checked(place)) for place in table["frames"]])


def _text(point: dict[str, Any]) -> str:
    return ", ".join(f"{name(n)} {_label(v)}" for n, v in point.items())


def _label(value: Any) -> str:
    return "none" if value in (None, "") else number(value).rsplit("/", 1)[-1]


def _ranks(table: pd.DataFrame, measures: Sequence[str], places: Sequence[int | None]) -> str:
    """A table, as HTML, of each measure of one run or two, and their percentiles among all runs as a bar chart."""
    values = table[list(measures)].apply(pd.to_numeric, errors="coerce")
    shares, columns, bars = values.rank(pct=True), {}, []
    for which, place in zip(("this run",) if len(places) == 1 else ("first", "second"), places, strict=True):
        bars.append("percentile" if len(places) == 1 else f"{which}, percentile")
        for column, of in ((which, values), (bars[-1], shares)):
            columns[column] = np.nan if place is None else of.iloc[place]
    shown = pd.DataFrame({**columns, "least": values.min(), "greatest": values.max()}, index=list(measures))
    style: Any = shown.style
    style = style.format(number, na_rep="-").format("{:.0%}", subset=bars, na_rep="-")
    style = style.format_index(lambda column: escaped(axis(column)))
    style = style.bar(subset=bars, vmin=0, vmax=1, color="var(--svdlab-bar)", height=80)
    return style.set_caption("Measures of what is on screen, among all runs of the sweep").to_html()
