"""Every public function with odd values for each of its arguments: an SvdlabError before any model runs, or a reason.

`pytest tests/test_bad_calls.py -s` prints how many calls were refused, failed otherwise, or were accepted with which reason.
"""

import contextlib
import inspect
import io
import json
import math
import signal
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest

from svdlab.errors import SvdlabError
from tests.calls import GROUPS, Target, make

LONGEST = 20  # s of a call, of computing: on a busy machine the clock on the wall tells nothing
WAIT = 300  # s of a call, on the wall: one that waits for ever computes nothing
# Why a call that is not refused is right: by "function(argument)", else by argument. True where the argument is True or False
# needs no reason.
RIGHT: dict[str, dict[str, str]] = json.loads(Path(__file__).with_name("right.json").read_text())


def odd_values(folder: Path) -> dict[str, Any]:
    """What people, tools and attackers hand over by mistake or on purpose."""
    closed = io.BytesIO()
    closed.close()
    return {
        "nan": math.nan,
        "inf": math.inf,
        "negative": -1,
        "True": True,
        "text": "text",
        "None": None,
        "empty text": "",
        "empty list": [],
        "huge": 10**30,
        "wrong shape": np.zeros((2, 3)),
        "wrong dtype": np.array([object()]),
        "closed file": closed,
        "directory": folder,
        "NUL": "a\0b",
        "long": "x" * 300,
        "dict": {},
    }


@pytest.fixture(scope="module")
def made(pipe: Any, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    return make(pipe, tmp_path_factory.mktemp("calls"))


@contextlib.contextmanager
def counted(pipe: Any) -> Iterator[list[int]]:
    """How often a part of the model ran."""
    runs: list[int] = []
    parts = (pipe.unet, pipe.vae.encoder, pipe.vae.decoder, pipe.image_encoder)
    hooks = [part.register_forward_pre_hook(lambda *_: runs.append(1)) for part in parts]
    try:
        yield runs
    finally:
        for hook in hooks:
            hook.remove()


def attack(pipe: Any, function: Callable[..., Any], arguments: dict[str, Any]) -> str:
    """What came of a call: "refused", "late" (after a model ran), "accepted", or the error's name."""

    def too_long(*_: Any) -> None:
        raise TimeoutError(f"no answer in {LONGEST} s of computing or {WAIT} s of waiting")

    with counted(pipe) as runs, warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        before = {number: signal.signal(number, too_long) for number in (signal.SIGPROF, signal.SIGALRM)}
        signal.setitimer(signal.ITIMER_PROF, LONGEST)
        signal.alarm(WAIT)
        try:
            function(**arguments)
        except SvdlabError:
            return "late" if runs else "refused"
        except BaseException as error:
            return f"{type(error).__name__}: {' '.join(str(error).split())[:80]!r}"
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.alarm(0)
            for number, handler in before.items():
                signal.signal(number, handler)
            plt.close("all")
    return "accepted"


def is_default_none(function: Callable[..., Any], argument: str) -> bool:
    parameter = inspect.signature(function).parameters.get(argument)
    return parameter is not None and parameter.default is None


def reason(name: str, argument: str, odd: str, usual: Any) -> str:
    """Why it is right that a call was accepted; empty where nobody has said."""
    if odd == "True" and isinstance(usual, bool):
        return "a flag"
    return RIGHT.get(f"{name}({argument})", RIGHT.get(argument, {})).get(odd, "")


@pytest.mark.parametrize("group", GROUPS)
def test_odd_values_are_refused_or_right(
    group: Callable[[SimpleNamespace], dict[str, Target]], made: SimpleNamespace, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    for name, (function, given) in group(made).items():
        for argument, usual in given.items():
            for odd, value in odd_values(tmp_path).items():
                if odd == "None" and is_default_none(function, argument):
                    continue  # the usual call without the argument, which other tests make
                outcome = attack(made.pipe, function, {**given, argument: value})
                why = reason(name, argument, odd, usual) if outcome == "accepted" else ""
                kind = outcome if outcome in ("refused", "late", "accepted") else "other error"
                counts[kind if not why else f"accepted: {why}"] += 1
                if kind != "refused" and not why:
                    wrong.append(f"{name}({argument}={odd}): {outcome}")
    print(f"\n{group.__name__}: {sum(counts.values())} calls: {dict(counts)}", *wrong, sep="\n")
    assert not wrong, f"{len(wrong)} calls are neither refused nor right"
