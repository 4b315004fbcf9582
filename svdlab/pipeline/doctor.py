"""Is this machine ready, and does a checkpoint keep svdlab's promises on it?

    >>> report("organism")[["check", "status"]].iloc[-1].tolist()
    ['checkpoint', 'ok']
    >>> accept(load_pipeline("SVD_1_1", offload="model"), num_frames=8)                # doctest: +SKIP

Both are tables with a row per check: check, status (ok, warning, failed), found, advice.
"""

import os
import platform
import shutil
import textwrap
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

from svdlab.errors import CheckpointError, flag, kind, shown, takes
from svdlab.pipeline.checkpoints import explain, locate
from svdlab.pipeline.conditions import Conditions
from svdlab.pipeline.edits import branch
from svdlab.pipeline.generate import ProbePipeline, generate, generate_batch
from svdlab.pipeline.hooks import trace
from svdlab.pipeline.pipeline import pipeline

# Allowed: largest difference over the spread (max - min) of what is compared.
ALLOWED = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}


@takes(checkpoint=kind(str, os.PathLike), online=flag)
def report(checkpoint: str | None = None, *, online: bool = True) -> pd.DataFrame:
    """Packages, device, memory, disk, ffmpeg, and whether a checkpoint is here or may be fetched.

    >>> report(online=False).columns.tolist()
    ['check', 'status', 'found', 'advice']

    checkpoint: one that has to be had; None asks after SVD 1.1, and only warns where it is not. online: ask the hub.
    """
    found, advice = _checkpoint(checkpoint or "SVD_1_1", online and not constants.is_offline_mode())
    lacking = "ok" if not advice else "failed" if checkpoint else "warning"
    rows = [*_machine(), ("checkpoint", lacking, found, advice)]
    table = pd.DataFrame(rows, columns=["check", "status", "found", "advice"])
    return table.assign(advice=table["advice"].where(table["status"] != "ok", ""))


def screen(table: pd.DataFrame, details: bool = False, width: int = 80) -> list[str]:
    """The table as lines of a terminal: one per check, cut to its width; details: below, each check in full with its advice.

    >>> len(screen(report("organism", online=False))) >= 6
    True
    """
    rows, wide = table[["check", "status", "found", "advice"]].to_numpy().tolist(), table["check"].str.len().max()
    lines = [f"{status:<8}{check:<{wide}}  {found}" for check, status, found, _ in rows]
    lines = [line if len(line) <= width else f"{line[: width - 3]}..." for line in lines]
    if details:
        for check, status, found, advice in rows:
            for text, first in ((f"{check}, {status}: {found}", ""), (advice, "  ")):
                lines += textwrap.wrap(text, width, initial_indent=first, subsequent_indent="  ")
    elif (table["status"] != "ok").any():
        lines.append("What to do: the same command with --details")
    return lines


def _machine() -> Iterator[tuple[str, str, str, str]]:
    wrong, versions = [], {d.name.lower().replace("_", "-"): d.version.split("+")[0] for d in metadata.distributions()}
    for need in map(Requirement, (metadata.requires("svdlab") or []) if "svdlab" in versions else []):
        version = versions.get(need.name.lower())
        if need.marker is None and (version is None or not need.specifier.contains(version, prereleases=True)):
            wrong.append(f"{need.name} is {version or 'not installed'} and should be {need.specifier or 'there'}")
    here = f"Python {platform.python_version()}, torch {torch.__version__}, diffusers {metadata.version('diffusers')}"
    yield "packages", "failed" if wrong else "ok", here, f"{'; '.join(wrong)}: `make setup` installs what was tried"
    gpu = torch.accelerator.current_accelerator(check_available=True)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else str(gpu or f"CPU, {os.cpu_count()} cores")
    yield "device", "ok" if gpu else "warning", device, "enough for the organism; a clip of SVD takes hours on a CPU"
    cache = Path(constants.HF_HUB_CACHE).absolute()
    disk = shutil.disk_usage(next(p for p in cache.parents if p.exists())).free
    for what, free, advice in (
        ("memory", psutil.virtual_memory().available, "loading SVD takes about 5 GB in half precision, 10 GB in float32"),
        ("disk", disk, f"SVD takes about 5 GB in {cache}: set HF_HOME"),
        *([("GPU memory", torch.cuda.mem_get_info()[0], "load with offload='model'")] if torch.cuda.is_available() else []),
    ):
        yield what, "ok" if free > 6e9 else "warning", f"{free / 1e9:.1f} GB free", advice
    try:
        yield "ffmpeg", "ok", imageio_ffmpeg.get_ffmpeg_version(), ""
    except (OSError, RuntimeError) as error:
        yield "ffmpeg", "failed", str(error), "pip install imageio-ffmpeg"


