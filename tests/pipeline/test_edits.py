"""Ready-made edits change what they say, and nothing where they ask for what was there; runs go on from a step."""

import copy
import warnings
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import EulerAncestralDiscreteScheduler, HeunDiscreteScheduler

import svdlab
from svdlab.errors import InputError, SvdlabError, TraceError
from svdlab.pipeline import edits
from svdlab.pipeline.conditions import UnusualConditionWarning
from svdlab.pipeline.generate import Start
from tests.pipeline.making import TEMPORAL, beside, make


def test_an_edit_to_what_was_there_changes_nothing(each: Any) -> None:
    plain = make(each).latents
    for same in (
        edits.image_embedding(each, "scene-1"),
        edits.silence_temporal_attention(each, scale=1.0),
        edits.silence_temporal_attention(each, steps=[7]),
    ):
        with same:
            assert torch.equal(make(each).latents, plain)
    for other in (edits.image_embedding(each, "scene-2"), edits.silence_temporal_attention(each)):
        with other:
            changed = make(each)
        assert not torch.equal(changed.latents, plain) and len(changed.call.edits) == 1
    assert torch.equal(make(each).latents, plain)


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


def test_the_embedding_is_of_the_frame_that_the_other_image_has_at_that_size(pipe: Any) -> None:
    """The encoder sees the whole frame: at 64x128 not the middle of it, cropped to the checkpoint's 64x64."""
    image, size, seen = np.tile(np.linspace(0, 1, 128)[:, None], (64, 1, 3)), dict(height=64, width=128), []
    look = lambda: svdlab.edit(pipe, "image_embeddings", lambda value, step: seen.append(value[-1]))
    for edit in (nullcontext(), edits.image_embedding(pipe, image, **size)):
        with warnings.catch_warnings(category=UnusualConditionWarning, action="ignore"), edit, look():
            svdlab.generate(pipe, image, seed=0, num_inference_steps=1, num_frames=2, **size)
    assert torch.allclose(seen[0], seen[1], atol=1e-5)


def test_silenced_attention_adds_nothing(pipe: Any) -> None:
    with edits.silence_temporal_attention(pipe, "unet.mid_block*"), svdlab.trace(pipe, modules="*_blocks.0.attn1") as tr:
        make(pipe)
    temporal = [name for name in tr.names if ".temporal_transformer_blocks." in name]
    assert [name for name in temporal if tr[name].abs().max() == 0] == [TEMPORAL]
    assert len(temporal) > 1


def test_what_cannot_be_is_refused(pipe: Any) -> None:
    for call, kind, message in [
        (lambda: edits.image_embedding(pipe, "no-such.png"), InputError, "No such file"),
        (lambda: edits.silence_temporal_attention(pipe, "unet.conv_in"), TraceError, "no temporal self-attention"),
        (lambda: edits.silence_temporal_attention(pipe, "unet.midblock"), TraceError, "Nearest"),
    ]:
        with pytest.raises(kind, match=message), call():
            pass


# Going on from a step


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_branch_without_changes_is_the_clip_again(each: Any, dtype: torch.dtype) -> None:
    own = beside(each, **copy.deepcopy(each.components)).to(dtype)  # there and back, the shared weights would be rounded
    with svdlab.trace(own) as tr:
        clip = make(own, num_frames=3, num_inference_steps=3)
    assert tr.latents.dtype == dtype
    for step in range(3):
        assert torch.equal(svdlab.branch(own, tr, step, decode=False).latents, clip.latents), step


def test_a_branch_of_a_saved_trace_of_a_flipped_run_and_of_a_branch(pipe: Any, tmp_path: Any) -> None:
    with svdlab.trace(pipe) as tr:
        clip = make(pipe, start=Start(flip_noise=["left_right"]), num_inference_steps=4, noise_aug_strength=0.3)
    loaded = svdlab.Trace.load(tr.save(tmp_path / "trace.safetensors"))
    with svdlab.trace(pipe) as tail:
        assert torch.equal(svdlab.branch(pipe, loaded, 1, decode=False).latents, clip.latents)
    assert [step.index for step in tail] == [1, 2, 3]
    assert torch.equal(svdlab.branch(pipe, tail, 3, decode=False).latents, clip.latents)


def test_a_branch_changes_what_is_asked(pipe: Any) -> None:
    with svdlab.trace(pipe) as tr:
        clip = make(pipe)
    for changes in (dict(fps=20), dict(motion_bucket_id=1), dict(max_guidance_scale=6.0), dict(image="scene-2")):
        other = svdlab.branch(pipe, tr, 1, decode=False, **changes)
        assert not torch.equal(other.latents, clip.latents), changes
        assert other.call.start["step"] == 1 and other.conditions.num_inference_steps == 2
    fresh = make(pipe, motion_bucket_id=1)
    assert torch.equal(svdlab.branch(pipe, tr, 0, decode=False, motion_bucket_id=1).latents, fresh.latents)


def test_a_transplant_computes_only_what_is_left(four: Any) -> None:
    steps, calls = 9, []
    with svdlab.trace(four, keep=("latents",)) as tr:
        make(four, num_frames=2, num_inference_steps=steps, max_guidance_scale=1.0)
    handle = four.unet.register_forward_pre_hook(lambda module, args: calls.append(1))
    clips = svdlab.transplant(four, tr, decode=False, motion_bucket_id=1)
    handle.remove()
    assert list(clips) == list(range(steps)) and len(calls) == steps * (steps + 1) / 2
    assert not torch.equal(clips[0].latents, clips[steps - 1].latents)


def test_what_a_branch_needs_is_said(pipe: Any, unet_calls: list[int]) -> None:
    with svdlab.trace(pipe, steps=[1]) as tr:
        make(pipe)
    with svdlab.trace(pipe, keep=("cond",)) as bare:
        make(pipe)
    unet_calls.clear()
    for call, message in [
        (lambda: svdlab.branch(pipe, tr, 0), "holds latents of 1"),
        (lambda: svdlab.branch(pipe, bare, 0), "no step"),
        (lambda: svdlab.branch(pipe, tr, 1, num_frames=4), "mid-run"),
        (lambda: svdlab.branch(pipe, tr, 1, motion_bucket=4), "motion_bucket_id"),
        (lambda: svdlab.transplant(pipe, tr, [1, 0]), "holds latents of 1"),
    ]:
        with pytest.raises(SvdlabError, match=message):
            call()
    assert unet_calls == []


def test_a_branch_of_another_schedulers_trace_is_refused(pipe: Any) -> None:
    """A neighbour of case B4: its latents are of other noise levels, or of another number of them."""
    own, heun = type(pipe.scheduler), HeunDiscreteScheduler
    for kinds in ((own, EulerAncestralDiscreteScheduler), (heun, own)):
        first, second = (beside(pipe, scheduler=kind.from_config(pipe.scheduler.config)) for kind in kinds)
        with svdlab.trace(first) as tr:
            make(first)
        with pytest.raises(TraceError, match="other noise levels than the trace"):
            svdlab.branch(second, tr, 1)
