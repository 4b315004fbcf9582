"""The sampler: every scheduler or a clear refusal, all noise by the seed, threads apart, nothing left behind."""

import contextlib
import contextvars
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler, LCMScheduler

import svdlab
from svdlab.errors import InputError, TraceError
from svdlab.pipeline import sampler
from svdlab.pipeline.conditions import UnusualConditionWarning
from svdlab.pipeline.generate import generate_batch
from svdlab.pipeline.single_file import SCHEDULER
from tests.pipeline.making import TEMPORAL, beside, close
from tests.pipeline.making import make as make_clip

CLASSES = sorted(EulerDiscreteScheduler(**SCHEDULER).compatibles, key=lambda c: c.__name__)
ONE_STEP = ("DDIMScheduler", "DDPMScheduler", "EDMEulerScheduler", "EulerAncestralDiscreteScheduler", "EulerDiscreteScheduler")


def with_scheduler(pipe: Any, kind: Any) -> Any:
    try:
        return beside(pipe, scheduler=kind.from_config(pipe.scheduler.config))
    except ImportError as error:
        pytest.skip(str(error))


def make(pipe: Any, seed: int = 0, **conditions: Any) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnusualConditionWarning)
        return make_clip(pipe, seed=seed, **{"num_inference_steps": 3, **conditions}).latents


# --- schedulers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*CLASSES, LCMScheduler], ids=lambda kind: kind.__name__)
def test_every_scheduler_makes_the_same_clip_of_the_same_seed_or_is_refused(four: Any, kind: Any) -> None:
    pipe = with_scheduler(four, kind)
    try:
        with svdlab.trace(pipe, keep=("latents", "next_latents")) as tr:
            clip = make(pipe)
    except InputError as error:
        assert "EulerDiscreteScheduler" in str(error) and kind.__name__ not in ONE_STEP
        return
    assert clip.isfinite().all() and torch.equal(clip, make(pipe)) and not torch.equal(clip, make(pipe, seed=1))
    assert torch.equal(tr["next_latents"][-1], clip)
    torch.manual_seed(99)  # the global generator has no say
    with svdlab.trace(pipe, keep=("latents",)):
        assert torch.equal(make(pipe), clip)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind.__name__ in ONE_STEP or kind is LCMScheduler:
            assert all(torch.equal(svdlab.branch(pipe, tr, k, decode=False).latents, clip) for k in range(3))
        else:
            with pytest.raises(TraceError, match="earlier steps"):
                svdlab.branch(pipe, tr, 1)


@pytest.mark.parametrize("kind", ["EulerAncestralDiscreteScheduler", "DDPMScheduler"])
def test_a_batch_draws_each_samples_own_noise(pipe: Any, kind: str) -> None:
    own = with_scheduler(pipe, next(c for c in CLASSES if c.__name__ == kind))
    c = svdlab.Conditions(num_inference_steps=3)
    with pytest.warns(UnusualConditionWarning, match=f"{kind} does not make the checkpoint's schedule"):
        both = generate_batch(own, ["scene-2", "scene-1"], [c, c], [5, 0], decode=False)
    assert close(both[1].latents, make(own))


class Careless(EulerDiscreteScheduler):
    """Draws noise from torch's own generator."""

    def step(self, *args: Any, **kwargs: Any) -> Any:
        out = super().step(*args, **kwargs)
        return type(out)(out.prev_sample + 0.1 * torch.randn(out.prev_sample.shape))


@pytest.mark.parametrize("kind", [Careless, FlowMatchEulerDiscreteScheduler], ids=lambda kind: kind.__name__)
def test_a_scheduler_of_noise_that_no_seed_determines_or_of_another_kind_is_refused(four: Any, kind: Any) -> None:
    """Neighbours of cases B2 and B3: none of diffusers' compatible classes."""
    with pytest.raises(InputError, match=rf"{kind.__name__}.*use SVD's own EulerDiscreteScheduler"):
        make(with_scheduler(four, kind))


def test_what_needs_another_scheduler_is_refused(four: Any) -> None:
    """Not every class takes noise levels."""
    with pytest.raises(InputError, match="EulerDiscreteScheduler"):
        svdlab.generate(
            with_scheduler(four, next(c for c in CLASSES if c.__name__ == "DDIMScheduler")), "cat", sigmas=[5.0, 1.0]
        )


def test_karras_levels_are_the_schedulers() -> None:
    for n in (1, 2, 6, 25):
        scheduler = EulerDiscreteScheduler(**SCHEDULER)
        scheduler.set_timesteps(n)
        ours = sampler.karras(n)
        np.testing.assert_allclose(ours, scheduler.sigmas.numpy(), rtol=1e-5)
        assert np.allclose(np.diff(ours[:-1] ** (1 / 7), 2), 0, atol=1e-12)  # even in their seventh root
        steps = sampler.steps_of(scheduler)
        assert [s.timestep for s in steps] == pytest.approx([0.25 * np.log(s.sigma) for s in steps], abs=1e-5)
    for wrong in ((0,), (5, -1.0), (5, 2.0, 1.0), (5, 0.0)):
        with pytest.raises(InputError):
            sampler.karras(*wrong)


# --- threads ----------------------------------------------------------------------------------------------------------


def test_one_pipeline_serves_several_threads(pipe: Any) -> None:
    """Conditions, schedules, traces and edits of each thread are its own."""
    jobs = [dict(seed=i, num_inference_steps=2 + i % 3, motion_bucket_id=40 * i, max_guidance_scale=1.0 + i) for i in range(6)]
    alone = [make(pipe, **job) for job in jobs]

    def work(i: int) -> tuple[torch.Tensor, svdlab.Trace]:
        with svdlab.trace(pipe, keep=("next_latents",), modules=TEMPORAL) as tr:
            if i == 3:
                with svdlab.edit(pipe, TEMPORAL, lambda value, step: 0 * value):
                    return make(pipe, **jobs[i]), tr
            return make(pipe, **jobs[i]), tr

    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(work, range(len(jobs))))
    for i, (clip, tr) in enumerate(together):
        assert torch.equal(clip, alone[i]) == (i != 3)
        assert len(tr) == jobs[i]["num_inference_steps"] and torch.equal(tr["next_latents"][-1], clip)
        assert (tr[TEMPORAL].abs().max() == 0) == (i == 3)


def test_a_block_acts_in_the_thread_that_opened_it_unless_its_context_is_taken_along(pipe: Any) -> None:
    plain, found = make(pipe), {}
    with svdlab.edit(pipe, "cond", lambda value, step: 0 * value), svdlab.trace(pipe) as tr:
        for name, run in (("other", lambda work: work()), ("same", contextvars.copy_context().run)):
            thread = threading.Thread(target=run, args=[lambda name=name: found.update({name: make(pipe)})])
            thread.start()
            thread.join()
            assert bool(tr.steps) == (name == "same")
    assert torch.equal(found["other"], plain)
    assert not torch.equal(found["same"], plain) and len(tr) == 3


@pytest.mark.parametrize("where", ["cond", TEMPORAL])
def test_a_call_that_outlasts_its_block_is_stopped(pipe: Any, where: str) -> None:
    """Its clip would name an edit whose hooks are gone."""
    with contextlib.ExitStack() as block:
        block.enter_context(svdlab.edit(pipe, where, lambda value, step: 0 * value))
        context = contextvars.copy_context()
        block.enter_context(svdlab.edit(pipe, "latents", lambda value, step: block.close()))
        with pytest.raises(TraceError, match="ended before a call"):
            make(pipe)
    with pytest.raises(TraceError, match=r"edit of .*ended before a call"):
        context.run(make, pipe)
