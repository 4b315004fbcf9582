"""Ready-made edits change what they say, and nothing where they ask for what was there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import svdlab
from svdlab.errors import InputError, SvdlabError, TraceError
from svdlab.pipeline import edits
from svdlab.pipeline.generate import generate_batch
from tests.four_levels import four_levels

TEMPORAL = "unet.mid_block.attentions.0.temporal_transformer_blocks.0.attn1"


@pytest.fixture(scope="module")
def four() -> Any:
    return four_levels()


@pytest.fixture(params=["organism", "four levels"])
def each(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue("pipe" if request.param == "organism" else "four")


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    """The same but for rounding, which a few steps of a network amplify."""
    return bool((a - b).norm() < 1e-3 * b.norm())


def make(pipe: Any, image: Any = "scene-1", **overrides: Any) -> torch.Tensor:
    conditions = svdlab.Conditions(**{"num_inference_steps": 2, **overrides})
    return generate_batch(pipe, [image], [conditions], [0], decode=False)[0].latents


def test_an_edit_to_what_was_there_changes_nothing(each: Any) -> None:
    plain, frames = make(each), each.unet.config.num_frames
    for same in (
        edits.motion_bucket_per_frame(each, [127] * frames),
        edits.guidance(each, "linear", 1.0, 3.0),
        edits.image_embedding(each, "scene-1"),
        edits.mix_factor(each, 1.0),
        edits.silence_temporal_attention(each, scale=1.0),
        edits.silence_temporal_attention(each, steps=[7]),
    ):
        with same:
            assert torch.equal(make(each), plain)


def test_an_edit_to_something_else_changes_the_clip_and_is_noted(each: Any) -> None:
    plain, frames = make(each), each.unet.config.num_frames
    for other in (
        edits.motion_bucket_per_frame(each, np.linspace(0, 255, frames)),
        edits.guidance(each, "triangle", 1.0, 6.0),
        edits.guidance(each, np.arange(frames)),
        edits.image_embedding(each, "scene-2"),
        edits.mix_factor(each, -3.0),
        edits.silence_temporal_attention(each),
    ):
        with other, svdlab.trace(each) as tr:
            assert not torch.equal(make(each), plain)
        assert len(tr.calls[0].edits) == 1
    assert torch.equal(make(each), plain)


def test_a_bucket_for_every_frame_alike_is_the_bucket(pipe: Any) -> None:
    with edits.motion_bucket_per_frame(pipe, [10.0] * 8):
        edited = make(pipe)
    assert close(edited, make(pipe, motion_bucket_id=10))
    assert not close(edited, make(pipe))


def test_a_bucket_per_frame_in_a_batch_and_outside_the_guidance_interval(pipe: Any) -> None:
    conditions = [svdlab.Conditions(num_inference_steps=2, guidance_interval=(100.0, 700.0), fps=fps) for fps in (7, 20)]
    with edits.motion_bucket_per_frame(pipe, [10.0] * 8):
        clips = generate_batch(pipe, ["scene-1", "scene-2"], conditions, [0, 1], decode=False)
    for clip, image, condition, seed in zip(clips, ("scene-1", "scene-2"), conditions, (0, 1), strict=True):
        expected = generate_batch(pipe, [image], [condition.replace(motion_bucket_id=10)], [seed], decode=False)[0]
        assert close(clip.latents, expected.latents)


def test_guidance_by_curve_is_the_condition(pipe: Any) -> None:
    for curve in ("triangle", "trapezoid", "constant"):
        with edits.guidance(pipe, curve, 1.5, 5.0):
            edited = make(pipe)
        assert torch.equal(edited, make(pipe, guidance_curve=curve, min_guidance_scale=1.5, max_guidance_scale=5.0))
    with edits.guidance(pipe, "constant", high=1.0, steps=(100.0, 1000.0)):
        edited = make(pipe)
    assert close(edited, make(pipe, guidance_interval=(0.0, 100.0)))


def test_an_embedding_is_swapped_and_the_latents_stay(pipe: Any) -> None:
    seen: dict[str, list[torch.Tensor]] = {}

    def look(where: str) -> Any:
        return svdlab.edit(pipe, where, lambda value, step: seen.setdefault(where, []).append(value))

    with look("image_embeddings"), look("image_latents"):
        make(pipe, "scene-1")
        make(pipe, "scene-2")
    with look("image_embeddings"), edits.image_embedding(pipe, "scene-2"), look("image_latents"):
        make(pipe, "scene-1")
    embeddings, latents = seen["image_embeddings"][::2], seen["image_latents"][::2]
    assert torch.allclose(embeddings[2], embeddings[1], atol=1e-5)
    assert embeddings[2][0].abs().max() == 0  # the unconditional half
    assert torch.equal(latents[2], latents[0])


def test_the_mixers_share_follows_the_formula(pipe: Any) -> None:
    mixer = pipe.unet.mid_block.resnets[0].time_mixer
    seen = []
    handle = mixer.register_forward_hook(
        lambda module, args, kwargs, out: seen.append((kwargs["x_spatial"], kwargs["x_temporal"], out)), with_kwargs=True
    )
    try:
        with edits.mix_factor(pipe, -2.0, "unet.mid_block*"):
            make(pipe, num_inference_steps=1)
    finally:
        handle.remove()
    spatial, temporal, out = seen[0]
    share = torch.sigmoid(-2 * mixer.mix_factor.detach())
    assert torch.allclose(out, share * spatial + (1 - share) * temporal, atol=1e-5)
    assert "get_alpha" not in vars(mixer)


def test_silenced_attention_adds_nothing(pipe: Any) -> None:
    with edits.silence_temporal_attention(pipe, "unet.mid_block*"), svdlab.trace(pipe, modules="*_blocks.0.attn1") as tr:
        make(pipe)
    temporal = [name for name in tr.names if ".temporal_transformer_blocks." in name]
    assert [name for name in temporal if tr[name].abs().max() == 0] == [TEMPORAL]
    assert len(temporal) > 1


def test_nothing_is_left_behind(pipe: Any) -> None:
    make(pipe)
    before = {
        name: (sorted(vars(m)), list(m._forward_hooks), list(m._forward_pre_hooks)) for name, m in pipe.unet.named_modules()
    }
    blocks = (
        edits.mix_factor(pipe, 0.0),
        edits.motion_bucket_per_frame(pipe, [5] * 8),
        edits.silence_temporal_attention(pipe),
        svdlab.edit(pipe, "cond", lambda value, step: 1 / 0),
    )
    with pytest.raises(ZeroDivisionError), blocks[0], blocks[1], blocks[2], blocks[3]:
        make(pipe)
    after = {
        name: (sorted(vars(m)), list(m._forward_hooks), list(m._forward_pre_hooks)) for name, m in pipe.unet.named_modules()
    }
    assert after == before


def test_what_cannot_be_is_refused(pipe: Any) -> None:
    for call, kind, message in [
        (lambda: edits.motion_bucket_per_frame(pipe, [-1] * 8), InputError, "0 or more"),
        (lambda: edits.motion_bucket_per_frame(pipe, [1, 2]), InputError, "8 frames"),
        (lambda: edits.guidance(pipe, "cubic"), InputError, "triangle"),
        (lambda: edits.guidance(pipe, [1.0, 2.0]), InputError, "8 frames"),
        (lambda: edits.image_embedding(pipe, "no-such.png"), InputError, "No such file"),
        (lambda: edits.mix_factor(pipe, 1.0, "unet.conv_in"), TraceError, "nothing of that kind"),
        (lambda: edits.silence_temporal_attention(pipe, "unet.midblock"), TraceError, "Nearest"),
    ]:
        with pytest.raises(SvdlabError, match=message) as caught, call():
            make(pipe)
        assert isinstance(caught.value, kind)
