"""Figures for papers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from files import whole_file
from report.overlays import PICTURE_SIZE


def write_figure(path: Path, records: Sequence[dict[str, Any]], folder: Path) -> None:
    """Pictures side by side, above each the equation of its score, beneath it the overlays of its units.

    Args:
        path: the PNG to write.
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
    with whole_file(path) as temporary:
        figure.savefig(temporary)


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
