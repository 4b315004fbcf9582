"""What several probes show and tell alike: clips beside their inputs, curves over frames, shares within their bounds.

>>> beside_inputs(study, table, "lost", high_is_worse=True)  # typical and worst: input, round trip, four frames
>>> by_frame(table, "score_by_frame")  # frame, value, low, high
"""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd

from svdlab.probes import controls
from svdlab.probes import findings as rules
from svdlab.probes.base import Shown, Study
from svdlab.probes.findings import Finding


def beside_inputs(study: Study, table: pd.DataFrame, column: str, *, high_is_worse: bool) -> list[Shown]:
    """The typical and the worst clip by a column, each after its input and what the autoencoder alone makes of that."""
    seen = table.dropna(subset=[column]).sort_values(column, ascending=high_is_worse, kind="stable")
    if seen.empty:
        return []
    shown = []
    for what, row in (("typical", seen.iloc[(len(seen) - 1) // 2]), ("worst", seen.iloc[-1])):
        picture, frames = study.stimuli.array(row["stimulus"]), study.frames(row)
        own = controls.through_autoencoder(study.pipe, picture[None])
        four = frames[np.linspace(0, len(frames) - 1, 4).round().astype(int)]
        label = f"{what}: {row['stimulus']}, seed {row['seed']}: input, autoencoder, clip from its first to its last frame"
        shown.append(Shown(label, np.concatenate([picture[None], own, four]), str(row["run_id"])))
    return shown


def by_frame(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """The mean over images, with its interval, of a column of lists of numbers as JSON: `frame`, `value`, `low`, `high`."""
    lists = pd.DataFrame([json.loads(text) for text in table[column]], index=table["stimulus"]).groupby(level=0).mean()
    rows = []
    for frame in lists:
        values = pd.DataFrame({"stimulus": lists.index, "value": lists[frame].to_numpy()})
        found = rules.mean("", values, "value", unit="", null=None)
        rows.append({"frame": frame, "value": found.value, "low": found.low, "high": found.high})
    return pd.DataFrame(rows)


def bounded(finding: Finding) -> Finding:
    """A share's finding whose interval stays between 0 and 1, where a t interval of few images does not."""
    low, high = (float(np.clip(v, 0, 1)) for v in (finding.low, finding.high))
    return replace(finding, low=low, high=high)
