"""The full-size model: its published counts, that every module named in prose exists in it, and (full) that it runs."""

from __future__ import annotations

import gc
import json
import re
import resource
import shutil
from pathlib import Path

import psutil
import pytest
import torch

import svdlab
from svdlab.pipeline import modules
from tests import full_size as architecture

ROOT = Path(__file__).parents[2]
NAMED = re.compile(
    r"unet\.(?:down_blocks|mid_block|up_blocks|conv_in|conv_out|time_embedding|add_embedding|conv_norm_out)[\w.*?]*"
)


@pytest.fixture(scope="module")
def full():
    return architecture.build("SVD_XT", device="meta")


def count(module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_the_published_counts(full):
    assert count(full.unet) == 1_524_623_082
    assert count(full.vae) == 97_742_847
    assert count(full.image_encoder) == 632_076_800  # OpenCLIP's ViT-H/14, its vision half with the projection
    assert all(p.device.type == "meta" for part in (full.unet, full.vae, full.image_encoder) for p in part.parameters())


def test_its_numbers_are_the_pipelines(full):
    assert full.unet.config.projection_class_embeddings_input_dim == 3 * full.unet.config.addition_time_embed_dim
    assert (full.vae_scale_factor, full.source.height, full.source.width) == (8, 576, 1024)
    assert full.unet.config.cross_attention_dim == full.image_encoder.config.projection_dim
    assert [architecture.build(name).unet.config.num_frames for name in ("SVD", "SVD_1_1")] == [14, 25]


def prose() -> dict[str, str]:
    """Notebooks, documents, and the package's docstrings and comments: wherever a reader may copy a module's name from."""
    paths = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("notebooks/*.py"), *ROOT.glob("svdlab/**/*.py")]
    return {p.relative_to(ROOT).as_posix(): p.read_text() for p in paths}


def missing(text: str, names: list[str]) -> list[str]:
    """Modules named in a text that the model does not have; an output in a trace has a suffix, as name.weights or name#2."""
    found = {re.sub(r"\.(weights|entropy|first_frame)$", "", m.group().rstrip(".")) for m in NAMED.finditer(text)}
    matches = lambda pattern: any(re.fullmatch(re.escape(pattern).replace(r"\*", ".*").replace(r"\?", "."), n) for n in names)
    return sorted(n for n in found if not matches(n))


def test_every_module_that_is_named_anywhere_exists_in_the_real_unet(full):
    names = modules.module_names(full)
    wrong = {path: lost for path, text in prose().items() if (lost := missing(text, names))}
    assert wrong == {}
    assert sum(len(NAMED.findall(text)) for text in prose().values()) > 5  # and the pattern finds some


@pytest.mark.full
def test_the_full_size_loads_sweeps_traces_edits_and_saves(tmp_path):
    """SVD-XT's architecture with random weights on the CPU: the hub's layout, real module names, small clips, 20 GB."""
    free = psutil.virtual_memory().available
    if free < 20e9:
        pytest.skip(f"needs 20 GB of free memory, and {free / 1e9:.1f} are")
    folder = tmp_path / "svd-xt"
    built = architecture.build("SVD_XT", device="cpu", dtype=torch.bfloat16)
    built.save_pretrained(folder, variant="fp16", max_shard_size="2GB")  # sharded, as the hub has large files
    del built
    (folder / "svdlab.json").write_text(json.dumps(dict(label="random weights")))
    assert len(list((folder / "unet").glob("*-of-*.safetensors"))) > 1
    small = dict(num_frames=2, height=64, width=128, decode_chunk_size=2)

    # Half precision is stored and loaded, but only one step is run in it: this CPU's convolutions take 200 times as long.
    pipe = svdlab.load_pipeline(folder, dtype=torch.bfloat16, device="cpu")
    with svdlab.trace(pipe) as tr:
        svdlab.generate(pipe, "astronaut", seed=0, max_guidance_scale=1.0, num_inference_steps=1, **small)
    assert tr.latents.dtype == torch.bfloat16 and tr.latents.shape == (1, 2, 4, 8, 16)
    del pipe, tr
    gc.collect()

    pipe = svdlab.load_pipeline(folder, device="cpu")  # in what a CPU computes best
    assert pipe.unet.dtype == torch.float32
    small["num_inference_steps"] = 2
    plan = svdlab.grid(motion_bucket_id=[30, 200], seed=[0], **{k: [v] for k, v in small.items()})
    table = svdlab.sweep(pipe, plan, tmp_path / "study", image="astronaut", measure=(), batch_size=1, progress=False)
    assert len(table) == 2 and set(table["status"]) == {"done"}

    where = "unet.mid_block.attentions.0.temporal_transformer_blocks.0.attn1"
    with svdlab.trace(pipe, modules=where, attention=where) as tr:
        clip = svdlab.generate(pipe, "astronaut", seed=0, **small)
    assert tr.latents.shape == (2, 2, 4, 8, 16)
    assert tr[f"{where}.weights"].shape[-2:] == (2, 2)
    with svdlab.edit(pipe, where, lambda value, step: 0 * value):
        edited = svdlab.generate(pipe, "astronaut", seed=0, **small)
    assert not torch.equal(edited.latents, clip.latents)
    assert torch.equal(svdlab.branch(pipe, tr, 1).latents, clip.latents)
    assert svdlab.Trace.load(tr.save(tmp_path / "trace.safetensors")).latents.shape == tr.latents.shape
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 < 20e9
    shutil.rmtree(folder)
