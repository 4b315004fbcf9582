"""The published measures by hand, on flow that is chosen, and on motion that is known."""

import math
from itertools import pairwise

import cv2
import numpy as np
import pytest
from scipy import ndimage

from svdlab.errors import InputError
from svdlab.measure import published
from svdlab.measure.calibrate import moving
from svdlab.measure.flow import both_ways, flow
from tests.real import ten_shots


def steady(*speeds):
    """Flow of 64 x 64 px that is the same everywhere: px across, pair by pair."""
    f = np.zeros((len(speeds), 64, 64, 2), np.float32)
    f[..., 0] = np.array(speeds)[:, None, None]
    return f


def fading(step, frames=5):
    return np.full((frames, 64, 64, 3), 0.2) + step * np.arange(frames)[:, None, None, None]


def test_dynamic_degree_by_hand():
    # 64 px: threshold 6 * 64 / 256 = 1.5 px; 16 frames need round(4 * 16 / 16) = 4 fast pairs, 6 frames round(1.5) = 2
    for fast, pairs, moves in ((4, 15, True), (3, 15, False), (2, 5, True), (1, 5, False)):
        assert published.dynamic_degree(steady(*[1.6] * fast, *[1.4] * (pairs - fast))) is moves
    corner = np.zeros((15, 64, 64, 2), np.float32)
    corner.reshape(15, -1, 2)[:, : 64 * 64 // 20] = (4, 0)  # 1/20 of the frame moves by 4 px, the rest by none
    assert published.dynamic_degree(corner)


@pytest.mark.parametrize(
    ("fast", "ends", "static"),
    [  # threshold 3 * 64 / 256 = 0.75 px; N = round(2 * 16 / 16) = 2 pairs may exceed it, and the ends lie 2 N times it apart
        (2, (0.0, 0.0), True),
        (3, (0.0, 0.0), False),
        (0, (2.9, -2.9), True),
        (0, (0.0, 3.1), False),  # slow, but it went somewhere
    ],
)
def test_static_filter_by_hand(fast, ends, static):
    assert published.static_filter(steady(*[0.8] * fast, *[0.7] * (15 - fast)), steady(*ends)) is static


@pytest.mark.parametrize(
    ("shift", "labels"),
    [  # of the top, bottom, left and right border's middle
        ([(-9, 0)] * 4, ("pan_right",)),
        ([(9, 0)] * 4, ("pan_left",)),
        ([(0, 9)] * 4, ("tilt_up",)),
        ([(0, -9)] * 4, ("tilt_down",)),
        ([(0, -9), (0, 9), (-9, 0), (9, 0)], ("zoom_in",)),
        ([(0, 9), (0, -9), (9, 0), (-9, 0)], ("zoom_out",)),
        ([(0.3, 0.3)] * 4, ("static",)),  # the dead zone is 0.005 * 64 = 0.32 px
        ([(9, 9)] * 4, ("pan_left", "tilt_up")),  # a slanted move is both
        ([(0, 0), (0, 0), (-9, 0), (-9, 0)], ("pan_right",)),  # left and right alone suffice
        ([(-9, 0), (-9, 0), (0, 0), (0, 0)], ("pan_right",)),  # and so do top and bottom
        ([(9, 0), (-9, 0), (0, -9), (0, 9)], ("None",)),  # a roll has no name
    ],
)
def test_camera_labels_of_the_borders(shift, labels):
    f = np.zeros((1, 64, 64, 2), np.float32)
    for where, s in zip((np.s_[:16], np.s_[48:], np.s_[16:48, :16], np.s_[16:48, 48:]), shift, strict=True):
        f[0][where] = s
    assert published.camera_motion(f) == labels


def test_warping_error_by_hand():
    # Grey rises by 0.1 a frame: 0.01 in each of three colours, everywhere
    assert published.warping_error(fading(0.1)) == pytest.approx(0.03, rel=1e-5)
    checks = np.indices((64, 64)).sum(0) % 2 * 1.0  # averaged away over 2 x 2 px
    assert published.warping_error(np.stack([checks, 1 - checks])[..., None]) == pytest.approx(0, abs=1e-12)
    assert published.warping_error(moving("coffee", size=(256, 256), frames=3, pan=2).frames) < 0.005


def test_occlusion_by_hand():
    # |3 - 2.2|^2 = 0.64 against 0.01 (9 + 4.84) + 0.5 = 0.6384: just hidden; 2.21 gives 0.6241: just not
    there = steady(3)[0]
    assert published.occluded(there, -there * 2.2 / 3).all()
    assert not published.occluded(there, -there * 2.21 / 3).any()
    there = np.zeros((64, 64, 2), np.float32)
    there[:, 32:, 0] = 1  # a motion boundary: the difference to the next pixel is 1 > 0.002 at column 31
    assert np.flatnonzero(published.occluded(there, -there).any(0)).tolist() == [31]


def test_the_summary_by_hand():
    # Grey rises by 0.2, 51 of 255 levels, from frame to frame; the input image is the third frame
    found = published.summary(fading(0.2, 4), fading(0.2)[2], playback_fps=7)
    assert found["vbench_flicker"] == pytest.approx(0.8) and found["vbench_static"] is True
    assert found["aigcbench_mse"] == pytest.approx(102**2, rel=1e-5)
    assert found["aigcbench_ssim"] == pytest.approx((2 * 0.2 * 0.6 + 1e-4) / (0.2**2 + 0.6**2 + 1e-4), rel=1e-4)


def test_the_summary_is_its_parts():
    clip = moving("coffee", size=(64, 64), frames=8, pan=1).frames
    found, forward = published.summary(clip, playback_fps=7), flow(clip, longest_baseline=1)
    assert found["vbench_camera"] == "pan_right" == published.camera_motion(forward)[0] and found["vbench_static"] is False
    assert found["evalcrafter_flow_px"] == pytest.approx(np.hypot(*forward.T).mean())
    assert found["evalcrafter_warp"] == published.warping_error(clip)
    # 1 px/frame is below the threshold of 1.5 px; at 16 fps every second frame is taken, and it is above
    assert (found["vbench_dynamic"], published.summary(clip, playback_fps=16)["vbench_dynamic"]) == (False, True)
    for frames, fps in ((clip, 0), (clip[:2], 60)):  # at 60 fps one frame is left
        with pytest.raises(InputError):
            published.summary(frames, playback_fps=fps)


# --- the same formulas once more, written from the reference by another route, on ten real clips


@pytest.fixture(scope="module")
def shots(tmp_path_factory):
    kind, clips = ten_shots(tmp_path_factory.mktemp("films"), frames=5, height=64)
    print(f"ten clips: {kind}")
    assert len(clips) == 10
    return clips


def at(values, y, x, steps=None):
    """Bilinear, one channel after the other, by scipy in float64; steps: places per px, where these are rounded."""
    y, x = (np.round(p * steps) / steps if steps else p for p in (y, x))
    planes = [c.astype(float) for c in np.moveaxis(values, -1, 0)]
    return np.stack([ndimage.map_coordinates(c, [y, x], order=1, mode="nearest") for c in planes], -1)


def top_mean(field, share):
    speeds = sorted((math.hypot(*v) for v in field.reshape(-1, 2).tolist()), reverse=True)
    chosen = speeds[: int(len(speeds) * share)]
    return math.fsum(chosen) / len(chosen)


def words_of(path, dead):
    """VBench's word for each border, a set of its directions, from the place where its middle begins and ends."""
    (x0, y0), (x1, y1) = path
    words = {"right" if x1 > x0 else "left"} if abs(x1 - x0) > dead else set()
    words |= {"down" if y1 > y0 else "up"} if abs(y1 - y0) > dead else set()
    return words or {"static"}


def labels_again(forward):
    """Camera labels: each pair of borders may name a pan, a tilt, its own zoom, or stillness."""
    _, h, w, _ = forward.shape
    inset = max(2, min(h, w) // 16)
    places = [[(w // 2, inset), (w // 2, h - 1 - inset), (inset, h // 2), (w - 1 - inset, h // 2)]]
    for f in forward:
        here = np.array(places[-1], float)
        if not ((here >= 0) & (here <= (w - 1, h - 1))).all():
            break
        places.append(here + at(f, here[:, 1], here[:, 0]))
    top, bottom, left, right = (words_of((p, q), 0.005 * min(h, w)) for p, q in zip(places[0], places[-1], strict=True))
    found = set()
    for one, two, zoom in ((top, bottom, ("up", "down")), (left, right, ("left", "right"))):
        both = one & two
        found |= {{"left": "pan_right", "right": "pan_left", "down": "tilt_up", "up": "tilt_down"}.get(b, b) for b in both}
        found |= {"zoom_in"} if zoom[0] in one and zoom[1] in two else set()
        found |= {"zoom_out"} if zoom[1] in one and zoom[0] in two else set()
    return "+".join(sorted(found - {"static"} or found or {"None"}))


def size(v):
    return v[..., 0] ** 2 + v[..., 1] ** 2


def warping_again(frames):
    h, w = (n // 2 for n in frames.shape[1:3])
    half = [cv2.resize(f[: 2 * h, : 2 * w], (w, h), interpolation=cv2.INTER_AREA) for f in frames]
    both, errors = both_ways(np.stack(half), longest_baseline=1), []
    y, x = np.mgrid[: half[0].shape[0], : half[0].shape[1]]
    for t, (one, two) in enumerate(pairwise(half)):
        there, back = both.forward[t].astype(float), both.backward[t].astype(float)
        to = y + there[..., 1], x + there[..., 0]
        returned = at(back, *to, steps=32)  # as OpenCV looks between pixels
        dx, dy = np.zeros_like(there), np.zeros_like(there)
        dx[:, :-1], dy[:-1] = there[:, 1:] - there[:, :-1], there[1:] - there[:-1]
        hidden = size(returned + there) > 0.01 * (size(returned) + size(there)) + 0.5
        hidden |= size(dx) + size(dy) > 0.01 * size(there) + 0.002
        errors.append(((1 - hidden) * ((at(two, *to, steps=32) - one) ** 2).sum(-1)).sum() / max(1, (1 - hidden).sum()))
    return np.mean(errors)


def ssim_again(one, two):
    values = []
    for a, b in zip(np.moveaxis(one, -1, 0).astype(float), np.moveaxis(two, -1, 0).astype(float), strict=True):
        a, b = (np.lib.stride_tricks.sliding_window_view(p, (7, 7)).reshape(-1, 49) for p in (a, b))
        spread = ((a - a.mean(1, keepdims=True)) * (b - b.mean(1, keepdims=True))).sum(1) / 48
        means, variances = (a.mean(1), b.mean(1)), (a.var(1, ddof=1), b.var(1, ddof=1))
        top = (2 * means[0] * means[1] + 1e-4) * (2 * spread + 9e-4)
        values.append((top / ((means[0] ** 2 + means[1] ** 2 + 1e-4) * (sum(variances) + 9e-4))).mean())
    return np.mean(values)


def test_ten_real_clips_by_another_route(shots):
    for frames in shots:
        image, n = np.clip(cv2.GaussianBlur(frames[0], (0, 0), 1), 0, 1), len(frames)
        forward, least = flow(frames, longest_baseline=1), min(frames.shape[1:3])
        ends = [flow(frames[pair], longest_baseline=1)[0] for pair in ([0, -1], [-1, 0])]
        eight = (frames * 255).round().astype(np.uint8)
        allowed = round(2 * n / 16)
        expected = {
            "vbench_flicker": (255 - np.mean([cv2.absdiff(a, b).mean() for a, b in pairwise(eight)])) / 255,
            "vbench_dynamic": sum(top_mean(f, 0.05) > 6 * least / 256 for f in forward) >= round(4 * n / 16),
            "vbench_static": sum(top_mean(f, 0.02) > 3 * least / 256 for f in forward) <= allowed
            and not any(top_mean(f, 0.02) > 3 * least / 256 * allowed * 2 for f in ends),
            "vbench_camera": labels_again(forward),
            "evalcrafter_flow_px": np.mean([np.hypot(f[..., 0], f[..., 1]).mean() for f in forward]),
            "evalcrafter_warp": warping_again(frames),
            "aigcbench_mse": ((255 * image.astype(float) - 255 * frames[0]) ** 2).mean(),
            "aigcbench_ssim": ssim_again(image, frames[0]),
        }
        found = published.summary(frames, image, playback_fps=7)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            near = 1e-3 if name == "evalcrafter_warp" else 1e-5
            assert found[name] == (value if isinstance(value, (bool, str)) else pytest.approx(value, rel=near)), name


def test_the_baselines_beside_real_clips(shots):
    """A frozen clip is perfect for flicker, warping error and the input image, and for dynamics the worst."""
    perfect = ["vbench_flicker", "evalcrafter_warp", "aigcbench_mse", "aigcbench_ssim"]
    for frames in (shots[2], shots[7]):
        table = published.baselines(frames, frames[0], playback_fps=7)
        assert table.loc[perfect, "frozen"].tolist() == [1, 0, 0, pytest.approx(1)]
        preferred = {str(name) for name, row in table.iterrows() if "frozen" in row["as_good"]}
        assert preferred - {"vbench_dynamic"} == set(perfect)
        assert not table.loc["vbench_dynamic", "frozen"] and table.loc["evalcrafter_flow_px", "frozen"] < 0.01
        assert table.loc["vbench_camera", "pan_of_still"] == "pan_right"
        assert table.loc["evalcrafter_warp", "fade_to_noise"] > table.loc["evalcrafter_warp", "pan_of_still"]
