"""Networks cut in two: the parts are the network, whatever its shape; and cuts that no two parts can be."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models import build_model, cut
from models.cut import TRUNK, cut_at, frozen_fingerprint
from models.dynamic_k import DynamicKLinear
from models.snapshot import weights_fingerprint
from util.cli import UserError


class Net(nn.Module):
    """A convolution, a block with a skip connection, one activation used throughout, and a DKA head."""

    def __init__(self, zero_branch=False):
        super().__init__()
        self.stem, self.act = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()
        self.body = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.branch, self.norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.last, self.fc = nn.Conv2d(4, 6, 1), DynamicKLinear(6, 5, topk=2)
        self.unused = nn.Linear(2, 2)
        if zero_branch:
            nn.init.zeros_(self.norm.weight)

    def forward(self, x):
        x = self.body(self.act(self.stem(x)))
        x = x + self.norm(self.branch(x))
        return self.fc(self.act(self.last(x)).mean((2, 3)))


class Odd(Net):
    """One that uses a convolution twice, or its input again at the end."""

    def __init__(self, way):
        super().__init__()
        self.way = way

    def forward(self, x):
        y = self.act(self.stem(x))
        if self.way == "module twice":
            return self.fc(self.last(self.branch(self.body(self.branch(y)))).mean((2, 3)))
        return self.fc(self.last(self.body(y)).mean((2, 3)) * x.mean((1, 2, 3))[:, None])


class Sly(nn.Module):
    """One whose parts agree in eval mode, though training the rest is not training the network."""

    def __init__(self, way):
        super().__init__()
        self.way, self.a, self.b, self.c = way, *(nn.Conv2d(3, 3, 1) for _ in "abc")
        self.scale, self.fc = nn.Parameter(torch.ones(1)), DynamicKLinear(3, 5, topk=2)
        if way == "tied":
            self.c.weight = self.b.weight

    def forward(self, x):
        if self.way == "scale":
            x = x * self.scale
        x = self.a(x)
        if self.way == "dropout":
            x = F.dropout(x, 0.5, self.training)
        x = self.b(x)
        if self.way == "dropout behind":
            x = F.dropout(x, 0.5, self.training)
        return self.fc(self.c(x).mean((2, 3)))


@pytest.fixture(autouse=True)
def any_head(monkeypatch):
    monkeypatch.setattr(cut, "head_of", lambda model: model.fc)
    torch.manual_seed(0)


@pytest.mark.parametrize("layer", [TRUNK, "stem", "body", "body.0", "body.1"])
def test_the_parts_are_the_network(layer):
    """Also where an activation that ran before the cut runs again behind it."""
    model = Net()
    made = cut_at(model, layer, 8)
    x = torch.randn(3, 3, 8, 8)
    model.eval()
    outputs = made.trunk(x)
    assert torch.equal(made.rest(outputs.clone()), model(x))
    assert sorted(made.frozen + made.trained) == sorted(model.state_dict())
    assert not any(name.startswith(("stem", "unused")) for name in made.trained)
    assert {id(value) for value in made.parameters()} <= {id(value) for value in model.parameters()}
    with torch.no_grad():
        model.fc.weight.add_(1)
        model.fc.topk = 3
        assert torch.equal(made.rest(made.trunk(x)), model(x))  # the weights and K are the network's own


def test_modules_behind_the_cut_are_trained_and_those_in_front_are_not():
    model = Net()
    made = cut_at(model, "body", 8)
    before = made.fingerprint()
    made.rest.train()
    loss = made.rest(torch.rand(3, 4, 8, 8)).sum()
    loss.backward()
    with torch.no_grad():
        for value in made.parameters():
            value -= value.grad
    assert made.fingerprint() == before
    assert model.norm.num_batches_tracked == 1 and model.body[1].num_batches_tracked == 0
    assert model.stem.weight.grad is None
    with torch.no_grad():
        model.body[1].running_mean += 1
    assert made.fingerprint() != before


def test_a_cut_inside_a_resnet():
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(cut, "head_of", lambda model: model.rfc)
        model = build_model("resnet18_fc_ma", 3, 5)
        made = cut_at(model, "layer4.0", 32)
        assert {name.split(".")[0] for name in made.trained} == {"layer4", "rfc"} and len(made.trained) == 14
        with pytest.raises(
            UserError, match=r"layer4.0.bn1: what follows it needs more than its output: choose a later"
        ):
            cut_at(model, "layer4.0.bn1", 32)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize(
    "model, layer, message",
    [
        (Net(), "branch", "what follows it needs more than its output: choose a later layer"),
        (Net(zero_branch=True), "branch", "what follows it needs more than its output"),  # though the logits agree
        (Net(), "last", "what follows it needs more than its output"),  # the sum before it would be added to it
        (Odd("input"), "body", "what follows it needs more than its output"),
        (Odd("module twice"), "body", "the network uses a module with weights before it and after it"),
        (Odd("module twice"), "branch", "it runs 2 times in one forward pass"),
        (Sly("tied"), "b", "the network uses weights before it and after it"),
        (Sly("scale"), "a", "what follows it needs more than its output"),
        (Sly("dropout"), "b", "what follows it needs more than its output"),
        (Net(), "unused", "it runs 0 times in one forward pass"),
        (Net(), "nothing", "expected trunk, or a layer of the network or within one of stem, act, body"),
        (Net(), "fc", "the head is in it"),
        (Net(), "", "expected trunk"),
    ],
)
def test_cuts_that_cannot_be(model, layer, message):
    with pytest.raises(UserError, match=message) as error:
        cut_at(model, layer, 8)
    assert "\n" not in str(error.value)


def test_dropout_behind_the_cut_belongs_to_the_rest():
    model = Sly("dropout behind")
    assert "c.weight" in cut_at(model, "b", 8).trained
    assert "c.weight" not in cut_at(Sly("tied"), "c", 8).trained


def test_the_network_is_left_as_it_was():
    model = Net().train()
    model.norm.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    cut_at(model, "body", 8)
    assert torch.equal(random, torch.get_rng_state())
    assert model.training and model.body[1].training and not model.norm.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_fingerprints_stay_what_files_hold():
    with torch.no_grad():
        model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1))
        model[0].weight.fill_(2)
        model[0].bias.fill_(3)
    assert weights_fingerprint(model) == "101433f3bedd1fbe152d8e66f13d561d0bc7c53bf2ca063cce07254c59156e7b"
    without = [name for name in model.state_dict() if not name.startswith("0.")]
    assert (
        frozen_fingerprint(model.state_dict(), without)
        == "fded6d105b8ad300304ff92b0e37805119252a03cb70979935080fc6c152b771"
    )


def test_images_that_the_network_cannot_take():
    model = Net()
    model.stem = nn.Conv2d(3, 4, 9)
    with pytest.raises(UserError, match="--freeze trunk: the network fails on images of 8 x 8 pixels: "):
        cut_at(model, TRUNK, 8)
