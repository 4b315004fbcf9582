"""How far is a clip from the image that it began with, and which stage causes it: an error budget, and what detail is kept.

    result = svdlab.probes.run("realism", pipe, "results/limitations")
    result.graphs[0].points(result.clips)                # error by stage and spatial frequency

Four stages lie between image and video file: the *autoencoder* (the still image encoded and decoded), the *denoiser* (the clip
against that), decoding in *chunks*, and the *mp4*. In frame 0, which shows the image itself, each stage's error is taken pixel
by pixel. Later frames move, so there only what does not depend on motion is compared: power of detail by frequency, sharpness
and flicker. That detail is there does not prove that it is right.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from skimage.measure import blur_effect

from svdlab.measure import fidelity
from svdlab.measure.calibrate import degrade
from svdlab.measure.fidelity import BANDS, EMPTY, FINE, REGIONS, budget, decibels, power, seams
from svdlab.pipeline.generate import Clip, ProbePipeline
from svdlab.probes.probe import Check, Graph, Probe, Study, below, most, near
from svdlab.probes.stimuli import blurred, decode, still, through_autoencoder
from svdlab.stats.effects import Effect, bounded, mean

STAGES = ("autoencoder", "denoiser", "chunks", "mp4")
FREQUENCIES = (1 / 64, 1 / 45, 1 / 23, 1 / 11, 1 / 3)  # cycles/px, at the middle of each of BANDS but the mean
CRF = 18  # of the mp4, as `svdlab.measure.video.write_preview` writes it
DETAIL_MARGIN = 1.0  # dB of fine detail: what a Gaussian blur of about 0.2 px costs
BLUR_MARGIN = 0.03  # of blur_effect, 0 to 1
FLICKER_MARGIN = 0.5  # grey levels from frame to frame: not visible
DOCTORED = 4  # images on which the audit tries the instrument itself
BLUR_FRAMES = 5  # of a clip: at full size each takes 0.4 s


def by_frequency(clips: pd.DataFrame) -> pd.DataFrame:
    """Root of the mean squared error in grey levels, by stage and frequency."""
    return _long(255 * np.sqrt(parts(clips).sum(axis=2)[:4, 1:].clip(min=0)), FREQUENCIES, "frequency", "rms")


def by_region(clips: pd.DataFrame) -> pd.DataFrame:
    """Share of all stages' squared error, by stage and region."""
    mse = parts(clips).sum(axis=1)[:4].clip(min=0)
    return _long(mse / mse.sum(), REGIONS, "region", "share")


def _long(values: np.ndarray, columns: tuple[Any, ...], name: str, value: str) -> pd.DataFrame:
    table = pd.DataFrame(values, index=pd.Index(STAGES, name="stage"), columns=columns)
    return table.melt(var_name=name, value_name=value, ignore_index=False).reset_index()


