"""What one full-size clip costs the threads that measure and write, beside the GPU that makes the next one.

python -m tools.bench writer. Processor seconds of this process and of ffmpeg, which another machine's load hardly changes.
"""

from __future__ import annotations

import os
import resource
import tempfile
import threading
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np

from tools.bench import Row

FRAMES, SIZE = 25, (576, 1024)
ALLOWED = 8.0  # s: as long as a fast GPU takes for a clip; the first edition's writer took 22 s


def processor_seconds() -> float:
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def clip() -> Any:
    """As it comes from the decoder: float32 before, uint8 now."""
    import torch
    from PIL import Image

    from svdlab.measure.calibrate import moving
    from svdlab.pipeline.conditions import Conditions
    from svdlab.pipeline.generate import Call, Clip

    frames = moving("astronaut", size=SIZE, frames=FRAMES, pan=3.0, body=(5.0, 1.0)).frames
    image = Image.fromarray((frames[0] * 255).round().astype(np.uint8))
    conditions = Conditions(num_frames=FRAMES, height=SIZE[0], width=SIZE[1], playback_fps=7)
    if os.environ.get("SVDLAB_BENCH_FLOATS") != "1":
        frames = (frames * 255 + 0.5).astype(np.uint8)
    return Clip(frames, Call(conditions, 0, "0" * 64), image, torch.zeros(FRAMES, 4, SIZE[0] // 8, SIZE[1] // 8))


def main() -> list[Row]:
    import svdlab
    from svdlab.study import identity, ledger
    from svdlab.study.workers import How, Job, Making

    pipe, made = svdlab.load_pipeline(device="cpu"), clip()
    with tempfile.TemporaryDirectory() as folder:
        out = ledger.prepare(Path(folder, "study"))
        how = How(identity.facts(pipe), identity.as_measures(["motion", "fidelity"]))
        making = Making(pipe, deque(), {}, out, how)
        making.threads, making.error, making.mutex, making.device = 1, None, threading.Lock(), pipe._execution_device
        record = making._record(Job("0" * 24, made.conditions, 0, "0" * 64, "astronaut"), made, "")
        before = processor_seconds()
        making._write(record, made)
        seconds = processor_seconds() - before
    assert record["status"] == "done", record["reason"]
    return [Row("measuring and writing a clip of 25x576x1024, processor time", seconds, ALLOWED, "s")]
