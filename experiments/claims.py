"""The paper's claims, measured: dense heads, DKA heads and sparse rivals, on data that anybody can have.

    python3 experiments/claims.py                # all of it, about four hours on two cores; resumable
    python3 experiments/claims.py --quick        # five minutes: one seed, little training, into experiments/quick/
    python3 experiments/claims.py --check        # two runs again: are they within the intervals of the results?
    python3 experiments/claims.py --again --runs "mini_places-dka-k5*"   # these runs again, in place of their rows
    python3 -m experiments.report                # docs/RESULTS.md and its plots, from the results

Each run is a process of its own; several share the cores, a thread or more each, which on small networks does more than
one run with all of them. An interrupted run resumes after its last epoch. Results are appended to
experiments/results/<dataset>.jsonl, a line per head that was measured. Networks and small copies of the data are kept
in experiments/work/ while the study goes on.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

import torch
from torch import Tensor, nn
from tqdm import tqdm

import settings
from experiments import measure, results
from experiments.data import StudyData, prepare
from experiments.heads import elastic_nets
from experiments.origin import origin
from experiments.plan import ELASTIC_NET_C, FULL, KS, QUICK, VARIANTS, Data, Run, plan
from explain.votes import spaced
from loader.batches import make_loader
from loader.datasets import DataSource
from loader.images import val_transform
from models import Head, build_model, head_of, load_snapshot, run_name
from models.heads import HEADS, PrunedHead
from netdissect.broden import Broden
from training import TrainConfig, train_and_evaluate
from training.epoch import evaluate_features
from util.cli import ArgumentParser, UserError, check_ranges, run

WORKERS = 2
BATCH = 64
FITTED = 4000  # training images that the elastic nets are fitted on
# What --check repeats: the shortest runs of each data set, but for the networks that are trained out.
CHECKED = (Run("fashion_mnist", "dka", 5, 0), Run("mini_places", "dka", 5, 0))


def get_args_parser() -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(__doc__)
    parser.add_argument("--quick", action="store_true", help="a few short runs, to see that all of it works")
    parser.add_argument("--check", action="store_true", help="repeat a run of each data set: as in the results?")
    parser.add_argument("--runs", metavar="PATTERN", nargs="+", default=["*"], help="only runs of such names (* ? [])")
    parser.add_argument("--again", action="store_true", help="do runs that are done too, and replace their rows")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="runs at one time")
    parser.add_argument("--work", default=str(ROOT / "experiments" / "work"), help="folder of what can be made again")
    parser.add_argument("--only", metavar="NAME", help=argparse.SUPPRESS)  # one run, in this process
    parser.add_argument("--rows", metavar="JSON", help=argparse.SUPPRESS)  # where that run writes its rows
    return parser


def main(args: argparse.Namespace) -> None:
    """Run what is not done yet, a process per run."""
    check_ranges(args, {"jobs": (1, os.cpu_count() or 1)})
    data = QUICK if args.quick else FULL
    work = Path(args.work) / ("quick" if args.quick else "full")
    runs = {run.name: run for run in plan(args.quick)}
    if args.only:
        rows = list(measure_run(runs[args.only], data[runs[args.only].dataset], work))
        Path(args.rows).write_text(json.dumps(rows))
        return
    if args.check:
        for one in CHECKED:
            check(one, work)
        return
    folder = ROOT / "experiments" / "quick" if args.quick else results.FOLDER
    if args.quick:
        shutil.rmtree(folder, ignore_errors=True)
    done = set() if args.again else {row["run"] for row in results.read(folder)}
    left = [
        run
        for name, run in runs.items()
        if name not in done and any(fnmatchcase(name, pattern) for pattern in args.runs)
    ]
    print(f"{len(runs)} runs, {len(done)} done, {len(left)} to do now")
    threads = max(1, (os.cpu_count() or 1) // args.jobs)
    started: dict[str, Future[list[dict[str, Any]]]] = {}

    def work_on(one: Run) -> list[dict[str, Any]]:
        if one.head == "elastic net" and (dense := started.get(replace(one, head="dense").name)):
            dense.result()  # it is fitted on this network's features
        return in_own_process(one, work, args.quick, threads)

    pool = ThreadPoolExecutor(args.jobs)
    try:
        for one in left:
            started[one.name] = pool.submit(work_on, one)
        for future in tqdm(as_completed(started.values()), total=len(left), unit="run", dynamic_ncols=True):
            rows = future.result()
            one = runs[rows[0]["run"]]
            results.drop(one.name, folder)
            results.append(rows, folder)
            if one.head != "dense" or one.variant:  # whose features the elastic net of its seed is fitted on
                shutil.rmtree(work / one.name, ignore_errors=True)
    finally:
        pool.shutdown(cancel_futures=True)  # those that run end first, and are found done, or go on, the next time
    print(f"results: {folder}")


def in_own_process(one: Run, work: Path, quick: bool = False, threads: int | None = None) -> list[dict[str, Any]]:
    """Measure a run in a process of its own; returns its rows, with what they came from."""
    file = work / f"{one.name}.json"
    work.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    threads = threads or os.cpu_count() or 1
    command = [sys.executable, __file__, "--only", one.name, "--rows", file, "--work", work.parent]
    with open(work / f"{one.name}.log", "w") as log:
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        command += ["--quick"] if quick else []
        done = subprocess.run(list(map(str, command)), stdout=log, stderr=log, env=environment)
    if done.returncode:
        raise UserError(f"{one.name}: ended with code {done.returncode}, see {log.name}")
    about = {"seconds": round(time.perf_counter() - began, 1), "threads": threads, **origin()}
    return [{**row, **about} for row in json.loads(file.read_text())]


def check(one: Run, work: Path) -> None:
    """Repeat a run and see whether its accuracy is within the interval of the results. Raises UserError if not."""
    shutil.rmtree(work / one.name, ignore_errors=True)
    (again,) = in_own_process(one, work)
    wanted = {key: again[key] for key in results.KEY}
    known = results.select(results.read(), **wanted)
    if not known:
        raise UserError(f"{one.name}: no results to compare with")
    expected = results.interval(row["top1"] for row in known)
    print(
        f"{one.name}: top-1 {again['top1']:.2f} %, expected {expected.low:.2f} to {expected.high:.2f} % "
        f"(of {expected.seeds} seeds)"
    )
    if not expected.low <= again["top1"] <= expected.high:
        raise UserError("outside of the interval")


# --- one run ------------------------------------------------------------------------------------------------------


def measure_run(one: Run, data: Data, work: Path) -> Iterator[dict[str, Any]]:
    """Train or load, measure; yields a row per head."""
    study = prepare(one, data, ROOT, work)
    began = time.perf_counter()
    if one.head == "elastic net":
        yield from measure_elastic_nets(one, study, work)
        return
    if one.head == "untrained":
        yield {**one.record(), "run": one.name, **measure_untrained(one, study)}
        return
    model = trained(one, study.source, work)
    head = head_of(model)
    training = round(time.perf_counter() - began, 1)
    pooled, targets = features(model, study.source, "val")
    about = concepts(model, study.broden)
    row = {**about(head), "training_seconds": training}
    if one.head == "dka" or not one.variant:
        row["top1_by_k"] = measure.accuracy_by_k(head, pooled, targets, KS)
    yield {**one.record(), "run": one.name, **row, **measure.measure_head(head, pooled, targets)}
    if one.head == "dense" and not one.variant:
        for k in KS[:-1]:
            pruned = PrunedHead.freeze(head, k)
            row = replace(one, head="pruned", k=k).record()
            yield {**row, "run": one.name, **about(pruned), **measure.measure_head(pruned, pooled, targets)}


def trained(one: Run, source: DataSource, work: Path) -> nn.Module:
    """The network of a run; an interrupted training is resumed, and a finished one is loaded."""
    arch = "resnet18" if one.head == "dense" else "resnet18_fc_ma"
    head = HEADS[VARIANTS[one.variant]] if one.variant in VARIANTS else None
    config = TrainConfig(
        arch=arch,
        mark="dense" if one.head == "dense" else f"t{one.k}",
        seed=one.seed,
        workers=WORKERS,
        device="cpu",
        amp="off" if one.variant == "float32" else "auto",
        keep=1,
        resume="auto",
    )
    folder = work / one.name
    name = run_name(arch, config.run_mark, source.name)
    last = folder / settings.SNAPSHOT_ROOT / name / f"epoch_{source.spec.training.epochs - 1}.pth"
    if not last.is_file():
        train_and_evaluate(config, folder, source, build_model=partial(build_model, head=head))
    return load_snapshot(last)[0]


def features(model: nn.Module, source: DataSource, split: str) -> tuple[Tensor, Tensor]:
    """Pooled features (V, N) and classes (V,) of the images of a split, as validation sees them, in float32."""
    images = source.dataset(split, val_transform(source.spec))
    device = torch.device("cpu")
    _, pooled = evaluate_features(model, make_loader(images, BATCH, WORKERS, device), device)
    return pooled, torch.as_tensor(images.targets)


def concepts(model: nn.Module, broden: Path | None) -> Callable[[Head], dict[str, Any]]:
    """What the units of a network stand for, and with a head, whether the explanations name what is there.

    Units are named by mini_broden's training images, and explained on the others.
    """
    if broden is None:
        return lambda _: {}
    dissection = measure.dissect(model, Broden(broden, "index_train.csv"), WORKERS)
    scenes = measure.look_at(model, Broden(broden, "index_val.csv"), WORKERS)
    return lambda head: {**dissection.metrics, **measure.pointing(head, scenes, dissection.rows["lite"])}


def measure_untrained(one: Run, study: StudyData) -> dict[str, Any]:
    """Name the units of a network with random weights as those of trained ones are named."""
    assert study.broden is not None  # the plan has none for other data
    model = measure.untrained(build_model("resnet18", len(study.source.classes)), one.seed).eval()
    return measure.dissect(model, Broden(study.broden, "index_train.csv"), WORKERS).metrics


def measure_elastic_nets(one: Run, study: StudyData, work: Path) -> Iterator[dict[str, Any]]:
    """Sparse heads on the frozen features of the dense network of the same seed; k is the mean number of weights."""
    model = trained(replace(one, head="dense"), study.source, work)
    pooled, targets = features(model, study.source, "train")
    some = spaced(len(pooled), FITTED)
    val_pooled, val_targets = features(model, study.source, "val")
    about = concepts(model, study.broden)
    heads = elastic_nets(pooled[some].numpy(), targets[some].numpy(), ELASTIC_NET_C)
    for strength, head in zip(ELASTIC_NET_C, heads, strict=True):
        weights = (head.weight != 0).sum(1).double().mean().item()
        row = {**one.record(), "run": one.name, "c": strength, "weights_per_class": weights, **about(head)}
        yield {**row, **measure.measure_head(head, val_pooled, val_targets)}


def cli() -> None:
    """Parse the command line and run the study."""
    main(get_args_parser().parse_args())


if __name__ == "__main__":
    run(cli, "experiments/claims.py")
