"""F10: the camera of the model organism's own object clips stands still, and the instrument says so or abstains."""

import pytest

import svdlab
from svdlab.measure import motion
from svdlab.organism import world
from tools.validate_second import BEYOND, FIRST_SEED, clips_of

pytestmark = pytest.mark.slow


def test_f10_generated_object_scenes_are_static_or_abstained():
    pipe = svdlab.load_pipeline()
    scenes = world.scenes(24, seed=FIRST_SEED + BEYOND + 5, motion="object", background="light")
    classes = [motion.summary(frames)["camera"] for frames in clips_of(pipe, scenes)]
    assert sum(c in ("static", "abstained") for c in classes) >= 0.9 * len(classes), classes
