"""Parameters of notebooks, checked before anything runs, as papermill can write them into a cell.

>>> checked("own", {"fps": "list", "seed": "int"}, {"fps": 6, "seed": np.int64(3)})
{'fps': [6], 'seed': 3}

Each is of the type that the notebook declares; what is a condition by its name (fps, sweep_fps), a seed or a count has its
range. Of svdlab's own notebooks also names of measures, probes, images and checkpoints are looked up.
"""

import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from svdlab import errors
from svdlab.errors import InputError, SvdlabError, shown, whole
from svdlab.errors import path as as_path
from svdlab.pipeline.checkpoints import locate
from svdlab.pipeline.conditions import Conditions
from svdlab.pipeline.images import open_image
from svdlab.study import identity, plans

KINDS: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "bool": (bool,), "str": (str,)}
PROBES = ("duration", "realism", "stillness", "text_control", "legibility", "faces", "autoencoder", "off_conditions")
COMPARED: tuple[str, ...] = (
    "flow_px",
    "object_px",
    "camera_px",
    "pan_px",
    "object_dx",
    "still",
    "abstained",
    "drift_mse_first",
)
COMPARED += ("drift_colour_last", "blur_slope", "flicker_brightness", "warp_error", "face_persistence", "reconstruction_mse")


def checked(notebook: str, known: Mapping[str, str], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters as papermill can write them: tuples, ranges, arrays and, for a list, a single value become lists.

    Raises InputError for a parameter that the notebook does not have, or of another type than it declares.
    """
    found: dict[str, Any] = {}
    for key, given in parameters.items():
        value = _written(key, given)
        if key not in known:
            listed = ", ".join(f"{k} ({kind})" for k, kind in known.items()) or "none"
            raise InputError(f"{notebook}.ipynb has no parameter {key!r}: it has {listed}.")
        declared = known[key].partition("[")[0].strip()  # list[int] is a list
        wanted = KINDS.get(declared, (object,))
        if not isinstance(value, wanted) or (isinstance(value, bool) and wanted in (KINDS["int"], KINDS["float"])):
            raise InputError(f"{notebook}.ipynb: {key}={value!r} is a {type(value).__name__}, and it declares {known[key]}.")
        several = declared in ("list", "tuple", "set")
        found[key] = [value] if several and not isinstance(value, list) else value
        if (several and (value is None or isinstance(value, dict))) or (declared == "dict" and not isinstance(value, dict)):
            raise InputError(f"{notebook}.ipynb: {key}={shown(value)}: it declares {known[key]}.")
        try:
            _check_range(notebook, key, found[key])
        except SvdlabError as error:
            raise InputError(f"{notebook}.ipynb, parameter {key}: {error}") from error
    return found


def _check_range(notebook: str, key: str, value: Any) -> None:
    """InputError for a value that no clip can have: of a condition, by the end of its name (sweep_fps), of a seed, a count."""
    named = [name for name in (*plans.CONDITIONS, "steps") if key == name or key.endswith(f"_{name}")]
    check = OWN.get(notebook, {}).get(key)
    least = int(check is None)  # its own check says how many there must be
    values = errors.several(key, value, lambda _, one: one, least) if isinstance(value, list) else (value,)
    for one in values:
        if isinstance(one, (int, float)) and not isinstance(one, bool):
            errors.number(key, one)
        if key in ("seed", "seeds"):
            errors.seed(key, one) if key == "seed" or isinstance(value, list) else whole(key, one, 1, 10_000)
        elif named and not isinstance(value, str) and (name := max(named, key=len)) not in plans.SEQUENCES:
            name = "num_inference_steps" if name == "steps" else name
            ends = {"max_guidance_scale": one} if name == "min_guidance_scale" else {}
            ends |= {"min_guidance_scale": 0} if name == "max_guidance_scale" else {}
            Conditions().replace(**{**ends, name: one})
    if check:
        check(key, value)


def _written(name: str, value: Any) -> Any:
    """A value as a notebook's cell can hold it; InputError for dates, functions and whatever has no literal."""
    if hasattr(value, "tolist"):  # numpy's, pandas' and torch's
        value = value.tolist()
    if isinstance(value, Path):
        value = str(value)
    if isinstance(value, Mapping):
        return {str(key): _written(f"{name}[{key!r}]", item) for key, item in value.items()}
    if isinstance(value, (list, tuple, range)):
        if len(value) > plans.MOST:
            raise InputError(f"{name} has {len(value)} values: give {plans.MOST} at most.")
        return [_written(name, item) for item in value]
    if isinstance(value, str):
        value = "".join(value)  # also of an Enum
        if "\0" in value or any("\ud800" <= c <= "\udfff" for c in value):
            raise InputError(f"{name}={shown(value)}: a notebook holds no NUL and no half of a surrogate pair.")
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return int(value) if isinstance(value, int) else float(value)
    if value is None or isinstance(value, bool):
        return value
    raise InputError(f"{name}={shown(value)}: give a number, a text, True or False, or a list of those.")


# --- svdlab's own notebooks -------------------------------------------------------------------------------------------


def _measure(name: str, value: Any) -> Any:
    """A column of results that a measure fills with numbers."""
    return errors.one_of(name, value, [key for key, example in identity.own_values().items() if not isinstance(example, str)])


def _image(name: str, value: Any) -> Any:
    with warnings.catch_warnings(action="ignore"):  # of what the notebook says again
        return open_image(value)


def _checkpoint(name: str, value: str) -> Any:
    return locate(value)


def _file(name: str, value: str) -> str:
    if value and value not in ("world", "photographs") and not as_path(name, value).exists():
        raise InputError(f"{name}={shown(value)}: no such file or folder.")
    return value


def _each(check: Any, least: int = 1) -> Any:
    return partial(errors.several, check=check, least=least)


COUNT = partial(whole, least=1, most=10_000)
OWN: dict[str, dict[str, Any]] = {  # parameters of svdlab's notebooks that are no condition and no seed
    "00-tour": dict(checkpoint=_checkpoint, scene=_image, photograph=_image),
    "01-conditioning-sweep": dict(checkpoint=_checkpoint, image=_image, measure=_measure),
    "02-denoising-trace": dict(checkpoint=_checkpoint, image=_image, agreement=partial(errors.number, above=0, most=1)),
    "03-motion": dict(checkpoint=_checkpoint, image=_image, images=_each(_image)),
    "04-limitations": dict(
        checkpoint=_checkpoint,
        probe=partial(errors.one_of, options=PROBES),
        also=_each(partial(errors.one_of, options=PROBES), 0),
        images=_file,
    ),
    "05-bias": dict(
        checkpoint=_checkpoint,
        manifest=_file,
        pairs=COUNT,
        speed_margin=errors.POSITIVE,
        measures=_each(partial(errors.one_of, options=COMPARED)),
    ),
    "08-image-leakage": dict(
        checkpoint=_checkpoint,
        videos=_file,
        lora=_file,
        measure=_measure,
        count=COUNT,
        sigmas=_each(errors.POSITIVE, 2),
        starts=_each(errors.POSITIVE),
        weight=partial(errors.number, least=0, most=1),
        margin=errors.POSITIVE,
    ),
    "09-initial-noise": dict(
        checkpoint=_checkpoint,
        images=_each(_image, 0),
        scenes=_each(whole),
        cutoffs=_each(partial(errors.number, least=0, most=2)),
        pairs_each=COUNT,
        least_px=errors.POSITIVE,
    ),
    "10-bias-truth": dict(
        checkpoint=_checkpoint,
        pairs=COUNT,
        speed_margin=errors.POSITIVE,
        measures=_each(partial(errors.one_of, options=COMPARED)),
    ),
    "06-interventions": dict(checkpoint=_checkpoint, image=_image, other_image=_image),
    "07-compare-checkpoints": dict(first=_checkpoint, second=_checkpoint, images=_each(_image), measure=_measure),
}
