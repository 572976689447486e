"""What users have on their disks: each script answers bad input by one line that names it, and code 2."""

import ctypes
import errno
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, run_demo, run_train, write_small_broden, write_tree
from PIL import Image

import demo
import train
from models import load_snapshot
from netdissect import main as dissection
from netdissect.tally import read_tally
from training import loop
from util.cli import parse_int, run
from util.files import lock_folder

IMAGE = "train/tundra/00000000.jpg"
TYPES = ".jpg, .jpeg, .png, .ppm, .bmp, .pgm, .tif, .tiff, .webp, .gif, .jfif, .pbm, .avif"
SHORT_TALLY = "unit,category,label,score\n" + "".join(f"{unit},object,sky,0.1\n" for unit in range(1, 513))


@pytest.fixture
def said(monkeypatch, capsys) -> Callable[..., str]:
    """Calls a script's `cli` with flags; returns what it says in its one line, after `name: error: `."""

    def say(cli: Callable[[], None], *flags) -> str:
        monkeypatch.setattr(sys, "argv", ["script", *map(str, flags)])
        with pytest.raises(SystemExit) as ended:
            run(cli, "script")
        assert ended.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("script: error: ")
        return line.removeprefix("script: error: ")

    return say


@pytest.fixture
def training(said, tmp_path) -> Callable[..., str]:
    """What train.py says of a data set; `workdir` gets what it writes."""

    def say(tree: Path, *flags, workdir: Path = tmp_path / "workspace") -> str:
        common = ["--epochs", 1, "--batch_size", 4, "--lr", 0.01, "--device", "cpu", "--workers", 0]
        return said(lambda: train.main(workdir), *common, "--dataset", tree, *flags)

    return say


@pytest.fixture
def explaining(said, trained, tree, tmp_path) -> Callable[..., str]:
    """What demo.py says; flags replace those of a good call."""
    (tmp_path / "tally.csv").write_text(SHORT_TALLY)

    def say(**flags) -> str:
        good = {
            "modelfile": trained[1],
            "nd_result": tmp_path / "tally.csv",
            "dataset": tree,
            "images": "0,1",
            "output": tmp_path / "out",
            "device": "cpu",
            "workers": 0,
        }
        return said(
            demo.cli, "--no_val", *(part for name, value in {**good, **flags}.items() for part in (f"--{name}", value))
        )

    return say


@pytest.fixture
def dissecting(said, trained, broden, tmp_path) -> Callable[..., str]:
    """What netdissect/main.py says; flags replace those of a good call."""

    def say(**flags) -> str:
        good = {
            "model_file": trained[1],
            "data_directory": broden,
            "output_folder": tmp_path / "o",
            "gpu": "False",
            "workers": "0",
            "chance_rounds": "0",
        }
        return said(
            dissection.cli, *(part for name, value in {**good, **flags}.items() for part in (f"--{name}", value))
        )

    return say


def agrees(said: str, expected: str) -> bool:
    """Whether it is what was expected; `...` at the end stands for words of the system or of a library."""
    return said.startswith(expected[:-3]) if expected.endswith("...") else said == expected


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def replaced(path: Path, old: str, new: str) -> None:
    text = path.read_bytes().decode()
    assert old in text
    path.write_bytes(text.replace(old, new, 1).encode())


