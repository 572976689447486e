"""Figures for papers and pages."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from explain.naming import class_name, unit_title
from explain.records import ExplanationRecord, FaithfulnessRecord, UnitVote
from explain.terms import terms_of
from util.plots import STYLES, save_figure, save_graph
from util.text import plain_math, printable

MOST_UNITS = 12  # of an image in a figure: nobody reads more, and drawing hundreds takes minutes


def write_figure(path: Path, explained: Sequence[tuple[ExplanationRecord, Sequence[np.ndarray]]]) -> None:
    """Images side by side, above each the equation of its score, below it the overlays of its first 12 units at most.

    Args:
        path: the PNG to write; a PDF with embedded fonts is written beside it.
        explained: usually four explained images, each with its tiles, as of `report.overlays.overlay_tiles`.
    """
    rows = max(len(tiles[: 1 + MOST_UNITS]) for _, tiles in explained)
    figure = Figure(figsize=(2.5 * len(explained) + 0.2, 2.75 * rows), layout="constrained", dpi=150)
    axes = figure.subplots(rows, len(explained), squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for column, (record, tiles) in enumerate(explained):
        axes[0, column].imshow(tiles[0])
        axes[0, column].set_title(equation(record), fontsize=8.5, parse_math=False)
        for row, (unit, tile) in enumerate(zip(record["units"][: rows - 1], tiles[1:rows], strict=True), start=1):
            axes[row, column].imshow(tile)
            axes[row, column].set_title(_unit_title(unit), fontsize=8, parse_math=False)
    save_figure(figure, path, path.with_suffix(".pdf"))


def equation(record: ExplanationRecord) -> str:
    """Two lines: what is explained, and its score as a sum."""
    total = " ".join(f"{value:+.2f}" for value in terms_of(record).values).removeprefix("+")
    return f"{printable(class_name(record['explained_name']))}  {record['logit']:.2f}\n= {total}"


def _unit_title(unit: UnitVote) -> str:
    part = f"{unit['vote']:+.2f}, {unit['share']:.0f} % of the chosen" if unit["active"] else "not chosen"
    return f"{printable(unit_title(unit))}\n{part}"


def faithfulness_graph(path: Path, faithfulness: FaithfulnessRecord) -> str:
    """Mean probability of the explained class as units are silenced or kept, with 95 % intervals.

    Writes `path`, an SVG, and a PNG beside it; returns the SVG for inlining.
    """
    figure = Figure(figsize=(8.6, 3.2), layout="constrained", dpi=200)
    axes = figure.subplots(1, 2, sharey=True)
    steps = range(faithfulness["steps"] + 1)
    titles = ("units silenced", "units kept, all others silenced")
    for axis, way, title in zip(axes, ("deletion", "insertion"), titles, strict=True):
        for (colour, style), method in zip(STYLES, faithfulness["methods"], strict=False):
            points = (method["deletion"] if way == "deletion" else method["insertion"])["probability"]
            low, high = [point["low"] for point in points], [point["high"] for point in points]
            axis.plot(steps, [point["mean"] for point in points], style, color=colour, label=plain_math(method["name"]))
            axis.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)
        axis.set_xlabel(title)
        axis.set_ylim(0, 1.02)
        axis.spines[["top", "right"]].set_visible(False)
        axis.xaxis.get_major_locator().set_params(integer=True)
    axes[0].set_ylabel("probability of the class")
    axes[1].legend(frameon=False, fontsize=8)
    return save_graph(figure, path)
