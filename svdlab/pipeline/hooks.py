"""See and change anything inside the denoising, by sentences around the user's own call, and leave nothing behind.

    >>> with trace(pipe, keep=("latents", "denoised", "cond", "uncond")) as tr:
    ...     clip = svdlab.generate(pipe, image, seed=0)
    >>> with edit(pipe, "unet.mid_block.attentions.0.temporal_transformer_blocks.0.attn1", lambda value, step: 0 * value):
    ...     clip = svdlab.generate(pipe, image, seed=0)
    >>> again = branch(pipe, tr, step=12, motion_bucket_id=30)

Works on any `StableVideoDiffusionPipeline`. Nothing is patched before a block is entered, and nothing is left after it,
however it ends. Blocks may be nested in any way. Of several edits of one value the inner block's acts first, and
the outer one is given its result. A trace holds what the run used: it sees the outcome of all edits, whichever
block is the outer one. Ready-made edits are in `svdlab.edits`.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import psutil
import torch

from svdlab.errors import InputError, TraceError
from svdlab.pipeline import colours
from svdlab.pipeline.attention import attention_modules, check_queries, is_temporal, spatial_maps, temporal_maps
from svdlab.pipeline.conditions import Conditions
from svdlab.pipeline.generate import Clip, ProbePipeline, generate_batch
from svdlab.pipeline.loop import EDITABLE, Loop, follow
from svdlab.pipeline.record import KEEP, Step, Trace, name_dims
from svdlab.pipeline.selection import chosen_steps, module_names, names_among, select_modules
from svdlab.pipeline.upstream import StableVideoDiffusionPipeline

__all__ = ["EDITABLE", "KEEP", "branch", "edit", "module_names", "trace", "transplant"]

LARGE = 1e9  # bytes: a trace beyond that is announced


class LargeTraceWarning(UserWarning):
    """A trace will take a good part of the memory."""


@contextmanager
def trace(
    pipe: StableVideoDiffusionPipeline,
    *,
    keep: Sequence[str] = ("latents", "denoised"),
    modules: Any = (),
    attention: Any = (),
    queries: Sequence[tuple[float, float]] = ((0.5, 0.5),),
    steps: Any = None,
    reduce: Callable[[torch.Tensor], torch.Tensor] | None = None,
    dtype: torch.dtype | None = None,
) -> Iterator[Trace]:
    """Keep what one call of the pipeline computes, moved to the CPU step by step.

    >>> with trace(pipe, modules="unet.mid_block*", attention="temporal", steps=range(0, 25, 5)) as tr:
    ...     clip = svdlab.generate(pipe, image)
    >>> tr.latents.shape, tr["unet.mid_block"].shape

    keep: of latents (before the step), next_latents, denoised, model_output (guided), cond, uncond, all "s f c h w", and
    guidance_pressure (|cond - uncond| over channels, "s f h w"). uncond and guidance_pressure need guidance; they are NaN
    at steps that a guidance interval leaves unguided, where no unconditional half is computed.
    modules: names, globs, a list, or a predicate; outputs are kept as "s half ...", halves being unconditional and
    conditional where guided. A module that runs several times in a step is kept as name, name#2, ...
    attention: "temporal" or "spatial" self-attention, or names of attn1 modules. Kept as name.weights; temporal: frames by
    frames, mean over sites and heads, "s half query key", with name.entropy "s half" in nats and name.first_frame "s half
    query", the weight on frame 0; spatial: from `queries`, positions (y, x) as fractions of the frame, "s half f position y
    x", mean over heads. The image's cross-attention is refused: its weights are 1.
    steps: numbers from 0, a slice, two floats as a range of sigma, or a function of the step. reduce: applied to each
    module's output "half ..." of one sample before storing. dtype: None keeps what was computed.

    One block traces one call. What it will hold is worked out before the first UNet call, and for modules in it: beyond
    1 GB it is announced (LargeTraceWarning), beyond what the machine has free the run is stopped (TraceError). Raises
    InputError or TraceError, with the nearest names, for what does not exist, and TraceError where a module never runs. A
    trace that stays empty raises when it is read.
    """
    record = Recorder(
        pipe,
        names_among(keep, tuple(KEEP), "keep"),
        select_modules(pipe, modules) if callable(modules) or len(modules) else {},
        attention_modules(pipe, attention),
        check_queries(queries),
        chosen_steps(steps),
        reduce,
        dtype,
    )
    with follow(pipe) as loop, ExitStack() as stack:
        record.attach(loop, stack)
        yield record.trace
    if record.trace.steps and set(keep) & {"latents", "next_latents", "denoised"}:
        record.trace.colours = colours.of(pipe)  # worked out once per VAE


class Recorder:
    """Fills a `Trace` while a run lasts. Module outputs wait in `pending` until their step is over."""

    def __init__(
        self,
        pipe: StableVideoDiffusionPipeline,
        keep: tuple[str, ...],
        modules: dict[str, torch.nn.Module],
        maps: dict[str, torch.nn.Module],
        queries: list[tuple[float, float]],
        wanted: Callable[[Step], bool],
        reduce: Callable[[torch.Tensor], torch.Tensor] | None,
        dtype: torch.dtype | None,
    ) -> None:
        self.pipe, self.keep, self.modules, self.maps, self.queries = pipe, keep, modules, maps, queries
        self.wanted, self.reduce, self.dtype = wanted, reduce, dtype
        self.trace = Trace(label=getattr(getattr(pipe, "source", None), "label", ""))
        self.pending: dict[str, torch.Tensor] = {}
        self.steps_to_keep, self.clock = 0, 0.0

    def attach(self, loop: Loop, stack: ExitStack) -> None:
        self.loop = loop
        loop.on_start.append(self.start)
        stack.callback(loop.on_start.remove, self.start)
        loop.on_step.append(self.step)
        stack.callback(loop.on_step.remove, self.step)
        for name, module in self.modules.items():
            stack.callback(module.register_forward_hook(self.output_of(name)).remove)
        for name, module in self.maps.items():
            for hooked, hook in self.attention_of(name, module):
                stack.callback(hooked.register_forward_hook(hook).remove)

    def start(self) -> None:
        """Before the first UNet call: everything that can be refused or announced by now."""
        tr, loop = self.trace, self.loop
        if len(tr.schedule):
            raise TraceError("this trace already holds a run: open one `with svdlab.trace(pipe)` block for each call.")
        needs = [name for name in self.keep if name in ("uncond", "guidance_pressure")]
        if needs and not loop.guided:
            raise TraceError(f"keep={needs[0]!r} needs guidance: set max_guidance_scale above 1.")
        injected = getattr(self.pipe, "_injected", None)
        if injected is not None:
            tr.calls, tr.images = list(injected.calls), list(injected.pictures)
        tr.batch, tr.schedule = loop.samples, loop.scheduler.sigmas.cpu().numpy().copy()
        self.steps_to_keep = sum(map(self.wanted, loop.steps()))
        self.clock = time.perf_counter()
        self.announce(sum(self.size_of(name) for name in self.keep) * self.steps_to_keep)

    def size_of(self, name: str) -> int:
        """Bytes that one step of this takes; the scheduler gives its estimate in single precision."""
        shape = self.loop.shape[:2] + self.loop.shape[3:] if name == "guidance_pressure" else self.loop.shape
        own = torch.float32 if name in ("denoised", "guidance_pressure") else self.loop.dtype
        return math.prod(shape) * (self.dtype or own).itemsize

    def announce(self, size: float) -> None:
        free = psutil.virtual_memory().available
        advice = "keep fewer steps (steps=), fewer modules, or pass reduce="
        if size > 0.8 * free:
            raise TraceError(f"this trace would hold {size / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free: {advice}.")
        if size > LARGE:
            warnings.warn(f"this trace will hold {size / 1e9:.1f} GB: {advice}.", LargeTraceWarning, stacklevel=2)

    def recording(self) -> bool:
        return self.loop.step is not None and self.wanted(self.loop.step)

    def store(self, name: str, value: torch.Tensor, dims: tuple[str, ...] | None) -> None:
        """Into the step that is being computed; what a whole trace of it would take is checked before it is there."""
        if not self.trace.steps:
            so_far = sum(v.nbytes for v in self.pending.values()) + value.numel() * (self.dtype or value.dtype).itemsize
            if so_far * self.steps_to_keep > LARGE:
                self.announce(so_far * self.steps_to_keep)
        times = 1
        while (key := name if times == 1 else f"{name}#{times}") in self.pending:
            times += 1
        self.pending[key] = value.detach().to("cpu", self.dtype or value.dtype, copy=True)
        if dims is not None:
            self.trace.dims[key] = dims

    def by_sample(self, value: torch.Tensor) -> torch.Tensor:
        """First dimension (half b n) to "b half n ..."; a half that was not computed is NaN."""
        value = value.unflatten(0, (self.loop.halves, self.loop.samples, -1)).transpose(0, 1)
        if self.loop.guided and self.loop.halves == 1:
            value = torch.cat([torch.full_like(value, float("nan")), value], dim=1)
        return value

    def output_of(self, name: str) -> Callable:
        def hook(module: Any, args: tuple, output: Any) -> None:
            if not self.recording():
                return
            value = output[0] if isinstance(output, tuple) else getattr(output, "sample", output)
            value, dims = name_dims(name, self.by_sample(value), self.loop.shape)
            if self.reduce:
                value, dims = torch.stack([torch.as_tensor(self.reduce(sample)) for sample in value]), None
            self.store(name, value, dims)

        return hook

    def attention_of(self, name: str, attn: Any) -> list[tuple[torch.nn.Module, Callable]]:
        """Hooks that catch the run's own queries and keys, and one that makes maps of them when the module is done."""
        caught: dict[str, torch.Tensor] = {}

        def catch(which: str) -> Callable:
            def hook(module: Any, args: tuple, output: torch.Tensor) -> None:
                if self.recording():
                    caught[which] = output

            return hook

        def finish(module: Any, args: tuple, output: Any) -> None:
            if not self.recording():
                return
            q, k = caught.pop("q"), caught.pop("k")
            if is_temporal(name):
                dims: dict[str, tuple[str, ...]] = {".weights": ("half", "query", "key"), ".first_frame": ("half", "query")}
                for part, value in temporal_maps(attn, q, k, self.loop.halves * self.loop.samples).items():
                    self.store(name + part, self.by_sample(value).squeeze(2), dims.get(part, ("half",)))
            else:
                h, w = self.loop.shape[-2:]
                maps = self.by_sample(spatial_maps(attn, q, k, (h, w), self.queries))
                self.store(name + ".weights", maps, ("half", "frame", "position", "y", "x"))

        return [(attn.to_q, catch("q")), (attn.to_k, catch("k")), (attn, finish)]

    def step(self, values: dict[str, torch.Tensor]) -> None:
        """When a step is over: what passed through the scheduler and the UNet, and the modules' outputs, become a Step."""
        step, tr = self.loop.step, self.trace
        if step is not None and self.wanted(step):
            self.check(values)
            modules, self.pending = self.pending, {}
            for name in self.keep:
                if name == "guidance_pressure":
                    values[name] = (values["cond"].float() - values["uncond"].float()).norm(dim=2)
                self.store(name, values[name], None)
            now = time.perf_counter()
            tr.steps.append(replace(step, seconds=now - self.clock, values={**self.pending, **modules}))
            self.clock = now
            if len(tr.steps) == 1:
                self.announce_all(modules)
        else:
            self.clock = time.perf_counter()
        self.pending = {}

    def check(self, values: dict[str, torch.Tensor]) -> None:
        """What was asked for must have come by: never a trace that silently lacks something."""
        absent = [name for name in self.keep if name not in values and name != "guidance_pressure"]
        if "denoised" in absent:
            raise TraceError(
                f"{type(self.loop.scheduler).__name__} gives no denoised estimate: leave 'denoised' out of keep=."
            )
        if absent or ("guidance_pressure" in self.keep and "cond" not in values):
            raise TraceError(
                "the UNet's hooks did not fire, as after unet.compile(): use pipe.unet = torch.compile(pipe.unet)."
            )
        expected = [*self.modules, *(f"{name}.weights" for name in self.maps)]
        silent = [name for name in expected if name not in self.pending]
        if silent:
            raise TraceError(f"{silent[0]} did not run in this step: trace a module that does, such as one that encloses it.")

    def announce_all(self, modules: dict[str, torch.Tensor]) -> None:
        """Once the first step is there; without modules it was announced before the run."""
        if modules:
            self.announce(self.trace.nbytes * self.steps_to_keep)


