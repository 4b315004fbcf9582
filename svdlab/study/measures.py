"""Measures: a module-level function of a clip, with explicit parameters, known by its instrument's source and these.

>>> as_measures(["motion", partial(brightness, frame=0)])      # doctest: +SKIP
>>> [measure.name for measure in as_measures(["motion", "fidelity"])]
['motion', 'fidelity']

A run measured by an earlier text of the instrument, or with other parameters, is measured again; a new version of svdlab
alone changes nothing.
"""

from __future__ import annotations

import inspect
import io
import tokenize
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np

import svdlab.measure
from svdlab.errors import InputError
from svdlab.measure.files import hash_facts, plain
from svdlab.study.plans import COLUMNS

# Columns of results: a measure of that name would overwrite one.
TAKEN = {*COLUMNS, "run_id", "status", "reason", "fps_id", "image_hash", "checkpoint", "weights", "label"}
TAKEN |= {"licence", "intervention", "seconds", "frames", "preview", "latents", "trace"}


@dataclass(frozen=True)
class Measure:
    """Numbers from a clip: `function(clip, **parameters)`, where it has a parameter `pipe` with the pipeline.

    function: returns a number, a string, None, a list of these, or a dict of such values. A single value is filed under
    `name`, a dict's under name_key. own: one of svdlab's, whose numbers keep their names as columns.
    """

    function: Callable[..., Any]
    name: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    own: bool = False

    @cached_property
    def identity(self) -> str:
        """Hash of the instrument's source and the parameters, defaults included: 24 hex digits."""
        signature = inspect.signature(self.function).parameters
        defaults = {k: p.default for k, p in signature.items() if p.default is not p.empty}
        facts = {"name": self.name, "parameters": {**defaults, **self.parameters}}
        return hash_facts({**facts, "source": _source(self.function, whole=not self.own)})


def motion(clip: Any) -> dict[str, Any]:
    from svdlab.measure import motion

    return motion.summary(clip.frames, playback_fps=clip.playback_fps)


def fidelity(clip: Any) -> dict[str, Any]:
    from svdlab.measure import fidelity

    return fidelity.summary(clip.frames, clip.image)


def published(clip: Any) -> dict[str, Any]:
    from svdlab.measure import published, video

    return published.summary(clip.frames, clip.image, playback_fps=clip.playback_fps or video.PLAYBACK_FPS)


OWN = {function.__name__: function for function in (motion, fidelity, published)}


def as_measures(wanted: Any) -> tuple[Measure, ...]:
    """Names, functions, `functools.partial`s and Measures as Measures.

    Raises InputError, with what to write instead, for an unknown name, a function that is not known by its source and
    parameters alone (a lambda, a closure, a method), and a name that a column of results has already.
    """
    found: dict[str, Measure] = {}
    for item in wanted if isinstance(wanted, (list, tuple, set)) else [wanted]:
        measure = _as_measure(item)
        if found.setdefault(measure.name, measure).identity != measure.identity:
            raise InputError(f"two measures are called {measure.name!r}: give one another name, Measure(function, 'name').")
    return tuple(found.values())


def _as_measure(item: Any) -> Measure:
    if isinstance(item, str) and item in OWN:
        return Measure(OWN[item], item, own=True)
    given = item
    if isinstance(item, partial) and not item.args:
        given = Measure(item.func, parameters=item.keywords)
    elif not isinstance(item, Measure):
        given = Measure(item)
    function, name = given.function, given.name or getattr(given.function, "__name__", "")
    if given.own:
        return given
    if not inspect.isfunction(function) or not name.isidentifier() or name in OWN:
        raise InputError(
            f"measure {name or item!r}: give {', '.join(OWN)}, or a function with a name of its own (def, not a lambda or a "
            f"method), or a functools.partial of one with its parameters by name."
        )
    if held := function.__code__.co_freevars:
        raise InputError(
            f"measure {name} takes {', '.join(held)} from around it, so results could not be told apart when that changes. "
            f"Make it a parameter: def {name}(clip, {', '.join(held)}): ..., and give functools.partial({name}, "
            f"{', '.join(f'{v}={v}' for v in held)}). The pipeline comes by itself where a parameter is called pipe."
        )
    if name in TAKEN or name.startswith("label_"):
        raise InputError(f"measure {name!r} would overwrite the column {name!r} of the results: give it another name.")
    for key, value in given.parameters.items():
        _check_plain(f"measure {name}: {key}", value)
    return Measure(function, name, dict(given.parameters))


