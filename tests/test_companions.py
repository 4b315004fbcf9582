"""Several processes make one sweep: the same clips, each once, whoever is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file

import svdlab
from svdlab import companions, folders, ledger, runs, workers
from svdlab.errors import InputError, SweepInterrupted
from tests.small import save_checkpoint

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.filterwarnings("ignore::svdlab.images.CropWarning", "ignore:__array__ implementation")
ROWS = [{"num_inference_steps": 2, "seed": seed, "guidance_curve": (1.0, 1.5, 2.0, 3.0)} for seed in range(40)]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return svdlab.load_pipeline(save_checkpoint(tmp_path_factory.mktemp("checkpoint") / "small"), device="cpu")


def makers(out: Path) -> dict[str, str]:
    """The process that made each run."""
    return {run: folders.read_record(out / "runs" / run)["process"] for run in folders.run_ids(out)}


def others(out: Path) -> int:
    """How many runs another process made."""
    return sum(not maker.endswith(f":{os.getpid()}") for maker in makers(out).values())


def mine() -> list[psutil.Process]:
    return companions_among(psutil.Process().children())


def companions_among(family: list[psutil.Process]) -> list[psutil.Process]:
    found = []
    for process in family:
        with suppress(psutil.Error):  # it ends meanwhile
            found += [process] if "svdlab.companions" in " ".join(process.cmdline()) else []
    return found


class Until:
    """A sweep's measure that keeps this process back until others have made so many runs, or two minutes are over."""

    def __init__(self, out: Path, count: int) -> None:
        self.out, self.count, self.end = out, count, time.monotonic() + 120

    def __call__(self, clip: svdlab.Clip) -> int:
        while time.monotonic() < self.end and others(self.out) < self.count:
            time.sleep(0.1)
        return len(clip.frames)


def waiting_for(out: Path, count: int) -> Any:
    until = Until(out, count)

    def patience(clip: svdlab.Clip) -> int:
        return until(clip)

    return patience


def test_two_processes_make_each_clip_once_and_the_same(small: Any, tmp_path: Path) -> None:
    plan, out = ROWS[:24], tmp_path / "shared"
    before = torch.get_num_threads()
    table = svdlab.sweep(
        small, plan, out, image="cat", measure=("fidelity", waiting_for(out, 4)), processes=2, batch_size=4, progress=False
    )
    assert set(table.status) == {"done"} and set(table.patience) == {4} and table.drift_mse_last.notna().all()
    made = makers(out)
    threads = {folders.read_record(out / "runs" / run)["device"] for run in made}
    assert threads == {f"cpu, {max(1, before // 2)} threads"}
    assert len(set(made.values())) == 2 and len(made) == 24 and ledger.check(out).empty
    assert sorted(p.name for p in (out / "runs").iterdir()) == sorted(made)  # no lock, no temporary folder
    assert mine() == [] and torch.get_num_threads() == before
    alone = svdlab.sweep(small, plan, tmp_path / "alone", image="cat", measure="fidelity", processes=1, progress=False)
    assert alone.run_id.tolist() == table.run_id.tolist()
    one, two = (torch.stack([load_file(p)["latents"] for p in t.latents]) for t in (alone, table))
    assert (one - two).abs().max() < 1e-3 * one.abs().max()
    np.testing.assert_allclose(alone.drift_mse_last, table.drift_mse_last, rtol=1e-2)


def test_what_goes_over_the_line_comes_back(small: Any, tmp_path: Path) -> None:
    from svdlab.sweeps import _jobs

    plan = svdlab.grid(
        seed=[0, 1], guidance_interval=[(0.1, 5.0)], guidance_curve=[(1.0, 1.5, 2.0, 3.0)], image=["cat", "scene-3"]
    )
    given = runs.facts(small)
    jobs, pictures = _jobs(small, svdlab.sweeps.plans.as_plan(plan), None, given)
    how = runs.How(given, runs.as_measures(("motion", waiting_for(tmp_path, 0))), {"keep": ("latents",), "steps": [1]}, 3)
    line = companions.task_line(small, jobs, pictures, tmp_path, how, workers.Share(2, 12.5))
    assert "\n" not in line
    load, read, images, out, back, share = companions.read_task(line)
    assert read == jobs and out == tmp_path.resolve() and share == workers.Share(2, 12.5)
    assert {h: i.tobytes() for h, i in images.items()} == {h: i.tobytes() for h, i in pictures.items()}
    assert back.facts == how.facts and [m.name for m in back.measures] == ["motion"] and back.measures[0] == how.measures[0]
    assert runs.describe_kept(back.kept) == runs.describe_kept(how.kept) and back.batch_size == 3
    assert runs.weights_hash(workers.load_same(load, back)) == given["weights"]


