"""Conditions as controls: press Generate, watch the clip emerge from noise, stop it, compare tries, keep them as a plan."""

import os
import threading
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from pathlib import Path
from typing import Any

import ipywidgets
import numpy as np
import pandas as pd

from svdlab import show
from svdlab.errors import InputError, SweepInterrupted, kind, path, several, takes, whole
from svdlab.measure import motion
from svdlab.pipeline.conditions import Conditions
from svdlab.pipeline.generate import Clip, ProbePipeline, generate_batch
from svdlab.pipeline.images import PHOTOGRAPHS, images_in, prepare_image
from svdlab.pipeline.pipeline import pipeline
from svdlab.pipeline.sampler import Denoising, Step, listen
from svdlab.pipeline.trace import Trace, colour_map
from svdlab.show.clips import Video, rate_of
from svdlab.show.figure import Figure, fitted
from svdlab.show.labels import caption, number
from svdlab.widgets.compare import Comparison
from svdlab.widgets.panel import (
    SECONDS,
    Panel,
    button,
    control,
    frame_view,
    put,
    row_of_call,
    stacked,
    status,
    visible,
    warning,
    webp,
    wrapping,
)

PREVIEW_FPS = 7.0
WIDTH = 320  # px, about, of the preview
GIVEN = "The image that clips are made from"
SAMPLES = ("scene-3", "scene-4", "scene-27", *PHOTOGRAPHS)  # which the image box offers
KEPT = 12  # clips that stay in memory
SEED = partial(whole, most=2**53 - 1)  # beyond that a browser's numbers skip some


def _offered(image: Any) -> list[Any]:
    """The images to choose from: the given ones first."""
    if isinstance(image, (str, os.PathLike)) and (folder := path("image", image)).is_dir():
        image = images_in(folder)
    given = list(several("image", image, lambda _, one: one)) if isinstance(image, (list, tuple)) else [image]
    return given + [name for name in SAMPLES if name not in [one for one in given if isinstance(one, str)]]


def _called(image: Any, place: int) -> str:
    return Path(image).name if isinstance(image, (str, os.PathLike)) else f"image {place}"


