"""diffusers' own loop, with conditions per sample: `ProbePipeline`, `generate`, `generate_batch`.

    >>> clip = generate(pipe, "astronaut", seed=0, motion_bucket_id=180, fps=7)
    >>> clip.frames.shape                                   # float32 "f h w c" in [0, 1]
    (8, 64, 64, 3)

Nothing of the denoising is copied: `ProbePipeline` is `StableVideoDiffusionPipeline` with a few of its small
methods overridden, which only differ from the originals while `generate` has handed them something to use.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from diffusers import StableVideoDiffusionPipeline
from PIL import Image

from svdlab.conditions import Conditions
from svdlab.errors import InputError
from svdlab.images import image_hash, prepare_image
from svdlab.record import decode_latents

SVD_SIZE = (576, 1024)  # height, width of Stability's checkpoints, whatever unet.config.sample_size says


@dataclass(frozen=True)
class Source:
    """Where a pipeline's weights come from, and the frame size they are made for. label: what figures must say."""

    checkpoint: str = ""
    revision: str | None = None
    weights_hash: str | None = None
    height: int = SVD_SIZE[0]
    width: int = SVD_SIZE[1]
    label: str = ""
    licence: str = ""


@dataclass
class Clip:
    """Generated frames with the full call that made them.

    frames: float32 "f h w c" in [0, 1]. latents: what was decoded, "f c h w", on the CPU. conditions: with nothing
    left None that the run filled in. image: the prepared picture. seconds: wall time of denoising (its share of the
    batch) and decoding.
    """

    frames: np.ndarray
    conditions: Conditions
    seed: int
    image: Image.Image
    latents: torch.Tensor
    source: Source
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def playback_fps(self) -> float | None:
        return self.conditions.playback_fps

    @property
    def label(self) -> str:
        return self.source.label

    def call(self) -> dict[str, Any]:
        """What determines the frames, as plain JSON."""
        return _describe(self.conditions, self.seed, self.image, self.source)


def _describe(conditions: Conditions, seed: int, image: Image.Image, source: Source) -> dict[str, Any]:
    return dict(
        conditions=conditions.asdict(), seed=seed, image=image_hash(image), source=asdict(source)
    )


@dataclass
class _Injection:
    """What one batched call carries beside the stock arguments; a value of None leaves diffusers' own."""

    conditions: list[Conditions]
    guidance: torch.Tensor | None = None  # "b f 1 1 1"
    latents: torch.Tensor | None = None  # to start from, unscaled
    image_noise: torch.Tensor | None = None  # "b 3 h w", instead of the generator's
    keys: list[tuple] | None = None  # what the noisy picture of each sample is determined by
    images: list[str] | None = None  # hash of each picture
    calls: list[dict[str, Any]] = field(default_factory=list)


_CALLS: ContextVar[list[dict[str, Any]] | None] = ContextVar("svdlab_calls", default=None)
_IMAGES: ContextVar[list[Image.Image] | None] = ContextVar("svdlab_images", default=None)


