"""widgets.explore: finds runs by their conditions, follows its controls, makes what is missing."""

import os
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from svdlab import errors, widgets
from svdlab.widgets.explore import Runs


def table(columns: str, *rows: tuple) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=columns.split()).assign(frames="", preview="")


def test_a_run_is_found_by_its_conditions_and_what_is_missing_is_known(results: pd.DataFrame) -> None:
    runs = Runs(results)
    assert runs.axes == {"motion_bucket_id": [20, 200], "seed": [0, 1]}
    assert [runs.at(runs.point(place)) for place in range(3)] == [0, 1, 2]
    assert runs.at({"motion_bucket_id": 200, "seed": 1}) is None
    folder = Path(results["frames"].iloc[0]).parents[2]
    assert runs.study() == folder and Runs(folder).table["run_id"].tolist() == results["run_id"].tolist()


def test_an_empty_cell_is_a_point_of_its_own() -> None:
    runs = Runs(table("fps playback_fps seed", (6, 0.5, 0), (6, float("nan"), 0), (6, None, 1)))
    assert runs.axes == {"playback_fps": [0.5, None], "seed": [0, 1]}
    assert runs.at({"playback_fps": None, "seed": 0}) == 1 and runs.at({"playback_fps": None, "seed": 1}) == 2
    assert len(runs.like({"playback_fps": None, "seed": 0}, ["playback_fps"])) == 2


def test_two_versions_of_a_checkpoint_are_distinguished_and_one_is_not_an_axis() -> None:
    rows = [("mine", "aaa", 7), ("mine", "aaa", 14), ("other", "bbb", 7), ("other", "bbb", 14)]
    assert list(Runs(table("checkpoint weights fps", *rows)).axes) == ["checkpoint", "fps"]
    again = Runs(table("checkpoint weights fps", *rows, ("mine", "ccc", 7)))
    assert list(again.axes) == ["checkpoint", "weights", "fps"]
    assert again.at({"checkpoint": "other", "weights": "ccc", "fps": 7}) is None
    strengths = [("mine", "pan.safetensors", 0.5, "aaa"), ("mine", "pan.safetensors", 1.0, "bbb")]
    assert Runs(table("checkpoint lora lora_scale weights", *strengths)).axes == {"lora_scale": [0.5, 1]}


def test_what_cannot_be_explored_is_refused(results: pd.DataFrame, tmp_path: Path) -> None:
    twice = pd.concat([results, results["seed"]], axis=1)
    wrong_cells = [results.assign(frames=3.5), results.assign(preview=[["a"]] * 3), results.assign(seed=[{}, 1, 2])]
    for wrong in (pd.DataFrame({"fps": [1]}), [1, 2], results[:0], tmp_path, twice, *wrong_cells):
        with pytest.raises(errors.InputError):
            widgets.explore(wrong)
    for option in (dict(measures=["speed"]), dict(x="speed")):
        with pytest.raises(errors.InputError, match="speed"):
            widgets.explore(results, **option)


def test_a_table_that_went_through_csv_is_the_same(results: pd.DataFrame, tmp_path: Path) -> None:
    """Its empty cells come back as NaN, and a run that failed has no files."""
    failed = results.assign(**{column: [*results[column][:2], ""] for column in ("frames", "preview")})
    failed.to_csv(tmp_path / "table.csv", index=False)
    panel = widgets.explore(pd.read_csv(tmp_path / "table.csv"))
    panel.select(motion_bucket_id=np.float64(200.0))
    assert "no video" in panel.panes[0].caption.value and widgets.compare(pd.read_csv(tmp_path / "table.csv")).clips
    for odd in (True, "20", [20], {}, float("nan"), np.zeros(2), 10**30):
        with pytest.raises(errors.InputError, match=r"motion_bucket_id|numbers and texts"):
            panel.select(motion_bucket_id=odd)
    with pytest.raises(errors.InputError, match="the axes are"):
        panel.select(speed=1)


OUTSIDE: dict[str, Callable[[Path, Path], str]] = {  # how a run's file leads out of its study
    "another file": lambda secret, run: str(secret),
    "dots": lambda secret, run: f"{run}/../{run.name}/../../../{secret.name}",
    "a link for a file": lambda secret, run: str(linked(run / "preview.mp4", secret)),
    "a link for a run": lambda secret, run: str(linked(run.with_name("b" * 24), secret.parent / "elsewhere") / "preview.mp4"),
    "a pipe": lambda secret, run: str(os.mkfifo(run / "frames.mkv") or run / "frames.mkv"),
    "a folder": lambda secret, run: str(run),
    "of nobody": lambda secret, run: "~nobody-at-all/runs/a/preview.mp4",
    "NUL": lambda secret, run: str(run / "a\0b"),
}


def linked(place: Path, to: Path) -> Path:
    place.symlink_to(to)
    return place


