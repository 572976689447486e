"""What one pass keeps of a layer: thresholds, the maps that exceed them, and each unit's peak in every image."""

import math
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Generic, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from netdissect.thresholds import LargestActivations
from util import distributed
from util.files import regular_file

MEMORY_BUDGET = 4 << 30  # bytes of maps held in memory; further maps go to a temporary file
SUMMARY_FILES = ("summary.npz", "peaks.f32", "maps.npz", "maps.f32")  # of a layer's summary in a folder
PRUNE_AT = 1.2  # prune when the maps in memory have grown to this many times what the last pruning left


class ActiveMaps:
    """Maps of (image, unit) pairs, float32. Most units are off in most images, and those maps are not kept.

    Held in memory up to `budget` bytes, then in a temporary file.
    """

    def __init__(self, budget: int = MEMORY_BUDGET):
        self._budget = budget
        self._units: dict[int, Tensor] = {}
        self._maps: dict[int, Tensor] = {}
        self._spilled: dict[int, tuple[int, tuple[int, ...]]] = {}
        self._file: IO[bytes] | None = None
        self.in_memory = 0  # bytes
        self.on_disk = 0  # bytes
        self.most = 0  # bytes, in memory and on disk, at the peak

    def put(self, index: int, units: Tensor, maps: Tensor) -> None:
        """Keep the maps (u, h, w) of the units (u,) for image `index`."""
        self._units[index] = units
        size = maps.numel() * 4
        if self.in_memory + size <= self._budget:
            self._maps[index] = maps
            self.in_memory += size
        else:
            self._file = self._file or tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the maps
            self._spilled[index] = (self.on_disk, tuple(maps.shape))
            self._file.seek(self.on_disk)
            self._file.write(maps.contiguous().numpy().data)
            self.on_disk += size
        self.most = max(self.most, self.in_memory + self.on_disk)

    def get(self, index: int) -> tuple[Tensor, Tensor]:
        """The units (u,), ascending, and the maps (u, h, w) kept for image `index`."""
        if index in self._maps:
            return self._units[index], self._maps[index]
        start, shape = self._spilled[index]
        file = cast(IO[bytes], self._file)  # open, since this map was spilled to it
        file.seek(start)
        pixels = np.frombuffer(file.read(math.prod(shape) * 4), np.float32)
        return self._units[index], torch.from_numpy(pixels.reshape(shape).copy())

    def prune(self, bound: Tensor) -> None:
        """Drop the maps in memory that nowhere exceed their unit's bound (U,)."""
        for index, maps in self._maps.items():
            units = self._units[index]
            on = maps.amax((1, 2)) > bound[units]
            if not on.all():
                self._units[index], self._maps[index] = units[on], maps[on]
                self.in_memory -= int((~on).sum()) * maps[0].numel() * 4

    def absorb(self, other: "StoredMaps") -> None:
        """Add the maps of other images."""
        for image in other:
            self.put(image, *other.get(image))

    def save(self, folder: Path) -> None:
        """Write all maps into a folder: maps.f32, image by image, and maps.npz, their index."""
        images = sorted(self._units)
        shapes = np.zeros((len(images), 2), int)
        with open(folder / "maps.f32", "wb") as file:
            for shape, image in zip(shapes, images, strict=True):
                maps = self.get(image)[1]
                shape[:] = maps.shape[1:]
                file.write(maps.contiguous().numpy().data)
        units = [self._units[image].numpy().astype(np.int32) for image in images]
        np.savez(
            folder / "maps.npz",
            images=np.array(images, int),
            units=np.concatenate([np.zeros(0, np.int32), *units]),
            counts=np.array([len(own) for own in units], int),
            shapes=shapes,
        )


class StoredMaps:
    """Maps that `ActiveMaps.save` wrote, read on demand. A copy in another process reads the same file.

    Raises:
        UserError, OSError, ValueError, or what else NumPy's reader raises, if a file is missing or damaged.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        table = _read_npz(folder / "maps.npz")
        counts, shapes = table["counts"], table["shapes"]
        images, units = table["images"].tolist(), torch.from_numpy(table["units"]).long()
        regular_file(folder / "maps.f32", "maps")
        ends = np.cumsum(counts * shapes.prod(1))  # in values
        size = int(ends[-1]) if len(ends) else 0
        if (folder / "maps.f32").stat().st_size != 4 * size:
            raise ValueError("maps.f32 is incomplete")
        values = np.memmap(folder / "maps.f32", np.float32, "c") if size else np.zeros(0, np.float32)
        maps = torch.from_numpy(values).split(np.diff(ends, prepend=0).tolist())
        self._of = {
            image: (own, flat.view(len(own), *shape))
            for image, own, flat, shape in zip(images, units.split(counts.tolist()), maps, shapes.tolist(), strict=True)
        }

    def __reduce__(self) -> tuple[type, tuple[Path]]:
        return StoredMaps, (self._folder,)

    def __iter__(self) -> Iterator[int]:
        return iter(self._of)

    def get(self, image: int) -> tuple[Tensor, Tensor]:
        """The units (u,), ascending, and the maps (u, h, w) kept for an image."""
        return self._of[image]

    def check(self, units: int, images: int) -> None:
        """Raise ValueError unless there are maps of each of so many images, of so many units at most."""
        if sorted(self._of) != list(range(images)):
            raise ValueError("maps.npz is of other images")
        if any(((own < 0) | (own >= units)).any() for own, _ in self._of.values()):
            raise ValueError("maps.npz is of other units")


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file that `np.savez` wrote, which takes no more memory than space on disk: not compressed."""
    regular_file(path, "arrays")
    with zipfile.ZipFile(path) as archive:
        if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
            raise ValueError(f"{path.name} is compressed")
    with np.load(path, allow_pickle=False) as table:
        return {name: table[name] for name in table}


