"""A study as one page: everything in it, nothing beside it."""

import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest

import svdlab
from svdlab import errors, show
from svdlab.measure.video import tag
from svdlab.study.notebooks import report

WIDGET = "application/vnd.jupyter.widget-view+json"
FETCHED = {"script": "src", "img": "src", "video": "src", "source": "src", "link": "href", "iframe": "src", "object": "data"}


class Page(HTMLParser):
    """What a page would fetch, its videos and images, and its words."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.videos: list[str] = []
        self.images: list[dict[str, str]] = []
        self.words = ""
        self.feed(path.read_text())
        self.words = re.sub(r"\s+", " ", self.words)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {k: v or "" for k, v in attrs}
        if FETCHED.get(tag) in found and not found[FETCHED[tag]].startswith("data:"):
            self.fetched.append(f"{tag} {found[FETCHED[tag]]}")
        if tag == "video":
            self.videos.append(found.get("aria-label", ""))
        if tag == "img":
            self.images.append(found)

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.fixture(scope="module")
def study(pipe: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep with a figure and a video beside its ledger."""
    out = tmp_path_factory.mktemp("study")
    results = svdlab.sweep(
        pipe, svdlab.grid(fps=[6, 24], num_inference_steps=2), out / "ledger", image="scene-27", progress=False
    )
    show.save(show.sheet(results, rows="seed", columns="fps"), out / "sheet")
    show.video(results).save(out / "both")
    return out


def test_a_ledger_becomes_a_page_that_needs_nothing_else(study: Path) -> None:
    path = report(study)
    page = Page(path)
    assert path == study / "report.html" and page.fetched == []
    assert "@import" not in re.sub(r"data:[^)\"']*", "", path.read_text())
    assert sorted(page.videos) == ["both", "fps 24", "fps 6"] and [image["alt"] for image in page.images][:1] == ["sheet"]
    assert re.fullmatch(r"Worst of 2 clips by kind of failure: (none|\d) of 6 reach the threshold", page.images[1]["alt"])
    for words in ("model organism, not SVD", "Apache-2.0", "2 runs, 2 of them done", "diffusers", "scene-27", "weights"):
        assert words in page.words, words


def test_an_executed_notebook_tells_the_story_without_its_machinery(study: Path, tmp_path: Path) -> None:
    v4 = nbformat.v4
    png = show.filmstrip(np.zeros((2, 32, 32, 3), np.uint8))._repr_mimebundle_()
    outputs = [
        v4.new_output("stream", name="stderr", text="100%|####| progress"),
        v4.new_output("display_data", {WIDGET: {"model_id": "a"}, "text/plain": "a progress bar"}),
        v4.new_output("display_data", {WIDGET: {"model_id": "b"}, **png[0]}, metadata=png[1]),
        v4.new_output("display_data", {"text/html": tag(b"an MP4", 64, 64, "a clip")}),
        v4.new_output("stream", name="stdout", text="object_px rises"),
    ]
    cells = [
        v4.new_markdown_cell("# What moves\n\nNext: [other](01-other.ipynb)"),
        v4.new_code_cell("fps: int = 7  # frames per second", metadata={"tags": ["parameters"]}),
        v4.new_code_cell("secret_code()", outputs=outputs),
    ]
    folder = tmp_path / "00-story"
    folder.mkdir()
    nbformat.write(v4.new_notebook(cells=cells), folder / "00-story.ipynb")
    page = Page(report(folder, tmp_path / "page.html"))
    assert page.fetched == [] and len(page.images) == 1
    assert page.videos == ["a clip"] and 'src="data:video/mp4;base64,' in (tmp_path / "page.html").read_text()
    assert "What moves" in page.words and "object_px rises" in page.words and "frames per second" in page.words
    assert page.images[0]["alt"] == png[1]["image/png"]["alt"]
    assert not [w for w in ("100%|####|", "a progress bar", "secret_code") if w in page.words]
    assert "01-other.ipynb" not in (tmp_path / "page.html").read_text()


EVIL = "<img src=https://x.org/a.png onerror=alert(1)><script>alert(1)</script>"


def test_recorded_text_stays_text_and_nothing_is_read_through_it(pipe: Any, study: Path, tmp_path: Path) -> None:
    """A path of an image is whatever a user calls it; a notebook's text may come from somebody else."""
    image = tmp_path / EVIL.replace("/", "_")
    svdlab.sample_image("scene-3").save(image, "PNG")
    (tmp_path / "key").write_text("-----BEGIN PRIVATE KEY-----")
    svdlab.sweep(
        pipe, svdlab.grid(image=[str(image), "scene-4"], num_inference_steps=1), tmp_path / "out", measure=(), progress=False
    )
    v4 = nbformat.v4
    link = f"![x]({tmp_path}/key) ![y](https://x.org/a.png) [z](javascript:alert(1)) {EVIL}"
    shown = [v4.new_output("display_data", {kind: text}) for kind, text in {"text/html": EVIL, "text/markdown": link}.items()]
    shown.append(v4.new_output("display_data", {"text/html": f"<table><tr><td>kept{EVIL}</td></tr></table>"}))
    cells = [v4.new_markdown_cell(link), v4.new_code_cell("", outputs=shown)]
    nbformat.write(v4.new_notebook(cells=cells), tmp_path / "out" / "story.ipynb")
    path = report(tmp_path / "out")
    page = Page(path)
    assert page.fetched == [] and "<script" not in path.read_text() and "kept" in page.words
    assert not [attrs for attrs in page.images if "onerror" in attrs]
    assert 'href="javascript' not in path.read_text() and "PRIVATE KEY" not in path.read_text()


def test_what_cannot_be_reported_or_written(study: Path, tmp_path: Path) -> None:
    with pytest.raises(errors.InputError, match="nothing to report"):
        report(tmp_path / "nowhere")
    with pytest.raises(errors.OutputError):
        report(study, study / "sheet.png" / "page.html")


def test_a_report_follows_no_links(study: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere.png").symlink_to(study / "sheet.png")
    (tmp_path / "story.ipynb").symlink_to(study / "sheet.png")
    (tmp_path / "runs").symlink_to(study / "ledger" / "runs")
    with pytest.raises(errors.InputError, match="nothing to report"):
        report(tmp_path)


@pytest.mark.filterwarnings("ignore:.*damaged run")
def test_a_report_opens_no_pipe_and_no_run_or_preview_that_is_a_link(study: Path, tmp_path: Path) -> None:
    run = next(path for path in sorted((study / "ledger" / "runs").iterdir()) if (path / "preview.mp4").is_file())
    own = tmp_path / "runs" / run.name
    own.parent.mkdir()
    os.mkfifo(tmp_path / "figure.png")  # opened, it would wait for a writer
    own.symlink_to(run)
    with pytest.raises(errors.InputError, match="nothing to report"):
        report(tmp_path)
    own.unlink()
    shutil.copytree(run, own)
    (own / "preview.mp4").unlink()
    (own / "preview.mp4").symlink_to(run / "preview.mp4")
    with pytest.raises(errors.InputError, match="nothing to report"):
        report(tmp_path)


def test_a_preview_of_zeros_costs_the_report_one_clip(study: Path, tmp_path: Path) -> None:
    """What a copy that was interrupted leaves: the size is right."""
    copy = Path(shutil.copytree(study / "ledger", tmp_path / "copy"))
    preview = next(copy.glob("runs/*/preview.mp4"))
    preview.write_bytes(bytes(preview.stat().st_size))
    page = Page(report(copy))
    assert len(page.videos) == 1 and "1 more cannot be read: svdlab ledger check names them" in page.words
