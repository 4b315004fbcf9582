"""Plans into runs: `sweep`, and `load_results` for what is there.

>>> plan = grid(motion_bucket_id=[1, 255], seed=[0, 1], num_inference_steps=2)
>>> table = sweep(pipe, plan, "results/first-look", image="scene-3", progress=False)
>>> table.groupby("motion_bucket_id").flow_px.mean().shape
(2,)

Runs go into the study `out` (see `svdlab.study.ledger`), each under a hash of everything that determines it. Start the same
sweep again after whatever stopped it, and it makes what is missing.
"""

import hashlib
import inspect
import json
import math
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import cache, partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from svdlab import errors
from svdlab.errors import InputError, OutputError, SweepInterrupted, flag, path, shown, takes, text, warn
from svdlab.measure.files import hash_facts, read_json, whole_text, write_whole
from svdlab.pipeline.conditions import Conditions, UnusualConditionWarning
from svdlab.pipeline.generate import ProbePipeline, resolve
from svdlab.pipeline.hooks import trace
from svdlab.pipeline.images import FLIPS, image_hash, prepare_image
from svdlab.pipeline.lora import digest_of
from svdlab.pipeline.lora import lora as lora_on
from svdlab.pipeline.memory import fitting_chunk
from svdlab.pipeline.pipeline import pipeline
from svdlab.pipeline.quick import compiled
from svdlab.pipeline.sampler import open_edits
from svdlab.pipeline.trace import KEEP
from svdlab.study import identity, ledger, plans
from svdlab.study.executors import make_by, processes
from svdlab.study.identity import Measure, as_measures
from svdlab.study.plans import grid
from svdlab.study.workers import How, Job, Lora, Making

__all__ = ["grid", "load_results", "missing", "sweep"]

# Latent sites over all frames up to which more clips in one call were faster: for the organism four clips, which on one
# thread take 0.85 of the time that they take one by one; eight or sixteen gain no more.
BATCH_SITES = 2**13
LARGEST_BATCH = 8
WANTED = ".wanted"  # of a file in the study: the ids of a sweep that was begun
MOST_THREADS = 4  # beyond which nothing was tried


