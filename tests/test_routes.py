"""Routes and faithfulness: answers worked by hand, and plain loops."""

import json
import math
import warnings
from itertools import combinations

import numpy as np
import pytest
import torch

from explain.faithfulness import (
    Curves,
    ablation_curves,
    at_random,
    by_votes,
    faithfulness_record,
    mean_interval,
    random_order,
)
from explain.naming import Names
from explain.routes import (
    bicluster_order,
    class_accuracy,
    nearest_classes,
    overlaps,
    routes_of,
    routes_record,
    within_and_between,
)
from explain.votes import largest_votes
from models.dynamic_k import DynamicKLinear
from models.heads import DenseHead, predict, times_voted
from netdissect.tally import TallyRow

# Three images, three units, two classes. Votes for class 0: p * (1, 1, 0); for class 1: p * (0, 2, 1).
POOLED = torch.tensor([[3.0, 1.0, 0.0], [2.0, 4.0, 9.0], [0.0, 1.0, 5.0]])
WEIGHT = torch.tensor([[1.0, 1.0, 0.0], [0.0, 2.0, 1.0]])
CLASSES = torch.tensor([0, 0, 1])


def dka_head(topk, weight=WEIGHT):
    """A DKA head with this weight (C, N), without bias."""
    layer = DynamicKLinear(weight.shape[1], len(weight), topk=topk)
    layer.load_state_dict({"weight": weight, "bias": torch.zeros(len(weight))})
    return layer


def dense_head(weight=WEIGHT):
    """A dense head with this weight (C, N), without bias."""
    return DenseHead.of(weight, torch.zeros(len(weight)))


def random_case(images=40, units=12, classes=5, seed=0):
    """Pooled features (V, N), a weight (C, N), and a class for each image (V,)."""
    generator = torch.Generator().manual_seed(seed)
    pooled = torch.relu(torch.randn(images, units, generator=generator))
    weight = torch.randn(classes, units, generator=generator)
    return pooled, weight, torch.randint(0, classes, (images,), generator=generator)


def test_largest_votes_worked_by_hand():
    units, votes = largest_votes(dka_head(2), POOLED, CLASSES, 2)
    assert units.tolist() == [[0, 1], [1, 0], [2, 1]]
    assert votes.tolist() == [[3, 1], [4, 2], [5, 2]]
    silent = largest_votes(dka_head(2), torch.zeros(1, 3), CLASSES[:1], 2)
    assert silent[0].tolist() == [[0, 1]]  # equal votes in the order of their units
    assert times_voted(dka_head(2), POOLED, CLASSES).tolist() == [2, 3, 1]
    assert times_voted(dka_head(3), POOLED, CLASSES).tolist() == [2, 3, 1]  # votes of zero do not count


def test_routes_worked_by_hand():
    found = routes_of(dka_head(1), POOLED, CLASSES)
    assert found.count.tolist() == [2, 1]
    assert found.frequency.tolist() == [[0.5, 0.5, 0], [0, 0, 1]]
    assert found.mean_vote.tolist() == [[3, 4, 0], [0, 0, 5]]
    assert (found.distinct.tolist(), found.distinct_units, found.units_per_example) == ([2, 1], 3, 1.0)
    assert (found.overlap_within, found.overlap_between) == (0.0, 0.0)
    both = routes_of(dka_head(2), POOLED, CLASSES)  # routes {0, 1}, {0, 1}, {1, 2}
    assert (both.overlap_within, both.overlap_between) == (1.0, pytest.approx(1 / 3))


def test_a_dense_head_routes_every_image_through_all_units():
    found = routes_of(dense_head(), POOLED, CLASSES)
    assert (found.topk, found.frequency.tolist()) == (3, [[1, 1, 1], [1, 1, 1]])
    assert found.mean_vote.tolist() == [[2.5, 2.5, 0], [0, 2, 5]]
    assert (found.overlap_within, found.overlap_between) == (1.0, 1.0)
    assert found.units_per_example == 2.0  # the third vote of each image is zero


def test_overlaps_worked_by_hand():
    """Sets {0, 1}, {0, 1}, {1, 2} and {}, {} of classes 0, 0, 1, 2, 2; two empty sets are equal."""
    sets = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 1, 1], [0, 0, 0], [0, 0, 0]], dtype=torch.bool)
    classes = torch.tensor([0, 0, 1, 2, 2])
    found = overlaps(sets, classes, 3)
    expected = torch.tensor([[1, 1 / 3, 0], [1 / 3, math.nan, 0], [0, 0, 1]], dtype=torch.float64)
    torch.testing.assert_close(found, expected, equal_nan=True)
    within, between = within_and_between(found, classes.bincount())
    assert within == pytest.approx(1.0)  # one pair of class 0, one of class 2
    assert between == pytest.approx((2 * 1 / 3 + 4 * 0 + 2 * 0) / 8)  # pairs of 0 and 1, 0 and 2, 1 and 2


