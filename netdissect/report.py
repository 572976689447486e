"""The HTML page of a dissected layer: its units, their concepts, and the images of their largest activations."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

from explain.naming import plain_label
from netdissect.activity import LayerSummary
from netdissect.broden import Broden
from netdissect.dissect import DissectedLayer, TallyConfig
from netdissect.masks import unit_masks
from netdissect.tally import TallyRow, interpretable, unique_detectors
from report.overlays import darken_outside, outline, write_strip
from report.pages import write_page
from util.plots import save_graph
from util.progress import progress
from util.text import plain_math, printable

TILE = 144  # side of an image in a unit's row, pixels


@dataclass(frozen=True)
class PageConfig:
    """What the page shows of each unit.

    Attributes:
        topn: images of largest activation.
        seg_threshold: IoU from which the concepts of its further categories are listed.
    """

    topn: int = 10
    seg_threshold: float = 0.04


def write_report(
    folder: Path, model: str, broden: Broden, layer: DissectedLayer, tally: TallyConfig, config: PageConfig
) -> Path:
    """Write html/<layer>.html, its images html/<layer>/unit-<n>.jpg, and the bar graph as .svg and .png beside it.

    Args:
        folder: the output folder.
        model: the network's name, for the heading.
        broden: the images.
        layer: the results.
        tally: how they were obtained: the page states the IoU mode and the threshold.
        config: what the page shows.

    Returns:
        The page's path.
    """
    top_images = layer.summary.top_images(config.topn)  # (topn, U), or fewer
    write_strips(folder / "html" / layer.name, broden, layer.summary, top_images)
    found = interpretable(layer.rows, tally.score_threshold)
    by_category = {name: [row for row in found if row.category == name] for name in broden.categories}
    graph = detector_graph(folder / "html" / f"{layer.name}.svg", found, broden.categories) if found else None
    page = folder / "html" / f"{layer.name}.html"
    write_page(
        page,
        "dissection.html",
        layer=layer.name,
        model=printable(model),
        data=printable(broden.directory.resolve().name),
        images=len(broden),
        iou_mode=tally.iou_mode,
        threshold=tally.score_threshold,
        units=_unit_entries(layer, config.seg_threshold),
        categories=broden.categories,
        interpretable=len(found),
        detectors=len(unique_detectors(found)),
        by_category=[(name, len(unique_detectors(rows))) for name, rows in by_category.items() if rows],
        chance=layer.chance,
        graph=Markup(graph) if graph else None,
        topn=len(top_images),
        strip_width=TILE * len(top_images),
        strip_height=TILE,
    )
    return page


def _unit_entries(layer: DissectedLayer, seg_threshold: float) -> list[dict[str, Any]]:
    """What the page shows of each unit, in the tally's order."""
    chance = {unit["unit"]: unit["chance"] for unit in layer.chance["units"]} if layer.chance else {}
    return [
        {
            "unit": row.unit,
            "label": row.label,
            "category": row.category,
            "score": row.score,
            "chance": chance.get(row.unit),
            "also": [
                {"category": category, "label": best.label, "iou": best.iou}
                for category, best in row.categories.items()
                if category != row.category and best.iou >= seg_threshold and best.label
            ],
            "strip": f"{layer.name}/unit-{row.unit}.jpg",
            "outlines": f"{layer.name}/unit-{row.unit}-outline.jpg",
        }
        for row in layer.rows
    ]


def write_strips(folder: Path, broden: Broden, summary: LayerSummary, images: np.ndarray) -> None:
    """For each of U units, write its images (topn, U) side by side, into two files.

    unit-<n>.jpg shows them darkened outside the unit's mask, unit-<n>-outline.jpg with the mask's outline.
    """
    folder.mkdir(parents=True, exist_ok=True)

    @lru_cache(maxsize=4096)
    def tile(index: int) -> np.ndarray:
        return np.asarray(broden.image(index).resize((TILE, TILE), Image.Resampling.BILINEAR))

    limits = summary.limits
    for unit in progress(range(len(limits)), desc="images", unit="unit"):
        indices = images[:, unit].tolist()
        masks = np.zeros((len(indices), TILE, TILE), bool)
        for mask, index in zip(masks, indices, strict=True):
            units, maps = summary.maps.get(index)
            own = units == unit  # none where the unit is off in the whole image
            mask[:] = unit_masks(maps[own], limits[units[own]], TILE, TILE).any(0).numpy()
        tiles = np.stack([tile(index) for index in indices])  # (topn, TILE, TILE, 3)
        write_strip(folder / f"unit-{unit + 1}.jpg", darken_outside(tiles, masks))
        write_strip(folder / f"unit-{unit + 1}-outline.jpg", outline(tiles, masks))


def detector_graph(path: Path, found: Sequence[TallyRow], categories: Sequence[str]) -> str:
    """Draw how many units detect each concept, as bars grouped by category.

    Writes `path`, an SVG, and a PNG beside it; returns the SVG for inlining.
    """
    counts = [Counter(row.label for row in found if row.category == category) for category in categories]
    groups = [sorted(count.items(), key=lambda item: (-item[1], item[0])) for count in counts]
    labels = [plain_math(plain_label(label)) for group in groups for label, _ in group]
    figure = Figure(figsize=(max(4, 0.19 * len(labels) + 1.2), 2.7), layout="constrained", dpi=200)
    axes = figure.subplots()
    start = 0
    for category, group in zip(categories, groups, strict=True):
        if group:
            axes.bar(
                range(start, start + len(group)), [number for _, number in group], width=0.8, label=plain_math(category)
            )
            start += len(group)
    axes.set_xticks(range(len(labels)), labels, rotation=90, fontsize=7)
    axes.margins(x=0.01)
    axes.set_ylabel("units")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=7, ncols=len(categories), loc="upper right")
    return save_graph(figure, path)
