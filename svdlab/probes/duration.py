"""How long is a clip, does it lose quality on the way, and how far can it be continued from its own last frame?

    result = svdlab.probes.run("duration", pipe, "results/limitations", rounds=6)

A *chain* is a clip, continued `rounds` times: each round is generated from the last frame of the one before. It *breaks* at
the first frame that is much blurrier than the image it began with, has lost or doubled its contrast, or has another colour: by
more than BLUR_RISE, CONTRAST or COLOUR_SHIFT.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from svdlab.errors import whole
from svdlab.measure import fidelity
from svdlab.pipeline.generate import Clip
from svdlab.probes.probe import Check, Example, Graph, Probe, Study, above, below, graded, most, near
from svdlab.probes.stimuli import FRAMES, blurred, fading, still, through_autoencoder
from svdlab.stats.effects import Effect, difference, exact, mean, share

BLUR_RISE = 0.15  # of blur_effect (0 sharp to 1): what a Gaussian of about 1.5 px does to a sharp photograph
CONTRAST = (0.5, 2.0)  # of the image's own
COLOUR_SHIFT = 0.15  # Euclidean distance of mean RGB colours, [0, sqrt 3]
BLUR_MARGIN, COLOUR_MARGIN = 0.03, 0.02  # over one clip
SEED_STEP = 1000  # between the seeds of a chain's rounds, so that no round repeats another's noise
BREAKS, NO_BLUR = 3.0, 0.3  # px: sigmas of the audit, of which the one breaks a chain and the other must not seem a loss
AUDIT_ROUNDS, AUDIT_STEP = 3, 0.02  # of the audit's chains: rounds, and RGB distance per frame


def rate(clips: pd.DataFrame) -> float:
    """Frames per second in the player."""
    return float(clips["playback_fps"].fillna(clips["fps"]).iloc[0])


def by_second(clips: pd.DataFrame) -> pd.DataFrame:
    """The chains' frames with their time in the player, s."""
    return chains(clips).assign(seconds=lambda t: t["frame"] / rate(clips))


