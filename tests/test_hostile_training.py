"""What train.py must refuse in one line, or survive: foreign snapshots and states, signals, streams, lost folders."""

import copy
import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, run_train, write_tree
from PIL import Image
from test_training import FLAGS, equal_weights, script

import train
from loader.datasets import DataSource, find_dataset, spec_of
from models import build_model, head_of, load_snapshot, snapshot
from models.snapshot import load_pretrained, newest_snapshot, read_checkpoint
from training import TrainConfig, resume, runs
from training.config import make_plan
from training.identity import fingerprint_of_images, made_of_content, made_of_run
from training.loop import load_data
from training.state import build_scheduler, create_state, lr_after
from util import cli, files
from util.cli import UserError
from util.made_of import differences, fingerprint

ARCH, NAME = "resnet18_fc_ma", "pytorch_resnet18_fc_ma_t5_tiny_places"


@pytest.fixture
def said(monkeypatch, capsys):
    """Runs train.py with flags, writing below a folder; returns its one line after `train.py: error: `."""

    def say(workdir, *flags):
        monkeypatch.setattr(sys, "argv", ["train.py", *map(str, [*FLAGS, "--workers", 0, *flags])])
        with pytest.raises(SystemExit) as ended:
            cli.run(lambda: train.main(workdir), "train.py")
        (line,) = capsys.readouterr().err.splitlines()
        assert (ended.value.code, line.startswith("train.py: error: ")) == (2, True)
        return line.removeprefix("train.py: error: ")

    return say


def content_of(folder):
    """Every file below a folder, but for logs."""
    return {
        path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix not in (".log", ".lock")
    }


# --- snapshots ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def good():
    """A snapshot's content."""
    torch.manual_seed(0)
    state = build_model(ARCH, 3, 5).eval().state_dict()
    return {"state_dict": state, "arch": ARCH, "topk": 5, "classes": list("abc"), "num_classes": 3, "epoch": 0}


def with_weights(**changes):
    return lambda good: {
        **good,
        "state_dict": {
            **good["state_dict"],
            **{k.replace("__", "."): changes[k](good["state_dict"][k.replace("__", ".")]) for k in changes},
        },
    }


def with_metadata(**changes):
    return lambda good: {**good, **changes}


DEEP = "a list of lists"  # what `save` writes in its place cannot be pickled, since that recurses


def save(content, file, depth=10**5):
    """`torch.save`, with lists that are nested deeply where the content has DEEP."""
    torch.save(content, file)
    text = b"X" + len(DEEP).to_bytes(4, "little") + DEEP.encode()
    with zipfile.ZipFile(file) as old:
        entries = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(file, "w") as new:
        for name, data in entries.items():
            new.writestr(name, data.replace(text, b"]" * depth + b"a" * (depth - 1)))


FOREIGN = {
    "huge weights": (
        with_weights(conv1__weight=lambda w: torch.full_like(w, 3e38)),
        "conv1.weight has values up to 3e+38, expected 1e+18",
    ),
    "huge bias": (with_weights(rfc__bias=lambda w: w - 3e38), "rfc.bias has values up to 3e+38, expected 1e+18"),
    "huge variance": (
        with_weights(bn1__running_var=lambda w: w + 1e30),
        "bn1.running_var has values up to 1e+30, expected 1e+18",
    ),
    "negative variance": (
        with_weights(bn1__running_var=lambda w: w - 1.5),
        "bn1.running_var has the variance -0.5, expected at least 0",
    ),
    "weights that overflow together": (
        with_weights(
            rfc__weight=lambda w: torch.full_like(w, 1e18),
            bn1__weight=lambda w: torch.full_like(w, 1e18),
            layer4__1__bn2__weight=lambda w: torch.full_like(w, 1e18),
            layer4__1__bn2__bias=lambda w: torch.full_like(w, 1e18),
        ),
        "the network's answers to an image are not finite with these weights",
    ),
    "float64 beyond float32": (
        with_weights(conv1__weight=lambda w: w.double() + 1e300),
        "conv1.weight has values that are not finite",
    ),
    "expanded head": (
        with_weights(rfc__weight=lambda w: torch.zeros(1).expand(10**9, 512)),
        "rfc.weight has 512,000,000,000 values, more than the file holds of it",
    ),
    "head of overlapping rows": (
        with_weights(rfc__weight=lambda w: torch.zeros(10**6).as_strided((10**6 - 512, 512), (1, 1))),
        "rfc.weight has 511,737,856 values, more than the file holds of it",
    ),
    "empty rows without end": (
        lambda good: {
            **good,
            "num_classes": 10**12,
            "classes": None,
            "state_dict": {**good["state_dict"], "rfc.weight": torch.zeros(10**12, 0)},
        },
        "classes, expected a list of 1000000000000 names",
    ),
    "empty rows, no metadata": (
        lambda good: {"topk": 5, "state_dict": {**good["state_dict"], "rfc.weight": torch.zeros(10**12, 0)}},
        "does not fit the model: of another shape: rfc.weight (1000000000000, 0) instead of...",
    ),
    "no class": (
        with_weights(rfc__weight=lambda w: w[:0], rfc__bias=lambda w: w[:0]),
        "num_classes 3, but its head has 0",
    ),
    "no class, no metadata": (
        lambda good: {
            "topk": 5,
            "state_dict": {**good["state_dict"], "rfc.weight": torch.zeros(0, 512), "rfc.bias": torch.zeros(0)},
        },
        "number of classes 0: expected at least 1",
    ),
    "two of one name": (with_weights(module__conv1__weight=lambda w: w), "two of its tensors have one name"),
    "quantized": (
        with_weights(conv1__weight=lambda w: torch.quantize_per_tensor(w, 0.1, 0, torch.qint8)),
        "expected a dict with `state_dict`, or a state dict of tensors",
    ),
    "many unexpected": (
        lambda good: {
            **good,
            "state_dict": {**good["state_dict"], **{f"x{number}": torch.zeros(1) for number in range(1000)}},
        },
        "does not fit the model: unexpected: x0, x1,...",
    ),
    "arch of another type": (with_metadata(arch=5), "architecture 5, expected one of resnet18,..."),
    "arch is a tensor": (with_metadata(arch=torch.zeros(2)), "architecture tensor([0., 0.]), expected one of..."),
    "arch without end": (with_metadata(arch="x" * 10**6), "architecture 'xxxxxxxxx..."),
    "arch nested": (with_metadata(arch=DEEP), "architecture [[[[..."),
    "unhashable head": (with_metadata(head=["dense"]), "head ['dense'], expected one of dense,..."),
    "a head that has no K": (with_metadata(head="dense"), "a dense head sums all of its 512 votes, not 5"),
    "epoch is text": (with_metadata(epoch="1"), "epoch '1', expected a whole number from 0"),
    "epoch is true": (with_metadata(epoch=True), "epoch True, expected a whole number from 0"),
    "epoch negative": (with_metadata(epoch=-5), "epoch -5, expected a whole number from 0"),
    "best is NaN": (with_metadata(best_prec1=float("nan")), "best_prec1 nan, expected a number"),
    "best is huge": (with_metadata(best_prec1=10**600), "best_prec1 1000000..."),
    "odd K schedule": (with_metadata(k_schedule=["linear:9-5"]), "k_schedule ['linear:9-5'], expected linear:A-B"),
    "other count": (with_metadata(num_classes=2), "num_classes 2, but its head has 3"),
    "surrogate in a class": (with_metadata(classes=["a", "b", "c\udcff"]), "classes, expected a list of 3 names"),
    "too many classes": (with_metadata(classes=["a"] * 10**6), "classes, expected a list of 3 names"),
    "class without end": (with_metadata(classes=["a", "b", "c" * 10**6]), "classes, expected a list of 3 names"),
    "data set without end": (with_metadata(dataset="x" * 10**6), "dataset 'xxxxxxxxx..."),
}


