"""When does choosing votes per image pay? DKA heads and fixed choices of as many weights, on equal terms.

    python3 experiments/rivals.py --data data/tiny-imagenet-200            # all of it; resumable
    python3 experiments/rivals.py --data data/tiny-imagenet-200 --quick    # a minute, into experiments/quick/rivals/
    python3 experiments/rivals.py --data data/tiny-imagenet-200 --check    # two jobs again: are the numbers the same?
    python3 -m experiments.report                                          # docs/RESULTS.md, which shows the rows

EfficientNet-Lite0 with its ImageNet weights sees the images of Tiny-ImageNet at 128 px, as validation sees them. Frozen
is all but the head, or all but the head and the last convolution; what the frozen part puts out is kept in
experiments/work/rivals/. Each head is tuned by the same procedure on training images that none is trained on (`tune`),
and measured on the validation images; `rivals_heads.METHODS` says what each starts from. Results are appended to
experiments/results/rivals/, a line per head; what is there is not done again.
"""

import argparse
import math
import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

import torch
from torch import Tensor

from experiments import results
from experiments.heads import Recipe, run_in_blocks, weights_per_class
from experiments.origin import origin
from experiments.photo_features import ensure_features
from experiments.rivals_heads import TRAINED, Bench, heads_of
from experiments.rivals_jobs import (
    BEHIND,
    DATASET,
    FROZEN,
    Every,
    Job,
    plan,
    pretrained,
    read_outputs,
    tuned_as,
)
from loader.datasets import find_dataset
from models import Head
from models.cut import TRUNK
from models.heads import predict
from util.cli import ArgumentParser, UserError, check_ranges, run
from util.files import lock_folder

FOLDER = results.FOLDER / "rivals"
TUNING = "tiny_imagenet_tuning"
LRS = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)
FIRST_LRS = (4, 5, 6)  # places in LRS that are tried; then those beyond an edge, as long as the best is there
LONG = {TRUNK: 8, BEHIND: 4}  # epochs of the long training for 60,000 images, by what is frozen
SHORT = 3  # the short training has so many times fewer epochs than the long one
ENOUGH = 0.2  # points of accuracy for which no head is trained longer
LONGER = 3  # times the long one
MOST_LENGTHS = 3  # short, long, longer
QUICK = [Job(classes=10, images=30), Job(classes=25, images=10)]
CHECKED = (Job(classes=10), Job(classes=10, frozen=BEHIND))


def get_args_parser() -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(__doc__)
    parser.add_argument("--data", help="Tiny-ImageNet's folder, or the one that holds it (default data/)")
    parser.add_argument("--quick", action="store_true", help="two small jobs, to see that all of it works")
    parser.add_argument("--check", action="store_true", help="repeat two small jobs: as in the results?")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="processes at one time")
    parser.add_argument("--most", type=int, metavar="N", help="end after so many trainings of all heads (default: all)")
    parser.add_argument("--work", default=str(ROOT / "experiments" / "work" / "rivals"), help="folder of the features")
    parser.add_argument("--features_only", action="store_true", help="compute the features, and end")
    return parser


def main(args: argparse.Namespace) -> None:
    """Compute the outputs of the frozen parts, if there are none, then run the jobs that are not done yet."""
    check_ranges(args, {"jobs": (1, os.cpu_count() or 1)})
    work = Path(args.work)
    if args.features_only or not all((work / frozen / "val.json").is_file() for frozen in FROZEN):
        cache_features(args.data, work)
    if args.features_only:
        return
    if args.check:
        for job in CHECKED:
            check(job, partial(read_outputs, work))
        return
    folder = ROOT / "experiments" / "quick" / "rivals" if args.quick else FOLDER
    if args.quick:
        shutil.rmtree(folder, ignore_errors=True)
    with lock_folder(work):
        run_all(QUICK if args.quick else plan(), folder, args)


