"""What the study measures of a network: accuracy, votes, routes, faithfulness, and how its units stand to concepts."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.heads import ByMagnitude
from explain.faithfulness import ablation_curves, random_order
from explain.pictures import FEATURE_LAYER
from explain.votes import predict
from models.dynamic_k import DynamicKLinear
from netdissect import main as dissection
from netdissect.broden import Broden
from netdissect.features import stream_features
from netdissect.tally import IOU_MODES, TallyRow, interpretable, unique_detectors
from settings import SCORE_THRESHOLD

SHOWN = 5  # the largest votes, as an explanation shows them
TOP = 4  # the votes whose share the paper's figures are about
SAMPLE = 1000  # pictures, evenly spaced, of which pairs are compared and units silenced
# Of Network Dissection, whatever its settings.py says:
QUANTILE = 0.005
CHANCE_ROUNDS = 2
PREPROCESS = "imagenet"  # as the networks were trained with


class Votes(NamedTuple):
    """The votes for the predicted classes of V pictures.

    Attributes:
        vote: (V, N).
        chosen: (V, N) bool, which of them the score is the sum of; votes of zero have no part.
        shown: (V, SHOWN) the units of the largest chosen votes, from 0; -1 where there are fewer.
    """

    vote: Tensor
    chosen: Tensor
    shown: Tensor


@torch.inference_mode()
def votes_of(head: nn.Linear, pooled: Tensor, classes: Tensor) -> Votes:
    """Take the scores of a head apart, dense, sparse or DKA.

    Args:
        head: maps (V, N) to (V, C).
        pooled: (V, N).
        classes: (V,) whose scores.
    """
    vote = pooled * head.weight[classes]  # (V, N)
    chosen = vote != 0
    if isinstance(head, DynamicKLinear) and head.topk < head.in_features:
        rank = vote.abs() if isinstance(head, ByMagnitude) else vote
        chosen &= torch.zeros_like(chosen).scatter_(1, rank.topk(head.topk, 1).indices, True)
    value, unit = vote.masked_fill(~chosen, -torch.inf).topk(SHOWN, 1)
    return Votes(vote, chosen, unit.masked_fill(value == -torch.inf, -1))


def measure_head(head: nn.Linear, pooled: Tensor, targets: Tensor) -> dict[str, Any]:
    """Accuracy, votes, routes and faithfulness of a head on the pooled features (V, N) of pictures of classes (V,).

    Shares, overlaps and areas are numbers from 0 to 1, accuracies per cent. A unit counts as active in a picture if
    its vote is among the chosen ones of the predicted class and not zero.

    Returns:
        top1, top5, loss
        active_units: per prediction
        top4_share, residual: of the absolute chosen votes, those of the four largest, and the rest
        units_per_class, units_total: different active units of the pictures predicted as a class, and of all
        overlap_within, overlap_between: mean Jaccard similarity of two pictures' active units, of one or two classes
        shown_units_total, shown_overlap_within, shown_overlap_between: the same of the five largest votes only
        deletion, insertion, random_deletion, random_insertion: areas under the probability of the predicted class
    """
    with torch.inference_mode():
        logits = torch.cat([head(block) for block in pooled.split(256)])  # (V, C)
    classes = logits.argmax(1)
    votes = votes_of(head, pooled, classes)
    size = (votes.vote * votes.chosen).abs().double()
    total = size.sum(1)
    top = torch.where(total > 0, size.topk(TOP, 1).values.sum(1) / total, 1.0)  # nothing is beyond them
    shown = torch.zeros(len(pooled), pooled.shape[1] + 1, dtype=torch.bool)
    shown = shown.scatter_(1, votes.shown % (pooled.shape[1] + 1), True)[:, :-1]  # -1 is the column that goes
    some = spaced(len(pooled), SAMPLE)
    within, between = overlaps(votes.chosen[some], classes[some])
    shown_within, shown_between = overlaps(shown[some], classes[some])
    return {
        "top1": 100 * (classes == targets).double().mean().item(),
        "top5": 100 * (logits.topk(5, 1).indices == targets[:, None]).any(1).double().mean().item(),
        "loss": F.cross_entropy(logits, targets).item(),
        "active_units": votes.chosen.sum(1).double().mean().item(),
        "top4_share": top.mean().item(),
        "residual": 1 - top.mean().item(),
        "units_per_class": float(np.mean([votes.chosen[classes == c].any(0).sum().item() for c in classes.unique()])),
        "units_total": int(votes.chosen.any(0).sum()),
        "overlap_within": within,
        "overlap_between": between,
        "shown_units_total": int(shown.any(0).sum()),
        "shown_overlap_within": shown_within,
        "shown_overlap_between": shown_between,
        **_faithfulness(head, pooled[some], classes[some], votes.vote[some]),
    }


def _faithfulness(head: nn.Linear, pooled: Tensor, classes: Tensor, vote: Tensor) -> dict[str, float]:
    """Areas of silencing, one by one, the units of the largest votes, or others that are active (pooled above zero)."""
    areas = {}
    orders = {"": vote.topk(SHOWN, 1).indices, "random_": random_order(pooled, SHOWN)}
    for kind, order in orders.items():
        for way in ("deletion", "insertion"):
            curves = ablation_curves(head, pooled, classes, order, keep=way == "insertion")
            areas[kind + way] = curves.area.double().mean().item()
    return areas


def spaced(count: int, most: int) -> Tensor:
    """All of `count` indices, or `most` of them, evenly spaced."""
    return torch.linspace(0, count - 1, min(most, count)).round().long()


def overlaps(sets: Tensor, classes: Tensor) -> tuple[float, float]:
    """Mean Jaccard similarity of the sets of units (V, N) of two different pictures: of one class, of two classes.

    Two empty sets are equal. NaN where there are no such pairs.
    """
    members = sets.float()
    shared = members @ members.T  # (V, V)
    size = members.sum(1)
    union = size[:, None] + size - shared
    jaccard = torch.where(union > 0, shared / union.clamp(min=1), 1.0).double()
    same = classes[:, None] == classes
    other = ~same
    same = same.clone().fill_diagonal_(False)
    return jaccard[same].mean().item(), jaccard[other].mean().item()


@torch.inference_mode()
def accuracy_by_k(head: nn.Linear, pooled: Tensor, targets: Tensor, ks: tuple[int, ...]) -> dict[str, float]:
    """Top-1 in per cent of the same weights with another K at test time."""
    found = {}
    for k in ks:
        other = DynamicKLinear(head.in_features, head.out_features, topk=k)
        other.load_state_dict(head.state_dict())
        found[str(k)] = 100 * (predict(other, pooled) == targets).double().mean().item()
    return found


# --- concepts -----------------------------------------------------------------------------------------------------


class Dissection(NamedTuple):
    """A network's last layer, dissected, by the mode of the IoU."""

    rows: dict[str, list[TallyRow]]
    metrics: dict[str, Any]


