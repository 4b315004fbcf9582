"""What counts as frames: what is converted keeps its values, and what is refused says why."""

import numpy as np
import pytest
import torch
from PIL import Image

from svdlab.errors import InputError
from svdlab.measure.frames import as_frames, as_image

RNG = np.random.default_rng(0)
CLIP = RNG.random((3, 20, 24, 3), dtype=np.float32)


def test_floats_are_kept_as_they_are():
    assert as_frames(CLIP) is CLIP
    assert as_frames(CLIP.astype(np.float64)).dtype == np.float32


def test_other_forms_are_converted():
    eight = np.rint(CLIP * 255).astype(np.uint8)
    assert np.array_equal(as_frames(eight), eight.astype(np.float32) / 255)
    for form in (list(eight), [Image.fromarray(f) for f in eight], torch.from_numpy(eight)):
        assert np.array_equal(as_frames(form), as_frames(eight))
    grey = CLIP[..., 0]
    assert np.array_equal(as_frames(grey), grey[..., None].repeat(3, -1))
    assert np.array_equal(as_frames(grey[..., None]), as_frames(grey))
    assert np.array_equal(as_image(Image.fromarray(eight[0])), as_frames(eight)[0])
    assert np.array_equal(as_image(grey[0]), as_frames(grey)[0])


def test_a_decoders_rounding_is_clipped():
    assert as_frames(CLIP * 1.0009).max() == 1 and as_frames(CLIP - 0.0009).min() >= 0
    with pytest.raises(InputError, match="values from"):
        as_frames(CLIP * 1.1)


@pytest.mark.parametrize(
    ("frames", "says"),
    [
        (np.zeros((1, 64, 64, 3)), "1 frame"),
        (np.zeros((64, 64, 3)), "shape"),
        (np.zeros((4, 64, 64, 4)), "alpha"),
        (np.zeros((4, 3, 64, 64)), "channels come last"),
        ([np.zeros((64, 64, 3)), np.zeros((64, 32, 3))], "different shapes"),
        ([], "0 frame"),
        (np.full((4, 64, 64, 3), np.nan), "NaN"),
        (np.concatenate([np.zeros((1, 64, 64, 3)), np.full((1, 64, 64, 3), np.inf)]), r"frame\(s\) \[1\]"),
        (np.full((4, 64, 64, 3), 255.0), "255"),
        (np.full((4, 64, 64, 3), -1.0), "-1"),
        (np.zeros((4, 64, 64, 3), np.int64), "int64"),
        (np.zeros((4, 8, 8, 3)), "smallest side"),
    ],
)
def test_bad_frames_are_refused_with_the_reason(frames, says):
    with pytest.raises(InputError, match=says):
        as_frames(frames)
