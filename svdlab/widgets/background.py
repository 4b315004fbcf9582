"""Work beside the notebook: what was asked for last, once the controls rest; and jobs that a button stops.

>>> draw = Latest(print, wait=0.2)
>>> draw(lambda: print(1)); draw(lambda: print(2))       # only the second is done
>>> draw.settled()
2
True
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import ipywidgets

from svdlab.errors import InputError, SvdlabError, SweepInterrupted
from svdlab.widgets.panel import button, status, warning, wide

Work = Callable[[Callable[..., None]], Any]
_TURNS: WeakKeyDictionary[Any, threading.Lock] = WeakKeyDictionary()  # by pipeline: whose run it is


class Latest:
    """Call it with a task: it is done on a thread `wait` seconds later, unless a newer task came. One task at a time.

    failed: called with the SvdlabError that a task raises.
    """

    def __init__(self, failed: Callable[[SvdlabError], Any], wait: float = 0.25) -> None:
        self.failed, self.wait = failed, wait
        self._one = threading.Lock()
        self._timer: threading.Timer | None = None

    def __call__(self, task: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = threading.Timer(self.wait, self._do, [task])
        self._timer.daemon = True
        self._timer.start()

    def _do(self, task: Callable[[], None]) -> None:
        with self._one:
            if threading.current_thread() is not self._timer:
                return  # a newer task came while an older one was done
            try:
                task()
            except SvdlabError as error:
                self.failed(error)

    def settled(self, timeout: float = 60.0) -> bool:
        """Wait until nothing is left to do; False where that takes longer."""
        last = None
        while last is not self._timer:  # a task may have asked for another one
            last = self._timer
            last.join(timeout)  # type: ignore[union-attr]
        return last is None or not last.is_alive()


class Cancelled(SweepInterrupted):
    """A job that its cancel button stopped between two steps."""


class Job(ipywidgets.VBox):
    """Buttons that start and cancel work on a thread, a bar and a status line. One job at a time uses a pipeline.

    begin: called when the button is pressed; returns how many steps there are, and the work, a function of `tick`. The work
    calls `tick(n, text)` after step n, which raises Cancelled once the cancel button was pressed. done: called with what the
    work returned; returns the text to end with. Waiting for a pipeline that another job uses can be cancelled, too.
    """

    def __init__(self, pipe: Any, text: str, begin: Callable[[], tuple[int, Work]], done: Callable[[Any], str]) -> None:
        self.pipe, self._begin, self._done = pipe, begin, done
        self._cancelled, self._thread = threading.Event(), threading.Thread()
        self.go = button(text, "play", self.start)
        self.halt = button("Cancel", "stop", self.cancel, "Stop before the next step")
        self.halt.disabled = True
        self.bar = ipywidgets.IntProgress(min=0, max=1, **wide())
        self.status = ipywidgets.HTML()
        self.status.add_class("svdlab-status")
        super().__init__([ipywidgets.HBox([self.go, self.halt]), self.bar, self.status])

    def start(self) -> None:
        """What the button does: returns at once. Raises InputError while the last work still runs."""
        if self._thread.is_alive():
            raise InputError("a clip is being made: cancel it, or wait for it.")
        self.bar.max, work = self._begin()
        self.bar.value, self.bar.bar_style = 0, ""
        self.go.disabled, self.halt.disabled = True, False
        self.status.value = status("starting …")
        self._cancelled.clear()
        self._thread = threading.Thread(target=self._run, args=[work], name="svdlab-job", daemon=True)
        self._thread.start()

    def cancel(self) -> None:
        """Stop before the next step."""
        self.status.value = status("stopping …")
        self._cancelled.set()

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the end; False where that takes longer."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def tick(self, done: int, text: str = "") -> None:
        self._check()
        self.bar.value = done
        self.status.value = status(f"step {done} of {self.bar.max}{text}")

    def _check(self) -> None:
        if self._cancelled.is_set():
            raise Cancelled("stopped by the cancel button.")

    def _run(self, work: Work) -> None:
        turn = _TURNS.setdefault(self.pipe, threading.Lock())
        try:
            while not turn.acquire(timeout=0.1):
                self._check()
            try:
                self._check()
                result = work(self.tick)
            finally:
                turn.release()
            self._end("success", status(self._done(result)))
        except Cancelled:
            self._end("warning", status(f"stopped at step {self.bar.value} of {self.bar.max}"))
        except Exception as error:  # the thread's own end: whatever it is, the widget reports it
            self._end("danger", warning(error))

    def _end(self, style: str, text: str) -> None:
        self.bar.bar_style, self.status.value = style, text
        self.go.disabled, self.halt.disabled = False, True


@contextmanager
def unet_calls(pipe: Any, tick: Callable[[int], None]) -> Iterator[None]:
    """`tick(n)` before the n-th call of the UNet, counted from 1."""
    count = 0

    def before(module: Any, args: tuple) -> None:
        nonlocal count
        count += 1
        tick(count)

    handle = pipe.unet.register_forward_pre_hook(before)
    try:
        yield
    finally:
        handle.remove()
