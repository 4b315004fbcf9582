"""What fits: an estimate of the memory that a clip takes, worked out without the weights, and what to do when it does not.

    >>> need = estimate(pipe, num_frames=25, height=576, width=1024, dtype=torch.float16)
    >>> need.total("model") / 1e9

The model is built on torch's meta device from its configuration and called once there, with shapes and no numbers, while
the sizes of the tensors that are alive at a time are added up. What no such count can see is in ASSUMPTIONS.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import psutil
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from svdlab.pipeline.conditions import Conditions

OFFLOADS = (None, "model", "sequential")
CONTEXT = 0.6e9  # bytes: a CUDA context with cuBLAS and cuDNN loaded
SLACK = 1.1  # allocator's rounding and fragments, and workspaces of convolutions
ASSUMPTIONS = (
    "attention by fused kernels, which never hold a whole attention map (torch's default on CUDA)",
    f"{100 * (SLACK - 1):.0f} % on top of what tensors take, for the allocator's fragments and convolution workspaces",
    f"{CONTEXT / 1e9:.1f} GB for a CUDA context; other programs on the device not counted",
    "guidance on, so both halves in one UNet call; frames decoded clip by clip",
    "the VAE encodes in float32 where its configuration says so (force_upcast)",
    "arithmetic on shapes, not measured on a GPU",
)


@dataclass(frozen=True)
class Estimate:
    """Bytes. weights: of each part; largest: of the largest single layer; denoising, encoding, decoding: what is alive
    beside the weights at the worst moment of each."""

    weights: dict[str, int]
    largest: int
    denoising: int
    encoding: int
    decoding: int

    def total(self, offload: str | None = None) -> float:
        """The worst moment of the whole call, on the device."""
        unet, vae = self.weights["unet"], self.weights["vae"]
        phases = [(unet, self.denoising), (vae, self.encoding), (vae, self.decoding)]
        if offload is None:
            everything = sum(self.weights.values())
            peak = max(everything + alive for _, alive in phases)
        elif offload == "model":
            peak = max(weights + alive for weights, alive in phases)
        else:
            peak = max(self.largest + alive for _, alive in phases)
        return SLACK * peak + CONTEXT


class _Peak(TorchDispatchMode):
    """Adds up the storages that are alive while a block runs, those that were there before left out."""

    def __init__(self, known: list[torch.Tensor]) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.seen: dict[int, Any] = {t.untyped_storage()._cdata: None for t in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.seen:
            return

        def gone(_: Any) -> None:
            self.live -= size
            self.seen.pop(key, None)

        self.seen[key] = weakref.ref(storage, gone)
        self.live += size
        self.peak = max(self.peak, self.live)


class _FusedAttention(TorchFunctionMode):
    """Attention as a fused kernel sees it: an output, and no map. On the meta device torch would lay the map out."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.nn.functional.scaled_dot_product_attention:
            query, _, value = args[:3] if len(args) >= 3 else (kwargs["query"], None, kwargs["value"])
            return query.new_empty((*query.shape[:-1], value.shape[-1]))
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def peak_of(module: torch.nn.Module, call: Callable[[], Any]) -> int:
    """Bytes alive at the worst moment of a call, beside the module's own weights.

    >>> peak_of(torch.nn.Identity(), lambda: torch.zeros(1000) + 1)
    8000
    """
    known = [*module.parameters(), *module.buffers()]
    with _FusedAttention(), _Peak(known) as count:
        out = call()
    del out
    return count.peak