def _check_plain(what: str, value: Any) -> None:
    if not _is_plain(value):
        raise InputError(f"{what} is a {type(value).__name__}: give numbers, strings, truth values, None or lists of these.")


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(k, str) and _is_plain(v) for k, v in value.items())
    if isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.ndim):
        return all(_is_plain(v) for v in value)
    kinds = (bool, int, float, str, type(None), np.generic, Path)
    return isinstance(value, kinds) or (hasattr(value, "tolist") and _is_plain(value.tolist()))


# --- identity ---------------------------------------------------------------------------------------------------------


def _source(function: Any, whole: bool) -> dict[str, str]:
    """The function's text and, with whole, its file's; and the files that these name by a word of their code, and so on: in
    svdlab.measure and, with whole, beside the function's. One too many is harmless: it is measured once more."""
    path, folders = Path(function.__code__.co_filename), [Path(svdlab.measure.__path__[0])]
    try:
        texts = {"": "\n".join(_cell(function, set()))}
        if whole and path.is_file():
            texts[""] += path.read_text(encoding="utf-8")
            folders.append(path.parent)
    except OSError as error:
        raise InputError(f"measure {function.__name__} has no source: define it in a file or a cell.") from error
    files = {file.stem: file for folder in folders for file in folder.glob("*.py") if file.stem != "__init__"}
    queue = [texts[""]]
    for text in queue:
        for name in _words(text) & files.keys() - texts.keys():
            texts[name] = files[name].read_text(encoding="utf-8")
            queue.append(texts[name])
    return texts


def _cell(function: Any, seen: set[str]) -> list[str]:
    """A function's text, with the functions and plain values that it names, and where others come from."""
    texts = [dedent(inspect.getsource(function))]
    for name in sorted(_words(texts[0]) & function.__globals__.keys() - seen):
        seen.add(name)
        value = function.__globals__[name]
        if inspect.isfunction(value) and value.__module__ == function.__module__:
            texts += _cell(value, seen)
        elif inspect.ismodule(value) or inspect.isfunction(value):
            texts.append(f"import {getattr(value, '__module__', value.__name__)}")
        elif _is_plain(value):
            texts.append(f"{name} = {plain(value)!r}")
    return texts


@lru_cache
def _words(text: str) -> frozenset[str]:
    """The names in a source, not what stands in its strings and comments."""
    return frozenset(t.string for t in tokenize.generate_tokens(io.StringIO(text).readline) if t.type == tokenize.NAME)


# --- measuring --------------------------------------------------------------------------------------------------------


def measure_clip(clip: Any, measures: Iterable[Measure], pipe: Any) -> dict[str, Any]:
    """What run.json holds of each measure: its identity and values, and the error of one that raised."""
    found: dict[str, Any] = {}
    for measure in measures:
        entry: dict[str, Any] = {"identity": measure.identity, "values": {}}
        try:
            given = {"pipe": pipe} if "pipe" in inspect.signature(measure.function).parameters else {}
            values = measure.function(clip, **given, **measure.parameters)
            if not isinstance(values, Mapping):
                values = {measure.name: values}
            elif not measure.own:
                values = {f"{measure.name}_{key}": value for key, value in values.items()}
            for key, value in values.items():
                _check_plain(key, value)
                if key in TAKEN or any(key in other["values"] for other in found.values()):
                    raise InputError(f"{key!r} is a column already.")
            entry["values"] = {str(key): plain(value) for key, value in values.items()}
        except Exception as error:  # a user's function: whatever it raises, the clip is good, and the others go on
            entry["error"] = f"{type(error).__name__}: {error}"
        found[measure.name] = entry
    return found


def missing_measures(record: Mapping[str, Any], measures: Iterable[Measure], *, retry_failed: bool = False) -> list[Measure]:
    """Those that a run lacks: not there, of another identity, or (where failures are tried again) failed."""
    held = record["measures"]
    return [
        m for m in measures if held.get(m.name, {}).get("identity") != m.identity or (retry_failed and "error" in held[m.name])
    ]
