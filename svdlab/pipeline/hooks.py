"""See and change anything inside the denoising, by sentences around the user's own call, and leave nothing behind.

    >>> with trace(pipe, keep=("latents", "denoised", "cond", "uncond")) as tr:
    ...     clip = svdlab.generate(pipe, image, seed=0)
    >>> with edit(pipe, "unet.mid_block.attentions.0.temporal_transformer_blocks.0.attn1", lambda value, step: 0 * value):
    ...     clip = svdlab.generate(pipe, image, seed=0)
    >>> again = branch(pipe, tr, step=12, motion_bucket_id=30)

Blocks may be nested in any way. Of several edits of one value the inner block's acts first, and the outer one is given its
result. A trace holds what the call used: it sees the outcome of all edits, whichever block is the outer one. A block acts on
calls of the thread that opened it (`contextvars.copy_context().run` takes it into another). Ready-made edits: `svdlab.edits`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np
import psutil
import torch

from svdlab.errors import InputError, TraceError
from svdlab.pipeline.conditions import Conditions
from svdlab.pipeline.generate import Clip, ProbePipeline, Start, generate_batch
from svdlab.pipeline.modules import (
    attention_maps,
    attention_modules,
    check_queries,
    chosen_steps,
    module_names,
    select_modules,
)
from svdlab.pipeline.sampler import EDITABLE, Denoising, Listener, Step, listen, running
from svdlab.pipeline.trace import KEEP, Trace, colour_map

__all__ = ["EDITABLE", "KEEP", "branch", "edit", "module_names", "trace", "transplant"]

ONE_STEP = ("EulerDiscrete", "EulerAncestralDiscrete", "EDMEuler", "DDIM", "DDPM", "LCM")  # schedulers without a memory
Fn = Callable[[torch.Tensor, Step], "torch.Tensor | None"]


def _check_pipe(pipe: Any) -> None:
    if not isinstance(pipe, ProbePipeline):
        kind = type(pipe).__name__
        raise TraceError(f"a {kind} cannot be looked into: use svdlab.ProbePipeline.from_pipe(pipe), on the same weights.")


# --- trace ------------------------------------------------------------------------------------------------------------


@contextmanager
def trace(
    pipe: ProbePipeline,
    *,
    keep: Sequence[str] = ("latents", "denoised"),
    modules: Any = (),
    attention: Any = (),
    queries: Sequence[tuple[float, float]] = ((0.5, 0.5),),
    steps: Any = None,
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
    steps: numbers from 0, a slice, two floats as a range of sigma, or a function of the step. dtype: None keeps what was
    computed.

    One block traces one call. Raises InputError or TraceError, with the nearest names, for what does not exist, and during the
    call TraceError where a module never runs, and in its first step where the memory that is free would not hold all of the
    trace. An empty trace raises when it is read.
    """
    _check_pipe(pipe)
    keep = (keep,) if isinstance(keep, str) else tuple(keep)
    if unknown := [name for name in keep if name not in KEEP]:
        raise InputError(f"keep={keep!r}: {unknown[0]!r} is none of {', '.join(KEEP)}.")
    chosen = select_modules(pipe, modules) if callable(modules) or len(modules) else {}
    maps, queries = attention_modules(pipe, attention), check_queries(queries)
    record = _Recorder(keep, chosen_steps(steps), dtype, [*chosen, *(f"{name}.weights" for name in maps)])
    record.trace.label, record.trace.find_colours = pipe.source.label, cache(partial(colour_map, pipe))
    with listen(pipe, record.hear) as record.listener, ExitStack() as stack:
        for name, module in chosen.items():
            stack.callback(module.register_forward_hook(record.output_of(name)).remove)
        for name, module in maps.items():
            for hooked, hook in record.attention_of(name, module, queries):
                stack.callback(hooked.register_forward_hook(hook).remove)
        yield record.trace


