"""What the statistics promise, on a few simulated studies; `tests/validate/test_validate_stats.py` makes the whole table.

A rate of a few hundred studies is judged by its exact binomial interval: a row fails where even that lies outside the promise.
Narrow intervals and liberal tests, as they were before, do.
"""

import numpy as np
import pytest

from svdlab.stats import intervals, mean_interval
from tools import validate_stats as vs


@pytest.mark.parametrize(
    "only",
    [
        "coverage: 24 images x 2 shared seeds, seed share 0.2",  # case F14
        "coverage: 24 images x 2 shared seeds, seed share 0",
        "coverage: 12 images x 4 shared seeds, seed share 0",
        "coverage: 16 images x 4 shared seeds, seed share 0.2, 15 %",
        "coverage: 24 images x 2 seeds of their own, seed share 0.2",
        "type I error: 8 pairs, lognormal, sigma 1",  # case F15
        "type I error: 20 pairs, lognormal, sigma 1",
        "type I error: 12 pairs, normal",
        "called equivalent at the margin: 12 pairs, normal",  # case F16
        "called equivalent at the margin: 8 pairs, lognormal, sigma 1",
        "called equivalent at the margin: 20 pairs, lognormal, sigma 1",
    ],
)
def test_a_promise_holds(only: str) -> None:
    table = vs.validate(repeats=300, only=only)
    assert len(table) and table.passed.all(), table.to_string()


def test_studies_of_disjoint_images_find_nothing_and_a_confounder_that_is_there_is_found() -> None:
    """Case F19: no label is swapped."""
    table = vs.validate(studies=25, only="A/A studies that find any effect: 12")
    assert len(table) == 2 and table.passed.all()
    assert vs.validate(studies=10, only="control").rate[0] > 0.5


def test_the_simulation_catches_what_was_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals of images alone (0.64 where seeds have a fifth of the variance), and p of sign flips alone."""
    only_images = lambda table: mean_interval(table.mean(axis=1).to_numpy())
    monkeypatch.setattr(vs, "mean_interval", only_images)
    assert not vs.validate(repeats=200, only="coverage: 24 images x 2 shared seeds, seed share 0.2").passed.any()
    rng = np.random.default_rng(0)
    p = [intervals.permutation_p(vs.DIFFERENCES["lognormal, sigma 1"](rng, 8)) for _ in range(400)]
    assert np.mean(np.array(p) < 0.05) > 0.1
