"""diffusers' pipeline class, imported once for all rooms.

Its import asks transformers for CLIP's image processor, which then advises to install torchvision. SVD's pipeline resizes
pictures itself and needs none (and its wheel does not load beside every build of torch), so that advice is not passed on.
"""

import logging

import transformers

_advice = logging.getLogger("transformers.utils.import_utils")
_level = _advice.level
_advice.setLevel(logging.ERROR)
try:
    _ = transformers.CLIPImageProcessor  # found once, remembered by transformers
finally:
    _advice.setLevel(_level)

from diffusers import StableVideoDiffusionPipeline  # noqa: E402
from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import (  # noqa: E402
    StableVideoDiffusionPipelineOutput,
    retrieve_timesteps,
)

__all__ = ["StableVideoDiffusionPipeline", "StableVideoDiffusionPipelineOutput", "retrieve_timesteps"]
