"""A sweep on an executor's workers, each with a pipeline of its own from the same checkpoint, or a refusal.

>>> from concurrent.futures import ThreadPoolExecutor
>>> with ThreadPoolExecutor(2) as executor:                                     # or dask's Client.get_executor()
...     table = svdlab.sweep(pipe, [{"num_inference_steps": 2}], "results/one", image="scene-3", executor=executor)
"""

from __future__ import annotations

import json
import threading
from collections import deque
from concurrent.futures import as_completed
from functools import lru_cache
from pathlib import Path
from typing import Any

from svdlab.errors import CheckpointError, RunError, SvdlabError
from svdlab.pipeline.checkpoints import load_pipeline
from svdlab.pipeline.generate import ProbePipeline
from svdlab.study import identity
from svdlab.study.workers import How, Job, Making

TASK_BATCHES = 4  # batches in one task: enough that writing overlaps with denoising,
TASKS = 8  # but no fewer tasks than this, where there are so many batches, or some workers would end long before others
_LOADING = threading.Lock()  # transformers patches torch.nn while it loads


def make_by(executor: Any, making: Making) -> None:
    """The batches as tasks for an executor's workers. Raises RunError where a worker fails for a reason of its own."""
    load, batches, out = load_arguments(making.pipe), list(making.queue), making.out.resolve()
    size, futures = max(1, min(TASK_BATCHES, len(batches) // TASKS)), {}
    try:
        for n in range(0, len(batches), size):
            jobs = [job for batch in batches[n : n + size] for job in batch]
            keys = {key for job in jobs for key in (job.image, *job.start.values())} & making.inputs.keys()
            inputs = {key: making.inputs[key] for key in keys}
            futures[executor.submit(_make, load, batches[n : n + size], inputs, out, making.how)] = len(jobs)
        for future in as_completed(futures):
            if not future.cancelled():
                future.result()
                for _ in range(futures[future]):
                    making.done()
            if making.stop():
                for other in futures:
                    other.cancel()  # those that run already go on to their end
    except SvdlabError:
        raise
    except Exception as error:  # whatever an executor raises where its workers die
        raise RunError(
            f"a worker failed ({type(error).__name__}: {error}). What was made is kept in {making.out}: "
            f"run the same sweep again to go on."
        ) from error
    finally:
        for future in futures:
            future.cancel()


def load_arguments(pipe: ProbePipeline) -> dict[str, Any]:
    """Arguments of `load_pipeline` that load another pipeline like this one, as plain JSON."""
    source = pipe.source
    local = Path(source.checkpoint).is_dir()
    moved_by = type(getattr(pipe.unet, "_hf_hook", None)).__name__
    return {
        "checkpoint": str(Path(source.checkpoint).resolve()) if local else source.checkpoint,
        "revision": None if local else source.revision,
        "device": pipe._execution_device.type,
        "dtype": str(pipe.unet.dtype).removeprefix("torch."),
        "variant": source.variant,
        "offload": {"CpuOffload": "model", "AlignDevicesHook": "sequential"}.get(moved_by),
    }


def _make(load: dict[str, Any], batches: list[list[Job]], inputs: dict[str, Any], out: Path, how: How) -> None:
    """Make runs with this worker's pipeline, which its first task loads."""
    with _LOADING:
        pipe = _loaded(*map(json.dumps, (load, how.model, how.fingerprint)))
    Making(pipe, deque(batches), inputs, out, how).run()


@lru_cache(maxsize=1)
def _loaded(load: str, model: str, fingerprint: str) -> ProbePipeline:
    """A worker's pipeline. Raises CheckpointError where it is not what the sweep's is, by weights, settings or behaviour."""
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
