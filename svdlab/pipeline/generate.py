"""Clips: `generate`, `generate_batch` with conditions per sample, the record of what made a clip, and decode and encode.

>>> clip = generate(pipe, "scene-27", seed=0, motion_bucket_id=180, fps=7, num_inference_steps=4)
>>> clip.frames.shape, clip.call.conditions.fps_id              # float32 "f h w c" in [0, 1]
((8, 64, 64, 3), 6)
"""

from __future__ import annotations

import copy
import hashlib
import html
import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import retrieve_timesteps
from PIL import Image

from svdlab.errors import BrokenClipError, InputError
from svdlab.measure import video
from svdlab.measure.files import plain
from svdlab.pipeline.conditions import Conditions, UnusualConditionWarning
from svdlab.pipeline.images import FLIPS, image_hash, prepare_image
from svdlab.pipeline.pipeline import ProbePipeline, Source, resolve
from svdlab.pipeline.sampler import SIGMA_MAX, VE, WORKING, Denoising, Step, steps_of
from svdlab.pipeline.vae import decode_latents, encode, room, vae_in_float32

__all__ = [
    "Call",
    "Clip",
    "ProbePipeline",
    "Source",
    "decode_clip",
    "decode_latents",
    "encode",
    "flipped",
    "generate",
    "generate_batch",
    "resolve",
]

REFUSED = {
    "generator": "the noise comes from seed=, or give noise= or latents=",
    "callback_on_step_end": "use svdlab.trace to look into the steps, svdlab.edit to change them",
    "num_videos_per_prompt": "call it once for each seed=, or use svdlab.sweep",
    "output_type": "clip.frames are floats in [0, 1], clip.latents what was decoded",
}


