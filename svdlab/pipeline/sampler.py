"""SVD's denoising on one screen: `Denoising.run`. Whoever looks into it or changes it is a listener at its named places.

    >>> with listen(pipe, lambda name, value, run: print(name, run.step) or value):
    ...     clip = svdlab.generate(pipe, image)

Everything that a call changes belongs to the call: its scheduler is a copy, its step and its listeners are fields of its
`Denoising`. So one pipeline serves several threads. A context variable tells a module's hook which call it serves (`running`).
A listener hears the calls of the context, hence the thread, in which it was opened.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch

from svdlab.errors import POSITIVE, InputError, TraceError, number, takes, whole
from svdlab.pipeline.quick import one_key_attention

INPUTS = ("added_time_ids", "image_embeddings", "image_latents")
EDITABLE = ("latents", *INPUTS, "cond", "uncond", "guidance", "model_output", "denoised")
SIGMA_MIN, SIGMA_MAX, RHO = 0.002, 700.0, 7.0  # svd_xt_1_1.yaml, EDMDiscretization
# What draws no noise of its own, and what steps from x towards D as SVD defines it.
STILL = ("EulerDiscreteScheduler", "EDMEulerScheduler", "HeunDiscreteScheduler", "EDMDPMSolverMultistepScheduler")
QUIET = (*STILL, "DDIMScheduler")
VE = (*STILL, "EulerAncestralDiscreteScheduler")
WORKING = "use SVD's own EulerDiscreteScheduler, or DDIMScheduler"


@dataclass
class Step:
    """One denoising step. index counts from 0 over the whole schedule; sigma is the noise level before the step, sigma_next
    after it; seconds is wall time from the step before. values: what a trace kept, tensors "b ..." by name."""

    index: int
    sigma: float
    sigma_next: float
    timestep: float
    seconds: float = float("nan")
    values: dict[str, torch.Tensor] = field(default_factory=dict, repr=False)


@dataclass(eq=False)
class Listener:
    """A block: see `listen`. edits: what it changes, or "". open: until the block ends."""

    pipe: Any
    hear: Callable[[str, Any, Denoising], Any]
    edits: str = ""
    open: bool = True


_LISTENERS: ContextVar[tuple[Listener, ...]] = ContextVar("listeners", default=())
_RUNNING: ContextVar[Denoising | None] = ContextVar("running", default=None)


@contextmanager
def listen(pipe: Any, hear: Callable[[str, Any, Denoising], Any], *, edits: str = "") -> Iterator[Listener]:
    """Inside the block, `hear(name, value, run)` is called at every place of every step of this pipeline's calls, and returns
    the value, changed or the same. A call that outlasts the block, in a copy of its context, raises TraceError.

    names: EDITABLE, as far as they occur, then "noise_pred" (what the scheduler is given), "pred_original_sample" (its
    estimate) and "next_latents". An exception ends the call. Edits come before mere listeners, and the edit of the inner
    block before that of the outer one.
    """
    listener = Listener(pipe, hear, edits)
    _LISTENERS.set((*_LISTENERS.get(), listener))
    try:
        yield listener
    finally:
        listener.open = False  # for whoever goes on in a copy of the block's context
        _LISTENERS.set(tuple(other for other in _LISTENERS.get() if other is not listener))


def open_edits(pipe: Any) -> tuple[str, ...]:
    """What the blocks that are open in this context change in this pipeline's calls."""
    return tuple(listener.edits for listener in _LISTENERS.get() if listener.pipe is pipe and listener.edits)


def running(listener: Listener) -> Denoising | None:
    """The call that this thread is computing, where it is one that the listener hears; for hooks on modules."""
    run = _RUNNING.get()
    return run if run is not None and listener in run.listeners else None


