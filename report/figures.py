"""Figures for papers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from files import whole_file
from report.overlays import PICTURE_SIZE

# Colours that the colour-blind tell apart (Okabe and Ito), and line styles for print.
STYLES = [("#0072b2", "o-"), ("#777777", "s--"), ("#d55e00", "^-."), ("#009e73", "v:")]


def write_figure(path: Path, records: Sequence[dict[str, Any]], folder: Path) -> None:
    """Pictures side by side, above each the equation of its score, beneath it the overlays of its units.

    Args:
        path: the PNG to write; a PDF with embedded fonts is written beside it.
        records: pictures of explain.json, usually four.
        folder: where their overlays are.
    """
    rows = 1 + max(len(record["units"]) for record in records)
    figure = Figure(figsize=(2.5 * len(records) + 0.2, 2.75 * rows), layout="constrained", dpi=150)
    axes = figure.subplots(rows, len(records), squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for column, record in enumerate(records):
        tiles = _tiles(folder / record["overlays"])
        axes[0, column].imshow(tiles[0])
        axes[0, column].set_title(_equation(record), fontsize=8.5, parse_math=False)
        for row, (unit, tile) in enumerate(zip(record["units"], tiles[1:], strict=True), start=1):
            axes[row, column].imshow(tile)
            label = f"{unit['label'].replace('_', ' ') or 'unnamed'} (unit {unit['unit']})"
            part = f"{unit['vote']:+.2f}, {unit['share']:.0f} % of the chosen" if unit["active"] else "not chosen"
            axes[row, column].set_title(f"{label}\n{part}", fontsize=8, parse_math=False)
    save_figure(figure, path, path.with_suffix(".pdf"))


def save_figure(figure: Figure, *paths: Path) -> None:
    """Write a figure in the formats of the paths' suffixes; fonts are embedded as TrueType, as publishers want them."""
    with matplotlib.rc_context({"pdf.fonttype": 42, "svg.hashsalt": "fixed"}):
        for path in paths:
            with whole_file(path) as temporary:
                figure.savefig(temporary)


def save_graph(figure: Figure, path: Path) -> str:
    """Write a figure as `path`, an SVG, and as a PNG beside it; returns the SVG for inlining."""
    save_figure(figure, path, path.with_suffix(".png"))
    text = path.read_text(encoding="utf-8")
    return text[text.index("<svg") :]


def faithfulness_graph(path: Path, faithfulness: dict[str, Any]) -> str:
    """Mean probability of the explained class as units are silenced or kept, with 95 % intervals.

    Writes `path`, an SVG, and a PNG beside it; returns the SVG for inlining.
    """
    figure = Figure(figsize=(8.6, 3.2), layout="constrained", dpi=200)
    axes = figure.subplots(1, 2, sharey=True)
    steps = range(faithfulness["steps"] + 1)
    for axis, way, title in zip(axes, ("deletion", "insertion"), ("units silenced", "units kept, all others silenced"),
                                strict=True):  # fmt: skip
        for (colour, style), method in zip(STYLES, faithfulness["methods"], strict=False):
            points = method[way]["probability"]
            axis.plot(steps, [point["mean"] for point in points], style, color=colour, label=method["name"])
            axis.fill_between(steps, [point["low"] for point in points], [point["high"] for point in points],
                              color=colour, alpha=0.15, linewidth=0)  # fmt: skip
        axis.set_xlabel(title)
        axis.set_ylim(0, 1.02)
        axis.spines[["top", "right"]].set_visible(False)
        axis.xaxis.get_major_locator().set_params(integer=True)
    axes[0].set_ylabel("probability of the class")
    axes[1].legend(frameon=False, fontsize=8)
    return save_graph(figure, path)


def write_curves(path: Path, epochs: Sequence[dict[str, float]]) -> None:
    """A run so far: loss, top-1 and top-5 of training and validation, and the learning rate, by epoch.

    Args:
        path: the file to write.
        epochs: the lines of train.jsonl.
    """
    figure = Figure(figsize=(11, 2.8), layout="constrained", dpi=120)
    keys, titles = ("loss", "top1", "top5", "lr"), ("loss", "top-1, %", "top-5, %", "learning rate")
    numbers = [line["epoch"] for line in epochs]
    for axis, key, title in zip(figure.subplots(1, 4), keys, titles, strict=True):
        curves = [(key, None)] if key == "lr" else [(f"train_{key}", "training"), (f"val_{key}", "validation")]
        for (name, label), (colour, style) in zip(curves, STYLES, strict=False):
            axis.plot(numbers, [line[name] for line in epochs], style, color=colour, label=label, markersize=3)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("epoch")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.spines[["top", "right"]].set_visible(False)
        if key == "loss":
            axis.legend(frameon=False, fontsize=8)
    save_figure(figure, path)


def _tiles(path: Path) -> list[np.ndarray]:
    with Image.open(path) as image:
        pixels = np.asarray(image)  # (H, tiles * H, 3)
    return np.split(pixels, pixels.shape[1] // PICTURE_SIZE, axis=1)


def _equation(record: dict[str, Any]) -> str:
    """Two lines: what was explained, and its score as a sum."""
    terms = [unit["vote"] for unit in record["units"] if unit["active"]]
    if record["others"]["count"]:
        terms.append(record["others"]["vote"])
    total = " ".join(f"{term:+.2f}" for term in [*terms, record["bias"]]).removeprefix("+")
    return f"{record['explained_name'].replace('_', ' ')}  {record['logit']:.2f}\n= {total}"
