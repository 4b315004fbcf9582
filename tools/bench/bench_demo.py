"""`svdlab demo` after the installation: wall time and the memory of its largest process."""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time

from tools.bench import Row


def main() -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "svdlab", "demo"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - start
    peak = (
        resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e9
    )  # Linux counts in KiB; kernels are among the children
    return [Row("svdlab demo", seconds, 300, "s"), Row("svdlab demo, its largest process", peak, 3, "GB")]
