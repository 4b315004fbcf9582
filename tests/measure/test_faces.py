"""Faces through clips: vanished, blurred and shaken ones are recovered at the size at which they were made so."""

import math

import cv2
import numpy as np
import pytest

from svdlab.errors import InputError
from svdlab.measure import faces
from svdlab.measure.calibrate import degrade
from svdlab.pipeline.images import prepare_image, sample_image

pytestmark = pytest.mark.filterwarnings("ignore::svdlab.pipeline.images.CropWarning")
SIDE = 256


def image(name, side=SIDE):
    return np.asarray(prepare_image(sample_image(name), height=side, width=side), np.float32) / 255


def shifted(frame, dx, dy, scale=1.0):
    middle = (SIDE - 1) / 2 * (1 - scale)
    matrix = np.array([[scale, 0, middle + dx], [0, scale, middle + dy]])
    return np.clip(cv2.warpAffine(frame, matrix, (SIDE, SIDE), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT), 0, 1)


def follow(frames):
    return faces.summarise(faces.track(frames))


FACE = image("astronaut")
STEADY = np.stack([shifted(FACE, 1.5 * t, 0.5 * t) for t in range(10)])


@pytest.mark.parametrize("side", [64, 256, 512])
def test_photographs_of_people_have_a_face_and_others_none(side):
    for name in ("astronaut", "grace_hopper", "camera"):
        found = faces.detect(image(name, side))
        assert len(found) == 1 and found[0].score > 0.75, name
    for name in ("cat", "coffee", "rocket"):
        assert faces.detect(image(name, side)) == [], name


def test_landmarks_are_where_they_are_called():
    face, larger = faces.detect(FACE)[0], faces.detect(image("astronaut", 512))[0]
    right_eye, left_eye, nose, mouth_right, mouth_left = face.landmarks
    assert right_eye[0] < nose[0] < left_eye[0] and mouth_right[0] < mouth_left[0]  # her right is on our left
    assert max(right_eye[1], left_eye[1]) < nose[1] < min(mouth_right[1], mouth_left[1])
    assert np.abs(face.landmarks - face.centre).max() < face.size == pytest.approx(larger.size / 2, rel=0.1)


def test_a_steadily_moving_face_is_perfect():
    found = follow(STEADY)
    assert found["persistence"] == 1 and math.isnan(found["lost_at"]) and found["longest_gap"] == 0
    assert found["score"] > 0.9
    assert found["size_change"] == pytest.approx(1, abs=0.03)
    assert abs(found["blur_change"]) < 0.05
    assert found["landmark_jitter"] < 0.06 and found["shape_jitter"] < 0.03  # the detector's own unrest


def test_a_face_that_vanishes_in_known_frames_is_missed_in_these():
    clip = STEADY.copy()
    gone = [3, 4, 5, 8]
    clip[gone, :110, 60:190] = 0.5  # more than the head, wherever it is
    table = faces.track(clip)
    assert table.frame[~table.found].tolist() == gone
    assert (table.score[gone] == 0).all() and table["size"][gone].isna().all()
    found = faces.summarise(table)
    assert found["persistence"] == pytest.approx(0.6)
    assert (found["lost_at"], found["longest_gap"]) == (3, 3)
    assert found["score"] == pytest.approx(0.6 * table.score[table.found].mean())


def test_a_shaken_face_has_the_jitter_it_was_given():
    shakes = np.random.default_rng(3).normal(0, 1.5, (40, 2))
    found, unrest = follow(np.stack([shifted(FACE, *shake) for shake in shakes])), follow(STEADY)["landmark_jitter"]
    right, left, *_ = faces.detect(FACE)[0].landmarks
    second = shakes[:-2] - 2 * shakes[1:-1] + shakes[2:]
    own = math.sqrt(found["landmark_jitter"] ** 2 - unrest**2)
    assert own == pytest.approx(np.sqrt(np.square(second).mean() / 6) / np.linalg.norm(right - left), rel=0.15)
    assert found["shape_jitter"] < 0.03  # the whole head shook, nothing in it moved


def test_jitter_is_of_independent_noise_and_not_of_motion():
    track = np.arange(4000)[:, None, None] * np.array([0.7, -0.2]) + np.zeros((4000, 5, 2))
    noise = np.random.default_rng(0).normal(0, 0.5, track.shape)
    assert faces.jitter(track) == pytest.approx(0, abs=1e-9) and faces.jitter(track + noise) == pytest.approx(0.5, rel=0.03)
    track[::2] = np.nan
    assert math.isnan(faces.jitter(track))


def test_a_growing_and_a_blurring_face():
    grown = follow(np.stack([shifted(FACE, 0, 3 * t, 1 + 0.05 * t) for t in range(7)]))
    assert grown["size_change"] == pytest.approx(1.3, rel=0.06)
    blur = faces.track(np.stack([degrade(FACE[None], blur=s)[0] for s in (0.0, 0.5, 1.0, 1.5, 2.0)])).blur
    assert blur.is_monotonic_increasing and blur.iloc[-1] - blur.iloc[0] > 0.15


def test_another_face_is_not_taken_for_the_first():
    left, right = image("astronaut", 128), image("grace_hopper", 128)
    both, hers, his = (np.concatenate(p, axis=1) for p in ((left, right), (left, 0 * right), (0 * left, right)))
    table = faces.track(np.stack([both, both, his, both]), first=hers)
    assert table.found.tolist() == [True, True, False, True]
    assert table.others.tolist() == [1, 1, 1, 1]
    assert table.x[table.found].to_numpy() == pytest.approx(faces.detect(left)[0].centre[0], abs=3)
    with pytest.raises(InputError, match="no face"):
        faces.track(image("coffee")[None])
    with pytest.raises(InputError, match="first is an image of"):
        faces.track(FACE[None], first=image("astronaut", 128))
