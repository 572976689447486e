"""The study: its measures against answers worked by hand, and its document from rows made up for the purpose."""

import json
import math
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from conftest import write_small_broden
from torch import nn

from experiments import claims, data, measure, report, results
from experiments import photographs as study_of_photographs
from experiments.heads import elastic_nets
from experiments.plan import ABLATED_K, FULL, KS, QUICK, SEEDS, TRAINED_OUT, VARIANTS, Data, Run, plan
from experiments.readings import CHOICE, read_photographs, readings
from experiments.tables import ACCURACY, CONCEPTS, CONTROLS, FAITHFULNESS, POINTING, ROUTES, SPARSITY, VARIETY
from explain.routes import overlaps, routes_of, within_and_between
from loader.datasets import spec_of
from loader.images import read_image
from loader.mini_places import render_mini_places
from models import build_model
from models.dynamic_k import DynamicKLinear
from models.heads import HEADS, ByMagnitudeHead, DenseHead, PrunedHead
from netdissect.broden import Broden
from netdissect.tally import TallyRow
from util.cli import UserError

WEIGHT = torch.tensor([[4.0, 3.0, 2.0, -1.0, 0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0]])


def dka(weight, topk, head=DynamicKLinear):
    layer = head(weight.shape[1], weight.shape[0], topk=topk)
    layer.load_state_dict({"weight": weight, "bias": torch.zeros(len(weight))})
    return layer.eval()


def test_votes_of_each_kind_of_head():
    pooled, classes = torch.ones(1, 8), torch.tensor([0])
    dense = measure.votes_of(DenseHead.of(WEIGHT, torch.zeros(2)), pooled, classes)
    assert dense.active[0].tolist() == [True] * 4 + [False] * 4
    assert dense.shown.tolist() == [[0, 1, 2, 3, -1]]
    few = measure.votes_of(dka(WEIGHT, 2), pooled, classes)
    assert few.active[0].nonzero().flatten().tolist() == [0, 1]
    assert few.shown.tolist() == [[0, 1, -1, -1, -1]]
    by_size = dka(torch.tensor([[1.0, -3.0, 2.0, 0.5, 0.0, 0.0, 0.0, 0.0]] * 2), 2, ByMagnitudeHead)
    assert measure.votes_of(by_size, pooled, classes).active[0].nonzero().flatten().tolist() == [1, 2]
    assert by_size(pooled).tolist() == [[-1.0, -1.0]]


def test_overlaps_by_hand():
    sets = torch.tensor([[1, 1, 0], [0, 1, 1], [1, 1, 0], [0, 0, 0]], dtype=torch.bool)

    def means(sets, classes):
        count = classes.bincount()
        return within_and_between(overlaps(sets, classes, len(count)), count)

    within, between = means(sets, torch.tensor([0, 0, 1, 1]))
    assert within == pytest.approx((1 / 3 + 0) / 2)
    assert between == pytest.approx((1 + 0 + 1 / 3 + 0) / 4)
    assert means(sets[[3, 3]], torch.tensor([0, 0]))[0] == 1.0
    assert math.isnan(means(sets[:2], torch.tensor([0, 1]))[0])


def test_measures_agree_with_the_product():
    """Units per example and overlaps of a DKA head are those of `explain.routes`."""
    generator = torch.Generator().manual_seed(0)
    head = dka(torch.randn(6, 16, generator=generator), 5)
    pooled = torch.rand(60, 16, generator=generator) + 0.1
    with torch.no_grad():
        targets = head(pooled).argmax(1)
    found = measure.measure_head(head, pooled, targets)
    routes = routes_of(head, pooled, targets)
    assert (found["top1"], found["top5"], found["active_units"]) == (100, 100, 5)
    assert found["overlap_within"] == pytest.approx(routes.overlap_within)
    assert found["overlap_between"] == pytest.approx(routes.overlap_between)
    assert found["units_total"] == routes.distinct_units
    assert found["units_per_class"] == pytest.approx(routes.distinct[routes.count > 0].double().mean().item())
    assert found["top4_share"] + found["residual"] == pytest.approx(1)
    assert found["shown_overlap_within"] == pytest.approx(found["overlap_within"])  # all five are shown


