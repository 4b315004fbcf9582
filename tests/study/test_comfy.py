"""ComfyUI's settings: the two real SVD clips, and files of every kind that ComfyUI and Video Helper Suite write."""

import copy
import json
import struct
import subprocess
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from svdlab import Conditions, read_settings, sweep
from svdlab.errors import InputError
from svdlab.measure.reading import read_frames
from svdlab.measure.video import as_bytes
from svdlab.pipeline.generate import Start, generate_batch
from svdlab.study import comfy
from tests.four_levels import four_levels
from tests.real import CLIPS, real_clip

PROMPT: dict[str, Any] = {
    "3": {
        "class_type": "KSampler",
        "inputs": {
            "seed": 7,
            "steps": 20,
            "cfg": 2.5,
            "sampler_name": "euler",
            "scheduler": "karras",
            "denoise": 1.0,
            "model": ["14", 0],
            "positive": ["12", 0],
            "negative": ["12", 1],
            "latent_image": ["12", 2],
        },
    },
    "12": {
        "class_type": "SVD_img2vid_Conditioning",
        "inputs": {
            "width": 64,
            "height": 32,
            "video_frames": 4,
            "motion_bucket_id": 90,
            "fps": 6,
            "augmentation_level": 0.0,
            "clip_vision": ["15", 1],
            "init_image": ["23", 0],
            "vae": ["15", 2],
        },
    },
    "14": {"class_type": "VideoLinearCFGGuidance", "inputs": {"min_cfg": 1.0, "model": ["15", 0]}},
    "15": {"class_type": "ImageOnlyCheckpointLoader", "inputs": {"ckpt_name": "svd.safetensors"}},
    "23": {"class_type": "LoadImage", "inputs": {"image": "cat.png", "upload": "image"}, "is_changed": [float("nan")]},
}
# The graph as it looked names other settings: another bucket. It did not run.
WORKFLOW = {"nodes": [{"type": "SVD_img2vid_Conditioning", "widgets_values": [64, 32, 4, 200, 6, 0.0]}]}
RNG = np.random.default_rng(0)
FRAMES = [Image.fromarray(RNG.integers(0, 255, (32, 64, 3), np.uint8)) for _ in range(4)]


def changed(**inputs: Any) -> dict[str, Any]:
    """The prompt with an input changed wherever a node has it."""
    prompt = copy.deepcopy(PROMPT)
    for node in prompt.values():
        node["inputs"] |= {key: value for key, value in inputs.items() if key in node["inputs"]}
    return prompt


def png(path: Path, prompt: Any, **save: Any) -> Path:
    info = PngInfo()
    info.add_text("prompt", prompt if isinstance(prompt, str) else json.dumps(prompt))
    info.add_text("workflow", json.dumps(WORKFLOW))
    FRAMES[0].save(path, pnginfo=info, **save)
    return path


def apng(path: Path, prompt: Any) -> Path:
    """As ComfyUI's SaveAnimatedPNG: chunks `comf` after the image data."""
    info = PngInfo()
    for key, value in (("prompt", prompt), ("workflow", WORKFLOW)):
        info.add(b"comf", key.encode() + b"\0" + json.dumps(value).encode(), after_idat=True)
    FRAMES[0].save(path, save_all=True, append_images=FRAMES[1:], pnginfo=info, duration=100)
    return path


def webp(path: Path, prompt: Any) -> Path:
    exif = Image.Exif()
    exif[0x0110], exif[0x010F] = f"prompt:{json.dumps(prompt)}", f"workflow:{json.dumps(WORKFLOW)}"
    FRAMES[0].save(path, save_all=True, append_images=FRAMES[1:], exif=exif, duration=100)
    return path


def container(path: Path, frames: Sequence[Any] = FRAMES, **tags: str) -> Path:
    """By ffmpeg with a file of metadata, as Video Helper Suite does it."""
    escaped = {k: v.replace("\\", "\\\\").replace(";", "\\;").replace("#", "\\#").replace("=", "\\=") for k, v in tags.items()}
    notes = path.with_suffix(".txt")
    notes.write_text(";FFMETADATA1\n" + "".join(f"{k}={v}\n" for k, v in escaped.items()).replace("\\n", "\\\\n"))
    size = "{}x{}".format(*frames[0].size)
    words = [*f"-f rawvideo -pix_fmt rgb24 -s {size} -r 8 -i -".split(), "-i", str(notes), "-map_metadata", "1"]
    how = ["-c:v", "libvpx-vp9"] if path.suffix == ".webm" else ["-c:v", "libx264", "-movflags", "use_metadata_tags"]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *words, *how, str(path)]
    subprocess.run(command, input=b"".join(f.tobytes() for f in frames), check=True)
    return path


