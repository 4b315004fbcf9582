"""What is traced is what diffusers computed, an edit acts where it says, and no block leaves anything behind."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler, StableVideoDiffusionPipeline

import svdlab
from svdlab.errors import InputError, SvdlabError, TraceError
from svdlab.pipeline import hooks
from svdlab.pipeline import sampler as schedule
from svdlab.pipeline.generate import ProbePipeline, generate_batch
from tests.four_levels import four_levels
from tests.full_size import SCHEDULER as SVD_SCHEDULER

STEPS = 4
TEMPORAL = "unet.mid_block.attentions.0.temporal_transformer_blocks.0.attn1"
SPATIAL = "unet.mid_block.attentions.0.transformer_blocks.0.attn1"


@pytest.fixture(scope="module")
def four() -> ProbePipeline:
    return four_levels()


@pytest.fixture(params=["organism", "four levels"])
def each(request: pytest.FixtureRequest) -> ProbePipeline:
    """The organism, and SVD's topology with random weights."""
    return request.getfixturevalue("pipe" if request.param == "organism" else "four")


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    """The same but for rounding, which a few steps of a network amplify."""
    return bool((a - b).norm() < 1e-3 * b.norm())


def make(pipe: Any, image: Any = "scene-1", seed: int = 0, **overrides: Any) -> svdlab.Clip:
    """One clip, not decoded: equal latents make equal frames."""
    conditions = svdlab.Conditions(**{"num_inference_steps": STEPS, **overrides})
    return generate_batch(pipe, [image], [conditions], [seed], decode=False)[0]


@pytest.fixture
def unet_calls(pipe: Any) -> Iterator[list[int]]:
    """Rows that the organism's UNet computes in each call: halves times samples."""
    calls: list[int] = []
    handle = pipe.unet.time_embedding.register_forward_pre_hook(lambda module, args: calls.append(len(args[0])))
    yield calls
    handle.remove()


def traces_of(pipe: Any) -> dict[str, Any]:
    """All that a hook could have left: hooks, instance attributes, attention processors, of every part of a pipeline."""
    found: dict[str, Any] = {"pipe": sorted(vars(pipe)), "scheduler": sorted(vars(pipe.scheduler))}
    for part in ("unet", "vae", "image_encoder"):
        for name, module in getattr(pipe, part).named_modules():
            for key, value in vars(module).items():
                hooked = "hook" in key and isinstance(value, dict)
                found[f"{part}.{name}.{key}"] = list(value) if hooked else id(value)
    return found


# Nothing changes, nothing stays


def test_traced_equals_untraced(each: Any) -> None:
    plain = svdlab.generate(each, "scene-1", num_inference_steps=3)
    with svdlab.trace(each, keep=tuple(hooks.KEEP), modules=lambda name: True, attention=("temporal", "spatial")) as tr:
        traced = svdlab.generate(each, "scene-1", num_inference_steps=3)
    assert torch.equal(traced.latents, plain.latents)
    assert np.array_equal(traced.frames, plain.frames)
    assert set(hooks.KEEP) <= set(tr.names)
    assert set(hooks.module_names(each)) <= set(tr.names), "some module never runs"
    assert torch.equal(tr["next_latents"][-1], plain.latents)


def test_a_stock_pipeline_is_told_how_to_be_traced(pipe: Any) -> None:
    stock = StableVideoDiffusionPipeline(**pipe.components)
    stock.set_progress_bar_config(disable=True)
    for block in (svdlab.trace(stock), svdlab.edit(stock, "cond", lambda value, step: value)):
        with pytest.raises(TraceError, match=r"ProbePipeline\.from_pipe\(pipe\)"), block:
            pass
    own = ProbePipeline.from_pipe(stock)
    own.set_progress_bar_config(disable=True)
    arguments = dict(height=64, width=64, num_inference_steps=2, output_type="latent")
    image = svdlab.sample_image("scene-1")
    plain = stock(image, **arguments, generator=torch.Generator().manual_seed(0)).frames
    with svdlab.trace(own) as tr:
        traced = own(image, **arguments, generator=torch.Generator().manual_seed(0)).frames
    assert torch.equal(plain, traced) and len(tr) == 2
    with pytest.raises(TraceError, match=r"svdlab\.generate"):
        svdlab.branch(pipe, tr, 1)


def stop(error: BaseException) -> Any:
    def fn(value: torch.Tensor, step: Any) -> None:
        if step.index == 1:
            raise error

    return fn


