"""The hub's real client against a hub on loopback: every refusal is one message that says what, why and what to do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import traceback
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from svdlab.errors import CheckpointError
from svdlab.pipeline import checkpoints, hub
from tests.stand_in_hub import COMMIT, Hub, serve

REPO = "stabilityai/stable-video-diffusion-img2vid-xt-1-1"
TOKEN = "hf_AbCdEfGhIjKlMnOpQrStUvWxYz012345"
PAGE = f"/{REPO}"
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Path:
    """Small files in the layout of a checkpoint; the hub's client does not look into them."""
    folder = tmp_path_factory.mktemp("served")
    for part in ("unet", "vae", "image_encoder", "scheduler", "feature_extractor"):
        (folder / part).mkdir()
    for n, (part, stem) in enumerate(checkpoints.PARTS.items()):  # all different: the cache keeps equal files once
        tensor = {"weight": torch.arange(20_000, dtype=torch.float32) + n}
        save_file(tensor, folder / part / f"{stem}.safetensors")
        save_file({"weight": tensor["weight"].half()}, folder / part / f"{stem}.fp16.safetensors")
        (folder / part / "config.json").write_text(json.dumps({"part": part}))
    (folder / "scheduler/scheduler_config.json").write_text('{"part": "scheduler"}')
    (folder / "feature_extractor/preprocessor_config.json").write_text("{}")
    (folder / "model_index.json").write_text('{"_class_name": "StableVideoDiffusionPipeline"}')
    (folder / "README.md").write_text("---\nlicense: other\nlicense_name: some-licence\n---\n# A card\n")
    (folder / "svd_xt_1_1.safetensors").write_bytes(b"the same model in one file, which nobody needs here")
    (folder / "code.py").write_text("raise SystemExit('a checkpoint brought code')")
    return folder


@pytest.fixture
def stand_in(served, tmp_path, monkeypatch):
    """The hub, and this process's client pointed at it with an empty cache and nobody logged in."""
    with serve(Hub(REPO, served)) as running:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", running.endpoint)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", running.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
        wait = time.sleep
        monkeypatch.setattr(time, "sleep", lambda seconds: wait(min(seconds, 0.01)))  # the client's pauses between tries
        yield running


def fetch(**kw) -> hub.Snapshot:
    dtype = kw.pop("dtype", torch.float32)
    repo = kw.pop("repo", REPO)
    return hub.fetch(repo, choose=lambda names: checkpoints.choose_files(names, dtype, None, repo)[1], **kw)


def refused(*words: str, **kw) -> str:
    """The message of the error that loading ends in, which must hold these words."""
    with pytest.raises(CheckpointError) as caught:
        fetch(**kw)
    message = str(caught.value)
    missing = [word for word in words if word not in message]
    assert not missing, f"{missing} not in: {message}"
    assert caught.value.__cause__ is None and caught.value.__context__ is None  # their frames would hold the request
    return message


def broken_files(stand_in) -> list[Path]:
    """Files of the cache that are not, byte for byte, what is served."""
    cache = Path(constants.HF_HUB_CACHE)
    found = [p for p in cache.rglob("*") if p.is_file() and "/snapshots/" in p.as_posix()]
    wrong = [p for p in found if p.read_bytes() != stand_in.content(p.as_posix().split(f"{COMMIT}/")[1])]
    return wrong + list(cache.rglob("*.incomplete"))


def test_only_what_is_needed_is_fetched_and_the_commit_is_recorded(stand_in):
    snapshot = fetch()
    assert snapshot.commit == COMMIT
    got = set(stand_in.downloads())
    assert WEIGHTS in got and "README.md" in got and "scheduler/scheduler_config.json" in got
    assert not [n for n in got if "fp16" in n or n.endswith(".py") or n == "svd_xt_1_1.safetensors"]

    half = fetch(dtype=torch.float16)
    assert (half.folder / "unet/diffusion_pytorch_model.fp16.safetensors").exists()
    assert len(stand_in.downloads()) == len(got) + 3  # what was there is not fetched again
    assert broken_files(stand_in) == []


def test_gated_without_a_token(stand_in):
    stand_in.gated = True
    refused("gated", "no token was sent", f"{stand_in.endpoint}{PAGE}", "hf auth login", "HF_TOKEN")
    assert not any("/resolve/" in path and method == "GET" for method, path, _ in stand_in.requests)
    assert broken_files(stand_in) == []


