"""demo.py --compare: the other network's numbers are torch's, both cards have one scale, and agreement is filtered."""

import json
import re
import sys

import numpy as np
import pytest
import torch
from conftest import CATEGORIES, run_demo
from PIL import Image
from test_browser import CHROMIUM, DRIVER, EVIL, By, browser, choose, indices  # noqa: F401 the fixture
from test_hostile_explaining import network, tally_of

import demo
import settings
from explain import subjects
from loader.images import explain_transform, read_image, val_transform
from models import head_of, load_snapshot
from report.cards import card
from util.cli import UserError, run

OURS, THEIRS = 64, 48  # sides of the two networks' inputs, pixels
in_browser = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs Chromium and its driver")


class Sizes:
    """Of an input of `size` pixels, as a tree of the user's is resized."""

    crop_scale = (0.08, 1.0)

    def __init__(self, size):
        self.size, self.resize = size, round(size * 256 / 224)


def answers(snapshot, images):
    """What torch alone says: pooled features (V, N), scores (V, C), and the head's weight (C, N) and bias (C)."""
    model = load_snapshot(snapshot)[0]
    seen = []
    model.avgpool.register_forward_hook(lambda _, __, output: seen.append(output.flatten(1)))
    with torch.no_grad():
        scores = model(images)
    head = head_of(model)
    return seen[0], scores, head.weight.detach(), head.bias.detach()


def validation_files(tree):
    return sorted((tree / "val").rglob("*.jpg"))


def inputs(files, size, transform=explain_transform):
    return torch.stack([transform(Sizes(size))(read_image(file)) for file in files])


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(demo, "write_figure", lambda path, _: path.touch())


@pytest.fixture(scope="module")
def pair(tree, tmp_path_factory):
    """A DKA network, and a dense one of another size whose bias makes it say the same of every image.

    The DKA network is unbiased over the images, so that it says different things, and agrees on some of them only.
    """
    folder = tmp_path_factory.mktemp("pair")
    ours = network(folder / "dka.pth", size=OURS, classes=sorted(CATEGORIES))
    content = torch.load(ours)
    content["state_dict"]["rfc.weight"] *= 30  # scores that are as large as the other network's
    torch.save(content, ours)
    scores = answers(ours, inputs(validation_files(tree), OURS))[1]
    content["state_dict"]["rfc.bias"] -= scores.mean(0)
    torch.save(content, ours)
    said = answers(ours, inputs(validation_files(tree), OURS))[1].argmax(1)
    assert len(said.unique()) > 1
    theirs = network(folder / "dense.pth", "resnet18", None, seed=1, size=THEIRS, classes=sorted(CATEGORIES))
    content = torch.load(theirs)
    content["state_dict"]["fc.bias"][said[0]] += 20
    torch.save(content, theirs)
    return ours, theirs


