"""What makes runs: batches through one pipeline, while a second thread measures, encodes and writes.

`make` serves one pipeline in this process; `make_elsewhere` is what an executor's workers run, each with a pipeline of
its own. Both write into the ledger and skip what they find there, so that whoever is killed leaves nothing to repair.
"""

from __future__ import annotations

import gc
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from PIL import Image
from safetensors.torch import load_file, save

from svdlab import folders, ledger, provenance, video
from svdlab.allocator import kept_pages
from svdlab.errors import BrokenClipError, CheckpointError, OutOfMemoryError, OutputError
from svdlab.hooks import trace
from svdlab.memory import offload_of
from svdlab.pipeline import Clip, ProbePipeline, Source, decode_clip, generate_batch
from svdlab.record import Trace
from svdlab.runs import How, Job, lacks, measure_clip, missing_measures, new_record, settle, weights_hash
from svdlab.temporal import quick_convolutions

BUSY_WAIT = 0.2  # s between looks at runs that another process is making
CLIPS_IN_MEMORY = 2  # decoded clips: one being measured and written, one being decoded or waiting


@dataclass
class Share:
    """This process's part in making the runs. processes: that make them, this one among them. begun: when, in s since 1970."""

    processes: int = 1
    begun: float = field(default_factory=time.time)

    def batch_size(self, most: int, queue: deque[_Unit], out: Path) -> int:
        """Clips for the next call: fewer towards the end, so that no process is left with the last batch alone."""
        if self.processes == 1:
            return most
        enough, left = 2 * self.processes * most, 0
        for unit in queue:
            left += folders.changed(out, unit.jobs[-1].run_id) < self.begun
            if left == enough:
                return most
        return max(1, math.ceil(left / (2 * self.processes)))

    def after(self, clips: int, seconds: float, left: int) -> None:
        """Told of each batch: clips that it denoised, seconds that they took, and how many units may be left."""


@dataclass
class _Unit:
    """The runs that share latents: claimed together, denoised once, decoded for each. left: runs not yet settled."""

    jobs: list[Job]
    lock: FileLock | None = None
    left: int = 0


def make(
    pipe: ProbePipeline,
    jobs: Sequence[Job],
    pictures: dict[str, Image.Image],
    out: Path,
    how: How,
    *,
    done: Callable[[Job], None] = lambda job: None,
    stop: Callable[[], bool] = lambda: False,
    share: Share | None = None,
) -> int:
    """Make every job's run that the ledger does not have by then; returns the batch size that memory allowed.

    Neighbours in `jobs` that agree in `batch_key` share a batch. done: called (from either thread) for each whole run.
    stop: asked between batches. share: with which other processes. Raises OutputError where the disk refuses,
    OutOfMemoryError where not even one clip fits; what was made until then is kept.
    """
    queue, size, share = deque(_units(jobs)), how.batch_size, share or Share()
    with quick_convolutions(pipe), kept_pages(), _Writer(out, how, pictures, done) as writer:
        while queue and not stop():
            batch = _take(queue, share.batch_size(size, queue, out), writer, stop)
            if stop():
                for unit in batch:
                    writer.free(unit)
                break
            if not batch:
                if queue:
                    time.sleep(BUSY_WAIT)  # all that is left is being made by others
                continue
            begun = time.perf_counter()
            try:
                _make_batch(pipe, batch, writer)
                share.after(len(batch), time.perf_counter() - begun, len(queue))
            except _TooLarge as error:
                size = len(error.units) // 2
                for unit in error.units:
                    writer.free(unit)
                queue.extendleft(reversed(error.units))
            except BaseException:
                writer.finish()
                for unit in batch:
                    writer.free(unit)
                raise
    return size


def _units(jobs: Sequence[Job]) -> list[_Unit]:
    shared: dict[str, list[Job]] = {}
    for job in jobs:
        shared.setdefault(job.latents_id, []).append(job)
    return [_Unit(group) for group in shared.values()]


