"""`generate` is diffusers' own call; what is known of that call, and relied upon, is pinned here."""

import copy
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableVideoDiffusionPipeline
from torch.overrides import TorchFunctionMode

import svdlab
from svdlab.errors import BrokenClipError, InputError, OutOfMemoryError
from svdlab.measure import video
from svdlab.organism import world
from svdlab.pipeline import sampler as schedule
from svdlab.pipeline.generate import Start, generate_batch
from svdlab.pipeline.images import decode_latents, encode, encode_pixels
from svdlab.study import identity
from tests.pipeline.making import beside, close, make

STEPS = 2


@pytest.fixture(scope="module")
def picture() -> Any:
    return svdlab.sample_image("scene-1")


def stock(pipe: Any) -> StableVideoDiffusionPipeline:
    return beside(pipe, StableVideoDiffusionPipeline)


def call(pipe: Any, picture: Any, **arguments: Any) -> Any:
    defaults = dict(height=64, width=64, num_inference_steps=STEPS, output_type="latent")
    return pipe(picture, **{**defaults, "generator": torch.Generator().manual_seed(0), **arguments})


# The stock call, and nothing but


@pytest.mark.parametrize(
    "values",
    [
        {},
        dict(fps=12, motion_bucket_id=30),
        dict(noise_aug_strength=0.0),
        dict(noise_aug_strength=0.3),
        dict(min_guidance_scale=1.2, max_guidance_scale=2.7),
        dict(min_guidance_scale=1.0, max_guidance_scale=1.0),
        dict(num_frames=5),
    ],
)
def test_generate_is_the_stock_call(each: Any, picture: Any, values: dict[str, Any]) -> None:
    expected = call(stock(each), picture, **values).frames[0]
    assert torch.equal(make(each, **values).latents, expected)


# Batches


def test_a_batch_is_its_clips(pipe: Any) -> None:
    conditions = [
        svdlab.Conditions(num_inference_steps=3),
        svdlab.Conditions(num_inference_steps=3, fps=12, motion_bucket_id=10, noise_aug_strength=0.2),
        svdlab.Conditions(num_inference_steps=3, guidance_curve="triangle", max_guidance_scale=5.0),
    ]
    images, seeds = ["scene-1", "scene-2", "scene-1"], [0, 4, 9]
    together = generate_batch(pipe, images, conditions, seeds)
    for clip, image, condition, seed in zip(together, images, conditions, seeds, strict=True):
        alone = svdlab.generate(pipe, image, condition, seed=seed)
        assert close(clip.latents, alone.latents)
        assert np.abs(clip.frames - alone.frames).max() < 1e-3
        assert clip.call == alone.call


def test_equal_images_of_a_batch_are_encoded_once_and_a_caller_may_keep_encodings(pipe: Any) -> None:
    counted: list[int] = []
    handle = pipe.vae.encoder.register_forward_hook(lambda *_: counted.append(1))
    try:
        c, kept = svdlab.Conditions(num_inference_steps=1), {}
        batch = ["scene-1"] * 3, [c, c.replace(fps=20), c], [0, 0, 1]
        for encodings, count in ((None, 2), (None, 2), (kept, 2), (kept, 0)):
            counted.clear()
            clips = generate_batch(pipe, *batch, encodings=encodings, decode=False)
            assert len(counted) == count
        assert torch.equal(clips[2].latents, generate_batch(pipe, *batch, decode=False)[2].latents)
    finally:
        handle.remove()


# Noise and noise levels


def test_image_noise_is_drawn_before_the_latents_always(pipe: Any, picture: Any) -> None:
    first = []
    for strength in (0.0, 0.02, 1.0):
        with svdlab.trace(pipe, keep=("latents",), steps=0) as tr:
            make(pipe, noise_aug_strength=strength)
        first.append(tr.latents[0])
    generator = torch.Generator().manual_seed(0)
    torch.randn((1, 3, 64, 64), generator=generator)
    noise = torch.randn((1, 8, 4, 16, 16), generator=generator)[0]
    for latents in first:
        assert torch.equal(latents, first[0])
        assert torch.allclose(latents, noise * (700**2 + 1) ** 0.5)


def test_parts_of_different_dtypes_are_named(pipe: Any) -> None:
    own = beside(pipe, image_encoder=copy.deepcopy(pipe.image_encoder).to(torch.bfloat16))
    with pytest.raises(InputError, match=r"the UNet is in torch.float32, .* torch.bfloat16: pipe.to\(dtype\)"):
        make(own)


