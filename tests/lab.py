"""JupyterLab in a real browser, for the tests that look at widgets: a server of its own, Debian's Chromium, patience.

Screenshots go to build/browser/, which git ignores.
"""

import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
SHOTS = ROOT / "build" / "browser"
PROMPTS = "what => [...document.querySelectorAll('.jp-InputPrompt')].some(p => p.innerText.match(what))"
KERNEL = "window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel?.status ?? 'none'"
TOKEN = "a-test-on-loopback"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NO_BROWSER = "no Chromium here: on Debian, `apt-get install chromium`"
SETTINGS = {
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},  # every cell in the page, however far down
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
}
# What JupyterLab itself may say: of its own optional services that a bare server lacks.
LABS_OWN = ("/lsp/", "favicon", "workspaces", "jupyterlab-manager", "ResizeObserver")


@dataclass
class Lab:
    """A running server. root: its folder, where notebooks go."""

    url: str
    root: Path


@dataclass
class Sheet:
    """A notebook open in the browser. errors: what the page's console complained of."""

    page: Any
    errors: list[str] = field(default_factory=list)

    def run_all(self, until: str, timeout: float = 300) -> None:
        """Run every cell, and wait until none runs and a selector is there."""

        def begun() -> bool:
            self.command("notebook:run-all-cells")  # lost, where the notebook is not ready for it
            self.page.wait_for_timeout(2000)
            return bool(self.page.evaluate(PROMPTS, "[*0-9]"))

        idle = lambda: self.page.evaluate(KERNEL) == "idle"
        self.wait(idle, 60, "the kernel never came up")
        self.wait(begun, 60, "no cell ever ran")
        self.wait(lambda: idle() and not self.page.evaluate(PROMPTS, "[*]"), timeout, "cells still run")
        failed = self.page.locator(".jp-OutputArea-output", has_text="Traceback (most recent call last)")
        assert not failed.count(), failed.first.inner_text()
        self.wait(lambda: self.page.locator(until).count(), 60, f"{until} did not come")

    def wait(self, what: Callable[[], Any], timeout: float, complaint: str) -> None:
        ends = time.monotonic() + timeout
        while not what():
            if time.monotonic() > ends:
                raise AssertionError(f"{complaint} after {timeout} s; see {self.shot('timeout')}; console: {self.errors}")
            time.sleep(0.1)

    def to_end(self, handle: Any, timeout: float = 60) -> None:
        """A slider's handle to its end by the keyboard; pressed again should the key have gone elsewhere."""

        def there() -> bool:
            handle.focus()
            self.page.keyboard.press("End")
            return bool(handle.evaluate("h => h.getAttribute('aria-valuenow') === h.getAttribute('aria-valuemax')"))

        self.wait(there, timeout, "the slider's handle never came to its end")

    def command(self, name: str, arguments: Any = None) -> None:
        self.page.evaluate("([name, given]) => window.jupyterapp.commands.execute(name, given ?? {})", [name, arguments])

    def shot(self, name: str) -> Path:
        SHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SHOTS / f"{name}.png")
        return SHOTS / f"{name}.png"


@contextmanager
def lab(root: Path) -> Iterator[Lab]:
    """A JupyterLab server on a free port, gone with the block."""
    config = root.parent / "jupyter"
    (config / "labconfig").mkdir(parents=True)
    (config / "labconfig" / "default_setting_overrides.json").write_text(json.dumps(SETTINGS))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {"JUPYTER_CONFIG_DIR": config, "JUPYTERLAB_SETTINGS_DIR": config / "own", "JUPYTER_RUNTIME_DIR": config / "run"}
    env = {**os.environ, "PYTHONPATH": str(ROOT), **{k: str(v) for k, v in own.items()}, "IPYTHONDIR": str(config / "ipython")}
    options = f"""--no-browser --allow-root --port={port} --ServerApp.root_dir={root} --IdentityProvider.token={TOKEN}
        --LabApp.expose_app_in_browser=True --LabApp.extension_manager=readonly --ServerApp.port_retries=0
        --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate --LabApp.workspaces_dir={config / "workspaces"}"""
    log = (config / "server.log").open("w")
    command = [sys.executable, "-m", "jupyterlab", *options.split()]
    server = subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT, cwd=root)
    url = f"http://127.0.0.1:{port}"
    try:
        ends = time.monotonic() + 60
        while server.poll() is None and time.monotonic() < ends:
            with suppress(OSError):
                urllib.request.urlopen(f"{url}/api?token={TOKEN}", timeout=2).close()
                break
            time.sleep(0.2)
        else:
            raise AssertionError(f"no JupyterLab:\n{(config / 'server.log').read_text()[-3000:]}")
        yield Lab(url, root)
    finally:
        server.terminate()  # it ends its kernels, too
        server.wait(60)
        log.close()


