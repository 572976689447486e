"""The names of everything a scene can show, by category; a name's place in its tuple is its code (from 1).

Add a name at the end of its tuple: codes, and the label numbers made from them, depend on the order.
"""

import numpy as np

OBJECTS = (
    "sky",
    "sea",
    "river",
    "sand",
    "grass",
    "field",
    "earth",
    "snow",
    "mountain",
    "hill",
    "rock",
    "tree",
    "palm",
    "bush",
    "flower",
    "cactus",
    "path",
    "road",
    "sidewalk",
    "house",
    "building",
    "skyscraper",
    "church",
    "lighthouse",
    "windmill",
    "barn",
    "fence",
    "pier",
    "streetlight",
    "bench",
    "swing",
    "slide",
    "car",
    "boat",
    "person",
    "umbrella",
    "cow",
    "wall",
    "floor",
    "ceiling",
    "window",
    "door",
    "curtain",
    "painting",
    "mirror",
    "clock",
    "bed",
    "sofa",
    "chair",
    "table",
    "desk",
    "lamp",
    "rug",
    "cabinet",
    "stove",
    "refrigerator",
    "sink",
    "hood",
    "bookcase",
    "book",
    "computer",
    "plant",
    "vase",
    "plate",
    "bottle",
    "bowl",
    "towel",
)

PARTS = (
    "window",
    "door",
    "roof",
    "wall",
    "chimney",
    "trunk",
    "foliage",
    "wheel",
    "headlight",
    "hull",
    "sail",
    "mast",
    "head",
    "torso",
    "arm",
    "leg",
    "hat",
    "blade",
    "tower",
    "lantern",
    "balcony",
    "cross",
    "lampshade",
    "column",
    "headboard",
    "pillow",
    "blanket",
    "seat",
    "back",
    "armrest",
    "top",
    "drawer",
    "screen",
    "keyboard",
    "pane",
    "frame",
    "pot",
    "burner",
    "handle",
    "post",
    "body",
)

MATERIALS = (
    "sky",
    "water",
    "sand",
    "grass",
    "earth",
    "snow",
    "rock",
    "stone",
    "foliage",
    "wood",
    "brick",
    "glass",
    "fabric",
    "metal",
    "painted",
    "tile",
    "asphalt",
    "skin",
    "hair",
    "paper",
    "ceramic",
    "leather",
    "plastic",
)

TEXTURES = (
    "banded",
    "chequered",
    "cracked",
    "grid",
    "grooved",
    "lined",
    "pleated",
    "polka-dotted",
    "scaly",
    "stratified",
    "striped",
    "waffled",
    "woven",  # nothing has it at present; it keeps its place for the codes of the others
    "zigzagged",
)

COLOURS = ("black", "blue", "brown", "green", "grey", "orange", "pink", "purple", "red", "white", "yellow")

LAYERS = {"object": OBJECTS, "part": PARTS, "material": MATERIALS, "texture": TEXTURES}
_SHIFTS = {"object": 0, "part": 8, "material": 16, "texture": 24}
_CODES = {
    (layer, name): (code + 1) << _SHIFTS[layer] for layer, names in LAYERS.items() for code, name in enumerate(names)
}


def pack(**names: str | None) -> int:
    """Pack the names of one pixel's labels, `layer=name`, into a single 32-bit code (None: no label)."""
    return sum(_CODES[layer, name] for layer, name in names.items() if name is not None)


def unpack(codes: np.ndarray, layer: str) -> np.ndarray:
    """Return one layer of an array of packed codes as uint8: 0 for no label, else the name's place from 1."""
    return ((codes >> _SHIFTS[layer]) & 255).astype("uint8")
