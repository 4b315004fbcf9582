"""The full-size model: its published counts, that every module named in prose exists in it, and (full) that it runs."""

import json
import re
import resource
import shutil
from pathlib import Path

import psutil
import pytest
import torch

import svdlab
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
    names = svdlab.module_names(full)
    wrong = {path: lost for path, text in prose().items() if (lost := missing(text, names))}
    assert wrong == {}


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

    pipe = svdlab.load_pipeline(folder, device="cpu")  # in what a CPU computes best
    assert pipe.unet.dtype == torch.float32
    small["num_inference_steps"] = 2
    plan = svdlab.grid(motion_bucket_id=[30, 200], seed=[0], **{k: [v] for k, v in small.items()})
    table = svdlab.sweep(pipe, plan, tmp_path / "study", image="astronaut", measure=(), batch_size=1, progress=False)
    assert len(table) == 2 and set(table["status"]) == {"done"}

    with svdlab.trace(pipe, attention="temporal") as tr:
        clip = svdlab.generate(pipe, "astronaut", seed=0, **small)
    assert tr.latents.shape == (2, 2, 4, 8, 16)
    with svdlab.edits.silence_temporal_attention(pipe, "unet.mid_block"):
        edited = svdlab.generate(pipe, "astronaut", seed=0, **small)
    assert not torch.equal(edited.latents, clip.latents)
    assert torch.equal(svdlab.branch(pipe, tr, 1).latents, clip.latents)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 < 20e9
    shutil.rmtree(folder)
