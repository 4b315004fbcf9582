"""svdlab: hooks, sweeps, measures and probes for Stable Video Diffusion, for use in notebooks.

>>> import svdlab
>>> pipe = svdlab.load_pipeline()
>>> clip = svdlab.generate(pipe, "astronaut", seed=0, motion_bucket_id=180, fps=7)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Public name -> the room it lives in. Loaded on first use (PEP 562), so that `import svdlab` takes no torch.
_HOME = {
    "load_pipeline": "checkpoints",
    "Conditions": "conditions",
    "PRESETS": "conditions",
    "generate": "pipeline",
    "Clip": "pipeline",
    "ProbePipeline": "pipeline",
    "trace": "hooks",
    "edit": "hooks",
    "branch": "hooks",
    "transplant": "hooks",
    "module_names": "hooks",
    "Trace": "record",
    "grid": "sweeps",
    "sweep": "sweeps",
    "load_results": "sweeps",
    "sample_image": "images",
}
_ROOMS = (
    "comparison",
    "conditions",
    "edits",
    "errors",
    "fidelity",
    "hooks",
    "ledger",
    "motion",
    "organism",
    "probes",
    "schedule",
    "show",
    "stats",
    "widgets",
)

__all__ = ["__version__", *_HOME, *_ROOMS]

if TYPE_CHECKING:
    from svdlab.checkpoints import load_pipeline
    from svdlab.conditions import PRESETS, Conditions
    from svdlab.hooks import branch, edit, module_names, trace, transplant
    from svdlab.images import sample_image
    from svdlab.pipeline import Clip, ProbePipeline, generate
    from svdlab.record import Trace
    from svdlab.sweeps import grid, load_results, sweep


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(f"svdlab.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    if name in _ROOMS:
        return importlib.import_module(f"svdlab.{name}")
    raise AttributeError(f"module 'svdlab' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
