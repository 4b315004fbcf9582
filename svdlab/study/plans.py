"""Plans: DataFrames with one row per clip. A grid is one way to write one.

>>> plan = grid(fps=[6, 12, 24], motion_bucket_id=[40, 127, 250], seed=range(4))
>>> len(plan)
36

Columns are conditions by diffusers' names, `seed`, `image` (path or sample name), `lora` (a .safetensors file), `lora_scale`
(default 1), `flip_noise`, and `label_...` columns, which are carried along. What a plan leaves out keeps its default.
`flip_noise` (empty, left_right, up_down or half_turn) flips the seed's noise, for the other half of a mirrored pair;
`start_latents` and `start_noise` hold tensors "f c h w" to start from, as `generate` takes them.
"""

import ast
import csv
import glob
import io
import itertools
import json
import math
import os
import re
import warnings
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import fields
from functools import lru_cache
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from svdlab.errors import InputError, number, seed, shown
from svdlab.errors import path as kind_of_path
from svdlab.measure.files import read_file, whole_text
from svdlab.pipeline.conditions import Conditions
from svdlab.pipeline.images import SUFFIXES, images_in, is_sample, open_image

DEFAULTS = {f.name: f.default for f in fields(Conditions)}
CONDITIONS = tuple(DEFAULTS)
STARTS = ("flip_noise", "start_latents", "start_noise")
LORA = ("lora", "lora_scale")
COLUMNS = (*CONDITIONS, "seed", "image", *LORA, *STARTS)
SEQUENCES = ("guidance_curve", "guidance_interval")  # one value may be a tuple
TEXTS = ("image", "flip_noise", "lora", "scheduler")
MOST = 1_000_000  # rows of a plan
_FLOATS = ("noise_aug_strength", "min_guidance_scale", "max_guidance_scale", "playback_fps")


def grid(**axes: Any) -> pd.DataFrame:
    """Every combination of the given values, the last axis fastest.

    >>> plan = grid(image=["astronaut", "cat"], motion_bucket_id=range(1, 256, 50), seed=[0, 1, 2])

    axes: conditions, `seed`, `image`; each one value or several (list, range, array; for guidance_curve and
    guidance_interval a row of numbers is one value). Raises InputError for an unknown name or an empty axis.
    """
    check_columns(axes)
    values = {name: _axis(name, axis) for name, axis in axes.items()}
    if empty := [name for name in axes or COLUMNS if not values.get(name)]:
        raise InputError(f"the grid is empty: give values for {', '.join(empty)}.")
    if (rows := math.prod(map(len, values.values()))) > MOST:
        raise InputError(f"the grid has {rows:.3g} rows: a plan has {MOST} at most.")
    return _checked(_table([dict(zip(axes, row, strict=True)) for row in itertools.product(*values.values())]))


def read_plan(path: str | Path) -> pd.DataFrame:
    """A plan from a file: .csv or .parquet with a row per clip; .yaml or .json with the axes of a grid, or a list of rows.

    >>> _ = Path("grid.yaml").write_text("fps: [6, 12]")
    >>> read_plan("grid.yaml").fps.tolist()
    [6, 12]

    Empty cells keep the default. Raises InputError for what cannot be read, and for unknown columns.
    """
    path = kind_of_path("path", path)
    readers: dict[str, Any] = {".csv": read_csv, ".tsv": read_csv, ".parquet": read_parquet}
    readers |= dict.fromkeys((".yaml", ".yml", ".json"), read_yaml)
    if path.suffix.lower() not in readers or not path.is_file():
        why = "" if path.is_file() else "it is no file; " if path.exists() else "no such file; "
        raise InputError(f"there is no plan {path}: {why}give a .csv, .parquet, .tsv, .yaml or .json file.")
    content = readers[path.suffix.lower()](path)
    if isinstance(content, pd.DataFrame):
        content = content.astype(object).where(content.notna(), None)
        if path.suffix.lower() in (".csv", ".tsv"):
            if content.shape[1] > 1 and len(blank := content.index[(content == "").all(axis=1)]):  # as spreadsheets leave them
                raise InputError(f"{path}: row {blank[0] + 2} has no value: delete it, or write one into it.")
            content = content.apply(
                lambda c: c if c.name in TEXTS else pd.Series([*map(_csv_value, c)], c.index, object)
            ).apply(_inferred)
    plan = grid(**content) if isinstance(content, dict) else as_plan([] if isinstance(content, str) else content)
    files = [name for name in ("image", "lora") if name in plan]
    return plan.assign(**{name: [_beside(path, file) for file in plan[name]] for name in files})


