"""What figures write: names and units of conditions and measures, and the line that says where the content comes from.

>>> axis("object_px"), number(0.123456)
('subject speed (px/frame)', '0.1235')
>>> about(clip)
'organism · fps 7, motion bucket 127, noise 0.02, guidance 1 to 3, 4 steps · seed 0 · model organism, not SVD'
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

import pandas as pd

SHORT = {"fps": "fps", "motion_bucket_id": "motion bucket", "noise_aug_strength": "noise"}  # conditions, as footers name them
NAMES = {  # column -> its name in a figure, where that is not the column's with spaces
    "motion_bucket_id": "motion bucket",
    "noise_aug_strength": "noise augmentation",
    "min_guidance_scale": "min. guidance",
    "max_guidance_scale": "max. guidance",
    "num_inference_steps": "steps",
}
UNITS = {  # ending of a measure's column -> its unit
    "_px_s": "px/s",
    "_pct_s": "% of the frame width per second",
    "_px": "px/frame",
    "_pct": "%/frame",
    "_deg": "degrees/frame",
    "_db": "dB",
    "_share": "share of frame pairs",
    "": "",
}
STEMS = {"object": "subject speed", "camera": "camera speed", "flow": "mean flow"}  # measures without their unit
SOURCE = ("checkpoint", "label", "licence")
RUN = (*SHORT, "min_guidance_scale", "max_guidance_scale", "num_inference_steps", "seed", *SOURCE)
DONE = ("edited", "intervention", "started from")


def name(column: str) -> str:
    """A condition or measure in words, without its unit."""
    stem = column.removesuffix(_ending(column))
    return NAMES.get(column) or STEMS.get(stem, stem.replace("_", " "))


def unit(column: str) -> str:
    """A measure's unit, or nothing."""
    return UNITS[_ending(column)]


def axis(column: str) -> str:
    """A condition or measure in words with its unit, for an axis."""
    return f"{name(column)} ({unit(column)})" if unit(column) else name(column)


def _ending(column: str) -> str:
    return next(ending for ending in UNITS if column.endswith(ending))


def number(value: Any) -> str:
    """A value as a label: 4 digits at most, no trailing zeros."""
    return f"{float(value):.4g}" if _numeric(value) else str(value)


def ordered(values: Iterable[Any]) -> list[Any]:
    """Every value once: numbers by size, then the rest by name."""
    return sorted(dict.fromkeys(values), key=lambda v: (0, v) if _numeric(v) else (1, str(v)))


def _numeric(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _range(values: Sequence[Any]) -> str:
    counting = len(values) > 2 and list(values) == list(range(int(values[0]), int(values[0]) + len(values)))
    return f"{number(values[0])} to {number(values[-1])}" if len(values) > 4 or counting else ", ".join(map(number, values))


def caption(clip: Any) -> str:
    """What distinguishes one clip from others: its main conditions and its seed."""
    values = next(iter(records(clip)), {})
    return ", ".join(f"{word} {number(values[key])}" for key, word in (SHORT | {"seed": "seed"}).items() if key in values)


def about(*things: Any) -> str:
    """The line for clips, traces, tables of results or sequences of them; what varies is given as a range.

    Arrays say nothing about where they come from: their line is empty.
    """
    runs = records(*things)
    seen = {key: ordered(r[key] for r in runs if not pd.isna(r.get(key)) and r[key] != "") for key in (*RUN, *DONE)}
    seen = {key: values for key, values in seen.items() if values}
    conditions = [f"{word} {_range(seen[key])}" for key, word in SHORT.items() if key in seen]
    if "min_guidance_scale" in seen and "max_guidance_scale" in seen:
        least, most = seen["min_guidance_scale"][0], seen["max_guidance_scale"][-1]
        conditions.append(f"guidance {' to '.join(map(number, ordered([least, most])))}" if most > 1 else "no guidance")
    if steps := seen.get("num_inference_steps"):
        conditions.append(f"{_range(steps)} step{'s' * (steps != [1])}")
    seeds = seen.get("seed", [])
    parts = [
        ", ".join(c.rstrip("/").split("/")[-1] for c in seen.get("checkpoint", [])),
        ", ".join(conditions),
        f"seed{'s' * (len(seeds) > 1)} {_range(seeds)}" if seeds else "",
        *(f"{what}: {', '.join(seen[what])}" for what in DONE if what in seen),
        "; ".join(seen.get("label", [])),
    ]
    return " · ".join(filter(None, parts))


def records(*things: Any) -> list[dict[str, Any]]:
    """A flat dict for each run that the things show: its conditions, seed, source, edits and start.

    things: clips, traces, tables of results, anything with a `checkpoint` (a pipeline's source, a probe's result), a text (a
    label), dicts and sequences of these. Arrays have none.
    """
    found: list[dict[str, Any]] = []
    for thing in things:
        if isinstance(thing, str):
            found.append({"label": thing})
        elif isinstance(thing, pd.DataFrame):
            rows = thing[[c for c in (*RUN, *DONE) if c in thing]].drop_duplicates().to_dict("records")
            found += [{str(key): value for key, value in row.items()} for row in rows]
        elif hasattr(thing, "call") or hasattr(thing, "calls"):  # a clip, a trace
            found += [_flat(call.asdict()) for call in (thing.calls if hasattr(thing, "calls") else [thing.call])]
        elif hasattr(thing, "checkpoint"):
            found.append({key: getattr(thing, key, "") for key in SOURCE})
        elif isinstance(thing, Mapping | Sequence):
            found += records(*(thing.values() if isinstance(thing, Mapping) else thing))
    return found


def _flat(call: dict[str, Any]) -> dict[str, Any]:
    start = ", ".join(key.replace("_", " ") for key, value in (call.get("start") or {}).items() if value)
    done = (", ".join(dict.fromkeys(call.get("edits") or ())), call.get("intervention"), start)
    source = {key: call["source"].get(key, "") for key in SOURCE}
    return {**call["conditions"], "seed": call["seed"], **source, **dict(zip(DONE, done, strict=True))}


def sources(*things: Any) -> tuple[dict[str, str], ...]:
    """Checkpoint, label and licence of each model that made what the things show, every model once."""
    made = [tuple(str(run.get(key) or "") for key in SOURCE) for run in records(*things) if run.get("checkpoint")]
    return tuple(dict(zip(SOURCE, values, strict=True)) for values in dict.fromkeys(made))
