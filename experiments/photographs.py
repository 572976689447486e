"""Network Dissection of networks trained on photographs, on photographs of concepts, beside untrained ones.

    python3 experiments/photographs.py --data data/photo_concepts
    python3 experiments/photographs.py --data data/photo_concepts --resnets A/epoch_9.pth B/epoch_9.pth
    python3 -m experiments.report                  # docs/RESULTS.md, which shows the rows

EfficientNet-Lite0 with its ImageNet weights at three depths, the shipped photo network at its head's map, and the
ResNets trained on Tiny-ImageNet that --resnets names, dense or with a DKA head. The control for each is the same
architecture with random weights (seed 0), dissected at the same layers. Writes a row per layer to
experiments/results/photographs.json, and skips the networks that have theirs; --again NAME repeats one.
"""

import argparse
import json
import logging
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

import numpy as np
import torch
from torch import nn

import settings
from experiments.measure import untrained
from experiments.origin import origin
from experiments.report import PHOTOGRAPHS
from models import build_model, load_snapshot
from models.feature_map import find_feature_map
from netdissect.broden import Broden
from netdissect.dissect import DissectedLayer, PassConfig, TallyConfig, measure_layers, score_layer
from netdissect.tally import interpretable, unique_detectors
from util.files import atomic_write

NAMES = {"resnet18": "ResNet-18", "resnet34": "ResNet-34", "resnet50": "ResNet-50"}
DEPTHS = ("_blocks.4", "_blocks.10")  # of EfficientNet-Lite0: maps of an eighth and a sixteenth of the image's side
PASS, TALLY = PassConfig(workers=2), TallyConfig(workers=2)  # the defaults of netdissect/settings.py
AUROC = 0.9  # from which a unit counts as a detector of the label that it tells best: a choice, like IoU's 0.04
SEED = 0  # of the untrained networks


@dataclass(frozen=True)
class Subject:
    """A network to dissect.

    Attributes:
        name: for people.
        model: in eval mode.
        layers: dotted names.
    """

    name: str
    model: nn.Module
    layers: tuple[str, ...]


def get_args_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="Broden-format folder of photographs")
    parser.add_argument("--resnets", metavar="PTH", nargs="+", default=[], help="ResNets trained on Tiny-ImageNet")
    parser.add_argument("--images", type=int, help="dissect only so many of the images (default: all)")
    parser.add_argument("--again", metavar="NAME", help="dissect the networks anew whose names have this in them")
    return parser


def main(args: argparse.Namespace, results: Path = PHOTOGRAPHS) -> None:
    """Dissect the networks that have no rows yet; the rows are written after each."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    broden = Broden(args.data, sample=args.images)
    about: dict[str, Any] = {"data": args.data.name, "images": len(broden), "rows": []}
    if results.exists():
        known = json.loads(results.read_text(encoding="utf-8"))
        if (known["data"], known["images"]) == (about["data"], about["images"]):
            about["rows"] = known["rows"]
    for subject in subjects(args.resnets):
        done = [row for row in about["rows"] if row["network"] == subject.name]
        if done and not (args.again and args.again in subject.name):
            print(f"{subject.name}: has its rows")
            continue
        rest = [row for row in about["rows"] if row not in done]
        about["rows"] = [*rest, *({**row, **origin()} for row in dissect(subject, broden))]
        with atomic_write(results) as temporary:
            temporary.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def subjects(resnets: Sequence[str]) -> Iterator[Subject]:
    """The trained networks, then those of each architecture with random weights."""
    network = build_model("efficientnet_lite0", settings.DATASETS.imagenet.num_classes).eval()
    layers = (*DEPTHS, map_of(network))
    yield Subject("EfficientNet-Lite0, ImageNet", network, layers)
    yield Subject("EfficientNet-Lite0, untrained", untrained(network, SEED), layers)
    photos, about = load_snapshot(ROOT / settings.SHIPPED_PHOTO_SNAPSHOT)
    yield Subject(f"the photo network (K = {about['topk']})", photos, (map_of(photos),))
    controls = {}
    for path in resnets:
        trained, about = load_snapshot(path)
        head = f"K = {about['topk']}" if about["topk"] else "dense"
        name = NAMES[about["arch"].removesuffix("_fc_ma")]
        yield Subject(f"{name}, Tiny-ImageNet ({head}, {about['epoch'] + 1} epochs)", trained, (map_of(trained),))
        controls[name] = trained
    for name, trained in controls.items():
        yield Subject(f"{name}, untrained", untrained(trained, SEED), (map_of(trained),))


def map_of(network: nn.Module) -> str:
    """The layer whose mean is the head's input."""
    layer = find_feature_map(network).layer
    assert layer is not None  # all networks of this study have one
    return layer


def dissect(subject: Subject, broden: Broden) -> Iterator[dict[str, Any]]:
    """A row for each layer; `seconds` are those of all its layers together."""
    start = time.perf_counter()
    subject.model.to(memory_format=torch.channels_last)
    with tempfile.TemporaryDirectory() as folder:
        caches = {layer: Path(folder) / layer for layer in subject.layers}
        summaries = measure_layers(subject.model, broden, caches, PASS)
        found = {name: score_layer(name, summaries[name], broden, TALLY) for name in subject.layers}
    seconds = round(time.perf_counter() - start)
    for name, layer in found.items():
        yield {"network": subject.name, "layer": name, "seed": SEED, "seconds": seconds, **numbers(layer)}


def numbers(layer: DissectedLayer) -> Mapping[str, Any]:
    """What a row says of a layer.

    Returns:
        units, mean_iou: all of them, and the mean of their best IoUs
        interpretable, unique: units of IoU >= 0.04, and their different labels
        by_category: the same two, in this order, of each category of the best labels
        above_chance, chance_95: units above the 95th percentile of masks that met other images' labels, and that IoU
        told, told_unique, told_by_category: as the first three, of the labels that units tell best by AUROC, at >= 0.9
    """
    found = interpretable(layer.rows, TALLY.score_threshold)
    told = [row for row in layer.agreement if (row.auroc_best or 0) >= AUROC]
    assert layer.chance is not None  # TALLY has a round of it
    return {
        "units": len(layer.rows),
        "mean_iou": round(float(np.mean([row.score for row in layer.rows])), 4),
        "interpretable": len(found),
        "unique": len(unique_detectors(found)),
        "by_category": by_category((row.category, row.label) for row in found),
        "above_chance": layer.chance["units_above_95"],
        "chance_95": round(layer.chance["null_95"], 4),
        "told": len(told),
        "told_unique": len({row.auroc_label for row in told}),
        "told_by_category": by_category((row.auroc_category, row.auroc_label) for row in told),
    }


def by_category(labels: Iterable[tuple[str, str]]) -> dict[str, tuple[int, int]]:
    """By category, how many units have a label of it, and how many different labels; from (category, label) of each."""
    of: dict[str, list[str]] = {}
    for category, label in labels:
        of.setdefault(category, []).append(label)
    return {category: (len(own), len(set(own))) for category, own in sorted(of.items())}


if __name__ == "__main__":
    main(get_args_parser().parse_args())
