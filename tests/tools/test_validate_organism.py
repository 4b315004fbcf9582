"""Comparing the fine-tuned organism with its base: what differs is found, and what does not is not."""

import numpy as np
import pandas as pd
import pytest

from svdlab.errors import InputError
from svdlab.organism import world
from svdlab.probes.verify import COLUMNS
from tools.validate_organism import compare_fixed, fixed_rows, into_card, scenes_of


def table(rows: list) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=COLUMNS)


def clips_of_two(slope: float, spread: float, seed: int) -> pd.DataFrame:
    """Measurements of the two blocks of `compare_fixed` with a known slope and a known spread between seeds."""
    rng = np.random.default_rng(seed)
    blocks = [scenes_of(b, 160).factors.assign(block=b) for b in ("fixed", "away")]
    factors = pd.concat(blocks, ignore_index=True)
    law = world.law(factors.fps, factors.motion_bucket_id)
    return factors.assign(law=law, measured=law * (slope + spread * rng.standard_normal(len(factors))))


def test_compare_fixed_finds_what_differs_and_not_what_does_not():
    a, b = clips_of_two(0.9, 0.05, 1), clips_of_two(0.9, 0.15, 2)
    a.loc[a.block == "away", "measured"] *= 1.3
    a.loc[3, "measured"] = np.nan  # a lost sprite costs its own clip, in both
    rows = table(fixed_rows(a, b, "tuned", "base")).set_index("what")
    assert rows.measured["fixed: tuned: slope on the law"] == pytest.approx(0.9, abs=0.02)
    assert rows.passed["fixed: tuned: slope on the law"]
    assert rows.measured["fixed: base: spread over seeds, of the law"] == pytest.approx(0.15, abs=0.02)
    told = rows[rows.index.str.contains("difference")]
    assert told.low["fixed: difference: slope on the law"] < 0 < told.high["fixed: difference: slope on the law"]
    assert told.high["fixed: difference: spread over seeds, of the law"] < -0.05
    assert told.low["away: difference: slope on the law"] > 0.2
    assert set(rows.n) == {40}


def test_compare_fixed_fails_where_the_law_is_lost():
    rows = table(fixed_rows(clips_of_two(0.7, 0.1, 1), clips_of_two(0.9, 0.1, 2), "tuned", "base"))
    assert not rows.set_index("what").passed["fixed: tuned: slope on the law"]


def test_compare_fixed_refuses_too_few_clips_before_any_is_made():
    with pytest.raises(InputError, match="n=4: give at least 8"):
        compare_fixed(n=4)


def test_a_table_takes_its_own_place_in_the_card(tmp_path):
    card = tmp_path / "card.md"
    card.write_text("# Card\n\ntext\n")
    laws = table([("law", 0.98765, float("nan"), 1.0, 12, ">= 0.97", True)])
    into_card(laws, "Verification", "svdlab organism verify", card)
    into_card(laws.assign(passed=False), "Verification", "svdlab organism verify", card)
    text = card.read_text()
    assert text.startswith("# Card") and text.count("## Verification") == 1
    assert "| law | 0.988 |  | 1 | 12 | >= 0.97 | **no** |" in text
