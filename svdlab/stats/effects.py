"""Effects: from a table of clips to a number with its interval, its test and its verdict. The one engine of every study.

    >>> clips = pd.DataFrame({"stimulus": list("abcdefgh"), "seed": 0, "still": [0, 0, 1, 0, 0, 0, 0, 0], "flow_px": range(8)})
    >>> print(share("still", "{} of clips are still", clips, margin=0.15).sentence)
    12 % of clips are still (95 % CI 2 to 47 %; 8 images, 1 seed). Inconclusive: the interval contains the 15 % threshold.
    >>> mean("speed", "mean flow", clips, "flow_px", unit="px/frame").verdict
    'effect'

The image is the unit: seeds are averaged within an image first. Below six images (or too few pairs for a permutation test)
there is no verdict. "equivalent within the margin" is evidence of no relevant effect: the interval lies inside a margin that
was fixed beforehand. "inconclusive" is no evidence either way. Logic uses `key`; sentences are for people.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from svdlab.errors import InputError
from svdlab.stats import intervals
from svdlab.stats.intervals import Estimate

LEAST_IMAGES = 6
EFFECT, EQUIVALENT, INCONCLUSIVE = "effect", "equivalent within the margin", "inconclusive"
TOO_FEW, DESCRIPTIVE = "too few", "descriptive"
VERDICTS = (EFFECT, EQUIVALENT, INCONCLUSIVE, TOO_FEW, DESCRIPTIVE)
NAN = math.nan


@dataclass(frozen=True)
class Effect:
    """A number with its interval and what it shows.

    what: in words; "{}" stands where the sentence puts the number. low, high: of confidence 1 - alpha. n: independent units
    (`of`: images or pairs). seeds: of each. margin: what counts as no effect, in `unit`; NaN where none was set. p: two-sided,
    of `null` (or of the margin where that is a `threshold`); p_equivalent: TOST's, for pairs. q: p after Benjamini and
    Hochberg over all effects of a report, from `corrected`. sd: of the units' values. method: of the interval or test.
    """

    key: str
    what: str
    value: float
    low: float
    high: float
    unit: str
    n: int
    seeds: int
    margin: float = NAN
    p: float = NAN
    q: float = NAN
    verdict: str = DESCRIPTIVE
    null: float = 0.0
    threshold: bool = False
    p_equivalent: float = NAN
    q_equivalent: float = NAN
    sd: float = NAN
    alpha: float = 0.05
    of: str = "image"
    method: str = ""

    @property
    def d(self) -> float:
        """The value over the standard deviation of the units."""
        return self.value / self.sd if self.sd else math.copysign(math.inf, self.value) if self.value else 0.0

    @property
    def label(self) -> str:
        """What was measured, without the number."""
        return self.what.replace("{} of ", "").replace("{}", "").strip()

    @property
    def sentence(self) -> str:
        """The effect in words, with everything that is needed to judge it.

        >>> Effect("speed", "mean flow", 1.23, 0.8, 1.7, "px/frame", 8, 2, verdict=EFFECT).sentence
        'Mean flow: 1.23 px/frame (95 % CI 0.8 to 1.7 px/frame; 8 images, 2 seeds). Effect: the interval excludes 0.'
        """
        number = quantity(self.value, self.unit)
        text = self.what.replace("{}", number) if "{}" in self.what else f"{self.what}: {number}"
        sample = f"{self.n} {self.of}{'s' * (self.n != 1)}, {self.seeds} seed{'s' * (self.seeds != 1)}"
        if math.isfinite(self.low) and math.isfinite(self.high):
            ends = f"{quantity(self.low, self.unit, bare=True)} to {quantity(self.high, self.unit)}"
            sample = f"{100 * (1 - self.alpha):g} % CI {ends}; {sample}"
        return f"{text[:1].upper()}{text[1:]} ({sample}).{self._reason()}"

    def _reason(self) -> str:
        """The verdict in words, and what it rests on."""
        q, limit = f"q {self.q:.2g}", quantity(self.margin, self.unit)
        against, name = (self.margin, f"the {limit} threshold") if self.threshold else (self.null, f"{self.null:g}")
        inside, known = self.low <= against <= self.high, math.isfinite(self.q)
        if self.verdict == EFFECT:
            where = f"lies above {name}" if self.threshold else f"excludes {name}"
            return f" Effect: {q}." if inside else f" Effect: the interval {where}{f' ({q})' * known}."
        if self.verdict == EQUIVALENT:
            return f" Equivalent within the margin{f': the interval lies below {name}' if self.threshold else f' of {limit}'}."
        if self.verdict == INCONCLUSIVE:
            beyond = f" and exceeds the margin of {limit}" if math.isfinite(self.margin) and not self.threshold else ""
            return f" Inconclusive: {f'the interval contains {name}{beyond}' if inside else f'{q} after correction'}."
        return f" Too few {self.of}s for a verdict." if self.verdict == TOO_FEW else ""


# --- makers -----------------------------------------------------------------------------------------------------------


def mean(
    key: str,
    what: str,
    table: pd.DataFrame,
    column: str | None = None,
    *,
    unit: str,
    null: float | None = 0.0,
    margin: float | None = None,
    never_negative: bool = False,
) -> Effect:
    """The mean over images of a column (default: `key`), seeds averaged first, against `null` (None: nothing to test).

    >>> mean("drift", "drift at the end", pd.DataFrame({"stimulus": range(6), "drift": 0.1}), unit="rms", null=None).verdict
    'descriptive'

    Rows whose value is NaN (the instrument abstained) are left out, and images without any other. never_negative: for sizes
    and distances, which any change at all puts above 0: then the margin is a threshold, which an effect must exceed.
    """
    values, seeds = per_image(table, column or key), seeds_of(table, column or key)
    threshold = never_negative and margin is not None
    return _judged(values, intervals.mean_interval, (key, what, unit, seeds), margin, null=_nan(null), threshold=threshold)


def share(key: str, what: str, table: pd.DataFrame, column: str | None = None, *, margin: float | None = None) -> Effect:
    """The share of clips for which a column of truth values holds, with a Wilson interval that knows of images.

    >>> share("frozen", "{} of clips are frozen", pd.DataFrame({"stimulus": range(8), "frozen": True}), margin=0.1).low
    0.6755...

    See `stats.clustered_proportion`. The margin is a threshold: "effect" where the interval begins above it.
    """
    rates, seeds = per_image(table, column or key), seeds_of(table, column or key)
    interval = lambda x: intervals.clustered_proportion(x, len(x) * max(1, seeds))
    return _judged(rates, interval, (key, what, "share", seeds), margin, null=NAN, threshold=margin is not None, least=1)


def difference(
    key: str,
    what: str,
    table: pd.DataFrame,
    column: str | None = None,
    *,
    by: str,
    a: Any = None,
    b: Any = None,
    unit: str = "",
    margin: float | None = None,
) -> Effect:
    """The mean over images of (column where by == a) - (where by == b), within each image that has both.

    >>> table = pd.DataFrame({"stimulus": [0, 0, 1, 1], "bucket": [1, 255, 1, 255], "flow_px": [1.0, 4.0, 2.0, 6.0]})
    >>> difference("bucket", "flow, bucket 255 minus 1", table, "flow_px", by="bucket", unit="px/frame").value
    3.5

    By default a is the highest and b the lowest value of `by`. Of shares (unit="share") the interval is
    `stats.paired_shares`: where every image agrees, that is not certainty.
    """
    if a is None and b is None:
        levels = sorted(table[by].dropna().unique()) if by in table else []
        if len(levels) < 2:
            raise InputError(f"{what}: {by} has {len(levels)} value(s) in the table, and a difference needs two.")
        a, b = levels[-1], levels[0]
    if absent := [v for v in (a, b) if not (table[by] == v).any()]:
        raise InputError(f"{what}: the table has no rows with {by} = {absent[0]!r}.")
    one, two = (per_image(table[table[by] == v], column or key) for v in (a, b))
    seeds = seeds_of(table[table[by].isin([a, b])], column or key)
    interval = intervals.paired_shares if unit == "share" else intervals.mean_interval
    return _judged((one - two).dropna(), interval, (key, what, unit, seeds), margin)


def ratio(key: str, what: str, table: pd.DataFrame, column: str | None = None, *, unit: str, margin: float) -> Effect:
    """The geometric mean over images of a ratio that is never negative, with the interval of its logarithm.

    >>> ratio("edit", "change by the edit", pd.DataFrame({"stimulus": range(6), "edit": 0.01}), unit="", margin=0.1).verdict
    'equivalent within the margin'

    The margin is a threshold. A ratio of 0 counts as 1e-6.
    """
    values, seeds = np.log(per_image(table, column or key).clip(lower=1e-6)), seeds_of(table, column or key)
    logs = _judged(values, intervals.mean_interval, (key, what, unit, seeds), math.log(margin), threshold=True)
    return replace(logs, margin=margin, value=math.exp(logs.value), low=math.exp(logs.low), high=math.exp(logs.high))


def paired(
    key: str,
    what: str,
    differences: Any,
    *,
    unit: str,
    margin: float | None = None,
    seeds: int = 1,
    alpha: float = 0.05,
    interval: str = "t",
    shares: bool = False,
    of: str = "pair",
    resamples: int = 9999,
) -> Effect:
    """The mean of paired differences: permutation p, interval ("t" or "permutation"), and TOST where a margin is set.

    >>> paired("speed", "speed, a minus b", [2, 2, 1, 2, 2, 1], unit="px/frame").p
    0.03125

    NaN differences are left out. shares: of differences of shares that are all 0, TOST's p is the chance that so many pairs
    show none although a share `margin` of pairs differs. Pass the effects of one study through `corrected` together.
    """
    if interval not in ("t", "permutation"):
        raise InputError(f'got interval={interval!r}: "t" or "permutation".')
    x = np.asarray(differences, np.float64)
    x = x[np.isfinite(x)]
    value = float(x.mean()) if len(x) else NAN
    blank = Effect(key, what, value, NAN, NAN, unit, len(x), seeds, _nan(margin), alpha=alpha, of=of, method="permutation")
    if len(x) < 2:
        return replace(blank, verdict=TOO_FEW)
    if interval == "t":
        found = intervals.t_interval(x, confidence=1 - alpha)
    else:
        found = intervals.permutation_interval(x, confidence=1 - alpha, resamples=resamples)
    sd, same = float(x.std(ddof=1)), NAN
    if margin and sd:
        same = intervals.equivalent_mean(x, -margin, margin, alpha=alpha).p
    elif margin and shares and not value:
        same = (1 - min(margin, 1.0)) ** len(x)
    elif margin:  # the mean is what it is
        same = 0.0 if abs(value) < margin else 1.0
    p = intervals.permutation_p(x, resamples=resamples)
    return _tested(replace(blank, low=found.low, high=found.high, sd=sd, p=p, p_equivalent=same), 1)


def exact(key: str, what: str, value: float, unit: str, table: pd.DataFrame) -> Effect:
    """A number that holds without any spread, such as a count or a length in seconds."""
    return Effect(key, what, value, NAN, NAN, unit, table["stimulus"].nunique(), seeds_of(table, "seed"), null=NAN)


def descriptive(effect: Effect) -> Effect:
    """An effect that was picked among several for its size: its interval promises too much, so it carries no claim."""
    verdict = TOO_FEW if effect.verdict == TOO_FEW else DESCRIPTIVE
    return replace(effect, verdict=verdict, margin=NAN, p=NAN, q=NAN, threshold=False)


def bounded(effect: Effect, low: float, high: float) -> Effect:
    """An effect whose interval stays within the values that are possible, where a t interval of few images does not."""
    ends = np.clip([effect.low, effect.high], low, high)
    return replace(effect, low=float(ends[0]), high=float(ends[1]))


def corrected(effects: Iterable[Effect], *, least_tests: int | None = None) -> list[Effect]:
    """The effects of one report with q filled in: Benjamini and Hochberg over all of them, and over all equivalence tests.

    >>> [e.q for e in corrected([paired("a", "a", [1, 2, 1, 2, 1, 2], unit=""), paired("b", "b", [1, -1] * 3, unit="")])]
    [0.0625, 1.0]

    An effect whose q is not below alpha becomes inconclusive; pairs are equivalent where that has a q of its own below alpha.
    Pairs are too few where no p of so many could be below alpha over `least_tests`, by default the number of all tests.
    """
    listed = list(effects)
    q, same = intervals.fdr([e.p for e in listed]), intervals.fdr([e.p_equivalent for e in listed])
    tests = least_tests or max(1, sum(math.isfinite(e.p) for e in listed))
    return [_tested(replace(e, q=float(q[i]), q_equivalent=float(same[i])), tests) for i, e in enumerate(listed)]


def as_table(effects: Iterable[Effect]) -> pd.DataFrame:
    """A row per effect, with its label, `d` and sentence."""
    rows = [{**asdict(e), "label": e.label, "d": e.d, "sentence": e.sentence} for e in effects]
    return pd.DataFrame(rows, columns=[*Effect.__dataclass_fields__, "label", "d", "sentence"])


# --- from clips to images ---------------------------------------------------------------------------------------------


def per_image(table: pd.DataFrame, column: str) -> pd.Series:
    """The column's mean for each stimulus; images without a number are left out.

    >>> per_image(pd.DataFrame({"stimulus": ["a", "a", "b"], "x": [1, 3, None]}), "x").to_dict()
    {'a': 2.0}
    """
    if absent := [name for name in ("stimulus", column) if name not in table]:
        raise InputError(f"no column {absent[0]!r}: the table has {', '.join(map(str, table.columns))}.")
    values = numbers(table[column])
    return values.where(np.isfinite(values)).groupby(table["stimulus"]).mean().dropna()


def numbers(column: pd.Series) -> pd.Series:
    """A column of numbers, truth values or None as floats; NaN for what is no number."""
    if column.dtype == float:
        return column
    return pd.to_numeric(column.astype(object).where(column.notna(), np.nan), errors="coerce").astype(float)


def seeds_of(table: pd.DataFrame, column: str) -> int:
    """How many seeds an image has (the median), of clips that have a number."""
    seen = table.dropna(subset=[column]) if column in table else table
    return int(seen.groupby("stimulus")["seed"].nunique().median()) if "seed" in seen and len(seen) else min(1, len(seen))


def quantity(value: float, unit: str = "", *, bare: bool = False) -> str:
    """A number with its unit, shares in percent; `bare` leaves the unit out.

    >>> quantity(0.188, "share"), quantity(1.2345, "px/frame"), quantity(0.004, "share", bare=True)
    ('19 %', '1.23 px/frame', '0.4')
    """
    text = f"{value:.3g}"
    if unit == "share":
        text, unit = (f"{100 * value:.0f}" if abs(value) >= 0.01 or not value else f"{100 * value:.1g}"), "%"
    return text if bare else f"{text} {unit}".rstrip()


# --- verdicts ---------------------------------------------------------------------------------------------------------


def _judged(
    values: pd.Series, interval: Callable[[np.ndarray], Estimate], words: tuple[str, str, str, int], margin: float | None,
    *, null: float = 0.0, threshold: bool = False, least: int = 2,
) -> Effect:  # fmt: skip
    """The mean of one value per image, its p of the interval's own test, and the verdict that the interval gives."""
    (key, what, unit, seeds), x, bar = words, values.to_numpy(), _nan(margin)
    mean, sd = (float(x.mean()) if len(x) else NAN), (float(x.std(ddof=1)) if len(x) > 1 else NAN)
    blank = Effect(key, what, mean, NAN, NAN, unit, len(x), seeds, bar, verdict=TOO_FEW, null=null, threshold=threshold, sd=sd)
    if len(x) < least:
        return blank
    found = interval(x)
    e = replace(blank, value=found.value, low=found.low, high=found.high, method=found.method)
    if e.n < LEAST_IMAGES:
        return e
    against = margin if threshold else null
    if against is None or math.isnan(against):
        return replace(e, verdict=DESCRIPTIVE)
    e = replace(e, p=intervals.p_of(found, x, against))
    if threshold:
        return replace(e, verdict=EFFECT if e.low > bar else EQUIVALENT if e.high < bar else INCONCLUSIVE)
    if null - bar < e.low and e.high < null + bar:
        return replace(e, verdict=EQUIVALENT)
    return replace(e, verdict=INCONCLUSIVE if e.low <= null <= e.high else EFFECT)


def _tested(e: Effect, tests: int) -> Effect:
    """The verdict of the tests, of which there are so many: of q where it is known, else of p."""
    q, same = (v if math.isfinite(v) else w for v, w in ((e.q, e.p), (e.q_equivalent, e.p_equivalent)))
    if e.method == "permutation":
        if e.n < 2 or not intervals.decidable(e.n, tests=tests, alpha=e.alpha):
            return replace(e, verdict=TOO_FEW)
        return replace(e, verdict=EQUIVALENT if same < e.alpha else EFFECT if q < e.alpha else INCONCLUSIVE)
    return replace(e, verdict=INCONCLUSIVE) if e.verdict == EFFECT and not q < e.alpha else e


def _nan(value: float | None) -> float:
    return NAN if value is None else float(value)
