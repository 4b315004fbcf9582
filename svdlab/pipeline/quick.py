"""The same numbers by less work, in blocks that leave nothing behind: quick convolutions on the CPU, attention to one key.

>>> with quick_convolutions(pipe):
...     clip = svdlab.generate(pipe, image, num_inference_steps=2)

Both put a `forward` of their own on modules, and only on modules that nobody else has touched.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from torch.nn.functional import conv2d
from torch.nn.modules import module as torch_module

BLOCKS = ("BasicTransformerBlock", "TemporalBasicTransformerBlock", "SpatioTemporalResBlock")
STOCK = {kind: kind.__call__ for kind in (AttnProcessor, AttnProcessor2_0)}
_COUNTING = threading.Lock()  # of the threads that use one pipeline at the same time


def touched(module: torch.nn.Module) -> bool:
    """Whether hooks or a forward of its own sit on a module: what it computes then need not be what its class computes."""
    return bool("forward" in vars(module) or module._forward_hooks or module._forward_pre_hooks)


def compiled(part: torch.nn.Module) -> bool:
    """Whether torch.compile made something of a model, or of blocks of it."""
    return hasattr(part, "_orig_mod") or any(m._compiled_call_impl is not None for m in part.modules())


def compile_blocks(unet: Any) -> None:
    """torch.compile for each block that recurs, so that hooks on what encloses the blocks stay alive; diffusers names none of
    SVD's (`_repeated_blocks`)."""
    for block in [m for m in unet.modules() if type(m).__name__ in BLOCKS]:
        block.compile()


class _OneKey:
    """`forward` of an attention to one key, while at least one thread denoises with it."""

    def __init__(self, attn: Attention) -> None:
        self.attn, self.plain, self.threads = attn, attn.forward, 0

    def __call__(self, hidden_states: Any, encoder_hidden_states: Any = None, attention_mask: Any = None, **more: Any) -> Any:
        attn, e = self.attn, encoder_hidden_states
        kind = type(attn.processor)
        stock = STOCK.get(kind) is kind.__call__ and not more and attention_mask is None
        if not stock or e is None or e.shape[1] != 1 or hidden_states.ndim != 3 or not _bare(attn):
            return self.plain(hidden_states, e, attention_mask, **more)
        # Expanded before the last layer, not after it: to the last bit what attention gives, so that a hook changes nothing.
        return attn.to_out[0](attn.to_v(e).expand(*hidden_states.shape[:2], -1).contiguous())


def _bare(attn: Attention) -> bool:
    """Whether nobody looks into an attention or changes it, by hooks on it or on its parts."""
    if torch_module._has_any_global_hook() or attn._forward_hooks or attn._forward_pre_hooks:
        return False
    return not any(touched(part) for part in attn.modules() if part is not attn)


@contextmanager
def one_key_attention(unet: Any) -> Iterator[None]:
    """Inside the block, the UNet's attention to the image is computed without queries and keys, bit for bit the same.

    An image is one key, whose softmax is 1 whatever the query: the result is `to_out(to_v(e))` at every site. Attentions with
    hooks inside, another processor or a forward of their own compute as they are, and so does a compiled UNet. Several
    threads may be in such a block at once; the last one to leave it undoes it.
    """
    mine: list[_OneKey] = []
    with _COUNTING:
        for attn in () if compiled(unet) else unet.modules():
            if type(attn) is not Attention or not attn.is_cross_attention or not _plain(attn):
                continue
            own = vars(attn).get("forward") or _OneKey(attn)
            if isinstance(own, _OneKey):
                attn.forward, own.threads = own, own.threads + 1
                mine.append(own)
    try:
        yield
    finally:
        with _COUNTING:
            for own in mine:
                own.threads -= 1
                if not own.threads:
                    vars(own.attn).pop("forward", None)


def _plain(attn: Attention) -> bool:
    """Whether nothing but the softmax stands between values and output, as in SVD's."""
    norms = attn.spatial_norm, attn.group_norm, attn.norm_cross, attn.added_kv_proj_dim
    return not any(norms) and not attn.residual_connection and attn.rescale_output_factor == 1 and attn.dropout == 0


@contextmanager
def quick_convolutions(pipe: Any) -> Iterator[None]:
    """Inside the block, convolutions over time are as fast on one CPU thread as on several, and agree to rounding (1e-5).

    >>> with quick_convolutions(pipe):
    ...     clip = svdlab.generate(pipe, image, num_inference_steps=2)

    SVD's temporal layers are Conv3d with a kernel of 3x1x1. With one thread torch does not hand them to oneDNN and takes a
    routine of half the speed (torch 2.13, `use_mkldnn` in ATen/native/Convolution.cpp). The same sum is a Conv2d of 3x1 over
    (frames, sites). Modules with hooks or a forward of their own, and compiled parts, stay as they are. One block around all
    threads that use the pipeline.
    """

    def in_two_dimensions(module: torch.nn.Conv3d, plain: Callable[..., Any]) -> Callable[..., Any]:
        def forward(x: torch.Tensor) -> torch.Tensor:
            if torch.get_num_threads() > 1:
                return plain(x)
            y = conv2d(x.flatten(3), module.weight[..., 0], module.bias, padding=(int(module.padding[0]), 0))
            return y.unflatten(-1, x.shape[3:])

        return forward

    here = pipe._execution_device.type == "cpu"  # and not merely the weights, which offload brings to the CPU
    parts = [part for part in (pipe.unet, pipe.vae) if here and not compiled(part)]
    with ExitStack() as stack:
        for module in (m for part in parts for m in part.modules() if type(m) is torch.nn.Conv3d):
            over_time = module.kernel_size == (3, 1, 1) and module.padding == (1, 0, 0) and module.stride == (1, 1, 1)
            usual = module.padding_mode == "zeros" and module.dilation == (1, 1, 1) and module.groups == 1
            if over_time and usual and not touched(module):
                module.forward = in_two_dimensions(module, module.forward)  # type: ignore[method-assign]
                stack.callback(vars(module).pop, "forward", None)
        yield
