"""When does choosing votes per image pay? DKA heads and fixed choices of as many weights, on the same frozen features.

    python3 experiments/rivals.py --data data/tiny-imagenet-200            # all of it; resumable
    python3 experiments/rivals.py --data data/tiny-imagenet-200 --quick    # a minute, into experiments/quick/rivals/
    python3 experiments/rivals.py --data data/tiny-imagenet-200 --check    # one job again: are its numbers the same?
    python3 -m experiments.report                                          # docs/RESULTS.md, which shows the rows

The features are those of EfficientNet-Lite0 with its ImageNet weights, for the images of Tiny-ImageNet at 128 px as
validation sees them, kept in experiments/work/rivals/. Each head is tuned by the same procedure on training images that
no head is trained on (`tune`), and measured on the validation images. All start from the weights of the dense head.
Results are appended to experiments/results/rivals/, a line per head; what is there is not done again.
"""

import argparse
import math
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

import torch
from torch import Tensor, nn

import settings
from experiments import results
from experiments.heads import (
    CompactHead,
    ElasticNets,
    GradualPruning,
    Recipe,
    TopActivationsHead,
    largest_mean_votes,
    scores,
    static_head,
    train,
    weights_per_class,
)
from experiments.origin import origin
from experiments.photo_features import Features, ensure_features, read_features
from loader.datasets import find_dataset
from models import Head, build_model
from models.dynamic_k import DynamicKLinear
from models.heads import DenseHead, PrunedHead, StaticHead, fill
from util.cli import ArgumentParser, UserError, run

FOLDER = results.FOLDER / "rivals"
DATASET, TUNING = "tiny_imagenet", "tiny_imagenet_tuning"
HELD_OUT = 30  # images of each class, a tenth, that the heads are tuned on and none is trained on
CLASSES, IMAGES, K = 200, 100, 5  # unless they are what is varied; images are training images per class
KS = (1, 2, 3, 5, 10, 20, 50)  # beside N, where DKA is the dense head
FIRST_KS = (1, 20, 2)  # of the first seed, before others
CLASS_COUNTS = (10, 25, 50, 100, 200)
IMAGE_COUNTS = (10, 30, 100, 270)
SEEDS = (0, 1, 2, 3, 4)
FEW_SEEDS = 3  # of K other than 5, and of all jobs before the others
LRS = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)
FIRST_LRS = (4, 5, 6)  # places in LRS that are tried; then those beyond an edge, as long as the best is there
SHORT = 3  # the short training has so many times fewer epochs than the long one
ENOUGH = 0.2  # points of accuracy for which no head is trained longer
LONGER = 3  # times the long one
SELECTED = 2  # times K: weights per class of the elastic net of which the K largest become a mask


@dataclass(frozen=True)
class Job:
    """Heads that are trained on the same images.

    Attributes:
        classes: number of classes, drawn by the seed unless it is all.
        images: training images of each.
        k: K.
        seed: of the draw, of initial weights and of the order of images.
    """

    classes: int = CLASSES
    images: int = IMAGES
    k: int = K
    seed: int = 0


@dataclass(frozen=True)
class Data:
    """The features that a job uses.

    Attributes:
        train: of its training images.
        held_out: of other training images, to tune on.
        val: of the validation images of its classes.
    """

    train: Features
    held_out: Features
    val: Features


def plan() -> list[Job]:
    """All jobs, the most important first; more K, images and seeds of all come last."""
    few = SEEDS[:FEW_SEEDS]
    jobs = [Job(seed=seed) for seed in few]
    for seed in few:
        jobs += [Job(classes=classes, seed=seed) for classes in CLASS_COUNTS]
        jobs += [Job(images=images, seed=seed) for images in IMAGE_COUNTS[:-1]]
        jobs += [Job(k=k, seed=seed) for k in FIRST_KS if seed == 0]
    jobs += [Job(images=IMAGE_COUNTS[-1])]
    jobs += [Job(k=k, seed=seed) for seed in few for k in KS]
    for seed in SEEDS:
        jobs += [Job(classes=classes, seed=seed) for classes in CLASS_COUNTS]
        jobs += [Job(images=images, seed=seed) for images in IMAGE_COUNTS]
    return list(dict.fromkeys(jobs))