class Realism(Probe):
    """The error budget of every clip."""

    name = "realism"
    card = "The model does not achieve perfect photorealism."
    question = "How much of the image's detail is lost or changed on the way to the video file, and by which stage?"
    options = {"decode_chunk_size": None}  # by default a third of the study's: eight of 25 frames, as memory often asks for
    graphs = (
        Graph("Error of frame 0 by frequency", "frequency", "rms", "grey levels", "cycles/px", "stage", of=by_frequency),
        Graph("Share of frame 0's squared error", "region", "share", "", " ", "stage", "plane", by_region),
        Graph("Fine detail against the input", "frame", "detail_by_frame", "dB"),
    )
    worst = "mse_total"

    def measures(self, study: Study) -> tuple[Any, ...]:
        third = max(1, (study.conditions.decode_chunk_size or 1) // 3)
        return ("fidelity", partial(error, decode_chunk_size=study.options["decode_chunk_size"] or third))

    def audit(self, study: Study) -> list[Check]:
        """Clips spoilt by known amounts: nothing, noise, blur, flicker and seams."""
        seen = pd.DataFrame([_doctored(study.stimuli.array(name)) for name in study.stimuli.names[:DOCTORED]])
        fine = lambda frames: _fine(frames)[0]
        before, after = study.each(lambda image: fine(image[None])), study.through(fine, partial(still, frames=1))[0]
        return [
            below("a still copy has no error, flicker or seam", seen["nothing"], 1e-6),
            near("noise of 0.02 is charged to its stage, over its size", seen["noise"], 1, within=0.1, worst=True),
            below("... and to no other", seen["elsewhere"], 1e-6),
            near("flicker of 0.01 is recovered, over its size", seen["flicker"], 1, within=0.1, worst=True),
            near("seams of 0.02 are recovered, over their size", seen["seam"], 1, within=0.1, worst=True),
            below("a blur of 1 px takes fine detail away, dB", seen["blur"], -3),
            most("images hold fine detail, also after the autoencoder", (before >= EMPTY) & (after >= EMPTY)),
        ]

    def findings(self, study: Study, clips: pd.DataFrame) -> Iterator[Effect]:
        return findings(clips)

    def verdict(self, study: Study, found: Mapping[str, Effect]) -> str:
        shares = [e for key, e in found.items() if key.startswith("error_")]
        return f"{super().verdict(study, found)} {max(shares, key=lambda e: e.value).sentence}"


def findings(clips: pd.DataFrame) -> Iterator[Effect]:
    """Of a table with `stimulus`, `seed` and the columns of `measures`."""
    decibel, levels = partial(mean, unit="dB", margin=DETAIL_MARGIN), partial(mean, unit="grey levels of 255", null=None)
    what = "fine detail (finer than 8 px/cycle) of the video file against the input"
    yield decibel("detail", what, clips, "detail_total")
    for stage in STAGES:
        yield decibel(f"detail_{stage}", f"of that, the part of the {stage}", clips)
    errors = clips[[f"mse_{s}" for s in STAGES]].clip(lower=0)
    for stage in STAGES:
        part = clips.assign(part=errors[f"mse_{stage}"] / errors.sum(axis=1))
        what = f"{{}} of frame 0's squared error by the {stage}"
        yield bounded(mean(f"error_{stage}", what, part, "part", unit="share", null=None), 0, 1)
    changed = 255 * clips[["rms_chunks", "rms_mp4", "seam_height"]].assign(
        flicker=clips["flicker_clip"] - clips["flicker_own"]
    )
    grey = clips.assign(blur=clips["blur_clip"] - clips["blur_input"], **changed)
    yield mean("blur", "blur of the clip (0 to 1) minus that of the input", grey, unit="", margin=BLUR_MARGIN)
    yield levels("flicker", "flicker of the clip minus the autoencoder's own", grey, null=0.0, margin=FLICKER_MARGIN)
    yield decibel("fade", "fine detail, last frame against first", clips, "detail_fade")
    yield levels("rms_chunks", "change by decoding in chunks", grey)
    yield levels("seam_height", "height of the seams between chunks", grey)
    yield levels("rms_mp4", "change by the mp4", grey)


def error(clip: Clip, *, pipe: ProbePipeline, decode_chunk_size: int) -> dict[str, Any]:
    """A sweep's measure: `measures` of a clip, decoded again in chunks, and written as mp4."""
    image = np.asarray(clip.image, np.float32) / 255
    through = through_autoencoder(pipe, still(image, len(clip.frames)), clip.conditions.decode_chunk_size)
    chunked = decode(pipe, clip.latents, decode_chunk_size)
    return measures(image, through, clip.frames, chunked, degrade(chunked, crf=CRF), decode_chunk_size)


def measures(
    image: np.ndarray, through: np.ndarray, whole: np.ndarray, chunked: np.ndarray, filed: np.ndarray, chunk: int
) -> dict[str, Any]:
    """The budget of one clip, a flat dict. All frames "f h w 3" in [0, 1].

    Args:
        image: "h w 3", what the model was given.
        through: the autoencoder's own clip of the still image.
        whole, chunked: the clip decoded in one piece, and `chunk` frames at a time.
        filed: the chunked clip, read back from its mp4.

    Keys: `mse_<stage>` of frame 0, and `mse_together` for what they do not explain singly (`mse_total` is their sum);
    `detail_<stage>` in dB, the fine detail (finer than 8 px/cycle) of all frames against the stage before, which sum to
    `detail_total`; `detail_fade`, last frame against first; `blur_input`, `blur_clip` (0 sharp to 1 blurred); `flicker_own` of
    the autoencoder's still clip, `flicker_clip`; `rms_chunks`, `rms_mp4` over all frames; `seam_height`; and the lists
    `parts`, mse by stage (and together), band and region, flat, and `detail_by_frame` in dB.
    """
    made = (through, whole, chunked, filed)
    table = budget({"input": image, **{stage: clip[0] for stage, clip in zip(STAGES, made, strict=True)}})
    levels = [_fine(image[None]), *map(_fine, made)]
    detail = [decibels(float(b.mean()), float(a.mean())) for a, b in pairwise(levels)]
    looked_at = whole[np.unique(np.linspace(0, len(whole) - 1, BLUR_FRAMES).round().astype(int))]
    return {
        **{f"mse_{stage}": float(mse) for stage, mse in table.groupby("stage").mse.sum().items()},
        "mse_total": float(np.square(filed[0].astype(np.float64) - image).mean()),
        **{f"detail_{stage}": db for stage, db in zip(STAGES, detail, strict=True)},
        "detail_total": decibels(float(levels[-1].mean()), float(levels[0].mean())),
        "detail_fade": decibels(float(levels[2][-1]), float(levels[2][0])),
        "blur_input": float(blur_effect(image, channel_axis=-1)),
        "blur_clip": float(np.mean([blur_effect(f, channel_axis=-1) for f in looked_at])),
        "flicker_own": fidelity.flicker(through)["flicker_brightness"],
        "flicker_clip": fidelity.flicker(whole)["flicker_brightness"],
        "rms_chunks": float(np.sqrt(np.square(chunked - whole).mean())),
        "rms_mp4": float(np.sqrt(np.square(filed - chunked).mean())),
        "seam_height": seams(whole, chunked, chunk)["seam_height"] if chunk < len(whole) else math.nan,
        "parts": table["mse"].tolist(),
        "detail_by_frame": [round(decibels(float(p), float(levels[0].mean())), 3) for p in levels[2]],
    }


def parts(clips: pd.DataFrame) -> np.ndarray:
    """The mean budget over clips: mse by stage (and together), band and region, "5 b 3"."""
    return np.mean(clips["parts"].tolist(), axis=0).reshape(len(STAGES) + 1, len(BANDS), len(REGIONS))


def _doctored(image: np.ndarray) -> dict[str, float]:
    """What is measured of clips that were spoilt by known amounts: ratios to what was done, or remains of nothing."""
    image = (0.1 + 0.8 * image).astype(np.float32)  # with room for what is added
    rest, at = still(image, 6), np.arange(6)[:, None, None, None]
    noisy = rest + np.random.default_rng(0).normal(0, 0.02, rest.shape).astype(np.float32)
    flickering = rest + np.where(at % 2, 0.01, -0.01).astype(np.float32)
    stepped, soft = rest + np.float32(0.02) * (at >= 3), blurred(rest, 1.0)
    same, noise, blur = (measures(image, rest, clip, clip, clip, 3) for clip in (rest, noisy, soft))
    return {
        "nothing": max(same["mse_total"], abs(same["detail_total"]), same["flicker_clip"], same["seam_height"]),
        "noise": math.sqrt(noise["mse_denoiser"]) / 0.02,
        "elsewhere": noise["mse_autoencoder"] + noise["mse_chunks"] + noise["mse_mp4"],
        "flicker": fidelity.flicker(flickering)["flicker_brightness"] / 0.04,  # second differences of -0.01, 0.01 ... are 0.04
        "seam": measures(image, rest, rest, stepped, stepped, 3)["seam_height"] / 0.02,
        "blur": blur["detail_denoiser"],
    }


def _fine(frames: np.ndarray) -> np.ndarray:
    """Power of fine detail per frame "f"."""
    return power(frames)[:, [BANDS.index(b) for b in FINE]].sum(1)
