"""Conditions as knobs: press Generate, watch the clip come out of the noise, stop it, compare tries, keep them as a plan.

>>> knobs = svdlab.widgets.live(pipe, "scene-27")
>>> svdlab.sweep(pipe, knobs.to_plan(), "results/tries", image="scene-27")
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ipywidgets
import numpy as np
import pandas as pd

from svdlab import show
from svdlab.errors import InputError
from svdlab.measure import motion
from svdlab.pipeline import colours
from svdlab.pipeline.conditions import Conditions
from svdlab.pipeline.generate import Clip, ProbePipeline, generate_batch
from svdlab.pipeline.images import prepare_image
from svdlab.pipeline.loop import Loop, follow
from svdlab.show.provenance import caption, number
from svdlab.show.style import Figure, fitted
from svdlab.show.videos import Video
from svdlab.widgets.comparison import compare
from svdlab.widgets.encode import animation, picture
from svdlab.widgets.export import row_of_clip
from svdlab.widgets.panel import Panel, Picture, button, put, said, shown, warning
from svdlab.widgets.running import Cancelled, Run, start

PREVIEW_FPS = 7.0
WIDE = 340  # px that a preview is about as wide as


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

    >>> knobs = live(pipe, "scene-27", svdlab.Conditions(num_inference_steps=12))
    >>> knobs.clips[-1].frames.shape
    (8, 64, 64, 3)

    image: path, sample's name, PIL picture or array. conditions: where the controls begin; what has no control keeps its
    value from there. keep: clips that stay in memory; older tries stay in the plan. The run is on a thread of its own:
    do not use `pipe` in another cell until it is over. Raises InputError for a picture that cannot be used.
    """
    return Live(pipe, image, conditions or Conditions(), seed=seed, keep=keep, out=out)


@dataclass
class Try:
    """One clip that was made: as a row of a plan, in words, and itself while it is kept."""

    row: dict[str, Any]
    words: str
    clip: Clip | None


