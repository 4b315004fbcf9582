"""What all widgets share: a still figure for viewers that run no widgets, an export, drawing on a thread, and their parts.

A panel's mimebundle holds the live view and a PNG of the figure that it stands for. Which of them is shown is the
viewer's choice: JupyterLab takes the view; papermill's copies, nbconvert and GitHub show the figure.
"""

import base64
import html
import io
import json
import os
import re
import threading
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import ipywidgets
import matplotlib
import pandas as pd
from PIL import Image
from traitlets import Unicode

from svdlab import __version__, errors
from svdlab.errors import InputError, SvdlabError, number, path, shown, takes
from svdlab.measure.files import exported, hash_facts, plain, write_whole
from svdlab.measure.video import as_bytes
from svdlab.pipeline.generate import Call
from svdlab.pipeline.images import image_hash, open_image
from svdlab.show.clips import Video
from svdlab.show.figure import FORMATS, GREY, INK, PALE, Figure, save
from svdlab.show.page import blocks
from svdlab.study.ledger import FILES
from svdlab.study.plans import CONDITIONS

STYLE = f"<style>{Path(__file__).with_name('style.css').read_text()}</style>"
INKS = {INK: "var(--svdlab-ink)", "#000000": "var(--svdlab-ink)", GREY: "var(--svdlab-pale)", PALE: "var(--svdlab-line)"}
LARGEST = 2**21  # letters of an SVG
COLUMN = 340  # px: two of them stand side by side in a window of 900 px
WAIT = 0.1  # s that the controls rest before something is drawn on a thread
SMALL = 256 * 256  # px: up to that images are sent as they are; beyond, lossy, at a tenth of the size
QUALITY = 92
SECONDS = partial(number, least=0, most=threading.TIMEOUT_MAX)


class Panel(ipywidgets.VBox):
    """A widget that is also a figure, a video and a plan, and exports them; subclasses define what is on screen.

    out: the folder that the button writes to. message: the line beside the button. jobs: what makes clips from here.
    """

    jobs: Sequence[ipywidgets.Widget] = ()

    def __init__(self, children: Sequence[ipywidgets.Widget], *, out: str | Path) -> None:
        self.kind, self.out = type(self).__module__.rsplit(".", 1)[-1].replace("_", "-"), Path(out)
        self._one, self._timer = threading.Lock(), threading.Timer(0, lambda: None)
        tooltip = "Write figure, video and the plan that reproduces them"
        self.export_button = button("Export", "download", lambda: self._attempt(self._export), tooltip)
        self.message = ipywidgets.HTML()
        self.style_sheet = ipywidgets.HTML(STYLE, layout=ipywidgets.Layout(display="none"))
        super().__init__([self.style_sheet, *children, wrapping(self.export_button, self.message)])
        self.add_class("svdlab")

    def close(self) -> None:
        """Leave the screen; a clip that is being made is given up. Also called of a widget whose arguments were refused."""
        for job in self.jobs:
            job.close()
        super().close()

    def figure(self) -> Figure:
        """What is on screen, as a still figure."""
        raise NotImplementedError

    def video(self) -> Video | None:
        """What is on screen, as a video; None where nothing moves."""
        return None

    def plan(self) -> list[dict[str, Any]]:
        """A row for each clip on screen, which `svdlab.sweep` makes again."""
        return []

    @takes(out=path)
    def export(self, out: str | Path | None = None) -> list[Path]:
        """Write what is on screen: a figure (PNG, PDF, the table behind it as CSV), a video (MP4), a plan (JSON).

        >>> svdlab.widgets.compare(results).export("results/look")

        The plan is a list of rows that `svdlab sweep --grid FILE.json --out FOLDER` makes again; its label_ columns say
        where they came from, and images that are no samples lie beside it. On the same machine, clips made one at a time
        (batch_size=1) are the same to the bit. The same figure of the same clips replaces its own files. Raises OutputError
        where the folder cannot be written, InputError where nothing is on screen.
        """
        out, fig, files = Path(out or self.out), self.figure(), []
        rows = [{**row, "label_svdlab": __version__} for row in self.plan()]
        for row in rows:
            if (
                isinstance(image := row.get("image"), Image.Image) or Path(str(image)).is_file()
            ):  # it goes along, without its folder
                pixels = open_image(image)
                files.append(out / f"image-{image_hash(pixels)[:12]}.png")
                row["image"] = files[-1].name
                with write_whole(files[-1]) as part:
                    pixels.save(part)
        shown = {"title": fig.title, "data": fig.data.to_csv(), "plan": rows}
        stem = out / f"{self.kind}-{hash_facts(shown)[:8]}"
        save(fig, stem)
        files += [stem.with_suffix(f".{form}") for form in FORMATS]
        if (video := self.video()) is not None:
            files.append(video.save(stem))
        if rows:
            files.append(stem.with_suffix(".json"))
            with write_whole(files[-1]) as part:
                part.write_text(json.dumps([exported(row) for row in rows], indent=1, default=plain) + "\n", encoding="utf-8")
        return list(dict.fromkeys(files))

    def _export(self) -> None:
        self.message.value = status("writing …")
        names = self.export()
        self.message.value = status(f"{nearby(names[0].parent)}/: {', '.join(p.name for p in names)}")

    def _attempt(self, act: Callable[[], Any]) -> None:
        """Do something for the user: an error is shown on the screen, beside the export button."""
        try:
            act()
        except Exception as error:
            self.message.value = warning(error)

    def draw(self, task: Callable[[], Any]) -> None:
        """Do a task on a thread, once the controls rest: unless a newer one comes meanwhile. One task at a time.

        Python waits for it at its end: a thread that is cut off inside torch aborts the process.
        """
        self._timer.cancel()
        self._timer = threading.Timer(WAIT, self._draw, [task])
        self._timer.start()

    def _draw(self, task: Callable[[], Any]) -> None:
        with self._one:
            if threading.current_thread() is self._timer:  # else a newer task came while an older one was done
                self._attempt(task)

    @takes(timeout=SECONDS)
    def settled(self, timeout: float = 60.0) -> bool:
        """Wait until nothing is left to draw; False where that takes longer."""
        last = None
        while last is not self._timer and self._timer.ident is not None:  # a task may have asked for another one
            last = self._timer
            last.join(timeout)
        return last is None or not last.is_alive()

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        data = super()._repr_mimebundle_(**kwargs)
        try:
            still, metadata = self.figure()._repr_mimebundle_()
        except SvdlabError as error:  # nothing there yet that could be drawn: the live view still is
            return {**data, "text/plain": f"<svdlab {self.kind}: {error}>"}
        return {**data, **still, "text/plain": f"<svdlab {self.kind}: {metadata['image/png']['alt']}>"}, metadata


