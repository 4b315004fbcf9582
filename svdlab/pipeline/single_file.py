"""Single-file checkpoints: one safetensors in the names of Stability's code, as `svd_xt_1_1.safetensors` and ComfyUI keep SVD.

    >>> pipe = load_pipeline("models/checkpoints/svd_xt_1_1.safetensors")               # doctest: +SKIP
    >>> convert("models/checkpoints/svd_xt_1_1.safetensors", "models/svd-1-1")          # doctest: +SKIP

diffusers has no loader for them. A tensor's name in Stability's code (Stability-AI/generative-models, `VideoUNet`,
`VideoDecoder`; OpenCLIP's ViT) follows from its name in diffusers' model, so one table of patterns reads a file of any size.
"""

import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from shutil import rmtree
from typing import Any
from uuid import uuid4

import torch
from accelerate import init_empty_weights
from diffusers import (
    AutoencoderKLTemporalDecoder,
    EulerDiscreteScheduler,
    StableVideoDiffusionPipeline,
    UNetSpatioTemporalConditionModel,
)
from safetensors import safe_open
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModelWithProjection

from svdlab.errors import CheckpointError, InputError, path, shown, takes, whole
from svdlab.pipeline.conditions import PRESETS, SINGLE_FILES, file_preset

VAE: dict[str, Any] = dict(
    down_block_types=("DownEncoderBlock2D",) * 4, block_out_channels=(128, 256, 512, 512), layers_per_block=2, sample_size=768
)
IMAGE_ENCODER: dict[str, Any] = dict(
    hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=16, patch_size=14, projection_dim=1024
)
TIMES: dict[str, Any] = dict(steps_offset=1, timestep_spacing="leading", timestep_type="continuous", num_train_timesteps=1000)
BETAS: dict[str, Any] = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", interpolation_type="linear")
SIGMAS: dict[str, Any] = dict(sigma_min=0.002, sigma_max=700.0, use_karras_sigmas=True, prediction_type="v_prediction")
SCHEDULER = TIMES | BETAS | SIGMAS
DIFFUSERS: dict[str, Any] = {
    "unet": UNetSpatioTemporalConditionModel,
    "vae": AutoencoderKLTemporalDecoder,
    "scheduler": EulerDiscreteScheduler,
}
NUM_FRAMES = partial(whole, least=2, most=4096)
UNET, CLIP = "model.diffusion_model.", "conditioner.embedders.0.open_clip.model.visual."
ENCODER, DECODER = "conditioner.embedders.3.encoder.", "first_stage_model."
HOMES = {"the UNet": UNET, "the image encoder": CLIP, "the VAE's encoder": ENCODER, "the VAE's decoder": DECODER + "decoder."}

