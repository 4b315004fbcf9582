"""What the parts of a pipeline are in memory: a hash of all weights, quantised ones too, and their classes and settings.

>>> len(weights_hash(pipe))
64

Nothing is kept from an earlier call: torch counts no write through `.data` or `.numpy()`, so that a hash kept by its counters
would be another model's. A GB takes about 0.55 s of one processor with SHA instructions, shared by up to 16 threads.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from svdlab.measure.files import hash_facts, plain

PARTS = ("unet", "vae", "image_encoder", "feature_extractor", "scheduler", "video_processor")
RECORDS = ("transformers_version", "architectures", "dtype", "torch_dtype")  # of a config: where it came from
THREADS = 16
FEW = 2**26  # bytes up to which handing tensors to threads costs more than it saves


def weights_hash(pipe: Any) -> str:
    """SHA-256 over all parameters and buffers as they are in memory, those of a large model in parallel.

    One checkpoint has one hash on every device, and another in every dtype. Where weights are not in memory (sequential
    offload), what the source recorded stands in.
    """
    held = [each for part in ("unet", "vae", "image_encoder") for each in _tensors(part, _state(module_of(pipe, part)))]
    if any(tensor.device.type == "meta" for _, tensor in held):
        return f"{pipe.source.weights_hash or pipe.source.checkpoint}@{pipe.source.revision}"
    if sum(tensor.numel() * tensor.element_size() for _, tensor in held) <= FEW:
        return hashlib.sha256("".join(map(_digest, held)).encode()).hexdigest()
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        return hashlib.sha256("".join(pool.map(_digest, held)).encode()).hexdigest()


def module_of(pipe: Any, name: str) -> Any:
    """A part of a pipeline; a compiled one has the ids of the plain one."""
    part = getattr(pipe, name)
    return getattr(part, "_orig_mod", part)


def describe(pipe: Any) -> dict[str, Any]:
    """Class and config of each part, with a hash of its modules' settings."""
    described: dict[str, Any] = {}
    for name in PARTS:
        part = module_of(pipe, name)
        config = part if hasattr(part, "to_dict") else getattr(part, "config", {})
        config = config.to_dict() if hasattr(config, "to_dict") else config
        own = {key: plain(value) for key, value in config.items() if key[0] != "_" and key not in RECORDS}
        described[name] = {"class": _class(part), "config": own}
        if isinstance(part, torch.nn.Module):
            described[name]["modules"] = hash_facts({key: _settings(module) for key, module in part.named_modules()})
    return described


def _class(thing: Any) -> str:
    return f"{type(thing).__module__}.{type(thing).__qualname__}"


def _settings(module: torch.nn.Module) -> list[Any]:
    """What a module computes with beside its tensors: plain attributes, its own and its attention processor's, and which
    adapters of peft are at work (their `scaling` is an attribute)."""
    found: list[Any] = [getattr(module, name, None) for name in ("active_adapters", "disable_adapters", "merged_adapters")]
    kinds = (bool, int, float, str, tuple, dict, type(None))
    for thing in (module, getattr(module, "processor", None)):
        own = {k: v for k, v in getattr(thing, "__dict__", {}).items() if k[0] != "_" and isinstance(v, kinds)}
        found += [_class(thing), {k: plain(v) for k, v in own.items() if k not in ("training", "name_or_path")}]
    return found


def _state(module: torch.nn.Module) -> dict[str, Any]:
    return {**module.state_dict(), **dict(module.named_buffers()), **dict(module.named_parameters())}


def _tensors(name: str, value: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """The plain tensors that a state holds; of a quantised one, those that it is made of."""
    if hasattr(value, "__tensor_flatten__"):  # a subclass that wraps others
        value = {key: getattr(value, key) for key in value.__tensor_flatten__()[0]}
    if isinstance(value, torch.Tensor):
        yield name, value.detach().dequantize() if value.is_quantized else value.detach()
    elif isinstance(value, (Mapping, tuple)):
        for key, each in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _tensors(f"{name}.{key}", each)


def _digest(held: tuple[str, torch.Tensor]) -> str:
    name, tensor = held
    digest = hashlib.sha256(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
    digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
