"""Makes results/gallery/, which git keeps: the images that README.md shows, with the command that makes each.

`python tools/gallery.py` executes the notebooks that the images come from, at their defaults, takes the images, opens
the explorer in a browser for its screenshot, and writes results/gallery/README.md. `--as-they-are` takes the notebooks'
images from results/ as they lie there; `--no-browser` keeps the screenshot that is there.
"""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
RESULTS = ROOT / "results"
GALLERY = RESULTS / "gallery"
LIMIT = 1e6  # bytes a file: a clone should stay small


class Shot(NamedTuple):
    """An image: the notebook that saves it, the file, and what it shows."""

    notebook: str
    file: str
    shows: str


SHOTS = (
    Shot("00-tour", "photograph", "A photograph, frame by frame, beside the image that was given: the camera pans"),
    Shot("00-tour", "announced", "What marks announce: an object's motion, and zooms of a drawn ground and of a photograph"),
    Shot("00-tour", "sweep", "A sweep as a contact sheet: the last frame by motion bucket and fps, with the camera's speed"),
    Shot("00-tour", "denoising", "The denoised estimate of one frame, from pure noise to the finished image"),
    Shot("00-tour", "denoising-latents", "The same, as colours of the latents"),
    Shot("00-tour", "dose-response", "The camera's speed against the motion bucket, by fps, with intervals"),
    Shot("00-tour", "flow", "Optical flow of the clip: hue is direction"),
    Shot("02-denoising-trace", "attention", "Temporal attention: which frame each frame looks at, by block and step"),
    Shot("02-denoising-trace", "steps", "Three samplers: how far a clip is from one of many steps, by the number of steps"),
    Shot("02-denoising-trace", "guidance-pressure", "How hard guidance pulls, by step and frame"),
    Shot("03-motion", "trajectories", "Where points of the first frame travel"),
    Shot("04-limitations", "stillness", "A limitation of the model card: the share of clips without motion, by motion bucket"),
    Shot("05-bias", "forest", "Effects of planted differences between paired images, with intervals and a margin"),
    Shot("06-interventions", "branch-and-swap", "What still arrives of a change, by the step from which it holds"),
)
EXPLORER = "01-conditioning-sweep-explorer.png"
CARD = "04-limitations-card.png"
REAL = """## Two clips of SVD itself, measured

The wheel that holds them is GPL-3.0, so nothing made from them lies here. They are 1024x576, svd.safetensors, 14 frames; their
settings are read from the files. On your machine:

```
pip download --no-deps comfyui-workflow-templates==0.1.0
unzip -j comfyui_workflow_templates-0.1.0-*.whl "*/image_to_video-1.webp" "*/txt_to_image_to_video-1.webp" -d real-clips
svdlab measure real-clips --out results/real-clips    # sheet.png, flow-1.png, flow-2.png, report.html
```
"""


def main(arguments: list[str]) -> int:
    unknown = set(arguments) - {"--as-they-are", "--no-browser"}
    if unknown:
        print(f"unknown: {', '.join(sorted(unknown))}. Known are --as-they-are and --no-browser.")
        return 2
    GALLERY.mkdir(parents=True, exist_ok=True)
    if "--as-they-are" not in arguments:
        execute(sorted({shot.notebook for shot in SHOTS} | {"01-conditioning-sweep"}))
    missing = [f"{shot.notebook}/{shot.file}.png" for shot in SHOTS if not take(shot)]
    if "--no-browser" not in arguments and not photograph(RESULTS / "01-conditioning-sweep" / "ledger"):
        missing.append(EXPLORER)
    if "--no-browser" not in arguments and not photograph_card(RESULTS / "04-limitations" / "limitations.html"):
        missing.append(CARD)
    write_index()
    for old in sorted(GALLERY.glob("*.png")):
        if old.name not in {target(shot).name for shot in SHOTS} | {EXPLORER, CARD}:
            old.unlink()
            print(f"removed, no longer listed: {old.name}")
    for name in missing:
        print(f"not there: {name}")
    return bool(missing)


