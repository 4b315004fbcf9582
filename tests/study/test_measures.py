"""A measure is its instrument's source and its parameters: these change its identity, and nothing else does."""

import importlib
import linecache
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

import svdlab
from svdlab.errors import InputError
from svdlab.measure import motion
from svdlab.study.identity import Measure, as_measures, measure_clip, missing_measures

ROOT = Path(__file__).parents[2]
CLIP: Any = SimpleNamespace(frames=np.linspace(0, 1, 4 * 8 * 8 * 3).reshape(4, 8, 8, 3), playback_fps=None)


def mean_of(clip: Any, frame: int = 0) -> float:
    return float(clip.frames[frame].mean())


def several(clip: Any, pipe: Any = None) -> dict[str, Any]:
    return {"low": np.float32(clip.frames.min()), "by_frame": clip.frames.mean(axis=(1, 2, 3)), "pipe": pipe}


async def later(clip: Any) -> float:
    return 0.0


def identity(measure: Any) -> str:
    (found,) = as_measures(measure)
    return found.identity


def test_a_parameter_is_part_of_the_identity_and_a_default_is_one() -> None:
    assert identity(mean_of) == identity(partial(mean_of, frame=0)) == identity(Measure(mean_of, "mean_of", {"frame": 0}))
    assert len({identity(mean_of), identity(partial(mean_of, frame=1)), identity(several)}) == 3


def test_the_floor_of_a_checkpoints_own_codec_decides_what_is_static_and_is_part_of_the_identity() -> None:
    """Case F10. A still image that wobbles by a fifth of a pixel, as a lossy autoencoder may make it."""
    image = np.asarray(svdlab.sample_image("astronaut").resize((128, 128)), np.float32) / 255
    drifting = [cv2.warpAffine(image, np.float32([[1, 0, 0.2 * t], [0, 1, 0]]), (128, 128), borderMode=2) for t in range(9)]
    clip: Any = SimpleNamespace(frames=np.stack(drifting), playback_fps=None)
    floor = motion.noise_floor(clip.frames)
    assert 0.15 < floor < 0.3
    (own,), (above,) = as_measures("motion"), as_measures(partial(motion.summary, floor=2 * floor))
    assert own.name == above.name == "motion" and own.identity != above.identity
    assert identity(partial(motion.summary, floor=motion.FLOOR)) == own.identity
    assert measure_clip(clip, (own,), None)["motion"]["values"]["camera"] == "pan_left"
    assert measure_clip(clip, (above,), None)["motion"]["values"]["camera"] in ("static", "abstained")
    with pytest.raises(InputError, match="floor"):
        as_measures(partial(motion.summary, floor=-1.0))


def module_of(tmp_path: Path, text: str) -> Callable[..., Any]:
    """The function `measure` of a module with this text, freshly imported."""
    (tmp_path / "own_measure.py").write_text(text)
    sys.modules.pop("own_measure", None)
    importlib.invalidate_caches()
    return importlib.import_module("own_measure").measure


PACKAGE = {  # neighbours of case A8: where else a measure's numbers come from
    "a package's module": ("from own_package.inner import g as q\ndef measure(clip):\n    return q(clip)\n", "inner"),
    "a package": ("import own_package\ndef measure(clip):\n    return own_package.g(clip)\n", "__init__"),
    "a module of a package": ("import own_package.inner\ndef measure(clip):\n    return own_package.inner.g(clip)\n", "inner"),
    "one that a package names": ("from own_package import h\ndef measure(clip):\n    return h(clip)\n", "inner"),
}


