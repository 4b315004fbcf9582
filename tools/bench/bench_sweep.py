"""What a sweep costs beside the model's own time, against the loop one would write with stock diffusers, and at scale.

python -m tools.bench sweep. All on the organism, two cores; ratios are taken side by side, in turns, in one run. The
stock loop has all of torch's threads, as a user's would; so has the sweep, which shares them out among batches side by side.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tools.bench import Row

STEPS = 10
CHECKPOINT = os.environ.get("SVDLAB_BENCH_CHECKPOINT", "organism")


def stock_loop(pipe: Any, rows: list[dict[str, Any]], out: Path, threads: int) -> float:
    """Seconds for the loop that a user would write: one call per row, latents by callback, an mp4, flow after it."""
    import torch
    from diffusers import StableVideoDiffusionPipeline
    from diffusers.utils import export_to_video

    import svdlab
    from svdlab.measure import motion

    stock = StableVideoDiffusionPipeline(**pipe.components)
    stock.set_progress_bar_config(disable=True)
    image = svdlab.sample_image("cat").resize((pipe.source.width, pipe.source.height))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    start = time.perf_counter()
    for n, row in enumerate(rows):
        kept = []

        def keep(pipe: Any, i: int, t: Any, values: dict[str, Any], kept: list = kept) -> dict[str, Any]:
            kept.append(values["latents"].cpu())
            return values

        conditions = {k: v for k, v in row.items() if k != "seed"}
        frames = stock(
            image,
            height=pipe.source.height,
            width=pipe.source.width,
            num_frames=pipe.unet.config.num_frames,
            generator=torch.manual_seed(row["seed"]),
            callback_on_step_end=keep,
            output_type="np",
            **conditions,
        ).frames[0]
        export_to_video(list(frames), str(out / f"{n}.mp4"), fps=7)
        motion.summary(frames)
    seconds = time.perf_counter() - start
    torch.set_num_threads(before)
    return seconds


def model_seconds(pipe: Any) -> tuple[dict[str, float], list[Any]]:
    """A clock over every forward pass of the UNet and the VAE's halves, and the hooks that keep it."""
    clock = {"sum": 0.0, "start": 0.0}

    def begin(module: Any, args: Any) -> None:
        clock["start"] = time.perf_counter()

    def end(module: Any, args: Any, output: Any) -> None:
        clock["sum"] += time.perf_counter() - clock["start"]

    handles = []
    for part in (pipe.unet, pipe.vae.encoder, pipe.vae.decoder):
        handles += [part.register_forward_pre_hook(begin), part.register_forward_hook(end)]
    return clock, handles


def rows(count: int) -> list[dict[str, Any]]:
    return [
        {
            "seed": n % 4,
            "motion_bucket_id": 1 + 5 * n,
            "fps": 6 + n % 3,
            "num_inference_steps": STEPS,
            "decode_chunk_size": None,
        }
        for n in range(count)
    ]


