"""A result as a figure, and all results as a limitations card."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from svdlab.errors import InputError
from svdlab.measure import video
from svdlab.pipeline.generate import Source
from svdlab.probes import Check, Example, Graph, Probe, Result, card
from svdlab.stats import effects
from tests.probes.conftest import table_of


class Toy(Probe):
    name, card, question = "toy", "Is it < 4 s | or not?", "Is it a toy?"

    def __init__(self, graphs: tuple[Graph, ...] = ()) -> None:
        self.graphs = graphs


@pytest.fixture
def result() -> Result:
    clips = table_of({"x": i % 2, "g": "ab"[i // 2 % 2], "y": 0.1 * i, "curve": [0.1 * i, 0.2]} for i in range(8))
    graphs = [Graph(kind, "x", "y", "unit", by="g", kind=kind) for kind in ("curve", "bars")]
    return Result(
        Toy((*graphs, Graph("lists", "frame", "curve"))), "done", "It is.", clips,
        audit=(Check("one is one", "1", "1", True),),
        effects=(effects.mean("y", "mean of y", clips, unit="of 1"),),
        examples=(Example("a clip", np.random.default_rng(0).random((8, 64, 64, 3), dtype=np.float32)),),
        stimuli=pd.DataFrame({"name": ["a"], "source": ["drawn"], "licence": ["CC0"]}),
        source=Source(checkpoint="organism", label="model organism, not SVD", licence="Apache-2.0", weights_hash="1"),
    )  # fmt: skip


def texts(figure: Any) -> str:
    from matplotlib.text import Text

    return " ".join(t.get_text() for t in figure.findobj(Text))


def test_a_figure_shows_every_finding_graph_example_and_check(result: Result) -> None:
    figure = result.figure()
    drawn = texts(figure)
    assert all(words in drawn for words in ("mean of y", "one is one", "a clip", "It is.", "curve", "bars", "lists"))
    assert "model organism, not SVD" in figure.footer and "drawn" in figure.footer
    assert list(figure.data["key"]) == ["y"]
    # nothing falls off the figure, and no legend covers data
    figure.draw_without_rendering()
    inside = figure.bbox.padded(2)
    for ax in figure.axes:
        box = ax.get_tightbbox()
        assert box is None or (inside.x0 <= box.x0 and box.x1 <= inside.x1 and inside.y0 <= box.y0 and box.y1 <= inside.y1)
        if legend := ax.get_legend():
            assert legend.get_window_extent().x0 >= ax.bbox.x1


def test_a_probe_that_was_not_run_states_why(result: Result) -> None:
    bare = Result(Toy(), "not run", "Not run: pip install 'svdlab[ocr]'.")
    assert "svdlab[ocr]" in texts(bare.figure())
    assert "interval" not in replace(result, effects=()).figure().footer  # none is drawn


@pytest.fixture
def results(result: Result) -> dict[str, Result]:
    why = "Not run: pip install 'svdlab[ocr]'."
    return {"toy": result, "reader": Result(Toy(), "not run", why)}


def test_the_card_in_three_forms(results: dict[str, Result], tmp_path: Path) -> None:
    written = card.write(results, tmp_path / "model")
    facts = json.loads(written["json"].read_text())
    assert [p["name"] for p in facts["probes"]] == ["toy", "toy"]
    assert facts["checkpoint"]["weights_hash"] == "1" and facts["probes"][0]["findings"][0]["key"] == "y"
    assert facts["probes"][0]["stimuli"][0]["licence"] == "CC0" and facts["probes"][0]["clips"] == 8
    text, html = written["markdown"].read_text(), written["html"].read_text()
    for form in (text, html):
        assert all(words in form for words in ("model organism, not SVD", "Mean of y", "Apache-2.0", "Licence of the weights"))
        assert "a: CC0 (drawn)" in form and "1 of 1 checks passed" in form and "0 of 0" not in form
    assert (tmp_path / "model" / "figures" / "toy.png").exists() and "(figures/toy.png)" in text
    assert 'src="data:image/png;base64,' in html and "Is it &lt; 4 s | or not?" in html
    assert r"Is it \< 4 s \| or not?" in text
    assert (tmp_path / "model" / "NOTICE").exists()
    assert video.read_tags(tmp_path / "model" / "figures" / "toy.png")["source"]["checkpoint"] == "organism"


def test_results_of_different_weights_make_no_card(results: dict[str, Result], tmp_path: Path) -> None:
    other = replace(results["toy"], source=Source(weights_hash="0", checkpoint="another"))
    with pytest.raises(InputError, match="different weights"):
        card.write({"a": results["toy"], "b": other}, tmp_path)
    with pytest.raises(InputError, match="no results"):
        card.write({}, tmp_path)
