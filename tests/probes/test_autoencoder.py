from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from svdlab import probes
from svdlab.measure.calibrate import PHOTOGRAPHS, moving
from svdlab.pipeline.images import sample_image
from svdlab.probes import autoencoder
from svdlab.stats.effects import EFFECT, EQUIVALENT, TOO_FEW
from tests.probes.conftest import by_key

LEVEL = 1 / 255


def test_a_still_by_hand():
    image = moving("cat", size=(64, 64), frames=1).frames[0] * 0.8
    found = autoencoder.losses(image, image + np.float32(0.1))
    assert found["rms"] == pytest.approx(25.5, rel=1e-4) and found["psnr"] == pytest.approx(20, rel=1e-4)
    assert all(abs(found[c]) < 1e-3 for c in autoencoder.OCTAVES)  # brighter, with all its detail
    soft = autoencoder.losses(image, ndimage.gaussian_filter(image, (1, 1, 0)))
    lost = [soft[c] for c in autoencoder.OCTAVES]
    assert lost == sorted(lost, reverse=True) and lost[-1] < -9
    assert math.isnan(autoencoder.losses(image, image)["psnr"])


def stills(error, n=6):
    """Rows as a probe makes them, for an autoencoder that adds noise of so many grey levels."""
    rng, rows = np.random.default_rng(1), []
    for i in range(n):
        image = 0.2 + 0.6 * moving(PHOTOGRAPHS[i % 5], size=(64, 64), frames=1, start=(8.0 * i, 0)).frames[0]
        through = np.clip(image + rng.normal(0, error * LEVEL, image.shape), 0, 1)
        row = dict(kind="still", stimulus=f"p{i}", content="images", height=64, width=64, own_size=True, latent_rms=1.0)
        rows.append(row | autoencoder.losses(image, through))
        rows.append(dict(kind="clip", stimulus=f"p{i}", seam_height=0.0, chunk_rms=0.0, flicker=0.0))
        rows.append(dict(kind="grating", stimulus=f"g{i}", frequency=1 / 8, contrast_kept=0.5))
    return pd.DataFrame(rows)


def test_noise_of_known_size_is_found_and_a_trace_of_it_is_none():
    loud, quiet = by_key(autoencoder.findings(stills(6.0))), by_key(autoencoder.findings(stills(0.3)))
    assert loud["rms"].verdict == EFFECT and loud["rms"].value == pytest.approx(6, rel=0.03)
    assert quiet["rms"].verdict == EQUIVALENT
    assert loud["seam_height"].verdict == EQUIVALENT
    assert loud["scale"].verdict == EQUIVALENT
    assert by_key(autoencoder.findings(stills(6.0, n=4)))["rms"].verdict == TOO_FEW


def test_autoencoder_on_the_organism(pipe, study_folder):
    """It was trained on its own world alone: that it keeps, and gratings finer than its latents' pixels it cannot."""
    scenes = [sample_image(f"scene-{i}") for i in range(3)]
    result = probes.run("autoencoder", pipe, study_folder, images=scenes, progress=False)
    assert result.status == "done" and all(c.passed for c in result.audit)
    table = result.table
    assert set(table.kind) == {"still", "grating", "clip"}
    own = table[(table.kind == "still") & table.own_size.eq(True)]
    assert set(own.content) == {"yours", "edges", "text"} and len(own) == 9
    psnr = own.groupby("content").psnr.mean()
    assert psnr["yours"] > psnr[["edges", "text"]].max() + 5
    kept = table[table.kind == "grating"].groupby("frequency").contrast_kept.mean()
    assert kept.iloc[0] > 2 * kept.iloc[-1]
    assert set(table[table.kind == "still"].width) == {64, 128}
    result.figure()
