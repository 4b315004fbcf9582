from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from svdlab.errors import InputError
from svdlab.measure import video
from svdlab.probes import Result, card
from tests.probes.test_figure import result  # noqa: F401 - a fixture


@pytest.fixture
def results(result: Result) -> dict[str, Result]:  # noqa: F811
    why = "Not run: pip install 'svdlab[ocr]'."
    return {"toy": result, "reader": Result("reader", "Cannot read.", "Can it?", "not run", why, pd.DataFrame())}


def test_the_card_in_three_forms(results: dict[str, Result], tmp_path: Path) -> None:
    written = card.write(results, tmp_path / "model")
    facts = json.loads(written["json"].read_text())
    assert [p["name"] for p in facts["probes"]] == ["toy", "reader"]
    assert facts["checkpoint"]["weights_hash"] == "1" and facts["probes"][0]["findings"][0]["key"] == "y"
    assert facts["probes"][0]["stimuli"][0]["licence"] == "CC0" and facts["probes"][0]["clips"] == 8
    text, html = written["markdown"].read_text(), written["html"].read_text()
    for form in (text, html):
        assert all(words in form for words in ("model organism, not SVD", "mean of y", "Apache-2.0", "Licence of the weights"))
        assert "a: CC0 (drawn)" in form and "1 of 1 checks passed" in form
    assert (tmp_path / "model" / "figures" / "toy.png").exists() and "(figures/toy.png)" in text
    assert 'src="data:image/png;base64,' in html and "Is it &lt; 4 s | or not?" in html
    assert r"Is it \< 4 s \| or not?" in text
    assert (tmp_path / "model" / "NOTICE").exists()
    assert video.read_tags(tmp_path / "model" / "figures" / "toy.png")["source"]["checkpoint"] == "organism"


def test_the_figures_can_be_left_out(results: dict[str, Result], tmp_path: Path) -> None:
    card.write(results, tmp_path / "x", figures=False)
    assert not (tmp_path / "x" / "figures").exists()


def test_results_of_different_weights_make_no_card(results: dict[str, Result], tmp_path: Path) -> None:
    other = replace(results["toy"], source={"weights_hash": "0", "checkpoint": "another"})
    with pytest.raises(InputError, match="different weights"):
        card.write({"a": results["toy"], "b": other}, tmp_path)
    with pytest.raises(InputError, match="no results"):
        card.write({}, tmp_path)
