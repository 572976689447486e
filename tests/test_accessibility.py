"""The pages for everybody: axe-core (WCAG 2.2 AA) in Chromium, the keyboard, touch, paper, and strangers' names."""

import json
import re
import sys
from functools import cache
from pathlib import Path

import pytest
from PIL import Image
from selenium.webdriver import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from test_browser import CHROMIUM, DRIVER, browser  # noqa: F401 the fixture
from test_explain import unit_evidence, write_report

import demo
import settings
from netdissect import main as dissection
from report.explanations import write_pages

pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs Debian's chromium and chromium-driver")

AXE = Path(sys.prefix) / "npm" / "node_modules" / "axe-core" / "axe.min.js"
needs_axe = pytest.mark.skipif(not AXE.is_file(), reason="needs axe-core, which `make test` installs with npm")
TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
RUN_AXE = """const [tags, done] = arguments;
axe.run({runOnly: tags}).then(found => done(found.violations.map(
  ({id, nodes}) => [id, ...nodes.slice(0, 3).map(node => `${node.html.slice(0, 160)}: ${node.failureSummary}`)])));"""

# All of a page is laid out: axe-core measures what is out of view too.
UNFOLD = """for (const fold of document.querySelectorAll("details")) fold.open = true;
for (const card of document.querySelectorAll(".card")) card.style.contentVisibility = "visible";"""

LONG = "very_" * 60 + "end"
ARABIC = "طريق_الغابة"  # written from right to left
EVIL = """</script>'"><img src=x onerror=alert(1)>"""


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A report of the shipped network, with strips and live silencing; a class without images."""
    folder = tmp_path_factory.mktemp("report")
    flags = ["--images", "6", "--topn", "6", "--no_val", "--workers", "0", "--output", str(folder)]
    demo.main(demo.get_args_parser().parse_args(flags))
    return folder


@pytest.fixture(scope="module")
def dissected(trained, broden, tmp_path_factory):
    """The page of a dissected layer."""
    output = tmp_path_factory.mktemp("dissected")
    flags = {"model_file": str(trained[1]), "data_directory": str(broden), "output_folder": str(output), "topn": "3"}
    dissection.main(dissection.make_config({**flags, "gpu": "False", "workers": "0"}))
    return output / "html" / "layer4.html"


@pytest.fixture
def screen(browser):  # noqa: F811
    """Chromium with a function that opens a page: page, width, scheme."""

    def opened(page, width=1280, scheme="light", medium="screen"):
        wishes = {"prefers-color-scheme": scheme, "prefers-reduced-motion": "reduce"}
        features = [{"name": name, "value": value} for name, value in wishes.items()]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": medium, "features": features})
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.get("about:blank")
        browser.get(page.as_uri())
        return browser

    yield opened
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})


def pages_of(report, dissected=None):
    """One page of each kind."""
    one = next((report / "class").glob("*.html"))
    return [*sorted(report.glob("*.html")), one, *([dissected] if dissected else [])]


@cache
def axe_source():
    return AXE.read_text(encoding="utf-8")


def violations(browser):  # noqa: F811
    browser.set_script_timeout(120)
    browser.execute_script(axe_source())
    return browser.execute_async_script(RUN_AXE, TAGS)


@needs_axe
@pytest.mark.parametrize(
    "width, scheme",
    [
        (1280, "light"),
        (420, "dark"),
        *(pytest.param(*one, marks=pytest.mark.slow) for one in ((1280, "dark"), (420, "light"))),
    ],
)
def test_axe_finds_no_violation(screen, report, dissected, scheme, width):
    for page in pages_of(report, dissected):
        browser = screen(page, width, scheme)  # noqa: F811
        browser.execute_script(UNFOLD)
        assert violations(browser) == [], page.name


@needs_axe
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violation_where_units_are_silenced_and_images_enlarged(screen, report, scheme):
    browser = screen(report / "explain.html", 1280, scheme)  # noqa: F811
    for button in browser.find_elements(By.CSS_SELECTOR, "article.card [data-silence]")[:2]:
        button.click()
    assert browser.find_elements(By.CSS_SELECTOR, "tr.silenced") and violations(browser) == []
    browser.find_element(By.CSS_SELECTOR, ".look [data-zoom]").click()
    assert browser.find_element(By.CSS_SELECTOR, "dialog[open]") and violations(browser) == []


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A report whose cards have a second network beside them; its file is the first one's, which is enough here."""
    folder = tmp_path_factory.mktemp("compared")
    flags = ["--images", "2", "--no_val", "--workers", "0", "--output", str(folder)]
    demo.main(demo.get_args_parser().parse_args([*flags, "--compare", str(settings.SHIPPED_SNAPSHOT)]))
    return folder / "explain.html"


