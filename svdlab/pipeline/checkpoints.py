"""Checkpoints: the model organism, a hub id, a folder in diffusers' layout, or Stability's single file, as a ProbePipeline.

    >>> pipe = load_pipeline()                                                         # the organism, offline
    >>> pipe = load_pipeline("SVD_1_1", device="cuda")                                 # doctest: +SKIP
    >>> pipe = load_pipeline("models/my-svd", dtype=torch.bfloat16)                    # doctest: +SKIP
    >>> pipe = load_pipeline("ComfyUI/models/checkpoints/svd_xt_1_1.safetensors")      # doctest: +SKIP

Only safetensors are read, so nothing is unpickled and no code of a checkpoint runs. diffusers loads and huggingface_hub
downloads; their settings hold (HF_HOME, HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE, proxies).
"""

import hashlib
import os
import re
import sys
from contextlib import suppress
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers.utils import logging as diffusers_logging
from huggingface_hub import HfApi, constants, get_token, metadata_load, snapshot_download, try_to_load_from_cache
from huggingface_hub import errors as hub
from safetensors import safe_open
from transformers import CLIPImageProcessorPil
from transformers.utils import logging as transformers_logging

from svdlab.errors import CheckpointError, InputError, flag, kind, one_of, path, shown, takes, text, warn
from svdlab.measure.files import hash_file, read_file, read_json
from svdlab.measure.video import licence_line, show_licence
from svdlab.pipeline.conditions import ABOUT, METADATA, REPOSITORIES, file_preset, line
from svdlab.pipeline.generate import ProbePipeline, Source
from svdlab.pipeline.memory import MODES, choose, make_small
from svdlab.pipeline.quick import compile_blocks
from svdlab.pipeline.single_file import NUM_FRAMES, frames_of, full_size, read_parts

