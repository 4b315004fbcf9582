"""The command: quick to answer, one line for an error, nothing that is not the package's own doing."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import nbformat
import pytest
import typer
from typer.testing import CliRunner

from svdlab import load_results, sample_image
from svdlab.__main__ import app, main
from svdlab.errors import InputError
from svdlab.probes import bias
from svdlab.probes.bias import planted

ROOT = Path(__file__).parents[1]

COMMANDS = {"demo", "notebook", "notebooks", "sweep", "measure", "doctor", "probe", "report", "convert"}
INTERVAL = {"guidance_interval": (0.1, 10.0)}
COMMANDS |= {"ledger check", "ledger export", "organism verify", "motion calibrate"}


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout, stderr of the command in this process."""
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    said = capsys.readouterr()
    return int(stop.value.code or 0), said.out, said.err


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """A notebook that writes down what it was given."""
    parameters = "fps: int = 7\nname: str = 'cat'\nvalues: list = [1]\nshift: float = 0.5\nout: str = '.'"
    write = "import json, pathlib\npathlib.Path(out, 'got.json').write_text(json.dumps([fps, name, values, shift]))"
    cells = [nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}), nbformat.v4.new_code_cell(write)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    path = tmp_path / "toy.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)
    (tmp_path / "grid.yaml").write_text("fps: [6, 12]\n")
    return path


def test_the_commands_are_all_there_and_help_shows_an_example() -> None:
    root = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    inner = {name: getattr(command, "commands", {"": None}) for name, command in root.items()}
    assert {f"{name} {sub}".strip() for name, subs in inner.items() for sub in subs} == COMMANDS
    for words in COMMANDS:
        shown = CliRunner().invoke(app, [*words.split(), "--help"])
        assert shown.exit_code == 0 and f"Example: svdlab {words}" in shown.output, words


def test_help_needs_no_torch() -> None:
    heavy = {"torch", "diffusers", "transformers", "cv2", "scipy", "pandas", "numpy", "matplotlib", "papermill"}
    code = "import sys, svdlab.__main__; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert heavy & set(done.stdout.split()) == set()


def test_the_module_is_the_command(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "svdlab", "--help"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and "svdlab demo" in done.stdout
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"svdlab": "svdlab.__main__:main"}


def test_a_notebooks_parameters_arrive_in_their_own_types(toy: Path, tmp_path: Path, capsys: Any) -> None:
    given = ["-p", "fps", "12", "-p", "name", "007", "-p", "values", "[3, 4]", "--parameter", "shift", "-1.5"]
    code, out, _ = run(capsys, "notebook", toy, *given, "--out", tmp_path / "done")
    assert code == 0 and str(tmp_path / "done" / "toy.ipynb") in out
    assert json.loads((tmp_path / "done" / "got.json").read_text()) == [12, "007", [3, 4], -1.5]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["-p", "fsp", "12"], ["no parameter 'fsp'", "fps (int)", "values (list)"]),
        (["-p", "fps", "often"], ["-p fps often", "declares int"]),
        (["-p", "fps"], ["two words"]),
        (["-p", "fps", "6", "-p", "fps", "7"], ["fps is given twice"]),
        (["-p", "\x1b[31m", "7"], ["no parameter"]),
        (["-p", "out", "elsewhere"], ["as --out"]),
        (["--jobs", "2"], ["--jobs is for --grid"]),
        (["-p", "fps", "[6, 12"], ["cannot be read as a value"]),
        (["-p", "fps", "{a: &x 1, b: *x}"], ["aliases"]),
        (["-p", "fps", "12", "--grid", "no-such.yaml"], ["no-such.yaml cannot be read"]),
        (["-p", "fps", "7", "--grid", "grid.yaml"], ["given both by -p and in"]),
    ],
)
def test_a_wrong_parameter_is_an_error_that_lists_the_known_ones(
    arguments: list[str], expected: list[str], toy: Path, tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, "notebook", toy, "--out", tmp_path / "done", *arguments)
    assert code == 1 and out == "" and all(text in err for text in expected), err
    assert len(err.strip().splitlines()) == 1 and "Traceback" not in err and "\x1b" not in err
    assert not (tmp_path / "done").exists()  # before anything runs


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("fps: [0]\n", "fps=0"),
        ("fps: []\n", "give values for fps"),
        ("spf: [7]\n", "unknown column 'spf'"),
        ("guidance: !!python/object/apply:os.system ['true']\n", "cannot be read as YAML"),
    ],
)
def test_a_bad_grid_is_refused_before_a_model_is_loaded(text: str, expected: str, tmp_path: Path, capsys: Any) -> None:
    grid = tmp_path / "grid.yaml"
    grid.write_text(text)
    code, _, err = run(capsys, "sweep", "--grid", grid, "--out", tmp_path / "out", "--checkpoint", "no/such-checkpoint")
    assert code == 1 and expected in err and "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_a_sweep_goes_on_where_it_was_and_its_ledger_is_checked(tmp_path: Path, capsys: Any) -> None:
    grid, out = tmp_path / "grid.yaml", tmp_path / "study"
    grid.write_text("fps: [7]\nmotion_bucket_id: [40, 120]\nnum_inference_steps: [2]\nmax_guidance_scale: [1.0]\n")
    code, said, _ = run(capsys, "sweep", "--grid", grid, "--out", out, "--image", "scene-27")
    assert code == 0 and f"2 runs in {out}, 0 of them failed" in said
    made = {p: p.stat().st_mtime_ns for p in out.glob("runs/*/run.json")}
    assert len(made) == 2

    assert run(capsys, "sweep", "--grid", grid, "--out", out, "--image", "scene-27")[0] == 0
    assert {p: p.stat().st_mtime_ns for p in out.glob("runs/*/run.json")} == made

    assert run(capsys, "ledger", "check", out)[:2] == (0, "2 runs, all whole\n")
    code, said, _ = run(capsys, "ledger", "export", out, tmp_path / "handed-on")
    assert code == 0 and list((tmp_path / "handed-on").rglob("*.mp4"))

    latents = next(out.glob("runs/*/latents.safetensors"))
    content = bytearray(latents.read_bytes())
    content[-1] ^= 1
    latents.write_bytes(bytes(content))
    code, said, _ = run(capsys, "ledger", "check", out)
    assert code == 1 and latents.parent.name in said
    assert run(capsys, "ledger", "check", tmp_path)[0] == 1