@dataclass(eq=False)
class Denoising:
    """One call: what its denoising is made of, and where it is.

    scheduler: the call's own, its timesteps set. latents: to start from, "b f c h w", as noisy as the first step is.
    added_time_ids "b 3", image_embeddings "b 1 d", image_latents "b c h w": of the conditional half. guidance: gives the scale
    "b f 1 1 1" of a step, or None where all of it is 1; None for no guidance, without an unconditional half. first: the step
    to begin with. calls, images: what makes each sample, for traces; a call's seed also makes the scheduler's own noise, if
    it draws any. step: the one that is computed, with the number of halves in it; at_once: of these in one call of the UNet,
    turn: which call of the step that is.
    """

    pipe: Any
    scheduler: Any
    latents: torch.Tensor
    added_time_ids: torch.Tensor
    image_embeddings: torch.Tensor
    image_latents: torch.Tensor
    guidance: Callable[[Step], torch.Tensor | None] | None
    first: int = 0
    calls: list[Any] = field(default_factory=list)
    images: list[Any] = field(default_factory=list)
    halves: int = 1
    at_once: int = 1
    turn: int = 0

    def __post_init__(self) -> None:
        self.steps = steps_of(self.scheduler)
        self.step = self.steps[self.first]
        own = [listener for listener in _LISTENERS.get() if listener.pipe is self.pipe]
        self.edits = tuple(listener.edits for listener in own if listener.edits)
        self.listeners = [x for x in reversed(own) if x.edits] + [x for x in own if not x.edits]

    def at(self, name: str, value: Any) -> Any:
        """The value after all who listen; the very same tensor where nobody changed it."""
        for listener in self.listeners:
            if not listener.open:
                what = f"svdlab.edit of {listener.edits}" if listener.edits else "svdlab.trace"
                raise TraceError(f"the block of {what} ended before a call in a copy of its context: wait for that inside it.")
            value = listener.hear(name, value, self)
        return value

    @torch.no_grad()
    def run(self) -> torch.Tensor:
        """The latents after the last step."""
        pipe, scheduler, at, x, n = self.pipe, self.scheduler, self.at, self.latents, len(self.latents)
        image_latents = self.image_latents[:, None].repeat(1, x.shape[1], 1, 1, 1)
        inputs = [self.added_time_ids, self.image_embeddings, image_latents]
        if self.guidance is not None:  # the unconditional half comes first: the same numbers, no image
            inputs = [torch.cat([y if y is self.added_time_ids else torch.zeros_like(y), y]) for y in inputs]
        token = _RUNNING.set(self)
        try:
            with pipe.progress_bar(total=len(self.steps) - self.first) as bar, one_key_attention(pipe.unet):
                for step in self.steps[self.first :]:
                    self.step, t = step, scheduler.timesteps[step.index]
                    scale = self.guidance(step) if self.guidance else None
                    self.halves = 1 if scale is None else 2
                    x = at("latents", x)
                    ids, embeddings, images = (at(k, y[-self.halves * n :]) for k, y in zip(INPUTS, inputs, strict=True))
                    noisy = scheduler.scale_model_input(torch.cat([x] * self.halves), t)
                    v = self._unet(t, torch.cat([noisy, images], dim=2), embeddings, ids)
                    if scale is None:
                        v = at("cond", v)
                    else:
                        uncond, cond = v.chunk(2)
                        uncond, cond = at("uncond", uncond), at("cond", cond)
                        v = uncond + at("guidance", scale) * (cond - uncond)
                    v = self._towards_edited(x, at("model_output", v), step)
                    out = self._scheduler_step(v := at("noise_pred", v), t, x)
                    estimate = getattr(out, "pred_original_sample", None)
                    if estimate is None and type(scheduler).__name__ in VE:  # DPM-Solver keeps its own
                        estimate = v_to_denoised(x.float(), v.float(), step.sigma)
                    at("pred_original_sample", estimate)
                    x = at("next_latents", out.prev_sample)
                    bar.update()
        finally:
            _RUNNING.reset(token)
        return x

    def _unet(self, t: torch.Tensor, *inputs: torch.Tensor) -> torch.Tensor:
        """All halves in one call; in small memory one after the other, but for edits of modules, which are given both."""
        together = self.pipe.memory != "small" or any(edit.startswith("modules ") for edit in self.edits)
        outputs, parts = [], [inputs] if together else zip(*(y.chunk(self.halves) for y in inputs), strict=True)
        for self.turn, (sample, embeddings, ids) in enumerate(parts):
            given = dict(encoder_hidden_states=embeddings, added_time_ids=ids, return_dict=False)
            self.at_once = len(sample) // len(self.latents)
            try:
                outputs.append(self.pipe.unet(sample, t, **given)[0])
            except RuntimeError as error:
                if sample.dtype == self.pipe.unet.dtype or "type" not in str(error):
                    raise
                dtypes = f"the UNet is in {self.pipe.unet.dtype}, what it is given is in {sample.dtype}"
                raise InputError(f"{dtypes}: pipe.to(dtype) gives all parts one. ({error})") from error
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def _towards_edited(self, x: torch.Tensor, v: torch.Tensor, step: Step) -> torch.Tensor:
        """The model output that leads to the edited denoised estimate."""
        if "denoised" not in self.edits:
            return v
        kind = type(self.scheduler).__name__
        if kind not in VE or self.scheduler.config.prediction_type != "v_prediction":
            raise TraceError(f"denoised can be edited for v-prediction and {' or '.join(VE)}: edit model_output.")
        denoised = v_to_denoised(x.float(), v.float(), step.sigma)
        new = self.at("denoised", denoised)
        return v if new is denoised else denoised_to_v(x.float(), new, step.sigma).to(v)

    def _scheduler_step(self, v: torch.Tensor, t: torch.Tensor, x: torch.Tensor) -> Any:
        """The scheduler's own noise, if it draws any, is determined by each sample's seed and the step."""
        noise: dict[str, Any] = {}
        if self.calls and "generator" in inspect.signature(self.scheduler.step).parameters:
            digests = [hashlib.sha256(f"{call.seed} {self.step.index}".encode()).digest() for call in self.calls]
            noise["generator"] = [torch.Generator().manual_seed(int.from_bytes(d[:7], "big")) for d in digests]
        drawn = torch.get_rng_state()
        try:
            out = self.scheduler.step(v, t, x, **noise)
        except (IndexError, AssertionError, AttributeError, NotImplementedError, TypeError, ValueError) as error:
            raise InputError(f"{type(self.scheduler).__name__} fails on SVD's schedule ({error!r}): {WORKING}.") from error
        if not torch.equal(drawn, torch.get_rng_state()):
            raise InputError(f"{type(self.scheduler).__name__} draws noise of its own, which no seed determines: {WORKING}.")
        return out


