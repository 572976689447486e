"""Scenes in towns and villages: church, park, street."""

import numpy as np

from scenes import palette, skins
from scenes.canvas import Canvas
from scenes.compositions import landscape
from scenes.palette import WHITE, pick
from scenes.pen import Size, disc
from scenes.skins import Skin
from scenes.stage import Stage, outdoor_canvas
from scenes.things import buildings, movables, plants, street_furniture, terrain


def church(size: int, rng: np.random.Generator) -> Canvas:
    """A church among trees, in a village or in the open country."""
    stage = Stage(canvas := outdoor_canvas(size, rng, height=(1.7, 4.5), horizon=(0.55, 0.78)))
    terrain.sky(canvas)
    landscape.backdrop(stage, 0.25, 0.5, 0.4)
    winter = landscape.meadow(stage, 0.12)
    if stage.chance(0.6):
        stone_path = skins.stone(
            pick(rng, palette.ROCK) * 1.1, pattern=skins.grid(palette.ROCK[3], 1.0, 0.1, "cracked")
        )
        landscape.path(stage, "path", rng.uniform(1.8, 3.2), 40, 0.6, stone_path if stage.chance(0.4) else None)
    elif stage.chance(0.35):
        terrain.strip(
            canvas, "road", Skin(palette.hexa("77757a"), "asphalt", grain=0.05), [(7, -90, 90), (13, -90, 90)]
        )
    far = stage.chance(0.2)
    z = rng.uniform(55, 90) if far else rng.uniform(20, 36)
    stage.put(buildings.church, rng.uniform(-0.45, 0.45), z, rng.uniform(0.85, 1.15))
    landscape.trees(stage, rng.integers(1, 7), 14, 50, winter, spread=1.2)
    for _ in range(rng.integers(0, 5) if stage.chance(0.4) else 0):
        stage.put(
            buildings.house, rng.uniform(-1.2, 1.2), z + rng.uniform(6, 30), Size(8.0, 7.0, rng.choice((3.2, 5.8)))
        )
    if stage.chance(0.35):
        landscape.fence_across(stage, rng.uniform(9, 16), 0.0, 1.2, 0.9, WHITE * 0.9)
    for _ in range(rng.integers(0, 6)):
        stage.scatter(
            plants.bush, 1, 9, 22, rng.uniform(0.6, 1.3), pick(rng, palette.FOLIAGE), pick(rng, palette.PETALS)
        )
    if stage.chance(0.35):
        landscape.people(stage, rng.integers(1, 5), 8, 20)
    if stage.chance(0.15):
        stage.put(movables.car_from_side, rng.uniform(-0.7, 0.7), 10.5)
    if stage.chance(0.15):
        stage.put(street_furniture.bench, rng.uniform(-0.7, 0.7), rng.uniform(8, 14))
    stage.paint()
    return canvas


def park(size: int, rng: np.random.Generator) -> Canvas:
    """Lawns with trees, paths, benches, a pond or swings."""
    stage = Stage(canvas := outdoor_canvas(size, rng, height=(1.7, 4.5), horizon=(0.4, 0.62)))
    terrain.sky(canvas)
    if stage.chance(0.35):
        for _ in range(rng.integers(3, 8)):
            at, z = rng.uniform(-1, 1), rng.uniform(150, 220)
            stage.put(buildings.building, at, z, Size(26.0, 20.0, rng.uniform(35, 90)), "skyscraper")
    stage.paint()
    if stage.chance(0.75):
        plants.tree_line(canvas, rng.uniform(70, 110), rng.uniform(7, 12), pick(rng, palette.FOLIAGE))
    winter = landscape.meadow(stage, 0.08)
    if stage.chance(0.3):
        _pond(stage)
    if stage.chance(0.7):
        wide = rng.uniform(1.6, 3.0)
        gravel = Skin(pick(rng, palette.SAND) * 0.92, "earth", grain=0.07, shade=0.0)
        landscape.path(stage, "path", wide, 70, 1.3, gravel)
    landscape.trees(stage, rng.integers(3, 10), 10, 60, winter, spread=1.2)
    for _ in range(rng.integers(0, 6)):
        stage.scatter(
            plants.bush, 1, 8, 30, rng.uniform(0.6, 1.4), pick(rng, palette.FOLIAGE), pick(rng, palette.PETALS)
        )
    if stage.chance(0.15):
        stage.scatter(movables.parasol, int(rng.integers(1, 4)), 8, 22, spread=0.8)
    stage.scatter(street_furniture.bench, int(rng.integers(0, 3)), 7, 18, spread=0.8)
    if stage.chance(0.3):
        stage.scatter(street_furniture.streetlight, rng.integers(1, 4), 10, 30, rng.uniform(3.2, 4.5))
    if stage.chance(0.25):
        stage.put(street_furniture.swing, rng.uniform(-0.7, 0.7), rng.uniform(10, 20))
    if stage.chance(0.22):
        stage.put(street_furniture.slide, rng.uniform(-0.7, 0.7), rng.uniform(10, 20))
    if stage.chance(0.2):
        landscape.fence_across(stage, rng.uniform(10, 30))
    if stage.chance(0.7):
        landscape.people(stage, rng.integers(1, 6), 7, 30)
    if not winter and stage.chance(0.35):
        plants.flowers(canvas, 50)
    stage.paint()
    return canvas


def _pond(stage: Stage) -> None:
    canvas, rng = stage.canvas, stage.rng
    middle = stage.across(rng.uniform(-0.5, 0.5), 22)
    bank = disc(middle, 22.0, rng.uniform(8, 13), rng.uniform(5, 8)) + rng.normal(0, 0.3, (12, 2))
    terrain.water(canvas, terrain.area(canvas, bank), "river", pick(rng, palette.SEA), 0.4)


