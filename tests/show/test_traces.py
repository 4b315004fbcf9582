"""Figures of a trace show its steps by sigma, in the trace's own colours or as decoded."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import svdlab
from svdlab import show
from svdlab.errors import InputError, TraceError
from svdlab.show.figure import scaled
from svdlab.show.traces import components
from tests.show.drawn import drawn_in, pixels, texts


def test_columns_are_titled_by_sigma(tr: Any) -> None:
    fig = show.denoising(tr, frame=4, steps=[0, 3])
    assert "700" in texts(fig) and "0.002" in texts(fig) and "sigma" in texts(fig)
    assert fig.data["sigma"].tolist() == tr.sigmas[[0, 3]].tolist()
    shown = drawn_in(fig, fig.axes[1])
    expected = scaled(tr.as_colours(tr.denoised[3, 4]), shown.shape[:2])
    assert np.abs(shown - expected * 255.0).max() <= 1


def test_decoded_images_are_shown_as_given_or_the_chosen_part_of_all(pipe: Any, tr: Any) -> None:
    decoded = tr.decode(pipe)
    whole = show.denoising(tr, frame=[0, 4], steps=[0, 3], decoded=decoded)
    some = show.denoising(tr, frame=[0, 4], steps=[0, 3], decoded=decoded[[0, 3]][:, [0, 4]])
    assert (pixels(whole) == pixels(some)).all()
    shown = drawn_in(some, some.axes[3])
    assert np.abs(shown - scaled(decoded[3, 4], shown.shape[:2]) * 255.0).max() <= 1
    with pytest.raises(InputError, match=r"tr\.decode\(pipe, steps=\[0, 3\], frames=\[4\]\)"):
        show.denoising(tr, frame=4, steps=[0, 3], decoded=decoded[:1])


def test_a_trace_without_colours_is_shown_by_components(tr: Any) -> None:
    assert "principal components" in texts(show.denoising(replace(tr, find_colours=lambda: None)))
    assert show.latents(tr, mode="colours", steps=[0]).title == "Latents of frame 0, latents as colours"


def test_components_follow_the_directions_of_most_variance() -> None:
    rng = np.random.default_rng(0)
    latents = rng.normal(size=(2, 3, 4, 8, 8)) * np.array([0.1, 5.0, 1.0, 0.01])[:, None, None]
    parts = components(latents)
    assert parts.shape == (2, 3, 8, 8, 3) and parts.min() == 0 and parts.max() == 1
    for i, channel in enumerate((1, 2, 0)):
        assert np.corrcoef(parts[..., i].ravel(), latents[:, :, channel].ravel())[0, 1] > 0.97
    assert components(latents[:, :, :2])[..., 2].max() == 0  # two channels have two directions


def test_channels_share_a_scale_centred_at_zero(tr: Any) -> None:
    fig = show.latents(tr, frame=1, steps=[0, 2])
    limits = {ax.images[0].get_clim() for ax in fig.axes[:8]}
    assert len(limits) == 1 and sum(limits.pop()) == 0
    # Noise at the first step has unit spread in the UNet's own units.
    assert 0.85 < fig.data[fig.data.step == 0].sd.mean() < 1.15


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda t: show.denoising(t, frame=8), InputError, "frames 0 to 7"),
        (lambda t: show.denoising(t, steps=[4]), InputError, "steps 0 to 3"),
        (lambda t: show.denoising(t, steps=[]), InputError, "step"),
        (lambda t: show.latents(t, mode="heat"), InputError, "channels, pca, colours"),
        (lambda t: show.latents(t, name="cond"), TraceError, "cond"),
        (lambda t: show.denoising(replace(t, batch=2)), TraceError, r"tr\[0\]"),
        (lambda t: show.denoising(svdlab.Trace()), TraceError, "empty"),
    ],
)
def test_what_a_trace_lacks_is_named(call: Any, error: type, message: str, tr: Any) -> None:
    with pytest.raises(error, match=message):
        call(tr)