def test_shares_and_faithfulness_by_hand():
    found = measure.measure_head(DenseHead.of(WEIGHT.repeat(3, 1), torch.zeros(6)), torch.ones(1, 8), torch.tensor([0]))
    assert found["active_units"] == 4 and found["residual"] == pytest.approx(0, abs=1e-9)
    lone = measure.measure_head(DenseHead.of(torch.eye(6), torch.zeros(6)), 50 * torch.eye(6), torch.arange(6))
    assert lone["deletion"] == pytest.approx(0.1 + 0.9 / 6, abs=0.01)
    assert lone["insertion"] == pytest.approx(0.9 + 0.1 / 6, abs=0.01)


def test_controls_and_sparsity_of_a_head():
    """Twelve units: 0 to 5 are copies that fire in class 0, 6 to 11 in class 1. Three more classes have no weights."""
    targets = torch.arange(40) % 2
    size = 1.0 + torch.arange(40) % 5
    pooled = torch.cat([(size * (targets == c))[:, None].expand(-1, 6) for c in (0, 1)], 1)
    ramp = torch.linspace(1.0, 0.5, 6)
    head = dka(torch.block_diag(ramp, ramp, torch.zeros(3, 0)), 5)
    found = measure.measure_head(head, pooled, targets)
    assert (found["top1"], found["top1_frozen"], found["frozen_agreement"], found["top1_nec5"]) == (100, 100, 1, 100)
    assert (found["nec"], found["ncc"]) == (pytest.approx(12 / 5), 5)  # of 4 votes' weights 1 to 0.7 in 1 to 0.6: 85 %
    assert found["top1_without"] == 100  # the sixth unit is enough
    assert found["effective_units"] == pytest.approx(1, abs=1e-5) and found["different_units"] == 1
    assert found["unit_correlation"] == pytest.approx(1, abs=1e-5) and found["class_independence"] == 0
    assert found["active_deletion"] > 0.5 and found["other_route_deletion"] > found["deletion"]
    dense = measure.measure_head(DenseHead.of(head.weight.detach(), torch.zeros(5)), pooled, targets)
    assert (dense["frozen_agreement"], dense["ncc"]) == (1, 6)
    silent = measure.measure_head(head, torch.zeros(40, 12), targets)
    assert (silent["effective_units"], silent["ncc"]) == (0, 0) and silent["unit_correlation"] is None
    assert math.isnan(silent["contrastiveness"]) and math.isnan(silent["class_independence"])


def test_accuracy_by_k():
    pooled = torch.tensor([[1.0, 0, 0, 0, 0.9, 0.9, 0.9, 0.9]])
    head = DenseHead.of(torch.tensor([[1.0] * 4 + [0.0] * 4, [0.0] * 4 + [1.0] * 4]), torch.zeros(2))
    assert measure.accuracy_by_k(head, pooled, torch.tensor([0]), (1, 8)) == {"1": 100.0, "8": 0.0}


def test_pruned_heads_keep_the_largest_weights_and_the_bias():
    head = DenseHead.of(torch.tensor([[1.0, -3.0, 2.0], [0.5, 0.1, 0.2]]), torch.tensor([1.0, 2.0]))
    pruned = PrunedHead.freeze(head, 1)
    assert (pruned.weight * pruned.mask).tolist() == [[0, -3, 0], [0.5, 0, 0]]
    assert pruned.bias.tolist() == [1, 2]
    assert pruned(torch.ones(1, 3)).tolist() == [[-2.0, 2.5]]


def test_elastic_nets_become_denser_and_take_raw_features():
    generator = np.random.default_rng(0)
    targets = np.arange(300) % 3
    pooled = generator.normal(5, 2, (300, 10)).astype(np.float32)
    pooled[np.arange(300), targets] += 9
    sparse, full = elastic_nets(pooled, targets, (0.02, 10.0))
    assert 0 < (sparse.weight != 0).sum() < (full.weight != 0).sum()
    with torch.no_grad():
        assert (full(torch.from_numpy(pooled)).argmax(1).numpy() == targets).mean() > 0.95


