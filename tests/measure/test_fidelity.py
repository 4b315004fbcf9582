"""Fidelity and the published measures, against values worked out by hand."""

import numpy as np
import pytest

from svdlab.errors import InputError
from svdlab.measure import fidelity, published
from svdlab.measure.calibrate import degrade, moving
from svdlab.measure.flow import BothWays, both_ways

PICTURE = moving("cat", size=(64, 64), frames=1).frames[0]
FROZEN = np.repeat(PICTURE[None], 5, axis=0)


def steady(dx, dy=0.0, size=(64, 64)):
    """A flow backend that always sees the same shift."""
    return lambda earlier, later: np.full((*size, 2), (dx, dy), np.float32)


def fading(step, frames=5):
    """A flat clip whose grey rises by that much each frame."""
    return np.full((frames, 64, 64, 3), 0.2) + step * np.arange(frames)[:, None, None, None]


def test_a_frozen_copy_of_its_input_is_perfect():
    found = fidelity.summary(FROZEN, PICTURE, reconstruction=PICTURE)
    for name in ("drift_mse_last", "drift_slope", "drift_colour_last", "drift_denoiser_first", "flicker_mae", "warp_error"):
        assert found[name] == pytest.approx(0, abs=1e-9), name
    assert found["drift_ssim_last"] == pytest.approx(1)
    assert found["reconstruction_psnr"] == np.inf
    assert found["blur_slope"] == pytest.approx(0, abs=1e-12)


def test_drift_by_hand():
    # Errors 0, 0.1, 0.2, 0.3, 0.4: squares 0, .01, .04, .09, .16; their least-squares slope is 0.4 / 10 = 0.04
    found = fidelity.drift(fading(0.1), fading(0.1)[0], reconstruction=fading(0.1)[1])
    assert found["drift_mse_last"] == pytest.approx(0.16, rel=1e-5)
    assert found["drift_mse_mean"] == pytest.approx(0.06, rel=1e-5)
    assert found["drift_slope"] == pytest.approx(0.04, rel=1e-5)
    assert found["drift_colour_last"] == pytest.approx(0.4 * np.sqrt(3), rel=1e-4)
    assert found["drift_denoiser_first"] == pytest.approx(0.01, rel=1e-5)


def test_drift_of_embeddings_by_hand():
    turned = np.array([[1, 0], [1, 0], [0, 2], [1, 1], [3, 0], [1, 1]], float)
    found = fidelity.drift(FROZEN, PICTURE, embeddings=turned)
    assert found["drift_cosine_first"] == pytest.approx(1)
    assert found["drift_cosine_min"] == pytest.approx(0)
    assert found["drift_cosine_last"] == pytest.approx(np.sqrt(0.5))


def test_flicker_is_not_a_fade():
    jumping = fading(0.0)
    jumping[1::2] += 0.1  # second differences of 0, .1, 0, .1, 0 are -+0.2
    assert fidelity.flicker(fading(0.1))["flicker_brightness"] == pytest.approx(0, abs=1e-6)
    assert fidelity.flicker(jumping)["flicker_brightness"] == pytest.approx(0.2, rel=1e-5)
    assert fidelity.flicker(jumping)["flicker_mae"] == pytest.approx(0.1, rel=1e-5)


def test_warp_error_forgives_motion_and_not_change():
    clip = moving("coffee", size=(256, 256), frames=3, pan=2).frames
    changing = degrade(clip, noise=0.05)
    assert fidelity.warp_error(clip)["warp_error"] < 0.02
    assert fidelity.warp_error(changing)["warp_error"] == pytest.approx(0.05 * np.sqrt(2), rel=0.2)
    with pytest.raises(InputError, match="pair on its own"):
        fidelity.warp_error(FROZEN, both_ways(FROZEN))


def test_sharpness_and_saturation_follow_what_is_done_to_them():
    blurred = np.stack([degrade(PICTURE[None], blur=s)[0] if s else PICTURE for s in (0, 1, 2, 3)])
    assert fidelity.sharpness_decay(blurred)["blur_slope"] > 0.05
    red = np.zeros((3, 64, 64, 3))
    red[..., 0] = 0.5
    red[2] = 0.5  # grey at last
    found = fidelity.saturation(red)
    assert (found["saturation_first"], found["saturation_last"]) == (1, 0)
    assert fidelity.saturation(np.zeros((2, 64, 64, 3)))["clipped_max"] == 1


