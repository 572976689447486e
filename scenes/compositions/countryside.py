"""Scenes in the open country: desert, farm, forest path, mountain, windmill."""

import numpy as np

from scenes import palette, skins
from scenes.canvas import Canvas
from scenes.compositions import landscape
from scenes.palette import mix, pick
from scenes.pen import Size
from scenes.skins import Skin
from scenes.stage import Stage, outdoor_canvas
from scenes.things import buildings, movables, plants, street_furniture, terrain


def desert(size: int, rng: np.random.Generator) -> Canvas:
    """Dunes and stony plains under a wide sky."""
    stage = Stage(canvas := outdoor_canvas(size, rng, height=(1.7, 8.0)))
    terrain.sky(canvas)
    colour = pick(rng, palette.DUNE)
    if stage.chance(0.4):
        terrain.mountains(
            canvas, 1500, rng.uniform(120, 420), mix(pick(rng, palette.ROCK), colour, 0.6), rng.integers(2, 6)
        )
    terrain.ground(canvas, "sand", "sand", colour, rough=0.08)
    for z in (420, 190, 80)[: rng.integers(0, 4)]:
        terrain.hills(canvas, z, z * rng.uniform(0.06, 0.15), colour * rng.uniform(0.86, 1.06), "sand")
    if stage.chance(0.25):
        landscape.path(stage, "road", 5.0, 150, 0.7, Skin(palette.hexa("6f6c6a"), "asphalt", grain=0.06, shade=0.0))
    if stage.chance(0.5):
        for _ in range(rng.integers(1, 8)):
            stage.scatter(plants.cactus, 1, 8, 40, rng.uniform(1.5, 4.5))
    if stage.chance(0.5):
        stage.scatter(
            terrain.rock, rng.integers(2, 9), 6, 35, rng.uniform(0.4, 2.2), mix(pick(rng, palette.ROCK), colour, 0.4)
        )
    if stage.chance(0.45):
        for _ in range(rng.integers(3, 9)):
            stage.scatter(plants.bush, 1, 6, 40, rng.uniform(0.4, 1.0), pick(rng, palette.DRY_GRASS) * 0.75)
    if stage.chance(0.2):
        stage.scatter(plants.palm, rng.integers(1, 5), 14, 40, rng.uniform(5, 9))
    if stage.chance(0.25):
        landscape.people(stage, rng.integers(1, 4), 8, 30)
    if stage.chance(0.08):
        stage.put(buildings.house, rng.uniform(-0.7, 0.7), 35, skin=skins.painted(colour))
    if stage.chance(0.1):
        stage.put(movables.car_from_side, rng.uniform(-0.6, 0.6), rng.uniform(12, 25))
    stage.paint()
    return canvas


def farm(size: int, rng: np.random.Generator) -> Canvas:
    """Fields, barns, fences and cattle."""
    stage = Stage(canvas := outdoor_canvas(size, rng, height=(2.0, 7.0), horizon=(0.34, 0.58)))
    terrain.sky(canvas)
    landscape.backdrop(stage, 0.2, 0.6, 0.5)
    winter = landscape.meadow(stage, 0.07)
    if stage.chance(0.65) and not winter:
        landscape.field_rows(stage)
    if stage.chance(0.3):
        landscape.path(stage, "path", 2.6, 70)
    if stage.chance(0.62):
        stage.put(buildings.barn, rng.uniform(-0.8, 0.8), rng.uniform(24, 60), rng.uniform(9, 13))
    if stage.chance(0.45):
        at, z = rng.uniform(-0.9, 0.9), rng.uniform(28, 60)
        stage.put(buildings.house, at, z, Size(rng.uniform(7, 10), 7.0, rng.choice((3.2, 5.8))))
    if stage.chance(0.15):
        stage.put(buildings.windmill, rng.uniform(-0.9, 0.9), rng.uniform(45, 90), rng.uniform(11, 15))
    if stage.chance(0.45):
        stage.scatter(movables.cow, rng.integers(1, 7), 10, 40)
    if stage.chance(0.55):
        landscape.fence_across(stage, rng.uniform(7, 22), rng.uniform(-2, 8))
    landscape.trees(stage, rng.integers(0, 6), 25, 80, winter)
    if stage.chance(0.2):
        landscape.people(stage, rng.integers(1, 3), 10, 25)
    if stage.chance(0.12):
        stage.put(movables.car_from_side, rng.uniform(-0.7, 0.7), rng.uniform(15, 30))
    stage.paint()
    return canvas


