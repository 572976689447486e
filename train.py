"""Train a ResNet with a Dynamic-K Activation head (or a dense one), on CPU or GPU, or on many GPUs.

    python3 train.py --mark t5                                  # ResNet-d5a on Places365, or on the embedded scenes
    python3 train.py --mark t5 --dataset mini_places            # the embedded scenes, 24 epochs
    python3 train.py --mark t10 --arch resnet50_fc_ma           # ResNet-50, K = 10
    python3 train.py --mark dense --arch resnet18               # the baseline with a dense head
    python3 train.py --mark t5 --dataset /path/to/tree          # any folder with train/<class>/ and val/<class>/
    python3 train.py --mark t5 --k_schedule linear:50-5         # begin with K = 50
    python3 train.py --mark t5 --resume auto                    # go on from the newest snapshot of this run
    python3 train.py --mark t5 --finetune resnet18-f37072fd.pth # start from torchvision's ImageNet weights
    torchrun --nproc_per_node=8 train.py --mark t5              # eight GPUs share each batch

Writes snapshot/pytorch_{arch}_{mark}_{dataset}/epoch_{n}.pth, and train.jsonl (a line per epoch), curves.png and
train.log into result/pytorch_{arch}_{mark}_{dataset}/. The last epochs' snapshots and the best one stay (--keep).

SIGTERM, as clusters send it before they take a machine away, saves interrupted.pth in mid-epoch and ends with exit code
143; a mistake of the user ends with 2, Ctrl-C with 130, a loss that is not finite with 1. --resume auto goes on from
wherever a run was ended, to the weights that it would have had undisturbed.
"""

import argparse
import importlib.util
import math
import os
import re
import sys
from collections.abc import Callable, Sequence, Sized
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LRScheduler, MultiStepLR, OneCycleLR
from torch.utils.data import DataLoader

import distributed
import settings
from engine import (
    NonFiniteLoss,
    Sums,
    describe_device,
    evaluate_features,
    never,
    pick_amp,
    pick_device,
    train_one_epoch,
)
from errors import ArgumentParser, Terminated, UserError, check_ranges, noting_sigterm, run
from explain.votes import predict, times_voted
from files import alone_in, shown
from loader.places365 import (
    DataSource,
    default_workers,
    epoch_loader,
    find_dataset,
    make_loader,
    steps_per_epoch,
    train_transform,
    val_transform,
)
from models import MODELS, build_model, mark_of, parse_mark, run_name
from models.dynamic_k import DynamicKLinear
from models.resnet import DENSE_MARK, DKA_SUFFIX, head_of
from models.snapshot import load_pretrained, save_snapshot
from rehearsal import Sizes, rehearse
from runs import (
    INTERRUPTED,
    find_resume,
    log,
    open_log,
    remove_leftovers,
    remove_old_snapshots,
    report_epoch,
    restore,
    scalar_writer,
    summarize,
)

ROOT = Path(__file__).resolve().parent
KEEP = 10  # snapshots of a run that stay, beside the best
RANGES = {"epochs": (1, 100_000), "batch_size": (1, 2**20), "workers": (0, settings.MOST_WORKERS),
          "seed": (0, 2**32 - 1), "keep": (1, 100_000)}  # fmt: skip


def get_args_parser() -> ArgumentParser:
    """The command line; a default of None is taken from the data set's schedule in settings.py."""
    parser = ArgumentParser(__doc__)
    parser.add_argument("--mark", help=f"tK: keep the K largest votes per class (default {settings.MARK}); "
                        f"{DENSE_MARK} for a dense head")  # fmt: skip
    parser.add_argument("--arch", default=settings.ARCH, help=f"one of {', '.join(MODELS)}")
    parser.add_argument("--k_schedule", metavar="linear:A-B",
                        help="K of each epoch: A in the first, B (the mark's) in the last, evenly between")  # fmt: skip
    parser.add_argument("--dataset", help=f"{', '.join(settings.DATASETS)}, or a folder with train/ and val/")
    parser.add_argument("--data", help="folder that holds the data sets, or the data set's own (default data/)")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--batch_size", type=int, help="pictures per step, of all processes together")
    parser.add_argument("--lr", type=float, help="the largest learning rate")
    parser.add_argument("--scale_lr", action="store_true",
                        help="multiply it by batch size / the schedule's batch size (linear scaling)")  # fmt: skip
    parser.add_argument("--workers", type=int, default=default_workers(), help="processes that read pictures")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:<number>")
    parser.add_argument("--amp", default="auto", choices=["auto", "on", "off"], help="mixed precision")
    parser.add_argument("--compile", action="store_true", help="torch.compile the model")
    parser.add_argument("--resume", metavar="auto|PTH", help="go on from the newest, or from this snapshot")
    parser.add_argument("--finetune", metavar="PTH", help="start from these weights: a snapshot, or torchvision's")
    parser.add_argument("--keep", type=int, default=KEEP, metavar="N",
                        help=f"snapshots that stay: the last N (default {KEEP}) and the best")  # fmt: skip
    parser.add_argument("--tensorboard", action="store_true", help="write the numbers of each epoch for TensorBoard")
    parser.add_argument("--dry_run", action="store_true",
                        help="check data, model, speed, memory and disk by a few steps; write nothing")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0)
    return parser


