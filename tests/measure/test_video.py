"""Frames are converted or refused; videos keep them; what files say is read back, by others' readers too."""

from __future__ import annotations

import json
import subprocess
from xml.etree import ElementTree

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from svdlab.errors import InputError, OutputError
from svdlab.measure import video
from svdlab.measure.video import as_frames, as_image

MADE_BY_A_MODEL = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
AWKWARD = 'a "label" <with> marks & = ; # \\ and ünïcode'
FRAMES = np.random.default_rng(0).integers(0, 256, (5, 33, 47, 3), dtype=np.uint8)  # odd sides, nothing that compresses
FLOATS = as_frames(FRAMES)


def test_frames_of_any_form_keep_their_values():
    assert as_frames(FLOATS) is FLOATS and np.array_equal(FLOATS, FRAMES.astype(np.float32) / 255)
    images = [Image.fromarray(f) for f in FRAMES]
    for form in (list(FRAMES), images, torch.from_numpy(FRAMES), FLOATS.astype(np.float64)):
        assert as_frames(form).dtype == np.float32 and np.array_equal(as_frames(form), FLOATS)
    grey = FLOATS[..., 0]
    for form in (grey, grey[..., None]):
        assert np.array_equal(as_frames(form), grey[..., None].repeat(3, -1))
    assert np.array_equal(as_image(images[0]), FLOATS[0]) and np.array_equal(as_image(grey[0]), as_frames(grey)[0])
    assert as_frames(FLOATS * 1.0009).max() == 1 and as_frames(FLOATS - 0.0009).min() == 0  # a decoder's rounding


@pytest.mark.parametrize(
    ("frames", "says"),
    [
        (FLOATS[:1], r"\(1, 33, 47, 3\)"),
        (FLOATS[0], "shape"),
        (np.zeros((4, 64, 64, 4)), "RGB"),
        ([FLOATS[0], FLOATS[0, :32]], "different shapes"),
        ([], "shape"),
        (np.concatenate([FLOATS, np.full_like(FLOATS, np.nan)]), "nan"),
        (FLOATS * 255, "to 255"),
        (FLOATS - 1, "from -1"),
        (FRAMES.astype(np.int64), "int64"),
        (FLOATS[:, :8], "16 px"),
    ],
)
def test_what_are_no_frames_is_refused_with_the_reason(frames, says):
    with pytest.raises(InputError, match=says):
        as_frames(frames)


def test_ffv1_keeps_every_bit(tmp_path):
    video.write_frames(tmp_path / "frames.mkv", FRAMES, playback_fps=5.5)
    assert (video.read_frames(tmp_path / "frames.mkv") == FRAMES).all()
    video.write_frames(tmp_path / "frames.mkv", FRAMES[::-1] / 255)  # floats, over what was there
    assert (video.read_frames(tmp_path / "frames.mkv") == FRAMES[::-1]).all()
    assert [p.name for p in tmp_path.iterdir()] == ["frames.mkv"]


def test_a_preview_plays_in_a_browser(tmp_path):
    video.write_preview(tmp_path / "preview.mp4", FRAMES, playback_fps=5)
    facts = next(imageio_ffmpeg.read_frames(tmp_path / "preview.mp4"))
    assert facts["codec"] == "h264" and facts["pix_fmt"].startswith("yuv420p") and facts["fps"] == 5
    shown = video.read_frames(tmp_path / "preview.mp4")
    assert shown.shape == (5, 8 * 33, 8 * 47, 3)  # eightfold, to 256 px or more
    grey, true = shown[:, 4::8, 4::8].mean(-1), FRAMES.mean(-1)
    assert np.abs(grey - true).mean() < 12 and np.corrcoef(grey.ravel(), true.ravel())[0, 1] > 0.95
    (tmp_path / "odd.mp4").write_bytes(video.h264(FRAMES, crf=10))  # as they are: odd sides take yuv444p
    assert video.read_frames(tmp_path / "odd.mp4").shape == FRAMES.shape


