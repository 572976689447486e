"""The embedded data set: rendered scenes whose every concept is known to the pixel.

    python3 -m loader.mini_places                                # data/mini_places and data/mini_broden
    python3 -m loader.mini_places --root /tmp/small --train 160 --val 32 --broden 64
    python3 -m loader.mini_places --contact_sheet sheet.jpg      # six scenes of each class, to look at

`mini_places` has Places365's layout, `mini_broden` the one of Network Dissection's Broden (Bau et al. 2017).
"""

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from tqdm import tqdm

import settings
from errors import ArgumentParser, UserError, check_ranges, run
from files import whole_file
from loader.broden_format import LabelCounts, encode_labels, label_shares, write_tables
from loader.scenes.colours import name_colours
from loader.scenes.concepts import COLOURS, LAYERS
from loader.scenes.render import COMPOSITIONS, Scene, render

VERSION = 1  # of the renderer: raised when its pictures change, so that older ones are rendered anew
CLASSES = tuple(sorted(COMPOSITIONS))
PLACES, BRODEN = "mini_places", "mini_broden"
SIZE, LABEL_SIZE = 224, 112  # sides of pictures and of label maps, pixels

_SPLITS = ("train", "val", "broden")
_MANIFEST = "manifest.json"
_JPEG_QUALITY = 90
_STALE_SECONDS = 3600  # a temporary folder as old as this is nobody's any more
_BRODEN_TRAIN_SHARE = 0.7

# The names of each category; and the categories in Broden's order, with the number that their own labels begin at.
CONCEPTS = {"color": COLOURS, **LAYERS, "scene": CLASSES}
CATEGORIES = {"color": 1, "object": 21, "part": 121, "material": 201, "scene": 261, "texture": 301}

# As label.csv's column syns has them.
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


@dataclass(frozen=True)
class _Task:
    """A scene to render, and where it goes: `folder`/`name`.jpg, and with labels, `name`_<category>.png beside it."""

    class_name: str
    seed: int
    folder: Path
    name: str
    labelled: bool


def render_scene(class_name: str, seed: int, size: int = SIZE) -> Scene:
    """The scene that a class and a seed determine, `size` pixels a side: picture and label maps.

    Raises:
        UserError: for a class that is not among `CLASSES`.
    """
    if class_name not in CLASSES:
        raise UserError(f"scene class {class_name!r}: expected one of {', '.join(CLASSES)}")
    return render(class_name, seed, size)


def ensure_mini_places(root: str | os.PathLike, **sizes: Any) -> tuple[Path, Path]:
    """The folders of mini_places and mini_broden below `root`, rendered if they are not there whole.

    A complete rendering of any size is taken as it is; `sizes` are those of `render_mini_places`.
    """
    root = Path(root)
    if not is_complete(root):
        render_mini_places(root, **sizes)
    return root / PLACES, root / BRODEN


def is_complete(root: str | os.PathLike) -> bool:
    """Whether `root` has both folders, each with the manifest of this renderer, which is written last."""
    return all(_manifest(Path(root) / name).get("version") == VERSION for name in (PLACES, BRODEN))


def render_mini_places(
    root: str | os.PathLike,
    train: int = 4000,
    val: int = 800,
    broden: int = 1000,
    seed: int = 0,
    workers: int | None = None,
    progress: bool = True,
) -> None:
    """Render all scenes, in parallel, and put the two folders in place only when they are whole.

    Args:
        root: the folder that gets `mini_places` and `mini_broden`.
        train: number of training pictures, spread evenly over the classes.
        val: number of validation pictures.
        broden: number of pictures of mini_broden.
        seed: same seed, same pixels, whatever the number of workers.
        workers: processes; None takes one per core.
        progress: show a bar, if stderr is a terminal.

    Raises:
        UserError: if `root` cannot be written.
    """
    root = Path(root)
    counts = dict(zip(_SPLITS, (train, val, broden), strict=True))
    print(f"rendering mini_places ({sum(counts.values()):,} pictures) into {root}/ ...", file=sys.stderr)
    places, scenes = _temporary_folder(root, PLACES), _temporary_folder(root, BRODEN)
    try:
        tasks = {split: list(_tasks(split, count, seed, places, scenes)) for split, count in counts.items()}
        with ProcessPoolExecutor(workers) as pool:
            jobs = pool.map(_render_to_file, chain.from_iterable(tasks.values()), chunksize=8)
            try:
                results = list(tqdm(jobs, total=sum(counts.values()), desc="scenes", unit="img",
                                    disable=None if progress else True, leave=False))  # fmt: skip
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        _write_broden_tables(scenes, tasks["broden"], results[train + val :])
        for folder in (places, scenes):
            manifest = {"version": VERSION, "seed": seed, "classes": CLASSES, **counts}
            (folder / _MANIFEST).write_text(json.dumps(manifest, indent=1))
        for folder, name in ((scenes, BRODEN), (places, PLACES)):
            _put_in_place(folder, root / name)
    finally:
        shutil.rmtree(places, ignore_errors=True)
        shutil.rmtree(scenes, ignore_errors=True)


def contact_sheet(file: str | os.PathLike, per_class: int = 6, seed: int = 7, size: int = 160) -> None:
    """Save a picture with a few scenes of each class, named, two classes to a row; `size` pixels a scene."""
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
    with whole_file(file) as temporary:
        sheet.save(temporary)


