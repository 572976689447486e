"""The study's results: one JSON line per measured head in results/<dataset>.jsonl, and intervals over seeds."""

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from util.files import atomic_write

FOLDER = Path(__file__).resolve().parent / "results"
KEY = ("dataset", "head", "k", "variant")  # what makes two rows repetitions of the same, with another seed


class Interval(NamedTuple):
    """A mean over seeds and its 95 % interval (Student's t); low and high are NaN for a single value."""

    mean: float
    low: float
    high: float
    seeds: int

    @property
    def half(self) -> float:
        """Half the interval's width."""
        return (self.high - self.low) / 2


def interval(values: Iterable[float]) -> Interval:
    """Mean and 95 % interval of a few values; NaN among them are left out."""
    values = np.array([value for value in values if value is not None and not math.isnan(value)])
    if len(values) == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    mean = float(values.mean())
    if len(values) == 1:
        return Interval(mean, math.nan, math.nan, 1)
    half = float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)))
    return Interval(mean, mean - half, mean + half, len(values))


def paired(ones: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]], metric: str) -> Interval:
    """Of the differences one - other of a metric, row by row of the same seed."""
    by_seed = {row["seed"]: row[metric] for row in others}
    return interval([less(row[metric], by_seed[row["seed"]]) for row in ones if row["seed"] in by_seed])


def less(one: float | None, other: float | None) -> float:
    """The difference one - other, NaN if either was not measured."""
    return math.nan if one is None or other is None else one - other


def read(folder: Path = FOLDER) -> list[dict[str, Any]]:
    """All rows, of all data sets."""
    return [json.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in path.read_text().splitlines()]


def append(rows: list[dict[str, Any]], folder: Path = FOLDER) -> None:
    """Add rows, each to its data set's file, all at once."""
    folder.mkdir(parents=True, exist_ok=True)
    for dataset in {row["dataset"] for row in rows}:
        lines = [json.dumps(_without_nan(row)) + "\n" for row in rows if row["dataset"] == dataset]
        with open(folder / f"{dataset}.jsonl", "a", encoding="utf-8") as file:
            file.write("".join(lines))


def drop(run: str, folder: Path = FOLDER) -> None:
    """Remove the rows of a run, if there are any."""
    for path in sorted(folder.glob("*.jsonl")):
        lines = path.read_text().splitlines(keepends=True)
        kept = [line for line in lines if json.loads(line)["run"] != run]
        if len(kept) < len(lines):
            with atomic_write(path) as temporary:
                temporary.write_text("".join(kept), encoding="utf-8")


def _without_nan(row: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN: null stands for what could not be measured."""
    return {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in row.items()}


def select(rows: Iterable[dict[str, Any]], **wanted: Any) -> list[dict[str, Any]]:
    """The rows that have these values."""
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]
