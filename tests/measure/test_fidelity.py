"""Fidelity and detail against values worked out by hand, closed forms, and motion, noise and blur of known size."""

import math

import cv2
import numpy as np
import pytest
import skimage.data
from scipy import fft, ndimage
from skimage.color import rgb2hsv
from skimage.measure import blur_effect

from svdlab.errors import InputError
from svdlab.measure import fidelity
from svdlab.measure.calibrate import degrade, moving
from svdlab.measure.flow import both_ways

IMAGE, LARGE = (moving("cat", size=(side, side), frames=1).frames[0] for side in (64, 256))
FROZEN = np.repeat(IMAGE[None], 5, axis=0)
RNG = np.random.default_rng(0)


def fading(step, frames=5):
    """A flat clip whose grey rises by that much each frame."""
    return np.full((frames, 64, 64, 3), 0.2) + step * np.arange(frames)[:, None, None, None]


def test_a_frozen_copy_of_its_input_is_perfect():
    found = fidelity.summary(FROZEN, IMAGE)
    for name in ("drift_mse_last", "drift_slope", "drift_colour_last", "flicker_mae", "flicker_brightness", "warp_error"):
        assert found[name] == pytest.approx(0, abs=1e-9), name
    assert found["drift_ssim_last"] == pytest.approx(1)
    assert found["blur_slope"] == pytest.approx(0, abs=1e-12)
    assert fidelity.summary(FROZEN) == {key: value for key, value in found.items() if not key.startswith("drift")}


def test_drift_by_hand():
    # Errors 0, 0.1, 0.2, 0.3, 0.4: squares 0, .01, .04, .09, .16; their least-squares slope is 0.4 / 10 = 0.04
    found = fidelity.drift(fading(0.1), fading(0.1)[0])
    by_hand = {"mse_last": 0.16, "mse_mean": 0.06, "slope": 0.04, "colour_last": 0.4 * np.sqrt(3)}
    assert [found[f"drift_{key}"] for key in by_hand] == pytest.approx(list(by_hand.values()), rel=1e-4)
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


@pytest.mark.parametrize("size", [(64, 64), (45, 90), (576, 1024)])
def test_the_quick_ways_give_scikit_images_numbers(size):
    """Photographs in colour, blurred and not, with flat, black and white parts; and frames without any slope."""
    frames = np.stack([cv2.resize(skimage.data.astronaut(), size[::-1])] * 4).astype(np.float32) / 255
    frames[1] = cv2.GaussianBlur(frames[1], (0, 0), 2)
    frames[2, : size[0] // 2, : size[1] // 3], frames[2, -20:, -30:], frames[3] = 0, 1, 0.3
    table = fidelity.per_frame(frames)
    assert table.blur.tolist() == pytest.approx([blur_effect(f, channel_axis=-1) for f in frames], abs=1e-6)
    assert table.blur[3] == 1
    assert fidelity.drift(frames, frames[1])["drift_mse_last"] == pytest.approx(
        np.square(frames[3] - frames[1]).mean(), abs=1e-6
    )
    assert fidelity.flicker(frames)["flicker_mae"] == pytest.approx(np.abs(np.diff(frames, axis=0)).mean(), abs=1e-6)


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
    equal = dict(reconstruction_mse=0, reconstruction_psnr=np.inf, reconstruction_ssim=pytest.approx(1))
    assert fidelity.reconstruction_error(IMAGE, IMAGE) == equal
    found = fidelity.reconstruction_error(fading(0.1)[0], fading(0.1)[1])
    assert found["reconstruction_mse"] == pytest.approx(0.01, rel=1e-5)
    assert found["reconstruction_psnr"] == pytest.approx(20, rel=1e-5)


# --- detail


@pytest.mark.parametrize(("frequency", "band"), [(1 / 48, 1), (1 / 24, 2), (1 / 12, 3), (1 / 6, 4), (1 / 3, 5)])
@pytest.mark.parametrize("angle", [0, 90, 45])
def test_a_grating_lies_in_its_own_octave(frequency, band, angle):
    power = fidelity.power(fidelity.grating((192, 192), frequency, angle=angle)[None])[0]
    assert power[0] == pytest.approx(0.25, rel=0.05)  # its mean grey, squared
    assert power[band] / power[1:].sum() > 0.95
    assert power[1:].sum() == pytest.approx(0.4**2 / 2, rel=0.05)  # of a sine: half the square of its amplitude


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0])
def test_a_gaussian_blur_costs_what_its_transfer_function_says(sigma):
    """exp(-2 pi^2 sigma^2 f^2), squared for power, weighed by the image's own spectrum."""
    blurred = ndimage.gaussian_filter(LARGE.astype(np.float64), (sigma, sigma, 0), mode="reflect", truncate=8)
    cosines = np.square(fft.dctn(LARGE.astype(np.float64), axes=(0, 1), norm="ortho")).sum(-1)
    cycles = np.arange(256) / 512  # per px, of each cosine
    transfer = np.exp(-4 * np.pi**2 * sigma**2 * (cycles[:, None] ** 2 + cycles**2))
    which = fidelity.band_of(LARGE.shape)
    table = fidelity.kept(LARGE, blurred[None])
    for b, name in enumerate(fidelity.BANDS[1:4], start=1):  # a sampled kernel is not quite Gaussian near its cut-off
        chosen = which == b
        expected = 10 * math.log10((cosines * transfer)[chosen].sum() / cosines[chosen].sum())
        assert table[table.band == name].db.item() == pytest.approx(expected, abs=0.1)


def fine_db(reference, frames):
    """Detail kept finer than 8 px a cycle: the two finest bands together, dB of the whole clip."""
    table = fidelity.kept(reference, frames)
    return fidelity.decibels(*table[table.band.isin(fidelity.FINE)][["power", "reference"]].sum())


