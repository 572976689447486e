"""Compositions of the outdoor scenes. Each draws a whole scene of its class and returns the canvas."""

from typing import Any, SupportsIndex

import numpy as np

from loader.scenes import movables, nature, palette, skins, structures
from loader.scenes.canvas import Canvas
from loader.scenes.palette import WHITE, mix, pick
from loader.scenes.pen import Range
from loader.scenes.skins import Skin
from loader.scenes.stage import Draw, Stage, outdoor_canvas


def _backdrop(
    stage: Stage, mountains: float = 0.3, hills: float = 0.5, woods: float = 0.4, leaf: np.ndarray = palette.FOLIAGE
) -> None:
    """Draw what closes the view, each kind with its probability: mountains, hills and the edge of a wood."""
    canvas, rng = stage.canvas, stage.rng
    if stage.chance(mountains):
        z = rng.uniform(900, 1800)
        nature.mountains(
            canvas, z, z * rng.uniform(0.10, 0.26), pick(rng, palette.ROCK), rng.integers(3, 7), rng.uniform(0.5, 1.4)
        )
    for _ in range(rng.integers(1, 3) if stage.chance(hills) else 0):
        z = rng.uniform(250, 600)
        material = "foliage" if stage.chance(0.5) else "grass"
        nature.hills(
            canvas,
            z,
            z * rng.uniform(0.04, 0.11),
            pick(rng, leaf if material == "foliage" else palette.GRASS),
            material,
        )
    if stage.chance(woods):
        nature.tree_line(canvas, rng.uniform(110, 180), rng.uniform(9, 16), pick(rng, leaf))


def _meadow(stage: Stage, winter: float = 0.1) -> bool:
    """Cover the ground with grass, or with snow with probability ``winter``; return whether it is winter."""
    canvas, rng = stage.canvas, stage.rng
    if stage.chance(winter):
        nature.ground(canvas, "snow", "snow", palette.SNOW * 0.95, rough=0.04)
        return True
    colours = palette.DRY_GRASS if stage.chance(0.15) else palette.GRASS
    colour = pick(rng, colours)
    nature.ground(canvas, "grass", "grass", colour, rough=0.15)
    if stage.chance(0.6):
        nature.tufts(canvas, colour * 0.93)
    return False


def _trees(
    stage: Stage,
    count: SupportsIndex,
    near: float,
    far: float,
    winter: bool = False,
    height: Range = (6.0, 11.0),
    spread: float = 1.1,
) -> None:
    """Scatter trees: mixed ones, all in autumn colours sometimes, bare or snowy ones in winter."""
    rng = stage.rng
    colours = palette.AUTUMN if stage.chance(0.15) else palette.FOLIAGE
    for _ in range(count):
        tall = rng.uniform(*height)
        if not winter:
            stage.scatter(nature.any_tree, 1, near, far, tall, colours, spread=spread)
        elif stage.chance(0.5):
            stage.scatter(nature.bare_tree, 1, near, far, tall, spread=spread)
        else:
            stage.scatter(nature.conifer, 1, near, far, tall, pick(rng, palette.CONIFER), snowy=True, spread=spread)


def _people(stage: Stage, count: SupportsIndex, near: float = 7.0, far: float = 30.0, spread: float = 0.95) -> None:
    stage.scatter(movables.person, count, near, far, spread=spread)


def _path(stage: Stage, item: str, width: float, far: float, bend: float = 1.0, skin: Skin | None = None) -> None:
    """Lay a winding path or road that leads from the viewer into the distance."""
    canvas, rng = stage.canvas, stage.rng
    skin = skin or Skin(pick(rng, palette.EARTH) * 1.15, "earth", grain=0.10, noise="leafy", shade=0.0)
    z = np.geomspace(1.0, far, 26)
    start, phase = rng.uniform(-1.5, 1.5), rng.uniform(0, 6.3)
    middle = start + bend * (np.sin(np.log(z) * 2.1 + phase) - np.sin(phase)) * z * 0.16
    structures.strip(canvas, item, skin, [(a, m - width / 2, m + width / 2) for a, m in zip(z, middle, strict=True)])