def against_stock(pipe: Any, count: int) -> list[Row]:
    import torch

    import svdlab

    plan, threads = rows(count), torch.get_num_threads()
    how: dict[str, Any] = dict(image="cat", measure="motion", keep=("latents",), progress=False)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "ours")
        stock_loop(pipe, rows(1), Path(folder), threads)  # both have imported what they import
        svdlab.sweep(pipe, rows(1), Path(folder, "warm"), **how)
        theirs = stock_loop(pipe, plan[: count // 2], Path(folder), threads)  # before and after, so that load falls on both
        start = time.perf_counter()
        svdlab.sweep(pipe, plan, out, **how)
        ours = time.perf_counter() - start
        theirs += stock_loop(pipe, plan[count // 2 :], Path(folder), threads)
        start = time.perf_counter()
        svdlab.sweep(pipe, plan[: count // 3], Path(folder, "alone"), threads=1, **how)
        alone = (time.perf_counter() - start) * 3
    print(f"  {count} clips of {STEPS} steps on {threads} threads: stock loop {theirs:.1f} s, sweep {ours:.1f} s")
    print(f"  (with one batch at a time it would be {alone:.1f} s)")
    return [Row(f"sweep of {count} rows over the stock loop, wall time", ours / theirs, 0.5, "x")]


def beside_the_model(pipe: Any, count: int) -> list[Row]:
    """With one batch at a time: a clock hung on the model is read by one thread."""
    import svdlab

    clock, handles = model_seconds(pipe)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        svdlab.sweep(
            pipe,
            rows(count),
            Path(folder, "ours"),
            image="cat",
            measure="motion",
            keep=("latents",),
            threads=1,
            progress=False,
        )
        wall = time.perf_counter() - start
    for handle in handles:
        handle.remove()
    print(f"  {count} clips of {STEPS} steps, one batch at a time: {wall:.1f} s, of which UNet and VAE {clock['sum']:.1f} s")
    return [Row("sweep's wall time over UNet and VAE forward time", wall / clock["sum"], 1.08, "x")]


WORKERS = """
import os, sys, time, warnings
warnings.simplefilter("ignore")
import distributed, svdlab
if __name__ == "__main__":
    out, checkpoint, (count, rounds, steps) = sys.argv[1], sys.argv[2], map(int, sys.argv[3:])
    pipe = svdlab.load_pipeline(checkpoint, device="cpu")
    safe = dict(host="127.0.0.1", dashboard_address=None, security=True)
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, **safe) as cluster:
        with distributed.Client(cluster) as client:
            workers, cores = list(client.scheduler_info(-1)["workers"]), sorted(os.sched_getaffinity(0))
            def hold(cores):
                for thread in os.listdir("/proc/self/task"):
                    os.sched_setaffinity(int(thread), cores)
            def seconds(name, n):
                plan = [dict(seed=s, num_inference_steps=steps) for s in range(count // rounds)]
                how = dict(image="cat", executor=client.get_executor(workers=workers[:n]), batch_size=2, progress=False)
                start = time.perf_counter()
                svdlab.sweep(pipe, plan, out + name, **how)
                return time.perf_counter() - start
            seconds("warm", 2)  # every worker loads its pipeline
            for held in (True, False):
                for n, worker in enumerate(workers):
                    client.run(hold, {cores[n]} if held else set(cores), workers=[worker])
                one = two = 0.0
                for turn in range(rounds):
                    one += seconds(f"one-{held}-{turn}", 1)
                    two += seconds(f"two-{held}-{turn}", 2)
                print(one, two, flush=True)
"""


BARE = """
import sys, time, warnings
warnings.simplefilter("ignore")
import torch, svdlab
unet = svdlab.load_pipeline(sys.argv[1], device="cpu").unet
size = unet.config.sample_size
x = torch.zeros(4, unet.config.num_frames, unet.config.in_channels, size, size)
given = torch.zeros(4, 1, unet.config.cross_attention_dim), torch.tensor([[6.0, 127.0, 0.02]] * 4)
with torch.inference_mode():
    unet(x, 1.0, *given)
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        for _ in range(20):
            unet(x, 1.0, *given)
        print(time.perf_counter() - start, flush=True)
"""


def bare_processes(rounds: int, env: dict[str, str]) -> float:
    """How much more of the UNet's forward passes two processes at once do than one alone: what the machine itself allows."""
    command, pipes = [sys.executable, "-c", BARE, CHECKPOINT], dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    both = [subprocess.Popen(command, env=env, text=True, **pipes) for _ in range(2)]  # type: ignore[call-overload]
    for process in both:
        while "ready" not in process.stdout.readline():
            assert process.poll() is None
    seconds = {1: 0.0, 2: 0.0}
    for _ in range(rounds):
        for n in seconds:
            for process in both[:n]:
                process.stdin.write("go\n")
                process.stdin.flush()
            seconds[n] += max(float(process.stdout.readline()) for process in both[:n])
    for process in both:
        process.communicate()
    return 2 * seconds[1] / seconds[2]


def dask_workers(count: int, rounds: int = 3) -> list[Row]:
    """One and both in turns, each held to one core as Slurm holds it: left free, one measures and writes on the other."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()}
    bare = bare_processes(rounds, env)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", WORKERS, folder + "/", CHECKPOINT, *map(str, (count, rounds, STEPS))]
        done = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True)
    held, free = ([float(word) for word in line.split()] for line in done.stdout.splitlines()[-2:])
    for (one, two), how in ((held, "held to a core each"), (free, "left free")):
        print(f"  {count} clips, workers {how}: one dask worker {one:.1f} s, two {two:.1f} s ({one / two:.2f}x)")
    print(f"  (the bare UNet: two processes at once do {bare:.2f} times the work of one)")
    return [Row("two dask workers of one thread, a core each, over one, wall time", held[1] / held[0], 1 / 1.8, "x")]


MEMORY = """
import sys, warnings
warnings.simplefilter("ignore")
import psutil, svdlab
pipe = svdlab.load_pipeline(sys.argv[1], device="cpu")
seen = {}
def rss(clip):
    seen[clip.seed] = psutil.Process().memory_info().rss
    return 0
plan = [dict(seed=s, num_inference_steps=1) for s in range(401)]
svdlab.sweep(pipe, plan, sys.argv[2], image="cat", measure=("motion", rss), progress=False)
print(max(seen[s] for s in range(392, 401)) / max(seen[s] for s in range(32, 41)))
"""


def memory() -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()}
        script = Path(folder, "memory.py")  # a measure has a source, which its identity is made of
        script.write_text(MEMORY)
        command = [sys.executable, str(script), CHECKPOINT, folder + "/study"]
        done = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True)
    return [Row("resident memory at row 400 over row 40", float(done.stdout.split()[-1]), 1.05, "x")]


def finished(pipe: Any, count: int, allowed: float) -> list[Row]:
    """A finished sweep of `count` rows, found complete. Its runs are copies of a real one but for the bytes in their files."""
    from svdlab.study import ledger, sweep

    plan = sweep.grid(motion_bucket_id=range(100), noise_aug_strength=[0.01 * n for n in range(10)], seed=range(count // 1000))
    root = Path(tempfile.mkdtemp(dir=os.environ.get("SVDLAB_BENCH_TMP")))
    try:
        how: dict[str, Any] = dict(image="cat", measure="motion", progress=False)
        (run_id,) = sweep.sweep(pipe, [{"num_inference_steps": 1}], root / "one", **how).run_id
        real = ledger.read_record(ledger.run_folder(root / "one", run_id))
        out = ledger.prepare(root / "study")
        for job in sweep._jobs(pipe, plan, "cat", None)[0]:
            call = {**real["call"], "seed": job.seed, "conditions": job.conditions.asdict()}
            _copied(ledger.run_folder(out, job.run_id), {**real, "run_id": job.run_id, "call": call})
        start = time.perf_counter()
        table = sweep.sweep(pipe, plan, out, **how)
        seconds = time.perf_counter() - start
    finally:
        shutil.rmtree(root)
    assert len(table) == count and set(table.status) == {"done"}
    return [Row(f"a finished sweep of {count:,} rows: planned, hashed, found", seconds, allowed, "s")]


def _copied(folder: Path, record: dict[str, Any]) -> None:
    """What `new_run` publishes, without the fsyncs that would take an hour for 100,000 of them."""
    from svdlab.study import ledger

    folder.mkdir()
    record["files"] = {name: {"bytes": 4, "sha256": "0" * 64} for name in (ledger.FRAMES, ledger.PREVIEW, ledger.LATENTS)}
    for name in record["files"]:
        (folder / name).write_bytes(b"clip")
    (folder / ledger.RECORD).write_text(ledger.record_text(record))


def main() -> Iterator[Row]:
    warnings.simplefilter("ignore")
    import svdlab

    pipe = svdlab.load_pipeline(CHECKPOINT, device="cpu")
    yield from finished(pipe, 1000, 1.0)
    yield from finished(pipe, 100_000, 20.0)
    yield from against_stock(pipe, 48)
    yield from beside_the_model(pipe, 16)
    yield from dask_workers(48)
    yield from memory()
