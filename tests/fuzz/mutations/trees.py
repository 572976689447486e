"""Image-folder trees: links, other kinds of files, names, classes that do not agree."""

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

from cases import (
    ANY,
    REFUSED,
    SAME,
    SAME_OR_REFUSED,
    STRANGE_NAMES,
    Case,
    mutation,
    replace_bytes,
    spoil_bytes,
    strange_file,
)
from ground import PUBLISHED, TREE, published_flags


def tree(case: Case, *flags: str) -> Path:
    """A copy of the tree; train.py reads it, or demo.py with its validation."""
    copy = case.copy(TREE)
    if case.rng.random() < 0.6:
        case.train(*flags, tree=copy)
    else:
        case.demo(tree=copy)
        case.argv.remove("--no_val")
        case.trusted = ""
    case.note(case.program)
    return copy


def settle(case: Case, expect: str) -> None:
    """Where there is no trusted run to compare with, a report that agrees with itself will do."""
    if case.program == "demo" and expect in (SAME, SAME_OR_REFUSED):
        case.argv.append("--no_val")
        case.trusted = "pages"
    case.expect = expect


@mutation("tree", 4)
def tree_links(case: Case) -> None:
    """Links to images and folders: each image counts once, and none in two splits."""
    root = tree(case)
    train, val = root / "train", root / "val"
    ways: dict[str, tuple[Callable[[], object], str]] = {
        "loop": (lambda: (train / "beach/loop").symlink_to(train / "beach"), SAME_OR_REFUSED),
        "loop by dots": (lambda: (train / "beach/loop").symlink_to("."), SAME_OR_REFUSED),
        "two up": (lambda: (train / "beach/up").symlink_to("../.."), REFUSED),
        "three up": (lambda: (train / "beach/up").symlink_to("../../.."), REFUSED),
        "validation in a class": (lambda: (train / "beach/val").symlink_to(val / "beach"), REFUSED),
        "validation image": (lambda: (train / "beach/v.jpg").symlink_to(val / "beach/00000000.jpg"), REFUSED),
        "training in validation": (lambda: (val / "beach/train").symlink_to(train / "beach"), REFUSED),
        "class is validation's": (lambda: _swap(train / "beach", val / "beach"), REFUSED),
        "val is train": (lambda: _swap(val, train), REFUSED),
        "train is val": (lambda: _swap(train, val), REFUSED),
        "class of another class": (lambda: (train / "beach/other").symlink_to(train / "tundra"), SAME_OR_REFUSED),
        "image of another class": (
            lambda: (train / "beach/o.jpg").symlink_to(train / "tundra/00000000.jpg"),
            SAME_OR_REFUSED,
        ),
        "image twice": (lambda: (train / "beach/o.jpg").symlink_to("00000000.jpg"), SAME_OR_REFUSED),
        "loop of itself": (lambda: (train / "beach/self").symlink_to("self"), SAME_OR_REFUSED),
        "loop of itself as image": (lambda: (train / "beach/self.jpg").symlink_to("self.jpg"), SAME_OR_REFUSED),
        "nowhere": (lambda: (train / "beach/none").symlink_to("/nowhere/at/all"), SAME_OR_REFUSED),
        "root folder": (lambda: (train / "beach/root").symlink_to(case.ground.outside), SAME_OR_REFUSED),
        "class elsewhere": (lambda: _move(case, train / "beach"), SAME),
        "split elsewhere": (lambda: _move(case, val), SAME),
        "image elsewhere": (lambda: _move(case, train / "beach/00000000.jpg"), SAME),
        "mutual": (lambda: _mutual(train / "beach"), SAME_OR_REFUSED),
        "class is a loop": (lambda: (train / "desert").symlink_to("desert"), SAME_OR_REFUSED),
    }
    name = case.rng.choice(sorted(ways))
    case.note(name)
    change, expect = ways[name]
    change()
    if case.program == "demo" and expect == REFUSED and name not in ("training in validation", "val is train"):
        expect = SAME_OR_REFUSED  # of train/, demo.py reads the classes' names only
    settle(case, expect)


def _swap(path: Path, target: Path) -> None:
    shutil.rmtree(path)
    path.symlink_to(target)


def _move(case: Case, path: Path) -> None:
    target = case.folder / f"moved{path.suffix}"
    path.rename(target)
    path.symlink_to(target)


def _mutual(folder: Path) -> None:
    (folder / "a").mkdir()
    (folder / "b").mkdir()
    (folder / "a/b").symlink_to("../b")
    (folder / "b/a").symlink_to("../a")


