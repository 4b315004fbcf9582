"""A sweep's batches in other processes: an executor's workers, or one process for each device of this machine.

Each loads a pipeline of its own from the same checkpoint, proves that it computes what the sweep's does, and makes runs as
`svdlab.study.workers` does.
"""

import json
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from svdlab.errors import CheckpointError, RunError, SvdlabError
from svdlab.pipeline.checkpoints import load_pipeline
from svdlab.pipeline.generate import ProbePipeline
from svdlab.pipeline.lora import attach
from svdlab.study import identity
from svdlab.study.workers import How, Job, Making

TASK_BATCHES = 4  # batches in one task of an executor: enough that writing overlaps with denoising,
TASKS = 8  # but no fewer tasks than this, where there are so many batches, or some workers would end long before others
LOADING = threading.Lock()  # transformers patches torch.nn while it loads
OWN_DEVICE = "_SVDLAB_DEVICE"  # in the environment of a process that is one of several, each with a device: see `processes`


@contextmanager
def processes(devices: Sequence[str]) -> Iterator[Executor | None]:
    """An executor with one process for each device, in which its pipeline is loaded; None for no devices."""
    if not devices:
        yield None
        return
    spawn = multiprocessing.get_context("spawn")  # a fork would share a CUDA context
    free = spawn.SimpleQueue()
    for device in devices:
        free.put(device)
    with ProcessPoolExecutor(len(devices), spawn, _take_device, (free,)) as pool:
        yield pool


def _take_device(free: Any) -> None:
    """In a new process: whichever device is left. Ctrl-C is the parent's: it lets the batches in hand be finished."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ[OWN_DEVICE] = free.get()


def make_by(executor: Any, making: Making) -> None:
    """The batches as tasks for an executor's workers. Raises RunError where a worker fails for a reason of its own."""
    load, batches, futures = load_arguments(making.pipe), list(making.queue), {}
    size = max(1, min(TASK_BATCHES, len(batches) // TASKS))
    try:
        for part in (batches[n : n + size] for n in range(0, len(batches), size)):
            inputs = {key: making.inputs[key] for batch in part for job in batch for key in job.inputs}
            task = executor.submit(_make, load, part, inputs, making.out.resolve(), making.how)
            futures[task] = sum(map(len, part))
        for future in as_completed(futures):
            if not future.cancelled():
                future.result()
                making.done(futures[future])
            if making.stop():
                for other in futures:
                    other.cancel()  # those that run already go on to their end
    except SvdlabError:
        raise
    except Exception as error:  # whatever an executor raises where its workers die
        raise RunError(f"a worker failed ({type(error).__name__}: {error}): run the same sweep again to go on.") from error
    finally:
        for future in futures:
            future.cancel()


def load_arguments(pipe: ProbePipeline) -> dict[str, Any]:
    """Arguments of `load_pipeline` that load another pipeline like this one, as plain JSON."""
    source = pipe.source
    local, single = Path(source.checkpoint).exists(), Path(source.checkpoint).is_file()
    moved_by = type(getattr(pipe.unet, "_hf_hook", None)).__name__
    return {
        "checkpoint": str(Path(source.checkpoint).resolve()) if local else source.checkpoint,
        "revision": None if local else source.revision,
        "device": pipe._execution_device.type,
        "dtype": str(pipe.unet.dtype).removeprefix("torch."),
        "variant": source.variant,
        "num_frames": pipe.unet.config.num_frames if single else None,
        "offload": {"CpuOffload": "model", "AlignDevicesHook": "sequential"}.get(moved_by),
        "memory": pipe.memory,
    }


def _make(load: dict[str, Any], batches: list[list[Job]], inputs: dict[str, Any], out: Path, how: How) -> None:
    """Make runs with this worker's pipeline, which its first task loads."""
    with LOADING:
        own = {"device": os.environ[OWN_DEVICE]} if OWN_DEVICE in os.environ else {}
        pipe = _loaded(*map(json.dumps, (load | own, how.model, how.fingerprint, how.lora)))
    Making(pipe, deque(batches), inputs, out, how).run()


@lru_cache(maxsize=1)
def _loaded(load: str, model: str, fingerprint: str, lora: str) -> ProbePipeline:
    """A worker's pipeline, for as long as it has this LoRA. Raises CheckpointError where it is not what the sweep's is, by
    weights, settings or behaviour."""
    pipe, wanted = load_pipeline(**json.loads(load)), json.loads(model)
    if lora != "null":
        attach(pipe, *json.loads(lora))
    own = identity.facts(pipe)
    other = sorted(name for name in own if own[name] != wanted[name])
    if not other:
        other = identity.different(json.loads(fingerprint), identity.fingerprint(pipe), own["dtype"])[:3]
    if other:
        raise CheckpointError(
            f"the worker's {pipe.source.checkpoint!r} differs from the sweep's pipeline in {', '.join(other)}: save the "
            f"changed pipeline (pipe.save_pretrained) and load that, or sweep without executor=."
        )
    return pipe
