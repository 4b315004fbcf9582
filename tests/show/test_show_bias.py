"""Figures of bias studies: what they carry, on what scale, and that no pair is hidden."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from svdlab import show
from svdlab.errors import InputError
from svdlab.measure import video
from svdlab.probes import planted
from svdlab.probes.paired import compare
from svdlab.study.manifests import read_manifest


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Clips, manifest and table of a made-up study of eight pairs, the clips grey films on disk."""
    folder, rng = tmp_path_factory.mktemp("films"), np.random.default_rng(0)
    manifest = pd.DataFrame(
        [dict(path=f"{i}{g}.png", pair_id=f"p{i}", group=g, group_scheme="light") for i in range(8) for g in ("bright", "dim")]
    )
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
    return clips, manifest, compare(clips, manifest, ["object_px", "blur_slope"], margins={"object_px": 0.3})


def test_the_forest_has_every_effect_in_units_and_says_what_the_model_is(study: Any, tmp_path: Path) -> None:
    clips, _, table = study
    fig = show.forest(table, clips=clips)
    texts = " ".join(t.get_text() for ax in fig.axes for t in ax.texts)
    assert f"{table.effect[0]:.2g} px per frame, q {table.q[0]:.2g}" in texts
    assert "model organism, not SVD" in fig.footer and "over 2 tests" in fig.footer
    assert [p.suffix for p in show.save(fig, tmp_path / "forest")] == [".png", ".svg", ".pdf", ".csv"]
    drawn = [
        line for line in fig.axes[0].lines if len(line.get_xdata()) == 2 and line.get_ydata()[0] == line.get_ydata()[1] == 0
    ]
    interval = [table.low[0] / table.sd_pairs[0], table.high[0] / table.sd_pairs[0]]
    assert drawn[0].get_xdata() == pytest.approx(interval)  # whole: the axis reaches as far as 6
    assert fig.axes[0].get_xlim()[0] < min(interval) and max(interval) < fig.axes[0].get_xlim()[1]


def test_the_slopes_draw_every_pair(study: Any) -> None:
    clips, manifest, table = study
    fig = show.slopes(clips, manifest, table.iloc[0])
    lines = [line for line in fig.axes[0].lines if list(line.get_xdata()) == [0, 1]]
    assert len(lines) == 8 + 1  # and the means
    assert len(fig.data) == 8 and (fig.data.a - fig.data.b).mean() == pytest.approx(table.effect[0])


def test_the_worst_pairs_are_those_that_differ_most(study: Any) -> None:
    clips, manifest, table = study
    values = show.bias.pair_values(clips, manifest, show.bias._of(table.iloc[0])[0], "object_px")
    worst = (values.a - values.b).abs().idxmax()
    film = show.worst_pairs(clips, manifest, table.iloc[0], count=1)
    assert film.frames.shape[0] == 3 and "light, most different in subject speed" in film.alt
    place = manifest.index[(manifest.pair_id == worst) & (manifest.group == "bright")][0]
    assert (film.frames == 10 * place).all(-1).any()


def test_the_pairs_stand_one_above_the_other_with_their_sources(tmp_path: Path) -> None:
    planted.world_pairs(tmp_path, hue=3, mirror=2)
    fig = show.pairs(read_manifest(tmp_path / "manifest.csv"))
    drawn = [[np.asarray(ax.images[0].get_array()) if ax.images else None for ax in row] for row in _rows(fig, 3)]
    assert [sum(p is not None for p in row) for row in drawn] == [3, 3, 2, 2]
    assert np.allclose(drawn[2][0][:, ::-1], drawn[3][0])  # a picture above its mirror image
    assert "labels: svdlab.organism.world" in fig.footer and "Apache-2.0" in fig.footer


def _rows(fig: Any, columns: int) -> list[list[Any]]:
    return [list(fig.axes[i : i + columns]) for i in range(0, len(fig.axes), columns)]


def test_a_study_saves_its_figures(study: Any, tmp_path: Path) -> None:
    clips, manifest, table = study

    class Result:
        pass

    result = Result()
    result.clips, result.manifest, result.table = clips, manifest, table  # type: ignore[attr-defined]
    names = {path.name for path in show.save_bias(result, tmp_path, count=1)}
    assert {"forest.png", "slopes-light-object_px.png", "worst-light-object_px.mp4"} <= names


def test_what_is_no_study_is_refused(study: Any) -> None:
    clips, manifest, table = study
    with pytest.raises(InputError, match="lacks its columns"):
        show.forest(clips)
    with pytest.raises(InputError, match="no row of"):
        show.slopes(clips, manifest, {"effect": 1})
    silent = clips.assign(object_px=np.nan)
    with pytest.raises(InputError, match="no pair has a number"):
        show.slopes(silent, manifest, table.iloc[0])
    with pytest.raises(InputError, match="no pair has a number"):
        show.worst_pairs(silent, manifest, table.iloc[0])
    with pytest.raises(InputError, match="no frames"):
        show.worst_pairs(clips.assign(frames=""), manifest, table.iloc[0])
