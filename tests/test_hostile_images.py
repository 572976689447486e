"""Hostile images, links in circles, names that are not UTF-8, killed workers: one line, or the right answer."""

import io
import json
import os
import signal
import struct
import subprocess
import sys
import zlib
from collections import Counter

import numpy as np
import pytest
import torch
from conftest import ROOT, write_tree
from PIL import Image, ImageOps

import settings
from explain.subjects import Selection, find_files
from loader import mini_places
from loader.batches import Loader, make_loader
from loader.datasets import find_dataset
from loader.folders import say_once
from loader.images import (
    EXTENSIONS,
    FORMATS,
    MOST_SIDE,
    crop_extreme,
    explain_transform,
    image_size,
    open_image,
    read_image,
    train_transform,
    val_transform,
)
from util.cli import Terminated, UserError, run

SPEC = settings.DATASETS.places365
NOISE = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
CPU = torch.device("cpu")


@pytest.fixture
def said(capfd):
    """Calls a function as a script does; returns what it says in its one line, after `x: error: `."""

    def say(entry) -> str:
        with pytest.raises(SystemExit) as ended:
            run(entry, "x")
        assert ended.value.code == 2
        (line,) = capfd.readouterr().err.splitlines()
        assert line.startswith("x: error: ")
        return line.removeprefix("x: error: ")

    return say


@pytest.fixture
def own_tree(tmp_path):
    say_once.cache_clear()
    return write_tree(tmp_path / "tree")


def images(tree, split="train"):
    return find_dataset(str(tree)).dataset(split)


# --- one file -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_types_that_are_read(tmp_path, extension):
    image = Image.fromarray(NOISE).convert({".pbm": "1", ".pgm": "L"}.get(extension, "RGB"))
    file = tmp_path / f"image{extension}"
    image.save(file, format=EXTENSIONS[extension])
    assert (read_image(file).size, read_image(file, upright=True).mode, image_size(file)) == ((50, 40), "RGB", (40, 50))
    file.rename(tmp_path / "misnamed.jpg")
    with open_image(tmp_path / "misnamed.jpg") as opened:
        assert np.asarray(opened).shape[:2] == (40, 50)


@pytest.mark.parametrize("format_", ["EPS", "DDS", "ICO", "TGA", "PCX", "JPEG2000", "SGI", "PDF"])
def test_other_formats_are_refused_whatever_their_name(tmp_path, said, format_):
    file = tmp_path / "image.jpg"
    Image.fromarray(NOISE).save(file, format=format_)
    reason = f"cannot identify image file {str(file)!r}, expected {', '.join(FORMATS)}"
    assert said(lambda: read_image(file)) == f"{file}: not a readable image ({reason})"


def test_no_program_is_started(tmp_path, said, monkeypatch):
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    Image.fromarray(NOISE).save(tmp_path / "image.jpg", format="EPS")
    said(lambda: read_image(tmp_path / "image.jpg"))
    assert not (tmp_path / "started").exists()


def test_label_maps_of_one_format(tmp_path, said):
    Image.fromarray(NOISE).save(tmp_path / "map.png", format="JPEG")
    message = said(lambda: open_image(tmp_path / "map.png", "label map", ("PNG",)))
    assert message.startswith(f"{tmp_path / 'map.png'}: not a readable label map (cannot identify image file")


