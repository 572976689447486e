"""What a file was made of: a small record beside or inside it, by which it is matched with what it is used with.

Snapshots, tallies, caches and explain.json all carry one. A record is a flat dict of plain values: fingerprints
(SHA-256, hexadecimal), names and settings.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from util.files import atomic_write, read_json

MadeOf = dict[str, Any]

MOST_BYTES = 1 << 20  # of a record


def fingerprint(*parts: object) -> str:
    """SHA-256 of some plain values, each told apart from the next."""
    digest = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else str(part).encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()


def differences(found: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """The fields of `expected` that `found` has with another value, or not at all."""
    return [name for name, value in expected.items() if name not in found or not same(found[name], value)]


def same(found: object, expected: object) -> bool:
    """Whether two plain values, or lists of them, are equal; what a stranger wrote may be of any type."""
    if isinstance(expected, (list, tuple)):
        return isinstance(found, (list, tuple)) and len(found) == len(expected) and all(map(same, found, expected))
    plain = found is None or isinstance(found, (str, int, float))
    return plain and isinstance(found, bool) == isinstance(expected, bool) and found == expected


def companion(path: str | os.PathLike) -> Path:
    """Where the record of a file lies whose own format has no place for it: tally.csv -> tally.made_of.json."""
    return Path(path).with_suffix(".made_of.json")


def write_companion(path: str | os.PathLike, made_of: MadeOf) -> None:
    """Write the record of the file `path` beside it. Raises UserError as `atomic_write`."""
    with atomic_write(companion(path)) as temporary:
        temporary.write_text(json.dumps(made_of, indent=1) + "\n", encoding="utf-8")


def read_companion(path: str | os.PathLike) -> MadeOf | None:
    """The record beside the file `path`; None if there is none: its origin is unknown.

    Raises:
        UserError: if there is one that is not a JSON object.
    """
    file = companion(path)
    return read_json(file, "record", MOST_BYTES) if os.path.lexists(file) else None
