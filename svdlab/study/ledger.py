"""The folder of a study: one folder for each run, whole or absent, whatever happens to the process that writes it.

    results/<study>/runs/<run id>/   run.json                what made the clip, and what was measured
                                     frames.mkv              8-bit frames, lossless (FFV1)
                                     preview.mp4             the same for a browser
                                     latents.safetensors     the final latents, "f c h w"
                                     trace.safetensors       where it was asked for
    results/<study>/models/<id>.json what the model computed, see `svdlab.study.identity`

A run is written to a temporary sibling, synced and renamed. `run.json` records the size and SHA-256 of every file, and its
own. Sizes are checked whenever runs are looked for, hashes by `check`. Any number of processes may share a study: who makes a
run holds its lock, which the operating system takes back when the process dies.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import stat
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout

from svdlab.errors import InputError, OutputError, path, seed, shown, takes, warn
from svdlab.measure import video
from svdlab.measure.files import csv_text, exported, hash_file, plain, printable, read_file, sync, whole_text, write_whole
from svdlab.pipeline.conditions import Conditions

RECORD = "run.json"
MEASURED = "measured.txt"  # says that the runs are files from anywhere, see `svdlab.study.measured`
LARGEST_RECORD = 2**24  # bytes
FIRST_COLUMNS = ("status", "reason", *(f.name for f in fields(Conditions)), "fps_id", "seed", "image", "image_hash")
FIRST_COLUMNS += ("flip_noise", "checkpoint", "weights", "label", "licence", "intervention")
FIRST_COLUMNS += ("schedule", "sigma_max", "lora", "lora_hash", "lora_scale")
FRAMES, PREVIEW, LATENTS, TRACE = "frames.mkv", "preview.mp4", "latents.safetensors", "trace.safetensors"
FILES = {"frames": FRAMES, "preview": PREVIEW, "latents": LATENTS, "trace": TRACE}  # column of the table -> file
SCHEMA: dict[str, dict[str, Any]] = {  # of run.json and its parts: what is read of them
    "": dict(run_id=str, status=str, reason=str, image_name=str, seconds=dict, measures=dict, files=dict)
    | dict(made=str, svdlab=str, device=str),
    "call": dict(image=str, start=dict, sampler=dict | None),
    "conditions": dict(fps=int | None),
    "source": dict(checkpoint=str, label=str, licence=str),
    "model": dict(weights=str, dtype=str, versions=dict, intervention=str | None),
    "measure": dict(identity=str, values=dict),
    "file": dict(bytes=int, sha256=str),
}
README = """{n} clips from the study {study}, made with svdlab by a generative model. {labels}
results.csv, results.parquet: a row for each clip, with its conditions, its seed and what was measured; `preview` names its
file, and the .json beside that says which model made it, and under which licence. NOTICE goes with them.
fps is diffusers' argument; fps_id = fps - 1 is what the model saw; playback_fps is the player's.
"""
_ID = re.compile(r"[0-9a-f]{24}")


class DamagedRunWarning(UserWarning):
    """A run whose files are not what its record says; it counts as missing, and the next sweep makes it again."""


# --- places -----------------------------------------------------------------------------------------------------------


def run_folder(out: str | Path, run_id: str) -> Path:
    """The folder of a run. Raises InputError for what is no id, so that no path is made of anything else."""
    if not isinstance(run_id, str) or not _ID.fullmatch(run_id):
        raise InputError(f"{run_id!r} is no run id: they are 24 hex digits, as in the column run_id.")
    return Path(out, "runs", run_id)


def run_ids(out: str | Path) -> list[str]:
    """The ids of all run folders, whole or not."""
    try:
        return sorted(name for name in os.listdir(Path(out, "runs")) if _ID.fullmatch(name))
    except OSError:
        return []


@takes(out=path)
def existing(out: str | Path) -> Path:
    """The study's path; InputError where there is none."""
    if whole_text(str(out)) != str(out):
        raise InputError(f"{shown(str(out))} has a name that is no UTF-8: rename it.")
    if not Path(out).expanduser().joinpath("runs").is_dir():
        why = "it has no folder runs/" if Path(out).exists() else "no such file or folder"
        raise InputError(f"{out} is no study: {why}. A sweep makes one.")
    return closed(Path(out).expanduser())


