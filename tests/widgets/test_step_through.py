"""widgets.step_through: the decoder's own frames, a view for everything that was kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from svdlab import errors, widgets
from svdlab.measure.video import as_bytes


def test_step_through_shows_the_real_decoders_frames(pipe: Any, traced: Any, decoded: Any) -> None:
    tr, _ = traced
    panel = widgets.step_through(tr, pipe)
    whole = tr.decode(pipe)
    for step, frame in ((0, 4), (2, 0), (2, 7)):
        panel.step.value, panel.frame.value = step, frame
        assert panel.draw.settled()
        assert (decoded(panel.image.value) == as_bytes(whole[step])[frame]).all()
    assert "sigma" in panel.caption.value and panel.sigma.over.value and panel.pressure.over.value
    given = widgets.step_through(tr, decoded=whole)
    given.step.value = 1
    assert (decoded(given.image.value) == as_bytes(whole[1])[4]).all()


def test_step_through_has_a_view_for_everything_that_was_kept(traced: Any) -> None:
    tr, _ = traced
    panel = widgets.step_through(tr)
    seen = set()
    for what in panel.what.options:
        panel.what.value = what
        for step in (0, 2):
            panel.step.value = step
            seen.add(bytes(panel.image.value))
        assert panel.figure().title and len(panel.video().frames) == 3
    assert len(seen) == 2 * len(panel.what.options) == 8


def test_what_does_not_fit_is_refused(traced: Any) -> None:
    with pytest.raises(errors.InputError, match="s f h w 3"):
        widgets.step_through(traced[0], decoded=np.zeros((1, 8, 64, 64, 3)))
