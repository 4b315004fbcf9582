"""What a pipeline is, beyond the checkpoint that it came from: the part of a run's id that names the model.

>>> model = facts(pipe)                     # weights, configs, adapters and processors as they are in memory
>>> sorted(model)
['autocast', 'config', 'dtype', 'format', 'intervention', 'versions', 'weights']

What changes a result but cannot be read from a module (a hook, a `forward` of its own) is seen by what the module computes:
`fingerprint` runs each part once on a tiny fixed input, and `check` compares that with what the study's runs were made with.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from PIL import Image

from svdlab.errors import InputError
from svdlab.measure.files import hash_facts, plain, write_whole
from svdlab.study import ledger

FORMAT = 2  # of run.json and of the ids
PARTS = ("unet", "vae", "image_encoder", "feature_extractor", "scheduler", "video_processor")
PROJECTIONS = 8
TOLERANCE, HALF_TOLERANCE = 5e-3, 5e-2  # of a fingerprint's norm: other machines, threads and TF32 stay below it
LEAST = 1e-4  # norm below which an output is nothing but rounding


def facts(pipe: Any, intervention: str | None = None) -> dict[str, Any]:
    """What determines a clip beside its conditions, seed and image, as plain JSON. Takes seconds for full-size weights."""
    device = pipe._execution_device.type
    return {
        "weights": weights_hash(pipe),
        "config": hash_facts(describe(pipe)),
        "dtype": str(pipe.unet.dtype).removeprefix("torch."),
        "autocast": str(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else "",
        "versions": {"torch": torch.__version__.split("+")[0], "diffusers": diffusers.__version__},
        "intervention": intervention,
        "format": FORMAT,
    }


def weights_hash(pipe: Any) -> str:
    """SHA-256 over all parameters and buffers as they are in memory.

    One checkpoint has one hash on every device, and another in every dtype. Where weights are not in memory (sequential
    offload), what the source recorded stands in.
    """
    digest = hashlib.sha256()
    for part in ("unet", "vae", "image_encoder"):
        module = _module(pipe, part)
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            if tensor.device.type == "meta":
                return f"{pipe.source.weights_hash or pipe.source.checkpoint}@{pipe.source.revision}"
            digest.update(f"{part}.{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def describe(pipe: Any) -> dict[str, Any]:
    """Class and config of each part, with a hash of its modules' settings."""
    described: dict[str, Any] = {}
    for name in PARTS:
        part = _module(pipe, name)
        described[name] = {"class": _class(part), "config": _config(part)}
        if isinstance(part, torch.nn.Module):
            described[name]["modules"] = hash_facts({key: _settings(module) for key, module in part.named_modules()})
    return described


def _module(pipe: Any, name: str) -> Any:
    part = getattr(pipe, name)
    return getattr(part, "_orig_mod", part)  # a compiled one has the ids of the plain one


def _class(thing: Any) -> str:
    return f"{type(thing).__module__}.{type(thing).__qualname__}"


def _config(part: Any) -> dict[str, Any]:
    """Settings without where they came from, and without what only records that."""
    config = part if hasattr(part, "to_dict") else getattr(part, "config", {})
    config = config.to_dict() if hasattr(config, "to_dict") else config
    records = ("transformers_version", "architectures", "dtype", "torch_dtype")
    return {key: plain(value) for key, value in config.items() if not key.startswith("_") and key not in records}


def _settings(module: torch.nn.Module) -> list[Any]:
    """What a module computes with beside its tensors: plain attributes, its own and its attention processor's, and which
    adapters of peft are at work (their `scaling` is an attribute)."""
    found: list[Any] = [getattr(module, name, None) for name in ("active_adapters", "disable_adapters", "merged_adapters")]
    kinds = (bool, int, float, str, tuple, dict, type(None))
    for thing in (module, getattr(module, "processor", None)):
        own = {k: v for k, v in getattr(thing, "__dict__", {}).items() if k[0] != "_" and isinstance(v, kinds)}
        found += [_class(thing), {k: plain(v) for k, v in own.items() if k not in ("training", "name_or_path")}]
    return found


