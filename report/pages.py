"""HTML pages from templates: one file each, no network resource, everything escaped."""

import os
import re
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from explain.naming import class_name, plain_label, unit_name, unit_title
from report.vote_maps import PALETTES, gradient
from util.files import atomic_write
from util.text import printable

_TEMPLATES = Path(__file__).with_name("templates")
_MOST_NAME_BYTES = 160  # of a file's name: systems take 255, with suffixes and those of temporary files
_DEVICES = re.compile(r"con|prn|aux|nul|(com|lpt)[0-9]", re.IGNORECASE)  # no files on Windows


def _signed(value: float, digits: int = 2) -> str:
    """A number with its sign, a true minus."""
    return f"{value:+.{digits}f}".replace("-", "−")


def _number(value: float, digits: int = 2) -> str:
    return f"{value:.{digits}f}".replace("-", "−")


def _plain(value: Any) -> Any:
    """Text as a page shows it: control characters and marks that reverse the text around them become escapes."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def link_to(path: str) -> str:
    """A relative path as a link; the bytes of a name that is not UTF-8 stay what they are."""
    return quote(path, errors="surrogateescape")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_plain,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        label=plain_label,
        unit_name=unit_name,
        unit_title=unit_title,
        spaced=class_name,
        signed=_signed,
        number=_number,
        path=link_to,
        gradient=gradient,
    )
    for name, file in (("style", "style.css"), ("script", "page.js"), ("matrix_script", "matrix.js")):
        environment.globals[name] = Markup((_TEMPLATES / file).read_text(encoding="utf-8"))
    environment.globals["palettes"] = list(PALETTES)
    return environment


def file_name(name: str, taken: set[str]) -> str:
    """A name as part of a file's name: letters, digits, - and _ only, and not one of `taken`, to which it is added."""
    try:
        os.fsencode(name)
        plain = re.sub(r"[^\w-]+", "_", name)
    except UnicodeEncodeError:  # in this locale, files cannot have such names
        plain = re.sub(r"[^\w-]+", "_", name, flags=re.ASCII)
    plain = plain[:80].encode()[:_MOST_NAME_BYTES].decode(errors="ignore") or "_"
    plain = f"{plain}_" if _DEVICES.fullmatch(plain) else plain
    number, unique = 1, plain
    while unique.lower() in taken:  # many file systems do not tell A from a
        number += 1
        unique = f"{plain}-{number}"
    taken.add(unique.lower())
    return unique


def write_page(path: str | os.PathLike, template: str, **values: Any) -> None:
    """Render a template of report/templates to a file."""
    html = _environment().get_template(template).render(**values)
    with atomic_write(path) as temporary:
        temporary.write_text(html, encoding="utf-8", errors="backslashreplace")