@pytest.fixture(scope="module")
def compared(pair, tree, tmp_path_factory):
    """The report of both, and its folder."""
    output = tmp_path_factory.mktemp("compared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "write_figure", lambda path, _: path.touch())
        flags = ["--modelfile", pair[0], "--compare", pair[1], "--dataset", tree, "--images", 6, "--topn", 4]
        return run_demo(*flags, "--output", output), output


def test_the_other_card_is_what_torch_says(compared, pair, tree):
    """All numbers of the dense network, at its own size, from its features and weights."""
    report, _ = compared
    pooled, scores, weight, bias = answers(pair[1], inputs(validation_files(tree), THEIRS))
    for row, image in enumerate(report["images"]):
        own, class_ = image["compared"], int(scores[row].argmax())
        assert (own["prediction"], own["explained"]) == (class_, class_)
        assert own["prediction_name"] == sorted(CATEGORIES)[class_]
        assert own["probability"] == pytest.approx(scores[row].softmax(0)[class_].item(), abs=1e-5)
        votes = pooled[row].double() * weight[class_]
        largest, units = votes.sort(descending=True)
        assert [unit["unit"] for unit in own["units"]] == (units[:4] + 1).tolist()
        assert [unit["vote"] for unit in own["units"]] == pytest.approx(largest[:4].tolist(), abs=1e-5)
        assert [unit["share"] for unit in own["units"]] == pytest.approx(
            (100 * largest[:4] / votes.abs().sum()).tolist(), abs=1e-3
        )
        assert all(unit["active"] and unit["label"] == "" for unit in own["units"])
        residual = {"count": 508, "vote": votes.sum() - largest[:4].sum()}
        residual["share"] = 100 * largest[4:].abs().sum() / votes.abs().sum()
        assert own["others"] == pytest.approx({name: float(value) for name, value in residual.items()}, abs=1e-3)
        assert own["bias"] == bias[class_].item()
        assert own["logit"] == pytest.approx(scores[row, class_].item(), abs=1e-4)
        assert own["target"] == image["target"]


def test_the_reports_own_network_is_explained_as_without_the_other(compared, pair, tree, tmp_path):
    report, _ = compared
    alone = run_demo("--modelfile", pair[0], "--dataset", tree, "--images", 6, "--topn", 4, "--output", tmp_path)
    assert "compared" not in alone and all("compared" not in image for image in alone["images"])
    assert alone["images"] == [{k: v for k, v in image.items() if k != "compared"} for image in report["images"]]
    assert {**alone, "images": 0, "validation": 0} == {
        **{name: value for name, value in report.items() if name != "compared"},
        "images": 0,
        "validation": 0,
    }


@pytest.mark.slow
def test_a_report_of_2000_images_beside_another_network_stays_under_25_megabytes(tmp_path):
    """With named units on both sides, which is most text."""
    report = run_demo("--compare", settings.SHIPPED_SNAPSHOT, "--images", 16, "--no_val", "--output", tmp_path)
    assert all(unit["label"] for image in report["images"] for unit in image["compared"]["units"])
    page = (tmp_path / "explain.html").read_bytes()
    cards = page.rindex(b"</article>") - page.index(b"<article")
    assert len(page) - cards + 2000 * cards / 16 < 25e6


def test_agreement_and_validation_at_each_networks_size(compared, pair, tree):
    report, output = compared
    files = validation_files(tree)
    ours, theirs = (
        answers(snapshot, inputs(files, size, val_transform))[1].argmax(1)
        for snapshot, size in zip(pair, (OURS, THEIRS), strict=True)
    )
    other = report["compared"]
    assert (other["arch"], other["topk"], other["size"], other["nd_result"]) == ("resnet18", None, THEIRS, None)
    assert other["agreement"] == pytest.approx((ours == theirs).double().mean().item())
    targets = torch.tensor([sorted(CATEGORIES).index(file.parent.name) for file in files])
    assert other["validation"]["top1"] == pytest.approx(100 * (theirs == targets).double().mean().item(), abs=1e-3)
    agree = [image["prediction"] == image["compared"]["prediction"] for image in report["images"]]
    assert [image["compared"]["agree"] for image in report["images"]] == agree
    assert other["agreeing"] == sum(agree) and 0 < sum(agree) < len(agree)
    methods = json.loads((output / "faithfulness.json").read_text())["methods"]
    assert methods[-1]["name"] == f"5 largest votes of {pair[1]}"


def test_both_cards_have_one_scale():
    """Ours: 3 + 2 - 1 = 4, theirs: 6 + 1 - 9 = -2: bars from -2 to 7 on both."""

    def score(votes, bias):
        units = [
            {"unit": place, "label": "", "category": "", "iou": 0.0, "vote": vote, "share": 0.0, "active": True}
            for place, vote in enumerate(votes, start=1)
        ]
        none = {"count": 0, "vote": 0.0, "share": 0.0}
        said = {"target": 1, "prediction": 1, "prediction_name": "a", "target_name": "a", "probability": 1.0}
        said |= {"explained": 1, "explained_name": "a", "unsure": False}
        return {**said, "units": units, "others": none, "bias": bias, "logit": sum(votes) + bias}

    curve = {"probability": [1.0], "prediction": [1], "prediction_name": ["a"]}
    more = {"contest": [{"name": "a", "class": 1, "logit": 4.0}], "file": "", "index": 0}
    more["ablation"] = {"deletion": curve, "insertion": curve, "random": curve}
    ours = {**score([3.0, 2.0], -1.0), **more}
    for unit in ours["units"]:
        unit["without"] = {"probability": 0.5, "prediction": 1, "prediction_name": "a"}
    alone = card(ours, 0, 2)
    assert (alone["low"], alone["high"], alone["compared"]) == (0, 5, None)
    both = card({**ours, "compared": {**score([6.0, 1.0], -9.0), "target": 0}}, 0, 2)
    assert (both["low"], both["high"], both["starts"], both["verdict"]) == (-2, 7, [0, 3], "right")
    other = both["compared"]
    assert (other["low"], other["high"], other["starts"], other["bias_start"]) == (-2, 7, [0, 6], 7)
    assert other["verdict"] == "wrong"


@pytest.mark.parametrize("explained", ["prediction", "target"])
def test_without_validation_cards_are_compared_and_curves_are_not(pair, tree, tmp_path, explained):
    flags = ["--dataset", tree, "--images", 3, "--no_val", "--explain", explained, "--output", tmp_path]
    report = run_demo("--modelfile", pair[0], "--compare", pair[1], *flags)
    assert (report["validation"], report["compared"]["validation"], report["compared"]["agreement"]) == (None,) * 3
    for image in report["images"]:
        assert image["compared"]["explained"] == image["compared"][explained]
    methods = json.loads((tmp_path / "faithfulness.json").read_text())["methods"]
    assert not [method["name"] for method in methods if str(pair[1]) in method["name"]]


@pytest.fixture
def photo(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 60, 3), np.uint8)).save(tmp_path / "my photo.png")
    return tmp_path / "my photo.png"


