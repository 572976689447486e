"""Figures for papers and pages."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from explain.drawing import draw_images
from explain.records import ExplanationRecord, FaithfulnessRecord
from util.plots import STYLES, save_figure, save_graph
from util.text import abridged, plain_math

NAME = 62  # characters of a curve's name in a legend


def write_figure(path: Path, explained: Sequence[tuple[ExplanationRecord, Sequence[np.ndarray]]]) -> None:
    """Images side by side, as `explain.drawing.draw_images` draws them.

    Args:
        path: the PNG to write; a PDF with embedded fonts is written beside it.
        explained: usually four explained images, each with its tiles, as of `explain.drawing.overlay_tiles`.
    """
    save_figure(draw_images(explained), path, path.with_suffix(".pdf"))


def faithfulness_graph(path: Path, faithfulness: FaithfulnessRecord) -> str:
    """Mean probability of the explained class as units are silenced or kept, with 95 % intervals.

    Writes `path`, an SVG, and a PNG beside it; returns the SVG for inlining.
    """
    figure = Figure(figsize=(8.6, 3.9), layout="constrained", dpi=200)
    axes = figure.subplots(1, 2, sharey=True)
    steps = range(faithfulness["steps"] + 1)
    titles = ("units silenced", "units kept, all others silenced")
    for axis, way, title in zip(axes, ("deletion", "insertion"), titles, strict=True):
        for (colour, style), method in zip(STYLES, faithfulness["methods"], strict=False):
            points = (method["deletion"] if way == "deletion" else method["insertion"])["probability"]
            low, high = [point["low"] for point in points], [point["high"] for point in points]
            name = plain_math(abridged(method["name"], NAME))
            axis.plot(steps, [point["mean"] for point in points], style, color=colour, label=name)
            axis.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)
        axis.set_xlabel(title)
        axis.set_ylim(0, 1.02)
        axis.spines[["top", "right"]].set_visible(False)
        axis.xaxis.get_major_locator().set_params(integer=True)
    axes[0].set_ylabel("probability of the class")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return save_graph(figure, path)