@takes(pipe=pipeline, out=path, progress=flag, retry_failed=flag, intervention=text)
def sweep(
    pipe: ProbePipeline,
    plan: Any,
    out: str | Path,
    *,
    image: Any = None,
    measure: str | Measure | Callable[..., Any] | Sequence[str | Measure | Callable[..., Any]] = ("motion", "fidelity"),
    keep: Sequence[str] | Mapping[str, Any] = (),
    batch_size: int | str = "auto",
    executor: Any = None,
    devices: Any = (),
    threads: int | str = "auto",
    progress: bool = True,
    retry_failed: bool = False,
    intervention: str | None = None,
) -> pd.DataFrame:
    """Make a clip for each row of a plan, measure it, and file it in the study `out`; what is there is not made again.

    >>> table = sweep(pipe, [{"num_inference_steps": 2}], "results/one", image="scene-3", keep=("denoised",), progress=False)
    >>> table.status.tolist()
    ['done']

    plan: see `svdlab.study.plans`; a DataFrame, a list of rows, or a file. out: the study's folder. image: for the rows where
    the plan has no column `image`; of a folder, a glob or a CSV file of images each row with each. measure: "motion",
    "fidelity", "published", functions of a `Clip` that return a number or
    a dict, or `functools.partial`s of them (see `svdlab.study.identity`). keep: names that `svdlab.trace` keeps, or a dict of
    its arguments. batch_size: clips in one call; halved where memory runs out. executor: any `concurrent.futures.Executor`;
    its workers load pipelines of their own from where this one came. devices: "all" GPUs of this machine, or names, such as
    ("cuda:0", "cuda:2"): a process for each, which loads a pipeline; with one GPU or none "all" changes nothing. threads: that
    make batches side by side, with a share of torch's threads each; "auto" takes on a CPU as many as torch has, up to four.
    retry_failed: make rows again that came out broken. intervention: a name for what was done to the model, which tells its
    runs from those of the model itself.

    In the background: `job = concurrent.futures.ThreadPoolExecutor(1).submit(svdlab.sweep, pipe, plan, out)`, and when it is
    due `job.result()`. Meanwhile `load_results(out)` reads from any notebook what is there, and how much is missing.

    Returns the plan's rows in their order and with their index: `run_id`, `status` ("done" or "failed", with `reason`),
    every condition with its default filled in, `seed`, `image`, what was measured, and the paths `frames`,
    `preview`, `latents`, `trace`. A row whose clip is NaN or black is failed, and the others go on.
    Ctrl-C finishes what is in hand and raises SweepInterrupted. Raises InputError before any clip is made, also where the
    model computes something else than for the study's runs of the same id; OutputError where the disk refuses,
    OutOfMemoryError where not even one clip fits; everything made until then is kept.
    """
    plan, image = plans.across_images(plans.as_plan(plan), image)
    devices = _devices(devices, executor)
    alone = executor is None and not devices
    _usable(pipe, executor, devices, intervention)
    how = How({}, as_measures(measure), _kept(pipe, keep), retry_failed)
    several = _threads(threads, pipe, alone, len(plan))
    chosen = None if isinstance(batch_size, str) and batch_size == "auto" else errors.whole("batch_size", batch_size, 1)
    jobs, inputs, models = _jobs(pipe, plan, image, intervention)
    size = chosen or _batch_size(pipe, jobs)
    try:
        out = ledger.prepare(out)
    except OutputError as error:
        results, lacking = _found(Path(out), jobs, how)
        if lacking:
            raise
        for lora, model in models.items():
            with _adapted(pipe, lora), suppress(OutputError):  # a copy without fingerprints
                identity.check(pipe, Path(out), model)
        warn(f"{error} Every clip of this plan is there, and is only read.")
        return _table(plan, jobs, results)
    results, lacking = _found(out, jobs, how)
    wanted = len({job.run_id for job in jobs})
    begun = _announce(out, sorted({job.run_id for job in jobs})) if lacking else None
    bar = tqdm(total=wanted, initial=wanted - len(lacking), desc="sweep", unit="clip", disable=not (progress and lacking))
    with bar, processes(devices if lacking else ()) as pool, _interruptible() as pressed:
        for lora, model in models.items():  # one after the other: the threads share one model
            part = [job for job in lacking if job.lora == lora]
            with _adapted(pipe, lora):
                own = replace(how, model=model, lora=lora, fingerprint=identity.check(pipe, out, model))
                if part and not pressed.is_set():
                    queue = deque(_batches(part, min(size, math.ceil(len(part) / several))))
                    making = Making(pipe, queue, inputs, out, own, bar.update, pressed.is_set)
                    making.run(several) if alone else make_by(executor or pool, making)
    if lacking:
        results, lacking = _found(out, jobs, replace(how, retry_failed=False))
        if lacking and pressed.is_set():
            raise SweepInterrupted(
                f"stopped: {wanted - len(lacking)} of {wanted} clips are whole in {out}. Run the same sweep again to go on."
            )
        if lacking:
            raise OutputError(f"{len(lacking)} of {wanted} runs are not in {out}: was it moved or changed meanwhile?")
    if begun is not None:
        begun.unlink(missing_ok=True)
    return _table(plan, jobs, results)


def _table(plan: pd.DataFrame, jobs: list[Job], results: pd.DataFrame) -> pd.DataFrame:
    """The plan's rows, in their order, with what was found of each."""
    ids = [job.run_id for job in jobs]
    carried = plan[[name for name in plan if str(name).startswith("label_")]]
    found = results.reindex(ids).set_axis(plan.index)
    # The names that this plan gives its images, which an earlier one may have called otherwise.
    found = found.assign(image=[job.image_name for job in jobs])
    if "lora" in plan:  # at strength 0 a run is the model's own
        found = found.assign(lora=[Path(job.lora.file).name if job.lora else "" for job in jobs])
    return pd.concat([pd.DataFrame({"run_id": ids}, index=plan.index), carried, found], axis=1)


@takes(out=path)
def load_results(out: str | Path) -> pd.DataFrame:
    """Every whole run in a study: a row each, with the columns that `sweep` returns.

    >>> load_results("results/first-look").query("status == 'done'").groupby("seed").flow_px.mean().shape
    (2,)

    Its `.attrs["missing"]` is the number of runs that sweeps into this study have begun and not finished, running or stopped.
    Raises InputError where `out` is no study; damaged runs are left out with a DamagedRunWarning.
    """
    out, wanted = ledger.existing(out), set()
    for begun in Path(out).glob(f".*{WANTED}"):
        with suppress(OSError, ValueError, TypeError):  # finished meanwhile, or damaged
            wanted |= {str(run_id) for run_id in read_json(begun, follow=False)}
    found = ledger.table(out, ledger.survey(out)).reset_index()
    found.attrs["missing"] = len(wanted - set(found["run_id"]))
    return found


