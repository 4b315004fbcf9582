"""What tracing costs, over the same call untraced, and whether many traced runs make the process grow.

Both calls take turns, so that whatever else the machine does meets both alike; of each the fastest third is averaged.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import psutil

import svdlab
from svdlab.pipeline.generate import generate_batch
from svdlab.pipeline.trace import KEEP
from tools.bench import Row

STEPS, ROUNDS = 10, 15


def clip(pipe: Any, block: Any = None) -> None:
    conditions = svdlab.Conditions(num_inference_steps=STEPS)
    with block or nullcontext():
        generate_batch(pipe, ["scene-1"], [conditions], [0], decode=False)


def overhead(calls: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Per cent that each call takes over the one called "plain"."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for i in range(rounds):
        order = list(calls.items())
        for name, call in order[i % len(order) :] + order[: i % len(order)]:
            start = time.process_time()
            call()
            times[name].append(time.process_time() - start)
    best = {name: sum(sorted(taken)[: rounds // 3]) for name, taken in times.items()}
    return {name: 100 * (taken / best["plain"] - 1) for name, taken in best.items()}


def growth(pipe: Any, early: int = 5, late: int = 50) -> float:
    """Per cent of resident memory that is added between the `early`-th and the `late`-th traced run."""
    resident = []
    for n in range(1, late + 1):
        with svdlab.trace(pipe, keep=tuple(KEEP), attention="temporal"):
            conditions = svdlab.Conditions(num_inference_steps=2)
            generate_batch(pipe, ["scene-1"], [conditions], [n], decode=False)
        if n in (early, late):
            gc.collect()
            resident.append(psutil.Process().memory_info().rss)
    return 100 * (resident[1] / resident[0] - 1)


def main() -> list[Row]:
    pipe = svdlab.load_pipeline()
    cost = overhead(
        {
            "plain": lambda: clip(pipe),
            "default": lambda: clip(pipe, svdlab.trace(pipe)),
            "all": lambda: clip(pipe, svdlab.trace(pipe, keep=tuple(KEEP))),
        },
        ROUNDS,
    )
    return [
        Row("tracing latents and denoised, over the untraced call", cost["default"], 3, "%"),
        Row("tracing with every keep, over the untraced call", cost["all"], 10, "%"),
        Row("memory after 50 traced runs, over after 5", growth(pipe), 5, "%"),
    ]
