"""The files of a training run: its log, a line of numbers per epoch and their curves, snapshots to go on from.

In a run of several processes all of them read these files, and the first one writes them.
"""

import json
import logging
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

import distributed
from errors import UserError
from files import whole_file, writing
from models.snapshot import load_state, read_checkpoint, snapshots_of
from report.figures import write_curves

INTERRUPTED = "interrupted.pth"  # the snapshot of a run that was told to stop in mid-epoch
SUMMARY_EPOCHS = 10  # the final summary averages the last ten validations, as the paper reports them

log = logging.getLogger("train")


# --- going on -----------------------------------------------------------------------------------------------------


def find_resume(resume: str | None, snapshots: Path) -> tuple[Path | None, dict[str, Any], list[str]]:
    """The snapshot to go on from: the given one, or the one of the run that was written last and can be read.

    Returns:
        its path (None: start anew), its content, and why newer ones were passed over.

    Raises:
        UserError: if there are snapshots, and none can be read.
    """
    if resume is None:
        return None, {}, []
    if resume != "auto":
        return Path(resume), read_checkpoint(resume), []
    paths = [*snapshots_of(snapshots), *snapshots.glob(INTERRUPTED)]
    unusable: list[str] = []
    for path in sorted(paths, key=lambda path: path.stat().st_mtime_ns, reverse=True):
        try:
            return path, read_checkpoint(path), unusable
        except UserError as error:
            unusable.append(str(error))
    if unusable:
        raise UserError(f"--resume auto: none of the {len(unusable)} snapshots can be read; {unusable[0]}")
    return None, {}, []


def restore(
    path: Path,
    checkpoint: dict[str, Any],
    plan: dict[str, Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: LRScheduler,
    scaler: torch.amp.GradScaler,
) -> tuple[int, float, dict[str, Any]]:
    """Put everything back to where a run was.

    No random state is among it: order and crops of an epoch follow from the seed, and nothing else here is random.

    Returns:
        the epoch to go on in, the best top-1 so far, and the `engine.Sums` of that epoch's earlier batches, as a dict;
        empty at an epoch's beginning.

    Raises:
        UserError: if the snapshot is not of such a run, or of one that has ended.
    """
    if "training" not in checkpoint:
        raise UserError(f"snapshot {path} has no optimizer state to resume from: start from its weights by --finetune")
    training = checkpoint["training"]
    if not isinstance(training, dict) or any(
        not isinstance(training.get(part), dict) for part in ("plan", "sums", "optimizer", "scheduler", "scaler")
    ):
        raise UserError(f"snapshot {path}: its optimizer state is not one of train.py's")
    other = {key: training["plan"].get(key) for key in plan if training["plan"].get(key) != plan[key]}
    if other:
        was, wanted = ({key: values.get(key) for key in other} for values in (training["plan"], plan))
        raise UserError(f"snapshot {path} is of a run with {_listed(was)}, not {_listed(wanted)}: it cannot go on so")
    load_state(model, checkpoint["state_dict"], path)
    sums = training["sums"]
    epoch = checkpoint["epoch"] if sums else checkpoint["epoch"] + 1
    if epoch == plan["epochs"]:
        raise UserError(f"snapshot {path} is the last of its {plan['epochs']} epochs: nothing is left to train")
    optimizer.load_state_dict(training["optimizer"])
    scheduler.load_state_dict(training["scheduler"])
    scaler.load_state_dict(training["scaler"])
    return epoch, checkpoint["best_prec1"], sums


def _listed(values: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())


def remove_leftovers(snapshots: Path) -> None:
    """Delete what a run that was killed while it wrote a snapshot left of it."""
    for path in [*snapshots.glob(".epoch_*.pth"), *snapshots.glob(f".{Path(INTERRUPTED).stem}-*.pth")]:
        path.unlink()


def remove_old_snapshots(snapshots: Path, lines: list[dict[str, float]], keep: int) -> None:
    """Delete all snapshots of a run but the last `keep` epochs' and that of the best top-1, the first of equal ones.

    To be called after an epoch's end, when a snapshot of the middle of it has no use any more.
    """
    newest, best = max(line["epoch"] for line in lines), best_of(lines)["epoch"]
    for line in lines:
        if line["epoch"] <= newest - keep and line["epoch"] != best:
            (snapshots / f"epoch_{line['epoch']}.pth").unlink(missing_ok=True)
    (snapshots / INTERRUPTED).unlink(missing_ok=True)


# --- numbers ------------------------------------------------------------------------------------------------------


class _LogFile(logging.FileHandler):
    """A log file whose full disk ends the run; logging would print a traceback, and go on without."""

    def handleError(self, record: logging.LogRecord) -> None:
        with writing(self.baseFilename):
            raise


@contextmanager
def open_log(results: Path | None, before: int = 0) -> Iterator[None]:
    """Within the block, log to the terminal and to train.log in the run's folder; without a folder, to the terminal.

    Of train.jsonl the epochs before this one stay. In all processes of a run but the first nothing is logged.
    """
    log.setLevel(logging.INFO if distributed.is_first() else logging.CRITICAL)
    log.propagate = False
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stdout)]
    if results is not None and distributed.is_first():
        lines = [json.dumps(line) + "\n" for line in read_epochs(results) if line["epoch"] < before]
        with whole_file(results / "train.jsonl") as temporary:
            temporary.write_text("".join(lines), encoding="utf-8")
        handlers.append(_LogFile(results / "train.log", encoding="utf-8"))
        handlers[-1].setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    for handler in handlers:
        log.addHandler(handler)
    try:
        yield
    finally:
        for handler in handlers:
            log.removeHandler(handler)
            with suppress(OSError):  # of a disk that is full
                handler.close()