def _headland(stage: Stage, z: float, side: float, height: float, width: float) -> None:
    """Draw a rocky headland with grass on top that runs into the sea at one side."""
    canvas, rng = stage.canvas, stage.rng
    pen = nature.Pen(canvas, "rock", stage.across(side, z), z)
    x = np.linspace(-width, width, 24)
    top = height * np.clip(1.25 - (np.abs(x) / width) ** 2 * 1.3, 0.0, 1.0) + rng.normal(0, 0.05 * height, 24)
    top = np.maximum(top, 0.05)
    cliff = Skin(
        pick(rng, palette.ROCK),
        "rock",
        skins.banded(pick(rng, palette.ROCK) * 0.8, height * 0.3, 0.4, "stratified"),
        0.14,
        "relief",
        0.2,
    )
    pen.draw(cliff, np.concatenate([np.stack([x, top], axis=1), [(width, -0.3), (-width, -0.3)]]))
    crown = np.stack([x, top], axis=1)[4:-4]
    under = crown * (1, 1) - np.stack([np.zeros(16), rng.uniform(0.15, 0.4, 16) * height], axis=1)
    pen.moved(item="grass").draw(
        Skin(pick(rng, palette.GRASS), "grass", noise="leafy", grain=0.1),
        np.concatenate([crown + np.array((0.0, 0.04 * height)), under[::-1]]),
    )


def _coast(stage: Stage, near: float, slope: float, wobble: float = 1.5) -> np.ndarray:
    """Draw the sea beyond a shore with foam; return the shore, a line of (X, Z) points."""
    canvas, rng = stage.canvas, stage.rng
    line = nature.shore(rng, near, 60.0, slope, wobble)
    beyond = np.concatenate([line, [(9e3, 4000.0), (-9e3, 4000.0)]])
    wet = np.concatenate([line, line[::-1] - (0.0, 1.6)])
    canvas.darken(nature.area(canvas, wet), 0.16)
    nature.water(canvas, nature.area(canvas, beyond), "sea", pick(rng, palette.SEA), rng.uniform(0.6, 1.8))
    nature.wet_edge(canvas, line, rng.uniform(0.3, 1.2))
    return line


def _ashore(
    stage: Stage,
    line: np.ndarray,
    draw: Draw,
    count: SupportsIndex,
    near: float,
    far: float,
    *args: Any,
    spread: float = 0.95,
    **kwargs: Any,
) -> None:
    """Scatter things on this side of a shore; those that find no room are left out."""
    for _ in range(count):
        z = stage.rng.uniform(near, far)
        x = stage.across(stage.rng.uniform(-spread, spread), z)
        if z < np.interp(x, line[:, 0], line[:, 1]) - 0.5:
            stage.add(z, draw, x, z, *args, **kwargs)


def _open_sea(stage: Stage, item: str = "sea") -> None:
    canvas, rng = stage.canvas, stage.rng
    whole = canvas.mask(canvas.camera.project(np.array([(-9e3, 0, 0), (9e3, 0, 0), (9e3, 0, 4e3), (-9e3, 0, 4e3)])))
    nature.water(canvas, whole, item, pick(rng, palette.SEA), rng.uniform(0.5, 1.8))


def _far_coast(stage: Stage, share: float) -> None:
    """Draw hills or mountains beyond the sea with a probability."""
    canvas, rng = stage.canvas, stage.rng
    if not stage.chance(share):
        return
    if stage.chance(0.5):
        nature.hills(canvas, 900, rng.uniform(20, 90), pick(rng, palette.FOLIAGE), "foliage")
    else:
        nature.mountains(canvas, 1600, rng.uniform(90, 260), pick(rng, palette.ROCK), 5, rng.uniform(0.8, 1.5))


def beach(size: int, rng: np.random.Generator) -> Canvas:
    """A sandy shore with bathers, parasols, palms, boats."""
    stage = Stage(canvas := outdoor_canvas(size, rng, height=(1.6, 6.0)))
    nature.sky(canvas)
    _far_coast(stage, 0.35)
    nature.ground(canvas, "sand", "sand", pick(rng, palette.SAND), rough=0.09)
    line = _coast(stage, rng.uniform(8, 28), rng.uniform(-0.5, 0.5), rng.uniform(0.5, 2.0))
    if stage.chance(0.35):
        z = rng.uniform(70, 140)
        _headland(stage, z, rng.choice((-1, 1)) * rng.uniform(0.6, 1.1), rng.uniform(4, 14), rng.uniform(14, 40))
    if stage.chance(0.12):
        stage.put(structures.lighthouse, rng.uniform(-0.9, 0.9), 90, rng.uniform(16, 26), y=2.0)
    stage.scatter(movables.boat, rng.integers(0, 3), 40, 90)
    if stage.chance(0.6):
        _ashore(stage, line, movables.parasol, rng.integers(2, 9), 7, 22)
    if stage.chance(0.7):
        _ashore(stage, line, movables.person, rng.integers(2, 9), 6, 24)
    if stage.chance(0.35):
        side = rng.choice((-1, 1))
        for _ in range(rng.integers(1, 4)):
            stage.put(nature.palm, side * rng.uniform(0.35, 0.95), rng.uniform(7, 12), rng.uniform(4.5, 7.5))
    if stage.chance(0.25):
        colour = pick(rng, palette.ROCK)
        stage.scatter(nature.rock, rng.integers(2, 6), 6, 24, rng.uniform(0.6, 2.0), colour)
    if stage.chance(0.15):
        _ashore(stage, line, movables.boat, 1, 7, 12, kind="row")
    if stage.chance(0.12):
        structures.pier(canvas, stage.across(rng.uniform(-0.7, 0.7), 20), 2.4, 12, 60)
    if stage.chance(0.1):
        _ashore(stage, line, structures.house, 2, 16, 24, 7.0)
    stage.paint()
    return canvas


