"""What a scene looks like: grounds, sprites and their marks, letters and faces, seen by a camera that moves.

    >>> image = dead_leaves(np.random.default_rng(0), 64)
    >>> image.shape, image.dtype                              # "h w c" in [0, 1]
    ((64, 64, 3), dtype('float32'))

`world` draws what is in a scene; this module draws the scene. Natural grounds are dead leaves (Lee, Mumford and Huang 2001):
opaque shapes that occlude each other, with radii distributed as r ** -3. Such images share the edges, the scale invariance and
the 1/f**2 power spectrum of photographs. Here the shapes are shaded and textured, some have soft edges, and colours have the
low chroma and the orange-blue axis of natural scenes. No photograph is used.
"""

from functools import partial
from typing import Any

import cv2
import numpy as np

from svdlab.errors import kind, number, takes, whole

SIZE = 64  # px, both sides
ZOOM_RADIUS = SIZE / 2  # px from the centre, where a zoom's and a roll's displacement is counted
PLANE, FINE = 128, 2  # px of ground that are drawn, more than any camera move shows; samples per px
FAR = 2.0  # depth of a far layer, the near one has 1: a far layer moves by 1/FAR of a camera's displacement
HAZE = 0.4  # share of the air's colour in a far layer's: it is paler and bluer (aerial perspective), so that depth can be seen
AIR = {"light": np.array([0.62, 0.72, 0.86], np.float32), "dark": np.array([0.10, 0.15, 0.25], np.float32)}
GROUND, NEAR, PATTERN, SECOND, SPRITE = range(5)  # labels of pixels
TRIANGLE_CENTRE = 0.37  # radii by which a triangle's incentre lies below the middle of its box
COMPASS = {  # where a sprite goes, x right and y down
    name: (np.cos(np.pi / 4 * i), np.sin(np.pi / 4 * i))
    for i, name in enumerate(("right", "down-right", "down", "down-left", "left", "up-left", "up", "up-right"))
}
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
SKIN = np.array([[0.36, 0.24, 0.17], [0.96, 0.80, 0.68]], np.float32)  # the darkest and the lightest
CHROMA = np.array([[0.95, 0.05, -1.0], [-0.5, 1.0, -0.5]], np.float32)  # orange minus blue, green minus magenta
SIDE = partial(whole, least=2, most=4096)  # px of a drawn image
SPREAD = np.array([0.14, 0.05], np.float32)  # standard deviation along each axis: natural scenes vary along the first

# --- natural images -------------------------------------------------------------------------------------------------


@takes(rng=kind(np.random.Generator), size=SIDE)
def pink_noise(rng: np.random.Generator, size: int) -> np.ndarray:
    """Noise "h w" whose amplitude falls with 1/f: zero mean, standard deviation 1, periodic.

    >>> abs(float(pink_noise(np.random.default_rng(0), 32).std()) - 1) < 1e-5
    True
    """
    f = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    f[0, 0] = np.inf
    spectrum = np.exp(2j * np.pi * rng.random(f.shape)) / f
    noise = np.fft.irfft2(spectrum, (size, size))
    return ((noise - noise.mean()) / noise.std()).astype(np.float32)


@takes(rng=kind(np.random.Generator), size=SIDE, coverage=partial(number, above=0, most=100))
def dead_leaves(rng: np.random.Generator, size: int, *, smallest: float = 1.5, coverage: float = 3.0) -> np.ndarray:
    """One image "h w c" in [0, 1], `size` px on each side.

    >>> dead_leaves(np.random.default_rng(1), 48, smallest=3.0).shape
    (48, 48, 3)

    smallest: radius of the smallest shapes, px; the largest have half the side. coverage: how often the shapes' area covers
    the image, so that little of the first colour is left to be seen.
    """
    largest = size / 2
    number("smallest", smallest, above=0.1, below=largest)
    mean_area = np.pi * 2 * np.log(largest / smallest) / (smallest**-2 - largest**-2)
    count = int(coverage * size**2 / mean_area) + 8
    # Inverse of the distribution function of p(r) ~ r ** -3 on [smallest, largest].
    radii = (smallest**-2 + rng.random(count) * (largest**-2 - smallest**-2)) ** -0.5
    colours = _colours(rng, count)
    texture = pink_noise(rng, size)
    image = np.broadcast_to(colours[-1], (size, size, 3)).astype(np.float32)
    for radius, colour in zip(radii, colours, strict=True):
        _paint(rng, image, texture, float(radius), colour)
    return np.clip(image, 0, 1)


