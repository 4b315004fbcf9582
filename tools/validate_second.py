"""What the organism's second edition must show beside the rows of `svdlab organism verify`: camera moves, photographs, depth.

    $ python tools/validate_second.py build/exported            # the table, and build/exported.png with its photographs

Rows have the columns of `svdlab.probes.verify`. About 200 clips, some minutes on two cores.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from PIL import Image
from scipy.ndimage import binary_erosion

from svdlab.measure import motion, text
from svdlab.organism import scenery, trackers, world
from svdlab.pipeline.checkpoints import load_pipeline
from svdlab.pipeline.conditions import Conditions
from svdlab.pipeline.generate import ProbePipeline, generate_batch
from svdlab.pipeline.images import open_image
from svdlab.probes.stimuli import Stimuli
from svdlab.probes.verify import BATCH, COLUMNS, FIRST_SEED, bootstrap, slope
from svdlab.stats import intervals

PHOTOGRAPHS = ["astronaut", "cat", "coffee", "rocket", "camera", "grace_hopper"]
WORDS = ("OK", "GO", "UP", "EX", "AH", "NO", "TV", "FM")
BEYOND = 60_000  # added to FIRST_SEED: scenes that the first edition's rows do not use


def make_clips(pipe: ProbePipeline, images: Sequence[Any], fps: Sequence[int], buckets: Sequence[int]) -> list[np.ndarray]:
    """Frames "f h w c" of a clip for each image, unguided."""
    frames: list[np.ndarray] = []
    for first in range(0, len(images), BATCH):
        part = range(first, min(first + BATCH, len(images)))
        conditions = [
            Conditions(fps=int(fps[i]), motion_bucket_id=int(buckets[i]), min_guidance_scale=1.0, max_guidance_scale=1.0)
            for i in part
        ]
        clips = generate_batch(pipe, [open_image(images[i]) for i in part], conditions, [FIRST_SEED + i for i in part])
        frames += [clip.frames for clip in clips]
    return frames


def clips_of(pipe: ProbePipeline, scenes: world.Scenes) -> list[np.ndarray]:
    """A clip for each scene's first frame, at its conditions."""
    return make_clips(pipe, list(scenes.video[:, 0]), list(scenes.factors.fps), list(scenes.factors.motion_bucket_id))


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


def layer_shift(a: np.ndarray, b: np.ndarray, mask: np.ndarray, reach: float = 5.0) -> float:
    """px along x from frame a to b of what the mask covers in a."""

    def cost(shift: float) -> float:
        back = cv2.warpAffine(b, np.array([[1, 0, -shift], [0, 1, 0.0]]), a.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)
        return float(np.square(back - a)[mask].mean())

    return float(min(np.arange(-reach, reach + 0.05, 0.05), key=cost))