SHIPPED = ("organism", "organism-fixed")
LARGEST = 2**24  # bytes of a JSON file
FLOATS = ("F16", "BF16", "F32", "F64")
WEIGHTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "image_encoder": "model"}
CLASSES = {
    "unet": ["diffusers", "UNetSpatioTemporalConditionModel"],
    "vae": ["diffusers", "AutoencoderKLTemporalDecoder"],
    "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
    "scheduler": ["diffusers", "EulerDiscreteScheduler"],
}
PARTS = rf"({'|'.join(CLASSES)}|feature_extractor)"
SMALL = rf"{PARTS}/(scheduler_|preprocessor_)?config\.json|model_index\.json|{METADATA}|(README|LICENSE|NOTICE)(\.\w+)?"
FOREIGN = re.compile(r"quantization|auto_map|implementation|adapter|custom")  # settings that bring other code or other weights
LAYOUT = "svdlab loads safetensors, in diffusers' layout or as Stability's single file, and no pickles"
HUB_NAME = r"[A-Za-z0-9][\w.-]*"
WEIGHT_FILES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")  # endings of files, never of a hub id
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@takes(checkpoint=kind(str, os.PathLike), dtype=kind(str, torch.dtype), variant=text, offload=text)
@takes(
    device=kind(str, torch.device),
    compile=flag,
    memory=partial(one_of, options=MODES),
    revision=text,
    local_files_only=flag,
    num_frames=NUM_FRAMES,
)
def load_pipeline(
    checkpoint: str | Path = "organism",
    *,
    device: str | None = None,
    dtype: torch.dtype | str | None = None,
    variant: str | None = None,
    offload: str | None = None,
    memory: str = "auto",
    compile: bool = False,
    revision: str | None = None,
    local_files_only: bool = False,
    num_frames: int | None = None,
) -> ProbePipeline:
    """Load a checkpoint as a ProbePipeline: diffusers' pipeline, which `generate`, `trace` and `sweep` understand.

    >>> pipe = load_pipeline("organism-fixed", dtype="float32")
    >>> pipe.source.licence
    'Apache-2.0 (svdlab)'

    checkpoint: organism, organism-fixed, SVD, SVD_XT, SVD_1_1, a hub id, a folder in diffusers' layout, or Stability's single
    file (its folder, where it is the only one). num_frames: that a single file was trained for, 14 or 25; default by its name
    (svd, svd_xt, svd_xt_1_1). device: default CUDA, then MPS, then CPU. dtype: float32, float16 or bfloat16, of torch or by
    name; default float16 on CUDA and MPS, float32 on the CPU. variant: of the weight files; default "fp16" for float16 where
    there is one. offload: "model" (part by part) or "sequential" (layer by layer). memory: "full", "small" (the same clips,
    but for rounding, on a card of 8 GB; slower), or "auto", which takes small where a clip of the checkpoint's size would not
    fit into what is free, and says so; `pipe.memory` tells which. Hooks of your own see one half of the guidance at a time
    where it is small. compile: torch.compile for the UNet's blocks; hooks inside them are refused. revision: branch, tag or
    commit on the hub; the commit is recorded. local_files_only: use the hub's cache alone. The token for a gated one is
    huggingface_hub's own (`hf auth login`, HF_TOKEN). Raises InputError, or CheckpointError (an OSError). The licence line is
    printed once.
    """
    accelerator = torch.accelerator.current_accelerator(check_available=True)  # CUDA, MPS
    here = [*([accelerator.type] if accelerator else []), "cpu"]
    device = str(device or here[0])
    if not re.fullmatch(rf"({'|'.join(here)})(:\d{{1,4}})?", device):
        raise InputError(f"device={shown(device)}: give {' or '.join(here)}, or cuda:1 for one of several.")
    on_cpu = torch.device(device).type == "cpu"
    dtype = one_of("dtype", str(dtype or ("float32" if on_cpu else "float16")).removeprefix("torch."), DTYPES)
    name, folder = locate(checkpoint)
    if offload is not None and one_of("offload", offload, ("model", "sequential")) and on_cpu:
        raise InputError(f"offload={offload!r} moves weights to a GPU, and none is used with device='cpu': leave it out.")
    if folder is None:
        folder = _fetch(name, DTYPES[dtype], variant, revision, local_files_only)
    elif revision not in (None, _commit(folder)):
        raise InputError(f"revision={revision!r}: {folder} is a folder; revisions are for hub ids.")
    if num_frames is not None and not folder.is_file():
        raise InputError(f"num_frames={num_frames} is for single files: {shown(name)} says its own.")
    read = partial(_read_file, num_frames=num_frames) if folder.is_file() else partial(_read, variant=variant)
    pipe = read(name, folder, DTYPES[dtype])
    if memory == "auto" and (memory := choose(pipe, torch.device(device), offload)) == "small":
        print(f"{name}: memory='small', because a clip would not fit into what is free on {device}.", file=sys.stderr)
    placed = memory == "small" and make_small(pipe, torch.device(device), offload)
    if offload == "model":
        pipe.enable_model_cpu_offload(device=device)
    elif offload == "sequential":
        pipe.enable_sequential_cpu_offload(device=device)
    elif not placed:
        pipe.to(device)
    if compile:
        compile_blocks(pipe.unet)
    return pipe


def locate(checkpoint: str | Path) -> tuple[str, Path | None]:
    """A name, hub id, folder or single file, as (what is recorded, the folder or file if it is on this disk)."""
    name = REPOSITORIES.get(str(checkpoint), str(checkpoint))
    if name in SHIPPED:
        return name, Path(str(resources.files("svdlab"))) / "organism" / "weights" / name
    there, folder, files = False, None, []
    with suppress(InputError, OSError):  # "", and names that no file can have
        folder = path("checkpoint", name)
        files = [] if (folder / "model_index.json").exists() else sorted(folder.glob("*.safetensors"))
        there = folder.exists()
    if there and folder is not None:
        folder = _only(files) if files else folder
        if folder.is_dir() or folder.suffix.lower() == ".safetensors":
            return str(folder), folder
    if there or not re.fullmatch(rf"{HUB_NAME}/{HUB_NAME}", name) or Path(name).suffix.lower() in WEIGHT_FILES:
        known, why = ", ".join((*SHIPPED, *REPOSITORIES)), "it is a file" if there else "no such file or folder"
        raise CheckpointError(
            f"no checkpoint {shown(name)} ({why}): give {known}, a hub id 'owner/name', a folder or a .safetensors file. "
            f"{LAYOUT}."
        )
    return name, None


