"""Curves are means and intervals of the runs; heat maps are the table's own numbers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from svdlab import show
from svdlab.errors import InputError
from svdlab.stats.intervals import mean_interval
from tests.show.drawn import NOTE

BUCKETS = dict(x="motion_bucket_id", y="object_px")


def test_a_curve_is_mean_and_interval_over_seeds(results: pd.DataFrame) -> None:
    fig = show.dose_response(results, **BUCKETS, by="fps")
    assert len(fig.data) == 12 and [ax.get_title("left") for ax in fig.axes] == ["fps 6", "fps 8", "fps 12"]
    here = results[(results.fps == 8) & (results.motion_bucket_id == 120)].object_px
    row = fig.data[(fig.data.fps == 8) & (fig.data.motion_bucket_id == 120)].iloc[0]
    expected = mean_interval(here.to_numpy())
    assert (row.object_px_mean, row.low, row.high, row.runs) == pytest.approx((here.mean(), expected.low, expected.high, 5))
    assert row["values"] == here.tolist() and fig.axes[0].get_ylabel() == "subject speed (px/frame)"


def test_images_not_runs_are_the_units_where_there_are_several(results: pd.DataFrame) -> None:
    one = results[results.fps == 8]
    several = pd.concat([one.assign(image=f"scene-{i}", object_px=one.object_px + i) for i in range(4)])
    fig = show.dose_response(several, **BUCKETS)
    here = several[several.motion_bucket_id == 60].groupby("image").object_px.mean()
    expected = mean_interval(here.to_numpy())
    row = fig.data[fig.data.motion_bucket_id == 60].iloc[0]
    assert (row.low, row.high) == pytest.approx((expected.low, expected.high)) and "over images" in fig.footer
    low, high = fig.axes[0].get_ylim()
    assert low < fig.data.low.min() and fig.data.high.max() < high  # the limits hold everything that is drawn


def test_the_footer_names_only_what_was_drawn(results: pd.DataFrame) -> None:
    fig = show.dose_response(results[results.seed < 2], **BUCKETS, by="fps")
    assert fig.data.low.isna().all() and "interval" not in fig.footer and "points: runs" in fig.footer


def test_what_is_no_number_is_counted_not_drawn(results: pd.DataFrame) -> None:
    holed = results[results.fps == 8].reset_index(drop=True)
    holed.loc[[0, 7], "object_px"] = np.nan
    fig = show.dose_response(holed, **BUCKETS)
    assert fig.data.runs.tolist() == [4, 4, 5, 5] and "2 runs without a number left out" in fig.footer
    with pytest.raises(InputError, match="no number in 20 rows"):
        show.dose_response(holed.assign(object_px=np.nan), **BUCKETS)
    with pytest.raises(InputError, match="no column 'speed'"):
        show.dose_response(holed, x="motion_bucket_id", y="speed")


def test_categories_stand_side_by_side_without_a_line(results: pd.DataFrame) -> None:
    named = results.assign(image=results.fps.map({6: "cat", 8: "coffee", 12: "rocket"}))
    fig = show.dose_response(named, x="image", y="object_px")
    assert [t.get_text() for t in fig.axes[0].get_xticklabels()] == ["cat", "coffee", "rocket"]
    wide = lambda f: [line for line in f.axes[0].lines if line.get_linewidth() == 1.8 and line.get_linestyle() == "-"]
    assert not wide(fig) and wide(show.dose_response(results, x="fps", y="object_px"))
    assert fig.data["low"].notna().all() and "over seeds" in fig.footer  # one image at a place: seeds are what varies there


def test_a_heat_map_writes_its_numbers_and_leaves_what_is_missing_blank() -> None:
    table = pd.DataFrame([[0.0, 0.25], [-1.0, np.nan]], index=["a", "b"], columns=[6, 7])
    fig = show.heat(table, NOTE, title="A table", key="share", rows="block", columns="fps", centre=0.0)
    ax = fig.axes[0]
    assert [t.get_text() for t in ax.texts] == ["0", "0.25", "-1"] and ax.images[0].get_clim() == (-1, 1)
    np.testing.assert_array_equal(ax.images[0].get_array().filled(np.nan), table)
    assert ax.get_xlabel() == "fps" and ax.get_ylabel() == "block" and NOTE in fig.footer
    pd.testing.assert_frame_equal(fig.data.set_index("block"), table.rename_axis(index="block"), check_column_type=False)
    with pytest.raises(InputError, match="no number to draw"):
        show.heat(table * np.nan, title="A table", key="share")
