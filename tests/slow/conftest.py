"""What the slow tests share: svdlab as a wheel, in an environment without the clone."""

import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a command's words in a folder, in a virtual environment that holds svdlab's wheel, and this one's other packages."""
    folder = tmp_path_factory.mktemp("installed")
    python = folder / "env" / "bin" / "python"
    offline = ["--quiet", "--no-deps", "--no-index"]
    pip = [sys.executable, "-m", "pip"]
    subprocess.run([*pip, "wheel", *offline, "--no-build-isolation", "--wheel-dir", folder, ROOT], check=True)
    venv.create(folder / "env")
    subprocess.run([*pip, "--python", python, "install", *offline, *folder.glob("*.whl")], check=True)
    ask = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    own = subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip()
    Path(own, "others.pth").write_text(sysconfig.get_path("purelib"))  # whose own .pth, of the clone, is not read
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment |= {"PATH": f"{python.parent}:{environment['PATH']}", "JUPYTER_RUNTIME_DIR": str(folder / "jupyter")}

    def run(*words: str | Path, cwd: Path, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        command = [python.parent / words[0], *words[1:]]
        return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout)

    where = run("python", "-c", "import svdlab; print(svdlab.__file__)", cwd=folder).stdout
    assert where.startswith(own), where
    return run
