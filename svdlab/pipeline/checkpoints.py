"""Checkpoints: the model organism, a hub id, or a local folder in diffusers' layout, loaded as a ProbePipeline.

    >>> pipe = load_pipeline()                                                         # the organism, offline
    >>> pipe = load_pipeline("SVD_1_1", device="cuda")                                 # doctest: +SKIP
    >>> pipe = load_pipeline("models/my-svd", dtype=torch.bfloat16)                    # doctest: +SKIP

Only safetensors are read, so nothing is unpickled and no code of a checkpoint runs. diffusers loads and huggingface_hub
downloads; their settings hold (HF_HOME, HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE, proxies).
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import logging as diffusers_logging
from huggingface_hub import HfApi, constants, get_token, metadata_load, snapshot_download, try_to_load_from_cache
from huggingface_hub import errors as hub
from transformers import CLIPImageProcessorPil
from transformers.utils import logging as transformers_logging

from svdlab.errors import CheckpointError, InputError
from svdlab.measure.files import hash_file
from svdlab.measure.video import licence_line, show_licence
from svdlab.pipeline.conditions import REPOSITORIES
from svdlab.pipeline.generate import ProbePipeline, Source

SHIPPED = ("organism", "organism-fixed")
METADATA = "svdlab.json"  # a checkpoint's own frame size, label, licence and stimuli, where they are not SVD's
WEIGHTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "image_encoder": "model"}
CLASSES = {
    "unet": ["diffusers", "UNetSpatioTemporalConditionModel"],
    "vae": ["diffusers", "AutoencoderKLTemporalDecoder"],
    "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
    "scheduler": ["diffusers", "EulerDiscreteScheduler"],
}
SMALL = (
    rf"({'|'.join(CLASSES)}|feature_extractor)/\w*config\.json|model_index\.json|{METADATA}|(README|LICENSE|NOTICE)(\.\w+)?"
)
LAYOUT = (
    "svdlab loads safetensors in diffusers' layout, no pickles and no single files: see scripts/convert_svd_to_diffusers.py"
)
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
LOGIN = "`hf auth login`, HF_TOKEN or token="
TOKEN_LIKE = re.compile(r"(hf|api_org|hf_oauth)_[A-Za-z0-9_-]{6,}|(?i:bearer)\s+\S+")


class SlowDtypeWarning(UserWarning):
    """Half precision on a CPU that has no instructions for it."""


class StaleCheckpointWarning(UserWarning):
    """The hub could not be asked, and what lies in the cache is used."""


class Secret(str):
    """A token that no repr shows: not a debugger's, nor a traceback that prints variables."""

    def __repr__(self) -> str:
        return "'***'"


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

    >>> pipe = load_pipeline("organism-fixed", dtype="float32")
    >>> pipe.source.licence
    'Apache-2.0 (svdlab)'

    checkpoint: organism, organism-fixed, SVD, SVD_XT, SVD_1_1, a hub id, or a folder in diffusers' layout. device: default
    CUDA, then MPS, then CPU. dtype: float32, float16 or bfloat16, of torch or by name; default float16 on CUDA and MPS,
    float32 on the CPU. variant: of the weight files; default "fp16" for float16 where there is one. offload: "model" (part
    by part) or "sequential" (layer by layer). compile: torch.compile the UNet. revision: branch, tag or commit on the hub;
    the commit is recorded. token: for the hub, otherwise `hf auth login` or HF_TOKEN; stored nowhere. local_files_only: use
    the hub's cache alone. Raises InputError, or CheckpointError (an OSError). The licence line is printed once.
    """
    token = Secret(token) if token is not None else None
    device = _device(device)
    dtype = _dtype(dtype, device)
    if offload not in (None, "model", "sequential"):
        raise InputError(f"offload={offload!r}: give 'model', 'sequential' or None.")
    if offload and device == "cpu":
        raise InputError(f"offload={offload!r} moves weights to an accelerator: leave it out with device='cpu'.")
    name, folder = locate(checkpoint)
    if folder is None:
        folder = _fetch(name, dtype, variant, revision, token, local_files_only)
    elif revision not in (None, _commit(folder)):
        raise InputError(f"revision={revision!r}: {folder} is a folder; revisions are for hub ids.")
    pipe = _read(name, folder, dtype, variant)
    if offload == "model":
        pipe.enable_model_cpu_offload(device=device)
    elif offload == "sequential":
        pipe.enable_sequential_cpu_offload(device=device)
    else:
        pipe.to(device)
    if compile:
        pipe.unet = torch.compile(pipe.unet)
    return pipe


def locate(checkpoint: str | Path) -> tuple[str, Path | None]:
    """A name, hub id or folder, as (what is recorded, the folder if it is on this disk)."""
    name = REPOSITORIES.get(str(checkpoint), str(checkpoint))
    if name in SHIPPED:
        return name, Path(str(resources.files("svdlab"))) / "organism" / "weights" / name
    path = Path(name).expanduser()
    if name and path.is_dir():
        return str(path), path
    if path.is_file() or not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(?<!\.safetensors)", name):
        known = ", ".join((*SHIPPED, *REPOSITORIES))
        raise CheckpointError(f"no checkpoint {name!r}: give {known}, a hub id 'owner/name', or a folder. {LAYOUT}.")
    return name, None


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
        what = (f"variant {variant!r}" if variant else "weights") if "model_index.json" in names else "model_index.json"
        raise CheckpointError(f"{checkpoint} has no {what} for all parts ({there}). {LAYOUT}.")
    weights = [name for part in WEIGHTS for name in found[part][chosen]]
    return chosen or None, [*(n for n in names if re.fullmatch(SMALL, n)), *weights]


def hash_weights(folder: Path, files: list[str]) -> str:
    """sha256 over names and hashes of configs and weights, the same for the hub's snapshot and a copy of it."""

    def sha(name: str) -> str:
        blob = (folder / name).readlink().name if (folder / name).is_symlink() else ""
        return blob if re.fullmatch(r"[0-9a-f]{64}", blob) else hash_file(folder / name)  # the cache's blobs bear theirs

    names = sorted(n for n in files if n.split("/")[0] in CLASSES and n.endswith((".safetensors", ".json")))
    with ThreadPoolExecutor() as pool:
        lines = [f"{name}\0{digest}\n" for name, digest in zip(names, pool.map(sha, names), strict=True)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def explain(error: BaseException, repo_id: str, token: str | None = None) -> str:
    """What the hub's client raised, as one message without tokens: what happened and what to do."""
    page, tokens = f"{constants.ENDPOINT}/{repo_id}", [t for t in (token, get_token()) if t]
    while not isinstance(error, hub.HfHubHTTPError) and (inner := error.__cause__ or error.__context__):
        error = inner
    if isinstance(error, hub.GatedRepoError):
        account = (
            "with the token's account, which has no access so far" if tokens else f"and give a token ({LOGIN}): none was sent"
        )
        text = f"is gated: accept its licence at {page} {account}."
    elif isinstance(error, hub.RepositoryNotFoundError):
        text = f"does not exist, or is private: check the name at {page}, or give a token ({LOGIN})."
    else:
        words = getattr(error, "server_message", None) or str(error).strip().partition("\n")[0]
        text = f"could not be fetched from {constants.ENDPOINT} ({type(error).__name__}: {words}). Load again to go on."
    for secret in tokens:
        text = text.replace(str(secret), "***")
    return f"{repo_id} {TOKEN_LIKE.sub('***', text)}"


def _fetch(
    repo_id: str, dtype: torch.dtype, variant: str | None, revision: str | None, token: str | None, local_files_only: bool
) -> Path:
    """The hub's snapshot of the files that are needed; what is in the cache, with a warning, where the hub cannot be asked.

    Errors are raised apart from the client's own, whose frames hold the request and with it the token.
    """
    told = f"{repo_id} is not in the cache ({constants.HF_HUB_CACHE}), and local_files_only or HF_HUB_OFFLINE is set."
    online = not (local_files_only or constants.is_offline_mode())
    if online:
        try:
            siblings = HfApi(token=token).model_info(repo_id, revision=revision).siblings or []
            files = choose_files([f.rfilename for f in siblings], dtype, variant, repo_id)[1]
            return Path(snapshot_download(repo_id, revision=revision, token=token, allow_patterns=files))
        except CheckpointError:
            raise
        except Exception as error:  # whatever the client raises: HTTP errors, timeouts, a full disk
            told = explain(error, repo_id, token)
    cached = try_to_load_from_cache(repo_id, "model_index.json", revision=revision)
    if not isinstance(cached, str):
        raise CheckpointError(told)
    if online:
        warnings.warn(f"{told} The copy in the cache is used.", StaleCheckpointWarning, stacklevel=3)
    return Path(cached).parent


def _commit(folder: Path) -> str | None:
    where = folder.resolve()
    return where.name if where.parent.name == "snapshots" and re.fullmatch(r"[0-9a-f]{40}", where.name) else None


def _read(name: str, folder: Path, dtype: torch.dtype, variant: str | None) -> ProbePipeline:
    """diffusers' own loading, of SVD's own classes only; loading bars where there is something to wait for."""
    variant, files = choose_files([p.relative_to(folder).as_posix() for p in folder.rglob("*")], dtype, variant, name)
    small = sum((folder / file).stat().st_size for file in files) < 1e9
    quiet = [lib for lib in (diffusers_logging, transformers_logging) if small and lib.is_progress_bar_enabled()]
    card: dict[str, Any] = {}
    with suppress(Exception):  # a card that nobody can read says nothing; the hub's YAML loader is a safe one
        card = dict(metadata_load(folder / "README.md") or {})
    try:
        index = json.loads((folder / "model_index.json").read_text())
        for part, wanted in CLASSES.items():
            if index.get(part) != wanted:
                raise ValueError(f"its {part} is {index.get(part)}, and Stable Video Diffusion's is {wanted}.")
        known = json.loads((folder / METADATA).read_text()) if METADATA in files else {}
        commit = _commit(folder)
        facts: dict[str, Any] = {"licence": licence_line(name if commit and not Path(name).exists() else None, card)}
        facts |= {key: known[key] for key in ("height", "width", "label", "licence", "stimuli") if key in known}
        source = Source(name, commit, weights_hash=hash_weights(folder, files), variant=variant, **facts)
        show_licence(name, source.licence)
        for lib in quiet:
            lib.disable_progress_bar()
        pipe = ProbePipeline.from_pretrained(
            str(folder),
            dtype=dtype,
            variant=variant,
            use_safetensors=True,
            local_files_only=True,
            feature_extractor=CLIPImageProcessorPil(),  # SVD's is CLIP's own; given here, transformers asks for no torchvision
        )
    except Exception as error:  # safetensors, diffusers and transformers each have their own for a damaged file
        raise CheckpointError(f"{folder} could not be loaded: {error} Damaged files: see `hf cache verify`.") from error
    finally:
        for lib in quiet:
            lib.enable_progress_bar()
    pipe.source = source
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _device(device: str | None) -> str:
    accelerator = torch.accelerator.current_accelerator(check_available=True)  # CUDA, MPS
    here = [*([accelerator.type] if accelerator else []), "cpu"]
    if device is not None and str(device).split(":")[0] not in here:
        raise InputError(f"device={device!r}: torch {torch.__version__} has {', '.join(here)} here.")
    return str(device or here[0])


def _dtype(dtype: torch.dtype | str | None, device: str) -> torch.dtype:
    chosen = (torch.float32 if device == "cpu" else torch.float16) if dtype is None else DTYPES.get(str(dtype).split(".")[-1])
    if chosen is None:
        raise InputError(f"dtype={dtype!r}: give {', '.join(DTYPES)}.")
    # On AVX2 one 3x3 convolution of 128 channels took 190 times as long in bfloat16 as in float32 (torch 2.13).
    capability = torch.backends.cpu.get_cpu_capability()
    if device == "cpu" and chosen != torch.float32 and not capability.startswith("AVX512"):
        text = f"{dtype} on this CPU ({capability}) may take a hundred times as long as float32."
        warnings.warn(text, SlowDtypeWarning, stacklevel=3)
    return chosen
