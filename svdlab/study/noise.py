"""Initial noise made of two: the low frequencies of one seed and the high ones of another.

>>> noises = unit_noise(pipe, seeds=[0, 1])
>>> clip = svdlab.generate(pipe, "scene-27", noise=hybrid(*noises, cutoff=0.5), num_inference_steps=4)

After FreeInit (Wu et al. 2024, arXiv 2312.07537), which mixes frequencies over time and space; its filter is smooth, this one
is sharp, so that each frequency comes from one seed alone and the result is white noise again.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from svdlab.errors import InputError, number, seed, several, shown, takes
from svdlab.pipeline.conditions import Conditions, resolve
from svdlab.pipeline.generate import tensor
from svdlab.pipeline.pipeline import ProbePipeline, pipeline


@takes(pipe=pipeline, seeds=partial(several, check=seed))
def unit_noise(pipe: ProbePipeline, seeds: Sequence[int], **changes: int) -> torch.Tensor:
    """Unit noise "n f c h w" for `svdlab.generate`, one for each seed. changes: num_frames, height, width.

    >>> unit_noise(pipe, seeds=[0, 1]).shape
    torch.Size([2, 8, 4, 16, 16])
    """
    c, side = resolve(pipe, Conditions().replace(**changes)), pipe.vae_scale_factor
    assert c.num_frames and c.height and c.width  # resolved
    shape = (c.num_frames, pipe.unet.config.in_channels // 2, c.height // side, c.width // side)
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(s)) for s in seeds])


@takes(low=tensor, high=tensor, cutoff=partial(number, least=0, most=2))
def hybrid(low: torch.Tensor, high: torch.Tensor, cutoff: float) -> torch.Tensor:
    """Noise "f c h w" with the frequencies of `low` up to cutoff, and those of `high` above it.

    >>> hybrid(torch.ones(8, 4, 16, 16), torch.zeros(8, 4, 16, 16), cutoff=0.0).mean()
    tensor(1.)

    cutoff: radius in (time, height, width), each as a share of the highest frequency that the axis has: 0 for the mean alone, above
    the square root of 3 for all. Raises InputError for two shapes.
    """
    if low.shape != high.shape or low.ndim != 4:
        raise InputError(f'low={shown(low)} and high={shown(high)}: give two tensors of one shape "f c h w".')
    chosen = below(low.shape, cutoff).to(low.device)
    parts = [torch.fft.fftn(z.float(), dim=(0, 2, 3)) for z in (low, high)]
    return torch.fft.ifftn(torch.where(chosen, *parts), dim=(0, 2, 3)).real.to(low)


def below(shape: Sequence[int], cutoff: float) -> torch.Tensor:
    """Which frequencies "f 1 h w" of noise of this shape a cutoff leaves to `low`; their mean is the share of them."""
    t, _, y, x = (torch.fft.fftfreq(n) * 2 for n in shape)
    return (t[:, None, None] ** 2 + y[:, None] ** 2 + x**2 <= cutoff**2 + 1e-9)[:, None]