def with_images(plan: pd.DataFrame, image: str | None) -> tuple[pd.DataFrame, str | None]:
    """A plan for `svdlab sweep --image`, and the image of its rows that have none, as `across_images` gives them; InputError
    where an image cannot be opened."""
    plan, image = across_images(plan, image, "--image")
    with warnings.catch_warnings(action="ignore"):  # of what the sweep says again
        for each in [image] if image is not None else plan["image"].dropna().unique() if "image" in plan else []:
            open_image(each)
    return plan, image


def across_images(plan: pd.DataFrame, image: Any, name: str = "image") -> tuple[pd.DataFrame, Any]:
    """A plan and an image for its rows: of a folder, a glob or a CSV file of images, each row with each image, and None.

    >>> table, rest = across_images(grid(fps=[6, 12]), "photos/*.jpg")                   # doctest: +SKIP

    A CSV file has a column `image` (or `path`, or `file`), from its own folder where it is relative; its other columns are
    carried along as label_... . Whatever else `image` is comes back as it is. InputError where both name images.
    """
    if not isinstance(image, (str, Path)) or is_sample(str(image)):
        return plan, image
    image = str(image)
    try:
        found = Path(image).expanduser()
        table, folder = found.suffix.lower() in (".csv", ".tsv") and found.is_file(), found.is_dir()
    except (OSError, RuntimeError, ValueError):  # too long, a NUL, no such user: whoever opens it names the fault
        return plan, image
    if not (table or folder or (re.search(r"[*?\[]", image) and not os.path.lexists(found))):
        return plan, image
    if "image" in plan and plan["image"].notna().any():
        raise InputError(f"images are given both by {name} {image} and in the plan. Leave one out.")
    images = _listed(found) if table else grid(image=images_in(found) if folder else _matching(found))
    rest = plan.drop(columns="image", errors="ignore")
    check_columns([*rest, *images])
    return rest.merge(images, how="cross"), None


def _matching(pattern: Path) -> list[str]:
    paths = sorted(path for path in glob.glob(str(pattern), recursive=True) if Path(path).suffix.lower() in SUFFIXES)
    if not paths:
        raise InputError(f"{pattern} matches no image: the suffixes are {', '.join(SUFFIXES)}.")
    return paths


def _listed(file: Path) -> pd.DataFrame:
    listed = read_csv(file)
    column = next((c for c in ("image", "path", "file") if c in listed), None)
    if column is None or listed.empty:
        raise InputError(f"{file} lists no image: it needs a column 'image', and has {', '.join(map(str, listed)) or 'none'}.")
    if not listed[column].map(bool).all():
        raise InputError(f"{file} has a row without an image.")
    own = [file.parent / os.path.expanduser(each) for each in listed[column]]
    images = [str(path) if os.path.isfile(path) else each for path, each in zip(own, listed[column], strict=True)]
    labels = listed.drop(columns=column).rename(
        columns=lambda name: "label_" + re.sub(r"\W", "_", name.removeprefix("label_"))
    )
    return pd.DataFrame({"image": images}).join(labels)


def _beside(plan: Path, image: Any) -> Any:
    """The path of an image or a LoRA that lies beside its plan, as in what a widget exports; else what the plan says."""
    here = isinstance(image, str) and os.path.basename(image) == image and not os.path.lexists(image) and not is_sample(image)
    return str(plan.parent / image) if here and os.path.isfile(plan.parent / image) else image


