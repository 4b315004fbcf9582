"""What one call's denoising left behind: a `Trace` of its steps, the file it lives in, and its latents as colours.

>>> tr.latents.shape, float(tr.sigmas[0])                     # "s f c h w", before each step
(torch.Size([4, 8, 4, 16, 16]), 700.0)
>>> path = tr.save("trace.safetensors"); Trace.load(path).names
['denoised', 'latents']
>>> tr.as_colours(tr.denoised[0]).shape                       # "f h w 3" in [0, 1]
(8, 16, 16, 3)
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from svdlab.errors import OutputError, TraceError
from svdlab.measure.files import write_whole
from svdlab.pipeline.generate import Call
from svdlab.pipeline.sampler import Step
from svdlab.pipeline.vae import decode_latents

if TYPE_CHECKING:
    import xarray

FORMAT = "svdlab-trace-1"
FRAMES = ("frame", "channel", "y", "x")
KEEP = {  # what a step can keep beside modules, with the names of its dimensions after the batch
    "latents": FRAMES,
    "next_latents": FRAMES,
    "denoised": FRAMES,
    "model_output": FRAMES,
    "cond": FRAMES,
    "uncond": FRAMES,
    "guidance_pressure": ("frame", "y", "x"),
}


@dataclass
class Trace:
    """The steps of one run. `tr["name"]` stacks what was kept over the steps: "s ...", or "s b ..." for a batch.

    schedule: every noise level of the run, terminal zero included, "s+1". calls: the `Call` of each sample, where it
    was made through `svdlab.generate`. label: what figures must say. colours: see `as_colours`.
    """

    steps: list[Step] = field(default_factory=list)
    batch: int = 1
    schedule: np.ndarray = field(default_factory=lambda: np.zeros(0))
    calls: list[Call] = field(default_factory=list)
    label: str = ""
    colours: np.ndarray | None = None  # "c+1 3": linear map from latent channels (and 1) to RGB
    images: list[Any] = field(default_factory=list, repr=False)  # the prepared images, kept for `branch`
    dims: dict[str, tuple[str, ...]] = field(default_factory=dict, repr=False)  # of modules' outputs, after the batch

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
        self._check()
        return np.array([step.sigma for step in self.steps])

    @property
    def latents(self) -> torch.Tensor:
        """Latents before each step, "s f c h w"."""
        return self["latents"]

    @property
    def denoised(self) -> torch.Tensor:
        """The denoised estimate at each step, "s f c h w"."""
        return self["denoised"]

    @property
    def nbytes(self) -> int:
        return sum(v.nbytes for step in self.steps for v in step.values.values())

    def __getitem__(self, key: str | int) -> Any:
        if isinstance(key, int):
            return self._sample(key)
        self._check()
        if key not in self.names:
            raise TraceError(
                f"this trace holds no {key!r}: it holds {', '.join(self.names) or 'nothing'}. "
                f"Ask for it by `keep=` or `modules=` when tracing."
            )
        stacked = torch.stack([step.values[key] for step in self.steps if key in step.values])
        return stacked[:, 0] if self.batch == 1 else stacked

    def _sample(self, i: int) -> Trace:
        if not -self.batch <= i < self.batch:
            raise TraceError(f"sample {i} of a trace of {self.batch}: counts run from 0 to {self.batch - 1}.")
        i %= self.batch
        steps = [replace(s, values={k: v[i : i + 1] for k, v in s.values.items()}) for s in self.steps]
        return replace(self, steps=steps, batch=1, calls=self.calls[i : i + 1], images=self.images[i : i + 1])

    def _check(self) -> None:
        if self.steps:
            return
        if not len(self.schedule):
            raise TraceError(
                "this trace is empty, because no run of this pipeline began inside its block: call svdlab.generate, or the "
                "very pipeline that was given to svdlab.trace, inside `with svdlab.trace(pipe) as tr:`."
            )
        raise TraceError(
            f"this trace is empty, because its run of {len(self.schedule) - 1} steps (numbers 0 to {len(self.schedule) - 2}, "
            f"sigma {self.schedule[0]:.4g} to {self.schedule[-2]:.4g}) had none that steps= names, or broke off before."
        )

    def as_colours(self, latents: Any) -> np.ndarray:
        """Latents "... c h w" as RGB "... h w 3" in [0, 1], by the linear map of this trace's checkpoint."""
        if self.colours is None:
            raise TraceError("this trace has no map from latents to colours: show.latents(tr, mode='pca') needs none.")
        z = np.moveaxis(np.asarray(latents, dtype=np.float32), -3, -1)
        return np.clip(z @ self.colours[:-1] + self.colours[-1], 0, 1)

    def decode(self, pipe: Any, *, steps: Any = None, frames: Any = None, name: str = "denoised") -> np.ndarray:
        """Frames of the denoised estimates by the pipeline's own VAE, float32 "s f h w c" in [0, 1].

        >>> stills = tr.decode(pipe, steps=[0, 3], frames=[4])

        steps: positions in this trace, None for all; frames: frame numbers, None for all. Neighbouring frames are
        decoded with each chosen one where all frames are asked for; a single frame is decoded by itself, which
        differs slightly because the decoder is temporal. The cost is printed when it exceeds 50 frames.
        """
        self._check()
        if self.batch != 1:
            raise TraceError(f"this trace holds {self.batch} samples: decode one, as in tr[0].decode(pipe).")
        latents = self[name]
        latents = latents if steps is None else latents[list(steps)]
        latents = latents if frames is None else latents[:, list(frames)]
        if latents.shape[0] * latents.shape[1] > 50:
            print(f"decoding {latents.shape[0]} steps x {latents.shape[1]} frames with the VAE")
        chunk = (self.calls[0].conditions.decode_chunk_size if self.calls else None) or latents.shape[1]
        return np.stack([decode_latents(pipe, z, chunk) for z in latents])

    def save(self, path: str | Path) -> Path:
        """Write tensors and JSON header into one safetensors file, whole or not at all."""
        self._check()
        path = Path(path).expanduser()
        tensors = {f"{n}/{name}": v.contiguous() for n, s in enumerate(self.steps) for name, v in s.values.items()}
        for i, image in enumerate(self.images):
            tensors[f"image/{i}"] = torch.from_numpy(np.array(image.convert("RGB")))
        if self.colours is not None:
            tensors["colours"] = torch.from_numpy(np.asarray(self.colours)).contiguous()
        header = dict(
            format=FORMAT,
            batch=self.batch,
            schedule=[float(s) for s in self.schedule],
            calls=[call.asdict() for call in self.calls],
            label=self.label,
            dims=self.dims,
            steps=[{k: getattr(s, k) for k in ("index", "sigma", "sigma_next", "timestep", "seconds")} for s in self.steps],
        )
        try:
            with write_whole(path) as part:
                save_file(tensors, part, metadata={"svdlab": json.dumps(header)})
        except OutputError:
            raise
        except Exception as error:  # safetensors has its own error classes for a full disk
            raise OutputError(f"{path} cannot be written: {error}") from error
        return path

    @classmethod
    def load(cls, path: str | Path) -> Trace:
        """Read what `save` wrote; raises OutputError where the file is missing, cut off or something else."""
        try:
            with safe_open(str(Path(path).expanduser()), "pt") as file:
                header = json.loads((file.metadata() or {}).get("svdlab", "null"))
                tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 - not a dict
        except Exception as error:  # safetensors raises its own classes for a cut-off file
            raise OutputError(f"{path} cannot be read as a trace: {error}") from error
        if not header or header.get("format") != FORMAT:
            raise OutputError(f"{path} is no trace of svdlab's: its header lacks format {FORMAT!r}.")
        steps = [Step(**s) for s in header["steps"]]
        colours = tensors.pop("colours", None)
        images = {}
        for key, value in tensors.items():
            n, name = key.split("/", 1)
            if n == "image":
                images[int(name)] = Image.fromarray(value.numpy())
            else:
                steps[int(n)].values[name] = value
        return cls(
            steps,
            header["batch"],
            np.array(header["schedule"], dtype=np.float32),
            [Call.read(call) for call in header["calls"]],
            header["label"],
            None if colours is None else colours.numpy(),
            [images[i] for i in sorted(images)],
            {name: tuple(dims) for name, dims in header["dims"].items()},
        )

    def to_xarray(self) -> xarray.Dataset:
        """A Dataset with a variable for each thing kept, and coordinates step, sigma, timestep and half.

        >>> still = tr.to_xarray()["denoised"].sel(step=2, frame=0)

        Dimensions are called what they are: step, sample (of a batch), half, frame, channel, y, x, site, query, key. Where
        two variables differ in the size of one, its size is added (channel_64, y_8). Steps at which a thing was not kept
        are NaN. bfloat16 becomes float32, which xarray can hold.
        """
        import xarray

        self._check()
        sizes: dict[str, int] = {}
        data = {}
        for name in sorted(self.names, key=lambda name: (name not in KEEP, name)):  # KEEP's sizes go without a suffix
            value = self[name]
            value = value.float().numpy() if value.dtype == torch.bfloat16 else value.numpy()
            lead = ("step", "sample") if self.batch > 1 else ("step",)
            inner = value.shape[len(lead) :]
            named = KEEP.get(name) or self.dims.get(name) or ()
            if len(named) != len(inner):  # what reduce= made of it
                named = tuple(f"axis{i}" for i in range(len(inner)))
            fitting = [d if sizes.setdefault(d, n) == n else f"{d}_{n}" for d, n in zip(named, inner, strict=True)]
            index = [s.index for s in self.steps if name in s.values]
            data[name] = xarray.DataArray(value, dims=[*lead, *fitting], coords={"step": index})
        coords: dict[str, Any] = {
            "step": [s.index for s in self.steps],
            "sigma": ("step", [s.sigma for s in self.steps]),
            "timestep": ("step", [s.timestep for s in self.steps]),
        }
        if "half" in sizes:
            coords["half"] = ["uncond", "cond"] if sizes["half"] == 2 else ["cond"]
        return xarray.Dataset(data, coords=coords).assign_attrs(
            label=self.label, calls=json.dumps([call.asdict() for call in self.calls])
        )


