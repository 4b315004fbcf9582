"""A LoRA on a pipeline's UNet: low-rank changes of its weights, from a file, for as long as a block lasts.

>>> with lora(pipe, "camera-pan.safetensors", scale=0.8):                             # doctest: +SKIP
...     clip = svdlab.generate(pipe, image)

A weight W becomes W + scale * alpha / rank * B A (Hu et al. 2021, section 4.1). The changed weights take the place of the
UNet's parameters, and the parameters themselves come back at the end: nothing is rounded twice.

diffusers' SVD has no `load_lora_weights` (stable-diffusion-videos#210). Its LoRAs are published in the styles of others: by
diffusers' `convert_state_dict_to_diffusers` (tykim0507/Motion-LoRA, train_svd.py: to_q, to_k, to_v, to_out.0; no alpha, which
then is the rank), by peft's `get_peft_model_state_dict` (alpha in the header or in adapter_config.json), or as kohya's
sd-scripts write them (networks/lora.py: `lora_unet_`, underscores, alpha; names of diffusers' layers or of Stability's).
"""

import hashlib
import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load

from svdlab.errors import InputError, number, path, shown, takes, text
from svdlab.measure.files import read_file, read_json
from svdlab.pipeline.pipeline import pipeline
from svdlab.pipeline.single_file import UNET, stability_name

LARGEST = 2**33  # bytes of a file
KINDS = (torch.nn.Linear, torch.nn.Conv2d, torch.nn.Conv3d)
PREFIX = re.compile(r"^(base_model\.model\.)?(unet\.|model\.diffusion_model\.|diffusion_model\.|lora_unet[._])?")
# .lora_A.weight, .lora_A.default.weight, .lora_down.weight, .lora.down.weight, .lora_linear_layer.down.weight, and of 2023's
# diffusers processor.to_q_lora.down.weight
SIDE = re.compile(r"[._]lora(?:_linear_layer)?[._](A|down|B|up)(?:\.\w+)?\.weight$")
_ENTERING = threading.Lock()
_OPEN: ContextVar[tuple[Any, ...]] = ContextVar("open", default=())  # pipelines that have a LoRA of this context


@contextmanager
@takes(pipe=pipeline, file=path, scale=partial(number, least=-1000, most=1000), digest=text)
def lora(pipe: Any, file: str | os.PathLike[str], scale: float = 1.0, *, digest: str | None = None) -> Iterator[None]:
    """Inside the block, the UNet has the LoRA of a .safetensors file at this strength. At 0 it is the model without it.

    >>> with lora(pipe, "zoom.safetensors", scale=-0.5):                              # doctest: +SKIP
    ...     clip = svdlab.generate(pipe, image)

    It acts on the pipeline, so on all threads that use it; one thread's blocks may be nested, and their changes add. Clips,
    traces and runs name file, hash and strength (`Source`). digest: the SHA-256 that the file must have. Raises InputError,
    before anything is changed, for what is no LoRA of this UNet: another file, unknown keys, wrong shapes, numbers not finite.
    """
    with _ENTERING:
        if pipe.source.lora and not any(own is pipe for own in _OPEN.get()):
            raise InputError("another thread has put a LoRA on this pipeline: load a pipeline for each thread.")
        undo = attach(pipe, file, scale, digest)
    _OPEN.set((*_OPEN.get(), pipe))
    try:
        yield
    finally:
        _OPEN.set(_OPEN.get()[:-1])
        undo()


def digest_of(file: str | os.PathLike[str]) -> str:
    """The SHA-256 of a LoRA's file; InputError where it cannot be read."""
    return hashlib.sha256(_read(Path(file))).hexdigest()


def attach(pipe: Any, file: str | os.PathLike[str], scale: float, digest: str | None) -> Callable[[], None]:
    """Put a LoRA's weights in their place, and give what takes them out again."""
    content, source, kept = _read(Path(file)), pipe.source, dict[Any, torch.nn.Parameter]()
    changes, found = _changes(pipe, Path(file), content), hashlib.sha256(content).hexdigest()
    if digest not in (None, found):
        raise InputError(f"{file} is not the LoRA that it was: its SHA-256 is {found}.")
    names = f"{source.lora} {source.lora_scale:g} + {Path(file).name}" if source.lora else Path(file).name
    hashes = f"{source.lora_hash} + {found}" if source.lora else found
    named = replace(source, lora=names, lora_hash=hashes, lora_scale=float(scale))

    def undo() -> None:
        pipe.source = source
        for module, parameter in kept.items():
            if (w := module.weight).device != parameter.device or w.dtype != parameter.dtype:  # moved or cast meanwhile
                parameter.data = parameter.data.to(w.device, w.dtype)
            module.weight = parameter

    if not scale:  # W + 0 would turn -0.0 into 0.0
        return undo
    try:
        for module, (down, up, by) in changes.items():
            w = module.weight.detach()
            fine = torch.promote_types(w.dtype, torch.float32)
            down, up = (part.to(w.device, fine).flatten(1) for part in (down, up))
            new = w.to(fine) + (up @ down).reshape(w.shape) * (scale * by)
            kept[module], module.weight = module.weight, torch.nn.Parameter(new.to(w.dtype), requires_grad=False)
        pipe.source = named
    except BaseException:
        undo()
        raise
    return undo


def _read(file: Path) -> bytes:
    if file.suffix.lower() != ".safetensors":
        raise InputError(f"{file} is no LoRA that can be read: give a .safetensors file, which holds tensors and no code.")
    try:
        return read_file(file, LARGEST)
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read: {getattr(error, 'strerror', None) or error}.") from error


