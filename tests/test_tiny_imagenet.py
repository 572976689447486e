"""Tiny-ImageNet as published, in small: its classes and images, training on it, and what is wrong with one."""

import json
import os

import numpy as np
import pytest
import torch
from conftest import run_train
from PIL import Image

from loader.datasets import class_names, find_dataset, spec_of
from models import load_snapshot
from util.cli import UserError

WNIDS = {"n03000003": "crane, lifting machine", "n01000001": "crane, bird", "n02000002": "Égyptian cat"}
NAMES = ["crane (n01000001)", "Égyptian cat", "crane (n03000003)"]  # in the order of the sorted numbers


def write_tiny_imagenet(root, per_class=(4, 2), size=64):
    """A tree of the published layout; the files of val are in no order of classes."""
    generator = np.random.default_rng(0)
    (root / "val" / "images").mkdir(parents=True)
    (root / "wnids.txt").write_text("\n".join(WNIDS))  # without a newline at the end, as published
    words = {"n00001740": "entity", **WNIDS}
    (root / "words.txt").write_text("".join(f"{n}\t{text}\n" for n, text in words.items()), encoding="utf-8")

    def image(number):
        pixels = generator.integers(0, 120, (size, size, 3), np.uint8)
        pixels[..., number] += 120
        return Image.fromarray(pixels)

    for number, wnid in enumerate(sorted(WNIDS)):
        folder = root / "train" / wnid / "images"
        folder.mkdir(parents=True)
        (folder.parent / f"{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t0\t9\t9\n")
        for index in range(per_class[0]):
            image(number).save(folder / f"{wnid}_{index}.JPEG")
    lines = []
    for index in range(per_class[1] * len(WNIDS)):
        number = index % len(WNIDS)
        image(number).save(root / "val" / "images" / f"val_{index}.JPEG")
        lines.append(f"val_{index}.JPEG\t{sorted(WNIDS)[number]}\t0\t0\t9\t9\n")
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    return root


@pytest.fixture
def data(tmp_path):
    write_tiny_imagenet(tmp_path / "tiny-imagenet-200")
    return tmp_path


def test_classes_and_images_are_those_of_the_published_layout(data, capsys):
    source = find_dataset("tiny_imagenet", str(data))
    assert (source.name, source.classes, source.categories) == ("tiny_imagenet", NAMES, sorted(WNIDS))
    assert "3 classes, tiny_imagenet has 200: using those 3" in capsys.readouterr().err
    assert (source.spec.size, source.spec.resize) == (64, 64)
    train, val = source.dataset("train"), source.dataset("val")
    assert train.targets == [0] * 4 + [1] * 4 + [2] * 4
    assert [os.path.basename(val.file(index)) for index in range(6)] == [f"val_{i}.JPEG" for i in (0, 3, 1, 4, 2, 5)]
    assert val.targets == [0, 0, 1, 1, 2, 2]
    for images in (train, val):  # each class has its own colour
        assert all(
            np.asarray(image).mean((0, 1)).argmax() == target for image, target in map(images.__getitem__, range(6))
        )


def test_its_own_folder_may_be_named(data):
    own = str(data / "tiny-imagenet-200")
    assert find_dataset("tiny_imagenet", own).spec == spec_of("tiny_imagenet")
    by_path = find_dataset(own)
    assert (by_path.name, by_path.classes, len(by_path.dataset("val"))) == ("tiny-imagenet-200", NAMES, 6)
    with pytest.raises(UserError, match=r"data set tiny_imagenet is not in .*: get tiny-imagenet-200.zip"):
        find_dataset("tiny_imagenet", str(data / "tiny-imagenet-200" / "val"))
    with pytest.raises(UserError, match=r"its class names are in its files, tiny-imagenet-200/words.txt"):
        class_names("tiny_imagenet")


def test_it_is_trained_on_at_the_size_that_is_asked_for(data):
    metrics = run_train(data, "--dataset", "tiny_imagenet", "--data", data, "--epochs", 1, "--size", 48)
    content = torch.load(metrics["snapshot"])
    assert (content["size"], content["training"]["plan"]["size"], content["training"]["plan"]["resize"]) == (48, 48, 48)
    about = load_snapshot(metrics["snapshot"])[1]
    assert (about["size"], about["classes"], about["dataset"]) == (48, NAMES, "tiny_imagenet")
    line = json.loads((data / "result/pytorch_resnet18_fc_ma_t5_tiny_imagenet/train.jsonl").read_text())
    assert metrics["count"] == 6 and line["epoch"] == 0


def test_behind_frozen_layers_it_has_a_schedule_of_its_own(data):
    spec = find_dataset("tiny_imagenet", str(data)).behind_frozen().spec
    assert (spec.size, spec.resize, spec.training.epochs, spec.training.batch_size) == (128, 128, 8, 128)
    assert spec_of("places365").behind_frozen() == spec_of("places365")
    metrics = run_train(data, "--dataset", "tiny_imagenet", "--data", data, "--epochs", 1, "--freeze", "trunk")
    assert torch.load(metrics["snapshot"])["training"]["plan"]["size"] == 128
    assert load_snapshot(metrics["snapshot"])[1]["size"] == 128


