"""Plans into runs: `grid`, `sweep`, `load_results`.

>>> plan = svdlab.grid(motion_bucket_id=[1, 127, 255], fps=[7, 14], seed=range(4))
>>> table = svdlab.sweep(pipe, plan, "results/first-look", image="astronaut")
>>> table.groupby("motion_bucket_id").speed.mean()
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from svdlab import ledger, plans, workers
from svdlab.conditions import Conditions
from svdlab.errors import InputError
from svdlab.images import image_hash, prepare_image
from svdlab.pipeline import Clip, ProbePipeline, resolve
from svdlab.plans import grid, random_plan, read_plan
from svdlab.workers import How, Job

__all__ = ["grid", "load_results", "random_plan", "read_plan", "sweep"]

# Sites of the UNet's top level, over all frames, up to which more clips in one call keep a machine busier.
BATCH_SITES = 2**14
LARGEST_BATCH = 8


def sweep(
    pipe: ProbePipeline,
    plan: Any,
    out: str | Path,
    *,
    image: Any = None,
    measure: Sequence[str | Callable[[Clip], Any]] = ("motion", "fidelity"),
    keep: Sequence[str] | Mapping[str, Any] = (),
    batch_size: int | str = "auto",
    executor: Any = None,
    progress: bool = True,
    retry_failed: bool = False,
    intervention: str | None = None,
) -> pd.DataFrame:
    """Make a clip for each row of a plan, measure it, and file it in the ledger `out`; what is there is not made again."""
    out = Path(out)
    plan = plans.as_plan(plan)
    how = How(
        facts=_facts(pipe, intervention),
        measures=_measures(measure),
        versions={name: workers.measure_version(function) for name, function in _measures(measure).items()},
        kept=_kept(keep),
        batch_size=1,
        retry_failed=retry_failed,
    )
    jobs, pictures = _jobs(pipe, plan, image, how.facts)
    ledger.prepare(out)
    missing = _missing(out, jobs, how)
    how = replace(how, batch_size=_batch_size(pipe, batch_size, missing))
    with _bar(progress, len(jobs), len(jobs) - len(missing)) as bar:
        workers.make(pipe, missing, pictures, out, how, done=lambda job: bar.update(1))
    return _results(out, plan, jobs)


def load_results(out: str | Path) -> pd.DataFrame:
    """Every whole run in a ledger: a row each, with conditions, seed, image, measures, status and paths."""
    ledger._must_exist(out)
    return ledger.public_table(out, ledger.survey(out)).reset_index()


def _facts(pipe: Any, intervention: str | None) -> dict[str, Any]:
    """What determines a clip beside its row."""
    import diffusers
    import torch

    return {
        "weights": workers.weights_hash(pipe),
        "dtype": str(pipe.unet.dtype).removeprefix("torch."),
        "versions": {"torch": torch.__version__.split("+")[0], "diffusers": diffusers.__version__},
        "intervention": intervention,
        "format": ledger.FORMAT,
    }


def _measures(measure: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for item in [measure] if isinstance(measure, str) or callable(measure) else measure:
        name = item if isinstance(item, str) else getattr(item, "__name__", "")
        if isinstance(item, str) and item not in workers.MEASURES:
            raise InputError(f"unknown measure {item!r}: give {', '.join(workers.MEASURES)}, or a function of a clip.")
        if not name.isidentifier():
            raise InputError(f"the measure {item!r} has no name to file its numbers under: define it with def.")
        found[name] = None if isinstance(item, str) else item
    return found


def _kept(keep: Any) -> dict[str, Any] | None:
    if isinstance(keep, Mapping):
        return dict(keep)
    return {"keep": tuple(keep)} if len(keep) else None


def _jobs(
    pipe: ProbePipeline, plan: pd.DataFrame, image: Any, facts: dict[str, Any]
) -> tuple[list[Job], dict[str, Image.Image]]:
    rows = plans.condition_rows(plan)
    seeds = plan["seed"].tolist() if "seed" in plan else [0] * len(plan)
    images = plan["image"].tolist() if "image" in plan else [image] * len(plan)
    pictures: dict[str, Image.Image] = {}
    known: dict[tuple, tuple[str, str]] = {}
    sizes: dict[tuple, Conditions] = {}
    filled: dict[tuple, Conditions] = {}
    jobs = []
    for row, seed, picture in zip(rows, seeds, images, strict=True):
        if row not in filled:
            filled[row] = _fill(pipe, row, sizes)
        conditions = filled[row]
        key = (picture if isinstance(picture, str) else id(picture), conditions.height, conditions.width)
        if key not in known:
            prepared = prepare_image(picture, height=conditions.height or 0, width=conditions.width or 0)
            digest = image_hash(prepared)
            pictures[digest] = prepared
            known[key] = digest, picture if isinstance(picture, str) else f"image-{digest[:8]}"
        digest, name = known[key]
        jobs.append(_job(conditions, int(seed), digest, name, facts))
    return jobs, pictures


def _fill(pipe: ProbePipeline, row: tuple, sizes: dict[tuple, Conditions]) -> Conditions:
    values = dict(zip(plans.CONDITIONS, row, strict=True))
    names = ("num_frames", "height", "width", "decode_chunk_size")
    key = tuple(values[name] for name in names)
    if key not in sizes:
        sizes[key] = resolve(pipe, Conditions(**dict(zip(names, key, strict=True))))
    return Conditions(**{**values, **{name: getattr(sizes[key], name) for name in names}})


def _job(conditions: Conditions, seed: int, image: str, name: str, facts: dict[str, Any]) -> Job:
    values = {n: getattr(conditions, n) for n in plans.CONDITIONS}
    decoding = {n: values.pop(n) for n in ("decode_chunk_size", "playback_fps")}
    latents_id = ledger.identify({**facts, "conditions": values, "seed": seed, "image": image})
    return Job(ledger.identify({"latents": latents_id, **decoding}), latents_id, conditions, seed, image, name)


def _missing(out: Path, jobs: list[Job], how: How) -> list[Job]:
    table = ledger.survey(out, [job.run_id for job in jobs])
    have = set()
    if len(table):
        measured, kept = [[json.loads(text) for text in table[name]] for name in ("_measured", "_kept")]
        have = {
            run_id
            for run_id, status, measures, keeps in zip(table.index, table["status"], measured, kept, strict=True)
            if workers.is_current(status, measures, keeps, how)
        }
    return [job for job in {job.run_id: job for job in jobs}.values() if job.run_id not in have]


def _batch_size(pipe: ProbePipeline, asked: int | str, jobs: list[Job]) -> int:
    if asked != "auto":
        if isinstance(asked, bool) or not isinstance(asked, int) or asked < 1:
            raise InputError(f"batch_size={asked!r}: give a whole number of at least 1, or 'auto'.")
        return asked
    if not jobs:
        return 1
    largest = max(j.conditions.num_frames * j.conditions.height * j.conditions.width for j in jobs)  # type: ignore[operator]
    return max(1, min(LARGEST_BATCH, BATCH_SITES * pipe.vae_scale_factor**2 // largest))


def _bar(progress: bool, total: int, initial: int) -> Any:
    from tqdm.auto import tqdm

    return tqdm(total=total, initial=initial, desc="sweep", unit="clip", disable=not progress)


def _results(out: Path, plan: pd.DataFrame, jobs: list[Job]) -> pd.DataFrame:
    ids = [job.run_id for job in jobs]
    table = ledger.public_table(out, ledger.survey(out, ids)).reindex(ids)
    table.insert(0, "run_id", ids)
    table.index = plan.index
    for n, name in enumerate(c for c in plan if c == "noise" or str(c).startswith("label_")):
        table.insert(1 + n, name, plan[name])
    return table
