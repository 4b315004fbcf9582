from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from svdlab.probes import Check, Example, Graph, Result
from svdlab.stats import effects
from tests.probes.conftest import table_of


@pytest.fixture
def result() -> Result:
    clips = table_of({"x": i % 2, "g": "ab"[i // 2 % 2], "y": 0.1 * i, "curve": [0.1 * i, 0.2]} for i in range(8))
    graphs = [Graph(kind, "x", "y", "unit", by="g", kind=kind) for kind in ("curve", "bars", "plane")]
    return Result(
        "toy", "Is it < 4 s | or not?", "Is it a toy?", "done", "It is.", clips,
        audit=(Check("one is one", "1", "1", True),),
        effects=(effects.mean("y", "mean of y", clips, unit="of 1"),),
        graphs=(*graphs, Graph("lists", "frame", "curve")),
        examples=(Example("a clip", np.random.default_rng(0).random((8, 64, 64, 3), dtype=np.float32)),),
        stimuli=pd.DataFrame({"name": ["a"], "source": ["drawn"], "licence": ["CC0"]}),
        source={"checkpoint": "organism", "label": "model organism, not SVD", "licence": "Apache-2.0", "weights_hash": "1"},
    )  # fmt: skip


def texts(figure: Any) -> str:
    from matplotlib.text import Text

    return " ".join(t.get_text() for t in figure.findobj(Text))


def test_a_figure_shows_every_finding_graph_example_and_check(result: Result) -> None:
    figure = result.figure()
    drawn = texts(figure)
    assert all(words in drawn for words in ("mean of y", "one is one", "a clip", "It is.", "curve", "bars", "plane", "lists"))
    assert "model organism, not SVD" in figure.footer and "drawn" in figure.footer
    assert list(figure.data["key"]) == ["y"]


def test_nothing_falls_off_the_figure_and_no_legend_covers_data(result: Result) -> None:
    figure = result.figure()
    figure.draw_without_rendering()
    inside = figure.bbox.padded(2)
    for ax in figure.axes:
        box = ax.get_tightbbox()
        assert box is None or (inside.x0 <= box.x0 and box.x1 <= inside.x1 and inside.y0 <= box.y0 and box.y1 <= inside.y1)
        if legend := ax.get_legend():
            assert legend.get_window_extent().x0 >= ax.bbox.x1


def test_a_probe_that_was_not_run_states_why(result: Result) -> None:
    bare = Result("toy", "", "", "not run", "Not run: pip install 'svdlab[ocr]'.", pd.DataFrame())
    assert "svdlab[ocr]" in texts(bare.figure())
    assert "interval" not in replace(result, effects=(), graphs=()).figure().footer  # none is drawn