def read_epochs(results: Path) -> list[dict[str, float]]:
    """The lines of a run's train.jsonl; one that a crash cut short is left out."""
    file, epochs = results / "train.jsonl", []
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else []:
        with suppress(json.JSONDecodeError):
            epochs.append(json.loads(line))
    return epochs


def report_epoch(results: Path, line: dict[str, float], epochs: int) -> list[dict[str, float]]:
    """Append an epoch's numbers to train.jsonl, draw curves.png, say it to people. Returns all lines of the run."""
    with writing(results / "train.jsonl"), open(results / "train.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    lines = read_epochs(results)
    write_curves(results / "curves.png", lines)
    log.info(
        "epoch %d/%d: loss %.3f, val loss %.3f, val top-1 %.2f %%, top-5 %.2f %%, %.1f units per example, %d dead, "
        "lr %.2g, %.0f images/s",
        line["epoch"], epochs - 1, line["train_loss"], line["val_loss"], line["val_top1"], line["val_top5"],
        line["units_per_example"], line["dead_units"], line["lr"], line["images_per_second"],
    )  # fmt: skip
    return lines


@contextmanager
def scalar_writer(results: Path, before: int) -> Iterator[Callable[[dict[str, float]], None]]:
    """What writes an epoch's numbers for TensorBoard, whose package must be there, into the run's tensorboard/."""
    from torch.utils.tensorboard import SummaryWriter  # not among the requirements

    with SummaryWriter(str(results / "tensorboard"), purge_step=before) as writer:

        def write(line: dict[str, float]) -> None:
            for name, value in line.items():
                if name != "epoch":
                    writer.add_scalar(name, value, line["epoch"])
            writer.flush()

        yield write


def best_of(lines: list[dict[str, float]]) -> dict[str, float]:
    """The epoch of the best top-1, the first of equal ones."""
    return max(lines, key=lambda line: (line["val_top1"], -line["epoch"]))


def summarize(lines: list[dict[str, float]]) -> None:
    """A table of the run: its last ten validations, the best and the last one."""
    last, best = lines[-SUMMARY_EPOCHS:], best_of(lines)
    columns = {"top-1, %": "val_top1", "top-5, %": "val_top5", "loss": "val_loss", "units per example":
               "units_per_example", "dead units": "dead_units"}  # fmt: skip
    rows = {f"mean of the last {len(last)}": [_mean_and_spread([line[key] for line in last])
                                              for key in columns.values()]}  # fmt: skip
    for name, line in (("best", best), ("last", lines[-1])):
        rows[f"{name} (epoch {line['epoch']})"] = [f"{line[key]:.2f}" for key in columns.values()]
    log.info("%20s %s", "validation", " ".join(f"{title:>17}" for title in columns))
    for name, cells in rows.items():
        log.info("%20s %s", name, " ".join(f"{cell:>17}" for cell in cells))


def _mean_and_spread(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread}"