def camera_rows(pipe: ProbePipeline, n: int = 32) -> list[tuple]:
    """Zoom, tilt and roll against the law, on natural grounds and on waves."""
    rows = []
    for i, kind in enumerate(("zoom", "tilt", "roll")):
        fps = [(6, 7, 9, 12)[j % 4] for j in range(n)]
        buckets = [(30, 60, 90, 110)[j // 4 % 4] for j in range(n)]
        fixed: dict[str, Any] = dict(motion=kind, background="light", layers=1, sprites=1, pattern="none")
        s = world.scenes(n, seed=FIRST_SEED + BEYOND + i, edition=2, fps=fps, motion_bucket_id=buckets, **fixed)
        made = clips_of(pipe, s)
        y = np.array([trackers.displacement(frames, f) for frames, (_, f) in zip(made, s.factors.iterrows(), strict=True)])
        x = s.factors.displacement.to_numpy()
        found = slope(x, y)
        numbers = (found, *bootstrap(slope, x, y, paired=True), n)
        rows.append((f"law: {kind}: slope on K*bucket/fps", *numbers, "0.85 to 1.15", 0.85 <= found <= 1.15))
    return rows


def photograph_rows(pipe: ProbePipeline, seeds: int = 4) -> tuple[list[tuple], np.ndarray]:
    """Whether photographs come back and pan by the law; the rows, and an image of the clips."""
    images = [np.asarray(i, np.float32) / 255 for i in Stimuli.of(PHOTOGRAPHS).prepared(world.SIZE, world.SIZE).images]
    fps, bucket = 7, 100
    n = seeds * len(images)
    made = make_clips(pipe, [images[i % len(images)] for i in range(n)], [fps] * n, [bucket] * n)
    first = np.array([decibels(frames[0], images[i % len(images)]) for i, frames in enumerate(made)])
    last = np.array([moved_back(frames[-1], images[i % len(images)]) for i, frames in enumerate(made)])
    pan = np.array([abs(trackers.pan_displacement(frames, None)) for frames in made]) / float(world.law(fps, bucket))
    rows = [
        (what, float(np.median(x)), *bootstrap(np.median, x), n, asked, bool(passed(np.median(x))))
        for what, x, asked, passed in (
            ("photographs: frame 0, median PSNR (dB)", first, ">= 24", lambda v: v >= 24),
            ("photographs: last frame moved back, median PSNR (dB)", last, ">= 20", lambda v: v >= 20),
            ("photographs: pan over the law, median", pan, "0.75 to 1.25", lambda v: 0.75 <= v <= 1.25),
        )
    ]
    for i, name in enumerate(PHOTOGRAPHS):
        own = slice(i, None, len(images))
        rows.append((f"{name}: frame 0, PSNR (dB)", float(np.median(first[own])), np.nan, np.nan, seeds, "reported", None))
    strips = [np.concatenate([image, *frames], axis=1) for image, frames in zip(images, made, strict=False)]
    return rows, np.concatenate(strips)


def parallax_row(pipe: ProbePipeline, n: int = 24) -> tuple:
    """The far layer's shift over the near one's in pans, from frame 0, where the layers' places are known, to frame 1."""
    fixed: dict[str, Any] = dict(motion="pan", ground="leaves", layers=2, sprites=0, pattern="none", background="light")
    s = world.scenes(n, seed=FIRST_SEED + BEYOND + 5, edition=2, fps=7, motion_bucket_id=127, **fixed)
    ratios = layer_ratios(clips_of(pipe, s), s)
    middle, (low, high) = float(np.median(ratios)), bootstrap(np.median, ratios)
    asked = 1 / scenery.FAR
    passed = bool(abs(middle - asked) <= 0.15)
    return "parallax: far layer over near, median", middle, low, high, len(ratios), f"{asked} within 0.15", passed


def layer_ratios(made: Sequence[np.ndarray], s: world.Scenes) -> np.ndarray:
    """Shift of the far layer over that of the near one in each clip that moves."""
    found = []
    for frames, labels in zip(made, s.labels, strict=True):
        far, near = (binary_erosion(labels[0] == label, iterations=3) for label in (scenery.GROUND, scenery.NEAR))
        far[:, :6] = far[:, -6:] = near[:, :6] = near[:, -6:] = False
        if min(far.sum(), near.sum()) < 60:
            continue
        shifts = [layer_shift(frames[0], frames[1], m) for m in (far, near)]
        if abs(shifts[1]) > 0.5:
            found.append(shifts[0] / shifts[1])
    return np.array(found)


def letter_row(pipe: ProbePipeline) -> tuple:
    """Signs with capitals of 20 px: how much of each letter frame 0 still shows."""
    plates = [text.make_plate(word, (world.SIZE, world.SIZE), height=20) for word in WORDS]
    made = make_clips(pipe, [plate.image for plate in plates], [7] * len(plates), [60] * len(plates))
    tables = [text.correlation(p, frames[:1]) for p, frames in zip(plates, made, strict=True)]
    x = pd.concat(tables).correlation.to_numpy()
    middle = float(np.median(x))
    return "letters of 20 px in frame 0, median correlation", middle, *bootstrap(np.median, x), len(x), ">= 0.8", middle >= 0.8


def static_row(pipe: ProbePipeline, n: int = 40) -> tuple:
    """The camera's class in clips where only a sprite moves."""
    fixed: dict[str, Any] = dict(motion="object", background="light", fps=7, motion_bucket_id=100)
    s = world.scenes(n, seed=FIRST_SEED + BEYOND + 6, edition=2, **fixed)
    classes = [motion.summary(frames)["camera"] for frames in clips_of(pipe, s)]
    hits = sum(c in ("static", "abstained") for c in classes)
    share = intervals.proportion(hits, n)
    return "object clips: camera static or abstained", share.value, share.low, share.high, n, ">= 0.9", share.value >= 0.9


def second_rows(pipe: ProbePipeline) -> tuple[pd.DataFrame, np.ndarray]:
    """The table, and the photographs' clips as one image."""
    rows, picture = photograph_rows(pipe)
    rows += [*camera_rows(pipe), parallax_row(pipe), letter_row(pipe), static_row(pipe)]
    return pd.DataFrame(rows, columns=COLUMNS), picture


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint")
    table, picture = second_rows(load_pipeline(parser.parse_args().checkpoint))
    print(table.to_string(index=False))
    Image.fromarray((picture * 255).round().astype(np.uint8)).save(Path(parser.parse_args().checkpoint).with_suffix(".png"))