class Duration(Probe):
    """Chains of clips, each begun at the last frame of the one before, against the image they began with."""

    name = "duration"
    card = "The generated videos are rather short (<= 4sec)."
    question = "How long is a clip, does it lose quality, and how far can it be continued from its own last frame?"
    options = {"rounds": 4}
    kinds = {"rounds": partial(whole, least=1, most=100)}
    quick = {"rounds": 2}
    graphs = (
        Graph("Blur against the input", "seconds", "blur_rise", "blur over the input's", "s", of=by_second),
        Graph("Colour against the input", "seconds", "colour_shift", "RGB distance", "s", of=by_second),
    )
    worst = "decayed"
    headline = ("length", "whole")

    def plan(self, study: Study) -> pd.DataFrame:
        """The first round's rows, and for the estimate as many for each round that will follow."""
        first, rounds = study.grid(), range(study.options["rounds"] + 1)
        return pd.concat([first.assign(label_round=k, seed=first["seed"] + SEED_STEP * k) for k in rounds], ignore_index=True)

    def measures(self, study: Study) -> tuple[Any, ...]:
        return ("motion", "fidelity", curves)

    def audit(self, study: Study) -> list[Check]:
        """Chains of known decay: a still image after the autoencoder must not break, a drifting one at its frame."""

        def breaks(image: np.ndarray) -> dict[str, Any]:
            rest = decay(curves_of(through_autoencoder(study.pipe, still(image, 2))), image)
            base = np.clip(image, 0.2, 0.8)  # so that the drift is not clipped
            softer = lambda sigma: decay(curves_of(blurred(base[None], sigma)), base)["blur_rise"][0]
            slower = fading(still(base, FRAMES), shift=COLOUR_MARGIN / 2 / np.sqrt(2) / (FRAMES - 1))
            drifted = decay(curves_of(slower), base)["colour_shift"][-1]
            chain = fading(still(base, AUDIT_ROUNDS * FRAMES), shift=AUDIT_STEP / np.sqrt(2))
            drift = decay(curves_of(chain), base)
            flat = base.mean((0, 1)) + (base - base.mean((0, 1))) / CONTRAST[1]  # room for twice the contrast
            edges = [part * limit for limit in CONTRAST for part in (0.9, 1.1)]
            seen = [decay(curves_of((flat.mean((0, 1)) * (1 - k) + k * flat)[None]), flat)["broken"][0] for k in edges]
            found = {
                "contrast": seen == [True, False, False, True],
                "soft": softer(BREAKS),
                "hardly": softer(NO_BLUR),
                "half": drifted,
                "full": drift["colour_shift"][1],
            }
            return found | {
                "sound": not rest["broken"][0],
                "at": np.argmax(drift["broken"]),
                "step": drift["colour_shift"][5] / 5,
            }

        seen, due = study.each(breaks), int(COLOUR_SHIFT / AUDIT_STEP) + 1
        return [
            most("an image after the autoencoder counts as whole", seen["sound"], least=1),
            near(f"colours drifting by {AUDIT_STEP} per frame", seen["step"], AUDIT_STEP, within=0.1),
            graded("a drift of the margin, and of half of it", seen["full"], seen["half"], COLOUR_MARGIN),
            most(f"contrast breaks a chain 10 % beyond {CONTRAST[0]} or {CONTRAST[1]}, not before", seen["contrast"], least=1),
            above(f"a blur of {BREAKS:g} px breaks a chain: rise of the blur, median", seen["soft"].median(), BLUR_RISE),
            below(f"a blur of {NO_BLUR:g} px is less than the margin, median", seen["hardly"].median(), BLUR_MARGIN),
            most(f"that drift breaks a chain at frame {due}, within 1", (seen["at"] - due).abs() <= 1, least=1),
        ]

    def measure(self, study: Study) -> pd.DataFrame:
        """A row per clip of each chain. `round` is its place; lists hold its frames, against the chain's first image."""
        plan, parts = study.plan[study.plan["label_round"] == 0], []
        for k in range(study.options["rounds"] + 1):
            table = study.sweep(plan).assign(round=k, own_seed=plan["seed"].to_numpy())
            parts.append(table.assign(seed=table["own_seed"] - SEED_STEP * k))  # the chain's
            whole = table["status"].eq("done").to_numpy()
            plan = plan[whole].assign(seed=lambda p: p["seed"] + SEED_STEP, label_round=k + 1)
            if plan.empty:
                break
            last = [(study.frames(row)[-1] * 255).round().astype(np.uint8) for _, row in table[whole].iterrows()]
            plan["image"] = pd.Series(map(Image.fromarray, last), index=plan.index, dtype=object)
        return against(pd.concat(parts, ignore_index=True), study.each(lambda image: image))

    def findings(self, study: Study, clips: pd.DataFrame) -> Iterator[Effect]:
        """Of a table with `stimulus`, `seed`, `round`, `num_frames`, `fps`, `flow_px` and the lists of `against`."""
        count, rounds, fps = int(clips["num_frames"].iloc[0]), int(clips["round"].max()), rate(clips)
        yield exact("length", f"length of a clip of {count} frames at {fps:g} frames/s", count / fps, "s", clips)
        first = clips[clips["round"] == 0]
        blur = [b[-1] - b[0] for b in first["blur"]]
        ends = first.assign(blur=blur, colour=[float(np.linalg.norm(np.subtract(c[-1], c[0]))) for c in first["colour"]])
        yield mean("blur", "blur of a clip's last frame minus its first", ends, unit="on a scale of 1", margin=BLUR_MARGIN)
        yield mean(
            "colour", "colour drift from a clip's first frame to its last", ends, unit="RGB distance", margin=COLOUR_MARGIN
        )
        if not rounds:
            return
        frames = chains(clips).groupby(["stimulus", "seed"], sort=False)
        broken, last = frames["broken"].any(), clips.groupby(["stimulus", "seed"])["round"].max() == rounds
        whole = (~broken).where(broken | last).rename("whole").reset_index()  # no number where a later clip failed
        words = f"{rounds} continuation{'s' * (rounds > 1)}, {(rounds + 1) * count / fps:.3g} s"
        yield share("whole", f"{{}} of chains are still whole after {words}", whole)
        slope: Callable[[pd.Series], float] = lambda values: fidelity.slope(values.to_numpy())
        slopes = (fps * frames[["blur_rise", "colour_shift"]].agg(slope)).reset_index()
        yield mean("blur_slope", "blur gained along the chain", slopes, "blur_rise", unit="per second")
        yield mean("colour_slope", "colour drift along the chain", slopes, "colour_shift", unit="RGB distance per second")
        what = f"speed in round {rounds} minus that in round 0"
        yield difference("speed", what, clips, "flow_px", by="round", levels=(rounds, 0), unit="px/frame")

    def example(self, study: Study, clips: pd.DataFrame, what: str, row: Any) -> Example:
        """The image that a chain began with, and every round's last frame."""
        own = clips[(clips["stimulus"] == row["stimulus"]) & (clips["seed"] == row["seed"])].sort_values("round")
        frames = [study.stimuli.array(row["stimulus"]), *(study.frames(r)[-1] for _, r in own.iterrows())]
        label = f"{what} chain: {row['stimulus']}, seed {row['seed']}: input, last frame of each round"
        return Example(label, np.stack(frames))


