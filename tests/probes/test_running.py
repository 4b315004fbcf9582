"""Running probes: verdicts, options, conditions, cost; a toy probe of the tests' own stands for all."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import svdlab
from svdlab import probes, stats
from svdlab.errors import InputError, MissingExtraError
from svdlab.pipeline.conditions import PRESETS, Conditions
from svdlab.probes import Check, Probe, Stimuli, Study
from svdlab.stats.effects import EFFECT, INCONCLUSIVE, Effect, mean
from svdlab.study.identity import as_measures
from tests.probes.conftest import FAST, table_of
from tests.small import save_checkpoint


def redness(clip: Any) -> float:
    return float(clip.frames[..., 0].mean())


class Toy(Probe):
    name = "toy"
    card = "It is a toy."
    question = "Is it a toy?"
    axes = {"motion_bucket_id": (127,)}
    options = {"depth": 3}
    n_images = 6
    worst = "redness"

    def measures(self, study: Study) -> tuple[Any, ...]:
        return (redness,)

    def audit(self, study: Study) -> list[Check]:
        return [Check("one is one", "1", "1", True)]

    def findings(self, study: Study, clips: pd.DataFrame) -> Iterator[Effect]:
        yield mean("redness", "redness", clips, unit="of 1", null=None)


class Paper(Toy):
    """Without clips."""

    name = "paper"
    worst = ""

    def measure(self, study: Study) -> pd.DataFrame:
        return table_of({"redness": 0.1 * i} for i in range(len(study.stimuli)))


class Failed(Paper):
    def audit(self, study: Study) -> list[Check]:
        return [Check("a known pan", "1 px", "3 px", False)]


class Unchecked(Paper):
    def audit(self, study: Study) -> list[Check]:
        return []


class Broken(Paper):
    def measure(self, study: Study) -> pd.DataFrame:
        return super().measure(study).assign(status=["failed"] + ["done"] * 5, reason=["black frames"] + [""] * 5)


class Reader(Paper):
    name, extra, modules = "reader", "ocr", ("no_such_reader",)


def test_a_probe_runs_and_its_second_run_makes_nothing(pipe: Any, tmp_path: Path) -> None:
    cost = lambda seeds: probes.estimate(pipe, tmp_path, names=[Toy], seeds=seeds, conditions=FAST).iloc[0]
    assert cost(1)["missing"] == 6 and cost(1)["seconds"] > 0
    first = probes.run(Toy, pipe, tmp_path, seeds=1, conditions=FAST, progress=False)
    assert first.status == "done" and first.seconds > 0
    assert first.table["seed"].tolist() == [1_000_000 * i for i in range(6)]  # its own for each image
    assert set(first.stimuli["source"]) == {"svdlab.organism.world"}
    assert first.source.label == "model organism, not SVD"
    assert [e.label.split(":")[0] for e in first.examples] == ["typical", "worst"]
    saved = json.loads((tmp_path / "toy" / "result.json").read_text())
    assert saved["verdict"] == first.verdict and len(pd.read_csv(tmp_path / "toy" / "clips.csv")) == 6
    again = probes.run(Toy, pipe, tmp_path, seeds=1, conditions=FAST, progress=False)
    assert again.verdict == first.verdict and again.table["run_id"].tolist() == first.table["run_id"].tolist()
    assert cost(1)[["missing", "seconds"]].tolist() == [0, 0] and cost(2)[["clips", "missing"]].tolist() == [12, 6]


def test_a_failed_audit_gives_numbers_and_no_verdict(pipe: Any, tmp_path: Path) -> None:
    result = probes.run(Failed, pipe, tmp_path, progress=False)
    assert result.status == "no verdict" and len(result.findings) == 1
    assert "audit failed" in result.verdict and "a known pan: expected 1 px, measured 3 px" in result.verdict
    with pytest.raises(InputError, match="empty audit"):
        probes.run(Unchecked, pipe, tmp_path, progress=False)


def test_few_images_give_no_verdict_and_the_estimate_says_so(pipe: Any, tmp_path: Path) -> None:
    images = ["scene-1", "scene-2"]
    result = probes.run(Paper, pipe, tmp_path, images=images, progress=False)
    assert result.status == "no verdict" and result.verdict.startswith("No verdict below 6 images.")
    table = probes.estimate(pipe, tmp_path, names=[Paper], images=images)
    assert table["why"].tolist() == ["2 images: numbers without a verdict, which takes 6"]


class Many(Paper):
    """One finding that seems an effect by itself, or many that do not."""

    name, options = "many", {"nulls": 0}

    def findings(self, study: Study | None, clips: pd.DataFrame) -> Iterator[Effect]:
        rng = np.random.default_rng(1)
        if not self.nulls:
            yield mean("one", "one", table_of({"one": v} for v in (0.1, 1.9, 0.3, 1.2, -0.4, 1.4, 0.2, 0.9)), unit="of 1")
        for i in range(self.nulls):
            yield mean(f"null_{i}", "null", table_of({f"null_{i}": v} for v in rng.normal(0, 1, 8)), unit="of 1")

    def __init__(self, nulls: int = 0) -> None:
        self.nulls = nulls


def test_findings_of_all_probes_are_one_family(pipe: Any, tmp_path: Path) -> None:
    alone = probes.run(Many(), pipe, tmp_path, progress=False)
    assert alone.effects[0].verdict == EFFECT and 0.01 < alone.effects[0].p == alone.effects[0].q < 0.05
    both = {"many": alone, "nulls": probes.run(Many(19), pipe, tmp_path, progress=False)}
    new = probes.together(both)
    family = [e for r in new.values() for e in r.effects]
    assert len(family) == 20 and [e.q for e in family] == pytest.approx(list(stats.fdr([e.p for e in family])))
    assert new["many"].effects[0].verdict == INCONCLUSIVE and "Inconclusive" in new["many"].verdict
    assert probes.together(new)["many"].effects[0].q == pytest.approx(new["many"].effects[0].q)
    assert probes.together({"many": alone})["many"] is alone
    failed = {**both, "nulls": dataclasses.replace(both["nulls"], status="no verdict")}
    assert probes.together(failed)["many"] is alone  # what has no verdict counts for nothing
    facts = json.loads(probes.card.write(both, tmp_path / "card")["json"].read_text())
    assert facts["probes"][0]["findings"][0]["verdict"] == INCONCLUSIVE


def test_failed_clips_are_counted_and_left_out(pipe: Any, tmp_path: Path) -> None:
    result = probes.run(Broken, pipe, tmp_path, progress=False)
    assert result.findings["n"].tolist() == [5] and len(result.table) == 6
    assert any("1 of 6 clips failed" in n and "black frames" in n for n in result.notes)


def test_a_missing_part_names_the_extra_and_the_others_go_on(pipe: Any, tmp_path: Path) -> None:
    with pytest.raises(MissingExtraError, match=r"svdlab\[ocr\]"):
        probes.run(Reader, pipe, tmp_path, progress=False)
    results = probes.run_all(pipe, tmp_path, names=[Reader, Paper], progress=False)
    assert {n: r.status for n, r in results.items()} == {"reader": "not run", "paper": "done"}
    assert "svdlab[ocr]" in results["reader"].verdict


# --- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"detph": 4}, r"unknown option detph: .*paper\.depth"),
        ({"toy.depth": 4}, r"unknown option toy\.depth"),
        ({"seeds": 0}, "seeds=0"),
        ({"seeds": -1}, "seeds"),
        ({"images": "no/such/folder"}, "cannot be read"),
    ],
)
def test_what_cannot_be_used_is_refused_before_any_model_runs(
    pipe: Any, tmp_path: Path, kwargs: dict[str, Any], message: str
) -> None:
    for call in (
        lambda: probes.run(Paper, pipe, tmp_path / "x", progress=False, **kwargs),
        lambda: probes.run_all(pipe, tmp_path / "x", names=[Paper, Reader], progress=False, **kwargs),
    ):
        with pytest.raises(InputError, match=message):
            call()
    assert list(tmp_path.iterdir()) == []


def test_options_go_to_the_probes_that_have_them(pipe: Any) -> None:
    found = [probes.find(name) for name in ("duration", "stillness", "off_conditions")]
    given = {"duration.rounds": 2, "motion_bucket_id": (20, 250)}
    assert probes.running.options_of(found, given) == {
        "duration": {"rounds": 2},
        "stillness": {"motion_bucket_id": (20, 250)},
        "off_conditions": {"motion_bucket_id": (20, 250)},
    }


def test_an_unknown_probe(pipe: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="give one of duration, realism, stillness"):
        probes.run("stilness", pipe, tmp_path)
    with pytest.raises(InputError, match="load_pipeline"):
        probes.run("stillness", "organism", tmp_path)  # type: ignore[arg-type]


CHANGES = {
    "duration.rounds": 3,
    "realism.decode_chunk_size": 1,
    "stillness.motion_bucket_id": (10, 20),
    "text_control.scales": ("double",),
    "legibility.heights": (1 / 9,),
    "legibility.contrasts": (0.7,),
    "legibility.ocr": False,
    "faces.share": 0.6,
    "off_conditions.fps": (5, 9),
    "off_conditions.motion_bucket_id": (10, 20),
}
UNFILED = {"autoencoder.decode_chunk_size", "off_conditions.other"}  # no clips, measured anew; more clips, of other weights


def test_every_option_of_every_probe_changes_what_is_filed(pipe: Any, tmp_path: Path) -> None:
    """Else a second run with another value would return the numbers of the first."""
    every = {f"{n}.{o}" for n in probes.PROBES for o in {**probes.find(n).axes, **probes.find(n).options}}
    assert every == {*CHANGES, *UNFILED}

    def filed(name: str, **options: Any) -> Any:
        study = probes.prepare(name, pipe, tmp_path, quick=True, conditions=FAST, progress=False, **options)
        images = [np.asarray(image).tobytes() for image in study.plan["image"]]
        measures = [m.identity for m in as_measures(list(study.probe.measures(study)))]
        return study.plan.drop(columns="image").to_dict("list"), images, measures

    for key, value in CHANGES.items():
        name, _, option = key.partition(".")
        assert filed(name) != filed(name, **{option: value}), key


# --- conditions and checkpoints ---------------------------------------------------------------------------------------


def test_changes_start_from_the_checkpoints_preset(pipe: Any, tmp_path: Path) -> None:
    own = pipe.source
    given = dict(images=["scene-1"], seeds=1, progress=False)
    try:
        pipe.source = dataclasses.replace(own, checkpoint="stabilityai/stable-video-diffusion-img2vid-xt-1-1")
        preset = dataclasses.replace(PRESETS["SVD_1_1"], num_frames=None)
        plain = probes.prepare(Paper, pipe, tmp_path, **given).conditions
        assert plain.replace(num_frames=None, height=None, width=None, decode_chunk_size=None) == preset
        changed = probes.prepare(Paper, pipe, tmp_path, conditions={"fps": 8}, **given).conditions
        assert changed == plain.replace(fps=8)
        quick = probes.prepare(Paper, pipe, tmp_path, conditions={"fps": 8}, quick=True, **given).conditions
        assert quick == plain.replace(fps=8, num_inference_steps=10)
    finally:
        pipe.source = own
    assert probes.prepare(Paper, pipe, tmp_path, **given).conditions.num_inference_steps == Conditions().num_inference_steps


def test_a_checkpoint_of_another_size(tmp_path: Path) -> None:
    small = svdlab.load_pipeline(save_checkpoint(tmp_path / "small"))
    result = probes.run(Toy, small, tmp_path / "out", seeds=1, images=Stimuli.of("world", 6), conditions=FAST, progress=False)
    assert result.status == "done" and set(result.table["width"]) == {32}
    assert result.examples[0].frames.shape == (6, 32, 32, 3)  # the input, what the autoencoder makes of it, four frames


@pytest.mark.parametrize("name", ["stillness", "off_conditions"])
def test_where_the_autoencoder_spoils_everything_there_is_no_verdict(name: str, tmp_path: Path) -> None:
    """Random weights at 32x32: what comes out of that autoencoder is no image any more."""
    small = svdlab.load_pipeline(save_checkpoint(tmp_path / "small"))
    study = probes.prepare(name, small, tmp_path, images=["scene-1", "scene-2"], seeds=1, conditions=FAST, progress=False)
    assert not all(c.passed for c in study.probe.audit(study))


@pytest.mark.parametrize("name", ["legibility", "faces"])
def test_behind_a_perfect_autoencoder_the_audit_passes(
    name: str, pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probes.content, "through_autoencoder", lambda pipe, frames, chunk=None: frames)
    study = probes.prepare(name, pipe, tmp_path, seeds=1, quick=True, conditions=FAST, progress=False)
    assert all(check.passed for check in study.probe.audit(study))
    assert set(study.plan["label_stimulus"]) == set(study.stimuli.names) and not any("left out" in n for n in study.notes)


def test_all_probes_are_the_default(pipe, tmp_path):
    conditions = dict(num_inference_steps=2, num_frames=4)
    table = probes.estimate(pipe, tmp_path, images=["scene-1"], seeds=1, quick=True, conditions=conditions)
    assert table["probe"].tolist() == list(probes.PROBES)
