"""A checkpoint of small frames and random weights, and its pipeline, which no test may leave changed."""

from pathlib import Path

import pytest

import svdlab
from tests.small import save_checkpoint


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("checkpoint") / "small")


@pytest.fixture(scope="session")
def small(checkpoint: Path) -> svdlab.ProbePipeline:
    return svdlab.load_pipeline(checkpoint, device="cpu")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "study"
