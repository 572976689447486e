"""Heads: every one of `HEADS` keeps the protocol, and each does what its name says."""

import pytest
import torch
import torchvision
from torch import nn
from torch.testing import assert_close

from explain.images import Classifier, explain_images
from explain.naming import Names
from explain.routes import routes_of
from explain.terms import terms_of
from models import build_model, head_of, load_snapshot
from models.backbones import head_name
from models.dynamic_k import DynamicKLinear
from models.heads import (
    HEADS,
    ByMagnitudeHead,
    DenseHead,
    NoBiasHead,
    PrunedHead,
    StaticHead,
    StraightThroughHead,
    adopt,
    predict,
    times_voted,
)
from models.snapshot import save_snapshot
from util.cli import UserError

UNITS, CLASSES, K = 12, 4, 3
SPARSE = {name: kind for name, kind in HEADS.items() if name != "dense"}
all_heads = pytest.mark.parametrize("name", HEADS)


def make(name, topk=K):
    """A head of `HEADS` with random weights: (12 units, 4 classes); a dense one has K = 12."""
    torch.manual_seed(0)
    return HEADS[name](UNITS, CLASSES, topk=UNITS if name == "dense" else topk).eval()


def filled(kind, weight, topk, bias=0.0):
    """A head of one class with this weight (N,) and bias."""
    head = kind(len(weight), 1, topk=topk)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([weight]))
        head.bias.fill_(bias)
    return head


def random_features(images=9):
    return torch.randn(images, UNITS, generator=torch.Generator().manual_seed(1))  # of both signs


# --- the protocol -------------------------------------------------------------------------------------------------


@all_heads
def test_a_head_has_what_the_protocol_asks_for(name):
    head = make(name)
    assert isinstance(head, nn.Linear)
    assert (head.in_features, head.out_features, head.topk) == (UNITS, CLASSES, UNITS if name == "dense" else K)
    assert (head.weight.shape, head.bias.shape) == ((CLASSES, UNITS), (CLASSES,))
    for batch in ((), (5,), (2, 3), (0,)):
        assert head(torch.randn(*batch, UNITS)).shape == (*batch, CLASSES)


@all_heads
def test_votes_and_chosen_have_a_row_per_example(name):
    head, pooled = make(name), random_features()
    classes = torch.arange(9) % CLASSES
    votes, chosen = head.votes(pooled, classes), head.chosen(pooled, classes)
    assert (votes.shape, votes.dtype, votes.requires_grad) == ((9, UNITS), torch.float32, False)
    assert (chosen.shape, chosen.dtype) == ((9, UNITS), torch.bool)
    assert chosen.sum(1).tolist() == [head.topk] * 9
    assert (head.votes(pooled[:0], classes[:0]).shape, head.chosen(pooled[:0], classes[:0]).shape) == ((0, UNITS),) * 2


@all_heads
@pytest.mark.parametrize("topk", [1, K, UNITS])
def test_each_score_is_the_sum_of_its_chosen_votes_and_the_bias(name, topk):
    head, pooled = make(name, topk), random_features()
    scores = head(pooled)  # (V, C)
    for class_ in range(CLASSES):
        classes = torch.full((len(pooled),), class_)
        chosen_votes = head.votes(pooled, classes) * head.chosen(pooled, classes)
        assert_close(scores[:, class_], chosen_votes.sum(1) + head.bias[class_], rtol=0, atol=1e-5)


@all_heads
def test_predictions_are_those_of_the_scores(name, monkeypatch):
    head, pooled = make(name), random_features()
    monkeypatch.setattr("models.heads.BLOCK_ELEMENTS", 2 * UNITS)  # two examples at a time
    assert torch.equal(predict(head, pooled), head(pooled).argmax(1))


