"""Plans into runs: `sweep`, and `load_results` for what is there.

    >>> plan = svdlab.grid(motion_bucket_id=[1, 127, 255], fps=[7, 14], seed=range(4))
    >>> table = svdlab.sweep(pipe, plan, "results/first-look", image="astronaut")
    >>> table.groupby("motion_bucket_id").flow_px.mean()

Runs go into the ledger `out` (see `svdlab.ledger`), each under a hash of everything that determines it. Start the same
sweep again after whatever stopped it, and it makes what is missing.
"""

from __future__ import annotations

import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, as_completed
from contextlib import contextmanager
from dataclasses import replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from svdlab.errors import InputError, RunError, SvdlabError, SweepInterrupted
from svdlab.pipeline.conditions import Conditions, UnusualConditionWarning
from svdlab.pipeline.generate import Clip, ProbePipeline, resolve
from svdlab.pipeline.images import FLIPS, image_hash, prepare_image
from svdlab.pipeline.memory import free_memory, need_of
from svdlab.pipeline.sampler import open_edits
from svdlab.pipeline.trace import KEEP
from svdlab.study import folders, ledger, plans, twins, workers
from svdlab.study.plans import grid, random_plan, read_plan
from svdlab.study.runs import How, Job, as_measures, facts, job, lacks

__all__ = ["grid", "load_results", "random_plan", "read_plan", "sweep"]

# Sites of the UNet's top level, over all frames, up to which more clips in one call were faster: for the organism that is
# four clips, which on one thread take 0.85 of the time that they take one by one; eight or sixteen gain no more.
BATCH_SITES = 2**13
LARGEST_BATCH = 8
MEMORY = 0.7  # of what is free, that a batch chosen here may take by estimate
TASK_BATCHES = 4  # batches in one task for an executor: enough that writing overlaps with denoising,
TASKS = 8  # but no fewer tasks than this, where there are so many batches, or some workers would end long before others


def sweep(
    pipe: ProbePipeline,
    plan: Any,
    out: str | Path,
    *,
    image: Any = None,
    measure: str | Callable[[Clip], Any] | Sequence[str | Callable[[Clip], Any]] = ("motion", "fidelity"),
    keep: Sequence[str] | Mapping[str, Any] = (),
    batch_size: int | str = "auto",
    executor: Any = None,
    threads: int | str = "auto",
    progress: bool = True,
    retry_failed: bool = False,
    intervention: str | None = None,
) -> pd.DataFrame:
    """Make a clip for each row of a plan, measure it, and file it in the ledger `out`; what is there is not made again.

    >>> table = sweep(pipe, grid(fps=[6, 12], seed=range(8)), "results/fps", image="cat", keep=("denoised",))
    >>> table = sweep(pipe, plan, "results/fps", executor=dask_client.get_executor())

    plan: see `svdlab.plans`; a DataFrame, a list of rows, or a file. out: the study's folder. image: serves the rows where
    the plan has no column `image`. measure: "motion", "fidelity", or functions of a `Clip` that return a number or a
    dict. keep: names that `svdlab.trace` keeps, or a dict of its arguments; None of it by default.
    batch_size: clips in one call; halved where memory runs out. executor: any `concurrent.futures.Executor`; its
    workers load pipelines of their own from where this one came. threads: that make batches side by side on a CPU, each with
    its share of torch's own threads and all on the same weights, which is faster than one batch on all of them; "auto" takes
    as many as torch has threads, up to four, if memory does, and one where the model is edited, hooked or compiled. Functions
    in `keep` are called from each of them, those in `measure` from one thread only.
    retry_failed: make rows again that came out broken. intervention: where the sweep runs inside `svdlab.edit`, the name
    that tells its runs from those of the model itself.

    Returns the plan's rows in their order and with their index: `run_id`, `status` ("done" or "failed", with `reason`),
    every condition with its default filled in, `seed`, `image`, what was measured, and the paths `frames`,
    `preview`, `latents`, `trace`. A row whose clip is NaN or black is failed, and the others go on.
    Ctrl-C finishes what is in hand and raises SweepInterrupted. Raises InputError before any model runs, OutputError
    where the disk refuses, OutOfMemoryError where not even one clip fits; everything made until then is kept.
    """
    plan = plans.as_plan(plan)
    how = How(facts(_usable(pipe, executor, intervention), intervention), as_measures(measure), _kept(keep), 1, retry_failed)
    jobs, pictures = _jobs(pipe, plan, image, how.facts)
    size = _checked_batch_size(batch_size)
    several = twins.checked_threads(threads, twins.why_not(pipe, how, executor))
    out = folders.prepare(out)
    survey = ledger.survey(out, [j.run_id for j in jobs])
    missing = _in_order(_with_donors(out, _missing(survey, jobs, how)))
    wanted = len({j.run_id for j in jobs})
    if missing:
        how = replace(how, batch_size=size or _auto_batch(pipe, missing))
        with _bar(progress, wanted, wanted - len(missing)) as bar, _interruptible(executor is None) as pressed:
            interrupted = pressed.is_set
            if executor is not None:
                _scatter(executor, pipe, missing, pictures, out, how, bar.update, interrupted)
            else:
                tell = _once_each(bar.update)
                others = twins.twins_of(pipe, missing, how, several)
                workers.make(pipe, missing, pictures, out, how, twins=others, done=lambda j: tell(j.run_id), stop=interrupted)
        survey = ledger.survey(out, [j.run_id for j in jobs])
        if pressed.is_set() and (left := _missing(survey, jobs, how)):
            raise SweepInterrupted(
                f"stopped: {wanted - len(left)} of {wanted} clips are whole in {out}. Run the same sweep again to go on."
            )
    return _results(out, plan, jobs, survey)


