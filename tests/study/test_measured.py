"""Videos from anywhere become a study that everything else takes."""

import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import svdlab
from svdlab import load_results, measure_files, motion, show, widgets
from svdlab.__main__ import main
from svdlab.errors import InputError
from svdlab.measure.calibrate import moving
from svdlab.measure.files import csv_text, exported
from svdlab.measure.video import h264, read_tags, write_frames
from svdlab.study import ledger, measured, notebooks
from svdlab.study.compare import compare
from tests.measure.test_reading import ffmpeg
from tests.study.test_comfy import PROMPT, changed, webp

SIZE = (64, 96)
SPEED = 1.5  # px/frame to the right


def pan(frames: int = 6, speed: float = SPEED, photograph: str = "astronaut") -> np.ndarray:
    return (moving(photograph, size=SIZE, frames=frames, pan=speed).frames * 255).round().astype(np.uint8)


def animated(path: Path, frames: np.ndarray, **how: Any) -> Path:
    first, *rest = [Image.fromarray(f) for f in frames]
    first.save(path, save_all=True, append_images=rest, duration=100, loop=0, **how)
    return path


def mean_red(clip: Any) -> float:
    return float(clip.frames[..., 0].mean())


def raising(clip: Any) -> float:
    raise ValueError("never")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One clip in every form that people have, and what is none."""
    place, clip = tmp_path_factory.mktemp("videos"), pan()
    (place / "a.mp4").write_bytes(h264(clip, fps=10))
    write_frames(place / "b.mkv", clip, playback_fps=10)
    animated(place / "c.webp", clip, lossless=True)
    animated(place / "d.png", clip)
    animated(place / "e.gif", clip)
    (place / "frames").mkdir()
    for i, frame in enumerate(clip):
        Image.fromarray(frame).save(place / "frames" / f"{i}.png")
    (place / "damaged.mp4").write_bytes((place / "a.mp4").read_bytes()[:900])
    (place / "damaged.webp").write_bytes((place / "c.webp").read_bytes()[:900])
    Image.fromarray(clip[0]).save(place / "still.png")
    (place / "notes.txt").write_text("no video")
    return place


@pytest.fixture(scope="module")
def study(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("studies") / "measured"
    measure_files(folder, out, progress=False)
    return out


def test_every_kind_of_video_is_measured_as_a_sweep_measures(study: Path) -> None:
    table = load_results(study).set_index("file")
    done = table[table["status"] == "done"]
    assert sorted(done.index) == ["a.mp4", "b.mkv", "c.webp", "d.png", "e.gif", "frames"]
    due = motion.summary(pan(), playback_fps=10.0)
    for name in ("b.mkv", "c.webp", "d.png"):  # lossless: the same frames
        assert done.loc[name, "camera_px"] == due["camera_px"] and done.loc[name, "camera_px_s"] == due["camera_px_s"], name
    assert done["camera_px"].astype(float).to_numpy() == pytest.approx(SPEED, rel=0.1)
    assert done["playback_fps"].drop("frames").astype(float).to_numpy() == pytest.approx(10.0, rel=0.01)
    assert pd.isna(done.loc["frames", "playback_fps"]) and (done["num_frames"] == 6).all()
    for column in ("warp_error", "drift_ssim_last", "flicker_mae", "blur_first"):  # fidelity is there too
        assert done[column].notna().all()


def test_damaged_files_are_named_and_skipped(study: Path) -> None:
    table = load_results(study).set_index("file")
    failed = table[table["status"] == "failed"]
    assert sorted(failed.index) == ["damaged.mp4", "damaged.webp"]
    assert failed["reason"].str.contains("damaged").all() and not failed["reason"].str.contains("/").any()
    assert (failed["frames"] == "").all()


def test_nothing_is_claimed_of_where_a_file_came_from(study: Path, tmp_path: Path) -> None:
    table = load_results(study)
    assert (table["checkpoint"] == "").all() and (table["licence"] == "").all() and table["seed"].isna().all()
    preview = table[table["status"] == "done"]["preview"].iloc[0]
    assert read_tags(preview) == {}
    fig = show.save(show.sheet(table, rows="file", columns="height"), tmp_path / "sheet")
    assert fig.sources == () and read_tags(tmp_path / "sheet.png") == {} and "seed" not in fig.footer
    page = notebooks.report(study, tmp_path / "report.html").read_text()
    assert "generative model" not in page.split("Notice")[0] and "was not checked" in page
    ledger.export(study, tmp_path / "handed-on")
    assert "generative" not in (tmp_path / "handed-on" / "README.txt").read_text()
    assert not list((tmp_path / "handed-on" / "previews").glob("*.json"))


def test_the_study_is_taken_by_everything_and_by_no_sweep(study: Path, pipe: Any, tmp_path: Path) -> None:
    table = load_results(study)
    done = table[table["status"] == "done"].reset_index(drop=True)
    assert len(show.video(done, labels=list(done["file"])).frames) == 6
    assert show.filmstrip(done, labels=list(done["file"])).data["clip"].nunique() == 6
    assert show.flow(done["frames"][0]).data["dx_px"].median() == pytest.approx(-SPEED, rel=0.15)  # the image goes left
    explorer = widgets.explore(study)
    explorer.select(image="c.webp")
    assert explorer.current["file"].tolist() == ["c.webp"]
    found = compare({"one": done, "same": done}, ["camera_px"])
    assert (found["value"].astype(float) == 0).all()
    assert ledger.check(study).empty
    before = sorted(study.rglob("*"))
    with pytest.raises(InputError, match="only read"):
        svdlab.sweep(pipe, [{"num_inference_steps": 1}], study, image="scene-1", progress=False)
    assert sorted(study.rglob("*")) == before


def test_it_goes_on_where_it_was(study: Path, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "again"
    shutil.copytree(study, out)
    times = {p: p.stat().st_mtime_ns for p in out.glob("runs/*/run.json") if "failed" not in p.read_text()[:40]}
    first = next(iter(times)).parent
    shutil.rmtree(first)  # what was interrupted
    table = measure_files(folder, out, progress=False)
    assert (table["status"] == "done").sum() == 6 and first.exists()
    assert all(p.stat().st_mtime_ns == t for p, t in times.items() if p.parent != first)
    before = load_results(study).set_index("file")["camera_px"]
    assert table.set_index("file")["camera_px"].equals(before[table["file"]])
    more = measure_files(folder / "a.mp4", out, measure=mean_red, progress=False)  # beside what was measured
    assert more["mean_red"].notna().all() and more["camera_px"][0] == before["a.mp4"] and more["warp_error"].notna().all()
    more = measure_files(folder / "a.mp4", out, measure=raising, progress=False)  # nor does that cost anything
    assert more["status"].tolist() == ["done"] and more["reason"][0] == "raising: ValueError: never" and more["frames"].all()
    assert more[["mean_red", "camera_px"]].notna().all(axis=None)


def test_what_a_file_plays_again_is_left_out(tmp_path: Path) -> None:
    clip = pan(8, 4.0)
    there_and_back = np.concatenate([clip, clip[-2:0:-1]])
    still = np.repeat(clip[:1], 12, axis=0)
    clips = {"loop": np.concatenate([clip, clip[1:]]), "back": there_and_back, "once": clip, "still": still}
    for name, frames in clips.items():
        write_frames(tmp_path / f"{name}.mkv", frames)
    table = measure_files(sorted(tmp_path.glob("*.mkv")), tmp_path / "out", measure="motion", progress=False).set_index("file")
    assert table["num_frames"].to_dict() == {"loop.mkv": 8, "back.mkv": 8, "once.mkv": 8, "still.mkv": 12}
    assert table["frames_in_file"].to_dict() == {"loop.mkv": 15, "back.mkv": 14, "once.mkv": 8, "still.mkv": 12}


def test_a_dose_response_over_a_comfyui_folder_is_one_line(tmp_path: Path) -> None:
    place = tmp_path / "ComfyUI"
    place.mkdir()
    for bucket, speed in ((40, 0.5), (127, 1.0), (200, 2.0)):
        for seed in (0, 1):
            prompt = changed(motion_bucket_id=bucket, seed=seed)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("tests.study.test_comfy.FRAMES", [Image.fromarray(f) for f in pan(4, speed)])
                webp(place / f"ComfyUI_{bucket}_{seed}.webp", prompt)
    fig = show.dose_response(measure_files(place, tmp_path / "out", progress=False), x="motion_bucket_id", y="camera_px")
    assert fig.data["motion_bucket_id"].nunique() == 3
    table = load_results(tmp_path / "out")
    assert set(table["checkpoint"]) == {"svd.safetensors"} and set(table["sampler"]) == {"euler, karras"}
    assert set(table["seed"]) == {0, 1} and set(table["image"]) == {"cat.png"} and set(table["max_guidance_scale"]) == {2.5}
    assert table["notes"].str.contains("CLIP").all()
    assert table.groupby("motion_bucket_id")["camera_px"].mean().is_monotonic_increasing


def test_a_seed_keeps_its_digits_beside_a_file_that_has_none(tmp_path: Path) -> None:
    seed = 2**62 + 1  # there a float's neighbours are 512 apart
    webp(tmp_path / "a.webp", changed(seed=seed)), webp(tmp_path / "a2.webp", changed(seed=7))
    write_frames(tmp_path / "b.mkv", pan())
    (tmp_path / "c.mp4").write_text("no video")
    table = measure_files(tmp_path, tmp_path / "out", progress=False)
    assert table["seed"].isna().tolist() == [False, False, True, True] and table["seed"][0] == seed
    exported(table).to_parquet(tmp_path / "table.parquet")
    assert pd.read_parquet(tmp_path / "table.parquet")["seed"][0] == seed and f",{seed}," in csv_text(table)
    fig = show.failures(load_results(tmp_path / "out"), kinds=["warping"], k=3)
    words = " ".join(t.get_text() for ax in fig.axes for t in ax.texts)
    assert f"seed {seed}" in " ".join(words.split()) and not re.search(r"nan|<NA>|checkpoint \)", words), words


def test_the_first_frame_may_be_given(tmp_path: Path) -> None:
    clip = pan()
    write_frames(tmp_path / "a.mkv", clip)
    Image.fromarray(255 - clip[0]).resize((300, 200)).save(tmp_path / "first.png")
    own = measure_files(tmp_path / "a.mkv", tmp_path / "own", progress=False)
    given = measure_files(tmp_path / "a.mkv", tmp_path / "own", image=tmp_path / "first.png", progress=False)
    assert own["drift_mse_first"][0] == 0 < 0.05 < given["drift_mse_first"][0]
    assert own["run_id"][0] != given["run_id"][0] and len(load_results(tmp_path / "own")) == 2


WRONG = {"x.mp4": "no such file", "none": "holds no video", "a.mkv": "runs of a sweep", "out": "the videos' own folder"}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_measured_is_said_before_anything_is_written(name: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (tmp_path / "none").mkdir()
    write_frames(tmp_path / "a.mkv", pan())
    if name == "out":  # else what it holds would be measured the next time
        out.mkdir()
    if name == "a.mkv":
        (out / "runs" / ("0" * 24)).mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=WRONG[name]):
        measure_files(tmp_path / name, out)
    assert sorted(tmp_path.rglob("*")) == before


def test_files_of_one_name_in_two_folders_are_told_apart(tmp_path: Path) -> None:
    """The table's rows and the sheet's clips go by the name."""
    for name in ("before/a.mkv", "after/a.mkv", "after/b.mkv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = measured.find_videos([tmp_path / "before", tmp_path / "after"])
    assert [name for name, _ in found] == ["before/a.mkv", "after/a.mkv", "b.mkv"]
    assert measured.find_videos(tmp_path / "before/a.mkv")[0][0] == "a.mkv"


def test_a_still_is_no_video(tmp_path: Path) -> None:
    Image.fromarray(pan()[0]).save(tmp_path / "one.png")
    table = measure_files(tmp_path / "one.png", tmp_path / "out", progress=False)
    assert table["status"].tolist() == ["failed"] and "one frame" in table["reason"][0]


def test_names_and_hostile_settings_are_printable(tmp_path: Path) -> None:
    clip = pan(4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.study.test_comfy.FRAMES", [Image.fromarray(f) for f in clip])
        webp(tmp_path / "a\x1b[31m\u202e.webp", {**PROMPT, "12": {"class_type": "\x1b[2J", "inputs": {"fps": float("nan")}}})
    table = measure_files(tmp_path, tmp_path / "out", measure="motion", progress=False)
    assert table["status"].tolist() == ["done"] and "SVD_img2vid_Conditioning" in table["notes"][0]
    assert all(str(cell).isprintable() for cell in table.drop(columns=["frames", "preview"]).to_numpy().ravel())


def test_the_command_goes_from_files_to_table_sheet_flow_and_report(folder: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as stop, warnings.catch_warnings():
        warnings.simplefilter("error", svdlab.measure.reading.VideoWarning)
        main(["measure", str(folder / "a.mp4"), str(folder / "damaged.mp4"), "--out", str(out), "--image", "cat"])
    said = capsys.readouterr().out
    assert stop.value.code == 1 and "1 of 2 files measured" in said and "not measured: damaged.mp4" in said
    for name in ("measured.csv", "measured.parquet", "sheet.png", "flow-1.png", "report.html"):
        assert (out / name).is_file() and name in said
    assert pd.read_parquet(out / "measured.parquet")["file"].tolist() == ["a.mp4", "damaged.mp4"]
    assert str(tmp_path) not in (out / "measured.csv").read_text()
    assert measured.find_videos(folder)  # the same folder, seen again


@pytest.mark.parametrize("suffix", measured.VIDEOS)
def test_every_suffix_that_is_looked_for_is_read(tmp_path: Path, suffix: str) -> None:
    write_frames(tmp_path / "even.mkv", pan(frames=3), playback_fps=10)
    video = tmp_path / f"x{suffix}"
    ffmpeg("-i", tmp_path / "even.mkv", video)
    found = measure_files(video, tmp_path / "study", measure=(), progress=False)
    assert found["status"].tolist() == ["done"] and found["num_frames"].tolist() == [3]
