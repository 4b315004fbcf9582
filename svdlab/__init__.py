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

if TYPE_CHECKING:  # what type checkers read of the lazy names; `as` makes them public
    from svdlab import errors as errors
    from svdlab import organism as organism
    from svdlab import probes as probes
    from svdlab import show as show
    from svdlab import stats as stats
    from svdlab import widgets as widgets
    from svdlab.measure import fidelity as fidelity
    from svdlab.measure import motion as motion
    from svdlab.measure import published as published
    from svdlab.pipeline import conditions as conditions
    from svdlab.pipeline import edits as edits
    from svdlab.pipeline import hooks as hooks
    from svdlab.pipeline import sampler as schedule
    from svdlab.pipeline.checkpoints import load_pipeline as load_pipeline
    from svdlab.pipeline.conditions import PRESETS as PRESETS
    from svdlab.pipeline.conditions import Conditions as Conditions
    from svdlab.pipeline.edits import branch as branch
    from svdlab.pipeline.edits import transplant as transplant
    from svdlab.pipeline.generate import Clip as Clip
    from svdlab.pipeline.generate import ProbePipeline as ProbePipeline
    from svdlab.pipeline.generate import generate as generate
    from svdlab.pipeline.hooks import edit as edit
    from svdlab.pipeline.hooks import module_names as module_names
    from svdlab.pipeline.hooks import trace as trace
    from svdlab.pipeline.images import sample_image as sample_image
    from svdlab.pipeline.lora import lora as lora
    from svdlab.pipeline.trace import Trace as Trace
    from svdlab.study import compare as comparison
    from svdlab.study import ledger as ledger
    from svdlab.study.comfy import read_settings as read_settings
    from svdlab.study.failures import failures as failures
    from svdlab.study.measured import measure_files as measure_files
    from svdlab.study.steps import steps_needed as steps_needed
    from svdlab.study.sweep import grid as grid
    from svdlab.study.sweep import load_results as load_results
    from svdlab.study.sweep import sweep as sweep


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