def load_results(out: str | Path) -> pd.DataFrame:
    """Every whole run in a ledger: a row each, with the columns that `sweep` returns.

    >>> load_results("results/fps").query("status == 'done'").groupby("fps").flow_px.mean()

    Raises InputError where `out` is no ledger; damaged runs are left out with a DamagedRunWarning.
    """
    return ledger.public_table(out, ledger.survey(folders.existing(out))).reset_index()


def missing(pipe: ProbePipeline, plan: Any, out: str | Path, *, image: Any = None, intervention: str | None = None) -> int:
    """How many clips of a plan the ledger `out` lacks: what a sweep of it would have to make.

    >>> missing(pipe, plan, "results/fps", image="cat")
    16
    """
    plan = plans.as_plan(plan)
    jobs, _ = _jobs(pipe, plan, image, facts(pipe, intervention))
    ids = {j.run_id for j in jobs}
    return len(ids) - (len(ledger.survey(out, ids)) if Path(out).is_dir() else 0)


# --- from rows to jobs ------------------------------------------------------------------------------------------------


def _usable(pipe: Any, executor: Any, intervention: str | None) -> ProbePipeline:
    if not isinstance(pipe, ProbePipeline):
        raise InputError(f"pipe is a {type(pipe).__name__}: load it with svdlab.load_pipeline.")
    if open_edits(pipe) and intervention is None:
        raise InputError(
            "this sweep runs inside svdlab.edit. An edited model's clips need ids of their own: name what is "
            "done to it, as in sweep(..., intervention='no temporal attention'). To trace each run, use keep= instead."
        )
    if executor is not None and intervention is not None:
        raise InputError("edits live in this process and do not reach an executor's workers: sweep without executor=.")
    if executor is not None and not hasattr(executor, "submit"):
        raise InputError(
            f"executor is a {type(executor).__name__}: give a concurrent.futures.Executor, as dask's Client.get_executor() is."
        )
    if executor is not None and not pipe.source.checkpoint:
        raise InputError("an executor's workers load the checkpoint themselves: sweep with a pipe from svdlab.load_pipeline.")
    return pipe


def _kept(keep: Any) -> dict[str, Any] | None:
    if isinstance(keep, Mapping):
        return dict(keep)
    unknown = [name for name in keep if name not in KEEP]
    if unknown or isinstance(keep, str):
        raise InputError(f"keep={keep!r}: give a tuple of {', '.join(KEEP)}, or a dict of svdlab.trace's arguments.")
    return {"keep": tuple(keep)} if len(keep) else None


