"""What one call's denoising left behind: a `Trace` of its steps, the file it lives in, and the colours of its latents.

>>> tr.latents.shape, float(tr.sigmas[0])                     # "s f c h w", before each step
(torch.Size([4, 8, 4, 16, 16]), 700.0)
>>> path = tr.save("trace.safetensors"); Trace.load(path).names[:2]
['cond', 'denoised']
>>> tr.as_colours(tr.denoised[0]).shape                       # "f h w 3" in [0, 1]
(8, 16, 16, 3)
"""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from svdlab.errors import InputError, OutputError, TraceError, number, path, several, shown, takes, whole
from svdlab.measure.files import write_whole
from svdlab.measure.video import small_html
from svdlab.pipeline.conditions import line
from svdlab.pipeline.generate import Call
from svdlab.pipeline.images import decode_latents, open_image, vae_in_turn
from svdlab.pipeline.pipeline import pipeline
from svdlab.pipeline.sampler import Step

if TYPE_CHECKING:
    import xarray

FORMAT = "svdlab-trace-1"
FRAMES = ("frame", "channel", "y", "x")
KEEP: dict[str, tuple[str, ...]] = dict.fromkeys(
    ("latents", "next_latents", "denoised", "model_output", "cond", "uncond"), FRAMES
)
KEEP |= {"guidance_pressure": ("frame", "y", "x")}  # what a step can keep beside modules, with its dimensions after the batch


