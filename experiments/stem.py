"""Which stem suits a ResNet-18 at 64 px: torchvision's, or one that keeps four times as many positions.

    python3 experiments/stem.py              # half an hour on one core; writes results/stem.json

torchvision's stem, a convolution of 7 x 7 with stride 2 and a pooling with stride 2, leaves 2 x 2 positions of an image
of 64 px in layer4. The small stem, a convolution of 3 x 3 with stride 1 and the same pooling, leaves 4 x 4 and costs
about four times as much. Both are trained on 200 images of each of 20 classes of Tiny-ImageNet, for as many epochs,
and torchvision's also for as much computing; one seed, K = 5.
"""

import argparse
import functools
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from torch import nn

import models
from experiments.origin import origin
from loader.datasets import ANNOTATIONS, WNIDS, WORDS, find_dataset
from training import TrainConfig, train_and_evaluate

CLASSES, IMAGES = 20, 200
EPOCHS = 6
ROWS = (("torchvision", EPOCHS), ("small", EPOCHS), ("torchvision", 4 * EPOCHS))


def get_args_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder that holds tiny-imagenet-200 (default data/)")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def main(args: argparse.Namespace) -> None:
    """Train the three, and print their accuracies."""
    folder = find_dataset("tiny_imagenet", args.data, ROOT).folder
    about = {"classes": CLASSES, "images": IMAGES, "seed": args.seed, **origin()}
    rows = []
    with tempfile.TemporaryDirectory() as work:
        part = first_classes(folder, Path(work) / "tiny-imagenet-200")
        for stem, epochs in ROWS:
            config = TrainConfig(dataset="tiny_imagenet", data=str(part), epochs=epochs, seed=args.seed)
            build = with_small_stem if stem == "small" else models.build_model
            start = time.perf_counter()
            metrics = train_and_evaluate(config, Path(work) / f"{stem}{epochs}", build_model=build)
            seconds = round(time.perf_counter() - start)
            rows.append({"stem": stem, "epochs": epochs, "seconds": seconds, "top1": metrics["top1"]})
            print(rows[-1], flush=True)
    file = ROOT / "experiments" / "results" / "stem.json"
    file.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    print("| stem | epochs | s | top-1, % |\n|---|---:|---:|---:|")
    for row in rows:
        print("| {stem} | {epochs} | {seconds} | {top1:.1f} |".format(**row))


@functools.wraps(models.build_model)
def with_small_stem(*args: Any, **kwargs: Any) -> nn.Module:
    """The same network with a stem of 3 x 3 and stride 1; the pooling stays."""
    model = models.build_model(*args, **kwargs)
    model.conv1 = nn.Conv2d(3, 64, kernel_size=3, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    return model


def first_classes(folder: Path, target: Path) -> Path:
    """Copy the first classes of Tiny-ImageNet, and the first images of each."""
    wnids = sorted((folder / WNIDS).read_text().split())[:CLASSES]
    for wnid in wnids:
        (target / "train" / wnid / "images").mkdir(parents=True)
        for image in sorted((folder / "train" / wnid / "images").iterdir())[:IMAGES]:
            shutil.copyfile(image, target / "train" / wnid / "images" / image.name)
    (target / WNIDS).write_text("\n".join(wnids) + "\n")
    shutil.copyfile(folder / WORDS, target / WORDS)
    lines = [line for line in (folder / ANNOTATIONS).read_text().splitlines() if line.split("\t")[1] in wnids]
    (target / "val" / "images").mkdir(parents=True)
    (target / ANNOTATIONS).write_text("\n".join(lines) + "\n")
    for line in lines:
        name = line.split("\t")[0]
        shutil.copyfile(folder / "val" / "images" / name, target / "val" / "images" / name)
    return target


if __name__ == "__main__":
    main(get_args_parser().parse_args())
