"""What makes runs: a queue of batches, denoised and decoded by threads on one pipeline, and one thread that measures and
writes. `svdlab.study.executors` has the same done by other processes.

    batch of jobs -> claimed -> denoised in one call -> decoded clip by clip -> measured and written

Any number of processes may do that for one study: all skip what they find there, and whoever is killed leaves nothing to
repair. A batch that fails for want of memory, or because one of its clips is broken, returns to the queue in smaller parts.
"""

import contextvars
import gc
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load, load_file, save

from svdlab import __version__
from svdlab.errors import BrokenClipError, InputError, OutOfMemoryError, SvdlabError, warn
from svdlab.measure import video
from svdlab.measure.files import plain
from svdlab.pipeline import samplers
from svdlab.pipeline.conditions import Conditions
from svdlab.pipeline.generate import Call, Clip, ProbePipeline, Start, decode_clip, generate_batch
from svdlab.pipeline.hooks import trace
from svdlab.pipeline.quick import quick_convolutions
from svdlab.pipeline.sampler import open_edits
from svdlab.pipeline.trace import Trace, colour_map
from svdlab.study import ledger
from svdlab.study.identity import Measure, measure_clip, missing_measures

BUSY_WAIT = 0.2  # s between looks at runs that another process is making
PATIENCE = 10  # s of waiting for them, after which that is reported
CLIPS_IN_MEMORY = 2  # decoded: one being measured and written, one being decoded or waiting


class Lora(NamedTuple):
    """A LoRA of a plan: its file, the strength, the file's SHA-256."""

    file: str
    scale: float
    digest: str


