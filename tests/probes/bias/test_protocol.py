"""The plan of a bias study: the first one stays, every departure is named, its power is known beforehand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from svdlab.errors import InputError
from svdlab.probes.bias.study import PLAN, Protocol, departures, read_protocol, write_protocol

SAMPLE = ["x/a: h0", "x/b: h1"]
PLANNED = Protocol({"x, a minus b": 34}, ["flow_px"], {}, [0], {"fps": 7}, 0.05, SAMPLE, "c", "w")


@pytest.mark.parametrize(
    ("changes", "texts"),
    [
        (dict(weights="v"), ["weights: planned w, done v."]),
        (dict(conditions={"fps": 9}), ["conditions, fps: planned 7, done 9."]),
        (dict(alpha=0.1), ["alpha: planned 0.05, done 0.1."]),
        (dict(margins={"flow_px": 1}), ["margins, flow_px: planned None, done 1."]),
        (dict(measures=["flow_px", "pan_px"]), ["measures, not planned, so exploratory: pan_px (1)."]),
        (dict(seeds=[]), ["seeds, planned and not done: 0 (1)."]),
        (dict(pairs={"x, a minus b": 33}), ["pairs, x, a minus b: planned 34, done 33."]),
        (
            dict(sample=["x/b: h0", "x/a: h1"]),  # labels exchanged
            [
                "sample, not planned, so exploratory: x/b: h0, x/a: h1 (2).",
                "sample, planned and not done: x/a: h0, x/b: h1 (2).",
            ],
        ),
        (dict(svdlab="9.9", written="2026"), []),
    ],
)
def test_each_decision_is_compared(changes: dict[str, Any], texts: list[str]) -> None:
    assert departures(PLANNED, replace(PLANNED, **changes)) == texts


def test_the_first_plan_stays_and_one_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    first = write_protocol(PLANNED, tmp_path)
    assert write_protocol(replace(PLANNED, alpha=0.5), tmp_path) == first == read_protocol(tmp_path)
    assert replace(first, written="") == PLANNED
    assert first.written.startswith("20")
    (tmp_path / PLAN).write_text(json.dumps({"contrasts": 3}))
    with pytest.raises(InputError, match="no plan of a bias study"):
        read_protocol(tmp_path)


def test_power_and_the_smallest_detectable_effect_are_known_beforehand() -> None:
    """The textbook's 34 pairs for d = 0.5 at 80 %."""
    assert "34 pairs can show effects from 0.5 standard deviations" in PLANNED.expectation
    assert "Equivalence cannot be shown for flow_px" in PLANNED.expectation
    few = replace(PLANNED, pairs={"x, a minus b": 6}, measures=["flow_px", "pan_px"])
    assert "6 pairs can show no p below 0.031, and a verdict needs 0.025: numbers only." in few.expectation