def test_own_images_need_no_data_set(pair, photo, tmp_path):
    (tmp_path / "broken.png").write_text("no image")
    report = run_demo(
        "--modelfile",
        pair[0],
        "--compare",
        pair[1],
        "--image",
        tmp_path / "broken.png",
        photo,
        "--output",
        tmp_path / "out",
    )
    (image,) = report["images"]
    scores = answers(pair[1], inputs([photo], THEIRS))[1][0]
    assert image["compared"]["logit"] == pytest.approx(scores.max().item(), abs=1e-4)
    assert (image["target"], image["compared"]["target"]) == (None, None)
    assert len(report["unreadable"]) == 1
    with Image.open(tmp_path / "out" / image["compared"]["overlays"]) as strip:
        assert strip.size == (6 * 224, 224)
    html = (tmp_path / "out" / "explain.html").read_text()
    assert html.count('<span class="badge soft">unsure</span>') == image["unsure"] + image["compared"]["unsure"]
    assert html.count('class="beside"') == 1 and f"input {THEIRS} × {THEIRS}" in html
    run_demo("--modelfile", pair[0], "--image", photo, "--output", tmp_path / "out")  # leaves nothing of it
    assert not list((tmp_path / "out" / "vis").glob("beside_*"))
    html = (tmp_path / "out" / "explain.html").read_text()
    assert 'class="beside"' not in html and 'data-filter="agree"' not in html


def test_images_that_change_while_they_are_read(pair, photo, tmp_path, monkeypatch):
    other = tmp_path / "other.png"
    other.write_bytes(photo.read_bytes())
    read, times = subjects.read_own, []

    def read_once(file):
        if times.count(file) == 1 and file == str(photo):
            raise UserError("it is gone")
        times.append(file)
        return read(file)

    monkeypatch.setattr(subjects, "read_own", read_once)
    flags = ["--modelfile", pair[0], "--compare", pair[1], "--image", photo, other, "--output", tmp_path / "out"]
    with pytest.raises(UserError, match="--compare: some of the images changed while they were read; run it again"):
        run_demo(*flags)
    assert not (tmp_path / "out" / "explain.html").exists()


