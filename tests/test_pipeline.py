"""Dissecting and explaining a network that was trained on a tiny tree, and rejecting bad flags and settings."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from conftest import ROOT, call, run_demo, write_tree
from PIL import Image

from models import build_model
from models.snapshot import save_snapshot
from netdissect import main as dissection
from netdissect.tally import read_tally
from util.cli import UserError


@pytest.fixture(scope="module")
def dissected(trained, broden):
    """The output folder of main.py, launched from its own folder."""
    root, snapshot, _ = trained
    output = root / "dissected"
    paths = ["--model_file", snapshot, "--data_directory", broden, "--output_folder", output]
    done = call("main.py", *paths, "--topn", 3, "--gpu", "False", cwd=ROOT / "netdissect")
    assert done.returncode == 0, done.stderr
    return output


def test_dissection_names_every_unit(dissected):
    rows = read_tally(dissected / "tally.csv", units=512)
    assert [row.score for row in rows] == sorted((row.score for row in rows), reverse=True)
    assert {row.label for row in rows} <= {"sky", "sea", "beach-s", ""}
    assert np.load(dissected / "quantile.npy").shape == (512,)
    chance = json.loads((dissected / "chance.json").read_text())
    assert len(chance["units"]) == 512
    page = (dissected / "html" / "layer4.html").read_text()
    assert page.count('id="unit-') == 512
    with Image.open(dissected / "html" / "layer4" / "unit-44.jpg") as strip:
        assert strip.size == (3 * 144, 144)
    assert not (dissected / "cache").exists()


@pytest.mark.parametrize(
    "launch", [["netdissect/main.py"], pytest.param(["-m", "netdissect.main"], marks=pytest.mark.slow)]
)
def test_dissection_is_the_same_however_launched(trained, broden, dissected, tmp_path, launch):
    paths = ["--model_file", trained[1], "--data_directory", broden, "--output_folder", tmp_path / "o"]
    paths += ["--quantile_file", dissected / "quantile.npy"]
    done = call(*launch, *paths, "--gpu", "False", "--topn", 1, "--chance_rounds", 0)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "o" / "tally.csv").read_bytes() == (dissected / "tally.csv").read_bytes()


def test_several_layers_of_a_torchvision_network(broden, tmp_path):
    config = dissection.make_config(
        {
            "model": "squeezenet1_1",
            "model_file": "none",
            "num_classes": "4",
            "feature_names": "features.3,features.6",
            "data_directory": str(broden),
            "output_folder": str(tmp_path),
            "topn": "2",
            "workers": "0",
            "gpu": "False",
            "test_mode": "True",
            "iou_mode": "original",
            "categories": "scene",
            "chance_rounds": "0",
        }
    )
    first, second = dissection.main(config)
    assert (first, second) == (tmp_path / "features.3" / "tally.csv", tmp_path / "features.6" / "tally.csv")
    assert (len(read_tally(first)), len(read_tally(second))) == (128, 256)
    assert list(read_tally(first)[0].categories) == ["scene"]


def test_explanations_of_validation_images(trained, dissected, tree, tmp_path):
    _, snapshot, metrics = trained
    network = ["--mark", "t5", "--modelfile", snapshot, "--nd_result", dissected / "tally.csv"]
    report = run_demo(*network, "--dataset", tree, "--images", "5,0", "--output", tmp_path)
    written = json.loads((tmp_path / "explain.json").read_text())
    assert written == json.loads(json.dumps(report))
    assert (written["arch"], written["topk"], written["dataset"]) == ("resnet18_fc_ma", 5, "tiny_places")
    assert written["validation"]["top1"] == pytest.approx(metrics["top1"], abs=17)  # fp32 here: one image may differ
    assert [image["index"] for image in written["images"]] == [5, 0]
    assert [image["target_name"] for image in written["images"]] == ["tundra", "bakery-shop"]
    tally = {row.unit: row for row in read_tally(dissected / "tally.csv")}
    for number, image in enumerate(written["images"]):
        assert image["logit"] == pytest.approx(image["bias"] + sum(unit["vote"] for unit in image["units"]), abs=1e-9)
        assert image["explained"] == image["prediction"]
        for unit in image["units"]:
            assert unit["label"] == tally[unit["unit"]].label.removesuffix("-s")
            assert unit["iou"] == tally[unit["unit"]].score
        with Image.open(tmp_path / "vis" / f"cam_{number}.jpg") as strip:
            assert strip.size == (6 * 224, 224)
    html = (tmp_path / "explain.html").read_text()
    assert 'id="image-5"' in html
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_explanations_of_own_images_need_no_data(trained, dissected, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (300, 100), (200, 30, 30)).save(tmp_path / "my image.jpg", exif=exif)
    Image.new("LA", (30, 50)).save(tmp_path / "grey.png")
    network = ["--modelfile", trained[1], "--nd_result", dissected / "tally.csv"]
    own = ["--image", tmp_path / "my image.jpg", tmp_path / "grey.png"]
    report = run_demo(*network, *own, "--output", tmp_path / "out")
    assert [(image["index"], image["target"], image["target_name"]) for image in report["images"]] == [(None,) * 3] * 2
    assert report["images"][0]["prediction_name"] in ("bakery-shop", "beach", "tundra")
    assert report["validation"] is None
    with Image.open(tmp_path / "out" / "vis" / "cam_0.jpg") as strip:
        assert strip.size == (6 * 224, 224)  # EXIF turned it


ARCHS_AND_K = [("resnet18_fc_ma", 1), ("resnet18_fc_ma", 5), ("resnet18_fc_ma", 512), ("resnet18", None)]


@pytest.mark.parametrize("arch, topk", ARCHS_AND_K)
def test_votes_bias_and_logit_match_the_snapshot(tmp_path, arch, topk):
    """Recomputed from the file alone, by torchvision's ResNet and the plain formula."""
    torch.manual_seed(3)
    model = build_model(arch, 4, topk)
    metadata = {"arch": arch, "topk": topk, "num_classes": 4, "dataset": "d", "classes": ["a", "b", "c", "d"]}
    save_snapshot(tmp_path / "epoch_0.pth", {"state_dict": model.state_dict(), **metadata})
    pixels = np.random.default_rng(0).integers(0, 255, (224, 224, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "p.png")
    run_demo("--modelfile", tmp_path / "epoch_0.pth", "--image", tmp_path / "p.png", "--output", tmp_path / "o")
    (image,) = json.loads((tmp_path / "o" / "explain.json").read_text())["images"]

    state = torch.load(tmp_path / "epoch_0.pth")["state_dict"]
    head = "rfc" if topk else "fc"
    weight, bias = state.pop(f"{head}.weight"), state.pop(f"{head}.bias")
    plain = torchvision.models.resnet18()
    plain.load_state_dict(state, strict=False)
    plain.fc = torch.nn.Identity()
    batch = torch.from_numpy(pixels / 255).float().permute(2, 0, 1)[None]
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        pooled = plain.eval()((batch - mean[:, None, None]) / std[:, None, None])[0]  # (512,)
    votes = pooled * weight  # (4, 512)
    logits = votes.topk(topk or 512, 1).values.sum(1) + bias
    assert image["prediction"] == int(logits.argmax())
    assert [side["class"] for side in image["contest"]] == logits.topk(2).indices.tolist()
    for side in (image, *image["contest"]):
        own = side.get("class", image["explained"])
        assert side["logit"] == pytest.approx(logits[own].item(), abs=1e-4)
        assert side["bias"] == pytest.approx(bias[own].item(), abs=1e-6)
        best = votes[own].topk(5)
        assert [unit["vote"] for unit in side["units"]] == pytest.approx(best.values.tolist(), abs=1e-4)
        for unit in side["units"]:
            assert unit["vote"] == pytest.approx(votes[own, unit["unit"] - 1].item(), abs=1e-4)
    total = votes[image["explained"]].abs().sum()
    chosen = votes[image["explained"]].topk(topk or 512).values.abs().sum()
    for unit in image["units"]:
        assert unit["percent"] == pytest.approx(100 * unit["vote"] / total.item(), abs=1e-3)
        share = 100 * unit["vote"] / chosen.item() if unit["active"] else 0
        assert unit["share"] == pytest.approx(share, abs=1e-3)


def test_own_images_by_folder_and_pattern_skip_unreadable_files(trained, dissected, tmp_path, capsys):
    folder = tmp_path / "a folder"
    (folder / "deep").mkdir(parents=True)
    Image.new("CMYK", (40, 30)).save(folder / "c.jpg")
    Image.fromarray(np.full((20, 20), 40_000, np.uint16)).save(folder / "deep" / "sixteen [1] ü.png")
    Image.new("P", (30, 30)).save(folder / "deep" / "palette.PNG")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "notes.txt").write_text("not asked for")
    network = ["--modelfile", trained[1], "--nd_result", dissected / "tally.csv"]
    own = ["--image", folder, folder / "c.jpg", folder / "**" / "*.txt"]
    report = run_demo(*network, *own, "--output", tmp_path / "out")
    names = [image["file"].rsplit("/", 1)[-1] for image in report["images"]]
    assert names == ["c.jpg", "palette.PNG", "sixteen [1] ü.png"]
    assert [lost["file"].rsplit("/", 1)[-1] for lost in report["unreadable"]] == ["empty.jpg", "notes.txt"]
    assert capsys.readouterr().err.count("left out: ") == 2
    html = (tmp_path / "out" / "explain.html").read_text()
    assert "empty.jpg" in html
    with pytest.raises(UserError, match="no image there"):
        run_demo("--modelfile", trained[1], "--output", tmp_path / "o", "--image", folder / "*.gif")


