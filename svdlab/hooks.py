"""See and change anything inside the denoising, by sentences around the user's own call, and leave nothing behind.

    >>> with trace(pipe, keep=("latents", "denoised", "cond", "uncond")) as tr:
    ...     clip = svdlab.generate(pipe, image, seed=0)
    >>> with edit(pipe, "unet.mid_block.attentions.0.temporal_transformer_blocks.0.attn1", lambda value, step: 0 * value):
    ...     clip = svdlab.generate(pipe, image, seed=0)
    >>> again = branch(pipe, tr, step=12, motion_bucket_id=30)

Works on any `StableVideoDiffusionPipeline`. What is patched, on entering and never before: `step` on the scheduler's
instance, a few small methods on the pipeline's instance, forward hooks on modules. The denoising loop is known to be
this pipeline's because the loop opens this pipeline's own progress bar; so two pipelines may share modules.
Nested blocks: the inner one is nearer to the model. Its edit acts first, and the outer one sees the result.
"""

from __future__ import annotations

import difflib
import fnmatch
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import psutil
import torch
from diffusers import StableVideoDiffusionPipeline

from svdlab.errors import InputError, TraceError
from svdlab.pipeline import _CALLS, _IMAGES, Clip, ProbePipeline, Source, generate_batch
from svdlab.record import Step, Trace

KEEP = ("latents", "next_latents", "denoised", "model_output", "cond", "uncond", "guidance_pressure")
EDITABLE = ("latents", "denoised", "model_output", "cond", "uncond", "added_time_ids", "image_embeddings", "image_latents")
ATTENTION = ("temporal", "spatial")


def module_names(pipe: StableVideoDiffusionPipeline, contains: str = "") -> list[str]:
    """Names that `trace` and `edit` take: the pipeline's component and the path in it.

    >>> module_names(pipe, "time_mixer")[0]
    'unet.down_blocks.0.resnets.0.time_mixer'
    """
    return [name for name in _modules(pipe) if contains in name]


def _modules(pipe: StableVideoDiffusionPipeline) -> dict[str, torch.nn.Module]:
    found = {}
    for part, component in pipe.components.items():
        if isinstance(component, torch.nn.Module):
            component = getattr(component, "_orig_mod", component)
            found.update({f"{part}.{n}" if n else part: m for n, m in component.named_modules()})
    return found


def _select(pipe: StableVideoDiffusionPipeline, which: Any) -> dict[str, torch.nn.Module]:
    """Modules by name, glob, list of either, or predicate on the name."""
    every = _modules(pipe)
    if callable(which):
        chosen = [n for n in every if which(n)]
        if not chosen:
            raise TraceError("the predicate given for modules matches none of the pipeline's modules.")
    else:
        chosen = []
        for pattern in [which] if isinstance(which, str) else list(which):
            hits = [pattern] if pattern in every else fnmatch.filter(every, pattern)
            if not hits:
                near = difflib.get_close_matches(pattern, every, n=4, cutoff=0.3)
                raise TraceError(f"no module {pattern!r}. Nearest: {', '.join(near)}. See svdlab.module_names(pipe).")
            chosen += hits
    for name in chosen:
        part = getattr(pipe, name.split(".")[0])
        if hasattr(part, "_orig_mod"):
            raise TraceError(
                f"{name} is inside a torch.compile'd module, where hooks never fire: load with compile=False to look inside. "
                f"Latents, denoised, cond and uncond can be traced all the same."
            )
    return {n: every[n] for n in dict.fromkeys(chosen)}


def _wanted(steps: Any) -> Callable[[Step], bool]:
    """`steps=` as a predicate: None, indices, a slice, a range of sigma (low, high) as floats, or a function of the step."""
    if steps is None:
        return lambda step: True
    if callable(steps):
        return lambda step: bool(steps(step))
    if isinstance(steps, slice):
        return lambda step: step.index in range(*steps.indices(10**6))
    if isinstance(steps, int):
        return lambda step: step.index == steps
    steps = list(steps)
    if len(steps) == 2 and all(isinstance(s, float) for s in steps):
        low, high = sorted(steps)
        return lambda step: low <= step.sigma <= high
    if not all(isinstance(s, int) and s >= 0 for s in steps):
        raise InputError(f"steps={steps!r}: give step numbers from 0, a slice, two floats as a range of sigma, or a function of the step.")
    chosen = set(steps)
    return lambda step: step.index in chosen


