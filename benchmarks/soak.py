"""Do long runs keep their memory, files and processes constant? Training steps and dissected images by the thousand.

    python3 benchmarks/soak.py                     # 2,000 steps, 5,000 images: about twenty minutes on two cores

Trains on mini_places at 64 px and dissects mini_broden's images over and over, in this process, while a thread records
every second the memory of this process and its workers (PSS: pages that several processes share are counted once).
Before each record glibc returns freed memory to the system, since what it retains for later is no leak. Prints a
Markdown table and draws benchmarks/soak.png. Linux with glibc only.
"""

import argparse
import csv
import ctypes
import gc
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

import numpy as np
from matplotlib.figure import Figure

import settings
from loader.datasets import find_dataset
from loader.mini_places import ensure_mini_places
from netdissect import main as dissection
from netdissect.broden.reader import read_table
from training import TrainConfig, train_and_evaluate
from util.files import atomic_write

SIZE = 64  # px, of training: a step's cost does not matter here, their number does
BATCH = 16
INTERVAL = 1.0  # seconds between two records
TITLES = (
    "run",
    "minutes",
    "memory after a quarter, MB",
    "half",
    "end",
    "most",
    "slope of the second half, MB/min",
    "open files before, after",
    "child processes before, after",
)


@dataclass(frozen=True)
class Soaked:
    """The records of a run.

    Attributes:
        seconds: (n,) since the start.
        memory: (n,) MB, of the process and its workers.
        before, after: open files, and child processes, at the beginning and at the end.
    """

    seconds: np.ndarray
    memory: np.ndarray
    before: tuple[int, int]
    after: tuple[int, int]

    def slope(self) -> float:
        """MB per minute over the second half of the run, by least squares."""
        half = self.seconds > self.seconds[-1] / 2
        return float(60 * np.polyfit(self.seconds[half], self.memory[half], 1)[0])


def get_args_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000, help="training steps, of 16 images")
    parser.add_argument("--images", type=int, default=5000, help="dissected images")
    return parser


def main() -> None:
    """Soak both, print the table, draw the plot."""
    args = get_args_parser().parse_args()
    places, broden = ensure_mini_places(ROOT / settings.DATA_ROOT)
    with tempfile.TemporaryDirectory() as folder:
        runs = {
            f"training, {args.steps:,} steps": soak(lambda: train_for(args.steps, places, Path(folder))),
            f"dissection, {args.images:,} images": soak(lambda: dissect(args.images, broden, Path(folder))),
        }
    print(f"| {' | '.join(TITLES)} |")
    print("|---|" + "---:|" * (len(TITLES) - 1))
    for name, run in runs.items():
        quarters = [run.memory[int(share * (len(run.memory) - 1))] for share in (0.25, 0.5, 1)]
        counts = (f"{was}, {is_}" for was, is_ in zip(run.before, run.after, strict=True))
        megabytes = (f"{value:.0f}" for value in [*quarters, run.memory.max()])
        cells = [f"{run.seconds[-1] / 60:.1f}", *megabytes, f"{run.slope():+.1f}", *counts]
        print(f"| {name} | {' | '.join(cells)} |")
    draw(runs, ROOT / "benchmarks" / "soak.png")


def soak(work: Callable[[], Any]) -> Soaked:
    """Run it, and record its memory meanwhile."""
    seconds: list[float] = []
    memory: list[float] = []
    over = threading.Event()
    libc = ctypes.CDLL(None)

    def record() -> None:
        began = time.monotonic()
        while not over.wait(INTERVAL):
            seconds.append(time.monotonic() - began)
            libc.malloc_trim(0)
            memory.append(sum(map(proportional_size, [os.getpid(), *children()])))

    before = open_files(), len(children())
    thread = threading.Thread(target=record)
    thread.start()
    try:
        work()
    finally:
        over.set()
        thread.join()
    gc.collect()
    multiprocessing.active_children()  # reaps those that ended
    return Soaked(np.array(seconds), np.array(memory), before, (open_files(), len(children())))


def proportional_size(process: int) -> float:
    """PSS of a process in MB; 0 if it has ended."""
    try:
        rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
    except OSError:
        return 0.0
    return next(int(line.split()[1]) / 1024 for line in rollup.splitlines() if line.startswith("Pss:"))


def children() -> list[int]:
    """Child processes of all threads of this process."""
    tasks = Path("/proc/self/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def open_files() -> int:
    """Number of this process's open file descriptors."""
    return len(os.listdir("/proc/self/fd"))


def train_for(steps: int, places: Path, folder: Path) -> None:
    """Train for at least that many steps."""
    source = find_dataset("mini_places", str(places))
    spec = replace(source.spec, size=SIZE, resize=SIZE, training=replace(source.spec.training, small_share=0))
    epochs = -(-steps * BATCH // len(source.dataset("train")))
    config = TrainConfig(epochs=epochs, batch_size=BATCH, keep=1, device="cpu")
    train_and_evaluate(config, folder, replace(source, spec=spec))


def dissect(images: int, broden: Path, folder: Path) -> None:
    """Dissect the shipped network on that many images, the same ones again and again."""
    rows = [row for _, row in read_table(broden / "index.csv", ["image"])]
    copy = folder / "mini_broden"
    copy.mkdir()
    for entry in broden.iterdir():
        if entry.name != "images":
            (copy / entry.name).symlink_to(entry)
    # An index has each image once: every round over them has a link of its own to their folder.
    (copy / "images").mkdir()
    for number in range(-(-images // len(rows))):
        (copy / "images" / str(number)).symlink_to(broden / "images")
    with open(copy / "index_soak.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(in_round(rows[index % len(rows)], index // len(rows)) for index in range(images))
    flags = {"data_directory": str(copy), "index_file": "index_soak.csv", "gpu": "False"}
    dissection.main(dissection.make_config({**flags, "output_folder": str(folder / "netdissect")}))


def in_round(row: dict[str, str], number: int) -> dict[str, str]:
    """A row of index.csv whose image and label maps are found through the link of a round."""

    def linked(cell: str) -> str:
        return ";".join(f"{number}/{entry}" if entry.endswith((".jpg", ".png")) else entry for entry in cell.split(";"))

    return {column: linked(cell) for column, cell in row.items()}


def draw(runs: dict[str, Soaked], path: Path) -> None:
    """Memory against time, a panel per run."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    for axes, (name, run) in zip(figure.subplots(1, len(runs)), runs.items(), strict=True):
        axes.plot(run.seconds / 60, run.memory, color="#2166ac", linewidth=1)
        axes.set(title=name, xlabel="minutes", ylabel="memory (PSS), MB", ylim=(0, 1.15 * run.memory.max()))
        axes.spines[["top", "right"]].set_visible(False)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=120)


if __name__ == "__main__":
    main()
