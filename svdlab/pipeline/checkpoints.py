"""Checkpoints in: the organism, a hub id, or a local folder; safetensors only, sizes and provenance recorded.

    >>> pipe = load_pipeline()                                         # the organism, offline
    >>> pipe = load_pipeline("SVD_1_1", device="cuda")                 # gated: accept its licence on the hub first
    >>> pipe = load_pipeline("models/my-svd", dtype=torch.bfloat16)    # a folder in diffusers' layout

Wherever it comes from, a checkpoint is looked at before it is loaded: its layout, that its weights are safetensors, which
variant suits the dtype. What is needed is then read from one folder, which for a hub id lies in the hub's cache.
"""

from __future__ import annotations

import json
import re
import struct
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import diffusers.utils.logging
import torch
import transformers.utils.logging

from svdlab.errors import CheckpointError, InputError
from svdlab.measure.video import SVD_1_1, licence_line, show_licence
from svdlab.pipeline import files, hub
from svdlab.pipeline.generate import ProbePipeline, Source
from svdlab.pipeline.memory import advice, is_out_of_memory

NAMES = {
    "SVD": "stabilityai/stable-video-diffusion-img2vid",
    "SVD_XT": "stabilityai/stable-video-diffusion-img2vid-xt",
    "SVD_1_1": SVD_1_1,
}
SHIPPED = ("organism", "organism-fixed")
METADATA = "svdlab.json"  # a checkpoint's own frame size, label, licence and stimuli, where they are not SVD's
INDEX = "model_index.json"
PARTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "image_encoder": "model"}  # and their files
CLASSES = {
    "unet": ("diffusers", "UNetSpatioTemporalConditionModel"),
    "vae": ("diffusers", "AutoencoderKLTemporalDecoder"),
    "image_encoder": ("transformers", "CLIPVisionModelWithProjection"),
    "scheduler": ("diffusers", "EulerDiscreteScheduler"),
}
LAYOUT = f"diffusers' layout ({INDEX} beside {', '.join(PARTS)}, scheduler and feature_extractor)"
PICKLED = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class SlowDtypeWarning(UserWarning):
    """Half precision on a CPU that has no instructions for it."""


def load_pipeline(
    checkpoint: str | Path = "organism",
    *,
    device: str | None = None,
    dtype: torch.dtype | str | None = None,
    variant: str | None = None,
    offload: str | None = None,
    compile: bool = False,
    revision: str | None = None,
    token: str | None = None,
    local_files_only: bool = False,
) -> ProbePipeline:
    """Load a checkpoint as a ProbePipeline: diffusers' pipeline, which `generate`, `trace` and `sweep` understand.

    >>> pipe = load_pipeline("SVD_1_1", offload="model", revision="refs/pr/1")
    >>> pipe.source.revision, pipe.source.licence

    checkpoint: "organism", "organism-fixed", one of the names SVD, SVD_XT, SVD_1_1, a hub id, or a folder in
    diffusers' layout. device: default CUDA, then MPS, then CPU. dtype: float32, float16 or bfloat16, as torch has them or
    by name; default float16 on CUDA and MPS, float32 on the CPU. variant: of the weight files; default "fp16" for float16
    where there is one. offload: "model" (each part is moved to the device when its turn comes) or "sequential" (layer by
    layer). compile: torch.compile the UNet. revision: branch, tag or commit on the hub; the commit is recorded. token: for
    the hub, otherwise `hf auth login` or HF_TOKEN; stored nowhere. local_files_only: ask nobody, use the hub's cache.
    Raises InputError, or CheckpointError (an OSError), which says what to do. The licence line is printed once.
    """
    token = hub.Secret(token) if token is not None else None
    device = _device(device)
    dtype = _dtype(dtype, device)
    if offload not in (None, "model", "sequential"):
        raise InputError(f"offload={offload!r}: give 'model', 'sequential' or None.")
    if offload and device == "cpu":
        raise InputError(
            f"offload={offload!r} moves weights between CPU and an accelerator, and device is 'cpu': leave it out."
        )
    name, folder, revision = resolve(
        checkpoint, dtype=dtype, variant=variant, revision=revision, token=token, local_files_only=local_files_only
    )
    variant, used = choose_files(files.names_in(folder), dtype, variant, str(checkpoint))
    source = replace(describe(name, folder, revision, used), variant=variant)
    show_licence(source.checkpoint, source.licence)
    _say_if_slow(dtype, device)
    pipe = _read(folder, dtype, variant, str(checkpoint))
    pipe.source = source
    pipe.set_progress_bar_config(disable=True)
    try:
        if offload == "model":
            pipe.enable_model_cpu_offload(device=device)
        elif offload == "sequential":
            pipe.enable_sequential_cpu_offload(device=device)
        else:
            pipe.to(device)
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise CheckpointError(f"{name}'s weights do not fit on {device}. {advice(pipe, offload=offload)}") from error
        raise
    if compile:
        pipe.unet = torch.compile(pipe.unet)
    return pipe


