"""What the measures of realism, text and faces cost: CPU seconds per frame, on one core, and to load their models once."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from svdlab.measure import faces, fidelity, text
from svdlab.measure.calibrate import moving
from svdlab.pipeline.images import sample_image
from svdlab.probes import quality
from tools.bench import Row

FRAMES = 3
ALLOWED = {  # seconds per frame at 64x64, and at 1024x576: three times what one core of a small server took
    "spectrum of detail": (0.001, 0.15),
    "error budget, its chunks, flicker and blur": (0.03, 3),
    "letters' correlation": (0.005, 0.1),
    "reading by rapidocr": (0.15, 1),
    "faces by YuNet": (0.03, 0.2),
    "seams between chunks": (0.0005, 0.06),
}


def seconds(call: Callable[[], Any], frames: int = FRAMES) -> float:
    """CPU seconds per frame, the better of two."""
    taken = []
    for _ in range(2):
        start = time.process_time()
        call()
        taken.append(time.process_time() - start)
    return min(taken) / frames


def main() -> list[Row]:
    start = time.process_time()
    text.engine()
    text.read(np.full((64, 64, 3), 0.5))
    rows = [Row("reading machine, loaded once", time.process_time() - start, 3, "s")]
    for i, size in enumerate(((64, 64), (576, 1024))):
        clip = moving("coffee", size=size, frames=FRAMES, pan=1.0).frames
        plate = text.make_plate("EXIT", size, height=max(8, size[0] // 12), background=clip[0])
        signs = plate.image[None].repeat(FRAMES, 0)
        face = np.asarray(sample_image("astronaut").resize(size[::-1]), np.float32)[None].repeat(FRAMES, 0) / 255
        calls = {
            "spectrum of detail": lambda c=clip: fidelity.power(c),
            "error budget, its chunks, flicker and blur": lambda c=clip: quality.stage_measures(c[0], (c, c, c, c), 2),
            "letters' correlation": lambda p=plate, s=signs: text.correlation(p, s),
            "reading by rapidocr": lambda s=signs: text.read_clip(s, "EXIT"),
            "faces by YuNet": lambda f=face: faces.track(f),
            "seams between chunks": lambda c=clip: fidelity.seams(c, c, 2),
        }
        for name, call in calls.items():
            rows.append(Row(f"{name}, {size[1]}x{size[0]}, per frame", seconds(call), ALLOWED[name][i], "s"))
    return rows