@contextmanager
def _instance_method(owner: Any, name: str, wrap: Callable[[Callable], Callable]) -> Iterator[None]:
    """Put `wrap(the method as it is)` on the instance, and take it off again as it was."""
    had, before = name in vars(owner), vars(owner).get(name)
    vars(owner)[name] = wrap(getattr(owner, name))
    try:
        yield
    finally:
        if had:
            vars(owner)[name] = before
        else:
            vars(owner).pop(name, None)


class _Loop:
    """Follows one pipeline's denoising loop: whether it runs, and which step it is at."""

    def __init__(self, pipe: StableVideoDiffusionPipeline) -> None:
        self.pipe, self.running, self.step = pipe, False, Step(-1, float("nan"), float("nan"), float("nan"))
        self.on_start: list[Callable[[], None]] = []
        self.before_unet: list[Callable[[Step], None]] = []

    @contextmanager
    def follow(self) -> Iterator[_Loop]:
        loop, unet = self, self.pipe.unet

        @contextmanager
        def watched(bar: Any) -> Iterator[Any]:
            for act in loop.on_start:
                act()
            loop.running = True
            try:
                with bar as opened:
                    yield opened
            finally:
                loop.running = False

        def at_unet(module: Any, args: tuple, kwargs: dict) -> None:
            if loop.running:
                scheduler = loop.pipe.scheduler
                i = int(scheduler.step_index)
                sigmas = scheduler.sigmas
                loop.step = Step(i, float(sigmas[i]), float(sigmas[i + 1]), float(scheduler.timesteps[i]))

        with ExitStack() as stack:
            stack.enter_context(_instance_method(self.pipe, "progress_bar", lambda old: lambda *a, **k: watched(old(*a, **k))))
            handle = unet.register_forward_pre_hook(at_unet, with_kwargs=True, prepend=True)
            stack.callback(handle.remove)
            yield self


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

    keep: of latents (before the step), next_latents, denoised, model_output (guided), cond, uncond,
    guidance_pressure (|cond - uncond| over channels, "f h w"). cond and uncond need guidance.
    modules: names, globs, a list, or a predicate; outputs are kept as "s half n ...", halves being unconditional and
    conditional where guided, n what the module has per sample ("f c h w", or sites by frames).
    attention: "temporal" (frames by frames per block, mean over sites and heads: "s half q k", with `.entropy`
    (nats) and `.first_frame` (mass on frame 0) beside), "spatial" (for `queries`, as fractions (y, x) of the frame:
    "s half f query h w" flattened over the sites), or names of attn1 modules. The image cross-attention is refused.
    steps: see `_wanted`; reduce: applied to each module output before storing; dtype: None keeps what was computed.

    One block traces one call. Raises TraceError (and says the nearest names) for what does not exist; a trace that
    stays empty raises when it is read.
    """
    unknown = [k for k in keep if k not in KEEP]
    if unknown or isinstance(keep, str):
        raise InputError(f"keep={keep!r}: give a tuple of {', '.join(KEEP)}.")
    selected = _select(pipe, modules) if callable(modules) or len(modules) else {}
    maps = _attention_modules(pipe, attention)
    wanted = _wanted(steps)
    tr = Trace(label=getattr(getattr(pipe, "source", None), "label", ""))
    loop = _Loop(pipe)
    pending: dict[str, torch.Tensor] = {}
    state = {"clock": 0.0, "done": False, "halves": 1}

    def start() -> None:
        if state["done"]:
            raise TraceError("this trace already holds a run: open one `with svdlab.trace(pipe)` block for each call.")
        state.update(done=True, clock=time.perf_counter())
        tr.schedule = pipe.scheduler.sigmas.numpy().copy()
        tr.calls, tr.images = list(_CALLS.get() or []), list(_IMAGES.get() or [])

    def store(name: str, value: torch.Tensor) -> None:
        value = value.detach()
        pending[name] = (value if dtype is None else value.to(dtype)).to("cpu", copy=True)

    def split(value: torch.Tensor) -> torch.Tensor:
        """First dimension (half batch n) to "b half n ...", so that a sample can be taken from it."""
        b, halves = tr.batch, int(state["halves"])
        return value.unflatten(0, (halves, b, -1)).transpose(0, 1)

    def at_unet_input(module: Any, args: tuple, kwargs: dict) -> None:
        if loop.running:
            state["halves"] = 2 if pipe.do_classifier_free_guidance else 1
            tr.batch = (args[0] if args else kwargs["sample"]).shape[0] // int(state["halves"])

    def at_unet_output(module: Any, args: tuple, output: Any) -> None:
        if not loop.running or not wanted(loop.step) or not {"cond", "uncond", "guidance_pressure"} & set(keep):
            return
        if state["halves"] == 1:
            raise TraceError("keep=cond, uncond or guidance_pressure needs guidance: set max_guidance_scale above 1.")
        uncond, cond = (output[0] if isinstance(output, tuple) else output.sample).chunk(2)
        for name, value in (("cond", cond), ("uncond", uncond)):
            if name in keep:
                store(name, value)
        if "guidance_pressure" in keep:
            store("guidance_pressure", (cond.float() - uncond.float()).norm(dim=2))

    def at_module(name: str) -> Callable:
        def hook(module: Any, args: tuple, output: Any) -> None:
            if loop.running and wanted(loop.step):
                value = output[0] if isinstance(output, tuple) else getattr(output, "sample", output)
                value = split(value)
                store(name, reduce(value) if reduce else value)

        return hook

    def at_attention(name: str) -> Callable:
        def hook(module: Any, args: tuple, kwargs: dict) -> None:
            if loop.running and wanted(loop.step):
                hidden = args[0] if args else kwargs["hidden_states"]
                for key, value in _attention_maps(module, hidden, queries, "temporal" in name, split).items():
                    store(name + key, value)

        return hook

    def wrap_step(old: Callable) -> Callable:
        def step(model_output: torch.Tensor, timestep: Any, sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            if not loop.running:
                return old(model_output, timestep, sample, *args, **kwargs)
            out = old(model_output, timestep, sample, *args, **kwargs)
            if wanted(loop.step):
                previous, denoised = (out[0], out[1]) if isinstance(out, tuple) else (out.prev_sample, out.pred_original_sample)
                values = dict(latents=sample, next_latents=previous, denoised=denoised, model_output=model_output)
                for name in keep:
                    if name in values:
                        store(name, values[name])
                now = time.perf_counter()
                s = loop.step
                kept = dict(pending)
                tr.steps.append(Step(s.index, s.sigma, s.sigma_next, s.timestep, now - state["clock"], kept))
                state["clock"] = now
                if len(tr.steps) == 1:
                    _announce(tr, sum(wanted(Step(i, *map(float, tr.schedule[i : i + 2]), 0.0)) for i in range(len(tr.schedule) - 1)))
            pending.clear()
            return out

        return step

    loop.on_start.append(start)
    with ExitStack() as stack:
        stack.enter_context(loop.follow())
        stack.enter_context(_instance_method(pipe.scheduler, "step", wrap_step))
        handles = [
            pipe.unet.register_forward_pre_hook(at_unet_input, with_kwargs=True),
            pipe.unet.register_forward_hook(at_unet_output),
        ]
        handles += [m.register_forward_hook(at_module(n)) for n, m in selected.items()]
        handles += [m.register_forward_pre_hook(at_attention(n), with_kwargs=True) for n, m in maps.items()]
        for handle in handles:
            stack.callback(handle.remove)
        yield tr


def _announce(tr: Trace, steps: int) -> None:
    """After the first kept step, what the whole trace will hold; too much for the machine stops the run here."""
    size = tr.nbytes * steps
    free = psutil.virtual_memory().available
    advice = "keep fewer steps (steps=), fewer modules, or pass reduce="
    if size > 0.8 * free:
        raise TraceError(f"this trace would hold {size / 1e9:.1f} GB and {free / 1e9:.1f} GB are free: {advice}.")
    if size > 1e9:
        warnings.warn(f"this trace will hold {size / 1e9:.1f} GB: {advice}.", ResourceWarning, stacklevel=2)


def _attention_modules(pipe: StableVideoDiffusionPipeline, which: Any) -> dict[str, torch.nn.Module]:
    chosen: dict[str, torch.nn.Module] = {}
    for item in [which] if isinstance(which, str) else list(which):
        if "attn2" in item or item in ("cross", "image"):
            raise TraceError(
                f"attention={item!r}: the cross-attention to the image has one key, so its map is 1 everywhere, whatever the "
                f"picture. Temporal and spatial self-attention (attn1) carry information: attention='temporal' or 'spatial'."
            )
        if item in ATTENTION:
            kind = "temporal_transformer_blocks" if item == "temporal" else ".transformer_blocks"
            chosen |= _select(pipe, lambda n, kind=kind: n.startswith("unet.") and kind in n and n.endswith(".attn1"))
        else:
            chosen |= _select(pipe, item)
    wrong = [n for n, m in chosen.items() if not hasattr(m, "to_q")]
    if wrong:
        raise TraceError(f"{wrong[0]} is no attention module: their names end in .attn1.")
    return chosen


def _attention_maps(
    attn: Any, hidden: torch.Tensor, queries: Sequence[tuple[float, float]], temporal: bool, split: Callable
) -> dict[str, torch.Tensor]:
    """Weights computed beside the module's own run from its own projections, so that the run itself is untouched."""
    heads = attn.heads
    q, k = attn.to_q(hidden), attn.to_k(hidden)
    q, k = (x.unflatten(-1, (heads, -1)).transpose(1, 2).float() for x in (q, k))
    if not temporal:
        sites = q.shape[2]
        rows = [_site(sites, y, x) for y, x in queries]
        q = q[:, :, rows]
    weights = (q @ k.transpose(-1, -2) * attn.scale).softmax(-1)
    if temporal:
        per_site = split(weights.mean(1))  # "b half sites q k"
        p = split(weights)
        entropy = -(p * p.clamp_min(1e-12).log()).sum(-1).mean(dim=(2, 3))
        mean = per_site.mean(2)
        return {"": mean, ".entropy": entropy, ".first_frame": mean[..., 0]}
    return {"": split(weights.mean(1))}