def _take(queue: deque[_Unit], size: int, writer: _Writer, stop: Callable[[], bool]) -> list[_Unit]:
    """The next units that fit into one call. Those that somebody else is making go to the end of the queue; those that
    somebody has made are settled, and those that lack measures only are handed to the writer."""
    batch: list[_Unit] = []
    try:
        for _ in range(len(queue)):
            full = len(batch) == size or (batch and queue[0].jobs[0].batch_key != batch[0].jobs[0].batch_key)
            if full or stop():
                break
            batch.append(queue.popleft())
            batch[-1].lock = folders.claim(writer.out, batch[-1].jobs[0].latents_id)
            if batch[-1].lock is None:
                queue.append(batch.pop())
            elif not _lacks_clip(batch[-1], writer):
                batch.pop()
    except BaseException:
        for unit in batch:
            writer.free(unit)
        raise
    return batch


def _make_batch(pipe: ProbePipeline, batch: list[_Unit], writer: _Writer) -> None:
    """Denoise what must be denoised in one call, then decode clip by clip; raises _TooLarge where memory does not do."""
    noisy = []
    for unit in batch:
        lent = _lent_latents(unit, writer)
        if lent is None:
            noisy.append(unit)
        else:
            clip = _empty_clip(pipe, unit.jobs[0], writer, lent)
            _decode(pipe, unit, clip, None, 1, writer)
    if noisy:
        _make_noisy(pipe, noisy, writer)


