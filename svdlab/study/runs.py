"""What one run is: what its id is made of, what is measured on it, what its record says, what it still lacks.

The vocabulary that `sweeps` and `workers` share; nothing here denoises or writes.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import socket
import threading
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import diffusers
import torch

from svdlab import __version__
from svdlab.errors import InputError
from svdlab.measure import fidelity, motion
from svdlab.pipeline.conditions import Conditions
from svdlab.pipeline.generate import Clip, ProbePipeline
from svdlab.study import folders, ledger
from svdlab.study.plans import CONDITIONS


@dataclass(frozen=True)
class Measure:
    """Numbers from a clip. version tells a measure from its own earlier text: a run measured by that is measured again."""

    name: str
    function: Callable[[Clip], Any]
    version: str


@dataclass(frozen=True)
class How:
    """How a sweep makes its runs; the same for all of them. facts: what determines a clip beside its row.
    kept: arguments of `svdlab.trace`, or None for no trace."""

    facts: dict[str, Any]
    measures: tuple[Measure, ...] = ()
    kept: dict[str, Any] | None = None
    batch_size: int = 1
    retry_failed: bool = False


@dataclass(frozen=True)
class Job:
    """One run to make. conditions: with nothing left to fill in. image: the prepared picture's hash. donor: another run
    that is said to have the same latents, so that only decoding is left."""

    run_id: str
    latents_id: str
    conditions: Conditions
    seed: int
    image: str
    image_name: str
    flip_noise: str | None = None
    donor: str | None = None

    @property
    def batch_key(self) -> tuple:
        """What clips of one batch must agree in."""
        c = self.conditions
        return (c.num_frames, c.height, c.width, c.num_inference_steps, c.guided)


# --- identity ---------------------------------------------------------------------------------------------------------


def facts(pipe: ProbePipeline, intervention: str | None = None) -> dict[str, Any]:
    """What determines a clip beside its conditions, seed and picture."""
    return {
        "weights": weights_hash(pipe),
        "dtype": str(pipe.unet.dtype).removeprefix("torch."),
        "versions": {"torch": torch.__version__.split("+")[0], "diffusers": diffusers.__version__},
        "intervention": intervention,
        "format": folders.FORMAT,
    }


def weights_hash(pipe: ProbePipeline) -> str:
    """sha256 over weights and scheduler as they are in memory, so that a model changed after loading has ids of its own.

    One checkpoint has one hash on every device, and another one in every dtype. Where weights are not in memory
    (sequential offload), what the source recorded stands in.
    """
    digest = hashlib.sha256()
    for name in ("unet", "vae", "image_encoder"):
        part = getattr(pipe, name)
        for key, tensor in getattr(part, "_orig_mod", part).state_dict().items():
            if tensor.device.type == "meta":
                return f"{pipe.source.weights_hash or pipe.source.checkpoint}@{pipe.source.revision}"
            digest.update(f"{name}.{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    digest.update(json.dumps(dict(pipe.scheduler.config), sort_keys=True, default=str).encode())
    return digest.hexdigest()


def job(conditions: Conditions, seed: int, image: str, image_name: str, facts_id: str, flip_noise: str | None = None) -> Job:
    """The job of one row, with its two ids: of the latents, and of the run, which has the decoding in it too.

    playback_fps changes no pixel, but px/s and the video files.
    """
    values = {name: getattr(conditions, name) for name in CONDITIONS}
    decoding = {name: values.pop(name) for name in ("decode_chunk_size", "playback_fps")}
    flip = {"flip_noise": flip_noise} if flip_noise else {}
    latents_id = folders.identify({"facts": facts_id, "conditions": values, "seed": seed, "image": image, **flip})
    run_id = folders.identify({"latents": latents_id, **decoding})
    return Job(run_id, latents_id, conditions, seed, image, image_name, flip_noise)


# --- measures ---------------------------------------------------------------------------------------------------------


def _motion(clip: Clip) -> dict[str, Any]:
    return motion.summary(clip.frames, playback_fps=clip.playback_fps)


def _fidelity(clip: Clip) -> dict[str, Any]:
    return fidelity.summary(clip.frames, clip.image)


MEASURES: dict[str, Callable[[Clip], Any]] = {"motion": _motion, "fidelity": _fidelity}


def as_measures(wanted: Any) -> tuple[Measure, ...]:
    """Names and functions as Measures; raises InputError for an unknown name, or a function without one."""
    found: dict[str, Measure] = {}
    for item in [wanted] if isinstance(wanted, str) or callable(wanted) else list(wanted):
        if isinstance(item, str):
            if item not in MEASURES:
                raise InputError(f"unknown measure {item!r}: give {', '.join(MEASURES)}, or a function that takes a Clip.")
            found[item] = Measure(item, MEASURES[item], __version__)
            continue
        name = getattr(item, "__name__", "")
        if not callable(item) or not name.isidentifier() or name in MEASURES:
            raise InputError(
                f"measure {item!r}: give {', '.join(MEASURES)}, or a function with a name of its own (def, no lambda)."
            )
        found[name] = Measure(name, item, _source_version(item))
    return tuple(found.values())


def _source_version(function: Callable) -> str:
    try:
        return hashlib.sha256(inspect.getsource(function).encode()).hexdigest()[:12]
    except (OSError, TypeError):  # typed at a prompt, or no Python: its name has to do
        return "unknown"


def measure_clip(clip: Clip, measures: Iterable[Measure]) -> dict[str, Any]:
    """What the record holds of each measure: version and values, flat; one that raises is recorded with its reason.

    svdlab's own keep their names as columns; a function's single number is filed under its name, a dict's under name_key.
    """
    found: dict[str, Any] = {}
    for measure in measures:
        entry: dict[str, Any] = {"version": measure.version, "values": {}}
        try:
            values = measure.function(clip)
            if not isinstance(values, dict):
                values = {measure.name: values}
            elif measure.name not in MEASURES:
                values = {f"{measure.name}_{key}": value for key, value in values.items()}
            entry["values"] = {str(key): ledger.plain(value) for key, value in values.items()}
        except Exception as error:  # a user's function: whatever it raises, the clip is good, and the others go on
            entry["error"] = f"{type(error).__name__}: {error}"
        found[measure.name] = entry
    return found


# --- records ----------------------------------------------------------------------------------------------------------


def new_record(job: Job, clip: Clip, how: How, batch_size: int) -> dict[str, Any]:
    """What run.json says of a clip, but for its measures and files."""
    call = {
        "conditions": job.conditions.asdict(),
        "fps_id": job.conditions.fps_id,
        "seed": job.seed,
        "image": job.image,
        "image_name": job.image_name,
        "flip_noise": job.flip_noise,
        **how.facts,
    }
    return {
        "status": "done",
        "reason": "",
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "svdlab": __version__,
        "call": call,
        "source": asdict(clip.source),
        "device": describe_device(),
        "process": f"{socket.gethostname()}:{os.getpid()}",
        "thread": threading.current_thread().name,
        "batch_size": batch_size,
        "seconds": {k: round(v, 4) for k, v in clip.seconds.items()},
        "measures": {},
        "kept": describe_kept(how.kept),
    }


def describe_device() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu, {torch.get_num_threads()} threads"


def settle(record: dict[str, Any]) -> None:
    """Sets status and reason of a record by how its measures went."""
    errors = [f"measure {name}: {entry['error']}" for name, entry in record["measures"].items() if "error" in entry]
    record.update(status="failed" if errors else "done", reason="; ".join(errors))


def describe_kept(kept: dict[str, Any] | None) -> dict[str, Any] | None:
    """The arguments of `trace` as plain JSON, for the record and for comparison."""

    def text(value: Any) -> Any:
        return list(value) if isinstance(value, Iterable) else getattr(value, "__qualname__", repr(value))

    return None if kept is None else json.loads(json.dumps(kept, default=text))


def lacks(state: dict[str, Any], how: How) -> str:
    """What a whole run still lacks of what a sweep asks for: "" nothing, "measures", or "clip".

    state: as `ledger.state` gives it. A clip that came out broken lacks nothing, because it would again, unless
    failures are to be tried again.
    """
    if not state["frames"]:
        return "clip" if how.retry_failed else ""
    if how.kept is not None and state["kept"] != describe_kept(how.kept):
        return "clip"
    return "measures" if missing_measures(state, how) else ""


def missing_measures(state: dict[str, Any], how: How) -> list[Measure]:
    """Those asked for and not there, there in another version, or (where failures are tried again) failed."""
    there, failed = state["measures"], state["failed"]
    return [m for m in how.measures if there.get(m.name) != m.version or (how.retry_failed and m.name in failed)]
