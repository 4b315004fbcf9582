"""Freed memory stays mapped only while that is asked for, also where the environment says otherwise (Dask's workers)."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from svdlab.pipeline.allocator import kept_pages

COUNT = """
import json, resource
import psutil, torch
from svdlab.pipeline.allocator import kept_pages
torch.set_num_threads(1)
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(50):
        torch.ones(2**20).add_(1)  # 4 MB, 1,024 pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
plain = faults()
with kept_pages():
    torch.ones(2**20)
    kept = faults()
    hundred = [torch.ones(2**20) for _ in range(100)]
    del hundred
    held = psutil.Process().memory_info().rss
print(json.dumps(dict(plain=plain, kept=kept, given_back=held - psutil.Process().memory_info().rss)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_pages_are_kept_inside_the_block_and_given_back_after_it() -> None:
    with kept_pages() as able:
        if not able:
            pytest.skip("not glibc")
    environment = os.environ | {"MALLOC_TRIM_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", COUNT], env=environment, stdout=subprocess.PIPE, text=True, check=True)
    counted = json.loads(done.stdout)
    assert counted["plain"] > 40 * 1024  # every tensor's pages anew
    assert counted["kept"] < counted["plain"] / 20
    assert counted["given_back"] > 300e6
