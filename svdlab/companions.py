"""More processes for a sweep on a CPU: each with a pipeline and threads of its own, all of them into one ledger.

    >>> with Crew(pipe, jobs, pictures, out, how, processes=2) as crew:
    ...     make(pipe, jobs, pictures, out, how, share=crew)

On two cores, 48 clips of the organism took 39 and 40 s in two processes of one thread each, and 41 and 48 s in one process of
two threads. Nothing deals the work out. Each process claims in the ledger what nobody has made or claimed, so whoever
is killed costs the batch it had in hand, which another one makes.

A companion is a fresh interpreter that imports svdlab and nothing of the user's: a script without a `__main__` guard, a
notebook and a prompt may all sweep. It is told what to make as one line of JSON on its standard input, and answers a line for
each run that is whole. When that input ends, whatever happened to the process at its other end, it ends too.
"""

from __future__ import annotations

import base64
import gc
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import torch
from PIL import Image

from svdlab import folders, workers
from svdlab.conditions import Conditions
from svdlab.errors import InputError
from svdlab.memory import free_memory, need_of
from svdlab.pipeline import ProbePipeline
from svdlab.runs import MEASURES, How, Job, as_measures, describe_kept

MOST = 4  # companions beyond that were never tried
PAYS = 20.0  # s of work left, below which starting another process (4 s of importing torch and diffusers) gains little
MEMORY = 0.7  # of what is free, that companions may take by estimate
PATIENCE = 30.0  # s that a companion is given to put down what it holds when there is nothing left to make
START = "import sys; sys.path[:0] = [sys.argv[1]]; from svdlab.companions import main; main()"


class CompanionWarning(UserWarning):
    """A companion that ended early; what it would have made, the others make."""