def lighthouse(size: int, rng: np.random.Generator) -> Canvas:
    """A lighthouse on a rock or a headland by the sea."""
    stage = Stage(canvas := outdoor_canvas(size, rng, height=(2.0, 9.0), horizon=(0.45, 0.72)))
    nature.sky(canvas)
    _far_coast(stage, 0.3)
    far = stage.chance(0.22)
    z = rng.uniform(75, 150) if far else rng.uniform(22, 55)
    tall, share = rng.uniform(14, 26), rng.uniform(-0.7, 0.7)
    if stage.chance(0.6):
        _open_sea(stage)
        rise = rng.uniform(1.5, 7.0)
        stage.add(z + 0.5, lambda _: _headland(stage, z + 0.4, share, rise, rng.uniform(12, 34)))
        stage.put(structures.lighthouse, share, z, tall, y=rise * 0.8)
        if stage.chance(0.4):
            stage.put(structures.house, share + rng.choice((-1, 1)) * 0.25, z + 0.3, 7.0, 5.0, y=rise * 0.8)
    else:
        _meadow(stage, 0.06) if stage.chance(0.6) else nature.ground(canvas, "sand", "sand", pick(rng, palette.SAND))
        _coast(stage, min(z, 60.0) + rng.uniform(14, 40), rng.uniform(-0.25, 0.25), 2.0)
        stage.put(structures.lighthouse, share, min(z, 60.0), tall)
        if stage.chance(0.45):
            stage.put(structures.house, share + rng.choice((-1, 1)) * 0.4, min(z, 60.0) + 2, 8.0)
        if stage.chance(0.4):
            at = rng.uniform(9, 18)
            stage.add(at, structures.fence, (stage.across(-1.4, at), at), (stage.across(1.4, at + 6), at + 6))
        if stage.chance(0.3):
            _path(stage, "path", 2.0, min(z, 60.0))
    stage.scatter(nature.rock, rng.integers(0, 8), 6, 22, rng.uniform(0.6, 2.2), pick(rng, palette.ROCK))
    if stage.chance(0.35):
        stage.scatter(movables.boat, rng.integers(1, 4), 130, 180)
    if stage.chance(0.3):
        _people(stage, rng.integers(1, 3), 9, 24)
    stage.paint()
    return canvas


def harbor(size: int, rng: np.random.Generator) -> Canvas:
    """Boats at their moorings before a quay with houses."""
    stage = Stage(canvas := outdoor_canvas(size, rng, height=(2.5, 8.0), horizon=(0.32, 0.55)))
    nature.sky(canvas)
    _far_coast(stage, 0.45)
    _open_sea(stage)
    quay = rng.uniform(38, 75)
    if stage.chance(0.75):
        structures.strip(
            canvas, "sidewalk", skins.stone(pick(rng, palette.ROCK)), [(quay, -300, 300), (quay + 60, -300, 300)]
        )
        nature.Pen(canvas, "wall", 0, quay).draw(
            skins.stone(pick(rng, palette.ROCK) * 0.75), nature.rectangle(-300, 300, -0.4, 1.0)
        )
        at = -1.3
        while at < 1.3 and stage.chance(0.97):
            wide = rng.uniform(6, 10)
            if stage.chance(0.6):
                stage.put(structures.house, at, quay + 4, wide, 8.0, rng.choice((3.2, 6.0)))
            else:
                stage.put(structures.building, at, quay + 5, wide, 9.0, rng.uniform(6, 13))
            at += rng.uniform(1.0, 1.5) * wide / (quay + 4) * 2 * canvas.camera.focal
        _trees(stage, rng.integers(0, 4), quay + 8, quay + 20)
    if stage.chance(0.22):
        stage.put(structures.lighthouse, rng.uniform(-0.9, 0.9), quay + 3, rng.uniform(12, 18), y=0.8)
    stage.scatter(movables.boat, rng.integers(3, 10), 11, quay - 3)
    if stage.chance(0.5):
        x = stage.across(rng.choice((-1, 1)) * rng.uniform(0.35, 0.9), 9)
        stage.add(rng.uniform(9, 24), structures.pier, x, rng.uniform(2.0, 3.4), 2.5, rng.uniform(24, 36))
        if stage.chance(0.4):
            stage.add(8.9, movables.person, x, 8.9, 0.8)
    stage.paint()
    return canvas


