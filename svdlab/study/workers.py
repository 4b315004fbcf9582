"""What makes runs: one queue, threads that denoise and decode batches on one pipeline, and one that measures and writes.

Any number of processes may do that for one study: all skip what they find there, and whoever is killed leaves nothing to
repair.
"""

from __future__ import annotations

import contextvars
import gc
import hashlib
import json
import math
import os
import socket
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from safetensors.torch import load, load_file, save

from svdlab import __version__
from svdlab.errors import BrokenClipError, OutOfMemoryError, OutputError
from svdlab.measure import video
from svdlab.pipeline.conditions import Conditions
from svdlab.pipeline.generate import Call, Clip, ProbePipeline, Start, decode_clip, generate_batch
from svdlab.pipeline.hooks import trace
from svdlab.pipeline.temporal import quick_convolutions
from svdlab.pipeline.trace import Trace, colour_map
from svdlab.study import ledger
from svdlab.study.measures import Measure, measure_clip, missing_measures

BUSY_WAIT = 0.2  # s between looks at runs that another process is making
CLIPS_IN_MEMORY = 2  # decoded: one being measured and written, one being decoded or waiting


@dataclass(frozen=True)
class How:
    """How a sweep makes its runs, the same for all. model: `identity.facts`; fingerprint: what that model computes.
    kept: arguments of `svdlab.trace`, or None for no trace."""

    model: dict[str, Any]
    measures: tuple[Measure, ...] = ()
    kept: dict[str, Any] | None = None
    batch_size: int = 1
    retry_failed: bool = False
    fingerprint: dict[str, list[float]] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Job:
    """One run to make. conditions: nothing left to fill in. image: hash of the prepared image. start: how it begins, where
    that is not the seed's noise: "flip_noise", hashes of "latents" or "noise"."""

    run_id: str
    latents_id: str
    conditions: Conditions
    seed: int
    image: str
    image_name: str
    start: dict[str, str] = field(default_factory=dict)

    @property
    def batch_key(self) -> tuple:
        """What clips of one batch must agree in."""
        c = self.conditions
        given = "latents" in self.start, "noise" in self.start
        return (c.num_frames, c.height, c.width, c.num_inference_steps, c.guided, *given)


def lacks(record: Mapping[str, Any], how: How) -> str:
    """What a whole run still lacks of what a sweep asks for: "clip", "measures", or "" for nothing.

    A clip that came out broken lacks nothing, because it would again, unless failures are to be tried again.
    """
    if ledger.FRAMES not in record["files"]:
        return "clip" if how.retry_failed else ""
    if how.kept is not None and record.get("kept") != plain_arguments(how.kept):
        return "clip"
    return "measures" if missing_measures(record, how.measures, retry_failed=how.retry_failed) else ""


def plain_arguments(kept: dict[str, Any] | None) -> dict[str, Any] | None:
    """The arguments of `trace` as plain JSON, for the record and for comparison."""

    def text(value: Any) -> Any:
        return list(value) if isinstance(value, Iterable) else getattr(value, "__qualname__", repr(value))

    return None if kept is None else json.loads(json.dumps(kept, default=text))


def device_name() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu, {torch.get_num_threads()} threads"


class _Abandoned(BaseException):
    """Ends a thread's batch in the middle, after another thread failed or was interrupted."""


