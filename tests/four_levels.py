"""SVD's own topology in the smallest size: four UNet levels (three with attention), a VAE that divides by 8.

The organism has other block types and three levels; what holds for both should hold for SVD.
"""

import torch
from diffusers import AutoencoderKLTemporalDecoder, EulerDiscreteScheduler, UNetSpatioTemporalConditionModel
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModelWithProjection

from svdlab.pipeline.generate import ProbePipeline, Source
from svdlab.pipeline.single_file import SCHEDULER as SVD_SCHEDULER

FRAMES, SIZE = 4, 64  # a multiple of 8 * 2**3


def four_levels(seed: int = 0) -> ProbePipeline:
    """A pipeline with random weights; its scales are such that conditions matter."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet = UNetSpatioTemporalConditionModel(
            sample_size=SIZE // 8,
            block_out_channels=(32, 32, 64, 64),
            addition_time_embed_dim=16,
            projection_class_embeddings_input_dim=48,
            layers_per_block=1,
            cross_attention_dim=32,
            num_attention_heads=(1, 2, 2, 2),
            num_frames=FRAMES,
        )
        vae = AutoencoderKLTemporalDecoder(
            down_block_types=("DownEncoderBlock2D",) * 4,
            block_out_channels=(32, 32, 32, 32),
            layers_per_block=1,
            sample_size=SIZE,
        )
        vision = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, patch_size=56)
        encoder = CLIPVisionModelWithProjection(CLIPVisionConfig(image_size=224, projection_dim=32, **vision))
    scheduler = EulerDiscreteScheduler(**SVD_SCHEDULER)
    pipe = ProbePipeline(vae.eval(), encoder.eval(), unet.eval(), scheduler, CLIPImageProcessorPil())
    pipe.source = Source(checkpoint="four-levels", height=SIZE, width=SIZE, label="random weights")
    pipe.set_progress_bar_config(disable=True)
    return pipe
