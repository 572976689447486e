"""What a tally and a cache were made of: the fields of `tally.made_of.json` and of a cache's key."""

import hashlib
import os
from pathlib import Path

import numpy as np

from loader.materials import material_of_folder, read_manifest
from netdissect.broden import Broden
from netdissect.network import NetworkInfo
from util.files import last_name, regular_file
from util.made_of import MadeOf, fingerprint

FORMAT = 1  # of tally.made_of.json


def of_activations(weights: str, layer: str, preprocess: str, quantile: float, thresholds: np.ndarray | None) -> MadeOf:
    """What a layer's activations and thresholds depend on, but for the images.

    Args:
        weights: the network's, as of `models.snapshot.weights_fingerprint`: one computation for all layers.
        layer: its name.
        preprocess: a key of `features.PREPROCESS`.
        quantile: share of its activations that exceed a unit's threshold.
        thresholds: (U,) that were given in a quantile file; None: they are computed.
    """
    given = None if thresholds is None else hashlib.sha256(np.asarray(thresholds, np.float64).tobytes()).hexdigest()
    return {
        "weights": weights,
        "layer": layer,
        "preprocess": preprocess,
        "quantile": quantile,
        "quantile_file": given,
    }


def of_tally(activations: MadeOf, info: NetworkInfo, broden: Broden, iou_mode: str, compiled: bool = False) -> MadeOf:
    """The record of a tally, but for the fingerprint of the file itself, which `explain.tally.tally_fingerprint` makes.

    Args:
        activations: of `of_activations`.
        info: of the network.
        broden: images and labels.
        iou_mode: 'lite' or 'original'.
        compiled: whether the network was compiled, which is recorded only if it was.
    """
    network = {"arch": info.arch, "topk": info.topk}
    data = {
        "data": last_name(broden.directory),
        "material": material_of_folder(broden.directory),
        "data_fingerprint": data_fingerprint(broden),
        "images": len(broden),
    }
    how = {"iou_mode": iou_mode, **({"compiled": True} if compiled else {})}
    return {"format": FORMAT, **network, **activations, **data, "categories": broden.categories, **how}


def data_fingerprint(broden: Broden) -> str:
    """SHA-256 of what a Broden folder's tables say, and of its version and seed if it was rendered.

    It depends neither on where the folder lies nor on how a machine compresses images.
    """
    rows = [
        (
            _name(row.file, broden),
            row.height,
            row.width,
            row.scalars,
            [(k, _name(path, broden)) for k, path in row.maps],
        )
        for row in broden.rows
    ]
    return fingerprint(broden.categories, broden.names, broden.primary.tolist(), rows, _rendered(broden.directory))


def files_fingerprint(broden: Broden) -> str:
    """SHA-256 of the images' paths, in order, with the size and date of each file: of this folder on this machine.

    Raises:
        UserError: if an image was removed.
    """
    digest = hashlib.sha256()
    for row in broden.rows:
        about = os.stat(regular_file(row.file, "image"))
        digest.update(f"{_name(row.file, broden)} {about.st_size} {about.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _name(path: Path, broden: Broden) -> str:
    return path.relative_to(broden.directory).as_posix()


def _rendered(directory: Path) -> tuple[object, object]:
    """Version and seed in the manifest of a rendered folder; those of others are unknown."""
    manifest = read_manifest(directory)
    return manifest.get("version"), manifest.get("seed")
