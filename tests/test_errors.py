"""The checks of plain values: what each kind takes, and that nothing else passes."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from svdlab import errors

ODD = [None, True, "7", "", [], {}, math.nan, math.inf, -1, 1.5, 10**40, 10**5000]
ODD += [np.zeros(2), object(), pd.NA, 1j]


SEED = r"^seed=.*: give a whole number, from 0 to 9223372036854775807\.$"
LEVEL = r"alpha=.*: give a finite number, above 0 and below 1\."
REFUSED = [(errors.seed, "seed", value, SEED) for value in ODD]
REFUSED += [(errors.LEVEL, "alpha", value, LEVEL) for value in [*ODD, 0, 1, 2]]
PATHS = [None, 7, "", b"x", "a\0b", "x" * 300, ["a"], math.nan, "~nobody-of-that-name/x"]
REFUSED += [(errors.path, "out", value, "^out=") for value in PATHS]
REFUSED += [(errors.flag, "quick", value, "give True or False") for value in (0, 1, "yes", None, [], np.zeros(2))]


@pytest.mark.parametrize(("check", "name", "value", "said"), REFUSED, ids=range(len(REFUSED)))
def test_what_is_not_of_a_kind_is_refused(check: Any, name: str, value: Any, said: str) -> None:
    with pytest.raises(errors.InputError, match=said):
        check(name, value)


@pytest.mark.parametrize("value", [0, 2**53 + 1, np.int64(7), np.uint8(3)])
def test_numbers_of_every_library_are_taken_and_seeds_keep_every_digit(value: Any) -> None:
    assert errors.seed("seed", value) == int(value) and type(errors.seed("seed", value)) is int
    assert errors.LEVEL("alpha", np.float32(0.5)) == 0.5 and errors.flag("quick", np.bool_(True)) is True


def test_a_path_becomes_absolute_and_its_home_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert errors.path("out", "a/../b") == tmp_path / "b" and errors.path("out", Path("~/x")) == tmp_path / "home/x"
    assert errors.path("out", "12:30") == tmp_path / "12:30"
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(errors.InputError, match="where this process works, was deleted or moved"):
        errors.path("out", "results")


def test_lists_tables_and_words_are_checked_by_name() -> None:
    assert errors.several("seeds", np.arange(3), errors.seed) == (0, 1, 2)
    for values in (0, "012", None, [], [0, -1]):
        with pytest.raises(errors.InputError, match=r"^seeds"):
            errors.several("seeds", values, errors.seed)
    table = pd.DataFrame({"a": [1.0]})
    assert errors.columns("clips", table, "a") is table
    for wrong, words in ((table, "has no column 'b'"), (table.iloc[:0], "0 row"), ({"b": 1}, "give a DataFrame")):
        with pytest.raises(errors.InputError, match=words):
            errors.columns("clips", wrong, *(() if len(wrong) == 0 else ("b",)))
    with pytest.raises(errors.InputError, match=r"kind='wave': give one of pan, zoom\."):
        errors.one_of("kind", "wave", ("pan", "zoom"))


def test_a_message_is_one_short_line() -> None:
    for value in ("x\n\x1b[31m" * 400, np.zeros((900, 900)), [list(range(999))] * 9):
        assert len(errors.shown(value)) < 100 and "\n" not in errors.shown(value) and "\x1b" not in errors.shown(value)


def test_arguments_are_checked_by_kind_before_the_function_runs() -> None:
    ran = []

    @errors.takes(out=errors.path, n=errors.COUNT, alpha=errors.LEVEL)
    def study(out: Any, n: int = 1, *, alpha: float | None = None) -> Any:
        """Words."""
        ran.append(out)
        return out, n, alpha

    assert study("x", 2, alpha=0.1) == (Path("x").absolute(), 2, 0.1) and study(out="x")[1:] == (1, None)
    ran.clear()
    for wrong in (dict(out=7), dict(out="x", n=0), dict(out="x", n=None), dict(out="x", alpha=1)):
        with pytest.raises(errors.InputError):
            study(**wrong)
    assert ran == [] and study.__doc__ == "Words."