# --- folders ------------------------------------------------------------------------------------------------------


def _temporary_folder(root: Path, name: str) -> Path:
    """A new folder beside the final one; those that interrupted runs left behind are removed."""
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
    """Rename a finished folder; an older or broken one makes way, a whole one that came first stays."""
    if _manifest(target).get("version") == VERSION and _manifest(target) == _manifest(folder):
        return
    if target.exists():
        shutil.rmtree(target)
    try:
        folder.rename(target)
    except OSError:
        if _manifest(target).get("version") != VERSION:  # not a race that another process won
            raise


def _manifest(folder: Path) -> dict:
    try:
        return json.loads((folder / _MANIFEST).read_text())
    except (OSError, ValueError):
        return {}


def _tasks(split: str, count: int, seed: int, places: Path, scenes: Path) -> Iterable[_Task]:
    """The scenes of one split; class by class in turn, each with a seed of its own."""
    for index in range(count):
        class_name, number = CLASSES[index % len(CLASSES)], index // len(CLASSES) + 1
        own_seed = (seed * len(_SPLITS) + _SPLITS.index(split)) * 1_000_000 + number
        folder = scenes / "images" / "mini" if split == "broden" else places / split / class_name
        folder.mkdir(parents=True, exist_ok=True)
        yield _Task(class_name, own_seed, folder, f"{class_name}_{number:08d}", split == "broden")


# --- one scene ----------------------------------------------------------------------------------------------------


def _render_to_file(task: _Task) -> dict[str, dict[int, float]]:
    """Write one scene; returns, by category, the share of the picture that each label has."""
    scene = render(task.class_name, task.seed, SIZE)
    image = Image.fromarray(scene.image)
    image.save(task.folder / f"{task.name}.jpg", quality=_JPEG_QUALITY)
    if not task.labelled:
        return {}
    numbers = label_numbers()
    # A label pixel stands for 2 x 2 picture pixels: the colour of their mean, the concepts of the lower right one.
    codes = {"color": name_colours(np.asarray(image.reduce(SIZE // LABEL_SIZE)))}
    codes.update({layer: scene.labels[layer][1::2, 1::2] for layer in LAYERS})
    shares = {"scene": {numbers["scene", task.class_name]: 1.0}}
    for category, code in codes.items():
        labels = np.array([0, *(numbers[category, name] for name in CONCEPTS[category])])[code]  # (sh, sw)
        shares[category] = label_shares(labels)
        if shares[category]:
            Image.fromarray(encode_labels(labels)).save(task.folder / f"{task.name}_{category}.png")
    return shares


# --- Broden's tables ----------------------------------------------------------------------------------------------


@cache
def label_numbers() -> dict[tuple[str, str], int]:
    """Label number by (category, name). A name of several categories has one number, from the first of them."""
    numbers: dict[tuple[str, str], int] = {}
    own: dict[str, int] = {}
    for category, first in CATEGORIES.items():
        number = first
        for name in CONCEPTS[category]:
            spelled = _spelled(category, name)
            if spelled not in own:
                own[spelled] = number
                number += 1
            numbers[category, name] = own[spelled]
    return numbers


def _spelled(category: str, name: str) -> str:
    """As in Broden: colours end in -c, scenes in -s."""
    return name + {"color": "-c", "scene": "-s"}.get(category, "")


def _write_broden_tables(folder: Path, tasks: list[_Task], shares: list[dict[str, dict[int, float]]]) -> None:
    """The tables of mini_broden, of what the label maps really have."""
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
            number: _spelled(category, name)
            for (home, name), number in label_numbers().items()
            if home == category and counts.pictures[category][number]
        }
        for category in CATEGORIES
    }
    write_tables(folder, names, rows, counts, SYNONYMS)


def main() -> None:
    """Parse the command line and render."""
    parser = ArgumentParser(__doc__)
    parser.add_argument("--root", default="data", help="folder that gets mini_places and mini_broden (default data)")
    parser.add_argument("--train", type=int, default=4000)
    parser.add_argument("--val", type=int, default=800)
    parser.add_argument("--broden", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, help="processes (default: one per core)")
    parser.add_argument("--force", action="store_true", help="render anew what is there already")
    parser.add_argument("--contact_sheet", metavar="FILE", help="only save a picture of six scenes of each class")
    args = parser.parse_args()
    for name in _SPLITS:
        if getattr(args, name) < len(CLASSES):
            raise UserError(f"--{name} {getattr(args, name)}: expected at least {len(CLASSES)}, one of each class")
    check_ranges(args, {"workers": (1, settings.MOST_WORKERS), "seed": (0, 2**32 - 1)})
    if args.contact_sheet:
        contact_sheet(args.contact_sheet)
        return
    if is_complete(args.root) and not args.force:
        print(f"{args.root} has them already; --force renders anew")
        return
    if args.force:
        for name in (PLACES, BRODEN):
            (Path(args.root) / name / _MANIFEST).unlink(missing_ok=True)
    render_mini_places(args.root, args.train, args.val, args.broden, args.seed, args.workers)


if __name__ == "__main__":
    run(main, "loader.mini_places")
