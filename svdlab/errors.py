"""What svdlab raises, and the checks of plain values that raise it: one for each kind of value, for every public function.

>>> whole("num_frames", np.int64(25), least=2), number("alpha", 0.05, above=0, below=1), seed("seed", 2**60)
(25, 0.05, 1152921504606846976)
>>> whole("num_frames", True)
Traceback (most recent call last):
svdlab.errors.InputError: num_frames=True: give a whole number, at least 0.

Each message says what came, what is allowed and what to do. Where a caller would catch a builtin (`ValueError`, `OSError`),
the class is also that builtin.
"""

import inspect
import io
import math
import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import partial, wraps
from numbers import Integral, Real
from pathlib import Path
from traceback import walk_stack
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

LONGEST = 255  # bytes of a name that file systems allow


class SvdlabError(Exception):
    """The root: `except svdlab.errors.SvdlabError` catches every error of svdlab's own."""


class InputError(SvdlabError, ValueError):
    """A value that cannot be used: a condition, an image, a manifest, a plan, a parameter."""


class CheckpointError(SvdlabError, OSError):
    """A checkpoint that is missing, gated, incomplete, or in a layout that cannot be loaded."""


class TraceError(SvdlabError, RuntimeError):
    """A hook that cannot capture or change what was asked, or a trace that lacks what is asked of it."""


class OutputError(SvdlabError, OSError):
    """A folder or file that cannot be written or read back."""


class BrokenClipError(SvdlabError, RuntimeError):
    """A clip that came out as NaN or black."""


class MissingExtraError(SvdlabError, ImportError):
    """An optional part that is not installed; the message names the extra."""


class OutOfMemoryError(SvdlabError, MemoryError):
    """Not even one clip fits into memory. clip: what was denoised, where decoding failed."""

    clip: Any = None


class RunError(SvdlabError, RuntimeError):
    """A notebook or an executor's worker that failed; the message says where."""


class SweepInterrupted(SvdlabError, KeyboardInterrupt):
    """A sweep that was asked to stop, after it had finished what was in hand."""


# --- checks -----------------------------------------------------------------------------------------------------------


def shown(value: Any) -> str:
    """A value as a message shows it: in one line, never long.

    >>> shown("x" * 300)[-8:], shown(np.zeros((2, 3)))
    ('xxxx ...', 'ndarray of shape (2, 3)')
    """
    shape = getattr(value, "shape", None)
    if shape:
        return f"{type(value).__name__} of shape {tuple(shape)}"
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # a whole number of thousands of digits
        return f"a very long {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:76]} ..."


def one_line(text: Any) -> str:
    """Text as a terminal may be given it: no control characters, no line but the indented ones of a list of faults.

    >>> one_line("a\\x1b[31m\\nb"), one_line("2 faults:\\n  row 0")
    ('a\\\\x1b[31m\\\\nb', '2 faults:\\n  row 0')
    """
    lines = "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in str(text)).rstrip("\n")
    return lines if all(line.startswith("  ") for line in lines.split("\n")[1:]) else lines.replace("\n", "\\n")


def whole(name: str, value: Any, least: int = 0, most: int | None = None) -> int:
    """A whole number from least to most; numpy's count, truth values and floats do not."""
    found = None if isinstance(value, bool) or not isinstance(value, Integral) else int(value)
    if found is None or found < least or (most is not None and found > most):
        reach = f"at least {least}" if most is None else f"from {least} to {most}"
        raise InputError(f"{name}={shown(value)}: give a whole number, {reach}.")
    return found


def seed(name: str, value: Any) -> int:
    """A seed: a whole number from 0 to 2**63 - 1."""
    return whole(name, value, 0, 2**63 - 1)


def number(
    name: str,
    value: Any,
    least: float = -math.inf,
    most: float = math.inf,
    *,
    above: float = -math.inf,
    below: float = math.inf,
) -> float:
    """A finite number with least <= value <= most and above < value < below. above=0, below=1 for a level or a confidence.

    >>> number("margin", 0.3, above=0)
    0.3
    """
    try:
        found = math.nan if isinstance(value, bool) or not isinstance(value, Real) else float(value)
    except OverflowError:
        found = math.inf
    if not (math.isfinite(found) and least <= found <= most and above < found < below):
        ends = {"at least": least, "at most": most, "above": above, "below": below}
        reach = [f"{words} {end:g}" for words, end in ends.items() if math.isfinite(end)]
        raise InputError(f"{name}={shown(value)}: give a finite number{', ' * bool(reach)}{' and '.join(reach)}.")
    return found


def flag(name: str, value: Any) -> bool:
    """True or False; nothing that merely counts as one of them."""
    if not isinstance(value, bool) and type(value).__name__ not in ("bool_", "bool"):  # numpy's
        raise InputError(f"{name}={shown(value)}: give True or False.")
    return bool(value)


def one_of(name: str, value: Any, options: Iterable[str]) -> str:
    """One of some words."""
    words = list(options)
    if not isinstance(value, str) or value not in words:
        allowed = f"give one of {', '.join(words)}" if words else "nothing can be chosen"
        raise InputError(f"{name}={shown(value)}: {allowed}.")
    return value


def text(name: str, value: Any, least: int = 1) -> str:
    """A text of at least `least` characters, without NUL."""
    if not isinstance(value, str) or len(value) < least or "\0" in value:
        raise InputError(f"{name}={shown(value)}: give a text.")
    return value


