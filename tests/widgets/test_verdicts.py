"""widgets.verdicts: a line a probe, opening to the probe's own figure."""

from pathlib import Path

import pandas as pd
import pytest

from svdlab import errors, widgets
from svdlab.probes import Graph, Probe, Result
from svdlab.stats import effects


class Hostile(Probe):
    name, question = "stillness", "How often <b>nothing</b> moves?"
    graphs = (Graph("Share that is still", "bucket", "share"),)


def test_verdicts_open_to_the_probes_own_figure(tmp_path: Path) -> None:
    clips = pd.DataFrame({"stimulus": [1, 2, 3], "bucket": [1, 2, 3], "share": [0.1, 0.5, 0.9]})
    found = Result(Hostile(), "done", "Found.", clips, effects=(effects.mean("share", "share", clips, unit=""),))
    assert len(repr(found)) < 100 and "<b>nothing" not in found._repr_html_() and 'src="data:image/png' in found._repr_html_()
    panel = widgets.verdicts({"stillness": found, "other": found}, out=tmp_path)
    assert panel.lines.titles[0] == "stillness · done · Found." and "<b>nothing</b>" not in panel.texts[0].value
    assert not panel.images[1].value
    panel.lines.selected_index = 1
    assert panel.settled() and "<path" in panel.images[1].value and not panel.images[0].value
    assert {p.suffix for p in panel.export()} == {".png", ".pdf", ".csv"}
    with pytest.raises(errors.InputError, match="run_all"):
        widgets.verdicts([])
