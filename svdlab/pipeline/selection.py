"""Which modules and which steps: the values that `modules=`, `where` and `steps=` take.

>>> module_names(pipe, "time_mixer")[0]
'unet.down_blocks.0.resnets.0.time_mixer'
"""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Callable, Iterable, Sequence
from numbers import Integral
from typing import Any

import torch

from svdlab.errors import InputError, TraceError
from svdlab.pipeline.record import Step
from svdlab.pipeline.upstream import StableVideoDiffusionPipeline

OUTSIDE = ("vae", "image_encoder")  # parts that run before and after the denoising, where there are no steps


def module_names(pipe: StableVideoDiffusionPipeline, contains: str = "") -> list[str]:
    """Names that `trace` and `edit` take: the UNet's modules, in the order in which it holds them.

    >>> module_names(pipe, "mid_block.attentions.0.temporal")[0]
    'unet.mid_block.attentions.0.temporal_transformer_blocks.0'

    The image encoder and the VAE run outside the denoising loop and are left out. So are lists of modules, which never
    run themselves.
    """
    return [name for name in _modules(pipe) if contains in name]


def _modules(pipe: StableVideoDiffusionPipeline) -> dict[str, torch.nn.Module]:
    unet = getattr(pipe.unet, "_orig_mod", pipe.unet)
    lists = (torch.nn.ModuleList, torch.nn.ModuleDict)
    return {f"unet.{n}" if n else "unet": m for n, m in unet.named_modules() if not isinstance(m, lists)}


def select_modules(
    pipe: StableVideoDiffusionPipeline, which: Any, *, others: Iterable[str] = ()
) -> dict[str, torch.nn.Module]:
    """Modules by name, glob, list of either, or predicate on the name, in the order asked for.

    others: what may be named in the same place, for the error. Raises TraceError for a name that is none (with the nearest
    ones), a pattern that matches nothing, and what lies inside a compiled module.
    """
    every = _modules(pipe)
    if callable(which):
        chosen = [name for name in every if which(name)]
        if not chosen:
            raise TraceError("the predicate matches none of the UNet's modules: see svdlab.module_names(pipe).")
    else:
        chosen = []
        for pattern in [which] if isinstance(which, str) else list(which):
            hits = [pattern] if pattern in every else fnmatch.filter(every, str(pattern))
            if not hits:
                raise TraceError(_unknown(str(pattern), [*others, *every]))
            chosen += hits
    for name in chosen:
        if name != "unet" and _compiled(pipe.unet, name):
            raise TraceError(
                f"{name} is inside a compiled module, where hooks never fire: load with compile=False to look inside. "
                f"latents, denoised, cond and uncond can be traced and edited all the same."
            )
    return {name: every[name] for name in dict.fromkeys(chosen)}


def _unknown(name: str, known: list[str]) -> str:
    if name.split(".")[0] in OUTSIDE:
        return f"{name} runs outside the denoising loop, where there are no steps: use torch's own forward hook on it."
    near = difflib.get_close_matches(name, known, n=4, cutoff=0.3)
    if not near:
        return f"no module {name!r}: see svdlab.module_names(pipe)."
    return f"no module {name!r}. Nearest: {', '.join(near)}. All of them: svdlab.module_names(pipe)."


def _compiled(unet: torch.nn.Module, name: str) -> bool:
    """Whether torch.compile(...) or module.compile() was called on what encloses the module, or on itself."""
    enclosing = [unet]
    module = getattr(unet, "_orig_mod", unet)
    enclosing.append(module)
    for part in name.split(".")[1:]:
        module = getattr(module, part)
        enclosing.append(module)
    return any(hasattr(m, "_orig_mod") or getattr(m, "_compiled_call_impl", None) is not None for m in enclosing)


def chosen_steps(steps: Any) -> Callable[[Step], bool]:
    """`steps=` as a predicate.

    None: all. A whole number or several (a range too): steps by number, from 0. A slice of numbers. Two floats: a range of
    sigma, both ends included. A function of the step: where it is true. Raises InputError for anything else.
    """
    if steps is None:
        return lambda step: True
    if callable(steps):
        return lambda step: bool(steps(step))
    if isinstance(steps, slice):
        if any(v is not None and v < 0 for v in (steps.start, steps.stop, steps.step)):
            raise InputError(f"steps={steps!r}: count from the first step; the number of steps is not known before the run.")
        return lambda step: step.index in range(*steps.indices(step.index + 1))
    if _whole(steps):
        steps = [steps]
    try:
        steps = list(steps)
    except TypeError:
        steps = [steps]
    if len(steps) == 2 and all(isinstance(s, float) for s in steps):
        low, high = sorted(steps)
        return lambda step: low <= step.sigma <= high
    if not steps or not all(map(_whole, steps)):
        raise InputError(
            f"steps={steps!r}: give step numbers from 0, a slice, two floats as a range of sigma, or a function of the step."
        )
    wanted = {int(s) for s in steps}
    return lambda step: step.index in wanted


def _whole(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, Integral) and int(value) >= 0


def names_among(given: Sequence[str] | str, known: Sequence[str], argument: str) -> tuple[str, ...]:
    """A tuple of names, each of which is known; raises InputError that lists them."""
    given = (given,) if isinstance(given, str) else tuple(given)
    unknown = [name for name in given if name not in known]
    if unknown:
        raise InputError(f"{argument}={given!r}: {unknown[0]!r} is none of {', '.join(known)}.")
    return given