def _jobs(
    pipe: ProbePipeline, plan: pd.DataFrame, image: Any, given: dict[str, Any]
) -> tuple[list[Job], dict[str, Image.Image]]:
    """A job for each row, and the prepared pictures by hash. Whatever recurs is checked, prepared and hashed once."""
    rows = plans.condition_rows(plan)
    seeds = [0 if _empty(s) else s for s in plan["seed"]] if "seed" in plan else [0] * len(plan)
    images = [image if _empty(i) else i for i in plan["image"]] if "image" in plan else [image] * len(plan)
    flips = plan["flip_noise"].tolist() if "flip_noise" in plan else [None] * len(plan)
    pictures: dict[str, Image.Image] = {}
    prepared: dict[tuple, tuple[str, str]] = {}
    sizes: dict[tuple, Conditions] = {}
    filled: dict[tuple, Conditions] = {}
    unusual: dict[str, None] = {}
    facts_id = folders.identify(given)
    jobs = []
    for label, row, seed, picture, flip in zip(plan.index, rows, seeds, images, flips, strict=True):
        try:
            conditions = filled.get(row)
            if conditions is None:
                conditions = filled[row] = _fill(pipe, row, sizes)
                unusual.update(dict.fromkeys(conditions.unusual((pipe.source.height, pipe.source.width))))
            key = (picture if isinstance(picture, (str, Path)) else id(picture), conditions.height, conditions.width)
            if key not in prepared:
                prepared[key] = _prepare(picture, conditions, pictures)
            jobs.append(job(conditions, _seed(seed), *prepared[key], facts_id, _flip(flip)))
        except InputError as error:
            raise type(error)(f"row {label!r} of the plan: {error}") from error
    for message in unusual:
        warnings.warn(f"{message}: results may suffer.", UnusualConditionWarning, stacklevel=3)
    return jobs, pictures


def _fill(pipe: ProbePipeline, row: tuple, sizes: dict[tuple, Conditions]) -> Conditions:
    """`resolve` for one row, which asks the pipeline only once for each size."""
    values = dict(zip(plans.CONDITIONS, row, strict=True))
    names = ("num_frames", "height", "width", "decode_chunk_size")
    key = tuple(values[name] for name in names)
    if key not in sizes:
        sizes[key] = resolve(pipe, Conditions(**dict(zip(names, key, strict=True))))
    return Conditions(**{**values, **{name: getattr(sizes[key], name) for name in names}})


def _prepare(picture: Any, conditions: Conditions, pictures: dict[str, Image.Image]) -> tuple[str, str]:
    if picture is None:
        raise InputError("no image: give sweep(..., image=...) or a column 'image' (path or sample's name).")
    prepared = prepare_image(picture, height=conditions.height or 0, width=conditions.width or 0)
    digest = image_hash(prepared)
    pictures[digest] = prepared
    return digest, str(picture) if isinstance(picture, (str, Path)) else f"image-{digest[:8]}"


def _empty(cell: Any) -> bool:
    return cell is None or cell is pd.NA or (isinstance(cell, float) and cell != cell)


def _flip(name: Any) -> str | None:
    if _empty(name) or name == "":
        return None
    if name not in FLIPS:
        raise InputError(f"flip_noise={name!r}: leave it empty, or give one of {', '.join(FLIPS)}.")
    return str(name)


def _seed(seed: Any) -> int:
    whole = isinstance(seed, Integral) or (
        isinstance(seed, Real) and float(seed).is_integer()
    )  # pandas may have made it a float
    if isinstance(seed, bool) or not whole or not 0 <= int(seed) < 2**63:
        raise InputError(f"seed={seed!r}: must be a whole number from 0 to 2**63 - 1.")
    return int(seed)


def _checked_batch_size(asked: Any) -> int | None:
    if asked == "auto":
        return None
    if isinstance(asked, bool) or not isinstance(asked, int) or asked < 1:
        raise InputError(f"batch_size={asked!r}: give a whole number of at least 1, or 'auto'.")
    return asked


