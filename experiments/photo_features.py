"""Features of photographs: what the frozen part of a network gives the rest, computed once and kept in NumPy files."""

import json
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from loader.batches import make_loader
from loader.datasets import DataSource
from loader.images import val_transform
from loader.splits import Images
from models.cut import run_until
from util.files import atomic_write
from util.progress import progress

BATCH = 50
BLOCK = 1000  # images after which progress is recorded
SPLITS = ("val", "train")


class Features(NamedTuple):
    """What the frozen part puts out for the images of a split, (V, ...) float32, and their classes (V,).

    Behind all but the head these are pooled features (V, N).
    """

    values: Tensor
    targets: Tensor


def ensure_features(model: nn.Module, layer: str, source: DataSource, folder: Path) -> None:
    """Compute what `folder` lacks of the features of a data set's images; an interrupted computation is resumed.

    Writes `<split>.npy` (V, ...) float16, `<split>_targets.npy` (V,), and `<split>.json`, the number of rows that are
    there. The classes take turns, so that the first rows have as many images of each.

    Args:
        model: a network with one of the project's heads, in eval mode.
        layer: the last frozen one, or `models.cut.TRUNK`: all but the head.
        source: its images are transformed as for validation, without flips.
        folder: of the files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        images = source.dataset(split, val_transform(source.spec))
        order = in_turns(list(images.targets))
        done = _done(folder, split)
        file = folder / f"{split}.npy"
        if done:
            rows = np.lib.format.open_memmap(file, mode="r+")
        else:
            shape = (len(order), *_outputs(model, layer, images, order[:1]).shape[1:])
            rows = np.lib.format.open_memmap(file, mode="w+", dtype=np.float16, shape=shape)
        np.save(folder / f"{split}_targets.npy", np.asarray(images.targets)[order])
        for start in progress(range(done, len(order), BLOCK), desc=split, unit="block"):
            block = order[start : start + BLOCK]
            rows[start : start + len(block)] = _outputs(model, layer, images, block).numpy()
            rows.flush()
            with atomic_write(folder / f"{split}.json") as temporary:
                temporary.write_text(json.dumps(start + len(block)), encoding="utf-8")


def in_turns(targets: list[int]) -> list[int]:
    """The images' numbers: the first image of each class, then the second of each, and so on."""
    seen: Counter[int] = Counter()
    turns = []
    for number, target in enumerate(targets):
        turns.append((seen[target], target, number))
        seen[target] += 1
    return [number for *_, number in sorted(turns)]


def _done(folder: Path, split: str) -> int:
    """How many rows of a split are there."""
    record = folder / f"{split}.json"
    return json.loads(record.read_text(encoding="utf-8")) if record.is_file() else 0


@torch.inference_mode()
def _outputs(model: nn.Module, layer: str, images: Images, numbers: list[int]) -> Tensor:
    """What a layer puts out for the images of these numbers: (B, ...)."""
    batches = make_loader(images, BATCH, 0, torch.device("cpu"), numbers)
    return torch.cat([run_until(model, layer, pixels) for pixels, _ in batches])


def read_features(folder: Path, split: str) -> Features:
    """The rows of a split that are there."""
    done = _done(folder, split)
    values = np.load(folder / f"{split}.npy", mmap_mode="r", allow_pickle=False)[:done]
    targets = np.load(folder / f"{split}_targets.npy", allow_pickle=False)[:done]
    return Features(torch.from_numpy(values.astype(np.float32)), torch.from_numpy(targets))