@pytest.mark.parametrize("case", FOREIGN)
@pytest.mark.filterwarnings("ignore")
def test_foreign_snapshots(good, tmp_path, case):
    change, message = FOREIGN[case]
    if case == "two of one name":
        state = {**good["state_dict"], "module.conv1.weight": good["state_dict"]["conv1.weight"]}
        content = {**good, "state_dict": state}
    else:
        content = change(good)
    file = tmp_path / "s.pth"
    save(content, file)
    with pytest.raises(UserError) as error:
        load_snapshot(file)
    said = str(error.value)
    assert len(said) < 2500
    found = said.removeprefix(f"snapshot {file}").lstrip(": ")
    assert found.startswith(message[:-3]) if message.endswith("...") else found == message


def test_what_is_unknown_in_a_snapshot_is_left_out_of_its_metadata(good, tmp_path):
    extra = {"args": [[1]] * 10**6, "deep": DEEP, "optimizer": {}, "best_prec1": torch.tensor(1.5)}
    save({**good, **extra}, tmp_path / "s.pth")
    _, about = load_snapshot(tmp_path / "s.pth")
    assert about == {"arch": ARCH, "topk": 5, "classes": list("abc"), "num_classes": 3, "epoch": 0, "best_prec1": 1.5}


def test_a_compressed_snapshot_is_refused_before_it_is_read(tmp_path, monkeypatch):
    torch.save({"state_dict": {"a": torch.zeros(10**6)}}, tmp_path / "plain.pth")
    with zipfile.ZipFile(tmp_path / "plain.pth") as old, zipfile.ZipFile(tmp_path / "s.pth", "w", 8) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry.filename))
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was read"))
    with pytest.raises(UserError, match=r"s.pth: compressed, expected a file as torch.save writes it"):
        read_checkpoint(tmp_path / "s.pth")


def test_bytes_that_changed_end_in_one_line_or_in_the_same_weights(good, tmp_path):
    """A small campaign: a byte replaced anywhere, most of all in the parts that say what the others are."""
    file, random = tmp_path / "s.pth", np.random.default_rng(0)
    torch.save({"state_dict": {"a": torch.ones(3), "b": torch.zeros(2, 2)}, "epoch": 1}, file)
    whole = file.read_bytes()
    for _ in range(300):
        changed = bytearray(whole)
        for place in random.integers(0, len(whole), random.integers(1, 4)):
            changed[place] = random.integers(256)
        file.write_bytes(changed[: len(whole) if random.random() < 0.8 else random.integers(len(whole))])
        try:
            assert isinstance(read_checkpoint(file)["state_dict"], dict)
        except UserError as error:
            assert str(error).startswith(f"snapshot {file}: ")


def test_snapshots_that_are_no_files(said, tree, tmp_path):
    os.mkfifo(tmp_path / "fifo.pth")
    (tmp_path / "link.pth").symlink_to("/dev/zero")
    for flag in ("--resume", "--finetune"):
        for file in ("fifo.pth", "link.pth"):
            message = said(tmp_path / "w", "--dataset", tree, flag, tmp_path / file)
            assert message == f"snapshot {tmp_path / file}: not a regular file, expected a file"
        message = said(tmp_path / "w", "--dataset", tree, flag, tmp_path)
        assert message == f"snapshot {tmp_path}: a folder, expected a file"
    for file in ("fifo.pth", "link.pth"):
        with pytest.raises(UserError, match="not a regular file"):
            load_snapshot(tmp_path / file)
    assert not (tmp_path / "w").exists()


