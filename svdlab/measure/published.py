"""Published video measures by their published code, each called "-style": here any optical flow, there it was RAFT.

    >>> summary(clip.frames, clip.image, playback_fps=7)["evalcrafter_flow_px"]
    >>> dynamic_degree(clip.frames, fps=8)["moving"]

They are here so that numbers can be set beside the literature, and so that one can see what they miss: a mere camera orbit
scores full "dynamics", a frozen clip scores perfect "consistency", and the fps that a file claims changes the score.
`svdlab.motion.summary` answers what moves; use these for comparison only, and not against leaderboards.

Papers: VBench (Huang et al. 2024), EvalCrafter (Liu et al. 2024), AIGCBench (Fan et al. 2024), DEVIL (Liao et al. 2024).
Frames are "f h w c" in [0, 1] (see `svdlab.measure.frames.as_frames`); flow is of each pair on its own. Embeddings "f d" come
from any image encoder: with the one that conditioned the clip, the judge is not independent. Raises InputError throughout.
"""

from __future__ import annotations

import math
from itertools import pairwise, product
from typing import Any

import numpy as np

from svdlab.errors import InputError
from svdlab.measure.fidelity import slope, ssim
from svdlab.measure.flow import Backend, BothWays, both_ways, flow, points, sample
from svdlab.measure.frames import as_frames, as_image

# Directions in which the middles of two opposite borders move, and what VBench-I2V's code calls that.
TURNS = {("left", "left"): "pan_right", ("right", "right"): "pan_left", ("down", "down"): "tilt_up", ("up", "up"): "tilt_down"}
TOP_BOTTOM = {**TURNS, ("up", "down"): "zoom_in", ("down", "up"): "zoom_out", ("static", "static"): "static"}
LEFT_RIGHT = {**TURNS, ("left", "right"): "zoom_in", ("right", "left"): "zoom_out", ("static", "static"): "static"}


def summary(frames: Any, image: Any = None, *, playback_fps: float, backend: Backend | None = None) -> dict[str, Any]:
    """All that needs no embeddings, as one flat dict; what needs the input image only where one is given.

    >>> summary(clip.frames, playback_fps=7)["vbench_flicker"]

    Keys: `vbench_flicker`, `vbench_dynamic`, `vbench_static` (bools), `vbench_camera` (labels joined by "+"),
    `evalcrafter_flow_px`, `evalcrafter_warp`, and with an image `aigcbench_mse`, `aigcbench_ssim`.
    """
    clip = as_frames(frames)
    found = {
        "vbench_flicker": temporal_flicker(clip),
        "vbench_dynamic": dynamic_degree(clip, fps=playback_fps, backend=backend)["moving"],
        "vbench_static": static_filter(clip, backend=backend)["static"],
        "vbench_camera": "+".join(camera_motion(clip, backend=backend)),
        "evalcrafter_flow_px": flow_score(clip, backend=backend),
        "evalcrafter_warp": warping_error(clip, backend=backend),
    }
    return found if image is None else found | {f"aigcbench_{k}": v for k, v in first_frame_error(clip, image).items()}


# --- of frames --------------------------------------------------------------------------------------------------------


def temporal_flicker(frames: Any) -> float:
    """VBench-style temporal flickering: (255 - mean absolute difference of neighbours) / 255 on 8-bit frames.

    >>> temporal_flicker(np.zeros((4, 64, 64, 3)))       # a frozen clip
    1.0

    0 to 1, higher is steadier. Any motion lowers it: VBench applies it to clips that pass `static_filter` only.
    """
    clip = np.rint(as_frames(frames) * 255)
    return float((255 - np.mean([np.abs(b - a).mean() for a, b in pairwise(clip)])) / 255)


def dynamic_degree(frames: Any, *, fps: float, backend: Backend | None = None) -> dict[str, Any]:
    """VBench-style dynamic degree: does enough of the clip move fast enough?

    >>> dynamic_degree(np.zeros((16, 256, 256, 3)), fps=8)
    {'moving': False, 'fast_pairs': 0, 'needed_pairs': 4, 'threshold_px': 6.0}

    A pair is fast when the mean of the fastest 5 % of its speeds is above 6 min(h, w) / 256 px; the clip is `moving` when the
    number of fast pairs reaches round(4 T / 16), T the frames left after taking every max(1, round(fps / 8))-th. So the fps a
    file claims changes the score, and a camera that pans over a still life counts as fully dynamic.
    """
    if not 0 < fps < math.inf:
        raise InputError(f"got fps={fps}: frames per second are above 0.")
    clip = as_frames(frames)[:: max(1, round(fps / 8))]
    threshold, needed = 6 * min(clip.shape[1:3]) / 256, round(4 * len(clip) / 16)
    fast = sum(s > threshold for s in _fastest(clip, 0.05, backend))
    return {"moving": fast >= needed, "fast_pairs": fast, "needed_pairs": needed, "threshold_px": threshold}