def test_gated_and_the_licence_not_accepted(stand_in):
    stand_in.gated, stand_in.tokens = True, {TOKEN: "plain"}
    message = refused("gated", "has not been given access (403)", f"{stand_in.endpoint}{PAGE}", "accept", token=TOKEN)
    assert TOKEN not in message
    stand_in.tokens = {TOKEN: "accepted"}  # the licence was accepted: the same call works
    assert fetch(token=TOKEN).commit == COMMIT


def test_a_token_that_may_not_read_gated_repositories(stand_in):
    stand_in.gated, stand_in.tokens = True, {TOKEN: "fine-grained"}
    refused("may not read gated repositories (403", "settings/tokens", "tick", token=TOKEN)


def test_a_token_that_the_hub_does_not_know(stand_in):
    message = refused("does not know the token", "401", "settings/tokens", "hf auth login", token=TOKEN)
    assert TOKEN not in message


def test_an_unknown_repository_looks_different_to_strangers(stand_in):
    refused("anonymous callers (401)", "does not exist, or it is private", "someone/nothing", repo="someone/nothing")
    stand_in.tokens = {TOKEN: "plain"}
    refused("has no someone/nothing", "404", "Check the name", repo="someone/nothing", token=TOKEN)


def test_an_unknown_revision(stand_in):
    refused("no revision 'v9'", f"{stand_in.endpoint}{PAGE}/commits/main", "leave revision out", revision="v9")


def test_a_revision_is_pinned(stand_in):
    assert fetch(revision=COMMIT).commit == COMMIT
    stand_in.requests.clear()
    assert fetch(revision=COMMIT, local_files_only=True).commit == COMMIT
    assert stand_in.requests == []


@pytest.mark.parametrize("status", [500, 503])
def test_a_hub_that_fails(stand_in, status):
    stand_in.fail = status
    refused("the hub failed", f"({status})", "Try again later")
    stand_in.fail = 0
    fetch()
    stand_in.fail = status
    with pytest.warns(hub.StaleCheckpointWarning, match=COMMIT):  # what is whole in the cache serves meanwhile
        assert fetch().commit == COMMIT


def test_a_hub_that_fails_in_the_middle_of_the_files(stand_in):
    stand_in.fail_files = 502
    refused("the hub failed", "(502)")
    assert broken_files(stand_in) == []


