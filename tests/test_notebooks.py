"""Every notebook: its parameters are what papermill sees, its cells are short, and it runs from a clean start."""

import ast
import sys
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import nbformat
import pandas as pd
import papermill
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from svdlab.errors import InputError

FOLDER = Path(__file__).parents[1] / "notebooks"
ALL = sorted(FOLDER.glob("*.ipynb"))
LONGEST_CELL = 8  # lines
TOUR, SLOW = "00-tour", pytest.mark.slow

# What makes a notebook small enough for the tests. One that is not here runs as it is.
SMALL: dict[str, dict[str, Any]] = {
    "00-tour": dict(num_inference_steps=4, sweep_steps=2, sweep_fps=[6, 12], sweep_motion_bucket_id=[30, 120], seeds=[0, 1]),
    "01-conditioning-sweep": dict(num_inference_steps=3, fps=[6, 12], motion_bucket_id=[30, 120], seeds=[0, 1]),
    "02-denoising-trace": dict(num_inference_steps=3, seeds=[0, 1]),
    "03-motion": dict(num_inference_steps=3, images=["scene-27", "scene-40"]),
    "04-limitations": dict(images="scene-27"),
    "05-bias": dict(pairs=2, num_inference_steps=2, measures=["object_px", "pan_px"]),
    "08-image-leakage": dict(count=2, sigmas=[700.0, 6.0], starts=[700.0, 6.0], num_inference_steps=2),
    "09-initial-noise": dict(scenes=[15, 39, 40, 41], seeds=[0, 1], cutoffs=[0.5]),
    "10-bias-truth": dict(pairs=2, num_inference_steps=2),
    "06-interventions": dict(num_inference_steps=2, seeds=[0]),
    "07-compare-checkpoints": dict(
        num_inference_steps=2,
        fps=[7],
        seeds=[0],
        images=["scene-26", "scene-27", "scene-31", "scene-38", "scene-60", "scene-67"],
    ),
}
# What it must leave in its folder.
LEAVES = {
    "00-tour": [
        *("sweep.png", "dose-response.png", "denoising.png", "photograph.png", "flow.png"),
        *("announced.png", "announced.mp4", "photograph.mp4", "sweep.mp4", "results.parquet"),
    ],
    "02-denoising-trace": [
        *("denoised.png", "latents.png", "guidance-pressure.png", "first-frame.png", "lock-in.png"),
        *("attention.png", "steps.png"),
        "trace.safetensors",
    ],
    "03-motion": [
        *("trajectories.png", "stepwise.png", "xt-slice.png", "camera-path.png", "dose-response.png"),
        *("results.parquet", "variance.csv", "calibration.csv", "real-clips.csv"),
    ],
    "04-limitations": ["stillness.png", "limitations.md", "limitations.html", "limitations.json"],
    "05-bias": ["pairs.png", "forest.png", "slopes.png", "worst-pairs.mp4", "comparisons.csv"],
    "08-image-leakage": [
        *("clips.png", "estimates.png", "motion.png", "leak.png", "verdicts.png", "later-starts.png", "one-step.csv"),
    ],
    "09-initial-noise": ["screening.png", "cutoffs.png", "hybrids.png", "answer.png", "reported.csv"],
    "10-bias-truth": ["forest.png", "symmetry.png"],
    "06-interventions": ["branch-and-swap.png", "branch-and-swap-speed.png", "ablation.png", "embedding-or-latents.png"],
    "07-compare-checkpoints": ["sheet-organism.png", "sheet-organism-fixed.png", "speed.png", "spread.png", "conclusion.png"],
    "01-conditioning-sweep": ["sheet-guided.png", "motion-bucket.png", "ratio.png", "failures.png", "results.parquet"],
}


