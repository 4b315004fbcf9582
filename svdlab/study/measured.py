"""Any videos as a study: measured as a sweep's clips are, with the settings that ComfyUI wrote into them.

    results = measure_files("downloads/", "results/measured")
    show.dose_response(results, x="motion_bucket_id", y="object_px")

The study holds the frames and what was measured. Nothing is claimed about where a file came from, beyond what it says
itself; a sweep does not write into it. Started again, it goes on where it was.
"""

import hashlib
import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pandas as pd
from PIL import Image, UnidentifiedImageError
from tqdm.auto import tqdm

from svdlab import __version__, errors, show
from svdlab.errors import InputError, OutputError, flag, takes
from svdlab.measure import video
from svdlab.measure.files import csv_text, exported, hash_facts, hash_file, printable, write_whole
from svdlab.measure.reading import FORMATS, IMAGES, VideoWarning, distinct, ffmpeg, read_frames
from svdlab.pipeline.images import open_image, prepare_image
from svdlab.show.figure import draw, fitted, images, scaled
from svdlab.show.labels import cut
from svdlab.study import ledger, notebooks
from svdlab.study.comfy import Settings, read_prompt, settings_of
from svdlab.study.identity import Measure, as_measures, measure_clip, missing_measures
from svdlab.study.plans import CONDITIONS

VIDEOS = (".mp4", ".webm", ".mkv", ".mov", ".avi", ".m4v", ".gif")  # what read_frames reads
ANIMATED = (".webp", ".png", ".apng", ".avif")  # stills, or animated
MOST = 100_000  # files that are looked for
SHOWN, STRIP, SIDE = 12, 8, 256  # clips and frames of the sheet, and px of a frame's width in it
FLOWS = 6  # clips with an image of their flow


@takes(out=errors.path, progress=flag)
def measure_files(
    videos: Any,
    out: str | Path = "results/measured",
    *,
    image: Any = None,
    measure: str | Measure | Callable[..., Any] | Sequence[str | Measure | Callable[..., Any]] = ("motion", "fidelity"),
    progress: bool = True,
) -> pd.DataFrame:
    """Measure videos from anywhere, into the study `out`; what is there already is not measured again.

    >>> table = measure_files([clip.save("mine.mp4")], "results/mine", progress=False)
    >>> table[["file", "status", "num_frames"]].to_numpy().tolist()
    [['mine.mp4', 'done', 8]]

    videos: a file, a folder or several: mp4, webm, mkv, mov, avi, gif, animated WebP and PNG. A folder with videos is every
    video in it and in its folders; one with stills only is the frames of one clip, in the order of their numbers. image: the
    first frame that they were made from; default each video's own, so that drift is from there. measure: as in `sweep`,
    functions of a clip with frames "f h w 3" (uint8), image and playback_fps.

    Returns a row per video: the columns of `load_results`, with `file`, `frames_in_file`, `sampler` and `notes`. Frames that
    the file plays again (a loop, there and back) are left out: num_frames counts the others. Conditions, seed and checkpoint
    are those of ComfyUI's settings in the file, if there are any; playback_fps is the file's. A file that cannot be read is a
    row of status "failed", with the reason. Raises InputError where there is no video, or `out` holds a sweep's runs.
    """
    wanted, out = as_measures(measure), Path(out)
    given = None if image is None else np.asarray(open_image(image))
    found = find_videos(videos, out)
    _begin(out)
    rows, taken = [], {}
    for name, source in tqdm(found, desc="measure", unit="video", disable=not progress):
        digest = _hash(source)
        told = None if given is None else hashlib.sha256(given.tobytes()).hexdigest()
        run_id = hash_facts({"measured": digest, "file": name, "image": told})
        if run_id not in taken:
            rows.append(_one(out, run_id, name, source, given, wanted))
        taken[run_id] = name
    return ledger.table(out, rows).reset_index()