def _say_if_slow(dtype: torch.dtype, device: str) -> None:
    # On AVX2 one 3x3 convolution of 128 channels took 190 times as long in bfloat16 as in float32 (torch 2.13).
    capability = torch.backends.cpu.get_cpu_capability()
    if device == "cpu" and dtype != torch.float32 and not capability.startswith("AVX512"):
        warnings.warn(
            f"{str(dtype).removeprefix('torch.')} on this CPU ({capability}) may take a hundred times as long as float32: "
            f"load with dtype='float32' unless memory forbids it.",
            SlowDtypeWarning,
            stacklevel=3,
        )


def default_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _device(device: str | None) -> str:
    if device is None:
        return default_device()
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise InputError(f"device={device!r}: give 'cuda', 'cuda:1', 'mps' or 'cpu'.") from error
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(kind, True):
        raise InputError(
            f"device={device!r}: torch {torch.__version__} sees no such device here. Leave device out for "
            f"{default_device()!r}; `svdlab doctor` says what this machine has."
        )
    return str(device)


def _dtype(dtype: torch.dtype | str | None, device: str) -> torch.dtype:
    if dtype is None:
        return torch.float32 if device == "cpu" else torch.float16
    chosen = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if chosen is None or chosen not in DTYPES.values():
        raise InputError(f"dtype={dtype!r}: give {', '.join(DTYPES)}, as torch.{next(iter(DTYPES))} or by name.")
    return chosen


# --- where it is ------------------------------------------------------------------------------------------------------


def locate(checkpoint: str | Path) -> tuple[str, Path | None]:
    """A name, hub id or folder, as (what is recorded, the folder if it is on this disk)."""
    name = str(checkpoint)
    if name in SHIPPED:
        folder = Path(str(resources.files("svdlab"))) / "organism" / "weights" / name
        if not folder.is_dir():
            raise CheckpointError(f"the checkpoint {name!r} did not come with this installation: {folder} is missing.")
        return name, folder
    name = NAMES.get(name, name)
    path = Path(name)
    if name and path.is_dir():
        if not (path / INDEX).is_file():
            beside = sorted(p.name for p in path.iterdir() if p.is_file())
            raise CheckpointError(f"{path} has no {INDEX}: {_needed_layout(beside)}")
        return name, path
    if name and path.exists():
        raise CheckpointError(_single_file(path))
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name):
        raise CheckpointError(
            f"no checkpoint {name!r}: give {', '.join((*SHIPPED, *NAMES))}, a hub id like 'owner/name', or a folder."
        )
    return name, None


def resolve(
    checkpoint: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    variant: str | None = None,
    revision: str | None = None,
    token: str | None = None,
    local_files_only: bool = False,
) -> tuple[str, Path, str | None]:
    """A checkpoint as (what is recorded, its folder on this disk, its commit); downloaded where that is needed."""
    name, folder = locate(checkpoint)
    if folder is None:
        snapshot = hub.fetch(
            name,
            choose=lambda names: choose_files(names, dtype, variant, name)[1],
            revision=revision,
            token=token,
            local_files_only=local_files_only,
        )
        return name, snapshot.folder, snapshot.commit
    where = folder.resolve()
    commit = where.name if where.parent.name == "snapshots" and hub.COMMIT.fullmatch(where.name) else None
    if revision not in (None, commit):
        raise InputError(f"revision={revision!r}: {folder} is a folder, which has none; revisions are for hub ids.")
    return name, folder, commit


# --- what it is made of -----------------------------------------------------------------------------------------------


