"""Live silencing in Chromium: what the page computes is what PyTorch computes with those features set to zero."""

import base64
import json
import re
import shutil

import numpy as np
import pytest
import torch
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from test_browser import CHROMIUM, DRIVER, browser  # noqa: F401 the fixture

import demo
import settings
from explain.live import live_head, rule_scores
from models import head_of, load_snapshot
from models.dynamic_k import DynamicKLinear
from models.heads import HEADS, DenseHead

pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs Chromium and its driver")
IMAGES = 50


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A report of the shipped network, its head, and the features of its images."""
    folder = tmp_path_factory.mktemp("live")
    flags = ["--images", str(IMAGES), "--no_val", "--workers", "0", "--output", str(folder)]
    record = demo.main(demo.get_args_parser().parse_args(flags))
    head = head_of(load_snapshot(settings.SHIPPED_SNAPSHOT)[0])
    text = (folder / "features" / "0.js").read_text().split('"')[1]
    pooled = torch.from_numpy(np.frombuffer(base64.b64decode(text), "<f4").reshape(IMAGES, -1).copy())
    with torch.no_grad():
        logits = head(pooled)
    for row, image in zip(logits, record["images"], strict=True):  # the page has the features that were explained
        assert row[image["explained"]].item() == pytest.approx(image["logit"], abs=1e-4)
    return folder, record, head, pooled


@pytest.fixture
def page(browser, report):  # noqa: F811
    browser.get("about:blank")
    browser.get((report[0] / "explain.html").as_uri())
    yield browser
    assert not browser.get_log("browser")  # no script error, no failed request


SAID = """return ["prediction", "score", "probability"].map(
    name => arguments[0].querySelector(`[data-live="${name}"]`).textContent.trim())"""


def said(card):
    """The class, score and probability that a card shows."""
    prediction, score, probability = card.parent.execute_script(SAID, card)
    assert probability.endswith(" %")
    return prediction, float(score), float(probability[:-2]) / 100


def expected(head, features, silent, classes):
    """The same of PyTorch, with the features of the silenced units (from 1) set to zero."""
    heard = features.clone()
    heard[[unit - 1 for unit in silent]] = 0
    with torch.no_grad():
        scores = head(heard[None])[0]
    best = int(scores.argmax())
    return classes[best].replace("_", " "), scores[best].item(), scores.softmax(0)[best].item()


def same(found, wanted):
    assert found[0] == wanted[0]
    assert found[1:] == pytest.approx(wanted[1:], abs=1e-4)


def with_k(head, k):
    other = DynamicKLinear(head.in_features, head.out_features, topk=k)
    other.load_state_dict(head.state_dict())
    return other


def cards_of(page):
    return page.find_elements(By.CSS_SELECTOR, "article.card")


def test_a_report_of_2000_images_stays_under_25_megabytes(report):
    page = (report[0] / "explain.html").read_bytes()
    cards = page.rindex(b"</article>") - page.index(b"<article")
    assert len(page) - cards + 2000 * cards / IMAGES < 25e6


def test_units_in_no_route_say_what_is_known_of_them_too(report):
    """As agreement.csv and chance.json of the shipped network do of unit 44."""
    page = (report[0] / "units.html").read_text()
    unit = page[page.index('id="unit-44"') :].split("</article>")[0]
    assert "IoU&nbsp;0.045" in unit and "IoU at most 0.53 · AUROC 0.77 · chance 0.0 %" in unit and "in no route" in unit


SET_K = """const [card, k] = arguments, slider = card.querySelector("[data-k]");
slider.value = k; slider.dispatchEvent(new Event("input", {bubbles: true}));"""
CLICK = "for (const number of arguments[1]) arguments[0].querySelector(`[data-silence='${number}']`).click();"


def test_silencing_one_several_and_all_of_a_route(page, report):
    """On all images, with K = 5, 1, N: the same prediction, score and probability as PyTorch's."""
    _, record, head, pooled = report
    classes = load_snapshot(settings.SHIPPED_SNAPSHOT)[1]["classes"]
    turned = 0
    for place, (card, image) in enumerate(zip(cards_of(page), record["images"], strict=True)):
        route = [unit["unit"] for unit in image["units"]]
        for number in (1, 2, len(route)):
            page.execute_script(CLICK, card, route[:number])
            same(said(card), expected(head, pooled[place], route[:number], classes))
            turned += said(card)[0] != image["prediction_name"].replace("_", " ")
            page.execute_script(CLICK, card, route[:number])
        same(said(card), expected(head, pooled[place], [], classes))
        page.execute_script(CLICK, card, route[:2])
        for k in (1, head.in_features):
            page.execute_script(SET_K, card, k)
            same(said(card), expected(with_k(head, k), pooled[place], route[:2], classes))
    assert turned > IMAGES  # without its route an image is taken for something else