def main(args: argparse.Namespace) -> dict[str, float]:
    """Train as the paper does: data, model, optimizer, epochs. Returns the last validation's metrics."""
    topk, mark = check_args(args)
    device = pick_device(args.device)
    amp = pick_amp(args.amp, device)
    torch.manual_seed(args.seed)

    # Data
    with distributed.first_before_others():
        source = find_dataset(args.dataset, args.data, ROOT)
    spec = source.spec
    epochs, batch_size, lr = args.epochs or spec.epochs, args.batch_size or spec.batch_size, args.lr or spec.lr
    lr = lr * batch_size / spec.batch_size if args.scale_lr else lr
    train_set = source.dataset("train")  # its transform comes with the epoch
    val_set = source.dataset("val", val_transform(spec))
    check_sizes(batch_size, train_set)
    own_val = distributed.share(len(val_set))
    val_loader = make_loader(val_set, batch_size // distributed.world(), args.workers, device, own_val)

    # Model
    model = build_model(args.arch, len(source.classes), topk)
    fresh = load_pretrained(model, args.finetune) if args.finetune else None
    model.to(device, memory_format=torch.channels_last)
    ks = k_of_epochs(args.k_schedule, topk, epochs)

    # Optimizer and schedule, moved on after each batch
    steps = steps_per_epoch(train_set, batch_size)
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum=spec.momentum, weight_decay=spec.weight_decay)
    scheduler = build_schedule(spec.schedule, optimizer, epochs * steps)
    scaler = torch.amp.GradScaler(device.type, enabled=amp is torch.float16)

    # Where an interrupted run was
    name = run_name(args.arch, mark, source.name)
    snapshots, results = ROOT / settings.SNAPSHOT_ROOT / name, ROOT / settings.RESULT_ROOT / name
    plan = {"epochs": epochs, "batch_size": batch_size, "steps_per_epoch": steps, "lr": lr, "seed": args.seed,
            "k_schedule": args.k_schedule}  # fmt: skip
    first, best = 0, 0.0
    partial: dict[str, Any] = {}
    resume_from, checkpoint, unusable = find_resume(args.resume, snapshots)
    if resume_from:
        first, best, partial = restore(resume_from, checkpoint, plan, model, optimizer, scheduler, scaler)

    step_model: nn.Module = DistributedDataParallel(model) if distributed.world() > 1 else model
    if args.compile:
        step_model = cast(nn.Module, torch.compile(step_model))

    def train_on(loader: DataLoader, epoch: int, sums: Sums, stop: Callable[[], bool] = never) -> dict[str, float]:
        return train_one_epoch(step_model, loader, optimizer, scheduler, device, amp, scaler, epoch, sums, stop)

    with ExitStack() as held:
        if distributed.is_first() and not args.dry_run:
            held.enter_context(alone_in(results))
            remove_leftovers(snapshots)
        held.enter_context(open_log(None if args.dry_run else results, before=first))
        for reason in unusable:
            log.warning("%s: taking the one before", reason)
        log.info("device: %s, %s", describe_device(device), f"autocast to {amp}" if amp else "float32")
        if distributed.world() > 1:
            log.info("processes: %d, with %d pictures of each batch", distributed.world(), val_loader.batch_size)
        log.info(
            "data: %s, %d train, %d val, %d classes", source.folder, len(train_set), len(val_set), len(source.classes)
        )
        log.info("model: %s, %s", args.arch, f"K = {args.k_schedule or topk}" if topk else "dense head")
        log.info("schedule: %d epochs, batch %d, lr %g (%s), seed %d", epochs, batch_size, lr, spec.schedule, args.seed)
        if fresh is not None:
            log.info("weights of %s; freshly initialised: %s", args.finetune, ", ".join(fresh) or "none")
        if resume_from:
            log.info("resumed from %s in epoch %d, step %d", resume_from, first, partial.get("steps", 0))
        if args.dry_run:
            train_set.transform = train_transform(spec)
            sizes = Sizes(batch_size, epochs, args.workers, args.keep)
            return rehearse(train_on, model, train_set, val_set, sizes, device, amp, ROOT)
        write_scalars = None
        if args.tensorboard and distributed.is_first():
            write_scalars = held.enter_context(scalar_writer(results, first))

        def checkpoint_of(epoch: int, sums: dict[str, float], tested: dict[str, float] | None) -> dict:
            """A snapshot's content; `sums` are those of an epoch that is not finished."""
            return {
                "epoch": epoch,
                "best_prec1": best,
                "state_dict": model.state_dict(),
                **metadata(args.arch, ks[epoch], args.k_schedule, source, tested),
                "training": {
                    "plan": plan,
                    "sums": sums,
                    "optimizer": optimizer.state_dict(),
                    "scheduler": scheduler.state_dict(),
                    "scaler": scaler.state_dict(),
                },
            }

        # Epochs
        stop = held.enter_context(noting_sigterm())
        for epoch in range(first, epochs):
            set_k(model, ks[epoch], args.compile)
            train_set.transform = train_transform(spec, half=epoch < round(spec.small_share * epochs))
            done = partial.get("steps", 0)
            sums = Sums(**partial) if distributed.is_first() else Sums(steps=done)  # one of all has what all added up
            partial = {}
            loader = epoch_loader(train_set, batch_size, args.workers, device, args.seed, epoch, done)
            trained = train_on(loader, epoch, sums, stop)
            distributed.same_as_first(model.buffers())  # BatchNorm's: each has those of its own last pictures
            tested, pooled = evaluate_features(model, val_loader, device, amp, stop)
            if distributed.anyone(stop()):
                so_far = asdict(sums.of_all())
                if distributed.is_first():
                    save_snapshot(snapshots / INTERRUPTED, checkpoint_of(epoch, so_far, None))
                distributed.wait()
                raise Terminated(f"saved {shown(snapshots / INTERRUPTED)}; --resume auto goes on from there")
            routes = route_statistics(model, pooled)
            best = max(best, tested["top1"])
            if distributed.is_first():
                # First the line, then the snapshot: a run that is resumed drops the lines of epochs that it does again.
                lines = report_epoch(results, epoch_line(epoch, ks[epoch], trained, tested, routes), epochs)
                if write_scalars:
                    write_scalars(lines[-1])
                save_snapshot(snapshots / f"epoch_{epoch}.pth", checkpoint_of(epoch, {}, tested))
                remove_old_snapshots(snapshots, lines, args.keep)
        if distributed.is_first():
            summarize(lines)
            log.info("newest snapshot: %s", shown(snapshots / f"epoch_{epochs - 1}.pth"))
        return tested


