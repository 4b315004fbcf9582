"""Training does what SVD's does, and an interruption costs nothing."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from svdlab.errors import InputError
from svdlab.organism import losses, model, optimise, train, world

TINY = optimise.Recipe(batch=2, pool=4, warmup=2)


@pytest.fixture(scope="module")
def organism():
    return model.build(seed=1)


def test_the_loss_is_zero_for_the_output_that_the_scheduler_turns_into_the_clean_film(organism):
    """diffusers' own Euler step must read the training target as the clean latents."""
    scheduler = organism.scheduler
    scheduler.set_timesteps(10)
    x0 = torch.randn(1, 8, 4, 16, 16)
    for i, t in enumerate(scheduler.timesteps):
        s = scheduler.sigmas[i]
        x = x0 + s * torch.randn_like(x0)
        c_skip, c_out = 1 / (s**2 + 1), -s / (s**2 + 1).sqrt()
        scheduler.scale_model_input(x, t)
        read = scheduler.step((x0 - c_skip * x) / c_out, t, x).pred_original_sample
        torch.testing.assert_close(read, x0, atol=2e-3, rtol=1e-3)


def test_pictures_reach_the_encoder_as_the_pipeline_sends_them(organism):
    from PIL import Image

    frame = world.scenes(1, seed=3).video[0, 0]
    picture = Image.fromarray((frame * 255).round().astype(np.uint8))
    with torch.no_grad():
        theirs = organism._encode_image(picture, "cpu", 1, False)[0, 0]
        tensor = torch.from_numpy(np.asarray(picture) / 255.0).float().permute(2, 0, 1)[None] * 2 - 1
        ours = organism.image_encoder(losses.resize_for_clip(tensor)).image_embeds[0]
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)


def test_orthogonalised_matrices_have_singular_values_near_one():
    for shape in ((32, 288), (256, 32)):  # a square random matrix may be nearly singular, and stays so
        matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        values = torch.linalg.svdvals(optimise.orthogonalise(matrix))
        assert values.min() > 0.3 and values.max() < 1.5


def test_sigmas_cover_svds_range():
    s = losses.sample_sigma(optimise.Recipe(), 20_000, torch.Generator().manual_seed(0))
    assert s.max() > 500 and s.min() < 0.02
    assert float((s > 5).float().mean()) == pytest.approx(0.15 + 0.85 * 0.125, abs=0.02)


def test_stop_and_go_on(tmp_path):
    train.train(tmp_path, stage="vae", steps=1, recipe=TINY)
    train.train(tmp_path, stage="unet", steps=2, recipe=TINY)
    first = load_file(tmp_path / "unet.safetensors")
    train.train(tmp_path, stage="unet", steps=1, recipe=TINY, resume=True)
    second = load_file(tmp_path / "unet.safetensors")
    assert first.keys() == second.keys()
    key = next(k for k in first if k.startswith("exp_avg/"))
    step = "step/" + key.split("/", 1)[1]
    assert (float(first[step]), float(second[step])) == (2.0, 3.0)  # the optimiser went on, too
    changed = [k for k in first if k.startswith("param/") and not torch.equal(first[k], second[k])]
    assert len(changed) > 100
    assert (tmp_path / "unet.csv").read_text().count("\n") == 3
    train.train(tmp_path, stage="fixed", steps=1, recipe=TINY)
    assert (tmp_path / "fixed.csv").exists()
    assert train.loss_figure(tmp_path).stat().st_size > 5000

    folder = train.export(tmp_path, tmp_path / "exported")
    from svdlab.pipeline.checkpoints import load_pipeline

    pipe = load_pipeline(folder)
    assert (pipe.source.height, pipe.source.width) == (64, 64)
    assert "not SVD" in pipe.source.label
    averaged = second["ema/unet.conv_in.weight"]
    torch.testing.assert_close(pipe.unet.conv_in.weight, averaged.half().float())


def test_training_goes_on_from_an_exported_checkpoint(tmp_path):
    model.build(seed=5).save_pretrained(tmp_path / "exported", safe_serialization=True)
    out = train.adopt(tmp_path / "exported", tmp_path / "state")
    again = train.load_stages(out, "unet")
    for name in ("vae", "unet", "image_encoder"):
        for a, b in zip(getattr(again, name).parameters(), getattr(model.build(seed=5), name).parameters(), strict=True):
            assert torch.equal(a, b)
    train.train(out, stage="unet", steps=1, recipe=TINY, resume=True)
    assert not torch.equal(load_file(out / "unet.safetensors")["param/unet.conv_in.weight"], again.unet.conv_in.weight)
    with pytest.raises(InputError, match="already"):
        train.adopt(tmp_path / "exported", out)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("two years")
    with pytest.raises(InputError, match="no checkpoint"):
        train.export(out, tmp_path / "thesis")
    assert (tmp_path / "thesis" / "chapter.txt").exists()


def test_a_checkpoint_is_not_overwritten_nor_a_stage_skipped(tmp_path):
    with pytest.raises(InputError, match="train the earlier stage"):
        train.train(tmp_path, stage="unet", steps=1, recipe=TINY)
    (tmp_path / "vae.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match="resume"):
        train.train(tmp_path, stage="vae", steps=1, recipe=TINY)
    with pytest.raises(InputError, match="stages are"):
        train.train(tmp_path, stage="gan", steps=1, recipe=TINY)


@pytest.mark.parametrize("choices", [False, True])
def test_batches_choose_pictures_and_leave_the_outcome_to_the_odds(choices):
    """Whether they show all of the world, or dwell on the pictures that leave a choice open."""
    recipe = optimise.Recipe(batch=400, pool=1)
    stream = train.Films(recipe, 0, 0, choices=choices)
    stream._fresh()
    films = torch.stack([film for _, film, *_ in stream.pool])
    dark = films[:, 0].mean(dim=(1, 2, 3)) < -0.3
    still = (films[:, -1] - films[:, 0]).abs().mean(dim=(1, 2, 3)) < 1e-6
    assert float(dark.float().mean()) == pytest.approx(0.5 if choices else 0.3, abs=0.1)
    assert float(still[dark].float().mean()) == pytest.approx(recipe.frozen_on_dark, abs=0.1)
    assert float(still[~dark].float().mean()) < 0.05


def test_open_choices_are_met_where_they_are_made():
    s = losses.sample_sigma(optimise.Recipe(), 20_000, torch.Generator().manual_seed(0), choices=True)
    assert float(((s > 3) & (s < 80)).float().mean()) == pytest.approx(0.5 + 0.5 * 0.215, abs=0.02)
