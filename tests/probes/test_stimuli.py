from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from svdlab.errors import InputError
from svdlab.pipeline.images import sample_image
from svdlab.probes import Stimuli, stimuli


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(7):
        Image.new("RGB", (80, 64), (30 * i, 90, 120)).save(tmp_path / f"p{i}.png")
    (tmp_path / "p3.png").write_bytes(b"no image at all")
    (tmp_path / "README.txt").write_text("not an image, and not meant to be one")
    return tmp_path


def test_one_corrupt_image_among_many_is_named_and_left_out(folder: Path) -> None:
    found = Stimuli.of(folder)
    assert found.names == ["p0", "p1", "p2", "p4", "p5", "p6"]
    assert len(found.skipped) == 1 and "p3.png" in found.skipped[0]
    assert set(found.table["licence"]) == {"not stated"}


def test_a_folder_without_images(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    with pytest.raises(InputError, match="none of 0 images"):
        Stimuli.of(tmp_path)
    with pytest.raises(InputError, match=r"nowhere'? cannot be read"):
        Stimuli.of(tmp_path / "nowhere")
    (tmp_path / "b.png").write_bytes(b"x")
    with pytest.raises(InputError, match="none of 1 images"):
        Stimuli.of(tmp_path)


def test_a_manifest_states_what_is_known_of_each_image(folder: Path) -> None:
    rows = {"path": ["p0.png", "p3.png", "p1.png"], "licence": ["CC0", "CC0", None], "place": ["Rome", "Bonn", "Oslo"]}
    pd.DataFrame(rows).to_csv(folder / "m.csv", index=False)
    found = Stimuli.of(folder / "m.csv")
    assert found.table[["name", "licence", "place"]].values.tolist() == [["p0", "CC0", "Rome"], ["p1", "not stated", "Oslo"]]
    pd.DataFrame(rows).assign(licence=[None, 1, 2], source=None).to_csv(folder / "m.csv", index=False)  # columns of numbers
    assert Stimuli.of(folder / "m.csv").table[["source", "licence"]].values.tolist() == [["yours", "not stated"], ["yours", 2]]
    (folder / "n.csv").write_text("file\np0.png\n")
    with pytest.raises(InputError, match="no column 'path'"):
        Stimuli.of(folder / "n.csv")


def test_a_parquet_manifest_of_a_part_of_a_table_keeps_its_rows_together(folder: Path) -> None:
    rows = pd.DataFrame({"path": [f"p{i}.png" for i in (0, 1, 2)], "place": ["Rome", "Oslo", "Bonn"]})
    for part in (rows[::-1], rows[1:], pd.concat([rows[:2], rows[2:].set_axis([0])])):
        part.to_parquet(folder / "m.parquet")
        found = Stimuli.of(folder / "m.parquet").table
        assert (found["name"] + ".png").tolist() == part["path"].tolist() and found["place"].tolist() == part["place"].tolist()


def test_a_folder_in_the_home_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    assert Stimuli.of(f"~/{folder.name}").names == Stimuli.of(folder).names


def test_sets_that_ship_state_source_and_licence() -> None:
    photographs, world = Stimuli.of("photographs"), Stimuli.of("world", n=8)
    assert len(photographs) == 12 and not photographs.skipped
    for found in (photographs, world):
        assert found.table[["source", "licence"]].astype(bool).all().all()
        assert not found.table["licence"].str.contains("not stated").any()
    known = world.table.groupby(["background", "announced"]).size()
    assert known.to_dict() == {(b, a): 2 for b in ("dark", "light") for a in ("object", "pan")}  # and no zoom
    assert np.array_equal(world.array("dark-1"), Stimuli.of("world", n=2).array("dark-1"))  # a longer set begins alike


def test_images_of_one_name_stay_apart() -> None:
    assert Stimuli.of([np.zeros((64, 64, 3)), "cat", "cat"]).names == ["image-0", "cat", "cat-2"]


def test_prepared_images_state_what_the_crop_kept() -> None:
    wide = Stimuli.of([np.zeros((64, 128, 3))]).prepared(64, 64)
    assert wide.images[0].size == (64, 64) and wide.table["kept"].iloc[0] == 0.5


# --- clips with a known answer ------------------------------------------------------------------------------------------

IMAGE = np.asarray(sample_image("scene-3"), np.float32) / 255


def test_a_pan_of_whole_pixels_shifts_the_image() -> None:
    clip = stimuli.panned(IMAGE, 4, px=2.0)
    assert np.allclose(clip[3][:, 8:-16], IMAGE[:, 14:-10], atol=1e-4)
    assert np.array_equal(stimuli.panned(IMAGE, 3, px=0.0)[2], clip[0])


def test_fading_drifts_by_its_step() -> None:
    clip = stimuli.fading(stimuli.still(0.3 + 0.4 * IMAGE, 5), shift=0.01)
    assert (clip[4] - clip[0]).mean((0, 1)) == pytest.approx([0.04, 0, -0.04], abs=1e-6)


def test_latents_follow_the_declared_scale_factor(pipe: Any) -> None:
    """Latents at twice the declared factor are twice as large, and the decoder's own division undoes it."""
    one = stimuli.encode(pipe, IMAGE[None]).square().mean().sqrt()
    through = stimuli.through_autoencoder(pipe, IMAGE[None])
    factor = pipe.vae.config.scaling_factor
    try:
        pipe.vae.register_to_config(scaling_factor=2 * factor)
        assert float(stimuli.encode(pipe, IMAGE[None]).square().mean().sqrt()) == pytest.approx(2 * float(one), rel=1e-5)
        assert stimuli.through_autoencoder(pipe, IMAGE[None]) == pytest.approx(through, abs=1e-5)
    finally:
        pipe.vae.register_to_config(scaling_factor=factor)
