"""Planted pairs differ in the planted factor alone."""

from pathlib import Path

import numpy as np
import pytest

from svdlab.errors import InputError
from svdlab.pipeline.images import open_image
from svdlab.probes.bias import planted
from svdlab.study.pairs import read_manifest


def test_planted_pairs_differ_in_one_factor_alone(tmp_path: Path) -> None:
    planted.world_pairs(tmp_path, hue=2, shape=2, position=2, background=2, mirror=2)
    manifest = read_manifest(tmp_path / "manifest.csv")
    assert len(manifest) == 20 and set(manifest.group_scheme) == set(planted.SCHEMES)

    def shown(scheme: str, group: str) -> np.ndarray:
        row = manifest.query("group_scheme == @scheme and group == @group and pair_id.str.endswith('0000')").iloc[0]
        return np.asarray(open_image(row.file), float) / 255

    assert np.array_equal(shown("mirror", "original")[:, ::-1], shown("mirror", "mirrored"))
    assert (manifest.flip_noise == "left_right").equals(manifest.group == "mirrored")
    for scheme, groups in {"hue": ("warm", "cool"), "shape": ("square", "disc")}.items():
        a, b = (shown(scheme, group) for group in groups)
        assert 0.01 < (np.abs(a - b).max(-1) > 0.02).mean() < 0.35  # the sprite, and not the ground
    warm, cool = shown("hue", "warm"), shown("hue", "cool")
    changed = np.abs(warm - cool).max(-1) > 0.1
    assert warm[changed].mean(0)[0] > warm[changed].mean(0)[2] and cool[changed].mean(0)[2] > cool[changed].mean(0)[0]
    assert shown("background", "dark").mean() < shown("background", "light").mean()


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({}, "of hue, mirror"),
        ({"colour": 3}, "of hue, mirror"),
        ({"hue": 0}, "hue=0"),
        ({"hue": 1, "shape": 2.5}, "shape=2.5"),
        ({"hue": True}, "hue=True"),
        ({"hue": 10**30}, "from 1 to 10000"),
    ],
)
def test_planted_pairs_that_are_none_are_refused(tmp_path: Path, counts: dict[str, int], said: str) -> None:
    with pytest.raises(InputError, match=said):
        planted.world_pairs(tmp_path, **counts)
    assert not list(tmp_path.iterdir())
