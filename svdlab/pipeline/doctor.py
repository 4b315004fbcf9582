"""Is this machine ready, and does a checkpoint keep svdlab's promises on it?

    >>> report("organism")[["check", "status"]].iloc[-1].tolist()
    ['checkpoint', 'ok']
    >>> accept(load_pipeline("SVD_1_1", offload="model"), num_frames=8)                # doctest: +SKIP

Both are tables with a row per check: check, status (ok, warning, failed), found, advice. No token is in them.
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pandas as pd
import psutil
import torch
from huggingface_hub import HfApi, constants, try_to_load_from_cache
from packaging.requirements import Requirement

from svdlab.errors import CheckpointError
from svdlab.pipeline.checkpoints import explain, locate
from svdlab.pipeline.conditions import Conditions
from svdlab.pipeline.generate import ProbePipeline, generate, generate_batch
from svdlab.pipeline.hooks import branch, trace

OK, WARN, FAIL = "ok", "warning", "failed"
GB = 1e9
# Allowed: largest difference over the spread (max - min) of what is compared.
ALLOWED = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}


def report(checkpoint: str | None = None, *, token: str | None = None, online: bool = True) -> pd.DataFrame:
    """Packages, device, memory, disk, ffmpeg, and whether a checkpoint is here or may be fetched.

    >>> report(online=False).columns.tolist()
    ['check', 'status', 'found', 'advice']

    checkpoint: one that has to be had; None asks after SVD 1.1, and only warns where it is not. online: ask the hub.
    """
    found = _checkpoint(checkpoint or "SVD_1_1", token, online and not constants.is_offline_mode())
    lacking = (FAIL if checkpoint else WARN) if found[1] else OK
    table = pd.DataFrame([*_machine(), ("checkpoint", lacking, *found)], columns=["check", "status", "found", "advice"])
    return table.assign(advice=table["advice"].where(table["status"] != OK, ""))


def _machine() -> Iterator[tuple[str, str, str, str]]:
    wrong = []
    for need in map(Requirement, (metadata.requires("svdlab") or []) if any(metadata.distributions(name="svdlab")) else []):
        version = next((d.version.split("+")[0] for d in metadata.distributions(name=need.name)), None)
        if need.marker is None and (version is None or not need.specifier.contains(version, prereleases=True)):
            wrong.append(f"{need.name} is {version or 'not installed'} and should be {need.specifier or 'there'}")
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, diffusers {metadata.version('diffusers')}"
    yield "packages", FAIL if wrong else OK, versions, f"{'; '.join(wrong)}: `make setup` installs what was tried"
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info(0)
        name = f"{torch.cuda.get_device_name(0)}, {free / GB:.1f} of {total / GB:.1f} GB free"
        yield "device", OK if free > 6 * GB else WARN, name, "load with offload='model', and choose fewer frames"
    else:
        mps = torch.backends.mps.is_available()
        name = "Apple GPU (MPS)" if mps else f"CPU, {os.cpu_count()} cores"
        yield "device", OK if mps else WARN, name, "enough for the organism; a clip of SVD in full size takes hours on a CPU"
    free = psutil.virtual_memory().available
    status = OK if free > 8 * GB else WARN if free > 2 * GB else FAIL
    yield "memory", status, f"{free / GB:.1f} GB free", "loading SVD takes about 5 GB in half precision, 10 GB in float32"
    cache = Path(constants.HF_HUB_CACHE).absolute()
    free = shutil.disk_usage(next(p for p in (cache, *cache.parents) if p.exists())).free
    yield "disk", OK if free > 6 * GB else WARN, f"{free / GB:.1f} GB free at {cache}", "SVD takes about 5 GB: set HF_HOME"
    try:
        yield "ffmpeg", OK, imageio_ffmpeg.get_ffmpeg_version(), ""
    except (OSError, RuntimeError) as error:
        yield "ffmpeg", FAIL, str(error), "pip install imageio-ffmpeg"


def _checkpoint(checkpoint: str, token: str | None, online: bool) -> tuple[str, str]:
    """What was found, and what to do where it is not to be had."""
    try:
        name, folder = locate(checkpoint)
    except CheckpointError as error:
        return checkpoint, str(error)
    index = folder / "model_index.json" if folder else try_to_load_from_cache(name, "model_index.json")
    if isinstance(index, (str, Path)) and Path(index).is_file():
        return f"{name} in {Path(index).parent}", ""
    if folder:
        return name, "model_index.json is missing: give a folder in diffusers' layout"
    if not online:
        return f"{name} is not in the cache, and the hub was not asked", "load it once with network access"
    try:
        HfApi(token=token).auth_check(name)
    except Exception as error:  # whatever the client raises
        return "not to be had from here", explain(error, name, token)
    return f"{name} may be downloaded", ""


def accept(pipe: ProbePipeline, image: Any = "astronaut", **conditions: Any) -> pd.DataFrame:
    """Run a pipeline a few times, and test svdlab's promises on this machine and in its dtype.

    >>> table = accept(pipe, "scene-3", num_frames=4, num_inference_steps=3)

    image, conditions: as of `generate`; default 4 steps. deviation: the largest difference over the spread, of which
    `allowed` is 0 on a CPU where the same numbers are computed twice; for GPUs see torch.use_deterministic_algorithms.
    """
    c = Conditions(num_inference_steps=4, decode_chunk_size=2).replace(**conditions)
    allowed = ALLOWED[pipe.unet.dtype]
    exact = 0.0 if pipe._execution_device.type == "cpu" else allowed
    middle = c.num_inference_steps // 2

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
    found = [f"deviation {d:.2g}, allowed {a:.2g}" for d, a in zip(table["deviation"], table["allowed"], strict=True)]
    return table.assign(status=np.where(table["deviation"] <= table["allowed"], OK, FAIL), found=found, advice="")


def _deviation(a: Any, b: Any) -> float:
    """Largest difference over the spread of b; infinite where either is not finite."""
    one, two = (np.asarray(torch.as_tensor(v).double()) for v in (a, b))
    if one.shape != two.shape or not (np.isfinite(one).all() and np.isfinite(two).all()):
        return float("inf")
    return float(np.abs(one - two).max() / (np.ptp(two) or 1.0))
