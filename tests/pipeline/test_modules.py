"""Modules and steps by all that names them; attention maps are the weights that the run itself used."""

from __future__ import annotations

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
    ],
)
def test_modules_by_name_glob_and_list(pipe: Any, which: Any, count: int) -> None:
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
        ((1, 3), [1, 3]),
        ((1.0, 100.0), [1, 2]),
        ((100.0, 1.0), [1, 2]),
    ],
)
def test_steps_by_number_and_by_sigma(four: Any, steps: Any, kept: list[int]) -> None:
    edited = []
    noting = svdlab.edit(four, "latents", lambda value, step: edited.append(step.index), steps=steps)
    with svdlab.trace(four, keep=("latents",), steps=steps) as tr, noting:
        make(four, num_inference_steps=4)
    assert [step.index for step in tr] == kept == edited


def test_attention_weights_are_the_runs_own(pipe: Any) -> None:
    """With equal queries every key weighs the same: 1/n. An edit of the queries does that."""
    frames = pipe.unet.config.num_frames
    equal = svdlab.edit(pipe, "*attn1.to_q", lambda value, step: 0 * value, steps=1)
    with svdlab.trace(pipe, attention=TEMPORAL) as tr, equal:
        make(pipe)
    temporal = tr[TEMPORAL + ".weights"]
    assert temporal.shape == (2, 2, frames, frames) and torch.allclose(temporal.sum(-1), torch.ones(()), atol=1e-5)
    assert torch.allclose(temporal[1], torch.tensor(1 / frames))
    assert not torch.allclose(temporal[0], torch.tensor(1 / frames))
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
