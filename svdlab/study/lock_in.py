"""At which noise level a clip's image and its motion are settled, and which blocks look at its first frame.

>>> table = lock_in(pipe, "scene-27", num_inference_steps=4, seeds=[0, 1])
>>> locked(table, 0.9).index.tolist()
[0, 1]
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from svdlab.errors import TraceError, columns, kind, number, seed, several, takes
from svdlab.measure import motion
from svdlab.pipeline.generate import generate
from svdlab.pipeline.hooks import trace
from svdlab.pipeline.pipeline import ProbePipeline, pipeline
from svdlab.pipeline.trace import Trace
from svdlab.show.labels import block


@takes(pipe=pipeline, seeds=partial(several, check=seed, distinct=True))
def lock_in(
    pipe: ProbePipeline, image: Any, conditions: Any = None, *, seeds: Sequence[int] = (0, 1, 2), **changes: Any
) -> pd.DataFrame:
    """How well each step's denoised estimate agrees with the finished clip: a row per seed and step.

    >>> lock_in(pipe, "scene-27", num_inference_steps=4, seeds=[0])[["sigma", "motion", "image"]]

    Columns: `seed`, `step`, `sigma` before it; `motion`, the cosine between the optical flow of the decoded estimate and that
    of the clip, 1 where they agree in direction and proportion; `image`, the correlation of their pixels, each about its mean;
    then the conditions and the checkpoint. conditions, changes: as in `svdlab.generate`.
    """
    rows = []
    for each in seeds:
        with trace(pipe, keep=("denoised",)) as tr:
            clip = generate(pipe, image, conditions, seed=each, **changes)
        videos = tr.decode(pipe)
        flows = np.stack([motion.flow(frames).ravel() for frames in videos])
        pixels = np.stack([(frames - frames.mean()).ravel() for frames in videos])
        made = {**clip.conditions.asdict(), "checkpoint": pipe.source.checkpoint, "label": pipe.source.label}
        for step, *agreement in zip(tr, _cosine(flows), _cosine(pixels), strict=True):
            own = dict(seed=each, step=step.index, sigma=step.sigma, motion=agreement[0], image=agreement[1])
            rows.append(own | {key: value for key, value in made.items() if not isinstance(value, (tuple, list))})
    return pd.DataFrame(rows)


@takes(threshold=partial(number, above=0, most=1))
def locked(table: pd.DataFrame, threshold: float = 0.9) -> pd.DataFrame:
    """The first step, with its sigma, from which on motion and image agree by `threshold` or more: a row per seed.

    >>> locked(lock_in(pipe, "scene-27", num_inference_steps=4, seeds=[0]))[["motion_sigma", "image_sigma"]]
    """
    columns("table", table, "seed", "step", "sigma", "motion", "image")
    found: dict[Any, dict[str, float]] = {}
    for each, own in table.sort_values("step").groupby("seed"):
        for name in ("motion", "image"):
            below = np.flatnonzero(own[name].to_numpy() < threshold)
            first = own.iloc[min(below[-1] + 1 if len(below) else 0, len(own) - 1)]
            found.setdefault(each, {}).update({f"{name}_step": int(first["step"]), f"{name}_sigma": float(first["sigma"])})
    return pd.DataFrame.from_dict(found, orient="index").rename_axis("seed")


@takes(tr=kind(Trace))
def first_frame(tr: Trace) -> pd.DataFrame:
    """The weight of the first frame in temporal attention, mean over frames and sites: a row per block, a column per sigma.

    >>> with svdlab.trace(pipe, attention="temporal") as seen:
    ...     clip = svdlab.generate(pipe, image, num_inference_steps=4)
    >>> first_frame(seen).shape
    (4, 4)

    Of both halves the conditional one. Raises TraceError for a trace of another kind, or of several samples.
    """
    names = sorted(name for name in tr.names if name.endswith(".first_frame"))
    if not names or tr.batch > 1:
        raise TraceError('give a trace of one sample that svdlab.trace(pipe, attention="temporal") made.')
    weights = np.stack([tr[name][:, -1].mean(dim=1).float().numpy() for name in names])
    return pd.DataFrame(weights, index=[block(name) for name in names], columns=tr.sigmas)


def _cosine(values: np.ndarray) -> np.ndarray:
    """Of each row with the last one."""
    length = np.linalg.norm(values, axis=1) * np.linalg.norm(values[-1])
    return values @ values[-1] / np.maximum(length, 1e-9)