def test_weights_to_start_from_are_tried_too(good, tmp_path):
    huge = {key: value * 1e17 for key, value in good["state_dict"].items() if value.is_floating_point()}
    torch.save({**good["state_dict"], **huge}, tmp_path / "s.pth")
    with pytest.raises(UserError, match="answers to an image are not finite"):
        load_pretrained(build_model(ARCH, 3, 5), tmp_path / "s.pth")
    model = build_model(ARCH, 3, 5)
    torch.save(good["state_dict"], tmp_path / "s.pth")
    random = torch.random.get_rng_state()
    load_pretrained(model, tmp_path / "s.pth")
    assert model.training and torch.equal(random, torch.random.get_rng_state())


# --- which snapshot is the latest ---------------------------------------------------------------------------------


def test_the_latest_epoch_wins_whatever_the_clock_said(tmp_path):
    for number, epoch in enumerate((9, 10, 2)):
        (tmp_path / f"epoch_{epoch}.pth").touch()
        os.utime(tmp_path / f"epoch_{epoch}.pth", (1000 + number, 1000 + number))
    assert newest_snapshot(tmp_path).name == "epoch_10.pth"


@pytest.mark.parametrize(
    "epoch, first",
    [(3, "interrupted.pth"), (2, "epoch_2.pth"), (0, "epoch_2.pth"), (9, "interrupted.pth"), (None, "interrupted.pth")],
)
def test_an_interrupted_snapshot_is_ordered_by_its_epoch(run, monkeypatch, epoch, first):
    for name in ("interrupted.pth", "epoch_1.pth", "epoch_2.pth"):
        (run.snapshots / name).touch()
        os.utime(run.snapshots / name, (5, 5))
    monkeypatch.setattr(resume, "read_checkpoint", lambda path: {"epoch": epoch, "name": path.name})
    assert resume.find_resume("auto", run).path.name == first


@pytest.fixture
def run(tmp_path):
    source = DataSource("some_places", tmp_path, ["a"], ["a"], spec_of("some_places"))
    run = runs.Run(TrainConfig(), make_plan(TrainConfig(), source.spec.training, 100), source, tmp_path)
    run.snapshots.mkdir(parents=True)
    return run


def test_the_snapshots_of_an_earlier_run_are_moved_aside_once_there_are_newer_ones(run):
    for epoch in (0, 1, 2, 10):
        run.snapshot(epoch).write_text(str(epoch))
    runs.set_aside_later(run, 2)
    assert sorted(path.name for path in run.snapshots.glob("*.pth")) == ["epoch_0.pth", "epoch_1.pth"]
    assert sorted(path.name for path in (run.snapshots / "earlier").iterdir()) == ["epoch_10.pth", "epoch_2.pth"]


# --- what makes a run what it is ----------------------------------------------------------------------------------


def mirrored(tree, place, change):
    """A tree of the same name elsewhere, changed."""
    copied = place / "elsewhere" / tree.name
    shutil.copytree(tree, copied)
    change(copied)
    return copied


def repaint(tree):
    Image.new("RGB", (72, 64), "red").save(tree / "train" / "beach" / "00000000.jpg")


def rename_class(tree):
    for split in ("train", "val"):
        (tree / split / "beach").rename(tree / split / "coast")


def reorder(tree):
    for split in ("train", "val"):
        (tree / split / "beach").rename(tree / split / "zoo")


def add(tree):
    shutil.copy(tree / "train/beach/00000000.jpg", tree / "train/beach/new.jpg")


OTHER_DATA = {
    "another image": (repaint, "other training images", "these training images"),
    "another name": (
        rename_class,
        "other class names, other training images",
        "these class names, these training images",
    ),
    "another order": (reorder, "other class names, other training images", "these class names, these training images"),
    "one image more": (
        add,
        "steps_per_epoch 3, images 12, other training images",
        "steps_per_epoch 4, images 13, these training images",
    ),
}


@pytest.mark.parametrize("case", OTHER_DATA)
def test_another_tree_of_the_same_name_is_not_continued(said, trained, tree, tmp_path, case):
    change, was, asked = OTHER_DATA[case]
    first = trained[1].with_name("epoch_0.pth")
    other = mirrored(tree, tmp_path, change)
    message = said(tmp_path / "w", "--mark", "t5", "--dataset", other, "--resume", first)
    assert message == f"snapshot {first} is of a run with {was}, not {asked}: it cannot be resumed so"
    assert not (tmp_path / "w").exists()


def test_a_tree_that_moved_is_the_same(trained, tree, tmp_path):
    other = mirrored(tree, tmp_path, lambda _: None)
    first = trained[1].with_name("epoch_0.pth")
    run_train(tmp_path, "--mark", "t5", "--dataset", other, "--resume", first)
    assert equal_weights(tmp_path / "snapshot" / NAME / "epoch_1.pth", trained[1])