@pytest.mark.parametrize("end", ["used", "unused", "not entered", ValueError(), KeyboardInterrupt()])
def test_nothing_is_left_behind(each: Any, end: Any) -> None:
    make(each, num_inference_steps=2)
    before = traces_of(each)
    if end == "not entered":
        svdlab.trace(each, modules="unet.mid_block")
        svdlab.edit(each, "latents", lambda value, step: None)
    else:
        with ExitStack() as stack:
            if isinstance(end, BaseException):
                stack.enter_context(pytest.raises(type(end)))
            stack.enter_context(svdlab.trace(each, keep=tuple(hooks.KEEP), modules="unet*", attention="temporal"))
            for where in (*hooks.EDITABLE, TEMPORAL, "unet"):
                stack.enter_context(svdlab.edit(each, where, lambda value, step: None))
            if isinstance(end, BaseException):
                stack.enter_context(svdlab.edit(each, "unet.mid_block.resnets.1", stop(end)))
            stack.enter_context(svdlab.trace(each))
            assert traces_of(each) != before  # or this comparison could not fail
            if end != "unused":
                make(each, num_inference_steps=2)
    assert traces_of(each) == before


def test_what_was_traced_before_an_error_is_kept(pipe: Any) -> None:
    with pytest.raises(KeyboardInterrupt), svdlab.trace(pipe) as tr, svdlab.edit(pipe, "cond", stop(KeyboardInterrupt())):
        make(pipe)
    assert [step.index for step in tr] == [0]
    with svdlab.trace(pipe) as again:
        make(pipe)
    assert len(again) == STEPS


def test_blocks_may_end_in_any_order(pipe: Any) -> None:
    before = traces_of(pipe)
    first, second = svdlab.trace(pipe), svdlab.edit(pipe, "cond", lambda value, step: 0 * value)
    tr = first.__enter__()
    second.__enter__()
    make(pipe, num_inference_steps=2)
    first.__exit__(None, None, None)
    with svdlab.trace(pipe, keep=("cond",)) as later:
        make(pipe, num_inference_steps=2)
    second.__exit__(None, None, None)
    assert len(tr) == 2
    assert later["cond"].abs().max() == 0
    assert traces_of(pipe) == before


# Blocks and pipelines do not mix


def test_a_block_holds_one_run(pipe: Any, unet_calls: list[int]) -> None:
    with svdlab.trace(pipe) as tr:
        make(pipe, num_inference_steps=2)
        with pytest.raises(TraceError, match="one `with"):
            make(pipe, num_inference_steps=2)
    assert len(tr) == len(unet_calls) == 2  # the second run was refused before its first UNet call


def test_nested_traces_see_the_same(pipe: Any) -> None:
    with svdlab.trace(pipe, keep=("latents", "cond")) as outer, svdlab.trace(pipe, steps=[1]) as inner:
        make(pipe, num_inference_steps=2)
    assert (len(outer), len(inner)) == (2, 1)
    assert torch.equal(outer.latents[1], inner.latents[0])


@pytest.mark.parametrize("where", [*hooks.EDITABLE, TEMPORAL])
def test_the_inner_edit_acts_first(pipe: Any, where: str) -> None:
    seen: dict[str, torch.Tensor] = {}

    def inner(value: torch.Tensor, step: Any) -> torch.Tensor:
        seen["to inner"] = value
        return value + 0.5

    def outer(value: torch.Tensor, step: Any) -> torch.Tensor:
        seen["to outer"] = value
        return value * 1.5

    with svdlab.edit(pipe, where, outer), svdlab.edit(pipe, where, inner):
        make(pipe, num_inference_steps=1)
    assert torch.equal(seen["to outer"], seen["to inner"] + 0.5)


@pytest.mark.parametrize("where", ["latents", "cond", "uncond", "model_output", "denoised", TEMPORAL])
@pytest.mark.parametrize("trace_is_outer", [True, False])
def test_a_trace_sees_the_outcome_of_all_edits(pipe: Any, where: str, trace_is_outer: bool) -> None:
    constant = svdlab.edit(pipe, where, lambda value, step: torch.full_like(value, 0.25))
    module = where == TEMPORAL
    tracing = svdlab.trace(pipe, keep=() if module else (where,), modules=where if module else ())
    with ExitStack() as stack:
        blocks = [stack.enter_context(block) for block in ((tracing, constant) if trace_is_outer else (constant, tracing))]
        make(pipe, num_inference_steps=2)
    tr = next(block for block in blocks if block is not None)
    assert torch.allclose(tr[where], torch.tensor(0.25), atol=1e-4)


