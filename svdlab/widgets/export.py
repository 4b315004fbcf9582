"""What an export button writes: the figure, the video, and a plan from which both can be made again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from PIL import Image

from svdlab import __version__
from svdlab.measure.files import hash_facts, plain, write_whole
from svdlab.pipeline.generate import Call
from svdlab.pipeline.images import image_hash
from svdlab.show.figure import save
from svdlab.study.plans import CONDITIONS, DEFAULTS
from svdlab.widgets.runs import cell

if TYPE_CHECKING:
    from svdlab.widgets.panel import Panel

FORMATS = ("png", "pdf", "csv")


def write(panel: Panel, out: str | Path) -> list[Path]:
    """The files of one export, under a name made of their content; returns them."""
    view = json.dumps({"widget": panel.kind, **panel.view()}, default=str)
    images: dict[Path, Image.Image] = {}
    rows = []
    for row in panel.plan():
        row = {**row, "label_svdlab": __version__, "label_view": view}
        if isinstance(row.get("image"), Image.Image):
            path = Path(out, f"image-{image_hash(row['image'])[:12]}.png")
            images[path], row["image"] = row["image"], str(path)
        rows.append(row)
    stem = Path(out, f"{panel.kind}-{hash_facts({'plan': rows, 'view': view})[:8]}")
    save(panel.figure(), stem, formats=FORMATS)
    written = [stem.with_name(f"{stem.name}.{form}") for form in FORMATS]
    for path, image in images.items():
        with write_whole(path) as part:
            image.save(part)
    video = panel.video()
    videos = [video.save(stem)] if video is not None else []
    if rows:
        with write_whole(stem.with_name(f"{stem.name}.json")) as part:
            part.write_text(json.dumps(rows, indent=1, default=plain) + "\n", encoding="utf-8")
        videos.append(stem.with_name(f"{stem.name}.json"))
    return [*written, *images, *videos]


def row_of_call(call: Call, image: Any) -> dict[str, Any]:
    """A plan's row for what made a clip. image: name or path, or the prepared image itself."""
    row = {name: value for name, value in call.conditions.asdict().items() if value != DEFAULTS[name]}
    row |= {"seed": call.seed, "image": image, "label_image_hash": call.image, "label_checkpoint": call.source.checkpoint}
    row |= {"label_revision": call.source.revision, "label_weights": call.source.weights_hash}
    row |= {"label_licence": call.source.licence} | _beyond({"start": call.start, "edits": list(call.edits)})
    return {k: v for k, v in row.items() if v is not None}


def row_of_run(run: pd.Series) -> dict[str, Any]:
    """A plan's row for a run of a study."""
    values = {name: cell(run[name]) for name in (*CONDITIONS, "seed", "image") if name in run}
    row = {k: v for k, v in values.items() if v is not None and v != DEFAULTS.get(k)}
    labels = {"label_run": "run_id", "label_checkpoint": "checkpoint", "label_image_hash": "image_hash"}
    row |= {label: str(run[column]) for label, column in labels.items() if column in run}
    return row | _beyond({"intervention": run.get("intervention")})


def _beyond(facts: dict[str, Any]) -> dict[str, str]:
    """What no plan can express, where there is any."""
    facts = {name: value for name, value in facts.items() if value}
    return {"label_beyond_the_plan": json.dumps(facts)} if facts else {}
