"""How often does nothing move, or nothing but a slow pan, and can the motion bucket get the model out of it?

    >>> result = svdlab.probes.run("stillness", pipe, "results/limitations", seeds=4)

A clip is *still* where neither camera nor subject travels more than STILL_TRAVEL of the frame's width from its first frame
to its last, and a *slow pan* where only the camera does, and by less than SLOW_TRAVEL. Travel is net: what trembles about
its place has not gone anywhere (a third of the camera's path counts, so that one that comes back is not called still).
What only changes its shape where it stands does not travel either, and counts as still: look at the typical and worst clips.

A subject counts from SUBJECT_AREA of the frame on, as motion sees it: a square of 3 px that crosses 64x64 px counts as 1.1 %,
one of 2 px as 0.1 %. What is smaller and moves alone is missed. Generated clips that stand still tremble in specks (0.3 % of
the frame, at the median of 254 clips of the organism), and these are no subject. Of those 254, which a ruler that knows the
scene says stand still, 87 % are called still with that floor and 56 % without; of 701 that the ruler says move, 4.9 %
and 0.4 %. The floor was chosen on those clips.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from svdlab.measure import motion
from svdlab.probes import controls
from svdlab.probes import findings as rules
from svdlab.probes.base import Check, Panel, Probe, Study
from svdlab.probes.findings import Finding
from svdlab.probes.stimuli import Stimuli

STILL_TRAVEL = 3.0  # % of the frame's width over the clip: 31 px of 1024, 2 px of 64
SUBJECT_AREA = 0.01  # of the frame, in the mean over the clip: object_area of motion.summary
SLOW_TRAVEL = 10.0  # % : a camera that takes over ten clips to cross the picture
MARGIN = 0.15  # share of clips below which "it stands still" counts as none
DARK = 0.3  # mean grey below which a picture is called dark
TRUE_PAN = 1.0  # px a frame, at a width of 64; larger frames in proportion
PAN_ERROR = 0.25  # of the true speed that the instrument may be wrong by


def classify(table: pd.DataFrame) -> pd.DataFrame:
    """A table of clips with the columns of `motion.summary`, `num_frames`, `width` and `height`, with `camera_travel`,
    `object_travel` and `travel`, the larger (% of the frame's width over the clip), `still`, `slow_pan`, `judged` added.

    >>> classify(results)[["still", "slow_pan", "camera_travel", "object_travel"]]
    """
    pairs = table["num_frames"] - 1
    reach = [_mean_radius(h, w) for h, w in zip(table["height"], table["width"], strict=True)]
    net = np.hypot(table["pan_px"], table["tilt_px"]) + reach * (
        table["zoom_pct"].abs() / 100 + np.radians(table["roll_deg"].abs())
    )
    percent = 100 * pairs / table["width"]
    camera = np.maximum(net, table["camera_px"] / 3) * percent
    is_subject = table["object_area"] >= SUBJECT_AREA
    subject = pd.Series(np.hypot(table["object_dx"], table["object_dy"]) * percent).where(is_subject, 0.0)
    judged = ~table["abstained"].astype(bool) & np.isfinite(camera)
    rests = subject < STILL_TRAVEL
    still = (camera < STILL_TRAVEL) & rests
    slow = (camera >= STILL_TRAVEL) & (camera < SLOW_TRAVEL) & rests
    return table.assign(
        camera_travel=camera,
        object_travel=subject,
        travel=np.maximum(camera, subject),
        judged=judged,
        still=still.where(judged).astype(object),
        slow_pan=slow.where(judged).astype(object),
    )


def measures(frames: np.ndarray) -> dict[str, Any]:
    """One clip's row for `classify`, from its frames "f h w c"."""
    return {
        **motion.summary(frames),
        "num_frames": len(frames),
        "height": frames.shape[1],
        "width": frames.shape[2],
    }


def stimuli(source: str, quick: bool) -> Stimuli:
    return Stimuli.of(source, 12 if quick else 24)


def plan(study: Study) -> pd.DataFrame:
    return study.grid(motion_bucket_id=list(study.options["motion_bucket_id"]))


def measure(study: Study) -> pd.DataFrame:
    table = classify(study.sweep(study.plan))
    grey = {name: float(study.stimuli.array(name).mean()) for name in study.stimuli.names}
    return table.assign(brightness=table["stimulus"].map(grey), dark=table["stimulus"].map(grey) < DARK)


def audit(study: Study) -> list[Check]:
    """Each stimulus, standing still and under a known pan, through the autoencoder: can the instrument tell on it?"""
    width = study.size[1]
    px = TRUE_PAN * width / 64
    rows = []
    for name in study.stimuli.names:
        picture = study.stimuli.array(name)
        rests = controls.through_autoencoder(study.pipe, controls.still(picture))
        moves = controls.through_autoencoder(study.pipe, controls.panned(picture, px=px))
        for what, clip in (("still", rests), ("pan", moves)):
            rows.append({"stimulus": name, "control": what, **measures(clip)})
    table = classify(pd.DataFrame(rows))
    rest, pan = (table[table["control"] == c].set_index("stimulus") for c in ("still", "pan"))
    stands = rest["still"].eq(True)
    travels = pan["still"].eq(False) & ((pan["pan_px"] - px).abs() <= PAN_ERROR * px)
    readable = stands & travels
    study.known["readable"] = set(readable[readable].index)
    if (~readable).any():
        names = ", ".join(readable[~readable].index)
        study.notes.append(f"{int((~readable).sum())} pictures on which motion cannot be told are left out: {names}.")
    n = len(rest)
    error = float((pan["pan_px"][readable] - px).abs().median() / px) if readable.any() else math.nan
    return [
        Check(
            "a still picture is called still",
            f"in at least half of {n} pictures",
            f"{int(stands.sum())}",
            2 * stands.sum() >= n,
        ),
        Check(
            f"a pan of {px:g} px a frame is seen, within {PAN_ERROR:.0%}",
            f"in at least half of {n} pictures",
            f"{int(travels.sum())}, median error {error:.1%}",
            bool(2 * travels.sum() >= n),
        ),
    ]


def findings(study: Study, table: pd.DataFrame) -> list[Finding]:
    seen = table[table["stimulus"].isin(study.known.get("readable", set(table["stimulus"])))]
    unclear = int((~seen["judged"]).sum())
    if unclear:
        study.notes.append(f"{unclear} of {len(seen)} clips could not be judged (the motion instrument abstained).")
    return judge(seen)


def judge(seen: pd.DataFrame) -> list[Finding]:
    """Findings from a classified table with `stimulus`, `seed`, `motion_bucket_id` and `dark`."""
    buckets = sorted(seen["motion_bucket_id"].unique())
    found = [
        rules.share("clips in which nothing moves", seen, "still", margin=MARGIN),
        rules.share("clips with nothing but a slow pan", seen, "slow_pan", margin=MARGIN),
    ]
    for dark, name in ((True, "dark"), (False, "other")):
        group = seen[seen["dark"] == dark]
        if 0 < len(group) < len(seen):
            what = f"nothing moves, {name} pictures (mean grey {'below' if dark else 'from'} {DARK:g})"
            found.append(rules.share(what, group, "still", margin=MARGIN))
    if len(buckets) > 1:
        low, high = buckets[0], buckets[-1]
        numeric = seen.assign(still=pd.to_numeric(seen["still"]))
        ends = dict(by="motion_bucket_id", a=high, b=low)
        what = f"share of still clips, bucket {high} less {low}"
        found.append(rules.difference(what, numeric, "still", unit="share", margin=MARGIN, **ends))
        what = f"travel of camera or subject, bucket {high} less {low}"
        found.append(rules.difference(what, seen, "travel", unit="% of width", **ends))
    return found


def verdict(study: Study, found: list[Finding]) -> str:
    by_bucket = [f for f in found if f.what.startswith("share of still clips")]
    bucket = f" The bucket: {by_bucket[0].sentence}" if by_bucket else ""
    return f"{rules.capital(found[0].sentence)}{bucket}"


def panels(study: Study, table: pd.DataFrame) -> list[Panel]:
    rows = []
    for bucket, group in table.groupby("motion_bucket_id"):
        for column, name in (("still", "nothing moves"), ("slow_pan", "slow pan only")):
            f = rules.share(name, group, column)
            rows.append({"motion_bucket_id": bucket, "share": f.value, "low": f.low, "high": f.high, "kind": name})
    shares = Panel(
        title="Clips without motion",
        table=pd.DataFrame(rows),
        x="motion_bucket_id",
        y="share",
        by="kind",
        kind="bars",
        x_label="motion bucket",
        y_label="share of clips",
    )
    return [shares]


PROBE = Probe(
    name="stillness",
    card="The model may generate videos without motion, or very slow camera pans.",
    question="How often does nothing move, or nothing but a slow pan, and can the motion bucket change that?",
    stimuli=stimuli,
    plan=plan,
    measure=measure,
    audit=audit,
    findings=findings,
    verdict=verdict,
    panels=panels,
    worst=("travel", False),
    options={"motion_bucket_id": (40, 127, 200)},
    quick_options={"motion_bucket_id": (127, 200)},
)


def _mean_radius(height: float, width: float) -> float:
    """Mean distance of a place from the centre, px: what a zoom by a factor of e moves the mean place."""
    y, x = (np.linspace(-0.5, 0.5, 33) * side for side in (height, width))
    return float(np.hypot(x[None, :], y[:, None]).mean())
