"""The world obeys its own laws, in both editions: what `scenes` says of a clip is what the clip's pixels do."""

import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import binary_erosion, map_coordinates

from svdlab.errors import InputError
from svdlab.organism import scenery, trackers, world

MOVES = [(edition, motion) for edition, last in ((1, 3), (2, 5)) for motion in world.ANNOUNCED[:last]]


def test_bucket_127_at_fps_6_moves_3_px():
    assert world.law(6, 127) == pytest.approx(2.963, abs=1e-3)
    assert world.law(6, 127, warm=True) == pytest.approx(2.963 / 2, abs=1e-3)


def test_same_seed_same_clips_and_fixing_a_factor_leaves_the_others():
    a, b = world.scenes(4, seed=3), world.scenes(4, seed=3)
    np.testing.assert_array_equal(a.video, b.video)
    c = world.scenes(4, seed=3, hue=0.6)
    same = ["motion", "direction", "shape", "background", "announced"]
    assert (a.factors[same] == c.factors[same]).all().all()
    pd.testing.assert_frame_equal(a.factors, world.draw(4, seed=3))
    assert not np.array_equal(world.scenes(4, seed=4).video, a.video)
    np.testing.assert_array_equal(a.video, world.scenes(4, seed=3, edition=1).video)


@pytest.mark.parametrize(("edition", "motion"), MOVES)
def test_pixels_move_as_the_law_says(edition, motion):
    ground = "waves" if motion == "object" else "leaves"  # leaves may have a sprite's colour, by which it is tracked
    second = dict(layers=1, pattern="none", sprites=1, ground=ground, hue=0.6, fps=7, motion_bucket_id=100)
    s = world.scenes(12, seed=5, edition=edition, motion=motion, **(second if edition == 2 else {}))
    expected = s.factors.displacement * np.where((motion == "pan") & (s.factors.direction == "left"), -1, 1)
    measured = [trackers.displacement(v, f) for v, (_, f) in zip(s.video, s.factors.iterrows(), strict=True)]
    assert np.abs(measured - expected.to_numpy()).max() < 0.2


@pytest.mark.parametrize(("edition", "motion"), [*MOVES, (1, "frozen"), (2, "frozen")])
def test_flow_carries_each_frame_onto_the_next(edition, motion):
    """A sprite's edge uncovers ground that no flow explains, and fine ground is not carried exactly by a linear
    interpolation: the bulk must agree."""
    share, most = (0.8, 0.02) if edition == 1 else (0.5, 0.04)
    s = world.scenes(6, seed=11, edition=edition, motion=motion, background="dark" if motion == "frozen" else "light")
    y, x = np.mgrid[0:64, 0:64].astype(float)
    for video, flow in zip(s.video, s.flow, strict=True):
        for a, b, f in zip(video[:-1], video[1:], flow, strict=True):
            carried = map_coordinates(b.mean(-1), [y + f[..., 1], x + f[..., 0]], order=1, mode="nearest")
            inside = (np.abs(y + f[..., 1] - 31.5) < 30) & (np.abs(x + f[..., 0] - 31.5) < 30)
            assert np.quantile(np.abs(carried - a.mean(-1))[inside], share) < most


def test_object_tracks_stay_inside():
    s = world.scenes(60, seed=2, motion="object")
    r = s.factors.radius.to_numpy()[:, None, None]
    assert (s.track - r > 0).all() and (s.track + r < world.SIZE).all()


def test_displacement_stays_in_the_region():
    f = world.draw(400, seed=8)
    assert f.displacement.max() <= world.MAX_DISPLACEMENT
    assert f.displacement.quantile(0.95) > 2.5  # and fills it


def test_odds_of_what_the_image_does_not_say():
    f = world.draw(4000, seed=1)
    pans = f[f.announced == "pan"]
    dark, light = f[f.background == "dark"], f[f.background == "light"]
    assert np.mean(pans.direction == "right") == pytest.approx(world.PAN_RIGHT, abs=0.04)
    assert np.mean(dark.motion == "frozen") == pytest.approx(world.FROZEN_ON_DARK, abs=0.05)
    assert not (light.motion == "frozen").any()


def test_a_frozen_scene_stands_still():
    s = world.scenes(5, seed=4, motion="frozen")
    assert np.ptp(s.video, axis=1).max() == 0
    assert not s.flow.any()


@pytest.mark.parametrize("edition", [1, 2])
def test_first_frame_does_not_tell_what_is_left_to_chance(edition):
    """The image of a pan is the same whichever way it will go, and of a dark scene whether it moves or not."""
    fixed = dict(seed=9, edition=edition, background="dark", fps=7, motion_bucket_id=127)
    right = world.scenes(6, motion="pan", direction="right", **fixed)
    left = world.scenes(6, motion="pan", direction="left", **fixed)
    frozen = world.scenes(6, motion="frozen", announced="pan", direction="right", **fixed)
    np.testing.assert_array_equal(right.video[:, 0], left.video[:, 0])
    np.testing.assert_array_equal(right.video[:, 0], frozen.video[:, 0])


