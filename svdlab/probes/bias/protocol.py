"""plan.json: what a bias study decided before its first clip, what that can show, and where the study departed from it.

planned = write_protocol(protocol, "results/people")         # the first one stays, whatever comes later
print(planned.expectation)
departures(planned, protocol)
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from svdlab import __version__
from svdlab.errors import InputError
from svdlab.measure.files import write_whole
from svdlab.stats import intervals

PLAN = "plan.json"


@dataclass(frozen=True)
class Protocol:
    """A study's decisions, all plain JSON. pairs: contrast -> how many. sample: "scheme/pair/group: hash" of each image."""

    pairs: dict[str, int]
    measures: list[str]
    margins: dict[str, float]
    seeds: list[int]
    conditions: dict[str, Any]
    alpha: float
    sample: list[str]
    checkpoint: str
    weights: str
    written: str = ""
    svdlab: str = __version__

    @property
    def expectation(self) -> str:
        """What such a study can and cannot show, in words: printed before it runs.

        A detectable effect, in standard deviations of the pair differences, is found with 80 % power at alpha over the number
        of tests, the strictest that the correction can get.
        """
        tests = len(self.pairs) * len(self.measures)
        alone, strictest = self.alpha, self.alpha / tests
        lines = [
            f"{tests} tests: {len(self.pairs)} contrast(s) in {len(self.measures)} measure(s), "
            f"{len(self.seeds)} seed(s) averaged for each image, alpha {self.alpha:g} over the family."
        ]
        for contrast, n in self.pairs.items():
            can = f"no p below {2.0 / 2.0**n:.2g}, and a verdict needs {strictest:.2g}: numbers only."
            if n > 2 and intervals.decidable(n, tests=tests, alpha=self.alpha):
                one, all_of_them = (intervals.detectable(n, alpha=a) for a in (alone, strictest))
                can = f"effects from {all_of_them:.2g} standard deviations of the pair differences with 80% power "
                can += f"({one:.2g} for one test alone)."
            lines.append(f"{contrast}: {n} pairs can show {can}")
        if unset := [name for name in self.measures if name not in self.margins]:
            lines.append(f"Equivalence cannot be shown for {', '.join(unset)}: no margin was set.")
        return "\n".join(lines)


def write_protocol(protocol: Protocol, out: str | Path) -> Protocol:
    """Write `out/plan.json`, unless one is there; returns the one that is there then."""
    planned = read_protocol(out)
    if planned is None:
        content = asdict(protocol) | {"written": datetime.now(UTC).isoformat(timespec="seconds")}
        with write_whole(Path(out, PLAN)) as part:
            part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        planned = Protocol(**content)
    return planned


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
