"""Direction bias and equivariance: nothing in a model that is symmetrical by construction, something in one that is not."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import svdlab
from svdlab.errors import InputError
from svdlab.pipeline.generate import ProbePipeline, Source, Start, generate_batch
from svdlab.probes.bias import symmetry
from svdlab.study.plans import as_plan
from tests.small import build

FAST = svdlab.Conditions(num_inference_steps=3, max_guidance_scale=1.0, noise_aug_strength=0.2)


def symmetrical() -> ProbePipeline:
    """Random weights whose every kernel is its own mirror image: left and right cannot be told apart.

    A kernel of stride 2 sees two columns alike, so that the grid of what it keeps is symmetrical as well.
    """
    pipe = ProbePipeline(**build(seed=0).components)
    pipe.source = Source(height=64, width=64)
    pipe.set_progress_bar_config(disable=True)
    for part in (pipe.unet, pipe.vae, pipe.image_encoder):
        for _, module in part.named_modules():
            weight = getattr(module, "weight", None)
            if isinstance(module, torch.nn.Conv2d) and weight.shape[-1] > 1:
                with torch.no_grad():
                    if module.stride[-1] == 2 and weight.shape[-1] == 3:
                        pair, other = ((1, 2), 0) if module.padding[-1] else ((0, 1), 2)
                        weight[..., pair] = weight[..., pair].mean(-1, keepdim=True).clone()
                        weight[..., other] = 0
                    else:
                        weight.copy_((weight + weight.flip(-1)) / 2)
    embeddings = pipe.image_encoder.vision_model.embeddings
    with torch.no_grad():
        places = embeddings.position_embedding.weight[1:]
        side = int(len(places) ** 0.5)
        square = places.reshape(side, side, -1)
        embeddings.position_embedding.weight[1:] = ((square + square.flip(1)) / 2).reshape(len(places), -1)
    return pipe


@pytest.fixture(scope="module")
def fair() -> ProbePipeline:
    return symmetrical()


def test_a_symmetrical_model_mirrors_its_clip_if_both_noises_are_mirrored(fair: ProbePipeline) -> None:
    image = svdlab.sample_image("scene-3")
    mirrored = symmetry.mirror(image)
    conditions = [FAST] * 3
    clip, twin, other = generate_batch(
        fair, [image, mirrored, mirrored], conditions, [1, 1, 1], Start(flip_noise=[None, "left_right", None]), decode=False
    )
    spread = clip.latents.std()
    assert (torch.flip(clip.latents, (-1,)) - twin.latents).abs().max() < 1e-3 * spread
    assert (torch.flip(clip.latents, (-1,)) - other.latents).abs().max() > 0.1 * spread  # with its noise as it was


def test_the_probe_sees_no_bias_and_no_error_in_it(fair: ProbePipeline, tmp_path: Path) -> None:
    images = [svdlab.sample_image("scene-3")]
    found = symmetry.run(fair, images, tmp_path, flips=["left_right"], seeds=(0, 1), conditions=FAST, progress=False)
    assert (found.errors.equivariance < 0.006).all()  # 8-bit frames: half a level of either, and rounding
    assert (found.errors.autoencoder < 1e-4).all() and (found.errors.seeds > 2 * found.errors.equivariance).all()
    assert len(found.clips) == 2 * 2 and found.clips.run_id.nunique() == 4


def test_an_ordinary_model_is_not_symmetrical(pipe: Any, tmp_path: Path) -> None:
    found = symmetry.run(
        pipe, ["scene-3"], tmp_path, flips=["left_right", "up_down"], seeds=(0,), conditions=FAST, progress=False
    )
    assert (found.errors.equivariance > 0.002).all() and set(found.errors.flip) == {"left_right", "up_down"}
    assert set(found.table.verdict) == {"too few"}


def test_its_clips_are_made_under_all_conditions_that_were_given(
    pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[pd.DataFrame] = []

    def stop(pipe: Any, plan: pd.DataFrame, *args: Any, **kwargs: Any) -> None:
        made.append(as_plan(plan))
        raise InputError("planned")

    monkeypatch.setattr(symmetry, "sweep", stop)
    given = FAST.replace(guidance_interval=(0.1, 10.0), guidance_curve=(1.0,) * 8, num_frames=8)
    with pytest.raises(InputError, match="planned"):
        symmetry.run(pipe, ["scene-3"], tmp_path, conditions=given)
    assert (made[0].guidance_interval == (0.1, 10.0)).all() and (made[0].guidance_curve == (1.0,) * 8).all()


def clips(own: Any, other: Any, seeds: int = 1) -> pd.DataFrame:
    """pan_px of each image's clip and of its flipped one's, each in its own frame."""
    rows = [
        {"label_image": i, "flip_noise": which, "seed": s, "pan_px": v, "object_dx": 0.0, "tilt_px": 0.0, "object_dy": 0.0}
        for which, values in (("", own), ("left_right", other))
        for i, v in enumerate(values)
        for s in range(seeds)
    ]
    return pd.DataFrame(rows)


def test_the_bias_is_half_the_sum_so_images_that_lean_one_way_are_none() -> None:
    own, other = np.array([2.0, 2, -2, 2, 2, 2, 1, 2]), np.array([2.0, -2, 2, 2, 2, 1, 2, 2])
    row = symmetry.directions(clips(own, other), ["left_right"]).set_index("measure").loc["pan_px"]
    assert (row.value, row.n) == (pytest.approx(((own + other) / 2).mean()), 8)
    pans = np.random.default_rng(0).uniform(1, 3, 12)
    table = symmetry.directions(clips(pans, -pans), ["left_right"], margin=0.1)
    assert table.value.abs().max() == 0
    assert set(table.verdict) == {"equivalent within the margin"}


def test_a_preferred_direction_is_found_and_images_without_a_number_are_counted() -> None:
    rng = np.random.default_rng(0)
    table = clips(rng.normal(1, 0.1, 12), rng.normal(1, 0.1, 12), seeds=2)
    table.loc[table.label_image == 3, "pan_px"] = np.nan
    row = symmetry.directions(table, ["left_right"]).iloc[0]
    assert (row.verdict, row.value, row.n, row.left_out) == ("effect", pytest.approx(1, abs=0.1), 11, 1)


def test_seeds_that_all_images_share_and_that_decide_are_two_values() -> None:
    """Seed 0 leans to the right and seed 1 to the left, in all of 24 images alike: no evidence of a direction."""
    rng = np.random.default_rng(0)
    table = clips(rng.normal(0, 0.1, 24), rng.normal(0, 0.1, 24), seeds=2)
    leaning = table.assign(pan_px=table.pan_px + np.where(table.seed == 0, 1.0, -0.7))
    row = symmetry.directions(leaning, ["left_right"]).iloc[0]
    assert row.verdict == "inconclusive" and row.low < -1 and row.high > 1 and row.value == pytest.approx(0.15, abs=0.05)


@pytest.mark.parametrize(
    ("images", "options", "said"),
    [
        (["scene-1"], dict(flips=["sideways"]), "left_right, up_down, half_turn"),
        (["scene-1"], dict(seeds=()), "at least 1"),
        ([], {}, "at least 1"),
        (["scene-1"], dict(flips=["up_down"] * 2), "more than once"),
        (["scene-1"], dict(margin=float("inf")), "margin=inf"),
        (["scene-1"], dict(conditions={"fps": 7}), "give a Conditions"),
        ("scene-1", {}, "give a list"),
    ],
)
def test_what_cannot_be_probed_is_refused(pipe: Any, tmp_path: Path, images: Any, options: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        symmetry.run(pipe, images, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