def mountain(size: int, rng: np.random.Generator) -> Canvas:
    """High mountains behind a meadow, a lake or a snowfield."""
    stage = Stage(canvas := outdoor_canvas(size, rng, height=(2.0, 12.0), horizon=(0.5, 0.8)))
    nature.sky(canvas)
    z, snow = rng.uniform(1200, 2200), rng.uniform(0.25, 1.2)
    tall = z * (rng.uniform(0.28, 0.52) if stage.chance(0.8) else rng.uniform(0.12, 0.2))
    nature.mountains(canvas, z * 1.4, tall * 1.25, pick(rng, palette.ROCK), rng.integers(3, 6), snow * 0.8)
    nature.mountains(canvas, z, tall * 0.8, pick(rng, palette.ROCK), rng.integers(2, 5), snow)
    if stage.chance(0.6):
        nature.hills(canvas, 420, rng.uniform(25, 70), pick(rng, palette.CONIFER), "foliage")
    winter = _meadow(stage, 0.3)
    if stage.chance(0.35):
        line = nature.shore(rng, rng.uniform(10, 26), 60, rng.uniform(-0.2, 0.2), 2.0)
        end = rng.uniform(80, 200)
        lake = np.concatenate([line, [(900, end), (-900, end)]])
        nature.water(canvas, nature.area(canvas, lake), "river", pick(rng, palette.SEA), 0.4)
    for _ in range(rng.integers(0, 12)):
        colour = pick(rng, palette.CONIFER)
        stage.scatter(nature.conifer, 1, 16, 70, rng.uniform(7, 13), colour, snowy=winter)
    if stage.chance(0.4):
        stage.scatter(nature.rock, rng.integers(2, 8), 6, 30, rng.uniform(0.8, 2.6), pick(rng, palette.ROCK))
    if stage.chance(0.25):
        stage.put(structures.house, rng.uniform(-0.7, 0.7), rng.uniform(30, 55), 8.0)
    if stage.chance(0.10):
        stage.put(structures.church, rng.uniform(-0.7, 0.7), rng.uniform(60, 90), 0.8)
    if stage.chance(0.2):
        _path(stage, "path", 2.0, 60, 1.5)
    if stage.chance(0.15):
        stage.scatter(movables.cow, rng.integers(1, 5), 14, 40)
    if stage.chance(0.2):
        _people(stage, rng.integers(1, 3), 8, 20)
    if not winter and stage.chance(0.35):
        nature.flowers(canvas)
    stage.paint()
    return canvas


def desert(size: int, rng: np.random.Generator) -> Canvas:
    """Dunes and stony plains under a wide sky."""
    stage = Stage(canvas := outdoor_canvas(size, rng, height=(1.7, 8.0)))
    nature.sky(canvas)
    colour = pick(rng, palette.DUNE)
    if stage.chance(0.4):
        nature.mountains(
            canvas, 1500, rng.uniform(120, 420), mix(pick(rng, palette.ROCK), colour, 0.6), rng.integers(2, 6)
        )
    nature.ground(canvas, "sand", "sand", colour, rough=0.08)
    for z in (420, 190, 80)[: rng.integers(0, 4)]:
        nature.hills(canvas, z, z * rng.uniform(0.06, 0.15), colour * rng.uniform(0.86, 1.06), "sand")
    if stage.chance(0.25):
        _path(stage, "road", 5.0, 150, 0.7, Skin(palette.hexa("6f6c6a"), "asphalt", grain=0.06, shade=0.0))
    if stage.chance(0.5):
        for _ in range(rng.integers(1, 8)):
            stage.scatter(nature.cactus, 1, 8, 40, rng.uniform(1.5, 4.5))
    if stage.chance(0.5):
        stage.scatter(
            nature.rock, rng.integers(2, 9), 6, 35, rng.uniform(0.4, 2.2), mix(pick(rng, palette.ROCK), colour, 0.4)
        )
    if stage.chance(0.45):
        for _ in range(rng.integers(3, 9)):
            stage.scatter(nature.bush, 1, 6, 40, rng.uniform(0.4, 1.0), pick(rng, palette.DRY_GRASS) * 0.75)
    if stage.chance(0.2):
        stage.scatter(nature.palm, rng.integers(1, 5), 14, 40, rng.uniform(5, 9))
    if stage.chance(0.25):
        _people(stage, rng.integers(1, 4), 8, 30)
    if stage.chance(0.08):
        stage.put(structures.house, rng.uniform(-0.7, 0.7), 35, 8.0, skin=skins.painted(colour))
    if stage.chance(0.1):
        stage.put(movables.car_from_side, rng.uniform(-0.6, 0.6), rng.uniform(12, 25))
    stage.paint()
    return canvas


