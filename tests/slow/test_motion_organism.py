"""F10: the camera of the model organism's own object clips stands still, and the instrument says so or abstains."""

import pytest

import svdlab
from svdlab.measure import motion
from svdlab.organism import world
from svdlab.probes.natural import FIRST_SEED, make_clips

pytestmark = pytest.mark.slow


def test_f10_generated_object_scenes_are_static_or_abstained():
    s = world.scenes(12, seed=FIRST_SEED + 20, motion="object", background="light")
    clips = make_clips(svdlab.load_pipeline(), s.video[:, 0], s.factors.fps, s.factors.motion_bucket_id, FIRST_SEED)
    classes = [motion.summary(frames)["camera"] for frames in clips]
    assert sum(c in ("static", "abstained") for c in classes) >= 0.9 * len(classes), classes