def _make_noisy(pipe: ProbePipeline, units: list[_Unit], writer: _Writer) -> None:
    """Units that must be denoised, in one call; where one of them breaks it, by halves, down to the one that does."""
    too_large, broken = False, ""
    try:
        clips, traces = _denoise(pipe, [unit.jobs[0] for unit in units], writer)
    except OutOfMemoryError:
        if len(units) == 1:
            raise
        too_large = True
    except BrokenClipError as error:
        broken = str(error)
    if too_large:  # outside the except block, whose traceback would keep the tensors alive
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        raise _TooLarge(units)
    if broken and len(units) > 1:
        first, second = units[: len(units) // 2], units[len(units) // 2 :]
        try:
            _make_noisy(pipe, first, writer)
        except _TooLarge as error:
            raise _TooLarge(error.units + second) from None
        _make_noisy(pipe, second, writer)
    elif broken:
        for job in units[0].jobs:
            writer.wait_for_room()
            writer.write(units[0], job, _empty_clip(pipe, job, writer), None, 1, broken)
    else:
        for unit, clip, tr in zip(units, clips, traces, strict=True):
            _decode(pipe, unit, clip, tr, len(units), writer)


def _empty_clip(pipe: ProbePipeline, job: Job, writer: _Writer, latents: torch.Tensor | None = None) -> Clip:
    """A clip without frames, and maybe without latents."""
    latents = torch.zeros(0) if latents is None else latents
    return Clip(np.zeros(0, np.float32), job.conditions, job.seed, writer.pictures[job.image], latents, pipe.source)


class _TooLarge(Exception):
    """The units of a batch that did not fit into memory; nothing was made of them."""

    def __init__(self, units: list[_Unit]) -> None:
        super().__init__(f"a batch of {len(units)} does not fit")
        self.units = units


def _lacks_clip(unit: _Unit, writer: _Writer) -> bool:
    """Leaves the unit's jobs whose clip must be made; hands on what lacks measures only, settles what lacks nothing."""
    unit.left = len(unit.jobs)
    clipless = []
    for job in list(unit.jobs):
        record = _whole_record(folders.run_folder(writer.out, job.run_id))
        lack = "clip" if record is None else lacks(ledger.state(record), writer.how)
        if lack == "measures" and record is not None and not folders.damage(folders.run_folder(writer.out, job.run_id)):
            writer.measure_again(unit, job, record)
        elif lack == "":
            writer.settled(unit, job)
        else:
            clipless.append(job)
    unit.jobs = clipless or unit.jobs
    return bool(clipless)


def _whole_record(folder: Path) -> dict[str, Any] | None:
    return None if folders.damage(folder, hashes=False) else folders.read_record(folder)


def _lent_latents(unit: _Unit, writer: _Writer) -> torch.Tensor | None:
    """Latents that another run of the ledger has; a trace cannot be had that way."""
    donor = unit.jobs[0].donor
    if donor is None or writer.how.kept is not None:
        return None
    try:
        return load_file(folders.read_file(writer.out, donor, folders.LATENTS))["latents"]
    except OutputError:  # gone or damaged meanwhile
        return None


def _denoise(pipe: ProbePipeline, jobs: list[Job], writer: _Writer) -> tuple[list[Clip], list[Trace | None]]:
    pictures, conditions = [writer.pictures[job.image] for job in jobs], [job.conditions for job in jobs]
    kept = writer.how.kept
    with nullcontext() if kept is None else trace(pipe, **kept) as tr:
        flips = [job.flip_noise for job in jobs]
        clips = generate_batch(pipe, pictures, conditions, [job.seed for job in jobs], flip_noise=flips, decode=False)
    return clips, [None if tr is None else tr[i] for i in range(len(clips))]


def _decode(pipe: ProbePipeline, unit: _Unit, clip: Clip, tr: Trace | None, batch_size: int, writer: _Writer) -> None:
    for job in unit.jobs:
        own, reason = replace(clip, conditions=job.conditions, seconds=dict(clip.seconds)), ""
        writer.wait_for_room()
        try:
            decode_clip(pipe, own)
        except BrokenClipError as error:
            reason = str(error)
        writer.write(unit, job, own, tr, batch_size, reason)


# --- the second thread ------------------------------------------------------------------------------------------------


class _Writer:
    """Measures, encodes and writes beside the denoising, in the order of arrival.

    At most CLIPS_IN_MEMORY decoded clips exist: whoever wants to decode another waits for room. Leaving the `with` block,
    also by an error, finishes what was handed over.
    """

    def __init__(self, out: Path, how: How, pictures: dict[str, Image.Image], done: Callable[[Job], None]) -> None:
        self.out, self.how, self.pictures, self.done = out, how, pictures, done
        self.pool = ThreadPoolExecutor(1, "svdlab-writer")
        self.pool.submit(time.monotonic)  # its thread starts now: when memory is short, none may be had any more
        self.pending: deque[Future] = deque()
        self.mutex = threading.Lock()

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, where: Any) -> None:
        self.finish()
        if error is None:
            self._wait_until(0)

    def finish(self) -> None:
        """What is in hand is written; nothing more is taken."""
        self.pool.shutdown(wait=True)

    def _wait_until(self, pending: int) -> None:
        """Until no more than so many clips are in hand; raises what failed in writing them."""
        while len(self.pending) > pending:
            self.pending.popleft().result()

    def wait_for_room(self) -> None:
        """Until another clip may be decoded."""
        self._wait_until(CLIPS_IN_MEMORY - 1)

    def write(self, unit: _Unit, job: Job, clip: Clip, tr: Trace | None, batch_size: int, reason: str) -> None:
        record = new_record(job, clip, self.how, batch_size)  # here, where torch's threads are those that made the clip
        self._hand_over(unit, job, lambda: self._write(job, clip, tr, record, reason))

    def measure_again(self, unit: _Unit, job: Job, record: dict[str, Any]) -> None:
        self.wait_for_room()
        self._hand_over(unit, job, lambda: self._measure_again(job, record))

    def _hand_over(self, unit: _Unit, job: Job, work: Callable[[], None]) -> None:
        def act() -> None:
            try:
                work()
            except BaseException:
                self.free(unit)
                raise
            self.settled(unit, job)

        self.pending.append(self.pool.submit(act))

    def settled(self, unit: _Unit, job: Job) -> None:
        """A job's run is whole; with its unit's last one the claim is given back."""
        with self.mutex:
            unit.left -= 1
            last = unit.left == 0
        if last:
            self.free(unit)
        self.done(job)

    def free(self, unit: _Unit) -> None:
        with self.mutex:
            lock, unit.lock = unit.lock, None
        if lock is not None:
            folders.release(lock)

    def _write(self, job: Job, clip: Clip, tr: Trace | None, record: dict[str, Any], reason: str) -> None:
        with folders.new_run(self.out, job.latents_id, job.run_id, record) as folder:
            if reason:
                record.update(status="failed", reason=reason)
                return
            frames = video.as_bytes(clip.frames)
            clip.frames = frames.astype(np.float32) / 255  # what the file holds: measuring that again gives the same
            record["measures"] = measure_clip(clip, self.how.measures)
            settle(record)
            # Through Python's own file: on a full disk safetensors' writer raises a class of its own.
            (folder / folders.LATENTS).write_bytes(save({"latents": clip.latents.contiguous()}))
            video.write_frames(folder / folders.FRAMES, frames, playback_fps=clip.playback_fps)
            facts = provenance.of_run({**record, "run_id": job.run_id})
            video.write_preview(folder / folders.PREVIEW, frames, playback_fps=clip.playback_fps, facts=facts)
            if tr is not None:
                tr.save(folder / folders.TRACE)

    def _measure_again(self, job: Job, record: dict[str, Any]) -> None:
        folder = folders.run_folder(self.out, job.run_id)
        clip = Clip(
            video.read_frames(folder / folders.FRAMES).astype(np.float32) / 255,
            job.conditions,
            job.seed,
            self.pictures[job.image],
            load_file(folder / folders.LATENTS)["latents"],
            Source(**record["source"]),
            record["seconds"],
        )
        record["measures"] |= measure_clip(clip, missing_measures(ledger.state(record), self.how))
        settle(record)
        folders.amend(folder, record)


