"""What the study measures of a network: accuracy, votes, routes, faithfulness, and how its units stand to concepts."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.heads import run_in_blocks
from explain.faithfulness import at_random, by_votes, controls
from explain.routes import overlaps, within_and_between
from explain.sparsity import accuracy_at, accuracy_of, compare_frozen, contributing, effective_concepts
from explain.variety import (
    class_independence,
    contrastiveness,
    correlations,
    mean_where,
    route_variety,
    spatial_diversity,
)
from explain.votes import spaced
from models import Head
from models.dynamic_k import DynamicKLinear
from models.heads import predict
from netdissect.broden import Broden
from netdissect.config import IOU_MODES
from netdissect.dissect import PassConfig, TallyConfig, measure_layers, score_layer
from netdissect.features import stream_features
from netdissect.layout import find_layouts
from netdissect.tally import TallyRow, interpretable, unique_detectors
from settings import SCORE_THRESHOLD

FEATURE_LAYER = "layer4"  # of the ResNets that are studied
SHOWN = 5  # the largest votes, as an explanation shows them
TOP = 4  # the votes whose share the paper's figures are about
SAMPLE = 1000  # images, evenly spaced, of which pairs are compared and units silenced
# Of Network Dissection, whatever its settings.py says:
QUANTILE = 0.005
CHANCE_ROUNDS = 2
PREPROCESS = "imagenet"  # as the networks were trained with


class Votes(NamedTuple):
    """The votes for the predicted classes of V images.

    Attributes:
        vote: (V, N).
        active: (V, N) bool, the chosen votes other than zero.
        shown: (V, SHOWN) the units of the largest active votes, from 0; -1 where there are fewer.
    """

    vote: Tensor
    active: Tensor
    shown: Tensor


@torch.inference_mode()
def votes_of(head: Head, pooled: Tensor, classes: Tensor) -> Votes:
    """Take the scores of a head apart.

    Args:
        head: maps (V, N) to (V, C).
        pooled: (V, N).
        classes: (V,) whose scores.
    """
    vote = head.votes(pooled, classes)  # (V, N)
    active = head.chosen(pooled, classes) & (vote != 0)
    value, unit = vote.masked_fill(~active, -torch.inf).topk(min(SHOWN, vote.shape[1]), 1)
    return Votes(vote, active, unit.masked_fill(value == -torch.inf, -1))


def measure_head(head: Head, pooled: Tensor, targets: Tensor) -> dict[str, Any]:
    """Accuracy, votes, routes and faithfulness of a head on the pooled features (V, N) of images of classes (V,).

    Shares, overlaps and areas are numbers from 0 to 1, accuracies per cent. A unit is active in an image if its vote
    for the predicted class was chosen and is not zero.

    Returns:
        top1, top5, loss
        active_units: per prediction
        top4_share, residual: of the absolute active votes, those of the four largest, and the rest
        units_per_class, units_total: different active units of the images predicted as a class, and of all
        overlap_within, overlap_between: mean Jaccard similarity of two images' active units, of one or two classes
        shown_units_total, shown_overlap_within, shown_overlap_between: the same of the five largest votes only
        deletion, insertion: areas under the probability of the predicted class as the units of the five largest votes
            are silenced, or kept; the same after random_, active_, outside_ and other_route_, of the controls
        top1_without: top-1 of the same images with these five silenced
        top1_frozen, frozen_agreement: of the head whose classes keep their K largest weights (five of a dense head)
        top1_nec5: of the head whose classes keep their five weights of largest absolute value
        nec, ncc: weights per class that are not zero; votes that make up 95 % of a score
        effective_units, different_units, unit_correlation: of the five largest votes' units, how many different ones
            they are worth, groups of near-duplicates, mean correlation of two
        class_independence, contrastiveness: of all units that are shown
    """
    logits = run_in_blocks(head, pooled)  # (V, C)
    classes = logits.argmax(1)
    votes = votes_of(head, pooled, classes)
    shown = torch.zeros(len(pooled), pooled.shape[1] + 1, dtype=torch.bool)
    shown = shown.scatter_(1, votes.shown % (pooled.shape[1] + 1), True)[:, :-1]  # -1 is the column that is cut off
    some = spaced(len(pooled), SAMPLE)
    return {
        "top1": 100 * (classes == targets).double().mean().item(),
        "top5": 100 * (logits.topk(5, 1).indices == targets[:, None]).any(1).double().mean().item(),
        "loss": F.cross_entropy(logits, targets).item(),
        **_concentration(votes),
        "units_per_class": float(np.mean([votes.active[classes == c].any(0).sum().item() for c in classes.unique()])),
        "units_total": int(votes.active.any(0).sum()),
        **_overlap("", votes.active[some], classes[some]),
        "shown_units_total": int(shown.any(0).sum()),
        **_overlap("shown_", shown[some], classes[some]),
        **_faithfulness(head, pooled[some], classes[some], targets[some]),
        **_sparsity(head, pooled, classes, targets),
        **_variety(pooled, targets, votes.shown),
    }


def _concentration(votes: Votes) -> dict[str, float]:
    """How many units there are in a score, and how much of it the four largest votes are."""
    size = (votes.vote * votes.active).abs().double()
    total = size.sum(1)
    top = torch.where(total > 0, size.topk(TOP, 1).values.sum(1) / total, 1.0)  # nothing is beyond them
    return {
        "active_units": votes.active.sum(1).double().mean().item(),
        "top4_share": top.mean().item(),
        "residual": 1 - top.mean().item(),
    }


def _overlap(kind: str, sets: Tensor, classes: Tensor) -> dict[str, float]:
    """Mean Jaccard similarity of the sets of units (V, N) of two different images: of one class, of two classes."""
    count = classes.bincount()
    within, between = within_and_between(overlaps(sets, classes, len(count)), count)
    return {f"{kind}overlap_within": within, f"{kind}overlap_between": between}


def _faithfulness(head: Head, pooled: Tensor, classes: Tensor, targets: Tensor) -> dict[str, float]:
    """Areas of silencing, one by one, the units of the largest votes, and those of each control."""
    steps = min(SHOWN, pooled.shape[1])
    curves = {"": by_votes(head, pooled, classes, steps), "random_": at_random(head, pooled, classes, steps)}
    for name, ways in controls(head, pooled, classes, steps).items():
        curves[name.replace(" ", "_") + "_"] = ways
    areas = {kind + way: ways[way].area.double().mean().item() for kind, ways in curves.items() for way in ways}
    return {**areas, "top1_without": _percent(accuracy_of(curves[""]["deletion"].prediction[:, -1], targets.tolist()))}


def _sparsity(head: Head, pooled: Tensor, classes: Tensor, targets: Tensor) -> dict[str, float]:
    """How few weights and votes the head needs, and whether it chooses."""
    true = targets.tolist()
    frozen = compare_frozen(head, pooled, true, of_dense=min(SHOWN, head.in_features))
    return {
        "top1_frozen": _percent(frozen.frozen_accuracy),
        "frozen_agreement": frozen.agreement,
        "top1_nec5": _percent(accuracy_at(head, pooled, true)),
        "nec": effective_concepts(head),
        "ncc": contributing(head, pooled, classes).double().mean().item(),
    }


def _variety(pooled: Tensor, targets: Tensor, shown: Tensor) -> dict[str, float | None]:
    """How different the units of the largest votes (V, SHOWN) are, -1 standing for none."""
    found = route_variety(correlations(pooled), shown.clamp(min=0), shown >= 0)
    used = shown[shown >= 0].unique()
    return {
        "effective_units": found.effective.mean().item(),
        "different_units": found.groups.double().mean().item(),
        "unit_correlation": mean_where(found.correlation),
        "class_independence": class_independence(pooled[:, used], targets),
        "contrastiveness": contrastiveness(pooled[spaced(len(pooled), SAMPLE)][:, used]),
    }


def _percent(share: float | None) -> float:
    return float("nan") if share is None else 100 * share


@torch.inference_mode()
def accuracy_by_k(head: Head, pooled: Tensor, targets: Tensor, ks: tuple[int, ...]) -> dict[str, float]:
    """Top-1 in per cent of the same weights with another K at test time."""
    found = {}
    for k in ks:
        other = DynamicKLinear(head.in_features, head.out_features, topk=k)
        other.load_state_dict({"weight": head.weight, "bias": head.bias})
        found[str(k)] = 100 * (predict(other, pooled) == targets).double().mean().item()
    return found


def untrained(network: nn.Module, seed: int) -> nn.Module:
    """The network itself, its weights drawn anew as its modules draw them: the control for what training teaches."""
    torch.manual_seed(seed)
    for module in network.modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
    return network


# --- concepts -----------------------------------------------------------------------------------------------------


class Dissection(NamedTuple):
    """A network's last layer, dissected, by the mode of the IoU."""

    rows: dict[str, list[TallyRow]]
    metrics: dict[str, Any]