QUICK = [Job(classes=10, images=30), Job(classes=25, images=10)]
CHECKED = Job(classes=10)


def get_args_parser() -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(__doc__)
    parser.add_argument("--data", help="Tiny-ImageNet's folder, or the one that holds it (default data/)")
    parser.add_argument("--quick", action="store_true", help="two small jobs, to see that all of it works")
    parser.add_argument("--check", action="store_true", help="repeat one small job and compare it with the results")
    parser.add_argument("--jobs", type=int, metavar="N", help="end after so many jobs (default: all)")
    parser.add_argument("--work", default=str(ROOT / "experiments" / "work" / "rivals"), help="folder of the features")
    parser.add_argument("--features_only", action="store_true", help="compute the features, and end")
    return parser


def main(args: argparse.Namespace) -> None:
    """Compute the features that are missing, then run the jobs that are not done yet."""
    work = Path(args.work)
    if args.features_only or not (work / "val.json").is_file():
        cache_features(args.data, work)
    if args.features_only:
        return
    every = Rows(read_features(work, "train"), read_features(work, "val"))
    if args.check:
        check(every)
        return
    folder = ROOT / "experiments" / "quick" / "rivals" if args.quick else FOLDER
    if args.quick:
        shutil.rmtree(folder, ignore_errors=True)
    study(QUICK if args.quick else plan(), every, folder, args.jobs)


def cache_features(data: str | None, work: Path) -> None:
    """Compute the features of all images; an interrupted computation is resumed."""
    source = find_dataset(DATASET, data, ROOT).behind_frozen()
    network = build_model("efficientnet_lite0", settings.DATASETS["imagenet"]["num_classes"]).eval()
    ensure_features(network.to(memory_format=torch.channels_last), source, work)


@dataclass(frozen=True)
class Rows:
    """The features of all images: of training, classes taking turns, and of validation."""

    train: Features
    val: Features

    def of(self, job: Job) -> Data:
        """What a job uses: classes are numbered anew, from 0.

        Of each class, the first images are held out. Up to IMAGES training images are drawn from the IMAGES that
        follow, more from all others.

        Raises:
            UserError: if there are too few rows.
        """
        generator = torch.Generator().manual_seed(job.seed)
        count = int(self.val.targets.max()) + 1
        classes = torch.randperm(count, generator=generator)[: job.classes].sort().values
        pool = max(job.images, IMAGES)
        turns = len(self.train.targets) // count
        if turns < HELD_OUT + pool:
            raise UserError(
                f"the features have {turns} images per class, {HELD_OUT + pool} are needed: --features_only"
            )
        # turns
        drawn = HELD_OUT + torch.rand(pool, count, generator=generator).argsort(0)[: job.images, classes]
        return Data(
            _part(self.train, (drawn * count + classes).flatten(), classes),
            _part(self.train, (torch.arange(HELD_OUT)[:, None] * count + classes).flatten(), classes),
            _part(self.val, torch.isin(self.val.targets, classes).nonzero().flatten(), classes),
        )


def _part(rows: Features, index: Tensor, classes: Tensor) -> Features:
    """Some of the rows; their classes are numbered by their place in `classes`, which ascends."""
    return Features(rows.pooled[index], torch.searchsorted(classes, rows.targets[index]))


# --- the heads ----------------------------------------------------------------------------------------------------


NETS: dict[Job, ElasticNets] = {}  # of the last training images