@pytest.mark.parametrize("topk", [1, 5, 12])
def test_routes_against_plain_loops(topk, monkeypatch):
    monkeypatch.setattr("explain.routes.PAIR_BLOCK", 7)
    monkeypatch.setattr("models.heads.BLOCK_ELEMENTS", 60)
    pooled, weight, classes = random_case()
    found = routes_of(dka_head(topk, weight), pooled, classes)
    chosen = [
        set((p * weight[c]).sort(descending=True, stable=True).indices[:topk].tolist())
        for p, c in zip(pooled, classes, strict=True)
    ]
    pairs = {True: [], False: []}
    for a, b in combinations(range(len(chosen)), 2):
        pairs[bool(classes[a] == classes[b])].append(len(chosen[a] & chosen[b]) / len(chosen[a] | chosen[b]))
    assert found.overlap_within == pytest.approx(np.mean(pairs[True]))
    assert found.overlap_between == pytest.approx(np.mean(pairs[False]))
    for class_ in range(5):
        own = [units for units, c in zip(chosen, classes, strict=True) if c == class_]
        frequency = [np.mean([unit in units for units in own]) for unit in range(12)]
        assert found.frequency[class_].tolist() == pytest.approx(frequency)
        assert found.distinct[class_] == len(set().union(*own))
    nearest = nearest_classes(found, 2)
    f = found.frequency
    similarity = {c: torch.minimum(f[0], f[c]).sum() / torch.maximum(f[0], f[c]).sum() for c in range(1, 5)}
    assert nearest[0][0][1] == pytest.approx(max(similarity.values()).item())
    assert len(nearest[0]) == 2 and all(other != 0 for other, _ in nearest[0])


def test_a_class_without_images_and_one_image():
    found = routes_of(dka_head(2), POOLED[:1], CLASSES[:1])
    assert found.count.tolist() == [1, 0]
    assert math.isnan(found.overlap_within) and math.isnan(found.overlap_between)
    assert nearest_classes(found, 3) == {0: []}
    names = Names(["a", "b"], {unit: TallyRow(unit, "object", f"thing {unit}", 0.5, {}) for unit in (1, 2, 3)})
    record = json.loads(json.dumps(routes_record(found, names, "one image"), allow_nan=False))
    assert record["images"] == "one image"
    assert record["overlap"] == {"within": None, "between": None}
    assert [row["images"] for row in record["classes"]] == [1, 0]
    assert [row["accuracy"] for row in record["classes"]] == [None, None]
    assert [unit["unit"] for unit in record["classes"][0]["units"]] == [1, 2]
    concept = {"unit": 1, "label": "thing 1", "category": "object", "iou": 0.5}
    assert record["classes"][0]["units"][0] == {**concept, "frequency": 1.0, "mean_vote": 3.0}
    assert [unit["classes"][0]["name"] for unit in record["units"]] == ["a", "a"]
    with pytest.raises(ValueError, match="routes of no images: expected at least one"):
        routes_of(dka_head(2), POOLED[:0], CLASSES[:0])


def test_blocks_stand_along_the_diagonal():
    blocks = torch.block_diag(torch.ones(3, 4), torch.ones(3, 5), torch.ones(3, 2)) * 0.9
    shuffle = torch.Generator().manual_seed(0)
    rows, columns = torch.randperm(9, generator=shuffle), torch.randperm(11, generator=shuffle)
    classes, units = bicluster_order(blocks[rows][:, columns], clusters=3)
    ordered = blocks[rows][:, columns][classes][:, units]
    starts = [int(row.nonzero()[0, 0]) for row in ordered]
    assert starts == sorted(starts) and len(set(starts)) == 3
    assert all((row.nonzero().diff(dim=0) == 1).all() for row in ordered)  # each row's units side by side


SMALL_AND_EVEN = [
    torch.ones(1, 1),
    torch.ones(1, 4),
    torch.ones(4, 1),
    torch.zeros(3, 3),
    torch.ones(6, 6),
    torch.eye(2),
    torch.tensor([[0.0, 0], [1, 0]]),
]


@pytest.mark.parametrize("frequency", SMALL_AND_EVEN)
def test_orders_of_small_and_even_matrices(frequency):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        classes, units = bicluster_order(frequency)
    assert sorted(classes) == list(range(len(frequency)))
    assert sorted(units) == frequency.any(0).nonzero().flatten().tolist()


def test_accuracy_of_classes():
    torch.manual_seed(0)
    predictions = predict(DynamicKLinear(512, 3, topk=5), torch.rand(6, 512))
    best = predictions.tolist()
    assert class_accuracy(predictions, [*best[:5], None], 3)[best[0]] == 1.0
    other = [(class_ + 1) % 3 for class_ in best]
    assert set(class_accuracy(predictions, other, 3)) <= {0.0, None}