@contextmanager
def edit(
    pipe: StableVideoDiffusionPipeline,
    where: Any,
    fn: Callable[[torch.Tensor, Step], torch.Tensor | None],
    *,
    steps: Any = None,
) -> Iterator[None]:
    """Change a value while the pipeline runs: fn(value, step) gives the new one, or None to leave it alone.

    >>> with edit(pipe, "denoised", lambda value, step: value.clamp(-3, 3), steps=(0.1, 10.0)):
    ...     clip = svdlab.generate(pipe, image)

    where: a module's name, glob, list or predicate (its output, with both halves), or one of
    latents: before the step, as UNet and scheduler see them, "b f c h w";
    added_time_ids: "(half b) 3", being fps - 1, motion bucket, noise strength; image_embeddings: "(half b) 1 d";
    image_latents: "(half b) f c h w" (these three are edited anew at every step);
    cond, uncond: the UNet's two outputs, "b f c h w"; guidance: the scale "b f 1 1 1" by which they are combined;
    model_output: the guided result; denoised: the estimate, and the step is then taken towards it, both "b f c h w".
    halves are unconditional, then conditional; without guidance there is the conditional one only.
    steps: as for `trace`. A step has index, sigma, sigma_next and timestep.

    Nested edits of one value: the inner block acts first. Raises TraceError for an unknown place, and during the run for a
    result of another shape.
    """
    wanted = chosen_steps(steps)

    def change(value: torch.Tensor, step: Step) -> torch.Tensor | None:
        new = fn(value, step) if wanted(step) else None
        if new is None:
            return None
        if not isinstance(new, torch.Tensor) or new.shape != value.shape:
            came = tuple(new.shape) if isinstance(new, torch.Tensor) else type(new).__name__
            raise TraceError(
                f"the edit of {where!r} gave {came}: it must give a tensor of shape {tuple(value.shape)}, or None."
            )
        return new.to(value)

    named = isinstance(where, str) and where in EDITABLE
    selected = {} if named else select_modules(pipe, where, others=EDITABLE)
    with follow(pipe) as loop, ExitStack() as stack:
        entry = (where if named else f"modules {where!r}", change)
        loop.edits.append(entry)
        stack.callback(loop.edits.remove, entry)
        for module in selected.values():
            # Before the hooks that are there: the inner block acts first, and a trace sees the outcome.
            stack.callback(module.register_forward_hook(_changing(loop, change), prepend=True).remove)
        yield


