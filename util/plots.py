"""Saving matplotlib figures, for whatever they show."""

from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from util.files import atomic_write

# Colours that the colour-blind can tell apart (Okabe and Ito), and line styles for print.
STYLES = [
    ("#0072b2", "o-"),
    ("#777777", "s--"),
    ("#d55e00", "^-."),
    ("#009e73", "v:"),
    ("#cc79a7", "D--"),
    ("#e69f00", "P-."),
]


def save_figure(figure: Figure, *paths: Path) -> None:
    """Write a figure in the formats of the paths' suffixes; fonts are embedded as TrueType, as publishers require."""
    with matplotlib.rc_context({"pdf.fonttype": 42, "svg.hashsalt": "fixed"}):
        for path in paths:
            with atomic_write(path) as temporary:
                figure.savefig(temporary)


def save_graph(figure: Figure, path: Path) -> str:
    """Write a figure as `path`, an SVG, with a PNG beside it.

    Returns:
        the SVG for inlining in a page: what is black takes the colour of the page's text, and the ground is the page's.
    """
    save_figure(figure, path, path.with_suffix(".png"))
    text = path.read_text(encoding="utf-8")
    return text[text.index("<svg") :].replace("#000000", "currentColor").replace("fill: #ffffff", "fill: none")
