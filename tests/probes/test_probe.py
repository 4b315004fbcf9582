"""The protocol: checks, graphs, what a study offers."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from svdlab import probes
from svdlab.measure import fidelity, motion
from svdlab.measure.fidelity import flicker, per_frame, seams, warp_error
from svdlab.probes import Check, Graph, Study, quality
from svdlab.probes.probe import above, below, graded, most, near
from svdlab.probes.stimuli import panned, still
from tests.probes.conftest import FAST

CHECKS = [
    (most("x", [True, False]), True),
    (most("x", [True, False, False]), False),
    (most("x", [True, True, False], least=1), False),
    (most("x", []), False),
    (near("x", [0.9, 1.0, 9.0], 1.0, within=0.1), True),
    (near("x", [0.9, 1.0, 9.0], 1.0, within=0.1, worst=True), False),
    (near("x", [0.01], 0.0, within=0.02), True),
    (near("x", [np.nan], 1.0, within=0.1), False),
    (below("x", [0.1, 0.3], 0.2), False),
    (above("x", 0.3, 0.2), True),
    (graded("x", [0.9, 1.1], [0.5], 1.0), True),
    (graded("x", [0.9, 1.1], [0.8], 1.0), False),
    (graded("x", [0.7], [0.5], 1.0), False),
    (graded("x", [], [0.5], 1.0), False),
]


@pytest.mark.parametrize(("check", "passed"), CHECKS)
def test_checks(check: Check, passed: bool) -> None:
    assert check.passed is passed


@pytest.fixture
def clips() -> pd.DataFrame:
    rows = [
        {"stimulus": f"i{i}", "seed": s, "bucket": b, "speed": 10.0 * i + b, "curve": [float(i), float(b)], "still": i < 3}
        for i in range(6)
        for s in (0, 1)
        for b in (1, 2)
    ]
    return pd.DataFrame(rows)


def test_a_graph_has_the_means_over_images_with_their_intervals(clips: pd.DataFrame) -> None:
    points = Graph("", "bucket", "speed").points(clips)
    assert points[["x", "value"]].values.tolist() == [[1, 26.0], [2, 27.0]]
    assert (points["low"] < points["value"]).all() and (points["high"] > points["value"]).all()


def test_lists_are_curves_over_frames(clips: pd.DataFrame) -> None:
    points = Graph("", "frame", "curve", by="bucket").points(clips)
    assert points[["x", "by", "value"]].values.tolist() == [[0, 1, 2.5], [1, 1, 1.0], [0, 2, 2.5], [1, 2, 2.0]]


def test_truth_values_are_shares_with_an_interval_of_their_own(clips: pd.DataFrame) -> None:
    points = Graph("", "bucket", ("still", "moves")).points(clips.assign(moves=~clips["still"]))
    assert points["by"].tolist() == ["still", "still", "moves", "moves"] and (points["value"] == 0.5).all()
    assert points["low"].between(0, 0.5).all() and points["high"].between(0.5, 1).all()


@pytest.fixture
def study(pipe: Any, tmp_path: Path) -> Study:
    """Two scenes, and an image on which nothing can be measured."""
    images = ["scene-1", "scene-2", np.full((64, 64, 3), 0.5)]
    return probes.prepare("stillness", pipe, tmp_path, images=images, seeds=1, quick=True, conditions=FAST, progress=False)


def test_every_image_goes_through_the_autoencoder_as_each_clip(study: Study) -> None:
    rest, pan = study.through(motion.summary, still, partial(panned, px=1.0))
    assert list(rest.index) == study.stimuli.names
    assert pan["pan_px"][["scene-1", "scene-2"]].to_numpy() == pytest.approx(1, rel=0.25)
    assert study.each(np.mean)["image-2"] == pytest.approx(0.5, abs=0.01)


def test_images_on_which_the_instrument_fails_leave_the_plan(study: Study) -> None:
    before = len(study.plan)
    assert all(check.passed for check in study.probe.audit(study))
    assert set(study.plan["label_stimulus"]) == {"scene-1", "scene-2"} and len(study.plan) == before * 2 / 3
    assert study.notes == ["1 of 3 images, on which motion cannot be measured, are left out: image-2."]
    study.keep(pd.Series(False, index=study.stimuli.names), "none of which is seen")
    assert len(study.plan) == before * 2 / 3  # numbers without a verdict are better than none


@pytest.mark.parametrize(
    ("probe", "planted"),
    [
        ("duration", "contrast breaks a chain"),
        ("realism", "flicker of the margin"),
        ("autoencoder", "seams of the margin"),
        ("off_conditions", "noise from frame to frame"),
    ],
)
def test_every_margin_has_a_graded_control_that_an_instrument_a_third_off_does_not_pass(
    pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, probe: str, planted: str
) -> None:
    images = ["scene-1", "scene-2", "scene-3"]
    study = probes.prepare(probe, pipe, tmp_path, images=images, seeds=1, quick=True, conditions=FAST, progress=False)
    ours = lambda: next(c for c in study.probe.audit(study) if c.check.startswith(planted))
    assert ours().passed
    off = {
        "contrast breaks a chain": (fidelity, "per_frame", lambda f: per_frame(f).eval("contrast = contrast ** 1.4")),
        "flicker of the margin": (fidelity, "flicker", lambda f: {k: 1.4 * v for k, v in flicker(f).items()}),
        "seams of the margin": (quality, "seams", lambda *a: {k: 1.4 * v for k, v in seams(*a).items()}),
        # Too low: the flow follows some of the noise, so that 0.9 of it is measured, and 1.4 of that is a quarter off.
        "noise from frame to frame": (fidelity, "warp_error", lambda f: {k: v / 1.4 for k, v in warp_error(f).items()}),
    }
    monkeypatch.setattr(*off[planted])
    assert not ours().passed


def test_a_plan_starts_from_the_studys_conditions(study: Study) -> None:
    plan = study.grid(fps=[7, 12])
    assert sorted(plan["fps"].unique()) == [7, 12] and set(plan["num_inference_steps"]) == {2}
    assert plan.groupby("label_stimulus").size().to_dict() == dict.fromkeys(study.stimuli.names, 2)