def test_pipelines_that_share_modules_do_not_mix(pipe: Any) -> None:
    other = ProbePipeline(**{**pipe.components, "scheduler": EulerDiscreteScheduler(**SVD_SCHEDULER)})
    other.source = pipe.source
    other.set_progress_bar_config(disable=True)
    plain, plain_other = make(pipe), make(other, seed=7)
    with (
        svdlab.trace(pipe, keep=("cond",), modules=TEMPORAL) as tr,
        svdlab.edit(pipe, TEMPORAL, lambda value, step: 0 * value),
    ):
        assert torch.equal(make(other, seed=7).latents, plain_other.latents)
        assert len(tr.steps) == 0
    with svdlab.trace(pipe, keep=["next_latents"]) as tr, svdlab.trace(other, keep=["next_latents"]) as tr_other:
        make(pipe)
        make(other, seed=7)
    assert torch.equal(tr["next_latents"][-1], plain.latents)
    assert torch.equal(tr_other["next_latents"][-1], plain_other.latents)


def test_another_pipeline_may_run_between_two_steps(pipe: Any) -> None:
    other = ProbePipeline(**{**pipe.components, "scheduler": EulerDiscreteScheduler(**SVD_SCHEDULER)})
    other.source = pipe.source
    other.set_progress_bar_config(disable=True)
    image = svdlab.sample_image("scene-1")

    def run(callback: Any) -> Any:
        generator = torch.Generator().manual_seed(0)
        with svdlab.trace(pipe, keep=("latents", "cond"), modules=TEMPORAL) as tr:
            pipe(image, num_inference_steps=2, generator=generator, output_type="latent", callback_on_step_end=callback)
        return tr

    def interrupting(*args: Any) -> dict[str, Any]:
        make(other, seed=7, num_inference_steps=1)
        return {}

    alone, interrupted = run(lambda *args: {}), run(interrupting)
    assert len(interrupted) == 2
    for name in alone.names:
        assert torch.equal(alone[name], interrupted[name])


# What is captured


def test_steps_are_the_schedulers(pipe: Any) -> None:
    with svdlab.trace(pipe, steps=[0, 2]) as tr:
        make(pipe)
    scheduler = copy.deepcopy(pipe.scheduler)
    scheduler.set_timesteps(STEPS)
    sigmas = scheduler.sigmas.numpy()
    assert [step.index for step in tr] == [0, 2]
    assert np.array_equal(tr.sigmas, sigmas[[0, 2]])
    assert np.array_equal(tr.schedule, sigmas)
    assert [step.sigma_next for step in tr] == [sigmas[1], sigmas[3]]
    assert [step.timestep for step in tr] == pytest.approx(np.log(tr.sigmas) / 4, rel=1e-5)
    assert all(step.seconds > 0 for step in tr)


def test_captured_values_obey_the_formulas(each: Any) -> None:
    with svdlab.trace(each, keep=tuple(hooks.KEEP)) as tr:
        clip = make(each)
    sigma, sigma_next = (torch.tensor([getattr(s, k) for s in tr])[:, None, None, None, None] for k in ("sigma", "sigma_next"))
    x, v = tr["latents"], tr["model_output"]
    denoised = x / (sigma**2 + 1) - v * sigma / (sigma**2 + 1) ** 0.5
    assert torch.allclose(tr["denoised"], denoised, atol=1e-5 * float(denoised.abs().max()))
    after = x + (x - tr["denoised"]) / sigma * (sigma_next - sigma)
    assert torch.allclose(tr["next_latents"], after, rtol=1e-4, atol=1e-4)
    assert torch.equal(tr["next_latents"][:-1], x[1:])
    scale = torch.linspace(1.0, 3.0, len(clip.latents))[:, None, None, None]
    assert torch.equal(v, tr["uncond"] + scale * (tr["cond"] - tr["uncond"]))
    assert torch.allclose(tr["guidance_pressure"], (tr["cond"] - tr["uncond"]).norm(dim=2))


def test_a_module_is_kept_per_half(pipe: Any) -> None:
    name, half = "unet.conv_out", "unet.time_embedding"
    with svdlab.trace(pipe, keep=("cond", "uncond"), modules=[name, half]) as tr:
        make(pipe, num_inference_steps=2)
    assert torch.equal(tr[name][:, 0], tr["uncond"])
    assert torch.equal(tr[name][:, 1], tr["cond"])
    assert tr[half].shape[:2] == (2, 2)  # steps, halves, and no dimension of frames


