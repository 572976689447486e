"""Make the screenshots of the README anew, from the shipped network on the embedded scenes.

    python3 docs/make_screenshots.py         # needs requirements-dev.txt, and Debian's chromium and chromium-driver

Writes report.jpg (one explained image), routes.jpg and faithfulness.jpg beside this file.
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

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[0] = str(ROOT)

import settings

# File, page, the element that is shown, and the window's width and height in pixels.
SHOTS = [
    ("report.jpg", "explain.html", "#image-{index}", (1290, 2000)),
    ("routes.jpg", "classes.html", ".matrix", (1290, 1100)),
    ("faithfulness.jpg", "faithfulness.html", "main", (1000, 1200)),
]
IMAGE = 0  # of the validation set
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
        command: list[str | Path] = [ROOT / "demo.py", "--dataset", "mini_places", "--images", f"{IMAGE},"]
        command += ["--modelfile", ROOT / settings.SHIPPED_SNAPSHOT, "--nd_result", ROOT / settings.SHIPPED_TALLY]
        subprocess.run([sys.executable, *command, "--output", folder], check=True)
        options = webdriver.ChromeOptions()
        options.binary_location = chromium
        for flag in FLAGS:
            options.add_argument(f"--{flag}")
        browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
        try:
            for file, page, element, size in SHOTS:
                browser.set_window_size(*size)
                browser.get((Path(folder) / page).as_uri())
                shown = browser.find_element(By.CSS_SELECTOR, element.format(index=IMAGE))
                browser.execute_script("arguments[0].scrollIntoView()", shown)
                time.sleep(0.5)  # what was out of view is laid out now
                shot = shown.screenshot_as_png
                Image.open(io.BytesIO(shot)).convert("RGB").save(HERE / file, quality=88)
        finally:
            browser.quit()


if __name__ == "__main__":
    main()