@pytest.mark.parametrize(
    "flags, was, asked",
    [
        (["--mark", "t20"], "K 5", "K 20"),
        (["--mark", "t5", "--arch", "resnet34_fc_ma"], "arch resnet18_fc_ma", "arch resnet34_fc_ma"),
        (
            ["--mark", "t5", "--arch", "resnet18"],
            "arch resnet18_fc_ma, head dynamic_k, K 5",
            "arch resnet18, head dense, K None",
        ),
        (["--mark", "t5", "--seed", "7"], "seed 0", "seed 7"),
    ],
)
@pytest.mark.parametrize("with_plan", [True, False], ids=["new", "from before"])
def test_another_network_is_not_continued(said, trained, tree, tmp_path, flags, was, asked, with_plan):
    first = trained[1].with_name("epoch_0.pth")
    if not with_plan:
        first = rewritten(first, tmp_path / "before.pth", lambda content: strip_plan(content))
    message = said(tmp_path / "w", "--dataset", tree, "--resume", first, *flags)
    assert message == f"snapshot {first} is of a run with {was}, not {asked}: it cannot be resumed so"


def rewritten(source, target, change):
    content = torch.load(source, weights_only=True)
    change(content)
    torch.save(content, target)
    return target


def strip_plan(content):
    """As the plan was before it held what the run is made of."""
    kept = ("epochs", "batch_size", "steps_per_epoch", "lr", "seed", "k_schedule")
    content["training"]["plan"] = {name: content["training"]["plan"][name] for name in kept}


def test_a_snapshot_from_before_is_continued_and_what_it_does_not_say_is_named(trained, tree, tmp_path, capsys):
    file = rewritten(trained[1].with_name("epoch_0.pth"), tmp_path / "before.pth", strip_plan)
    run_train(tmp_path, "--mark", "t5", "--dataset", tree, "--resume", file)
    assert equal_weights(tmp_path / "snapshot" / NAME / "epoch_1.pth", trained[1])
    said = capsys.readouterr().out
    assert f"{file} does not say images, image_files, size, resize, crop_scale, schedule," in said


def test_weights_to_start_from_belong_to_a_run(said, trained, tree, tmp_path, capsys):
    """They need not be named again; others are refused, and later snapshots still say which they were."""
    start, work = trained[1], tmp_path / "w"
    run_train(work, "--mark", "t5", "--dataset", tree, "--finetune", start)
    shutil.rmtree(work / "result")
    (work / "snapshot" / NAME / "epoch_1.pth").unlink()
    again = tmp_path / "again.pth"
    shutil.copy(start.with_name("epoch_0.pth"), again)
    first = work / "snapshot" / NAME / "epoch_0.pth"
    message = said(work, "--dataset", tree, "--resume", "auto", "--finetune", again)
    assert message.startswith(f"snapshot {first} is of a run with other weights to start from, not these weights")
    run_train(work, "--mark", "t5", "--dataset", tree, "--resume", "auto")
    plans = [torch.load(first.with_name(f"epoch_{n}.pth"))["training"]["plan"] for n in (0, 1)]
    assert plans[0] == plans[1] and len(plans[0]["finetune"]) == 64


def test_fingerprints_of_images(tree, tmp_path):
    source = DataSource("x", tree, *[["bakery-shop", "beach", "tundra"]] * 2, spec_of("x"))
    images = source.dataset("train")
    own = fingerprint_of_images(images, tree)
    assert own == fingerprint_of_images(images, tree)
    images.targets = [*images.targets[:-1], 0]
    assert fingerprint_of_images(images, tree) != own


def test_records_of_any_type_are_compared():
    assert differences({"a": 1, "b": [1, 2]}, {"a": 1.0, "b": (1, 2)}) == []
    for strange in (torch.ones(2), True, "1", [1], None, np.ones(2), {"a": 1}):
        assert differences({"a": strange}, {"a": 1}) == ["a"]
    assert fingerprint("\ud800") != fingerprint("\udcff")


@pytest.mark.parametrize("name", ["head", "k_schedule"])
def test_what_a_snapshot_says_of_its_run_may_be_a_tensor(name):
    """A tensor is neither true nor false."""
    found = made_of_content({"arch": "resnet18_fc_ma", "topk": 5, name: torch.zeros(2)})
    assert name in differences(found, {"head": "x", "k_schedule": "x"})


# --- training states ----------------------------------------------------------------------------------------------


def at(*keys, value):
    """A change of one entry; `...` deletes it."""

    def change(content):
        place = content
        for key in keys[:-1]:
            place = place[key]
        if value is ...:
            del place[keys[-1]]
        else:
            place[keys[-1]] = value(place[keys[-1]]) if callable(value) else value

    return change


