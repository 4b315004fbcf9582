"""Clips: `generate`, `generate_batch` with conditions per sample, and the record of what made a clip.

>>> clip = generate(pipe, "scene-27", seed=0, motion_bucket_id=180, fps=7, num_inference_steps=4)
>>> clip.frames.shape, clip.call.conditions.fps_id              # float32 "f h w c" in [0, 1]
((8, 64, 64, 3), 6)
"""

from __future__ import annotations

import gc
import hashlib
import html
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from svdlab import errors
from svdlab.errors import BrokenClipError, InputError, OutOfMemoryError, SvdlabError, flag, kind, several, takes, text, warn
from svdlab.measure import video
from svdlab.measure.files import plain
from svdlab.pipeline import samplers
from svdlab.pipeline.conditions import Conditions, UnusualConditionWarning
from svdlab.pipeline.conditions import Source as Source
from svdlab.pipeline.conditions import resolve as resolve
from svdlab.pipeline.images import FLIPS, decode_latents, encode_pixels, image_hash, prepare_image
from svdlab.pipeline.pipeline import ProbePipeline as ProbePipeline
from svdlab.pipeline.pipeline import pipeline
from svdlab.pipeline.sampler import QUIET, VE, WORKING, Denoising, Step, open_edits

REFUSED = {
    "generator": "the noise comes from seed=, or give noise= or latents=",
    "callback_on_step_end": "use svdlab.trace to look into the steps, svdlab.edit to change them",
    "num_videos_per_prompt": "call it once for each seed=, or use svdlab.sweep",
    "output_type": "clip.frames are floats in [0, 1], clip.latents what was decoded",
}


@dataclass(frozen=True)
class Call:
    """All that determines a clip, one record for clips, traces, run.json and file tags.

    conditions: nothing left None that the call filled in. image: hash of the prepared image. start: how the call began, where
    that was not the seed's noise at the schedule's first level: "sigmas", "flip_noise", "step", hashes of given "latents" or
    "noise". edits: the places that `svdlab.edit` changed. intervention: the name that a sweep was given for them. sampler: the
    scheduler's class, its schedule and the highest sigma.
    """

    conditions: Conditions
    seed: int
    image: str
    source: Source = field(default_factory=Source)
    start: dict[str, Any] = field(default_factory=dict)
    edits: tuple[str, ...] = ()
    intervention: str | None = None
    sampler: dict[str, Any] = field(default_factory=dict)

    def asdict(self) -> dict[str, Any]:
        """Plain JSON, which `Call.read` takes back."""
        return plain(asdict(self))

    @classmethod
    def read(cls, record: dict[str, Any]) -> Call:
        """Raises InputError for what is no such record."""
        try:
            more = {name: record[name] for name in ("start", "intervention", "sampler") if record.get(name)}
            made = Conditions(**record["conditions"]), errors.seed("seed", record["seed"]), text("image", record["image"])
            for name in ("start", "sampler"):
                kind(dict)(name, more.get(name, {}))
            text("intervention", more.get("intervention", "none"))
            edits = several("edits", record.get("edits") or (), text, 0)
            return cls(*made, Source(**record["source"]), edits=edits, **more)
        except (AttributeError, KeyError, TypeError) as error:
            raise InputError(f"{errors.shown(record)} is no record of a clip: {error}") from error


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

    @property
    def conditions(self) -> Conditions:
        return self.call.conditions

    @property
    def seed(self) -> int:
        return self.call.seed

    @property
    def source(self) -> Source:
        return self.call.source

    @property
    def label(self) -> str:
        return self.call.source.label

    @property
    def playback_fps(self) -> float:
        return self.call.conditions.playback_fps or self.call.conditions.fps

    def __repr__(self) -> str:
        c, of = self.conditions, self.source
        lora = f"LoRA {of.lora} at {of.lora_scale:g}" if of.lora else ""
        guided = f"guidance {c.min_guidance_scale:g} to {c.max_guidance_scale:g}"
        made = f"fps {c.fps}, bucket {c.motion_bucket_id}, noise {c.noise_aug_strength:g}, {guided}, seed {self.seed}"
        return f"Clip({', '.join(filter(None, (f'{c.num_frames} frames of {c.width}x{c.height}', made, lora, of.label)))})"

    def _repr_html_(self) -> str:
        return video.small_html(self.frames, self.playback_fps, repr(self)) if len(self.frames) else html.escape(repr(self))

    @takes(path=errors.path)
    def save(self, path: str | Path) -> Path:
        """Write an MP4 (H.264) that says what made it. Raises InputError for another suffix, OutputError by the disk."""
        path = Path(path)
        if path.suffix.lower() != ".mp4":
            raise InputError(f"{path}: a clip is saved as .mp4 (its frames bit for bit: svdlab.measure.video.write_frames).")
        video.write_preview(path, self.frames, playback_fps=self.playback_fps, facts=video.describe(self.call.asdict()))
        return path