def _site(sites: int, y: float, x: float) -> int:
    """Index of the site at a fraction of a frame that is square, or SVD's 9 by 16."""
    side = round(sites**0.5)
    h, w = (side, side) if side * side == sites else (round((sites * 9 / 16) ** 0.5), round((sites * 16 / 9) ** 0.5))
    if h * w != sites:
        raise TraceError(f"spatial attention over {sites} sites: the frame is neither square nor 9:16.")
    return min(int(y * h), h - 1) * w + min(int(x * w), w - 1)


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

    where: a module's name, glob, list or predicate (its output, both halves), or one of latents (before the step, as
    the UNet sees them, "b f c h w"), cond, uncond, model_output (guided), denoised (the step is then taken towards
    it), added_time_ids ("(half b) 3": fps - 1, bucket, noise), image_embeddings ("(half b) 1 d"), image_latents
    ("(half b) f c h w"). The last three belong to the conditioning: they are edited at every step in `steps`.
    Nested edits of one value: the inner block acts first. Raises TraceError for an unknown place.
    """
    wanted = _wanted(steps)
    loop = _Loop(pipe)

    def changed(value: torch.Tensor) -> torch.Tensor:
        if not loop.running or not wanted(loop.step):
            return value
        new = fn(value, loop.step)
        if new is None:
            return value
        if not isinstance(new, torch.Tensor) or new.shape != value.shape:
            came = tuple(new.shape) if isinstance(new, torch.Tensor) else type(new).__name__
            raise TraceError(f"the edit of {where!r} gave {came}: it must give a tensor of shape {tuple(value.shape)}, or None.")
        return new.to(value)

    with ExitStack() as stack:
        if isinstance(where, str) and where in EDITABLE:
            stack.enter_context(loop.follow())
            stack.enter_context(_edit_value(pipe, where, changed, loop))
        else:
            selected = _select(pipe, where)
            stack.enter_context(loop.follow())
            for module in selected.values():
                handle = module.register_forward_hook(_output_hook(changed))
                stack.callback(handle.remove)
        yield


def _output_hook(changed: Callable[[torch.Tensor], torch.Tensor]) -> Callable:
    def hook(module: Any, args: tuple, output: Any) -> Any:
        if isinstance(output, tuple):
            return (changed(output[0]), *output[1:])
        if isinstance(output, torch.Tensor):
            return changed(output)
        output.sample = changed(output.sample)
        return output

    return hook


@contextmanager
def _edit_value(pipe: Any, where: str, changed: Callable[[torch.Tensor], torch.Tensor], loop: _Loop) -> Iterator[None]:
    if where in ("model_output", "denoised"):

        def wrap(old: Callable) -> Callable:
            def step(model_output: torch.Tensor, timestep: Any, sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
                if where == "model_output":
                    return old(changed(model_output), timestep, sample, *args, **kwargs)
                if not loop.running:
                    return old(model_output, timestep, sample, *args, **kwargs)
                s = loop.step.sigma
                x = sample.float()
                denoised = x / (s**2 + 1) - model_output.float() * (s / (s**2 + 1) ** 0.5)
                new = changed(denoised)
                if new is not denoised:  # the output that leads to the new estimate
                    model_output = ((x / (s**2 + 1) - new) * ((s**2 + 1) ** 0.5 / s)).to(model_output)
                return old(model_output, timestep, sample, *args, **kwargs)

            return step

        with _instance_method(pipe.scheduler, "step", wrap):
            yield
        return

    def before(module: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        if not loop.running:
            return args, kwargs
        kwargs = dict(kwargs)
        if where == "added_time_ids":
            kwargs["added_time_ids"] = changed(kwargs["added_time_ids"])
        elif where == "image_embeddings":
            kwargs["encoder_hidden_states"] = changed(kwargs["encoder_hidden_states"])
        else:
            x = args[0]
            noisy, picture = x.chunk(2, dim=2)
            if where == "image_latents":
                picture = changed(picture)
            else:
                raise AssertionError(where)
            args = (torch.cat([noisy, picture], dim=2), *args[1:])
        return args, kwargs

    def after(module: Any, args: tuple, output: Any) -> Any:
        if not loop.running:
            return output
        value = output[0] if isinstance(output, tuple) else output.sample
        if not pipe.do_classifier_free_guidance:
            if where == "uncond":
                raise TraceError("an edit of uncond needs guidance: set max_guidance_scale above 1.")
            halves = [changed(value)]
        else:
            uncond, cond = value.chunk(2)
            halves = [changed(uncond), cond] if where == "uncond" else [uncond, changed(cond)]
        value = torch.cat(halves)
        return (value, *output[1:]) if isinstance(output, tuple) else type(output)(sample=value)

    if where == "latents":
        with _edit_latents(pipe, changed, loop):
            yield
        return
    hook = (
        pipe.unet.register_forward_hook(after)
        if where in ("cond", "uncond")
        else pipe.unet.register_forward_pre_hook(before, with_kwargs=True)
    )
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def _edit_latents(pipe: Any, changed: Callable[[torch.Tensor], torch.Tensor], loop: _Loop) -> Iterator[None]:
    """Both the UNet and the scheduler must see the edited latents: one is handed them scaled, the other as they are."""
    edited: list[torch.Tensor] = []

    def wrap_scale(old: Callable) -> Callable:
        def scale_model_input(sample: torch.Tensor, timestep: Any) -> torch.Tensor:
            if not loop.running:
                return old(sample, timestep)
            scheduler = pipe.scheduler
            if scheduler.step_index is None:
                scheduler._init_step_index(timestep)
            i = int(scheduler.step_index)
            loop.step = Step(i, float(scheduler.sigmas[i]), float(scheduler.sigmas[i + 1]), float(scheduler.timesteps[i]))
            halves = 2 if pipe.do_classifier_free_guidance else 1
            latents = sample.chunk(halves)[0]
            new = changed(latents)
            edited[:] = [] if new is latents else [new]
            return old(torch.cat([new] * halves) if edited else sample, timestep)

        return scale_model_input

    def wrap_step(old: Callable) -> Callable:
        def step(model_output: torch.Tensor, timestep: Any, sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            sample = edited.pop() if loop.running and edited else sample
            return old(model_output, timestep, sample, *args, **kwargs)

        return step

    with _instance_method(pipe.scheduler, "scale_model_input", wrap_scale), _instance_method(pipe.scheduler, "step", wrap_step):
        yield


def branch(pipe: ProbePipeline, trace: Trace, step: int, **changes: Any) -> Clip:
    """Start again from the latents before a step, with some conditions changed.

    >>> clip = branch(pipe, tr, 12, motion_bucket_id=30)
    >>> clip = branch(pipe, tr, 12, image="cat")            # another picture from here on

    step: number of a traced step, from 0. changes: conditions by name, or `image`. Without changes the original clip
    comes back, bit for bit on a CPU. Raises TraceError where the trace does not hold what is needed.
    """
    if trace.batch != 1:
        raise TraceError(f"this trace holds {trace.batch} samples: branch from one, as in branch(pipe, tr[0], {step}).")
    if not trace.calls or not trace.images:
        raise TraceError(
            "branch needs a trace made through svdlab.generate in this session (image, seed and conditions come with it); "
            "this one was made by calling the pipeline itself, or loaded from a file: give the picture by trace.images."
        )
    kept = {s.index: s for s in trace.steps if "latents" in s.values}
    if step not in kept:
        raise TraceError(
            f"step {step}: the trace holds latents of {', '.join(map(str, sorted(kept))) or 'no step'}. Trace with keep=('latents',) and that step."
        )
    call = trace.calls[0]
    from svdlab.conditions import Conditions

    saved = dict(call["conditions"])
    for name in ("guidance_curve", "guidance_interval"):
        if isinstance(saved[name], list):
            saved[name] = tuple(saved[name])
    image = changes.pop("image", trace.images[0])
    fixed = {"num_frames", "height", "width", "num_inference_steps"} & set(changes)
    if fixed:
        raise InputError(f"{', '.join(sorted(fixed))} cannot change in mid-run: the latents have that shape and schedule.")
    conditions = Conditions(**saved).replace(**changes)
    clips = generate_batch(
        pipe, [image], [conditions], [call["seed"]], sigmas=trace.schedule[step:].tolist(), latents=kept[step].values["latents"]
    )
    return clips[0]