@pytest.mark.parametrize(
    "classes, fault",
    [
        (["a", "b"], "has 2 classes, data set tiny has 3"),
        (["bakery-shop", "beach", "taiga"], "class 2 is 'taiga' in the snapshot, 'tundra' in the data set"),
    ],
)
def test_other_classes_are_refused_in_one_line(pair, photo, tmp_path, capsys, monkeypatch, classes, fault):
    other = network(tmp_path / "other.pth", "resnet18", None, classes=classes)
    flags = ["--modelfile", pair[0], "--compare", other, "--image", photo, "--output", tmp_path / "out"]
    monkeypatch.setattr(sys, "argv", ["demo.py", "--workers", "0", "--device", "cpu", *map(str, flags)])
    with pytest.raises(SystemExit) as ended:
        run(demo.cli, "demo.py")
    (line,) = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2
    assert line.startswith("demo.py: error: the snapshot of --compare ") and fault in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("place", ["beside", "run"])
def test_its_units_are_named_by_a_tally_that_was_made_of_it(pair, photo, tmp_path, place):
    snapshot = tmp_path / "snapshot" / "pytorch_x" / "epoch_0.pth"
    snapshot.parent.mkdir(parents=True)
    snapshot.write_bytes(pair[1].read_bytes())
    folder = snapshot.parent if place == "beside" else tmp_path / "result" / "pytorch_x" / "netdissect"
    flags = ["--modelfile", pair[0], "--compare", snapshot, "--image", photo, "--output", tmp_path / "out"]

    def labels():
        report = run_demo(*flags)
        found = {unit["label"] for unit in report["images"][0]["compared"]["units"]}
        assert {unit["label"] for unit in report["images"][0]["units"]} == {""}
        return found, report["compared"]["nd_result"]

    tally = tally_of(folder, snapshot)
    assert labels() == ({"sky"}, str(tally))
    tally_of(folder, pair[0])  # another network's
    assert labels() == ({""}, None)
    html = (tmp_path / "out" / "explain.html").read_text()
    assert re.search(r"<b class=faint>unit \d+</b>", html)
    assert "its units have numbers only" in html


# --- in the browser -------------------------------------------------------------------------------------------------


@in_browser
def test_the_filter_of_agreement(browser, compared):  # noqa: F811
    report, output = compared
    browser.get((output / "explain.html").as_uri())
    filter_ = '[data-filter="agree"]'
    agree = {image["index"]: image["compared"]["agree"] for image in report["images"]}
    choose(browser, filter_, "both agree")
    assert indices(browser) == [index for index, same in agree.items() if same]
    choose(browser, filter_, "differ")
    assert indices(browser) == [index for index, same in agree.items() if not same]
    choose(browser, filter_, "all")
    assert len(indices(browser)) == 6
    first = report["images"][0]["compared"]
    rows = browser.find_elements(By.CSS_SELECTOR, "#image-0 .beside [data-other-unit]")
    assert [row.get_attribute("data-other-unit") for row in rows] == [str(unit["unit"]) for unit in first["units"]]
    shown = browser.find_element(By.CSS_SELECTOR, '#image-0 [data-other="others"]').text
    assert "508 other units" in shown and f"{first['others']['vote']:+.2f}".replace("-", "−") in shown
    assert not browser.get_log("browser")


POSITIONS = """return [...document.querySelectorAll("#image-0 [data-tile]")].map(
    image => parseFloat(getComputedStyle(image).objectPosition));"""


