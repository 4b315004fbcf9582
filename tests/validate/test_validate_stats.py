"""The table docs/statistics.csv: every promise of the statistics, at full size."""

from pathlib import Path

import pandas as pd
import pytest

from tools import validate_stats

TABLE = Path(__file__).parents[2] / "docs" / "statistics.csv"


def test_the_committed_table_has_every_case_and_keeps_every_promise() -> None:
    table = pd.read_csv(TABLE)
    assert table.what.tolist() == [case[0] for case in validate_stats.cases(1)]
    assert table.passed.all() and (table.n >= 1000).all()


@pytest.mark.validate
def test_every_promise_holds_at_full_size() -> None:
    table = validate_stats.validate()
    print(table.to_string())
    assert table.passed.all()
