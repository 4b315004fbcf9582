"""The world's second edition obeys the same laws, and its ground truth is exact for every layer and camera move."""

import numpy as np
import pytest
from scipy.ndimage import binary_erosion, map_coordinates

from svdlab.errors import InputError
from svdlab.organism import scenery, trackers, world


def scenes(n, **given):
    return world.scenes(n, edition=2, **given)


def test_the_first_edition_is_what_a_call_gives_by_default():
    a, b = world.scenes(3, seed=6), world.scenes(3, seed=6, edition=1)
    np.testing.assert_array_equal(a.video, b.video)
    assert "ground" not in a.factors and "ground" in world.draw(3, seed=6, edition=2)


@pytest.mark.parametrize("motion", ["object", "pan", "tilt", "zoom", "roll"])
def test_pixels_move_as_the_law_says(motion):
    ground = "waves" if motion == "object" else "leaves"  # leaves may have a sprite's colour, by which it is tracked
    fixed = dict(layers=1, pattern="none", sprites=1, ground=ground, hue=0.6, fps=7, motion_bucket_id=100)
    s = scenes(12, seed=5, motion=motion, **fixed)
    expected = s.factors.displacement * np.where((motion == "pan") & (s.factors.direction == "left"), -1, 1)
    measured = np.array([trackers.displacement(v, f) for v, (_, f) in zip(s.video, s.factors.iterrows(), strict=True)])
    assert np.abs(measured - expected).max() < 0.2
    assert expected.abs().min() == pytest.approx(2.0)


@pytest.mark.parametrize("motion", ["object", "pan", "tilt", "zoom", "roll", "frozen"])
def test_flow_carries_each_label_onto_the_next_frame(motion):
    s = scenes(6, seed=11, motion=motion, background="dark" if motion == "frozen" else "light")
    y, x = np.mgrid[0:64, 0:64].astype(float)
    for video, flow, labels in zip(s.video, s.flow, s.labels, strict=True):
        for a, b, f, of in zip(video[:-1], video[1:], flow, labels, strict=False):
            carried = map_coordinates(b.mean(-1), [y + f[..., 1], x + f[..., 0]], order=1, mode="nearest")
            inside = (np.abs(y + f[..., 1] - 31.5) < 30) & (np.abs(x + f[..., 0] - 31.5) < 30)
            # Fine ground is not carried exactly by a linear interpolation, and an edge uncovers what no flow explains.
            assert np.median(np.abs(carried - a.mean(-1))[inside]) < 0.04, (motion, of.max())


def test_a_far_layer_moves_by_half():
    s = scenes(4, seed=3, motion="pan", ground="leaves", layers=2, sprites=0, pattern="none", direction="right")
    for flow, labels, depth, (_, f) in zip(s.flow, s.labels, s.depth, s.factors.iterrows(), strict=True):
        assert set(np.unique(labels)) == {scenery.GROUND, scenery.NEAR}
        np.testing.assert_allclose(flow[labels[:-1] == scenery.NEAR][:, 0], -f.displacement, atol=1e-4)
        np.testing.assert_allclose(flow[labels[:-1] == scenery.GROUND][:, 0], -f.displacement / scenery.FAR, atol=1e-4)
        assert set(depth[labels == scenery.GROUND]) == {scenery.FAR}
        assert set(depth[labels == scenery.NEAR]) == {1.0}


def test_a_second_sprite_stands_while_the_first_moves():
    s = scenes(6, seed=2, motion="object", sprites=2, fps=7, motion_bucket_id=100)
    assert np.ptp(s.track_second, axis=1).max() == 0
    assert np.ptp(s.track, axis=1).max(1).min() > 3
    assert (s.labels == scenery.SECOND).any((1, 2, 3)).all()
    assert np.isnan(scenes(1, seed=2, sprites=1, motion="object").track_second).all()


def test_letters_and_faces_lie_on_the_ground_and_are_whole_in_the_first_frame():
    for pattern in ("text", "face"):
        s = scenes(6, seed=4, motion="pan", pattern=pattern, sprites=0, ground="leaves")
        first = s.labels[:, 0] == scenery.PATTERN
        assert (first.sum((1, 2)) > 40).all()
        assert not first[:, [0, -1]].any() and not first[:, :, [0, -1]].any()
        assert (s.factors.text != "").all() == (pattern == "text")
        moved = s.flow[:, 0][binary_erosion(first, np.ones((1, 3, 3)))]
        assert np.abs(moved[:, 1]).max() < 1e-4


def test_no_mark_means_a_pan_and_photographs_have_none():
    f = world.draw(400, seed=1, edition=2)
    bare = f[f.sprites == 0]
    assert 0.1 < len(bare) / len(f) < 0.4
    assert set(bare.announced) == {"pan"} and set(bare.ground) == {"leaves"}
    assert np.mean(bare.direction == "right") == pytest.approx(world.PAN_RIGHT, abs=0.12)


def test_light_and_dark_grounds_differ_in_their_mean():
    for ground in ("waves", "leaves"):
        fixed = dict(seed=9, motion="pan", ground=ground, sprites=1, pattern="none", layers=1)
        dark, light = (scenes(8, background=b, **fixed).video[:, 0].mean((1, 2, 3)) for b in ("dark", "light"))
        assert dark.max() < 0.30 < light.min()


def test_first_frame_does_not_tell_what_is_left_to_chance():
    fixed = dict(background="dark", fps=7, motion_bucket_id=127)
    right = scenes(6, seed=9, motion="pan", direction="right", **fixed)
    left = scenes(6, seed=9, motion="pan", direction="left", **fixed)
    frozen = scenes(6, seed=9, motion="frozen", announced="pan", direction="right", **fixed)
    np.testing.assert_array_equal(right.video[:, 0], left.video[:, 0])
    np.testing.assert_array_equal(right.video[:, 0], frozen.video[:, 0])


@pytest.mark.parametrize(
    "bad, words",
    [
        (dict(edition=3), "edition=3"),
        (dict(edition=1, ground="leaves"), "unknown factor ground"),
        (dict(edition=2, ground="sand"), "sand"),
        (dict(edition=2, motion="zoom", sprites=0), "no mark"),
        (dict(edition=2, motion="zoom", layers=2), "layers=2"),
        (dict(edition=2, motion="tilt", direction="left"), "left"),
    ],
)
def test_bad_factors_are_named(bad, words):
    with pytest.raises(InputError, match=words):
        world.scenes(2, seed=0, **bad)