def tensor(name: str, value: Any) -> torch.Tensor:
    """A tensor of finite floats."""
    dense = isinstance(value, torch.Tensor) and value.layout == torch.strided and value.device.type != "meta"
    if not dense or not value.is_floating_point() or not value.isfinite().all():
        raise InputError(f"{name}={errors.shown(value)}: give a tensor of finite floats.")
    return value.detach()


def _any(name: str, value: Any) -> Any:
    """No check: the value is checked where it is read."""
    return value


@dataclass(frozen=True)
class Start:
    """How the clips of a batch begin, where that is not each seed's noise at the first level of the scheduler's own schedule.

    >>> generate_batch(pipe, [scene], [Conditions()], [0], Start(sigmas=[80.0, 8.0, 0.8], flip_noise=["left_right"]))

    sigmas: noise levels, highest first. latents: "b f c h w", to go on from as they are. noise: unit noise "b f c h w" in the
    place of the seeds'. flip_noise: for each clip None, "left_right", "up_down" or "half_turn": the noise that the seed makes
    for image and latents flipped, as the flipped image needs them. first: the step that latents belong to.
    """

    sigmas: Sequence[float] | None = None
    latents: torch.Tensor | None = None
    noise: torch.Tensor | None = None
    flip_noise: Sequence[str | None] | None = None
    first: int = 0

    def __post_init__(self) -> None:
        if errors.whole("first", self.first) and self.latents is None:
            raise InputError(f"first={self.first}: give the latents of that step, which the seed's noise is not.")
        for name in ("latents", "noise"):
            None if getattr(self, name) is None else tensor(name, getattr(self, name))

    def levels(self) -> list[float] | None:
        """sigmas as falling numbers with the terminal zero; raises InputError."""
        if self.sigmas is None:
            return None
        try:
            levels = [float(s) for s in self.sigmas]
        except (TypeError, ValueError):
            levels = []
        levels += [0.0] if levels and levels[-1] != 0 else []
        if len(levels) < 2 or any(not np.isfinite(a) or a <= b for a, b in pairwise(levels)):
            given = errors.shown(self.sigmas)
            raise InputError(f"sigmas={given}: give falling noise levels above 0, such as svdlab.schedule.karras(25).")
        return levels


@takes(pipe=pipeline, conditions=kind(Conditions), seed=errors.seed, latents=tensor, noise=tensor)
def generate(
    pipe: ProbePipeline,
    image: Any,
    conditions: Conditions | None = None,
    *,
    seed: int = 0,
    sigmas: Sequence[float] | None = None,
    latents: torch.Tensor | None = None,
    noise: torch.Tensor | None = None,
    **overrides: Any,
) -> Clip:
    """Make one clip from one image.

    >>> clip = generate(pipe, "scene-27", seed=3, fps=7, motion_bucket_id=200, num_inference_steps=4)
    >>> clip = generate(pipe, image, svdlab.PRESETS["SVD_1_1"], num_frames=8, num_inference_steps=4)

    image: path, sample's name, PIL image or array; cropped to the frame's aspect. conditions: default `Conditions()`, changed
    by overrides by name. seed: of all noise, drawn on the CPU, so that it is the same on every device. sigmas: noise levels
    of your own, highest first (the terminal zero is added where it is missing). latents: the noisy latents "f c h w" at the
    first sigma, taken as they are: x0 + sigma n, so that their standard deviation is near sqrt(sigma^2 + 1). noise: unit noise
    "f c h w" in place of the seed's. Raises InputError before any model runs, BrokenClipError for NaN or black frames.
    """
    for name in REFUSED.keys() & overrides.keys():
        raise InputError(f"generate takes no {name}=: {REFUSED[name]}.")
    conditions, source = (conditions or Conditions()).replace(**overrides), getattr(pipe, "source", Source())
    for unusual in conditions.unusual((source.height, source.width)):
        warn(f"{unusual}: results may suffer.", UnusualConditionWarning)
    latents, noise = (z[None] if z is not None else None for z in (latents, noise))
    return generate_batch(pipe, [image], [conditions], [seed], Start(sigmas, latents, noise))[0]