# --- what made a clip -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    """All that determines a clip, one record for clips, traces, run.json and file tags.

    conditions: nothing left None that the call filled in. image: hash of the prepared image. start: how the call began, where
    that was not the seed's noise at the schedule's first level: "sigmas", "flip_noise", "step", hashes of given "latents" or
    "noise". edits: the places that `svdlab.edit` changed. intervention: the name that a sweep was given for them.
    """

    conditions: Conditions
    seed: int
    image: str
    source: Source = field(default_factory=Source)
    start: dict[str, Any] = field(default_factory=dict)
    edits: tuple[str, ...] = ()
    intervention: str | None = None

    def asdict(self) -> dict[str, Any]:
        """Plain JSON, which `Call.read` takes back."""
        return plain(asdict(self))

    @classmethod
    def read(cls, record: dict[str, Any]) -> Call:
        more = {name: record[name] for name in ("start", "intervention") if record.get(name)}
        made = Conditions(**record["conditions"]), int(record["seed"]), record["image"], Source(**record["source"])
        return cls(*made, edits=tuple(record.get("edits") or ()), **more)


@dataclass(repr=False)
class Clip:
    """A generated video with all that made it; shows itself in a notebook.

    frames: float32 "f h w c" in [0, 1]. latents: what was decoded, "f c h w", on the CPU. image: the prepared image.
    seconds: wall time of denoising (its share of the batch) and decoding.
    """

    frames: np.ndarray
    call: Call
    image: Image.Image
    latents: torch.Tensor
    seconds: dict[str, float] = field(default_factory=dict)

    conditions = property(lambda self: self.call.conditions)
    seed = property(lambda self: self.call.seed)
    source = property(lambda self: self.call.source)
    label = property(lambda self: self.call.source.label)
    playback_fps = property(lambda self: self.call.conditions.playback_fps)

    def __repr__(self) -> str:
        c = self.conditions
        guided = f"guidance {c.min_guidance_scale:g} to {c.max_guidance_scale:g}"
        made = f"fps {c.fps}, bucket {c.motion_bucket_id}, noise {c.noise_aug_strength:g}, {guided}, seed {self.seed}"
        return f"Clip({c.num_frames} frames of {c.width}x{c.height}, {made}{', ' * bool(self.label)}{self.label})"

    def _repr_html_(self) -> str:
        import mediapy

        words = html.escape(repr(self))
        if not len(self.frames):
            return words
        stride = max(1, self.frames.shape[2] // 384)
        small = video.as_bytes(self.frames[:, ::stride, ::stride])
        height, width = small.shape[1:3]
        return f"{mediapy.html_from_compressed_video(video.h264(small, self.playback_fps), width, height)}<br>{words}"

    def save(self, path: str | Path) -> Path:
        """Write an MP4 (H.264) that says what made it. Raises InputError for another suffix, OutputError by the disk."""
        path = Path(path).expanduser()
        if path.suffix.lower() != ".mp4":
            raise InputError(f"{path}: a clip is saved as .mp4 (its frames bit for bit: svdlab.measure.video.write_frames).")
        video.write_preview(path, self.frames, playback_fps=self.playback_fps, facts=video.describe(self.call.asdict()))
        return path


# --- generate ---------------------------------------------------------------------------------------------------------


def generate(
    pipe: ProbePipeline,
    image: Any,
    conditions: Conditions | None = None,
    *,
    seed: int = 0,
    sigmas: Sequence[float] | None = None,
    latents: torch.Tensor | None = None,
    noise: Any = None,
    **overrides: Any,
) -> Clip:
    """Make one clip from one image.

    >>> clip = generate(pipe, "scene-27", seed=3, fps=7, motion_bucket_id=200, num_inference_steps=4)
    >>> clip = generate(pipe, image, PRESETS["SVD_1_1"], num_frames=8, num_inference_steps=4)

    image: path, sample's name, PIL image or array; cropped to the frame's aspect. conditions: default `Conditions()`, changed
    by overrides by name. seed: of all noise, drawn on the CPU, so that it is the same on every device. sigmas: noise levels
    of your own, highest first (the terminal zero is added where it is missing). latents: "f c h w", to start from as they
    are, as noisy as the first level. noise: unit noise "f c h w" to start from instead of the seed's, or the pair of the
    image's, "3 h w", and that. Raises InputError before any model runs, BrokenClipError for NaN or black frames.
    """
    if conditions is not None and not isinstance(conditions, Conditions):
        raise InputError(f"conditions is a {type(conditions).__name__}: give svdlab.Conditions, or its values by name.")
    for name in REFUSED.keys() & overrides.keys():
        raise InputError(f"generate takes no {name}=: {REFUSED[name]}.")
    conditions = (conditions or Conditions()).replace(**overrides)
    source = getattr(pipe, "source", None)
    conditions.warn_unusual((source.height, source.width) if source else None)
    if latents is not None and latents.ndim == 4:
        latents = latents[None]
    if noise is not None:
        pair = (None, noise) if isinstance(noise, torch.Tensor) else noise
        noise = tuple(z[None] if z is not None and z.ndim == n else z for z, n in zip(pair, (3, 4), strict=True))
    return generate_batch(pipe, [image], [conditions], [seed], sigmas=sigmas, latents=latents, noise=noise)[0]


@torch.no_grad()
def generate_batch(
    pipe: ProbePipeline,
    images: Sequence[Any],
    conditions: Sequence[Conditions],
    seeds: Sequence[int],
    *,
    sigmas: Sequence[float] | None = None,
    latents: torch.Tensor | None = None,
    noise: tuple[torch.Tensor | None, torch.Tensor] | None = None,
    flip_noise: Sequence[str | None] | None = None,
    first: int = 0,
    encodings: dict[Any, torch.Tensor] | None = None,
    decode: bool = True,
) -> list[Clip]:
    """Make several clips in one call of the UNet per step; images, conditions and seeds may all differ.

    Frames, size, steps and whether guidance is used must agree. Clips are decoded one by one: a chunk that straddles two
    clips would mix them. sigmas, latents, noise: as for `generate`, with a first dimension b. flip_noise: for each clip None,
    "left_right", "up_down" or "half_turn": the seed's two noises turned round, as the flipped image needs them. first: the
    step that latents belong to. encodings: a dict of your own that keeps what was encoded from call to call, while the
    pipeline's parts stay as they are. decode=False leaves `frames` empty, for whoever decodes later with `decode_clip`.
    """
    filled, levels, flips = _checked(pipe, images, conditions, seeds, sigmas, flip_noise)
    c, side = filled[0], pipe.vae_scale_factor
    assert c.num_frames and c.height and c.width  # resolved
    shape = (c.num_frames, pipe.unet.config.in_channels // 2, c.height // side, c.width // side)
    noises = _checked_start(len(images), shape, (3, c.height, c.width), latents, noise, any(flips))
    prepared = [prepare_image(image, height=c.height, width=c.width) for image in images]
    begun = time.perf_counter()
    with room(pipe, filled):
        scheduler = _scheduler(pipe, c.num_inference_steps, levels)
        calls = [
            Call(c, int(seed), image_hash(image), pipe.source, {"sigmas": levels} if levels else {})
            for c, seed, image in zip(filled, seeds, prepared, strict=True)
        ]
        cache = {} if encodings is None else encodings
        parts = [_sample(pipe, *row, shape, cache) for row in zip(calls, prepared, flips, noises, strict=True)]
        embeddings, pictures, ids, z = (torch.cat(column) for column in zip(*parts, strict=True))
        if latents is None:
            z = (z * scheduler.init_noise_sigma).to(embeddings.dtype)
        else:
            z = latents.to(embeddings)
            for call, own in zip(calls, latents, strict=True):
                call.start.update({"latents": _tensor_hash(own)} | ({"step": first} if first else {}))
        pictures = pictures.to(embeddings.dtype)[:, None].repeat(1, c.num_frames, 1, 1, 1)
        run = Denoising(pipe, scheduler, z, ids, embeddings, pictures, _guidance(filled, z))
        run.seeds, run.first, run.images = [call.seed for call in calls], first, prepared
        run.calls = [replace(call, edits=run.edits) for call in calls]
        out = run.run().cpu()
        pipe.maybe_free_model_hooks()
    _check_finite(pipe, run)
    seconds = (time.perf_counter() - begun) / len(images)
    rows = zip(run.calls, prepared, out, strict=True)
    clips = [Clip(np.zeros(0, np.float32), call, image, z, {"denoising": seconds}) for call, image, z in rows]
    return [decode_clip(pipe, clip) for clip in clips] if decode else clips


def _sample(
    pipe: ProbePipeline, call: Call, image: Image.Image, flip: str | None, noise: tuple, shape: tuple, cache: dict
) -> tuple[torch.Tensor, ...]:
    """One sample's image embedding, image latents, added_time_ids, and unit noise to start from; its start is noted.

    The image's noise is drawn first, whatever its strength, and then the latents', both on the CPU.
    """
    c, device = call.conditions, pipe._execution_device
    key: tuple = ("clip", call.image, str(device))
    if key not in cache:
        _put(cache, key, pipe._encode_image([image], device, 1, False))
    embedding = cache[key]
    generator = torch.Generator().manual_seed(call.seed)
    own = flipped(torch.randn((1, 3, image.height, image.width), generator=generator), flip)
    z = flipped(torch.randn((1, *shape), generator=generator, dtype=embedding.dtype), flip)
    if flip:
        call.start["flip_noise"] = flip
    given = {name: value for name, value in zip(("image", "latents"), noise, strict=True) if value is not None}
    if given:
        own, z = given.get("image", own), given.get("latents", z)
        call.start["noise"] = {name: _tensor_hash(value) for name, value in given.items()}
    key = ("vae", call.image, c.noise_aug_strength, call.seed, flip, str(call.start.get("noise")), str(device))
    if key not in cache:
        pixels = pipe.video_processor.preprocess(image, height=image.height, width=image.width).to(device)
        pixels = pixels + c.noise_aug_strength * own.to(pixels)
        with vae_in_float32(pipe):
            _put(cache, key, pipe._encode_vae_image(pixels, device, 1, False))
    ids = pipe._get_add_time_ids(c.fps_id, c.motion_bucket_id, c.noise_aug_strength, embedding.dtype, 1, 1, False)
    return embedding, cache[key], ids.to(device), z.to(device)


def _put(cache: dict, key: Any, value: torch.Tensor) -> None:
    while len(cache) >= 256:  # of a sweep: oldest first
        cache.pop(next(iter(cache)))
    cache[key] = value


def flipped(value: torch.Tensor, flip: str | None) -> torch.Tensor:
    """A tensor "... h w" turned round by the name of one of FLIPS; itself for None.

    >>> flipped(torch.tensor([[1, 2]]), "left_right")
    tensor([[2, 1]])
    """
    return value if flip is None else torch.flip(value, FLIPS[flip])


def _tensor_hash(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()


def _guidance(conditions: Sequence[Conditions], z: torch.Tensor) -> Callable[[Step], torch.Tensor | None] | None:
    """Scale "b f 1 1 1" of a step; outside a clip's guidance interval it is 1, where it is 1 for all None is given instead:
    u + 1 * (c - u) = c needs no unconditional half u."""
    f = z.shape[1]
    rows = [
        # The line comes from torch, as in diffusers: numpy's differs in the last bit.
        torch.linspace(c.min_guidance_scale, c.max_guidance_scale, f)
        if c.guidance_curve == "linear"
        else torch.tensor(c.guidance(f), dtype=torch.float32)
        for c in conditions
    ]
    scale = torch.stack(rows)[..., None, None, None]
    if scale.max() <= 1:
        return None

    def at(step: Step) -> torch.Tensor | None:
        intervals = [c.guidance_interval for c in conditions]
        off = torch.tensor([bool(i and not i[0] <= step.sigma <= i[1]) for i in intervals])
        return None if off.all() else torch.where(off[:, None, None, None, None], 1.0, scale).to(z)

    return at


def _scheduler(pipe: ProbePipeline, steps: int, levels: list[float] | None) -> Any:
    """A copy of the pipeline's scheduler with its timesteps set. What is not the checkpoint's own schedule is announced."""
    scheduler, kind = copy.deepcopy(pipe.scheduler), type(pipe.scheduler).__name__
    try:
        retrieve_timesteps(scheduler, None if levels else steps, pipe._execution_device, None, levels)
        found = steps_of(scheduler)
    except Exception as error:
        raise InputError(f"{kind} cannot make this schedule ({error}): {WORKING}.") from error
    top, told = found[0].sigma, found[0].timestep
    wanted = levels[0] if levels else float(scheduler.config.get("sigma_max") or SIGMA_MAX)
    odd = [f"it starts at sigma {top:.4g} instead of {wanted:.4g}"] if abs(top / wanted - 1) > 0.01 else []
    if abs(told - math.log(top) / 4) > 0.01:
        odd.append(
            f"it gives the UNet timestep {told:.4g} for it, where SVD was trained on ln(sigma) / 4 = {math.log(top) / 4:.4g}"
        )
    if odd:
        text = f"{kind} does not make the checkpoint's schedule: {'; '.join(odd)}. Results may suffer."
        warnings.warn(text, UnusualConditionWarning, stacklevel=4)
    return scheduler


def _checked(
    pipe: Any, images: Sequence, conditions: Sequence, seeds: Sequence, sigmas: Any, flip_noise: Any
) -> tuple[list[Conditions], list[float] | None, list[str | None]]:
    """Conditions filled in, falling noise levels, flips; InputError before any model runs."""
    if not isinstance(pipe, ProbePipeline):
        raise InputError(
            f"pipe is a {type(pipe).__name__}: load it with svdlab.load_pipeline, or ProbePipeline.from_pipe(pipe)."
        )
    n = len(images)
    if not n == len(conditions) == len(seeds) or not n:
        raise InputError(f"{n} images, {len(conditions)} conditions, {len(seeds)} seeds: give as many of each.")
    filled = [resolve(pipe, c) for c in conditions]
    if len({(c.num_frames, c.height, c.width, c.num_inference_steps, c.guided) for c in filled}) > 1:
        raise InputError("clips of one batch must agree in frames, size, steps, and in whether guidance is used.")
    for seed in seeds:
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**63:
            raise InputError(f"seed={seed!r}: must be a whole number from 0 to 2**63 - 1.")
    levels = None if sigmas is None else _falling_to_zero(sigmas)
    if levels:
        filled = [c.replace(num_inference_steps=len(levels) - 1) for c in filled]
    flips: list[str | None] = [None] * n if flip_noise is None else list(flip_noise)
    if isinstance(flip_noise, str) or len(flips) != n or any(flip is not None and flip not in FLIPS for flip in flips):
        raise InputError(f"flip_noise={flip_noise!r}: for each of {n} clip(s), None or one of {', '.join(FLIPS)}.")
    return filled, levels, flips


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


def _checked_start(n: int, shape: tuple, image_shape: tuple, latents: Any, noise: Any, flips: bool) -> list[tuple]:
    """Given noise for each sample: the image's "1 3 h w" and the latents' "1 f c h w", None where the seed's is meant."""
    if noise is not None and (latents is not None or flips):
        raise InputError("give noise as it is to be, or latents to go on from, or flip_noise, not both.")
    pair = (None, None) if noise is None else noise
    for name, value, wanted in (
        ("latents", latents, (n, *shape)),
        ("noise[0], for the image,", pair[0], (n, *image_shape)),
        ("noise[1], for the latents,", pair[1], (n, *shape)),
    ):
        if value is not None and tuple(value.shape) != wanted:
            raise InputError(f"{name} has shape {tuple(value.shape)}: for these clips it must be {wanted}.")
    return [tuple(None if p is None else p[i : i + 1] for p in pair) for i in range(n)]