def execute(names: list[str]) -> None:
    from svdlab.study import notebooks

    for name in names:
        print(f"notebooks/{name}.ipynb", flush=True)
        notebooks.run(ROOT / "notebooks" / f"{name}.ipynb", RESULTS / name)


def target(shot: Shot) -> Path:
    return GALLERY / f"{shot.notebook}-{shot.file}.png"


def take(shot: Shot) -> bool:
    """Copy a notebook's image; one above the limit is halved until it fits."""
    source = RESULTS / shot.notebook / f"{shot.file}.png"
    if not source.is_file():
        return False
    if source.stat().st_size <= LIMIT:
        shutil.copyfile(source, target(shot))
        return True
    with Image.open(source) as opened:
        image, info = opened.copy(), opened.info
    while len(data := encoded(image, info)) > LIMIT:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    target(shot).write_bytes(data)
    return True


def encoded(image: Image.Image, info: dict) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True, dpi=info.get("dpi"))
    return buffer.getvalue()


def photograph(ledger: Path) -> bool:
    """The explorer on a ledger, as JupyterLab shows it; False where there is no ledger or no browser."""
    from tests import lab as labs

    if labs.CHROMIUM is None or not (ledger / "runs").is_dir():
        print(labs.NO_BROWSER if labs.CHROMIUM is None else f"no runs in {ledger}")
        return False
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "notebooks")
        root.mkdir()
        labs.write_notebook(
            root / "explorer.ipynb", f"from svdlab import widgets\nwidgets.explore({str(ledger)!r}, x='motion_bucket_id')"
        )
        with labs.lab(root) as lab, labs.chromium() as browser, labs.opened(browser, lab, "explorer.ipynb") as sheet:
            sheet.run_all(".svdlab video")
            page, panel = sheet.page, sheet.page.locator(".svdlab").first
            page.get_by_role("button", name="Second pane").click()
            labs.slider(panel.locator(".svdlab-pane").nth(1), "motion bucket").focus()
            page.keyboard.press("End")
            page.get_by_role("tab", name="Dose and response").click()
            sheet.wait(lambda: page.locator(".svdlab-figure[aria-label*='square']").count(), 60, "no curve")
            for n in range(2):
                labs.last_frame(panel.locator("video").nth(n))
            panel.screenshot(path=GALLERY / EXPLORER)
    return (GALLERY / EXPLORER).stat().st_size <= LIMIT


def photograph_card(page: Path) -> bool:
    """The head of the limitations card, as a browser shows it."""
    from tests import lab as labs

    if labs.CHROMIUM is None or not page.is_file():
        return False
    with labs.chromium() as browser:
        sheet = browser.new_page(viewport={"width": 1000, "height": 1300})
        sheet.goto(page.resolve().as_uri())
        sheet.screenshot(path=GALLERY / CARD)
    return (GALLERY / CARD).stat().st_size <= LIMIT


def write_index() -> None:
    """A page with each image that is there, what it shows, and the command that makes it."""
    lines = [
        "# Gallery",
        "",
        "`make gallery` makes all of it again. The images here were made with the model organism, not SVD.",
        "",
    ]
    shown = [(target(shot).name, shot.shows, f"svdlab notebook {shot.notebook}") for shot in SHOTS]
    shown.append(
        (EXPLORER, "`widgets.explore` in JupyterLab: two runs of a sweep and their places on the curve", "make gallery")
    )
    shown.append(
        (CARD, "The limitations card: the model card's sentences, each with its finding", "svdlab notebook 04-limitations")
    )
    for name, shows, command in shown:
        if (GALLERY / name).is_file():
            lines += [f"## {shows}", "", f"![{shows.replace('`', '')}]({name})", "", f"`{command}`", ""]
    (GALLERY / "README.md").write_text("\n".join([*lines, REAL]), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
