"""See and change anything inside the denoising, by sentences around the user's own call, and leave nothing behind.

    >>> with trace(pipe, keep=("latents", "denoised", "cond", "uncond")) as tr:
    ...     clip = svdlab.generate(pipe, image, seed=0)
    >>> with edit(pipe, "unet.mid_block.attentions.0.temporal_transformer_blocks.0.attn1", lambda value, step: 0 * value):
    ...     clip = svdlab.generate(pipe, image, seed=0)

Blocks may be nested in any way. Of several edits of one value the inner block's acts first, and the outer one is given its
result. A trace holds what the call used: it sees the outcome of all edits, whichever block is the outer one. A block acts on
calls of the thread that opened it (`contextvars.copy_context().run` takes it into another). Ready-made edits: `svdlab.edits`.
"""

import difflib
import fnmatch
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cache, partial
from numbers import Integral
from typing import Any

import numpy as np
import psutil
import torch

from svdlab.errors import LABEL, InputError, TraceError, number, several, shown, takes, text
from svdlab.pipeline.pipeline import ProbePipeline, pipeline
from svdlab.pipeline.sampler import EDITABLE, Denoising, Listener, Step, listen, running
from svdlab.pipeline.trace import KEEP, Trace, colour_map

SELF = {"temporal": "unet*.temporal_transformer_blocks.*.attn1", "spatial": "unet*.transformer_blocks.*.attn1"}
Fn = Callable[[torch.Tensor, Step], "torch.Tensor | None"]


# --- what modules=, where and steps= take --------------------------------------------------------------------------------


@takes(pipe=pipeline, contains=LABEL)
def module_names(pipe: Any, contains: str = "") -> list[str]:
    """Names that `trace` and `edit` take: the UNet's modules, in the order in which it holds them. contains: part or glob.

    >>> module_names(pipe, "mid_block.attentions.0.temporal")[0]
    'unet.mid_block.attentions.0.temporal_transformer_blocks.0'

    The image encoder and the VAE run outside the denoising and are left out. So are lists of modules, which never run.
    """
    return [name for name in _modules(pipe) if contains in name or fnmatch.fnmatch(name, contains)]


def _modules(pipe: Any) -> dict[str, torch.nn.Module]:
    unet = getattr(pipe.unet, "_orig_mod", pipe.unet)
    lists = (torch.nn.ModuleList, torch.nn.ModuleDict)
    return {f"unet.{n}" if n else "unet": m for n, m in unet.named_modules() if not isinstance(m, lists)}


def select_modules(pipe: Any, which: str | Iterable[str], others: Iterable[str] = ()) -> dict[str, torch.nn.Module]:
    """Modules by name, glob, or list of either, in the order asked for.

    others: what may be named in the same place, for the error. Raises TraceError for what matches nothing, with the nearest
    names, and for what lies inside a compiled module, where hooks never fire.
    """
    every = _modules(pipe)
    chosen: dict[str, torch.nn.Module] = {}
    for pattern in [which] if isinstance(which, str) else which:
        hits = [pattern] if pattern in every else fnmatch.filter(every, pattern)
        if not hits:
            near = difflib.get_close_matches(pattern, [*others, *every], n=4, cutoff=0.3)
            raise TraceError(f"no module {pattern!r}. Nearest: {', '.join(near) or 'none'}. All: svdlab.module_names(pipe).")
        chosen |= {name: every[name] for name in hits}
    compiled = [n for n, m in every.items() if hasattr(m, "_orig_mod") or getattr(m, "_compiled_call_impl", None) is not None]
    compiled += ["unet"] * hasattr(pipe.unet, "_orig_mod")
    if inside := [name for name in chosen if name != "unet" and any(f"{name}.".startswith(f"{c}.") for c in compiled)]:
        raise TraceError(f"{inside[0]} is inside a compiled module, where hooks never fire: load with compile=False.")
    return chosen


def chosen_steps(steps: Any) -> Callable[[Step], bool]:
    """`steps=` as a predicate: None, step numbers from 0, or two floats as a range of sigma, both ends included."""
    if steps is None:
        return lambda step: True
    if isinstance(steps, range) and len(steps) and min(steps[0], steps[-1]) >= 0:
        return lambda step: step.index in steps
    found = [steps] if isinstance(steps, Integral) else several("steps", steps, lambda name, value: value, 0)
    if len(found) == 2 and all(isinstance(s, float) and s >= 0 for s in found):  # not NaN; there may be no upper end
        low, high = sorted(found)
        return lambda step: low <= step.sigma <= high
    if not found or any(isinstance(s, bool) or not isinstance(s, Integral) or s < 0 for s in found):
        raise InputError(f"steps={shown(steps)}: give step numbers from 0, or two floats as a range of sigma.")
    return lambda step: step.index in found


