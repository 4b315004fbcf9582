"""What makes runs: batches through one pipeline or several, while a thread of its own (`writer`) measures and writes.

`make` serves the pipelines of this process, each in a thread of its own; `make_elsewhere` is what an executor's workers run,
each with a pipeline of its own. All write into the ledger and skip what they find there, so that whoever is killed leaves
nothing to repair.
"""

from __future__ import annotations

import gc
import math
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from svdlab.errors import BrokenClipError, CheckpointError, OutOfMemoryError, OutputError
from svdlab.pipeline.generate import Call, Clip, ProbePipeline, decode_clip, generate_batch
from svdlab.pipeline.hooks import trace
from svdlab.pipeline.memory import offload_of
from svdlab.pipeline.temporal import quick_convolutions
from svdlab.pipeline.trace import Trace
from svdlab.study import folders, ledger
from svdlab.study.runs import How, Job, lacks, weights_hash
from svdlab.study.writer import Unit, Writer

BUSY_WAIT = 0.2  # s between looks at runs that another process is making


class FewerThreadsWarning(UserWarning):
    """Memory did not do for all threads; those that are left make what is left."""


def make(
    pipe: ProbePipeline,
    jobs: Sequence[Job],
    pictures: dict[str, Image.Image],
    out: Path,
    how: How,
    *,
    twins: Sequence[ProbePipeline] = (),
    done: Callable[[Job], None] = lambda job: None,
    stop: Callable[[], bool] = lambda: False,
) -> int:
    """Make every job's run that the ledger does not have by then; returns the batch size that memory allowed.

    Neighbours in `jobs` that agree in `batch_key` share a batch. twins: further pipelines, which make batches in threads of
    their own meanwhile, all with their share of torch's threads. done: called (from any thread) for each whole run. stop:
    asked between batches. Raises OutputError where the disk refuses, OutOfMemoryError where not even one clip fits; what was
    made until then is kept.
    """
    with Writer(out, how, pictures, done) as writer:
        line = _Line(deque(_units(jobs)), how.batch_size, 1 + len(twins), stop, writer)
        with _beside(line, twins):
            line.work(pipe)
        if line.short:
            warnings.warn("memory did not do for all threads: some ended early.", FewerThreadsWarning, stacklevel=3)
            line.working = 1
            line.work(pipe)  # what was given back after the others had ended, with nothing beside it
    return line.size