def name_dims(name: str, value: torch.Tensor, latents: torch.Size) -> tuple[torch.Tensor, tuple[str, ...] | None]:
    """A module's output "b half n ..." without an n of 1, and the names of its dimensions after b; None where unclear.

    latents: their shape, "b f c h w". The UNet's modules see pictures "(b f) c h w", videos "b c f h w", tokens of a frame
    "(b f) site c", tokens of a site "(b site) f c", and vectors "(b f) c", "b f c" or "b c".
    """
    n, rest, frames = value.shape[2], value.shape[3:], latents[1]
    layouts: dict[tuple[bool, int], tuple[str, ...] | None] = {
        (True, 3): FRAMES,
        (False, 4): FRAMES if name == "unet" else ("channel", "frame", "y", "x"),
        (True, 1): ("frame", "channel") if n == frames else None,
        (False, 2): ("frame", "channel"),
        (False, 1): ("channel",),
    }
    layout = layouts.get((n > 1, len(rest)))
    if n > 1 and len(rest) == 2:
        inside_site = "temporal_transformer" in name if n == frames == rest[0] else n != frames
        first, second = ("site", "frame") if inside_site else ("frame", "site")
        layout = (first, "key" if rest[0] == 1 else second, "channel")
    return value if n > 1 else value.squeeze(2), None if layout is None else ("half", *layout)


