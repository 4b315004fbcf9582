"""Images and frames: whatever a user has, made into what the pipeline takes, and by its VAE into latents and back.

>>> photo = open_image("astronaut")                  # a path, PIL image, array or sample's name, as PIL RGB
>>> prepare_image(photo, height=288, width=512).info["crop"]
(0, 112, 512, 400)
>>> latents = encode(pipe, clip.frames)              # "f h w c" in [0, 1] -> "f c h w"
>>> decode_latents(pipe, latents, 8).shape == clip.frames.shape
True
"""

from __future__ import annotations

import hashlib
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from svdlab.errors import BrokenClipError, InputError

LEAST_SIDE = 16  # px
PHOTOGRAPHS = ("astronaut", "cat", "coffee", "rocket", "camera", "grace_hopper")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
FLIPS = {"left_right": (-1,), "up_down": (-2,), "half_turn": (-2, -1)}  # axes of "... h w" that turn, of image or noise


class CropWarning(UserWarning):
    """An image lost part of its area because the frame has another aspect."""


class ImageFileError(InputError, OSError):
    """An image file that is missing or cannot be read; also an OSError."""


def sample_image(name: str = "astronaut") -> Image.Image:
    """A free image that comes with a dependency, or a first frame of the organism's world, as PIL RGB.

    >>> sample_image("astronaut").size, sample_image("scene-3").size
    ((512, 512), (64, 64))

    Names: astronaut, cat, coffee, rocket, camera (scikit-image; NASA, Stefan van der Walt, Rachel Michetti, SpaceX
    and Lav Varshney: public domain or CC0), grace_hopper (matplotlib, public domain), and scene-N: the organism's world,
    seed N.
    """
    if not is_sample(name):
        raise InputError(f"no sample image {name!r}: there are {', '.join(PHOTOGRAPHS)} and scene-N (scene-0, scene-1 ...).")
    if name.startswith("scene-"):
        from svdlab.organism import world

        return Image.fromarray((world.scenes(1, seed=int(name[6:])).video[0, 0] * 255).round().astype(np.uint8))
    if name == "grace_hopper":
        from matplotlib import cbook

        return Image.open(str(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))).convert("RGB")
    from skimage import data

    return Image.fromarray(getattr(data, name)()).convert("RGB")


def is_sample(name: str) -> bool:
    return name in PHOTOGRAPHS or (name.startswith("scene-") and name[6:].isdigit())


def images_in(folder: str | Path) -> list[str]:
    """The paths of all images directly in a folder, sorted; raises ImageFileError where there are none."""
    found = sorted(str(p) for p in Path(folder).expanduser().iterdir() if p.suffix.lower() in SUFFIXES)
    if not found:
        raise ImageFileError(f"{folder} holds no image: the suffixes are {', '.join(SUFFIXES)}.")
    return found