def kind(*classes: type) -> Callable[[str, Any], Any]:
    """The check that a value is of one of some classes.

    >>> kind(dict)("margins", {"still": 0.1})
    {'still': 0.1}
    """

    def check(name: str, value: Any) -> Any:
        if not isinstance(value, classes):
            raise InputError(f"{name}={shown(value)}: give a {' or a '.join(cls.__name__ for cls in classes)}.")
        return value

    return check


def path(name: str, value: Any) -> Path:
    """A path, absolute, with `~` expanded; its names may be as long as file systems allow.

    >>> path("out", "~/study") == Path.home() / "study"
    True
    """
    if not isinstance(value, (str, os.PathLike)) or not os.fspath(value) or not isinstance(os.fspath(value), str):
        raise InputError(f"{name}={shown(value)}: give a path as a text or a pathlib.Path.")
    found = Path(value)
    if "\0" in str(found) or any(len(os.fsencode(part)) > LONGEST for part in found.parts):
        raise InputError(f"{name}={shown(value)}: a path has no NUL byte, and no name longer than {LONGEST} bytes.")
    try:
        return Path(os.path.abspath(found.expanduser()))
    except RuntimeError as error:
        raise InputError(f"{name}={shown(value)}: there is no such user's home folder.") from error
    except FileNotFoundError as error:
        text = "the folder that it starts from, where this process works, was deleted or moved: go to another (os.chdir)"
        raise InputError(f"{name}={shown(value)}: {text}.") from error


def folder(name: str, value: Any) -> Path:
    """A folder to write to: one that is there, or can be made where nothing else is in its way. Else OutputError.

    >>> folder("out", "results/study") == Path("results/study").absolute()
    True
    """
    found = path(name, value)
    there = next(place for place in (found, *found.parents) if os.path.lexists(place))
    if not there.is_dir():
        raise OutputError(f"{name} {found} cannot be written: {there} is no folder.")
    if not os.access(there, os.W_OK | os.X_OK) and there != found:  # a finished study may be read only
        raise OutputError(f"{name} {found} cannot be written: {there} is not writable.")
    return found


def several(
    name: str, values: Any, check: Callable[[str, Any], Any], least: int = 1, *, distinct: bool = False
) -> tuple[Any, ...]:
    """A list, tuple, range or array, each of its values checked; a single value is refused, never made a list of one.

    >>> several("seeds", range(3), seed)
    (0, 1, 2)

    distinct: none of them may stand there twice.
    """
    single = isinstance(values, (str, bytes, Mapping, io.IOBase)) or getattr(values, "ndim", 1) == 0  # np.array(3)
    if single or not isinstance(values, Iterable):
        raise InputError(f"{name}={shown(values)}: give a list.")
    try:
        given = tuple(values)
    except TypeError as error:  # an array without dimensions
        raise InputError(f"{name}={shown(values)}: give a list.") from error
    found = tuple(check(name, value) for value in given)
    if len(found) < least:
        raise InputError(f"{name} holds {len(found)} value(s): give at least {least}.")
    if distinct and len(set(found)) < len(found):
        again = next(value for value in found if found.count(value) > 1)
        raise InputError(f"{name} holds {shown(again)} more than once: give each value once.")
    return found


def columns(name: str, table: Any, *names: str, least: int = 1) -> Any:
    """A DataFrame that has the columns named, and at least some rows."""
    if not hasattr(table, "columns") or not hasattr(table, "iloc"):
        raise InputError(f"{name}={shown(table)}: give a DataFrame.")
    if lacking := [column for column in names if column not in table.columns]:
        has = ", ".join(map(str, table.columns)) or "none"
        raise InputError(f"{name} has no column {', '.join(map(repr, lacking))}: it has {has}.")
    if twice := [column for column in names if list(table.columns).count(column) > 1]:
        raise InputError(f"{name} has the column {twice[0]!r} more than once: give each column a name of its own.")
    if len(table) < least:
        raise InputError(f"{name} has {len(table)} row(s): at least {least} needed.")
    return table


def warn(words: str, category: type[Warning] = UserWarning) -> None:
    """A warning at the line outside svdlab that led to it, however many functions of svdlab and torch lie between."""
    stack = [frame.f_globals.get("__name__", "") for frame, _ in walk_stack(inspect.currentframe())]
    own = [i for i, module in enumerate(stack) if module.partition(".")[0] == "svdlab"]
    warnings.warn(words, category, stacklevel=own[-1] + 2)


def takes(**kinds: Callable[[str, Any], Any]) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """A function whose arguments are checked before it runs, each by its kind; it is given what the check returns.

    >>> @takes(seeds=partial(several, check=seed), alpha=LEVEL)
    ... def study(seeds, alpha=None):
    ...     return seeds, alpha
    >>> study(range(2))
    ((0, 1), None)

    kinds: argument to a check with the argument's name and its value. None is not checked where it is the default.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        signature = inspect.signature(function)
        optional = {name for name, parameter in signature.parameters.items() if parameter.default is None}

        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            given = signature.bind(*args, **kwargs)
            for name, check in kinds.items():
                if name in given.arguments and not (given.arguments[name] is None and name in optional):
                    given.arguments[name] = check(name, given.arguments[name])
            return function(*given.args, **given.kwargs)

        return call

    return decorate


COUNT = partial(whole, least=1)
LEVEL = partial(number, above=0, below=1)  # of a test, of confidence
POSITIVE = partial(number, above=0)
LABEL = partial(text, least=0)  # a title, which may be empty
