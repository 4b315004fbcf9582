"""The texts that a measure's numbers come from: its source, the functions, classes and values that it names, their files.

>>> from svdlab.measure import motion
>>> list(source(motion.summary, whole=False))[:1]              # and of svdlab.measure what these name, by the file's name
['']
"""

import inspect
import io
import os
import re
import sys
import sysconfig
import tokenize
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import is_dataclass
from functools import lru_cache, partial
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace
from typing import Any

import numpy as np

from svdlab.errors import InputError
from svdlab.measure import video
from svdlab.measure.files import plain

# Folders of what is installed, and of svdlab, whose measures are found by name: no code of the user's own.
INSTALLED = tuple(f"{sysconfig.get_path(name)}{os.sep}" for name in ("stdlib", "purelib", "platlib"))
INSTALLED += (f"{Path(video.__file__).parents[1]}{os.sep}",)


def source(function: Any, whole: bool) -> dict[str, str]:
    """The function's text and, with whole, its file's; and the files that these name by a word of their code, and so on: in
    svdlab.measure and, with whole, beside the function's, and the user's modules that they come from. One too many is
    harmless: it is measured once more."""
    enclosed = _enclosed(function) if whole else []
    function = inspect.unwrap(function)
    path, folders = Path(function.__code__.co_filename), [Path(video.__file__).parent]
    try:
        texts = {"": "\n".join([*_cell(function, set()), *enclosed])}
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
    if whole:
        seen = {str(path), *(str(files[name]) for name in texts.keys() & files.keys())}
        texts |= _modules(_words(texts[""]), function.__globals__, seen)
    return texts


def _modules(words: Iterable[str], space: Mapping[str, Any], seen: set[str]) -> dict[str, str]:
    """The sources of the user's own modules from which what these words name in a namespace comes, and so on."""
    texts: dict[str, str] = {}
    for name in sorted(set(words) & space.keys()):
        value = space[name]
        module = value if inspect.ismodule(value) else sys.modules.get(str(getattr(value, "__module__", "")))
        file = str(getattr(module, "__file__", None) or "")
        if file.endswith(".py") and not file.startswith(INSTALLED) and file not in seen:
            seen.add(file)
            texts[f"{name}.py"] = text = Path(file).read_text(encoding="utf-8")
            texts |= _modules({*words, *_words(text)}, vars(module), seen)
    return texts


def _enclosed(function: Any) -> list[str]:
    """The plain values and the text that a decorator's wrapper holds: its function's own text does not name them."""
    found: list[str] = []
    while hasattr(function, "__wrapped__"):
        code = getattr(function, "__code__", None)
        if code is not None and not code.co_filename.startswith(INSTALLED):
            found.append(dedent(inspect.getsource(code)))
            cells = zip(code.co_freevars, function.__closure__ or (), strict=True)
            found += [f"{name} = {plain(c.cell_contents)!r}" for name, c in cells if is_plain(c.cell_contents)]
        function = function.__wrapped__
    return found


def _cell(function: Any, seen: set[str]) -> list[str]:
    """A function's text, with the functions, classes and values that it names, and where others come from."""
    function = inspect.unwrap(function)  # what `errors.takes` encloses
    own = {name: plain(value) for name, value in vars(function).items() if is_plain(value)}
    texts = [dedent(inspect.getsource(function)), *([repr(own)] if own else [])]
    for name in sorted(_words(texts[0]) & function.__globals__.keys() - seen):
        seen.add(name)
        value = function.__globals__[name]
        if isinstance(value, partial):
            texts, value = [*texts, _told((value.args, value.keywords))], value.func
        value = inspect.unwrap(value) if callable(value) else value  # of functools.lru_cache
        near = getattr(value, "__module__", "") == function.__module__
        if inspect.isfunction(value) and near:
            texts += _cell(value, seen)
        elif inspect.ismodule(value) or inspect.isfunction(value):
            texts.append(f"import {getattr(value, '__module__', value.__name__)}")
        elif not inspect.isclass(value):
            texts.append(f"{name} = {_told(value)}")
        elif near:
            texts.append(f"{name} = {_told({k: v for k, v in vars(value).items() if k[:2] != '__'})}")
            for method in filter(inspect.isfunction, vars(value).values()):
                with suppress(OSError):  # a dataclass's own
                    texts += _cell(method, seen)
    return texts


def _told(value: Any) -> str:
    """A value as the same text in every process; of an unknown kind its class alone."""
    if is_plain(value):
        return repr(plain(value))
    if isinstance(value, Mapping):
        return repr(sorted((_told(key), _told(each)) for key, each in value.items()))
    if isinstance(value, (list, tuple, set, frozenset)):
        texts = map(_told, value)
        return repr(sorted(texts) if isinstance(value, (set, frozenset)) else list(texts))
    if is_dataclass(value) or isinstance(value, SimpleNamespace):
        return _told(vars(value))
    return repr(value) if isinstance(value, (int, complex, bytes, range, slice, re.Pattern)) else type(value).__qualname__


@lru_cache
def _words(text: str) -> frozenset[str]:
    """The names in a source, not what stands in its strings and comments."""
    return frozenset(t.string for t in tokenize.generate_tokens(io.StringIO(text).readline) if t.type == tokenize.NAME)


def is_plain(value: Any) -> bool:
    """Whether a value is one that JSON holds, or a list or dict of such."""
    if isinstance(value, Mapping):
        return all(isinstance(k, str) and is_plain(v) for k, v in value.items())
    if isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.ndim):
        return all(is_plain(v) for v in value)
    if isinstance(value, int) and abs(value) >= 2**63:  # no column holds it
        return False
    kinds = (bool, int, float, str, type(None), np.generic, Path)
    listed = hasattr(value, "tolist") and not inspect.isclass(value)
    return isinstance(value, kinds) or (listed and is_plain(value.tolist()))