TRAINING = ("training",)
GROUPS = ("training", "optimizer", "param_groups")
BUFFER = ("training", "optimizer", "state", 0, "momentum_buffer")
SUMS = {"steps": 1, "count": 4, "loss": 1.0, "top1": 1, "top5": 4, "seconds": 1.0, "lr": 0.01}
MALFORMED = {
    "epoch 100": at("epoch", value=100),
    "epoch -5": at("epoch", value=-5),
    "no epoch": at("epoch", value=...),
    "epoch 0.0": at("epoch", value=0.0),
    "epoch true": at("epoch", value=True),
    "epoch of a list": at("epoch", value=[0]),
    "best is text": at("best_prec1", value="50"),
    "best is NaN": at("best_prec1", value=float("nan")),
    "best is 101": at("best_prec1", value=101.0),
    "no best": at("best_prec1", value=...),
    "plan of lists": at("training", "plan", value=lambda plan: {name: [value] for name, value in plan.items()}),
    "plan of tensors": at("training", "plan", value=lambda plan: {name: torch.ones(2) for name in plan}),
    "start of lists": at("training", "plan", "finetune", value=[1]),
    "no training state": at("training", value=...),
    "training state of nothing": at("training", value=None),
    "momentum of another shape": at(*BUFFER, value=torch.zeros(3)),
    "momentum of NaN": at(*BUFFER, value=lambda buffer: buffer * float("nan")),
    "momentum of whole numbers": at(*BUFFER, value=lambda buffer: buffer.int()),
    "momentum expanded": at(*BUFFER, value=lambda buffer: torch.zeros(1).expand(buffer.shape)),
    "momentum of text": at(*BUFFER, value="none"),
    "a momentum less": at("training", "optimizer", "state", 0, value=...),
    "a momentum more": at("training", "optimizer", "state", 999, value={}),
    "no momenta": at("training", "optimizer", "state", value={}),
    "momenta of a list": at("training", "optimizer", "state", value=[]),
    "no groups": at(*GROUPS, value=[]),
    "two groups": at(*GROUPS, value=lambda groups: groups * 2),
    "groups of text": at(*GROUPS, value=["lr"]),
    "a parameter less": at(*GROUPS, 0, "params", value=lambda params: params[:-1]),
    "parameters in another order": at(*GROUPS, 0, "params", value=lambda params: params[::-1]),
    "lr negative": at(*GROUPS, 0, "lr", value=-0.01),
    "lr NaN": at(*GROUPS, 0, "lr", value=float("nan")),
    "another lr": at(*GROUPS, 0, "lr", value=0.02),
    "no lr": at(*GROUPS, 0, "lr", value=...),
    "another momentum": at(*GROUPS, 0, "momentum", value=0.5),
    "ascent": at(*GROUPS, 0, "maximize", value=True),
    "empty optimizer": at("training", "optimizer", value={}),
    "steps -3": at("training", "sums", value={"steps": -3}),
    "sums of too little": at("training", "sums", value={"steps": 1}),
    "sums with more": at("training", "sums", value={**SUMS, "unread": []}),
    "steps beyond the epoch": at("training", "sums", value={**SUMS, "steps": 4}),
    "steps of text": at("training", "sums", value={**SUMS, "steps": "1"}),
    "more hits than images": at("training", "sums", value={**SUMS, "top5": 5}),
    "sums of NaN": at("training", "sums", value={**SUMS, "loss": float("nan")}),
    "sums that the scheduler does not know": at("training", "sums", value=SUMS),
    "empty scheduler": at("training", "scheduler", value={}),
    "another scheduler": at("training", "scheduler", value={"total_steps": 9, "base_lrs": [0.01], "last_epoch": 3}),
    "another step": at("training", "scheduler", "last_epoch", value=1),
    "other milestones": at("training", "scheduler", "milestones", value={1: 1}),
    "lr that is not the optimizer's": at("training", "scheduler", "_last_lr", value=[1.0]),
    "scaler of junk": at("training", "scaler", value={"scale": 1.0}),
    "scale NaN": at(
        "training",
        "scaler",
        value={
            "scale": float("nan"),
            "growth_factor": 2.0,
            "backoff_factor": 0.5,
            "growth_interval": 9,
            "_growth_tracker": 0,
        },
    ),
}


SAYS = {
    "epoch 100": "epoch 100, expected 0 to 1",
    "no epoch": "epoch None, expected 0 to 1",
    "best is NaN": "best_prec1 nan, expected 0 to 100",
    "no groups": "param_groups [], expected one group",
    "lr negative": "lr -0.01, expected 0.001 after 3 steps",
    "steps -3": "sums of ['steps'], expected steps, count, loss, top1, top5, seconds, lr",
    "empty scheduler": "scheduler's milestones None, expected Counter({2: 1, 4: 1})",
    "another step": "scheduler's step 1, expected 3",
    "momentum of another shape": "momentum 0 torch.Size([3]), expected numbers (64, 3, 7, 7)",
}


@pytest.fixture(scope="module")
def first(trained):
    return torch.load(trained[1].with_name("epoch_0.pth"), weights_only=True)


def fresh_state(tree):
    """A state at the beginning of the run of `trained`, and its plan."""
    config = TrainConfig(mark="t5", dataset=str(tree), epochs=2, batch_size=4, lr=0.01, workers=0, device="cpu")
    source = find_dataset(str(tree))
    data, plan = load_data(config, source, torch.device("cpu"))
    model = build_model(ARCH, 3, 5)
    plan = replace(plan, made_of=made_of_run(config, source, data.train_set, head_of(model)))
    return create_state(model, plan, source.spec.training, torch.device("cpu"), None, False), plan


@pytest.fixture(scope="module")
def beginning(tree):
    return fresh_state(tree)


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_training_states(first, beginning, tmp_path, case):
    content = copy.deepcopy(first)
    MALFORMED[case](content)
    state, plan = beginning
    checkpoint = resume.Checkpoint(tmp_path / "s.pth", content)
    with pytest.raises(UserError) as error:
        resume.restore(state, checkpoint, resume.check_plan(checkpoint, plan, finetune=False))
    said = str(error.value)
    assert said.startswith(f"snapshot {tmp_path / 's.pth'}") and len(said) < 2500 and "\n" not in said
    if case in SAYS:
        assert said == f"snapshot {tmp_path / 's.pth'}: malformed training state: {SAYS[case]}"


def test_a_state_in_part_of_an_epoch_is_continued(first, beginning, tmp_path):
    content, (state, plan) = copy.deepcopy(first), beginning
    content["epoch"], content["training"]["sums"] = 1, dict(SUMS)
    content["training"]["scheduler"]["last_epoch"] = 4
    content["training"]["optimizer"]["param_groups"][0]["lr"] = lr = lr_after(state.scheduler, 4)
    content["training"]["scheduler"]["_last_lr"] = [lr]
    assert resume.restore(state, resume.Checkpoint(tmp_path / "s.pth", content), plan) == SUMS
    assert (state.epoch, state.scheduler.last_epoch, state.optimizer.param_groups[0]["lr"]) == (1, 4, lr)


