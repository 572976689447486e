"""Data sets: where they are found, how they are numbered, and what happens when they are not there."""

import gzip
import struct
import subprocess
import sys
import traceback
from itertools import chain

import numpy as np
import pytest
import torch
from conftest import CATEGORIES, ROOT, run_demo, run_train, write_tree
from PIL import Image

import settings
from loader import datasets
from loader.batches import LoaderOptions, epoch_loader, make_loader, steps_per_epoch
from loader.datasets import DataSpec, Schedule, class_names, dataset_names, find_dataset, register, spec_of
from loader.images import explain_transform, read_image, train_transform, val_transform
from models import load_snapshot
from training import TrainConfig, runs, train_and_evaluate
from util.cli import UserError

SPEC = spec_of("places365")


def test_places365_names_are_in_the_order_of_the_folders():
    names = class_names("places365")
    assert len(names) == len(set(names)) == 365
    assert names == sorted(names)
    assert (names[0], names[8], names[-1]) == ("airfield", "apartment_building-outdoor", "zen_garden")
    assert len(class_names("imagenet")) == 1000
    assert class_names("fashion_mnist")[9] == "Ankle boot"
    assert len(class_names("mini_places")) == spec_of("mini_places").num_classes
    assert set(class_names("mini_places")) <= set(names)


def test_transforms():
    image = Image.fromarray(np.full((300, 500, 3), 124, np.uint8))
    for transform in (train_transform(SPEC), val_transform(SPEC), explain_transform(SPEC)):
        tensor = transform(image)
        assert (tensor.shape, tensor.dtype) == ((3, 224, 224), torch.float32)
        expected = (124 / 255 - torch.tensor(settings.MEAN)) / torch.tensor(settings.STD)
        torch.testing.assert_close(tensor.mean((1, 2)), expected, atol=1e-4, rtol=0)


def test_validation_crops_the_centre_and_explanations_do_not():
    pixels = np.zeros((256, 512, 3), np.uint8)
    pixels[:, :100] = 255  # a white edge
    image = Image.fromarray(pixels)
    assert val_transform(SPEC)(image).amax() < 0
    assert explain_transform(SPEC)(image).amax() > 2


def test_a_tree_by_its_path(tree):
    source = find_dataset(str(tree))
    assert (source.name, source.classes) == ("tiny_places", sorted(CATEGORIES))
    val = source.dataset("val", val_transform(source.spec))
    assert (len(source.dataset("train")), len(val)) == (12, 6)
    assert val.targets == [0, 0, 1, 1, 2, 2]
    assert val.image(1).mode == "RGB"  # a grey file
    images, classes = next(iter(make_loader(val, 4, 0, torch.device("cpu"))))
    assert (images.shape, classes.tolist()) == ((4, 3, 224, 224), [0, 0, 1, 1])


def test_places365_is_the_default_if_it_is_there(tmp_path, capsys):
    write_tree(tmp_path / "places365_standard")
    source = find_dataset(data=str(tmp_path))
    assert (source.name, len(source.classes)) == ("places365", 3)
    assert "has 3 category folders, places365 has 365" in capsys.readouterr().err
    assert find_dataset("places365", str(tmp_path / "places365_standard")).name == "places365"
    assert find_dataset(data=str(tmp_path / "places365_standard")).name == "places365_standard"


def test_mini_places_is_the_default_otherwise(tmp_path, capsys, monkeypatch):
    write_tree(tmp_path / "mini_places")
    monkeypatch.setattr("loader.datasets.ensure_mini_places", lambda home: (home / "mini_places", None))
    assert find_dataset(data=str(tmp_path)).name == "mini_places"
    assert "using the embedded data set mini_places" in capsys.readouterr().err


