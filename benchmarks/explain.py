"""What explaining takes: seconds and memory against the number of images.

    python3 benchmarks/explain.py                 # about six minutes on two cores

Runs `demo.py` with the shipped network on mini_places, in a process of its own each time, with all pages, and prints a
Markdown table of the time and of the greatest resident memory of that process. Memory grows by what is kept of a
image, its record, not by the image.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

import settings


def get_args_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[15, 200, 800], help="how many are explained")
    return parser


def main(args: argparse.Namespace) -> None:
    """Measure, and print the table."""
    print("| images explained | validation | time, s | greatest memory, MB | explain.html, MB |")
    print("|---:|---|---:|---:|---:|")
    cases = [(images, False) for images in args.images] + [(max(args.images), True)]
    for images, validate in cases:
        with tempfile.TemporaryDirectory() as folder:
            seconds, peak = run_demo(images, validate, folder)
            page = (Path(folder) / "explain.html").stat().st_size / 1e6
        what = "800 images" if validate else "none"
        print(f"| {images} | {what} | {seconds:.1f} | {peak:.0f} | {page:.1f} |", flush=True)


def run_demo(images: int, validate: bool, folder: str) -> tuple[float, float]:
    """Wall-clock seconds, and the greatest resident memory in MB, of one run of demo.py."""
    command: list[str | Path] = [sys.executable, ROOT / "demo.py", "--dataset", "mini_places", "--output", folder]
    command += ["--modelfile", ROOT / settings.SHIPPED_SNAPSHOT, "--nd_result", ROOT / settings.SHIPPED_TALLY]
    command += ["--images", str(images), *([] if validate else ["--no_val"])]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"demo.py ended with status {status}")
    return time.perf_counter() - start, usage.ru_maxrss / 1e3


if __name__ == "__main__":
    main(get_args_parser().parse_args())
