"""What a trace holds, as images: the clip that the model expects at each step, and the latents themselves.

>>> show.denoising(tr, frame=4)                       # columns titled by sigma
>>> show.latents(tr, frame=4, mode="channels")
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from svdlab.errors import InputError, TraceError
from svdlab.show.figure import GREY, SMALL, Figure, chosen, draw, fitted, images, scaled
from svdlab.show.labels import number

MODES = ("channels", "pca", "colours")
NAMES = {"latents": "Latents", "next_latents": "Latents after the step", "denoised": "Denoised latents"}


def denoising(
    tr: Any,
    *,
    frame: int | Sequence[int] = 0,
    steps: Sequence[int] | None = None,
    decoded: np.ndarray | None = None,
    title: str = "",
) -> Figure:
    """The denoised estimate from step to step: what the model would make of the noise if it stopped there.

    >>> show.denoising(tr, frame=4)
    >>> show.denoising(tr, frame=4, steps=[0, 2, 3], decoded=tr.decode(pipe, steps=[0, 2, 3], frames=[4]))
    >>> show.denoising(tr, frame=[0, 4], decoded=tr.decode(pipe))            # all is decoded, some of it is shown

    tr: a Trace of one sample with `denoised`. frame: one frame or several (a row each). steps: positions in the
    trace, default 8 of them, evenly spread. decoded: images "s f h w 3" in [0, 1] of those steps and frames, or of
    all, from `Trace.decode`; without, latents are shown as colours by the trace's linear map, or by their first three
    principal components where it has none. Raises TraceError for a batch or a trace without `denoised`, InputError for
    steps or frames that are not there.
    """
    values, picked, rows = _values(tr, "denoised", frame, steps)
    if decoded is None:
        shown, how = _coloured(tr, values)
    else:
        shown, how = np.asarray(decoded), "decoded by the VAE"
        if shown.shape[:2] == tr.denoised.shape[:2]:
            shown = shown[np.ix_(picked, rows)]
        if shown.ndim != 5 or shown.shape[:2] != (len(picked), len(rows)):
            raise InputError(
                f'decoded has shape {shown.shape}: "s f h w 3" with {len(picked)} steps and {len(rows)} frames is needed, '
                f"as in tr.decode(pipe, steps={picked}, frames={rows})."
            )
    which = f"frame {rows[0]}" if len(rows) == 1 else f"frames {', '.join(map(str, rows[:-1]))} and {rows[-1]}"
    return _by_frame(tr, shown, picked, rows, title or f"Denoised estimate of {which}, {how}")


def latents(
    tr: Any,
    *,
    frame: int = 0,
    steps: Sequence[int] | None = None,
    mode: str = "channels",
    name: str = "latents",
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
    values, picked, rows = _values(tr, name, frame, steps)
    if name in ("latents", "next_latents"):
        ends = [s.sigma if name == "latents" else s.sigma_next for s in (tr.steps[i] for i in picked)]
        values = values / np.sqrt(np.square(ends) + 1)[:, None, None, None, None]
    what = f"{NAMES.get(name, name)} of frame {frame}"
    if mode != "channels":
        shown, how = _coloured(tr, values, components_only=mode == "pca")
        return _by_frame(tr, shown, picked, rows, title or f"{what}, {how}")
    maps, limit = values[:, 0], float(np.percentile(np.abs(values), 99.5)) or 1.0  # "s c h w", one scale around zero
    names, look = [f"channel {c}" for c in range(maps.shape[1])], dict(cmap="RdBu_r", vmin=-limit, vmax=limit)
    fig, axes = _board(tr, maps, picked, names, title or f"{what} by channel, in standard units", **look)
    key = axes[len(axes) // 2, -1].inset_axes((1 + 12 / fig.size[0], 0, 10 / fig.size[0], 1))
    fig.colorbar(axes[0, 0].images[0], cax=key).outline.set_visible(False)
    key.tick_params(labelsize=SMALL + 0.5, color=GREY)
    return fig.finish(
        pd.DataFrame(
            {"step": tr.steps[i].index, "sigma": tr.steps[i].sigma, "channel": c, "mean": m.mean(), "sd": m.std()}
            for c in range(maps.shape[1])
            for i, m in zip(picked, maps[:, c], strict=True)
        )
    )


def components(values: np.ndarray) -> np.ndarray:
    """Latents "s f c h w" as images "s f h w 3": their first three principal components, each stretched to [0, 1]."""
    z = np.moveaxis(values, 2, -1)
    flat = z.reshape(-1, z.shape[-1])
    flat = flat - flat.mean(0)
    directions = np.linalg.svd(flat, full_matrices=False)[2][:3]
    directions *= np.sign(directions[np.arange(len(directions)), np.abs(directions).argmax(1)])[:, None]  # one sign, always
    parts = flat @ directions.T
    low, high = np.percentile(parts, [1, 99], axis=0)
    parts = np.clip((parts - low) / np.maximum(high - low, 1e-9), 0, 1)
    return np.pad(parts, [(0, 0), (0, 3 - parts.shape[1])]).reshape(*z.shape[:-1], 3)


def _values(tr: Any, name: str, frame: Any, steps: Any) -> tuple[np.ndarray, list[int], list[int]]:
    """What was kept under a name, float32 "s f c h w" at the chosen steps and frames, and those."""
    if tr.batch != 1:
        raise TraceError(f"this trace holds {tr.batch} samples: show one, as in show.denoising(tr[0]).")
    kept = tr[name]
    if kept.ndim != 5:
        raise InputError(f'{name!r} has shape {tuple(kept.shape)}: latents are "s f c h w".')
    picked = chosen(steps, kept.shape[0], 8, "step")
    rows = chosen(frame, kept.shape[1], 1, "frame")
    return kept[picked][:, rows].float().numpy(), picked, rows


def _coloured(tr: Any, values: np.ndarray, *, components_only: bool = False) -> tuple[np.ndarray, str]:
    if tr.colours is None or components_only:
        return components(values), "first three principal components as red, green, blue"
    return tr.as_colours(values), "latents as colours"


def _board(tr: Any, shown: np.ndarray, picked: list[int], names: Sequence[str], title: str, **look: Any) -> tuple[Figure, Any]:
    """Images or maps "s r h w ...", a column for each step and a row for each name."""
    size = fitted(shown.shape[2:4], columns=len(picked), width=820 if len(names) > 1 else 900)
    sigmas = [number(round(tr.steps[i].sigma, 3)) for i in picked]
    titles = dict(title=title, column_title="sigma, the noise level before the step")
    fig, axes = images(size=size, of=tr, row_labels=names, column_labels=sigmas, **titles)
    for (r, s), ax in np.ndenumerate(axes):
        draw(ax, scaled(shown[s, r], size), **look)
    return fig, axes


def _by_frame(tr: Any, shown: np.ndarray, picked: list[int], rows: list[int], title: str) -> Figure:
    """Images "s f h w 3", a column for each step and a row for each frame."""
    fig, _ = _board(tr, shown, picked, [f"frame {r}" for r in rows] if len(rows) > 1 else [""], title)
    return fig.finish(
        pd.DataFrame(
            {"step": tr.steps[i].index, "sigma": tr.steps[i].sigma, "frame": row}
            | dict(zip(("red", "green", "blue"), shown[s, r].reshape(-1, 3).mean(0), strict=True))
            for s, i in enumerate(picked)
            for r, row in enumerate(rows)
        )
    )
