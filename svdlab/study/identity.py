"""What determines a run's clip and numbers: the model as it is in memory, and the measures by their sources and parameters.

>>> model = facts(pipe)                     # weights, configs, adapters and processors as they are in memory
>>> sorted(model)
['autocast', 'config', 'dtype', 'format', 'intervention', 'versions', 'weights']
>>> [measure.name for measure in as_measures(["motion", "fidelity"])]
['motion', 'fidelity']

What changes a clip but cannot be read from a module (a hook, a `forward` of its own) is seen by what the module computes:
`fingerprint` runs each part once on a tiny fixed input, and `check` compares that with what the study's runs were made with.
A run measured by an earlier text of the instrument, or with other parameters, is measured again; a new version of svdlab
alone changes nothing.
"""

import copy
import inspect
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import numpy as np
import torch
from PIL import Image

from svdlab.errors import InputError
from svdlab.measure import fidelity, motion, published, video
from svdlab.measure.files import hash_facts, plain, read_json, write_whole
from svdlab.pipeline.sampler import open_edits, steps_of
from svdlab.study import ledger
from svdlab.study.plans import COLUMNS
from svdlab.study.sources import is_plain, source
from svdlab.study.weights import describe, module_of, weights_hash

FORMAT = 2  # of run.json and of the ids
PROJECTIONS = 8
LOW, HIGH = 0.0, 1.6  # log(sigma) / 4, SVD's timestep: sigma 1 and 600
TOLERANCE, HALF_TOLERANCE = 5e-3, 5e-2  # of a fingerprint's norm: other machines, threads and TF32 stay below it
LEAST = 1e-4  # norm below which an output is nothing but rounding
PLAIN = "give numbers, strings, truth values, None, or lists or dicts of these"
# Columns of results: a measure of that name would overwrite one.
TAKEN = {*COLUMNS, *ledger.FIRST_COLUMNS, *ledger.FILES, "run_id", "seconds"}
TAKEN |= {"file", "frames_in_file", "sampler", "notes"}  # of `svdlab.study.measured`
CARRIED = ("label_", "seconds_")


# --- the model --------------------------------------------------------------------------------------------------------


