"""A LoRA on a pipeline's UNet: low-rank changes of its weights, from a file, for as long as a block lasts.

>>> with lora(pipe, "camera-pan.safetensors", scale=0.8):                             # doctest: +SKIP
...     clip = svdlab.generate(pipe, image)
>>> clip.source.lora, clip.source.lora_scale                                          # doctest: +SKIP
('camera-pan.safetensors', 0.8)

A weight W becomes W + scale * alpha / rank * B A (Hu et al. 2021, arXiv 2106.09685, section 4.1). The changed weights take the
place of the UNet's parameters, and the parameters themselves come back at the end: nothing is rounded twice.

StableVideoDiffusionPipeline has no `load_lora_weights` (stable-diffusion-videos#210), and LoRAs for SVD are published in the
styles of other models: by diffusers' `convert_state_dict_to_diffusers` (tykim0507/Motion-LoRA, train_svd.py: to_q, to_k, to_v
and to_out.0 of the UNet, `unet.*.lora.down.weight`, without alpha, which then is the rank), by peft's
`get_peft_model_state_dict` (lora_A, lora_B; alpha in the file's header or in adapter_config.json), or as kohya's sd-scripts
write them (networks/lora.py: `lora_unet_` and the module's name with underscores, lora_down, lora_up and alpha; of diffusers'
modules or of Stability's).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load

from svdlab import errors
from svdlab.errors import InputError, number, takes
from svdlab.measure.files import read_file, read_json
from svdlab.pipeline.pipeline import pipeline
from svdlab.pipeline.single_file import UNET, stability_name

LARGEST = 2**33  # bytes of a file
PREFIX = re.compile(r"^(base_model\.model\.)?(unet\.|model\.diffusion_model\.|diffusion_model\.|lora_unet[._])?")
# What follows a module's name: lora_A.weight or lora_A.default.weight, lora_down.weight, lora.down.weight,
# lora_linear_layer.down.weight, and in diffusers' old attention processors attn1.processor.to_q_lora.down.weight.
SIDE = re.compile(r"[._]lora(?:_linear_layer)?[._](A|down|B|up)(?:\.\w+)?\.weight$")
KINDS = (torch.nn.Linear, torch.nn.Conv2d, torch.nn.Conv3d)
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@contextmanager
@takes(pipe=pipeline, file=errors.path, scale=partial(number, least=-1000, most=1000))
def lora(pipe: Any, file: str | os.PathLike, scale: float = 1.0) -> Iterator[None]:
    """Inside the block, the UNet has the LoRA of a .safetensors file at this strength. At 0 it is the model without it.

    >>> with lora(pipe, "zoom.safetensors", scale=-0.5):                              # doctest: +SKIP
    ...     clip = svdlab.generate(pipe, image)

    It acts on the pipeline, hence on all threads that use it; blocks may be nested, and their changes add. Clips, traces and
    runs name the file, its hash and the strength (`Source`). Raises InputError, before anything is changed, for what is no
    LoRA of this UNet: another kind of file, unknown keys, shapes that do not fit, numbers that are not finite.
    """
    undo = attach(pipe, file, scale)
    try:
        yield
    finally:
        undo()


def digest(file: str | os.PathLike) -> str:
    """The SHA-256 of a LoRA's file; InputError where it cannot be read."""
    return hashlib.sha256(_read(Path(file))).hexdigest()