def test_reconstruction_by_hand():
    found = fidelity.reconstruction_error(fading(0.1)[0], fading(0.1)[1])
    assert found["reconstruction_mse"] == pytest.approx(0.01, rel=1e-5)
    assert found["reconstruction_psnr"] == pytest.approx(20, rel=1e-5)


@pytest.mark.parametrize(
    "call",
    [
        lambda: fidelity.drift(FROZEN, PICTURE[:32]),
        lambda: fidelity.drift(FROZEN, PICTURE, embeddings=np.ones((5, 3))),
        lambda: fidelity.drift(FROZEN, PICTURE, embeddings=np.zeros((6, 3))),
        lambda: fidelity.flicker(FROZEN * np.nan),
        lambda: fidelity.reconstruction_error(PICTURE, PICTURE[:, :32]),
        lambda: published.dynamic_degree(FROZEN, fps=0),
        lambda: published.autocorrelation(np.ones((4, 2)), lag=4),
        lambda: published.consistency(np.ones((1, 2))),
    ],
)
def test_bad_input_is_refused(call):
    with pytest.raises(InputError):
        call()


def test_temporal_flicker_by_hand():
    # Neighbours differ by 0.2 of 255 = 51 levels: (255 - 51) / 255
    assert published.temporal_flicker(fading(0.2)) == pytest.approx(0.8)
    assert published.temporal_flicker(FROZEN) == 1


def test_dynamic_degree_by_hand():
    # 64 px: threshold 6 * 64 / 256 = 1.5 px; 16 frames need round(4 * 16 / 16) = 4 fast pairs of 15
    clip = np.repeat(PICTURE[None], 16, axis=0)
    fast, slow = (published.dynamic_degree(clip, fps=8, backend=steady(v)) for v in (1.6, 1.4))
    assert (fast["moving"], fast["fast_pairs"], fast["needed_pairs"], fast["threshold_px"]) == (True, 15, 4, 1.5)
    assert (slow["moving"], slow["fast_pairs"]) == (False, 0)
    # At 24 fps every third frame is kept: 6 frames, 5 pairs, round(4 * 6 / 16) = 2
    thinned = published.dynamic_degree(clip, fps=24, backend=steady(1.6))
    assert (thinned["fast_pairs"], thinned["needed_pairs"]) == (5, 2)


