"""The noise levels and scalings are SVD's: against closed forms, and against diffusers' own scheduler."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler
from svdlab.organism.model import SVD_SCHEDULER

from svdlab.errors import InputError
from svdlab.pipeline import schedule

SIGMAS = np.array([0.002, 0.1, 1.0, 30.0, 700.0])


def euler(steps: int) -> EulerDiscreteScheduler:
    scheduler = EulerDiscreteScheduler(**SVD_SCHEDULER)
    scheduler.set_timesteps(steps)
    return scheduler


@pytest.mark.parametrize("steps", [1, 2, 6, 25, 30])
def test_karras_levels_are_the_schedulers(steps: int) -> None:
    ours = schedule.karras(steps)
    assert np.allclose(ours, euler(steps).sigmas.numpy(), rtol=1e-5, atol=0)
    assert ours[0] == pytest.approx(700)
    assert ours[-1] == 0
    assert steps == 1 or ours[-2] == pytest.approx(0.002)
    assert (np.diff(ours) < 0).all()


def test_karras_levels_are_even_in_their_seventh_root() -> None:
    roots = schedule.karras(9)[:-1] ** (1 / 7)
    assert np.allclose(np.diff(roots, 2), 0, atol=1e-12)


def test_scalings_are_svds() -> None:
    c = schedule.scalings(SIGMAS)
    assert np.allclose(c.c_skip, 1 / (SIGMAS**2 + 1))
    assert np.allclose(c.c_out, -SIGMAS / np.sqrt(SIGMAS**2 + 1))
    assert np.allclose(c.c_in * np.sqrt(SIGMAS**2 + 1), 1)
    assert np.allclose(np.exp(4 * c.c_noise), SIGMAS)
    assert np.allclose(schedule.scalings(torch.tensor(SIGMAS)).c_noise.numpy(), c.c_noise)
    scheduler = euler(6)
    assert np.allclose(schedule.scalings(schedule.karras(6)[:-1]).c_noise, scheduler.timesteps.numpy(), atol=1e-5)


def test_a_perfect_v_gives_the_clean_latents_back() -> None:
    """v = (n - s * x0) / sqrt(s^2 + 1) for x = x0 + s * n: the definition of v in EDM's scale."""
    rng = np.random.default_rng(0)
    x0, n = rng.normal(size=(2, 50))
    for s in SIGMAS:
        v = (n - s * x0) / np.sqrt(s**2 + 1)
        assert np.allclose(schedule.v_to_denoised(x0 + s * n, v, s), x0, atol=1e-9)
        assert np.allclose(schedule.denoised_to_v(x0 + s * n, x0, s), v, atol=1e-9)


def test_denoised_and_step_are_the_schedulers() -> None:
    scheduler, generator = euler(6), torch.Generator().manual_seed(0)
    x = torch.randn(1, 8, 4, 4, 4, generator=generator) * scheduler.init_noise_sigma
    for i, t in enumerate(scheduler.timesteps):
        scheduler.scale_model_input(x, t)
        v = torch.randn(x.shape, generator=generator)
        out = scheduler.step(v, t, x)
        sigma, sigma_next = scheduler.sigmas[i], scheduler.sigmas[i + 1]
        denoised = schedule.v_to_denoised(x, v, sigma)
        assert torch.allclose(out.pred_original_sample, denoised, rtol=1e-5, atol=1e-5)
        after = schedule.euler_step(x, denoised, sigma, sigma_next)
        assert torch.allclose(out.prev_sample, after, rtol=1e-4, atol=1e-4)
        x = out.prev_sample


def test_the_tail_starts_at_or_below_the_level_asked_for() -> None:
    levels = schedule.karras(25)
    tail = schedule.tail_from(levels, 100.0)
    assert tail[0] <= 100 < levels[len(levels) - len(tail) - 1]
    assert np.array_equal(tail, levels[-len(tail) :])
    assert np.array_equal(schedule.tail_from(levels, 700.0), levels)
    with pytest.raises(InputError, match=r"smallest level above zero is 0\.002"):
        schedule.tail_from(levels, 0.001)


@pytest.mark.parametrize("arguments", [(0,), (5, -1.0), (5, 2.0, 1.0), (5, 0.0)])
def test_impossible_levels(arguments: tuple) -> None:
    with pytest.raises(InputError, match="sigma_min"):
        schedule.karras(*arguments)
