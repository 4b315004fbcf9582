"""The site builds without a broken link, names every public name, and its examples run."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

import svdlab
from svdlab.__main__ import main
from svdlab.measure import video

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted(p for p in (ROOT / "docs").rglob("*.md") if "gallery" not in p.parts)]
BLOCK = re.compile(r"(<!-- not run: [^>]+ -->\n)?```(python|bash)\n(.*?)```", re.DOTALL)


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and text of a page's blocks that run here."""
    return [(language, text) for left_out, language, text in BLOCK.findall(page.read_text()) if not left_out]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """What the pages' examples find: photo.jpg, photos/, videos/, grid.yaml."""
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir(), Path("videos").mkdir()
    for name, sample in dict(a="astronaut", b="cat", c="coffee").items():
        svdlab.sample_image(sample).save(f"photos/{name}.jpg")
    shutil.copy("photos/a.jpg", "photo.jpg")
    still = np.asarray(svdlab.sample_image("cat").resize((128, 128)), np.float32) / 255
    for name, step in dict(pan=1, still=0).items():
        video.write_preview(f"videos/{name}.mp4", np.stack([np.roll(still, -step * i, axis=1) for i in range(8)]), facts={})
    Path("grid.yaml").write_text("motion_bucket_id: [40, 200]\nnum_inference_steps: [2]\n")
    yield tmp_path
    plt.close("all")


def test_the_site_builds_strictly(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={"NO_MKDOCS_2_WARNING": "1", "PATH": ""})
    assert done.returncode == 0, done.stdout + done.stderr
    reference = "".join(page.read_text() for page in (tmp_path / "site" / "reference").rglob("*.html"))
    homes = {name: f"svdlab.{home}.{name}" for name, home in svdlab._HOME.items()}
    homes |= {name: f"svdlab.{home}" for name, home in svdlab._MODULES.items()}
    shown = lambda name: f'id="{name}' in reference
    missing = [name for name, home in homes.items() if not shown(f"svdlab.{name}") and not shown(home)]
    assert missing == []


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p)], ids=lambda p: str(p.relative_to(ROOT)))
def test_examples_of_a_page_run(page: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {"__name__": "example"}
    written = folder / "example.py"  # a measure's identity is its source, which is read from a file
    source = ""
    for language, text in blocks(page):
        if language == "python":
            lines = source.count("\n")
            source += text
            written.write_text(source)
            exec(compile("\n" * lines + text, str(written), "exec"), names)
            continue
        for line in text.splitlines():
            if line.startswith("svdlab "):
                command = line.partition("#")[0].split()[1:]
                with pytest.raises(SystemExit) as ended:
                    main(command)
                assert not ended.value.code, f"{line}\n{capsys.readouterr().err}"