def test_dynamic_degree_looks_at_the_fastest_twentieth():
    def corner(earlier, later):  # 1/20 of the picture moves by 4 px, the rest by none
        f = np.zeros((64, 64, 2), np.float32)
        f.reshape(-1, 2)[: 64 * 64 // 20] = (4, 0)
        return f

    clip = np.repeat(PICTURE[None], 16, axis=0)
    assert published.dynamic_degree(clip, fps=8, backend=corner)["moving"]
    assert published.flow_score(clip, backend=corner) == pytest.approx(4 * (64 * 64 // 20) / 64**2)


def test_static_filter_by_hand():
    # threshold 3 * 64 / 256 = 0.75 px, round(2 * 16 / 16) = 2 pairs
    clip = np.repeat(PICTURE[None], 16, axis=0)
    found = published.static_filter(clip, backend=steady(0.8))
    assert (found["moving"], found["needed_pairs"], found["threshold_px"]) == (True, 2, 0.75)
    assert not published.static_filter(clip, backend=steady(0.7))["moving"]


@pytest.mark.parametrize(
    ("shift", "camera"),
    [
        ([(-9, 0)] * 4, "pan_right"),
        ([(9, 0)] * 4, "pan_left"),
        ([(0, 9)] * 4, "tilt_up"),
        ([(0, -9)] * 4, "tilt_down"),
        ([(0, -9), (0, 9), (-9, 0), (9, 0)], "zoom_in"),
        ([(0, 9), (0, -9), (9, 0), (-9, 0)], "zoom_out"),
        ([(1, 1)] * 4, "static"),
        ([(9, 9)] * 4, "mixed"),
    ],
)
def test_camera_class_of_the_borders(shift, camera):
    assert published.border_class(np.array(shift), dead=2.0) == camera


def test_camera_motion_follows_the_borders():
    assert published.camera_motion(moving("coffee", size=(256, 256), frames=4, pan=3).frames) == "pan_right"
    assert published.camera_motion(moving("coffee", size=(256, 256), frames=4, zoom=3).frames) == "zoom_in"


def flows(dx, back, pairs=4):
    there = np.zeros((pairs, 64, 64, 2), np.float32)
    there[..., 0] = dx
    returned = np.zeros_like(there)
    returned[..., 0] = back
    return BothWays(there, returned, np.ones(there.shape[:3], bool), np.arange(pairs), np.ones(pairs, int))


def test_warping_error_by_hand():
    # No motion claimed, grey rises by 0.1 a frame: squared error 0.01 everywhere
    assert published.warping_error(fading(0.1), flows(0, 0)) == pytest.approx(0.01, rel=1e-5)
    # A claimed shift of 3 px that returns by 3 is consistent; one that does not return is hidden everywhere
    assert published.warping_error(fading(0.1), flows(3, -3)) == pytest.approx(0.01, rel=1e-5)
    assert np.isnan(published.warping_error(fading(0.1), flows(3, 0)))


def test_occlusion_threshold_by_hand():
    # |3 - 2.2|^2 = 0.64 against 0.01 (9 + 4.84) + 0.5 = 0.6384: just hidden; 2.21 gives 0.6241: just not
    there = np.zeros((64, 64, 2), np.float32)
    there[..., 0] = 3
    assert published.occluded(there, -there * 2.2 / 3).all()
    assert not published.occluded(there, -there * 2.21 / 3).any()


def test_motion_boundaries_are_left_out():
    there = np.zeros((64, 64, 2), np.float32)
    there[:, 32:, 0] = 1  # central differences see the step at columns 31 and 32: 0.25 > 0.012
    hidden = published.occluded(there, -there)
    assert hidden[:, 31:33].all()
    assert not hidden[:, :31].any()


def test_first_frame_error_by_hand():
    found = published.first_frame_error(fading(0.1), fading(0.1)[2])
    assert found["mse"] == pytest.approx(0.04, rel=1e-5)
    # Flat pictures: SSIM is its brightness term, (2 ab + c) / (a^2 + b^2 + c) with c = 0.01^2
    assert found["ssim"] == pytest.approx((2 * 0.2 * 0.4 + 1e-4) / (0.2**2 + 0.4**2 + 1e-4), rel=1e-4)


def test_autocorrelation_by_hand():
    turning = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]], float)
    assert published.autocorrelation(turning) == pytest.approx(1)  # neighbours are at right angles
    assert published.autocorrelation(turning, lag=2) == pytest.approx(2)  # and every second one is opposite
    assert published.autocorrelation(np.ones((4, 3))) == pytest.approx(0)


def test_consistency_by_hand():
    # Neighbours: 0, 1; to the first: 0, 0. Mean of (0 + 0)/2 and (1 + 0)/2 is 0.25
    found = published.consistency([[1, 0], [0, 1], [0, 1]])
    assert found["consistency"] == pytest.approx(0.25)
    assert (found["min"], found["last"], found["slope"]) == pytest.approx((0, 0, 0))
    assert published.consistency([[1, 0], [-1, 0]])["consistency"] == 0  # opposites count as 0, not -1


def test_i2v_score_hides_drift_and_its_companions_do_not():
    # cos to the input 1, 0.6, 0; steps 0.6, 0.8: 0.4 * 1 + 0.3 * 0.7 + 0.3 * 0.6 = 0.79
    found = published.i2v_score([1, 0], [[1, 0], [0.6, 0.8], [0, 1]])
    assert found["score"] == pytest.approx(0.79)
    assert (found["min"], found["last"]) == pytest.approx((0, 0))
    assert found["slope"] == pytest.approx(-0.5)
