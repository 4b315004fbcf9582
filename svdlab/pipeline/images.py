"""Images and frames: whatever a user has, made into what the pipeline takes, and by its VAE into latents and back.

>>> photo = open_image("astronaut")                  # a path, PIL image, array or sample's name, as PIL RGB
>>> prepare_image(photo, height=288, width=512).info["crop"]
(0, 112, 512, 400)
>>> latents = encode(pipe, clip.frames)              # "f h w c" in [0, 1] -> "f c h w"
>>> decode_latents(pipe, latents, 8).shape == clip.frames.shape
True
"""

import hashlib
import io
import os
import re
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableVideoDiffusionPipeline
from PIL import Image, ImageCms, ImageOps

from svdlab.errors import BrokenClipError, InputError, kind, path, shown, takes, text, warn, whole
from svdlab.measure.reading import SHALLOW, UPPER, deep
from svdlab.measure.video import as_frames

SIDE = partial(whole, least=8, most=16384)  # px of a frame
LEAST_SIDE = 16  # px of an image
MOST_PIXELS, MOST_BYTES = 89_478_485, 2**30  # of an image, before it is decoded: the first is Pillow's own
PHOTOGRAPHS = ("astronaut", "cat", "coffee", "rocket", "camera", "grace_hopper")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
FLIPS = {"left_right": (-1,), "up_down": (-2,), "half_turn": (-2, -1)}  # axes of "... h w" that turn, of image or noise


class CropWarning(UserWarning):
    """An image lost part of its area because the frame has another aspect."""


class FirstFrameWarning(UserWarning):
    """A file with several frames was given as an image: only one of them is used."""


class ImageFileError(InputError, OSError):
    """An image file that is missing or cannot be read; also an OSError."""


@takes(name=text)
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
    return name in PHOTOGRAPHS or re.fullmatch(r"scene-[0-9]{1,18}", name) is not None


@takes(folder=path)
def images_in(folder: str | Path) -> list[str]:
    """The paths of all images directly in a folder, sorted, without hidden ones; ImageFileError where there are none."""
    try:
        found = sorted(str(p) for p in Path(folder).iterdir() if p.suffix.lower() in SUFFIXES and p.name[0] != ".")
    except OSError as error:
        raise ImageFileError(f"{folder} cannot be read as a folder of images: {error.strerror}.") from error
    if not found:
        raise ImageFileError(f"{folder} holds no image: the suffixes are {', '.join(SUFFIXES)}.")
    return found


def open_image(source: Any) -> Image.Image:
    """PIL RGB from a path, a sample's name, a PIL image, or an array "h w" or "h w c", uint8 or floats in [0, 1].

    >>> open_image(np.zeros((64, 64), dtype="uint8")).mode
    'RGB'

    EXIF orientation and colour profile are applied, transparency is laid on white, 16-bit files are scaled to 8, floats are
    taken as 0 to 1. Of a file with several frames one is used, with a FirstFrameWarning. Raises InputError (for files
    ImageFileError, also an OSError), also where the range of the values is ambiguous, and for what is too large, before it is
    decoded.
    """
    if isinstance(source, str) and is_sample(source):
        return sample_image(source)
    if isinstance(source, (str, os.PathLike)):
        try:
            file = path("image", source)
            if not file.is_file():
                raise ValueError("it is a folder or a device." if file.exists() else "No such file.")
            if file.stat().st_size > MOST_BYTES:
                raise ValueError(f"it is larger than {MOST_BYTES} bytes.")
            with warnings.catch_warnings(category=Image.DecompressionBombWarning, action="ignore"):
                opened: Image.Image = Image.open(file)
            with opened as image:
                if image.format in ("EPS", "WMF"):
                    raise ValueError(f"{image.format} is no pixels but a program, which is not run: convert it first.")
                return _to_rgb(image, f" {str(source)!r}")
        except InputError as error:
            raise ImageFileError(str(error)) from error
        except Exception as error:  # Pillow's readers raise nearly anything for a damaged file
            words = " ".join(str(error).split())
            raise ImageFileError(f"{str(source)!r} cannot be read as an image, and is no sample's name: {words}") from error
    if isinstance(source, np.ndarray):
        floats = source.dtype.kind == "f" and source.size and source.min() >= 0 and source.max() <= 1  # nor NaN
        array = _bytes(source, "") if floats else source
        if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
            raise InputError(f'image array is {source.dtype} {source.shape}: give uint8, or floats in [0, 1], as "h w 3".')
        return _to_rgb(Image.fromarray(array))
    if not isinstance(source, Image.Image):
        raise InputError(f"image is a {type(source).__name__}: give a path, a PIL image, an array or a sample's name.")
    try:
        return _to_rgb(source)
    except InputError:
        raise
    except Exception as error:  # one whose file is closed or damaged
        raise InputError(f"image={shown(source)} cannot be read: {' '.join(str(error).split())}") from error


def _bytes(values: np.ndarray, name: str) -> np.ndarray:
    """Floats in [0, 1] as uint8; InputError where all become 0 and not all were."""
    array = (values * 255).round().astype(np.uint8)
    if values.any() and not array.any():
        raise InputError(
            f"the image{name} has values from {values.min():g} to {values.max():g} of 1, which is black: scale it."
        )
    return array