@pytest.mark.parametrize("case", ["epoch 100", "momentum of another shape", "steps -3", "empty scheduler"])
def test_a_malformed_state_ends_in_one_line_and_changes_no_file(said, first, tree, tmp_path, case):
    content = copy.deepcopy(first)
    MALFORMED[case](content)
    folder = tmp_path / "snapshot" / NAME
    folder.mkdir(parents=True)
    torch.save(content, folder / "epoch_0.pth")
    before = content_of(tmp_path)
    message = said(tmp_path, "--mark", "t5", "--dataset", tree, "--resume", "auto")
    assert message.startswith(f"snapshot {folder / 'epoch_0.pth'}: malformed training state: ")
    assert content_of(tmp_path) == before


def test_attributes_that_a_state_would_bring_in_are_left_out(first, tree, tmp_path, trained):
    """`load_state_dict` of a scheduler sets whatever it is given."""
    content = copy.deepcopy(first)
    content["training"]["scheduler"] |= {"step": None, "optimizer": None, "get_lr": 5}
    torch.save(content, tmp_path / "s.pth")
    run_train(tmp_path, "--mark", "t5", "--dataset", tree, "--resume", tmp_path / "s.pth")
    assert equal_weights(tmp_path / "snapshot" / NAME / "epoch_1.pth", trained[1])


@pytest.mark.parametrize("kind, steps", [("step", 1), ("step", 9), ("one_cycle", 2), ("one_cycle", 13)])
def test_the_rate_after_some_steps_is_the_schedulers(kind, steps):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1, momentum=0.9)
    scheduler = build_scheduler(kind, optimizer, steps)
    optimizer.step()
    for step in range(steps + 1):
        fresh = build_scheduler(kind, torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1), steps)
        assert lr_after(fresh, step) == pytest.approx(scheduler.get_last_lr()[0], rel=1e-9, abs=1e-15)
        assert fresh.last_epoch == 0
        if step < steps:
            scheduler.step()


# --- results ------------------------------------------------------------------------------------------------------


def test_junk_among_the_lines_of_a_run(trained, tree, tmp_path):
    results = tmp_path / "result" / NAME
    shutil.copytree(trained[0] / "result" / NAME, results)
    lines = (results / "train.jsonl").read_text().splitlines()
    junk = [
        "[1]",
        "{}",
        "null",
        '"x"',
        '{"epoch": "0"}',
        '{"epoch": 0}',
        "[" * 10**5,
        '{"epoch": NaN}',
        '{"epoch": -1}',
    ]
    (results / "train.jsonl").write_bytes("\n".join([*junk, lines[0], '{"epoch": 5']).encode() + b"\n\xff\xfe")
    (results / "train.made_of.json").write_text("{")
    first = trained[1].with_name("epoch_0.pth")
    run_train(tmp_path, "--mark", "t5", "--dataset", tree, "--resume", first)
    assert [line["epoch"] for line in runs.read_epochs(results)] == [0, 1]
    assert (results / "train.jsonl").read_text().splitlines()[0] == lines[0]


def test_lines_of_another_run_are_not_continued(trained, tree, tmp_path):
    results = tmp_path / "result" / NAME
    shutil.copytree(trained[0] / "result" / NAME, results)
    made_of = (results / "train.made_of.json").read_text()
    (results / "train.made_of.json").write_text(re.sub(r'"seed": 0', '"seed": 1', made_of))
    run_train(tmp_path, "--mark", "t5", "--dataset", tree, "--resume", trained[1].with_name("epoch_0.pth"))
    assert [line["epoch"] for line in runs.read_epochs(results)] == [1]


def test_results_of_another_type(said, tree, tmp_path):
    results = tmp_path / "result" / NAME
    results.mkdir(parents=True)
    os.mkfifo(results / "train.log")
    assert said(tmp_path, "--dataset", tree) == f"log {results / 'train.log'}: not a regular file, expected a file"
    (results / "train.log").unlink()
    for target in ("theirs", "nothing"):  # a link is not followed, whatever it leads to
        (tmp_path / "theirs").write_text("mine\n")
        (results / "train.log").symlink_to(tmp_path / target)
        assert said(tmp_path, "--dataset", tree).startswith(f"{results / 'train.log'}: cannot be written (")
        assert (tmp_path / "theirs").read_text() == "mine\n" and not (tmp_path / "nothing").exists()
        (results / "train.log").unlink()
    (results / "train.jsonl").mkdir()
    assert said(tmp_path, "--dataset", tree).startswith(f"{results / 'train.jsonl'}: cannot be written (")
    assert not (tmp_path / "snapshot").exists()


def removing(*names):
    places = [f"pathlib.Path({{root!r}}) / {name!r}" for name in names]
    return f"""
import shutil
def removing_evaluation(*args):
    for place in [{", ".join(places)}]:
        shutil.rmtree(place)
    loop.evaluate_features = evaluate
    return evaluate(*args)
loop.evaluate_features = removing_evaluation
"""


def start(root, tree, disturbance="", **options):
    """train.py as a process of its own, disturbed."""
    program = script(root, disturbance.format(root=str(root)) if disturbance else "")
    return subprocess.Popen(
        [sys.executable, "-c", program, "--dataset", str(tree), *map(str, FLAGS), "--workers", "0", "--mark", "t5"],
        cwd=ROOT,
        text=True,
        start_new_session=True,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
    )


