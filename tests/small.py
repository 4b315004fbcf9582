"""Checkpoints with random weights, for tests of what does not depend on what a model has learned."""

import json
from importlib import resources
from pathlib import Path
from typing import Any

SIDE, FRAMES = 32, 4
CHANNELS = (32, 32, 32)  # of the small checkpoint's VAE, half of the organism's: decoding takes a third to a half of the time


def build(seed: int = 0, **vae_config: Any) -> Any:
    """A stock pipeline with the shipped organism's configuration, but for what is given of the VAE's, and random weights."""
    import diffusers
    import torch
    from diffusers import StableVideoDiffusionPipeline
    from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModelWithProjection

    weights = Path(str(resources.files("svdlab"))) / "organism" / "weights" / "organism"
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        classes = {"unet": diffusers.UNetSpatioTemporalConditionModel, "vae": diffusers.AutoencoderKLTemporalDecoder}
        changes: dict[str, Any] = {"unet": {}, "vae": vae_config}
        unet, vae = (
            kind.from_config(kind.load_config(weights / name), **changes[name]).eval() for name, kind in classes.items()
        )
        encoder = CLIPVisionModelWithProjection(CLIPVisionConfig.from_pretrained(weights / "image_encoder")).float().eval()
    scheduler = diffusers.EulerDiscreteScheduler.from_pretrained(weights / "scheduler")
    return StableVideoDiffusionPipeline(vae, encoder, unet, scheduler, CLIPImageProcessorPil())


def save_checkpoint(folder: Path, seed: int = 1) -> Path:
    """Small frames, in diffusers' layout, with the frame size and label that svdlab reads beside it."""
    pipe = build(seed, block_out_channels=CHANNELS)
    pipe.unet.register_to_config(num_frames=FRAMES)
    pipe.save_pretrained(folder)
    (folder / "svdlab.json").write_text(json.dumps({"height": SIDE, "width": SIDE, "label": "random weights"}))
    return folder