# --- what goes wrong --------------------------------------------------------------------------------------------------


def _check_finite(pipe: Any, run: Denoising) -> None:
    flags = torch.stack(run.finite).cpu()
    if flags.all():
        return
    i = int((~flags.all(1)).nonzero()[0])
    step, dtype = run.steps[run.first + i], str(pipe.unet.dtype).removeprefix("torch.")
    kind = type(run.scheduler).__name__
    if flags[i, 0] and kind not in VE and not run.edits:
        raise InputError(f"{kind} gives NaN or infinity at step {step.index} by itself: {WORKING}.")
    if flags[i, 0]:
        why = "though the model's output is finite there: look at edits, guidance and given latents."
    elif dtype == "float16":
        why = "in the UNet's output: float16 holds numbers up to 65504 only, load with dtype='bfloat16' or 'float32'."
    else:
        why = f"in the UNet's output; in {dtype} that is no overflow: look at edits, and at the weights."
    raise BrokenClipError(f"NaN or infinity from step {step.index} of {len(run.steps)} (sigma {step.sigma:.3g}) on, {why}")


def decode_clip(pipe: ProbePipeline, clip: Clip) -> Clip:
    """Fill in the frames of a clip from its latents; raises BrokenClipError for NaN or black frames."""
    start = time.perf_counter()
    with room(pipe, [clip.conditions]):
        clip.frames = decode_latents(pipe, clip.latents, clip.conditions.decode_chunk_size or len(clip.latents))
    clip.seconds["decoding"] = time.perf_counter() - start
    return clip
