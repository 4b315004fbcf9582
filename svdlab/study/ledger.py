"""The folder that holds runs: the truth on disk, whatever happens to the process that writes it.

    results/<study>/runs/<run id>/   run.json                what made the clip, and what was measured on it
                                     frames.mkv              8-bit frames, lossless (FFV1)
                                     preview.mp4             the same for a browser
                                     latents.safetensors     the final latents, "f c h w"
                                     trace.safetensors       where it was asked for
    results/<study>/index.parquet    a copy of all run.json as one table, rebuilt whenever it is missing or behind

A run is written to a temporary sibling, fsynced and renamed: it exists whole or not at all. `run.json` records the size
and the sha256 of every file, and its own. Sizes are checked whenever a sweep looks for what is missing; hashes on
reading and by `check`. Any number of processes may share a ledger: who makes a run holds its lock, which the
operating system takes back when the process dies.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import uuid
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from svdlab.errors import InputError, OutputError
from svdlab.measure import video
from svdlab.measure.video import read_frames as _read_video
from svdlab.study.folders import (
    FRAMES,
    LATENTS,
    PREVIEW,
    RECORD,
    TRACE,
    check_id,
    damage,
    existing,
    read_file,
    read_record,
    run_folder,
    run_ids,
)

if TYPE_CHECKING:
    from svdlab.pipeline.trace import Trace

INDEX = "index.parquet"
FILES = {"frames": FRAMES, "preview": PREVIEW, "latents": LATENTS, "trace": TRACE}  # column of the table -> file
COLUMNS = ("latents_id", "weights", "_stat", "_files", "_state")  # an index without one of them was written by an older svdlab
NOTHING = pd.DataFrame({name: [] for name in COLUMNS}, index=pd.Index([], name="run_id"))


class DamagedRunWarning(UserWarning):
    """A run whose files are not what its record says; it counts as missing, and the next sweep makes it again."""


def survey(out: str | Path, ids: Iterable[str] | None = None) -> pd.DataFrame:
    """The whole runs, one row each, indexed by run_id: from the index where it is up to date, from run.json elsewhere.

    ids: look at these only (those that do not exist are left out). Presence and size of every file are checked, which
    takes a directory listing per run and no reading; what is damaged is named in a warning and left out.
    """
    table = _read_index(out)
    known = dict(zip(table.index.tolist(), zip(table["_stat"].tolist(), table["_files"].tolist(), strict=True), strict=True))
    parsed: dict[str, dict[str, int]] = {}
    current, fresh, broken = [], [], []
    runs = os.path.join(str(out), "runs", "")  # text: for 100,000 runs, a Path each would take longer than the disk
    for run_id in run_ids(out) if ids is None else dict.fromkeys(ids):
        found = _listing(runs + check_id(run_id))
        if found is None:
            continue
        stamp, sizes = found
        stat, text = known.get(run_id, ("", ""))
        if stat == stamp and text not in parsed:
            parsed[text] = json.loads(text)
        if stat == stamp and all(sizes.get(name) == size for name, size in parsed[text].items()):
            current.append(run_id)
        elif damage(run_folder(out, run_id), hashes=False):
            broken.append(run_id)
        else:
            fresh.append({**_row(read_record(run_folder(out, run_id))), "_stat": stamp})
    if broken:
        warnings.warn(
            f"{len(broken)} damaged run(s) in {out}, to be made again: {', '.join(broken[:5])}",
            DamagedRunWarning,
            stacklevel=3,
        )
    rows = table if len(current) == len(table) else table.loc[current]
    if fresh:
        added = _table(fresh)
        rows = pd.concat([rows, added]) if len(rows) else added
        keep = table.loc[~table.index.isin(added.index)]
        _write_index(out, rows if ids is None else pd.concat([keep, added]) if len(keep) else added)
    elif ids is None and len(rows) != len(table):
        _write_index(out, rows)
    return rows


def state(record: dict[str, Any]) -> dict[str, Any]:
    """What must be known of a run to tell whether a sweep needs more of it: frames (has it any), kept (arguments of
    its trace), measures (name -> version), failed (names of measures that raised)."""
    measures = record["measures"]
    return {
        "frames": FRAMES in record["files"],
        "kept": record["kept"],
        "measures": {name: entry["version"] for name, entry in measures.items()},
        "failed": [name for name, entry in measures.items() if "error" in entry],
    }


def states(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """`state` of each run in a survey, by id."""
    texts = table["_state"].tolist()
    parsed = {text: json.loads(text) for text in set(texts)}
    return {run_id: parsed[text] for run_id, text in zip(table.index.tolist(), texts, strict=True)}


def donors(table: pd.DataFrame) -> dict[str, str]:
    """For each latents id of a survey, a run that has the latents."""
    if not len(table):
        return {}
    return {
        z: run for z, run, files in zip(table["latents_id"], table.index, table["_files"], strict=True) if LATENTS in files
    }


def _listing(folder: str) -> tuple[str, dict[str, int]] | None:
    """What is in a run's folder: the record's size and time of change, and the size of every file; None for no folder."""
    sizes, stamp = {}, ""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                facts = entry.stat(follow_symlinks=False)
                sizes[entry.name] = facts.st_size
                if entry.name == RECORD:
                    stamp = f"{facts.st_size}:{facts.st_mtime_ns}"
    except OSError:
        return None
    return stamp, sizes


def _row(record: dict[str, Any]) -> dict[str, Any]:
    """A run's record as one flat row of plain values."""
    call, source = record["call"], record["source"]
    row = {
        "run_id": record["run_id"],
        "latents_id": record["latents_id"],
        "status": record["status"],
        "reason": record["reason"],
    }
    row |= {k: json.dumps(v) if isinstance(v, list) else v for k, v in call["conditions"].items()}
    row |= {"fps_id": call["fps_id"], "seed": call["seed"], "image": call["image_name"], "image_hash": call["image"]}
    row["flip_noise"] = call.get("flip_noise") or ""
    row |= {"checkpoint": source["checkpoint"], "weights": call["weights"][:12], "label": source["label"]}
    row["intervention"] = call["intervention"] or ""
    row |= {f"seconds_{k}": v for k, v in record["seconds"].items()}
    for measured in record["measures"].values():
        row |= measured["values"]
    row["_files"] = json.dumps({k: v["bytes"] for k, v in record["files"].items()})
    row["_state"] = json.dumps(state(record))
    return row


