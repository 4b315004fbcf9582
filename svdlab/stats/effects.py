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
from functools import partial
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
from statsmodels.stats.weightstats import DescrStatsW

from svdlab.errors import COUNT, LABEL, LEVEL, POSITIVE, InputError, kind, number, one_of, several, shown, takes, text, whole
from svdlab.stats import intervals
from svdlab.stats.intervals import Estimate, finite, keyed, numbers

LEAST_IMAGES = 6
EFFECT, EQUIVALENT, INCONCLUSIVE = "effect", "equivalent within the margin", "inconclusive"
TOO_FEW, DESCRIPTIVE = "too few", "descriptive"
VERDICTS = (EFFECT, EQUIVALENT, INCONCLUSIVE, TOO_FEW, DESCRIPTIVE)
NAN = math.nan
TABLE = kind(pd.DataFrame)
_null = lambda name, value: None if value is None else number(name, value)


@dataclass(frozen=True)
class Effect:
    """A number with its interval and what it shows.

    what: in words; "{}" stands where the sentence puts the number. low, high: of confidence 1 - alpha. n: independent units
    (`of`: images or pairs). seeds: of each. margin: what counts as no effect, in `unit`. p: two-sided, of `null` (or of the
    margin where that is a `threshold`); p_equivalent: of equivalence (TOST), for pairs. q: p after the correction for all
    effects of a report, by `corrected`. sd: of the units' values. method: of the interval or test. NaN: none.
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

    def __post_init__(self) -> None:
        text("key", self.key)
        for name in ("what", "unit", "of", "method"):
            LABEL(name, getattr(self, name))
        for name in ("n", "seeds"):
            whole(name, getattr(self, name))
        for name in ("value", "low", "high", "margin", "p", "q", "null", "p_equivalent", "q_equivalent", "sd"):
            if isinstance(value := getattr(self, name), bool) or not isinstance(value, Real):
                raise InputError(f"{name}={shown(value)}: give a number, or NaN where there is none.")
        one_of("verdict", self.verdict, VERDICTS)
        LEVEL("alpha", self.alpha)

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
        if math.isfinite(self.low):
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


@takes(key=text, what=LABEL, table=TABLE, column=text, unit=LABEL, null=_null, margin=POSITIVE)
def mean(
    key: str,
    what: str,
    table: pd.DataFrame,
    column: str | None = None,
    *,
    unit: str,
    null: float | None = 0.0,
    margin: float | None = None,
) -> Effect:
    """The mean over images of a column (default: `key`) against `null` (None: nothing to test).

    >>> mean("drift", "drift at the end", pd.DataFrame({"stimulus": range(6), "drift": 0.1}), unit="rms", null=None).verdict
    'descriptive'

    Rows without a finite number (the instrument abstained) are left out; `n` counts the images that remain.
    """
    blank = replace(_blank(key, what, table, column, unit, margin), null=NAN if null is None else null)
    return _judged(blank, per_image(table, column or key), intervals.mean_interval)


@takes(key=text, what=LABEL, table=TABLE, column=text, margin=LEVEL)
def share(key: str, what: str, table: pd.DataFrame, column: str | None = None, *, margin: float | None = None) -> Effect:
    """The share of clips for which a column of truth values holds, with the interval of `stats.clustered_proportion`.

    >>> share("frozen", "{} of clips are frozen", pd.DataFrame({"stimulus": range(8), "frozen": True}), margin=0.1).low
    0.6755...

    The margin is a threshold: "effect" where the interval begins above it.
    """
    blank = replace(_blank(key, what, table, column, "share", margin), null=NAN, threshold=margin is not None)
    interval = lambda x: intervals.clustered_proportion(x, len(x) * max(1, blank.seeds))
    return _judged(blank, per_image(table, column or key), interval, least=1)


@takes(key=text, what=LABEL, table=TABLE, column=text, by=text, unit=LABEL, margin=POSITIVE)
def difference(
    key: str,
    what: str,
    table: pd.DataFrame,
    column: str | None = None,
    *,
    by: str,
    levels: tuple[Any, Any] | None = None,
    unit: str = "",
    margin: float | None = None,
) -> Effect:
    """The mean over images of (column where by == a) - (where by == b), (a, b) = levels, within each image that has both.

    >>> table = pd.DataFrame({"stimulus": [0, 0, 1, 1], "bucket": [1, 255, 1, 255], "flow_px": [1.0, 4.0, 2.0, 6.0]})
    >>> difference("bucket", "flow, bucket 255 minus 1", table, "flow_px", by="bucket", unit="px/frame").value
    3.5

    By default these are the highest and the lowest value of `by`. Of shares (unit="share") the interval is that of
    `stats.paired_shares`: where every image agrees, that is not certainty.
    """
    keyed(table, by)
    present = table[by].dropna().unique().tolist()
    try:
        levels = (max(present), min(present)) if levels is None else levels
    except (TypeError, ValueError) as error:  # texts among numbers; none
        raise InputError(f"{what}: the values of {by} have no order: give levels=, two of them.") from error
    chosen = several("levels", levels, kind(str, Real))
    if len(chosen) != 2 or chosen[0] == chosen[1] or not all(v in present for v in chosen):
        raise InputError(f"{what}: a difference needs rows of two values of {by}, and got {shown(levels)}.")
    one, two = (per_image(table[table[by] == v], column or key) for v in chosen)
    blank = _blank(key, what, table[table[by].isin(chosen)], column, unit, margin)
    return _judged(blank, (one - two).dropna(), intervals.paired_shares if unit == "share" else intervals.mean_interval)


@takes(key=text, what=LABEL, table=TABLE, column=text, unit=LABEL, margin=POSITIVE)
def ratio(key: str, what: str, table: pd.DataFrame, column: str | None = None, *, unit: str, margin: float) -> Effect:
    """The geometric mean over images of a ratio that is never negative (0 counts as 1e-6); the margin is a threshold.

    >>> ratio("edit", "change by the edit", pd.DataFrame({"stimulus": range(6), "edit": 0.01}), unit="", margin=0.1).verdict
    'equivalent within the margin'
    """
    blank = replace(_blank(key, what, table, column, unit), margin=math.log(margin), threshold=True)
    values = per_image(table, column or key)
    if (values < 0).any():
        raise InputError(f"the column {column or key!r} holds {values.min():g}: a ratio is never negative.")
    logs = _judged(blank, np.log(values.clip(lower=1e-6)), intervals.mean_interval)
    return replace(logs, margin=margin, value=math.exp(logs.value), low=math.exp(logs.low), high=math.exp(logs.high))


@takes(key=text, what=LABEL, unit=LABEL, margin=POSITIVE, seeds=COUNT, alpha=LEVEL, of=text)
def paired(
    key: str,
    what: str,
    differences: Any,
    *,
    unit: str,
    margin: float | None = None,
    seeds: int = 1,
    alpha: float = 0.05,
    of: str = "pair",
) -> Effect:
    """The mean of paired differences: permutation p, t interval, and TOST where a margin is set.

    >>> paired("speed", "speed, a minus b", [2, 2, 1, 2, 2, 1], unit="px/frame").p
    0.03125

    NaN differences are left out. Where differences of shares (unit="share") are all 0, TOST's p is the chance that so many
    pairs show none although a share `margin` of all pairs differs. Pass the effects of one study to `corrected` together.
    """
    x = finite(differences, least=0, gaps=True)
    x = x[np.isfinite(x)]
    value = float(x.mean()) if len(x) else NAN
    blank = Effect(
        key,
        what,
        value,
        NAN,
        NAN,
        unit,
        len(x),
        seeds,
        NAN if margin is None else margin,
        alpha=alpha,
        of=of,
        method="permutation",
    )
    if len(x) < 2:
        return replace(blank, verdict=TOO_FEW)
    found, sd, same = intervals.t_interval(x, confidence=1 - alpha), float(x.std(ddof=1)), NAN
    if margin and sd:
        same = float(DescrStatsW(x).ttost_mean(-margin, margin)[0])
    elif margin and unit == "share" and not value:
        same = (1 - min(margin, 1.0)) ** len(x)
    elif margin:  # the mean is what it is
        same = 0.0 if abs(value) < margin else 1.0
    p = intervals.permutation_p(x)
    return _tested(replace(blank, low=found.low, high=found.high, sd=sd, p=p, p_equivalent=same), 1)


@takes(key=text, what=LABEL, value=number, unit=LABEL, table=TABLE)
def exact(key: str, what: str, value: float, unit: str, table: pd.DataFrame) -> Effect:
    """A number that holds without any spread, such as a count or a length in seconds."""
    return replace(_blank(key, what, table, "seed", unit), value=value, n=table["stimulus"].nunique(), null=NAN)


@takes(effect=kind(Effect))
def descriptive(effect: Effect) -> Effect:
    """An effect that was picked among several for its size: its interval promises too much, so it carries no claim."""
    verdict = TOO_FEW if effect.verdict == TOO_FEW else DESCRIPTIVE
    return replace(effect, verdict=verdict, margin=NAN, p=NAN, q=NAN, threshold=False)


@takes(effect=kind(Effect), low=number, high=number)
def bounded(effect: Effect, low: float, high: float) -> Effect:
    """An effect whose interval stays within the values that are possible, where a t interval of few images does not."""
    ends = np.clip([effect.low, effect.high], low, high)
    return replace(effect, low=float(ends[0]), high=float(ends[1]))


@takes(effects=partial(several, check=kind(Effect), least=0), least_tests=COUNT)
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


@takes(effects=partial(several, check=kind(Effect), least=0))
def as_table(effects: Iterable[Effect]) -> pd.DataFrame:
    """A row per effect, with its label, `d` and sentence."""
    rows = [{**asdict(e), "label": e.label, "d": e.d, "sentence": e.sentence} for e in effects]
    return pd.DataFrame(rows, columns=[*Effect.__dataclass_fields__, "label", "d", "sentence"])


@takes(table=TABLE, column=text)
def per_image(table: pd.DataFrame, column: str) -> pd.Series:
    """The column's mean for each stimulus; images without a number are left out.

    >>> per_image(pd.DataFrame({"stimulus": ["a", "a", "b"], "x": [1, 3, None]}), "x").to_dict()
    {'a': 2.0}
    """
    keyed(table, "stimulus", column, least=0)
    if table["stimulus"].isna().any():
        raise InputError("the table has rows without a stimulus: name the image of each.")
    values = numbers(table[column])
    return values.where(np.isfinite(values)).groupby(table["stimulus"]).mean().dropna()


def quantity(value: float, unit: str = "", *, bare: bool = False) -> str:
    """A number with its unit, shares in percent; `bare` leaves the unit out.

    >>> quantity(0.188, "share"), quantity(1.2345, "px/frame"), quantity(0.004, "share", bare=True)
    ('19 %', '1.23 px/frame', '0.4')
    """
    text = f"{value:.3g}"
    if unit == "share":
        text, unit = (f"{100 * value:.0f}" if abs(value) >= 0.01 or not value else f"{100 * value:.1g}"), "%"
    return text if bare else f"{text} {unit}".rstrip()


def _blank(key: str, what: str, table: pd.DataFrame, column: str | None, unit: str, margin: float | None = None) -> Effect:
    """An effect without numbers. Seeds: how many an image has (the median), of clips that have a number."""
    keyed(table, "stimulus", column or key, least=0)
    seen = table.dropna(subset=[column or key])
    seeds = int(seen.groupby("stimulus")["seed"].nunique().median()) if "seed" in seen and len(seen) else min(1, len(seen))
    return Effect(key, what, NAN, NAN, NAN, unit, 0, seeds, NAN if margin is None else margin)


def _judged(blank: Effect, values: pd.Series, interval: Callable[[np.ndarray], Estimate], *, least: int = 2) -> Effect:
    """The mean of one value per image, its p of the interval's own test, and the verdict that the interval gives."""
    x = values.to_numpy()
    mean, sd = (float(x.mean()) if len(x) else NAN), (float(x.std(ddof=1)) if len(x) > 1 else NAN)
    e = replace(blank, value=mean, sd=sd, n=len(x), verdict=TOO_FEW)
    if len(x) < least:
        return e
    found = interval(x)
    e = replace(e, value=found.value, low=found.low, high=found.high, method=found.method)
    against = e.margin if e.threshold else e.null
    if e.n < LEAST_IMAGES or math.isnan(against):
        return e if e.n < LEAST_IMAGES else replace(e, verdict=DESCRIPTIVE)
    e = replace(e, p=intervals.p_of(found, x, against))
    if e.threshold:
        return replace(e, verdict=EFFECT if e.low > e.margin else EQUIVALENT if e.high < e.margin else INCONCLUSIVE)
    if e.null - e.margin < e.low and e.high < e.null + e.margin:
        return replace(e, verdict=EQUIVALENT)
    return replace(e, verdict=INCONCLUSIVE if e.low <= e.null <= e.high else EFFECT)


def _tested(e: Effect, tests: int) -> Effect:
    """The verdict of the tests, of which there are so many: of q where it is known, else of p."""
    q, same = (v if math.isfinite(v) else w for v, w in ((e.q, e.p), (e.q_equivalent, e.p_equivalent)))
    if e.method == "permutation":
        if e.n < 2 or 2.0 ** (1 - e.n) > e.alpha / tests:  # the smallest p that so many pairs can give
            return replace(e, verdict=TOO_FEW)
        return replace(e, verdict=EQUIVALENT if same < e.alpha else EFFECT if q < e.alpha else INCONCLUSIVE)
    return replace(e, verdict=INCONCLUSIVE) if e.verdict == EFFECT and not q < e.alpha else e
