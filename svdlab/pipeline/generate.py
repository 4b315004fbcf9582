"""diffusers' own loop, with conditions per sample: `ProbePipeline`, `generate`, `generate_batch`.

    >>> clip = generate(pipe, "astronaut", seed=0, motion_bucket_id=180, fps=7)
    >>> clip.frames.shape                                   # float32 "f h w c" in [0, 1]
    (8, 64, 64, 3)

Nothing of the denoising is copied: `ProbePipeline` is `StableVideoDiffusionPipeline` with a few of its small
methods overridden, which only differ from the originals while `generate` has handed them something to use.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from PIL import Image

from svdlab.errors import InputError
from svdlab.pipeline.conditions import Conditions
from svdlab.pipeline.guards import room, watch
from svdlab.pipeline.images import FLIPS, image_hash, prepare_image
from svdlab.pipeline.record import decode_latents
from svdlab.pipeline.upstream import StableVideoDiffusionPipeline

SVD_SIZE = (576, 1024)  # height, width of Stability's checkpoints, whatever unet.config.sample_size says


@dataclass(frozen=True)
class Source:
    """Where a pipeline's weights come from, and the frame size they are made for. label: what figures must say. stimuli:
    the set of pictures (`svdlab.probes.Stimuli`) that is this checkpoint's own ground. variant: of the weight files."""

    checkpoint: str = ""
    revision: str | None = None
    weights_hash: str | None = None
    height: int = SVD_SIZE[0]
    width: int = SVD_SIZE[1]
    label: str = ""
    licence: str = ""
    stimuli: str = "photographs"
    variant: str | None = None


@dataclass
class Clip:
    """Generated frames with the full call that made them.

    frames: float32 "f h w c" in [0, 1]. latents: what was decoded, "f c h w", on the CPU. conditions: with nothing
    left None that the run filled in. image: the prepared picture. seconds: wall time of denoising (its share of the
    batch) and decoding. start: what the run was started from where that was not the seed's noise at the usual levels
    ("sigmas", "flip_noise", and hashes of given "latents" or "noise"). edits: the places that `svdlab.edit` changed while
    it ran.
    """

    frames: np.ndarray
    conditions: Conditions
    seed: int
    image: Image.Image
    latents: torch.Tensor
    source: Source
    seconds: dict[str, float] = field(default_factory=dict)
    start: dict[str, Any] = field(default_factory=dict)
    edits: tuple[str, ...] = ()

    @property
    def playback_fps(self) -> float | None:
        return self.conditions.playback_fps

    @property
    def label(self) -> str:
        return self.source.label

    def call(self) -> dict[str, Any]:
        """What determines the frames, as plain JSON; "start" and "edits" are there where the run had any."""
        return _describe(self.conditions, self.seed, self.image, self.source, self.start, self.edits)


def _describe(
    conditions: Conditions, seed: int, image: Image.Image, source: Source, start: dict[str, Any], edits: Sequence[str] = ()
) -> dict[str, Any]:
    call = dict(conditions=conditions.asdict(), seed=seed, image=image_hash(image), source=asdict(source))
    return call | ({"start": start} if start else {}) | ({"edits": list(edits)} if edits else {})