class _Line:
    """The units that wait to be made, and what every thread that makes them has to know."""

    def __init__(self, queue: deque[Unit], size: int, threads: int, stop: Callable[[], bool], writer: Writer) -> None:
        self.queue, self.size, self.threads, self.stop, self.writer = queue, size, threads, stop, writer
        self.mutex = threading.Lock()
        self.working = threads  # that have not ended
        self.error: BaseException | None = None  # what ended a twin's thread; the others end after the batch in hand
        self.short = False  # of memory for a clip beside those of other threads
        self.given_up = False  # twins end at once, in the middle of a batch

    def ending(self) -> bool:
        return self.stop() or self.error is not None

    def work(self, pipe: ProbePipeline) -> None:
        """Make batches until none is left, or until not even one clip fits beside those of other threads."""
        try:
            with quick_convolutions(pipe):
                while self.queue and not self.ending():
                    with self.mutex:
                        batch = _take(self.queue, self._next_size(), self.writer, self.ending)
                    if self.ending():
                        self._free(batch)
                    elif not batch and self.queue:
                        time.sleep(BUSY_WAIT)  # all that is left is being made by others
                    elif batch and not self._made(pipe, batch):
                        return
        finally:
            with self.mutex:
                self.working -= 1

    def _next_size(self) -> int:
        """Clips for the next call: fewer towards the end, so that no thread is left with the last batch alone."""
        if self.threads == 1 or len(self.queue) >= 2 * self.threads * self.size:
            return self.size
        return max(1, min(self.size, math.ceil(len(self.queue) / (2 * self.threads))))

    def _made(self, pipe: ProbePipeline, batch: list[Unit]) -> bool:
        """Whether this thread can go on."""
        alone, again = self.working == 1, []
        try:
            _make_batch(pipe, batch, self.writer)
        except _TooLarge as error:
            self.size, again = max(1, min(self.size, len(error.units) // 2)), error.units
        except OutOfMemoryError as error:
            self._end(batch, at_once=alone)
            if alone:
                raise
            self.short, error.__traceback__ = True, None  # which would keep the tensors alive
            self._give_back([unit for unit in batch if unit.left])
            return False
        except BaseException:
            self._end(batch, at_once=True)
            raise
        self._give_back(again)
        return True

    def _end(self, batch: list[Unit], at_once: bool) -> None:
        """What of a broken batch was handed over is written, before others may make the rest."""
        self.given_up |= at_once
        self.writer.drain()
        self._free(batch)

    def _give_back(self, units: list[Unit]) -> None:
        self._free(units)
        with self.mutex:
            self.queue.extendleft(reversed(units))

    def _free(self, units: list[Unit]) -> None:
        for unit in units:
            self.writer.free(unit)


class _GivenUp(BaseException):
    """Ends a twin's batch in the middle."""


@contextmanager
def _beside(line: _Line, twins: Sequence[ProbePipeline]) -> Iterator[None]:
    """While the block runs the twins work, too; it ends when they have nothing left to make, or at once where it fails."""
    before = torch.get_num_threads()
    share = max(1, before // (1 + len(twins)))

    def check(module: Any, args: Any) -> None:
        if line.given_up:
            raise _GivenUp

    def work(pipe: ProbePipeline) -> None:
        torch.set_num_threads(share)  # of this thread
        for part in (pipe.unet, pipe.vae):
            for name, module in part.named_modules():
                if name.count(".") < 2:  # its blocks: several times in each call
                    module.register_forward_pre_hook(check)
        try:
            line.work(pipe)
        except _GivenUp:
            pass
        except BaseException as error:
            line.error = line.error or error

    threads = [threading.Thread(target=work, args=(pipe,), name=f"svdlab-{n}", daemon=True) for n, pipe in enumerate(twins, 2)]
    try:
        torch.set_num_threads(share)
        for thread in threads:
            thread.start()
        yield
        for thread in threads:
            thread.join()
    except BaseException:
        line.given_up = True
        for thread in threads:
            thread.join()
        raise
    finally:
        torch.set_num_threads(before)
    if line.error is not None:
        raise line.error


def _units(jobs: Sequence[Job]) -> list[Unit]:
    shared: dict[str, list[Job]] = {}
    for job in jobs:
        shared.setdefault(job.latents_id, []).append(job)
    return [Unit(group) for group in shared.values()]


def _take(queue: deque[Unit], size: int, writer: Writer, stop: Callable[[], bool]) -> list[Unit]:
    """The next units that fit into one call. Those that somebody else is making go to the end of the queue; those that
    somebody has made are settled, and those that lack measures only are handed to the writer."""
    batch: list[Unit] = []
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


def _make_batch(pipe: ProbePipeline, batch: list[Unit], writer: Writer) -> None:
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


def _make_noisy(pipe: ProbePipeline, units: list[Unit], writer: Writer) -> None:
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


def _empty_clip(pipe: ProbePipeline, job: Job, writer: Writer, latents: torch.Tensor | None = None) -> Clip:
    """A clip without frames, and maybe without latents."""
    latents = torch.zeros(0) if latents is None else latents
    call = Call(job.conditions, job.seed, job.image, pipe.source, {"flip_noise": job.flip_noise} if job.flip_noise else {})
    return Clip(np.zeros(0, np.float32), call, writer.pictures[job.image], latents)


class _TooLarge(Exception):
    """The units of a batch that did not fit into memory; nothing was made of them."""

    def __init__(self, units: list[Unit]) -> None:
        super().__init__(f"a batch of {len(units)} does not fit")
        self.units = units


def _lacks_clip(unit: Unit, writer: Writer) -> bool:
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


def _lent_latents(unit: Unit, writer: Writer) -> torch.Tensor | None:
    """Latents that another run of the ledger has; a trace cannot be had that way."""
    donor = unit.jobs[0].donor
    if donor is None or writer.how.kept is not None:
        return None
    try:
        return load_file(folders.read_file(writer.out, donor, folders.LATENTS))["latents"]
    except OutputError:  # gone or damaged meanwhile
        return None


def _denoise(pipe: ProbePipeline, jobs: list[Job], writer: Writer) -> tuple[list[Clip], list[Trace | None]]:
    pictures, conditions = [writer.pictures[job.image] for job in jobs], [job.conditions for job in jobs]
    kept = writer.how.kept
    with nullcontext() if kept is None else trace(pipe, **kept) as tr:
        flips = [job.flip_noise for job in jobs]
        seeds = [job.seed for job in jobs]
        more: dict[str, Any] = dict(flip_noise=flips, encodings=writer.encodings, decode=False)
        clips = generate_batch(pipe, pictures, conditions, seeds, **more)
    return clips, [None if tr is None else tr[i] for i in range(len(clips))]


def _decode(pipe: ProbePipeline, unit: Unit, clip: Clip, tr: Trace | None, batch_size: int, writer: Writer) -> None:
    for job in unit.jobs:
        call = replace(clip.call, conditions=job.conditions)
        own, reason = replace(clip, call=call, seconds=dict(clip.seconds)), ""
        writer.wait_for_room()
        try:
            decode_clip(pipe, own)
        except BrokenClipError as error:
            reason = str(error)
        except BaseException:
            writer.leave()
            raise
        writer.write(unit, job, own, tr, batch_size, reason)


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
    from svdlab.pipeline.checkpoints import load_pipeline

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
