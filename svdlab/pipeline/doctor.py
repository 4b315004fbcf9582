"""Is this machine ready, and does a checkpoint keep its promises on it? One table each, and an exit code.

    >>> table = report("SVD_1_1")                  # a row per check: check, status, found, advice
    >>> exit_code(table)
    0
    >>> accept("SVD_1_1", device="cuda")           # runs it: trace, branch and batch, deviations against what is allowed

Nothing here prints a token, and nothing is sent anywhere but to the hub.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import psutil
import torch

from svdlab.errors import CheckpointError, SvdlabError
from svdlab.pipeline import hub
from svdlab.pipeline.checkpoints import METADATA, NAMES, load_pipeline, locate
from svdlab.pipeline.conditions import Conditions
from svdlab.pipeline.generate import ProbePipeline, generate, generate_batch
from svdlab.pipeline.hooks import branch, trace
from svdlab.pipeline.memory import ASSUMPTIONS, OFFLOADS, estimate
from svdlab.pipeline.schedule import euler_step

OK, WARN, FAIL = "ok", "warning", "failed"
PACKAGES = (
    "torch",
    "diffusers",
    "transformers",
    "accelerate",
    "safetensors",
    "huggingface_hub",
    "numpy",
    "opencv-python-headless",
)
TRIED = {
    "torch": "2.13.0",
    "diffusers": "0.42.1",
    "transformers": "5.23.0",
    "accelerate": "1.15.0",
    "huggingface_hub": "2.4.0",
}
DISK = 6e9  # bytes: the files of SVD in half precision, and room to spare
SIZES = ((576, 1024), (384, 640), (320, 576))
# Allowed: largest difference over the spread (max - min) of what is compared.
ALLOWED = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}


def report(checkpoint: str | None = None, *, token: str | None = None, online: bool = True, fits: bool = True) -> pd.DataFrame:
    """Everything that a first try needs, checked: columns check, status (ok, warning, failed), found, advice.

    >>> print(report().to_string(index=False))

    checkpoint: also whether it is here or may be fetched. online=False asks no network. fits: also what memory clips of
    it (of SVD in full size, where it is not on this disk) would take, with what the estimate rests on.
    """
    rows = [_python(), *_packages(), _device(), _memory(), _disk(), _ffmpeg()]
    if online:
        rows += _hub(token)
    if checkpoint:
        rows.append(_checkpoint(checkpoint, token, online))
    if fits:
        rows += _fits(checkpoint)
    return pd.DataFrame(rows, columns=["check", "status", "found", "advice"])


def exit_code(table: pd.DataFrame) -> int:
    """0, or 1 where a check failed; of `report` and of `accept`."""
    if "passed" in table:
        return int(not table["passed"].all())
    return int((table["status"] == FAIL).any())


def _row(check: str, status: str, found: str, advice: str = "") -> dict[str, str]:
    return dict(check=check, status=status, found=found, advice=advice if status != OK else "")


def _python() -> dict[str, str]:
    version = platform.python_version()
    return _row("Python", OK if sys.version_info >= (3, 11) else FAIL, version, "svdlab needs 3.11 or newer: see `make setup`")


def _packages() -> list[dict[str, str]]:
    """Installed versions against those that the requirements allow, and those that the tests ran with."""
    needs = _requirements()
    rows = []
    for name in PACKAGES:
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            rows.append(_row(name, FAIL, "not installed", "`make setup`, or `pip install svdlab`"))
            continue
        allowed, tried = needs.get(name), TRIED.get(name)
        if allowed is not None and not allowed.contains(version.split("+")[0], prereleases=True):
            rows.append(_row(name, FAIL, version, f"svdlab needs {allowed}: `make setup` installs what was tried"))
        elif tried and version.split("+")[0] != tried:
            rows.append(_row(name, WARN, version, f"tried with {tried}; `make setup` installs that"))
        else:
            rows.append(_row(name, OK, version))
    return rows


def _requirements() -> dict[str, Any]:
    from packaging.requirements import Requirement

    try:
        lines = metadata.requires("svdlab") or []
    except metadata.PackageNotFoundError:
        return {}
    found = [Requirement(line) for line in lines]
    return {r.name: r.specifier for r in found if r.marker is None or r.marker.evaluate({"extra": ""})}


def _device() -> dict[str, str]:
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        free, total = torch.cuda.mem_get_info(0)
        more = f", {torch.cuda.device_count()} devices" if torch.cuda.device_count() > 1 else ""
        found = f"{properties.name}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free{more}"
        return _row("device", OK if free > 6e9 else WARN, found, "SVD in full size wants more: see the table of what fits")
    if torch.backends.mps.is_available():
        return _row("device", OK, "Apple GPU (MPS)")
    return _row(
        "device",
        WARN,
        f"CPU, {os.cpu_count()} cores",
        "enough for the organism; a clip of SVD in full size takes hours on a CPU",
    )


def _memory() -> dict[str, str]:
    memory = psutil.virtual_memory()
    found = f"{memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB free"
    status = OK if memory.available > 8e9 else WARN if memory.available > 2e9 else FAIL
    return _row("memory", status, found, "loading SVD takes about 5 GB in half precision, 10 GB in float32")


def _disk() -> dict[str, str]:
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    there = next((p for p in (cache, *cache.parents) if p.exists()), Path("/"))
    free = shutil.disk_usage(there).free
    status = OK if free > DISK else WARN
    return _row(
        "disk", status, f"{free / 1e9:.1f} GB free at {there}", "SVD's files take about 5 GB: set HF_HOME to a larger disk"
    )


def _ffmpeg() -> dict[str, str]:
    try:
        import imageio_ffmpeg

        done = subprocess.run(
            [imageio_ffmpeg.get_ffmpeg_exe(), "-version"], capture_output=True, text=True, timeout=60, check=True
        )
    except (ImportError, OSError, RuntimeError, subprocess.SubprocessError) as error:
        return _row("ffmpeg", FAIL, f"{type(error).__name__}: {error}", "`pip install 'imageio-ffmpeg>=0.6,<0.8'`")
    return _row("ffmpeg", OK, " ".join(done.stdout.split()[:3]))


def _hub(token: str | None) -> list[dict[str, str]]:
    """Whether the hub answers, knows the token, and lets its owner have SVD 1.1."""
    from huggingface_hub import constants

    if constants.is_offline_mode():
        return [_row("hub", WARN, "not asked: HF_HUB_OFFLINE is set", "unset it to download checkpoints")]
    allowed, why = hub.access(NAMES["SVD_1_1"], token)
    if "the connection failed" in why or "the hub failed" in why:
        return [_row("hub", WARN, why, "the organism, local folders and what is in the cache work without it")]
    known, who = hub.account(token)
    return [
        _row("hub", OK, constants.ENDPOINT),
        _row("token", OK if known else WARN, who, "needed for gated checkpoints, such as SVD 1.1"),
        _row("licence of SVD 1.1", OK if allowed else WARN, why, f"https://huggingface.co/{NAMES['SVD_1_1']}"),
    ]


def _checkpoint(checkpoint: str, token: str | None, online: bool) -> dict[str, str]:
    try:
        name, folder = locate(checkpoint)
    except SvdlabError as error:
        return _row("checkpoint", FAIL, checkpoint, str(error))
    if folder is not None:
        return _row("checkpoint", OK, f"{name} in {folder}")
    if (cached := hub._cached_folder(name, None)) is not None:
        return _row("checkpoint", OK, f"{name}, commit {cached.name}, in the hub's cache")
    if not online:
        return _row("checkpoint", FAIL, f"{name} is not in the hub's cache", "load it once with network access")
    allowed, why = hub.access(name, token)
    return _row("checkpoint", OK if allowed else FAIL, f"{name}: may be downloaded" if allowed else name, why)


def _fits(checkpoint: str | None) -> list[dict[str, str]]:
    """A row per size: what a clip takes in each way of loading, held against the device's free memory where there is one."""
    pipe, sizes, frames = _shapes(checkpoint)
    free = torch.cuda.mem_get_info(0)[0] if torch.cuda.is_available() else None
    table = memory_table(pipe, sizes=sizes, num_frames=(frames,), chunks=(min(2, frames),))
    rows = []
    for row in table.to_dict("records"):
        gb = {mode: row[mode] for mode in ("none", "model", "sequential")}
        found = f"{gb['none']} GB; offload='model' {gb['model']} GB; offload='sequential' {gb['sequential']} GB"
        status = OK if free is None or min(gb.values()) * 1e9 < free else WARN
        what = f"{row['width']}x{row['height']}, {frames} frames"
        rows.append(_row(what, status, found, "more than the device has free: choose a smaller size or fewer frames"))
    rows.append(_row("estimated for", OK, f"float16, decode_chunk_size={min(2, frames)}; {'; '.join(ASSUMPTIONS)}"))
    return rows


