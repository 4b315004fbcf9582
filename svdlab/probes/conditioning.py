"""The conditions: does anything move, and what happens away from those that a checkpoint was fine-tuned at?

    result = svdlab.probes.run("stillness", pipe, "results/limitations", seeds=4)
    result = svdlab.probes.run("off_conditions", pipe, "results/limitations", fps=(4, 7, 12, 24))

Stillness sweeps the motion bucket. A clip is *still* where neither camera nor subject travels more than STILL_TRAVEL of the
frame's width from its first frame to its last, and a *slow pan* where only the camera does, by less than SLOW_TRAVEL. Travel
is net: what only changes its shape counts as still, so look at the examples. A third of the camera's path counts, so a pan
there and back is motion. SUBJECT_AREA was chosen on 955 clips of the organism, labelled by its ground-truth tracker: of those
that stand still 87 % are classified still (56 % without the threshold), of those that move 4.9 % (0.4 %). Smaller subjects
that move alone are missed: a square of 2 px that crosses 64 px is measured as 0.1 % of the frame, one of 3 px as 1.1 %.

OffConditions sweeps fps and bucket. Its centre is the study's own fps and bucket (fps 7, which is fps_id 6, and bucket 127:
SVD 1.1's fixed conditions). Every other cell is compared with it image by image, on the same noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from svdlab.measure import fidelity, motion
from svdlab.probes.probe import Check, Graph, Probe, Study, above, below, most, near
from svdlab.probes.stimuli import blurred, panned, still
from svdlab.stats.effects import EFFECT, EQUIVALENT, Effect, cells, difference, share

STILL_TRAVEL = 3.0  # % of the frame's width over the clip: 31 px of 1024, 2 px of 64
SUBJECT_AREA = 0.01  # of the frame, in the mean over the clip: object_area of motion.summary
SLOW_TRAVEL = 10.0  # %: a camera that takes over ten clips to cross the image
STILL_MARGIN = 0.15  # share of clips
DARK = 0.3  # mean grey below which an image is called dark
BUCKET = "motion_bucket_id"
# column -> (in words, unit, margin: a change of the mean that counts as none)
QUALITY = {
    "blur_last": ("blur of the last frame", "on a scale of 1", 0.03),
    "drift_colour_last": ("colour drift of the last frame", "RGB distance", 0.02),
    "warp_error": ("error after motion is undone", "rms, of 1", 0.01),
}
BLUR, LEAST_RISE = 2.0, 0.05  # of the audit: sigma in px, and the rise of blur_effect that it must cause


class Stillness(Probe):
    """Motion of every clip, with the motion bucket swept."""

    name = "stillness"
    card = "The model may generate videos without motion, or very slow camera pans."
    question = "How often does nothing move, or nothing but a slow pan, and can the motion bucket change that?"
    axes = {BUCKET: (40, 127, 200)}
    quick = {BUCKET: (127, 200)}
    n_images = 24
    graphs = (Graph("Clips without motion", BUCKET, ("still", "slow_pan"), "share of clips", "motion bucket", kind="bars"),)
    worst = "-travel"
    headline = ("still", "still_by_bucket")

    def audit(self, study: Study) -> list[Check]:
        """Each image at rest and under a known pan, after the autoencoder: can the instrument tell them apart?"""
        px = study.width / 64
        rest, pan = map(classify, study.through(measures, still, partial(panned, px=px)))
        rests, seen = rest["still"].eq(True), pan["still"].eq(False) & ((pan["pan_px"] - px).abs() <= 0.25 * px)
        study.keep(rests & seen, "on which motion cannot be measured")
        pans = most(f"a pan of {px:g} px/frame is measured within 25 %", seen)
        return [most("a still image is reported still", rests), pans]

    def measure(self, study: Study) -> pd.DataFrame:
        grey = study.each(np.mean)
        return classify(study.sweep()).assign(dark=lambda t: t["stimulus"].map(grey) < DARK)

    def findings(self, study: Study, clips: pd.DataFrame) -> Iterator[Effect]:
        """Of a table from `classify` with `stimulus`, `seed`, `motion_bucket_id` and `dark`."""
        if unclear := int((~clips["judged"]).sum()):
            study.notes.append(f"{unclear} of {len(clips)} clips have no class: the motion instrument abstained.")
        stills = partial(share, column="still", margin=STILL_MARGIN)
        yield stills("still", "{} of clips are still", clips)
        yield share("slow_pan", "{} of clips have nothing but a slow pan", clips, margin=STILL_MARGIN)
        if clips["dark"].nunique() == 2:
            dark = f"{{}} of clips of dark images (mean grey below {DARK}) are still"
            yield stills("still_dark", dark, clips[clips["dark"]])
            yield stills("still_other", "{} of clips of other images are still", clips[~clips["dark"]])
        low, high = clips[BUCKET].agg(["min", "max"])
        if low < high:
            by_bucket, ends = partial(difference, by=BUCKET), f"bucket {high} minus {low}"
            what = f"share of still clips, {ends}"
            yield by_bucket("still_by_bucket", what, clips, "still", unit="share", margin=STILL_MARGIN)
            yield by_bucket("travel_by_bucket", f"travel of camera or subject, {ends}", clips, "travel", unit="% of width")


def classify(table: pd.DataFrame) -> pd.DataFrame:
    """A table of clips with the columns of `motion.summary`, `num_frames`, `width` and `height`, with `camera_travel`,
    `object_travel` and `travel`, the larger (% of the frame's width over the clip), `still`, `slow_pan`, `judged` added.

    >>> seen = svdlab.sweep(pipe, plan, out, image="scene-27", measure="motion", progress=False)
    >>> classify(seen)[["still", "slow_pan", "camera_travel", "object_travel"]]
    """
    turn = np.array([_mean_radius(h, w) for h, w in zip(table["height"], table["width"], strict=True)])
    turn = turn * (table["zoom_pct"].abs() / 100 + np.radians(table["roll_deg"].abs()))
    percent = 100 * (table["num_frames"] - 1) / table["width"]
    camera = np.maximum(np.hypot(table["pan_px"], table["tilt_px"]) + turn, table["camera_px"] / 3) * percent
    subject = (percent * np.hypot(table["object_dx"], table["object_dy"])).where(table["object_area"] >= SUBJECT_AREA, 0.0)
    judged = ~table["abstained"].astype(bool) & np.isfinite(camera)
    rests = subject < STILL_TRAVEL
    return table.assign(
        camera_travel=camera,
        object_travel=subject,
        travel=np.maximum(camera, subject),
        judged=judged,
        still=((camera < STILL_TRAVEL) & rests).astype(object).where(judged),
        slow_pan=((camera >= STILL_TRAVEL) & (camera < SLOW_TRAVEL) & rests).astype(object).where(judged),
    )


def measures(frames: np.ndarray) -> dict[str, Any]:
    """One clip's row for `classify`, from its frames "f h w c"."""
    f, h, w, _ = frames.shape
    return {**motion.summary(frames), "num_frames": f, "height": h, "width": w}


def _mean_radius(height: float, width: float) -> float:
    """Mean distance of a place from the centre, px: what a zoom by a factor of e moves the mean place."""
    y, x = (np.linspace(-0.5, 0.5, 33) * side for side in (height, width))
    return float(np.hypot(x[None, :], y[:, None]).mean())


class OffConditions(Probe):
    """Fidelity and speed of every clip, with fps and motion bucket swept."""

    name = "off_conditions"
    card = "Performance outside of the fixed conditioning settings (6FPS and Motion Bucket Id 127) may vary."
    question = "How do quality and motion change over the whole plane of fps and motion bucket?"
    axes = {"fps": (7, 12, 24), BUCKET: (40, 127, 200)}
    quick = {"fps": (7, 14), BUCKET: (127, 200)}
    graphs = tuple(
        Graph(what.capitalize(), BUCKET, column, unit, "motion bucket", by="fps")
        for column, (what, unit, _) in ({"flow_px": ("speed", "px/frame", None)} | QUALITY).items()
    )
    worst = "warp_error"

    def plan(self, study: Study) -> pd.DataFrame:
        c = study.conditions
        return study.grid(**{axis: sorted({*study.options[axis], getattr(c, axis)}) for axis in self.axes})

    def audit(self, study: Study) -> list[Check]:
        """Each image at rest after the autoencoder, blurred by a known amount, panned by a known amount."""
        px = study.width / 64

        def at_rest(frames: np.ndarray) -> dict[str, float]:
            sharp, soft = (fidelity.decay(f)["blur_last"] for f in (frames, blurred(frames, BLUR)))
            return {"drift": fidelity.drift(frames, frames[0])["drift_colour_last"], "rise": soft - sharp}

        rest, limit = study.through(at_rest, still)[0], QUALITY["drift_colour_last"][2]
        pan = study.each(lambda image: motion.summary(panned(image, px=px))["pan_px"])
        return [
            below("colours hold in a still image after the autoencoder: drift", rest["drift"], limit),
            above(f"a blur of {BLUR:g} px raises the measured blur, median", rest["rise"].median(), LEAST_RISE),
            near(f"a pan of {px:g} px/frame is measured", pan, px, within=0.2),
        ]

    def measure(self, study: Study) -> pd.DataFrame:
        table, c = study.sweep(), study.conditions
        return table.assign(centre=(table["fps"] == c.fps) & (table[BUCKET] == c.motion_bucket_id))

    def findings(self, study: Study, clips: pd.DataFrame) -> Iterator[Effect]:
        """Of a table with `stimulus`, `seed`, `centre`, `fps`, `motion_bucket_id` and the measures: each cell minus the
        centre. An average of all cells would hide effects of opposite sign."""
        if clips["centre"].nunique() == 2:
            centre = {axis: clips.loc[clips["centre"], axis].iloc[0] for axis in self.axes}
            for column, (what, unit, margin) in QUALITY.items():
                yield from cells(column, what, clips, reference=centre, unit=unit, margin=margin)
        for axis in self.axes:
            low, high = clips[axis].agg(["min", "max"])
            if low < high:
                what = f"speed, {axis} {high:g} minus {low:g}"
                yield difference(f"speed_{axis}", what, clips, "flow_px", by=axis, unit="px/frame")

    def verdict(self, found: Mapping[str, Effect]) -> str:
        """For each measure of quality, in how many cells it differs from the centre, and in how many it does not."""
        parts = []
        for column, (what, _, _) in QUALITY.items():
            own = [e for key, e in found.items() if key.startswith(f"{column}, ")]
            differ, same = (sum(e.verdict == verdict for e in own) for verdict in (EFFECT, EQUIVALENT))
            if own:
                parts.append(f"{what}: of {len(own)} cells {differ} differ from the centre, {same} are equivalent to it")
        return f"{'; '.join(parts).capitalize()}." if parts else "There is no other cell than the centre."
