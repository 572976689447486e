"""Small trees in Places365's and Broden's layouts, made on the fly, and a network trained on one."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import demo
import train
from training import TrainConfig, train_and_evaluate

ROOT = Path(__file__).resolve().parent.parent

# Of this process and of the scripts that tests start; pytest-xdist's workers have a core each.
THREADS = 1 if "PYTEST_XDIST_WORKER" in os.environ else 2
torch.set_num_threads(THREADS)
os.environ["OMP_NUM_THREADS"] = str(THREADS)

CATEGORIES = ["tundra", "beach", "bakery-shop"]


def write_tree(root: Path, categories=CATEGORIES, per_class=(4, 2), size=(72, 64)) -> Path:
    """A Places365-style tree of noisy images, each class of its own colour; one of them grey."""
    generator = np.random.default_rng(0)
    for split, count in zip(("train", "val"), per_class, strict=True):
        for number, name in enumerate(sorted(categories)):
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = generator.integers(0, 120, (*size[::-1], 3), np.uint8)
                pixels[..., number % 3] += 120
                image = Image.fromarray(pixels)
                (image.convert("L") if index == 1 else image).save(folder / f"{index:08d}.jpg")
    return root


def encode_labels(labels: np.ndarray) -> np.ndarray:
    """(sh, sw) label numbers -> (sh, sw, 3): R + 256 * G."""
    return np.stack([labels % 256, labels // 256, np.zeros_like(labels)], -1).astype(np.uint8)


def write_broden(root: Path, categories: list[str], labels: list[dict], images: list[dict]) -> Path:
    """A Broden folder.

    Args:
        root: the folder.
        categories: names, in the order of category.csv.
        labels: each {number, name, coverage: {category: covered pixels}}.
        images: each {name, pixels (H, W) or (H, W, 3), sh, sw, cells: {category: [integer or (sh, sw) array, ...]}}.
    """
    (root / "images").mkdir(parents=True)

    def table(name, header, rows):
        with open(root / name, "w", newline="") as file:
            csv.writer(file).writerows([header, *rows])

    table("category.csv", ["name", "first", "last", "count", "frequency"], [[c, 1, 999, 0, 0] for c in categories])
    label_rows = []
    for label in labels:
        coverage = label["coverage"]
        cell = ";".join(f"{category}(1)" for category in coverage)
        label_rows.append([label["number"], label["name"], cell, 1, sum(coverage.values()), ""])
    table("label.csv", ["number", "name", "category", "frequency", "coverage", "syns"], label_rows)
    for category in categories:
        own = [label for label in labels if category in label["coverage"]]
        category_rows = [
            [code, label["number"], label["name"], 1, label["coverage"][category]]
            for code, label in enumerate(own, start=1)
        ]
        table(f"c_{category}.csv", ["code", "number", "name", "frequency", "coverage"], category_rows)
    rows = []
    for image in images:
        pixels = np.asarray(image["pixels"], np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"{image['name']}.png")
        cells = []
        for category in categories:
            entries = []
            for layer, entry in enumerate(image["cells"].get(category, [])):
                if isinstance(entry, int):
                    entries.append(str(entry))
                else:
                    file = f"{image['name']}_{category}_{layer}.png"
                    Image.fromarray(encode_labels(np.asarray(entry))).save(root / "images" / file)
                    entries.append(file)
            cells.append(";".join(entries))
        rows.append([f"{image['name']}.png", "train", *pixels.shape[:2], image["sh"], image["sw"], *cells])
    table("index.csv", ["image", "split", "ih", "iw", "sh", "sw", *categories], rows)
    return root


def write_small_broden(root: Path, count: int = 6, size: int = 64) -> Path:
    """A Broden folder of random images, big enough for a ResNet: objects per pixel, scenes per image."""
    generator = np.random.default_rng(1)
    labels = [
        {"number": 1, "name": "sky", "coverage": {"object": 3.0}},
        {"number": 2, "name": "sea", "coverage": {"object": 2.0}},
        {"number": 300, "name": "beach-s", "coverage": {"scene": 2.0}},
    ]
    images = [
        {
            "name": f"p{index}",
            "pixels": generator.integers(0, 255, (size, size, 3), np.uint8),
            "sh": size // 2,
            "sw": size // 2,
            "cells": {
                "object": [generator.integers(0, 3, (size // 2, size // 2))],
                "scene": [300] if index % 2 else [],
            },
        }
        for index in range(count)
    ]
    return write_broden(root, ["object", "scene"], labels, images)


@pytest.fixture(scope="session")
def tree(tmp_path_factory) -> Path:
    return write_tree(tmp_path_factory.mktemp("data") / "tiny_places")


@pytest.fixture(scope="session")
def broden(tmp_path_factory) -> Path:
    return write_small_broden(tmp_path_factory.mktemp("broden") / "tiny_broden")


def run_train(root, *flags):
    """Train as train.py does with these flags, writing below `root`."""
    defaults = ["--epochs", 2, "--batch_size", 4, "--lr", 0.01, "--workers", 0, "--device", "cpu"]
    args = train.get_args_parser().parse_args(list(map(str, [*defaults, *flags])))
    return train_and_evaluate(TrainConfig(**vars(args)), root)


def run_demo(*flags):
    """Explain as demo.py does with these flags; returns the content of explain.json."""
    defaults = ["--workers", 0, "--device", "cpu"]
    return demo.main(demo.get_args_parser().parse_args(list(map(str, [*defaults, *flags]))))


LOOPBACK = {"127.0.0.1", "::1", "localhost", "", None}
reached_for: list[str] = []  # hosts beyond this machine that any code tried to reach


def pytest_configure(config):
    """Refuse the network to this process, and to those forked from it."""
    sys.addaudithook(_refuse_network)


def _refuse_network(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.getaddrinfo"):
        place = arguments[0] if event == "socket.getaddrinfo" else arguments[-1]
        host = place[0] if isinstance(place, tuple) else place if event == "socket.getaddrinfo" else None
        if host not in LOOPBACK:
            reached_for.append(host)
            raise PermissionError(f"no network in tests: {host}")


def call(*command, cwd=ROOT):
    """Run Python with these arguments, without a GPU; returns the finished process and what it printed."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [sys.executable, *map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True
    )


@pytest.fixture(scope="session")
def trained(tree, tmp_path_factory):
    """A workspace with a DKA network trained for two epochs on the tiny tree."""
    root = tmp_path_factory.mktemp("workspace")
    metrics = run_train(root, "--mark", "t5", "--dataset", tree)
    return root, root / "snapshot/pytorch_resnet18_fc_ma_t5_tiny_places/epoch_1.pth", metrics
