"""Memory at full size by arithmetic, and a real limit on the address space while a clip is decoded."""

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

import svdlab
from svdlab.pipeline import memory
from svdlab.pipeline.quick import one_key_attention
from tests.full_size import build
from tests.meta_memory import peak

pytestmark = pytest.mark.slow
FRAMES, HEIGHT, WIDTH = 25, 576, 1024
GB = 1e9


def size(module: torch.nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in module.parameters())


def empty(*shape: int, dtype: torch.dtype = torch.float16) -> torch.Tensor:
    return torch.empty(shape, device="meta", dtype=dtype)


def test_full_size_in_small_memory_takes_at_most_6_5_gb() -> None:
    """Activations at their peak and what lies on the card of the weights then: of group offload the two largest blocks that
    follow each other and all that is outside of blocks."""
    pipe = build("SVD_XT", dtype=torch.float16)
    unet, vae, z = pipe.unet, pipe.vae, (HEIGHT // 8, WIDTH // 8)

    def call(halves: int) -> Any:
        with one_key_attention(unet):
            given = empty(halves, 1, 1024), empty(halves, 3)
            return unet(empty(halves, FRAMES, 8, *z), empty(dtype=torch.float32), *given, return_dict=False)

    at_once = peak(lambda: call(2))
    assert at_once == pytest.approx(memory.denoising(pipe, FRAMES, HEIGHT, WIDTH), rel=0.05)
    pipe.memory = "small"
    unet.enable_forward_chunking()
    in_turn = peak(lambda: call(1))
    blocks = [*unet.down_blocks, *unet.up_blocks]
    following = max(size(a) + size(b) for a, b in pairwise(blocks))
    denoising = in_turn + following + size(unet) - sum(map(size, blocks))
    chunk = memory.fitting_chunk(pipe, FRAMES, HEIGHT, WIDTH)
    decoded = peak(lambda: pipe.decode_latents(empty(1, FRAMES, 4, *z), FRAMES, chunk)) + size(vae)
    assert peak(lambda: vae.decode(empty(2, 4, *z), num_frames=2)) == pytest.approx(
        memory.decoding(pipe, 2, HEIGHT, WIDTH), rel=1e-3
    )
    large = build("SVD_XT", dtype=torch.float32).vae  # a float16 VAE encodes in float32
    encoded = peak(lambda: large.encode(empty(1, 3, HEIGHT, WIDTH, dtype=torch.float32))) + size(large)
    clip = peak(lambda: pipe.image_encoder(empty(1, 3, 224, 224))) + size(pipe.image_encoder)
    print({k: round(v / GB, 2) for k, v in dict(denoising=denoising, decoded=decoded, encoded=encoded, clip=clip).items()})
    assert max(denoising, decoded, encoded, clip) <= memory.SMALL == 6.5 * GB and at_once > 8 * GB


LIMITED = """
import gc, json, re, resource, sys, warnings
from pathlib import Path
import torch, svdlab
from svdlab.errors import OutOfMemoryError
from svdlab.measure.video import read_frames
from svdlab.pipeline.generate import Conditions, decode_clip, generate_batch
warnings.simplefilter("ignore")
pipe, out, no_limit = svdlab.load_pipeline(device="cpu"), Path(sys.argv[1]), (resource.RLIM_INFINITY,) * 2
wide = dict(num_inference_steps=1, height=192, width=192)
def memory(what):
    return 1024 * int(re.search(rf"{what}:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])
def taken(work):
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")
    found = work()
    return memory("VmHWM") - before, found
def limit(allowed):
    gc.collect()
    resource.setrlimit(resource.RLIMIT_AS, (memory("VmSize") + int(allowed), resource.RLIM_INFINITY))
def sweep(name, **row):
    how = dict(image="cat", measure=(), threads=1, progress=False)
    return svdlab.sweep(pipe, [dict(seed=0, **wide, **row)], out / name, **how).iloc[0]
make = lambda: generate_batch(pipe, ["cat"], [Conditions(**wide)], [0], decode=False)[0]
sweep("warm")
denoising, clip = taken(make)
decoding, _ = taken(lambda: decode_clip(pipe, clip))
limit(max(0.6 * decoding, 1.2 * denoising))
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    row = sweep("tight")
resource.setrlimit(resource.RLIMIT_AS, no_limit)
chunk = int(row.decode_chunk_size)
asked = sweep("asked", decode_chunk_size=chunk)
levels = [read_frames(each.frames).astype(int) for each in (row, asked)]
same = int(abs(levels[0] - levels[1]).max())
again = sweep("tight").run_id == row.run_id
clip = make()
limit(0.05 * decoding)
try:
    decode_clip(pipe, clip)
    kept = words = None
except OutOfMemoryError as error:
    kept, words = error.clip is clip, str(error)
resource.setrlimit(resource.RLIMIT_AS, no_limit)
frames = len(decode_clip(pipe, clip).frames)
found = dict(denoising=denoising, decoding=decoding, status=row.status, chunk=chunk, same=same, again=again)
print(json.dumps(found | dict(kept=kept, words=words, frames=frames, said=[str(w.message) for w in said])))
"""


def test_a_failed_decode_loses_no_denoising_and_finishes_by_a_smaller_chunk(tmp_path: Path) -> None:
    # Every large tensor is given back when it dies, so that the limit counts those that live: no arenas, no free heap.
    malloc = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": str(2**18), "MALLOC_TRIM_THRESHOLD_": str(2**18)}
    env = os.environ | malloc | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(svdlab.__file__).parents[1])}
    command = [sys.executable, "-c", LIMITED, tmp_path]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["decoding"] > 2 * found["denoising"] and found["decoding"] > 50e6
    assert found["status"] == "done" and 1 <= found["chunk"] < 8 and found["same"] <= 1 and found["again"]
    assert any(f"by {found['chunk']}, which changes pixels" in words for words in found["said"])
    assert found["kept"] and "memory='small'" in found["words"] and found["frames"] == 8
