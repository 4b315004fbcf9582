"""How often does nothing move, or nothing but a slow pan, and can the motion bucket change that?

    result = svdlab.probes.run("stillness", pipe, "results/limitations", seeds=4)

A clip is *still* where neither camera nor subject travels more than STILL_TRAVEL of the frame's width from its first frame to
its last, and a *slow pan* where only the camera does, by less than SLOW_TRAVEL. Travel is net: what only changes its shape
counts as still, so look at the examples. A third of the camera's path counts, so a pan there and back is motion.

SUBJECT_AREA was chosen on 955 clips of the organism, labelled by its ground-truth tracker: of those that stand still 87 %
are classified still (56 % without the threshold), of those that move 4.9 % (0.4 %). Smaller subjects that move alone are
missed: a square of 2 px that crosses 64 px is measured as 0.1 % of the frame, one of 3 px as 1.1 %.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from svdlab.measure import motion
from svdlab.probes.probe import Check, Graph, Probe, Study, most
from svdlab.probes.stimuli import panned, still
from svdlab.stats.effects import Effect, difference, share

STILL_TRAVEL = 3.0  # % of the frame's width over the clip: 31 px of 1024, 2 px of 64
SUBJECT_AREA = 0.01  # of the frame, in the mean over the clip: object_area of motion.summary
SLOW_TRAVEL = 10.0  # %: a camera that takes over ten clips to cross the image
MARGIN = 0.15  # share of clips
DARK = 0.3  # mean grey below which an image is called dark
BY = "motion_bucket_id"


class Stillness(Probe):
    """Motion of every clip, with the motion bucket swept."""

    name = "stillness"
    card = "The model may generate videos without motion, or very slow camera pans."
    question = "How often does nothing move, or nothing but a slow pan, and can the motion bucket change that?"
    axes = {BY: (40, 127, 200)}
    quick = {BY: (127, 200)}
    n_images = 24
    graphs = (Graph("Clips without motion", BY, ("still", "slow_pan"), "share of clips", "motion bucket", kind="bars"),)
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
        if unclear := int((~clips["judged"]).sum()):
            study.notes.append(f"{unclear} of {len(clips)} clips have no class: the motion instrument abstained.")
        return findings(clips)


def findings(clips: pd.DataFrame) -> Iterator[Effect]:
    """Of a table from `classify` with `stimulus`, `seed`, `motion_bucket_id` and `dark`."""
    yield share("still", "{} of clips are still", clips, margin=MARGIN)
    yield share("slow_pan", "{} of clips have nothing but a slow pan", clips, margin=MARGIN)
    if clips["dark"].nunique() == 2:
        dark = f"{{}} of clips of dark images (mean grey below {DARK}) are still"
        yield share("still_dark", dark, clips[clips["dark"]], "still", margin=MARGIN)
        yield share("still_other", "{} of clips of other images are still", clips[~clips["dark"]], "still", margin=MARGIN)
    low, high = clips[BY].agg(["min", "max"])
    if low < high:
        what, margin = f"share of still clips, bucket {high} minus {low}", MARGIN
        yield difference("still_by_bucket", what, clips, "still", by=BY, unit="share", margin=margin)
        what = f"travel of camera or subject, bucket {high} minus {low}"
        yield difference("travel_by_bucket", what, clips, "travel", by=BY, unit="% of width")


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
