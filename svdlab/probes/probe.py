"""What a probe is: an experiment on one limitation. Its audit measures known answers first, then clips are made and judged.

    class Redness(Probe):
        name = "redness"
        question = "Do clips turn red, and more so with a higher motion bucket?"
        axes = {"motion_bucket_id": (40, 200)}                    # swept; every axis is an option of `svdlab.probes.run`
        graphs = (Graph("Red", "motion_bucket_id", "red", "mean of 1"),)
        worst = "red"                                             # what ranks the clips that the figure shows

        def measures(self, study):                                # on every clip
            return (red,)                                         # def red(clip): return {"red": clip.frames[..., 0].mean()}

        def audit(self, study):                                   # known answers, before any clip is made
            through = study.through(lambda frames: frames[..., 0].mean(), still)[0]
            return [near("red of a still image", through - study.each(lambda image: image[..., 0].mean()), 0.0, within=0.02)]

        def findings(self, study, clips):                         # Effects, each with its key
            yield effects.difference("bucket", "red, bucket 200 minus 40", clips, "red", by="motion_bucket_id")

    result = svdlab.probes.run(Redness, pipe, "results/redness")

`svdlab.probes.running` drives it. All probes of a study share one folder of runs, so what two of them need is made once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from svdlab.errors import LABEL, InputError, flag, number, one_of, several, shown, takes, text, whole
from svdlab.measure.video import read_frames
from svdlab.pipeline.conditions import Conditions
from svdlab.pipeline.generate import ProbePipeline
from svdlab.probes.stimuli import Stimuli, through_autoencoder
from svdlab.stats import effects
from svdlab.stats.effects import Effect
from svdlab.study import plans
from svdlab.study.identity import as_measures
from svdlab.study.sweep import sweep

OWN_SEEDS = 1_000_000  # from one image's seeds to the next one's

# --- checks -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Check:
    """One row of an audit: what the instrument must report in a case with a known answer, and what it reported."""

    check: str
    expected: str
    measured: str
    passed: bool


@takes(check=text, good=partial(several, check=flag, least=0), least=partial(number, above=0, most=1))
def most(check: str, good: Iterable[Any], *, least: float = 0.5) -> Check:
    """True for at least a share of the cases: half of them, or all with least=1.

    >>> most("a still image is reported still", [True, True, False]).passed
    True
    """
    flags = [bool(g) for g in good]
    expected = f"in all of {len(flags)}" if least == 1 else f"in at least {100 * least:g} % of {len(flags)}"
    return Check(check, expected, f"in {sum(flags)}", bool(flags) and sum(flags) >= least * len(flags))


@takes(check=text, true=number, within=partial(number, above=0), worst=flag)
def near(check: str, values: Any, true: float, *, within: float, worst: bool = False) -> Check:
    """The median of the values (or each of them, with worst=True) within a share of the true value; of 0, within itself.

    >>> near("a pan of 1 px/frame", [0.9, 1.0, 1.3], 1.0, within=0.25).measured
    'median 1'
    """
    seen = _finite(values)
    value = max(seen, key=lambda v: abs(v - true)) if seen and worst else np.median(seen or np.nan)
    reach = within * abs(true) if true else within
    expected = f"{true:.3g} within {100 * within:g} %" if true else f"0 within {within:g}"
    return Check(check, expected, f"{'worst' if worst else 'median'} {value:.3g}", bool(abs(value - true) <= reach))


@takes(check=text, limit=number)
def below(check: str, values: Any, limit: float) -> Check:
    """The largest of the values is below a limit.

    >>> below("colours hold in a still image", [0.001, 0.003], 0.02).measured
    'at most 0.003'
    """
    value = max(_finite(values), default=np.nan)
    return Check(check, f"below {limit:.3g}", f"at most {value:.3g}", bool(value < limit))


@takes(check=text, limit=number)
def above(check: str, values: Any, limit: float) -> Check:
    """The smallest of the values is above a limit."""
    value = min(_finite(values), default=np.nan)
    return Check(check, f"above {limit:.3g}", f"at least {value:.3g}", bool(value > limit))


@takes(what=text, threshold=partial(number, above=0))
def graded(what: str, full: Any, half: Any, threshold: float) -> Check:
    """Effects planted at the size of a decision threshold and at half of it are measured, in the median, within a quarter of
    the threshold: the one is found, the other not claimed.

    >>> graded("a drift of 0.02, and of half of it", [0.019, 0.021], [0.011, 0.009], 0.02).measured
    'median 0.02 and 0.01'
    """
    one, two = (float(np.median(_finite(v) or np.nan)) for v in (full, half))
    good = abs(one - threshold) <= 0.25 * threshold and abs(two - threshold / 2) < 0.25 * threshold
    return Check(
        what, f"{threshold:.3g} and {threshold / 2:.3g} within {threshold / 4:.2g}", f"median {one:.3g} and {two:.3g}", good
    )


def _finite(values: Any) -> list[float]:
    try:
        return [float(v) for v in np.atleast_1d(np.asarray(values, float)).ravel() if np.isfinite(v)]
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"values={shown(values)}: give numbers.") from error


# --- graphs and examples ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Graph:
    """A graph of a probe's figure, by columns of the clips' table: means over images with their 95 % intervals.

    kind: "curve" (y against x, a line for each value of `by`) or "bars" (a point with its interval for each x). y: a column,
    or several, which `by` then tells apart. A column of lists holds one value per frame: x is then called "frame". of: turns
    the clips' table into the one that is drawn. Labels carry units.
    """

    title: str
    x: str
    y: str | tuple[str, ...]
    y_label: str = ""
    x_label: str = ""
    by: str = ""
    kind: str = "curve"
    of: Callable[[pd.DataFrame], pd.DataFrame] | None = None

    def __post_init__(self) -> None:
        one_of("kind", self.kind, ("curve", "bars"))
        for name in ("title", "x", "y_label", "x_label", "by"):
            LABEL(name, getattr(self, name))
        several("y", [self.y] if isinstance(self.y, str) else self.y, text)

    def points(self, clips: pd.DataFrame) -> pd.DataFrame:
        """What is drawn: `x`, `by`, `value`, `low`, `high`, a row each; low and high are NaN for fewer than two images."""
        table = self.of(clips) if self.of else clips
        keys = [c for c in dict.fromkeys(("stimulus", "seed", self.x, self.by)) if c in table]
        parts = []
        for column in [self.y] if isinstance(self.y, str) else self.y:
            part = table.reindex(columns=[*keys, column]).dropna(subset=[column]).rename(columns={column: "value"})
            if len(part) and isinstance(part["value"].iloc[0], (list, np.ndarray)):
                part = part.assign(**{self.x: part["value"].map(lambda v: list(range(len(v))))}).explode([self.x, "value"])
            if len(part) and self.x not in part:
                raise InputError(f"the graph {self.title!r} is over {self.x!r}, which is no column of the clips.")
            parts.append(part.assign(by=part.get(self.by, column)).rename(columns={self.x: "x"}))
        points = pd.concat(parts)
        groups = points.groupby(["x", "by"], sort=False, observed=True) if len(points) else ()
        rows = [(x, by, *_mean(group)) for (x, by), group in groups]
        return pd.DataFrame(rows, columns=["x", "by", "value", "low", "high"])


def _mean(group: pd.DataFrame) -> tuple[float, float, float]:
    """Mean and interval of one point; shares, of truth values, with their own interval."""
    if "stimulus" not in group:
        return float(group["value"].mean()), np.nan, np.nan
    truths = group["value"].map(lambda v: isinstance(v, (bool, np.bool_))).all()
    effect = effects.share("value", "", group) if truths else effects.mean("value", "", group, unit="", null=None)
    return effect.value, effect.low, effect.high


@dataclass(frozen=True)
class Example:
    """A clip, or a row of images, that the figure shows: frames "f h w c" in [0, 1], and what they are."""

    label: str
    frames: np.ndarray

    def __post_init__(self) -> None:
        LABEL("label", self.label)
        if not isinstance(self.frames, np.ndarray) or self.frames.ndim != 4 or not len(self.frames):
            raise InputError(f'frames={shown(self.frames)}: give frames "f h w c" in [0, 1].')


# --- study ------------------------------------------------------------------------------------------------------------


@dataclass
class Study:
    """One probe's run in progress: what its methods work with. `svdlab.probes.prepare` makes one.

    out: the folder of runs that all probes of a study share. given: the images as they came. stimuli: as the model is shown
    them. conditions: what every clip starts from. options: the probe's own, defaults filled in. plan: the clips to make.
    notes: for the reader, printed with the verdict.
    """

    probe: Probe
    pipe: ProbePipeline
    out: Path
    given: Stimuli
    seeds: tuple[int, ...]
    conditions: Conditions
    options: Mapping[str, Any]
    quick: bool = False
    progress: bool = True
    notes: list[str] = field(default_factory=list)
    stimuli: Stimuli = field(init=False)
    plan: pd.DataFrame = field(init=False)

    def __post_init__(self) -> None:
        self.height, self.width = self.conditions.height or 0, self.conditions.width or 0  # prepare has filled them in
        self.stimuli = self.probe.stimuli(self)
        self.plan = self.probe.plan(self)

    # before the clips

    def each(self, function: Callable[[np.ndarray], Any]) -> Any:
        """The function on every stimulus "h w 3": a Series by its name, or a DataFrame where it returns dicts."""
        found = {name: function(self.stimuli.array(name)) for name in self.stimuli.names}
        rows = isinstance(next(iter(found.values())), dict)
        return pd.DataFrame.from_dict(found, orient="index") if rows else pd.Series(found)

    def through(self, measure: Callable[..., Any], *makers: Callable[[np.ndarray], np.ndarray]) -> list[Any]:
        """Every stimulus, made into a clip by each maker, through the autoencoder, measured: an `each` for every maker.

        rest, pan = study.through(motion.summary, still, partial(panned, px=1.0))
        """
        chunk = self.conditions.decode_chunk_size
        through = lambda make, image: measure(through_autoencoder(self.pipe, make(image), chunk))
        return [self.each(partial(through, make)) for make in makers]

    def keep(self, good: pd.Series, why: str) -> None:
        """Leave stimuli out of the plan on which the instrument fails; a note names them. Where it fails on all, all stay:
        their numbers are then reported without a verdict.

            study.keep(rest.still, "on which motion cannot be measured")
        """
        lost = [str(name) for name, ok in good.items() if not ok]
        if lost and len(lost) < len(good):
            self.notes.append(f"{len(lost)} of {len(good)} images, {why}, are left out: {'; '.join(lost)}.")
            self.plan = self.plan[~self.plan["label_stimulus"].isin(lost)]

    # the clips

    def grid(self, **axes: Any) -> pd.DataFrame:
        """A plan: every stimulus with its seeds under every combination of the conditions given.

            study.grid(motion_bucket_id=[20, 250], fps=[7, 24])

        `image` holds the prepared images, `label_stimulus` their names. Other conditions are the study's own. Each stimulus
        has seeds of its own, OWN_SEEDS apart: seeds that all share would be a second sample, of two (`stats.crossed`). Where
        a probe compares images with each other (`shared_seeds`), they have the same.
        """
        names = pd.DataFrame({"label_stimulus": self.stimuli.names, "image": pd.Series(self.stimuli.images, dtype=object)})
        own = {key: value for key, value in self.conditions.asdict().items() if value != plans.DEFAULTS[key]}
        plan = names.merge(plans.grid(**{**own, **axes, "seed": list(self.seeds)}), how="cross")
        place = plan["label_stimulus"].map({name: i for i, name in enumerate(self.stimuli.names)})
        return plan if self.probe.shared_seeds else plan.assign(seed=plan["seed"] + OWN_SEEDS * place)

    def sweep(
        self,
        plan: pd.DataFrame | None = None,
        *,
        edit: AbstractContextManager[Any] | None = None,
        intervention: str | None = None,
        pipe: ProbePipeline | None = None,
    ) -> pd.DataFrame:
        """`svdlab.sweep` of the study's plan, or another, with the probe's measures; a row per clip.

        edit: a context of `svdlab.edit` to sweep in; its runs need `intervention`, a name. pipe: other weights. Columns of
        the probe's own measures carry no prefix; `stimulus` and what is known of each stand beside them. Failed clips are rows
        with `status` "failed", which `svdlab.probes.run` counts and leaves out.
        """
        plan, measures = self.plan if plan is None else plan, as_measures(list(self.probe.measures(self)))
        own = "|".join(f"{m.name}_" for m in measures if not m.own)
        with edit or nullcontext():
            table = sweep(
                pipe or self.pipe, plan, self.out, measure=measures, progress=self.progress, intervention=intervention
            )
        table = table.reset_index(drop=True).rename(columns=lambda c: re.sub(f"^({own})", "", c))
        table = table.rename(columns={"label_stimulus": "stimulus"})
        known = self.stimuli.table.rename(columns={"name": "stimulus"})
        if taken := [*table.columns[table.columns.duplicated()]]:
            raise InputError(f"a measure of {self.probe.name} gives {taken[0]!r}, a column that every run has: rename it.")
        return table.merge(
            known[["stimulus", *known.columns.difference(table.columns, sort=False)]], on="stimulus", how="left"
        )

    def frames(self, run: Any) -> np.ndarray:
        """The frames of a table's row, float32 "f h w c" in [0, 1]."""
        return read_frames(run["frames"]).astype(np.float32) / 255


