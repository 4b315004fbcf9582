"""Images with the statistics of natural ones, drawn without any photograph: dead leaves over 1/f texture.

    >>> image = dead_leaves(np.random.default_rng(0), 64)
    >>> image.shape, image.dtype                              # "h w c" in [0, 1]
    ((64, 64, 3), dtype('float32'))

Dead leaves (Lee, Mumford and Huang 2001): opaque shapes that occlude each other, with radii distributed as r ** -3. Such
images share the edges, the scale invariance and the 1/f**2 power spectrum of photographs. Here the shapes are shaded and
textured, some have soft edges, and colours have the low chroma and the orange-blue axis of natural scenes.
"""

from __future__ import annotations

import numpy as np

CHROMA = np.array([[0.95, 0.05, -1.0], [-0.5, 1.0, -0.5]], np.float32)  # orange minus blue, green minus magenta
SPREAD = np.array([0.14, 0.05], np.float32)  # standard deviation along each axis: natural scenes vary along the first


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


def dead_leaves(rng: np.random.Generator, size: int, *, smallest: float = 1.5, coverage: float = 3.0) -> np.ndarray:
    """One image "h w c" in [0, 1], `size` px on each side.

    >>> dead_leaves(np.random.default_rng(1), 48, smallest=3.0).shape
    (48, 48, 3)

    smallest: radius of the smallest shapes, px; the largest have half the side. coverage: how often the shapes' area covers
    the image, so that little of the first colour is left to be seen.
    """
    largest = size / 2
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
