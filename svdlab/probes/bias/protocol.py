"""plan.json: what a bias study decided before its first clip, what that can show, and where the study departed from it.

planned = write_protocol(protocol, "results/people")         # the first one stays, whatever comes later
print(planned.expectation)
departures(planned, protocol)
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from svdlab import __version__
from svdlab.errors import InputError, OutputError
from svdlab.measure.files import write_whole
from svdlab.stats import intervals

PLAN = "plan.json"
POWER = 0.8


@dataclass(frozen=True)
class Protocol:
    """A study's decisions, all plain JSON. pairs: contrast -> how many. sample: "scheme/pair/group: hash" of each image."""

    pairs: dict[str, int]
    measures: list[str]
    margins: dict[str, float | str]
    seeds: list[int]
    conditions: dict[str, Any]
    alpha: float
    interval: str
    sample: list[str]
    checkpoint: str
    weights: str
    written: str = ""
    svdlab: str = __version__

    @property
    def tests(self) -> int:
        """The size of the family: every contrast in every measure."""
        return len(self.pairs) * len(self.measures)

    @property
    def power(self) -> pd.DataFrame:
        """A row per contrast: pairs, the smallest p that they can give, whether there can be a verdict, detectable effects.

        Effects are standardised (mean difference over the standard deviation of the differences), for a power of 80 %:
        `detectable_alone` if it were the only test, `detectable` at alpha over the number of tests, the strictest that the
        correction can get.
        """
        rows = []
        for contrast, n in self.pairs.items():
            each = {"detectable_alone": self.alpha, "detectable": self.alpha / self.tests}
            sizes = {k: intervals.detectable(n, alpha=a, power=POWER) if n > 2 else math.inf for k, a in each.items()}
            verdict = intervals.decidable(n, tests=self.tests, alpha=self.alpha)
            rows.append(
                dict(contrast=contrast, pairs=n, smallest_p=intervals.smallest_p(n), verdict_possible=verdict, **sizes)
            )
        return pd.DataFrame(rows)

    @property
    def expectation(self) -> str:
        """What such a study can and cannot show, in words: printed before it runs."""
        lines = [
            f"{self.tests} tests: {len(self.pairs)} contrast(s) in {len(self.measures)} measure(s), "
            f"{len(self.seeds)} seed(s) averaged for each image, alpha {self.alpha:g} over the family."
        ]
        for row in self.power.itertuples():
            cannot = f"no p below {row.smallest_p:.2g}, and a verdict needs {self.alpha / self.tests:.2g}: numbers only."
            can = f"effects from {row.detectable:.2g} standard deviations of the pair differences with {POWER:.0%} power "
            can += f"({row.detectable_alone:.2g} for one test alone)."
            lines.append(f"{row.contrast}: {row.pairs} pairs can show {can if row.verdict_possible else cannot}")
        if unset := [name for name in self.measures if name not in self.margins]:
            lines.append(f"Equivalence cannot be shown for {', '.join(unset)}: no margin was set.")
        return "\n".join(lines)


def write_protocol(protocol: Protocol, out: str | Path) -> Protocol:
    """Write `out/plan.json`, unless one is there; returns the one that is there then."""
    path = Path(out, PLAN)
    content = asdict(protocol) | {"written": datetime.now(UTC).isoformat(timespec="seconds")}
    if read_protocol(out) is None:
        try:
            with write_whole(path) as part:
                part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
                try:
                    os.link(part, path)  # of two studies that start at once, the second does not replace the plan
                except FileExistsError:
                    raise
                except OSError:
                    pass  # a file system without links
        except OutputError:
            if not path.exists():
                raise
    written = read_protocol(out)
    assert written is not None
    return written


def read_protocol(out: str | Path) -> Protocol | None:
    """The plan of a study's folder; None where there is none. Raises InputError where it cannot be read."""
    path = Path(out, PLAN)
    if not path.exists():
        return None
    try:
        return Protocol(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path} is no plan of a bias study ({error}): take another folder, or move it away.") from error


def departures(planned: Protocol, done: Protocol) -> list[str]:
    """Where the decisions of a study differ from its plan, in words; an empty list where they do not."""
    found = []
    for name, before in asdict(planned).items():
        after = getattr(done, name)
        if name in ("written", "svdlab") or before == after:
            continue
        if isinstance(before, dict):
            keys = [k for k in {**before, **after} if before.get(k) != after.get(k)]
            found += [f"{name}, {k}: planned {before.get(k)}, done {after.get(k)}." for k in keys]
        elif isinstance(before, list):
            sides = (("not planned, so exploratory", after, before), ("planned and not done", before, after))
            for what, one, other in sides:
                if more := list((Counter(one) - Counter(other)).elements()):
                    found.append(f"{name}, {what}: {', '.join(map(str, more[:4]))}{' ...' * (len(more) > 4)} ({len(more)}).")
        else:
            found.append(f"{name}: planned {before}, done {after}.")
    return found