def made(folder: Path, kind: str, prompt: Any) -> Path:
    texts = {"prompt": json.dumps(prompt), "workflow": json.dumps(WORKFLOW)}
    match kind:
        case "png":
            return png(folder / "a.png", prompt)
        case "apng":
            return apng(folder / "b.png", prompt)
        case "webp":
            return webp(folder / "c.webp", prompt)
        case "webm":
            return container(folder / "d.webm", **texts)
        case "mp4":
            return container(folder / "e.mp4", **texts)
        case "vhs-texts":
            return container(folder / "f.mp4", comment=json.dumps(texts))
    return container(folder / "g.mp4", comment=json.dumps({"prompt": prompt, "workflow": WORKFLOW}))


KINDS = ("png", "apng", "webp", "webm", "mp4", "vhs-texts", "vhs")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_says_what_ran(kind: str, tmp_path: Path) -> None:
    settings = read_settings(made(tmp_path, kind, PROMPT))
    due = Conditions(fps=6, motion_bucket_id=90, noise_aug_strength=0.0, max_guidance_scale=2.5, num_frames=4)
    assert settings.conditions == due.replace(num_inference_steps=20, width=64, height=32, scheduler="EulerDiscreteScheduler")
    assert (settings.seed, settings.checkpoint, settings.sampler, settings.image) == (
        7,
        "svd.safetensors",
        "euler, karras",
        "cat.png",
    )


@pytest.mark.parametrize("name", CLIPS)
def test_the_real_clips_name_the_settings_that_ran(name: str, tmp_path: Path) -> None:
    file = real_clip(name, tmp_path)
    settings, c = read_settings(file), read_settings(file).conditions
    assert (c.num_frames, c.width, c.height, c.motion_bucket_id, c.fps, c.num_inference_steps) == (14, 1024, 576, 127, 6, 20)
    assert (c.min_guidance_scale, c.max_guidance_scale, c.guidance_curve, c.noise_aug_strength) == (1.0, 2.5, "linear", 0.0)
    assert settings.seed == {CLIPS[0]: 374244613175717, CLIPS[1]: 698927863164185}[name]
    assert settings.checkpoint == "svd.safetensors" and settings.image.endswith(".png")
    assert any("CLIP" in note for note in settings.notes)


def test_the_plan_starts_from_comfyuis_own_noise(tmp_path: Path) -> None:
    """comfy/sample.py, prepare_noise: torch.randn of the latents' shape on the CPU, from torch.manual_seed(seed)."""
    settings = read_settings(png(tmp_path / "a.png", PROMPT))
    plan = settings.to_plan("cat")
    row = plan.iloc[0]
    torch.manual_seed(7)
    assert torch.equal(row["start_noise"], torch.randn([4, 4, 4, 8]))
    assert (row["image"], row["motion_bucket_id"], row["seed"], row["noise_aug_strength"]) == ("cat", 90, 7, 0.0)
    assert "start_noise" not in settings.to_plan("cat", noise=False)


@pytest.mark.parametrize(
    ("inputs", "what", "note"),
    [
        ({"augmentation_level": 0.1}, {"noise_aug_strength": 0.1}, "augmentation_level 0.1: ComfyUI's pixels"),
        ({"sampler_name": "dpmpp_2m"}, {"scheduler": "EDMDPMSolverMultistepScheduler"}, ""),
        ({"sampler_name": "uni_pc"}, {"scheduler": None}, "sampler uni_pc, karras: there is no equivalent"),
        ({"scheduler": "sgm_uniform"}, {}, "sampler euler, sgm_uniform: there is no equivalent"),
        ({"denoise": 0.5}, {}, "denoise 0.5"),
        ({"min_cfg": 3.0}, {"min_guidance_scale": 2.5, "max_guidance_scale": 3.0}, ""),
        ({"seed": ["99", 0]}, {}, "seed came from another node"),
        ({"init_image": ["3", 0]}, {}, "first frame was made in the graph"),
    ],
)
def test_what_has_no_equivalent_is_said(inputs: dict[str, Any], what: dict[str, Any], note: str, tmp_path: Path) -> None:
    settings = read_settings(png(tmp_path / "a.png", changed(**inputs)))
    assert {key: getattr(settings.conditions, key) for key in what} == what
    assert note in "; ".join(settings.notes)
    if "min_cfg" in inputs:  # it falls
        assert np.allclose(settings.conditions.guidance(4), np.linspace(3.0, 2.5, 4))


@pytest.mark.parametrize(
    ("kind", "image", "name"),
    [
        ("LoadImage", "clipspace/masked-1.png [input]", "masked-1.png"),  # as ComfyUI writes a file of another folder
        ("LoadImageOutput", "a\\cat 2 [x].png [output]", "cat 2 [x].png"),
        ("VHS_LoadImagePath", "/photos/cat.png", "cat.png"),
        ("Image Load", "cat.png", ""),
    ],
)
def test_the_first_frames_name_is_its_files(kind: str, image: str, name: str, tmp_path: Path) -> None:
    prompt = changed(image=image)
    prompt["23"]["class_type"] = kind
    settings = read_settings(png(tmp_path / "a.png", prompt))
    assert settings.image == name and any("or loaded by a node" in note for note in settings.notes) == (not name)


