"""How faithful a clip stays to its input image and to itself: drift, flicker, sharpness, colour, and detail by frequency.

    >>> summary(clip.frames, clip.image)                 # drift, flicker, warping error, decay: one flat dict per clip
    >>> kept(clip.image, clip.frames).db                 # 0 dB keeps all detail of that band, -3 dB half its power
    >>> budget({"input": clip.image, "model": clip.frames[0]}).groupby("stage").mse.sum()

Frames are "f h w c" in [0, 1], see `svdlab.measure.video.as_frames`, whose InputErrors these functions raise, also for an
image of another size than the frames. Bands are octaves of cycles per px, cut in the discrete cosine transform, which mirrors
an image at its border, and which is orthonormal: the mean squares of the bands add up to the mean square of the image
(Parseval).
"""

import math
from collections.abc import Mapping
from functools import partial
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
import pandas as pd
from scipy import fft
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from svdlab.errors import COUNT, InputError, kind, number, takes
from svdlab.measure.flow import brought_back, consistent, estimator, together
from svdlab.measure.video import CLIP, FRAMES, IMAGE, SIZE, as_image

LEVEL = 1 / 255  # what is seen as black or white lies within one 8-bit level of the ends
EDGES = (1 / 32, 1 / 16, 1 / 8, 1 / 4)  # cycles per px
BANDS = ("mean", "below 1/32", "1/32 to 1/16", "1/16 to 1/8", "1/8 to 1/4", "above 1/4")  # cycles per px; the mean is 0
FINE = BANDS[-2:]  # what is commonly called sharpness
EMPTY = (0.1 / 255) ** 2  # power of a tenth of a grey level: a band with less holds nothing that could be kept
LUMA, MEAN = np.array([[0.2125, 0.7154, 0.0721]]), np.full((1, 3), 1 / 3)  # weights of red, green, blue; the first skimage's
DARKEST = np.finfo(np.float32).tiny
REGIONS = ("edges", "texture", "flat")
LEAST_GRADIENT = 2 / 255  # grey per px (a Gaussian derivative of sigma 1.5 px): below that there is nothing to see
ANGLE = partial(number, least=-360, most=360)
FREQUENCY = partial(number, above=0, below=0.5)  # cycles per px: a sine has a phase below 0.5
COHERENT = 0.75  # of the gradient's energy runs one way: an edge; below, a texture


@takes(frames=FRAMES)
def drift(frames: Any, image: Any) -> dict[str, float]:
    """How far the clip moves away from its input image: flat dict.

    >>> drift(clip.frames, clip.image)["drift_slope"]

    Keys: `drift_mse_first`, `_last`, `_mean`: mean squared error in [0, 1] against the input, which any motion raises;
    `drift_ssim_first`, `_last`: structural similarity (1 is equal); `drift_colour_last`: Euclidean distance of the mean RGB
    colours (0 to sqrt 3), which motion hardly changes; `drift_slope`: rise of the squared error per frame.
    """
    clip = frames
    first = as_image(image, clip.shape[1:])
    error = np.array([cv2.norm(f, first, cv2.NORM_L2SQR) for f in clip]) / first.size
    return {
        "drift_mse_first": float(error[0]),
        "drift_mse_last": float(error[-1]),
        "drift_mse_mean": float(error.mean()),
        "drift_ssim_first": ssim(clip[0], first),
        "drift_ssim_last": ssim(clip[-1], first),
        "drift_colour_last": float(np.linalg.norm(clip[-1].mean((0, 1)) - first.mean((0, 1)))),
        "drift_slope": slope(error),
    }


@takes(frames=CLIP)
def flicker(frames: Any) -> dict[str, float]:
    """Changes of brightness from frame to frame that are not motion: flat dict, in units of [0, 1].

    >>> flicker(clip.frames)["flicker_brightness"]       # 0.01: the mean grey jumps by 1 % of full scale

    `flicker_brightness`: root mean square second difference of the frames' mean grey, which a steady fade leaves at 0;
    `flicker_mae`: mean absolute difference of neighbouring frames, motion included.
    """
    jumps = np.diff([np.mean(cv2.mean(f)[:3]) for f in frames], 2)
    return {
        "flicker_brightness": float(np.sqrt(np.square(jumps).mean())) if len(jumps) else math.nan,
        "flicker_mae": float(np.mean([cv2.norm(a, b, cv2.NORM_L1) for a, b in pairwise(frames)]) / frames[0].size),
    }


