from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from svdlab.pipeline.images import sample_image
from svdlab.probes import controls

IMAGE = np.asarray(sample_image("scene-3"), np.float32) / 255


def test_a_pan_of_whole_pixels_shifts_the_image() -> None:
    clip = controls.panned(IMAGE, 4, px=2.0)
    assert np.allclose(clip[3][:, 8:-16], IMAGE[:, 14:-10], atol=1e-4)
    assert np.array_equal(controls.panned(IMAGE, 3, px=0.0)[2], clip[0])


def test_fading_drifts_by_its_step() -> None:
    clip = controls.fading(controls.still(0.3 + 0.4 * IMAGE, 5), shift=0.01)
    assert (clip[4] - clip[0]).mean((0, 1)) == pytest.approx([0.04, 0, -0.04], abs=1e-6)


def test_latents_follow_the_declared_scale_factor(pipe: Any) -> None:
    """Latents at twice the declared factor are twice as large, and the decoder's own division undoes it."""
    one = controls.encode(pipe, IMAGE[None]).square().mean().sqrt()
    through = controls.through_autoencoder(pipe, IMAGE[None])
    factor = pipe.vae.config.scaling_factor
    try:
        pipe.vae.register_to_config(scaling_factor=2 * factor)
        assert float(controls.encode(pipe, IMAGE[None]).square().mean().sqrt()) == pytest.approx(2 * float(one), rel=1e-5)
        assert controls.through_autoencoder(pipe, IMAGE[None]) == pytest.approx(through, abs=1e-5)
    finally:
        pipe.vae.register_to_config(scaling_factor=factor)