def _tensor_hash(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()


@dataclass
class _Injection:
    """What one batched call carries beside the stock arguments; a value of None leaves diffusers' own."""

    conditions: list[Conditions]
    guidance: torch.Tensor | None = None  # "b f 1 1 1"
    latents: torch.Tensor | None = None  # to start from, unscaled
    image_noise: torch.Tensor | None = None  # "b 3 h w", instead of the generator's
    flips: list[str | None] = field(default_factory=list)  # how each sample's noises are turned round
    keys: list[tuple] | None = None  # what the noisy picture of each sample is determined by
    images: list[str] | None = None  # hash of each picture
    calls: list[dict[str, Any]] = field(default_factory=list)  # for traces: what makes each sample,
    pictures: list[Image.Image] = field(default_factory=list)  # and from which prepared picture
    edits: list[str] = field(default_factory=list)  # filled in by the hooks when the run begins
    conditional_only: bool = False  # whether this step spares the unconditional half
    thread: int = field(default_factory=threading.get_ident)  # whose run it is

    def unguided(self, sigma: float) -> bool:
        """Whether this noise level is outside every sample's guidance interval."""
        intervals = [c.guidance_interval for c in self.conditions]
        return all(interval and not interval[0] <= sigma <= interval[1] for interval in intervals)


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

    def __call__(self, image: Any, height: int | None = None, width: int | None = None, *args: Any, **kwargs: Any) -> Any:
        return super().__call__(image, height or self.source.height, width or self.source.width, *args, **kwargs)

    @contextmanager
    def _inject(self, injection: _Injection) -> Iterator[None]:
        outer = self.__dict__.get("_injected")
        if outer is not None and outer.thread != threading.get_ident():
            raise InputError(
                "this pipeline is at work in another thread: wait until that is over, or load one for each thread."
            )
        self._injected = injection
        try:
            with self._sparing() if self.do_classifier_free_guidance else nullcontext():
                yield
        finally:
            if outer is None:
                del self._injected
            else:
                self._injected = outer

    @contextmanager
    def _sparing(self) -> Iterator[None]:
        """Outside the guidance interval the scale is 1 and the unconditional half u cancels: u + 1 * (c - u) = c. There the
        UNet is handed the conditional half alone, and its output c stands for both."""
        own, unet = self._injected, self.unet
        if own is None or not any(c.guidance_interval for c in own.conditions):
            yield
            return

        def before(module: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
            own.conditional_only = own.unguided(float(self.scheduler.sigmas[self.scheduler.step_index]))
            if not own.conditional_only:
                return None
            names = ("encoder_hidden_states", "added_time_ids")
            return (args[0].chunk(2)[1], *args[1:]), kwargs | {name: kwargs[name].chunk(2)[1] for name in names}

        def after(module: Any, args: tuple, output: tuple) -> tuple | None:
            return (torch.cat([output[0]] * 2),) if own.conditional_only else None

        with ExitStack() as stack:
            stack.callback(unet.register_forward_pre_hook(before, with_kwargs=True).remove)
            stack.callback(unet.register_forward_hook(after).remove)
            yield

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

    def _encode_image(
        self, image: Any, device: Any, num_videos_per_prompt: int, do_classifier_free_guidance: bool
    ) -> torch.Tensor:
        stock = super()._encode_image
        own = self._injected
        if own is None or own.images is None:
            return stock(image, device, num_videos_per_prompt, do_classifier_free_guidance)
        rows = self._remembered(
            "clip",
            [(h, id(self.image_encoder), str(self.image_encoder.dtype), str(device)) for h in own.images],
            lambda missing: [stock([image[i]], device, 1, False)[0] for i in missing],
        )
        return torch.cat([torch.zeros_like(rows), rows]) if do_classifier_free_guidance else rows

    def _encode_vae_image(
        self, image: torch.Tensor, device: Any, num_videos_per_prompt: int, do_classifier_free_guidance: bool
    ) -> torch.Tensor:
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
            [(*k, id(self.vae), str(self.vae.dtype), str(device)) for k in own.keys],
            lambda missing: [stock(image[i : i + 1], device, 1, False)[0] for i in missing],
        )
        return torch.cat([torch.zeros_like(rows), rows]) if do_classifier_free_guidance else rows

    def _get_add_time_ids(
        self,
        fps: Any,
        motion_bucket_id: Any,
        noise_aug_strength: Any,
        dtype: Any,
        batch_size: int,
        num_videos_per_prompt: int,
        do_classifier_free_guidance: bool,
    ) -> torch.Tensor:
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
            latents = super().prepare_latents(*args, **kwargs)
            for row, flip in enumerate(self._injected.flips if self._injected else []):
                latents[row] = flipped(latents[row], flip)
            return latents
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
            off = [
                bool(c.guidance_interval and not c.guidance_interval[0] <= sigma <= c.guidance_interval[1])
                for c in own.conditions
            ]
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
    if filled.height % least or filled.width % least:
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
    if conditions is not None and not isinstance(conditions, Conditions):
        raise InputError(f"conditions is a {type(conditions).__name__}: give svdlab.Conditions, or its values by name.")
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
    flip_noise: Sequence[str | None] | None = None,
    decode: bool = True,
) -> list[Clip]:
    """Make several clips in one call of the pipeline; pictures, conditions and seeds may all differ.

    Frames, size, steps and whether guidance is used must agree. Clips are decoded one by one: a chunk that straddles
    two clips would mix them. latents: "b f c h w" to go on from, at the first of `sigmas`, unscaled. noise: the
    picture's "b 3 h w" and the latents' "b f c h w" unit noise, instead of the generator's. flip_noise: for each clip
    None, "left_right", "up_down" or "half_turn": the seed's two noises turned round, as the flipped picture needs them.
    decode=False leaves `frames` empty, for whoever decodes later with `decode_clip`.
    """
    if not isinstance(pipe, ProbePipeline):
        raise InputError(
            f"pipe is a {type(pipe).__name__}: use svdlab.load_pipeline, or wrap yours: ProbePipeline(**pipe.components)."
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
    levels = None if sigmas is None else _falling_to_zero(sigmas)
    if levels is not None:
        filled = [c.replace(num_inference_steps=len(levels) - 1) for c in filled]
    first = filled[0]
    frames, height, width, steps = first.num_frames, first.height, first.width, first.num_inference_steps
    assert frames and height and width  # resolved
    pictures = [prepare_image(image, height=height, width=width) for image in images]
    hashes = [image_hash(p) for p in pictures]

    flips = _flips(flip_noise, len(images), given=noise is not None)
    strengths = torch.tensor([c.noise_aug_strength for c in filled])[:, None, None, None]
    injection = _Injection(
        conditions=filled,
        guidance=torch.stack([_guidance(c, frames) for c in filled])[..., None, None, None],
        flips=flips,
        keys=[(h, c.noise_aug_strength, int(s), f) for h, c, s, f in zip(hashes, filled, seeds, flips, strict=True)],
        images=hashes,
    )
    shape = (len(images), frames, 4, height // pipe.vae_scale_factor, width // pipe.vae_scale_factor)
    _check_shapes(latents, noise, shape, (len(images), 3, height, width))
    begun: list[dict[str, Any]] = [{} if levels is None else {"sigmas": levels} for _ in images]
    if noise is not None:
        injection.image_noise, injection.keys = noise[0], None
        strengths = torch.zeros_like(strengths)
        top = pipe.scheduler.config.sigma_max if levels is None else levels[0]
        latents = noise[1] * (top**2 + 1) ** 0.5
        for i, entry in enumerate(begun):
            entry["noise"] = [_tensor_hash(noise[0][i]), _tensor_hash(noise[1][i])]
    elif latents is not None:
        for i, entry in enumerate(begun):
            entry["latents"] = _tensor_hash(latents[i])
    if any(flips):  # drawn again as the call will draw it, whose own is switched off for these clips
        injection.image_noise = torch.zeros(len(images), 3, height, width)
        for i, flip in enumerate(flips):
            if flip is not None:
                own = torch.randn((3, height, width), generator=torch.Generator().manual_seed(int(seeds[i])))
                injection.image_noise[i] = flipped(own, flip)
                strengths[i] = 0
                begun[i]["flip_noise"] = flip
    injection.latents = latents
    rows = list(zip(filled, seeds, pictures, begun, strict=True))
    injection.calls = [_describe(c, int(s), p, pipe.source, b) for c, s, p, b in rows]
    injection.pictures = pictures
    start = time.perf_counter()
    with watch(pipe, filled), pipe._inject(injection):
        out = pipe(
            pictures,
            height=height,
            width=width,
            num_frames=frames,
            num_inference_steps=steps,
            sigmas=levels,
            min_guidance_scale=1.0,
            max_guidance_scale=1.0,  # the injection's own guidance decides
            fps=1,
            motion_bucket_id=0,
            noise_aug_strength=strengths.to(pipe._execution_device),
            generator=[torch.Generator().manual_seed(int(s)) for s in seeds],
            output_type="latent",
        ).frames
    out = out.detach().cpu()
    denoising = (time.perf_counter() - start) / len(pictures)
    clips = []
    seconds, edits = {"denoising": denoising}, tuple(injection.edits)
    for z, (condition, seed, picture, entry) in zip(out, rows, strict=True):
        nothing = np.zeros(0, np.float32)
        clip = Clip(nothing, condition, int(seed), picture, z, pipe.source, dict(seconds), entry, edits)
        clips.append(decode_clip(pipe, clip) if decode else clip)
    return clips


def flipped(value: torch.Tensor, flip: str | None) -> torch.Tensor:
    """A tensor "... h w" turned round by the name of one of FLIPS; itself for None.

    >>> flipped(torch.tensor([[1, 2]]), "left_right")
    tensor([[2, 1]])
    """
    return value if flip is None else torch.flip(value, FLIPS[flip])


def _flips(flip_noise: Sequence[str | None] | None, count: int, *, given: bool) -> list[str | None]:
    flips: list[str | None] = [None] * count if flip_noise is None else list(flip_noise)
    unknown = [f for f in flips if f is not None and f not in FLIPS]
    if unknown or isinstance(flip_noise, str) or len(flips) != count:
        raise InputError(f"flip_noise={flip_noise!r}: for each of {count} clip(s), None or one of {', '.join(FLIPS)}.")
    if any(flips) and given:
        raise InputError("give noise as it is to be, or flip_noise, not both.")
    return flips


def _guidance(conditions: Conditions, frames: int) -> torch.Tensor:
    """Scale per frame "f". The line comes from torch, as in diffusers: numpy's differs in the last bit."""
    if conditions.guidance_curve == "linear":
        return torch.linspace(conditions.min_guidance_scale, conditions.max_guidance_scale, frames)
    return torch.tensor(conditions.guidance(frames), dtype=torch.float32)


def _falling_to_zero(sigmas: Sequence[float]) -> list[float]:
    try:
        levels = [float(s) for s in sigmas]
    except (TypeError, ValueError) as error:
        raise InputError(f"sigmas={sigmas!r}: give a list of noise levels, highest first.") from error
    if levels and levels[-1] != 0:
        levels.append(0.0)
    if len(levels) < 2 or any(not np.isfinite(a) or a <= b for a, b in pairwise(levels)):
        raise InputError(f"sigmas={levels}: give falling noise levels above 0, such as svdlab.schedule.karras(25).")
    return levels


def _check_shapes(
    latents: torch.Tensor | None, noise: tuple[torch.Tensor, torch.Tensor] | None, shape: tuple, image_shape: tuple
) -> None:
    if latents is not None and noise is not None:
        raise InputError("give latents to go on from, or noise to start with, not both.")
    given = [("latents", latents, shape)] if latents is not None else []
    if noise is not None:
        given = [("noise[0], for the picture,", noise[0], image_shape), ("noise[1], for the latents,", noise[1], shape)]
    for name, value, wanted in given:
        if tuple(value.shape) != wanted:
            raise InputError(f"{name} has shape {tuple(value.shape)}: for these clips it must be {wanted}.")


def decode_clip(pipe: ProbePipeline, clip: Clip) -> Clip:
    """Fill in the frames of a clip from its latents; raises BrokenClipError for NaN or black frames."""
    start = time.perf_counter()
    with room(pipe, [clip.conditions]):
        clip.frames = decode_latents(pipe, clip.latents, clip.conditions.decode_chunk_size or len(clip.latents))
    clip.seconds["decoding"] = time.perf_counter() - start
    return clip
