"""Small memory: one half of the guidance at a time with the same result, traces and edits, and a chunk that fits."""

from typing import Any

import pytest
import torch

import svdlab
from svdlab.errors import InputError
from svdlab.pipeline import memory
from svdlab.pipeline.generate import ProbePipeline
from svdlab.study.executors import load_arguments
from tests import full_size
from tests.pipeline.making import SPATIAL, TEMPORAL, make

BLOCK = "unet.mid_block"

UP = "unet.up_blocks.1.attentions.0.temporal_transformer_blocks.0.attn1"  # the middle block does little in the organism


@pytest.fixture(scope="module")
def small() -> Any:
    return svdlab.load_pipeline(device="cpu", memory="small")


def traced(pipe: Any, **conditions: Any) -> Any:
    how = dict(keep=("next_latents", "cond", "uncond"), modules=[BLOCK, TEMPORAL], attention=["temporal", SPATIAL])
    with svdlab.trace(pipe, **how) as tr:
        make(pipe, **conditions)
    return tr


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """But for rounding, which a few steps amplify."""
    assert a.shape == b.shape and torch.equal(a.isnan(), b.isnan())
    a, b = a.nan_to_num(), b.nan_to_num()
    return bool((a - b).norm() <= 1e-4 * b.norm())


def test_a_trace_sees_both_halves_though_they_are_computed_in_turn(pipe: Any, small: Any) -> None:
    rows: list[int] = []
    handle = small.unet.time_embedding.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    one = traced(small)
    handle.remove()
    both = traced(pipe)
    assert rows == [1] * 4 and small.memory == "small" and pipe.memory == "full"
    for name in (*one.steps[0].values, "next_latents"):
        assert same(one[name], both[name]), name
    assert one[BLOCK].shape[1] == 2 and torch.allclose(one["cond"][0], both["cond"][0], rtol=0, atol=1e-6 * 5)


def test_steps_without_guidance_stay_nan_in_the_unconditional_half(pipe: Any, small: Any) -> None:
    interval = dict(guidance_interval=(0.0, 100.0), num_inference_steps=3)
    one, both = traced(small, **interval), traced(pipe, **interval)
    assert both[BLOCK][0, 0].isnan().all() and not both[BLOCK][-1].isnan().any()
    for name in one.steps[0].values:
        assert same(one[name], both[name]), name


@pytest.mark.parametrize("where", ["uncond", "guidance", "image_embeddings", BLOCK, UP])
def test_edits_act_as_on_both_halves_at_once(pipe: Any, small: Any, where: str) -> None:
    """Also one of a module, which may treat the halves apart: it is given both."""

    def change(value: torch.Tensor, step: Any) -> torch.Tensor:
        half = value.shape[0] // 2
        value[half:] = 5 * value[half:].flip(-1)
        return value

    found = []
    for each in (pipe, small):
        with svdlab.edit(each, where, change):
            found.append(make(each).latents)
    assert same(*found) and not same(found[0], make(pipe).latents)


def test_batches_and_stock_calls_too(pipe: Any, small: Any) -> None:
    image, draw = svdlab.sample_image("scene-1"), torch.Generator
    calls = [
        each([image] * 2, num_inference_steps=2, generator=draw().manual_seed(0), output_type="latent").frames
        for each in (pipe, small)
    ]
    assert same(*calls)
    assert ProbePipeline.from_pipe(small).memory == "small" == load_arguments(small)["memory"]


def test_a_mode_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match="auto, full, small"):
        svdlab.load_pipeline(memory="tiny")


def test_auto_takes_small_where_a_clip_would_not_fit_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert svdlab.load_pipeline(device="cpu").memory == "full"
    monkeypatch.setattr(memory, "_free", lambda device: 10_000_000)
    assert svdlab.load_pipeline(device="cpu").memory == "small"
    assert "memory='small'" in capsys.readouterr().err


def test_the_chunk_that_fits_is_all_on_the_cpu_and_what_small_memory_holds_at_full_size(pipe: Any, small: Any) -> None:
    full = full_size.build("SVD_XT", dtype=torch.float16)
    assert make(pipe).conditions.decode_chunk_size == 8 == make(small).conditions.decode_chunk_size
    assert memory.fitting_chunk(full, 25, 576, 1024) == 25
    full.memory = "small"
    assert memory.fitting_chunk(full, 25, 576, 1024) == 5 and memory.decoding(full, 5, 576, 1024) < memory.SMALL
