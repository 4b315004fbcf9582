"""What is refused before any model runs: options, images, manifests and measures of probes that are wrong, odd or hostile."""

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from svdlab import __main__ as cli
from svdlab import probes
from svdlab.errors import InputError
from svdlab.pipeline import checkpoints
from svdlab.probes import Graph, Probe, Stimuli, duration, quality, stimuli, text_control
from tests.probes.conftest import FAST
from tests.probes.test_running import Paper, Toy

WRONG = {
    # case D8, by kind: an option that nobody has, and values that are none
    "stillness.rounds": 2,
    "duration.round": 2,
    "duration.rounds": 0,
    "rounds": 1.5,
    "motion_bucket_id": 40,
    "stillness.motion_bucket_id": [],
    "off_conditions.fps": [6, 6],
    "fps": "fast",
    "text_control.scales": ("tenfold",),
    "autoencoder.decode_chunk_size": -1,
    "realism.decode_chunk_size": True,
}


@pytest.mark.parametrize("option", WRONG)
def test_a_wrong_option_stops_all_probes_before_the_first(pipe: Any, tmp_path: Path, option: str) -> None:
    names = ["autoencoder", "duration", "realism", "stillness", "text_control", "off_conditions"]
    for function in (probes.run_all, probes.estimate):
        with pytest.raises(InputError, match=option.split(".")[0]):
            function(pipe, tmp_path / "out", names=names, quick=True, **{option: WRONG[option]})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("option", "value"), [("heights", (2.0,)), ("contrasts", (0.9, 0.9)), ("ocr", "yes")])
def test_options_of_signs_are_checked(option: str, value: Any) -> None:
    with pytest.raises(InputError, match=option):
        probes.options_of([probes.find("legibility")], {option: value})


@pytest.mark.parametrize("share", [0, 1.5, math.nan, "40 %"])
def test_the_share_of_a_face_is_checked(share: Any) -> None:
    assert probes.options_of([probes.find("faces")], {"share": None}) == {"faces": {"share": None}}
    with pytest.raises(InputError, match="share"):
        probes.options_of([probes.find("faces")], {"share": share})


def test_options_of_a_probe_of_ones_own_are_of_their_defaults_kind() -> None:
    for value in (2.5, "3", None, True):
        with pytest.raises(InputError, match="depth"):
            probes.options_of([Toy()], {"toy.depth": value})


TWICE = ["-p", "rounds", "2", "-p", "duration.rounds", "3"]


