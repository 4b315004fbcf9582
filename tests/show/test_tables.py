"""Curves are means and intervals of the runs, heat maps the table's own numbers, and a forest claims what is drawn."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from svdlab import show
from svdlab.errors import InputError
from svdlab.stats import effects as ef
from svdlab.stats.intervals import mean_interval
from tests.show.conftest import NOTE, nothing_cut, overlapping

BUCKETS = dict(x="motion_bucket_id", y="object_px")


def test_a_curve_is_mean_and_interval_over_seeds(results: pd.DataFrame) -> None:
    fig = show.dose_response(results, **BUCKETS, by="fps")
    assert len(fig.data) == 60 and [ax.get_title("left") for ax in fig.axes] == ["fps 6", "fps 8", "fps 12"]
    here = results[(results.fps == 8) & (results.motion_bucket_id == 120)].object_px
    points = fig.data[(fig.data.fps == 8) & (fig.data.motion_bucket_id == 120)]
    row = points.iloc[0]
    expected = mean_interval(here.to_numpy())
    assert (row.object_px_mean, row.low, row.high, row.runs) == pytest.approx((here.mean(), expected.low, expected.high, 5))
    assert points.object_px.tolist() == here.tolist() and points.seed.tolist() == [0, 1, 2, 3, 4]
    assert fig.axes[0].get_ylabel() == "subject speed (px/frame)"


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
    assert (
        fig.data.groupby("motion_bucket_id").runs.first().tolist() == [4, 4, 5, 5]
        and "2 runs without a number left out" in fig.footer
    )
    with pytest.raises(InputError, match="no number in 20 rows"):
        show.dose_response(holed.assign(object_px=np.nan), **BUCKETS)


def test_categories_stand_side_by_side_without_a_line(results: pd.DataFrame) -> None:
    named = results.assign(image=results.fps.map({6: "cat", 8: "coffee", 12: "rocket"}))
    fig = show.dose_response(named, x="image", y="object_px")
    assert [t.get_text() for t in fig.axes[0].get_xticklabels()] == ["cat", "coffee", "rocket"]
    wide = lambda f: [line for line in f.axes[0].lines if line.get_linewidth() == 1.8 and line.get_linestyle() == "-"]
    assert not wide(fig) and wide(show.dose_response(results, x="fps", y="object_px"))
    assert fig.data["low"].notna().all() and "over seeds" in fig.footer  # one image at a place: seeds are what varies there


NAMES = [f"EDMDPMSolverMultistepScheduler-{i}" for i in range(4)]


def long_names(kind: str) -> Any:
    """Figures of a table whose values have long names, as samplers and files have."""
    table = pd.DataFrame({"scheduler": NAMES * 4, "fps": np.repeat(range(4), 4), "seed": 0, "flow_px": np.arange(16.0)})
    image = table.assign(
        image=[f"photos/{n} with a name of many words, as cameras and people write them.png" for n in NAMES * 4]
    )
    match kind:
        case "category":
            return show.dose_response(table, x="scheduler", y="flow_px")
        case "panels":
            return show.dose_response(image, x="fps", y="flow_px", by="image")
        case "together":
            return show.dose_response(table, x="fps", y="flow_px", by="scheduler", together=True)
    return show.heat(table.pivot_table(index="fps", columns="scheduler", values="flow_px"), title="t", key="px/frame")


@pytest.mark.parametrize("kind", ["category", "panels", "together", "heat"])
@pytest.mark.filterwarnings("error:constrained_layout not applied")
def test_long_names_neither_touch_nor_leave_the_figure(kind: str) -> None:
    with show.for_paper(3.3):
        narrow = long_names(kind)
    for fig in (long_names(kind), narrow):
        assert nothing_cut(fig) and not [pair for pair in overlapping(fig) if "Scheduler-" in pair[0] + pair[1]]


def test_many_categories_keep_their_names() -> None:
    table = pd.DataFrame({"image": [f"scene-{i}" for i in range(20)], "flow_px": np.arange(20.0)})
    ticks = [t.get_text() for t in show.dose_response(table, x="image", y="flow_px").axes[0].get_xticklabels()]
    assert sorted(ticks) == sorted(table["image"])


def test_a_group_without_a_number_is_an_empty_graph(results: pd.DataFrame) -> None:
    fig = show.dose_response(results.assign(object_px=results.object_px.where(results.fps > 6)), **BUCKETS, by="fps")
    assert [t.get_text() for t in fig.axes[0].texts] == ["no number"] and "20 runs without a number left out" in fig.footer


def test_the_mean_is_that_of_the_units_which_the_interval_is_of() -> None:
    rows = [("a", 0.0)] * 8 + [("b", 3.0), ("c", 6.0)]
    fig = show.dose_response(
        pd.DataFrame(rows, columns=["image", "flow_px"]).assign(fps=7, seed=range(10)), x="fps", y="flow_px"
    )
    assert fig.data["flow_px_mean"].unique() == [3.0] and fig.data[["low", "high"]].mean(axis=1).unique() == [pytest.approx(3)]


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


# --- the forest --------------------------------------------------------------------------------------------------------

CLIPS = pd.DataFrame({"stimulus": range(8), "seed": 0, "still": [True] + 7 * [False], "flow": np.linspace(1, 2, 8)})


def found() -> list[ef.Effect]:
    return [
        ef.share("still", "{} of clips are still", CLIPS, margin=0.15),
        ef.share("any", "{} of clips are still, no threshold", CLIPS, "still"),
        ef.mean("flow", "mean flow", CLIPS, unit="px/frame", margin=5.0),
        ef.exact("length", "length of a clip", 2.0, "s", CLIPS),
    ]


def panels(fig: Any) -> list[Any]:
    return [ax for ax in fig.axes if ax.get_visible()]


def test_rows_of_one_unit_share_an_axis_and_every_number_stands_beside_its_row() -> None:
    fig = show.forest(found(), of="model organism, not SVD")
    assert [ax.get_xlabel() for ax in panels(fig)] == ["%", "px/frame", "s"]
    assert [t.get_text() for t in panels(fig)[0].get_yticklabels()] == ["clips are still", "clips are still, no threshold"]
    texts = [t.get_text() for ax in panels(fig) for t in ax.texts]
    assert texts == ["12 % (2 to 47)", "12 % (2 to 47)", "1.5 px/frame (1.21 to 1.79)", "2 s"]
    assert fig.data.key.tolist() == ["still", "any", "flow", "length"]


@pytest.mark.parametrize("standardised", [False, True])
def test_everything_drawn_lies_within_the_axis(standardised: bool) -> None:
    fig = show.forest(found()[2:3], standardised=standardised)
    low, high = panels(fig)[0].get_xlim()
    xs = np.concatenate([np.asarray(line.get_xdata(), float) for line in panels(fig)[0].lines])
    xs = np.append(xs, [bar.get_x() + side * bar.get_width() for bar in panels(fig)[0].patches for side in (0, 1)])
    assert low < np.nanmin(xs) and np.nanmax(xs) < high


def test_margins_are_bands_and_what_lies_beyond_the_axis_is_an_arrow() -> None:
    ends = [(bar.get_x(), bar.get_x() + bar.get_width()) for ax in panels(show.forest(found())) for bar in ax.patches]
    assert ends == [(0, pytest.approx(0.15)), (-5, 5)]  # a threshold from nothing, a margin about the null
    far = ef.paired("far", "far", 100 + np.arange(8.0), unit="px")
    for standardised in (False, True):
        markers = {line.get_marker() for line in panels(show.forest([far], standardised=standardised))[0].lines}
        assert (">" in markers) == standardised
        footer = show.forest([far], standardised=standardised).footer
        assert ("arrow: effect, beyond the axis" in footer) == standardised and ("square" in footer) != standardised


def test_the_footer_claims_what_is_drawn_and_nothing_else() -> None:
    whole, number = show.forest(found(), of="model organism, not SVD"), show.forest(found()[3:])
    for text in ("model organism, not SVD", "95 % interval", "margin", "open circle: inconclusive", "triangle: equivalent"):
        assert text in whole.footer
    assert "interval" not in number.footer and "margin" not in number.footer