def test_the_next_vote_takes_the_place_and_undo_and_reset_bring_it_back(page, report):
    _, record, head, pooled = report
    card, image = cards_of(page)[0], record["images"][0]
    button = card.find_element(By.CSS_SELECTOR, f"[data-silence='{image['units'][0]['unit']}']")
    button.send_keys(Keys.SPACE)  # by the keyboard
    assert button.get_attribute("aria-pressed") == "true"
    row = card.find_element(By.CSS_SELECTOR, "tr.silenced")
    assert row.get_attribute("data-unit") == str(image["units"][0]["unit"])
    votes = (pooled[0] * head.weight[image["explained"]]).detach()
    entered = card.find_element(By.CSS_SELECTOR, "tr[data-entered]")
    assert int(entered.get_attribute("data-unit")) == int(votes.argsort(descending=True)[5]) + 1
    card.find_element(By.CSS_SELECTOR, "[data-undo]").click()
    assert not card.find_elements(By.CSS_SELECTOR, "tr.silenced, tr[data-entered]")
    box = card.find_element(By.CSS_SELECTOR, "[data-number]")
    box.send_keys(str(image["units"][1]["unit"]), Keys.ENTER)
    assert len(card.find_elements(By.CSS_SELECTOR, "tr.silenced")) == 1
    card.find_element(By.CSS_SELECTOR, "[data-dense]").click()
    assert card.find_element(By.CSS_SELECTOR, "[data-k-shown]").text == str(head.in_features)
    card.find_element(By.CSS_SELECTOR, "[data-reset]").click()
    assert not card.find_elements(By.CSS_SELECTOR, "tr.silenced, tr[data-entered]")
    assert card.find_element(By.CSS_SELECTOR, "[data-k-shown]").text == "5"


def test_all_units_of_a_concept(page, report):
    _, _, head, pooled = report
    classes = load_snapshot(settings.SHIPPED_SNAPSHOT)[1]["classes"]
    button = page.find_element(By.CSS_SELECTOR, "[data-silence-concept]")
    name = button.get_attribute("data-silence-concept")
    card = button.find_element(By.XPATH, "./ancestor::article")
    button.click()
    place = int(card.get_attribute("data-order"))
    units = re.search(r'"units": (\[.*?\])', (report[0] / "head_data.js").read_text())
    silent = [number for number, label in enumerate(json.loads(units[1]), 1) if label == name]
    assert len(silent) > 1
    same(said(card), expected(head, pooled[place], silent, classes))


def test_a_link_carries_the_silenced_units(browser, report):  # noqa: F811
    folder, record, head, pooled = report
    classes = load_snapshot(settings.SHIPPED_SNAPSHOT)[1]["classes"]
    image = record["images"][3]
    route = [unit["unit"] for unit in image["units"]][:3]
    asked = f"#image-{image['index']}?silence={','.join(map(str, route))}&k=2"
    browser.get("about:blank")
    browser.get((folder / "explain.html").as_uri() + asked)
    card = browser.find_element(By.ID, f"image-{image['index']}")
    same(said(card), expected(with_k(head, 2), pooled[3], route, classes))
    assert card.find_element(By.CSS_SELECTOR, "[data-link]").get_attribute("href").endswith(asked)