def _shapes(checkpoint: str | None) -> tuple[Any, tuple[tuple[int, int], ...], int]:
    """What is needed for an estimate: configurations, sizes and frames of a checkpoint on this disk, or SVD's own."""
    try:
        folder = locate(checkpoint)[1] if checkpoint else None
        if folder is not None:
            parts = {p: json.loads((folder / p / "config.json").read_text()) for p in ("unet", "vae", "image_encoder")}
            extra = json.loads((folder / METADATA).read_text()) if (folder / METADATA).exists() else {}
            size = (int(extra.get("height", SIZES[0][0])), int(extra.get("width", SIZES[0][1])))
            pipe = SimpleNamespace(**{p: SimpleNamespace(config=config) for p, config in parts.items()})
            return pipe, (size,), int(parts["unet"]["num_frames"])
    except (SvdlabError, OSError, ValueError, KeyError):
        pass  # the row about the checkpoint says what is wrong with it
    return None, SIZES, 25


# --- what fits --------------------------------------------------------------------------------------------------------


def memory_table(
    pipe: Any = None,
    *,
    sizes: tuple[tuple[int, int], ...] = SIZES,
    num_frames: tuple[int, ...] = (14, 25),
    dtype: torch.dtype = torch.float16,
    chunks: tuple[int | None, ...] = (None, 2),
) -> pd.DataFrame:
    """Estimated GB by size, frames, decode chunk and offload: columns height, width, num_frames, decode_chunk_size, none,
    model, sequential. `.attrs["assumptions"]` says what the numbers rest on: print it with them.

    pipe: a pipeline, or None for SVD's full-size architecture.
    """
    from svdlab.pipeline.architecture import build

    pipe = build("SVD_XT") if pipe is None else pipe
    rows = []
    for height, width in sizes:
        for frames in num_frames:
            for chunk in chunks:
                need = estimate(pipe, height=height, width=width, num_frames=frames, dtype=dtype, decode_chunk_size=chunk)
                gb = {str(mode or "none"): round(need.total(mode) / 1e9, 1) for mode in OFFLOADS}
                rows.append(dict(height=height, width=width, num_frames=frames, decode_chunk_size=chunk or frames, **gb))
    table = pd.DataFrame(rows)
    table.attrs["assumptions"] = ASSUMPTIONS
    return table


