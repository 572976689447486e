"""The study's data: the embedded scenes at a size that a CPU trains on in minutes, and Fashion-MNIST as it is."""

import csv
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

import settings
from experiments.plan import Data, Run
from files import alone_in
from loader.mini_places import BRODEN, PLACES, ensure_mini_places
from loader.places365 import DataSource, FashionMNISTFiles, find_dataset, read_image
from netdissect.broden import read_table

_QUALITY = 95  # of the small JPEGs


def prepare(run: Run, data: Data, root: Path, work: Path) -> tuple[Path | None, Path | None]:
    """Give a run's data set the study's sizes and schedule, in this process's settings, and draw it if need be.

    Args:
        run: whose data set.
        data: how it is used.
        root: the repository, whose data/ has the embedded scenes of renderer seed 0.
        work: where small copies go, and scenes of other renderer seeds.

    Returns:
        for mini_places its folder and that of mini_broden, at the study's size; None for a data set that is elsewhere.
    """
    settings.DATASETS[run.dataset].update(
        size=data.size, resize=data.size, crop_scale=data.crop_scale, epochs=data.epochs, batch_size=data.batch_size,
        lr=data.lr, small_share=data.small_share, schedule="one_cycle",
    )  # fmt: skip
    if run.dataset != "mini_places":
        return None, None
    renderer_seed = int(run.variant.rsplit(" ", 1)[1]) if run.variant.startswith("renderer seed") else 0
    home = work / f"scenes_{data.size}_{renderer_seed}"
    with alone_in(work, wait=True):  # of runs at one time, one draws and the others take what it drew
        return ensure_small(home, root / settings.DATA_ROOT, data.size, renderer_seed, work)


@dataclass(frozen=True)
class Beginning(DataSource):
    """A data set with the first `count` of its training pictures only; the others as of `DataSource`."""

    count: int | None

    def dataset(self, split: str, transform: Callable | None = None) -> FashionMNISTFiles:
        """The pictures of 'train' or 'val'."""
        pictures = super().dataset(split, transform)
        if split == "train" and self.count is not None:
            pictures.data, pictures.targets = pictures.data[: self.count], pictures.targets[: self.count]
        return pictures


def find(dataset: str, data: Data, places: Path | None, root: Path) -> DataSource:
    """A prepared data set, as `find_dataset` finds it, with as many training pictures as the study uses."""
    source = find_dataset(dataset, str(places) if places else None, root)
    return Beginning(**vars(source), count=data.train)


def ensure_small(home: Path, embedded: Path, size: int, seed: int, work: Path) -> tuple[Path, Path]:
    """The folders of mini_places and mini_broden with pictures of size x size pixels, copied if they are not there.

    mini_broden's label maps stay as they are; index_train.csv and index_val.csv list its pictures by split.
    """
    if not home.is_dir():
        places, broden = ensure_mini_places(embedded) if seed == 0 else ensure_mini_places(work / "full", seed=seed)
        temporary = home.with_suffix(".tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        for source, target in ((places, temporary / PLACES), (broden, temporary / BRODEN)):
            _copy(source, target, size)
        _split_index(temporary / BRODEN, size)
        if seed:
            shutil.rmtree(work / "full")
        os.replace(temporary, home)
    return home / PLACES, home / BRODEN


def _copy(source: Path, target: Path, size: int) -> None:
    """Copy a folder, its JPEGs squeezed to size x size pixels."""
    for path in sorted(source.rglob("*")):
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".jpg":
            read_image(path).resize((size, size), Image.Resampling.BOX).save(copy, quality=_QUALITY)
        elif path.is_file():
            shutil.copyfile(path, copy)


def _split_index(broden: Path, size: int) -> None:
    rows = [row for _, row in read_table(broden / "index.csv", ["split", "ih", "iw"])]
    for split in ("train", "val"):
        with open(broden / f"index_{split}.csv", "w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, list(rows[0]))
            table.writeheader()
            table.writerows({**row, "ih": size, "iw": size} for row in rows if row["split"] == split)