def find_videos(videos: Any, out: Path | None = None) -> list[tuple[str, Path]]:
    """Every video that the words name, with its name in the table: the path from the folder that was given, where no other has
    that name. Of a folder what begins with a dot is left out, and the study `out`, if that lies in it."""
    words = [videos] if isinstance(videos, (str, os.PathLike)) else errors.several("videos", videos, lambda _, v: v)
    found: dict[Path, str] = {}
    for word in words:
        place = errors.path("videos", word)
        if place.is_dir():
            if out is not None and place.resolve() == out.resolve():
                raise InputError(f"out={str(out)!r} is the videos' own folder: give measured files a folder of their own.")
            inside = list(_inside(place, out and out.resolve()))
            if not inside:
                raise InputError(f"{place} holds no video: the suffixes are {', '.join((*VIDEOS, *ANIMATED))}.")
            found |= {p: str(p.relative_to(place)) if p != place else place.name for p in inside if p not in found}
        elif place.is_file():
            found.setdefault(place, place.name)
        else:
            raise InputError(f"{place}: {'it is no file' if place.exists() else 'no such file or folder'}.")
    if len(found) > MOST:
        raise InputError(f"{len(found)} files: give {MOST} at most.")
    count = Counter(found.values())
    if alike := [p for p, name in found.items() if count[name] > 1]:  # of several folders: by the path from where all lie
        found |= {p: os.path.relpath(p, os.path.commonpath(alike)) for p in alike}
    return [(printable(name), p) for p, name in found.items()]


def _inside(folder: Path, but: Path | None) -> Iterator[Path]:
    """The videos of a folder and the folders in it; a folder with nothing but stills, two or more, is a video itself."""
    for place, inner, names in os.walk(folder):
        inner[:] = sorted(name for name in inner if name[0] != "." and Path(place, name).resolve() != but)
        files = [p for p in (Path(place, name) for name in sorted(names)) if p.is_file() and not p.name.startswith(".")]
        moving = [p for p in files if p.suffix.lower() in VIDEOS or (p.suffix.lower() in ANIMATED and _animated(p))]
        yield from moving
        if not moving and sum(p.suffix.lower() in IMAGES for p in files) > 1:
            yield Path(place)


def _animated(file: Path) -> bool:
    """Whether an image has frames; one that Pillow cannot open is a file to be named as damaged, not a still."""
    try:
        with Image.open(file, formats=FORMATS) as image:
            return getattr(image, "n_frames", 1) > 1
    except UnidentifiedImageError:
        return False
    except Exception:  # Pillow's readers raise nearly anything for a damaged file
        return True


def _begin(out: Path) -> None:
    """Make the study, or go on with one of measured files."""
    out = ledger.closed(out)
    if (out / "runs").is_dir() and ledger.run_ids(out) and not (out / ledger.MEASURED).is_file():
        raise InputError(f"{out} holds the runs of a sweep: give measured files a folder of their own.")
    errors.folder("out", out)
    with ledger.disk_errors(out / "runs"):
        (out / "runs").mkdir(parents=True, exist_ok=True)
    if not (out / ledger.MEASURED).is_file():
        with write_whole(out / ledger.MEASURED) as part:
            part.write_text("The runs of this study are files that were measured by svdlab: no model was run for it.\n")


def _hash(source: Path) -> str:
    """Of a folder the hashes of its images; a file that cannot be read counts by its name, and fails later."""
    files = sorted(p for p in source.iterdir() if p.suffix.lower() in IMAGES) if source.is_dir() else [source]
    try:
        return hash_facts({p.name if source.is_dir() else "": hash_file(p) for p in files if p.is_file()})
    except OutputError:
        return hash_facts({"unreadable": str(source)})


