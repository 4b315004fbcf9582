"""What kills a night's work, done to real processes: kill -9, a full disk, too little memory, a lost worker, a rival."""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tqdm.auto import tqdm

import svdlab
from svdlab.study import ledger
from tests.small import FRAMES, save_checkpoint

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::svdlab.pipeline.images.CropWarning")]

SWEEP = """
import faulthandler, json, resource, signal, sys, warnings
faulthandler.dump_traceback_later(280)  # should it hang: where
warnings.simplefilter("ignore")
import torch, svdlab
checkpoint, out, rows, how = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), json.loads(sys.argv[4])
pipe = svdlab.load_pipeline(checkpoint, device="cpu")
svdlab.sample_image("cat")
if "file_limit" in how:
    resource.setrlimit(resource.RLIMIT_FSIZE, (how["file_limit"], resource.RLIM_INFINITY))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as Python does for itself: a write beyond the limit then fails
print("ready", flush=True)
more = dict(measure=how.get("measure", ()), batch_size=how.get("batch", 2), threads=2, progress=False)
svdlab.sweep(pipe, rows, out, image="cat", **more)
print("done", flush=True)
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("checkpoint") / "small")


def rows(n: int, **more: Any) -> list[dict[str, Any]]:
    return [{"num_inference_steps": 2, "seed": seed, **more} for seed in range(n)]


# A limit on file size cuts off what Python writes into __pycache__, too, and leaves it there.
ENVIRONMENT = {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}


class Started(subprocess.Popen):
    """A process that is gone when its `with` block ends, also where it hung."""

    def __exit__(self, *error: Any) -> None:
        self.kill()
        super().__exit__(*error)


def start(checkpoint: Path, out: Path, plan: list[dict[str, Any]], **how: Any) -> Started:
    command = [sys.executable, "-c", SWEEP, str(checkpoint), str(out), json.dumps(plan), json.dumps(how)]
    return Started(command, cwd=ROOT, env=os.environ | ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def stamps(out: Path) -> dict[str, int]:
    """When each published run's frames were written: a run made again has another."""
    paths = [out / "runs" / run_id / ledger.FRAMES for run_id in ledger.run_ids(out)]
    return {path.parent.name: path.stat().st_ino for path in paths if path.exists()}


def work(pipe: Any, out: Path, plan: list[dict[str, Any]]) -> None:
    """In a child of this process, which has the model already: thirty starts from nothing would take ten minutes.

    tqdm's lock is shared with forked children, and one that is killed while it holds the lock would stop every bar after it.
    """
    tqdm.set_lock(threading.RLock())
    svdlab.sweep(pipe, plan, out, image="cat", measure=(), batch_size=2, threads=2, progress=False)


def test_thirty_kills_cost_no_published_run(checkpoint: Path, tmp_path: Path) -> None:
    torch.set_num_threads(1)  # a child must not wait for threads that only its parent has
    pipe = svdlab.load_pipeline(checkpoint, device="cpu")
    out, plan, rng, fork = tmp_path / "study", rows(30), random.Random(0), multiprocessing.get_context("fork")
    kills, seen, remains = 0, {}, 0
    work(pipe, tmp_path / "warm", rows(2))  # imports what is imported on first use
    begun = time.monotonic()
    work(pipe, tmp_path / "clock", rows(6))
    span = time.monotonic() - begun  # from nothing to six runs, on this machine as busy as it is
    while kills < 30 or (kills < 150 and (len(seen) < 10 or remains < 3)):  # more where the machine became busier since
        if len(seen) == len(plan):
            plan = rows(len(plan) + 30)  # more to do, so that every kill hits a sweep at work
        process = fork.Process(target=work, args=(pipe, out, plan))
        process.start()
        time.sleep(rng.uniform(0, 1) * span)
        running = process.is_alive()
        process.kill()
        process.join()
        kills += running
        now = stamps(out)
        assert {run: now.get(run) for run in seen} == seen, "a published run was made again or lost"
        seen = now
        if (out / "runs").exists():
            assert ledger.check(out).empty
            remains += any((out / "runs").glob(".*.tmp"))
    assert len(seen) >= 10 and remains >= 3, (len(seen), remains)  # the kills hit writing, too
    process = fork.Process(target=work, args=(pipe, out, plan))
    process.start()
    process.join(300)
    assert process.exitcode == 0
    now = stamps(out)
    assert {run: now[run] for run in seen} == seen and len(now) == len(plan)
    assert ledger.check(out).empty
    assert sorted(p.name for p in (out / "runs").iterdir()) == sorted(now)  # no temporary folder, no lock
    assert len(svdlab.load_results(out)) == len(plan)


