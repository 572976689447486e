"""Rivals of DKA: heads against answers worked by hand, the study on made-up features, its sentence."""

import json
from itertools import combinations

import pytest
import torch
from torch import nn

from experiments import heads, photo_features, results, rivals, rivals_heads, rivals_jobs, rivals_report
from experiments.heads import (
    CompactHead,
    ElasticNets,
    GradualPruning,
    Recipe,
    TopActivationsHead,
    elastic_net_path,
    elastic_nets,
    largest_mean_votes,
    static_head,
    train,
    weights_per_class,
)
from experiments.photo_features import Features
from experiments.plan import L1_RATIO
from experiments.rivals import tune
from experiments.rivals_heads import NETS, Bench
from experiments.rivals_jobs import BEHIND, Job, Outputs
from models import build_model
from models.cut import TRUNK, run_until
from models.heads import DenseHead, PrunedHead
from util.cli import UserError

WEIGHT = torch.tensor([[4.0, 3.0, -5.0, 1.0], [0.0, 1.0, 2.0, -1.0]])


def dense(weight=WEIGHT):
    return DenseHead.of(weight, torch.zeros(len(weight)))


def test_the_most_active_features_are_the_same_for_all_classes():
    head = TopActivationsHead(4, 2, topk=2)
    head.load_state_dict({"weight": WEIGHT, "bias": torch.tensor([0.0, 10.0])})
    pooled = torch.tensor([[1.0, 0.0, 2.0, 0.5]])  # units 0 and 2
    assert head(pooled).tolist() == [[4.0 - 10.0, 0.0 + 4.0 + 10.0]]
    assert head.chosen(pooled, torch.tensor([1])).tolist() == [[True, False, True, False]]
    assert head.votes(pooled, torch.tensor([0])).tolist() == [[4.0, 0.0, -10.0, 0.0]]


def test_masks_by_hand():
    # Units 1 and 3 have the largest mean votes for class 0: 3 * 1 and 1 * 2, against 4 * 0.25 and -5 * 1.
    pooled = torch.tensor([[0.5, 1.0, 1.0, 2.0], [0.0, 1.0, 1.0, 2.0], [1.0, 1.0, 3.0, 0.0]])
    units = largest_mean_votes(dense(), pooled, torch.tensor([0, 0, 1]), 2)
    assert [sorted(row) for row in units.tolist()] == [[1, 3], [1, 2]]
    static = static_head(dense(), units)
    assert static(pooled[:1]).tolist() == [[3.0 + 2.0, 1.0 + 2.0]]
    compact = CompactHead(static)
    assert compact(pooled).tolist() == static(pooled).tolist()
    train(compact, Features(pooled, torch.tensor([0, 0, 1])), Recipe(0.1, 2), 0)
    again = compact.expanded()
    assert torch.allclose(again(pooled), compact(pooled)) and not torch.allclose(again(pooled), static(pooled))
    assert torch.equal(again.mask, static.mask) and weights_per_class(again) == 2


def test_gradual_pruning_ends_with_k_weights_and_none_comes_back():
    head = PrunedHead(8, 3, topk=2)
    pruning = GradualPruning(head)
    assert head.topk == 8 and head.mask.all()
    counts, gone = [], torch.zeros(3, 8, dtype=torch.bool)
    for step in range(1, 101):
        pruning(step / 100)
        counts.append(int(head.mask[0].sum()))
        assert not (head.mask & gone).any()
        gone = ~head.mask
    assert counts == sorted(counts, reverse=True)
    assert counts[24] == 2 + int(6 * 0.5**3) and counts[49] == counts[-1] == 2  # a quarter, and half of the training


def test_the_elastic_net_is_that_of_scikit_learn():
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(90) % 3
    pooled = torch.randn(90, 6, generator=generator)
    pooled[torch.arange(90), targets] += 2
    standard = (pooled - pooled.mean(0)) / pooled.std(0)
    wanted = nn.functional.one_hot(targets).float()
    strongest = ((wanted - wanted.mean(0)).t() @ standard).abs().max().item() / 90 / L1_RATIO
    for step, head in zip((1, 2, 3), elastic_net_path(pooled, targets), strict=False):
        strength = strongest * heads.PATH_STEP**step
        (other,) = elastic_nets(pooled.numpy(), targets.numpy(), (1 / (90 * strength),))
        assert torch.allclose(head.weight, other.weight, atol=0.02)
    nets = ElasticNets(pooled, targets)
    assert weights_per_class(nets.with_weights(2)) >= 2 > weights_per_class(nets.known[-2])


