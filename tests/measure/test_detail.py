"""Spectra and error budgets, against closed forms and degradations of known size."""

import math

import numpy as np
import pytest
from scipy import fft, ndimage

from svdlab.errors import InputError
from svdlab.measure import detail
from svdlab.measure.calibrate import degrade, moving

IMAGE = moving("cat", size=(256, 256), frames=1).frames[0]
RNG = np.random.default_rng(0)


def test_bands_add_up_to_the_image_and_to_its_power():
    colours = np.stack([IMAGE[..., 0], IMAGE[::-1, :, 1], IMAGE[:, ::-1, 2]], -1)
    bands = detail.split(colours)
    assert np.abs(bands.sum(0) - colours).max() < 1e-6
    assert detail.power(colours[None]).sum() == pytest.approx(np.square(colours, dtype=np.float64).mean(), rel=1e-9)
    assert np.square(bands).mean(axis=(1, 2, 3)) == pytest.approx(detail.power(colours[None])[0], rel=1e-6)


@pytest.mark.parametrize(("frequency", "band"), [(1 / 48, 1), (1 / 24, 2), (1 / 12, 3), (1 / 6, 4), (1 / 3, 5)])
@pytest.mark.parametrize("angle", [0, 90, 45])
def test_a_grating_lies_in_its_own_octave(frequency, band, angle):
    power = detail.power(detail.grating((192, 192), frequency, angle=angle)[None])[0]
    assert power[0] == pytest.approx(0.25, rel=0.05)  # its mean grey, squared
    assert power[band] / power[1:].sum() > 0.95
    assert power[1:].sum() == pytest.approx(0.4**2 / 2, rel=0.05)  # of a sine: half the square of its amplitude


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0])
def test_a_gaussian_blur_costs_what_its_transfer_function_says(sigma):
    """exp(-2 pi^2 sigma^2 f^2), squared for power, weighed by the image's own spectrum."""
    blurred = ndimage.gaussian_filter(IMAGE.astype(np.float64), (sigma, sigma, 0), mode="reflect", truncate=8)
    cosines = np.square(fft.dctn(IMAGE.astype(np.float64), axes=(0, 1), norm="ortho")).sum(-1)
    cycles = np.arange(256) / 512  # per px, of each cosine
    transfer = np.exp(-4 * np.pi**2 * sigma**2 * (cycles[:, None] ** 2 + cycles**2))
    which = detail.band_of(IMAGE.shape)
    table = detail.kept(IMAGE, blurred[None])
    for b, name in enumerate(detail.BANDS[1:4], start=1):  # a sampled kernel is not quite Gaussian near its cut-off
        chosen = which == b
        expected = 10 * math.log10((cosines * transfer)[chosen].sum() / cosines[chosen].sum())
        assert table[table.band == name].db.item() == pytest.approx(expected, abs=0.1)


def fine_db(reference, frames):
    """Detail kept finer than 8 px a cycle: the two finest bands together, dB per frame."""
    table = detail.kept(reference, frames)
    fine = table[table.band.isin(detail.FINE)].groupby("frame")[["power", "reference"]].sum()
    return np.array([detail.decibels(*row) for row in fine.to_numpy()])


def test_detail_is_kept_by_a_copy_by_motion_and_not_by_blur():
    clip = moving("coffee", size=(256, 256), frames=4, pan=3.3).frames
    assert detail.kept(IMAGE, IMAGE[None]).db.abs().max() < 1e-9
    assert np.abs(fine_db(clip[0], clip)).max() < 0.3
    assert (fine_db(clip[0], degrade(clip, blur=1.0)) < -5).all()
    assert fine_db(IMAGE, degrade(IMAGE[None], noise=0.05))[0] > 1
    flat = np.full((64, 64, 3), 0.5)
    assert detail.kept(flat, flat[None]).db.isna().all()


def test_a_gratings_contrast_comes_back_whatever_lies_over_it():
    wave = detail.grating((64, 64), 1 / 8, angle=30, contrast=0.3)
    assert detail.modulation(wave, 1 / 8, angle=30) == pytest.approx(0.3, rel=1e-3)
    assert detail.modulation(wave, 1 / 8, angle=120) < 0.03
    noisy = wave + RNG.normal(0, 0.05, wave.shape)
    assert detail.modulation(np.clip(noisy, 0, 1), 1 / 8, angle=30) == pytest.approx(0.3, rel=0.05)


