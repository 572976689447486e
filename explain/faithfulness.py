"""Does an explanation hold? Units are silenced, and the network is asked again. Pure computation.

Deletion sets the units of an image to zero one after the other and records the probability of the explained class;
insertion keeps only the first of them and sets all others to zero. If the explanation is true, deletion loses the class
quickly (a small area under the curve) and insertion finds it quickly (a large area). Curves and areas are those of
Petsiuk, Das, Saenko, RISE, BMVC 2018, there for pixels; silencing units is the test of Bau et al., PNAS 2020.

A unit whose map is zero has a pooled feature of zero. A DKA head then chooses anew among the remaining votes: the next
largest one takes the place of a silenced unit's. So this asks what the network would have said without the unit, not
what remains of the sum.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from explain.records import Ablation, FaithfulnessRecord, ImageCurve, Mean, MeanCurve, Method
from explain.votes import largest_votes
from models.heads import Head
from util.progress import progress

MOST_STEPS = 20  # units of an image that are silenced, if its K is greater
BLOCK = 1024  # images that are ablated at one time
RESAMPLES = 2000


@dataclass(frozen=True)
class Curves:
    """V images in S steps of silencing; at step 0 of deletion nothing is silenced yet.

    Attributes:
        probability: (V, S + 1) of the explained class.
        prediction: (V, S + 1) the most probable class.
    """

    probability: Tensor
    prediction: Tensor

    @property
    def area(self) -> Tensor:
        """(V,) area under each image's probability, the steps scaled to 0..1 (trapezoids)."""
        steps = self.probability.shape[1] - 1
        return torch.trapezoid(self.probability, dx=1 / steps, dim=1)