def test_routes_and_faithfulness_of_the_validation_images(trained, dissected, tree, tmp_path):
    snapshot = trained[1]
    network = ["--modelfile", snapshot, "--nd_result", dissected / "tally.csv", "--compare", snapshot]
    report = run_demo(*network, "--dataset", tree, "--images", 2, "--figure", "1", "--output", tmp_path)
    routes = json.loads((tmp_path / "routes.json").read_text())
    assert (routes["images"], routes["count"], routes["topk"]) == ("6 validation images", 6, 5)
    assert sum(row["images"] for row in routes["classes"]) == 6
    own = [row["accuracy"] for row in routes["classes"]]
    assert np.mean(own) == pytest.approx(report["validation"]["top1"] / 100)  # classes are equally large
    used = {unit["unit"] for row in routes["classes"] for unit in row["units"]}
    assert routes["distinct_units"] == len(used) == len(routes["order"]["units"])
    faithfulness = json.loads((tmp_path / "faithfulness.json").read_text())
    chosen, *_, compared = faithfulness["methods"]
    assert len(faithfulness["methods"]) >= 4 and faithfulness["sparsity"]["topk"] == 5
    assert "variety" not in faithfulness and "variety" not in report["images"][0]  # of six images nothing is known
    assert (faithfulness["images"], faithfulness["count"], faithfulness["steps"]) == ("6 validation images", 6, 5)
    assert {**chosen, "name": ""} == {**compared, "name": ""}  # compared with itself
    links = re.findall(r'href="([^"#]*)#unit-', (tmp_path / "units.html").read_text())
    assert len(links) == 512 and (tmp_path / links[0]).resolve() == (dissected / "html" / "layer4.html").resolve()


