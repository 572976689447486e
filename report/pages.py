"""HTML pages from templates: one file each, no network resource, everything escaped."""

import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from files import whole_file

_TEMPLATES = Path(__file__).with_name("templates")
_SUFFIX = re.compile(r"-[sc]$")


def plain_label(label: str) -> str:
    """A Broden label for people: `bakery_shop-s` and `blue-c` (scenes, colours) lose that suffix, nothing else."""
    return _SUFFIX.sub("", label)


def _spaced(name: str) -> str:
    return name.replace("_", " ")


def _signed(value: float, digits: int = 2) -> str:
    """A number with its sign, a true minus."""
    return f"{value:+.{digits}f}".replace("-", "−")


def _number(value: float, digits: int = 2) -> str:
    return f"{value:.{digits}f}".replace("-", "−")


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        label=plain_label, spaced=_spaced, signed=_signed, number=_number, path=lambda path: quote(path)
    )
    for name, file in (("style", "style.css"), ("script", "page.js")):
        environment.globals[name] = Markup((_TEMPLATES / file).read_text(encoding="utf-8"))
    return environment


def write_page(path: str | os.PathLike, template: str, **values: Any) -> None:
    """Render a template of report/templates to a file."""
    html = _environment().get_template(template).render(**values)
    with whole_file(path) as temporary:
        temporary.write_text(html, encoding="utf-8")


def write_explain_page(path: str | os.PathLike, report: dict[str, Any], threshold: float) -> None:
    """explain.html, from the data of explain.json beside it.

    Args:
        path: the page.
        report: what explain.json has.
        threshold: IoU below which a unit's name is greyed.
    """
    known = [image for image in report["images"] if image["target"] is not None]
    images = []
    for image in report["images"]:
        terms = [0.0, image["bias"], image["others"]["vote"], *(unit["vote"] for unit in image["units"])]
        # All bars of a picture have one scale, from its lowest term to its highest.
        images.append({**image, "low": min(terms), "high": max(terms)})
    write_page(
        path,
        "explain.html",
        report={**report, "images": images},
        columns=min(6, max((len(image["units"]) for image in images), default=1)),
        threshold=threshold,
        known=len(known),
        right=sum(image["target"] == image["prediction"] for image in known),
    )
