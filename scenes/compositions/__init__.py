"""Compositions: for each class, the function that draws a whole scene on a new canvas of its own."""

from collections.abc import Callable

import numpy as np

from scenes.canvas import Canvas
from scenes.compositions import countryside, indoors, seaside, town

COMPOSITIONS: dict[str, Callable[[int, np.random.Generator], Canvas]] = {
    "beach": seaside.beach,
    "bedroom": indoors.bedroom,
    "church-outdoor": town.church,
    "desert-sand": countryside.desert,
    "dining_room": indoors.dining_room,
    "farm": countryside.farm,
    "forest_path": countryside.forest_path,
    "harbor": seaside.harbor,
    "kitchen": indoors.kitchen,
    "lighthouse": seaside.lighthouse,
    "living_room": indoors.living_room,
    "mountain": countryside.mountain,
    "office": indoors.office,
    "park": town.park,
    "street": town.street,
    "windmill": countryside.windmill,
}
