"""More pipelines for a sweep on a CPU: each for a thread of its own, all on the same weights.

    >>> other = twin(pipe)
    >>> all(a.data_ptr() == b.data_ptr() for a, b in zip(pipe.unet.parameters(), other.unet.parameters()))
    True

torch's threads gain little where layers are small: each layer waits for its slowest part. Batches side by side, each on its
share of the threads, do not wait for each other, and Python's own lock is free while a layer computes. Nothing that a run
changes is shared: a twin has modules, hooks, scheduler and caches of its own.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch

from svdlab.errors import InputError
from svdlab.pipeline.generate import ProbePipeline
from svdlab.pipeline.memory import free_memory, need_of
from svdlab.study.runs import How, Job

MOST = 4  # batches side by side, beyond which nothing was tried
MEMORY = 0.7  # of what is free, that they may take by estimate
PARTS = ("unet", "vae", "image_encoder", "scheduler")


def twin(pipe: ProbePipeline) -> ProbePipeline:
    """Another pipeline on the same numbers in memory. What is done to its modules, a cast to another dtype too, is not done
    to those of `pipe`; weights changed in place are changed for both."""
    parts = {name: getattr(pipe, name) for name in PARTS}
    shared: dict[int, Any] = {}
    for part in parts.values():
        for tensor in [*part.parameters(), *part.buffers()] if isinstance(part, torch.nn.Module) else []:
            own = tensor.detach()
            is_weight = isinstance(tensor, torch.nn.Parameter)
            shared[id(tensor)] = torch.nn.Parameter(own, requires_grad=tensor.requires_grad) if is_weight else own
    parts = {name: copy.deepcopy(part, shared) for name, part in parts.items()}
    for name in ("unet", "vae"):
        for module in parts[name].modules():
            vars(module).pop("forward", None)  # a faster one, which stands in for the original's while that is at work
    other = type(pipe)(**parts, feature_extractor=pipe.feature_extractor)
    other.source = pipe.source
    other.set_progress_bar_config(**getattr(pipe, "_progress_bar_config", {}))
    return other


def why_not(pipe: ProbePipeline, how: How, executor: Any) -> str:
    """Why a sweep has to make its batches one after the other; "" where it need not."""
    reasons = {
        "executor= brings workers of its own": executor is not None,
        f"the pipeline is on {pipe._execution_device.type}, and only a CPU gains by more threads": (
            pipe._execution_device.type != "cpu"
        ),
        "edits hold for one pipeline, and each thread has its own": how.facts.get("intervention") is not None,
        "its UNet is compiled, and would have to be for each thread": hasattr(pipe.unet, "_orig_mod"),
        "there are hooks on its modules, which may not be made for several threads": any(
            m._forward_hooks or m._forward_pre_hooks
            for part in (pipe.unet, pipe.vae, pipe.image_encoder)
            for m in part.modules()
        ),
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def checked_threads(threads: Any, reason: str) -> int | None:
    """The number asked for, None for "auto". Raises InputError where it cannot be had, with the reason."""
    if threads == "auto":
        return 1 if reason else None
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise InputError(f"threads={threads!r}: give a whole number of at least 1, or 'auto'.")
    if threads > 1 and reason:
        raise InputError(f"threads={threads}: this sweep cannot be shared out among threads: {reason}.")
    return threads


def twins_of(pipe: ProbePipeline, jobs: Sequence[Job], how: How, threads: int | None) -> list[ProbePipeline]:
    """The pipelines beside `pipe` for so many threads; for None as many as torch has threads, jobs and memory for."""
    units = len({j.latents_id for j in jobs})
    if threads is None:
        threads = min(torch.get_num_threads(), MOST, units)
        if threads > 1:
            largest = max((j.conditions for j in jobs), key=lambda c: (c.num_frames or 0) * (c.height or 0) * (c.width or 0))
            need = need_of(pipe, largest, batch_size=how.batch_size)
            threads = max(1, min(threads, int(MEMORY * free_memory(pipe._execution_device) / need)))
    return [twin(pipe) for _ in range(min(threads, units) - 1)]
