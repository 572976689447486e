"""What makes a run what it is, beside its plan's numbers: network, classes, images, transforms, optimizer, weights."""

import hashlib
import math
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loader.datasets import DataSource
from loader.splits import Images
from models import Head
from models.backbones import kind_of, own_head
from training.config import TrainConfig
from util import distributed
from util.cli import UserError
from util.made_of import MadeOf, fingerprint

SIZED, READ = 2000, 64  # training images whose size, and whose content, enter the fingerprint: evenly spaced ones
MOST_READ = 1 << 20  # bytes of each
_BLOCK = 10_000  # names that are held as one text

# What a message says of a difference: fingerprints tell people nothing.
FINGERPRINTS = {
    "classes": "class names",
    "image_files": "training images",
    "finetune": "weights to start from",
    "frozen_weights": "frozen weights",
}


def made_of_run(
    config: TrainConfig, source: DataSource, images: Images, head: Head, frozen: str | None = None
) -> MadeOf:
    """The record of a run: with its plan's numbers, whatever changes its weights but for the rounding of machines.

    Precision (--amp), device, processes and --compile are left out: a run may move to another machine, which chooses
    its own.

    Args:
        config: the flags.
        source: the data set.
        images: its training images.
        head: of the network.
        frozen: fingerprint of the weights that are not trained; None if all are.
    """
    spec, training = source.spec, source.spec.training
    return {
        "arch": config.arch,
        "head": kind_of(head),
        "topk": config.topk,
        "dataset": source.name,
        "classes": fingerprint(*source.classes),
        "images": len(images),
        "image_files": fingerprint_of_images(images, source.folder),
        "size": spec.size,
        "resize": spec.resize,
        "crop_scale": list(spec.crop_scale),
        "schedule": training.schedule,
        "momentum": training.momentum,
        "weight_decay": training.weight_decay,
        "small_share": training.small_share,
        "finetune": fingerprint_of_file(config.finetune) if config.finetune else None,
        "freeze": config.freeze,
        "frozen_weights": frozen,
    }


def made_of_content(content: dict[str, Any]) -> MadeOf:
    """What a snapshot says of its run without a plan: those from before have shorter plans, or none."""
    found: MadeOf = {name: content[name] for name in ("arch", "dataset", "k_schedule") if name in content}
    arch = content.get("arch")
    if isinstance(arch, str):
        head = content.get("head")  # of any type
        found["head"] = own_head(arch) if head is None else head
    if "topk" in content and content.get("k_schedule") is None:  # with a schedule it is the epoch's
        found["topk"] = content["topk"]
    if "classes" in content:
        classes = content["classes"]
        found["classes"] = fingerprint(*classes) if isinstance(classes, list) else "none"
    return found


def fingerprint_of_file(path: str | os.PathLike) -> str:
    """SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def fingerprint_of_images(images: Images, folder: Path) -> str:
    """A fingerprint that images keep when their folder moves, and lose when one is added, removed, moved or replaced.

    Args:
        images: of one split; of all of them the names and class numbers enter, in order, of `SIZED` the sizes on disk,
            and of `READ` the contents.
        folder: of the data set; names are relative to it.
    """
    # The main process reads for all of them.
    own = _fingerprint_of_images(images, folder) if distributed.is_main_process() else ""
    return str(distributed.all_gather(own)[0])


def stamp_of_images(images: Images, folder: Path) -> str:
    """A fingerprint of all images as they are now: of names, sizes and times of change, for a cache of what they make.

    Unlike `fingerprint_of_images` it notices any image that is written anew, and is lost by copying a folder.

    Args:
        images: of one split; of those without a file of their own the pixels enter.
        folder: of the data set; names are relative to it.
    """
    own = _stamp_of_images(images, folder) if distributed.is_main_process() else ""
    return str(distributed.all_gather(own)[0])


def _stamp_of_images(images: Images, folder: Path) -> str:
    files = [images.file(index) for index in range(len(images))]
    digest = hashlib.sha256()
    for index, (file, name) in enumerate(zip(files, _relative(files, folder), strict=True)):
        try:
            found = os.stat(file)
            state = f"{found.st_size} {found.st_mtime_ns}"
        except (OSError, ValueError):  # not every layout has a file for each image
            state = hashlib.sha256(_pixels(images, index)).hexdigest()
        digest.update(f"{name}\0{state}\0".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _pixels(images: Images, index: int) -> bytes:
    """Of one image; nothing if it is unreadable: what reads it next says so."""
    try:
        return images.image(index).tobytes()
    except (OSError, UserError):
        return b""


def _fingerprint_of_images(images: Images, folder: Path) -> str:
    targets = images.targets.tolist() if hasattr(images.targets, "tolist") else list(images.targets)
    names = _relative([images.file(index) for index in range(len(images))], folder)
    parts: list[object] = []
    for start in range(0, len(names), _BLOCK):
        block = zip(targets[start : start + _BLOCK], names[start : start + _BLOCK], strict=True)
        parts.append("\0".join(f"{target} {name}" for target, name in block))
    parts += [_size(images.file(index)) for index in _spaced(len(names), SIZED)]
    parts += [_content(images, index) for index in _spaced(len(names), READ)]
    return fingerprint(*parts)


def _spaced(count: int, most: int) -> range:
    return range(0, count, max(1, math.ceil(count / most)))


def _relative(files: Sequence[str], folder: Path) -> list[str]:
    """Paths relative to the data set's folder; of what a link leads to outside of it, the last two names."""
    prefixes = tuple(os.path.join(place, "") for place in (str(folder), os.path.realpath(folder)))

    def relative(file: str) -> str:
        for prefix in prefixes:
            if file.startswith(prefix):
                return file[len(prefix) :]
        return "/".join(Path(file).parts[-2:])

    return [relative(file) for file in files]


def _size(file: str) -> int | None:
    try:
        return os.stat(file).st_size
    except (OSError, ValueError):  # not every layout has a file for each image
        return None


def _content(images: Images, index: int) -> bytes:
    """The beginning of an image's file, or its pixels if it has none; nothing if unreadable: training says so."""
    try:
        file = images.file(index)
        if not os.path.lexists(file):
            return images.image(index).tobytes()[:MOST_READ]
        if not stat.S_ISREG(os.stat(file).st_mode):
            return b""
        with open(file, "rb") as opened:
            return opened.read(MOST_READ)
    except (OSError, UserError):
        return b""
