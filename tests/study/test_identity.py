"""A row never shows a clip that another model made: what the pipeline is, and does, is in its id, or the sweep refuses."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MethodType
from typing import Any

import numpy as np
import pandas as pd
import peft
import pytest
import torch
from diffusers import EulerAncestralDiscreteScheduler
from diffusers.hooks import HookRegistry, ModelHook
from diffusers.models.attention_processor import AttnProcessor

import svdlab
from svdlab.errors import CheckpointError, InputError
from svdlab.pipeline.quick import quick_convolutions
from svdlab.study import identity
from svdlab.study.weights import weights_hash
from tests.study import making

pytestmark = pytest.mark.filterwarnings("ignore::svdlab.pipeline.images.CropWarning", "ignore:__array__ implementation")
ROWS = [{"num_inference_steps": 2, "seed": seed} for seed in range(4)]


@pytest.fixture
def small(checkpoint: Path) -> Any:
    return svdlab.load_pipeline(checkpoint, device="cpu")


def sweep(pipe: Any, out: Path, rows: Any = ROWS[:1], **how: Any) -> pd.DataFrame:
    return making.sweep(pipe, rows, out, **how)


# --- what can be read from the pipeline -------------------------------------------------------------------------------


def lora(pipe: Any) -> Any:
    torch.manual_seed(0)
    config = peft.LoraConfig(r=4, init_lora_weights=False, target_modules=["to_q", "to_k", "to_v"])
    peft.inject_adapter_in_model(config, pipe.unet, adapter_name="style")
    return [module for module in pipe.unet.modules() if hasattr(module, "scaling")]


READABLE: dict[str, Callable] = {
    "LoRA": lora,
    "LoRA scale": lambda pipe: [layer.set_scale("style", 0.1) for layer in lora(pipe)],
    "LoRA disabled": lambda pipe: [layer.enable_adapters(False) for layer in lora(pipe)],
    "processor": lambda pipe: pipe.unet.set_attn_processor(AttnProcessor()),
    "VAE config": lambda pipe: pipe.vae.register_to_config(scaling_factor=0.5),
    "UNet config": lambda pipe: pipe.unet.register_to_config(num_frames=3),
    "scheduler config": lambda pipe: pipe.scheduler.register_to_config(sigma_max=80.0),
    "scheduler class": lambda pipe: setattr(
        pipe, "scheduler", EulerAncestralDiscreteScheduler.from_config(pipe.scheduler.config)
    ),
    "feature extractor": lambda pipe: setattr(pipe.feature_extractor, "image_mean", [0.0, 0.0, 0.0]),
    "weight": lambda pipe: next(pipe.unet.parameters()).data.mul_(1.5),
    "buffer": lambda pipe: pipe.image_encoder.register_buffer("extra", torch.ones(1)),
    "attribute": lambda pipe: setattr(pipe.unet.mid_block.resnets[0].spatial_res_block.norm1, "eps", 0.1),
    "dtype": lambda pipe: pipe.to(torch.bfloat16),
    "fp8 storage": lambda pipe: pipe.unet.enable_layerwise_casting(torch.float8_e4m3fn, torch.float32),
}


@pytest.mark.parametrize("change", READABLE.values(), ids=READABLE)
def test_what_can_be_read_from_the_pipeline_is_in_the_id(checkpoint: Path, change: Callable) -> None:
    """Cases A3 and A4."""
    pipe = svdlab.load_pipeline(checkpoint, device="cpu")
    before = identity.facts(pipe)
    assert identity.facts(pipe) == before and before == identity.facts(svdlab.load_pipeline(checkpoint, device="cpu"))
    change(pipe)
    assert identity.facts(pipe) != before


def test_a_loras_scale_makes_runs_of_its_own_and_the_same_scale_finds_them(small: Any, out: Path) -> None:
    """Case A3."""
    layers, seen = lora(small), []
    for scale in (1.0, 8.0, 0.0, 1.0):
        for layer in layers:
            layer.set_scale("style", scale) if scale else layer.enable_adapters(False)
            layer.enable_adapters(scale > 0)
        seen.append(sweep(small, out).run_id[0])
    assert seen[0] == seen[3] and len(set(seen)) == 3


def test_a_pipeline_is_the_same_wherever_its_checkpoint_lies(small: Any, tmp_path: Path) -> None:
    small.save_pretrained(tmp_path / "copy")
    copy = svdlab.load_pipeline(tmp_path / "copy", device="cpu")
    assert identity.facts(copy) == identity.facts(small)
    svdlab.generate(small, "cat", num_inference_steps=1, height=32, width=32)
    assert identity.facts(copy) == identity.facts(small)  # and after it was used


# --- what only its behaviour shows ------------------------------------------------------------------------------------


class Dimmed(ModelHook):
    def post_forward(self, module: Any, output: Any) -> Any:
        return 0.5 * output


def forward_of(module: Any, factor: float) -> None:
    plain = module.forward
    module.forward = lambda *args, **kwargs: factor * plain(*args, **kwargs)


def replaced(thing: Any, name: str, change: Callable) -> None:
    plain = getattr(type(thing), name)  # bound anew: a call works on a copy of the scheduler
    setattr(thing, name, MethodType(lambda self, *args, **kwargs: change(plain(self, *args, **kwargs)), thing))


def at_high_noise(module: Any, args: tuple, kwargs: dict[str, Any], out: Any) -> Any:
    return (0.5 * out[0], *out[1:]) if float(torch.as_tensor(args[1]).flatten()[0]) > 1 else out


def second_half(module: Any, args: tuple, out: torch.Tensor) -> torch.Tensor:
    return torch.cat([out[: len(out) // 2], 0.5 * out[len(out) // 2 :]]) if len(out) > 1 else out


def other_schedule(scheduler: Any) -> None:
    def set_timesteps(self: Any, *args: Any, **kwargs: Any) -> None:
        type(self).set_timesteps(self, *args, **kwargs)
        self.sigmas[2] *= 0.5  # in place; the first step does not see it

    scheduler.set_timesteps = MethodType(set_timesteps, scheduler)


ATTENTION = "mid_block.attentions.0.temporal_transformer_blocks.0.attn1"
BEHAVIOUR = {
    "UNet block's forward": lambda pipe: forward_of(pipe.unet.get_submodule(ATTENTION), 0.0),
    "VAE decoder's forward": lambda pipe: forward_of(pipe.vae.decoder, 0.9),
    "CLIP hook": lambda pipe: pipe.image_encoder.visual_projection.register_forward_hook(lambda m, args, out: 0 * out),
    "VAE hook": lambda pipe: pipe.vae.encoder.conv_in.register_forward_hook(lambda m, args, out: 0.9 * out),
    "pre-hook": lambda pipe: pipe.unet.conv_in.register_forward_pre_hook(lambda m, args: (0.9 * args[0],)),
    "HookRegistry": lambda pipe: HookRegistry.check_if_exists_or_initialize(pipe.unet.get_submodule(ATTENTION)).register_hook(
        Dimmed(), "dimmed"
    ),
    "scaled a little": lambda pipe: pipe.unet.get_submodule(ATTENTION).register_forward_hook(lambda m, args, out: 1.02 * out),
    "scheduler's step": lambda pipe: replaced(pipe.scheduler, "step", lambda out: type(out)(0.9 * out.prev_sample)),
    "schedule": lambda pipe: other_schedule(pipe.scheduler),
    "time ids": lambda pipe: replaced(pipe, "_get_add_time_ids", lambda ids: ids + 1),
    "image processor": lambda pipe: replaced(pipe.video_processor, "preprocess", lambda pixels: -pixels),
    "frames": lambda pipe: replaced(pipe.video_processor, "postprocess_video", lambda video: 1 - video),
    "hook on a tuple": lambda pipe: pipe.unet.register_forward_hook(
        lambda m, args, out: (0.5 * out[0],) if isinstance(out, tuple) else None
    ),
    "hook at high noise": lambda pipe: pipe.unet.register_forward_hook(at_high_noise, with_kwargs=True),
    "hook on one half": lambda pipe: pipe.unet.conv_in.register_forward_hook(second_half),
    "preprocessing": lambda pipe: setattr(
        pipe, "_encode_image", lambda *args, **k: 0 * type(pipe)._encode_image(pipe, *args, **k)
    ),
}


@pytest.mark.parametrize("change", BEHAVIOUR.values(), ids=BEHAVIOUR)
def test_a_model_that_computes_something_else_needs_a_name(small: Any, out: Path, change: Callable) -> None:
    """Cases A1, A2, A4: the rows that are there would otherwise be taken for the changed model's."""
    plain = sweep(small, out)
    change(small)
    with pytest.raises(InputError, match=r"intervention='name of the change'"):
        sweep(small, out)
    named = sweep(small, out, intervention="changed")
    assert named.run_id[0] != plain.run_id[0] and named.intervention[0] == "changed"
    assert sweep(small, out, intervention="changed").run_id[0] == named.run_id[0]


