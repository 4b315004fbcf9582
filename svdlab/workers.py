"""What makes runs: batches through one pipeline, while a second thread measures, encodes and writes.

`make` serves one pipeline in this process; `make_elsewhere` is what an executor's workers run, each with a pipeline of
its own. Both take `Job`s, write into the ledger, and skip what they find there.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from PIL import Image
from safetensors.torch import load_file, save_file

from svdlab import fidelity, ledger, motion, video
from svdlab.conditions import Conditions
from svdlab.errors import BrokenClipError, CheckpointError, InputError, OutputError, SvdlabError
from svdlab.hooks import trace
from svdlab.pipeline import Clip, ProbePipeline, Source, decode_clip, generate_batch

BUSY_WAIT = 0.2  # s between looks at runs that another process is making
CLIPS_IN_MEMORY = 2  # decoded clips: one being decoded or waiting, one being measured and written


class OutOfMemoryError(SvdlabError, MemoryError):
    """Not even one clip fits."""


@dataclass(frozen=True)
class Job:
    """One run to make. conditions have nothing left to fill in; image is the prepared picture's hash."""

    run_id: str
    latents_id: str
    conditions: Conditions
    seed: int
    image: str
    image_name: str


@dataclass(frozen=True)
class How:
    """How a sweep makes its runs; the same for all of them.

    facts: what goes into every id beside the row's own values. measures: name -> function of a clip, or None for one
    that svdlab knows by that name; versions: name -> what tells it from its own earlier text. kept: arguments of `trace`, or None.
    """

    facts: dict[str, Any]
    measures: dict[str, Callable[[Clip], Any] | None]
    versions: dict[str, str]
    kept: dict[str, Any] | None
    batch_size: int
    retry_failed: bool = False


def _motion(clip: Clip) -> dict[str, Any]:
    return motion.summary(clip.frames, playback_fps=clip.playback_fps)


def _fidelity(clip: Clip) -> dict[str, Any]:
    return fidelity.summary(clip.frames, clip.image)


MEASURES: dict[str, Callable[[Clip], Any]] = {"motion": _motion, "fidelity": _fidelity}


# --- identity ---------------------------------------------------------------------------------------------------------