def _announce(out: Path, ids: list[str]) -> Path:
    """Tell who reads the study meanwhile which runs will be there; the file goes when they are."""
    begun = Path(out, f".{hash_facts({'runs': ids})}{WANTED}")
    with ledger.disk_errors(begun), write_whole(begun) as part:
        part.write_text(json.dumps(ids))
    return begun


@takes(pipe=pipeline, out=path, intervention=text)
def missing(pipe: ProbePipeline, plan: Any, out: str | Path, *, image: Any = None, intervention: str | None = None) -> int:
    """How many clips of a plan the study `out` lacks: what a sweep of it would have to make.

    >>> missing(pipe, [{"num_inference_steps": 2}], "results/new", image="scene-3")
    1
    """
    plan, image = plans.across_images(plans.as_plan(plan), image)
    jobs, *_ = _jobs(pipe, plan, image, intervention)
    ids = {job.run_id for job in jobs}
    return len(ids) - sum(1 for _ in ledger.survey(ledger.closed(Path(out).expanduser()), ids))


# --- from rows to jobs ------------------------------------------------------------------------------------------------


def _devices(asked: Any, executor: Any) -> tuple[str, ...]:
    if isinstance(asked, str) and asked == "all":
        found = tuple(f"cuda:{n}" for n in range(torch.cuda.device_count()))
        return found if len(found) > 1 and executor is None else ()
    if executor is not None and asked:
        raise InputError("give executor= or devices=: each brings workers of its own.")
    known = ["cpu", *(f"cuda:{n}" for n in range(torch.cuda.device_count()))]
    return errors.several("devices", asked, partial(errors.one_of, options=known), 0)


def _usable(pipe: Any, executor: Any, devices: Any, intervention: str | None) -> None:
    if open_edits(pipe) and intervention is None:
        raise InputError(
            f"this sweep runs inside svdlab.edit of {', '.join(open_edits(pipe))}: name what is done to the model, so that "
            f"its clips have ids of their own, as in sweep(..., intervention='no temporal attention')."
        )
    if (executor is not None or devices) and pipe.source.lora:
        raise InputError("no svdlab.lora block reaches other processes: give the plan's columns lora and lora_scale.")
    if (executor is not None or devices) and (intervention is not None or not pipe.source.checkpoint):
        raise InputError("other processes load the checkpoint by svdlab.load_pipeline: no intervention reaches them.")
    if executor is not None and not hasattr(executor, "submit"):
        raise InputError(f"executor is a {type(executor).__name__}: give a concurrent.futures.Executor.")


def _adapted(pipe: ProbePipeline, row: Lora | None) -> AbstractContextManager[None]:
    return lora_on(pipe, row.file, row.scale, digest=row.digest) if row else nullcontext()


def _models(pipe: ProbePipeline, plan: pd.DataFrame, intervention: str | None) -> dict[Lora | None, dict[str, Any]]:
    """The model's facts with each LoRA of the plan, whose files are read and checked by that."""
    found: dict[Lora | None, dict[str, Any]] = {}
    for given in dict.fromkeys(plans.loras(plan)):
        row = given and Lora(*given, digest_of(given[0]))
        with _adapted(pipe, row):
            found[row] = identity.facts(pipe, intervention)
    return found


def _kept(pipe: ProbePipeline, keep: Any) -> dict[str, Any] | None:
    if isinstance(keep, Mapping):
        known = [name for name in inspect.signature(trace).parameters if name != "pipe"]
        if odd := [name for name in keep if name not in known]:
            raise InputError(f"keep={shown(keep)}: {shown(odd[0])} is no argument of svdlab.trace: give {', '.join(known)}.")
        with trace(pipe, **keep):  # what it refuses is refused before anything is made
            return dict(keep)
    if not isinstance(keep, (list, tuple)) or any(not isinstance(name, str) or name not in KEEP for name in keep):
        raise InputError(f"keep={shown(keep)}: give a tuple of {', '.join(KEEP)}, or a dict of svdlab.trace's arguments.")
    return {"keep": tuple(keep)} if len(keep) else None


