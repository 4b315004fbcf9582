"""Does text on a sign stay legible: letter by letter, and for a reading machine, beyond what the autoencoder itself spoils?

    >>> result = svdlab.probes.run("legibility", pipe, "results/limitations")
    >>> result = svdlab.probes.run("legibility", pipe, out, images="my-walls/")      # signs hang on your pictures

Signs of known text, height, font and contrast are drawn at the checkpoint's size, on a brick wall unless other pictures are
given. Two instruments look at each frame: rapidocr, whose character error rate is compared with its own on the autoencoder's
round trip, and the correlation of each letter with its own picture where the sign has gone. A sign that the reading
machine cannot read even after the round trip tells nothing about the denoiser and is left out.
"""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import numpy as np
import pandas as pd
from skimage import data

from svdlab.errors import InputError
from svdlab.measure.text import FONTS, LEAST_HEIGHT, Plate, correlation, error_rate, make_plate, read, read_clip
from svdlab.pipeline.generate import Clip
from svdlab.pipeline.images import image_hash, prepare_image
from svdlab.probes import controls
from svdlab.probes import findings as rules
from svdlab.probes.base import Check, Panel, Probe, Shown, Study
from svdlab.probes.findings import Finding
from svdlab.probes.shown import beside_inputs, by_frame
from svdlab.probes.stimuli import Stimuli, from_arrays

WORDS = ("OPEN", "EXIT", "TAXI", "CAFE", "FISH", "LAMP", "PORT", "DUST", "BOAT", "HALL", "SALT", "VINE", "LIFT", "TILE")
HEIGHTS = (1 / 36, 1 / 18, 1 / 9, 3 / 16)  # of a capital, in shares of the frame's shorter side: 16 to 108 px of 576
CONTRASTS = (0.9, 0.4)  # Michelson
READ = 0.25  # character error rate up to which a sign counts as read
HELD = 0.8  # correlation of letters with themselves from which on they count as there
CONTROL_FRAMES = 8
DRIFT = 1 / 200  # of the frame's width per frame, by which the control's sign moves
MARGIN = 0.05  # of error rate and of correlation beyond the autoencoder's own: less counts as none


def stimuli(source: str, quick: bool) -> Stimuli:
    """What the signs hang on, unless the user gives pictures: a brick wall."""
    return from_arrays(["brick"], [data.brick()], source="scikit-image", licence="CC0")


def plan(study: Study) -> pd.DataFrame:
    """Signs on the given grounds; from here on they are the study's stimuli."""
    plates = signs(study)
    names = [f"{p.text}, {p.font} {p.height} px, contrast {p.contrast:g}" for p in plates.values()]
    columns = {c: [getattr(p, c) for p in plates.values()] for c in ("text", "font", "height", "contrast")}
    renamed = {"letter_height" if c == "height" else c: v for c, v in columns.items()}
    drawn = from_arrays(names, [p.image for p in plates.values()], source="drawn by svdlab", licence="Apache-2.0", **renamed)
    study.stimuli = drawn.prepared(*study.size)
    study.known["plates"] = dict(zip(map(image_hash, study.stimuli.pictures), plates.values(), strict=True))
    return study.grid()


def signs(study: Study) -> dict[str, Plate]:
    """The plates by name: every height, font and contrast that fits, each with a word of its own, on the grounds in turn."""
    height, width = study.size
    grounds = [np.asarray(prepare_image(p, height=height, width=width), np.float32) / 255 for p in study.original.pictures]
    heights = [round(h * min(study.size)) for h in study.options["heights"]]
    wanted = itertools.product([h for h in heights if h >= LEAST_HEIGHT], FONTS, study.options["contrasts"])
    plates: dict[str, Plate] = {}
    for number, (letters, font, contrast) in enumerate(wanted):
        ground = grounds[number % len(grounds)]
        for word in WORDS[number % len(WORDS) :] + WORDS[: number % len(WORDS)]:
            try:
                plate = make_plate(word, (height, width), height=letters, font=font, contrast=contrast, background=ground)
            except InputError:  # too long for this size: the next word may fit
                continue
            plates[f"{word} {font} {letters} {contrast}"] = plate
            break
    if not plates:
        raise InputError(
            f"no sign fits {width}x{height} px with capitals of {heights} px: from {LEAST_HEIGHT} px up they can be drawn."
        )
    return plates


