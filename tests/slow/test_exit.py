"""A program that ends while a widget works on a thread ends at once and cleanly: cut off inside torch, it would abort."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
HEAD = """
import sys, time
import svdlab
pipe = svdlab.load_pipeline()
many = 1000  # steps: a minute at least
def begun():
    print("begun", file=sys.stderr, flush=True)
"""
LIVE = """
panel = svdlab.widgets.live(pipe, "scene-27", svdlab.Conditions(num_inference_steps=many))
panel.generate()
while panel.job.bar.value < 2:
    time.sleep(0.005)
"""
EXPLORE = """
rows = svdlab.grid(seed=[0, 1], motion_bucket_id=[20, 30], num_inference_steps=1)
svdlab.sweep(pipe, rows.drop(index=3), "study", image="scene-27", progress=False, measure=())
table = svdlab.load_results("study").assign(num_inference_steps=many)
panel = svdlab.widgets.explore(table, pipe=pipe)
panel.select(seed=1, motion_bucket_id=30)
job = panel.panes[0].job
job.start()
while job.bar.value < 2:
    time.sleep(0.005)
"""
STEPS = """
with svdlab.trace(pipe, keep=("denoised",)) as tr:
    svdlab.generate(pipe, "scene-27", num_inference_steps=3)
panel = svdlab.widgets.step_through(tr, pipe)
time.sleep(0.1)  # as long as it waits before it decodes
"""
ENDS = {"end": (LIVE, "", 0), "exit": (LIVE, "sys.exit(3)", 3), "closed": (LIVE, "panel.close()", 0)}
ENDS |= {"explore": (EXPLORE, "", 0), "step_through": (STEPS, "", 0)}


@pytest.mark.parametrize("way", ENDS)
def test_a_program_ends_cleanly_while_a_widget_works(way: str, tmp_path: Path) -> None:
    """The two ways that close nothing themselves are tried at another place of a step, too."""
    work, last, code = ENDS[way]
    for wait in (0.0, 0.013) if way in ("end", "explore") else (0.0,):
        script = f"{HEAD}{work}begun()\ntime.sleep({wait})\n{last}\n"
        root = str(Path(__file__).parents[2])
        env = {**os.environ, "PYTHONPATH": root}
        with subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=env) as run:
            assert run.stderr is not None
            said = next((line for line in run.stderr if line == "begun\n"), "")
            began = time.monotonic()
            rest = run.stderr.read()
            run.wait(60)
        assert (said, rest, run.returncode) == ("begun\n", "", code)
        assert time.monotonic() - began < 20  # a step and what Python does at its end; not a thousand steps
