"""What all tests share: no network but loopback, one thread for each process, one organism for each process."""

import gc
import os
import socket
from collections.abc import Iterator
from typing import Any

# Before any test imports torch, a hub client or matplotlib. Notebook kernels and commands started by tests inherit them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest

LOOPBACK = ("127.", "::1", "localhost")


class NetworkBlocked(RuntimeError):
    """Not an OSError, so that no client mistakes it for bad weather and carries on."""


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("browser"):
            item.add_marker("slow")
    # A whole file runs in one process. Those that take minutes go first: started last, one would keep a process waiting.
    items.sort(key=lambda item: not any(long in item.path.name for long in ("notebook", "training")))


def pytest_collection_finish() -> None:
    """What was imported by now stays to the end: looking at it again took 11 of 197 s in the tests of sweeps."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def no_network() -> Iterator[None]:
    """A test that reaches for any host but this one fails, whoever's code does it. Started commands are not covered."""

    def guarded(real: Any, host_of: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            host = host_of(*args)
            if isinstance(host, bytes):
                host = host.decode()
            if isinstance(host, str) and host and not host.startswith(LOOPBACK):
                raise NetworkBlocked(f"a test tried to reach {host!r}; tests have loopback only")
            return real(*args, **kwargs)

        return call

    def host_of_address(_: socket.socket, address: Any) -> Any:
        return address[0] if isinstance(address, tuple) else None  # Unix sockets have a path, and are allowed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded(socket.socket.connect, host_of_address))
        patch.setattr(socket.socket, "connect_ex", guarded(socket.socket.connect_ex, host_of_address))
        patch.setattr(socket, "getaddrinfo", guarded(socket.getaddrinfo, lambda host, *rest: host))
        yield


@pytest.fixture(scope="session")
def pipe() -> Any:
    """The model organism, loaded once for each process. Hooks and edits must be gone when a test ends."""
    import svdlab

    return svdlab.load_pipeline()


@pytest.fixture(scope="session")
def image() -> Any:
    """A photograph, which the organism was not trained on."""
    import svdlab

    return svdlab.sample_image("astronaut")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A folder in diffusers' layout with the organism's architecture and random weights: copy it before you spoil it."""
    import json

    from svdlab.organism.world import SIZE
    from tests.small import build

    folder = tmp_path_factory.mktemp("checkpoint")
    build(seed=0).save_pretrained(folder)
    (folder / "svdlab.json").write_text(json.dumps(dict(height=SIZE, width=SIZE, label="random weights")))
    return folder