def _colours(rng: np.random.Generator, count: int) -> np.ndarray:
    """Colours "n 3": any grey level, little chroma; contrast, chroma and tint are the image's own."""
    low, high = np.sort(rng.uniform(0, 1, 2))
    low, high = min(low, 0.35), max(high, 0.65)
    grey = rng.beta(0.8, 0.8, count)[:, None] * (high - low) + low
    chroma = rng.normal(size=(count, 2)) * SPREAD * rng.uniform(0.15, 1.2) + rng.normal(size=2) * SPREAD * 0.3
    return (grey + chroma @ CHROMA * np.minimum(4 * grey * (1.15 - grey), 1)).astype(np.float32)


def _paint(rng: np.random.Generator, image: np.ndarray, texture: np.ndarray, radius: float, colour: np.ndarray) -> None:
    """One shaded, textured shape onto the image: a superellipse (diamond, ellipse or box), turned and squeezed."""
    size = len(image)
    x, y = rng.uniform(-radius, size + radius, 2)
    angle, squeeze = rng.uniform(0, np.pi), rng.uniform(0.35, 1.0)
    power = rng.choice([1.3, 2.0, 2.0, 8.0])
    soft = rng.uniform(2, 0.6 * radius + 2) if rng.random() < 0.15 else 1.0
    slope, rough = rng.normal(0, 0.18, 2), rng.choice([0.0, 0.02, 0.08])
    reach = 1.45 * radius + soft
    x0, x1 = max(0, int(x - reach)), min(size, int(x + reach) + 1)
    y0, y1 = max(0, int(y - reach)), min(size, int(y + reach) + 1)
    if x0 >= x1 or y0 >= y1:
        return
    dx, dy = np.arange(x0, x1, dtype=np.float32) - x, np.arange(y0, y1, dtype=np.float32)[:, None] - y
    u = (np.cos(angle) * dx + np.sin(angle) * dy) / radius
    v = (np.cos(angle) * dy - np.sin(angle) * dx) / (squeeze * radius)
    distance = (np.abs(u) ** power + np.abs(v) ** power) ** (1 / power) - 1
    alpha = np.clip(0.5 - distance * squeeze * radius / soft, 0, 1)[..., None]
    shade = 1 + slope[0] * u + slope[1] * v + rough * texture[y0:y1, x0:x1]
    image[y0:y1, x0:x1] += alpha * (colour * shade[..., None] - image[y0:y1, x0:x1])


# --- grounds ----------------------------------------------------------------------------------------------------------


def waves(rng: np.random.Generator, background: str) -> dict[str, Any]:
    """Plane waves over an infinite plane, so that a pan or a zoom meets new ground that was always there.

    Grey: the VAE's norms, 32 groups over 32 channels, leave so small a codec no place for a background's tint (with
    one, the tint was half of all its error).
    """
    wavelength = np.concatenate([rng.uniform(24, 60, 5), rng.uniform(9, 18, 5)])
    angle = rng.uniform(0, 2 * np.pi, 10)
    vectors = 2 * np.pi / wavelength * np.stack([np.cos(angle), np.sin(angle)])
    level, contrast = (rng.uniform(0.55, 0.75), 1.0) if background == "light" else (rng.uniform(0.10, 0.20), 0.6)
    amplitude = contrast * np.concatenate([rng.uniform(0.03, 0.06, 5), rng.uniform(0.007, 0.015, 5)])
    return dict(waves=vectors, phase=rng.uniform(0, 2 * np.pi, 10), amplitude=amplitude, level=level)


def planes(rng: np.random.Generator, row: dict[str, Any]) -> dict[str, np.ndarray]:
    """The drawn parts of an edition 2 scene: `leaves` "h w 3", the furthest layer where the ground is natural, and `near`
    "h w 5", what is before it (colour times alpha, alpha, label): a near layer, letters or a face."""
    found: dict[str, np.ndarray] = {}
    side = PLANE * FINE
    near = np.zeros((side, side, 5), np.float32)
    if row["ground"] == "leaves":
        image = _lit(rng, dead_leaves(rng, side, smallest=float(rng.choice([2, 3, 4, 6, 10, 18]))), row["background"])
        found["leaves"] = image
        if row["layers"] == 2:  # the far layer lies in haze and out of focus, the near one is sharp
            height = cv2.GaussianBlur(pink_noise(rng, side), (0, 0), 6)
            cut = np.quantile(height, rng.uniform(0.55, 0.75))
            _put(near, image, np.clip(0.5 + (height - cut) * 25, 0, 1), NEAR)
            found["leaves"] = HAZE * AIR[row["background"]] + (1 - HAZE) * cv2.GaussianBlur(image[::-1], (0, 0), FINE)
    if row["pattern"] == "text":
        _put_text(rng, near, row["text"])
    if row["pattern"] == "face":
        _put_face(rng, near)
    return found | ({"near": near} if near[..., 3].any() else {})


