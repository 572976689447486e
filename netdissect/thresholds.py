"""The activation above which a unit counts as on: an exact quantile of all its activations over the data set."""

import os

import numpy as np

from engine import progress
from errors import UserError
from netdissect.features import FeatureStore

_UNITS_AT_A_TIME = 16


def exact_thresholds(store: FeatureStore, quantile: float) -> np.ndarray:
    """The (1 - quantile) quantile of each unit's activations, all pixels of all pictures at the maps' own resolution.

    Definition: `np.quantile(activations, 1 - quantile)`, linear between the two nearest activations, in float64.

    Returns:
        (U,) float64.
    """
    thresholds = np.empty(store.units)
    for start in progress(range(0, store.units, _UNITS_AT_A_TIME), desc="thresholds", unit="block"):
        units = slice(start, start + _UNITS_AT_A_TIME)
        activations = [store[index][units].reshape(-1, np.prod(store[index].shape[1:])) for index in range(len(store))]
        thresholds[units] = np.quantile(np.concatenate(activations, 1).astype(np.float64), 1 - quantile, axis=1)
    return thresholds


def read_thresholds(path: str | os.PathLike, units: int) -> np.ndarray:
    """A quantile.npy that the user gives, (U,). Raises UserError if it is unreadable or of another shape."""
    try:
        thresholds = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"quantile file {path}: not a readable .npy file of numbers ({error})") from error
    if not isinstance(thresholds, np.ndarray) or thresholds.shape != (units,):
        raise UserError(f"quantile file {path}: shape {np.shape(thresholds)}, expected ({units},), a number per unit")
    if not np.isfinite(thresholds.astype(float)).all():
        raise UserError(f"quantile file {path}: not all numbers are finite")
    return thresholds.astype(np.float64)