@in_browser
def test_each_image_of_a_card_shows_its_part_of_the_file(browser, compared):  # noqa: F811
    """First the image alone, then four maps: of five parts. The other network's maps likewise."""
    browser.get((compared[1] / "explain.html").as_uri())
    assert browser.execute_script(POSITIONS) == [0, *[25, 50, 75, 100] * 2]
    browser.find_element(By.CSS_SELECTOR, "#image-0 .places img").click()
    caption = browser.find_element(By.CSS_SELECTOR, "[data-caption]").text
    unit = compared[0]["images"][0]["compared"]["units"][0]["unit"]
    assert caption == f"Where unit {unit} fires (resnet18, dense head)"
    browser.find_element(By.CSS_SELECTOR, "[data-zoomed]").click()


WIDTHS = """const card = document.querySelector("#image-0");
return [".sum:not(.beside *) [data-total] i", ".beside [data-other=score] i"].map(
    which => card.querySelector(which).getBoundingClientRect().width);"""


@in_browser
@pytest.mark.parametrize("width", [1400, 1000, 420])
def test_bars_of_both_cards_have_one_scale_also_after_silencing(browser, compared, width):  # noqa: F811
    report, output = compared
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    )
    try:
        browser.get("about:blank")
        browser.get((output / "explain.html").as_uri())
        browser.execute_script("document.querySelector('#image-0').scrollIntoView()")
        image = report["images"][0]
        wide = browser.execute_script("return document.documentElement.scrollWidth")
        assert wide <= width
        ours, theirs = browser.execute_script(WIDTHS)
        assert ours / abs(image["logit"]) == pytest.approx(theirs / abs(image["compared"]["logit"]), rel=0.03)
        left, right = (browser.find_element(By.CSS_SELECTOR, f"#image-0 {which}").rect for which in (".sum", ".beside"))
        beside = right["x"] > left["x"] + left["width"] - 1 and right["y"] < left["y"] + left["height"]
        assert beside is (width == 1400) and (beside or right["y"] >= left["y"] + left["height"])
        browser.find_element(By.CSS_SELECTOR, f"#image-0 [data-silence='{image['units'][0]['unit']}']").click()
        browser.execute_script("document.head.insertAdjacentHTML('beforeend', '<style>i{transition:none!important}')")
        score = float(browser.find_element(By.CSS_SELECTOR, "#image-0 [data-total] .vote").text.replace("−", "-"))
        assert score != pytest.approx(image["logit"], abs=0.01)
        after = browser.execute_script(WIDTHS)
        assert after[1] == pytest.approx(theirs, abs=0.01)
        assert after[0] / abs(score) == pytest.approx(theirs / abs(image["compared"]["logit"]), rel=0.03)
        browser.execute_script("document.querySelector('#image-0 [data-dense]').click()")  # all votes: a longer sum
        score = float(browser.find_element(By.CSS_SELECTOR, "#image-0 [data-total] .vote").text.replace("−", "-"))
        ours, theirs = browser.execute_script(WIDTHS)
        assert ours / abs(score) == pytest.approx(theirs / abs(image["compared"]["logit"]), rel=0.03)
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@in_browser
def test_hostile_names_are_text(browser, photo, tmp_path):  # noqa: F811
    classes = [EVIL, f"{EVIL}2"]
    ours = network(tmp_path / "ours.pth", size=OURS, classes=classes)
    theirs = network(tmp_path / "theirs.pth", "resnet18", None, seed=3, size=OURS, classes=classes)
    tally_of(tmp_path, theirs, label=EVIL.replace('"', ""))
    report = run_demo("--modelfile", ours, "--compare", theirs, "--image", photo, "--output", tmp_path / "out")
    assert report["compared"]["nd_result"]
    browser.get((tmp_path / "out" / "explain.html").as_uri())
    beside = browser.find_element(By.CSS_SELECTOR, ".beside")
    assert EVIL in beside.find_element(By.TAG_NAME, "caption").text
    assert EVIL.replace('"', "") in beside.find_element(By.CSS_SELECTOR, "[data-other-unit] th").text
    assert not browser.find_elements(By.CSS_SELECTOR, "img[onerror]")
    assert not browser.get_log("browser")
