"""Ready-made edits: interventions that come up again and again, each one `with` block and each made of few parts.

    >>> with svdlab.edits.image_embedding(pipe, "cat"):
    ...     clip = svdlab.generate(pipe, image)
    >>> with svdlab.edits.silence_temporal_attention(pipe, "unet.mid_block*"), svdlab.trace(pipe) as tr:
    ...     clip = svdlab.generate(pipe, image)

They nest with `svdlab.edit` and `svdlab.trace`, take the same `steps=`, and like those leave nothing behind.
`blocks` are names or globs of parts of the UNet, such as "unet.mid_block*" or "*up_blocks.1*"; None means all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch

from svdlab.errors import TraceError
from svdlab.pipeline.generate import ProbePipeline
from svdlab.pipeline.hooks import edit
from svdlab.pipeline.images import prepare_image
from svdlab.pipeline.modules import chosen_steps, module_names, select_modules
from svdlab.pipeline.sampler import Denoising, listen, running


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

    with listen(pipe, lambda name, value, run: value, edits="mix_factor") as listener, ExitStack() as stack:
        for module in mixers.values():
            stack.callback(module.register_forward_hook(mix, with_kwargs=True, prepend=True).remove)
        yield


def _inside(pipe: ProbePipeline, blocks: Any, kind: Callable[[str], bool]) -> list[str]:
    """Names of a kind that are, or lie in, the given blocks."""
    within = list(select_modules(pipe, blocks)) if blocks is not None else ["unet"]
    names = [n for n in module_names(pipe) if kind(n) and any(n == block or n.startswith(block + ".") for block in within)]
    if not names:
        raise TraceError(f"blocks={blocks!r}: there is nothing of that kind inside.")
    return names
