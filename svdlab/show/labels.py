"""What figures write: names and units of conditions and measures, and the line that says where the content comes from.

>>> axis("object_px"), number(0.123456)
('subject speed (px/frame)', '0.1235')
>>> about(clip)
'organism · fps 7, motion bucket 127, noise 0.02, guidance 1 to 3, 4 steps · seed 0 · model organism, not SVD'
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from numbers import Integral, Real
from typing import Any

import pandas as pd

from svdlab.errors import InputError, several, shown, takes, text
from svdlab.measure.files import file_name, printable

SHORT = {"fps": "fps", "motion_bucket_id": "motion bucket", "noise_aug_strength": "noise"}  # conditions, as footers name them
NAMES = {  # column -> its name in a figure, where that is not the column's with spaces
    "motion_bucket_id": "motion bucket",
    "noise_aug_strength": "noise augmentation",
    "min_guidance_scale": "min. guidance",
    "max_guidance_scale": "max. guidance",
    "num_inference_steps": "steps",
    "lora": "LoRA",
    "lora_scale": "LoRA strength",
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
MODEL = ("scheduler", "lora", "lora_scale")  # which a footer names where they are not the checkpoint's own
SHAPE = ("guidance_curve", "guidance_interval", "num_frames", "height", "width", "flip_noise")
OWN = "EulerDiscreteScheduler"  # SVD's own sampler
DONE = ("edited", "intervention", "started from")
SILENT = ("__array__", "__array_interface__", "frames")  # arrays, tensors, images, videos: what they show has no source
LONGEST = 80  # characters of a label


def WORDS(name: str, value: Any) -> str:
    """The kind of a title or a label, which may hold recorded text: it is drawn as one line without control characters."""
    if not isinstance(value, str):
        raise InputError(f"{name}={shown(value)}: give a text.")
    return printable(value)


@takes(column=text)
def name(column: str) -> str:
    """A condition or measure in words, without its unit."""
    stem = column.removesuffix(_ending(column))
    return NAMES.get(column) or STEMS.get(stem) or cut(stem.replace("_", " "))


@takes(column=text)
def unit(column: str) -> str:
    """A measure's unit, or nothing."""
    return UNITS[_ending(column)]


@takes(column=text)
def axis(column: str) -> str:
    """A condition or measure in words with its unit, for an axis."""
    return f"{name(column)} ({unit(column)})" if unit(column) else name(column)


def _ending(column: str) -> str:
    return next(ending for ending in UNITS if column.endswith(ending))


def number(value: Any) -> str:
    """A value as a label: 4 digits at most, no trailing zeros; seeds and counts whole; of a path its name, of a text one line.

    >>> number(0.0254321), number(123456), number("/home/ada/photos/cat.png")
    ('0.02543', '123456', 'cat.png')
    """
    if _numeric(value) and (isinstance(value, Integral) or (abs(value) < 1e6 and value % 1 == 0)):
        return shown(int(value))
    return f"{float(value):.4g}" if _numeric(value) else cut(file_name(value))


def cut(words: Any) -> str:
    """Recorded words as a label: one line, of LONGEST characters at most."""
    line = printable(words)
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 4]} ..."


def ordered(values: Iterable[Any]) -> list[Any]:
    """Every value once: numbers by size, then the rest by name. Raises InputError for values that are lists."""
    return sorted(
        dict.fromkeys(several("values", values, _cell, least=0)), key=lambda v: (0, v) if _numeric(v) else (1, str(v))
    )


def _cell(name: str, value: Any) -> Any:
    if not pd.api.types.is_scalar(value) and not isinstance(value, tuple):
        raise InputError(f"{name}={shown(value)}: give numbers or texts, such as a column that holds no lists.")
    return value


