"""SVD's noise levels and preconditioning, in the symbols of Karras et al. 2022 (EDM) and k-diffusion.

    >>> sigmas = karras(25)
    >>> float(sigmas[0]), float(sigmas[-1])
    (700.0, 0.0)

sigma is the standard deviation of the noise in x = x0 + sigma * n, with sigma_data = 1. Floor 0: numpy
or torch in, the same out.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from svdlab.errors import InputError

SIGMA_MIN, SIGMA_MAX, RHO = 0.002, 700.0, 7.0  # svd_xt_1_1.yaml, EDMDiscretization


class Scalings(NamedTuple):
    """D(x; sigma) = c_skip * x + c_out * F(c_in * x; c_noise)."""

    c_skip: Any
    c_out: Any
    c_in: Any
    c_noise: Any


def karras(n: int, sigma_min: float = SIGMA_MIN, sigma_max: float = SIGMA_MAX, rho: float = RHO) -> np.ndarray:
    """n noise levels from sigma_max down to sigma_min, and the terminal zero: n + 1 values (EDM, equation 5).

    Raises InputError unless n >= 1 and 0 < sigma_min <= sigma_max.
    """
    if n < 1 or not 0 < sigma_min <= sigma_max:
        raise InputError(f"n={n}, sigma_min={sigma_min}, sigma_max={sigma_max}: need n >= 1 and 0 < sigma_min <= sigma_max.")
    ramp = np.linspace(0, 1, n)
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return np.append((high + ramp * (low - high)) ** rho, 0.0)


def tail_from(sigmas: Any, sigma_max: float) -> np.ndarray:
    """The levels of a schedule at or below sigma_max, terminal zero included: a start from less noise.

    >>> tail_from(karras(25), 100.0)[0] <= 100.0
    True

    Raises InputError where nothing but the terminal zero is left.
    """
    sigmas = np.asarray(sigmas, dtype=float)
    tail = sigmas[sigmas <= sigma_max]
    if len(tail) < 2 or tail[0] == 0:
        raise InputError(f"sigma_max={sigma_max}: the schedule's smallest level above zero is {sigmas[sigmas > 0].min():.4g}.")
    return tail


def scalings(sigma: Any) -> Scalings:
    """SVD's v-prediction scalings with EDM sigma (generative-models, VScalingWithEDMcNoise).

    c_skip = 1/(s^2+1), c_out = -s/sqrt(s^2+1), c_in = 1/sqrt(s^2+1), c_noise = ln(s)/4.
    """
    root = (sigma**2 + 1) ** 0.5
    log = sigma.log() if hasattr(sigma, "log") else np.log(sigma)
    return Scalings(1 / root**2, -sigma / root, 1 / root, log / 4)


def v_to_denoised(x: Any, v: Any, sigma: Any) -> Any:
    """The denoised estimate from noisy latents x and the model output v, both any shape: c_skip * x + c_out * v."""
    return x / (sigma**2 + 1) - v * (sigma / (sigma**2 + 1) ** 0.5)


def denoised_to_v(x: Any, denoised: Any, sigma: Any) -> Any:
    """The model output v that leads from x to this denoised estimate: the inverse of `v_to_denoised`."""
    return (x / (sigma**2 + 1) - denoised) * ((sigma**2 + 1) ** 0.5 / sigma)


def euler_step(x: Any, denoised: Any, sigma: Any, sigma_next: Any) -> Any:
    """One Euler step of the probability-flow ODE (EDM, algorithm 1 without churn): d = (x - D)/sigma."""
    return x + (x - denoised) / sigma * (sigma_next - sigma)