RESIDUAL = {  # a residual block of the UNet, and the temporal ones of the VAE
    r"\bnorm1\b": "in_layers.0",
    r"\bconv1\b": "in_layers.2",
    r"\btime_emb_proj\b": "emb_layers.1",
    r"\bnorm2\b": "out_layers.0",
    r"\bconv2\b": "out_layers.3",
    r"\bconv_shortcut\b": "skip_connection",
}
OUTSIDE = {
    r"^conv_in\.": "input_blocks.0.0.",
    r"^time_embedding\.linear_1": "time_embed.0",
    r"^time_embedding\.linear_2": "time_embed.2",
    r"^add_embedding\.linear_1": "label_emb.0.0",
    r"^add_embedding\.linear_2": "label_emb.0.2",
    r"^conv_norm_out": "out.0",
    r"^conv_out": "out.2",
}
ATTENTION = {r"temporal_transformer_blocks": "time_stack", r"time_pos_embed\.linear_1": "time_pos_embed.0"}
ATTENTION |= {r"time_pos_embed\.linear_2": "time_pos_embed.2"}
AUTOENCODER = {
    r"mid_block\.attentions\.0\.group_norm": "mid.attn_1.norm",
    r"mid_block\.attentions\.0\.to_out\.0": "mid.attn_1.proj_out",
    r"mid_block\.attentions\.0\.to_([qkv])": r"mid.attn_1.\1",
    r"mid_block\.resnets\.0": "mid.block_1",
    r"mid_block\.resnets\.1": "mid.block_2",
    r"resnets\.(\d+)": r"block.\1",
    r"(down|up)_blocks": r"\1",
    r"(down|up)samplers\.0": r"\1sample",
    r"conv_shortcut": "nin_shortcut",
    r"conv_norm_out": "norm_out",
    r"time_conv_out": "conv_out.time_mix_conv",
    r"spatial_res_block\.": "",
    r"time_mixer\.": "",
}
OPEN_CLIP = {
    r"embeddings\.class_embedding": "class_embedding",
    r"embeddings\.patch_embedding": "conv1",
    r"embeddings\.position_embedding\.weight": "positional_embedding",
    r"pre_layrnorm": "ln_pre",
    r"post_layernorm": "ln_post",
    r"encoder\.layers": "transformer.resblocks",
    r"layer_norm": "ln_",
    r"mlp\.fc1": "mlp.c_fc",
    r"mlp\.fc2": "mlp.c_proj",
    r"self_attn\.[qkv]_proj\.": "attn.in_proj_",
    r"self_attn": "attn",
    r"visual_projection\.weight": "proj",
}


def stability_name(part: str, key: str, config: dict[str, Any]) -> str:
    """The name in Stability's file of a tensor of diffusers' unet, vae or image_encoder with that config.

    >>> stability_name("unet", "mid_block.resnets.1.time_mixer.mix_factor", {})
    'model.diffusion_model.middle_block.2.time_mixer.mix_factor'

    The three projections q, k, v of OpenCLIP's attention are one tensor, so they share a name.
    """
    if part == "image_encoder":
        return CLIP + _renamed(key.removeprefix("vision_model."), OPEN_CLIP)
    if part == "vae":
        if key.startswith("decoder.up_blocks."):  # counted from the output there
            levels = len(config["block_out_channels"])
            key = re.sub(r"up_blocks\.(\d+)", lambda m: f"up_blocks.{levels - 1 - int(m[1])}", key)
        if ".temporal_res_block." in key:
            before, _, after = key.partition("temporal_res_block.")
            key = f"{before}time_stack.{_renamed(after, RESIDUAL)}"
        return (DECODER if key.startswith("decoder.") else ENCODER) + _renamed(key, AUTOENCODER)
    found = re.match(r"(down|up|mid)_block(?:s\.(\d+))?\.(\w+)\.(\d+)\.(.*)", key)
    if not found:
        return UNET + _renamed(key, OUTSIDE)
    side, level, kind, j, rest = found[1], int(found[2] or 0), found[3], int(found[4]), found[5]
    if kind == "resnets":
        rest = _renamed(rest.replace("spatial_res_block.", "").replace("temporal_res_block", "time_stack"), RESIDUAL)
    elif kind == "attentions":
        rest = _renamed(rest, ATTENTION)
    if side == "mid":
        return f"{UNET}middle_block.{1 if kind == 'attentions' else 2 * j}.{rest}"
    layers = config["layers_per_block"]
    last = layers if kind.endswith("samplers") else j
    if side == "down":
        rest = rest.replace("conv.", "op.") if kind == "downsamplers" else rest
        return f"{UNET}input_blocks.{1 + level * (layers + 1) + last}.{int(kind == 'attentions')}.{rest}"
    attended = "CrossAttn" in config["up_block_types"][level]
    place = {"resnets": 0, "attentions": 1}.get(kind, 1 + attended)
    return f"{UNET}output_blocks.{level * (layers + 1) + last}.{place}.{rest}"