def test_a_sweep_with_a_failed_clip_ends_with_a_code_that_says_so(checkpoint: Any, tmp_path: Path, capsys: Any) -> None:
    grid, out = tmp_path / "grid.yaml", tmp_path / "study"
    grid.write_text("max_guidance_scale: [1.0, 3.0e+38]\nnum_inference_steps: [1]\nnum_frames: [2]\n")  # the latter overflows
    sweep = ["sweep", "--grid", grid, "--out", out, "--image", "scene-27", "--checkpoint", checkpoint]
    code, said, _ = run(capsys, *sweep)
    assert code == 1 and "2 runs in" in said and "1 of them failed" in said
    assert run(capsys, *sweep)[0] == 1  # it still is
    assert run(capsys, *sweep, "--threads", "0")[0] == 1


def test_a_sweep_of_a_folder_takes_every_image_in_it(checkpoint: Any, tmp_path: Path, capsys: Any) -> None:
    grid, images = tmp_path / "grid.yaml", tmp_path / "images"
    grid.write_text("fps: [6, 12]\nnum_inference_steps: [1]\nnum_frames: [2]\n")
    images.mkdir()
    sweep = ["sweep", "--grid", grid, "--out", tmp_path / "out", "--image", images, "--checkpoint", checkpoint]
    code, _, err = run(capsys, *sweep)
    assert code == 1 and "holds no image" in err
    for n in (1, 2):
        sample_image(f"scene-{n}").save(images / f"{n}.PNG")
    (images / "notes.txt").touch()
    for given in (images, f"{images}/*.PNG"):
        code, _, err = run(capsys, "sweep", "--grid", grid, "--out", images, "--image", given)
        assert code == 1 and "is the images' own folder" in err and not (images / "runs").exists()
    assert run(capsys, *sweep)[0] == 0
    table = load_results(tmp_path / "out")
    made = {(fps, Path(image).name) for fps, image in zip(table["fps"], table["image"], strict=True)}
    assert len(table) == 4 and made == {(fps, f"{n}.PNG") for fps in (6, 12) for n in (1, 2)}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["stillness", "-p", "rounds", "2"], "rounds"),
        (["bias", "-p", "rounds", "2"], "bias has no option rounds"),
        (["stillness", "-p", "fps", "0"], "-p fps 0"),
        (["stillness", "-p", "fps", "[6, 12"], "cannot be read as a value"),
        (["stillness", "--parameter=fps=8"], "two words"),
        (["stillness", "-pfps"], "two words"),
        (["stillness", "--manifest", "x.csv"], "belongs to svdlab probe bias"),
        (["stilness"], "stillness"),
    ],
)
def test_what_a_probe_does_not_know_stops_the_command(words: list[str], expected: str, tmp_path: Path, capsys: Any) -> None:
    code, out, err = run(capsys, "probe", *words, "--out", tmp_path / "out")
    assert code == 1 and out == "" and expected in err and len(err.strip().splitlines()) <= 2, err
    assert not list(tmp_path.glob("out/**/*.mkv"))


def test_doctor_runs_a_checkpoint_at_the_size_that_is_asked_for(checkpoint: Any, capsys: Any) -> None:
    size = ["-p", "num_frames", "3", "-p", "height", "32", "-p", "width", "32", "-p", "device", "cpu"]
    code, said, _ = run(capsys, "doctor", "--run", checkpoint, *size)
    assert code == 0 and "a batch gives what single calls give" in said and "False" not in said
    code, _, err = run(capsys, "doctor", "--run", checkpoint, "-p", "offload", "model", "-p", "device", "cpu")
    assert code == 1 and "-p offload model" in err and "-p device cpu" in err and "=" not in err
    code, _, err = run(capsys, "doctor", "-p", "num_frames", "3", "--offline")
    assert code == 1 and "belongs to svdlab doctor --run" in err