def write_bomb(path: Path) -> None:
    """A PNG of a few bytes that would unpack to 7.5 GB."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">2I5B", 50_000, 50_000, 8, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b""))


# --- training ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda tree: (tree / IMAGE).write_bytes(b""), "{tree}/{image}: not a readable image (cannot identify..."),
        (lambda tree: cut(tree / IMAGE, 600), "{tree}/{image}: not a readable image (..."),
        (lambda tree: (tree / IMAGE).write_text("a"), "{tree}/{image}: not a readable image (cannot identify..."),
        (
            lambda tree: ((tree / IMAGE).unlink(), (tree / IMAGE).symlink_to("/no/where")),
            "image {tree}/{image}: no such file",
        ),
        (
            lambda tree: write_bomb(tree / "train/tundra/b.png"),
            "{tree}/train/tundra/b.png: not a readable image (Image size (2500000000 pixels) exceeds limit...",
        ),
        (lambda tree: shutil.rmtree(tree / "val"), "data set {tree}: expected a folder with train/ and val/ in it"),
        (
            lambda tree: (shutil.rmtree(tree / "val"), (tree / "val").touch()),
            "data set {tree}: expected a folder with train/ and val/ in it",
        ),
        (
            lambda tree: [shutil.rmtree(folder) for folder in (tree / "val").iterdir()],
            f"{{tree}}/val: no images ({TYPES}) in its category folders",
        ),
        (
            lambda tree: [shutil.rmtree(folder) for folder in (tree / "train").iterdir()],
            "{tree}/train: no category folders in it, expected {tree}/train/<category>/*.jpg",
        ),
        (
            lambda tree: (tree / "val/tundre").mkdir(),
            "{tree}/val: category folder 'tundre' is not among the 3 of train/",
        ),
    ],
    ids=[
        "zero bytes",
        "cut",
        "text",
        "broken link",
        "bomb",
        "no val",
        "val is a file",
        "empty val",
        "empty train",
        "class of val only",
    ],
)
def test_trees(training, tmp_path, change, message):
    tree = write_tree(tmp_path / "tree")
    change(tree)
    assert agrees(training(tree), message.format(tree=tree, image=IMAGE))
    assert not list(tmp_path.rglob("*.pth"))


def test_an_image_that_a_worker_cannot_read(training, tmp_path):
    tree = write_tree(tmp_path / "tree")
    cut(tree / IMAGE, 600)
    assert training(tree, "--workers", 2).startswith(f"{tree / IMAGE}: not a readable image (")


def test_strange_images_and_empty_classes_are_trained_on(trained, tmp_path, monkeypatch):
    tree = write_tree(tmp_path / "tree")
    odd = tree / "train" / "tundra"
    Image.new("RGB", (1, 1)).save(odd / "pixel.png")
    Image.fromarray(np.full((9, 9), 60_000, np.uint16)).save(odd / "sixteen.png")
    Image.new("CMYK", (20, 30)).save(odd / "cmyk.jpg")
    frames = [Image.new("RGB", (20, 30), colour) for colour in ("red", "blue")]
    frames[0].save(odd / "animated.webp", save_all=True, append_images=frames[1:])
    Image.new("1", (20, 30)).save(odd / "bits.bmp")
    Image.new("F", (20, 30)).save(odd / "floats.tif")
    for file in (tree / "val" / "tundra").iterdir():
        file.unlink()
    shutil.rmtree(tree / "val" / "beach")
    metrics = run_train(tmp_path, "--epochs", 1, "--batch_size", 6, "--dataset", tree)
    assert metrics["count"] == 2  # bakery-shop's, all that val has left
    assert (tmp_path / "snapshot/pytorch_resnet18_fc_ma_t5_tree/epoch_0.pth").is_file()


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--epochs", "1.5"], "argument --epochs: invalid int value: '1.5'"),
        (["--epochs", 10**12], "--epochs 1000000000000: expected 1 to 100000"),
        (["--batch_size", 0], "--batch_size 0: expected 1 to 1048576"),
        (["--workers", 10**6], "--workers 1000000: expected 0 to 1024"),
        (["--workers", -1], "--workers -1: expected 0 to 1024"),
        (["--seed", 2**70], f"--seed {2**70}: expected 0 to 4294967295"),
        (["--keep", 0], "--keep 0: expected 1 to 100000"),
        (["--lr", "nan"], "--lr nan: expected a positive number"),
        (["--lr", "inf"], "--lr inf: expected a positive number"),
        (["--mark", "t05"], "mark 't05': expected `t` and the number of votes K, for example t5"),
        (
            ["--mark", "../x", "--arch", "resnet18"],
            "mark '../x': expected `t` and the number of votes K, for example t5",
        ),
        (["--resume", "no.pth"], "snapshot no.pth: no such file"),
        (["--finetune", "no.pth"], "snapshot no.pth: no such file"),
        (["--data", "/no/where"], "--data /no/where: no such folder"),
        (["--lr=--"], "argument --lr: expected a value, not '--'"),
        (["--no_such_flag"], "unrecognized arguments: --no_such_flag"),
    ],
)
def test_flags_of_training(training, tree, flags, message):
    assert training(tree, *flags) == message


def test_a_state_to_resume_from_that_is_not_ours(training, trained, tree, tmp_path):
    checkpoint = torch.load(trained[1], weights_only=True)
    for training_state in (None, {}, {**checkpoint["training"], "optimizer": [1]}):
        torch.save({**checkpoint, "training": training_state}, tmp_path / "s.pth")
        message = training(tree, "--resume", tmp_path / "s.pth")
        assert message == f"snapshot {tmp_path / 's.pth'}: its optimizer state is not one of train.py's"


# --- explaining ----------------------------------------------------------------------------------------------------


def swap(old: str, new: str) -> Callable[[str], str]:
    return lambda text: text.replace(old, new, 1)


NO_COLUMNS = "tally {file}: no column unit, category, label, score; expected unit, category, label, score"
NOT_THE_MODELS = "tally {{file}}: it has {} units ({}), the model's are 1 to 512: it was made of another model or layer"


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda text: text.replace(",", ";"), NO_COLUMNS),
        (lambda text: text.replace(",", "\t"), NO_COLUMNS),
        (lambda text: "", NO_COLUMNS),
        (swap("score", "iou"), "tally {file}: no column score; expected unit, category, label, score"),
        (lambda text: text.splitlines()[0], NOT_THE_MODELS.format(0, "none")),
        (swap("\n1,", "\n0,"), NOT_THE_MODELS.format(512, "0 to 512")),
        (swap("\n512,", "\n513,"), NOT_THE_MODELS.format(512, "1 to 513")),
        (swap("\n7,", "\n8,"), "tally {file}: unit 8 has more than one row"),
        (swap("\n7,object,sky,0.1", "\n7,object,sky,nan"), "tally {file}, line 8: score 'nan', expected a number"),
        (swap("\n7,object,sky,0.1", "\n7,object,sky,inf"), "tally {file}, line 8: score 'inf', expected a number"),
        (swap("\n7,", "\n7.5,"), "tally {file}, line 8: unit '7.5', expected a whole number"),
        (lambda text: text[:-6], "tally {file}, line 513: fewer cells than the header"),
        (swap("sky", '"sky'), "tally {file}, line 513: fewer cells than the header"),
        (lambda text: text.encode("utf-16"), "tally {file}: unreadable ('utf-8' codec can't decode byte 0xff..."),
        (swap("sky", "s" * 200_000), "tally {file}: unreadable (field larger than field limit (131072))"),
    ],
    ids=[
        "semicolons",
        "tabs",
        "empty",
        "no score",
        "header only",
        "unit 0",
        "unit 513",
        "a unit twice",
        "nan",
        "infinite",
        "half a unit",
        "cut",
        "open quote",
        "UTF-16",
        "endless field",
    ],
)
def test_tallies(explaining, tmp_path, change, message):
    text = change(SHORT_TALLY)
    file = tmp_path / "changed.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert agrees(explaining(nd_result=file), message.format(file=file))
    assert not (tmp_path / "out").exists()


def test_tallies_of_other_programs_are_read(trained, tree, tmp_path):
    wide = [line + "".join(f",x{column}" for column in range(3000)) for line in SHORT_TALLY.splitlines()]
    for name, text in {
        "windows": "\ufeff" + SHORT_TALLY.replace("\n", "\r\n"),
        "wide": "\n".join(wide),
        "gaps": SHORT_TALLY.replace("\n", "\n\n"),
    }.items():
        (tmp_path / f"{name}.csv").write_bytes(text.encode())
        rows = read_tally(tmp_path / f"{name}.csv", 512)
        assert [(row.unit, row.label) for row in (rows[0], rows[-1])] == [(1, "sky"), (512, "sky")]


HEAD = "rfc.weight"
NO_STATE = "snapshot {file}: expected a dict with `state_dict`, or a state dict of tensors"
NO_K = "snapshot {file} does not say its K: name it, with --mark t5 (or TOPK in netdissect) for K = 5"


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
@pytest.mark.parametrize(
    "change, message",
    [
        (lambda state: {**state, HEAD: state[HEAD].to_sparse()}, NO_STATE),
        (lambda state: {**state, HEAD: state[HEAD].to("meta")}, NO_STATE),
        (lambda state: {**state, HEAD: state[HEAD] * 1j}, NO_STATE),
        (lambda state: dict(enumerate(state.values())), NO_STATE),
        (lambda state: {}, NO_STATE),
        (
            lambda state: {**state, "conv1.weight": state["conv1.weight"] / 0},
            "snapshot {file}: conv1.weight has values that are not finite",
        ),
        (lambda state: {**state, HEAD: torch.tensor(1.0)}, "snapshot {file}: rfc.weight has 0 dimensions, expected 2"),
        (
            lambda state: {**state, HEAD: state[HEAD][:2]},
            "snapshot {file}: num_classes 3, but its head has 2",
        ),
        (
            lambda state: {**state, "fc.bias": torch.ones(3)},
            "snapshot {file} does not fit the model: unexpected: fc.bias",
        ),
    ],
    ids=[
        "sparse",
        "meta",
        "complex",
        "numbers as names",
        "nothing",
        "infinite",
        "scalar head",
        "two classes of three",
        "two heads",
    ],
)
def test_weights_that_are_none(explaining, trained, tmp_path, change, message):
    checkpoint, file = torch.load(trained[1], weights_only=True), tmp_path / "s.pth"
    torch.save({**checkpoint, "state_dict": change(checkpoint["state_dict"])}, file)
    assert explaining(modelfile=file) == message.format(file=file)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"arch": ["resnet18"]}, "snapshot {file}: architecture ['resnet18'], expected one of resnet18, resnet34,..."),
        ({"arch": "resnet50"}, "snapshot {file} does not fit the model: missing: fc.weight, the head of resnet50"),
        ({"topk": True}, NO_K),
        ({"topk": "5"}, NO_K),
        ({"dataset": ["places365"]}, "snapshot {file}: dataset ['places365'], expected a name"),
        ({"classes": "abc"}, "snapshot {file}: classes, expected a list of 3 names"),
        ({"classes": [1, 2, 3]}, "snapshot {file}: classes, expected a list of 3 names"),
        ({"classes": ["beach", "tundra"]}, "snapshot {file}: classes, expected a list of 3 names"),
    ],
)
def test_metadata_of_another_kind(explaining, trained, tmp_path, change, message):
    file = tmp_path / "s.pth"
    torch.save({**torch.load(trained[1], weights_only=True), **change}, file)
    assert agrees(explaining(modelfile=file), message.format(file=file))


@pytest.mark.parametrize("topk", [-1, 0, 513, 10**30])
def test_k_out_of_range(explaining, trained, tmp_path, topk):
    torch.save({**torch.load(trained[1], weights_only=True), "topk": topk}, tmp_path / "s.pth")
    message = explaining(modelfile=tmp_path / "s.pth")
    assert message == f"K = {topk}: resnet18_fc_ma has 512 pooled features, expected 1 <= K <= 512"


@pytest.mark.parametrize(
    "kind, prefix", [(torch.bfloat16, "module."), (torch.float16, "_orig_mod."), (torch.float64, "_orig_mod.module.")]
)
def test_other_number_formats_and_wrappers_names_are_read(trained, tmp_path, kind, prefix):
    own = torch.load(trained[1], weights_only=True)["state_dict"]
    state = {prefix + key: value.to(kind) if value.is_floating_point() else value for key, value in own.items()}
    torch.save({"state_dict": state, "topk": 5}, tmp_path / "s.pth")
    model, about = load_snapshot(tmp_path / "s.pth")
    assert about["arch"] == "resnet18_fc_ma"
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, own[key].to(kind).to(value.dtype))


@pytest.mark.parametrize(
    "flags, message",
    [
        ({"images": "-1"}, "--images '-1': expected indices such as 10012,28993, or a count"),
        ({"images": ","}, "--images ',': expected indices such as 10012,28993, or a count"),
        ({"images": "0"}, "--images 0: expected a count from 1 to 6; a single index is written `0,`"),
        ({"topn": 292}, "--topn 292: expected 1 to 291"),
        ({"figure": "9"}, "--figure '9': expected places on the page, 0 to 1, such as 0,2,3"),
        (
            {"image": ""},
            f"--image : no image there ({TYPES})",
        ),
        ({"image": "no*.jpg"}, "--image no*.jpg: no image there (.jpg, .jpeg, .png,..."),
        ({"image": "no.jpg"}, "image no.jpg: no such file"),
        ({"workers": 10**6}, "--workers 1000000: expected 0 to 1024"),
        ({"modelfile": "."}, "snapshot .: a folder, expected a file"),
        ({"nd_result": "."}, "tally .: a folder, expected a file"),
        ({"output": __file__}, f"{__file__}: cannot be written (File exists)"),
        ({"explain": "why"}, "argument --explain: invalid choice: 'why' (choose from..."),
    ],
)
def test_flags_of_explaining(explaining, tmp_path, flags, message):
    if "image" in flags:
        flags = {**flags, "images": ""}
    assert agrees(explaining(**flags), message)
    assert not (tmp_path / "out").exists()


def test_data_that_is_missing_says_where_to_get_it(explaining, said, tmp_path):
    get_it = "places365_standard: download places365standard_easyformat.tar (21 GB) from http"
    assert get_it in explaining(dataset="places365", data=tmp_path)
    assert get_it in said(demo.cli, "--dataset", "places365", "--data", tmp_path / "no")
    assert get_it in said(train.main, "--dataset", "places365", "--data", tmp_path / "no")


# --- dissecting ----------------------------------------------------------------------------------------------------


NO_INDEX = "{root}/index.csv: no column {missing}; expected image, sh, sw, object, scene"
INDEX, CATEGORY, LABEL, OBJECT = (f"{{root}}/{name}.csv, line " for name in ("index", "category", "label", "c_object"))
MAP = "images/p0_object_0.png"
BAD_MAP = "{root}/images/p0_object_0.png: not a readable label map ("


def save_map(mode: str, size: tuple[int, int] = (32, 32), colour=0) -> Callable[[Path], None]:
    return lambda root: Image.new(mode, size, colour).save(root / MAP)


def in_file(name: str, old: str, new: str) -> Callable[[Path], None]:
    return lambda root: replaced(root / name, old, new)


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda root: (root / "index.csv").write_text(""),
            NO_INDEX.replace("{missing}", "image, sh, sw, object, scene"),
        ),
        (lambda root: cut(root / "index.csv", 32), NO_INDEX.replace("{missing}", "scene")),
        (lambda root: cut(root / "index.csv", 70), INDEX + "2: fewer cells than the header"),
        (lambda root: (root / "category.csv").write_text("name\n"), "{root}/category.csv: no categories in it"),
        (in_file("category.csv", "scene", "object"), CATEGORY + "3: category 'object' is there already"),
        (
            in_file("category.csv", "scene", "../x"),
            CATEGORY + "3: category '../x', expected letters, digits, spaces, - and _",
        ),
        (in_file("label.csv", "2,sea", "1,sea"), LABEL + "3: number 1 is 'sky' already"),
        (in_file("label.csv", "2,sea", "70000,sea"), LABEL + "3: number 70000, expected at most 65535 (R + 256 * G)"),
        (in_file("c_object.csv", "3.0", "nan"), OBJECT + "2: coverage 'nan', expected a number"),
        (in_file("c_object.csv", "2,sea", "9999,sea"), OBJECT + "3: label 9999 is not in {root}/label.csv"),
        (lambda root: (root / "c_scene.csv").unlink(), "{root}/c_scene.csv: no such file"),
        (in_file("index.csv", "64,64,32,32", "64,64,0,32"), INDEX + "2: sh 0, sw 32, expected 1 to 8192"),
        (in_file("index.csv", "64,64,32,32", f"64,64,{10**9},32"), INDEX + f"2: sh {10**9}, sw 32, expected 1 to 8192"),
        (in_file("index.csv", "p0.png", "../x.png"), INDEX + "2: '../x.png', expected a file in {root}/images"),
        (in_file("index.csv", "p0.png", "/etc/passwd"), INDEX + "2: '/etc/passwd', expected a file in {root}/images"),
        (lambda root: (root / "images/p0.png").unlink(), INDEX + "2: {root}/images/p0.png is missing"),
        (lambda root: cut(root / "images/p0.png", 300), "{root}/images/p0.png: not a readable image (..."),
        (lambda root: write_bomb(root / "images/p0.png"), "{root}/images/p0.png: not a readable image (Image size..."),
        (lambda root: cut(root / MAP, 100), BAD_MAP + "..."),
        (lambda root: (root / MAP).write_bytes(b""), BAD_MAP + "cannot identify..."),
        (lambda root: write_bomb(root / MAP), BAD_MAP + "Image size..."),
        (save_map("I;16"), "label map {root}/images/p0_object_0.png: mode I;16, expected RGB (label = R + 256 * G)"),
        (save_map("RGB", (31, 32)), "label map {root}/images/p0_object_0.png: 31 x 32 pixels, index says 32 x 32"),
        (
            save_map("RGB", colour=(9, 9, 9)),
            "label map {root}/images/p0_object_0.png: label 2313 is not in {root}/label.csv",
        ),
    ],
)
def test_broden_folders(dissecting, tmp_path, change, message):
    root = write_small_broden(tmp_path / "broden")
    change(root)
    assert agrees(dissecting(data_directory=root), message.format(root=root))
    assert not (tmp_path / "o" / "tally.csv").exists()


@pytest.mark.parametrize(
    "flags, message",
    [
        ({"topn": "1.5"}, "TOPN = 1.5: expected a whole number from 1 to 292"),
        ({"batch_size": "0"}, "BATCH_SIZE = 0: expected a whole number from 1 to 1048576"),
        ({"quantile": "nan"}, "QUANTILE = 'nan': expected a number between 0 and 1"),
        ({"score_threshold": "2"}, "SCORE_THRESHOLD = 2: expected a number from 0 to 1"),
        ({"workers": "-1"}, "WORKERS = -1: expected a whole number from 0 to 1024"),
        ({"categories": "5"}, "CATEGORIES = 5: expected None or a list of category names"),
        ({"categories": "[1, 2]"}, "CATEGORIES = [1, 2]: expected None or a list of category names"),
        ({"feature_names": "[[1]]"}, "FEATURE_NAMES = [[1]]: expected a list of layer names, or None"),
        ({"feature_names": "fc"}, "layer fc: its output is (1, 512), expected maps (B, units, h, w)"),
        ({"model": "5"}, "MODEL '5': expected one of resnet18, resnet34,..."),
        ({"model": ":"}, "MODEL ':': expected one of resnet18,..."),
        ({"model": "os:getcwd"}, "MODEL 'os:getcwd': it returned str, expected a torch.nn.Module"),
        ({"index_file": "None"}, "INDEX_FILE = None: expected the name of a file"),
        ({"output_folder": __file__}, f"{__file__}: cannot be written (File exists)"),
        ({"feature_names": "layer9"}, "layer 'layer9': the model has conv1, bn1, relu, maxpool, layer1,..."),
        ({"quantile_file": __file__}, f"quantile file {__file__}: not a readable .npy file of numbers (..."),
        ({"no_such_setting": "1"}, "unrecognized arguments: --no_such_setting 1"),
    ],
)
def test_settings_of_dissecting(dissecting, tmp_path, flags, message):
    if "model" in flags:
        flags = {**flags, "model_file": "none"}
    assert agrees(dissecting(**flags), message)
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("dataset", ["../../x", "a/b", "a\\b", "x\0y", "x" * 300, ""])
def test_names_that_no_folder_can_have(dissecting, trained, tree, tmp_path, dataset):
    torch.save({**torch.load(trained[1], weights_only=True), "dataset": dataset}, tmp_path / "s.pth")
    message = f"data set name {dataset!r}: expected the name of a folder, without a path"
    own = ["--modelfile", tmp_path / "s.pth", "--image", tree / IMAGE, "--output", tmp_path / "e"]
    assert run_demo(*own)["dataset"] == (dataset or "unknown")  # no folder is named after it
    if dataset:
        assert dissecting(dataset=repr(dataset), output_folder="None") == message
        assert dissecting(model_file=tmp_path / "s.pth", output_folder="None") == message


# --- disks ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 16 MB of its own, and functions that fill it but for some bytes, and make it read-only."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", disk]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no right to mount a file system")

    class Disk:
        path = disk

        @staticmethod
        def fill(but: int) -> None:
            (disk / "filling").unlink(missing_ok=True)
            (disk / "filling").write_bytes(bytes(shutil.disk_usage(disk).free - but))

        @staticmethod
        def protect() -> None:
            subprocess.run(["mount", "-o", "remount,ro", disk], check=True)

    yield Disk
    subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.parametrize(
    "free, file",
    [(0, "result/{run}/train.log"), (40_000, "result/{run}/curves.png"), (10_000_000, "snapshot/{run}/epoch_0.pth")],
)
def test_training_on_a_full_disk(training, tree, small_disk, monkeypatch, free, file):
    small_disk.fill(but=free)
    place = small_disk.path / file.format(run="pytorch_resnet18_fc_ma_t5_tiny_places")
    assert training(tree, workdir=small_disk.path) == f"{place}: cannot be written ({os.strerror(errno.ENOSPC)})"
    assert not list(small_disk.path.rglob("*.pth"))


def test_a_disk_that_fills_while_a_network_is_trained(training, tree, small_disk, monkeypatch):
    def train_then_fill(*arguments):
        line = train_and_validate(*arguments)
        small_disk.fill(but=0)
        return line

    train_and_validate = loop.train_and_validate
    monkeypatch.setattr(loop, "train_and_validate", train_then_fill)
    run_folder = small_disk.path / "result" / "pytorch_resnet18_fc_ma_t5_tiny_places"
    said = training(tree, workdir=small_disk.path)
    assert said.startswith(f"{run_folder}/train.") and said.endswith(f"cannot be written ({os.strerror(errno.ENOSPC)})")
    assert not list(small_disk.path.rglob("*.pth")) and not (run_folder / "train.jsonl").exists()


@pytest.mark.parametrize("free", [0, 40_000, 400_000])
def test_dissecting_and_explaining_on_a_full_disk(dissecting, explaining, small_disk, free):
    small_disk.fill(but=free)
    message = f": cannot be written ({os.strerror(errno.ENOSPC)})"
    for said in (dissecting(output_folder=small_disk.path / "o"), explaining(output=small_disk.path / "e", topn=50)):
        assert said.startswith(str(small_disk.path))
        assert said.endswith(message)
    assert not [path for path in small_disk.path.rglob(".*") if path.is_file() and path.name != ".lock"]  # nothing half


def test_disks_that_cannot_be_written(training, dissecting, explaining, tree, small_disk, monkeypatch):
    small_disk.protect()
    message = f": cannot be written ({os.strerror(errno.EROFS)})"
    said = training(tree, workdir=small_disk.path / "w")
    assert said == f"{small_disk.path / 'w/result/pytorch_resnet18_fc_ma_t5_tiny_places'}{message}"
    assert dissecting(output_folder=small_disk.path / "o") == f"{small_disk.path / 'o'}{message}"
    assert explaining(output=small_disk.path / "e") == f"{small_disk.path / 'e'}{message}"


@pytest.fixture
def without_rights():
    """Takes from root, as whom tests may run, the right to read and write what permissions forbid."""
    if not hasattr(os, "geteuid"):
        pytest.skip("no POSIX permissions")
    if os.geteuid():
        yield
        return
    libc = ctypes.CDLL(None)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this thread
    rights, fewer = (ctypes.c_uint32 * 6)(), (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; twice
    if libc.capget(header, rights) or libc.capget(header, fewer):
        pytest.skip("no Linux capabilities")
    fewer[0] &= ~0b110  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
    assert libc.capset(header, fewer) == 0
    yield
    assert libc.capset(header, rights) == 0


DENIED = os.strerror(errno.EACCES)


@pytest.mark.parametrize(
    "forbidden, message",
    [
        (IMAGE, "{place}: not a readable image ([Errno 13] Permission denied: ..."),
        ("train", "{tree}/train: unreadable (Permission denied)"),
        ("val", "{tree}/val: unreadable (Permission denied)"),
        ("train/tundra", "{tree}/train/tundra: unreadable (Permission denied)"),
        ("val/tundra", "{tree}/val/tundra: unreadable (Permission denied)"),
        ("", "{tree}/train: Permission denied"),
    ],
)
def test_trees_that_may_not_be_read(training, tmp_path, without_rights, forbidden, message):
    tree = write_tree(tmp_path / "tree")
    place = tree / forbidden
    place.chmod(0)
    said = training(tree)
    place.chmod(0o700)
    assert agrees(said, message.format(tree=tree, place=place))


def test_files_that_may_not_be_read(explaining, dissecting, trained, broden, tree, tmp_path, without_rights):
    own = tmp_path / "broden"
    shutil.copytree(broden, own)
    for source, name in ((trained[1], "s.pth"), (tmp_path / "tally.csv", "t.csv"), (tree / IMAGE, "p.jpg")):
        shutil.copy(source, tmp_path / name)
    np.save(tmp_path / "quantile.npy", np.zeros(512))
    for file, say, flags in [
        ("s.pth", explaining, {"modelfile": tmp_path / "s.pth"}),
        ("t.csv", explaining, {"nd_result": tmp_path / "t.csv"}),
        ("p.jpg", explaining, {"image": tmp_path / "p.jpg", "images": ""}),
        ("s.pth", dissecting, {"model_file": tmp_path / "s.pth"}),
        ("quantile.npy", dissecting, {"quantile_file": tmp_path / "quantile.npy"}),
        *(
            (f"broden/{name}", dissecting, {"data_directory": own})
            for name in ("index.csv", "label.csv", "images/p0.png", MAP, "images")
        ),
    ]:
        place = tmp_path / file
        place.chmod(0)
        said = say(**flags)
        place.chmod(0o700)
        assert str(place) in said
        assert DENIED in said or "is missing" in said, said
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "o" / "tally.csv").exists()


def test_folders_that_may_not_be_written(training, explaining, dissecting, tree, tmp_path, without_rights, monkeypatch):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    message = f": cannot be written ({DENIED})"
    assert training(tree, workdir=closed) == f"{closed / 'result/pytorch_resnet18_fc_ma_t5_tiny_places'}{message}"
    assert explaining(output=closed / "e") == f"{closed / 'e'}{message}"
    assert dissecting(output_folder=closed / "o") == f"{closed / 'o'}{message}"
    assert not list(closed.iterdir())


def test_two_explanations_in_one_folder(explaining, tmp_path):
    with lock_folder(tmp_path / "out", name=demo.LOCK):
        assert explaining() == f"{tmp_path / 'out'}: another run is writing to it; wait, or name another folder"


# --- Ctrl-C --------------------------------------------------------------------------------------------------------


STAGES = [
    ("train", "training.loop.find_dataset"),
    ("train", "training.loop.evaluate_features"),
    ("train", "training.runs.save_snapshot"),
    ("dissection", "netdissect.main.load_model"),
    ("dissection", "netdissect.dissect.count"),
    ("dissection", "netdissect.main.write_report"),
    ("demo", "explain.network.load_snapshot"),
    ("demo", "explain.images.explain_images"),
    ("demo", "explain.population.evaluate_features"),
    ("demo", "report.explanations.write_pages"),
]


@pytest.mark.parametrize("script, stage", STAGES)
def test_ctrl_c_in_each_stage(script, stage, trained, tree, broden, tmp_path, monkeypatch, capsys):
    (tmp_path / "tally.csv").write_text(SHORT_TALLY)
    workspace = tmp_path / "workspace"
    shutil.copytree(trained[0] / "snapshot", workspace / "snapshot")
    earlier = workspace / trained[1].relative_to(trained[0])
    before = earlier.read_bytes()
    flags = {
        "train": ["--dataset", tree, "--epochs", 3, "--batch_size", 4, "--workers", 0, "--device", "cpu"],
        "dissection": [
            "--model_file",
            trained[1],
            "--data_directory",
            broden,
            "--output_folder",
            tmp_path / "o",
            "--gpu",
            "False",
            "--workers",
            0,
        ],
        "demo": [
            "--modelfile",
            trained[1],
            "--nd_result",
            tmp_path / "tally.csv",
            "--dataset",
            tree,
            "--output",
            tmp_path / "e",
            "--workers",
            0,
            "--device",
            "cpu",
        ],
    }[script]
    entries = {"train": lambda: train.main(workspace), "demo": demo.cli, "dissection": dissection.cli}
    monkeypatch.setattr(stage, lambda *_, **__: signal.raise_signal(signal.SIGINT))
    monkeypatch.setattr(sys, "argv", [script, *map(str, flags)])
    before_that = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    with pytest.raises(SystemExit) as ended:
        run(entries[script], script)
    signal.signal(signal.SIGINT, before_that)
    assert ended.value.code == 130
    assert capsys.readouterr().err.splitlines()[-1] == f"{script}: interrupted"
    assert earlier.read_bytes() == before
    assert not (tmp_path / "o" / "html").exists()
    assert not (tmp_path / "e" / "explain.html").exists()


INTERRUPTED = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
sys.path.insert(0, {root!r})
import torch
{imports}
from util.cli import run
forward = torch.nn.Module.__call__
def interrupted(self, *given, **named):
    if type(self).__name__ == "DynamicKResNet":
        os.killpg(0, signal.SIGINT)  # as a terminal does: all processes of the run
    return forward(self, *given, **named)
torch.nn.Module.__call__ = interrupted
sys.argv = ["script", *{flags!r}]
run(entry, "script")
"""