def curves(clip: Clip) -> dict[str, Any]:
    """Of every frame of a clip, as lists: `blur`, `contrast`, and the mean `colour` (red, green, blue)."""
    return {key: np.round(values, 5).tolist() for key, values in curves_of(clip.frames).items()}


def curves_of(frames: np.ndarray) -> dict[str, np.ndarray]:
    """The same, unrounded, of frames "f h w 3"."""
    table = fidelity.per_frame(frames)
    colour = frames.mean(axis=(1, 2), dtype=float)
    return {"blur": table["blur"].to_numpy(), "contrast": table["contrast"].to_numpy(), "colour": colour}


def decay(curve: Any, image: np.ndarray) -> dict[str, np.ndarray]:
    """A clip's curves against the image "h w 3" that its chain began with, per frame: `blur_rise`, `contrast_ratio`,
    `colour_shift`, and `broken`, whether a threshold is exceeded."""
    start = curves_of(image[None])
    rise = np.asarray(curve["blur"]) - start["blur"][0]
    ratio = np.asarray(curve["contrast"]) / max(float(start["contrast"][0]), 1e-6)
    shift = np.linalg.norm(np.stack(list(curve["colour"])) - start["colour"][0], axis=-1)
    broken = (rise > BLUR_RISE) | (ratio < CONTRAST[0]) | (ratio > CONTRAST[1]) | (shift > COLOUR_SHIFT)
    return {"blur_rise": rise, "contrast_ratio": ratio, "colour_shift": shift, "broken": broken}


def against(clips: pd.DataFrame, images: Mapping[Any, np.ndarray]) -> pd.DataFrame:
    """A table with the lists of `curves`, with those of `decay` added, and `decayed` of each chain's last clip, to rank by."""
    rows = []
    for _, clip in clips.iterrows():
        whole = isinstance(clip["blur"], (list, np.ndarray))  # not so where the clip failed
        rows.append({k: list(v) for k, v in decay(clip, images[clip["stimulus"]]).items()} if whole else {})
        if whole and clip["round"] == clips["round"].max():
            blur, colour = (rows[-1][key][-1] for key in ("blur_rise", "colour_shift"))
            rows[-1]["decayed"] = max(0.0, blur / BLUR_RISE) + colour / COLOUR_SHIFT
    return clips.assign(**pd.DataFrame(rows, index=clips.index))


def chains(clips: pd.DataFrame) -> pd.DataFrame:
    """The frames of all chains in their order: a row each, with `stimulus`, `seed`, `round`, `frame` and what `decay` gives.

    A round's first frame shows the image that the last one ended on; it is kept, so that seams can be seen.
    """
    lists = ["blur_rise", "contrast_ratio", "colour_shift", "broken"]
    ordered = clips.sort_values(["stimulus", "seed", "round"])[["stimulus", "seed", "round", *lists]]
    frames = ordered.explode(lists, ignore_index=True).astype(dict.fromkeys(lists[:3], float) | {"broken": bool})
    return frames.assign(frame=frames.groupby(["stimulus", "seed"]).cumcount())
