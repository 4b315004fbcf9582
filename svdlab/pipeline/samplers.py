"""Samplers by the names of diffusers' schedulers, on SVD's own noise levels, and the one of a distilled SVD.

>>> clip = svdlab.generate(pipe, scene, scheduler="HeunDiscreteScheduler", num_inference_steps=3)
>>> clip.call.sampler
{'scheduler': 'HeunDiscreteScheduler', 'schedule': 'karras', 'sigma_max': 700.0}

SVD's UNet knows a noise level as ln(sigma) / 4, from sigma 700 down to 0.002 (Karras et al. 2022, rho 7). Of diffusers'
classes EulerDiscreteScheduler alone makes that of SVD's configuration. The others make the 1000 discrete steps of image models
from it, from sigma 15 down; here those that work on any levels are given SVD's. Which of them come to the clip of many Euler
steps, and how soon: tests/pipeline/test_samplers.py, and `svdlab.steps_needed` for a model of your own.
"""

import copy
import math
from functools import partial
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import ConfigMixin, SchedulerMixin
from diffusers.configuration_utils import register_to_config
from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import retrieve_timesteps
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteSchedulerOutput
from diffusers.utils.torch_utils import randn_tensor

from svdlab.pipeline.conditions import CONSISTENCY, Conditions
from svdlab.pipeline.sampler import RHO, SIGMA_MAX, SIGMA_MIN, karras, steps_of, v_to_denoised
from svdlab.pipeline.single_file import SCHEDULER

MOST_CONSISTENT = 8  # steps that its authors show