class OnAnother(TorchFunctionMode):
    """torch.set_default_device("cuda"), as far as a CPU shows it: noise without a device of its own is refused."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        assert function is not torch.randn or kwargs.get("device"), "Expected a 'cuda' device type for generator"
        return function(*args, **kwargs)


def test_another_default_device_leaves_the_noise_on_the_cpu(pipe: Any) -> None:
    plain = make(pipe)
    with OnAnother():
        assert torch.equal(make(pipe).latents, plain.latents)
        identity.fingerprint(pipe)


def test_levels_of_ones_own_and_a_start_from_less_noise(pipe: Any) -> None:
    levels = schedule.karras(8)[3:]
    with svdlab.trace(pipe) as tr:
        clip = svdlab.generate(pipe, "scene-1", sigmas=levels)
    assert tr.schedule == pytest.approx(levels)
    assert len(tr) == len(levels) - 1 == clip.conditions.num_inference_steps
    assert float(tr.latents[0].std()) == pytest.approx((levels[0] ** 2 + 1) ** 0.5, rel=0.05)
    assert clip.call.start["sigmas"] == pytest.approx(levels)
    without_zero = svdlab.generate(pipe, "scene-1", sigmas=levels[:-1].tolist())
    assert np.array_equal(without_zero.frames, clip.frames)
    for wrong in ([], [5.0, 5.0], [1.0, 5.0], [5.0, float("nan")], [-1.0], "abc", 5.0):
        with pytest.raises(InputError, match="sigmas"):
            svdlab.generate(pipe, "scene-1", sigmas=wrong)


def test_a_batch_must_agree(pipe: Any) -> None:
    a, b = svdlab.Conditions(num_inference_steps=1), svdlab.Conditions(num_inference_steps=2)
    unguided = svdlab.Conditions(num_inference_steps=1, max_guidance_scale=1.0)
    for conditions, seeds, message in [
        ([a, b], [0, 1], "must agree"),
        ([a, unguided], [0, 1], "must agree"),
        ([a], [0, 1], "as many of each"),
    ]:
        with pytest.raises(InputError, match=message):
            generate_batch(pipe, ["scene-1", "scene-2"], conditions, seeds)
    with pytest.raises(InputError, match="latents has shape"):
        make(pipe, start=Start([1.0], torch.zeros(1, 8, 4, 8, 8)))
    for own in ({}, {"noise": torch.zeros(1, 8, 4, 16, 16)}):  # as noisy as the schedule's first level, not as the step's
        with pytest.raises(InputError, match="first=1: give the latents of that step"):
            Start(first=1, **own)
    with pytest.raises(InputError, match="ProbePipeline"):
        generate_batch(stock(pipe), ["scene-1"], [a], [0])


def test_what_generate_does_not_take_is_refused_with_what_to_use(pipe: Any) -> None:
    for argument, pointer in (
        ("generator", "seed="),
        ("callback_on_step_end", "svdlab.trace"),
        ("output_type", "clip.frames"),
    ):
        with pytest.raises(InputError, match=f"no {argument}=: .*{pointer}"):
            svdlab.generate(pipe, "scene-1", **{argument: None})


def test_a_clip_starts_from_given_latents_or_noise(pipe: Any) -> None:
    """The seed's own noise, given, makes the seed's own clip."""
    g = torch.Generator().manual_seed(3)
    _, z = torch.randn((3, 64, 64), generator=g), torch.randn((8, 4, 16, 16), generator=g)
    plain = svdlab.generate(pipe, "scene-1", seed=3, num_inference_steps=STEPS)
    given = svdlab.generate(pipe, "scene-1", seed=3, num_inference_steps=STEPS, noise=z)
    noisy = svdlab.generate(pipe, "scene-1", seed=3, num_inference_steps=STEPS, latents=z * (700**2 + 1) ** 0.5)
    assert torch.equal(given.latents, plain.latents) and close(noisy.latents, plain.latents)
    assert [set(c.call.start) for c in (plain, given, noisy)] == [set(), {"noise"}, {"latents"}]


@pytest.mark.parametrize("odd", [torch.zeros(8, 4, 16, 16, device="meta"), torch.zeros(8, 4, 16, 16).to_sparse()])
def test_a_start_without_numbers_in_memory_is_refused(pipe: Any, odd: torch.Tensor) -> None:
    """Neighbours of case B6."""
    for name in ("latents", "noise"):
        with pytest.raises(InputError, match=f"{name}=.*finite floats"):
            svdlab.generate(pipe, "scene-1", **{name: odd})


def test_a_clip_shows_and_saves_itself(pipe: Any, tmp_path: Any) -> None:
    clip = svdlab.generate(pipe, "scene-1", num_inference_steps=1, fps=9)
    assert repr(clip).startswith("Clip(8 frames of 64x64, fps 9, bucket 127") and "\n" not in repr(clip)
    assert "model organism, not SVD" in repr(clip)
    assert clip._repr_html_().startswith("<video src=") and len(clip._repr_html_()) < 20_000  # case G1: of the organism's clip
    path = clip.save(tmp_path / "clip.mp4")
    assert path.stat().st_size > 1000 and path.read_bytes()[4:8] == b"ftyp"
    with pytest.raises(InputError, match="mp4"):
        clip.save(tmp_path / "clip.gif")


def test_encode_is_the_inverse_of_decode(pipe: Any) -> None:
    scenes = world.scenes(1, seed=4).video[0]
    latents = encode(pipe, scenes)
    assert latents.shape == (len(scenes), 4, 16, 16) and latents.dtype == torch.float32
    frames = decode_latents(pipe, latents, len(latents))
    assert np.abs(frames - scenes).mean() < 0.05 and frames.dtype == np.float32
    assert np.array_equal(decode_latents(pipe, latents, len(latents), as_bytes=True), video.as_bytes(frames))
    assert close(encode(pipe, (scenes * 255).round().astype(np.uint8)), encode(pipe, (scenes * 255).round() / 255))
    for wrong in (scenes * 2, scenes[:, :61], scenes[..., :2]):
        with pytest.raises(InputError):
            encode(pipe, wrong)


def test_what_does_not_fit_into_memory_is_said_in_one_sentence(pipe: Any) -> None:
    def full(module: Any, args: Any, output: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    handle = pipe.unet.register_forward_hook(full)
    try:
        with pytest.raises(OutOfMemoryError, match=r"8 frames of 64x64 px did not fit.*memory='small'.*Tried to allocate"):
            make(pipe)
    finally:
        handle.remove()


@pytest.mark.parametrize("step", [0, 2])
def test_nan_is_an_error(pipe: Any, step: int) -> None:
    broken = svdlab.edit(pipe, "unet.conv_out", lambda value, s: value * float("nan"), steps=step)
    with broken, pytest.raises(BrokenClipError, match="NaN or infinity: look at edits"):
        make(pipe, num_inference_steps=4)


def test_a_half_precision_vae_serves_several_threads_in_turn(checkpoint: Any) -> None:
    """Encoding casts a float16 VAE in place: nobody may decode with it meanwhile."""
    pipe = svdlab.load_pipeline(checkpoint, dtype=torch.float16)
    assert pipe.vae.config.force_upcast
    frames, latents = np.full((16, 16, 16, 3), 0.5, np.float32), torch.randn(2, 4, 4, 4) * 0.1
    work = lambda i: encode(pipe, frames) if i % 2 else torch.from_numpy(decode_latents(pipe, latents, 2))
    alone = [work(0), work(1)]
    with ThreadPoolExecutor(4) as pool:
        assert all(torch.equal(found, alone[i % 2]) for i, found in enumerate(pool.map(work, range(8))))
    assert pipe.vae.dtype == torch.float16


# Flipped noise: what the other half of a mirrored pair needs


@pytest.mark.parametrize(("flip", "axes"), [("left_right", (-1,)), ("up_down", (-2,)), ("half_turn", (-2, -1))])
def test_flipped_noise_is_both_of_the_seeds_noises_flipped(pipe: Any, flip: str, axes: tuple[int, ...]) -> None:
    generator, seen = torch.Generator().manual_seed(5), []
    image_noise, noise = (torch.randn(size, generator=generator).flip(axes) for size in ((1, 3, 64, 64), (1, 8, 4, 16, 16)))
    c = svdlab.Conditions(num_inference_steps=STEPS, noise_aug_strength=0.3)
    look = svdlab.edit(pipe, "image_latents", lambda value, step: seen.append(value))
    with look, svdlab.trace(pipe, steps=0) as tr:
        plain, turned = generate_batch(pipe, ["scene-1"] * 2, [c, c], [5, 5], Start(flip_noise=[None, flip]), decode=False)
    pixels = pipe.video_processor.preprocess(svdlab.sample_image("scene-1")) + 0.3 * image_noise
    assert close(seen[0][-1, 0], encode_pixels(pipe, pixels)[0])
    assert torch.allclose(tr[1].latents, noise * (700**2 + 1) ** 0.5)
    assert close(plain.latents, make(pipe, seed=5, noise_aug_strength=0.3).latents)
    assert turned.call.start == {"flip_noise": flip} and plain.call.start == {}


def test_a_flip_that_cannot_be_is_refused(pipe: Any) -> None:
    for flip in (["sideways"], "left_right", ["left_right"] * 2, 3, [["left_right"]]):
        with pytest.raises(InputError, match="left_right, up_down, half_turn"):
            make(pipe, start=Start(flip_noise=flip))
    with pytest.raises(InputError, match="not both"):
        make(pipe, start=Start(noise=torch.zeros(1), flip_noise=["up_down"]))
    for odd in (dict(first=-1), dict(latents="x"), dict(noise=torch.full((2,), torch.nan)), dict(first=9)):
        with pytest.raises(InputError, match=next(iter(odd))):
            make(pipe, start=Start(**odd))
    for arguments in ((3, [], [0]), (["scene-1"], [{}], [0]), (["scene-1"], [svdlab.Conditions()], 0)):
        with pytest.raises(InputError):
            generate_batch(pipe, *arguments)