@mutation("tree", 3)
def tree_files(case: Case) -> None:
    """Files that are no images, beside and in place of images and folders."""
    root = tree(case)
    train, val = root / "train", root / "val"
    image = train / "beach/00000000.jpg"

    def node(path: Path, kind: str) -> None:
        if kind == "fifo":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
        elif kind == "socket":
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(os.path.relpath(path))
        else:
            path.symlink_to("/dev/zero")

    kind = case.rng.choice(["fifo", "folder", "socket", "endless"])
    other = case.rng.choice([".avif", ".heic", ".gif", ".txt", ".jxl", ".svg", ""])
    ways: dict[str, tuple[Callable[[], object], str]] = {
        f"{kind} named as an image": (lambda: node(train / "beach/z.jpg", kind), SAME_OR_REFUSED),
        f"{kind} named as a validation image": (lambda: node(val / "beach/z.jpg", kind), ANY),
        f"{kind} beside the classes": (lambda: node(train / "zzz.jpg", kind), ANY),
        f"file {other} beside the images": (lambda: (train / f"beach/z{other}").write_bytes(b"junk"), SAME_OR_REFUSED),
        f"file {other} beside the classes": (lambda: (train / f"z{other}").write_bytes(b"junk"), SAME),
        f"all images of a class are {other}": (lambda: _rename_all(train / "beach", other), ANY),
        f"all validation images of a class are {other}": (lambda: _rename_all(val / "beach", other), ANY),
        "hidden image": (lambda: shutil.copy(image, train / "beach/.hidden.jpg"), ANY),
        "hidden class": (lambda: (train / ".hidden").mkdir(), SAME),
        "hidden folder in a class": (lambda: shutil.copytree(val / "beach", train / "beach/.h"), ANY),
        "folder in a class": (lambda: shutil.copytree(train / "beach", train / "beach/deep"), ANY),
        "deep folders": (lambda: (train / "beach" / "/".join(["d"] * 200)).mkdir(parents=True), SAME_OR_REFUSED),
        "train is a file": (lambda: _file(train), REFUSED),
        "val is a file": (lambda: _file(val), REFUSED),
        "class is a file": (lambda: _file(train / "beach"), REFUSED),
        "no train": (lambda: shutil.rmtree(train), REFUSED),
        "no val": (lambda: shutil.rmtree(val), REFUSED),
        "upper case": (lambda: image.rename(image.with_suffix(".JPG")), SAME),
        "many dots": (lambda: image.rename(image.with_name("00000000.x.y.jpg")), SAME),
    }
    name = case.rng.choice(sorted(ways))
    case.note(name)
    change, expect = ways[name]
    change()
    settle(case, expect)


def _file(path: Path) -> None:
    shutil.rmtree(path)
    path.write_bytes(b"a file\n")


def _rename_all(folder: Path, suffix: str) -> None:
    for file in sorted(folder.iterdir()):
        file.rename(file.with_suffix(suffix))


@mutation("tree", 2)
def tree_classes(case: Case) -> None:
    """Classes that the splits do not share, that are empty, one only, very many."""
    root = tree(case)
    train, val = root / "train", root / "val"
    ways: dict[str, tuple[Callable[[], object], str]] = {
        "empty in both": (lambda: [(split / "desert").mkdir() for split in (train, val)], ANY),
        "empty in train": (lambda: (train / "desert").mkdir(), ANY),
        "emptied in train": (lambda: _empty(train / "beach"), ANY),
        "emptied in val": (lambda: _empty(val / "beach"), ANY),
        "only in val": (lambda: (val / "desert").mkdir(), REFUSED),
        "missing in val": (lambda: shutil.rmtree(val / "beach"), ANY),
        "all empty": (lambda: [_empty(train / name) for name in ("beach", "tundra", "bakery-shop")], REFUSED),
        "no classes": (lambda: [shutil.rmtree(train / name) for name in ("beach", "tundra", "bakery-shop")], REFUSED),
        "one class": (lambda: [shutil.rmtree(s / n) for s in (train, val) for n in ("beach", "tundra")], ANY),
        "many classes": (lambda: [(train / f"c{number}").mkdir() for number in range(2000)], ANY),
        "names differ in case": (lambda: [shutil.copytree(s / "beach", s / "Beach") for s in (train, val)], ANY),
    }
    name = case.rng.choice(sorted(ways))
    case.note(name)
    change, expect = ways[name]
    change()
    if case.program == "demo" and expect == ANY and name in ("many classes", "one class", "empty in both"):
        expect = REFUSED  # these are not the network's classes
    if case.program == "demo" and name == "all empty":
        expect = SAME_OR_REFUSED  # of train/, demo.py reads the classes' names only
    settle(case, expect)