# --- behaviour --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def fingerprint(pipe: Any) -> dict[str, list[float]]:
    """What the UNet, the VAE's halves and the image encoder compute from a small fixed input: for each of their modules that
    has submodules, a few random projections of its output.

    Called through the pipeline's own methods, so that hooks, instance `forward`s, autocast and preprocessing count.
    """
    device, dtype, scale = pipe._execution_device, pipe.unet.dtype, pipe.vae_scale_factor
    side = max(scale * 2 ** (len(pipe.unet.config.block_out_channels) - 1), 8)
    z, channels = side // scale, pipe.unet.config.in_channels
    draw = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draw).to(device, dtype)

    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8))
    ids = torch.tensor([[6.0, 127.0, 0.02]]).to(device, dtype)
    latents, pixels = noise(1, 2, channels // 2, z, z), noise(1, 3, side, side).clamp(-1, 1)
    sample, context = noise(1, 2, channels, z, z), noise(1, 1, pipe.unet.config.cross_attention_dim)
    with torch.compiler.set_stance("force_eager"), _outputs(pipe) as seen:  # or a compiled model would be compiled anew
        try:
            seen["unet"] = pipe.unet(sample, 0.0, encoder_hidden_states=context, added_time_ids=ids)
            seen["vae.encode"] = pipe._encode_vae_image(pixels.to(pipe.vae.dtype), device, 1, False)
            seen["vae.decode"] = pipe.decode_latents(latents.to(pipe.vae.dtype), 2, 2)
            seen["image_encoder"] = pipe._encode_image(picture, device, 1, False)
        except (RuntimeError, TypeError, ValueError) as error:
            raise InputError(f"this pipeline cannot run, as it is now, on a small input: {error}") from error
    pipe.maybe_free_model_hooks()
    return {name: _projected(output) for name, output in seen.items()}


@contextmanager
def _outputs(pipe: Any) -> Iterator[dict[str, Any]]:
    """The last output of each module with submodules, by name, while the block runs."""
    seen: dict[str, Any] = {}
    with ExitStack() as hooks:
        for part in ("unet", "vae", "image_encoder"):
            for name, module in _module(pipe, part).named_modules(prefix=part):
                if name != part and any(module.children()):
                    keep = lambda module, args, output, name=name: seen.update({name: output})
                    hooks.callback(module.register_forward_hook(keep).remove)
        yield seen


def _projected(output: Any) -> list[float]:
    while not isinstance(output, torch.Tensor):
        output = output[0]
    flat = torch.nan_to_num(output.detach().float().cpu().flatten(), nan=1e4, posinf=1e4, neginf=-1e4).double()
    axes = torch.randn(PROJECTIONS, len(flat), generator=torch.Generator().manual_seed(0)).double()
    return [float(v) for v in axes @ flat / len(flat) ** 0.5]


def different(one: Mapping[str, list[float]], other: Mapping[str, list[float]], dtype: str) -> list[str]:
    """The modules whose fingerprints differ by more than rounding on another machine, outermost first."""
    found, none, tolerance = [], [0.0] * PROJECTIONS, HALF_TOLERANCE if dtype in ("float16", "bfloat16") else TOLERANCE
    for name in sorted({*one, *other}, key=lambda n: (n.count("."), n)):
        a, b = (np.asarray(prints.get(name, none)) for prints in (one, other))
        difference, size = (float(np.linalg.norm(x)) for x in (a - b, np.hypot(a, b)))
        if difference > tolerance * max(size, LEAST):
            found.append(name)
    return found


def check(pipe: Any, out: Path, model: dict[str, Any]) -> dict[str, list[float]]:
    """The fingerprint of a pipeline, kept in `<out>/models/` for its facts, or compared with the one that is there.

    Raises InputError where they differ: the same weights and settings then compute something else than they did.
    """
    path, own = out / "models" / f"{hash_facts(model)}.json", fingerprint(pipe)
    try:
        modules = different(json.loads(path.read_text())["fingerprint"], own, model["dtype"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # none yet, or damaged
        with ledger.disk_errors(path), write_whole(path) as part:
            part.write_text(json.dumps({"model": model, "parts": describe(pipe), "fingerprint": own}) + "\n")
        return own
    if modules:
        raise InputError(
            f"{', '.join(modules[:3])}: computes something else than for the runs in {out} of the same weights and settings. "
            f"A hook or a replaced forward does that. Undo the change, or name it, so that its clips have ids of their own: "
            f"sweep(..., intervention='name of the change')."
        )
    return own
