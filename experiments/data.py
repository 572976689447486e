"""The study's data: the embedded scenes at a size that a CPU trains on in minutes, and Fashion-MNIST as it is."""

import csv
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

import settings
from experiments.plan import Data, Run
from loader.datasets import DataSource, find_dataset
from loader.images import read_image
from loader.mini_places import BRODEN, PLACES, ensure_mini_places
from loader.splits import Images
from netdissect.broden.reader import read_table
from util.files import lock_folder

_QUALITY = 95  # of the small JPEGs


@dataclass(frozen=True)
class StudyData:
    """A data set, ready for a run.

    Attributes:
        source: with the study's sizes and schedule.
        broden: the folder of mini_broden at the study's size; None for other data sets.
    """

    source: DataSource
    broden: Path | None


def prepare(run: Run, data: Data, root: Path, work: Path) -> StudyData:
    """Find a run's data set, render or copy it if need be, and give it the study's sizes and schedule.

    Args:
        run: whose data set.
        data: how it is used.
        root: the repository, whose data/ has the embedded scenes of renderer seed 0.
        work: where small copies are kept, and scenes of other renderer seeds.
    """
    places = broden = None
    dataset = data.of or run.dataset
    if dataset == "mini_places":
        renderer_seed = int(run.variant.rsplit(" ", 1)[1]) if run.variant.startswith("renderer seed") else 0
        home = work / f"scenes_{data.size}_{renderer_seed}"
        with lock_folder(work, wait=True):  # of concurrent runs, one renders and the others use what it rendered
            places, broden = ensure_small(home, root / settings.DATA_ROOT, data.size, renderer_seed, work)
    return StudyData(find(dataset, data, places, root), broden)


def find(dataset: str, data: Data, places: Path | None, root: Path) -> DataSource:
    """A data set with the study's sizes, schedule and number of training images; `places` is its folder, if known."""
    source = find_dataset(dataset, str(places) if places else None, root)
    training = replace(
        source.spec.training,
        epochs=data.epochs,
        batch_size=data.batch_size,
        lr=data.lr,
        small_share=data.small_share,
        schedule="one_cycle",
    )
    spec = replace(source.spec, size=data.size, resize=data.size, crop_scale=data.crop_scale, training=training)
    return FirstImages(**{**vars(source), "spec": spec}, count=data.train)


@dataclass(frozen=True)
class FirstImages(DataSource):
    """A data set with only the first `count` of its training images; the rest as in `DataSource`."""

    count: int | None = None

    def dataset(self, split: str, transform: Callable | None = None) -> Images:
        """The images of 'train' or 'val'."""
        images: Any = super().dataset(split, transform)
        if split == "train" and self.count is not None:
            images.data, images.targets = images.data[: self.count], images.targets[: self.count]
        return images


def ensure_small(home: Path, embedded: Path, size: int, seed: int, work: Path) -> tuple[Path, Path]:
    """The folders of mini_places and mini_broden with images of size x size pixels, copied if they are not there.

    mini_broden's label maps stay as they are; index_train.csv and index_val.csv list its images by split.
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
    """Copy a folder, its JPEGs resized to size x size pixels."""
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