def test_regions_cover_the_image_and_know_edges_from_texture():
    image = np.full((128, 128, 3), 0.3, np.float32)
    image[:, 40:] = 0.7  # one upright edge
    noise = np.repeat(ndimage.gaussian_filter(RNG.normal(0, 0.5, (128, 48)), 1)[..., None], 3, -1)
    image[:, 80:] = np.clip(0.5 + noise, 0, 1)
    found = detail.regions(image)
    assert sum(m.astype(int) for m in found.values()).tolist() == np.ones((128, 128), int).tolist()
    assert found["edges"][8:-8, 39:41].all()
    assert found["flat"][:, :32].all() and found["flat"][:, 48:72].all()
    assert found["texture"][:, 88:].mean() > 0.75


def test_each_stage_is_charged_what_it_changed():
    """Noise of 0.02, then a shift of grey by 0.05, then nothing: their squares, and no more."""
    image = np.clip(IMAGE, 0.3, 0.7)
    noisy = image + RNG.normal(0, 0.02, image.shape).astype(np.float32)
    table = detail.budget({"input": image, "autoencoder": noisy, "denoiser": noisy + 0.05, "mp4": noisy + 0.05})
    parts = table.groupby("stage").mse.sum()
    assert parts["autoencoder"] == pytest.approx(0.02**2, rel=0.02)
    assert parts["denoiser"] == pytest.approx(0.05**2, rel=1e-3)
    assert parts["mp4"] == 0
    assert parts.sum() == pytest.approx(np.square(noisy + 0.05 - image).mean(), rel=1e-3)
    white = table[table.stage == "autoencoder"].groupby("band").mse.sum()  # white noise: by the area of each band
    for b, name in enumerate(detail.BANDS):
        assert white[name] / white.sum() == pytest.approx((detail.band_of(image.shape) == b).mean(), abs=0.01)
    shifted = table[table.stage == "denoiser"].groupby("band").mse.sum()
    assert shifted["mean"] / shifted.sum() == pytest.approx(1, abs=1e-3)


def test_an_error_is_charged_to_its_region():
    image = IMAGE.copy()
    where = detail.regions(image)["texture"]
    spoilt = np.clip(image + 0.1 * where[..., None] * RNG.choice([-1, 1], where.shape)[..., None], 0, 1)
    parts = detail.budget({"input": image, "denoiser": spoilt})
    by = parts[parts.stage == "denoiser"].groupby("region").mse.sum()
    assert by["texture"] == pytest.approx(np.square(spoilt - image).mean(), rel=1e-3)
    assert abs(by["edges"]) + abs(by["flat"]) < 1e-6


@pytest.mark.parametrize("height", [0.0, 0.01, 0.03])
def test_seams_of_known_height_are_recovered(height):
    clip = moving("coffee", size=(64, 64), frames=9, pan=1.5).frames * 0.8 + 0.05
    second = (np.arange(9) // 3 % 2)[:, None, None, None]  # every second chunk is brighter, or has a pattern
    noise = RNG.normal(0, 0.004, clip.shape)
    found = detail.seams(clip, np.clip(clip + height * second + noise, 0, 1), 3)
    assert found["seams"] == 2
    assert found["seam_height"] == pytest.approx(height, abs=0.0015)
    assert found["seam_brightness"] == pytest.approx(height, abs=0.0005)
    found = detail.seams(clip, clip + height * RNG.choice([-1, 1], (64, 64, 1)) * second, 3)
    assert found["seam_height"] == pytest.approx(height, rel=1e-3)
    assert found["seam_brightness"] < 0.001  # seams need not be steps of brightness


@pytest.mark.parametrize(
    "call",
    [
        lambda: detail.kept(IMAGE, IMAGE[None, :128]),
        lambda: detail.grating((64, 64), 0.5),
        lambda: detail.grating((64, 64), 0.1, contrast=0),
        lambda: detail.power(IMAGE),
        lambda: detail.power(IMAGE[None] * np.nan),
        lambda: detail.budget({"input": IMAGE}),
        lambda: detail.budget({"input": IMAGE, "together": IMAGE}),
        lambda: detail.budget({"input": IMAGE, "mp4": IMAGE[:128]}),
        lambda: detail.seams(IMAGE[None].repeat(4, 0), IMAGE[None].repeat(5, 0), 2),
        lambda: detail.seams(IMAGE[None].repeat(4, 0), IMAGE[None].repeat(4, 0), 4),
    ],
)
def test_bad_input_is_refused(call):
    with pytest.raises(InputError):
        call()