def forest_path(size: int, rng: np.random.Generator) -> Canvas:
    """A path that winds between tall trees."""
    stage = Stage(canvas := outdoor_canvas(size, rng, height=(1.5, 3.0), horizon=(0.4, 0.6)))
    terrain.sky(canvas)
    winter = stage.chance(0.08)
    leaf = palette.AUTUMN if stage.chance(0.2) else palette.FOLIAGE
    for far in (110, 60):
        plants.tree_line(canvas, far, far * rng.uniform(0.16, 0.34), pick(rng, leaf) * (1.0 if far > 60 else 0.85))
    if winter:
        terrain.ground(canvas, "snow", "snow", palette.SNOW * 0.93, rough=0.05)
    else:
        floor = mix(pick(rng, palette.GRASS), pick(rng, palette.EARTH), rng.uniform(0.1, 0.7)) * 0.85
        terrain.ground(canvas, "grass", "grass", floor, rough=0.22)
    if stage.chance(0.93):
        landscape.path(stage, "path", rng.uniform(1.4, 2.8), 55, 0.9)
    firs = rng.random()
    for _ in range(rng.integers(10, 19)):
        z = rng.uniform(5, 40)
        gap = 2.2 + rng.random() * z * 0.55
        x, tall = float(rng.choice((-1, 1)) * gap), rng.uniform(9, 18)
        if winter and stage.chance(0.4):
            stage.add(z, plants.bare_tree, x, z, tall)
        elif stage.chance(firs):
            stage.add(z, plants.conifer, x, z, tall, pick(rng, palette.CONIFER), snowy=winter)
        else:
            stage.add(z, plants.broad_tree, x, z, tall, pick(rng, leaf) * 0.95)
    for _ in range(rng.integers(2, 9)):
        z = rng.uniform(4, 20)
        x = float(rng.choice((-1, 1)) * rng.uniform(1.8, 5))
        stage.add(z, plants.bush, x, z, rng.uniform(0.4, 1.2), pick(rng, leaf) * 0.9)
    if stage.chance(0.35):
        stage.scatter(terrain.rock, rng.integers(1, 6), 5, 20, rng.uniform(0.4, 1.2), pick(rng, palette.ROCK))
    if stage.chance(0.3):
        stage.scatter(movables.person, rng.integers(1, 3), 8, 22, spread=0.3)
    if stage.chance(0.12):
        stage.put(street_furniture.bench, rng.uniform(-0.7, 0.7), rng.uniform(7, 14))
    if stage.chance(0.15):
        stage.add(8, street_furniture.fence, (2.0, 5.0), (4.0, 40.0))
    stage.paint()
    return canvas