@takes(frames=CLIP)
def warp_error(frames: Any) -> dict[str, float]:
    """What remains between neighbouring frames after motion is undone, where nothing is hidden: flat dict.

    >>> warp_error(clip.frames)["warp_error"]

    `warp_error`: root mean square of the later frame, brought back along the flow, minus the earlier one, over visible pixels,
    in [0, 1]; `hidden_share`: the share of pixels left out.
    """
    estimate = estimator(frames)

    def look(t: int) -> tuple[float, float]:
        there, back = estimate(t, t + 1), estimate(t + 1, t)
        seen = consistent(there, back)
        squares = cv2.norm(brought_back(frames[t + 1], there), frames[t], cv2.NORM_L2SQR, seen.astype(np.uint8))
        return squares / (3 * seen.sum()) if seen.any() else math.nan, 1 - float(seen.mean())

    errors, hidden = np.array(together(look, range(len(frames) - 1))).T
    return {
        "warp_error": float(np.sqrt(np.nanmean(errors))) if np.isfinite(errors).any() else math.nan,
        "hidden_share": float(hidden.mean()),
    }


@takes(frames=FRAMES)
def per_frame(frames: Any) -> pd.DataFrame:
    """A row per frame: blur, contrast, saturation, brightness, and the share of pixels at either end.

    >>> per_frame(clip.frames).plot(y="blur")

    `blur`: 0 sharp to 1 blurred (Crete et al. 2007, skimage.measure.blur_effect); `brightness` mean grey and `contrast` its
    standard deviation, `saturation` mean HSV saturation, [0, 1]; `black`, `white`: shares of pixels of which all channels lie
    within one 8-bit level of 0 or of 1.
    """
    return pd.DataFrame([{"frame": t, **_look(f)} for t, f in enumerate(frames)])


def _look(frame: np.ndarray) -> dict[str, float]:
    """A row of `per_frame`, for a checked frame: by OpenCV, in a small part of skimage's time."""
    red, green, blue = cv2.split(frame)
    high, low = cv2.max(cv2.max(red, green), blue), cv2.min(cv2.min(red, green), blue)
    mean, deviation = cv2.meanStdDev(cv2.transform(frame, MEAN))
    return {
        "blur": _blur(cv2.transform(frame, LUMA)),
        "brightness": float(mean.item()),
        "contrast": float(deviation.item()),
        "saturation": float(((high - low) / np.maximum(high, DARKEST)).mean()),
        "black": np.count_nonzero(high < LEVEL) / high.size,
        "white": np.count_nonzero(low > 1 - LEVEL) / low.size,
    }


def _blur(grey: np.ndarray) -> float:
    """Of Crete et al. (2007), 0 to 1, the worse of both axes: how much of the slopes is left after another blur of 11 px."""
    left = []
    for dx, dy in ((0, 1), (1, 0)):
        again = cv2.blur(grey, (1 + 10 * dx, 1 + 10 * dy), borderType=cv2.BORDER_REFLECT)
        own, after = (np.abs(_slopes(image, dx, dy)) for image in (grey, again))
        there = cv2.sumElems(own)[0]
        left.append(1 - cv2.sumElems(np.maximum(own - after, 0))[0] / there if there else 1.0)
    return max(left)


def _slopes(grey: np.ndarray, dx: int, dy: int) -> np.ndarray:
    """Sobel's, without the frame's border."""
    return cv2.Sobel(grey, cv2.CV_32F, dx, dy, scale=1 / 8, borderType=cv2.BORDER_REFLECT)[2:-1, 2:-1]


