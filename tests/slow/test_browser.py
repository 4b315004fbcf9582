"""Widgets in JupyterLab, in a real browser: run, turn a knob, see other pixels, generate, cancel, export."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
import pytest
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

import svdlab
from svdlab.study.notebooks import report
from tests import lab as labs
from tests.test_notebooks import SMALL

ROOT = labs.ROOT
WIDGET = "application/vnd.jupyter.widget-view+json"
pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("ignore::svdlab.pipeline.images.CropWarning")]


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


def plans_in(folder: Path, prefix: str = "") -> list[Path]:
    """The exported plans; a video's own facts, name.mp4.json, lie beside them."""
    return [path for path in folder.glob(f"{prefix}*.json") if len(path.suffixes) == 1]


@contextmanager
def course(browser: Any, lab: labs.Lab, name: str, until: str, *, dark: bool = False, **more: Any) -> Iterator[Any]:
    """A notebook of the course, with other parameters, as papermill would write them, run in the browser: the sheet, its
    first panel, and the folder of its results."""
    source = load_notebook_node(str(ROOT / "notebooks" / f"{name}.ipynb"))
    given = {**SMALL.get(name, {}), "out": f"../{name}", **more}
    nbformat.write(parameterize_notebook(source, given), lab.root / f"{name}.ipynb")
    with labs.opened(browser, lab, f"{name}.ipynb", dark=dark) as sheet:
        sheet.run_all(until)
        panel = sheet.page.locator(".svdlab").first
        panel.scroll_into_view_if_needed()
        yield sheet, panel, lab.root.parent / name


def test_explore(browser: Any, lab: labs.Lab, ledger: Path) -> None:
    cells = "import svdlab\npipe = svdlab.load_pipeline()", "svdlab.widgets.explore('ledger', pipe=pipe, out='exports')"
    labs.write_notebook(lab.root / "explore.ipynb", *cells)
    with labs.opened(browser, lab, "explore.ipynb") as sheet:
        page = sheet.page
        sheet.run_all(".svdlab video")
        video = page.locator(".svdlab video").first
        sheet.wait(lambda: video.evaluate("v => !v.paused && v.currentTime > 0"), 60, "the video does not play")
        assert "scene-27, motion bucket 20" in video.get_attribute("title")
        first = labs.last_frame(video)
        assert labs.changed(first, labs.last_frame(video)) == 0  # held still: whatever changes next is the slider's doing

        handle = labs.slider(page, "motion bucket")
        handle.focus()
        source = video.get_attribute("src")
        page.keyboard.press("ArrowRight")
        sheet.wait(lambda: video.get_attribute("src") != source, 60, "the video stayed")
        moved = labs.last_frame(video)
        assert labs.changed(first, moved) > 0.005
        page.locator(".svdlab select").first.select_option("scene-4")
        sheet.wait(lambda: "scene-4" in video.get_attribute("title"), 60, "the image stayed")
        assert labs.changed(moved, labs.last_frame(video)) > 0.2

        page.get_by_role("tab", name="Dose and response").click()
        curve = page.locator(".svdlab-figure[aria-label*='ring: image scene-4, motion bucket 120']")
        sheet.wait(lambda: curve.count() and curve.bounding_box()["width"] > 300, 60, "no curve with a mark")
        sheet.shot("explore-curve")

        page.get_by_role("button", name="Second pane").click()
        sheet.wait(lambda: page.locator(".svdlab video").nth(1).is_visible(), 60, "no second pane")

        sheet.to_end(handle)
        sheet.to_end(labs.slider(page, "seed"))
        sheet.wait(lambda: page.get_by_text("not run:").first.is_visible(), 60, "the missing point is not reported")
        sheet.shot("explore-missing")
        page.get_by_role("button", name="Make it").first.click()
        sheet.wait(lambda: "seed 1" in (video.get_attribute("title") or "") and video.is_visible(), 60, "it was not made")
        assert len(svdlab.load_results(ledger)) == 12

        page.get_by_role("button", name="Export").click()
        sheet.wait(lambda: page.get_by_text("exports/: ").count(), 60, "nothing was exported")  # said when all is written
        assert {p.suffix for p in (lab.root / "exports").iterdir()} == {".png", ".pdf", ".csv", ".mp4", ".json"}


