"""From a table of clips to findings: the rules that every probe keeps.

    >>> mean("sharpness lost over the clip", table, "blur_slope", unit="per frame", margin=0.002)
    >>> difference("speed, bucket 255 less 1", table, "flow_px", by="motion_bucket_id", a=255, b=1, unit="px/frame")
    >>> share("frozen clips", table, "frozen", margin=0.10)

The image is the unit: seeds are averaged within an image before images are compared. Below six images there are numbers
only. "none within margin" is evidence of none: the 95 % interval lies inside a margin that the probe fixed beforehand, which
is two one-sided tests at 0.025. "cannot tell" is no evidence either way.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from statsmodels.stats.proportion import proportion_confint

from svdlab.errors import InputError
from svdlab.stats import intervals as stats

LEAST_IMAGES = 6
FOUND, NONE, CANNOT_TELL, NUMBERS, MEASURED = "found", "none within margin", "cannot tell", "numbers only", "measured"
KINDS = (FOUND, NONE, CANNOT_TELL, NUMBERS, MEASURED)


@dataclass(frozen=True)
class Finding:
    """One number with its 95 % interval and what may be said of it.

    kind: "found" (an effect: the interval leaves out `null`, and the effect is not inside the margin), "none within
    margin", "cannot tell", "numbers only" (fewer than six images), or "measured" (a quantity with no null to test).
    margin: what counts as none, in the finding's unit; NaN where nothing is tested.
    """

    what: str
    value: float
    low: float
    high: float
    unit: str
    n_images: int
    n_seeds: int
    kind: str
    margin: float = math.nan

    @property
    def sentence(self) -> str:
        number = _text(self.value, self.unit, self.low, self.high)
        sample = f"{self.n_images} image{'s' * (self.n_images != 1)}, {self.n_seeds} seed{'s' * (self.n_seeds != 1)} each"
        margin = "" if math.isnan(self.margin) else f", margin {_text(self.margin, 'share' if self.unit == 'share' else '')}"
        tail = {
            FOUND: "",
            MEASURED: "",
            NONE: f": none within the margin of {_text(self.margin, self.unit)}",
            CANNOT_TELL: f": cannot tell{margin}",
            NUMBERS: f": numbers only, below {LEAST_IMAGES} images",
        }[self.kind]
        return f"{self.what}: {number}; {sample}{tail}."


def exact(what: str, value: float, unit: str, table: pd.DataFrame) -> Finding:
    """A number that holds without any spread, such as a count or a length in seconds."""
    return Finding(what, value, math.nan, math.nan, unit, table["stimulus"].nunique(), _seeds(table, "seed"), MEASURED)


def mean(
    what: str,
    table: pd.DataFrame,
    column: str,
    *,
    unit: str,
    null: float | None = 0.0,
    margin: float | None = None,
    never_negative: bool = False,
) -> Finding:
    """The mean over images of a column, seeds averaged first, against `null` (None: nothing to test).

    >>> mean("drift at the end", table, "drift", unit="rms", null=None).kind
    'measured'

    Rows whose value is NaN (the instrument abstained) are left out, and images without any other. never_negative: for
    sizes and distances, which any change at all puts above 0: "found" then asks for an interval above the margin.
    """
    values = per_image(table, column)
    found = _judge(what, values, unit, null, margin, _seeds(table, column))
    if never_negative and found.kind == FOUND and margin is not None and found.low <= margin:
        return replace(found, kind=CANNOT_TELL)
    return found


def ratio(what: str, table: pd.DataFrame, column: str, *, unit: str, margin: float) -> Finding:
    """The geometric mean over images of a ratio that is never negative, with the interval of its logarithm.

    >>> ratio("change by an edit", table, "relative", unit="of what another seed changes", margin=0.1)

    "found": the interval begins above the margin; "none within margin": it ends below. A ratio of 0 counts as 1e-6.
    """
    values = np.log(per_image(table, column).clip(lower=1e-6))
    found = _judge(what, values, unit, None, None, _seeds(table, column))
    value, low, high = (math.exp(v) if math.isfinite(v) else v for v in (found.value, found.low, found.high))
    kind = found.kind
    if kind == MEASURED:
        kind = FOUND if low > margin else NONE if high < margin else CANNOT_TELL
    return replace(found, value=value, low=low, high=high, kind=kind, margin=margin)


def difference(
    what: str, table: pd.DataFrame, column: str, *, by: str, a: Any, b: Any, unit: str, margin: float | None = None
) -> Finding:
    """The mean over images of (column where by == a) - (where by == b), within each image that has both.

    >>> difference("what the bucket does", table, "flow_px", by="motion_bucket_id", a=255, b=1, unit="px/frame").value

    Of shares ("share") the interval is `stats.paired_shares`: where every image agrees, that is not certainty.
    """
    missing = [v for v in (a, b) if not (table[by] == v).any()]
    if missing:
        raise InputError(f"{what}: the table has no rows with {by} = {missing[0]!r}.")
    one, two = (per_image(table[table[by] == v], column) for v in (a, b))
    values = (one - two).dropna()
    seeds = _seeds(table[table[by].isin([a, b])], column)
    return _judge(what, values, unit, 0.0, margin, seeds, of_shares=unit == "share")


def share(what: str, table: pd.DataFrame, column: str, *, margin: float | None = None) -> Finding:
    """The share of clips for which a column of truth values holds, with a Wilson interval that knows of images.

    >>> share("frozen clips", table, "frozen", margin=0.10).sentence

    The interval is Wilson's at the effective number of clips, between the number of images and that of clips, by how
    much clips of one image are alike (Korn and Graubard 1998). "found": it begins above the margin; "none within margin": it
    ends below. Without a margin: "measured".
    """
    seen = table.dropna(subset=[column])
    values = per_image(seen.assign(**{column: seen[column].astype(float)}), column)
    images, seeds = len(values), _seeds(seen, column)
    if not images:
        return Finding(what, math.nan, math.nan, math.nan, "share", 0, 0, NUMBERS, _nan(margin))
    rate, clips = float(values.mean()), images * max(1, seeds)
    n = effective_clips(values.to_numpy(), clips)
    low, high = proportion_confint(rate * n, n, method="wilson")
    if images < LEAST_IMAGES:
        kind = NUMBERS
    elif margin is None:
        kind = MEASURED
    elif low > margin:
        kind = FOUND
    else:
        kind = NONE if high < margin else CANNOT_TELL
    return Finding(what, rate, float(low), float(high), "share", images, seeds, kind, _nan(margin))


def uncorrected(finding: Finding) -> Finding:
    """A finding that was picked among several for its size: its interval promises too much, so it carries no claim."""
    return replace(finding, kind=MEASURED if finding.kind in (FOUND, NONE, CANNOT_TELL) else finding.kind, margin=math.nan)


def effective_clips(rates: np.ndarray, clips: int) -> float:
    """The number of independent clips that tell as much as these, from each image's own rate.

    >>> effective_clips(np.array([0.0, 1.0, 0.0, 1.0]), 8)           # an image's two seeds always agree
    4.0
    """
    rate, images = float(rates.mean()), len(rates)
    spread = float(rates.var(ddof=1)) if images > 1 else 0.0
    if rate in (0.0, 1.0):
        return float(images)  # nothing is known of how alike clips of one image are: the cautious end
    return float(np.clip(rate * (1 - rate) / (spread / images), images, clips)) if spread else float(clips)


def per_image(table: pd.DataFrame, column: str) -> pd.Series:
    """The column's mean for each stimulus."""
    for name in ("stimulus", column):
        if name not in table:
            raise InputError(f"no column {name!r}: the table has {', '.join(map(str, table.columns))}.")
    values = pd.to_numeric(table[column].astype(object), errors="coerce").astype(float)
    values = values.where(np.isfinite(values))
    return values.groupby(table["stimulus"]).mean().dropna()


