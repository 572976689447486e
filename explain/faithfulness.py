"""Does an explanation hold? Units are silenced, and the network is asked again. Pure computation.

Deletion sets the units of a picture to zero one after the other and watches the probability of the explained class;
insertion keeps the first of them only, and sets all others to zero. If the explanation is true, deletion loses the
class fast (a small area under the curve) and insertion finds it fast (a large one). The curves and their areas are
those of Petsiuk, Das, Saenko, RISE, BMVC 2018, there for pixels; silencing units is the test of Bau et al., PNAS 2020.

A unit's map set to zero is a pooled feature of zero. A DKA head then chooses anew among all votes that are left: the
next largest one takes the place of a silenced unit's. So this asks what the network would have said without the unit,
not what is left of the sum.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn

from engine import progress
from explain.votes import chosen_votes
from models.resnet import head_of

MOST_STEPS = 20  # units of a picture that are silenced, if its K is greater
BLOCK = 1024  # pictures that are ablated at one time
RESAMPLES = 2000


@dataclass(frozen=True)
class Curves:
    """What V pictures became in S steps of silencing; step 0 of deletion, as the last of insertion, may be untouched.

    Attributes:
        probability: (V, S + 1) of the explained class.
        prediction: (V, S + 1) the most probable class.
    """

    probability: Tensor
    prediction: Tensor

    @property
    def area(self) -> Tensor:
        """(V,) area under each picture's probability, the steps scaled to 0..1 (trapezoids)."""
        steps = self.probability.shape[1] - 1
        return torch.trapezoid(self.probability, dx=1 / steps, dim=1)


@torch.inference_mode()
def ablation_curves(head: nn.Module, pooled: Tensor, classes: Tensor, order: Tensor, keep: bool) -> Curves:
    """Silence units one by one.

    Args:
        head: the layer that maps pooled features (..., N) to logits (..., C).
        pooled: (V, N) pooled features, on the head's device.
        classes: (V,) the explained class of each picture.
        order: (V, S) the units of each picture, from 0, in the order in which they go.
        keep: False: after step s the first s units are zero (deletion). True: all others are (insertion).

    Returns:
        S + 1 points per picture, those after 0 to S steps, on the CPU.
    """
    probabilities, predictions = [], []
    blocks = list(zip(pooled.split(BLOCK), classes.split(BLOCK), order.split(BLOCK), strict=True))
    for features, own, units in progress(blocks, desc="insertion" if keep else "deletion", unit="block"):
        first = torch.zeros_like(features, dtype=torch.bool)  # (v, N) the units of the steps so far
        for step in range(units.shape[1] + 1):
            if step:
                first.scatter_(1, units[:, step - 1 : step], True)
            probability = head(features * (first if keep else ~first)).softmax(1)  # (v, C)
            probabilities.append(probability.gather(1, own[:, None]).cpu())
            predictions.append(probability.argmax(1, keepdim=True).cpu())
    return Curves(_joined(probabilities, order.shape[1] + 1), _joined(predictions, order.shape[1] + 1))


def _joined(columns: list[Tensor], points: int) -> Tensor:
    """Columns (v, 1), points of them per block of pictures -> (V, points)."""
    return torch.cat([torch.cat(columns[start : start + points], 1) for start in range(0, len(columns), points)])


def random_order(pooled: Tensor, steps: int, seed: int = 0) -> Tensor:
    """(V, steps) units at random, of those that are active (pooled features above zero) while there are any."""
    generator = torch.Generator().manual_seed(seed)
    key = torch.rand(pooled.shape, generator=generator) + (pooled.cpu() > 0)  # (V, N)
    return key.topk(steps, 1).indices.to(pooled.device)


def mean_interval(values: Tensor, level: float = 0.95, seed: int = 0) -> dict[str, float]:
    """The mean of values (V,), and its bootstrap interval over pictures (percentiles)."""
    sample = values.double().numpy()
    mean = float(sample.mean())
    if np.ptp(sample) == 0:
        return {"mean": mean, "low": mean, "high": mean}
    batch = max(1, 2**22 // len(sample))  # resamples at one time: bounded memory
    interval = stats.bootstrap((sample,), np.mean, n_resamples=RESAMPLES, batch=batch, confidence_level=level,
                               method="percentile", random_state=seed).confidence_interval  # fmt: skip
    return {"mean": mean, "low": float(interval.low), "high": float(interval.high)}


def by_votes(model: nn.Module, pooled: Tensor, classes: Tensor, steps: int) -> dict[str, Curves]:
    """Deletion and insertion of the units with the largest votes for the explained class, the largest first.

    Args:
        model: a network of `models.build_model`.
        pooled: (V, N) pooled features, on the CPU.
        classes: (V,) explained classes.
        steps: S, how many units.
    """
    return _both_ways(
        model, pooled, classes, chosen_votes(pooled, head_of(model).weight.detach().cpu(), classes, steps)[0]
    )


def at_random(model: nn.Module, pooled: Tensor, classes: Tensor, steps: int) -> dict[str, Curves]:
    """The same of units at random; arguments as of `by_votes`."""
    return _both_ways(model, pooled, classes, random_order(pooled, steps))


def _both_ways(model: nn.Module, pooled: Tensor, classes: Tensor, order: Tensor) -> dict[str, Curves]:
    head = head_of(model)
    pooled, classes, order = (tensor.to(head.weight.device) for tensor in (pooled, classes, order))
    return {way: ablation_curves(head, pooled, classes, order, way == "insertion") for way in ("deletion", "insertion")}


def ablation_records(
    chosen: dict[str, Curves], random: dict[str, Curves], names: Sequence[str]
) -> list[dict[str, Any]]:
    """For explain.json: of each of V pictures deletion and insertion by its votes, and deletion at random (`random`).

    Args:
        chosen: as of `by_votes`.
        random: as of `at_random`.
        names: the C class names.
    """
    curves = {**chosen, "random": random["deletion"]}
    return [
        {
            way: {
                "probability": curve.probability[row].tolist(),
                "prediction": curve.prediction[row].tolist(),
                "prediction_name": [names[class_] for class_ in curve.prediction[row].tolist()],
            }
            for way, curve in curves.items()
        }
        for row in range(len(chosen["deletion"].prediction))
    ]


def faithfulness_record(methods: dict[str, dict[str, Curves]], pictures: str) -> dict[str, Any]:
    """For faithfulness.json: mean curves and areas with intervals.

    Args:
        methods: by the name of how the units were picked, the curves of 'deletion' and 'insertion'.
        pictures: which pictures these are, in words.
    """
    first = next(iter(methods.values()))["deletion"].probability
    return {
        "pictures": pictures,
        "count": len(first),
        "steps": first.shape[1] - 1,
        "methods": [
            {"name": name, **{way: _summary(curves) for way, curves in ways.items()}} for name, ways in methods.items()
        ],
    }


def _summary(curves: Curves) -> dict[str, Any]:
    """One way of one method. `turned`: share of the pictures whose prediction is not that of step 0 any more."""
    return {
        "probability": [mean_interval(column) for column in curves.probability.T],
        "area": mean_interval(curves.area),
        "turned": (curves.prediction != curves.prediction[:, :1]).double().mean(0).tolist(),
    }
