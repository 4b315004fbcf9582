"""Which modules, which steps, and attention maps: what `modules=`, `attention=`, `where` and `steps=` take and give.

    >>> module_names(pipe, "time_mixer")[0]
    'unet.down_blocks.0.resnets.0.time_mixer'
    >>> with svdlab.trace(pipe, attention="temporal") as tr:
    ...     clip = svdlab.generate(pipe, image, num_inference_steps=4)
    >>> tr["unet.mid_block.attentions.0.temporal_transformer_blocks.0.attn1.weights"].shape     # "s half query key"
    torch.Size([4, 2, 8, 8])

Temporal attention is frames by frames at each site of the image: the mean over sites and heads is kept. Spatial attention is
sites by sites in each frame, tens of GB at full size: it is kept for a few query positions. Attention to the image (attn2)
has one key, so its weights are 1 whatever the image: there is nothing to keep.
"""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Callable, Iterable, Sequence
from numbers import Integral
from typing import Any

import torch

from svdlab.errors import InputError, TraceError
from svdlab.pipeline.sampler import Step

OUTSIDE = ("vae", "image_encoder")  # parts that run before and after the denoising, where there are no steps
KINDS = {"temporal": ".temporal_transformer_blocks.", "spatial": ".transformer_blocks."}


def module_names(pipe: Any, contains: str = "") -> list[str]:
    """Names that `trace` and `edit` take: the UNet's modules, in the order in which it holds them.

    >>> module_names(pipe, "mid_block.attentions.0.temporal")[0]
    'unet.mid_block.attentions.0.temporal_transformer_blocks.0'

    The image encoder and the VAE run outside the denoising and are left out. So are lists of modules, which never run.
    """
    return [name for name in _modules(pipe) if contains in name]


def _modules(pipe: Any) -> dict[str, torch.nn.Module]:
    unet = getattr(pipe.unet, "_orig_mod", pipe.unet)
    lists = (torch.nn.ModuleList, torch.nn.ModuleDict)
    return {f"unet.{n}" if n else "unet": m for n, m in unet.named_modules() if not isinstance(m, lists)}


def select_modules(pipe: Any, which: Any, *, others: Iterable[str] = ()) -> dict[str, torch.nn.Module]:
    """Modules by name, glob, list of either, or predicate on the name, in the order asked for.

    others: what may be named in the same place, for the error. Raises TraceError for a name that is none (with the nearest
    ones), a pattern that matches nothing, and what lies inside a compiled module.
    """
    every = _modules(pipe)
    patterns: list[Any] = [which] if isinstance(which, str) or callable(which) else list(which)
    chosen: list[str] = []
    for pattern in patterns:
        if callable(pattern):
            hits = [name for name in every if pattern(name)]
        else:
            hits = [pattern] if pattern in every else fnmatch.filter(every, str(pattern))
        if not hits and callable(pattern):
            raise TraceError("the predicate matches none of the UNet's modules: see svdlab.module_names(pipe).")
        if not hits and str(pattern).split(".")[0] in OUTSIDE:
            raise TraceError(f"{pattern} runs outside the denoising, where there are no steps: use torch's own forward hook.")
        if not hits:
            near = difflib.get_close_matches(str(pattern), [*others, *every], n=4, cutoff=0.3)
            raise TraceError(f"no module {pattern!r}. Nearest: {', '.join(near) or 'none'}. All: svdlab.module_names(pipe).")
        chosen += hits
    for name in chosen:
        if name != "unet" and _compiled(pipe.unet, name):
            raise TraceError(
                f"{name} is inside a compiled module, where hooks never fire: load with compile=False to look inside. "
                f"latents, denoised, cond and uncond can be traced and edited all the same."
            )
    return {name: every[name] for name in dict.fromkeys(chosen)}


