"""Single files in the names of Stability's code: every key and shape of SVD's, and the organism written as one file."""

import csv
import json
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import svdlab
from svdlab.errors import CheckpointError, InputError
from svdlab.pipeline.checkpoints import locate
from svdlab.pipeline.conditions import conditions_of
from svdlab.pipeline.single_file import convert, full_size, stability_name

KEYS = Path(__file__).parents[1] / "data" / "svd-single-file-keys.tsv"  # 2,300 tensors of a full-size file, with shapes
ORGANISM = Path(svdlab.__file__).parent / "organism" / "weights" / "organism"
MODELS = ("unet", "vae", "image_encoder")


def settings(model: Any) -> dict[str, Any]:
    return dict(model.config) if isinstance(model.config, dict) else model.config.to_dict()


def as_one_file(parts: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The tensors of a pipeline's models in the names and shapes of Stability's file."""
    found: dict[str, Any] = {}
    for part in MODELS:
        for key, value in parts[part].state_dict().items():
            name = stability_name(part, key, settings(parts[part]))
            if "in_proj_" in name:
                found.setdefault(name, {})[key.split(".self_attn.")[1][0]] = value
            elif ".mid.attn_1." in name and name.endswith("weight") and ".norm." not in name:
                found[name] = value[:, :, None, None]
            else:
                found[name] = value.T if name.endswith("visual.proj") else value
    joined = {k: torch.cat([v["q"], v["k"], v["v"]]) if isinstance(v, dict) else v for k, v in found.items()}
    return {name: tensor.clone().contiguous() for name, tensor in joined.items()}


def hollow_file(path: Path) -> Path:
    """Stability's file in full size: 2.3 B numbers in float16, all zero, a hole on the disk."""
    header, offset = {}, 0
    with KEYS.open() as lines:
        for key, shape in list(csv.reader(lines, delimiter="\t"))[1:]:
            size = list(map(int, shape.split("x")))
            end = offset + 2 * math.prod(size)
            header[key] = {"dtype": "F16", "shape": size, "data_offsets": [offset, end]}
            offset = end
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + offset)
    return path


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    parts = svdlab.load_pipeline("organism", device="cpu").components
    path = tmp_path_factory.mktemp("single") / "small.safetensors"
    save_file({name: tensor.half() for name, tensor in as_one_file(parts).items()}, path)
    return path


def test_every_tensor_of_a_full_size_file_has_its_place() -> None:
    """The names are Stability's, listed from their code; the encoder of the VAE stands there twice."""
    with KEYS.open() as lines:
        held = {key: tuple(map(int, shape.split("x"))) for key, shape in list(csv.reader(lines, delimiter="\t"))[1:]}
    parts, used, elements = full_size(), set(), 0
    for part in MODELS:
        for key, value in parts[part].state_dict().items():
            name = stability_name(part, key, settings(parts[part]))
            assert name in held, key
            used.add(name)
            elements += value.numel()
    assert elements == sum(math.prod(held[name]) for name in used)
    unused = set(held) - used
    assert all(f"conditioner.embedders.3.encoder.{name.removeprefix('first_stage_model.')}" in used for name in unused)