@pytest.mark.parametrize("name", PACKAGE)
def test_a_package_of_the_users_counts(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    text, changed = PACKAGE[name]
    held = {"inner": "def g(clip):\n    return 1\n", "__init__": "from .inner import g as h\ndef g(clip):\n    return 1\n"}
    (tmp_path / "own_package").mkdir()

    def found() -> str:
        for module, source in held.items():
            (tmp_path / "own_package" / f"{module}.py").write_text(source)
        for loaded in [each for each in sys.modules if each.startswith("own_package")]:
            del sys.modules[loaded]
        return identity(module_of(tmp_path, text))

    first = found()
    assert found() == first
    held[changed] += "# corrected\n"
    assert found() != first


def times(k: float) -> Callable[..., Any]:
    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def scaled(clip: Any) -> Any:
            return k * function(clip)

        return scaled

    return decorate


def test_what_a_decorator_or_an_attribute_holds_counts() -> None:
    assert identity(times(2)(mean_of)) == identity(times(2)(mean_of)) != identity(times(3)(mean_of))
    assert identity(times(2)(mean_of)) != identity(mean_of)
    before = identity(several)
    several.limit = 3  # type: ignore[attr-defined]
    try:
        assert identity(several) != before
    finally:
        del several.limit  # type: ignore[attr-defined]


ASK = """
import sys
from svdlab.study.identity import as_measures
import svdlab
def mine(clip):
    return svdlab.motion.summary(clip.frames)["flow_px"]
print(*[m.identity for m in as_measures(["motion", "fidelity"])])
"""


def ask(root: Path) -> list[str]:
    done = subprocess.run([sys.executable, "-c", ASK], cwd=root, env={"PYTHONPATH": str(root)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.slow
def test_a_corrected_instrument_measures_again_and_a_new_version_of_svdlab_does_not(tmp_path: Path) -> None:
    """Case A8."""
    shutil.copytree(ROOT / "svdlab", tmp_path / "svdlab", ignore=shutil.ignore_patterns("*.safetensors", "__pycache__"))

    def change(name: str, old: str, new: str) -> None:
        path = tmp_path / "svdlab" / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    motion, fidelity = ask(tmp_path)
    change("__init__.py", '__version__ = "', '__version__ = "9.')
    change("measure/fidelity.py", '"""', '"""Corrected. ')
    now = ask(tmp_path)
    assert now[0] == motion and now[1] != fidelity
    change("measure/flow.py", '"""', '"""Corrected. ')  # which both use
    assert ask(tmp_path)[0] != motion


def in_a_cell(text: str) -> Callable[..., Any]:
    """The function `measure` of a notebook's cell: no module has its source."""
    space: dict[str, Any] = {"__name__": "__main__", "svdlab": svdlab}
    name = f"<cell {abs(hash(text))}>"
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    exec(compile(text, name, "exec"), space)
    return space["measure"]


@pytest.mark.parametrize("where", ["a module", "a cell"])
def test_what_a_function_names_counts(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a module all of its text."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    of = lambda text: identity(in_a_cell(text) if where == "a cell" else module_of(tmp_path, text))
    text = "LIMIT = 3\nOTHER = 1\ndef helper(x):\n    return x\ndef measure(clip):\n    return helper(LIMIT)\n"
    first = of(text)
    assert of(text) == first and (of(text.replace("OTHER = 1", "OTHER = 2")) == first) == (where == "a cell")
    assert of(text.replace("= 3", "= 4")) != first and of(text.replace("return x", "return 2 * x")) != first


NAMED = {  # neighbours of case A8: what else a measure in a cell computes with
    "a dict by numbers": ("W = {0: 1.0}", "W[0]", "1.0", "2.0"),
    "a set": ("W = {'a', 'b'}", "len(W)", "'b'", "'c'"),
    "a range": ("W = range(3)", "len(W)", "3", "4"),
    "a class": ("class G:\n    def f(self):\n        return 1", "G().f()", "1", "2"),
    "a class's value": ("class G:\n    K = 1", "G.K", "1", "2"),
    "a dataclass's instance": ("@dataclass\nclass G:\n    k: int\ng = G(1)", "g.k", "(1)", "(2)"),
    "a cached function": ("@lru_cache\ndef g():\n    return 1", "g()", "1", "2"),
    "a partial": ("def h(k):\n    return k\ng = partial(h, k=1)", "g()", "k=1", "k=2"),
    "a partial's function": ("def h(k):\n    return k\ng = partial(h, k=1)", "g()", "return k", "return -k"),
    "a type of numpy": ("W = np.float32", "W(LIMIT)\nLIMIT = 1", "= 1", "= 2"),
}


@pytest.mark.parametrize("name", NAMED)
def test_what_a_cell_names_counts_whatever_it_is(name: str) -> None:
    given, used, old, new = NAMED[name]
    text = f"from dataclasses import dataclass\nfrom functools import lru_cache, partial\nimport numpy as np\n{given}\n"
    text += f"def measure(clip):\n    return {used}\n"
    assert identity(in_a_cell(text)) == identity(in_a_cell(text)) != identity(in_a_cell(text.replace(old, new)))


def test_a_closure_is_refused_and_the_message_shows_the_fix() -> None:
    threshold = 0.5

    def share(clip: Any) -> float:
        return float((clip.frames > threshold).mean())

    with pytest.raises(InputError, match=r"functools.partial\(share, threshold=threshold\)"):
        as_measures(share)


COLUMNS = ("status", "fps", "seed", "seconds_denoising", "label_arm", "run_id")  # case D3
COLUMNS += ("notes", "sampler", "flow_px", "warp_error")  # of measured files, of svdlab's own measures


@pytest.mark.parametrize(
    ("measure", "said"),
    [
        ("speed", "measure 'speed': give motion"),
        (lambda clip: 1, "a name of its own"),
        (partial(mean_of, CLIP), "by name"),
        (partial(mean_of, frame=CLIP), "frame is a SimpleNamespace"),
        (partial(mean_of, farme=1), "cannot be called with a clip and {'farme': 1}: got an unexpected"),
        (partial(mean_of, clip=1), "cannot be called with a clip"),
        (later, "is a coroutine or a generator"),
        *((Measure(mean_of, name), f"would overwrite the column '{name}'") for name in COLUMNS),
        ([mean_of, partial(mean_of, frame=1)], "two measures are called 'mean_of'"),
    ],
)
def test_what_is_no_measure_is_refused(measure: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        as_measures(measure)


def odd(clip: Any) -> Any:
    return CLIP


def several_low(clip: Any) -> float:
    return 1.0


def flow(clip: Any) -> dict[str, float]:
    return {"px": 99.0}


def test_values_are_filed_under_the_measures_name_as_plain_values_or_an_error_is() -> None:
    measures = as_measures([partial(mean_of, frame=3), several, odd, several_low, flow])
    found = measure_clip(CLIP, measures, pipe="the pipeline")
    assert found["mean_of"]["values"] == {"mean_of": pytest.approx(CLIP.frames[3].mean())}
    values = found["several"]["values"]
    assert values["several_by_frame"] == pytest.approx(CLIP.frames.mean(axis=(1, 2, 3))) and values["several_low"] == 0
    assert type(values["several_low"]) is float and type(values["several_by_frame"]) is list
    assert values["several_pipe"] == "the pipeline"  # given to whoever asks for it
    assert "give numbers" in found["odd"]["error"] and "is a column already" in found["several_low"]["error"]
    assert "'flow_px' is a column already" in found["flow"]["error"]  # of "motion", which another sweep asks for


def spoils(clip: Any) -> float:
    clip.frames *= 0
    clip.frames = clip.frames[:1]
    return 0.0


def test_a_measure_that_changes_its_clip_changes_no_other_number() -> None:
    found = measure_clip(CLIP, as_measures([spoils, partial(mean_of, frame=3)]), None)
    assert found["mean_of"]["values"]["mean_of"] == CLIP.frames[3].mean() > 0.5


def test_what_a_run_lacks() -> None:
    asked = as_measures([mean_of, several, odd])
    held = measure_clip(CLIP, as_measures([partial(mean_of, frame=1), odd, several]), pipe=None)
    record = {"measures": held}
    assert [m.name for m in missing_measures(record, asked)] == ["mean_of"]
    assert [m.name for m in missing_measures(record, asked, retry_failed=True)] == ["mean_of", "odd"]


def test_a_sweep_has_the_published_measures_as_columns(pipe: Any, tmp_path: Path) -> None:
    plan = svdlab.grid(image=["scene-27"], seed=[0], num_inference_steps=1, max_guidance_scale=1.0)
    names = ("motion", "fidelity", "published")
    row = svdlab.sweep(pipe, plan, tmp_path / "study", measure=names, progress=False).iloc[0]
    assert row.status == "done" and 0 < row.published_vbench_flicker <= 1 and row.published_evalcrafter_warp > 0
    assert isinstance(row.published_vbench_camera, str) and row.published_aigcbench_ssim <= 1 and row.warp_error > 0


def huge(clip: Any) -> int:
    return 10**400


def test_a_number_that_no_column_holds_is_the_measures_error() -> None:
    """Else no table of the study could be written any more."""
    found = measure_clip(None, as_measures(huge), None)["huge"]
    assert found["values"] == {} and "give numbers" in found["error"]