def weights_hash(pipe: ProbePipeline) -> str:
    """sha256 over the weights as they are in memory, so that a model changed after loading has ids of its own.

    The same checkpoint has the same hash on every device, and another one in another dtype. With weights that are not
    in memory (sequential offload), what the source recorded stands in.
    """
    digest = hashlib.sha256()
    for name in ("unet", "vae", "image_encoder"):
        part = getattr(pipe, name)
        for key, tensor in getattr(part, "_orig_mod", part).state_dict().items():
            if tensor.device.type == "meta":
                return f"{pipe.source.weights_hash or pipe.source.checkpoint}@{pipe.source.revision}"
            digest.update(f"{name}.{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    digest.update(json.dumps(dict(pipe.scheduler.config), sort_keys=True, default=str).encode())
    return digest.hexdigest()


def measure_version(function: Callable[[Clip], Any] | None) -> str:
    """What tells a measure from its own earlier text: svdlab's version, or a hash of the function's source."""
    from svdlab import __version__

    if function is None:
        return __version__
    try:
        return hashlib.sha256(inspect.getsource(function).encode()).hexdigest()[:12]
    except (OSError, TypeError):
        return "unknown"


# --- what is there already --------------------------------------------------------------------------------------------


def is_current(status: str, versions: dict[str, str], kept: dict[str, Any] | None, how: How) -> bool:
    """Whether a run has everything that is asked of it; versions: of its measures, by name."""
    if status == "failed":
        return not how.retry_failed
    return not unmeasured(versions, how) and keeps_enough(kept, how)


def versions_in(record: dict[str, Any]) -> dict[str, str]:
    return {name: entry["version"] for name, entry in record["measures"].items()}


def unmeasured(versions: dict[str, str], how: How) -> list[str]:
    """The measures that are asked for and not there, or there in another version."""
    return [name for name, version in how.versions.items() if versions.get(name) != version]


def keeps_enough(kept: dict[str, Any] | None, how: How) -> bool:
    return how.kept is None or kept == describe_kept(how.kept)


def describe_kept(kept: dict[str, Any] | None) -> dict[str, Any] | None:
    """The arguments of `trace` as plain JSON, for the record and for comparison."""
    return (
        None
        if kept is None
        else json.loads(json.dumps(kept, default=lambda value: list(value) if isinstance(value, Iterable) else repr(value)))
    )


# --- one process ------------------------------------------------------------------------------------------------------


@dataclass
class _Unit:
    """The runs that share latents: denoised once, decoded for each."""

    jobs: list[Job]
    lock: FileLock | None = None
    left: int = 0

    @property
    def latents_id(self) -> str:
        return self.jobs[0].latents_id


def make(
    pipe: ProbePipeline,
    jobs: Sequence[Job],
    pictures: dict[str, Image.Image],
    out: Path,
    how: How,
    *,
    done: Callable[[Job], None] = lambda job: None,
    stop: Callable[[], bool] = lambda: False,
) -> int:
    """Make every job's run, unless the ledger has it by then; returns the batch size that memory allowed.

    Jobs of one batch must agree in frames, size, steps and guidance: `batches` sees to it. done: called in this thread
    or the writer's when a job's run is whole. stop: asked between batches. Raises OutputError where the disk refuses,
    OutOfMemoryError where a single clip does not fit; everything made until then is kept.
    """
    queue: deque[_Unit] = deque(_units(jobs))
    size, waiting = how.batch_size, 0
    with _Writer(out, how, pictures, done) as writer:
        while queue and not stop():
            batch, busy = _take(queue, size, out)
            queue.extend(busy)
            if not batch:
                waiting += 1
                time.sleep(BUSY_WAIT)
                continue
            try:
                new = [unit for unit in batch if _needs_denoising(unit, writer, out, how)]
                if not new:
                    continue
                clips, traces = _denoise(pipe, new, pictures, how)
            except BaseException as error:
                for unit in batch:
                    writer.give_up(unit)
                if not is_out_of_memory(error):
                    raise
                size = _smaller(size, batch, error)
                _free_memory()
                queue.extendleft(_Unit(unit.jobs) for unit in reversed(batch))
                continue
            for unit, clip, tr in zip(new, clips, traces, strict=True):
                _decode_and_hand_over(pipe, unit, clip, tr, writer, len(new))
    return size


def _units(jobs: Sequence[Job]) -> list[_Unit]:
    shared: dict[str, list[Job]] = {}
    for job in jobs:
        shared.setdefault(job.latents_id, []).append(job)
    return [_Unit(list(group)) for group in shared.values()]


def _batch_key(job: Job) -> tuple:
    c = job.conditions
    return (c.num_frames, c.height, c.width, c.num_inference_steps, c.guided)


def _take(queue: deque[_Unit], size: int, out: Path) -> tuple[list[_Unit], list[_Unit]]:
    """The next units that fit into one call and that nobody else is making, and those that somebody is."""
    batch: list[_Unit] = []
    busy: list[_Unit] = []
    passed: list[_Unit] = []
    while queue and len(batch) < size and len(passed) < 4 * size:
        unit = queue.popleft()
        if batch and _batch_key(unit.jobs[0]) != _batch_key(batch[0].jobs[0]):
            passed.append(unit)
            continue
        unit.lock = ledger.claim(out, unit.latents_id)
        (batch if unit.lock else busy).append(unit)
    queue.extendleft(reversed(passed))
    return batch, busy


def _needs_denoising(unit: _Unit, writer: _Writer, out: Path, how: How) -> bool:
    """Whether a unit's latents must be made; what needs less (new measures, another decoding) is handed on at once."""
    unit.left = len(unit.jobs)
    missing = []
    for job in unit.jobs:
        folder = ledger.run_folder(out, job.run_id)
        record = None if ledger.damage(folder, hashes=False) else ledger.read_record(folder)
        if record is None or (record["status"] == "failed" and how.retry_failed):
            missing.append(job)
        elif is_current(record["status"], versions_in(record), record["kept"], how):
            writer.finish(unit, job)
        elif keeps_enough(record["kept"], how):
            writer.measure_again(unit, job, record)
        else:
            missing.append(job)
    unit.jobs = missing
    return bool(missing)


def _denoise(
    pipe: ProbePipeline, units: list[_Unit], pictures: dict[str, Image.Image], how: How
) -> tuple[list[Clip], list[Any]]:
    jobs = [unit.jobs[0] for unit in units]
    with trace(pipe, **how.kept) if how.kept is not None else nullcontext() as tr:
        clips = generate_batch(
            pipe, [pictures[j.image] for j in jobs], [j.conditions for j in jobs], [j.seed for j in jobs], decode=False
        )
    return clips, [None] * len(clips) if tr is None else [tr[i] for i in range(len(clips))]


def _decode_and_hand_over(pipe: ProbePipeline, unit: _Unit, clip: Clip, tr: Any, writer: _Writer, batch_size: int) -> None:
    for job in list(unit.jobs):
        own = Clip(clip.frames, job.conditions, clip.seed, clip.image, clip.latents, clip.source, dict(clip.seconds))
        writer.wait_for_room()
        reason = ""
        try:
            decode_clip(pipe, own)
        except BrokenClipError as error:
            reason = str(error)
        except BaseException as error:
            writer.room.release()
            if is_out_of_memory(error):
                raise OutOfMemoryError(_advice(job.conditions, error)) from error
            raise
        writer.write(unit, job, own, tr, batch_size, reason)


def is_out_of_memory(error: BaseException) -> bool:
    """torch's own class on an accelerator; on the CPU a RuntimeError that says so."""
    text = str(error).lower()
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)
    )


