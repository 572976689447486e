"""The pages of an explanation: images, classes and their routes, units, and whether it holds."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from PIL import Image

from explain.live import LiveHead
from explain.naming import class_name, unit_name
from explain.records import ClassRoute, FaithfulnessRecord, Report, RoutesRecord, UnitRecord
from report.cards import card
from report.figures import faithfulness_graph
from report.live import FEATURES, write_live
from report.pages import file_name, link_to, write_page
from util.cli import UserError
from util.files import atomic_write
from util.text import printable

NAVIGATION = [
    ("explain.html", "Images"),
    ("classes.html", "Classes and routes"),
    ("units.html", "Units"),
    ("faithfulness.html", "Does it hold?"),
]


# What lies in the folders of a report: a new report does not keep these files.
REPLACEABLE = rf"class/[^/]+\.html|{FEATURES}/\d+\.js|vis/((cam_|beside_|unit-)\d+\.jpg|routes\.png|\.lock)"


@dataclass(frozen=True)
class Pages:
    """What the pages show: the content of the JSON files beside them.

    Attributes:
        report: explain.json.
        routes: routes.json.
        faithfulness: faithfulness.json.
        units: every unit of the network, in order.
        threshold: IoU below which a unit's name is greyed.
        dissection: Network Dissection's page of the layer, which the pages link to, as a path from the report's
            folder; None if there is none.
        live: the head, for the browser; None if no rule gives its scores.
    """

    report: Report
    routes: RoutesRecord
    faithfulness: FaithfulnessRecord
    units: Sequence[UnitRecord]
    threshold: float
    dissection: str | None = None
    live: LiveHead | None = None


def write_report(folder: Path, pages: Pages) -> None:
    """Write explain.json, routes.json, faithfulness.json, and all pages, into a folder.

    Raises:
        UserError: if a number is not finite, which JSON has no word for, or the folder is not writable.
    """
    for name, data in (
        ("explain", pages.report),
        ("routes", pages.routes),
        ("faithfulness", pages.faithfulness),
    ):
        try:
            text = json.dumps(data, indent=1, allow_nan=False)
        except ValueError as error:
            raise UserError(
                f"{name}.json: not all numbers are finite: weights or features are too large for float32"
            ) from error
        with atomic_write(folder / f"{name}.json") as temporary:
            temporary.write_text(text, encoding="utf-8")
    write_pages(folder, pages)


def write_pages(folder: Path, pages: Pages) -> None:
    """Write explain.html, classes.html, class/<name>.html, units.html and faithfulness.html into a folder."""
    report = pages.report
    seen = {unit["unit"]: unit for unit in report["units"]}
    common = {
        "pages": NAVIGATION,
        "threshold": pages.threshold,
        "notices": report.get("notices", []),
        "seen": seen,
        "dissection": pages.dissection,
    }
    classes = len(pages.routes["classes"])
    images = [card(image, place, classes) for place, image in enumerate(report["images"])]
    known = [image for image in images if image["verdict"]]
    write_page(
        folder / "explain.html",
        "explain.html",
        **common,
        report={**report, "images": images},
        outlined=any(unit["threshold"] is not None for unit in seen.values()),
        listed=max((len(one["units"]) for image in images for one in (image, image["compared"] or image)), default=1),
        known=len(known),
        right=sum(image["verdict"] == "right" for image in known),
        live=_live(folder, pages),
    )
    files = _class_files(pages.routes)
    _write_class_pages(folder, pages, images, files, common)
    _write_units_page(folder, pages, files, common)
    write_page(
        folder / "faithfulness.html",
        "faithfulness.html",
        **common,
        report=report,
        faithfulness=pages.faithfulness,
        graph=Markup(faithfulness_graph(folder / "faithfulness.svg", pages.faithfulness)),
    )


def _live(folder: Path, pages: Pages) -> dict[str, Any] | None:
    """Write the scripts of live silencing; what explain.html says of them."""
    live = pages.live
    if live is None:
        return None
    names = {row["class"]: row["name"] for row in pages.routes["classes"]}
    return {
        "scripts": write_live(folder, live, pages.report, names, pages.units),
        "units": len(pages.units),
        "topk": live.topk,
        "trained": pages.report["trained_topk"],
        "adjustable": live.adjustable,
        "kept": len(live.classes),
        "count": live.count,
    }


def _write_units_page(folder: Path, pages: Pages, files: dict[int, str], common: dict[str, Any]) -> None:
    served = {unit["unit"]: unit["classes"] for unit in pages.routes["units"]}
    units = [{**unit, "classes": served.get(unit["unit"], [])} for unit in pages.units]
    write_page(
        folder / "units.html",
        "units.html",
        **common,
        report=pages.report,
        units=sorted(units, key=lambda unit: -len(unit["classes"])),
        routes=pages.routes,
        files=files,
    )


def _class_files(routes: RoutesRecord) -> dict[int, str]:
    """{class: its page, from the folder of explain.html}."""
    taken: set[str] = set()
    return {row["class"]: f"class/{file_name(row['name'], taken)}.html" for row in routes["classes"]}


def _write_class_pages(
    folder: Path,
    pages: Pages,
    images: list[dict[str, Any]],
    files: dict[int, str],
    common: dict[str, Any],
) -> None:
    routes = pages.routes
    concepts = {unit["unit"]: unit for unit in pages.units}
    by_class = {row["class"]: row for row in routes["classes"]}
    rows = [by_class[class_] for class_ in routes["order"]["classes"] if by_class[class_]["images"]]
    _write_matrix(folder / "vis" / "routes.png", rows, routes["order"]["units"])
    columns = [concepts[unit] for unit in routes["order"]["units"]]
    write_page(
        folder / "classes.html",
        "classes.html",
        **common,
        report=pages.report,
        routes=routes,
        files=files,
        rows=rows,
        classes=[row for row in routes["classes"] if not _is_absent(row)],
        absent=[row for row in routes["classes"] if _is_absent(row)],
        columns=columns,
        matrix_rows=[
            {
                "name": printable(class_name(row["name"])),
                "file": link_to(files[row["class"]]),
                "units": {unit["unit"]: round(unit["frequency"], 4) for unit in row["units"]},
            }
            for row in rows
        ],
        matrix_columns=[{"unit": unit["unit"], "name": printable(unit_name(unit))} for unit in columns],
    )
    for row in routes["classes"]:
        write_page(
            folder / files[row["class"]],
            "class.html",
            **common,
            row=row,
            routes=routes,
            files=files,
            images=[image for image in images if image["explained"] == row["class"]],
        )


def _is_absent(row: ClassRoute) -> bool:
    """Whether no image is of a class, nor explained as it."""
    return not row["images"] and row["accuracy"] is None


def _write_matrix(path: Path, classes: Sequence[ClassRoute], units: Sequence[int]) -> None:
    """Class x unit as an image of one pixel per pair: opaque where every image of the class chose the unit."""
    column = {unit: place for place, unit in enumerate(units)}
    pixels = np.zeros((len(classes), max(1, len(column)), 4), np.uint8)
    pixels[..., :3] = (33, 102, 172)
    for place, row in enumerate(classes):
        for unit in row["units"]:
            # The square root makes the rare ones visible.
            pixels[place, column[unit["unit"]], 3] = round(255 * unit["frequency"] ** 0.5)
    with atomic_write(path) as temporary:
        Image.fromarray(pixels).save(temporary)
