"""Fetch the public Broden data of 2017 for Network Dissection, check it, and unpack it here.

    python3 netdissect/dataset/download.py                # broden1_224, for networks that see 224 px
    python3 netdissect/dataset/download.py broden1_227    # for AlexNet

What is there already is not fetched again. See README.md for what the data are and what they take.
"""

import sys
import tempfile
from pathlib import Path
from zipfile import BadZipFile

HERE = Path(__file__).resolve().parent
sys.path[0] = str(HERE.parent.parent)

from torchvision.datasets.utils import check_integrity, download_url, extract_archive

from errors import ArgumentParser, UserError, run

URL = "http://netdissect.csail.mit.edu/data/"
# MD5 of the archives. That of broden1_224 is the one that a public script which fetches it checks; of the others
# none is known.
ARCHIVES = {"broden1_224": "be13c292eaef3300da03f8d0e48eab1c", "broden1_227": None, "broden1_384": None}


def fetch(name: str, folder: Path, url: str = URL, md5: str | None = None) -> Path:
    """Download `name`.zip, check it, and unpack it to `folder`/`name`, which appears only when it is whole.

    Args:
        name: of the archive, and of the folder in it.
        folder: where the data go.
        url: of the folder that holds the archive.
        md5: what the archive must have; None: not checked.

    Raises:
        UserError: if it cannot be fetched, or is not what was expected.
    """
    target, archive = folder / name, folder / f"{name}.zip"
    if (target / "index.csv").is_file():
        print(f"{target} is there already")
        return target
    if md5 is None:
        print(f"no checksum of {archive.name} is known: it is unpacked unchecked")
    try:
        if not (md5 and check_integrity(archive, md5)):
            archive.unlink(missing_ok=True)  # what an interrupted download left
            download_url(f"{url}{archive.name}", folder, md5=md5)
        with tempfile.TemporaryDirectory(dir=folder, prefix=f".{name}-") as temporary:
            extract_archive(archive, temporary)
            unpacked = Path(temporary) / name
            if not (unpacked / "index.csv").is_file():
                raise UserError(f"{archive}: no {name}/index.csv in it")
            unpacked.rename(target)
    except (OSError, RuntimeError, BadZipFile) as error:  # RuntimeError: the checksum is another
        raise UserError(f"{url}{archive.name}: {error}") from error
    archive.unlink()
    print(f"{target}: done. `python3 -m netdissect.broden check {target}` looks it over")
    return target


def cli() -> None:
    """Parse the command line and fetch."""
    parser = ArgumentParser(__doc__)
    parser.add_argument("name", nargs="?", default="broden1_224", choices=ARCHIVES, metavar="NAME",
                        help=f"one of {', '.join(ARCHIVES)} (default broden1_224)")  # fmt: skip
    name = parser.parse_args().name
    fetch(name, HERE, md5=ARCHIVES[name])


if __name__ == "__main__":
    run(cli, "netdissect/dataset/download.py")
