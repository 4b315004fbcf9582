"""A LoRA: what peft computes of it, in every published key style; nothing is left of it; what is none is refused."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.utils import convert_state_dict_to_diffusers, convert_state_dict_to_kohya
from safetensors.torch import save_file

import svdlab
from svdlab.errors import InputError
from svdlab.measure.files import hash_file
from svdlab.pipeline.lora import KINDS, names_of
from svdlab.pipeline.single_file import UNET, stability_name
from tests.four_levels import four_levels
from tests.pipeline.making import hooks_of, make

peft = pytest.importorskip("peft")
# Linear layers as Motion-LoRA has them, and convolutions of images, of time, and of one pixel.
LAYERS = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.2", "proj_in", "conv1", "conv_shortcut", "conv", "conv_in", "linear_1"]


@pytest.fixture(scope="module")
def trained() -> tuple[Any, dict[str, torch.Tensor]]:
    """A UNet with peft's own layers, whose numbers are random, and peft's own state of them: rank 4, alpha 6. In float64: a
    random network makes 2e-5 of float32's rounding."""
    pipe = four_levels()
    peft.inject_adapter_in_model(peft.LoraConfig(r=4, lora_alpha=6, target_modules=LAYERS, init_lora_weights=False), pipe.unet)
    state = peft.get_peft_model_state_dict(pipe.unet, adapter_name="default")
    pipe.unet.double()
    assert {t.ndim for t in state.values()} == {2, 4, 5}
    return pipe, {key: value.detach().contiguous() for key, value in state.items()}


@torch.no_grad()
def output(pipe: Any) -> torch.Tensor:
    """What the UNet computes from a fixed input."""
    draw, c = torch.Generator().manual_seed(0), pipe.unet.config
    sample, context = (torch.randn(size, generator=draw).double() for size in ((2, 3, 8, 8, 8), (2, 1, c.cross_attention_dim)))
    ids = torch.tensor([[6.0, 127.0, 0.02]] * 2).double()
    return pipe.unet(sample, torch.tensor(0.3).double(), encoder_hidden_states=context, added_time_ids=ids).sample


def scaled(pipe: Any, scale: float) -> torch.Tensor:
    for module in pipe.unet.modules():
        if hasattr(module, "set_scale"):
            module.set_scale("default", scale)
    return output(pipe)


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool((a - b).abs().max() <= 1e-5 * b.abs().max())


@pytest.fixture(scope="module")
def fine() -> Any:
    pipe = four_levels()
    pipe.unet.double()
    return pipe


def alphas(state: dict[str, torch.Tensor], alpha: float) -> dict[str, torch.Tensor]:
    return {key.split(".lora_")[0] + ".alpha": torch.tensor(alpha) for key in state}


def stability(key: str, config: dict[str, Any]) -> str:
    layer, end = re.fullmatch(r"(.*?)(\.lora_.*|\.alpha)", key).groups()
    return stability_name("unet", layer, config).removeprefix(UNET) + end