def measures(plate: Plate, through: np.ndarray, frames: np.ndarray, *, ocr: bool = True) -> dict[str, Any]:
    """One clip of a sign against the autoencoder's own picture of it. Flat dict.

    Args:
        plate: what was drawn.
        through: "f h w 3", the round trip of its picture, slowly panned: it has been resampled too, as in most clips.
        frames: "f h w 3" of the clip.
        ocr: whether to read it by machine, too; else these values are NaN.

    Keys: `letters` mean correlation of the letters with themselves over all frames, `letters_own` of the round trip,
    `letters_lost` the difference, `letters_lost_last` in the last frame; `dropped` share of letters and frames with a
    correlation below 0.5, beyond the round trip's; `contrast_left`, in shares of the round trip's; `errors` character
    error rate over all frames, `errors_own`, `errors_added`, `errors_added_last`; `said`, what was read in the last
    frame; as text for the graph, `letters_by_frame` and `errors_by_frame`.
    """
    own, table = correlation(plate, through), correlation(plate, frames)
    by_frame = table.groupby("frame").correlation.mean().to_numpy()
    reference = float(own.correlation.mean())
    found: dict[str, Any] = {
        "letters": float(by_frame.mean()),
        "letters_own": reference,
        "letters_lost": reference - float(by_frame.mean()),
        "letters_lost_last": reference - float(by_frame[-1]),
        "dropped": float(table.dropped.mean()) - float(own.dropped.mean()),
        "contrast_left": float(table.contrast.mean() / own.contrast.mean()) if own.contrast.mean() else math.nan,
        "letters_by_frame": json.dumps([round(reference - float(v), 4) for v in by_frame]),
    }
    if not ocr:
        return found | dict.fromkeys(("errors", "errors_own", "errors_added", "errors_added_last"), math.nan)
    said = read_clip(frames, plate.text)
    base = float(read_clip(through[[0, -1]], plate.text).error_rate.mean())
    return found | {
        "errors": float(said.error_rate.mean()),
        "errors_own": base,
        "errors_added": float(said.error_rate.mean()) - base,
        "errors_added_last": float(said.error_rate.iloc[-1]) - base,
        "said": str(said.text.iloc[-1]),
        "errors_by_frame": json.dumps([round(float(v) - base, 4) for v in said.error_rate]),
    }


def measure(study: Study) -> pd.DataFrame:
    plates, readable = study.known["plates"], study.known["readable"]

    def sign(clip: Clip) -> dict[str, Any]:
        plate = plates[image_hash(clip.image)]
        picture = np.asarray(clip.image, np.float32) / 255
        through = moved(study, picture, len(clip.frames))
        return measures(plate, through, clip.frames, ocr=study.options["ocr"])

    # Signs that cannot be read after the round trip are not made into clips: nothing could be learned from them.
    chosen = study.plan[study.plan["label_stimulus"].isin(readable)] if readable else study.plan
    table = study.sweep(chosen, (sign,))
    return table.rename(columns={c: str(c).removeprefix("sign_") for c in table if str(c).startswith("sign_")})


def moved(study: Study, picture: np.ndarray, frames: int) -> np.ndarray:
    """The sign under a slow steady pan, through the autoencoder: what it looks like when it is only moved."""
    panned = controls.panned(picture, frames, px=DRIFT * study.size[1])
    return controls.through_autoencoder(study.pipe, panned, study.conditions.decode_chunk_size)


