"""Controls of silencing, sparsity and the variety of units: answers worked by hand."""

import math
from dataclasses import replace
from statistics import NormalDist

import pytest
import torch
from sklearn.mixture import GaussianMixture

from explain.faithfulness import controls, faithfulness_record, other_images, random_order
from explain.population import (
    Evidence,
    Population,
    add_variety,
    silence_all,
    sparsity_record,
    unit_correlations,
    variety_record,
)
from explain.sparsity import accuracy_at, accuracy_of, compare_frozen, contributing, effective_concepts
from explain.variety import (
    class_independence,
    contrastiveness,
    correlations,
    effective_number,
    group_units,
    near_duplicates,
    route_variety,
    spatial_diversity,
)
from explain.votes import largest_votes
from models.dynamic_k import DynamicKLinear
from models.heads import DenseHead, PrunedHead, StaticHead
from report.cards import _reasons
from report.pages import write_page

# Two classes, three units. Class 0 has weights (2, 1, 0), class 1 has (0, 1, 1).
WEIGHT = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 1.0]])


def dka(topk, weight=WEIGHT):
    """A DKA head with this weight (C, N), without bias."""
    layer = DynamicKLinear(weight.shape[1], len(weight), topk=topk)
    layer.load_state_dict({"weight": weight, "bias": torch.zeros(len(weight))})
    return layer.eval()


# --- controls of silencing ----------------------------------------------------------------------------------------


def test_the_most_active_units_are_silenced():
    """Features (1, 3, 0), class 0: votes (2, 3, 0), scores with K = 1: 3 and 3. Unit 1 is the most active."""
    active = controls(dka(1), torch.tensor([[1.0, 3.0, 0.0]]), torch.tensor([0]), 1)["active"]
    without = 1 / (1 + math.exp(-2))  # scores 2 and 0
    assert active["deletion"].probability[0].tolist() == pytest.approx([0.5, without])
    assert active["insertion"].probability[0].tolist() == pytest.approx([0.5, 0.5])  # scores 3 and 3


def test_units_outside_the_route_cannot_lower_the_own_score():
    generator = torch.Generator().manual_seed(0)
    pooled = torch.rand(30, 12, generator=generator) + 0.1
    head = dka(3, torch.rand(4, 12, generator=generator))
    with torch.no_grad():
        classes = head(pooled).argmax(1)
    own = largest_votes(head, pooled, classes, 3)[0]
    order = random_order(pooled, 3, without=own)
    assert not (order[:, :, None] == own[:, None, :]).any()
    silenced = pooled.scatter(1, order, 0.0)
    with torch.no_grad():
        before, after = (head(x).gather(1, classes[:, None]) for x in (pooled, silenced))
    assert torch.equal(before, after)  # by construction
    found = controls(head, pooled, classes, 3)
    assert list(found) == ["active", "outside", "other route"]
    probability = found["outside"]["deletion"].probability
    assert (probability[:, -1] >= probability[:, 0] - 1e-6).all()  # the rivals can only lose


def test_units_outside_the_route_are_left_out_where_there_are_too_few():
    assert list(controls(dka(2), torch.ones(2, 3), torch.tensor([0, 0]), 2)) == ["active"]
    order = random_order(torch.tensor([[5.0, 1.0, 0.0]]), 2, without=torch.tensor([[0]]))
    assert order.tolist() == [[1, 2]]  # unit 2 is not active, but not in the route


def test_other_images_are_of_other_classes():
    classes = torch.tensor([2, 0, 0, 2, 1, 2, 0])
    drawn = torch.stack([other_images(classes, seed) for seed in range(200)])  # (200, V)
    assert (classes[drawn] != classes).all()
    assert set(drawn[:, 0].tolist()) == {1, 2, 4, 6} and set(drawn[:, 4].tolist()) == {0, 1, 2, 3, 5, 6}
    assert torch.equal(other_images(classes), other_images(classes))
    with pytest.raises(ValueError, match="one class"):
        other_images(torch.zeros(3, dtype=torch.int64))


# --- sparsity -----------------------------------------------------------------------------------------------------


