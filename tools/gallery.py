"""Copies the figures of the executed notebooks, results/NN-name/*.png, to results/gallery/, which git keeps.

`python tools/gallery.py` takes all that are under 1.5 MB; run the notebooks first (`make demo`, `svdlab notebook NAME`).
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

RESULTS = Path(__file__).parents[1] / "results"
LIMIT = 1.5e6  # bytes: a clone should stay small


def main() -> int:
    figures = sorted(RESULTS.glob("[0-9][0-9]-*/*.png"))
    if not figures:
        print("no figures in results/NN-name/ yet: run `make demo`")
        return 1
    (RESULTS / "gallery").mkdir(exist_ok=True)
    for figure in figures:
        size = figure.stat().st_size
        if size > LIMIT:
            print(f"left out, {size / 1e6:.1f} MB: {figure.relative_to(RESULTS)}")
            continue
        target = RESULTS / "gallery" / f"{figure.parent.name}-{figure.name}"
        shutil.copyfile(figure, target)
        print(target.relative_to(RESULTS))
    return 0


if __name__ == "__main__":
    sys.exit(main())
