"""Work beside the notebook: what was asked for last, once the controls rest; and jobs that a button stops.

>>> draw = Latest(print, wait=0.2)
>>> draw(lambda: print(1)); draw(lambda: print(2))       # only the second is done
>>> draw.settled()
2
True
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import copy_context
from typing import Any
from weakref import WeakKeyDictionary

import ipywidgets

from svdlab.errors import InputError, SvdlabError, SweepInterrupted
from svdlab.pipeline.sampler import Denoising, Step, listen
from svdlab.widgets.panel import button, status, warning, wide

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
    """Buttons that start and cancel work on a thread, a bar and a status line. One job at a time uses a pipeline: two would
    need the memory of two.

    begin: called when the button is pressed, returns the work; what is open then, such as `svdlab.edit`, acts on it. done:
    given what the work returned, returns the text to end with. on_step: given each denoising step and its estimate
    "1 f c h w". The work stops before its next step once the cancel button was pressed, or while it waits for its turn.
    """

    def __init__(
        self,
        pipe: Any,
        text: str,
        begin: Callable[[], Callable[[], Any]],
        done: Callable[[Any], str],
        on_step: Callable[[Step, Any], None] = lambda step, denoised: None,
    ) -> None:
        self.pipe, self._begin, self._done, self._on_step = pipe, begin, done, on_step
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
        work = self._begin()
        self.bar.value, self.bar.bar_style = 0, ""
        self.go.disabled, self.halt.disabled = True, False
        self.status.value = status("starting …")
        self._cancelled.clear()
        self._thread = threading.Thread(target=copy_context().run, args=[self._run, work], name="svdlab-job", daemon=True)
        self._thread.start()

    def cancel(self) -> None:
        """Stop before the next step."""
        self.status.value = status("stopping …")
        self._cancelled.set()

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the end; False where that takes longer."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _check(self) -> None:
        if self._cancelled.is_set():
            raise Cancelled("stopped by the cancel button.")

    def _hear(self, name: str, value: Any, run: Denoising) -> Any:
        """What happens at the places of each step."""
        if name == "latents":
            self._check()
        elif name == "pred_original_sample" and run.step is not None:
            done, steps = run.step.index + 1, len(run.steps)
            self.bar.max, self.bar.value = steps, done
            ending = ", decoding …" if done == steps else ""
            self.status.value = status(f"step {done} of {steps}, sigma {run.step.sigma:.3g}{ending}")
            self._on_step(run.step, value)
        return value

    def _run(self, work: Callable[[], Any]) -> None:
        turn = _TURNS.setdefault(self.pipe, threading.Lock())
        try:
            while not turn.acquire(timeout=0.1):
                self._check()
            try:
                self._check()
                with listen(self.pipe, self._hear):
                    result = work()
            finally:
                turn.release()
            self.halt.disabled = True  # nothing is left to stop
            self._end("success", status(self._done(result)))
        except Cancelled:
            self._end("warning", status(f"stopped after {self.bar.value} steps"))
        except Exception as error:  # the thread's own end: whatever it is, the widget reports it
            self._end("danger", warning(error))

    def _end(self, style: str, text: str) -> None:
        self.bar.bar_style, self.status.value = style, text
        self.go.disabled, self.halt.disabled = False, True
