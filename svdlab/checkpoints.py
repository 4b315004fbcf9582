"""Checkpoints in: the organism, a hub id, or a local folder; safetensors only, sizes and provenance recorded.

>>> pipe = load_pipeline()                                                    # the organism, offline
>>> pipe = load_pipeline("stabilityai/stable-video-diffusion-img2vid-xt-1-1", device="cuda")
"""

from __future__ import annotations

import hashlib
import json
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from svdlab.errors import CheckpointError, InputError
from svdlab.pipeline import ProbePipeline, Source

if TYPE_CHECKING:
    pass

NAMES = {
    "SVD": "stabilityai/stable-video-diffusion-img2vid",
    "SVD_XT": "stabilityai/stable-video-diffusion-img2vid-xt",
    "SVD_1_1": "stabilityai/stable-video-diffusion-img2vid-xt-1-1",
}
SHIPPED = ("organism", "organism-fixed")
METADATA = "svdlab.json"  # a checkpoint's own frame size and label, where it is not SVD's 576x1024
PARTS = ("unet", "vae", "image_encoder", "scheduler", "feature_extractor")


def load_pipeline(
    checkpoint: str | Path = "organism",
    *,
    device: str | None = None,
    dtype: torch.dtype | None = None,
    variant: str | None = None,
    offload: str | None = None,
    compile: bool = False,
    revision: str | None = None,
    token: str | None = None,
    local_files_only: bool = False,
) -> ProbePipeline:
    """Load a checkpoint as a ProbePipeline: diffusers' pipeline, which `generate`, `trace` and `sweep` understand.

    checkpoint: "organism", "organism-fixed", one of the names SVD, SVD_XT, SVD_1_1, a hub id, or a folder in
    diffusers' layout. device: default CUDA, then MPS, then CPU. dtype: default float16 on CUDA and MPS, float32 on
    the CPU. offload: "model" or "sequential" (accelerate). compile: torch.compile the UNet. Others as in
    `from_pretrained`. Raises CheckpointError (an OSError) or InputError with what to do.
    """
    if offload not in (None, "model", "sequential"):
        raise InputError(f"offload={offload!r}: give 'model', 'sequential' or None.")
    device = device or default_device()
    dtype = dtype or (torch.float32 if device == "cpu" else torch.float16)
    where, folder = locate(checkpoint)
    try:
        pipe = ProbePipeline.from_pretrained(
            str(folder or where),
            dtype=dtype,
            use_safetensors=True,
            variant=variant,
            revision=revision,
            token=token,
            local_files_only=local_files_only or folder is not None,
            **_feature_extractor(),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(_explain(str(checkpoint), error)) from error
    pipe.source = describe(str(checkpoint), folder, revision)
    pipe.set_progress_bar_config(disable=True)
    if offload == "model":
        pipe.enable_model_cpu_offload(device=device)
    elif offload == "sequential":
        pipe.enable_sequential_cpu_offload(device=device)
    else:
        pipe.to(device)
    if compile:
        pipe.unet = torch.compile(pipe.unet)
    return pipe


def default_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def locate(checkpoint: str | Path) -> tuple[str, Path | None]:
    """A name, hub id or folder, as (what to load, the folder if it is on this disk)."""
    name = str(checkpoint)
    if name in SHIPPED:
        folder = Path(str(resources.files("svdlab"))) / "organism" / "weights" / name
        if not folder.is_dir():
            raise CheckpointError(f"the checkpoint {name!r} did not come with this installation: {folder} is missing.")
        return name, folder
    name = NAMES.get(name, name)
    if Path(name).is_dir():
        folder = Path(name)
        if not (folder / "model_index.json").exists():
            raise CheckpointError(
                f"{folder} has no model_index.json: a checkpoint folder in diffusers' layout is needed "
                f"(model_index.json beside {', '.join(PARTS)}/)."
            )
        return name, folder
    if Path(name).exists():
        raise CheckpointError(
            f"{name} is a single file: svdlab loads folders in diffusers' layout. The same model in that layout is on "
            f"the hub, for example {NAMES['SVD_1_1']}."
        )
    if name.count("/") != 1 or name.startswith((".", "/")):
        raise CheckpointError(
            f"no checkpoint {name!r}: give {', '.join(SHIPPED + tuple(NAMES))}, a hub id like 'owner/name', or a folder."
        )
    return name, None


def _feature_extractor() -> dict[str, Any]:
    """SVD's image processor is CLIP's own; naming it here spares transformers' warning where torchvision is absent."""
    from transformers import CLIPImageProcessorPil

    return {"feature_extractor": CLIPImageProcessorPil()}


def _explain(checkpoint: str, error: Exception) -> str:
    return f"{checkpoint!r} could not be loaded: {error}"


def describe(checkpoint: str, folder: Path | None, revision: str | None) -> Source:
    """Provenance of a checkpoint; a folder's own svdlab.json may name frame size, label and licence."""
    if folder is None:
        return Source(checkpoint=checkpoint, revision=revision)
    metadata = folder / METADATA
    extra = json.loads(metadata.read_text()) if metadata.exists() else {}
    known = {k: extra[k] for k in ("height", "width", "label", "licence") if k in extra}
    return Source(checkpoint=checkpoint, revision=revision, weights_hash=hash_weights(folder), **known)


def hash_weights(folder: Path) -> str:
    """sha256 over the names and bytes of the safetensors files and configs that make a checkpoint."""
    digest = hashlib.sha256()
    for part in PARTS[:4]:
        for path in sorted((folder / part).glob("*")):
            if path.suffix in (".safetensors", ".json"):
                digest.update(f"{part}/{path.name}".encode())
                with open(path, "rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
