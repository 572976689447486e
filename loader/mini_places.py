"""The embedded data set: rendered scenes with pixel-accurate concept labels.

    python3 -m loader.mini_places                                # data/mini_places and data/mini_broden
    python3 -m loader.mini_places --root /tmp/small --train 160 --val 32 --broden 64
    python3 -m loader.mini_places --contact_sheet sheet.jpg      # six scenes of each class, to look at

`mini_places` has the layout of Places365, `mini_broden` that of Network Dissection's Broden (Bau et al. 2017).
"""

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from tqdm import tqdm

import settings
from loader.broden_format import LabelCounts, encode_labels, label_shares, spelled, write_tables
from loader.materials import MANIFEST, read_manifest
from scenes.colours import name_colours
from scenes.compositions import COMPOSITIONS
from scenes.concepts import COLOURS, LAYERS
from scenes.render import Scene, render
from util.cli import ArgumentParser, UserError, check_ranges, run
from util.files import atomic_write
from util.text import say

VERSION = 1  # of the renderer; raise it when the images change, so that older data sets are rendered again
CLASSES = tuple(sorted(COMPOSITIONS))
PLACES, BRODEN = "mini_places", "mini_broden"
SIZE, LABEL_SIZE = 224, 112  # side of images and of label maps, pixels

_SPLITS = ("train", "val", "broden")
_JPEG_QUALITY = 90
_STALE_SECONDS = 3600  # an older temporary folder was left behind by an interrupted run
_BRODEN_TRAIN_SHARE = 0.7  # of mini_broden's rows, the first; the others are split `val`

# The names of each category; the categories in Broden's order, each with its first label number.
CONCEPTS = {"color": COLOURS, **LAYERS, "scene": CLASSES}
CATEGORIES = {"color": 1, "object": 21, "part": 121, "material": 201, "scene": 261, "texture": 301}

# Column `syns` of label.csv.
SYNONYMS = {
    "car": "auto;automobile",
    "grey-c": "gray-c",
    "person": "human",
    "refrigerator": "fridge",
    "rug": "carpet",
    "sofa": "couch",
    "sidewalk": "pavement",
    "stove": "cooker;oven",
    "umbrella": "parasol",
}

Shares = dict[str, dict[int, float]]  # category -> label number -> share of the image's pixels


@dataclass(frozen=True)
class _Task:
    """A scene to render into `folder`/`name`.jpg and, if it is labelled, `name`_<category>.png beside it."""

    class_name: str
    seed: int
    folder: Path
    name: str
    labelled: bool


def render_scene(class_name: str, seed: int, size: int = SIZE) -> Scene:
    """Render the scene of a class and a seed, `size` pixels a side: image and label maps.

    Raises:
        UserError: if the class is not in `CLASSES`.
    """
    if class_name not in CLASSES:
        raise UserError(f"scene class {class_name!r}: expected one of {', '.join(CLASSES)}")
    return render(class_name, seed, size)


def ensure_mini_places(root: str | os.PathLike, **sizes: Any) -> tuple[Path, Path]:
    """Return the folders of mini_places and mini_broden below `root`; render them unless both are complete.

    A complete data set of any size is kept; `sizes` are the arguments of `render_mini_places`.
    """
    root = Path(root)
    if not is_complete(root):
        render_mini_places(root, **sizes)
    return root / PLACES, root / BRODEN


def is_complete(root: str | os.PathLike) -> bool:
    """Whether `root` has both folders, each with a manifest of this version; manifests are written last."""
    return all(read_manifest(Path(root) / name).get("version") == VERSION for name in (PLACES, BRODEN))


