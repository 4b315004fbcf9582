"""Modules and steps by all that names them; attention maps are the weights that the run itself used."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor, FusedAttnProcessor2_0

import svdlab
from svdlab.errors import TraceError
from svdlab.pipeline.hooks import KEEP
from tests.four_levels import four_levels
from tests.pipeline.making import SPATIAL, TEMPORAL, beside, make


def test_module_names(each: Any) -> None:
    names, mixers = svdlab.module_names(each), svdlab.module_names(each, "time_mixer")
    assert names[0] == "unet" and TEMPORAL in names and all(name.startswith("unet") for name in names)
    assert mixers and all(hasattr(each.unet.get_submodule(name[5:]), "mix_factor") for name in mixers)


@pytest.mark.parametrize(
    ("which", "count"),
    [
        (TEMPORAL, 1),
        ("unet.mid_block.attentions.*.attn1", 2),
        ([TEMPORAL, SPATIAL], 2),
        (lambda name: name.endswith("conv_in"), 1),
    ],
)
def test_modules_by_name_glob_list_and_predicate(pipe: Any, which: Any, count: int) -> None:
    with svdlab.trace(pipe, keep=(), modules=which) as tr:
        make(pipe, num_inference_steps=1)
    assert len(tr.names) == count


@pytest.mark.parametrize(
    ("steps", "kept"),
    [
        (None, [0, 1, 2, 3]),
        (2, [2]),
        (np.int64(2), [2]),
        (range(0, 9, 2), [0, 2]),
        (slice(1, 3), [1, 2]),
        (slice(None, None, 3), [0, 3]),
        ((1, 3), [1, 3]),
        ((1.0, 100.0), [1, 2]),
        ((100.0, 1.0), [1, 2]),
        (lambda step: step.sigma > 100, [0]),
    ],
)
def test_steps_by_number_and_by_sigma(four: Any, steps: Any, kept: list[int]) -> None:
    edited = []
    noting = svdlab.edit(four, "latents", lambda value, step: edited.append(step.index), steps=steps)
    with svdlab.trace(four, keep=("latents",), steps=steps) as tr, noting:
        make(four, num_inference_steps=4)
    assert [step.index for step in tr] == kept == edited


def test_attention_weights_are_the_runs_own(pipe: Any) -> None:
    """With equal queries every key weighs the same: 1/n, and the entropy is ln n. An edit of the queries does that."""
    frames = pipe.unet.config.num_frames
    equal = svdlab.edit(pipe, "*attn1.to_q", lambda value, step: 0 * value, steps=1)
    with svdlab.trace(pipe, attention=(TEMPORAL, SPATIAL), queries=[(0, 0), (0.99, 0.5)]) as tr, equal:
        make(pipe)
    temporal, spatial, entropy = tr[TEMPORAL + ".weights"], tr[SPATIAL + ".weights"], tr[TEMPORAL + ".entropy"]
    assert temporal.shape == (2, 2, frames, frames) and spatial.shape == (2, 2, frames, 2, 4, 4)
    assert torch.allclose(temporal.sum(-1), torch.ones(()), atol=1e-5)
    assert torch.allclose(spatial.sum((-1, -2)), torch.ones(()), atol=1e-5)
    assert torch.allclose(temporal[1], torch.tensor(1 / frames)) and torch.allclose(spatial[1], torch.tensor(1 / 16))
    assert not torch.allclose(temporal[0], torch.tensor(1 / frames))
    assert torch.allclose(entropy[1], torch.tensor(math.log(frames)), atol=1e-5) and (entropy[0] < math.log(frames)).all()
    assert torch.equal(tr[TEMPORAL + ".first_frame"], temporal[..., 0])


def test_attention_weights_against_torchs_own_attention(pipe: Any) -> None:
    """The weights that explain what scaled_dot_product_attention gave: applied to the identity, it returns them."""
    with svdlab.trace(pipe, keep=(), attention=TEMPORAL, modules=[TEMPORAL + ".to_q", TEMPORAL + ".to_k"]) as tr:
        make(pipe, num_inference_steps=1)
    heads = pipe.unet.mid_block.attentions[0].temporal_transformer_blocks[0].attn1.heads
    q, k = (tr[f"{TEMPORAL}.{x}"][0].unflatten(-1, (heads, -1)).transpose(2, 3) for x in ("to_q", "to_k"))
    identity = torch.eye(q.shape[-2]).expand(*q.shape[:3], -1, -1)
    weights = torch.nn.functional.scaled_dot_product_attention(q, k, identity)  # "half site head query key"
    assert torch.allclose(tr[TEMPORAL + ".weights"][0], weights.mean(dim=(1, 2)), atol=1e-5)


def test_attention_to_the_image_is_the_same_everywhere(each: Any) -> None:
    """One key: attn2's output does not depend on the place, so a map of it would say nothing."""
    name = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0"
    with svdlab.trace(each, keep=(), modules=name) as tr:
        make(each)
    value = tr[name]  # "s half f site c"
    assert torch.allclose(value, value[:, :, :1, :1].expand_as(value), atol=1e-6)


def test_other_attention_processors_give_maps_or_are_refused() -> None:
    pipe = four_levels()
    attn = pipe.unet.mid_block.attentions[0].temporal_transformer_blocks[0].attn1

    def maps() -> torch.Tensor:
        with svdlab.trace(pipe, keep=(), attention=TEMPORAL) as tr:
            make(pipe, num_inference_steps=1)
        return tr[TEMPORAL + ".weights"]

    plain = maps()
    attn.set_processor(AttnProcessor())
    assert torch.allclose(maps(), plain, atol=1e-5)
    with torch.no_grad():
        attn.fuse_projections()
    attn.set_processor(FusedAttnProcessor2_0())
    assert torch.allclose(maps(), plain, atol=1e-5)
    attn.set_processor(type("Own", (), {"__call__": lambda self, attn, hidden_states, *args, **kwargs: hidden_states})())
    with pytest.raises(TraceError, match="set_default_attn_processor"):
        maps()


def test_a_compiled_unet_shows_its_steps_but_not_its_inside(pipe: Any) -> None:
    compiled = beside(pipe)
    compiled.unet = torch.compile(pipe.unet, backend="eager")
    with svdlab.trace(pipe, keep=tuple(KEEP)) as plain:
        make(pipe)
    with svdlab.trace(compiled, keep=tuple(KEEP)) as tr:
        make(compiled)
    assert all(torch.allclose(tr[name], plain[name], rtol=1e-3, atol=1e-3) for name in KEEP)
    in_place = four_levels()
    in_place.unet.mid_block.compile(backend="eager")
    for block in (
        svdlab.trace(compiled, modules="unet.mid_block"),
        svdlab.trace(compiled, attention="temporal"),
        svdlab.edit(compiled, TEMPORAL, lambda value, step: value),
        svdlab.trace(in_place, modules=TEMPORAL),
    ):
        with pytest.raises(TraceError, match="compile=False"), block:
            pass
    with svdlab.trace(in_place, modules="unet.conv_in"):  # beside it, not inside
        pass
