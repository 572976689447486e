"""Writer of Broden-format folders (Bau et al. 2017)."""

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from types import TracebackType

import numpy as np
from PIL import Image

from loader.broden_format import LabelCounts, encode_labels, label_shares, write_tables
from loader.images import image_size
from util.cli import UserError


def map_ending(category: str, layer: int) -> str:
    """What follows an image's name, without its suffix, in the name of a label map: the n-th of a category from 0."""
    return f"_{category}_{layer + 1}.png" if layer else f"_{category}.png"


class BrodenWriter:
    """Makes a Broden-format folder, image by image; it appears under its name only when complete.

    Example:
        with BrodenWriter(Path("broden"), {"object": {1: "tree"}, "scene": {2: "park-s"}}) as writer:
            writer.add(Path("a.jpg"), "a.jpg", (112, 112), {"object": numbers}, {"scene": [2]})

    The end of the block writes the tables, with the labels that occur, and renames the folder; an exception in the
    block removes all of it.

    Attributes:
        counts: the labels of the images so far.

    Args:
        output: the folder to make; it must not exist.
        names: category -> label number, from 1 -> name; a name has the same number in all its categories.
        synonyms: name -> other names, joined by `;`.

    Raises:
        UserError: if `output` exists.
    """

    def __init__(self, output: Path, names: Mapping[str, Mapping[int, str]], synonyms: Mapping[str, str] | None = None):
        if output.exists():
            raise UserError(f"{output}: already exists; name a new folder")
        self._output, self._names, self._synonyms = output, names, synonyms
        self.counts = LabelCounts(list(names))
        self._rows: list[list] = []  # of index.csv

    def __enter__(self) -> "BrodenWriter":
        self._output.parent.mkdir(parents=True, exist_ok=True)
        self._staging = Path(tempfile.mkdtemp(prefix=f".{self._output.name}-", dir=self._output.parent))
        (self._staging / "images").mkdir()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                occurring = {
                    category: {number: name for number, name in known.items() if self.counts.images[category][number]}
                    for category, known in self._names.items()
                }
                write_tables(self._staging, occurring, self._rows, self.counts, self._synonyms)
                self._staging.chmod(0o755)
                self._staging.rename(self._output)
        finally:
            shutil.rmtree(self._staging, ignore_errors=True)

    def add(
        self,
        file: Path | bytes,
        name: str,
        size: tuple[int, int],
        maps: Mapping[str, np.ndarray],
        scalars: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        """Add an image and its labels.

        Args:
            file: the image, which is copied, or what its copy contains.
            name: path of the copy in images/; no two images may have the same, the suffix aside.
            size: (sh, sw) of its label maps; for an image without maps, the size at which its masks are computed.
            maps: by category, label numbers (sh, sw), or (M, sh, sw) of M maps; 0 = no label.
            scalars: by category, labels of the whole image.

        Raises:
            UserError: if the image is not a regular file, or not readable.
        """
        copy = self._staging / "images" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(file, bytes):
            copy.write_bytes(file)
        else:
            image_size(file)  # before it is copied: of a device there is no end
            shutil.copyfile(file, copy)
        height, width = image_size(copy)
        cells: list[str] = []
        shares: dict[str, dict[int, float]] = {}
        for category in self._names:
            whole = (scalars or {}).get(category, ())
            entries = [str(number) for number in whole]
            shares[category] = dict.fromkeys(whole, 1.0)
            layers = maps[category].reshape(-1, *size) if category in maps else ()
            for layer, numbers in enumerate(layers):
                entries.append(str(PurePosixPath(name).with_suffix("")) + map_ending(category, layer))
                Image.fromarray(encode_labels(numbers)).save(self._staging / "images" / entries[-1])
                for number, share in label_shares(numbers).items():
                    shares[category][number] = shares[category].get(number, 0.0) + share
            cells.append(";".join(entries))
        self.counts.add(shares)
        self._rows.append([name, "train", height, width, *size, *cells])
