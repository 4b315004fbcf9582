"""How fast the widgets answer: a move of explore's slider until the browser paints the video, and explore over 1,000 runs."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from tests import lab as labs
from tools.bench import Row

MOVES = 40
RUNS = 1000
OPEN = """
import sys, time, psutil
import pandas as pd, ipywidgets, svdlab.widgets
table = pd.read_parquet(sys.argv[1])
before, start = psutil.Process().memory_info().rss, time.perf_counter()
panel = svdlab.widgets.explore(table)
panel._repr_mimebundle_()
print(time.perf_counter() - start, (psutil.Process().memory_info().rss - before) / 1e6)
"""
# From the key to the first painted frame of the new video, in ms.
MOVE = """([handle, video, key]) => new Promise(done => {
  const start = performance.now();
  const painted = () => requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - start)));
  video.addEventListener('loadeddata', painted, {once: true});
  handle.dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true, cancelable: true}));
})"""


# From the key to the frame after the one in which other stills are seen, in ms.
STILL = """([handle, panel, key]) => new Promise(done => {
  const start = performance.now(), shown = () => [...panel.querySelectorAll('img')].filter(i => i.offsetParent !== null);
  const titles = () => shown().map(i => i.title).join(), before = titles();
  const look = () => titles() === before || !shown().every(i => i.complete && i.naturalWidth)
    ? requestAnimationFrame(look) : requestAnimationFrame(() => done(performance.now() - start));
  handle.dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true, cancelable: true}));
  requestAnimationFrame(look);
})"""
STILLS = {
    "frame": "clips = [generate(pipe, 'scene-27', seed=s, num_inference_steps=2) for s in range(4)]\nwidgets.compare(clips)",
    "step": """with trace(pipe, keep=("latents", "denoised", "guidance_pressure")) as tr:
    generate(pipe, 'scene-27', num_inference_steps=15)
widgets.step_through(tr, decoded=tr.decode(pipe))""",
}


def stills(root: Path, slider: str) -> list[float]:
    """Moves of `compare`'s or `step_through`'s slider, whose stills are in the browser already."""
    head = "from svdlab import generate, load_pipeline, trace, widgets\npipe = load_pipeline()\n"
    labs.write_notebook(root / f"{slider}.ipynb", head + STILLS[slider])
    with labs.lab(root) as lab, labs.chromium() as browser, labs.opened(browser, lab, f"{slider}.ipynb") as sheet:
        sheet.run_all(".svdlab img:visible")
        sheet.page.wait_for_timeout(2000)
        panel, taken = sheet.page.locator(".svdlab").first, []
        given = [labs.slider(panel, slider).element_handle(), panel.element_handle()]
        for key in ((["ArrowRight"] * 7 + ["ArrowLeft"] * 7) * 4)[: MOVES + 2]:
            taken.append(sheet.page.evaluate(STILL, [*given, key]))
            sheet.page.wait_for_timeout(150)
        return taken[2:]


def moves(root: Path) -> list[float]:
    labs.write_notebook(root / "explore.ipynb", "from svdlab import widgets\nwidgets.explore('ledger')")
    with labs.lab(root) as lab, labs.chromium() as browser, labs.opened(browser, lab, "explore.ipynb") as sheet:
        sheet.run_all(".svdlab video")
        handle = labs.slider(sheet.page, "seed").element_handle()
        video = sheet.page.locator(".svdlab video").first.element_handle()
        keys = (["ArrowRight"] * 7 + ["ArrowLeft"] * 7) * 4
        taken = []
        for key in keys[: MOVES + 2]:
            taken.append(sheet.page.evaluate(MOVE, [handle, video, key]))
            sheet.page.wait_for_timeout(100)
        return taken[2:]


def opening(table: Path) -> tuple[float, float]:
    done = subprocess.run([sys.executable, "-c", OPEN, str(table)], capture_output=True, text=True, check=True)
    seconds, megabytes = done.stdout.split()
    return float(seconds), float(megabytes)


def main() -> list[Row]:
    import pandas as pd

    import svdlab

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "notebooks")
        root.mkdir()
        pipe = svdlab.load_pipeline()
        plan = svdlab.grid(motion_bucket_id=[20, 200], seed=range(8), num_inference_steps=1)
        results = svdlab.sweep(pipe, plan, root / "ledger", image="scene-27", progress=False)
        # A thousand runs: the same videos under conditions of their own, as a table that a sweep could have returned.
        many = pd.concat([results] * (RUNS // len(results) + 1), ignore_index=True).head(RUNS)
        rng = np.random.default_rng(0)
        measures = ["object_px", "camera_px", "flow_px", "drift_ssim_last"]
        many = many.assign(seed=range(RUNS), **{name: rng.random(RUNS) for name in measures})
        many.to_parquet(Path(folder, "many.parquet"))
        seconds, megabytes = opening(Path(folder, "many.parquet"))
        rows = [
            Row(f"explore on {RUNS} runs, until it is shown", seconds, 2, "s"),
            Row(f"explore on {RUNS} runs, memory that it adds", megabytes, 300, "MB"),
        ]
        if labs.CHROMIUM is None:
            print(labs.NO_BROWSER)
            return rows
        taken = moves(root)
        for number, (slider, what) in enumerate((("frame", "compare"), ("step", "step_through"))):
            (root := Path(folder, str(number), "notebooks")).mkdir(parents=True)
            ms = float(np.percentile(stills(root, slider), 95))
            rows.append(Row(f"a move of {what}'s slider until its still is painted, 95th percentile", ms, 60, "ms"))
        return [
            *rows,
            Row("a slider's move until the video is painted, 95th percentile", float(np.percentile(taken, 95)), 150, "ms"),
        ]
