"""What tests of sweeps share: a sweep of small clips, unmeasured, and what came out of it."""

from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import load_file

from svdlab.study.sweep import sweep as _sweep


def sweep(pipe: Any, plan: Any, out: Path, **how: Any) -> pd.DataFrame:
    return _sweep(pipe, plan, out, **{"image": "cat", "measure": (), "progress": False, **how})


def latents(table: pd.DataFrame) -> torch.Tensor:
    return torch.stack([load_file(path)["latents"] for path in table.latents])


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """But for rounding, which differs between batch sizes."""
    return bool((a - b).abs().max() < 1e-3 * b.abs().max())