LARGEST = 256  # px of a field's longer side: one map serves every site, so a larger picture would add little but cost
SATURATIONS = (0.0, 0.0, 0.2, 0.4, 0.7, 1.0)  # of the smooth random fields: pictures are more often pale than not


@torch.no_grad()
def colour_map(pipe: Any) -> np.ndarray | None:
    """The linear map of a pipeline's VAE, float32 "c+1 3", from latent channels (and 1) to RGB; None where it overflows.

    Least squares over what the VAE makes of smooth random colour fields from a fixed seed, at the checkpoint's own shape up to
    LARGEST px: the same weights give the same map. In float32, with a copy of the encoder where the VAE has another dtype.
    """
    source, unit, vae = pipe.source, pipe.vae_scale_factor, pipe.vae
    by = max(1.0, max(source.height, source.width) / LARGEST)
    height, width = (max(1, round(side / by / unit)) * unit for side in (source.height, source.width))
    rng, images = np.random.default_rng(0), []
    for saturation in SATURATIONS:
        grey, hue = rng.random((5, 5, 1), dtype=np.float32), rng.random((5, 5, 3), dtype=np.float32)
        coarse = grey + np.float32(saturation) * (hue - grey)
        images.append(np.clip(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), 0, 1))
    encode = lambda x: vae.encode(x.to(vae.dtype)).latent_dist.mode()
    if vae.dtype != torch.float32 and vae.encoder.conv_in.weight.device.type != "meta":
        encoder, last = (copy.deepcopy(p).to(pipe._execution_device, torch.float32) for p in (vae.encoder, vae.quant_conv))
        encode = lambda x: last(encoder(x)).chunk(2, dim=1)[0]
    fields = (torch.from_numpy(image).permute(2, 0, 1)[None].to(pipe._execution_device) * 2 - 1 for image in images)
    z = np.stack([(encode(x)[0] * vae.config.scaling_factor).float().cpu().numpy() for x in fields])
    pipe.maybe_free_model_hooks()
    return _fit(z, np.stack(images)) if np.isfinite(z).all() else None


def _fit(latents: Any, images: np.ndarray) -> np.ndarray:
    """Least squares from latents "n c h w" (and 1) to images "n H W 3" averaged to h x w; float32 "c+1 3"."""
    z = np.asarray(latents, dtype=np.float64)
    n, c, h, w = z.shape
    small = np.stack([cv2.resize(np.asarray(p, np.float32), (w, h), interpolation=cv2.INTER_AREA) for p in images])
    sites = np.concatenate([z.transpose(0, 2, 3, 1).reshape(-1, c), np.ones((n * h * w, 1))], axis=1)
    return np.linalg.lstsq(sites, small.reshape(-1, 3).astype(np.float64), rcond=None)[0].astype(np.float32)