def as_table(findings: list[Finding]) -> pd.DataFrame:
    """A row per finding, with its sentence."""
    columns = [*Finding.__dataclass_fields__, "sentence"]
    return pd.DataFrame([{**asdict(f), "sentence": f.sentence} for f in findings], columns=columns)


def capital(sentence: str) -> str:
    """The sentence with a capital letter at its beginning."""
    return sentence[:1].upper() + sentence[1:]


def _judge(
    what: str, values: pd.Series, unit: str, null: float | None, margin: float | None, seeds: int, of_shares: bool = False
) -> Finding:
    n, bar = len(values), _nan(margin)
    if n < 2:
        return Finding(what, float(values.mean()) if n else math.nan, math.nan, math.nan, unit, n, seeds, NUMBERS, bar)
    x = values.to_numpy()
    found = stats.paired_shares(x) if of_shares else stats.mean_interval(x)
    kind = CANNOT_TELL
    if n < LEAST_IMAGES:
        kind = NUMBERS
    elif null is None:
        kind = MEASURED
    elif margin is not None and null - margin < found.low and found.high < null + margin:
        kind = NONE
    elif not found.low <= null <= found.high:
        kind = FOUND
    return Finding(what, found.value, found.low, found.high, unit, n, seeds, kind, bar)


def _seeds(table: pd.DataFrame, column: str) -> int:
    seen = table.dropna(subset=[column]) if column in table else table
    return int(seen.groupby("stimulus")["seed"].nunique().median()) if "seed" in seen and len(seen) else min(1, len(seen))


def _nan(margin: float | None) -> float:
    return math.nan if margin is None else margin


def _text(value: float, unit: str = "", low: float = math.nan, high: float = math.nan) -> str:
    """A number with its interval and unit; shares in percent."""
    factor, unit = (100, "%") if unit == "share" else (1, unit)
    text = f"{factor * value:.3g}"
    if math.isfinite(low) and math.isfinite(high):
        text += f" ({factor * low:.3g} to {factor * high:.3g})"
    return f"{text} {unit}".rstrip()
