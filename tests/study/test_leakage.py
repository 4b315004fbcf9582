"""Leakage and uncertainty are separated where one was planted; hybrid noise is white and of the seeds that it should be."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import svdlab
from svdlab.errors import InputError
from svdlab.organism import world
from svdlab.study.leakage import copied_image, estimates, fitted, one_step
from svdlab.study.noise import below, hybrid, unit_noise

CONDITIONS = svdlab.Conditions(fps=7, motion_bucket_id=120, max_guidance_scale=1.0)


@pytest.fixture(scope="module")
def clips() -> np.ndarray:
    return world.scenes(2, seed=77, motion="object", background="light", fps=7, motion_bucket_id=120).video


@pytest.mark.parametrize("weight", [0.25, 0.5])
def test_a_planted_weight_is_found_where_it_was_planted(pipe: svdlab.ProbePipeline, clips: np.ndarray, weight: float) -> None:
    how = dict(sigmas=[100.0, 4.0])
    own = one_step(pipe, clips, CONDITIONS, **how).groupby("sigma").leak.mean()
    with copied_image(pipe, weight, steps=(20.0, 700.0)):
        found = one_step(pipe, clips, CONDITIONS, **how).groupby("sigma").leak.mean()
    assert found[100.0] == pytest.approx(1 - (1 - weight) * (1 - own[100.0]), abs=0.06) and found[4.0] == own[4.0]
    assert abs(own[100.0]) < 0.1


def test_a_still_clip_is_a_leak_of_one(pipe: svdlab.ProbePipeline, clips: np.ndarray) -> None:
    with copied_image(pipe, 1.0):
        (still,) = estimates(pipe, clips[0], CONDITIONS, sigmas=[40.0])
    assert np.ptp(still.latents.numpy(), axis=0).max() < 1e-3


def test_a_video_that_stands_still_has_no_leak(pipe: svdlab.ProbePipeline, clips: np.ndarray) -> None:
    table = one_step(pipe, [np.repeat(clips[0][:1], 8, axis=0), clips[0]], CONDITIONS, sigmas=[40.0])
    assert table[["motion", "change", "leak"]].isna().to_numpy().tolist() == [[True] * 3, [False] * 3]


def test_videos_are_cut_to_the_frames_and_the_size_that_are_asked_for(pipe: svdlab.ProbePipeline) -> None:
    long = np.random.default_rng(0).random((11, 96, 160, 3), dtype=np.float32)
    assert fitted(pipe, long, CONDITIONS).shape == (8, 64, 64, 3)
    with pytest.raises(InputError, match="give a Conditions"):
        fitted(pipe, long, {"fps": 7})
    with pytest.raises(InputError, match="5 frames, and 8"):
        fitted(pipe, long[:5], CONDITIONS)


def test_hybrid_noise_is_white_and_has_each_frequency_from_one_seed(pipe: svdlab.ProbePipeline) -> None:
    low, high = unit_noise(pipe, seeds=[0, 1])
    mixed, chosen = hybrid(low, high, 0.5), below(low.shape, 0.5)
    spectrum = lambda z: torch.fft.fftn(z, dim=(0, 2, 3))
    torch.testing.assert_close(spectrum(mixed), torch.where(chosen, spectrum(low), spectrum(high)), atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(hybrid(low, high, 2.0), low, atol=1e-5, rtol=1e-4)
    assert mixed.std().item() == pytest.approx(1, abs=0.03) and abs(mixed.mean().item()) < 0.05


def test_the_same_seed_gives_the_noise_that_generate_takes(pipe: svdlab.ProbePipeline) -> None:
    (noise,) = unit_noise(pipe, seeds=[3])
    with svdlab.trace(pipe, keep=["latents"], steps=[0]) as tr:
        svdlab.generate(pipe, "scene-4", noise=noise, num_inference_steps=1, max_guidance_scale=1.0)
    torch.testing.assert_close(tr.latents[0] / (tr.sigmas[0] ** 2 + 1) ** 0.5, noise, atol=1e-5, rtol=1e-4)
