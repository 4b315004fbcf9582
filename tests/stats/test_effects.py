"""Effects against closed forms of scipy and statsmodels, and what their verdicts and sentences promise."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats as sps
from statsmodels.stats.proportion import proportion_confint

from svdlab.errors import InputError
from svdlab.stats import effects as ef


def clips(per_image: Any, seeds: int = 1, **more: Any) -> pd.DataFrame:
    """A row per image and seed; every seed of an image has its value."""
    rows = [{"stimulus": i, "seed": s, "x": v, **more} for i, v in enumerate(per_image) for s in range(seeds)]
    return pd.DataFrame(rows)


def test_a_mean_is_a_t_test_of_the_images() -> None:
    x = np.array([0.3, 1.2, -0.4, 0.9, 1.1, 0.2, 0.8])
    found = ef.mean("x", "x", clips(x), unit="px", null=0.1)
    test = sps.ttest_1samp(x, 0.1)
    limits = test.confidence_interval(0.95)
    assert (found.value, found.low, found.high, found.p) == pytest.approx((x.mean(), limits.low, limits.high, test.pvalue))
    assert (found.n, found.seeds, found.d) == (7, 1, pytest.approx(x.mean() / x.std(ddof=1)))


def test_seeds_are_averaged_within_an_image() -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"stimulus": np.repeat(range(8), 3), "seed": [0, 1, 2] * 8, "x": rng.normal(size=24)})
    found = ef.mean("x", "x", table, unit="px")
    means = table.groupby("stimulus").x.mean()
    assert found.high - found.low == pytest.approx(2 * sps.t.isf(0.025, 7) * means.sem())
    assert (found.n, found.seeds) == (8, 3)
    assert ef.mean("x", "x", clips(means, seeds=5), unit="px").high == pytest.approx(found.high)  # repeats are no new images


def test_what_an_instrument_abstained_from_is_left_out() -> None:
    x = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, None, math.inf]
    assert (ef.mean("x", "x", clips(x), unit="").n, ef.mean("x", "x", clips(x), unit="").value) == (6, 3.5)


def test_from_twenty_images_on_the_interval_is_bca() -> None:
    x = np.random.default_rng(1).lognormal(size=25)
    found = ef.mean("x", "x", clips(x), unit="")
    want = sps.bootstrap((x,), np.mean, n_resamples=9999, rng=np.random.default_rng(0)).confidence_interval
    assert (found.method, found.low, found.high) == ("BCa", pytest.approx(want.low), pytest.approx(want.high))


@pytest.mark.parametrize(
    ("x", "margin", "verdict"),
    [
        (np.array([0.9, 1.0, 1.1, 1.0, 0.95, 1.05]), None, ef.EFFECT),
        (np.array([0.9, 1.0, 1.1, 1.0, 0.95, 1.05]), 2.0, ef.EQUIVALENT),
        (np.array([-1, 1, -1, 1, -1, 1.0]), 0.5, ef.INCONCLUSIVE),
        (np.array([-1, 1, -1, 1, -1, 1.0]), None, ef.INCONCLUSIVE),
        (np.array([5, 5.1, 5.2, 5.0, 5.1]), None, ef.TOO_FEW),
        (np.array([3.0]), 1.0, ef.TOO_FEW),
        (np.array([]), 1.0, ef.TOO_FEW),
    ],
)
def test_verdicts_about_zero(x: np.ndarray, margin: float | None, verdict: str) -> None:
    assert ef.mean("x", "x", clips(x).reindex(columns=["stimulus", "seed", "x"]), unit="", margin=margin).verdict == verdict


def test_equivalence_is_two_one_sided_tests_at_a_quarter_of_a_tenth() -> None:
    """The 95 % interval lies inside the margin where both one-sided tests reject at 0.025."""
    rng = np.random.default_rng(2)
    seen = set()
    for _ in range(200):
        x = rng.normal(0.1, 0.4, 12)
        tost = max(sps.ttest_1samp(x, -0.4, alternative="greater").pvalue, sps.ttest_1samp(x, 0.4, alternative="less").pvalue)
        said = ef.mean("x", "x", clips(x), unit="", margin=0.4).verdict == ef.EQUIVALENT
        assert said == (tost < 0.025)
        seen.add(said)
    assert seen == {True, False}


def test_a_size_must_exceed_its_margin() -> None:
    x = np.array([0.2, 0.25, 0.3, 0.2, 0.25, 0.3])
    verdicts = [ef.mean("x", "x", clips(x), unit="", margin=m, never_negative=True).verdict for m in (0.1, 0.25, 0.4)]
    assert verdicts == [ef.EFFECT, ef.INCONCLUSIVE, ef.EQUIVALENT]


@pytest.mark.parametrize("count", [0, 3, 12])
def test_a_share_is_wilsons(count: int) -> None:
    found = ef.share("x", "x", clips([True] * count + [False] * (12 - count)), margin=0.5)
    low, high = proportion_confint(count, 12, method="wilson")
    assert (found.value, found.low, found.high) == pytest.approx((count / 12, low, high))
    assert found.verdict == {0: ef.EQUIVALENT, 3: ef.INCONCLUSIVE, 12: ef.EFFECT}[count]
    assert (found.p < 0.05) == (found.verdict != ef.INCONCLUSIVE)  # the score test that the interval inverts


def test_a_share_counts_images_whose_seeds_agree_once_and_independent_seeds_each() -> None:
    agree = ef.share("x", "x", clips([0, 1] * 10, seeds=4))
    assert (agree.low, agree.high) == pytest.approx(proportion_confint(10, 20, method="wilson"))
    apart = pd.DataFrame({"stimulus": np.repeat(range(20), 4), "seed": [0, 1, 2, 3] * 20, "x": [0, 1, 0, 1] * 20})
    every = ef.share("x", "x", apart)
    assert (every.low, every.high) == pytest.approx(proportion_confint(40, 80, method="wilson"))


def test_a_difference_is_within_images_and_by_default_highest_minus_lowest() -> None:
    table = pd.concat([clips(range(8)).assign(b=1), clips(np.arange(8) * 1.5 + 1).assign(b=255), clips([9] * 8).assign(b=127)])
    found = ef.difference("d", "d", table, "x", by="b", unit="px")
    assert found.value == pytest.approx((np.arange(8) * 0.5 + 1).mean())
    assert found.value == -ef.difference("d", "d", table, "x", by="b", a=1, b=255, unit="px").value
    alone = ef.difference("d", "d", table[(table.b == 255) | (table.stimulus < 6)], "x", by="b", unit="px")
    assert alone.n == 6


def test_a_difference_of_shares_that_all_agree_is_no_certainty() -> None:
    table = pd.concat([clips([1] * 12).assign(b=b) for b in (0, 1)])
    found = ef.difference("d", "d", table, "x", by="b", unit="share")
    reach = sps.norm.isf(0.025) * math.sqrt(2 / 14) / math.sqrt(14)  # Bonett and Price: one pair added on either side
    assert (found.value, found.low, found.high) == pytest.approx((0, -reach, reach))


def test_a_ratio_is_geometric() -> None:
    x = np.array([0.5, 2.0, 1.0, 4.0, 0.25, 1.0])
    found = ef.ratio("x", "x", clips(x), unit="", margin=0.1)
    limits = sps.ttest_1samp(np.log(x), 0).confidence_interval(0.95)
    assert (found.value, found.low, found.high) == pytest.approx((1.0, math.exp(limits.low), math.exp(limits.high)))
    assert found.verdict == ef.EFFECT
    assert ef.ratio("x", "x", clips([0.0] * 6), unit="", margin=0.1).value == pytest.approx(1e-6)


# --- pairs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 6, 13])
def test_pairs_are_tested_by_exact_permutation(n: int) -> None:
    x = np.random.default_rng(n).normal(0.5, 1, n)
    want = sps.permutation_test((x,), lambda v, axis: v.mean(axis), permutation_type="samples", vectorized=True)
    found = ef.paired("x", "x", x, unit="")
    limits = sps.ttest_1samp(x, 0).confidence_interval(0.95)
    assert (found.p, found.low, found.high) == pytest.approx((want.pvalue, limits.low, limits.high))


def test_pairs_are_equivalent_by_tost() -> None:
    x = np.random.default_rng(0).normal(0, 0.1, 12)
    tost = max(sps.ttest_1samp(x, -0.1, alternative="greater").pvalue, sps.ttest_1samp(x, 0.1, alternative="less").pvalue)
    found = ef.paired("x", "x", x, unit="", margin=0.1)
    assert (found.p_equivalent, found.verdict) == (pytest.approx(tost), ef.EQUIVALENT)


@pytest.mark.parametrize(
    ("x", "shares", "p"),
    [([0.0] * 12, True, 0.9**12), ([0.0] * 12, False, 0.0), ([0.05] * 12, False, 0.0), ([0.2] * 12, False, 1.0)],
)
def test_pairs_without_spread(x: list[float], shares: bool, p: float) -> None:
    assert ef.paired("x", "x", x, unit="", margin=0.1, shares=shares).p_equivalent == pytest.approx(p)


@pytest.mark.parametrize(("n", "verdict"), [(5, ef.TOO_FEW), (6, ef.EFFECT)])
def test_five_pairs_can_show_nothing(n: int, verdict: str) -> None:
    assert ef.paired("x", "x", np.arange(1.0, n + 1), unit="").verdict == verdict


def test_a_permutation_interval_holds_the_shifts_that_the_test_keeps() -> None:
    x = np.random.default_rng(3).normal(1, 1, 8)
    found = ef.paired("x", "x", x, unit="", interval="permutation")
    for shift, kept in (
        (found.low + 1e-6, True),
        (found.low - 1e-3, False),
        (found.high - 1e-6, True),
        (found.high + 1e-3, False),
    ):
        assert (ef.paired("x", "x", x - shift, unit="").p > 0.05) is kept


# --- a family ---------------------------------------------------------------------------------------------------------


def test_all_effects_of_a_report_are_one_family() -> None:
    rng = np.random.default_rng(4)
    made = [ef.mean(str(i), "x", clips(rng.normal(0.4, 1, 12)), "x", unit="") for i in range(20)]
    made.append(ef.mean("size", "x", clips(rng.normal(3, 1, 12)), "x", unit="", null=None))
    found = ef.corrected(made)
    p = np.array([e.p for e in made[:-1]])
    assert [e.q for e in found[:-1]] == pytest.approx(sps.false_discovery_control(p))
    assert all((e.verdict == ef.EFFECT) <= (e.q < 0.05) for e in found)
    assert any(a.verdict == ef.EFFECT != b.verdict for a, b in zip(made, found, strict=True))  # some were chance
    assert math.isnan(found[-1].q)
    assert found[-1].verdict == ef.DESCRIPTIVE


def test_more_tests_need_more_pairs() -> None:
    x = np.arange(1.0, 7)
    assert ef.corrected([ef.paired("x", "x", x, unit="")])[0].verdict == ef.EFFECT
    assert {e.verdict for e in ef.corrected([ef.paired("x", "x", x, unit="")] * 2)} == {ef.TOO_FEW}


def test_what_was_picked_for_its_size_carries_no_claim() -> None:
    picked = ef.descriptive(ef.mean("x", "x", clips(np.arange(1.0, 9)), unit="", margin=9.0))
    assert (picked.verdict, math.isnan(picked.margin), math.isnan(ef.corrected([picked])[0].q)) == (ef.DESCRIPTIVE, True, True)


# --- words ------------------------------------------------------------------------------------------------------------


def test_sentences() -> None:
    said = {
        ef.share("s", "{} of clips are still", clips([1, 0, 0, 0, 0, 0, 0, 0]), "x", margin=0.15).sentence:
        "12 % of clips are still (95 % CI 2 to 47 %; 8 images, 1 seed). "
        "Inconclusive: the interval contains the 15 % threshold.",
        ef.mean("m", "mean flow", clips([1.0, 2.0] * 4, seeds=2), "x", unit="px/frame").sentence:
        "Mean flow: 1.5 px/frame (95 % CI 1.05 to 1.95 px/frame; 8 images, 2 seeds). Effect: the interval excludes 0.",
        ef.mean("m", "mean flow", clips([1.0, -1.0] * 4), "x", unit="px", margin=0.5).sentence:
        "Mean flow: 0 px (95 % CI -0.894 to 0.894 px; 8 images, 1 seed). Inconclusive: the interval contains 0 and exceeds "
        "the margin of 0.5 px.",
        ef.paired("p", "speed, warm minus cool", [1, 2, 3], unit="px/frame").sentence:
        "Speed, warm minus cool: 2 px/frame (95 % CI -0.484 to 4.48 px/frame; 3 pairs, 1 seed). Too few pairs for a verdict.",
        ef.exact("l", "length of a clip", 2.0, "s", clips([1])).sentence: "Length of a clip: 2 s (1 image, 1 seed).",
    }  # fmt: skip
    for found, want in said.items():
        assert found == want
    assert ef.share("s", "{} of clips are still", clips([1] * 6), "x").label == "clips are still"


def test_the_table_has_a_row_per_effect() -> None:
    table = ef.as_table(ef.corrected([ef.mean("a", "a", clips([1.0, 2.0] * 4), "x", unit="px")]))
    assert table.loc[0, ["key", "n", "verdict"]].tolist() == ["a", 8, ef.EFFECT]
    assert table.sentence[0].endswith(f"(q {table.q[0]:.2g}).")
    assert list(ef.as_table([]).columns) == list(table.columns)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda t: ef.mean("y", "y", t, unit=""), "no column 'y'"),
        (lambda t: ef.share("y", "y", t), "no column 'y'"),
        (lambda t: ef.difference("x", "x", t.assign(b=1), by="b"), "needs two"),
        (lambda t: ef.difference("x", "x", t.assign(b=1), by="b", a=1, b=2), "no rows with b = 2"),
        (lambda t: ef.paired("x", "x", t.x, unit="", interval="z"), "permutation"),
    ],
)
def test_bad_input_is_named(wrong: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        wrong(clips([1.0, 2.0, 3.0]))
