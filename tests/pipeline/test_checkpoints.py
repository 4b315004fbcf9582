"""Checkpoints from this disk and from a hub on loopback: which files are taken, what is recorded, what is refused."""

import json
import os
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from svdlab.errors import CheckpointError, InputError
from svdlab.pipeline import checkpoints
from svdlab.pipeline.checkpoints import choose_files, load_pipeline, locate
from tests.stand_in_hub import COMMIT, Hub, connect, serve

UNET = "unet/diffusion_pytorch_model.safetensors"
REPO = "stabilityai/stable-video-diffusion-img2vid-xt-1-1"
TOKEN = "hf_AbCdEfGhIjKlMnOpQrStUvWxYz012345"
PLAIN = [f"{part}/{stem}.safetensors" for part, stem in checkpoints.WEIGHTS.items()]
HALF = [name.replace(".safetensors", ".fp16.safetensors") for name in PLAIN]
SMALL = ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json", "README.md", "LICENSE.md"]
SHARDED = [*PLAIN[1:], f"{UNET}.index.json", *(UNET.replace(".", f"-0000{i}-of-00002.") for i in (1, 2))]


@pytest.fixture
def copy(checkpoint: Path, tmp_path: Path) -> Path:
    """A checkpoint folder to spoil."""
    return Path(shutil.copytree(checkpoint, tmp_path / "copy"))


@pytest.mark.parametrize(
    ("names", "dtype", "variant", "chosen", "weights"),
    [
        (PLAIN + HALF, torch.float16, None, "fp16", HALF),
        (PLAIN + HALF, torch.float32, None, None, PLAIN),
        (PLAIN + HALF, torch.bfloat16, None, None, PLAIN),  # fp16's rounding on top of bfloat16's would be worse
        (PLAIN, torch.float16, None, None, PLAIN),
        (HALF, torch.float32, None, "fp16", HALF),
        (SHARDED, torch.float32, None, None, SHARDED),
    ],
)
def test_the_variant_follows_the_dtype_and_code_is_never_taken(
    names: list[str], dtype: torch.dtype, variant: str | None, chosen: str | None, weights: list[str]
) -> None:
    there = [*SMALL, *names, "unet/modeling.py", "handler.py", "unet/weights.bin", "svd_xt.safetensors"]
    found, files = choose_files(there, dtype, variant, "x")
    assert found == chosen and sorted(files) == sorted([*SMALL, *weights])


@pytest.mark.parametrize(
    ("names", "variant", "said"),
    [
        (SMALL + PLAIN, "bf16", "no variant 'bf16'.*unet: plain; vae: plain"),
        ([*SMALL, HALF[0], *PLAIN[1:]], None, "no weights .*unet: fp16; vae: plain"),
        ([*SMALL, *PLAIN[1:], "unet/diffusion_pytorch_model.bin"], None, "unet: none.*no pickles"),
        (["svd_xt_1_1.safetensors"], None, "unet: none.*as Stability's single file, and no pickles"),
    ],
)
def test_what_cannot_be_loaded_is_known_from_the_names_alone(names: list[str], variant: str | None, said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        choose_files(names, torch.float32, variant, "x")


def test_single_files_and_mistyped_names(tmp_path: Path) -> None:
    (tmp_path / "svd.ckpt").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    for typed in (tmp_path / "svd.ckpt", "", "svd", "../weights", "a/b/c", "owner/na me", "models/mistyped.safetensors"):
        with pytest.raises(CheckpointError, match=r"no checkpoint .*organism, .*SVD, SVD_XT.*no pickles"):
            locate(typed)
    assert locate("SVD_XT") == ("stabilityai/stable-video-diffusion-img2vid-xt", None)


def test_only_svds_classes_are_loaded_and_no_code_runs(copy: Path) -> None:
    trap, index = copy / "sprung", copy / "model_index.json"
    (copy / "unet/mine.py").write_text(f"open({str(trap)!r}, 'w')")
    classes = json.loads(index.read_text())
    for named in (["mine", "Mine"], ["diffusers", "UNet2DConditionModel"]):
        index.write_text(json.dumps({**classes, "unet": named}))
        with pytest.raises(CheckpointError, match=rf"unet is \['{named[0]}', .*Stable Video Diffusion's is"):
            load_pipeline(copy)
    assert not trap.exists()


@pytest.mark.parametrize("name", [UNET, "model_index.json", "svdlab.json"])
def test_a_cut_off_file_is_a_checkpoint_error(copy: Path, name: str) -> None:
    whole = (copy / name).read_bytes()
    (copy / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"could not be loaded.*Damaged"):
        load_pipeline(copy)


def shard_index(copy: Path, shard: Any) -> None:
    """The image encoder in one shard, and an index that also names another file."""
    whole, one = copy / "image_encoder/model.safetensors", copy / "image_encoder/model-00001-of-00001.safetensors"
    whole.rename(one)
    keys = dict.fromkeys(load_file(one), one.name)
    index = {"metadata": {}, "weight_map": {**keys, next(iter(keys)): shard}}
    (copy / "image_encoder/model.safetensors.index.json").write_text(json.dumps(index))


WATCHED: list[list[str]] = []  # the innermost is told; hooks of this kind can never be removed
sys.addaudithook(lambda event, args: WATCHED[-1].append(str(args[0])) if WATCHED and event == "open" else None)


def watched(act: Callable[[], Any]) -> list[str]:
    """The paths of all files that are opened while something is done."""
    WATCHED.append([])
    try:
        act()
    finally:
        opened = WATCHED.pop()
    return opened


def refused_folder(folder: Path, words: str) -> None:
    with pytest.raises(CheckpointError, match=words) as caught:
        load_pipeline(folder)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "shard", ["w.bin", "../w.bin", "/etc/hostname", "../vae/diffusion_pytorch_model.safetensors", 3, ["a"]]
)
def test_an_index_names_only_the_shards_beside_it(copy: Path, shard: Any) -> None:
    """Case E1: nothing is unpickled, nothing outside is opened."""
    shard_index(copy, "model-00001-of-00001.safetensors")
    load_pipeline(copy)
    (copy / "image_encoder/model-00001-of-00001.safetensors").rename(copy / "image_encoder/model.safetensors")
    shard_index(copy, shard)
    for folder in (copy, copy / "image_encoder"):
        (folder / "w.bin").write_text(f"cos\nsystem\n(S'touch {copy}/sprung'\ntR.")
    opened = watched(lambda: refused_folder(copy, "none of its safetensors shards"))
    assert opened and not (copy / "sprung").exists()
    assert not [path for path in opened if path.endswith(("w.bin", "hostname"))]


