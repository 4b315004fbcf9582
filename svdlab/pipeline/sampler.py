"""SVD's denoising on one screen: `Denoising.run`. Whoever looks into it or changes it is a listener at its named places.

    >>> with listen(pipe, lambda name, value, run: print(name, run.step) or value):
    ...     clip = svdlab.generate(pipe, image)

Everything that a call changes belongs to the call: its scheduler is a copy, its step and its listeners are fields of its
`Denoising`. So one pipeline serves several threads. A context variable tells a module's hook which call it serves (`running`).
A listener hears the calls of the context, hence the thread, in which it was opened.

`ProbePipeline` is diffusers' pipeline on this sampler.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from diffusers import StableVideoDiffusionPipeline
from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import (
    StableVideoDiffusionPipelineOutput,
    retrieve_timesteps,
)
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from torch.nn.functional import conv2d

from svdlab.errors import InputError, TraceError, whole
from svdlab.pipeline.conditions import Source
from svdlab.pipeline.images import encode_pixels, vae_in_turn

INPUTS = ("added_time_ids", "image_embeddings", "image_latents")
EDITABLE = ("latents", *INPUTS, "cond", "uncond", "guidance", "model_output", "denoised")
SIGMA_MIN, SIGMA_MAX, RHO = 0.002, 700.0, 7.0  # svd_xt_1_1.yaml, EDMDiscretization
QUIET = ("EulerDiscreteScheduler", "DDIMScheduler")  # draw no noise of their own
WORKING = "use SVD's own EulerDiscreteScheduler, or DDIMScheduler"
VE = ("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler")  # whose step is taken from x towards D as SVD defines it


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
    """An open block: see `listen`. edits: what it changes, or ""."""

    pipe: Any
    hear: Callable[[str, Any, Denoising], Any]
    edits: str = ""


_LISTENERS: ContextVar[tuple[Listener, ...]] = ContextVar("listeners", default=())
_RUNNING: ContextVar[Denoising | None] = ContextVar("running", default=None)


@contextmanager
def listen(pipe: Any, hear: Callable[[str, Any, Denoising], Any], *, edits: str = "") -> Iterator[Listener]:
    """Inside the block, `hear(name, value, run)` is called at every place of every step of this pipeline's calls, and returns
    the value, changed or the same.

    names: EDITABLE, as far as they occur, then "noise_pred" (what the scheduler is given), "pred_original_sample" (its
    estimate) and "next_latents". An exception ends the call. Edits come before mere listeners, and the edit of the inner
    block before that of the outer one.
    """
    listener = Listener(pipe, hear, edits)
    _LISTENERS.set((*_LISTENERS.get(), listener))
    try:
        yield listener
    finally:
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
    it draws any. step: the one that is computed, with the number of halves that the UNet computes in it.
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

    def __post_init__(self) -> None:
        self.steps = steps_of(self.scheduler)
        self.step = self.steps[self.first]
        own = [listener for listener in _LISTENERS.get() if listener.pipe is self.pipe]
        self.edits = tuple(listener.edits for listener in own if listener.edits)
        self.listeners = [x for x in reversed(own) if x.edits] + [x for x in own if not x.edits]

    def at(self, name: str, value: Any) -> Any:
        """The value after all who listen; the very same tensor where nobody changed it."""
        for listener in self.listeners:
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
            with pipe.progress_bar(total=len(self.steps) - self.first) as bar:
                for step in self.steps[self.first :]:
                    self.step, t = step, scheduler.timesteps[step.index]
                    scale = self.guidance(step) if self.guidance else None
                    self.halves = 1 if scale is None else 2
                    x = at("latents", x)
                    ids, embeddings, images = (at(k, y[-self.halves * n :]) for k, y in zip(INPUTS, inputs, strict=True))
                    noisy = scheduler.scale_model_input(torch.cat([x] * self.halves), t)
                    given = dict(encoder_hidden_states=embeddings, added_time_ids=ids, return_dict=False)
                    v = pipe.unet(torch.cat([noisy, images], dim=2), t, **given)[0]
                    if scale is None:
                        v = at("cond", v)
                    else:
                        uncond, cond = v.chunk(2)
                        uncond, cond = at("uncond", uncond), at("cond", cond)
                        v = uncond + at("guidance", scale) * (cond - uncond)
                    v = self._towards_edited(x, at("model_output", v), step)
                    out = self._scheduler_step(at("noise_pred", v), t, x)
                    at("pred_original_sample", getattr(out, "pred_original_sample", None))
                    x = at("next_latents", out.prev_sample)
                    bar.update()
        finally:
            _RUNNING.reset(token)
        return x

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
        try:
            return self.scheduler.step(v, t, x, **noise)
        except (IndexError, AssertionError, AttributeError, NotImplementedError, TypeError, ValueError) as error:
            raise InputError(f"{type(self.scheduler).__name__} fails on SVD's schedule ({error!r}): {WORKING}.") from error


class ProbePipeline(StableVideoDiffusionPipeline):
    """diffusers' pipeline on svdlab's sampler: the same call with the same results, which `trace` and `edit` can look into.

    >>> pipe = ProbePipeline.from_pipe(pipe)                   # on the same weights

    Its one own default: without height and width, frames have the checkpoint's own size (`pipe.source`), not 576x1024. One
    pipeline serves several threads.
    """

    source: Source = Source()

    @classmethod
    def from_pipe(cls, pipeline: Any, **kwargs: Any) -> ProbePipeline:
        """On another pipeline's parts, in the dtype that they have (diffusers would cast them to float32)."""
        pipe = super().from_pipe(pipeline, **{"torch_dtype": pipeline.unet.dtype, **kwargs})
        pipe.source = getattr(pipeline, "source", cls.source)
        return pipe

    @torch.no_grad()
    def __call__(
        self,
        image: Any,
        height: int | None = None,
        width: int | None = None,
        num_frames: int | None = None,
        num_inference_steps: int = 25,
        sigmas: list[float] | None = None,
        min_guidance_scale: float = 1.0,
        max_guidance_scale: float = 3.0,
        fps: int = 7,
        motion_bucket_id: int = 127,
        noise_aug_strength: float = 0.02,
        decode_chunk_size: int | None = None,
        num_videos_per_prompt: int | None = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        output_type: str | None = "pil",
        callback_on_step_end: Callable[..., dict[str, Any]] | None = None,
        callback_on_step_end_tensor_inputs: list[str] = ["latents"],  # noqa: B006 - diffusers' own
        return_dict: bool = True,
    ) -> Any:
        """As diffusers documents it for `StableVideoDiffusionPipeline`."""
        height, width = height or self.source.height, width or self.source.width
        num_frames = num_frames if num_frames is not None else self.unet.config.num_frames
        self.check_inputs(image, height, width)
        device, each = self._execution_device, num_videos_per_prompt or 1
        batch = 1 if isinstance(image, Image.Image) else len(image)
        n, side = batch * each, self.vae_scale_factor
        if isinstance(generator, list) and len(generator) != n:
            raise ValueError(f"{len(generator)} generators for {n} videos: give one for each, or a single one.")
        embeddings = self._encode_image(image, device, each, False)
        pixels = self.video_processor.preprocess(image, height=height, width=width).to(device)
        pixels = pixels + noise_aug_strength * randn_tensor(pixels.shape, generator, device, pixels.dtype)
        picture = encode_pixels(self, pixels, each).to(embeddings.dtype)
        ids = self._get_add_time_ids(fps - 1, motion_bucket_id, noise_aug_strength, embeddings.dtype, batch, each, False)
        scheduler = copy.deepcopy(self.scheduler)
        retrieve_timesteps(scheduler, num_inference_steps, device, None, sigmas)
        if latents is None:
            shape = (n, num_frames, self.unet.config.in_channels // 2, height // side, width // side)
            latents = randn_tensor(shape, generator, device, embeddings.dtype)
        latents = latents.to(device) * scheduler.init_noise_sigma
        scale = torch.linspace(min_guidance_scale, max_guidance_scale, num_frames).to(device, latents.dtype)
        scale = scale[None, :, None, None, None].repeat(n, 1, 1, 1, 1)
        self._guidance_scale, self._num_timesteps = scale, len(scheduler.timesteps)
        guidance = lambda step: self._guidance_scale if callback_on_step_end else scale  # which a callback may change
        run = Denoising(self, scheduler, latents, ids.to(device), embeddings, picture, guidance if scale.max() > 1 else None)
        seen: dict[str, Any] = {}

        def hear(name: str, value: Any, run: Denoising) -> Any:
            """The callback acts as the last listener, and is given what passed through the step."""
            seen[name] = value
            if name != "next_latents" or callback_on_step_end is None:
                return value
            seen.update(latents=value, guidance_scale=seen.get("guidance"))
            wanted, i = {name: seen[name] for name in callback_on_step_end_tensor_inputs}, run.step.index
            return callback_on_step_end(self, i, scheduler.timesteps[i], wanted).pop("latents", value)

        if callback_on_step_end is not None:
            run.listeners.append(Listener(self, hear))
        frames = run.run()
        if output_type != "latent":
            with vae_in_turn(self):
                frames = self.decode_latents(frames, num_frames, decode_chunk_size or num_frames)
            frames = self.video_processor.postprocess_video(video=frames, output_type=output_type)
        self.maybe_free_model_hooks()
        return StableVideoDiffusionPipelineOutput(frames=frames) if return_dict else frames


@contextmanager
def quick_convolutions(pipe: Any) -> Iterator[None]:
    """Inside the block, convolutions over time are as fast on one CPU thread as on several, and agree to rounding (1e-5).

    >>> with quick_convolutions(pipe):
    ...     clip = svdlab.generate(pipe, image, num_inference_steps=2)

    SVD's temporal layers are Conv3d with a kernel of 3x1x1. With one thread torch does not hand them to oneDNN and takes a
    routine of half the speed (torch 2.13, `use_mkldnn` in ATen/native/Convolution.cpp). The same sum is a Conv2d of 3x1 over
    (frames, sites). Modules with hooks or a forward of their own, and compiled parts, stay as they are. One block around all
    threads that use the pipeline.
    """

    def in_two_dimensions(module: torch.nn.Conv3d, plain: Callable) -> Callable:
        def forward(x: torch.Tensor) -> torch.Tensor:
            if torch.get_num_threads() > 1:
                return plain(x)
            y = conv2d(x.flatten(3), module.weight[..., 0], module.bias, padding=(int(module.padding[0]), 0))
            return y.unflatten(-1, x.shape[3:])

        return forward

    parts = [part for part in (pipe.unet, pipe.vae) if not hasattr(part, "_orig_mod")]
    with ExitStack() as stack:
        for module in (m for part in parts for m in part.modules() if type(m) is torch.nn.Conv3d):
            over_time = module.kernel_size == (3, 1, 1) and module.padding == (1, 0, 0) and module.stride == (1, 1, 1)
            touched = "forward" in vars(module) or module._forward_hooks or module._forward_pre_hooks
            if over_time and not touched and module.weight.device.type == "cpu":
                module.forward = in_two_dimensions(module, module.forward)  # type: ignore[method-assign]
                stack.callback(vars(module).pop, "forward", None)
        yield


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


def karras(n: int, sigma_min: float = SIGMA_MIN, sigma_max: float = SIGMA_MAX, rho: float = RHO) -> np.ndarray:
    """n noise levels from sigma_max down to sigma_min, and the terminal zero: n + 1 values (Karras et al. 2022, equation 5).

    >>> karras(25)[[0, -1]].round(6).tolist()
    [700.0, 0.0]

    Raises InputError for an n below 1, and unless 0 < sigma_min <= sigma_max.
    """
    if not 0 < sigma_min <= sigma_max:
        raise InputError(f"sigma_min={sigma_min}, sigma_max={sigma_max}: need 0 < sigma_min <= sigma_max.")
    ramp = np.linspace(0, 1, whole("n", n, least=1))
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return np.append((high + ramp * (low - high)) ** rho, 0.0)


def v_to_denoised(x: Any, v: Any, sigma: Any) -> Any:
    """The denoised estimate D = c_skip x + c_out v of noisy x = x0 + sigma n: SVD's c_skip = 1 / (s^2 + 1), c_out = -s /
    sqrt(s^2 + 1) (Stability's VScalingWithEDMcNoise)."""
    return x / (sigma**2 + 1) - v * (sigma / (sigma**2 + 1) ** 0.5)


def denoised_to_v(x: Any, denoised: Any, sigma: Any) -> Any:
    """The model output that leads from x to this estimate: the inverse of `v_to_denoised`."""
    return (x / (sigma**2 + 1) - denoised) * ((sigma**2 + 1) ** 0.5 / sigma)
