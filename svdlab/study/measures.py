"""Measures: a module-level function of a clip, with explicit parameters, known by its instrument's source and these.

>>> as_measures(["motion", partial(brightness, frame=0)])      # doctest: +SKIP
>>> [measure.name for measure in as_measures(["motion", "fidelity"])]
['motion', 'fidelity']

A run measured by an earlier text of the instrument, or with other parameters, is measured again; nothing else changes a
measure's identity.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

import svdlab.measure
from svdlab.errors import InputError
from svdlab.measure.files import hash_facts, plain
from svdlab.study.plans import COLUMNS

# Columns of results: a measure of that name would overwrite one.
TAKEN = {*COLUMNS, "run_id", "latents_id", "status", "reason", "fps_id", "image_hash", "checkpoint", "weights", "label"}
TAKEN |= {"licence", "intervention", "seconds", "frames", "preview", "latents", "trace"}
PLAIN = (bool, int, float, str, type(None))


@dataclass(frozen=True)
class Measure:
    """Numbers from a clip: `function(clip, **parameters)`, where it has a parameter `pipe` with the pipeline.

    function: returns a number, a string, None, a list of these, or a dict of such values. A single value is filed under
    `name`, a dict's under name_key. own: the module of svdlab whose numbers these are, which keep their names as columns.
    """

    function: Callable[..., Any]
    name: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    own: str = ""

    @cached_property
    def identity(self) -> str:
        """Hash of the instrument's source and the parameters, defaults included: 24 hex digits."""
        signature = inspect.signature(self.function).parameters
        defaults = {k: p.default for k, p in signature.items() if p.default is not p.empty}
        facts = {"name": self.name, "parameters": plain({**defaults, **self.parameters})}
        return hash_facts({**facts, "source": _source(self.function, self.own)})


def motion(clip: Any) -> dict[str, Any]:
    from svdlab.measure import motion

    return motion.summary(clip.frames, playback_fps=clip.playback_fps)


def fidelity(clip: Any) -> dict[str, Any]:
    from svdlab.measure import fidelity

    return fidelity.summary(clip.frames, clip.image)


def published(clip: Any) -> dict[str, Any]:
    from svdlab.measure import published, video

    return published.summary(clip.frames, clip.image, playback_fps=clip.playback_fps or video.PLAYBACK_FPS)


MEASURES = {f.__name__: Measure(f, f.__name__, own=f"svdlab.measure.{f.__name__}") for f in (motion, fidelity, published)}


def as_measures(wanted: Any) -> tuple[Measure, ...]:
    """Names, functions, `functools.partial`s and Measures as Measures.

    Raises InputError, with what to write instead, for an unknown name, a function that is not known by its source and
    parameters alone (a lambda, a closure, a method), and a name that a column of results has already.
    """
    found: dict[str, Measure] = {}
    for item in wanted if isinstance(wanted, (list, tuple, set)) else [wanted]:
        measure = _as_measure(item)
        if measure.name in found and found[measure.name] != measure:
            raise InputError(f"two measures are called {measure.name!r}: give one another name, Measure(function, 'name').")
        found[measure.name] = measure
    return tuple(found.values())


