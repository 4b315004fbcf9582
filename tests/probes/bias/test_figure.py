"""Figures of bias studies: what they carry, on what scale, and that no pair is hidden."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from svdlab.errors import InputError
from svdlab.measure import video
from svdlab.probes import bias
from svdlab.probes.bias.study import Protocol
from svdlab.study.pairs import read_manifest

PLAN = Protocol({}, [], {}, [0], {}, 0.05, [], "organism", "w")


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> bias.BiasResult:
    """A made-up study of eight pairs, the clips grey videos on disk."""
    folder, rng = tmp_path_factory.mktemp("videos"), np.random.default_rng(0)
    manifest = pd.DataFrame(
        [dict(path=f"{i}{g}.png", pair_id=f"p{i}", group=g, group_scheme="light") for i in range(8) for g in ("bright", "dim")]
    ).assign(flip_noise="")
    rows = []
    for row in manifest.index:
        path = folder / f"{row}.mkv"
        video.write_frames(path, np.full((3, 32, 32, 3), 10 * row, np.uint8))
        speed = (2.0 if manifest.group[row] == "bright" else 1.0) + rng.normal(0, 0.2)
        rows.append(
            dict(label_row=row, seed=0, fps=7, checkpoint="organism", label="model organism, not SVD", frames=str(path),
                 object_px=speed, blur_slope=rng.normal())
        )  # fmt: skip
    clips = pd.DataFrame(rows)
    table = bias.compare(clips, manifest, ["object_px", "blur_slope"], margins={"object_px": 0.3})
    return bias.BiasResult(table, clips, manifest, pd.DataFrame(), PLAN)


def test_the_forest_has_a_panel_per_contrast_in_standard_deviations(result: bias.BiasResult) -> None:
    fig = result.figure()
    (ax,) = [ax for ax in fig.axes if ax.get_visible()]
    assert ax.get_title(loc="left") == "light, bright minus dim"
    assert [t.get_text() for t in ax.get_yticklabels()] == ["subject speed", "sharpness lost"]
    interval = (result.table.low / result.table.sd)[0], (result.table.high / result.table.sd)[0]
    assert any(line.get_xdata() == pytest.approx(interval) for line in ax.lines)
    assert "model organism, not SVD" in fig.footer
    assert fig.data is result.table


def test_the_slopes_draw_every_pair(result: bias.BiasResult) -> None:
    fig = bias.slopes(result, result.table.iloc[0])
    lines = [line for line in fig.axes[0].lines if list(line.get_xdata()) == [0, 1]]
    assert len(lines) == 8 + 1  # and the means
    assert len(fig.data) == 8
    assert (fig.data.a - fig.data.b).mean() == pytest.approx(result.table.value[0])
    assert "95 % interval" in fig.footer


def test_one_pair_has_no_interval_and_the_footer_claims_none(result: bias.BiasResult) -> None:
    manifest = result.manifest[:2]
    table = bias.compare(result.clips[:2], manifest, ["object_px"])
    fig = bias.slopes(replace(result, table=table, manifest=manifest, clips=result.clips[:2]), table.iloc[0])
    assert "interval" not in fig.footer


def test_the_worst_pairs_are_those_that_differ_most(result: bias.BiasResult) -> None:
    row = result.table.iloc[0]
    speed = result.clips.object_px.to_numpy().reshape(-1, 2)
    worst = np.abs(speed[:, 0] - speed[:, 1]).argmax()
    shown = bias.worst_pairs(result, row, count=1)
    assert shown.frames.shape[0] == 3
    assert (shown.frames == 20 * worst).all(-1).any()


def test_the_pairs_stand_one_above_the_other_with_their_sources(tmp_path: Path) -> None:
    bias.planted.world_pairs(tmp_path, hue=3, mirror=2)
    fig = bias.pairs(read_manifest(tmp_path / "manifest.csv"))
    drawn = [np.asarray(ax.images[0].get_array()) if ax.images else None for ax in fig.axes]
    assert [image is not None for image in drawn] == [True] * 8 + [False] + [True] * 2 + [False]
    assert np.allclose(drawn[6][:, ::-1], drawn[9])  # an image above its mirror image
    assert "labels by: svdlab.organism.world" in fig.footer
    assert "Apache-2.0" in fig.footer


def test_a_study_saves_its_figures(result: bias.BiasResult, tmp_path: Path) -> None:
    bias.save_figures(result, tmp_path)
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert {"forest.png", "forest.csv", "slopes-light-object_px.png", "worst-light-object_px.mp4"} <= names


@pytest.mark.parametrize("draw", [bias.slopes, bias.worst_pairs])
def test_what_cannot_be_drawn_is_refused(result: bias.BiasResult, draw: Any) -> None:
    with pytest.raises(InputError, match="no row of"):
        draw(result, {"value": 1})
    silent = replace(result, clips=result.clips.assign(object_px=np.nan))
    with pytest.raises(InputError, match="no pair has a number"):
        draw(silent, result.table.iloc[0])


def test_clips_without_frames_are_named(result: bias.BiasResult) -> None:
    with pytest.raises(InputError, match="no frames"):
        bias.worst_pairs(replace(result, clips=result.clips.assign(frames="")), result.table.iloc[0])
