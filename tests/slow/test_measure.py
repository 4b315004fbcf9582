"""`svdlab measure` from a wheel on six kinds of video, on the two real SVD clips in time, and beside clips of other models."""

import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from svdlab import load_results, measure_files, show
from svdlab.measure.video import h264, write_frames
from tests.real import CACHE, CLIPS, real_clip
from tests.study.test_comfy import container
from tests.study.test_measured import animated, pan

pytestmark = pytest.mark.slow
KINDS = ["a.mp4", "b.mkv", "c.webp", "d.png", "e.gif", "f.webm"]
LONGEST = 60  # s of two cores for the two real clips
MOST_FRAMES = 40  # of another model's clip: the wheel's longer ones, up to 193 frames, take minutes and show the same


def test_six_kinds_of_video_from_a_wheel(installed: Callable[..., Any], tmp_path: Path) -> None:
    place, clip = tmp_path / "videos", pan(4)
    place.mkdir()
    (place / "a.mp4").write_bytes(h264(clip, fps=10))
    write_frames(place / "b.mkv", clip, playback_fps=10)
    animated(place / "c.webp", clip, lossless=True)
    animated(place / "d.png", clip)
    animated(place / "e.gif", clip)
    container(place / "f.webm", [Image.fromarray(frame) for frame in clip])
    (place / "f.txt").unlink()
    done = installed("svdlab", "measure", "videos", "--out", "study", cwd=tmp_path)
    assert done.returncode == 0 and "6 of 6 files measured" in done.stdout, done.stderr
    table = pd.read_csv(tmp_path / "study" / "measured.csv")
    assert sorted(table["file"]) == KINDS and table["camera_px"].notna().all()
    again = installed("svdlab", "measure", "videos", "--out", "study", cwd=tmp_path)
    assert again.returncode == 0 and len(list((tmp_path / "study" / "runs").glob("*/run.json"))) == 6


def test_the_real_clips_from_file_to_report_in_one_command(installed: Callable[..., Any], tmp_path: Path) -> None:
    """The processor's time, which does not depend on what else the machine does, is below that of two cores."""
    for name in CLIPS:
        real_clip(name, tmp_path)
    before = os.times()
    done = installed("svdlab", "measure", *CLIPS, "--out", "study", cwd=tmp_path, timeout=600)
    after = os.times()
    spent = after.children_user - before.children_user + after.children_system - before.children_system
    print(f"{spent:.1f} s of processor time, {after.elapsed - before.elapsed:.1f} s by the clock")
    assert done.returncode == 0 and spent < LONGEST, done.stderr
    for name in ("measured.csv", "measured.parquet", "sheet.png", "flow-1.png", "flow-2.png", "report.html"):
        assert (tmp_path / "study" / name).stat().st_size > 1000
    table = load_results(tmp_path / "study").set_index("file")
    assert (table["num_frames"] == 14).all() and (table["frames_in_file"] == 27).all()
    assert table.loc[CLIPS[0], "camera"] == "zoom_in" and table.loc[CLIPS[1], "camera"] == "static"
    assert set(table["checkpoint"]) == {"svd.safetensors"} and (table["motion_bucket_id"] == 127).all()


def test_clips_of_other_models_beside_svds(tmp_path: Path) -> None:
    """Animated WebP files of several models are all measured; settings are read of SVD's alone."""
    real_clip(CLIPS[0], tmp_path)  # fetches the wheel
    place = tmp_path / "clips"
    place.mkdir()
    with zipfile.ZipFile(next(CACHE.glob("comfyui_workflow_templates-0.1.0-*.whl"))) as wheel:
        for member in wheel.namelist():
            name = Path(member).name
            if name.endswith(".webp") and "3d" not in name:
                (place / name).write_bytes(wheel.read(member))
    for file in place.iterdir():
        with Image.open(file) as image:
            frames = getattr(image, "n_frames", 1)
        if frames == 1 or frames > MOST_FRAMES or not (file.name == CLIPS[0] or "to_video_wan" in file.name):
            file.unlink()
    table = measure_files(place, tmp_path / "study", measure="motion", progress=False)
    assert len(table) == len(list(place.iterdir())) == 3 and (table["status"] == "done").all(), table["reason"].tolist()
    of_svd = table["file"].isin(CLIPS)
    assert (table.loc[of_svd, "checkpoint"] == "svd.safetensors").all() and (table.loc[~of_svd, "checkpoint"] == "").all()
    assert table.loc[~of_svd, "motion_bucket_id"].isna().all() and np.isfinite(table["flow_px"].astype(float)).any()
    print(table[["file", "num_frames", "frames_in_file", "camera", "camera_px", "object_px", "flow_px"]].to_string())
    show.save(show.sheet(table, rows="file", columns="status"), tmp_path / "sheet")