class Bench:
    """The heads of a job, each made when it is first asked for.

    Args:
        job: what is trained on what.
        data: its features.
        recipes: by name, of the heads that are trained.
    """

    def __init__(self, job: Job, data: Data, recipes: dict[str, Recipe]):
        self.job, self.data, self.recipes = job, data, recipes
        self.made: dict[str, Head] = {}
        self.seconds: dict[str, float] = {}

    @cached_property
    def nets(self) -> ElasticNets:
        """Sparse heads of its training images; of all classes and the whole pool, the same for every seed."""
        same = (self.job.classes, self.job.images) == (CLASSES, IMAGES)
        key = replace(self.job, k=0, seed=0 if same else self.job.seed)
        if key not in NETS:
            NETS.clear()
            NETS[key] = ElasticNets(self.data.train)
        return NETS[key]

    def head(self, name: str) -> Any:
        """A head of `METHODS`, in eval mode."""
        if name not in self.made:
            parents = sum(self.seconds.values())
            began = time.perf_counter()
            torch.manual_seed(self.job.seed)
            made = METHODS[name](self)
            made_parents = sum(self.seconds.values()) - parents
            self.made[name], self.seconds[name] = made, time.perf_counter() - began - made_parents
        return self.made[name]

    def random(self) -> DenseHead:
        """A dense head with random weights."""
        return DenseHead(self.data.train.pooled.shape[1], self.job.classes)

    def from_dense(self, kind: Callable[..., nn.Linear]) -> Any:
        """A head of another kind that starts from the weights of the dense one."""
        dense = self.head("dense")
        return fill(kind(dense.in_features, dense.out_features, topk=self.job.k), dense.weight, dense.bias)

    def trained(self, name: str, head: nn.Module, after_step: Callable[[float], None] = lambda _: None) -> Any:
        """Train a head by its recipe."""
        train(head, self.data.train, self.recipes[name], self.job.seed, after_step)
        return head.eval()

    def masked(self, name: str, static: StaticHead) -> StaticHead:
        """A static head whose weights are trained further, its mask fixed."""
        return self.trained(name, CompactHead(static)).expanded()


def _mean_votes(bench: Bench) -> Head:
    dense = bench.head("dense")
    static = static_head(dense, largest_mean_votes(dense, bench.data.train, bench.job.k))
    return bench.masked("largest mean votes, trained", static)


def _elastic_trained(bench: Bench) -> Head:
    spread = bench.data.train.pooled.std(0)
    wide = bench.nets.with_weights(SELECTED * bench.job.k)
    units = (wide.weight.detach().abs() * spread).topk(bench.job.k, 1).indices
    return bench.masked("elastic net, trained", static_head(wide, units))


def _gradual(bench: Bench) -> Head:
    head = bench.from_dense(PrunedHead)
    return bench.trained("pruned gradually", head, GradualPruning(head))


METHODS: dict[str, Callable[[Bench], Any]] = {
    "dense": lambda bench: bench.trained("dense", bench.random()),
    "dka": lambda bench: bench.trained("dka", bench.from_dense(DynamicKLinear)),
    "pruned": lambda bench: PrunedHead.freeze(bench.head("dense"), bench.job.k),
    "pruned, trained": lambda bench: bench.masked("pruned, trained", bench.head("pruned")),
    "largest mean votes, trained": _mean_votes,
    "pruned gradually": _gradual,
    "elastic net": lambda bench: bench.nets.with_weights(bench.job.k),
    "elastic net, trained": _elastic_trained,
    "dka, frozen": lambda bench: StaticHead.freeze(bench.head("dka")),
    "dka, frozen, trained": lambda bench: bench.masked("dka, frozen, trained", bench.head("dka, frozen")),
    "top activations": lambda bench: bench.trained("top activations", bench.from_dense(TopActivationsHead)),
}
MASKED = (
    "pruned, trained",
    "largest mean votes, trained",
    "pruned gradually",
    "elastic net, trained",
    "dka, frozen, trained",
)  # fixed choices of K units per class, trained
TRAINED = ("dense", "dka", *MASKED, "top activations")


# --- tuning -------------------------------------------------------------------------------------------------------


def long_epochs(job: Job) -> int:
    """Epochs of the long training: 8 for 60,000 images, more for fewer, by the square root."""
    return round(8 * math.sqrt(60_000 / (job.classes * job.images)))


def choose(found: dict[Recipe, float]) -> Recipe:
    """The best recipe by accuracy in per cent; of those that are less than ENOUGH worse, the best of the shortest."""
    best = max(found.values())
    return min(found, key=lambda recipe: (recipe.epochs if found[recipe] > best - ENOUGH else math.inf, -found[recipe]))