def test_variants():
    torch.manual_seed(0)
    x = torch.rand(4, 512, requires_grad=True)
    heads = []
    for variant in ("", "straight-through"):
        torch.manual_seed(0)
        heads.append(build_model("resnet18_fc_ma", 3, 2, head=HEADS[VARIANTS[variant]] if variant else None).rfc)
    plain, through = heads
    assert torch.allclose(through(x), plain(x), atol=1e-6)
    through(x).sum().backward()
    assert torch.allclose(through.weight.grad, x.sum(0).expand(3, -1), atol=1e-5)  # a dense layer's
    fixed = build_model("resnet18_fc_ma", 3, 2, head=HEADS[VARIANTS["no bias"]]).rfc.bias
    assert not fixed.requires_grad and fixed.tolist() == [0, 0, 0]


class _Constant(nn.Module):
    """A network whose two units fire left and right, whatever it sees."""

    def __init__(self):
        super().__init__()
        self.layer4 = nn.Identity()

    def forward(self, x):
        left = torch.zeros(len(x), 1, 4, 4)
        left[..., :2] = 1.0
        return self.layer4(torch.cat([left, left.flip(3)], 1))


def test_pointing_by_hand(tmp_path):
    root = write_small_broden(tmp_path / "broden", count=2)
    broden = Broden(root)
    scenes = measure.look_at(_Constant(), broden, workers=0)
    assert scenes.maps.shape == (2, 2, 4, 4)
    rows = [TallyRow(1, "scene", "beach-s", 0.5, {}), TallyRow(2, "object", "sky", 0.01, {})]
    head = DenseHead.of(torch.tensor([[1.0, 1.0], [0.0, 0.0]]), torch.zeros(2))
    found = measure.pointing(head, scenes, rows)
    assert (found["named"], found["present"], found["present_by_chance"]) == (0.5, 0.5, 0.5)  # beach is in the second
    assert math.isnan(found["pointing"])  # a label of the whole image has no place
    rows = [TallyRow(1, "object", "sky", 0.5, {}), TallyRow(2, "object", "sea", 0.5, {})]
    found = measure.pointing(head, scenes, rows)
    assert (found["named"], found["present"]) == (1, 1)
    areas = [(broden.labels(i).pixels[0] == number).mean() for i in (0, 1) for number in (1, 2)]
    assert found["pointing_by_chance"] == pytest.approx(np.mean(areas))
    assert math.isnan(found["sid5"])  # there are two units
    five = measure.Scenes(scenes.maps[:, [0, 0, 0, 0, 0]], broden)
    copies = measure.pointing(DenseHead.of(torch.ones(2, 5), torch.zeros(2)), five, rows)
    assert copies["sid5"] == pytest.approx(0.2)  # five maps that are one


def test_intervals():
    assert results.interval([1.0, 2.0, 3.0]) == pytest.approx(
        (2.0, 2 - 4.303 / 3**0.5, 2 + 4.303 / 3**0.5, 3), abs=1e-3
    )
    assert results.interval([5.0, math.nan]).mean == 5 and math.isnan(results.interval([5.0]).half)
    ones = [{"seed": seed, "m": 10.0 * seed + 1} for seed in range(3)]
    others = [{"seed": seed, "m": 10.0 * seed} for seed in (2, 0, 1)]
    assert results.paired(ones, others, "m") == pytest.approx((1, 1, 1, 3))


def test_the_plan_has_what_the_study_promises():
    names = [run.name for run in plan()]
    assert len(names) == len(set(names))
    for dataset in FULL:
        for seed in SEEDS:
            assert {
                run.k for run in plan() if (run.dataset, run.head, run.seed, run.variant) == (dataset, "dka", seed, "")
            } == ({ABLATED_K} if dataset == TRAINED_OUT else set(KS))
    assert {run.dataset for run in plan(quick=True)} == set(QUICK)


