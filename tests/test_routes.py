"""Routes and faithfulness: answers worked by hand, and plain loops."""

import json
import math
import warnings
from itertools import combinations

import numpy as np
import pytest
import torch
from torch import nn

from explain import faithfulness, routes
from explain.faithfulness import Curves, ablation_curves, faithfulness_record, mean_interval, random_order
from explain.routes import bicluster_order, class_accuracy, nearest_classes, routes_of, routes_record
from explain.votes import chosen_votes, predict, times_voted
from models import build_model
from models.dynamic_k import DynamicKLinear
from netdissect.tally import TallyRow

# Three pictures, three units, two classes. Votes for class 0: p * (1, 1, 0); for class 1: p * (0, 2, 1).
POOLED = torch.tensor([[3.0, 1.0, 0.0], [2.0, 4.0, 9.0], [0.0, 1.0, 5.0]])
WEIGHT = torch.tensor([[1.0, 1.0, 0.0], [0.0, 2.0, 1.0]])
CLASSES = torch.tensor([0, 0, 1])


def random_case(pictures=40, units=12, classes=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pooled = torch.relu(torch.randn(pictures, units, generator=generator))
    weight = torch.randn(classes, units, generator=generator)
    return pooled, weight, torch.randint(0, classes, (pictures,), generator=generator)


def test_chosen_votes_worked_by_hand():
    units, votes = chosen_votes(POOLED, WEIGHT, CLASSES, 2)
    assert units.tolist() == [[0, 1], [1, 0], [2, 1]]
    assert votes.tolist() == [[3, 1], [4, 2], [5, 2]]
    silent = chosen_votes(torch.zeros(1, 3), WEIGHT, CLASSES[:1], 2)
    assert silent[0].tolist() == [[0, 1]]  # equal votes in the order of their units
    assert times_voted(POOLED, WEIGHT, CLASSES, 2).tolist() == [2, 3, 1]
    assert times_voted(POOLED, WEIGHT, CLASSES, 3).tolist() == [2, 3, 1]  # votes of zero are no part


def test_routes_worked_by_hand():
    found = routes_of(POOLED, WEIGHT, CLASSES, 1)
    assert found.count.tolist() == [2, 1]
    assert found.frequency.tolist() == [[0.5, 0.5, 0], [0, 0, 1]]
    assert found.mean_vote.tolist() == [[3, 4, 0], [0, 0, 5]]
    assert (found.distinct.tolist(), found.distinct_units, found.units_per_example) == ([2, 1], 3, 1.0)
    assert (found.overlap_within, found.overlap_between) == (0.0, 0.0)
    both = routes_of(POOLED, WEIGHT, CLASSES, 2)  # routes {0, 1}, {0, 1}, {1, 2}
    assert (both.overlap_within, both.overlap_between) == (1.0, pytest.approx(1 / 3))


@pytest.mark.parametrize("topk", [1, 5, 12])
def test_routes_against_plain_loops(topk, monkeypatch):
    monkeypatch.setattr(routes, "PAIR_BLOCK", 7)
    monkeypatch.setattr(routes, "BLOCK_ELEMENTS", 60)
    pooled, weight, classes = random_case()
    found = routes_of(pooled, weight, classes, topk)
    chosen = [set((p * weight[c]).sort(descending=True, stable=True).indices[:topk].tolist())
              for p, c in zip(pooled, classes, strict=True)]  # fmt: skip
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


def test_a_class_without_pictures_and_one_picture():
    found = routes_of(POOLED[:1], WEIGHT, CLASSES[:1], 2)
    assert found.count.tolist() == [1, 0]
    assert math.isnan(found.overlap_within) and math.isnan(found.overlap_between)
    assert nearest_classes(found, 3) == {0: []}
    concepts = {unit: TallyRow(unit, "object", f"thing {unit}", 0.5, {}) for unit in (1, 2, 3)}
    record = json.loads(json.dumps(routes_record(found, ["a", "b"], concepts, "one picture"), allow_nan=False))
    assert record["overlap"] == {"within": None, "between": None}
    assert [row["pictures"] for row in record["classes"]] == [1, 0]
    assert [unit["unit"] for unit in record["classes"][0]["units"]] == [1, 2]
    assert record["classes"][0]["units"][0] == {"unit": 1, "label": "thing 1", "category": "object", "iou": 0.5,
                                                "frequency": 1.0, "mean_vote": 3.0}  # fmt: skip
    assert [unit["classes"][0]["name"] for unit in record["units"]] == ["a", "a"]
    with pytest.raises(ValueError, match="expected pictures"):
        routes_of(POOLED[:0], WEIGHT, CLASSES[:0], 2)


def test_blocks_stand_along_the_diagonal():
    blocks = torch.block_diag(torch.ones(3, 4), torch.ones(3, 5), torch.ones(3, 2)) * 0.9
    shuffle = torch.Generator().manual_seed(0)
    rows, columns = torch.randperm(9, generator=shuffle), torch.randperm(11, generator=shuffle)
    classes, units = bicluster_order(blocks[rows][:, columns], clusters=3)
    ordered = blocks[rows][:, columns][classes][:, units]
    starts = [int(row.nonzero()[0, 0]) for row in ordered]
    assert starts == sorted(starts) and len(set(starts)) == 3
    assert all((row.nonzero().diff(dim=0) == 1).all() for row in ordered)  # each row's units side by side


@pytest.mark.parametrize("frequency", [torch.ones(1, 1), torch.ones(1, 4), torch.ones(4, 1), torch.zeros(3, 3),
                                       torch.ones(6, 6), torch.eye(2), torch.tensor([[0.0, 0], [1, 0]])])  # fmt: skip
def test_orders_of_small_and_even_matrices(frequency):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        classes, units = bicluster_order(frequency)
    assert sorted(classes) == list(range(len(frequency)))
    assert sorted(units) == frequency.any(0).nonzero().flatten().tolist()


def test_accuracy_of_classes():
    torch.manual_seed(0)
    model = build_model("resnet18_fc_ma", 3, 5).eval()
    pooled = torch.rand(6, 512)
    predictions = predict(model.rfc, pooled)
    best = predictions.tolist()
    assert class_accuracy(predictions, [*best[:5], None], 3)[best[0]] == 1.0
    other = [(class_ + 1) % 3 for class_ in best]
    assert set(class_accuracy(predictions, other, 3)) <= {0.0, None}


def head(topk, weight=WEIGHT):
    layer = nn.Linear(3, 2) if topk is None else DynamicKLinear(3, 2, topk=topk)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.zero_()
    return layer


def softmax(*logits):
    return [math.exp(logit) / sum(map(math.exp, logits)) for logit in logits]


def test_ablation_worked_by_hand():
    """Picture 1: votes (2, 4, 0) for class 0, (0, 8, 9) for class 1; a dense head sums them: 6 and 17."""
    order = torch.tensor([[1, 0]])
    deletion = ablation_curves(head(None), POOLED[1:2], torch.tensor([0]), order, keep=False)
    expected = [softmax(6, 17)[0], softmax(2, 9)[0], softmax(0, 9)[0]]
    assert deletion.probability[0].tolist() == pytest.approx(expected, rel=1e-5)
    insertion = ablation_curves(head(None), POOLED[1:2], torch.tensor([0]), order, keep=True)
    expected = [0.5, softmax(4, 8)[0], softmax(6, 8)[0]]
    assert insertion.probability[0].tolist() == pytest.approx(expected, rel=1e-5)
    assert insertion.area.tolist() == pytest.approx([(expected[0] + 2 * expected[1] + expected[2]) / 4])
    assert deletion.prediction.tolist() == [[1, 1, 1]]


def test_a_dka_head_chooses_anew():
    """K = 1, class 0 of picture 1: 4; without unit 1 the next vote, 2, takes its place."""
    deletion = ablation_curves(head(1), POOLED[1:2], torch.tensor([0]), torch.tensor([[1, 0]]), keep=False)
    expected = [softmax(4, 9)[0], softmax(2, 9)[0], softmax(0, 9)[0]]
    assert deletion.probability[0].tolist() == pytest.approx(expected, rel=1e-5)


def test_blocks_do_not_matter(monkeypatch):
    pooled, weight, classes = random_case(units=3, classes=2)
    order = chosen_votes(pooled, weight, classes, 2)[0]
    whole = ablation_curves(head(2, weight), pooled, classes, order, keep=False)
    monkeypatch.setattr(faithfulness, "BLOCK", 7)
    parts = ablation_curves(head(2, weight), pooled, classes, order, keep=False)
    assert torch.equal(whole.probability, parts.probability)
    assert torch.equal(whole.prediction, parts.prediction)


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
    record = faithfulness_record({"chosen": {"deletion": curves, "insertion": curves}}, "two pictures")
    (method,) = record["methods"]
    assert (record["count"], record["steps"], method["deletion"]["turned"]) == (2, 1, [0.0, 0.5])
    assert method["deletion"]["area"]["mean"] == pytest.approx(0.625)
    assert [point["mean"] for point in method["deletion"]["probability"]] == [1.0, 0.25]