def _auto_batch(pipe: ProbePipeline, jobs: list[Job]) -> int:
    """As many clips as make a call faster, and fit into free memory by estimate."""
    largest = max((j.conditions for j in jobs), key=lambda c: c.num_frames * c.height * c.width)  # type: ignore[operator]
    sites = largest.num_frames * largest.height * largest.width // pipe.vae_scale_factor**2  # type: ignore[operator]
    size = max(1, min(LARGEST_BATCH, BATCH_SITES // sites, len(jobs)))
    free = free_memory(pipe._execution_device)
    while size > 1 and need_of(pipe, largest, batch_size=size) > MEMORY * free:
        size //= 2
    return size


def _missing(survey: pd.DataFrame, jobs: list[Job], how: How) -> list[Job]:
    """Jobs, each once, whose run is not there, not whole, or lacks something that is asked for."""
    unique = {j.run_id: j for j in jobs}
    states = ledger.states(survey)
    return [j for run_id, j in unique.items() if run_id not in states or lacks(states[run_id], how)]


def _with_donors(out: Path, jobs: list[Job]) -> list[Job]:
    """Jobs told of a run that has their latents already."""
    if not jobs:
        return jobs
    donors = ledger.donors(ledger.survey(out))
    return [replace(j, donor=donors[j.latents_id]) if j.latents_id in donors else j for j in jobs]


def _in_order(jobs: list[Job]) -> list[Job]:
    """Neighbours that share a batch, a picture's embedding and its encoding; within these, in the plan's order."""
    firsts: list[dict[Any, int]] = [{}, {}, {}]
    ranks = []
    for j in jobs:
        keys = (j.batch_key, j.image, (j.image, j.seed))
        ranks.append([first.setdefault(key, len(first)) for first, key in zip(firsts, keys, strict=True)])
    return [jobs[n] for n in sorted(range(len(jobs)), key=lambda n: (*ranks[n], jobs[n].conditions.noise_aug_strength))]


# --- running ----------------------------------------------------------------------------------------------------------


def _scatter(
    executor: Any,
    pipe: ProbePipeline,
    jobs: list[Job],
    pictures: dict[str, Image.Image],
    out: Path,
    how: How,
    tell: Callable[[int], Any],
    interrupted: Callable[[], bool],
) -> None:
    """The jobs as tasks for an executor's workers; `tell` hears how many runs each finished task made."""
    load = workers.load_arguments(pipe)
    futures: list[Future] = []
    try:
        batches = max(1, min(TASK_BATCHES, len(jobs) // (how.batch_size * TASKS)))
        for chunk in _chunks(jobs, how.batch_size * batches):
            own = {j.image: pictures[j.image] for j in chunk}
            futures.append(
                executor.submit(workers.make_elsewhere, workers.Task(load, tuple(chunk), own, str(out.resolve()), how))
            )
        for future in as_completed(futures):
            if future.cancelled():
                continue
            tell(len(future.result()))
            if interrupted():
                for other in futures:
                    other.cancel()  # those that run already go on to their end
    except SvdlabError:
        raise
    except Exception as error:  # whatever an executor raises where its workers die
        raise RunError(
            f"a worker failed ({type(error).__name__}: {error}). What was made is kept in {out}: "
            f"run the same sweep again to go on."
        ) from error
    finally:
        for future in futures:
            future.cancel()


def _chunks(jobs: list[Job], size: int) -> Iterator[list[Job]]:
    """Tasks of neighbours that share a batch; runs that share latents stay in one task."""
    chunk: list[Job] = []
    for j in jobs:
        if chunk and (len(chunk) >= size or j.batch_key != chunk[0].batch_key) and j.latents_id != chunk[-1].latents_id:
            yield chunk
            chunk = []
        chunk.append(j)
    if chunk:
        yield chunk


def _bar(progress: bool, total: int, initial: int) -> Any:
    from tqdm.auto import tqdm

    return tqdm(total=total, initial=initial, desc="sweep", unit="clip", disable=not progress)


def _once_each(update: Callable[[], Any]) -> Callable[[str], None]:
    """Counts a run once, whichever thread says first that it is whole."""
    seen: set[str] = set()
    mutex = threading.Lock()

    def tell(run_id: str) -> None:
        with mutex:
            if run_id not in seen:
                seen.add(run_id)
                update()

    return tell


@contextmanager
def _interruptible(own: bool) -> Iterator[threading.Event]:
    """Ctrl-C sets the yielded flag; a second one stops at once. Signals reach the main thread only."""
    pressed = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield pressed
        return
    before = signal.getsignal(signal.SIGINT)

    def note(number: int, frame: Any) -> None:
        pressed.set()
        signal.signal(signal.SIGINT, before if callable(before) else signal.default_int_handler)
        what = "the clips in hand" if own else "the tasks that run"
        print(f"\nfinishing {what}, then stopping; interrupt again to stop at once", file=sys.stderr, flush=True)

    signal.signal(signal.SIGINT, note)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


def _results(out: Path, plan: pd.DataFrame, jobs: list[Job], survey: pd.DataFrame) -> pd.DataFrame:
    ids = [j.run_id for j in jobs]
    table = ledger.public_table(out, survey).reindex(ids)
    table.index = plan.index
    carried = {str(name): plan[name] for name in plan if name == "noise" or str(name).startswith("label_")}
    front = pd.DataFrame({"run_id": ids, **carried}, index=plan.index)
    # The names that this plan gives its pictures and conditions, which an earlier one may have called otherwise.
    names = [j.image_name for j in jobs]
    return pd.concat([front, table.assign(image=names)], axis=1)
