"""Data sets: where they are found, how they are numbered, and what happens when they are not there."""

import gzip
import struct
import subprocess
import sys
from itertools import chain

import numpy as np
import pytest
import torch
from conftest import CATEGORIES, ROOT, write_tree
from PIL import Image

import settings
from errors import UserError
from loader.places365 import (
    class_names,
    epoch_loader,
    explain_transform,
    find_dataset,
    make_loader,
    read_image,
    steps_per_epoch,
    train_transform,
    val_transform,
)

SPEC = settings.DATASETS.places365


def test_places365_names_are_in_the_order_of_the_folders():
    names = class_names("places365")
    assert len(names) == len(set(names)) == 365
    assert names == sorted(names)
    assert (names[0], names[8], names[-1]) == ("airfield", "apartment_building-outdoor", "zen_garden")
    assert len(class_names("imagenet")) == 1000
    assert class_names("fashion_mnist")[9] == "Ankle boot"
    assert len(class_names("mini_places")) == settings.DATASETS.mini_places.num_classes
    assert set(class_names("mini_places")) <= set(names)


def test_transforms():
    picture = Image.fromarray(np.full((300, 500, 3), 124, np.uint8))
    for transform in (train_transform(SPEC), val_transform(SPEC), explain_transform(SPEC)):
        tensor = transform(picture)
        assert (tensor.shape, tensor.dtype) == ((3, 224, 224), torch.float32)
        expected = (124 / 255 - torch.tensor(SPEC.get("mean", settings.MEAN))) / torch.tensor(settings.STD)
        torch.testing.assert_close(tensor.mean((1, 2)), expected, atol=1e-4, rtol=0)


def test_validation_crops_the_centre_and_explanation_does_not():
    pixels = np.zeros((256, 512, 3), np.uint8)
    pixels[:, :100] = 255  # a white edge
    picture = Image.fromarray(pixels)
    assert val_transform(SPEC)(picture).amax() < 0
    assert explain_transform(SPEC)(picture).amax() > 2


def test_a_tree_by_its_path(tree):
    source = find_dataset(str(tree))
    assert (source.name, source.classes) == ("tiny_places", sorted(CATEGORIES))
    val = source.dataset("val", val_transform(source.spec))
    assert (len(source.dataset("train")), len(val)) == (12, 6)
    assert val.targets == [0, 0, 1, 1, 2, 2]
    assert val.picture(1).mode == "RGB"  # a grey file
    images, classes = next(iter(make_loader(val, 4, 0, torch.device("cpu"))))
    assert (images.shape, classes.tolist()) == ((4, 3, 224, 224), [0, 0, 1, 1])


def test_places365_is_the_default_where_it_is(tmp_path, capsys):
    write_tree(tmp_path / "places365_standard")
    source = find_dataset(data=str(tmp_path))
    assert (source.name, len(source.classes)) == ("places365", 3)
    assert "has 3 category folders, places365 has 365" in capsys.readouterr().err
    assert find_dataset("places365", str(tmp_path / "places365_standard")).name == "places365"
    assert find_dataset(data=str(tmp_path / "places365_standard")).name == "places365_standard"


def test_mini_places_is_the_default_elsewhere(tmp_path, capsys, monkeypatch):
    write_tree(tmp_path / "mini_places")
    monkeypatch.setattr("loader.places365.ensure_mini_places", lambda home: (home / "mini_places", None))
    assert find_dataset(data=str(tmp_path)).name == "mini_places"
    assert "using the embedded data set mini_places" in capsys.readouterr().err


def test_order_and_crops_follow_from_seed_and_epoch_alone(tree):
    train = find_dataset(str(tree)).dataset("train", train_transform(settings.DATASETS.fashion_mnist))

    def batches(workers, seed=5, epoch=2, start=0):
        return list(epoch_loader(train, 5, workers, torch.device("cpu"), seed, epoch, start))

    whole = batches(workers=0)
    assert [len(images) for images, _ in whole] == [5, 5, 2] and steps_per_epoch(train, 5) == 3
    assert torch.cat([classes for _, classes in whole]).bincount().tolist() == [4, 4, 4]
    for again, expected in ((batches(0), whole), (batches(2), whole), (batches(0, start=1), whole[1:])):
        assert all(map(torch.equal, chain(*again), chain(*expected)))
    for other in (batches(0, seed=6), batches(0, epoch=3)):
        assert not torch.equal(other[0][0], whole[0][0])


