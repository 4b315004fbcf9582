"""Figures of motion: known flows in the key's colours, known pans in their graphs."""

from typing import Any

import cv2
import numpy as np
import pytest
from skimage.color import rgb2lab

from svdlab import show
from svdlab.errors import InputError
from svdlab.measure import motion
from svdlab.measure.calibrate import moving
from svdlab.organism import world
from svdlab.show.figure import scaled
from svdlab.show.labels import number
from tests.show.conftest import drawn_in, texts


def test_flow_colours_are_pale_when_slow_and_darker_with_speed_in_every_direction() -> None:
    angle = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    rim = np.stack([np.cos(angle), np.sin(angle)], -1)
    lightness = [rgb2lab(show.flow_colours(rim * s, 1.0)[None])[0, :, 0] for s in (0, 0.5, 1)]
    assert (lightness[0] > 95).all() and (lightness[1] < lightness[0] - 8).all() and (lightness[2] < lightness[1] - 8).all()
    assert np.ptp(lightness[2]) < 6  # no direction stands out in a grey print
    at_rim = show.flow_colours(rim, 1.0)
    assert (np.abs(at_rim[:, None] - at_rim[None]).sum(-1) + np.eye(16)).min() > 0.05
    np.testing.assert_allclose(show.flow_colours(rim * 7, 1.0), at_rim)  # faster than the rim is drawn as the rim


def test_a_known_flow_is_drawn_in_its_keys_colour() -> None:
    field = np.zeros((1, 64, 64, 2), np.float32)
    field[..., 1] = -2.0  # upwards
    fig = show.flow(field)
    expected = (show.flow_colours(np.array([0.0, -1.0]), 1.0) * 255).round()
    assert (np.abs(drawn_in(fig, fig.axes[0]) - expected).max(-1) <= 1).mean() > 0.5  # the rest is arrows
    assert "rim: 2 px/frame" in texts(fig) and fig.footer == ""  # an array: nobody said that a model made it
    assert len(fig.data) == 49 and fig.data[["pair", "dx_px", "dy_px"]].drop_duplicates().to_numpy().tolist() == [[0, 0, -2]]
    assert fig.data.drawn.all() and fig.data.x_px.between(0, 64).all()


def test_the_colours_are_scaled_by_what_is_seen() -> None:
    """A texture pans by 2 px under a square that runs the other way by 16 px: what it hides has no motion of its own."""
    rng = np.random.default_rng(0)
    ground, square = (cv2.GaussianBlur(rng.random((96, 200, 3), np.float32), (0, 0), 1.5) for _ in range(2))
    frames = np.stack([ground[:, 40 - 2 * t : 168 - 2 * t] for t in range(4)])
    for t, frame in enumerate(frames):
        frame[32:64, 80 - 16 * t : 112 - 16 * t] = square[:32, :32]
    both, fig = motion.both_ways(frames), show.flow(frames)
    speed = np.linalg.norm(both.forward, axis=-1)
    due, of_all = (float(np.percentile(each, 99.5)) for each in (speed[both.visible], speed))
    assert f"rim: {number(round(due, 2))} px/frame" in texts(fig) and 1.2 * due < of_all
    assert fig.footer == f"grey: lost by the flow, {number(round(100 * (1 - both.visible.mean()), 1))} %"
    lost = fig.data[~both.visible[fig.data.pair, fig.data.y_px.astype(int), fig.data.x_px.astype(int)]]
    assert len(lost) and not lost.drawn.any() and fig.data.drawn.any()


def test_the_pairs_that_are_shown_have_the_flow_of_the_whole_clip() -> None:
    frames = moving("cat", size=(64, 96), frames=12, pan=0.05).frames  # slow: a pair's window spans its neighbours
    both, data = motion.both_ways(frames), show.flow(frames, pairs=[2, 9]).data
    at = data.pair, data.y_px.astype(int), data.x_px.astype(int)
    assert both.baseline.max() > 1 and set(data.pair) == {2, 9}
    np.testing.assert_array_equal(data[["dx_px", "dy_px"]], both.forward[at])
    np.testing.assert_array_equal(data.drawn & ~both.visible[at], False)


def test_graphs_of_a_known_pan(pan: world.Scenes, clip: Any) -> None:
    speed = pan.factors.displacement.iloc[0]
    path = show.camera_path(clip).data
    assert path.pan_px.iloc[-1] == pytest.approx(7 * speed, rel=0.1) and abs(path.tilt_px.iloc[-1]) < 1
    assert show.stepwise(clip).data.camera_px.mean() == pytest.approx(speed, rel=0.1)
    fig = show.stepwise(clip, playback_fps=7)
    assert fig.data.camera_px_s.mean() == pytest.approx(7 * speed, rel=0.1) and "speed (px/s)" in texts(fig)
    tracks = show.trajectories(clip).data.groupby("point").x.agg(["first", lambda x: x.iloc[-1] - x.iloc[0]])
    right = tracks[tracks["first"] > 40].iloc[:, 1]  # the others leave the image: it runs left where the camera goes right
    assert right.median() == pytest.approx(-7 * speed, rel=0.15)


def test_a_graph_of_speed_marks_what_could_not_be_measured(clip: Any) -> None:
    assert "could not be measured" not in show.stepwise(clip).footer
    flat = np.full((3, 32, 32, 3), 0.5, np.float32)
    assert "could not be measured" in show.stepwise(flat).footer
    assert (
        "2 of 2 frame pairs could not be measured" in show.camera_path(flat).footer
        and not show.camera_path(clip.frames).footer
    )


def test_a_slice_is_the_images_own_row(clip: Any) -> None:
    fig = show.xt_slice(clip, row=20)
    shown = drawn_in(fig, fig.axes[0])
    assert np.abs(shown - scaled(clip.frames[:, 20], shown.shape[:2]) * 255.0).max() <= 1


@pytest.mark.parametrize(
    "call", [lambda c: show.flow(c, pairs=[7]), lambda c: show.xt_slice(c, row=64), lambda c: show.flow(c.frames * np.nan)]
)
def test_bad_input_is_named(call: Any, clip: Any) -> None:
    with pytest.raises(InputError, match=r"frame pairs 0|64|NaN"):
        call(clip)