def choose_files(
    names: Sequence[str], dtype: torch.dtype, variant: str | None, checkpoint: str
) -> tuple[str | None, list[str]]:
    """The variant that suits, and the files that are needed: weights, configs, card and licence; never code.

    Raises CheckpointError where the layout is another one, where weights are only there pickled, where shards are missing,
    or where there is no such variant.
    """
    if INDEX not in names:
        raise CheckpointError(f"{checkpoint} has no {INDEX}: {_needed_layout(names)}")
    found = {part: _variants(names, part) for part in PARTS}
    for part, variants in found.items():
        if not variants:
            raise CheckpointError(_no_weights(names, part, checkpoint))
    common = [v for v in found["unet"] if all(v in variants for variants in found.values())]
    if variant is None:
        preferred = ["fp16", ""] if dtype == torch.float16 else [""]
        variant = next((v for v in [*preferred, *common] if v in common), None)
        if variant is None:
            raise CheckpointError(f"{checkpoint}: its parts share no variant of the weights: {_listed(found)}.")
    elif variant not in common:
        raise CheckpointError(f"{checkpoint} has no variant {variant!r} of its weights: it has {_listed(found)}.")
    weights = [name for part in PARTS for name in found[part][variant]]
    small = [INDEX, METADATA, *(n for n in names if re.fullmatch(r"(README|LICENSE|NOTICE)(\.\w+)?", n))]
    configs = [n for n in names if re.fullmatch(rf"({'|'.join(CLASSES)}|feature_extractor)/\w*config\.json", n)]
    return variant or None, [n for n in (*small, *configs, *weights) if n in names]


def _variants(names: Sequence[str], part: str) -> dict[str, list[str]]:
    """Variant to files of one part, "" being the plain one; raises CheckpointError where shards are missing."""
    stem = re.escape(PARTS[part])
    pattern = re.compile(rf"{part}/{stem}(?:\.([\w]+))?(?:-(\d+)-of-(\d+))?\.safetensors")
    indices = re.compile(rf"{part}/{stem}\.safetensors\.index(?:\.(\w+))?\.json")
    found: dict[str, list[str]] = {}
    for name in sorted(names):
        match = pattern.fullmatch(name)
        if match:
            found.setdefault(match[1] or "", []).append(name)
    for variant, shards in found.items():
        last = pattern.fullmatch(shards[-1])
        if last and last[3]:
            shards[:] = [name for name in shards if pattern.fullmatch(name)[3]]  # type: ignore[index]
            missing = int(last[3]) - len(shards)
            index = [n for n in names if (m := indices.fullmatch(n)) and (m[1] or "") == variant]
            if missing or not index:
                what = f"{missing} of the {int(last[3])} files" if missing else "the index (.safetensors.index.json)"
                raise CheckpointError(
                    f"the weights of {part} are in several files, and {what} are missing beside {shards[-1]}."
                )
            shards += index
    return found


def _listed(found: dict[str, dict[str, list[str]]]) -> str:
    return "; ".join(
        f"{part}: {', '.join(v or 'the plain one' for v in sorted(variants))}" for part, variants in found.items()
    )


def _no_weights(names: Sequence[str], part: str, checkpoint: str) -> str:
    pickled = [n for n in names if n.startswith(f"{part}/") and n.endswith(PICKLED)]
    if not pickled:
        return f"{checkpoint} has no weights for its {part}: {part}/{PARTS[part]}.safetensors is missing."
    return (
        f"{checkpoint} has the weights of its {part} only as {pickled[0]}, which is a pickle: reading it runs whatever code "
        f"its author put in, so svdlab never does. Look for a revision with .safetensors, or have the file converted by "
        f"https://huggingface.co/spaces/safetensors/convert."
    )


def _needed_layout(names: Sequence[str]) -> str:
    single = [n for n in names if "/" not in n and n.endswith((".safetensors", *PICKLED))]
    if single:
        return (
            f"it holds {single[0]}, a model in one file, as Stability's scripts and ComfyUI use. svdlab loads {LAYOUT}. "
            f"{_where_to_get_it()}"
        )
    return f"svdlab loads {LAYOUT}."


def _where_to_get_it() -> str:
    return (
        f"Stability's own models are on the hub in that layout: load_pipeline('SVD_1_1') fetches {SVD_1_1}. A fine-tuned one "
        f"is converted by scripts/convert_svd_to_diffusers.py of the diffusers repository."
    )


def _single_file(path: Path) -> str:
    if path.suffix in PICKLED:
        return f"{path} is a pickle, which can run code when it is read: svdlab reads safetensors only, in {LAYOUT}."
    keys = _keys(path)
    which = "a single file"
    if any(k.startswith("model.diffusion_model.") for k in keys):
        which = "a model in one file, in the layout of Stability's scripts and ComfyUI (model.diffusion_model...)"
    elif any(k.startswith(("down_blocks.", "mid_block.")) for k in keys):
        which = "one part of a checkpoint (a UNet's or VAE's weights)"
    return f"{path} is {which}: svdlab loads {LAYOUT}. {_where_to_get_it()}"


def _keys(path: Path) -> list[str]:
    """The names in a safetensors file, by its header alone; [] where it has none."""
    try:
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            return list(json.loads(file.read(min(length, 100_000_000))))
    except (OSError, ValueError, struct.error):
        return []


