"""Two tallies side by side: the units that detect a concept, and how many concepts they detect.

    python3 -m netdissect.compare A/tally.csv B/tally.csv
    python3 -m netdissect.compare A/tally.csv B/tally.csv --threshold 0.1 --categories object,part --json compared.json

Tallies of this project and of the paper's authors are read. A unit counts at an IoU at or above the threshold, in the
category of its best label; unique detectors are the distinct labels of these units; the mean best IoU is of all units.
With --categories a unit's best label is the best one in these, as in a tally of these only.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import settings
from explain.records import ComparisonRecord, Detectors, TallyRecord
from explain.tally import TallyRow, interpretable, read_tally, unique_detectors
from util.cli import ArgumentParser, UserError, check_ranges, run
from util.files import atomic_write
from util.text import say


def get_args_parser() -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(__doc__)
    parser.add_argument("tallies", nargs=2, type=Path, metavar="TALLY", help="a tally.csv")
    parser.add_argument(
        "--threshold",
        type=float,
        metavar="IOU",
        default=settings.SCORE_THRESHOLD,
        help=f"IoU from which a unit counts (default {settings.SCORE_THRESHOLD})",
    )
    parser.add_argument(
        "--categories", nargs="+", metavar="A,B", help="let labels of these compete only: a,b or a b (default: all)"
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the numbers to this file too (default: print only)"
    )
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, read, compare, print, and write if asked to."""
    args = get_args_parser().parse_args(arguments)
    check_ranges(args, {"threshold": (0, 1)})
    wanted = None if args.categories is None else _names(",".join(args.categories))
    if args.json and any(args.json.resolve() == path.resolve() for path in args.tallies):
        raise UserError(f"--json {args.json}: it is one of the tallies, expected another file")
    compared = compare(args.tallies, args.threshold, wanted)
    for line in table(compared):
        say(line)
    if args.json:
        with atomic_write(args.json) as temporary:
            temporary.write_text(json.dumps(compared, indent=1) + "\n", encoding="utf-8")


def _names(text: str) -> list[str]:
    """The names in a list such as 'a,b', each once."""
    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    if not all(names):
        raise UserError(f"--categories {text!r}: expected names with commas between them, such as object,part")
    return names


def compare(tallies: Sequence[Path], threshold: float, categories: Sequence[str] | None = None) -> ComparisonRecord:
    """The numbers of some tallies.

    Args:
        tallies: their paths.
        threshold: IoU from which a unit counts.
        categories: whose labels compete; None: all.

    Raises:
        UserError: for a file that is no tally, has no units, or lacks a category.
    """
    return {
        "threshold": threshold,
        "categories": None if categories is None else list(categories),
        "tallies": [_numbers(path, threshold, categories) for path in tallies],
    }


def _numbers(path: Path, threshold: float, categories: Sequence[str] | None) -> TallyRecord:
    rows = read_tally(path)
    if not rows:
        raise UserError(f"tally {path}: no units in it")
    if categories is not None:
        missing = [name for name in categories if name not in rows[0].categories]
        if missing:
            known = ", ".join(rows[0].categories) or "no columns of any"
            raise UserError(f"tally {path}: no category {missing[0]!r}; it has {known}")
        rows = best_among(rows, categories)
    found = interpretable(rows, threshold)
    # A tally of four columns names only the categories of its units.
    names = list(rows[0].categories) or sorted({row.category for row in found})
    by_category = {name: [row for row in found if row.category == name] for name in names}
    return {
        "tally": str(path),
        "units": len(rows),
        "interpretable": len(found),
        "detectors": len(unique_detectors(found)),
        "mean_score": sum(row.score for row in rows) / len(rows),
        "categories": {
            name: {"interpretable": len(own), "detectors": len(unique_detectors(own))}
            for name, own in by_category.items()
        },
    }


def best_among(rows: Sequence[TallyRow], categories: Sequence[str]) -> list[TallyRow]:
    """The rows of a tally in which some of its categories compete only; the last in the file's order wins a tie."""
    chosen = []
    for row in rows:
        scores = {name: score for name, score in row.categories.items() if name in categories}
        winner = max(reversed(scores), key=lambda name: scores[name].iou)
        best = scores[winner]
        chosen.append(replace(row, category=winner, label=best.label, score=best.iou, categories=scores))
    return chosen


def table(compared: ComparisonRecord) -> list[str]:
    """The lines of the comparison in plain text."""
    tallies = compared["tallies"]
    letters = [chr(ord("A") + number) for number in range(len(tallies))]
    rows = [
        ["", *letters],
        ["units", *(str(one["units"]) for one in tallies)],
        [f"interpretable (IoU >= {compared['threshold']:g})", *(str(one["interpretable"]) for one in tallies)],
        ["unique detectors", *(str(one["detectors"]) for one in tallies)],
        ["mean best IoU", *(f"{one['mean_score']:.4f}" for one in tallies)],
    ]
    rows.append(["by category: interpretable / unique detectors", *("" for _ in tallies)])
    for name in dict.fromkeys(name for one in tallies for name in one["categories"]):
        rows.append([f"  {name}", *(_cell(one["categories"].get(name)) for one in tallies)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [f"{letter}: {one['tally']}" for letter, one in zip(letters, tallies, strict=True)]
    for name, *cells in rows:
        aligned = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        lines.append("  ".join([name.ljust(widths[0]), *aligned]).rstrip())
    return lines


def _cell(own: Detectors | None) -> str:
    return "-" if own is None else f"{own['interpretable']} / {own['detectors']}"


if __name__ == "__main__":
    run(main, "netdissect.compare")