class Live(Panel):
    """Conditions as controls, with a preview that sharpens from step to step, and a history.

    >>> panel = svdlab.widgets.live(pipe, "scene-27", svdlab.Conditions(num_inference_steps=2), seed=3)
    >>> panel.generate()                                     # what the button does
    >>> panel.job.join()
    True
    >>> svdlab.sweep(pipe, panel.to_plan(), "results/tries", progress=False)

    image: path, sample's name, PIL image or array; or a folder, or a list of images. The image box offers these, and
    svdlab's samples. conditions: where the controls begin, and afterwards what they say; what
    has no control keeps its value from there. clips: the newest, by what the history says of them; older tries stay in the
    plan. job: makes clips on a thread of its own. seed: up to 2**53 - 1, a browser's largest. Raises InputError for
    an image that cannot be used.
    """

    @takes(pipe=pipeline, conditions=kind(Conditions), seed=SEED, out=path)
    def __init__(
        self,
        pipe: ProbePipeline,
        image: Any,
        conditions: Conditions | None = None,
        *,
        seed: int = 0,
        out: str | Path = "results/exports",
    ) -> None:
        conditions = conditions or Conditions()
        shape = conditions.height or pipe.source.height, conditions.width or pipe.source.width
        self.pipe, self.base, self.shape, self.offered = pipe, conditions, shape, _offered(image)
        self.prepared = prepare_image(self.offered[0], height=shape[0], width=shape[1])
        self.clips: dict[str, Clip] = {}
        self._rows: list[dict[str, Any]] = []
        self._colours: np.ndarray | None = None
        options = [(_called(one, n), n) for n, one in enumerate(self.offered)]
        self.image = control(ipywidgets.Dropdown, "image", self._choose, options=options, value=0)
        self.controls = self._controls(conditions, seed)
        self.unusual = ipywidgets.HTML()
        self.job = Job(pipe, "Generate", self._begin, self._made, self._preview)
        self.jobs = (self.job,)
        self.preview = frame_view()
        width = fitted(shape, columns=1, width=WIDTH, most=WIDTH)[1]
        put(self.preview, webp(np.asarray(self.prepared)[None]), GIVEN, width)
        self.history = ipywidgets.VBox()  # a box to tick for each try
        self.comparing = ipywidgets.VBox()
        comparing = button("Compare", "columns", self.compare, "Play the chosen tries in step")
        self.past = ipywidgets.VBox([self.history, comparing, self.comparing])
        visible(self.past, False)
        left = stacked(self.image, *self.controls.values(), self.unusual, most=460)
        super().__init__([wrapping(left, stacked(self.preview, self.job, most=width + 24)), self.past], out=out)
        self._check()

    def _controls(self, c: Conditions, seed: int) -> dict[str, Any]:
        """A control for each condition that is worth one; ranges reach as far as the values that are given."""

        def knob(kind: type, text: str, value: Any, low: float, high: float, **more: Any) -> Any:
            return control(kind, text, self._check, value=value, min=low, max=max(high, np.max(value).item()), **more)

        guidance = c.min_guidance_scale, c.max_guidance_scale
        return {
            "fps": knob(ipywidgets.IntSlider, "fps", c.fps, 1, 31),
            "motion_bucket_id": knob(ipywidgets.IntSlider, "motion bucket", c.motion_bucket_id, 0, 255),
            "noise_aug_strength": knob(ipywidgets.FloatSlider, "noise augm.", c.noise_aug_strength, 0, 1, step=0.01),
            "guidance": knob(ipywidgets.FloatRangeSlider, "guidance", guidance, 0, 6, step=0.1),
            "num_inference_steps": knob(ipywidgets.IntSlider, "steps", c.num_inference_steps, 1, 50),
            "seed": knob(ipywidgets.BoundedIntText, "seed", seed, 0, 2**31 - 1),
        }

    def _choose(self) -> None:
        """Another image, for the next clip."""
        try:
            self.prepared = prepare_image(self.offered[self.image.value], height=self.shape[0], width=self.shape[1])
            put(self.preview, webp(np.asarray(self.prepared)[None]), GIVEN)
        except InputError as error:
            self.message.value = warning(error)

    @property
    def conditions(self) -> Conditions:
        values = {name: knob.value for name, knob in self.controls.items() if name != "seed"}
        low, high = values.pop("guidance")
        return self.base.replace(**values, min_guidance_scale=low, max_guidance_scale=high)

    def _check(self) -> None:
        """Whether the conditions are unusual for the checkpoint."""
        odd = self.conditions.unusual((self.pipe.source.height, self.pipe.source.width))
        self.unusual.value = status(f"Unusual: {'; '.join(odd)}") if odd else ""

    def generate(self) -> None:
        """Begin a clip under the conditions that the controls show; what the button does. Returns at once."""
        self.job.start()

    def _begin(self) -> Callable[[], Clip]:
        conditions, seed = self.conditions, int(self.controls["seed"].value)
        image, chosen = self.prepared, self.offered[self.image.value]
        self._name = os.fspath(chosen) if isinstance(chosen, (str, os.PathLike)) else None

        def work() -> Clip:
            if self._colours is None:
                self._colours = colour_map(self.pipe)
            return generate_batch(self.pipe, [image], [conditions], [seed])[0]

        return work

    def _preview(self, step: Step, denoised: Any) -> None:
        """After each step: the estimate as a small video."""
        if self._colours is not None:
            estimate = Trace(find_colours=lambda: self._colours).as_colours(denoised[0].float().cpu())
            alt = f"The denoised estimate after step {step.index + 1}, as colours of the latents"
            put(self.preview, webp(estimate, fps=PREVIEW_FPS), alt)

    def _made(self, clip: Clip) -> str:
        found, c, said = motion.summary(clip.frames), clip.conditions, caption(clip)
        guidance = f"guidance {number(c.min_guidance_scale)} to {number(c.max_guidance_scale)}, {c.num_inference_steps} steps"
        self._rows.append(row_of_call(clip.call, self._name or clip.image))
        text = f"{len(self._rows)}: {said}, {guidance} · camera {found['camera']}, subject {found['object_px']:.2f} px/frame"
        self.clips = dict([*self.clips.items(), (text, clip)][-KEPT:])
        box = control(ipywidgets.Checkbox, text, lambda: None, value=False, indent=False)
        self.history.children = [*self.history.children, box][-KEPT:]
        put(self.preview, webp(clip.frames, fps=rate_of(clip)), f"Clip at {said}, looping")
        visible(self.past, True)
        return f"made in {sum(clip.seconds.values()):.1f} s: {said}"

    def to_plan(self) -> pd.DataFrame:
        """Every try as a row of a plan, for `svdlab.sweep`.

        Without an `image` where that has neither name nor path: give it to the sweep, as image=.
        """
        rows = [{k: v for k, v in row.items() if k != "image" or isinstance(v, str)} for row in self._rows]
        return pd.DataFrame(rows)

    def compare(self) -> None:
        """Play the ticked tries, or the last two, in step."""
        if chosen := [box.description for box in self.history.children if box.value] or list(self.clips)[-2:]:
            self.comparing.children = [Comparison({text: self.clips[text] for text in chosen}, out=self.out)]

    def figure(self) -> Figure:
        if self.clips:
            return show.filmstrip(list(self.clips.values())[-1], given=True)
        frames, title = np.asarray(self.prepared)[None].repeat(2, 0), "The image to try conditions on: nothing generated yet"
        return show.filmstrip(frames, frames=[0], title=title)

    def video(self) -> Video | None:
        return show.video(list(self.clips.values())[-1]) if self.clips else None

    def plan(self) -> list[dict[str, Any]]:
        return self._rows