def names(name: str, value: Any, least: int = 0) -> Any:
    """A name or glob, or a list of them."""
    return text(name, value) if isinstance(value, str) else several(name, value, text, least)


def _function(name: str, value: Any) -> Fn:
    if not callable(value):
        raise InputError(f"{name}={shown(value)}: give a function of the value and the step.")
    return value


# --- trace ------------------------------------------------------------------------------------------------------------


@takes(pipe=pipeline, keep=names, modules=names, attention=names)
@contextmanager
def trace(
    pipe: ProbePipeline,
    *,
    keep: Sequence[str] = ("latents", "denoised"),
    modules: str | Iterable[str] = (),
    attention: str | Iterable[str] = (),
    queries: Sequence[tuple[float, float]] = ((0.5, 0.5),),
    steps: Any = None,
) -> Iterator[Trace]:
    """Keep what one call of the pipeline computes, moved to the CPU step by step.

    >>> with trace(pipe, modules="unet.mid_block*", attention="temporal", steps=range(0, 25, 5)) as tr:
    ...     clip = svdlab.generate(pipe, image)
    >>> tr.latents.shape, tr["unet.mid_block"].shape

    keep: of latents (before the step), next_latents, denoised, model_output (guided), cond, uncond, all "s f c h w", and
    guidance_pressure (|cond - uncond| over channels, "s f h w"). uncond and guidance_pressure need guidance; they are NaN
    at steps that a guidance interval leaves unguided, where no unconditional half is computed.
    modules: names, globs, or a list; outputs are kept as "s half ...", halves being unconditional and conditional where
    guided. Of a module that runs several times in a step the last output is kept.
    attention: "temporal" or "spatial" for all such self-attention, or names of attn1 modules. Temporal: name.weights, "s half
    query key", frames by frames, mean over sites and heads, and name.first_frame, "s half query", the weight on frame 0.
    Spatial: name.weights, "s half f position y x", from each of `queries`, positions (y, x) as fractions of the frame, to all
    sites, mean over heads. (Attention to the image has one key, so its weights are 1.)
    steps: numbers from 0, or two floats as a range of sigma.

    One block traces one call. Raises InputError or TraceError, with the nearest names, for what does not exist, and during the
    call TraceError where a module never runs, and in its first step where the memory that is free would not hold all of the
    trace. An empty trace raises when it is read.
    """
    keep = (keep,) if isinstance(keep, str) else tuple(keep)
    if unknown := [name for name in keep if name not in KEEP]:
        raise InputError(f"keep={keep!r}: {unknown[0]!r} is none of {', '.join(KEEP)}.")
    chosen, kinds = select_modules(pipe, modules), [attention] if isinstance(attention, str) else attention
    maps = select_modules(pipe, [SELF.get(kind, kind) for kind in kinds], others=SELF)
    if odd := [name for name in maps if not name.endswith(".attn1")]:
        raise TraceError(f"{odd[0]} is no self-attention (attn1); attention to the image has one key: its map is 1.")
    places = several("queries", queries, partial(several, check=partial(number, least=0, most=1)))
    if any(len(place) != 2 for place in places):
        raise InputError(f"queries={shown(queries)}: give positions (y, x) as fractions of the frame, such as ((0.5, 0.5),).")
    record = _Recorder(keep, chosen_steps(steps), [*chosen, *(f"{name}.weights" for name in maps)])
    record.trace.label, record.trace.find_colours = pipe.source.label, cache(partial(colour_map, pipe))
    with listen(pipe, record.hear) as record.listener, ExitStack() as stack:
        for name, module in chosen.items():
            stack.callback(module.register_forward_hook(record.output_of(name)).remove)
        for name, module in maps.items():
            for hooked, hook in record.attention_of(name, module, places):
                stack.callback(hooked.register_forward_hook(hook).remove)
        yield record.trace