@dataclass(frozen=True)
class How:
    """How a sweep makes its runs, the same for all. model: `identity.facts`, with its LoRA; fingerprint: what it computes.
    kept: arguments of `svdlab.trace`, or None for no trace."""

    model: dict[str, Any]
    measures: tuple[Measure, ...] = ()
    kept: dict[str, Any] | None = None
    retry_failed: bool = False
    fingerprint: dict[str, list[float]] = field(default_factory=dict, repr=False)
    lora: Lora | None = None

    def lack(self, record: Mapping[str, Any]) -> str:
        """What a whole run still lacks: "clip", "measures", or "" for nothing.

        A clip that came out broken lacks nothing, because it would again, unless failures are to be tried again.
        """
        if ledger.FRAMES not in record["files"]:
            return "clip" if self.retry_failed else ""
        if self.kept is not None and record.get("kept") != plain(self.kept):
            return "clip"
        missing = missing_measures(record, self.measures, retry_failed=self.retry_failed)
        return "measures" if missing or record["measures"].keys() > self.worth(record).keys() else ""

    def worth(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """A run's measures without those that failed and are no longer asked for: else it would be failed for ever."""
        asked = {measure.name for measure in self.measures}
        return {name: entry for name, entry in record["measures"].items() if name in asked or "error" not in entry}


@dataclass(frozen=True)
class Job:
    """One run to make. conditions: nothing left to fill in. image: hash of the prepared image. start: as in `Call.start`,
    where it is not the seed's noise."""

    run_id: str
    conditions: Conditions
    seed: int
    image: str
    image_name: str
    start: dict[str, str] = field(default_factory=dict)
    lora: Lora | None = None

    @property
    def inputs(self) -> list[str]:
        """Hashes of its image and the tensors that it starts from."""
        return [self.image, *(self.start[name] for name in ("latents", "noise") if name in self.start)]

    @property
    def batch_key(self) -> tuple[Any, ...]:
        """What clips of one batch must agree in."""
        c = self.conditions
        alike = c.num_frames, c.height, c.width, c.num_inference_steps, c.scheduler, c.guided, self.lora
        return *alike, "latents" in self.start, "noise" in self.start


def device_name(device: torch.device) -> str:
    """A GPU's name, or the number of threads."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type}, {torch.get_num_threads()} threads"


class _Abandoned(BaseException):
    """Ends a thread's batch in the middle, after another thread failed or was interrupted."""


@dataclass(eq=False)
class Making:
    """Makes the runs of a queue of batches that the study does not have by then; the jobs of a batch agree in `batch_key`.

    inputs: prepared images and given tensors, by hash. done: called for each whole run. stop: asked between batches.
    """

    pipe: ProbePipeline
    queue: deque[list[Job]]
    inputs: Mapping[str, Any]
    out: Path
    how: How
    done: Callable[..., Any] = lambda runs=1: None
    stop: Callable[[], bool] = lambda: False

    def run(self, threads: int = 1) -> None:
        """Raises OutputError where the disk refuses, OutOfMemoryError where not even one clip fits; what was made is kept."""
        self.threads, self.size, self.source = threads, max(map(len, self.queue)), self.pipe.source
        self.claims: dict[str, FileLock] = {}  # of runs that are not yet written
        self.encodings: dict[Any, torch.Tensor] = {}  # each image is encoded once
        self.colours = cache(partial(colour_map, self.pipe))  # of all traces
        self.device = self.pipe._execution_device  # diffusers asks each module: milliseconds
        self.room, self.mutex = threading.Semaphore(CLIPS_IN_MEMORY), threading.Lock()
        self.error: BaseException | None = None  # the writer's first; the batches in hand are finished
        self.abandoned, self.waited, self.told = False, 0, False
        try:
            with ThreadPoolExecutor(1, "svdlab-writer") as self.writer, quick_convolutions(self.pipe):
                self.writer.submit(int).result()  # its thread starts now: later the memory may not suffice for it
                if threads > 1:
                    self._work_together(threads)
                    self.threads = 1
                self._work()  # alone; or what came back when memory did not suffice for all threads
        finally:
            for lock in self.claims.values():
                ledger.release(lock)
        if self.error is not None:
            raise self.error

    def _work_together(self, threads: int) -> None:
        """Several threads, with a share of torch's own each, in copies of this context; where one fails, all end at once."""

        def check(*args: Any) -> None:
            if self.abandoned:
                raise _Abandoned

        share = max(1, torch.get_num_threads() // threads)
        with ExitStack() as hooks, ThreadPoolExecutor(threads, "svdlab", torch.set_num_threads, (share,)) as pool:
            for part in (self.pipe.unet, self.pipe.vae.decoder):
                hooks.callback(part.register_forward_pre_hook(check).remove)
            try:
                for work in as_completed([pool.submit(contextvars.copy_context().run, self._work) for _ in range(threads)]):
                    work.result()
            except BaseException:
                self.abandoned = True
                raise

    # --- a thread that makes clips ------------------------------------------------------------------------------------

    def _work(self) -> None:
        """Make batches until none is left, or until so many threads are too many for the memory."""
        together = self.threads
        while self.queue and together == self.threads and not (self.stop() or self.error or self.abandoned):
            batch = self._take()
            asked = len(batch)
            try:
                if batch:
                    self._make(batch)
                else:
                    self._wait()
                continue
            except BrokenClipError:
                left = [[job] for job in batch]  # one by one, to find which
            except OutOfMemoryError as error:
                if asked == together == 1:
                    raise
                if asked == 1 and self.threads > 1:
                    self.threads = 1
                    warn("memory did not suffice for all threads: the sweep goes on with one.")
                error.__traceback__ = None  # which would keep the tensors alive
                left, self.size = [batch], max(1, min(self.size, asked // 2))
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            with self.mutex:
                self.queue.extendleft(jobs for jobs in left if jobs)

    def _wait(self) -> None:
        """Others make what is left. Reported once: a file system may keep the lock of a process that is dead."""
        time.sleep(BUSY_WAIT)
        self.waited += 1
        if self.waited * BUSY_WAIT >= PATIENCE and not self.told:
            self.told, left = True, sum(map(len, self.queue))
            where = f"{self.out}/runs/.*.lock"
            text = f"waiting for {left} run(s) that other processes have claimed ({where}). "
            warn(text + "Where none of them lives any more, delete these files.")

    def _take(self) -> list[Job]:
        """The next batch, or as much of it as fits into memory. Jobs that another process has claimed go to the end."""
        with self.mutex:
            batch = self.queue.popleft() if self.queue else []
            batch, rest = batch[: self.size], batch[self.size :]
            for job in batch:
                if job.run_id not in self.claims and (lock := ledger.claim(self.out, job.run_id)):
                    self.claims[job.run_id] = lock
            others = [job for job in batch if job.run_id not in self.claims]
            self.queue.extendleft([rest] if rest else [])
            self.queue.extend([others] if others else [])
        return [job for job in batch if job not in others]

    def _make(self, batch: list[Job]) -> None:
        """Make what the jobs lack by now; a job leaves `batch` when the writer has it, or when it lacks nothing."""
        jobs = []
        for job in list(batch):
            record, wrong = ledger.inspect(folder := ledger.run_folder(self.out, job.run_id), hashes=False)
            lack = "clip" if wrong else self.how.lack(record)
            if lack == "measures" and not ledger.inspect(folder)[1]:
                self.room.acquire()
                if (clip := self._read(job, folder, record)) is not None:
                    self._hand_over(job, batch, self._measure_again, folder, record, clip)
                    continue
                self.room.release()
            if not lack:
                batch.remove(job)
                self._finished(job)
            elif (latents := None if self.how.kept else self._stored(job)) is not None:  # they give no trace
                self._decode(job, batch, self._clip(job, latents))
            else:
                jobs.append(job)
        try:
            made = self._denoise(jobs) if jobs else []
        except BrokenClipError as error:
            if len(jobs) > 1:
                raise
            self.room.acquire()
            broken = self._clip(jobs[0], torch.zeros(0))
            self._hand_over(jobs[0], batch, self._write, self._record(jobs[0], broken, str(error)), broken)
            return
        for job, (new, _) in zip(jobs, made, strict=True):
            ledger.store_latents(self.out, job.run_id, save({"latents": new.latents.contiguous()}))
        for job, (new, tr) in zip(jobs, made, strict=True):
            self._decode(job, batch, new, tr, len(jobs))

    def _stored(self, job: Job) -> torch.Tensor | None:
        """Latents that were denoised and not decoded; None where there are none of this job's shape."""
        c, side = job.conditions, self.pipe.vae_scale_factor
        shape = (c.num_frames, self.pipe.unet.config.in_channels // 2, (c.height or 0) // side, (c.width or 0) // side)
        with suppress(SafetensorError, KeyError):
            latents = load(ledger.stored_latents(self.out, job.run_id))["latents"]
            return latents if tuple(latents.shape) == shape and latents.is_floating_point() else None
        return None

    def _read(self, job: Job, folder: Path, record: dict[str, Any]) -> Clip | None:
        """A run's clip; None where its files are none, whatever the record says: it is then made again."""
        try:
            frames = video.as_frames(video.read_frames(folder / ledger.FRAMES))
            latents = load_file(folder / ledger.LATENTS)["latents"]
            return Clip(frames, Call.read(record["call"]), self.inputs[job.image], latents, record["seconds"])
        except (SafetensorError, SvdlabError, KeyError, OSError) as error:
            warn(f"{folder} cannot be read, and is made again: {error}", ledger.DamagedRunWarning)
            return None

    def _clip(self, job: Job, latents: torch.Tensor) -> Clip:
        """A clip that is not decoded."""
        edits, sampler = open_edits(self.pipe), samplers.described(self.pipe, job.conditions)
        call = Call(job.conditions, job.seed, job.image, self.pipe.source, dict(job.start), edits, sampler=sampler)
        return Clip(np.zeros(0, np.float32), call, self.inputs[job.image], latents)

    def _decode(self, job: Job, batch: list[Job], clip: Clip, tr: Trace | None = None, batch_size: int = 1) -> None:
        reason = ""
        self.room.acquire()
        try:
            decode_clip(self.pipe, clip, lower=self.threads == 1, as_bytes=True)  # of two threads one stops first
        except BrokenClipError as error:
            reason = str(error)
        except BaseException:
            self.room.release()
            raise
        self._hand_over(job, batch, self._write, self._record(job, clip, reason, batch_size), clip, tr)

    def _denoise(self, jobs: list[Job]) -> list[tuple[Clip, Trace | None]]:
        latents, noise = (
            torch.stack([self.inputs[job.start[name]] for job in jobs]) if name in jobs[0].start else None
            for name in ("latents", "noise")
        )
        with nullcontext() if self.how.kept is None else trace(self.pipe, **self.how.kept) as tr:
            clips = generate_batch(
                self.pipe,
                [self.inputs[job.image] for job in jobs],
                [job.conditions for job in jobs],
                [job.seed for job in jobs],
                Start(latents=latents, noise=noise, flip_noise=[job.start.get("flip_noise") for job in jobs]),
                encodings=self.encodings,
                decode=False,
            )
        if {self.source} != {self.pipe.source, *(clip.source for clip in clips)}:
            raise InputError("a LoRA was put on this sweep's pipeline, or taken off, meanwhile: load another pipeline for it.")
        if tr is not None:
            tr.find_colours = self.colours
            self.colours()  # here, and not on the writer's thread while this one uses the VAE
        return [(clip, None if tr is None else tr[i]) for i, clip in enumerate(clips)]

    def _record(self, job: Job, clip: Clip, reason: str, batch_size: int = 1) -> dict[str, Any]:
        clip.call = replace(clip.call, intervention=self.how.model["intervention"])
        return {
            **{name: getattr(job, name) for name in ("run_id", "image_name")},
            "status": "failed" if reason else "done",
            "reason": reason,
            "made": datetime.now(UTC).isoformat(timespec="seconds"),
            "svdlab": __version__,
            "call": clip.call.asdict(),
            "model": self.how.model,
            "device": device_name(self.device),
            "process": f"{socket.gethostname()}:{os.getpid()}",
            "batch_size": batch_size,
            "seconds": {k: round(v, 4) for k, v in clip.seconds.items()},
            "measures": {},
            "kept": plain(self.how.kept),
        }

    def _hand_over(self, job: Job, batch: list[Job], work: Callable[..., None], *args: Any) -> None:
        def act() -> None:
            try:
                work(*args)
                self._finished(job)
            except BaseException as error:
                self.error = self.error or error
            finally:
                self.room.release()

        batch.remove(job)
        self.writer.submit(act)

    def _finished(self, job: Job) -> None:
        ledger.release(self.claims.pop(job.run_id))
        self.done()

    # --- the writer's thread ------------------------------------------------------------------------------------------

    def _write(self, record: dict[str, Any], clip: Clip, tr: Trace | None = None) -> None:
        with ledger.new_run(self.out, record["run_id"], record) as folder:
            if record["status"] == "failed":
                return
            frames = clip.frames
            clip.frames = video.as_frames(frames)  # what the file holds: measuring that again gives the same
            record["measures"] = self._held(record["run_id"], clip.frames)
            self._measure(record, clip)
            # Through Python's own file: on a full disk safetensors' writer raises a class of its own.
            (folder / ledger.LATENTS).write_bytes(save({"latents": clip.latents.contiguous()}))
            video.write_frames(folder / ledger.FRAMES, frames, playback_fps=clip.playback_fps)
            facts = video.describe(record["call"], run_id=record["run_id"])
            video.write_preview(folder / ledger.PREVIEW, frames, playback_fps=clip.playback_fps, facts=facts)
            if tr is not None:
                tr.save(folder / ledger.TRACE)
        with suppress(OSError):
            Path(self.out, "runs", f".{record['run_id']}.latents").unlink()

    def _held(self, run_id: str, frames: Any) -> dict[str, Any]:
        """What was measured on these frames before: the run is made again for its trace."""
        record, wrong = ledger.inspect(folder := ledger.run_folder(self.out, run_id), hashes=False)
        with suppress(SvdlabError):
            if not wrong and ledger.FRAMES in record["files"]:
                same = np.array_equal(video.as_frames(video.read_frames(folder / ledger.FRAMES)), frames)
                return dict(record["measures"]) if same else {}
        return {}

    def _measure_again(self, folder: Path, record: dict[str, Any], clip: Clip) -> None:
        self._measure(record, clip)
        ledger.write_record(folder, record)

    def _measure(self, record: dict[str, Any], clip: Clip) -> None:
        """Adds the measures that the record lacks, and says how they went."""
        record["measures"] = self.how.worth(record)
        wanted = missing_measures(record, self.how.measures, retry_failed=self.how.retry_failed)
        record["measures"] |= measure_clip(clip, wanted, self.pipe)
        errors = [f"measure {name}: {entry['error']}" for name, entry in record["measures"].items() if "error" in entry]
        record.update(status="failed" if errors else "done", reason="; ".join(errors))