def test_a_module_that_runs_twice_is_kept_twice(pipe: Any) -> None:
    name = "unet.mid_block.resnets.0.spatial_res_block.nonlinearity"
    with svdlab.trace(pipe, keep=(), modules=name) as tr:
        make(pipe, num_inference_steps=1)
    assert tr.names == [name, f"{name}#2", f"{name}#3"]


def test_reduce_acts_on_one_sample(pipe: Any) -> None:
    def run(reduce: Any) -> Any:
        with svdlab.trace(pipe, keep=(), modules="unet.mid_block", reduce=reduce) as tr:
            make(pipe, num_inference_steps=2)
        return tr["unet.mid_block"]

    whole = run(None)
    assert torch.allclose(run(lambda value: value.mean(dim=(1, 3, 4))), whole.mean(dim=(2, 4, 5)))
    assert torch.allclose(run(lambda value: value.std()), torch.stack([step.std() for step in whole]))


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
def test_steps_by_number_and_by_sigma(pipe: Any, steps: Any, kept: list[int]) -> None:
    edited = []
    noting = svdlab.edit(pipe, "latents", lambda value, step: edited.append(step.index), steps=steps)
    with svdlab.trace(pipe, keep=("latents",), steps=steps) as tr, noting:
        make(pipe)
    assert [step.index for step in tr] == kept == edited


def test_attention_weights_are_the_runs_own(pipe: Any) -> None:
    """With equal queries every key weighs the same: 1/n, and the entropy is ln n. An edit of the queries does that."""
    frames = pipe.unet.config.num_frames
    equal = svdlab.edit(pipe, "*attn1.to_q", lambda value, step: 0 * value, steps=1)
    with svdlab.trace(pipe, attention=(TEMPORAL, SPATIAL), queries=[(0, 0), (0.99, 0.5)]) as tr, equal:
        make(pipe, num_inference_steps=2)
    temporal, spatial = tr[TEMPORAL + ".weights"], tr[SPATIAL + ".weights"]
    assert temporal.shape == (2, 2, frames, frames)
    assert spatial.shape == (2, 2, frames, 2, 4, 4)
    assert torch.allclose(temporal.sum(-1), torch.ones(()), atol=1e-5)
    assert torch.allclose(spatial.sum((-1, -2)), torch.ones(()), atol=1e-5)
    assert torch.allclose(temporal[1], torch.tensor(1 / frames))
    assert torch.allclose(spatial[1], torch.tensor(1 / 16))
    assert not torch.allclose(temporal[0], torch.tensor(1 / frames))
    entropy = tr[TEMPORAL + ".entropy"]
    assert torch.allclose(entropy[1], torch.tensor(math.log(frames)), atol=1e-5)
    assert (entropy[0] < math.log(frames)).all()
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


# Settings


def test_a_batch_holds_each_samples_own(pipe: Any) -> None:
    conditions = [svdlab.Conditions(num_inference_steps=2, motion_bucket_id=b) for b in (10, 200)]
    with svdlab.trace(pipe, keep=tuple(hooks.KEEP), modules=TEMPORAL, attention="temporal") as tr:
        clips = generate_batch(pipe, ["scene-1", "scene-2"], conditions, [3, 4])
    with svdlab.trace(pipe, keep=tuple(hooks.KEEP), modules=TEMPORAL, attention="temporal") as alone:
        svdlab.generate(pipe, "scene-2", conditions[1], seed=4)
    assert tr.batch == 2
    second = tr[1]
    assert second.calls[0].conditions.motion_bucket_id == 200
    assert torch.equal(second["next_latents"][-1], clips[1].latents)
    for name in alone.names:
        assert second[name].shape == alone[name].shape
        assert close(second[name], alone[name]), name
    branched = svdlab.branch(pipe, second, 1)
    assert close(branched.latents, clips[1].latents)
    with pytest.raises(TraceError, match="2 samples"):
        svdlab.branch(pipe, tr, 1)