@all_heads
def test_times_voted_counts_chosen_votes_other_than_zero(name, monkeypatch):
    head, pooled = make(name), random_features()
    pooled[::2, 4] = 0.0
    classes = torch.arange(9) % CLASSES
    expected = [0] * UNITS
    for features, class_ in zip(pooled, classes, strict=True):
        votes, chosen = head.votes(features[None], class_[None])[0], head.chosen(features[None], class_[None])[0]
        for unit in range(UNITS):
            expected[unit] += bool(chosen[unit]) and votes[unit].item() != 0
    monkeypatch.setattr("models.heads.BLOCK_ELEMENTS", 2 * UNITS)
    assert times_voted(head, pooled, classes).tolist() == expected


# --- each head ----------------------------------------------------------------------------------------------------


def test_dynamic_k_chooses_equal_votes_in_unit_order():
    head = filled(DynamicKLinear, [1.0, 1.0, 1.0, 1.0, 2.0], topk=3)
    pooled = torch.tensor([[0.0] * 5, [1.0] * 5, [1.0, 0.0, 1.0, 1.0, 0.5]])  # votes 0 0 0 0 0, 1 1 1 1 2, 1 0 1 1 1
    chosen = head.chosen(pooled, torch.zeros(3, dtype=torch.int64))
    assert [row.nonzero().flatten().tolist() for row in chosen] == [[0, 1, 2], [0, 1, 4], [0, 2, 3]]


def test_dynamic_k_and_by_magnitude_worked_by_hand():
    """Votes 1, -3, 2: the largest is 2, the one of largest absolute value -3."""
    pooled, classes = torch.ones(1, 3), torch.tensor([0])
    largest, strongest = (filled(kind, [1.0, -3.0, 2.0], 1, 0.5) for kind in (DynamicKLinear, ByMagnitudeHead))
    assert (largest(pooled).item(), strongest(pooled).item()) == (2.5, -2.5)
    assert largest.chosen(pooled, classes).tolist() == [[False, False, True]]
    assert strongest.chosen(pooled, classes).tolist() == [[False, True, False]]
    assert largest.votes(pooled, classes).tolist() == strongest.votes(pooled, classes).tolist() == [[1, -3, 2]]


def test_static_and_pruned_heads_worked_by_hand():
    """Weights 1, -3, 2, K = 1: the static head keeps unit 2, the pruned one unit 1."""
    dense = DenseHead.of(torch.tensor([[1.0, -3.0, 2.0]]), torch.tensor([0.5]))
    static, pruned = StaticHead.freeze(dense, topk=1), PrunedHead.freeze(dense, topk=1)
    assert static.mask.tolist() == [[False, False, True]]
    assert pruned.mask.tolist() == [[False, True, False]]
    pooled, classes = torch.tensor([[4.0, 5.0, 0.0]]), torch.tensor([0])
    assert (static(pooled).item(), pruned(pooled).item()) == (0.5, -14.5)
    assert static.votes(pooled, classes).tolist() == [[0, 0, 0]]
    assert pruned.votes(pooled, classes).tolist() == [[0, -15, 0]]
    assert static.chosen(pooled, classes).tolist() == static.mask.tolist()  # whatever the features
    assert (static.topk, static.training) == (1, False)


@pytest.mark.parametrize("kind", [StaticHead, PrunedHead])
def test_freezing_copies_a_head_and_takes_its_k(kind):
    dynamic = make("dynamic_k")
    frozen = kind.freeze(dynamic)
    assert frozen.topk == K
    assert torch.equal(frozen.weight, dynamic.weight) and torch.equal(frozen.bias, dynamic.bias)
    before = dynamic.weight.clone()
    with torch.no_grad():
        frozen.weight.zero_()
    assert torch.equal(dynamic.weight, before)


