"""The organism's components: diffusers' and transformers' own classes, in small.

>>> pipe = build(seed=0)              # a StableVideoDiffusionPipeline with random weights
>>> pipe.unet.num_parameters() // 1000
2404
"""

from __future__ import annotations

import torch
from diffusers import (
    AutoencoderKLTemporalDecoder,
    EulerDiscreteScheduler,
    UNetSpatioTemporalConditionModel,
)
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModelWithProjection

from svdlab.organism.world import FRAMES, SIZE
from svdlab.pipeline.upstream import StableVideoDiffusionPipeline

EMBEDDING = 64  # width of the image embedding
LATENT = SIZE // 4

# stabilityai/stable-video-diffusion-img2vid-xt, scheduler/scheduler_config.json
SVD_SCHEDULER = dict(
    beta_end=0.012,
    beta_schedule="scaled_linear",
    beta_start=0.00085,
    interpolation_type="linear",
    num_train_timesteps=1000,
    prediction_type="v_prediction",
    sigma_max=700.0,
    sigma_min=0.002,
    steps_offset=1,
    timestep_spacing="leading",
    timestep_type="continuous",
    use_karras_sigmas=True,
)


def build(seed: int = 0) -> StableVideoDiffusionPipeline:
    """The organism's pipeline with random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet = UNetSpatioTemporalConditionModel(
            sample_size=LATENT,
            in_channels=8,
            out_channels=4,
            block_out_channels=(32, 64, 64),
            down_block_types=(
                "DownBlockSpatioTemporal",
                "CrossAttnDownBlockSpatioTemporal",
                "DownBlockSpatioTemporal",
            ),
            up_block_types=(
                "UpBlockSpatioTemporal",
                "CrossAttnUpBlockSpatioTemporal",
                "UpBlockSpatioTemporal",
            ),
            addition_time_embed_dim=32,
            projection_class_embeddings_input_dim=96,
            layers_per_block=1,
            cross_attention_dim=EMBEDDING,
            transformer_layers_per_block=1,
            num_attention_heads=(2, 4, 4),
            num_frames=FRAMES,
        )
        vae = AutoencoderKLTemporalDecoder(
            down_block_types=("DownEncoderBlock2D",) * 3,
            block_out_channels=(32, 32, 64),
            layers_per_block=1,
            latent_channels=4,
            sample_size=SIZE,
        )
        encoder = CLIPVisionModelWithProjection(
            CLIPVisionConfig(
                hidden_size=96,
                intermediate_size=384,
                num_hidden_layers=3,
                num_attention_heads=4,
                image_size=224,
                patch_size=28,
                projection_dim=EMBEDDING,
            )
        )
    return StableVideoDiffusionPipeline(
        vae=vae.eval(),
        image_encoder=encoder.eval(),
        unet=unet.eval(),
        scheduler=EulerDiscreteScheduler(**SVD_SCHEDULER),
        feature_extractor=CLIPImageProcessorPil(),
    )