def check_args(args: argparse.Namespace) -> tuple[int | None, str]:
    """K (None for a dense head) and the mark that names the run. Raises UserError for values out of range."""
    check_ranges(args, RANGES)
    if args.lr is not None and not (args.lr > 0 and math.isfinite(args.lr)):
        raise UserError(f"--lr {args.lr}: expected a positive number")
    if args.arch not in MODELS:
        raise UserError(f"--arch {args.arch}: expected one of {', '.join(MODELS)}")
    if args.finetune and args.resume not in (None, "auto"):
        raise UserError("--resume and --finetune: expected one of them")
    for path in (args.finetune, args.resume):
        if path not in (None, "auto") and not os.path.isfile(path):
            raise UserError(f"snapshot {path}: no such file")
    if args.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise UserError("--tensorboard: the package is not installed; `pip install tensorboard` brings it")
    if args.arch.endswith(DKA_SUFFIX):
        topk = parse_mark(args.mark or settings.MARK)
        with torch.device("meta"):  # without weights: only to see that K is in range before any work
            for k in k_of_epochs(args.k_schedule, topk, 2):
                build_model(args.arch, 1, k)
        return topk, mark_of(topk)
    if args.k_schedule:
        raise UserError(f"--k_schedule: {args.arch} has a dense head, without K")
    if args.mark not in (None, DENSE_MARK):
        parse_mark(args.mark)  # a dense head has no K: there the mark only names the run
    return None, args.mark or DENSE_MARK