def _table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame(rows).set_index("run_id")


def _read_index(out: str | Path) -> pd.DataFrame:
    """The index as it was last written; an empty table where it is missing, damaged or of another format."""
    try:
        table = pd.read_parquet(Path(out) / INDEX)
    except (OSError, ValueError):  # pyarrow's errors are ValueErrors
        return NOTHING
    usable = table.index.name == "run_id" and set(NOTHING.columns) <= set(table.columns)
    return table if usable and table.index.is_unique else NOTHING


def _write_index(out: str | Path, table: pd.DataFrame) -> None:
    """Replace the index in one move. It is only a copy: where the disk refuses it, the runs are there all the same."""
    temporary = Path(out) / f".{INDEX}.{uuid.uuid4().hex[:8]}"
    try:
        table.to_parquet(temporary)
        os.replace(temporary, Path(out) / INDEX)
    except OSError as error:
        warnings.warn(f"{Path(out) / INDEX} could not be written ({error}); the runs themselves are whole.", stacklevel=3)
    finally:
        temporary.unlink(missing_ok=True)


def read_frames(out: str | Path, run_id: str) -> np.ndarray:
    """A run's frames, uint8 "f h w c", hash checked; OutputError where they are missing or damaged.

    >>> read_frames("results/fps", table.run_id[0]).shape
    (8, 64, 64, 3)
    """
    return _read_video(read_file(out, run_id, FRAMES))


def read_trace(out: str | Path, run_id: str) -> Trace:
    """A run's trace, hash checked; OutputError where none was kept, or where it is damaged."""
    from svdlab.pipeline.trace import Trace  # brings torch along, which `check` and `export` do without

    return Trace.load(read_file(out, run_id, TRACE))


# --- svdlab ledger check | rebuild | export ---------------------------------------------------------------------------