def test_a_frozen_head_beside_the_dynamic_one():
    """K = 1: frozen, class 0 keeps unit 0 and class 1 unit 1 (the first of its equal weights).

    Features (0, 2, 3): votes (0, 2, 0) and (0, 2, 3), so class 1 with 3; frozen 0 and 2: class 1 too.
    Features (1, 0, 4): (2, 0, 0) and (0, 0, 4), class 1; frozen 2 and 0: class 0.
    """
    pooled = torch.tensor([[0.0, 2.0, 3.0], [1.0, 0.0, 4.0]])
    assert StaticHead.freeze(dka(1)).mask.tolist() == [[True, False, False], [False, True, False]]
    assert compare_frozen(dka(1), pooled, [1, 1], 1) == (1, 0.5, 1.0, 0.5)
    assert compare_frozen(dka(1), pooled, [None, None], 1) == (1, 0.5, None, None)
    assert compare_frozen(dka(3), pooled, [None, 0], 3) == (3, 1.0, 0.0, 0.0)  # all weights: nothing is frozen
    pruned = PrunedHead.freeze(DenseHead.of(torch.tensor([[-3.0, 2.0], [0.0, 1.0]]), torch.zeros(2)), 1)
    own = compare_frozen(pruned, torch.tensor([[1.0, 2.0]]), [1], 1)  # -3 and 2; by signed weights it would be 4 and 2
    assert own == (1, 1.0, 1.0, 1.0)


def test_accuracy_where_the_class_is_known():
    assert accuracy_of(torch.tensor([1, 1, 0]), [1, None, 1]) == 0.5
    assert accuracy_of(torch.tensor([1]), [None]) is None


def test_accuracy_with_few_weights():
    """With one weight per class, by absolute value, class 0 keeps -3: features (1, 2) give -3 and 2, not 1 and 2."""
    head = DenseHead.of(torch.tensor([[-3.0, 2.0], [0.0, 1.0]]), torch.tensor([5.0, 0.0]))
    pooled = torch.tensor([[1.0, 2.0], [0.0, 3.0]])  # in full: 6 and 2, 11 and 3; pruned: 2 and 2, 5 and 3
    assert accuracy_at(head, pooled, [0, 0], 2) == 1.0
    assert accuracy_at(head, torch.tensor([[1.0, 3.0]]), [0], 1) == 0.0  # in full 8 and 3, pruned 2 and 3
    pruned = PrunedHead.freeze(head, 1)
    assert accuracy_at(pruned, torch.tensor([[1.0, 3.0]]), [0], 2) == 0.0  # what it does not keep stays away
    assert accuracy_at(head, pooled, [0, 0]) == 1.0  # a head of fewer than 5 weights keeps them all


def test_weights_per_class():
    assert effective_concepts(DenseHead.of(WEIGHT, torch.zeros(2))) == 2
    assert effective_concepts(dka(1)) == 2  # each may be chosen
    assert effective_concepts(StaticHead.freeze(dka(1))) == 1


def test_contributing_votes():
    """Votes 60, 30, -6, 4: 95 of 100 take three of them, 90 take two; K = 2 counts 60 and 30 only."""
    weight, ones = torch.tensor([[4.0, 60.0, -6.0, 30.0]]), torch.ones(1, 4)
    dense, first = DenseHead.of(weight, torch.zeros(1)), torch.tensor([0])
    assert contributing(dense, ones, first).tolist() == [3]
    assert contributing(dense, ones, first, 0.9).tolist() == [2]
    assert contributing(dense, ones, first, 1.0).tolist() == [4]
    assert contributing(dka(2, weight), ones, first, 0.66).tolist() == [1]  # 60 of 90
    assert contributing(dka(2, weight), ones, first).tolist() == [2]
    assert contributing(dense, torch.zeros(1, 4), first).tolist() == [0]


# --- the records --------------------------------------------------------------------------------------------------


def a_population(count=60):
    """Images of two classes: units 0 and 1 are copies that fire in class 0, unit 2 fires in class 1, unit 3 at random.

    Class 0 has weights (2, 1, 0, 0), class 1 (0, 0, 3, 1).
    """
    targets = torch.arange(count) % 2
    own = (1.0 + torch.arange(count) % 7) * (targets == 0)
    noise = torch.rand(count, generator=torch.Generator().manual_seed(0))
    pooled = torch.stack([own, own, (targets == 1) * 4.0, 0.1 * noise], 1)
    head = dka(2, torch.tensor([[2.0, 1.0, 0.0, 0.0], [0.0, 0.0, 3.0, 1.0]]))
    return head, Population(pooled, targets, targets, targets.tolist(), f"{count} images")


def test_some_images_evenly_spaced():
    _, population = a_population()
    some = population.spaced(4)
    assert some.pooled.tolist() == population.pooled[[0, 20, 39, 59]].tolist()
    assert some.targets == [0, 0, 1, 1] and some.images == "4 of the 60 images"
    assert population.spaced(60) is population


