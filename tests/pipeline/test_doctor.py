"""The doctor says what is there, what is missing and what fits; the acceptance run passes what is sound, and only that."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from svdlab.pipeline import architecture, checkpoints, doctor
from tests.stand_in_hub import Hub, serve

TOKEN = "hf_AbCdEfGhIjKlMnOpQrStUvWxYz012345"


@pytest.fixture(scope="module")
def tiny(checkpoint):
    return checkpoints.load_pipeline(checkpoint)


def test_a_healthy_machine(checkpoint):
    table = doctor.report(str(checkpoint), online=False)
    assert doctor.exit_code(table) == 0
    rows = table.set_index("check")
    assert set(rows["status"]) <= {"ok", "warning"}
    assert {"Python", "torch", "device", "memory", "disk", "ffmpeg", "checkpoint"} <= set(rows.index)
    assert rows.loc["ffmpeg", "found"].startswith("ffmpeg version")
    assert "offload='model'" in rows.loc["64x64, 8 frames", "found"] and "fused kernels" in rows.loc["estimated for", "found"]
    assert (rows["advice"] != "").tolist() == (rows["status"] != "ok").tolist()


def test_what_is_missing_fails(monkeypatch, tmp_path):
    table = doctor.report(str(tmp_path), online=False, fits=False)
    assert doctor.exit_code(table) == 1
    assert "model_index.json" in table.set_index("check").loc["checkpoint", "advice"]
    monkeypatch.setattr(doctor, "PACKAGES", ("torch", "no-such-package"))
    row = doctor.report(online=False, fits=False).set_index("check").loc["no-such-package"]
    assert (row["status"], row["found"]) == ("failed", "not installed") and "make setup" in row["advice"]


def test_the_versions_it_compares_with_are_those_of_the_lock():
    root = Path(__file__).parents[2]
    pinned = doctor.tried_in_lock((root / "requirements.lock").read_text() + (root / "requirements-torch.lock").read_text())
    same = {re.sub("_", "-", name): version for name, version in doctor.TRIED.items()}
    found = {re.sub("_", "-", name.lower()): version.split("+")[0] for name, version in pinned.items()}
    assert {name: found.get(name) for name in same} == same


def test_hub_token_and_licence(monkeypatch, tmp_path, checkpoint):
    with serve(Hub(checkpoints.NAMES["SVD_1_1"], checkpoint, gated=True, tokens={TOKEN: "plain"})) as hub:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        rows = doctor.report("SVD_1_1", token=TOKEN, fits=False).set_index("check")
        assert (rows.loc["hub", "status"], rows.loc["token", "found"]) == ("ok", "logged in as researcher")
        assert rows.loc["licence of SVD 1.1", "status"] == "warning"
        assert "has not been given access" in rows.loc["checkpoint", "advice"]
        assert TOKEN not in rows.to_string()
        hub.tokens[TOKEN] = "accepted"
        rows = doctor.report("SVD_1_1", token=TOKEN, fits=False).set_index("check")
        assert rows.loc["checkpoint", "status"] == rows.loc["licence of SVD 1.1", "status"] == "ok"
        assert "no token" in doctor.report(fits=False).set_index("check").loc["token", "found"]
        assert hub.downloads() == []
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody there
    rows = doctor.report("SVD_1_1", token=TOKEN, fits=False).set_index("check")
    assert rows.loc["hub", "status"] == "warning" and rows.loc["checkpoint", "status"] == "failed"


def test_acceptance_passes_a_sound_checkpoint(tiny):
    table = doctor.accept(tiny, image="scene-3", num_inference_steps=3, num_frames=4)
    assert table["passed"].all() and doctor.exit_code(table) == 0
    assert table.loc[:2, "deviation"].max() == 0.0
    assert (table["allowed"] < 1).all() and len(table) == 7


def test_acceptance_fails_what_is_not(checkpoint):
    """A UNet that adds noise of its own cannot be traced, branched or batched."""
    pipe = checkpoints.load_pipeline(checkpoint)
    pipe.unet.register_forward_hook(lambda module, args, output: (output[0] + 0.1 * torch.randn_like(output[0]),))
    table = doctor.accept(pipe, image="scene-3", num_inference_steps=3, num_frames=4)
    assert doctor.exit_code(table) == 1
    assert not table.loc[:4, "passed"].any()


def test_what_fits_is_a_table_with_its_assumptions(tiny):
    table = doctor.memory_table(tiny, sizes=((64, 64),), num_frames=(4, 8), chunks=(None, 2))
    assert len(table) == 4 and list(table.columns[-3:]) == ["none", "model", "sequential"]
    assert "not measured on a GPU" in " ".join(table.attrs["assumptions"])


def test_the_full_size_needs_what_its_weights_and_more_need():
    full = architecture.build("SVD_XT")
    need = doctor.estimate(full, dtype=torch.float16, decode_chunk_size=2)
    assert sum(need.weights.values()) == 2 * (1_524_623_082 + 97_742_847 + 632_076_800)
    assert 4.5e9 < need.total("model") < need.total(None) < 24e9