def _read(folder: Path, dtype: torch.dtype, variant: str | None, checkpoint: str) -> ProbePipeline:
    _check_classes(folder, checkpoint)
    try:
        with _bars(sum(path.stat().st_size for path in folder.rglob("*.safetensors")) > 1e9):
            return ProbePipeline.from_pretrained(
                str(folder), dtype=dtype, use_safetensors=True, variant=variant, local_files_only=True, **_feature_extractor()
            )
    except Exception as error:  # safetensors, diffusers and transformers each have their own for a damaged file
        if is_out_of_memory(error):
            raise CheckpointError(f"{checkpoint} does not fit into this machine's memory while loading: {error}") from error
        raise CheckpointError(
            f"{checkpoint} could not be loaded from {folder}: {hub.scrub(str(error))} If a file is damaged: "
            f"`svdlab.pipeline.checkpoints.verify({checkpoint!r})` finds it."
        ) from error


@contextmanager
def _bars(wanted: bool) -> Iterator[None]:
    """Loading bars where there is something to wait for: in a notebook they stay on the page."""
    libraries = [diffusers.utils.logging, transformers.utils.logging]
    before = [library.is_progress_bar_enabled() for library in libraries]
    try:
        for library in libraries if not wanted else []:
            library.disable_progress_bar()
        yield
    finally:
        for library, was in zip(libraries, before, strict=True):
            if was:
                library.enable_progress_bar()


def _check_classes(folder: Path, checkpoint: str) -> None:
    """Only SVD's own classes are loaded, from the libraries they belong to; no code that a checkpoint brings."""
    try:
        index = json.loads((folder / INDEX).read_text())
        named = {part: tuple(index.get(part) or ()) for part in CLASSES}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{folder / INDEX} cannot be read: {error}") from error
    for part, wanted in CLASSES.items():
        if named[part] != wanted:
            raise CheckpointError(
                f"{checkpoint} is a {index.get('_class_name', 'checkpoint')} whose {part} is "
                f"{'.'.join(map(str, named[part])) or 'missing'}: svdlab loads Stable Video Diffusion "
                f"image-to-video, whose {part} is {'.'.join(wanted)}."
            )


def _feature_extractor() -> dict[str, Any]:
    """SVD's image processor is CLIP's own; naming it here spares transformers' warning where torchvision is absent."""
    from transformers import CLIPImageProcessorPil

    return {"feature_extractor": CLIPImageProcessorPil()}


# --- what is recorded of it -------------------------------------------------------------------------------------------


def describe(checkpoint: str, folder: Path, revision: str | None, used: Sequence[str]) -> Source:
    """Provenance of a checkpoint; a folder's own svdlab.json may name frame size, label, licence and stimuli."""
    metadata = folder / METADATA
    try:
        extra = json.loads(metadata.read_text()) if metadata.exists() else {}
        known = {k: extra[k] for k in ("height", "width", "label", "licence", "stimuli") if k in extra}
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{metadata} cannot be read: {error}") from error
    repo_id = checkpoint if hub.COMMIT.fullmatch(revision or "") and not Path(checkpoint).exists() else None
    known.setdefault("licence", licence_line(repo_id, _card(folder)))
    return Source(checkpoint=checkpoint, revision=revision, weights_hash=hash_weights(folder, used), **known)


def _card(folder: Path) -> dict[str, Any]:
    """The header of the model card, read by the hub's safe YAML loader; {} where there is none."""
    from huggingface_hub import metadata_load

    try:
        return dict(metadata_load(folder / "README.md") or {})
    except Exception:  # a card that nobody can read says nothing
        return {}


def hash_weights(folder: Path, used: Sequence[str] | None = None) -> str:
    """One sha256 over names and hashes of the configs and weights that are loaded: the same for a hub's snapshot and a copy.

    Files in the hub's cache bear their sha256 as a name, which is taken (`verify` checks it); others are read, large
    ones once only, until they change.
    """
    names = files.names_in(folder) if used is None else used
    parts = [n for n in names if n.split("/")[0] in CLASSES and n.endswith((".safetensors", ".json"))]
    return hub.digest([(n, hub.blob_sha256(folder / n) or files.sha256(folder / n)) for n in sorted(parts)])


def verify(checkpoint: str | Path, *, revision: str | None = None, token: str | None = None) -> int:
    """Check every file of a checkpoint from the hub against the hub's checksums; returns how many were checked.

    Damaged ones are removed from the cache and named in a CheckpointError. Asks the hub, and reads every byte.
    """
    name, folder = locate(checkpoint)
    if folder is not None:
        raise InputError(f"{folder} is a folder: only what came from the hub can be checked against it.")
    return hub.verify(name, revision=revision, token=token)
