"""Frames are converted or refused; videos keep them; what files say is read back, by others' readers too."""

import json
import subprocess
from xml.etree import ElementTree

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import svdlab
from svdlab.errors import InputError, OutputError
from svdlab.measure import fidelity, motion, video
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


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "float8_e4m3fn"])
@pytest.mark.parametrize("grad", [False, True])
def test_tensors_of_any_float_dtype_are_frames_with_or_without_grad(dtype, grad):
    tensor = torch.from_numpy(FLOATS).to(getattr(torch, dtype))
    tensor = tensor.requires_grad_() if grad and dtype != "float8_e4m3fn" else tensor
    want = tensor.detach().float().numpy()
    for form in (tensor, list(tensor), tuple(tensor)):
        assert np.array_equal(as_frames(form), want)
    assert np.array_equal(as_image(tensor[0]), want[0]) and motion.measure(tensor).equals(motion.measure(want))


def test_clips_paths_and_files_of_images_are_frames(pipe, tmp_path):
    clip = svdlab.generate(pipe, "scene-27", num_frames=2, num_inference_steps=1)
    assert np.array_equal(as_frames(clip), clip.frames) and motion.summary(clip) == pytest.approx(
        motion.summary(clip.frames), nan_ok=True
    )
    video.write_frames(tmp_path / "x.mkv", FRAMES)
    paths = [tmp_path / f"{i}.png" for i in range(len(FRAMES))]
    for path, frame in zip(paths, FRAMES, strict=True):
        Image.fromarray(frame).save(path)
    for form in (tmp_path / "x.mkv", str(tmp_path / "x.mkv"), paths, list(map(str, paths))):
        assert np.array_equal(as_frames(form), FLOATS) and np.array_equal(video.as_bytes(form), FRAMES)
    assert np.array_equal(as_image(paths[1]), FLOATS[1])


def test_images_of_every_mode_are_what_one_sees(tmp_path):
    colours = Image.fromarray(FRAMES[0]).quantize(8)
    seen = np.asarray(colours.convert("RGB"), np.float32) / 255
    assert np.array_equal(as_image(colours), seen)  # not the numbers of the palette
    colours.save(tmp_path / "x.gif")
    assert np.array_equal(as_frames([colours, tmp_path / "x.gif", colours.convert("RGBA")]), [seen] * 3)
    assert np.abs(as_image(Image.fromarray(FRAMES[0]).convert("YCbCr")) - FLOATS[0]).max() < 0.02
    turned = Image.fromarray(FRAMES[0])
    turned.getexif()[0x0112] = 6  # a camera held upright
    turned.save(tmp_path / "x.png", exif=turned.getexif())
    assert np.array_equal(as_image(tmp_path / "x.png"), np.rot90(FLOATS[0], -1))


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
        (FLOATS.transpose(0, 3, 1, 2), "np.moveaxis"),
        (torch.zeros(1, 5, 32, 32, 3), r"\(1, 5, 32, 32, 3\)"),
        (FLOATS[:3, ..., 0], "three grey frames"),
        ([FRAMES[0], FLOATS[0]], "dtypes"),
        ([Image.fromarray(FRAMES[0]), torch.zeros(3, 33, 47)], "different shapes"),
        (FLOATS.astype(complex), "complex"),
        (torch.zeros(2, 32, 32, 3, device="meta"), "Tensor of shape"),
        (torch.eye(32).to_sparse(), "Tensor of shape"),
        ([Image.new("I;16", (32, 32))] * 2, "I;16"),
        ([Image.new("F", (32, 32))] * 2, "mode F"),
        ("no-such.mp4", "no such file"),
        ([b"bytes"] * 2, "shape"),
        (None, "object"),
    ],
)
def test_what_are_no_frames_is_refused_with_the_reason(frames, says):
    for function in (as_frames, motion.measure, fidelity.flicker):
        with pytest.raises((InputError, OutputError), match=says) as caught:
            function(frames)
        assert "frames" in str(caught.value) or "no such file" in says
    with pytest.raises(InputError, match="image is a clip of 5"):
        as_image(FLOATS)


