"""The organism (`pipe`), and SVD's topology with random weights."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.four_levels import four_levels


@pytest.fixture(scope="session")
def four() -> Any:
    return four_levels()


@pytest.fixture(params=["organism", "four levels"])
def each(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue("pipe" if request.param == "organism" else "four")


@pytest.fixture
def unet_calls(pipe: Any) -> Iterator[list[int]]:
    """Rows that the organism's UNet computes in each call: halves times samples."""
    calls: list[int] = []
    handle = pipe.unet.time_embedding.register_forward_pre_hook(lambda module, args: calls.append(len(args[0])))
    yield calls
    handle.remove()
