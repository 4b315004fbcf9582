"""Published video measures by their published code, each called "-style": here any optical flow, there it was RAFT.

    >>> summary(clip.frames, clip.image, playback_fps=7)["evalcrafter_flow_px"]
    >>> baselines(clip.frames, clip.image, playback_fps=7)[["frozen", "as_good"]]
    >>> dynamic_degree(flow(clip.frames, longest_baseline=1))

They are here so that numbers can be set beside the literature, and so that one can see what they miss: a mere camera orbit
scores full "dynamics", a frozen clip perfect "consistency", and the fps that a file claims changes the score.
`svdlab.motion.summary` answers what moves. Papers: VBench (Huang et al. 2024), EvalCrafter (Liu et al. 2024), AIGCBench (Fan
et al. 2024), DEVIL (Liao et al. 2024). Frames are "f h w c" in [0, 1]; `forward`, "t h w 2", is the flow of each pair on its
own, px.
"""

from functools import partial
from itertools import pairwise, product
from typing import Any

import numpy as np
import pandas as pd

from svdlab.errors import takes
from svdlab.measure.fidelity import ssim
from svdlab.measure.flow import both_ways, brought_back, field, flow, points
from svdlab.measure.video import CLIP, FPS, as_image

# Which way a number counts as better where it is published; the rest describes the clip.
BETTER = {
    **dict.fromkeys(("vbench_flicker", "vbench_dynamic", "evalcrafter_flow_px", "aigcbench_ssim"), "higher"),
    **dict.fromkeys(("evalcrafter_warp", "aigcbench_mse"), "lower"),
}
# Directions in which the middles of two opposite borders move, and what VBench-I2V's code calls that.
TURNS = {("left", "left"): "pan_right", ("right", "right"): "pan_left", ("down", "down"): "tilt_up", ("up", "up"): "tilt_down"}
TOP_BOTTOM = {**TURNS, ("up", "down"): "zoom_in", ("down", "up"): "zoom_out", ("static", "static"): "static"}
LEFT_RIGHT = {**TURNS, ("left", "right"): "zoom_in", ("right", "left"): "zoom_out", ("static", "static"): "static"}


@takes(frames=CLIP, playback_fps=FPS)
def summary(frames: Any, image: Any = None, *, playback_fps: float) -> dict[str, Any]:
    """All of them as one flat dict; what needs the input image only where one is given.

    >>> summary(clip.frames, playback_fps=7)["vbench_flicker"]

    Keys: `vbench_flicker`, (255 - mean absolute difference of neighbours) / 255 on 8-bit frames, which any motion lowers
    (VBench applies it to clips that pass the static filter only); `vbench_dynamic`, see `dynamic_degree`, of every max(1,
    round(playback_fps / 8))-th frame; `vbench_static`, see `static_filter`; `vbench_camera`, the labels of `camera_motion`,
    joined by "+"; `evalcrafter_flow_px`, EvalCrafter's and DEVIL's flow score, the mean speed in px/frame of the given
    size; `evalcrafter_warp`, see `warping_error`; `aigcbench_mse`, `aigcbench_ssim`, squared error on 0 to 255 and SSIM of
    input image and first frame. Raises InputError for a playback_fps not above 0 or that leaves one frame.
    """
    clip, thin = frames, max(1, round(playback_fps / 8))
    forward = flow(clip, longest_baseline=1)
    ends = np.concatenate([flow(clip[[0, -1]], longest_baseline=1), flow(clip[[-1, 0]], longest_baseline=1)])
    changes = [np.abs(b - a).mean() for a, b in pairwise(np.rint(clip * 255))]
    found = {
        "vbench_flicker": float((255 - np.mean(changes)) / 255),
        "vbench_dynamic": dynamic_degree(forward if thin == 1 else flow(clip[::thin], longest_baseline=1)),
        "vbench_static": static_filter(forward, ends),
        "vbench_camera": "+".join(camera_motion(forward)),
        "evalcrafter_flow_px": float(np.linalg.norm(forward, axis=-1).mean()),
        "evalcrafter_warp": warping_error(clip),
    }
    if image is None:
        return found
    one = as_image(image, clip.shape[1:])
    error = float(np.square((one - clip[0]) * 255.0).mean())
    return found | {"aigcbench_mse": error, "aigcbench_ssim": ssim(one, clip[0])}


