"""Pooled features of photographs: what a frozen network gives its head, computed once and kept in NumPy files."""

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
from models import head_of
from models.hooks import layer_inputs
from util.files import atomic_write
from util.progress import progress

BATCH = 50
BLOCK = 1000  # images after which progress is recorded
SPLITS = ("val", "train")


class Features(NamedTuple):
    """Pooled features (V, N), float32, and classes (V,) of the images of a split."""

    pooled: Tensor
    targets: Tensor


def ensure_features(model: nn.Module, source: DataSource, folder: Path) -> None:
    """Compute what `folder` lacks of the features of a data set's images; an interrupted computation is resumed.

    Writes `<split>.npy` (V, N) float16, `<split>_targets.npy` (V,), and `<split>.json`, the number of rows that are
    there. The classes take turns, so that the first rows have as many images of each.

    Args:
        model: a network with one of the project's heads, in eval mode.
        source: its images are transformed as for validation, without flips.
        folder: of the files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        images = source.dataset(split, val_transform(source.spec))
        order = in_turns(list(images.targets))
        file, width = folder / f"{split}.npy", head_of(model).in_features
        done = _done(folder, split)
        mode = "r+" if done else "w+"
        rows = np.lib.format.open_memmap(file, mode=mode, dtype=np.float16, shape=(len(order), width))
        np.save(folder / f"{split}_targets.npy", np.asarray(images.targets)[order])
        for start in progress(range(done, len(order), BLOCK), desc=split, unit="block"):
            block = order[start : start + BLOCK]
            rows[start : start + len(block)] = _pooled(model, images, block).numpy()
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
def _pooled(model: nn.Module, images: Images, numbers: list[int]) -> Tensor:
    """What reaches the head for the images of these numbers: (B, N)."""
    head = head_of(model)
    assert isinstance(head, nn.Module)
    with layer_inputs(head) as pooled:
        for pixels, _ in make_loader(images, BATCH, 0, torch.device("cpu"), numbers):
            model(pixels)
    return torch.cat(pooled)


def read_features(folder: Path, split: str) -> Features:
    """The rows of a split that are there."""
    done = _done(folder, split)
    pooled = np.load(folder / f"{split}.npy", mmap_mode="r", allow_pickle=False)[:done]
    targets = np.load(folder / f"{split}_targets.npy", allow_pickle=False)[:done]
    return Features(torch.from_numpy(pooled.astype(np.float32)), torch.from_numpy(targets))