def test_live_in_the_tour(browser: Any, lab: labs.Lab) -> None:
    """Generate, watch it sharpen, compare, cancel, export; all in the dark theme."""
    small = dict(sweep_fps=[6], sweep_motion_bucket_id=[30], seeds=[0])
    with course(browser, lab, "00-tour", ".svdlab", dark=True, **small) as (sheet, panel, out):
        says = panel.locator(".svdlab-status").inner_text
        preview = panel.locator("img").first
        given = labs.at_rest(preview)
        seen: list[str] = []
        panel.get_by_role("button", name="Generate").click()
        sheet.wait(lambda: seen.append(says()) or "made in" in seen[-1], 60, f"no clip: {seen}")
        assert [text for text in seen if text.startswith("step ")]  # step by step
        assert preview.get_attribute("title").startswith("Clip at") and labs.changed(given, labs.pixels(preview)) > 0.002

        labs.slider(panel, "motion bucket").focus()
        sheet.page.keyboard.press("Home")
        panel.get_by_role("button", name="Generate").click()
        sheet.wait(lambda: panel.locator("input[type=checkbox]").count() == 2, 60, "no second try")
        panel.get_by_role("button", name="Compare").click()
        sheet.wait(lambda: panel.locator(".svdlab img:visible").count() == 2, 60, "no comparison")
        moving, second = (panel.locator(".svdlab img:visible").nth(i) for i in (0, 1))  # bucket 100, bucket 0
        first_frame = labs.at_rest(moving)
        sheet.to_end(panel.locator(".svdlab").get_by_role("slider").first)
        sheet.wait(lambda: second.get_attribute("title").endswith("frame 7"), 60, "the scrubber moves nothing")
        assert labs.changed(first_frame, labs.at_rest(moving)) > 0.005
        panel.get_by_role("button", name="flow").click()
        sheet.wait(lambda: "flow" in second.get_attribute("title"), 30, "no flow")
        sheet.shot("live-compared")

        sheet.to_end(labs.slider(panel, "steps"))  # 50 steps: time enough to change one's mind
        panel.get_by_role("button", name="Generate").click()
        sheet.wait(lambda: "step " in says(), 60, "it never began")
        panel.get_by_role("button", name="Cancel").click()
        sheet.wait(lambda: "stopped after" in says(), 60, "it was not stopped")
        stopped = int(says().split()[2])
        assert 0 < stopped < 50 and panel.locator("input[type=checkbox]").count() == 2

        panel.get_by_role("button", name="Export").last.click()
        sheet.wait(lambda: plans_in(out / "exports", "live-"), 30, "nothing was exported")
        plan = json.loads(plans_in(out / "exports", "live-")[0].read_text())
        assert [row["motion_bucket_id"] for row in plan] == [100, 0]
        ink = (
            panel.locator(".widget-html-content").nth(1).evaluate("e => getComputedStyle(e).color.match(/\\d+/g).map(Number)")
        )
        assert min(ink[:3]) > 128  # light, as the dark theme's text is


def test_the_sweep_notebook_and_its_report(browser: Any, lab: labs.Lab) -> None:
    with course(browser, lab, "01-conditioning-sweep", ".svdlab video") as (sheet, _, out):
        sheet.command("docmanager:save")
        saved = lab.root / "01-conditioning-sweep.ipynb"
        sheet.wait(lambda: '"image/png"' in saved.read_text(), 60, "it was not saved")
    notebook = nbformat.read(saved, 4)
    views = [o for c in notebook.cells for o in c.get("outputs", ()) if WIDGET in o.get("data", {})]
    assert any("image/png" in o["data"] for o in views)  # the figure is there for who has no widgets

    shutil.copyfile(saved, out / saved.name)
    page = report(out)
    assert page.stat().st_size < 20e6
    context = browser.new_context(offline=True)
    tab, errors = context.new_page(), []
    tab.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    tab.on("request", lambda request: errors.append(request.url) if request.url.startswith("http") else None)
    tab.goto(page.as_uri(), timeout=120_000)
    video = tab.locator("video").last
    video.scroll_into_view_if_needed()
    tab.wait_for_function("v => !v.paused && v.currentTime > 0", arg=video.element_handle())
    assert labs.pixels(video).std() > 0.02  # an image, not an empty box
    assert all(tab.locator("img").nth(i).get_attribute("alt") for i in range(tab.locator("img").count()))
    assert tab.get_by_text("model organism, not SVD").count() and tab.get_by_text("Apache-2.0").count()
    assert errors == []
    context.close()


def test_verdicts_in_the_limitations_notebook(browser: Any, lab: labs.Lab) -> None:
    header = ".jupyter-widget-Collapse-header"
    with course(browser, lab, "04-limitations", f".svdlab {header}") as (sheet, panel, _):
        lines = panel.locator(header)
        assert [lines.nth(i).inner_text().split(" · ")[0] for i in range(lines.count())] == ["stillness", "autoencoder"]
        for line in (0, 1):
            lines.nth(line).click()
            image = panel.locator(".svdlab-figure").nth(line)
            sheet.wait(lambda: image.count() and image.is_visible(), 60, "no figure")  # noqa: B023
            assert labs.at_rest(image).std() > 0.02 and image.get_attribute("aria-label")
        sheet.shot("verdicts")


def test_step_through_in_the_trace_notebook(browser: Any, lab: labs.Lab) -> None:
    four = dict(seeds=[0], num_inference_steps=4)
    with course(browser, lab, "02-denoising-trace", ".svdlab img:visible", **four) as (sheet, panel, _):
        image = panel.locator("img:visible").first
        before = labs.at_rest(image)
        panel.get_by_role("slider").first.focus()
        for step in (1, 2, 3):
            sheet.page.keyboard.press("ArrowRight")
            sheet.wait(lambda: image.get_attribute("title").endswith(f"step {step}"), 60, "the step stayed")  # noqa: B023
        after = labs.at_rest(image)
        assert labs.changed(before, after) > 0.05
        panel.locator("select").select_option("latents, by channel")
        sheet.wait(lambda: "by channel" in image.get_attribute("title"), 60, "no latents")
        assert labs.changed(after, labs.at_rest(image)) > 0.2


