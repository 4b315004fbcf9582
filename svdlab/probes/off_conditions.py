"""What happens away from the conditions that a checkpoint was fine-tuned at: quality and motion over fps and motion bucket.

    result = svdlab.probes.run("off_conditions", pipe, "results/limitations", fps=(4, 7, 12, 24))

The centre is the study's own fps and bucket (fps 7, which is fps_id 6, and bucket 127: SVD 1.1's fixed conditions). Every
other cell is compared with it image by image, on the same noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np
import pandas as pd

from svdlab.measure import fidelity, motion
from svdlab.probes.probe import Check, Graph, Probe, Study, above, below, near
from svdlab.probes.stimuli import blurred, panned, still
from svdlab.stats.effects import EFFECT, EQUIVALENT, Effect, descriptive, difference

# column -> (in words, unit, margin: a change of the mean that counts as none)
QUALITY = {
    "blur_last": ("blur of the last frame", "on a scale of 1", 0.03),
    "drift_colour_last": ("colour drift of the last frame", "RGB distance", 0.02),
    "warp_error": ("error after motion is undone", "rms, of 1", 0.01),
}
DRAWN = {"flow_px": ("speed", "px/frame", None), **QUALITY}
BLUR, LEAST_RISE = 2.0, 0.05  # of the audit: sigma in px, and the rise of blur_effect that it must cause


class OffConditions(Probe):
    """Fidelity and speed of every clip, with fps and motion bucket swept."""

    name = "off_conditions"
    card = "Performance outside of the fixed conditioning settings (6FPS and Motion Bucket Id 127) may vary."
    question = "How do quality and motion change over the whole plane of fps and motion bucket?"
    axes = {"fps": (7, 12, 24), "motion_bucket_id": (40, 127, 200)}
    quick = {"fps": (7, 14), "motion_bucket_id": (127, 200)}
    graphs = tuple(
        Graph(f"{what.capitalize()}, {unit}", "motion_bucket_id", column, "fps", "motion bucket", by="fps", kind="plane")
        for column, (what, unit, _) in DRAWN.items()
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
        table = study.sweep()
        return table.assign(centre=at_centre(table, study.conditions.fps, study.conditions.motion_bucket_id))

    def findings(self, study: Study, clips: pd.DataFrame) -> Iterator[Effect]:
        return findings(clips)

    def verdict(self, study: Study, found: Mapping[str, Effect]) -> str:
        """What changes, what does not, and what is open."""
        named = {EFFECT: "changed", EQUIVALENT: EQUIVALENT}
        groups: dict[str, list[str]] = {}
        for column, (what, *_) in QUALITY.items():
            groups.setdefault(named.get(found[column].verdict if column in found else "", "inconclusive"), []).append(what)
        parts = "; ".join(f"{group}: {', '.join(names)}" for group, names in groups.items())
        c = study.conditions
        return f"Away from fps {c.fps} and bucket {c.motion_bucket_id}: {parts}. {super().verdict(study, found)}"


def findings(clips: pd.DataFrame) -> Iterator[Effect]:
    """Of a table with `stimulus`, `seed`, `centre`, `fps`, `motion_bucket_id` and the measures."""
    others = clips[~clips["centre"]]
    minus_centre = partial(difference, by="centre", levels=(False, True))
    if 0 < len(others) < len(clips):
        for column, (what, unit, margin) in QUALITY.items():
            yield minus_centre(column, f"{what}, all other cells minus the centre", clips, unit=unit, margin=margin)
        for column, (what, unit, _) in QUALITY.items():
            cells = others.groupby(["fps", "motion_bucket_id"], as_index=False)[column].mean()
            fps, bucket = cells.loc[cells[column].idxmax(), ["fps", "motion_bucket_id"]]
            pair = clips[clips["centre"] | ((clips["fps"] == fps) & (clips["motion_bucket_id"] == bucket))]
            what = f"{what}, highest cell (fps {fps:g}, bucket {bucket:g}; selected) minus the centre"
            yield descriptive(minus_centre(f"{column}_worst", what, pair, column, unit=unit))
    for axis in ("fps", "motion_bucket_id"):
        low, high = clips[axis].agg(["min", "max"])
        if low < high:
            what = f"speed, {axis} {high:g} minus {low:g}"
            yield difference(f"speed_{axis}", what, clips, "flow_px", by=axis, unit="px/frame")


def at_centre(table: pd.DataFrame, fps: int, bucket: int) -> pd.Series:
    return (table["fps"] == fps) & (table["motion_bucket_id"] == bucket)