@takes(frames=CLIP)
def decay(frames: Any) -> dict[str, float]:
    """How sharpness and colour change over a clip: flat dict, of the numbers of `per_frame`.

    >>> decay(clip.frames)["blur_slope"]                 # above 0: detail is being lost

    `blur_first`, `blur_last`, `blur_slope` and the same of `saturation`; slopes are least squares, per frame;
    `clipped_max`: share of black and white pixels in the worst frame.
    """
    rows = [_look(f) for f in frames]
    found: dict[str, float] = {}
    for name in ("blur", "saturation"):
        values = np.array([row[name] for row in rows])
        found |= {f"{name}_first": float(values[0]), f"{name}_last": float(values[-1]), f"{name}_slope": slope(values)}
    return found | {"clipped_max": max(row["black"] + row["white"] for row in rows)}


@takes(image=IMAGE)
def reconstruction_error(image: Any, reconstruction: Any) -> dict[str, float]:
    """What an autoencoder alone loses of an image: mean squared error, PSNR in dB (inf where equal), SSIM.

    >>> reconstruction_error(image, image)["reconstruction_psnr"]
    inf
    """
    one, two = image, as_image(reconstruction, image.shape, name="reconstruction")
    error = float(np.square(one - two).mean())
    return {
        "reconstruction_mse": error,
        "reconstruction_psnr": float(peak_signal_noise_ratio(one, two, data_range=1.0)) if error else math.inf,
        "reconstruction_ssim": ssim(one, two),
    }


@takes(frames=CLIP)
def summary(frames: Any, image: Any = None) -> dict[str, float]:
    """`flicker`, `warp_error`, `decay` and, where the input image is given, `drift`, in one flat dict.

    >>> summary(clip.frames, clip.image)["warp_error"]
    """
    return flicker(frames) | warp_error(frames) | decay(frames) | ({} if image is None else drift(frames, image))


@takes(one=IMAGE, two=IMAGE)
def ssim(one: np.ndarray, two: np.ndarray) -> float:
    """Structural similarity of two images "h w 3" of one size (Wang et al. 2004, window of 7 px, over the colour channels)."""
    two = as_image(two, one.shape, name="two")
    return float(structural_similarity(one, two, channel_axis=-1, data_range=1.0))


def slope(values: np.ndarray) -> float:
    """Rise per frame, least squares; NaN for a single frame."""
    return float(np.polyfit(np.arange(len(values)), values, 1)[0]) if len(values) > 1 else math.nan


# --- detail by spatial frequency and by region


@takes(shape=SIZE)
def band_of(shape: tuple[int, ...]) -> np.ndarray:
    """Which of BANDS each cosine of an "h w" image belongs to: int "h w"."""
    h, w = shape[:2]
    where = 1 + np.digitize(np.hypot(np.arange(h)[:, None] / (2 * h), np.arange(w) / (2 * w)), EDGES)
    where[0, 0] = 0
    return where


def power(frames: Any) -> np.ndarray:
    """Mean square per band: float64 "f b", b as in BANDS, averaged over colours. Its rows sum to the frames' mean squares.

    >>> power(clip.frames)[:, 1:].sum(1)                 # the variance of each frame

    frames: finite floats "f h w c", such as a difference of two clips, or uint8. Raises InputError for others.
    """
    array = np.asarray(frames)
    array = array / 255 if array.dtype == np.uint8 else array
    if array.ndim != 4 or 0 in array.shape or not np.issubdtype(array.dtype, np.floating) or not np.isfinite(array).all():
        raise InputError(f'got {array.dtype} of shape {array.shape}: finite floats "f h w c" are needed.')
    bands = band_of(array.shape[1:3]).ravel()
    squares = [np.square(fft.dctn(frame.astype(np.float64), axes=(0, 1), norm="ortho")).sum(-1).ravel() for frame in array]
    return np.stack([np.bincount(bands, s, minlength=len(BANDS)) for s in squares]) / array[0].size