def _only(files: list[Path]) -> Path:
    """The one file of a folder of single files that is SVD by its name, or the only one; CheckpointError where it is open."""
    named = [file for file in files if file_preset(file)]
    chosen = named or files
    if len(chosen) > 1:
        raise CheckpointError(
            f"{chosen[0].parent} holds {', '.join(f.name for f in chosen[:5])}: give the file that is meant."
        )
    if not chosen[0].resolve().is_relative_to(chosen[0].parent.resolve()):
        raise CheckpointError(f"{chosen[0]} is a link to another folder, which is not followed: give the file itself.")
    return chosen[0]


def choose_files(names: list[str], dtype: torch.dtype, variant: str | None, checkpoint: str) -> tuple[str | None, list[str]]:
    """The variant that suits the dtype, and the files that are needed: weights, configs, card and licence; never code.

    float16 takes "fp16" where there is one; otherwise the plain weights are preferred. Raises CheckpointError for another
    layout, for pickled weights, or for a variant that not all parts have.
    """
    found: dict[str, dict[str, list[str]]] = {part: {} for part in WEIGHTS}  # part -> variant ("" for the plain one) -> files
    for part, stem in WEIGHTS.items():
        pattern = rf"{part}/{stem}(?:\.(\w+))?(?:-\d+-of-\d+)?\.safetensors(?:\.index(?:\.(\w+))?\.json)?"
        for match in filter(None, (re.fullmatch(pattern, name) for name in sorted(names))):
            found[part].setdefault(match[1] or match[2] or "", []).append(match[0])
    common = set.intersection(*map(set, found.values()))
    wanted = [variant] if variant else ["fp16"] * (dtype == torch.float16) + ["", *sorted(common)]
    chosen = next((v for v in wanted if v in common), None)
    if chosen is None or "model_index.json" not in names:
        there = "; ".join(f"{part}: {', '.join(v or 'plain' for v in found[part]) or 'none'}" for part in WEIGHTS)
        what = "model_index.json" if chosen else f"variant {variant!r} of all parts" if variant else "weights of all parts"
        raise CheckpointError(f"{checkpoint} has no {what} ({there}). {LAYOUT}.")
    weights = [name for part in WEIGHTS for name in found[part][chosen]]
    return chosen or None, [*(n for n in names if re.fullmatch(SMALL, n)), *weights]


def hash_weights(folder: Path, files: list[str]) -> str:
    """sha256 over names and hashes of configs and weights, the same for the hub's snapshot and a copy of it."""

    cached = _commit(folder) is not None

    def sha(name: str) -> str:
        blob = (folder / name).readlink().name if cached and (folder / name).is_symlink() else ""
        return blob if re.fullmatch(r"[0-9a-f]{64}", blob) else hash_file(folder / name)  # the cache's blobs bear theirs

    names = sorted(n for n in files if n.split("/")[0] in CLASSES and n.endswith((".safetensors", ".json")))
    return hashlib.sha256("".join(f"{name}\0{sha(name)}\n" for name in names).encode()).hexdigest()


def explain(error: Exception, repo_id: str) -> str:
    """What the hub's client raised, as one sentence without secrets: what happened and what to do."""
    hide = lambda said: re.sub(r"//[^/@\s]*@", "//", said.replace(get_token() or "\0", "[token]"))  # of proxies and endpoints
    here = hide(constants.ENDPOINT)
    page, login = f"{here}/{repo_id}", "log in (`hf auth login`, or HF_TOKEN)"
    if isinstance(error, hub.GatedRepoError):
        return f"{repo_id} is gated: accept its licence at {page}, and {login} with that account."
    if isinstance(error, hub.RepositoryNotFoundError):
        return f"{repo_id} does not exist, or is private, and is no folder here: check the name at {page}, or {login}."
    words = hide(str(getattr(error, "server_message", None) or str(error).strip().partition("\n")[0]))
    return f"{repo_id} could not be fetched from {here} ({type(error).__name__}: {words}). Load again to go on."


