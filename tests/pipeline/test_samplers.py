"""Samplers by name: each comes to the distribution or the clip that it should, on SVD's levels; others are refused."""

import math
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import svdlab
from svdlab.errors import InputError, TraceError
from svdlab.pipeline import samplers
from svdlab.pipeline.conditions import CONSISTENCY, SCHEDULERS, UnusualConditionWarning
from svdlab.pipeline.generate import Start, generate_batch
from svdlab.pipeline.sampler import denoised_to_v, karras
from tests.pipeline.making import beside, make

ORDERS = {  # of the error in the length of the step
    "EulerDiscreteScheduler": 1,
    "EDMEulerScheduler": 1,
    "HeunDiscreteScheduler": 2,
    "EDMDPMSolverMultistepScheduler": 2,
}
MEAN, SD = 0.3, 0.7  # of the latents of a world that is known exactly


def denoise(pipe: Any, name: str | None, n: int, estimate: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise, and what n steps of a scheduler make of it, where the model's estimate is a formula."""
    scheduler, draw = samplers.prepared(pipe, name, n), torch.Generator().manual_seed(0)
    scheduler.set_begin_index(0)
    start = x = torch.randn(1, 1, 1, 200, 200, generator=draw) * scheduler.init_noise_sigma
    with_noise = {"generator": draw} if name in ("EulerAncestralDiscreteScheduler", CONSISTENCY) else {}
    for i, t in enumerate(scheduler.timesteps):
        sigma = float(scheduler.sigmas[i])
        assert float(t) == pytest.approx(math.log(sigma) / 4, abs=1e-5)  # what the UNet is told
        scaled = scheduler.scale_model_input(x, t)
        assert torch.allclose(scaled, x / (sigma**2 + 1) ** 0.5, rtol=1e-5)
        x = scheduler.step(denoised_to_v(x, estimate(x, sigma), sigma), t, x, **with_noise).prev_sample
    return start, x


def normal(x: torch.Tensor, sigma: float) -> torch.Tensor:
    """The mean of normally distributed latents, given what is left of them at this noise."""
    return MEAN + SD**2 / (SD**2 + sigma**2) * (x - MEAN)


def solution(x: torch.Tensor, sigma: float) -> torch.Tensor:
    """Where the probability flow leads from there: the consistency function of the same world."""
    return MEAN + SD / (SD**2 + sigma**2) ** 0.5 * (x - MEAN)


@pytest.mark.parametrize("name", ORDERS)
def test_the_error_falls_with_the_order_of_the_method(pipe: Any, name: str) -> None:
    errors = []
    for n in (40, 80, 160):
        start, x = denoise(pipe, name, n, normal)
        errors.append(float((x - solution(start, 700.0)).pow(2).mean().sqrt()))
    assert errors[2] < 0.02 and np.log2(errors[0] / errors[2]) / 2 == pytest.approx(ORDERS[name], abs=0.3), errors


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_sampler_makes_the_distribution(pipe: Any, name: str) -> None:
    n, estimate = (4, solution) if name == CONSISTENCY else (400, normal)  # new noise costs Euler's ancestral steps
    _, x = denoise(pipe, name, n, estimate)
    assert float(x.mean()) == pytest.approx(MEAN, abs=0.02) and float(x.std()) == pytest.approx(SD, abs=0.03)


def test_levels_are_the_checkpoints_whatever_the_scheduler(pipe: Any) -> None:
    for name in SCHEDULERS[:-1]:
        for n in (1, 2, 25):
            scheduler = samplers.prepared(pipe, name, n)
            assert list(dict.fromkeys(scheduler.sigmas.tolist())) == pytest.approx(karras(n), rel=1e-5)
            assert len(scheduler.timesteps) == len(scheduler.sigmas) - 1 == (2 * n - 1 if "Heun" in name else n)


def test_the_distilled_schedule_is_every_fifth_of_40_levels(pipe: Any) -> None:
    """animatelcm_scheduler.py of G-U-N/AnimateLCM, set_timesteps(n): places k * (40 // n) of 40, highest first."""
    every = karras(40)
    for n, places in ((1, [0]), (4, [0, 10, 20, 30]), (6, [0, 6, 12, 18, 24, 30]), (8, [0, 5, 10, 15, 20, 25, 30, 35])):
        scheduler = samplers.prepared(pipe, CONSISTENCY, n)
        assert scheduler.sigmas.tolist() == pytest.approx([*every[places], 0.0], rel=1e-5)
    with pytest.raises(InputError, match="40 noise levels"):
        make(pipe, scheduler=CONSISTENCY, num_inference_steps=41, max_guidance_scale=1.0)


@pytest.fixture(scope="module")
def fine(pipe: Any) -> torch.Tensor:
    """The organism's clip by many Euler steps."""
    return make(pipe, "scene-27", num_inference_steps=64, max_guidance_scale=1.0).latents


@pytest.mark.parametrize(("name", "most"), [(name, 0.06) for name in ORDERS])
def test_every_method_comes_to_the_clip_of_many_euler_steps(pipe: Any, fine: torch.Tensor, name: str, most: float) -> None:
    few, more = (
        make(pipe, "scene-27", scheduler=name, num_inference_steps=n, max_guidance_scale=1.0).latents for n in (6, 24)
    )
    errors = [float((z - fine).norm() / fine.norm()) for z in (few, more)]
    assert errors[1] < most and errors[1] < errors[0] / 3, errors


def test_a_schedule_of_image_models_comes_to_another_clip(pipe: Any, fine: torch.Tensor) -> None:
    """What is announced deserves it: diffusers' own timesteps of this class, for the same configuration."""
    from diffusers import HeunDiscreteScheduler

    other = beside(pipe, scheduler=HeunDiscreteScheduler.from_config(pipe.scheduler.config))
    with pytest.warns(UnusualConditionWarning, match="HeunDiscreteScheduler does not make the checkpoint's schedule"):
        z = make(other, "scene-27", num_inference_steps=12, max_guidance_scale=1.0)
    assert (z.latents - fine).norm() > 0.3 * fine.norm() and z.call.sampler["schedule"] == "the scheduler's own"


def test_what_was_made_names_class_schedule_and_top_sigma(four: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UnusualConditionWarning)  # all of these are the checkpoint's schedule
        for name in (None, *ORDERS, "EulerAncestralDiscreteScheduler"):
            clip = make(four, scheduler=name)
            kind = name or "EulerDiscreteScheduler"
            assert clip.call.sampler == {"scheduler": kind, "schedule": "karras", "sigma_max": 700.0}
            assert clip.conditions.scheduler == (None if kind == "EulerDiscreteScheduler" else kind)
        given = make(four, start=Start(sigmas=[80.0, 8.0]), scheduler="EDMEulerScheduler")
        assert given.call.sampler == {"scheduler": "EDMEulerScheduler", "schedule": "given", "sigma_max": 80.0}
        named = beside(four)
        named.source = replace(four.source, checkpoint="wangfuyun/AnimateLCM-SVD-xt")
        make(named, scheduler=CONSISTENCY, max_guidance_scale=1.0, num_inference_steps=4)
    for odd in (dict(max_guidance_scale=3.0), dict(num_inference_steps=10)):
        with pytest.warns(UnusualConditionWarning, match="1 to 8 steps and guidance 1"):
            make(named, scheduler=CONSISTENCY, **{"max_guidance_scale": 1.0, **odd})
    with pytest.warns(UnusualConditionWarning, match="distilled as AnimateLCM-SVD was, 1 to 8 steps and guidance 1"):
        clip = make(four, scheduler=CONSISTENCY, max_guidance_scale=1.0, num_inference_steps=4)
    assert clip.call.sampler == {"scheduler": CONSISTENCY, "schedule": "karras, 4 of 40", "sigma_max": 700.0}


@pytest.mark.filterwarnings("ignore::svdlab.pipeline.conditions.UnusualConditionWarning")
@pytest.mark.parametrize("name", SCHEDULERS)
def test_seed_trace_and_branch_hold_for_every_sampler(four: Any, name: str) -> None:
    values = dict(scheduler=name, num_inference_steps=3)
    with svdlab.trace(four, keep=("latents", "denoised", "next_latents")) as tr:
        clip = make(four, **values)
    assert torch.equal(clip.latents, make(four, **values).latents) and torch.equal(tr["next_latents"][-1], clip.latents)
    last = tr.denoised[-1]  # the last step goes to the estimate
    assert torch.allclose(last, clip.latents, atol=1e-3 * float(last.abs().max()))
    assert not torch.equal(clip.latents, make(four, seed=1, **values).latents)
    if "Heun" in name or "DPM" in name:
        with pytest.raises(TraceError, match="earlier steps"):
            svdlab.branch(four, tr, 1)
    else:
        assert torch.equal(svdlab.branch(four, tr, 1, decode=False).latents, clip.latents)
    with pytest.raises(InputError, match="scheduler cannot change in mid-run"):
        svdlab.branch(four, tr, 0, scheduler="EDMEulerScheduler")
    if name not in ("EulerAncestralDiscreteScheduler", CONSISTENCY):
        assert not torch.equal(make(four, start=Start(flip_noise=["left_right"]), **values).latents, clip.latents)
    else:
        with pytest.raises(InputError, match="flip_noise cannot turn"):
            make(four, start=Start(flip_noise=["left_right"]), **values)


def test_what_does_not_work_is_refused_with_what_does(four: Any) -> None:
    for name in ("DDIMScheduler", "UniPCMultistepScheduler", "NoSuchScheduler"):
        with pytest.raises(InputError, match=f"{name} does not work on SVD's noise levels: .*HeunDiscreteScheduler"):
            make(four, scheduler=name)
    for odd in ("euler", "", "os.system", 3, ["EulerDiscreteScheduler"]):
        with pytest.raises(InputError, match="scheduler="):
            svdlab.Conditions(scheduler=odd)
    c = [svdlab.Conditions(num_inference_steps=2, scheduler=name) for name in (None, "HeunDiscreteScheduler")]
    with pytest.raises(InputError, match="must agree in frames, size, steps, scheduler"):
        generate_batch(four, ["cat", "cat"], c, [0, 1])


def test_a_pipelines_own_scheduler_may_be_named_whatever_it_is(four: Any) -> None:
    from diffusers import DDIMScheduler

    own = beside(four, scheduler=DDIMScheduler.from_config(four.scheduler.config))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnusualConditionWarning)
        assert torch.equal(make(own, scheduler="DDIMScheduler").latents, make(own).latents)
        assert torch.equal(make(own, scheduler="EulerDiscreteScheduler").latents, make(four).latents)
