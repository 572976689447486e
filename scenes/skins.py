"""Skins: what a surface is made of, its colour, and the pattern it carries.

A pattern is a function of the surface's own coordinates in metres, so that it follows the perspective.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

Weight = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Pattern:
    """A two-colour pattern: `weight(u, v)` in 0..1 is the share of `colour` at metres `u`, `v`."""

    colour: np.ndarray
    weight: Weight
    texture: str | None


@dataclass(frozen=True)
class Skin:
    """A surface.

    Attributes:
        colour: RGB in 0..1.
        material: name of the material, or None.
        pattern: an optional pattern in a second colour.
        grain: strength of the noise on the surface, of the kind `noise`.
        shade: difference in brightness between the lit side and the other.
        glow: from 0, lit by the scene, to 1, shining by itself.
    """

    colour: np.ndarray
    material: str | None
    pattern: Pattern | None = None
    grain: float = 0.03
    noise: str = "soft"
    shade: float = 0.10
    glow: float = 0.0

    def with_pattern(self, pattern: Pattern | None) -> "Skin":
        """Return this skin with another pattern."""
        return replace(self, pattern=pattern)

    def times(self, factor: float) -> "Skin":
        """Return this skin, darker or lighter by a factor."""
        pattern = self.pattern and replace(self.pattern, colour=self.pattern.colour * np.float32(factor))
        return replace(self, colour=self.colour * np.float32(factor), pattern=pattern)


def wood(colour: np.ndarray, **changes: Any) -> Skin:
    """Plain wood with visible fibres."""
    return Skin(colour, "wood", grain=0.06, noise="streaks", **changes)


def painted(colour: np.ndarray, **changes: Any) -> Skin:
    """A painted surface or plaster."""
    return Skin(colour, "painted", grain=0.03, **changes)


def fabric(colour: np.ndarray, **changes: Any) -> Skin:
    """Cloth."""
    return Skin(colour, "fabric", grain=0.05, **changes)


def metal(colour: np.ndarray, **changes: Any) -> Skin:
    """Metal."""
    return Skin(colour, "metal", grain=0.02, shade=0.22, **changes)


def stone(colour: np.ndarray, **changes: Any) -> Skin:
    """Cut stone."""
    return Skin(colour, "stone", grain=0.09, **changes)


def leaves(colour: np.ndarray, **changes: Any) -> Skin:
    """Foliage."""
    return Skin(colour, "foliage", grain=0.16, noise="leafy", shade=0.28, **changes)


def _wave(t: np.ndarray, duty: float = 0.5) -> np.ndarray:
    """A periodic 0..1 wave of period 1 that is high for the share `duty` and has soft edges."""
    return np.clip((duty - np.abs(2.0 * (t - np.floor(t)) - 1.0)) * 9.0 + 0.5, 0.0, 1.0)


def striped(colour: np.ndarray, period: float = 0.16, duty: float = 0.5, texture: str | None = "striped") -> Pattern:
    """Upright stripes."""
    return Pattern(colour, lambda u, v: _wave(u / period, duty), texture)


def banded(colour: np.ndarray, period: float = 0.3, duty: float = 0.5, texture: str | None = "banded") -> Pattern:
    """Level bands."""
    return Pattern(colour, lambda u, v: _wave(v / period, duty), texture)


def chequered(colour: np.ndarray, period: float = 0.6) -> Pattern:
    """A chequerboard whose squares are half a period wide."""

    def weight(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        one, other = _wave(u / period), _wave(v / period)
        return one + other - 2.0 * one * other

    return Pattern(colour, weight, "chequered")


def dotted(colour: np.ndarray, period: float = 0.16) -> Pattern:
    """Polka dots in staggered rows."""

    def weight(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        row = np.floor(v / period)
        du = (u / period + 0.5 * (row % 2)) % 1.0 - 0.5
        dv = v / period - row - 0.5
        return np.clip((0.28 - np.hypot(du, dv)) * 8.0 + 0.5, 0.0, 1.0)

    return Pattern(colour, weight, "polka-dotted")


def zigzag(colour: np.ndarray, period: float = 0.24) -> Pattern:
    """Level zigzag lines."""
    return Pattern(colour, lambda u, v: _wave(v / period + np.abs((u / period) % 2.0 - 1.0)), "zigzagged")


def grid(colour: np.ndarray, period: float = 0.2, line: float = 0.14, texture: str | None = "grid") -> Pattern:
    """Thin lines both ways, like the joints of tiles."""
    return Pattern(colour, lambda u, v: np.maximum(_wave(u / period, line), _wave(v / period, line)), texture)


def waffle(colour: np.ndarray, period: float = 0.2) -> Pattern:
    """Soft crossing bands, as on a tartan."""
    return Pattern(colour, lambda u, v: 0.5 * (_wave(u / period) + _wave(v / period)), "waffled")


def planks(colour: np.ndarray, width: float = 0.14, across: bool = True, texture: str | None = "lined") -> Pattern:
    """Joints between boards that run along `v` (`across`) or along `u`."""
    line = 0.12
    if across:
        return Pattern(colour, lambda u, v: _wave(u / width, line), texture)
    return Pattern(colour, lambda u, v: _wave(v / width, line), texture)


def bricks(colour: np.ndarray, length: float = 0.5, height: float = 0.2) -> Pattern:
    """Mortar between staggered courses of bricks."""

    def weight(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        row = np.floor(v / height)
        return np.maximum(_wave(v / height, 0.16), _wave(u / length + 0.5 * (row % 2), 0.08))

    return Pattern(colour, weight, None)


def shingles(colour: np.ndarray, period: float = 0.4) -> Pattern:
    """The rounded edges of staggered roof tiles."""

    def weight(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        row = np.floor(v / period)
        du = (u / period + 0.5 * (row % 2)) % 1.0 - 0.5
        return np.clip(1.0 - np.abs(v / period - row - 1.6 * du * du) * 4.0, 0.0, 1.0)

    return Pattern(colour, weight, "scaly")


def pleats(colour: np.ndarray, period: float = 0.13) -> Pattern:
    """The soft folds of hanging cloth."""
    return Pattern(colour, lambda u, v: 0.5 + 0.5 * np.sin(u * np.float32(2 * np.pi / period)), "pleated")