class ProbePipeline(StableVideoDiffusionPipeline):
    """diffusers' pipeline, which also takes conditions per sample from `generate`; called directly, it is the stock one.

    >>> pipe = ProbePipeline(**stock.components)

    Its one own default: without height and width, frames have the checkpoint's own size (`pipe.source`), not
    576x1024. A pipeline serves one thread.
    """

    source: Source = Source()
    _injected: _Injection | None = None

    def __init__(self, vae: Any, image_encoder: Any, unet: Any, scheduler: Any, feature_extractor: Any) -> None:
        super().__init__(vae, image_encoder, unet, scheduler, feature_extractor)
        # Recent encodings, so that a sweep encodes each picture once: small tensors, oldest dropped first.
        self._encodings: dict[tuple, torch.Tensor] = {}

    def __call__(self, image: Any, height: int | None = None, width: int | None = None, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        return super().__call__(
            image, height or self.source.height, width or self.source.width, *args, **kwargs
        )

    @contextmanager
    def _inject(self, injection: _Injection) -> Iterator[None]:
        outer = self.__dict__.get("_injected")
        self._injected = injection
        try:
            yield
        finally:
            if outer is None:
                del self._injected
            else:
                self._injected = outer

    def _remembered(self, kind: str, keys: list[tuple], compute: Any) -> torch.Tensor:
        """Rows "b ..." by key, of which `compute(indices)` makes the missing ones in one call."""
        cache = self._encodings
        keys = [(kind, self.source.weights_hash, *key) for key in keys]
        missing = [i for n, i in enumerate(range(len(keys))) if keys[i] not in cache and keys[i] not in keys[:n]]
        if missing:
            for i, row in zip(missing, compute(missing), strict=True):
                cache[keys[i]] = row
        rows = torch.stack([cache[key] for key in keys])
        while len(cache) > 64:
            cache.pop(next(iter(cache)))
        return rows

    def _encode_image(self, image: Any, device: Any, num_videos_per_prompt: int, do_classifier_free_guidance: bool) -> torch.Tensor:
        stock = super()._encode_image
        own = self._injected
        if own is None or own.images is None:
            return stock(image, device, num_videos_per_prompt, do_classifier_free_guidance)
        rows = self._remembered(
            "clip",
            [(h, str(self.image_encoder.dtype)) for h in own.images],
            lambda missing: [stock([image[i]], device, 1, False)[0] for i in missing],
        )
        return torch.cat([torch.zeros_like(rows), rows]) if do_classifier_free_guidance else rows

    def _encode_vae_image(self, image: torch.Tensor, device: Any, num_videos_per_prompt: int, do_classifier_free_guidance: bool) -> torch.Tensor:
        stock = super()._encode_vae_image
        own = self._injected
        if own is None:
            return stock(image, device, num_videos_per_prompt, do_classifier_free_guidance)
        if own.image_noise is not None:  # the call's own noise was switched off by strength 0
            strength = torch.tensor([c.noise_aug_strength for c in own.conditions])[:, None, None, None]
            image = image + (strength * own.image_noise).to(image)
        if own.keys is None:
            return stock(image, device, num_videos_per_prompt, do_classifier_free_guidance)
        rows = self._remembered(
            "vae",
            [(*k, str(self.vae.dtype)) for k in own.keys],
            lambda missing: [stock(image[i : i + 1], device, 1, False)[0] for i in missing],
        )
        return torch.cat([torch.zeros_like(rows), rows]) if do_classifier_free_guidance else rows

    def _get_add_time_ids(self, fps: Any, motion_bucket_id: Any, noise_aug_strength: Any, dtype: Any, batch_size: int, num_videos_per_prompt: int, do_classifier_free_guidance: bool) -> torch.Tensor:
        args = (dtype, batch_size, num_videos_per_prompt, do_classifier_free_guidance)
        if self._injected is None:
            return super()._get_add_time_ids(fps, motion_bucket_id, noise_aug_strength, *args)
        first = self._injected.conditions[0]
        ids = super()._get_add_time_ids(first.fps_id, first.motion_bucket_id, first.noise_aug_strength, *args)
        rows = [[c.fps_id, c.motion_bucket_id, c.noise_aug_strength] for c in self._injected.conditions]
        own = torch.tensor(rows, dtype=dtype)
        return torch.cat([own, own]) if len(ids) == 2 * len(own) else own

    def prepare_latents(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        if self._injected is None or self._injected.latents is None:
            return super().prepare_latents(*args, **kwargs)
        # Latents to go on from are taken as they are: the stock method would scale them by init_noise_sigma,
        # and dividing by it first rounds in half precision.
        dtype, device = args[5], args[6]
        return self._injected.latents.to(device=device, dtype=dtype)

    @property
    def guidance_scale(self) -> Any:
        own = self._injected
        if own is None or own.guidance is None:
            return self._guidance_scale
        scale = own.guidance
        if self.scheduler.step_index is not None and any(c.guidance_interval for c in own.conditions):
            sigma = float(self.scheduler.sigmas[self.scheduler.step_index])
            off = [bool(c.guidance_interval and not c.guidance_interval[0] <= sigma <= c.guidance_interval[1]) for c in own.conditions]
            scale = torch.where(torch.tensor(off)[:, None, None, None, None], torch.ones_like(scale), scale)
        if isinstance(self._guidance_scale, torch.Tensor):
            scale = scale.to(self._guidance_scale)
        return scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        # Settled once for the whole run: upstream asks again at each step and breaks when guidance ends in mid-run.
        own = self._injected
        if own is None or own.guidance is None:
            return super().do_classifier_free_guidance
        return bool(own.guidance.max() > 1)


def resolve(pipe: StableVideoDiffusionPipeline, conditions: Conditions) -> Conditions:
    """Conditions with the checkpoint's own number of frames and size where they were None; raises InputError where
    the size does not suit the model's levels."""
    source = getattr(pipe, "source", Source())
    filled = conditions.replace(
        num_frames=conditions.num_frames or pipe.unet.config.num_frames,
        height=conditions.height or source.height,
        width=conditions.width or source.width,
    )
    filled = filled.replace(decode_chunk_size=filled.decode_chunk_size or filled.num_frames)
    levels = len(pipe.unet.config.block_out_channels)
    least = max(pipe.vae_scale_factor * 2 ** (levels - 1), 8)
    if filled.height % least or filled.width % least:  # type: ignore[operator]
        raise InputError(
            f"{filled.width}x{filled.height} px: both sides must be multiples of {least} "
            f"(the VAE divides by {pipe.vae_scale_factor}, the UNet's {levels} levels by {2 ** (levels - 1)})."
        )
    return filled


def generate(
    pipe: ProbePipeline,
    image: Any,
    conditions: Conditions | None = None,
    *,
    seed: int = 0,
    sigmas: Sequence[float] | None = None,
    **overrides: Any,
) -> Clip:
    """Make one clip from one picture.

    >>> clip = generate(pipe, "cat", seed=3, fps=7, motion_bucket_id=200)
    >>> clip = generate(pipe, image, PRESETS["SVD_1_1"], num_frames=8)

    image: path, sample's name, PIL picture or array; cropped to the frame's aspect. conditions: default
    `Conditions()`, changed by overrides by name. seed: for a CPU generator, so that noise is the same on every
    device. sigmas: noise levels of your own, highest first (the terminal zero is added where it is missing).
    Raises InputError before any model runs, BrokenClipError where the frames are NaN or black.
    """
    conditions = (conditions or Conditions()).replace(**overrides)
    conditions.warn_unusual(_size(pipe))
    return generate_batch(pipe, [image], [conditions], [seed], sigmas=sigmas)[0]


def _size(pipe: Any) -> tuple[int, int] | None:
    source = getattr(pipe, "source", None)
    return (source.height, source.width) if source else None


def generate_batch(
    pipe: ProbePipeline,
    images: Sequence[Any],
    conditions: Sequence[Conditions],
    seeds: Sequence[int],
    *,
    sigmas: Sequence[float] | None = None,
    latents: torch.Tensor | None = None,
    noise: tuple[torch.Tensor, torch.Tensor] | None = None,
    decode: bool = True,
) -> list[Clip]:
    """Make several clips in one call of the pipeline; pictures, conditions and seeds may all differ.

    Frames, size, steps and whether guidance is used must agree. Clips are decoded one by one: a chunk that straddles
    two clips would mix them. latents: "b f c h w" to go on from, at the first of `sigmas`, unscaled. noise: the
    picture's "b 3 h w" and the latents' "b f c h w" unit noise, instead of the generator's (mirrored noise, for
    example). decode=False leaves `frames` empty, for whoever decodes later with `decode_clip`.
    """
    if not isinstance(pipe, ProbePipeline):
        raise InputError(
            f"pipe is a {type(pipe).__name__}: load it with svdlab.load_pipeline, or wrap it: ProbePipeline(**pipe.components)."
        )
    if not len(images) == len(conditions) == len(seeds) or not images:
        raise InputError(f"{len(images)} images, {len(conditions)} conditions, {len(seeds)} seeds: give as many of each.")
    filled = [resolve(pipe, c) for c in conditions]
    shared = {(c.num_frames, c.height, c.width, c.num_inference_steps, c.guided) for c in filled}
    if len(shared) > 1:
        raise InputError("clips of one batch must agree in frames, size, steps, and in whether guidance is used.")
    for seed in seeds:
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**63:
            raise InputError(f"seed={seed!r}: must be a whole number from 0 to 2**63 - 1.")
    frames, height, width, steps, _ = shared.pop()
    pictures = [prepare_image(image, height=height, width=width) for image in images]
    hashes = [image_hash(p) for p in pictures]

    strengths = torch.tensor([c.noise_aug_strength for c in filled])[:, None, None, None]
    injection = _Injection(
        conditions=filled,
        guidance=torch.stack([torch.tensor(c.guidance(frames), dtype=torch.float32) for c in filled])[..., None, None, None],
        keys=[(h, c.noise_aug_strength, int(s)) for h, c, s in zip(hashes, filled, seeds, strict=True)],
        images=hashes,
    )
    if noise is not None:
        injection.image_noise, injection.keys = noise[0], None
        strengths = torch.zeros_like(strengths)
        levels = pipe.scheduler.config.sigma_max if sigmas is None else sigmas[0]
        latents = noise[1] * (float(levels) ** 2 + 1) ** 0.5
    injection.latents = latents
    calls = [_describe(c, int(s), p, pipe.source) for c, s, p in zip(filled, seeds, pictures, strict=True)]
    start = time.perf_counter()
    call_token, image_token = _CALLS.set(calls), _IMAGES.set(pictures)
    try:
        with pipe._inject(injection):
            out = pipe(
                pictures,
                height=height,
                width=width,
                num_frames=frames,
                num_inference_steps=steps,
                sigmas=None if sigmas is None else _with_zero(sigmas),
                min_guidance_scale=1.0,
                max_guidance_scale=1.0,  # the injection's own guidance decides
                fps=1,
                motion_bucket_id=0,
                noise_aug_strength=strengths.to(pipe._execution_device),
                generator=[torch.Generator().manual_seed(int(s)) for s in seeds],
                output_type="latent",
            ).frames
    finally:
        _CALLS.reset(call_token)
        _IMAGES.reset(image_token)
    out = out.detach().cpu()
    denoising = (time.perf_counter() - start) / len(pictures)
    clips = []
    for z, condition, seed, picture in zip(out, filled, seeds, pictures, strict=True):
        clip = Clip(np.zeros(0, np.float32), condition, int(seed), picture, z, pipe.source, {"denoising": denoising})
        clips.append(decode_clip(pipe, clip) if decode else clip)
    return clips


def _with_zero(sigmas: Sequence[float]) -> list[float]:
    levels = [float(s) for s in sigmas]
    if levels and levels[-1] != 0:
        levels.append(0.0)
    if len(levels) < 2 or any(not np.isfinite(a) or a <= b for a, b in zip(levels, levels[1:], strict=False)):
        raise InputError(f"sigmas={levels}: give falling noise levels above 0.")
    return levels


def decode_clip(pipe: ProbePipeline, clip: Clip) -> Clip:
    """Fill in the frames of a clip from its latents; raises BrokenClipError for NaN or black frames."""
    start = time.perf_counter()
    clip.frames = decode_latents(pipe, clip.latents, clip.conditions.decode_chunk_size or len(clip.latents))
    clip.seconds["decoding"] = time.perf_counter() - start
    return clip