def softmax(*logits):
    return [math.exp(logit) / sum(map(math.exp, logits)) for logit in logits]


def test_ablation_worked_by_hand():
    """Image 1: votes (2, 4, 0) for class 0, (0, 8, 9) for class 1; a dense head sums them: 6 and 17."""
    order = torch.tensor([[1, 0]])
    deletion = ablation_curves(dense_head(), POOLED[1:2], torch.tensor([0]), order, keep=False)
    expected = [softmax(6, 17)[0], softmax(2, 9)[0], softmax(0, 9)[0]]
    assert deletion.probability[0].tolist() == pytest.approx(expected, rel=1e-5)
    insertion = ablation_curves(dense_head(), POOLED[1:2], torch.tensor([0]), order, keep=True)
    expected = [0.5, softmax(4, 8)[0], softmax(6, 8)[0]]
    assert insertion.probability[0].tolist() == pytest.approx(expected, rel=1e-5)
    assert insertion.area.tolist() == pytest.approx([(expected[0] + 2 * expected[1] + expected[2]) / 4])
    assert deletion.prediction.tolist() == [[1, 1, 1]]


def test_a_dka_head_chooses_anew():
    """K = 1, class 0 of image 1: 4; without unit 1 the next vote, 2, takes its place."""
    deletion = ablation_curves(dka_head(1), POOLED[1:2], torch.tensor([0]), torch.tensor([[1, 0]]), keep=False)
    expected = [softmax(4, 9)[0], softmax(2, 9)[0], softmax(0, 9)[0]]
    assert deletion.probability[0].tolist() == pytest.approx(expected, rel=1e-5)


def test_blocks_do_not_matter(monkeypatch):
    pooled, weight, classes = random_case(units=3, classes=2)
    head = dka_head(2, weight)
    order = largest_votes(head, pooled, classes, 2)[0]
    whole = ablation_curves(head, pooled, classes, order, keep=False)
    monkeypatch.setattr("explain.faithfulness.BLOCK", 7)
    parts = ablation_curves(head, pooled, classes, order, keep=False)
    assert torch.equal(whole.probability, parts.probability)
    assert torch.equal(whole.prediction, parts.prediction)


def test_units_are_silenced_by_vote_and_at_random():
    """Class 0 of image 1 with K = 2: votes (2, 4, 0); of the three active units two random ones are silenced."""
    pooled, classes, head = POOLED[1:2], torch.tensor([0]), dka_head(2)
    by_vote = by_votes(head, pooled, classes, 2)
    expected = [softmax(6, 17)[0], softmax(2, 9)[0], softmax(0, 9)[0]]
    assert by_vote["deletion"].probability[0].tolist() == pytest.approx(expected, rel=1e-5)
    assert by_vote["insertion"].probability[0].tolist() == pytest.approx([0.5, softmax(4, 8)[0], softmax(6, 8)[0]])
    order = random_order(pooled, 2)
    random = at_random(head, pooled, classes, 2)
    for way, curves in random.items():
        same = ablation_curves(head, pooled, classes, order, keep=way == "insertion")
        assert torch.equal(curves.probability, same.probability)
    assert list(random) == ["deletion", "insertion"]


def test_random_units_are_active_while_there_are_any():
    pooled = torch.zeros(50, 9)
    pooled[:, 2:5] = 1.0
    order = random_order(pooled, 4)
    assert all(set(row[:3]) == {2, 3, 4} for row in order.tolist())
    assert len({tuple(row[:3]) for row in order.tolist()}) > 3
    assert torch.equal(order, random_order(pooled, 4))
    assert not torch.equal(order, random_order(pooled, 4, seed=1))


def test_intervals():
    values = torch.randn(400, generator=torch.Generator().manual_seed(0))
    interval = mean_interval(values)
    error = 1.96 * values.std().item() / 20
    assert interval["mean"] == pytest.approx(values.mean().item())
    assert interval["high"] - interval["mean"] == pytest.approx(error, rel=0.15)
    assert interval["mean"] - interval["low"] == pytest.approx(error, rel=0.15)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert mean_interval(torch.ones(5)) == {"mean": 1.0, "low": 1.0, "high": 1.0}
        assert mean_interval(torch.tensor([0.3]))["low"] == pytest.approx(0.3)


def test_the_record_counts_turned_predictions():
    curves = Curves(torch.tensor([[1.0, 0.5], [1.0, 0.0]]), torch.tensor([[0, 0], [0, 1]]))
    record = faithfulness_record({"chosen": {"deletion": curves, "insertion": curves}}, "two images")
    (method,) = record["methods"]
    assert (record["images"], record["count"], record["steps"]) == ("two images", 2, 1)
    assert method["deletion"]["turned"] == [0.0, 0.5]
    assert method["deletion"]["area"]["mean"] == pytest.approx(0.625)
    assert [point["mean"] for point in method["deletion"]["probability"]] == [1.0, 0.25]
