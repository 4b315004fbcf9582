"""Convolutions over time on one CPU thread, as fast as on several.

    >>> with quick_convolutions(pipe):
    ...     clip = svdlab.generate(pipe, image, num_inference_steps=2)

SVD's temporal layers convolve three frames at each site: Conv3d with a kernel of 3x1x1. With several threads torch hands
them to oneDNN; with one it takes an old routine of its own, which is about half as fast (torch 2.13: `use_mkldnn` in
ATen/native/Convolution.cpp asks for more than one thread where a kernel is 1x1 in its last sides). The same sum is a Conv2d
of 3x1 over (frames, sites), which oneDNN does on any number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.nn.functional import conv2d


@contextmanager
def quick_convolutions(pipe: Any) -> Iterator[None]:
    """Inside the block, the UNet's and VAE's convolutions over time are computed in two dimensions while torch has one thread
    on a CPU. Results agree to rounding (1e-5 of their range). One block around all threads that use the pipeline; modules that
    have hooks, a forward of their own or another class stay as they are."""
    parts = [part for part in (pipe.unet, pipe.vae) if not hasattr(part, "_orig_mod")]  # a compiled one has kernels of its own
    with ExitStack() as stack:
        for part in parts:
            for module in part.modules():
                if _is_over_time(module):
                    module.forward = _in_two_dimensions(module, module.forward)
                    stack.callback(vars(module).pop, "forward", None)
        yield


def _is_over_time(module: torch.nn.Module) -> bool:
    return (
        type(module) is torch.nn.Conv3d
        and "forward" not in vars(module)
        and not (module._forward_hooks or module._forward_pre_hooks)
        and module.weight.device.type == "cpu"
        and module.kernel_size[1:] == (1, 1)
        and module.padding in [(n, 0, 0) for n in range(module.kernel_size[0])]
        and module.padding_mode == "zeros"
        and module.stride == module.dilation == (1, 1, 1)
        and module.groups == 1
    )


def _in_two_dimensions(module: torch.nn.Conv3d, plain: Callable) -> Callable:
    def forward(x: torch.Tensor) -> torch.Tensor:
        if torch.get_num_threads() > 1 or x.device.type != "cpu" or x.dim() != 5:
            return plain(x)
        b, c, f, h, w = x.shape
        y = conv2d(x.reshape(b, c, f, h * w), module.weight[..., 0], module.bias, padding=(int(module.padding[0]), 0))
        return y.view(b, module.out_channels, -1, h, w)

    return forward
