"""Links from a dissection's page to the reports that explain by it: relative, and only to those that exist."""

import html
import os
import re
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote

from markupsafe import Markup

from report.pages import link_to
from util.cli import UserError
from util.files import regular_file

_MOST_BYTES = 1 << 28  # of a page
_PLACE = re.compile(r"<!--reports-->(.*?)<!--/reports-->", re.DOTALL)
_LINK = re.compile(r'href="([^"]*)"')


def reports_of(page: Path) -> list[Path]:
    """The reports that a dissection's page links to and that exist; none if there is no such page."""
    found = _PLACE.search(_text(page))
    listed = _LINK.findall(found[1]) if found else []
    paths = [unquote(html.unescape(link), errors="surrogateescape") for link in listed]
    return [file for path in paths if (file := Path(os.path.normpath(page.parent / path))).is_file()]


def links(page: Path, reports: Iterable[Path]) -> Markup:
    """What a dissection's page has between its marks: a link to each report, relative to the page's folder."""
    paths = dict.fromkeys(Path(os.path.relpath(report, page.parent)).as_posix() for report in reports)
    shown = [Markup('<a href="{}">{}</a>').format(link_to(path), path) for path in paths]
    return Markup("<p>Explanations by these units: {}</p>").format(Markup(", ").join(shown)) if shown else Markup("")


def _text(page: Path) -> str:
    if not page.is_file():
        return ""
    try:
        return regular_file(page, "page", _MOST_BYTES).read_bytes().decode(errors="surrogateescape")
    except OSError as error:
        raise UserError(f"page {page}: unreadable ({error.strerror})") from error
