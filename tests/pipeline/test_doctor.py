"""The doctor says what is there and what is missing; the acceptance run passes what is sound, and only that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants

from svdlab.pipeline import doctor
from svdlab.pipeline.checkpoints import load_pipeline
from svdlab.pipeline.conditions import REPOSITORIES
from tests.stand_in_hub import Hub, connect, serve

TOKEN = "hf_AbCdEfGhIjKlMnOpQrStUvWxYz012345"


def rows(*arguments: Any, **given: Any) -> dict[str, Any]:
    return {row.check: row for row in doctor.report(*arguments, **given).itertuples()}


def test_a_healthy_machine(checkpoint: Path) -> None:
    table = doctor.report(str(checkpoint), online=False)
    assert doctor.exit_code(table) == 0
    assert list(table["check"]) == ["Python", "packages", "device", "memory", "disk", "ffmpeg", "checkpoint"]
    assert set(table["status"]) <= {"ok", "warning"}
    assert (table["advice"] != "").tolist() == (table["status"] != "ok").tolist()


def test_what_is_missing_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    table = doctor.report(str(tmp_path), online=False)
    assert doctor.exit_code(table) == 1 and "model_index.json" in table.iloc[-1]["advice"]
    monkeypatch.setattr("importlib.metadata.requires", lambda name: ["torch", "no-such-package>=1", "numpy<1"])
    packages = rows(online=False)["packages"]
    assert packages.status == "failed" and "torch" in packages.found
    assert "no-such-package is not installed; numpy 2" in packages.advice and "is not <1" in packages.advice


def test_the_hub_the_token_and_the_licence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, checkpoint: Path) -> None:
    with serve(Hub(REPOSITORIES["SVD_1_1"], checkpoint, gated=True, tokens={TOKEN: "plain"})) as hub:
        connect(hub, monkeypatch, tmp_path)
        found = rows("SVD_1_1", token=TOKEN)
        assert (found["SVD 1.1"].status, found["checkpoint"].status) == ("warning", "failed")
        assert "no access so far" in found["checkpoint"].advice and TOKEN not in str(found)
        hub.tokens[TOKEN] = "accepted"
        found = rows("SVD_1_1", token=TOKEN)
        assert (found["SVD 1.1"].status, found["checkpoint"].status) == ("ok", "ok")
        assert "none was sent" in rows()["SVD 1.1"].advice
        assert hub.downloads() == []
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody there
    assert rows("SVD_1_1")["SVD 1.1"].status == "warning"


def test_acceptance_passes_a_sound_checkpoint_and_no_other(checkpoint: Path) -> None:
    pipe = load_pipeline(checkpoint)
    table = doctor.accept(pipe, image="scene-3", num_inference_steps=3, num_frames=4)
    assert (table["status"] == "ok").all() and doctor.exit_code(table) == 0 and len(table) == 7
    assert table.loc[:2, "deviation"].max() == 0.0 and (table["allowed"] < 1).all()
    # A UNet that adds noise of its own cannot be traced, branched or batched.
    hook = pipe.unet.register_forward_hook(lambda module, args, out: (out[0] + 0.1 * torch.randn_like(out[0]),))
    table = doctor.accept(pipe, image="scene-3", num_inference_steps=3, num_frames=4)
    hook.remove()
    assert doctor.exit_code(table) == 1 and (table.loc[:4, "status"] == "failed").all()
