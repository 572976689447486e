"""The pages of an explanation: pictures, classes and their routes, units, and whether it holds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from markupsafe import Markup
from PIL import Image

from files import whole_file
from report.figures import faithfulness_graph
from report.pages import file_name, write_page

PAGES = [
    ("explain.html", "Pictures"),
    ("classes.html", "Classes and routes"),
    ("units.html", "Units"),
    ("faithfulness.html", "Does it hold?"),
]
_LISTED_FLIPS = 3  # units named on the page because the prediction turns without them


@dataclass(frozen=True)
class Explained:
    """What the pages show: the data of the JSON files beside them.

    Attributes:
        report: explain.json.
        routes: routes.json.
        faithfulness: faithfulness.json.
        units: every unit of the network {unit, label, category, iou}, in order.
        threshold: IoU below which a unit's name is greyed.
        dissection: link from the pages' folder to Network Dissection's page of the layer; None if there is none.
    """

    report: dict[str, Any]
    routes: dict[str, Any]
    faithfulness: dict[str, Any]
    units: Sequence[Mapping[str, Any]]
    threshold: float
    dissection: str | None


def write_pages(folder: Path, explained: Explained) -> None:
    """Write explain.html, classes.html, class/<name>.html, units.html and faithfulness.html into a folder."""
    report, common = explained.report, {"pages": PAGES, "threshold": explained.threshold}
    images = [_picture(image, place) for place, image in enumerate(report["images"])]
    known = [image for image in images if image["verdict"]]
    write_page(
        folder / "explain.html",
        "explain.html",
        **common,
        report={**report, "images": images},
        columns=min(6, max((len(image["units"]) for image in images), default=1)),
        known=len(known),
        right=sum(image["verdict"] == "right" for image in known),
    )
    files = _class_files(explained.routes)
    _write_class_pages(folder, explained, images, files, common)
    served = {unit["unit"]: unit["classes"] for unit in explained.routes["units"]}
    units = [{**unit, "classes": served.get(unit["unit"], [])} for unit in explained.units]
    write_page(
        folder / "units.html",
        "units.html",
        **common,
        units=sorted(units, key=lambda unit: -len(unit["classes"])),
        routes=explained.routes,
        files=files,
        dissection=explained.dissection,
    )
    write_page(
        folder / "faithfulness.html",
        "faithfulness.html",
        **common,
        report=report,
        faithfulness=explained.faithfulness,
        graph=Markup(faithfulness_graph(folder / "faithfulness.svg", explained.faithfulness)),
    )


def _picture(image: dict[str, Any], place: int) -> dict[str, Any]:
    """A picture's record with what only the page needs: no number that is not in it."""
    verdict = "" if image["target"] is None else "right" if image["target"] == image["prediction"] else "wrong"
    terms = [unit["vote"] for unit in image["units"] if unit["active"]]
    sums = np.cumsum([0.0, *terms, image["others"]["vote"], image["bias"]])
    idle = [unit["vote"] for unit in image["units"] if not unit["active"]]
    names = [name.replace("_", " ") for name in (image["prediction_name"], image["target_name"] or "")]
    names += [image["file"]]
    names += [f"{unit['label']} {unit['unit']}" for unit in image["units"]]
    rivals = [side["name"].replace("_", " ") for side in image["contest"]]
    return {
        **image,
        "anchor": f"image-{image['index']}" if image["index"] is not None else f"image-file-{place}",
        "verdict": verdict,
        # All bars of a picture have one scale, which holds every partial sum of its score.
        "low": float(min(*sums, *idle)) if idle else float(min(sums)),
        "high": float(max(*sums, *idle, min(sums) + 1e-9)),
        "text": " ".join(names),
        "contest_title": f"Why {rivals[0]}" + (f" and not {' or '.join(rivals[1:])}?" if rivals[1:] else "?"),
        "holds": _holds(image),
    }


