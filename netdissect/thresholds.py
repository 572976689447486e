"""A unit's threshold, above which it is on: an exact quantile of all its activations over the data set."""

import math
import os
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from util.cli import Terminated, UserError
from util.files import regular_file

MOST_BYTES = 1 << 26  # of a quantile.npy: eight times the units


class LargestActivations:
    """The largest activations of each of U units, collected from a stream: only as many as the quantile needs.

    Definition of the threshold: `np.quantile(activations, 1 - quantile)`, linear between the two nearest activations,
    over all positions of all images. Of n activations it needs only the n - floor((n - 1) * (1 - quantile)) largest.

    Args:
        units: U.
        at_most: an upper bound of n, the number of activations that each unit will have.
        quantile: share of its activations that exceed a unit's threshold.
    """

    def __init__(self, units: int, at_most: int, quantile: float):
        self._upper = 1 - quantile
        self._needed = at_most - math.floor((at_most - 1) * self._upper)
        self._largest = torch.empty(units, 0)  # (U, up to needed), unordered
        self._pending: list[Tensor] = []
        self._seen = 0

    def add(self, activations: Tensor) -> None:
        """Take in some activations of every unit, (U, a) float32."""
        self._pending.append(activations)
        self._seen += activations.shape[1]
        if sum(pending.shape[1] for pending in self._pending) >= self._needed:
            self._merge()

    @property
    def bound(self) -> Tensor:
        """(U,) a lower bound of the final thresholds, which only grows; -inf until enough activations were seen."""
        if self._largest.shape[1] < self._needed:
            return torch.full((len(self._largest),), -math.inf)
        return self._largest.amin(1)

    def thresholds(self) -> np.ndarray:
        """(U,) float64, the quantile of the activations seen."""
        self._merge()
        position = (self._seen - 1) * self._upper
        below = math.floor(position)
        rank = self._seen - 1 - below  # of the activation below the threshold, the largest having rank 0
        largest = self._largest.double().sort(descending=True).values.numpy()  # (U, needed)
        low, high = largest[:, rank], largest[:, max(rank - 1, 0)]
        return low + (high - low) * (position - below)

    @classmethod
    def union(cls, parts: Sequence["LargestActivations"]) -> "LargestActivations":
        """Merge records of disjoint parts of the data, made with the same arguments, into one of all of it."""
        for part in parts:
            part._merge()
        whole = parts[0]
        whole._pending = [part._largest for part in parts[1:]]
        whole._seen = sum(part._seen for part in parts)
        return whole

    def _merge(self) -> None:
        everything = torch.cat([self._largest, *self._pending], 1)
        self._largest = everything.topk(min(self._needed, everything.shape[1]), dim=1, sorted=False).values
        self._pending = []


def read_thresholds(path: str | os.PathLike, units: int) -> np.ndarray:
    """Read a quantile.npy that the user gives, (U,). Raises UserError if it is unreadable or of another shape."""
    regular_file(path, "quantile file", MOST_BYTES)
    try:
        # Mapped, an array that is larger than its file is refused before it takes memory.
        thresholds = np.load(path, mmap_mode="r", allow_pickle=False)
    except Terminated:
        raise
    except Exception as error:  # a damaged file can fail anywhere in NumPy's reader
        raise UserError(f"quantile file {path}: not a readable .npy file of numbers ({error})") from error
    if not isinstance(thresholds, np.ndarray):
        raise UserError(f"quantile file {path}: an archive of arrays, expected a .npy file of numbers")
    if thresholds.shape != (units,):
        raise UserError(f"quantile file {path}: shape {thresholds.shape}, expected ({units},), a number per unit")
    if thresholds.dtype.kind in "fiu":
        with np.errstate(over="ignore"):
            numbers = np.array(thresholds, np.float64)
        if np.isfinite(numbers).all():
            return numbers
    raise UserError(f"quantile file {path}: expected finite numbers only")