@needs_axe
@pytest.mark.parametrize(
    "width, scheme",
    [
        (1400, "light"),
        (420, "dark"),
        *(pytest.param(*one, marks=pytest.mark.slow) for one in ((1400, "dark"), (420, "light"))),
    ],
)
def test_axe_finds_no_violation_side_by_side(screen, compared, scheme, width):
    browser = screen(compared, width, scheme)  # noqa: F811
    browser.execute_script(UNFOLD)
    assert browser.find_elements(By.CSS_SELECTOR, ".beside") and violations(browser) == []
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width


@needs_axe
def test_axe_would_find_one(screen, report):
    browser = screen(report / "units.html")  # noqa: F811
    browser.execute_script("document.querySelector('h2').style.color = '#ddd'")
    assert [fault[0] for fault in violations(browser)] == ["color-contrast"]


REACHABLE = """return [...document.querySelectorAll(
  "a[href], button:not([disabled]), input, select, summary, [data-zoom], .scroll, [data-cells]")]
  .filter(element => element.getClientRects().length);"""


KINDS = ["explain.html", "classes.html", "units.html", "faithfulness.html", "class", "dissected"]


@pytest.mark.parametrize("name", KINDS)
def test_tab_reaches_everything(screen, report, dissected, name):
    page = {"class": next((report / "class").glob("*.html")), "dissected": dissected}.get(name, report / name)
    browser = screen(page)  # noqa: F811
    # All but a few items of a long list would only repeat these.
    browser.execute_script(
        "for (const list of document.querySelectorAll('[data-list]'))"
        " for (const item of [...list.children].slice(2)) item.remove()"
    )
    browser.execute_script(UNFOLD)
    wanted = {element.id for element in browser.execute_script(REACHABLE)}
    reached = set()
    for _ in range(2 * len(wanted) + 10):
        ActionChains(browser).send_keys(Keys.TAB).perform()
        reached.add(browser.switch_to.active_element.id)
        if wanted <= reached:
            break
    missing = [
        element.get_attribute("outerHTML")[:200]
        for element in browser.execute_script(REACHABLE)
        if element.id not in reached
    ]
    assert len(wanted) >= 3 and not missing


def focus_by_tab(browser, selector, most=120):  # noqa: F811
    """Press Tab until the focus is on an element that the selector describes."""
    for _ in range(most):
        ActionChains(browser).send_keys(Keys.TAB).perform()
        element = browser.switch_to.active_element
        if browser.execute_script("return arguments[0].matches(arguments[1])", element, selector):
            return element
    raise AssertionError(f"Tab does not reach {selector}")


def press(browser, *keys):  # noqa: F811
    ActionChains(browser).send_keys(*keys).perform()


def test_the_keyboard_alone_silences_enlarges_and_sorts(screen, report):
    browser = screen(report / "explain.html")  # noqa: F811
    images = browser.find_elements(By.CSS_SELECTOR, "[data-list] > *")
    before = [image.get_attribute("id") for image in images]
    focus_by_tab(browser, "[data-sort]")
    press(browser, "least")
    certain = [
        float(image.get_attribute("data-probability"))
        for image in browser.find_elements(By.CSS_SELECTOR, "[data-list] > *")
    ]
    assert certain == sorted(certain) and len(certain) == len(before)
    focus_by_tab(browser, "[data-zoom]")
    press(browser, Keys.SPACE)
    caption = browser.find_element(By.CSS_SELECTOR, "dialog[open] [data-caption]")
    first = caption.text
    press(browser, Keys.ARROW_RIGHT)
    assert first and caption.text != first
    press(browser, Keys.ESCAPE)
    assert not browser.find_elements(By.CSS_SELECTOR, "dialog[open]")
    button = focus_by_tab(browser, "[data-silence]")
    press(browser, Keys.ENTER)
    assert button.get_attribute("aria-pressed") == "true" and browser.find_elements(By.CSS_SELECTOR, "tr.silenced")


def cell_of(browser):  # noqa: F811
    return browser.find_element(By.CSS_SELECTOR, "[data-cell]").text


def routes_of(page):
    text = page.read_text(encoding="utf-8")
    return json.loads(text.split('id="routes">')[1].split("</script>")[0])


