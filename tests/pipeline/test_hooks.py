"""What is traced is what diffusers computed, an edit acts where it says, and no block leaves anything behind."""

from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import cpu_offload
from diffusers import EulerDiscreteScheduler, StableVideoDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor, FusedAttnProcessor2_0

import svdlab
from svdlab.errors import InputError, TraceError
from svdlab.pipeline import hooks
from svdlab.pipeline.generate import ProbePipeline, generate_batch
from svdlab.pipeline.single_file import SCHEDULER
from tests.four_levels import four_levels
from tests.pipeline.making import SPATIAL, TEMPORAL, beside, close, hooks_of, make

ALL = tuple(hooks.KEEP)


# Nothing changes, nothing stays, blocks and pipelines do not mix


def test_traced_equals_untraced(each: Any) -> None:
    plain = make(each)
    with svdlab.trace(each, keep=ALL, modules="unet*", attention=("temporal", "spatial")) as tr:
        traced = make(each)
    assert torch.equal(traced.latents, plain.latents) and torch.equal(tr["next_latents"][-1], plain.latents)
    assert {*ALL, *hooks.module_names(each)} <= set(tr.names), "some module never runs"


def test_a_stock_pipeline_is_told_how_to_be_traced(pipe: Any) -> None:
    stock = beside(pipe, StableVideoDiffusionPipeline)
    for block in (lambda: svdlab.trace(stock), lambda: svdlab.edit(stock, "cond", lambda value, step: value)):
        with pytest.raises(InputError, match=r"ProbePipeline\.from_pipe\(pipe\)"):
            block()
    with svdlab.trace(own := ProbePipeline.from_pipe(stock)) as tr:
        own(svdlab.sample_image("scene-1"), height=64, width=64, num_inference_steps=2, output_type="latent")
    with pytest.raises(TraceError, match=r"svdlab\.generate"):
        svdlab.branch(pipe, tr, 1)


def stop(error: BaseException) -> Any:
    def fn(value: torch.Tensor, step: Any) -> None:
        if step.index == 1:
            raise error

    return fn


@pytest.mark.parametrize("end", ["used", "unused", "not entered", ValueError(), KeyboardInterrupt()])
def test_nothing_is_left_behind(each: Any, end: Any) -> None:
    make(each)
    before = hooks_of(each)
    if end == "not entered":
        svdlab.trace(each, modules="unet.mid_block")
        svdlab.edit(each, "latents", lambda value, step: None)
    else:
        with ExitStack() as stack:
            if isinstance(end, BaseException):
                stack.enter_context(pytest.raises(type(end)))
            stack.enter_context(svdlab.trace(each, keep=ALL, modules="unet*", attention="temporal"))
            for where in (*hooks.EDITABLE, TEMPORAL, "unet"):
                stack.enter_context(svdlab.edit(each, where, lambda value, step: None))
            if isinstance(end, BaseException):
                stack.enter_context(svdlab.edit(each, "unet.mid_block.resnets.1", stop(end)))
            assert hooks_of(each) != before  # or this comparison could not fail
            if end != "unused":
                make(each)
    assert hooks_of(each) == before


def test_a_block_holds_one_run(pipe: Any, unet_calls: list[int]) -> None:
    with svdlab.trace(pipe) as tr:
        make(pipe)
        with pytest.raises(TraceError, match="one `with"):
            make(pipe)
    assert len(tr) == len(unet_calls) == 2  # the second run was refused before its first UNet call


@pytest.mark.parametrize("where", [*hooks.EDITABLE, TEMPORAL])
def test_the_inner_edit_acts_first(pipe: Any, where: str) -> None:
    seen: dict[str, torch.Tensor] = {}
    inner = lambda value, step: seen.setdefault("inner", value) + 0.5
    outer = lambda value, step: seen.setdefault("outer", value) * 1.5
    with svdlab.edit(pipe, where, outer), svdlab.edit(pipe, where, inner):
        make(pipe, num_inference_steps=1)
    assert torch.equal(seen["outer"], seen["inner"] + 0.5)


