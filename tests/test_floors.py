"""A lower floor never imports a higher one, and `import svdlab` imports nothing heavy: seen in fresh interpreters."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "svdlab"

# The rooms of the architecture. A room is a module or a folder directly under svdlab/.
FLOORS = {
    "errors": 0,
    "files": 0,
    "provenance": 0,
    "images": 0,
    "frames": 0,
    "colours": 0,
    "optical_flow": 0,
    "known_motion": 0,
    "schedule": 0,
    "conditions": 0,
    "record": 0,
    "motion": 0,
    "bodies": 0,
    "published": 0,
    "dose": 0,
    "fidelity": 0,
    "stats": 0,
    "folders": 0,
    "ledger": 0,
    "plans": 0,
    "comparison": 0,
    "manifests": 0,
    "counterfactuals": 0,
    "video": 0,
    "spectra": 0,
    "budget": 0,
    "glyphs": 0,
    "reading": 0,
    "face_detection": 0,
    "upstream": 1,
    "checkpoints": 1,
    "architecture": 1,
    "doctor": 1,
    "guards": 1,
    "hub": 1,
    "allocator": 0,
    "memory": 1,
    "pipeline": 1,
    "selection": 1,
    "loop": 1,
    "attention": 1,
    "hooks": 1,
    "edits": 1,
    "runs": 1,
    "temporal": 1,
    "twins": 1,
    "writer": 1,
    "sweeps": 1,
    "workers": 1,
    "probes": 1,
    "organism": 1,
    "show": 2,
    "widgets": 2,
    "report": 2,
    "notebooks": 2,
    "calibrate": 2,
    "cli": 2,
    "__main__": 2,
}
# Measures and formulas know nothing of any model; a model's side draws nothing.
NEVER = {0: {"diffusers", "transformers"}, 1: {"ipywidgets", "mediapy"}}


def rooms(package: Path) -> dict[str, list[str]]:
    """The modules of each room, by what is on disk: {"motion": ["svdlab.motion"], "probes": ["svdlab.probes", ...]}."""
    found: dict[str, list[str]] = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        if parts == ("__init__",):
            continue
        name = ".".join((package.name, *(part for part in parts if part != "__init__")))
        found.setdefault(parts[0], []).append(name)
    return found


# Others' packages that a floor may have in any case, loaded once; each room's own imports then follow in a fork.
LOADED = {0: "torch pandas scipy.stats", 1: "torch pandas scipy.stats diffusers.pipelines.stable_video_diffusion"}
EACH_IN_A_FORK = """
import importlib, json, os, sys
for name in sys.argv[1].split(): importlib.import_module(name)
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        exec(json.loads(line))
        print("\\n" + json.dumps(list(sys.modules)), flush=True)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, line
"""


def imported(statements: list[str], folder: Path, loaded: str = "") -> list[set[str]]:
    """The names in sys.modules after each statement, in interpreters that have done nothing else but load `loaded`."""
    done = subprocess.run(
        [sys.executable, "-c", EACH_IN_A_FORK, loaded],
        input="\n".join(map(json.dumps, statements)),
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(folder)},
    )
    assert done.returncode == 0, f"of {statements}, one failed:\n{done.stderr}"
    return [set(json.loads(line)) for line in done.stdout.splitlines() if line.startswith("[")]


def violations(package: Path, room: str, names: set[str], floors: dict[str, int], never: dict[int, set[str]]) -> list[str]:
    """What a room drags in that belongs above it. names: all that is imported with it."""
    others = {name.split(".")[1] for name in names if name.startswith(package.name + ".")}
    too_high = [
        f"{room} (floor {floors[room]}) imports {other} (floor {floors[other]})"
        for other in sorted(others)
        if floors[other] > floors[room]
    ]
    foreign = sorted({name.split(".")[0] for name in names} & never.get(floors[room], set()))
    return too_high + [f"{room} (floor {floors[room]}) imports {name}" for name in foreign]


def with_rooms(package: Path, names: list[str], loaded: str = "") -> dict[str, set[str]]:
    """What is imported with each of these rooms."""
    statements = ["\n".join(f"import {module}" for module in rooms(package)[name]) for name in names]
    return dict(zip(names, imported(statements, package.parent, loaded), strict=True))


@pytest.fixture(scope="module")
def dragged_in() -> dict[str, set[str]]:
    by_floor = {floor: [room for room in rooms(PACKAGE) if FLOORS.get(room) == floor] for floor in LOADED}
    return {k: v for floor, names in by_floor.items() for k, v in with_rooms(PACKAGE, names, LOADED[floor]).items()}


def test_every_room_has_a_floor() -> None:
    missing = sorted(rooms(PACKAGE).keys() - FLOORS.keys())
    assert not missing, f"say in FLOORS (tests/test_floors.py) which floor they are on: {missing}"


@pytest.mark.parametrize("room", [room for room in rooms(PACKAGE) if FLOORS.get(room, 2) < 2])
def test_a_room_imports_nothing_from_above(room: str, dragged_in: dict[str, set[str]]) -> None:
    assert violations(PACKAGE, room, dragged_in[room], FLOORS, NEVER) == []


def test_a_violation_would_be_seen(tmp_path: Path) -> None:
    toy = tmp_path / "toy"
    (toy / "high").mkdir(parents=True)
    (toy / "__init__.py").touch()
    (toy / "high/__init__.py").touch()
    (toy / "high/part.py").touch()
    (toy / "middle.py").write_text("import toy.high.part")
    (toy / "low.py").write_text("import toy.middle, wave")
    (toy / "good.py").write_text("import json")
    floors = {"low": 0, "good": 0, "middle": 1, "high": 2}

    names = with_rooms(toy, ["good", "low"])
    assert violations(toy, "good", names["good"], floors, {0: {"wave"}}) == []
    assert violations(toy, "low", names["low"], floors, {0: {"wave"}}) == [
        "low (floor 0) imports high (floor 2)",
        "low (floor 0) imports middle (floor 1)",
        "low (floor 0) imports wave",
    ]
    assert rooms(toy)["high"] == ["toy.high", "toy.high.part"]


def test_importing_svdlab_is_light() -> None:
    heavy = {"torch", "diffusers", "transformers", "cv2", "scipy", "pandas", "matplotlib"}
    alone, beside = imported(["import svdlab", "import svdlab, pandas"], PACKAGE.parent)
    assert alone & heavy == set()
    assert beside & heavy == {"pandas"}
