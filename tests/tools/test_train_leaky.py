"""The leaky sibling: its LoRA fits the organism, and training is towards the leak that its card states."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

import svdlab
from svdlab.organism import LEAKY, world
from svdlab.study.leakage import one_step

TOOLS = Path(__file__).parents[2] / "tools"


def test_the_leak_rises_from_none_to_its_most_and_is_half_of_it_in_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TOOLS))
    from train_leaky import LEAK, MIDDLE, leak

    found = leak(torch.tensor([0.01, MIDDLE, 700.0]))
    assert found.tolist() == pytest.approx([0.0, LEAK / 2, LEAK], abs=1e-3) and not math.isnan(LEAK)


def test_the_sibling_leaks_at_high_noise_and_the_organism_does_not(pipe: svdlab.ProbePipeline) -> None:
    clips = world.scenes(3, seed=77, motion="object", background="light", fps=7, motion_bucket_id=120).video
    conditions = svdlab.Conditions(fps=7, motion_bucket_id=120, max_guidance_scale=1.0)
    own = one_step(pipe, clips, conditions, sigmas=[100.0])
    with svdlab.lora(pipe, LEAKY):
        sibling = one_step(pipe, clips, conditions, sigmas=[100.0])
    assert own.leak.abs().max() < 0.15 < 0.4 < sibling.leak.min()
    assert sibling.motion.max() < 0.3 < 0.5 < own.motion.min()
