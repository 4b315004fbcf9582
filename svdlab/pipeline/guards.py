"""A run that goes wrong stops where it does, and says so: NaN by step and module, out of memory with what would help.

    >>> with watch(pipe, [conditions]):
    ...     pipe(image)
    svdlab.errors.BrokenClipError: NaN or infinity at step 3 of 25 (sigma 214), first in unet.up_blocks.3.resnets.0 ...

Costs one look at the latents per step. Only when they are broken is the step's UNet call made again, with a hook on
every module, to find the first that broke.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from svdlab.errors import BrokenClipError, OutOfMemoryError, SvdlabError
from svdlab.pipeline.conditions import Conditions
from svdlab.pipeline.memory import advice, is_out_of_memory


@contextmanager
def watch(pipe: Any, conditions: Sequence[Conditions]) -> Iterator[None]:
    """Around one call of the pipeline. Raises BrokenClipError and OutOfMemoryError in place of what would come."""
    last: dict[str, Any] = {}
    scheduler, unet = pipe.scheduler, pipe.unet

    def remember(module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        last.update(args=args, kwargs=kwargs)

    def checked(old: Callable) -> Callable:
        def step(model_output: torch.Tensor, timestep: Any, sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            index = scheduler.step_index
            out = old(model_output, timestep, sample, *args, **kwargs)
            new = out[0] if isinstance(out, tuple) else out.prev_sample
            if not torch.isfinite(new).all():
                where = _first_broken(unet, last) if last and not torch.isfinite(model_output).all() else ""
                raise BrokenClipError(_broken(pipe, scheduler, index, where))
            return out

        return step

    had, before = "step" in vars(scheduler), vars(scheduler).get("step")
    with ExitStack() as stack:
        stack.callback(unet.register_forward_pre_hook(remember, with_kwargs=True).remove)
        scheduler.step = checked(scheduler.step)
        stack.callback(lambda: vars(scheduler).update(step=before) if had else vars(scheduler).pop("step", None))
        stack.callback(last.clear)
        stack.enter_context(room(pipe, conditions))
        yield


@contextmanager
def room(pipe: Any, conditions: Sequence[Conditions]) -> Iterator[None]:
    """Around what takes memory: OutOfMemoryError says what would help, where torch says only how much was asked for."""
    try:
        yield
    except SvdlabError:
        raise
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(_too_large(pipe, conditions, error)) from error


def _broken(pipe: Any, scheduler: Any, index: int | None, where: str) -> str:
    dtype = str(pipe.unet.dtype).removeprefix("torch.")
    index = index or 0  # None at the first step, which sets it
    at = f" at step {index} of {len(scheduler.timesteps)} (sigma {float(scheduler.sigmas[index]):.3g})"
    place = f", first in {where}" if where else ", though not in the UNet itself: look at edits, guidance and given latents"
    if dtype == "float16" and where:
        remedy = "float16 holds numbers up to 65504 only: load with dtype='bfloat16' or dtype='float32'."
    elif where:
        remedy = (
            f"In {dtype} that is no overflow of half precision: check the weights (svdlab.pipeline.checkpoints.verify), and "
            f"edits of modules, if there are any."
        )
    else:
        remedy = "The clip was given up."
    return f"NaN or infinity{at}{place}. {remedy}"


class _Found(Exception):
    """Ends the repeated call at the first broken module."""


@torch.no_grad()
def _first_broken(unet: Any, call: dict[str, Any]) -> str:
    """The module whose output is not finite although its input is; "" where the repeated call breaks nowhere.

    Inner modules end before outer ones, so the innermost is named; a function that a module calls by itself, such as
    attention, is laid to that module.
    """
    unet = getattr(unet, "_orig_mod", unet)  # a compiled module fires no hooks inside

    def check(name: str) -> Callable:
        def hook(module: Any, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
            if not _finite(output) and _finite((args, kwargs)):
                raise _Found(f"unet.{name}" if name else "unet")

        return hook

    if not _finite((call["args"], call["kwargs"])):
        return "what the UNet is given (picture, embeddings or latents)"
    with ExitStack() as stack:
        for name, module in unet.named_modules():
            stack.callback(module.register_forward_hook(check(name), with_kwargs=True).remove)
        try:
            unet(*call["args"], **call["kwargs"])
        except _Found as found:
            return str(found)
    return ""


def _finite(values: Any) -> bool:
    return all(
        bool(torch.isfinite(t).all()) for t in tree_leaves(values) if isinstance(t, torch.Tensor) and t.is_floating_point()
    )


def _too_large(pipe: Any, conditions: Sequence[Conditions], error: BaseException) -> str:
    said = next(iter(str(error).splitlines()), type(error).__name__)
    what = f"{len(conditions)} clips" if len(conditions) > 1 else "one clip"
    c = conditions[0]
    text = f"{what} of {c.num_frames} frames of {c.width}x{c.height} px did not fit into memory."
    if len(conditions) > 1:
        return f"{text} Make fewer at a time. ({said})"
    try:
        return f"{text} {advice(pipe, c)} ({said})"
    except Exception:  # advice must not hide what happened
        return f"{text} Load with offload='model', or choose a smaller decode_chunk_size, fewer frames, smaller ones. ({said})"