def _empty(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


@mutation("tree", 3)
def tree_names(case: Case) -> None:
    """Classes, files and the tree itself with names that are hostile where they are shown."""
    root = tree(case)
    what = case.rng.choice(["class", "class", "file", "tree"])
    names = [name.replace("/", "_") for name in STRANGE_NAMES if name not in (".", "~")]
    name = case.rng.choice([name for name in names if len(name.encode(errors="replace")) < 250])
    case.note(what, name)
    if what == "class":
        for split in ("train", "val"):
            (root / split / "beach").rename(root / split / name)
    elif what == "file":
        for split in ("train", "val"):
            (root / split / "beach/00000000.jpg").rename(root / split / "beach" / f"{name}.jpg")
    else:
        root.rename(case.folder / name)
        case.argv[case.argv.index("--dataset") + 1] = str(case.folder / name)
        if case.program == "train":
            case.argv += ["--batch_size", "6"]  # at 224 pixels
    case.expect = REFUSED if what == "class" and case.program == "demo" else ANY


# --- Tiny-ImageNet as published -----------------------------------------------------------------------------------


def published(case: Case) -> Path:
    """A copy of the tree, for train.py."""
    root = case.copy(PUBLISHED)
    case.train(tree=root, earlier=False)
    case.argv, case.trusted = published_flags(root), "published"
    return root


@mutation("tree", 2)
def published_files(case: Case) -> None:
    """One of its tables, or an image, spoiled or something else."""
    root = published(case)
    names = ["wnids.txt", "words.txt", "val/val_annotations.txt"]
    name = case.rng.choice([*names, *names, "val/images/val_0.JPEG"])
    case.note(name)
    if case.rng.random() < 0.6:
        spoil_bytes(case, root / name)
        case.expect = ANY
    else:
        kind = strange_file(case, root / name)
        image = "images" in name
        case.expect = SAME if kind == "link" and not image else ANY if image else REFUSED


@mutation("tree", 3)
def published_lines(case: Case) -> None:
    """Lines of its tables that are wrong, or written in another way."""
    root = published(case)
    name = case.rng.choice(["wnids.txt", "words.txt", "val/val_annotations.txt"])
    lines = (root / name).read_text(encoding="utf-8").splitlines()
    place = case.rng.randrange(len(lines))
    first, *rest = lines[place].split("\t")
    used = first in lines or "val" in name or (root / "train" / first).is_dir()
    strange = case.rng.choice([*STRANGE_NAMES, "../x", "/etc/x", "n99999999", "N01000001", "n0100000", "n٠1000001"])
    ways: dict[str, tuple[list[str], str]] = {
        "reversed": (lines[::-1], SAME),
        "empty lines": ([line for pair in zip(lines, [""] * len(lines), strict=True) for line in pair], SAME),
        "carriage returns": ([f"{line}\r" for line in lines], SAME),
        "mark of order": ([f"\ufeff{lines[0]}", *lines[1:]], SAME),
        "line absent": ([line for line in lines if line != lines[place]], REFUSED if used else SAME),
        "line twice": ([*lines, lines[place]], SAME if name == "words.txt" else REFUSED),
        "first is strange": (
            [*lines[:place], "\t".join([strange, *rest]), *lines[place + 1 :]],
            REFUSED if used and strange not in ("\ufeffa",) else ANY,
        ),
        "one more": (
            [*lines, "\t".join([strange, *rest])],
            ANY if name == "words.txt" or not strange.strip() else REFUSED,
        ),
        "no tabs": ([line.replace("\t", " ") for line in lines], SAME if name == "wnids.txt" else REFUSED),
        "only the first": ([line.split("\t")[0] for line in lines], SAME if name == "wnids.txt" else REFUSED),
        "second is strange": ([*lines[:place], "\t".join([first, strange]), *lines[place + 1 :]], ANY),
        "all names are one": (["\t".join([line.split("\t")[0], "same"]) for line in lines], ANY),
        "long line": ([*lines, "x" * 3_000_000], SAME if name == "words.txt" else REFUSED),
        "nothing": ([], REFUSED),
        "spaces": (["  "] * 3, REFUSED),
    }
    way = case.rng.choice(sorted(ways))
    text, case.expect = ways[way]
    case.note(name, way, strange if "strange" in way or "more" in way else "")
    replace_bytes(root / name, "\n".join(text).encode("utf-8", "surrogateescape"))


@mutation("tree")
def published_images(case: Case) -> None:
    """Images that the table has not, or has twice, and folders that are no classes."""
    root = published(case)
    train, val, table = root / "train", root / "val/images", root / "val/val_annotations.txt"
    first = sorted(path.name for path in train.iterdir())[0]
    image = val / "val_0.JPEG"
    ways: dict[str, tuple[Callable[[], object], str]] = {
        "image more": (lambda: shutil.copyfile(image, val / "other.JPEG"), REFUSED),
        "image less": (lambda: image.unlink(), REFUSED),
        "image of training": (
            lambda: (image.unlink(), image.symlink_to(train / f"{first}/images/{first}_0.JPEG")),
            REFUSED,
        ),
        "image is another": (lambda: (image.unlink(), image.symlink_to("val_1.JPEG")), REFUSED),
        "table names training": (
            lambda: table.write_text(f"../../train/{first}/images/{first}_0.JPEG\t{first}\n"),
            REFUSED,
        ),
        "class more": (lambda: (train / "n99999999/images").mkdir(parents=True), REFUSED),
        "class less": (lambda: shutil.rmtree(train / first), REFUSED),
        "class is empty": (lambda: _empty(train / first / "images"), ANY),
        "other files": (lambda: (val / "notes.txt").write_text("x"), SAME),
        "images of other types": (lambda: (val / "x.heic").write_bytes(b"x"), SAME),
        "val is train": (lambda: _swap(val, train), REFUSED),
        "no images": (lambda: shutil.rmtree(val), REFUSED),
    }
    name = case.rng.choice(sorted(ways))
    case.note(name)
    change, case.expect = ways[name]
    change()