class AnimateLCMSVDStochasticIterativeScheduler(SchedulerMixin, ConfigMixin):
    """Multistep consistency sampling (Song et al. 2023, algorithm 1), as AnimateLCM-SVD was distilled for: each step goes to
    the estimate and adds new noise of the next level. n of its 40 levels are used, every (40 // n)th from the highest.

    G-U-N/AnimateLCM, animatelcm_svd/animatelcm_scheduler.py: v-prediction, sigma 0.002 to 700, no boundary offset.
    """

    order = 1
    init_noise_sigma = property(lambda self: math.sqrt(self.config.sigma_max**2 + 1))

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 40,
        sigma_min: float = SIGMA_MIN,
        sigma_max: float = SIGMA_MAX,
        rho: float = RHO,
        prediction_type: str = "v_prediction",
    ) -> None:
        self.set_timesteps(num_train_timesteps)

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        c, n = self.config, num_inference_steps
        if not 1 <= n <= c.num_train_timesteps:
            raise ValueError(f"it has {c.num_train_timesteps} noise levels")
        levels = karras(c.num_train_timesteps, c.sigma_min, c.sigma_max, c.rho)[:: c.num_train_timesteps // n][:n]
        self.sigmas = torch.tensor([*levels, 0.0], dtype=torch.float32)
        self.timesteps, self.index = (self.sigmas[:-1].log() / 4).to(device), 0

    def set_begin_index(self, begin_index: int) -> None:
        self.index = begin_index

    def scale_model_input(self, sample: torch.Tensor, timestep: Any) -> torch.Tensor:
        return sample / (self.sigmas[self.index] ** 2 + 1) ** 0.5

    def step(self, model_output: torch.Tensor, timestep: Any, sample: torch.Tensor, generator: Any = None) -> Any:
        sigma, lower = self.sigmas[self.index : self.index + 2].tolist()
        denoised = v_to_denoised(sample.float(), model_output.float(), sigma).to(sample.dtype)
        noise = randn_tensor(sample.shape, generator, sample.device, sample.dtype) if lower else 0.0
        self.index += 1
        return EulerDiscreteSchedulerOutput(prev_sample=denoised + lower * noise, pred_original_sample=denoised)


def prepared(pipe: Any, name: str | None, steps: int, levels: list[float] | None = None) -> Any:
    """A scheduler of the call's own, its timesteps set; None for the pipeline's. levels: with the terminal zero.

    >>> prepared(pipe, "EDMDPMSolverMultistepScheduler", 25).sigmas[[0, -1]].tolist()
    [700.0, 0.0]
    """
    own, device = pipe.scheduler, pipe._execution_device
    if name in (None, type(own).__name__):
        scheduler = copy.deepcopy(own)
        retrieve_timesteps(scheduler, None if levels else steps, device, None, levels)
        return scheduler
    low, high = (float(own.config.get(key) or usual) for key, usual in (("sigma_min", SIGMA_MIN), ("sigma_max", SIGMA_MAX)))
    if name == CONSISTENCY:
        scheduler = AnimateLCMSVDStochasticIterativeScheduler(sigma_min=low, sigma_max=high)
        retrieve_timesteps(scheduler, None if levels else steps, device, None, levels)
        return scheduler
    levels = levels or karras(steps, low, high).tolist()
    config: dict[str, Any] = dict(sigma_min=low, sigma_max=levels[0], sigma_data=1.0, prediction_type="v_prediction")
    kind = getattr(diffusers, str(name))
    scheduler = kind(**config) if str(name).startswith("EDM") else kind.from_config({**SCHEDULER, "use_karras_sigmas": False})
    scheduler.set_timesteps(len(levels) - 1, device=device)  # forgets earlier steps, before it is given the levels
    sigmas, twice = torch.tensor(levels, dtype=torch.float32), partial(torch.repeat_interleave, repeats=scheduler.order)
    times = sigmas[:-1].log() / 4
    scheduler.sigmas = torch.cat([sigmas[:1], twice(sigmas[1:-1]), sigmas[-1:]])
    scheduler.timesteps = torch.cat([times[:1], twice(times[1:])]).to(device)
    return scheduler


def described(pipe: Any, c: Conditions, scheduler: Any = None, given: bool = False) -> dict[str, Any]:
    """What `Call.sampler` holds: the class, the schedule of noise levels, the highest of them.

    >>> described(pipe, Conditions(num_inference_steps=4, scheduler="HeunDiscreteScheduler"))["schedule"]
    'karras'

    scheduler: the call's, else a new one is made. given: whether the caller gave the levels.
    """
    scheduler = scheduler or prepared(pipe, c.scheduler, c.num_inference_steps)
    steps = steps_of(scheduler)
    levels = list(dict.fromkeys(step.sigma for step in steps))  # Heun's stand twice
    told = all(
        abs(step.timestep - math.log(max(step.sigma, 1e-9)) / 4) < 0.01 for step in steps
    )  # to the UNet, as it knows them
    own, kind = pipe.scheduler.config, type(scheduler).__name__
    usual = karras(len(levels), float(own.get("sigma_min") or SIGMA_MIN), float(own.get("sigma_max") or SIGMA_MAX))[:-1]
    words = "karras" if told and np.allclose(levels, usual, rtol=1e-4) else "the scheduler's own"
    if kind == CONSISTENCY:
        words = f"karras, {len(levels)} of {scheduler.config.num_train_timesteps}"
    return {"scheduler": kind, "schedule": "given" if given else words, "sigma_max": round(levels[0], 4)}


def unusual(pipe: Any, scheduler: Any, given: list[float] | None, guided: bool) -> str:
    """Why a scheduler may give poor clips of this pipeline, or ""."""
    kind, first = type(scheduler).__name__, steps_of(scheduler)[0]
    top = given[0] if given else float(pipe.scheduler.config.get("sigma_max") or SIGMA_MAX)
    if abs(first.timestep - math.log(top) / 4) > 0.01:
        return f"{kind} does not make the checkpoint's schedule, which starts at sigma {top:.4g}"
    if kind == CONSISTENCY and (
        "lcm" not in pipe.source.checkpoint.lower() or guided or len(scheduler.timesteps) > MOST_CONSISTENT
    ):
        return f"{kind} is for checkpoints distilled as AnimateLCM-SVD was, 1 to {MOST_CONSISTENT} steps and guidance 1"
    return ""