def _threads(asked: Any, pipe: ProbePipeline, alone: bool, jobs: int) -> int:
    """How many batches are made side by side. Raises InputError for more than one where they would disturb each other."""
    parts: list[Any] = [getattr(part, "_orig_mod", part) for part in (pipe.unet, pipe.vae, pipe.image_encoder)]
    moved = any(hasattr(m, "_hf_hook") or getattr(m, "_diffusers_hook", None) for part in parts for m in part.modules())
    device = pipe._execution_device.type
    reasons = {
        "executor= and devices= bring workers of their own": not alone,
        f"the pipeline is on {device}": device != "cpu",
        "its UNet is compiled": compiled(pipe.unet),
        "hooks of accelerate or diffusers change its weights while it runs": moved,
        "its VAE is float16, and changes to float32 and back": pipe.vae.dtype == torch.float16,
        "autocast holds for one thread": torch.is_autocast_enabled(device),
    }
    reason = next((text for text, holds in reasons.items() if holds), "")
    if isinstance(asked, str) and asked == "auto":
        return 1 if reason else max(1, min(torch.get_num_threads(), MOST_THREADS, jobs))
    if errors.whole("threads", asked, 1) > 1 and reason:
        raise InputError(f"threads={asked}: this sweep cannot be shared out among threads: {reason}.")
    return min(asked, jobs)