@pytest.mark.parametrize("where", ["latents", "cond", "uncond", "model_output", "denoised", TEMPORAL])
@pytest.mark.parametrize("trace_is_outer", [True, False])
def test_a_trace_sees_the_outcome_of_all_edits(pipe: Any, where: str, trace_is_outer: bool) -> None:
    constant = svdlab.edit(pipe, where, lambda value, step: torch.full_like(value, 0.25))
    keep = dict(keep=(), modules=where) if where == TEMPORAL else dict(keep=where)
    with ExitStack() as stack:
        blocks = [svdlab.trace(pipe, **keep), constant][:: 1 if trace_is_outer else -1]
        tr = next(found for found in [stack.enter_context(block) for block in blocks] if found is not None)
        make(pipe)
    assert torch.allclose(tr[where], torch.tensor(0.25), atol=1e-4)


def test_pipelines_that_share_modules_do_not_mix(pipe: Any) -> None:
    """Beside each other, and one between two steps of the other."""
    other = beside(pipe, scheduler=EulerDiscreteScheduler(**SCHEDULER))
    plain, plain_other = make(pipe), make(other, seed=7)
    with svdlab.edit(pipe, TEMPORAL, lambda value, step: 0 * value):
        assert torch.equal(make(other, seed=7).latents, plain_other.latents)
    with svdlab.trace(pipe, modules=TEMPORAL) as alone:
        make(pipe)
    with (
        svdlab.trace(pipe, keep=("next_latents",), modules=TEMPORAL) as tr,
        svdlab.trace(other, keep=("next_latents",)) as tr_other,
        svdlab.edit(pipe, "cond", lambda value, step: make(other, seed=7) and None, steps=1),
    ):
        make(pipe)
    assert torch.equal(tr["next_latents"][-1], plain.latents) and torch.equal(tr[TEMPORAL], alone[TEMPORAL])
    assert torch.equal(tr_other["next_latents"][-1], plain_other.latents)


@pytest.mark.parametrize("how", ["model", "unet by parts"])
def test_with_offload(how: str) -> None:
    """On a CPU there is nothing to gain, but the hooks are accelerate's own."""
    pipe = four_levels()
    plain = make(pipe)
    if how == "model":
        pipe.enable_model_cpu_offload(device="cpu")
    else:
        cpu_offload(pipe.unet, torch.device("cpu"))
        assert next(pipe.unet.parameters()).device.type == "meta"
    before = hooks_of(pipe).keys()
    with svdlab.trace(pipe, keep=("cond",), modules=TEMPORAL, attention="temporal") as tr:
        assert torch.equal(make(pipe).latents, plain.latents)
    with svdlab.edit(pipe, TEMPORAL, lambda value, step: 0 * value):
        assert not torch.equal(make(pipe).latents, plain.latents)
    assert tr[TEMPORAL].isfinite().all() and hooks_of(pipe).keys() == before


# What is captured


def test_captured_values_obey_the_formulas(each: Any) -> None:
    with svdlab.trace(each, keep=ALL) as tr:
        clip = make(each, num_inference_steps=4)
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
    with svdlab.trace(pipe, keep=("cond", "uncond"), modules=["unet.conv_out", "unet.time_embedding"]) as tr:
        make(pipe)
    assert torch.equal(tr["unet.conv_out"], torch.stack([tr["uncond"], tr["cond"]], dim=1))
    assert tr["unet.time_embedding"].shape[:2] == (2, 2)  # steps, halves, and no dimension of frames


