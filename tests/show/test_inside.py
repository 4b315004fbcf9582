"""Attention maps are drawn as they were kept, on one scale; settling is read from the mean curve."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from svdlab import show
from svdlab.errors import InputError, TraceError
from tests.show.conftest import SPATIAL, texts

TEMPORAL = "unet.mid_block.attentions.0.temporal_transformer_blocks.0.attn1"


def test_temporal_maps_are_the_traces_own(tr: Any) -> None:
    fig = show.attention(tr, TEMPORAL, steps=[0, 3])
    kept = tr[f"{TEMPORAL}.weights"][[0, 3], -1].numpy()
    for ax, one in zip(fig.axes, kept, strict=False):
        np.testing.assert_allclose(ax.images[0].get_array(), one, rtol=1e-6)
    assert len({ax.images[0].get_clim() for ax in fig.axes[:2]}) == 1 and "mid_block.attentions.0" in texts(fig)
    assert len(fig.data) == kept.size and fig.data.weight.max() == pytest.approx(kept.max())
    assert fig.data[(fig.data.step == 3) & (fig.data.y == 7)].weight.sum() == pytest.approx(1, abs=1e-3)  # of one query
    blocks = {show.block(name) for name in tr.names if "temporal" in name}
    assert {ax.get_ylabel() for ax in show.attention(tr, steps=[0]).axes if ax.get_ylabel()} == blocks


def test_spatial_maps_lie_over_the_frames_with_their_query(tr: Any) -> None:
    fig = show.attention(tr, SPATIAL, steps=[0, 3], frames=[0, 7], clip=tr.clip)
    assert len([ax for ax in fig.axes if ax.images]) >= 4 and {"frame 0", "frame 7"} <= set(texts(fig).split("\n"))
    marks = [line.get_xydata()[0] / ax.images[0].get_size() for ax in fig.axes[:4] for line in ax.lines]
    np.testing.assert_allclose(marks, 0.5, atol=0.01)
    for wrong, error in (
        (dict(names=SPATIAL, queries=((0, 0), (1, 1))), InputError),
        (dict(names=[SPATIAL, TEMPORAL]), InputError),
        (dict(names="unet.conv_in"), InputError),
        (dict(names=SPATIAL, clip=tr.clip.frames[:2]), InputError),
    ):
        with pytest.raises(error):
            show.attention(tr, **wrong)
    with pytest.raises(TraceError, match="no attention maps"):
        show.attention(type(tr)())


def test_settling_is_marked_where_the_mean_stays_above_the_threshold() -> None:
    sigma = [100.0, 10.0, 1.0, 0.1]
    rows = dict(seed=[0] * 4 + [1] * 4, sigma=sigma * 2, motion=[0.1, 0.95, 0.5, 1, 0.3, 0.95, 0.9, 1], image=0.99)
    fig = show.lock_in(pd.DataFrame(rows), threshold=0.9)
    marks = [line.get_xdata()[0] for line in fig.axes[0].lines if line.get_markersize() == 9]
    assert marks == [0.1, 100.0]  # the motion fell below again at 1
    assert fig.axes[0].xaxis_inverted() and "threshold 0.9" in fig.footer
    assert len(fig.data) == 16 and fig.data[(fig.data.curve == "motion") & (fig.data.sigma == 1)]["mean"].tolist() == [
        0.7,
        0.7,
    ]


def test_a_heat_map_takes_arrays_and_tensors(tr: Any) -> None:
    fig = show.heat(tr.denoised[-1, 0, 0], tr, title="z", key="z")
    np.testing.assert_allclose(fig.axes[0].images[0].get_array(), tr.denoised[-1, 0, 0], rtol=1e-6)
    assert show.heat(np.eye(3, dtype=bool), title="a", key="b").data.shape == (3, 4)
    with pytest.raises(InputError, match="y x"):
        show.heat(np.zeros((2, 2, 2)), title="a", key="b")


def test_groups_share_a_graph_where_that_is_the_question(results: pd.DataFrame) -> None:
    fig = show.dose_response(results, x="motion_bucket_id", y="object_px", by="fps", together=True)
    assert len(fig.axes) == 1 and {"fps 6", "fps 8", "fps 12"} <= set(texts(fig).split("\n")) and len(fig.data) == 60
    with pytest.raises(InputError, match="5 values"):
        show.dose_response(results, x="fps", y="object_px", by="seed", together=True)
