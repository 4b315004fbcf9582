"""How long is a clip, does it lose quality on the way, and how far can it be continued from its own last frame?

    >>> result = svdlab.probes.run("duration", pipe, "results/limitations", rounds=6)

A *chain* is a clip, continued `rounds` times: each round is generated from the last frame of the one before. It *breaks* at
the first frame that is much blurrier than the picture it all began with, has lost or doubled its contrast, or has another
colour; the bars are BLUR_RISE, CONTRAST and COLOUR_SHIFT.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from svdlab.measure import fidelity
from svdlab.pipeline.generate import Clip
from svdlab.probes import controls
from svdlab.probes import findings as rules
from svdlab.probes.base import Check, Panel, Probe, Shown, Study
from svdlab.probes.findings import Finding

BLUR_RISE = 0.15  # of blur_effect (0 sharp to 1): what a Gaussian of about 1.5 px does to a sharp photograph
CONTRAST = (0.5, 2.0)  # of the picture's own
COLOUR_SHIFT = 0.15  # Euclidean distance of mean RGB colours, [0, sqrt 3]
BLUR_MARGIN, COLOUR_MARGIN = 0.03, 0.02  # over one clip: less than that counts as none
SEED_STEP = 1000  # between the seeds of a chain's rounds, so that no round repeats another's noise


def by_frame(clip: Clip) -> dict[str, Any]:
    """A sweep's measure: `curves` of a clip as text, for the ledger."""
    return {"curves": json.dumps(curves(clip.frames).round(5).to_dict("list"))}


def curves(frames: np.ndarray) -> pd.DataFrame:
    """A row per frame: `blur`, `contrast`, and the mean colour `red`, `green`, `blue`."""
    table = fidelity.per_frame(frames)[["blur", "contrast"]]
    red, green, blue = frames.mean(axis=(1, 2)).T
    return table.assign(red=red, green=green, blue=blue)


def measure(study: Study) -> pd.DataFrame:
    """A row per clip of each chain; `curves` has its frames, `round` its place."""
    plan, parts = study.plan[study.plan["label_round"] == 0], []
    for k in range(study.options["rounds"] + 1):
        table = study.sweep(plan, ("motion", "fidelity", by_frame)).assign(round=k, own_seed=plan["seed"].to_numpy())
        table["seed"] = table["own_seed"] - SEED_STEP * k  # the chain's
        parts.append(table)
        whole = (table["status"] == "done").to_numpy()
        if k == study.options["rounds"] or not whole.any():
            break
        last = [study.frames(row)[-1] for _, row in table[whole].iterrows()]
        pictures = [Image.fromarray((frame * 255).round().astype(np.uint8)) for frame in last]
        plan = plan[whole].assign(seed=lambda p: p["seed"] + SEED_STEP, label_round=k + 1)
        plan["image"] = pd.Series(pictures, index=plan.index, dtype=object)
    return pd.concat(parts, ignore_index=True)


def plan(study: Study) -> pd.DataFrame:
    """The first round's rows, and for the estimate as many for each round that will follow."""
    first = study.grid()
    later = [first.assign(label_round=k, seed=first["seed"] + SEED_STEP * k) for k in range(study.options["rounds"] + 1)]
    return pd.concat(later, ignore_index=True)


def chain(table: pd.DataFrame, stimulus: str, seed: int) -> pd.DataFrame:
    """One chain's frames in their order: `frame` from 0 on, `round`, and the columns of `curves`.

    A round's first frame shows the picture that the last one ended on; it is kept, so that seams can be seen.
    """
    own = table[(table["stimulus"] == stimulus) & (table["seed"] == seed)].sort_values("round")
    parts = [pd.DataFrame(json.loads(row["by_frame_curves"])).assign(round=row["round"]) for _, row in own.iterrows()]
    frames = pd.concat(parts, ignore_index=True)
    return frames.assign(frame=range(len(frames)))


def against(frames: pd.DataFrame, picture: np.ndarray) -> pd.DataFrame:
    """A chain's `blur_rise`, `contrast_ratio` and `colour_shift` against the picture "h w 3" that it began with."""
    first = curves(picture[None]).iloc[0]
    shift = np.sqrt(sum(np.square(frames[c] - first[c]) for c in ("red", "green", "blue")))
    return frames.assign(
        blur_rise=frames["blur"] - first["blur"],
        contrast_ratio=frames["contrast"] / max(float(first["contrast"]), 1e-6),
        colour_shift=shift,
    )