def test_a_batch_holds_each_samples_own(pipe: Any) -> None:
    conditions = [svdlab.Conditions(num_inference_steps=2, motion_bucket_id=b) for b in (10, 200)]
    with svdlab.trace(pipe, keep=ALL, modules=TEMPORAL, attention=[TEMPORAL, SPATIAL]) as tr:
        clips = generate_batch(pipe, ["scene-1", "scene-2"], conditions, [3, 4], decode=False)
    with svdlab.trace(pipe, keep=ALL, modules=TEMPORAL, attention=[TEMPORAL, SPATIAL]) as alone:
        make(pipe, "scene-2", 4, motion_bucket_id=200)
    second = tr[1]
    assert tr.batch == 2 and second.calls[0].conditions.motion_bucket_id == 200
    assert torch.equal(second["next_latents"][-1], clips[1].latents)
    for name in alone.names:
        assert second[name].shape == alone[name].shape and close(second[name], alone[name]), name
    assert close(svdlab.branch(pipe, second, 1, decode=False).latents, clips[1].latents)
    with pytest.raises(TraceError, match="2 samples"):
        svdlab.branch(pipe, tr, 1)


def test_without_guidance_there_is_one_half(pipe: Any, unet_calls: list[int]) -> None:
    off = dict(min_guidance_scale=1.0, max_guidance_scale=1.0)
    with svdlab.trace(pipe, keep=("cond", "model_output"), modules=TEMPORAL, attention=TEMPORAL) as tr:
        make(pipe, **off)
    assert torch.equal(tr["cond"], tr["model_output"])
    assert tr[TEMPORAL].shape[1] == tr[TEMPORAL + ".weights"].shape[1] == 1
    unet_calls.clear()
    for keep in ("uncond", "guidance_pressure"):
        with pytest.raises(TraceError, match="max_guidance_scale"), svdlab.trace(pipe, keep=keep):
            make(pipe, **off)
    assert unet_calls == []
    with pytest.raises(TraceError, match="max_guidance_scale"), svdlab.edit(pipe, "guidance", lambda value, step: value):
        make(pipe, **off)


def test_a_guidance_interval_spares_the_unconditional_half(pipe: Any, unet_calls: list[int]) -> None:
    asked = dict(num_inference_steps=4, guidance_interval=(1.0, 100.0))
    with svdlab.trace(pipe, keep=ALL, modules=TEMPORAL, attention=TEMPORAL) as tr:
        spared = make(pipe, **asked)
    assert unet_calls == [1, 2, 2, 1]
    off = [True, False, False, True]
    for value in (tr["uncond"], tr["guidance_pressure"], tr[TEMPORAL][:, 0], tr[TEMPORAL + ".weights"][:, 0]):
        assert value.flatten(1).isnan().all(1).tolist() == value.flatten(1).isnan().any(1).tolist() == off
    assert not tr[TEMPORAL][:, 1].isnan().any() and torch.equal(tr["model_output"][0], tr["cond"][0])
    with svdlab.edit(pipe, "guidance", lambda value, step: torch.ones_like(value), steps=[0, 3]):
        assert close(spared.latents, make(pipe, num_inference_steps=4).latents)
    assert not close(spared.latents, make(pipe, num_inference_steps=4).latents)
    with pytest.raises(TraceError, match="guidance_interval"), svdlab.edit(pipe, "guidance", lambda value, step: 2 * value):
        make(pipe, **asked)


# Edits


@pytest.mark.parametrize("where", [*hooks.EDITABLE, TEMPORAL, SPATIAL, "unet.conv_in", "unet.mid_block", "unet"])
def test_an_edit_acts_and_none_leaves_alone(pipe: Any, where: str) -> None:
    """A change in place counts where it is returned, and is refused where it is not."""
    plain, shapes = make(pipe), []
    with svdlab.edit(pipe, where, lambda value, step: shapes.append(value.shape)):
        assert torch.equal(make(pipe).latents, plain.latents) and shapes
    with svdlab.edit(pipe, where, lambda value, step: value * 0.5 if step.index == 1 else None):
        changed = make(pipe)
    assert not torch.equal(changed.latents, plain.latents) and plain.call.edits == ()
    assert changed.call.edits == ((where,) if where in hooks.EDITABLE else (f"modules {where!r}",))
    with svdlab.edit(pipe, where, lambda value, step: value.mul_(0.5), steps=1):
        assert torch.equal(make(pipe).latents, changed.latents)
    with (
        pytest.raises(TraceError, match="return value"),
        svdlab.edit(pipe, where, lambda value, step: [value.mul_(0.5)].clear()),
    ):
        make(pipe)