def steps_of(scheduler: Any) -> list[Step]:
    """Every step that the scheduler has set, as plain numbers, read once. Without noise levels of its own, as in DDIM, they
    are those of its training schedule, sqrt((1 - a) / a)."""
    times = scheduler.timesteps.tolist()
    if getattr(scheduler, "sigmas", None) is not None:
        sigmas = scheduler.sigmas.tolist()
    else:
        a = scheduler.alphas_cumprod[scheduler.timesteps.long().cpu()].double()
        sigmas = [*((1 - a) / a).sqrt().tolist(), 0.0]
    return [Step(i, sigmas[i], sigmas[i + 1], float(t)) for i, t in enumerate(times)]


@takes(n=partial(whole, least=1, most=10_000), rho=partial(number, least=0.1, most=100))
@takes(sigma_min=POSITIVE, sigma_max=POSITIVE)
def karras(n: int, sigma_min: float = SIGMA_MIN, sigma_max: float = SIGMA_MAX, rho: float = RHO) -> np.ndarray:
    """n noise levels from sigma_max down to sigma_min, and the terminal zero: n + 1 values (Karras et al. 2022, equation 5).

    >>> karras(25)[[0, -1]].round(6).tolist()
    [700.0, 0.0]

    Raises InputError for an n below 1, and unless 0 < sigma_min <= sigma_max.
    """
    if sigma_min > sigma_max:
        raise InputError(f"sigma_min={sigma_min}, sigma_max={sigma_max}: need sigma_min <= sigma_max.")
    ramp = np.linspace(0, 1, n)
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return np.append((high + ramp * (low - high)) ** rho, 0.0)


def v_to_denoised(x: Any, v: Any, sigma: Any) -> Any:
    """The denoised estimate D = c_skip x + c_out v of noisy x = x0 + sigma n: SVD's c_skip = 1 / (s^2 + 1), c_out = -s /
    sqrt(s^2 + 1) (Stability's VScalingWithEDMcNoise)."""
    return x / (sigma**2 + 1) - v * (sigma / (sigma**2 + 1) ** 0.5)


def denoised_to_v(x: Any, denoised: Any, sigma: Any) -> Any:
    """The model output that leads from x to this estimate: the inverse of `v_to_denoised`."""
    return (x / (sigma**2 + 1) - denoised) * ((sigma**2 + 1) ** 0.5 / sigma)
