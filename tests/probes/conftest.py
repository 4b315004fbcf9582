"""What the probes' tests share: quick conditions, one study folder for a worker, tables of one clip for each image."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from svdlab import probes
from svdlab.pipeline.conditions import Conditions

FAST = Conditions(num_inference_steps=2, max_guidance_scale=1.0)
FEW = Conditions(num_inference_steps=4, num_frames=4)


def table_of(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """One clip for each image, seed 0."""
    return pd.DataFrame([{"stimulus": f"image-{i}", "seed": 0, **row} for i, row in enumerate(rows)])


def by_key(found: Iterable[Any]) -> dict[str, Any]:
    return {e.key: e for e in found}


def findings_of(probe: str, clips: pd.DataFrame) -> dict[str, Any]:
    """A probe's findings on a table of clips, by their keys."""
    return by_key(probes.find(probe).findings(None, clips))  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def study_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs that several tests share."""
    return tmp_path_factory.mktemp("limitations")