def test_explaining_the_true_class_of_three_images(trained, tree, tmp_path):
    which = ["--dataset", tree, "--images", 3, "--explain", "target", "--topn", 2, "--no_val"]
    report = run_demo("--modelfile", trained[1], *which, "--output", tmp_path)
    assert [image["index"] for image in report["images"]] == [0, 2, 4]
    assert all(image["explained"] == image["target"] for image in report["images"])
    assert all((len(image["units"]), image["others"]["count"]) == (2, 3) for image in report["images"])
    assert report["nd_result"] is None


BAD_FLAGS_OF_EXPLAINING = [
    (["--mark", "x"], "mark 'x'"),
    (["--mark", "t513"], "K = 513"),
    (["--modelfile", "no.pth"], "snapshot no.pth: no such file"),
    (["--nd_result", "no.csv"], "tally no.csv: no such file"),
    (["--images", "0,6"], "6 is not an index of the validation set, 0 to 5"),
    (["--images", "many"], "--images 'many': expected indices such as"),
    (["--images", "7"], "expected a count from 1 to 6"),
    (["--image", "no.jpg"], "no.jpg: no such file"),
    (["--topn", "0"], "--topn 0: expected 1 to 291"),
    (["--figure", "15"], "--figure '15': expected places on the page, 0 to 5"),
    (["--compare", "no.pth"], "snapshot no.pth: no such file"),
]


