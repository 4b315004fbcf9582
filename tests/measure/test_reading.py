"""Every video is read whole, upright and alone, or refused; what is odd about one is said (cases C3, C4, C5, C7)."""

import os
import subprocess
import warnings
from pathlib import Path

import cv2
import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from svdlab.errors import InputError, OutputError
from svdlab.measure import motion, reading, video
from svdlab.measure.calibrate import moving
from svdlab.measure.reading import VideoWarning, distinct, read_frames
from tests.real import CLIPS, real_clip

PAN = video.as_bytes(moving("cat", size=(64, 96), frames=8, pan=2.0).frames)
IMAGES = [Image.fromarray(frame) for frame in PAN]


def ffmpeg(*words: object) -> None:
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *map(str, words)], check=True)


def said(path: Path, shape: tuple[int, ...]) -> list[str]:
    """What reading the file warns of; it has frames of that shape."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        assert read_frames(path).shape == shape
    assert all(w.category is VideoWarning and w.filename == __file__ for w in found)
    return [str(w.message) for w in found]


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_a_phones_video_is_turned_upright(tmp_path, turn):
    clip = moving("astronaut", size=(96, 128), frames=8, tilt=2.0).frames
    lying = np.rot90(video.as_bytes(clip), -turn // 90, (1, 2))
    (tmp_path / "lying.mp4").write_bytes(video.h264(np.ascontiguousarray(lying), 30, crf=10))
    ffmpeg("-display_rotation", turn, "-i", tmp_path / "lying.mp4", "-c", "copy", tmp_path / "phone.mp4")
    frames = read_frames(tmp_path / "phone.mp4")
    assert frames.shape == clip.shape and np.abs(frames / 255 - clip).mean() < 0.01
    found = motion.summary(tmp_path / "phone.mp4")
    assert found["camera"] == "tilt_up" and found["tilt_px"] == pytest.approx(2, abs=0.01)


def test_a_mirrored_video_is_turned_too(tmp_path):
    (tmp_path / "selfie.mp4").write_bytes(video.h264(PAN, 30, crf=10))
    ffmpeg("-display_hflip", "-i", tmp_path / "selfie.mp4", "-c", "copy", tmp_path / "turned.mp4")
    assert (read_frames(tmp_path / "turned.mp4") == read_frames(tmp_path / "selfie.mp4")[:, :, ::-1]).all()


@pytest.mark.parametrize("ends", [(1 / 120, 1 / 5), (1 / 30, 1 / 24)])
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "webm"])
def test_a_variable_frame_rate_is_announced_and_no_frame_is_lost(tmp_path, suffix, ends):
    frames = video.as_bytes(moving("cat", size=(64, 64), frames=59, pan=1.0).frames)
    path, (first, last) = tmp_path / f"x.{suffix}", ends
    video.write_frames(tmp_path / "even.mkv", frames)
    times = f"settb=1/90000,setpts=(N*{first}+N*(N-1)/2*{(last - first) / 57})/TB"
    ffmpeg(
        "-i", tmp_path / "even.mkv", "-vf", times, "-fps_mode", "vfr", "-enc_time_base", "1/90000", "-pix_fmt", "yuv420p", path
    )
    (words,) = said(path, (59, 64, 64, 3))
    assert "px/frame" in words and f"{first * 1000:.0f} to {last * 1000:.0f} ms" in words
    with pytest.warns(VideoWarning):
        assert motion.summary(path)["pan_px"] == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("fps", [0.01, 5.5, 23.976, 59.94, 240, 10_000])
def test_a_constant_rate_is_not_called_variable_however_its_times_are_rounded(tmp_path, fps):
    video.write_frames(tmp_path / "x.mkv", PAN, playback_fps=fps)
    assert not said(tmp_path / "x.mkv", PAN.shape) and (read_frames(tmp_path / "x.mkv") == PAN).all()


@pytest.mark.parametrize("name", CLIPS)
def test_the_real_clips_of_svd_have_14_distinct_frames_of_27(tmp_path, name):
    path = real_clip(name, tmp_path)
    with pytest.warns(VideoWarning, match="only 14 of its 27 frames"):
        frames = read_frames(path)
    assert frames.shape == (27, 576, 1024, 3) and distinct(frames) == list(range(14))


@pytest.mark.parametrize("name", ["a.webp", "a.gif", "a.png"])
def test_animated_images_are_videos(tmp_path, name):
    how = {"lossless": True, "exact": True} if name == "a.webp" else {}
    IMAGES[0].save(tmp_path / name, save_all=True, append_images=IMAGES[1:], duration=100, **how)
    assert not said(tmp_path / name, PAN.shape)
    assert np.abs(read_frames(tmp_path / name).astype(int) - PAN).max() == 0
    IMAGES[0].save(tmp_path / name, save_all=True, append_images=IMAGES[1:], duration=[100, 40, *[100] * 6], **how)
    assert "40 to 100 ms" in said(tmp_path / name, PAN.shape)[0]


def test_an_animated_avif_is_a_video_and_a_photograph_with_its_preview_is_one_frame(tmp_path):
    IMAGES[0].save(tmp_path / "a.avif", save_all=True, append_images=IMAGES[1:], duration=100, quality=95)
    assert not said(tmp_path / "a.avif", PAN.shape)
    IMAGES[0].save(tmp_path / "a.mpo", save_all=True, append_images=IMAGES[1:2])
    assert read_frames(tmp_path / "a.mpo").shape == (1, *PAN.shape[1:])


def test_a_file_of_sound_alone_is_no_video(tmp_path):
    ffmpeg("-f", "lavfi", "-i", "sine=d=0.2", tmp_path / "x.m4a")
    with pytest.raises(OutputError, match="it holds no video"):
        read_frames(tmp_path / "x.m4a")


def test_transparency_is_white_and_an_image_before_an_animation_is_no_frame_of_it(tmp_path):
    clear = Image.new("RGBA", (32, 32), (255, 0, 0, 0))
    clear.save(tmp_path / "a.webp", save_all=True, append_images=[Image.new("RGBA", (32, 32), "red")], lossless=True)
    assert (read_frames(tmp_path / "a.webp")[:, 0, 0] == [(255, 255, 255), (255, 0, 0)]).all()
    IMAGES[0].save(tmp_path / "a.png", save_all=True, append_images=IMAGES[1:], default_image=True)
    assert (read_frames(tmp_path / "a.png") == PAN[1:]).all()


def test_a_folder_of_images_is_a_clip_in_the_order_of_its_numbers(tmp_path):
    for i, picture in enumerate(IMAGES):
        picture.save(tmp_path / f"frame-{i + 5}.png")  # 10 comes after 9
    (tmp_path / "notes.txt").write_text("not an image")
    assert (read_frames(tmp_path) == PAN).all()
    IMAGES[0].resize((32, 32)).save(tmp_path / "other.png")
    with pytest.raises(InputError, match="different sizes"):
        read_frames(tmp_path)


def test_a_folder_of_frames_of_16_bits_that_use_few_is_refused_and_not_black(tmp_path):
    for times in (257, 1):
        for i, frame in enumerate(PAN):
            cv2.imwrite(str(tmp_path / f"{i}.png"), frame[..., ::-1].astype(np.uint16) * (times if i else 0))  # fades in
        if times == 257:
            assert (read_frames(tmp_path)[1:] == PAN[1:]).all()
    with pytest.raises(InputError, match="12 or fewer are used"):
        read_frames(tmp_path)


def test_frames_that_come_again_are_found_in_any_order():
    again = (PAN, PAN[1:], PAN[::-1])
    for frames in (np.concatenate(again[:2]), np.concatenate(again[::2]), np.repeat(PAN, 2, 0)):
        assert (frames[distinct(frames)] == PAN).all()
    assert distinct(PAN) == list(range(8)) and distinct(np.zeros((5, 32, 32, 3))) == [0]
    noise = np.random.default_rng(0).integers(0, 9, (9, 32, 32, 3), np.uint8)  # a still camera's
    assert distinct(noise) == list(range(9))


@pytest.mark.parametrize("name", ["x.mkv", "x.mp4", "x.webm", "x.gif", "x.webp", "x.png"])
def test_a_file_that_was_cut_anywhere_is_whole_or_refused(tmp_path, name):
    path = tmp_path / name
    if path.suffix in (".gif", ".webp", ".png"):
        IMAGES[0].save(path, save_all=True, append_images=IMAGES[1:])
    else:
        video.write_frames(tmp_path / "x.mkv", PAN)
        ffmpeg("-i", tmp_path / "x.mkv", *(("-c", "copy") if name == "x.mkv" else ()), tmp_path / f"of-{name}")
        path = tmp_path / f"of-{name}"
    data, whole = path.read_bytes(), read_frames(path)
    for end in {*range(0, len(data), len(data) // 12), len(data) - 1, len(data) - 40}:
        path.write_bytes(data[:end])
        try:
            assert (read_frames(path) == whole).all()
        except OutputError as error:
            assert path.name in str(error) and "\n" not in str(error)


@pytest.mark.parametrize(
    "name", ["12:30.mkv", "study:1/a/x.mkv", "http:x.mkv", "-y.mkv", "frame %03d.mkv", "pipe:1.mkv", "ä\n.mkv"]
)
def test_no_name_of_a_file_is_a_protocol_a_pattern_or_an_option(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    video.write_frames(name, PAN)
    assert (read_frames(name) == PAN).all() and Path(name).is_file()
    video.write_preview(Path(name).with_suffix(".mp4"), PAN, facts={"seed": 3})
    assert video.read_tags(Path(name).with_suffix(".mp4"))["seed"] == 3


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    video.write_frames("~/x.mkv", PAN)
    assert (tmp_path / "x.mkv").is_file() and read_frames("~/x.mkv").shape == PAN.shape


@pytest.mark.parametrize(
    "text",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:1,\n{0}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile {0}\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><Period><BaseURL>{0}</BaseURL></Period></MPD>',
    ],
)
def test_a_playlist_opens_no_other_file(tmp_path, text):
    (tmp_path / "private").mkdir()
    video.write_frames(tmp_path / "private" / "secret.mkv", PAN)
    (tmp_path / "x.mp4").write_text(text.format("private/secret.mkv"))
    with pytest.raises(OutputError, match="cannot be read"):
        read_frames(tmp_path / "x.mp4")


ODD = {
    "x.mkv": (["-vf", "setsar=2/1"], "not square (2/1)"),
    "sar.mp4": (["-vf", "setsar=3/4"], "not square (3/4)"),
    "phone.mp4": (["-pix_fmt", "yuv420p", "-color_trc", "arib-std-b67"], "it is HDR"),
    "clear.mov": (["-pix_fmt", "argb", "-c:v", "qtrle"], "it has transparency"),
    "clear.webm": (["-pix_fmt", "yuva420p", "-c:v", "libvpx-vp9"], "it has transparency"),
    "old.mkv": (["-r", "25", "-flags", "+ilme+ildct", "-c:v", "mpeg2video"], "interlaced"),
}


@pytest.mark.parametrize("name", ODD)
def test_what_is_not_as_a_player_shows_it_is_announced(tmp_path, name):
    """Neighbours of case C3: frames whose geometry or colours are not what they seem to show."""
    how, words = ODD[name]
    video.write_frames(tmp_path / "even.mkv", PAN, playback_fps=25)
    ffmpeg("-i", tmp_path / "even.mkv", *how, tmp_path / name)
    assert [words in text for text in said(tmp_path / name, PAN.shape)] == [True]


CUT = {"x.avi": ["-c:v", "mjpeg"], "x.ogv": ["-c:v", "libtheora"], "x.ivf": ["-c:v", "libvpx-vp9"], "x.flv": [], "x.ts": []}


@pytest.mark.parametrize("name", CUT)
def test_no_container_is_read_that_hides_a_cut(tmp_path, name):
    """A neighbour of case C4: ffmpeg gives what is left of these without a word, or crashes on them whole."""
    video.write_frames(tmp_path / "even.mkv", PAN)
    ffmpeg("-i", tmp_path / "even.mkv", "-pix_fmt", "yuvj420p" if name == "x.avi" else "yuv420p", *CUT[name], tmp_path / name)
    data = (tmp_path / name).read_bytes()
    for end in range(len(data) // 9, len(data), len(data) // 9):
        (tmp_path / name).write_bytes(data[:end])
        with pytest.raises(OutputError, match=r"damaged|cannot be read as a video"):
            read_frames(tmp_path / name)
    if name == "x.avi":
        (tmp_path / name).write_bytes(data)
        assert read_frames(tmp_path / name).shape == PAN.shape


@pytest.mark.parametrize("end", ["SEGV", "KILL", "ABRT"])
def test_an_ffmpeg_that_crashes_is_a_plain_error(tmp_path, monkeypatch, end):
    video.write_frames(tmp_path / "x.mkv", PAN)
    (tmp_path / "ffmpeg").write_text(f'#!/bin/sh\n[ "$1" = -version ] && exec true\nkill -{end} $$\n')
    (tmp_path / "ffmpeg").chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "ffmpeg"))
    for act in (read_frames, lambda path: video.write_frames(path, PAN), video.read_tags):
        with pytest.raises(OutputError, match=r"x\.mkv.*(crashed|encoded)") as raised:
            act(tmp_path / "x.mkv")
        assert "\n" not in str(raised.value) and (tmp_path / "x.mkv").stat().st_size > 100


def test_what_is_no_file_or_too_large_is_refused_before_it_is_read(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "fifo.mp4")
    for path in (tmp_path / "fifo.mp4", Path(os.devnull), tmp_path / "none.mp4"):
        with pytest.raises(OutputError, match=r"no file|no such file"):
            read_frames(path)
    with pytest.raises(InputError, match="holds 0 images"):
        read_frames(tmp_path)
    bomb = b"GIF89a" + b"\xff" * 4 + b"\0\0\0,\0\0\0\0" + b"\xff" * 4 + b"\0\2\2D\1\0;"  # 65535x65535 px
    (tmp_path / "bomb.gif").write_bytes(bomb)
    with pytest.raises(OutputError, match="decompression bomb"):
        read_frames(tmp_path / "bomb.gif")
    monkeypatch.setattr(reading, "LARGEST", PAN.size // 2)
    video.write_frames(tmp_path / "long.mkv", PAN)
    IMAGES[0].save(tmp_path / "long.gif", save_all=True, append_images=IMAGES[1:])
    for name in ("long.mkv", "long.gif"):
        with pytest.raises(InputError, match="GiB"):
            read_frames(tmp_path / name)


def test_a_video_that_changes_its_size_is_refused(tmp_path):
    for i, size in enumerate(("64x64", "96x64")):
        ffmpeg(
            "-f", "lavfi", "-i", f"testsrc=s={size}:d=1:r=8", "-c:v", "mpeg2video", "-f", "mpeg2video", tmp_path / f"{i}.m2v"
        )
    (tmp_path / "x.m2v").write_bytes((tmp_path / "0.m2v").read_bytes() + (tmp_path / "1.m2v").read_bytes())
    ffmpeg("-i", tmp_path / "x.m2v", "-c", "copy", tmp_path / "x.mp4")
    with pytest.raises(OutputError, match="changes its size"):
        read_frames(tmp_path / "x.mp4")