# --- the probe --------------------------------------------------------------------------------------------------------

LIKE: dict[type, Callable[[str, Any], Any]] = {  # what is of a default's kind; a truth value is an int, too
    bool: flag,
    int: whole,
    float: number,
    str: text,
    tuple: partial(several, check=lambda _, value: value),
}


class Probe:
    """One limitation as an experiment: see the head of this module. `audit` and `findings` have to be written.

    card: the model card's sentence. axes, options: keyword arguments of `run` with their defaults; axes are swept. kinds:
    checks of options, as in `svdlab.errors`; others must be of their default's kind. quick: the
    values that replace them, and half of n_images. worst: the column that ranks the clips that the figure shows, high values
    worst; "-column" for low ones. headline: keys of the findings that make the verdict; by default the first. shared_seeds:
    whether all images have the same seeds. extra: the optional part it needs, with the modules that are looked for.
    """

    name: str = ""
    card: str = ""
    question: str = ""
    axes: Mapping[str, Sequence[Any]] = {}
    options: Mapping[str, Any] = {}
    kinds: Mapping[str, Callable[[str, Any], Any]] = {}
    quick: Mapping[str, Any] = {}
    n_images: int = 12
    graphs: tuple[Graph, ...] = ()
    worst: str = ""
    headline: tuple[str, ...] = ()
    shared_seeds: bool = False
    extra: str = ""
    modules: tuple[str, ...] = ()

    def checked(self, name: str, option: str, value: Any) -> Any:
        """The value of an option, checked; `name` is what the user called it."""
        default = {**self.axes, **self.options}[option]
        if value is None and default is None:
            return None
        if option in self.axes and option in plans.CONDITIONS:
            levels = several(name, value, lambda _, level: Conditions(**{option: level}) and level)
            return several(name, levels, lambda _, level: level, distinct=True)
        same = next((check for cls, check in LIKE.items() if isinstance(default, cls)), lambda _, v: v)
        return self.kinds.get(option, same)(name, value)

    def images(self, source: str, quick: bool) -> Stimuli:
        """The images where the user gives none. source: the set that the checkpoint names, "photographs" for SVD."""
        return Stimuli.of(source, self.n_images // 2 if quick else self.n_images)

    def stimuli(self, study: Study) -> Stimuli:
        """What the model is shown, from the images as they came."""
        return study.given.prepared(study.height, study.width)

    def plan(self, study: Study) -> pd.DataFrame:
        """The clips to make. A column `label_intervention` names the edit under which a row is made."""
        return study.grid(**{axis: several(axis, study.options[axis], lambda _, v: v) for axis in self.axes})

    def measures(self, study: Study) -> tuple[Any, ...]:
        """What is measured on each clip: see `svdlab.sweep`."""
        return ("motion", "fidelity")

    def audit(self, study: Study) -> list[Check]:
        """Checks with known answers, before any clip is made; at least one."""
        raise NotImplementedError

    def measure(self, study: Study) -> pd.DataFrame:
        """A row per clip (or per image, where none is needed), with the column `stimulus`."""
        return study.sweep()

    def findings(self, study: Study, clips: pd.DataFrame) -> Iterator[Effect]:
        """What follows from the clips that did not fail."""
        raise NotImplementedError

    def needed(self, study: Study) -> Mapping[str, int]:
        """How many images a verdict takes that needs more than LEAST_IMAGES, by what it would say. The estimate, and a run
        before it makes clips, name those that are out of reach."""
        return {}

    def verdict(self, found: Mapping[str, Effect]) -> str:
        """The findings in a few words, by their keys."""
        return " ".join(found[key].sentence for key in (self.headline or tuple(found)[:1]) if key in found)

    def examples(self, study: Study, clips: pd.DataFrame) -> list[Example]:
        """The typical and the worst clip by `worst`, of those that have a value."""
        column = self.worst.removeprefix("-")
        if column not in clips or clips[column].isna().all():
            return []
        seen = clips.dropna(subset=[column]).sort_values(column, ascending=self.worst == column, kind="stable")
        chosen = {"typical": seen.iloc[(len(seen) - 1) // 2], "worst": seen.iloc[-1]}
        return [self.example(study, clips, what, row) for what, row in chosen.items()]

    def example(self, study: Study, clips: pd.DataFrame, what: str, row: Any) -> Example:
        """One of `examples`: a row's input, what the autoencoder alone makes of it, and four frames of its clip."""
        varied = [c for c in plans.CONDITIONS if c in study.plan and study.plan[c].nunique() > 1]
        column, image, frames = self.worst.removeprefix("-"), study.stimuli.array(row["stimulus"]), study.frames(row)
        named = [f"seed {row['seed']}", *(f"{c} {row[c]}" for c in varied), f"{column} {row[column]:.3g}"]
        label = f"{what}: {row['stimulus']}, {', '.join(named)}: input, autoencoder, clip from first to last frame"
        chosen = frames[np.linspace(0, len(frames) - 1, 4).round().astype(int)]
        return Example(label, np.concatenate([image[None], through_autoencoder(study.pipe, image[None]), chosen]))