@pytest.fixture(params=ALL, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    return request.param


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def parameters_cell(path: Path) -> Any:
    (cell,) = (c for c in code_cells(nbformat.read(path, 4)) if "parameters" in c.metadata.get("tags", ()))
    return cell


def test_every_notebook_has_its_small_parameters_and_results_listed() -> None:
    assert SMALL.keys() == LEAVES.keys() == {p.stem for p in ALL}


def test_papermill_sees_the_cells_own_assignments(path: Path) -> None:
    cell = parameters_cell(path)
    assigned: dict[str, Any] = {}
    exec(cell.source, assigned)  # the notebook's own literals
    declared = {
        node.target.id: ast.unparse(node.annotation) for node in ast.parse(cell.source).body if isinstance(node, ast.AnnAssign)
    }
    seen = papermill.inspect_notebook(str(path))

    assert {name: facts["inferred_type_name"] for name, facts in seen.items()} == declared
    assert {name: ast.literal_eval(facts["default"]) for name, facts in seen.items()} == {
        name: assigned[name] for name in declared
    }
    assert len(declared) == len([line for line in cell.source.splitlines() if line.strip()])  # nothing else is in there
    for name, facts in seen.items():
        assert isinstance(
            assigned[name], {"int": int, "float": float, "str": str, "bool": bool, "list": list}[declared[name]]
        ), name
        assert facts["help"], f"{name} has no comment"
    assert declared["out"] == "str" and assigned["out"] == f"../results/{path.stem}"


def test_cells_are_short_and_define_nothing(path: Path) -> None:
    notebook = nbformat.read(path, 4)
    assert notebook.metadata.kernelspec.language == "python"
    for cell in code_cells(notebook):
        assert not cell.outputs and cell.execution_count is None
        kinds = {type(node) for node in ast.walk(ast.parse(cell.source))}
        assert not kinds & {ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef}, cell.source
        if "parameters" not in cell.metadata.get("tags", ()):
            assert len(cell.source.splitlines()) <= LONGEST_CELL, cell.source


def run_in_this_process(path: Path, folder: Path, **parameters: Any) -> list[dict[str, Any]]:
    """Run a notebook's cells in a fresh IPython shell here, which saves a kernel's start; returns each display's data."""
    shown: list[dict[str, Any]] = []
    main = sys.modules["__main__"]  # the shell puts its own in this place, which no process can be started from
    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance(colors="nocolor")
    try:
        for cell in code_cells(parameterize_notebook(load_notebook_node(str(path)), {"out": str(folder), **parameters})):
            with shell.display_trap, capture_output() as captured:  # so that the cell's own trap leaves the capture
                result = shell.run_cell(cell.source)
            result.raise_error()
            shown += [output.data for output in captured.outputs]
    finally:
        shell.reset()
        InteractiveShell.clear_instance()
        sys.modules["__main__"] = main
    return shown


def check_results(path: Path, out: Path) -> None:
    missing = [name for name in LEAVES.get(path.stem, ()) if not (out / name).stat().st_size]
    assert missing == []
    for video in out.glob("*.mp4"):
        facts = next(imageio_ffmpeg.read_frames(video))
        assert facts["codec"] == "h264" and facts["pix_fmt"].startswith("yuv420p"), video
    for table in out.glob("results.parquet"):
        rows = pd.read_parquet(table)
        assert len(rows) and (rows.status == "done").all() and rows.label.eq("model organism, not SVD").all()


# The tour goes through most of the package: it guards each change, the others run in make test-slow.
@pytest.mark.parametrize("path", [pytest.param(p, marks=() if p.stem == TOUR else SLOW, id=p.stem) for p in ALL])
def test_it_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    shown = run_in_this_process(path, tmp_path / "out", **SMALL.get(path.stem, {}))
    assert [data for data in shown if "image/png" in data]
    check_results(path, tmp_path / "out")


def test_images_on_which_no_seeds_disagree_are_refused_plainly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FOLDER)
    few = dict(num_inference_steps=1, scenes=[15], seeds=[0, 1], cutoffs=[0.5])
    with pytest.raises(InputError, match="Seeds disagree on 0 of 1 images"):
        run_in_this_process(FOLDER / "09-initial-noise.ipynb", tmp_path / "out", **few)


def test_one_step_is_no_step_from_which_a_change_is_lost(tmp_path: Path) -> None:
    """Where no share is below one half, idxmax names the first step."""
    (answer,) = (c.source for c in nbformat.read(FOLDER / "06-interventions.ipynb", 4).cells if "idxmax" in c.source)
    share, line = pd.DataFrame({0: [1.0, 1.0], 1: [0.9, 0.2]}, index=["kept", "lost"]), answer.splitlines()[0]
    exec(line, found := {"share": share})
    assert found["lost"].to_dict() == {"kept": "none", "lost": 1}
