"""What a fresh checkout explains: the shipped network and its tally, on newly rendered scenes."""

import pytest
from conftest import ROOT, run_demo

import settings
from explain import agreement
from explain.network import load_network, with_tally
from loader.mini_places import render_mini_places
from loader.photographs import copy_photographs
from models import load_snapshot
from netdissect import main as dissection
from netdissect.tally import interpretable, read_tally


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    render_mini_places(root, train=16, val=48, broden=32, workers=2, progress=False)
    return root


def test_shipped_snapshot_is_small_and_whole():
    path = ROOT / settings.SHIPPED_SNAPSHOT
    assert path.stat().st_size < 25e6
    model, about = load_snapshot(path)
    assert (about["arch"], about["topk"], about["dataset"]) == ("resnet18_fc_ma", 5, "mini_places")
    assert model.rfc.in_features == 512


def test_shipped_network_explains_new_scenes(scenes, tmp_path):
    network = ["--modelfile", ROOT / settings.SHIPPED_SNAPSHOT, "--nd_result", ROOT / settings.SHIPPED_TALLY]
    report = run_demo(*network, "--data", scenes, "--images", 48, "--no_val", "--output", tmp_path)
    right = sum(image["prediction"] == image["target"] for image in report["images"])
    assert right > 0.75 * 48
    for image in report["images"]:
        assert sum(unit["vote"] for unit in image["units"]) + image["bias"] == pytest.approx(image["logit"], abs=1e-9)
    named = [unit for image in report["images"] for unit in image["units"] if unit["iou"] >= settings.SCORE_THRESHOLD]
    assert len(named) > 0.5 * 5 * 48  # most of what decides has a name


def test_shipped_tally_is_of_the_shipped_network(scenes, tmp_path):
    """Dissected on few images, the units already get many of the names that 1,000 images gave them."""
    paths = {"data_directory": str(scenes / "mini_broden"), "output_folder": str(tmp_path)}
    options = {"workers": "0", "topn": "1", "chance_rounds": "0", "gpu": "False"}
    (path,) = dissection.main(dissection.make_config({**paths, **options}))
    shipped = {row.unit: row for row in read_tally(ROOT / settings.SHIPPED_TALLY, units=512)}
    best = interpretable(read_tally(path, units=512), 0.15)
    assert len(best) > 30
    agreeing = sum(row.categories[shipped[row.unit].category].label == shipped[row.unit].label for row in best)
    assert agreeing > 0.3 * len(best)


# --- the network of photographs -------------------------------------------------------------------------------------


def test_shipped_photo_network_is_small_and_its_tally_is_its_own():
    path, tally = ROOT / settings.SHIPPED_PHOTO_SNAPSHOT, ROOT / settings.SHIPPED_PHOTO_TALLY
    assert path.stat().st_size <= 3e6
    network = with_tally(load_network(path, None, None, None), str(tally), None)  # refuses one of other weights
    about = network.about
    assert (about["arch"], about["topk"], about["dataset"]) == ("efficientnet_lite0_fc_ma", 5, "tiny_imagenet")
    assert (about["size"], about["num_classes"], network.head.in_features) == (128, 200, 1280)
    assert len(interpretable(list(network.tally.concepts.values()), 0.04)) == 891
    assert len(agreement.read_agreement(tally.with_name("agreement.csv"), read_tally(tally))) == 1280


def test_shipped_photo_network_knows_a_cat_and_a_cup_of_coffee(tmp_path):
    folder = tmp_path / "photographs"
    copy_photographs(folder)
    report = run_demo("--image", folder / "chelsea.png", folder / "coffee.png", "--output", tmp_path / "out")
    cat, coffee = report["images"]
    assert (cat["prediction_name"], coffee["prediction_name"]) == ("Egyptian cat", "espresso")
    assert report["modelfile"] == settings.SHIPPED_PHOTO_SNAPSHOT and report["notices"] == []
    assert {unit["label"] for unit in cat["units"]} == {"cat"}
    for image in report["images"]:
        assert sum(unit["vote"] for unit in image["units"]) + image["bias"] == pytest.approx(image["logit"], abs=1e-9)
