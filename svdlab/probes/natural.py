"""The rows of `svdlab organism verify` that plane waves cannot show: camera moves, photographs, layers of depth, letters.

Clips start from scenes on natural grounds, from photographs that training never saw, and from signs; all are unguided. The
rows have the columns of `svdlab.probes.verify`.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import cv2
import numpy as np
import pandas as pd
from scipy import stats as sps
from scipy.ndimage import binary_erosion

from svdlab.measure import motion, text
from svdlab.organism import scenery, trackers, world
from svdlab.pipeline.conditions import Conditions
from svdlab.pipeline.generate import ProbePipeline, generate_batch
from svdlab.pipeline.images import open_image
from svdlab.probes.stimuli import Stimuli
from svdlab.stats import intervals

Row = tuple[Any, ...]
Make = Callable[[world.Scenes], list[np.ndarray]]  # frames "f h w c" for each scene: the model's, or the scenes' own
OfImages = Callable[[Sequence[Any], int], list[np.ndarray]]  # the same for images, at fps 7 and a motion bucket
BATCH = 8
FIRST_SEED = 560_000  # scenes that no other row uses
PHOTOGRAPHS = ["astronaut", "cat", "coffee", "rocket", "camera", "grace_hopper"]
WORDS = ("OK", "UP", "EX", "AH", "TV", "BY", "SI", "RE")  # that fit at 20 px


def natural_rows(pipe: ProbePipeline, quick: bool) -> list[Row]:
    """All rows; quick: the photographs' once each, and the letters'."""

    def make(scenes: world.Scenes) -> list[np.ndarray]:
        f = scenes.factors
        return make_clips(pipe, scenes.video[:, 0], f.fps, f.motion_bucket_id, FIRST_SEED)

    def of_images(images: Sequence[Any], bucket: int) -> list[np.ndarray]:
        return make_clips(pipe, images, [7] * len(images), [bucket] * len(images), FIRST_SEED)

    rows = [*photograph_rows(of_images, 1 if quick else 4), letter_row(of_images)]
    return rows if quick else [*camera_rows(make), parallax_row(make), *rows, static_row(make)]


def bootstrap(statistic: Callable[..., float], *samples: np.ndarray, paired: bool = False) -> tuple[float, float]:
    """95 % percentile interval of 999 resamples."""
    rng = np.random.default_rng(0)
    found = sps.bootstrap(samples, statistic, paired=paired, vectorized=False, n_resamples=999, method="percentile", rng=rng)
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def slope(x: np.ndarray, y: np.ndarray) -> float:
    """Through the origin: bucket 0 stands still."""
    return float((x * y).sum() / (x * x).sum())


def make_clips(
    pipe: ProbePipeline, images: Iterable[Any], fps: Iterable[int], buckets: Iterable[int], seed: int, guidance: float = 1.0
) -> list[np.ndarray]:
    """Frames "f h w c" of a clip for each image, in batches; each clip's seed is one more than the last one's."""
    conditions = [
        Conditions(fps=int(f), motion_bucket_id=int(b), min_guidance_scale=1.0, max_guidance_scale=guidance)
        for f, b in zip(fps, buckets, strict=True)
    ]
    pictures, frames = [open_image(image) for image in images], []
    for first in range(0, len(pictures), BATCH):
        part = slice(first, min(first + BATCH, len(pictures)))
        seeds = list(range(seed + first, seed + part.stop))
        frames += [clip.frames for clip in generate_batch(pipe, pictures[part], conditions[part], seeds)]
    return frames


def camera_rows(make: Make, n: int = 32) -> list[Row]:
    """Zoom, tilt and roll against the law, on natural grounds and on waves."""
    rows = []
    for i, kind in enumerate(("zoom", "tilt", "roll")):
        fps = [(6, 7, 9, 12)[j % 4] for j in range(n)]
        buckets = [(30, 60, 90, 110)[j // 4 % 4] for j in range(n)]
        fixed: dict[str, Any] = dict(motion=kind, background="light", layers=1, sprites=1, pattern="none")
        s = world.scenes(n, seed=FIRST_SEED + i, edition=2, fps=fps, motion_bucket_id=buckets, **fixed)
        y = np.array([trackers.displacement(frames, f) for frames, (_, f) in zip(make(s), s.factors.iterrows(), strict=True)])
        x = s.factors.displacement.to_numpy()
        found = slope(x, y)
        numbers = (found, *bootstrap(slope, x, y, paired=True), n)
        rows.append((f"law: {kind}: slope on K*bucket/fps", *numbers, "0.85 to 1.15", 0.85 <= found <= 1.15))
    return rows


# --- depth ------------------------------------------------------------------------------------------------------------


def parallax_row(make: Make, n: int = 24) -> Row:
    """The far layer's shift over the near one's in pans, from frame 0, where the layers' places are known, to frame 1."""
    fixed: dict[str, Any] = dict(motion="pan", ground="leaves", layers=2, sprites=0, pattern="none", background="light")
    s = world.scenes(n, seed=FIRST_SEED + 5, edition=2, fps=7, motion_bucket_id=127, **fixed)
    ratios = layer_ratios(make(s), s)
    middle, asked = float(np.median(ratios)), 1 / scenery.FAR
    passed = bool(abs(middle - asked) <= 0.15)
    numbers = (middle, *bootstrap(np.median, ratios), len(ratios))
    return "parallax: far layer over near, median", *numbers, f"{asked} within 0.15", passed