def facts(pipe: Any, intervention: str | None = None) -> dict[str, Any]:
    """What determines a clip beside its conditions, seed and image, as plain JSON. Takes seconds for full-size weights."""
    device = pipe._execution_device.type
    return {
        "weights": weights_hash(pipe),
        "config": hash_facts(describe(pipe)),
        "dtype": str(pipe.unet.dtype).removeprefix("torch."),
        "autocast": str(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else "",
        "versions": {"torch": torch.__version__.split("+")[0], "diffusers": diffusers.__version__},
        "intervention": intervention,
        "format": FORMAT,
    }


# --- its behaviour ----------------------------------------------------------------------------------------------------


@torch.no_grad()
def fingerprint(pipe: Any) -> dict[str, list[float]]:
    """What a clip's way through the pipeline computes from a small fixed input: a few random projections of what each of its
    methods returns, and of the output of each module of the models that has submodules.

    Called through the pipeline's own methods, so that hooks, instance `forward`s, autocast and preprocessing count. The UNet
    is given two samples, as under guidance, at a high and at a low noise level: a hook may act on one half or level only.
    """
    device, dtype, scale = pipe._execution_device, pipe.unet.dtype, pipe.vae_scale_factor
    side = max(scale * 2 ** (len(pipe.unet.config.block_out_channels) - 1), 8)
    z, channels = side // scale, pipe.unet.config.in_channels
    draw = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draw, device="cpu").to(device, dtype)

    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8))
    ids = torch.tensor([[6.0, 127.0, 0.02]] * 2).to(device, dtype)
    latents, pixels = noise(1, 2, channels // 2, z, z), noise(1, 3, side, side).clamp(-1, 1)
    sample, context = noise(2, 2, channels, z, z), noise(2, 1, pipe.unet.config.cross_attention_dim)
    given = dict(encoder_hidden_states=context, added_time_ids=ids, return_dict=False)  # as the sampler: a hook sees a tuple
    with torch.compiler.set_stance("force_eager"), _outputs(pipe) as seen:  # or a compiled model would be compiled anew
        try:
            seen["unet"] = pipe.unet(sample, HIGH, **given)
            high = {f"{name} at high noise": output for name, output in seen.items()}
            seen["unet"] = pipe.unet(sample, LOW, **given)
            seen["vae.encode"] = pipe._encode_vae_image(pixels.to(pipe.vae.dtype), device, 1, False)
            seen["vae.decode"] = decoded = pipe.decode_latents(latents.to(pipe.vae.dtype), 2, 2)
            seen["image_encoder"] = pipe._encode_image(picture, device, 1, False)
            seen["scheduler.step"] = _stepped(pipe.scheduler, noise(1, 2, channels // 2, z, z), latents)
            seen["scheduler.schedule"] = _schedule(pipe.scheduler)
            seen["time ids"] = pipe._get_add_time_ids(6, 127, 0.02, dtype, 1, 1, False)
            seen["preprocess"] = pipe.video_processor.preprocess(picture, height=side, width=side)
            seen["postprocess"] = torch.as_tensor(pipe.video_processor.postprocess_video(video=decoded, output_type="np"))
        except Exception as error:  # of a hook, of whoever's code stands in a method's place
            raise InputError(f"this pipeline cannot run, as it is now, on a small input: {error!r}") from error
    pipe.maybe_free_model_hooks()
    return {name: _projected(output) for name, output in (seen | high).items()}


def _stepped(scheduler: Any, v: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """The first of four steps from noise; a scheduler's own noise from seed 0."""
    scheduler = copy.deepcopy(scheduler)
    scheduler.set_timesteps(4, device=z.device)
    t, x = scheduler.timesteps[0], z * scheduler.init_noise_sigma
    scheduler.scale_model_input(x, t)
    drawn = "generator" in inspect.signature(scheduler.step).parameters
    return scheduler.step(v, t, x, **({"generator": torch.Generator().manual_seed(0)} if drawn else {}))[0]


def _schedule(scheduler: Any) -> torch.Tensor:
    """Logarithms of the noise levels, and timesteps, of four steps: the first step sees only the first."""
    scheduler = copy.deepcopy(scheduler)
    scheduler.set_timesteps(4)
    steps = steps_of(scheduler)
    return torch.tensor([[math.log(s.sigma + LEAST), math.log(s.sigma_next + LEAST), s.timestep] for s in steps])


@contextmanager
def _outputs(pipe: Any) -> Iterator[dict[str, Any]]:
    """The last output of each module with submodules, by name, while the block runs; of feed-forward layers the whole one,
    also where memory="small" computes it in parts."""
    seen: dict[str, Any] = {}
    with ExitStack() as hooks:
        for part in ("unet", "vae", "image_encoder"):
            for name, module in module_of(pipe, part).named_modules(prefix=part):
                if name != part and any(module.children()):
                    keep = lambda module, args, output, name=name: seen.update({name: output})
                    hooks.callback(module.register_forward_hook(keep).remove)
                if getattr(module, "_chunk_size", None):
                    hooks.callback(setattr, module, "_chunk_size", module._chunk_size)
                    module._chunk_size = None
        yield seen


def _projected(output: Any) -> list[float]:
    while not isinstance(output, torch.Tensor):
        output = output[0]
    flat = torch.nan_to_num(output.detach().float().cpu().flatten(), nan=1e4, posinf=1e4, neginf=-1e4).double()
    axes = torch.randn(PROJECTIONS, len(flat), generator=torch.Generator().manual_seed(0), device="cpu").double()
    return [float(v) for v in axes @ flat / len(flat) ** 0.5]


def different(one: Mapping[str, list[float]], other: Mapping[str, list[float]], dtype: str) -> list[str]:
    """The modules whose fingerprints differ by more than rounding on another machine, outermost first."""
    found, none, tolerance = [], [0.0] * PROJECTIONS, HALF_TOLERANCE if dtype in ("float16", "bfloat16") else TOLERANCE
    for name in sorted({*one, *other}, key=lambda n: (n.count("."), n)):
        a, b = (np.asarray(prints.get(name, none)) for prints in (one, other))
        difference, size = (float(np.linalg.norm(x)) for x in (a - b, np.hypot(a, b)))
        if difference > tolerance * max(size, LEAST):
            found.append(name)
    return found


def check(pipe: Any, out: Path, model: dict[str, Any]) -> dict[str, list[float]]:
    """The fingerprint of a pipeline, kept in `<out>/models/` for its facts, or compared with the one that is there.

    Raises InputError where they differ: the same weights and settings then compute something else than they did. Of what
    `svdlab.edit` changes, the places are compared.
    """
    path, own, edits = out / "models" / f"{hash_facts(model)}.json", fingerprint(pipe), list(open_edits(pipe))
    try:
        kept = read_json(path, follow=False)
        modules, others = different(kept["fingerprint"], own, model["dtype"]), list(kept.get("edits", edits))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # none yet, or damaged
        with ledger.disk_errors(path), write_whole(path) as part:
            found = {"model": model, "parts": describe(pipe), "edits": edits, "fingerprint": own}
            part.write_text(json.dumps(found) + "\n")
        return own
    if others != edits:
        raise InputError(
            f"the runs of intervention={model['intervention']!r} in {out} were made with svdlab.edit of "
            f"{', '.join(others) or 'nothing'}, and now it is of {', '.join(edits) or 'nothing'}: give that another name."
        )
    if modules:
        raise InputError(
            f"{', '.join(modules[:3])}: computes something else than for the runs in {out} of the same weights and settings. "
            f"A hook or a replaced forward does that. Undo the change, or name it, so that its clips have ids of their own: "
            f"sweep(..., intervention='name of the change')."
        )
    return own


# --- measures ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measure:
    """Numbers from a clip: `function(clip, **parameters)`, where it has a parameter `pipe` with the pipeline.

    function: returns a number, a string, None, a list of these, or a dict of such values. A single value is filed under
    `name`, a dict's under name_key. own: one of svdlab's, whose numbers keep their names as columns.
    """

    function: Callable[..., Any]
    name: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    own: bool = False

    @cached_property
    def identity(self) -> str:
        """Hash of the instrument's source and the parameters, defaults included: 24 hex digits."""
        signature = inspect.signature(self.function).parameters
        defaults = {k: p.default for k, p in signature.items() if p.default is not p.empty}
        facts = {"name": self.name, "parameters": {**defaults, **self.parameters}}
        return hash_facts({**facts, "source": source(self.function, whole=not self.own)})


def _motion(clip: Any, floor: float = motion.FLOOR) -> dict[str, Any]:
    return motion.summary(clip.frames, playback_fps=clip.playback_fps, floor=floor)


def _fidelity(clip: Any) -> dict[str, Any]:
    return fidelity.summary(clip.frames, clip.image)


def _published(clip: Any) -> dict[str, Any]:
    found = published.summary(clip.frames, clip.image, playback_fps=clip.playback_fps or video.PLAYBACK_FPS)
    return {f"published_{name}": value for name, value in found.items()}


OWN = {f.__name__[1:]: Measure(f, f.__name__[1:], own=True) for f in (_motion, _fidelity, _published)}


@cache
def own_values() -> dict[str, Any]:
    """What "motion" and "fidelity" call their numbers, each with a value: those of noise."""
    noise = np.random.default_rng(0).random((3, 32, 32, 3), np.float32)
    found = measure_clip(SimpleNamespace(frames=noise, image=noise[0], playback_fps=7), [OWN["motion"], OWN["fidelity"]], None)
    return {key: value for entry in found.values() for key, value in entry["values"].items()}


def _taken(key: str) -> bool:
    """Whether no measure of the user's may fill this column: also of svdlab's own, which another sweep may ask for."""
    return key in TAKEN or key.startswith(CARRIED) or key in own_values()


def as_measures(wanted: Any) -> tuple[Measure, ...]:
    """Names, functions, `functools.partial`s and Measures as Measures.

    >>> as_measures(partial(motion.summary, floor=0.2))[0].parameters    # "motion", above a checkpoint's own floor
    {'floor': 0.2}

    Raises InputError, with what to write instead, for an unknown name, a function that is not known by its source and
    parameters alone (a lambda, a closure, a method), and a name that a column of results has already.
    """
    found: dict[str, Measure] = {}
    for item in wanted if isinstance(wanted, (list, tuple, set)) else [wanted]:
        measure = OWN[item] if isinstance(item, str) and item in OWN else _as_measure(item)
        if found.setdefault(measure.name, measure).identity != measure.identity:
            raise InputError(f"two measures are called {measure.name!r}: give one another name, Measure(function, 'name').")
    return tuple(found.values())


def _as_measure(item: Any) -> Measure:
    if isinstance(item, partial) and item.func is motion.summary and [*item.keywords] == ["floor"] and not item.args:
        return replace(OWN["motion"], parameters={"floor": motion.LIMIT("floor", item.keywords["floor"])})
    if isinstance(item, partial) and not item.args:
        item = Measure(item.func, parameters=item.keywords)
    given = item if isinstance(item, Measure) else Measure(item)
    function, name = given.function, given.name or getattr(given.function, "__name__", "")
    if given.own:
        return given
    if not inspect.isfunction(function) or not name.isidentifier() or name in OWN:
        what = "a function with a name of its own (def), or a functools.partial of one with its parameters by name"
        raise InputError(f"measure {name or item!r}: give {', '.join(OWN)}, {what}.")
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        raise InputError(f"measure {name} is a coroutine or a generator: give a function that returns its numbers.")
    if held := inspect.unwrap(function).__code__.co_freevars:
        raise InputError(
            f"measure {name} takes {', '.join(held)} from around it: make that a parameter, def {name}(clip, "
            f"{', '.join(held)}), and give functools.partial({name}, {', '.join(f'{v}={v}' for v in held)})."
        )
    if _taken(name):
        raise InputError(f"measure {name!r} would overwrite the column {name!r} of the results: give it another name.")
    if odd := [key for key, value in given.parameters.items() if not is_plain(value)]:
        raise InputError(f"measure {name}: {odd[0]} is a {type(given.parameters[odd[0]]).__name__}: {PLAIN}.")
    signature = inspect.signature(function)
    try:
        signature.bind(None, **({"pipe": None} if "pipe" in signature.parameters else {}), **given.parameters)
    except TypeError as error:
        raise InputError(f"measure {name}{signature} cannot be called with a clip and {given.parameters}: {error}.") from None
    return Measure(function, name, dict(given.parameters))


def measure_clip(clip: Any, measures: Iterable[Measure], pipe: Any) -> dict[str, Any]:
    """What run.json holds of each measure: its identity and values, and the error of one that raised."""
    found: dict[str, Any] = {}
    for measure in measures:
        entry: dict[str, Any] = {"identity": measure.identity, "values": {}}
        try:
            given = {"pipe": pipe} if "pipe" in inspect.signature(measure.function).parameters else {}
            own = clip if measure.own else copy.deepcopy(clip)  # what it does to its clip, no other sees
            values = measure.function(own, **given, **measure.parameters)
            if not isinstance(values, Mapping):
                values = {measure.name: values}
            elif not measure.own:
                values = {f"{measure.name}_{key}": value for key, value in values.items()}
            for key, value in values.items():
                if not is_plain(value):
                    raise InputError(f"{key} is a {type(value).__name__}: {PLAIN}.")
                if (not measure.own and _taken(str(key))) or any(key in other["values"] for other in found.values()):
                    raise InputError(f"{key!r} is a column already.")
            entry["values"] = {str(key): plain(value) for key, value in values.items()}
        except Exception as error:  # a user's function: whatever it raises, the clip is good, and the others go on
            entry["error"] = f"{type(error).__name__}: {error}"
        found[measure.name] = entry
    return found


def missing_measures(record: Mapping[str, Any], measures: Iterable[Measure], *, retry_failed: bool = False) -> list[Measure]:
    """Those that a run lacks: not there, of another identity, or (where failures are tried again) failed."""
    held = record["measures"]
    return [
        m for m in measures if held.get(m.name, {}).get("identity") != m.identity or (retry_failed and "error" in held[m.name])
    ]