@pytest.mark.slow
def test_a_killed_companion_costs_no_clip(small: Any, tmp_path: Path) -> None:
    out = tmp_path / "study"

    def kill_one() -> None:
        while not others(out):
            time.sleep(0.05)
        for process in mine():
            os.kill(process.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    with pytest.warns(companions.CompanionWarning, match="ended early: exit status -9"):
        table = svdlab.sweep(
            small, ROWS, out, image="cat", measure=waiting_for(out, 1), processes=2, batch_size=2, progress=False
        )
    killer.join(10)
    assert set(table.status) == {"done"} and len(makers(out)) == len(ROWS) and ledger.check(out).empty


@pytest.mark.slow
def test_ctrl_c_lets_every_process_finish_what_it_has_in_hand(small: Any, tmp_path: Path) -> None:
    out = tmp_path / "study"

    def press() -> None:
        while not others(out):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()
    with pytest.raises(SweepInterrupted, match="again to go on"):
        svdlab.sweep(small, ROWS, out, image="cat", measure=waiting_for(out, 1), processes=2, batch_size=2, progress=False)
    made = makers(out)
    assert 1 <= len(made) < len(ROWS) and ledger.check(out).empty and mine() == []
    assert sorted(p.name for p in (out / "runs").iterdir()) == sorted(made)


def test_a_changed_model_stays_in_this_process(tmp_path: Path) -> None:
    pipe = svdlab.load_pipeline(save_checkpoint(tmp_path / "small"), device="cpu")
    next(pipe.unet.parameters()).data.add_(1.0)
    out = tmp_path / "study"

    def slow(clip: svdlab.Clip) -> int:
        while mine():  # until the companion has seen that its weights are others
            time.sleep(0.1)
        return 1

    with pytest.warns(companions.CompanionWarning, match="other weights"):
        table = svdlab.sweep(pipe, ROWS[:3], out, image="cat", measure=slow, processes=2, progress=False)
    assert set(table.status) == {"done"} and set(makers(out).values()) == {f"{os.uname().nodename}:{os.getpid()}"}


SCRIPT = """
import sys, warnings
warnings.simplefilter("ignore")
import svdlab
pipe = svdlab.load_pipeline(sys.argv[1], device="cpu")
print("script", flush=True)
rows = [dict(num_inference_steps=2, seed=s) for s in range(400)]
svdlab.sweep(pipe, rows, sys.argv[2], image="cat", measure=(), processes=2, batch_size=2, progress=False)
"""


@pytest.mark.slow
def test_a_script_without_a_main_guard_runs_once_and_its_companion_dies_with_it(small: Any, tmp_path: Path) -> None:
    script, out = tmp_path / "mine.py", tmp_path / "study"
    script.write_text(SCRIPT)
    (tmp_path / "json.py").write_text("raise SystemExit('a file beside the script was imported')")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-P", script, small.source.checkpoint, out]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as process:
        end = time.monotonic() + 120
        while time.monotonic() < end and len(set(makers(out).values())) < 2:
            time.sleep(0.1)
        family = psutil.Process(process.pid).children(recursive=True)
        assert companions_among(family)
        process.kill()
        said = process.stdout.read() if process.stdout else ""
    assert said == "script\n"  # once: nothing imported it
    gone, alive = psutil.wait_procs(family, timeout=20)
    assert gone and not alive
    assert ledger.check(out).empty


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"processes": 0}, "processes=0: give a whole number"),
        ({"processes": True}, "processes=True"),
        ({"processes": "all"}, "processes='all'"),
        ({"processes": 2, "keep": {"keep": (), "modules": lambda name: "attn" in name}}, "keep= holds what cannot"),
    ],
)
def test_what_cannot_be_shared_is_refused(small: Any, tmp_path: Path, how: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        svdlab.sweep(small, ROWS[:2], tmp_path / "study", image="cat", **how)
    assert not (tmp_path / "study").exists()


def test_why_a_sweep_stays_in_this_process(tmp_path: Path) -> None:
    pipe = svdlab.load_pipeline(save_checkpoint(tmp_path / "small"), device="cpu")
    how = runs.How(runs.facts(pipe))
    assert companions.why_not(pipe, how, None) == ""
    assert "hand" not in companions.why_not(svdlab.ProbePipeline(**pipe.components), how, None)
    assert "load_pipeline" in companions.why_not(svdlab.ProbePipeline(**pipe.components), how, None)
    assert "executor=" in companions.why_not(pipe, how, object())
    assert "edits" in companions.why_not(pipe, runs.How(runs.facts(pipe, "no attention")), None)
    handle = pipe.unet.conv_in.register_forward_hook(lambda *args: None)
    assert "hooks" in companions.why_not(pipe, how, None)
    handle.remove()
    assert companions.how_many("auto", "") is None and companions.how_many("auto", "hooks") == 1
    assert companions.how_many(2, "") == 2


def test_the_first_clip_decides_and_the_last_batches_are_small(small: Any, tmp_path: Path) -> None:
    jobs = [runs.Job(f"{n:024x}", f"{n:024x}", svdlab.Conditions(), n, "", "") for n in range(40)]
    units = deque(workers._Unit([job]) for job in jobs)
    share = workers.Share(2)
    sizes = []
    while units:
        sizes.append(share.batch_size(4, units, tmp_path))
        for _ in range(sizes[-1]):
            units.popleft()
    assert sizes[:7] == [4] * 7 and sizes[7:] == [3, 3, 2, 1, 1, 1, 1]
    (tmp_path / "runs" / jobs[0].run_id).mkdir(
        parents=True
    )  # made since, by another process; or long ago, and lacking something
    left = deque(workers._Unit([job]) for job in jobs[:5])
    assert workers.Share(2, time.time() - 60).batch_size(4, left, tmp_path) == 1
    assert workers.Share(2, time.time() + 60).batch_size(4, left, tmp_path) == 2
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        how, started = runs.How(runs.facts(small)), []
        crew = companions.Crew(small, [], {}, tmp_path, how)
        crew._start, crew._room = started.append, lambda: 9  # type: ignore[method-assign]
        assert crew.batch_size(4, deque(), tmp_path) == 1
        crew.after(1, 0.1, 100)
        assert started == [] and crew.batch_size(4, deque(), tmp_path) == 4  # ten seconds are left: alone
        crew = companions.Crew(small, [], {}, tmp_path, how)
        crew._start, crew._room = started.append, lambda: 9  # type: ignore[method-assign]
        crew.after(1, 1.0, 100)
        assert started == [2]
        torch.set_num_threads(1)
        crew = companions.Crew(small, [], {}, tmp_path, how)
        crew.after(1, 1.0, 100)
        assert crew.processes == 1 and not crew.undecided  # whoever gave torch one thread gets one process
    finally:
        torch.set_num_threads(before)
