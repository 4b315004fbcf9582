"""Self-attention maps, from the very queries and keys that a run computed, reduced before they are stored.

    >>> with trace(pipe, attention="temporal") as tr: ...
    >>> tr["unet.mid_block.attentions.0.temporal_transformer_blocks.0.attn1.weights"].shape     # "s half query key"
    torch.Size([25, 2, 8, 8])

Temporal attention is frames by frames at each site of the picture: the mean over sites and heads is kept. Spatial
attention is sites by sites in each frame, tens of GB at full size: it is kept for a few query positions. Attention to
the image (attn2) has one key, so its weights are 1 whatever the picture: there is nothing to keep.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from svdlab.errors import InputError, TraceError
from svdlab.pipeline.selection import select_modules
from svdlab.pipeline.upstream import StableVideoDiffusionPipeline

KINDS = {"temporal": ".temporal_transformer_blocks.", "spatial": ".transformer_blocks."}


def attention_modules(pipe: StableVideoDiffusionPipeline, which: Any) -> dict[str, torch.nn.Module]:
    """The self-attention modules meant by "temporal", "spatial", names, globs, or a list of those."""
    chosen: dict[str, torch.nn.Module] = {}
    for item in [which] if isinstance(which, str) else list(which):
        if "attn2" in item or item in ("cross", "image"):
            raise TraceError(
                f"attention={item!r}: attention to the image has one key, so its map is 1 everywhere, whatever the picture. "
                f"Self-attention carries information: attention='temporal' or 'spatial'. What attn2 adds to each block "
                f"can be had by modules='*.attn2'."
            )
        if item in KINDS:
            kind = KINDS[item]
            chosen |= select_modules(pipe, lambda name, kind=kind: kind in name and name.endswith(".attn1"))
        else:
            chosen |= select_modules(pipe, item, others=KINDS)
    for name in chosen:
        if not name.endswith(".attn1"):
            raise TraceError(f"{name} is no self-attention: their names end in .attn1. Give 'temporal' or 'spatial' for all.")
    return chosen


def is_temporal(name: str) -> bool:
    return KINDS["temporal"] in name


def check_queries(queries: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Positions (y, x) as fractions of the frame, 0 to 1; raises InputError."""
    found = [tuple(float(v) for v in query) for query in queries]
    if not found or any(len(query) != 2 or not all(0 <= v <= 1 for v in query) for query in found):
        raise InputError(f"queries={queries!r}: give positions (y, x) as fractions of the frame, such as ((0.5, 0.5),).")
    return found  # type: ignore[return-value]


def temporal_maps(attn: Any, q: torch.Tensor, k: torch.Tensor, rows: int) -> dict[str, torch.Tensor]:
    """What temporal attention did, for each of `rows` halves of samples; q and k: "(row site) frame (head d)".

    ".weights": their mean "row query key", which sums to 1 over keys. ".entropy": of the weights before the mean, in nats,
    "row", from 0 (one frame) to ln(frames) (all alike). ".first_frame": mean weight on frame 0, "row query".
    """
    maps, entropies = [], []
    for one_q, one_k in zip(q.chunk(rows), k.chunk(rows), strict=True):  # one at a time, to bound the memory
        weights = _weights(attn, one_q, one_k)
        maps.append(weights.mean(dim=(0, 1)))
        entropies.append(torch.special.entr(weights).sum(-1).mean())
    mean = torch.stack(maps)
    return {".weights": mean, ".entropy": torch.stack(entropies), ".first_frame": mean[..., 0]}


def spatial_maps(
    attn: Any, q: torch.Tensor, k: torch.Tensor, size: tuple[int, int], queries: Sequence[tuple[float, float]]
) -> torch.Tensor:
    """Mean weights over heads from a few positions to all sites, "(row frame) position y x".

    q and k: "(row frame) site (head d)".     size: height and width of the latents, of which the sites are this level's part.
    """
    h, w = level_size(size, q.shape[1])
    sites = [min(int(y * h), h - 1) * w + min(int(x * w), w - 1) for y, x in queries]
    maps = [_weights(attn, a, b).mean(1) for a, b in zip(q[:, sites].split(1), k.split(1), strict=True)]
    return torch.cat(maps).unflatten(-1, (h, w))


def level_size(size: tuple[int, int], sites: int) -> tuple[int, int]:
    """Height and width at the UNet's level that has so many sites: the latents' size halved some times."""
    h, w = size
    while h * w > sites:
        h, w = (h + 1) // 2, (w + 1) // 2
    if h * w != sites:
        raise TraceError(f"{sites} sites are no level of latents of {size[0]}x{size[1]}.")
    return h, w


def _weights(attn: Any, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """softmax(scale * q k^T) "n head query key", as the module's processor has it inside."""
    q, k = (x.unflatten(-1, (attn.heads, -1)).transpose(1, 2).float() for x in (q, k))
    return (q @ k.transpose(-1, -2) * attn.scale).softmax(-1)