@contextmanager
def chromium() -> Iterator[Any]:
    """Debian's Chromium, without a window; skips the test where there is none."""
    if CHROMIUM is None:
        pytest.skip(NO_BROWSER)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--autoplay-policy=no-user-gesture-required"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(browser: Any, lab: Lab, name: str, *, dark: bool = False) -> Iterator[Sheet]:
    """A notebook of the server's folder, open in a page of its own, whose console has no complaint at the end."""
    context = browser.new_context(viewport={"width": 1500, "height": 1300})
    context.set_default_timeout(120_000)  # a busy machine takes its time
    page = context.new_page()
    sheet = Sheet(page)
    page.on("pageerror", lambda error: sheet.errors.append(str(error)))
    page.on("console", lambda message: sheet.errors.append(message.text) if message.type == "error" else None)
    try:
        page.goto(f"{lab.url}/lab/tree/{name}?token={TOKEN}&reset")
        page.wait_for_selector(".jp-Notebook .jp-Cell")
        if dark:
            sheet.command("apputils:change-theme", {"theme": "JupyterLab Dark"})
        yield sheet
        sheet.shot(f"{Path(name).stem}{'-dark' if dark else ''}")
        assert [e for e in sheet.errors if not any(known in e for known in LABS_OWN)] == []
        sheet.command("notebook:shutdown-kernel")
    finally:
        context.close()


# What is cut within a widget, or reaches beyond its cell, in words.
CUT = """root => {
  const bad = [], cell = root.closest('.jp-OutputArea-output').getBoundingClientRect();
  const pen = document.createElement('canvas').getContext('2d');
  for (const e of root.querySelectorAll('*')) {
    const style = getComputedStyle(e), box = e.getBoundingClientRect();
    const words = String(e.innerText || e.value || '').slice(0, 60);
    if (style.visibility === 'hidden' || !box.width || !box.height || ['OPTION', 'STYLE'].includes(e.tagName)) continue;
    const report = what => bad.push(`${e.tagName}.${e.className.baseVal ?? e.className} "${words}" ${what}`);
    if (e.closest('svg') === null && style.overflowX !== 'visible' && e.scrollWidth > e.clientWidth + 1)
      report(`is ${e.scrollWidth} px wide in ${e.clientWidth}`);
    if (box.right > cell.right + 1 || box.left < cell.left - 1) report(`ends at ${box.right}, its cell at ${cell.right}`);
    if (e.tagName === 'SELECT' && !e.multiple && e.selectedOptions.length) {
      pen.font = style.font;
      const wide = pen.measureText(e.selectedOptions[0].text).width;
      if (wide > e.clientWidth - 20) report(`shows ${e.clientWidth - 20} px of ${wide}`);  // beside its arrow
    }
  }
  return bad; }"""


def write_notebook(path: Path, *cells: str) -> Path:
    """A notebook of code cells."""
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells], metadata=kernel), path)
    return path


def slider(panel: Any, name: str) -> Any:
    """A slider's handle by the label beside it: ipywidgets ties the two together for the eye only."""
    return panel.locator(".widget-hslider", has_text=name).get_by_role("slider").first


def pixels(locator: Any) -> np.ndarray:
    """An element as it is on the screen, floats "h w 3" in [0, 1]."""
    return np.asarray(Image.open(io.BytesIO(locator.screenshot())).convert("RGB")) / 255.0


def changed(before: np.ndarray, after: np.ndarray) -> float:
    """The share of pixels that differ visibly; 1 where even the size does."""
    return float((np.abs(before - after).max(-1) > 0.08).mean()) if before.shape == after.shape else 1.0


HOLD = """async video => {
  const end = video.duration - 0.06;
  if (video.paused && Math.abs(video.currentTime - end) < 0.01) return;
  video.pause(); video.controls = false; video.currentTime = end;
  if (video.seeking) await new Promise(done => video.addEventListener('seeked', done, {once: true})); }"""


def last_frame(video: Any) -> np.ndarray:
    """A video held at its end, as it is on the screen, once the screen shows it."""
    video.evaluate("v => v.readyState >= 2 || new Promise(done => v.addEventListener('loadeddata', done, {once: true}))")
    video.evaluate(HOLD)
    return at_rest(video)


def at_rest(locator: Any, timeout: float = 20) -> np.ndarray:
    """An element's pixels when three looks in a row find the same."""
    ends, looks = time.monotonic() + timeout, [pixels(locator)]
    while time.monotonic() < ends:
        time.sleep(0.15)
        looks.append(pixels(locator))
        if len(looks) > 2 and all(changed(looks[-1], other) == 0 for other in looks[-3:-1]):
            return looks[-1]
    raise AssertionError("the image does not come to rest")
