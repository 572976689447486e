"""Layer summaries of earlier runs that can be used again, with the proof that they can."""

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

import distributed
from files import writing
from netdissect.activity import ActiveMaps, LayerSummary, StoredMaps
from netdissect.broden import Broden

_FORMAT = 2  # raised when what is stored changes
_KEY = "key.json"  # written last


def model_fingerprint(model: nn.Module) -> str:
    """SHA-256 of the names, types and values of all weights and buffers."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(np.ascontiguousarray(tensor.detach().cpu().numpy()).tobytes())
    return digest.hexdigest()


def data_fingerprint(broden: Broden) -> str:
    """SHA-256 of which pictures there are, in which order, and the size and date of each file."""
    digest = hashlib.sha256()
    for row in broden.rows:
        about = row.file.stat()
        digest.update(f"{row.file.relative_to(broden.directory)} {about.st_size} {about.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def load(folder: Path, key: dict[str, Any]) -> tuple[LayerSummary[StoredMaps] | None, str | None]:
    """The summary that was stored under `key`, or None and the reason why what is there cannot be used."""
    if not folder.is_dir():
        return None, None
    try:
        stored = json.loads((folder / _KEY).read_text())
        other = [name for name, value in {"format": _FORMAT, **key}.items() if stored.get(name) != value]
        if other:
            return None, f"made with another {', '.join(other)}"
        return LayerSummary.load(folder), None
    except (OSError, ValueError, KeyError) as error:
        return None, f"not whole ({error})"


def store(folder: Path, key: dict[str, Any], summary: LayerSummary[ActiveMaps]) -> LayerSummary[StoredMaps]:
    """Store a summary of one pass; under torchrun that of all processes, each of which has the maps of its pictures.

    Returns:
        The whole summary, read from the folder: all processes must see it.
    """
    parts = folder.with_name(f".{folder.name}-parts")
    if distributed.is_first():
        shutil.rmtree(parts, ignore_errors=True)
    distributed.wait()
    if not distributed.is_first():
        part = parts / str(distributed.rank())
        part.mkdir(parents=True)
        summary.maps.save(part)
    distributed.wait()
    if distributed.is_first():
        for other in range(1, distributed.world()):
            summary.maps.absorb(StoredMaps(parts / str(other)))
        _save(folder, key, summary)
        shutil.rmtree(parts, ignore_errors=True)
    distributed.wait()
    return LayerSummary.load(folder)


def _save(folder: Path, key: dict[str, Any], summary: LayerSummary[ActiveMaps]) -> None:
    """Store a summary, in place of any other; the folder appears only when it is whole."""
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            summary.save(temporary)
            (temporary / _KEY).write_text(json.dumps({"format": _FORMAT, **key}, indent=1))
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
