"""What every probe shares: findings by rule, stimuli, running, the card, the command. The probes' own: test_limitations.py."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import svdlab
from svdlab import probes, show
from svdlab.errors import InputError, MissingExtraError
from svdlab.pipeline.conditions import PRESETS
from svdlab.probes import Check, Probe, Stimuli, card, findings, running
from tests.small import save_checkpoint

FAST = svdlab.Conditions(num_inference_steps=2, max_guidance_scale=1.0)


def table_of(rates: list[list[float]], column: str = "x") -> pd.DataFrame:
    """A row per image and seed."""
    rows = [{"stimulus": f"i{i}", "seed": s, column: v} for i, row in enumerate(rates) for s, v in enumerate(row)]
    return pd.DataFrame(rows)


# --- findings ---------------------------------------------------------------------------------------------------------


def test_seeds_are_averaged_within_an_image_first() -> None:
    table = table_of([[0.0, 2.0], [3.0], [3.0], [3.0], [3.0], [3.0]])
    found = findings.mean("x", table, "x", unit="px")
    assert found.value == pytest.approx((1 + 5 * 3) / 6)
    assert found.n_images == 6


def test_below_six_images_there_are_numbers_only() -> None:
    five = findings.mean("x", table_of([[5.0], [5.1], [4.9], [5.0], [5.2]]), "x", unit="px")
    assert five.kind == "numbers only" and "below 6 images" in five.sentence
    assert findings.share("x", table_of([[1.0]] * 5), "x", margin=0.1).kind == "numbers only"


def test_no_evidence_is_not_evidence_of_none() -> None:
    tight = table_of([[v] for v in (0.01, -0.02, 0.0, 0.02, -0.01, 0.01)])
    loose = table_of([[v] for v in (3.0, -4.0, 1.0, 5.0, -2.0, -3.0)])
    off = table_of([[v] for v in (1.0, 1.1, 0.9, 1.0, 1.05, 0.95)])
    kinds = [findings.mean("x", t, "x", unit="px", margin=0.1).kind for t in (tight, loose, off)]
    assert kinds == ["none within margin", "cannot tell", "found"]
    assert findings.mean("x", off, "x", unit="px", null=None).kind == "measured"


def test_none_within_margin_is_two_one_sided_tests() -> None:
    values = np.random.default_rng(0).normal(0.02, 0.05, 12)
    found = findings.mean("x", table_of([[v] for v in values]), "x", unit="px", margin=0.06)
    tost = svdlab.stats.equivalent_mean(values, -0.06, 0.06, alpha=0.025)
    assert (found.kind == "none within margin") == tost.equivalent


def test_a_distance_must_lie_beyond_its_margin_to_be_found() -> None:
    near = table_of([[v] for v in (0.08, 0.12, 0.09, 0.13, 0.1, 0.11)])
    assert findings.mean("x", near, "x", unit="px", margin=0.1).kind == "found"
    assert findings.mean("x", near, "x", unit="px", margin=0.1, never_negative=True).kind == "cannot tell"


def test_a_ratio_is_judged_on_its_logarithm() -> None:
    skewed = table_of([[v] for v in (0.5, 0.6, 0.8, 1.0, 2.0, 9.0)])
    found = findings.ratio("x", skewed, "x", unit="of y", margin=0.1)
    assert found.value == pytest.approx(np.exp(np.log([0.5, 0.6, 0.8, 1.0, 2.0, 9.0]).mean()))
    assert found.kind == "found" and found.low > 0.1  # where the plain mean's interval would reach below 0
    assert findings.mean("x", skewed, "x", unit="of y").low < 0
    assert findings.ratio("x", table_of([[0.0]] * 6), "x", unit="of y", margin=0.1).kind == "none within margin"
    assert (
        findings.ratio("x", table_of([[v] for v in (0.01, 0.2, 0.5, 0.03, 0.9, 0.1)]), "x", unit="", margin=0.1).kind
        == "cannot tell"
    )


def test_a_difference_is_taken_within_each_image() -> None:
    rows = [
        {"stimulus": f"i{i}", "seed": 0, "bucket": b, "x": 10.0 * i + (2.0 + 0.01 * i if b else 0.0)}
        for i in range(6)
        for b in (0, 1)
    ]
    found = findings.difference("x", pd.DataFrame(rows), "x", by="bucket", a=1, b=0, unit="px")
    assert found.value == pytest.approx(2.025) and found.high - found.low < 0.1 and found.kind == "found"
    with pytest.raises(InputError, match="bucket = 7"):
        findings.difference("x", pd.DataFrame(rows), "x", by="bucket", a=7, b=0, unit="px")


def test_shares_that_never_differ_are_no_proof_of_no_difference() -> None:
    def kind(images: int) -> str:
        rows = [{"stimulus": i, "seed": 0, "bucket": b, "x": float(i % 3 == 0)} for i in range(images) for b in (0, 1)]
        return findings.difference("x", pd.DataFrame(rows), "x", by="bucket", a=1, b=0, unit="share", margin=0.15).kind

    assert [kind(12), kind(24)] == ["cannot tell", "none within margin"]


def test_an_image_s_seeds_that_agree_are_one_clip_and_independent_ones_are_several() -> None:
    assert findings.effective_clips(np.array([0.0, 1.0, 0.0, 1.0]), 8) == pytest.approx(3, abs=1.01)
    draws = np.random.default_rng(1).random((40, 4)) < 0.3
    alike = findings.share("x", table_of([[float(row[0])] * 4 for row in draws]), "x")
    apart = findings.share("x", table_of(draws.astype(float).tolist()), "x")
    assert alike.high - alike.low > 1.5 * (apart.high - apart.low)


def test_a_share_s_three_verdicts() -> None:
    def kind(yes: int, n: int) -> str:
        return findings.share("x", table_of([[float(i < yes)] for i in range(n)]), "x", margin=0.15).kind

    assert [kind(0, 24), kind(0, 8), kind(12, 24)] == ["none within margin", "cannot tell", "found"]


def test_intervals_cover_and_claims_hold_in_simulated_studies() -> None:
    """Images differ, and seeds within an image differ less: intervals over images cover the truth."""
    rng = np.random.default_rng(0)
    wrong = missed = 0
    for _ in range(150):
        images = rng.normal(0, 1, 8)
        table = table_of([[m + e for e in rng.normal(0, 0.3, 3)] for m in images])
        wrong += findings.mean("x", table, "x", unit="px").kind == "found"
        rates = rng.beta(0.9, 2.1, 12)  # mean 0.3
        shares = table_of([[float(v) for v in rng.random(2) < r] for r in rates])
        found = findings.share("x", shares, "x")
        missed += not found.low <= 0.3 <= found.high
    assert wrong / 150 < 0.09 and missed / 150 < 0.10


def test_what_cannot_be_judged_is_left_out() -> None:
    table = table_of([[1.0], [1.0], [1.0], [1.0], [1.0], [1.0], [np.nan]])
    assert findings.mean("x", table, "x", unit="px").n_images == 6
    assert findings.share("x", table, "x").n_images == 6


# --- stimuli ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(7):
        Image.new("RGB", (80, 64), (30 * i, 90, 120)).save(tmp_path / f"p{i}.png")
    (tmp_path / "p3.png").write_bytes(b"no picture at all")
    (tmp_path / "README.txt").write_text("not a picture, and not meant to be one")
    return tmp_path


def test_one_corrupt_picture_among_many_is_named_skipped_and_counted(folder: Path) -> None:
    found = Stimuli.of(folder)
    assert found.names == ["p0", "p1", "p2", "p4", "p5", "p6"]
    assert len(found.skipped) == 1 and "p3.png" in found.skipped[0]
    assert set(found.table["licence"]) == {"not stated"}


def test_a_folder_without_pictures(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    with pytest.raises(InputError, match="holds no pictures"):
        Stimuli.of(tmp_path)
    with pytest.raises(InputError, match=r"there is no .*nowhere"):
        Stimuli.of(tmp_path / "nowhere")
    (tmp_path / "b.png").write_bytes(b"x")
    with pytest.raises(InputError, match="none of 1 pictures"):
        Stimuli.of(tmp_path)


def test_a_manifest_says_what_is_known_of_each(folder: Path) -> None:
    rows = {"path": ["p0.png", "p3.png", "p1.png"], "licence": ["CC0", "CC0", None], "place": ["Rome", "Bonn", "Oslo"]}
    pd.DataFrame(rows).to_csv(folder / "m.csv", index=False)
    found = Stimuli.of(folder / "m.csv")
    assert found.table[["name", "licence", "place"]].values.tolist() == [["p0", "CC0", "Rome"], ["p1", "not stated", "Oslo"]]
    (folder / "n.csv").write_text("file\np0.png\n")
    with pytest.raises(InputError, match="column `path`"):
        Stimuli.of(folder / "n.csv")


def test_sets_that_ship_state_source_and_licence() -> None:
    photographs, world = Stimuli.of("photographs"), Stimuli.of("world", n=8)
    assert len(photographs) == 12 and not photographs.skipped
    for found in (photographs, world):
        assert found.table[["source", "licence"]].astype(bool).all().all()
        assert not found.table["licence"].str.contains("not stated").any()
    known = world.table.groupby(["background", "announced"]).size()
    assert known.to_dict() == {(b, a): 2 for b in ("dark", "light") for a in ("object", "pan")}  # and no zoom
    assert np.array_equal(world.array("dark-1"), Stimuli.of("world", n=2).array("dark-1"))  # a longer set begins alike


def test_pictures_of_one_name_stay_apart() -> None:
    found = Stimuli.of([np.zeros((64, 64, 3)), "cat", "cat"])
    assert found.names == ["picture-0", "cat", "cat-2"]


def test_prepared_pictures_say_what_the_crop_kept() -> None:
    wide = Stimuli.of([np.zeros((64, 128, 3))]).prepared(64, 64)
    assert wide.pictures[0].size == (64, 64) and wide.table["kept"].iloc[0] == 0.5


# --- running ----------------------------------------------------------------------------------------------------------


def toy(**changes: Any) -> Probe:
    base = Probe(
        name="toy",
        card="It is a toy.",
        question="Is it a toy?",
        stimuli=lambda source, quick: Stimuli.of(source, 6),
        plan=lambda study: study.grid(motion_bucket_id=[127]),
        measure=lambda study: study.sweep(study.plan, (redness,)),
        audit=lambda study: [Check("one is one", "1", "1", True)],
        findings=lambda study, table: [findings.mean("redness", table, "redness", unit="of 1", null=None)],
        worst=("redness", True),
        options={"depth": 3},
    )
    return replace(base, **changes)


def redness(clip: Any) -> float:
    return float(clip.frames[..., 0].mean())


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Puts probes into the registry, in its place of all others."""
    monkeypatch.setattr(running, "PROBES", {})

    def add(probe: Probe) -> None:
        module = types.ModuleType(f"svdlab_test_{probe.name}")
        module.PROBE = probe  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
        running.PROBES[probe.name] = module.__name__

    yield add


