"""How far is a clip from the picture that it began with, and who is to blame: an error budget, and what detail is kept.

    >>> result = svdlab.probes.run("realism", pipe, "results/limitations")
    >>> result.panels[0].table                           # error by stage and spatial frequency

Four stages lie between picture and video file: the *autoencoder* (the still picture encoded and decoded), the *denoiser*
(the clip against that), decoding in *chunks*, and the *mp4*. In frame 0, which shows the picture itself, each stage's error
is taken pixel by pixel. Later frames move, so there only what motion leaves alone is compared: the power of their detail by
frequency, sharpness and flicker. That detail is there does not prove that it is right.
"""

from __future__ import annotations

import json
import math
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from skimage.measure import blur_effect

from svdlab.measure import fidelity
from svdlab.measure.detail import BANDS, EMPTY, FINE, REGIONS, budget, decibels, power, seams
from svdlab.pipeline.generate import Clip
from svdlab.probes import controls
from svdlab.probes import findings as rules
from svdlab.probes.base import Check, Panel, Probe, Shown, Study
from svdlab.probes.findings import MEASURED, Finding
from svdlab.probes.shown import beside_inputs, bounded, by_frame

STAGES = ("autoencoder", "denoiser", "chunks", "mp4")
CENTRES = dict(zip(BANDS[1:], (1 / 64, 1 / 45, 1 / 23, 1 / 11, 1 / 3), strict=True))  # cycles per px, for the axis
CRF = 18  # of the mp4, as `svdlab.measure.video.write_preview` writes it
DETAIL_MARGIN = 1.0  # dB of fine detail: what a Gaussian blur of about 0.2 px costs
BLUR_MARGIN = 0.03  # of blur_effect, 0 to 1
FLICKER_MARGIN = 0.5  # grey levels from frame to frame: not seen
LEVELS = "grey levels of 255"
DOCTORED = 4  # pictures on which the audit tries the instrument itself
BLUR_FRAMES = 5  # of a clip: at full size each takes 0.4 s
FINE_BANDS = [BANDS.index(b) for b in FINE]


def measures(
    picture: np.ndarray, through: np.ndarray, whole: np.ndarray, chunked: np.ndarray, filed: np.ndarray, chunk: int
) -> dict[str, Any]:
    """The budget of one clip, a flat dict. All frames "f h w 3" in [0, 1].

    Args:
        picture: "h w 3", what the model was given.
        through: the autoencoder's own clip of the still picture.
        whole, chunked: the clip decoded in one piece, and `chunk` frames at a time.
        filed: the chunked clip, read back from its mp4.

    Keys: `mse_<stage>` of frame 0, and `mse_together` for what they do not explain singly (`mse_total` is their sum);
    `detail_<stage>` in dB, the fine detail (finer than 8 px a cycle) of all frames against the stage before, which sum to
    `detail_total`; `detail_fade`, last frame against first; `blur_input`, `blur_clip` (0 sharp to 1 blurred);
    `flicker_own` of the autoencoder's still clip, `flicker_clip`; `rms_chunks`, `rms_mp4` over all frames;
    `seam_height`; and as text for the graphs `parts` (`svdlab.measure.detail.budget`) and `detail_by_frame`.
    """
    first = {"input": picture, "autoencoder": through[0], "denoiser": whole[0], "chunks": chunked[0], "mp4": filed[0]}
    parts = budget(first)
    mse = parts.groupby("stage").mse.sum()
    levels = [_fine(picture[None]), *(_fine(clip) for clip in (through, whole, chunked, filed))]
    detail = [decibels(float(b.mean()), float(a.mean())) for a, b in pairwise(levels)]
    found: dict[str, Any] = {f"mse_{stage}": float(mse[stage]) for stage in (*STAGES, "together")}
    found["mse_total"] = float(np.square(filed[0].astype(np.float64) - picture).mean())
    found |= {f"detail_{stage}": db for stage, db in zip(STAGES, detail, strict=True)}
    found["detail_total"] = decibels(float(levels[-1].mean()), float(levels[0].mean()))
    found["detail_fade"] = decibels(float(levels[2][-1]), float(levels[2][0]))
    found["blur_input"] = float(blur_effect(picture, channel_axis=-1))
    looked_at = np.unique(np.linspace(0, len(whole) - 1, BLUR_FRAMES).round().astype(int))
    found["blur_clip"] = float(np.mean([blur_effect(f, channel_axis=-1) for f in whole[looked_at]]))
    found["flicker_own"] = fidelity.flicker(through)["flicker_brightness"]
    found["flicker_clip"] = fidelity.flicker(whole)["flicker_brightness"]
    found["rms_chunks"] = float(np.sqrt(np.square(chunked - whole).mean()))
    found["rms_mp4"] = float(np.sqrt(np.square(filed - chunked).mean()))
    found["seam_height"] = seams(whole, chunked, chunk)["seam_height"] if chunk < len(whole) else math.nan
    found["parts"] = parts[["stage", "band", "region", "mse"]].to_json(orient="values")
    found["detail_by_frame"] = json.dumps([round(decibels(float(p), float(levels[0].mean())), 3) for p in levels[2]])
    return found


