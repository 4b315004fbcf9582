"""The forest: every effect in its own unit, inside the axis, and a footer that claims only what is drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from svdlab.errors import InputError
from svdlab.show import forest
from svdlab.stats import effects as ef

CLIPS = pd.DataFrame({"stimulus": range(8), "seed": 0, "still": [True] + 7 * [False], "flow": np.linspace(1, 2, 8)})


def found() -> list[ef.Effect]:
    return [
        ef.share("still", "{} of clips are still", CLIPS, margin=0.15),
        ef.share("any", "{} of clips are still, no threshold", CLIPS, "still"),
        ef.mean("flow", "mean flow", CLIPS, unit="px/frame", margin=5.0),
        ef.exact("length", "length of a clip", 2.0, "s", CLIPS),
    ]


def panels(fig: Any) -> list[Any]:
    return [ax for ax in fig.axes if ax.get_visible()]


def test_rows_of_one_unit_share_an_axis_and_every_number_stands_beside_its_row() -> None:
    fig = forest(found(), of="model organism, not SVD")
    assert [ax.get_xlabel() for ax in panels(fig)] == ["%", "px/frame", "s"]
    assert [t.get_text() for t in panels(fig)[0].get_yticklabels()] == ["clips are still", "clips are still, no threshold"]
    texts = [t.get_text() for ax in panels(fig) for t in ax.texts]
    assert texts == ["12 % (2 to 47)", "12 % (2 to 47)", "1.5 px/frame (1.21 to 1.79)", "2 s"]
    assert fig.data.key.tolist() == ["still", "any", "flow", "length"]


@pytest.mark.parametrize("standardised", [False, True])
def test_everything_drawn_lies_within_the_axis(standardised: bool) -> None:
    fig = forest(found()[2:3], standardised=standardised)
    low, high = panels(fig)[0].get_xlim()
    xs = np.concatenate([np.asarray(line.get_xdata(), float) for line in panels(fig)[0].lines])
    xs = np.append(xs, [bar.get_x() + side * bar.get_width() for bar in panels(fig)[0].patches for side in (0, 1)])
    assert low < np.nanmin(xs)
    assert np.nanmax(xs) < high


def test_a_threshold_is_a_band_from_nothing_and_a_margin_one_about_the_null() -> None:
    ends = [(bar.get_x(), bar.get_x() + bar.get_width()) for ax in panels(forest(found())) for bar in ax.patches]
    assert ends == [(0, pytest.approx(0.15)), (-5, 5)]


def test_an_effect_beyond_the_axis_is_an_arrow() -> None:
    far = ef.paired("far", "far", 100 + np.arange(8.0), unit="px")
    markers = {line.get_marker() for line in panels(forest([far], standardised=True))[0].lines}
    assert ">" in markers
    assert ">" not in {line.get_marker() for line in panels(forest([far]))[0].lines}


def test_the_footer_claims_what_is_drawn_and_nothing_else() -> None:
    whole, number = forest(found(), of="model organism, not SVD"), forest(found()[3:])
    for text in ("model organism, not SVD", "95 % interval", "margin", "open circle: inconclusive", "triangle: equivalent"):
        assert text in whole.footer
    assert "interval" not in number.footer
    assert "margin" not in number.footer


def test_what_is_no_table_of_effects_is_refused() -> None:
    for wrong in (CLIPS, []):
        with pytest.raises(InputError, match="forest draws effects"):
            forest(wrong)