def test_a_probe_runs_and_its_second_run_makes_nothing(pipe: Any, register: Any, tmp_path: Path) -> None:
    register(toy())
    first = probes.run("toy", pipe, tmp_path, seeds=1, conditions=FAST, progress=False)
    assert first.status == "done" and first.cost.missing == 6 and first.cost.seconds > 0
    assert first.table["seed"].tolist() == [0] * 6 and set(first.stimuli["source"]) == {"svdlab.organism.world"}
    assert first.label == "model organism, not SVD"
    assert [s.label.split(":")[0] for s in first.pictures] == ["typical", "worst"]
    saved = json.loads((tmp_path / "toy" / "result.json").read_text())
    assert saved["verdict"] == first.verdict and len(pd.read_csv(tmp_path / "toy" / "clips.csv")) == 6
    again = probes.run("toy", pipe, tmp_path, seeds=1, conditions=FAST, progress=False)
    assert again.cost.missing == 0 and again.verdict == first.verdict
    more = probes.estimate(pipe, tmp_path, names=["toy"], seeds=2, conditions=FAST, timed=False)
    assert more[["clips", "missing"]].values.tolist() == [[12, 6]] and more["seconds"].isna().all()


def test_a_failed_audit_gives_numbers_and_no_verdict(pipe: Any, register: Any, tmp_path: Path) -> None:
    wrong = Check("a known pan", "1 px", "3 px", False)
    register(toy(audit=lambda study: [wrong], measure=by_hand))
    result = probes.run("toy", pipe, tmp_path, progress=False)
    assert result.status == "no verdict" and len(result.findings) == 1
    assert "audit failed" in result.verdict and "a known pan: expected 1 px, measured 3 px" in result.verdict