def kohya(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """diffusers' own conversion, which takes the rank for alpha."""
    found = convert_state_dict_to_kohya({f"unet.{key}": value for key, value in state.items()})
    return {key: torch.tensor(6.0) if key.endswith(".alpha") else value for key, value in found.items()}


def old(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Attention processors, as diffusers saved them until 2023."""
    found = {}
    for key, value in state.items():
        for of, to in (
            (".to_out.0.lora_", ".processor.to_out_lora."),
            *((f".to_{x}.lora_", f".processor.to_{x}_lora.") for x in "qkv"),
        ):
            key = key.replace(of, to)
        found[key.replace(".A.", ".down.").replace(".B.", ".up.")] = value
    return found


STYLES: dict[str, Any] = {
    "peft": lambda state, config: {f"base_model.model.{k}": v for k, v in state.items()} | alphas(state, 6),
    "peft, adapter's name": lambda state, config: (
        {f"unet.{k.replace('.weight', '.default.weight')}": v for k, v in state.items()} | alphas(state, 6)
    ),
    "diffusers": lambda state, config: (
        convert_state_dict_to_diffusers({f"unet.{k}": v for k, v in state.items()})
        | {f"unet.{k}": v for k, v in alphas(state, 6).items()}
    ),
    "diffusers, processors": lambda state, config: old(state) | alphas(state, 6),
    "kohya": lambda state, config: kohya(state),
    "kohya, Stability's names": lambda state, config: kohya({stability(k, config): v for k, v in state.items()}),
    "Stability's names": lambda state, config: {
        f"model.diffusion_model.{stability(key, config)}": value for key, value in (state | alphas(state, 6)).items()
    },
}


@pytest.mark.parametrize("style", STYLES)
def test_every_key_style_gives_what_peft_computes(fine: Any, trained: Any, style: str, tmp_path: Path) -> None:
    theirs, state = trained
    save_file(STYLES[style](state, dict(fine.unet.config)), tmp_path / "a.safetensors")
    plain, own = output(fine), dict(fine.unet.named_parameters())
    wanted = scaled(theirs, 0.1)
    with svdlab.lora(fine, tmp_path / "a.safetensors", scale=0.1):
        assert close(output(fine), wanted)
    assert (plain - wanted).abs().max() > 0.01 * wanted.abs().max()
    assert all(p is own[n] for n, p in fine.unet.named_parameters())


def file_of(folder: Path, state: dict[str, torch.Tensor], **header: str) -> Path:
    save_file(state, folder / "camera-pan.safetensors", header or None)
    return folder / "camera-pan.safetensors"


@pytest.mark.parametrize("where", ["the header", "adapter_config.json", "nowhere"])
def test_alpha_beside_the_tensors_counts(fine: Any, trained: Any, where: str, tmp_path: Path) -> None:
    theirs, state = trained
    config = {"r": 4, "lora_alpha": 12, "alpha_pattern": {"conv_in": 6}} | {"alpha_pattern": {}}
    header = {"lora_adapter_metadata": json.dumps({f"unet.{k}": v for k, v in config.items()})}
    path = file_of(tmp_path, state, **(header if where == "the header" else {}))
    if where == "adapter_config.json":
        path = path.rename(tmp_path / "adapter_model.safetensors")
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with svdlab.lora(fine, path, scale=0.05 if where != "nowhere" else 0.15):  # alpha / rank is 3, or 1
        assert close(output(fine), scaled(theirs, 0.1))  # 1.5


def test_an_alpha_of_one_layer_goes_before_that_of_all(four: Any, trained: Any, tmp_path: Path) -> None:
    config = {"unet.lora_alpha": 4, "unet.alpha_pattern": {"^conv_in": 8}}
    before = {
        name: four.unet.get_submodule(name).weight.clone()
        for name in ("conv_in", "mid_block.resnets.0.spatial_res_block.conv1")
    }
    with svdlab.lora(four, file_of(tmp_path, trained[1], lora_adapter_metadata=json.dumps(config))):
        for name, w in before.items():
            a, b = (trained[1][f"{name}.lora_{side}.weight"].flatten(1) for side in "AB")
            moved = (four.unet.get_submodule(name).weight - w).flatten(1)
            assert torch.allclose(moved, (2 if name == "conv_in" else 1) * b @ a, atol=1e-5)


def test_nothing_is_left_and_scale_0_is_the_model_itself(four: Any, trained: Any, tmp_path: Path) -> None:
    path, before, source = file_of(tmp_path, trained[1]), hooks_of(four), four.source
    own, plain = dict(four.unet.named_parameters()), make(four).latents
    held = {name: p.detach().clone() for name, p in own.items()}
    with pytest.raises(ZeroDivisionError), svdlab.lora(four, path, scale=0.1):
        assert four.source.lora == "camera-pan.safetensors" and len(four.source.lora_hash) == 64
        with svdlab.lora(four, path, scale=-0.1):
            assert four.source.lora == "camera-pan.safetensors 0.1 + camera-pan.safetensors"
            assert all(torch.allclose(p, own[name], atol=1e-6) for name, p in four.unet.named_parameters())
        _ = 1 / 0
    assert hooks_of(four) == before and four.source == source
    assert all(p is own[name] and torch.equal(p.view(torch.int32), held[name].view(torch.int32)) for name, p in own.items())
    with svdlab.lora(four, path, scale=0):
        assert all(p is own[name] for name, p in four.unet.named_parameters())
        clip = make(four)
    assert torch.equal(clip.latents, plain) and clip.source.lora == "" and torch.equal(make(four).latents, plain)


def test_what_was_made_names_the_file_its_hash_and_the_strength(four: Any, trained: Any, tmp_path: Path) -> None:
    path = file_of(tmp_path, trained[1])
    with svdlab.lora(four, path, scale=0.25), svdlab.trace(four, keep=("latents",)) as tr:
        clip = make(four)
    assert (clip.source.lora, clip.source.lora_scale) == ("camera-pan.safetensors", 0.25)
    assert clip.source.lora_hash == hash_file(path) and str(tmp_path) not in json.dumps(clip.call.asdict())
    assert type(clip.call).read(json.loads(json.dumps(clip.call.asdict()))) == clip.call == tr.calls[0]


def test_weights_of_half_precision_and_moved_pipelines_come_back(trained: Any, tmp_path: Path) -> None:
    pipe, path = four_levels(), file_of(tmp_path, trained[1])
    pipe.unet.to(torch.bfloat16)
    own = dict(pipe.unet.named_parameters())
    with svdlab.lora(pipe, path, scale=0.5):
        assert {p.dtype for p in pipe.unet.parameters()} == {torch.bfloat16}
        assert sum(p is not own[name] for name, p in pipe.unet.named_parameters()) == len(trained[1]) // 2
        pipe.unet.to(torch.float16)
    assert all(p is own[name] and p.dtype == torch.float16 for name, p in pipe.unet.named_parameters())


K = "mid_block.attentions.0.transformer_blocks.0.attn1.to_k.lora_{}.weight"


def changed(state: dict[str, torch.Tensor], **changes: Any) -> dict[str, torch.Tensor]:
    """The state with other tensors for its to_k, or without them."""
    keys = {K.format(side): changes.get(side, state[K.format(side)]) for side in "AB"}
    return {key: value for key, value in (state | keys).items() if value is not None}


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda s: s | {"text_encoder.layers.0.q_proj.lora_A.weight": torch.ones(4, 4)}, "1 of its .*text_encoder.layers.0"),
        (lambda s: s | {"lora_te1_text_model_encoder_layers_0_mlp_fc1.alpha": torch.ones(())}, "lora_te1"),
        (lambda s: s | {K.format("A").replace("lora_A.weight", "lora_magnitude_vector"): torch.ones(4)}, "magnitude"),
        (lambda s: s | {"lora_unet_mid_block_attentions_0_proj_in.hada_w1_a": torch.ones(4, 4)}, "hada_w1_a"),
        (lambda s: s | {"unet." + K.format("down"): torch.ones(4, 64)}, "1 of its .*to_k.lora_"),  # the same layer twice
        (lambda s: s | {"mid_block.attentions.7.proj_in.lora_A.weight": torch.ones(4, 64)}, "attentions.7"),
        (lambda s: s | {"mid_block.attentions.0.norm.lora_A.weight": torch.ones(4, 64)}, "norm"),
        (lambda s: {"unet.conv_in.weight": torch.ones(4)}, "1 of its 1 keys"),
        (lambda s: {}, "it is empty"),
        (lambda s: s | {"mid_block.attentions.1.proj_in.alpha": torch.ones(())}, "attentions.1"),
        (lambda s: changed(s, A=None), "to_k: down is missing"),
        (lambda s: changed(s, B=None), "to_k: up is missing"),
        (lambda s: changed(s, A=torch.ones(4, 63)), r"to_k: .*\(4, 63\) for a weight"),
        (lambda s: changed(s, A=torch.ones(3, 64)), r"to_k: .*\(3, 64\) for a weight"),
        (lambda s: changed(s, A=torch.ones(0, 64), B=torch.ones(64, 0)), "for a weight"),
        (lambda s: changed(s, A=torch.ones(4, 64, dtype=torch.int32)), "no matrices of floats"),
        (lambda s: changed(s, A=torch.full((4, 64), torch.inf)), "not finite"),
        (lambda s: changed(s, A=torch.full((4, 64), torch.nan).to(torch.float8_e4m3fn)), "not finite"),
        (lambda s: s | {K.format("A").replace("lora_A.weight", "alpha"): torch.tensor(torch.nan)}, "not finite"),
        (lambda s: s | {K.format("A").replace("lora_A.weight", "alpha"): torch.ones(2)}, "not finite"),
    ],
)
def test_what_is_no_lora_of_this_unet_changes_nothing(four: Any, trained: Any, spoil: Any, said: str, tmp_path: Path) -> None:
    path, before, held = file_of(tmp_path, spoil(trained[1])), hooks_of(four), [p.clone() for p in four.unet.parameters()]
    with pytest.raises(InputError, match=said), svdlab.lora(four, path):
        pytest.fail("entered")
    assert hooks_of(four) == before and all(map(torch.equal, held, four.unet.parameters()))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.pt", b"x", "give a .safetensors file"),
        ("a.bin", b"x", "no code"),
        ("a.safetensors", b"\x80\x02pickle" * 9, "no safetensors file"),
        ("a.safetensors", b"", "no safetensors file"),
        ("a.safetensors", None, "No such file"),
    ],
)
def test_only_safetensors_are_read(four: Any, name: str, content: bytes | None, said: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=said), svdlab.lora(four, tmp_path / name):
        pytest.fail("entered")


def test_an_adapter_configuration_that_cannot_be_used_is_refused(four: Any, trained: Any, tmp_path: Path) -> None:
    wrong = ("[", "[]", '{"unet.lora_alpha": "x"}', '{"unet.use_rslora": true}', '{"unet.alpha_pattern": 3}')
    for held in (*wrong, '{"unet.alpha_pattern": {".*to_v": 8}}'):  # peft reads it as a regular expression
        with (
            pytest.raises(InputError, match="adapter configuration"),
            svdlab.lora(four, file_of(tmp_path, trained[1], lora_adapter_metadata=held)),
        ):
            pytest.fail("entered")


def test_no_two_layers_have_one_name(four: Any, pipe: Any) -> None:
    for unet in (four.unet, pipe.unet):
        names = [name for name, module in unet.named_modules() if type(module) in KINDS]
        found = names_of(names, dict(unet.config))
        assert sorted(set(found.values())) == sorted(names) and all(found[n.replace(".", "_")] == n for n in names)
        assert all(list(found.values()).count(name) <= 2 for name in names)


def test_a_second_thread_is_refused_while_the_first_has_its_lora(four: Any, trained: Any, tmp_path: Path) -> None:
    """Whoever leaves first would put the other's weights back for good."""
    path, own = file_of(tmp_path, trained[1]), dict(four.unet.named_parameters())

    def enter() -> None:
        with svdlab.lora(four, path):
            pass

    said = pytest.raises(InputError, match="another thread has put a LoRA on this pipeline")
    with svdlab.lora(four, path, scale=0.1), ThreadPoolExecutor(1) as pool, said:
        pool.submit(enter).result()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(enter).result()
    assert all(p is own[name] for name, p in four.unet.named_parameters())