def attach(pipe: Any, file: str | os.PathLike, scale: float, wanted: str | None = None) -> Callable[[], None]:
    """Put a LoRA's weights in their place, and give what takes them out again. wanted: the SHA-256 that the file must have."""
    content = _read(Path(file))
    changes, found = _changes(pipe, Path(file), content), hashlib.sha256(content).hexdigest()
    if wanted not in (None, found):
        raise InputError(f"{file} is not the LoRA that it was when the sweep began.")
    source, kept = pipe.source, dict[Any, torch.nn.Parameter]()
    outer = f"{source.lora} {source.lora_scale:g} + " if source.lora else ""
    digests = " + ".join(filter(None, [source.lora_hash, found]))
    named = replace(source, lora=outer + Path(file).name, lora_hash=digests, lora_scale=float(scale))

    def undo() -> None:
        pipe.source = source
        for module, parameter in kept.items():
            if parameter.device != module.weight.device:  # the pipeline was moved meanwhile
                parameter.data = parameter.data.to(module.weight.device)
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
    modules, parts, alphas, unknown = _modules(pipe.unet), dict[str, dict[str, torch.Tensor]](), dict[str, float](), []
    for key, tensor in tensors.items():
        side, stem = SIDE.search(key), PREFIX.sub("", key).removesuffix(".alpha")
        name = _flat(SIDE.sub("", stem))
        name = name if name in modules else f"{name}_0"  # to_out_lora stands for to_out.0
        place = "" if side is None else "down" if side[1] in ("A", "down") else "up"
        if name not in modules or place in parts.get(name, {}) or not (side or key.endswith(".alpha")):
            unknown.append(key)
        elif place:
            parts.setdefault(name, {})[place] = tensor
        else:
            alphas[name] = float(tensor) if tensor.numel() == 1 else float("nan")
    if unknown or not parts:
        some = ", ".join(sorted(unknown)[:8]) + ", ..." * (len(unknown) > 8)
        why = f"{len(unknown)} of its {len(tensors)} keys name no linear or convolution layer, up or down: {some}"
        raise InputError(f"{file.name} is no LoRA of this UNet: {why if unknown else 'it is empty'}.")
    header, found, wrong = _alphas(file, content), {}, list[str]()
    for name, pair in parts.items():
        path, module = modules[name]
        alpha = alphas.get(name, next((a for end, a in header.items() if f".{path}".endswith(end)), None))
        if fault := _fault(module.weight, alpha, **pair):
            wrong.append(f"{path}: {fault}")
        else:
            rank = len(pair["down"])
            found[module] = (pair["down"], pair["up"], (rank if alpha is None else alpha) / rank)
    if wrong:
        raise InputError(f"{file.name} does not fit this UNet, in {len(wrong)} layers: {'; '.join(wrong[:4])}.")
    return found


def _fault(w: torch.Tensor, alpha: float | None, down: Any = None, up: Any = None) -> str:
    """Why these numbers cannot be added to a weight, or ""."""
    if down is None or up is None:
        return f"{'down' if down is None else 'up'} is missing"
    if not (down.is_floating_point() and up.is_floating_point() and down.ndim > 1 and up.ndim > 1):
        return "it holds no matrices of floats"
    fits = (
        down.shape[0] == up.shape[1] > 0
        and _core(up[:, 0].shape) == w.shape[:1]
        and _core(down.shape[1:]) == _core(w.shape[1:])
    )
    if not fits:
        return f"{tuple(up.shape)} times {tuple(down.shape)} for a weight of {tuple(w.shape)}"
    if not (down.isfinite().all() and up.isfinite().all() and abs(alpha or 0) < 1e6):
        return "its numbers are not finite"
    if w.dtype not in DTYPES or w.device.type == "meta":
        return (
            f"its weight is {w.dtype} on {w.device}: no LoRA reaches a quantised layer, or one that is offloaded in sequence"
        )
    return ""


def _modules(unet: Any) -> dict[str, tuple[str, Any]]:
    """The UNet's linear and convolution layers by flat name, diffusers' and Stability's."""
    unet = getattr(unet, "_orig_mod", unet)
    layers = {name: module for name, module in unet.named_modules() if type(module) in KINDS}
    theirs = {stability_name("unet", name, dict(unet.config)).removeprefix(UNET): name for name in layers}
    names = {name: name for name in layers} | theirs
    return {_flat(other): (name, layers[name]) for other, name in names.items()}


def _flat(name: str) -> str:
    return name.replace(".processor.", ".").replace(".", "_")


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
        found = {"." + key.removeprefix("^"): float(value) for key, value in (config.get("alpha_pattern") or {}).items()}
        return found | ({"": float(config["lora_alpha"])} if config.get("lora_alpha") is not None else {})
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{file.name} has an adapter configuration that cannot be used: {error}.") from error