def audit(study: Study) -> list[Check]:
    """Every sign, clean, blurred, with a letter gone, and after the round trip; and the wall without a sign."""
    rows = []
    for name, plate in zip(study.stimuli.names, study.known["plates"].values(), strict=True):
        picture = study.stimuli.array(name)
        through = moved(study, picture, CONTROL_FRAMES)
        soft = controls.blurred(picture[None], 0.45 * plate.height)
        gone = _without_last_letter(plate)
        rows.append(
            {
                "name": name,
                "clean": correlation(plate, picture[None]).correlation.min(),
                "gone": correlation(plate, gone[None]).dropped.tolist() == [False] * (len(plate.letters) - 1) + [True],
                "soft": correlation(plate, soft).correlation.mean(),
                "through": correlation(plate, through).correlation.mean(),
                "read": error_rate(plate.text, read(picture).text),
                "read_soft": error_rate(plate.text, read(soft[0]).text),
                "read_through": error_rate(plate.text, read(through[len(through) // 2]).text),
            }
        )
    seen = pd.DataFrame(rows).set_index("name")
    readable = (seen["read"] <= READ) & (seen["read_through"] <= READ) & (seen["through"] >= HELD)
    study.known["readable"] = set(seen.index[readable])
    lost = seen.index[~readable]
    if len(lost) and readable.any():
        study.notes.append(
            f"{len(lost)} of {len(seen)} signs, unreadable before any denoising, are left out: {'; '.join(lost)}."
        )
    n = len(seen)
    medians = f"errors {seen['read_through'].median():.2g}, letters {seen['through'].median():.2g}"
    return [
        Check(
            "letters of a clean sign are all there",
            "correlation above 0.99",
            f"{seen['clean'].min():.3f}",
            bool(seen["clean"].min() > 0.99),
        ),
        Check(
            "a letter painted over is found missing, no other",
            f"in all {n} signs",
            f"{int(seen['gone'].sum())}",
            bool(seen["gone"].all()),
        ),
        Check(
            "letters blurred away are not called there",
            f"below {HELD:g} in all",
            f"{seen['soft'].max():.2f} at most",
            bool(seen["soft"].max() < HELD),
        ),
        Check(
            "clean signs are read by machine",
            f"at least half of {n}",
            f"{int((seen['read'] <= READ).sum())}",
            bool(2 * (seen["read"] <= READ).sum() >= n),
        ),
        Check(
            "signs blurred away are not read",
            f"none of {n}",
            f"{int((seen['read_soft'] <= READ).sum())}",
            not (seen["read_soft"] <= READ).any(),
        ),
        Check(
            "signs are read, and their letters there, after the autoencoder",
            f"at least half of {n}",
            f"{int(readable.sum())} (medians: {medians})",
            bool(2 * readable.sum() >= n),
        ),
    ]


def findings(study: Study, table: pd.DataFrame) -> list[Finding]:
    return judge(table)


def judge(table: pd.DataFrame) -> list[Finding]:
    """Findings from a table with `stimulus`, `seed`, `letter_height` and the columns of `measures`."""
    found = [
        rules.mean("character error rate that the denoiser adds", table, "errors_added", unit="share", margin=MARGIN),
        rules.mean("... in the last frame", table, "errors_added_last", unit="share", margin=MARGIN),
        rules.mean("correlation of letters that the denoiser takes away", table, "letters_lost", unit="", margin=MARGIN),
        rules.mean("... in the last frame", table, "letters_lost_last", unit="", margin=MARGIN),
        rules.mean("letters dropped", table, "dropped", unit="share", margin=MARGIN),
        rules.mean("correlation of letters that the autoencoder leaves", table, "letters_own", unit="", null=None),
    ]
    for height, group in table.groupby("letter_height"):
        what = f"correlation that the denoiser takes away, capitals of {height:.0f} px"
        found.append(rules.mean(what, group, "letters_lost", unit="", margin=MARGIN))
    return [f for f in found if f.n_images]  # error rates are missing where nothing was read by machine


def panels(study: Study, table: pd.DataFrame) -> list[Panel]:
    lost = by_frame(table, "letters_by_frame")
    out = [Panel("Correlation of letters lost", lost, "frame", "value", "", "curve", "frame", "beyond the autoencoder's")]
    if "errors_by_frame" in table and table["errors_by_frame"].notna().any():
        errors = by_frame(table.dropna(subset=["errors_by_frame"]), "errors_by_frame")
        out.append(Panel("Character errors added", errors, "frame", "value", "", "curve", "frame", "beyond the autoencoder's"))
    kinds = table.groupby(["letter_height", "font"])["letters_lost"].mean().reset_index()
    title = "Correlation lost, by sign"
    return [*out, Panel(title, kinds, "letter_height", "letters_lost", "font", "plane", "height of a capital, px")]


def pictures(study: Study, table: pd.DataFrame) -> list[Shown]:
    return beside_inputs(study, table, "letters_lost", high_is_worse=True)


PROBE = Probe(
    name="legibility",
    card="The model cannot render legible text.",
    question="Does text that is in the picture stay legible in the clip, beyond what the autoencoder spoils?",
    stimuli=stimuli,
    plan=plan,
    measure=measure,
    audit=audit,
    findings=findings,
    panels=panels,
    pictures=pictures,
    extra="ocr",
    modules=("rapidocr", "onnxruntime", "rapidfuzz"),
    options={"heights": HEIGHTS, "contrasts": CONTRASTS, "ocr": True},
    quick_options={"contrasts": CONTRASTS[:1]},
)


def _without_last_letter(plate: Plate) -> np.ndarray:
    picture = plate.image.copy()
    left, top, right, bottom = plate.boxes[-1]
    picture[top:bottom, left - 1 : right + 1] = 0.5 * (1 + plate.contrast)
    return picture
