"""The files around the package agree with each other: requirements, lock, environment, licences, notebooks, guards."""

import importlib.metadata
import re
import shutil
import socket
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import jupytext
import nbformat
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.conftest import NetworkBlocked
from tools.notebook_pairs import difference

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text())


def run(*command: str | Path, cwd: Path = ROOT, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(part) for part in command], cwd=cwd, input=stdin, capture_output=True, text=True)


# --- requirements ---------------------------------------------------------------------------------------------------


def pins(lock: str) -> dict[str, tuple[Version, int]]:
    """Each package's version and its number of hashes; anything that is not one exact version raises."""
    found = {}
    lines = [line for line in lock.splitlines() if not line.startswith("#")]
    for entry in re.split(r"(?<!\\)\n", "\n".join(lines)):
        if not entry.strip():
            continue
        text, *hashes = entry.replace("\\\n", " ").split("--hash=sha256:")
        requirement = Requirement(text)
        (specifier,) = requirement.specifier
        if requirement.url or specifier.operator != "==" or "*" in specifier.version:
            raise ValueError(f"not one exact version: {text}")
        if not all(re.fullmatch(r"[0-9a-f]{64}", digest.strip()) for digest in hashes):
            raise ValueError(f"not a SHA-256: {entry}")
        found[canonicalize_name(requirement.name)] = (Version(specifier.version), len(hashes))
    return found


LOCK = pins((ROOT / "requirements.lock").read_text())
TORCH = pins((ROOT / "requirements-torch.lock").read_text())


def test_everything_but_torch_is_locked_with_hashes() -> None:
    assert [name for name, (_, hashes) in LOCK.items() if not hashes] == []
    assert list(TORCH) == ["torch"] and "torch" not in LOCK


def test_the_lock_answers_every_requirement() -> None:
    extras = PROJECT["optional-dependencies"]
    wanted = [
        *PROJECT["dependencies"],
        *PYPROJECT["build-system"]["requires"],
        *(line for lines in extras.values() for line in lines),
    ]
    locked = LOCK | TORCH
    for requirement in map(Requirement, wanted):
        name = canonicalize_name(requirement.name)
        assert name in locked, f"{name} is not in the lock: run `make lock`"
        assert requirement.specifier.contains(locked[name][0]), f"{requirement} is locked at {locked[name][0]}"


def test_torch_is_resolved_as_it_is_locked() -> None:
    (metadata,) = PYPROJECT["tool"]["uv"]["dependency-metadata"]
    assert Version(metadata["version"]) == TORCH["torch"][0]


def test_one_opencv_only() -> None:
    # Two of its builds write over each other's cv2/.
    assert [name for name in LOCK if name.startswith("opencv")] == ["opencv-python-headless"]


def test_the_conda_environment_says_what_pyproject_says() -> None:
    *packages, pip = ENVIRONMENT["dependencies"]
    (python,) = (package.split("=", 1)[1] for package in packages if package.startswith("python="))
    (own,) = pip["pip"]
    (extras,) = re.fullmatch(r"-e \.\[(.*)\]", own).groups()
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains(python)
    assert python in {line.rsplit(" ", 1)[1] for line in PROJECT["classifiers"] if "Python ::" in line}
    assert set(extras.split(",")) == PROJECT["optional-dependencies"].keys()
    assert packages == [f"python={python}", "pip"] and ENVIRONMENT["channels"][0] == "conda-forge"


def test_the_command_is_installed() -> None:
    (command,) = importlib.metadata.entry_points(group="console_scripts", name="svdlab")
    assert callable(command.load())


# --- setup ----------------------------------------------------------------------------------------------------------


def test_setup_does_nothing_when_nothing_changed() -> None:
    if not (ROOT / ".venv/.ready").exists():
        pytest.skip("this Python was not set up by `make setup`")
    done = run("make", "--question", "setup")
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_old_python_is_refused_by_name(tmp_path: Path) -> None:
    old = tmp_path / "python3.8"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.8.20 && exit\nexit 1\n')
    old.chmod(0o755)
    for name in ("Makefile", "requirements.lock", "requirements-torch.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    done = run("make", "setup", f"PYTHON={old}", cwd=tmp_path)
    assert done.returncode != 0
    assert "needs Python 3.11 or newer" in done.stdout and "Python 3.8.20" in done.stdout and "PYTHON=" in done.stdout
    assert not (tmp_path / ".venv").exists()


# --- what is handed on ----------------------------------------------------------------------------------------------


def test_the_licences_say_what_they_must() -> None:
    notice = (ROOT / "NOTICE").read_text()
    # Word for word as Stability's licence gives it.
    assert (
        "This Stability AI Model is licensed under the Stability AI Non-Commercial Research Community License, "
        "Copyright (c) Stability AI Ltd. All Rights Reserved."
    ) in notice
    assert "(c) copyright 2008, Blender Foundation / www.bigbuckbunny.org" in notice
    licence = (ROOT / "LICENSE").read_text()
    assert "Apache License\n" in licence and "Version 2.0, January 2004" in licence and PROJECT["license"] == "Apache-2.0"


def test_a_wheel_holds_the_package_with_its_weights_and_notebooks_and_nothing_else(tmp_path: Path) -> None:
    done = run(
        sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", tmp_path, "."
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "svdlab", "notebooks/*.ipynb"]
    tracked = [name for name in run(*listed).stdout.splitlines() if (ROOT / name).exists()]
    assert names == {f"svdlab/{name}" if name.startswith("notebooks/") else name for name in tracked}


# --- guards ---------------------------------------------------------------------------------------------------------


def test_tests_reach_loopback_only() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
        pass
    # Connecting a datagram socket sends nothing, so even a broken guard would leave the network alone.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outside, pytest.raises(NetworkBlocked, match=r"192\.0\.2\.1"):
        outside.connect(("192.0.2.1", 9))
    with pytest.raises(NetworkBlocked, match=r"example\.invalid"):
        socket.getaddrinfo("example.invalid", 80)


def test_a_notebook_out_of_step_with_its_script_would_be_seen(tmp_path: Path) -> None:
    cell = nbformat.v4.new_code_cell("fps: int = 7  # frames per second", metadata={"tags": ["parameters"]})
    path = tmp_path / "00-toy.ipynb"
    script = path.with_suffix(".py")
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Toy"), cell]), path)
    assert "00-toy.py is missing" in str(difference(path))

    jupytext.write(jupytext.read(path), script, fmt="py:percent")
    assert difference(path) is None

    script.write_text(script.read_text().replace("int = 7", "int = 8"))
    assert "differs from 00-toy.py" in str(difference(path))