Maps = TypeVar("Maps", ActiveMaps, StoredMaps)


@dataclass(frozen=True)
class LayerSummary(Generic[Maps]):
    """What the steps after the pass need of a layer.

    Attributes:
        thresholds: (U,) float64.
        maps: those that exceed their unit's threshold somewhere.
        peaks: (U, N) float32, each unit's largest activation in every image.
        values: number of activations seen, of all units.
        compiled: whether maps came from a compiled network, whose values differ a little.
    """

    thresholds: np.ndarray
    maps: Maps
    peaks: np.ndarray
    values: int
    compiled: bool = False

    @property
    def limits(self) -> Tensor:
        """(U,) the thresholds in float32, as maps are compared with them."""
        return torch.from_numpy(self.thresholds).float()

    def top_images(self, count: int) -> np.ndarray:
        """(up to count, U) the images with each unit's largest peaks, descending; the lowest number wins a tie."""
        return np.stack([np.argsort(-peaks, kind="stable")[:count] for peaks in self.peaks], 1)

    def save(self: "LayerSummary[ActiveMaps]", folder: Path) -> None:
        """Write the summary into a folder."""
        self.maps.save(folder)
        (folder / "peaks.f32").write_bytes(self.peaks.data)
        np.savez(folder / "summary.npz", thresholds=self.thresholds, values=self.values, compiled=self.compiled)

    @classmethod
    def load(cls, folder: Path) -> "LayerSummary[StoredMaps]":
        """Read what `save` wrote; peaks are memory-mapped. Raises an exception as `StoredMaps` if a file is damaged."""
        table = _read_npz(folder / "summary.npz")
        thresholds, values, compiled = table["thresholds"], int(table["values"]), bool(table["compiled"])
        peaks = np.memmap(regular_file(folder / "peaks.f32", "peaks"), np.float32, "r").reshape(len(thresholds), -1)
        return LayerSummary(thresholds, StoredMaps(folder), peaks, values, compiled)

    def check(self: "LayerSummary[StoredMaps]", units: int, images: int) -> None:
        """Raise ValueError unless it is of so many units and images."""
        if self.thresholds.shape != (units,) or self.thresholds.dtype != np.float64:
            raise ValueError("summary.npz is of other units")
        if not np.isfinite(self.thresholds).all():
            raise ValueError("summary.npz has thresholds that are not finite")
        if self.peaks.shape != (units, images):
            raise ValueError("peaks.f32 is incomplete")
        if not np.isfinite(self.peaks).all():
            raise ValueError("peaks.f32 has values that are not finite")
        self.maps.check(units, images)


class LayerActivity:
    """A layer's record during the pass over the images.

    Args:
        units: U.
        images: N.
        positions: an upper bound of those that a unit has in an image.
        quantile: share of its activations that exceed a unit's threshold.
        thresholds: (U,) thresholds to use instead of computing them.
    """

    def __init__(self, units: int, images: int, positions: int, quantile: float, thresholds: np.ndarray | None = None):
        self.units = units
        self.maps = ActiveMaps()
        self._given = thresholds
        self._largest = LargestActivations(units, images * positions, quantile) if thresholds is None else None
        self._pruned_to = 0
        self._peaks = np.zeros((units, images), np.float32)
        self._values = 0

    def add(self, indices: Sequence[int], maps: Tensor) -> None:
        """Take in the maps (B, U, h, w) of B images."""
        self._values += maps.numel()
        if self._largest is not None:
            self._largest.add(maps.transpose(0, 1).flatten(1))  # (U, B * h * w)
        bound = self._bound()
        peaks = maps.amax((2, 3))  # (B, U)
        for index, unit_maps, unit_peaks in zip(indices, maps, peaks, strict=True):
            on = (unit_peaks > bound).nonzero()[:, 0]  # (u,)
            self.maps.put(index, on, unit_maps[on])
        self._peaks[:, list(indices)] = peaks.T.numpy()
        if self.maps.in_memory > PRUNE_AT * self._pruned_to:
            self.maps.prune(bound)
            self._pruned_to = self.maps.in_memory

    def finish(self, compiled: bool = False) -> LayerSummary[ActiveMaps]:
        """End the pass. Under torchrun the processes' records are merged, except the maps: each keeps its own.

        Args:
            compiled: whether any of this process's maps came from a compiled network.
        """
        if self._largest is not None:
            self._largest = LargestActivations.union(distributed.all_gather(self._largest))
        thresholds = cast(np.ndarray, self._given) if self._largest is None else self._largest.thresholds()
        self.maps.prune(torch.from_numpy(thresholds).float())
        distributed.all_reduce(self._peaks)  # each image's are zero but in one process
        values = sum(distributed.all_gather(self._values))
        compiled = any(distributed.all_gather(compiled))
        return LayerSummary(thresholds, self.maps, self._peaks, values, compiled)

    def _bound(self) -> Tensor:
        return torch.from_numpy(self._given).float() if self._largest is None else self._largest.bound