class _Recorder:
    """Fills a `Trace` during one call. What comes by waits in `passed` and `kept` until its step is over."""

    listener: Listener

    def __init__(self, keep: tuple[str, ...], wanted: Callable[[Step], bool], dtype: Any, expected: list[str]) -> None:
        self.keep, self.wanted, self.dtype, self.expected = keep, wanted, dtype, expected
        self.trace, self.steps, self.clock = Trace(), 0, 0.0
        self.passed: dict[str, Any] = {}  # the sampler's values, by place
        self.kept: dict[str, torch.Tensor] = {}

    def hear(self, name: str, value: Any, run: Denoising) -> Any:
        self.passed[name] = value
        if name == "start":
            self.start(run)
        elif name == "next_latents" and run.step is not None:
            self.end(run, run.step)
            self.passed, self.kept, self.clock = {}, {}, time.perf_counter()
        return value

    def start(self, run: Denoising) -> None:
        """Before the first UNet call: everything that can be refused by now."""
        tr = self.trace
        if len(tr.schedule):
            raise TraceError("this trace already holds a call: open one `with svdlab.trace(pipe)` block for each.")
        needs = [name for name in self.keep if name in ("uncond", "guidance_pressure")]
        if needs and run.guidance is None:
            raise TraceError(f"keep={needs[0]!r} needs guidance: set max_guidance_scale above 1.")
        tr.calls, tr.images, tr.batch = list(run.calls), list(run.images), len(run.latents)
        tr.schedule = np.array([s.sigma for s in run.steps] + [run.steps[-1].sigma_next], np.float32)
        self.steps, self.clock = sum(map(self.wanted, run.steps[run.first :])), time.perf_counter()

    def end(self, run: Denoising, step: Step) -> None:
        """When a step is over: what passed through the sampler, and the modules' outputs, become a Step."""
        if not self.wanted(step):
            return
        if silent := [name for name in self.expected if name not in self.kept]:
            raise TraceError(f"{silent[0]} did not run in this step: trace a module that does, such as one that encloses it.")
        passed = self.passed
        passed |= {"denoised": passed["pred_original_sample"], "model_output": passed["noise_pred"]}
        if "denoised" in self.keep and passed["denoised"] is None:
            raise TraceError(f"{type(run.scheduler).__name__} gives no denoised estimate: leave 'denoised' out of keep=.")
        if "uncond" not in passed:
            passed["uncond"] = torch.full_like(passed["cond"], float("nan"))
        if "guidance_pressure" in self.keep:
            passed["guidance_pressure"] = (passed["cond"].float() - passed["uncond"].float()).norm(dim=2)
        for name in self.keep:
            self.store(name, passed[name])
        self.trace.steps.append(replace(step, seconds=time.perf_counter() - self.clock, values=self.kept))

    def store(self, name: str, value: torch.Tensor) -> None:
        """Into the step that is being computed; in the first, what a whole trace of it would take must be free."""
        dtype, times = self.dtype or value.dtype, 1
        if not self.trace.steps:
            size = self.steps * (sum(v.nbytes for v in self.kept.values()) + value.numel() * dtype.itemsize)
            if size > 1e6 and size > 0.8 * (free := psutil.virtual_memory().available):
                raise TraceError(
                    f"this trace would hold {size / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free: keep fewer steps "
                    f"(steps=) or fewer modules."
                )
        while (key := name if times == 1 else f"{name}#{times}") in self.kept:
            times += 1
        self.kept[key] = value.detach().to("cpu", dtype, copy=True)

    def recording(self) -> Denoising | None:
        run = running(self.listener)
        return run if run is not None and run.step is not None and self.wanted(run.step) else None

    def by_sample(self, value: torch.Tensor, run: Denoising) -> torch.Tensor:
        """First dimension (half b n) to "b half n ..." without an n of 1; a half that was not computed is NaN."""
        value = value.unflatten(0, (run.halves, len(run.latents), -1)).transpose(0, 1)
        if run.guidance is not None and run.halves == 1:
            value = torch.cat([torch.full_like(value, float("nan")), value], dim=1)
        return value.squeeze(2)

    def output_of(self, name: str) -> Callable:
        def hook(module: Any, args: tuple, output: Any) -> None:
            if (run := self.recording()) is not None:
                self.store(name, self.by_sample(_tensor(output), run))

        return hook

    def attention_of(self, name: str, attn: Any, queries: Sequence) -> list[tuple[torch.nn.Module, Callable]]:
        """Hooks that catch the call's own queries and keys, and one that makes maps of them when the module is done."""
        caught: dict[str, torch.Tensor] = {}

        def catch(*which: str) -> Callable:
            def hook(module: Any, args: tuple, output: torch.Tensor) -> None:
                if self.recording() is not None:
                    caught.update(zip(which, output.chunk(len(which), -1), strict=True))

            return hook

        def finish(module: Any, args: tuple, output: Any) -> None:
            if (run := self.recording()) is None:
                return
            if not caught.keys() >= {"q", "k"}:
                raise TraceError(
                    f"{name} computes its queries and keys in a {type(attn.processor).__name__}, past to_q and to_k: "
                    f"there is no map. Call pipe.unet.set_default_attn_processor() first."
                )
            n, size = run.halves * len(run.latents), (run.latents.shape[-2], run.latents.shape[-1])
            for part, value in attention_maps(name, attn, caught.pop("q"), caught.pop("k"), n, size, queries).items():
                self.store(name + part, self.by_sample(value, run))

        fused = [(attn.to_qkv, catch("q", "k", "v"))] if hasattr(attn, "to_qkv") else []
        return [(attn.to_q, catch("q")), (attn.to_k, catch("k")), *fused, (attn, finish)]


