"""Train a ResNet with a Dynamic-K Activation head (or a dense one), on CPU or GPU.

    python3 train.py --mark t5                                  # ResNet-d5a on Places365, or on the embedded scenes
    python3 train.py --mark t5 --dataset mini_places            # the embedded scenes, 24 epochs
    python3 train.py --mark t10 --arch resnet50_fc_ma           # ResNet-50, K = 10
    python3 train.py --mark dense --arch resnet18               # the baseline with a dense head
    python3 train.py --mark t5 --dataset /path/to/tree          # any folder with train/<class>/ and val/<class>/
    python3 train.py --mark t5 --resume auto                    # go on from the newest snapshot of this run
    python3 train.py --mark t5 --finetune resnet18-f37072fd.pth # start from torchvision's ImageNet weights

Writes snapshot/pytorch_{arch}_{mark}_{dataset}/epoch_{n}.pth, and train.jsonl (a line per epoch), curves.png and
train.log into result/pytorch_{arch}_{mark}_{dataset}/. The last epochs' snapshots and the best one stay (--keep).
"""

import argparse
import json
import logging
import math
import os
import statistics
import sys
from contextlib import suppress
from pathlib import Path

import torch
import torchvision
from torch import nn
from torch.optim.lr_scheduler import LRScheduler, MultiStepLR, OneCycleLR

import settings
from engine import NonFiniteLoss, describe_device, evaluate, pick_amp, pick_device, train_one_epoch
from errors import ArgumentParser, UserError, run
from files import alone_in, shown, whole_file
from loader.places365 import DataSource, find_dataset, make_loader, train_transform, val_transform
from models import MODELS, build_model, mark_of, parse_mark, run_name
from models.resnet import DENSE_MARK, DKA_SUFFIX
from models.snapshot import load_pretrained, load_state, read_checkpoint, save_snapshot, snapshots_of
from report.figures import write_curves

ROOT = Path(__file__).resolve().parent
KEEP = 10  # snapshots of a run that stay, beside the best
SUMMARY_EPOCHS = 10  # the final summary averages the last ten validations, as the paper reports them

log = logging.getLogger("train")


def get_args_parser() -> ArgumentParser:
    """The command line; a default of None is taken from the data set's schedule in settings.py."""
    parser = ArgumentParser(__doc__)
    parser.add_argument("--mark", help=f"tK: keep the K largest votes per class (default {settings.MARK}); "
                        f"{DENSE_MARK} for a dense head")  # fmt: skip
    parser.add_argument("--arch", default=settings.ARCH, help=f"one of {', '.join(MODELS)}")
    parser.add_argument("--dataset", help=f"{', '.join(settings.DATASETS)}, or a folder with train/ and val/")
    parser.add_argument("--data", help="folder that holds the data sets, or the data set's own (default data/)")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--batch_size", type=int)
    parser.add_argument("--lr", type=float, help="the largest learning rate")
    parser.add_argument("--workers", type=int, default=min(8, os.cpu_count() or 1), help="processes that read pictures")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:<number>")
    parser.add_argument("--amp", default="auto", choices=["auto", "on", "off"], help="mixed precision")
    parser.add_argument("--compile", action="store_true", help="torch.compile the model")
    parser.add_argument("--resume", metavar="auto|PTH", help="go on from the newest, or from this snapshot")
    parser.add_argument("--finetune", metavar="PTH", help="start from these weights: a snapshot, or torchvision's")
    parser.add_argument("--keep", type=int, default=KEEP, metavar="N",
                        help=f"snapshots that stay: the last N (default {KEEP}) and the best")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0)
    return parser


