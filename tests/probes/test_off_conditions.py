from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from svdlab import probes
from svdlab.measure import fidelity, motion
from svdlab.probes import Stimuli, off_conditions, stimuli
from svdlab.stats.effects import DESCRIPTIVE, EFFECT, EQUIVALENT
from tests.probes.conftest import FAST, by_key


@cache
def plane(spoil: float) -> pd.DataFrame:
    """Pans of photographs at four conditions, off the centre blurred by sigma `spoil` px."""
    ready = Stimuli.of("photographs", 6).prepared(64, 64)
    rows = []
    for name in ready.names:
        for fps in (7, 14):
            for bucket in (127, 200):
                clip = stimuli.panned(ready.array(name), 5, px=bucket / fps / 18)
                if (fps, bucket) != (7, 127):
                    clip = stimuli.blurred(clip, spoil)
                numbers = {**motion.summary(clip), **fidelity.summary(clip, ready.array(name))}
                rows.append({"stimulus": name, "seed": 0, "fps": fps, "motion_bucket_id": bucket, **numbers})
    table = pd.DataFrame(rows)
    return table.assign(centre=off_conditions.at_centre(table, 7, 127))


def test_quality_lost_off_the_centre_is_found_and_its_absence_too() -> None:
    spoilt, sound = (by_key(off_conditions.findings(plane(sigma))) for sigma in (0.8, 0.0))
    assert spoilt["blur_last"].verdict == EFFECT and sound["blur_last"].verdict == EQUIVALENT
    assert sound["drift_colour_last"].verdict == EQUIVALENT


def test_speed_follows_the_conditions_that_it_was_given() -> None:
    found = by_key(off_conditions.findings(plane(0.0)))
    assert found["speed_motion_bucket_id"].value == pytest.approx((200 - 127) / 18 * np.mean([1 / 7, 1 / 14]), rel=0.15)
    assert found["speed_fps"].value < 0
    assert found["speed_fps"].verdict == found["speed_motion_bucket_id"].verdict == EFFECT


def test_the_highest_of_several_cells_carries_no_claim() -> None:
    found = [e for e in off_conditions.findings(plane(0.8)) if e.key.endswith("_worst")]
    assert len(found) == 3 and {e.verdict for e in found} == {DESCRIPTIVE}


def test_the_plane_always_has_its_centre(pipe: Any, tmp_path: Path) -> None:
    given = dict(seeds=1, quick=True, conditions=FAST, progress=False, fps=(12,), motion_bucket_id=(40,))
    plan = probes.prepare("off_conditions", pipe, tmp_path, **given).plan
    assert sorted(plan.groupby(["fps", "motion_bucket_id"]).groups) == [(7, 40), (7, 127), (12, 40), (12, 127)]
