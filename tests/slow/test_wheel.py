"""svdlab from its wheel, in an empty folder (case G5): the demo, the notebooks' copies, a notebook with parameters."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest

from tests.test_notebooks import ALL, LEAVES

Run = Callable[..., subprocess.CompletedProcess[str]]
pytestmark = pytest.mark.slow


def test_the_demo_leaves_what_the_readme_promises(installed: Run, tmp_path: Path) -> None:
    done = installed("svdlab", "demo", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "results/00-tour"
    assert [name for name in [*LEAVES["00-tour"], "00-tour.ipynb"] if not (folder / name).exists()] == []
    assert "results/00-tour" in done.stdout and "100%" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


def test_the_notebooks_come_along_and_run(installed: Run, tmp_path: Path) -> None:
    done = installed("svdlab", "notebooks", "course", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    copies = sorted((tmp_path / "course").iterdir())
    assert [path.name for path in copies] == [path.name for path in ALL] and "course/00-tour.ipynb" in done.stdout
    for path in copies:
        assert nbformat.read(path, 4).cells == nbformat.read(ALL[0].with_name(path.name), 4).cells

    copies[0].write_text("my own")
    again = installed("svdlab", "notebooks", "course", cwd=tmp_path)
    assert copies[0].read_text() == "my own" and again.stdout.count("there already") == len(copies)

    few = ["-p", "num_inference_steps", "2", "-p", "seeds", "[0]"]
    done = installed("svdlab", "notebook", "course/02-denoising-trace.ipynb", *few, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "results/02-denoising-trace/denoised.png").stat().st_size
    executed = nbformat.read(tmp_path / "results/02-denoising-trace/02-denoising-trace.ipynb", 4)
    outputs = [output for cell in executed.cells for output in cell.get("outputs", ())]
    images = [output for output in outputs if "image/png" in output.get("data", {})]
    assert images and all(image.metadata["image/png"]["alt"] for image in images)
    assert not [output for output in outputs if output.output_type == "error"]


def test_a_users_script_is_type_checked_against_the_wheel(installed: Run, tmp_path: Path) -> None:
    shutil.copy(Path(__file__).parents[1] / "typed_user.py", tmp_path)
    libraries = "diffusers.*,transformers.*,accelerate.*,skimage.*,statsmodels.*,torch.*"  # read as Any: that takes minutes
    Path(tmp_path, "mypy.ini").write_text(
        f"[mypy]\nstrict = true\nignore_missing_imports = true\n[mypy-{libraries}]\nfollow_imports = skip\n"
    )
    done = installed("python", "-m", "mypy", "typed_user.py", cwd=tmp_path)
    assert done.stdout.startswith("Success"), done.stdout + done.stderr
    wrong = tmp_path / "wrong.py"
    wrong.write_text("import svdlab\n\nseeds: str = svdlab.generate(svdlab.load_pipeline(), 'cat').seed\n")
    done = installed("python", "-m", "mypy", "wrong.py", cwd=tmp_path)
    assert done.returncode == 1 and 'has type "int", variable has type "str"' in done.stdout, done.stdout + done.stderr