@pytest.mark.parametrize("where", ["latents", "guidance", "unet.mid_block"])
@pytest.mark.parametrize("way", ["data", "numpy"])
def test_a_change_that_torch_does_not_count_is_one_too(pipe: Any, where: str, way: str) -> None:
    def change(value: torch.Tensor) -> torch.Tensor:
        (value.data if way == "data" else value.numpy())[...] *= 0.5
        return value

    with svdlab.edit(pipe, where, lambda value, step: value * 0.5, steps=1):
        changed = make(pipe)
    with svdlab.edit(pipe, where, lambda value, step: change(value), steps=1):
        assert torch.equal(make(pipe).latents, changed.latents)
    with (
        pytest.raises(TraceError, match="return value"),
        svdlab.edit(pipe, where, lambda value, step: [change(value)].clear()),
    ):
        make(pipe)


def test_an_edit_gives_real_numbers_in_memory(pipe: Any) -> None:
    for odd in (lambda v: v.to("meta"), torch.Tensor.to_sparse, lambda v: v + 0j, torch.Tensor.numpy, lambda v: v[:0]):
        with (
            pytest.raises(TraceError, match="give a real tensor of shape"),
            svdlab.edit(pipe, "latents", lambda value, step, odd=odd: odd(value)),
        ):
            make(pipe)


def test_an_edit_of_the_conditions_is_the_condition(pipe: Any) -> None:
    """fps, bucket and noise as the UNet sees them; guidance by the curve's own numbers."""
    with svdlab.edit(pipe, "added_time_ids", lambda value, step: torch.tensor([[11.0, 200.0, 0.02]]).expand_as(value)):
        assert torch.equal(edited := make(pipe).latents, make(beside(pipe), fps=12, motion_bucket_id=200).latents)
    with svdlab.edit(pipe, "guidance", lambda value, step: torch.linspace(1, 5, value.shape[1]).view_as(value)):
        assert torch.equal(make(pipe).latents, make(beside(pipe), max_guidance_scale=5.0).latents)
    assert not torch.equal(edited, make(pipe).latents)


# Steps, attention maps, compiled modules


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


def test_attention_weights_against_torchs_own_attention(pipe: Any) -> None:
    """The weights that explain what scaled_dot_product_attention gave: applied to the identity, it returns them."""
    with svdlab.trace(pipe, keep=(), attention=TEMPORAL, modules=[TEMPORAL + ".to_q", TEMPORAL + ".to_k"]) as tr:
        make(pipe, num_inference_steps=1)
    heads = pipe.unet.mid_block.attentions[0].temporal_transformer_blocks[0].attn1.heads
    q, k = (tr[f"{TEMPORAL}.{x}"][0].unflatten(-1, (heads, -1)).transpose(2, 3) for x in ("to_q", "to_k"))
    identity = torch.eye(q.shape[-2]).expand(*q.shape[:3], -1, -1)
    weights = torch.nn.functional.scaled_dot_product_attention(q, k, identity)  # "half site head query key"
    assert torch.allclose(tr[TEMPORAL + ".weights"][0], weights.mean(dim=(1, 2)), atol=1e-5)