def by_hand(study: Any) -> pd.DataFrame:
    """A table without clips."""
    return table_of([[0.1 * i] for i in range(len(study.stimuli))], "redness")


def test_an_instrument_that_was_never_checked_says_nothing(pipe: Any, register: Any, tmp_path: Path) -> None:
    register(toy(audit=lambda study: [], measure=by_hand))
    with pytest.raises(InputError, match="empty audit"):
        probes.run("toy", pipe, tmp_path, progress=False)


def test_few_images_give_no_verdict(pipe: Any, register: Any, tmp_path: Path) -> None:
    register(toy(measure=by_hand))
    result = probes.run("toy", pipe, tmp_path, images=["scene-1", "scene-2"], progress=False)
    assert result.status == "no verdict" and result.verdict.startswith("No verdict below 6 images.")


def test_failed_clips_are_counted_and_left_out(pipe: Any, register: Any, tmp_path: Path) -> None:
    def measure(study: Any) -> pd.DataFrame:
        table = by_hand(study)
        return table.assign(status=["failed"] + ["done"] * 5, reason=["black frames"] + [""] * 5)

    register(toy(measure=measure))
    result = probes.run("toy", pipe, tmp_path, progress=False)
    assert result.findings["n_images"].tolist() == [5] and len(result.table) == 6
    assert any("1 of 6 clips failed" in n and "black frames" in n for n in result.notes)


