"""What Network Dissection costs beside the bare forward pass, and beside a plain loop over units.

    python3 benchmarks/dissect.py                        # 1,000 pictures, about four minutes on two cores
    python3 benchmarks/dissect.py --pictures 100         # a short one

Dissects the shipped ResNet-18 on mini_broden, in float32 on the CPU, and prints Markdown tables: the whole dissection
(measuring, tally, chance; without the page), its steps, the reference loop with the same numbers, and how the cost
grows with pictures, units and labels.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

import numpy as np
import torch
from easydict import EasyDict
from torch.nn import functional as F

import settings
from engine import progress
from loader.mini_places import ensure_mini_places
from models import load_snapshot
from netdissect import main as dissection
from netdissect.activity import ActiveMaps, LayerSummary, StoredMaps
from netdissect.broden import Broden
from netdissect.features import PREPROCESS
from netdissect.tally import Counts, count, iou, write_tally

LAYERS = ("layer1", "layer2", "layer3", "layer4")  # 64, 128, 256, 512 units


def get_args_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=1000, help="of mini_broden (default 1000, all of them)")
    parser.add_argument("--rounds", type=int, default=3, help="times that what is compared is measured (default 3)")
    parser.add_argument("--no_growth", action="store_true", help="leave the tables of growth out")
    return parser


def main(args: argparse.Namespace) -> None:
    """Measure, and print the tables."""
    data = ensure_mini_places(ROOT / settings.DATA_ROOT)[1]
    broden = Broden(data, sample=args.pictures)
    model, _ = load_snapshot(ROOT / settings.SHIPPED_SNAPSHOT)
    model.to(memory_format=torch.channels_last)
    config = make_config("layer4")
    print(f"{len(broden)} pictures of 224 px, ResNet-18, layer4, float32, PyTorch {torch.__version__}, "
          f"{torch.get_num_threads()} threads\n")  # fmt: skip

    forward, whole, tally = [], [], []
    for _ in range(args.rounds):  # in turns, so that a busy machine does not favour one of them
        forward.append(seconds(bare_forward(model, broden, config.batch_size)))
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            summary = dissection.measure(config, model, broden, torch.device("cpu"), {"layer4": Path(folder)})["layer4"]
            rows, _ = dissection.score(config, broden, "layer4", summary)
            write_tally(Path(folder) / "tally.csv", rows)
            whole.append(time.perf_counter() - start)
            start = time.perf_counter()
            counts = count_all(config, broden, summary)
            tally.append(time.perf_counter() - start)
    start = time.perf_counter()
    reference = reference_counts(summary.maps, summary.thresholds, broden)
    loop = time.perf_counter() - start
    for name in ("truth", "intersect", "activation"):
        np.testing.assert_array_equal(getattr(reference, name), getattr(counts, name), err_msg=name)
    np.testing.assert_array_equal(iou(reference, broden.primary), iou(counts, broden.primary))

    measured = {
        "bare forward pass, pictures in memory": forward,
        "whole dissection, with chance, without page": whole,
        "tally alone": tally,
        "reference loop: one unit, one label at a time": [loop],
    }
    print("| what | median, s | range, s | ms per picture |\n|---|---:|---:|---:|")
    for name, values in measured.items():
        median, low, high = np.median(values), min(values), max(values)
        each = 1000 * median / len(broden)
        print(f"| {name} | {median:.2f} | {low:.2f} to {high:.2f} | {each:.2f} |")
    print(f"\nWhole dissection / bare forward pass: {np.median(whole) / np.median(forward):.2f}; "
          f"reference loop / tally, equal numbers: {loop / np.median(tally):.1f}\n")  # fmt: skip
    if not args.no_growth:
        growth(model, data, args.pictures)


def growth(model: torch.nn.Module, data: Path, pictures: int) -> None:
    """Tables of the tally's time against pictures, units and labels."""
    print("| pictures | layer | units | categories | labels | measuring, s | tally, s |")
    print("|---:|---|---:|---|---:|---:|---:|")
    cases: list[tuple[int, str, list[str] | None]] = [
        (part, "layer4", None) for part in (pictures // 4, pictures // 2, pictures)
    ]
    cases += [(pictures // 2, layer, None) for layer in LAYERS[:-1]]
    cases += [(pictures // 2, "layer4", chosen) for chosen in (["object"], ["object", "part"])]
    for number, layer, categories in cases:
        broden = Broden(data, categories=categories, sample=number)
        config = make_config(layer)
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            summary = dissection.measure(config, model, broden, torch.device("cpu"), {layer: Path(folder)})[layer]
            measuring = time.perf_counter() - start
            spent = seconds(lambda: count_all(config, broden, summary))  # noqa: B023 - called at once
        used = {int(number) for i in range(len(broden)) for number in np.unique(broden.labels(i).pixels)}
        print(f"| {len(broden)} | {layer} | {len(summary.thresholds)} | {', '.join(categories or ['all'])} | "
              f"{len(used - {0})} | {measuring:.2f} | {spent:.2f} |")  # fmt: skip


def make_config(layer: str) -> EasyDict:
    """The settings of a dissection of one layer, as main.py has them but for the device."""
    return dissection.make_config({"gpu": "False", "feature_names": layer})


def seconds(work: Callable[[], Any]) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def bare_forward(model: torch.nn.Module, broden: Broden, batch_size: int) -> Callable[[], None]:
    """A call that passes all pictures, already decoded and preprocessed in memory, through the network."""
    pictures = torch.stack([torch.from_numpy(np.array(broden.picture(index))) for index in range(len(broden))])
    pictures = PREPROCESS["netdissect"](pictures)  # (N, 224, 224, 3) -> (N, 3, 224, 224), channels last

    @torch.inference_mode()
    def forward() -> None:
        for batch in progress(pictures.split(batch_size), desc="bare forward"):
            model(batch)

    return forward


def count_all(config: EasyDict, broden: Broden, summary: LayerSummary) -> Counts:
    """The tally's counts of one pairing, as in a dissection."""
    return count(summary.maps, summary.thresholds, broden, config.iou_mode, config.tally_batch_size, config.workers)[0]


def reference_counts(active: ActiveMaps | StoredMaps, thresholds: np.ndarray, broden: Broden) -> Counts:
    """The counts of IOU_MODE 'lite' (Bau et al. 2017, section 2.3) as one would write them down at first."""
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
        units, maps = active.get(index)
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