def read_parts(file: str | os.PathLike[str], parts: dict[str, Any], dtype: torch.dtype | None = None) -> dict[str, Any]:
    """The models `parts` (unet, vae, image_encoder; of any weights, or on "meta") with the tensors of a single file.

    dtype: None for the file's own.
    Every tensor of every model is there with its shape, or CheckpointError names those
    that are missing, different or unknown.
    """
    with _opened(file) as tensors:
        held = set(tensors.keys())
        _recognise(Path(file), held, lambda key: tuple(tensors.get_slice(key).get_shape()))
        wrong, known = list[str](), set[str]()
        for part, model in parts.items():
            state = {}
            config = model.config if isinstance(model.config, dict) else model.config.to_dict()
            for key, wanted in model.state_dict().items():
                name = stability_name(part, key, dict(config))
                known.add(name)
                if name not in held:
                    wrong.append(f"{name} is missing")
                    continue
                tensor = _fitted(key, tensors.get_tensor(name))
                if tensor.shape != wanted.shape or not tensor.is_floating_point():
                    wrong.append(f"{name} is {tuple(tensor.shape)} {tensor.dtype}, not {tuple(wanted.shape)}")
                state[key] = tensor.to(dtype or tensor.dtype).contiguous()
            if not wrong:  # a part's tensors live once
                model.load_state_dict(state, assign=True)
        wrong += [f"{name} is unknown" for name in sorted(held - known) if name.startswith(tuple(HOMES.values()))]
        if wrong:
            raise CheckpointError(f"{file} does not fit the model, in {len(wrong)} tensors: {', '.join(wrong[:3])}.")
    return {part: model.eval().requires_grad_(False) for part, model in parts.items()}


@takes(file=path, folder=path, num_frames=NUM_FRAMES, configs=path)
def convert(
    file: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    num_frames: int | None = None,
    configs: str | os.PathLike[str] | None = None,
) -> Path:
    """Write a single file as a new folder in diffusers' layout, in the file's own dtype.

    >>> convert("svd_xt_1_1.safetensors", "models/svd-1-1")                             # doctest: +SKIP

    num_frames: 14 or 25, default by the file's name. configs: a folder in diffusers' layout whose settings are used, for
    models that are not of SVD's size. Raises CheckpointError for files that are not SVD, InputError where `folder` exists.
    """
    if Path(folder).exists():
        raise InputError(f"folder={str(folder)!r} exists: give a new one.")
    parts = full_size(frames_of(Path(file), num_frames)) if configs is None else _as_in(configs)
    models = read_parts(file, {part: parts[part] for part in ("unet", "vae", "image_encoder")})
    part = Path(folder).with_name(f"{Path(folder).name}.{uuid4().hex}")
    try:
        StableVideoDiffusionPipeline(**{**parts, **models}).save_pretrained(part)
        part.rename(folder)
    finally:
        rmtree(part, ignore_errors=True)
    return Path(folder)


def full_size(num_frames: int = 25) -> dict[str, Any]:
    """SVD's own parts in full size, without numbers (on "meta"): unet, vae, image_encoder, scheduler, feature_extractor.

    >>> full_size()["unet"].num_parameters()
    1524623082

    The UNet is diffusers' class by default, VAE and schedule are svd_xt.yaml's, the image encoder is OpenCLIP's ViT-H/14. The
    checkpoints SVD, SVD_XT and SVD_1_1 differ in weights and in the number of frames only.
    """
    with init_empty_weights():
        unet = UNetSpatioTemporalConditionModel(sample_size=96, num_frames=num_frames)
        vae = AutoencoderKLTemporalDecoder(**VAE)
        encoder = CLIPVisionModelWithProjection(CLIPVisionConfig(**IMAGE_ENCODER, image_size=224, hidden_act="gelu"))
    scheduler, extractor = EulerDiscreteScheduler(**SCHEDULER), CLIPImageProcessorPil()
    return dict(unet=unet, vae=vae, image_encoder=encoder, scheduler=scheduler, feature_extractor=extractor)