def breaks_at(frames: pd.DataFrame) -> float:
    """The first frame of `against` that is over a bar; NaN where none is."""
    ratio = frames["contrast_ratio"]
    broken = (
        (frames["blur_rise"] > BLUR_RISE) | ~ratio.between(*CONTRAST) | (frames["colour_shift"] > COLOUR_SHIFT)
    ).to_numpy()
    return float(frames["frame"].to_numpy()[broken.argmax()]) if broken.any() else np.nan


def chains(table: pd.DataFrame, pictures: dict[str, np.ndarray]) -> pd.DataFrame:
    """All chains' frames, with `stimulus`, `seed` and what `against` adds. pictures: by stimulus."""
    parts = []
    for stimulus, seed, _ in each(table):
        parts.append(against(chain(table, stimulus, seed), pictures[stimulus]).assign(stimulus=stimulus, seed=seed))
    return pd.concat(parts, ignore_index=True)


def each(table: pd.DataFrame) -> Iterator[tuple[str, int, pd.DataFrame]]:
    """Stimulus, seed and rows of each chain."""
    for _, rows in table.groupby(["stimulus", "seed"]):
        yield str(rows["stimulus"].iloc[0]), int(rows["seed"].iloc[0]), rows


def audit(study: Study) -> list[Check]:
    """Chains made of each picture by known decay: a sound one must not break, a spoilt one at its frame, nor earlier."""
    rounds, frames = 3, controls.FRAMES
    sound, spoilt, drift = [], [], []
    for name in study.stimuli.names:
        picture = study.stimuli.array(name)
        through = controls.through_autoencoder(study.pipe, controls.still(picture, 2))
        start = curves(through).iloc[:1]
        calm = against(pd.concat([start] * (rounds * frames), ignore_index=True).assign(frame=range(rounds * frames)), picture)
        sound.append(np.isnan(breaks_at(calm)))
        step = 0.02  # of red and blue a frame
        faded = controls.fading(controls.still(np.clip(picture, 0.2, 0.8), rounds * frames), shift=step / np.sqrt(2))
        curve = against(curves(faded).assign(frame=range(rounds * frames)), np.clip(picture, 0.2, 0.8))
        drift.append(float(curve["colour_shift"].iloc[5] / 5))
        spoilt.append(breaks_at(curve))
    n, due = len(sound), int(COLOUR_SHIFT / 0.02) + 1
    exact = sum(abs(s - due) <= 1 for s in spoilt)
    found = float(np.median(drift))
    return [
        Check("a picture after the autoencoder counts as whole", f"{n} of {n} pictures", f"{sum(sound)}", all(sound)),
        Check("colours drifting by 0.02 a frame", "0.02 within 10 %", f"{found:.4f}", abs(found - 0.02) < 0.002),
        Check(f"that drift breaks a chain at frame {due}", f"within 1 frame in {n} of {n}", f"{exact}", bool(exact == n)),
    ]


def findings(study: Study, table: pd.DataFrame) -> list[Finding]:
    pictures = {name: study.stimuli.array(name) for name in study.stimuli.names}
    return judge(table, chains(table, pictures), fps=float(study.conditions.playback_fps or study.conditions.fps))


def judge(table: pd.DataFrame, frames: pd.DataFrame, *, fps: float) -> list[Finding]:
    """Findings from the clips' table and the chains' frames; fps: frames per second of the player."""
    count = int(table["num_frames"].iloc[0])
    seconds = count / fps
    length = rules.exact(f"length of a clip of {count} frames at {fps:g} a second", seconds, "s", table)
    ends = _ends(frames[frames["round"] == 0])
    found = [
        length,
        rules.mean(
            "blur that the last frame of a clip has over its first", ends, "blur", unit="on a scale of 1", margin=BLUR_MARGIN
        ),
        rules.mean(
            "colour drift from the first frame of a clip to its last",
            ends,
            "colour",
            unit="RGB distance",
            margin=COLOUR_MARGIN,
        ),
    ]
    rounds = int(table["round"].max())
    if rounds == 0:
        return found
    runs = [(stimulus, seed, breaks_at(g)) for stimulus, seed, g in each(frames)]
    broken = pd.DataFrame(runs, columns=["stimulus", "seed", "frame"])
    broken["survived"] = broken["frame"].isna()
    total = (rounds + 1) * seconds
    found.append(
        rules.share(f"chains still whole after {rounds} continuation{'s' * (rounds > 1)}, {total:.3g} s", broken, "survived")
    )
    slopes = _slopes(frames, fps)
    found += [
        rules.mean("blur gained along the chain", slopes, "blur", unit="per second"),
        rules.mean("colour drift along the chain", slopes, "colour", unit="RGB distance per second"),
        rules.difference(
            f"motion in round {rounds} less that in round 0", table, "flow_px", by="round", a=rounds, b=0, unit="px/frame"
        ),
    ]
    return found


