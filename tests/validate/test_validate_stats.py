"""The table docs/statistics.csv: every promise of the statistics, at full size."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tools import validate_stats
from tools.validate_stats import FULL, STUDIES

TABLE = Path(__file__).parents[2] / "docs" / "statistics.csv"


def test_the_committed_table_has_every_case_and_keeps_every_promise_but_those_named() -> None:
    table = pd.read_csv(TABLE)
    assert [*zip(table.what, table.n, strict=True)] == [case[:2] for case in validate_stats.cases(FULL, STUDIES)]
    assert not validate_stats.unexpected(table)
    failed = table.what[~table.passed].tolist()
    assert all(any(what.endswith(name) for what in failed) for name in validate_stats.BEYOND)  # no excuse without a need
    at_margin = table[table.what.str.startswith("called equivalent")]
    assert (np.sqrt(0.055 * 0.945 / at_margin.n) < 0.0015).all()


@pytest.mark.validate
def test_every_promise_but_those_named_holds_at_full_size() -> None:
    table = validate_stats.validate()
    print(table.to_string())
    assert not validate_stats.unexpected(table)
