"""The most memory that tensors take at any moment of a computation on the meta device: arithmetic on shapes, no numbers.

    >>> peak(lambda: torch.empty(1000, device="meta") + 1)
    8000

Weights that are there before are not counted. `scaled_dot_product_attention` counts as what flash attention takes: its output.
"""

import weakref
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Counting(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.known: set[int] = set()
        self.live = self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        out = func(*args, **(kwargs or {}))
        for tensor in (t for t in tree_leaves(out) if isinstance(t, torch.Tensor) and t.device.type == "meta"):
            storage = tensor.untyped_storage()
            if storage._cdata not in self.known | given:
                self.known.add(storage._cdata)
                self.live += storage.nbytes()
                self.most = max(self.most, self.live)
                weakref.finalize(storage, self.gone, storage._cdata, storage.nbytes())
        return out

    def gone(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.live -= size


def peak(work: Callable[[], Any]) -> int:
    """Bytes."""
    flash = lambda query, key, value, **how: torch.empty_like(query)
    with mock.patch("torch.nn.functional.scaled_dot_product_attention", flash), torch.no_grad(), _Counting() as counting:
        work()
    return counting.most