# --- edit -------------------------------------------------------------------------------------------------------------


@contextmanager
def edit(pipe: ProbePipeline, where: Any, fn: Fn, *, steps: Any = None) -> Iterator[None]:
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

    fn is given a copy: to change it in place and return it is fine. Raises TraceError for an unknown place, and during the
    call for a result of another shape, and for a value that was changed in place and not returned.
    """
    _check_pipe(pipe)
    wanted, named = chosen_steps(steps), isinstance(where, str) and where in EDITABLE
    selected = {} if named else select_modules(pipe, where, others=EDITABLE)

    def hear(name: str, value: Any, run: Denoising) -> Any:
        if (step := run.step) is None or name not in (where, "cond") or not wanted(step):
            return value
        if where == "guidance" and name == "cond" and run.halves == 1:
            raise TraceError(
                f"an edit of guidance cannot act on step {step.index}, where no unconditional half is computed: set "
                f"max_guidance_scale above 1, and restrict the edit by steps= where there is a guidance_interval."
            )
        return _changed(where, fn, value, step) if name == where else value

    def hook(module: Any, args: tuple, output: Any) -> Any:
        run = running(listener)
        if run is None or run.step is None or not wanted(run.step):
            return None
        value = _tensor(output)
        new = _changed(where, fn, value, run.step)
        if new is value:
            return None
        if isinstance(output, torch.Tensor):
            return new
        return (new, *output[1:]) if isinstance(output, tuple) else type(output)(sample=new)

    with listen(pipe, hear, edits=where if named else f"modules {where!r}") as listener, ExitStack() as stack:
        for module in selected.values():
            # Before the hooks that are there: the inner block acts first, and a trace sees the outcome.
            stack.callback(module.register_forward_hook(hook, prepend=True).remove)
        yield


def _tensor(output: Any) -> torch.Tensor:
    """What a module gives: a tensor, the first of a tuple, or diffusers' output class with a `sample`."""
    return output[0] if isinstance(output, tuple) else getattr(output, "sample", output)


def _changed(where: Any, fn: Fn, value: torch.Tensor, step: Step) -> torch.Tensor:
    """What fn makes of a copy of the value; the very same value where it left it alone."""
    copy = value.clone()
    new = fn(copy, step)
    touched = not copy.is_inference() and copy._version > 0
    if new is None and touched:
        raise TraceError(
            f"the edit of {where!r} changed its value in place and gave None: end the function with `return value`."
        )
    if new is None or (new is copy and not touched):
        return value
    if not isinstance(new, torch.Tensor) or new.shape != value.shape:
        came = tuple(new.shape) if isinstance(new, torch.Tensor) else type(new).__name__
        raise TraceError(f"the edit of {where!r} gave {came}: give a tensor of shape {tuple(value.shape)}, or None.")
    return new.to(value)