@torch.inference_mode()
def ablation_curves(head: Head, pooled: Tensor, classes: Tensor, order: Tensor, keep: bool) -> Curves:
    """Silence units one by one.

    Args:
        head: maps pooled features (..., N) to logits (..., C).
        pooled: (V, N) pooled features, on the head's device.
        classes: (V,) the explained class of each image.
        order: (V, S) the units of each image, from 0, in the order in which they are silenced.
        keep: False: after step s the first s units are zero (deletion). True: all others are (insertion).

    Returns:
        S + 1 points per image, those after 0 to S steps, on the CPU.
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
    """Columns (v, 1), points of them per block of images -> (V, points)."""
    return torch.cat([torch.cat(columns[start : start + points], 1) for start in range(0, len(columns), points)])


def random_order(pooled: Tensor, steps: int, seed: int = 0, without: Tensor | None = None) -> Tensor:
    """(V, steps) units at random, of those that are active (pooled features above zero) while there are any.

    Args:
        pooled: (V, N) pooled features.
        steps: how many units.
        seed: of the draw.
        without: (V, S) units of each image that are not drawn while there are others.
    """
    generator = torch.Generator().manual_seed(seed)
    key = torch.rand(pooled.shape, generator=generator) + (pooled.cpu() > 0)  # (V, N)
    if without is not None:
        key.scatter_(1, without.cpu(), -1.0)
    return key.topk(steps, 1).indices.to(pooled.device)


def other_images(classes: Tensor, seed: int = 0) -> Tensor:
    """For each of V images of classes (V,), the number of another one at random, of another class: (V,).

    Raises:
        ValueError: if all are of one class.
    """
    order = classes.argsort(stable=True)  # images by class
    count = classes.bincount()  # (C,)
    start = count.cumsum(0) - count  # (C,) where each class begins in this order
    others = len(classes) - count[classes]  # (V,) images of other classes
    if not others.all():
        raise ValueError("all images are of one class: no image has another's route")
    draw = torch.rand(len(classes), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    place = (draw * others).long()  # (V,) among the others
    return order[place + (place >= start[classes]) * count[classes]]  # past the own class


def mean_interval(values: Tensor, level: float = 0.95, seed: int = 0) -> Mean:
    """The mean of values (V,), and its bootstrap interval over images (percentiles)."""
    sample = values.double().numpy()
    mean = float(sample.mean())
    if np.ptp(sample) == 0:
        return {"mean": mean, "low": mean, "high": mean}
    batch = max(1, 2**22 // len(sample))  # resamples at one time: bounded memory
    interval = stats.bootstrap(
        (sample,),
        np.mean,
        n_resamples=RESAMPLES,
        batch=batch,
        confidence_level=level,
        method="percentile",
        random_state=seed,
    ).confidence_interval
    return {"mean": mean, "low": float(interval.low), "high": float(interval.high)}


def by_votes(head: Head, pooled: Tensor, classes: Tensor, steps: int) -> dict[str, Curves]:
    """Deletion and insertion of the units with the largest votes for the explained class, the largest first.

    Args:
        head: of the network.
        pooled: (V, N) pooled features, on the CPU.
        classes: (V,) explained classes.
        steps: S, how many units.
    """
    return _both_ways(head, pooled, classes, largest_votes(head, pooled, classes, steps)[0])


def at_random(head: Head, pooled: Tensor, classes: Tensor, steps: int) -> dict[str, Curves]:
    """The same of units at random; arguments as of `by_votes`."""
    return _both_ways(head, pooled, classes, random_order(pooled, steps))


def controls(head: Head, pooled: Tensor, classes: Tensor, steps: int) -> dict[str, dict[str, Curves]]:
    """What silencing by votes is compared with; arguments as of `by_votes`.

    Returns:
        Deletion and insertion, by the name of how the S units of each image were picked:

        active: those of its largest pooled features, the largest first. Large features tend to have large votes, so
            this control can win.
        outside: active ones at random, but none of its S largest votes. Left out where fewer than S remain. Where S is
            a DKA head's K, deletion cannot lower the explained class's own score, by construction.
        other route: the S largest votes of an image of another class, drawn at random. Left out if there is one class.
    """
    units = largest_votes(head, pooled, classes, steps)[0]
    orders = {"active": pooled.topk(steps, 1).indices}
    if 2 * steps <= pooled.shape[1]:
        orders["outside"] = random_order(pooled, steps, without=units)
    if len(classes.unique()) > 1:
        orders["other route"] = units[other_images(classes)]
    return {name: _both_ways(head, pooled, classes, order) for name, order in orders.items()}


def _both_ways(head: Head, pooled: Tensor, classes: Tensor, order: Tensor) -> dict[str, Curves]:
    pooled, classes, order = (tensor.to(head.weight.device) for tensor in (pooled, classes, order))
    return {way: ablation_curves(head, pooled, classes, order, way == "insertion") for way in ("deletion", "insertion")}


# --- the records --------------------------------------------------------------------------------------------------


def ablation_records(chosen: dict[str, Curves], random: dict[str, Curves], classes: Sequence[str]) -> list[Ablation]:
    """Of each of V images: deletion and insertion by its votes, and deletion at random.

    Args:
        chosen: as of `by_votes`.
        random: as of `at_random`.
        classes: the C class names.
    """

    def curve(curves: Curves, row: int) -> ImageCurve:
        predictions = curves.prediction[row].tolist()
        return {
            "probability": curves.probability[row].tolist(),
            "prediction": predictions,
            "prediction_name": [classes[class_] for class_ in predictions],
        }

    return [
        {
            "deletion": curve(chosen["deletion"], row),
            "insertion": curve(chosen["insertion"], row),
            "random": curve(random["deletion"], row),
        }
        for row in range(len(chosen["deletion"].prediction))
    ]


def faithfulness_record(methods: dict[str, dict[str, Curves]], images: str) -> FaithfulnessRecord:
    """The content of faithfulness.json: mean curves and areas with intervals.

    Args:
        methods: by the name of how the units were picked, the curves of 'deletion' and 'insertion'.
        images: which images these are, in words.
    """
    first = next(iter(methods.values()))["deletion"].probability
    listed: list[Method] = [
        {"name": name, "deletion": _mean_curve(ways["deletion"]), "insertion": _mean_curve(ways["insertion"])}
        for name, ways in methods.items()
    ]
    return {"images": images, "count": len(first), "steps": first.shape[1] - 1, "methods": listed}


def _mean_curve(curves: Curves) -> MeanCurve:
    return {
        "probability": [mean_interval(column) for column in curves.probability.T],
        "area": mean_interval(curves.area),
        "turned": (curves.prediction != curves.prediction[:, :1]).double().mean(0).tolist(),
    }
