"""Each stage is charged what it did, by its size, and the autoencoder by itself what it loses."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from svdlab import probes
from svdlab.measure.calibrate import PHOTOGRAPHS, moving
from svdlab.measure.fidelity import BANDS
from svdlab.pipeline.images import sample_image
from svdlab.probes import quality, stimuli
from svdlab.stats.effects import EFFECT, EQUIVALENT, TOO_FEW
from tests.probes.conftest import FEW, findings_of, table_of

LEVEL = 1 / 255


def realism_of(spoil, frames=6, chunk=3):
    """Findings for panned photographs, where `spoil` says what the stages did: through, whole, chunked, filed."""
    rows = []
    for photograph in PHOTOGRAPHS + PHOTOGRAPHS[:1]:
        start = (0.0, 0.0) if len(rows) < 5 else (40.0, 20.0)
        clip = 0.1 + 0.8 * moving(photograph, size=(96, 96), frames=frames, pan=1.0, start=start).frames
        rows.append(quality.stage_measures(clip[0], spoil(clip), chunk))
    table = table_of(rows)
    return findings_of("realism", table), table


def test_a_faithful_clip_has_nothing_to_report():
    found, table = realism_of(lambda clip: (stimuli.still(clip[0], 6), clip, clip, clip))
    assert found["detail"].verdict == EQUIVALENT and abs(found["detail"].value) < 0.5
    for stage in quality.STAGES:
        assert (table[f"mse_{stage}"] == 0).all()
    assert found["flicker"].verdict == EQUIVALENT
    assert found["fade"].verdict == EQUIVALENT
    assert found["seam_height"].value == 0
    assert found["rms_mp4"].value == 0


def test_a_blur_by_the_denoiser_is_the_denoisers():
    sigma = 1.0
    found, _ = realism_of(lambda clip: (stimuli.still(clip[0], 6), *[stimuli.blurred(clip, sigma)] * 3))
    assert found["detail"].verdict == EFFECT and found["detail"].value < -3
    assert found["detail_denoiser"].value == pytest.approx(found["detail"].value, abs=0.3)
    assert found["detail_autoencoder"].verdict == EQUIVALENT
    assert found["error_denoiser"].value == pytest.approx(1)
    assert found["blur"].verdict == EFFECT
    assert found["flicker"].verdict == EQUIVALENT


def test_each_stage_is_charged_noise_of_its_own_size():
    """0.01 by the autoencoder, 0.02 by the denoiser, 0.03 by the mp4: squares as 1 to 4 to 9."""
    rng = np.random.default_rng(0)

    def spoil(clip):
        noise = [rng.normal(0, s, clip.shape).astype(np.float32) for s in (0.01, 0.02, 0.03)]
        through = stimuli.still(clip[0], 6) + noise[0]
        whole = clip + noise[0] + noise[1]
        return through, whole, whole, np.clip(whole + noise[2], 0, 1)

    found, table = realism_of(spoil)
    for stage, size in (("autoencoder", 0.01), ("denoiser", 0.02), ("mp4", 0.03)):
        assert np.sqrt(table[f"mse_{stage}"]).to_numpy() == pytest.approx(size, rel=0.03)
        share = found[f"error_{stage}"].value
        assert share == pytest.approx(size**2 / 0.0014, rel=0.05)
    assert (table.mse_chunks == 0).all()
    assert found["rms_mp4"].value == pytest.approx(0.03 / LEVEL, rel=0.03)
    assert found["detail"].value > 1  # noise is detail, too, if not the right one
    denoiser = quality.parts(table)[quality.STAGES.index("denoiser")].sum(axis=1)
    assert BANDS[denoiser.argmax()] == "above 1/4"  # as white noise has it


def test_seams_flicker_and_fading_are_found_at_their_size():
    step = np.repeat([0.0, 0.02], 3)[:, None, None, None].astype(np.float32)
    found, _ = realism_of(lambda clip: (stimuli.still(clip[0], 6), clip, clip + step, clip + step))
    assert found["seam_height"].value == pytest.approx(0.02 / LEVEL, rel=0.01)
    assert found["rms_chunks"].value == pytest.approx(0.02 / math.sqrt(2) / LEVEL, rel=0.01)

    def flickering(clip):
        whole = clip + np.where(np.arange(6) % 2, 0.005, -0.005)[:, None, None, None].astype(np.float32)
        return stimuli.still(clip[0], 6), whole, whole, whole

    found, table = realism_of(flickering)
    assert found["flicker"].verdict == EFFECT
    assert found["flicker"].value == pytest.approx(0.02 / LEVEL, rel=0.2)

    def softening(clip):
        whole = np.stack([stimuli.blurred(f[None], 0.2 * t)[0] if t else f for t, f in enumerate(clip)])
        return stimuli.still(clip[0], 6), whole, whole, whole

    found, table = realism_of(softening)
    assert found["fade"].verdict == EFFECT
    assert (np.diff(np.mean(table.detail_by_frame.tolist(), axis=0))[1:] < 0).all()


def test_realism_on_the_organism(pipe, study_folder):
    result = probes.run("realism", pipe, study_folder, quick=True, conditions=FEW, progress=False)
    assert result.status == "done" and all(c.passed for c in result.audit)
    assert len(result.table) == 6 and (result.table.status == "done").all()
    sums = result.table[[f"detail_{s}" for s in quality.STAGES]].sum(axis=1)
    assert sums.to_numpy() == pytest.approx(result.table.detail_total.to_numpy(), abs=1e-6)
    stages = result.table[[f"mse_{s}" for s in (*quality.STAGES, "together")]].sum(axis=1)
    assert stages.to_numpy() == pytest.approx(result.table.mse_total.to_numpy(), rel=1e-3)
    assert (result.table[[f"mse_{s}" for s in quality.STAGES]] > 0).all().all()
    assert all(len(e.frames) == 6 for e in result.examples)
    result.figure()


# --- the autoencoder alone --------------------------------------------------------------------------------------------


def test_a_still_by_hand():
    image = moving("cat", size=(64, 64), frames=1).frames[0] * 0.8
    found = quality.losses(image, image + np.float32(0.1))
    assert found["rms"] == pytest.approx(25.5, rel=1e-4) and found["psnr"] == pytest.approx(20, rel=1e-4)
    assert all(abs(found[c]) < 1e-3 for c in quality.OCTAVES)  # brighter, with all its detail
    soft = quality.losses(image, ndimage.gaussian_filter(image, (1, 1, 0)))
    lost = [soft[c] for c in quality.OCTAVES]
    assert lost == sorted(lost, reverse=True) and lost[-1] < -9
    assert math.isnan(quality.losses(image, image)["psnr"])


def stills(error, n=6):
    """Rows as a probe makes them, for an autoencoder that adds noise of so many grey levels."""
    rng, rows = np.random.default_rng(1), []
    for i in range(n):
        image = 0.2 + 0.6 * moving(PHOTOGRAPHS[i % 5], size=(64, 64), frames=1, start=(8.0 * i, 0)).frames[0]
        through = np.clip(image + rng.normal(0, error * LEVEL, image.shape), 0, 1)
        row = dict(kind="still", stimulus=f"p{i}", content="images", height=64, width=64, own_size=True, latent_rms=1.0)
        rows.append(row | quality.losses(image, through))
        rows.append(dict(kind="clip", stimulus=f"p{i}", seam_height=0.0, chunk_rms=0.0, flicker=0.0))
        rows.append(dict(kind="grating", stimulus=f"g{i}", frequency=1 / 8, contrast_kept=0.5))
    return pd.DataFrame(rows)


def test_noise_of_known_size_is_found_and_a_trace_of_it_is_none():
    loud, quiet = findings_of("autoencoder", stills(6.0)), findings_of("autoencoder", stills(0.3))
    assert loud["rms"].verdict == EFFECT and loud["rms"].value == pytest.approx(6, rel=0.03)
    assert quiet["rms"].verdict == EQUIVALENT
    assert loud["seam_height"].verdict == EQUIVALENT
    assert loud["scale"].verdict == EQUIVALENT
    assert findings_of("autoencoder", stills(6.0, n=4))["rms"].verdict == TOO_FEW


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