def test_without_guidance_there_is_one_half(pipe: Any, unet_calls: list[int]) -> None:
    off = dict(min_guidance_scale=1.0, max_guidance_scale=1.0, num_inference_steps=2)
    plain = make(pipe, **off)
    with svdlab.trace(pipe, keep=("cond", "model_output"), modules=TEMPORAL, attention=TEMPORAL) as tr:
        assert torch.equal(make(pipe, **off).latents, plain.latents)
    assert torch.equal(tr["cond"], tr["model_output"])
    assert tr[TEMPORAL].shape[1] == tr[TEMPORAL + ".weights"].shape[1] == 1
    unet_calls.clear()
    for block in (svdlab.trace(pipe, keep=("uncond",)), svdlab.trace(pipe, keep=("guidance_pressure",))):
        with pytest.raises(TraceError, match="max_guidance_scale"), block:
            make(pipe, **off)
    assert unet_calls == []
    with pytest.raises(TraceError, match="max_guidance_scale"), svdlab.edit(pipe, "guidance", lambda value, step: value):
        make(pipe, **off)


def test_a_guidance_interval_spares_the_unconditional_half(pipe: Any, unet_calls: list[int]) -> None:
    with svdlab.trace(pipe, keep=tuple(hooks.KEEP), modules=TEMPORAL, attention=TEMPORAL) as tr:
        spared = make(pipe, guidance_interval=(1.0, 100.0))
    assert unet_calls == [1, 2, 2, 1]
    off = [True, False, False, True]
    for name in ("uncond", "guidance_pressure"):
        assert tr[name].flatten(1).isnan().all(1).tolist() == tr[name].flatten(1).isnan().any(1).tolist() == off
    for name in (TEMPORAL, TEMPORAL + ".weights"):
        assert tr[name][:, 0].flatten(1).isnan().all(1).tolist() == off
        assert not tr[name][:, 1].isnan().any()
    assert torch.equal(tr["model_output"][0], tr["cond"][0])
    with svdlab.edit(pipe, "guidance", lambda value, step: torch.ones_like(value), steps=[0, 3]):
        computed = make(pipe)
    assert close(spared.latents, computed.latents)
    assert not close(spared.latents, make(pipe).latents)
    with pytest.raises(TraceError, match="guidance_interval"), svdlab.edit(pipe, "guidance", lambda value, step: 2 * value):
        make(pipe, guidance_interval=(1.0, 100.0))


