"""What figures write: names and units of conditions and measures, and the line that says where the content comes from.

>>> axis("object_px"), number(0.123456)
('subject speed (px/frame)', '0.1235')
>>> about(clip)
'organism · fps 7, motion bucket 127, noise 0.02, guidance 1 to 3, 4 steps · seed 0 · model organism, not SVD'
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

NAMES = {  # column or condition -> its name in a figure, where that is not the column's with spaces
    "motion_bucket_id": "motion bucket",
    "noise_aug_strength": "noise augmentation",
    "min_guidance_scale": "min. guidance",
    "max_guidance_scale": "max. guidance",
    "num_inference_steps": "steps",
}
SHORT = {"fps": "fps", "motion_bucket_id": "motion bucket", "noise_aug_strength": "noise"}
UNITS = {  # ending of a measure's column -> its unit
    "_px_s": "px/s",
    "_pct_s": "% of the frame width per second",
    "_px": "px/frame",
    "_pct": "%/frame",
    "_deg": "degrees/frame",
    "_db": "dB",
    "_share": "share of frame pairs",
}
STEMS = {"object": "subject speed", "camera": "camera speed", "flow": "mean flow"}  # measures without their unit
STARTS = {"sigmas": "other noise levels", "flip_noise": "mirrored noise", "latents": "given latents", "noise": "given noise"}
SOURCE = ("checkpoint", "label", "licence")
COLUMNS = (*SHORT, "min_guidance_scale", "max_guidance_scale", "num_inference_steps", "seed", *SOURCE, "intervention")


def name(column: str) -> str:
    """A condition or measure in words, without its unit."""
    stem = column.removesuffix(next((e for e in UNITS if column.endswith(e)), ""))
    return NAMES.get(column) or STEMS.get(stem, stem.replace("_", " "))


def unit(column: str) -> str:
    """A measure's unit, or nothing."""
    return next((u for ending, u in UNITS.items() if column.endswith(ending)), "")


def axis(column: str) -> str:
    """A condition or measure in words with its unit, for an axis."""
    return f"{name(column)} ({unit(column)})" if unit(column) else name(column)


def number(value: Any) -> str:
    """A value as a label: 4 digits at most, no trailing zeros."""
    if isinstance(value, (int, float, np.number)) and not isinstance(value, bool):
        return f"{float(value):.4g}"
    return str(value)


def ordered(values: Iterable[Any]) -> list[Any]:
    """Every value once: numbers by size, then the rest by name."""
    plain = lambda v: isinstance(v, (int, float, np.number)) and not isinstance(v, bool)
    return sorted(dict.fromkeys(values), key=lambda v: (not plain(v), v if plain(v) else str(v)))


def caption(clip: Any) -> str:
    """What tells one clip from others: its main conditions and its seed."""
    values = next(iter(records(clip)), {})
    parts = [f"{SHORT[key]} {number(values[key])}" for key in SHORT if key in values]
    return ", ".join([*parts, f"seed {values['seed']}"] if "seed" in values else parts)


def about(*things: Any) -> str:
    """The line for clips, traces, tables of results or sequences of them; what varies is given as a range.

    Arrays say nothing about where they come from: their line is empty.
    """
    runs = records(*things)
    seen = {key: _distinct(run.get(key) for run in runs) for key in dict.fromkeys(k for run in runs for k in run)}
    seen = {key: values for key, values in seen.items() if values}
    conditions = [f"{SHORT[key]} {_range(seen[key])}" for key in SHORT if key in seen]
    if "min_guidance_scale" in seen and "max_guidance_scale" in seen:
        low, high = min(seen["min_guidance_scale"]), max(seen["max_guidance_scale"])
        conditions.append(f"guidance {_range([low, high], ' to ')}" if high > 1 else "no guidance")
    if steps := seen.get("num_inference_steps"):
        conditions.append(f"{_range(steps)} step{'s' if steps != [1] else ''}")
    seeds = seen.get("seed", [])
    parts = [
        ", ".join(str(c).rstrip("/").split("/")[-1] for c in seen.get("checkpoint", [])),
        ", ".join(conditions),
        f"seed{'s' if len(seeds) > 1 else ''} {_range(seeds)}" if seeds else "",
        *(f"{what}: {', '.join(seen[what])}" for what in ("edited", "intervention", "started from") if what in seen),
        "; ".join(map(str, seen.get("label", []))),
    ]
    return " · ".join(filter(None, parts))


def sources(*things: Any) -> tuple[dict[str, str], ...]:
    """Checkpoint, label and licence of each model that made what the things show, every model once."""
    made = [tuple(str(run.get(key) or "") for key in SOURCE) for run in records(*things) if run.get("checkpoint")]
    return tuple(dict(zip(SOURCE, values, strict=True)) for values in dict.fromkeys(made))


def records(*things: Any) -> list[dict[str, Any]]:
    """A flat dict for each run that the things show: its conditions, seed, source, edits and start.

    things: clips, traces, tables or rows of results, anything with a `checkpoint` (a pipeline's source, a probe's result), a
    text (a label), dicts and sequences of these. Arrays have none.
    """
    found: list[dict[str, Any]] = []
    for thing in things:
        if isinstance(thing, str):
            found += [{"label": thing}] if thing else []
        elif isinstance(thing, pd.DataFrame):
            keys = [c for c in COLUMNS if c in thing.columns]
            rows = thing.loc[~thing[keys].astype(str).duplicated(), keys].itertuples(index=False)
            found += [dict(zip(keys, row, strict=True)) for row in rows]
        elif isinstance(thing, pd.Series):
            found += records(thing.to_frame().T)
        elif hasattr(thing, "calls"):  # a trace
            found += [_flat(call) for call in thing.calls] or [{"label": thing.label}]
        elif hasattr(thing, "call"):  # a clip
            found.append(_flat(thing.call))
        elif hasattr(thing, "checkpoint"):
            found.append({key: getattr(thing, key, "") for key in SOURCE})
        elif isinstance(thing, Mapping):
            found += records(*thing.values())
        elif isinstance(thing, Sequence):
            found += records(*thing)
    return found


def _flat(made: Any) -> dict[str, Any]:
    call = made.asdict()
    more = {
        "edited": ", ".join(dict.fromkeys(call.get("edits") or ())),
        "started from": ", ".join(STARTS.get(k, k) for k, v in (call.get("start") or {}).items() if v),
        "intervention": call.get("intervention") or "",
    }
    return {**call["conditions"], "seed": call["seed"], **{key: call["source"].get(key, "") for key in SOURCE}, **more}


def _distinct(values: Iterable[Any]) -> list[Any]:
    kept: list[Any] = []
    for value in values:
        empty = value is None or value == "" or (isinstance(value, float) and np.isnan(value))
        if not empty and value not in kept:
            kept.append(value)
    try:
        return sorted(kept)
    except TypeError:
        return kept


def _range(values: Sequence[Any], between: str = ", ") -> str:
    distinct = sorted(set(values))
    counting = len(distinct) > 2 and distinct == list(range(int(distinct[0]), int(distinct[0]) + len(distinct)))
    if len(distinct) <= 4 and not counting:
        return between.join(map(number, distinct))
    return f"{number(distinct[0])} to {number(distinct[-1])}"