def closed(out: Path) -> Path:
    """The study's path; InputError where one of its folders is a link to elsewhere."""
    for folder in (out / name for name in ("runs", "models", "damaged")):
        if not Path(target := os.path.realpath(folder)).is_relative_to(os.path.realpath(out)):
            raise InputError(f"{folder} leads out of {out}, to {target}: refused.")
    return out


def prepare(out: str | Path) -> Path:
    """Make the study's folders, see that they can be written to, and remove what killed processes left behind."""
    if whole_text(str(out)) != str(out):
        raise InputError(f"out={shown(str(out))}: its name is no UTF-8, which no table of its runs could hold.")
    out = closed(Path(out).expanduser())
    runs = out / "runs"
    if (out / MEASURED).exists():
        raise InputError(f"{out} holds measured files, and is only read: give the sweep a folder of its own.")
    try:
        runs.mkdir(parents=True, exist_ok=True)
        probe = runs / f".probe-{uuid.uuid4().hex}"
        probe.write_bytes(b"svdlab")
        probe.unlink()
    except OSError as error:
        raise OutputError(f"{out} cannot be written to: {error}. Give a folder that can, as out=.") from error
    for run_id in {p.name.split(".")[1] for kind in ("lock", "tmp", "old") for p in runs.glob(f".*.{kind}")}:
        if lock := claim(out, run_id):  # nobody is making it
            for remains in [*runs.glob(f".{run_id}.*.tmp"), *runs.glob(f".{run_id}.*.old")]:
                shutil.rmtree(remains, ignore_errors=True)
            release(lock)
    for left in runs.glob(".*.latents"):
        if (runs / left.name.split(".")[1] / FRAMES).exists():  # decoded and published
            left.unlink(missing_ok=True)
    return out