def _changing(loop: Loop, change: Callable[[torch.Tensor, Step], torch.Tensor | None]) -> Callable:
    def hook(module: Any, args: tuple, output: Any) -> Any:
        if loop.step is None:
            return None
        if isinstance(output, torch.Tensor):
            return change(output, loop.step)
        value = output[0] if isinstance(output, tuple) else output.sample
        new = change(value, loop.step)
        if new is None:
            return None
        return (new, *output[1:]) if isinstance(output, tuple) else type(output)(sample=new)

    return hook


def branch(pipe: ProbePipeline, trace: Trace, step: int, *, decode: bool = True, **changes: Any) -> Clip:
    """Start again from the latents before a step, with some conditions changed.

    >>> clip = branch(pipe, tr, 12, motion_bucket_id=30)
    >>> clip = branch(pipe, tr, 12, image="cat")            # another picture from here on

    step: number of a traced step, from 0. changes: conditions by name, or `image`. decode=False leaves `frames` empty.
    Without changes the original clip comes back, bit for bit on a CPU. The steps of a trace of the branch count from 0 again.
    Raises TraceError where the trace does not hold what is needed, InputError for a change that is none, before any
    model runs.
    """
    latents = _latents_before(trace, step)
    image, conditions = _changed_call(trace, changes)
    seed, sigmas = trace.calls[0]["seed"], trace.schedule[step:].tolist()
    flip = (trace.calls[0].get("start") or {}).get("flip_noise")
    begin: dict[str, Any] = dict(sigmas=sigmas, latents=latents, flip_noise=[flip])
    return generate_batch(pipe, [image], [conditions], [seed], **begin, decode=decode)[0]