@dataclass(eq=False)
class Making:
    """Makes every job's run that the study does not have by then. Neighbours that agree in `batch_key` share a batch.

    inputs: prepared images and given tensors, by hash. done: called for each whole run. stop: asked between batches.
    """

    pipe: ProbePipeline
    queue: deque[Job]
    inputs: Mapping[str, Any]
    out: Path
    how: How
    done: Callable[[], Any] = lambda: None
    stop: Callable[[], bool] = lambda: False

    def run(self, threads: int = 1) -> None:
        """Raises OutputError where the disk refuses, OutOfMemoryError where not even one clip fits; what was made is kept."""
        self.size, self.threads, self.working = self.how.batch_size, threads, threads
        self.claims: dict[str, FileLock] = {}  # of runs that are not yet written
        self.encodings: dict[Any, torch.Tensor] = {}  # each image is encoded once
        self.colours = cache(partial(colour_map, self.pipe))  # of all traces
        self.room, self.mutex = threading.Semaphore(CLIPS_IN_MEMORY), threading.Lock()
        self.error: BaseException | None = None  # the writer's first; the batches in hand are finished
        self.abandoned = False
        try:
            with ThreadPoolExecutor(1, "svdlab-writer") as self.writer, quick_convolutions(self.pipe):
                if threads > 1:
                    self._work_together(threads)
                    self.working = 1
                self._work()  # alone; or what was given back when memory did not suffice for all threads
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
        hooks = [part.register_forward_pre_hook(check) for part in (self.pipe.unet, self.pipe.vae.decoder)]
        try:
            with ThreadPoolExecutor(threads, "svdlab", torch.set_num_threads, (share,)) as pool:
                try:
                    works = [pool.submit(contextvars.copy_context().run, self._work) for _ in range(threads)]
                    for work in as_completed(works):
                        work.result()
                except BaseException:
                    self.abandoned = True
                    raise
        finally:
            for hook in hooks:
                hook.remove()

    def _over(self) -> bool:
        return self.stop() or self.error is not None or self.abandoned

    def _work(self) -> None:
        """Make batches until none is left, or until not even one clip fits beside those of other threads."""
        try:
            while self.queue and not self._over():
                batch, measured = self._take()
                for job in measured:
                    self.room.acquire()
                    self._hand_over(job, self._measure_again, job)
                if batch and not self._over():
                    if not self._made(batch):
                        return
                elif not batch and not measured and self.queue:
                    time.sleep(BUSY_WAIT)  # all that is left is being made by others
        finally:
            with self.mutex:
                self.working -= 1

    def _take(self) -> tuple[list[Job], list[Job]]:
        """The next jobs for one call, and those that lack measures only. Those that another process makes go to the end."""
        batch: list[Job] = []
        measured: list[Job] = []
        with self.mutex:
            size = self.size  # fewer towards the end, so that no thread is left with the last batch alone
            if self.threads > 1:
                size = max(1, min(size, math.ceil(len(self.queue) / (2 * self.threads))))
            for _ in range(len(self.queue)):
                other = batch and batch[0].batch_key != self.queue[0].batch_key
                if other or len(batch) + len(measured) >= size or self._over():
                    break
                job = self.queue.popleft()
                if job.run_id not in self.claims:
                    lock = ledger.claim(self.out, job.run_id)
                    if lock is None:
                        self.queue.append(job)
                        continue
                    self.claims[job.run_id] = lock
                lack = self._lack(job)
                if lack:
                    (batch if lack == "clip" else measured).append(job)
                else:
                    self._finished(job)
        return batch, measured

    def _lack(self, job: Job) -> str:
        folder = ledger.run_folder(self.out, job.run_id)
        record, wrong = ledger.inspect(folder, hashes=False)
        lack = "clip" if wrong else lacks(record, self.how)
        return "clip" if lack == "measures" and ledger.inspect(folder)[1] else lack

    def _made(self, batch: list[Job]) -> bool:
        """Whether this thread can go on. What a failed batch did not hand over goes back to the queue."""
        fits, asked = True, len(batch)
        try:
            self._make(batch)
        except OutOfMemoryError as error:
            if asked == 1 and self.working == 1:
                raise
            fits = asked > 1
            error.__traceback__ = None  # which would keep the tensors alive
        if batch:
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            with self.mutex:
                self.size = max(1, min(self.size, asked // 2))
                self.queue.extendleft(reversed(batch))
        if not fits:
            warnings.warn("memory did not suffice for all threads: one ended early.", stacklevel=2)
        return fits

    def _make(self, batch: list[Job]) -> None:
        """Denoise a batch in one call, then decode clip by clip; jobs leave `batch` when the writer has them."""
        for job in list(batch):
            if (clip := self._pending(job)) is not None:
                self._decode(job, clip, None, 1, batch)
        if not batch:
            return
        jobs = list(batch)
        try:
            clips, traces = self._denoise(jobs)
        except BrokenClipError as error:
            if len(jobs) > 1:  # one by one, to find which
                for job in jobs:
                    alone = [job]
                    batch.remove(job)
                    try:
                        self._make(alone)
                    finally:
                        batch += alone
                return
            self.room.acquire()
            batch.clear()
            self._hand_over(jobs[0], self._write, jobs[0], self._empty(jobs[0]), None, 1, str(error), device_name())
            return
        for job, clip in zip(jobs, clips, strict=True):
            self._keep_latents(job, clip)
        for job, clip, tr in zip(jobs, clips, traces, strict=True):
            self._decode(job, clip, tr, len(jobs), batch)

    def _denoise(self, jobs: list[Job]) -> tuple[list[Clip], list[Trace | None]]:
        given = {
            name: torch.stack([self.inputs[job.start[name]] for job in jobs]) if name in jobs[0].start else None
            for name in ("latents", "noise")
        }
        with nullcontext() if self.how.kept is None else trace(self.pipe, **self.how.kept) as tr:
            clips = generate_batch(
                self.pipe,
                [self.inputs[job.image] for job in jobs],
                [job.conditions for job in jobs],
                [job.seed for job in jobs],
                Start(
                    latents=given["latents"],
                    noise=None if given["noise"] is None else (None, given["noise"]),
                    flip_noise=[job.start.get("flip_noise") for job in jobs],
                ),
                encodings=self.encodings,
                decode=False,
            )
        if tr is not None:
            tr.find_colours = self.colours
            self.colours()  # here, and not on the writer's thread while this one uses the VAE
        for clip in clips:
            clip.call = replace(clip.call, intervention=self.how.model["intervention"])
        return clips, [None if tr is None else tr[i] for i in range(len(clips))]

    def _decode(self, job: Job, clip: Clip, tr: Trace | None, batch_size: int, batch: list[Job]) -> None:
        self.room.acquire()
        try:
            decode_clip(self.pipe, clip)
            reason = ""
        except BrokenClipError as error:
            reason = str(error)
        except BaseException:
            self.room.release()
            raise
        batch.remove(job)
        self._hand_over(job, self._write, job, clip, tr, batch_size, reason, device_name())

    def _empty(self, job: Job, latents: torch.Tensor | None = None) -> Clip:
        """A clip without frames, and maybe without latents."""
        intervention = self.how.model["intervention"]
        call = Call(job.conditions, job.seed, job.image, self.pipe.source, dict(job.start), intervention=intervention)
        return Clip(np.zeros(0, np.float32), call, self.inputs[job.image], torch.zeros(0) if latents is None else latents)

    # --- latents that wait for their decoding -------------------------------------------------------------------------

    def _keep_latents(self, job: Job, clip: Clip) -> None:
        """No sync: a file that does not match its hash is not used."""
        data, path = save({"latents": clip.latents.contiguous()}), ledger.pending_latents(self.out, job.run_id)
        try:
            path.write_bytes(hashlib.sha256(data).digest() + data)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise OutputError(
                f"{path} could not be written: {error}. Make room and start the same sweep again, which goes on from here."
            ) from error

    def _pending(self, job: Job) -> Clip | None:
        """A clip that was denoised and not decoded; a trace cannot be had that way."""
        path = ledger.pending_latents(self.out, job.run_id)
        if self.how.kept is not None or not path.exists():
            return None
        content = path.read_bytes()
        if hashlib.sha256(content[32:]).digest() != content[:32]:
            return None
        return self._empty(job, load(content[32:])["latents"])

    # --- the writer's thread ------------------------------------------------------------------------------------------

    def _hand_over(self, job: Job, work: Callable[..., None], *args: Any) -> None:
        def act() -> None:
            try:
                work(*args)
                self._finished(job)
            except BaseException as error:
                self.error = self.error or error
            finally:
                self.room.release()

        self.writer.submit(act)

    def _finished(self, job: Job) -> None:
        ledger.release(self.claims.pop(job.run_id))
        self.done()

    def _write(self, job: Job, clip: Clip, tr: Trace | None, batch_size: int, reason: str, device: str) -> None:
        record = self._record(job, clip, batch_size, device)
        with ledger.new_run(self.out, job.run_id, record) as folder:
            if reason:
                record.update(status="failed", reason=reason)
                return
            frames = video.as_bytes(clip.frames)
            clip.frames = frames.astype(np.float32) / 255  # what the file holds: measuring that again gives the same
            record["measures"] = measure_clip(clip, self.how.measures, self.pipe)
            _settle(record)
            # Through Python's own file: on a full disk safetensors' writer raises a class of its own.
            (folder / ledger.LATENTS).write_bytes(save({"latents": clip.latents.contiguous()}))
            video.write_frames(folder / ledger.FRAMES, frames, playback_fps=clip.playback_fps)
            facts = video.describe(record["call"], run_id=job.run_id)
            video.write_preview(folder / ledger.PREVIEW, frames, playback_fps=clip.playback_fps, facts=facts)
            if tr is not None:
                tr.save(folder / ledger.TRACE)
        with suppress(OSError):
            os.unlink(ledger.pending_latents(self.out, job.run_id))

    def _record(self, job: Job, clip: Clip, batch_size: int, device: str) -> dict[str, Any]:
        return {
            "run_id": job.run_id,
            "latents_id": job.latents_id,
            "status": "done",
            "reason": "",
            "made": datetime.now(UTC).isoformat(timespec="seconds"),
            "svdlab": __version__,
            "call": clip.call.asdict(),
            "image_name": job.image_name,
            "model": self.how.model,
            "device": device,
            "process": f"{socket.gethostname()}:{os.getpid()}",
            "batch_size": batch_size,
            "seconds": {k: round(v, 4) for k, v in clip.seconds.items()},
            "measures": {},
            "kept": plain_arguments(self.how.kept),
        }

    def _measure_again(self, job: Job) -> None:
        folder = ledger.run_folder(self.out, job.run_id)
        record = ledger.read_record(folder)
        frames = video.read_frames(folder / ledger.FRAMES).astype(np.float32) / 255
        latents = load_file(folder / ledger.LATENTS)["latents"]
        clip = Clip(frames, Call.read(record["call"]), self.inputs[job.image], latents, record["seconds"])
        missing = missing_measures(record, self.how.measures, retry_failed=self.how.retry_failed)
        record["measures"] |= measure_clip(clip, missing, self.pipe)
        _settle(record)
        ledger.write_record(folder, record)


def _settle(record: dict[str, Any]) -> None:
    """Status and reason of a record by how its measures went."""
    errors = [f"measure {name}: {entry['error']}" for name, entry in record["measures"].items() if "error" in entry]
    record.update(status="failed" if errors else "done", reason="; ".join(errors))
