"""Flipped noise: what the other half of a mirrored pair needs, in the pipeline, in a plan and in the ledger."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import svdlab
from svdlab.errors import InputError
from svdlab.pipeline.generate import generate_batch

FAST = svdlab.Conditions(num_inference_steps=2)


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    """The same but for rounding, which differs between batch sizes and which a network amplifies."""
    return bool((a - b).norm() < 1e-3 * b.norm())


def _drawn(pipe: Any, seed: int, flip: str | None) -> torch.Tensor:
    """The latents that a run starts with."""
    with svdlab.trace(pipe, keep=("latents",), steps=[0]) as tr:
        generate_batch(pipe, ["scene-3"], [FAST], [seed], flip_noise=[flip], decode=False)
    return tr.steps[0].values["latents"][0]


@pytest.mark.parametrize(("flip", "axes"), [("left_right", (-1,)), ("up_down", (-2,)), ("half_turn", (-2, -1))])
def test_flipped_noise_is_the_seeds_own_noise_turned_round(pipe: Any, flip: str, axes: tuple[int, ...]) -> None:
    assert torch.equal(_drawn(pipe, 5, flip), torch.flip(_drawn(pipe, 5, None), axes))


def test_both_noises_are_flipped_and_a_batch_may_mix_them(pipe: Any) -> None:
    conditions = FAST.replace(noise_aug_strength=0.3)
    size, small = pipe.source.height, pipe.source.height // pipe.vae_scale_factor
    own = torch.Generator().manual_seed(5)
    picture_noise = torch.randn((1, 3, size, size), generator=own)
    latent_noise = torch.randn((1, pipe.unet.config.num_frames, 4, small, small), generator=own)
    given = tuple(torch.flip(n, (-1,)) for n in (picture_noise, latent_noise))
    by_hand = generate_batch(pipe, ["scene-3"], [conditions], [5], noise=given, decode=False)[0]
    plain = generate_batch(pipe, ["scene-3"], [conditions], [5], decode=False)[0]
    both = generate_batch(pipe, ["scene-3"] * 2, [conditions] * 2, [5, 5], flip_noise=[None, "left_right"], decode=False)
    assert close(both[0].latents, plain.latents) and close(both[1].latents, by_hand.latents)
    assert not close(both[1].latents, plain.latents)
    assert both[1].call.start == {"flip_noise": "left_right"} and both[0].call.start == {}
    assert both[1].call != plain.call


@pytest.mark.parametrize("flip", [["sideways"], "left_right", ["left_right"] * 2])
def test_a_flip_that_is_none_is_refused(pipe: Any, flip: Any) -> None:
    with pytest.raises(InputError, match="left_right, up_down, half_turn"):
        generate_batch(pipe, ["scene-3"], [FAST], [0], flip_noise=flip)


def test_noise_cannot_be_both_given_and_flipped(pipe: Any) -> None:
    with pytest.raises(InputError, match="not both"):
        generate_batch(pipe, ["scene-3"], [FAST], [0], noise=(torch.zeros(1), torch.zeros(1)), flip_noise=["up_down"])


def test_a_branch_of_a_flipped_run_is_that_run(pipe: Any) -> None:
    conditions = FAST.replace(noise_aug_strength=0.3)
    with svdlab.trace(pipe, keep=("latents",)) as tr:
        whole = generate_batch(pipe, ["scene-3"], [conditions], [5], flip_noise=["left_right"], decode=False)[0]
    assert torch.equal(svdlab.branch(pipe, tr, 1, decode=False).latents, whole.latents)


def test_a_flipped_run_has_an_id_of_its_own(pipe: Any, tmp_path: Path) -> None:
    plan = svdlab.grid(seed=[3], num_inference_steps=2, flip_noise=[None, "left_right"])
    table = svdlab.sweep(pipe, plan, tmp_path, image="scene-3", measure=(), progress=False)
    assert table.run_id.nunique() == 2 and table.latents_id.nunique() == 2
    assert table.flip_noise.tolist() == ["", "left_right"]
    plain = svdlab.sweep(pipe, plan.drop(columns="flip_noise").iloc[:1], tmp_path, image="scene-3", measure=(), progress=False)
    assert plain.run_id[0] == table.run_id[0]  # who flips nothing has the id that there always was
    assert len(svdlab.load_results(tmp_path)) == 2


def test_a_plan_with_a_flip_that_is_none_is_refused(pipe: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="row 0 of the plan: flip_noise='mirror'"):
        svdlab.sweep(pipe, [{"flip_noise": "mirror"}], tmp_path, image="scene-3")
