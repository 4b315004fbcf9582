"""Conditions as knobs: press Generate, watch the clip emerge from noise, stop it, compare tries, keep them as a plan.

>>> knobs = svdlab.widgets.live(pipe, "scene-27", svdlab.Conditions(num_inference_steps=2))
>>> knobs.generate()                                     # what the button does
>>> knobs.job.join()
True
>>> svdlab.sweep(pipe, knobs.to_plan(), "results/tries", progress=False)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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
from svdlab.show.clips import Video
from svdlab.show.figure import Figure, fitted
from svdlab.show.labels import caption, number
from svdlab.widgets.background import Job
from svdlab.widgets.compare import compare
from svdlab.widgets.export import row_of_call
from svdlab.widgets.panel import ImageView, Panel, animation, button, put, status, still, visible, wide, wrapping

PREVIEW_FPS = 7.0
WIDTH = 340  # px, about, of the preview


def live(
    pipe: ProbePipeline,
    image: Any,
    conditions: Conditions | None = None,
    *,
    seed: int = 0,
    keep: int = 12,
    out: str | Path = "results/exports",
) -> Live:
    """Conditions as controls, with a preview that sharpens from step to step, and a history.

    >>> knobs = live(pipe, "scene-27", svdlab.Conditions(num_inference_steps=12), seed=3)

    image: path, sample's name, PIL image or array. conditions: where the controls begin; what has no control keeps its
    value from there. keep: clips that stay in memory; older tries stay in the plan. Clips are made on a thread of their
    own. Raises InputError for an image that cannot be used.
    """
    return Live(pipe, image, conditions or Conditions(), seed, keep, out)


@dataclass
class Try:
    """One clip that was made: as a row of a plan, in words, and itself while it is kept."""

    row: dict[str, Any]
    text: str
    clip: Clip | None


class Live(Panel):
    """What `live` returns. conditions: what the controls say. job: the buttons and the bar. tries: all; clips: those kept."""

    kind = "live"

    def __init__(self, pipe: Any, image: Any, conditions: Conditions, seed: int, keep: int, out: str | Path) -> None:
        if not isinstance(pipe, ProbePipeline):
            raise InputError(f"pipe is a {type(pipe).__name__}: load it with svdlab.load_pipeline.")
        shape = conditions.height or pipe.source.height, conditions.width or pipe.source.width
        self.prepared = prepare_image(image, height=shape[0], width=shape[1])
        self.given = str(image) if isinstance(image, (str, Path)) else None
        self.pipe, self.base, self.keep = pipe, conditions, keep
        self.tries: list[Try] = []
        self.controls = _controls(conditions, seed)
        self.unusual = ipywidgets.HTML()
        self.job = Job(pipe, "Generate", self._begin, self._made, self._preview)
        self._colours: np.ndarray | None = None
        self.preview = ImageView()
        self.preview.add_class("svdlab-pixels")
        width = fitted(shape, columns=1, width=WIDTH, most=WIDTH)[1]
        put(self.preview, still(self.prepared), "The image that clips are made from", width)
        self.history = ipywidgets.SelectMultiple(description="tries", rows=5, **wide())
        self.comparing = ipywidgets.VBox()
        buttons = [
            button("Compare", "columns", self.compare, "Play the chosen tries in step"),
            button("Use again", "undo", self.use, "Set the controls to the chosen try's conditions"),
        ]
        self.past = ipywidgets.VBox([self.history, ipywidgets.HBox(buttons), self.comparing])
        visible(self.past, False)
        left = ipywidgets.VBox([*self.controls.values(), self.unusual], layout=ipywidgets.Layout(width="420px"))
        right = ipywidgets.VBox([self.preview, self.job], layout=ipywidgets.Layout(width=f"{width + 24}px"))
        super().__init__([wrapping(left, right), self.past], out=out)
        for control in self.controls.values():
            control.observe(lambda _: self._check(), "value")
        self._check()

    @property
    def conditions(self) -> Conditions:
        values = {name: control.value for name, control in self.controls.items() if name != "seed"}
        low, high = values.pop("guidance")
        return self.base.replace(**values, min_guidance_scale=low, max_guidance_scale=high)

    @property
    def clips(self) -> list[Clip]:
        return [t.clip for t in self.tries if t.clip is not None]

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
        if self._colours is not None and denoised is not None:
            estimate = Trace(find_colours=lambda: self._colours).as_colours(denoised[0].float().cpu())
            alt = f"The denoised estimate after step {step.index + 1}, as colours of the latents"
            put(self.preview, animation(estimate, fps=PREVIEW_FPS), alt)

    def _made(self, clip: Clip) -> str:
        found, c = motion.summary(clip.frames), clip.conditions
        speed = f"{found['object_px']:.2f}" if np.isfinite(found["object_px"]) else "?"
        guidance = f"guidance {number(c.min_guidance_scale)} to {number(c.max_guidance_scale)}, {c.num_inference_steps} steps"
        text = f"{len(self.tries) + 1}: {caption(clip)}, {guidance} · camera {found['camera']}, subject {speed} px/frame"
        self.tries.append(Try(row_of_call(clip.call, self.given or clip.image), text, clip))
        for old in [t for t in self.tries if t.clip is not None][: -self.keep]:
            old.clip = None
        put(self.preview, animation(clip.frames, fps=clip.playback_fps or c.fps), f"Clip at {caption(clip)}, looping")
        self.history.options = [(t.text, n) for n, t in enumerate(self.tries) if t.clip is not None]
        visible(self.past, True)
        return f"made in {sum(clip.seconds.values()):.1f} s: {caption(clip)}"

    # --- the history --------------------------------------------------------------------------------------------------

    def to_plan(self) -> pd.DataFrame:
        """Every try as a row of a plan, for `svdlab.sweep`.

        Without a column `image` where the image has neither name nor path: give it to the sweep, as image=. Raises
        InputError where nothing was generated yet.
        """
        if not self.tries:
            raise InputError("nothing was generated yet: the plan would have no rows.")
        rows = [{k: v for k, v in t.row.items() if k != "image" or isinstance(v, str)} for t in self.tries]
        columns, defaults = dict.fromkeys(name for row in rows for name in row), Conditions().asdict()
        return pd.DataFrame([{name: row.get(name, defaults.get(name)) for name in columns} for row in rows])

    def compare(self) -> None:
        """Play the chosen tries, or the last two, in step."""
        kept = [n for n, t in enumerate(self.tries) if t.clip is not None]
        chosen = [n for n in self.history.value if n in kept] or kept[-2:]
        if chosen:
            self.comparing.children = [compare({self.tries[n].text: self.tries[n].clip for n in chosen}, out=self.out)]

    def use(self) -> None:
        """Set the controls to the conditions of the chosen try, or the last."""
        if self.tries:
            row = self.tries[self.history.value[0] if self.history.value else -1].row
            values = {**Conditions().asdict(), **row}
            values["guidance"] = values["min_guidance_scale"], values["max_guidance_scale"]
            for name, control in self.controls.items():
                control.value = values[name]

    # --- export -------------------------------------------------------------------------------------------------------

    def figure(self) -> Figure:
        if self.clips:
            return show.filmstrip(self.clips[-1], given=True)
        frames, title = np.asarray(self.prepared)[None].repeat(2, 0), "The image to try conditions on: nothing generated yet"
        return show.filmstrip(frames, frames=[0], title=title)

    def video(self) -> Video | None:
        return show.video(self.clips[-1]) if self.clips else None

    def plan(self) -> list[dict[str, Any]]:
        return [t.row for t in self.tries]

    def view(self) -> dict[str, Any]:
        return {"tries": len(self.tries)}


def _controls(c: Conditions, seed: int) -> dict[str, Any]:
    """A control for each condition that is worth a knob; ranges reach as far as the values that are given."""

    def knob(kind: Any, text: str, value: Any, low: float, high: float, **more: Any) -> Any:
        return kind(value=value, min=low, max=max(high, np.max(value).item()), description=text, **more, **wide())

    guidance = c.min_guidance_scale, c.max_guidance_scale
    return {
        "fps": knob(ipywidgets.IntSlider, "fps", c.fps, 1, 31),
        "motion_bucket_id": knob(ipywidgets.IntSlider, "motion bucket", c.motion_bucket_id, 0, 255),
        "noise_aug_strength": knob(ipywidgets.FloatSlider, "noise augm.", c.noise_aug_strength, 0, 1, step=0.01),
        "guidance": knob(ipywidgets.FloatRangeSlider, "guidance", guidance, 0, 6, step=0.1),
        "num_inference_steps": knob(ipywidgets.IntSlider, "steps", c.num_inference_steps, 1, 50),
        "seed": knob(ipywidgets.BoundedIntText, "seed", seed, 0, 2**31 - 1),
    }