def _fetch(repo_id: str, dtype: torch.dtype, variant: str | None, revision: str | None, local_files_only: bool) -> Path:
    """The hub's snapshot of the files that are needed; what is in the cache, with a warning, where the hub cannot be asked.

    Errors are raised apart from the client's own, whose frames hold the request and with it the token.
    """
    told = f"{repo_id} is no folder here, and not in the cache ({constants.HF_HUB_CACHE}); "
    told += "local_files_only or HF_HUB_OFFLINE is set."
    online = not (local_files_only or constants.is_offline_mode())
    if online:
        try:
            siblings = HfApi().model_info(repo_id, revision=revision).siblings or []
            files = choose_files([f.rfilename for f in siblings], dtype, variant, repo_id)[1]
            return Path(snapshot_download(repo_id, revision=revision, allow_patterns=files))
        except CheckpointError:
            raise
        except Exception as error:  # whatever the client raises: HTTP errors, timeouts, a full disk
            told = explain(error, repo_id)
    cached = try_to_load_from_cache(repo_id, "model_index.json", revision=revision)
    if not isinstance(cached, str):
        raise CheckpointError(told)
    if online:
        warn(f"{told} The copy in the cache is used.")
    return Path(cached).parent


def _commit(folder: Path) -> str | None:
    where = folder.resolve()
    return where.name if where.parent.name == "snapshots" and re.fullmatch(r"[0-9a-f]{40}", where.name) else None


def _inside(folder: Path, files: list[str]) -> None:
    """ValueError for a file that is a link to elsewhere; the hub's snapshots are links to blobs of the same repository."""
    home = folder.resolve() if _commit(folder) is None else folder.resolve().parents[1]
    if outside := [name for name in files if not (folder / name).resolve().is_relative_to(home)]:
        raise ValueError(f"{outside[0]} is a link to another folder, which is not followed: put the file itself there.")


def _compare(folder: Path, part: str, files: list[str]) -> None:
    """ValueError unless a part's settings bring nothing foreign, and its weight files hold the model's keys and shapes."""
    weights = [name for name in files if name.endswith(".safetensors")]
    for name in (n for n in files if n.endswith(".json")):
        settings = kind(dict)(name, read_json(folder / name, LARGEST))
        if foreign := [key for key in settings if FOREIGN.search(key)]:
            raise ValueError(f"{name} sets {foreign[0]}: svdlab loads the plain model only.")
        listed = kind(dict)("weight_map", settings.get("weight_map", {})) if ".index." in name else {}
        if wrong := [shard for shard in listed.values() if f"{part}/{shard}" not in weights]:
            raise ValueError(f"{name} names {shown(wrong[0])}, which is none of its safetensors shards.")
    if not weights:
        return
    if (folder / part / "adapter_config.json").exists():  # which transformers would follow, wherever it points
        raise ValueError(f"{part} has an adapter_config.json: load the adapter yourself, with pipe.unet.load_lora_adapter.")
    cls = getattr({"diffusers": diffusers, "transformers": transformers}[CLASSES[part][0]], CLASSES[part][1])
    with torch.device("meta"):
        if part == "image_encoder":
            model = cls(cls.config_class.from_pretrained(folder / part, local_files_only=True))
        else:
            model = cls.from_config(cls.load_config(folder / part, local_files_only=True))
    wanted, held = {key: tuple(value.shape) for key, value in model.state_dict().items()}, {}
    for name in weights:
        with safe_open(str(folder / name), "pt") as file:
            for key in file.keys():  # noqa: SIM118 - not a dict
                tensor = file.get_slice(key)
                held[key] = tuple(tensor.get_shape()) if tensor.get_dtype() in FLOATS else tensor.get_dtype()
    wrong = [f"{key} is missing" for key in wanted if key not in held]
    wrong += [f"{key} is {held[key]}, not {shape}" for key, shape in wanted.items() if held.get(key, shape) != shape]
    wrong += [f"{key} is unknown" for key in held if key not in wanted and not key.endswith("position_ids")]
    if wrong:
        raise ValueError(f"the weights of {part} do not fit the model, in {len(wrong)} tensors: {', '.join(wrong[:3])}.")


