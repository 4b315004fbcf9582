"""Conditions as knobs: press Generate, watch the clip emerge from noise, stop it, compare tries, keep them as a plan."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ipywidgets
import numpy as np
import pandas as pd

from svdlab import show
from svdlab.errors import InputError
from svdlab.measure import motion
from svdlab.pipeline.conditions import Conditions
from svdlab.pipeline.generate import Clip, ProbePipeline, generate_batch
from svdlab.pipeline.images import prepare_image
from svdlab.pipeline.sampler import Step
from svdlab.pipeline.trace import Trace, colour_map
from svdlab.show.clips import Video, rate_of
from svdlab.show.figure import Figure, fitted
from svdlab.show.labels import caption, number
from svdlab.widgets.compare import Comparison
from svdlab.widgets.job import Job
from svdlab.widgets.panel import Panel, button, control, frame_view, put, status, visible, webp, wrapping
from svdlab.widgets.runs import row_of_call

PREVIEW_FPS = 7.0
WIDTH = 340  # px, about, of the preview


class Live(Panel):
    """Conditions as controls, with a preview that sharpens from step to step, and a history.

    >>> knobs = svdlab.widgets.live(pipe, "scene-27", svdlab.Conditions(num_inference_steps=2), seed=3)
    >>> knobs.generate()                                     # what the button does
    >>> knobs.job.join()
    True
    >>> svdlab.sweep(pipe, knobs.to_plan(), "results/tries", progress=False)

    image: path, sample's name, PIL image or array. conditions: where the controls begin, and afterwards what they say; what
    has no control keeps its value from there. keep: clips that stay in memory, in `clips`, by what the history says of them;
    older tries stay in the plan. job: makes clips on a thread of its own. Raises InputError for an image that cannot be used.
    """

    def __init__(
        self,
        pipe: ProbePipeline,
        image: Any,
        conditions: Conditions | None = None,
        *,
        seed: int = 0,
        keep: int = 12,
        out: str | Path = "results/exports",
    ) -> None:
        conditions = conditions or Conditions()
        if not isinstance(pipe, ProbePipeline):
            raise InputError(f"pipe is a {type(pipe).__name__}: load it with svdlab.load_pipeline.")
        shape = conditions.height or pipe.source.height, conditions.width or pipe.source.width
        self.prepared = prepare_image(image, height=shape[0], width=shape[1])
        self.given = str(image) if isinstance(image, (str, Path)) else None
        self.pipe, self.base, self.keep = pipe, conditions, keep
        self.clips: dict[str, Clip] = {}
        self._rows: list[dict[str, Any]] = []
        self._colours: np.ndarray | None = None
        self.controls = self._controls(conditions, seed)
        self.unusual = ipywidgets.HTML()
        self.job = Job(pipe, "Generate", self._begin, self._made, self._preview)
        self.preview = frame_view()
        width = fitted(shape, columns=1, width=WIDTH, most=WIDTH)[1]
        put(self.preview, webp(np.asarray(self.prepared)[None]), "The image that clips are made from", width)
        self.history = control(ipywidgets.SelectMultiple, "tries", lambda: None, rows=5)
        buttons = [
            button("Compare", "columns", self.compare, "Play the chosen tries in step"),
            button("Use again", "undo", self.use, "Set the controls to the chosen try's conditions"),
        ]
        self.comparing = ipywidgets.VBox()
        self.past = ipywidgets.VBox([self.history, ipywidgets.HBox(buttons), self.comparing])
        visible(self.past, False)
        left = ipywidgets.VBox([*self.controls.values(), self.unusual], layout=ipywidgets.Layout(width="420px"))
        right = ipywidgets.VBox([self.preview, self.job], layout=ipywidgets.Layout(width=f"{width + 24}px"))
        super().__init__([wrapping(left, right), self.past], out=out)
        self._check()

    def _controls(self, c: Conditions, seed: int) -> dict[str, Any]:
        """A control for each condition that is worth a knob; ranges reach as far as the values that are given."""

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

    @property
    def conditions(self) -> Conditions:
        values = {name: knob.value for name, knob in self.controls.items() if name != "seed"}
        low, high = values.pop("guidance")
        return self.base.replace(**values, min_guidance_scale=low, max_guidance_scale=high)

    def _check(self) -> None:
        """Whether the conditions are unusual for the checkpoint."""
        odd = self.conditions.unusual((self.pipe.source.height, self.pipe.source.width))
        self.unusual.value = status(f"Unusual: {'; '.join(odd)}") if odd else ""

    # --- a run --------------------------------------------------------------------------------------------------------

    def generate(self) -> None:
        """Begin a clip under the conditions that the controls show; what the button does. Returns at once."""
        self.job.start()

    def _begin(self) -> Callable[[], Clip]:
        conditions, seed = self.conditions, int(self.controls["seed"].value)

        def work() -> Clip:
            if self._colours is None:
                self._colours = colour_map(self.pipe)
            return generate_batch(self.pipe, [self.prepared], [conditions], [seed])[0]

        return work

    def _preview(self, step: Step, denoised: Any) -> None:
        """After each step: the estimate as a small video."""
        if self._colours is not None:
            estimate = Trace(find_colours=lambda: self._colours).as_colours(denoised[0].float().cpu())
            alt = f"The denoised estimate after step {step.index + 1}, as colours of the latents"
            put(self.preview, webp(estimate, fps=PREVIEW_FPS), alt)

    def _made(self, clip: Clip) -> str:
        found, c, said = motion.summary(clip.frames), clip.conditions, caption(clip)
        speed = f"{found['object_px']:.2f}" if np.isfinite(found["object_px"]) else "?"
        guidance = f"guidance {number(c.min_guidance_scale)} to {number(c.max_guidance_scale)}, {c.num_inference_steps} steps"
        self._rows.append(row_of_call(clip.call, self.given or clip.image))
        text = f"{len(self._rows)}: {said}, {guidance} · camera {found['camera']}, subject {speed} px/frame"
        self.clips = dict([*self.clips.items(), (text, clip)][-self.keep :])
        self.history.options = list(self.clips)
        put(self.preview, webp(clip.frames, fps=rate_of(clip)), f"Clip at {said}, looping")
        visible(self.past, True)
        return f"made in {sum(clip.seconds.values()):.1f} s: {said}"

    # --- the history --------------------------------------------------------------------------------------------------

    def to_plan(self) -> pd.DataFrame:
        """Every try as a row of a plan, for `svdlab.sweep`.

        Without a column `image` where the image has neither name nor path: give it to the sweep, as image=.
        """
        plan = pd.DataFrame(self._rows)
        return plan if self.given else plan.drop(columns="image", errors="ignore")

    def compare(self) -> None:
        """Play the chosen tries, or the last two, in step."""
        if chosen := self.history.value or list(self.clips)[-2:]:
            self.comparing.children = [Comparison({text: self.clips[text] for text in chosen}, out=self.out)]

    def use(self) -> None:
        """Set the controls to the conditions of the chosen try, or the last."""
        if chosen := self.history.value[:1] or list(self.clips)[-1:]:
            c, seed = self.clips[chosen[0]].conditions, self.clips[chosen[0]].seed
            values = {**c.asdict(), "guidance": (c.min_guidance_scale, c.max_guidance_scale), "seed": seed}
            for name, knob in self.controls.items():
                knob.value = values[name]

    # --- export -------------------------------------------------------------------------------------------------------

    def figure(self) -> Figure:
        if self.clips:
            return show.filmstrip(list(self.clips.values())[-1], given=True)
        frames, title = np.asarray(self.prepared)[None].repeat(2, 0), "The image to try conditions on: nothing generated yet"
        return show.filmstrip(frames, frames=[0], title=title)

    def video(self) -> Video | None:
        return show.video(list(self.clips.values())[-1]) if self.clips else None

    def plan(self) -> list[dict[str, Any]]:
        return self._rows