def dissect(model: nn.Module, broden: Broden, workers: int) -> Dissection:
    """Name the units by the concepts of a Broden folder, in both IoU modes.

    Of each mode the metrics have, behind its name: interpretable (units of IoU >= 0.04), unique (detectors among them),
    best_iou (mean over all units), above_chance (units above the 95th percentile of chance).
    """
    common = {"preprocess": PREPROCESS, "quantile": str(QUANTILE), "score_threshold": str(SCORE_THRESHOLD), "topn": "1",
              "chance_rounds": str(CHANCE_ROUNDS), "workers": str(workers)}  # fmt: skip
    rows: dict[str, list[TallyRow]] = {}
    metrics: dict[str, Any] = {}
    with TemporaryDirectory() as cache:
        folders = {FEATURE_LAYER: Path(cache)}
        for mode in IOU_MODES:
            config = dissection.make_config({**common, "iou_mode": mode})
            summary = dissection.measure(config, model, broden, torch.device("cpu"), folders)[FEATURE_LAYER]
            rows[mode], chance = dissection.score(config, broden, FEATURE_LAYER, summary)
            assert chance is not None  # for CHANCE_ROUNDS is not 0
            found = interpretable(rows[mode], SCORE_THRESHOLD)
            metrics |= {
                f"{mode}_interpretable": len(found),
                f"{mode}_unique": len(unique_detectors(found)),
                f"{mode}_best_iou": float(np.mean([row.score for row in rows[mode]])),
                f"{mode}_above_chance": chance["units_above_95"],
            }
    return Dissection(rows, metrics)


class Scenes(NamedTuple):
    """What a network does on V pictures of a Broden folder: its maps (V, N, h, w)."""

    maps: Tensor
    broden: Broden


def look_at(model: nn.Module, broden: Broden, workers: int) -> Scenes:
    """Run a network over the pictures of a Broden folder, which must be few enough to hold all maps."""
    maps: dict[int, Tensor] = {}
    for indices, batch in stream_features(model, [FEATURE_LAYER], broden, torch.device("cpu"), PREPROCESS,
                                          workers=workers):  # fmt: skip
        for index, own in zip(indices, batch[FEATURE_LAYER], strict=True):
            maps[index] = own
    return Scenes(torch.stack([maps[index] for index in range(len(broden))]), broden)


def pointing(head: nn.Linear, scenes: Scenes, rows: list[TallyRow]) -> dict[str, float]:
    """Are the concepts that an explanation names in the picture, and where it points at?

    Known for certain only where every concept is known to the pixel. The units shown for a prediction are those of its
    (up to) five largest votes. Of these, as shares from 0 to 1:

        named: have a concept of IoU >= 0.04; of the others nothing is said
        present: of the named, the concept is in the picture
        present_by_chance: of the named, the mean share of the pictures that have the concept
        pointing: of the present ones that are not labels of the whole picture, the map's largest value (upsampled to
            the label map) lies on the concept (the pointing game of Zhang et al. 2016)
        pointing_by_chance: of the same, the mean share of the picture that the concept covers

    Args:
        head: of the network.
        scenes: pictures that the units were not named by.
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
                fine = F.interpolate(scenes.maps[index, unit][None, None], where.shape, mode="bilinear",
                                     align_corners=False)[0, 0]  # fmt: skip
                hits.append(bool(where.flat[int(fine.argmax())]))
                areas.append(where.mean())

    def mean(values: Sequence[Any]) -> float:
        return float(np.mean(values)) if values else float("nan")

    return {"named": mean(named), "present": mean(present), "present_by_chance": mean(expected),
            "pointing": mean(hits), "pointing_by_chance": mean(areas)}  # fmt: skip


def _coverage(broden: Broden, index: int) -> dict[tuple[str, str], np.ndarray]:
    """The concepts of a picture by (category, name): where they are (sh, sw) bool, or a scalar for the whole of it."""
    labels = broden.labels(index)
    found: dict[tuple[str, str], np.ndarray] = {}
    for category, pixels in zip(labels.pixel_categories, labels.pixels, strict=True):
        for number in np.unique(pixels[pixels > 0]):
            key = (broden.categories[category], broden.names[number])
            found[key] = found.get(key, False) | (pixels == number)
    for category, number in zip(labels.scalar_categories, labels.scalars, strict=True):
        found[broden.categories[category], broden.names[number]] = np.array(True)
    return found