# --- rows of a plan ---------------------------------------------------------------------------------------------------


def cell(value: Any) -> Any:
    """A cell as Python has it, to be compared and written into a plan: 7 for 7.0, None for what is empty."""
    value = None if value is pd.NA else plain(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    value = tuple(value) if isinstance(value, list) else value
    if not isinstance(value, Hashable) or (isinstance(value, tuple) and not all(isinstance(v, Hashable) for v in value)):
        raise InputError(f"a cell holds {shown(value)}: give numbers and texts.")
    return value


def row_of(values: Any, **labels: Any) -> dict[str, Any]:
    """A plan's row for values by name: conditions, seed and image; and as labels where they came from."""
    found = {name: values.get(name) for name in (*CONDITIONS, "seed", "image")}
    found = {name: cell(value) for name, value in (found | {f"label_{key}": text for key, text in labels.items()}).items()}
    return {name: value for name, value in found.items() if value not in (None, "")}


def row_of_run(run: pd.Series) -> dict[str, Any]:
    """A plan's row for a run of a study."""
    beyond = run.get("intervention") or run.get("lora")
    return row_of(run, run=run.get("run_id"), checkpoint=run.get("checkpoint"), beyond_the_plan=beyond)


def rows_of_runs(table: pd.DataFrame) -> list[dict[str, Any]]:
    """A plan's row for each run; none for a file that was measured, whose maker nothing here can run again."""
    return [row_of_run(run) for _, run in table.iterrows() if not run.get("file")]


def row_of_call(call: Call, image: Any) -> dict[str, Any]:
    """A plan's row for what made a clip. image: name or path, or the prepared image itself."""
    beyond = {key: value for key, value in (("start", call.start), ("edits", call.edits)) if value}  # no plan can express it
    labels = dict(checkpoint=call.source.checkpoint, weights=call.source.weights_hash, image_hash=call.image)
    made = {**call.conditions.asdict(), "seed": call.seed}
    return row_of(made, **labels, beyond_the_plan=json.dumps(beyond) if beyond else "") | {"image": image}


def nearby(place: Path) -> str:
    """A path as it is written down: from the working folder, where it lies in that."""
    return os.path.relpath(place) if place.is_relative_to(Path.cwd()) else str(place)


# --- files of a study -------------------------------------------------------------------------------------------------


def with_files(name: str, table: pd.DataFrame) -> pd.DataFrame:
    """A table of runs whose cells of files are paths, or empty: a CSV file's empty cell is NaN. InputError for others."""
    errors.columns(name, table, "frames", "preview")
    found = {column: table[column].astype(object).where(table[column].notna(), "") for column in ("frames", "preview")}
    for column, paths in found.items():
        if odd := [value for value in paths if not isinstance(value, (str, os.PathLike))]:
            raise InputError(
                f"{name} holds {shown(odd[0])} in the column {column!r}: give paths, as a sweep's table has them."
            )
    return table.assign(**{column: [os.fspath(value) for value in paths] for column, paths in found.items()})


def study_of(place: str) -> Path:
    """The study of a file of a run. Raises InputError for a path that no study has."""
    file = path("file", place)
    if file.name not in FILES.values() or file.parent.parent.name != "runs":
        raise InputError(f"{shown(place)} is no file of a study, which are STUDY/runs/ID/{{{','.join(FILES.values())}}}.")
    return file.parents[2]


def checked(place: str) -> Path:
    """A file of a run, there to be read. Raises InputError for one that is reached through a link inside its study."""
    study = os.path.realpath(study_of(place))
    file = Path(study, *path("file", place).parts[-3:])
    if os.path.realpath(file) != str(file) or (file.exists() and not file.is_file()):
        raise InputError(f"{shown(place)} is a link, or no plain file: it is not followed.")
    return file


# --- images and videos ------------------------------------------------------------------------------------------------


class ImageView(ipywidgets.Image):
    """An image whose `tooltip` says what is to be seen (the element's title, which screen readers read).

    The front end looks at a description before it sets the title, and fails where a widget has none.
    """

    description = Unicode("").tag(sync=True)


class VideoView(ipywidgets.Video):
    """A video with a `tooltip`, as `ImageView` has it."""

    description = Unicode("").tag(sync=True)


def frame_view(**traits: Any) -> ImageView:
    """For frames by `webp`, in which every pixel is seen as such."""
    return ImageView(format="webp", **traits).add_class("svdlab-pixels")


@takes(fps=partial(number, least=0.1, most=1000))
def webp(frames: Any, *, fps: float = 1.0) -> bytes:
    """Frames "f h w 3", uint8 or floats in [0, 1], as a WebP, looping; without loss up to 256 x 256 px."""
    pixels, buffer = as_bytes(frames), io.BytesIO()
    first, *rest = map(Image.fromarray, pixels)
    how: dict[str, Any] = {"lossless": True} if pixels[0, ..., 0].size <= SMALL else {"quality": QUALITY}
    first.save(buffer, "WEBP", save_all=True, append_images=rest, duration=round(1000 / fps), loop=0, method=0, **how)
    return buffer.getvalue()


def stills(frames: Sequence[bytes], alt: Callable[[int], str], width: int) -> str:
    """HTML of frames by `webp`, one of which is on screen where its widget has the class svdlab-columns: see `follow`."""
    data = [base64.b64encode(frame).decode() for frame in frames]
    said = [f'title="{escaped(alt(i))}" alt="{escaped(alt(i))}" width="{width}"' for i in range(len(data))]
    return "".join(f'<img {a} src="data:image/webp;base64,{d}">' for a, d in zip(said, data, strict=True))


def follow(panel: Panel, **sliders: ipywidgets.IntSlider) -> None:
    """Let a panel's sliders `row` and `column` choose what its svdlab-rows and svdlab-columns show, by CSS in the browser
    alone: what a slider's handle says of itself (aria-valuenow) is there before Python hears of it."""
    scope, rules = f"svdlab-{panel.model_id}", []
    panel.add_class(scope)
    for axis, slider in sliders.items():
        slider.add_class(f"svdlab-{axis}")
        chosen = f".{scope} .svdlab-{axis}s " + ("> " if axis == "row" else "img")
        for i in range(slider.max + 1):
            at = f'.{scope}:has(.svdlab-{axis} :is([aria-valuenow="{i}"], [aria-valuenow="{i}.0"]))'
            rules.append(chosen.replace(f".{scope}", at) + f":nth-child({i + 1})")
    panel.style_sheet.value += f"<style>{', '.join(rules)} {{ display: block }}</style>"


def put(where: ImageView | VideoView, data: bytes, alt: str, width: int | None = None) -> None:
    """Show other bytes, in one message: each message makes the browser load them again."""
    with where.hold_sync():
        where.set_trait("tooltip", alt)
        if width is not None:
            where.width = str(width)
        where.value = data


def put_figure(where: ipywidgets.HTML, fig: Figure) -> None:
    """Show a figure as SVG without a ground, its ink in the theme's colour, at its own size or less.

    Text on a coloured cell keeps its colour: it is none of INKS.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "svdlab"}):  # the same figure is the same text
        fig.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = re.sub("#[0-9a-f]{6}", lambda colour: INKS.get(colour[0], colour[0]), buffer.getvalue().partition("<svg")[2])
    alt = fig.title or "figure"
    drawn = f"<svg{svg}" if len(svg) < LARGEST else blocks(fig)  # as PNG, where it holds many frames
    where.tooltip, where.value = alt, f'<div class="svdlab-figure" role="img" aria-label="{escaped(alt)}">{drawn}</div>'


# --- controls and text ------------------------------------------------------------------------------------------------


def button(text: str, icon: str, act: Callable[[], Any], tooltip: str = "") -> ipywidgets.Button:
    made = ipywidgets.Button(description=text, icon=icon, tooltip=tooltip or text, tabbable=True)
    made.on_click(lambda _: act())
    return made


def control(kind: type, text: str, changed: Callable[[], Any], *, width: str | None = "100%", **traits: Any) -> Any:
    """A control of ipywidgets with its label, which the Tab key reaches. changed: called when its value is another."""
    made = kind(description=text, layout=ipywidgets.Layout(width=width, max_width="100%"), tabbable=True, **traits)
    made.observe(lambda _: changed(), "value")
    return made


def player(slider: ipywidgets.IntSlider, interval: float) -> ipywidgets.HBox:
    """A slider with a button that plays it, a value every `interval` ms; it runs in the browser."""
    play = ipywidgets.Play(min=slider.min, max=slider.max, interval=round(interval), repeat=True)
    ipywidgets.jslink((play, "value"), (slider, "value"))
    play.layout.flex, slider.layout.min_width = "0 0 auto", "0"
    layout = ipywidgets.Layout(width="min(100%, 460px)", align_items="flex-start")
    return ipywidgets.HBox([play, slider], layout=layout).add_class("svdlab-player")


def wrapping(*children: ipywidgets.Widget) -> ipywidgets.HBox:
    """Widgets side by side, on lines of their own where the window is narrow."""
    return ipywidgets.HBox(children, layout=ipywidgets.Layout(flex_flow="row wrap", grid_gap="4px 16px"))


def stacked(*children: ipywidgets.Widget, most: int = 10_000) -> ipywidgets.VBox:
    """Widgets below each other, in a column that shares a `wrapping` row with others: COLUMN px wide, or more up to `most`."""
    layout = ipywidgets.Layout(flex=f"1 1 {COLUMN}px", min_width="0", max_width=f"min(100%, {most}px)")
    return ipywidgets.VBox(children, layout=layout)


def pale(text: str) -> ipywidgets.HTML:
    """A line of small print."""
    return ipywidgets.HTML(status(text)).add_class("svdlab-pale")


def visible(widget: ipywidgets.Widget, there: bool) -> None:
    widget.layout.display = "" if there else "none"


def escaped(text: object) -> str:
    """Text for an `ipywidgets.HTML`, the one kind of widget that reads markup: whatever was recorded goes through here.

    >>> escaped("<img src=x onerror=alert(1)>")
    '&lt;img src=x onerror=alert(1)&gt;'
    """
    return html.escape(str(text))


def status(text: str) -> str:
    """Text as HTML that screen readers announce when it changes."""
    return f'<span role="status" aria-live="polite">{escaped(text)}</span>'


def warning(error: object) -> str:
    return f'<span role="alert"><b>Could not: </b>{escaped(error)}</span>'