def main(args: argparse.Namespace) -> dict[str, float]:
    """Train as the paper does: data, model, optimizer, epochs. Returns the last validation's metrics."""
    topk, mark = check_args(args)
    device = pick_device(args.device)
    amp = pick_amp(args.amp, device)
    torch.manual_seed(args.seed)

    # Data
    source = find_dataset(args.dataset, args.data, ROOT)
    spec = source.spec
    epochs, batch_size, lr = args.epochs or spec.epochs, args.batch_size or spec.batch_size, args.lr or spec.lr
    train_set = source.dataset("train")  # its transform comes with the epoch
    val_set = source.dataset("val", val_transform(spec))
    train_loader = make_loader(train_set, batch_size, args.workers, device, shuffle=True)
    val_loader = make_loader(val_set, batch_size, args.workers, device)

    # Model
    model = build_model(args.arch, len(source.classes), topk)
    fresh = load_pretrained(model, args.finetune) if args.finetune else None
    model.to(device, memory_format=torch.channels_last)

    # Optimizer and schedule, moved on after each batch
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum=spec.momentum, weight_decay=spec.weight_decay)
    scheduler = build_schedule(spec.schedule, optimizer, epochs * len(train_loader))
    scaler = torch.amp.GradScaler(device.type, enabled=amp is torch.float16)

    name = run_name(args.arch, mark, source.name)
    snapshots, results = ROOT / settings.SNAPSHOT_ROOT / name, ROOT / settings.RESULT_ROOT / name
    first, best = 0, 0.0
    resume_from, unusable = find_resume(args.resume, snapshots)
    plan = {"epochs": epochs, "steps_per_epoch": len(train_loader)}
    if resume_from:
        first, best = resume(resume_from, plan, model, optimizer, scheduler, scaler)

    with alone_in(results):
        remove_leftovers(snapshots)
        open_log(results, before=first)
        for reason in unusable:
            log.warning("%s: taking the one before", reason)
        log.info("device: %s, %s", describe_device(device), f"autocast to {amp}" if amp else "float32")
        log.info(
            "data: %s, %d train, %d val, %d classes", source.folder, len(train_set), len(val_set), len(source.classes)
        )
        log.info("model: %s, %s", args.arch, f"K = {topk}" if topk else "dense head")
        log.info("schedule: %d epochs, batch %d, lr %g (%s), seed %d", epochs, batch_size, lr, spec.schedule, args.seed)
        if fresh is not None:
            log.info("weights of %s; freshly initialised: %s", args.finetune, ", ".join(fresh) or "none")
        if resume_from:
            log.info("resumed from %s after epoch %d", resume_from, first - 1)

        # Epochs
        step_model = torch.compile(model) if args.compile else model
        history = []
        for epoch in range(first, epochs):
            # Order and crops are those of this epoch, whether or not the run was resumed.
            torch.manual_seed(args.seed * 100_003 + epoch)
            train_set.transform = train_transform(spec, half=epoch < round(spec.small_share * epochs))
            trained = train_one_epoch(step_model, train_loader, optimizer, scheduler, device, amp, scaler, epoch)
            tested = evaluate(step_model, val_loader, device, amp)
            best = max(best, tested["top1"])
            history.append(tested)
            # First the line, then the snapshot: a run that is resumed drops the lines of epochs that it does again.
            report_epoch(results / "train.jsonl", epoch, epochs, trained, tested)
            save_snapshot(
                snapshots / f"epoch_{epoch}.pth",
                {
                    "epoch": epoch,
                    "best_prec1": best,
                    "state_dict": model.state_dict(),
                    **metadata(args.arch, topk, source, tested),
                    "training": {
                        "plan": plan,
                        "optimizer": optimizer.state_dict(),
                        "scheduler": scheduler.state_dict(),
                        "scaler": scaler.state_dict(),
                    },
                },
            )
            lines = read_epochs(results / "train.jsonl")
            write_curves(results / "curves.png", lines)
            remove_old_snapshots(snapshots, lines, args.keep)
        summarize(history, best, snapshots / f"epoch_{epochs - 1}.pth")
        return history[-1]


def check_args(args: argparse.Namespace) -> tuple[int | None, str]:
    """K (None for a dense head) and the mark that names the run. Raises UserError for values out of range."""
    for name, lowest in (("epochs", 1), ("batch_size", 1), ("workers", 0), ("seed", 0), ("keep", 1)):
        value = getattr(args, name)
        if value is not None and value < lowest:
            raise UserError(f"--{name} {value}: expected at least {lowest}")
    if args.lr is not None and not (args.lr > 0 and math.isfinite(args.lr)):
        raise UserError(f"--lr {args.lr}: expected a positive number")
    if args.arch not in MODELS:
        raise UserError(f"--arch {args.arch}: expected one of {', '.join(MODELS)}")
    if args.resume and args.finetune:
        raise UserError("--resume and --finetune: expected one of them")
    if args.arch.endswith(DKA_SUFFIX):
        topk = parse_mark(args.mark or settings.MARK)
        with torch.device("meta"):  # without weights: only to see that K is in range before any work
            build_model(args.arch, 1, topk)
        return topk, mark_of(topk)
    if args.mark not in (None, DENSE_MARK):
        parse_mark(args.mark)  # a dense head has no K: there the mark only names the run
    return None, args.mark or DENSE_MARK


def build_schedule(name: str, optimizer: torch.optim.Optimizer, steps: int) -> LRScheduler:
    """'step': lr / 10 every third of the run; 'one_cycle': up for a quarter of it, then down to nothing (cosines)."""
    if name == "step":
        return MultiStepLR(optimizer, [round(steps / 3), round(2 * steps / 3)], gamma=0.1)
    peak = optimizer.param_groups[0]["lr"]
    # One step more than there are batches: the scheduler is also moved on after the last one.
    return OneCycleLR(optimizer, peak, total_steps=steps + 1, pct_start=0.25, cycle_momentum=False)


def metadata(arch: str, topk: int | None, source: DataSource, tested: dict[str, float]) -> dict:
    """What a snapshot says of itself, so that the model can be rebuilt and its classes named without the data."""
    return {
        "arch": arch,
        "topk": topk,
        "num_classes": len(source.classes),
        "classes": list(source.classes),
        "dataset": source.name,
        "prec1": tested["top1"],
        "prec5": tested["top5"],
        "torch": str(torch.__version__),
        "torchvision": str(torchvision.__version__),
    }


