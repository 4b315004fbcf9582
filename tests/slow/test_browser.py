"""Widgets in JupyterLab, in a real browser: run, turn a knob, see other pixels, generate, cancel, export."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import svdlab
from tests import lab as labs

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("ignore::svdlab.images.CropWarning")]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with labs.chromium() as found:
        yield found


@pytest.fixture(scope="module")
def lab(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[labs.Lab]:
    root = tmp_path_factory.mktemp("lab") / "notebooks"
    root.mkdir()
    with labs.lab(root) as running:
        yield running


@pytest.fixture(scope="module")
def ledger(lab: labs.Lab, pipe: Any) -> Path:
    """A sweep with one point left out."""
    plan = svdlab.grid(image=["scene-27", "scene-4"], motion_bucket_id=[20, 120, 200], seed=[0, 1], num_inference_steps=2)
    svdlab.sweep(pipe, plan.drop(index=11), lab.root / "ledger", progress=False)
    return lab.root / "ledger"


def test_explore(browser: Any, lab: labs.Lab, ledger: Path) -> None:
    labs.write_notebook(
        lab.root / "explore.ipynb",
        "import svdlab\nfrom svdlab import widgets\npipe = svdlab.load_pipeline()",
        "widgets.explore('ledger', pipe=pipe, out='exports')",
    )
    with labs.opened(browser, lab, "explore.ipynb") as sheet:
        page = sheet.page
        sheet.run_all(".svdlab video")
        video = page.locator(".svdlab video").first
        sheet.wait(lambda: video.evaluate("v => !v.paused && v.currentTime > 0"), 20, "the film does not play")
        assert video.get_attribute("title").startswith("Clip at picture scene-27, motion bucket 20")
        first = labs.last_frame(video)
        assert labs.changed(first, labs.last_frame(video)) == 0  # held still: whatever changes next is the slider's doing

        handle = page.get_by_role("slider").nth(0)  # motion bucket
        handle.focus()
        source = video.get_attribute("src")
        page.keyboard.press("ArrowRight")
        sheet.wait(lambda: video.get_attribute("src") != source, 10, "the film stayed")
        moved = labs.last_frame(video)
        assert labs.changed(first, moved) > 0.005
        page.locator(".svdlab select").first.select_option("scene-4")
        sheet.wait(lambda: "scene-4" in video.get_attribute("title"), 10, "the picture stayed")
        assert labs.changed(moved, labs.last_frame(video)) > 0.2

        page.get_by_role("tab", name="Dose and response").click()
        curve = page.locator(".svdlab-plot img").first
        sheet.wait(lambda: curve.evaluate("i => i.naturalWidth > 300"), 30, "no curve")
        sheet.wait(lambda: page.locator(".svdlab-over i").count() == 1, 10, "no mark on the curve")
        sheet.shot("explore-curve")

        page.get_by_role("button", name="Second pane").click()
        sheet.wait(lambda: page.locator(".svdlab video").nth(1).is_visible(), 10, "no second pane")

        handle.focus()
        page.keyboard.press("End")
        page.get_by_role("slider").nth(1).focus()
        page.keyboard.press("End")
        sheet.wait(lambda: page.get_by_text("not run:").first.is_visible(), 10, "the missing point is not told")
        sheet.shot("explore-missing")
        page.get_by_role("button", name="Make it").first.click()
        sheet.wait(lambda: "seed 1" in (video.get_attribute("title") or "") and video.is_visible(), 60, "it was not made")
        assert len(svdlab.load_results(ledger)) == 12

        page.get_by_role("button", name="Export").click()
        sheet.wait(lambda: list((lab.root / "exports").glob("*.json")), 30, "nothing was exported")
        assert {p.suffix for p in (lab.root / "exports").iterdir()} == {".png", ".svg", ".csv", ".mp4", ".json"}
        assert sheet.complaints() == []