def test_detail_is_kept_by_a_copy_by_motion_and_not_by_blur():
    clip = moving("coffee", size=(256, 256), frames=4, pan=3.3).frames
    assert fidelity.kept(LARGE, LARGE[None]).db.abs().max() < 1e-9
    assert abs(fine_db(clip[0], clip)) < 0.3
    assert fine_db(clip[0], degrade(clip, blur=1.0)) < -5 and fine_db(LARGE, degrade(LARGE[None], noise=0.05)) > 1
    flat = np.full((64, 64, 3), 0.5)
    assert fidelity.kept(flat, flat[None]).db.isna().all()


def test_a_gratings_contrast_comes_back_whatever_lies_over_it():
    wave = fidelity.grating((64, 64), 1 / 8, angle=30, contrast=0.3)
    noisy = np.clip(wave + RNG.normal(0, 0.05, wave.shape), 0, 1)
    assert fidelity.modulation(wave, 1 / 8, angle=30) == pytest.approx(0.3, rel=1e-3)
    assert fidelity.modulation(noisy, 1 / 8, angle=30) == pytest.approx(0.3, rel=0.05)
    assert fidelity.modulation(wave, 1 / 8, angle=120) < 0.03


def test_regions_cover_the_image_and_know_edges_from_texture():
    image = np.full((128, 128, 3), 0.3, np.float32)
    image[:, 40:] = 0.7  # one upright edge
    noise = np.repeat(ndimage.gaussian_filter(RNG.normal(0, 0.5, (128, 48)), 1)[..., None], 3, -1)
    image[:, 80:] = np.clip(0.5 + noise, 0, 1)
    found = fidelity.regions(image)
    assert sum(m.astype(int) for m in found.values()).tolist() == np.ones((128, 128), int).tolist()
    assert found["edges"][8:-8, 39:41].all()
    assert found["flat"][:, :32].all() and found["flat"][:, 48:72].all()
    assert found["texture"][:, 88:].mean() > 0.75


def test_each_stage_band_and_region_is_charged_what_it_changed():
    """Noise of 0.02, then a shift of grey by 0.05, then nothing: their squares, and no more."""
    image = np.clip(LARGE, 0.3, 0.7)
    noisy = image + RNG.normal(0, 0.02, image.shape).astype(np.float32)
    table = fidelity.budget({"input": image, "autoencoder": noisy, "denoiser": noisy + 0.05, "mp4": noisy + 0.05})
    parts = table.groupby("stage").mse.sum()
    assert parts["autoencoder"] == pytest.approx(0.02**2, rel=0.02)
    assert parts["denoiser"] == pytest.approx(0.05**2, rel=1e-3)
    assert parts["mp4"] == 0
    assert parts.sum() == pytest.approx(np.square(noisy + 0.05 - image).mean(), rel=1e-3)
    white = table[table.stage == "autoencoder"].groupby("band").mse.sum()  # white noise: by the area of each band
    for b, name in enumerate(fidelity.BANDS):
        assert white[name] / white.sum() == pytest.approx((fidelity.band_of(image.shape) == b).mean(), abs=0.01)
    shifted = table[table.stage == "denoiser"].groupby("band").mse.sum()
    assert shifted["mean"] / shifted.sum() == pytest.approx(1, abs=1e-3)
    where = fidelity.regions(LARGE)["texture"]
    spoilt = np.clip(LARGE + 0.1 * where[..., None] * RNG.choice([-1, 1], where.shape)[..., None], 0, 1)
    by = fidelity.budget({"input": LARGE, "denoiser": spoilt}).query("stage == 'denoiser'").groupby("region").mse.sum()
    assert by["texture"] == pytest.approx(np.square(spoilt - LARGE).mean(), rel=1e-3)
    assert abs(by["edges"]) + abs(by["flat"]) < 1e-6


@pytest.mark.parametrize("height", [0.0, 0.01, 0.03])
def test_seams_of_known_height_are_recovered(height):
    clip = moving("coffee", size=(64, 64), frames=9, pan=1.5).frames * 0.8 + 0.05
    second = (np.arange(9) // 3 % 2)[:, None, None, None]  # every second chunk is brighter, or has a pattern
    noise = RNG.normal(0, 0.004, clip.shape)
    found = fidelity.seams(clip, np.clip(clip + height * second + noise, 0, 1), 3)
    assert found["seams"] == 2
    assert found["seam_height"] == pytest.approx(height, abs=0.0015)
    assert found["seam_brightness"] == pytest.approx(height, abs=0.0005)
    found = fidelity.seams(clip, clip + height * RNG.choice([-1, 1], (64, 64, 1)) * second, 3)
    assert found["seam_height"] == pytest.approx(height, rel=1e-3)
    assert found["seam_brightness"] < 0.001  # seams need not be steps of brightness


@pytest.mark.parametrize(
    "call",
    [
        lambda: fidelity.summary(FROZEN[:1]),
        lambda: fidelity.drift(FROZEN, IMAGE[:32]),
        lambda: fidelity.kept(LARGE, LARGE[None, :128]),
        lambda: fidelity.ssim(LARGE, LARGE[:128]),
        lambda: fidelity.grating((64, 64), 0.5),
        lambda: fidelity.power(LARGE[None] * np.nan),
        lambda: fidelity.budget({"input": LARGE, "together": LARGE}),
        lambda: fidelity.budget({"input": LARGE, "mp4": LARGE[:128]}),
        lambda: fidelity.seams(FROZEN, FROZEN[:4], 2),
        lambda: fidelity.seams(FROZEN, FROZEN, 5),
    ],
)
def test_bad_input_is_refused(call):
    with pytest.raises(InputError):
        call()