def _as_in(configs: str | os.PathLike[str]) -> dict[str, Any]:
    """Parts without numbers, with the settings of a folder in diffusers' layout."""
    try:
        with init_empty_weights():
            parts = {part: cls.from_config(cls.load_config(Path(configs, part))) for part, cls in DIFFUSERS.items()}
            encoder = CLIPVisionConfig.from_pretrained(Path(configs, "image_encoder"), local_files_only=True)
            parts["image_encoder"] = CLIPVisionModelWithProjection(encoder)
    except Exception as error:  # diffusers and transformers have several for a file that is absent or damaged
        words = " ".join(str(error).split())[:300]
        raise CheckpointError(f"configs={str(configs)!r} is no checkpoint in diffusers' layout: {words}") from None
    return {**parts, "feature_extractor": CLIPImageProcessorPil()}


def frames_of(file: Path, num_frames: int | None) -> int:
    """14 or 25, by the file's name where `num_frames` is None: the weights of both have the same shapes."""
    named = file_preset(file)
    if num_frames is None and named is None:
        allowed = ", ".join(f"{name}.safetensors" for name in SINGLE_FILES)
        raise InputError(f"{file.name} does not tell its number of frames: give num_frames=14 or 25, or call it {allowed}.")
    return num_frames or int(PRESETS[str(named)].num_frames or 0)


def _renamed(key: str, names: dict[str, str]) -> str:
    for pattern, name in names.items():
        key = re.sub(pattern, name, key)
    return key


def _fitted(key: str, tensor: torch.Tensor) -> torch.Tensor:
    """A tensor of Stability's file as diffusers has it: q, k, v apart; the projection transposed; 1x1 convolutions flat."""
    if third := re.search(r"self_attn\.([qkv])_proj", key):
        return tensor.chunk(3)["qkv".index(third[1])]
    if key == "visual_projection.weight":
        return tensor.T
    return tensor[:, :, 0, 0] if ".attentions.0.to_" in key and tensor.ndim == 4 else tensor


def _opened(file: str | os.PathLike[str]) -> Any:
    try:
        return safe_open(str(file), "pt")
    except Exception as error:
        raise CheckpointError(f"{file} is not a whole safetensors file: {error}") from None


def _recognise(file: Path, held: set[str], shape: Callable[[str], tuple[int, ...]]) -> None:
    """CheckpointError that names what the file holds, unless it is SVD in all its parts."""
    labels = f"{UNET}label_emb.0.0.weight"
    size = shape(labels)[1] if labels in held and len(shape(labels)) == 2 else 0
    temporal = any(".time_stack." in key for key in held)
    spatial_decoder = any(key.startswith(DECODER + "decoder.") for key in held) and not any(
        key.startswith(DECODER + "decoder.") and "time_stack" in key for key in held
    )
    missing = [what for what, home in HOMES.items() if not any(key.startswith(home) for key in held)]
    what = ""
    if any("lora" in key.lower() for key in held):
        what = "a LoRA, not a checkpoint"
    elif len(missing) == len(HOMES):
        what = "no checkpoint of Stability's code" + (": it has diffusers' names" if "conv_in.weight" in held else "")
    elif not temporal:
        what = "an image model (Stable Diffusion): it has no temporal layers"
    elif "conditioner.embedders.1.encoder.quant_conv.weight" in held or size in (256, 1280):
        what = {256: "SV3D_u", 1280: "SV3D_p or SV4D"}.get(size, "SV3D") + ", which is conditioned on camera orbits"
    elif missing:
        what = f"without {' and '.join(missing)}: give a file with all parts, or a folder in diffusers' layout"
    elif spatial_decoder:
        what = "svd_image_decoder, whose decoder is frame by frame: take the file without image_decoder in its name"
    if what:
        raise CheckpointError(f"{shown(file.name)} is {what}. svdlab loads Stable Video Diffusion (image to video).")