@takes(frames=FRAMES)
def kept(reference: Any, frames: Any) -> pd.DataFrame:
    """What frames keep of a reference's detail: a row per frame and band, with `power`, `reference` and `db`.

    >>> kept(clip.image, clip.frames).query("band == 'above 1/4'").db.mean()

    `db` is 10 log10(power / reference): 0 where as much detail is there (not: the same detail), below 0 where it is lost,
    above 0 where noise or invented detail was added, NaN where the reference has none. Motion does not change it.
    """
    there, here = power(as_image(reference, frames.shape[1:], name="reference")[None])[0], power(frames)
    return pd.DataFrame(
        {"frame": f, "band": BANDS[b], "power": here[f, b], "reference": there[b], "db": decibels(here[f, b], there[b])}
        for f in range(len(frames))
        for b in range(1, len(BANDS))
    )


@takes(power=partial(number, least=0), reference=partial(number, least=0))
def decibels(power: float, reference: float) -> float:
    """10 log10 of a ratio of powers; NaN without a reference, -inf for nothing left of one."""
    if reference < EMPTY:
        return math.nan
    return 10 * math.log10(power / reference) if power > 0 else -math.inf


@takes(shape=SIZE, frequency=FREQUENCY, angle=ANGLE, contrast=partial(number, above=0, most=1))
def grating(shape: tuple[int, int], frequency: float, *, angle: float = 0.0, contrast: float = 0.8) -> np.ndarray:
    """A sine grating on mid grey, float32 "h w 3" in [0, 1].

    >>> grating((64, 64), 1 / 8).shape                   # eight px a cycle, upright bars
    (64, 64, 3)

    frequency: cycles per px, between 0 and 0.5, at which a sine has no phase. angle: of its normal in degrees, 0 right, 90
    down. contrast: Michelson, above 0, at most 1. Raises InputError for others.
    """
    wave = np.sin(_phase(shape, frequency, angle) + math.pi / 4)
    return np.repeat((0.5 + contrast / 2 * wave).astype(np.float32)[..., None], 3, axis=-1)


@takes(image=IMAGE, frequency=FREQUENCY, angle=ANGLE)
def modulation(image: Any, frequency: float, *, angle: float = 0.0) -> float:
    """The contrast of that grating in an image: twice the amplitude of its best-fitting sine (least squares).

    >>> round(modulation(grating((64, 64), 1 / 8), 1 / 8), 3)
    0.8

    Other frequencies, noise, a shifted grey and a shifted phase do not change it.
    """
    grey = image.mean(-1, dtype=np.float64)
    phase = _phase(grey.shape, frequency, angle).ravel()
    basis = np.stack([np.sin(phase), np.cos(phase), np.ones(phase.size)], 1)
    a, b, _ = np.linalg.lstsq(basis, grey.ravel(), rcond=None)[0]
    return 2 * float(math.hypot(a, b))


def _phase(shape: tuple[int, ...], frequency: float, angle: float) -> np.ndarray:
    y, x = np.mgrid[: shape[0], : shape[1]]
    turn = math.radians(angle)
    return 2 * math.pi * frequency * (x * math.cos(turn) + y * math.sin(turn))


@takes(image=IMAGE)
def regions(image: Any) -> dict[str, np.ndarray]:
    """Where an image has edges, texture, or neither: bool "h w" by REGIONS, which cover it without overlap.

    >>> regions(image)["edges"].mean()                   # share of the image

    By the structure tensor: `flat` where the grey changes little, else `edges` where it changes one way, else `texture`.
    """
    grey = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (0, 0), 1.0)
    dx, dy = (cv2.Scharr(grey, cv2.CV_32F, *way, scale=1 / 32) for way in ((1, 0), (0, 1)))
    xx, yy, xy = (cv2.GaussianBlur(p, (0, 0), 2.5) for p in (dx * dx, dy * dy, dx * dy))
    energy = xx + yy
    apart = np.hypot(xx - yy, 2 * xy)  # difference of the tensor's eigenvalues, whose sum is the energy
    strong = energy > LEAST_GRADIENT**2
    edges = strong & ((energy + apart) / 2 > COHERENT * energy)
    return {"edges": edges, "texture": strong & ~edges, "flat": ~strong}