@contextmanager
def denoised(pipe: Any) -> Iterator[list[int]]:
    """Clips in each call of the UNet inside the block, without the fingerprint's, which is of two frames."""
    calls: list[int] = []

    def note(module: Any, args: tuple[Any, ...]) -> None:
        if args[0].shape[1] == FRAMES:
            calls.append(len(args[0]))

    handle = pipe.unet.register_forward_pre_hook(note)
    yield calls
    handle.remove()


def test_what_was_denoised_before_a_kill_is_only_decoded(checkpoint: Path, tmp_path: Path) -> None:
    """The kill comes when latents are stored that wait to be decoded; on a busy machine the first kills may come too late."""
    plan = rows(8, height=128, width=128)
    for attempt in range(5):
        out = tmp_path / f"study-{attempt}"
        with start(checkpoint, out, plan, batch=4) as process:
            until = time.monotonic() + 250
            while not list((out / "runs").glob(".*.latents")) and time.monotonic() < until:
                time.sleep(0.001)
            process.kill()
        published = ledger.run_ids(out)
        stored = {p.name.split(".")[1] for p in (out / "runs").glob(".*.latents")}
        if waiting := {run for run in stored if ledger.stored_latents(out, run)} - set(published):  # a torn file is none
            break
    assert waiting
    pipe = svdlab.load_pipeline(checkpoint, device="cpu")
    how: dict[str, Any] = dict(image="cat", measure=(), progress=False)
    with denoised(pipe) as calls:
        table = svdlab.sweep(pipe, plan, out, **how)
    assert sum(calls) == 2 * 2 * (len(plan) - len(waiting) - len(published))  # two steps of two halves
    assert set(table.status) == {"done"} and ledger.check(out).empty
    whole = svdlab.sweep(pipe, plan, tmp_path / "whole", **how)
    for one, other in zip(table.latents, whole.latents, strict=True):
        assert (load_file(one)["latents"] - load_file(other)["latents"]).abs().max() < 1e-3


def test_two_sweeps_of_one_plan_share_the_work(checkpoint: Path, tmp_path: Path) -> None:
    out, plan = tmp_path / "study", rows(24)
    with start(checkpoint, out, plan) as first, start(checkpoint, out, plan) as second:
        for process in (first, second):
            printed, wrong = process.communicate(timeout=300)
            assert "done" in printed, wrong
    made = ledger.run_ids(out)
    assert len(made) == 24 and ledger.check(out).empty
    assert sorted(p.name for p in (out / "runs").iterdir()) == made
    makers = {ledger.read_record(out / "runs" / run)["process"] for run in made}
    assert len(makers) == 2, "one of them made everything"


@pytest.mark.parametrize("kind", ["full disk", "limit on file size"])
def test_what_the_disk_refuses_is_reported_and_survived(checkpoint: Path, tmp_path: Path, kind: str) -> None:
    """A full disk is a small file system of its own, which only root can have."""
    out, plan = tmp_path / "disk/study", rows(30)
    out.parent.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", out.parent]
    full = kind == "full disk"
    if full and subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        with start(checkpoint, out, plan, **({} if full else {"file_limit": 2000})) as process:
            printed, wrong = process.communicate(timeout=300)
        assert process.returncode == 1 and "done" not in printed
        assert "OutputError" in wrong and "could not be written" in wrong and "start the same sweep again" in wrong, wrong
        before = stamps(out)
        assert full == bool(before) and len(before) < 30 and ledger.check(out).empty
        if full:
            subprocess.run(["mount", "-o", "remount,size=50m", out.parent], check=True)
        with start(checkpoint, out, plan) as process:
            printed, wrong = process.communicate(timeout=300)
        now = stamps(out)
        assert "done" in printed, wrong
        assert len(now) == 30 and {run: now[run] for run in before} == before and ledger.check(out).empty
    finally:
        if full:
            subprocess.run(["umount", out.parent], check=True)