class Job(ipywidgets.VBox):
    """Buttons that start and cancel work on a thread, a progress bar and a status line.

    >>> job = Job(pipe, "Go", lambda: lambda: svdlab.generate(pipe, "scene-27", num_inference_steps=2), repr)
    >>> job.start(); job.join()
    True

    begin: called when the button is pressed, returns the work; what is open then, such as `svdlab.edit`, acts on it. done:
    given what the work returned, returns the text to end with. on_step: given each denoising step and its estimate
    "1 f c h w". The work stops before its next step once the cancel button was pressed, the job was closed, or Python is about
    to end: that waits for the thread, because one that is cut off inside torch aborts the process.
    """

    def __init__(
        self,
        pipe: Any,
        text: str,
        begin: Callable[[], Callable[[], Any]],
        done: Callable[[Any], str],
        on_step: Callable[[Step, Any], None] = lambda step, denoised: None,
    ) -> None:
        self.pipe, self._begin, self._done, self._on_step = pipe, begin, done, on_step
        self._cancelled, self._thread = threading.Event(), threading.Thread()
        self.go = button(text, "play", self.start)
        self.halt = button("Cancel", "stop", self.cancel, "Stop before the next step")
        self.halt.disabled = True
        self.bar = ipywidgets.IntProgress(min=0, max=1, layout=ipywidgets.Layout(width="100%"))
        self.status = ipywidgets.HTML().add_class("svdlab-status")
        super().__init__([ipywidgets.HBox([self.go, self.halt]), self.bar, self.status])

    def start(self) -> None:
        """What the button does: returns at once. Raises InputError while the last work still runs."""
        if self._thread.is_alive():
            raise InputError("a clip is being made: cancel it, or wait for it.")
        work = self._begin()
        self.bar.value, self.bar.bar_style = 0, ""
        self.go.disabled, self.halt.disabled = True, False
        self.status.value = status("starting …")
        self._cancelled.clear()
        self._thread = threading.Thread(target=copy_context().run, args=[self._run, work], name="svdlab-job")
        self._thread.start()

    def cancel(self) -> None:
        """Stop before the next step."""
        self.status.value = status("stopping …")
        self._cancelled.set()

    @takes(timeout=SECONDS)
    def join(self, timeout: float | None = None) -> bool:
        """Wait for the end; False where that takes longer."""
        if self._thread.ident is not None:  # it was started
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def close(self) -> None:
        """Stop before the next step, and leave the screen."""
        if self._thread.is_alive():
            self.cancel()
        super().close()

    def _hear(self, name: str, value: Any, run: Denoising) -> Any:
        """What happens at the places of each step."""
        if (name == "latents" and self._cancelled.is_set()) or _ending():
            raise SweepInterrupted("stopped by the cancel button, or by Python's end.")
        if name == "pred_original_sample" and run.step is not None:
            done, steps = run.step.index + 1, len(run.steps)
            self.bar.max, self.bar.value = steps, done
            ending = ", decoding …" if done == steps else ""
            self.status.value = status(f"step {done} of {steps}, sigma {run.step.sigma:.3g}{ending}")
            self._on_step(run.step, value)
        return value

    def _run(self, work: Callable[[], Any]) -> None:
        try:
            with listen(self.pipe, self._hear):
                result = work()
            if _ending():
                return
            self.halt.disabled = True  # nothing is left to stop
            end = "success", status(self._done(result))
        except SweepInterrupted:
            end = "warning", status(f"stopped after {self.bar.value} steps")
        except Exception as error:  # the thread's own end: whatever it is, the widget reports it
            end = "danger", warning(error)
        if not _ending():  # else there is no screen any more
            self.bar.bar_style, self.status.value = end
            self.go.disabled, self.halt.disabled = False, True


def _ending() -> bool:
    """Whether the program is at its end, and waits for its threads."""
    return not threading.main_thread().is_alive()
