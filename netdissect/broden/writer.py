"""Writer of Broden-format folders (Bau et al. 2017)."""

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from PIL import Image

from loader.broden_format import LabelCounts, encode_labels, label_shares, write_tables
from loader.images import image_size
from util.cli import UserError


class BrodenWriter:
    """Makes a Broden-format folder, image by image; it appears under its name only when complete.

    Example:
        with BrodenWriter(Path("broden"), {"object": {1: "tree"}, "scene": {2: "park-s"}}) as writer:
            writer.add(Path("a.jpg"), "a.jpg", (112, 112), {"object": numbers}, {"scene": [2]})

    The end of the block writes the tables and renames the folder; an exception in the block removes all of it.

    Args:
        output: the folder to make; it must not exist.
        names: category -> label number, from 1 -> name; a name has the same number in all its categories.

    Raises:
        UserError: if `output` exists.
    """

    def __init__(self, output: Path, names: Mapping[str, Mapping[int, str]]):
        if output.exists():
            raise UserError(f"{output}: already exists; name a new folder")
        self._output, self._names = output, names
        self._counts = LabelCounts(list(names))
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
                write_tables(self._staging, self._names, self._rows, self._counts)
                self._staging.chmod(0o755)
                self._staging.rename(self._output)
        finally:
            shutil.rmtree(self._staging, ignore_errors=True)

    def add(
        self,
        file: Path,
        name: str,
        size: tuple[int, int],
        maps: Mapping[str, np.ndarray],
        scalars: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        """Add an image and its labels.

        Args:
            file: the image, which is copied.
            name: file name of the copy in images/; no two images may have the same, the suffix aside.
            size: (sh, sw) of its label maps; for an image without maps, the size at which its masks are computed.
            maps: by category, label numbers (sh, sw); 0 = no label.
            scalars: by category, labels of the whole image.

        Raises:
            UserError: if the image is not a regular file, or not readable.
        """
        images = self._staging / "images"
        height, width = image_size(file)  # before it is copied: of a device there is no end
        shutil.copyfile(file, images / name)
        cells: list[str] = []
        shares: dict[str, dict[int, float]] = {}
        for category in self._names:
            whole = (scalars or {}).get(category, ())
            entries = [str(number) for number in whole]
            shares[category] = dict.fromkeys(whole, 1.0)
            if category in maps:
                entries.append(f"{Path(name).stem}_{category}.png")
                Image.fromarray(encode_labels(maps[category])).save(images / entries[-1])
                for number, share in label_shares(maps[category]).items():
                    shares[category][number] = shares[category].get(number, 0.0) + share
            cells.append(";".join(entries))
        self._counts.add(shares)
        self._rows.append([name, "train", height, width, *size, *cells])