def _one(
    out: Path, run_id: str, name: str, source: Path, image: np.ndarray | None, wanted: tuple[Measure, ...]
) -> dict[str, Any]:
    """The record of a video: the one that is there, with what it lacks measured; else a new one."""
    folder = ledger.run_folder(out, run_id)
    record, wrong = ledger.inspect(folder, hashes=False) if folder.exists() else ({}, {"run.json": "absent"})
    there = not wrong and record["status"] == "done"
    if there and not missing_measures(record, wanted):
        return record
    old = record["measures"] if there else {}
    held = {key: entry for key, entry in old.items() if key != "file" and "error" not in entry}
    wanted = tuple(missing_measures({"measures": held}, wanted))
    facts: dict[str, Any] = {"file": name, "frames_in_file": None, "sampler": "", "notes": ""}
    record = {
        "status": "failed",
        "reason": "",
        "measured": name,
        "image_name": name,
        "call": {"conditions": dict.fromkeys(CONDITIONS), "seed": None, "image": "", "start": {}, "edits": []},
        "model": {"weights": "", "dtype": "", "versions": {}, "intervention": None},
        "measures": held,
        "seconds": {},
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "svdlab": __version__,
        "device": "",
        "run_id": run_id,
    }
    call: dict[str, Any] = record["call"]
    call["source"] = {"checkpoint": "", "label": "", "licence": ""}
    try:
        frames, rate, notes = _read(source)
    except (OSError, ValueError, MemoryError) as error:  # svdlab's own are these too
        record["reason"] = printable(exported(str(error) or type(error).__name__))[:500]
        frames = None
    if frames is not None:
        facts["frames_in_file"], (settings, said) = len(frames), _settings(source)
        frames = frames[: _played_once(frames)]
        notes += said
        if settings is not None:
            call["conditions"] = settings.conditions.asdict()
            call["seed"] = settings.seed if settings.seed is None or settings.seed < 2**63 else settings.seed - 2**63
            call["source"]["checkpoint"] = settings.checkpoint
            facts["sampler"] = settings.sampler
            record["image_name"] = settings.image or name
        size = dict(num_frames=len(frames), height=frames.shape[1], width=frames.shape[2], playback_fps=rate)
        call["conditions"] |= size
        first = frames[0]
        if image is not None:  # cropped as a sweep crops it
            first = np.asarray(prepare_image(image, height=frames.shape[1], width=frames.shape[2]))
        call["image"] = hashlib.sha256(np.ascontiguousarray(first).tobytes()).hexdigest()[:24]
        facts["notes"] = "; ".join(notes)
        clip = SimpleNamespace(frames=frames, image=first, playback_fps=rate)
        with ThreadPoolExecutor(max(1, min(len(wanted), os.cpu_count() or 1))) as pool:
            for found in pool.map(lambda measure: measure_clip(clip, [measure], None), wanted):
                record["measures"] |= found
        broken = [f"{key}: {entry['error']}" for key, entry in record["measures"].items() if "error" in entry]
        record["status"] = "failed" if broken and len(broken) == len(record["measures"]) else "done"
        record["reason"] = printable(exported("; ".join(broken)))[:500]
    record["measures"]["file"] = {"identity": "file", "values": facts}
    with ledger.new_run(out, run_id, record) as part:
        if frames is not None and record["status"] == "done":
            video.write_frames(part / ledger.FRAMES, frames, playback_fps=rate)
            video.write_preview(part / ledger.PREVIEW, frames, playback_fps=rate)
    return ledger.read_record(folder)


def _read(source: Path) -> tuple[np.ndarray, float | None, list[str]]:
    """All frames, the frames per second at which they are shown, and what the reader says of them."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", VideoWarning)
        frames = read_frames(source)
    if len(frames) < 2:
        raise InputError("it has one frame: a video has two or more.")
    notes = [str(w.message).removeprefix(f"{source.name}: ") for w in said if issubclass(w.category, VideoWarning)]
    varies = any("follow each other" in note for note in notes)
    notes = [note for note in notes if "distinct" not in note]
    return frames, None if varies or source.is_dir() else _rate(source), notes


def _rate(source: Path) -> float | None:
    """The file's frames per second; None where it says none that a player could have."""
    try:
        with Image.open(source, formats=FORMATS) as image:
            image.load()
            rate = 1000 / float(image.info.get("duration") or "nan")
    except UnidentifiedImageError:
        said = ffmpeg(source, "-map", "0:V:0", "-frames:v", "1", "-f", "null", level="info")[1]
        rate = float((re.findall(r"Video:.*?, ([\d.]+k?) fps", said) or ["nan"])[0].replace("k", "e3"))
    return round(rate, 4) if 0.01 <= rate <= 1000 else None