def test_the_keyboard_alone_reads_the_matrix(screen, report):
    page = report / "classes.html"
    data = routes_of(page)
    browser = screen(page)  # noqa: F811
    focus_by_tab(browser, "[data-cells]")
    assert cell_of(browser).startswith(data["rows"][0]["name"])
    press(browser, Keys.ARROW_DOWN, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_LEFT, Keys.ARROW_UP, Keys.ARROW_DOWN)
    row, column = data["rows"][1], data["columns"][1]
    often = round(100 * row["units"].get(str(column["unit"]), 0))
    assert cell_of(browser) == f"{row['name']} · {column['name']} (unit {column['unit']}): in {often} % of its images"
    press(browser, Keys.ENTER)
    assert browser.current_url.endswith(row["file"])


def test_a_tap_reads_a_cell_and_a_second_follows(screen, report):
    page = report / "classes.html"
    data = routes_of(page)
    browser = screen(page, 420)  # noqa: F811
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
    cells = browser.find_element(By.CSS_SELECTOR, "[data-cells]")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", cells)
    box = browser.execute_script("const {left, top} = arguments[0].getBoundingClientRect(); return [left, top]", cells)
    side = browser.execute_script("return parseFloat(getComputedStyle(arguments[0]).height)", cells) / len(data["rows"])
    assert side >= 16  # room for a name

    def tap(x, y):
        point = {"x": box[0] + (x + 0.5) * side, "y": box[1] + (y + 0.5) * side}
        browser.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [point]})
        browser.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})

    tap(1, 1)
    assert cell_of(browser).startswith(data["rows"][1]["name"]) and browser.current_url == page.as_uri()
    tap(0, 2)
    assert cell_of(browser).startswith(data["rows"][2]["name"]) and browser.current_url == page.as_uri()
    tap(0, 2)
    assert browser.current_url.endswith(data["rows"][2]["file"])


def test_names_of_the_matrix_are_readable_and_stay_in_view(screen, report):
    browser = screen(report / "classes.html", 420)  # noqa: F811
    matrix = browser.find_element(By.CSS_SELECTOR, "[data-matrix]")
    named = matrix.find_elements(By.CSS_SELECTOR, ".units li")
    data = routes_of(report / "classes.html")
    assert [name.text for name in named] == [f"{column['name']} {column['unit']}" for column in data["columns"]]
    assert float(named[0].value_of_css_property("font-size")[:-2]) >= 12
    left = "return arguments[0].querySelector('.rows li').getBoundingClientRect().left"
    before = browser.execute_script(left, matrix)
    browser.execute_script("arguments[0].scrollLeft = 100", matrix)
    assert browser.execute_script("return arguments[0].scrollLeft", matrix) == 100
    assert browser.execute_script(left, matrix) == before


@pytest.mark.parametrize("width", [1280, 420])
def test_bars_are_wide_and_nothing_sticks_out(screen, report, dissected, width):
    for page in pages_of(report, dissected):
        browser = screen(page, width)  # noqa: F811
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width, page.name
        bars = browser.execute_script(
            "return [...document.querySelectorAll('.bar')].map(bar => bar.clientWidth).filter(width => width)"
        )
        assert all(bar >= 250 for bar in bars), page.name


def test_charts_take_the_colours_of_the_page(screen, report):
    ink = {}
    for scheme in ("light", "dark"):
        browser = screen(report / "faithfulness.html", 1280, scheme)  # noqa: F811
        svg = browser.find_element(By.CSS_SELECTOR, ".graph svg")
        ink[scheme] = svg.value_of_css_property("color")
        assert ink[scheme] == browser.find_element(By.TAG_NAME, "body").value_of_css_property("color")
        assert re.findall("[0-9]+", svg.value_of_css_property("fill")) == re.findall("[0-9]+", ink[scheme])[:3]
        assert "#000000" not in svg.get_attribute("outerHTML") and "fill: #ffffff" not in svg.get_attribute("outerHTML")
    assert ink["light"] != ink["dark"]


def test_paper_is_white_and_has_no_controls(screen, report):
    for page in pages_of(report):
        browser = screen(page, 1280, "dark", "print")  # noqa: F811
        ink = browser.find_element(By.TAG_NAME, "body").value_of_css_property("color")
        assert ink.startswith("rgba(29, 32, 37"), page.name  # the light scheme's
        for control in browser.find_elements(By.CSS_SELECTOR, ".controls, nav.pages, .live, .hush, .matrix-tools"):
            assert not control.is_displayed(), page.name
        wide = browser.execute_script(
            "return [...document.querySelectorAll('.scroll, [data-matrix]')]"
            ".filter(box => getComputedStyle(box).overflowX !== 'visible').length"
        )
        assert not wide, page.name


