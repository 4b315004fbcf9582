"""How many denoising steps are enough, for a model, a sampler and conditions.

>>> table = steps_needed(pipe, grid(scheduler=["EulerDiscreteScheduler"]), image="scene-27", steps=(2, 4), reference=8)
>>> table.num_inference_steps.tolist(), bool(table.error[0] > table.error[1])
([2, 4], True)
>>> fig = show.dose_response(table, x="num_inference_steps", y="error", by="scheduler")
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from svdlab.errors import POSITIVE, InputError, flag, several, takes, whole
from svdlab.pipeline.conditions import SCHEDULERS, Conditions, resolve
from svdlab.pipeline.generate import generate_batch
from svdlab.pipeline.images import prepare_image
from svdlab.pipeline.pipeline import pipeline
from svdlab.study import plans
from svdlab.study.plans import grid

__all__ = ["grid", "steps_needed"]
STEPS = partial(whole, least=1, most=1000)


@takes(pipe=pipeline, steps=partial(several, check=STEPS, distinct=True), within=POSITIVE, reference=STEPS, progress=flag)
def steps_needed(
    pipe: Any,
    plan: Any,
    *,
    image: Any = None,
    steps: Sequence[int] = (4, 6, 8, 12, 16, 24, 32),
    within: float = 2.0,
    reference: int = 100,
    progress: bool = True,
) -> pd.DataFrame:
    """The error of a clip against the number of its steps, compared with the clip of many Euler steps of the same seed.

    >>> table = steps_needed(pipe, [{"max_guidance_scale": 1.0}], image="scene-27", steps=(2, 4), reference=8, within=99)
    >>> table.needed.tolist()
    [2.0, 2.0]

    plan: as for a sweep, with columns of conditions, seed and image; not num_inference_steps. within: the error that counts as
    none. reference: steps of the Euler clip that all are compared with, more than the most of `steps`.

    Returns a row for each row of the plan and number of steps: its conditions, seed and image, error (root mean square
    difference of the frames, in levels of 255), unet_calls (Heun's method makes two in a step), needed (the least number of
    steps from which on no clip of this scheduler has a larger error than `within`; NaN where none has). A sampler that draws
    noise makes another clip, not a worse one: its error says nothing. Raises InputError before any clip is made.
    """
    plan = plans.as_plan(plan)
    known = (*plans.CONDITIONS, "seed", "image")
    if odd := [c for c in plan if c == "num_inference_steps" or (c not in known and not str(c).startswith("label_"))]:
        raise InputError(f"the plan's column {odd[0]!r} has no place here: give conditions, seed and image, and steps=.")
    if reference <= max(steps):
        raise InputError(f"reference={reference}: give more steps than the most that are tried, {max(steps)}.")
    pictures = [image if plans.empty(cell) else cell for cell in plan.get("image", pd.Series([None] * len(plan)))]
    if any(picture is None for picture in pictures):
        raise InputError("no image: give image=, or a column 'image' in the plan.")
    seeds = [0 if plans.empty(cell) else int(cell) for cell in plan.get("seed", pd.Series([0] * len(plan)))]
    rows = [Conditions(**dict(zip(plans.CONDITIONS, row, strict=True))) for row in plans.condition_rows(plan)]
    sizes = [resolve(pipe, row) for row in rows]
    images = [prepare_image(p, height=s.height or 0, width=s.width or 0) for p, s in zip(pictures, sizes, strict=True)]
    encodings: dict[Any, torch.Tensor] = {}
    references: dict[Any, np.ndarray] = {}
    found = []
    with tqdm(total=len(rows) * len(steps), desc="steps", unit="clip", disable=not progress) as bar:
        for picture, prepared, seed, row in zip(pictures, images, seeds, rows, strict=True):
            own = row.replace(scheduler=SCHEDULERS[0], num_inference_steps=reference)
            key = (picture if isinstance(picture, str) else id(picture), seed, own)
            if key not in references:
                references[key] = generate_batch(pipe, [prepared], [own], [seed], encodings=encodings)[0].frames
            for n in sorted(steps):
                c = row.replace(num_inference_steps=n)
                clip = generate_batch(pipe, [prepared], [c], [seed], encodings=encodings)[0]
                error = float(np.sqrt(np.mean((clip.frames - references[key]) ** 2)) * 255)
                calls = 2 * n - 1 if clip.call.sampler["scheduler"] == "HeunDiscreteScheduler" else n
                name = picture if isinstance(picture, str) else f"image-{clip.call.image[:8]}"
                made = {**clip.conditions.asdict(), **clip.call.sampler, "seed": seed, "image": name}
                found.append({**made, "error": error, "unet_calls": calls})
                bar.update()
    table = pd.DataFrame(found).assign(checkpoint=pipe.source.checkpoint, label=pipe.source.label)
    needed = {name: _enough(part, within) for name, part in table.groupby("scheduler")}
    return table.assign(needed=table["scheduler"].map(needed))


def _enough(clips: pd.DataFrame, within: float) -> float:
    """The least number of steps from which on every error is within."""
    worst = clips.groupby("num_inference_steps").error.max()
    too_few = worst.index[worst > within]
    left = worst.index if not len(too_few) else worst.index[worst.index > too_few.max()]
    return float(left.min()) if len(left) else float("nan")
