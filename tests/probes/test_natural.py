"""The rows on natural grounds find in the scenes' own videos what was planted there."""

import numpy as np
import pytest

from svdlab.organism import world
from svdlab.probes.natural import layer_ratios, moved_back


def test_the_far_layer_of_a_true_scene_moves_at_the_planted_ratio():
    fixed = dict(motion="pan", ground="leaves", layers=2, sprites=0, pattern="none", background="light")
    s = world.scenes(12, seed=3, edition=2, fps=7, motion_bucket_id=127, **fixed)
    assert np.median(layer_ratios(list(s.video), s)) == pytest.approx(0.5, abs=0.08)


def test_a_pan_that_is_moved_back_is_the_image():
    fixed = dict(motion="pan", ground="leaves", layers=1, sprites=0, pattern="none", background="light")
    s = world.scenes(3, seed=3, edition=2, fps=7, motion_bucket_id=100, **fixed)
    assert min(moved_back(v[-1], v[0]) for v in s.video) > 30
    assert moved_back(s.video[0, -1], s.video[1, 0]) < 20
