"""What svdlab promises, on a real GPU at full size with random weights: under 8 minutes on one H100.

    python -m tools.gpu_check OUT.json               # 25 frames of 576x1024, float16; writes OUT.json after each section
    python -m tools.gpu_check OUT.json --small       # the organism, on a GPU or a CPU: whether the script itself runs

A section that may not end in the time left (--minutes) is skipped, which is recorded; what fails is written down, and the
next one goes on. Seconds are medians after one call that is not counted.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

import svdlab
from svdlab.measure import video
from svdlab.measure.files import write_whole
from svdlab.pipeline import memory, sampler, single_file
from svdlab.pipeline.conditions import Conditions, Source
from svdlab.pipeline.edits import branch
from svdlab.pipeline.generate import ProbePipeline, decode_clip, generate_batch
from svdlab.pipeline.images import decode_latents
from svdlab.pipeline.quick import compile_blocks
from tools.bench.bench_sweep import stock_loop

# Seconds on an H100 that a section is expected to stay below, in their order.
SECTIONS = {
    "built": 30,
    "steps": 40,
    "against_stock": 90,
    "promises": 60,
    "decoding": 60,
    "attention": 20,
    "batches": 40,
    "overlap": 60,
    "two_at_once": 30,
    "memory_modes": 60,
    "compiled": 120,
}


class Check:
    """The pipeline, and what all sections use."""

    def __init__(self, small: bool) -> None:
        self.small, self.device = small, torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.gpu = self.device.type == "cuda"
        self.pipe: Any = None

    # --- tools ---------------------------------------------------------------------------------------------------------

    def seconds(self, work: Callable[[], Any], repeats: int = 3) -> float:
        times = []
        for _ in range(repeats + 1):
            self.wait()
            start = time.perf_counter()
            work()
            self.wait()
            times.append(time.perf_counter() - start)
        return round(statistics.median(times[1:]), 4)

    def wait(self) -> None:
        if self.gpu:
            torch.cuda.synchronize()

    def peak(self, work: Callable[[], Any]) -> tuple[float | None, Any]:
        """GB on the GPU at the peak, as torch's allocator counts them; None on a CPU."""
        self.free()
        if self.gpu:
            torch.cuda.reset_peak_memory_stats()
        found = work()
        self.wait()
        return (round(torch.cuda.max_memory_allocated() / 1e9, 2) if self.gpu else None), found

    def free(self) -> None:
        gc.collect()
        if self.gpu:
            torch.cuda.empty_cache()

    def denoise(self, steps: int = 2, seeds: tuple[int, ...] = (0,), **conditions: Any) -> list[Any]:
        asked = [Conditions(num_inference_steps=steps, **conditions)] * len(seeds)
        return generate_batch(self.pipe, ["astronaut"] * len(seeds), asked, list(seeds), decode=False)

    def sweep(self, plan: list[dict[str, Any]], out: Path, **more: Any) -> Any:
        how: dict[str, Any] = dict(image="astronaut", batch_size=1, threads=1, progress=False)
        return svdlab.sweep(self.pipe, plan, out, **how, **more)

    # --- sections ------------------------------------------------------------------------------------------------------

    def built(self) -> dict[str, Any]:
        start = time.perf_counter()
        if self.small:
            self.pipe = svdlab.load_pipeline(device=self.device.type, dtype="float32", memory="full")
        else:
            self.pipe = random_pipeline(self.device, torch.float16)
        self.wait()
        held = round(torch.cuda.memory_allocated() / 1e9, 2) if self.gpu else None
        return {"seconds": time.perf_counter() - start, "parameters": self.pipe.unet.num_parameters(), "gb": held}

    def steps(self) -> dict[str, Any]:
        """One guided call of the bare UNet, and what a step costs around it, alone and traced."""
        pipe, n, steps = self.pipe, self.pipe.unet.config.num_frames, 4
        h, w = pipe.source.height // pipe.vae_scale_factor, pipe.source.width // pipe.vae_scale_factor
        make = lambda *shape: torch.randn(shape, device=self.device, dtype=pipe.unet.dtype)
        x, e, ids = make(2, n, 8, h, w), make(2, 1, pipe.unet.config.cross_attention_dim), make(2, 3)
        with torch.no_grad():
            bare = self.seconds(lambda: pipe.unet(x, 1.0, e, ids))
        alone = self.seconds(lambda: self.denoise(steps), 2) / steps

        def traced() -> None:
            with svdlab.trace(pipe, keep=("latents", "denoised")):
                self.denoise(steps)

        with_trace = self.seconds(traced, 2) / steps
        return {"bare_unet": bare, "step": alone, "traced_step": with_trace, "trace_overhead": with_trace / alone - 1}

    def against_stock(self) -> dict[str, Any]:
        """A sweep, traced and measured, against the loop that one would write: wall time, and frames at batch 1."""
        from diffusers import StableVideoDiffusionPipeline

        pipe, steps, count = self.pipe, 6, 2
        chunk = memory.fitting_chunk(pipe, pipe.unet.config.num_frames, pipe.source.height, pipe.source.width)
        plan = [dict(seed=n, num_inference_steps=steps, decode_chunk_size=chunk) for n in range(count)]
        with tempfile.TemporaryDirectory() as folder:
            theirs = stock_loop(pipe, plan, Path(folder), torch.get_num_threads())
            start = time.perf_counter()
            table = self.sweep(plan, Path(folder, "study"), measure="motion", keep=("latents",))  # as the loop does
            ours = time.perf_counter() - start
            own = video.read_frames(table.frames[0])
        stock = StableVideoDiffusionPipeline(**pipe.components)
        stock.set_progress_bar_config(disable=True)
        c = table.iloc[0]
        size = dict(height=int(c.height), width=int(c.width), num_frames=int(c.num_frames), decode_chunk_size=chunk)
        image = svdlab.pipeline.images.prepare_image("astronaut", height=size["height"], width=size["width"])
        given = dict(num_inference_steps=steps, generator=torch.manual_seed(0), output_type="np")
        frames = stock(image, **size, **given).frames[0]
        levels = np.abs(video.as_bytes(frames).astype(int) - own)
        return {
            "stock": theirs,
            "sweep": ours,
            "ratio": ours / theirs,
            "frames_equal": bool(not levels.any()),
            "levels_apart": int(levels.max()),
        }

    def promises(self) -> dict[str, Any]:
        """A branch without changes against its clip, and clips of a batch against the same ones alone, in half precision."""
        found, own = {}, self.pipe.unet.dtype
        for dtype in (torch.float16, torch.bfloat16) if self.gpu else (torch.float32,):
            self.pipe.to(dtype)
            with svdlab.trace(self.pipe) as tr:
                clip = self.denoise(4)[0]
            again, both = branch(self.pipe, tr, 2, decode=False), self.denoise(2, (0, 1))
            alone = [self.denoise(2, (seed,))[0] for seed in (0, 1)]
            apart = max(float((a.latents - b.latents).abs().max()) for a, b in zip(both, alone, strict=True))
            found[str(dtype)] = {"branch": float((again.latents - clip.latents).abs().max()), "batch": apart}
        self.pipe.to(own)
        return found

    def decoding(self) -> dict[str, Any]:
        clip, found = self.denoise(1)[0], {}
        n = len(clip.latents)
        for chunk in sorted({1, 2, 4, min(8, n), (n + 1) // 2, n}):
            try:
                start = time.perf_counter()
                gb, _ = self.peak(lambda chunk=chunk: decode_latents(self.pipe, clip.latents, chunk, as_bytes=True))
                found[str(chunk)] = {"seconds": time.perf_counter() - start, "peak_gb": gb}
            except RuntimeError as error:
                found[str(chunk)] = {"error": str(error)[:200]}
        return {**found, "chosen": clip.conditions.decode_chunk_size}

    def attention(self) -> dict[str, Any]:
        """One key instead of attention to the image."""
        quick = self.seconds(self.denoise, 2)
        with mock.patch.object(sampler, "one_key_attention", lambda unet: nullcontext()):
            plain = self.seconds(self.denoise, 2)
        return {"one_key": quick, "attention": plain, "gain": plain / quick}

    def batches(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for n in (1, 2, 4):
            try:
                gb, seconds = self.peak(lambda n=n: self.seconds(lambda: self.denoise(2, tuple(range(n))), 1))
                found[str(n)] = {"seconds_a_clip": seconds / n, "peak_gb": gb}
            except MemoryError as error:
                found[str(n)] = {"error": str(error)[:200]}
                break
        return found

    def overlap(self) -> dict[str, Any]:
        """Wall time of a sweep over what its clips were denoised and decoded in: 1 where writing hides behind the GPU."""
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            table = self.sweep(
                [dict(seed=n, num_inference_steps=4) for n in range(3)], Path(folder, "study"), measure=("motion", "fidelity")
            )
            wall = time.perf_counter() - start
        made = float(table.seconds_denoising.sum() + table.seconds_decoding.sum())
        return {"wall": wall, "model": made, "ratio": wall / made}

    def two_at_once(self) -> dict[str, Any]:
        """Two clips by two threads on one pipeline, over one after the other."""

        def both() -> None:
            with ThreadPoolExecutor(2) as pool:
                list(pool.map(lambda seed: self.denoise(2, (seed,)), (0, 1)))

        turns = self.seconds(lambda: [self.denoise(2, (seed,)) for seed in (0, 1)], 1)
        return {"in_turn": turns, "at_once": (together := self.seconds(both, 1)), "gain": turns / together}

    def memory_modes(self) -> dict[str, Any]:
        """Peak memory and seconds of a step in full and small memory, and how far their latents are apart. Ends in small."""
        found, latents = {}, []
        for mode in ("full", "small"):
            if mode == "small":
                self.pipe.to("cpu")
                if not memory.make_small(self.pipe, self.device, None):
                    self.pipe.to(self.device)
                self.free()
            gb, clip = self.peak(lambda: self.denoise(3)[0])
            step = self.seconds(lambda: self.denoise(3), 1) / 3
            decoded, _ = self.peak(lambda clip=clip: decode_clip(self.pipe, clip))
            chunk = clip.conditions.decode_chunk_size
            found[mode] = {"denoising_gb": gb, "decoding_gb": decoded, "chunk": chunk, "step": step}
            latents.append(clip.latents)
        return {**found, "apart": float((latents[0] - latents[1]).norm() / latents[0].norm())}

    def compiled(self) -> dict[str, Any]:
        """torch.compile by block, on a pipeline of its own."""
        if not self.gpu:
            return {"skipped": "not on a CPU"}
        self.pipe = None
        self.free()
        self.built()
        plain = self.seconds(self.denoise, 2)
        compile_blocks(self.pipe.unet)
        start = time.perf_counter()
        self.denoise()
        first, quick = time.perf_counter() - start, self.seconds(self.denoise, 2)
        return {"first": first, "plain": plain, "compiled": quick, "gain": plain / quick}


def random_pipeline(device: torch.device, dtype: torch.dtype) -> ProbePipeline:
    """SVD XT in full size; weights drawn on the device, of a scale that keeps activations finite."""
    parts, draw = single_file.full_size(25), torch.Generator(device).manual_seed(0)
    for part in (parts[name] for name in ("unet", "vae", "image_encoder")):
        for module in part.modules():
            for name, held in module._parameters.items():
                if held is None:
                    continue
                if held.dim() > 1:
                    value = torch.randn(held.shape, device=device, dtype=dtype, generator=draw) * held[0].numel() ** -0.5
                else:
                    value = torch.full(held.shape, float(name == "weight"), device=device, dtype=dtype)
                module._parameters[name] = torch.nn.Parameter(value, requires_grad=False)
        part.eval().to(device)
    pipe = ProbePipeline(**parts)
    pipe.source = Source("random full size", label="random weights")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.gpu_check", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("out", type=Path)
    parser.add_argument("--small", action="store_true", help="the organism instead of full size")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--only", nargs="*", default=list(SECTIONS), choices=list(SECTIONS), metavar="SECTION")
    given = parser.parse_args(words)
    check, begun = Check(given.small), time.perf_counter()
    if not check.gpu and not given.small:
        parser.error("there is no GPU here: give --small")
    name = torch.cuda.get_device_name() if check.gpu else f"cpu, {torch.get_num_threads()} threads"
    found: dict[str, Any] = {"device": name, "torch": torch.__version__, "svdlab": svdlab.__version__, "small": given.small}
    for section, expected in SECTIONS.items():
        left = 60 * given.minutes - (time.perf_counter() - begun)
        start = time.perf_counter()
        if section not in ("built", *given.only):
            continue
        if check.gpu and left < expected:
            found[section] = {"skipped": f"{left:.0f} s are left, and it may take {expected}"}
        else:
            try:
                found[section] = getattr(check, section)()
            except Exception as error:
                traceback.print_exc()
                found[section] = {"error": f"{type(error).__name__}: {error}"[:500]}
            found[section]["took"] = time.perf_counter() - start
        check.free()
        with write_whole(given.out) as part:
            part.write_text(json.dumps(found, indent=1, default=float) + "\n")
        print(section, json.dumps(found[section], default=float), flush=True)
    return any("error" in value for value in found.values() if isinstance(value, dict))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