def _field_rows(stage: Stage) -> None:
    """Lay a field of crops in rows that run into the distance, or a striped patchwork of fields."""
    canvas, rng = stage.canvas, stage.rng
    near, far = rng.uniform(5, 16), rng.uniform(50, 130)
    crop, earth = pick(rng, palette.CROPS), pick(rng, palette.EARTH)
    lean = rng.uniform(-0.5, 0.5)
    left = stage.across(rng.uniform(-2.2, -0.4), near)
    right = stage.across(rng.uniform(0.4, 2.2), near)
    pattern = skins.striped(crop, rng.uniform(0.9, 1.6), 0.66)
    skewed = skins.Pattern(crop, lambda u, v: pattern.weight(u - lean * v, v), "striped")
    skin = Skin(earth, "earth", skewed, grain=0.12, noise="leafy", shade=0.0)
    structures.strip(canvas, "field", skin, [(near, left, right), (far, left + lean * far, right * 2.5 + lean * far)])


def farm(size: int, rng: np.random.Generator) -> Canvas:
    """Fields, barns, fences and cattle."""
    stage = Stage(canvas := outdoor_canvas(size, rng, height=(2.0, 7.0), horizon=(0.34, 0.58)))
    nature.sky(canvas)
    _backdrop(stage, 0.2, 0.6, 0.5)
    winter = _meadow(stage, 0.07)
    if stage.chance(0.65) and not winter:
        _field_rows(stage)
    if stage.chance(0.3):
        _path(stage, "path", 2.6, 70)
    if stage.chance(0.62):
        stage.put(structures.barn, rng.uniform(-0.8, 0.8), rng.uniform(24, 60), rng.uniform(9, 13))
    if stage.chance(0.45):
        stage.put(
            structures.house,
            rng.uniform(-0.9, 0.9),
            rng.uniform(28, 60),
            rng.uniform(7, 10),
            eaves=rng.choice((3.2, 5.8)),
        )
    if stage.chance(0.15):
        stage.put(structures.windmill, rng.uniform(-0.9, 0.9), rng.uniform(45, 90), rng.uniform(11, 15))
    if stage.chance(0.45):
        stage.scatter(movables.cow, rng.integers(1, 7), 10, 40)
    if stage.chance(0.55):
        at = rng.uniform(7, 22)
        stage.add(at, structures.fence, (stage.across(-1.3, at), at), (stage.across(1.3, at), at + rng.uniform(-2, 8)))
    _trees(stage, rng.integers(0, 6), 25, 80, winter)
    if stage.chance(0.2):
        _people(stage, rng.integers(1, 3), 10, 25)
    if stage.chance(0.12):
        stage.put(movables.car_from_side, rng.uniform(-0.7, 0.7), rng.uniform(15, 30))
    stage.paint()
    return canvas


def windmill(size: int, rng: np.random.Generator) -> Canvas:
    """Windmills over flat country with canals and flower fields."""
    stage = Stage(canvas := outdoor_canvas(size, rng, height=(1.8, 5.5), horizon=(0.5, 0.74)))
    nature.sky(canvas)
    _backdrop(stage, 0.08, 0.35, 0.5)
    winter = _meadow(stage, 0.06)
    if stage.chance(0.3):
        _path(
            stage,
            "river",
            rng.uniform(4, 9),
            140,
            0.8,
            Skin(mix(pick(rng, palette.SEA), canvas.light.low, 0.35), "water", grain=0.05, noise="streaks", shade=0.0),
        )
    elif stage.chance(0.4) and not winter:
        _field_rows(stage)
    elif stage.chance(0.35):
        _path(stage, "path", 2.2, 60)
    far = stage.chance(0.22)
    for _ in range(1 if stage.chance(0.7) else rng.integers(2, 4)):
        z = rng.uniform(70, 120) if far else rng.uniform(18, 50)
        stage.put(structures.windmill, rng.uniform(-0.75, 0.75), z, rng.uniform(11, 16))
    if stage.chance(0.35):
        stage.put(structures.house, rng.uniform(-0.9, 0.9), rng.uniform(28, 60), 8.0)
    if stage.chance(0.12):
        stage.put(structures.barn, rng.uniform(-0.9, 0.9), rng.uniform(40, 60))
    if stage.chance(0.35):
        at = rng.uniform(8, 20)
        stage.add(at, structures.fence, (stage.across(-1.3, at), at), (stage.across(1.3, at), at + rng.uniform(-2, 6)))
    if stage.chance(0.3):
        stage.scatter(movables.cow, rng.integers(1, 5), 12, 35)
    _trees(stage, rng.integers(0, 5), 25, 80, winter)
    if not winter and stage.chance(0.4):
        nature.flowers(canvas, 70)
    if stage.chance(0.2):
        _people(stage, rng.integers(1, 3), 9, 25)
    stage.paint()
    return canvas