def read_csv(path: Path) -> pd.DataFrame:
    """A CSV file as texts: commas, semicolons or tabs, UTF-8 or UTF-16, with or without a byte order mark or the index that
    pandas writes. InputError names the line where a row has more or fewer cells than the header."""
    content = _content(path, 2**27)
    try:
        text = content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
        head = text.splitlines()[0]
        how: dict[str, Any] = dict(delimiter=max(",;\t", key=head.count), strict=True, skipinitialspace=True)
        reader = csv.reader(io.StringIO(text, newline=""), **how)
        header, *rows = [row for row in reader if row]
    except (ValueError, IndexError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as a CSV file: {error}") from error
    if odd := next((n for n, row in enumerate(rows, 2) if len(row) != len(header)), None):
        raise InputError(f"{path} cannot be read: row {odd} has {len(rows[odd - 2])} cells, the header {len(header)}.")
    header = [name.strip() for name in header]
    # A first column without a name is the index that pandas wrote, others without name and values are a spreadsheet's.
    kept = [i for i, name in enumerate(header) if name or (i and any(row[i] for row in rows))]
    if len({header[i] for i in kept}) < len(kept) or not kept or "\0" in text:
        raise InputError(f"{path} cannot be read: it has no column, one stands twice, or it holds NUL bytes.")
    return pd.DataFrame([[row[i] for i in kept] for row in rows], columns=[header[i] for i in kept], dtype=object)


def read_parquet(path: Path) -> pd.DataFrame:
    """A Parquet file whose whole numbers stay whole; InputError where it is none, or opens to more than a plan can be."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if not path.is_file():
            raise OSError("it is no file" if path.exists() else "no such file")
        facts = pq.ParquetFile(path).metadata
        size = sum(facts.row_group(n).total_byte_size for n in range(facts.num_row_groups))
        if facts.num_rows > MOST or size > 2**28:
            raise InputError(f"{path} cannot be read: {facts.num_rows} rows, {size} bytes are more than a plan has.")
        return pd.read_parquet(path, dtype_backend="numpy_nullable")
    except (pa.ArrowException, ValueError, TypeError, OSError, NotImplementedError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} cannot be read as Parquet: {' '.join(str(error).split())[:200]}") from error


def read_yaml(path: Path) -> Any:
    """The content of a YAML or JSON file: JSON as it is, and whatever else as `parse_yaml` reads it."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(found := dict(pairs)) < len(pairs):
            raise ValueError("a key stands twice")
        return found

    try:
        text = _content(path, 2**20).decode("utf-8-sig")
        with suppress(ValueError, RecursionError):  # YAML has no tabs, no U+007F, and no halves of an emoji
            return json.loads(text, object_pairs_hook=once)
        return parse_yaml(text)
    except (UnicodeDecodeError, InputError) as error:
        raise InputError(f"{path} cannot be read as YAML: {error}") from error


def parse_yaml(text: str) -> Any:
    """YAML without aliases, objects, dates or repeated keys, in which 1e-3 is a number; InputError in one line for the rest.

    >>> parse_yaml("[1e-3, 2024-01-31]")
    [0.001, '2024-01-31']
    """
    import yaml

    class Loader(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.events.AliasEvent):
                raise yaml.YAMLError("aliases (*name) are not read: write the value out")
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            if twice := [key for key in keys if keys.count(key) > 1]:
                raise yaml.YAMLError(f"{twice[0]!r} stands twice")
            return super().construct_mapping(node, deep)

    left_out = ("tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:float", "tag:yaml.org,2002:int")
    Loader.yaml_implicit_resolvers = {
        first: [(tag, form) for tag, form in forms if tag not in left_out]
        for first, forms in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    number = re.compile(r"[-+]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][-+]?\d+)?$|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+.0123456789"))
    whole = re.compile(r"[-+]?(0|[1-9]\d*)$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:int", whole, list("-+0123456789"))
    try:
        return yaml.load(text, Loader)  # noqa: S506
    except RecursionError:
        raise InputError("it is nested too deeply.") from None
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise InputError(" ".join(str(error).split())[:300]) from None


def _content(path: Path, most: int) -> bytes:
    if not path.is_file():  # a pipe would be waited for
        raise InputError(f"{path} cannot be read: {'it is no file' if path.exists() else 'no such file'}.")
    try:
        return read_file(path, most)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from error


def _csv_value(cell: str) -> Any:
    """Numbers of a CSV file, which stay texts where a number would lose digits (007); empty is None."""
    if re.fullmatch(r"[-+]?(0|[1-9]\d{0,30})", cell):
        return int(cell)
    if re.fullmatch(r"[-+]?(0|[1-9]\d*)?\.?\d*([eE][-+]?\d{1,3})?", cell) and re.match(r"[-+]?(\d+[.eE]|\.\d)", cell):
        return float(cell)
    return cell or None


def _inferred(column: pd.Series) -> pd.Series:
    return column if column.isna().any() else column.infer_objects()


def _checked(plan: pd.DataFrame) -> pd.DataFrame:
    """The plan; InputError, with the row, where a condition, a seed or a flip cannot be used."""
    seen: set[tuple[Any, ...]] = set()
    for label, row in zip(plan.index, condition_rows(plan), strict=True):
        if row not in seen:
            seen.add(row)
            try:
                Conditions(**dict(zip(CONDITIONS, row, strict=True)))
            except InputError as error:
                raise InputError(f"row {label!r} of the plan: {error}") from error
            except TypeError as error:
                raise InputError(f"row {label!r} of the plan: {shown(row)} holds a value of no condition's kind.") from error
    loras(plan)
    for label, cell in plan["image"].items() if "image" in plan else ():
        if isinstance(cell, (list, tuple, set, Mapping)):
            raise InputError(f"row {label!r} of the plan: image={shown(cell)}: a row has one image. See svdlab.grid.")
    for cell in plan["seed"].tolist() if "seed" in plan else []:
        if not empty(cell) or isinstance(cell, str):  # as of every condition: an empty text is no number
            seed("seed", int(cell) if isinstance(cell, float) and cell.is_integer() else cell)
    return plan


def empty(cell: Any) -> bool:
    """Whether a cell leaves the default."""
    return cell is None or cell is pd.NA or (isinstance(cell, (str, float)) and (not cell or cell != cell) and cell != 0)


def loras(plan: pd.DataFrame) -> list[tuple[str, float] | None]:
    """Each row's LoRA, as file and strength; None for none.

    >>> loras(as_plan([{"lora": "/tmp/pan.safetensors", "lora_scale": 0.5}, {}]))
    [('/tmp/pan.safetensors', 0.5), None]
    """
    if not any(name in plan for name in LORA):
        return [None] * len(plan)
    found: list[tuple[str, float] | None] = []
    for label, *cells in zip(plan.index, *(plan.get(name, pd.Series([None] * len(plan))) for name in LORA), strict=True):
        file, scale = (None if empty(cell) else cell for cell in cells)
        if file is None and scale not in (None, 0):
            raise InputError(f"row {label!r} of the plan: lora_scale={shown(scale)} needs lora, its .safetensors file.")
        try:
            scale = number("lora_scale", 1.0 if scale is None else scale, -1000, 1000)
            found.append(None if file is None else (str(kind_of_path("lora", file)), scale))
        except InputError as error:
            raise InputError(f"row {label!r} of the plan: {error}") from error
    return found


def as_plan(plan: Any) -> pd.DataFrame:
    """A DataFrame, a list of rows (dicts), or a plan file's path, checked: known columns, at least one row."""
    if isinstance(plan, (str, Path)):
        return read_plan(plan)
    if not isinstance(plan, pd.DataFrame):
        try:
            plan = _table([dict(row) for row in plan])
        except (TypeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"plan is a {type(plan).__name__}: give a DataFrame, a list of dicts, or a file.") from error
    check_columns(plan.columns)
    if hidden := [name for name in plan.index.names if name in COLUMNS and name not in plan]:
        raise InputError(f"{', '.join(hidden)} is the plan's index, not a column, and would be left out: plan.reset_index().")
    if not len(plan):
        raise InputError("the plan has no rows: nothing would be made.")
    return _checked(plan)


def check_columns(names: Iterable[Any]) -> None:
    """Raises InputError where a name is no plan column and no label_ column."""
    names = list(names)
    if len(set(map(str, names))) < len(names):
        raise InputError("a column stands twice in the plan: give each a name of its own.")
    unknown = [name for name in names if name not in COLUMNS and not re.fullmatch(r"label_\w+", str(name))]
    if unknown:
        raise InputError(
            f"unknown column {', '.join(map(repr, unknown))}: a plan has {', '.join(COLUMNS)}; "
            f"columns of your own are carried along when their names begin with label_."
        )


def condition_rows(plan: pd.DataFrame) -> list[tuple[Any, ...]]:
    """The plan's conditions as rows in the order of CONDITIONS, in one canonical form: 7, 7.0 and a CSV's 7 are one fps."""
    columns = []
    for name in CONDITIONS:
        cells = plan[name].tolist() if name in plan else [None]
        values = [_one(name, tuple(c) if isinstance(c, (list, np.ndarray)) else c) for c in cells]
        columns.append(values if name in plan else values * len(plan))
    return list(zip(*columns, strict=True))


def _one(name: str, value: Any) -> Any:
    try:
        return _canonical(name, value)
    except TypeError as error:  # not hashable
        raise InputError(f"{name}={shown(value)}: this is no value of a condition.") from error


@lru_cache(typed=True)  # columns repeat few values
def _canonical(name: str, value: Any) -> Any:
    default = DEFAULTS[name]
    if value is None or value is pd.NA:
        value = default  # an empty cell
    if value is None or (default is None and isinstance(value, float) and math.isnan(value)):
        return None  # pandas writes NaN for None; where None is not allowed, Conditions refuses NaN
    if name in SEQUENCES:
        try:  # in a CSV file it is a text in brackets
            value = ast.literal_eval(value) if isinstance(value, str) and value[:1] in ("[", "(") else value
            return value if isinstance(value, str) else tuple(float(v) for v in value)
        except (ValueError, SyntaxError, TypeError) as error:
            raise InputError(f"{name}={value!r}: give numbers, as in [1.0, 2.5].") from error
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return value  # for Conditions to refuse
    return float(value) if name in _FLOATS else int(value) if float(value).is_integer() else value


def _axis(name: str, axis: Any) -> list[Any]:
    if getattr(axis, "ndim", 1) == 0:  # of numpy or torch
        axis = axis.item()
    several = isinstance(axis, Iterable) and not isinstance(axis, (str, Mapping))
    if not several or (name == "image" and isinstance(axis, np.ndarray)):
        return [axis]
    if isinstance(axis, io.IOBase):
        raise InputError(f"{name}={shown(axis)}: give a value or a list of values.")
    values = [tuple(value) if isinstance(value, list) else value for value in itertools.islice(axis, MOST + 1)]
    return [tuple(values)] if values and name in SEQUENCES and all(isinstance(v, Real) for v in values) else values


def _table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """What a row lacks is None, in a column of dtype object: pandas would turn whole numbers beside NaN into floats."""
    if odd := next((v for row in rows for v in row.values() if isinstance(v, str) and whole_text(v) != v), None):
        raise InputError(f"the plan holds {shown(odd)}, which is no UTF-8 and in no table: rename the file.")
    absent = dict.fromkeys(name for row in rows for name in row)
    table = pd.DataFrame([absent | row for row in rows], dtype=object)
    return table.apply(lambda column: column if column.isna().any() else column.infer_objects())