@pytest.mark.parametrize("kind", [StaticHead, PrunedHead])
def test_a_mask_stays_when_the_weights_change(kind):
    torch.manual_seed(0)
    head = kind(UNITS, CLASSES, topk=K)
    mask, before = head.mask.clone(), head.weight.detach().clone()
    optimizer = torch.optim.SGD(head.parameters(), 1.0)
    for _ in range(3):
        optimizer.zero_grad()
        (head(random_features()).square().sum() * 10).backward()
        optimizer.step()
    assert torch.equal(head.mask, mask)
    assert not torch.equal(head.weight[mask], before[mask])
    assert torch.equal(head.weight[~mask], before[~mask])  # no gradient reaches what a class does not keep
    with torch.no_grad():
        head.weight.copy_(torch.arange(UNITS).float())
    assert torch.equal(head.mask, mask)
    head.choose()
    assert head.mask.nonzero()[:, 1].tolist() == [9, 10, 11] * CLASSES


@pytest.mark.parametrize("kind", [StaticHead, PrunedHead])
def test_a_static_heads_routes_are_the_same_for_all_images_of_a_class(kind):
    torch.manual_seed(0)
    found = routes_of(kind(UNITS, CLASSES, topk=K), random_features(20), torch.arange(20) % CLASSES)
    assert found.overlap_within == 1.0
    assert found.distinct.tolist() == [K] * CLASSES


def test_straight_through_has_the_gradients_of_a_dense_layer():
    """Votes 1, -3, 2 and K = 1: the score is 2 + 0.5, and its gradient that of 1 - 3 + 2 + 0.5."""
    head = filled(StraightThroughHead, [1.0, -3.0, 2.0], 1, 0.5)
    pooled = torch.tensor([[1.0, 1.0, 1.0]], requires_grad=True)
    score = head(pooled)
    assert score.item() == 2.5
    score.sum().backward()
    assert head.weight.grad.tolist() == [[1, 1, 1]]
    assert pooled.grad.tolist() == [[1, -3, 2]]


def test_no_bias_stays_zero():
    head = NoBiasHead(UNITS, CLASSES, topk=K)
    assert head.bias.tolist() == [0] * CLASSES
    assert [name for name, parameter in head.named_parameters() if parameter.requires_grad] == ["weight"]
    plain = DynamicKLinear(UNITS, CLASSES, bias=False, topk=K)
    plain.load_state_dict({"weight": head.weight})
    assert torch.equal(head(random_features()), plain(random_features()))


@pytest.mark.parametrize("name", SPARSE)
@pytest.mark.parametrize("topk", [0, UNITS + 1])
def test_rejects_k_out_of_range(name, topk):
    with pytest.raises(ValueError, match="topk must be an integer from 1 to in_features = 12"):
        HEADS[name](UNITS, CLASSES, topk=topk)


def test_a_dense_head_rejects_a_k():
    assert DenseHead(UNITS, CLASSES).topk == DenseHead(UNITS, CLASSES, topk=UNITS).topk == UNITS
    with pytest.raises(ValueError, match="a dense head sums all of its 12 votes, not 5"):
        DenseHead(UNITS, CLASSES, topk=5)


def test_adopt_shares_parameters_and_draws_no_random_number():
    linear = nn.Linear(UNITS, CLASSES)
    before = torch.get_rng_state()
    head = adopt(linear)
    assert torch.equal(torch.get_rng_state(), before)
    assert head.weight is linear.weight and head.bias is linear.bias
    assert torch.equal(head(random_features()), linear(random_features()))


# --- in networks --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SPARSE)
@pytest.mark.parametrize("arch", ["resnet18_fc_ma", "resnet18"])
def test_any_head_in_any_network(arch, name):
    model = build_model(arch, 3, 7, head=HEADS[name])
    head = head_of(model)
    assert head is (model.rfc if arch.endswith("_fc_ma") else model.fc)
    assert (type(head), head.in_features, head.out_features, head.topk) == (HEADS[name], 512, 3, 7)
    assert head_name(head, arch) == (None if (arch, name) == ("resnet18_fc_ma", "dynamic_k") else name)
    with pytest.raises(UserError, match=f"K = None: {arch} has 512 pooled features"):
        build_model(arch, 3, None, head=HEADS[name])