def advanced(**inputs: Any) -> dict[str, Any]:
    """The prompt with ComfyUI's KSamplerAdvanced, which names its seed otherwise and may run some of its steps."""
    prompt = copy.deepcopy(PROMPT)
    given = prompt["3"]["inputs"]
    given |= {"noise_seed": given.pop("seed"), "add_noise": "enable", "start_at_step": 0, "end_at_step": 10000}
    given |= {"return_with_leftover_noise": "disable", **inputs}
    del given["denoise"]
    prompt["3"]["class_type"] = "KSamplerAdvanced"
    return prompt


def test_an_advanced_sampler_is_read_and_its_part_of_the_steps_is_said(tmp_path: Path) -> None:
    plain, settings = (read_settings(png(tmp_path / "a.png", prompt)) for prompt in (PROMPT, advanced()))
    assert settings == plain
    for inputs in (
        {"start_at_step": 5},
        {"end_at_step": 12},
        {"end_at_step": ["9", 0]},
        {"add_noise": "disable"},
        {"return_with_leftover_noise": "enable"},
    ):
        notes = read_settings(png(tmp_path / "a.png", advanced(**inputs))).notes
        assert any(f"{next(iter(inputs))} " in note and "only a part of the steps" in note for note in notes)


@pytest.mark.parametrize("kind", ["SamplerCustom", "SamplerCustomAdvanced", "UltimateSVDSampler"])
def test_a_sampler_that_is_not_read_is_named(kind: str, tmp_path: Path) -> None:
    prompt = copy.deepcopy(PROMPT)
    prompt["3"]["class_type"] = kind
    with pytest.raises(InputError, match=rf"a\.png: .*not read, which KSampler and KSamplerAdvanced are: .*{kind}"):
        read_settings(png(tmp_path / "a.png", prompt))


@pytest.mark.filterwarnings("ignore::svdlab.pipeline.images.CropWarning")
def test_the_plan_of_a_file_makes_its_clip_from_comfyuis_noise(pipe: Any, tmp_path: Path) -> None:
    """A file's settings swept: the conditions are the file's, the clip is that of its noise. SVD's latents are an eighth of
    the image, the organism's a quarter: it makes the clip of its own noise, and refuses ComfyUI's."""
    file = png(tmp_path / "a.png", changed(height=64, steps=2, motion_bucket_id=200))
    settings = read_settings(file)
    four = four_levels()
    table = sweep(four, settings.to_plan("cat"), tmp_path / "study", measure=(), progress=False)
    (row,) = table.to_dict("records")
    c = settings.conditions
    said = {name: value for name, value in c.asdict().items() if value is not None}
    assert row["status"] == "done" and {name: row[name] for name in said} == said and len(said) >= 10
    assert (row["seed"], row["scheduler"], row["num_frames"]) == (7, "EulerDiscreteScheduler", 4)
    noise = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(7))
    (clip,) = generate_batch(four, ["cat"], [c], [7], Start(noise=noise[None]))
    of_study, by_hand = (frames.astype(int) for frames in (read_frames(row["frames"]), as_bytes(clip.frames)))
    assert np.abs(of_study - by_hand).max() <= 1
    again = sweep(four, settings.to_plan("cat"), tmp_path / "study", measure=(), progress=False)
    assert again.run_id[0] == row["run_id"]
    own = sweep(pipe, settings.to_plan("cat", noise=False), tmp_path / "own", measure=(), progress=False).iloc[0]
    assert (own.status, own.motion_bucket_id, own.num_inference_steps, own.seed) == ("done", 200, 2, 7)
    with pytest.raises(InputError, match=r"start_noise=Tensor of shape \(4, 4, 8, 8\)"):
        sweep(pipe, settings.to_plan("cat"), tmp_path / "own", measure=(), progress=False)


def test_of_several_samplers_that_of_svd_is_read(tmp_path: Path) -> None:
    """A graph that first makes an image, with a sampler of its own; a model that went through a LoRA; a primitive's seed."""
    prompt = changed(seed=["40", 0])
    prompt |= {
        "1": {
            "class_type": "KSampler",
            "inputs": {"seed": 1, "steps": 4, "cfg": 8.0, "positive": ["2", 0], "model": ["5", 0]},
        },
        "2": {"class_type": "CLIPTextEncode", "inputs": {"text": "a cat", "clip": ["5", 1]}},
        "40": {"class_type": "PrimitiveNode", "inputs": {"value": 55}},
        "41": {"class_type": "LoraLoaderModelOnly", "inputs": {"lora_name": "pan.safetensors", "model": ["15", 0]}},
    }
    prompt["14"]["inputs"]["model"] = ["41", 0]
    settings = read_settings(png(tmp_path / "a.png", prompt))
    assert (settings.seed, settings.conditions.num_inference_steps, settings.checkpoint) == (55, 20, "svd.safetensors")
    assert any("LoraLoaderModelOnly" in note for note in settings.notes)


