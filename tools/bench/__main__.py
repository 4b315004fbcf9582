"""python -m tools.bench [NAME ...]: all benchmarks, or those whose file names contain a NAME."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path


def main(wanted: list[str]) -> int:
    names = sorted(path.stem for path in Path(__file__).parent.glob("bench_*.py"))
    chosen = [name for name in names if not wanted or any(part in name for part in wanted)]
    if not chosen:
        print(f"no benchmark is called {' or '.join(wanted)}; there are: {', '.join(names)}")
        return 2
    broken = 0
    print(f"{'what':<64} {'measured':>11} {'allowed':>11}  {'unit':<6} {'ratio':>6}")
    for name in chosen:
        for row in importlib.import_module(f"tools.bench.{name}").main():
            broken += row.ratio > 1
            verdict = "" if row.ratio <= 1 else "  too much"
            print(
                f"{row.what:<64} {row.measured:>11.4g} {row.allowed:>11.4g}  {row.unit:<6} {row.ratio:>6.2f}{verdict}",
                flush=True,
            )
    print(f"{len(chosen)} files run; {broken or 'no'} promise{'' if broken == 1 else 's'} broken")
    return bool(broken)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
