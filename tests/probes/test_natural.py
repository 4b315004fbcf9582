"""The rows on natural grounds find in the scenes' own videos what was planted there."""

import numpy as np
import pytest

from svdlab.organism import world
from svdlab.probes import natural
from svdlab.probes.natural import layer_ratios, moved_back
from svdlab.probes.stimuli import blurred, panned


def test_the_far_layer_of_a_true_scene_moves_at_the_planted_ratio():
    fixed = dict(motion="pan", ground="leaves", layers=2, sprites=0, pattern="none", background="light")
    s = world.scenes(12, seed=3, edition=2, fps=7, motion_bucket_id=127, **fixed)
    assert np.median(layer_ratios(list(s.video), s)) == pytest.approx(0.5, abs=0.08)


def test_a_pan_that_is_moved_back_is_the_image():
    fixed = dict(motion="pan", ground="leaves", layers=1, sprites=0, pattern="none", background="light")
    s = world.scenes(3, seed=3, edition=2, fps=7, motion_bucket_id=100, **fixed)
    assert min(moved_back(v[-1], v[0]) for v in s.video) > 30
    assert moved_back(s.video[0, -1], s.video[1, 0]) < 20


@pytest.mark.slow
def test_the_world_itself_passes_the_rows_of_scenes():
    own = lambda s: list(s.video)
    rows = [*natural.camera_rows(own, n=16), natural.parallax_row(own, n=12), natural.static_row(own, n=8)]
    assert all(row[-1] for row in rows), rows


@pytest.mark.slow
def test_half_the_speed_one_plane_and_a_moving_camera_fail():
    slow = lambda s: [np.repeat(video, 2, axis=0)[: len(video)] for video in s.video]
    rolled = lambda s: [np.stack([np.roll(video[0], 2 * t, axis=1) for t in range(len(video))]) for video in s.video]
    rows = [*natural.camera_rows(slow, n=16), natural.parallax_row(rolled, n=12), natural.static_row(rolled, n=8)]
    assert not any(row[-1] for row in rows), rows


def test_photographs_that_pan_by_the_law_pass_and_still_or_blurred_ones_do_not():
    own = lambda images, bucket: [panned(np.asarray(i, np.float32), 8, px=float(world.law(7, bucket))) for i in images]
    still = lambda images, bucket: [np.stack([np.asarray(i, np.float32)] * 8) for i in images]
    soft = lambda images, bucket: [blurred(clip, 3.0) for clip in own(images, bucket)]
    found = {make: [row[-1] for row in natural.photograph_rows(make, 1)] for make in (own, still, soft)}
    assert list(found.values()) == [[True, True, True], [True, True, False], [False, False, True]]


def test_letters_that_stay_pass_and_letters_that_blur_do_not():
    still = lambda images, bucket: [np.stack([np.asarray(i, np.float32)] * 8) for i in images]
    soft = lambda images, bucket: [blurred(clip, 6.0) for clip in still(images, bucket)]
    assert natural.letter_row(still)[-1] and not natural.letter_row(soft)[-1]