@pytest.mark.parametrize(
    "words", [["-p", "no_such", "2"], ["-p", "duration.rounds", "0"], ["-p", "rounds", "[1, 2"], ["-p", ".rounds", "2"], TWICE]
)
def test_the_command_stops_at_a_wrong_option(words: list[str], capsys: Any, monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checkpoints, "load_pipeline", lambda *args, **kwargs: pytest.fail("the model was loaded"))
    with pytest.raises(SystemExit) as stop:
        cli.main(["probe", "all", *words])
    assert stop.value.code in (1, 2)
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "odd",
    [dict(seeds=True), dict(seeds=10**30), dict(seeds=[0, 0]), dict(seeds=[1.5]), dict(quick="yes"), dict(progress=1),
     dict(conditions=["fps"]), dict(conditions={"fbs": 7}), dict(conditions={"fps": -7}), dict(images=3), dict(images={}),
     dict(images="a\0b"), dict(images=[]), dict(names=[]), dict(names="stillness"), dict(names=[Paper, Paper]),
     dict(names=[dict])],
)  # fmt: skip
def test_what_no_probe_could_use_is_refused_at_once(pipe: Any, tmp_path: Path, odd: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        probes.run_all(pipe, tmp_path / "out", **{"names": [Paper], "progress": False, **odd})
    assert not (tmp_path / "out").exists()


class Overwriting(Toy):
    """Case D3 in a probe: its measure gives a column that every run has."""

    name = "overwriting"
    n_images = 1
    column = "status"

    def measures(self, study: Any) -> tuple[Any, ...]:
        return ({"status": status, "stimulus": stimulus, "fps": fps}[self.column],)


def status(clip: Any) -> dict[str, float]:
    return {"status": 1.0}


def stimulus(clip: Any) -> dict[str, float]:
    return {"stimulus": 1.0}


def fps(clip: Any) -> dict[str, float]:
    return {"fps": 1.0}


@pytest.mark.parametrize("column", ["status", "stimulus", "fps"])
def test_a_measure_cannot_take_the_name_of_a_column(pipe: Any, tmp_path: Path, column: str) -> None:
    probe: Probe = Overwriting()
    probe.column = column  # type: ignore[attr-defined]
    with pytest.raises(InputError, match=column):
        probes.run(probe, pipe, tmp_path, seeds=1, conditions=FAST, progress=False)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (dict(name=""), "name"),
        (dict(name="../elsewhere"), "plain name"),
        (dict(name=".."), "plain name"),
        (dict(audit=Probe.audit), "has no audit"),
        (dict(findings=Probe.findings), "has no findings"),
        (dict(axes={"motion_bucket_id": 40}), "motion_bucket_id=40: give a list"),
        (dict(audit=lambda self, study: [True]), "audit=True: give a Check"),
        (dict(measure=lambda self, study: None), "measure=None: give a DataFrame"),
        (dict(examples=lambda self, study, clips: None), "examples=None: give a list"),
    ],
)
def test_a_probe_that_is_not_written_as_the_docs_say_is_named(
    pipe: Any, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        probes.run(type("Odd", (Paper,), changes), pipe, tmp_path / "out", progress=False)
    assert not list(tmp_path.glob("*.csv")) and not (tmp_path / "elsewhere").exists()


def test_a_graph_over_a_column_that_is_none_is_named() -> None:
    with pytest.raises(InputError, match="'bucket', which is no column"):
        Graph("Speed", "bucket", "speed").points(pd.DataFrame({"stimulus": [0], "speed": [1.0]}))


# --- manifests of images ----------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "set").mkdir()
    for name in ("set/a.png", "set/b.png", "secret.png"):
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(tmp_path / name)
    return tmp_path / "set"


TOOLS = ["path;name\na.png;one\nb.png;two\n", "path\tname\na.png\tone\nb.png\ttwo\n"]


@pytest.mark.parametrize("text", [*TOOLS, "\ufeffpath,name\na.png,one\nb.png,two\n"])
def test_a_manifest_of_another_tool_is_read(folder: Path, text: str) -> None:
    (folder / "m.CSV").write_text(text, encoding="utf-8")
    assert Stimuli.of(folder / "m.CSV").names == ["one", "two"]


def test_a_manifest_without_all_names_has_the_files(folder: Path) -> None:
    (folder / "m.csv").write_text("path,name,licence\na.png,007,\nb.png,,CC0\n")
    found = Stimuli.of(folder / "m.csv")
    assert found.names == ["007", "b"] and found.table["licence"].tolist() == ["not stated", "CC0"]


def test_columns_of_a_manifest_that_a_probe_uses_too_are_its_own(
    pipe: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Known of each image, they stand beside every clip: `content`, `kind`, `broken` and `change` ended in raw errors."""
    (folder / "m.csv").write_text("path,content\na.png,portrait\nb.png,portrait\n")
    monkeypatch.setattr(quality, "_stills", lambda study: [])
    monkeypatch.setattr(quality, "_gratings", lambda study: [])
    given = Stimuli.of(folder / "m.csv")
    study = probes.prepare("autoencoder", pipe, folder, images=given, conditions=FAST)
    assert study.probe.measure(study)["stimulus"].tolist() == ["a", "b"]
    plain = Stimuli.of(folder)
    probes.prepare("autoencoder", pipe, folder, images=plain, conditions=FAST)
    assert "content" not in plain.table  # the user's own table stays as it was
    frames = np.zeros((2, 16, 16, 3), np.float32)
    row = dict(stimulus="a", seed=0, round=0, **duration.curves(type("Clip", (), {"frames": frames})), broken="no")
    assert duration.against(pd.DataFrame([row]), {"a": frames[0]})["broken"][0] == [True, True]  # black
    clips = pd.DataFrame([dict(stimulus="a", seed=0, kind=kind, change="no") for kind in ("none", "zero")])
    assert text_control.compare(clips, lambda row: frames, {"a": "b"})["change"][1] == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("path\n../secret.png\n", "not below its folder"),
        ("path\n/etc/hostname\n", "not below its folder"),
        ("path\nlink.png\n", "not below its folder"),
        ("path\n\n", "row"),
        ("path,item\na.png,x\n", "'item'"),
        ("path,stimulus\na.png,x\n", "'stimulus'"),
        ("", "no manifest that can be read"),
        ('path\n"a.png\n', "no manifest that can be read"),
        ("file\na.png\n", "no column 'path'"),
    ],
)
def test_a_hostile_manifest_reads_nothing_outside_its_folder(folder: Path, text: str, said: str) -> None:
    (folder / "link.png").symlink_to(folder.parent / "secret.png")
    (folder / "m.csv").write_text(text)
    opened: list[str] = []
    watching = [True]
    sys.addaudithook(lambda event, args: opened.append(str(args[0])) if watching[0] and event == "open" else None)
    try:
        with pytest.raises(InputError, match=said):
            Stimuli.of(folder / "m.csv")
    finally:
        watching[0] = False
    assert not [path for path in opened if path.endswith(("secret.png", "hostname", "link.png"))]


@pytest.mark.parametrize("content", [b"PAR1 no more", b"\xff\xfe\x00"])
def test_a_manifest_that_is_none_is_named(folder: Path, content: bytes) -> None:
    for name in ("m.parquet", "m.csv"):
        (folder / name).write_bytes(content)
        with pytest.raises(InputError, match=name):
            Stimuli.of(folder / name)


def test_stimuli_refuse_what_they_do_not_have(folder: Path) -> None:
    found = Stimuli.of(folder)
    with pytest.raises(InputError, match="none of the images"):
        found.array("c")
    with pytest.raises(InputError, match="truth values"):
        found.where([True])
    with pytest.raises(InputError, match="n=0"):
        Stimuli.of(folder, n=0)
    for wrong in (dict(px=math.nan), dict(px=1e30), dict(px=1.0, frames=0)):  # scipy crashes the interpreter at such shifts
        with pytest.raises(InputError):
            stimuli.panned(found.array("a"), **wrong)


# --- cards ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("results", [{}, [], {"stillness": "done"}, {"stillness": None}])
def test_a_card_is_made_of_results(tmp_path: Path, results: Any) -> None:
    with pytest.raises(InputError):
        probes.card.write(results, tmp_path / "card")
    assert not (tmp_path / "card").exists()


def test_tables_hold_no_formulas(pipe: Any, tmp_path: Path) -> None:
    picture = Image.fromarray(np.full((64, 64, 3), 99, np.uint8))
    (tmp_path / "images").mkdir()
    picture.save(tmp_path / "images" / "a.png")
    (tmp_path / "images" / "m.csv").write_text("path,name,source\na.png,\"=cmd|' /C calc'!A0\",@SUM(1)\n")
    probes.run(Paper, pipe, tmp_path / "out", images=tmp_path / "images" / "m.csv", progress=False)
    for file in (tmp_path / "out" / "paper").glob("*.csv"):
        cells = pd.read_csv(file, dtype=str, keep_default_na=False).to_numpy().ravel()
        assert not [cell for cell in cells if cell.startswith(("=", "@"))]
