"""Stable Video Diffusion's real architecture, in full size and without weights: what names and counts are checked against.

    >>> pipe = build("SVD_XT", device="meta")              # no memory, no numbers: shapes and names
    >>> pipe.unet.num_parameters()
    1524623082

The UNet is diffusers' class by default, VAE and schedule are svd_xt.yaml's, the image encoder is OpenCLIP's ViT-H/14. SVD_XT
and SVD_1_1 differ in their weights only, SVD in its number of frames.
"""

import torch
from diffusers import AutoencoderKLTemporalDecoder, EulerDiscreteScheduler, UNetSpatioTemporalConditionModel
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModelWithProjection

from svdlab.pipeline.generate import ProbePipeline
from svdlab.pipeline.single_file import IMAGE_ENCODER, SCHEDULER, VAE

FRAMES = {"SVD": 14, "SVD_XT": 25, "SVD_1_1": 25}


def build(name: str = "SVD_XT", *, device: str = "meta", dtype: torch.dtype = torch.float32) -> ProbePipeline:
    """The pipeline with random weights, or on "meta" with none. In full: 2.3 B parameters, 4.6 GB in bfloat16."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # built in its dtype: in float32 first, the full size would take twice the memory
    try:
        with torch.device(device):
            unet = UNetSpatioTemporalConditionModel(sample_size=96, num_frames=FRAMES[name])
            vae = AutoencoderKLTemporalDecoder(**VAE)
            encoder = CLIPVisionModelWithProjection(CLIPVisionConfig(**IMAGE_ENCODER, image_size=224, hidden_act="gelu"))
    finally:
        torch.set_default_dtype(before)
    parts = {"unet": unet, "vae": vae, "image_encoder": encoder}
    for part in parts.values():
        part.eval().to(device)  # `mix_factor` is made on the CPU whatever the device
    return ProbePipeline(**parts, scheduler=EulerDiscreteScheduler(**SCHEDULER), feature_extractor=CLIPImageProcessorPil())