def measure(study: Study) -> pd.DataFrame:
    chunk, pipe = study.options["decode_chunk_size"] or default_chunk(study), study.pipe

    def error(clip: Clip) -> dict[str, Any]:
        picture = np.asarray(clip.image, np.float32) / 255
        frames = clip.frames
        through = controls.through_autoencoder(pipe, controls.still(picture, len(frames)), clip.conditions.decode_chunk_size)
        chunked = controls.decode(pipe, clip.latents, chunk)
        return measures(picture, through, frames, chunked, through_mp4(chunked), chunk)

    table = study.sweep(study.plan, ("fidelity", error))
    return table.rename(columns={c: str(c).removeprefix("error_") for c in table if str(c).startswith("error_")})


def default_chunk(study: Study) -> int:
    """A third of what is decoded together: eight of 25 frames, as memory often asks for."""
    return max(1, (study.conditions.decode_chunk_size or 1) // 3)


def through_mp4(frames: np.ndarray) -> np.ndarray:
    """The frames, written as H.264 at CRF and read back; sides must be even."""
    from svdlab.measure.calibrate import degrade

    return degrade(frames, crf=CRF)


def audit(study: Study) -> list[Check]:
    """What is known of doctored clips of each stimulus: nothing done, noise, blur, flicker and seams of known size."""
    seen, names = (
        pd.DataFrame([_doctored(study.stimuli.array(n)) for n in study.stimuli.names[:DOCTORED]]),
        study.stimuli.names,
    )
    detail = pd.DataFrame({"input": [_fine(study.stimuli.array(n)[None])[0] for n in names]}, index=names)
    own = [controls.through_autoencoder(study.pipe, study.stimuli.array(n)[None]) for n in names]
    detail["through"] = [_fine(picture)[0] for picture in own]
    blank = detail.index[(detail < EMPTY).any(axis=1)]
    if len(blank):
        study.notes.append(
            f"{len(blank)} pictures have no fine detail to lose, in them or after the autoencoder: {', '.join(blank)}."
        )
    n = len(names)
    return [
        Check(
            "a still copy has no error, flicker or seam",
            "0",
            f"{seen['nothing'].max():.1g}",
            bool(seen["nothing"].max() < 1e-6),
        ),
        _near("noise of 0.02 is charged to its stage", seen["noise"], "of its size"),
        Check("... and to no other", "0", f"{seen['elsewhere'].max():.1g}", bool(seen["elsewhere"].max() < 1e-6)),
        _near("flicker of 0.01 is recovered", seen["flicker"], "of its size"),
        _near("seams of 0.02 are recovered", seen["seam"], "of their size"),
        Check(
            "a blur of 1 px takes fine detail away",
            "below -3 dB in every picture",
            f"{seen['blur'].max():.3g} dB at most",
            bool(seen["blur"].dropna().lt(-3).all()),
        ),
        Check(
            "pictures hold fine detail, also after the autoencoder",
            f"at least half of {n}",
            f"{n - len(blank)}",
            2 * (n - len(blank)) >= n,
        ),
    ]


def _doctored(picture: np.ndarray) -> dict[str, float]:
    """What is measured of clips that were spoilt by known amounts: ratios to what was done, or remains of nothing."""
    rng = np.random.default_rng(0)
    picture = (0.1 + 0.8 * picture).astype(np.float32)  # with room for what is added
    still = controls.still(picture, 6)
    noisy = still + rng.normal(0, 0.02, still.shape).astype(np.float32)
    flickering = still + np.where(np.arange(6) % 2, 0.01, -0.01)[:, None, None, None].astype(np.float32)
    stepped = still + 0.02 * (np.arange(6) >= 3)[:, None, None, None].astype(np.float32)
    soft = controls.blurred(still, 1.0)
    same = measures(picture, still, still, still, still, 3)
    noise = measures(picture, still, noisy, noisy, noisy, 3)
    other = measures(picture, still, flickering, stepped, stepped, 3)
    return {
        "nothing": max(same["mse_total"], abs(same["detail_total"]), same["flicker_clip"], same["seam_height"]),
        "noise": math.sqrt(noise["mse_denoiser"]) / 0.02,
        "elsewhere": noise["mse_autoencoder"] + noise["mse_chunks"] + noise["mse_mp4"],
        "flicker": other["flicker_clip"] / 0.04,  # second differences of -0.01, 0.01, -0.01 ... are 0.04
        "seam": measures(picture, still, still, stepped, stepped, 3)["seam_height"] / 0.02,
        "blur": measures(picture, still, soft, soft, soft, 3)["detail_denoiser"],
    }


def findings(study: Study, table: pd.DataFrame) -> list[Finding]:
    return judge(table)


def judge(table: pd.DataFrame) -> list[Finding]:
    """Findings from a table with `stimulus`, `seed` and the columns of `measures`."""
    seen = table.assign(
        blur=table["blur_clip"] - table["blur_input"],
        flicker=255 * (table["flicker_clip"] - table["flicker_own"]),
        **{name: 255 * table[name] for name in ("rms_chunks", "rms_mp4", "seam_height")},
    )
    what = "fine detail (finer than 8 px a cycle) of the video file against the input"
    found = [rules.mean(what, seen, "detail_total", unit="dB", margin=DETAIL_MARGIN)]
    for stage, name in zip(STAGES, ("the autoencoder's", "the denoiser's", "the chunks'", "the mp4's"), strict=True):
        found.append(rules.mean(f"of that, {name} part", seen, f"detail_{stage}", unit="dB", margin=DETAIL_MARGIN))
    parts = seen[[f"mse_{s}" for s in STAGES]].clip(lower=0)
    for stage in STAGES:
        part = seen.assign(part=seen[f"mse_{stage}"].clip(lower=0) / parts.sum(axis=1))
        what = f"of the stages' squared errors in frame 0, {stage}"
        found.append(bounded(rules.mean(what, part, "part", unit="share", null=None)))
    found += [
        rules.mean("blur of the clip (0 to 1) less that of the input", seen, "blur", unit="", margin=BLUR_MARGIN),
        rules.mean("flicker of the clip less the autoencoder's own", seen, "flicker", unit=LEVELS, margin=FLICKER_MARGIN),
        rules.mean("fine detail, last frame against first", seen, "detail_fade", unit="dB", margin=DETAIL_MARGIN),
        rules.mean("change by decoding in chunks", seen, "rms_chunks", unit=LEVELS, null=None),
        rules.mean("height of the seams between chunks", seen, "seam_height", unit=LEVELS, null=None),
        rules.mean("change by the mp4", seen, "rms_mp4", unit=LEVELS, null=None),
    ]
    return found


def verdict(study: Study, found: list[Finding]) -> str:
    parts = [f for f in found if f.kind == MEASURED and "squared errors in frame 0" in f.what]
    if not parts:
        return found[0].sentence
    most = max(parts, key=lambda f: f.value)
    return f"{found[0].sentence} {most.sentence[0].upper()}{most.sentence[1:]}"


def parts_of(table: pd.DataFrame) -> pd.DataFrame:
    """The budgets of all clips in one table: `stimulus`, `seed`, `stage`, `band`, `region`, `mse`."""
    rows = []
    for _, row in table.iterrows():
        one = pd.DataFrame(json.loads(row["parts"]), columns=["stage", "band", "region", "mse"])
        rows.append(one.assign(stimulus=row["stimulus"], seed=row.get("seed", 0)))
    return pd.concat(rows, ignore_index=True)


def panels(study: Study, table: pd.DataFrame) -> list[Panel]:
    parts = parts_of(table)
    parts = parts[parts["stage"].isin(STAGES)]
    by_band = parts.groupby(["stimulus", "seed", "stage", "band"]).mse.sum().groupby(["stage", "band"]).mean().reset_index()
    by_band = by_band[by_band["band"] != "mean"]
    by_band["frequency"] = by_band["band"].map(CENTRES)
    by_band["rms"] = 255 * np.sqrt(by_band["mse"].clip(lower=0))
    by_region = (
        parts.groupby(["stimulus", "seed", "stage", "region"]).mse.sum().groupby(["stage", "region"]).mean().reset_index()
    )
    by_region["share"] = by_region["mse"].clip(lower=0) / by_region["mse"].clip(lower=0).sum()
    detail = by_frame(table, "detail_by_frame")
    order = {s: i for i, s in enumerate(STAGES)}
    by_band = by_band.sort_values(["stage", "frequency"], key=lambda c: c.map(order) if c.name == "stage" else c)
    by_region["region"] = pd.Categorical(by_region["region"], REGIONS, ordered=True)
    by_region["stage"] = by_region["stage"].replace("autoencoder", "VAE")  # short enough to stand beside the colours
    by_region["stage"] = pd.Categorical(by_region["stage"], ("mp4", "chunks", "denoiser", "VAE"), ordered=True)
    return [
        Panel(
            "Error of frame 0 by spatial frequency",
            by_band,
            "frequency",
            "rms",
            "stage",
            "curve",
            "cycles per px",
            "grey levels",
        ),
        Panel("Where frame 0's squared error lies", by_region, "region", "share", "stage", "plane", " ", "share"),
        Panel("Fine detail against the input", detail, "frame", "value", "", "curve", "frame", "dB"),
    ]


def pictures(study: Study, table: pd.DataFrame) -> list[Shown]:
    return beside_inputs(study, table, "mse_total", high_is_worse=True)


PROBE = Probe(
    name="realism",
    card="The model does not achieve perfect photorealism.",
    question="How much of the picture's detail is lost or changed on the way to the video file, and by which stage?",
    plan=lambda study: study.grid(),
    measure=measure,
    audit=audit,
    findings=findings,
    verdict=verdict,
    panels=panels,
    pictures=pictures,
    options={"decode_chunk_size": None},
)


def _fine(frames: np.ndarray) -> np.ndarray:
    """Power of fine detail per frame "f"."""
    return power(frames)[:, FINE_BANDS].sum(1)


def _near(what: str, ratios: pd.Series, unit: str, within: float = 0.1) -> Check:
    worst = float(ratios.iloc[(ratios - 1).abs().argmax()])
    return Check(what, f"1 {unit}, within {within:.0%}", f"{worst:.3g} at worst", abs(worst - 1) <= within)
