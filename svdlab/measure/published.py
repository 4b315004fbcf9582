"""Published video measures by their published formulas, each called "-style": ours is any optical flow, theirs was RAFT.

    >>> temporal_flicker(frames)                         # VBench-style: 1 is a frozen clip
    >>> dynamic_degree(frames, fps=8)["moving"]          # VBench-style

They are here so that numbers can be set beside the literature, and so that one can see what they miss: a mere camera
orbit scores full "dynamics", a frozen clip scores perfect "consistency", and file or player settings change the
score. `svdlab.motion.summary` answers what moves; use these for comparison only, and not against leaderboards.

Papers: VBench (Huang et al. 2024), EvalCrafter (Liu et al. 2024), AIGCBench (Fan et al. 2024), DEVIL (Liao et al. 2024).
Every function takes "f h w c" in [0, 1] (see `svdlab.measure.frames.as_frames`) or the flow "t h w 2" of `svdlab.motion.flow`,
which must then be of every pair on its own (`longest_baseline=1`), and raises InputError for input it cannot use.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
from skimage.metrics import structural_similarity

from svdlab.errors import InputError
from svdlab.measure.fidelity import slope, unit
from svdlab.measure.flow import Backend, BothWays, both_ways, flow, points, sample
from svdlab.measure.frames import as_frames, as_picture

HIDDEN_RELATIVE, HIDDEN_ABSOLUTE = 0.01, 0.5  # EvalCrafter's occlusion test: |F_w + B|^2
EDGE_RELATIVE, EDGE_ABSOLUTE = 0.01, 0.002  # and its motion boundaries: |grad B|^2


def temporal_flicker(frames: Any) -> float:
    """VBench-style temporal flickering: (255 - mean absolute difference of neighbours) / 255 on 8-bit frames.

    >>> temporal_flicker(frozen)
    1.0

    0 to 1, higher is steadier. Any motion lowers it: VBench applies it to clips without motion only.
    """
    clip = np.rint(as_frames(frames) * 255)
    return float((255 - np.mean([np.abs(b - a).mean() for a, b in pairwise(clip)])) / 255)


def dynamic_degree(frames: Any, *, fps: float, backend: Backend | None = None) -> dict[str, Any]:
    """VBench-style dynamic degree: does enough of the clip move fast enough?

    >>> dynamic_degree(frames, fps=8)
    {'moving': True, 'fast_pairs': 14, 'needed_pairs': 4, 'threshold_px': 13.5}

    Per pair the mean of the fastest 5 % of flow speeds; fast when above 6 min(h, w) / 256 px; moving when the number
    of fast pairs reaches round(4 T / 16), T the frames that are left after taking every max(1, round(fps / 8))-th.
    So the fps a file claims changes the score, and a panning camera over a still life counts as fully dynamic.

    Raises:
        InputError: fps not above 0, or fewer than 2 frames left after thinning.
    """
    if not (math.isfinite(fps) and fps > 0):
        raise InputError(f"got fps={fps}: frames per second are above 0.")
    clip = as_frames(frames)[:: max(1, round(fps / 8))]
    return _moving(clip, backend, share=0.05, factor=6.0, pairs_of_16=4)


def static_filter(frames: Any, *, backend: Backend | None = None) -> dict[str, Any]:
    """VBench-style static filter: the fastest 2 %, threshold 3 min(h, w) / 256 px, round(2 T / 16) pairs.

    >>> static_filter(frames)["moving"]                  # False: VBench would use it for temporal flicker
    """
    return _moving(as_frames(frames), backend, share=0.02, factor=3.0, pairs_of_16=2)


def camera_motion(frames: Any, *, backend: Backend | None = None) -> str:
    """VBench-I2V-style camera class from where the middles of the four borders end up, first frame to last.

    >>> camera_motion(frames)                            # 'pan_right', 'zoom_in', 'static', ...

    Dead zone 0.005 min(h, w) px over the whole clip. Left and right edge both move left: pan_right. Left edge left
    and right edge right: zoom_in. What fits no class, or a point that leaves the picture, gives 'mixed'. VBench
    tracks with CoTracker; here flow is chained. `svdlab.motion.camera_class` uses the whole picture instead.
    """
    clip = as_frames(frames)
    h, w = clip.shape[1:3]
    margin = max(2, min(h, w) // 16)  # flow needs a neighbourhood, and a point on the very border leaves at once
    starts = [(w // 2, margin), (w // 2, h - 1 - margin), (margin, h // 2), (w - 1 - margin, h // 2)]
    path = points(flow(clip, backend=backend, longest_baseline=1), starts)
    seen = path[np.isfinite(path).all((1, 2))]  # up to where the first of them leaves
    return border_class(seen[-1] - seen[0], 0.005 * min(h, w))


def border_class(shift: np.ndarray, dead: float) -> str:
    """The class for shifts "4 2" (x, y in px) of the top, bottom, left and right border's middle.

    >>> border_class(np.array([[-9, 0]] * 4), dead=2.0)
    'pan_right'
    """
    sign = np.where(np.abs(shift) <= dead, 0, np.sign(shift)).astype(int)
    top, bottom = (int(v) for v in sign[:2, 1])
    left, right = (int(v) for v in sign[2:, 0])
    pan = {(-1, -1): "pan_right", (1, 1): "pan_left"}.get((left, right))
    tilt = {(1, 1): "tilt_up", (-1, -1): "tilt_down"}.get((top, bottom))
    zoom = {(-1, 1, -1, 1): "zoom_in", (1, -1, 1, -1): "zoom_out"}.get((left, right, top, bottom))
    found = [name for name in (pan, tilt, zoom) if name]
    if not sign.any():
        return "static"
    return found[0] if len(found) == 1 else "mixed"


def flow_score(frames: Any, *, backend: Backend | None = None) -> float:
    """EvalCrafter-style flow score, DEVIL's too: mean speed of the flow, px per frame of the given size.

    >>> flow_score(frames)                               # twice the size, twice the score
    """
    return float(np.linalg.norm(flow(frames, backend=backend, longest_baseline=1), axis=-1).mean())


def warping_error(frames: Any, both: BothWays | None = None, *, backend: Backend | None = None) -> float:
    """EvalCrafter-style warping error: mean over pairs of the mean squared error of the later frame brought back.

    >>> warping_error(frozen)
    0.0

    In squared units of [0, 1], lower is better; pixels hidden in the later frame are left out (`occluded`). A frozen
    clip is perfect. Pairs in which nothing stays visible are left out; NaN if that is all of them.
    """
    clip = as_frames(frames)
    both = both or both_ways(clip, backend=backend, longest_baseline=1)
    h, w = clip.shape[1:3]
    y, x = np.mgrid[:h, :w].astype(np.float32)
    errors = []
    for t in range(len(clip) - 1):
        there, back = both.forward[t], both.backward[t]
        seen = ~occluded(there, back)
        brought = sample(clip[t + 1], x + there[..., 0], y + there[..., 1])
        if seen.any():
            errors.append(float(np.square(brought - clip[t]).sum(-1)[seen].mean() / clip.shape[-1]))
    return float(np.mean(errors)) if errors else math.nan


def occluded(there: np.ndarray, back: np.ndarray) -> np.ndarray:
    """Where EvalCrafter-style warping error does not look: bool "h w".

    |F + B_w|^2 > 0.01 (|F|^2 + |B_w|^2) + 0.5, B_w the way back seen from the earlier frame, or, at motion
    boundaries, |grad F|^2 > 0.01 |F|^2 + 0.002. In px whatever the size; taken at the earlier frame's pixels, where
    the pictures are compared, with central differences for the gradient.
    """
    h, w = there.shape[:2]
    y, x = np.mgrid[:h, :w].astype(np.float32)
    returned = sample(back, x + there[..., 0], y + there[..., 1])
    own, other = np.square(there).sum(-1), np.square(returned).sum(-1)
    gone = np.square(there + returned).sum(-1) > HIDDEN_RELATIVE * (own + other) + HIDDEN_ABSOLUTE
    steep = sum(np.square(g).sum(-1) for g in np.gradient(there, axis=(0, 1)))
    return gone | (steep > EDGE_RELATIVE * own + EDGE_ABSOLUTE)


def first_frame_error(frames: Any, picture: Any) -> dict[str, float]:
    """AIGCBench-style: mean squared error and SSIM (window 7) between the input picture and the first frame.

    >>> first_frame_error(frames, picture)
    {'mse': 0.0004, 'ssim': 0.97}

    On [0, 1]; SSIM over the colour channels.
    """
    first, one = as_frames(frames, least=1)[0], as_picture(picture)
    if one.shape != first.shape:
        raise InputError(f"got a picture of {one.shape[:2]} and frames of {first.shape[:2]} (h, w): bring them to one size.")
    ssim = structural_similarity(one, first, win_size=7, channel_axis=-1, data_range=1.0)
    return {"mse": float(np.square(one - first).mean()), "ssim": float(ssim)}


def autocorrelation(embeddings: Any, *, lag: int = 1) -> float:
    """DEVIL-style temporal autocorrelation: |1 - mean over t of <f_t, f_t+lag>| on embeddings "f d" of length 1.

    >>> autocorrelation(np.ones((5, 3)))                 # a frozen clip: nothing changes
    0.0
    """
    vectors = _unit(embeddings)
    if not 1 <= lag < len(vectors):
        raise InputError(f"got lag={lag} for {len(vectors)} frames: it is between 1 and {len(vectors) - 1}.")
    return float(abs(1 - (vectors[:-lag] * vectors[lag:]).sum(1).mean()))


def consistency(embeddings: Any) -> dict[str, float]:
    """VBench-style subject or background consistency of image embeddings "f d".

    >>> consistency(np.ones((5, 3)))["consistency"]
    1.0

    `consistency`: mean over t >= 1 of (max(0, cos(f_t, f_t-1)) + max(0, cos(f_t, f_0))) / 2. As a mean it hides when
    things go wrong, so `min` and `last` of the similarity to frame 0 are given too, and `slope`, its rise per frame.
    VBench's subjects are judged with DINO and its backgrounds with CLIP; with the encoder that conditioned the clip
    the judge is not independent. A frozen clip scores 1.
    """
    vectors = _unit(embeddings)
    before = np.clip((vectors[1:] * vectors[:-1]).sum(1), 0, None)
    first = vectors[1:] @ vectors[0]
    return {
        "consistency": float(((before + np.clip(first, 0, None)) / 2).mean()),
        "min": float(first.min()),
        "last": float(first[-1]),
        "slope": slope(first),
    }


def i2v_score(picture_embedding: Any, embeddings: Any) -> dict[str, float]:
    """VBench-I2V-style image-to-video score from the input's embedding "d" and the frames' "f d".

    >>> i2v_score(np.ones(3), np.ones((5, 3)))["score"]
    1.0

    `score`: 0.4 max_t cos(I, f_t) + 0.3 mean_t cos(f_t, f_t+1) + 0.3 min_t cos(f_t, f_t+1). The maximum is met by
    frame 0, so drift hardly shows in it: `min`, `last` and `slope` (per frame) of cos(I, f_t) are given too. With the
    pipeline's own image encoder the judge is the conditioner; not comparable to published scores.
    """
    vectors = _unit(embeddings)
    towards = vectors @ _unit(np.atleast_2d(picture_embedding), least=1)[0]
    steps = (vectors[1:] * vectors[:-1]).sum(1)
    return {
        "score": float(0.4 * towards.max() + 0.3 * steps.mean() + 0.3 * steps.min()),
        "min": float(towards.min()),
        "last": float(towards[-1]),
        "slope": slope(towards),
    }


def _moving(clip: np.ndarray, backend: Backend | None, *, share: float, factor: float, pairs_of_16: int) -> dict[str, Any]:
    speed = np.linalg.norm(flow(clip, backend=backend, longest_baseline=1), axis=-1)
    threshold = factor * min(clip.shape[1:3]) / 256
    fast = int(sum(_fastest(s, share) > threshold for s in speed))
    needed = round(pairs_of_16 * len(clip) / 16)
    return {"moving": fast >= needed, "fast_pairs": fast, "needed_pairs": needed, "threshold_px": threshold}


def _fastest(speed: np.ndarray, share: float) -> float:
    """Mean of the fastest share of one pair's speeds."""
    ordered = np.sort(speed, axis=None)
    return float(ordered[-max(1, int(len(ordered) * share)) :].mean())


def _unit(embeddings: Any, *, least: int = 2) -> np.ndarray:
    count = len(np.asarray(embeddings))
    if count < least:
        raise InputError(f"got {count} embedding(s): {least} or more are needed, a row per frame.")
    return unit(embeddings, count)