def test_other_sizes_crop_the_same_share(data, tree):
    source = find_dataset(str(tree))
    assert (source.at_size(112).spec.size, source.at_size(112).spec.resize) == (112, 128)
    assert source.at_size(None) is source
    with pytest.raises(UserError, match="--size 8: expected 16 to 4096"):
        run_train(data, "--dataset", "tiny_imagenet", "--data", data, "--size", 8)


def rewrite(name, change):
    def apply(root):
        file = root / name
        file.write_text(change(file.read_text(encoding="utf-8")), encoding="utf-8")

    return apply


def unlinked(name):
    return lambda root: (root / name).unlink()


def linked(name, target):
    def apply(root):
        (root / name).unlink(missing_ok=True)
        (root / name).symlink_to(root / target)

    return apply


def emptied_train(root):
    for file in (root / "train/n01000001/images").iterdir():
        file.rename(root / "train/n02000002/images" / file.name)
    (root / "train/n01000001/images").rmdir()
    (root / "train/n01000001/n01000001_boxes.txt").unlink()
    (root / "train/n01000001").rmdir()


VAL = "val/images/val_0.JPEG"
WRONG = {
    "no words": (unlinked("words.txt"), "words.txt: no such file"),
    "a class without a word": (rewrite("words.txt", lambda t: t.replace("n02", "n05")), "no name for n02000002"),
    "an empty word": (rewrite("words.txt", lambda t: t.replace("crane, bird", " , bird")), "no name for n01000001"),
    "two words": (rewrite("words.txt", lambda t: t + "n01000001\tstork\n"), "line 5: another name for n01000001"),
    "words in Latin-1": (
        lambda root: (root / "words.txt").write_bytes("n1\tÉgyptian".encode("latin-1")),
        "not a text in UTF-8 (byte 3)",
    ),
    "no class": (rewrite("wnids.txt", lambda _: "\n"), "wnids.txt: empty, expected lines of a WordNet number"),
    "a class twice": (rewrite("wnids.txt", lambda t: t + "\nn01000001"), "line 4: n01000001 is there twice"),
    "not a number": (rewrite("wnids.txt", lambda t: "../x\n" + t), "line 1: '../x', expected a WordNet number"),
    "a class without a folder": (rewrite("wnids.txt", lambda t: t + "\nn09999999"), "train/n09999999: no such folder"),
    "a folder without a class": (
        lambda root: (root / "train/n09999999").mkdir(),
        "train/n09999999: not in wnids.txt",
    ),
    "a class without its folder": (emptied_train, "train/n01000001: no such folder, but wnids.txt has the class"),
    "an absent image": (unlinked(VAL), "val_annotations.txt: image 'val_0.JPEG' is not in"),
    "an image that is not listed": (
        rewrite("val/val_annotations.txt", lambda t: t.split("\n", 1)[1]),
        "val/images/val_0.JPEG: not in",
    ),
    "an image twice": (
        rewrite("val/val_annotations.txt", lambda t: t + t.split("\n")[0]),
        "line 7: val_0.JPEG is there twice",
    ),
    "an unknown class": (
        rewrite("val/val_annotations.txt", lambda t: t.replace("n02000002", "n05")),
        "line 2: class 'n05' is not among the 3 of wnids.txt",
    ),
    "a path": (
        rewrite("val/val_annotations.txt", lambda t: t.replace("val_0", "../val_0")),
        "expected a file's name, a tab and a class",
    ),
    "one column": (
        rewrite("val/val_annotations.txt", lambda t: "val_0.JPEG\n" + t),
        "line 1: 'val_0.JPEG', expected a file's name",
    ),
    "no table": (unlinked("val/val_annotations.txt"), "is not in"),
    "a link to a training image": (linked(VAL, "train/n01000001/images/n01000001_0.JPEG"), "a link into"),
    "a link to another image": (linked(VAL, "val/images/val_1.JPEG"), "is the same file as another line's"),
    "a link to nothing": (linked(VAL, "nowhere.JPEG"), "no such file"),
    "a folder": (lambda root: (root / VAL).unlink() or (root / VAL).mkdir(), "is not in"),
    "a pipe": (lambda root: (root / VAL).unlink() or os.mkfifo(root / VAL), "not a regular file"),
    "a table that is a pipe": (
        lambda root: (root / "words.txt").unlink() or os.mkfifo(root / "words.txt"),
        "words.txt: not a regular file",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_with_one_is_said_in_a_line(data, case):
    change, message = WRONG[case]
    change(data / "tiny-imagenet-200")
    with pytest.raises(UserError) as error:
        source = find_dataset("tiny_imagenet", str(data))
        source.dataset("train"), source.dataset("val")
    assert message in str(error.value) and "\n" not in str(error.value)
