"""The HTML page of a dissected layer: its units, their concepts, and the images of their largest activations."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure

from explain.agreement import ceiling_binds
from explain.naming import class_name, plain_label
from netdissect.broden import Broden
from netdissect.dissect import DissectedLayer, TallyConfig
from netdissect.strips import TILE, Strips, write_strips
from netdissect.tally import TallyRow, interpretable, unique_detectors
from report.links import links, reports_of
from report.pages import write_page
from util.plots import STYLES, save_graph
from util.text import plain_math, printable


@dataclass(frozen=True)
class PageConfig:
    """What the page shows.

    Attributes:
        topn: of each unit, images of largest activation.
        seg_threshold: IoU from which the concepts of a unit's further categories are listed.
        place: where the page will lie; None: where it is written.
        reports: explanations that it is to link to, if they exist, beside those that the page there links to.
    """

    topn: int = 10
    seg_threshold: float = 0.04
    place: Path | None = None
    reports: Sequence[Path] = ()


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
    images = dict(enumerate(top_images.T.tolist()))
    write_strips(folder / "html" / layer.name, Strips(broden, layer.summary.maps, layer.summary.limits, images))
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
        units=_unit_entries(layer, config.seg_threshold, tally.score_threshold),
        binding=sum(ceiling_binds(row, tally.score_threshold) for row in layer.agreement),
        reports=_report_links(config.place or page, config.reports),
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


def _report_links(page: Path, reports: Sequence[Path]) -> Markup:
    """Links to the reports that explain by this layer."""
    return links(page, [*reports_of(page), *(report for report in reports if report.is_file())])


def _unit_entries(layer: DissectedLayer, seg_threshold: float, threshold: float) -> list[dict[str, Any]]:
    """What the page shows of each unit, in the tally's order; of `PageConfig` and `TallyConfig` the two thresholds."""
    agreement = {row.unit: row for row in layer.agreement}
    chance = {unit["unit"]: unit["chance"] for unit in layer.chance["units"]} if layer.chance else {}
    return [
        {
            "unit": row.unit,
            "label": row.label,
            "category": row.category,
            "score": row.score,
            "chance": chance.get(row.unit),
            "ceiling": agreement[row.unit].ceiling,
            "binds": ceiling_binds(agreement[row.unit], threshold),
            "auroc": agreement[row.unit].auroc,
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


def detector_graph(path: Path, found: Sequence[TallyRow], categories: Sequence[str]) -> str:
    """Draw how many units detect each concept, as bars grouped by category.

    Writes `path`, an SVG, and a PNG beside it; returns the SVG for inlining.
    """
    counts = [Counter(row.label for row in found if row.category == category) for category in categories]
    groups = [sorted(count.items(), key=lambda item: (-item[1], item[0])) for count in counts]
    labels = [plain_math(class_name(plain_label(label))) for group in groups for label, _ in group]
    figure = Figure(figsize=(max(4, 0.19 * len(labels) + 1.2), 2.7), layout="constrained", dpi=200)
    axes = figure.subplots()
    axes.set_prop_cycle(color=[colour for colour, _ in (*STYLES[2:], *STYLES[:2])])  # grey last
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