def test_a_missing_part_names_the_extra_and_the_others_go_on(pipe: Any, register: Any, tmp_path: Path) -> None:
    register(toy(name="reader", extra="ocr", modules=("no_such_reader",)))
    register(toy(measure=by_hand))
    with pytest.raises(MissingExtraError, match=r"svdlab\[ocr\]"):
        probes.run("reader", pipe, tmp_path, progress=False)
    results = probes.run_all(pipe, tmp_path, progress=False)
    assert {n: r.status for n, r in results.items()} == {"reader": "not run", "toy": "done"}
    assert "svdlab[ocr]" in results["reader"].verdict
    table = probes.estimate(pipe, tmp_path, timed=False, conditions=FAST)
    assert "svdlab[ocr]" in table.set_index("probe").loc["reader", "why"]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"detph": 4}, "unknown option detph: its options are depth"),
        ({"seeds": 0}, "seeds=0"),
        ({"seeds": []}, "at least 1"),
        ({"images": "no/such/folder"}, "there is no"),
    ],
)
def test_what_cannot_be_used_is_said_before_any_model_runs(
    pipe: Any, register: Any, tmp_path: Path, kwargs: dict[str, Any], message: str
) -> None:
    register(toy(measure=by_hand))
    with pytest.raises(InputError, match=message):
        probes.run("toy", pipe, tmp_path, progress=False, **kwargs)
    assert list(tmp_path.iterdir()) == []


def test_what_no_probe_can_use_stops_all_of_them(pipe: Any, register: Any, tmp_path: Path) -> None:
    register(toy(measure=by_hand))
    for wrong in (dict(images=str(tmp_path)), dict(seeds=0), dict(names=["toy", "tyo"])):
        with pytest.raises(InputError):
            probes.run_all(pipe, tmp_path / "out", progress=False, **wrong)


