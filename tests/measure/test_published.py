"""The published measures by hand, on flow that is chosen, and on motion that is known."""

import numpy as np
import pytest

from svdlab.errors import InputError
from svdlab.measure import published
from svdlab.measure.calibrate import moving
from svdlab.measure.flow import flow


def steady(*speeds):
    """Flow of 64 x 64 px that is the same everywhere: px across, pair by pair."""
    f = np.zeros((len(speeds), 64, 64, 2), np.float32)
    f[..., 0] = np.array(speeds)[:, None, None]
    return f


def fading(step, frames=5):
    return np.full((frames, 64, 64, 3), 0.2) + step * np.arange(frames)[:, None, None, None]


def test_dynamic_degree_by_hand():
    # 64 px: threshold 6 * 64 / 256 = 1.5 px; 16 frames need round(4 * 16 / 16) = 4 fast pairs, 6 frames round(1.5) = 2
    for fast, pairs, moves in ((4, 15, True), (3, 15, False), (2, 5, True), (1, 5, False)):
        assert published.dynamic_degree(steady(*[1.6] * fast, *[1.4] * (pairs - fast))) is moves
    corner = np.zeros((15, 64, 64, 2), np.float32)
    corner.reshape(15, -1, 2)[:, : 64 * 64 // 20] = (4, 0)  # 1/20 of the frame moves by 4 px, the rest by none
    assert published.dynamic_degree(corner)


@pytest.mark.parametrize(
    ("fast", "ends", "static"),
    [  # threshold 3 * 64 / 256 = 0.75 px; N = round(2 * 16 / 16) = 2 pairs may exceed it, and the ends lie 2 N times it apart
        (2, (0.0, 0.0), True),
        (3, (0.0, 0.0), False),
        (0, (2.9, -2.9), True),
        (0, (0.0, 3.1), False),  # slow, but it went somewhere
    ],
)
def test_static_filter_by_hand(fast, ends, static):
    assert published.static_filter(steady(*[0.8] * fast, *[0.7] * (15 - fast)), steady(*ends)) is static


@pytest.mark.parametrize(
    ("shift", "labels"),
    [  # of the top, bottom, left and right border's middle
        ([(-9, 0)] * 4, ("pan_right",)),
        ([(9, 0)] * 4, ("pan_left",)),
        ([(0, 9)] * 4, ("tilt_up",)),
        ([(0, -9)] * 4, ("tilt_down",)),
        ([(0, -9), (0, 9), (-9, 0), (9, 0)], ("zoom_in",)),
        ([(0, 9), (0, -9), (9, 0), (-9, 0)], ("zoom_out",)),
        ([(0.3, 0.3)] * 4, ("static",)),  # the dead zone is 0.005 * 64 = 0.32 px
        ([(9, 9)] * 4, ("pan_left", "tilt_up")),  # a slanted move is both
        ([(0, 0), (0, 0), (-9, 0), (-9, 0)], ("pan_right",)),  # left and right alone suffice
        ([(-9, 0), (-9, 0), (0, 0), (0, 0)], ("pan_right",)),  # and so do top and bottom
        ([(9, 0), (-9, 0), (0, -9), (0, 9)], ("None",)),  # a roll has no name
    ],
)
def test_camera_labels_of_the_borders(shift, labels):
    f = np.zeros((1, 64, 64, 2), np.float32)
    for where, s in zip((np.s_[:16], np.s_[48:], np.s_[16:48, :16], np.s_[16:48, 48:]), shift, strict=True):
        f[0][where] = s
    assert published.camera_motion(f) == labels


def test_warping_error_by_hand():
    # Grey rises by 0.1 a frame: 0.01 in each of three colours, everywhere
    assert published.warping_error(fading(0.1)) == pytest.approx(0.03, rel=1e-5)
    checks = np.indices((64, 64)).sum(0) % 2 * 1.0  # averaged away over 2 x 2 px
    assert published.warping_error(np.stack([checks, 1 - checks])[..., None]) == pytest.approx(0, abs=1e-12)
    assert published.warping_error(moving("coffee", size=(256, 256), frames=3, pan=2).frames) < 0.005


def test_occlusion_by_hand():
    # |3 - 2.2|^2 = 0.64 against 0.01 (9 + 4.84) + 0.5 = 0.6384: just hidden; 2.21 gives 0.6241: just not
    there = steady(3)[0]
    assert published.occluded(there, -there * 2.2 / 3).all()
    assert not published.occluded(there, -there * 2.21 / 3).any()
    there = np.zeros((64, 64, 2), np.float32)
    there[:, 32:, 0] = 1  # a motion boundary: the difference to the next pixel is 1 > 0.002 at column 31
    assert np.flatnonzero(published.occluded(there, -there).any(0)).tolist() == [31]


def test_the_summary_by_hand():
    # Grey rises by 0.2, 51 of 255 levels, from frame to frame; the input image is the third frame
    found = published.summary(fading(0.2, 4), fading(0.2)[2], playback_fps=7)
    assert found["vbench_flicker"] == pytest.approx(0.8) and found["vbench_static"] is True
    assert found["aigcbench_mse"] == pytest.approx(102**2, rel=1e-5)
    assert found["aigcbench_ssim"] == pytest.approx((2 * 0.2 * 0.6 + 1e-4) / (0.2**2 + 0.6**2 + 1e-4), rel=1e-4)


def test_the_summary_is_its_parts():
    clip = moving("coffee", size=(64, 64), frames=8, pan=1).frames
    found, forward = published.summary(clip, playback_fps=7), flow(clip, longest_baseline=1)
    assert found["vbench_camera"] == "pan_right" == published.camera_motion(forward)[0] and found["vbench_static"] is False
    assert found["evalcrafter_flow_px"] == pytest.approx(np.hypot(*forward.T).mean())
    assert found["evalcrafter_warp"] == published.warping_error(clip)
    # 1 px/frame is below the threshold of 1.5 px; at 16 fps every second frame is taken, and it is above
    assert (found["vbench_dynamic"], published.summary(clip, playback_fps=16)["vbench_dynamic"]) == (False, True)
    for frames, fps in ((clip, 0), (clip[:2], 60)):  # at 60 fps one frame is left
        with pytest.raises(InputError):
            published.summary(frames, playback_fps=fps)
