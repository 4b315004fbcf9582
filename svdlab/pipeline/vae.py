"""Between frames and latents: decode and encode by the pipeline's own VAE, and what is said when memory does not do.

>>> latents = encode(pipe, clip.frames)                       # "f h w c" in [0, 1] -> "f c h w"
>>> decode_latents(pipe, latents, 8).shape == clip.frames.shape
True
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from accelerate.utils.memory import should_reduce_batch_size

from svdlab.errors import BrokenClipError, InputError, OutOfMemoryError, SvdlabError
from svdlab.pipeline.conditions import Conditions


class VaeOverflowWarning(UserWarning):
    """Frames that float16 could not decode, and float32 did."""


_TURN = threading.RLock()  # a VAE in half precision may be cast in place: it serves one thread at a time


@contextmanager
def vae_in_turn(pipe: Any, *, cast: Sequence[torch.dtype] = ()) -> Iterator[None]:
    """Around each use of the VAE: in float32 where its dtype is one of `cast`. A float32 one serves all threads at once."""
    with ExitStack() as stack:
        stack.enter_context(_TURN)  # before the dtype is read: another thread may have it cast
        if (dtype := pipe.vae.dtype) == torch.float32:
            stack.close()
        elif dtype in cast:
            pipe.vae.to(dtype=torch.float32)
            stack.callback(pipe.vae.to, dtype=dtype)
        yield


@torch.no_grad()
def decode_latents(pipe: Any, latents: torch.Tensor, decode_chunk_size: int) -> np.ndarray:
    """Latents "f c h w" of one clip to frames, float32 "f h w c" in [0, 1], by the pipeline's own methods.

    Where the VAE overflows in float16, the clip is decoded again in float32, with a warning. Raises BrokenClipError for NaN
    and for frames that are black throughout, which is how half precision fails otherwise.
    """
    if not torch.isfinite(latents).all():
        raise BrokenClipError("the latents hold NaN or infinities: try dtype=torch.bfloat16 or float32.")
    x = latents[None].to(pipe._execution_device)
    with vae_in_turn(pipe):
        dtype = pipe.vae.dtype
        frames = pipe.decode_latents(x.to(dtype), len(latents), decode_chunk_size)
        if dtype == torch.float16 and not torch.isfinite(frames).all():
            text = "the VAE overflows in float16: this clip is decoded in float32, which takes twice the memory and time."
            warnings.warn(text, VaeOverflowWarning, stacklevel=2)
            with vae_in_turn(pipe, cast=[dtype]):
                frames = pipe.decode_latents(x.to(torch.float32), len(latents), decode_chunk_size)
    video = pipe.video_processor.postprocess_video(video=frames, output_type="np")[0]
    pipe.maybe_free_model_hooks()
    if not np.isfinite(video).all() or video.max() <= 1 / 255:
        raise BrokenClipError(
            f"the decoded frames are NaN or black, by the VAE in {str(dtype).removeprefix('torch.')}, from latents that are "
            f"finite: load with dtype='bfloat16' or 'float32', and look at edits, if there are any."
        )
    return np.asarray(video, dtype=np.float32)


def encode_pixels(pipe: Any, pixels: torch.Tensor, each: int = 1) -> torch.Tensor:
    """Images "n c h w" in [-1, 1] to latents "(each n) c h w", not scaled, as diffusers encodes: a float16 VAE in float32."""
    with vae_in_turn(pipe, cast=[torch.float16] if pipe.vae.config.force_upcast else ()):
        return pipe._encode_vae_image(pixels, pipe._execution_device, each, False)


@torch.no_grad()
def encode(pipe: Any, video: Any) -> torch.Tensor:
    """Frames "f h w c", uint8 or in [0, 1], or one "h w c", to latents "f c h w" as denoising works on them: the inverse of
    `decode_latents`. Each frame by itself, the mode of the VAE's distribution times its scaling factor; float32, on the CPU.

    >>> encode(pipe, clip.frames).shape == clip.latents.shape
    True
    """
    frames = np.asarray(video)
    frames = frames[None] if frames.ndim == 3 else frames
    side = pipe.vae_scale_factor
    if frames.ndim != 4 or frames.shape[3] != 3 or frames.shape[1] % side or frames.shape[2] % side:
        raise InputError(f'video has shape {np.shape(video)}: give "f h w 3", with sides that are multiples of {side} px.')
    x = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
    x = (x / 255 if x.dtype == torch.uint8 else x.float()) * 2 - 1
    if not x.abs().max() <= 1:
        raise InputError("video has values outside [0, 1], or NaN: give uint8, or floats in [0, 1].")
    latents = [encode_pixels(pipe, chunk) for chunk in x.split(8)]
    pipe.maybe_free_model_hooks()
    return (torch.cat(latents) * pipe.vae.config.scaling_factor).float().cpu()


def is_out_of_memory(error: BaseException) -> bool:
    """torch's and accelerate's ways of saying it, and oneDNN's, which cannot create a primitive."""
    known = isinstance(error, (torch.OutOfMemoryError, MemoryError)) or should_reduce_batch_size(error)
    words = ("out of memory", "can't allocate memory", "could not create a primitive")
    return known or (isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words))


@contextmanager
def room(pipe: Any, conditions: Sequence[Conditions]) -> Iterator[None]:
    """Around what takes memory: OutOfMemoryError says what would help, where torch says only how much was asked for."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, SvdlabError) or not is_out_of_memory(error):
            raise
        c, n = conditions[0], len(conditions)
        alone = "Load with offload='model', or choose a smaller decode_chunk_size, fewer frames or a smaller size"
        raise OutOfMemoryError(
            f"{n} clip(s) of {c.num_frames} frames of {c.width}x{c.height} px did not fit into memory. "
            f"{'Make fewer clips at a time' if n > 1 else alone}. ({str(error).partition(chr(10))[0] or type(error).__name__})"
        ) from error