def test_the_heads_of_networks_by_default():
    dense, dynamic = build_model("resnet18", 3), build_model("resnet18_fc_ma", 3, 7)
    assert (type(head_of(dense)), type(head_of(dynamic))) == (DenseHead, DynamicKLinear)
    assert head_name(head_of(dense), "resnet18") is None
    assert head_name(head_of(build_model("resnet18_fc_ma", 3, 512, head=DenseHead)), "resnet18_fc_ma") == "dense"
    assert type(head_of(build_model("resnet18", 3, head=DenseHead))) is DenseHead


def test_a_dense_network_has_torchvisions_random_weights():
    torch.manual_seed(5)
    model = build_model("resnet18", 7)
    after = torch.get_rng_state()
    torch.manual_seed(5)
    expected = torchvision.models.resnet18(num_classes=7)
    assert torch.equal(torch.get_rng_state(), after)
    own, theirs = model.state_dict(), expected.state_dict()
    assert list(own) == list(theirs)
    assert all(torch.equal(own[key], theirs[key]) for key in own)


@pytest.mark.parametrize("name", SPARSE)
def test_a_snapshot_names_its_head(tmp_path, name):
    torch.manual_seed(0)
    model = build_model("resnet18_fc_ma", 3, 7, head=HEADS[name]).eval()
    head = head_of(model)
    with torch.no_grad():
        head.weight.copy_(head.weight.flip(1))  # a mask that was chosen before must stay
    known = {"arch": "resnet18_fc_ma", "topk": 7}
    own = head_name(head, "resnet18_fc_ma")
    metadata = known if own is None else {**known, "head": own}
    save_snapshot(tmp_path / "s.pth", {**metadata, "state_dict": model.state_dict()})
    again, about = load_snapshot(tmp_path / "s.pth")
    assert (type(head_of(again)), about["topk"], about.get("head")) == (HEADS[name], 7, own)
    if name in ("static", "pruned"):
        assert torch.equal(head_of(again).mask, head.mask)
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(again(images), model(images))


@pytest.mark.parametrize("name", ["no_such_head", 5])
def test_an_unknown_head_in_a_snapshot(tmp_path, name):
    model = build_model("resnet18_fc_ma", 3, 7)
    known = {"arch": "resnet18_fc_ma", "topk": 7, "head": name}
    save_snapshot(tmp_path / "s.pth", {**known, "state_dict": model.state_dict()})
    with pytest.raises(UserError, match=f"s.pth: head {name!r}, expected one of dense, dynamic_k, straight_through"):
        load_snapshot(tmp_path / "s.pth")


@all_heads
def test_explanations_by_any_head_add_up(name):
    """Terms, logit of the record and logit of the network: one number."""
    torch.manual_seed(0)
    arch, topk = ("resnet18", None) if name == "dense" else ("resnet18_fc_ma", 7)
    model = build_model(arch, 3, topk, head=HEADS[name]).eval()
    images = torch.randn(4, 3, 64, 64)
    names = Names(["beach", "forest_path", "street"], {})
    with torch.no_grad():
        logits = model(images)
    for row, explanation in enumerate(explain_images(Classifier.of(model), images, [0, 1, 2, None], names, topn=3)):
        record = explanation.record
        assert sum(terms_of(record).values) == pytest.approx(record["logit"], abs=1e-5)
        assert record["logit"] == pytest.approx(logits[row, record["explained"]].item(), abs=1e-5)
        assert record["others"]["count"] + sum(unit["active"] for unit in record["units"]) == (topk or 512)
        for side in record["contest"]:
            assert sum(terms_of(side).values) == pytest.approx(side["logit"], abs=1e-5)
            assert side["logit"] == pytest.approx(logits[row, side["class"]].item(), abs=1e-5)