def street(size: int, rng: np.random.Generator) -> Canvas:
    """A street between houses, seen along the road or across it."""
    stage = Stage(canvas := outdoor_canvas(size, rng, height=(1.6, 4.5), horizon=(0.42, 0.64), yaw=0.22))
    terrain.sky(canvas)
    if stage.chance(0.25):
        landscape.backdrop(stage, 0.4, 0.5, 0.2)
    terrain.ground(canvas, "sidewalk", "stone", pick(rng, palette.ROCK) * 1.15, rough=0.05)
    asphalt = Skin(pick(rng, palette.family("66666c", "5a5b60", "77757a")), "asphalt", grain=0.07, shade=0.0)
    if stage.chance(0.72):
        _street_along(stage, asphalt)
    else:
        _street_across(stage, asphalt)
    stage.paint()
    return canvas


def _street_along(stage: Stage, asphalt: Skin) -> None:
    """Draw a road that leads away between rows of houses, with trees, lights, cars and people along it."""
    canvas, rng = stage.canvas, stage.rng
    half, walk = rng.uniform(3.0, 5.0), rng.uniform(2.0, 3.5)
    if stage.chance(0.5):
        paving = skins.stone(pick(rng, palette.ROCK) * 1.2, pattern=skins.grid(palette.ROCK[3], 0.9, 0.07))
        terrain.strip(canvas, "sidewalk", paving, [(1, -half - walk, half + walk), (300, -half - walk, half + walk)])
    terrain.strip(canvas, "road", asphalt, [(1, -half, half), (300, -half, half)])
    marks = Skin(WHITE * 0.9, "painted", shade=0.0)
    for z in np.arange(2.0, 60.0, 5.0):
        terrain.strip(canvas, "road", marks, [(z, -0.09, 0.09), (z + 2.4, -0.09, 0.09)])
    towers = stage.chance(0.3)
    for side in (-1, 1):
        if stage.chance(0.12):
            landscape.trees(stage, 5, 12, 60, spread=1.0)
            continue
        z = rng.uniform(4, 9)
        while z < 110:
            depth, wide = rng.uniform(7, 13), rng.uniform(8, 12)
            x = side * (half + walk + wide / 2 + rng.uniform(0, 0.8))
            if towers and stage.chance(0.4):
                stage.add(z, buildings.building, x, z, Size(wide, depth, rng.uniform(25, 60)), "skyscraper")
            elif stage.chance(0.2):
                stage.add(z, buildings.house, x, z, Size(wide, depth * 0.9, 5.8))
            else:
                stage.add(z, buildings.building, x, z, Size(wide, depth, rng.uniform(7, 17)))
            z += depth + (rng.uniform(1, 6) if stage.chance(0.3) else 0.0)
    if stage.chance(0.15):
        stage.add(120, buildings.church, rng.uniform(-8, 8), 120, 1.2)
    for side in (-1, 1):
        if stage.chance(0.5):
            for z in np.arange(rng.uniform(6, 12), 60, rng.uniform(10, 16)):
                kind = street_furniture.streetlight if stage.chance(0.6) else plants.broad_tree
                extra = () if kind is street_furniture.streetlight else (rng.uniform(4, 7), pick(rng, palette.FOLIAGE))
                stage.add(z, kind, side * (half + 0.7), z, *extra)
    for _ in range(rng.integers(0, 6)):
        stage.add(z := rng.uniform(8, 50), movables.car_from_front, rng.choice((-1, 1)) * half * 0.55, z)
    for _ in range(rng.integers(0, 6)):
        stage.add(z := rng.uniform(6, 30), movables.person, rng.choice((-1, 1)) * (half + rng.uniform(0.5, walk)), z)


def _street_across(stage: Stage, asphalt: Skin) -> None:
    """Draw a road across the view before one row of houses."""
    canvas, rng = stage.canvas, stage.rng
    kerb = rng.uniform(13, 20)
    terrain.strip(canvas, "road", asphalt, [(kerb - 7, -90, 90), (kerb, -90, 90)])
    front = kerb + rng.uniform(2.5, 4.5)
    x = stage.across(-1.6, front)
    while x < stage.across(1.6, front):
        wide = rng.uniform(6, 10)
        if stage.chance(0.45):
            stage.add(front, buildings.house, x + wide / 2, front, Size(wide - 0.3, 9.0, rng.choice((3.2, 5.8))))
        else:
            stage.add(front, buildings.building, x + wide / 2, front, Size(wide, 9.0, rng.uniform(7, 14)))
        x += wide + (rng.uniform(1, 4) if stage.chance(0.25) else 0.0)
    if stage.chance(0.3):
        count, size = rng.integers(2, 6), Size(16.0, 16.0, rng.uniform(35, 60))
        stage.scatter(buildings.building, count, 70, 120, size, "skyscraper")
    stage.scatter(movables.car_from_side, rng.integers(0, 4), kerb - 5, kerb - 1)
    landscape.people(stage, rng.integers(0, 5), kerb + 0.5, kerb + 2)
    for share in (-0.7, 0.1, 0.8):
        if stage.chance(0.35):
            stage.put(street_furniture.streetlight, share, kerb + 0.4)
        elif stage.chance(0.4):
            stage.put(plants.broad_tree, share, kerb + 0.5, rng.uniform(4, 7), pick(rng, palette.FOLIAGE))
