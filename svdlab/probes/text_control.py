"""Can anything be said to the model in words? And how far does the picture's embedding, the nearest thing to it, steer?

    >>> result = svdlab.probes.run("text_control", pipe, "results/limitations")

The UNet's cross-attention reads one token, the image encoder's embedding of the picture. It is exchanged for another
picture's, silenced or doubled, while the picture's own latents and the noise are kept; what that changes is compared with
what another seed changes, and with the clip of the other picture. Clips on the same noise, so differences are the edit's.
"""

from __future__ import annotations

import inspect
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pandas as pd
import torch

from svdlab.pipeline import edits, hooks
from svdlab.pipeline.generate import generate
from svdlab.probes import findings as rules
from svdlab.probes.base import Check, Panel, Probe, Shown, Study
from svdlab.probes.findings import Finding

MARGIN = 0.10  # of what another seed changes, and of the way to the other picture's clip: less counts as none
OTHER_SEED = 1000  # added to the seed, for the yardstick
WORDS = ("text", "prompt", "token", "caption")
SCALES = {"zero": 0.0, "half": 0.5, "double": 2.0}


def text_inputs(pipe: Any) -> list[str]:
    """Parts and arguments of a pipeline by which text could come in, by their names.

    >>> text_inputs(pipe)
    []
    """
    arguments = {
        name for kind in type(pipe).__mro__ if "__call__" in vars(kind) for name in inspect.signature(kind.__call__).parameters
    }
    names = sorted({*pipe.components, *arguments})
    return [n for n in names if any(word in n.lower() for word in WORDS) and not n.startswith("num_")]  # which only count


def plan(study: Study) -> pd.DataFrame:
    """The clips as they are, on another seed, and once for each intervention."""
    base = study.grid()
    kinds = ["none", "another seed", "swap", *study.options["scales"]]
    parts = [base.assign(label_kind=kind) for kind in kinds]
    parts[1]["seed"] = parts[1]["seed"] + OTHER_SEED
    plan = pd.concat(parts, ignore_index=True)
    hashes = study.stimuli.table.set_index("name")["hash"]
    givers = plan["label_stimulus"].map(partner(study.stimuli.names)).map(hashes).str[:12]
    names = {kind: f"image embedding x {SCALES[kind]:g}" for kind in study.options["scales"]}
    swaps = "image embedding of " + givers
    return plan.assign(label_intervention=plan["label_kind"].map(names).where(plan["label_kind"] != "swap", swaps))


def partner(names: list[str]) -> dict[str, str]:
    """Whose embedding each picture is given: the first half the last picture's, the second half the first's.

    Two givers, so that there are two sweeps and neither speaks for all.
    """
    return {name: names[-1] if i < len(names) / 2 else names[0] for i, name in enumerate(names)}


def measure(study: Study) -> pd.DataFrame:
    """A row per clip: `kind`, and against the untouched clip of the same noise `change` (rms), `towards` (of the swap)."""
    parts = []
    for _, rows in study.plan.groupby(["label_kind", "label_intervention"], sort=False, dropna=False):
        kind, name, stimulus = (rows[f"label_{c}"].iloc[0] for c in ("kind", "intervention", "stimulus"))
        intervention = name if isinstance(name, str) else None
        parts.append(study.sweep(rows, edit=_edit(study, kind, stimulus), intervention=intervention).assign(kind=kind))
    table = pd.concat(parts, ignore_index=True)
    table.loc[table["kind"] == "another seed", "seed"] -= OTHER_SEED  # whose yardstick it is
    return compare(table, study.frames, partner(study.stimuli.names))


def _edit(study: Study, kind: str, stimulus: str) -> AbstractContextManager[Any] | None:
    """The edit of one sweep, all of whose pictures have the same partner."""
    if kind == "swap":
        return edits.image_embedding(study.pipe, study.stimuli.picture(partner(study.stimuli.names)[stimulus]))
    if kind in SCALES:
        return hooks.edit(study.pipe, "image_embeddings", lambda value, step: SCALES[kind] * value)
    return None


def compare(table: pd.DataFrame, frames_of: Any, partners: dict[str, str]) -> pd.DataFrame:
    """`change` and `towards` for each row. frames_of: a row's frames "f h w c"."""
    done = table[table["status"] == "done"] if "status" in table else table
    base = {(r["stimulus"], r["seed"]): frames_of(r) for _, r in done[done["kind"] == "none"].iterrows()}
    change, towards = {}, {}
    for i, row in done[done["kind"] != "none"].iterrows():
        own, other = base.get((row["stimulus"], row["seed"])), base.get((partners[row["stimulus"]], row["seed"]))
        if own is None:
            continue
        clip = frames_of(row)
        change[i] = rms(clip, own)
        if row["kind"] == "swap" and other is not None:
            towards[i] = part_of_the_way(clip, own, other)
    return table.assign(change=pd.Series(change, dtype=float), towards=pd.Series(towards, dtype=float))


def rms(one: np.ndarray, two: np.ndarray) -> float:
    """Root mean square difference, in [0, 1]."""
    return float(np.sqrt(np.square(one - two).mean()))


