"""plan.json: what a bias study decided before its first clip, what that can show, and where the study departed from it.

>>> planned = write_protocol(protocol, "results/people")         # the first one stays, whatever comes later
>>> print(planned.expectation)
>>> departures(planned, protocol, clips, table, "results/people")
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from svdlab import __version__
from svdlab.errors import InputError, OutputError
from svdlab.stats import intervals as stats
from svdlab.study import folders
from svdlab.study.manifests import Contrast

PLAN = "plan.json"
POWER = 0.8


@dataclass(frozen=True)
class Protocol:
    """A study's decisions. sample: the manifest's row -> sha256 of its picture. pairs: contrast -> how many."""

    contrasts: tuple[Contrast, ...]
    measures: tuple[str, ...]
    margins: dict[str, float | str]
    seeds: tuple[int, ...]
    conditions: dict[str, Any]
    alpha: float
    interval: str
    sample: dict[str, str]
    pairs: dict[str, int]
    checkpoint: str
    weights: str
    written: str = ""
    svdlab: str = field(default=__version__)

    @property
    def tests(self) -> int:
        """The size of the family: every contrast in every measure."""
        return len(self.contrasts) * len(self.measures)

    @property
    def power(self) -> pd.DataFrame:
        """A row per contrast: pairs, the smallest p they can give, whether there can be a verdict, detectable effects.

        Effects are standardised (mean difference over the standard deviation of the differences), for a power of 80 %:
        `detectable_alone` if it were the only test, `detectable` at alpha over the number of tests, the strictest that
        the correction can get.
        """
        rows = []
        for contrast, n in self.pairs.items():
            verdict = stats.decidable(n, tests=self.tests, alpha=self.alpha)
            rows.append(
                {
                    "contrast": contrast,
                    "pairs": n,
                    "smallest_p": stats.smallest_p(n),
                    "verdict_possible": verdict,
                    "detectable_alone": stats.detectable(n, alpha=self.alpha, power=POWER) if n > 2 else float("inf"),
                    "detectable": stats.detectable(n, alpha=self.alpha / self.tests, power=POWER) if n > 2 else float("inf"),
                }
            )
        return pd.DataFrame(rows)

    @property
    def expectation(self) -> str:
        """What such a study can and cannot show, in words: printed before it runs."""
        lines = [
            f"{self.tests} tests: {len(self.contrasts)} contrast(s) in {len(self.measures)} measure(s), "
            f"{len(self.seeds)} seed(s) averaged for each picture, alpha {self.alpha:g} over the family."
        ]
        for row in self.power.itertuples():
            if not row.verdict_possible:
                lines.append(
                    f"{row.contrast}: {row.pairs} pairs can give no p below {row.smallest_p:.2g}, and a verdict takes "
                    f"{self.alpha / self.tests:.2g}: numbers only."
                )
            else:
                lines.append(
                    f"{row.contrast}: {row.pairs} pairs find effects from {row.detectable:.2g} standard deviations of the "
                    f"pair differences with {POWER:.0%} power ({row.detectable_alone:.2g} for one test alone)."
                )
        unset = [name for name in self.measures if name not in self.margins]
        if unset:
            lines.append(f'"Equivalent" is not on offer for {", ".join(unset)}: no margin was set.')
        return "\n".join(lines)


def write_protocol(protocol: Protocol, out: str | Path) -> Protocol:
    """Write `out/plan.json`, whole or not at all, unless one is there; returns the one that is there then."""
    first = read_protocol(out)
    if first is not None:
        return first
    path = Path(out) / PLAN
    content = asdict(protocol) | {"written": datetime.now(UTC).isoformat(timespec="seconds")}
    part = path.with_name(f".{PLAN}.{os.getpid()}")
    try:
        part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        try:
            os.link(part, path)  # who comes second does not replace it
        except FileExistsError:
            pass
        except OSError:  # a file system without links
            os.replace(part, path)
    except OSError as error:
        raise OutputError(f"{path} could not be written: {error}. Choose a folder that you may write to.") from error
    finally:
        part.unlink(missing_ok=True)
    written = read_protocol(out)
    assert written is not None
    return written


def read_protocol(out: str | Path) -> Protocol | None:
    """The plan of a study's folder; None where there is none. Raises InputError where it cannot be read."""
    path = Path(out) / PLAN
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        listed = {name: tuple(content[name]) for name in ("measures", "seeds")}
        return Protocol(**{**content, **listed, "contrasts": tuple(Contrast(**c) for c in content["contrasts"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path} is no plan of a bias study ({error}): take another folder, or move it away.") from error


def departures(planned: Protocol, now: Protocol, clips: pd.DataFrame, table: pd.DataFrame, out: str | Path) -> list[str]:
    """Where what was done is not what was planned, in words; an empty list where it is.

    clips: a row per clip, as `svdlab.sweep` gives it; table: of `svdlab.probes.paired.compare`.
    """
    found = [*_decisions(planned, now), *_sample(planned, now)]
    early = [run for run in clips.run_id.unique() if _made(out, run) < planned.written]
    if early:
        found.append(f"{len(early)} clip(s) were made before the plan was written ({planned.written}).")
    failed = clips[clips.status != "done"]
    if len(failed):
        found.append(f"{len(failed)} clip(s) failed and have no numbers: {'; '.join(sorted(set(failed.reason))[:3])}.")
    silent = [name for name in now.measures if name not in set(table.measure)]
    if silent:
        found.append(f"no clip gave a number for {', '.join(silent)}.")
    for row in table[table.left_out > 0].to_dict("records"):
        of = row["n"] + row["left_out"]
        found.append(f"{row['scheme']}, {row['measure']}: {row['left_out']} of {of} pairs left out, without a number.")
    return found


def _decisions(planned: Protocol, now: Protocol) -> list[str]:
    found = []
    for name in ("contrasts", "measures"):
        before, after = ([str(v) for v in getattr(p, name)] for p in (planned, now))
        if added := [v for v in after if v not in before]:
            found.append(f"{name} that were not planned, so exploratory: {', '.join(added)}.")
        if dropped := [v for v in before if v not in after]:
            found.append(f"{name} that were planned and not looked at: {', '.join(dropped)}.")
    for name in ("margins", "seeds", "alpha", "interval", "checkpoint", "weights"):
        before, after = getattr(planned, name), getattr(now, name)
        if before != after:
            found.append(f"{name}: planned {_short(before)}, done {_short(after)}.")
    for name, value in now.conditions.items():
        if planned.conditions.get(name) != value:
            found.append(f"condition {name}: planned {planned.conditions.get(name)}, done {value}.")
    return found


def _sample(planned: Protocol, now: Protocol) -> list[str]:
    before, after = list(planned.sample.values()), list(now.sample.values())
    added = sum(max(0, after.count(h) - before.count(h)) for h in set(after))
    dropped = sum(max(0, before.count(h) - after.count(h)) for h in set(before))
    moved = sum(now.sample.get(row) != h for row, h in planned.sample.items())
    found = [f"{added} picture(s) that were not in the plan."] if added else []
    found += [f"{dropped} picture(s) of the plan were left out."] if dropped else []
    return found or (["the manifest's rows stand in another order."] if moved else [])


def _made(out: str | Path, run_id: str) -> str:
    return str(folders.read_record(folders.run_folder(out, run_id))["made"])


def _short(value: Any) -> str:
    text = json.dumps(value) if not isinstance(value, str) else value
    return text if len(text) <= 60 else text[:16] + "..."
