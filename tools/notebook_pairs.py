"""Compares each notebook with the .py half that jupytext pairs it with, so that a review can read the .py.

`python tools/notebook_pairs.py notebooks/*.ipynb` says which differ, and exits with 1 if any does;
`--write` before the names brings the older half into step with the newer.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import jupytext


def content(path: Path) -> list[tuple[str, str, tuple[str, ...]]]:
    """What must agree: each cell's kind, its source and its tags."""
    cells = jupytext.read(path).cells
    return [(cell.cell_type, cell.source.strip(), tuple(cell.metadata.get("tags", ()))) for cell in cells]


def difference(notebook: Path) -> str | None:
    """A sentence, or None where both halves agree."""
    script = notebook.with_suffix(".py")
    if not script.exists():
        return f"{notebook}: {script.name} is missing"
    if content(notebook) != content(script):
        return f"{notebook}: differs from {script.name}"
    return None


def main(arguments: list[str]) -> int:
    if "--write" in arguments:
        names = [Path(name) for name in arguments if name != "--write"]
        # A half that is not there yet is written out; otherwise the newer of the two wins.
        notebooks = [str(name if name.exists() else name.with_suffix(".py")) for name in names]
        return subprocess.run([sys.executable, "-m", "jupytext", "--quiet", "--sync", *notebooks]).returncode
    found = [text for text in (difference(Path(name)) for name in arguments) if text]
    for text in found:
        print(text)
    if found:
        print("`make format` brings the older half into step with the newer.")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
