"""Effects against closed forms of scipy and statsmodels, and what their verdicts and sentences promise."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats as sps
from statsmodels.stats.proportion import proportion_confint

from svdlab.errors import InputError
from svdlab.stats import effects as ef

NEAR_ONE = [0.9, 1.0, 1.1, 1.0, 0.95, 1.05]
MIXED = [-1.0, 1, -1, 1, -1, 1]


def clips(per_image: Any, seeds: int = 1, **more: Any) -> pd.DataFrame:
    """A row per image and seed; every seed of an image has its value."""
    rows = [{"stimulus": i, "seed": s, "x": v, **more} for i, v in enumerate(per_image) for s in range(seeds)]
    return pd.DataFrame(rows, columns=["stimulus", "seed", "x", *more])


def mean(x: Any, **how: Any) -> ef.Effect:
    return ef.mean("x", "x", clips(x), unit="", **how)


def tost(x: np.ndarray, margin: float, df: int = 0) -> float:
    t = min(abs(x.mean() - side) for side in (-margin, margin)) / sps.sem(x)
    return float(sps.t.sf(t, df or len(x) - 1)) if abs(x.mean()) < margin else 1.0


def test_a_mean_is_a_t_test_of_the_images() -> None:
    x = np.array([0.3, 1.2, -0.4, 0.9, 1.1, 0.2, 0.8])
    found, test = mean(x, null=0.1), sps.ttest_1samp(x, 0.1)
    limits = test.confidence_interval(0.95)
    assert (found.value, found.low, found.high) == pytest.approx((x.mean(), limits.low, limits.high))
    assert test.pvalue <= found.p < 2 * test.pvalue  # it allows for skewness
    even = np.array([-1.0, -0.5, 0.3, 0.5, 0.7, 1.5, 2.0])  # symmetrical about 0.5
    assert mean(even).p == pytest.approx(sps.ttest_1samp(even, 0).pvalue)
    assert (found.n, found.seeds, found.d) == (7, 1, pytest.approx(x.mean() / x.std(ddof=1)))


def test_seeds_are_averaged_within_an_image_and_what_abstained_is_left_out() -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"stimulus": np.repeat(range(8), 3), "seed": [0, 1, 2] * 8, "x": rng.normal(size=24)})
    found, means = ef.mean("x", "x", table, unit="px"), table.groupby("stimulus").x.mean()
    t = lambda alpha: sps.t.isf(alpha / 2, 7) * means.sem()
    assert found.high - found.value == pytest.approx(t(0.05 * (1 + 2 / 3)))  # three shared seeds: see `Sample.ease`
    assert (found.n, found.seeds) == (8, 3)
    repeated = ef.mean("x", "x", clips(means, seeds=5), unit="px")  # clips of an image are alike: no new images, nothing eased
    assert repeated.high - repeated.value == pytest.approx(t(0.05))
    assert (mean([1.0, 2, 3, 4, 5, 6, None, math.inf]).n, mean([1.0, 2, 3, 4, 5, 6, None, math.inf]).value) == (6, 3.5)


@pytest.mark.parametrize(
    ("x", "how", "verdict"),
    [
        (NEAR_ONE, {}, ef.EFFECT),
        (NEAR_ONE, dict(margin=2.0), ef.EQUIVALENT),
        (MIXED, dict(margin=0.5), ef.INCONCLUSIVE),
        (MIXED, {}, ef.INCONCLUSIVE),
        (NEAR_ONE[:5], {}, ef.TOO_FEW),
        ([3.0], dict(margin=1.0), ef.TOO_FEW),
        ([], dict(margin=1.0), ef.TOO_FEW),
        (NEAR_ONE, dict(null=None), ef.DESCRIPTIVE),
    ],
)
def test_verdicts(x: Any, how: dict[str, Any], verdict: str) -> None:
    assert mean(x, **how).verdict == verdict


def test_a_mean_is_equivalent_where_both_one_sided_tests_reject_at_a_fortieth() -> None:
    rng = np.random.default_rng(2)
    samples = [rng.normal(0.1, 0.4, 12) for _ in range(200)]
    found = [mean(x, margin=0.4).verdict == ef.EQUIVALENT for x in samples]
    both = [tost(x, 0.4) < 0.025 for x in samples]
    assert (
        not any(f and not b for f, b in zip(found, both, strict=True)) and sum(found) > 0.6 * sum(both) > 20
    )  # what skewness costs


def test_a_limit_of_half_a_percent_is_not_rounded_away() -> None:
    found = ef.share("x", "{} of clips", clips([1] + [0] * 39), margin=0.025)
    assert found.sentence.endswith("Inconclusive: the interval contains the 2.5 % threshold.")


@pytest.mark.parametrize(("count", "verdict"), [(0, ef.EQUIVALENT), (3, ef.INCONCLUSIVE), (12, ef.EFFECT)])
def test_a_share_is_wilsons_and_exact_where_all_agree(count: int, verdict: str) -> None:
    found = ef.share("x", "x", clips([True] * count + [False] * (12 - count)), margin=0.5)
    low, high = proportion_confint(count, 12, method="beta" if count in (0, 12) else "wilson")
    assert (found.value, found.low, found.high) == pytest.approx((count / 12, low, high))
    assert found.verdict == verdict
    assert (found.p < 0.05) == (verdict != ef.INCONCLUSIVE)  # the score test that the interval inverts


def test_a_difference_is_within_images_and_by_default_highest_minus_lowest() -> None:
    table = pd.concat([clips(range(8)).assign(b=1), clips(np.arange(8) * 1.5 + 1).assign(b=255), clips([9] * 8).assign(b=127)])
    found = ef.difference("d", "d", table, "x", by="b", unit="px")
    assert found.value == pytest.approx((np.arange(8) * 0.5 + 1).mean())
    assert found.value == -ef.difference("d", "d", table, "x", by="b", levels=(1, 255), unit="px").value
    assert ef.difference("d", "d", table[(table.b == 255) | (table.stimulus < 6)], "x", by="b").n == 6


def test_effects_of_opposite_sign_do_not_cancel() -> None:
    """Case F12: -0.088 at bucket 40, +0.073 at 200. An average over both is refused where it could be called equivalent."""
    rng, levels = np.random.default_rng(0), {40: -0.088, 127: 0.0, 200: 0.073}
    cells = [clips(0.3 + shift + rng.normal(0, 0.02, 12)).assign(bucket=b, fps=7) for b, shift in levels.items()]
    table = pd.concat(cells)
    how: dict[str, Any] = dict(reference={"fps": 7, "bucket": 127}, margin=0.03)
    found = ef.corrected(ef.cells("blur", "blur", table, "x", **how))
    assert [e.key for e in found] == ["blur, fps 7, bucket 40", "blur, fps 7, bucket 200"]
    assert [e.verdict for e in found] == [ef.EFFECT] * 2 and found[0].value < 0 < found[1].value
    table["centre"] = table.bucket == 127
    for same in (table, table.drop(columns="seed"), table.assign(seed=np.nan)):
        with pytest.raises(InputError, match="opposite effects cancel"):
            ef.difference("blur", "blur", same, "x", by="centre", margin=0.03)
    assert abs(ef.difference("blur", "blur", table, "x", by="centre").value) < 0.02


def test_shared_seeds_are_a_factor_of_their_own_and_own_seeds_are_not() -> None:
    """Three seeds move all images together: the mean is known no better than three values allow."""
    rng = np.random.default_rng(0)
    grid = rng.normal(0, 0.1, (16, 1)) + np.array([[-1.0, 0.0, 1.0]]) + rng.normal(0, 0.1, (16, 3))
    shared = pd.DataFrame(grid).rename_axis("stimulus").melt(ignore_index=False, var_name="seed", value_name="x").reset_index()
    own = shared.assign(seed=shared.seed + 10 * shared.stimulus)
    crossed, nested = (ef.mean("x", "x", table, unit="px") for table in (shared, own))
    reach = sps.t.isf(0.025, 2) / math.sqrt(3)  # of three seeds whose standard deviation is 1
    assert crossed.method == "t, seeds crossed" and crossed.high - crossed.value == pytest.approx(reach, rel=0.05)
    assert nested.method == "t" and nested.high - nested.value < 0.15 and nested.value == pytest.approx(crossed.value)
    for one, two in ((own, own.assign(x=own.x + 1)), (shared, shared.assign(x=shared.x + 1))):
        both = pd.concat([one.assign(b=0), two.assign(b=1)])  # on the same noise a seed's effect cancels
        assert ef.difference("x", "x", both, by="b", unit="px").low == pytest.approx(1)


def test_where_the_seed_alone_decides_many_images_are_no_evidence() -> None:
    """All images agree, and their two seeds do not: the mean of two values, not of twelve without spread."""
    table = pd.concat([clips([v] * 12).assign(seed=s) for s, v in enumerate((1.0, -0.9))])
    found, pairs = ef.mean("x", "x", table, unit=""), table.pivot(index="stimulus", columns="seed", values="x")
    limits = sps.t.interval(0.95, 1, 0.05, 0.95)
    assert (found.low, found.high) == pytest.approx(limits, rel=0.01)
    assert found.p == pytest.approx(ef.paired("x", "x", pairs, unit="").p) == pytest.approx(0.967, abs=0.001)
    assert ef.paired("x", "x", pairs, unit="").verdict == ef.INCONCLUSIVE
    half = ef.share("x", "x", table.assign(x=table.x > 0), margin=0.1)
    assert half.low < 0.05 and half.high > 0.95 and half.verdict == ef.INCONCLUSIVE


def test_equivalence_is_corrected_like_an_effect() -> None:
    """Of sixty means near the margin, some look equivalent; corrected together none does. Thresholds as well."""
    rng = np.random.default_rng(3)
    made = [mean(0.3 + rng.normal(0, 0.4, 12), margin=0.4) for _ in range(60)]
    made += [ef.share("x", "x", clips([0] * 23 + [1] * k), margin=0.15) for k in (0, 1, 2, 3) * 4]
    found = ef.corrected(made)
    assert any(e.verdict == ef.EQUIVALENT for e in made[:60]) and any(e.verdict == ef.EQUIVALENT for e in made[60:])
    assert not any(e.verdict == ef.EQUIVALENT for e in found)
    assert all(e.q_equivalent >= e.p_equivalent for e in found[:60])
    lost = next(a for a, b in zip(found, made, strict=True) if b.verdict == ef.EQUIVALENT)
    assert "lies within the margin of 0.4, q 0." in lost.sentence


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
    assert (found.verdict, found.d) == (ef.EFFECT, pytest.approx(1 / x.std(ddof=1)))
    assert ef.ratio("x", "x", clips([0.0] * 6), unit="", margin=0.1).value == pytest.approx(1e-6)


@pytest.mark.parametrize("n", [2, 6, 13])
def test_symmetrical_pairs_have_a_permutation_p_a_t_interval_and_tost(n: int) -> None:
    half = np.random.default_rng(n).normal(0.0, 1, n // 2)
    x = 0.5 + np.concatenate([half, -half, [0.0] * (n % 2)])
    want = sps.permutation_test((x,), lambda v, axis: v.mean(axis), permutation_type="samples", vectorized=True)
    found, limits = ef.paired("x", "x", x, unit="", margin=0.8), sps.ttest_1samp(x, 0).confidence_interval(0.95)
    p = max(want.pvalue, sps.ttest_1samp(x, 0).pvalue)
    expected = (p, limits.low, limits.high, min(1.0, 2 * tost(x, 0.8, df=n - 1 - 2 * (n >= 8))))
    assert (found.p, found.low, found.high, found.p_equivalent) == pytest.approx(expected)


@pytest.mark.parametrize(("x", "unit", "p"), [(0.0, "share", 0.9**12), (0.0, "", 0), (0.05, "", 0), (0.2, "", 1)])
def test_pairs_without_spread(x: float, unit: str, p: float) -> None:
    assert ef.paired("x", "x", [x] * 12, unit=unit, margin=0.1).p_equivalent == pytest.approx(p)


@pytest.mark.parametrize(("n", "tests", "verdict"), [(5, 1, ef.TOO_FEW), (6, 1, ef.EFFECT), (6, 2, ef.TOO_FEW)])
def test_five_pairs_can_show_nothing_and_more_tests_need_more_pairs(n: int, tests: int, verdict: str) -> None:
    found = ef.corrected([ef.paired("x", "x", np.arange(1.0, n + 1), unit="")] * tests)
    assert {e.verdict for e in found} == {verdict}


def test_all_effects_of_a_report_are_one_family() -> None:
    rng = np.random.default_rng(4)
    made = [mean(rng.normal(0.4, 1, 12)) for _ in range(20)] + [mean(rng.normal(3, 1, 12), null=None)]
    found = ef.corrected(list(made))
    assert [e.q for e in found[:-1]] == pytest.approx(sps.false_discovery_control([e.p for e in made[:-1]]))
    assert all((e.verdict == ef.EFFECT) <= (e.q < 0.05) for e in found)
    assert any(a.verdict == ef.EFFECT != b.verdict for a, b in zip(made, found, strict=True))  # some were chance
    assert (math.isnan(found[-1].q), found[-1].verdict) == (True, ef.DESCRIPTIVE)


def test_sentences_and_the_table() -> None:
    wanted = {
        ef.mean("m", "mean flow", clips([1.0, 2.0] * 4, seeds=2), "x", unit="px/frame"):
        "Mean flow: 1.5 px/frame (95 % CI 1.05 to 1.95 px/frame; 8 images, 2 seeds). Effect: the interval excludes 0.",
        ef.mean("m", "mean flow", clips([1.0, -1.0] * 4), "x", unit="px", margin=0.5):
        "Mean flow: 0 px (95 % CI -0.894 to 0.894 px; 8 images, 1 seed). Inconclusive: the interval contains 0 and exceeds "
        "the margin of 0.5 px.",
        ef.paired("p", "speed, warm minus cool", [1, 2, 3], unit="px/frame"):
        "Speed, warm minus cool: 2 px/frame (95 % CI -0.484 to 4.48 px/frame; 3 pairs, 1 seed). Too few pairs for a verdict.",
        ef.exact("l", "length of a clip", 2.0, "s", clips([1])): "Length of a clip: 2 s (1 image, 1 seed).",
    }  # fmt: skip
    table = ef.as_table(list(wanted))
    assert table.sentence.tolist() == list(wanted.values())
    assert table.loc[0, ["key", "label", "n", "verdict"]].tolist() == ["m", "mean flow", 8, ef.EFFECT]
    assert list(ef.as_table([]).columns) == list(table.columns)
    assert ef.share("s", "{} of clips are still", clips([1] * 6), "x").label == "clips are still"
    for picked in (mean(np.arange(1.0, 9), margin=9.0), ef.paired("p", "p", np.arange(1.0, 9), unit="")):
        assert ef.corrected([ef.descriptive(picked)])[0].verdict == ef.DESCRIPTIVE


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda t: ef.mean("y", "y", t, unit=""), "no column 'y'"),
        (lambda t: ef.difference("x", "x", t.assign(b=1), by="b"), "two values of b"),
        (lambda t: ef.difference("x", "x", t.assign(b=1), by="b", levels=(1, 2)), "two values of b"),
        (lambda t: ef.paired("x", "x", t.x, unit="", margin=-1), "margin=-1"),
        (lambda t: ef.share("x", "x", t, margin="15 %"), "margin='15 %'"),
    ],
)
def test_bad_input_is_named(wrong: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        wrong(clips([1.0, 2.0, 3.0]))