def _ends(frames: pd.DataFrame) -> pd.DataFrame:
    """What the last frame of each first round has over its first."""
    rows = []
    for stimulus, seed, g in each(frames):
        first, last = g.iloc[0], g.iloc[-1]
        colour = float(np.linalg.norm([last[c] - first[c] for c in ("red", "green", "blue")]))
        rows.append({"stimulus": stimulus, "seed": seed, "blur": last["blur"] - first["blur"], "colour": colour})
    return pd.DataFrame(rows)


def _slopes(frames: pd.DataFrame, fps: float) -> pd.DataFrame:
    """Least-squares rise per second of blur and colour shift over each chain."""
    rows = []
    for stimulus, seed, g in each(frames):
        rise = {n: fps * fidelity.slope(g[c].to_numpy()) for n, c in (("blur", "blur_rise"), ("colour", "colour_shift"))}
        rows.append({"stimulus": stimulus, "seed": seed, **rise})
    return pd.DataFrame(rows)


def verdict(study: Study, found: list[Finding]) -> str:
    count, fps = study.conditions.num_frames or 0, float(study.conditions.playback_fps or study.conditions.fps)
    others = ", ".join(f"{count / f:.3g} s at {f}" for f in (6, 12, 24))
    sentence = f"A clip has {count} frames: {count / fps:.3g} s at {fps:g} a second ({others})."
    whole = [f for f in found if f.what.startswith("chains still whole")]
    return sentence + (f" {rules.capital(whole[0].sentence)}" if whole else "")


def panels(study: Study, table: pd.DataFrame) -> list[Panel]:
    pictures = {name: study.stimuli.array(name) for name in study.stimuli.names}
    fps = float(study.conditions.playback_fps or study.conditions.fps)
    frames = chains(table, pictures)
    made = []
    for column, title, label in (
        ("blur_rise", "Blur against the input", "blur over the input's"),
        ("colour_shift", "Colour against the input", "RGB distance"),
    ):
        rows = []
        for frame, group in frames.groupby("frame"):
            values = rules.per_image(group, column)
            limits = rules.stats.t_interval(values) if len(values) > 2 else None
            low, high = (limits.low, limits.high) if limits else (np.nan, np.nan)
            rows.append({"seconds": int(str(frame)) / fps, column: values.mean(), "low": low, "high": high})
        made.append(
            Panel(title, pd.DataFrame(rows), "seconds", column, x_label=f"s at {fps:g} frames a second", y_label=label)
        )
    return made


def pictures(study: Study, table: pd.DataFrame) -> list[Shown]:
    """The last frame of every round, for the chain that ends typically and the one that ends worst."""
    last = table[table["round"] == table["round"].max()]
    frames = chains(table, {name: study.stimuli.array(name) for name in study.stimuli.names})
    ends = frames.groupby(["stimulus", "seed"])[["blur_rise", "colour_shift"]].last()
    score = (ends["blur_rise"] / BLUR_RISE).clip(lower=0) + ends["colour_shift"] / COLOUR_SHIFT
    order = [key for key in score.sort_values().index if key in set(zip(last["stimulus"], last["seed"], strict=True))]
    if not order:
        return []
    shown = []
    for what, (stimulus, seed) in (("typical", order[len(order) // 2]), ("worst", order[-1])):
        own = table[(table["stimulus"] == stimulus) & (table["seed"] == seed)].sort_values("round")
        film = [study.stimuli.array(stimulus), *(study.frames(row)[-1] for _, row in own.iterrows())]
        shown.append(Shown(f"{what} chain: {stimulus}, seed {seed}: input, then each round's last frame", np.stack(film)))
    return shown


PROBE = Probe(
    name="duration",
    card="The generated videos are rather short (<= 4sec).",
    question="How long is a clip, does it lose quality on the way, and how far can it be continued from its own last frame?",
    plan=plan,
    measure=measure,
    audit=audit,
    findings=findings,
    verdict=verdict,
    panels=panels,
    pictures=pictures,
    options={"rounds": 4},
    quick_options={"rounds": 2},
)
