"""Six photographs that scikit-image and scikit-learn bring, to try the network for photographs on. None is downloaded.

    python3 -m loader.photographs                 # copies them to data/photographs
    python3 demo.py --image data/photographs

`data/README.md` says who took them and under which licences they are.
"""

import shutil
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import settings
from util.cli import ArgumentParser, UserError, run
from util.files import atomic_write, display_path, regular_file
from util.text import say

FOLDER = "photographs"
REQUIREMENTS = "requirements-photos.txt"


@dataclass(frozen=True)
class Source:
    """A package that has photographs among its files.

    Attributes:
        package: as it is imported.
        name: as it is installed.
        folder: in the package.
        files: names of the photographs.
    """

    package: str
    name: str
    folder: str
    files: tuple[str, ...]

    def paths(self) -> list[Path]:
        """The photographs. Raises UserError if the package is not installed, or comes without one of them."""
        found = find_spec(self.package)
        if found is None or found.origin is None:
            raise UserError(f"{self.name} is not installed: `pip install -r {REQUIREMENTS}` brings it")
        folder = Path(found.origin).parent / self.folder
        return [regular_file(folder / file, f"{self.name}'s photograph") for file in self.files]


SOURCES = (
    Source("skimage", "scikit-image", "data", ("chelsea.png", "coffee.png", "rocket.jpg", "astronaut.png")),
    Source("sklearn", "scikit-learn", "datasets/images", ("china.jpg", "flower.jpg")),
)


def copy_photographs(folder: Path) -> list[Path]:
    """Copy all photographs into a folder, in place of files of the same names.

    Raises:
        UserError: if a package or a photograph is missing, before any is copied, or the folder is not writable.
    """
    copies = {folder / path.name: path for source in SOURCES for path in source.paths()}
    for copy, path in copies.items():
        with atomic_write(copy) as temporary:
            shutil.copyfile(path, temporary)
    return list(copies)


def get_args_parser() -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(__doc__)
    parser.add_argument("--root", default=settings.DATA_ROOT, help=f"folder for {FOLDER} (default: data)")
    return parser


def main() -> None:
    """Parse the command line and copy."""
    folder = Path(get_args_parser().parse_args().root) / FOLDER
    copies = copy_photographs(folder)
    say(f"{display_path(folder)}: {', '.join(copy.name for copy in copies)}")


if __name__ == "__main__":
    run(main, "loader.photographs")