def made_up(gain=5.0):
    """Rows of three seeds, of a dense and a DKA head and pruned ones."""
    rows = []
    for dataset in FULL:
        for seed in SEEDS:
            for head, k in (("dense", None), ("dka", 5), ("pruned", 5)):
                own = head == "dka"
                row = dict.fromkeys(
                    [column.metric for columns in (ACCURACY, ROUTES, FAITHFULNESS) for column in columns], 0.5
                )
                row |= {
                    "dataset": dataset,
                    "head": head,
                    "k": k,
                    "seed": seed,
                    "variant": "",
                    "seconds": 60.0,
                    "run": f"{dataset}{head}{seed}",
                    "commit": "abc",
                    "cores": 2,
                    "cpu": "X",
                    "python": "3",
                    "torch": "2",
                    "torchvision": "0",
                    "numpy": "2",
                    "scikit-learn": "1",
                }
                row |= {
                    "top1": 80 + gain * own + 0.1 * seed,
                    "residual": 0.2 if own else 0.9,
                    "overlap_within": 0.99 + 0.001 * seed,
                    "overlap_between": 0.1,
                    "deletion": 0.2 + 0.01 * seed,
                }
                if dataset == "mini_places":
                    row |= dict.fromkeys([column.metric for column in CONCEPTS + POINTING], 0.25)
                    row["lite_interpretable"] = 100 + (30 - 40 * seed) * own
                rows.append(row)
    return rows


def test_the_document_says_what_the_rows_say(tmp_path):
    (tmp_path / "README.md").write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    report.main(made_up(), tmp_path)
    text = (tmp_path / "docs" / "RESULTS.md").read_text()
    assert "| No loss of accuracy | mini_places | **holds** | K = 5: 5.00 ± 0.00 points" in text
    assert "by few units | Fashion-MNIST | **holds by construction** |" in text
    assert "concepts: interpretable units | mini_places | **cannot tell** |" in text
    assert "| Routes are dynamic | mini_places | **does not hold** |" in text
    assert "0.45 hours in total, on 2 cores of X" in text
    assert "| DKA, K = 5 | 85.10 ± 0.25 |" in text
    readme = (tmp_path / "README.md").read_text()
    assert readme.startswith("before") and readme.endswith("after\n") and "old" not in readme
    assert "| mini_places, trained out, dense | 80.1 ± 0.2 |" in readme
    assert {path.name for path in (tmp_path / "docs" / "results").iterdir()} == {
        f"{name}.png" for name in [*report.PLOTS, "rivals"]
    }
    report.main(made_up(gain=-5.0), tmp_path)
    text = (tmp_path / "docs" / "RESULTS.md").read_text()
    assert "| No loss of accuracy | mini_places | **does not hold** |" in text


def test_verdicts_by_controls_that_can_win():
    """The frozen head as good, the most active units as telling, five units worth two: no claim holds."""
    extra = {"top1_frozen": 85.0, "frozen_agreement": 0.9, "active_deletion": 0.2, "effective_units": 2.0}
    rows = [{**row, **extra} for row in made_up()]
    found = {(one.claim, one.data): one for one in readings(rows)}
    static = found[CHOICE, "mini_places"]  # top-1 is 85.0, 85.1 and 85.2 %: 0.1 points above on average
    assert static.verdict == "cannot tell" and static.number.startswith("K = 5: 0.10 ± 0.25 points")
    assert "the same in 90.0 ± 0.0 % of images" in static.number
    activity = found["The largest votes matter more than the most active units", "mini_places"]
    assert activity.verdict == "holds by construction" and "probability 0.200 ± 0.000;" in activity.number
    dynamics = found["Routes are dynamic", "mini_places"]
    assert dynamics.verdict == "does not hold"  # the pruned head's routes differ as much
    equal = [{**row, "top1_frozen": row["top1"]} for row in rows]
    assert {one.verdict for one in readings(equal) if one.claim == CHOICE} == {"does not hold"}
    assert found["The units of an explanation are different reasons", "mini_places"].verdict == "does not hold"
    better = {**extra, "top1_frozen": 80.0, "active_deletion": 0.5, "effective_units": 4.5}
    verdicts = {one.claim: one.verdict for one in readings([{**row, **better} for row in made_up()])}
    assert verdicts[CHOICE] == "cannot tell"  # a frozen head that was not trained further can only refute
    assert verdicts["The units of an explanation are different reasons"] == "holds"


