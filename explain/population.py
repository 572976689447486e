"""What is measured over many images: routes, and whether explanations hold."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from explain.faithfulness import Curves, at_random, by_votes, controls, faithfulness_record
from explain.naming import Names
from explain.records import (
    ExplanationRecord,
    FaithfulnessRecord,
    FrozenRecord,
    ImageRecord,
    RoutesRecord,
    SparsityRecord,
    UnitVote,
    VarietyRecord,
)
from explain.routes import class_accuracy, routes_of, routes_record
from explain.sparsity import accuracy_at, accuracy_of, compare_frozen, contributing, effective_concepts
from explain.variety import (
    DUPLICATES,
    class_independence,
    contrastiveness,
    correlations,
    effective_number,
    group_units,
    mean_where,
    route_variety,
)
from explain.votes import largest_votes, spaced
from loader.splits import Images
from models import Head, head_of
from models.heads import in_blocks, predict
from training.epoch import evaluate_features
from util.cli import UserError
from util.files import display_path
from util.text import counted

MOST_SILENCED = 1000  # images, evenly spaced, whose units are silenced: each takes dozens of passes through the head
MOST_FITTED = 1000  # images whose features a mixture is fitted to, for each unit
LEAST_IMAGES = 50  # for correlations of units: fewer images correlate by chance


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

    def spaced(self, most: int) -> "Population":
        """All of the images, or `most` of them, evenly spaced."""
        count = len(self.pooled)
        if count <= most:
            return self
        some = spaced(count, most)
        return replace(
            self,
            pooled=self.pooled[some],
            predictions=self.predictions[some],
            explained=self.explained[some],
            targets=[self.targets[index] for index in some.tolist()],
            images=f"{most} of the {self.images}",
        )


@dataclass(frozen=True)
class Evidence:
    """What was measured over many images.

    Attributes:
        validation: metrics; None without validation.
        population: the images.
        silenced: those of them whose units were silenced.
        methods: deletion and insertion, by the name of how the units were picked; the first by votes.
    """

    validation: dict[str, float] | None
    population: Population
    silenced: Population
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


def silence_all(head: Head, population: Population, steps: int) -> dict[str, dict[str, Curves]]:
    """The same beside all controls, by the name of how the units were picked."""
    pooled, explained = population.pooled, population.explained
    names = {
        "active": counted(steps, "most active unit"),
        "outside": f"{counted(steps, 'active unit')} other than the {counted(steps, 'largest vote')}",
        "other route": f"{counted(steps, 'largest vote')} of an image of another class",
    }
    chosen, random = silence(head, population, steps)
    named = {names[name]: ways for name, ways in controls(head, pooled, explained, steps).items()}
    return {counted(steps, "largest vote"): chosen, f"{counted(steps, 'active unit')} at random": random, **named}


def population_routes(head: Head, population: Population, names: Names) -> RoutesRecord:
    """The content of routes.json."""
    routes = routes_of(head, population.pooled, population.explained)
    accuracy = class_accuracy(population.predictions, population.targets, len(names.classes))
    return routes_record(routes, names, population.images, accuracy)


# --- what could come out otherwise --------------------------------------------------------------------------------


def sparsity_record(head: Head, evidence: Evidence, routes: RoutesRecord, steps: int) -> SparsityRecord:
    """How sparse a head is, and whether it chooses.

    Args:
        head: the head.
        evidence: the images, and their units silenced by votes.
        routes: of the same images.
        steps: weights per class of a dense head that is frozen; a DKA head keeps its K.
    """
    population, silenced = evidence.population, evidence.silenced
    found = compare_frozen(head, population.pooled, population.targets, of_dense=steps)
    frozen: FrozenRecord = {
        "topk": found.topk,
        "agreement": found.agreement,
        "accuracy": found.accuracy,
        "frozen_accuracy": found.frozen_accuracy,
    }
    distinct = [row["distinct_units"] for row in routes["classes"] if row["images"]]
    without = next(iter(evidence.methods.values()))["deletion"].prediction[:, -1]
    return {
        "topk": head.topk,
        "weights_per_class": effective_concepts(head),
        "contributing": contributing(head, population.pooled, population.explained).double().mean().item(),
        "units_per_class": sum(distinct) / len(distinct),
        "accuracy_without": accuracy_of(without, silenced.targets),
        "accuracy_at_5": accuracy_at(head, population.pooled, population.targets),
        "frozen": frozen,
    }


def measure_faithfulness(
    head: Head, evidence: Evidence, records: Sequence[ImageRecord], routes: RoutesRecord
) -> FaithfulnessRecord:
    """The content of faithfulness.json.

    Args:
        head: the head.
        evidence: the images, and their units silenced.
        records: of the explained images; they get the variety of their units, where it is known.
        routes: of the evidence's images.
    """
    record = faithfulness_record(evidence.methods, evidence.silenced.images)
    record["sparsity"] = sparsity_record(head, evidence, routes, record["steps"])
    correlation = unit_correlations(evidence.population)
    if correlation is not None:
        record["variety"] = variety_record(head, evidence.population, correlation, record["steps"])
        add_variety(records, correlation)
    return record


def unit_correlations(population: Population) -> Tensor | None:
    """Correlations (N, N) of all units over the images; None where these are too few to know."""
    return correlations(population.pooled) if len(population.pooled) >= LEAST_IMAGES else None


def variety_record(head: Head, population: Population, correlation: Tensor, steps: int) -> VarietyRecord:
    """How different the units of the `steps` largest votes of each image are from each other.

    Args:
        head: whose votes.
        population: the images.
        correlation: (N, N) of the units.
        steps: how many votes of each image, at most.
    """
    units, votes = largest_votes(head, population.pooled, population.explained, steps)
    found = route_variety(correlation, units, votes != 0)
    used, count = units[votes != 0].unique(), len(correlation)
    known = [index for index, target in enumerate(population.targets) if target is not None]
    targets = torch.tensor([population.targets[index] for index in known])
    independence = class_independence(population.pooled[known][:, used], targets) if known else math.nan
    contrast = contrastiveness(population.spaced(MOST_FITTED).pooled[:, used])
    return {
        "units": found.units.double().mean().item(),
        "effective": found.effective.mean().item(),
        "groups": found.groups.double().mean().item(),
        "threshold": DUPLICATES,
        "correlation": mean_where(found.correlation),
        "correlation_all": ((correlation.double().sum() - count) / max(1, count * (count - 1))).item(),
        "class_independence": mean_where(torch.tensor([independence])),
        "contrastiveness": mean_where(torch.tensor([contrast])),
    }


def add_variety(records: Sequence[ImageRecord], correlation: Tensor) -> None:
    """Say in the record of each image how different its listed active units are; correlation (N, N) of all units."""
    for record in records:
        units = [unit["unit"] - 1 for unit in record["units"] if _counts(unit)]
        index = torch.tensor(units, dtype=torch.int64)
        record["variety"] = {
            "units": len(units),
            "effective": effective_number(correlation[index][:, index]) if units else 0.0,
            "groups": [[unit + 1 for unit in group] for group in group_units(correlation, units)],
        }


def _counts(unit: UnitVote) -> bool:
    """Whether a unit takes part in the score."""
    return unit["active"] and unit["vote"] != 0
