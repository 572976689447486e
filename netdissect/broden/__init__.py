"""Broden-format folders (Bau et al. 2017): images with labels of several categories, per pixel or per image.

    python3 -m netdissect.broden check DIR         # lists the faults of a folder
    python3 -m netdissect.broden build --help      # builds one from images, label maps and names

A folder has images/, with the images and their label maps (PNG, label = R + 256 * G per pixel, 0 = no label), and
tables: index.csv (a row per image: its size, that of its label maps, and a cell of maps and whole-image labels per
category), category.csv (the categories, in order), label.csv (number and name of each label), and a c_<category>.csv
per category (how often each of its labels occurs).
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from netdissect.broden.reader import Broden, BrodenRow, Labels

__all__ = ["Broden", "BrodenRow", "Labels"]


def __getattr__(name: str) -> Any:
    """What `netdissect.broden.reader` has, imported when it is asked for: a command line's help needs no decoder."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from netdissect.broden import reader

    return getattr(reader, name)