class _Recorder:
    """Fills a `Trace` during one call. What comes by waits in `passed` and `kept` until its step is over."""

    listener: Listener

    def __init__(self, keep: tuple[str, ...], wanted: Callable[[Step], bool], expected: list[str]) -> None:
        self.keep, self.wanted, self.expected, self.trace, self.clock = keep, wanted, expected, Trace(), 0.0
        self.passed: dict[str, Any] = {}  # the sampler's values, by place
        self.kept: dict[str, torch.Tensor] = {}
        self.halves: dict[str, dict[int, torch.Tensor]] = {}  # of a module's values, where they are computed in turn

    def hear(self, name: str, value: Any, run: Denoising) -> Any:
        if name == "latents":
            self.passed, self.kept, self.halves, self.clock = {}, {}, {}, time.perf_counter()
            if run.step is run.steps[run.first]:
                self.start(run)
        self.passed[name] = value
        if name == "next_latents" and self.wanted(run.step):
            self.end(run)
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

    def end(self, run: Denoising) -> None:
        """When a step is over: what passed through the sampler, and the modules' outputs, become a Step."""
        for name, parts in self.halves.items():
            self.kept[name] = parts[0] if len(parts) == 1 else torch.cat([parts[turn] for turn in sorted(parts)], dim=1)
        if silent := [name for name in self.expected if name not in self.kept]:
            raise TraceError(f"{silent[0]} did not run in this step: trace a module that does, such as one that encloses it.")
        passed = self.passed
        passed |= {"denoised": passed["pred_original_sample"], "model_output": passed["noise_pred"]}
        if "denoised" in self.keep and passed["denoised"] is None:
            raise TraceError(f"{type(run.scheduler).__name__} gives no denoised estimate: leave 'denoised' out of keep=.")
        passed.setdefault("uncond", torch.full_like(passed["cond"], float("nan")))
        if "guidance_pressure" in self.keep:
            passed["guidance_pressure"] = (passed["cond"].float() - passed["uncond"].float()).norm(dim=2)
        for name in self.keep:
            self.store(name, passed[name])
        if not self.trace.steps:
            size = sum(v.nbytes for v in self.kept.values()) * sum(map(self.wanted, run.steps[run.first :]))
            if size > 1e6 and size > 0.8 * (free := psutil.virtual_memory().available):
                large = f"this trace would hold {size / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free"
                raise TraceError(f"{large}: keep fewer steps (steps=) or fewer modules.")
        self.trace.steps.append(replace(run.step, seconds=time.perf_counter() - self.clock, values=self.kept))

    def store(self, name: str, value: torch.Tensor, run: Denoising | None = None) -> None:
        """run: where the value is a module's, "b half ...", of the halves that are computed at once."""
        held, key = (self.kept, name) if run is None else (self.halves.setdefault(name, {}), run.turn)
        held[key] = value.detach().to("cpu", copy=True)  # type: ignore[index]

    def recording(self) -> Denoising | None:
        run = running(self.listener)
        return run if run is not None and self.wanted(run.step) else None

    def by_sample(self, value: torch.Tensor, run: Denoising) -> torch.Tensor:
        """First dimension (half b n) to "b half n ..." without an n of 1; a half that was not computed is NaN."""
        value = value.unflatten(0, (run.at_once, len(run.latents), -1)).transpose(0, 1)
        if run.guidance is not None and run.halves == 1:
            value = torch.cat([torch.full_like(value, float("nan")), value], dim=1)
        return value.squeeze(2)

    def output_of(self, name: str) -> Callable[..., Any]:
        def hook(module: Any, args: tuple[Any, ...], output: Any) -> None:
            if (run := self.recording()) is not None:
                self.store(name, self.by_sample(_tensor(output), run), run)

        return hook

    def attention_of(self, name: str, attn: Any, queries: Sequence[Any]) -> list[tuple[torch.nn.Module, Callable[..., Any]]]:
        """Hooks that catch the call's own queries and keys, and one that makes maps of them when the module is done."""
        caught: dict[str, torch.Tensor] = {}

        def catch(which: str) -> Callable[..., Any]:
            def hook(module: Any, args: tuple[Any, ...], output: torch.Tensor) -> None:
                if self.recording() is not None:
                    caught[which] = output

            return hook

        def finish(module: Any, args: tuple[Any, ...], output: Any) -> None:
            if (run := self.recording()) is None:
                return
            if len(caught) < 2:
                own = f"{name} computes its queries and keys in a {type(attn.processor).__name__}, past to_q and to_k"
                raise TraceError(f"{own}: there is no map. Call pipe.unet.set_default_attn_processor() first.")
            q, k, (h, w) = caught.pop("q"), caught.pop("k"), run.latents.shape[-2:]
            temporal = fnmatch.fnmatch(name, SELF["temporal"])
            if not temporal:  # "(half b f) site c"
                while h * w > q.shape[1]:  # the UNet's levels halve the latents' size
                    h, w = (h + 1) // 2, (w + 1) // 2
                q = q[:, [min(int(y * h), h - 1) * w + min(int(x * w), w - 1) for y, x in queries]]
            n = run.at_once * len(run.latents) if temporal else len(q)  # one at a time, to bound the memory
            each = (_weights(attn, *pair).mean((0, 1)) for pair in zip(q.chunk(n), k.chunk(n), strict=True))
            weights = self.by_sample(torch.stack(list(each)), run)
            self.store(f"{name}.weights", weights if temporal else weights.unflatten(-1, (h, w)), run)
            if temporal:
                self.store(f"{name}.first_frame", weights[..., 0], run)

        return [(attn.to_q, catch("q")), (attn.to_k, catch("k")), (attn, finish)]