def test_errors_that_are_not_svdlabs_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("svdlab.study.ledger.check", lambda folder: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["ledger", "check", "x"])


@pytest.mark.parametrize(
    "words",
    [
        ["sweep", "--grid", "grid.yaml", "--out", "out", "--checkpoint", "models/x.safetensors"],
        ["sweep", "--grid", "grid.yaml", "--out", "out", "--checkpoint", "./my-svd"],
        ["sweep", "--grid", "grid.yaml", "--out", "out", "--checkpoint", "models/my.ckpt"],
        ["sweep", "--grid", "grid.yaml", "--out", "out", "--image", "cta.png"],
        ["sweep", "--grid", "images.yaml", "--out", "out"],
        ["sweep", "--grid", "no-such.csv", "--out", "out"],
        ["notebook", "01-conditioning-sweep", "--grid", "no-such.yaml"],
        ["notebook", "elsewhere/01-conditioning-sweep.ipynb"],
        ["probe", "bias", "--manifest", "people.csv"],
        ["probe", "bias", "--manifest", "people.parquet"],
        ["probe", "stillness", "--images", "photos/"],
        ["probe", "stillness", "--images", "photos.csv"],
        ["ledger", "check", "results/study"],
        ["ledger", "export", "results/study", "new"],
        ["report", "results/study"],
        ["report", "video.mp4"],
        ["organism", "verify", "results/organism"],
    ],
    ids=" ".join,
)
def test_a_mistyped_path_is_no_such_file(words: list[str], tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "grid.yaml").write_text("fps: [6]\n")
    (tmp_path / "images.yaml").write_text("image: [scene-1, cta.png]\n")
    code, out, err = run(capsys, *words)
    assert code == 1 and out == "" and len(err.strip().splitlines()) == 1, err
    assert "no such file" in err.lower() or "no such folder" in err or "is no folder here" in err, err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["grid.yaml", "images.yaml"]  # nothing is made of nothing


def test_images_are_given_once(tmp_path: Path, capsys: Any) -> None:
    sample_image("scene-1").save(tmp_path / "1.png")
    (tmp_path / "plan.csv").write_text("image;fps\nscene-1;7\n")
    words = ["--grid", tmp_path / "plan.csv", "--out", tmp_path / "out", "--image", tmp_path, "--checkpoint", "no/such"]
    code, _, err = run(capsys, "sweep", *words)
    assert code == 1 and "both by --image" in err and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "changed"),
    [
        (["-p", "fps", "8"], {"fps": 8}),
        (["--quick", "-p", "fps", "8"], {"fps": 8, "num_inference_steps": 8}),
        (["-p", "guidance_interval", "[0.1, 10]", "-p", "num_inference_steps", "3"], INTERVAL | {"num_inference_steps": 3}),
    ],
)
def test_planted_pairs_keep_their_conditions_but_for_what_is_changed(
    words: list[str], changed: dict[str, Any], checkpoint: Path, tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    """The study that is about to run is looked at, and stopped."""
    seen: list[bias.Design] = []

    def stop(pipe: Any, design: bias.Design, out: Path) -> None:
        seen.append(design)
        raise InputError("stopped")

    monkeypatch.setattr(bias, "run", stop)
    if "--quick" not in words:
        monkeypatch.setattr(planted, "SCHEMES", ("hue",))
    run(capsys, "probe", "bias", *words, "--checkpoint", checkpoint, "--out", tmp_path / "out")
    assert seen[0].conditions == planted.CONDITIONS.replace(**changed) and seen[0].margins == planted.MARGINS


def test_options_of_bias_are_checked_before_its_images_are_drawn(tmp_path: Path, capsys: Any) -> None:
    for words in (["-p", "alpha", "7"], ["-p", "fps", "0"], ["--seeds", "0"], ["-p", "measures", "[smile]"]):
        code, _, err = run(capsys, "probe", "bias", *words, "--out", tmp_path / "out")
        assert code == 1 and words[-1].strip("[]") in err and not (tmp_path / "out").exists(), err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["sweep", "--grid", "grid.yaml", "--out", "out", "--batch-size", "0"], "--batch-size 0: give a whole number"),
        (["probe", "stillness", "-p", "num_frames", "1"], "-p num_frames 1: give a whole number"),
        (["doctor", "--run", "organism", "-p", "device", "gpu"], "-p device gpu"),
        (["convert", "x.safetensors", "new", "--num-frames", "3"], "no such file"),
        (["notebooks", "grid.yaml"], "svdlab: folder "),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_messages_speak_of_flags(words: list[str], expected: str, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "grid.yaml").write_text("fps: [6]\n")
    code, _, err = run(capsys, *words)
    assert code == 1 and expected in err and "=" not in err and len(err.strip().splitlines()) == 1, err
