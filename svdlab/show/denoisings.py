"""What a trace holds, as pictures: the clip that the model expects at each step, and the latents themselves.

>>> show.denoising(tr, frame=4)                       # columns titled by sigma
>>> show.latents(tr, frame=4, mode="channels")
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from svdlab.errors import InputError, TraceError
from svdlab.pipeline.trace import colour
from svdlab.show.provenance import about, number
from svdlab.show.style import DPI, GREY, SMALL, Figure, draw, fitted, pictures, scaled

MODES = ("channels", "pca", "colours")
SIGMA = "sigma, the noise level before the step"


def denoising(
    tr: Any,
    *,
    frame: int | Sequence[int] = 0,
    steps: Sequence[int] | None = None,
    decoded: np.ndarray | None = None,
    most: int = 8,
    title: str = "",
) -> Figure:
    """The denoised estimate from step to step: what the model would make of the noise if it stopped there.

    >>> show.denoising(tr, frame=4)
    >>> show.denoising(tr, frame=4, steps=[0, 8, 24], decoded=tr.decode(pipe, steps=[0, 8, 24], frames=[4]))
    >>> show.denoising(tr, frame=[0, 4], decoded=tr.decode(pipe))            # all is decoded, some of it is shown

    tr: a Trace of one sample with `denoised`. frame: one frame or several (a row each). steps: positions in the
    trace, default `most` of them evenly spread. decoded: pictures "s f h w 3" in [0, 1] of those steps and frames, or of
    all steps and all frames, as `Trace.decode` returns them; without, latents are shown as colours by the trace's linear
    map, or by their first three principal components where it has none. Raises TraceError for a batch or a trace
    without `denoised`, InputError for steps or frames that are not there.
    """
    values, chosen, rows = _of(tr, "denoised", frame, steps, most)
    if decoded is None:
        shown, how = _coloured(tr, values)
    else:
        shown, how = np.asarray(decoded), "decoded by the VAE"
        if shown.shape[:2] == tr.denoised.shape[:2]:
            shown = shown[np.ix_(chosen, rows)]
        if shown.ndim != 5 or shown.shape[:2] != (len(chosen), len(rows)):
            raise InputError(
                f'decoded has shape {shown.shape}: "s f h w 3" with {len(chosen)} steps and {len(rows)} frames is needed, '
                f"as in tr.decode(pipe, steps={chosen}, frames={rows})."
            )
    return _grid(tr, shown, chosen, rows, title or f"Denoised estimate of {_list(rows)}, {how}")


def latents(
    tr: Any,
    *,
    frame: int = 0,
    steps: Sequence[int] | None = None,
    mode: str = "channels",
    name: str = "latents",
    most: int = 8,
    title: str = "",
) -> Figure:
    """Latents of one frame from step to step: each channel as a map, or three components as colours.

    >>> show.latents(tr, frame=4)                                # a row per channel, blue below zero, red above
    >>> show.latents(tr, frame=4, mode="pca", name="denoised")

    name: latents (before the step, divided by sqrt(sigma^2 + 1), as the UNet sees them), or denoised, or another
    latent that was kept. mode: channels, pca (components over all shown steps), colours (the checkpoint's linear
    map). Raises as `denoising`.
    """
    if mode not in MODES:
        raise InputError(f"mode={mode!r}: give {', '.join(MODES)}.")
    values, chosen, rows = _of(tr, name, frame, steps, most)
    if name in ("latents", "next_latents"):
        ends = [s.sigma if name == "latents" else s.sigma_next for s in (tr.steps[i] for i in chosen)]
        values = values / np.sqrt(np.square(ends) + 1)[:, None, None, None, None]
    if mode == "colours":
        shown, how = _coloured(tr, values)
        return _grid(tr, shown, chosen, rows, title or f"{_said(name)} of frame {frame}, {how}")
    if mode == "pca":
        shown = components(values)
        said = "first three principal components as red, green, blue"
        return _grid(tr, shown, chosen, rows, title or f"{_said(name)} of frame {frame}, {said}")
    maps = values[:, 0].transpose(1, 0, 2, 3)  # "c s h w"
    size = fitted(maps.shape[2:], columns=len(chosen), width=800)
    fig, axes = pictures(
        rows=len(maps),
        columns=len(chosen),
        size=size,
        title=title or f"{_said(name)} of frame {frame} by channel, in standard units",
        footer=about(tr),
        column_labels=[number(round(tr.steps[i].sigma, 3)) for i in chosen],
        row_labels=[f"channel {c}" for c in range(len(maps))],
        column_title=SIGMA,
        right=70,
    )
    limit = float(np.percentile(np.abs(maps), 99.5)) or 1.0
    for c, channel in enumerate(maps):
        for s, one in enumerate(channel):
            drawn = draw(axes[c, s], scaled(one, size), cmap="RdBu_r", vmin=-limit, vmax=limit)
    _key(fig, axes, drawn)
    fig.data = pd.DataFrame(
        {"step": tr.steps[i].index, "sigma": tr.steps[i].sigma, "channel": c, "mean": m.mean(), "sd": m.std()}
        for c, channel in enumerate(maps)
        for i, m in zip(chosen, channel, strict=True)
    )
    return fig


def _of(
    tr: Any, name: str, frame: int | Sequence[int], steps: Sequence[int] | None, most: int
) -> tuple[np.ndarray, list[int], list[int]]:
    """What was kept under a name, float32 "s f c h w" at the chosen steps and frames, and those."""
    if tr.batch != 1:
        raise TraceError(f"this trace holds {tr.batch} samples: show one, as in show.denoising(tr[0]).")
    kept = tr[name]
    if kept.ndim != 5:
        raise InputError(f'{name!r} has shape {tuple(kept.shape)}: latents are "s f c h w".')
    rows = [frame] if isinstance(frame, (int, np.integer)) else list(frame)
    count = len(kept)
    chosen = list(steps) if steps is not None else np.linspace(0, count - 1, min(most, count)).round().astype(int).tolist()
    for what, asked, there in (("step", chosen, count), ("frame", rows, kept.shape[1])):
        wrong = [i for i in asked if not -there <= i < there]
        if wrong or not asked:
            raise InputError(f"{what} {wrong[0] if wrong else asked}: the trace has {what}s 0 to {there - 1}.")
    chosen, rows = [i % count for i in chosen], [i % kept.shape[1] for i in rows]
    return kept[chosen][:, rows].float().numpy(), chosen, rows


def _coloured(tr: Any, values: np.ndarray) -> tuple[np.ndarray, str]:
    if tr.colours is not None:
        return colour(values, tr.colours), "latents as colours"
    return components(values), "its first three principal components"


def components(values: np.ndarray) -> np.ndarray:
    """Latents "s f c h w" as "s f h w 3": their three main directions, each stretched to [0, 1]."""
    z = np.moveaxis(values, 2, -1)
    flat = z.reshape(-1, z.shape[-1])
    flat = flat - flat.mean(0)
    directions = np.linalg.svd(flat, full_matrices=False)[2][:3]
    directions *= np.sign(directions[np.arange(len(directions)), np.abs(directions).argmax(1)])[:, None]  # one sign, always
    parts = flat @ directions.T
    low, high = np.percentile(parts, [1, 99], axis=0)
    parts = np.clip((parts - low) / np.maximum(high - low, 1e-9), 0, 1)
    if parts.shape[1] < 3:
        parts = np.pad(parts, [(0, 0), (0, 3 - parts.shape[1])])
    return parts.reshape(*z.shape[:-1], 3)


def _grid(tr: Any, shown: np.ndarray, chosen: list[int], rows: list[int], title: str) -> Figure:
    size = fitted(shown.shape[2:], columns=len(chosen), width=880 if len(rows) > 1 else 900)
    fig, axes = pictures(
        rows=len(rows),
        columns=len(chosen),
        size=size,
        title=title,
        footer=about(tr),
        column_labels=[number(round(tr.steps[i].sigma, 3)) for i in chosen],
        row_labels=[f"frame {r}" for r in rows] if len(rows) > 1 else (),
        column_title=SIGMA,
    )
    for s in range(len(chosen)):
        for r in range(len(rows)):
            draw(axes[r, s], scaled(shown[s, r], size))
    fig.data = pd.DataFrame(
        {"step": tr.steps[i].index, "sigma": tr.steps[i].sigma, "frame": row}
        | dict(zip(("red", "green", "blue"), shown[s, r].reshape(-1, 3).mean(0), strict=True))
        for s, i in enumerate(chosen)
        for r, row in enumerate(rows)
    )
    return fig


def _key(fig: Figure, axes: np.ndarray, drawn: Any) -> None:
    """A colour bar in the free strip at the right, half as tall as the pictures at most."""
    top, bottom = axes[0, -1].get_position(), axes[-1, -1].get_position()
    width, height = fig.get_size_inches() * DPI
    tall = min(140 / height, top.y1 - bottom.y0)
    ax = fig.add_axes((top.x1 + 12 / width, (top.y1 + bottom.y0 - tall) / 2, 10 / width, tall))
    bar = fig.colorbar(drawn, cax=ax)
    bar.outline.set_visible(False)
    ax.tick_params(labelsize=SMALL + 0.5, color=GREY)


def _said(name: str) -> str:
    return {"latents": "Latents", "next_latents": "Latents after the step", "denoised": "Denoised latents"}.get(name, name)


def _list(values: Sequence[int]) -> str:
    return f"frame {values[0]}" if len(values) == 1 else f"frames {', '.join(map(str, values[:-1]))} and {values[-1]}"