def claim(out: str | Path, run_id: str) -> FileLock | None:
    """The right to make a run, or None where another process has it. It ends with the process, however that ends."""
    # A soft lock, filelock's way out where there is no flock, would outlive its process.
    lock = FileLock(Path(out, "runs", f".{run_id}.lock"), thread_local=False, fallback_to_soft=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return None
    except (OSError, NotImplementedError) as error:
        place = Path(lock.lock_file)
        planted = place.is_symlink() or (place.exists() and not place.is_file())
        what = "It is no lock: delete it" if planted else "Give a folder on another disk, as out="
        raise OutputError(f"{lock.lock_file} cannot be locked: {error}. {what}.") from error
    return lock


def release(lock: FileLock) -> None:
    """Give the right back. The file goes first, while it is held: whoever waits for it looks again at what is there."""
    with suppress(OSError):
        os.unlink(lock.lock_file)
    lock.release()


# --- writing ----------------------------------------------------------------------------------------------------------


@contextmanager
def new_run(out: str | Path, run_id: str, record: dict[str, Any]) -> Iterator[Path]:
    """A temporary folder to fill with files, published with the record when the block ends without an error.

    An earlier folder of the same id, damaged or poorer, is replaced. On an error nothing stays; what the disk refused is
    raised as OutputError.
    """
    target, unique = run_folder(out, run_id), uuid.uuid4().hex[:8]
    folder, old = (target.with_name(f".{run_id}.{unique}.{kind}") for kind in ("tmp", "old"))
    try:
        with disk_errors(target):
            folder.mkdir()
            yield folder
            for path in folder.iterdir():
                path.chmod(folder.stat().st_mode & 0o666)  # some writers make files that only their owner can read
                sync(path)
            files = {p.name: {"bytes": p.stat().st_size, "sha256": hash_file(p)} for p in sorted(folder.iterdir())}
            write_record(folder, {**record, "run_id": run_id, "files": files})
            if os.path.lexists(target):  # also a link, which is put aside as such
                target.rename(old)
            folder.rename(target)
            sync(target.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if os.path.islink(old) or os.path.isfile(old):
            old.unlink(missing_ok=True)
        shutil.rmtree(old, ignore_errors=True)


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Write run.json, or write it anew: the files of the run stay as they are."""
    with disk_errors(folder), write_whole(folder / RECORD) as part:
        part.write_text(record_text(record))


def record_text(record: dict[str, Any]) -> str:
    """The text of run.json, whose last entry is the SHA-256 of what stands before it."""
    text = json.dumps(plain(record), indent=1).removesuffix("\n}")
    return f'{text},\n "sha256": "{hashlib.sha256(text.encode()).hexdigest()}"\n}}\n'


@contextmanager
def disk_errors(target: Path) -> Iterator[None]:
    """What the disk refuses inside the block is raised as OutputError, with what to do."""
    try:
        yield
    except OSError as error:
        free = shutil.disk_usage(next(p for p in target.parents if p.exists())).free
        text = f"{target} could not be written: {error} ({free / 1e6:.0f} MB free)."
        if not target.parent.exists():
            raise OutputError(
                f"{text} {target.parent} was deleted or moved meanwhile: bring it back, and start again."
            ) from error
        room = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        what = "make room" if room else f"see that {target.parent} can be written to"
        again = f"Every run already in the study is whole: {what} and start the same sweep again, which goes on from here."
        raise OutputError(f"{text} {again}") from error


def store_latents(out: str | Path, run_id: str, data: bytes) -> None:
    """Keep latents until their run is decoded and published: denoising is dear, and the rest may fail."""
    path = Path(out, "runs", f".{run_id}.latents")
    with disk_errors(path):
        path.unlink(missing_ok=True)
        with open(path, "xb") as file:  # not synced: a hash that does not match tells as much
            file.write(hashlib.sha256(data).digest() + data)


def stored_latents(out: str | Path, run_id: str) -> bytes:
    """What `store_latents` kept; empty where nothing whole is there."""
    path = Path(out, "runs", f".{run_id}.latents")
    content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
    return content[32:] if hashlib.sha256(content[32:]).digest() == content[:32] else b""


# --- reading ----------------------------------------------------------------------------------------------------------


def read_record(folder: str | Path) -> dict[str, Any]:
    """A run's record, checked against its own hash and SCHEMA. Raises OutputError where it is missing, cut off or altered."""
    file_path = os.path.join(folder, RECORD)
    try:
        text, _, end = read_file(file_path, LARGEST_RECORD, follow=False).rpartition(b',\n "sha256": "')
        record = dict(json.loads(text + b"\n}"))
        if b"\\ud" in text:  # half a surrogate pair, which no table holds
            json.dumps(record, ensure_ascii=False).encode()
        parts = [("", record), ("model", record["model"]), ("call", call := record["call"])]
        parts += [(name, call[name]) for name in ("conditions", "source")]
        None if call["seed"] is None else seed("seed", call["seed"])
        parts += [(kind, entry) for kind in ("measure", "file") for entry in record[f"{kind}s"].values()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise OutputError(f"{file_path} cannot be read: {error}") from error
    if end != hashlib.sha256(text).hexdigest().encode() + b'"\n}\n' or record.get("run_id") != os.path.basename(folder):
        raise OutputError(f"{file_path} was altered: it does not match the hash in it.")
    for part, held in parts:
        for name, kind in SCHEMA[part].items():
            if not isinstance(held, dict) or not isinstance(held.get(name), kind):
                raise OutputError(f"{file_path} has no usable {part} {name}: another version of svdlab wrote it.")
    if odd := record["files"].keys() - set(FILES.values()):
        raise OutputError(f"{file_path} names files that no run has: {shown(sorted(odd))}.")
    return record


def inspect(folder: str | Path, *, hashes: bool = True) -> tuple[dict[str, Any], dict[str, str]]:
    """A run's record, and what is wrong with the run, file by file: {} for a whole one. hashes=False: sizes only."""
    if os.path.islink(folder):
        return {}, {os.path.basename(folder): f"is a link to {os.readlink(folder)}, which is not followed"}
    try:
        record = read_record(folder)
    except OutputError as error:
        return {}, {RECORD: str(error)}
    wrong = {}
    for name, facts in record["files"].items():
        path = os.path.join(folder, name)
        found = os.lstat(path) if os.path.lexists(path) else None
        if found is None or not stat.S_ISREG(found.st_mode):
            wrong[name] = "is missing"
        elif found.st_size != facts["bytes"]:
            wrong[name] = f"has {found.st_size} bytes instead of {facts['bytes']}"
        elif hashes and hash_file(path) != facts["sha256"]:
            wrong[name] = "does not match its recorded sha256"
    return record, wrong


# --- all runs ---------------------------------------------------------------------------------------------------------


def survey(out: str | Path, ids: Iterable[str] | None = None) -> Iterator[dict[str, Any]]:
    """The records of the whole runs, one by one; of `ids` only, where they are given and exist. Damaged runs are left out,
    and named in a DamagedRunWarning at the end."""
    damaged, runs = [], os.path.join(str(out), "runs", "")
    for run_id in run_ids(out) if ids is None else dict.fromkeys(ids):
        record, wrong = inspect(runs + run_id, hashes=False)
        if not wrong:
            yield record
        elif os.path.lexists(runs + run_id):
            damaged.append(run_id)
    if damaged:
        text = f"{len(damaged)} damaged run(s) in {out}, to be made again: {', '.join(damaged[:5])}"
        warn(text, DamagedRunWarning)


def table(out: str | Path, records: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """Records as a table, a row each, indexed by run_id: conditions, seed, image, measures, and the paths of the files."""
    columns: dict[str, list[Any]] = {}
    ids: list[str] = []
    runs = os.path.join(str(out), "runs", "")
    for n, record in enumerate(records):  # column by column: 100,000 rows as dicts would take a gigabyte
        ids.append(record["run_id"])
        row = _row(record, runs)
        columns |= {name: [np.nan] * n for name in row if name not in columns}
        for name, column in columns.items():
            column.append(row.get(name, np.nan))
    if not ids:
        columns = {name: [] for name in (*FIRST_COLUMNS, *FILES)}
    order = sorted(columns, key=lambda name: name in FILES)  # paths last
    found = pd.DataFrame({name: columns[name] for name in order}, index=pd.Index(ids, name="run_id"))
    if any(seed is None for seed in columns["seed"]):  # of measured files; as a float a large seed would lose its last digits
        found["seed"] = pd.array(columns["seed"], dtype="Int64")
    return found


def _row(record: dict[str, Any], runs: str) -> dict[str, Any]:
    call, source = record["call"], record["call"]["source"]
    row = {name: record[name] for name in ("status", "reason")}
    row |= {k: json.dumps(v) if isinstance(v, list) else v for k, v in call["conditions"].items()}
    fps = call["conditions"].get("fps")
    row |= {"fps_id": fps if fps is None else fps - 1, "seed": call["seed"], "image": record["image_name"]}
    row |= {"image_hash": call["image"], "flip_noise": call["start"].get("flip_noise") or ""}
    row |= {"checkpoint": source["checkpoint"], "weights": record["model"]["weights"][:12], "label": source["label"]}
    row |= {"licence": source["licence"], "intervention": record["model"].get("intervention") or ""}
    sampler = call.get("sampler") or {}
    row |= {"scheduler": sampler.get("scheduler", ""), "schedule": sampler.get("schedule", "")}
    row |= {"sigma_max": sampler.get("sigma_max", np.nan), "lora": source.get("lora", "")}
    row |= {"lora_hash": source.get("lora_hash", ""), "lora_scale": source.get("lora_scale", 0.0)}
    row |= {f"seconds_{k}": v for k, v in record["seconds"].items()}
    for measured in record["measures"].values():
        row |= measured["values"]
    held, folder = record["files"], f"{runs}{record['run_id']}{os.sep}"
    return row | {column: folder + name if name in held else "" for column, name in FILES.items()}


@takes(out=path)
def check(out: str | Path) -> pd.DataFrame:
    """Every file of every run against its recorded hash: a row for each that is damaged, none where all is well.

    >>> check(Path(results.frames[0]).parents[2]).empty
    True

    Damaged runs are moved to `<out>/damaged/`, so that the next sweep makes them again; nothing is deleted.
    """
    out, found = existing(out), []
    for run_id in run_ids(out):
        _, wrong = inspect(run_folder(out, run_id))
        found += [{"run_id": run_id, "file": name, "problem": problem} for name, problem in wrong.items()]
        if wrong:
            try:
                Path(out, "damaged").mkdir(exist_ok=True)
                os.rename(run_folder(out, run_id), Path(out, "damaged", f"{run_id}-{uuid.uuid4().hex[:8]}"))
            except OSError as error:  # on a read-only disk
                warn(f"{run_id} stays where it is: {error}", DamagedRunWarning)
    return pd.DataFrame(found, columns=["run_id", "file", "problem"])


def _one_kind(column: pd.Series) -> pd.Series:
    """A column as Parquet holds it: values of several kinds become JSON texts."""
    import pyarrow as pa

    try:
        pa.array(column, from_pandas=True)
    except pa.ArrowException:
        return column.map(
            lambda v: v if isinstance(v, str) or (pd.api.types.is_scalar(v) and pd.isna(v)) else json.dumps(plain(v))
        )
    return column


@takes(out=path, to=path)
def export(out: str | Path, to: str | Path) -> Path:
    """A folder for a colleague without svdlab: results.csv and .parquet, previews with telling names, a README and NOTICE.

    Each preview says that a model made it, which one and under which licence: in tags, and in a JSON file beside it.
    Raises InputError where `to` already holds something else.
    """
    out, to = existing(out), Path(to).expanduser()
    records = list(survey(out))
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise InputError(f"{to} is there already and not empty: give a new folder.")
    try:
        (to / "previews").mkdir(parents=True)
        names = []
        for n, record in enumerate(records):
            names.append(f"previews/{n:05d}-{record['run_id'][:8]}.mp4" if PREVIEW in record["files"] else "")
            if names[-1]:
                shutil.copyfile(run_folder(out, record["run_id"]) / PREVIEW, to / names[-1])
            if names[-1] and not (out / MEASURED).exists():  # nobody knows what made a measured file
                video.write_sidecar(to / names[-1], video.describe(record["call"], run_id=record["run_id"]))
        results = exported(table(out, records).drop(columns=[*FILES], errors="ignore").assign(preview=names))
        (to / "results.csv").write_text(csv_text(results.reset_index()), encoding="utf-8")
        results.apply(_one_kind).to_parquet(to / "results.parquet")
        labels = sorted({record["call"]["source"]["label"] for record in records} - {""})
        text = README if not (out / MEASURED).exists() else "{n} videos of the study {study}, measured with svdlab. {labels}\n"
        text = printable(exported(text.format(n=len(records), study=out.name, labels="; ".join(labels))), lines=True)
        (to / "README.txt").write_text(text + "\n", encoding="utf-8")
        (to / "NOTICE").write_text(video.notice(), encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{to} could not be written: {error}") from error
    return to