WIDGETS = {
    "explore": "widgets.explore('ledger', pipe=pipe)",
    "step-through": "widgets.step_through(tr, pipe)",
    "live": "widgets.live(pipe, 'scene-27', svdlab.Conditions(num_inference_steps=2, fps=3))",
    "compare": "widgets.compare(svdlab.load_results('ledger').query('seed == 0').head(4))",
    "verdicts": "widgets.verdicts(svdlab.probes.run('autoencoder', pipe, 'autoencoder', images=['scene-1', 'scene-27']))",
}
TRACED = """import svdlab
from svdlab import widgets
pipe = svdlab.load_pipeline()
with svdlab.trace(pipe, keep=("latents", "denoised", "guidance_pressure")) as tr:
    clip = svdlab.generate(pipe, "scene-27", num_inference_steps=4)
"""


def test_nothing_is_cut_in_two_widths_and_themes(browser: Any, lab: labs.Lab, ledger: Path) -> None:
    """Case G8. Windows of 900 px and 1,600 px, light and dark; without the side bar a widget is seen as a whole."""
    labs.write_notebook(lab.root / "widths.ipynb", TRACED, *WIDGETS.values())
    wrong: list[str] = []
    with labs.opened(browser, lab, "widths.ipynb") as sheet:
        page = sheet.page
        sheet.run_all(".svdlab video")
        panels = dict(zip(WIDGETS, page.locator(".svdlab:not(.svdlab .svdlab)").all(), strict=True))
        panels["verdicts"].locator(".jupyter-widget-Collapse-header").first.click()
        panels["explore"].get_by_role("tab", name="Dose and response").click()
        sheet.wait(lambda: page.locator(".svdlab-figure:visible").count() == 4, 60, "figures are missing")

        def look(when: str) -> None:
            for name, panel in panels.items():
                panel.scroll_into_view_if_needed()
                sheet.shot(f"{name}-{when}")
                wrong.extend(f"{name}, {when}: {what}" for what in panel.evaluate(labs.CUT))

        for dark in (False, True):
            sheet.command("apputils:change-theme", {"theme": f"JupyterLab {'Dark' if dark else 'Light'}"})
            for width in (900, 1600):
                page.set_viewport_size({"width": width, "height": 1000})
                page.wait_for_timeout(1500)
                look(f"{width}-{'dark' if dark else 'light'}")
        sheet.command("application:toggle-left-area")
        for width in (900, 1600):
            page.set_viewport_size({"width": width, "height": 1000})
            page.wait_for_timeout(1500)
            look(f"{width}-alone")
            seen = page.locator(".jp-Notebook .jp-WindowedPanel-outer, .jp-WindowedPanel-outer").first.bounding_box()["height"]
            tall = {name: panel.bounding_box()["height"] for name, panel in panels.items() if name != "verdicts"}
            wrong.extend(f"{name} is {t} px tall, the notebook {seen}, at {width}" for name, t in tall.items() if t > seen)
        panels["live"].get_by_role("button", name="Generate").click()
        sheet.wait(lambda: panels["live"].locator("input[type=checkbox]").count() == 1, 60, "no clip")
        panels["live"].get_by_role("button", name="Compare").click()
        sheet.wait(lambda: panels["live"].locator(".svdlab img:visible").count() == 1, 60, "no comparison")
        page.set_viewport_size({"width": 900, "height": 1000})
        page.wait_for_timeout(1500)
        panels["explore"].get_by_role("tab", name="Failures").click()
        sheet.wait(lambda: page.locator(".svdlab-figure[aria-label^='Worst of']:visible").count(), 60, "no failures")
        look("compared")
    assert not wrong, "\n".join(wrong)


def test_run_all_leaves_a_clone_as_it_was(browser: Any, tmp_path: Path) -> None:
    """Case G6: `make lab` opens copies, and what a run writes is ignored."""
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", "--depth=1", ROOT.as_uri(), clone], check=True)
    subprocess.run([sys.executable, "-m", "svdlab", "notebooks", "lab"], cwd=clone, check=True, stdout=subprocess.DEVNULL)
    copy = clone / "lab" / "02-denoising-trace.ipynb"
    small = dict(num_inference_steps=2, seeds=[0])
    nbformat.write(parameterize_notebook(load_notebook_node(str(copy)), small), copy)
    with labs.lab(clone) as own, labs.opened(browser, own, "lab/02-denoising-trace.ipynb") as sheet:
        sheet.run_all(".svdlab img")
        sheet.command("docmanager:save")
        sheet.wait(lambda: '"image/png"' in copy.read_text(), 60, "it was not saved")
    assert (clone / "results/02-denoising-trace/denoised.png").exists()
    assert [path.name for path in (clone / "lab").iterdir() if path.suffix == ".py"] == []
    status = ["git", "status", "--porcelain", "--untracked-files=all"]
    assert subprocess.run(status, cwd=clone, capture_output=True, text=True, check=True).stdout == ""
