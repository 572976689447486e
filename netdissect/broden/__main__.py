"""Check a Broden-format folder, or build one from images and label maps.

    python3 -m netdissect.broden check DIR
    python3 -m netdissect.broden build --images DIR --labels DIR --names names.csv --output DIR

`check` prints every fault, and ends with exit code 1 if there are any.
"""

import sys
from pathlib import Path

from netdissect.broden.build import build
from netdissect.broden.check import check
from util.cli import ArgumentParser, run
from util.text import say


def get_args_parser() -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    checking = commands.add_parser("check", help="list the faults of a Broden-format folder")
    checking.add_argument("directory", type=Path)
    building = commands.add_parser("build", help="make one from images, label maps and names")
    building.add_argument("--images", type=Path, required=True, help="folder of images")
    building.add_argument("--labels", type=Path, required=True, help="folder of label maps, PNGs of integers")
    building.add_argument("--names", type=Path, required=True, help="CSV: number,name,category")
    building.add_argument("--output", type=Path, required=True, help="folder to make")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line; `check` ends with code 1 if there are faults."""
    args = get_args_parser().parse_args(arguments)
    if args.command == "build":
        count = build(args.images, args.labels, args.names, args.output)
        say(f"{args.output}: {count} images")
        return
    faults = check(args.directory)
    for line in faults or [f"{args.directory}: no faults"]:
        say(line)
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    run(main, "netdissect.broden")