def _changes(pipe: Any, file: Path, content: bytes) -> dict[Any, tuple[torch.Tensor, torch.Tensor, float]]:
    """Down, up and alpha / rank for each module that the file changes, all checked."""
    try:
        tensors = load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise InputError(f"{file} is no safetensors file: {error}.") from error
    unet = getattr(pipe.unet, "_orig_mod", pipe.unet)
    layers = {name: module for name, module in unet.named_modules() if type(module) in KINDS}
    flat = names_of(layers, dict(unet.config))
    parts, alphas, unknown = dict[str, dict[str, torch.Tensor]](), dict[str, float](), list[str]()
    for key, tensor in tensors.items():
        side, stem = SIDE.search(key), SIDE.sub("", PREFIX.sub("", key).removesuffix(".alpha"))
        name = stem.replace(".processor.", ".").replace(".", "_")
        name = flat.get(name, flat.get(f"{name}_0", ""))  # to_out_lora stands for to_out.0
        place = "" if side is None else "down" if side[1] in ("A", "down") else "up"
        if not name or place in parts.get(name, {}) or not (side or key.endswith(".alpha")):
            unknown.append(key)
        elif place:
            parts.setdefault(name, {})[place] = tensor
        else:
            alphas[name] = float(tensor) if tensor.numel() == 1 else float("nan")
    if unknown or not parts:
        some = ", ".join(sorted(unknown)[:8]) + ", ..." * (len(unknown) > 8)
        why = f"{len(unknown)} of its {len(tensors)} keys name no linear or convolution layer, up or down: {some}"
        raise InputError(f"{file.name} is no LoRA of this UNet: {why if unknown else 'it is empty'}.")
    ends = _alphas(file, content)
    alphas = {name: a for name in parts for end, a in ends.items() if f".{name}".endswith(end)} | alphas
    faults = {name: _fault(layers[name].weight, alphas.get(name), **parts.get(name, {})) for name in {**parts, **alphas}}
    if wrong := [f"{name}: {fault}" for name, fault in faults.items() if fault]:
        raise InputError(f"{file.name} does not fit this UNet, in {len(wrong)} layers: {'; '.join(wrong[:4])}.")
    rank = {name: len(pair["down"]) for name, pair in parts.items()}
    return {layers[n]: (p["down"], p["up"], alphas.get(n, rank[n]) / rank[n]) for n, p in parts.items()}


def _fault(w: torch.Tensor, alpha: float | None, down: Any = None, up: Any = None) -> str:
    """Why these numbers cannot be added to a weight, or ""."""
    if down is None or up is None:
        return f"{'down' if down is None else 'up'} is missing"
    if not (down.is_floating_point() and up.is_floating_point() and down.ndim > 1 and up.ndim > 1):
        return "it holds no matrices of floats"
    ranks, sides = (down.shape[0], up.shape[1]), (_core(up[:, :1].shape), _core(down.shape[1:]))
    if not ranks[0] or ranks[0] != ranks[1] or sides != (w.shape[:1], _core(w.shape[1:])):
        return f"{tuple(up.shape)} times {tuple(down.shape)} for a weight of {tuple(w.shape)}"
    if not (all(part.float().isfinite().all() for part in (down, up)) and abs(alpha or 0) < 1e6):  # float8 has no isfinite
        return "its numbers are not finite"
    if w.device.type == "meta" or not w.is_floating_point() or w.element_size() < 2:
        return f"its weight is {w.dtype} on {w.device}: no LoRA reaches quantised layers, or those offloaded in sequence"
    return ""


def names_of(layers: Any, config: dict[str, Any]) -> dict[str, str]:
    """Diffusers' name of each layer, by its and by Stability's name with underscores."""
    theirs = {stability_name("unet", name, config).removeprefix(UNET): name for name in layers}
    return {other.replace(".", "_"): name for other, name in [*((name, name) for name in layers), *theirs.items()]}


def _core(shape: Any) -> tuple[int, ...]:
    """A shape without the ones at its end: 1x1 convolutions and linear layers are saved as each other."""
    return _core(shape[:-1]) if len(shape) > 1 and shape[-1] == 1 else tuple(shape)


def _alphas(file: Path, content: bytes) -> dict[str, float]:
    """Alpha by the end of a layer's name, where it stands outside of the tensors: in the header that diffusers writes
    (`lora_adapter_metadata`), or in adapter_config.json beside peft's adapter_model.safetensors."""
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    try:
        held = json.loads(header.get("__metadata__", {}).get("lora_adapter_metadata", "{}"))
        beside = file.with_name("adapter_config.json")
        if not held and file.name == "adapter_model.safetensors" and beside.is_file():
            held = read_json(beside)
        config = {key.removeprefix("unet."): value for key, value in held.items()}
        if config.get("use_rslora"):
            raise ValueError("its rank-stabilised scaling is not supported")
        patterns = {key.removeprefix("^"): float(a) for key, a in (config.get("alpha_pattern") or {}).items()}
        if odd := [key for key in patterns if not re.fullmatch(r"[\w.-]+", key)]:
            raise ValueError(f"the regular expression {shown(odd[0])} in its alpha_pattern is not supported")
        all_layers = {"": float(config["lora_alpha"])} if config.get("lora_alpha") is not None else {}
        return all_layers | {f".{key}": a for key, a in patterns.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{file.name} has an adapter configuration that cannot be used: {error}.") from error
