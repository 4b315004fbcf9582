"""The thread beside the denoising: measures a clip, encodes it and files it in the ledger.

>>> with Writer(out, how, pictures, done) as writer:
...     writer.wait_for_room()
...     writer.write(unit, job, clip, None, batch_size=1, reason="")
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from PIL import Image
from safetensors.torch import load_file, save

from svdlab.measure import video
from svdlab.pipeline.generate import Call, Clip, Source
from svdlab.pipeline.trace import Trace
from svdlab.study import folders, ledger
from svdlab.study.runs import How, Job, measure_clip, missing_measures, new_record, settle

CLIPS_IN_MEMORY = 2  # decoded clips: one being measured and written, one being decoded or waiting


@dataclass
class Unit:
    """The runs that share latents: claimed together, denoised once, decoded for each. left: runs not yet settled."""

    jobs: list[Job]
    lock: FileLock | None = None
    left: int = 0


class Writer:
    """Measures, encodes and writes beside the denoising, in the order of arrival.

    At most CLIPS_IN_MEMORY decoded clips exist, however many pipelines make them: whoever wants to decode another waits for
    room. Leaving the `with` block, also by an error, finishes what was handed over.
    """

    def __init__(self, out: Path, how: How, pictures: dict[str, Image.Image], done: Callable[[Job], None]) -> None:
        self.out, self.how, self.pictures, self.done = out, how, pictures, done
        self.pool = ThreadPoolExecutor(1, "svdlab-writer")
        self.pool.submit(time.monotonic)  # its thread starts now: when memory is short, none may be had any more
        self.in_hand = 0  # decoded clips
        self.encodings: dict[Any, Any] = {}  # of this sweep's pictures
        self.error: BaseException | None = None  # the first that it met
        self.changed = threading.Condition()
        self.mutex = threading.Lock()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, where: Any) -> None:
        self.pool.shutdown(wait=True)
        if error is None and self.error is not None:
            raise self.error

    def wait_for_room(self) -> None:
        """Until another clip may be decoded, which then counts; raises what failed in writing earlier ones."""
        with self.changed:
            self.changed.wait_for(lambda: self.in_hand < CLIPS_IN_MEMORY or self.error is not None)
            if self.error is not None:
                raise self.error
            self.in_hand += 1

    def leave(self) -> None:
        """A clip that counted is no longer held."""
        with self.changed:
            self.in_hand -= 1
            self.changed.notify_all()

    def drain(self) -> None:
        """Until no clip is held."""
        with self.changed:
            self.changed.wait_for(lambda: self.in_hand == 0)

    def write(self, unit: Unit, job: Job, clip: Clip, tr: Trace | None, batch_size: int, reason: str) -> None:
        record = new_record(job, clip, self.how, batch_size)  # here, where torch's threads are those that made the clip
        self._hand_over(unit, job, lambda: self._write(job, clip, tr, record, reason))

    def measure_again(self, unit: Unit, job: Job, record: dict[str, Any]) -> None:
        self.wait_for_room()
        self._hand_over(unit, job, lambda: self._measure_again(job, record))

    def _hand_over(self, unit: Unit, job: Job, work: Callable[[], None]) -> None:
        def act() -> None:
            try:
                work()
                self.settled(unit, job)
            except BaseException as error:
                self.free(unit)
                self.error = self.error or error
            finally:
                self.leave()

        self.pool.submit(act)

    def settled(self, unit: Unit, job: Job) -> None:
        """A job's run is whole; with its unit's last one the claim is given back."""
        with self.mutex:
            unit.left -= 1
            last = unit.left == 0
        if last:
            self.free(unit)
        self.done(job)

    def free(self, unit: Unit) -> None:
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
            facts = video.describe({"source": record["source"], **record["call"]}, run_id=job.run_id)
            video.write_preview(folder / folders.PREVIEW, frames, playback_fps=clip.playback_fps, facts=facts)
            if tr is not None:
                tr.save(folder / folders.TRACE)

    def _measure_again(self, job: Job, record: dict[str, Any]) -> None:
        folder = folders.run_folder(self.out, job.run_id)
        clip = Clip(
            video.read_frames(folder / folders.FRAMES).astype(np.float32) / 255,
            Call(job.conditions, job.seed, job.image, Source(**record["source"])),
            self.pictures[job.image],
            load_file(folder / folders.LATENTS)["latents"],
            record["seconds"],
        )
        record["measures"] |= measure_clip(clip, missing_measures(ledger.state(record), self.how))
        settle(record)
        folders.amend(folder, record)
