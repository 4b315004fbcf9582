"""widgets.explore: finds runs by their conditions, follows its controls, makes what is missing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from svdlab import errors, widgets
from svdlab.widgets.runs import Runs

CONDITIONS = ["fps", "motion_bucket_id", "seed"]


def table(rows: list[tuple], columns: list[str]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=columns).assign(frames="", preview="")


def test_a_run_is_found_by_its_conditions_and_what_is_missing_is_known(results: pd.DataFrame) -> None:
    runs = Runs(results)
    assert runs.axes == {"motion_bucket_id": [20, 200], "seed": [0, 1]}
    assert [runs.at(runs.point(place)) for place in range(len(runs))] == [0, 1, 2]
    missing = {"motion_bucket_id": 200, "seed": 1}
    assert runs.at(missing) is None
    assert runs.point(runs.nearest(missing)) in ({"motion_bucket_id": 20, "seed": 1}, {"motion_bucket_id": 200, "seed": 0})
    row = runs.row_to_make(missing)
    assert (row["motion_bucket_id"], row["seed"], row["image"], row["num_inference_steps"]) == (200, 1, "scene-27", 2)
    folder = Path(results["frames"].iloc[0]).parents[2]
    assert runs.folder() == folder and sorted(Runs(folder).table["run_id"]) == sorted(results["run_id"])


def test_the_nearest_run_differs_in_as_few_axes_as_can_be() -> None:
    runs = Runs(table([(6, 10, 0), (6, 40, 0), (24, 10, 1)], CONDITIONS))
    assert runs.nearest({"fps": 24, "motion_bucket_id": 40, "seed": 0}) == 1  # only fps differs
    assert runs.nearest({"fps": 6, "motion_bucket_id": 10, "seed": 1}) == 0


def test_an_empty_cell_is_a_point_of_its_own() -> None:
    runs = Runs(table([(6, 0.5, 0), (6, float("nan"), 0), (6, None, 1)], ["fps", "playback_fps", "seed"]))
    assert runs.axes == {"playback_fps": [None, 0.5], "seed": [0, 1]}
    assert runs.at({"playback_fps": None, "seed": 0}) == 1 and runs.at({"playback_fps": None, "seed": 1}) == 2
    assert len(runs.like({"playback_fps": None, "seed": 0}, ["seed"])) == 2


def test_two_versions_of_a_checkpoint_are_distinguished_and_one_is_not_an_axis() -> None:
    rows = [("mine", "aaa", 7), ("mine", "aaa", 14), ("other", "bbb", 7), ("other", "bbb", 14)]
    runs = table(rows, ["checkpoint", "weights", "fps"])
    assert list(Runs(runs).axes) == ["checkpoint", "fps"]
    again = Runs(pd.concat([runs, runs[:2].assign(weights="ccc")], ignore_index=True))
    assert list(again.axes) == ["checkpoint", "weights", "fps"]
    assert again.at({"checkpoint": "mine", "weights": "ccc", "fps": 14}) == 5
    assert again.at({"checkpoint": "other", "weights": "ccc", "fps": 14}) is None


def test_what_is_no_table_of_runs_is_refused(results: pd.DataFrame, tmp_path: Path) -> None:
    for wrong in (pd.DataFrame({"fps": [1]}), [1, 2], pd.DataFrame({"frames": [], "preview": []}), tmp_path):
        with pytest.raises(errors.InputError):
            widgets.explore(wrong)
    with pytest.raises(errors.InputError, match="no column 'speed'"):
        widgets.explore(results, measures=["speed"])
    with pytest.raises(errors.InputError, match="cannot be drawn against"):
        widgets.explore(results, x="speed")


def test_explore_follows_its_controls(results: pd.DataFrame) -> None:
    panel = widgets.explore(results)
    pane = panel.panes[0]
    shows = lambda place: bytes(pane.video.value).startswith(Path(results["preview"].iloc[place]).read_bytes())
    assert shows(0) and not shows(2)
    panel.select(motion_bucket_id=200)
    assert shows(2) and panel.current[0]["run_id"] == results["run_id"].iloc[2]
    pane.walk.value = 1
    assert shows(1) and pane.point() == {"motion_bucket_id": 20, "seed": 1} and "seed 1" in pane.caption.value
    pane.controls["motion_bucket_id"].value = 200
    assert pane.place is None and "not run" in pane.caption.value and panel.current == []
    pane.near.click()
    assert pane.place is not None
    with pytest.raises(errors.InputError, match="no point of this sweep"):
        panel.select(motion_bucket_id=7)


def test_two_panes_start_again_together(results: pd.DataFrame) -> None:
    """A browser starts a video when its bytes change: a move of one pane changes both panes' bytes."""
    panel = widgets.explore(results)
    panel.two.value = True
    before = [bytes(pane.video.value) for pane in panel.panes]
    panel.select(1, motion_bucket_id=200)
    after = [bytes(pane.video.value) for pane in panel.panes]
    assert all(old != new for old, new in zip(before, after, strict=True))
    assert after[0].startswith(Path(results["preview"].iloc[0]).read_bytes())