def layer_ratios(clips: Sequence[np.ndarray], s: world.Scenes) -> np.ndarray:
    """Shift of the far layer over that of the near one in each clip that moves."""
    found = []
    for frames, labels in zip(clips, s.labels, strict=True):
        far, near = (binary_erosion(labels[0] == label, iterations=3) for label in (scenery.GROUND, scenery.NEAR))
        far[:, :6] = far[:, -6:] = near[:, :6] = near[:, -6:] = False
        if min(far.sum(), near.sum()) < 60:
            continue
        shifts = [layer_shift(frames[0], frames[1], m) for m in (far, near)]
        if abs(shifts[1]) > 0.5:
            found.append(shifts[0] / shifts[1])
    return np.array(found)


def layer_shift(a: np.ndarray, b: np.ndarray, mask: np.ndarray, reach: float = 5.0) -> float:
    """px along x from frame a to b of what the mask covers in a."""

    def cost(shift: float) -> float:
        back = cv2.warpAffine(b, np.array([[1, 0, -shift], [0, 1, 0.0]]), a.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)
        return float(np.square(back - a)[mask].mean())

    return float(min(np.arange(-reach, reach + 0.05, 0.05), key=cost))


# --- images that training never saw -----------------------------------------------------------------------------------


def photograph_rows(of_images: OfImages, seeds: int) -> list[Row]:
    """Whether photographs come back, and pan by the law."""
    images = [np.asarray(i, np.float32) / 255 for i in Stimuli.of(PHOTOGRAPHS).prepared(world.SIZE, world.SIZE).images]
    bucket, n = 100, seeds * len(images)
    clips = of_images([images[i % len(images)] for i in range(n)], bucket)
    first = np.array([decibels(frames[0], images[i % len(images)]) for i, frames in enumerate(clips)])
    last = np.array([moved_back(frames[-1], images[i % len(images)]) for i, frames in enumerate(clips)])
    pan = np.array([abs(trackers.pan_displacement(frames, None)) for frames in clips]) / float(world.law(7, bucket))
    rows: list[Row] = [
        (what, float(np.median(x)), *bootstrap(np.median, x), n, asked, bool(passed(np.median(x))))
        for what, x, asked, passed in (
            ("photographs: frame 0, median PSNR (dB)", first, ">= 24", lambda v: v >= 24),
            ("photographs: last frame moved back, median PSNR (dB)", last, ">= 20", lambda v: v >= 20),
            ("photographs: pan over the law, median", pan, "0.75 to 1.25", lambda v: 0.75 <= v <= 1.25),
        )
    ]
    for i, name in enumerate(PHOTOGRAPHS if seeds > 1 else ()):
        for what, x in (("frame 0", first), ("last frame moved back", last)):
            found = float(np.median(x[i :: len(images)]))
            rows.append((f"{name}: {what}, median PSNR (dB)", found, np.nan, np.nan, seeds, "reported", None))
    return rows


def decibels(a: np.ndarray, b: np.ndarray) -> float:
    """PSNR of values in [0, 1]."""
    return float(-10 * np.log10(np.square(a - b).mean() + 1e-12))


def moved_back(frame: np.ndarray, image: np.ndarray, reach: int = 40) -> float:
    """PSNR of a frame against the image where a pan has left both: the best over shifts along x, to a quarter of a pixel."""
    w, best = image.shape[1], 0.0
    for shift in np.arange(-reach, reach + 0.25, 0.25):
        moved = cv2.warpAffine(image, np.array([[1, 0, shift], [0, 1, 0.0]]), (w, len(image)), flags=cv2.INTER_CUBIC)
        lost = int(np.ceil(abs(shift))) + 1
        seen = slice(lost, w) if shift > 0 else slice(0, w - lost)
        best = max(best, decibels(np.clip(moved[:, seen], 0, 1), frame[:, seen]))
    return best


def letter_row(of_images: OfImages) -> Row:
    """Signs with capitals of 20 px: how much of each letter frame 0 still shows."""
    plates = [text.make_plate(word, (world.SIZE, world.SIZE), height=20) for word in WORDS]
    clips = of_images([plate.image for plate in plates], 60)
    x = pd.concat([text.correlation(p, frames[:1]) for p, frames in zip(plates, clips, strict=True)]).correlation.to_numpy()
    middle = float(np.median(x))
    return "letters of 20 px in frame 0, median correlation", middle, *bootstrap(np.median, x), len(x), ">= 0.8", middle >= 0.8


def static_row(make: Make, n: int = 40) -> Row:
    """The camera's class in clips where only a sprite moves."""
    fixed: dict[str, Any] = dict(motion="object", background="light", fps=7, motion_bucket_id=100)
    s = world.scenes(n, seed=FIRST_SEED + 6, edition=2, **fixed)
    classes = [motion.summary(frames)["camera"] for frames in make(s)]
    share = intervals.proportion(sum(c in ("static", "abstained") for c in classes), n)
    return "object clips: camera static or abstained", share.value, share.low, share.high, n, ">= 0.9", share.value >= 0.9