def _to_rgb(image: Image.Image, name: str = "") -> Image.Image:
    """RGB of an image that may not be decoded yet; InputError for a size or a range of values that cannot be."""
    w, h = image.size
    if min(w, h) < LEAST_SIDE or w * h > MOST_PIXELS:
        allowed = f"at least {LEAST_SIDE} px a side, and at most {MOST_PIXELS // 10**6} megapixels"
        raise InputError(f"the image{name} is {w}x{h} px: {allowed} are needed.")
    if (n := getattr(image, "n_frames", 1)) > 1 and image.format != "MPO":  # a photograph with its preview
        read = f"svdlab.measure.video.read_frames({name.strip() or '<its path>'})"
        words = f"the image{name} holds {n} frames, of which only frame {image.tell()} is used: {read} reads the video."
        warn(words, FirstFrameWarning)
    if image.format == "TIFF" and getattr(image, "tag_v2", {}).get(254, 0) & 1:  # NewSubfileType: of another image in the file
        raise InputError(
            f"the image{name} is a camera's raw file, and {w}x{h} px its preview: develop it to PNG or JPEG first."
        )
    wide = deep(image)
    image.load()
    if wide and max(high for _, high in image.convert("RGB").getextrema()) < UPPER:  # type: ignore[misc]
        raise InputError(f"the image{name}: {SHALLOW}")
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, dtype=np.float64)
        low, high = values.min(), values.max()
        if not (low >= 0 and (high <= 1 if image.mode == "F" else 4096 <= high <= 65535)):
            known = "floats are 0 to 1" if image.mode == "F" else "16-bit is 0 to 65535, and more than 12 bits of it are used"
            raise InputError(f"the image{name} has values from {low:g} to {high:g}, and {known}: convert it to 8-bit RGB.")
        image = Image.fromarray(_bytes(values if image.mode == "F" else values / 65535, name))
    profile = image.info.get("icc_profile")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = _in_srgb(image if image.mode == "CMYK" else image.convert("RGB"), profile)
    if max(high for _, high in image.getextrema()) == 1:  # type: ignore[misc]
        raise InputError(f"the image{name} has values 0 and 1 of 255, which is black: if 1 is white, multiply it by 255.")
    return image


def _in_srgb(image: Image.Image, profile: Any) -> Image.Image:
    """An RGB or CMYK image as RGB, by its file's colour profile (Display P3, Adobe RGB) where that is another than sRGB."""
    with suppress(ImageCms.PyCMSError, OSError, TypeError):  # none, or a damaged one, which a browser ignores
        own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if own.profile.xcolor_space.strip() == image.mode and "sRGB" not in ImageCms.getProfileDescription(own):
            return ImageCms.profileToProfile(image, own, ImageCms.createProfile("sRGB"), outputMode="RGB") or image
    return image.convert("RGB")


@takes(height=SIDE, width=SIDE)
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
        warn(text + f"{100 * lost:.0f} % of the area is cut off.", CropWarning)
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
def decode_latents(pipe: Any, latents: torch.Tensor, decode_chunk_size: int, *, as_bytes: bool = False) -> np.ndarray:
    """Latents "f c h w" of one clip to frames, float32 "f h w c" in [0, 1], by the pipeline's own methods; or as uint8, which
    `svdlab.measure.video.as_bytes` would make of them, and which the device makes and sends faster.

    Raises BrokenClipError for NaN and for frames that are black throughout, which is how half precision fails.
    """
    x = latents[None].to(pipe._execution_device)
    with vae_in_turn(pipe):
        frames = pipe.decode_latents(x.to(pipe.vae.dtype), len(latents), decode_chunk_size)
    video = pipe.video_processor.postprocess_video(video=frames, output_type="pt")[0].float()
    pipe.maybe_free_model_hooks()
    if not video.isfinite().all() or video.max() <= 1 / 255:
        raise BrokenClipError(
            f"the frames are NaN or black, from {'' if latents.isfinite().all() else 'in'}finite latents by a VAE in "
            f"{pipe.vae.dtype}: load with dtype='bfloat16' or 'float32', and look at edits."
        )
    video = (video * 255 + 0.5).to(torch.uint8) if as_bytes else video
    return np.ascontiguousarray(video.permute(0, 2, 3, 1).cpu().numpy())


def encode_pixels(pipe: Any, pixels: torch.Tensor, each: int = 1) -> torch.Tensor:
    """Images "n c h w" in [-1, 1], on the pipeline's device, to latents "(each n) c h w", not scaled, as diffusers encodes: a
    float16 VAE in float32."""
    with vae_in_turn(pipe, cast=[torch.float16] if pipe.vae.config.force_upcast else ()):
        return pipe._encode_vae_image(pixels, pixels.device, each, False)


@takes(pipe=kind(StableVideoDiffusionPipeline))
@torch.no_grad()
def encode(pipe: Any, video: Any) -> torch.Tensor:
    """Frames "f h w c", uint8 or in [0, 1], to latents "f c h w" as denoising works on them: the inverse of `decode_latents`.
    Each frame by itself, the mode of the VAE's distribution times its scaling factor; float32, on the CPU.

    >>> encode(pipe, clip.frames).shape == clip.latents.shape
    True
    """
    frames, side = as_frames(video, least=1), pipe.vae_scale_factor
    if frames.shape[1] % side or frames.shape[2] % side:
        raise InputError(f"video has shape {frames.shape}: its sides must be multiples of {side} px.")
    x, device = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2) * 2 - 1, pipe._execution_device
    latents = [encode_pixels(pipe, chunk.to(device)) for chunk in x.split(8)]
    pipe.maybe_free_model_hooks()
    return (torch.cat(latents) * pipe.vae.config.scaling_factor).float().cpu()