def mountain(size: int, rng: np.random.Generator) -> Canvas:
    """High mountains behind a meadow, a lake or a snowfield."""
    stage = Stage(canvas := outdoor_canvas(size, rng, height=(2.0, 12.0), horizon=(0.5, 0.8)))
    terrain.sky(canvas)
    z, snow = rng.uniform(1200, 2200), rng.uniform(0.25, 1.2)
    tall = z * (rng.uniform(0.28, 0.52) if stage.chance(0.8) else rng.uniform(0.12, 0.2))
    terrain.mountains(canvas, z * 1.4, tall * 1.25, pick(rng, palette.ROCK), rng.integers(3, 6), snow * 0.8)
    terrain.mountains(canvas, z, tall * 0.8, pick(rng, palette.ROCK), rng.integers(2, 5), snow)
    if stage.chance(0.6):
        terrain.hills(canvas, 420, rng.uniform(25, 70), pick(rng, palette.CONIFER), "foliage")
    winter = landscape.meadow(stage, 0.3)
    if stage.chance(0.35):
        line = terrain.shore(rng, rng.uniform(10, 26), 60, rng.uniform(-0.2, 0.2), 2.0)
        end = rng.uniform(80, 200)
        lake = np.concatenate([line, [(900, end), (-900, end)]])
        terrain.water(canvas, terrain.area(canvas, lake), "river", pick(rng, palette.SEA), 0.4)
    for _ in range(rng.integers(0, 12)):
        colour = pick(rng, palette.CONIFER)
        stage.scatter(plants.conifer, 1, 16, 70, rng.uniform(7, 13), colour, snowy=winter)
    if stage.chance(0.4):
        stage.scatter(terrain.rock, rng.integers(2, 8), 6, 30, rng.uniform(0.8, 2.6), pick(rng, palette.ROCK))
    if stage.chance(0.25):
        stage.put(buildings.house, rng.uniform(-0.7, 0.7), rng.uniform(30, 55))
    if stage.chance(0.10):
        stage.put(buildings.church, rng.uniform(-0.7, 0.7), rng.uniform(60, 90), 0.8)
    if stage.chance(0.2):
        landscape.path(stage, "path", 2.0, 60, 1.5)
    if stage.chance(0.15):
        stage.scatter(movables.cow, rng.integers(1, 5), 14, 40)
    if stage.chance(0.2):
        landscape.people(stage, rng.integers(1, 3), 8, 20)
    if not winter and stage.chance(0.35):
        plants.flowers(canvas)
    stage.paint()
    return canvas


def windmill(size: int, rng: np.random.Generator) -> Canvas:
    """Windmills over flat country with canals and flower fields."""
    stage = Stage(canvas := outdoor_canvas(size, rng, height=(1.8, 5.5), horizon=(0.5, 0.74)))
    terrain.sky(canvas)
    landscape.backdrop(stage, 0.08, 0.35, 0.5)
    winter = landscape.meadow(stage, 0.06)
    if stage.chance(0.3):
        wide = rng.uniform(4, 9)
        colour = mix(pick(rng, palette.SEA), canvas.light.low, 0.35)
        water = Skin(colour, "water", grain=0.05, noise="streaks", shade=0.0)
        landscape.path(stage, "river", wide, 140, 0.8, water)
    elif stage.chance(0.4) and not winter:
        landscape.field_rows(stage)
    elif stage.chance(0.35):
        landscape.path(stage, "path", 2.2, 60)
    far = stage.chance(0.22)
    for _ in range(1 if stage.chance(0.7) else rng.integers(2, 4)):
        z = rng.uniform(70, 120) if far else rng.uniform(18, 50)
        stage.put(buildings.windmill, rng.uniform(-0.75, 0.75), z, rng.uniform(11, 16))
    if stage.chance(0.35):
        stage.put(buildings.house, rng.uniform(-0.9, 0.9), rng.uniform(28, 60))
    if stage.chance(0.12):
        stage.put(buildings.barn, rng.uniform(-0.9, 0.9), rng.uniform(40, 60))
    if stage.chance(0.35):
        landscape.fence_across(stage, rng.uniform(8, 20), rng.uniform(-2, 6))
    if stage.chance(0.3):
        stage.scatter(movables.cow, rng.integers(1, 5), 12, 35)
    landscape.trees(stage, rng.integers(0, 5), 25, 80, winter)
    if not winter and stage.chance(0.4):
        plants.flowers(canvas, 70)
    if stage.chance(0.2):
        landscape.people(stage, rng.integers(1, 3), 9, 25)
    stage.paint()
    return canvas