@dataclass(repr=False)
class Trace:
    """The steps of one run. `tr["name"]` stacks what was kept over the steps: "s ...", or "s b ..." for a batch.

    schedule: every noise level of the run, terminal zero included, "s+1". calls: the `Call` of each sample, where it
    was made through `svdlab.generate`. label: what figures must say. images: the prepared ones, for `branch`.
    """

    steps: list[Step] = field(default_factory=list)
    batch: int = 1
    schedule: np.ndarray = field(default_factory=lambda: np.zeros(0))
    calls: list[Call] = field(default_factory=list)
    label: str = ""
    images: list[Any] = field(default_factory=list, repr=False)
    find_colours: Callable[[], np.ndarray | None] = field(default=lambda: None, repr=False)

    def __repr__(self) -> str:
        levels = f" from sigma {self.steps[0].sigma:.3g} to {self.steps[-1].sigma:.3g}" if self.steps else ""
        of = f" of {self.batch} samples" if self.batch > 1 else ""
        label = f", {self.label}" if self.label else ""
        kept = ", ".join([*self.names[:6], *[f"{len(self.names) - 6} more"] * (len(self.names) > 6)]) or "nothing"
        return f"Trace({len(self)} steps{of}{levels}: {kept} kept{label})"

    def _repr_html_(self) -> str:
        """The middle frame's estimate from step to step, as colours of the latents, where they were kept."""
        if "denoised" not in self.names or self.batch > 1 or self.colours is None:
            return html.escape(repr(self))
        estimates = self.denoised
        middle = estimates.shape[1] // 2
        words = f"{self!r}; frame {middle}, its denoised estimate from step to step, as colours of the latents"
        return small_html(self.as_colours(estimates[:, middle]), 4, words)

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)

    @property
    def names(self) -> list[str]:
        """What was kept, by name."""
        return sorted({name for step in self.steps for name in step.values})

    @property
    def sigmas(self) -> np.ndarray:
        """Noise level before each kept step, "s"."""
        return np.array([step.sigma for step in self.steps])

    @property
    def latents(self) -> torch.Tensor:
        """Latents before each step, "s f c h w"."""
        return self["latents"]

    @property
    def denoised(self) -> torch.Tensor:
        """The denoised estimate at each step, "s f c h w"."""
        return self["denoised"]

    colours = property(
        lambda self: self.find_colours(), doc='Linear map "c+1 3" from latent channels (and 1) to RGB, or None.'
    )

    def __getitem__(self, key: str | int) -> Any:
        if not self.steps:
            raise TraceError(
                "this trace is empty: no call of its pipeline began in its block, or steps= names none of its steps."
            )
        if not isinstance(key, str):
            one = slice(whole("sample", key, 0, self.batch - 1), int(key) + 1)
            steps = [replace(s, values={k: v[one] for k, v in s.values.items()}) for s in self.steps]
            return replace(self, steps=steps, batch=1, calls=self.calls[one], images=self.images[one])
        if key not in self.names:
            raise TraceError(
                f"this trace holds no {key!r}, which keep= or modules= ask for: it holds {', '.join(self.names)}."
            )
        stacked = torch.stack([step.values[key] for step in self.steps if key in step.values])
        return stacked[:, 0] if self.batch == 1 else stacked

    def as_colours(self, latents: Any) -> np.ndarray:
        """Latents "... c h w" as RGB "... h w 3" in [0, 1], by the linear map of this trace's checkpoint."""
        if (colours := self.colours) is None:
            raise TraceError("this trace has no map from latents to colours: show.latents(tr, mode='pca') needs none.")
        z = latents.detach().float().cpu().numpy() if isinstance(latents, torch.Tensor) else np.asarray(latents)
        if z.ndim < 3 or z.shape[-3] != len(colours) - 1 or z.dtype.kind != "f":
            raise InputError(f'latents={shown(z)} of {z.dtype}: give floats "... c h w" of {len(colours) - 1} channels.')
        z = np.moveaxis(z.astype(np.float32), -3, -1)
        return np.clip(z @ colours[:-1] + colours[-1], 0, 1)

    @takes(pipe=pipeline)
    def decode(self, pipe: Any, *, steps: Any = None, frames: Any = None) -> np.ndarray:
        """Frames of the denoised estimates by the pipeline's own VAE, float32 "s f h w c" in [0, 1].

        >>> stills = tr.decode(pipe, steps=[0, 3], frames=[4])

        steps: positions in this trace, None for all; frames: frame numbers, None for all. A frame that is decoded by itself
        differs slightly, because the decoder is temporal.
        """
        if self.batch != 1:
            raise TraceError(f"this trace holds {self.batch} samples: decode one, as in tr[0].decode(pipe).")
        latents = self.denoised
        for axis, (what, chosen) in enumerate([("steps", steps), ("frames", frames)]):
            if chosen is not None:
                position = partial(whole, most=latents.shape[axis] - 1)
                latents = latents.index_select(axis, torch.tensor(several(what, chosen, position), device="cpu"))
        chunk = (self.calls[0].conditions.decode_chunk_size if self.calls else None) or latents.shape[1]
        return np.stack([decode_latents(pipe, z, chunk) for z in latents])

    @takes(path=path)
    def save(self, path: str | Path) -> Path:
        """Write tensors and JSON header into one safetensors file, whole or not at all."""
        path = Path(path)
        tensors = {f"{n}/{name}": v.contiguous() for n, s in enumerate(self.steps) for name, v in s.values.items()}
        for i, image in enumerate(self.images):
            tensors[f"image/{i}"] = torch.from_numpy(np.array(image.convert("RGB")))
        if (colours := self.colours) is not None:
            tensors["colours"] = torch.from_numpy(colours)
        header = dict(format=FORMAT, batch=self.batch, label=self.label, schedule=self.schedule.tolist())
        header |= dict(calls=[c.asdict() for c in self.calls], steps=[{**vars(s), "values": {}} for s in self.steps])
        try:
            with write_whole(path) as part:
                save_file(tensors, part, metadata={"svdlab": json.dumps(header)})
        except SafetensorError as error:  # a full disk
            raise OutputError(f"{path} cannot be written: {error}") from error
        return path

    @classmethod
    @takes(path=path)
    def load(cls, path: str | Path) -> Trace:
        """Read what `save` wrote; raises OutputError where the file is missing, cut off or something else."""
        try:
            if Path(path).exists() and not Path(path).is_file():
                raise ValueError("it is no file")
            with safe_open(str(path), "pt") as file:
                header = json.loads((file.metadata() or {}).get("svdlab", "null"))
                tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 - not a dict
            if header["format"] != FORMAT:
                raise ValueError(f"its format is not {FORMAT}")
            checks: dict[str, Any] = {"index": whole, **dict.fromkeys(("sigma", "sigma_next", "timestep"), number)}
            checks["seconds"] = lambda _, value: float(value)  # NaN where nobody looked at a clock
            steps = [Step(**{name: check(name, s[name]) for name, check in checks.items()}) for s in header["steps"]]
            colours = tensors.pop("colours", None)
            images = {}
            for key, value in tensors.items():
                n, name = key.split("/", 1)
                if n == "image":
                    images[int(name)] = open_image(value.numpy())
                else:
                    first = next((s.values[name] for s in steps if name in s.values), value)
                    if value.shape != first.shape or value.ndim < 1 + len(KEEP.get(name, ("half",))):
                        raise ValueError(f"{name} has shape {tuple(value.shape)} at step {n}")
                    whole("batch", header["batch"], len(value), len(value))
                    steps[whole("step", int(n))].values[name] = value
            schedule = np.array(several("schedule", header["schedule"], number), np.float32)
            calls = [Call.read(call) for call in header["calls"]]
            pictures, label = [images[i] for i in sorted(images)], line("label", header["label"])
            find_colours = lambda: None if colours is None else colours.numpy()
            return cls(steps, header["batch"], schedule, calls, label, pictures, find_colours)
        except (OSError, SafetensorError, RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
            raise OutputError(f"{path} cannot be read as a trace: {error}") from error

    def to_xarray(self) -> xarray.Dataset:
        """A Dataset with a variable for each thing kept, and coordinates sigma and timestep of each step.

        >>> still = tr.to_xarray()["denoised"].sel(step=2, frame=0)

        Dimensions: step, sample (of a batch), then frame, channel, y, x as in KEEP; of modules "half", then such as axis1_8.
        Steps at which a thing was not kept are NaN, and bfloat16 becomes float32, which xarray can hold.
        """
        import xarray

        data, lead = {}, ("step", "sample") if self.batch > 1 else ("step",)
        for name in self.names:
            value = self[name].float().numpy() if self[name].dtype == torch.bfloat16 else self[name].numpy()
            inner = value.shape[len(lead) :]
            dims = KEEP.get(name) or ("half", *(f"axis{i}_{n}" for i, n in enumerate(inner[1:], 1)))
            steps = [s.index for s in self.steps if name in s.values]
            data[name] = xarray.DataArray(value, dims=[*lead, *dims], coords={"step": steps})
        coords = {name: ("step", [getattr(s, name) for s in self.steps]) for name in ("sigma", "timestep")}
        attributes = {"label": self.label, "calls": json.dumps([call.asdict() for call in self.calls])}
        return xarray.Dataset(data, {"step": [s.index for s in self.steps], **coords}, attributes)


@torch.no_grad()
def colour_map(pipe: Any) -> np.ndarray | None:
    """The linear map of a pipeline's VAE, float32 "c+1 3", from latent channels (and 1) to RGB; None where it overflows.

    Least squares over what the VAE makes of smooth random colour fields from a fixed seed, at the checkpoint's own shape up to
    256 px: the same weights give the same map, computed in float32.
    """
    source, unit, vae = pipe.source, pipe.vae_scale_factor, pipe.vae
    by = max(1.0, max(source.height, source.width) / 256)
    height, width = (max(1, round(side / by / unit)) * unit for side in (source.height, source.width))
    rng, images = np.random.default_rng(0), []
    for saturation in (0.0, 0.0, 0.2, 0.4, 0.7, 1.0):  # images are more often pale than not
        grey, hue = rng.random((5, 5, 1), dtype=np.float32), rng.random((5, 5, 3), dtype=np.float32)
        coarse = grey + np.float32(saturation) * (hue - grey)
        images.append(np.clip(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), 0, 1))
    fields = (torch.from_numpy(image).permute(2, 0, 1)[None].to(pipe._execution_device) * 2 - 1 for image in images)
    loaded = vae.encoder.conv_in.weight.device.type != "meta"  # or accelerate brings the weights, as they are
    with vae_in_turn(pipe, cast=[vae.dtype] if loaded else ()):
        latents = [vae.encode(x.to(vae.dtype)).latent_dist.mode()[0] * vae.config.scaling_factor for x in fields]
    z = torch.stack(latents).double().cpu().numpy()
    pipe.maybe_free_model_hooks()
    if not np.isfinite(z).all():
        return None
    n, c, h, w = z.shape
    small = np.stack([cv2.resize(image, (w, h), interpolation=cv2.INTER_AREA) for image in images])
    sites = np.concatenate([z.transpose(0, 2, 3, 1).reshape(-1, c), np.ones((n * h * w, 1))], axis=1)
    return np.linalg.lstsq(sites, small.reshape(-1, 3).astype(np.float64), rcond=None)[0].astype(np.float32)
