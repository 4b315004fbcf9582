"""Ready-made edits: interventions that come up again and again, each one `with` block and each made of few parts.

    >>> with svdlab.edits.motion_bucket_per_frame(pipe, [20, 20, 20, 20, 200, 200, 200, 200]):
    ...     clip = svdlab.generate(pipe, image)
    >>> with svdlab.edits.silence_temporal_attention(pipe, "unet.mid_block*"), svdlab.trace(pipe) as tr:
    ...     clip = svdlab.generate(pipe, image)

They nest with `svdlab.edit` and `svdlab.trace`, take the same `steps=`, and like those leave nothing behind.
`blocks` are names or globs of parts of the UNet, such as "unet.mid_block*" or "*up_blocks.1*"; None means all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch

from svdlab.errors import InputError, TraceError
from svdlab.pipeline.conditions import guidance_curve
from svdlab.pipeline.generate import ProbePipeline
from svdlab.pipeline.hooks import edit
from svdlab.pipeline.images import prepare_image
from svdlab.pipeline.modules import chosen_steps, module_names, select_modules
from svdlab.pipeline.sampler import Denoising, Step, listen, running


def guidance(
    pipe: ProbePipeline,
    curve: str | Sequence[float] = "linear",
    low: float = 1.0,
    high: float = 3.0,
    *,
    steps: Any = None,
) -> AbstractContextManager[None]:
    """Another guidance scale per frame, at some steps or all; the run must be guided, so that both halves are computed.

    >>> with svdlab.edits.guidance(pipe, "triangle", 1.0, 3.0): pass
    >>> with svdlab.edits.guidance(pipe, "constant", high=1.0, steps=(10.0, 700.0)): pass  # none while noise is strong

    curve, low, high: as `pipeline.conditions.guidance_curve`; or one number per frame. To save the cost of guidance too,
    use the condition guidance_interval instead.
    """
    numbers = _per_frame("guidance", curve, None) if not isinstance(curve, str) else None
    if isinstance(curve, str):
        guidance_curve(curve, 2, low, high)  # raises now rather than in mid-run

    def scale(value: torch.Tensor, step: Step) -> torch.Tensor:
        frames = value.shape[1]
        own: Any
        if numbers is not None:
            own = _per_frame("guidance", numbers, frames)
        elif curve == "linear":
            own = torch.linspace(low, high, frames)  # diffusers' own, which differs from numpy's in the last bit
        else:
            own = guidance_curve(str(curve), frames, low, high)
        return torch.as_tensor(own).to(value)[None, :, None, None, None].expand_as(value)

    return edit(pipe, "guidance", scale, steps=steps)


def image_embedding(pipe: ProbePipeline, image: Any, *, steps: Any = None) -> AbstractContextManager[Any]:
    """The image encoder's view of another picture, while the VAE's latents stay those of the clip's own.

    >>> with svdlab.edits.image_embedding(pipe, "cat"):
    ...     clip = svdlab.generate(pipe, "astronaut")          # what CLIP says of the cat, the pixels of the astronaut

    image: as for `generate`, cropped to the checkpoint's own aspect. The unconditional half keeps its zeros. The image
    encoder runs once, when this is called. Raises InputError for a picture that cannot be read.
    """
    prepared = prepare_image(image, height=pipe.source.height, width=pipe.source.width)
    with torch.no_grad():
        other = pipe._encode_image([prepared], pipe._execution_device, 1, False)  # "1 1 d"

    wanted = chosen_steps(steps)

    def hear(name: str, value: Any, run: Denoising) -> Any:
        if name != "image_embeddings" or run.step is None or not wanted(run.step):
            return value
        n = len(run.latents)
        return torch.cat([value[:-n], other.to(value).expand(n, -1, -1)])

    return listen(pipe, hear, edits="image_embeddings")


def silence_temporal_attention(
    pipe: ProbePipeline, blocks: Any = None, *, scale: float = 0.0, steps: Any = None
) -> AbstractContextManager[None]:
    """Temporal self-attention adds `scale` times what it would: 0 for nothing, so that frames no longer see each other there.

    >>> with svdlab.edits.silence_temporal_attention(pipe, "*up_blocks*", steps=range(10)): pass

    Frames still exchange something through the temporal convolutions (see `mix_factor`).
    """
    names = _inside(pipe, blocks, lambda name: ".temporal_transformer_blocks." in name and name.endswith(".attn1"))
    return edit(pipe, names, lambda value, step: scale * value, steps=steps)


@contextmanager
def mix_factor(pipe: ProbePipeline, scale: float, blocks: Any = None, *, steps: Any = None) -> Iterator[None]:
    """Scale the learned mix_factor of each block's time_mixer m, of which sigmoid(m) is the share of the spatial branch.

    >>> with svdlab.edits.mix_factor(pipe, 0.0): pass         # every block: half spatial, half temporal
    >>> with svdlab.edits.mix_factor(pipe, 2.0, "unet.up_blocks*"): pass

    The parameter itself is not touched: only what this pipeline's own run reads from it.
    """
    names = _inside(pipe, blocks, lambda name: name.endswith(".time_mixer"))
    wanted = chosen_steps(steps)

    mixers = select_modules(pipe, names)
    for name, module in mixers.items():
        if module.merge_strategy == "fixed":
            raise TraceError(f"{name} has a fixed share instead of a learned mix_factor: there is nothing to scale.")

    def mix(module: Any, args: tuple, kwargs: dict[str, Any], output: torch.Tensor) -> torch.Tensor | None:
        run = running(listener)
        if run is None or run.step is None or not wanted(run.step) or scale == 1:
            return None
        given = dict(zip(("x_spatial", "x_temporal", "image_only_indicator"), args, strict=False)) | kwargs
        spatial, temporal = given["x_spatial"], given["x_temporal"]
        alpha = module.get_alpha(given.get("image_only_indicator"), spatial.ndim)
        # 1 where the module takes a frame for a lone image
        share = torch.where(alpha == 1, alpha, (scale * alpha.logit()).sigmoid()).to(spatial.dtype)
        share = 1.0 - share if module.switch_spatial_to_temporal_mix else share
        return share * spatial + (1.0 - share) * temporal

    with listen(pipe, _unheard, edits="mix_factor") as listener, ExitStack() as stack:
        for module in mixers.values():
            stack.callback(module.register_forward_hook(mix, with_kwargs=True, prepend=True).remove)
        yield


@contextmanager
def motion_bucket_per_frame(pipe: ProbePipeline, motion_bucket_id: Sequence[float], *, steps: Any = None) -> Iterator[None]:
    """A motion bucket for each frame; Stability's code builds one condition vector per frame, diffusers repeats one.

    >>> with svdlab.edits.motion_bucket_per_frame(pipe, np.linspace(0, 255, 8)):
    ...     clip = svdlab.generate(pipe, image)

    motion_bucket_id: one number per frame, each 0 or more. Raises InputError, for a wrong count when the run begins.
    """
    buckets = _per_frame("motion_bucket_id", motion_bucket_id, None)
    if (buckets < 0).any():
        raise InputError(f"motion_bucket_id={buckets.tolist()}: must be 0 or more; usual are 1 to 255.")
    unet, wanted = pipe.unet, chosen_steps(steps)
    targets = [name for name in module_names(pipe) if name.count(".") == 2 and "_blocks." in name] + ["unet.mid_block"]
    blocks = select_modules(pipe, targets)
    differences: ContextVar[torch.Tensor | None] = ContextVar("differences", default=None)  # of this thread's call

    def hear(name: str, value: Any, run: Denoising) -> Any:
        if name == "start":
            _per_frame("motion_bucket_id", buckets, run.latents.shape[1])
        elif name == "added_time_ids":
            differences.set(None)
            if run.step is not None and wanted(run.step):
                shared = value.repeat_interleave(len(buckets), dim=0)
                own = shared.clone()
                own[:, 1] = torch.as_tensor(buckets).to(own).repeat(len(value))
                step, run.step = run.step, None  # or a trace of the embedding's modules would see these as well
                differences.set(_embedding(unet, own) - _embedding(unet, shared))
                run.step = step
        return value

    def give(module: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
        difference = differences.get()
        if running(listener) is None or difference is None:
            return None
        return args, kwargs | {"temb": kwargs["temb"] + difference.to(kwargs["temb"])}

    with listen(pipe, hear, edits="motion_bucket_per_frame") as listener, ExitStack() as stack:
        for module in blocks.values():
            stack.callback(module.register_forward_pre_hook(give, with_kwargs=True).remove)
        yield


def _unheard(name: str, value: Any, run: Denoising) -> Any:
    return value


def _embedding(unet: Any, ids: torch.Tensor) -> torch.Tensor:
    """What the UNet makes of added_time_ids "n 3": "n d"."""
    sinusoids = unet.add_time_proj(ids.flatten()).reshape(len(ids), -1)
    return unet.add_embedding(sinusoids.to(ids.dtype))


def _per_frame(name: str, values: Any, frames: int | None) -> np.ndarray:
    numbers = np.asarray(values, dtype=float)
    if numbers.ndim != 1 or not np.isfinite(numbers).all() or (frames is not None and len(numbers) != frames):
        count = "each frame" if frames is None else f"each of the {frames} frames"
        raise InputError(f"{name}={numbers.tolist()}: give one finite number for {count}.")
    return numbers


def _inside(pipe: ProbePipeline, blocks: Any, kind: Callable[[str], bool]) -> list[str]:
    """Names of a kind that are, or lie in, the given blocks."""
    within = list(select_modules(pipe, blocks)) if blocks is not None else ["unet"]
    names = [n for n in module_names(pipe) if kind(n) and any(n == block or n.startswith(block + ".") for block in within)]
    if not names:
        raise TraceError(f"blocks={blocks!r}: there is nothing of that kind inside.")
    return names
