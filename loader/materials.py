"""What images are: drawn by a program, or photographed. What a network learned of the one says little about the other.

A folder that this program rendered has a manifest that says so. A user's own files are taken for photographs, but for
those in such a folder.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from util.cli import UserError
from util.files import read_json

DRAWN, PHOTOGRAPHED = "drawn", "photographed"
IMAGES = {DRAWN: "drawn scenes", PHOTOGRAPHED: "photographs"}  # of each material, in a sentence

MANIFEST = "manifest.json"
_MANIFEST_BYTES = 1 << 20  # at most
_MANIFEST_KEYS = {"version", "seed", "classes", "train", "val", "broden"}  # which no other program's file has, all six


def read_manifest(folder: str | os.PathLike) -> dict[str, Any]:
    """A rendered folder's manifest; empty if it is missing or broken."""
    try:
        return read_json(Path(folder) / MANIFEST, "manifest", _MANIFEST_BYTES)
    except UserError:
        return {}


def material_of_folder(folder: str | os.PathLike) -> str:
    """`DRAWN` for a folder that was rendered, `PHOTOGRAPHED` for any other."""
    return DRAWN if read_manifest(folder).keys() >= _MANIFEST_KEYS else PHOTOGRAPHED


def materials_of_files(paths: Iterable[str | os.PathLike]) -> set[str]:
    """The materials of a user's own files: `DRAWN` for those that lie, links aside, anywhere in a rendered folder."""
    folders = {Path(os.path.realpath(path)).parent for path in paths}
    above = {place: material_of_folder(place) for folder in folders for place in (folder, *folder.parents)}
    return {
        DRAWN if any(above[place] == DRAWN for place in (folder, *folder.parents)) else PHOTOGRAPHED
        for folder in folders
    }