def tune(name: str, bench: Bench) -> Iterator[dict[str, Any]]:
    """Choose a head's learning rate and epochs by its accuracy on the images held out; the recipe is left in `bench`.

    The learning rate by short trainings: first three, then beyond an edge as long as the best is there. Then the long
    training with that rate, and if it is better, a still longer one. The same for every head.

    Yields:
        a row for each training.
    """
    long = long_epochs(bench.job)
    found: dict[Recipe, float] = {}

    def tried(recipe: Recipe) -> dict[str, Any]:
        bench.recipes[name] = recipe
        bench.made.pop(name, None)
        held_out = bench.data.held_out
        found[recipe] = _accuracy(scores(bench.head(name), held_out.pooled), held_out.targets)
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


def _accuracy(logits: Tensor, targets: Tensor) -> float:
    return 100 * (logits.argmax(1) == targets).double().mean().item()


def tuned_as(job: Job) -> Job:
    """The job on which a job's heads are tuned: seed 0, K = 5, and at most IMAGES images per class."""
    return replace(job, k=K, images=min(job.images, IMAGES), seed=0)


def recipes_for(job: Job, every: Rows, folder: Path) -> dict[str, Recipe]:
    """The recipes of a job's heads, from the rows of tuning; those that are not there are made.

    A job with more images than it is tuned on has as many epochs fewer as its `long_epochs` are.
    """
    own = tuned_as(job)
    known = results.select(_rows(folder), dataset=TUNING, **asdict(own))
    bench = Bench(own, every.of(own), {})
    for name in TRAINED:
        rows = results.select(known, head=name)
        if not rows:
            began = time.perf_counter()
            rows = [{"dataset": TUNING, **asdict(own), **row} for row in tune(name, bench)]
            about = {"seconds": round(time.perf_counter() - began, 1), **started_from()}
            results.append([{**row, **about} for row in rows], folder)
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


def study(jobs: list[Job], every: Rows, folder: Path, most: int | None = None) -> None:
    """Run the jobs that have no rows in `folder` yet, `most` of them."""
    done = {
        Job(*(row[name] for name in Job.__dataclass_fields__)) for row in _rows(folder) if row["dataset"] == DATASET
    }
    left = [job for job in jobs if job not in done][:most]
    started_from()
    print(f"{len(jobs)} jobs, {len(done)} done, {len(left)} to do now", flush=True)
    for job in left:
        began = time.perf_counter()
        bench = Bench(job, every.of(job), recipes_for(job, every, folder))
        rows = [{"dataset": DATASET, **asdict(job), **row, **started_from()} for row in measure(bench)]
        results.append(rows, folder)
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
        heads = {name: bench.head(name) for name in METHODS}
    val = bench.data.val
    logits = {name: scores(head, val.pooled) for name, head in heads.items()}
    for name, head in heads.items():
        predicted = logits[name].argmax(1)
        recipe = bench.recipes.get(name)
        yield {
            "head": name,
            "top1": _accuracy(logits[name], val.targets),
            "dense_agreement": _accuracy(logits["dense"], predicted),
            "dka_agreement": _accuracy(logits["dka"], predicted),
            "units_per_class": units_per_class(head, val.pooled, predicted),
            "weights_per_class": weights_per_class(head),
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


def check(every: Rows) -> None:
    """Repeat a small job by its recipes. Raises UserError if an accuracy differs by more than the order of sums can."""
    known = {row["head"]: row for row in results.select(_rows(FOLDER), dataset=DATASET, **asdict(CHECKED))}
    if not known:
        raise UserError(f"{CHECKED}: no results to compare with")
    bench = Bench(CHECKED, every.of(CHECKED), recipes_for(CHECKED, every, FOLDER))
    for row in measure(bench):
        before = known[row["head"]]["top1"]
        print(f"{row['head']}: top-1 {row['top1']:.1f} %, was {before:.1f} %")
        if abs(row["top1"] - before) > CHECK_TOLERANCE:
            raise UserError(f"{row['head']}: differs by more than {CHECK_TOLERANCE} points")


CHECK_TOLERANCE = 2.0  # points: 10 of the 500 validation images of 10 classes


def cli() -> None:
    """Parse the command line and run the study."""
    main(get_args_parser().parse_args())


if __name__ == "__main__":
    run(cli, "experiments/rivals.py")
