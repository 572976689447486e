"""Scenes by the sea: beach, harbor, lighthouse."""

import numpy as np

from scenes import palette, skins
from scenes.canvas import Canvas
from scenes.compositions import landscape
from scenes.palette import pick
from scenes.pen import Pen, Size, rectangle
from scenes.stage import Stage, outdoor_canvas
from scenes.things import buildings, movables, plants, street_furniture, terrain


def beach(size: int, rng: np.random.Generator) -> Canvas:
    """A sandy shore with bathers, parasols, palms, boats."""
    stage = Stage(canvas := outdoor_canvas(size, rng, height=(1.6, 6.0)))
    terrain.sky(canvas)
    landscape.far_coast(stage, 0.35)
    terrain.ground(canvas, "sand", "sand", pick(rng, palette.SAND), rough=0.09)
    line = landscape.coast(stage, rng.uniform(8, 28), rng.uniform(-0.5, 0.5), rng.uniform(0.5, 2.0))
    if stage.chance(0.35):
        z = rng.uniform(70, 140)
        landscape.headland(
            stage, z, rng.choice((-1, 1)) * rng.uniform(0.6, 1.1), rng.uniform(4, 14), rng.uniform(14, 40)
        )
    if stage.chance(0.12):
        stage.put(buildings.lighthouse, rng.uniform(-0.9, 0.9), 90, rng.uniform(16, 26), y=2.0)
    stage.scatter(movables.boat, rng.integers(0, 3), 40, 90)
    if stage.chance(0.6):
        landscape.ashore(stage, line, movables.parasol, rng.integers(2, 9), 7, 22)
    if stage.chance(0.7):
        landscape.ashore(stage, line, movables.person, rng.integers(2, 9), 6, 24)
    if stage.chance(0.35):
        side = rng.choice((-1, 1))
        for _ in range(rng.integers(1, 4)):
            stage.put(plants.palm, side * rng.uniform(0.35, 0.95), rng.uniform(7, 12), rng.uniform(4.5, 7.5))
    if stage.chance(0.25):
        colour = pick(rng, palette.ROCK)
        stage.scatter(terrain.rock, rng.integers(2, 6), 6, 24, rng.uniform(0.6, 2.0), colour)
    if stage.chance(0.15):
        landscape.ashore(stage, line, movables.boat, 1, 7, 12, kind="row")
    if stage.chance(0.12):
        street_furniture.pier(canvas, stage.across(rng.uniform(-0.7, 0.7), 20), 2.4, 12, 60)
    if stage.chance(0.1):
        landscape.ashore(stage, line, buildings.house, 2, 16, 24, Size(7.0, 7.0, 3.2))
    stage.paint()
    return canvas


def harbor(size: int, rng: np.random.Generator) -> Canvas:
    """Boats at their moorings before a quay with houses."""
    stage = Stage(canvas := outdoor_canvas(size, rng, height=(2.5, 8.0), horizon=(0.32, 0.55)))
    terrain.sky(canvas)
    landscape.far_coast(stage, 0.45)
    landscape.open_sea(stage)
    quay = rng.uniform(38, 75)
    if stage.chance(0.75):
        terrain.strip(
            canvas, "sidewalk", skins.stone(pick(rng, palette.ROCK)), [(quay, -300, 300), (quay + 60, -300, 300)]
        )
        Pen(canvas, "wall", 0, quay).draw(skins.stone(pick(rng, palette.ROCK) * 0.75), rectangle(-300, 300, -0.4, 1.0))
        at = -1.3
        while at < 1.3 and stage.chance(0.97):
            wide = rng.uniform(6, 10)
            if stage.chance(0.6):
                stage.put(buildings.house, at, quay + 4, Size(wide, 8.0, rng.choice((3.2, 6.0))))
            else:
                stage.put(buildings.building, at, quay + 5, Size(wide, 9.0, rng.uniform(6, 13)))
            at += rng.uniform(1.0, 1.5) * wide / (quay + 4) * 2 * canvas.camera.focal
        landscape.trees(stage, rng.integers(0, 4), quay + 8, quay + 20)
    if stage.chance(0.22):
        stage.put(buildings.lighthouse, rng.uniform(-0.9, 0.9), quay + 3, rng.uniform(12, 18), y=0.8)
    stage.scatter(movables.boat, rng.integers(3, 10), 11, quay - 3)
    if stage.chance(0.5):
        x = stage.across(rng.choice((-1, 1)) * rng.uniform(0.35, 0.9), 9)
        stage.add(rng.uniform(9, 24), street_furniture.pier, x, rng.uniform(2.0, 3.4), 2.5, rng.uniform(24, 36))
        if stage.chance(0.4):
            stage.add(8.9, movables.person, x, 8.9, 0.8)
    stage.paint()
    return canvas


def lighthouse(size: int, rng: np.random.Generator) -> Canvas:
    """A lighthouse on a rock or a headland by the sea."""
    stage = Stage(canvas := outdoor_canvas(size, rng, height=(2.0, 9.0), horizon=(0.45, 0.72)))
    terrain.sky(canvas)
    landscape.far_coast(stage, 0.3)
    far = stage.chance(0.22)
    z = rng.uniform(75, 150) if far else rng.uniform(22, 55)
    tall, share = rng.uniform(14, 26), rng.uniform(-0.7, 0.7)
    if stage.chance(0.6):
        landscape.open_sea(stage)
        rise = rng.uniform(1.5, 7.0)
        # The width is drawn when the stage is painted, not here.
        stage.add(z + 0.5, lambda _: landscape.headland(stage, z + 0.4, share, rise, rng.uniform(12, 34)))
        stage.put(buildings.lighthouse, share, z, tall, y=rise * 0.8)
        if stage.chance(0.4):
            stage.put(buildings.house, share + rng.choice((-1, 1)) * 0.25, z + 0.3, Size(7.0, 5.0, 3.2), y=rise * 0.8)
    else:
        if stage.chance(0.6):
            landscape.meadow(stage, 0.06)
        else:
            terrain.ground(canvas, "sand", "sand", pick(rng, palette.SAND))
        landscape.coast(stage, min(z, 60.0) + rng.uniform(14, 40), rng.uniform(-0.25, 0.25), 2.0)
        stage.put(buildings.lighthouse, share, min(z, 60.0), tall)
        if stage.chance(0.45):
            stage.put(buildings.house, share + rng.choice((-1, 1)) * 0.4, min(z, 60.0) + 2)
        if stage.chance(0.4):
            at = rng.uniform(9, 18)
            stage.add(at, street_furniture.fence, (stage.across(-1.4, at), at), (stage.across(1.4, at + 6), at + 6))
        if stage.chance(0.3):
            landscape.path(stage, "path", 2.0, min(z, 60.0))
    stage.scatter(terrain.rock, rng.integers(0, 8), 6, 22, rng.uniform(0.6, 2.2), pick(rng, palette.ROCK))
    if stage.chance(0.35):
        stage.scatter(movables.boat, rng.integers(1, 4), 130, 180)
    if stage.chance(0.3):
        landscape.people(stage, rng.integers(1, 3), 9, 24)
    stage.paint()
    return canvas
