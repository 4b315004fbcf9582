"""Where a figure's content comes from, in a line: checkpoint, conditions, seeds, and what the checkpoint is not.

>>> about(clip)
'organism · fps 7, motion bucket 180, noise 0.02, guidance 1 to 3, 25 steps · seed 0 · model organism, not SVD'
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from svdlab.measure import video

NAMES = {  # column or condition -> how a figure says it
    "fps": "fps",
    "motion_bucket_id": "motion bucket",
    "noise_aug_strength": "noise augmentation",
    "min_guidance_scale": "min. guidance",
    "max_guidance_scale": "max. guidance",
    "guidance_curve": "guidance curve",
    "guidance_interval": "guidance interval",
    "num_inference_steps": "steps",
    "playback_fps": "playback fps",
    "checkpoint": "checkpoint",
    "seed": "seed",
    "image": "picture",
    "camera": "camera",
}
UNITS = {  # ending of a measure's column -> its unit, for axes
    "_px_s": "px per second",
    "_pct_s": "% of the frame width per second",
    "_px": "px per frame",
    "_pct": "% per frame",
    "_deg": "degrees per frame",
    "_db": "dB",
    "_share": "share of frame pairs",
}
STEMS = {"object": "subject speed", "camera": "camera speed", "flow": "mean flow"}  # measures, without their unit
STARTS = {"sigmas": "other noise levels", "flip_noise": "mirrored noise", "latents": "given latents", "noise": "given noise"}
SOURCE = ("checkpoint", "label", "licence")
SHORT = {"fps": "fps", "motion_bucket_id": "motion bucket", "noise_aug_strength": "noise"}


def name(column: str) -> str:
    """A condition or measure in words, without its unit."""
    ending = next((e for e in UNITS if column.endswith(e)), "")
    if column in NAMES or not ending:
        return NAMES.get(column, column.replace("_", " "))
    stem = column.removesuffix(ending)
    return STEMS.get(stem, stem.replace("_", " "))


def axis(column: str) -> str:
    """A condition or measure in words, with its unit: what an axis says."""
    unit = next((u for e, u in UNITS.items() if column.endswith(e)), "")
    return f"{name(column)} ({unit})" if unit else name(column)


def number(value: Any) -> str:
    """A value as a label: 4 digits at most, no trailing zeros."""
    if isinstance(value, (bool, np.bool_, str)):
        return str(value)
    if isinstance(value, (int, float, np.number)):
        return f"{float(value):.4g}"
    return str(value)


class Line(str):
    """A line that still knows which models made what it speaks of. sources: of each its checkpoint, label and licence."""

    sources: tuple[dict[str, str], ...] = ()

    def __add__(self, more: str) -> Line:
        return line(str(self) + more, self, more)


def line(text: str, *parts: Any) -> Line:
    """A text that is made of lines, and knows what they know."""
    made = Line(text)
    made.sources = tuple(source for part in parts for source in getattr(part, "sources", ()))
    return made


def marks(said: Any, *, pictures: bool) -> dict[str, Any]:
    """What a file of this figure says about itself (see `svdlab.measure.video`); {} where no model made what it shows."""
    sources = getattr(said, "sources", ())
    if not sources:
        return {}
    known = {
        key: ", ".join(dict.fromkeys(s[key] for s in sources if s.get(key))) for key in ("checkpoint", "label", "licence")
    }
    stated = [video.licence_line(s["checkpoint"], {}) for s in sources]
    known["licence"] = known["licence"] or ", ".join(dict.fromkeys(filter(None, stated)))
    kind = video.FIGURE_TYPE if pictures else video.GRAPH_TYPE
    return video.describe({"source": known}, description=str(said)) | {"DigitalSourceType": kind}


def about(*things: Any) -> Line:
    """The line for clips, traces, tables of results or sequences of them; what varies is given as a range."""
    records = [r for thing in things for r in _records(thing)]
    if not records:
        return Line("")
    seen = {key: _distinct(r.get(key) for r in records) for key in dict.fromkeys(k for r in records for k in r)}
    parts = [", ".join(str(c).rstrip("/").split("/")[-1] for c in seen.get("checkpoint", []))]
    conditions = [f"{SHORT[key]} {_range(seen[key])}" for key in SHORT if seen.get(key)]
    low, high = seen.get("min_guidance_scale"), seen.get("max_guidance_scale")
    if low and high:
        least, most = number(min(low)), number(max(high))
        span = least if least == most else f"{least} to {most}"
        conditions.append(f"guidance {span}" if max(high) > 1 else "no guidance")
    if seen.get("num_inference_steps"):
        steps = seen["num_inference_steps"]
        conditions.append(f"{_range(steps)} step{'s' if steps != [1] else ''}")
    parts.append(", ".join(conditions))
    seeds = seen.get("seed", [])
    parts.append(f"seed{'s' if len(seeds) > 1 else ''} {_range(seeds)}" if seeds else "")
    parts += [f"{what}: {', '.join(seen[what])}" for what in ("edited", "started from") if seen.get(what)]
    parts.append("; ".join(map(str, seen.get("label", []))))
    text = line(" · ".join(part for part in parts if part))
    made = [{key: str(r.get(key) or "") for key in SOURCE} for r in records if r.get("checkpoint")]
    text.sources = tuple(dict(items) for items in dict.fromkeys(tuple(m.items()) for m in made))
    return text


def caption(clip: Any) -> str:
    """What tells a clip from others: its main conditions and its seed."""
    records = _records(clip)
    if not records:
        return ""
    values = records[0]
    parts = [f"{SHORT[key]} {number(values[key])}" for key in SHORT if key in values]
    return ", ".join([*parts, f"seed {values['seed']}"] if "seed" in values else parts)


def _records(thing: Any) -> list[dict[str, Any]]:
    if isinstance(thing, str):
        return [{"label": thing}] if thing else []
    if isinstance(thing, pd.DataFrame):
        keys = [k for k in (*NAMES, "label") if k in thing.columns]
        return [dict(zip(keys, row, strict=True)) for row in thing[keys].drop_duplicates().itertuples(index=False)]
    if isinstance(thing, pd.Series):
        return _records(thing.to_frame().T)
    if hasattr(thing, "calls"):  # a trace
        return [_call(c) for c in thing.calls] or [{"label": thing.label}]
    if hasattr(thing, "call"):  # a clip
        return [_call(thing.call)]
    if isinstance(thing, dict):
        thing = list(thing.values())
    if isinstance(thing, Sequence):
        return [r for t in thing for r in _records(t)]
    return []


def _call(made: Any) -> dict[str, Any]:
    call = made.asdict()
    source = call["source"]
    what = {
        "edited": ", ".join(dict.fromkeys(call.get("edits", ()))),
        "started from": ", ".join(STARTS.get(k, k) for k, v in call.get("start", {}).items() if v),
    }
    made_by = {key: source.get(key, "") for key in SOURCE}
    return {**call["conditions"], "seed": call["seed"], **made_by, **what}


def _distinct(values: Iterable[Any]) -> list[Any]:
    kept = []
    for value in values:
        empty = value is None or value == "" or (isinstance(value, float) and np.isnan(value))
        if not empty and value not in kept:
            kept.append(value)
    try:
        return sorted(kept)
    except TypeError:
        return kept


def _range(values: Sequence[Any]) -> str:
    distinct = sorted(set(values))
    counting = len(distinct) > 2 and distinct == list(range(int(distinct[0]), int(distinct[0]) + len(distinct)))
    if len(distinct) <= 4 and not counting:
        return ", ".join(map(number, distinct))
    return f"{number(distinct[0])} to {number(distinct[-1])}"
