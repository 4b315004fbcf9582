"""Step through a denoising: the estimate at each noise level, the latents behind it, where guidance pulls.

>>> svdlab.widgets.step_through(tr, pipe)
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ipywidgets
import matplotlib
import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

from svdlab import show
from svdlab.errors import InputError, TraceError
from svdlab.pipeline.trace import Trace
from svdlab.show.clips import Video
from svdlab.show.figure import COLOURS, Figure, fitted, graphs
from svdlab.show.labels import about, number
from svdlab.show.traces import components
from svdlab.widgets.background import Latest
from svdlab.widgets.export import row_of_call
from svdlab.widgets.panel import ImageView, Panel, Plot, pale, put, status, still, wide, wrapping

DECODED, ESTIMATE = "estimate, decoded", "estimate, as colours"
LATENTS, CHANNELS, PARTS = "latents, as colours", "latents, by channel", "latents, three components"


def step_through(
    tr: Trace, pipe: Any = None, *, decoded: np.ndarray | None = None, out: str | Path = "results/exports"
) -> Stepper:
    """Any step and frame of a trace: the denoised estimate, the latents, sigma, guidance pressure where it was kept.

    >>> step_through(tr, pipe)                                # decodes a step when it is looked at
    >>> step_through(tr, decoded=tr.decode(pipe))             # nothing left to decode

    tr: of one sample, with `denoised`; latents and guidance_pressure are shown where they were kept. decoded: frames
    "s f h w 3" in [0, 1] of all steps. Without it and without pipe, latents are shown as colours. Raises TraceError for a
    batch or a trace without `denoised`, InputError where `decoded` does not fit.
    """
    return Stepper(tr, pipe, decoded, out)


class Stepper(Panel):
    """What `step_through` returns. step, frame, what: its controls."""

    kind = "step-through"

    def __init__(self, tr: Trace, pipe: Any, decoded: np.ndarray | None, out: str | Path) -> None:
        if tr.batch != 1:
            raise TraceError(f"this trace holds {tr.batch} samples: show one, as in step_through(tr[0]).")
        steps, frames = tr.denoised.shape[:2]
        if decoded is not None and np.shape(decoded)[:2] != (steps, frames):
            raise InputError(
                f'decoded has shape {np.shape(decoded)}: "s f h w 3" is needed, with {steps} steps and {frames} frames, as in '
                f"tr.decode(pipe)."
            )
        self.tr, self.pipe = tr, pipe
        self._decoded: dict[int, np.ndarray] = {} if decoded is None else dict(enumerate(np.asarray(decoded)))
        self._views: dict[str, np.ndarray] = {}
        self.draw = Latest(self.report, wait=0.05)
        self.step = ipywidgets.IntSlider(0, 0, steps - 1, description="step", **wide("420px"))
        self.frame = ipywidgets.IntSlider(frames // 2, 0, frames - 1, description="frame", **wide("420px"))
        self.play = ipywidgets.Play(min=0, max=steps - 1, interval=250, tooltip="Play over the steps")
        ipywidgets.jslink((self.play, "value"), (self.step, "value"))
        options = [DECODED] * (decoded is not None or pipe is not None) + [ESTIMATE]
        options += [LATENTS, CHANNELS, PARTS] if "latents" in tr.names else []
        self.what = ipywidgets.Dropdown(description="show", options=options, **wide("420px"))
        for control in (self.step, self.frame, self.what):
            control.observe(lambda _: self._paint(), "value")
        self.image, self.caption = ImageView(), ipywidgets.HTML()
        self.image.add_class("svdlab-pixels")
        self.sigma, self.pressure = Plot(), Plot()
        self.sigma.set(_sigma_curve(tr))
        graphs = [self.sigma]
        if "guidance_pressure" in tr.names:
            self.pressure.set(_pressure_map(tr))
            graphs.append(self.pressure)
        controls = [ipywidgets.HBox([self.play, self.step]), self.frame, self.what]
        both = wrapping(ipywidgets.VBox([*controls, self.image, self.caption]), ipywidgets.VBox(graphs))
        super().__init__([both, pale(about(tr))], out=out)
        self._paint()

    def _paint(self) -> None:
        s, what = self.step.value, self.what.value
        record = self.tr.steps[s]
        self.sigma.mark((record.index, None))
        self.pressure.mark((s, None))
        self.caption.value = status(
            f"step {record.index}, sigma {number(round(record.sigma, 4))}, frame {self.frame.value}: {what}"
        )
        if what == DECODED and s not in self._decoded:
            self.draw(lambda: self._decode(s))
        else:
            self._put()

    def _decode(self, s: int) -> None:
        """One step by the pipeline's own VAE, on a thread."""
        if s not in self._decoded:
            self._decoded[s] = self.tr.decode(self.pipe, steps=[s])[0]
        if (self.step.value, self.what.value) == (s, DECODED):
            self._put()

    def _put(self) -> None:
        s, f, what = self.step.value, self.frame.value, self.what.value
        image = self._decoded[s][f] if what == DECODED else self._view(what)[s, f]
        most = 640 if what == CHANNELS else 384
        size = fitted(image.shape, columns=1, width=most + 100, most=most)
        put(self.image, still(image), f"{what}, frame {f} at step {s}", size[1])

    def _view(self, what: str) -> np.ndarray:
        """Images "s f h w 3" of one view, computed when it is first looked at."""
        if what not in self._views:
            if what == ESTIMATE:
                values = self.tr.denoised.float().numpy()
            else:  # as the UNet sees them
                values = self.tr.latents.float().numpy() / np.sqrt(self.tr.sigmas**2 + 1)[:, None, None, None, None]
            make: Callable[[np.ndarray], np.ndarray] = {PARTS: components, CHANNELS: _channels}.get(what, self._in_colours)
            self._views[what] = make(values).astype(np.float32)
        return self._views[what]

    def _in_colours(self, values: np.ndarray) -> np.ndarray:
        return components(values) if self.tr.colours is None else self.tr.as_colours(values)

    def figure(self) -> Figure:
        """The whole denoising of the chosen frame, the step on screen among its columns."""
        count, f, what = len(self.tr), self.frame.value, self.what.value
        steps = sorted({*np.linspace(0, count - 1, min(7, count)).round().astype(int).tolist(), self.step.value})
        if what in (DECODED, ESTIMATE):
            ready = what == DECODED and self._decoded.keys() >= set(steps)
            decoded = np.stack([self._decoded[s][[f]] for s in steps]) if ready else None
            return show.denoising(self.tr, frame=f, steps=steps, decoded=decoded)
        mode = {LATENTS: "colours", CHANNELS: "channels", PARTS: "pca"}[what]
        return show.latents(self.tr, frame=f, steps=steps, mode=mode)

    def video(self) -> Video:
        """The frame on screen, from step to step."""
        f, what = self.frame.value, self.what.value
        if what == DECODED and len(self._decoded) == len(self.tr):
            frames = np.stack([self._decoded[s][f] for s in range(len(self.tr))])
        else:
            what = ESTIMATE if what == DECODED else what
            frames = self._view(what)[:, f]
        return show.video(frames, labels=[f"frame {f}, {what}"], fps=4)

    def plan(self) -> list[dict[str, Any]]:
        return [row_of_call(call, image) for call, image in zip(self.tr.calls, self.tr.images, strict=True)]

    def view(self) -> dict[str, Any]:
        return {"step": self.step.value, "frame": self.frame.value, "what": self.what.value}


