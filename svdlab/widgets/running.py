"""Runs that a button starts: on a thread, so that the kernel still hears the cancel button; one at a time on a pipeline.

>>> run = start(pipe, lambda watch: generate_batch(pipe, ...), tell=print)
>>> run.cancel(); run.join()
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from svdlab.errors import SweepInterrupted

_TURNS: WeakKeyDictionary[Any, threading.Lock] = WeakKeyDictionary()


class Cancelled(SweepInterrupted):
    """A run that the cancel button stopped between two steps."""


class Run:
    """A run on its thread. cancel: stop before its next step. join: wait for its end, at most `timeout` seconds."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.thread: threading.Thread | None = None

    @property
    def running(self) -> bool:
        return self.thread is not None and self.thread.is_alive()

    def cancel(self) -> None:
        self.stop.set()

    def join(self, timeout: float | None = None) -> bool:
        if self.thread is not None:
            self.thread.join(timeout)
        return not self.running

    def check(self) -> None:
        """Raises Cancelled once the button was pressed."""
        if self.stop.is_set():
            raise Cancelled("stopped by the cancel button.")


def start(
    pipe: Any, work: Callable[[Run], Any], *, done: Callable[[Any], None], failed: Callable[[BaseException], None]
) -> Run:
    """Begin `work(run)` on a thread, when the pipeline is free; then `done(its result)` or `failed(what it raised)`.

    Work should call `run.check()` between steps. Cancelled is handed to `failed`, too.
    """
    run = Run()

    def body() -> None:
        try:
            with turn(pipe, run):
                result = work(run)
            done(result)
        except BaseException as error:  # the thread's own end: whatever it is, the widget says it
            failed(error)

    run.thread = threading.Thread(target=body, name="svdlab-run", daemon=True)
    run.thread.start()
    return run


@contextmanager
def turn(pipe: Any, run: Run) -> Iterator[None]:
    """Wait until no other widget uses the pipeline; a cancelled run stops waiting."""
    lock = _TURNS.setdefault(pipe, threading.Lock())
    while not lock.acquire(timeout=0.1):
        run.check()
    try:
        run.check()
        yield
    finally:
        lock.release()


@contextmanager
def steps_told(pipe: Any, run: Run, tell: Callable[[int], None]) -> Iterator[None]:
    """`tell(n)` before the n-th call of the UNet, counted from 1; a cancelled run stops there.

    A hook of the module rather than of the loop, so that `svdlab.sweep` may run inside.
    """
    count = 0

    def before(module: Any, args: tuple) -> None:
        nonlocal count
        run.check()
        count += 1
        tell(count)

    handle = pipe.unet.register_forward_pre_hook(before)
    try:
        yield
    finally:
        handle.remove()