def static_filter(frames: Any, *, backend: Backend | None = None) -> dict[str, Any]:
    """VBench-style static filter, which chooses the clips that are scored for flicker.

    >>> static_filter(np.zeros((16, 256, 256, 3)))["static"]
    True

    By the mean of the fastest 2 % of speeds, with a threshold of 3 min(h, w) / 256 px and N = round(2 T / 16): `static` unless
    more than N pairs exceed it, or the flow between the first and the last frame, either way, exceeds 2 N times the threshold.
    """
    clip = as_frames(frames)
    threshold, allowed = 3 * min(clip.shape[1:3]) / 256, round(2 * len(clip) / 16)
    fast = sum(s > threshold for s in _fastest(clip, 0.02, backend))
    ends = max(*_fastest(clip[[0, -1]], 0.02, backend), *_fastest(clip[[-1, 0]], 0.02, backend))
    static = fast <= allowed and ends <= 2 * allowed * threshold
    return {"static": static, "fast_pairs": fast, "allowed_pairs": allowed, "threshold_px": threshold, "ends_px": ends}


def camera_motion(frames: Any, *, backend: Backend | None = None) -> tuple[str, ...]:
    """VBench-I2V-style camera labels from where the middles of the four borders end up, first frame to last.

    >>> "pan_right" in camera_motion(clip.frames)        # VBench scores whether the label asked for is among them

    Dead zone 0.005 min(h, w) px over the whole clip. VBench tracks with CoTracker; here flow is chained, up to where the first
    of the points leaves the frame. `svdlab.motion.camera_class` uses the whole frame instead.
    """
    clip = as_frames(frames)
    h, w = clip.shape[1:3]
    margin = max(2, min(h, w) // 16)  # flow needs a neighbourhood, and a point on the very border leaves at once
    starts = [(w // 2, margin), (w // 2, h - 1 - margin), (margin, h // 2), (w - 1 - margin, h // 2)]
    path = points(flow(clip, backend=backend, longest_baseline=1), starts)
    seen = path[np.isfinite(path).all((1, 2))]
    return border_labels(seen[-1] - seen[0], 0.005 * min(h, w))


def border_labels(shift: np.ndarray, dead: float) -> tuple[str, ...]:
    """The labels for shifts "4 2" (x, y in px) of the top, bottom, left and right border's middle, sorted.

    >>> border_labels(np.array([[-9, 0]] * 4), dead=2.0)
    ('pan_right',)

    Either pair of opposite borders suffices for a label, and a slanted move gives two. "None" where nothing fits.
    """

    def directions(x: float, y: float) -> list[str]:
        across = "right" if x > dead else "left" if x < -dead else ""
        along = "down" if y > dead else "up" if y < -dead else ""
        return [word for word in (across, along) if word] or ["static"]

    top, bottom, left, right = (directions(*s) for s in shift)
    labels = {TOP_BOTTOM.get(pair) for pair in product(top, bottom)} | {LEFT_RIGHT.get(pair) for pair in product(left, right)}
    named = {label for label in labels if label}
    return tuple(sorted(named - {"static"} or named or {"None"}))


def flow_score(frames: Any, *, backend: Backend | None = None) -> float:
    """EvalCrafter-style flow score, DEVIL's too: mean speed of the flow, px per frame of the given size.

    >>> flow_score(np.zeros((4, 64, 64, 3)))             # twice the size, twice the score
    0.0
    """
    return float(np.linalg.norm(flow(frames, backend=backend, longest_baseline=1), axis=-1).mean())


def warping_error(frames: Any, both: BothWays | None = None, *, backend: Backend | None = None) -> float:
    """EvalCrafter-style warping error, lower is better: the later frame, brought back along the flow, minus the earlier one.

    >>> warping_error(np.zeros((4, 64, 64, 3)))          # a frozen clip is perfect
    0.0

    At half size: the squared difference summed over the colours, averaged over pixels that are not `occluded`, then over
    pairs; a pair in which nothing stays visible counts as 0, as in the published code. both: the flow at half size.
    """
    clip = as_frames(frames)
    h, w = clip.shape[1] // 2, clip.shape[2] // 2
    half = clip[:, : 2 * h, : 2 * w].reshape(len(clip), h, 2, w, 2, 3).mean((2, 4))
    both = both or both_ways(half, backend=backend, longest_baseline=1)
    y, x = np.mgrid[:h, :w].astype(np.float32)
    errors = []
    for t, (there, back) in enumerate(zip(both.forward, both.backward, strict=True)):
        seen = ~occluded(there, back)
        brought = sample(half[t + 1], x + there[..., 0], y + there[..., 1])
        errors.append(float(np.square(brought - half[t]).sum(-1)[seen].mean()) if seen.any() else 0.0)
    return float(np.mean(errors))


def occluded(there: np.ndarray, back: np.ndarray) -> np.ndarray:
    """Where the warping error does not look: bool "h w".

    >>> occluded(f, np.zeros_like(f))                    # all of it, where f moves by more than 0.7 px

    F the way there, B the way back at the places where F leads: |F + B|^2 > 0.01 (|F|^2 + |B|^2) + 0.5, or, at motion
    boundaries, |grad F|^2 > 0.01 |F|^2 + 0.002 by differences to the next pixel. In px, whatever the size.
    """
    y, x = np.mgrid[: there.shape[0], : there.shape[1]].astype(np.float32)
    returned = sample(back, x + there[..., 0], y + there[..., 1])
    own, other = np.square(there).sum(-1), np.square(returned).sum(-1)
    steep = np.zeros_like(own)
    steep[:, :-1] += np.square(np.diff(there, axis=1)).sum(-1)
    steep[:-1] += np.square(np.diff(there, axis=0)).sum(-1)
    return (np.square(there + returned).sum(-1) > 0.01 * (own + other) + 0.5) | (steep > 0.01 * own + 0.002)


def first_frame_error(frames: Any, image: Any) -> dict[str, float]:
    """AIGCBench-style: squared error on 0 to 255 and SSIM (window 7) between the input image and the first frame.

    >>> first_frame_error(np.full((2, 64, 64, 3), 0.1), np.zeros((64, 64, 3)))["mse"]         # 25.5 levels, squared
    650.25
    """
    first, one = as_frames(frames, least=1)[0], as_image(image)
    if one.shape != first.shape:
        raise InputError(f"got an image of {one.shape[:2]} and frames of {first.shape[:2]} (h, w): bring them to one size.")
    return {"mse": float(np.square((one - first) * 255.0).mean()), "ssim": ssim(one, first)}


def _fastest(clip: np.ndarray, share: float, backend: Backend | None) -> list[float]:
    """Mean of the fastest share of the speeds, pair by pair."""
    speeds = np.linalg.norm(flow(clip, backend=backend, longest_baseline=1), axis=-1).reshape(len(clip) - 1, -1)
    return np.sort(speeds)[:, -max(1, int(speeds.shape[1] * share)) :].mean(1).tolist()


# --- of embeddings ----------------------------------------------------------------------------------------------------


def autocorrelation(embeddings: Any) -> float:
    """DEVIL-style temporal autocorrelation of embeddings "f d": |1 - mean over t of cos(f_t, f_t+k)|, averaged over lags k.

    >>> autocorrelation(np.ones((16, 3)))                # a frozen clip: nothing changes
    0.0

    The lags run from T // 8 (at least 1) to T - 1.
    """
    vectors = _unit(embeddings)
    lags = range(max(1, len(vectors) // 8), len(vectors))
    return float(np.mean([abs(1 - (vectors[:-k] * vectors[k:]).sum(1).mean()) for k in lags]))


def consistency(embeddings: Any) -> dict[str, float]:
    """VBench-style subject or background consistency of embeddings "f d" (VBench's are DINO's and CLIP's).

    >>> consistency(np.ones((5, 3)))["consistency"]      # a frozen clip
    1.0

    `consistency`: mean over t >= 1 of (max(0, cos(f_t, f_t-1)) + max(0, cos(f_t, f_0))) / 2. As a mean it hides when things go
    wrong, so `min` and `last` of the similarity to frame 0 are given too, and `slope`, its rise per frame.
    """
    vectors = _unit(embeddings)
    first = vectors[1:] @ vectors[0]
    pairs = np.stack([(vectors[1:] * vectors[:-1]).sum(1), first])
    return {"consistency": float(pairs.clip(min=0).mean()), **_course(first)}


def i2v_score(image_embedding: Any, embeddings: Any) -> dict[str, float]:
    """VBench-I2V-style image-to-video score from the input's embedding "d" and the frames' "f d".

    >>> i2v_score(np.ones(4), np.ones((5, 4)))["score"]
    1.0

    `score`: 0.4 max_t max(0, cos(I, f_t)) + 0.3 mean_t cos(f_t, f_t+1) + 0.3 min_t cos(f_t, f_t+1). The maximum is met by
    frame 0, so drift hardly shows in it: `min`, `last` and `slope` (per frame) of cos(I, f_t) are given too.
    """
    vectors = _unit(embeddings)
    towards = vectors @ _unit(np.atleast_2d(image_embedding), least=1)[0]
    steps = (vectors[1:] * vectors[:-1]).sum(1)
    return {"score": float(0.4 * max(0.0, towards.max()) + 0.3 * steps.mean() + 0.3 * steps.min()), **_course(towards)}


def _course(similarity: np.ndarray) -> dict[str, float]:
    return {"min": float(similarity.min()), "last": float(similarity[-1]), "slope": slope(similarity)}


def _unit(embeddings: Any, *, least: int = 2) -> np.ndarray:
    vectors = np.asarray(embeddings, np.float64)
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    if vectors.ndim != 2 or len(vectors) < least or not np.isfinite(length).all() or (length == 0).any():
        raise InputError(
            f'got embeddings of shape {vectors.shape}: finite "f d" are needed, f {least} or more, no row all zeros.'
        )
    return vectors / length
