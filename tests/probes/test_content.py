"""Letters and faces that were lost, blurred or shaken by known amounts are found so; those that were only moved are not."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import ndimage

from svdlab import probes
from svdlab.errors import InputError
from svdlab.measure.calibrate import degrade, moving
from svdlab.measure.faces import ALIKE, detect
from svdlab.measure.text import make_plate
from svdlab.pipeline.images import prepare_image, sample_image
from svdlab.probes import content, stimuli
from svdlab.stats.effects import DESCRIPTIVE, EFFECT, EQUIVALENT
from tests.probes.conftest import FEW, by_key, findings_of, table_of

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
        rows.append({"letter_height": plate.height, **content.text_measures(plate, clip, spoil(plate, clip), ocr=ocr)})
    table = table_of(rows)
    return findings_of("legibility", table), table


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


def spoilt(pipe, frames, chunk=None):
    """An autoencoder that leaves no letter and no face: blurred by 3 px at 64 px."""
    return stimuli.blurred(frames, 3.0)


def test_signs_that_the_organisms_autoencoder_keeps_are_measured_and_others_named(pipe, study_folder):
    """Of six signs of 7 and 12 px it keeps four, one of 7 px among them: too few images for a verdict."""
    result = probes.run("legibility", pipe, study_folder, quick=True, conditions=FEW, progress=False, ocr=False)
    assert result.verdict.startswith("No verdict below 6 images") and all(c.passed for c in result.audit)
    assert any("signs that are unreadable before any denoising" in note for note in result.notes)
    assert set(result.stimuli.letter_height) == {7, 12} and set(result.stimuli.font) == {"sans", "serif", "mono"}
    assert len(result.table) == 4 and (result.table.letters_own > 0.75).all()
    assert (result.stimuli.licence == "Apache-2.0").all()
    result.figure()


def test_no_verdict_on_text_where_the_autoencoder_destroys_it(pipe, tmp_path, monkeypatch):
    monkeypatch.setattr(content, "through_autoencoder", spoilt)
    study = probes.prepare("legibility", pipe, tmp_path, quick=True, conditions=FEW, progress=False, ocr=False)
    audit = {c.check: c.passed for c in study.probe.audit(study)}
    assert not audit.pop("signs are read, and their letters present, after the autoencoder") and all(audit.values())


def test_signs_vary_in_script_font_and_image_and_n_counts_the_images(pipe, tmp_path):
    study = probes.prepare("legibility", pipe, tmp_path, conditions=FEW, progress=False)
    signs = study.stimuli.table
    assert set(signs.script) == set(content.WORDS) and set(signs.font) == {"sans", "serif", "mono"}
    assert len(signs) == 12 and signs.wall.nunique() == 12 and signs.text.nunique() == 12
    rows = [dict(stimulus=f"sign {i}", wall=f"image {i % 7}", seed=i, letter_height=7, script="Greek") for i in range(21)]
    numbers = dict.fromkeys(("letters_lost", "letters_lost_last", "dropped", "letters_own"), 0.01)
    found = by_key(study.probe.findings(study, pd.DataFrame(rows).assign(**numbers)))
    assert found["letters_lost"].n == 7 and found["letters_lost_Greek"].verdict == DESCRIPTIVE


def test_a_sign_that_does_not_fit_is_refused(pipe, tmp_path):
    with pytest.raises(InputError, match="no sign fits"):
        probes.run("legibility", pipe, tmp_path, heights=(0.01,), progress=False)


def test_signs_hang_on_the_users_images(pipe, tmp_path):
    red = Image.new("RGB", (200, 200), (200, 30, 30))
    study = probes.prepare("legibility", pipe, tmp_path, images=[red], seeds=1, quick=True, conditions=FEW, progress=False)
    corner = np.stack([np.asarray(image)[0, 0] for image in study.stimuli.images])
    assert len(corner) == 6 and (corner == (200, 30, 30)).all()
    assert (
        probes.estimate(pipe, tmp_path, names=["legibility"], images=[red], quick=True, conditions=FEW)
        .why[0]
        .startswith("1 image:")
    )


# --- faces ------------------------------------------------------------------------------------------------------------


SHARE = content.Faces.options["share"]


def portraits():
    """Six portraits of three people: as they are and mirrored. Enough to test the rules, too few people to judge a model."""
    images = []
    for name in content.PEOPLE:
        portrait = content.framed(sample_image(name), (SIDE, SIDE), SHARE)
        image = np.asarray(prepare_image(portrait, height=SIDE, width=SIDE), np.float32) / 255
        images += [image, np.ascontiguousarray(image[:, ::-1])]
    return images


@pytest.fixture(scope="module")
def people():
    return [(p, stimuli.panned(p, 8, px=1.0)) for p in portraits()]


def faces_of(people, spoil):
    table = table_of([content.face_measures(p, clip, spoil(clip)) for p, clip in people])
    return findings_of("faces", table), table


def test_a_portrait_takes_its_share_of_the_frame():
    for image in portraits():
        assert detect(image)[0].box[3] / SIDE == pytest.approx(SHARE, rel=0.15)
    assert content.framed(sample_image("coffee"), (SIDE, SIDE), 0.4) is None


def test_faces_that_are_only_moved_stay(people):
    found, _ = faces_of(people, lambda clip: clip)
    for f in found.values():
        assert f.verdict in (EQUIVALENT, DESCRIPTIVE), f.sentence
    assert found["persistence"].value == 1


def test_faces_that_vanish_are_lost_in_as_many_frames(people):
    def vanish(clip):
        out = clip.copy()
        out[[2, 5, 6]] = clip[0].mean((0, 1))
        return out

    found, table = faces_of(people, vanish)
    assert found["lost"].verdict == EFFECT and found["lost"].value == pytest.approx(3 / 8)
    assert (table.lost_at == 2).all() and (table.longest_gap == 2).all()
    scores = np.array(table.score_by_frame.tolist())
    assert (scores[:, [2, 5, 6]] == 0).all() and (scores[:, [0, 1, 3, 4, 7]] > 0.7).all()


def test_blurred_and_trembling_faces_are_found_so(people):
    soft, _ = faces_of(people, lambda clip: degrade(clip, blur=1.0))
    assert soft["lost"].verdict == EQUIVALENT
    assert soft["blur_added"].verdict == EFFECT
    rng = np.random.default_rng(0)

    def shake(clip):
        return np.stack([ndimage.shift(f, (*rng.normal(0, 1.5, 2), 0), order=1, mode="nearest") for f in clip])

    shaken, _ = faces_of(people, shake)
    assert shaken["jitter_added"].verdict == EFFECT
    assert 0.03 < shaken["jitter_added"].value < 0.12  # 1.5 px of eyes about 22 px apart
    assert shaken["shape_jitter_added"].value < 0.5 * shaken["jitter_added"].value


@pytest.mark.parametrize("what", stimuli.DAMAGES)
def test_faces_with_parts_painted_over_misplaced_or_melted_are_changed(people, what):
    """The detector's score hardly falls (F13), so that it says nothing about them."""
    damaged = lambda clip: np.stack([stimuli.damaged(f, what) if t >= 2 else f for t, f in enumerate(clip)])
    found, table = faces_of(people, damaged)
    assert found["lost"].value < 0.07 and found["score_lost"].value < 0.1
    assert found["changed"].verdict == EFFECT and found["changed"].value == pytest.approx(0.7, abs=0.08)
    parts = np.array(table.parts_by_frame.tolist())
    assert (np.nanmax(parts[:, 2:], axis=1) < ALIKE).all() and (parts[:, :2] > ALIKE).all()
    assert "no number here decides" in probes.find("faces").verdict(found)