def why_not(pipe: ProbePipeline, how: How, executor: Any) -> str:
    """Why a sweep has to stay in this process; "" where it need not."""
    reasons = {
        "executor= brings processes of its own": executor is not None,
        f"the pipeline is on {pipe._execution_device.type}, and only a CPU gains by more processes": (
            pipe._execution_device.type != "cpu"
        ),
        "the pipeline was not loaded by svdlab.load_pipeline, so another process cannot load it": not pipe.source.checkpoint,
        "edits live in this process": how.facts.get("intervention") is not None,
        "its UNet is compiled, and every process would compile it anew": hasattr(pipe.unet, "_orig_mod"),
        "there are hooks on its modules, which live in this process": any(
            m._forward_hooks or m._forward_pre_hooks
            for part in (pipe.unet, pipe.vae, pipe.image_encoder)
            for m in part.modules()
        ),
        "keep= holds what cannot be written down for another process": not _plain(how.kept),
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def _plain(kept: dict[str, Any] | None) -> bool:
    try:
        return json.loads(json.dumps(kept)) == describe_kept(kept)
    except TypeError:
        return False


def how_many(processes: Any, reason: str) -> int | None:
    """The number asked for, None where time is to decide. Raises InputError where it cannot be had, with the reason."""
    if processes == "auto":
        return 1 if reason else None
    if isinstance(processes, bool) or not isinstance(processes, int) or processes < 1:
        raise InputError(f"processes={processes!r}: give a whole number of at least 1, or 'auto'.")
    if processes > 1 and reason:
        raise InputError(f"processes={processes}: this sweep cannot be shared between processes: {reason}.")
    return processes


# --- this process's side ----------------------------------------------------------------------------------------------


class Crew(workers.Share):
    """The companions of one sweep, from the first batch on that makes them worth starting, to the end of the `with`.

    processes: with this one; None lets the first clip's time decide. told: hears the id of every run that a companion made.
    """

    def __init__(
        self,
        pipe: ProbePipeline,
        jobs: Sequence[Job],
        pictures: dict[str, Image.Image],
        out: Path,
        how: How,
        *,
        processes: int | None = None,
        told: Callable[[str], None] = lambda run_id: None,
    ) -> None:
        super().__init__(1)
        self.pipe, self.jobs, self.pictures, self.out, self.how, self.told = pipe, jobs, pictures, out, how, told
        self.threads = torch.get_num_threads()
        self.wanted = processes or min(self.threads, MOST)
        self.undecided = processes is None and self.wanted > 1
        self.interrupted = False
        self.companions: list[_Companion] = []

    def __enter__(self) -> Crew:
        if self.wanted > 1 and not self.undecided:
            self._start(self.wanted)
        return self

    def __exit__(self, kind: Any, error: BaseException | None, where: Any) -> None:
        try:
            if error is None:
                early = self.interrupted
                self.stop()
                for companion in self.companions:
                    companion.finish(None if early else PATIENCE)
        finally:
            for companion in self.companions:
                companion.end()
            if error is not None and self.companions:
                folders.clear_remains(self.out)  # of what they had in hand
            torch.set_num_threads(self.threads)
        for trouble in filter(None, (companion.trouble() for companion in self.companions)):
            warnings.warn(f"a companion process ended early: {trouble}", CompanionWarning, stacklevel=4)

    def stop(self) -> None:
        """Companions finish the batch in hand, and begin no other."""
        self.interrupted = True
        for companion in self.companions:
            companion.say("stop")

    def batch_size(self, most: int, queue: deque, out: Path) -> int:
        return 1 if self.undecided else super().batch_size(most, queue, out)

    def after(self, clips: int, seconds: float, left: int) -> None:
        if self.undecided and clips:
            self.undecided = False
            if seconds / clips * left > PAYS:
                self._start(min(self.wanted, left, 1 + self._room()))

    def _room(self) -> int:
        """How many more pipelines fit into this machine's free memory."""
        c = max((j.conditions for j in self.jobs), key=lambda c: (c.num_frames or 0) * (c.height or 0) * (c.width or 0))
        need = need_of(self.pipe, c, batch_size=self.how.batch_size)
        return int(MEMORY * free_memory(self.pipe._execution_device) / need)

    def _start(self, processes: int) -> None:
        if processes < 2:
            return
        self.processes = processes
        threads = max(1, self.threads // processes)
        for n in range(1, processes):
            share = workers.Share(processes, self.begun)
            task = task_line(self.pipe, _turned(self.jobs, n / processes), self.pictures, self.out, self.how, share)
            self.companions.append(_Companion(task, threads, self.told))
        torch.set_num_threads(threads)


def _turned(jobs: Sequence[Job], share: float) -> list[Job]:
    """The jobs, begun further on, so that processes meet late."""
    at = int(len(jobs) * share)
    return [*jobs[at:], *jobs[:at]]


class _Companion:
    """One process and the thread that listens to it."""

    def __init__(self, task: str, threads: int, told: Callable[[str], None]) -> None:
        self.error, self.told = "", told
        self.ended: int | None = None  # how it ended by itself, where it did
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - as long as the process
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", START, str(Path(__file__).parents[1])],  # -P: no file of this folder is imported
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env=environment,
        )
        self.listener = threading.Thread(target=self._listen, args=(task,), name="svdlab-companion", daemon=True)
        self.listener.start()

    def _listen(self, task: str) -> None:
        self.say(task)  # here, as a large task fills the pipe until the other end reads it
        stdout: IO[str] = self.process.stdout  # type: ignore[assignment]
        for line in stdout:
            try:
                said = json.loads(line)
            except ValueError:
                continue  # cut off by a kill
            self.error = said.get("error", "")
            if "run" in said:
                self.told(said["run"])

    def say(self, line: str) -> None:
        stdin: IO[str] = self.process.stdin  # type: ignore[assignment]
        with suppress(OSError, ValueError):  # it has ended, which is noticed elsewhere
            stdin.write(line + "\n")
            stdin.flush()

    def finish(self, seconds: float | None) -> None:
        """Wait for it to end by itself; None waits for the batch in hand as long as that takes."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.error = f"it was still busy {seconds:.0f} s after everything was made"

    def end(self) -> None:
        """It is gone when this returns, whatever it was doing; the ledger bears that."""
        self.ended = self.process.poll()
        self.process.kill()
        self.process.wait()
        self.listener.join()
        for pipe in (self.process.stdin, self.process.stdout):
            with suppress(OSError):
                pipe.close()  # type: ignore[union-attr]

    def trouble(self) -> str:
        """What went wrong with it, with the last it said; "" where nothing did. Asked once, when it has ended."""
        with self.log:
            self.log.seek(0)
            last = "".join(self.log.readlines()[-3:]).strip()
        if self.error or self.ended in (0, None):
            return self.error
        return f"exit status {self.ended}{f': {last}' if last else ', without a word'}"


# --- what goes over the line ------------------------------------------------------------------------------------------


def task_line(
    pipe: ProbePipeline, jobs: Sequence[Job], pictures: dict[str, Image.Image], out: Path, how: How, share: workers.Share
) -> str:
    """All that a companion must know, as one line of JSON. A user's own measures stay here: this process makes them later."""
    own = [m.name for m in how.measures if m.name in MEASURES]
    task = {
        "load": {**workers.load_arguments(pipe), "local_files_only": True},
        "jobs": [asdict(j) for j in jobs],
        "pictures": {j.image: _as_text(pictures[j.image]) for j in {j.image: j for j in jobs}.values()},
        "out": str(Path(out).resolve()),
        "how": {**{k: getattr(how, k) for k in ("facts", "kept", "batch_size", "retry_failed")}, "measures": own},
        "share": [share.processes, share.begun],
    }
    return json.dumps(task)


def read_task(line: str) -> tuple[dict[str, Any], list[Job], dict[str, Image.Image], Path, How, workers.Share]:
    """The inverse of `task_line`."""
    task = json.loads(line)
    jobs = [Job(**{**j, "conditions": Conditions(**j["conditions"])}) for j in task["jobs"]]
    pictures = {digest: _as_picture(text) for digest, text in task["pictures"].items()}
    how = How(**{**task["how"], "measures": as_measures(task["how"]["measures"])})
    return task["load"], jobs, pictures, Path(task["out"]), how, workers.Share(*task["share"])


def _as_text(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return base64.b64encode(buffer.getvalue()).decode()


def _as_picture(text: str) -> Image.Image:
    picture = Image.open(io.BytesIO(base64.b64decode(text)))
    picture.load()
    return picture


# --- the companion's side ---------------------------------------------------------------------------------------------


def main() -> None:
    """What a companion runs. Ctrl-C in a terminal reaches it too, and is the other process's to act on."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what any library prints goes where errors go
    line = sys.stdin.readline()
    if not line:
        return
    stop, busy = threading.Event(), threading.Event()

    def listen() -> None:
        if sys.stdin.readline() != "stop\n":  # the other process is gone
            os._exit(1)
        stop.set()
        if not busy.is_set():  # still loading, and holding nothing
            os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    try:
        load, jobs, pictures, out, how, share = read_task(line)
        pipe = workers.load_same(load, how)
        gc.collect()
        busy.set()

        def done(job: Job) -> None:
            answers.write(json.dumps({"run": job.run_id}) + "\n")
            answers.flush()

        workers.make(pipe, jobs, pictures, out, how, done=done, stop=stop.is_set, share=share)
    except Exception as error:
        answers.write(json.dumps({"error": f"{type(error).__name__}: {error}"}) + "\n")
        answers.flush()
        os._exit(1)
    os._exit(0)  # without waiting for the thread that listens