@pytest.mark.parametrize("part", ["unet", "vae", "image_encoder"])
@pytest.mark.parametrize("how", ["missing", "unknown", "another shape", "integers"])
def test_the_weights_of_every_part_are_the_models(copy: Path, part: str, how: str) -> None:
    """Case E2: a missing tensor would be loaded as random numbers."""
    file = next((copy / part).glob("*.safetensors"))
    weights = load_file(file)
    name = next(key for key in weights if weights[key].ndim > 1)
    if how == "missing":
        del weights[name]
    elif how == "unknown":
        weights["one.more"] = torch.zeros(3)
    else:
        weights[name] = weights[name][:-1].clone() if how == "another shape" else weights[name].to(torch.int8)
    save_file(weights, file)
    told = {"missing": f"{name} is missing", "unknown": "one.more is unknown", "another shape": "not \\(", "integers": "I8"}
    refused_folder(copy, f"the weights of {part} do not fit.*{told[how]}")


HOSTILE: dict[str, list[tuple[Any, str]]] = {
    "svdlab.json": [
        ({"stimuli": "/etc"}, "photographs, world"),
        ({"height": "../x"}, "height"),
        ({"width": 10**30}, "width"),
        ({"label": "\x1b[31m"}, "label"),
        ({"licence": "a\nb"}, "licence"),
        ({"images": "/etc"}, "height, width, label"),
        ([1], "give a dict"),
        ("[" * 100_000, "too deep"),
        (" " * (2**24 + 1), "larger than"),
    ],
    "image_encoder/config.json": [
        ({"attn_implementation": "someone/kernel"}, "attn_implementation"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "quantization_config"),
        ({"auto_map": {"AutoModel": "mine.Model"}}, "auto_map"),
    ],
    "image_encoder/adapter_config.json": [({"base_model_name_or_path": "/somewhere/else"}, "adapter_config")],
}


@pytest.mark.parametrize(("name", "content", "words"), [(name, *case) for name, cases in HOSTILE.items() for case in cases])
def test_settings_are_checked_and_cannot_bring_code_or_paths(copy: Path, name: str, content: Any, words: str) -> None:
    settings = json.loads((copy / name).read_text()) if "/config" in name else {}
    changed = {**settings, **content} if isinstance(content, dict) else content
    (copy / name).write_text(changed if isinstance(changed, str) else json.dumps(changed))
    refused_folder(copy, words)


@pytest.mark.parametrize("name", [UNET, "unet/config.json", "svdlab.json", "README.md", "unet"])
def test_links_to_elsewhere_are_not_followed(copy: Path, name: str, tmp_path: Path) -> None:
    if name == "README.md":
        (copy / name).write_text("---\nlicense: mit\n---\n")
    shutil.move(copy / name, outside := tmp_path / "outside")
    (copy / name).symlink_to(outside)
    opened = watched(lambda: refused_folder(copy, "a link to another folder"))
    assert set(opened) <= {str(copy / "README.md")} - {str(copy / name)}