def test_faces_that_are_turned_or_lit_otherwise_are_not_changed(people):
    for spoil in (
        lambda clip: 0.6 * clip,
        lambda clip: np.stack([ndimage.rotate(f, t / 2, reshape=False, order=1, mode="mirror") for t, f in enumerate(clip)]),
    ):
        found, _ = faces_of(people, lambda clip, spoil=spoil: np.float32(spoil(clip)))
        assert abs(found["changed"].value) < 0.1 and found["lost"].verdict == EQUIVALENT  # one of three is in profile
        assert "no number here decides" not in probes.find("faces").verdict(found)


def test_faces_that_the_organisms_autoencoder_keeps_are_measured(pipe, study_folder, tmp_path):
    """Three people, of whom it keeps two, and a cup: it is named, left out and counted."""
    result = probes.run(
        "faces", pipe, study_folder, images=[*content.PEOPLE, "coffee"], seeds=1, conditions=FEW, progress=False
    )
    assert result.verdict.startswith("No verdict below 6 images") and all(c.passed for c in result.audit)
    assert len([c for c in result.audit if c.check.endswith("px: seen")]) == 3
    assert any("Not measured: hands, bodies" in note for note in result.notes)
    assert any("2 images: numbers without a verdict" in note for note in result.notes)
    assert set(result.table.stimulus) <= set(content.PEOPLE) and set(result.stimuli.name) == set(content.PEOPLE)
    assert any("coffee: no face" in note for note in result.notes)
    result.figure()
    with pytest.raises(InputError, match="none of 2 images has a face"):
        probes.run("faces", pipe, tmp_path, images=["cat", "rocket"], progress=False)


def test_no_verdict_on_faces_where_the_autoencoder_destroys_them(pipe, tmp_path, monkeypatch):
    monkeypatch.setattr(content, "through_autoencoder", spoilt)
    study = probes.prepare("faces", pipe, tmp_path, seeds=1, conditions=FEW, progress=False)
    assert [c.passed for c in study.probe.audit(study)][:5] == [True] * 4 + [False]