@pytest.mark.parametrize(
    "error",
    [
        struct.error("unpack"),
        NotImplementedError("pixel format"),
        ZeroDivisionError(),
        RuntimeError("x"),
        EOFError(),
        KeyError(3),
        TypeError("x"),
        OverflowError("x"),
        MemoryError(),
        IndexError("x"),
        AttributeError("x"),
        RecursionError("x"),
        AssertionError(),
        ValueError("two\nlines"),
        Image.DecompressionBombError("large"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_a_decoder_raises(tmp_path, said, monkeypatch, error):
    file = tmp_path / "image.png"
    Image.fromarray(NOISE).save(file)

    def fail(*_):
        raise error

    for place in ("load", "getexif"):
        with monkeypatch.context() as patch:
            patch.setattr(f"PIL.PngImagePlugin.PngImageFile.{place}", fail)
            reason = " ".join(str(error).split()) or type(error).__name__
            assert said(lambda: read_image(file, upright=True)) == f"{file}: not a readable image ({reason})"


@pytest.mark.parametrize("error", [Terminated("received SIGTERM"), KeyboardInterrupt()])
def test_signals_are_no_fault_of_the_image(tmp_path, monkeypatch, error):
    Image.fromarray(NOISE).save(tmp_path / "image.png")

    def fail(*_):
        raise error

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", fail)
    with pytest.raises(type(error)):
        read_image(tmp_path / "image.png")


def test_errors_of_those_who_use_an_image_stay_theirs(tmp_path):
    Image.fromarray(NOISE).save(tmp_path / "image.png")
    with pytest.raises(ZeroDivisionError), open_image(tmp_path / "image.png"):
        1 / 0  # noqa: B018


def test_files_that_are_none(tmp_path, said):
    os.mkfifo(tmp_path / "fifo.jpg")
    for path, message in (
        (tmp_path / "fifo.jpg", "not a regular file, expected a file"),
        ("/dev/zero", "not a regular file, expected a file"),
        (tmp_path, "a folder, expected a file"),
        (tmp_path / "no.jpg", "no such file"),
    ):
        assert said(lambda path=path: read_image(path)) == f"image {path}: {message}"
        assert said(lambda path=path: open_image(path, "label map")) == f"label map {path}: {message}"
    with open(tmp_path / "sparse.jpg", "wb") as file:
        file.truncate(1 << 40)
    assert said(lambda: read_image(tmp_path / "sparse.jpg")).endswith("bytes, expected at most 1,073,741,824")


def mutations(count):
    """Images of all types with some bytes changed, removed or repeated."""
    generator = np.random.default_rng(1)
    valid = []
    Image.init()
    for format_ in (*FORMATS, "MPO", "EPS", "DDS"):
        for frames in (1, 2):
            file = io.BytesIO()
            many = (
                {"save_all": True, "append_images": [Image.fromarray(NOISE[::-1])]}
                if frames > 1 and format_ in ("GIF", "WEBP", "PNG", "TIFF")
                else {}
            )
            exif = Image.Exif()
            exif[0x0112] = 6
            turned = {"exif": exif} if format_ in ("JPEG", "PNG", "WEBP", "AVIF") else {}
            Image.fromarray(NOISE).save(file, format=format_, **many, **turned)
            valid.append(file.getvalue())
    for compression in ("tiff_lzw", "jpeg", "tiff_deflate", "packbits"):
        file = io.BytesIO()
        Image.fromarray(NOISE).save(file, format="TIFF", compression=compression)
        valid.append(file.getvalue())
    for _ in range(count):
        content = bytearray(valid[generator.integers(len(valid))])
        for _ in range(generator.choice((1, 1, 2, 5, 20))):
            place = generator.integers(min(len(content), generator.choice((100, 100_000))))
            kind = generator.integers(4)
            if kind == 0:
                content[place] = generator.integers(256)
            elif kind == 1:
                content[place : place + 4] = (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff")[
                    generator.integers(3)
                ]
            elif kind == 2 and len(content) > 100:
                del content[place : place + 20]
            else:
                content[place:place] = content[place : place + 20]
        yield bytes(content)


def test_mutated_images_are_read_or_refused(tmp_path, capfd):
    file = tmp_path / "image.jpg"
    ends = Counter()
    for content in mutations(500):
        file.write_bytes(content)
        try:
            ends[read_image(file, upright=True, enough=64).mode] += 1
        except UserError as error:
            assert str(error).startswith(f"{file}: not a readable image (")
            ends["refused"] += 1
    assert set(ends) == {"RGB", "refused"} and min(ends.values()) > 50
    assert capfd.readouterr() == ("", "")  # libtiff writes to the process's stderr


# --- memory -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 65_000), (65_000, 1), (2, MOST_SIDE), (3, 193), (1000, 10)])
def test_narrow_images_take_little_memory(tmp_path, size):
    Image.new("RGB", size, "red").save(tmp_path / "narrow.png")
    image = read_image(tmp_path / "narrow.png")
    cropped = crop_extreme(image)
    assert max(cropped.size) == 64 * min(size) and min(cropped.size) == min(size)
    for transform in (val_transform(SPEC), train_transform(SPEC), explain_transform(SPEC)):
        assert transform(image).shape == (3, 224, 224)
    (subject,) = Selection(None, [], [str(tmp_path / "narrow.png")]).read(SPEC, settings.IMAGE_SIZE, [])
    assert subject.square.shape == (settings.IMAGE_SIZE, settings.IMAGE_SIZE, 3)


def test_memory_of_narrow_images(tmp_path):
    Image.new("RGB", (1, MOST_SIDE)).save(tmp_path / "narrow.png")
    program = f"""
import resource, sys
sys.path.insert(0, {str(ROOT)!r})
import settings
from loader.images import explain_transform, read_image, train_transform, val_transform
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for transform in (val_transform, train_transform, explain_transform):
    transform(settings.DATASETS.places365)(read_image({str(tmp_path / "narrow.png")!r}))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and int(done.stdout) < 400, done  # MiB; 11 GiB without a bound


def test_the_middle_of_a_narrow_image_is_kept():
    pixels = np.arange(1001, dtype=np.uint16).astype(np.uint8)[:, None]
    middle = np.asarray(crop_extreme(Image.fromarray(pixels)))
    assert (middle == pixels[468:532]).all()


@pytest.mark.parametrize("size", [(50, 40), (1, 1), (1, 64), (640, 10), (3, 192)])
def test_ordinary_images_stay_as_they_are(size):
    image = Image.new("RGB", size)
    assert crop_extreme(image) is image


def header(width, height):
    """A PNG of these sides, without its pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    start = chunk(b"IHDR", struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + start + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "content, reason",
    [
        (header(50_000, 50_000), "Image size (2500000000 pixels) exceeds limit of 178956970 pixels, could be"),
        (header(1, 100_000_000), "1 x 100000000 pixels, expected sides of 1 to 65535"),
        (
            b"GIF89a"
            + struct.pack("<2H", 65_535, 65_535)
            + bytes(3)
            + b","
            + struct.pack("<4H", 0, 0, 1, 1)
            + b"\0\2\0;",
            "Image size (4294836225 pixels) exceeds limit",
        ),
        # A small screen with a frame that is large, or lies far outside.
        (
            b"GIF89a"
            + struct.pack("<2H", 1, 1)
            + bytes(3)
            + b","
            + struct.pack("<4H", 0, 0, 65_535, 65_535)
            + b"\0\2\0;",
            "Image size (4294836225 pixels) exceeds limit",
        ),
    ],
)
def test_bombs(tmp_path, said, content, reason):
    (tmp_path / "bomb.png").write_bytes(content)
    assert said(lambda: read_image(tmp_path / "bomb.png")).startswith(
        f"{tmp_path / 'bomb.png'}: not a readable image ({reason}"
    )


@pytest.mark.parametrize("format_", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame(tmp_path, format_):
    frames = [Image.new("RGB", (30, 20), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "animated", format=format_, save_all=True, append_images=frames[1:] * 50)
    red = read_image(tmp_path / "animated").getpixel((3, 3))
    assert red[0] > 250 and max(red[1:]) < 5


# --- class folders ------------------------------------------------------------------------------------------------


def test_the_order_of_images_is_image_folders(tmp_path):
    from torchvision.datasets import ImageFolder

    generator = np.random.default_rng(0)
    for name in ("a", "a-b", "a_b", "B"):
        for number in range(60):
            folder = tmp_path / "train" / name / generator.choice(["", "x", "x-1", "x/y", "x.z", "X"])
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{generator.choice(list('abAB_-'))}{number}{generator.choice(['.jpg', '.JPG', '.txt'])}").touch()
        (tmp_path / "val" / name).mkdir(parents=True)
    own = images(tmp_path)
    assert own.samples == ImageFolder(str(tmp_path / "train")).samples and own.targets == [c for _, c in own.samples]


def test_loops_count_nothing_twice(own_tree):
    plain = images(own_tree).samples
    beach = own_tree / "train" / "beach"
    (beach / "again").symlink_to(".")
    (beach / "away").symlink_to(beach)
    (beach / "sub").mkdir()
    (beach / "sub" / "up").symlink_to("..")
    (beach / "0.jpg").symlink_to("00000000.jpg")  # sorts before the file
    (beach / "self").symlink_to("self")
    assert images(own_tree).samples == plain


def test_links_to_other_disks_are_followed(own_tree, tmp_path):
    plain = [(os.path.basename(path), target) for path, target in images(own_tree).samples]
    linked = tmp_path / "linked"
    for split in ("train", "val"):
        for folder in (own_tree / split).iterdir():
            if folder.name == "beach":  # a folder of links
                (linked / split / "beach").mkdir(parents=True)
                for file in folder.iterdir():
                    (linked / split / "beach" / file.name).symlink_to(file)
            else:
                (linked / split).mkdir(parents=True, exist_ok=True)
                (linked / split / folder.name).symlink_to(folder)
    assert [(os.path.basename(path), target) for path, target in images(linked).samples] == plain
    assert len(images(linked, "val")) == 6


@pytest.mark.parametrize(
    "link, target, message",
    [
        ("train/beach/up", "../..", "{tree}/train/beach/up: a link to {tree}, a folder around this class's"),
        ("train/beach/up", "..", "{tree}/train/beach/up: a link to {tree}/train, a folder around this class's"),
        ("train/beach/all", "/", "{tree}/train/beach/all: a link to /, a folder around this class's"),
        ("train/more", ".", "{tree}/train/more: a link to {tree}/train, a folder around this class's"),
        (
            "train/beach/v",
            "../../val/beach",
            "{tree}/train/beach/v: a link into {tree}/val: an image must not be in both splits",
        ),
        (
            "train/beach/v.jpg",
            "../../val/beach/00000000.jpg",
            "{tree}/train/beach/v.jpg: a link into {tree}/val: an image must not be in both splits",
        ),
        (
            "train/more",
            "../val/beach",
            "{tree}/train/more: a link into {tree}/val: an image must not be in both splits",
        ),
        (
            "train/beach/t",
            "../tundra",
            "{tree}/train/beach/t/00000000.jpg and {tree}/train/tundra/00000000.jpg are one file: an image must have "
            "one class",
        ),
        (
            "train/more",
            "beach",
            "{tree}/train/beach/00000000.jpg and {tree}/train/more/00000000.jpg are one file: an image must have "
            "one class",
        ),
        ("train/beach/x.jpg", "/no/where", "image {tree}/train/beach/x.jpg: no such file"),
        (
            "train/beach/x.jpg",
            "x.jpg",
            "image {tree}/train/beach/x.jpg: unreadable (Too many levels of symbolic links)",
        ),
        ("train/gone", "/no/where", "{tree}/train/gone: a link to nothing"),
        ("train/beach/zero.jpg", "/dev/zero", "image {tree}/train/beach/zero.jpg: not a regular file, expected a file"),
    ],
)
def test_links_that_are_refused(own_tree, said, link, target, message):
    (own_tree / link).symlink_to(target)
    assert said(lambda: images(own_tree)) == message.format(tree=own_tree)


def test_one_file_in_both_splits(own_tree, tmp_path, said):
    Image.fromarray(NOISE).save(tmp_path / "shared.jpg")
    for split in ("train", "val"):
        (own_tree / split / "beach" / f"{split}.jpg").symlink_to(tmp_path / "shared.jpg")
    for split, other in (("train", "val"), ("val", "train")):
        first, second = (f"{own_tree}/{name}/beach/{name}.jpg" for name in (split, other))
        message = f"{first} and {second} are one file: an image must not be in both splits"
        assert said(lambda split=split: images(own_tree, split)) == message


def test_one_folder_as_both_splits(own_tree, tmp_path, said):
    (tmp_path / "twice").mkdir()
    (tmp_path / "twice" / "train").symlink_to(own_tree / "train")
    (tmp_path / "twice" / "val").symlink_to(own_tree / "train")
    message = "{0}/train and {0}/val have the same images: an image must not be in both splits"
    assert said(lambda: images(tmp_path / "twice")) == message.format(tmp_path / "twice")


def test_fifos_and_folders_among_the_images(own_tree, said):
    (own_tree / "train" / "beach" / "folder.jpg").mkdir()
    assert len(images(own_tree)) == 12
    os.mkfifo(own_tree / "train" / "beach" / "fifo.jpg")
    assert said(lambda: images(own_tree)) == (
        f"image {own_tree}/train/beach/fifo.jpg: not a regular file, expected a file"
    )


def test_files_that_are_not_read_are_counted(own_tree, capsys):
    beach = own_tree / "train" / "beach"
    for name in ("a.heic", "b.HEIC", "c.jp2", "noname", "notes.txt", ".DS_Store", "Thumbs.db", ".hidden.heic"):
        (beach / name).touch()
    for _ in range(2):  # said once
        assert len(images(own_tree)) == 12
    assert capsys.readouterr().err == (
        f"{own_tree}/train: skipped 4 files (1 without extension, 2 .heic, 1 .jp2); types read: "
        f"{', '.join(EXTENSIONS)}\n"
    )


@pytest.mark.parametrize("names", [["a.heic"], ["notes.txt"], ["a.svg", "b.jp2"]])
def test_a_class_without_a_readable_file(own_tree, names):
    tundra = own_tree / "train" / "tundra"
    for file in tundra.iterdir():
        file.unlink()
    for name in names:
        (tundra / name).touch()

    with pytest.raises(UserError) as error:
        images(own_tree)
    assert str(error.value) == f"{tundra}: no images in it of the types that are read ({', '.join(EXTENSIONS)})"


def test_an_empty_class_is_noted(own_tree, capsys):
    for file in (own_tree / "train" / "tundra").iterdir():
        file.unlink()
    assert len(images(own_tree)) == 8
    assert capsys.readouterr().err == f"{own_tree}/train: 1 of 3 category folders are empty: tundra\n"


def test_names_that_are_not_utf8(tmp_path, capsys):
    odd = os.fsdecode(b"caf\xe9")
    tree = write_tree(tmp_path / os.fsdecode(b"tr\xe9e"), ["a\x1b[31mred", odd, "plain"])
    image = tree / "val" / odd / os.fsdecode(b"\xff.jpg")
    Image.fromarray(NOISE).save(image)
    source = find_dataset(str(tree))
    assert source.name == r"tr\udce9e"
    assert source.classes == [r"a\x1b[31mred", r"caf\udce9", "plain"]
    json.dumps(source.classes, ensure_ascii=False).encode()
    val = source.dataset("val", val_transform(source.spec))
    index = [path for path, _ in val.samples].index(str(image))
    assert val[index][1] == 1
    unreadable = []
    (tmp_path / os.fsdecode(b"bad\xff.jpg")).write_text("x")
    selection = Selection(val, [index], [str(image), str(tmp_path / os.fsdecode(b"bad\xff.jpg"))])
    subjects = list(selection.read(SPEC, settings.IMAGE_SIZE, unreadable))
    assert [subject.file for subject in subjects] == [rf"{tmp_path}/tr\udce9e/val/caf\udce9/\udcff.jpg"] * 2
    assert unreadable[0]["file"] == rf"{tmp_path}/bad\udcff.jpg"
    json.dumps(unreadable, ensure_ascii=False).encode()


def test_names_are_the_same_in_the_c_locale(tmp_path):
    write_tree(tmp_path / "bäume", ["Eiche-ü", "x"])
    program = f"""
import os, sys
sys.path.insert(0, {str(ROOT)!r})
from loader.datasets import find_dataset
source = find_dataset(os.path.join(os.getcwd(), os.listdir()[0]))
assert len(source.dataset("train")) == 8
print(ascii((source.name, source.classes)))
"""
    said_by = []
    for own in ({"LC_ALL": "C.UTF-8"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}):
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, env={**os.environ, **own}
        )
        assert done.returncode == 0, done.stderr
        said_by.append(done.stdout)
    assert said_by == [ascii(("bäume", ["Eiche-ü", "x"])) + "\n"] * 2


# --- a user's own images ------------------------------------------------------------------------------------------


@pytest.fixture
def holiday(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.jpg", "b/c.jpg", "b/d/e.PNG", "b/d/[x]/f.jpg", ".hidden/g.jpg", "b/notes.txt"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return tmp_path


PATTERNS = [
    "**/*.jpg",
    "**",
    "b/**",
    "b/**/*",
    "./**/*.jpg",
    "*/**/*.jpg",
    "**/d/**/*.jpg",
    "**/**/*.jpg",
    "*.jpg",
    "b/*/**/f.jpg",
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_match_what_glob_does(holiday, pattern):
    import glob

    expected = sorted({file for file in glob.glob(pattern, recursive=True) if os.path.isfile(file)})
    real = {os.path.realpath(file): file for file in reversed(expected)}
    assert find_files([pattern]) == sorted(real.values())


@pytest.mark.parametrize("pattern", [*PATTERNS, ".", "b"])
def test_loops_explain_each_file_once(holiday, pattern):
    before = {os.path.realpath(file) for file in find_files([pattern])}
    for name, target in (("loop", "."), ("loop2", "."), ("b/up", ".."), ("b/d/up", "../.."), ("self", "self")):
        (holiday / name).symlink_to(target)
    after = [os.path.realpath(file) for file in find_files([pattern])]
    assert len(after) == len(set(after)) and before <= set(after)


def test_two_spellings_of_a_file(holiday):
    (holiday / "alias.jpg").symlink_to("a.jpg")
    assert find_files(["./a.jpg", "a.jpg", "alias.jpg", str(holiday / "a.jpg"), "*.jpg"]) == ["./a.jpg"]


def test_a_folder_of_other_types(holiday, capsys):
    say_once.cache_clear()
    (holiday / "b" / "x.heic").touch()
    assert find_files(["b"]) == ["b/c.jpg", "b/d/[x]/f.jpg", "b/d/e.PNG"]
    assert capsys.readouterr().err.startswith("b: skipped 1 file (1 .heic); types read: .jpg, ")
    (holiday / "only").mkdir()
    (holiday / "only" / "x.heic").touch()
    with pytest.raises(UserError, match=r"^--image only: no image there \(\.jpg, "):
        find_files(["only"])


def test_what_cannot_be_read_is_left_out(holiday):
    os.mkfifo(holiday / "b" / "fifo.jpg")
    Image.fromarray(NOISE).save(holiday / "a.jpg")
    Image.fromarray(NOISE).save(holiday / "b" / "c.jpg", format="EPS")
    unreadable = []
    subjects = list(
        Selection(None, [], find_files(["a.jpg", "b/*.jpg", "/dev/zero"])).read(SPEC, settings.IMAGE_SIZE, unreadable)
    )
    assert [subject.file for subject in subjects] == ["a.jpg"]
    assert [lost["reason"] for lost in unreadable] == [
        f"b/c.jpg: not a readable image (cannot identify image file 'b/c.jpg', expected {', '.join(FORMATS)})",
        "image b/fifo.jpg: not a regular file, expected a file",
        "image /dev/zero: not a regular file, expected a file",
    ]


# --- processes ----------------------------------------------------------------------------------------------------


class Deadly:
    """64 samples; reading number 20 kills the process that does."""

    def __init__(self, signal_: int):
        self.signal = signal_

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int):
        if index == 20 and torch.utils.data.get_worker_info():
            os.kill(os.getpid(), self.signal)
        return torch.full((3, 30, 30), float(index)), index


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGBUS])
def test_a_killed_worker(said, number):
    message = "a data loading process was killed (out of memory?); try fewer --workers"
    assert said(lambda: list(make_loader(Deadly(number), 4, 2, CPU))) == message
    assert len(list(make_loader(Deadly(0), 4, 2, CPU))) == 16  # the next loader works
    assert not callable(signal.getsignal(signal.SIGCHLD))  # torch's would raise wherever this process is


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_workers_outlive_what_ends_a_run(number):
    batches = list(make_loader(Deadly(number), 4, 2, CPU))
    assert torch.cat([indices for _, indices in batches]).tolist() == list(range(64))


@pytest.mark.skipif(not hasattr(os, "unshare") and not os.access("/usr/bin/unshare", os.X_OK), reason="no unshare")
@pytest.mark.parametrize("collate", ["default_collate", "own"])
def test_little_shared_memory(collate):
    program = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import torch
from torch.utils.data import default_collate
from loader.batches import Loader
from util.cli import run
def own(samples):
    return torch.stack(samples)
class Samples:
    def __len__(self): return 32
    def __getitem__(self, index): return torch.zeros(3, 300, 300)
run(lambda: print(len(list(Loader(Samples(), 4, num_workers=2, collate_fn={collate})))), "x")
"""
    mount = "mount -t tmpfs -o size=1m tmpfs /dev/shm"
    if subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("not allowed to mount")
    command = ["unshare", "-m", "sh", "-c", f'{mount} && exec "$0" -c "$1"', sys.executable, program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    message = "x: error: data loading processes have too little shared memory (/dev/shm); try fewer --workers\n"
    assert (done.returncode, done.stderr) == (2, message)


def test_errors_of_the_samples_stay_theirs():
    class Broken(Deadly):
        def __getitem__(self, index: int):
            raise EOFError("of the sample")

    for workers in (0, 1):
        with pytest.raises(EOFError, match="of the sample"):
            list(Loader(Broken(0), 4, num_workers=workers))


@pytest.mark.slow
def test_a_killed_rendering_process(tmp_path, said, monkeypatch):
    monkeypatch.setattr(mini_places, "_render_to_file", kill_oneself)
    monkeypatch.setattr(mini_places, "say", lambda *_: None)
    message = "a rendering process was killed (out of memory?); try fewer --workers"
    assert said(lambda: mini_places.render_mini_places(tmp_path, 16, 16, 16, workers=2, progress=False)) == message
    assert not list(tmp_path.iterdir())


def kill_oneself(_):
    os.kill(os.getpid(), signal.SIGKILL)


# --- files of data sets -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", ["[]", "[" * 100_000, '{"version": "x"}', "\udcff", "nan"])
def test_manifests_that_are_none(tmp_path, content):
    for name in ("mini_places", "mini_broden"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    assert not mini_places.is_complete(tmp_path)


def idx(*shape, values=0):
    return struct.pack(f">{1 + len(shape)}I", 0x800 + len(shape), *shape) + bytes([values]) * int(np.prod(shape))


@pytest.mark.parametrize(
    "image_file, label_file",
    [
        (b"", idx(2)),
        (b"x" * 100, idx(2)),
        (idx(2, 28, 28)[:-1], idx(2)),
        (idx(2, 27, 28), idx(2)),
        (idx(2, 28, 28), idx(3)),
        (idx(2, 28, 28), idx(2, values=10)),
        (idx(0, 28, 28), idx(0)),
        (idx(2, 28, 28), b"\xff"),
    ],
)
def test_faulty_idx_files(tmp_path, said, image_file, label_file):
    for part in ("train", "t10k"):
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(image_file)
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(label_file)
    message = said(lambda: find_dataset("fashion_mnist", str(tmp_path)).dataset("val"))
    assert message.startswith(f"{tmp_path}/t10k-*-ubyte: ")


def test_exif_that_is_broken(tmp_path, said):
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(NOISE)
    image.save(tmp_path / "turned.jpg", exif=exif)
    turned = read_image(tmp_path / "turned.jpg", upright=True)
    assert turned == ImageOps.exif_transpose(Image.open(tmp_path / "turned.jpg")).convert("RGB")
    content = (tmp_path / "turned.jpg").read_bytes()
    place = content.index(b"Exif\0\0") + 6
    for junk in (b"", b"II", b"MM\0*\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff" + b"\xff" * 8):
        (tmp_path / "broken.jpg").write_bytes(content[:place] + junk + content[place + len(junk) :])
        try:
            assert read_image(tmp_path / "broken.jpg", upright=True).mode == "RGB"
        except UserError as error:
            assert str(error).startswith(f"{tmp_path / 'broken.jpg'}: not a readable image (")