MEMORY = """
import gc, json, re, resource, sys, warnings
warnings.simplefilter("ignore")
import torch, svdlab
from pathlib import Path
from svdlab.study import ledger
pipe, out, no_limit = svdlab.load_pipeline(sys.argv[1], device="cpu"), Path(sys.argv[2]), (resource.RLIM_INFINITY,) * 2
def memory(what):
    return 1024 * int(re.search(rf"{what}:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])
def made(name, allowed=None, threads=1, rows=16):
    plan = [dict(num_inference_steps=1, seed=s, height=96, width=96, decode_chunk_size=1) for s in range(rows)]
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the most it held until now is forgotten
    before = memory("VmRSS")
    if allowed is not None:
        resource.setrlimit(resource.RLIMIT_AS, (memory("VmSize") + int(allowed), resource.RLIM_INFINITY))
    how = dict(measure=(), batch_size=16, threads=threads, progress=False)
    table = svdlab.sweep(pipe, plan, out / name, image="cat", **how)
    resource.setrlimit(resource.RLIMIT_AS, no_limit)
    batches = [ledger.read_record(out / name / "runs" / run)["batch_size"] for run in table.run_id]
    return memory("VmHWM") - before, max(batches), table.status.tolist(), len(ledger.check(out / name))
made("warm", threads=2, rows=2)
free = made("free")
print(json.dumps([free, made("tight", 0.6 * free[0]), made("beside", 0.4 * free[0], threads=2)]))
"""


def test_out_of_memory_halves_the_batch(checkpoint: Path, tmp_path: Path) -> None:
    """What sixteen clips take at once is measured first. Half of them take at least half of that, whatever the fixed part, so
    that a batch is smaller than what the limit is a share of; how much smaller is up to the allocator."""
    # Every large tensor is given back when it dies, so that the limit counts those that live: no arenas, no free heap.
    malloc = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": str(2**18), "MALLOC_TRIM_THRESHOLD_": str(2**18)}
    env = os.environ | ENVIRONMENT | malloc | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", MEMORY, checkpoint, tmp_path]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stderr
    free, tight, beside = json.loads(done.stdout.splitlines()[-1])
    assert free[0] > 50e6 and free[1] == 16
    assert tight[1] < 16 and beside[1] < 8  # two threads begin with eight each
    assert {tuple(status) for _, _, status, _ in (free, tight, beside)} == {("done",) * 16}
    assert [damaged for *_, damaged in (free, tight, beside)] == [0, 0, 0]


@pytest.mark.filterwarnings("ignore:Sending large graph")
def test_the_rows_of_a_killed_dask_worker_are_made_by_another(checkpoint: Path, tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    pipe = svdlab.load_pipeline(checkpoint, device="cpu")
    killed = []

    cluster_of = dict(processes=True, dashboard_address=None, host="127.0.0.1", security=True)
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, **cluster_of) as cluster,
        distributed.Client(cluster) as client,
    ):

        def kill_soon() -> None:
            while len(ledger.run_ids(tmp_path / "study")) < 6:
                time.sleep(0.02)
            killed.append(next(iter(client.run(os.getpid).values())))
            os.kill(killed[0], signal.SIGKILL)

        killer = threading.Thread(target=kill_soon)
        killer.start()
        how = dict(image="cat", measure=(), batch_size=1, executor=client.get_executor(), progress=False)
        table = svdlab.sweep(pipe, rows(32), tmp_path / "study", **how)
        killer.join()
    assert killed and set(table.status) == {"done"} and len(ledger.run_ids(tmp_path / "study")) == 32
    assert ledger.check(tmp_path / "study").empty