def _weights(attn: Any, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """softmax(scale * q k^T) "n head query key", as the module's processor has it inside."""
    q, k = (x.unflatten(-1, (attn.heads, -1)).transpose(1, 2).float() for x in (q, k))
    return (q @ k.transpose(-1, -2) * attn.scale).softmax(-1)


# --- edit -------------------------------------------------------------------------------------------------------------


@takes(pipe=pipeline, where=partial(names, least=1), fn=_function)
@contextmanager
def edit(pipe: ProbePipeline, where: str | Iterable[str], fn: Fn, *, steps: Any = None) -> Iterator[None]:
    """Change a value while the pipeline runs: fn(value, step) gives the new one, or None to leave it alone.

    >>> with edit(pipe, "denoised", lambda value, step: value.clamp(-3, 3), steps=(0.1, 10.0)):
    ...     clip = svdlab.generate(pipe, image)

    where: a module's name, glob or list (its output, with both halves, each time that it runs in a step), or one of
    latents: before the step, as UNet and scheduler see them, "b f c h w";
    added_time_ids: "(half b) 3", being fps - 1, motion bucket, noise strength; image_embeddings: "(half b) 1 d";
    image_latents: "(half b) f c h w" (these three are edited anew at every step);
    cond, uncond: the UNet's two outputs, "b f c h w"; guidance: the scale "b f 1 1 1" by which they are combined;
    model_output: the guided result; denoised: the estimate, and the step is then taken towards it, both "b f c h w".
    halves are unconditional, then conditional; without guidance there is the conditional one only.
    steps: as for `trace`. A step has index, sigma, sigma_next and timestep.

    fn is given a copy: to change it in place and return it is fine. Raises TraceError for an unknown place, and during the
    call for a result of another shape, and for a value that was changed in place and not returned. What fn itself raises ends
    the call and comes through as it is.
    """
    wanted, named = chosen_steps(steps), isinstance(where, str) and where in EDITABLE
    if not isinstance(where, str) and (places := [name for name in where if name in EDITABLE]):
        raise TraceError(f"{places[0]} stands alone, as in edit(pipe, {places[0]!r}, fn), not in a list: nest the blocks.")
    selected = {} if named else select_modules(pipe, where, others=EDITABLE)

    def hear(name: str, value: Any, run: Denoising) -> Any:
        if where == "guidance" and name == "cond" and run.halves == 1 and wanted(run.step):
            lacks = f"an edit of guidance cannot act on step {run.step.index}, where no unconditional half is computed"
            raise TraceError(f"{lacks}: set max_guidance_scale above 1, or restrict it by steps= to the guidance_interval.")
        return _changed(where, fn, value, run.step) if name == where and wanted(run.step) else value

    def hook(module: Any, args: tuple[Any, ...], output: Any) -> Any:
        run = running(listener)
        if run is None or not wanted(run.step):
            return None
        new = _changed(where, fn, _tensor(output), run.step)
        if isinstance(output, torch.Tensor):
            return new
        return (new, *output[1:]) if isinstance(output, tuple) else type(output)(sample=new)

    with listen(pipe, hear, edits=str(where) if named else f"modules {where!r}") as listener, ExitStack() as stack:
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
    # Its version misses what went through `.data` or `.numpy()`; NaN, which a value may hold, equals nothing.
    same = torch.equal(copy, value) or bool(((copy == value) | ((copy != copy) & (value != value))).all())
    touched = not same or (not copy.is_inference() and copy._version > 0)
    if new is None and touched:
        raise TraceError(f"the edit of {where!r} changed its value in place and gave None: end it with `return value`.")
    if new is None or (new is copy and not touched):
        return value
    dense = isinstance(new, torch.Tensor) and new.layout == torch.strided and new.device.type != "meta"
    if not dense or new.shape != value.shape or new.is_complex():
        came = f"{new.dtype} of shape {tuple(new.shape)}" if dense else type(new).__name__
        raise TraceError(f"the edit of {where!r} gave {came}: give a real tensor of shape {tuple(value.shape)}, or None.")
    return new.to(value)