def _as_measure(item: Any) -> Measure:
    if isinstance(item, str):
        if item not in MEASURES:
            raise InputError(f"unknown measure {item!r}: give {', '.join(MEASURES)}, or a function that takes a Clip.")
        return replace(MEASURES[item])
    if isinstance(item, Measure):
        function, name, parameters = item.function, item.name or getattr(item.function, "__name__", ""), item.parameters
    elif isinstance(item, partial):
        function, name, parameters = item.func, getattr(item.func, "__name__", ""), item.keywords
        if item.args:
            raise InputError(f"measure {name}: give its parameters by name, functools.partial({name}, threshold=0.5).")
    else:
        function, name, parameters = item, getattr(item, "__name__", ""), {}
    if item in MEASURES.values():
        return item
    if not inspect.isfunction(function) or not name.isidentifier() or name in MEASURES:
        raise InputError(
            f"measure {name or type(item).__name__}: give {', '.join(MEASURES)}, or a function with a name of its own "
            f"(def, not a lambda or a method), or functools.partial of one."
        )
    if function.__closure__:
        held = function.__code__.co_freevars
        raise InputError(
            f"measure {name} takes {', '.join(held)} from around it, so results could not be told apart when that changes. "
            f"Make it a parameter: def {name}(clip, {', '.join(held)}): ..., and give functools.partial({name}, "
            f"{', '.join(f'{v}={v}' for v in held)}). The pipeline comes by itself where a parameter is called pipe."
        )
    if name in TAKEN or name.startswith("label_"):
        raise InputError(
            f"measure {name!r} would overwrite the column {name!r} of the results: give the function another name."
        )
    if odd := [k for k, v in parameters.items() if not _is_plain(v)]:
        kind = type(parameters[odd[0]]).__name__
        raise InputError(
            f"measure {name}: {odd[0]} is a {kind}: give numbers, strings, truth values, or lists and dicts of these."
        )
    return Measure(function, name, dict(parameters))


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(k, str) and _is_plain(v) for k, v in value.items())
    if isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.ndim):
        return all(_is_plain(v) for v in value)
    return isinstance(value, (*PLAIN, np.generic, Path)) or (hasattr(value, "tolist") and _is_plain(value.tolist()))


# --- identity ---------------------------------------------------------------------------------------------------------


def _source(function: Callable[..., Any], own: str) -> dict[str, str]:
    """Hashes of the function's text, of its file, of the modules of svdlab that this imports, and of those in svdlab.measure
    that they import in turn. Of a notebook's cells, those functions and values count that it names."""
    path = Path(function.__code__.co_filename)
    try:
        texts = {f"def {function.__qualname__}": inspect.getsource(function)}
        if own:
            queue = [own]
        elif path.is_file():
            texts[path.name] = path.read_text(encoding="utf-8")
            queue = _imported(texts[path.name])
        else:
            queue = _named(function, texts)
    except OSError as error:
        raise InputError(
            f"the source of measure {function.__name__} cannot be read: define it in a file or a cell."
        ) from error
    for name in queue:
        if name not in texts and (source := _file(name)):
            texts[name] = source.read_text(encoding="utf-8")
            queue += _imported(texts[name]) if name.startswith("svdlab.measure.") else []
    return {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}


def _file(name: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:  # a name inside a module
        return None
    return Path(spec.origin) if spec and spec.origin else None


def _imported(text: str) -> list[str]:
    """What of svdlab a source imports, wherever the statement stands."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return _instruments(names)


def _named(function: Any, texts: dict[str, str]) -> list[str]:
    """Puts the functions and plain values that a function names into `texts`; returns the modules of svdlab."""
    codes, names, modules = [function.__code__], set[str](), set[str]()
    for code in codes:
        names |= set(code.co_names)
        codes += [inner for inner in code.co_consts if inspect.iscode(inner)]
    for name in sorted(names & function.__globals__.keys() - texts.keys()):
        value = function.__globals__[name]
        if inspect.ismodule(value):
            modules.add(value.__name__)
        elif inspect.isfunction(value) and value.__module__ == function.__module__:
            texts[name] = inspect.getsource(value)
            modules |= set(_named(value, texts))
        elif inspect.isfunction(value):
            modules.add(value.__module__)
        elif _is_plain(value):
            texts[name] = repr(plain(value))
    return _instruments(modules)


def _instruments(names: Iterable[str]) -> list[str]:
    """The modules of svdlab among some names; for `svdlab` itself, through which all can be reached, all that measure."""
    found = {name for name in names if name.startswith("svdlab.")}
    if "svdlab" in names:
        found |= {f"svdlab.measure.{module.name}" for module in pkgutil.iter_modules(svdlab.measure.__path__)}
    return sorted(found)


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
                if not _is_plain(value):
                    raise InputError(
                        f"{key} is a {type(value).__name__}: give numbers, strings, truth values, None or lists of these."
                    )
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