TRAINING = """
import train
from pathlib import Path
entry = lambda: train.main(Path({tmp!r}))
"""
DISSECTION = "from netdissect.main import cli as entry"
TRAIN_FLAGS = ["--dataset", "{tree}", "--batch_size", "2", "--workers", "2", "--device", "cpu"]
DISSECT_FLAGS = ["--model_file", "{model}", "--data_directory", "{broden}", "--output_folder", "{tmp}"]
DISSECT_FLAGS += ["--batch_size", "2", "--workers", "2"]


@pytest.mark.parametrize(
    "imports, flags", [(TRAINING, TRAIN_FLAGS), (DISSECTION, DISSECT_FLAGS)], ids=["train", "dissect"]
)
def test_ctrl_c_leaves_no_process_behind(imports, flags, trained, tree, broden, tmp_path):
    names = {"tree": str(tree), "model": str(trained[1]), "broden": str(broden), "tmp": str(tmp_path)}
    program = INTERRUPTED.format(
        root=str(ROOT), imports=imports.format(**names), flags=[flag.format(**names) for flag in flags]
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    _, error = process.communicate(timeout=120)
    assert (process.returncode, error.splitlines()[-1]) == (130, "script: interrupted"), error
    assert "Traceback" not in error
    until = time.monotonic() + 10
    while session := processes_of_session(process.pid):
        assert time.monotonic() < until, session
        time.sleep(0.1)


@pytest.mark.parametrize(
    "text, number", [("7", 7), (" 7\r\n", 7), ("0\x1f", None), ("7 7", None), ("-7", None), ("", None)]
)
def test_whole_numbers_in_files(text, number):
    assert parse_int(text) == number


def processes_of_session(leader: int) -> list[str]:
    """Command lines of what still runs in the session of a process that has ended."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, session, *_ = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            if int(session) == leader and state != "Z":
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:  # it ended meanwhile
            continue
    return found
