"""The pages as people use them, in headless Chromium."""

import shutil
import time

import numpy as np
import pytest
from PIL import Image
from test_explain import write_report

from report.pages import write_page

webdriver = pytest.importorskip("selenium.webdriver")
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.select import Select  # noqa: E402
from selenium.webdriver.support.wait import WebDriverWait  # noqa: E402

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs Debian's chromium and chromium-driver")

UNITS = [
    (44, "object", "sea", 0.3),
    (7, "color", "blue-c", 0.2),
    (101, "object", "<script>alert(1)</script>", 0.1),
    (9, "part", "sail", 0.02),
]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("html")
    (folder / "layer4").mkdir()
    units = []
    for unit, category, label, score in UNITS:
        for name in (f"unit-{unit}.jpg", f"unit-{unit}-outline.jpg"):
            Image.fromarray(np.full((144, 3 * 144, 3), unit, np.uint8)).save(folder / "layer4" / name)
        units.append(
            {
                "unit": unit,
                "category": category,
                "label": label,
                "score": score,
                "chance": 0.1,
                "ceiling": 0.5,
                "binds": False,
                "auroc": 0.9,
                "also": [],
                "strip": f"layer4/unit-{unit}.jpg",
                "outlines": f"layer4/unit-{unit}-outline.jpg",
            }
        )
    write_page(
        folder / "layer4.html",
        "dissection.html",
        layer="layer4",
        model="m",
        data="d",
        images=3,
        iou_mode="lite",
        threshold=0.04,
        units=units,
        binding=0,
        reports="",
        categories=["color", "object", "part"],
        interpretable=3,
        detectors=[],
        by_category=[],
        chance=None,
        graph=None,
        topn=3,
        strip_width=432,
        strip_height=144,
    )
    return (folder / "layer4.html").as_uri()


class PatientChrome(webdriver.Chrome):
    """Chromium whose `get` returns when the page is there as a whole, also where the machine is busy."""

    def get(self, url):
        super().get(url)
        there = "return document.readyState === 'complete' && location.href.startsWith(arguments[0])"
        WebDriverWait(self, 60).until(lambda _: self.execute_script(there, url.split("#")[0]))


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (
        "headless",
        "no-sandbox",
        "disable-gpu",
        "no-first-run",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
        "disable-dev-shm-usage",
        "window-size=1200,900",
        f"user-data-dir={tmp_path_factory.mktemp('profile')}",
    ):
        options.add_argument(f"--{flag}")
    options.add_argument("--host-resolver-rules=MAP * ~NOTFOUND")  # no network
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = PatientChrome(options=options, service=webdriver.ChromeService(DRIVER))
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
    opened.find_element(By.CSS_SELECTOR, "#unit-44 img").click()  # in its middle: the second of three images
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