def check_sizes(batch_size: int, train_set: Sized) -> None:
    """Raises UserError if the processes of the run cannot share the batches."""
    world = distributed.world()
    if batch_size % world:
        raise UserError(f"--batch_size {batch_size}: expected a multiple of {world}, the number of processes")
    if len(train_set) < world:
        raise UserError(f"{len(train_set)} training pictures: expected at least {world}, the number of processes")


def k_of_epochs(schedule: str | None, topk: int | None, epochs: int) -> Sequence[int | None]:
    """K of each epoch; 'linear:50-5' goes evenly from 50 in the first to 5 in the last, rounded to whole numbers.

    Raises:
        UserError: if the schedule is none, or does not end at the mark's K.
    """
    if schedule is None:
        return [topk] * epochs
    match = re.fullmatch(r"linear:([1-9][0-9]{0,8})-([1-9][0-9]{0,8})", schedule)
    if not match:
        raise UserError(f"--k_schedule {schedule}: expected linear:A-B, for example linear:50-5")
    start, end = int(match[1]), int(match[2])
    if end != topk:
        raise UserError(f"--k_schedule {schedule}: it ends at K = {end}, but the mark is {mark_of(topk)}")
    return [round(start + (end - start) * epoch / max(1, epochs - 1)) for epoch in range(epochs - 1)] + [end]


def set_k(model: nn.Module, topk: int | None, compiled: bool) -> None:
    """Let the head choose K votes from now on; what was compiled for another K is dropped."""
    head = head_of(model)
    if isinstance(head, DynamicKLinear) and topk is not None and head.topk != topk:
        head.topk = topk
        if compiled:
            torch.compiler.reset()


def build_schedule(name: str, optimizer: torch.optim.Optimizer, steps: int) -> LRScheduler:
    """'step': lr / 10 every third of the run; 'one_cycle': up for a quarter of it, then down to nothing (cosines)."""
    if name == "step":
        return MultiStepLR(optimizer, [round(steps / 3), round(2 * steps / 3)], gamma=0.1)
    peak = optimizer.param_groups[0]["lr"]
    # One step more than there are batches: the scheduler is also moved on after the last one.
    return OneCycleLR(optimizer, peak, total_steps=steps + 1, pct_start=0.25, cycle_momentum=False)


def metadata(
    arch: str, topk: int | None, k_schedule: str | None, source: DataSource, tested: dict[str, float] | None
) -> dict:
    """What a snapshot says of itself, so that the model can be rebuilt and its classes named without the data."""
    return {
        "arch": arch,
        "topk": topk,
        **({"k_schedule": k_schedule} if k_schedule else {}),
        "num_classes": len(source.classes),
        "classes": list(source.classes),
        "dataset": source.name,
        **({"prec1": tested["top1"], "prec5": tested["top5"]} if tested else {}),
        "torch": str(torch.__version__),
        "torchvision": str(torchvision.__version__),
    }


def route_statistics(model: nn.Module, pooled: Tensor) -> dict[str, float]:
    """How many units the predictions of all processes' validation pictures go through.

    Args:
        model: the network.
        pooled: (V, N) pooled features of this process's pictures.

    Returns:
        units_per_example: mean number of units with a part in the predicted class's score; dead_units: of how many the
        head never took a vote other than zero.
    """
    head = head_of(model)
    topk = getattr(head, "topk", head.in_features)
    times = times_voted(pooled, head.weight.detach().cpu(), predict(head, pooled), topk).numpy()  # (N,)
    count = np.array([len(pooled)])
    distributed.add_up(times, count)
    return {"units_per_example": int(times.sum()) / int(count[0]), "dead_units": int((times == 0).sum())}


def epoch_line(
    epoch: int, topk: int | None, trained: dict[str, float], tested: dict[str, float], routes: dict[str, float]
) -> dict[str, float]:
    """An epoch's line of train.jsonl; K only where there is one."""
    line = {"epoch": epoch, **({"topk": topk} if topk else {}), "lr": trained["lr"],
            "images_per_second": trained["images_per_second"]}  # fmt: skip
    for split, metrics in (("train", trained), ("val", tested)):
        line.update({f"{split}_{name}": metrics[name] for name in ("loss", "top1", "top5")})
    return {name: round(value, 6) for name, value in {**line, **routes}.items()}


def cli() -> None:
    """Parse the command line and train."""
    args = get_args_parser().parse_args()
    with distributed.joined():
        try:
            main(args)
        except NonFiniteLoss as error:
            sys.exit(f"train.py: error: {error}")


if __name__ == "__main__":
    run(cli, "train.py")
