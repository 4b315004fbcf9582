"""`svdlab probe bias`: faults before a model is loaded, and what a study leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from svdlab import __main__ as cli
from svdlab.pipeline import checkpoints
from svdlab.probes.bias import planted


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as end:
        cli.main(["probe", *words])
    return int(end.value.code or 0)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    planted.world_pairs(folder, hue=2)
    return folder / "manifest.csv"


def test_a_study_of_a_manifest(manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["-p", "num_inference_steps", "2", "-p", "measures", "[object_px, still]", "-p", "margins", "{still: 0.1}"]
    assert run("bias", "--manifest", str(manifest), "--out", str(tmp_path), "--seeds", "1", *words) == 0
    said = capsys.readouterr()
    assert "numbers only" in said.err and "## Departures from the plan\n\nNone." in said.out
    for name in ("plan.json", "report.md", "comparisons.csv", "figures/forest.png", "figures/worst-hue-object_px.mp4"):
        assert (tmp_path / name).is_file()


def test_a_manifest_with_faults_is_answered_before_the_model_is_loaded(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "load_pipeline", lambda *args, **kwargs: pytest.fail("the model was loaded"))
    table = pd.read_csv(manifest, dtype=str, keep_default_na=False)
    table["path"] = [str(manifest.parent / name) for name in table.path]
    table.loc[1, "label_source"] = ""
    table.to_csv(tmp_path / "m.csv", index=False)
    assert run("bias", "--manifest", str(tmp_path / "m.csv")) == 1
    assert "row 1 (" in (said := capsys.readouterr().err) and "label_source is empty" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["stillness", "--manifest", "m.csv"], "belongs to svdlab probe bias"),
        (["bias", "--manifest", "nowhere.csv"], "there is no manifest nowhere.csv"),
        (["bias", "-p", "beauty", "1"], "has no option beauty"),
    ],
)
def test_words_that_do_not_fit_are_refused(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setattr(checkpoints, "load_pipeline", lambda *args, **kwargs: pytest.fail("the model was loaded"))
    assert run(*words) == 1
    assert said in capsys.readouterr().err