def open_image(source: Any) -> Image.Image:
    """PIL RGB from a path, a sample's name, a PIL image, or an array "h w" or "h w c", uint8 or floats in [0, 1].

    >>> open_image(np.zeros((64, 64), dtype="uint8")).mode
    'RGB'

    EXIF orientation is applied, transparency is laid on white, 16-bit files are scaled to 8. Raises InputError (for files
    ImageFileError, also an OSError).
    """
    if isinstance(source, str) and is_sample(source):
        return sample_image(source)
    if isinstance(source, (str, Path)):
        try:
            image: Image.Image = Image.open(Path(source).expanduser())
            image.load()
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise ImageFileError(f"{source} cannot be read as an image, and is no sample's name: {error}") from error
    elif isinstance(source, np.ndarray):
        floats = source.dtype.kind == "f" and source.size and source.min() >= 0 and source.max() <= 1  # nor NaN
        array = (source * 255).round().astype(np.uint8) if floats else source
        if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
            raise InputError(f'image array is {source.dtype} {source.shape}: give uint8, or floats in [0, 1], as "h w 3".')
        image = Image.fromarray(array)
    elif isinstance(source, Image.Image):
        image = source
    else:
        raise InputError(f"image is a {type(source).__name__}: give a path, a PIL image, an array or a sample's name.")
    if min(image.size) < LEAST_SIDE:
        raise InputError(f"the image is {image.width}x{image.height} px: at least {LEAST_SIDE} px a side are needed.")
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, dtype=np.float64)
        if not (values.min() >= 0 and values.max() <= 65535):
            raise InputError(f"the image has values from {values.min():g} to {values.max():g}: 16-bit is 0 to 65535.")
        image = Image.fromarray((values / 257).round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def prepare_image(source: Any, *, height: int, width: int) -> Image.Image:
    """The centre of the image at the frame's aspect, resized to height x width px; `.info["crop"]` is the box that was kept.

    A loss of more than 1 % of the area is warned of (CropWarning): crop the image yourself to choose what stays.
    """
    image = open_image(source)
    w, h = image.size
    scale = min(w / width, h / height)
    kept_w, kept_h = min(w, round(width * scale)), min(h, round(height * scale))
    left, top = (w - kept_w) // 2, (h - kept_h) // 2
    box = (left, top, left + kept_w, top + kept_h)
    if (lost := 1 - kept_w * kept_h / (w * h)) > 0.01:
        text = f"the image is {w}x{h}, the frame {width}x{height}: the centre {kept_w}x{kept_h} is used, "
        warnings.warn(text + f"{100 * lost:.0f} % of the area is cut off.", CropWarning, stacklevel=2)
    if (kept_w, kept_h) != (width, height) or lost:
        image = image.resize((width, height), Image.Resampling.LANCZOS, box=box)
    image.info = {"crop": box}
    return image


def image_hash(image: Image.Image) -> str:
    """sha256 over size and RGB bytes of a prepared image."""
    return hashlib.sha256(f"{image.size}".encode() + image.convert("RGB").tobytes()).hexdigest()


# --- latents ----------------------------------------------------------------------------------------------------------

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

    Raises BrokenClipError for NaN and for frames that are black throughout, which is how half precision fails.
    """
    x = latents[None].to(pipe._execution_device)
    with vae_in_turn(pipe):
        frames = pipe.decode_latents(x.to(pipe.vae.dtype), len(latents), decode_chunk_size)
    video = pipe.video_processor.postprocess_video(video=frames, output_type="np")[0]
    pipe.maybe_free_model_hooks()
    if not np.isfinite(video).all() or video.max() <= 1 / 255:
        raise BrokenClipError(
            f"the frames are NaN or black, from {'' if latents.isfinite().all() else 'in'}finite latents by a VAE in "
            f"{pipe.vae.dtype}: load with dtype='bfloat16' or 'float32', and look at edits."
        )
    return np.asarray(video, dtype=np.float32)


def encode_pixels(pipe: Any, pixels: torch.Tensor, each: int = 1) -> torch.Tensor:
    """Images "n c h w" in [-1, 1] to latents "(each n) c h w", not scaled, as diffusers encodes: a float16 VAE in float32."""
    with vae_in_turn(pipe, cast=[torch.float16] if pipe.vae.config.force_upcast else ()):
        return pipe._encode_vae_image(pixels, pipe._execution_device, each, False)


@torch.no_grad()
def encode(pipe: Any, video: Any) -> torch.Tensor:
    """Frames "f h w c", uint8 or in [0, 1], to latents "f c h w" as denoising works on them: the inverse of `decode_latents`.
    Each frame by itself, the mode of the VAE's distribution times its scaling factor; float32, on the CPU.

    >>> encode(pipe, clip.frames).shape == clip.latents.shape
    True
    """
    frames, side = np.asarray(video), pipe.vae_scale_factor
    if frames.ndim != 4 or frames.shape[3] != 3 or frames.shape[1] % side or frames.shape[2] % side:
        raise InputError(f'video has shape {frames.shape}: give "f h w 3", with sides that are multiples of {side} px.')
    x = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
    x = (x / 255 if x.dtype == torch.uint8 else x.float()) * 2 - 1
    if not x.abs().max() <= 1:
        raise InputError("video has values outside [0, 1], or NaN: give uint8, or floats in [0, 1].")
    latents = [encode_pixels(pipe, chunk) for chunk in x.split(8)]
    pipe.maybe_free_model_hooks()
    return (torch.cat(latents) * pipe.vae.config.scaling_factor).float().cpu()
