"""Initial noise made of two: the low frequencies of one seed and the high ones of another.

>>> pair = unit_noise(pipe, seeds=[0, 1])
>>> clip = svdlab.generate(pipe, "scene-27", noise=hybrid(*pair, cutoff=0.5), num_inference_steps=4)

After FreeInit (Wu et al. 2024, arXiv 2312.07537), which mixes frequencies over time and space; its filter is smooth, this one
is sharp, so that each frequency comes from one seed alone and the result is white noise again.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from svdlab.errors import InputError, number, seed, several, shown, takes, whole
from svdlab.pipeline.conditions import Conditions, resolve
from svdlab.pipeline.generate import tensor
from svdlab.pipeline.pipeline import ProbePipeline, pipeline

CUTOFF = partial(number, least=0, most=2)


@takes(pipe=pipeline, seeds=partial(several, check=seed))
def unit_noise(pipe: ProbePipeline, seeds: Sequence[int], **changes: int) -> torch.Tensor:
    """Unit noise "n f c h w" for `svdlab.generate`, one for each seed. changes: num_frames, height, width.

    >>> unit_noise(pipe, seeds=[0, 1]).shape
    torch.Size([2, 8, 4, 16, 16])
    """
    c, side = resolve(pipe, Conditions().replace(**changes)), pipe.vae_scale_factor
    assert c.num_frames and c.height and c.width  # resolved
    shape = (c.num_frames, pipe.unet.config.in_channels // 2, c.height // side, c.width // side)
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(s), device="cpu") for s in seeds])


@takes(low=tensor, high=tensor, cutoff=CUTOFF)
def hybrid(low: torch.Tensor, high: torch.Tensor, cutoff: float) -> torch.Tensor:
    """Noise "f c h w" with the frequencies of `low` up to cutoff, and those of `high` above it.

    >>> hybrid(torch.ones(8, 4, 16, 16), torch.zeros(8, 4, 16, 16), cutoff=0.0).mean()
    tensor(1.)

    cutoff: radius in (time, height, width), each as a share of the axis' highest frequency: 0 for the mean alone, 2 for all.
    Raises InputError for two shapes.
    """
    if low.shape != high.shape or low.ndim != 4:
        raise InputError(f'low={shown(low)} and high={shown(high)}: give two tensors of one shape "f c h w".')
    chosen = below(low.shape, cutoff).to(low.device)
    parts = [torch.fft.fftn(z.float(), dim=(0, 2, 3)) for z in (low, high)]
    return torch.fft.ifftn(torch.where(chosen, *parts), dim=(0, 2, 3)).real.to(low)


@takes(shape=partial(several, check=partial(whole, least=1, most=2**16)), cutoff=CUTOFF)
def below(shape: Sequence[int], cutoff: float) -> torch.Tensor:
    """Which frequencies "f 1 h w" of noise "f c h w" a cutoff takes from `low`; the mean of it is their share.

    >>> below((8, 4, 16, 16), 0.5).float().mean()
    tensor(0.0610)
    """
    if len(shape) != 4:
        raise InputError(f'shape={shown(shape)}: give four numbers, "f c h w".')
    t, _, y, x = (torch.fft.fftfreq(n) * 2 for n in shape)
    return (t[:, None, None] ** 2 + y[:, None] ** 2 + x**2 <= cutoff**2 + 1e-9)[:, None]