def test_order_and_crops_depend_on_seed_and_epoch_only(tree):
    train = find_dataset(str(tree)).dataset("train", train_transform(spec_of("fashion_mnist")))

    def batches(workers, seed=5, epoch=2, start=0):
        options = LoaderOptions(batch_size=5, workers=workers, device=torch.device("cpu"))
        return list(epoch_loader(train, options, seed, epoch, start))

    whole = batches(workers=0)
    assert [len(images) for images, _ in whole] == [5, 5, 2] and steps_per_epoch(len(train), 5) == 3
    assert torch.cat([classes for _, classes in whole]).bincount().tolist() == [4, 4, 4]
    for again, expected in ((batches(0), whole), (batches(2), whole), (batches(0, start=1), whole[1:])):
        assert all(map(torch.equal, chain(*again), chain(*expected)))
    for other in (batches(0, seed=6), batches(0, epoch=3)):
        assert not torch.equal(other[0][0], whole[0][0])


def test_loader_workers_ignore_sigterm_and_end_with_their_parent(tree):
    program = f"""
import multiprocessing, os, signal, sys
sys.path.insert(0, {str(ROOT)!r})
import torch
from loader.datasets import find_dataset
from loader.batches import make_loader
from loader.images import val_transform
source = find_dataset({str(tree)!r})
batches = iter(make_loader(source.dataset("train", val_transform(source.spec)), 1, 2, torch.device("cpu")))
next(batches), next(batches)
for worker in multiprocessing.active_children():
    os.kill(worker.pid, signal.SIGTERM)
print(1 + sum(1 for _, batch in zip(range(3), batches)), "more")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "4 more\n"), done.stderr


MISSING = [
    ("places365", r"places365_standard: download places365standard_easyformat\.tar .* and unpack or link it there"),
    ("imagenet", r"get ILSVRC2012"),
    (
        "nowhere",
        r"data set 'nowhere': expected places365, imagenet, mini_places, fashion_mnist, tiny_imagenet or a folder",
    ),
]


@pytest.mark.parametrize("dataset, message", MISSING)
def test_a_missing_data_set_says_where_to_get_it(tmp_path, dataset, message):
    with pytest.raises(UserError, match=message):
        find_dataset(dataset, str(tmp_path))


@pytest.fixture
def toy():
    """A data set of small images, registered for one test."""
    schedule = Schedule(epochs=1, batch_size=4)
    yield register(DataSpec(name="toy", folder="toy_images", size=32, resize=32, training=schedule))
    del datasets._SPECS["toy"]


def test_a_registered_data_set_is_found_and_read(toy, tmp_path):
    write_tree(tmp_path / "toy_images")
    source = find_dataset("toy", str(tmp_path))
    assert (source.name, source.folder, source.classes) == ("toy", tmp_path / "toy_images", sorted(CATEGORIES))
    assert (source.spec, spec_of("toy"), dataset_names()[-1]) == (toy, toy, "toy")
    image, target = source.dataset("val", val_transform(source.spec))[5]
    assert (image.shape, target) == ((3, 32, 32), 2)
    assert find_dataset("toy", str(tmp_path / "toy_images")).spec == toy  # --data may name its own folder
    with pytest.raises(ValueError, match="data set 'toy' is registered already"):
        register(toy)


def test_a_registered_data_set_is_trained_on_and_explained(toy, tmp_path):
    """By its name, with its own schedule."""
    write_tree(tmp_path / "data" / "toy_images")
    config = TrainConfig(dataset="toy", data=str(tmp_path / "data"), workers=0, device="cpu", amp="off")
    metrics = train_and_evaluate(config, tmp_path)
    run = "pytorch_resnet18_fc_ma_t5_toy"
    assert metrics["snapshot"] == str(tmp_path / "snapshot" / run / "epoch_0.pth")
    assert load_snapshot(metrics["snapshot"])[1]["dataset"] == "toy"
    assert [line["epoch"] for line in runs.read_epochs(tmp_path / "result" / run)] == [0]
    plan = torch.load(metrics["snapshot"])["training"]["plan"]
    assert (plan["epochs"], plan["batch_size"], plan["steps_per_epoch"], plan["lr"]) == (1, 4, 3, 0.1)
    flags = ["--dataset", "toy", "--data", tmp_path / "data"]
    report = run_demo("--modelfile", metrics["snapshot"], *flags, "--output", tmp_path / "out")
    assert (report["dataset"], len(report["images"]), report["validation"]["count"]) == ("toy", 6, 6)
    again = run_train(tmp_path / "flags", *flags, "--epochs", 1, "--lr", 0.1, "--amp", "off")
    assert again["loss"] == metrics["loss"]


def test_messages_name_a_registered_data_set(toy, tmp_path):
    with pytest.raises(
        UserError, match=r"mini_places, fashion_mnist, tiny_imagenet, toy or a folder with train/ and val/"
    ):
        find_dataset("nowhere", str(tmp_path))
    with pytest.raises(UserError) as missing:
        run_train(tmp_path, "--dataset", "toy", "--data", tmp_path)
    folder = tmp_path / "toy_images"
    assert str(missing.value) == f"data set toy is not in {folder}: arrange it as {folder}/{{train,val}}/<class>/*.jpg"
    with pytest.raises(UserError, match=r"data set 'toy': expected places365, .*, toy or a folder"):
        class_names("toy")  # without its files: the spec has no names


def test_the_toy_data_set_is_removed_again():
    assert dataset_names() == ["places365", "imagenet", "mini_places", "fashion_mnist", "tiny_imagenet"]


def test_a_data_set_is_named_by_the_link_to_it(tree, tmp_path):
    (tmp_path / "rooms").symlink_to(tree)
    assert find_dataset(str(tmp_path / "rooms")).name == "rooms"
    (tmp_path / "fashion_mnist").symlink_to(tree)  # of images, not the idx files
    assert len(find_dataset(str(tmp_path / "fashion_mnist")).dataset("val")) == 6


def test_missing_fashion_mnist(tmp_path, monkeypatch):
    monkeypatch.setattr(settings, "FASHION_MNIST_SYSTEM", str(tmp_path))
    with pytest.raises(UserError, match=r"four idx files \(plain or \.gz\)"):
        find_dataset("fashion_mnist", str(tmp_path))


def test_folders_that_are_not_image_trees(tmp_path, tree):
    with pytest.raises(UserError, match="expected a folder with train/ and val/"):
        find_dataset(str(tmp_path))
    with pytest.raises(UserError, match="no such folder"):
        find_dataset(data=str(tmp_path / "no"))
    (tmp_path / "train").mkdir()
    (tmp_path / "val").mkdir()
    with pytest.raises(UserError, match="no category folders"):
        find_dataset(str(tmp_path))
    (tmp_path / "train" / "beach").mkdir()
    with pytest.raises(UserError, match="no images"):
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
    assert (len(val), len(source.dataset("train")), val.image(0).mode) == (2, 6, "RGB")
    image, target = val[1]
    assert (image.shape, target) == ((3, 64, 64), 1)


def test_a_worker_names_the_image_that_it_cannot_read(tmp_path):
    write_tree(tmp_path / "t", per_class=(2, 2))
    broken = tmp_path / "t" / "val" / "beach" / "00000001.jpg"
    broken.write_bytes(broken.read_bytes()[:400])
    source = find_dataset(str(tmp_path / "t"))
    loader = make_loader(source.dataset("val", val_transform(source.spec)), 2, 1, torch.device("cpu"))
    with pytest.raises(UserError) as error:
        list(loader)
    # Frees the loader's iterator now: collected with a reference cycle, it would wait ten seconds for its worker.
    traceback.clear_frames(error.tb)
    assert str(error.value).startswith(f"{broken}: not a readable image")
    assert "\n" not in str(error.value)


def test_large_jpegs_are_decoded_at_reduced_size(tmp_path):
    Image.linear_gradient("L").resize((900, 700)).save(tmp_path / "big.jpg")
    assert read_image(tmp_path / "big.jpg").size == (900, 700)
    assert read_image(tmp_path / "big.jpg", enough=400).size == (900, 700)
    small = read_image(tmp_path / "big.jpg", enough=170)
    assert (small.size, small.mode) == ((225, 175), "RGB")
    whole = read_image(tmp_path / "big.jpg").resize(small.size)
    assert np.abs(np.asarray(small, int) - np.asarray(whole, int)).mean() < 3


def test_images_of_any_mode(tmp_path):
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
