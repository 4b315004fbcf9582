"""Does text on a sign stay legible: letter by letter, and for OCR, beyond what the autoencoder itself spoils?

    result = svdlab.probes.run("legibility", pipe, "results/limitations")
    result = svdlab.probes.run("legibility", pipe, out, images="my-walls/")      # signs hang on your images

Signs of known text, height, font and contrast are drawn at the checkpoint's size, on a brick wall unless images are given. Two
instruments look at each frame: rapidocr, whose character error rate is compared with its own on the autoencoder's round trip,
and the correlation of each letter with its own image where the sign has gone. A sign that OCR cannot read even after the round
trip says nothing about the denoiser and is left out.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from skimage import data

from svdlab.errors import InputError
from svdlab.measure.text import FONTS, LEAST_HEIGHT, Plate, correlation, error_rate, make_plate, read, read_clip
from svdlab.pipeline.generate import Clip, ProbePipeline
from svdlab.pipeline.images import image_hash
from svdlab.probes.probe import Check, Graph, Probe, Study, above, below, most
from svdlab.probes.stimuli import Stimuli, blurred, from_arrays, moved
from svdlab.stats.effects import Effect, mean

WORDS = ("OPEN", "EXIT", "TAXI", "CAFE", "FISH", "LAMP", "PORT", "DUST", "BOAT", "HALL", "SALT", "VINE", "LIFT", "TILE")
READ = 0.25  # character error rate up to which a sign counts as read
HELD = 0.8  # correlation of letters with themselves from which on they count as present
AUDIT_FRAMES = 8
DRIFT = 1 / 200  # of the frame's width per frame, by which the sign of a round trip moves
MARGIN = 0.05  # of error rate and of correlation, beyond the autoencoder's own
SIGN = ("text", "font", "letter_height", "contrast")  # what a sign is drawn from, beside what it hangs on


class Legibility(Probe):
    """Signs, against the autoencoder's own round trip of them under a slow pan."""

    name = "legibility"
    card = "The model cannot render legible text."
    question = "Does text that is in the image stay legible in the clip, beyond what the autoencoder spoils?"
    # heights of a capital in shares of the frame's shorter side: 16 to 108 px of 576; Michelson contrasts; whether to use OCR
    options = {"heights": (1 / 36, 1 / 18, 1 / 9, 3 / 16), "contrasts": (0.9, 0.4), "ocr": True}
    quick = {"contrasts": (0.9,)}
    graphs = (
        Graph("Correlation of letters lost", "frame", "letters_by_frame", "beyond the autoencoder's"),
        Graph("Character errors added", "frame", "errors_by_frame", "beyond the autoencoder's"),
        Graph("Correlation lost, by sign", "letter_height", "letters_lost", "", "height of a capital, px", "font", "plane"),
    )
    worst = "letters_lost"
    extra = "ocr"
    modules = ("rapidocr", "onnxruntime", "rapidfuzz")

    def images(self, source: str, quick: bool) -> Stimuli:
        """What the signs hang on: a brick wall."""
        return from_arrays(["brick"], [data.brick()], source="scikit-image", licence="CC0")

    def stimuli(self, study: Study) -> Stimuli:
        """Every height, font and contrast that fits, each with a word of its own, on the walls in turn."""
        shape = (study.height, study.width)
        walls, heights = study.given.prepared(*shape), [round(h * min(shape)) for h in study.options["heights"]]
        wanted = itertools.product([h for h in heights if h >= LEAST_HEIGHT], FONTS, study.options["contrasts"])
        signs: list[Plate] = []
        for n, (height, font, contrast) in enumerate(wanted):
            wall, first = walls.array(walls.names[n % len(walls)]), n % len(WORDS)
            for word in WORDS[first:] + WORDS[:first]:
                with suppress(InputError):  # too long for this size: the next word may fit
                    signs.append(make_plate(word, shape, height=height, font=font, contrast=contrast, background=wall))
                    break
        if not signs:
            size = f"{study.width}x{study.height} px"
            raise InputError(f"no sign fits {size} with capitals of {heights} px: they need at least {LEAST_HEIGHT} px.")
        names = [f"{s.text}, {s.font} {s.height} px, contrast {s.contrast:g}" for s in signs]
        known = {key: [getattr(s, key.removeprefix("letter_")) for s in signs] for key in SIGN}
        drawn = from_arrays(names, [s.image for s in signs], source="drawn by svdlab", licence="Apache-2.0", **known)
        return drawn.prepared(*shape)

    def measures(self, study: Study) -> tuple[Any, ...]:
        table = study.stimuli.table
        signs = dict(zip(table["hash"], table[list(SIGN)].values.tolist(), strict=True))
        return (partial(sign, signs=signs, ocr=study.options["ocr"]),)

    def audit(self, study: Study) -> list[Check]:
        """Every sign, clean, blurred, with a letter gone, and after the round trip."""

        def look(name: str, *drawn: Any) -> dict[str, Any]:
            image = study.stimuli.array(name)
            plate = plate_of(image, *drawn)
            through, soft, gone = own(image), blurred(image[None], 0.45 * plate.height), plate.image.copy()
            left, top, right, bottom = plate.boxes[-1]
            gone[top:bottom, left - 1 : right + 1] = 0.5 * (1 + plate.contrast)  # the last letter, painted over
            return {
                "clean": correlation(plate, image[None]).correlation.min(),
                "gone": correlation(plate, gone[None]).dropped.tolist() == [False] * (len(plate.letters) - 1) + [True],
                "soft": correlation(plate, soft).correlation.mean(),
                "through": correlation(plate, through).correlation.mean(),
                "read": error_rate(plate.text, read(image)),
                "read_soft": error_rate(plate.text, read(soft[0])),
                "read_through": error_rate(plate.text, read(through[len(through) // 2])),
            }

        own = partial(moved, study.pipe, frames=AUDIT_FRAMES, chunk=study.conditions.decode_chunk_size, by=DRIFT)
        known = study.stimuli.table[["name", *SIGN]].itertuples(index=False)
        seen = pd.DataFrame([look(*row) for row in known], index=study.stimuli.names)
        readable = (seen.read <= READ) & (seen.read_through <= READ) & (seen.through >= HELD)
        study.keep(readable, "signs that are unreadable before any denoising")
        return [
            above("letters of a clean sign: correlation", seen.clean, 0.99),
            most("a letter painted over is found missing, no other", seen.gone, least=1),
            below("letters blurred away: correlation", seen.soft, HELD),
            most("clean signs are read by OCR", seen.read <= READ),
            most("signs blurred away are not read", seen.read_soft > READ, least=1),
            most("signs are read, and their letters present, after the autoencoder", readable),
        ]

    def findings(self, study: Study, clips: pd.DataFrame) -> Iterator[Effect]:
        return findings(clips)


def findings(clips: pd.DataFrame) -> Iterator[Effect]:
    """Of a table with `stimulus`, `seed`, `letter_height` and the columns of `measures`."""
    if "errors_added" in clips:  # with OCR
        yield mean("errors_added", "character error rate that the denoiser adds", clips, unit="share", margin=MARGIN)
        yield mean("errors_added_last", "... in the last frame", clips, unit="share", margin=MARGIN)
    yield mean("letters_lost", "correlation of letters that the denoiser removes", clips, unit="", margin=MARGIN)
    yield mean("letters_lost_last", "... in the last frame", clips, unit="", margin=MARGIN)
    yield mean("dropped", "letters dropped", clips, unit="share", margin=MARGIN)
    yield mean("letters_own", "correlation of letters that the autoencoder leaves", clips, unit="", null=None)
    for height, group in clips.groupby("letter_height"):
        what = f"correlation that the denoiser removes, capitals of {height:.0f} px"
        yield mean(f"letters_lost_{height:.0f}px", what, group, "letters_lost", unit="", margin=MARGIN)


def sign(clip: Clip, *, pipe: ProbePipeline, signs: Mapping[str, list[Any]], ocr: bool) -> dict[str, Any]:
    """A sweep's measure: `measures` of a clip whose image is a sign. signs: by the image's hash, what each is drawn from."""
    image = np.asarray(clip.image, np.float32) / 255
    through = moved(pipe, image, len(clip.frames), clip.conditions.decode_chunk_size, by=DRIFT)
    return measures(plate_of(image, *signs[image_hash(clip.image)]), through, clip.frames, ocr=ocr)


def measures(plate: Plate, through: np.ndarray, frames: np.ndarray, *, ocr: bool = True) -> dict[str, Any]:
    """One clip of a sign against the autoencoder's own image of it. Flat dict.

    plate: what was drawn. through: "f h w 3", its round trip, slowly panned: it has been resampled too, as in most clips.
    frames: "f h w 3" of the clip. ocr: whether to read it by OCR, too.

    Keys: `letters_own` mean correlation of the round trip's letters with themselves, `letters_lost` what the clip has less
    over all frames, `letters_lost_last` in the last one; `dropped` share of letters and frames with a correlation below 0.5,
    beyond the round trip's; and the list `letters_by_frame`. With OCR: `errors` character error rate over all frames,
    `errors_own`, `errors_added`, `errors_added_last`, `text_read` in the last frame, and the list `errors_by_frame`.
    """
    own, table = correlation(plate, through), correlation(plate, frames)
    lost = float(own.correlation.mean()) - table.groupby("frame").correlation.mean()
    found: dict[str, Any] = {
        "letters_own": float(own.correlation.mean()),
        "letters_lost": float(lost.mean()),
        "letters_lost_last": float(lost.iloc[-1]),
        "dropped": float(table.dropped.mean()) - float(own.dropped.mean()),
        "letters_by_frame": lost.round(4).tolist(),
    }
    if not ocr:
        return found
    seen = read_clip(frames, plate.text)
    base = float(read_clip(through[[0, -1]], plate.text).error_rate.mean())
    added = seen.error_rate - base
    return found | {
        "errors": float(seen.error_rate.mean()),
        "errors_own": base,
        "errors_added": float(added.mean()),
        "errors_added_last": float(added.iloc[-1]),
        "text_read": str(seen.text.iloc[-1]),
        "errors_by_frame": added.round(4).tolist(),
    }


def plate_of(image: np.ndarray, text: str, font: str, letter_height: int, contrast: float) -> Plate:
    """The sign of an image "h w 3" that shows it, drawn anew on what it hangs on."""
    return make_plate(text, image.shape[:2], height=letter_height, font=font, contrast=contrast, background=image)
