"""Explaining predictions: from images to the records of explain.json."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

import settings
from explain.naming import Names
from explain.records import (
    Contestant,
    ExplanationRecord,
    Guess,
    MapScale,
    Prediction,
    RivalVote,
    Score,
    UnitVote,
    Without,
)
from explain.subjects import Subject, batched
from explain.votes import ClassVotes, class_votes
from models import Head, head_of
from models.feature_map import FeatureMap, find_feature_map
from models.hooks import layer_inputs, layer_outputs
from util.cli import UserError

BATCH = 16  # images through the network at one time
RANKED = 5  # classes listed with their probabilities


@dataclass(frozen=True)
class Classifier:
    """A network as explanations see it.

    Attributes:
        model: images (B, 3, H, W) -> scores (B, C), in eval mode.
        head: its head, whose votes are explained.
        feature_map: where the units' heat maps come from, if there are any.
    """

    model: nn.Module
    head: Head
    feature_map: FeatureMap

    @classmethod
    def of(cls, model: nn.Module) -> "Classifier":
        """Look a network over, by running it on noise. Raises ValueError if it has no head, or takes no image."""
        return cls(model, head_of(model), find_feature_map(model))


class NotFiniteError(ValueError):
    """A network's features or scores of an image are NaN or infinite.

    Attributes:
        row: of the image in its batch.
    """

    def __init__(self, row: int):
        super().__init__(f"image {row} of the batch: the network's features or scores of it are not finite")
        self.row = row


@dataclass(frozen=True)
class Answer:
    """What a network says of one image, taken apart.

    Attributes:
        record: its part of explain.json that comes from the network.
        maps: (R, h, w) the maps of the R listed units, in their order; None if the network has none.
        pooled: (N,) the features that the votes are made of.
        weights: (R,) those of the listed units for the explained class.
    """

    record: ExplanationRecord
    maps: Tensor | None
    pooled: Tensor
    weights: Tensor

    @property
    def vote_maps(self) -> Tensor | None:
        """(R, h, w) what each position adds to a unit's vote: W_cu * A_u / (h * w).

        A map sums to its vote where the head's input is the mean of the map (`FeatureMap.direct`).
        """
        if self.maps is None:
            return None
        positions = self.maps.shape[1] * self.maps.shape[2]
        return self.weights[:, None, None] * self.maps / positions


def explain_subjects(
    network: Classifier, subjects: Iterable[Subject], names: Names, topn: int, explain_target: bool = False
) -> Iterator[tuple[Subject, Answer]]:
    """Explain images as they are read, in batches; arguments and errors as of `explain_images`.

    Raises:
        UserError: naming the image whose features or scores are not finite.
    """
    device = network.head.weight.device
    for batch in batched(subjects, BATCH):
        images = torch.stack([subject.image for subject in batch])  # (B, 3, H, W)
        targets = [subject.target for subject in batch]
        try:
            answers = explain_images(network, images.to(device), targets, names, topn, explain_target)
        except NotFiniteError as error:
            raise UserError(
                f"{batch[error.row].file}: the network's features or scores of this image are not finite"
            ) from error
        yield from zip(batch, answers, strict=True)


def explain_images(
    network: Classifier,
    images: Tensor,
    targets: Sequence[int | None],
    names: Names,
    topn: int,
    explain_target: bool = False,
) -> list[Answer]:
    """Predict images and take the scores of their predicted classes, or the true ones, apart, in float32.

    Args:
        network: the network.
        images: (B, 3, H, W) normalised images, on its device.
        targets: their B true classes, None where unknown.
        names: of classes and units.
        topn: how many of the largest votes are listed.
        explain_target: explain the score of the true class instead of the predicted one.

    Raises:
        ValueError: if a true class is to be explained that is not known.
        NotFiniteError: as `explain_classes`.
    """
    if explain_target and None in targets:
        raise ValueError("explain_target: expected a true class for each image")
    wanted = targets if explain_target else [None] * len(targets)
    return explain_classes(network, images, targets, wanted, names, topn)


@torch.no_grad()  # not inference mode: callers may go on with the tensors
def explain_classes(
    network: Classifier,
    images: Tensor,
    targets: Sequence[int | None],
    wanted: Sequence[int | None],
    names: Names,
    topn: int,
) -> list[Answer]:
    """Predict images and take a score of each apart, in float32.

    Args:
        network: the network.
        images: (B, 3, H, W) normalised images, on its device.
        targets: their B true classes, None where unknown.
        wanted: the B classes whose scores are explained, None for the predicted ones.
        names: of classes and units.
        topn: how many of the largest votes are listed.

    Raises:
        NotFiniteError: if features or scores are NaN or infinite.
    """
    head = network.head
    logits, pooled, maps = forward(network, images)  # (B, C), (B, N), (B, N, h, w)
    for row, finite in enumerate((pooled.isfinite().all(1) & logits.isfinite().all(1)).tolist()):
        if not finite:
            raise NotFiniteError(row)
    probability = logits.softmax(1).cpu()  # (B, C)
    ranked = probability.topk(min(RANKED, len(names.classes)), 1).indices.tolist()  # B lists, the most probable first
    explained = [best[0] if class_ is None else class_ for class_, best in zip(wanted, ranked, strict=True)]
    answers = []
    for row, target in enumerate(targets):
        roles = _roles(ranked[row], target, explained[row])
        votes = {class_: class_votes(head, pooled[row].cpu(), class_) for class_ in roles}
        own = votes[explained[row]]
        listed = own.unit[:topn]  # (R,)
        record: ExplanationRecord = {
            **_prediction(probability[row], ranked[row], explained[row], target, names.classes),
            **_score(own, topn, names),
            "contest": _contest(votes, roles, probability[row], topn, names),
            "map_scale": None,
        }
        without = _without(head, pooled[row], listed, explained[row], names.classes)
        for unit, ablated in zip(record["units"], without, strict=True):
            unit["without"] = ablated
        listed_maps = None if maps is None else maps[row].cpu()[listed]
        answer = Answer(record, listed_maps, pooled[row].cpu(), head.weight[explained[row]].cpu()[listed])
        if answer.vote_maps is not None:
            record["map_scale"] = _map_scale(answer.vote_maps)
        answers.append(answer)
    return answers


def forward(network: Classifier, images: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Run a network, and keep what its explanations are made of.

    Args:
        network: the network.
        images: (B, 3, H, W), on its device.

    Returns:
        scores (B, C), the head's input (B, N), and the units' maps (B, N, h, w), None if it has none.
    """
    found = network.feature_map
    layers, head = [found.layer] if found.layer else [], cast(nn.Module, network.head)
    with layer_outputs(network.model, layers) as outputs, layer_inputs(head) as inputs:
        logits = network.model(images)  # (B, C)
    maps = found.maps(network.model, outputs[found.layer]) if found.layer else None
    return logits, inputs[-1].to(logits.device), maps


