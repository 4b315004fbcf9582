"""The verification can fail: it passes the world itself, and no world with another law; then it judges the organism."""

import numpy as np
import pandas as pd
import pytest

from svdlab.errors import InputError
from svdlab.organism import trackers, world
from svdlab.probes import verify


def as_if_generated(block: str, n: int) -> pd.DataFrame:
    """The world's own clips, measured as generated ones would be."""
    s = verify.scenes_for(block, n)
    rows = [
        {**scene, "block": block, **verify._measure(video, scene, video, False)}
        for video, (_, scene) in zip(s.video, s.factors.iterrows(), strict=True)
    ]
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def perfect() -> pd.DataFrame:
    sizes = dict(law=56, warm=20, cool=60, pan=80, dark=120)
    return pd.concat([as_if_generated(b, n) for b, n in sizes.items()], ignore_index=True)


def table_of(clips: pd.DataFrame) -> pd.Series:
    rows = [*verify.law_rows(clips), *verify.effect_rows(clips, quick=True), *verify.picture_rows(clips)]
    return pd.DataFrame(rows).set_index("what").passed.astype(bool)


def test_the_world_itself_passes(perfect):
    passed = table_of(perfect)
    assert passed.all(), passed[~passed]


@pytest.mark.parametrize(
    "block, change, fails",
    [
        ("law", lambda d: d * 0.7, "slope"),
        ("law", lambda d: d * 0 + 1.5, "Spearman"),
        ("warm", lambda d: d * 2, "warm"),
        ("pan", lambda d: d.abs(), "pans to the right"),
        ("dark", lambda d: d * 0, "frozen"),
    ],
)
def test_another_law_fails(perfect, block, change, fails):
    bent = perfect.copy()
    bent.loc[bent.block == block, "measured"] = change(bent.loc[bent.block == block, "measured"])
    passed = table_of(bent)
    assert not passed[passed.index.str.contains(fails)].all()


def test_a_shape_that_changes_speed_fails(perfect):
    bent = perfect.copy()
    bent.loc[(bent.block == "cool") & (bent["shape"] == "square"), "measured"] *= 1.5
    passed = table_of(bent)
    assert not passed["planted null: square against disc"]
    assert passed["planted null: left half against right"]


def test_1_over_fps_minus_1_is_told_apart(perfect):
    bent = perfect[perfect.block == "law"].copy()
    bent["measured"] = world.K * bent.motion_bucket_id / (bent.fps - 1)
    assert not table_of(pd.concat([bent, perfect[perfect.block != "law"]]))[
        "law: squared error that 1/fps saves over 1/(fps-1)"
    ]


def test_a_lost_sprite_is_no_displacement():
    s = world.scenes(1, seed=0, motion="object", background="light", hue=0.6)
    video = s.video[0].copy()
    video[3:] = video[3:].mean(axis=(1, 2), keepdims=True)
    assert np.isnan(trackers.object_displacement(video, s.factors.iloc[0]))
    assert not trackers.sprite_kept(video, s.factors.iloc[0])


def test_verification_scenes_were_never_trained_on():
    seeds = {verify.FIRST_SEED + 1000 * b + offset for b in range(10) for offset in range(960)}
    assert max(seeds) + 100_000 < 1_000_000  # where training's seeds begin


def clips_of_two(slope: float, spread: float, seed: int) -> pd.DataFrame:
    """Measurements of the two blocks of `compare_fixed` with a known slope and a known spread between seeds."""
    rng = np.random.default_rng(seed)
    blocks = [verify.scenes_for(b, 160).factors.assign(block=b) for b in ("fixed", "away")]
    factors = pd.concat(blocks, ignore_index=True)
    law = world.law(factors.fps, factors.motion_bucket_id)
    return factors.assign(law=law, measured=law * (slope + spread * rng.standard_normal(len(factors))))


def test_compare_fixed_finds_what_differs_and_not_what_does_not():
    a, b = clips_of_two(0.9, 0.05, 1), clips_of_two(0.9, 0.15, 2)
    a.loc[a.block == "away", "measured"] *= 1.3
    a.loc[3, "measured"] = np.nan  # a lost sprite costs its own clip, in both
    rows = pd.DataFrame(verify.fixed_rows(a, b, "tuned", "base")).set_index("what")
    assert rows.measured["fixed: tuned: slope on the law"] == pytest.approx(0.9, abs=0.02)
    assert rows.passed["fixed: tuned: slope on the law"]
    assert rows.measured["fixed: base: spread over seeds, of the law"] == pytest.approx(0.15, abs=0.02)
    told = rows[rows.index.str.contains("difference")]
    assert told.low["fixed: difference: slope on the law"] < 0 < told.high["fixed: difference: slope on the law"]
    assert told.high["fixed: difference: spread over seeds, of the law"] < -0.05
    assert told.low["away: difference: slope on the law"] > 0.2
    assert set(rows.n) == {40}


def test_compare_fixed_fails_where_the_law_is_lost():
    rows = pd.DataFrame(verify.fixed_rows(clips_of_two(0.7, 0.1, 1), clips_of_two(0.9, 0.1, 2), "tuned", "base"))
    assert not rows.set_index("what").passed["fixed: tuned: slope on the law"]


def test_compare_fixed_refuses_too_few_clips_before_any_is_made():
    with pytest.raises(InputError, match="n=4: give at least 8"):
        verify.compare_fixed(n=4)


def test_a_table_takes_its_own_place_in_the_card(tmp_path):
    card = tmp_path / "card.md"
    card.write_text("# Card\n\ntext\n")
    table = pd.DataFrame([verify._row("law", 0.98765, float("nan"), 1.0, 12, ">= 0.97", True)])
    verify.into_card(table, "Verification", "svdlab organism verify", card)
    verify.into_card(table.assign(passed=False), "Verification", "svdlab organism verify", card)
    text = card.read_text()
    assert text.startswith("# Card") and text.count("## Verification") == 1
    assert "| law | 0.988 |  | 1 | 12 | >= 0.97 | **no** |" in text