class Live(Panel):
    """What `live` returns. clips: those kept, oldest first. conditions: what the controls say. run: the one in hand."""

    kind = "live"

    def __init__(self, pipe: Any, image: Any, conditions: Conditions, *, seed: int, keep: int, out: str | Path) -> None:
        if not isinstance(pipe, ProbePipeline):
            raise InputError(f"pipe is a {type(pipe).__name__}: load it with svdlab.load_pipeline.")
        source = pipe.source
        height, width = conditions.height or source.height, conditions.width or source.width
        self.picture = prepare_image(image, height=height, width=width)
        self.name = str(image) if isinstance(image, (str, Path)) else None
        self.pipe, self.base, self.keep = pipe, conditions, keep
        self.tries: list[Try] = []
        self.run: Run | None = None
        self.colours: np.ndarray | None = None
        self.controls = _controls(conditions, seed)
        for control in self.controls.values():
            control.observe(lambda _: self._warn(), "value")
        self.unusual = ipywidgets.HTML()
        self.go = button("Generate", "play", self.generate, "Make a clip under these conditions")
        self.halt = button("Cancel", "stop", self.cancel, "Stop before the next step")
        self.halt.disabled = True
        self.bar = ipywidgets.IntProgress(min=0, max=1, layout=ipywidgets.Layout(width="100%"))
        self.status = ipywidgets.HTML(said("ready"))
        self.status.add_class("svdlab-status")
        size = fitted((height, width), columns=1, width=WIDE, most=WIDE)
        self.preview = Picture(value=picture(np.asarray(self.picture)), format="png", width=str(size[1]))
        self.preview.tooltip = "The picture that clips are made from"
        self.preview.add_class("svdlab-pixels")
        self.history = ipywidgets.SelectMultiple(
            description="tries", rows=5, layout=ipywidgets.Layout(width="100%"), tabbable=True
        )
        self.comparing = ipywidgets.VBox()
        buttons = [
            button("Compare", "columns", self.compare, "Play the chosen tries in step"),
            button("Use again", "undo", self.use, "Set the controls as they were"),
        ]
        self.past = ipywidgets.VBox([self.history, ipywidgets.HBox(buttons), self.comparing])
        shown(self.past, False)
        left = ipywidgets.VBox([*self.controls.values(), self.unusual], layout=ipywidgets.Layout(width="420px"))
        right = ipywidgets.VBox([self.preview, self.bar, self.status], layout=ipywidgets.Layout(width=f"{size[1] + 24}px"))
        both = ipywidgets.HBox([left, right], layout=ipywidgets.Layout(flex_flow="row wrap", grid_gap="16px"))
        super().__init__([both, ipywidgets.HBox([self.go, self.halt]), self.past], out=out)
        self._warn()

    # --- what the controls say ----------------------------------------------------------------------------------------

    @property
    def conditions(self) -> Conditions:
        values = {name: control.value for name, control in self.controls.items() if name != "seed"}
        low, high = values.pop("guidance")
        return self.base.replace(**values, min_guidance_scale=low, max_guidance_scale=high)

    @property
    def seed(self) -> int:
        return int(self.controls["seed"].value)

    @property
    def clips(self) -> list[Clip]:
        return [t.clip for t in self.tries if t.clip is not None]

    def _warn(self) -> None:
        source = self.pipe.source
        odd = self.conditions.unusual((source.height, source.width))
        self.unusual.value = said(f"Unusual: {'; '.join(odd)}") if odd else ""

    # --- a run --------------------------------------------------------------------------------------------------------

    def generate(self) -> Run:
        """Begin a clip under the conditions that the controls show; what the button does. Returns at once."""
        if self.run is not None and self.run.running:
            raise InputError("a clip is being made: cancel it, or wait for it.")
        conditions, seed = self.conditions, self.seed
        self.go.disabled, self.halt.disabled = True, False
        self.bar.value, self.bar.max = 0, conditions.num_inference_steps
        self.bar.bar_style = ""
        self.status.value = said("starting …")
        self.run = start(self.pipe, lambda run: self._make(run, conditions, seed), done=self._made, failed=self._failed)
        return self.run

    def cancel(self) -> None:
        """Stop the run in hand before its next step."""
        if self.run is not None:
            self.status.value = said("stopping …")
            self.run.cancel()

    def _make(self, run: Run, conditions: Conditions, seed: int) -> Clip:
        if self.colours is None:
            self.colours = colours.of(self.pipe)
        with follow(self.pipe) as loop, _quiet(self.pipe), _listening(loop, lambda values: self._stepped(run, loop, values)):
            return generate_batch(self.pipe, [self.picture], [conditions], [seed])[0]

    def _stepped(self, run: Run, loop: Loop, values: dict[str, Any]) -> None:
        """After each step: the bar, the estimate as a small film, and the way out."""
        run.check()
        assert loop.step is not None
        done, steps = loop.step.index + 1, self.bar.max
        self.bar.value = done
        if self.colours is not None and "denoised" in values:
            estimate = colours.colour(values["denoised"][0].float().cpu().numpy(), self.colours)
            alt = f"The denoised estimate after step {done} of {steps}, as colours of the latents"
            put(self.preview, animation(estimate, fps=PREVIEW_FPS), alt, format="webp")
        ending = ", decoding …" if done == steps else ""
        self.status.value = said(f"step {done} of {steps}, sigma {number(round(loop.step.sigma, 3))}{ending}")

    def _made(self, clip: Clip) -> None:
        row = row_of_clip(clip, self.name)
        found = motion.summary(clip.frames)
        speed = f"{found['object_px']:.2f}" if np.isfinite(found["object_px"]) else "?"
        c = clip.conditions
        guided = f"guidance {number(c.min_guidance_scale)} to {number(c.max_guidance_scale)}, {c.num_inference_steps} steps"
        words = f"{len(self.tries) + 1}: {caption(clip)}, {guided} · camera {found['camera']}, subject {speed} px per frame"
        self.tries.append(Try(row, words, clip))
        for old in [t for t in self.tries if t.clip is not None][: -self.keep]:
            old.clip = None
        film = animation(clip.frames, fps=clip.playback_fps or c.fps)
        put(self.preview, film, f"Clip at {caption(clip)}, looping", format="webp")
        self.history.options = [(t.words, n) for n, t in enumerate(self.tries) if t.clip is not None]
        shown(self.past, True)
        seconds = sum(clip.seconds.values())
        self._end("success", said(f"made in {seconds:.1f} s: {caption(clip)}"))

    def _failed(self, error: BaseException) -> None:
        if isinstance(error, Cancelled):
            self._end("warning", said(f"stopped at step {self.bar.value} of {self.bar.max}"))
        else:
            self._end("danger", warning(str(error)))

    def _end(self, style: str, text: str) -> None:
        self.bar.bar_style, self.status.value = style, text
        self.go.disabled, self.halt.disabled = False, True

    # --- the history --------------------------------------------------------------------------------------------------

    def to_plan(self) -> pd.DataFrame:
        """Every try as a row of a plan, for `svdlab.sweep`.

        Without a column `image` where the picture has neither name nor path: give it to the sweep, as image=.
        """
        if not self.tries:
            raise InputError("nothing was generated yet: the plan would have no rows.")
        rows = [{k: v for k, v in t.row.items() if k != "image" or isinstance(v, str)} for t in self.tries]
        columns = dict.fromkeys(name for row in rows for name in row)
        defaults = Conditions().asdict()
        return pd.DataFrame([{name: row.get(name, defaults.get(name)) for name in columns} for row in rows])

    def compare(self) -> None:
        """Play the chosen tries, or the last two, in step."""
        chosen = list(self.history.value) or [n for n, t in enumerate(self.tries) if t.clip is not None][-2:]
        clips = {self.tries[n].words: self.tries[n].clip for n in chosen if self.tries[n].clip is not None}
        if clips:
            self.comparing.children = [compare(clips, out=self.out)]

    def use(self) -> None:
        """Set the controls to the conditions of the chosen try, or the last."""
        if not self.tries:
            return
        row = self.tries[self.history.value[0] if self.history.value else -1].row
        values = {**Conditions().asdict(), **row}
        for name, control in self.controls.items():
            if name == "guidance":
                control.value = (values["min_guidance_scale"], values["max_guidance_scale"])
            else:
                control.value = values[name]

    # --- export -------------------------------------------------------------------------------------------------------

    def figure(self) -> Figure:
        if self.clips:
            return show.filmstrip(self.clips[-1], given=True)
        return show.filmstrip(
            np.asarray(self.picture)[None].repeat(2, 0), frames=[0], title="The picture to try conditions on: nothing made yet"
        )

    def film(self) -> Video | None:
        return show.video(self.clips[-1]) if self.clips else None

    def plan(self) -> list[dict[str, Any]]:
        return [t.row for t in self.tries]

    def view(self) -> dict[str, Any]:
        return {"widget": "live", "tries": len(self.tries)}


