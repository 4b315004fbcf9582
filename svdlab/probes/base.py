"""What a probe is: stimuli, plan, measures, audit, findings and a verdict about one limitation.

    PROBE = Probe(
        name="stillness",
        card="The model may generate videos without motion, or very slow camera pans.",
        question="How often does nothing move, and can the motion bucket change that?",
        plan=lambda study: study.grid(motion_bucket_id=[20, 127, 250]),
        measure=lambda study: study.sweep(study.plan, measure=("motion",)),
        audit=audit,                        # (study) -> list of Check, before any clip is made
        findings=findings,                  # (study, table) -> list of Finding; the first is the headline
    )

`svdlab.probes.run` drives it. A probe's module has one `PROBE`, and its name in `svdlab.probes.PROBES`. Clips go through
`svdlab.sweep` into one ledger that all probes of a study share, so that what two of them need is made once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from svdlab.measure.video import read_frames
from svdlab.pipeline.conditions import Conditions
from svdlab.pipeline.generate import ProbePipeline
from svdlab.probes.findings import Finding
from svdlab.probes.stimuli import Stimuli
from svdlab.study import plans
from svdlab.study.sweep import sweep


@dataclass(frozen=True)
class Check:
    """One row of the audit: what the instrument must say of a case whose answer is known, and what it said."""

    check: str
    expected: str
    measured: str
    passed: bool


@dataclass(frozen=True)
class Panel:
    """A graph for the probe's figure: tidy data, and how to draw it.

    kind: "curve" (y against x, a line for each value of `by`, with a band where the table has `low` and `high`), "bars"
    (y for each x, whiskers from `low` and `high`), or "plane" (y as colour over x and `by`). Labels carry units.
    """

    title: str
    table: pd.DataFrame
    x: str
    y: str
    by: str = ""
    kind: str = "curve"
    x_label: str = ""
    y_label: str = ""


@dataclass(frozen=True)
class Shown:
    """A clip, or a row of pictures, that the figure shows: frames "f h w c" in [0, 1], and why it is there."""

    label: str
    frames: np.ndarray
    run_id: str = ""


@dataclass
class Study:
    """One probe's run in progress: what its functions work with.

    pipe: the pipeline. out: the ledger that all probes of a study share; `folder` is this probe's own. stimuli: prepared
    at the checkpoint's size, with `.original` as they came. conditions: what every clip starts from. options: the
    probe's own, defaults filled in. notes: for the reader, printed with the verdict. known: what the audit learned that
    the findings need.
    """

    probe: Probe
    pipe: ProbePipeline
    out: Path
    stimuli: Stimuli
    original: Stimuli
    seeds: tuple[int, ...]
    conditions: Conditions
    quick: bool = False
    progress: bool = True
    options: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    known: dict[str, Any] = field(default_factory=dict)
    plan: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def folder(self) -> Path:
        return self.out / self.probe.name

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the clips."""
        source = self.pipe.source
        return self.conditions.height or source.height, self.conditions.width or source.width

    def grid(self, stimuli: Stimuli | None = None, *, seeds: Sequence[int] | None = None, **axes: Any) -> pd.DataFrame:
        """A plan: every stimulus with every seed under every combination of the conditions given.

        >>> study.grid(motion_bucket_id=[20, 250], fps=[7, 24])

        `image` holds the prepared pictures, `label_stimulus` their names. Other conditions are the study's own.
        """
        chosen = self.stimuli if stimuli is None else stimuli
        names = pd.DataFrame({"label_stimulus": chosen.names, "image": list(chosen.pictures)})
        rows = plans.grid(**axes, seed=list(self.seeds if seeds is None else seeds))
        plan = names.merge(rows.assign(**self._base(axes)), how="cross")
        plan["image"] = plan["image"].astype(object)
        return plan

    def _base(self, but: Mapping[str, Any]) -> dict[str, Any]:
        """The study's conditions where they are not the defaults, as columns."""
        given = {k: v for k, v in self.conditions.asdict().items() if v != plans.DEFAULTS[k] and k not in but}
        return {k: v if not isinstance(v, tuple) else json.dumps(list(v)) for k, v in given.items()}

    def sweep(
        self,
        plan: pd.DataFrame,
        measure: Any = ("motion", "fidelity"),
        *,
        edit: AbstractContextManager[Any] | None = None,
        intervention: str | None = None,
        keep: Any = (),
    ) -> pd.DataFrame:
        """`svdlab.sweep` of a plan into the shared ledger; the table has `stimulus` and what is known of each beside it.

        edit: a context from `svdlab.edit` or `svdlab.edits` in which to sweep; its runs then need `intervention`, a name.
        Failed clips are rows with `status` "failed" here; `svdlab.probes.run` counts them and leaves them out.
        """
        with edit or nullcontext():
            table = sweep(
                self.pipe, plan, self.out, measure=measure, keep=keep, progress=self.progress, intervention=intervention
            )
        table = table.rename(columns={"label_stimulus": "stimulus"}).reset_index(drop=True)
        known = self.stimuli.table.drop(columns=[c for c in self.stimuli.table if c != "name" and c in table])
        return table.merge(known.rename(columns={"name": "stimulus"}), on="stimulus", how="left")

    def frames(self, run: Any) -> np.ndarray:
        """The frames of a table's row, float32 "f h w c" in [0, 1]."""
        return read_frames(run["frames"]).astype(np.float32) / 255

    def latents(self, run: Any) -> Any:
        """The final latents of a table's row, a tensor "f c h w"."""
        from safetensors.torch import load_file

        return load_file(run["latents"])["latents"]


