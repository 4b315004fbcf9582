"""The script for a GPU runs to its end where there is none, on the organism, and writes down every section."""

import json
from pathlib import Path

import pytest
import torch

from tools import gpu_check

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::svdlab.pipeline.images.CropWarning")]


def test_a_dry_run_writes_every_section(tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    assert gpu_check.main([str(out), "--small"]) == 0
    found = json.loads(out.read_text())
    assert list(gpu_check.SECTIONS) == [name for name in found if name in gpu_check.SECTIONS]
    assert not [name for name, section in found.items() if isinstance(section, dict) and "error" in section]
    assert found["promises"]["torch.float32"] == {"branch": 0.0, "batch": pytest.approx(0, abs=1e-3)}
    assert found["memory_modes"]["apart"] < 1e-4 and found["against_stock"]["levels_apart"] <= 1


def test_full_size_without_a_gpu_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        gpu_check.main([str(tmp_path / "found.json")])
    assert not list(tmp_path.iterdir())