def test_photographs_of_one_network_each_have_no_verdict():
    names = ["ResNet-18, Tiny-ImageNet (K = 5, 10 epochs)", "ResNet-18, Tiny-ImageNet (dense, 10 epochs)"]
    rows = [{"network": name, "interpretable": 9, "unique": 3} for name in (*names, "ResNet-18, untrained")]
    assert read_photographs(rows[:2]) == []
    units, detectors = read_photographs(rows)
    assert units.verdict == "cannot tell" and units.number == "K = 5: 9; dense: 9; untrained: 9 of 512 units"
    assert detectors.number == "K = 5: 3; dense: 3; untrained: 3 of 512 units"


def test_units_of_an_untrained_network_are_dissected(tmp_path):
    render_mini_places(tmp_path / "data", train=16, val=16, broden=16, workers=1, progress=False)
    one, small = Run("mini_places", "untrained", None, 0), Data(64, 1, 32, 0.04, 0.0, (0.5, 1.0))
    study = data.prepare(one, small, tmp_path, tmp_path / "work")
    found = claims.measure_untrained(one, study)
    assert 0 <= found["lite_unique"] <= found["lite_interpretable"] <= 512
    assert found == claims.measure_untrained(one, study)  # the seed draws the weights


@pytest.mark.parametrize("top1, fits", [(80.1, True), (90.0, False)])
def test_check_repeats_a_run(tmp_path, monkeypatch, capsys, top1, fits):
    rows = [
        {"dataset": "fashion_mnist", "head": "dka", "k": 5, "seed": seed, "variant": "", "top1": 80 + 0.1 * seed}
        for seed in SEEDS
    ]
    monkeypatch.setattr(results, "read", lambda: rows)
    monkeypatch.setattr(claims, "in_own_process", lambda one, _: [{**one.record(), "top1": top1}])
    if fits:
        claims.check(Run("fashion_mnist", "dka", 5, 0), tmp_path)
    else:
        with pytest.raises(UserError, match="outside of the interval"):
            claims.check(Run("fashion_mnist", "dka", 5, 0), tmp_path)
    assert f"top-1 {top1:.2f} %, expected 79.85 to 80.35 % (of 3 seeds)" in capsys.readouterr().out


def test_results_are_lines(tmp_path):
    results.append([{"dataset": "a", "x": 1}, {"dataset": "b", "x": 2}], tmp_path)
    results.append([{"dataset": "a", "x": 3, "y": math.nan}], tmp_path)
    assert results.read(tmp_path)[1]["y"] is None
    assert [json.loads(line)["x"] for line in (tmp_path / "a.jsonl").read_text().splitlines()] == [1, 3]
    assert results.select(results.read(tmp_path), dataset="b") == [{"dataset": "b", "x": 2}]


def test_rows_of_a_run_that_is_done_again_go(tmp_path):
    results.append([{"dataset": "a", "run": "one", "x": 1}, {"dataset": "a", "run": "one", "x": 2}], tmp_path)
    results.append([{"dataset": "a", "run": "two", "x": 3}, {"dataset": "b", "run": "three", "x": 4}], tmp_path)
    results.drop("one", tmp_path)
    assert [row["x"] for row in results.read(tmp_path)] == [3, 4]


def test_runs_share_the_cores_and_wait_for_the_network_that_they_need(tmp_path, monkeypatch):
    finished, together = [], []

    def measured(one, work, quick, threads):
        together.append(one.name)
        time.sleep(0.3 if one.head == "dense" else 0.1)
        if one.head == "elastic net":
            assert "mini_places-dense-seed0" in finished
        together.remove(one.name)
        finished.append(one.name)
        most.append(len(together) + 1)
        return [{**one.record(), "run": one.name, "threads": threads}]

    most: list[int] = []
    monkeypatch.setattr(claims, "in_own_process", measured)
    monkeypatch.setattr(claims, "ROOT", tmp_path)
    monkeypatch.setattr(claims.os, "cpu_count", lambda: 4)
    flags = ["--quick", "--jobs", "2", "--work", str(tmp_path / "work")]
    claims.main(claims.get_args_parser().parse_args(flags))
    rows = results.read(tmp_path / "experiments" / "quick")
    assert {row["run"] for row in rows} == {one.name for one in plan(quick=True)}
    assert {row["threads"] for row in rows} == {2}
    assert max(most) == 2