def _checkpoint(checkpoint: str, online: bool) -> tuple[str, str]:
    """What was found, and what to do where it is not to be had."""
    try:
        name, folder = locate(checkpoint)
    except CheckpointError as error:
        return shown(checkpoint), str(error)
    if folder is not None and folder.is_file():
        return f"{name}, a single file", ""
    index = folder / "model_index.json" if folder else try_to_load_from_cache(name, "model_index.json")
    if isinstance(index, (str, Path)) and Path(index).is_file():
        return f"{name} in {Path(index).parent}", ""
    if folder or not online:
        return f"{name} is not here", "load it once with network access" if folder is None else "it has no model_index.json"
    try:
        HfApi().auth_check(name)
    except Exception as error:  # whatever the client raises
        return "not to be had from here", explain(error, name)
    return f"{name} may be downloaded", ""


@takes(pipe=pipeline)
def accept(pipe: ProbePipeline, image: Any = "astronaut", **conditions: Any) -> pd.DataFrame:
    """Run a pipeline a few times, and test svdlab's promises on this machine and in its dtype.

    >>> table = accept(pipe, "scene-3", num_frames=4, num_inference_steps=3)

    image, conditions: as of `generate`; default 4 steps. deviation: the largest difference over the spread, of which
    `allowed` is 0 on a CPU where the same numbers are computed twice; for GPUs see torch.use_deterministic_algorithms.
    """
    c = Conditions(num_inference_steps=4, decode_chunk_size=2).replace(**conditions)
    other, allowed = c.replace(motion_bucket_id=30, fps=12), ALLOWED[pipe.unet.dtype]
    exact = 0.0 if pipe._execution_device.type == "cpu" else allowed
    plain = generate(pipe, image, c, seed=0)  # raises where frames are not finite, or black
    with trace(pipe, keep=("latents", "next_latents", "denoised")) as tr:
        traced = generate(pipe, image, c, seed=0)
    step = tr.steps[c.num_inference_steps // 2]
    resumed = branch(pipe, tr, step.index)
    single = generate_batch(pipe, [image], [other], [1], decode=False)[0]
    both = generate_batch(pipe, [image, image], [c, other], [0, 1], decode=False)
    x, denoised, following = (step.values[name].float() for name in ("latents", "denoised", "next_latents"))
    euler = x + (x - denoised) / step.sigma * (step.sigma_next - step.sigma)
    rows = {
        "the same call gives the same frames": (traced.frames, plain.frames, exact),
        "tracing changes nothing": (traced.latents, plain.latents, exact),
        "a branch without changes ends where the run did": (resumed.latents, plain.latents, exact),
        "a batch gives what single calls give": (both[0].latents, plain.latents, allowed),
        "conditions in a batch are kept apart": (both[1].latents, single.latents, allowed),
        "the traced estimate leads to the next latents": (euler, following, allowed),
    }
    table = pd.DataFrame({"check": list(rows), "deviation": [_deviation(a, b) for a, b, _ in rows.values()], "advice": ""})
    table["allowed"] = [most for *_, most in rows.values()]
    table["status"] = np.where(table["deviation"] <= table["allowed"], "ok", "failed")
    return table.assign(found=[f"deviation {d:.2g}, allowed {a:.2g}" for d, a in table[["deviation", "allowed"]].to_numpy()])


def _deviation(a: Any, b: Any) -> float:
    """Largest difference over the spread of b; infinite where either is not finite."""
    one, two = (np.asarray(torch.as_tensor(v).double()) for v in (a, b))
    deviation = float(np.abs(one - two).max() / (np.ptp(two) or 1.0))
    return deviation if np.isfinite(deviation) else float("inf")
