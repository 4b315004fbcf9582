"""Step through a denoising: what the model expects at each noise level, the latents behind it, how hard guidance pulls.

>>> svdlab.widgets.step_through(tr, pipe)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ipywidgets
import matplotlib
import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

from svdlab import show
from svdlab.errors import InputError, SvdlabError, TraceError
from svdlab.pipeline.colours import colour
from svdlab.pipeline.record import Trace
from svdlab.show.denoisings import components
from svdlab.show.provenance import about, number
from svdlab.show.style import COLOURS, Figure, fitted, on, plain
from svdlab.show.videos import Video
from svdlab.widgets.background import Latest
from svdlab.widgets.encode import picture
from svdlab.widgets.panel import Panel, Picture, Plot, put, said, warning

DECODED, ESTIMATE, LATENTS, CHANNELS, PARTS = (
    "estimate, decoded",
    "estimate, as colours",
    "latents, as colours",
    "latents, by channel",
    "latents, three components",
)
GAP = 1  # px between channels


def step_through(
    tr: Trace, pipe: Any = None, *, decoded: np.ndarray | None = None, out: str | Path = "results/exports"
) -> Stepper:
    """Any step and frame of a trace: the denoised estimate, the latents, sigma, guidance pressure where it was kept.

    >>> step_through(tr, pipe)                                # decodes a step when it is looked at
    >>> step_through(tr, decoded=tr.decode(pipe))             # nothing left to decode

    tr: of one sample, with `denoised`; latents and guidance_pressure are shown where they were kept. decoded: pictures
    "s f h w 3" in [0, 1] of all steps and frames. Without it and without pipe, latents are shown as colours. Raises
    TraceError for a batch or a trace without `denoised`, InputError where `decoded` does not fit.
    """
    return Stepper(tr, pipe, decoded, out)


class Stepper(Panel):
    """What `step_through` returns. step, frame, what: its controls."""

    kind = "step-through"

    def __init__(self, tr: Trace, pipe: Any, decoded: np.ndarray | None, out: str | Path) -> None:
        if tr.batch != 1:
            raise TraceError(f"this trace holds {tr.batch} samples: show one, as in step_through(tr[0]).")
        self.tr, self.pipe = tr, pipe
        steps, frames = tr.denoised.shape[:2]
        if decoded is not None and np.asarray(decoded).shape[:2] != (steps, frames):
            raise InputError(
                f'decoded has shape {np.asarray(decoded).shape}: "s f h w 3" is needed, with {steps} steps and {frames} '
                f"frames, as in tr.decode(pipe)."
            )
        self._films: dict[str, Any] = {} if decoded is None else {DECODED: np.asarray(decoded)}
        self._decoded: dict[int, np.ndarray] = {}
        self._encoded: dict[tuple[str, int, int], bytes] = {}
        self.draw = Latest(wait=0.05)
        wide = ipywidgets.Layout(width="420px")
        self.step = ipywidgets.IntSlider(0, 0, steps - 1, description="step", layout=wide, tabbable=True)
        self.frame = ipywidgets.IntSlider(frames // 2, 0, frames - 1, description="frame", layout=wide, tabbable=True)
        self.play = ipywidgets.Play(min=0, max=steps - 1, interval=250, tooltip="Play over the steps")
        ipywidgets.jslink((self.play, "value"), (self.step, "value"))
        views = [DECODED] * (decoded is not None or pipe is not None) + [ESTIMATE]
        views += [LATENTS, CHANNELS, PARTS] if "latents" in tr.names else []
        self.what = ipywidgets.Dropdown(description="show", options=views, layout=wide, tabbable=True)
        self.picture = Picture(format="png")
        self.picture.add_class("svdlab-pixels")
        self.told = ipywidgets.HTML()
        self.sigma, self.pressure = Plot(), Plot()
        fig, ax = self._sigma_curve()
        self.sigma.set(fig, ax)
        graphs = [self.sigma]
        if "guidance_pressure" in tr.names:
            self.pressure.set(*self._pressure_map())
            graphs.append(self.pressure)
        for control in (self.step, self.frame, self.what):
            control.observe(lambda _: self._paint(), "value")
        controls = [ipywidgets.HBox([self.play, self.step]), self.frame, self.what]
        left = ipywidgets.VBox([*controls, self.picture, self.told])
        both = ipywidgets.HBox(
            [left, ipywidgets.VBox(graphs)], layout=ipywidgets.Layout(flex_flow="row wrap", grid_gap="16px")
        )
        foot = ipywidgets.HTML(said(about(tr)))
        foot.add_class("svdlab-pale")
        super().__init__([both, foot], out=out)
        self._paint()

    # --- what is shown ------------------------------------------------------------------------------------------------

    def _paint(self) -> None:
        s, f, what = self.step.value, self.frame.value, self.what.value
        record = self.tr.steps[s]
        self.sigma.line(record.index)
        self.pressure.line(s)
        self.told.value = said(f"step {record.index}, sigma {number(round(record.sigma, 4))}, frame {f}: {what}")
        if what == DECODED and DECODED not in self._films and s not in self._decoded:
            self.draw(lambda: self._decode(s))
        else:
            self._put(what, s, f)

    def _put(self, what: str, s: int, f: int) -> None:
        key = (what, s, f)
        if key not in self._encoded:
            while len(self._encoded) > 2000:
                self._encoded.pop(next(iter(self._encoded)))
            self._encoded[key] = picture(self._still(what, s, f))
        data = self._encoded[key]
        kind = "png" if data[:4] == b"\x89PNG" else "jpeg"
        put(self.picture, data, f"{what}, frame {f} at step {s}", format=kind, width=str(self._still_size(what)[1]))

    def _decode(self, s: int) -> None:
        """One step by the real VAE, in the thread that draws; another run of the pipeline meanwhile is told."""
        try:
            if s not in self._decoded:
                self._decoded[s] = self.tr.decode(self.pipe, steps=[s])[0]
            if (self.step.value, self.what.value) == (s, DECODED):
                self._put(DECODED, s, self.frame.value)
        except SvdlabError as error:
            self.told.value = warning(str(error))

    def _still(self, what: str, s: int, f: int) -> np.ndarray:
        if what == DECODED:
            return self._decoded[s][f] if s in self._decoded else self._film(what)[s, f]
        return self._film(what)[s, f]

    def _still_size(self, what: str) -> tuple[int, int]:
        some = next(iter(self._decoded.values())) if what == DECODED and self._decoded else self._film(what)[0]
        wide = 640 if what == CHANNELS else 384
        return fitted(some.shape[1:], columns=1, width=wide + 100, most=wide)

    def _film(self, what: str) -> np.ndarray:
        """Pictures "s f h w 3" of one view, worked out when it is first looked at."""
        if what not in self._films:
            if what == ESTIMATE:
                made = self._as_colours(self.tr.denoised.float().numpy())
            else:
                scale = np.sqrt(np.square(self.tr.sigmas) + 1)[:, None, None, None, None]
                values = self.tr.latents.float().numpy() / scale  # as the UNet sees them
                made = {LATENTS: self._as_colours, PARTS: components, CHANNELS: _channels}[what](values)
            self._films[what] = made.astype(np.float32)
        return self._films[what]

    def _as_colours(self, values: np.ndarray) -> np.ndarray:
        return components(values) if self.tr.colours is None else colour(values, self.tr.colours)

    def _sigma_curve(self) -> tuple[Any, Any]:
        fig, ax = on(None, size=(420, 190), title="Noise level before each step", footer="")
        index = [step.index for step in self.tr.steps]
        ax.semilogy(index, self.tr.sigmas, color=COLOURS[0], marker="o", markersize=3, linewidth=1.4)
        ax.set(xlabel="step", ylabel="sigma")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        plain(ax)
        return fig, ax

    def _pressure_map(self) -> tuple[Any, Any]:
        table = pd.DataFrame(self.tr["guidance_pressure"].float().mean(dim=(2, 3)).numpy().T)
        table.columns = [step.index for step in self.tr.steps]
        fig = show.heat(
            table, title="Guidance pressure by frame and step", key="|cond - uncond|", rows="frame", columns="step"
        )
        return fig, fig.axes[0]

    # --- export -------------------------------------------------------------------------------------------------------

    def figure(self) -> Figure:
        """The whole denoising of the chosen frame, the step on screen among its columns."""
        count, f = len(self.tr), self.frame.value
        steps = sorted({*np.linspace(0, count - 1, min(7, count)).round().astype(int).tolist(), self.step.value})
        what = self.what.value
        if what == DECODED and DECODED in self._films:
            return show.denoising(self.tr, frame=f, steps=steps, decoded=self._films[DECODED][steps][:, [f]])
        if what in (DECODED, ESTIMATE):
            return show.denoising(self.tr, frame=f, steps=steps)
        mode = {LATENTS: "colours", CHANNELS: "channels", PARTS: "pca"}[what]
        return show.latents(self.tr, frame=f, steps=steps, mode=mode)

    def film(self) -> Video:
        """The frame on screen, from step to step."""
        what = self.what.value if self.what.value != DECODED or DECODED in self._films else ESTIMATE
        return show.video(self._film(what)[:, self.frame.value], labels=[f"frame {self.frame.value}, {what}"], fps=4)

    def plan(self) -> list[dict[str, Any]]:
        rows = []
        for call, image in zip(self.tr.calls, self.tr.images, strict=True):
            row = {k: v for k, v in call["conditions"].items() if v is not None}
            rows.append({**row, "seed": call["seed"], "image": image, "label_checkpoint": call["source"]["checkpoint"]})
        return rows

    def view(self) -> dict[str, Any]:
        return {"widget": "step_through", "step": self.step.value, "frame": self.frame.value, "what": self.what.value}


def _channels(values: np.ndarray) -> np.ndarray:
    """Latents "s f c h w" as maps side by side, blue below zero and red above, on one scale for all steps."""
    limit = float(np.percentile(np.abs(values), 99.5)) or 1.0
    maps = matplotlib.colormaps["RdBu_r"](np.clip(values / limit, -1, 1) / 2 + 0.5)[..., :3]  # "s f c h w 3"
    maps = np.pad(maps, [(0, 0)] * 4 + [(0, GAP), (0, 0)], constant_values=1.0)
    s, f, c, h, w, _ = maps.shape
    return maps.transpose(0, 1, 3, 2, 4, 5).reshape(s, f, h, c * w, 3)
