"""The doctor says what is there and what is missing; the acceptance run passes what is sound, and only that."""

from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from svdlab.pipeline import doctor
from svdlab.pipeline.conditions import REPOSITORIES
from tests.stand_in_hub import Hub, connect, serve

TOKEN = "hf_AbCdEfGhIjKlMnOpQrStUvWxYz012345"


def test_a_healthy_machine_and_a_folder_that_is_none(checkpoint: Path, tmp_path: Path) -> None:
    table = doctor.report(str(checkpoint), online=False)
    assert list(table["check"]) == ["packages", "device", "memory", "disk", "ffmpeg", "checkpoint"]
    assert set(table["status"]) <= {"ok", "warning"}
    assert (table["advice"] != "").tolist() == (table["status"] != "ok").tolist()
    assert "no model_index.json" in doctor.report(str(tmp_path), online=False).iloc[-1]["advice"]


def test_missing_packages_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.requires", lambda name: ["torch", "no-such-package>=1", "numpy<1"])
    packages = doctor.report(online=False).iloc[0]
    assert packages.status == "failed" and "no-such-package is not installed" in packages.advice
    assert "numpy is 2" in packages.advice and "should be <1" in packages.advice and "torch is" not in packages.advice


def test_the_hub_the_token_and_the_licence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, checkpoint: Path) -> None:
    with serve(Hub(REPOSITORIES["SVD_1_1"], checkpoint, gated=True, tokens={TOKEN: "plain"})) as hub:
        connect(hub, monkeypatch, tmp_path)
        assert doctor.report().iloc[-1].status == "warning"
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        found = doctor.report("SVD_1_1").iloc[-1]
        assert found.status == "failed" and "accept its licence" in found.advice and TOKEN not in str(found)
        hub.tokens[TOKEN] = "accepted"
        assert doctor.report("SVD_1_1").iloc[-1].status == "ok" and hub.downloads() == []
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody there
    assert doctor.report("SVD_1_1").iloc[-1].status == "failed"


def test_acceptance_passes_a_sound_pipeline_and_no_other(pipe) -> None:
    table = doctor.accept(pipe, "scene-3", num_inference_steps=3, num_frames=4)
    assert (table["status"] == "ok").all() and len(table) == 6
    assert table.loc[:2, "deviation"].max() == 0.0 and (table["allowed"] < 1).all()
    # A UNet that adds noise of its own cannot be traced, branched or batched.
    hook = pipe.unet.register_forward_hook(lambda module, args, out: (out[0] + 0.1 * torch.randn_like(out[0]),))
    table = doctor.accept(pipe, "scene-3", num_inference_steps=3, num_frames=4)
    hook.remove()
    assert (table.loc[:4, "status"] == "failed").all()


def test_the_doctor_fits_one_screen_and_details_say_what_to_do() -> None:
    table = doctor.report("no/such-checkpoint", online=False)
    lines, more = doctor.screen(table), doctor.screen(table, details=True)
    assert len(lines) == len(table) + 1 <= 24 and all(len(line) <= 80 for line in lines + more)
    assert "--details" in lines[-1] and more[: len(table)] == lines[:-1]
    said = " ".join(" ".join(more).split())
    assert all(advice in said for advice in table["advice"]) and all(found in said for found in table["found"])
