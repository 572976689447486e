"""The cost of Network Dissection, compared with the bare forward pass and with a plain loop over units.

    python3 benchmarks/dissect.py                      # 1,000 images, about four minutes on two cores
    python3 benchmarks/dissect.py --images 100         # a short one
    python3 benchmarks/dissect.py --compile --images 5000 --rounds 1    # COMPILE True beside False, four minutes

Dissects the shipped ResNet-18 on mini_broden, in float32 on the CPU, and prints Markdown tables: the whole dissection
(the pass, tally, chance; without the page), its steps, a reference loop that gives the same numbers, and how the cost
grows with images, units and labels.
"""

import argparse
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import settings
from loader.mini_places import ensure_mini_places
from models import load_snapshot
from netdissect.activity import LayerSummary
from netdissect.broden import Broden
from netdissect.counting import Counts, count
from netdissect.dissect import PassConfig, TallyConfig, measure_layers, score_layer
from netdissect.features import PREPROCESS
from netdissect.tally import iou, write_tally
from util.progress import progress

LAYERS = ("layer1", "layer2", "layer3", "layer4")  # 64, 128, 256, 512 units
PASS, TALLY = PassConfig(workers=2), TallyConfig(workers=2)  # the defaults of netdissect/settings.py


def get_args_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000, help="of mini_broden (default 1000, all of them)")
    parser.add_argument("--compile", action="store_true", help="compare COMPILE = True with False; 1,000 images repeat")
    parser.add_argument("--rounds", type=int, default=3, help="repetitions of each comparison (default 3)")
    parser.add_argument("--no_growth", action="store_true", help="leave the tables of growth out")
    return parser


def main(args: argparse.Namespace) -> None:
    """Time the steps, and print the tables."""
    data = ensure_mini_places(ROOT / settings.DATA_ROOT)[1]
    broden = Repeated(data, args.images) if args.compile else Broden(data, sample=args.images)
    model, _ = load_snapshot(ROOT / settings.SHIPPED_SNAPSHOT)
    model.to(memory_format=torch.channels_last)
    versions = f"float32, PyTorch {torch.__version__}, {torch.get_num_threads()} threads"
    print(f"{len(broden)} images of 224 px, ResNet-18, layer4, {versions}\n")

    if args.compile:
        compare_compiled(model, broden, Broden(data, sample=args.images), args.rounds)
        return

    forward, whole, tally = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(args.rounds):  # in turns, so that a busy machine does not favour one of them
            forward.append(seconds(bare_forward(model, broden, PASS.batch_size)))
            start = time.perf_counter()
            summary = measure(model, broden, "layer4", Path(folder) / str(number))
            write_tally(Path(folder) / "tally.csv", score_layer("layer4", summary, broden, TALLY).rows)
            whole.append(time.perf_counter() - start)
            start = time.perf_counter()
            counts = count_all(summary, broden)
            tally.append(time.perf_counter() - start)
        start = time.perf_counter()
        reference = reference_counts(summary, broden)
        loop = time.perf_counter() - start
    for name in ("truth", "intersect", "activation"):
        np.testing.assert_array_equal(getattr(reference, name), getattr(counts, name), err_msg=name)
    np.testing.assert_array_equal(iou(reference, broden.primary), iou(counts, broden.primary))

    print_times(len(broden), forward, whole, tally, loop)
    if not args.no_growth:
        growth(model, data, args.images)


class Repeated(Broden):
    """A Broden folder whose images come again until there are so many."""

    def __init__(self, directory: Path, images: int):
        super().__init__(directory)
        self.rows = [self.rows[index % len(self.rows)] for index in range(images)]


