from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from svdlab import probes
from svdlab.errors import InputError
from svdlab.measure.calibrate import degrade
from svdlab.measure.faces import detect
from svdlab.pipeline.images import prepare_image, sample_image
from svdlab.probes import faces, stimuli
from svdlab.stats.effects import DESCRIPTIVE, EFFECT, EQUIVALENT
from tests.probes.conftest import FEW, by_key, table_of

SIDE = 128
SHARE = faces.Faces.options["share"]


def portraits():
    """Six portraits of three people: as they are and mirrored. Enough to test the rules, too few people to judge a model."""
    images = []
    for name in faces.PEOPLE:
        portrait = faces.framed(sample_image(name), (SIDE, SIDE), SHARE)
        image = np.asarray(prepare_image(portrait, height=SIDE, width=SIDE), np.float32) / 255
        images += [image, np.ascontiguousarray(image[:, ::-1])]
    return images


@pytest.fixture(scope="module")
def people():
    return [(p, stimuli.panned(p, 8, px=1.0)) for p in portraits()]


def faces_of(people, spoil):
    table = table_of([faces.measures(p, clip, spoil(clip)) for p, clip in people])
    return by_key(faces.findings(table)), table


def test_a_portrait_takes_its_share_of_the_frame():
    for image in portraits():
        assert detect(image)[0].box[3] / SIDE == pytest.approx(SHARE, rel=0.15)
    assert faces.framed(sample_image("coffee"), (SIDE, SIDE), 0.4) is None


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


def test_no_verdict_on_faces_where_the_autoencoder_destroys_them(pipe, study_folder, tmp_path):
    """Three people, and a cup: it is named, left out and counted. The organism's autoencoder leaves no face."""
    result = probes.run("faces", pipe, study_folder, images=[*faces.PEOPLE, "coffee"], seeds=1, conditions=FEW, progress=False)
    assert result.status == "no verdict"
    assert [c.passed for c in result.audit] == [True] * 4 + [False]
    assert set(result.table.stimulus) <= set(faces.PEOPLE) and set(result.stimuli.name) == set(faces.PEOPLE)
    assert any("coffee: no face" in note for note in result.notes)
    result.figure()
    with pytest.raises(InputError, match="none of 2 images has a face"):
        probes.run("faces", pipe, tmp_path, images=["cat", "rocket"], progress=False)