def test_the_organism_as_one_file_makes_the_same_clip(single: Path, tmp_path: Path) -> None:
    folder = convert(single, tmp_path / "converted", configs=ORGANISM)
    first, second = (svdlab.load_pipeline(c, device="cpu") for c in (ORGANISM, folder))
    clips = [svdlab.generate(p, "scene-3", seed=1, num_inference_steps=2, height=64, width=64).frames for p in (first, second)]
    assert np.array_equal(*clips)
    assert json.loads((folder / "model_index.json").read_text())["_class_name"] == "StableVideoDiffusionPipeline"
    with pytest.raises(InputError, match="exists: give a new one"):
        convert(single, folder, configs=ORGANISM)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda t: t.pop("model.diffusion_model.out.2.weight"),
            r"1 tensors: model\.diff\S+out\.2\.weight is missing",
        ),
        (lambda t: t.update({"model.diffusion_model.out.2.bias": torch.zeros(5)}), r"out\.2\.bias is \(5,\)"),
        (lambda t: t.update({"model.diffusion_model.out.2.bias": torch.zeros(4, dtype=torch.int32)}), "torch.int32"),
        (lambda t: t.update({"model.diffusion_model.view_embed.weight": torch.zeros(5)}), "view_embed.weight is unknown"),
        (lambda t: t.update({"model.diffusion_model.label_emb.0.0.weight": torch.zeros(4, 256)}), "is SV3D_u"),
        (lambda t: t.update({"model.diffusion_model.label_emb.0.0.weight": torch.zeros(4, 1280)}), "is SV3D_p or SV4D"),
        (lambda t: t.update({"conditioner.embedders.1.encoder.quant_conv.weight": torch.zeros(4)}), "is SV3D"),
        (lambda t: [t.pop(k) for k in list(t) if "first_stage_model.decoder" in k], "is without the VAE's decoder"),
        (
            lambda t: [t.pop(k) for k in list(t) if "open_clip" in k or ".3." in k],
            "the image encoder and the VAE's encoder",
        ),
        (lambda t: [t.pop(k) for k in list(t) if "first_stage" in k and "time_stack" in k], "is svd_image_decoder"),
        (lambda t: [t.pop(k) for k in list(t) if "time_stack" in k], "is an image model"),
        (lambda t: t.update({"lora_unet_out_2.lora_up.weight": torch.zeros(4)}), "is a LoRA"),
        (lambda t: [t.clear(), t.update({"conv_in.weight": torch.zeros(4)})], "has diffusers' names"),
    ],
)
def test_files_that_are_not_svd_are_refused_by_name(single: Path, tmp_path: Path, change: Callable, words: str) -> None:
    tensors = load_file(single)
    change(tensors)
    save_file(tensors, tmp_path / "odd.safetensors")
    with pytest.raises(CheckpointError, match=words):
        convert(tmp_path / "odd.safetensors", tmp_path / "out", configs=ORGANISM)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["odd.safetensors"]


def test_settings_that_are_none_are_refused(single: Path, tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text("[1]")
    with pytest.raises(CheckpointError, match=r"is no checkpoint in diffusers' layout"):
        convert(single, tmp_path / "out", configs=tmp_path)


def test_the_name_of_a_file_says_what_it_is(single: Path, tmp_path: Path) -> None:
    checkpoints = tmp_path / "ComfyUI" / "models" / "checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / "dreamshaper.safetensors").write_bytes(single.read_bytes())
    (checkpoints / "svd_xt_1_1.safetensors").write_bytes(single.read_bytes())
    named = checkpoints / "svd_xt_1_1.safetensors"
    assert locate(checkpoints) == (str(named), named)
    (checkpoints / "svd.safetensors").write_bytes(single.read_bytes())
    with pytest.raises(CheckpointError, match=r"holds svd\.safetensors, svd_xt_1_1\.safetensors: give the file that is meant"):
        svdlab.load_pipeline(checkpoints)
    names = {"svd.safetensors": 14, "SVD_XT.safetensors": 25, "svd-xt-1-1.fp16.safetensors": 25}
    assert {name: conditions_of(tmp_path / name).num_frames for name in names} == names
    with pytest.raises(InputError, match=r"does not tell its number of frames: give num_frames=14 or 25"):
        svdlab.load_pipeline(single)
    with pytest.raises(CheckpointError, match="does not fit the model"):  # of full size, which is what it is loaded as
        svdlab.load_pipeline(single, num_frames=14)
    with pytest.raises(InputError, match="for single files"):
        svdlab.load_pipeline("organism", num_frames=14)


@pytest.mark.parametrize("content", [b"", b"\x80\x04cos\nsystem\n", b"\xff" * 64, struct.pack("<Q", 2**40) + b"{}"])
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "svd.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="is not a whole safetensors file"):
        svdlab.load_pipeline(path)


@pytest.mark.slow
def test_a_full_size_file_is_loaded(tmp_path: Path) -> None:
    pipe = svdlab.load_pipeline(hollow_file(tmp_path / "svd_xt_1_1.safetensors"), device="cpu", dtype="float16")
    assert sum(p.numel() for part in MODELS for p in pipe.components[part].parameters()) > 2.2e9
    assert pipe.unet.config.num_frames == 25 and not any(t.is_meta for t in pipe.image_encoder.buffers())
    assert "Stability AI" in pipe.source.licence