def test_reduced_motion(browser, report):  # noqa: F811
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-reduced-motion", "value": "reduce"}]}
    )
    browser.get("about:blank")
    browser.get((report[0] / "explain.html").as_uri())
    card = cards_of(browser)[0]
    card.find_element(By.CSS_SELECTOR, "[data-silence]").click()
    assert card.find_elements(By.CSS_SELECTOR, "tr[data-entered]")
    assert not card.find_elements(By.CSS_SELECTOR, ".slides")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_a_drag_of_the_slider_is_one_step_back(page, report):
    card = cards_of(page)[1]
    slider = card.find_element(By.CSS_SELECTOR, "[data-k]")
    slide = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input', {bubbles: true}));"
    for k in (6, 7, 30):
        page.execute_script(slide, slider, k)
    page.execute_script("arguments[0].dispatchEvent(new Event('change', {bubbles: true}))", slider)
    assert card.find_element(By.CSS_SELECTOR, "[data-k-shown]").text == "30"
    card.find_element(By.CSS_SELECTOR, "[data-undo]").click()
    assert card.find_element(By.CSS_SELECTOR, "[data-k-shown]").text == "5"


def test_a_drag_there_and_back_takes_no_later_step_with_it(page, report):
    """A browser says nothing of the end of a drag that ends where it began."""
    card, unit = cards_of(page)[1], report[1]["images"][1]["units"][0]["unit"]
    for k in (9, 5):
        page.execute_script(SET_K, card, k)
    page.execute_script(CLICK, card, [unit])
    page.execute_script(SET_K, card, 2)
    card.find_element(By.CSS_SELECTOR, "[data-undo]").click()
    assert card.find_element(By.CSS_SELECTOR, "[data-k-shown]").text == "5"
    assert card.find_element(By.CSS_SELECTOR, "tr.silenced").get_attribute("data-unit") == str(unit)


def test_the_link_to_what_is_shown_is_no_step(page, report):
    card, unit = cards_of(page)[0], report[1]["images"][0]["units"][0]["unit"]
    page.execute_script(CLICK, card, [unit])
    page.execute_script("arguments[0].click()", card.find_element(By.CSS_SELECTOR, "[data-link]"))
    assert page.execute_script("return location.hash").endswith(f"?silence={unit}")
    page.execute_script("arguments[0].click()", card.find_element(By.CSS_SELECTOR, "[data-undo]"))
    assert not card.find_elements(By.CSS_SELECTOR, "tr.silenced")


def test_reset_brings_back_what_the_page_said(page):
    """Also the row of the votes that are not listed: K = 9 has four of them."""
    card = cards_of(page)[4]
    rows = "return [...arguments[0].querySelectorAll('table.sum tr:not([hidden])')].map(row => row.textContent)"
    before = page.execute_script(rows, card)
    page.execute_script(SET_K, card, 9)
    others = card.find_element(By.CSS_SELECTOR, "[data-others]").text
    assert "4 other units" in others and "100.0 %" in others
    page.execute_script(SET_K, card, 6)
    assert "1 other unit\n" in card.find_element(By.CSS_SELECTOR, "[data-others]").text
    page.execute_script("arguments[0].click()", card.find_element(By.CSS_SELECTOR, "[data-reset]"))
    assert page.execute_script(rows, card) == before


