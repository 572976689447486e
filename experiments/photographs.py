"""Network Dissection of networks trained on photographs, on photographs of concepts, beside untrained ones.

    python3 experiments/photographs.py --data data/photo_concepts
    python3 experiments/photographs.py --data data/photo_concepts --resnet snapshot/X/epoch_14.pth
    python3 -m experiments.report                  # docs/RESULTS.md, which shows the rows

EfficientNet-Lite0 with its ImageNet weights at three depths, the shipped photo network at its head's map, and a
ResNet-18 trained on Tiny-ImageNet, if --resnet names one. The control for each is the same architecture with random
weights (seed 0), dissected at the same layers. Writes a row per layer to experiments/results/photographs.json.
"""

import argparse
import json
import logging
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

import numpy as np
import torch
from torch import nn

import settings
from experiments.origin import origin
from experiments.report import PHOTOGRAPHS
from models import build_model, load_snapshot
from models.feature_map import find_feature_map
from netdissect.broden import Broden
from netdissect.dissect import DissectedLayer, PassConfig, TallyConfig, measure_layers, score_layer
from netdissect.tally import interpretable, unique_detectors

DEPTHS = ("_blocks.4", "_blocks.10")  # of EfficientNet-Lite0: maps of an eighth and a sixteenth of the image's side
PASS, TALLY = PassConfig(workers=2), TallyConfig(workers=2)  # the defaults of netdissect/settings.py


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
    parser.add_argument("--resnet", metavar="PTH", help="snapshot of a ResNet-18 trained on Tiny-ImageNet")
    parser.add_argument("--images", type=int, help="dissect only so many of the images (default: all)")
    return parser


def main(args: argparse.Namespace) -> None:
    """Dissect all networks, and write the rows."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    broden = Broden(args.data, sample=args.images)
    rows = [row for subject in subjects(args.resnet) for row in dissect(subject, broden)]
    about = {"data": args.data.name, "images": len(broden), **origin(), "rows": rows}
    PHOTOGRAPHS.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def subjects(resnet: str | None) -> Iterator[Subject]:
    """The trained networks, each followed by the same with random weights."""
    network = build_model("efficientnet_lite0", settings.DATASETS.imagenet.num_classes).eval()
    layers = (*DEPTHS, map_of(network))
    yield Subject("EfficientNet-Lite0, ImageNet", network, layers)
    yield Subject("EfficientNet-Lite0, untrained", untrained(network), layers)
    photos, about = load_snapshot(ROOT / settings.SHIPPED_PHOTO_SNAPSHOT)
    yield Subject(f"the photo network (K = {about['topk']})", photos, (map_of(photos),))
    if resnet:
        trained, about = load_snapshot(resnet)
        head = f"K = {about['topk']}" if about["topk"] else "dense"
        yield Subject(f"ResNet-18, Tiny-ImageNet ({head}, {about['epoch'] + 1} epochs)", trained, (map_of(trained),))
        yield Subject("ResNet-18, untrained", untrained(trained), (map_of(trained),))


def map_of(network: nn.Module) -> str:
    """The layer whose mean is the head's input."""
    layer = find_feature_map(network).layer
    assert layer is not None  # all networks of this study have one
    return layer


def untrained(network: nn.Module) -> nn.Module:
    """The network itself, its weights drawn anew as its modules draw them."""
    torch.manual_seed(0)
    for module in network.modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
    return network


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
        yield {"network": subject.name, "layer": name, "seconds": seconds, **numbers(layer)}


def numbers(layer: DissectedLayer) -> Mapping[str, float]:
    """What a row says of a layer; 'above chance': of the 95th percentile of masks that met other images' labels."""
    found = interpretable(layer.rows, TALLY.score_threshold)
    objects = [row for row in found if row.category != "color"]
    assert layer.chance is not None  # TALLY has a round of it
    return {
        "units": len(layer.rows),
        "interpretable": len(found),
        "unique": len(unique_detectors(found)),
        "interpretable_but_colors": len(objects),
        "unique_but_colors": len(unique_detectors(objects)),
        "mean_iou": round(float(np.mean([row.score for row in layer.rows])), 4),
        "above_chance": layer.chance["units_above_95"],
        "chance_95": round(layer.chance["null_95"], 4),
    }


if __name__ == "__main__":
    main(get_args_parser().parse_args())
