"""What an export button writes: the figure, the film, and a plan from which both can be made again."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from svdlab import __version__
from svdlab.errors import OutputError
from svdlab.pipeline.generate import Clip
from svdlab.pipeline.images import image_hash
from svdlab.show.style import Figure, save
from svdlab.show.videos import Video
from svdlab.study.folders import identify
from svdlab.study.plans import CONDITIONS, DEFAULTS
from svdlab.widgets.cells import _plain

FORMATS = ("png", "svg", "csv")


def write(
    kind: str, out: str | Path, fig: Figure, film: Video | None, plan: Sequence[dict[str, Any]], view: dict[str, Any]
) -> list[Path]:
    """The files of one export, under a name made of their content; returns them."""
    pictures = {id(row["image"]): row["image"] for row in plan if hasattr(row.get("image"), "save")}
    names = {key: f"picture-{image_hash(picture)[:12]}.png" for key, picture in pictures.items()}
    rows = [
        {**row, "image": str(Path(out) / names[id(row["image"])])} if id(row.get("image")) in names else row for row in plan
    ]
    rows = [{**row, "label_svdlab": __version__, "label_view": json.dumps(view, default=str)} for row in rows]
    stem = Path(out) / f"{kind}-{identify({'plan': rows, 'view': view})[:8]}"
    written = save(fig, stem, formats=FORMATS)
    try:
        for name, picture in {names[key]: picture for key, picture in pictures.items()}.items():
            picture.save(Path(out) / name)
            written.append(Path(out) / name)
        if film is not None:
            written.append(film.save(stem))
        if not rows:
            return written
        target = stem.with_name(f"{stem.name}.json")
        part = target.with_name(target.name + ".part")
        part.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        os.replace(part, target)
    except OSError as error:
        raise OutputError(f"{out} could not be written: {error}. Choose a folder that you may write to.") from error
    return [*written, target]


def row_of_clip(clip: Clip, image: Any = None) -> dict[str, Any]:
    """A clip as a row of a plan. image: the name or path it was made from; without, the prepared picture itself."""
    values = {k: v for k, v in clip.conditions.asdict().items() if v != DEFAULTS[k]}
    row = {**values, "seed": clip.seed, "image": image if isinstance(image, (str, Path)) else clip.image}
    row["image"] = str(row["image"]) if isinstance(row["image"], Path) else row["image"]
    source = clip.source
    row |= {"label_checkpoint": source.checkpoint, "label_revision": source.revision, "label_weights": source.weights_hash}
    row |= {"label_image_hash": image_hash(clip.image), "label_licence": source.licence}
    odd = {"start": clip.start, "edits": list(clip.edits)}
    if any(odd.values()):  # what no plan can say
        row["label_beyond_the_plan"] = json.dumps({k: v for k, v in odd.items() if v})
    return {k: v for k, v in row.items() if v is not None}


def row_of_run(run: pd.Series) -> dict[str, Any]:
    """A run of the ledger as a row of a plan."""
    values = {name: _plain(run[name]) for name in (*CONDITIONS, "seed", "image") if name in run}
    values = {k: v for k, v in values.items() if v is not None and (k not in DEFAULTS or v != DEFAULTS[k])}
    labels = {"label_run": "run_id", "label_checkpoint": "checkpoint", "label_image_hash": "image_hash"}
    values |= {label: str(run[column]) for label, column in labels.items() if column in run}
    if run.get("intervention"):
        values["label_beyond_the_plan"] = json.dumps({"intervention": run["intervention"]})
    return values
