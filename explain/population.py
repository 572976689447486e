"""What is measured over many images: routes, and whether explanations hold."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from explain.faithfulness import Curves, at_random, by_votes
from explain.naming import Names
from explain.records import ExplanationRecord, RoutesRecord
from explain.routes import class_accuracy, routes_of, routes_record
from loader.splits import Images
from models import Head, head_of
from models.heads import in_blocks, predict
from training.epoch import evaluate_features
from util.cli import UserError
from util.files import display_path


@dataclass(frozen=True)
class Population:
    """V images and what a network says of them.

    Attributes:
        pooled: (V, N) pooled features.
        predictions: (V,) predicted classes.
        explained: (V,) the classes whose scores are explained.
        targets: V true classes, None where unknown.
        images: which images these are, in words.
    """

    pooled: Tensor
    predictions: Tensor
    explained: Tensor
    targets: Sequence[int | None]
    images: str

    @classmethod
    def of_explained(cls, records: Sequence[ExplanationRecord], pooled: Sequence[Tensor]) -> "Population":
        """The explained images themselves: their records, and the pooled features (N,) of each."""
        return cls(
            pooled=torch.stack(list(pooled)),
            predictions=torch.tensor([record["prediction"] for record in records]),
            explained=torch.tensor([record["explained"] for record in records]),
            targets=[record["target"] for record in records],
            images=f"{len(records)} explained images",
        )


@dataclass(frozen=True)
class Evidence:
    """What was measured over many images.

    Attributes:
        validation: metrics; None without validation.
        population: the images.
        methods: deletion and insertion, by the name of how the units were picked.
    """

    validation: dict[str, float] | None
    population: Population
    methods: dict[str, dict[str, Curves]]


def validate(model: nn.Module, loader: DataLoader, explain_target: bool = False) -> tuple[dict[str, float], Population]:
    """Test a network on validation images, with the code that training uses.

    Args:
        model: a network of `models.build_model`.
        loader: yields (images, classes) of a data set in its own order.
        explain_target: explain the true classes instead of the predicted ones.

    Returns:
        the metrics of `training.epoch.evaluate`, and the images as a population.

    Raises:
        UserError: naming the first image whose features or scores are not finite.
    """
    head, images = head_of(model), cast(Images, loader.dataset)
    metrics, pooled = evaluate_features(model, loader, head.weight.device)
    finite = finite_rows(head, pooled)
    if not finite.all():
        file = display_path(images.file(int(finite.int().argmin())))
        raise UserError(f"{file}: the network's features or scores of this image are not finite")
    predictions = predict(head, pooled)
    targets = [int(target) for target in images.targets]
    explained = torch.tensor(targets) if explain_target else predictions
    return metrics, Population(pooled, predictions, explained, targets, f"{len(pooled)} validation images")


@torch.inference_mode()
def finite_rows(head: Head, pooled: Tensor) -> Tensor:
    """(V,) bool: whether the features (V, N) of each image, and its scores, are finite numbers."""
    rows = [block.isfinite().all(1) & head(block).isfinite().all(1) for (block,) in in_blocks(head, pooled)]
    return torch.cat(rows).cpu()


def silence(head: Head, population: Population, steps: int) -> tuple[dict[str, Curves], dict[str, Curves]]:
    """Images without the units of their largest votes, and with these alone; and the same of units at random."""
    pooled, explained = population.pooled, population.explained
    return by_votes(head, pooled, explained, steps), at_random(head, pooled, explained, steps)


def population_routes(head: Head, population: Population, names: Names) -> RoutesRecord:
    """The content of routes.json."""
    routes = routes_of(head, population.pooled, population.explained)
    accuracy = class_accuracy(population.predictions, population.targets, len(names.classes))
    return routes_record(routes, names, population.images, accuracy)