# --- the acceptance run -----------------------------------------------------------------------------------------------


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
    """Run a checkpoint a few times and hold svdlab's promises against it, on this machine, in this dtype.

    >>> table = accept("SVD_1_1", offload="model", num_frames=8, height=320, width=576)
    >>> print(table.to_string(index=False)); exit_code(table)

    A row per contract: contract, deviation (largest difference over the spread), allowed, passed. 0 is allowed where the
    same numbers are computed twice in the same way; on GPUs that choose kernels as they go, use
    torch.use_deterministic_algorithms(True) to see it. load: arguments of `load_pipeline`.
    """
    pipe = checkpoint if isinstance(checkpoint, ProbePipeline) else load_pipeline(checkpoint, **load)
    if num_inference_steps < 3:
        raise CheckpointError(f"num_inference_steps={num_inference_steps}: at least 3 are needed, to branch in the middle.")
    c = Conditions(
        num_inference_steps=num_inference_steps, num_frames=num_frames, height=height, width=width, decode_chunk_size=2
    )
    dtype = pipe.unet.dtype
    allowed, exact = ALLOWED[dtype], 0.0 if pipe._execution_device.type == "cpu" else ALLOWED[dtype]
    middle = num_inference_steps // 2

    plain = generate(pipe, image, c, seed=0)
    with trace(pipe, keep=("latents", "next_latents", "denoised")) as tr:
        traced = generate(pipe, image, c, seed=0)
    resumed = branch(pipe, tr, middle)
    other = c.replace(motion_bucket_id=30, fps=12)
    single = generate_batch(pipe, [image], [other], [1], decode=False)[0]
    both = generate_batch(pipe, [image, image], [c, other], [0, 1], decode=False)

    step = tr.steps[middle]
    x, d = (step.values[name].float() for name in ("latents", "denoised"))
    euler = euler_step(x, d, step.sigma, step.sigma_next)
    frames = plain.frames
    rows = [
        ("the same call gives the same frames", _deviation(traced.frames, frames), exact),
        ("tracing changes nothing", _deviation(traced.latents, plain.latents), exact),
        ("a branch without changes ends where the run did", _deviation(resumed.latents, plain.latents), exact),
        ("a batch gives what single calls give", _deviation(both[0].latents, plain.latents), allowed),
        ("other conditions in a batch are kept apart", _deviation(both[1].latents, single.latents), allowed),
        ("the traced estimate leads to the next latents", _deviation(euler, step.values["next_latents"].float()), allowed),
        ("frames are finite and not black", float(not np.isfinite(frames).all() or frames.max() <= 1 / 255), 0.0),
    ]
    table = pd.DataFrame(rows, columns=["contract", "deviation", "allowed"])
    table["passed"] = table["deviation"] <= table["allowed"]
    table.attrs.update(dtype=str(dtype), device=str(pipe._execution_device), checkpoint=pipe.source.checkpoint)
    return table


def _deviation(a: Any, b: Any) -> float:
    """Largest difference over the spread of b; infinite where either is not finite."""
    one, two = (np.asarray(v.float() if isinstance(v, torch.Tensor) else v, dtype=np.float64) for v in (a, b))
    if one.shape != two.shape or not (np.isfinite(one).all() and np.isfinite(two).all()):
        return float("inf")
    return float(np.abs(one - two).max() / (np.ptp(two) or 1.0))


def tried_in_lock(lock: str) -> dict[str, str]:
    """The versions that a requirements lock pins, for comparing with TRIED."""
    return dict(re.findall(r"^([A-Za-z0-9_.-]+)==([^\s\\]+)", lock, re.MULTILINE))
