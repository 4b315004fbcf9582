"""The conditions: does anything move, and what happens away from those that a checkpoint was fine-tuned at?

    result = svdlab.probes.run("stillness", pipe, "results/limitations", seeds=4)
    result = svdlab.probes.run("off_conditions", pipe, "results/limitations", fps=(4, 7, 12, 24))
    result = svdlab.probes.run("off_conditions", pipe_1_1, out, other="stabilityai/stable-video-diffusion-img2vid-xt")

Stillness sweeps the motion bucket. A clip is *still* where the camera moves the frame by less than STILL_TRAVEL of its width
from the first frame to the last, no subject travels that far, less than STILL_ACTIVITY of the frame moves by itself, and there
is no cut or fade; a *slow pan* where only the camera moves, by less than SLOW_TRAVEL. Travel is net; a third of the camera's
path counts, so a pan there and back is motion; what the autoencoder makes of a still image (`motion.noise_floor`) is no path.
STILL_ACTIVITY was chosen on 183 clips of the organism's first edition, labelled by its ground-truth tracker: of 31 that stand
still 23 are classified still (sprites that waver are not), of 152 that move none.

OffConditions sweeps fps and bucket. Its centre is the study's own fps and bucket (fps 7, which is fps_id 6, and bucket 127:
SVD 1.1's fixed conditions). Every other cell is compared with it image by image, on the same noise: as it is, and at equal
motion (`at_equal_motion`), since fast clips are blurred anyway. Given another checkpoint (SVD 1.0), it is swept at the same
conditions, and each cell's distance from the centre is compared with the other's.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from scipy import ndimage

from svdlab.measure import fidelity, motion
from svdlab.pipeline.checkpoints import load_pipeline
from svdlab.probes.probe import Check, Graph, Probe, Study, above, below, graded, most, near
from svdlab.probes.stimuli import FRAMES, blurred, fading, panned, still
from svdlab.stats import images_needed
from svdlab.stats.effects import EFFECT, EQUIVALENT, Effect, cells, difference, mean, share

STILL_TRAVEL = 3.0  # % of the frame's width over the clip: 31 px of 1024, 2 px of 64
STILL_ACTIVITY = 0.04  # of the frame: activity of motion.summary
SLOW_TRAVEL = 10.0  # %: a camera that takes over ten clips to cross the image
STILL_MARGIN = 0.15  # share of clips
STILL_TESTS = 9  # findings of stillness that are tested
DARK = 0.3  # mean grey below which an image is called dark
BUCKET = "motion_bucket_id"
MOTION = {  # column -> (in words, unit)
    "camera_travel": ("travel of the camera", "% of width"),
    "object_travel": ("travel of the subject", "% of width"),
    "activity": ("activity", "share"),
    "cuts": ("cuts and fades", "per clip"),
}
# column -> (in words, unit, margin: a change of the mean that counts as none)
QUALITY = {
    "blur_last": ("blur of the last frame", "on a scale of 1", 0.03),
    "drift_colour_last": ("colour drift of the last frame", "RGB distance", 0.02),
    "warp_error": ("error after motion is undone", "rms, of 1", 0.01),
}
BLUR, LEAST_RISE = 2.0, 0.05  # of the audit: sigma in px, and the rise of blur_effect that it must cause
NO_BLUR = 0.3  # px: a sigma that must not seem a loss


class Stillness(Probe):
    """Motion of every clip, with the motion bucket swept. Nothing is compared across images: each has seeds of its own."""

    name = "stillness"
    card = "The model may generate videos without motion, or very slow camera pans."
    question = "How often does nothing move, or nothing but a slow pan, and can the motion bucket change that?"
    axes = {BUCKET: (40, 127, 200)}
    quick = {BUCKET: (127, 200)}
    n_images = 40
    graphs = (
        Graph("Clips without motion", BUCKET, ("still", "slow_pan"), "share of clips", "motion bucket", kind="bars"),
        Graph("Travel", BUCKET, ("camera_travel", "object_travel"), "% of width", "motion bucket", kind="bars"),
        Graph("Activity", BUCKET, "activity", "share of the frame", "motion bucket", kind="bars"),
    )
    worst = "-travel"
    headline = ("still", "still_by_bucket")

    def needed(self, study: Study) -> Mapping[str, int]:
        least, grey = images_needed(STILL_MARGIN, tests=STILL_TESTS), study.each(np.mean)
        words = f"a verdict that no more than {100 * STILL_MARGIN:g} % of clips are still, where none is,"
        smaller = min(int((grey < DARK).sum()), int((grey >= DARK).sum()))
        return {words: least} | ({f"{words} of dark images and of others alone": 2 * least} if smaller else {})

    def audit(self, study: Study) -> list[Check]:
        """Each image at rest, under pans, and with a part that stirs, after the autoencoder, graded at the thresholds."""
        px = study.width / 64
        pan = lambda percent: partial(panned, px=percent / 100 * study.width / (FRAMES - 1))
        stir = lambda part: partial(stirred, part=part)
        makers = (still, partial(panned, px=px), pan(1.25 * STILL_TRAVEL), pan(0.5 * STILL_TRAVEL), stir(2.0), stir(0.5))
        rest, wide, *grades = map(classify, study.through(measures, *makers))
        rests, seen = rest["still"].eq(True), wide["still"].eq(False) & ((wide["pan_px"] - px).abs() <= 0.25 * px)
        study.keep(rests & seen, "on which motion cannot be measured")
        good = rests & seen
        pans, half, stirs, little = (t["still"][good] for t in grades)
        return [
            most("a still image is reported still", rests),
            most(f"a pan of {px:g} px/frame is measured within 25 %", seen),
            most(f"a pan of {1.25 * STILL_TRAVEL:.3g} % of the width is motion", pans.eq(False)),
            most(f"a pan of {0.5 * STILL_TRAVEL:.3g} % of the width counts as still", half.eq(True)),
            most(f"{200 * STILL_ACTIVITY:g} % of the frame that stir are motion", stirs.eq(False)),
            most(f"{50 * STILL_ACTIVITY:g} % of the frame that stir count as still", little.eq(True)),
        ]

    def measure(self, study: Study) -> pd.DataFrame:
        grey, table = study.each(np.mean), study.sweep()
        floor = study.through(motion.noise_floor, still)[0]  # of this checkpoint's autoencoder, on each image
        return classify(table.assign(floor=table["stimulus"].map(floor), dark=table["stimulus"].map(grey) < DARK))

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
            for column, (what, unit) in MOTION.items():
                yield by_bucket(f"{column}_by_bucket", f"{what}, {ends}", clips, column, unit=unit)
        for bucket, rows in clips.groupby(BUCKET):
            for column, (what, unit) in MOTION.items():
                yield mean(f"{column}_{bucket}", f"{what}, bucket {bucket}", rows, column, unit=unit, null=None)


def classify(table: pd.DataFrame) -> pd.DataFrame:
    """A table of clips with the columns of `motion.summary`, `num_frames` and `width`, with `camera_travel`, `object_travel`
    and `travel`, the larger (% of the frame's width over the clip), `still`, `slow_pan`, `judged` added. Fades are `cuts`.
    With a column `floor` (`motion.noise_floor`, px/frame), camera speed below that adds nothing to the camera's path.

    >>> seen = svdlab.sweep(pipe, plan, out, image="scene-27", measure="motion", progress=False)
    >>> classify(seen)[["still", "slow_pan", "camera_travel", "object_travel"]]
    """
    cuts, percent = table["cuts"] + table["fades"], 100 / table["width"]
    path = (table["camera_px"] - table.get("floor", 0.0)).clip(lower=0) * (table["num_frames"] - 1)
    camera = percent * np.maximum(table["net_px"], path / 3)
    subject, known = percent * table["travel"], ~table["abstained"].astype(bool) & np.isfinite(table["net_px"])
    judged = known | (cuts > 0)  # a clip with a cut is not still, whatever else it is
    rests = (subject < STILL_TRAVEL) & (table["activity"] < STILL_ACTIVITY) & (cuts == 0)
    return table.assign(
        cuts=cuts,
        camera_travel=camera,
        object_travel=subject,
        travel=np.maximum(camera, subject),
        judged=judged,
        still=((camera < STILL_TRAVEL) & rests).astype(object).where(judged),
        slow_pan=((camera >= STILL_TRAVEL) & (camera < SLOW_TRAVEL) & rests).astype(object).where(judged),
    )


def measures(frames: np.ndarray) -> dict[str, Any]:
    """One clip's row for `classify`, from its frames "f h w c"."""
    return {**motion.summary(frames), "num_frames": len(frames), "width": frames.shape[2]}


def stirred(image: np.ndarray, frames: int = FRAMES, *, part: float) -> np.ndarray:
    """The image at rest but for a square with most texture, whose content goes 1/32 of the width to the right and back;
    with the border that this uncovers it takes `part` times STILL_ACTIVITY of the frame."""
    clip, (h, w, _) = still(image, frames), image.shape
    by = max(1, w // 32)
    side = max(2, round(float(np.sqrt(part * STILL_ACTIVITY * h * w + by**2))) - by)
    half = side // 2
    texture = ndimage.uniform_filter(ndimage.gaussian_gradient_magnitude(image.mean(-1), 1), side)
    inner = texture[half : h - side + half, half + by : w - side + half]  # where the square and its shift lie in the frame
    y, x = np.unravel_index(int(inner.argmax()), inner.shape)
    x += by
    for t in range(1, frames, 2):
        clip[t, y : y + side, x : x + side] = image[y : y + side, x - by : x - by + side]
    return clip


class OffConditions(Probe):
    """Fidelity and speed of every clip, with fps and motion bucket swept. Cells share an image's own seeds."""

    name = "off_conditions"
    card = "Performance outside of the fixed conditioning settings (6FPS and Motion Bucket Id 127) may vary."
    question = "How do quality and motion change over the whole plane of fps and motion bucket?"
    axes = {"fps": (7, 12, 24), BUCKET: (40, 127, 200)}
    options = {"other": ""}  # a checkpoint to compare with: SVD 1.0, where the pipeline is SVD 1.1
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
            sharp, soft, hardly = (
                fidelity.decay(f)["blur_last"] for f in (frames, blurred(frames, BLUR), blurred(frames, NO_BLUR))
            )
            drift = lambda clip: fidelity.drift(clip, clip[0])["drift_colour_last"]
            calm = 0.2 + 0.6 * frames  # with room for a drift
            full, half = (drift(fading(calm, shift=k * limit / np.sqrt(2) / (len(frames) - 1))) for k in (1.0, 0.5))
            own, noise = drift(calm), np.random.default_rng(0).normal(0, 1 / np.sqrt(2), calm.shape).astype(np.float32)
            warp = {f"warp_{k}": fidelity.warp_error(calm + np.float32(k * most_warp) * noise)["warp_error"] for k in (1, 0.5)}
            return {"drift": own / 0.6, "rise": soft - sharp, "little": hardly - sharp, "full": full, "half": half, **warp}

        limit, most_warp = QUALITY["drift_colour_last"][2], QUALITY["warp_error"][2]
        rest = study.through(at_rest, still)[0]
        pan = study.each(lambda image: motion.summary(panned(image, px=px))["pan_px"])
        return [
            below("colours hold in a still image after the autoencoder: drift", rest["drift"], limit),
            graded("a colour drift of the margin, and of half of it", rest["full"], rest["half"], limit),
            graded("noise from frame to frame of the margin, and of half of it", rest["warp_1"], rest["warp_0.5"], most_warp),
            above(f"a blur of {BLUR:g} px raises the measured blur, median", rest["rise"].median(), LEAST_RISE),
            below(
                f"a blur of {NO_BLUR:g} px does so by less than the margin, median",
                rest["little"].median(),
                QUALITY["blur_last"][2],
            ),
            near(f"a pan of {px:g} px/frame is measured", pan, px, within=0.2),
        ]

    def measure(self, study: Study) -> pd.DataFrame:
        c, table = study.conditions, study.sweep().assign(weights="own")
        if other := study.options["other"]:
            more = study.sweep(pipe=load_pipeline(other, device=study.pipe.device, dtype=study.pipe.unet.dtype))
            table = pd.concat([table, more.assign(weights="other")], ignore_index=True)
        return table.assign(centre=(table["fps"] == c.fps) & (table[BUCKET] == c.motion_bucket_id))

    def findings(self, study: Study, clips: pd.DataFrame) -> Iterator[Effect]:
        """Of a table with `stimulus`, `seed`, `centre`, `fps`, `motion_bucket_id` and the measures, and `weights` where there
        are two: each cell minus the centre. An average of all cells would hide effects of opposite sign."""
        both = clips.assign(weights=clips.get("weights", "own"))
        clips, other = (both[both["weights"] == name] for name in ("own", "other"))
        if clips["centre"].nunique() == 2:
            centre = {axis: clips.loc[clips["centre"], axis].iloc[0] for axis in self.axes}
            for column, (what, unit, margin) in QUALITY.items():
                yield from cells(column, what, clips, reference=centre, unit=unit, margin=margin)
                adjusted = at_equal_motion(clips, column)
                for cell, rows in adjusted.groupby("cell", sort=False):
                    words = f"{what}, at equal motion, {cell} minus the centre"
                    yield mean(f"equal_motion_{column}, {cell}", words, rows, "value", unit=unit, margin=margin)
                if other["centre"].nunique() == 2:
                    own, theirs = (away(t, column).set_index(["cell", "stimulus"])["change"] for t in (clips, other))
                    for cell, rows in (own - theirs).dropna().rename("value").reset_index().groupby("cell", sort=False):
                        words = f"{what}, {cell} minus the centre, these weights minus the other"
                        yield mean(f"versions_{column}, {cell}", words, rows, "value", unit=unit, margin=margin)
        for axis in self.axes:
            low, high = clips[axis].agg(["min", "max"])
            if low < high:
                what = f"speed, {axis} {high:g} minus {low:g}"
                yield difference(f"speed_{axis}", what, clips, "flow_px", by=axis, unit="px/frame")

    def verdict(self, found: Mapping[str, Effect]) -> str:
        """For each measure of quality, in how many cells it differs from the centre, and in how many it does not."""
        parts = []
        for column, (what, _, _) in QUALITY.items():
            for kind, against in (
                ("", "the centre"),
                ("equal_motion_", "it at equal motion"),
                ("versions_", "the other weights"),
            ):
                own = [e for key, e in found.items() if key.startswith(f"{kind}{column}, ")]
                differ, same = (sum(e.verdict == verdict for e in own) for verdict in (EFFECT, EQUIVALENT))
                if own:
                    counted = f"of {len(own)} cells {differ} differ from {against}, {same} are equivalent to it"
                    parts.append(counted if kind else f"{what}: {counted}")
        return (
            f"{'; '.join(parts).capitalize()}."
            if parts
            else "No cell can be compared with the centre: there is no other, or its clips failed."
        )


def away(clips: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """Each cell minus the centre: a row per `cell` and `stimulus`, means over the seeds that have both. `change`: of the first
    column; `faster`: of the second."""
    parts = []
    keys, names = ["stimulus", "seed"], dict(zip(columns, ("change", "faster"), strict=False))
    centre = clips[clips["centre"]].set_index(keys)[list(columns)].astype(float)
    for (fps, bucket), rows in clips[~clips["centre"]].groupby(["fps", BUCKET]):
        apart = (rows.set_index(keys)[list(columns)].astype(float) - centre).dropna().groupby("stimulus").mean()
        parts.append(apart.rename(columns=names).reset_index().assign(cell=f"fps {fps:g}, {BUCKET} {bucket:g}"))
    return pd.concat(parts, ignore_index=True)


def at_equal_motion(clips: pd.DataFrame, column: str) -> pd.DataFrame:
    """Each cell minus the centre as it would be at the centre's speed: `value` for each `cell` and `stimulus`.

    An analysis of covariance: change = a_cell + b * faster, with one slope b for all cells, in which speed is `flow_px`. The
    values are the jackknife's pseudo-values of a_cell, an image left out at a time, so that their t interval has the error of
    b in it (Miller 1974, The jackknife: a review, Biometrika 61). Of fewer than three images there are none. Where cells
    differ in speed by more than images do within a cell, that is an extrapolation, and the interval is wide.
    """
    table = away(clips, column, "flow_px")
    images = table["stimulus"].unique()

    def fit(rows: pd.DataFrame) -> pd.Series:
        means = rows.groupby("cell", sort=False)[["change", "faster"]].mean()
        apart = rows[["change", "faster"]] - means.loc[rows["cell"]].to_numpy()
        spread = float((apart["faster"] ** 2).sum())
        return (
            means["change"] - (float((apart["change"] * apart["faster"]).sum()) / spread if spread else 0.0) * means["faster"]
        )

    if len(images) < 3:
        return pd.DataFrame(columns=["cell", "stimulus", "value"])
    n, whole = table.groupby("cell")["stimulus"].nunique(), fit(table)  # cells may lack images, whose clips failed
    pseudo = {image: n * whole - (n - 1) * fit(table[table["stimulus"] != image]) for image in images}
    values = pd.DataFrame(pseudo).rename_axis("cell").melt(var_name="stimulus", ignore_index=False).reset_index()
    return table[["cell", "stimulus"]].merge(values)