def test_spatial_attention_against_softmax_by_hand(pipe: Any) -> None:
    """From two places of each frame to all sites, the mean over heads; the frame's last site is the place (1, 1)."""
    with svdlab.trace(pipe, keep=(), attention="spatial", queries=[(0.5, 0.25), (1.0, 1.0)], modules="unet*.to_[qk]") as tr:
        make(pipe, num_inference_steps=2)
    found = [name for name in tr.names if name.endswith(".weights")]
    assert SPATIAL + ".weights" in found and not any("temporal" in name for name in found) and len(found) > 3
    for name in found:
        attn = pipe.unet.get_submodule(name.removeprefix("unet.").removesuffix(".weights"))
        q, k = (tr[f"{name.removesuffix('.weights')}.to_{x}"].unflatten(-1, (attn.heads, -1)).transpose(-2, -3) for x in "qk")
        side = int(q.shape[-2] ** 0.5)  # "step half frame head site d"
        q = q[..., [side // 2 * side + side // 4, -1], :]
        by_hand = torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, -1).mean(3)
        assert tr[name].shape == (2, 2, 8, 2, side, side)
        assert torch.allclose(tr[name].flatten(-2), by_hand, atol=1e-5)


def test_of_a_module_that_runs_several_times_the_last_output_is_kept(pipe: Any) -> None:
    often, ran = "mid_block.resnets.0.spatial_res_block.nonlinearity", []
    handle = pipe.unet.get_submodule(often).register_forward_hook(lambda module, args, out: ran.append(out))
    try:
        with svdlab.trace(pipe, keep=(), modules=f"unet.{often}") as tr:
            make(pipe, num_inference_steps=1)
    finally:
        handle.remove()
    assert len(ran) == 3 and torch.equal(tr[f"unet.{often}"][0].flatten(0, 1), ran[-1])


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
    with svdlab.trace(pipe, keep=ALL) as plain:
        make(pipe)
    with svdlab.trace(compiled, keep=ALL) as tr:
        make(compiled)
    assert all(torch.allclose(tr[name], plain[name], rtol=1e-3, atol=1e-3) for name in ALL)
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


# Errors that know their cause


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(modules="unet.mid_block.attentions.0.temporal_transformer_block.0.attn1"), TEMPORAL),  # the nearest
        (dict(modules="unet.down_blocks"), r"Nearest: unet\.down_blocks"),  # a list of modules, which never runs
        (dict(attention=TEMPORAL.replace("attn1", "attn2")), "one key"),
        (dict(attention="spacial"), "spatial"),
        *((dict(queries=wrong), "queries") for wrong in ((0.5, 0.5), [], [(0.5, 1.5)], [(0.5,)], "centre")),
        (dict(keep=("latents", "noise")), "guidance_pressure"),
        *((dict(steps=wrong), "steps=") for wrong in (-1, [0, 1.5], [], "last", slice(-2), float("nan"), (float("nan"), 1.0))),
    ],
)
def test_unusable_arguments_of_trace(pipe: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((TraceError, InputError), match=message), svdlab.trace(pipe, **arguments):
        pass


@pytest.mark.parametrize("where", ["latents", "cond", "model_output", "unet.mid_block"])
def test_what_an_edit_itself_raises_comes_through_as_it_is(pipe: Any, where: str) -> None:
    """An IndexError of the user's function is the user's to see; svdlab's own are InputError and TraceError."""
    with (
        pytest.raises(IndexError, match="list index out of range"),
        svdlab.edit(pipe, where, lambda value, step: [][step.index]),
    ):
        make(pipe)


def test_unusable_arguments_of_edit(pipe: Any) -> None:
    with pytest.raises(TraceError, match="denoised"), svdlab.edit(pipe, "denoise", lambda value, step: None):
        pass
    for where in (["latents"], [TEMPORAL, "latents"]):
        with pytest.raises(TraceError, match="latents stands alone"), svdlab.edit(pipe, where, lambda value, step: None):
            pass
    for result in (3, torch.zeros(1)):
        with pytest.raises(TraceError, match="shape"), svdlab.edit(pipe, "cond", lambda value, step, result=result: result):
            make(pipe, num_inference_steps=1)


def test_a_trace_too_large_is_stopped_in_its_first_step(
    pipe: Any, unet_calls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    step = sum(8 * 4 * side * side * 4 for side in (16, 16)) * 25  # bytes of latents and estimates
    monkeypatch.setattr(hooks.psutil, "virtual_memory", lambda: SimpleNamespace(available=step))
    for asked in (dict(), dict(keep=(), modules="unet.mid_block*")):
        with pytest.raises(TraceError, match="would hold"), svdlab.trace(pipe, **asked):
            make(pipe, num_inference_steps=25)
    assert len(unet_calls) == 2
    with svdlab.trace(pipe, steps=range(3)) as tr:
        make(pipe, num_inference_steps=25)
    assert len(tr) == 3
