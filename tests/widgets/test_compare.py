"""widgets.compare: clips in step, overlays with known answers."""

from typing import Any

import numpy as np
import pytest

import svdlab
from svdlab import errors, show, widgets
from svdlab.measure import motion
from svdlab.measure.video import as_bytes
from tests.widgets.conftest import at


def test_compare_keeps_clips_in_step_and_overlays_are_right(decoded: Any) -> None:
    """An image that moves by known pixels beside one that is still: flow and difference have known answers."""
    base = np.asarray(svdlab.sample_image("scene-27"), np.float32) / 255
    still = np.stack([base] * 4)
    moving = np.stack([np.roll(base, 2 * t, axis=1) for t in range(4)])
    panel = widgets.compare({"still": still, "moving": moving})
    shown = [decoded(at(image, 3)) for image in panel.images]
    assert (shown[0] == as_bytes(still)[3]).all() and (shown[1] == as_bytes(moving)[3]).all()

    panel.overlay.value = "difference"
    assert panel.settled()
    for frame, least, most in ((0, 1, 1), (3, 20, 4096)):  # in frame 0 both are the same
        assert least <= len(np.unique(decoded(at(panel.images[1], frame)).reshape(-1, 3), axis=0)) <= most

    panel.overlay.value = "flow"
    assert panel.settled()
    fastest = float(np.percentile(np.linalg.norm(motion.flow(moving), axis=-1), 99.5))
    right = show.flow_colours(np.array([[[2.0, 0.0]]], np.float32), max(0.5, fastest))[0, 0] * 255
    middle = decoded(at(panel.images[1], 3))[16:48, 16:48].reshape(-1, 3)
    assert np.abs(np.median(middle, axis=0) - right).max() < 30  # the colour of "two pixels to the right"


def test_compare_waits_for_the_longest_and_refuses_unequal_sizes(decoded: Any) -> None:
    short = np.zeros((3, 32, 32, 3), np.uint8)
    long = np.arange(6, dtype=np.uint8)[:, None, None, None] * np.ones((1, 32, 32, 3), np.uint8)
    panel = widgets.compare({"a": short, "b": long})
    assert (decoded(at(panel.images[0], 5)) == short[2]).all() and (decoded(at(panel.images[1], 5)) == long[5]).all()
    panel.overlay.value = "difference"
    assert panel.settled() and 'title="b: difference, frame 2"' in panel.images[1].value  # as far as both go
    with pytest.raises(errors.InputError, match="one size"):
        widgets.compare([short, np.zeros((3, 48, 32, 3), np.uint8)])
