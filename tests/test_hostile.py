"""Whole folders from an attacker, given to every public reader and command that takes one: see tests/hostile.py."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_nothing_outside_is_touched_nothing_runs_and_nothing_hangs(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, Path(__file__).with_name("hostile.py"), tmp_path]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found.pop("ran")) >= 380 and len(found.pop("refused")) >= 200  # calls; InputErrors and their like
    assert found == {"outside": [], "raw": [], "hung": [], "printed": []}