def test_of_concurrent_runs_one_renders_the_scenes_and_the_others_use_them(tmp_path, monkeypatch):
    render_mini_places(tmp_path / "data", train=16, val=16, broden=16, workers=1, progress=False)
    copied = []
    monkeypatch.setattr(data, "_split_index", lambda *_: copied.append(time.sleep(0.2)))

    def prepare(_):
        return data.prepare(Run("mini_places", "dka", 5, 0), QUICK["mini_places"], tmp_path, tmp_path / "work")

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(prepare, range(2))
    assert first == second and len(copied) == 1
    assert (first.source.spec.size, first.source.spec.training.epochs) == (64, 1)
    assert spec_of("mini_places").size == 224  # the data set itself is unchanged
    images = list(first.source.folder.rglob("*.jpg"))
    assert len(images) == 32
    assert {read_image(path).size for path in images} == {(64, 64)}


def test_a_run_that_fails_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "__file__", str(tmp_path / "no_such_program.py"))
    with pytest.raises(UserError, match=r"mini_places-dka-k5-seed0: ended with code 2, see .*\.log"):
        claims.in_own_process(Run("mini_places", "dka", 5, 0), tmp_path / "work")


def test_rows_of_an_earlier_study_show_dashes(tmp_path):
    """Rows without the later metrics: no table of these; beside rows that have them, dashes."""
    (tmp_path / "README.md").write_text(f"{report.BEGIN}\n{report.END}\n")
    old = made_up()
    report.main(old, tmp_path)
    assert "Does the head choose?" not in (tmp_path / "docs" / "RESULTS.md").read_text()
    metrics = [column.metric for column in CONTROLS + SPARSITY + VARIETY]
    new = [{**dict.fromkeys(metrics, 0.25), **row} if row["head"] == "dka" else row for row in old]
    report.main(new, tmp_path)
    text = (tmp_path / "docs" / "RESULTS.md").read_text()
    _, _, choice = text.partition("### Does the head choose?")
    lines = {line.split("|")[1].strip(): line for line in choice.splitlines()[:8] if line.startswith("|")}
    assert lines["dense"].endswith("| – | – | – | – | – | – |") and "25.0 ± 0.0" in lines["DKA, K = 5"]


def test_photograph_rows_count_units_and_labels_by_category():
    counted = study_of_photographs.by_category(
        [("scene", "sea"), ("object", "cow"), ("scene", "sea"), ("scene", "hill")]
    )
    assert counted == {"object": (1, 1), "scene": (3, 2)}


def test_photographs_dissected_already_are_not_again(tmp_path, monkeypatch):
    """A study that was interrupted repeats no network, unless it is asked to or the photographs are others."""
    results, dissected = tmp_path / "photographs.json", []

    def dissect(subject, broden):
        dissected.append(subject.name)
        yield {"network": subject.name, "layer": "a", "seconds": 1}

    names = ["trained", "untrained"]
    monkeypatch.setattr(study_of_photographs, "dissect", dissect)
    monkeypatch.setattr(
        study_of_photographs, "subjects", lambda _: (study_of_photographs.Subject(n, nn.Identity(), ()) for n in names)
    )
    broden = write_small_broden(tmp_path / "broden")
    for options, expected in (
        ([], names),
        ([], []),
        (["--again", "untr"], ["untrained"]),
        (["--images", "1"], names),
    ):
        dissected.clear()
        arguments = ["--data", str(broden), *options]
        study_of_photographs.main(study_of_photographs.get_args_parser().parse_args(arguments), results)
        assert dissected == expected
    about = json.loads(results.read_text())
    assert about["images"] == 1 and [row["network"] for row in about["rows"]] == names
    assert {"commit", "torch", "cpu"} <= about["rows"][0].keys()
