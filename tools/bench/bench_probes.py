"""What probing costs: the measures of motion and decay by clip, and `svdlab probe all --quick` on the organism."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import svdlab
from svdlab import probes
from svdlab.measure import fidelity
from svdlab.organism import world
from svdlab.probes import conditioning, duration
from tools.bench import Row

PROMISED = 360.0  # s for all probes, quick, on 2 cores


def processor(work: Callable[[], Any], repeats: int = 3) -> float:
    """Median processor time of all threads, s."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return statistics.median(times)


def main() -> list[Row]:
    scene = world.scenes(1, seed=27, motion="object", fps=7, motion_bucket_id=125).video[0]
    clip = SimpleNamespace(frames=scene)
    fidelity.summary(scene, scene[0])  # imports and caches
    rows = [
        Row(
            "stillness: motion of a clip of the organism, processor time",
            processor(lambda: conditioning.measures(scene)),
            1.0,
            "s",
        ),
        Row("off_conditions: fidelity of one, processor time", processor(lambda: fidelity.summary(scene, scene[0])), 1.0, "s"),
        Row("duration: curves of one, processor time", processor(lambda: duration.curves(clip)), 0.5, "s"),  # type: ignore[arg-type]
    ]
    pipe = svdlab.load_pipeline()
    with tempfile.TemporaryDirectory() as out:
        start = time.perf_counter()
        results = probes.run_all(pipe, out, quick=True, progress=False)
        rows.append(Row("svdlab probe all --quick on the organism, time elapsed", time.perf_counter() - start, PROMISED, "s"))
        share = {n: r.seconds for n, r in results.items()}
        rows += [Row(f"  of which {name}", took, PROMISED, "s") for name, took in share.items()]
    return rows