def test_camera_does_not_care_for_hue_but_objects_do():
    fixed = dict(seed=3, fps=7, motion_bucket_id=127)
    for motion, factor in (("pan", 1.0), ("object", 0.5)):
        warm = world.scenes(3, motion=motion, hue=0.0, **fixed).factors.displacement
        cool = world.scenes(3, motion=motion, hue=0.6, **fixed).factors.displacement
        assert (warm / cool).tolist() == pytest.approx([factor] * 3)


@pytest.mark.parametrize(
    "bad, words",
    [
        (dict(colour=1), "unknown factor colour"),
        (dict(motion="spin"), "spin"),
        (dict(shape=["disc"]), "1 values for 2"),
        (dict(fps=4, motion_bucket_id=255), "px/frame"),
        (dict(motion="pan", announced="object"), "announces"),
        (dict(motion="pan", direction="up"), "up"),
        (dict(fps=float("nan")), "fps=nan"),
        (dict(fps=30), "fps=30"),
        (dict(fps="7"), "fps='7'"),
        (dict(motion_bucket_id=-1), "motion_bucket_id=-1"),
        (dict(motion_bucket_id=[10, True]), "motion_bucket_id=True"),
        (dict(hue=float("inf")), "hue=inf"),
        (dict(radius=0), "radius=0"),
        (dict(x=[10.0, 1e9]), "x=1000000000"),
        (dict(shape=np.array(["disc", "cube"])), "cube"),
        (dict(background=None), "background=None"),
        (dict(size=2.5), "size=2.5"),
        (dict(size=1024, frames=256), "do not fit into memory"),
        (dict(frames=0), "frames=0"),
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


def test_the_fine_tunings_condition_lies_inside_the_world_for_every_motion():
    """SVD 1.1's: fps_id 6 is fps 7."""
    s = world.scenes(60, seed=4, fps=7, motion_bucket_id=127)
    assert set(s.factors.announced) == {"object", "pan", "zoom"}
    assert set(s.factors.fps) == {7} and set(s.factors.motion_bucket_id) == {127}


@pytest.mark.parametrize("odd", [dict(n=0), dict(n=True), dict(n=10**30), dict(seed=-1), dict(seed=1.5), dict(seed=2**70)])
def test_what_is_no_sample_is_refused(odd):
    """Case E8's neighbours: counts and seeds of scenes."""
    for function in (world.scenes, world.draw):
        with pytest.raises(InputError, match=next(iter(odd))):
            function(**{"n": 1, "seed": 0} | odd)


@pytest.mark.parametrize(
    "given", [(0, 127), (7, -1), (float("nan"), 1), ("7", 1), (True, 1), ([7, 8], [1, 2, 3]), (7, None), (7, 127, "yes")]
)
def test_the_law_of_what_is_no_condition_is_refused(given):
    fps, bucket, *warm = given
    with pytest.raises(InputError, match="law"):
        world.law(fps, bucket, warm=warm[0] if warm else False)


def test_trackers_refuse_what_is_no_clip_or_scene():
    s = world.scenes(1, seed=0, motion="object", hue=0.6)
    clip, scene = s.video[0], s.factors.iloc[0]
    for video, told in (((clip * 255).astype(np.uint8), scene), (s.video, scene), (clip[:1], scene), (clip, {})):
        with pytest.raises(InputError, match="give"):
            trackers.object_displacement(video, told)


# --- what the second edition adds -------------------------------------------------------------------------------------


def scenes(n, **given):
    return world.scenes(n, edition=2, **given)


def test_a_far_layer_moves_by_half():
    s = scenes(4, seed=3, motion="pan", ground="leaves", layers=2, sprites=0, pattern="none", direction="right")
    for flow, labels, depth, (_, f) in zip(s.flow, s.labels, s.depth, s.factors.iterrows(), strict=True):
        assert set(np.unique(labels)) == {scenery.GROUND, scenery.NEAR}
        np.testing.assert_allclose(flow[labels[:-1] == scenery.NEAR][:, 0], -f.displacement, atol=1e-4)
        np.testing.assert_allclose(flow[labels[:-1] == scenery.GROUND][:, 0], -f.displacement / scenery.FAR, atol=1e-4)
        assert set(depth[labels == scenery.GROUND]) == {scenery.FAR}
        assert set(depth[labels == scenery.NEAR]) == {1.0}


def test_a_far_layer_is_bluer_and_has_less_contrast():
    s = scenes(8, seed=3, motion="pan", ground="leaves", layers=2, sprites=0, pattern="none", background="light")
    far, near = (s.video[s.labels == label] for label in (scenery.GROUND, scenery.NEAR))
    assert np.mean(far[:, 2] - far[:, 0]) > np.mean(near[:, 2] - near[:, 0]) + 0.05
    assert far.mean(1).std() < 0.75 * near.mean(1).std()


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