# --- branch -----------------------------------------------------------------------------------------------------------


def branch(pipe: ProbePipeline, trace: Trace, step: int, *, decode: bool = True, **changes: Any) -> Clip:
    """Start again from the latents before a step, with some conditions changed.

    >>> clip = branch(pipe, tr, 2, motion_bucket_id=30)
    >>> clip = branch(pipe, tr, 2, image="scene-3")         # another image from here on

    step: number of a traced step, from 0. changes: conditions by name, or `image`. decode=False leaves `frames` empty.
    Without changes the original clip comes back, bit for bit on a CPU; the branch's steps keep their numbers. Raises
    TraceError where the trace does not hold what is needed, or the scheduler remembers earlier steps; InputError for a
    change that is none; all of them before any model runs.
    """
    image, conditions, start = _branch_from(pipe, trace, step, changes)
    return generate_batch(pipe, [image], [conditions], [trace.calls[0].seed], start, decode=decode)[0]


def transplant(
    pipe: ProbePipeline, trace: Trace, steps: Sequence[int] | None = None, *, decode: bool = True, **changes: Any
) -> dict[int, Clip]:
    """The same change made from each of several steps on: what is decided when.

    >>> clips = transplant(pipe, tr, motion_bucket_id=200)
    >>> {step: svdlab.motion.summary(clip.frames)["object_px"] for step, clip in clips.items()}

    steps: numbers of traced steps, None for all. A branch only computes the steps that are left, so that all n of them cost
    (n + 1) / (2 n) of what n runs from the start would: 0.52 for 25 steps. Raises as `branch`, for all steps before the first.
    """
    chosen = [s.index for s in trace.steps] if steps is None else list(steps)
    for step in chosen:
        _branch_from(pipe, trace, step, changes)
    return {step: branch(pipe, trace, step, decode=decode, **changes) for step in chosen}


def _branch_from(pipe: ProbePipeline, trace: Trace, step: int, changes: dict[str, Any]) -> tuple[Any, Conditions, Start]:
    """Image, conditions and start of a branch."""
    if trace.batch != 1:
        raise TraceError(f"this trace holds {trace.batch} samples: branch from one, as in branch(pipe, tr[0], {step}).")
    kept = {s.index: s.values["latents"] for s in trace.steps if "latents" in s.values}
    if step not in kept:
        held = ", ".join(map(str, sorted(kept))) or "no step"
        raise TraceError(f"step {step}: the trace holds latents of {held}. Trace with keep=('latents',) and that step.")
    if not trace.calls:
        raise TraceError("branch needs a trace made through svdlab.generate, which brings image, seed and conditions with it.")
    call, kind = trace.calls[0], type(pipe.scheduler).__name__.removesuffix("Scheduler")
    if step and kind not in ONE_STEP:
        raise TraceError(
            f"{kind} goes by earlier steps, which the latents of step {step} do not hold: use one of {', '.join(ONE_STEP)}."
        )
    if "image" in call.start.get("noise", {}):
        raise TraceError("this call started from given noise, which a branch cannot draw again from its seed.")
    if "image" not in changes and not trace.images:
        raise TraceError("this trace came without its image: pass image=, the one that the clip was made from.")
    if fixed := sorted({"num_frames", "height", "width", "num_inference_steps"} & changes.keys()):
        raise InputError(f"{', '.join(fixed)} cannot change in mid-run: the latents have that shape and schedule.")
    conditions = call.conditions.replace(**{name: value for name, value in changes.items() if name != "image"})
    flips, image = [call.start.get("flip_noise")], changes["image"] if "image" in changes else trace.images[0]
    return image, conditions, Start(call.start.get("sigmas"), kept[step], flip_noise=flips, first=step)