def test_the_users_callback_stays_the_users(pipe: Any) -> None:
    seen = []

    def halve(pipeline: Any, index: int, timestep: Any, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        seen.append((index, float(timestep)))
        return {"latents": tensors["latents"] / 2}

    with svdlab.trace(pipe, keep=("latents", "next_latents")) as tr:
        pipe(
            svdlab.sample_image("scene-1"),
            num_inference_steps=3,
            generator=torch.Generator().manual_seed(0),
            output_type="latent",
            callback_on_step_end=halve,
        )
    assert seen == [(step.index, step.timestep) for step in tr]
    assert torch.equal(tr["latents"][1:], tr["next_latents"][:-1] / 2)


@pytest.mark.parametrize("how", ["model", "unet by parts"])
def test_with_offload(how: str) -> None:
    """On a CPU there is nothing to gain, but the hooks are accelerate's own."""
    from accelerate import cpu_offload

    pipe = four_levels()
    plain = make(pipe, num_inference_steps=2)
    if how == "model":
        pipe.enable_model_cpu_offload(device="cpu")
    else:
        cpu_offload(pipe.unet, torch.device("cpu"))
        assert next(pipe.unet.parameters()).device.type == "meta"
    before = traces_of(pipe).keys()
    with svdlab.trace(pipe, keep=("cond",), modules=TEMPORAL, attention="temporal") as tr:
        assert torch.equal(make(pipe, num_inference_steps=2).latents, plain.latents)
    assert tr[TEMPORAL].isfinite().all()
    with svdlab.edit(pipe, TEMPORAL, lambda value, step: 0 * value):
        assert not torch.equal(make(pipe, num_inference_steps=2).latents, plain.latents)
    assert traces_of(pipe).keys() == before


def test_a_compiled_unet_shows_its_steps_but_not_its_inside(pipe: Any) -> None:
    compiled = ProbePipeline(**pipe.components)
    compiled.source = pipe.source
    compiled.set_progress_bar_config(disable=True)
    compiled.unet = torch.compile(pipe.unet, backend="eager")
    with svdlab.trace(pipe, keep=tuple(hooks.KEEP)) as plain:
        make(pipe, num_inference_steps=2)
    with svdlab.trace(compiled, keep=tuple(hooks.KEEP)) as tr:
        make(compiled, num_inference_steps=2)
    for name in hooks.KEEP:
        assert torch.allclose(tr[name], plain[name], rtol=1e-3, atol=1e-3), name
    with svdlab.edit(compiled, "cond", lambda value, step: 0 * value), svdlab.trace(compiled, keep=("cond",)) as tr:
        make(compiled, num_inference_steps=1)
    assert tr["cond"].abs().max() == 0
    for block in (
        svdlab.trace(compiled, modules="unet.mid_block"),
        svdlab.trace(compiled, attention="temporal"),
        svdlab.edit(compiled, TEMPORAL, lambda value, step: value),
    ):
        with pytest.raises(TraceError, match="compile=False"), block:
            pass


def test_a_module_compiled_in_place_is_noticed() -> None:
    pipe = four_levels()
    pipe.unet.mid_block.compile(backend="eager")
    with pytest.raises(TraceError, match="compile=False"), svdlab.trace(pipe, modules=TEMPORAL):
        pass
    with svdlab.trace(pipe, modules="unet.conv_in"):  # beside it, not inside
        pass


# Edits


@pytest.mark.parametrize("where", [*hooks.EDITABLE, TEMPORAL, SPATIAL, "unet.conv_in", "unet.mid_block", "unet"])
def test_an_edit_acts_and_none_leaves_alone(pipe: Any, where: str) -> None:
    plain = make(pipe, num_inference_steps=2)
    shapes = []
    with svdlab.edit(pipe, where, lambda value, step: shapes.append(value.shape)):
        untouched = make(pipe, num_inference_steps=2)
    assert shapes
    assert torch.equal(untouched.latents, plain.latents)
    with svdlab.edit(pipe, where, lambda value, step: value * 0.5 if step.index == 1 else None):
        changed = make(pipe, num_inference_steps=2)
    assert not torch.equal(changed.latents, plain.latents)
    assert changed.call.edits == ((where,) if where in hooks.EDITABLE else (f"modules {where!r}",))
    assert changed.call.edits == changed.call.edits
    assert plain.call.edits == ()


def test_an_edited_estimate_is_what_the_step_goes_towards(pipe: Any) -> None:
    target = torch.full((), 0.7)
    with svdlab.edit(pipe, "denoised", lambda value, step: target.expand_as(value)), svdlab.trace(pipe) as tr:
        clip = make(pipe)
    assert torch.allclose(tr.denoised, target, atol=1e-3)
    assert torch.allclose(clip.latents, target, atol=1e-3)


def test_edited_latents_reach_both_unet_and_scheduler(pipe: Any) -> None:
    start = torch.randn(1, pipe.unet.config.num_frames, 4, 16, 16, generator=torch.Generator().manual_seed(5)) * 700
    with svdlab.trace(pipe, keep=("latents", "cond")) as edited, svdlab.edit(pipe, "latents", lambda *_: start, steps=0):
        clip = make(pipe, num_inference_steps=2)
    with svdlab.trace(pipe, keep=("latents", "cond")) as given:
        levels = schedule.karras(2).tolist()
        conditions = svdlab.Conditions(num_inference_steps=2)
        expected = generate_batch(pipe, ["scene-1"], [conditions], [0], sigmas=levels, latents=start)[0]
    assert torch.allclose(edited["cond"][0], given["cond"][0], atol=1e-5)
    assert close(clip.latents, expected.latents)


def test_an_edit_of_the_conditions_is_the_condition(pipe: Any) -> None:
    """fps, bucket and noise as the UNet sees them; guidance by the curve's own numbers."""

    def as_if(value: torch.Tensor, step: Any) -> torch.Tensor:
        return torch.tensor([[11.0, 200.0, 0.02]]).expand_as(value)

    with svdlab.edit(pipe, "added_time_ids", as_if):
        edited = make(pipe)
    assert torch.equal(edited.latents, make(pipe, fps=12, motion_bucket_id=200).latents)
    with svdlab.edit(pipe, "guidance", lambda value, step: torch.linspace(1, 5, value.shape[1]).view_as(value)):
        edited = make(pipe)
    assert torch.equal(edited.latents, make(pipe, max_guidance_scale=5.0).latents)


# Going on from a step


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_branch_without_changes_is_the_clip_again(each: Any, dtype: torch.dtype) -> None:
    own = ProbePipeline(**copy.deepcopy(each.components)).to(dtype)  # there and back, the shared weights would be rounded
    own.source = each.source
    own.set_progress_bar_config(disable=True)
    with svdlab.trace(own) as tr:
        clip = make(own, num_frames=3, num_inference_steps=3)
    assert tr.latents.dtype == dtype
    for step in range(3):
        assert torch.equal(svdlab.branch(own, tr, step, decode=False).latents, clip.latents), step


def test_a_branch_of_a_saved_trace_and_of_a_branch(pipe: Any, tmp_path: Any) -> None:
    with svdlab.trace(pipe) as tr:
        clip = make(pipe)
    loaded = svdlab.Trace.load(tr.save(tmp_path / "trace.safetensors"))
    with svdlab.trace(pipe) as tail:
        assert torch.equal(svdlab.branch(pipe, loaded, 1).latents, clip.latents)
    assert len(tail) == STEPS - 1
    assert [step.index for step in tail] == [1, 2, 3]
    assert torch.equal(svdlab.branch(pipe, tail, 3).latents, clip.latents)


def test_a_branch_changes_what_is_asked(pipe: Any) -> None:
    with svdlab.trace(pipe) as tr:
        clip = make(pipe)
    for changes in (dict(fps=20), dict(motion_bucket_id=1), dict(max_guidance_scale=6.0), dict(image="scene-2")):
        other = svdlab.branch(pipe, tr, 1, **changes)
        assert not torch.equal(other.latents, clip.latents), changes
        assert other.call.start["step"] == 1 and other.conditions.num_inference_steps == STEPS
    fresh = make(pipe, motion_bucket_id=1)
    assert torch.equal(svdlab.branch(pipe, tr, 0, motion_bucket_id=1).latents, fresh.latents)
    assert svdlab.branch(pipe, tr, 1, motion_bucket_id=1).call != fresh.call


def test_a_transplant_computes_only_what_is_left(four: Any) -> None:
    steps, calls = 25, []
    size = dict(num_frames=2, num_inference_steps=steps, max_guidance_scale=1.0)
    with svdlab.trace(four, keep=("latents",)) as tr:
        make(four, **size)
    handle = four.unet.register_forward_pre_hook(lambda module, args: calls.append(1))
    try:
        clips = svdlab.hooks.transplant(four, tr, decode=False, motion_bucket_id=1)
    finally:
        handle.remove()
    assert list(clips) == list(range(steps))
    assert len(calls) <= 0.52 * steps * steps
    assert not torch.equal(clips[0].latents, clips[steps - 1].latents)


def test_what_a_branch_needs_is_said(pipe: Any, unet_calls: list[int]) -> None:
    with svdlab.trace(pipe, steps=[1]) as tr:
        make(pipe, num_inference_steps=2)
    with svdlab.trace(pipe, keep=("cond",)) as bare:
        make(pipe, num_inference_steps=2)
    noise = torch.zeros(1, 3, 64, 64), torch.randn(1, 8, 4, 16, 16)
    with svdlab.trace(pipe) as given:
        generate_batch(pipe, ["scene-1"], [svdlab.Conditions(num_inference_steps=1)], [0], noise=noise)
    unet_calls.clear()
    for call, message in [
        (lambda: svdlab.branch(pipe, tr, 0), "holds latents of 1"),
        (lambda: svdlab.branch(pipe, bare, 0), "no step"),
        (lambda: svdlab.branch(pipe, given, 0), "noise"),
        (lambda: svdlab.branch(pipe, tr, 1, num_frames=4), "mid-run"),
        (lambda: svdlab.branch(pipe, tr, 1, motion_bucket=4), "motion_bucket_id"),
        (lambda: svdlab.branch(pipe, tr, 1, fps=0), "at least 1"),
        (lambda: svdlab.hooks.transplant(pipe, tr, [1, 0]), "holds latents of 1"),
    ]:
        with pytest.raises(SvdlabError, match=message):
            call()
    assert unet_calls == []


# Errors that know their cause


def test_an_empty_trace_says_why(pipe: Any) -> None:
    with svdlab.trace(pipe) as unused:
        pass
    with svdlab.trace(pipe, steps=[99]) as missed:
        make(pipe, num_inference_steps=2)
    for read in (lambda tr: tr.latents, lambda tr: tr.sigmas, lambda tr: tr.to_xarray(), lambda tr: tr["x"]):
        with pytest.raises(TraceError, match="no run of this pipeline began"):
            read(unused)
        with pytest.raises(TraceError, match=r"2 steps \(numbers 0 to 1, sigma 700 to 0.002\)"):
            read(missed)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(modules="unet.mid_block.attentions.0.temporal_transformer_block.0.attn1"), TEMPORAL),
        (dict(modules="unet.down_blocks"), r"Nearest: unet\.down_blocks"),  # a list of modules, which never runs
        (dict(modules="nothing.like*that"), "no module"),
        (dict(modules=lambda name: False), "predicate"),
        (dict(modules="vae.decoder"), "outside the denoising"),
        (dict(attention="cross"), "one key"),
        (dict(attention=TEMPORAL.replace("attn1", "attn2")), "one key"),
        (dict(attention="unet.mid_block"), "attn1"),
        (dict(attention="temporl"), "temporal"),
        (dict(keep=("latents", "noise")), "guidance_pressure"),
        (dict(steps=-1), "step numbers"),
        (dict(steps=[0, 1.5]), "step numbers"),
        (dict(steps=[]), "step numbers"),
        (dict(steps="last"), "step numbers"),
        (dict(steps=slice(-2, None)), "count from the first"),
        (dict(queries=[(2, 0.5)]), "fractions"),
    ],
)
def test_unusable_arguments_of_trace(pipe: Any, arguments: dict[str, Any], message: str) -> None:
    before = traces_of(pipe)
    with pytest.raises((TraceError, InputError), match=message), svdlab.trace(pipe, **arguments):
        pass
    assert traces_of(pipe) == before