def test_a_link_does_not_tell_a_files_hash(copy: Path, checkpoint: Path) -> None:
    """As it does in the hub's cache: or changed weights could go by another's hash."""
    blob = copy / "unet" / ("0" * 64)
    (copy / UNET).rename(blob)
    (copy / UNET).symlink_to(blob.name)
    assert load_pipeline(copy).source.weights_hash == load_pipeline(checkpoint).source.weights_hash


def test_bad_arguments_are_refused_before_anything_is_loaded(checkpoint: Path) -> None:
    wrong = (
        dict(offload="disk"),
        dict(offload="model", device="cpu"),
        dict(offload="model", device="cpu:0"),
        dict(dtype="fp8"),
        dict(device="gpu"),
        dict(device="cpu:x"),
        dict(variant=3),
        dict(compile=1),
        dict(local_files_only="no"),
        dict(revision="main"),
    )
    for given in wrong:
        with pytest.raises(InputError, match=next(iter(given))):
            load_pipeline(checkpoint, **given)


@pytest.mark.parametrize("dtype", [None, "float16", torch.bfloat16])
def test_all_parts_have_the_dtype(checkpoint: Path, dtype: Any) -> None:
    pipe = load_pipeline(checkpoint, device="cpu:0", dtype=dtype)
    wanted = checkpoints.DTYPES.get(str(dtype or "float32"), dtype)
    assert pipe.unet.dtype == pipe.vae.dtype == pipe.image_encoder.dtype == wanted


def test_the_hash_knows_weights_and_configs_and_nothing_else(checkpoint: Path, copy: Path) -> None:
    before = load_pipeline(checkpoint).source.weights_hash
    (copy / "README.md").write_text("another card")
    (copy / "svdlab.json").write_text("{}")
    assert load_pipeline(copy).source.weights_hash == before
    config = copy / "scheduler/scheduler_config.json"
    config.write_text(config.read_text().replace("700.0", "600.0"))
    changed = load_pipeline(copy).source.weights_hash
    weights = load_file(copy / UNET)
    weights["conv_in.bias"] += 1
    save_file(weights, copy / UNET)
    assert len({before, changed, load_pipeline(copy).source.weights_hash}) == 3


def test_size_label_and_licence_come_from_the_checkpoint_and_the_licence_is_shown_once(copy: Path, capsys: Any) -> None:
    (copy / "svdlab.json").write_text(json.dumps(dict(height=32, width=64, label="a label", licence="Shown-Once-1.0")))
    load_pipeline(copy)
    source = load_pipeline(copy).source
    assert (source.height, source.width, source.label, source.licence) == (32, 64, "a label", "Shown-Once-1.0")
    assert capsys.readouterr().out.count("Shown-Once-1.0") == 1
    (copy / "svdlab.json").unlink()
    (copy / "README.md").write_text("---\nlicense: mit\n---\n")
    source = load_pipeline(copy).source
    assert (source.height, source.width, source.licence) == (576, 1024, "mit")
    (copy / "README.md").write_text("---\nlicense: [!!python/object/apply:os.system ['true']]\n---\n")
    assert load_pipeline(copy).source.licence == ""  # YAML is read by the safe loader


def test_variants_and_shards_that_were_saved_load_again_and_a_snapshot_tells_its_commit(
    checkpoint: Path, copy: Path, tmp_path: Path
) -> None:
    pipe = load_pipeline(checkpoint)
    saved = tmp_path / "models--a--b/snapshots" / COMMIT
    pipe.save_pretrained(saved, variant="fp16")
    shutil.rmtree(copy / "unet")
    pipe.unet.save_pretrained(copy / "unet", max_shard_size="4MB")
    for folder, variant, commit in ((saved, "fp16", COMMIT), (copy, None, None)):
        again = load_pipeline(folder, revision=commit)  # as a worker reloads what was recorded
        assert (again.source.variant, again.source.revision) == (variant, commit)
        assert (again.source.height, again.source.label) == (pipe.source.height, "random weights")
        assert all(torch.equal(a, b) for a, b in zip(again.unet.parameters(), pipe.unet.parameters(), strict=True))


# --- the hub ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    folder = Path(shutil.copytree(checkpoint, tmp_path / "served"))
    (folder / "code.py").write_text("raise SystemExit('a checkpoint brought code')")
    for plain, half in zip(PLAIN, HALF, strict=True):
        save_file({k: v.half() for k, v in load_file(folder / plain).items()}, folder / half)
    with serve(Hub(REPO, folder)) as running:
        connect(running, monkeypatch, tmp_path / "cache")
        yield running