def circle() -> dict[str, Any]:
    prompt = copy.deepcopy(PROMPT)
    prompt["14"]["inputs"]["model"], prompt["15"]["inputs"]["model"] = ["15", 0], ["14", 0]
    return prompt


DEEP = '{"a":' * 100_000 + "1" + "}" * 100_000
HOSTILE: dict[str, Any] = {
    "deep": DEEP,
    "no json": "{",
    "a list": "[]",
    "null": "null",
    "nodes are texts": '{"3": "KSampler"}',
    "inputs are a list": '{"3": {"class_type": "KSampler", "inputs": [1]}}',
    "class is a list": '{"3": {"class_type": ["KSampler"], "inputs": {}}}',
    "huge number": '{"3": {"class_type": "KSampler", "inputs": {"seed": ' + "9" * 5000 + "}}}",
    "nan": changed(cfg=float("nan")),
    "infinite": changed(motion_bucket_id=float("inf")),
    "text for a number": changed(fps="6"),
    "true for a number": changed(fps=True),
    "a half frame": changed(video_frames=4.5),
    "a million frames": changed(video_frames=10**6),
    "negative": changed(motion_bucket_id=-1),
    "a link to nowhere": changed(positive=["99", 0]),
    "a link to itself": changed(positive=["3", 0]),
    "an odd link": changed(positive=[{"a": 1}, 0]),
    "another model": {"3": {"class_type": "WanImageToVideo", "inputs": {}}},
    "many nodes": {str(i): {"class_type": "x", "inputs": {}} for i in range(10_001)},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_settings_are_an_input_error_in_one_line(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        read_settings(png(tmp_path / "a.png", HOSTILE[name]))
    assert str(error.value).isprintable() and len(str(error.value)) < 500 and "a.png" in str(error.value)


def test_a_circle_of_links_ends_and_recorded_texts_are_printable(tmp_path: Path) -> None:
    assert read_settings(png(tmp_path / "a.png", circle())).checkpoint == "svd.safetensors"
    odd = "\x1b[31m\u202e../../etc/passwd\n" + "x" * 9999
    settings = read_settings(png(tmp_path / "b.png", changed(ckpt_name=odd, image=odd, sampler_name=odd, scheduler=odd)))
    for text in (settings.checkpoint, settings.image, settings.sampler, *settings.notes):
        assert text.isprintable() and len(text) < 900
    assert "/" not in settings.image


def test_sizes_are_limited_before_anything_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comfy, "LARGEST", 500)
    for kind in KINDS:
        with pytest.raises(InputError, match="bytes"):
            read_settings(made(tmp_path, kind, PROMPT))
    data = bytearray(b"RIFF\xff\xff\xff\x7fWEBPEXIF\xff\xff\xff\x7f")  # a chunk that says 2 GiB, in a file of 20 bytes
    (tmp_path / "short.webp").write_bytes(data)
    with pytest.raises(InputError):
        read_settings(tmp_path / "short.webp")
    (tmp_path / "short.png").write_bytes(b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 2**31 - 1) + b"tEXtprompt\0{")
    with pytest.raises(InputError):
        read_settings(tmp_path / "short.png")


def test_files_without_settings_and_what_is_no_file(tmp_path: Path) -> None:
    FRAMES[0].save(tmp_path / "plain.png")
    FRAMES[0].save(tmp_path / "plain.webp")
    (tmp_path / "text.mp4").write_text("no video")
    for name in ("plain.png", "plain.webp", "text.mp4"):
        with pytest.raises(InputError, match="holds no settings of ComfyUI"):
            read_settings(tmp_path / name)
    with pytest.raises(InputError, match="no such file"):
        read_settings(tmp_path / "absent.png")
    with pytest.raises(InputError, match="it is no file"):
        read_settings(tmp_path)


def test_a_compressed_bomb_in_a_png_is_not_unpacked(tmp_path: Path) -> None:
    """zTXt and compressed iTXt are not what ComfyUI writes: they are left alone."""
    bomb = zlib.compress(b" " * 2**26)
    info = PngInfo()
    info.add(b"zTXt", b"prompt\0\0" + bomb)
    FRAMES[0].save(tmp_path / "a.png", pnginfo=info)
    with pytest.raises(InputError, match="holds no settings"):
        read_settings(tmp_path / "a.png")