def dissect(model: nn.Module, broden: Broden, workers: int) -> Dissection:
    """Name the units by the concepts of a Broden folder, in both IoU modes.

    For each mode the metrics have, after its name: interpretable (units of IoU >= 0.04), unique (detectors among them),
    best_iou (mean over all units), above_chance (units above the 95th percentile of chance).
    """
    rows: dict[str, list[TallyRow]] = {}
    metrics: dict[str, Any] = {}
    once = PassConfig(preprocess=PREPROCESS, quantile=QUANTILE, workers=workers)
    with TemporaryDirectory() as folder:
        summary = measure_layers(model, broden, {FEATURE_LAYER: Path(folder) / "cache"}, once)[FEATURE_LAYER]
        for mode in IOU_MODES:
            tally = TallyConfig(mode, SCORE_THRESHOLD, CHANCE_ROUNDS, workers=workers)
            layer = score_layer(FEATURE_LAYER, summary, broden, tally)
            assert layer.chance is not None  # since CHANCE_ROUNDS is not 0
            rows[mode], found = layer.rows, interpretable(layer.rows, SCORE_THRESHOLD)
            metrics |= {
                f"{mode}_interpretable": len(found),
                f"{mode}_unique": len(unique_detectors(found)),
                f"{mode}_best_iou": float(np.mean([row.score for row in layer.rows])),
                f"{mode}_above_chance": layer.chance["units_above_95"],
            }
    return Dissection(rows, metrics)


