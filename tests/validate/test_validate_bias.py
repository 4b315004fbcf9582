"""The validation of the bias study tells a sound analysis from a broken one, and its small version runs on the organism."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from svdlab.probes.bias import planted
from svdlab.study.pairs import Contrast
from tools import validate_bias as bv

HUE = Contrast("hue", "warm", "cool")


def world(pairs: int = 40, effect: float = 0.0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Results and manifest of a made-up model: images differ by 1, clips by 0.5 more, warm from cool by `effect`."""
    rng = np.random.default_rng(0)
    groups = {"hue": ("warm", "cool"), "shape": ("square", "disc")}
    manifest = pd.DataFrame(
        [
            dict(path=f"{s}-{i}-{g}", pair_id=f"{s}-{i:03d}", group=g, group_scheme=s, flip_noise="")
            for s, names in groups.items()
            for i in range(pairs)
            for g in names
        ]
    )
    level = rng.normal(5, 1, len(manifest)) + effect * (manifest.group == "warm")
    speed, error = level + 0.5 * rng.normal(size=len(level)), rng.normal(size=len(level))
    return pd.DataFrame(dict(label_row=manifest.index, seed=0, object_px=speed, warp_error=error)), manifest


@pytest.mark.slow
def test_a_sound_analysis_keeps_its_error_rates_also_beside_an_effect() -> None:
    clips, manifest = world(pairs=24, effect=-3.0)
    null = bv.null_studies(clips, manifest, ["object_px", "warp_error"], pairs=16, studies=60)
    rows = bv.null_rows(null)
    assert len(rows) == 3 and all(row["passed"] for row in rows)
    assert all(row["low"] <= row["measured"] for row in rows)
    assert null.p_real.notna().sum() == 60 and (null.p_real.dropna() < 0.05).all()  # the effect itself is seen each time
    assert abs(rows[0]["measured"] - 0.05) < 0.04


def test_an_analysis_that_errs_too_often_is_caught() -> None:
    """p values as they come when correlated clips are counted as independent: too small, too often."""
    rng = np.random.default_rng(0)
    p = rng.uniform(size=(200, 4)) ** 3
    null = pd.DataFrame(
        [
            dict(study=s, scheme="hue", measure=f"m{i}", p=p[s, i], q=q, p_real=np.nan)
            for s in range(200)
            for i, q in enumerate(bv.stats.fdr(p[s]))
        ]
    )
    rows = bv.null_rows(null)
    assert len(rows) == 2 and not any(row["passed"] for row in rows)


def test_null_studies_compare_different_images_of_the_same_group() -> None:
    """Case F19: both sides under labels that mean nothing, no image twice, and a planted factor matched within each pair."""
    _, manifest = world()
    drawn = bv.disjoint(manifest, HUE, 16, np.random.default_rng(0))
    own = manifest.group[drawn.index]
    assert len(drawn) == 32 and drawn.index.is_unique and manifest.pair_id[drawn.index].is_unique
    assert own.groupby(drawn.pair_id).nunique().max() == 1 and own.value_counts().tolist() == [16, 16]
    assert drawn.groupby("pair_id").group.apply(list).map(tuple).unique().tolist() == [("warm", "cool")]
    assert len(bv.disjoint(manifest, HUE, 1000, np.random.default_rng(0))) == 40


@pytest.mark.slow
def test_coverage_of_sound_intervals_is_what_they_say_and_that_of_narrow_ones_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    clips, manifest = world(pairs=130, effect=-1.0)
    sound = bv.coverage(clips, manifest, HUE, "object_px", resamples=80)
    assert 0.90 <= sound.value <= 0.98
    narrow = bv.compare
    monkeypatch.setattr(bv, "compare", lambda *args, **kwargs: narrow(*args, **kwargs, alpha=0.3))
    assert bv.coverage(clips, manifest, HUE, "object_px", resamples=80).value < 0.88


def test_small_studies_say_that_they_are() -> None:
    clips, manifest = world()
    for name in bv.MEASURES:
        clips[name] = clips.get(name, pd.Series(np.random.default_rng(0).normal(size=len(clips))))
    rows = bv.small_rows(clips, manifest)
    assert [row["passed"] for row in rows] == [True, True] and rows[0]["n"] == 2 * len(bv.MEASURES)


@pytest.mark.slow
def test_the_small_validation_runs_on_the_organism(pipe: Any, tmp_path: Path) -> None:
    """Its null rates and small studies hold for any model. What was planted is judged by the slow table, at full size."""
    table = bv.validate(pipe, tmp_path, counts={"hue": 3, "shape": 3}, steps=2, studies=15, progress=False)
    table = table.set_index("what")
    assert (tmp_path / "bias-validity.csv").is_file() and (tmp_path / "plan.json").is_file()
    assert table.planted["subject speed, warm minus cool (hue)"] == pytest.approx(-planted.SPEED / 2)
    assert table.planted["subject speed, square minus disc (shape)"] == 0
    rates = table[table.index.str.contains("null") | table.index.str.contains("studies")]
    assert len(rates) == 5 and rates.passed.all()


@pytest.mark.validate
def test_planted_effects_are_found_nulls_are_not_and_error_rates_hold(pipe: Any, tmp_path: Path) -> None:
    """The table behind what the README says of the bias study, at full size: hundreds of clips."""
    table = bv.validate(pipe, tmp_path)
    print(table.to_string())
    assert table.passed.all()