@pytest.mark.parametrize("flags, message", BAD_FLAGS_OF_EXPLAINING)
def test_explaining_rejects_bad_flags(trained, dissected, tree, tmp_path, flags, message):
    defaults = {"--modelfile": trained[1], "--nd_result": dissected / "tally.csv", "--dataset": tree}
    given = {**defaults, flags[0]: flags[1]}
    with pytest.raises(UserError, match=message):
        run_demo("--output", tmp_path / "out", *(part for pair in given.items() for part in pair))
    assert not (tmp_path / "out" / "explain.html").exists()


def test_explaining_rejects_tallies_and_classes_of_another_network(trained, dissected, tree, tmp_path):
    rows = (dissected / "tally.csv").read_text().splitlines()
    (tmp_path / "half.csv").write_text("\n".join(rows[:257]))
    write_tree(tmp_path / "two", categories=["beach", "tundra"])
    common = ["--modelfile", trained[1], "--output", tmp_path / "out"]
    with pytest.raises(UserError, match="it was made of another model or layer"):
        run_demo(*common, "--nd_result", tmp_path / "half.csv", "--dataset", tree)
    with pytest.raises(UserError, match="has 3 classes, data set two has 2"):
        run_demo(*common, "--nd_result", dissected / "tally.csv", "--dataset", tmp_path / "two")
    with pytest.raises(UserError, match="images given by --image have no true class"):
        run_demo(*common, "--image", "x.jpg", "--explain", "target")


BAD_SETTINGS_OF_DISSECTING = [
    ({"iou_mode": "loose"}, "IOU_MODE = 'loose': expected 'lite' or 'original'"),
    ({"quantile": "5"}, "QUANTILE = 5: expected a number between 0 and 1"),
    ({"topn": "0"}, "TOPN = 0: expected a whole number from 1"),
    ({"gpu": "maybe"}, "GPU = 'maybe': expected True, False or 'auto'"),
    ({"clean": "perhaps"}, "CLEAN = 'perhaps': expected True or False"),
    ({"model_file": "no.pth"}, "snapshot no.pth: no such file"),
    ({"model": "resnet19"}, "MODEL 'resnet19': expected one of resnet18"),
    ({"model": "no.such:factory"}, "MODEL 'no.such:factory': No module named"),
    ({"model_file": "none"}, "expected one of them at least"),
    ({"data_directory": "nowhere"}, "data directory nowhere: no such folder"),
    ({"feature_names": "layer9"}, "layer 'layer9': the model has conv1"),
    ({"quantile_file": "no.npy"}, "quantile file no.npy: no such file"),
    ({"num_classes": "9"}, "NUM_CLASSES = 9: .* has 3 classes"),
    ({"topk": "600"}, "K = 600: resnet18_fc_ma has 512"),
    ({"categories": "smell"}, "category 'smell': .* has object, scene"),
]


@pytest.mark.parametrize("flags, message", BAD_SETTINGS_OF_DISSECTING)
def test_dissecting_rejects_bad_settings(trained, broden, tmp_path, flags, message):
    paths = {"model_file": str(trained[1]), "data_directory": str(broden), "output_folder": str(tmp_path / "o")}
    with pytest.raises(UserError, match=message):
        dissection.main(dissection.make_config({**paths, "gpu": "False", "workers": "0", **flags}))
    assert not list(tmp_path.rglob("*.csv"))


BAD_COMMANDS = [
    ["train.py", "--mark", "x"],
    ["demo.py", "--mark", "x"],
    ["train.py", "--epochs", "many"],
    ["demo.py", "--explain", "why"],
    ["netdissect/main.py", "--iou_mode", "x"],
]


@pytest.mark.parametrize("command", BAD_COMMANDS)
def test_a_usage_error_is_one_line_and_exit_code_2(command):
    done = call(*command)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "error: " in done.stderr
    assert done.stdout == ""


def test_settings_of_dissecting_are_flags():
    flags = ["--feature_names", "['layer3', 'layer4']", "--catagories", "object,part", "--topk", "7"]
    flags += ["--output_folder", "here", "--quantile_file", "None", "--workers", "0"]
    config = dissection.make_config(vars(dissection.get_args_parser().parse_args(flags)))
    assert (config.feature_names, config.categories, config.topk) == (["layer3", "layer4"], ["object", "part"], 7)
    assert (config.output_folder, config.quantile_file, config.gpu) == (Path("here"), None, "auto")
    assert config.model_file == ROOT / "netdissect" / "../snapshot/shipped/resnet18_d5a_mini_places.pth"