def test_a_hook_that_fails_is_named(small: Any, out: Path) -> None:
    small.unet.conv_in.register_forward_hook(lambda module, args, out: [][0])
    with pytest.raises(InputError, match=r"cannot run, as it is now.*IndexError"):
        sweep(small, out)


@pytest.mark.parametrize("name", ["UNet block's forward", "CLIP hook", "HookRegistry"])
def test_every_row_is_the_changed_models_on_any_number_of_threads(small: Any, tmp_path: Path, name: str) -> None:
    """Cases A1, A2."""
    BEHAVIOUR[name](small)
    expected = [svdlab.generate(small, "cat", **row).latents for row in ROWS]
    for threads in (1, 2):
        try:
            table = sweep(small, tmp_path / str(threads), ROWS, threads=threads, batch_size=1)
        except InputError as error:
            assert threads == 2 and "hooks" in str(error)
            continue
        for own, z in zip(expected, making.latents(table), strict=True):
            assert making.same(z, own)


UNREPRODUCED = BEHAVIOUR | {name: change for name, change in READABLE.items() if name != "dtype"}  # which loading sets


@pytest.mark.parametrize("change", UNREPRODUCED.values(), ids=UNREPRODUCED)
def test_an_executors_workers_reproduce_the_pipeline_or_refuse(small: Any, out: Path, change: Callable) -> None:
    """Case A6: their pipelines come from the checkpoint."""
    change(small)
    with ThreadPoolExecutor(1) as executor, pytest.raises((CheckpointError, InputError)):
        sweep(small, out, executor=executor)
    assert not list(out.glob("runs/*/frames.mkv"))


