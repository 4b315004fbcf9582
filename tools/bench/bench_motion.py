"""What `motion.summary` costs beyond the optical flow that it cannot do without, and whether it uses both cores."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

import cv2

from svdlab.measure import motion
from svdlab.measure.calibrate import moving
from svdlab.measure.flow import working_grey
from tools.bench import Row

FRAMES, SIZE = 25, (576, 1024)


def bare(greys: list, windows: list[tuple[int, int]]) -> None:
    """The DIS calls that the measurement needs, there and back, one after the other, by OpenCV alone."""
    engine = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    for first, last in windows:
        engine.calc(greys[first], greys[last], None)  # type: ignore[call-overload]
        engine.calc(greys[last], greys[first], None)  # type: ignore[call-overload]


def seconds(work, clock=time.perf_counter, repeats: int = 3) -> float:
    times = []
    for _ in range(repeats):
        start = clock()
        work()
        times.append(clock() - start)
    return statistics.median(times)


def main() -> list[Row]:
    clip = moving("astronaut", size=SIZE, frames=FRAMES, pan=3.0, body=(5.0, 1.0)).frames
    greys = working_grey(clip)
    windows = [(t, t + 1) for t in range(FRAMES - 1)]
    motion.summary(clip[:3])
    # Processor time of all threads: what else runs on the machine does not change the ratio.
    flow = seconds(lambda: bare(greys, windows), time.process_time)
    whole = seconds(lambda: motion.summary(clip), time.process_time)
    rows = [Row("motion.summary over its bare DIS calls, processor time", whole / flow, 1.5, "x")]
    elapsed, used = _cores(clip)
    cores = min(2, cv2.getNumThreads())
    rows.append(Row("motion.summary, time elapsed over time of all threads", elapsed / used, 1 / (0.75 * cores), "x"))
    code = "import svdlab.measure.motion, sys; sys.exit('torch' in sys.modules or 'diffusers' in sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code]).returncode
    rows.append(Row("import svdlab.measure.motion loads torch or diffusers (0 is no)", loaded, 0.5, ""))
    return rows


def _cores(clip) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    motion.summary(clip)
    return time.perf_counter() - wall, time.process_time() - cpu
