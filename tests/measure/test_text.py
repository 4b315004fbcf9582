"""Plates, letters and reading: clean ones are perfect, spoilt ones are spoilt by as much as was done to them."""

import cv2
import numpy as np
import pytest

from svdlab.errors import InputError
from svdlab.measure import text
from svdlab.measure.calibrate import degrade, moving

PLATE = text.make_plate("RIVER", (256, 256), height=28, background=moving("coffee", size=(256, 256), frames=1).frames[0])


def seen(plate, poses):
    """The plate under a camera: dx, dy, scale for each frame."""
    middle = (np.array(plate.image.shape[1::-1]) - 1) / 2
    frames = []
    for dx, dy, scale in poses:
        shift = middle * (1 - scale) + (dx, dy)
        matrix = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])
        frames.append(cv2.warpAffine(plate.image, matrix, plate.image.shape[1::-1], flags=cv2.INTER_CUBIC, borderMode=4))
    return np.clip(np.stack(frames), 0, 1)


@pytest.mark.parametrize("font", text.FONTS)
@pytest.mark.parametrize(("shape", "height"), [((64, 64), 10), ((256, 256), 20), ((576, 1024), 64)])
def test_a_plate_is_what_it_says(font, shape, height):
    plate = text.make_plate("H HE", shape, height=height, font=font, contrast=0.6)
    left, top, right, bottom = plate.panel
    inside = plate.image[top:bottom, left:right, 0]
    assert inside.max() == pytest.approx(0.8) and plate.image[0, 0, 0] == 0.5
    assert inside.min() == pytest.approx(0.2, abs=0.05 if height >= 20 else 0.25)  # thin strokes have no pixel of full ink
    inked = np.flatnonzero((inside < 0.5).any(1))
    assert inked[-1] - inked[0] + 1 == pytest.approx(height, abs=1)
    assert plate.letters == "HHE" and len(plate.boxes) == 3
    x0, y0, x1, y1 = plate.boxes[1]
    assert plate.image[y0:y1, x0:x1].std() > 0.05


def test_an_accent_is_part_of_its_letter():
    plate = text.make_plate("CAFE\u0301", (256, 256), height=28)
    assert plate.text == "CAFÉ" and not text.correlation(plate, plate.image[None]).dropped.any()


def test_a_clean_plate_is_all_there_and_another_one_is_not():
    table = text.correlation(PLATE, PLATE.image[None])
    assert len(table) == 5 and not table.dropped.any()
    assert table.correlation.min() > 0.995 and table.contrast.to_numpy() == pytest.approx(1, abs=0.01)
    other = text.make_plate("QUAYS", (256, 256), height=28)
    assert text.correlation(PLATE, other.image[None]).correlation.mean() < 0.6
    assert text.correlation(PLATE, np.full((1, 256, 256, 3), 0.4)).correlation.abs().max() == 0


@pytest.mark.parametrize(("x", "y", "zoom"), [(2.0, -1.3, 0.0), (0.0, 0.0, 0.012), (-0.3, 0.1, -0.008)])
def test_a_plate_is_followed_through_known_motion(x, y, zoom):
    path = [(x * t, y * t, 1 + zoom * t) for t in range(8)]
    table = text.correlation(PLATE, seen(PLATE, path))
    pose = table.groupby("frame")[["dx", "dy", "scale"]].first().to_numpy()
    assert np.abs(pose[:, :2] - np.array(path)[:, :2]).max() < 1.0  # px
    assert np.abs(pose[:, 2] - np.array(path)[:, 2]).max() < 0.012
    assert table.correlation.min() > 0.93


def test_dropped_letters_are_found_where_they_were_dropped_and_nowhere_else():
    spoilt = PLATE.image[None].repeat(6, 0)
    for f, i in (dropped := {(2, 1), (2, 3), (4, 1), (4, 3)}):
        left, top, right, bottom = PLATE.boxes[i]
        spoilt[f, top:bottom, left:right] = 0.5 * (1 + PLATE.contrast)
    table = text.correlation(PLATE, spoilt)
    assert {(f, i) for f, i in table.loc[table.dropped, ["frame", "letter"]].to_numpy().tolist()} == dropped
    assert text.read_clip(spoilt[1:3], "RIVER").error_rate.tolist() == pytest.approx([0, 0.4])


def test_more_blur_leaves_less_of_each_letter_and_faintness_is_not_blur():
    clip = PLATE.image[None]
    left = [text.correlation(PLATE, degrade(clip, blur=b)).correlation.mean() for b in (0.5, 2, 4, 8)]
    assert left == sorted(left, reverse=True) and left[0] > 0.97 and left[-1] < 0.6
    faint = text.correlation(PLATE, 0.5 + (clip - 0.5) / 4)
    assert faint.correlation.min() > 0.99
    assert faint.contrast.to_numpy() == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize(("said", "rate"), [(" ri ver\n", 0), ("RVER", 0.2), ("RAVERS", 0.4), ("", 1), ("SOMETHING ELSE", 1)])
def test_error_rate_by_hand(said, rate):
    assert text.error_rate("RIVER", said) == pytest.approx(rate)


def test_reading_clean_blurred_and_absent_text():
    """rapidocr remembers what one call switched off; a call of ours must not care what came before."""
    text.engine()(np.zeros((64, 64, 3), np.uint8), use_det=False)
    blurred = degrade(PLATE.image[None], blur=14)[0]
    empty = moving("coffee", size=(256, 256), frames=1).frames[0]
    table = text.read_clip(np.stack([PLATE.image, blurred, empty]), "RIVER")
    assert table.error_rate.tolist() == [0, 1, 1]
    assert table.text[0] == "RIVER" and len(table.text[2]) <= 1  # a cup seen from above is an O to some


@pytest.mark.parametrize(
    "call",
    [
        lambda: text.make_plate("A", (64, 64), height=4),
        lambda: text.make_plate("A", (64, 64), height=10, font="gothic"),
        lambda: text.make_plate("A_B", (256, 256), height=28),
        lambda: text.make_plate("\u0645\u0631\u062d\u0628\u0627", (256, 256), height=28),
        lambda: text.make_plate("A VERY LONG SENTENCE INDEED", (64, 64), height=10),
        lambda: text.make_plate("A", (64, 64), height=10, background=np.zeros((32, 64, 3))),
        lambda: text.correlation(PLATE, PLATE.image[None, :64]),
    ],
)
def test_bad_input_is_refused(call):
    with pytest.raises(InputError):
        call()
