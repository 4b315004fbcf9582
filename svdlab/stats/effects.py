"""Effects: from a table of clips to a number with its interval, its test and its verdict. The one engine of every study.

    >>> clips = pd.DataFrame({"stimulus": list("abcdefgh"), "seed": 0, "still": [0, 0, 1, 0, 0, 0, 0, 0], "flow_px": range(8)})
    >>> print(share("still", "{} of clips are still", clips, margin=0.15).sentence)
    12 % of clips are still (95 % CI 2 to 47 %; 8 images, 1 seed). Inconclusive: the interval contains the 15 % threshold.
    >>> mean("speed", "mean flow", clips, "flow_px", unit="px/frame").verdict
    'effect'

Image and seed are crossed random factors: where images share seeds (the same seed 0 and 1 for all), intervals and tests hold
for other images and other seeds (`svdlab.stats.crossed`). With two or three shared seeds that costs much; with seeds of its
own for each image it costs nothing. With one seed for all, the result is that seed's. Below six images (or too few pairs for
a permutation test) there is no verdict. "equivalent within the margin" is evidence of no relevant effect: the interval lies
inside a margin that was fixed beforehand, in the measure's unit. "inconclusive" is no evidence either way. Tests allow for
skewed values, intervals do not: an interval may exclude 0 where the test finds nothing. Logic uses `key`, never the sentence.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd

from svdlab.errors import COUNT, LABEL, LEVEL, POSITIVE, InputError, kind, number, one_of, several, shown, takes, text, whole
from svdlab.stats import intervals
from svdlab.stats.crossed import finite, keyed, sample
from svdlab.stats.crossed import numbers as numbers
from svdlab.stats.intervals import Estimate

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
    margin where that is a `threshold`); p_equivalent: of equivalence (twice that of TOST: the alpha at which
    the interval reaches the margin). q, q_equivalent: these after the correction for
    all effects of a report, by `corrected`. sd: of the units' values. method: of the interval or test. NaN: none.
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
        q = f"q {self.q:.2g}"  # a limit is not rounded to whole percent, as what was measured is
        limit = f"{100 * self.margin:.3g} %" if self.unit == "share" else quantity(self.margin, self.unit)
        against, name = (self.margin, f"the {limit} threshold") if self.threshold else (self.null, f"{self.null:g}")
        inside, known = self.low <= against <= self.high, math.isfinite(self.q)
        within = self.null - self.margin < self.low and self.high < self.null + self.margin and not self.threshold
        if self.verdict == EFFECT:
            where = f"lies above {name}" if self.threshold else f"excludes {name}"
            return f" Effect: {q}." if inside else f" Effect: the interval {where}{f' ({q})' * known}."
        if self.verdict == EQUIVALENT:
            return f" Equivalent within the margin{f': the interval lies below {name}' if self.threshold else f' of {limit}'}."
        if self.verdict == INCONCLUSIVE:
            why = lambda q, p: f"q {q:.2g} after correction" if known else f"p {p:.2g} for skewed values"
            if inside and within:
                after = why(self.q_equivalent, self.p_equivalent)
                return f" Inconclusive: the interval lies within the margin of {limit}, {after}."
            beyond = f" and exceeds the margin of {limit}" if math.isfinite(self.margin) and not self.threshold else ""
            return f" Inconclusive: {f'the interval contains {name}{beyond}' if inside else why(self.q, self.p)}."
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
    return _judged(blank, per_seed(table, column or key), intervals.mean_interval)


@takes(key=text, what=LABEL, table=TABLE, column=text, margin=LEVEL)
def share(key: str, what: str, table: pd.DataFrame, column: str | None = None, *, margin: float | None = None) -> Effect:
    """The share of clips for which a column of truth values holds, with the interval of `stats.clustered_proportion`.

    >>> share("frozen", "{} of clips are frozen", pd.DataFrame({"stimulus": range(8), "frozen": True}), margin=0.1).low
    0.6305...

    The margin is a threshold: "effect" where the interval begins above it. How many images it takes until a share of 0 lies
    below one, `stats.images_needed` tells.
    """
    blank = replace(_blank(key, what, table, column, "share", margin), null=NAN, threshold=margin is not None)
    interval = lambda x: intervals.clustered_proportion(x, len(x) * max(1, blank.seeds))
    return _judged(blank, per_seed(table, column or key), interval, least=1)


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
    """The mean over images of (column where by == a) - (where by == b), (a, b) = levels, within each image and seed.

    >>> table = pd.DataFrame({"stimulus": [0, 0, 1, 1], "bucket": [1, 255, 1, 255], "flow_px": [1.0, 4.0, 2.0, 6.0]})
    >>> difference("bucket", "flow, bucket 255 minus 1", table, "flow_px", by="bucket", unit="px/frame").value
    3.5

    By default these are the highest and the lowest value of `by`. Where an image has no seed on both sides, its means are
    compared. Of shares (unit="share") the interval is that of `stats.paired_shares`: where every image agrees, that is not
    certainty. With a margin, a side may have one row per image and seed only: in an average over conditions, opposite effects
    cancel, and it would look equivalent. See `cells`.
    """
    keyed(table, "stimulus", column or key, by)
    present = table[by].dropna().unique().tolist()
    try:
        levels = (max(present), min(present)) if levels is None else levels
    except (TypeError, ValueError) as error:  # texts among numbers; none
        raise InputError(f"{what}: the values of {by} have no order: give levels=, two of them.") from error
    chosen = several("levels", levels, kind(str, Real))
    if len(chosen) != 2 or chosen[0] == chosen[1] or not all(v in present for v in chosen):
        raise InputError(f"{what}: a difference needs rows of two values of {by}, and got {shown(levels)}.")
    both = table[table[by].isin(chosen)]
    keys = ["stimulus", by, *{"seed"} & {*table}]  # without seeds, rows may be of several conditions
    if margin is not None and (rows := both.groupby(keys, dropna=False).size().max()) > 1:
        raise InputError(
            f"{what}: {rows} rows of one image and seed would be averaged, in which opposite effects cancel: leave margin "
            f"out, or compare each condition by `svdlab.stats.cells`."
        )
    one, two = (per_seed(table[table[by] == v], column or key) for v in chosen)
    blank = _blank(key, what, both, column, unit, margin)
    interval = intervals.paired_shares if unit == "share" else intervals.mean_interval
    return _judged(blank, minus(one, two), interval)


@takes(key=text, what=LABEL, table=TABLE, column=text, reference=kind(Mapping), unit=LABEL, margin=POSITIVE)
def cells(
    key: str,
    what: str,
    table: pd.DataFrame,
    column: str | None = None,
    *,
    reference: Mapping[str, Any],
    unit: str = "",
    margin: float | None = None,
) -> list[Effect]:
    """Every cell of a plan minus the reference cell, within each image and seed: a `difference` each, for `corrected`.

    >>> levels = {"bucket": [40, 127, 200], "blur": [0.1, 0.2, 0.3]}
    >>> table = pd.concat([pd.DataFrame({"stimulus": i, "seed": 0, **levels}) for i in range(6)])
    >>> [(e.key, round(e.value, 3)) for e in cells("blur", "blur", table, reference={"bucket": 127})]
    [('blur, bucket 40', -0.1), ('blur, bucket 200', 0.1)]

    reference: column -> value, for all columns that make up a cell. An average over cells hides effects of opposite sign.
    """
    by = several("reference", list(reference), text, distinct=True)
    keyed(table, *by)
    own = np.logical_and.reduce([table[c] == reference[c] for c in by])
    if not own.any() or own.all():
        raise InputError(f"{what}: a comparison needs rows at reference={shown(dict(reference))}, and others.")
    named = lambda place: ", ".join(
        f"{c} {v:g}" if isinstance(v, Real) else f"{c} {v}" for c, v in zip(by, place, strict=True)
    )
    centre, side = named(reference.values()), "_of_the_reference"
    how: dict[str, Any] = dict(by=side, levels=(0, 1), unit=unit, margin=margin)
    return [
        difference(
            f"{key}, {named(place)}",
            f"{what}, {named(place)} minus {centre}",
            pd.concat([rows.assign(**{side: 0}), table[own].assign(**{side: 1})]),
            column or key,
            **how,
        )
        for place, rows in table[~own].groupby(list(by), sort=True)
    ]


@takes(key=text, what=LABEL, table=TABLE, column=text, unit=LABEL, margin=POSITIVE)
def ratio(key: str, what: str, table: pd.DataFrame, column: str | None = None, *, unit: str, margin: float) -> Effect:
    """The geometric mean over images of a ratio that is never negative (0 counts as 1e-6); the margin is a threshold.

    >>> ratio("edit", "change by the edit", pd.DataFrame({"stimulus": range(6), "edit": 0.01}), unit="", margin=0.1).verdict
    'equivalent within the margin'
    """
    blank = replace(_blank(key, what, table, column, unit), margin=math.log(margin), threshold=True)
    values = per_seed(table, column or key)
    if (values < 0).any(axis=None):
        raise InputError(f"the column {column or key!r} holds {float(np.nanmin(values)):g}: a ratio is never negative.")
    means = values.mean(axis=1).clip(lower=1e-6)
    near = values.sub(means, axis=0).div(means, axis=0)  # a seed's deviation, as a logarithm to first order
    logs = _judged(blank, near.sub(near.mean(axis=1), axis=0).add(np.log(means), axis=0), intervals.mean_interval)
    own: dict[str, Any] = {name: math.exp(getattr(logs, name)) for name in ("value", "low", "high")}
    return replace(logs, margin=margin, sd=float(means.std()), **own)


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
    """The mean of paired differences: p, t interval, and equivalence where a margin is set.

    >>> paired("speed", "speed, a minus b", [2, 2, 1, 2, 2, 1], unit="px/frame").p
    0.03125

    differences: a list with one per pair; or, where pairs share their seeds, a DataFrame with a row per pair and a column per
    seed, whose part in the error is then counted. NaN is left out. p: the larger of the permutation test's, which is exact for
    symmetrical differences, and Hall's t test's, which holds for skewed ones (`stats.crossed`). Where differences of shares
    (unit="share") are all alike, interval and p_equivalent are those of `intervals.agreed`. Pass the effects of one study to
    `corrected` together.
    """
    if isinstance(differences, pd.DataFrame):
        values: Any = differences.apply(numbers).dropna(how="all")
    else:
        values = finite(differences, least=0, gaps=True)
        values = values[np.isfinite(values)]
    x = sample(values, least=0)
    n, limit = len(x.means), NAN if margin is None else margin
    blank = Effect(key, what, NAN, NAN, NAN, unit, n, seeds, limit, alpha=alpha, of=of, method="permutation")
    if n < 2:
        return replace(blank, value=x.value if n else NAN, verdict=TOO_FEW)
    agreed = unit == "share" and not (x.sd or x.seeds)
    found = intervals.agreed(x.value, n, alpha) if agreed else intervals.mean_interval(values, confidence=1 - alpha)
    same = intervals.p_equivalent(found, values, -margin, margin) if margin else NAN
    p = max(intervals.permutation_p(x.means), x.p(0.0))
    blank = replace(blank, value=found.value, low=found.low, high=found.high, sd=x.sd, verdict=INCONCLUSIVE)
    return decided(replace(blank, p=p, p_equivalent=same))


@takes(key=text, what=LABEL, value=number, unit=LABEL, table=TABLE)
def exact(key: str, what: str, value: float, unit: str, table: pd.DataFrame) -> Effect:
    """A number that holds without any spread, such as a count or a length in seconds."""
    return replace(_blank(key, what, table, "seed", unit), value=value, n=table["stimulus"].nunique(), null=NAN)


@takes(effect=kind(Effect))
def descriptive(effect: Effect) -> Effect:
    """An effect that was picked among several for its size: its interval promises too much, so it carries no claim."""
    verdict = TOO_FEW if effect.verdict == TOO_FEW else DESCRIPTIVE
    return replace(effect, verdict=verdict, margin=NAN, p=NAN, q=NAN, p_equivalent=NAN, threshold=False)


@takes(effect=kind(Effect), low=number, high=number)
def bounded(effect: Effect, low: float, high: float) -> Effect:
    """An effect whose interval stays within the values that are possible, where a t interval of few images does not."""
    ends = np.clip([effect.low, effect.high], low, high)
    return replace(effect, low=float(ends[0]), high=float(ends[1]))


@takes(effects=partial(several, check=kind(Effect), least=0), least_tests=COUNT)
def corrected(effects: Iterable[Effect], *, least_tests: int | None = None) -> list[Effect]:
    """The effects of one report with q filled in: Benjamini and Hochberg over all tests, and over all equivalence tests.

    >>> [e.q for e in corrected([paired("a", "a", [1, 2, 1, 2, 1, 2], unit=""), paired("b", "b", [1, -1] * 3, unit="")])]
    [0.0625, 1.0]

    An effect, or an equivalence, whose q is not below alpha becomes inconclusive. Pairs are too few where no p of so many
    could be below alpha over `least_tests`, by default the number of all tests.
    """
    listed = list(effects)
    q, same = intervals.fdr([e.p for e in listed]), intervals.fdr([e.p_equivalent for e in listed])
    tests = least_tests or max(1, sum(math.isfinite(e.p) for e in listed))
    return [decided(replace(e, q=float(q[i]), q_equivalent=float(same[i])), tests) for i, e in enumerate(listed)]


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
    return per_seed(table, column).mean(axis=1)


@takes(table=TABLE, column=text)
def per_seed(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """The column's mean for each stimulus and seed, a row per stimulus; a table without seeds has one for all.

    >>> per_seed(pd.DataFrame({"stimulus": ["a", "a", "b"], "seed": [0, 1, 0], "x": [1, 3, 5]}), "x").loc["a"].tolist()
    [1.0, 3.0]
    """
    keyed(table, "stimulus", column, least=0)
    if table["stimulus"].isna().any():
        raise InputError("the table has rows without a stimulus: name the image of each.")
    values = numbers(table[column])
    seeds = table["seed"].astype(object).where(table["seed"].notna(), "") if "seed" in table else pd.Series(0, table.index)
    by_seed = values.where(np.isfinite(values)).groupby([table["stimulus"], seeds], sort=False).mean().unstack()
    return by_seed.dropna(how="all").sort_index()


def minus(one: pd.DataFrame, two: pd.DataFrame) -> pd.DataFrame:
    """The difference of two tables "image seed" in the seeds that an image has on both sides; where an image has none, the
    difference of all images' means, as one column."""
    both, apart = one.index.intersection(two.index), one.mean(axis=1) - two.mean(axis=1)
    cells = (one - two).reindex(both)
    whole = len(both) and np.isfinite(cells).any(axis=1).all()
    return cells if whole else apart.dropna().to_frame()


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


