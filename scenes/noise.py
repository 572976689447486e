"""Noise fields, made once per process from fixed seeds, then cropped or sampled at random offsets.

All fields are (512, 512) float32, tile seamlessly, have zero mean and unit standard deviation, and are clipped to ±2.5.
"""

from functools import cache

import numpy as np

SIDE = 512
# kind: (exponent of the power law, stretch along x, stretch along y, lowest frequency kept, highest frequency kept)
_SPECTRA = {
    "soft": (1.6, 1.0, 1.0, 2, 90),
    "clouds": (2.0, 1.7, 1.0, 3, 80),
    "leafy": (0.5, 1.0, 1.0, 22, 110),
    "turf": (0.6, 1.0, 0.55, 12, 220),
    "streaks": (0.8, 7.0, 1.0, 8, 130),
    "fibres": (0.8, 1.0, 9.0, 8, 130),
    "grain": (0.0, 1.0, 1.0, 40, 256),
    "wide": (2.2, 1.0, 1.0, 1, 8),
}


@cache
def field(kind: str) -> np.ndarray:
    """Return the noise field called `kind`: a (512, 512) float32 array that must not be written to."""
    if kind == "relief":
        return _relief()
    power, along_x, along_y, low, high = _SPECTRA[kind]
    rng = np.random.default_rng(sum(kind.encode()))
    fy = np.fft.fftfreq(SIDE)[:, None] * SIDE
    fx = np.fft.rfftfreq(SIDE)[None, :] * SIDE
    radius = np.hypot(fx * along_x, fy * along_y)
    gain = np.where((radius >= low) & (radius <= high), np.maximum(radius, 1.0) ** -power, 0.0)
    spectrum = np.fft.rfft2(rng.standard_normal((SIDE, SIDE))) * gain
    return _normalised(np.fft.irfft2(spectrum, s=(SIDE, SIDE)))


def crop(kind: str, rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Return a random (h, w) window of a field as a view (h and w at most 512)."""
    top, left = rng.integers(0, (SIDE - shape[0] + 1, SIDE - shape[1] + 1))
    return field(kind)[top : top + shape[0], left : left + shape[1]]


def sample(kind: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Look a field up at texel coordinates `u` (across) and `v` (down), wrapping around at the borders."""
    return field(kind)[v.astype(np.int32) & (SIDE - 1), u.astype(np.int32) & (SIDE - 1)]


def _relief() -> np.ndarray:
    """Slopes of a rugged terrain that is lit from the left: positive on the light side."""
    terrain = np.abs(field("soft")) * -1.0
    slope = np.roll(terrain, -3, axis=1) - np.roll(terrain, 3, axis=1) + 0.5 * np.roll(terrain, -3, axis=0)
    return _normalised(slope)


def _normalised(values: np.ndarray) -> np.ndarray:
    values = (values - values.mean()) / values.std()
    return np.clip(values, -2.5, 2.5).astype(np.float32)
