"""The published measures by hand, on backends that see a chosen flow, and on motion that is known."""

import math

import numpy as np
import pytest

from svdlab.errors import InputError
from svdlab.measure import published
from svdlab.measure.calibrate import moving
from svdlab.measure.flow import BothWays

IMAGE = moving("cat", size=(64, 64), frames=1).frames[0]
FROZEN = np.repeat(IMAGE[None], 16, axis=0)


def steady(dx, dy=0.0):
    """A flow backend that always sees the same shift."""
    return lambda earlier, later: np.full((*earlier.shape[:2], 2), (dx, dy), np.float32)


def fading(step, frames=5):
    return np.full((frames, 64, 64, 3), 0.2) + step * np.arange(frames)[:, None, None, None]


def test_temporal_flicker_by_hand():
    # Neighbours differ by 0.2 of 255 = 51 levels: (255 - 51) / 255
    assert published.temporal_flicker(fading(0.2, 4)) == pytest.approx(0.8)
    assert published.temporal_flicker(FROZEN) == 1


def test_dynamic_degree_by_hand():
    # 64 px: threshold 6 * 64 / 256 = 1.5 px; 16 frames need round(4 * 16 / 16) = 4 fast pairs of 15
    fast, slow = (published.dynamic_degree(FROZEN, fps=8, backend=steady(v)) for v in (1.6, 1.4))
    assert fast == {"moving": True, "fast_pairs": 15, "needed_pairs": 4, "threshold_px": 1.5}
    assert (slow["moving"], slow["fast_pairs"]) == (False, 0)
    # At 24 fps every third frame is kept: 6 frames, 5 pairs, round(4 * 6 / 16) = 2
    thinned = published.dynamic_degree(FROZEN, fps=24, backend=steady(1.6))
    assert (thinned["fast_pairs"], thinned["needed_pairs"]) == (5, 2)


def test_dynamic_degree_looks_at_the_fastest_twentieth():
    share = 64 * 64 // 20

    def corner(earlier, later):  # 1/20 of the frame moves by 4 px, the rest by none
        f = np.zeros((64, 64, 2), np.float32)
        f.reshape(-1, 2)[:share] = (4, 0)
        return f

    assert published.dynamic_degree(FROZEN, fps=8, backend=corner)["moving"]
    assert published.flow_score(FROZEN, backend=corner) == pytest.approx(4 * share / 64**2)


def test_static_filter_by_hand():
    # threshold 3 * 64 / 256 = 0.75 px; N = round(2 * 16 / 16) = 2 pairs may exceed it, and the ends may lie 4 times that apart
    clip = np.arange(16)[:, None, None, None] / 15 + np.zeros((1, 64, 64, 3))  # each frame's grey is its number

    def filtered(speeds, ends=0.0):
        def backend(earlier, later):
            a, b = round(float(earlier[0, 0, 0]) * 15), round(float(later[0, 0, 0]) * 15)
            return np.full((64, 64, 2), (speeds[a] if b == a + 1 else ends, 0), np.float32)

        return published.static_filter(clip, backend=backend)

    two, three = filtered([0.8] * 2 + [0.7] * 13), filtered([0.8] * 3 + [0.7] * 12)
    assert (two["static"], two["fast_pairs"], two["allowed_pairs"], two["threshold_px"]) == (True, 2, 2, 0.75)
    assert not three["static"] and three["fast_pairs"] == 3
    assert filtered([0.7] * 15, ends=2.9)["static"]
    assert not filtered([0.7] * 15, ends=3.1)["static"]  # slow, but it went somewhere


@pytest.mark.parametrize(
    ("shift", "labels"),
    [  # of the top, bottom, left and right border's middle
        ([(-9, 0)] * 4, ("pan_right",)),
        ([(9, 0)] * 4, ("pan_left",)),
        ([(0, 9)] * 4, ("tilt_up",)),
        ([(0, -9)] * 4, ("tilt_down",)),
        ([(0, -9), (0, 9), (-9, 0), (9, 0)], ("zoom_in",)),
        ([(0, 9), (0, -9), (9, 0), (-9, 0)], ("zoom_out",)),
        ([(1, 1)] * 4, ("static",)),
        ([(9, 9)] * 4, ("pan_left", "tilt_up")),  # a slanted move is both
        ([(0, 0), (0, 0), (-9, 0), (-9, 0)], ("pan_right",)),  # left and right alone suffice
        ([(-9, 0), (-9, 0), (0, 0), (0, 0)], ("pan_right",)),  # and so do top and bottom
        ([(9, 0), (-9, 0), (0, -9), (0, 9)], ("None",)),  # a roll has no name
    ],
)
def test_camera_labels_of_the_borders(shift, labels):
    assert published.border_labels(np.array(shift), dead=2.0) == labels


def test_camera_motion_follows_the_borders():
    assert published.camera_motion(moving("coffee", size=(256, 256), frames=4, pan=3).frames) == ("pan_right",)
    assert published.camera_motion(moving("coffee", size=(256, 256), frames=4, zoom=3).frames) == ("zoom_in",)