def made_up(classes=6, width=12, train=8, val=3, layers=None):
    """Features whose classes take turns: class c has a large feature c; the rows behind any frozen part."""
    generator = torch.Generator().manual_seed(1)

    def rows(turns):
        targets = torch.arange(classes).repeat(turns)
        pooled = torch.rand(len(targets), width, generator=generator)
        pooled[torch.arange(len(targets)), targets] += 2
        return Features(pooled, targets)

    return Outputs(rows(train), rows(val), layers or nn.Identity())


@pytest.fixture
def small(monkeypatch):
    """The study at the size of `made_up`."""
    for name, value in {"HELD_OUT": 2, "IMAGES": 4, "CLASSES": 6, "K": 2}.items():
        monkeypatch.setattr(rivals_jobs, name, value)
    monkeypatch.setattr(rivals, "long_epochs", lambda job: 6)
    NETS.clear()
    yield
    NETS.clear()


@pytest.mark.usefixtures("small")
def test_a_job_gets_its_own_images():
    every = made_up()
    one, other = (every.of(Job(classes=3, images=2, k=2, seed=seed)) for seed in (0, 1))
    for data in (one, other):
        assert data.train.targets.bincount().tolist() == [2, 2, 2]
        assert data.held_out.targets.bincount().tolist() == [2, 2, 2] and len(data.val.targets) == 9
        seen = {tuple(row) for row in data.held_out.values.tolist()}
        assert not seen & {tuple(row) for row in data.train.values.tolist()}
    assert one.train.values.tolist() != other.train.values.tolist()
    with pytest.raises(UserError, match="have 8 images per class, 9 are needed"):
        every.of(Job(classes=3, images=7, k=2))


@pytest.mark.usefixtures("small")
def test_tuning_goes_on_while_the_best_rate_is_at_an_edge(monkeypatch):
    by_rate = {1e-3: 50.0, 3e-3: 60.0, 1e-2: 70.0, 3e-2: 80.0, 0.1: 75.0}
    bench = Bench(Job(classes=3, images=2, k=2), made_up().of(Job(classes=3, images=2, k=2)), {})
    monkeypatch.setattr(Bench, "tail", lambda self, name: self.made.setdefault(name, dense()))
    monkeypatch.setattr(rivals, "run_in_blocks", lambda tail, values: torch.zeros(1, 2))
    monkeypatch.setattr(rivals, "_agreement", lambda classes, targets: by_rate[bench.recipes["dka"].lr])
    rows = list(tune("dka", bench))
    assert [(row["lr"], row["epochs"]) for row in rows] == [*((rate, 2) for rate in by_rate), (0.03, 6)]
    assert bench.recipes["dka"] == Recipe(0.03, 2)  # the long one is no better, so that no longer one is tried
    monkeypatch.setattr(
        rivals, "_agreement", lambda classes, targets: bench.recipes["dka"].epochs - bench.recipes["dka"].lr
    )
    bench.recipes.clear()
    assert [row["epochs"] for row in tune("dka", bench)][-2:] == [6, 18]


def test_of_recipes_that_are_as_good_the_shortest_is_chosen():
    found = {Recipe(0.1, 4): 36.0, Recipe(0.01, 4): 36.9, Recipe(0.03, 4): 36.85, Recipe(0.01, 14): 37.0}
    assert rivals.choose(found) == Recipe(0.01, 4)
    assert rivals.choose({**found, Recipe(0.01, 42): 38.0}) == Recipe(0.01, 42)


@pytest.mark.usefixtures("small")
def test_the_study_resumes(tmp_path, capsys):
    every = made_up()
    jobs = [Job(classes=6, images=4, k=2, seed=seed) for seed in (0, 1)]
    rivals.study(jobs[:1], lambda frozen: every, tmp_path)
    rows = results.select(results.read(tmp_path), dataset=rivals_jobs.DATASET)
    assert [row["head"] for row in rows] == rivals_heads.heads_of(jobs[0]) and {row["seed"] for row in rows} == {0}
    by_head = {row["head"]: row for row in rows}
    assert by_head["dense"]["top1"] > 90 and by_head["dense"]["weights_per_class"] == 12
    assert by_head["pruned, trained"]["weights_per_class"] == by_head["dka, frozen"]["weights_per_class"] == 2
    assert by_head["dka, frozen"]["units_per_class"] <= 2 <= by_head["dka"]["units_per_class"]
    tuning = len((tmp_path / f"{rivals.TUNING}.jsonl").read_text().splitlines())
    rivals.study(rivals.left_of(jobs, tmp_path), lambda frozen: every, tmp_path)
    assert "2 jobs, 1 done, 1 to do now" in capsys.readouterr().out
    again = results.select(results.read(tmp_path), dataset=rivals_jobs.DATASET)
    assert again[: len(rows)] == rows and {row["seed"] for row in again} == {0, 1}
    assert len((tmp_path / f"{rivals.TUNING}.jsonl").read_text().splitlines()) == tuning  # tuned once


