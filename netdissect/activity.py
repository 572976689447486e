"""What one pass keeps of a layer: its thresholds, the maps that reach them, and the pictures its units fire at most."""

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from netdissect.thresholds import LargestActivations

MEMORY_BUDGET = 4 << 30  # bytes of maps held in memory; what is above goes to a temporary file
PRUNE_AT = 1.2  # times what was left by the last pruning


class ActiveMaps:
    """Maps of (picture, unit) pairs, float32; most pairs of a layer are never on, and need no place.

    Held in memory up to `budget` bytes, then in a temporary file.
    """

    def __init__(self, budget: int = MEMORY_BUDGET):
        self._budget = budget
        self._units: dict[int, Tensor] = {}
        self._maps: dict[int, Tensor] = {}
        self._spilled: dict[int, tuple[int, tuple[int, ...]]] = {}
        self._file = None
        self.in_memory = 0  # bytes
        self.on_disk = 0  # bytes
        self.most = 0  # bytes, in memory and on disk, at any time

    def put(self, index: int, units: Tensor, maps: Tensor) -> None:
        """Keep the maps (u, h, w) of the units (u,) for picture `index`."""
        self._units[index] = units
        size = maps.numel() * 4
        if self.in_memory + size <= self._budget:
            self._maps[index] = maps
            self.in_memory += size
        else:
            self._file = self._file or tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the maps
            self._spilled[index] = (self.on_disk, tuple(maps.shape))
            self._file.seek(self.on_disk)
            self._file.write(maps.contiguous().numpy().data)
            self.on_disk += size
        self.most = max(self.most, self.in_memory + self.on_disk)

    def get(self, index: int) -> tuple[Tensor, Tensor]:
        """The units (u,), ascending, and the maps (u, h, w) kept for picture `index`."""
        if index in self._maps:
            return self._units[index], self._maps[index]
        start, shape = self._spilled[index]
        self._file.seek(start)
        pixels = np.frombuffer(self._file.read(math.prod(shape) * 4), np.float32)
        return self._units[index], torch.from_numpy(pixels.reshape(shape).copy())

    def prune(self, bound: Tensor) -> None:
        """Forget the maps that nowhere exceed their unit's bound (U,)."""
        for index, maps in self._maps.items():
            units = self._units[index]
            on = maps.amax((1, 2)) > bound[units]
            if not on.all():
                self._units[index], self._maps[index] = units[on], maps[on]
                self.in_memory -= int((~on).sum()) * maps[0].numel() * 4

    def save(self, folder: Path) -> None:
        """Write everything into a folder: maps.f32, picture by picture, and maps.npz, which says what is where."""
        counts, shapes = [], []
        with open(folder / "maps.f32", "wb") as file:
            for index in range(len(self._units)):
                units, maps = self.get(index)
                counts.append(len(units))
                shapes.append(maps.shape[1:])
                file.write(maps.contiguous().numpy().data)
        np.savez(
            folder / "maps.npz",
            units=torch.cat([self._units[index] for index in range(len(self._units))]).numpy().astype(np.int32),
            counts=np.array(counts),
            shapes=np.array(shapes),
        )

    @classmethod
    def load(cls, folder: Path) -> "ActiveMaps":
        """Read what `save` wrote; the maps stay on disk. Raises OSError or ValueError if it is not whole."""
        active = cls()
        with np.load(folder / "maps.npz", allow_pickle=False) as table:
            counts, shapes, units = table["counts"], table["shapes"], torch.from_numpy(table["units"]).long()
        for index, (own, shape) in enumerate(zip(units.split(counts.tolist()), shapes.tolist(), strict=True)):
            active._units[index] = own
            active._spilled[index] = (active.on_disk, (len(own), *shape))
            active.on_disk += len(own) * math.prod(shape) * 4
        if (folder / "maps.f32").stat().st_size != active.on_disk:
            raise ValueError("maps.f32 is not whole")
        active._file = open(folder / "maps.f32", "rb")  # noqa: SIM115 - it lives as long as the maps
        active.most = active.on_disk
        return active


@dataclass(frozen=True)
class LayerSummary:
    """What the steps after the pass need of a layer.

    Attributes:
        thresholds: (U,) float64.
        maps: those that exceed their unit's threshold somewhere.
        top_pictures: (topn, U) the pictures with each unit's largest activations, first the largest.
        values: activations seen, of all units.
    """

    thresholds: np.ndarray
    maps: ActiveMaps
    top_pictures: np.ndarray
    values: int

    def save(self, folder: Path) -> None:
        """Write everything into a folder."""
        self.maps.save(folder)
        np.savez(folder / "summary.npz", thresholds=self.thresholds, top_pictures=self.top_pictures, values=self.values)

    @classmethod
    def load(cls, folder: Path) -> "LayerSummary":
        """Read what `save` wrote. Raises OSError, ValueError or KeyError if it is not whole."""
        with np.load(folder / "summary.npz", allow_pickle=False) as table:
            return cls(table["thresholds"], ActiveMaps.load(folder), table["top_pictures"], int(table["values"]))


class LayerActivity:
    """A layer's record while a pass over N pictures goes on.

    Args:
        units: U.
        at_most: an upper bound of the positions that a unit has over all pictures.
        quantile: share of its activations that a unit's threshold lets through.
        topn: pictures to remember per unit.
        thresholds: (U,) thresholds to use instead of computing them.
    """

    def __init__(self, units: int, at_most: int, quantile: float, topn: int, thresholds: np.ndarray | None = None):
        self.units = units
        self.maps = ActiveMaps()
        self._given = thresholds
        self._largest = LargestActivations(units, at_most, quantile) if thresholds is None else None
        self._pruned_to = 0
        self._topn = topn
        self._peaks = torch.empty(0, units)  # (up to topn, U), descending
        self._pictures = torch.empty(0, units, dtype=torch.long)
        self._values = 0

    def add(self, indices: Sequence[int], maps: Tensor) -> None:
        """Take in the maps (B, U, h, w) of B pictures."""
        self._values += maps.numel()
        if self._largest is not None:
            self._largest.add(maps.transpose(0, 1).flatten(1))  # (U, B * h * w)
        bound = self._bound()
        peaks = maps.amax((2, 3))  # (B, U)
        for index, unit_maps, unit_peaks in zip(indices, maps, peaks, strict=True):
            on = (unit_peaks > bound).nonzero()[:, 0]  # (u,)
            self.maps.put(index, on, unit_maps[on])
        self._remember(torch.tensor(indices), peaks)
        if self.maps.in_memory > PRUNE_AT * self._pruned_to:
            self.maps.prune(bound)
            self._pruned_to = self.maps.in_memory

    def finish(self) -> LayerSummary:
        """End of the pass."""
        thresholds = self._given if self._given is not None else self._largest.thresholds()
        self.maps.prune(torch.from_numpy(thresholds).float())
        return LayerSummary(thresholds, self.maps, self._pictures.numpy(), self._values)

    def _bound(self) -> Tensor:
        return torch.from_numpy(self._given).float() if self._largest is None else self._largest.bound

    def _remember(self, indices: Tensor, peaks: Tensor) -> None:
        everything = torch.cat([self._peaks, peaks])  # (topn + B, U)
        pictures = torch.cat([self._pictures, indices[:, None].expand(-1, self.units)])
        self._peaks, order = everything.sort(dim=0, descending=True, stable=True)
        self._peaks, order = self._peaks[: self._topn], order[: self._topn]
        self._pictures = pictures.gather(0, order)