def test_processes_that_read_pictures_ignore_sigterm_and_end_with_their_parent(tree):
    program = f"""
import multiprocessing, os, signal, sys
sys.path.insert(0, {str(ROOT)!r})
import torch
from loader.places365 import find_dataset, make_loader, val_transform
source = find_dataset({str(tree)!r})
batches = iter(make_loader(source.dataset("train", val_transform(source.spec)), 1, 2, torch.device("cpu")))
next(batches), next(batches)
for worker in multiprocessing.active_children():
    os.kill(worker.pid, signal.SIGTERM)
print(1 + sum(1 for _, batch in zip(range(3), batches)), "more")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "4 more\n"), done.stderr


@pytest.mark.parametrize("dataset, message", [
    ("places365", r"places365_standard: download places365standard_easyformat\.tar .* and unpack or link it there"),
    ("imagenet", r"get ILSVRC2012"),
    ("nowhere", r"data set 'nowhere': expected places365, imagenet, mini_places, fashion_mnist or a folder"),
])  # fmt: skip
def test_missing_data_says_what_to_do(tmp_path, dataset, message):
    with pytest.raises(UserError, match=message):
        find_dataset(dataset, str(tmp_path))


def test_a_data_set_is_named_by_the_link_to_it(tree, tmp_path):
    (tmp_path / "rooms").symlink_to(tree)
    assert find_dataset(str(tmp_path / "rooms")).name == "rooms"
    (tmp_path / "fashion_mnist").symlink_to(tree)  # of pictures, not the idx files
    assert len(find_dataset(str(tmp_path / "fashion_mnist")).dataset("val")) == 6


def test_missing_fashion_mnist(tmp_path, monkeypatch):
    monkeypatch.setattr(settings, "FASHION_MNIST_SYSTEM", str(tmp_path))
    with pytest.raises(UserError, match=r"four idx files \(plain or \.gz\)"):
        find_dataset("fashion_mnist", str(tmp_path))


def test_folders_that_are_no_trees(tmp_path, tree):
    with pytest.raises(UserError, match="expected a folder with train/ and val/"):
        find_dataset(str(tmp_path))
    with pytest.raises(UserError, match="no such folder"):
        find_dataset(data=str(tmp_path / "no"))
    (tmp_path / "train").mkdir()
    (tmp_path / "val").mkdir()
    with pytest.raises(UserError, match="no category folders"):
        find_dataset(str(tmp_path))
    (tmp_path / "train" / "beach").mkdir()
    with pytest.raises(UserError, match="no pictures"):
        find_dataset(str(tmp_path)).dataset("train")
    (tmp_path / "val" / "bech").mkdir()
    with pytest.raises(UserError, match="category folder 'bech' is not among the 1 of train/"):
        find_dataset(str(tmp_path)).dataset("val")


def test_fashion_mnist_from_packed_files(tmp_path):
    folder = tmp_path / "fashion_mnist"
    folder.mkdir()
    for part, count in (("train", 6), ("t10k", 2)):
        pixels = np.arange(count * 784, dtype=np.uint8).tobytes()
        with gzip.open(folder / f"{part}-images-idx3-ubyte.gz", "wb") as file:
            file.write(struct.pack(">4i", 0x803, count, 28, 28) + pixels)
        with gzip.open(folder / f"{part}-labels-idx1-ubyte.gz", "wb") as file:
            file.write(struct.pack(">2i", 0x801, count) + bytes(range(count)))
    source = find_dataset("fashion_mnist", str(tmp_path))
    val = source.dataset("val", val_transform(source.spec))
    assert (len(val), len(source.dataset("train")), val.picture(0).mode) == (2, 6, "RGB")
    image, target = val[1]
    assert (image.shape, target) == ((3, 64, 64), 1)


def test_a_faulty_picture_is_named_also_from_a_worker(tmp_path):
    write_tree(tmp_path / "t", per_class=(2, 2))
    broken = tmp_path / "t" / "val" / "beach" / "00000001.jpg"
    broken.write_bytes(broken.read_bytes()[:400])
    source = find_dataset(str(tmp_path / "t"))
    loader = make_loader(source.dataset("val", val_transform(source.spec)), 2, 1, torch.device("cpu"))
    with pytest.raises(UserError) as error:
        list(loader)
    assert str(error.value).startswith(f"{broken}: not a readable picture")
    assert "\n" not in str(error.value)


def test_huge_jpegs_are_decoded_as_far_as_needed(tmp_path):
    Image.linear_gradient("L").resize((900, 700)).save(tmp_path / "big.jpg")
    assert read_image(tmp_path / "big.jpg").size == (900, 700)
    assert read_image(tmp_path / "big.jpg", enough=400).size == (900, 700)
    small = read_image(tmp_path / "big.jpg", enough=170)
    assert (small.size, small.mode) == ((225, 175), "RGB")
    whole = read_image(tmp_path / "big.jpg").resize(small.size)
    assert np.abs(np.asarray(small, int) - np.asarray(whole, int)).mean() < 3


def test_pictures_of_any_mode(tmp_path):
    grey16 = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(grey16).save(tmp_path / "sixteen.png")
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg")
    Image.new("RGBA", (8, 8), (0, 0, 255, 0)).save(tmp_path / "clear.png")
    Image.new("P", (8, 8)).save(tmp_path / "palette.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("RGB", (20, 10)).save(tmp_path / "turned.jpg", exif=exif)
    sixteen = np.asarray(read_image(tmp_path / "sixteen.png"))
    assert sixteen.shape == (8, 8, 3)
    assert (sixteen[0, 0, 0], sixteen[-1, -1, 0]) == (0, 255)
    assert abs(int(sixteen[4, 0, 0]) - 130) < 3
    red = np.asarray(read_image(tmp_path / "cmyk.jpg"))[4, 4]
    assert red[0] > 200 > 60 > red[1]
    assert np.asarray(read_image(tmp_path / "clear.png")).min() == 255
    assert read_image(tmp_path / "palette.png").mode == "RGB"
    assert read_image(tmp_path / "turned.jpg").size == (20, 10)
    assert read_image(tmp_path / "turned.jpg", upright=True).size == (10, 20)