def compare_compiled(model: nn.Module, broden: Broden, once: Broden, rounds: int) -> None:
    """The table of COMPILE: the bare forward pass, and dissections with and without. `once` has each image once."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    cases = {f"whole dissection, COMPILE = {value}": replace(PASS, compile=value) for value in (False, True)}
    bare = "bare forward pass, not compiled, images in memory"
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in (bare, *cases)}
    for _ in range(rounds):
        forward = bare_forward(model, once, PASS.batch_size)
        times[bare].append(clocked(lambda: [forward() for _ in range(len(broden) // len(once))]))  # noqa: B023
        for name, config in cases.items():
            with tempfile.TemporaryDirectory() as folder:
                os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path(folder) / "inductor")  # nothing compiled before
                times[name].append(clocked(lambda: dissect(model, broden, Path(folder), config)))  # noqa: B023
    print("| what | wall, s | processor, s | ms per image | / bare |\n|---|---:|---:|---:|---:|")
    base = np.median([wall for wall, _ in times[bare]])
    for name, measured in times.items():
        wall, processor = np.median(measured, axis=0)
        print(f"| {name} | {wall:.1f} | {processor:.1f} | {1000 * wall / len(broden):.2f} | {wall / base:.2f} |")


def dissect(model: nn.Module, broden: Broden, folder: Path, config: PassConfig) -> None:
    """A dissection of layer4 with chance, without page."""
    summary = measure_layers(model, broden, {"layer4": folder / "cache"}, config)["layer4"]
    write_tally(folder / "tally.csv", score_layer("layer4", summary, broden, TALLY).rows)


def clocked(work: Callable[[], Any]) -> tuple[float, float]:
    """Wall-clock seconds of a call, and processor seconds of this process and of those that it started and ended."""
    wall, before = time.perf_counter(), os.times()
    work()
    after = os.times()
    return time.perf_counter() - wall, sum(after[:4]) - sum(before[:4])


def print_times(images: int, forward: list[float], whole: list[float], tally: list[float], loop: float) -> None:
    """The table of times, from the seconds of each round."""
    times = {
        "bare forward pass, images in memory": forward,
        "whole dissection, with chance, without page": whole,
        "tally alone": tally,
        "reference loop: one unit, one label at a time": [loop],
    }
    print("| what | median, s | range, s | ms per image |\n|---|---:|---:|---:|")
    for name, values in times.items():
        median, low, high = np.median(values), min(values), max(values)
        print(f"| {name} | {median:.2f} | {low:.2f} to {high:.2f} | {1000 * median / images:.2f} |")
    cost, gain = np.median(whole) / np.median(forward), loop / np.median(tally)
    print(f"\nWhole dissection / bare forward pass: {cost:.2f}; reference loop / tally, equal numbers: {gain:.1f}\n")


def growth(model: nn.Module, data: Path, images: int) -> None:
    """The table of times against images, units and labels."""
    print("| images | layer | units | categories | labels | measuring, s | tally, s |")
    print("|---:|---|---:|---|---:|---:|---:|")
    cases: list[tuple[int, str, list[str] | None]] = [
        (part, "layer4", None) for part in (images // 4, images // 2, images)
    ]
    cases += [(images // 2, layer, None) for layer in LAYERS[:-1]]
    cases += [(images // 2, "layer4", chosen) for chosen in (["object"], ["object", "part"])]
    for number, layer, categories in cases:
        broden = Broden(data, categories=categories, sample=number)
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            summary = measure(model, broden, layer, Path(folder) / "cache")
            measuring = time.perf_counter() - start
            spent = seconds(lambda: count_all(summary, broden))  # noqa: B023 - called at once
        used = {int(number) for i in range(len(broden)) for number in np.unique(broden.labels(i).pixels)} - {0}
        cells = [len(broden), layer, len(summary.thresholds), ", ".join(categories or ["all"]), len(used)]
        print("|", " | ".join(map(str, cells)), f"| {measuring:.2f} | {spent:.2f} |")


def measure(model: nn.Module, broden: Broden, layer: str, cache: Path) -> LayerSummary:
    """The pass over the images for one layer, as in a dissection, with its cache in a folder."""
    return measure_layers(model, broden, {layer: cache}, PASS)[layer]


def count_all(summary: LayerSummary, broden: Broden) -> Counts:
    """The tally's counts of one pairing, as in a dissection."""
    return count(summary, broden, TALLY.iou_mode, TALLY.batch_size, TALLY.workers)[0][0]


def seconds(work: Callable[[], Any]) -> float:
    """The time that a call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def bare_forward(model: nn.Module, broden: Broden, batch_size: int) -> Callable[[], None]:
    """A function that passes all images, decoded and preprocessed in memory before, through the network."""
    images = torch.stack([torch.from_numpy(np.array(broden.image(index))) for index in range(len(broden))])
    images = PREPROCESS["netdissect"](images)  # (N, 224, 224, 3) -> (N, 3, 224, 224), channels last

    @torch.inference_mode()
    def forward() -> None:
        for batch in progress(images.split(batch_size), desc="bare forward"):
            model(batch)

    return forward


def reference_counts(summary: LayerSummary, broden: Broden) -> Counts:
    """The counts of IOU_MODE 'lite' (Bau et al. 2017, section 2.3) in plain loops."""
    thresholds = summary.thresholds
    counts = Counts.zeros(len(thresholds), len(broden.names), len(broden.categories))
    for index in progress(range(len(broden)), desc="reference"):
        labels = broden.labels(index)
        height, width = labels.pixels.shape[1:]
        numbers = [[number for number in np.unique(layer) if number] for layer in labels.pixels]
        for layer, own in zip(labels.pixels, numbers, strict=True):
            for number in own:
                counts.truth[number] += (layer == number).sum()
        for number in labels.scalars:
            counts.truth[number] += height * width
        units, maps = summary.maps.get(index)
        for unit, unit_map in zip(units.tolist(), maps, strict=True):
            if unit_map.max() <= thresholds[unit]:
                continue
            upsampled = F.interpolate(unit_map[None, None], (height, width), mode="bilinear", align_corners=False)
            mask = (upsampled[0, 0] > np.float32(thresholds[unit])).numpy()
            categories = {int(broden.primary[number]) for number in labels.scalars}
            for layer, own in zip(labels.pixels, numbers, strict=True):
                for number in own:
                    common = (mask & (layer == number)).sum()
                    counts.intersect[unit, number] += common
                    if common:
                        categories.add(int(broden.primary[number]))
            for number in labels.scalars:
                counts.intersect[unit, number] += mask.sum()
            for category in categories:
                counts.activation[unit, category] += mask.sum()
    return counts


if __name__ == "__main__":
    main(get_args_parser().parse_args())
