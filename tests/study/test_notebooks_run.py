"""Notebooks by papermill: parameters checked first, one folder for each point, a failing point costs only itself."""

import ast
import enum
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import papermill
import pytest
import torch
from nbformat import v4

from svdlab import probes
from svdlab.errors import InputError, RunError
from svdlab.probes import bias
from svdlab.study import notebooks, parameters

PARAMETERS = """fps: int = 7  # frames per second
strength: float = 0.02  # noise
name: str = "cat"
out: str = "nowhere"
"""
WORK = """from pathlib import Path
assert fps != 13, "unlucky"
Path(out).mkdir(parents=True, exist_ok=True)
runs = Path(out, "count.txt")
runs.write_text(runs.read_text() + "x" if runs.exists() else "x")
Path(out, "result.txt").write_text(f"{fps} {strength} {name}")"""


@pytest.fixture
def notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    cells = [
        v4.new_markdown_cell("# A question"),
        v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
        v4.new_code_cell(WORK),
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    (tmp_path / "notebooks").mkdir()
    path = tmp_path / "notebooks" / "05-question.ipynb"
    nbformat.write(v4.new_notebook(cells=cells, metadata=kernel), path)
    monkeypatch.chdir(tmp_path)
    return path


def test_a_notebook_runs_by_its_name_with_parameters(notebook: Path) -> None:
    done = notebooks.run("05-question", fps=9, progress=False)
    assert done == Path("results/05-question/05-question.ipynb") and done.is_file()
    assert Path("results/05-question/result.txt").read_text() == "9 0.02 cat"


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"motion": 1}, r"no parameter 'motion': it has fps \(int\), strength \(float\), name \(str\), out \(str\)"),
        ({"fps": "7"}, "fps='7' is a str, and it declares int"),
        ({"fps": True}, "declares int"),
        ({"name": 3}, "declares str"),
    ],
)
def test_wrong_parameters_are_refused_before_anything_runs(notebook: Path, parameters: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        notebooks.run(notebook, **parameters)
    with pytest.raises(InputError, match=said):
        notebooks.run_grid(notebook, {"fps": [1, 2], **{k: [v] for k, v in parameters.items()}})
    assert not Path("results").exists()


def test_values_reach_a_notebook_in_forms_that_it_can_hold(notebook: Path) -> None:
    book = nbformat.read(notebook, 4)
    book.cells[1].source = "values: list = [0]\nfps: int = 7"
    nbformat.write(book, notebook)
    for given, held in [((6, 12), [6, 12]), (range(2), [0, 1]), (np.array([1.5]), [1.5]), (0, [0]), ([Path("a")], ["a"])]:
        assert notebooks.check_parameters(notebook, {"values": given}) == {"values": held}
    assert notebooks.check_parameters(notebook, {"fps": np.int64(7)}) == {"fps": 7}
    for odd in (date(2024, 1, 31), {6, 12}, print, None, {"a": 1}, ["a\0b"], ["\ud800"], np.datetime64("2024-01-31")):
        with pytest.raises(InputError, match="values"):
            notebooks.check_parameters(notebook, {"values": odd})


class Level(enum.IntEnum):
    LOW = 3


class Word(enum.StrEnum):
    CAT = "cat"


@pytest.mark.parametrize(
    ("declared", "given", "held"),
    [
        ("list", torch.tensor([6, 12]), [6, 12]),
        ("list", pd.Index([6, 12]), [6, 12]),
        ("list[int]", 6, [6]),  # a type with its own parts is that type
        ("list[int]", np.array(6), [6]),
        ("tuple", (1, 2), [1, 2]),
        ("int", Level.LOW, 3),
        ("str", Word.CAT, "cat"),
        ("float", np.float32(1.5), 1.5),
        ("list[int]", None, "declares list"),
        ("dict", [1], "declares dict"),
        ("float", 10**400, "finite number"),
        ("list", [10**400], "finite number"),
    ],
)
def test_neighbours_of_values_in_other_forms(declared: str, given: Any, held: Any) -> None:
    """Case C8 by kind: what a notebook is given is what it declares, as plain Python."""
    if isinstance(held, str) and held != "cat":
        with pytest.raises(InputError, match=held):
            parameters.checked("own", {"value": declared}, {"value": given})
    else:
        found = parameters.checked("own", {"value": declared}, {"value": given})["value"]
        assert found == held and type(found) is type(held)


def test_the_names_that_notebooks_take_are_those_that_there_are() -> None:
    assert set(parameters.PROBES) == {*probes.PROBES} and set(parameters.COMPARED) == {*bias.MEASURES}


OUT_OF_RANGE = {
    "00-tour": dict(fps=0, sweep_fps=[6, 0], sweep_steps=0, sweep_motion_bucket_id=-1, seeds=-1, motion_bucket_id=-1),
    "01-conditioning-sweep": dict(
        fps=["a"],
        max_guidance_scale=[float("nan")],
        num_inference_steps=0,
        seeds=[1.5],
        measure="speed",
        image="no-such.png",
        checkpoint="nowhere",
    ),
    "02-denoising-trace": dict(fps=0, seeds=-1, num_inference_steps=0, agreement=1.5, motion_bucket_id=float("inf")),
    "03-motion": dict(playback_fps=0.0, images=[], motion_bucket_id=[], seeds=[True], fps=10**9),
    "04-limitations": dict(seeds=0, also=None, quick=1, probe="stilness", images="no-such/"),
    "05-bias": dict(
        pairs=0, speed_margin=-0.3, seeds=[2**63], num_inference_steps="many", measures=["still", "speed"], manifest="x.csv"
    ),
    "08-image-leakage": dict(sigmas=[0.0, 1.0], starts=[], weight=1.5, count=0, videos="no-such/"),
    "09-initial-noise": dict(cutoffs=[-1.0], scenes=["x"], pairs_each=0, images=["no-such"], least_px=0.0),
    "10-bias-truth": dict(pairs=0, measures=["speed"], num_inference_steps=0),
    "06-interventions": dict(other_fps=0, other_motion_bucket_id=-1, seeds=[], other_image="no-such"),
    "07-compare-checkpoints": dict(
        fps=[7, "twelve"], motion_bucket_id=[None], num_inference_steps=0, images=["no-such.png"], first="x.ckpt"
    ),
}


@pytest.mark.parametrize(("name", "key"), [(name, key) for name, odd in OUT_OF_RANGE.items() for key in odd])
def test_a_value_out_of_range_is_refused_by_its_name_before_the_notebook_starts(name: str, key: str, tmp_path: Path) -> None:
    source = Path(__file__).parents[2] / "notebooks" / f"{name}.ipynb"
    with pytest.raises(InputError, match=rf"{name}\.ipynb.*{key}"):
        notebooks.run(source, tmp_path / "out", **{key: OUT_OF_RANGE[name][key]})
    assert not (tmp_path / "out").exists()


def test_what_the_notebooks_hold_themselves_is_in_range() -> None:
    for path in (Path(__file__).parents[2] / "notebooks").glob("*.ipynb"):
        held = papermill.inspect_notebook(str(path))
        notebooks.check_parameters(path, {key: ast.literal_eval(facts["default"]) for key, facts in held.items()})


def test_an_unknown_notebook_is_answered_with_those_that_are_there(notebook: Path) -> None:
    with pytest.raises(InputError, match=r"no notebook 'x/06-answer.ipynb'.*05-question"):
        notebooks.run("x/06-answer.ipynb")


def test_a_failing_cell_is_named(notebook: Path) -> None:
    with pytest.raises(RunError, match=r"05-question\.ipynb, In \[3\]: AssertionError: unlucky"):
        notebooks.run(notebook, fps=13, progress=False)
    assert Path("results/05-question/05-question.ipynb").is_file()  # with the cell's traceback in it


def test_a_grid_runs_every_point_and_goes_on(notebook: Path) -> None:
    table = notebooks.run_grid(notebook, {"fps": [12, 13], "name": ["a", "b"]}, jobs=2)
    assert list(zip(table.fps, table["name"], strict=True)) == [(12, "a"), (12, "b"), (13, "a"), (13, "b")]
    assert list(table.status) == ["done", "done", "failed", "failed"]
    assert set(table.error[2:]) == {"AssertionError: unlucky"} and set(table.cell[2:]) == {"In [3]"}
    assert len({Path(p).parent for p in table.notebook}) == 4 and Path("results/05-question-grid/points.csv").is_file()
    assert (Path(table.notebook[1]).parent / "result.txt").read_text() == "12 0.02 b"

    again = notebooks.run_grid(notebook, {"fps": [12, 14], "name": ["a"]})
    assert set(again.status) == {"done"} and again.notebook[0] == table.notebook[0]
    assert (Path(again.notebook[0]).parent / "count.txt").read_text() == "x"  # not run again


def test_an_axis_of_a_grid_may_be_what_holds_several_values() -> None:
    several = dict(a=pd.Series([6, 12]), b=pd.Index([6, 12]), c=np.array([6, 12]), d=torch.tensor([6, 12]), e=(6, 12))
    assert notebooks.read_grid(several) == {key: [6, 12] for key in "abcde"}
    assert notebooks.read_grid({"a": np.array(6), "b": np.int64(6), "c": "cat"}) == {"a": [6], "b": [6], "c": ["cat"]}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("out: ['../../elsewhere']", "folder of its own"),
        ("fps: []", "fps has no values"),
        ("fps: [6, 12, 6]", "fps has a value more than once"),
        ("- fps", "maps parameters"),
        ("!!python/object/apply:os.system ['true']", "cannot be read"),
    ],
)
def test_a_grid_file_that_is_none_is_refused(notebook: Path, tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "grid.yaml").write_text(text)
    with pytest.raises(InputError, match=said):
        notebooks.run_grid(notebook, tmp_path / "grid.yaml")
    with pytest.raises(InputError, match="jobs=None: give a whole number"):
        notebooks.run_grid(notebook, {"fps": [6]}, jobs=None)  # type: ignore[arg-type]
    assert not Path("results").exists()