def test_a_result_folder_that_is_removed_in_mid_run(trained, tree, tmp_path):
    process = start(tmp_path, tree, removing("result"))
    _, said = process.communicate(timeout=300)
    results = tmp_path / "result" / NAME
    assert (process.returncode, said) == (
        2,
        f"train.py: error: {results}: removed while the run was writing to it; "
        "--resume auto continues after epoch 1 of 2\n",
    )
    run_train(tmp_path, "--mark", "t5", "--dataset", tree, "--resume", "auto")
    assert equal_weights(tmp_path / "snapshot" / NAME / "epoch_1.pth", trained[1])


def test_a_snapshot_folder_that_is_removed_is_made_anew(tree, tmp_path):
    (tmp_path / "snapshot" / NAME).mkdir(parents=True)
    process = start(tmp_path, tree, removing("snapshot"))
    _, said = process.communicate(timeout=300)
    assert (process.returncode, said) == (0, "")
    names = sorted(path.name for path in (tmp_path / "snapshot" / NAME).iterdir())
    assert names == ["epoch_0.pth", "epoch_1.pth"]


@pytest.mark.parametrize("change, error", [("bytes", errno.ENOSPC), ("ro", errno.EROFS)])
def test_a_disk_that_fills_or_turns_read_only_in_mid_run(trained, tree, tmp_path, change, error):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200m", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no right to mount a file system")
    spoil = {
        "bytes": 'open({root!r} + "/fill", "wb").write(bytes(shutil.disk_usage({root!r}).free - 5_000_000))',
        "ro": '[os.close(fd) for fd in ()]; subprocess.run(["mount", "-o", "remount,ro", {root!r}], check=False)',
    }[change]
    disturbance = f"""
import shutil, subprocess
def spoiling_evaluation(*args):
    steps.append(1)
    if len(steps) == 2:
        {spoil}
    return evaluate(*args)
loop.evaluate_features = spoiling_evaluation
"""
    try:
        process = start(disk, tree, disturbance)
        _, said = process.communicate(timeout=300)
        if change == "ro" and process.returncode == 0:
            pytest.skip("a file system with an open log cannot be made read-only here")
        assert process.returncode == 2 and said.count("\n") == 1, said
        assert said.endswith(f"cannot be written ({os.strerror(error)})\n")
        snapshots = sorted(path.name for path in (disk / "snapshot" / NAME).iterdir())
        assert snapshots == ["epoch_0.pth"]
        assert load_snapshot(disk / "snapshot" / NAME / "epoch_0.pth")[1]["epoch"] == 0
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks(tmp_path, monkeypatch, capsys, code):
    def refused(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files.fcntl, "flock", refused)
    with files.lock_folder(tmp_path / "f"):
        assert (tmp_path / "f").is_dir()
    assert capsys.readouterr().err == (
        f"{tmp_path / 'f'}: its file system has no locks ({os.strerror(code)}): let no other run write to it\n"
    )


# --- signals ------------------------------------------------------------------------------------------------------

# Where a run is when the signal arrives, and what else arrives.
BEFORE = """
found = loop.find_source
def slow(config):
    {signals}
    return found(config)
loop.find_source = slow
"""
BUILDING = """
def slow(*args):
    {signals}
    return models.build_model(*args)
import models
loop.models = type("models", (), dict(build_model=slow, head_of=models.head_of))
"""
IN_LOOP = """
def slow(self, *args, **kwargs):
    steps.append(1)
    if len(steps) == 5:
        {signals}
    return step(self, *args, **kwargs)
torch.optim.SGD.step = slow
"""
SAVING = """
def slow(data, file):
    save(data, file)
    if data["epoch"] == 1:
        {signals}
torch.save = slow
"""


def kill(*names):
    return "; ".join(f"os.kill(me, signal.{name})" for name in names)


@pytest.mark.parametrize(
    "place, signals, code, left",
    [
        pytest.param(BEFORE, ["SIGTERM"], 143, set(), marks=pytest.mark.slow),
        pytest.param(BEFORE, ["SIGHUP"], 143, set(), marks=pytest.mark.slow),
        (BEFORE, ["SIGTERM", "SIGTERM", "SIGINT"], 143, set()),
        (BEFORE, ["SIGINT"], 130, set()),
        (BUILDING, ["SIGTERM"], 143, set()),
        pytest.param(IN_LOOP, ["SIGHUP"], 143, {"epoch_0.pth", "interrupted.pth"}, marks=pytest.mark.slow),
        (IN_LOOP, ["SIGTERM", "SIGINT", "SIGTERM", "SIGHUP"], 143, {"epoch_0.pth", "interrupted.pth"}),
        (SAVING, ["SIGINT"], 130, {"epoch_0.pth"}),
        (SAVING, ["SIGTERM", "SIGINT"], 0, {"epoch_0.pth", "epoch_1.pth"}),
    ],
)
def test_signals(tree, tmp_path, place, signals, code, left):
    """The exit code is the documented one, and a state is saved or nothing is touched."""
    restored = "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background jobs ignore it
    process = start(tmp_path, tree, restored + place.replace("{signals}", kill(*signals)))
    _, said = process.communicate(timeout=300)
    assert process.returncode == code, said
    assert said.count("\n") == (0 if code == 0 else 1), said
    folder = tmp_path / "snapshot" / NAME
    assert {path.name for path in folder.iterdir()} == left if left else not list(tmp_path.iterdir())
    if code == 143:
        received = f"received {signals[0]}; nothing was left half-written"
        saved = f"saved {folder / 'interrupted.pth'}; --resume auto continues from there"
        assert said == f"train.py: terminated: {saved if left else received}\n"


