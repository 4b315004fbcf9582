"""What is written into pictures and films can be read back, by others' readers too, and changes no pixel."""

from __future__ import annotations

import json
import subprocess
from xml.etree import ElementTree

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from svdlab.errors import OutputError
from svdlab.measure import video

IPTC = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}"
MADE_BY_A_MODEL = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
AWKWARD = 'a "label" <with> marks & = ; # \\ and ünïcode'


@pytest.fixture
def facts():
    source = dict(checkpoint="owner/name", revision="c0ffee", label=AWKWARD, licence="A licence; see <page> & more")
    return video.describe({"seed": 3, "source": source}, run_id="3f2a")


def test_a_file_says_what_made_it_and_leaves_out_what_is_not_known():
    facts = video.describe(
        {"seed": 0, "conditions": {"fps": np.int64(7)}, "image": "ab12", "start": {}}, note="mine", run_id=None
    )
    assert facts["DigitalSourceType"] == MADE_BY_A_MODEL and facts["generator"].startswith("svdlab ")
    assert {k: facts[k] for k in ("seed", "conditions", "image", "note")} == {
        "seed": 0, "conditions": {"fps": 7}, "image": "ab12", "note": "mine"
    }  # fmt: skip
    assert not {"start", "run_id", "source"} & set(facts)
    json.dumps(facts)


def test_a_png_says_so_in_iptcs_terms(tmp_path, facts):
    path = tmp_path / "frame.png"
    pixels = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, dpi=(200, 200))
    video.tag_png(path, facts)
    with Image.open(path) as image:
        assert (np.asarray(image) == pixels).all()
        packet = image.info["XML:com.adobe.xmp"]
        assert round(image.info["dpi"][0]) == 200
        assert image.info["Copyright"] == facts["source"]["licence"]
        described = image.getxmp()["xmpmeta"]["RDF"]["Description"]  # Pillow's own reader
    assert described["DigitalSourceType"] == MADE_BY_A_MODEL
    root = ElementTree.fromstring(packet.replace('<?xpacket end="w"?>', "").split("?>", 1)[1])
    element = next(e for e in root.iter() if f"{IPTC}DigitalSourceType" in e.attrib)
    assert element.attrib[f"{IPTC}AISystemUsed"] == "owner/name"
    assert element.attrib[f"{IPTC}AISystemVersionUsed"] == "c0ffee"
    assert AWKWARD in "".join(root.itertext())
    assert video.read_tags(path) == facts
    assert list(tmp_path.iterdir()) == [path]


def test_a_figure_takes_it_while_it_is_saved(tmp_path, facts):
    from matplotlib.figure import Figure

    Figure(figsize=(1, 1)).savefig(tmp_path / "figure.png", pil_kwargs={"pnginfo": video.png_info(facts)})
    assert video.read_tags(tmp_path / "figure.png") == facts


def test_an_mp4_has_tags_and_a_sidecar(tmp_path, facts):
    path = tmp_path / "preview.mp4"
    video.write_preview(path, np.random.default_rng(0).random((4, 32, 32, 3), dtype=np.float32), playback_fps=7)
    before = video.read_frames(path)
    video.tag_mp4(path, facts)
    assert (video.read_frames(path) == before).all()
    ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-i", str(path)]
    said = subprocess.run(ffmpeg, capture_output=True, text=True).stderr  # what any player's information shows
    assert MADE_BY_A_MODEL in said and "owner/name" in said and "copyright" in said
    assert video.read_tags(path) == facts
    sidecar = video.write_sidecar(path, facts)
    assert sidecar.name == "preview.mp4.json" and json.loads(sidecar.read_text()) == facts
    assert sorted(p.name for p in tmp_path.iterdir()) == ["preview.mp4", "preview.mp4.json"]


def test_what_cannot_be_tagged_stays_as_it_is(tmp_path, facts):
    for name, tag in (("a.png", video.tag_png), ("a.mp4", video.tag_mp4)):
        path = tmp_path / name
        path.write_bytes(b"neither picture nor film")
        with pytest.raises(OutputError, match=name):
            tag(path, facts)
        assert path.read_bytes() == b"neither picture nor film"
        with pytest.raises(OutputError, match="cannot be read"):
            video.read_tags(path)
    assert len(list(tmp_path.iterdir())) == 2
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        video.write_sidecar(tmp_path / "file" / "x.mp4", facts)


def test_the_notice_names_the_licence_of_svd():
    text = video.notice()
    assert "Stability AI" in text and " ".join(video.ATTRIBUTION.split()) in " ".join(text.split())


@pytest.mark.parametrize(
    ("repo", "card", "said"),
    [
        (video.SVD_1_1, {}, "Non-Commercial Research Community License, Copyright (c) Stability AI Ltd."),
        (
            None,
            {"license": "other", "license_name": "stable-video-diffusion-1-1-nc-community"},
            "Copyright (c) Stability AI Ltd.",
        ),
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