def _holds(image: dict[str, Any]) -> list[str]:
    """What happened to the prediction when units were silenced, in words."""
    deletion = image["ablation"]["deletion"]
    own, before, steps = image["explained"], deletion["probability"][0], len(deletion["probability"]) - 1
    name = image["explained_name"].replace("_", " ")

    def silenced(unit: dict[str, Any]) -> str:
        return f"Without unit {unit['unit']} ({unit['label'] or 'unnamed'})"

    def change(unit: dict[str, Any]) -> str:
        return f"{name} goes from {100 * before:.1f} to {100 * unit['without']['probability']:.1f} %"

    units = [unit for unit in image["units"] if unit["active"]]
    lines = []
    if own == image["prediction"]:
        turning = [unit for unit in units if unit["without"]["prediction"] != own]
        for unit in turning[:_LISTED_FLIPS]:
            other = unit["without"]["prediction_name"].replace("_", " ")
            lines.append(f"{silenced(unit)} the prediction becomes {other}: {change(unit)}.")
        if units and not turning:
            worst = min(units, key=lambda unit: unit["without"]["probability"])
            lines.append(f"No unit alone turns the prediction. {silenced(worst)}, at most, {change(worst)}.")
        turned = next((step for step, other in enumerate(deletion["prediction"]) if other != own), None)
        if turned is None:
            lines.append(f"With {steps} silenced, one after the other, it still says {name}.")
        elif turned > 1:
            other = deletion["prediction_name"][turned].replace("_", " ")
            lines.append(f"With the {turned} largest votes silenced it says {other}.")
    elif units:
        lines.append(f"{silenced(units[0])} {change(units[0])}.")
    kept = image["ablation"]["insertion"]["probability"][-1]
    alone = "Its largest vote alone gives" if steps == 1 else f"Its {steps} largest votes alone give"
    lines.append(f"{alone} {name} {100 * kept:.1f} %.")
    return lines


def _class_files(routes: dict[str, Any]) -> dict[int, str]:
    """{class: its page, from the folder of explain.html}."""
    taken: set[str] = set()
    return {row["class"]: f"class/{file_name(row['name'], taken)}.html" for row in routes["classes"]}


def _write_class_pages(
    folder: Path,
    explained: Explained,
    images: list[dict[str, Any]],
    files: dict[int, str],
    common: dict[str, Any],
) -> None:
    routes = explained.routes
    _write_matrix(folder / "vis" / "routes.png", routes)
    concepts = {unit["unit"]: unit for unit in explained.units}
    by_class = {row["class"]: row for row in routes["classes"]}
    rows = [by_class[class_] for class_ in routes["order"]["classes"]]
    columns = [concepts[unit] for unit in routes["order"]["units"]]
    write_page(
        folder / "classes.html",
        "classes.html",
        **common,
        report=explained.report,
        routes=routes,
        files=files,
        rows=rows,
        columns=columns,
        matrix_rows=[
            {
                "name": row["name"].replace("_", " "),
                "file": quote(files[row["class"]]),
                "units": {unit["unit"]: round(unit["frequency"], 4) for unit in row["units"]},
            }
            for row in rows
        ],
        matrix_columns=[{"unit": unit["unit"], "name": unit["label"] or "unnamed"} for unit in columns],
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


def _write_matrix(path: Path, routes: dict[str, Any]) -> None:
    """Class x unit as a picture of a pixel per pair: the more frequent the unit in the class's route, the less
    transparent.
    """  # noqa: D205
    column = {unit: place for place, unit in enumerate(routes["order"]["units"])}
    place = {class_: row for row, class_ in enumerate(routes["order"]["classes"])}
    pixels = np.zeros((len(place), max(1, len(column)), 4), np.uint8)
    pixels[..., :3] = (33, 102, 172)
    for row in routes["classes"]:
        for unit in row["units"]:
            # The square root lifts the rare ones, which would be invisible.
            pixels[place[row["class"]], column[unit["unit"]], 3] = round(255 * unit["frequency"] ** 0.5)
    with whole_file(path) as temporary:
        Image.fromarray(pixels).save(temporary)