def find_resume(resume: str | None, snapshots: Path) -> tuple[Path | None, list[str]]:
    """The snapshot to go on from: the given one, or the newest of the run that can be read (None if there is none).

    Returns:
        its path, and why newer ones were passed over.
    """
    if resume != "auto":
        return (Path(resume) if resume else None), []
    unusable = []
    for path in snapshots_of(snapshots):
        try:
            read_checkpoint(path)
        except UserError as error:
            unusable.append(str(error))
        else:
            return path, unusable
    if unusable:
        raise UserError(f"--resume auto: none of the {len(unusable)} snapshots can be read; {unusable[0]}")
    return None, []


def resume(
    path: Path,
    plan: dict[str, int],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: LRScheduler,
    scaler: torch.amp.GradScaler,
) -> tuple[int, float]:
    """Restore everything from a snapshot; returns the next epoch and the best top-1 so far."""
    checkpoint = read_checkpoint(path)
    if "training" not in checkpoint:
        raise UserError(f"snapshot {path} has no optimizer state to resume from: start from its weights by --finetune")
    load_state(model, checkpoint["state_dict"], path)
    training = checkpoint["training"]
    if training["plan"] != plan:
        raise UserError(f"snapshot {path} is of a run of {training['plan']}, not {plan}: its schedule cannot go on")
    if checkpoint["epoch"] + 1 == plan["epochs"]:
        raise UserError(f"snapshot {path} is the last of its {plan['epochs']} epochs: nothing is left to train")
    optimizer.load_state_dict(training["optimizer"])
    scheduler.load_state_dict(training["scheduler"])
    scaler.load_state_dict(training["scaler"])
    return checkpoint["epoch"] + 1, checkpoint["best_prec1"]


def open_log(results: Path, before: int) -> None:
    """Log to the terminal and to train.log in the run's folder; of train.jsonl the epochs before this one stay."""
    results.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(line) + "\n" for line in read_epochs(results / "train.jsonl") if line["epoch"] < before]
    with whole_file(results / "train.jsonl") as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")
    log.setLevel(logging.INFO)
    log.propagate = False
    for handler in list(log.handlers):
        log.removeHandler(handler)
        handler.close()
    log.addHandler(logging.StreamHandler(sys.stdout))
    log.addHandler(logging.FileHandler(results / "train.log", encoding="utf-8"))
    log.handlers[1].setFormatter(logging.Formatter("%(asctime)s %(message)s"))


def report_epoch(file: Path, epoch: int, epochs: int, trained: dict[str, float], tested: dict[str, float]) -> None:
    """Append the epoch's line to train.jsonl and say it to people."""
    line = {"epoch": epoch, "lr": trained["lr"], "images_per_second": trained["images_per_second"]}
    for split, metrics in (("train", trained), ("val", tested)):
        line.update({f"{split}_{name}": metrics[name] for name in ("loss", "top1", "top5")})
    with open(file, "a", encoding="utf-8") as lines:
        lines.write(json.dumps({name: round(value, 6) for name, value in line.items()}) + "\n")
    log.info(
        "epoch %d/%d: loss %.3f, val loss %.3f, val top-1 %.2f %%, top-5 %.2f %%, lr %.2g, %.0f images/s",
        epoch, epochs - 1, trained["loss"], tested["loss"], tested["top1"], tested["top5"], trained["lr"],
        trained["images_per_second"],
    )  # fmt: skip


def read_epochs(file: Path) -> list[dict[str, float]]:
    """The lines of train.jsonl; one that a crash cut short is left out."""
    epochs = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else []:
        with suppress(json.JSONDecodeError):
            epochs.append(json.loads(line))
    return epochs


def remove_leftovers(snapshots: Path) -> None:
    """Delete what a run that was killed while it wrote a snapshot left of it."""
    for path in snapshots.glob(".epoch_*.pth"):
        path.unlink()


def remove_old_snapshots(snapshots: Path, lines: list[dict[str, float]], keep: int) -> None:
    """Delete all snapshots of a run but the last `keep` epochs' and that of the best top-1, the first of equal ones."""
    newest = max(line["epoch"] for line in lines)
    best = max(lines, key=lambda line: (line["val_top1"], -line["epoch"]))["epoch"]
    for line in lines:
        if line["epoch"] <= newest - keep and line["epoch"] != best:
            (snapshots / f"epoch_{line['epoch']}.pth").unlink(missing_ok=True)


def summarize(history: list[dict[str, float]], best: float, newest: Path) -> None:
    """The last ten validations, and where the model is."""
    last = history[-SUMMARY_EPOCHS:]
    for name, key in (("top-1", "top1"), ("top-5", "top5")):
        values = [metrics[key] for metrics in last]
        spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
        log.info("val %s over the last %d epochs: %.2f%s %%", name, len(values), statistics.mean(values), spread)
    log.info("best top-1: %.2f %%; newest snapshot: %s", best, shown(newest))


def cli() -> None:
    """Parse the command line and train."""
    try:
        main(get_args_parser().parse_args())
    except NonFiniteLoss as error:
        sys.exit(f"train.py: error: {error}")


if __name__ == "__main__":
    run(cli, "train.py")
