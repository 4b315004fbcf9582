"""Ready-made interventions: edits that come up again and again, each one `with` block, and runs that go on from a step.

    >>> with svdlab.edits.image_embedding(pipe, "cat"):
    ...     clip = svdlab.generate(pipe, image)
    >>> with svdlab.edits.silence_temporal_attention(pipe, "unet.mid_block*"), svdlab.trace(pipe) as tr:
    ...     clip = svdlab.generate(pipe, image)
    >>> again = branch(pipe, tr, step=12, motion_bucket_id=30)

Edits nest with `svdlab.edit` and `svdlab.trace`, take the same `steps=`, and like those leave nothing behind.
"""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import numpy as np
import torch

from svdlab.errors import InputError, TraceError, flag, kind, number, several, takes, whole
from svdlab.pipeline.conditions import Conditions
from svdlab.pipeline.generate import Clip, ProbePipeline, Start, generate_batch
from svdlab.pipeline.hooks import SELF, chosen_steps, edit, names, select_modules
from svdlab.pipeline.images import prepare_image
from svdlab.pipeline.pipeline import pipeline
from svdlab.pipeline.sampler import steps_of
from svdlab.pipeline.samplers import prepared
from svdlab.pipeline.trace import Trace

ONE_STEP: tuple[str, ...] = ("EulerDiscrete", "EulerAncestralDiscrete", "EDMEuler", "DDIM", "DDPM", "LCM")  # no memory
ONE_STEP += ("AnimateLCMSVDStochasticIterative",)


@takes(pipe=pipeline)
def image_embedding(
    pipe: ProbePipeline, image: Any, *, steps: Any = None, height: int | None = None, width: int | None = None
) -> AbstractContextManager[None]:
    """The image encoder's view of another image, while the VAE's latents stay those of the clip's own.

    >>> with svdlab.edits.image_embedding(pipe, "cat"):
    ...     clip = svdlab.generate(pipe, "astronaut")          # what CLIP says of the cat, the pixels of the astronaut

    image: as for `generate`, cropped to the aspect of height and width, by default the checkpoint's own. The unconditional
    half keeps its zeros. The image encoder runs once, when this is called. Raises InputError for an image that cannot be read.
    """
    chosen_steps(steps)
    prepared = prepare_image(image, height=height or pipe.source.height, width=width or pipe.source.width)
    with torch.no_grad():
        other = pipe._encode_image([prepared], pipe._execution_device, 1, False)  # "1 1 d"
    swap = lambda value, step: torch.where((value == 0).all(-1, keepdim=True), value, other.to(value))
    return edit(pipe, "image_embeddings", swap, steps=steps)


@takes(pipe=pipeline, blocks=names, scale=number)
def silence_temporal_attention(
    pipe: ProbePipeline, blocks: str | Iterable[str] = "unet", *, scale: float = 0.0, steps: Any = None
) -> AbstractContextManager[None]:
    """Temporal self-attention adds `scale` times what it would: 0 for nothing, so that frames no longer see each other there.

    >>> with svdlab.edits.silence_temporal_attention(pipe, "*up_blocks*", steps=range(10)): pass

    blocks: names or globs of parts of the UNet, such as "unet.mid_block*" or "*up_blocks.1*". Frames still exchange something
    through the temporal convolutions.
    """
    within = tuple(f"{block}." for block in select_modules(pipe, blocks))
    found = [name for name in select_modules(pipe, SELF["temporal"]) if f"{name}.".startswith(within)]
    if not found:
        raise TraceError(f"blocks={blocks!r}: there is no temporal self-attention inside.")
    return edit(pipe, found, lambda value, step: scale * value, steps=steps)


@takes(pipe=pipeline, trace=kind(Trace), step=whole, decode=flag)
def branch(pipe: ProbePipeline, trace: Trace, step: int, *, decode: bool = True, **changes: Any) -> Clip:
    """Start again from the latents before a step, with some conditions changed.

    >>> clip = branch(pipe, tr, 2, motion_bucket_id=30)
    >>> clip = branch(pipe, tr, 2, image="scene-3")         # another image from here on

    step: number of a traced step, from 0. changes: conditions by name, or `image`. decode=False leaves `frames` empty.
    Without changes the original clip comes back, bit for bit on a CPU; the branch's steps keep their numbers. Raises
    TraceError where the trace does not hold what is needed, or the scheduler remembers earlier steps; InputError for a
    change that is none; all of them before any model runs.
    """
    image, conditions, start = _branch_from(pipe, trace, step, changes)
    return generate_batch(pipe, [image], [conditions], [trace.calls[0].seed], start, decode=decode)[0]


@takes(pipe=pipeline, trace=kind(Trace), steps=partial(several, check=whole), decode=flag)
def transplant(
    pipe: ProbePipeline, trace: Trace, steps: Sequence[int] | None = None, *, decode: bool = True, **changes: Any
) -> dict[int, Clip]:
    """The same change made from each of several steps on: what is decided when.

    >>> clips = transplant(pipe, tr, motion_bucket_id=200)
    >>> {step: svdlab.motion.summary(clip.frames)["object_px"] for step, clip in clips.items()}

    steps: numbers of traced steps, None for all. A branch only computes the steps that are left, so that all n of them cost
    (n + 1) / (2 n) of what n runs from the start would: 0.52 for 25 steps. Raises as `branch`, for all steps before the first.
    """
    chosen = [s.index for s in trace.steps] if steps is None else list(steps)
    for step in chosen:
        _branch_from(pipe, trace, step, changes)
    return {step: branch(pipe, trace, step, decode=decode, **changes) for step in chosen}


def _branch_from(pipe: ProbePipeline, trace: Trace, step: int, changes: dict[str, Any]) -> tuple[Any, Conditions, Start]:
    """Image, conditions and start of a branch."""
    if trace.batch != 1:
        raise TraceError(f"this trace holds {trace.batch} samples: branch from one, as in branch(pipe, tr[0], {step}).")
    kept = {s.index: s.values["latents"] for s in trace.steps if "latents" in s.values}
    if step not in kept:
        held = ", ".join(map(str, sorted(kept))) or "no step"
        raise TraceError(f"step {step}: the trace holds latents of {held}. Trace with keep=('latents',) and that step.")
    if not trace.calls or not trace.images:
        raise TraceError("branch needs a trace made through svdlab.generate, which brings image, seed and conditions with it.")
    call = trace.calls[0]
    scheduler = (call.conditions.scheduler or type(pipe.scheduler).__name__).removesuffix("Scheduler")
    if step and scheduler not in ONE_STEP:
        use = ", ".join(ONE_STEP)
        raise TraceError(f"{scheduler} goes by earlier steps, which the latents of a step do not hold: use {use}.")
    if fixed := sorted({"num_frames", "height", "width", "num_inference_steps", "scheduler"} & changes.keys()):
        raise InputError(f"{', '.join(fixed)} cannot change in mid-run: the latents have that shape and schedule.")
    conditions = call.conditions.replace(**{name: value for name, value in changes.items() if name != "image"})
    flips, image = [call.start.get("flip_noise")], changes.get("image", trace.images[0])
    start = Start(call.start.get("sigmas"), kept[step], flip_noise=flips, first=step)
    own = steps_of(prepared(pipe, conditions.scheduler, conditions.num_inference_steps, start.levels()))
    levels = np.array([*(s.sigma for s in own), own[-1].sigma_next])
    if levels.shape != trace.schedule.shape or not np.allclose(levels, trace.schedule, rtol=1e-3):
        raise TraceError(f"the pipeline's {scheduler} has other noise levels than the trace: set the scheduler of that call.")
    return image, conditions, start