@pytest.fixture
def facts():
    source = dict(checkpoint="owner/name", revision="c0ffee", label=AWKWARD, licence="A licence; see <page> & more")
    return video.describe({"seed": 3, "source": source}, run_id="3f2a")


def test_a_file_says_what_made_it_and_leaves_out_what_is_not_known():
    call = {"seed": 0, "conditions": {"fps": np.int64(7)}, "image": "ab12", "start": {}}
    facts = video.describe(call, note="mine", run_id=None)
    assert facts.pop("DigitalSourceType") == MADE_BY_A_MODEL and facts.pop("generator").startswith("svdlab ")
    assert facts == {"seed": 0, "conditions": {"fps": 7}, "image": "ab12", "note": "mine"}
    json.dumps(facts)


def test_a_png_says_so_in_iptcs_terms(tmp_path, facts):
    path = tmp_path / "frame.png"
    Image.fromarray(FRAMES[0]).save(path, pnginfo=video.png_info(facts))
    with Image.open(path) as image:
        assert (np.asarray(image) == FRAMES[0]).all()
        assert image.info["Copyright"] == facts["source"]["licence"]
        described = image.getxmp()["xmpmeta"]["RDF"]["Description"]  # Pillow's own reader
        packet = image.info["XML:com.adobe.xmp"]
    assert described["DigitalSourceType"] == MADE_BY_A_MODEL
    assert (described["AISystemUsed"], described["AISystemVersionUsed"]) == ("owner/name", "c0ffee")
    assert AWKWARD in "".join(ElementTree.fromstring(packet.split("?>", 1)[1].rpartition("<?")[0]).itertext())
    assert video.read_tags(path) == facts


def test_an_mp4_has_tags_a_figure_its_texts_and_both_a_sidecar(tmp_path, facts):
    path, plain = tmp_path / "preview.mp4", tmp_path / "plain.mp4"
    video.write_preview(path, FRAMES, facts=facts)
    video.write_preview(plain, FRAMES)
    assert (video.read_frames(path) == video.read_frames(plain)).all()
    ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-i", str(path)]
    said = subprocess.run(ffmpeg, capture_output=True, text=True).stderr  # what any player's information shows
    assert MADE_BY_A_MODEL in said and "owner/name" in said and "copyright" in said
    assert video.read_tags(path) == facts and video.read_tags(plain) == {}
    video.write_sidecar(path, facts)
    assert json.loads((tmp_path / "preview.mp4.json").read_text()) == facts
    Figure(figsize=(1, 1)).savefig(tmp_path / "figure.png", pil_kwargs={"pnginfo": video.png_info(facts)})
    assert video.read_tags(tmp_path / "figure.png") == facts


def test_what_cannot_be_read_or_written_is_named(tmp_path):
    for name in ("text.mp4", "text.png"):
        (tmp_path / name).write_text("neither image nor video")
        for call in (video.read_frames, video.read_tags):
            with pytest.raises(OutputError, match=name):
                call(tmp_path / name)
    with pytest.raises(OutputError, match=r"missing\.mkv"):
        video.read_frames(tmp_path / "missing.mkv")
    with pytest.raises(OutputError, match="cannot be written"):
        video.write_frames(tmp_path / "text.mp4" / "x.mkv", FRAMES)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("repo", "card", "said"),
    [
        (video.SVD_1_1, {}, "Non-Commercial Research Community License, Copyright (c) Stability AI Ltd."),
        (None, {"license": "other", "license_name": "stable-video-diffusion-1-1-nc"}, "Copyright (c) Stability AI Ltd."),
        ("stabilityai/stable-video-diffusion-img2vid", {"license_name": "x"}, "huggingface.co/stabilityai/"),
        ("someone/tuned", {"license": "other"}, "https://huggingface.co/someone/tuned"),
        ("someone/tuned", {"license": "mit"}, "mit"),
        (None, {}, ""),
    ],
)
def test_the_licence_line(repo, card, said):
    line = video.licence_line(repo, card)
    assert said in line
    assert ("stability.ai/use-policy" in line) == ("Stability" in line)
    assert " ".join(video.ATTRIBUTION.split()) in " ".join(video.notice().split())
