"""What the pipeline's tests make: clips that are not decoded (equal latents make equal frames), and other pipelines."""

from typing import Any

import torch

import svdlab
from svdlab.pipeline.generate import ProbePipeline, Start, generate_batch

TEMPORAL = "unet.mid_block.attentions.0.temporal_transformer_blocks.0.attn1"
SPATIAL = "unet.mid_block.attentions.0.transformer_blocks.0.attn1"


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    """The same but for rounding, which differs between batch sizes and which a few steps of a network amplify."""
    return bool((a - b).norm() < 1e-3 * b.norm())


def make(pipe: Any, image: Any = "scene-1", seed: int = 0, start: Start | None = None, **conditions: Any) -> svdlab.Clip:
    """One clip of two steps."""
    c = svdlab.Conditions(**{"num_inference_steps": 2, **conditions})
    return generate_batch(pipe, [image], [c], [seed], start or Start(), decode=False)[0]


def beside(pipe: Any, kind: type = ProbePipeline, **parts: Any) -> Any:
    """Another pipeline on the same parts, some of them exchanged."""
    other = kind(**{**pipe.components, **parts})
    other.source = pipe.source
    other.set_progress_bar_config(disable=True)
    return other


def hooks_of(pipe: Any) -> dict[str, Any]:
    """All that a block could have left: hooks, instance attributes, attention processors, of every part of a pipeline."""
    found: dict[str, Any] = {"pipe": sorted(vars(pipe)), "scheduler": sorted(vars(pipe.scheduler))}
    for part in ("unet", "vae", "image_encoder"):
        for name, module in getattr(pipe, part).named_modules():
            for key, value in vars(module).items():
                hooked = "hook" in key and isinstance(value, dict)
                found[f"{part}.{name}.{key}"] = list(value) if hooked else id(value)
    return found