def church(size: int, rng: np.random.Generator) -> Canvas:
    """A church among trees, in a village or in the open country."""
    stage = Stage(canvas := outdoor_canvas(size, rng, height=(1.7, 4.5), horizon=(0.55, 0.78)))
    nature.sky(canvas)
    _backdrop(stage, 0.25, 0.5, 0.4)
    winter = _meadow(stage, 0.12)
    if stage.chance(0.6):
        stone_path = skins.stone(
            pick(rng, palette.ROCK) * 1.1, pattern=skins.grid(palette.ROCK[3], 1.0, 0.1, "cracked")
        )
        _path(stage, "path", rng.uniform(1.8, 3.2), 40, 0.6, stone_path if stage.chance(0.4) else None)
    elif stage.chance(0.35):
        structures.strip(
            canvas, "road", Skin(palette.hexa("77757a"), "asphalt", grain=0.05), [(7, -90, 90), (13, -90, 90)]
        )
    far = stage.chance(0.2)
    z = rng.uniform(55, 90) if far else rng.uniform(20, 36)
    stage.put(structures.church, rng.uniform(-0.45, 0.45), z, rng.uniform(0.85, 1.15))
    _trees(stage, rng.integers(1, 7), 14, 50, winter, spread=1.2)
    for _ in range(rng.integers(0, 5) if stage.chance(0.4) else 0):
        stage.put(structures.house, rng.uniform(-1.2, 1.2), z + rng.uniform(6, 30), 8.0, eaves=rng.choice((3.2, 5.8)))
    if stage.chance(0.35):
        at = rng.uniform(9, 16)
        stage.add(
            at, structures.fence, (stage.across(-1.3, at), at), (stage.across(1.3, at), at), 1.2, 0.9, WHITE * 0.9
        )
    for _ in range(rng.integers(0, 6)):
        stage.scatter(
            nature.bush, 1, 9, 22, rng.uniform(0.6, 1.3), pick(rng, palette.FOLIAGE), pick(rng, palette.PETALS)
        )
    if stage.chance(0.35):
        _people(stage, rng.integers(1, 5), 8, 20)
    if stage.chance(0.15):
        stage.put(movables.car_from_side, rng.uniform(-0.7, 0.7), 10.5)
    if stage.chance(0.15):
        stage.put(structures.bench, rng.uniform(-0.7, 0.7), rng.uniform(8, 14))
    stage.paint()
    return canvas


def street(size: int, rng: np.random.Generator) -> Canvas:
    """A street between houses, seen along the road or across it."""
    stage = Stage(canvas := outdoor_canvas(size, rng, height=(1.6, 4.5), horizon=(0.42, 0.64), yaw=0.22))
    nature.sky(canvas)
    if stage.chance(0.25):
        _backdrop(stage, 0.4, 0.5, 0.2)
    nature.ground(canvas, "sidewalk", "stone", pick(rng, palette.ROCK) * 1.15, rough=0.05)
    asphalt = Skin(palette.pick(rng, palette.family("66666c", "5a5b60", "77757a")), "asphalt", grain=0.07, shade=0.0)
    if stage.chance(0.72):
        _street_along(stage, asphalt)
    else:
        _street_across(stage, asphalt)
    stage.paint()
    return canvas