def _smaller(size: int, batch: list[_Unit], error: BaseException) -> int:
    if len(batch) <= 1:
        raise OutOfMemoryError(_advice(batch[0].jobs[0].conditions, error)) from error
    return max(1, min(size, len(batch)) // 2)


def _advice(c: Conditions, error: BaseException) -> str:
    return (
        f"not even one clip of {c.num_frames} frames of {c.width}x{c.height} px fits into memory ({str(error).splitlines()[0]}): "
        f"load with offload='model', choose a smaller decode_chunk_size, fewer frames or a smaller size."
    )


def _free_memory() -> None:
    import gc

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class _Writer:
    """One thread beside the denoising: measures, encodes, writes. At most CLIPS_IN_MEMORY decoded clips exist."""

    def __init__(self, out: Path, how: How, pictures: dict[str, Image.Image], done: Callable[[Job], None]) -> None:
        self.out, self.how, self.pictures, self.done = out, how, pictures, done
        self.room = threading.Semaphore(CLIPS_IN_MEMORY)
        self.pool = ThreadPoolExecutor(1, "svdlab-writer")
        self.pending: deque[tuple[Future, _Unit]] = deque()
        self.mutex = threading.Lock()

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, kind: Any, error: Any, where: Any) -> None:
        """What was handed over is written even where the sweep ends early; the first thing that failed is raised."""
        self.pool.shutdown(wait=True)
        failures = [f.exception() for f, _ in self.pending if f.exception() is not None]
        if failures and error is None:
            raise failures[0]  # type: ignore[misc]

    def wait_for_room(self) -> None:
        self.room.acquire()
        self._raise_failures()

    def _raise_failures(self) -> None:
        while self.pending and self.pending[0][0].done():
            future, _ = self.pending.popleft()
            if future.exception() is not None:
                self.room.release()
                raise future.exception()  # type: ignore[misc]

    def write(self, unit: _Unit, job: Job, clip: Clip, tr: Any, batch_size: int, reason: str) -> None:
        self._submit(unit, job, True, self._write, job, clip, tr, batch_size, reason)

    def measure_again(self, unit: _Unit, job: Job, record: dict[str, Any]) -> None:
        """Only measures are missing: the frames are read from the file."""
        self._submit(unit, job, False, self._measure_again, job, record)

    def _submit(self, unit: _Unit, job: Job, holds_room: bool, work: Callable, *args: Any) -> None:
        def act() -> None:
            try:
                work(*args)
            except BaseException:
                self.give_up(unit)
                raise
            finally:
                if holds_room:
                    self.room.release()
            self.finish(unit, job)

        self.pending.append((self.pool.submit(act), unit))

    def finish(self, unit: _Unit, job: Job) -> None:
        """A job's run is whole; with its unit's last one the lock goes back."""
        with self.mutex:
            unit.left -= 1
            last = unit.left == 0
        if last:
            self.give_up(unit)
        self.done(job)

    def give_up(self, unit: _Unit) -> None:
        with self.mutex:
            lock, unit.lock = unit.lock, None
        if lock is not None:
            ledger.release(lock)

    def _write(self, job: Job, clip: Clip, tr: Any, batch_size: int, reason: str) -> None:
        record = new_record(job, clip, self.how, batch_size)
        with ledger.new_run(self.out, job.latents_id, job.run_id, record) as folder:
            if reason:
                record.update(status="failed", reason=reason)
                return
            frames = video.as_bytes(clip.frames)
            clip.frames = frames.astype(np.float32) / 255  # what the file holds, so that it can be measured again
            record["measures"] = measured(clip, list(self.how.measures), self.how)
            save_file({"latents": clip.latents.contiguous()}, folder / ledger.LATENTS)
            video.write_frames(folder / ledger.FRAMES, frames, playback_fps=clip.playback_fps)
            video.write_preview(folder / ledger.PREVIEW, frames, playback_fps=clip.playback_fps)
            if tr is not None:
                tr.save(folder / ledger.TRACE)

    def _measure_again(self, job: Job, record: dict[str, Any]) -> None:
        path = ledger.read_file(self.out, job.run_id, ledger.FRAMES)
        latents = load_file(ledger.read_file(self.out, job.run_id, ledger.LATENTS))["latents"]
        frames = video.read_frames(path).astype(np.float32) / 255
        picture = self.pictures[job.image]
        clip = Clip(frames, job.conditions, job.seed, picture, latents, Source(**record["source"]), record["seconds"])
        record["measures"] |= measured(clip, unmeasured(versions_in(record), self.how), self.how)
        ledger.amend(path.parent, record)


def new_record(job: Job, clip: Clip, how: How, batch_size: int) -> dict[str, Any]:
    """What run.json says, but for measures and files."""
    call = {
        "conditions": job.conditions.asdict(),
        "fps_id": job.conditions.fps_id,
        "seed": job.seed,
        "image": job.image,
        "image_name": job.image_name,
        **how.facts,
    }
    return {
        "status": "done",
        "reason": "",
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "call": call,
        "source": asdict(clip.source),
        "batch_size": batch_size,
        "seconds": {k: round(v, 4) for k, v in clip.seconds.items()},
        "measures": {},
        "kept": describe_kept(how.kept),
    }


def measured(clip: Clip, names: list[str], how: How) -> dict[str, Any]:
    """The named measures of a clip as the record holds them; one that raises is recorded with its reason."""
    found: dict[str, Any] = {}
    for name in names:
        function = how.measures[name]
        entry: dict[str, Any] = {"version": how.versions[name], "values": {}}
        values = (function or MEASURES[name])(clip)
        if not isinstance(values, dict):
            values = {name: values}
        elif function is not None:
            values = {f"{name}_{key}": value for key, value in values.items()}
        entry["values"] = {str(key): ledger.plain(value) for key, value in values.items()}
        found[name] = entry
    return found
