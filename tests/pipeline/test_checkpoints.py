"""Checkpoints on this disk: which files are taken, what is recorded, and what every wrong layout is told."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import svdlab
from svdlab.errors import CheckpointError, InputError, SvdlabError
from svdlab.pipeline import checkpoints, files
from svdlab.pipeline.checkpoints import choose_files, load_pipeline, locate

UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def copy(checkpoint, tmp_path) -> Path:
    """A checkpoint folder to spoil."""
    return Path(shutil.copytree(checkpoint, tmp_path / "copy"))


def tree(*names: str) -> list[str]:
    weights = [f"{part}/{stem}.safetensors" for part, stem in checkpoints.PARTS.items()]
    configs = ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json"]
    return [*configs, *(n for n in weights if n not in names), *(n.removeprefix("+") for n in names if n.startswith("+"))]


# --- which files ------------------------------------------------------------------------------------------------------


def fp16(names: list[str]) -> list[str]:
    return [n.replace(".safetensors", ".fp16.safetensors") for n in names if n.endswith(".safetensors")]


def test_the_variant_follows_the_dtype():
    both = tree() + fp16(tree())
    assert choose_files(both, torch.float16, None, "x")[0] == "fp16"
    assert choose_files(both, torch.float32, None, "x")[0] is None
    assert choose_files(both, torch.bfloat16, None, "x")[0] is None  # fp16's rounding on top of bfloat16's would be worse
    assert choose_files(both, torch.float32, "fp16", "x")[0] == "fp16"
    assert choose_files(tree(), torch.float16, None, "x")[0] is None
    only_half = [n for n in both if not n.endswith(".safetensors") or "fp16" in n]
    assert choose_files(only_half, torch.float32, None, "x")[0] == "fp16"  # better than nothing, and in the weights' hash
    chosen = choose_files(both, torch.float16, None, "x")[1]
    assert sorted(n for n in chosen if n.endswith(".safetensors")) == sorted(fp16(tree()))


def test_a_variant_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(CheckpointError, match=r"no variant 'bf16'.*unet: the plain one, fp16; vae: the plain one"):
        choose_files([*tree(), "unet/diffusion_pytorch_model.fp16.safetensors"], torch.float16, "bf16", "x")
    mixed = [*tree(UNET), "unet/diffusion_pytorch_model.fp16.safetensors"]
    with pytest.raises(CheckpointError, match="share no variant"):
        choose_files(mixed, torch.float32, None, "x")


def test_shards_are_taken_with_their_index_and_none_may_lack():
    shards = [f"unet/diffusion_pytorch_model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    index = "unet/diffusion_pytorch_model.safetensors.index.json"
    names = [*tree(UNET), *shards, index]
    assert set(choose_files(names, torch.float32, None, "x")[1]) >= {*shards, index}
    with pytest.raises(CheckpointError, match="1 of the 3 files are missing"):
        choose_files([n for n in names if n != shards[1]], torch.float32, None, "x")
    with pytest.raises(CheckpointError, match=r"the index .* missing"):
        choose_files([n for n in names if n != index], torch.float32, None, "x")


def test_code_is_never_among_the_files():
    names = [*tree(), "unet/modeling.py", "handler.py", "vae/config.json", "unet/weights.bin", "README.md", "LICENSE.md"]
    chosen = choose_files(names, torch.float32, None, "x")[1]
    assert {"README.md", "LICENSE.md", "vae/config.json"} <= set(chosen)
    assert not [n for n in chosen if n.endswith((".py", ".bin"))]


# --- layouts ----------------------------------------------------------------------------------------------------------


def test_a_single_file_is_told_which_layout_is_needed_and_how_to_get_it(tmp_path):
    path = tmp_path / "svd_xt_1_1.safetensors"
    save_file({"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError) as caught:
        load_pipeline(path)
    for word in (
        "one file",
        "Stability's scripts and ComfyUI",
        "diffusers' layout",
        "model_index.json",
        "SVD_1_1",
        "convert_svd",
    ):
        assert word in str(caught.value)
    save_file({"mid_block.resnets.0.conv1.weight": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match="one part of a checkpoint"):
        load_pipeline(path)
    with pytest.raises(CheckpointError, match=r"no model_index.json: it holds svd_xt_1_1.safetensors, a model in one file"):
        load_pipeline(tmp_path)


def test_a_pickle_is_never_opened(tmp_path, copy):
    """Its first instruction would create a file."""
    trap = tmp_path / "sprung"
    bomb = b"cbuiltins\nopen\n(V%b\nVw\ntR." % str(trap).encode()
    for name in ("model.ckpt", "model.pt"):
        (tmp_path / name).write_bytes(bomb)
        with pytest.raises(CheckpointError, match="pickle"):
            load_pipeline(tmp_path / name)
    for target in (copy / UNET, copy / "vae/diffusion_pytorch_model.safetensors"):
        kept = target.read_bytes()
        target.unlink()
        target.with_suffix(".bin").write_bytes(bomb)
        with pytest.raises(CheckpointError, match=r"only as .*\.bin, which is a pickle"):
            load_pipeline(copy)
        target.write_bytes(bomb)  # and under a false name
        with pytest.raises(CheckpointError, match="could not be loaded"):
            load_pipeline(copy)
        target.write_bytes(kept)
    assert not trap.exists()


def test_a_checkpoint_brings_no_code(copy, tmp_path):
    """Neither by a class of its own in model_index.json, nor by a module beside it."""
    trap = tmp_path / "sprung"
    (copy / "unet/mine.py").write_text(f"open({str(trap)!r}, 'w')")
    index = json.loads((copy / "model_index.json").read_text())
    (copy / "model_index.json").write_text(json.dumps({**index, "unet": ["mine", "Mine"]}))
    with pytest.raises(CheckpointError, match=r"unet is mine\.Mine: svdlab loads Stable Video Diffusion"):
        load_pipeline(copy)
    assert not trap.exists()
    sources = [p.read_text() for p in Path(svdlab.__file__).parent.rglob("*.py")]
    assert not [s for s in sources if "trust_remote_code=True" in s]


def test_another_family_is_told_apart(copy):
    index = json.loads((copy / "model_index.json").read_text())
    other = {**index, "_class_name": "StableDiffusionXLPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}
    (copy / "model_index.json").write_text(json.dumps(other))
    with pytest.raises(CheckpointError, match=r"StableDiffusionXLPipeline whose unet is diffusers\.UNet2DConditionModel"):
        load_pipeline(copy)
    (copy / "model_index.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_pipeline(copy)


def test_a_cut_off_weight_file_is_a_checkpoint_error(copy):
    whole = (copy / UNET).read_bytes()
    (copy / UNET).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"could not be loaded.*damaged"):
        load_pipeline(copy)


def test_names_that_name_nothing(tmp_path):
    for name in ("", "svd", "../weights", "a/b/c", "owner/na me", "/nowhere/at/all"):
        with pytest.raises(CheckpointError, match=r"give organism, organism-fixed, SVD, SVD_XT, SVD_1_1, a hub id"):
            locate(name)
    assert locate("SVD_XT")[0] == "stabilityai/stable-video-diffusion-img2vid-xt"
    with pytest.raises(CheckpointError, match=r"model_index\.json"):
        locate(tmp_path)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (dict(offload="disk"), "'model', 'sequential' or None"),
        (dict(offload="model", device="cpu"), "device is 'cpu'"),
        (dict(dtype="fp8"), "float32, float16, bfloat16"),
        (dict(dtype=torch.int8), "float32, float16, bfloat16"),
        (dict(device="gpu"), "'cuda'"),
        (dict(device="cuda:99" if torch.cuda.is_available() else "cuda", revision="x"), "device|revision"),
        (dict(revision="main"), "is a folder, which has none"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_loaded(checkpoint, given, said):
    with pytest.raises(InputError, match=said):
        load_pipeline(checkpoint, **given)


# --- what is recorded -------------------------------------------------------------------------------------------------


def test_the_default_dtype_is_float32_on_a_cpu(checkpoint):
    pipe = load_pipeline(checkpoint, device="cpu")
    assert pipe.unet.dtype == pipe.vae.dtype == pipe.image_encoder.dtype == torch.float32
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", checkpoints.SlowDtypeWarning)
        assert load_pipeline(checkpoint, device="cpu", dtype="bfloat16").unet.dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_half_precision_on_a_cpu_without_instructions_for_it_is_warned_of(checkpoint, dtype):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        load_pipeline(checkpoint, device="cpu", dtype=dtype)
    said = [str(w.message) for w in seen if w.category is checkpoints.SlowDtypeWarning]
    able = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    assert len(said) == (dtype != "float32" and not able)
    assert all(dtype in text and "dtype='float32'" in text for text in said)


def test_weights_hash_knows_weights_and_configs_and_nothing_else(checkpoint, copy):
    before = checkpoints.hash_weights(copy)
    assert before == checkpoints.hash_weights(checkpoint)
    (copy / "README.md").write_text("another card")
    (copy / "svdlab.json").write_text("{}")
    assert checkpoints.hash_weights(copy) == before
    config = copy / "scheduler/scheduler_config.json"
    config.write_text(config.read_text().replace("700.0", "600.0"))
    changed = checkpoints.hash_weights(copy)
    assert changed != before
    weights = load_file(copy / UNET)
    weights["conv_in.bias"] += 1
    save_file(weights, copy / UNET)
    assert checkpoints.hash_weights(copy) not in (before, changed)


def test_a_large_file_is_hashed_once_until_it_changes(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(files, "REMEMBERED", 10)
    path = tmp_path / "weights"
    path.write_bytes(b"0" * 100)
    first = files.sha256(path)
    assert (tmp_path / "cache/svdlab/sha256.json").exists()
    path.chmod(0)
    assert files.sha256(path) == first  # root may read it anyway: the stored value is what the next line proves
    store = tmp_path / "cache/svdlab/sha256.json"
    store.write_text(store.read_text().replace(first, "remembered"))
    assert files.sha256(path) == "remembered"
    path.chmod(0o644)
    path.write_bytes(b"1" * 101)
    assert files.sha256(path) not in (first, "remembered")
    store.write_text("not json")
    assert len(files.sha256(path)) == 64


def test_a_snapshot_folder_of_the_hub_tells_its_commit(checkpoint, tmp_path):
    commit = "ab" * 20
    folder = Path(shutil.copytree(checkpoint, tmp_path / "models--a--b/snapshots" / commit))
    assert load_pipeline(folder).source.revision == commit
    assert load_pipeline(folder, revision=commit).source.revision == commit  # as a worker reloads what was recorded


def test_size_label_and_licence_come_from_the_checkpoint(copy):
    (copy / "svdlab.json").write_text(json.dumps(dict(height=32, width=64, label="a label", licence="a licence")))
    source = load_pipeline(copy).source
    assert (source.height, source.width, source.label, source.licence) == (32, 64, "a label", "a licence")
    (copy / "svdlab.json").unlink()
    (copy / "README.md").write_text("---\nlicense: mit\n---\n")
    source = load_pipeline(copy).source
    assert (source.height, source.width, source.licence) == (576, 1024, "mit")
    (copy / "README.md").write_text("---\nlicense: [!!python/object/apply:os.system ['true']]\n---\n")
    assert load_pipeline(copy).source.licence == ""  # YAML is read by the safe loader
    (copy / "svdlab.json").write_text("[")
    with pytest.raises(CheckpointError, match=r"svdlab\.json cannot be read"):
        load_pipeline(copy)


def test_the_licence_is_shown_once(copy, capsys):
    (copy / "svdlab.json").write_text(json.dumps(dict(licence="Shown-Once-1.0")))
    load_pipeline(copy)
    load_pipeline(copy)
    assert capsys.readouterr().err.count("Shown-Once-1.0") == 1


def test_a_saved_pipeline_loads_again(checkpoint, tmp_path):
    pipe = load_pipeline(checkpoint)
    pipe.save_pretrained(tmp_path / "saved", variant="fp16")
    again = load_pipeline(tmp_path / "saved")
    torch.testing.assert_close(again.unet.conv_in.weight, pipe.unet.conv_in.weight)


def test_sharded_weights_load(checkpoint, copy):
    shutil.rmtree(copy / "unet")
    pipe = load_pipeline(checkpoint)
    pipe.unet.save_pretrained(copy / "unet", max_shard_size="4MB")
    assert len(list((copy / "unet").glob("*-of-*.safetensors"))) > 1
    again = load_pipeline(copy)
    assert all(torch.equal(a, b) for a, b in zip(again.unet.parameters(), pipe.unet.parameters(), strict=True))


def test_every_error_of_this_room_is_one_of_svdlabs(tmp_path):
    with pytest.raises(SvdlabError), warnings.catch_warnings():
        warnings.simplefilter("error")
        load_pipeline(tmp_path)


def test_the_lock_has_hashes_for_all_but_torch():
    lock = (Path(__file__).parents[2] / "requirements.lock").read_text()
    entries = [e for e in lock.replace("\\\n", " ").splitlines() if e and not e.startswith(("#", " "))]
    assert len(entries) > 50
    assert not [e for e in entries if "==" not in e or "--hash=sha256:" not in e]


def test_nothing_of_svdlabs_imports_pickle():
    code = "import ast, sys; print([n.lineno for f in sys.argv[1:] for n in ast.walk(ast.parse(open(f).read())) " + (
        "if isinstance(n, (ast.Import, ast.ImportFrom)) and any(a.name.split('.')[0] in ('pickle', 'cloudpickle', 'dill') "
        "for a in n.names)])"
    )
    sources = [str(p) for p in Path(svdlab.__file__).parent.rglob("*.py")]
    done = subprocess.run([sys.executable, "-c", code, *sources], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
