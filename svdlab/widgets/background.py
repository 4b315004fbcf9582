"""Work beside the notebook: the last thing asked for, on a thread of its own, once there has been quiet for a moment.

>>> draw = Latest(wait=0.2)
>>> draw(lambda: expensive(1)); draw(lambda: expensive(2))       # only the second is done
>>> draw.settled()
True
"""

from __future__ import annotations

import threading
from collections.abc import Callable


class Latest:
    """Call it with a task; a newer task takes the place of one that has not begun. A task tells its own errors."""

    def __init__(self, wait: float = 0.25) -> None:
        self.wait = wait
        self._changed = threading.Condition()
        self._task: Callable[[], None] | None = None
        self._count = 0
        self._busy = False
        self._thread: threading.Thread | None = None

    def __call__(self, task: Callable[[], None]) -> None:
        with self._changed:
            self._task, self._count = task, self._count + 1
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._work, name="svdlab-widget", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def settled(self, timeout: float = 60.0) -> bool:
        """Wait until nothing is left to do; False where that takes longer."""
        with self._changed:
            return self._changed.wait_for(lambda: self._task is None and not self._busy, timeout)

    def _work(self) -> None:
        while True:
            with self._changed:
                if not self._changed.wait_for(lambda: self._task is not None, 30):
                    self._thread = None
                    return  # nothing asked for in a while: the next call starts another thread
                seen = -1
                while seen != self._count:  # until nothing new came for `wait` seconds
                    seen = self._count
                    self._changed.wait_for(lambda seen=seen: self._count != seen, self.wait)  # type: ignore[misc]
                task, self._task, self._busy = self._task, None, True
            try:
                assert task is not None
                task()
            finally:
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()
