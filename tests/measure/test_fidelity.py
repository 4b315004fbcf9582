"""Fidelity against values worked out by hand, and against motion and noise of known size."""

import numpy as np
import pytest
from skimage.color import rgb2hsv
from skimage.measure import blur_effect

from svdlab.errors import InputError
from svdlab.measure import fidelity
from svdlab.measure.calibrate import degrade, moving
from svdlab.measure.flow import both_ways

IMAGE = moving("cat", size=(64, 64), frames=1).frames[0]
FROZEN = np.repeat(IMAGE[None], 5, axis=0)


def fading(step, frames=5):
    """A flat clip whose grey rises by that much each frame."""
    return np.full((frames, 64, 64, 3), 0.2) + step * np.arange(frames)[:, None, None, None]


def test_a_frozen_copy_of_its_input_is_perfect():
    found = fidelity.summary(FROZEN, IMAGE)
    for name in ("drift_mse_last", "drift_slope", "drift_colour_last", "flicker_mae", "flicker_brightness", "warp_error"):
        assert found[name] == pytest.approx(0, abs=1e-9), name
    assert found["drift_ssim_last"] == pytest.approx(1)
    assert found["blur_slope"] == pytest.approx(0, abs=1e-12)
    assert fidelity.reconstruction_error(IMAGE, IMAGE) == dict(
        reconstruction_mse=0, reconstruction_psnr=np.inf, reconstruction_ssim=pytest.approx(1)
    )


def test_drift_by_hand():
    # Errors 0, 0.1, 0.2, 0.3, 0.4: squares 0, .01, .04, .09, .16; their least-squares slope is 0.4 / 10 = 0.04
    found = fidelity.drift(fading(0.1), fading(0.1)[0])
    assert found["drift_mse_last"] == pytest.approx(0.16, rel=1e-5)
    assert found["drift_mse_mean"] == pytest.approx(0.06, rel=1e-5)
    assert found["drift_slope"] == pytest.approx(0.04, rel=1e-5)
    assert found["drift_colour_last"] == pytest.approx(0.4 * np.sqrt(3), rel=1e-4)
    # SSIM of flat images is its brightness term, (2 ab + c) / (a^2 + b^2 + c) with c = 0.01^2
    assert found["drift_ssim_last"] == pytest.approx((2 * 0.2 * 0.6 + 1e-4) / (0.2**2 + 0.6**2 + 1e-4), rel=1e-4)


def test_a_fade_is_no_flicker():
    jumping = fading(0.0)
    jumping[1::2] += 0.1  # second differences of 0, .1, 0, .1, 0 are -+0.2
    assert fidelity.flicker(fading(0.1))["flicker_brightness"] == pytest.approx(0, abs=1e-6)
    assert fidelity.flicker(jumping)["flicker_brightness"] == pytest.approx(0.2, rel=1e-5)
    assert fidelity.flicker(jumping)["flicker_mae"] == pytest.approx(0.1, rel=1e-5)
    assert np.isnan(fidelity.flicker(jumping[:2])["flicker_brightness"])  # two frames have no second difference


def test_warp_error_forgives_motion_and_not_change():
    clip = moving("coffee", size=(256, 256), frames=3, pan=2).frames
    assert fidelity.warp_error(clip)["warp_error"] < 0.02
    assert fidelity.warp_error(degrade(clip, noise=0.05))["warp_error"] == pytest.approx(0.05 * np.sqrt(2), rel=0.2)
    assert fidelity.warp_error(clip)["hidden_share"] == pytest.approx(1 - both_ways(clip, longest_baseline=1).visible.mean())


def test_the_row_of_a_frame():
    frames = moving("cat", size=(64, 64), frames=3, pan=1).frames * np.array([1.0, 0.6, 0.3], np.float32)
    frames[2, :16] = 0
    table = fidelity.per_frame(frames)
    assert table.brightness.tolist() == pytest.approx(frames.mean((1, 2, 3)).tolist(), rel=1e-5)
    assert table.contrast.tolist() == pytest.approx(frames.mean(-1).std((1, 2)).tolist(), rel=1e-5)
    assert table.black[2] == pytest.approx(0.25, abs=0.01) and table.white.max() < 0.01
    assert table.saturation.tolist() == [float(rgb2hsv(f)[..., 1].mean()) for f in frames]  # skimage's, bit for bit
    assert table.blur.tolist() == [blur_effect(f, channel_axis=-1) for f in frames]


def test_decay_follows_what_is_done_to_sharpness_and_colour():
    blurred = np.stack([degrade(IMAGE[None], blur=s)[0] for s in (0, 1, 2, 3)])
    found = fidelity.decay(blurred)
    assert found["blur_slope"] > 0.05 and found["blur_last"] > found["blur_first"]
    red = np.zeros((3, 64, 64, 3))
    red[..., 0] = 0.5
    red[2] = 0.5  # grey at last
    found = fidelity.decay(red)
    assert (found["saturation_first"], found["saturation_last"]) == (1, 0)
    assert found["saturation_slope"] == pytest.approx(-0.5)  # least squares through 1, 1, 0
    assert fidelity.decay(np.zeros((2, 64, 64, 3)))["clipped_max"] == 1


def test_reconstruction_by_hand():
    found = fidelity.reconstruction_error(fading(0.1)[0], fading(0.1)[1])
    assert found["reconstruction_mse"] == pytest.approx(0.01, rel=1e-5)
    assert found["reconstruction_psnr"] == pytest.approx(20, rel=1e-5)


def test_the_summary_is_its_parts():
    clip = moving("coffee", size=(64, 64), frames=4, pan=1).frames
    parts = fidelity.flicker(clip) | fidelity.warp_error(clip) | fidelity.decay(clip)
    assert fidelity.summary(clip) == parts
    assert fidelity.summary(clip, clip[0]) == parts | fidelity.drift(clip, clip[0])


@pytest.mark.parametrize(
    "call",
    [
        lambda: fidelity.drift(FROZEN, IMAGE[:32]),
        lambda: fidelity.summary(FROZEN[:1]),
        lambda: fidelity.reconstruction_error(IMAGE, IMAGE[:, :32]),
    ],
)
def test_bad_input_is_refused(call):
    with pytest.raises(InputError):
        call()
