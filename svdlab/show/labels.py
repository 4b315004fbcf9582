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

SHORT = {"fps": "fps", "motion_bucket_id": "motion bucket", "noise_aug_strength": "noise"}
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
}
STEMS = {"object": "subject speed", "camera": "camera speed", "flow": "mean flow"}  # measures without their unit
STARTS = {"sigmas": "other noise levels", "flip_noise": "mirrored noise", "latents": "given latents", "noise": "given noise"}
SOURCE = ("checkpoint", "label", "licence")
COLUMNS = (*SHORT, "min_guidance_scale", "max_guidance_scale", "num_inference_steps", "seed", *SOURCE, "intervention")


def name(column: str) -> str:
    """A condition or measure in words, without its unit."""
    stem = column.removesuffix(next((ending for ending in UNITS if column.endswith(ending)), ""))
    return NAMES.get(column) or STEMS.get(stem, stem.replace("_", " "))


def unit(column: str) -> str:
    """A measure's unit, or nothing."""
    return next((u for ending, u in UNITS.items() if column.endswith(ending)), "")


def axis(column: str) -> str:
    """A condition or measure in words with its unit, for an axis."""
    return f"{name(column)} ({unit(column)})" if unit(column) else name(column)


def _numeric(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def number(value: Any) -> str:
    """A value as a label: 4 digits at most, no trailing zeros."""
    return f"{float(value):.4g}" if _numeric(value) else str(value)


def ordered(values: Iterable[Any]) -> list[Any]:
    """Every value once: numbers by size, then the rest by name."""
    return sorted(dict.fromkeys(values), key=lambda v: (0, v, "") if _numeric(v) else (1, 0, str(v)))


def caption(clip: Any) -> str:
    """What tells one clip from others: its main conditions and its seed."""
    values = next(iter(records(clip)), {})
    words = SHORT | {"seed": "seed"}
    return ", ".join(f"{words[key]} {number(values[key])}" for key in words if key in values)


def about(*things: Any) -> str:
    """The line for clips, traces, tables of results or sequences of them; what varies is given as a range.

    Arrays say nothing about where they come from: their line is empty.
    """
    runs = records(*things)
    seen = {key: ordered(r[key] for r in runs if key in r and not pd.isna(r[key]) and r[key] != "") for r in runs for key in r}
    seen = {key: values for key, values in seen.items() if values}
    conditions = [f"{SHORT[key]} {_range(seen[key])}" for key in SHORT if key in seen]
    if "min_guidance_scale" in seen and "max_guidance_scale" in seen:
        low, high = number(seen["min_guidance_scale"][0]), number(seen["max_guidance_scale"][-1])
        given = f"guidance {low}" if low == high else f"guidance {low} to {high}"
        conditions.append(given if seen["max_guidance_scale"][-1] > 1 else "no guidance")
    if steps := seen.get("num_inference_steps"):
        conditions.append(f"{_range(steps)} step{'s' * (steps != [1])}")
    seeds = seen.get("seed", [])
    parts = [
        ", ".join(c.rstrip("/").split("/")[-1] for c in seen.get("checkpoint", [])),
        ", ".join(conditions),
        f"seed{'s' * (len(seeds) > 1)} {_range(seeds)}" if seeds else "",
        *(f"{what}: {', '.join(seen[what])}" for what in ("edited", "intervention", "started from") if what in seen),
        "; ".join(seen.get("label", [])),
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
        elif isinstance(thing, pd.Series):
            found += records(thing.to_frame().T)
        elif isinstance(thing, pd.DataFrame):
            table = thing[[c for c in COLUMNS if c in thing.columns]]
            found += [dict(row) for _, row in table[~table.astype(str).duplicated()].astype(object).iterrows()]
        elif hasattr(thing, "calls"):  # a trace
            found += [_flat(call) for call in thing.calls] or [{"label": thing.label}]
        elif hasattr(thing, "call"):  # a clip
            found.append(_flat(thing.call))
        elif hasattr(thing, "checkpoint"):
            found.append({key: getattr(thing, key, "") for key in SOURCE})
        elif isinstance(thing, Mapping | Sequence):
            found += records(*(thing.values() if isinstance(thing, Mapping) else thing))
    return found


def _flat(made: Any) -> dict[str, Any]:
    call = made.asdict()
    more = {
        "edited": ", ".join(dict.fromkeys(call.get("edits") or ())),
        "started from": ", ".join(STARTS.get(k, k) for k, v in (call.get("start") or {}).items() if v),
        "intervention": call.get("intervention") or "",
    }
    return {**call["conditions"], "seed": call["seed"], **{key: call["source"].get(key, "") for key in SOURCE}, **more}


def _range(values: Sequence[Any]) -> str:
    counting = len(values) > 2 and list(values) == list(range(int(values[0]), int(values[0]) + len(values)))
    return f"{number(values[0])} to {number(values[-1])}" if len(values) > 4 or counting else ", ".join(map(number, values))