EVIL = """</script>'"><img src=x onerror=alert(1)>"""  # out of text, attributes and scripts


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The pages of eight explained images, in which a class and all units have a hostile name."""
    folder = tmp_path_factory.mktemp("report")
    explained = write_report(folder, ["beach", EVIL, "forest_path"], topk=5, count=8, concept="<b>sea")
    (folder / "vis").mkdir(exist_ok=True)
    Image.new("RGB", (6 * 224, 224), (30, 90, 160)).save(folder / "vis" / "<b>sea #1.jpg")
    return folder, explained.report["images"]


@pytest.fixture
def explanation(browser, report):
    browser.set_window_size(1200, 900)
    browser.get((report[0] / "explain.html").as_uri())
    yield browser, report[1]
    assert not browser.get_log("browser")
    assert all(
        entry.startswith("file:") or entry.startswith("data:")
        for entry in browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    )


def indices(browser):
    cards = browser.find_elements(By.CSS_SELECTOR, "[data-list] > *")
    return [int(card.get_attribute("data-index")) for card in cards if not card.get_attribute("hidden")]


def choose(browser, which, text):
    Select(browser.find_element(By.CSS_SELECTOR, which)).select_by_visible_text(text)


def test_images_are_searched_filtered_and_sorted(explanation):
    browser, images = explanation
    assert indices(browser) == [image["index"] for image in images]
    right = [image["index"] for image in images if image["prediction"] == image["target"]]
    wrong = [image["index"] for image in images if image["prediction"] != image["target"]]
    assert right and wrong
    choose(browser, "[data-filter]", "right")
    assert indices(browser) == right
    choose(browser, "[data-filter]", "wrong")
    assert indices(browser) == wrong
    choose(browser, "[data-filter]", "all")
    for text, key, sign in (
        ("most certain", "probability", -1),
        ("least certain", "probability", 1),
        ("index", "index", 1),
    ):
        choose(browser, "[data-sort]", text)
        assert indices(browser) == [i["index"] for i in sorted(images, key=lambda i: sign * i[key])]
    choose(browser, "[data-sort]", "largest share")
    assert indices(browser)[0] == max(images, key=lambda image: image["units"][0]["share"])["index"]
    choose(browser, "[data-sort]", "order")
    unit = images[3]["units"][0]["unit"]
    box = browser.find_element(By.CSS_SELECTOR, "[data-search]")
    box.send_keys(f"<B>sea {unit}")
    fitting = [i["index"] for i in images if any(str(unit) in str(u["unit"]) for u in i["units"]) or str(unit) in "sea"]
    assert images[3]["index"] in indices(browser) and set(indices(browser)) <= {i["index"] for i in images}
    assert set(fitting) <= set(indices(browser))
    box.clear()
    box.send_keys("no such thing")
    assert indices(browser) == []


def test_an_image_is_enlarged_and_left(explanation):
    browser, images = explanation
    dialog = browser.find_element(By.CSS_SELECTOR, "[data-zoomed]")
    caption = dialog.find_element(By.CSS_SELECTOR, "[data-caption]")
    browser.find_element(By.CSS_SELECTOR, "#image-3 .look img").click()
    assert dialog.get_attribute("open") and caption.text.startswith(images[0]["prediction_name"].replace("_", " "))
    dialog.send_keys(Keys.ARROW_RIGHT)
    assert caption.text == f"Where <b>sea (unit {images[0]['units'][0]['unit']}) fires"
    for _ in range(5):
        dialog.send_keys(Keys.ARROW_RIGHT)
    assert caption.text.startswith(images[1]["prediction_name"].replace("_", " "))  # the next image
    dialog.send_keys(Keys.ARROW_LEFT)
    assert f"(unit {images[0]['units'][4]['unit']}) fires" in caption.text
    dialog.send_keys(Keys.ESCAPE)
    assert not dialog.get_attribute("open")


def test_a_link_leads_to_a_image(explanation):
    browser, _ = explanation
    browser.find_element(By.CSS_SELECTOR, "[data-search]").send_keys("no such thing")
    browser.execute_script("location.hash = '#image-9'")
    time.sleep(1.5)  # until the cards, which are laid out when they come into view, have their heights
    assert len(indices(browser)) == 8
    top = browser.execute_script("return document.getElementById('image-9').getBoundingClientRect().top")
    assert 0 <= top < 300
    browser.get(browser.current_url)
    assert browser.find_element(By.CSS_SELECTOR, ":target").get_attribute("id") == "image-9"


def test_from_a_image_to_its_unit_and_class(explanation):
    browser, images = explanation
    browser.find_element(By.CSS_SELECTOR, "#image-3 .sum th > a").click()
    assert browser.current_url.endswith(f"units.html#unit-{images[0]['units'][0]['unit']}")
    browser.find_element(By.CSS_SELECTOR, ":target .served a").click()
    assert "/class/" in browser.current_url
    examples = browser.find_elements(By.CSS_SELECTOR, ".examples a")
    examples[0].click()
    assert "explain.html#image-" in browser.current_url


def test_hostile_labels_are_text_on_every_page(browser, report):
    folder, _ = report
    for page in sorted(folder.rglob("*.html")):
        browser.get(page.as_uri())
        assert not [
            image
            for image in browser.find_elements(By.CSS_SELECTOR, "img[onerror], td > b:not([class])")
            if image.text != "bias" and "other units" not in image.text
        ]
        assert not browser.get_log("browser"), page
    browser.get((folder / "units.html").as_uri())
    assert browser.find_element(By.CSS_SELECTOR, "article h2").text == "<b>sea"


def test_the_matrix_is_read_and_enlarged(browser, report):
    browser.set_window_size(1200, 900)
    browser.get((report[0] / "classes.html").as_uri())
    image = browser.find_element(By.CSS_SELECTOR, "[data-matrix] img")
    width = image.size["width"]
    webdriver.ActionChains(browser).move_to_element_with_offset(image, 3 - width // 2, 0).perform()
    assert "% of its images" in browser.find_element(By.CSS_SELECTOR, "[data-cell]").text
    browser.find_element(By.CSS_SELECTOR, "[data-zoom-by='1.5']").click()
    assert image.size["width"] == pytest.approx(1.5 * width, rel=0.01)
    image.click()
    assert "/class/" in browser.current_url


@pytest.mark.parametrize("width", [1280, 400])
def test_nothing_sticks_out_of_the_window(browser, report, width):
    browser.set_window_size(width, 900)
    for page in sorted(report[0].glob("*.html")):
        browser.get(page.as_uri())
        inner, outer = browser.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
        assert inner <= outer, page