def test_nohup_is_respected(tree, tmp_path):
    process = start(
        tmp_path,
        tree,
        IN_LOOP.replace("{signals}", kill("SIGHUP")),
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    _, said = process.communicate(timeout=300)
    assert (process.returncode, said) == (0, "")


def test_a_signal_is_no_error_of_a_library():
    with pytest.raises(cli.Terminated):
        try:
            raise cli.Terminated("x")
        except Exception:
            pytest.fail("it was answered")


# --- streams ------------------------------------------------------------------------------------------------------

SPEAKING = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from training import runs
from util.cli import run
from util.progress import progress
def main():
    with runs.open_log(Path(sys.argv[1])):
        for number in progress(range(3)):
            runs.log.info("line %d\\x1b[31m", number)
            print("said", number)
            print("error", number, file=sys.stderr)
        print("x" * 10**6)
    Path(sys.argv[1], "done").touch()
run(main, "script")
"""


@pytest.mark.parametrize(
    "redirection",
    [
        "| head -1",
        "> /dev/full",
        "<&- >&- 2>&-",
        *(pytest.param(more, marks=pytest.mark.slow) for more in ("| true", "2> /dev/full", ">&-", "2>&-", ">&- 2>&-")),
    ],
)
def test_streams_that_fail(tmp_path, redirection):
    command = f'"$0" -c "$1" "$2" {redirection}'
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command, sys.executable, SPEAKING, tmp_path],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr, done.stderr
    assert (done.returncode, (tmp_path / "done").exists()) == (0, True), done.stderr
    lines = (tmp_path / "train.log").read_text().splitlines()
    assert [line.split(" ", 2)[2] for line in lines] == [f"line {number}\\x1b[31m" for number in range(3)]


def test_training_without_anyone_who_listens(trained, tree, tmp_path):
    read, write = os.pipe()
    os.close(read)
    process = start(tmp_path, tree, stdout=write)
    os.close(write)
    _, said = process.communicate(timeout=300)
    assert (process.returncode, said) == (0, "")
    assert equal_weights(tmp_path / "snapshot" / NAME / "epoch_1.pth", trained[1])


# --- edges of K, compilation ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "flags, ks",
    [
        (["--mark", "t1"], [1, 1]),
        pytest.param(["--mark", "t512"], [512, 512], marks=pytest.mark.slow),
        (["--mark", "t1", "--k_schedule", "linear:512-1"], [512, 1]),
    ],
)
def test_the_smallest_and_the_largest_k(tree, tmp_path, flags, ks):
    run_train(tmp_path, "--dataset", tree, *flags)
    folder = tmp_path / "snapshot" / f"pytorch_resnet18_fc_ma_{flags[1]}_tiny_places"
    whole = folder / "epoch_1.pth"
    assert [load_snapshot(folder / f"epoch_{n}.pth")[1]["topk"] for n in (0, 1)] == ks
    kept = tmp_path / "kept.pth"
    whole.rename(kept)
    run_train(tmp_path, "--dataset", tree, *flags, "--resume", "auto")
    assert equal_weights(whole, kept)


@pytest.mark.slow
def test_a_compiled_run_is_resumed(tree, tmp_path, monkeypatch):
    compiled = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model: compiled(model, backend="aot_eager"))
    flags = ["--mark", "t5", "--k_schedule", "linear:9-5", "--dataset", tree, "--compile", "--amp", "off"]
    run_train(tmp_path, *flags)
    folder = tmp_path / "snapshot" / NAME
    (folder / "epoch_1.pth").rename(tmp_path / "kept.pth")
    run_train(tmp_path, *flags, "--resume", "auto")
    one, other = (torch.load(path)["state_dict"] for path in (folder / "epoch_1.pth", tmp_path / "kept.pth"))
    for key, value in one.items():
        torch.testing.assert_close(value, other[key], rtol=1e-3, atol=1e-4)


def test_a_dense_snapshot_and_a_mark_of_k(good, tmp_path):
    """The mark names the run of a dense head, which has no K."""
    torch.save({"state_dict": build_model("resnet18", 3).state_dict(), "arch": "resnet18"}, tmp_path / "s.pth")
    model, about = load_snapshot(tmp_path / "s.pth", topk=5)
    assert (about["topk"], head_of(model).topk) == (None, 512)
    assert snapshot.has_dynamic_k(about["arch"]) is False


def test_reading_is_quick(good, tmp_path):
    """The trial of a network costs little beside reading it; the bound is wide, for machines that are busy."""
    torch.save(good, tmp_path / "s.pth")
    model, _ = load_snapshot(tmp_path / "s.pth")
    began = time.process_time()
    snapshot.check_answers(model, tmp_path / "s.pth")
    assert time.process_time() - began < 5


def test_a_class_whose_name_is_not_utf8_is_trained_under_a_printable_name(tmp_path):
    try:
        tree = write_tree(tmp_path / "tree", categories=["a", os.fsdecode(b"b\xff")])
    except OSError:
        pytest.skip("a file system of UTF-8 names only")
    metrics = run_train(tmp_path / "w", "--dataset", tree, "--epochs", 1)
    assert load_snapshot(metrics["snapshot"])[1]["classes"] == ["a", "b\\udcff"]


def test_paths_are_of_one_line(said, tree, tmp_path):
    assert said(tmp_path, "--dataset", tree, "--resume", "no\x1b[31m.pth") == r"snapshot no\x1b[31m.pth: no such file"
    assert not list(Path(tmp_path).iterdir())