def _batch_size(pipe: ProbePipeline, jobs: list[Job]) -> int:
    sides = [(job.conditions.num_frames or 0) * (job.conditions.height or 0) * (job.conditions.width or 0) for job in jobs]
    return max(1, min(LARGEST_BATCH, BATCH_SITES * pipe.vae_scale_factor**2 // max(sides)))


def _jobs(
    pipe: ProbePipeline, plan: pd.DataFrame, image: Any, intervention: str | None
) -> tuple[list[Job], dict[str, Any], dict[Lora | None, dict[str, Any]]]:
    """A job for each row, the prepared images and given tensors by hash, and the models' facts.

    Whatever recurs is checked and hashed once. The weights are hashed last, so that a bad row is refused without that.
    """
    inputs: dict[str, Any] = {}
    prepared: dict[tuple[Any, ...], tuple[str, str]] = {}
    filled: dict[tuple[Any, ...], Conditions] = {}
    unusual: dict[str, None] = {}
    fitting = cache(partial(fitting_chunk, pipe))  # looks at every module of the pipeline
    checked: list[tuple[tuple[Conditions, int, str, str, dict[str, str]], Any]] = []
    given_cells = plan.to_dict("records") or [{}] * len(plan)  # of a plan without columns pandas 2.2 gives no rows
    rows = zip(plan.index, plans.condition_rows(plan), plans.loras(plan), given_cells, strict=True)
    for label, row, lora, cells in rows:
        given = {"image": image, "seed": 0} | {str(name): cell for name, cell in cells.items() if not plans.empty(cell)}
        try:
            if row not in filled:
                filled[row] = resolve(pipe, Conditions(**dict(zip(plans.CONDITIONS, row, strict=True))), fitting)
                unusual.update(dict.fromkeys(filled[row].unusual((pipe.source.height, pipe.source.width))))
            conditions, picture, seed = filled[row], given["image"], given["seed"]
            key = (picture if isinstance(picture, (str, Path)) else id(picture), conditions.height, conditions.width)
            if key not in prepared:
                prepared[key] = _prepare(picture, conditions, inputs)
            start = _start(pipe, given, conditions, inputs)
            seed = errors.seed("seed", int(seed) if isinstance(seed, float) and seed.is_integer() else seed)  # pandas' float
            checked.append(((conditions, seed, *prepared[key], start), lora))
        except InputError as error:
            raise type(error)(f"row {label!r} of the plan: {error}") from error
    for message in unusual:
        warn(f"{message}: results may suffer.", UnusualConditionWarning)
    models = _models(pipe, plan, intervention)
    named = {lora and lora[:2]: (lora, hash_facts(model)) for lora, model in models.items()}
    return [_job(*facts, *named[lora]) for facts, lora in checked], inputs, models


def _job(
    conditions: Conditions, seed: int, image: str, image_name: str, start: dict[str, str], lora: Lora | None, model_id: str
) -> Job:
    """playback_fps changes no pixel, but px/s and the video files. The scheduler is named where it is not the model's own."""
    values = {name: getattr(conditions, name) for name in plans.CONDITIONS if name != "scheduler" or conditions.scheduler}
    decoding = {name: values.pop(name) for name in ("decode_chunk_size", "playback_fps")}
    latents = hash_facts({"model": model_id, "conditions": values, "seed": seed, "image": image, "start": start})
    return Job(hash_facts({"latents": latents, **decoding}), conditions, seed, image, image_name, start, lora)


def _prepare(picture: Any, conditions: Conditions, inputs: dict[str, Any]) -> tuple[str, str]:
    if picture is None:
        raise InputError("no image: give sweep(..., image=...) or a column 'image' (path or sample's name).")
    prepared = prepare_image(picture, height=conditions.height or 0, width=conditions.width or 0)
    digest = image_hash(prepared)
    inputs[digest] = prepared
    return digest, whole_text(str(picture)) if isinstance(picture, (str, Path)) else f"image-{digest[:8]}"


def _start(pipe: ProbePipeline, given: dict[str, Any], c: Conditions, inputs: dict[str, Any]) -> dict[str, str]:
    """`Call.start` of a row: the flip's name, the hashes of tensors to start from."""
    start = {name.removeprefix("start_"): given[name] for name in plans.STARTS if name in given}
    if "flip_noise" in start and start["flip_noise"] not in [*FLIPS]:
        raise InputError(f"flip_noise={shown(start['flip_noise'])}: leave it empty, or give one of {', '.join(FLIPS)}.")
    side = pipe.vae_scale_factor
    shape = (c.num_frames, pipe.unet.config.in_channels // 2, (c.height or 0) // side, (c.width or 0) // side)
    if "noise" in start and len(start) > 1:
        raise InputError("give start_noise as it is to be, or start_latents to go on from, or flip_noise, not both.")
    for name in start.keys() & {"latents", "noise"}:
        value = start[name]
        if not isinstance(value, (torch.Tensor, np.ndarray)) or tuple(value.shape) != shape:
            raise InputError(
                f'start_{name}={errors.shown(value)}: give a tensor "f c h w" of shape {shape}, or leave it empty.'
            )
        tensor = torch.as_tensor(value).detach().cpu().float().contiguous()
        start[name] = hashlib.sha256(tensor.view(torch.uint8).numpy().tobytes()).hexdigest()
        inputs[start[name]] = tensor
    return start


# --- running ----------------------------------------------------------------------------------------------------------


def _found(out: Path, jobs: list[Job], how: How) -> tuple[pd.DataFrame, list[Job]]:
    """The runs that are there as a table, and the jobs, each once, whose run is missing or lacks something."""
    lacking = {job.run_id: job for job in jobs}

    def seen() -> Iterator[dict[str, Any]]:
        for record in ledger.survey(out, list(lacking)):
            if not how.lack(record):
                del lacking[record["run_id"]]
            yield record

    return ledger.table(out, seen()), list(lacking.values())


def _batches(jobs: list[Job], size: int) -> Iterator[list[Job]]:
    """Jobs that can share a call; those of one image, one seed and one noise level side by side, which share encodings."""
    first: dict[Any, int] = {}
    for job in jobs:
        first.setdefault(job.batch_key, len(first))
        first.setdefault(job.image, len(first))

    def rank(job: Job) -> tuple[Any, ...]:
        return first[job.batch_key], first[job.image], job.seed, job.conditions.noise_aug_strength

    for _, group in groupby(sorted(jobs, key=rank), lambda job: job.batch_key):
        neighbours = list(group)
        yield from (neighbours[n : n + size] for n in range(0, len(neighbours), size))


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Ctrl-C sets the yielded flag; a second one stops at once. Signals reach the main thread only."""
    pressed = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield pressed
        return
    before = signal.getsignal(signal.SIGINT)

    def note(number: int, frame: Any) -> None:
        pressed.set()
        signal.signal(signal.SIGINT, before if callable(before) else signal.default_int_handler)
        print("\nfinishing what is in hand, then stopping; interrupt again to stop at once", file=sys.stderr, flush=True)

    signal.signal(signal.SIGINT, note)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)
