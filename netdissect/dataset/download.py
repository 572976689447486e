"""Fetch the public Broden data of 2017 for Network Dissection, check it, and unpack it here.

    python3 netdissect/dataset/download.py                # broden1_224, for networks that see 224 px
    python3 netdissect/dataset/download.py broden1_227    # for AlexNet

An existing folder is not fetched again. See README.md for the data and the space that they take.
"""

import sys
import tempfile
from pathlib import Path
from zipfile import BadZipFile

HERE = Path(__file__).resolve().parent
sys.path[0] = str(HERE.parent.parent)

from torchvision.datasets.utils import check_integrity, download_url, extract_archive

from util.cli import ArgumentParser, UserError, run
from util.text import say

URL = "http://netdissect.csail.mit.edu/data/"
# MD5 of the archives. A public script that fetches broden1_224 checks this one; for the others none is known.
ARCHIVES = {"broden1_224": "be13c292eaef3300da03f8d0e48eab1c", "broden1_227": None, "broden1_384": None}


def fetch(name: str, folder: Path, url: str = URL, md5: str | None = None) -> Path:
    """Download `name`.zip, check it, and unpack it to `folder`/`name`, which appears only when complete.

    Args:
        name: of the archive, and of the folder in it.
        folder: that gets the data.
        url: of the folder that holds the archive.
        md5: of the archive; None: not checked.

    Raises:
        UserError: if the archive cannot be fetched, or is not the expected one.
    """
    target, archive = folder / name, folder / f"{name}.zip"
    if (target / "index.csv").is_file():
        say(f"{target} already exists")
        return target
    if md5 is None:
        say(f"no checksum of {archive.name} is known: unpacking it unchecked")
    try:
        if not (md5 and check_integrity(archive, md5)):
            archive.unlink(missing_ok=True)  # left by an interrupted download
            download_url(f"{url}{archive.name}", folder, md5=md5)
        with tempfile.TemporaryDirectory(dir=folder, prefix=f".{name}-") as temporary:
            extract_archive(archive, temporary)
            unpacked = Path(temporary) / name
            if not (unpacked / "index.csv").is_file():
                raise UserError(f"{archive}: no {name}/index.csv in it")
            unpacked.rename(target)
    except (OSError, RuntimeError, BadZipFile) as error:  # RuntimeError: wrong checksum
        raise UserError(f"{url}{archive.name}: {error}") from error
    archive.unlink()
    say(f"{target}: done; to check it: python3 -m netdissect.broden check {target}")
    return target


def get_args_parser() -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(__doc__)
    what = f"one of {', '.join(ARCHIVES)} (default broden1_224)"
    parser.add_argument("name", nargs="?", default="broden1_224", choices=ARCHIVES, metavar="NAME", help=what)
    return parser


def cli() -> None:
    """Parse the command line and fetch."""
    name = get_args_parser().parse_args().name
    fetch(name, HERE, md5=ARCHIVES[name])


if __name__ == "__main__":
    run(cli, "netdissect/dataset/download.py")
