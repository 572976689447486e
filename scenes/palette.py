"""Colours (RGB triples in 0..1), families of colours for things, and the light of a scene."""

from dataclasses import dataclass, replace

import numpy as np


def hexa(code: str) -> np.ndarray:
    """Turn `rrggbb` into a float32 RGB triple in 0..1."""
    return np.frombuffer(bytes.fromhex(code), np.uint8).astype(np.float32) / 255.0


def mix(one: np.ndarray, other: np.ndarray, share: float) -> np.ndarray:
    """Blend two colours; `share` is that of the second."""
    return one + (other - one) * np.float32(share)


def family(*codes: str) -> np.ndarray:
    """Stack hexadecimal colours into an (n, 3) array to draw from."""
    return np.stack([hexa(code) for code in codes])


WHITE = hexa("ffffff")
BLACK = hexa("15161a")
FOLIAGE = family("4d7a35", "5f8f3c", "3f6b3a", "7aa044", "356048", "8aa651")
AUTUMN = family("c7792b", "b5522b", "d9a03a", "9c8a35", "a8432f")
CONIFER = family("2f5541", "38603f", "2a4a3f", "446b4a")
GRASS = family("7da048", "8fae52", "6d9447", "a3b35c", "86a95e")
DRY_GRASS = family("c2b068", "b39f56", "cdb877")
CROPS = family("d8b650", "c9a23f", "9db04a", "b8893f", "88a446")
SAND = family("e6cf9d", "dcc08a", "ecd9b0", "d9b57c")
DUNE = family("dba866", "e0b577", "cf935a", "e8c48c")
EARTH = family("9a7a55", "87694b", "a98a63")
ROCK = family("8a8782", "77777c", "96897a", "6f6a66")
SEA = family("2f7f9e", "3c8fa8", "29698f", "4b9fb0", "3b7b90")
SNOW = hexa("f2f6fb")
WALLS = family("e9dfc8", "dcc7a6", "f3efe6", "c9785a", "d9a08a", "a9b8bd", "d8c05f", "b65f4c", "8fa9a0", "cfd3d6")
BRICKS = family("a5523c", "b4674a", "8f4a3c", "bf8468")
ROOFS = family("a44b37", "7c4a3b", "5f5e68", "8a3f33", "6a5347", "4f5b66")
WOODS = family("a87646", "8a5c36", "c2955f", "6e4a30", "d3ad78", "5a3e2d")
PAINTS = family("c8463c", "2f6fa3", "e8b73a", "3f8a6b", "efeae0", "7d4a78", "e07b39", "2f3c52", "9fc4c9", "d98aa0")
FABRICS = family(
    "b8493f",
    "355f87",
    "d9a441",
    "5d8a6a",
    "e8dfd0",
    "73507a",
    "d0785a",
    "3d4454",
    "88a8b8",
    "d99aa8",
    "a7905f",
    "6f7f4a",
)
PASTELS = family("efe7d6", "dfe6e0", "d7e1ea", "efdcd2", "e9e2c0", "d9d3e2", "c6d6c4", "f2efe9", "c9d8dc", "e3c9b4")
DEEP = family("5d7a86", "7b5d62", "56705a", "8a6a4a", "4c5a78", "9a5b48", "6d6a80")
SKINS = family("f0c8a4", "d9a377", "b47c54", "8a5a3c", "6b4630", "f5d6bc")
HAIR = family("2a211c", "5a3a22", "8a5f35", "c9a25e", "8a8886")
METALS = family("8d949c", "6b727a", "b3b9be", "4b5058")
PETALS = family("d8433c", "f0c23a", "f4f0ea", "c46aa6", "7a5ac0", "ef8a3c")
GLASS = family("6f93a8", "88a9b8", "4f7288", "a3bfc8")
LAMPLIGHT = hexa("ffd98a")


@dataclass(frozen=True)
class Light:
    """The light of a scene: the colours of sky and air, the shadows, the lamps.

    Attributes:
        name: such as `sunset`.
        zenith, low: colours of the sky above and at the horizon.
        ambient: colour by which every lit surface is multiplied.
        haze: colour of the air.
        visibility: distance in metres at which the air hides 63 % of a thing.
        shadow: depth of the shadows in 0..1.
        side: -1 if the light comes from the left, 1 if from the right.
        lamps: whether lamps and windows are lit.
        sun: colour of the disc of the sun or moon, or None.
    """

    name: str
    zenith: np.ndarray
    low: np.ndarray
    ambient: np.ndarray
    haze: np.ndarray
    visibility: float
    shadow: float
    side: int = -1
    lamps: bool = False
    sun: np.ndarray | None = None


def _light(
    name: str,
    colours: tuple[str, str, str, str],
    visibility: float,
    shadow: float,
    lamps: bool = False,
    sun: str | None = None,
) -> Light:
    """Make a light from hexadecimal colours: of the sky above and at the horizon, of lit surfaces, of the air."""
    zenith, low, ambient, haze = family(*colours)
    disc = None if sun is None else hexa(sun)
    return Light(name, zenith, low, ambient, haze, visibility, shadow, lamps=lamps, sun=disc)


# (share of the scenes, light)
LIGHTS = (
    (0.30, _light("day", ("4f94d0", "cfe4ee", "ffffff", "c8dbe8"), 900, 0.42, sun="fff8dc")),
    (0.12, _light("morning", ("86b4dc", "f6e6cf", "fff4e2", "ecdfd2"), 500, 0.38, sun="fff0c0")),
    (0.16, _light("sunset", ("5f78b0", "f7b267", "ffd9b0", "f0b888"), 500, 0.45, sun="ffe08a")),
    (0.10, _light("dusk", ("3f4580", "d98a8a", "a99cc0", "a08ab0"), 400, 0.25, lamps=True)),
    (0.15, _light("overcast", ("a9b4bd", "d5dadb", "dfe3e6", "ccd3d6"), 350, 0.18)),
    (0.08, _light("fog", ("cdd4d6", "dfe2e0", "e4e6e4", "d9dddc"), 60, 0.10)),
    (0.09, _light("night", ("17224a", "3d5180", "6f7db0", "384a78"), 500, 0.12, lamps=True, sun="f2f0dc")),
)


def draw_light(rng: np.random.Generator) -> Light:
    """Return a random light, by the shares of `LIGHTS`; its colours vary slightly, its side is random."""
    shares = np.cumsum([share for share, _ in LIGHTS])
    light = LIGHTS[int(np.searchsorted(shares, rng.random() * shares[-1]))][1]
    return replace(
        light,
        zenith=vary(rng, light.zenith, 0.04),
        low=vary(rng, light.low, 0.04),
        ambient=vary(rng, light.ambient, 0.02),
        visibility=light.visibility * rng.uniform(0.7, 1.5),
        side=-1 if rng.random() < 0.5 else 1,
    )


def pick(rng: np.random.Generator, colours: np.ndarray, amount: float = 0.03) -> np.ndarray:
    """Return a random colour of a family, slightly varied."""
    return vary(rng, colours[rng.integers(len(colours))], amount)


def vary(rng: np.random.Generator, colour: np.ndarray, amount: float) -> np.ndarray:
    """Return a colour shifted at random: mostly in brightness, a little in hue."""
    shift = rng.normal(0.0, amount) + rng.normal(0.0, amount * 0.5, 3)
    return np.clip(colour + shift, 0.02, 1.0).astype(np.float32)
