"""diffusers' pipeline on svdlab's sampler.

>>> pipe = ProbePipeline.from_pipe(pipe)                   # on the same weights
>>> pipe(image, num_inference_steps=2, output_type="np").frames.shape
(1, 8, 64, 64, 3)
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import StableVideoDiffusionPipeline
from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import (
    StableVideoDiffusionPipelineOutput,
    retrieve_timesteps,
)
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image

from svdlab.errors import InputError
from svdlab.measure.files import write_whole
from svdlab.pipeline.conditions import ABOUT, METADATA, Source
from svdlab.pipeline.images import encode_pixels, vae_in_turn
from svdlab.pipeline.sampler import Denoising, Listener


class ProbePipeline(StableVideoDiffusionPipeline):
    """diffusers' pipeline on svdlab's sampler: the same call with the same results, which `trace` and `edit` can look into.

    >>> pipe = ProbePipeline.from_pipe(pipe)                   # on the same weights

    Its one own default: without height and width, frames have the checkpoint's own size (`pipe.source`), not 576x1024. One
    pipeline serves several threads.
    """

    source: Source = Source()
    memory: str = "full"  # or "small": see `svdlab.pipeline.memory`

    @classmethod
    def from_pipe(cls, pipeline: Any, **kwargs: Any) -> ProbePipeline:
        """On another pipeline's parts, in the dtype that they have (diffusers would cast them to float32)."""
        pipe = super().from_pipe(pipeline, **{"torch_dtype": pipeline.unet.dtype, **kwargs})
        pipe.source, pipe.memory = (getattr(pipeline, name, getattr(cls, name)) for name in ("source", "memory"))
        return pipe

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """As diffusers', and beside it the source's frame size, label, licence and stimuli, which `load_pipeline` reads."""
        with write_whole(Path(save_directory, METADATA)) as part:
            part.write_text(json.dumps({name: getattr(self.source, name) for name in ABOUT}, indent=2) + "\n")
        super().save_pretrained(save_directory, *args, **kwargs)

    @torch.no_grad()
    def __call__(
        self,
        image: Any,
        height: int | None = None,
        width: int | None = None,
        num_frames: int | None = None,
        num_inference_steps: int = 25,
        sigmas: list[float] | None = None,
        min_guidance_scale: float = 1.0,
        max_guidance_scale: float = 3.0,
        fps: int = 7,
        motion_bucket_id: int = 127,
        noise_aug_strength: float = 0.02,
        decode_chunk_size: int | None = None,
        num_videos_per_prompt: int | None = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        output_type: str | None = "pil",
        callback_on_step_end: Callable[..., dict[str, Any]] | None = None,
        callback_on_step_end_tensor_inputs: list[str] = ["latents"],  # noqa: B006 - diffusers' own
        return_dict: bool = True,
    ) -> Any:
        """As diffusers documents it for `StableVideoDiffusionPipeline`."""
        height, width = height or self.source.height, width or self.source.width
        num_frames = num_frames if num_frames is not None else self.unet.config.num_frames
        self.check_inputs(image, height, width)
        device, each = self._execution_device, num_videos_per_prompt or 1
        batch = 1 if isinstance(image, Image.Image) else len(image)
        n, side = batch * each, self.vae_scale_factor
        if isinstance(generator, list) and len(generator) != n:
            raise ValueError(f"{len(generator)} generators for {n} videos: give one for each, or a single one.")
        embeddings = self._encode_image(image, device, each, False)
        pixels = self.video_processor.preprocess(image, height=height, width=width).to(device)
        pixels = pixels + noise_aug_strength * randn_tensor(pixels.shape, generator, device, pixels.dtype)
        picture = encode_pixels(self, pixels, each).to(embeddings.dtype)
        ids = self._get_add_time_ids(fps - 1, motion_bucket_id, noise_aug_strength, embeddings.dtype, batch, each, False)
        scheduler = copy.deepcopy(self.scheduler)
        retrieve_timesteps(scheduler, num_inference_steps, device, None, sigmas)
        if latents is None:
            shape = (n, num_frames, self.unet.config.in_channels // 2, height // side, width // side)
            latents = randn_tensor(shape, generator, device, embeddings.dtype)
        latents = latents.to(device) * scheduler.init_noise_sigma
        scale = torch.linspace(min_guidance_scale, max_guidance_scale, num_frames).to(device, latents.dtype)
        scale = scale[None, :, None, None, None].repeat(n, 1, 1, 1, 1)
        self._guidance_scale, self._num_timesteps = scale, len(scheduler.timesteps)
        guidance = lambda step: self._guidance_scale if callback_on_step_end else scale  # which a callback may change
        run = Denoising(self, scheduler, latents, ids.to(device), embeddings, picture, guidance if scale.max() > 1 else None)
        seen: dict[str, Any] = {}

        def hear(name: str, value: Any, run: Denoising) -> Any:
            """The callback acts as the last listener, and is given what passed through the step."""
            seen[name] = value
            if name != "next_latents" or callback_on_step_end is None:
                return value
            seen.update(latents=value, guidance_scale=seen.get("guidance"))
            wanted, i = {name: seen[name] for name in callback_on_step_end_tensor_inputs}, run.step.index
            return callback_on_step_end(self, i, scheduler.timesteps[i], wanted).pop("latents", value)

        if callback_on_step_end is not None:
            run.listeners.append(Listener(self, hear))
        frames = run.run()
        if output_type != "latent":
            with vae_in_turn(self):
                frames = self.decode_latents(frames, num_frames, decode_chunk_size or num_frames)
            frames = self.video_processor.postprocess_video(video=frames, output_type=output_type)
        self.maybe_free_model_hooks()
        return StableVideoDiffusionPipelineOutput(frames=frames) if return_dict else frames


def pipeline(name: str, value: Any) -> ProbePipeline:
    """The check that a value is a pipeline that can be looked into."""
    if not isinstance(value, ProbePipeline):
        use = "svdlab.load_pipeline, or svdlab.ProbePipeline.from_pipe(pipe) on the same weights"
        raise InputError(f"{name} is a {type(value).__name__}: use {use}.")
    return value
