"""Layer summaries kept for later runs, with the key of the arguments that made them."""

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from netdissect.activity import ActiveMaps, LayerSummary, StoredMaps
from netdissect.broden import Broden
from util import distributed
from util.files import writing

_FORMAT = 3  # raised when the stored content changes
_KEY = "key.json"  # written last


def model_fingerprint(model: nn.Module) -> str:
    """SHA-256 of the names, types and values of all weights and buffers."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(np.ascontiguousarray(tensor.detach().cpu().numpy()).tobytes())
    return digest.hexdigest()


def data_fingerprint(broden: Broden) -> str:
    """SHA-256 of the images' paths, in order, with the size and date of each file."""
    digest = hashlib.sha256()
    for row in broden.rows:
        about = row.file.stat()
        digest.update(f"{row.file.relative_to(broden.directory)} {about.st_size} {about.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def load(folder: Path, key: dict[str, Any]) -> tuple[LayerSummary[StoredMaps] | None, str | None]:
    """Load the summary that was stored under `key`.

    Returns:
        The summary and None; or None and why the stored one cannot be used, a clause such as 'is damaged'; or None
        and None where nothing is stored.
    """
    if not folder.is_dir():
        return None, None
    try:
        stored = json.loads((folder / _KEY).read_text())
        other = [name for name, value in {"format": _FORMAT, **key}.items() if stored.get(name) != value]
        if other:
            return None, f"was made with another {', '.join(other)}"
        return LayerSummary.load(folder), None
    except (OSError, ValueError, KeyError) as error:
        return None, f"is damaged ({error})"


def store(folder: Path, key: dict[str, Any], summary: LayerSummary[ActiveMaps]) -> LayerSummary[StoredMaps]:
    """Store the summary of one pass; under torchrun, each process passes the maps of its own images.

    Returns:
        The complete summary, read from the folder, which all processes must be able to see.
    """
    parts = folder.with_name(f".{folder.name}-parts")
    if distributed.is_main_process():
        shutil.rmtree(parts, ignore_errors=True)
    distributed.barrier()
    if not distributed.is_main_process():
        part = parts / str(distributed.rank())
        part.mkdir(parents=True)
        summary.maps.save(part)
    distributed.barrier()
    if distributed.is_main_process():
        for other in range(1, distributed.world_size()):
            summary.maps.absorb(StoredMaps(parts / str(other)))
        _save(folder, key, summary)
        shutil.rmtree(parts, ignore_errors=True)
    distributed.barrier()
    return LayerSummary.load(folder)


def _save(folder: Path, key: dict[str, Any], summary: LayerSummary[ActiveMaps]) -> None:
    """Store a summary in place of any other; the folder appears only when complete."""
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