@dataclass(frozen=True)
class Probe:
    """One limitation as an experiment. Only name, card, question, measure, audit and findings are needed.

    card: the model card's sentence. stimuli: pictures to use where the user gives none, from (source, quick): source is
    the set that the checkpoint names as its own ground ("photographs" for SVD). plan: clips to make, from the study;
    `study.plan` holds it. measure: a table with a row per clip (or per stimulus, for what needs no clip), with the column
    `stimulus`. audit: checks with known answers, before any clip is made. findings: of the table's rows that are not
    failed. verdict: findings to a sentence; default the headline's. panels: graphs. pictures: what the figure shows;
    default the typical and the worst clip by `worst` (a column, and whether high values are worse). extra: the optional
    part it needs, with the modules that are looked for. options: its own arguments of `run`, with defaults (quick ones
    in `quick_options`).
    """

    name: str
    card: str
    question: str
    measure: Callable[[Study], pd.DataFrame]
    audit: Callable[[Study], list[Check]]
    findings: Callable[[Study, pd.DataFrame], list[Finding]]
    plan: Callable[[Study], pd.DataFrame] | None = None
    stimuli: Callable[[str, bool], Stimuli] = lambda source, quick: default_stimuli(source, quick)
    verdict: Callable[[Study, list[Finding]], str] | None = None
    panels: Callable[[Study, pd.DataFrame], list[Panel]] | None = None
    pictures: Callable[[Study, pd.DataFrame], list[Shown]] | None = None
    worst: tuple[str, bool] | None = None
    extra: str | None = None
    modules: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    quick_options: Mapping[str, Any] = field(default_factory=dict)


def default_stimuli(source: str, quick: bool) -> Stimuli:
    """Twelve pictures of a set, six for `quick`: the fewest that a verdict may rest on."""
    return Stimuli.of(source, 6 if quick else 12)


@dataclass(frozen=True)
class Cost:
    """What a probe takes, before it starts: clips in all, those the ledger lacks, and seconds where they are known.

    seconds: device time for what is missing, from a timed step of this model on this device; None: not known.
    took: what it did take, in wall time, once it ran.
    """

    clips: int
    missing: int
    seconds: float | None
    device: str
    took: float | None = None

    def __str__(self) -> str:
        time = "time unknown" if self.seconds is None else f"about {_duration(self.seconds)} of device time"
        return f"{self.clips} clips, {self.missing} to make, {time} on {self.device}"


@dataclass(frozen=True)
class ProbeResult:
    """What a probe found.

    table: a row per clip. audit: a row per Check. findings: a row per Finding, the headline first. verdict: a sentence;
    it says so where there is none. status: "done", "no verdict" (the audit failed, or too few images), or "not run".
    pictures: what the figure shows. stimuli: names, sources and licences of the pictures. label: what figures must say
    of the checkpoint, such as "model organism, not SVD".
    """

    name: str
    card: str
    question: str
    status: str
    verdict: str
    table: pd.DataFrame = field(default_factory=pd.DataFrame)
    audit: pd.DataFrame = field(default_factory=pd.DataFrame)
    findings: pd.DataFrame = field(default_factory=pd.DataFrame)
    panels: tuple[Panel, ...] = ()
    pictures: tuple[Shown, ...] = ()
    stimuli: pd.DataFrame = field(default_factory=pd.DataFrame)
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    cost: Cost | None = None
    source: dict[str, Any] = field(default_factory=dict)
    quick: bool = False

    @property
    def label(self) -> str:
        return str(self.source.get("label", ""))

    @property
    def checkpoint(self) -> str:
        return str(self.source.get("checkpoint", ""))

    def figure(self) -> Any:
        """Findings with their intervals, the probe's graphs, its pictures and its audit (see `svdlab.show.probe`)."""
        from svdlab import show

        return show.probe(self)

    def __str__(self) -> str:
        lines = [f"{self.name}: {self.verdict}"]
        lines += [f"  {s}" for s in self.findings["sentence"]] if len(self.findings) else []
        lines += [f"  {note}" for note in (*self.notes, *self.skipped)]
        return "\n".join(lines)

    def facts(self) -> dict[str, Any]:
        """The result as plain JSON: what the limitations card's machine-readable half holds of it."""
        return {
            "name": self.name,
            "card": self.card,
            "question": self.question,
            "status": self.status,
            "verdict": self.verdict,
            "findings": json.loads(self.findings.to_json(orient="records")),
            "audit": json.loads(self.audit.to_json(orient="records")),
            "stimuli": json.loads(self.stimuli.to_json(orient="records")),
            "skipped": list(self.skipped),
            "notes": list(self.notes),
            "clips": len(self.table),
            "cost": None if self.cost is None else asdict(self.cost),
            "source": self.source,
            "quick": self.quick,
        }


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
