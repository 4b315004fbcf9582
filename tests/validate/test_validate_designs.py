"""The simulations of a bias study's designs: a sound analysis passes, one that takes poses for people is caught."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tools import validate_designs as vd


@pytest.mark.slow
def test_a_sound_analysis_passes_and_poses_counted_as_people_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    poses = {k: v for k, v in vd.NULLS.items() if "identities" in k}
    seen = {k: v for k, v in vd.SEEN.items() if "reported" in k}
    monkeypatch.setattr(vd, "NULLS", poses)
    monkeypatch.setattr(vd, "SEEN", seen)
    sound = vd.validate(60)
    assert len(sound) == 2 and (sound.low <= [0.06, 1]).all() and sound.measured[1] > 0.8
    drawn = vd.clustered(16, 4)

    def blind(rng: Any) -> Any:
        values, table = drawn(rng)
        return values, table.assign(subject_id="")

    monkeypatch.setattr(vd, "NULLS", {"blind": (vd.p_of(blind), 0.06)})
    assert vd.validate(60).low[0] > 0.06


def test_the_committed_table_is_of_these_designs_and_passes() -> None:
    table = pd.read_csv(Path(__file__).parents[2] / "docs" / "bias-designs.csv")
    assert table.what.tolist() == [*vd.NULLS, *vd.SEEN] and table.passed.all() and (table.studies >= 300).all()


@pytest.mark.validate
def test_the_designs_keep_their_promises() -> None:
    table = vd.validate()
    print(table.to_string())
    assert table.passed.all()