@takes(stages=kind(Mapping))
def budget(stages: Mapping[str, Any]) -> pd.DataFrame:
    """What each stage changes against the stage before it, in mean squared error: a row per stage, band and region.

    >>> budget({"input": image, "autoencoder": through, "denoiser": clip.frames[0]})       # doctest: +SKIP

    stages: images "h w c" in [0, 1] in the order in which they were made, the ground truth first; regions are the truth's.
    Columns: `stage`; `band` (of BANDS); `region` (of REGIONS); `share` of the frame that the region covers; `mse`, its part of
    the frame's mean squared error: the rows of a stage sum to the stage's error. Stage "together" is what the error at the end
    has beyond the sum of the stages' own, below 0 where they cancel.
    """
    if len(stages) < 2 or "together" in stages:
        raise InputError(f'got stages {list(stages)}: two or more are needed, the truth first, none called "together".')
    first, *_, last = stages
    shape = as_image(stages[first], name=str(first)).shape
    images = {name: as_image(p, shape, name=str(name)).astype(np.float64) for name, p in stages.items()}
    masks = regions(images[first])
    parts = {name: _parts(images[name] - images[before], masks) for before, name in pairwise(images)}
    parts["together"] = _parts(images[last] - images[first], masks) - sum(parts.values())
    return pd.DataFrame(
        {"stage": stage, "band": BANDS[b], "region": region, "share": float(masks[region].mean()), "mse": part[b, r]}
        for stage, part in parts.items()
        for b in range(len(BANDS))
        for r, region in enumerate(REGIONS)
    )


@takes(whole=CLIP, chunked=CLIP, decode_chunk_size=COUNT)
def seams(whole: Any, chunked: Any, decode_chunk_size: int) -> dict[str, float]:
    """Steps between decode chunks: how much more the frames jump where one chunk ends and the next begins. Flat dict.

    >>> seams(clip.frames, clip.frames, 4)["seam_height"]
    0.0

    whole, chunked: one clip's latents decoded in one piece, and in chunks of `decode_chunk_size` frames, fewer than it has;
    their difference has no motion in it. Keys, in units of [0, 1]: `seam_height`, root mean square change of that difference
    across the seams, minus that between other neighbours (in squares; 0 where seams are not worse); `seam_brightness`, mean
    absolute step of the mean grey across the seams; `chunk_rms`, root mean square of the difference; `seams`, their number.
    """
    one, two = whole, chunked
    if one.shape != two.shape or decode_chunk_size >= len(one):
        raise InputError(
            f"got clips of {one.shape}, {two.shape}, decode_chunk_size={decode_chunk_size}: that leaves no seams."
        )
    difference = two.astype(np.float64) - one
    steps = np.diff(difference, axis=0)
    at_seam = np.arange(1, len(one)) % decode_chunk_size == 0
    squares = np.square(steps).mean(axis=(1, 2, 3))
    inside = float(squares[~at_seam].mean()) if (~at_seam).any() else 0.0
    return {
        "seam_height": float(np.sqrt(max(0.0, squares[at_seam].mean() - inside))),
        "seam_brightness": float(np.abs(steps.mean(axis=(1, 2, 3))[at_seam]).mean()),
        "chunk_rms": float(np.sqrt(np.square(difference).mean())),
        "seams": int(at_seam.sum()),
    }


def _parts(error: np.ndarray, masks: Mapping[str, np.ndarray]) -> np.ndarray:
    """Mean square of an error "h w c" by band and region, "b r".

    Bands are orthogonal over the whole frame, not within a region: a band counts e_b * e, not e_b * e_b, so that a region's
    row sums to its own error too.
    """
    bands, cosines = band_of(error.shape), fft.dctn(error, axes=(0, 1), norm="ortho")
    split = [fft.idctn(cosines * (bands == b)[..., None], axes=(0, 1), norm="ortho") for b in range(len(BANDS))]
    product = (np.stack(split) * error).mean(-1)
    return np.stack([(product * masks[r]).mean(axis=(1, 2)) for r in REGIONS], axis=1)
