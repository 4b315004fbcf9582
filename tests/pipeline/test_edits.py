"""Ready-made edits change what they say, and nothing where they ask for what was there."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import svdlab
from svdlab.errors import InputError, SvdlabError, TraceError
from svdlab.pipeline import edits
from tests.pipeline.making import TEMPORAL, hooks_of
from tests.pipeline.making import make as make_clip


def make(pipe: Any, image: Any = "scene-1", **conditions: Any) -> torch.Tensor:
    return make_clip(pipe, image, **conditions).latents


def test_an_edit_to_what_was_there_changes_nothing(each: Any) -> None:
    plain = make(each)
    for same in (
        edits.image_embedding(each, "scene-1"),
        edits.mix_factor(each, 1.0),
        edits.silence_temporal_attention(each, scale=1.0),
        edits.silence_temporal_attention(each, steps=[7]),
    ):
        with same:
            assert torch.equal(make(each), plain)


def test_an_edit_to_something_else_changes_the_clip_and_is_noted(each: Any) -> None:
    plain = make(each)
    for other in (
        edits.image_embedding(each, "scene-2"),
        edits.mix_factor(each, -3.0),
        edits.silence_temporal_attention(each),
    ):
        with other, svdlab.trace(each) as tr:
            assert not torch.equal(make(each), plain)
        assert len(tr.calls[0].edits) == 1
    assert torch.equal(make(each), plain)


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
    before = hooks_of(pipe)
    broken = svdlab.edit(pipe, "cond", lambda value, step: 1 / 0)
    with pytest.raises(ZeroDivisionError), edits.mix_factor(pipe, 0.0), edits.silence_temporal_attention(pipe), broken:
        make(pipe)
    assert hooks_of(pipe) == before


def test_what_cannot_be_is_refused(pipe: Any) -> None:
    for call, kind, message in [
        (lambda: edits.image_embedding(pipe, "no-such.png"), InputError, "No such file"),
        (lambda: edits.mix_factor(pipe, 1.0, "unet.conv_in"), TraceError, "nothing of that kind"),
        (lambda: edits.silence_temporal_attention(pipe, "unet.midblock"), TraceError, "Nearest"),
    ]:
        with pytest.raises(SvdlabError, match=message) as caught, call():
            make(pipe)
        assert isinstance(caught.value, kind)