@pytest.mark.parametrize("write", [video.write_frames, video.write_preview, video.write_sidecar])
def test_planted_links_are_not_followed(tmp_path, write):
    out, victim = tmp_path / "out", tmp_path / "victim"
    out.mkdir()
    victim.write_text("mine")
    name = "x.mkv" if write is video.write_frames else "x.mp4"
    suffix = ".json" if write is video.write_sidecar else ""
    for plant in ("{}", "{}.part", ".{}.part", "{}.tmp", ".{}.tmp", ".part-{}", "{}~"):
        (out / plant.format(name + suffix)).symlink_to(victim)
    write(out / name, {"seed": 0} if suffix else FRAMES)
    assert victim.read_text() == "mine" and not (out / (name + suffix)).is_symlink()
    assert (out / (name + suffix)).stat().st_size > 4


def test_control_characters_in_a_label_spoil_no_file(tmp_path):
    facts = video.describe({"source": {"checkpoint": "a/b", "label": "red\x1b[31m\0 \ud800\uffff\x0b end", "licence": "x\0y"}})
    video.write_preview(tmp_path / "x.mp4", FRAMES, facts=facts)
    Image.fromarray(FRAMES[0]).save(tmp_path / "x.png", pnginfo=video.png_info(facts))
    with Image.open(tmp_path / "x.png") as image:
        assert "red[31m \ufffd end" in image.getxmp()["xmpmeta"]["RDF"]["Description"]["description"]["Alt"]["li"]["text"]
        assert image.info["Copyright"] == "xy"
    assert video.read_tags(tmp_path / "x.mp4") == video.read_tags(tmp_path / "x.png") == facts
    with pytest.raises(InputError, match="source"):
        video.png_info({"source": "a/b"})


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
    ("checkpoint", "said"),
    [
        ("/home/anna/models/mine", "mine"),
        ("~/models/x.safetensors/", "x.safetensors"),
        ("models/x.safetensors", "x.safetensors"),
        ("./mine", "mine"),
        ("../a/b", "b"),
        ("C:\\Users\\anna\\x.safetensors", "x.safetensors"),
        ("owner/name", "owner/name"),
        ("stabilityai/stable-video-diffusion-img2vid-xt-1-1", "stabilityai/stable-video-diffusion-img2vid-xt-1-1"),
        ("organism", "organism"),
    ],
)
def test_no_file_says_where_a_checkpoint_lies(tmp_path, checkpoint, said):
    facts = video.describe({"source": {"checkpoint": checkpoint}})
    video.write_preview(tmp_path / "x.mp4", FRAMES, facts=facts)
    video.write_sidecar(tmp_path / "x.mp4", facts)
    assert facts["source"]["checkpoint"] == said and video.read_tags(tmp_path / "x.mp4") == facts
    assert all(b"anna" not in p.read_bytes() for p in tmp_path.iterdir())


@pytest.mark.parametrize("text", ["[" * 100_000, "[1, 2]", '"text"', "{", "1e999999", "{}" * 9])
def test_tags_that_svdlab_did_not_write_are_refused_in_one_line(tmp_path, text):
    info = PngInfo()
    info.add_itxt("svdlab", text)
    Image.fromarray(FRAMES[0]).save(tmp_path / "x.png", pnginfo=info)
    with pytest.raises(OutputError, match=r"x\.png") as caught:
        video.read_tags(tmp_path / "x.png")
    assert "\n" not in str(caught.value)


def test_a_licence_cannot_steer_the_terminal(capsys):
    video.show_licence("a/\x1b[31mb", "line\r\nline \x9b2J\x07")
    assert capsys.readouterr().out == "a/[31mb: line line 2J\n"


def test_without_ffmpeg_the_error_says_so(tmp_path, monkeypatch):
    video.write_frames(tmp_path / "x.mkv", FRAMES)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "none"))
    imageio_ffmpeg._utils._get_ffmpeg_exe.cache_clear()
    for call in (video.read_frames, video.read_tags, lambda path: video.write_frames(path, FRAMES)):
        with pytest.raises(OutputError, match=r"x\.mkv"):
            call(tmp_path / "x.mkv")
    monkeypatch.undo()
    imageio_ffmpeg._utils._get_ffmpeg_exe.cache_clear()
    assert (video.read_frames(tmp_path / "x.mkv") == FRAMES).all()


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
