"""Step through a denoising: the estimate at each noise level, the latents behind it, where guidance pulls."""

from pathlib import Path
from typing import Any

import ipywidgets
import matplotlib
import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

from svdlab import show
from svdlab.errors import InputError, kind, path, shown, takes
from svdlab.measure.video import as_frames
from svdlab.pipeline.pipeline import pipeline
from svdlab.pipeline.trace import Trace
from svdlab.show.clips import Video, as_colours, kept
from svdlab.show.figure import COLOURS, Figure, fitted, graphs
from svdlab.show.labels import about, number
from svdlab.widgets.panel import (
    Panel,
    control,
    follow,
    pale,
    player,
    put_figure,
    row_of_call,
    stacked,
    status,
    stills,
    webp,
    wrapping,
)

DECODED, ESTIMATE = "estimate, decoded", "estimate, as colours"
LATENTS = {"latents, as colours": "colours", "latents, by channel": "channels"}


def _images(name: str, value: Any) -> np.ndarray:
    """Decoded frames of all steps, "s f h w 3"."""
    if np.ndim(value) != 5:
        raise InputError(f'{name}={shown(value)}: "s f h w 3" is needed, as from tr.decode(pipe).')
    return np.stack([as_frames(step, least=1, name=name) for step in value])


class Stepper(Panel):
    """Any step and frame of a trace: the denoised estimate, the latents, sigma, guidance pressure where it was kept.

    >>> svdlab.widgets.step_through(tr, pipe)                         # decodes a step when it is looked at
    >>> svdlab.widgets.step_through(tr, decoded=tr.decode(pipe))      # nothing left to decode

    tr: of one sample, with `denoised`; latents and guidance_pressure are shown where they were kept. decoded: frames
    "s f h w 3" in [0, 1] of all steps. Without it and without pipe, latents are shown as colours. step, frame, what: the
    controls. image, graphs: what is on screen. Raises TraceError for a batch or a trace without `denoised`, InputError where
    `decoded` does not fit.
    """

    @takes(tr=kind(Trace), pipe=pipeline, decoded=_images, out=path)
    def __init__(
        self, tr: Trace, pipe: Any = None, *, decoded: np.ndarray | None = None, out: str | Path = "results/exports"
    ) -> None:
        estimates, _, frames = kept(tr, "denoised", range(tr.denoised.shape[1]), range(len(tr)))
        if decoded is not None and decoded.shape[:2] != estimates.shape[:2]:
            steps, count = estimates.shape[:2]
            raise InputError(f'decoded has shape {decoded.shape}: "s f h w 3" of {steps} steps and {count} frames is needed.')
        self.tr, self.pipe = tr, pipe
        self._decoded: dict[int, np.ndarray] = {} if decoded is None else dict(enumerate(decoded))
        self._views = {ESTIMATE: as_colours(tr, estimates)[0]}  # "s f h w 3"
        if "latents" in tr.names:
            values = kept(tr, "latents", frames, range(len(tr)))[0]
            self._views |= dict(zip(LATENTS, (as_colours(tr, values)[0], _channels(values)), strict=True))
        options = [DECODED] * (decoded is not None or pipe is not None) + list(self._views)
        slider = ipywidgets.IntSlider
        self.step = control(slider, "step", self._paint, max=len(tr) - 1)
        self.frame = control(slider, "frame", self._say, max=frames[-1], value=len(frames) // 2)
        self.what = control(ipywidgets.Dropdown, "show", self._paint, options=options)
        self._shown: dict[str, dict[int, str]] = {what: {} for what in options}
        self.rows, self.caption = [ipywidgets.HTML() for _ in range(len(tr))], ipywidgets.HTML()
        image = ipywidgets.VBox(self.rows).add_class("svdlab-rows").add_class("svdlab-columns")
        self.graphs = [ipywidgets.HTML() for _ in range(1 + ("guidance_pressure" in tr.names))]
        parts = [player(self.step, 250), self.frame, self.what, image, self.caption]
        super().__init__([wrapping(stacked(*parts, most=640), stacked(*self.graphs, most=640)), pale(about(tr))], out=out)
        follow(self, row=self.step, column=self.frame)
        self._paint()

    def _paint(self) -> None:
        """The caption at once; on a thread, once the controls rest, what takes longer."""
        self._say()
        self.draw(self._rest)

    def _say(self) -> None:
        s, f, what = self.step.value, self.frame.value, self.what.value
        record = self.tr.steps[s]
        self.caption.value = status(f"step {record.index}, sigma {number(round(record.sigma, 4))}, frame {f}: {what}")

    def _rest(self) -> None:
        """A step by the pipeline's own VAE; the frames of all steps, which the sliders then choose from; and the graphs."""
        s, what = self.step.value, self.what.value
        if what == DECODED and s not in self._decoded:
            self._decoded[s] = self.tr.decode(self.pipe, steps=[s])[0]
        most, shown = 640 if LATENTS.get(what) == "channels" else 384, self._shown[what]
        for step in sorted(range(len(self.rows)), key=lambda step: step != s):  # what is looked at comes first
            frames = self._decoded.get(step) if what == DECODED else self._views[what][step]
            if frames is not None and step not in shown:
                width = fitted(frames.shape[1:], columns=1, width=most + 100, most=most)[1]
                alt = lambda f, step=step: f"{what}, frame {f} at step {step}"
                shown[step] = stills([webp(frame[None]) for frame in frames], alt, width)
            self.rows[step].value = shown.get(step, "")
        for image, fig in zip(self.graphs, self._graphs(), strict=True):
            put_figure(image, fig)

    def _graphs(self) -> list[Figure]:
        """The noise levels, and the guidance pressure where it was kept, with a line at the step on screen."""
        tr, s = self.tr, self.step.value
        indices = [step.index for step in tr.steps]
        fig, axes = graphs(size=(420, 190), title="Noise level before each step")
        ax = axes[0, 0]
        ax.semilogy(indices, tr.sigmas, color=COLOURS[0], marker="o", markersize=3, linewidth=1.4)
        ax.set(xlabel="step", ylabel="sigma")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        drawn = [(fig.finish(), indices[s])]
        if "guidance_pressure" in tr.names:
            table = pd.DataFrame(tr["guidance_pressure"].float().mean(dim=(2, 3)).numpy().T, columns=indices)  # "f s"
            title = "Guidance pressure by frame and step"
            drawn.append((show.heat(table, title=title, key="|cond - uncond|", rows="frame", columns="step"), s))
        for fig, at in drawn:
            fig.axes[0].axvline(at, color=COLOURS[1], linewidth=2)
        return [fig for fig, _ in drawn]

    def figure(self) -> Figure:
        """The whole denoising of the chosen frame, the step on screen among its columns."""
        count, f, what = len(self.tr), self.frame.value, self.what.value
        steps = sorted({*np.linspace(0, count - 1, min(7, count)).round().astype(int).tolist(), self.step.value})
        if what in LATENTS:
            return show.latents(self.tr, frame=f, steps=steps, mode=LATENTS[what])
        ready = what == DECODED and self._decoded.keys() >= set(steps)
        decoded = np.stack([self._decoded[s][[f]] for s in steps]) if ready else None
        return show.denoising(self.tr, frame=f, steps=steps, decoded=decoded)

    def video(self) -> Video:
        """The frame on screen, from step to step."""
        f, what = self.frame.value, self.what.value
        if what == DECODED and len(self._decoded) == len(self.tr):
            frames = np.stack([self._decoded[s][f] for s in range(len(self.tr))])
        else:
            what = ESTIMATE if what == DECODED else what
            frames = self._views[what][:, f]
        return show.video(frames, labels=[f"frame {f}, {what}"], fps=4)

    def plan(self) -> list[dict[str, Any]]:
        return [row_of_call(call, image) for call, image in zip(self.tr.calls, self.tr.images, strict=True)]


def _channels(values: np.ndarray) -> np.ndarray:
    """Latents "s f c h w" as maps side by side, blue below zero and red above, on one scale for all steps."""
    limit = float(np.percentile(np.abs(values), 99.5)) or 1.0
    maps = matplotlib.colormaps["RdBu_r"](np.clip(values / limit, -1, 1) / 2 + 0.5)[..., :3]  # "s f c h w 3"
    maps = np.pad(maps, [(0, 0)] * 4 + [(0, 1), (0, 0)], constant_values=1.0)  # a white line between channels
    return np.concatenate(list(np.moveaxis(maps, 2, 0)), axis=3).astype(np.float32)  # "s f h (c w) 3"