def _street_along(stage: Stage, asphalt: Skin) -> None:
    canvas, rng = stage.canvas, stage.rng
    half, walk = rng.uniform(3.0, 5.0), rng.uniform(2.0, 3.5)
    if stage.chance(0.5):
        paving = skins.stone(pick(rng, palette.ROCK) * 1.2, pattern=skins.grid(palette.ROCK[3], 0.9, 0.07))
        structures.strip(canvas, "sidewalk", paving, [(1, -half - walk, half + walk), (300, -half - walk, half + walk)])
    structures.strip(canvas, "road", asphalt, [(1, -half, half), (300, -half, half)])
    marks = Skin(WHITE * 0.9, "painted", shade=0.0)
    for z in np.arange(2.0, 60.0, 5.0):
        structures.strip(canvas, "road", marks, [(z, -0.09, 0.09), (z + 2.4, -0.09, 0.09)])
    towers = stage.chance(0.3)
    for side in (-1, 1):
        if stage.chance(0.12):
            _trees(stage, 5, 12, 60, spread=1.0)
            continue
        z = rng.uniform(4, 9)
        while z < 110:
            depth, wide = rng.uniform(7, 13), rng.uniform(8, 12)
            x = side * (half + walk + wide / 2 + rng.uniform(0, 0.8))
            if towers and stage.chance(0.4):
                stage.add(z, structures.building, x, z, wide, depth, rng.uniform(25, 60), "skyscraper")
            elif stage.chance(0.2):
                stage.add(z, structures.house, x, z, wide, depth * 0.9, 5.8)
            else:
                stage.add(z, structures.building, x, z, wide, depth, rng.uniform(7, 17))
            z += depth + (rng.uniform(1, 6) if stage.chance(0.3) else 0.0)
    if stage.chance(0.15):
        stage.add(120, structures.church, rng.uniform(-8, 8), 120, 1.2)
    for side in (-1, 1):
        if stage.chance(0.5):
            for z in np.arange(rng.uniform(6, 12), 60, rng.uniform(10, 16)):
                kind = structures.streetlight if stage.chance(0.6) else nature.broad_tree
                extra = () if kind is structures.streetlight else (rng.uniform(4, 7), pick(rng, palette.FOLIAGE))
                stage.add(z, kind, side * (half + 0.7), z, *extra)
    for _ in range(rng.integers(0, 6)):
        stage.add(z := rng.uniform(8, 50), movables.car_from_front, rng.choice((-1, 1)) * half * 0.55, z)
    for _ in range(rng.integers(0, 6)):
        stage.add(z := rng.uniform(6, 30), movables.person, rng.choice((-1, 1)) * (half + rng.uniform(0.5, walk)), z)


def _street_across(stage: Stage, asphalt: Skin) -> None:
    canvas, rng = stage.canvas, stage.rng
    kerb = rng.uniform(13, 20)
    structures.strip(canvas, "road", asphalt, [(kerb - 7, -90, 90), (kerb, -90, 90)])
    front = kerb + rng.uniform(2.5, 4.5)
    x = stage.across(-1.6, front)
    while x < stage.across(1.6, front):
        wide = rng.uniform(6, 10)
        if stage.chance(0.45):
            stage.add(front, structures.house, x + wide / 2, front, wide - 0.3, 9.0, rng.choice((3.2, 5.8)))
        else:
            stage.add(front, structures.building, x + wide / 2, front, wide, 9.0, rng.uniform(7, 14))
        x += wide + (rng.uniform(1, 4) if stage.chance(0.25) else 0.0)
    if stage.chance(0.3):
        stage.scatter(structures.building, rng.integers(2, 6), 70, 120, 16.0, 16.0, rng.uniform(35, 60), "skyscraper")
    stage.scatter(movables.car_from_side, rng.integers(0, 4), kerb - 5, kerb - 1)
    _people(stage, rng.integers(0, 5), kerb + 0.5, kerb + 2)
    for share in (-0.7, 0.1, 0.8):
        if stage.chance(0.35):
            stage.put(structures.streetlight, share, kerb + 0.4)
        elif stage.chance(0.4):
            stage.put(nature.broad_tree, share, kerb + 0.5, rng.uniform(4, 7), pick(rng, palette.FOLIAGE))