def test_the_record_of_sparsity():
    head, population = a_population()
    methods = silence_all(head, population, 2)
    assert list(methods)[:2] == ["2 largest votes", "2 active units at random"]
    assert list(methods)[2:4] == ["2 most active units", "2 active units other than the 2 largest votes"]
    evidence = Evidence(None, population, population, methods)
    routes = {"classes": [{"distinct_units": 2, "images": 30}, {"distinct_units": 3, "images": 30}]}
    found = sparsity_record(head, evidence, routes, 2)
    assert found["frozen"] == {"topk": 2, "agreement": 1.0, "accuracy": 1.0, "frozen_accuracy": 1.0}
    assert (found["topk"], found["weights_per_class"], found["units_per_class"]) == (2, 2.0, 2.5)
    assert found["accuracy_at_5"] == 1.0
    assert found["accuracy_without"] == 0.0  # class 0: unit 3 votes for class 1; class 1: no vote is left, class 0 wins
    dense = DenseHead.of(head.weight.detach(), torch.zeros(2))
    assert sparsity_record(dense, evidence, routes, 1)["frozen"]["topk"] == 1  # K of a dense head is what is shown


def test_the_record_of_variety_and_a_card():
    head, population = a_population()
    correlation = unit_correlations(population)
    assert unit_correlations(population.spaced(49)) is None
    found = variety_record(head, population, correlation, 2)
    assert found["units"] == 2 and found["threshold"] == 0.9
    assert found["groups"] == 1.5  # class 0: one group of two; class 1: units 2 and 3
    assert 1.45 < found["effective"] <= 1.5 and found["contrastiveness"] > 0.3
    unknown = replace(population, targets=[None] * 60)
    assert variety_record(head, unknown, correlation, 2)["class_independence"] is None
    units = [
        {"unit": unit, "label": label, "vote": vote, "active": active}
        for unit, label, vote, active in ((1, "hill", 9.0, True), (3, "", 3.0, True), (2, "hill", 1.5, True))
    ]
    idle = {"unit": 4, "label": "sea", "vote": 1.0, "active": False}
    record = {"units": [*units, idle], "logit": 13.5}
    add_variety([record], correlation)
    assert record["variety"]["units"] == 3 and record["variety"]["groups"] == [[1, 2], [3]]
    # Units 1 and 2 are copies, and correlate with unit 3 by -r.
    r = correlation[0, 2].item()
    assert record["variety"]["effective"] == pytest.approx(9 / (3 + 2 + 4 * r**2), rel=1e-5)
    assert [(reason["title"], reason["vote"]) for reason in _reasons(record)] == [("hill × 2", 10.5), ("unit 3", 3.0)]
    assert _reasons({"units": units}) == []


def page_of(tmp_path, head, population):
    """faithfulness.html of a head over images."""
    evidence = Evidence(None, population, population, silence_all(head, population, 2))
    record = faithfulness_record(evidence.methods, population.images)
    record["sparsity"] = sparsity_record(head, evidence, {"classes": [{"distinct_units": 2, "images": 1}]}, 2)
    record["variety"] = variety_record(head, population, unit_correlations(population), 2)
    topk = head.topk if head.topk < head.in_features else None
    values = {"pages": [], "notices": [], "threshold": 0.04, "report": {"topk": topk}, "graph": ""}
    write_page(tmp_path / "page.html", "faithfulness.html", **values, faithfulness=record)
    return (tmp_path / "page.html").read_text()


def test_the_page_says_what_holds_by_construction(tmp_path):
    head, population = a_population()
    page = page_of(tmp_path, head, population)
    assert "What holds by construction" in page and "its own score cannot change while these are positive" in page
    assert "Frozen, the head predicts the same in all images" in page
    assert "2 active units other than the 2 largest votes" in page and "effective number" in page
    dense = page_of(tmp_path, DenseHead.of(head.weight.detach(), torch.zeros(2)), population)
    assert "own score cannot change" not in dense and "Frozen, the head" not in dense
    unknown = page_of(tmp_path, head, replace(population, targets=[None] * 60))
    assert "–, –" in unknown  # accuracies


# --- variety ------------------------------------------------------------------------------------------------------


def test_correlations_by_hand():
    pooled = torch.tensor([[1.0, 2.0, 3.0, 0.1], [2.0, 4.0, 1.0, 0.1], [3.0, 6.0, 2.0, 0.1]])
    expected = [[1, 1, -0.5, 0], [1, 1, -0.5, 0], [-0.5, -0.5, 1, 0], [0, 0, 0, 1]]
    assert torch.allclose(correlations(pooled), torch.tensor(expected, dtype=torch.float32), atol=1e-6)


