"""A sweep on an executor's workers, each with a pipeline of its own from the same checkpoint, or a refusal.

>>> from concurrent.futures import ThreadPoolExecutor
>>> with ThreadPoolExecutor(2) as executor:                                     # or dask's Client.get_executor()
...     table = svdlab.sweep(pipe, [{"num_inference_steps": 2}], "results/one", image="scene-3", executor=executor)
"""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, as_completed
from functools import lru_cache
from pathlib import Path
from typing import Any

from svdlab.errors import CheckpointError, RunError, SvdlabError
from svdlab.pipeline.generate import ProbePipeline
from svdlab.study import identity
from svdlab.study.workers import How, Job, Making

TASK_BATCHES = 4  # batches in one task: enough that writing overlaps with denoising,
TASKS = 8  # but no fewer tasks than this, where there are so many batches, or some workers would end long before others
_LOADING = threading.Lock()  # transformers patches torch.nn while it loads


def make_by(
    executor: Any,
    pipe: ProbePipeline,
    jobs: list[Job],
    inputs: dict[str, Any],
    out: Path,
    how: How,
    done: Callable[[int], Any],
    stop: Callable[[], bool],
) -> None:
    """The jobs as tasks for an executor's workers; `done` is told how many runs each finished task made.

    Raises RunError where a worker fails for a reason of its own.
    """
    load = load_arguments(pipe)
    futures: list[Future] = []
    try:
        batches = max(1, min(TASK_BATCHES, len(jobs) // (how.batch_size * TASKS)))
        for chunk in _chunks(jobs, how.batch_size * batches):
            own = {key: inputs[key] for job in chunk for key in (job.image, *job.start.values()) if key in inputs}
            futures.append(executor.submit(make_elsewhere, load, chunk, own, str(out.resolve()), how))
        for future in as_completed(futures):
            if future.cancelled():
                continue
            done(future.result())
            if stop():
                for other in futures:
                    other.cancel()  # those that run already go on to their end
    except SvdlabError:
        raise
    except Exception as error:  # whatever an executor raises where its workers die
        raise RunError(
            f"a worker failed ({type(error).__name__}: {error}). What was made is kept in {out}: "
            f"run the same sweep again to go on."
        ) from error
    finally:
        for future in futures:
            future.cancel()


def _chunks(jobs: list[Job], size: int) -> Iterator[list[Job]]:
    """Tasks of neighbours that share a batch."""
    chunk: list[Job] = []
    for job in jobs:
        if chunk and (len(chunk) >= size or job.batch_key != chunk[0].batch_key):
            yield chunk
            chunk = []
        chunk.append(job)
    yield chunk


def load_arguments(pipe: ProbePipeline) -> dict[str, Any]:
    """Arguments of `load_pipeline` that load another pipeline like this one, as plain JSON."""
    source = pipe.source
    checkpoint = str(Path(source.checkpoint).resolve()) if Path(source.checkpoint).is_dir() else source.checkpoint
    moved_by = type(getattr(pipe.unet, "_hf_hook", None)).__name__
    return {
        "checkpoint": checkpoint,
        "revision": source.revision if checkpoint == source.checkpoint else None,
        "device": pipe._execution_device.type,
        "dtype": str(pipe.unet.dtype).removeprefix("torch."),
        "variant": source.variant,
        "offload": {"CpuOffload": "model", "AlignDevicesHook": "sequential"}.get(moved_by),
    }


def make_elsewhere(load: dict[str, Any], jobs: list[Job], inputs: dict[str, Any], out: str, how: How) -> int:
    """Make jobs' runs with this worker's pipeline, which its first task loads; returns how many."""
    with _LOADING:
        pipe = _loaded(*map(json.dumps, (load, how.model, how.fingerprint)))
    Making(pipe, deque(jobs), inputs, Path(out), how).run()
    return len(jobs)


@lru_cache(maxsize=1)
def _loaded(load: str, model: str, fingerprint: str) -> ProbePipeline:
    """A worker's pipeline. Raises CheckpointError where it is not what the sweep's is, by weights, settings or behaviour."""
    from svdlab.pipeline.checkpoints import load_pipeline

    pipe, wanted = load_pipeline(**json.loads(load)), json.loads(model)
    own = identity.facts(pipe)
    other = sorted(name for name in own if own[name] != wanted[name])
    if not other:
        other = identity.different(json.loads(fingerprint), identity.fingerprint(pipe), own["dtype"])[:3]
    if other:
        raise CheckpointError(
            f"the worker's {pipe.source.checkpoint!r} differs from the sweep's pipeline in {', '.join(other)}: that was "
            f"changed after loading, or another version lies on the worker's disk. Save the changed pipeline "
            f"(pipe.save_pretrained) and load that, or sweep without executor=."
        )
    return pipe
