"""The dissection page as people use it, in headless Chromium."""

import shutil
import time

import numpy as np
import pytest
from PIL import Image

from report.pages import write_page

webdriver = pytest.importorskip("selenium.webdriver")
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.select import Select  # noqa: E402

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs Debian's chromium and chromium-driver")

UNITS = [(44, "object", "sea", 0.3), (7, "color", "blue-c", 0.2), (101, "object", "<script>alert(1)</script>", 0.1),
         (9, "part", "sail", 0.02)]  # fmt: skip


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("html")
    (folder / "layer4").mkdir()
    units = []
    for unit, category, label, score in UNITS:
        for name in (f"unit-{unit}.jpg", f"unit-{unit}-outline.jpg"):
            Image.fromarray(np.full((144, 3 * 144, 3), unit, np.uint8)).save(folder / "layer4" / name)
        units.append({"unit": unit, "category": category, "label": label, "score": score, "chance": 0.1, "also": [],
                      "strip": f"layer4/unit-{unit}.jpg", "outlines": f"layer4/unit-{unit}-outline.jpg"})  # fmt: skip
    write_page(folder / "layer4.html", "dissection.html", layer="layer4", model="m", data="d", pictures=3,
               iou_mode="lite", threshold=0.04, units=units, categories=["color", "object", "part"], interpretable=3,
               detectors=[], by_category=[], chance=None, graph=None, topn=3, strip_width=432,
               strip_height=144)  # fmt: skip
    return (folder / "layer4.html").as_uri()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in ("headless", "no-sandbox", "disable-gpu", "no-first-run", "disable-background-networking",
                 "disable-component-update", "disable-sync", "disable-dev-shm-usage", "window-size=1200,900",
                 f"user-data-dir={tmp_path_factory.mktemp('profile')}"):  # fmt: skip
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def opened(browser, page):
    browser.get(page)
    yield browser
    assert not browser.get_log("browser")  # no script error, no failed request


def shown(browser):
    """Numbers of the units in view of the list, in their order."""
    cards = browser.find_elements(By.CSS_SELECTOR, "[data-list] > *")
    return [int(card.get_attribute("data-unit")) for card in cards if not card.get_attribute("hidden")]


def test_search(opened):
    box = opened.find_element(By.CSS_SELECTOR, "[data-search]")
    box.send_keys("SE")
    assert shown(opened) == [44]
    assert opened.find_element(By.CSS_SELECTOR, "[data-shown]").text == "1 of 4"
    box.clear()
    box.send_keys("unit 10")
    assert shown(opened) == [101]


def test_filter_and_sort(opened):
    Select(opened.find_element(By.CSS_SELECTOR, "[data-filter]")).select_by_visible_text("object")
    assert shown(opened) == [44, 101]
    Select(opened.find_element(By.CSS_SELECTOR, "[data-filter]")).select_by_visible_text("all")
    sort = Select(opened.find_element(By.CSS_SELECTOR, "[data-sort]"))
    sort.select_by_visible_text("unit")
    assert shown(opened) == [7, 9, 44, 101]
    sort.select_by_visible_text("concept")
    assert shown(opened) == [101, 7, 9, 44]
    sort.select_by_visible_text("IoU")
    assert shown(opened) == [44, 7, 101, 9]


def test_zoom_and_keys(opened):
    dialog = opened.find_element(By.CSS_SELECTOR, "[data-zoomed]")
    caption = dialog.find_element(By.CSS_SELECTOR, "[data-caption]")
    opened.find_element(By.CSS_SELECTOR, "#unit-44 img").click()  # in its middle: the second of three pictures
    assert dialog.get_attribute("open")
    assert caption.text == "sea, unit 44, 2 of 3"
    dialog.send_keys(Keys.ARROW_RIGHT)
    dialog.send_keys(Keys.ARROW_RIGHT)
    assert caption.text == "blue, unit 7, 1 of 3"
    dialog.send_keys(Keys.ARROW_LEFT)
    assert caption.text == "sea, unit 44, 3 of 3"
    dialog.send_keys(Keys.ESCAPE)
    assert not dialog.get_attribute("open")
    opened.find_element(By.CSS_SELECTOR, "#unit-9 img").send_keys(Keys.ENTER)
    assert caption.text == "sail, unit 9, 1 of 3"
    dialog.send_keys(Keys.ESCAPE)


def test_hovering_shows_the_outline(opened):
    strip = opened.find_element(By.CSS_SELECTOR, "#unit-44 img")
    webdriver.ActionChains(opened).move_to_element(strip).perform()
    assert strip.get_attribute("src").endswith("unit-44-outline.jpg")
    webdriver.ActionChains(opened).move_to_element(opened.find_element(By.TAG_NAME, "h1")).perform()
    assert strip.get_attribute("src").endswith("unit-44.jpg")


def test_link_to_a_unit_shows_it_whatever_is_filtered(opened, page):
    opened.find_element(By.CSS_SELECTOR, "[data-search]").send_keys("sea")
    opened.execute_script("location.hash = '#unit-9'")
    time.sleep(0.2)
    assert shown(opened) == [44, 7, 101, 9]
    assert opened.find_element(By.CSS_SELECTOR, ":target").get_attribute("id") == "unit-9"


def test_hostile_names_are_text(opened):
    assert opened.find_element(By.CSS_SELECTOR, "#unit-101 h2").text == "<script>alert(1)</script>"
    assert len(opened.find_elements(By.TAG_NAME, "script")) == 1
