"""`generate` is diffusers' own call; what is known of that call, and relied upon, is pinned here."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableVideoDiffusionPipeline

import svdlab
from svdlab.errors import BrokenClipError, InputError, OutOfMemoryError
from svdlab.organism import world
from svdlab.pipeline import sampler as schedule
from svdlab.pipeline.conditions import UnusualConditionWarning
from svdlab.pipeline.generate import Start, decode_clip, generate_batch
from svdlab.pipeline.images import ImageFileError
from svdlab.pipeline.vae import VaeOverflowWarning, decode_latents, encode
from tests.four_levels import four_levels
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


def test_the_frames_are_the_stock_ones(pipe: Any, picture: Any) -> None:
    expected = call(stock(pipe), picture, decode_chunk_size=3, output_type="np").frames[0]
    clip = svdlab.generate(pipe, picture, num_inference_steps=STEPS, decode_chunk_size=3)
    assert clip.frames.dtype == np.float32
    assert np.array_equal(clip.frames, expected)
    whole = svdlab.generate(pipe, picture, num_inference_steps=STEPS)
    assert torch.equal(whole.latents, clip.latents)
    assert not np.array_equal(whole.frames, clip.frames)  # the decoder is temporal: the chunk's size changes pixels


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


def test_clips_of_a_batch_are_decoded_apart(pipe: Any) -> None:
    """One VAE call over two clips would let the temporal decoder mix them at the seam."""
    a, b = (make(pipe, f"scene-{i}", seed=i).latents for i in (1, 2))
    apart = np.concatenate([decode_latents(pipe, z, 8) for z in (a, b)])
    mixed = decode_latents(pipe, torch.cat([a, b]), 16)
    assert np.abs(mixed - apart).max() > 1e-3


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


def test_a_changed_encoder_is_noticed_at_once(pipe: Any) -> None:
    """Whatever changes what the image encoder or the VAE gives, the next clip has it, as in a fresh process."""
    plain = make(pipe)
    for part in (pipe.image_encoder.visual_projection, pipe.vae.encoder):
        handle = part.register_forward_hook(lambda module, args, output: 0 * output)
        try:
            changed = make(pipe)
        finally:
            handle.remove()
        assert not close(changed.latents, plain.latents)
    assert torch.equal(make(pipe).latents, plain.latents)


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


def test_levels_of_ones_own_and_a_start_from_less_noise(pipe: Any) -> None:
    levels = schedule.karras(8)[3:]
    with svdlab.trace(pipe) as tr:
        clip = svdlab.generate(pipe, "scene-1", sigmas=levels)
    assert tr.schedule == pytest.approx(levels)
    assert len(tr) == len(levels) - 1 == clip.conditions.num_inference_steps
    assert float(tr.latents[0].std()) == pytest.approx((levels[0] ** 2 + 1) ** 0.5, rel=0.05)
    assert clip.call.start["sigmas"] == pytest.approx(levels)
    with_zero = svdlab.generate(pipe, "scene-1", sigmas=levels.tolist())
    without = svdlab.generate(pipe, "scene-1", sigmas=levels[:-1].tolist())
    assert np.array_equal(with_zero.frames, without.frames)
    assert np.array_equal(with_zero.frames, clip.frames)
    for wrong in ([], [5.0, 5.0], [1.0, 5.0], [5.0, float("nan")], [-1.0], "abc", 5.0):
        with pytest.raises(InputError, match="sigmas"):
            svdlab.generate(pipe, "scene-1", sigmas=wrong)


def test_supplied_latents_are_taken_as_they_are_and_clean_ones_are_noticed() -> None:
    """The stock method scales what it is given; dividing first is no way around it in half precision."""
    pipe, levels = four_levels().to(torch.bfloat16), [30.0, 3.0, 0.0]
    latents = torch.randn(1, 4, 4, 8, 8, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16) * 30
    with svdlab.trace(pipe, keep=("latents",)) as tr:
        make(pipe, start=Start(levels, latents))
    assert torch.equal(tr.latents[0], latents[0])
    with svdlab.trace(pipe, keep=("latents",)) as tr:
        call(pipe, svdlab.sample_image("scene-1"), sigmas=levels, num_inference_steps=None, latents=latents / 901**0.5)
    assert 1e-4 < float((tr.latents[0] - latents[0]).float().norm() / latents.float().norm()) < 1e-2
    with pytest.warns(UnusualConditionWarning, match="standard deviation of 1.*at the first sigma have 700"):
        svdlab.generate(pipe, "scene-1", num_inference_steps=2, latents=latents[0] / 30)


# Guidance


def test_guidance_of_one_number_per_frame(pipe: Any) -> None:
    line = tuple(np.linspace(1.0, 3.0, 8))
    assert close(make(pipe, guidance_curve=line).latents, make(pipe).latents)
    low = make(pipe, guidance_curve=(0.5, *line[1:]))  # below 1 in one frame, which upstream has no word for
    assert not torch.equal(low.latents, make(pipe).latents)


def test_an_interval_that_holds_every_level_is_no_interval(pipe: Any) -> None:
    assert torch.equal(make(pipe, guidance_interval=(0.0, 1000.0)).latents, make(pipe).latents)
    nowhere = make(pipe, guidance_interval=(2000.0, 3000.0))
    assert close(nowhere.latents, make(pipe, max_guidance_scale=1.0).latents)


# What upstream does, and what is built on it


def test_upstream_breaks_where_ours_says_why(pipe: Any, picture: Any) -> None:
    assert call(stock(pipe), picture, fps=-5).frames.isfinite().all()  # which ours refuses
    for arguments in (dict(min_guidance_scale=2.0, max_guidance_scale=1.0), dict(num_frames=1)):
        with pytest.raises(Exception):  # noqa: B017 - whatever it is: this test notices when upstream mends it
            call(stock(pipe), picture, **arguments)
        with pytest.raises(InputError):
            svdlab.generate(pipe, picture, **arguments)


# Bad input, before any model runs


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(fps=0), "at least 1"),
        (dict(motion_bucket=3), "unknown condition"),
        (dict(height=72), "multiples of 16"),
        (dict(seed=-1), "seed"),
        (dict(seed=1.5), "seed"),
        (dict(conditions={"fps": 7}), "dict"),
        (dict(guidance_curve=(1.0, 2.0)), "2 numbers for 8 frames"),
    ],
)
def test_bad_input_is_refused_before_any_model_runs(pipe: Any, arguments: dict[str, Any], message: str) -> None:
    ran = []
    handles = [getattr(pipe, part).register_forward_pre_hook(lambda *_: ran.append(1)) for part in ("unet", "image_encoder")]
    handles.append(pipe.vae.encoder.register_forward_pre_hook(lambda *_: ran.append(1)))
    try:
        with pytest.raises(InputError, match=message):
            svdlab.generate(pipe, "scene-1", **arguments)
        with pytest.raises(ImageFileError):
            svdlab.generate(pipe, "no-such-file.png")
    finally:
        for handle in handles:
            handle.remove()
    assert ran == []


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
    with pytest.raises(InputError, match="for the image"):
        make(pipe, start=Start(noise=(torch.zeros(1, 3, 8, 8), torch.zeros(1, 8, 4, 16, 16))))
    with pytest.raises(InputError, match="ProbePipeline"):
        generate_batch(stock(pipe), ["scene-1"], [a], [0])


def test_a_broken_clip_is_an_error(pipe: Any) -> None:
    clip = make(pipe)
    clip.latents[:] = float("nan")
    with pytest.raises(BrokenClipError, match="NaN"):
        decode_clip(pipe, clip)


def test_a_clip_knows_its_call(pipe: Any) -> None:
    clip = make(pipe, fps=9)
    assert clip.call.conditions.fps == 9
    assert (clip.conditions.num_frames, clip.conditions.height, clip.conditions.decode_chunk_size) == (8, 64, 8)
    assert type(clip.call).read(json.loads(json.dumps(clip.call.asdict()))) == clip.call
    assert clip.seconds["denoising"] > 0


@pytest.mark.parametrize(
    ("argument", "pointer"), [("generator", "seed="), ("callback_on_step_end", "svdlab.trace"), ("output_type", "clip.frames")]
)
def test_what_generate_does_not_take_is_refused_with_what_to_use(pipe: Any, argument: str, pointer: str) -> None:
    with pytest.raises(InputError, match=f"no {argument}=: .*{pointer}"):
        svdlab.generate(pipe, "scene-1", **{argument: None})


def test_a_clip_starts_from_given_latents_or_noise(pipe: Any) -> None:
    """The seed's own noise, given, makes the seed's own clip."""
    g = torch.Generator().manual_seed(3)
    own, z = torch.randn((3, 64, 64), generator=g), torch.randn((8, 4, 16, 16), generator=g)
    plain = svdlab.generate(pipe, "scene-1", seed=3, num_inference_steps=STEPS)
    given = svdlab.generate(pipe, "scene-1", seed=9, num_inference_steps=STEPS, noise=(own, z))
    latents_only = svdlab.generate(pipe, "scene-1", seed=3, num_inference_steps=STEPS, noise=z)
    noisy = svdlab.generate(pipe, "scene-1", seed=3, num_inference_steps=STEPS, latents=z * (700**2 + 1) ** 0.5)
    assert torch.equal(given.latents, plain.latents) and torch.equal(latents_only.latents, plain.latents)
    assert close(noisy.latents, plain.latents)
    assert [set(c.call.start) for c in (plain, given, latents_only, noisy)] == [set(), {"noise"}, {"noise"}, {"latents"}]
    assert given.call.start["noise"]["latents"] == latents_only.call.start["noise"]["latents"] != noisy.call.start["latents"]


def test_a_clip_shows_and_saves_itself(pipe: Any, tmp_path: Any) -> None:
    clip = svdlab.generate(pipe, "scene-1", num_inference_steps=1, fps=9)
    assert repr(clip).startswith("Clip(8 frames of 64x64, fps 9, bucket 127") and "\n" not in repr(clip)
    assert "model organism, not SVD" in repr(clip)
    assert clip._repr_html_().startswith("<video") and len(clip._repr_html_()) < 200_000
    path = clip.save(tmp_path / "clip.mp4")
    assert path.stat().st_size > 1000 and path.read_bytes()[4:8] == b"ftyp"
    with pytest.raises(InputError, match="mp4"):
        clip.save(tmp_path / "clip.gif")


def test_encode_is_the_inverse_of_decode(pipe: Any) -> None:
    scenes = world.scenes(1, seed=4).video[0]
    latents = encode(pipe, scenes)
    assert latents.shape == (len(scenes), 4, 16, 16) and latents.dtype == torch.float32
    back = decode_latents(pipe, latents, len(latents))
    assert np.abs(back - scenes).mean() < 0.05
    with torch.no_grad():
        x = torch.from_numpy(scenes[3]).permute(2, 0, 1)[None] * 2 - 1
        expected = pipe.vae.encode(x).latent_dist.mode()[0] * pipe.vae.config.scaling_factor
    assert close(latents[3], expected)
    assert close(encode(pipe, (scenes * 255).round().astype(np.uint8)), encode(pipe, (scenes * 255).round() / 255))
    for wrong in (scenes * 2, scenes[:, :61], scenes[..., :2]):
        with pytest.raises(InputError):
            encode(pipe, wrong)


def test_what_does_not_fit_into_memory_is_said_in_one_sentence(pipe: Any) -> None:
    def full(module: Any, args: Any, output: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    handle = pipe.unet.register_forward_hook(full)
    try:
        with pytest.raises(OutOfMemoryError, match=r"8 frames of 64x64 px did not fit.*offload.*Tried to allocate"):
            make(pipe)
    finally:
        handle.remove()


@pytest.mark.parametrize("step", [0, 2])
def test_nan_names_the_step_and_whether_the_unet_made_it(pipe: Any, step: int) -> None:
    calls: list[int] = []

    def overflow(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return output * float("inf") if len(calls) > step else output

    handle = pipe.unet.conv_out.register_forward_hook(overflow)
    try:
        with pytest.raises(BrokenClipError, match=f"from step {step} of 4 .* in the UNet's output: look at edits"):
            make(pipe, num_inference_steps=4)
    finally:
        handle.remove()
    broken = svdlab.edit(pipe, "latents", lambda value, s: value * float("nan") if s.index == step else None)
    with broken, pytest.raises(BrokenClipError, match=f"from step {step} of 4"):
        make(pipe, num_inference_steps=4)


def test_a_vae_that_overflows_in_float16_decodes_in_float32(checkpoint: Any) -> None:
    """Weights scaled so that an inner activation passes 65504 while the image stays finite in float32."""
    pipe, exact = svdlab.load_pipeline(checkpoint, dtype=torch.float16), svdlab.load_pipeline(checkpoint)
    latents = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    pipe.vae.decoder.conv_in.weight.data.mul_(3e4)  # normalised away by the layers that follow, where the numbers can hold it
    with pytest.warns(VaeOverflowWarning, match="decoded in float32"):
        frames = decode_latents(pipe, latents, 2)
    assert frames.max() > 0.02 and pipe.vae.dtype == torch.float16
    exact.vae.decoder.conv_in.weight.data.copy_(pipe.vae.decoder.conv_in.weight)
    assert abs(frames - decode_latents(exact, latents, 2)).max() < 0.02


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
    generator = torch.Generator().manual_seed(5)
    noise = [torch.randn(size, generator=generator) for size in ((1, 3, 64, 64), (1, 8, 4, 16, 16))]
    by_hand = make(pipe, seed=5, start=Start(noise=tuple(torch.flip(n, axes) for n in noise)), noise_aug_strength=0.3)
    c = svdlab.Conditions(num_inference_steps=STEPS, noise_aug_strength=0.3)
    plain, turned = generate_batch(pipe, ["scene-1"] * 2, [c, c], [5, 5], Start(flip_noise=[None, flip]), decode=False)
    assert close(turned.latents, by_hand.latents) and not close(turned.latents, plain.latents)
    assert close(plain.latents, make(pipe, seed=5, noise_aug_strength=0.3).latents)
    assert turned.call.start == {"flip_noise": flip} and plain.call.start == {}


def test_a_flip_that_cannot_be_is_refused(pipe: Any) -> None:
    for flip in (["sideways"], "left_right", ["left_right"] * 2):
        with pytest.raises(InputError, match="left_right, up_down, half_turn"):
            make(pipe, start=Start(flip_noise=flip))
    with pytest.raises(InputError, match="not both"):
        make(pipe, start=Start(noise=(torch.zeros(1), torch.zeros(1)), flip_noise=["up_down"]))
    with pytest.raises(InputError, match="row 0 of the plan: flip_noise='mirror'"):
        svdlab.sweep(pipe, [{"flip_noise": "mirror"}], "never-made", image="scene-3")


def test_a_flipped_run_has_an_id_of_its_own(pipe: Any, tmp_path: Path) -> None:
    plan = svdlab.grid(seed=[3], num_inference_steps=2, flip_noise=[None, "left_right"])
    table = svdlab.sweep(pipe, plan, tmp_path, image="scene-3", measure=(), progress=False)
    assert table.run_id.nunique() == 2 and table.flip_noise.tolist() == ["", "left_right"]
    plain = svdlab.sweep(pipe, plan.drop(columns="flip_noise").iloc[:1], tmp_path, image="scene-3", measure=(), progress=False)
    assert plain.run_id[0] == table.run_id[0]  # who flips nothing has the id that there always was