def flows(dx, back, pairs=4):
    there = np.zeros((pairs, 32, 32, 2), np.float32)
    there[..., 0] = dx
    returned = np.zeros_like(there)
    returned[..., 0] = back
    return BothWays(there, returned, np.ones(there.shape[:3], bool), np.arange(pairs), np.ones(pairs, int))


def test_warping_error_by_hand():
    # No motion claimed, grey rises by 0.1 a frame: 0.01 in each of three colours, everywhere
    assert published.warping_error(fading(0.1), flows(0, 0)) == pytest.approx(0.03, rel=1e-5)
    # A claimed shift of 3 px that returns by 3 is consistent; one that does not return is hidden everywhere
    assert published.warping_error(fading(0.1), flows(3, -3)) == pytest.approx(0.03, rel=1e-5)
    assert published.warping_error(fading(0.1), flows(3, 0)) == 0


def test_warping_error_is_taken_at_half_size():
    checks = np.indices((64, 64)).sum(0) % 2 * 1.0  # averaged away over 2 x 2 px
    clip = np.stack([checks, 1 - checks])[..., None]
    assert published.warping_error(clip, flows(0, 0, pairs=1)) == pytest.approx(0, abs=1e-12)


def test_occlusion_threshold_by_hand():
    # |3 - 2.2|^2 = 0.64 against 0.01 (9 + 4.84) + 0.5 = 0.6384: just hidden; 2.21 gives 0.6241: just not
    there = np.zeros((64, 64, 2), np.float32)
    there[..., 0] = 3
    assert published.occluded(there, -there * 2.2 / 3).all()
    assert not published.occluded(there, -there * 2.21 / 3).any()


def test_motion_boundaries_are_left_out():
    there = np.zeros((64, 64, 2), np.float32)
    there[:, 32:, 0] = 1  # the difference to the next pixel is at column 31: 1 > 0.002
    assert np.flatnonzero(published.occluded(there, -there).any(0)).tolist() == [31]


def test_first_frame_error_by_hand():
    found = published.first_frame_error(fading(0.1), fading(0.1)[2])
    assert found["mse"] == pytest.approx(51**2, rel=1e-5)  # 0.2 of 255 levels
    assert found["ssim"] == pytest.approx((2 * 0.2 * 0.4 + 1e-4) / (0.2**2 + 0.4**2 + 1e-4), rel=1e-4)


def test_autocorrelation_by_hand():
    turning = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]], float)
    # Lags 1, 2, 3: at right angles, opposite, at right angles: 1, 2, 1
    assert published.autocorrelation(turning) == pytest.approx(4 / 3)
    # 24 frames: lags 3 to 23. A vector that turns by 1/24 of a circle a frame has cos(2 pi k / 24) at lag k.
    angle = 2 * np.pi * np.arange(24) / 24
    circle = np.stack([np.cos(angle), np.sin(angle)], 1)
    assert published.autocorrelation(circle) == pytest.approx(np.mean([abs(1 - math.cos(angle[k])) for k in range(3, 24)]))


def test_consistency_by_hand():
    found = published.consistency([[1, 0], [0.6, 0.8], [-1, 0]])
    # to the frame before: 0.6, -0.6 cut to 0; to the first: 0.6, -1 cut to 0
    assert found["consistency"] == pytest.approx((0.6 + 0) / 2 * 2 / 2)
    assert (found["min"], found["last"], found["slope"]) == pytest.approx((-1, -1, -1.6))


def test_i2v_score_hides_drift_and_its_companions_do_not():
    # cos to the input 1, 0.6, 0; steps 0.6, 0.8: 0.4 * 1 + 0.3 * 0.7 + 0.3 * 0.6 = 0.79
    found = published.i2v_score([1, 0], [[1, 0], [0.6, 0.8], [0, 1]])
    assert found["score"] == pytest.approx(0.79)
    assert (found["min"], found["last"], found["slope"]) == pytest.approx((0, 0, -0.5))


def test_the_summary_is_its_parts():
    clip = moving("coffee", size=(64, 64), frames=8, pan=2).frames
    found = published.summary(clip, clip[0], playback_fps=7)
    assert found["vbench_dynamic"] is True and found["vbench_static"] is False and found["vbench_camera"] == "pan_right"
    assert found["evalcrafter_flow_px"] == published.flow_score(clip)
    assert found["evalcrafter_warp"] == published.warping_error(clip)
    assert found["vbench_flicker"] == published.temporal_flicker(clip)
    assert (found["aigcbench_mse"], found["aigcbench_ssim"]) == (0, pytest.approx(1))
    assert set(found) - set(published.summary(clip, playback_fps=7)) == {"aigcbench_mse", "aigcbench_ssim"}


@pytest.mark.parametrize(
    "call",
    [
        lambda: published.dynamic_degree(FROZEN, fps=0),
        lambda: published.dynamic_degree(FROZEN[:2], fps=60),  # one frame is left
        lambda: published.first_frame_error(FROZEN, IMAGE[:32]),
        lambda: published.autocorrelation(np.ones(4)),
        lambda: published.consistency(np.ones((1, 2))),
        lambda: published.consistency(np.zeros((4, 2))),
        lambda: published.i2v_score([1, np.nan], np.ones((4, 2))),
    ],
)
def test_bad_input_is_refused(call):
    with pytest.raises(InputError):
        call()
