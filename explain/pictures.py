"""Explaining predictions: from pictures to the records of explain.json."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from explain.votes import ClassVotes, class_votes
from models.hooks import layer_outputs
from models.resnet import head_of

FEATURE_LAYER = "layer4"
RANKED = 5  # classes listed with their probabilities


class Concept(Protocol):
    """What Network Dissection found out about a unit: one row of tally.csv."""

    @property
    def label(self) -> str:
        """The best concept's name."""

    @property
    def category(self) -> str:
        """Its category."""

    @property
    def score(self) -> float:
        """Its IoU."""


@dataclass(frozen=True)
class Explanation:
    """One explained picture.

    Attributes:
        record: its part of explain.json that comes from the network.
        maps: (R, H, W) the maps of the R listed units, in their order.
        pooled: (F,) the features that the votes are made of.
    """

    record: dict[str, Any]
    maps: Tensor
    pooled: Tensor


@torch.inference_mode()
def explain_pictures(
    model: nn.Module,
    images: Tensor,
    targets: Sequence[int | None],
    classes: Sequence[str],
    concepts: Mapping[int, Concept],
    topn: int,
    explain_target: bool = False,
) -> list[Explanation]:
    """Predict pictures and take the scores of their classes apart, in float32.

    Args:
        model: a network of `models.build_model`, in eval mode.
        images: (B, 3, H, W) normalised pictures, on the model's device.
        targets: their B true classes, None where unknown.
        classes: the C class names.
        concepts: what the units respond to, by unit number from 1.
        topn: how many of the largest votes are listed.
        explain_target: explain the score of the true class instead of the predicted one.

    Raises:
        ValueError: if a true class is to be explained that is not known.
    """
    if explain_target and None in targets:
        raise ValueError("explain_target: expected a true class for each picture")
    with layer_outputs(model, [FEATURE_LAYER]) as outputs:
        logits = model(images)  # (B, C)
    features = outputs[FEATURE_LAYER]  # (B, F, H, W)
    pooled = F.adaptive_avg_pool2d(features, 1).flatten(1)  # (B, F), as the network pools them
    probability = logits.softmax(1).cpu()  # (B, C)
    ranked = probability.topk(min(RANKED, len(classes)), 1).indices.tolist()  # B times, the most probable first
    own_classes = targets if explain_target else [best[0] for best in ranked]
    explained = [class_ for class_ in own_classes if class_ is not None]  # all B of them
    sides = [_contestants(best, target, own) for best, target, own in zip(ranked, targets, explained, strict=True)]
    votes = [{c: votes_for(model, row, c) for c in rivals} for row, rivals in zip(pooled.cpu(), sides, strict=True)]
    listed = torch.stack([of_class[c].unit[:topn] for of_class, c in zip(votes, explained, strict=True)])  # (B, R)
    without = _without(model, pooled, listed, explained, classes)
    explanations = []
    for row, target in enumerate(targets):
        own = votes[row][explained[row]]
        record = {
            **_classes_of(probability[row], ranked[row], explained[row], target, classes),
            **_votes_of(own, topn, concepts),
            "contest": _contest(votes[row], sides[row], probability[row], topn, classes, concepts),
        }
        for unit, ablated in zip(record["units"], without[row], strict=True):
            unit["without"] = ablated
        explanations.append(Explanation(record, features[row].cpu()[listed[row]], pooled[row].cpu()))
    return explanations


def votes_for(model: nn.Module, pooled: Tensor, target: int) -> ClassVotes:
    """The votes of pooled features (F,) for class `target`; a dense head's are all chosen."""
    head = head_of(model)
    topk = getattr(head, "topk", head.in_features)
    return class_votes(pooled, head.weight[target].detach().cpu(), head.bias[target].item(), topk)


def _classes_of(
    probability: Tensor, ranked: Sequence[int], explained: int, target: int | None, classes: Sequence[str]
) -> dict[str, Any]:
    ranking = [
        {"class": class_, "name": classes[class_], "probability": probability[class_].item()} for class_ in ranked
    ]
    return {
        "target": target,
        "target_name": None if target is None else classes[target],
        "prediction": ranking[0]["class"],
        "prediction_name": ranking[0]["name"],
        "probability": ranking[0]["probability"],
        "explained": explained,
        "explained_name": classes[explained],
        "ranking": ranking,
    }


def _votes_of(votes: ClassVotes, listed: int, concepts: Mapping[int, Concept]) -> dict[str, Any]:
    """The terms of a score: the largest votes one by one, the other chosen ones as a sum, and the bias."""
    units = []
    cumulative = votes.share.abs().cumsum(0)  # (N,)
    for rank in range(min(listed, len(votes.unit))):
        number = int(votes.unit[rank]) + 1
        concept = concepts[number]
        units.append(
            {
                "unit": number,
                "label": concept.label,
                "category": concept.category,
                "iou": concept.score,
                "vote": votes.vote[rank].item(),
                "percent": votes.percent[rank].item(),
                "share": votes.share[rank].item(),
                "cumulative": cumulative[rank].item(),
                "active": bool(votes.active[rank]),
            }
        )
    others = votes.vote[listed:][votes.active[listed:]]
    return {
        "logit": votes.logit,
        "bias": votes.bias,
        "units": units,
        # With K > topn: the chosen units that are not listed, so that the terms still add up.
        "others": {"count": len(others), "vote": others.sum().item(), "share": votes.share[listed:].abs().sum().item()},
    }


def _contestants(ranked: Sequence[int], target: int | None, explained: int) -> dict[int, list[str]]:
    """The classes that are compared, with what each of them is: the predicted one, the runner-up, the true one."""
    roles: dict[int, list[str]] = {}
    for class_, role in zip(ranked, ("predicted", "runner-up"), strict=False):  # of one class, no runner-up
        roles.setdefault(class_, []).append(role)
    if target is not None:
        roles.setdefault(target, []).append("true")
    roles.setdefault(explained, [])
    return roles


def _contest(
    votes: Mapping[int, ClassVotes],
    roles: Mapping[int, list[str]],
    probability: Tensor,
    topn: int,
    classes: Sequence[str],
    concepts: Mapping[int, Concept],
) -> list[dict[str, Any]]:
    """Why this class and not that: the score of each contestant, and which of its units the others go through too."""
    routes = {class_: set(own.unit[own.active][:topn].tolist()) for class_, own in votes.items()}
    sides = []
    for class_, own in votes.items():
        side = {
            "class": class_,
            "name": classes[class_],
            "roles": roles[class_],
            "probability": probability[class_].item(),
            **_votes_of(own, topn, concepts),
        }
        side["units"] = [
            {name: unit[name] for name in ("unit", "label", "category", "iou", "vote", "active")}
            | {"also": [classes[other] for other in routes if other != class_ and unit["unit"] - 1 in routes[other]]}
            for unit in side["units"]
        ]
        sides.append(side)
    return sides


def _without(
    model: nn.Module, pooled: Tensor, units: Tensor, explained: Sequence[int], classes: Sequence[str]
) -> list[list[dict[str, Any]]]:
    """What the network says when one unit is silent: for each of the units (B, R) of pooled features (B, F)."""
    silent = pooled[:, None].repeat(1, units.shape[1], 1)  # (B, R, F)
    silent.scatter_(2, units[..., None].to(pooled.device), 0.0)
    probability = head_of(model)(silent).softmax(2).cpu()  # (B, R, C)
    return [
        [
            {"probability": row[own].item(), "prediction": int(row.argmax()), "prediction_name": classes[row.argmax()]}
            for row in of_picture
        ]
        for of_picture, own in zip(probability, explained, strict=True)
    ]