@pytest.mark.parametrize("way", OUTSIDE)
def test_files_outside_the_study_are_not_read(way: str, results: pd.DataFrame, tmp_path: Path) -> None:
    secret, run = tmp_path / "secret", tmp_path / "study" / "runs" / ("a" * 24)
    run.mkdir(parents=True)
    secret.write_bytes(b"the secret")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "preview.mp4").write_bytes(b"the secret")
    place = OUTSIDE[way](secret, run)
    hostile = results.assign(preview=place, frames=place)
    panel = widgets.explore(hostile)
    assert bytes(panel.panes[0].video.value) == b"" and "no video" in panel.panes[0].caption.value
    with pytest.raises(errors.InputError):
        panel.export(tmp_path / "out")
    with pytest.raises(errors.InputError):
        widgets.compare(hostile)
    assert not (tmp_path / "out").exists()


def test_explore_follows_its_controls(results: pd.DataFrame) -> None:
    panel = widgets.explore(results)
    pane = panel.panes[0]
    shows = lambda place: bytes(pane.video.value).startswith(Path(results["preview"].iloc[place]).read_bytes())
    assert shows(0) and not shows(2)
    panel.select(motion_bucket_id=200)
    assert shows(2) and panel.current["run_id"].iloc[0] == results["run_id"].iloc[2]
    pane.walk.value = 1
    assert shows(1) and pane.point() == {"motion_bucket_id": 20, "seed": 1} and "seed 1" in pane.caption.value
    pane.controls["motion_bucket_id"].value = 200
    assert pane.place is None and "not run" in pane.caption.value and panel.current.empty
    with pytest.raises(errors.InputError, match="no point of this sweep"):
        panel.select(motion_bucket_id=7)


def test_controls_that_are_moved_at_once_are_all_followed(results: pd.DataFrame) -> None:
    """JupyterLab's messages come on several threads: a move that comes while another is followed is not lost."""
    pane = widgets.explore(results).panes[0]
    other = threading.Thread(target=lambda: pane.controls["seed"].set_trait("value", 1))
    pane.walk.observe(lambda _: (other.start(), other.join(0.3)), "value")  # in the middle of the first move
    pane.controls["motion_bucket_id"].value = 200
    other.join(10)
    assert pane.point() == {"motion_bucket_id": 200, "seed": 1} and "not run" in pane.caption.value and pane.place is None


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
    panel = widgets.explore(results.assign(object_px=[0.25, 0.75, np.nan]), measures=["object_px"])
    for place, ranks in enumerate((["0.25", "50%"], ["0.75", "100%"], ["-", "-"])):
        panel.panes[0].go(place)
        assert re.findall(r"<td[^>]*>(.*?)</td>", panel.ranks.value) == [*ranks, "0.25", "0.75"]


def test_failures_are_a_tab(results: pd.DataFrame) -> None:
    panel = widgets.explore(results)
    panel.tabs.selected_index = 2
    assert panel.settled() and "Worst of 3 clips" in panel.failed.tooltip and panel.failed.value.count("<image") >= 6
    panel = widgets.explore(results[["run_id", "seed", "fps", "frames", "preview", "status"]], measures=["seed"])
    panel.tabs.selected_index = 2
    assert panel.settled() and "<svg" not in panel.failed.value and "looking" not in panel.failed.value


def test_the_curve_marks_what_is_on_screen_and_a_missing_run_has_no_mark(results: pd.DataFrame) -> None:
    panel = widgets.explore(results, x="motion_bucket_id", y="object_px")
    panel.tabs.selected_index, panel.two.value = 1, True
    panel.select(1, motion_bucket_id=200)
    assert panel.settled() and "ring: motion bucket 20, seed 0; square: motion bucket 200" in panel.curve.tooltip
    slow, fast = results.query("seed == 0")["object_px"]
    marks = {line.get_gid(): [*line.get_xydata()[0]] for line in panel.curve_figure().axes[0].lines}
    assert marks["ring"] == [20, slow] and marks["square"] == [200, fast]
    panel.select(motion_bucket_id=200, seed=1)
    assert panel.settled() and panel.panes[0].place is None
    assert "ring" not in panel.curve.tooltip and "square" in panel.curve.tooltip


def test_a_study_of_one_run_is_shown_with_the_measure_asked_for(results: pd.DataFrame) -> None:
    widget = widgets.explore(results[:1], y="object_px")
    assert widget.measures == ["object_px"] and "subject speed" in widget.ranks.value
    with pytest.raises(errors.InputError, match="x='fps': nothing can be chosen"):
        widgets.explore(results[:1], x="fps")


def test_measured_files_have_a_curve_a_video_and_no_plan(results: pd.DataFrame, tmp_path: Path) -> None:
    """Of files some have no settings, and some no rate of their own."""
    own = results.assign(file="a.webp", motion_bucket_id=[20.0, 200.0, None], fps=None, playback_fps=None)
    widget = widgets.explore(own)
    assert widget.x.value == "motion_bucket_id" and len(widget.curve_figure().data) > 0
    widget.panes[0].go(2)
    assert widget.curve_figure() and widget.video().fps == 7
    suffixes = {path.suffix for path in [*widget.export(tmp_path), *widgets.compare(own).export(tmp_path)]}
    assert suffixes == {".png", ".pdf", ".csv", ".mp4"}  # no plan: no model here made them


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
    assert pane.place == 3 and panel.current["status"].iloc[0] == "done" and len(pane.video.value) > 1000
    assert seen and max(seen) == 2 and pane.walk.max == 3
