"""The HTML page of a dissected layer: its units, their concepts, and the pictures they fire at most."""

import json
import os
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

from engine import progress
from files import whole_file
from netdissect.activity import LayerSummary
from netdissect.broden import Broden
from netdissect.tally import TallyRow, interpretable, unique_detectors
from report.figures import save_graph
from report.overlays import darken_outside, outline, upsample, write_strip
from report.pages import plain_label, write_page

TILE = 144  # side of a picture in a unit's row, pixels


def chance_summary(rows: Sequence[TallyRow], null_scores: np.ndarray, threshold: float) -> dict:
    """chance.json: how a layer's scores stand to those of randomly paired pictures.

    Args:
        rows: the tally.
        null_scores: (rounds, U) best IoU of each unit in each round of random pairs.
        threshold: the IoU that counts as interpretable.

    Returns:
        rounds, null_95 (95th percentile of the null scores), units_above_95, units_above_threshold, and per unit the
        share of null scores at or above its own (`chance`).
    """
    null = np.sort(null_scores.ravel())
    limit = float(np.quantile(null, 0.95))
    above = {row.unit: float(1 - np.searchsorted(null, row.score, side="left") / len(null)) for row in rows}
    return {
        "rounds": len(null_scores),
        "null_95": limit,
        "units_above_95": sum(row.score > limit for row in rows),
        "units_above_threshold": len(interpretable(rows, threshold)),
        "units": [{"unit": row.unit, "score": row.score, "chance": above[row.unit]} for row in rows],
    }


def write_chance(path: str | os.PathLike, summary: dict) -> None:
    """Write chance.json."""
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(summary, indent=1), encoding="utf-8")


def write_report(
    folder: Path,
    layer: str,
    model: str,
    broden: Broden,
    summary: LayerSummary,
    rows: Sequence[TallyRow],
    iou_mode: str,
    score_threshold: float,
    seg_threshold: float,
    chance: dict | None,
) -> Path:
    """Write html/<layer>.html, its pictures html/<layer>/unit-<n>.jpg, and the bar graph as .svg and .png beside it.

    Args:
        folder: the output folder.
        layer: its name.
        model: the network's name, for the heading.
        broden: the pictures.
        summary: the units' thresholds, maps and top pictures.
        rows: the tally, in its order.
        iou_mode: 'lite' or 'original', said on the page.
        score_threshold: IoU from which a unit counts as interpretable.
        seg_threshold: IoU from which a unit's concepts of further categories are listed.
        chance: as `chance_summary` gives it.

    Returns:
        The page's path.
    """
    topn = len(summary.top_pictures)
    write_strips(folder / "html" / layer, broden, summary)
    found = interpretable(rows, score_threshold)
    by_category = [(name, len(unique_detectors([row for row in found if row.category == name])))
                   for name in broden.categories]  # fmt: skip
    chance_of = {unit["unit"]: unit["chance"] for unit in chance["units"]} if chance else {}
    page = folder / "html" / f"{layer}.html"
    write_page(
        page,
        "dissection.html",
        layer=layer,
        model=model,
        data=broden.directory.resolve().name,
        pictures=len(broden),
        iou_mode=iou_mode,
        threshold=score_threshold,
        units=[
            {
                "unit": row.unit,
                "label": row.label,
                "category": row.category,
                "score": row.score,
                "chance": chance_of.get(row.unit),
                "also": [
                    {"category": category, "label": best.label, "iou": best.iou}
                    for category, best in row.categories.items()
                    if category != row.category and best.iou >= seg_threshold and best.label
                ],
                "strip": f"{layer}/unit-{row.unit}.jpg",
                "outlines": f"{layer}/unit-{row.unit}-outline.jpg",
            }
            for row in rows
        ],
        categories=broden.categories,
        interpretable=len(found),
        detectors=len(unique_detectors(found)),
        by_category=[(name, number) for name, number in by_category if number],
        chance=chance,
        graph=Markup(detector_graph(folder / "html" / f"{layer}.svg", found, broden.categories)) if found else None,
        topn=topn,
        strip_width=TILE * topn,
        strip_height=TILE,
    )
    return page


def write_strips(folder: Path, broden: Broden, summary: LayerSummary) -> None:
    """For each unit, the pictures with its largest activations side by side, in two files.

    unit-<n>.jpg has them darkened outside the unit's mask, unit-<n>-outline.jpg with the mask's outline.
    """
    folder.mkdir(parents=True, exist_ok=True)

    @lru_cache(maxsize=4096)
    def tile(index: int) -> np.ndarray:
        return np.asarray(broden.picture(index).resize((TILE, TILE), Image.Resampling.BILINEAR))

    for unit in progress(range(len(summary.thresholds)), desc="pictures", unit="unit"):
        indices = summary.top_pictures[:, unit].tolist()
        masks = np.zeros((len(indices), TILE, TILE), bool)
        for mask, index in zip(masks, indices, strict=True):
            units, maps = summary.maps.get(index)
            unit_map = maps[units == unit]  # (1, h, w), or (0, h, w) where it is nowhere on
            mask[:] = (upsample(unit_map, TILE, TILE) > summary.thresholds[unit]).any(0).numpy()
        tiles = np.stack([tile(index) for index in indices])  # (topn, TILE, TILE, 3)
        write_strip(folder / f"unit-{unit + 1}.jpg", darken_outside(tiles, masks))
        write_strip(folder / f"unit-{unit + 1}-outline.jpg", outline(tiles, masks))


def detector_graph(path: Path, found: Sequence[TallyRow], categories: Sequence[str]) -> str:
    """Bars of how many units detect each concept, grouped by category.

    Writes `path`, an SVG, and a PNG beside it; returns the SVG for inlining.
    """
    counts = [Counter(row.label for row in found if row.category == category) for category in categories]
    groups = [sorted(count.items(), key=lambda item: (-item[1], item[0])) for count in counts]
    labels = [plain_label(label) for group in groups for label, _ in group]
    figure = Figure(figsize=(max(4, 0.19 * len(labels) + 1.2), 2.7), layout="constrained", dpi=200)
    axes = figure.subplots()
    start = 0
    for category, group in zip(categories, groups, strict=True):
        if group:
            axes.bar(range(start, start + len(group)), [number for _, number in group], width=0.8, label=category)
            start += len(group)
    axes.set_xticks(range(len(labels)), labels, rotation=90, fontsize=7)
    axes.margins(x=0.01)
    axes.set_ylabel("units")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=7, ncols=len(categories), loc="upper right")
    return save_graph(figure, path)