@takes(frames=CLIP, playback_fps=FPS)
def baselines(frames: Any, image: Any = None, *, playback_fps: float) -> pd.DataFrame:
    """`summary` of a clip beside four trivial ones made of its first frame or its own frames: a row per number.

    >>> baselines(clip.frames, playback_fps=7).loc["vbench_flicker", "frozen"]
    1.0

    Columns: `better`, which way the number counts where it is published ("" for a description); `clip`; `frozen`, the first
    frame again and again; `fade_to_noise`, from it to white noise, evenly; `pan_of_still`, it moved sideways by 2 % of its
    width per frame, mirrored at its border; `shuffled`, the clip's frames in random order; `as_good`, those of the four that
    score at least as well as the clip. On ten real shots, frozen won `vbench_flicker` and `evalcrafter_warp` ten times of
    ten, with perfect scores, the pan and the shuffled frames `vbench_dynamic` and `evalcrafter_flow_px`; the numbers against
    the input image look at the first frame alone.
    """
    still, n, rng = frames[0], len(frames), np.random.default_rng(0)
    noise, share = rng.random(still.shape, np.float32), np.linspace(0, 1, n, dtype=np.float32)[:, None, None, None]
    step = max(1, round(0.02 * still.shape[1]))
    wide = np.pad(still, ((0, 0), (0, step * (n - 1)), (0, 0)), mode="symmetric")
    clips = {
        "clip": frames,
        "frozen": np.repeat(still[None], n, axis=0),
        "fade_to_noise": (1 - share) * still + share * noise,
        "pan_of_still": np.stack([wide[:, step * t : step * t + still.shape[1]] for t in range(n)]),
        "shuffled": frames[rng.permutation(n)],
    }
    found = pd.DataFrame({name: summary(c, image, playback_fps=playback_fps) for name, c in clips.items()})
    better = [BETTER.get(str(name), "") for name in found.index]
    as_good = [
        ", ".join(
            b for b in found.columns[1:] if (row[b] >= row["clip"] if way == "higher" else way and row[b] <= row["clip"])
        )
        for way, (_, row) in zip(better, found.iterrows(), strict=True)
    ]
    found.insert(0, "better", better)
    return found.assign(as_good=as_good)


@takes(forward=field)
def dynamic_degree(forward: np.ndarray) -> bool:
    """VBench-style dynamic degree: does enough of the clip move fast enough?

    >>> dynamic_degree(np.zeros((15, 64, 64, 2)))
    False

    A pair is fast when the mean of the fastest 5 % of its speeds is above 6 min(h, w) / 256 px, and round(4 T / 16) fast pairs
    of T frames suffice.
    """
    fast = _fastest(forward, 0.05) > 6 * min(forward.shape[1:3]) / 256
    return bool(fast.sum() >= round(4 * (len(forward) + 1) / 16))


@takes(forward=field, ends=field)
def static_filter(forward: np.ndarray, ends: np.ndarray) -> bool:
    """VBench-style static filter, which chooses the clips that are scored for flicker.

    >>> static_filter(np.zeros((15, 64, 64, 2)), ends=np.zeros((2, 64, 64, 2)))
    True

    Static unless the mean of the fastest 2 % of speeds exceeds 3 min(h, w) / 256 px in more than N = round(2 T / 16) pairs, or
    2 N times that between the first and the last frame, either way (`ends`).
    """
    threshold, allowed = 3 * min(forward.shape[1:3]) / 256, round(2 * (len(forward) + 1) / 16)
    fast = (_fastest(forward, 0.02) > threshold).sum()
    return bool(fast <= allowed and _fastest(ends, 0.02).max() <= 2 * allowed * threshold)