@pytest.mark.usefixtures("small")
def test_layers_that_train_along_are_each_heads_own(tmp_path):
    layers = nn.Sequential(nn.Linear(12, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Dropout(0.2)).eval()
    every, job = made_up(layers=layers), Job(classes=6, images=4, k=2, frozen=BEHIND)
    before = {name: value.clone() for name, value in layers.state_dict().items()}
    rivals.study([job], lambda frozen: every, tmp_path)
    rows = results.select(results.read(tmp_path), dataset=rivals_jobs.DATASET, frozen=BEHIND)
    assert [row["head"] for row in rows] == list(rivals_heads.METHODS)  # among them the dense one, trained on
    assert all(torch.equal(value, before[name]) for name, value in layers.state_dict().items())
    recipes = rivals.recipes_for(job, lambda frozen: every, tmp_path)
    bench = Bench(job, every.of(job), recipes)
    dense, dka, mask = (bench.tail(name) for name in ("dense", "dka", "elastic net, trained"))
    weights = [found[0].weight for found in (layers, dense.layers, dka.layers, mask.layers)]
    assert all(not torch.equal(one, other) for one, other in combinations(weights, 2))
    assert bench.tail("pruned").layers[0].weight.tolist() == dense.layers[0].weight.tolist()  # not trained further
    assert mask.head.mask.sum(1).tolist() == [2] * 6 and not any(tail.training for tail in mask.modules())


def test_layers_behind_give_what_reaches_the_head():
    torch.manual_seed(0)
    network = build_model("resnet18", 4).eval()
    images = torch.randn(2, 3, 64, 64)
    for frozen in (TRUNK, "layer3"):
        outputs = run_until(network, frozen, images)
        pooled = rivals_jobs.layers_behind(network, frozen)(outputs)
        assert torch.allclose(pooled, run_until(network, TRUNK, images), atol=1e-5) and pooled.shape == (2, 512)
    assert network(images).shape == (2, 4)  # as it was


class Colours:
    """Six images of one colour each, in three classes."""

    def __init__(self):
        self.targets = [0, 0, 0, 1, 1, 2]

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return torch.full((3, 1, 1), float(index)), self.targets[index]


def test_features_are_resumed_and_their_classes_take_turns(tmp_path, monkeypatch):
    assert photo_features.in_turns([0, 0, 0, 1, 1, 2]) == [0, 3, 5, 1, 4, 2]
    monkeypatch.setattr(photo_features, "BLOCK", 2)
    monkeypatch.setattr(photo_features, "val_transform", lambda spec: None)
    source = type("Source", (), {"spec": None, "dataset": lambda self, split, transform: Colours()})()
    model = nn.Sequential(nn.Flatten(), dense(torch.eye(3))).eval()
    photo_features.ensure_features(model, TRUNK, source, tmp_path)
    whole = photo_features.read_features(tmp_path, "train")
    assert whole.values[:, 0].tolist() == [0, 3, 5, 1, 4, 2] and whole.targets.tolist() == [0, 1, 2, 0, 1, 0]
    (tmp_path / "train.json").write_text(json.dumps(4))  # as if it had been killed
    assert len(photo_features.read_features(tmp_path, "train").targets) == 4
    ran = []
    monkeypatch.setattr(
        photo_features, "_outputs", lambda model, layer, images, some: ran.append(some) or torch.ones(len(some), 3)
    )
    photo_features.ensure_features(model, TRUNK, source, tmp_path)
    assert ran == [[4, 2]]


def study_rows(gains, frozen=TRUNK):
    """Rows of three seeds at the usual setting and at K = 1, in which DKA is so much better than the best mask."""
    rows = []
    for k, gain in gains.items():
        for seed in range(3):
            job = Job(k=k, seed=seed, frozen=frozen)
            for head in rivals_heads.heads_of(job):
                top1 = 40 + seed + (gain + 0.1 * seed if head == "dka" else -5 if head != "elastic net, trained" else 0)
                rows.append({**vars(job), "dataset": rivals_jobs.DATASET, "head": head, "top1": top1})
    return rows


@pytest.mark.parametrize(
    "gain, verdict, shown", [(6, "pays", "6.1 ± 0.2"), (-6, "does not pay", "-5.9 ± 0.2"), (-0.1, "cannot tell", "")]
)
def test_the_sentence_says_what_the_rows_say(gain, verdict, shown):
    text = rivals_report.sentence(study_rows({5: gain, 1: 3}))
    assert text.startswith(f"**Choosing votes per image, behind frozen features: {verdict}.**")
    name = rivals_report.TITLES["elastic net, trained"]
    assert f"as many weights ({name}) is {shown}" in text and "(3 seeds)" in text
    assert "In 1 other setting one of the three is varied. It pays: K = 1. It does not pay: none." in text


def test_a_single_seed_has_no_verdict():
    rows = [row for row in study_rows({5: 2, 1: -4}) if row["k"] == 5 or row["seed"] == 0]
    assert "One seed only: K = 1." in rivals_report.sentence(rows)


def test_the_section_and_the_figure(tmp_path):
    rows = study_rows({5: 2, 1: -4})
    for row in rows:
        row |= dict.fromkeys((column.metric for column in rivals_report.COLUMNS if column.metric != "top1"), 1.0)
        row["commit"] = "abc"
    text = rivals_report.section(rows)
    assert (
        "| K = 1 | 3 | 36.0 ± 2.5 | 37.1 ± 2.7 | 41.0 ± 2.5 | elastic net, trained | -3.9 ± 0.2 | does not pay |"
        in text
    )
    assert "6 trainings of all heads, commit abc" in text
    assert rivals_report.section([]) == ""
    rivals_report.plot(tmp_path / "rivals.png", rows)
    assert (tmp_path / "rivals.png").stat().st_size > 10_000


def test_the_claims_that_rivals_decide():
    choice, accuracy = rivals_report.claims_decided(study_rows({5: 2}))
    assert choice.verdict == "holds" and accuracy.claim == "No loss of accuracy"
    assert accuracy.verdict == "holds" and accuracy.number.startswith("K = 5, 200 classes: 7.1 ± 0.2 points")
    assert list(rivals_report.claims_decided([])) == []


def test_heads_that_were_cut_off_while_they_gained_are_named():
    rows = [
        {**vars(Job()), "dataset": rivals.TUNING, "head": head, "lr": 0.01, "epochs": epochs, "top1_held_out": top1}
        for head, curve in {
            "dka": {4: 50.0, 14: 51.0},  # a longer one was not tried
            "dense": {4: 50.0, 14: 51.0, 42: 51.1},  # which gained less than ENOUGH
            "pruned gradually": {4: 4.7, 14: 19.8, 42: 42.1},
        }.items()
        for epochs, top1 in curve.items()
    ]
    (found,) = rivals_report.cut_off(rows)
    assert found.startswith("pruned gradually (")
    assert "(K = 5, 200 x 100 images, frozen: 4.7 → 19.8 → 42.1 %)" in found


def test_what_trains_along_is_read_apart(tmp_path):
    rows = [*study_rows({5: 2}), *study_rows({5: -3}, BEHIND)]
    for row in rows:
        row["top1"] += 9 if row["head"] == "dense, trained on" else 0
    readings = list(rivals_report.claims_decided(rows))
    assert [(reading.claim[:2], reading.verdict) for reading in readings] == [
        ("Ch", "holds"),
        ("No", "holds"),
        ("Ch", "does not hold"),
        ("No", "does not hold"),
    ]
    assert readings[3].control.startswith("dense, trained further") and "-6.9 ± 0.2" in readings[3].number
    for row in rows:
        row |= dict.fromkeys((column.metric for column in rivals_report.COLUMNS if column.metric != "top1"), 1.0)
        row["commit"] = "abc"
    text = rivals_report.section(rows)
    assert "**Choosing votes per image, where the last convolution trains along: does not pay.**" in text
    assert text.count("| dense, trained further |") == 1 and "6 trainings of all heads" in text
    rivals_report.plot(tmp_path / "rivals.png", rows)
