"""How long `import svdlab` takes in a fresh interpreter, over what the interpreter itself takes to start."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from tools.bench import Row


def seconds(code: str, repeats: int = 9) -> float:
    """The median, after one run that fills the disk cache and writes the byte code."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def main() -> list[Row]:
    return [Row("import svdlab, interpreter start deducted", seconds("import svdlab") - seconds("pass"), 0.2, "s")]