def park(size: int, rng: np.random.Generator) -> Canvas:
    """Lawns with trees, paths, benches, a pond or swings."""
    stage = Stage(canvas := outdoor_canvas(size, rng, height=(1.7, 4.5), horizon=(0.4, 0.62)))
    nature.sky(canvas)
    if stage.chance(0.35):
        for _ in range(rng.integers(3, 8)):
            stage.put(
                structures.building,
                rng.uniform(-1, 1),
                rng.uniform(150, 220),
                26.0,
                20.0,
                rng.uniform(35, 90),
                "skyscraper",
            )
    stage.paint()
    if stage.chance(0.75):
        nature.tree_line(canvas, rng.uniform(70, 110), rng.uniform(7, 12), pick(rng, palette.FOLIAGE))
    winter = _meadow(stage, 0.08)
    if stage.chance(0.3):
        middle = stage.across(rng.uniform(-0.5, 0.5), 22)
        pond = nature.disc(middle, 22.0, rng.uniform(8, 13), rng.uniform(5, 8)) + rng.normal(0, 0.3, (12, 2))
        nature.water(canvas, nature.area(canvas, pond), "river", pick(rng, palette.SEA), 0.4)
    if stage.chance(0.7):
        _path(
            stage,
            "path",
            rng.uniform(1.6, 3.0),
            70,
            1.3,
            Skin(pick(rng, palette.SAND) * 0.92, "earth", grain=0.07, shade=0.0),
        )
    _trees(stage, rng.integers(3, 10), 10, 60, winter, spread=1.2)
    for _ in range(rng.integers(0, 6)):
        stage.scatter(
            nature.bush, 1, 8, 30, rng.uniform(0.6, 1.4), pick(rng, palette.FOLIAGE), pick(rng, palette.PETALS)
        )
    if stage.chance(0.15):
        stage.scatter(movables.parasol, int(rng.integers(1, 4)), 8, 22, spread=0.8)
    stage.scatter(structures.bench, int(rng.integers(0, 3)), 7, 18, spread=0.8)
    if stage.chance(0.3):
        stage.scatter(structures.streetlight, rng.integers(1, 4), 10, 30, rng.uniform(3.2, 4.5))
    if stage.chance(0.25):
        stage.put(structures.swing, rng.uniform(-0.7, 0.7), rng.uniform(10, 20))
    if stage.chance(0.22):
        stage.put(structures.slide, rng.uniform(-0.7, 0.7), rng.uniform(10, 20))
    if stage.chance(0.2):
        at = rng.uniform(10, 30)
        stage.add(at, structures.fence, (stage.across(-1.3, at), at), (stage.across(1.3, at), at))
    if stage.chance(0.7):
        _people(stage, rng.integers(1, 6), 7, 30)
    if not winter and stage.chance(0.35):
        nature.flowers(canvas, 50)
    stage.paint()
    return canvas


def forest_path(size: int, rng: np.random.Generator) -> Canvas:
    """A path that winds between tall trees."""
    stage = Stage(canvas := outdoor_canvas(size, rng, height=(1.5, 3.0), horizon=(0.4, 0.6)))
    nature.sky(canvas)
    winter = stage.chance(0.08)
    leaf = palette.AUTUMN if stage.chance(0.2) else palette.FOLIAGE
    for far in (110, 60):
        nature.tree_line(canvas, far, far * rng.uniform(0.16, 0.34), pick(rng, leaf) * (1.0 if far > 60 else 0.85))
    if winter:
        nature.ground(canvas, "snow", "snow", palette.SNOW * 0.93, rough=0.05)
    else:
        floor = mix(pick(rng, palette.GRASS), pick(rng, palette.EARTH), rng.uniform(0.1, 0.7)) * 0.85
        nature.ground(canvas, "grass", "grass", floor, rough=0.22)
    if stage.chance(0.93):
        _path(stage, "path", rng.uniform(1.4, 2.8), 55, 0.9)
    firs = rng.random()
    for _ in range(rng.integers(10, 19)):
        z = rng.uniform(5, 40)
        gap = 2.2 + rng.random() * z * 0.55
        x, tall = float(rng.choice((-1, 1)) * gap), rng.uniform(9, 18)
        if winter and stage.chance(0.4):
            stage.add(z, nature.bare_tree, x, z, tall)
        elif stage.chance(firs):
            stage.add(z, nature.conifer, x, z, tall, pick(rng, palette.CONIFER), snowy=winter)
        else:
            stage.add(z, nature.broad_tree, x, z, tall, pick(rng, leaf) * 0.95)
    for _ in range(rng.integers(2, 9)):
        z = rng.uniform(4, 20)
        stage.add(
            z,
            nature.bush,
            float(rng.choice((-1, 1)) * rng.uniform(1.8, 5)),
            z,
            rng.uniform(0.4, 1.2),
            pick(rng, leaf) * 0.9,
        )
    if stage.chance(0.35):
        stage.scatter(nature.rock, rng.integers(1, 6), 5, 20, rng.uniform(0.4, 1.2), pick(rng, palette.ROCK))
    if stage.chance(0.3):
        stage.scatter(movables.person, rng.integers(1, 3), 8, 22, spread=0.3)
    if stage.chance(0.12):
        stage.put(structures.bench, rng.uniform(-0.7, 0.7), rng.uniform(7, 14))
    if stage.chance(0.15):
        stage.add(8, structures.fence, (2.0, 5.0), (4.0, 40.0))
    stage.paint()
    return canvas


COMPOSITIONS = {
    "beach": beach,
    "church-outdoor": church,
    "desert-sand": desert,
    "farm": farm,
    "forest_path": forest_path,
    "harbor": harbor,
    "lighthouse": lighthouse,
    "mountain": mountain,
    "park": park,
    "street": street,
    "windmill": windmill,
}