def part_of_the_way(clip: np.ndarray, start: np.ndarray, goal: np.ndarray) -> float:
    """How far a clip lies along the straight line from one to another: 0 at the start, 1 at the goal.

    >>> part_of_the_way(0.7 * a + 0.3 * b, a, b)
    0.3
    """
    line = (goal - start).ravel().astype(np.float64)
    length = float(line @ line)
    return float((clip - start).ravel().astype(np.float64) @ line / length) if length else float("nan")


def audit(study: Study) -> list[Check]:
    first, last = (study.stimuli.array(study.stimuli.names[i]) for i in (0, -1))
    short = study.conditions.replace(num_inference_steps=2)
    picture = study.stimuli.pictures[0]
    plain = generate(study.pipe, picture, short, seed=0).frames
    steps = []

    def same(value: torch.Tensor, step: Any) -> torch.Tensor:
        steps.append(step.index)
        return 1.0 * value

    with hooks.edit(study.pipe, "image_embeddings", same):
        again = generate(study.pipe, picture, short, seed=0).frames
    blend = part_of_the_way(0.7 * first + 0.3 * last, first, last)
    return [
        Check("an embedding times 1 changes nothing", "0", f"{rms(plain, again):.3g}", rms(plain, again) == 0.0),
        Check("an edit of the embedding reaches every step", "steps 0, 1", str(sorted(set(steps))), set(steps) == {0, 1}),
        Check("three tenths of the way from one picture to another", "0.300", f"{blend:.3f}", abs(blend - 0.3) < 1e-3),
    ]


def findings(study: Study, table: pd.DataFrame) -> list[Finding]:
    ways = text_inputs(study.pipe)
    if ways:
        study.notes.append(f"Text could come in by: {', '.join(ways)}.")
    return [rules.exact("inputs that take text", float(len(ways)), "", table), *judge(table)]


def judge(table: pd.DataFrame) -> list[Finding]:
    """Findings from a table with `kind`, `change`, `towards` and `flow_px`."""
    yardstick = table[table["kind"] == "another seed"].groupby("stimulus")["change"].mean()
    relative = table.assign(relative=table["change"] / table["stimulus"].map(yardstick))
    found = []
    for kind in [k for k in ("swap", *SCALES) if (table["kind"] == k).any()]:
        what = {"swap": "exchanged for another picture's"}.get(kind, f"times {SCALES.get(kind, 1):g}")
        rows = relative[relative["kind"] == kind]
        sentence = f"change where the image embedding is {what}"
        found.append(rules.ratio(sentence, rows, "relative", unit="of what another seed changes", margin=MARGIN))
    swapped = table[table["kind"] == "swap"]
    found.append(
        rules.mean("the exchange leads towards the other picture's clip", swapped, "towards", unit="of the way", margin=MARGIN)
    )
    found.append(
        rules.difference(
            "speed, embedding exchanged less own", table, "flow_px", by="kind", a="swap", b="none", unit="px/frame"
        )
    )
    return found


def verdict(study: Study, found: list[Finding]) -> str:
    count = found[0].value
    words = "There is no text input" if not count else f"Text could come in by {count:g} inputs"
    steer = [f for f in found if f.what.startswith("the exchange leads")]
    swap = found[1]
    return f"{words}; the nearest thing to one is the image embedding. {rules.capital(swap.sentence)} " + " ".join(
        rules.capital(f.sentence) for f in steer
    )


def panels(study: Study, table: pd.DataFrame) -> list[Panel]:
    rows = []
    for kind in ("another seed", "swap", *SCALES):
        part = table[table["kind"] == kind]
        if len(part):
            f = rules.mean(kind, part, "change", unit="rms", null=None)
            rows.append({"kind": kind, "change": f.value, "low": f.low, "high": f.high})
    frame = pd.DataFrame(rows)
    return [Panel("What changes the clip, and how much", frame, "kind", "change", kind="bars", y_label="rms change, 0 to 1")]


def pictures(study: Study, table: pd.DataFrame) -> list[Shown]:
    """The picture on which an exchange changes a typical amount, and the most: as it is, and exchanged."""
    swaps = table[table["kind"] == "swap"].dropna(subset=["change"]).sort_values("change")
    if swaps.empty:
        return []
    shown = []
    for what, row in (("typical", swaps.iloc[len(swaps) // 2]), ("most changed", swaps.iloc[-1])):
        own = table[(table["kind"] == "none") & (table["stimulus"] == row["stimulus"]) & (table["seed"] == row["seed"])].iloc[
            0
        ]
        label = f"{row['stimulus']}, seed {row['seed']}"
        shown.append(Shown(f"{what}: {label}, its own embedding", study.frames(own), str(own["run_id"])))
        giver = partner(study.stimuli.names)[row["stimulus"]]
        shown.append(Shown(f"{what}: {label}, the embedding of {giver}", study.frames(row), str(row["run_id"])))
    return shown


PROBE = Probe(
    name="text_control",
    card="The model cannot be controlled through text.",
    question="Is there any text input, and how far can the image embedding alone steer a clip?",
    plan=plan,
    measure=measure,
    audit=audit,
    findings=findings,
    verdict=verdict,
    panels=panels,
    pictures=pictures,
    options={"scales": ("zero", "half", "double")},
    quick_options={"scales": ("zero",)},
)
