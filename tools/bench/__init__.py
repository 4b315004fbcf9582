"""Times and memory compared with what is promised. Not tests: they run alone, on a quiet machine, by `make bench`.

A file `bench_*.py` here has a function `main()` that returns or yields rows, and a name that says what it measures.
"""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """One promise: `what` came to `measured`, and at most `allowed` was promised, both in `unit`."""

    what: str
    measured: float
    allowed: float
    unit: str

    @property
    def ratio(self) -> float:
        """Up to 1 the promise is kept."""
        return self.measured / self.allowed
