"""The examples in docstrings run: each module's own names, and a pipeline, a clip, a trace and a small study beside them.

An example that shows a result must give that result; one that shows none must only run. `# doctest: +SKIP` marks what needs a
GPU, the network or a user's own files.
"""

import doctest
import importlib
import inspect
import pkgutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import svdlab

pytestmark = pytest.mark.slow  # until every module holds its examples to it
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE | doctest.IGNORE_EXCEPTION_DETAIL
MODULES = ["svdlab", *(m.name for m in pkgutil.walk_packages(svdlab.__path__, "svdlab.") if not m.name.endswith("__main__"))]


class Lenient(doctest.OutputChecker):
    """A result that is not shown may be anything."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        return not want or super().check_output(want, got, optionflags)


class Finder(doctest.DocTestFinder):
    """Finds the examples of functions under `errors.takes` too."""

    def _from_module(self, module: Any, object: Any) -> bool:
        return super()._from_module(module, inspect.unwrap(object) if inspect.isroutine(object) else object)


@pytest.fixture(scope="session")
def names(pipe: Any, image: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What examples may use without making it."""
    folder = tmp_path_factory.mktemp("docs")
    scene = svdlab.sample_image("scene-27")
    with svdlab.trace(pipe, keep=("latents", "denoised", "cond", "uncond")) as tr:
        clip = svdlab.generate(pipe, scene, seed=0, num_inference_steps=4)
    plan = svdlab.grid(motion_bucket_id=[40, 200], fps=[6, 12], seed=[0], num_inference_steps=2)
    results = svdlab.sweep(pipe, plan, folder / "study", image="scene-27", progress=False)
    clip.frames.flags.writeable = False
    found = dict(
        svdlab=svdlab,
        show=svdlab.show,
        np=np,
        pd=pd,
        torch=torch,
        Path=Path,
        pipe=pipe,
        image=image,
        scene=scene,
        clip=clip,
        tr=tr,
    )
    found |= dict(frames=clip.frames, video=clip.frames, plan=plan, results=results, table=results, out=str(folder / "study"))
    return found | dict(folder=folder)


def examples_of(name: str) -> list[doctest.DocTest]:
    finder = Finder(exclude_empty=True)
    return [test for test in finder.find(importlib.import_module(name)) if test.examples]


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name: str, names: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    failures: list[str] = []
    for test in examples_of(name):
        test.globs = {**names, **vars(module)}
        report: list[str] = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            runner = doctest.DocTestRunner(checker=Lenient(), verbose=False, optionflags=FLAGS)
            if runner.run(test, out=report.append).failed:
                failures.append("".join(report))
    assert not failures, "\n".join(failures)