def test_measures_are_ranked_among_all_runs(results: pd.DataFrame) -> None:
    numbers = results.assign(object_px=[0.25, 0.75, np.nan])
    panel = widgets.explore(numbers, measures=["object_px"])
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", panel.ranks.value)]
    panel.select(seed=1)
    cells += [re.findall(r"<td[^>]*>(.*?)</td>", panel.ranks.value)]
    panel.select(motion_bucket_id=200, seed=0)
    cells += [re.findall(r"<td[^>]*>(.*?)</td>", panel.ranks.value)]
    assert cells == [["0.25", "50%", "0.25", "0.75"], ["0.75", "100%", "0.25", "0.75"], ["-", "-", "0.25", "0.75"]]


def test_marks_lie_over_the_drawn_points_and_a_missing_run_has_none(results: pd.DataFrame) -> None:
    panel = widgets.explore(results, x="motion_bucket_id", y="object_px")
    panel.tabs.selected_index, panel.two.value = 1, True
    panel.select(1, motion_bucket_id=200)
    assert panel.draw.settled()
    marks = re.findall(r'class="(\w+)" style="left:([\d.]+)%;top:([\d.]+)%', panel.curve.over.value)
    assert [name for name, *_ in marks] == ["first", "second"]
    fig = panel.curve_figure()
    fig.draw_without_rendering()
    box, (low, high) = fig.axes[0].get_position(), fig.axes[0].get_xlim()
    for (_, left, _), bucket in zip(marks, (20, 200), strict=True):
        assert float(left) == pytest.approx(100 * (box.x0 + box.width * (bucket - low) / (high - low)), abs=0.5)
    slow, fast = results.query("seed == 0")["object_px"]
    assert (float(marks[0][2]) > float(marks[1][2])) == (slow < fast)  # what is faster stands higher
    panel.select(motion_bucket_id=200, seed=1)
    assert panel.draw.settled() and panel.panes[0].place is None
    assert re.findall('class="(.*?)"', panel.curve.over.value) == ["second"]


def test_a_missing_point_is_made_from_here(pipe: Any, results: pd.DataFrame) -> None:
    panel = widgets.explore(results, pipe=pipe)
    pane = panel.panes[0]
    panel.select(motion_bucket_id=200, seed=1)
    seen: list[int] = []
    pane.job.bar.observe(lambda change: seen.append(change["new"]), "value")
    pane.job.go.click()
    panel.select(seed=0)
    assert pane.job.layout.display == ""  # it can still be cancelled
    assert pane.job.join(60) and pane.job.layout.display == "none"
    assert pane.place == 3 and panel.current[0]["status"] == "done" and len(pane.video.value) > 1000
    assert seen and max(seen) == 2 and pane.walk.max == 3