# Seven parameters: callers set few of them, by name, as with a command line's flags.
def render_mini_places(
    root: str | os.PathLike,
    train: int = 4000,
    val: int = 800,
    broden: int = 1000,
    seed: int = 0,
    workers: int | None = None,
    progress: bool = True,
) -> None:
    """Render all scenes in parallel; both folders appear only when they are complete.

    Args:
        root: the folder that gets `mini_places` and `mini_broden`.
        train: number of training images, spread evenly over the classes.
        val: number of validation images.
        broden: number of images of mini_broden.
        seed: of the data set; the same seed gives the same files, whatever the number of workers.
        workers: number of processes; None for one per core.
        progress: show a progress bar if stderr is a terminal.

    Raises:
        UserError: if `root` cannot be written.
    """
    root = Path(root)
    counts = {"train": train, "val": val, "broden": broden}
    say(f"rendering mini_places ({sum(counts.values()):,} images) into {root}/ ...", sys.stderr)
    places, labelled = _temporary_folder(root, PLACES), _temporary_folder(root, BRODEN)
    try:
        tasks = {split: list(_tasks(split, count, seed, places, labelled)) for split, count in counts.items()}
        shares = _render_all([*chain.from_iterable(tasks.values())], workers, progress)
        _write_broden_tables(labelled, tasks["broden"], shares[train + val :])
        manifest = {"version": VERSION, "seed": seed, "classes": CLASSES, **counts}
        for folder in (places, labelled):
            (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        for folder, name in ((labelled, BRODEN), (places, PLACES)):
            _put_in_place(folder, root / name)
    finally:
        shutil.rmtree(places, ignore_errors=True)
        shutil.rmtree(labelled, ignore_errors=True)


def contact_sheet(file: str | os.PathLike, per_class: int = 6, seed: int = 7, size: int = 160) -> None:
    """Save an image with a few scenes of each class under its name, two classes a row, `size` pixels a scene."""
    caption, gap = 18, 8
    width = per_class * size + gap
    sheet = Image.new("RGB", (2 * width - gap, -(-len(CLASSES) // 2) * (size + caption)), "white")
    draw = ImageDraw.Draw(sheet)
    for place, class_name in enumerate(CLASSES):
        left, top = (place % 2) * width, (place // 2) * (size + caption)
        draw.text((left + 4, top + 3), class_name, fill="black")
        for sample in range(per_class):
            scene = Image.fromarray(render_scene(class_name, seed * 1000 + sample).image)
            sheet.paste(scene.resize((size, size), Image.Resampling.LANCZOS), (left + sample * size, top + caption))
    with atomic_write(file) as temporary:
        sheet.save(temporary)


# --- folders ------------------------------------------------------------------------------------------------------


def _temporary_folder(root: Path, name: str) -> Path:
    """Make a new folder beside the final one; remove those that interrupted runs left behind."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        for left in root.glob(f".{name}-*"):
            if time.time() - left.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(left, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=root))
    except OSError as error:
        raise UserError(f"{root}: mini_places cannot be rendered there ({error.strerror})") from error
    folder.chmod(0o755)
    return folder


def _put_in_place(folder: Path, target: Path) -> None:
    """Rename a finished folder to its target, in place of an older or incomplete one; an identical one stays."""
    if read_manifest(target).get("version") == VERSION and read_manifest(target) == read_manifest(folder):
        return
    if target.is_symlink():
        raise UserError(f"{target}: a link to a folder without a complete data set; remove it, or name another --root")
    if target.exists():
        shutil.rmtree(target)
    try:
        folder.rename(target)
    except OSError:
        if read_manifest(target).get("version") != VERSION:  # else another process was faster
            raise


def _tasks(split: str, count: int, seed: int, places: Path, labelled: Path) -> Iterable[_Task]:
    """Yield the scenes of one split, the classes in turn, each with its own seed; make their folders."""
    for index in range(count):
        class_name, number = CLASSES[index % len(CLASSES)], index // len(CLASSES) + 1
        own_seed = (seed * len(_SPLITS) + _SPLITS.index(split)) * 1_000_000 + number
        folder = labelled / "images" / "mini" if split == "broden" else places / split / class_name
        folder.mkdir(parents=True, exist_ok=True)
        yield _Task(class_name, own_seed, folder, f"{class_name}_{number:08d}", split == "broden")


# --- scenes -------------------------------------------------------------------------------------------------------


def _render_all(tasks: list[_Task], workers: int | None, progress: bool) -> list[Shares]:
    """Render all scenes to files, in parallel; return the shares of their labels in the order of the tasks."""
    quiet = None if progress else True  # None: quiet unless stderr is a terminal
    with ProcessPoolExecutor(workers) as pool:
        jobs = pool.map(_render_to_file, tasks, chunksize=8)
        try:
            return list(tqdm(jobs, total=len(tasks), desc="scenes", unit="img", disable=quiet, leave=False))
        except BrokenProcessPool as error:
            raise UserError("a rendering process was killed (out of memory?); try fewer --workers") from error
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _render_to_file(task: _Task) -> Shares:
    """Render one scene to its files; return the shares of its labels, empty if it is not labelled."""
    scene = render(task.class_name, task.seed, SIZE)
    image = Image.fromarray(scene.image)
    image.save(task.folder / f"{task.name}.jpg", quality=_JPEG_QUALITY)
    if not task.labelled:
        return {}
    numbers = label_numbers()
    # A label pixel covers 2 x 2 image pixels: it has the colour of their mean and the concepts of the lower right one.
    codes = {"color": name_colours(np.asarray(image.reduce(SIZE // LABEL_SIZE)))}
    codes.update({layer: scene.labels[layer][1::2, 1::2] for layer in LAYERS})
    shares: Shares = {"scene": {numbers["scene", task.class_name]: 1.0}}
    for category, code in codes.items():
        labels = np.array([0, *(numbers[category, name] for name in CONCEPTS[category])])[code]  # (sh, sw)
        shares[category] = label_shares(labels)
        if shares[category]:
            Image.fromarray(encode_labels(labels)).save(task.folder / f"{task.name}_{category}.png")
    return shares


# --- Broden's tables ----------------------------------------------------------------------------------------------


@cache
def label_numbers() -> dict[tuple[str, str], int]:
    """Return label numbers by (category, name); a name in several categories has one number, from the first of them."""
    numbers: dict[tuple[str, str], int] = {}
    own: dict[str, int] = {}
    for category, first in CATEGORIES.items():
        number = first
        for name in CONCEPTS[category]:
            label = spelled(category, name)
            if label not in own:
                own[label] = number
                number += 1
            numbers[category, name] = own[label]
    return numbers


def _write_broden_tables(folder: Path, tasks: list[_Task], shares: list[Shares]) -> None:
    """Write the tables of mini_broden; they list only labels that occur."""
    counts = LabelCounts(list(CATEGORIES))
    rows = []
    for number, (task, found) in enumerate(zip(tasks, shares, strict=True)):
        counts.add(found)
        cells = {category: f"mini/{task.name}_{category}.png" if found[category] else "" for category in CATEGORIES}
        cells["scene"] = str(next(iter(found["scene"])))
        split = "train" if number < _BRODEN_TRAIN_SHARE * len(tasks) else "val"
        rows.append([f"mini/{task.name}.jpg", split, SIZE, SIZE, LABEL_SIZE, LABEL_SIZE, *cells.values()])
    names = {
        category: {
            number: spelled(category, name)
            for (home, name), number in label_numbers().items()
            if home == category and counts.images[category][number]
        }
        for category in CATEGORIES
    }
    write_tables(folder, names, rows, counts, SYNONYMS)


def get_args_parser() -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(__doc__)
    parser.add_argument("--root", default="data", help="folder for mini_places and mini_broden (default: data)")
    parser.add_argument("--train", type=int, default=4000, help="number of training images (default: 4000)")
    parser.add_argument("--val", type=int, default=800, help="number of validation images (default: 800)")
    parser.add_argument("--broden", type=int, default=1000, help="number of images of mini_broden (default: 1000)")
    parser.add_argument("--seed", type=int, default=0, help="of the data set (default: 0)")
    parser.add_argument("--workers", type=int, help="number of processes (default: one per core)")
    parser.add_argument("--force", action="store_true", help="render again even if the data set is complete")
    parser.add_argument("--contact_sheet", metavar="FILE", help="only save an image with six scenes of each class")
    return parser


def main() -> None:
    """Parse the command line and render."""
    args = get_args_parser().parse_args()
    for name in _SPLITS:
        if getattr(args, name) < len(CLASSES):
            raise UserError(f"--{name} {getattr(args, name)}: expected at least {len(CLASSES)}, one per class")
    check_ranges(args, {"workers": (1, settings.MOST_WORKERS), "seed": (0, 2**32 - 1)})
    if args.contact_sheet:
        contact_sheet(args.contact_sheet)
        return
    if is_complete(args.root) and not args.force:
        say(f"{args.root}: mini_places and mini_broden are complete; --force renders them again")
        return
    if args.force:
        for name in (PLACES, BRODEN):
            (Path(args.root) / name / MANIFEST).unlink(missing_ok=True)
    render_mini_places(args.root, args.train, args.val, args.broden, args.seed, args.workers)


if __name__ == "__main__":
    run(main, "loader.mini_places")