def _numeric(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _range(values: Sequence[Any]) -> str:
    counting = (
        len(values) > 2 and all(map(_numeric, values)) and all(b - a == 1 for a, b in pairwise(values)) and not values[0] % 1
    )
    return f"{number(values[0])} to {number(values[-1])}" if len(values) > 4 or counting else ", ".join(map(number, values))


def caption(clip: Any) -> str:
    """What distinguishes one clip from others: its main conditions and its seed."""
    found = next(iter(records(clip)), {})
    values = {key: value for key, value in found.items() if not pd.isna(value)}  # of a measured file nothing may be known
    return ", ".join(f"{word} {number(values[key])}" for key, word in (SHORT | {"seed": "seed"}).items() if key in values)


def captions(table: pd.DataFrame, among: pd.DataFrame | None = None) -> list[str]:
    """What distinguishes each row of a table of runs from the others (of `among`): the conditions that vary, and the seed.

    >>> captions(pd.DataFrame({"fps": [6, 12], "motion_bucket_id": 127, "seed": 0}))
    ['fps 6', 'fps 12']
    """
    whole = table if among is None else among
    columns = ["image", *(c for c in (*RUN, *MODEL, *SHAPE) if c not in SOURCE), "checkpoint"]
    varied = [c for c in columns if c in whole and whole[c].dropna().astype(str).nunique() > 1]  # pandas 2 writes "nan"
    texts = short(whole["image"]) if "image" in varied else {}
    said = lambda c, v: texts[v] if c == "image" and v in texts else f"{SHORT.get(c, name(c))} {number(v)}"
    named = (*SHORT, "seed", "checkpoint", "num_frames", "height", "width", "scheduler", "lora", "flip_noise")
    known = lambda c, v: c not in named or not (v == "" or pd.isna(v))  # of a measured file
    return [", ".join(said(c, row[c]) for c in varied if known(c, row[c])) for row in table.to_dict("records")]


@takes(module=text)
def block(module: str) -> str:
    """The block of the UNet that a module lies in, by diffusers' own name.

    >>> block("unet.down_blocks.0.attentions.1.temporal_transformer_blocks.0.attn1.first_frame")
    'down_blocks.0.attentions.1'
    """
    return re.split(r"\.(?:temporal_)?transformer_blocks\.", module.removeprefix("unet."))[0]


def short(values: Iterable[Any]) -> dict[Any, str]:
    """A label for each image of a study: of a path its last parts, as few as tell it from the others.

    >>> short(["photos/a/cat.png", "photos/b/cat.png", "photos/b/dog.png", "astronaut"])
    {'astronaut': 'astronaut', 'photos/a/cat.png': 'a/cat.png', 'photos/b/cat.png': 'b/cat.png', 'photos/b/dog.png': 'dog.png'}
    """
    found = ordered(values)
    parts = {v: re.split(r"[\\/]+", v.rstrip("\\/")) for v in found if isinstance(v, str) and "://" not in v}

    def label(value: Any) -> str:
        if value not in parts:
            return number(value)
        own, others = parts[value], [other for v, other in parts.items() if v != value]
        depth = next((n for n in range(1, len(own)) if all(other[-n:] != own[-n:] for other in others)), len(own))
        return cut("/".join(own[-depth:]))

    return {value: label(value) for value in found}


def about(*things: Any) -> str:
    """The line for clips, traces, tables of results or sequences of them; what varies is given as a range.

    Arrays and files say nothing about where they come from: their line is empty. Raises InputError for anything else.
    """
    runs = records(*things)
    keys = (*RUN, *MODEL, *DONE)
    seen = {key: ordered(r[key] for r in runs if not pd.isna(r.get(key)) and r[key] != "") for key in keys}
    seen = {key: values for key, values in seen.items() if values}
    conditions = [f"{word} {_range(seen[key])}" for key, word in SHORT.items() if key in seen]
    scales = [*seen.get("min_guidance_scale", [])[:1], *seen.get("max_guidance_scale", [])[-1:]]
    if len(scales) == 2 and all(map(_numeric, scales)):
        least, most = scales
        conditions.append(f"guidance {' to '.join(map(number, ordered([least, most])))}" if most > 1 else "no guidance")
    if steps := seen.get("num_inference_steps"):
        conditions.append(f"{_range(steps)} step{'s' * (steps != [1])}")
    if (samplers := seen.get("scheduler", [])) != [OWN][: len(samplers)]:
        conditions.append(", ".join(map(number, samplers)))
    strengths = _range(seen.get("lora_scale", [1.0]))
    seeds = seen.get("seed", [])
    parts = [
        ", ".join(re.split(r"[\\/]", str(c).rstrip("\\/"))[-1] for c in seen.get("checkpoint", [])),
        f"LoRA {', '.join(map(number, seen['lora']))} at {strengths}" if "lora" in seen else "",
        ", ".join(conditions),
        f"seed{'s' * (len(seeds) > 1)} {_range(seeds)}" if seeds else "",
        *(f"{what}: {', '.join(map(str, seen[what]))}" for what in DONE if what in seen),
        "; ".join(str(file_name(label)) for label in seen.get("label", [])),
    ]
    return printable(" · ".join(filter(None, parts)))


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
            cells = thing[[c for c in (*RUN, *MODEL, *DONE) if c in thing]]
            rows = cells.map(lambda v: v if pd.api.types.is_scalar(v) else str(v)).drop_duplicates().to_dict("records")
            found += [{str(key): value for key, value in row.items()} for row in rows]
        elif hasattr(thing, "call") or hasattr(thing, "calls"):  # a clip, a trace
            found += [_flat(call.asdict()) for call in (thing.calls if hasattr(thing, "calls") else [thing.call])]
        elif hasattr(thing, "checkpoint"):
            found.append({key: getattr(thing, key, "") for key in (*SOURCE, "lora", "lora_scale")})
        elif isinstance(thing, Mapping | Sequence):
            found += records(*(thing.values() if isinstance(thing, Mapping) else thing))
        elif not isinstance(thing, os.PathLike) and not any(hasattr(thing, word) for word in SILENT):
            raise InputError(f"{shown(thing)} is no clip, trace, table of results or text: nothing says what made it.")
    return found


def _flat(call: dict[str, Any]) -> dict[str, Any]:
    start = ", ".join(key.replace("_", " ") for key, value in (call.get("start") or {}).items() if value)
    done = (", ".join(dict.fromkeys(call.get("edits") or ())), call.get("intervention"), start)
    source = {key: call["source"].get(key, "") for key in (*SOURCE, "lora", "lora_scale")}
    sampler = (call.get("sampler") or {}).get("scheduler") or call["conditions"].get("scheduler")
    made = {**call["conditions"], "scheduler": sampler, "seed": call["seed"]}
    return {**made, **source, **dict(zip(DONE, done, strict=True))}


def sources(*things: Any) -> tuple[dict[str, str], ...]:
    """Checkpoint, label and licence of each model that made what the things show, every model once."""
    made = [tuple(printable(run.get(key) or "") for key in SOURCE) for run in records(*things) if run.get("checkpoint")]
    return tuple(dict(zip(SOURCE, values, strict=True)) for values in dict.fromkeys(made))
