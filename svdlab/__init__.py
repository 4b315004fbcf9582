"""svdlab: hooks, sweeps, measures and probes for Stable Video Diffusion, for use in notebooks.

>>> import svdlab
>>> pipe = svdlab.load_pipeline()
>>> clip = svdlab.generate(pipe, "astronaut", seed=0, motion_bucket_id=180, fps=7)
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# diffusers asks transformers for CLIP's image processor, which advises to install torchvision. SVD's pipeline needs none.
logging.getLogger("transformers.utils.import_utils").addFilter(lambda record: "torchvision" not in record.getMessage())

# Public name -> the module that it lives in. Loaded on first use (PEP 562), so that `import svdlab` takes no torch.
_HOME = {
    "load_pipeline": "pipeline.checkpoints",
    "Conditions": "pipeline.conditions",
    "PRESETS": "pipeline.conditions",
    "generate": "pipeline.generate",
    "Clip": "pipeline.generate",
    "ProbePipeline": "pipeline.generate",
    "trace": "pipeline.hooks",
    "edit": "pipeline.hooks",
    "lora": "pipeline.lora",
    "branch": "pipeline.edits",
    "transplant": "pipeline.edits",
    "module_names": "pipeline.hooks",
    "Trace": "pipeline.trace",
    "grid": "study.sweep",
    "sweep": "study.sweep",
    "steps_needed": "study.steps",
    "load_results": "study.sweep",
    "measure_files": "study.measured",
    "read_settings": "study.comfy",
    "failures": "study.failures",
    "sample_image": "pipeline.images",
}
_MODULES = {
    "comparison": "study.compare",
    "conditions": "pipeline.conditions",
    "edits": "pipeline.edits",
    "errors": "errors",
    "fidelity": "measure.fidelity",
    "hooks": "pipeline.hooks",
    "ledger": "study.ledger",
    "motion": "measure.motion",
    "organism": "organism",
    "probes": "probes",
    "published": "measure.published",
    "schedule": "pipeline.sampler",
    "show": "show",
    "stats": "stats",
    "widgets": "widgets",
}

__all__ = ["__version__", *_HOME, *_MODULES]

if TYPE_CHECKING:
    from svdlab.pipeline.checkpoints import load_pipeline
    from svdlab.pipeline.conditions import PRESETS, Conditions
    from svdlab.pipeline.edits import branch, transplant
    from svdlab.pipeline.generate import Clip, ProbePipeline, generate
    from svdlab.pipeline.hooks import edit, module_names, trace
    from svdlab.pipeline.images import sample_image
    from svdlab.pipeline.lora import lora
    from svdlab.pipeline.trace import Trace
    from svdlab.study.comfy import read_settings
    from svdlab.study.failures import failures
    from svdlab.study.measured import measure_files
    from svdlab.study.steps import steps_needed
    from svdlab.study.sweep import grid, load_results, sweep


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(f"svdlab.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    if name in _MODULES:
        return importlib.import_module(f"svdlab.{_MODULES[name]}")
    raise AttributeError(f"module 'svdlab' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