def estimate(
    pipe: Any,
    *,
    num_frames: int | None = None,
    height: int | None = None,
    width: int | None = None,
    dtype: torch.dtype | None = None,
    decode_chunk_size: int | None = None,
    batch_size: int = 1,
    guided: bool = True,
) -> Estimate:
    """The memory that one call takes. pipe: anything with unet, vae and image_encoder that have a config; weights are not
    looked at. What is left out is the checkpoint's own; decode_chunk_size None decodes all frames at once."""
    source: Any = getattr(pipe, "source", None)
    frames: int = num_frames or pipe.unet.config.num_frames
    tall: int = height or (source.height if source else 576)
    wide: int = width or (source.width if source else 1024)
    size = (tall, wide)
    configs = tuple(_config(getattr(pipe, part)) for part in ("unet", "vae", "image_encoder"))
    dtype = dtype or pipe.unet.dtype
    rows = batch_size * (2 if guided else 1)
    parts = dict(zip(("unet", "vae", "image_encoder"), _parts(*configs, dtype), strict=True))
    channels, factor = parts["vae"].config.latent_channels, 2 ** (len(parts["vae"].config.block_out_channels) - 1)
    latents = rows * frames * channels * (size[0] // factor) * (size[1] // factor) * dtype.itemsize
    weights = {name: _bytes(part) for name, part in parts.items()}
    encoding = _encoding(configs, dtype, size)
    if dtype == torch.float16 and parts["vae"].config.force_upcast:  # everything twice as large, the weights too
        encoding = 2 * encoding + weights["vae"]
    film = frames * 3 * size[0] * size[1]
    # Decoded chunks wait in a list, are joined, and become float32.
    decoding = film * dtype.itemsize + _decoding(configs, dtype, size, min(decode_chunk_size or frames, frames))
    decoding = max(decoding, film * (2 * dtype.itemsize + 4))
    largest = max(p.numel() for part in parts.values() for p in part.parameters()) * dtype.itemsize
    return Estimate(weights, largest, _denoising(configs, dtype, size, frames, rows) + 4 * latents, encoding, decoding)


def need_of(pipe: Any, conditions: Conditions, *, batch_size: int = 1) -> float:
    """Bytes that clips of these conditions take with the weights, as this pipeline is loaded."""
    c = conditions
    size: dict[str, Any] = dict(num_frames=c.num_frames, height=c.height, width=c.width, decode_chunk_size=c.decode_chunk_size)
    return estimate(pipe, batch_size=batch_size, guided=c.guided, **size).total(offload_of(pipe))


def free_memory(device: torch.device) -> int:
    """Bytes that a device has left: of a GPU its own, elsewhere the machine's."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def _config(part: Any) -> str:
    config = part.config
    return json.dumps(config.to_dict() if hasattr(config, "to_dict") else dict(config), sort_keys=True, default=str)


Configs = tuple[str, ...]


@lru_cache(maxsize=64)
def _denoising(configs: Configs, dtype: torch.dtype, size: tuple[int, int], frames: int, rows: int) -> int:
    unet, vae, _ = _parts(*configs, dtype)
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    ids = unet.config.projection_class_embeddings_input_dim // unet.config.addition_time_embed_dim
    return peak_of(
        unet,
        lambda: unet(
            _meta(dtype, rows, frames, unet.config.in_channels, size[0] // factor, size[1] // factor),
            torch.zeros((), device="meta"),
            _meta(dtype, rows, 1, unet.config.cross_attention_dim),
            _meta(dtype, rows, ids),
            return_dict=False,
        ),
    )


@lru_cache(maxsize=64)
def _decoding(configs: Configs, dtype: torch.dtype, size: tuple[int, int], chunk: int) -> int:
    _, vae, _ = _parts(*configs, dtype)
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    shape = (chunk, vae.config.latent_channels, size[0] // factor, size[1] // factor)
    return peak_of(vae, lambda: vae.decode(_meta(dtype, *shape), num_frames=chunk, return_dict=False))


@lru_cache(maxsize=64)
def _encoding(configs: Configs, dtype: torch.dtype, size: tuple[int, int]) -> int:
    _, vae, _ = _parts(*configs, dtype)
    return peak_of(vae, lambda: vae.encode(_meta(dtype, 1, 3, *size), return_dict=False))


def _meta(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


@lru_cache(maxsize=4)
def _parts(unet_config: str, vae_config: str, clip_config: str, dtype: torch.dtype) -> tuple[Any, Any, Any]:
    from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    with torch.device("meta"):
        unet = UNetSpatioTemporalConditionModel.from_config(json.loads(unet_config))
        vae = AutoencoderKLTemporalDecoder.from_config(json.loads(vae_config))
        encoder = CLIPVisionModelWithProjection(CLIPVisionConfig.from_dict(json.loads(clip_config)))
    # torch's own `to`, as diffusers' warns of a cast; and once more to meta, for `mix_factor`, which is made on the CPU.
    unet, vae, encoder = (torch.nn.Module.to(part, "meta", dtype).eval() for part in (unet, vae, encoder))
    return unet, vae, encoder


def _bytes(module: torch.nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in module.parameters())


# --- when it does not fit ---------------------------------------------------------------------------------------------


def is_out_of_memory(error: BaseException) -> bool:
    """torch's own class on an accelerator; on a CPU a RuntimeError that says so."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    words = ("out of memory", "can't allocate memory", "could not create a primitive")  # the last: oneDNN
    return isinstance(error, RuntimeError) and any(w in str(error).lower() for w in words)


def offload_of(pipe: Any) -> str | None:
    """How accelerate moves this pipeline's weights, by the hook on its UNet."""
    hook = type(getattr(getattr(pipe, "unet", None), "_hf_hook", None)).__name__
    return {"CpuOffload": "model", "AlignDevicesHook": "sequential"}.get(hook)


def advice(pipe: Any, conditions: Conditions | None = None, *, offload: str | None = None, batch_size: int = 1) -> str:
    """The three cheapest remedies that would help this call, with what each is estimated to save.

    >>> advice(pipe, Conditions(num_frames=25))
    "It takes about 34.7 GB by estimate. Cheapest first: load with offload='model' (saves about ...); ..."
    """
    c = conditions or Conditions()
    offload = offload or offload_of(pipe)
    device = str(getattr(pipe, "_execution_device", "cpu"))
    now: dict[str, Any] = dict(
        num_frames=c.num_frames,
        height=c.height,
        width=c.width,
        decode_chunk_size=c.decode_chunk_size,
        batch_size=batch_size,
        guided=c.guided,
    )
    frames = c.num_frames or pipe.unet.config.num_frames
    smaller = [
        (n, (c.height or pipe.source.height) * n // 4 // 64 * 64, (c.width or pipe.source.width) * n // 4 // 64 * 64)
        for n in (3, 2)
    ]
    tries: list[tuple[str, dict[str, Any], str | None]] = []
    if batch_size > 1:
        tries.append(("batch_size=1", {"batch_size": 1}, offload))
    if pipe.unet.dtype == torch.float32 and device != "cpu":
        tries.append(("load with dtype='float16'", {"dtype": torch.float16}, offload))
    if offload is None and device != "cpu":
        tries.append(("load with offload='model'", {}, "model"))
    tries += [
        (f"decode_chunk_size={n}", {"decode_chunk_size": n}, offload) for n in (8, 2) if n < (c.decode_chunk_size or frames)
    ]
    if offload != "sequential" and device != "cpu":
        tries.append(("load with offload='sequential', which is slow", {}, "sequential"))
    tries.append((f"num_frames={max(2, frames // 2)}", {"num_frames": max(2, frames // 2)}, offload))
    tries += [(f"height={h}, width={w}", {"height": h, "width": w}, offload) for n, h, w in smaller if min(h, w) >= 64]
    need = estimate(pipe, **now).total(offload)
    helped: list[str] = []
    for words, changes, mode in tries:
        saved = need - estimate(pipe, **{**now, **changes}).total(mode)
        if saved > 0.02 * need:
            helped.append(f"{words} (saves about {_size(saved)})")
        if len(helped) == 3:
            break
    if not helped:
        return f"It takes about {_size(need)} by estimate, and nothing here would take much less: use a larger machine."
    return f"It takes about {_size(need)} by estimate. Cheapest first: {'; '.join(helped)}."


def _size(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.0f} MB"