def test_a_hook_that_only_looks_changes_nothing(small: Any, out: Path) -> None:
    plain, seen = sweep(small, out), []
    small.unet.conv_in.register_forward_hook(lambda *args: seen.append(1))
    assert sweep(small, out).run_id[0] == plain.run_id[0] and seen


def test_one_name_for_two_changes_is_refused(small: Any, out: Path) -> None:
    handle = small.unet.conv_in.register_forward_hook(lambda m, args, out: 0.5 * out)
    sweep(small, out, intervention="dimmed")
    handle.remove()
    small.unet.conv_in.register_forward_hook(lambda m, args, out: 0.25 * out)
    with pytest.raises(InputError, match=r"unet.*something else"):
        sweep(small, out, intervention="dimmed")


def test_one_name_for_two_places_that_are_edited_or_for_none_is_refused(small: Any, out: Path) -> None:
    """A forgotten block made plain clips; with the block, the same name found them again."""
    sweep(small, out, intervention="forgotten")
    with svdlab.edit(small, "denoised", lambda value, step: 0.5 * value):
        with pytest.raises(InputError, match=r"'forgotten' in .* of nothing, and now it is of denoised"):
            sweep(small, out, intervention="forgotten")
        sweep(small, out, intervention="half")
    for where in ("latents", "unet.mid_block"):
        said = pytest.raises(InputError, match=f"of denoised, and now it is of .*{where}")
        with svdlab.edit(small, where, lambda value, step: 0.5 * value), said:
            sweep(small, out, intervention="half")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_fingerprint_is_the_same_on_other_threads_and_kernels(checkpoint: Path, dtype: str) -> None:
    pipe = svdlab.load_pipeline(checkpoint, device="cpu", dtype=dtype)
    first = identity.fingerprint(pipe)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    assert identity.different(first, identity.fingerprint(pipe), dtype) == []
    torch.set_num_threads(before)
    with quick_convolutions(pipe):
        assert identity.different(first, identity.fingerprint(pipe), dtype) == []
    pipe.unet.enable_forward_chunking()  # memory="small"
    assert identity.different(first, identity.fingerprint(pipe), dtype) == []
    assert {m._chunk_size for m in pipe.unet.modules() if hasattr(m, "_chunk_size")} == {1}
    assert len(first) > 50 and all(np.isfinite(values).all() for values in first.values())
    assert not any(m._forward_hooks for part in (pipe.unet, pipe.vae, pipe.image_encoder) for m in part.modules())


