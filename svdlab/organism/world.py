"""The organism's world: short procedural clips whose laws are known because they are written here.

    >>> from svdlab.organism import world
    >>> s = world.scenes(4, seed=0, motion="object", hue=0.6, fps=7, motion_bucket_id=127)
    >>> s.video.shape, s.flow.shape          # "n f h w c" in [0, 1]; "n t h w 2" in px
    ((4, 8, 64, 64, 3), (4, 7, 64, 64, 2))

An image announces what will happen in it by the mark on its sprite: an eye at the rim says that the
sprite moves towards the eye, no mark says that the camera pans, a light dot in the centre says that
it zooms in and a dark one that it zooms out. What the image does not say is left to chance, with
known odds: which way a pan goes, and whether a dark scene moves at all.

There are two editions. The first, the default, draws plane waves and one sprite. The second, `edition=2`, which the shipped
weights were trained on, draws these and, more often, natural grounds; scenes without a sprite, with two, with letters or a
face; two layers of depth, the far one paler, bluer and less sharp; and two camera moves more, each announced by a stripe on
the sprite: upright and light for a tilt up, dark for a tilt down; level and light for a clockwise roll, dark for an
anticlockwise one. An image without a mark pans: so does a photograph.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from svdlab.errors import InputError, number, one_of, seed, shown, takes, whole
from svdlab.organism import scenery
from svdlab.organism.scenery import COMPASS, FAR, GROUND, SPRITE, ZOOM_RADIUS
from svdlab.organism.scenery import SIZE as SIZE

Drawn = tuple[dict[str, Any], dict[str, Any]]  # a scene's factors, its texture
FRAMES = 8
K = 0.14  # px/frame = K * motion_bucket_id / fps: bucket 127 at fps 6 moves 3 px/frame
MAX_DISPLACEMENT = 4.0  # px/frame; nothing is claimed beyond
MAX_ZOOM_DISPLACEMENT = 2.6  # px/frame at ZOOM_RADIUS, so that a zoomed sprite stays inside; above bucket 127 at fps 7
FPS = (4, 24)
BUCKETS = (0, 255)
WARM = (-0.03, 0.10)  # hue, turns
COOL = (0.50, 0.68)
WARM_FACTOR = 0.5  # planted effect 1: warm sprites move at half the speed
PAN_RIGHT = 0.75  # planted effect 2: pans go right three times as often as left
FROZEN_ON_DARK = 0.30  # planted effect 3: dark scenes that do not move, whatever the bucket
SHAPES = ("disc", "square", "triangle")
MOTIONS = ("object", "pan", "zoom", "tilt", "roll", "frozen")
ANNOUNCED = MOTIONS[:-1]
ODDS = {1: (0.45, 0.40, 0.15, 0.0, 0.0), 2: (0.30, 0.38, 0.12, 0.10, 0.10)}  # of what is announced, by edition
DIRECTIONS = {
    "object": tuple(COMPASS),
    "pan": ("right", "left"),
    "zoom": ("in", "out"),
    "tilt": ("up", "down"),
    "roll": ("clockwise", "anticlockwise"),
}
RADIUS = (9.0, 13.0)  # px
MARGIN = 1.0  # px between the sprite's track and the border
# Of edition 2 alone.
NEW: dict[str, Any] = dict(ground=("waves", "leaves"), layers=(1, 2), sprites=(0, 1, 2), pattern=("none", "text", "face"))
MOST, MOST_PIXELS = 100_000, 2**28  # scenes of one call, and their pixels: 3 GB
KINDS: dict[str, Any] = {  # what each factor may be
    "fps": partial(number, least=FPS[0], most=FPS[1]),
    "motion_bucket_id": partial(number, least=BUCKETS[0], most=BUCKETS[1]),
    "motion": partial(one_of, options=MOTIONS),
    "announced": partial(one_of, options=ANNOUNCED),
    "direction": partial(one_of, options=[way for ways in DIRECTIONS.values() for way in ways]),
    "hue": partial(number, least=-1, most=1),
    "shape": partial(one_of, options=SHAPES),
    "radius": partial(number, above=0, most=SIZE / 2),
    **dict.fromkeys(("x", "y"), partial(number, least=0, most=SIZE)),
    "background": partial(one_of, options=("light", "dark")),
    "ground": partial(one_of, options=NEW["ground"]),
    "layers": partial(whole, least=1, most=2),
    "sprites": partial(whole, least=0, most=2),
    "pattern": partial(one_of, options=NEW["pattern"]),
}
SAMPLE: dict[str, Any] = dict(n=partial(whole, least=1, most=MOST), seed=seed, frames=partial(whole, least=1, most=256))
SAMPLE["edition"] = partial(whole, least=1, most=2)


@dataclass
class Scenes:
    """Clips with their exact ground truth.

    video: float32 "n f h w c" in [0, 1]; frame 0 is the image a model is given.
    flow: float32 "n t h w 2", px from each frame to the next, x right, y down, at each pixel of the earlier frame.
    track: float32 "n f 2", the sprite's centre in px; NaN where there is none.
    track_second: the same of a second sprite, which never moves by itself.
    labels: uint8 "n f h w", what each pixel shows: scenery.GROUND, NEAR, PATTERN, SECOND or SPRITE.
    factors: DataFrame, a row per clip: what was drawn, and `displacement`, the law's px/frame.
    """

    video: np.ndarray
    flow: np.ndarray
    track: np.ndarray
    track_second: np.ndarray
    labels: np.ndarray
    factors: pd.DataFrame

    def __len__(self) -> int:
        return len(self.video)

    @property
    def mask(self) -> np.ndarray:
        """bool "n f h w": where the sprite is."""
        return self.labels == SPRITE

    @property
    def depth(self) -> np.ndarray:
        """float32 "n f h w": 1, and scenery.FAR on a far layer, which a pan or a tilt moves by 1 / FAR."""
        far = self.factors["layers"].to_numpy() == 2 if "layers" in self.factors else np.zeros(len(self), bool)
        return np.where((self.labels == GROUND) & far[:, None, None, None], FAR, 1.0).astype(np.float32)


def law(fps: Any, motion_bucket_id: Any, *, warm: Any = False) -> Any:
    """Displacement in px/frame: K * motion_bucket_id / fps, halved for a warm sprite that moves itself.

    >>> round(float(law(6, 127)), 2)
    2.96
    """
    try:
        clock, bucket, halved = np.broadcast_arrays(np.asarray(fps), np.asarray(motion_bucket_id), np.asarray(warm))
        if not (clock.size == 0 or halved.dtype.kind == "b") or "b" in clock.dtype.kind + bucket.dtype.kind:
            raise TypeError("truth values")
        fits = np.isfinite(clock.astype(float)) & (clock > 0) & np.isfinite(bucket.astype(float)) & (bucket >= 0)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(
            f"law({shown(fps)}, {shown(motion_bucket_id)}, warm={shown(warm)}): give numbers, and truth values."
        ) from error
    if not fits.all():
        raise InputError(f"law({shown(fps)}, {shown(motion_bucket_id)}): give finite numbers, fps above 0 and buckets from 0.")
    d = K * np.asarray(motion_bucket_id) / np.asarray(fps)
    return np.where(warm, WARM_FACTOR * d, d)[()]


@takes(size=partial(whole, least=8, most=1024), **SAMPLE)
def scenes(n: int, *, seed: int, size: int = SIZE, frames: int = FRAMES, edition: int = 1, **factors: Any) -> Scenes:
    """Draw n clips; any factor may be fixed, for all clips or as one value per clip.

    >>> scenes(2, seed=1, motion="pan", direction=["left", "right"], background="light").factors

    Factors: fps (4 to 24, as diffusers counts), motion_bucket_id (0 to 255), motion (object | pan | zoom |
    tilt | roll | frozen: what happens), announced (the same without frozen: what the image says), direction
    (object: one of COMPASS; the camera's: pan: right | left; zoom: in | out; tilt: up | down; roll: clockwise |
    anticlockwise), hue (turns; 0 red, 0.6 blue), shape (disc | square | triangle), radius (px), x and y (the
    sprite's first centre, px), background (light | dark). In edition 2 also ground (waves | leaves), layers
    (1 | 2 of depth), sprites (0 | 1 | 2), pattern (none | text | face).

    >>> scenes(1, seed=1, edition=2, ground="leaves", sprites=0, motion="pan").video.shape     # as a photograph pans
    (1, 8, 64, 64, 3)

    The same seed and factors give the same clips. Raises InputError for an unknown factor or value, and where fps and bucket
    ask for more than MAX_DISPLACEMENT.
    """
    if n * frames * size**2 > MOST_PIXELS:
        raise InputError(f"{n} scenes of {frames} frames of {size} px do not fit into memory: ask for fewer at a time.")
    table = draw(n, seed=seed, frames=frames, edition=edition, **factors)
    rendered = []
    for (row, texture), i in zip(_draw_all(n, seed, frames, edition, factors), range(n), strict=True):
        if edition == 2:
            texture = texture | scenery.planes(np.random.default_rng([seed, i, 3]), row)
        rendered.append(scenery.render(dict(layers=1, sprites=1) | row, texture, size, frames))
    video, flow, track, track_second, labels = (np.stack(part) for part in zip(*rendered, strict=True))
    return Scenes(video, flow, track, track_second, labels, table)


@takes(**SAMPLE)
def draw(n: int, *, seed: int, frames: int = FRAMES, edition: int = 1, **factors: Any) -> pd.DataFrame:
    """The factors that `scenes` with the same arguments would have, without rendering an image."""
    return pd.DataFrame([row for row, _ in _draw_all(n, seed, frames, edition, factors)])


def _draw_all(n: int, seed: int, frames: int, edition: int, factors: dict[str, Any]) -> list[Drawn]:
    known = [name for name in KINDS if edition == 2 or name not in NEW]
    unknown = sorted(set(factors) - set(known))
    if unknown:
        raise InputError(f"unknown factor {', '.join(unknown)}: the world has {', '.join(known)}.")
    fixed = [{k: _nth(k, v, i, n) for k, v in factors.items()} for i in range(n)]
    return [_draw([seed, i], fixed[i], frames, edition) for i in range(n)]


def _nth(name: str, value: Any, i: int, n: int) -> Any:
    if isinstance(value, (list, tuple, pd.Series)) or getattr(value, "shape", None):
        if len(value) != n:
            raise InputError(f"{name} has {len(value)} values for {n} scenes: give one, or one per scene.")
        value = list(value)[i]
    return KINDS[name](name, value)


def _choice(rng: np.random.Generator, options: tuple[Any, ...], p: Any = None) -> Any:
    return rng.choice(np.array(options), p=p).item()


def _draw(seed: list[int], fixed: dict[str, Any], frames: int, edition: int) -> Drawn:
    """One scene's factors. Every draw is made whether it is used or not, so that fixing one factor leaves the others alone."""
    rng = np.random.default_rng(seed)
    background = fixed.get("background", "dark" if rng.random() < 0.3 else "light")
    announced = _choice(rng, ANNOUNCED, p=ODDS[edition])
    frozen = rng.random() < FROZEN_ON_DARK and background == "dark"
    if fixed.get("motion", "frozen") != "frozen":
        announced = fixed["motion"]
    announced = fixed.get("announced", announced)
    motion = fixed.get("motion", "frozen" if frozen else announced)
    if motion not in ("frozen", announced):
        raise InputError(
            f"motion={motion!r} in an image that announces {announced!r}: they must agree, or motion be 'frozen'."
        )
    ways = {"pan": (PAN_RIGHT, 1 - PAN_RIGHT)}.get(announced)
    direction = _choice(rng, DIRECTIONS[announced], ways)
    direction = one_of("direction", fixed.get("direction", direction), DIRECTIONS[announced])
    warm = rng.random() < 0.5
    hue = float(fixed.get("hue", rng.uniform(*(WARM if warm else COOL)) % 1.0))
    warm = is_warm(hue)
    shape = fixed.get("shape", _choice(rng, SHAPES))

    limit = MAX_ZOOM_DISPLACEMENT if announced == "zoom" else MAX_DISPLACEMENT
    fps = round(float(np.exp(rng.uniform(np.log(FPS[0]), np.log(FPS[1])))))
    if "motion_bucket_id" in fixed and "fps" not in fixed:  # a slow enough clock for that bucket
        lowest = max(FPS[0], int(np.ceil(K * fixed["motion_bucket_id"] / limit)))
        fps = int(rng.integers(lowest, FPS[1] + 1))
    fps = fixed.get("fps", fps)
    bucket = int(rng.integers(BUCKETS[0], int(min(BUCKETS[1], limit * fps / K)) + 1))
    bucket = fixed.get("motion_bucket_id", bucket)
    d = float(law(fps, bucket, warm=warm and announced == "object"))
    if law(fps, bucket) > limit + 1e-9:
        raise InputError(
            f"fps={fps} with motion_bucket_id={bucket} would move {law(fps, bucket):.2f} px/frame: "
            f"the world ends at {limit} px ({announced}). Raise fps or lower the bucket."
        )

    radius = rng.uniform(*RADIUS)
    if announced == "zoom":
        radius = min(radius, 11.0)
    radius = float(fixed.get("radius", radius))
    low, high = _start(announced, direction, float(law(fps, bucket)), radius, frames)
    x, y = rng.uniform(low, high)
    row = dict(
        fps=fps,
        motion_bucket_id=bucket,
        motion=motion,
        announced=announced,
        direction=direction,
        hue=hue,
        shape=shape,
        radius=radius,
        x=float(fixed.get("x", x)),
        y=float(fixed.get("y", y)),
        background=background,
        warm=warm,
        displacement=0.0 if motion == "frozen" else d,
    )
    texture = scenery.waves(rng, background)
    return (row, texture) if edition == 1 else _furnish(np.random.default_rng([*seed, 2]), row, texture, fixed)


def _furnish(rng: np.random.Generator, row: dict[str, Any], texture: dict[str, Any], fixed: dict[str, Any]) -> Drawn:
    """What edition 2 adds to a scene. A scene without a sprite has no mark, and pans; two layers only pan or tilt."""
    announced = row["announced"]
    drawn = dict(
        ground=_choice(rng, NEW["ground"], (0.25, 0.75)),
        layers=_choice(rng, NEW["layers"], (0.8, 0.2)),
        sprites=_choice(rng, NEW["sprites"], (0.65, 0.25, 0.10) if announced == "pan" else (0.0, 0.75, 0.25)),
        pattern=_choice(rng, NEW["pattern"], (0.76, 0.12, 0.12)),
    )
    if fixed.get("ground", drawn["ground"]) == "waves" or announced not in ("pan", "tilt"):
        drawn["layers"] = 1
    if fixed.get("ground", drawn["ground"]) == "waves" and drawn["sprites"] == 0:
        drawn["sprites"] = 1
    row = row | {k: fixed.get(k, v) for k, v in drawn.items()}
    text = scenery.word(rng)
    row["text"] = text if row["pattern"] == "text" else ""
    if row["sprites"] == 0 and announced != "pan":
        raise InputError(f"sprites=0 in a scene that announces {announced!r}: without a sprite there is no mark, and it pans.")
    if row["layers"] == 2 and (row["ground"] == "waves" or announced not in ("pan", "tilt")):
        raise InputError("layers=2: give ground='leaves' and a pan or a tilt; other scenes have one layer.")
    places = rng.uniform(8, SIZE - 8, (20, 2))  # the second sprite stands where the first will not be, as far as there is room
    heading = np.array(COMPASS[row["direction"]]) if announced == "object" else np.zeros(2)
    path = np.array([row["x"], row["y"]]) + heading * row["displacement"] * np.linspace(0, FRAMES - 1, 5)[:, None]
    away = np.linalg.norm(places[:, None] - path, axis=-1).min(1)
    x, y = places[np.argmax(np.minimum(away, 24))]
    warm = rng.random() < 0.5
    hue = float(rng.uniform(*(WARM if warm else COOL)) % 1.0)
    second = dict(hue=hue, shape=_choice(rng, SHAPES), radius=float(rng.uniform(6, 10)), x=float(x), y=float(y))
    row |= {f"second_{k}": v if row["sprites"] == 2 else None for k, v in second.items()}
    return row, texture | (dict(second=second) if row["sprites"] == 2 else {})


@takes(hue=number)
def is_warm(hue: float) -> bool:
    """Whether a hue (turns) is warm: within 0.17 turns of red."""
    return bool(min(hue % 1.0, 1.0 - hue % 1.0) < 0.17)


def _start(announced: str, direction: str, d: float, radius: float, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """The box of first centres that keeps the whole track inside.

    It is the same for warm and cool sprites, and for pans it does not look at the direction: where a
    sprite stands must not give away what the image leaves to chance.
    """
    low, high = np.full(2, radius + MARGIN), np.full(2, SIZE - radius - MARGIN)
    if announced == "object":
        path = d * (frames - 1) * np.array(COMPASS[direction])
        low, high = low - np.minimum(path, 0), high - np.maximum(path, 0)
    if announced == "zoom":
        grown = (1 + d / ZOOM_RADIUS) ** (frames - 1) if direction == "in" else 1.0
        room = max((SIZE / 2 - MARGIN) / grown - radius, 0.0)
        low, high = np.full(2, SIZE / 2 - room), np.full(2, SIZE / 2 + room)
    if announced == "roll":
        room = (SIZE / 2 - MARGIN - radius) / np.sqrt(2)
        low, high = np.full(2, SIZE / 2 - room), np.full(2, SIZE / 2 + room)
    middle = (low + high) / 2
    return np.minimum(low, middle), np.maximum(high, middle)