def _controls(conditions: Conditions, seed: int) -> dict[str, Any]:
    """A control for each condition that is worth a knob; ranges reach as far as the values that are given."""
    c = conditions
    wide = dict(layout=ipywidgets.Layout(width="100%"), tabbable=True)
    most = max(c.max_guidance_scale, 6.0)
    return {
        "fps": ipywidgets.IntSlider(c.fps, 1, max(31, c.fps), description="fps", **wide),
        "motion_bucket_id": ipywidgets.IntSlider(
            c.motion_bucket_id, 0, max(255, c.motion_bucket_id), description="motion bucket", **wide
        ),
        "noise_aug_strength": ipywidgets.FloatSlider(
            c.noise_aug_strength, min=0, max=max(1.0, c.noise_aug_strength), step=0.01, description="noise augm.", **wide
        ),
        "guidance": ipywidgets.FloatRangeSlider(
            value=(c.min_guidance_scale, c.max_guidance_scale), min=0, max=most, step=0.1, description="guidance", **wide
        ),
        "num_inference_steps": ipywidgets.IntSlider(
            c.num_inference_steps, 1, max(50, c.num_inference_steps), description="steps", **wide
        ),
        "seed": ipywidgets.BoundedIntText(seed, min=0, max=2**31 - 1, description="seed", **wide),
    }


@contextmanager
def _listening(loop: Loop, act: Any) -> Iterator[None]:
    loop.on_step.append(act)
    try:
        yield
    finally:
        loop.on_step.remove(act)


@contextmanager
def _quiet(pipe: Any) -> Iterator[None]:
    """Without the text bar of the pipeline, whose place the widget's own takes."""
    before = dict(getattr(pipe, "_progress_bar_config", {}))
    pipe.set_progress_bar_config(**{**before, "disable": True})
    try:
        yield
    finally:
        pipe.set_progress_bar_config(**before)