def test_unusable_arguments_of_edit(pipe: Any) -> None:
    with pytest.raises(TraceError, match="denoised"), svdlab.edit(pipe, "denoise", lambda value, step: None):
        pass
    for result in (3, torch.zeros(1)):
        with pytest.raises(TraceError, match="shape"), svdlab.edit(pipe, "cond", lambda value, step, result=result: result):
            make(pipe, num_inference_steps=1)


def test_a_trace_too_large_is_refused_before_the_run(
    pipe: Any, unet_calls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = 8 * 4 * 16 * 16 * 4  # bytes of the latents of a step
    monkeypatch.setattr(hooks, "LARGE", 3 * one)
    with pytest.warns(hooks.LargeTraceWarning, match="steps="), svdlab.trace(pipe, keep=("latents",)) as tr:
        make(pipe)
    assert tr.nbytes == STEPS * one
    monkeypatch.setattr(hooks.psutil, "virtual_memory", lambda: SimpleNamespace(available=3 * one))
    unet_calls.clear()
    with pytest.raises(TraceError, match="would hold"), svdlab.trace(pipe, keep=("latents",)):
        make(pipe)
    assert unet_calls == []
    with pytest.raises(TraceError, match="would hold"), svdlab.trace(pipe, keep=(), modules="unet.conv_in") as tr:
        make(pipe)
    assert len(unet_calls) == 1  # stopped inside the first UNet call, at the first module that is too much
    with svdlab.trace(pipe, keep=("latents",), steps=[0, 1]) as tr:
        make(pipe)
    assert len(tr) == 2


def test_module_names(each: Any) -> None:
    names = svdlab.module_names(each)
    assert names[0] == "unet"
    assert TEMPORAL in names
    assert all(name.startswith("unet") for name in names)
    mixers = svdlab.module_names(each, "time_mixer")
    assert mixers
    assert all(hasattr(each.unet.get_submodule(name[5:]), "mix_factor") for name in mixers)


@pytest.mark.parametrize("where", [*hooks.EDITABLE, TEMPORAL])
def test_a_change_in_place_counts_where_it_is_returned_and_is_refused_where_it_is_not(pipe: Any, where: str) -> None:
    def double(value: torch.Tensor, step: Any) -> torch.Tensor:
        return value.mul_(0.5)

    def forgetful(value: torch.Tensor, step: Any) -> None:
        value.mul_(0.5)

    with svdlab.edit(pipe, where, double):
        changed = make(pipe, num_inference_steps=2)
    with svdlab.edit(pipe, where, lambda value, step: value * 0.5):
        assert torch.equal(make(pipe, num_inference_steps=2).latents, changed.latents)
    with pytest.raises(TraceError, match="return value"), svdlab.edit(pipe, where, forgetful):
        make(pipe, num_inference_steps=2)


def test_other_attention_processors_give_maps_or_are_refused() -> None:
    from diffusers.models.attention_processor import AttnProcessor, FusedAttnProcessor2_0

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

    class Own:
        def __call__(self, attn: Any, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
            return hidden_states

    attn.set_processor(Own())
    with pytest.raises(TraceError, match="set_default_attn_processor"):
        maps()
