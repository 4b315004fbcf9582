from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from svdlab import probes
from svdlab.errors import InputError
from svdlab.measure.calibrate import degrade, moving
from svdlab.measure.text import make_plate
from svdlab.probes import legibility, stimuli
from svdlab.stats.effects import EFFECT, EQUIVALENT
from tests.probes.conftest import FEW, by_key, table_of

SIDE = 128
WORDS = ("OPEN", "EXIT", "CAFE", "LAMP", "PORT", "SALT")


def plates():
    wall = moving("coffee", size=(SIDE, SIDE), frames=1).frames[0]
    return [make_plate(w, (SIDE, SIDE), height=12 + 4 * (i % 2), background=wall) for i, w in enumerate(WORDS)]


def legible(spoil, ocr=True, frames=4):
    """Findings where the autoencoder is perfect and `spoil(plate, clip)` is all that happens."""
    rows = []
    for plate in plates():
        clip = stimuli.panned(plate.image, frames, px=1.3)
        rows.append({"letter_height": plate.height, **legibility.measures(plate, clip, spoil(plate, clip), ocr=ocr)})
    table = table_of(rows)
    return by_key(legibility.findings(table)), table


def without_letters(plate, clip, letters, frames):
    """Letters painted over where the pan has taken them."""
    out = clip.copy()
    for f in frames:
        for i in letters:
            left, top, right, bottom = plate.boxes[i]
            shift = round(1.3 * f)
            out[f, top:bottom, left - shift : right - shift] = 0.5 * (1 + plate.contrast)
    return out


def test_signs_that_are_only_moved_stay_legible():
    found, table = legible(lambda plate, clip: clip)
    assert found["errors_added"].verdict == EQUIVALENT and (table.errors == 0).all()
    assert found["letters_lost"].verdict == EQUIVALENT and found["dropped"].value == 0


def test_dropped_letters_are_counted():
    """One letter of four, in half of the frames: an eighth of all letters."""
    found, table = legible(lambda plate, clip: without_letters(plate, clip, [3], [2, 3]))
    assert found["dropped"].verdict == EFFECT
    assert found["dropped"].value == pytest.approx(1 / 8, abs=0.02)
    assert found["errors_added"].value == pytest.approx(1 / 8, abs=0.04)
    assert table.errors_added_last.to_numpy() == pytest.approx(0.25, abs=0.01)


def test_blur_makes_text_illegible_to_both_instruments():
    found, _ = legible(lambda plate, clip: degrade(clip, blur=0.45 * plate.height))
    assert found["errors_added"].verdict == found["letters_lost"].verdict == EFFECT
    assert found["errors_added"].value > 0.9 and found["letters_lost"].value > 0.4
    mild, _ = legible(lambda plate, clip: degrade(clip, blur=0.3), ocr=False)
    assert mild["letters_lost"].verdict == EQUIVALENT and "errors_added" not in mild


def test_no_verdict_on_text_where_the_autoencoder_destroys_it(pipe, study_folder):
    """The organism never saw a letter: its autoencoder alone makes signs of 7 and 12 px unreadable, and the probe says so."""
    result = probes.run("legibility", pipe, study_folder, quick=True, conditions=FEW, progress=False, ocr=False)
    assert result.status == "no verdict" and result.verdict.startswith("No verdict: the audit failed")
    audit = {c.check: c.passed for c in result.audit}
    assert not audit.pop("signs are read, and their letters present, after the autoencoder") and all(audit.values())
    assert set(result.table.letter_height) == {7, 12} and set(result.table.font) == {"sans", "serif", "mono"}
    assert (result.stimuli.licence == "Apache-2.0").all()
    result.figure()


def test_a_sign_that_does_not_fit_is_refused(pipe, tmp_path):
    with pytest.raises(InputError, match="no sign fits"):
        probes.run("legibility", pipe, tmp_path, heights=(0.01,), progress=False)


def test_signs_hang_on_the_users_images(pipe, tmp_path):
    red = Image.new("RGB", (200, 200), (200, 30, 30))
    study = probes.prepare("legibility", pipe, tmp_path, images=[red], seeds=1, quick=True, conditions=FEW, progress=False)
    corner = np.stack([np.asarray(image)[0, 0] for image in study.stimuli.images])
    assert len(corner) == 6 and (corner == (200, 30, 30)).all()