def _compiled(unet: torch.nn.Module, name: str) -> bool:
    """Whether torch.compile(...) or module.compile() was called on what encloses the module, or on itself."""
    enclosing = [unet, getattr(unet, "_orig_mod", unet)]
    for part in name.split(".")[1:]:
        enclosing.append(getattr(enclosing[-1], part))
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
            raise InputError(f"steps={steps!r}: count from the first step; the number of steps is not known before the call.")
        return lambda step: step.index in range(*steps.indices(step.index + 1))
    found = list(steps) if isinstance(steps, Iterable) else [steps]
    if len(found) == 2 and all(isinstance(s, float) for s in found):
        low, high = sorted(found)
        return lambda step: low <= step.sigma <= high
    if not found or any(isinstance(s, bool) or not isinstance(s, Integral) or s < 0 for s in found):
        raise InputError(
            f"steps={steps!r}: give step numbers from 0, a slice, two floats as a range of sigma, or a function of the step."
        )
    wanted = {int(s) for s in found}
    return lambda step: step.index in wanted


# --- attention --------------------------------------------------------------------------------------------------------


def attention_modules(pipe: Any, which: Any) -> dict[str, torch.nn.Module]:
    """The self-attention modules meant by "temporal", "spatial", names, globs, or a list of those."""
    chosen: dict[str, torch.nn.Module] = {}
    for item in [which] if isinstance(which, str) else list(which):
        if "attn2" in item or item in ("cross", "image"):
            raise TraceError(
                f"attention={item!r}: attention to the image has one key, so its map is 1 everywhere, whatever the image. "
                f"Self-attention carries information: attention='temporal' or 'spatial'. What attn2 adds to each block "
                f"can be had by modules='*.attn2'."
            )
        kind = KINDS.get(item)
        pattern = item if kind is None else f"unet*{kind}*.attn1"
        chosen |= select_modules(pipe, pattern, others=KINDS)
    for name in chosen:
        if not name.endswith(".attn1"):
            raise TraceError(f"{name} is no self-attention: their names end in .attn1. Give 'temporal' or 'spatial' for all.")
    return chosen


def check_queries(queries: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Positions (y, x) as fractions of the frame, 0 to 1; raises InputError."""
    found = [tuple(float(v) for v in query) for query in queries]
    if not found or any(len(query) != 2 or not all(0 <= v <= 1 for v in query) for query in found):
        raise InputError(f"queries={queries!r}: give positions (y, x) as fractions of the frame, such as ((0.5, 0.5),).")
    return found  # type: ignore[return-value]


def attention_maps(
    name: str, attn: Any, q: torch.Tensor, k: torch.Tensor, rows: int, size: tuple[int, int], queries: Sequence
) -> dict[str, torch.Tensor]:
    """What a module's self-attention did, from the queries and keys that it computed, for each of `rows` halves of samples.

    Temporal; q, k "(row site) frame (head d)": ".weights", the mean "row query key" over sites and heads, which sums to 1 over
    keys; ".entropy" of the weights before the mean, in nats, "row", from 0 (one frame) to ln(frames); ".first_frame", the mean
    weight on frame 0, "row query". Spatial; q, k "(row frame) site (head d)": ".weights", the mean over heads from `queries`
    to all sites, "(row frame) position y x". size: height and width of the latents.
    """
    if KINDS["temporal"] in name:
        maps, entropies = [], []
        for one_q, one_k in zip(q.chunk(rows), k.chunk(rows), strict=True):  # one at a time, to bound the memory
            weights = _weights(attn, one_q, one_k)
            maps.append(weights.mean(dim=(0, 1)))
            entropies.append(torch.special.entr(weights).sum(-1).mean())
        mean = torch.stack(maps)
        return {".weights": mean, ".entropy": torch.stack(entropies), ".first_frame": mean[..., 0]}
    h, w = size
    while h * w > q.shape[1]:  # the UNet's levels halve the latents' size
        h, w = (h + 1) // 2, (w + 1) // 2
    sites = [min(int(y * h), h - 1) * w + min(int(x * w), w - 1) for y, x in queries]
    rows_of = zip(q[:, sites].split(1), k.split(1), strict=True)
    return {".weights": torch.cat([_weights(attn, a, b).mean(1) for a, b in rows_of]).unflatten(-1, (h, w))}


def _weights(attn: Any, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """softmax(scale * q k^T) "n head query key", as the module's processor has it inside."""
    q, k = (x.unflatten(-1, (attn.heads, -1)).transpose(1, 2).float() for x in (q, k))
    return (q @ k.transpose(-1, -2) * attn.scale).softmax(-1)