# --- other processes --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """What a worker is sent: arguments of `load_pipeline`, and a few batches of jobs with their pictures."""

    load: dict[str, Any]
    jobs: tuple[Job, ...]
    pictures: dict[str, Image.Image]
    out: str
    how: How


_LOADING = threading.Lock()  # transformers patches torch.nn while it loads
_OWN = threading.local()  # two threads on one pipeline would break it


def load_arguments(pipe: ProbePipeline) -> dict[str, Any]:
    """Arguments of `load_pipeline` that load another pipeline like this one, as plain JSON."""
    source = pipe.source
    checkpoint = str(Path(source.checkpoint).resolve()) if Path(source.checkpoint).is_dir() else source.checkpoint
    return {
        "checkpoint": checkpoint,
        "revision": source.revision if checkpoint == source.checkpoint else None,
        "device": pipe._execution_device.type,
        "dtype": str(pipe.unet.dtype).removeprefix("torch."),
        "variant": source.variant,
        "offload": offload_of(pipe),
    }


def load_same(load: dict[str, Any], how: How) -> ProbePipeline:
    """A pipeline of this process's own; raises CheckpointError where its weights are not those of the sweep."""
    from svdlab.checkpoints import load_pipeline

    pipe = load_pipeline(**load)
    if weights_hash(pipe) != how.facts["weights"]:
        raise CheckpointError(
            f"the worker's {load['checkpoint']!r} has other weights than the notebook's: it was changed after "
            f"loading, or another version lies on the worker's disk. Save the changed pipeline "
            f"(pipe.save_pretrained) and load that."
        )
    return pipe


def make_elsewhere(task: Task) -> list[str]:
    """Make a task's runs with this worker's own pipeline, loaded with its first task; returns their ids."""
    make(_own_pipeline(task), task.jobs, task.pictures, Path(task.out), task.how)
    return [job.run_id for job in task.jobs]


def _own_pipeline(task: Task) -> ProbePipeline:
    key = (sorted(task.load.items(), key=str), task.how.facts["weights"])
    if getattr(_OWN, "key", None) != key:
        with _LOADING:
            _OWN.pipe = load_same(task.load, task.how)
            _OWN.key = key
    return _OWN.pipe
