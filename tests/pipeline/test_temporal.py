"""Convolutions over time in two dimensions are the same sums, and only while they are asked for."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import svdlab
from svdlab.pipeline.generate import generate_batch
from svdlab.pipeline.temporal import quick_convolutions


def over_time(pipe: Any) -> list[torch.nn.Module]:
    return [m for part in (pipe.unet, pipe.vae) for m in part.modules() if isinstance(m, torch.nn.Conv3d)]


@pytest.fixture(scope="module")
def untrained(checkpoint: Any) -> Any:
    return svdlab.load_pipeline(checkpoint, device="cpu")


@pytest.mark.parametrize("threads", [1, 2])
def test_each_convolution_gives_what_torch_gives(untrained: Any, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        kinds = {(m.kernel_size, m.in_channels, m.out_channels): m for m in over_time(untrained)}
        assert len(kinds) >= 3 and {size for size, *_ in kinds} == {(3, 1, 1)}
        for (_, channels, _), module in kinds.items():
            x = torch.randn(2, 5, channels, 4, 6).transpose(1, 2)  # as it comes from a spatial layer: not contiguous
            with torch.no_grad():
                plain = module(x)
                with quick_convolutions(untrained):
                    assert "forward" in vars(module)
                    quick = module(x)
            assert quick.shape == plain.shape and (quick - plain).abs().max() <= 1e-5 * plain.abs().max()
    finally:
        torch.set_num_threads(before)


def test_clips_are_the_same_and_nothing_stays(untrained: Any) -> None:
    c = svdlab.Conditions(num_inference_steps=2, num_frames=4)
    plain = generate_batch(untrained, ["scene-3"], [c], [0])[0]
    with quick_convolutions(untrained), quick_convolutions(untrained):  # a second one finds nothing to do
        quick = generate_batch(untrained, ["scene-3"], [c], [0])[0]
    assert (quick.latents - plain.latents).abs().max() <= 1e-3 * plain.latents.abs().max()
    assert abs(quick.frames - plain.frames).max() <= 1e-3
    with pytest.raises(ZeroDivisionError), quick_convolutions(untrained):
        _ = 1 / 0
    assert not [m for m in over_time(untrained) if "forward" in vars(m)]
    again = generate_batch(untrained, ["scene-3"], [c], [0])[0]
    assert torch.equal(again.latents, plain.latents)