def transplant(
    pipe: ProbePipeline, trace: Trace, steps: Sequence[int] | None = None, *, decode: bool = True, **changes: Any
) -> dict[int, Clip]:
    """The same change made from each of several steps on: what is decided when.

    >>> clips = transplant(pipe, tr, motion_bucket_id=200)
    >>> {step: motion.summary(clip.frames)["object_px"] for step, clip in clips.items()}

    steps: numbers of traced steps, None for all. A branch only computes the steps that are left, so that all n of them cost
    (n + 1) / (2 n) of what n runs from the start would: 0.52 for 25 steps. Raises as `branch`, for all steps before the first.
    """
    chosen = [s.index for s in trace.steps] if steps is None else list(steps)
    for step in chosen:
        _latents_before(trace, step)
    _changed_call(trace, changes)
    return {step: branch(pipe, trace, step, decode=decode, **changes) for step in chosen}


def _latents_before(trace: Trace, step: int) -> torch.Tensor:
    if trace.batch != 1:
        raise TraceError(f"this trace holds {trace.batch} samples: branch from one, as in branch(pipe, tr[0], {step}).")
    kept = {s.index: s.values["latents"] for s in trace.steps if "latents" in s.values}
    if step not in kept:
        held = ", ".join(map(str, sorted(kept))) or "no step"
        raise TraceError(f"step {step}: the trace holds latents of {held}. Trace with keep=('latents',) and that step.")
    return kept[step]


def _changed_call(trace: Trace, changes: dict[str, Any]) -> tuple[Any, Conditions]:
    """Picture and conditions of the branch."""
    if not trace.calls:
        raise TraceError(
            "branch needs a trace made through svdlab.generate, which brings picture, seed and conditions with it; this one "
            "was made by calling the pipeline itself."
        )
    if "noise" in (trace.calls[0].get("start") or {}):
        raise TraceError(
            "this run was started from noise that the caller supplied, which a branch cannot draw again from its seed."
        )
    changes = dict(changes)
    if "image" not in changes and not trace.images:
        raise TraceError("this trace came without its picture: pass image=, the one that the clip was made from.")
    image = changes.pop("image", trace.images[0] if trace.images else None)
    fixed = sorted({"num_frames", "height", "width", "num_inference_steps"} & set(changes))
    if fixed:
        raise InputError(f"{', '.join(fixed)} cannot change in mid-run: the latents have that shape and schedule.")
    return image, Conditions(**trace.calls[0]["conditions"]).replace(**changes)