def _lit(rng: np.random.Generator, image: np.ndarray, background: str) -> np.ndarray:
    """Dark grounds have a mean of 0.10 to 0.20; light ones 0.38 at least."""
    mean = float(image.mean())
    if background == "dark":
        return np.clip(image * rng.uniform(0.10, 0.20) / mean, 0, 1)
    return image if mean >= 0.38 else 1 - (1 - image) * (1 - 0.38) / (1 - mean)


def _put(plane: np.ndarray, colour: np.ndarray, alpha: np.ndarray, label: int) -> None:
    plane[..., :3] += alpha[..., None] * (colour - plane[..., :3])
    plane[..., 3] += alpha * (1 - plane[..., 3])
    plane[..., 4][alpha > 0.5] = label


def word(rng: np.random.Generator) -> str:
    """Two to four capitals or digits."""
    return "".join(rng.choice(list(LETTERS), rng.integers(2, 5)))


def _put_text(rng: np.random.Generator, plane: np.ndarray, text: str) -> None:
    """Capitals 12 to 24 px high, light or dark, whole in the first frame."""
    from matplotlib import get_data_path
    from PIL import Image, ImageDraw, ImageFont

    height = min(rng.uniform(12, 24), 72 / len(text))  # of the capitals, which are 0.73 of the font's size
    face = rng.choice(["DejaVuSans-Bold.ttf", "DejaVuSans.ttf", "DejaVuSerif-Bold.ttf"])
    font = ImageFont.truetype(f"{get_data_path()}/fonts/ttf/{face}", FINE * height / 0.73)
    left, top, right, bottom = font.getbbox(text)
    room = np.maximum(FINE * SIZE - np.array([right - left, bottom - top]), 1)
    x, y = rng.uniform(0, room) + FINE * (PLANE - SIZE) / 2
    canvas = Image.new("L", plane.shape[:2])
    ImageDraw.Draw(canvas).text((x - left, y - top), text, fill=255, font=font)
    level = rng.uniform(0.85, 1.0) if rng.random() < 0.5 else rng.uniform(0.0, 0.12)
    _put(plane, np.clip(level + rng.normal(0, 0.06, 3), 0, 1), np.asarray(canvas, np.float32) / 255, PATTERN)


def _put_face(rng: np.random.Generator, plane: np.ndarray) -> None:
    """A schematic face: hair, an oval, two eyes, a nose and a mouth; 18 to 40 px high, whole in the first frame."""
    r = float(rng.uniform(9, 20))  # px, half its height
    x, y = rng.uniform(PLANE / 2 - SIZE / 2 + r, PLANE / 2 + SIZE / 2 - r, 2)
    skin = SKIN[0] + rng.random() * (SKIN[1] - SKIN[0])
    hair = rng.uniform(0.05, 0.5) * np.array([1.0, 0.8, 0.6])

    def oval(u: float, v: float, a: float, b: float, colour: Any, start: float = 0, end: float = 360) -> None:
        mask = np.zeros(plane.shape[:2], np.uint8)
        at = [int(16 * FINE * (c + r * d)) for c, d in ((x, u), (y, v))]
        axes = (int(16 * FINE * r * a), int(16 * FINE * r * b))
        cv2.ellipse(mask, at, axes, 0, start, end, 255, -1, cv2.LINE_AA, 4)
        _put(plane, np.clip(colour, 0, 1), mask.astype(np.float32) / 255, PATTERN)

    oval(0, -0.06, 0.80, 0.94, hair)
    oval(0, 0.08, 0.66, 0.86, skin)
    oval(0, -0.42, 0.70, 0.44, hair, 180, 360)
    for side in (-1, 1):
        oval(0.27 * side, -0.05, 0.15, 0.10, np.full(3, 0.95))
        oval(0.27 * side, -0.05, 0.08, 0.09, np.full(3, 0.08))
        oval(0.27 * side, -0.22, 0.17, 0.04, 0.6 * hair)
    oval(0, 0.22, 0.07, 0.14, 0.78 * skin)
    oval(0, 0.54, rng.uniform(0.15, 0.3), rng.uniform(0.05, 0.12), skin * [0.85, 0.45, 0.45])


