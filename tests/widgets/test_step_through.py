"""widgets.step_through: the decoder's own frames, a view for everything that was kept."""

from typing import Any

import numpy as np
import pytest

from svdlab import errors, widgets
from svdlab.measure.video import as_bytes
from tests.widgets.conftest import at


def test_step_through_shows_the_real_decoders_frames(pipe: Any, traced: Any, decoded: Any) -> None:
    tr, _ = traced
    whole = tr.decode(pipe)
    for panel in (widgets.step_through(tr, pipe), widgets.step_through(tr, decoded=whole)):
        for step, frame in ((0, 4), (2, 0), (2, 7)):
            panel.step.value, panel.frame.value = step, frame
            assert panel.settled() and "sigma" in panel.caption.value
            assert (decoded(at(panel.rows[step], frame)) == as_bytes(whole[step])[frame]).all()


def test_step_through_has_a_view_for_everything_that_was_kept(traced: Any) -> None:
    panel = widgets.step_through(traced[0])
    seen, graphs = set(), set()
    for what in panel.what.options:
        panel.what.value = what
        for step in (0, 2):
            panel.step.value = step
            assert panel.settled()
            seen.add(at(panel.rows[step], panel.frame.value))
            graphs |= {graph.value for graph in panel.graphs}
        assert panel.figure().title and len(panel.video().frames) == 3
    assert len(seen) == 2 * len(panel.what.options) == 6
    assert len(graphs) == 4  # sigma and guidance pressure, marked at both steps


def test_what_does_not_fit_is_refused(traced: Any) -> None:
    with pytest.raises(errors.InputError, match="s f h w 3"):
        widgets.step_through(traced[0], decoded=np.zeros((1, 8, 64, 64, 3)))
