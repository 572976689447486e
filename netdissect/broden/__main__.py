"""Check a Broden-format folder, or build one from images, label maps and folders of images.

    python3 -m netdissect.broden check DIR
    python3 -m netdissect.broden build --images DIR --labels DIR --names names.csv --output DIR
    python3 -m netdissect.broden build --recipe netdissect/dataset/recipes/camvid.json --output DIR

`check` prints every fault, and ends with exit code 1 if there are any. A recipe merges any number of sources;
netdissect/dataset/recipes/README.md describes its keys, and has recipes for public data.
"""

import sys
from pathlib import Path

from util.cli import ArgumentParser, UserError, run


def get_args_parser() -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    checking = commands.add_parser("check", help="list the faults of a Broden-format folder")
    checking.add_argument("directory", type=Path, metavar="DIR", help="the folder")
    building = commands.add_parser("build", help="make one from images, label maps and names")
    building.add_argument(
        "--recipe", type=Path, metavar="JSON", help="what to build from; instead of the three that follow"
    )
    building.add_argument("--images", type=Path, metavar="DIR", help="folder of images")
    building.add_argument("--labels", type=Path, metavar="DIR", help="folder of label maps, PNGs of integers")
    building.add_argument("--names", type=Path, metavar="CSV", help="CSV: number,name,category")
    building.add_argument("--output", type=Path, metavar="DIR", required=True, help="folder to make")
    return parser


if __name__ == "__main__":  # --help and mistakes are answered before the imports below, which take seconds
    run(get_args_parser().parse_args, "netdissect.broden")

from netdissect.broden.build import build, build_recipe
from netdissect.broden.check import check
from netdissect.broden.recipe import read_recipe
from util.text import say


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line; `check` ends with code 1 if there are faults."""
    args = get_args_parser().parse_args(arguments)
    if args.command == "build":
        parts = {name: getattr(args, name) for name in ("images", "labels", "names")}
        missing = [f"--{name}" for name, path in parts.items() if path is None]
        if args.recipe and len(missing) < len(parts):
            raise UserError(f"--recipe {args.recipe}: expected without --images, --labels and --names")
        if not args.recipe and missing:
            raise UserError(f"the following arguments are required: --recipe, or {', '.join(missing)}")
        count = (
            build_recipe(read_recipe(args.recipe), args.output) if args.recipe else build(**parts, output=args.output)
        )
        say(f"{args.output}: {count} images")
        return
    faults = check(args.directory)
    for line in faults or [f"{args.directory}: no faults"]:
        say(line)
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    run(main, "netdissect.broden")