def test_nobody_there(stand_in, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    refused("could not be downloaded from http://127.0.0.1:9", "the connection failed", "HTTPS_PROXY")


def test_a_download_that_is_cut_off_goes_on_where_it_stopped(stand_in, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)  # 10 MB, and what is less of a chunk is asked for again
    stand_in.cut = {WEIGHTS: [30_000, 10_000]}
    fetch()
    ranges = [r for method, path, r in stand_in.requests if method == "GET" and path.endswith(WEIGHTS)]
    assert ranges == ["", "bytes=30000-", "bytes=40000-"]
    assert broken_files(stand_in) == []


def test_a_download_that_never_comes_whole_leaves_nothing_broken(stand_in):
    stand_in.cut = {WEIGHTS: [0] * 20}
    refused("the connection failed", "Load again to go on", "files that came whole are kept")
    assert broken_files(stand_in) == []
    assert not list(Path(constants.HF_HUB_CACHE).rglob(WEIGHTS))
    stand_in.cut = {}
    before = stand_in.downloads()
    fetch()
    again = stand_in.downloads()[len(before) :]
    assert WEIGHTS in again and "vae/diffusion_pytorch_model.safetensors" not in again


def test_a_file_that_is_shorter_than_announced(stand_in):
    stand_in.short = {WEIGHTS}
    refused("wrong size", "thrown away", "Load again")
    assert broken_files(stand_in) == []


def test_a_wrong_checksum_is_found_on_request_and_the_file_removed(stand_in):
    stand_in.damaged = {WEIGHTS}
    snapshot = fetch()  # sizes fit, so the client takes it
    with pytest.raises(CheckpointError, match=r"unet/diffusion_pytorch_model\.safetensors.*checksum differs.*load .* again"):
        checkpoints.verify("SVD_1_1")
    assert not (snapshot.folder / WEIGHTS).exists()
    stand_in.damaged = set()
    fetch()
    assert broken_files(stand_in) == []
    assert checkpoints.verify("SVD_1_1") >= 10


def test_cache_only(stand_in):
    refused("not in the cache", "local_files_only=True", "network access", local_files_only=True)
    assert stand_in.requests == []
    snapshot = fetch()
    stand_in.requests.clear()
    assert fetch(local_files_only=True) == snapshot
    (snapshot.folder / WEIGHTS).unlink()
    refused("incomplete in the cache", "no weights for its unet", local_files_only=True)
    assert stand_in.requests == []


def test_the_offline_switch_is_named(stand_in, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    refused("not in the cache", "HF_HUB_OFFLINE")
    assert stand_in.requests == []


def test_pickled_weights_are_refused_before_anything_is_downloaded(stand_in, tmp_path):
    stand_in.folder = tmp_path / "pickled"
    (stand_in.folder / "unet").mkdir(parents=True)
    (stand_in.folder / "model_index.json").write_text("{}")
    (stand_in.folder / "unet/diffusion_pytorch_model.bin").write_bytes(b"cos\nsystem\n")
    refused("only as unet/diffusion_pytorch_model.bin", "pickle", "runs whatever code", "safetensors/convert")
    assert stand_in.downloads() == []


def test_the_account_and_the_licence_are_asked_for_without_a_download(stand_in):
    stand_in.gated, stand_in.tokens = True, {TOKEN: "accepted"}
    assert hub.account(TOKEN) == (True, "logged in as researcher")
    assert hub.access(REPO, TOKEN)[0]
    assert not hub.account()[0] and "no token" in hub.account()[1]
    allowed, why = hub.access(REPO)
    assert not allowed and "no token was sent" in why
    assert stand_in.downloads() == []


# --- the token --------------------------------------------------------------------------------------------------------


def test_a_token_is_nowhere_in_what_a_user_may_paste(stand_in, capfd):
    """Message, traceback with every frame's variables, repr of the objects, what was printed."""
    stand_in.gated, stand_in.tokens = True, {TOKEN: "plain"}
    try:
        checkpoints.load_pipeline(REPO, token=TOKEN)
    except CheckpointError as error:
        shown = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
        own = shown[shown.index("svdlab/checkpoints.py") :]  # the frames above are this test's, which knows the token
        assert "has not been given access" in own
        assert TOKEN not in own
        assert TOKEN not in repr(error) + str(error.args)
    printed = capfd.readouterr()
    assert TOKEN not in printed.out + printed.err
    assert repr(hub.Secret(TOKEN)) == "'***'"


def test_tokens_are_taken_out_of_what_others_say(stand_in, monkeypatch):
    assert hub.scrub(f"sent {TOKEN} in vain", TOKEN) == "sent *** in vain"
    assert "secret" not in hub.scrub("Authorization: Bearer secret-of-another-kind")
    monkeypatch.setenv("HF_TOKEN", "a token of no known form")
    assert hub.scrub("it was: a token of no known form") == "it was: ***"


# --- the whole way ----------------------------------------------------------------------------------------------------

SCRIPT = """
import json, sys
from dataclasses import asdict
import svdlab
pipe = svdlab.load_pipeline({repo!r}, token={token!r})
clip = svdlab.generate(pipe, "scene-3", num_inference_steps=1)
print(json.dumps(dict(source=asdict(pipe.source), call=clip.call(), frames=clip.frames.shape)))
"""


def test_from_the_hub_to_a_clip_in_a_process_of_its_own(stand_in, checkpoint, tmp_path):
    """HF_ENDPOINT, an empty cache, a token: as a user has it. The stand-in is all the network there is."""
    stand_in.folder, stand_in.gated, stand_in.tokens = checkpoint, True, {TOKEN: "accepted"}
    code = SCRIPT.format(repo=REPO, token=TOKEN)
    environment = {**os.environ, "HF_ENDPOINT": stand_in.endpoint, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
    root = str(Path(__file__).parents[2])
    environment["PYTHONPATH"] = root
    environment.pop("HF_HUB_CACHE", None)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["frames"] == [8, 64, 64, 3]
    source = said["source"]
    assert (source["checkpoint"], source["revision"]) == (REPO, COMMIT)
    assert source["weights_hash"] == checkpoints.hash_weights(checkpoint)  # the same as a copy's, by other means
    assert "Non-Commercial Research Community License" in source["licence"]
    assert done.stderr.count("stability.ai/use-policy") == 1
    assert TOKEN not in done.stdout + done.stderr
    assert load_file(checkpoint / WEIGHTS).keys()
