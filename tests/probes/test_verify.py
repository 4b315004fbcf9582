"""The verification can fail: it passes the world itself, and no world with another law; then it judges the organism."""

import pandas as pd
import pytest

from svdlab.organism import world
from svdlab.probes import verify


def as_if_generated(block: str, n: int) -> pd.DataFrame:
    """The world's own clips, measured as generated ones would be."""
    s = verify.scenes_for(block, n)
    rows = [
        {**scene, "block": block, **verify.measured(video, scene, video)}
        for video, (_, scene) in zip(s.video, s.factors.iterrows(), strict=True)
    ]
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def perfect() -> pd.DataFrame:
    sizes = dict(law=56, warm=20, cool=60, pan=80, dark=80)
    return pd.concat([as_if_generated(b, n) for b, n in sizes.items()], ignore_index=True)


def table_of(clips: pd.DataFrame) -> pd.Series:
    rows = [*verify.law_rows(clips), *verify.effect_rows(clips, quick=True), *verify.image_rows(clips)]
    return pd.DataFrame(rows, columns=verify.COLUMNS).set_index("what").passed.astype(bool)


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


def test_a_shape_that_changes_speed_and_another_law_of_fps_fail(perfect):
    bent = perfect.copy()
    bent.loc[(bent.block == "cool") & (bent["shape"] == "square"), "measured"] *= 1.5
    bent.loc[bent.block == "law", "measured"] = world.K * bent.motion_bucket_id / (bent.fps - 1)
    passed = table_of(bent)
    assert not passed["planted null: square against disc"] and passed["planted null: left half against right"]
    assert not passed["law: squared error that 1/fps saves over 1/(fps-1)"]
