"""Optical flow against motion that is known: photographs moved by splines."""

import numpy as np
import pytest

from svdlab.measure.calibrate import moving
from svdlab.measure.flow import both_ways, consistent, flow, points

SMALL, MIDDLE = (64, 64), (256, 256)


def shifted(dx, dy, size=SMALL, frames=4):
    """Content that moves by that much; the camera does the opposite across and the same upwards."""
    return moving("cat", size=size, frames=frames, pan=-dx, tilt=dy)


@pytest.mark.parametrize("size", [SMALL, MIDDLE])
@pytest.mark.parametrize("speed", [(0.1, -0.05), (1.5, 0.5), (-3.0, 4.0)])
def test_flow_follows_a_shift(size, speed):
    clip = shifted(*speed, size=size)
    both = both_ways(clip.frames)
    error = np.linalg.norm(both.forward - clip.flow, axis=-1)[both.visible]
    assert error.mean() < 0.2
    assert np.median(both.forward[both.visible], axis=0) == pytest.approx(speed, abs=0.06)
    assert np.median(both.backward[both.visible], axis=0) == pytest.approx(-np.array(speed), abs=0.06)
    assert np.array_equal(flow(clip.frames), both.forward) and both.forward.dtype == np.float32


def test_a_large_shift_is_found_from_the_whole_frame():
    clip = shifted(28, -10, size=MIDDLE, frames=2)  # beyond DIS's own reach
    assert np.median(flow(clip.frames)[0, 64:-64, 64:-64], axis=(0, 1)) == pytest.approx([28, -10], abs=0.2)


def test_slow_motion_is_measured_over_longer_baselines_and_fast_motion_is_not():
    slow, fast = (both_ways(shifted(v, 0, frames=9).frames) for v in (0.05, 3.0))
    assert (slow.baseline == 8).all() and (fast.baseline == 1).all()
    own = np.arange(8)
    assert ((slow.start <= own) & (own < slow.start + slow.baseline)).all()  # each pair lies in its window
    assert (both_ways(shifted(0.05, 0, frames=9).frames, longest_baseline=3).baseline == 3).all()


def test_what_gets_hidden_is_not_visible():
    clip = moving("coffee", size=MIDDLE, frames=2, body=(12.0, 0.0), area=0.15)
    visible = both_ways(clip.frames).visible[0]
    covered = clip.mask[1] & ~clip.mask[0]
    assert visible[covered].mean() < 0.3 < 0.9 < visible[~clip.mask[0] & ~clip.mask[1]].mean()


def test_the_rule_of_consistency_by_hand():
    # At 192 px nothing is enlarged: |2 - b|^2 against 0.01 (4 + b^2) + 0.5; b = 1.26: 0.548 < 0.556, b = 1.24: 0.578 > 0.555
    there = np.zeros((192, 192, 2), np.float32)
    there[..., 0] = 2
    inside = np.s_[:, :-3]
    assert consistent(there, -there * 0.63)[inside].all() and not consistent(there, -there * 0.62)[inside].any()
    assert not consistent(there, -there)[:, -2:].any()  # it leaves the frame


def test_points_are_carried_by_the_flow():
    clip = shifted(2, 1, size=MIDDLE, frames=5)
    path = points(flow(clip.frames), [(100, 100), (254, 100)])
    assert path.shape == (5, 2, 2)
    assert path[-1, 0] == pytest.approx([108, 104], abs=0.5)
    assert np.isnan(path[-1, 1]).all()  # it left the frame