def test_the_answer_is_of_the_predicted_class_where_the_true_one_is_explained(browser, report, tmp_path):  # noqa: F811
    """And it counts as turned only once the network says something else."""
    _, record, head, pooled = report
    classes = load_snapshot(settings.SHIPPED_SNAPSHOT)[1]["classes"]
    wrong = next(place for place, image in enumerate(record["images"]) if image["target"] != image["prediction"])
    index = record["images"][wrong]["index"]
    flags = ["--images", f"{index},", "--explain", "target", "--no_val", "--workers", "0", "--output", str(tmp_path)]
    demo.main(demo.get_args_parser().parse_args(flags))
    browser.get("about:blank")
    browser.get((tmp_path / "explain.html").as_uri())
    assert browser.find_element(By.CSS_SELECTOR, ".controls span.soft").text == "1 image"
    (card,) = cards_of(browser)
    same(said(card), expected(head, pooled[wrong], [], classes))
    browser.execute_script(SET_K, card, 6)
    same(said(card), expected(with_k(head, 6), pooled[wrong], [], classes))
    turned = said(card)[0] != classes[record["images"][wrong]["prediction"]].replace("_", " ")
    panel = card.find_element(By.CSS_SELECTOR, "[data-panel]")
    assert ("turned" in panel.get_attribute("class")) is turned
    assert not browser.get_log("browser")


def test_a_silenced_unit_shows_the_vote_that_it_had(page, report):
    _, record, _, _ = report
    card, unit = cards_of(page)[2], record["images"][2]["units"][0]
    page.execute_script(CLICK, card, [unit["unit"]])
    assert card.find_element(By.CSS_SELECTOR, "tr.silenced .vote").text == f"+{unit['vote']:.2f}"


def test_a_card_whose_class_the_page_does_not_carry_has_no_controls(browser, report, tmp_path):  # noqa: F811
    folder, record, _, _ = report
    shutil.copytree(folder, tmp_path / "copy")
    data, explained = tmp_path / "copy" / "head_data.js", {image["explained"] for image in record["images"]}
    lacking, kept = record["images"][0]["explained"], sorted(explained - {record["images"][0]["explained"]})
    data.write_text(re.sub(r'"classes": \[.*?\]', f'"classes": {kept}', data.read_text()))
    browser.get("about:blank")
    browser.get((tmp_path / "copy" / "explain.html").as_uri() + f"#image-{record['images'][0]['index']}?silence=1,%ZZ")
    for card, image in zip(cards_of(browser), record["images"], strict=True):
        panel = card.find_element(By.CSS_SELECTOR, "[data-panel]")
        assert bool(panel.get_attribute("hidden")) == (image["explained"] == lacking)
    assert not browser.get_log("browser")


@pytest.mark.parametrize("hash", ["#%", "#image-0?silence=%E0%A4%A", "#image-0?k=1e9&silence=,,0,999,x"])
def test_a_broken_link_is_no_error(browser, report, hash):  # noqa: F811
    browser.get("about:blank")
    browser.get((report[0] / "explain.html").as_uri() + hash)
    assert not browser.find_elements(By.CSS_SELECTOR, "tr.silenced")
    assert not browser.get_log("browser")


# --- the rule, without a browser ----------------------------------------------------------------------------------


def record_of(explained, ranking):
    return {"explained": explained, "target": None, "ranking": [{"class": number} for number in ranking]}


@pytest.mark.parametrize("name", list(HEADS))
def test_a_rule_gives_the_scores_of_every_head(name):
    torch.manual_seed(0)
    topk = None if name == "dense" else 3
    head = HEADS[name](12, 4, topk=topk).eval()
    pooled = torch.rand(6, 12)
    live = live_head(head, pooled, [record_of(0, [0])])
    with torch.no_grad():
        scores = head(pooled)
    torch.testing.assert_close(rule_scores(live.weight, live.bias, pooled, live.rule, live.topk), scores)
    assert live.adjustable == (name not in ("static", "pruned"))


def test_a_head_that_no_rule_gives_has_none():
    class Squared(DenseHead):
        def forward(self, input):
            return super().forward(input) ** 2

    assert live_head(Squared(12, 4), torch.rand(6, 12), [record_of(0, [0])]) is None


def test_of_a_large_head_the_classes_that_matter_are_kept():
    head = DenseHead(10, 100)
    records = [record_of(7, [7, 3]), record_of(50, [50, 3]), record_of(99, [99, 98])]
    live = live_head(head, torch.rand(3, 10), records, most_weights=40)
    assert (live.classes, live.count) == ([3, 7, 50], 100)
    torch.testing.assert_close(live.weight, head.weight.detach()[live.classes])
