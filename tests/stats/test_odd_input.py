"""What statistics make of odd input: one plain refusal, or a result that claims nothing. Never a wrong number."""

import math
import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest

from svdlab import stats
from svdlab.errors import InputError
from svdlab.stats import effects as ef

TABLE = pd.DataFrame({"stimulus": list("abcdefgh"), "seed": 0, "x": np.arange(8.0), "fps": [6, 12] * 4, "word": "still"})
NAMED: dict[str, Any] = dict(key="x", what="x", unit="px")


def mean(table: pd.DataFrame, column: str = "x", **how: Any) -> stats.Effect:
    return stats.mean("x", "x", table, column, unit="px", **how)


@pytest.mark.parametrize(
    "call",
    [
        # case E8: a level, a confidence, a margin, a count that is none
        lambda: stats.paired(**NAMED, differences=[1.0, 2.0], alpha=0),
        lambda: stats.paired(**NAMED, differences=[1.0, 2.0], alpha=2),
        lambda: stats.paired(**NAMED, differences=[1.0, 2.0], margin=math.inf),
        lambda: stats.paired(**NAMED, differences=[1.0, 2.0], seeds=1.5),
        lambda: stats.paired(**NAMED, differences=[1.0, math.inf]),
        lambda: stats.t_interval([1.0, 2.0], confidence=-1),
        lambda: stats.proportion(math.nan, 3),
        lambda: stats.proportion(2, math.inf),
        lambda: stats.detectable(10, alpha=0),
        lambda: stats.mean_interval(range(25), confidence=1.0),
        lambda: stats.images_needed(0.0),
        lambda: stats.images_needed(0.1, tests=0),
        lambda: stats.cells("x", "x", TABLE, reference={}),
        lambda: stats.cells("x", "x", TABLE, reference={"fps": -1}),
        lambda: stats.paired(**NAMED, differences=pd.DataFrame({0: ["a", "b"]})),
        lambda: mean(TABLE, margin=math.nan),
        lambda: mean(TABLE, null=math.inf),
        lambda: stats.share("x", "x", TABLE.assign(x=1.0), margin=1.5),
        # its neighbours: values of another kind
        lambda: stats.fdr(["0.1", "0.2"]),
        lambda: stats.fdr(0.1),
        lambda: stats.permutation_p([1j, 2.0]),
        lambda: stats.t_interval([1.0, 1e200]),
        lambda: stats.clustered_proportion([7.0, 1.0], 8),
        lambda: stats.share("x", "x", TABLE),
        lambda: stats.ratio("x", "x", TABLE.assign(x=-1.0), unit="", margin=0.1),
        lambda: stats.corrected("effects"),
        lambda: stats.as_table([1.0]),
        lambda: stats.variance_shares(TABLE, "x", ["stimulus", "stimulus"]),
        # tables that would have been read as something else
        lambda: mean(TABLE, "word"),
        lambda: mean(TABLE.assign(x=[[1.0]] * 8)),
        lambda: mean(TABLE.assign(x=pd.Timestamp(0))),
        lambda: mean(TABLE.drop(columns="stimulus")),
        lambda: mean(TABLE.assign(stimulus=[None, *"bcdefgh"])),
        lambda: mean(TABLE.assign(stimulus=[["a"]] * 8)),
        lambda: mean(TABLE.set_axis(["stimulus", "seed", "x", "x", "word"], axis=1)),
        lambda: stats.difference("x", "x", TABLE, by="word"),
        lambda: stats.difference("x", "x", TABLE, by="fps", levels="ab"),  # type: ignore[arg-type]
        lambda: stats.difference("x", "x", TABLE.assign(fps=[1, "a"] * 4), by="fps"),
        lambda: stats.dose_response(TABLE.assign(image=TABLE.stimulus), "fps", "word"),
        lambda: stats.dose_response(TABLE.assign(image=TABLE.stimulus, fps=[1, math.inf] * 4), "fps", "x"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(call: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InputError) as caught:
            call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("rows", [0, 1])
def test_nothing_and_a_single_image_are_too_few(rows: int) -> None:
    few = TABLE.head(rows)
    found = [
        mean(few),
        stats.share("x", "x", few.assign(x=True), margin=0.1),
        stats.ratio("x", "x", few, unit="", margin=0.1),
        stats.paired(**NAMED, differences=few["x"], margin=1.0),
        mean(TABLE.assign(x=[1.0] * rows + [None] * (8 - rows))),
    ]
    assert [(e.n, e.verdict) for e in found] == [(rows, ef.TOO_FEW)] * 5
    assert all(math.isnan(e.p) for e in found)
    assert len(stats.as_table(stats.corrected(found))) == 5


def test_constant_values_give_an_interval_without_width() -> None:
    for n in (8, 25):
        same = TABLE.loc[[0] * n].assign(stimulus=range(n), x=0.3)
        found = mean(same)
        assert (found.low, found.high) == (pytest.approx(0.3), pytest.approx(0.3))
        assert mean(same.assign(x=0.0)).verdict == ef.INCONCLUSIVE
    assert (
        stats.variance_shares(TABLE.assign(x=1.0, seed=[0, 1] * 4, fps=[1, 1, 2, 2] * 2), "x", ["seed", "fps"])
        .share.isna()
        .all()
    )
    assert stats.detectable(2) > 1


@pytest.mark.parametrize("n", [8, 25])
def test_values_that_differ_by_rounding_alone_are_no_effect_of_a_missing_interval(n: int) -> None:
    x = [0.3] * (n - 1) + [np.nextafter(0.3, 1)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        found = mean(TABLE.loc[[0] * n].assign(stimulus=range(n), x=x), null=0.3, margin=0.01)
    assert math.isfinite(found.low) and math.isfinite(found.high)
    assert found.verdict == ef.EQUIVALENT


def test_what_is_left_out_is_counted() -> None:
    odd = TABLE.assign(x=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, math.inf, None])
    assert (mean(odd).n, mean(odd).value) == (6, 3.5)
    assert stats.paired(**NAMED, differences=[1.0, math.nan, 2.0]).n == 2
    assert np.isnan(stats.fdr([0.1, math.nan])[1])
    assert mean(TABLE.assign(x=TABLE.x.astype("Int64").mask(TABLE.x > 5))).n == 6
