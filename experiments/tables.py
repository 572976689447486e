"""Tables of the study's results: columns, rows that differ in their seed only, means with intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from experiments.plan import KS, TRAINED_OUT
from experiments.results import Interval, interval

NAMES = {
    "mini_places": "mini_places",
    TRAINED_OUT: "mini_places, trained out",
    "fashion_mnist": "Fashion-MNIST",
}

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Column:
    """A column of a table: its title, the metric, decimals, and what the metric is multiplied by."""

    title: str
    metric: str
    decimals: int = 1
    scale: float = 1.0


ACCURACY = [
    Column("top-1, %", "top1", 2),
    Column("top-5, %", "top5", 2),
    Column("active units", "active_units"),
    Column("share of the 4 largest, %", "top4_share", 1, 100),
    Column("residual, %", "residual", 1, 100),
]
ROUTES = [
    Column("units per class", "units_per_class"),
    Column("units in all", "units_total"),
    Column("overlap within, %", "overlap_within", 1, 100),
    Column("overlap between, %", "overlap_between", 1, 100),
    Column("5 largest: units in all", "shown_units_total"),
    Column("within, %", "shown_overlap_within", 1, 100),
    Column("between, %", "shown_overlap_between", 1, 100),
]
FAITHFULNESS = [
    Column("deletion", "deletion", 3),
    Column("at random", "random_deletion", 3),
    Column("insertion", "insertion", 3),
    Column("at random", "random_insertion", 3),
]
CONTROLS = [
    Column("deletion: largest votes", "deletion", 3),
    Column("most active", "active_deletion", 3),
    Column("outside the route", "outside_deletion", 3),
    Column("another route", "other_route_deletion", 3),
    Column("insertion: largest votes", "insertion", 3),
    Column("most active", "active_insertion", 3),
    Column("outside the route", "outside_insertion", 3),
    Column("another route", "other_route_insertion", 3),
]
SPARSITY = [
    Column("top-1, %", "top1", 2),
    Column("frozen, %", "top1_frozen", 2),
    Column("same predictions, %", "frozen_agreement", 1, 100),
    Column("without the 5 largest votes, %", "top1_without", 2),
    Column("at NEC = 5, %", "top1_nec5", 2),
    Column("NEC", "nec"),
    Column("NCC", "ncc"),
]
VARIETY = [
    Column("effective number", "effective_units", 2),
    Column("without near-duplicates", "different_units", 2),
    Column("correlation of two", "unit_correlation", 2),
    Column("class independence", "class_independence", 3),
    Column("contrastiveness", "contrastiveness", 3),
    Column("SID@5", "sid5", 3),
]
CONCEPTS = [
    Column("interpretable", "lite_interpretable"),
    Column("unique", "lite_unique"),
    Column("mean IoU", "lite_best_iou", 4),
    Column("above chance", "lite_above_chance"),
    Column("original: interpretable", "original_interpretable"),
    Column("unique", "original_unique"),
    Column("mean IoU", "original_best_iou", 4),
    Column("above chance", "original_above_chance"),
]
POINTING = [
    Column("named, %", "named", 1, 100),
    Column("present, %", "present", 1, 100),
    Column("by chance, %", "present_by_chance", 1, 100),
    Column("pointed at, %", "pointing", 1, 100),
    Column("by chance, %", "pointing_by_chance", 1, 100),
]


def head_name(row: dict[str, Any]) -> str:
    """What a row of a table is called."""
    if row["head"] == "dka":
        return f"DKA, K = {row['k']}" + (", all" if row["k"] == KS[-1] else "")
    if row["head"] == "pruned":
        return f"dense, pruned to {row['k']}"
    if row["head"] == "elastic net":
        return f"elastic net, C = {row['c']:g}"
    return "untrained" if row["head"] == "untrained" else "dense"


def groups(rows: Rows) -> list[tuple[str, Rows]]:
    """Rows that differ in their seed only, with their name, in the order in which they first come."""
    found: dict[str, Rows] = {}
    for row in rows:
        found.setdefault(head_name(row), []).append(row)
    order = {"untrained": 0, "dense": 1, "dka": 2, "pruned": 3, "elastic net": 4}
    return sorted(
        found.items(), key=lambda item: (order[item[1][0]["head"]], item[1][0]["k"] or item[1][0].get("c", 0))
    )


def shown(value: Interval, decimals: int = 1, scale: float = 1.0) -> str:
    """'87.50 ± 0.12': a mean and half of its 95 % interval; '–' for nothing."""
    if value.seeds == 0:
        return "–"
    mean = f"{value.mean * scale:.{decimals}f}"
    return mean if math.isnan(value.half) else f"{mean} ± {value.half * scale:.{decimals}f}"


def table(named: Sequence[tuple[str, Rows]], columns: Sequence[Column]) -> str:
    """A Markdown table with a line per group and a column per metric."""
    lines = [[name, *(_cell(column, rows) for column in columns)] for name, rows in named]
    return markdown(["", *(column.title for column in columns)], lines)


def _cell(column: Column, rows: Rows) -> str:
    """A metric's mean; it says so if some of the rows lack it."""
    value = interval(row.get(column.metric, math.nan) for row in rows)
    some = f" ({value.seeds} of {len(rows)} seeds)" if 0 < value.seeds < len(rows) else ""
    return shown(value, column.decimals, column.scale) + some


def markdown(titles: Sequence[str], lines: Sequence[Sequence[str]], left: int = 1) -> str:
    """A Markdown table; the first `left` columns are aligned left, the others right."""
    aligned = ["---"] * left + ["---:"] * (len(titles) - left)
    return "\n".join(f"| {' | '.join(line)} |" for line in (titles, aligned, *lines))