def check(out: str | Path, *, set_aside: bool = True) -> pd.DataFrame:
    """Every file of every run against its recorded hash: a row for each that is damaged, none where all is well.

    >>> check("results/study")
    Empty DataFrame
    Columns: [run_id, file, problem]

    set_aside: move damaged runs to `<out>/damaged/`, so that the next sweep makes them again; nothing is deleted.
    """
    existing(out)
    found = []
    for run_id in run_ids(out):
        folder = run_folder(out, run_id)
        wrong = damage(folder)
        found += [{"run_id": run_id, "file": name, "problem": problem} for name, problem in wrong.items()]
        if wrong and set_aside:
            place = Path(out) / "damaged"
            place.mkdir(exist_ok=True)
            os.rename(folder, place / f"{run_id}-{uuid.uuid4().hex[:8]}")
    return pd.DataFrame(found, columns=["run_id", "file", "problem"])


def rebuild(out: str | Path) -> pd.DataFrame:
    """Throw the index away and make it again from the folders."""
    existing(out)
    (Path(out) / INDEX).unlink(missing_ok=True)
    return survey(out)


def export(out: str | Path, to: str | Path) -> Path:
    """A folder for a colleague without svdlab: results.csv and .parquet, previews with telling names, a README and NOTICE.

    Each preview says that a model made it, which one and under which licence: in tags, and in a JSON file beside it.
    Raises InputError where `to` already holds something else.
    """
    existing(out)
    table, to = public_table(out, survey(out)), Path(to)
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise InputError(f"{to} is there already and not empty: give a new folder.")
    try:
        (to / "previews").mkdir(parents=True)
        names = []
        for n, (run_id, row) in enumerate(table.iterrows()):
            name = f"previews/{n:05d}-{str(run_id)[:8]}.mp4"
            if row["preview"]:
                _export_preview(Path(row["preview"]), to / name)
            names.append(name if row["preview"] else "")
        table = table.drop(columns=[c for c in FILES if c in table]).assign(preview=names)
        table.to_csv(to / "results.csv")
        table.to_parquet(to / "results.parquet")
        (to / "README.txt").write_text(_readme(out, table))
        (to / "NOTICE").write_text(video.notice())
    except OSError as error:
        raise OutputError(f"{to} could not be written: {error}") from error
    return to


def _export_preview(preview: Path, target: Path) -> None:
    record = read_record(preview.parent)
    facts = video.describe({"source": record["source"], **record["call"]}, run_id=record["run_id"])
    shutil.copyfile(preview, target)
    if not video.read_tags(target):  # made before previews were
        video.tag_mp4(target, facts)
    video.write_sidecar(target, facts)


def _readme(out: str | Path, table: pd.DataFrame) -> str:
    labels = ", ".join(sorted(set(table["label"]) - {""})) if len(table) else ""
    return "\n".join(
        [
            f"{len(table)} clips from the study {Path(out).name}, made with svdlab. {labels}",
            "results.csv, results.parquet: one row for each clip, with its conditions, its seed and what was measured.",
            "previews/: the clips (H.264), made by a generative model; the column `preview` names each row's file, and the",
            ".json beside it says which model, from what, and under which licence. NOTICE goes with them.",
            "fps is diffusers' argument; fps_id = fps - 1 is what the model saw; playback_fps is the player's.",
            f"Columns: {', '.join(table.columns)}",
            "",
        ]
    )


def public_table(out: str | Path, table: pd.DataFrame) -> pd.DataFrame:
    """The survey as users see it: the paths of each run's files instead of the columns that svdlab keeps for itself."""
    held = list(zip(table.index.tolist(), table["_files"].tolist(), strict=True))
    runs = os.path.join(str(out), "runs", "")
    paths = {
        column: [f"{runs}{run_id}{os.sep}{name}" if f'"{name}"' in files else "" for run_id, files in held]
        for column, name in FILES.items()
    }
    return table.drop(columns=[c for c in table if str(c).startswith("_")]).assign(**paths)


def plain(value: Any) -> Any:
    """A measured value as JSON holds it: numpy's numbers as Python's, NaN and infinities as null."""
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, (bool, int, float, str)) or value is None:
        return value
    raise InputError(f"a measure gave {type(value).__name__} {value!r}: give numbers, strings, truth values or None.")
