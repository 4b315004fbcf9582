"""The table behind what the README says of the bias study, at full size: hundreds of clips."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tools import validate_bias


@pytest.mark.validate
def test_planted_effects_are_found_nulls_are_not_and_error_rates_hold(pipe: Any, tmp_path: Path) -> None:
    table = validate_bias.validate(pipe, tmp_path)
    print(table.to_string())
    assert table.passed.all()
