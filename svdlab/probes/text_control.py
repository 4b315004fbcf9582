"""The model has no text input. How far can the nearest thing to one, the embedding of the image, steer a clip?

    result = svdlab.probes.run("text_control", pipe, "results/limitations")

The UNet's cross-attention reads one token, the image encoder's embedding. It is replaced by another image's, set to zero,
halved or doubled, while the image's own latents and the noise are kept. The change is compared with what another seed changes,
and with the clip of the other image on the same noise.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch

from svdlab.errors import InputError, one_of, several
from svdlab.pipeline import edits, hooks
from svdlab.pipeline.generate import generate
from svdlab.probes.probe import Check, Example, Graph, Probe, Study, below, graded, most, near
from svdlab.stats.effects import Effect, difference, mean, ratio

MARGIN = 0.10  # of what another seed changes, and of the way to the other image's clip
OTHER_SEED = 1000  # added to the seed, for the reference
SCALES = {"zero": 0.0, "half": 0.5, "double": 2.0}
STEERED = ("swap", *SCALES)


def changed(clips: pd.DataFrame) -> pd.DataFrame:
    """Rows of what was done, the reference first."""
    order = {kind: i for i, kind in enumerate(("another seed", *STEERED))}
    return clips[clips["kind"].isin(order)].sort_values("kind", key=lambda c: c.map(order), kind="stable")


class TextControl(Probe):
    """Every clip as it is, on another seed, and under each edit of the image embedding."""

    name = "text_control"
    shared_seeds = True  # a clip is compared with that of another image on the same noise
    card = "The model cannot be controlled through text."
    question = "There is no text input: how far can the image embedding alone steer a clip?"
    options = {"scales": tuple(SCALES)}
    kinds = {"scales": partial(several, check=partial(one_of, options=SCALES), distinct=True)}
    quick = {"scales": ("zero",)}
    graphs = (Graph("What changes the clip, and how much", "kind", "change", "rms change, 0 to 1", kind="bars", of=changed),)
    worst = "towards"
    headline = ("swap", "towards")

    def plan(self, study: Study) -> pd.DataFrame:
        base = study.grid()
        hashes = study.stimuli.table.set_index("name")["hash"].str[:12]
        if hashes.iloc[0] == hashes.iloc[-1]:
            raise InputError("text_control gives each image the embedding of the first or last: give two images that differ.")
        giver = base["label_stimulus"].map(partner(study.stimuli.names)).map(hashes)
        kinds = {"none": None, "another seed": None, "swap": "image embedding of " + giver}
        kinds |= {kind: f"image embedding x {SCALES[kind]:g}" for kind in study.options["scales"]}
        plan = pd.concat([base.assign(label_kind=k, label_intervention=i) for k, i in kinds.items()], ignore_index=True)
        return plan.assign(seed=plan["seed"] + OTHER_SEED * (plan["label_kind"] == "another seed"))

    def audit(self, study: Study) -> list[Check]:
        short = study.conditions.replace(num_inference_steps=2)
        image, steps = study.stimuli.images[0], set()

        def same(value: torch.Tensor, step: Any) -> torch.Tensor:
            steps.add(step.index)
            return 1.0 * value

        plain = generate(study.pipe, image, short, seed=0).frames
        with hooks.edit(study.pipe, "image_embeddings", same):
            again = generate(study.pipe, image, short, seed=0).frames
        first, last = (study.stimuli.array(study.stimuli.names[i]) for i in (0, -1))
        way = lambda part: part_of_the_way((1 - part) * first + part * last, first, last)
        return [
            below("an embedding times 1: rms change of the clip", rms(plain, again), 1e-9),
            most("an edit of the embedding reaches every step", [step in steps for step in range(2)], least=1),
            near("three tenths of the way", way(0.3), 0.3, within=0.003),
            graded("a tenth of the way, which is the margin, and half of it", way(MARGIN), way(MARGIN / 2), MARGIN),
        ]

    def measure(self, study: Study) -> pd.DataFrame:
        """A row per clip, with its `kind`. Against the plain clip of the same noise: `change` (rms), `towards` (of a swap)."""
        parts, partners = [], partner(study.stimuli.names)
        for (kind, name), rows in study.plan.groupby(["label_kind", "label_intervention"], sort=False, dropna=False):
            edit: AbstractContextManager[Any] | None = None
            if kind == "swap":  # all images of a group have the same partner
                giver = study.stimuli.names.index(partners[rows["label_stimulus"].iloc[0]])
                size: Any = dict(height=study.height, width=study.width)
                edit = edits.image_embedding(study.pipe, study.stimuli.images[giver], **size)
            elif kind in SCALES:
                edit = hooks.edit(study.pipe, "image_embeddings", partial(_times, SCALES[kind]))
            parts.append(study.sweep(rows, edit=edit, intervention=str(name) if edit else None))
        table = pd.concat(parts, ignore_index=True)
        table = table.assign(kind=table.pop("label_kind"))  # a manifest may have such a column, too
        table["seed"] -= OTHER_SEED * (table["kind"] == "another seed")  # whose reference it is
        return compare(table, study.frames, partners)

    def findings(self, study: Study, clips: pd.DataFrame) -> Iterator[Effect]:
        """Of a table with `stimulus`, `seed`, `kind`, `change`, `towards` and `flow_px`."""
        reference = clips[clips["kind"] == "another seed"].groupby("stimulus")["change"].mean()
        relative = clips.assign(relative=clips["change"] / clips["stimulus"].map(reference))
        for kind, group in ((kind, relative[relative["kind"] == kind]) for kind in STEERED):
            if len(group):
                done = "another image's embedding" if kind == "swap" else f"the embedding times {SCALES[kind]:g}"
                what, unit = f"change with {done}", "of what another seed changes"
                yield ratio(kind, what, group, "relative", unit=unit, margin=MARGIN)
        what = "the replaced embedding leads towards the other image's clip"
        yield mean("towards", what, clips[clips["kind"] == "swap"], unit="of the way", margin=MARGIN)
        what = "speed, replaced embedding minus own"
        yield difference("speed", what, clips, "flow_px", by="kind", levels=("swap", "none"), unit="px/frame")

    def example(self, study: Study, clips: pd.DataFrame, what: str, row: Any) -> Example:
        """A clip as it is, and on the same noise with the embedding of another image."""
        own = clips[(clips["kind"] == "none") & (clips["stimulus"] == row["stimulus"]) & (clips["seed"] == row["seed"])]
        both = [study.frames(r) for r in (own.iloc[0], row)]
        frames = [clip[np.linspace(0, len(clip) - 1, 3).round().astype(int)] for clip in both]
        giver = partner(study.stimuli.names)[row["stimulus"]]
        label = f"{what} change: {row['stimulus']}, seed {row['seed']}: own embedding, then the embedding of {giver}"
        return Example(label, np.concatenate(frames))


def partner(names: list[str]) -> dict[str, str]:
    """Whose embedding each image is given: the first half the last image's, the second half the first's.

    Two givers, so that there are two sweeps and no single giver decides.
    """
    return {name: names[-1] if i < len(names) / 2 else names[0] for i, name in enumerate(names)}


def _times(scale: float, value: torch.Tensor, step: Any) -> torch.Tensor:
    return scale * value


def compare(table: pd.DataFrame, frames_of: Any, partners: Mapping[str, str]) -> pd.DataFrame:
    """`change` and `towards` for each row. frames_of: a row's frames "f h w c"."""
    done = table[table["status"] == "done"] if "status" in table else table
    base = {(r["stimulus"], r["seed"]): frames_of(r) for _, r in done[done["kind"] == "none"].iterrows()}
    found = pd.DataFrame(np.nan, index=table.index, columns=["change", "towards"])
    for i, row in done[done["kind"] != "none"].iterrows():
        own, other = (base.get((name, row["seed"])) for name in (row["stimulus"], partners[row["stimulus"]]))
        if own is not None:
            clip, swapped = frames_of(row), row["kind"] == "swap" and other is not None
            found.loc[i] = rms(clip, own), part_of_the_way(clip, own, other) if swapped else np.nan
    return table.assign(**found)


def rms(one: np.ndarray, two: np.ndarray) -> float:
    """Root mean square difference, in [0, 1]."""
    return float(np.sqrt(np.square(one - two).mean()))


def part_of_the_way(clip: np.ndarray, start: np.ndarray, goal: Any) -> float:
    """How far a clip is on the straight line from one to another: 0 at its start, 1 at its goal; NaN where these are equal.

    >>> round(part_of_the_way(np.full(4, 0.3), np.zeros(4), np.ones(4)), 3)
    0.3
    """
    line = (np.asarray(goal) - start).ravel().astype(np.float64)
    length = float(line @ line)
    return float((clip - start).ravel().astype(np.float64) @ line / length) if length else float("nan")
