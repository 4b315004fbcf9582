"""Is this machine ready, and does a checkpoint keep svdlab's promises on it? A row per check, and an exit code.

    >>> table = report("SVD_1_1")                  # columns check, status (ok, warning, failed), found, advice
    >>> exit_code(table)
    0
    >>> accept("SVD_1_1", device="cuda")           # runs it: trace, branch and batch; also columns deviation and allowed

Nothing here prints a token, and nothing is sent anywhere but to the hub.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import torch
from huggingface_hub import HfApi, constants, try_to_load_from_cache
from packaging.requirements import Requirement

from svdlab.errors import InputError, SvdlabError
from svdlab.pipeline.checkpoints import explain, load_pipeline, locate
from svdlab.pipeline.conditions import REPOSITORIES, Conditions
from svdlab.pipeline.generate import ProbePipeline, generate, generate_batch
from svdlab.pipeline.hooks import branch, trace

OK, WARN, FAIL = "ok", "warning", "failed"
SHOWN = ("torch", "diffusers", "transformers", "huggingface_hub", "numpy")
GB = 1e9
# Allowed: largest difference over the spread (max - min) of what is compared.
ALLOWED = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}


def report(checkpoint: str | None = None, *, token: str | None = None, online: bool = True) -> pd.DataFrame:
    """Everything that a first try needs. checkpoint: also whether it is here, or may be fetched. online: ask the hub."""
    rows = [*_machine()]
    if online and not constants.is_offline_mode():
        rows.append(("SVD 1.1", *_access(REPOSITORIES["SVD_1_1"], token, WARN)))
    elif online:
        rows.append(("hub", WARN, "not asked: HF_HUB_OFFLINE is set", "unset it to download checkpoints"))
    if checkpoint:
        rows.append(("checkpoint", *_checkpoint(checkpoint, token, online)))
    table = pd.DataFrame(rows, columns=["check", "status", "found", "advice"])
    return table.assign(advice=table["advice"].where(table["status"] != OK, ""))


def exit_code(table: pd.DataFrame) -> int:
    """1 where a check failed, otherwise 0; of `report` and of `accept`."""
    return int((table["status"] == FAIL).any())


def _machine() -> Iterator[tuple[str, str, str, str]]:
    python_ok = OK if sys.version_info >= (3, 11) else FAIL
    yield "Python", python_ok, platform.python_version(), "svdlab needs 3.11 or newer: see `make setup`"
    found, wrong = _packages()
    yield "packages", FAIL if wrong else OK, ", ".join(found), f"{'; '.join(wrong)}: `make setup` installs what was tried"
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info(0)
        device = f"{torch.cuda.get_device_name(0)}, {free / GB:.1f} of {total / GB:.1f} GB free"
        yield (
            "device",
            OK if free > 6 * GB else WARN,
            device,
            "load with offload='model', and choose fewer frames or a smaller size",
        )
    else:
        mps = torch.backends.mps.is_available()
        name = "Apple GPU (MPS)" if mps else f"CPU, {os.cpu_count()} cores"
        yield "device", OK if mps else WARN, name, "enough for the organism; a clip of SVD in full size takes hours on a CPU"
    free = psutil.virtual_memory().available
    status = OK if free > 8 * GB else WARN if free > 2 * GB else FAIL
    yield "memory", status, f"{free / GB:.1f} GB free", "loading SVD takes about 5 GB in half precision, 10 GB in float32"
    cache = Path(constants.HF_HUB_CACHE)
    cache = next(p for p in (cache, *cache.absolute().parents) if p.exists())
    free = shutil.disk_usage(cache).free
    yield "disk", OK if free > 6 * GB else WARN, f"{free / GB:.1f} GB free at {cache}", "SVD takes about 5 GB: set HF_HOME"
    try:
        import imageio_ffmpeg

        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-version"]
        version = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.split()[2]
        yield "ffmpeg", OK, version, ""
    except (ImportError, OSError, RuntimeError, subprocess.SubprocessError) as error:
        yield "ffmpeg", FAIL, f"{type(error).__name__}: {error}", "pip install imageio-ffmpeg"


def _packages() -> tuple[list[str], list[str]]:
    """The main packages' versions, and what is wrong by svdlab's own requirements."""
    found, wrong = [], []
    here = any(metadata.distributions(name="svdlab"))  # not where it runs from a clone without being installed
    for need in map(Requirement, (metadata.requires("svdlab") or []) if here else []):
        version = next((d.version.split("+")[0] for d in metadata.distributions(name=need.name)), None)
        if need.marker is None and version is None:
            wrong.append(f"{need.name} is not installed")
        elif need.marker is None and not need.specifier.contains(str(version), prereleases=True):
            wrong.append(f"{need.name} {version} is not {need.specifier}")
        elif need.name in SHOWN:
            found.append(f"{need.name} {version}")
    return found, wrong


def _access(repo_id: str, token: str | None, otherwise: str) -> tuple[str, str, str]:
    """Whether this machine's token may download a repository."""
    try:
        HfApi(token=token).auth_check(repo_id)
    except Exception as error:  # whatever the client raises
        return otherwise, "not to be had from here", explain(error, repo_id, token)
    return OK, f"{repo_id} may be downloaded", ""


