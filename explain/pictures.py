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

    label: str
    category: str
    score: float


@dataclass(frozen=True)
class Explanation:
    """One explained picture.

    Attributes:
        record: its part of explain.json that comes from the network.
        maps: (R, H, W) the maps of the R listed units, in their order.
    """

    record: dict[str, Any]
    maps: Tensor


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
    """
    with layer_outputs(model, [FEATURE_LAYER]) as outputs:
        logits = model(images)  # (B, C)
    features = outputs[FEATURE_LAYER]  # (B, F, H, W)
    pooled = F.adaptive_avg_pool2d(features, 1).flatten(1).cpu()  # (B, F), as the network pools them
    probability = logits.softmax(1).cpu()  # (B, C)
    explanations = []
    for row, target in enumerate(targets):
        explained = target if explain_target else int(probability[row].argmax())
        votes = votes_for(model, pooled[row], explained)
        listed = votes.unit[:topn]  # (R,)
        record = {
            **_classes_of(probability[row], explained, target, classes),
            **_votes_of(votes, len(listed), concepts),
        }
        explanations.append(Explanation(record, features[row].cpu()[listed]))
    return explanations


def votes_for(model: nn.Module, pooled: Tensor, target: int) -> ClassVotes:
    """The votes of pooled features (F,) for class `target`; a dense head's are all chosen."""
    head = head_of(model)
    topk = getattr(head, "topk", head.in_features)
    return class_votes(pooled, head.weight[target].detach().cpu(), head.bias[target].item(), topk)


def _classes_of(probability: Tensor, explained: int, target: int | None, classes: Sequence[str]) -> dict[str, Any]:
    best = probability.topk(min(RANKED, len(classes)))
    ranking = [
        {"class": index, "name": classes[index], "probability": value}
        for index, value in zip(best.indices.tolist(), best.values.tolist(), strict=True)
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
    units = []
    for rank in range(listed):
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
                "active": bool(votes.active[rank]),
            }
        )
    others = votes.vote[listed:][votes.active[listed:]]
    return {
        "logit": votes.logit,
        "bias": votes.bias,
        "units": units,
        # With K > topn: the chosen units that are not listed, so that the terms still add up.
        "others": {"count": len(others), "vote": others.sum().item()},
    }