def test_the_effective_number_is_the_participation_ratio():
    assert effective_number(torch.eye(5)) == 5
    assert effective_number(torch.ones(5, 5)) == 1
    pairs = torch.block_diag(torch.ones(2, 2), torch.ones(2, 2))
    assert effective_number(pairs) == 2  # two reasons, each told twice
    half = torch.tensor([[1.0, 0.5], [0.5, 1.0]])  # eigenvalues 1.5 and 0.5: 4 / 2.5
    assert effective_number(half) == pytest.approx(1.6)
    generator = torch.Generator().manual_seed(0)
    some = correlations(torch.randn(20, 6, generator=generator))
    values = torch.linalg.eigvalsh(some.double())
    assert effective_number(some) == pytest.approx((values.sum() ** 2 / values.square().sum()).item(), rel=1e-6)


def test_near_duplicates_are_alike_in_every_pair():
    """Of a chain 0 - 1 - 2 whose ends correlate 0.8, the closer pair is a group; unit 3 is alone."""
    chain = torch.tensor([[1.0, 0.95, 0.8, 0.0], [0.95, 1.0, 0.92, 0.0], [0.8, 0.92, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    assert near_duplicates(chain) == [[0, 1], [2], [3]]
    assert near_duplicates(chain, 0.8) == [[0, 1, 2], [3]]
    assert near_duplicates(chain, 0.96) == [[0], [1], [2], [3]]
    assert near_duplicates(torch.tensor([[1.0, -1.0], [-1.0, 1.0]])) == [[0], [1]]  # opposites are no duplicates
    assert near_duplicates(torch.ones(1, 1)) == [[0]] and near_duplicates(torch.ones(0, 0)) == []
    assert group_units(chain, [2, 3, 1]) == [[2, 1], [3]]


def test_the_variety_of_routes():
    correlation = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.5], [0.0, 0.5, 1.0]])
    units = torch.tensor([[0, 1], [2, 0], [1, 2], [0, 1]])
    counted = torch.tensor([[True, True], [True, True], [True, False], [False, False]])
    found = route_variety(correlation, units, counted)
    assert found.units.tolist() == [2, 2, 1, 0]
    assert found.effective.tolist() == [1, 2, 1, 0]
    assert found.groups.tolist() == [1, 2, 1, 0]
    assert found.correlation[:2].tolist() == [1, 0] and found.correlation[2:].isnan().all()


def test_class_independence_by_hand():
    """Unit 0 fires in class 0 only. Unit 1, from its least value 1: 0 + 2 of 4 in class 0, 2 of 4 in class 1."""
    pooled = torch.tensor([[5.0, 1.0], [1.0, 3.0], [0.0, 2.0], [0.0, 2.0]])
    assert class_independence(pooled, torch.tensor([0, 0, 1, 1])) == pytest.approx(1 - (1 + 0.5) / 2)
    assert class_independence(torch.ones(2, 1), torch.tensor([0, 1])) == 1


def test_contrastiveness_of_units_that_are_on_or_off():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(400, generator=generator)
    switch = noise.abs() + 20 * (torch.arange(400) % 2)
    assert contrastiveness(switch[:, None]) > 0.99
    assert contrastiveness(torch.ones(4, 1)) == 0
    assert contrastiveness(torch.stack([switch, torch.ones(400)], 1)) == pytest.approx(
        contrastiveness(switch[:, None]) / 2
    )
    assert contrastiveness(noise[:, None]) < 0.7


def test_contrastiveness_is_that_of_a_mixture_of_two_normals():
    """Means 0 and 3, spread 1: the densities cross at 1.5, and overlap by twice the normal tail beyond 1.5."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(20_000, generator=generator) + 3 * (torch.arange(20_000) % 2)
    tail = 0.5 * math.erfc(1.5 / math.sqrt(2))
    assert contrastiveness(features[:, None]) == pytest.approx(1 - 2 * tail, abs=0.03)
    fit = GaussianMixture(2, tol=1e-6, max_iter=1000, random_state=0).fit(features[:, None].numpy())
    low, high = (NormalDist(m, v**0.5) for m, v in zip(fit.means_.ravel(), fit.covariances_.ravel(), strict=True))
    assert contrastiveness(features[:, None]) == pytest.approx(1 - low.overlap(high), abs=0.01)


def test_spatial_diversity_by_hand():
    """Maps that peak sharply, at one place or at k places."""
    peak = torch.zeros(4, 2, 2)
    peak.view(4, 4).fill_diagonal_(100.0)
    maps = torch.stack([peak, peak[:1].repeat(4, 1, 1)])
    assert spatial_diversity(maps).tolist() == pytest.approx([1, 0.25])
    flat = torch.zeros(1, 2, 1, 2)
    flat[0, 0, 0, 0] = math.log(3)  # softmax (3/4, 1/4) and (1/2, 1/2): (3/4 + 1/2) / 2
    assert spatial_diversity(flat).tolist() == pytest.approx([0.625])