@pytest.mark.parametrize(
    ("text", "value"), [("1e-3", 0.001), ("-.5E3", -500.0), ("cat", "cat"), ("a1e3", "a1e3"), ("{a: 1}", {"a": 1})]
)
def test_values_of_the_command_line(text: str, value: Any) -> None:
    assert notebooks.read_value(text) == value
    with pytest.raises(InputError, match=r"cannot be read as a value[^\n]*$"):
        notebooks.read_value("[6, 12")


def test_a_value_that_is_a_path_names_no_folder(notebook: Path, tmp_path: Path) -> None:
    table = notebooks.run_grid(notebook, {"name": ["../../../escape"]})
    assert Path(table.notebook[0]).resolve().is_relative_to(tmp_path / "results/05-question-grid")


@pytest.mark.slow
def test_the_sweep_notebook_takes_single_values_from_plain_papermill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As papermill's own users write it: a number where the notebook has a list of them, and an output notebook."""
    source, executed = Path(__file__).parents[2] / "notebooks" / "01-conditioning-sweep.ipynb", tmp_path / "out.ipynb"
    given = dict(fps="6", motion_bucket_id="75", max_guidance_scale="1.0", num_inference_steps="1")
    single = [word for key, value in given.items() for word in ("-p", key, value)]
    where = ["-y", "seeds: [0, 1]", "-p", "out", str(tmp_path / "study"), "--cwd", str(tmp_path)]
    command = [sys.executable, "-m", "papermill", str(source), str(executed), "--no-progress-bar", *single, *where]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    table = pd.read_parquet(tmp_path / "study" / "results.parquet")
    assert table[["fps", "motion_bucket_id", "seed"]].to_numpy().tolist() == [[6, 75, 0], [6, 75, 1]]
    assert (tmp_path / "study" / "motion-bucket.png").is_file() and executed.is_file()