def _map_scale(vote_maps: Tensor) -> MapScale:
    """The one scale of an image's maps (R, h, w)."""
    _, height, width = vote_maps.shape
    palette = "signed" if bool((vote_maps < 0).any()) else "votes"
    return {"palette": palette, "largest": vote_maps.abs().max().item(), "height": height, "width": width}


def _prediction(
    probability: Tensor, ranked: Sequence[int], explained: int, target: int | None, classes: Sequence[str]
) -> Prediction:
    ranking: list[Guess] = [
        {"class": class_, "name": classes[class_], "probability": probability[class_].item()} for class_ in ranked
    ]
    return {
        "target": target,
        "target_name": None if target is None else classes[target],
        "prediction": ranking[0]["class"],
        "prediction_name": ranking[0]["name"],
        "probability": ranking[0]["probability"],
        "unsure": ranking[0]["probability"] < settings.UNSURE_BELOW,
        "explained": explained,
        "explained_name": classes[explained],
        "ranking": ranking,
    }


def _score(votes: ClassVotes, listed: int, names: Names) -> Score:
    """The terms of a score: the largest votes one by one, the other chosen ones as a sum, and the bias."""
    cumulative = votes.share.abs().cumsum(0)  # (N,)
    units: list[UnitVote] = [
        {
            **names.unit(int(votes.unit[rank])),
            "vote": votes.vote[rank].item(),
            "percent": votes.percent[rank].item(),
            "share": votes.share[rank].item(),
            "cumulative": cumulative[rank].item(),
            "active": bool(votes.active[rank]),
        }
        for rank in range(min(listed, len(votes.unit)))
    ]
    others = votes.vote[listed:][votes.active[listed:]]
    return {
        "logit": votes.logit,
        "bias": votes.bias,
        "units": units,
        # With K > topn: the chosen units that are not listed, so that the terms still add up.
        "others": {"count": len(others), "vote": others.sum().item(), "share": votes.share[listed:].abs().sum().item()},
    }


def _roles(ranked: Sequence[int], target: int | None, explained: int) -> dict[int, list[str]]:
    """The classes that are compared, and what each of them is: the predicted one, the runner-up, the true one."""
    roles: dict[int, list[str]] = {}
    for class_, role in zip(ranked, ("predicted", "runner-up"), strict=False):  # of one class, no runner-up
        roles.setdefault(class_, []).append(role)
    if target is not None:
        roles.setdefault(target, []).append("true")
    roles.setdefault(explained, [])
    return roles


def _contest(
    votes: Mapping[int, ClassVotes], roles: Mapping[int, list[str]], probability: Tensor, topn: int, names: Names
) -> list[Contestant]:
    """Why this class and not that: the score of each contestant, and which of its units the others' routes share."""
    routes = {class_: set(own.unit[own.active][:topn].tolist()) for class_, own in votes.items()}

    def rival_vote(class_: int, unit: UnitVote) -> RivalVote:
        sharing = [other for other, route in routes.items() if other != class_ and unit["unit"] - 1 in route]
        return {
            "unit": unit["unit"],
            "label": unit["label"],
            "category": unit["category"],
            "iou": unit["iou"],
            "vote": unit["vote"],
            "active": unit["active"],
            "also": [names.classes[other] for other in sharing],
        }

    sides: list[Contestant] = []
    for class_, own in votes.items():
        score = _score(own, topn, names)
        sides.append(
            {
                "class": class_,
                "name": names.classes[class_],
                "roles": roles[class_],
                "probability": probability[class_].item(),
                "logit": score["logit"],
                "bias": score["bias"],
                "units": [rival_vote(class_, unit) for unit in score["units"]],
                "others": score["others"],
            }
        )
    return sides


def _without(head: Head, pooled: Tensor, units: Tensor, explained: int, classes: Sequence[str]) -> list[Without]:
    """What the network says when one unit is silent: for each of the units (R,) of pooled features (N,)."""
    silent = pooled.repeat(len(units), 1)  # (R, N)
    silent.scatter_(1, units[:, None].to(pooled.device), 0.0)
    probability = head(silent).softmax(1).cpu()  # (R, C)
    return [
        {
            "probability": row[explained].item(),
            "prediction": int(row.argmax()),
            "prediction_name": classes[int(row.argmax())],
        }
        for row in probability
    ]