def refused(*words: str, repo: str = REPO, **given: Any) -> None:
    """Loading ends in a CheckpointError that holds these words; nothing of the client's, whose frames hold the token."""
    with pytest.raises(CheckpointError) as caught:
        load_pipeline(repo, **given)
    assert [word for word in words if word not in str(caught.value)] == [], str(caught.value)
    assert caught.value.__cause__ is None and caught.value.__context__ is None
    shown = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
    assert TOKEN not in shown


def test_only_what_is_needed_is_fetched_once_and_the_commit_is_recorded(hub: Hub, checkpoint: Path) -> None:
    pipe = load_pipeline("SVD_1_1")
    assert (pipe.source.checkpoint, pipe.source.revision) == (REPO, COMMIT)
    assert pipe.source.weights_hash == load_pipeline(checkpoint).source.weights_hash  # a copy's, by other means
    assert "Non-Commercial Research Community License" in pipe.source.licence
    got = hub.downloads()
    assert UNET in got and not [n for n in got if "fp16" in n or n.endswith(".py")]
    assert load_pipeline(REPO, dtype="float16", revision=COMMIT).source.variant == "fp16"
    assert len(hub.downloads()) == len(got) + 3  # what was there is not fetched again
    hub.requests.clear()
    assert load_pipeline(REPO, local_files_only=True).source == pipe.source
    assert hub.requests == []


def test_what_a_gated_repository_says(hub: Hub, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    hub.gated, hub.tokens = True, {TOKEN: "plain"}
    words = "gated", "accept its licence", f"{hub.endpoint}/{REPO}", "hf auth login", "HF_TOKEN"
    refused(*words)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    refused(*words)
    monkeypatch.setenv("HF_TOKEN", "hf_unknownunknown")
    refused("Invalid credentials")
    assert hub.downloads() == [] and TOKEN not in "".join(capfd.readouterr())
    hub.tokens = {"hf_unknownunknown": "accepted"}
    assert load_pipeline(REPO).source.revision == COMMIT


def test_unknown_names_revisions_and_a_hub_that_fails(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    refused("someone/nothing does not exist, or is private", "check the name", repo="someone/nothing")
    refused("Invalid rev id: v9", revision="v9")
    refused("not in the cache", local_files_only=True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.fail = 503
    refused("could not be fetched", "Load again", "Internal Error")
    echo: Any = type("Echo", (Exception,), {"server_message": f"Bearer {TOKEN} from http://me:{TOKEN}@proxy is unknown"})()
    assert TOKEN not in (said := checkpoints.explain(echo, REPO)) and "is unknown" in said and "me:" not in said
    hub.fail = 0
    monkeypatch.delenv("HF_TOKEN")
    load_pipeline(REPO)
    hub.fail = 503
    with pytest.warns(UserWarning, match="copy in the cache"):
        assert load_pipeline(REPO).source.revision == COMMIT
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub.folder / "empty"))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody there
    refused("could not be fetched from http://127.0.0.1:9", "Connect")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    refused("not in the cache", "HF_HUB_OFFLINE")


SCRIPT = """
import pickle, sys, svdlab
from pathlib import Path
from svdlab.study import executors
pipe = svdlab.load_pipeline(sys.argv[1])
with svdlab.trace(pipe) as tr:
    clip = svdlab.generate(pipe, "scene-3", num_inference_steps=1)
print(pipe.source.revision, clip.frames.shape)
clip.save("made/clip.mp4"), tr.save("made/trace.safetensors"), pipe.save_pretrained("made/checkpoint")
Path("made/task.pickle").write_bytes(pickle.dumps([clip, clip.call, pipe.source, executors.load_arguments(pipe)]))
"""


def test_from_the_hub_to_a_clip_in_a_process_of_its_own(hub: Hub, tmp_path: Path) -> None:
    """HF_ENDPOINT, an empty cache, a token: as a user has it. The stand-in is all the network there is."""
    hub.gated, hub.tokens = True, {TOKEN: "accepted"}
    settings = dict(HF_ENDPOINT=hub.endpoint, HF_HOME=str(tmp_path / "home"), HF_HUB_OFFLINE="0", HF_TOKEN=TOKEN)
    environment = {**os.environ, **settings, "PYTHONPATH": str(Path(__file__).parents[2])}
    environment.pop("HF_HUB_CACHE", None)
    command = [sys.executable, "-c", SCRIPT, REPO]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    licence, rest = done.stdout.split("\n", 1)  # not on stderr, which Jupyter shows in red
    assert rest.split(maxsplit=1) == [COMMIT, "(8, 64, 64, 3)\n"] and "stability.ai/use-policy" not in done.stderr
    assert licence.count("stability.ai/use-policy") == 1 and TOKEN not in done.stdout + done.stderr
    assert "torchvision" not in done.stderr
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len([path for path in left if "made" in path.parts]) > 5
    assert [path for path in left if TOKEN.encode() in path.read_bytes()] == []