def _sigma_curve(tr: Trace) -> Figure:
    fig, axes = graphs(size=(420, 190), title="Noise level before each step")
    ax = axes[0, 0]
    ax.semilogy([step.index for step in tr.steps], tr.sigmas, color=COLOURS[0], marker="o", markersize=3, linewidth=1.4)
    ax.set(xlabel="step", ylabel="sigma")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return fig.finish()


def _pressure_map(tr: Trace) -> Figure:
    table = pd.DataFrame(tr["guidance_pressure"].float().mean(dim=(2, 3)).numpy().T)  # "f s"
    table.columns = [step.index for step in tr.steps]
    return show.heat(table, title="Guidance pressure by frame and step", key="|cond - uncond|", rows="frame", columns="step")


def _channels(values: np.ndarray) -> np.ndarray:
    """Latents "s f c h w" as maps side by side, blue below zero and red above, on one scale for all steps."""
    limit = float(np.percentile(np.abs(values), 99.5)) or 1.0
    maps = matplotlib.colormaps["RdBu_r"](np.clip(values / limit, -1, 1) / 2 + 0.5)[..., :3]  # "s f c h w 3"
    maps = np.pad(maps, [(0, 0)] * 4 + [(0, 1), (0, 0)], constant_values=1.0)  # a white line between channels
    return np.concatenate(list(np.moveaxis(maps, 2, 0)), axis=3)  # "s f h (c w) 3"