# --- the camera -------------------------------------------------------------------------------------------------------


def _camera(row: dict[str, Any], t: np.ndarray) -> tuple[np.ndarray, ...]:
    """Scale, cosine and sine of the angle, shift in x and y, at each time: a point p of a plane at depth z is seen at
    c + scale * rotation @ (p - c - shift / z)."""
    d = row["displacement"]
    scale, angle = np.ones_like(t), np.zeros_like(t)
    shift = {axis: np.zeros_like(t) for axis in "xy"}
    if row["motion"] == "pan":
        shift["x"] = (d if row["direction"] == "right" else -d) * t
    if row["motion"] == "tilt":
        shift["y"] = (d if row["direction"] == "down" else -d) * t
    if row["motion"] == "zoom":
        scale = (1 + (d if row["direction"] == "in" else -d) / ZOOM_RADIUS) ** t
    if row["motion"] == "roll":  # a camera that turns clockwise sees the ground turn the other way
        angle = (-d if row["direction"] == "clockwise" else d) / ZOOM_RADIUS * t
    return scale, np.cos(angle), np.sin(angle), shift["x"], shift["y"]


def _onto_plane(camera: tuple[np.ndarray, ...], x: Any, y: Any, depth: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    scale, cos, sin, sx, sy = camera
    u, v, c = x - SIZE / 2, y - SIZE / 2, SIZE / 2
    return (u * cos + v * sin) / scale + c + sx / depth, (v * cos - u * sin) / scale + c + sy / depth


def _onto_image(camera: tuple[np.ndarray, ...], x: Any, y: Any, depth: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    scale, cos, sin, sx, sy = camera
    u, v, c = x - SIZE / 2 - sx / depth, y - SIZE / 2 - sy / depth, SIZE / 2
    return (u * cos - v * sin) * scale + c, (v * cos + u * sin) * scale + c


def _pixels(size: int) -> tuple[np.ndarray, np.ndarray]:
    centres = (np.arange(size, dtype=np.float32) + 0.5) * SIZE / size
    return centres[None, None, :], centres[None, :, None]


def _sample(plane: np.ndarray, camera: tuple[np.ndarray, ...], size: int, depth: float = 1.0) -> np.ndarray:
    """The plane "f h w c" as the camera sees it, the mean of four samples in each pixel."""
    x, y = np.broadcast_arrays(*_onto_plane(camera, *_pixels(2 * size), depth))
    u, v = (((p + (PLANE - SIZE) / 2) * FINE - 0.5).astype(np.float32).reshape(-1, 2 * size) for p in (x, y))
    seen = cv2.remap(plane, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return seen.reshape(-1, size, 2, size, 2, plane.shape[2]).mean((2, 4))


# --- a scene ----------------------------------------------------------------------------------------------------------


def render(row: dict[str, Any], texture: dict[str, Any], size: int, frames: int) -> tuple[np.ndarray, ...]:
    """Video, flow, the first sprite's track, the second's, and labels of a scene; see `world.Scenes`."""
    t = np.arange(frames, dtype=np.float32)[:, None, None]
    camera = _camera(row, t)
    depth = FAR if row["layers"] == 2 else 1.0
    gx, gy = np.broadcast_arrays(*_onto_plane(camera, *_pixels(size)))
    video = _sample(texture["leaves"], camera, size, depth) if "leaves" in texture else _wavy(texture, gx, gy)
    labels = np.full(video.shape[:3], GROUND, np.uint8)
    if "near" in texture:
        near = _sample(texture["near"][..., :4], camera, size)
        video = video * (1 - near[..., 3:]) + near[..., :3]
        kind = np.round(_sample(texture["near"][..., 4:], camera, size)[..., 0])
        labels = np.where(near[..., 3] > 0.5, np.clip(kind, NEAR, PATTERN), labels).astype(np.uint8)

    step = np.zeros(2)
    if row["motion"] == "object":
        step = row["displacement"] * np.array(COMPASS[row["direction"]])
    soft = 1.0 / camera[0]  # one px of the image, seen from the plane
    tracks, steps = [], np.zeros((SPRITE + 1, 2))
    steps[SPRITE] = step
    for label, at, move in ((SECOND, texture.get("second"), np.zeros(2)), (SPRITE, row, step)):
        if at is None or (label == SPRITE and not row["sprites"]):
            tracks.append(np.full((frames, 2), np.nan))
            continue
        cx, cy = at["x"] + move[0] * t, at["y"] + move[1] * t
        inside = _paint_sprite(video, at, gx - cx, gy - cy, soft, marks=label == SPRITE)
        labels[inside] = label
        tracks.append(np.stack(_onto_image(camera, cx, cy), -1)[:, 0, 0] * size / SIZE)

    later = tuple(part[1:] for part in camera)
    flow = np.zeros((frames - 1, size, size, 2))
    for label in np.unique(labels):
        z = depth if label == GROUND else 1.0
        px, py = _onto_plane(tuple(part[:-1] for part in camera), *_pixels(size), z)
        there = _onto_image(later, px + steps[label, 0], py + steps[label, 1], z)
        of_layer = np.stack(np.broadcast_arrays(*(a - b for a, b in zip(there, _pixels(size), strict=True))), -1)
        flow = np.where((labels[:-1] == label)[..., None], of_layer * size / SIZE, flow)
    parts = (np.clip(video, 0, 1), flow, tracks[1], tracks[0])
    return (*(part.astype(np.float32) for part in parts), labels)


def _wavy(texture: dict[str, Any], x: np.ndarray, y: np.ndarray) -> np.ndarray:
    wx, wy = texture["waves"].astype(np.float32)
    phase = texture["phase"].astype(np.float32)
    heights = np.cos(x[..., None] * wx + y[..., None] * wy + phase)
    grey = heights @ texture["amplitude"].astype(np.float32) + np.float32(texture["level"])
    return np.repeat(grey[..., None], 3, axis=-1)


def rgb(hue: float, saturation: float, value: float) -> np.ndarray:
    """A colour of the hue, turns."""
    from matplotlib.colors import hsv_to_rgb

    return np.asarray(hsv_to_rgb((hue % 1.0, saturation, value)), dtype=np.float32)


def _distance(shape: str, dx: np.ndarray, dy: np.ndarray, radius: float) -> np.ndarray:
    """Signed distance to the outline, px, negative inside; the three shapes fit about the same box."""
    if shape == "disc":
        return np.hypot(dx, dy) - radius
    if shape == "square":
        return np.maximum(np.abs(dx), np.abs(dy)) - 0.88 * radius
    dy = dy - TRIANGLE_CENTRE * radius  # from the incentre, apex up
    return np.maximum(np.abs(dx) * 0.894 - dy * 0.447, dy) - 0.60 * radius


def _paint_sprite(video: np.ndarray, at: Any, dx: np.ndarray, dy: np.ndarray, soft: np.ndarray, marks: bool) -> np.ndarray:
    """Paint a sprite and the mark that announces the motion onto the video; returns where the sprite is."""

    def paint(distance: np.ndarray, colour: np.ndarray) -> None:
        alpha = np.clip(0.5 - distance / soft / 1.5, 0, 1)[..., None]
        video[:] = video * (1 - alpha) + colour * alpha

    radius, triangle = at["radius"], at["shape"] == "triangle"
    body = _distance(at["shape"], dx, dy, radius)
    paint(body, rgb(at["hue"], 0.85, 0.85))
    drop = TRIANGLE_CENTRE * radius if triangle else 0.0
    announced = at["announced"] if marks else "pan"
    if announced == "object":
        ex, ey = 0.58 * radius * np.array(COMPASS[at["direction"]])
        if triangle:  # its rim is nearer
            ex, ey = 0.62 * ex, 0.62 * ey
        paint(np.hypot(dx - ex, dy - drop - ey) - 0.30 * radius, np.full(3, 0.97, np.float32))
    if announced in ("zoom", "tilt", "roll"):
        colour = np.full(3, 0.97 if at["direction"] in ("in", "up", "clockwise") else 0.05, np.float32)
        if announced == "zoom":
            paint(np.hypot(dx, dy - drop) - 0.34 * radius, colour)
        else:  # a stripe, upright for a tilt and level for a roll
            wide, high = (0.18, 0.52) if announced == "tilt" else (0.52, 0.18)
            wide, high = ((0.8 if triangle else 1.0) * radius * side for side in (wide, high))
            paint(np.maximum(np.abs(dx) - wide, np.abs(dy - drop) - high), colour)
    return body < 0