@takes(pipe=pipeline, images=partial(several, check=_any), conditions=partial(several, check=kind(Conditions)))
@takes(seeds=partial(several, check=errors.seed), start=kind(Start), encodings=kind(dict), decode=flag)
@torch.no_grad()
def generate_batch(
    pipe: ProbePipeline,
    images: Sequence[Any],
    conditions: Sequence[Conditions],
    seeds: Sequence[int],
    start: Start = Start(),
    *,
    encodings: dict[Any, torch.Tensor] | None = None,
    decode: bool = True,
) -> list[Clip]:
    """Make several clips in one call of the UNet per step; images, conditions and seeds may all differ.

    >>> clips = generate_batch(pipe, [scene, image], [Conditions(num_inference_steps=2)] * 2, seeds=[0, 1])

    Frames, size, steps and whether guidance is used must agree. Clips are decoded one by one: a chunk that straddles two
    clips would mix them. encodings: a dict of your own that keeps what was encoded from call to call, while the pipeline's
    parts stay as they are. decode=False leaves `frames` empty, for whoever decodes later with `decode_clip`.
    """
    levels, n = start.levels(), len(images)
    filled = _checked(pipe, conditions, seeds, levels, n)
    c, side = filled[0], pipe.vae_scale_factor
    assert c.num_frames and c.height and c.width  # resolved
    shape = (c.num_frames, pipe.unet.config.in_channels // 2, c.height // side, c.width // side)
    errors.whole("first", start.first, 0, c.num_inference_steps - 1)
    starts = _starts(c.scheduler or type(pipe.scheduler).__name__, start, levels, n, shape)
    prepared = [prepare_image(image, height=c.height, width=c.width) for image in images]
    begun, cache = time.perf_counter(), {} if encodings is None else encodings
    with _room(filled):
        scheduler = _scheduler(pipe, c, levels, start.first)
        sampler = samplers.described(pipe, c, scheduler, given=levels is not None)
        calls = [
            Call(c, int(seed), image_hash(image), pipe.source, own, open_edits(pipe), sampler=sampler)
            for c, seed, image, own in zip(filled, seeds, prepared, starts, strict=True)
        ]
        device = pipe._execution_device
        parts = [_sample(pipe, device, call, image, shape, cache) for call, image in zip(calls, prepared, strict=True)]
        embeddings, pictures, ids, z = (torch.cat(column) for column in zip(*parts, strict=True))
        z = z if start.noise is None else start.noise.to(z)
        z = (z * scheduler.init_noise_sigma).to(embeddings.dtype) if start.latents is None else start.latents.to(embeddings)
        guidance = _guidance(filled, z)
        run = Denoising(pipe, scheduler, z, ids, embeddings, pictures.to(z), guidance, start.first, calls, prepared)
        out = run.run().cpu()
        pipe.maybe_free_model_hooks()
    if not out.isfinite().all():
        kind = type(scheduler).__name__
        if kind not in VE and not run.edits:
            raise InputError(f"{kind} gives NaN or infinity: {WORKING}.")
        why = "look at edits, weights and given latents; float16 holds numbers up to 65504 only: try bfloat16 or float32"
        raise BrokenClipError(f"the {kind}'s {len(run.steps)} steps end in NaN or infinity: {why}.")
    seconds = {"denoising": (time.perf_counter() - begun) / n}
    made = zip(calls, prepared, out, strict=True)
    clips = [Clip(np.zeros(0, np.float32), call, image, z, dict(seconds)) for call, image, z in made]
    return [decode_clip(pipe, clip) for clip in clips] if decode else clips


def decode_clip(pipe: ProbePipeline, clip: Clip, *, lower: bool = True, as_bytes: bool = False) -> Clip:
    """Fill in the frames of a clip from its latents; raises BrokenClipError for NaN or black frames.

    lower: where memory does not suffice, decode fewer frames at a time, which the clip's conditions then say, and a warning.
    as_bytes: leave them uint8, for whoever writes them. Raises OutOfMemoryError, which holds the clip, where nothing helps.
    """
    begun = time.perf_counter()
    asked = chunk = clip.conditions.decode_chunk_size or len(clip.latents)
    while True:
        try:
            with _room([clip.conditions]):
                clip.frames = decode_latents(pipe, clip.latents, chunk, as_bytes=as_bytes)
            break
        except OutOfMemoryError as error:
            if chunk == 1 or not lower:
                error.clip = clip
                raise
            chunk //= 2
        gc.collect()  # what the failed call holds
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    if chunk < asked:
        clip.call = replace(clip.call, conditions=clip.conditions.replace(decode_chunk_size=chunk))
        words = f"memory did not suffice to decode {asked} frames at a time: it was done by {chunk}, which changes pixels"
        warn(f"{words} (decode_chunk_size={chunk} says so from the beginning).")
    clip.seconds["decoding"] = time.perf_counter() - begun
    return clip


def _checked(
    pipe: Any, conditions: Sequence[Conditions], seeds: Sequence[int], levels: list[float] | None, n: int
) -> list[Conditions]:
    """Conditions filled in; InputError before any model runs."""
    if not n == len(conditions) == len(seeds) or not n:
        raise InputError(f"{n} images, {len(conditions)} conditions, {len(seeds)} seeds: give as many of each.")
    filled = [resolve(pipe, c.replace(num_inference_steps=len(levels) - 1) if levels else c) for c in conditions]
    if len({(c.num_frames, c.height, c.width, c.num_inference_steps, c.scheduler, c.guided) for c in filled}) > 1:
        raise InputError("clips of one batch must agree in frames, size, steps, scheduler, and in whether guidance is used.")
    return filled


def _starts(scheduler: str, start: Start, levels: list[float] | None, n: int, shape: tuple[Any, ...]) -> list[dict[str, Any]]:
    """`Call.start` of each clip; InputError before any model runs."""
    given = start.flip_noise if isinstance(start.flip_noise, (list, tuple)) else ()
    flips: list[Any] = [None] * n if start.flip_noise is None else list(given)
    if len(flips) != n or any(f not in (None, *FLIPS) for f in flips):
        raise InputError(f"flip_noise={start.flip_noise!r}: for each of {n} clip(s), None or one of {', '.join(FLIPS)}.")
    if any(flips) and scheduler not in QUIET:
        raise InputError(f"flip_noise cannot turn the noise that a {scheduler} may draw: {WORKING}.")
    if start.noise is not None and (start.latents is not None or any(flips)):
        raise InputError("give noise as it is to be, or latents to go on from, or flip_noise, not both.")
    facts: list[dict[str, Any]] = [{"sigmas": levels, "flip_noise": flip, "step": start.first} for flip in flips]
    for name, value in (("latents", start.latents), ("noise", start.noise)):
        if value is not None and tuple(value.shape) != (n, *shape):
            raise InputError(f"{name} has shape {tuple(value.shape)}: for these clips it must be {(n, *shape)}.")
        for own, z in zip(facts, [] if value is None else value.cpu().contiguous(), strict=False):
            own[name] = hashlib.sha256(z.view(torch.uint8).numpy()).hexdigest()
    return [{name: value for name, value in own.items() if value} for own in facts]


def _sample(
    pipe: ProbePipeline, device: torch.device, call: Call, image: Image.Image, shape: tuple[Any, ...], cache: dict[Any, Any]
) -> tuple[torch.Tensor, ...]:
    """One sample's image embedding, image latents, added_time_ids, and unit noise to start from.

    The image's noise is drawn first, whatever its strength, and then the latents', both on the CPU.
    """
    c, flip = call.conditions, call.start.get("flip_noise")

    def encoded(key: tuple[Any, ...], make: Callable[[], torch.Tensor]) -> torch.Tensor:
        if key not in cache:
            for oldest in list(cache)[:-255]:  # of a sweep, whose threads share it
                cache.pop(oldest, None)
            cache[key] = make()
        return cache[key]

    def noisy() -> torch.Tensor:
        pixels = pipe.video_processor.preprocess(image, height=image.height, width=image.width).to(device)
        return encode_pixels(pipe, pixels + c.noise_aug_strength * noise.to(pixels))

    embedding = encoded(("clip", call.image, str(device)), lambda: pipe._encode_image([image], device, 1, False))
    generator, axes = torch.Generator().manual_seed(call.seed), FLIPS[flip] if flip else ()
    sizes = ((1, 3, image.height, image.width), torch.float32), ((1, *shape), embedding.dtype)
    drawn = (torch.randn(size, generator=generator, dtype=dtype, device="cpu") for size, dtype in sizes)
    noise, z = (torch.flip(values, axes) for values in drawn)
    latents = encoded(("vae", call.image, c.noise_aug_strength, call.seed, flip, str(device)), noisy)
    ids = pipe._get_add_time_ids(c.fps_id, c.motion_bucket_id, c.noise_aug_strength, embedding.dtype, 1, 1, False)
    return embedding, latents, ids.to(device), z.to(device)


def _guidance(conditions: Sequence[Conditions], z: torch.Tensor) -> Callable[[Step], torch.Tensor | None] | None:
    """Scale "b f 1 1 1" of a step; outside a clip's guidance interval it is 1, where it is 1 for all None is given instead:
    u + 1 * (c - u) = c needs no unconditional half u."""
    f = z.shape[1]
    line = lambda c: torch.linspace(c.min_guidance_scale, c.max_guidance_scale, f)  # as diffusers': numpy's differs in a bit
    rows = [line(c) if c.guidance_curve == "linear" else torch.tensor(c.guidance(f), dtype=torch.float32) for c in conditions]
    scale = torch.stack(rows)[..., None, None, None]
    if scale.max() <= 1:
        return None

    def at(step: Step) -> torch.Tensor | None:
        intervals = [c.guidance_interval for c in conditions]
        off = torch.tensor([bool(i and not i[0] <= step.sigma <= i[1]) for i in intervals])
        return None if off.all() else torch.where(off[:, None, None, None, None], 1.0, scale).to(z)

    return at


def _scheduler(pipe: ProbePipeline, c: Conditions, levels: list[float] | None, first: int) -> Any:
    """The call's own scheduler with its timesteps set. What is not the checkpoint's own schedule is announced."""
    try:
        scheduler = samplers.prepared(pipe, c.scheduler, c.num_inference_steps, levels)
        odd = samplers.unusual(pipe, scheduler, levels, c.guided)
        float(scheduler.init_noise_sigma)  # a flow's has none
    except Exception as error:
        name = c.scheduler or type(pipe.scheduler).__name__
        raise InputError(f"{name} cannot make this schedule ({error}): {WORKING}.") from error
    if hasattr(scheduler, "set_begin_index"):  # or some begin at the second of two equal timesteps
        scheduler.set_begin_index(first)
    if odd:
        warn(f"{odd}: results may suffer.", UnusualConditionWarning)
    return scheduler


@contextmanager
def _room(conditions: Sequence[Conditions]) -> Iterator[None]:
    """Around what takes memory: OutOfMemoryError says what would help, where torch says only how much was asked for."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        words = ("out of memory", "can't allocate memory", "could not create a primitive")  # the last is oneDNN's
        full = isinstance(error, MemoryError) or any(word in str(error).lower() for word in words)
        if isinstance(error, SvdlabError) or not full:
            raise
        c, n = conditions[0], len(conditions)
        alone = "Load with memory='small', or choose fewer frames or a smaller size; what a sweep denoised is kept"
        raise OutOfMemoryError(
            f"{n} clip(s) of {c.num_frames} frames of {c.width}x{c.height} px did not fit into memory. "
            f"{'Make fewer clips at a time' if n > 1 else alone}. ({str(error).partition(chr(10))[0] or type(error).__name__})"
        ) from error