def run_all(jobs: list[Job], folder: Path, args: argparse.Namespace) -> None:
    """Run the jobs that have no rows yet, those of one tuning in one process."""
    groups: dict[Job, list[Job]] = {}
    for job in left_of(jobs, folder)[: args.most]:
        groups.setdefault(tuned_as(job), []).append(job)
    threads = max(1, (os.cpu_count() or 1) // args.jobs)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(args.jobs, context, initializer=torch.set_num_threads, initargs=(threads,)) as pool:
        outputs = partial(read_outputs, Path(args.work))
        futures = [pool.submit(study, group, outputs, folder) for group in groups.values()]
        try:
            for future in as_completed(futures):
                future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def cache_features(data: str | None, work: Path) -> None:
    """Compute the features of all images, behind either part; an interrupted computation is resumed."""
    source = find_dataset(DATASET, data, ROOT).behind_frozen()
    network = pretrained().to(memory_format=torch.channels_last)
    for frozen in FROZEN:
        ensure_features(network, frozen, source, work / frozen)


# --- tuning -------------------------------------------------------------------------------------------------------


def long_epochs(job: Job) -> int:
    """Epochs of the long training: `LONG` for 60,000 images, more for fewer, by the square root."""
    return round(LONG[job.frozen] * math.sqrt(60_000 / (job.classes * job.images)))


def choose(found: dict[Recipe, float]) -> Recipe:
    """The best recipe by accuracy in per cent; of those that are less than ENOUGH worse, the best of the shortest."""
    best = max(found.values())
    return min(found, key=lambda recipe: (recipe.epochs if found[recipe] > best - ENOUGH else math.inf, -found[recipe]))


def tune(name: str, bench: Bench) -> Iterator[dict[str, Any]]:
    """Choose a head's learning rate and epochs by its accuracy on the images held out; the recipe is left in `bench`.

    The learning rate by short trainings: first three, then beyond an edge as long as the best is there. Then the long
    training with that rate, and if it is better, one that is still longer. The same for every head; one that gains to
    the end would gain more (`rivals_report.cut_off` finds them).

    Yields:
        a row for each training.
    """
    long = long_epochs(bench.job)
    found: dict[Recipe, float] = {}

    def tried(recipe: Recipe) -> dict[str, Any]:
        bench.recipes[name] = recipe
        bench.made.pop(name, None)
        held_out = bench.data.held_out
        found[recipe] = _agreement(run_in_blocks(bench.tail(name), held_out.values).argmax(1), held_out.targets)
        return {"head": name, **recipe._asdict(), "top1_held_out": found[recipe]}

    places = list(FIRST_LRS)
    for place in places:  # which grows until the best rate is between others
        yield tried(Recipe(LRS[place], long // SHORT))
        if len(found) == len(places):
            chosen = LRS.index(choose(found).lr)
            beyond = {max(places): chosen + 1, min(places): chosen - 1}.get(chosen, -1)
            places += [beyond] if 0 <= beyond < len(LRS) else []
    for epochs in (long, LONGER * long):
        before = choose(found)
        yield tried(Recipe(before.lr, epochs))
        if choose(found) == before:
            break
    bench.recipes[name] = choose(found)
    bench.made.pop(name)


def _agreement(classes: Tensor, others: Tensor) -> float:
    """In how many of the images (V,) two say the same, per cent."""
    return 100 * (classes == others).double().mean().item()


def recipes_for(job: Job, every: Every, folder: Path) -> dict[str, Recipe]:
    """The recipes of a job's heads, from the rows of tuning; those that are not there are made.

    A job with more images than it is tuned on has as many epochs fewer as its `long_epochs` are.
    """
    own = tuned_as(job)
    known = results.select(_rows(folder), dataset=TUNING, **asdict(own))
    bench = Bench(own, every(own.frozen).of(own), {})
    for name in heads_of(own, TRAINED):
        rows = results.select(known, head=name)
        if not rows:
            began = time.perf_counter()
            rows = [{"dataset": TUNING, **asdict(own), **row} for row in tune(name, bench)]
            about = {"seconds": round(time.perf_counter() - began, 1), **started_from()}
            append([{**row, **about} for row in rows], folder)
        bench.recipes[name] = choose({Recipe(row["lr"], row["epochs"]): row["top1_held_out"] for row in rows})
    scale = long_epochs(job) / long_epochs(own)
    return {name: Recipe(lr, max(1, round(epochs * scale))) for name, (lr, epochs) in bench.recipes.items()}


@cache
def started_from() -> dict[str, Any]:
    """What all rows of this process come from, even if the code is changed while it runs."""
    return origin()


# --- the study ----------------------------------------------------------------------------------------------------


def _rows(folder: Path) -> list[dict[str, Any]]:
    return results.read(folder) if folder.is_dir() else []


def append(rows: list[dict[str, Any]], folder: Path) -> None:
    """Add rows, unless the process that began this one was killed: another one may do the same by now."""
    parent = multiprocessing.parent_process()
    if parent and not parent.is_alive():
        raise SystemExit("the study was ended")
    results.append(rows, folder)


def left_of(jobs: list[Job], folder: Path) -> list[Job]:
    """Those that have no rows in `folder` yet."""
    done = {Job.of(row) for row in results.select(_rows(folder), dataset=DATASET)}
    left = [job for job in jobs if job not in done]
    print(f"{len(jobs)} jobs, {len(jobs) - len(left)} done, {len(left)} to do now", flush=True)
    return left


def study(jobs: list[Job], every: Every, folder: Path) -> None:
    """Run jobs in this process; their rows are appended after each."""
    started_from()
    for job in jobs:
        began = time.perf_counter()
        bench = Bench(job, every(job.frozen).of(job), recipes_for(job, every, folder))
        rows = [{"dataset": DATASET, **asdict(job), **row, **started_from()} for row in measure(bench)]
        append(rows, folder)
        best = " ".join(f"{row['head']} {row['top1']:.1f}" for row in rows)
        print(f"{job} {time.perf_counter() - began:.0f} s: {best}", flush=True)


@torch.inference_mode()
def measure(bench: Bench) -> Iterator[dict[str, Any]]:
    """A row for each head, of the validation images.

    Yields:
        top1: per cent.
        dense_agreement, dka_agreement: share of the images, per cent, for which the dense or the DKA head predicts the
            same.
        units_per_class: different units with a chosen vote other than 0, of the images predicted as a class.
        weights_per_class: weights other than zero.
        lr, epochs: None for a head that is not trained further than what it was made of.
        seconds: of its training, without what it was made of.
    """
    with torch.inference_mode(False):
        tails = {name: bench.tail(name) for name in heads_of(bench.job)}
    targets = bench.data.val.targets
    pooled = {name: run_in_blocks(tail.layers, bench.data.val.values) for name, tail in tails.items()}
    predictions = {name: predict(tail.head, pooled[name]) for name, tail in tails.items()}
    for name, tail in tails.items():
        predicted = predictions[name]
        recipe = bench.recipes.get(name)
        yield {
            "head": name,
            "top1": _agreement(predicted, targets),
            "dense_agreement": _agreement(predictions["dense"], predicted),
            "dka_agreement": _agreement(predictions["dka"], predicted),
            "units_per_class": units_per_class(tail.head, pooled[name], predicted),
            "weights_per_class": weights_per_class(tail.head),
            "lr": recipe.lr if recipe else None,
            "epochs": recipe.epochs if recipe else None,
            "seconds": round(bench.seconds[name], 2),
        }


def units_per_class(head: Head, pooled: Tensor, classes: Tensor) -> float:
    """Mean number of different units in the scores of the images (V, N) that are predicted as a class (V,)."""
    counts = []
    for own in classes.unique():
        members = (classes == own).nonzero().flatten()
        of_class = classes[members]
        voted = head.chosen(pooled[members], of_class) & (head.votes(pooled[members], of_class) != 0)
        counts.append(voted.any(0).sum().item())
    return sum(counts) / len(counts)


def check(job: Job, every: Every) -> None:
    """Repeat a small job by its recipes. Raises UserError if an accuracy differs by more than the order of sums can."""
    rows = _rows(FOLDER)
    known = {row["head"]: row["top1"] for row in results.select(rows, dataset=DATASET, **asdict(job))}
    tuned = {row["head"] for row in results.select(rows, dataset=TUNING, **asdict(tuned_as(job)))}
    if not known or not tuned.issuperset(heads_of(job, TRAINED)):
        raise UserError(f"{job}: no results to compare with")
    print(job)
    for row in measure(Bench(job, every(job.frozen).of(job), recipes_for(job, every, FOLDER))):
        before = known[row["head"]]
        print(f"{row['head']}: top-1 {row['top1']:.1f} %, was {before:.1f} %")
        if abs(row["top1"] - before) > CHECK_TOLERANCE:
            raise UserError(f"{row['head']}: differs by more than {CHECK_TOLERANCE} points")


CHECK_TOLERANCE = 2.0  # points: 10 of the 500 validation images of 10 classes


def cli() -> None:
    """Parse the command line and run the study."""
    main(get_args_parser().parse_args())


if __name__ == "__main__":
    run(cli, "experiments/rivals.py")