@takes(forward=field)
def camera_motion(forward: np.ndarray) -> tuple[str, ...]:
    """VBench-I2V-style camera labels from where the middles of the four borders end up, first frame to last; sorted.

    >>> camera_motion(np.full((4, 64, 64, 2), (-3, 0), np.float32))       # VBench asks if the label asked for is among them
    ('pan_right',)

    Either pair of opposite borders suffices for a label, a slanted move gives two, and "None" is where nothing fits. Dead zone
    0.005 min(h, w) px over the whole clip. VBench tracks with CoTracker; here flow is chained, up to where the first of the
    points leaves the frame. `svdlab.motion.camera_class` uses the whole frame instead.
    """
    h, w = forward.shape[1:3]
    dead = 0.005 * min(h, w)
    margin = max(2, min(h, w) // 16)  # flow needs a neighbourhood, and a point on the very border leaves at once
    path = points(forward, [(w // 2, margin), (w // 2, h - 1 - margin), (margin, h // 2), (w - 1 - margin, h // 2)])
    seen = path[np.isfinite(path).all((1, 2))]

    def directions(x: float, y: float) -> list[str]:
        across = "right" if x > dead else "left" if x < -dead else ""
        along = "down" if y > dead else "up" if y < -dead else ""
        return [word for word in (across, along) if word] or ["static"]

    top, bottom, left, right = (directions(*shift) for shift in seen[-1] - seen[0])
    labels = {TOP_BOTTOM.get(pair) for pair in product(top, bottom)} | {LEFT_RIGHT.get(pair) for pair in product(left, right)}
    named = {label for label in labels if label}
    return tuple(sorted(named - {"static"} or named or {"None"}))


@takes(frames=CLIP)
def warping_error(frames: Any) -> float:
    """EvalCrafter-style warping error, lower is better: the later frame, brought back along the flow, minus the earlier one.

    >>> warping_error(np.zeros((4, 64, 64, 3)))          # a frozen clip is perfect
    0.0

    At half size: the squared difference summed over the colours, averaged over pixels that are not `occluded`, then over
    pairs; a pair in which nothing stays visible counts as 0, as in the published code.
    """
    h, w = frames.shape[1] // 2, frames.shape[2] // 2
    half = frames[:, : 2 * h, : 2 * w].reshape(len(frames), h, 2, w, 2, 3).mean((2, 4))
    both = both_ways(half, longest_baseline=1)
    errors = []
    for (one, two), there, back in zip(pairwise(half), both.forward, both.backward, strict=True):
        changes = np.square(brought_back(two, there) - one).sum(-1)[~occluded(there, back)]
        errors.append(float(changes.mean()) if len(changes) else 0.0)
    return float(np.mean(errors))


@takes(there=partial(field, axes="h w 2"), back=partial(field, axes="h w 2"))
def occluded(there: np.ndarray, back: np.ndarray) -> np.ndarray:
    """Where the warping error does not look: bool "h w".

    >>> bool(occluded(np.full((64, 64, 2), 3, np.float32), np.zeros((64, 64, 2), np.float32)).all())
    True

    F the way there, B the way back at the places where F leads: |F + B|^2 > 0.01 (|F|^2 + |B|^2) + 0.5, or, at motion
    boundaries, |grad F|^2 > 0.01 |F|^2 + 0.002 by differences to the next pixel. In px, whatever the size.
    """
    returned = brought_back(back, there)
    own, other = np.square(there).sum(-1), np.square(returned).sum(-1)
    steep = np.zeros_like(own)
    steep[:, :-1] += np.square(np.diff(there, axis=1)).sum(-1)
    steep[:-1] += np.square(np.diff(there, axis=0)).sum(-1)
    return (np.square(there + returned).sum(-1) > 0.01 * (own + other) + 0.5) | (steep > 0.01 * own + 0.002)


def _fastest(forward: np.ndarray, share: float) -> np.ndarray:
    """Mean of the fastest share of the speeds, pair by pair."""
    speeds = np.linalg.norm(forward, axis=-1).reshape(len(forward), -1)
    return np.sort(speeds)[:, -max(1, int(speeds.shape[1] * share)) :].mean(1)