def _played_once(frames: np.ndarray) -> int:
    """How many frames there are before the clip is played again, forwards or back; all where it is not, or nothing moves."""
    found = distinct(frames)
    n = len(found)
    if n < 3 or n == len(frames) or found != list(range(n)):
        return len(frames)
    every = max(1, max(frames.shape[1:3]) // 128)
    small = frames[:, ::every, ::every].reshape(len(frames), -1).astype(np.float32)
    nearest = [int(np.abs(small[:n] - one).mean(1).argmin()) for one in small[n:]]
    steps = np.diff(nearest)
    wraps = np.isin(np.abs(steps), (n - 1, n - 2))
    along = [np.mean((steps == way) | wraps) for way in (1, -1)] if len(steps) else [1.0]
    return n if max(along) > 0.8 and len(frames) - n >= n - 2 else len(frames)


def _settings(source: Path) -> tuple[Settings | None, list[str]]:
    """What ComfyUI wrote, and notes on it."""
    if source.is_dir():
        return None, []
    try:
        prompt = read_prompt(source)
        found = None if prompt is None else settings_of(prompt)
    except InputError as error:
        return None, [str(error)]
    return found, list(found.notes) if found else []


# --- what the command leaves beside the runs --------------------------------------------------------------------------


def lines(results: pd.DataFrame) -> str:
    """The table as the command prints it: what was measured, and every file that could not be, with the reason."""
    done = results[results["status"] == "done"]
    columns = [c for c in ("file", "num_frames", "camera", "camera_px", "object_px", "flow_px", "warp_error") if c in done]
    shown = done[[*columns, *(["checkpoint"] if (done["checkpoint"] != "").any() else [])]]
    parts = [shown.to_string(index=False, max_colwidth=40, float_format="{:.3g}".format)] if len(done) else []
    failed = results[results["status"] == "failed"]
    parts += [f"not measured: {row.file}: {row.reason}" for row in failed.itertuples()]
    return "\n".join([*parts, f"{len(done)} of {len(results)} files measured."])


def write(results: pd.DataFrame, out: Path) -> list[Path]:
    """The table (measured.csv, .parquet), a sheet of the clips, their flow, and the report; the paths of these."""
    with write_whole(out / "measured.csv") as part:
        part.write_text(csv_text(results), encoding="utf-8")
    with write_whole(out / "measured.parquet") as part:
        exported(results).to_parquet(part, index=False)
    made = [out / "measured.csv", out / "measured.parquet"]
    done = results[results["status"] == "done"]
    strips, picked = {}, {}
    for n, (name, place) in enumerate(done[["file", "frames"]].head(SHOWN).itertuples(index=False), 1):
        frames = read_frames(place)
        picked[name] = np.linspace(0, len(frames) - 1, STRIP).round().astype(int)
        strips[name] = _small(frames[picked[name]])
        if n <= FLOWS:
            made.append(_saved(show.flow(frames, title=f"Optical flow (px/frame): {name}"), out / f"flow-{n}"))
    if strips:
        made.append(_saved(_sheet(strips, picked, len(done)), out / "sheet"))
    return [*made, notebooks.report(out)]


def _saved(figure: Any, path: Path) -> Path:
    show.save(figure, path)
    return path.with_suffix(".png")


def _sheet(strips: dict[str, np.ndarray], picked: dict[str, np.ndarray], of: int) -> Any:
    """A row per clip, from its first frame to its last: by number where all have as many frames, else by share."""
    one = {tuple(numbers) for numbers in picked.values()}
    shares = [f"{100 * i / (STRIP - 1):.0f} %" for i in range(STRIP)]
    columns = [f"frame {i}" for i in next(iter(one))] if len(one) == 1 else shares
    size = fitted(next(iter(strips.values())).shape[1:], columns=STRIP, width=700)
    title = "First to last frame" + f" of the first {len(strips)} of {of} clips" * (of > len(strips))
    fig, axes = images(size=size, of=(), title=title, row_labels=[*map(cut, strips)], column_labels=columns)
    for row, strip in zip(axes, strips.values(), strict=True):
        for ax, frame in zip(row, strip, strict=True):
            draw(ax, scaled(frame.astype(np.float32) / 255, size))
    return fig.finish(pd.DataFrame([{"file": name, "frame": int(i)} for name, numbers in picked.items() for i in numbers]))


def _small(frames: np.ndarray) -> np.ndarray:
    """Frames on white of one size, so that clips of all sizes stand under each other."""
    board = np.full((len(frames), SIDE * 9 // 16, SIDE, 3), 255, np.uint8)
    h, w = board.shape[1:3]
    scale = min(h / frames.shape[1], w / frames.shape[2])
    size = max(1, round(frames.shape[2] * scale)), max(1, round(frames.shape[1] * scale))
    top, left = (h - size[1]) // 2, (w - size[0]) // 2
    for place, frame in zip(board, frames, strict=True):
        place[top : top + size[1], left : left + size[0]] = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
    return board
