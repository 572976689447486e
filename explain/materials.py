"""Notices for a network that is shown, or named by, images of another material than it was trained on."""

from explain.inputs import Data
from explain.subjects import Selection
from loader.datasets import spec_of
from loader.materials import DRAWN, IMAGES, materials_of_files
from loader.mini_places import BRODEN
from util.made_of import MadeOf

_MOST_CHARACTERS = 80  # of a name from a record that a notice quotes


def materials_shown(data: Data, selection: Selection) -> set[str | None]:
    """The materials of the images that are explained, of `loader.materials.IMAGES`; None: some are unknown."""
    own: set[str | None] = {data.spec.material} if selection.indices else set()
    return own | materials_of_files(selection.files)


def images_notice(dataset: str | None, shown: set[str | None]) -> str | None:
    """A notice if a network is shown images of another material than it was trained on; None where that is unknown.

    Args:
        dataset: name of the data set that it was trained on; None if it is unknown.
        shown: as of `materials_shown`.
    """
    trained = _material_of_dataset(dataset)
    others = [material for material in IMAGES if material in shown and material != trained]
    if trained is None or not others:
        return None
    source, images = f"{IMAGES[trained]} ({dataset})", IMAGES[others[0]]
    if len(shown) == 1:
        return f"the network was trained on {source} and is shown {images}: its answers mean little"
    return f"the network was trained on {source}, and some of the images are {images}: its answers to them mean little"


def concepts_notice(dataset: str | None, made_of: MadeOf | None) -> str | None:
    """A notice if the names of a network's units come from images of another material than it was trained on.

    Args:
        dataset: name of the data set that it was trained on; None if it is unknown.
        made_of: the record of the tally that names the units; None if it has none.
    """
    trained, named_by = _material_of_dataset(dataset), _material_of_tally(made_of or {})
    if made_of is None or trained is None or named_by in (None, trained):
        return None
    folder = made_of.get("data")
    concepts = f" ({folder[:_MOST_CHARACTERS]})" if isinstance(folder, str) else ""
    return (
        f"the units' names come from {IMAGES[named_by]}{concepts}, but the network was trained on {IMAGES[trained]} "
        f"({dataset}): the names mean little"
    )


def _material_of_dataset(dataset: str | None) -> str | None:
    return None if dataset is None else spec_of(dataset).material


def _material_of_tally(made_of: MadeOf) -> str | None:
    """Of the images that a tally was counted on. Records from before they had the field say the folder's name only."""
    material = made_of.get("material", DRAWN if made_of.get("data") == BRODEN else None)
    return material if isinstance(material, str) and material in IMAGES else None
