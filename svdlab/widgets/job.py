"""A job beside the notebook, which a button starts and another one stops between two steps."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import copy_context
from typing import Any
from weakref import WeakKeyDictionary

import ipywidgets

from svdlab.errors import InputError, SweepInterrupted
from svdlab.pipeline.sampler import Denoising, Step, listen
from svdlab.widgets.panel import button, status, warning

_TURNS: WeakKeyDictionary[Any, threading.Lock] = WeakKeyDictionary()  # by pipeline: whose run it is


class Job(ipywidgets.VBox):
    """Buttons that start and cancel work on a thread, a bar and a status line. One job at a time uses a pipeline: two would
    need the memory of two.

    >>> job = Job(pipe, "Go", lambda: lambda: svdlab.generate(pipe, "scene-27", num_inference_steps=2), repr)
    >>> job.start(); job.join()
    True

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
        self.bar = ipywidgets.IntProgress(min=0, max=1, layout=ipywidgets.Layout(width="100%"))
        self.status = ipywidgets.HTML().add_class("svdlab-status")
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
            raise SweepInterrupted("stopped by the cancel button.")

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
                with listen(self.pipe, self._hear):
                    result = work()
            finally:
                turn.release()
            self.halt.disabled = True  # nothing is left to stop
            end = "success", status(self._done(result))
        except SweepInterrupted:
            end = "warning", status(f"stopped after {self.bar.value} steps")
        except Exception as error:  # the thread's own end: whatever it is, the widget reports it
            end = "danger", warning(error)
        self.bar.bar_style, self.status.value = end
        self.go.disabled, self.halt.disabled = False, True
