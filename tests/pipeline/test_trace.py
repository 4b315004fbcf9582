"""A trace keeps what it was given, survives a file, reads as labelled arrays, and shows latents as colours."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import svdlab
from svdlab.errors import BrokenClipError, InputError, OutputError, TraceError
from svdlab.organism import world
from svdlab.pipeline.generate import Call, generate_batch
from svdlab.pipeline.images import decode_latents
from svdlab.pipeline.trace import KEEP, colour_map
from tests.pipeline.making import TEMPORAL, beside, make

MID = "unet.mid_block"
STEP = {"index": 2, "sigma": 1.0, "sigma_next": 0.0, "timestep": 0.0, "seconds": 0.1}


@pytest.fixture(scope="module")
def full(pipe: Any) -> svdlab.Trace:
    """Everything, of a batch of two, at two of three steps."""
    conditions = [svdlab.Conditions(num_inference_steps=3, motion_bucket_id=b) for b in (10, 200)]
    with svdlab.trace(pipe, keep=tuple(KEEP), modules=MID + "*", attention="temporal", steps=[0, 2]) as tr:
        generate_batch(pipe, ["scene-1", "scene-2"], conditions, [3, 4], decode=False)
    return tr


def test_shapes(full: svdlab.Trace) -> None:
    one = full[1]
    assert (len(full), full.batch, one.batch) == (2, 2, 1)
    assert full.latents.shape == (2, 2, 8, 4, 16, 16)
    assert one.latents.shape == one.denoised.shape == one["cond"].shape == (2, 8, 4, 16, 16)
    assert one["guidance_pressure"].shape == (2, 8, 16, 16)
    assert one[MID].shape == (2, 2, 8, 64, 4, 4)  # steps, halves, frames, channels, height, width
    with pytest.raises(InputError, match="0 to 1"):
        full[2]
    with pytest.raises(TraceError, match=r"'cnd'.*keep="):
        full["cnd"]


@pytest.mark.parametrize(
    "changed",
    [
        *(
            {key: wrong}
            for key in ("batch", "schedule", "steps", "calls", "label")
            for wrong in (None, 3.5, [[1]], [{}], "\x1b")
        ),
        {"steps": [{**STEP, "index": 0}]},  # fewer than the file has
        *({"steps": [{**STEP, name: wrong}] * 2} for name in ("index", "sigma", "timestep") for wrong in (None, "a", [1])),
        "[" * 100_000,
        *(torch.zeros(shape) for shape in [(2,), (2, 8, 4, 3, 3), (3, 8, 4, 16, 16)]),  # latents of one of the steps
    ],
)
def test_a_spoilt_file_is_named(full: svdlab.Trace, changed: Any, tmp_path: Path) -> None:
    path = full.save(tmp_path / "whole.safetensors")
    with safe_open(str(path), "pt") as file:
        header = json.loads(file.metadata()["svdlab"])
    tensors = load_file(path) | ({"1/latents": changed} if isinstance(changed, torch.Tensor) else {})
    header = changed if isinstance(changed, str) else json.dumps(header | (changed if isinstance(changed, dict) else {}))
    save_file(tensors, path, metadata={"svdlab": header})
    with pytest.raises(OutputError, match=r"whole\.safetensors cannot be read as a trace"):
        svdlab.Trace.load(path)


def test_a_record_that_is_none_is_refused(full: svdlab.Trace) -> None:
    record = full.calls[0].asdict()
    assert Call.read(json.loads(json.dumps(record))) == full.calls[0]
    source = {**record["source"], "label": "\x1b[2J"}
    wrong = [None, [], {}, {**record, "seed": 0.5}, {**record, "conditions": {"speed": 1}}, {**record, "source": source}]
    for spoilt in [*wrong, {**record, "edits": [3]}, {**record, "intervention": 3}, {**record, "start": [1]}]:
        with pytest.raises(InputError):
            Call.read(spoilt)


def test_a_file_gives_everything_back(full: svdlab.Trace, tmp_path: Path) -> None:
    for tr in (full, full[1]):
        loaded = svdlab.Trace.load(tr.save(tmp_path / "deep" / "trace.safetensors"))
        assert loaded.names == tr.names
        for name in tr.names:
            assert torch.equal(loaded[name].nan_to_num(), tr[name].nan_to_num())
        assert (loaded.calls, loaded.batch, loaded.label) == (tr.calls, tr.batch, tr.label)
        assert np.array_equal(loaded.colours, tr.colours)
        assert np.array_equal(loaded.schedule, tr.schedule)
        assert [vars(a) | {"values": 0} for a in loaded] == [vars(b) | {"values": 0} for b in tr]
        assert [image.tobytes() for image in loaded.images] == [image.tobytes() for image in tr.images]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["trace.safetensors"]
    json.dumps([call.asdict() for call in full.calls])


def test_files_that_are_no_traces(full: svdlab.Trace, tmp_path: Path) -> None:
    whole = full.save(tmp_path / "whole.safetensors")
    (cut := tmp_path / "cut.safetensors").write_bytes(whole.read_bytes()[:-100])
    (text := tmp_path / "text.safetensors").write_text("hello")
    save_file({"x": torch.zeros(1)}, other := tmp_path / "other.safetensors")
    for path in (tmp_path / "missing.safetensors", cut, text, other):
        with pytest.raises(OutputError, match=path.name):
            svdlab.Trace.load(path)


def test_xarray_names_its_dimensions(full: svdlab.Trace) -> None:
    ds = full[1].to_xarray()
    assert ds["latents"].dims == ("step", "frame", "channel", "y", "x")
    assert ds["guidance_pressure"].dims == ("step", "frame", "y", "x")
    assert ds[TEMPORAL + ".weights"].dims == ("step", "half", "axis1_8", "axis2_8")
    assert ds["step"].values.tolist() == [0, 2] and ds["sigma"].values == pytest.approx(full.sigmas)
    assert np.array_equal(ds[TEMPORAL].sel(step=2).values[0], full[1][TEMPORAL][1, 0].numpy())
    assert full.to_xarray()["latents"].dims == ("step", "sample", "frame", "channel", "y", "x")


def test_a_trace_shows_itself(full: svdlab.Trace) -> None:
    assert repr(full).startswith("Trace(2 steps of 2 samples from sigma 700 to ") and len(repr(full)) < 250
    assert full[1]._repr_html_().startswith("<video src=") and len(full[1]._repr_html_()) < 20_000
    assert full._repr_html_() == repr(full)  # of one sample
    assert svdlab.Trace()._repr_html_() == repr(svdlab.Trace()) == "Trace(0 steps: nothing kept)"


def test_an_empty_trace_says_why(pipe: Any) -> None:
    with svdlab.trace(pipe) as unused:
        pass
    with svdlab.trace(pipe, steps=[99]) as missed:
        make(pipe)
    for empty in (unused, missed):
        with pytest.raises(TraceError, match="this trace is empty"):
            _ = empty.latents


def test_the_last_estimate_decodes_to_the_clip(pipe: Any) -> None:
    with svdlab.trace(pipe) as tr:
        clip = svdlab.generate(pipe, "scene-1", num_inference_steps=2)
    whole = tr.decode(pipe)
    assert whole.shape == (2, 8, 64, 64, 3)
    np.testing.assert_allclose(whole[-1], clip.frames, atol=1e-5)  # Euler's last step goes there and back by sigma, and rounds
    assert np.array_equal(tr.decode(pipe, steps=[1], frames=[0, 3]).shape, (1, 2, 64, 64, 3))
    with pytest.raises(TraceError, match=r"tr\[0\]"):
        svdlab.Trace(steps=tr.steps, batch=2).decode(pipe)


def test_broken_latents_are_refused(pipe: Any) -> None:
    latents = torch.zeros(8, 4, 16, 16)
    for broken in (latents * float("nan"), latents - float("inf")):
        with pytest.raises(BrokenClipError, match="bfloat16"):
            decode_latents(pipe, broken, 8)


# Latents as colours: one linear map for each checkpoint, fitted on what its own VAE makes of known images


def test_the_map_shows_a_checkpoints_own_images(pipe: Any) -> None:
    scenes = world.scenes(4, seed=11).video[:, 0]
    with torch.no_grad():
        z = pipe.vae.encode(torch.from_numpy(scenes).permute(0, 3, 1, 2) * 2 - 1).latent_dist.mode()
    shown = svdlab.Trace(find_colours=lambda: colour_map(pipe)).as_colours(z * pipe.vae.config.scaling_factor)
    small = scenes.reshape(4, 16, 4, 16, 4, 3).mean((2, 4))
    assert np.corrcoef(shown.ravel(), small.ravel())[0, 1] > 0.8


def test_in_half_precision_the_map_is_the_same_and_the_weights_stay_as_they_are(pipe: Any) -> None:
    own = beside(pipe, **copy.deepcopy(pipe.components)).to(torch.bfloat16)
    before = {name: value.clone() for name, value in own.vae.state_dict().items()}
    np.testing.assert_allclose(colour_map(own), colour_map(pipe), atol=0.02)
    assert own.vae.dtype == torch.bfloat16
    assert all(torch.equal(value, before[name]) for name, value in own.vae.state_dict().items())