class Scenes(NamedTuple):
    """What a network does on V images of a Broden folder: its maps (V, N, h, w)."""

    maps: Tensor
    broden: Broden


def look_at(model: nn.Module, broden: Broden, workers: int) -> Scenes:
    """Run a network over the images of a Broden folder, which must be few enough to hold all maps."""
    maps: dict[int, Tensor] = {}
    layouts = find_layouts(model, [FEATURE_LAYER], *broden.largest_image())
    for indices, batch in stream_features(model, layouts, broden, PREPROCESS, workers=workers):
        for index, own in zip(indices, batch[FEATURE_LAYER], strict=True):
            maps[index] = own
    return Scenes(torch.stack([maps[index] for index in range(len(broden))]), broden)


def pointing(head: Head, scenes: Scenes, rows: list[TallyRow]) -> dict[str, float]:
    """Are the concepts that an explanation names in the image, and where it points at?

    Known for certain only where every concept is known to the pixel. The units shown for a prediction are those of its
    (up to) five largest votes. Of these, as shares from 0 to 1:

        named: have a concept of IoU >= 0.04; of the others nothing is said
        present: of the named, the concept is in the image
        present_by_chance: of the named, the mean share of the images that have the concept
        pointing: of the present ones that are not labels of the whole image, the map's largest value (upsampled to
            the label map) lies on the concept (the pointing game of Zhang et al. 2016)
        pointing_by_chance: of the same, the mean share of the image that the concept covers
        sid5: SID@5 of the images that have five such units: do these look at different places?

    Args:
        head: of the network.
        scenes: images that the units were not named by.
        rows: the tally.
    """
    broden = scenes.broden
    concept = {row.unit - 1: row for row in rows if row.score >= SCORE_THRESHOLD}
    cover = [_coverage(broden, index) for index in range(len(broden))]
    frequency = {key: np.mean([key in own for own in cover]) for key in {key for own in cover for key in own}}
    pooled = scenes.maps.mean((2, 3))  # (V, N)
    shown = votes_of(head, pooled, predict(head, pooled)).shown
    named, present, expected, hits, areas = [], [], [], [], []
    for index, units in enumerate(shown.tolist()):
        for unit in (unit for unit in units if unit >= 0):
            named.append(unit in concept)
            if not named[-1]:
                continue
            key = (concept[unit].category, concept[unit].label)
            present.append(key in cover[index])
            expected.append(frequency.get(key, 0.0))
            where = cover[index].get(key)
            if where is not None and where.ndim:
                unit_map = scenes.maps[index, unit][None, None]  # (1, 1, h, w)
                fine = F.interpolate(unit_map, where.shape, mode="bilinear", align_corners=False)[0, 0]  # (sh, sw)
                hits.append(bool(where.flat[int(fine.argmax())]))
                areas.append(where.mean())

    def mean(values: Sequence[Any]) -> float:
        return float(np.mean(values)) if values else float("nan")

    return {
        "named": mean(named),
        "present": mean(present),
        "present_by_chance": mean(expected),
        "pointing": mean(hits),
        "pointing_by_chance": mean(areas),
        "sid5": _sid5(scenes.maps, shown),
    }


def _sid5(maps: Tensor, shown: Tensor) -> float:
    """Mean SID@5 of maps (V, N, h, w), of the units shown (V, SHOWN); NaN where no image has five."""
    five = (shown >= 0).all(1).nonzero().flatten() if shown.shape[1] == SHOWN else torch.empty(0, dtype=torch.int64)
    return spatial_diversity(maps[five[:, None], shown[five]]).mean().item()


def _coverage(broden: Broden, index: int) -> dict[tuple[str, str], np.ndarray]:
    """The concepts of an image by (category, name): where they are (sh, sw) bool, or a scalar for the whole of it."""
    labels = broden.labels(index)
    found: dict[tuple[str, str], np.ndarray] = {}
    for category, pixels in zip(labels.pixel_categories, labels.pixels, strict=True):
        for number in np.unique(pixels[pixels > 0]):
            key = (broden.categories[category], broden.names[number])
            found[key] = found.get(key, False) | (pixels == number)
    for category, number in zip(labels.scalar_categories, labels.scalars, strict=True):
        found[broden.categories[category], broden.names[number]] = np.array(True)
    return found