def test_layerwise_casting_passes_through_and_is_another_model(checkpoint: Path, out: Path) -> None:
    """Weights kept in eight bits, computed in float32 or bfloat16: three models with ids of their own."""
    found = []
    for compute in (None, torch.float32, torch.bfloat16):
        pipe = svdlab.load_pipeline(checkpoint, device="cpu", dtype="bfloat16" if compute is torch.bfloat16 else None)
        if compute:
            pipe.unet.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=compute)
        found.append(sweep(pipe, out).run_id[0])
    assert len(set(found)) == 3 and set(svdlab.load_results(out).status) == {"done"}


def of_torch(unet: Any) -> None:
    torch.ao.quantization.quantize_dynamic(unet, {torch.nn.Linear}, dtype=torch.qint8, inplace=True)


def of_torchao(unet: Any) -> None:
    torchao = pytest.importorskip("torchao.quantization", reason="torchao is none of svdlab's packages")
    torchao.quantize_(unet, torchao.Int8WeightOnlyConfig())


def of_quanto(unet: Any) -> None:
    quanto = pytest.importorskip("optimum.quanto", reason="optimum-quanto is none of svdlab's packages")
    quanto.quantize(unet, weights=quanto.qint8)
    quanto.freeze(unet)


@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated")
@pytest.mark.parametrize("quantise", [of_torch, of_torchao, of_quanto])
def test_a_quantised_model_has_ids_of_its_own_by_its_weights(checkpoint: Path, out: Path, quantise: Callable) -> None:
    """The plain model, the quantised one, and that of other weights; a quantiser keeps them in tensors of its own kind."""
    found = []
    for factor in (None, 1.0, 1.5, 1.0):
        pipe = svdlab.load_pipeline(checkpoint, device="cpu")
        if factor:
            with torch.no_grad():
                [m.weight.mul_(factor) for m in pipe.unet.modules() if isinstance(m, torch.nn.Linear)]
            quantise(pipe.unet)
        found.append(sweep(pipe, out))
    table = pd.concat(found)
    assert table.run_id.nunique() == table.weights.nunique() == 3 and set(table.status) == {"done"}
    assert table.run_id.iloc[1] == table.run_id.iloc[3]


def test_the_hash_of_weights_sees_a_write_that_torch_does_not_count(small: Any) -> None:
    """Case B1's kind: a write through `.data`, or through numpy, leaves the tensor's version as it was."""
    weight = small.unet.conv_in.weight
    before, version = weights_hash(small), weight._version
    weight.data[0, 0, 0, 0] += 1
    through_data = weights_hash(small)
    weight.detach().numpy()[0, 0, 0, 0] += 1
    assert len({before, through_data, weights_hash(small)}) == 3 and weight._version == version


def test_a_kept_fingerprint_that_is_damaged_is_written_again(small: Any, out: Path) -> None:
    sweep(small, out)
    (path,) = (out / "models").iterdir()
    for text in ("", "[]", '{"fingerprint": 1}', '{"fingerprint": {"unet": "x"}}'):
        path.write_text(text)
        sweep(small, out)
        assert "fingerprint" in path.read_text() and len(path.read_text()) > 1000


def test_used_and_fresh_pipelines_agree_after_a_change_of_the_encoder(checkpoint: Path, small: Any) -> None:
    """Case A5."""
    svdlab.generate(small, "cat", num_inference_steps=1)
    BEHAVIOUR["CLIP hook"](small)
    fresh = svdlab.load_pipeline(checkpoint, device="cpu")
    BEHAVIOUR["CLIP hook"](fresh)
    one, other = (svdlab.generate(pipe, "cat", num_inference_steps=1).latents for pipe in (small, fresh))
    assert torch.equal(one, other)
