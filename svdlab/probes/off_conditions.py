"""What happens away from the conditions that a checkpoint was fine-tuned at: quality and motion over the fps-bucket plane.

    >>> result = svdlab.probes.run("off_conditions", pipe, "results/limitations", fps=(4, 7, 12, 24))

The centre is the study's own fps and bucket (fps 7, which is fps_id 6, and bucket 127: SVD 1.1's fixed conditions). Every
other cell is compared with it picture by picture, on the same noise.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from svdlab.measure import fidelity, motion
from svdlab.probes import controls
from svdlab.probes import findings as rules
from svdlab.probes.base import Check, Panel, Probe, Study
from svdlab.probes.findings import Finding

# column -> (in words, unit, margin: a change of the mean that counts as none)
QUALITY = {
    "blur_last": ("blur of the last frame", "on a scale of 1", 0.03),
    "drift_colour_last": ("colour drift of the last frame", "RGB distance", 0.02),
    "warp_error": ("error after motion is undone", "rms, of 1", 0.01),
}
BLUR, PAN_WIDTH = 2.0, 64  # of the positive controls: sigma in px, and the width at which a pan is 1 px a frame
LEAST_RISE = 0.05  # of blur_effect, that so much blur must raise it by at least


def plan(study: Study) -> pd.DataFrame:
    c = study.conditions
    fps, buckets = (sorted({*study.options[n], getattr(c, n)}) for n in ("fps", "motion_bucket_id"))
    return study.grid(fps=fps, motion_bucket_id=buckets)


def measure(study: Study) -> pd.DataFrame:
    table = study.sweep(study.plan)
    return table.assign(centre=at_centre(table, study.conditions.fps, study.conditions.motion_bucket_id))


def at_centre(table: pd.DataFrame, fps: int, bucket: int) -> pd.Series:
    return (table["fps"] == fps) & (table["motion_bucket_id"] == bucket)


def audit(study: Study) -> list[Check]:
    """Each picture through the autoencoder: standing still, blurred by a known amount, panned by a known amount."""
    px = study.size[1] / PAN_WIDTH
    drift, rise, speed = [], [], []
    for name in study.stimuli.names:
        picture = study.stimuli.array(name)
        rest = controls.through_autoencoder(study.pipe, controls.still(picture))
        drift.append(fidelity.drift(rest, rest[0])["drift_colour_last"])
        sharp, soft = (fidelity.decay(f)["blur_last"] for f in (rest, controls.blurred(rest, BLUR)))
        rise.append(soft - sharp)
        speed.append(motion.summary(controls.panned(picture, px=px))["pan_px"] / px)
    n, seen = len(drift), [s for s in speed if np.isfinite(s)]
    colour = QUALITY["drift_colour_last"][2]
    true = float(np.median(seen)) if seen else float("nan")
    return [
        Check(
            "colours hold in a still picture after the autoencoder",
            f"drift below the margin of {colour}",
            f"{max(drift):.4f} at most",
            max(drift) < colour,
        ),
        Check(
            f"a blur of {BLUR:g} px is seen as blur",
            f"a rise of at least {LEAST_RISE}, median of {n} pictures",
            f"{float(np.median(rise)):.3f}",
            float(np.median(rise)) >= LEAST_RISE,
        ),
        Check(
            f"a pan of {px:g} px a frame is measured",
            "0.8 to 1.2 times that, median",
            f"{true:.2f} ({len(seen)} of {n} pictures judged)",
            0.8 <= true <= 1.2,
        ),
    ]


def findings(study: Study, table: pd.DataFrame) -> list[Finding]:
    return judge(table)


def judge(table: pd.DataFrame) -> list[Finding]:
    """Findings from a table with `centre`, `fps`, `motion_bucket_id` and the measures."""
    found = []
    for column, (what, unit, margin) in QUALITY.items():
        name = f"{what}, all other cells less the centre"
        found.append(rules.difference(name, table, column, by="centre", a=False, b=True, unit=unit, margin=margin))
    for column, (what, unit, margin) in QUALITY.items():
        fps, bucket = worst_cell(table, column)
        cell = table[(table["fps"] == fps) & (table["motion_bucket_id"] == bucket)]
        pair = pd.concat([cell, table[table["centre"]]])
        name = f"{what}, worst cell (fps {fps:g}, bucket {bucket:g}, picked for it) less the centre"
        worst = rules.difference(name, pair, column, by="centre", a=False, b=True, unit=unit, margin=margin)
        found.append(rules.uncorrected(worst))
    for condition in ("fps", "motion_bucket_id"):
        levels = sorted(table[condition].unique())
        if len(levels) > 1:
            what = f"speed, {condition} {levels[-1]:g} less {levels[0]:g}"
            ends = dict(by=condition, a=levels[-1], b=levels[0])
            found.append(rules.difference(what, table, "flow_px", unit="px/frame", **ends))
    return found


def worst_cell(table: pd.DataFrame, column: str) -> tuple[float, float]:
    """The cell off the centre whose mean is highest."""
    means = table[~table["centre"]].groupby(["fps", "motion_bucket_id"])[column].mean().reset_index()
    worst = means.sort_values(column).iloc[-1]
    return float(worst["fps"]), float(worst["motion_bucket_id"])


def verdict(study: Study, found: list[Finding]) -> str:
    c = study.conditions
    said: dict[str, list[str]] = {}
    for f in found[: len(QUALITY)]:
        word = {rules.FOUND: "changed", rules.NONE: "the same within the margin"}.get(f.kind, "cannot tell")
        said.setdefault(word, []).append(f.what.split(",")[0])
    parts = "; ".join(f"{word}: {', '.join(names)}" for word, names in said.items())
    return f"Away from fps {c.fps} and bucket {c.motion_bucket_id}: {parts}. {rules.capital(found[0].sentence)}"


def panels(study: Study, table: pd.DataFrame) -> list[Panel]:
    made = []
    names = {"flow_px": ("Speed", "px/frame"), **{k: (v[0].capitalize(), v[1]) for k, v in QUALITY.items()}}
    for column, (title, unit) in names.items():
        cells = table.groupby(["motion_bucket_id", "fps"])[column].mean().reset_index()
        made.append(
            Panel(title, cells, "motion_bucket_id", column, by="fps", kind="plane", x_label="motion bucket", y_label=unit)
        )
    return made


PROBE = Probe(
    name="off_conditions",
    card="Performance outside of the fixed conditioning settings (6FPS and Motion Bucket Id 127) may vary.",
    question="What do quality and motion do over the whole plane of fps and motion bucket?",
    plan=plan,
    measure=measure,
    audit=audit,
    findings=findings,
    verdict=verdict,
    panels=panels,
    worst=("warp_error", True),
    options={"fps": (7, 12, 24), "motion_bucket_id": (40, 127, 200)},
    quick_options={"fps": (7, 14), "motion_bucket_id": (127, 200)},
)