def _judged(blank: Effect, values: pd.DataFrame, interval: Callable[[Any], Estimate], *, least: int = 2) -> Effect:
    """The mean of a table "image seed", its p of the interval's own test, and the verdict."""
    x = sample(values, least=0)
    e = replace(blank, n=len(x.means), verdict=TOO_FEW)
    if not e.n:
        return e
    e = replace(e, value=x.value, sd=x.sd if e.n > 1 else NAN)
    if e.n < least:
        return e
    found = interval(values)
    e = replace(e, value=found.value, low=found.low, high=found.high, method=found.method)
    against = e.margin if e.threshold else e.null
    if e.n < LEAST_IMAGES or math.isnan(against):
        return e if e.n < LEAST_IMAGES else replace(e, verdict=DESCRIPTIVE)
    same = NAN
    if not e.threshold and math.isfinite(e.margin):
        same = intervals.p_equivalent(found, values, e.null - e.margin, e.null + e.margin)
    return decided(replace(e, p=intervals.p_of(found, values, against), p_equivalent=same, verdict=INCONCLUSIVE))


def decided(e: Effect, tests: int = 1) -> Effect:
    """The verdict of tests and interval, of so many tests: of q where it is known, else of p."""
    q, same = (v if math.isfinite(v) else w for v, w in ((e.q, e.p), (e.q_equivalent, e.p_equivalent)))
    found, equal = q < e.alpha, same < e.alpha
    if e.verdict == DESCRIPTIVE or (e.method != "permutation" and (e.verdict == TOO_FEW or math.isnan(q))):
        return e
    if e.method == "permutation":
        few = e.n < 2 or 2.0 ** (1 - e.n) > e.alpha / tests  # the smallest p that so many pairs can give
        return replace(e, verdict=TOO_FEW if few else EQUIVALENT if equal else EFFECT if found else INCONCLUSIVE)
    if e.threshold:
        found, equal = found and e.low > e.margin, found and e.high < e.margin
    else:
        equal = equal and e.null - e.margin < e.low and e.high < e.null + e.margin
        found = found and not e.low <= e.null <= e.high
    return replace(e, verdict=EQUIVALENT if equal else EFFECT if found else INCONCLUSIVE)
