"""What a clip takes of a device's memory, and the way of computing it that fits.

>>> small = svdlab.load_pipeline(memory="small")           # the same clips, but for rounding, in less memory
>>> small.memory
'small'

full: weights stay on the device, both halves of the guidance are computed in one call. small: one half after the other, the
feed-forward layers frame by frame, and on CUDA the weights come block by block while the block before computes (diffusers'
group offload). At 25 frames of 576x1024 px in float16 the UNet's activations are 8.0 GB and 2.2 GB (arithmetic on the meta
device, tests/slow/test_memory.py); on an H200 the peaks were 12.9 GB with 4.6 GB of weights, and 3.1 GB (docs/gpu-check.json).
"""

import math
from typing import Any

import psutil
import torch

MODES = ("auto", "full", "small")
ACTIVATIONS = 27.2  # tensors of the first level's size that are alive at the UNet's peak, for each half
DECODING = 8  # the same of the VAE's last level, for each frame of a chunk
SPARE = 1.2  # for what allocators round up and libraries take
SMALL = 6.5e9  # bytes: what "small" is made for, a card of 8 GB with a desktop on it
SHARE = 0.8  # of a card: the rest is for others


def choose(pipe: Any, device: torch.device, offload: str | None) -> str:
    """ "full" where one clip of the checkpoint's own size fits into what is free on the device, or "small"."""
    source, frames = pipe.source, pipe.unet.config.num_frames
    weights = _bytes(pipe.unet) if offload else sum(map(_bytes, (pipe.unet, pipe.vae, pipe.image_encoder)))
    if device.type == "cpu":  # where they are already
        weights = 0
    work = max(denoising(pipe, frames, source.height, source.width), decoding(pipe, 1, source.height, source.width))
    return "full" if SPARE * (weights + work) <= _free(device) else "small"


def make_small(pipe: Any, device: torch.device, offload: str | None) -> bool:
    """Before the weights go to the device; True where they come and go from now on. The sampler reads `pipe.memory`."""
    pipe.memory = "small"
    pipe.unet.enable_forward_chunking()
    if device.type != "cuda" or offload is not None:
        return False
    pipe.unet.enable_group_offload(device, offload_type="block_level", num_blocks_per_group=1, use_stream=True)
    # By leaves: a VAE is called by its methods, past the hook on the whole. Without streams: it may be cast to float32.
    pipe.enable_group_offload(device, offload_type="leaf_level", exclude_modules=["unet"])
    return True


def denoising(pipe: Any, frames: int, height: int, width: int) -> int:
    """Bytes of the UNet's activations at their peak, under guidance, both halves in one call."""
    sites, unet = frames * (height // pipe.vae_scale_factor) * (width // pipe.vae_scale_factor), pipe.unet
    return int(2 * sites * ACTIVATIONS * unet.config.block_out_channels[0] * unet.dtype.itemsize)


def decoding(pipe: Any, chunk: int, height: int, width: int) -> int:
    """Bytes of the decoder's activations at their peak."""
    return DECODING * pipe.vae.config.block_out_channels[0] * pipe.vae.dtype.itemsize * chunk * height * width


def fitting_chunk(pipe: Any, frames: int, height: int, width: int) -> int:
    """How many frames are decoded at a time where nobody says: all that fit, in chunks of about the same length.

    By the size of the card, not by what is free at the moment: it changes pixels, and a sweep that is run again must find
    its clips. On the CPU all, but for memory="small".
    """
    device, small, room = pipe._execution_device, getattr(pipe, "memory", "full") == "small", math.inf
    if device.type == "cuda":
        parts = (pipe.vae,) if small else (pipe.unet, pipe.vae, pipe.image_encoder)
        room = SHARE * torch.cuda.get_device_properties(device).total_memory - sum(map(_bytes, parts))
    if small:
        room = min(room, SMALL - _bytes(pipe.vae))
    most = min(frames, max(1, int(min(room, 1e15) // decoding(pipe, 1, height, width))))
    return math.ceil(frames / math.ceil(frames / most))


def _bytes(model: Any) -> int:
    return sum(p.numel() * p.element_size() for p in model.parameters())


def _free(device: torch.device) -> int:
    return int(torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available)