def _checkpoint(checkpoint: str, token: str | None, online: bool) -> tuple[str, str, str]:
    try:
        name, folder = locate(checkpoint)
    except SvdlabError as error:
        return FAIL, checkpoint, str(error)
    cached = folder or try_to_load_from_cache(name, "model_index.json")
    if folder and not (folder / "model_index.json").is_file():
        return FAIL, str(folder), "model_index.json is missing: give a folder in diffusers' layout"
    if isinstance(cached, (str, Path)):
        return OK, f"{name} in {cached}", ""
    return _access(name, token, FAIL) if online else (FAIL, f"{name} is not in the cache", "load it once with network access")


def accept(
    checkpoint: str | Path | ProbePipeline = "organism",
    *,
    image: Any = "astronaut",
    num_inference_steps: int = 4,
    num_frames: int | None = None,
    height: int | None = None,
    width: int | None = None,
    **load: Any,
) -> pd.DataFrame:
    """Run a checkpoint a few times, and test svdlab's promises on this machine and in this dtype.

    >>> exit_code(accept("SVD_1_1", offload="model", num_frames=8, height=320, width=576))
    0

    A row per promise: deviation is the largest difference over the spread. 0 is allowed on a CPU where the same numbers are
    computed twice; for GPUs that choose kernels as they go, see torch.use_deterministic_algorithms. load: arguments of
    `load_pipeline`.
    """
    if num_inference_steps < 3:
        raise InputError(f"num_inference_steps={num_inference_steps}: at least 3 are needed, to branch in the middle.")
    pipe = checkpoint if isinstance(checkpoint, ProbePipeline) else load_pipeline(checkpoint, **load)
    c = Conditions(
        num_inference_steps=num_inference_steps, num_frames=num_frames, height=height, width=width, decode_chunk_size=2
    )
    allowed = ALLOWED[pipe.unet.dtype]
    exact = 0.0 if pipe._execution_device.type == "cpu" else allowed
    middle = num_inference_steps // 2

    plain = generate(pipe, image, c, seed=0)
    with trace(pipe, keep=("latents", "next_latents", "denoised")) as tr:
        traced = generate(pipe, image, c, seed=0)
    resumed = branch(pipe, tr, middle)
    other = c.replace(motion_bucket_id=30, fps=12)
    single = generate_batch(pipe, [image], [other], [1], decode=False)[0]
    both = generate_batch(pipe, [image, image], [c, other], [0, 1], decode=False)

    step = tr.steps[middle]
    x, denoised, following = (step.values[name].float() for name in ("latents", "denoised", "next_latents"))
    euler = x + (x - denoised) / step.sigma * (step.sigma_next - step.sigma)
    black = not np.isfinite(plain.frames).all() or plain.frames.max() <= 1 / 255
    rows = [
        ("the same call gives the same frames", _deviation(traced.frames, plain.frames), exact),
        ("tracing changes nothing", _deviation(traced.latents, plain.latents), exact),
        ("a branch without changes ends where the run did", _deviation(resumed.latents, plain.latents), exact),
        ("a batch gives what single calls give", _deviation(both[0].latents, plain.latents), allowed),
        ("conditions in a batch are kept apart", _deviation(both[1].latents, single.latents), allowed),
        ("the traced estimate leads to the next latents", _deviation(euler, following), allowed),
        ("frames are finite and not black", float(black), 0.0),
    ]
    table = pd.DataFrame(rows, columns=["check", "deviation", "allowed"])
    table["status"] = np.where(table["deviation"] <= table["allowed"], OK, FAIL)
    table["found"] = [f"deviation {d:.2g}, allowed {a:.2g}" for d, a in zip(table["deviation"], table["allowed"], strict=True)]
    return table.assign(advice="")


def _deviation(a: Any, b: Any) -> float:
    """Largest difference over the spread of b; infinite where either is not finite."""
    one, two = (np.asarray(v.float() if isinstance(v, torch.Tensor) else v, dtype=np.float64) for v in (a, b))
    if one.shape != two.shape or not (np.isfinite(one).all() and np.isfinite(two).all()):
        return float("inf")
    return float(np.abs(one - two).max() / (np.ptp(two) or 1.0))
