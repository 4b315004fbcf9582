"""Conditional image leakage: does a model copy its image where it should predict motion?

>>> from svdlab.organism import world
>>> clips = world.scenes(2, seed=1, motion="object", fps=7, motion_bucket_id=120).video
>>> table = one_step(pipe, clips, fps=7, motion_bucket_id=120, sigmas=[700.0, 10.0])
>>> table.columns.tolist()
['image', 'sigma', 'motion', 'change', 'leak', 'seed', 'checkpoint', 'label']

Zhao et al. 2024 (arXiv 2406.15735) add noise to a clip that exists, and let the model denoise it in one step. The more noise,
the less motion they find in the estimate, and they conclude that the image leaks into the prediction. But the best estimate of
an uncertain future is a mean of futures, which also moves less than each of them. `leak` separates the two. Let e be the
estimate and c the clip, both minus the image (in latents). Where e is the mean of the c that are possible, <e, c - e> is 0
on average; where it is that mean drawn towards the image by a weight w, 1 - <e, e> / <e, c> is w.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch

from svdlab.errors import POSITIVE, InputError, kind, number, seed, several, takes
from svdlab.measure import motion
from svdlab.measure.video import as_frames
from svdlab.pipeline.conditions import Conditions, resolve
from svdlab.pipeline.generate import Clip, generate
from svdlab.pipeline.hooks import edit
from svdlab.pipeline.images import encode, prepare_image
from svdlab.pipeline.pipeline import ProbePipeline, pipeline

SIGMAS = (700.0, 100.0, 40.0, 15.0, 6.0, 2.0)


def _video(name: str, value: Any) -> np.ndarray:
    return as_frames(value, least=2, name=name)


@takes(pipe=pipeline, weight=partial(number, least=0, most=1))
def copied_image(pipe: ProbePipeline, weight: float, *, steps: Any = None) -> AbstractContextManager[None]:
    """A planted leak: each estimate is drawn towards its own first frame by `weight`, from 0 to 1, which is a still clip.

    >>> with copied_image(pipe, 0.5, steps=(20.0, 700.0)):
    ...     clip = svdlab.generate(pipe, "scene-27", num_inference_steps=4)

    steps: as for `svdlab.edit`; two floats are a range of sigma.
    """
    return edit(pipe, "denoised", lambda value, step: value + weight * (value[:, :1] - value), steps=steps)


@takes(pipe=pipeline, sigmas=partial(several, check=POSITIVE), seed=seed)
def estimates(
    pipe: ProbePipeline, video: Any, conditions: Any = None, *, sigmas: Sequence[float] = SIGMAS, seed: int = 0, **changes: Any
) -> list[Clip]:
    """What the model makes of a clip in one step from noise of each level: its estimates, as Clips.

    >>> [made.frames.shape for made in estimates(pipe, clip.frames, clip.conditions, sigmas=[40.0, 4.0])]
    [(8, 64, 64, 3), (8, 64, 64, 3)]

    video: frames "f h w c", as many and as large as the conditions ask for (see `fitted`). The noise is the same at all levels
    but for its strength. conditions, changes: as in `svdlab.generate`.
    """
    clip, image = encode(pipe, video), as_frames(video, least=2)[0]
    noise = torch.randn(clip.shape, generator=torch.Generator().manual_seed(seed), device="cpu")
    how = dict(seed=seed, **changes)
    return [generate(pipe, image, conditions, sigmas=[sigma], latents=clip + sigma * noise, **how) for sigma in sigmas]


@takes(pipe=pipeline, conditions=kind(Conditions))
def fitted(pipe: ProbePipeline, video: Any, conditions: Any = None, **changes: Any) -> np.ndarray:
    """The first frames of a video as many and as large as the conditions ask for, the centre of each: "f h w 3" in [0, 1].

    >>> fitted(pipe, clip.frames).shape
    (8, 64, 64, 3)
    """
    c, frames = resolve(pipe, (conditions or Conditions()).replace(**changes)), as_frames(video, least=2)
    assert c.num_frames and c.height and c.width  # resolved
    if len(frames) < c.num_frames:
        raise InputError(f"the video has {len(frames)} frames, and {c.num_frames} are needed.")
    made = [prepare_image(frame, height=c.height, width=c.width) for frame in frames[: c.num_frames]]
    return np.stack([np.asarray(image) for image in made]) / np.float32(255)


@takes(pipe=pipeline, videos=partial(several, check=_video), sigmas=partial(several, check=POSITIVE), seed=seed)
def one_step(
    pipe: ProbePipeline,
    videos: Iterable[Any],
    conditions: Any = None,
    *,
    sigmas: Sequence[float] = SIGMAS,
    seed: int = 0,
    **changes: Any,
) -> pd.DataFrame:
    """How much of a clip's motion is in the one-step estimate at each noise level: a row per clip and sigma.

    >>> one_step(pipe, [clip.frames], clip.conditions, sigmas=[40.0])[["sigma", "motion", "leak"]]

    Columns: `motion`, the estimate's optical flow along the clip's own, 1 where it is as fast, 0 where it stands still;
    `change`, the same of the latents' difference from the image; `leak`, the weight by which the image is copied (see above):
    0 for the best estimate, however uncertain, and 1 for a still clip. All are NaN where the video itself stands still.
    videos: as `fitted` makes them. Guidance changes all.
    """
    rows = []
    for i, video in enumerate(videos):
        clip, flow = encode(pipe, video), motion.flow(video)
        true = clip - clip[:1]
        made_of = estimates(pipe, video, conditions, sigmas=sigmas, seed=seed + i, **changes)
        for sigma, made in zip(sigmas, made_of, strict=True):
            found, own = made.latents - clip[:1], motion.flow(made.frames)
            both = float((found * true).sum())
            row = dict(image=f"clip {i}", sigma=float(sigma), motion=_ratio((own * flow).sum(), (flow * flow).sum()))
            row |= dict(change=_ratio(both, (true * true).sum()), leak=1 - _ratio((found * found).sum(), both))
            rows.append(row | dict(seed=seed + i, checkpoint=pipe.source.checkpoint, label=pipe.source.label))
    return pd.DataFrame(rows)


def _ratio(a: Any, b: Any) -> float:
    return float(a) / float(b) if b else float("nan")