def _read_file(name: str, file: Path, dtype: torch.dtype, num_frames: int | None) -> ProbePipeline:
    """Stability's single file as a pipeline of SVD's own classes, in full size."""
    parts = full_size(frames_of(file, num_frames))
    models = read_parts(file, {part: parts[part] for part in WEIGHTS}, dtype)
    pipe = ProbePipeline(**{**parts, **models})
    licence = licence_line(REPOSITORIES[str(file_preset(file))] if file_preset(file) else None, {})
    pipe.source = Source(name, weights_hash=hash_file(file), licence=licence)
    show_licence(name, licence)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _read(name: str, folder: Path, dtype: torch.dtype, variant: str | None) -> ProbePipeline:
    """diffusers' own loading, of SVD's own classes only, without its progress bars."""
    parts = (*CLASSES, "feature_extractor")
    try:
        _inside(folder, list(parts))
    except ValueError as error:
        raise CheckpointError(f"{folder} could not be loaded: {error}") from error
    there = [p for pattern in ("*", *(f"{part}/*" for part in parts)) for p in folder.glob(pattern)]
    found = [p.relative_to(folder).as_posix() for p in there if p.is_file()]
    variant, files = choose_files(found, dtype, variant, name)
    bars = [lib for lib in (diffusers_logging, transformers_logging) if lib.is_progress_bar_enabled()]
    card: dict[str, Any] = {}
    with suppress(Exception):  # a card that nobody can read says nothing; the hub's YAML loader is a safe one
        _inside(folder, ["README.md"])
        read_file(folder / "README.md", LARGEST)
        entries = dict(metadata_load(folder / "README.md") or {}).items()
        card = {key: line(key, value) for key, value in entries if key in ("license", "license_name") and value}
    try:
        if odd := [p for p in there if p.exists() and not (p.is_file() or p.is_dir())]:  # which may have no end
            raise ValueError(f"{odd[0]} is a pipe or a device.")
        _inside(folder, files)
        index = read_json(folder / "model_index.json", LARGEST)
        for part, wanted in CLASSES.items():
            if index.get(part) != wanted:
                raise ValueError(f"its {part} is {index.get(part)}, and Stable Video Diffusion's is {wanted}.")
            _compare(folder, part, [n for n in files if n.startswith(f"{part}/")])
        known = kind(dict)(METADATA, read_json(folder / METADATA, LARGEST) if METADATA in files else {})
        for key in known:
            one_of(METADATA, key, ABOUT)
        commit = _commit(folder)
        facts: dict[str, Any] = {"licence": licence_line(name if commit and not Path(name).exists() else None, card)}
        source = Source(name, commit, weights_hash=hash_weights(folder, files), variant=variant, **{**facts, **known})
        show_licence(name, source.licence)
        for lib in bars:
            lib.disable_progress_bar()
        own = dict(feature_extractor=CLIPImageProcessorPil())  # SVD's; given here, transformers asks for no torchvision
        safe: dict[str, Any] = dict(variant=variant, use_safetensors=True, local_files_only=True)
        pipe = ProbePipeline.from_pretrained(str(folder), dtype=dtype, **safe, **own)
    except Exception as error:  # safetensors, diffusers and transformers each have their own for a damaged file
        words = " ".join(str(error).split())[:1000]
        raise CheckpointError(f"{folder} could not be loaded: {words} Damaged files: see `hf cache verify`.") from error
    finally:
        for lib in bars:
            lib.enable_progress_bar()
    pipe.source = source
    pipe.set_progress_bar_config(disable=True)
    return pipe