def test_a_folded_unit_is_found_by_search_filter_and_link(screen, report):
    browser = screen(report / "units.html")  # noqa: F811
    fold = browser.find_element(By.CSS_SELECTOR, "details[data-fold]")
    folded = fold.find_elements(By.CSS_SELECTOR, "article")
    number = folded[3].get_attribute("data-unit")
    assert fold.get_attribute("open") is None and len(folded) > 400 and not folded[3].is_displayed()
    assert str(len(folded)) in fold.find_element(By.TAG_NAME, "summary").text
    box = browser.find_element(By.CSS_SELECTOR, "[data-search]")
    box.send_keys(f"unit {number}")
    assert fold.get_attribute("open") and folded[3].is_displayed()
    box.send_keys(" no such thing")
    assert not fold.is_displayed()
    browser.execute_script(f"location.hash = '#unit-{number}'")
    assert browser.find_element(By.CSS_SELECTOR, ":target").is_displayed() and box.get_attribute("value") == ""


@pytest.fixture(scope="module")
def strange(tmp_path_factory):
    """A report whose classes, concepts and files have hostile, very long, and right-to-left names; with strips."""
    folder = tmp_path_factory.mktemp("strange")
    pages = write_report(folder, [EVIL, LONG, ARABIC], topk=5, count=6, concept=EVIL)
    (folder / "vis").mkdir(exist_ok=True)
    Image.new("RGB", (3 * 96, 96), (200, 30, 90)).save(folder / "vis" / "unit.jpg")
    names = [EVIL, LONG, ARABIC]
    for unit in pages.report["units"]:
        unit.update({**unit_evidence(unit["unit"]), "binds": True, "strip": "vis/unit.jpg", "tiles": 3})
    for unit in named_units(pages):
        unit["label"] = unit["category"] = names[unit["unit"] % 3]
    write_pages(folder, pages)
    return folder


def named_units(pages):
    """Every record of a unit with its name, wherever it is in the pages' data."""
    found, open_ = [], [pages.report["images"], pages.routes, pages.units]
    while open_:
        value = open_.pop()
        if isinstance(value, dict) and {"unit", "label"} <= set(value):
            found.append(value)
        if isinstance(value, dict | list):
            open_ += value.values() if isinstance(value, dict) else value
    return found


@pytest.mark.parametrize("width", [1280, 420])
def test_strange_names_are_text_and_break_nothing(screen, strange, width):
    for page in [*sorted(strange.glob("*.html")), *sorted((strange / "class").glob("*.html"))]:
        browser = screen(page, width)  # noqa: F811
        assert not browser.find_elements(By.CSS_SELECTOR, "[onerror], img[src='x']"), page.name
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width, page.name
        strips = browser.find_elements(By.CSS_SELECTOR, ".strip img")
        if page.name == "explain.html" or page.parent.name == "class":
            assert strips or not browser.find_elements(By.CSS_SELECTOR, "tbody tr")
        for strip in strips:
            assert strip.get_attribute("alt").startswith("Images that ")
        logged = [entry for entry in browser.get_log("browser") if "vis/" not in entry["message"]]
        assert not logged, page.name


@pytest.mark.parametrize("name", [EVIL, LONG.replace("_", " "), ARABIC.replace("_", " ")])
def test_strange_names_are_shown_as_they_are(screen, strange, name):
    browser = screen(strange / "explain.html")  # noqa: F811
    link = next(link for link in browser.find_elements(By.CSS_SELECTOR, ".sum th > a") if link.text == name)
    row = link.find_element(By.XPATH, "./ancestor::tr")
    assert row.find_element(By.CSS_SELECTOR, ".known .binds").text.startswith("⚠")
    strip = row.find_element(By.CSS_SELECTOR, ".strip img")
    assert f"that {name} (unit {row.get_attribute('data-unit')}) fires" in strip.get_attribute("alt")
    assert link.value_of_css_property("unicode-bidi") == "isolate"


NOT_UNDERLINED = """return [...document.querySelectorAll("header a[href], main a[href], footer a[href]")]
  .filter(link => !getComputedStyle(link).textDecorationLine.includes("underline")).map(link => link.outerHTML);"""


def test_links_are_underlined(screen, report, dissected):
    for page in pages_of(report, dissected):
        assert screen(page).execute_script(NOT_UNDERLINED) == [], page.name
