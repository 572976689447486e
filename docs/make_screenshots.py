"""Make the screenshots of the documents anew, from the shipped networks.

    python3 docs/make_screenshots.py         # needs requirements-dev.txt, and Debian's chromium and chromium-driver

Writes beside this file: report.webp, an explained photograph (scikit-image's `chelsea`, by Stéfan van der Walt, CC0)
whose units are silenced, and of the embedded scenes routes.jpg and faithfulness.jpg.
"""

import io
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[0] = str(ROOT)

import settings
from loader.photographs import copy_photographs

PHOTOGRAPH = "chelsea.png"
# By the report: file, page, the element that is shown, and the window's width and height in pixels.
SHOTS = {
    "photograph": [("report.webp", "explain.html", "article.card", (1060, 1120))],
    "scenes": [
        ("routes.jpg", "classes.html", ".matrix", (1290, 1100)),
        ("faithfulness.jpg", "faithfulness.html", "main", (1000, 1200)),
    ],
}
SHOWN_WIDTH = 900  # of the animation, pixels
HOLD, STEP = 1500, 90  # milliseconds that a state is shown, and that a frame of its change is
MOVING = 5  # frames of a change
FLAGS = (
    "headless",
    "no-sandbox",
    "disable-gpu",
    "no-first-run",
    "hide-scrollbars",
    "disable-background-networking",
    "disable-component-update",
    "disable-sync",
)


def main() -> None:
    """Explain, open the pages, and photograph them."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        sys.exit("chromium and chromedriver are not there: apt install chromium chromium-driver")
    with tempfile.TemporaryDirectory() as folder:
        copy_photographs(Path(folder))
        network = ["--modelfile", ROOT / settings.SHIPPED_SNAPSHOT, "--nd_result", ROOT / settings.SHIPPED_TALLY]
        scenes = ["--dataset", "mini_places", "--images", "0,", *network]
        flags: dict[str, list] = {"photograph": ["--image", PHOTOGRAPH], "scenes": scenes}
        for name in SHOTS:
            command = [sys.executable, ROOT / "demo.py", *flags[name], "--output", Path(folder) / name]
            subprocess.run(command, check=True, cwd=folder)
        options = webdriver.ChromeOptions()
        options.binary_location = chromium
        for flag in FLAGS:
            options.add_argument(f"--{flag}")
        browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
        try:
            for name, (file, page, element, size) in [(name, shot) for name, shots in SHOTS.items() for shot in shots]:
                browser.set_window_size(*size)
                browser.get((Path(folder) / name / page).as_uri())
                shown = browser.find_element(By.CSS_SELECTOR, element)
                browser.execute_script("arguments[0].scrollIntoView()", shown)
                time.sleep(0.5)  # what was out of view is laid out now
                if file.endswith(".webp"):
                    animate(browser, shown, HERE / file)
                else:
                    photograph(shown).save(HERE / file, quality=88)
        finally:
            browser.quit()


def photograph(element: WebElement) -> Image.Image:
    """What an element looks like."""
    return decoded(element.screenshot_as_png)


def animate(browser: webdriver.Chrome, card: WebElement, path: Path) -> None:
    """Silence a card's largest vote, and then all units of its concept, as a reader of the page sees it."""
    row = card.find_element(By.CSS_SELECTOR, "table.sum tr[data-unit]")
    frames, times = [window(browser)], [2 * HOLD]
    for control in ("[data-silence]", "[data-silence-concept]"):
        browser.execute_script("arguments[0].click()", row.find_element(By.CSS_SELECTOR, control))
        for _ in range(MOVING):
            frames.append(window(browser))
            times.append(STEP)
        time.sleep(0.5)
        frames.append(window(browser))
        times.append(2 * HOLD)
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=times, loop=0, quality=70, method=4)


def window(browser: webdriver.Chrome) -> Image.Image:
    """What the window shows."""
    whole = decoded(browser.get_screenshot_as_png())
    return whole.resize((SHOWN_WIDTH, round(whole.height * SHOWN_WIDTH / whole.width)), Image.Resampling.LANCZOS)


def decoded(png: bytes) -> Image.Image:
    """A screenshot's pixels, RGB."""
    return Image.open(io.BytesIO(png)).convert("RGB")


if __name__ == "__main__":
    main()