def test_an_unknown_probe(pipe: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there are duration, realism, stillness"):
        probes.run("stilness", pipe, tmp_path)
    with pytest.raises(InputError, match="load_pipeline"):
        probes.run("stillness", "organism", tmp_path)  # type: ignore[arg-type]


def test_the_checkpoint_decides_conditions_and_ground(pipe: Any) -> None:
    assert running.base_conditions(pipe) == svdlab.Conditions()
    svd = types.SimpleNamespace(source=replace(pipe.source, checkpoint="stabilityai/stable-video-diffusion-img2vid-xt-1-1"))
    assert running.base_conditions(svd) == PRESETS["SVD_1_1"]  # type: ignore[arg-type]
    assert pipe.source.stimuli == "world" and svdlab.pipeline.generate.Source().stimuli == "photographs"


def test_a_checkpoint_of_another_size(register: Any, tmp_path: Path) -> None:
    small = svdlab.load_pipeline(save_checkpoint(tmp_path / "small"))
    register(toy())
    result = probes.run("toy", small, tmp_path / "out", seeds=1, conditions=FAST, progress=False)
    assert result.status == "done" and set(result.table["width"]) == {32} and result.pictures[0].frames.shape == (4, 32, 32, 3)


# --- figures and the card ---------------------------------------------------------------------------------------------


@pytest.fixture
def results(pipe: Any, register: Any, tmp_path: Path) -> dict[str, probes.ProbeResult]:
    panel = probes.Panel(
        "A <graph>", pd.DataFrame({"x": [1, 2], "y": [0.1, 0.4], "low": [0, 0.2], "high": [0.2, 0.5]}), "x", "y"
    )
    shown = probes.Shown("a film", np.random.default_rng(0).random((8, 64, 64, 3), dtype=np.float32))
    register(toy(measure=by_hand, panels=lambda s, t: [panel], pictures=lambda s, t: [shown], card="Is it < 4 s | or not?"))
    register(toy(name="reader", extra="ocr", modules=("no_such_reader",)))
    return probes.run_all(pipe, tmp_path, progress=False)


def test_a_figure_shows_every_finding_and_says_what_made_it(results: dict[str, probes.ProbeResult]) -> None:
    figure = show.probe(results["toy"])
    text = " ".join(t.get_text() for t in figure.texts)
    assert "redness" in text and "one is one" in text and "a film" in text
    assert "model organism, not SVD" in figure.footer
    assert list(figure.data["what"]) == ["redness"]
    lowest = min(t.get_window_extent().y0 for t in figure.texts)
    assert lowest >= 0  # nothing falls off the foot
    assert "svdlab[ocr]" in " ".join(t.get_text() for t in show.probe(results["reader"]).texts)


def test_every_kind_of_graph_is_drawn(results: dict[str, probes.ProbeResult]) -> None:
    table = pd.DataFrame({"x": [1, 2, 1, 2], "g": ["a", "a", "b", "b"], "y": [1.0, 2.0, 3.0, np.nan]})
    panels = tuple(probes.Panel(kind, table, "x", "y", by="g", kind=kind) for kind in ("curve", "bars"))
    plane = probes.Panel("plane", table.assign(g=[1, 1, 2, 2]), "x", "y", by="g", kind="plane")
    figure = show.probe(replace(results["toy"], panels=(*panels, plane)))
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert {"curve", "bars", "plane"} <= set(titles)


def test_the_card_in_three_forms(results: dict[str, probes.ProbeResult], tmp_path: Path) -> None:
    written = card.write(results, tmp_path / "model")
    facts = json.loads(written["json"].read_text())
    assert [p["name"] for p in facts["probes"]] == ["toy", "reader"]
    assert facts["checkpoint"]["weights_hash"] and facts["probes"][0]["findings"][0]["what"] == "redness"
    assert facts["probes"][0]["stimuli"][0]["licence"] == "Apache-2.0"
    text, page = written["markdown"].read_text(), written["html"].read_text()
    for said in (text, page):
        assert "model organism, not SVD" in said and "svdlab[ocr]" in said and "redness" in said
        assert "Apache-2.0 (svdlab)" in said  # the weights' licence
    assert (tmp_path / "model" / "figures" / "toy.png").exists() and "(figures/toy.png)" in text
    assert 'src="data:image/png;base64,' in page and "Is it &lt; 4 s | or not?" in page
    assert "Is it &lt; 4 s \\| or not?" in text
    assert (tmp_path / "model" / "NOTICE").exists()
    assert svdlab.measure.video.read_tags(tmp_path / "model" / "figures" / "toy.png")["probe"] == "toy"


def test_the_licence_of_the_weights_is_quoted(results: dict[str, probes.ProbeResult], tmp_path: Path) -> None:
    line = svdlab.measure.video.ATTRIBUTION
    mine = {"toy": replace(results["toy"], source={**results["toy"].source, "licence": line})}
    written = card.write(mine, tmp_path / "x", figures=False)
    assert line in written["markdown"].read_text() and not (tmp_path / "x" / "figures").exists()


def test_results_of_different_weights_make_no_card(results: dict[str, probes.ProbeResult], tmp_path: Path) -> None:
    other = replace(results["toy"], source={**results["toy"].source, "weights_hash": "0", "checkpoint": "another"})
    with pytest.raises(InputError, match="different weights"):
        card.write({"a": results["toy"], "b": other}, tmp_path)
    with pytest.raises(InputError, match="no results"):
        card.write({}, tmp_path)


# --- the command ------------------------------------------------------------------------------------------------------


def command(*words: str) -> int:
    from svdlab import __main__ as cli

    with pytest.raises(SystemExit) as stop:
        cli.main(["probe", *words])
    return int(stop.value.code or 0)


def test_the_command_writes_a_card(register: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def deep(study: Any) -> pd.DataFrame:
        assert (study.options["depth"], study.conditions.num_inference_steps, study.seeds) == (5, 2, (0, 1, 2))
        return by_hand(study)

    register(toy(measure=deep))
    words = ["toy", "--out", str(tmp_path), "--seeds", "3", "-p", "depth", "5", "-p", "num_inference_steps", "2"]
    assert command(*words) == 0
    out = capsys.readouterr().out
    assert "toy: Redness" in out or "toy: redness" in out
    assert (tmp_path / "toy" / "limitations.html").exists()


def test_the_command_s_errors_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("stilness", "--out", str(tmp_path)) == 1
    assert capsys.readouterr().err.strip().startswith("svdlab: there is no probe 'stilness'")
    (tmp_path / "empty").mkdir()
    assert command("stillness", "--out", str(tmp_path), "--images", str(tmp_path / "empty")) == 1
    assert "holds no pictures" in capsys.readouterr().err
