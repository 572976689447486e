"""The files of a training run: its log, a line of numbers per epoch and their curves, snapshots to resume from.

In a run of several processes all of them read these files, and the main one writes them.
"""

import json
import logging
import os
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TypedDict

import torch
import torchvision
from matplotlib.figure import Figure

import settings
from loader.datasets import DataSource
from models.backbones import head_name
from models.slim import slim
from models.snapshot import LARGEST, epoch_of, run_name, save_snapshot, snapshots_of
from training.config import Plan, TrainConfig, k_of_epochs
from training.state import TrainState
from util import distributed
from util.cli import UserError
from util.files import NO_FOLLOW, atomic_write, display_path, lock_folder, regular_file, writing
from util.made_of import MadeOf, differences, read_companion, write_companion
from util.plots import STYLES, save_figure
from util.text import PrintableFormatter

INTERRUPTED = "interrupted.pth"  # the snapshot of a run that was told to stop in mid-epoch
EARLIER = "earlier"  # the folder in a run's own that gets the snapshots of an earlier run of its name
SUMMARY_EPOCHS = 10  # the final summary averages the last ten validations, as the paper reports them

log = logging.getLogger("train")


@dataclass(frozen=True)
class Run:
    """A training run: what it is, and where it writes.

    Attributes:
        config: what was asked for.
        plan: what that came to.
        source: the data set.
        workdir: the folder that gets snapshot/ and result/.
    """

    config: TrainConfig
    plan: Plan
    source: DataSource
    workdir: Path

    @property
    def name(self) -> str:
        """pytorch_{arch}_{mark}_{dataset}."""
        return run_name(self.config.arch, self.config.run_mark, self.source.name)

    @property
    def snapshots(self) -> Path:
        """Folder of its snapshots."""
        return self.workdir / settings.SNAPSHOT_ROOT / self.name

    @property
    def results(self) -> Path:
        """Folder of its log, numbers and curves."""
        return self.workdir / settings.RESULT_ROOT / self.name

    @property
    def interrupted(self) -> Path:
        """The file of a snapshot that was written in mid-epoch."""
        return self.snapshots / INTERRUPTED

    def snapshot(self, epoch: int) -> Path:
        """The file of an epoch's snapshot."""
        return self.snapshots / f"epoch_{epoch}.pth"

    def topk(self, epoch: int) -> int | None:
        """K of an epoch; None for a dense head."""
        return k_of_epochs(self.config.k_schedule, self.config.topk, self.plan.epochs)[epoch]

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Within the block the run's folder is this run's only, and its log is open.

        A dry run logs to the terminal only, and touches no folder.
        """
        with ExitStack() as held:
            if distributed.is_main_process() and not self.config.dry_run:
                held.enter_context(lock_folder(self.results))
                remove_partial_files(self)
            held.enter_context(open_log(None if self.config.dry_run else self.results))
            yield


class EpochRecord(TypedDict, total=False):
    """A line of train.jsonl. Losses are means over images, accuracies per cent.

    Attributes:
        epoch: from 0, as in the names of snapshots; messages and curves count from 1.
        topk: K of the epoch; absent for a dense head.
        lr: of the first batch.
        images_per_second: of training, all processes together.
        train_loss, train_top1, train_top5: of the training crops, during the epoch.
        val_loss, val_top1, val_top5: of the validation images, after it.
        units_per_example: mean number of units with a part in the predicted class's score.
        dead_units: units whose vote the head never chose, or only with the value zero.
    """

    epoch: int
    topk: int
    lr: float
    images_per_second: float
    train_loss: float
    train_top1: float
    train_top5: float
    val_loss: float
    val_top1: float
    val_top5: float
    units_per_example: float
    dead_units: float


# --- snapshots ----------------------------------------------------------------------------------------------------


def save_epoch(run: Run, state: TrainState, tested: dict[str, float]) -> None:
    """Write the snapshot of an epoch's end."""
    accuracy = {"prec1": tested["top1"], "prec5": tested["top5"]}
    save_snapshot(run.snapshot(state.epoch), _snapshot(run, state, accuracy, {}))
    set_aside_later(run, state.epoch + 1)


def save_interrupted(run: Run, state: TrainState, sums: dict[str, float]) -> None:
    """Write the snapshot of a run that stops in mid-epoch; `sums` are the epoch's so far."""
    save_snapshot(run.interrupted, _snapshot(run, state, {}, sums))
    set_aside_later(run, state.epoch)


def set_aside_later(run: Run, epoch: int) -> None:
    """Move the snapshots from `epoch` on, which this run has not reached: an earlier run of its name left them."""
    later = [path for path in snapshots_of(run.snapshots) if epoch_of(path) >= epoch]
    if not later:
        return
    folder = run.snapshots / EARLIER
    with writing(folder / later[0].name):
        folder.mkdir(exist_ok=True)
        for path in later:
            os.replace(path, folder / path.name)
    log.info("moved %d snapshots of an earlier run to %s", len(later), display_path(folder))


def _snapshot(run: Run, state: TrainState, accuracy: dict[str, float], sums: dict[str, float]) -> dict[str, Any]:
    """The weights, what rebuilds the model and names its classes without the data, and what resumes the run."""
    config, classes = run.config, run.source.classes
    content = {
        "epoch": state.epoch,
        "best_prec1": state.best,
        "state_dict": state.model.state_dict(),
        "arch": config.arch,
        **({"head": name} if (name := head_name(state.head, config.arch)) else {}),
        "topk": run.topk(state.epoch),
        **({"k_schedule": config.k_schedule} if config.k_schedule else {}),
        "num_classes": len(classes),
        "classes": list(classes),
        "dataset": run.source.name,
        "size": run.source.spec.size,
        **accuracy,
        "torch": str(torch.__version__),
        "torchvision": str(torchvision.__version__),
        "training": {
            "plan": run.plan.record,
            "amp": str(state.amp),
            "sums": sums,
            "optimizer": state.optimizer.state_dict(),
            "scheduler": state.scheduler.state_dict(),
            "scaler": state.scaler.state_dict(),
        },
    }
    if state.cut is None or not config.slim:
        return content
    digest = run.plan.made_of["finetune"]
    return slim(content, state.cut, digest and (Path(config.finetune).name if config.finetune else "unknown", digest))


def remove_partial_files(run: Run) -> None:
    """Delete the temporary files of a run that was killed while it wrote a snapshot."""
    for path in [*run.snapshots.glob(".epoch_*.pth"), *run.snapshots.glob(f".{Path(INTERRUPTED).stem}-*.pth")]:
        path.unlink()


def remove_old_snapshots(run: Run, epochs: list[EpochRecord], keep: int) -> None:
    """Delete all snapshots of a run but the last `keep` epochs' and the best one.

    To be called at the end of an epoch, when a snapshot from the middle of it is no longer of use.
    """
    newest, best = max(line["epoch"] for line in epochs), best_of(epochs)["epoch"]
    for line in epochs:
        if line["epoch"] <= newest - keep and line["epoch"] != best:
            run.snapshot(line["epoch"]).unlink(missing_ok=True)
    run.interrupted.unlink(missing_ok=True)


# --- numbers ------------------------------------------------------------------------------------------------------


class _LogFile(logging.FileHandler):
    """A log file whose full disk ends the run; logging would print a traceback and continue without."""

    def _open(self) -> TextIOWrapper:
        """Open it, but not through a symbolic link, which may lead anywhere."""
        descriptor = os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND | NO_FOLLOW, 0o666)
        return open(descriptor, "a", encoding=self.encoding)

    def handleError(self, record: logging.LogRecord) -> None:
        with writing(self.baseFilename):
            raise


@contextmanager
def open_log(results: Path | None) -> Iterator[None]:
    """Within the block, log to the terminal and to train.log in the run's folder; without a folder, to the terminal.

    Only the main process of a run logs.
    """
    log.setLevel(logging.INFO if distributed.is_main_process() else logging.CRITICAL)
    log.propagate = False
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stdout)]
    handlers[0].setFormatter(PrintableFormatter())
    if results is not None and distributed.is_main_process():
        if (results / "train.log").exists():
            regular_file(results / "train.log", "log")
        with writing(results / "train.log"):
            handlers.append(_LogFile(results / "train.log", encoding="utf-8"))
        handlers[-1].setFormatter(PrintableFormatter("%(asctime)s %(message)s"))
    for handler in handlers:
        log.addHandler(handler)
    try:
        yield
    finally:
        for handler in handlers:
            log.removeHandler(handler)
            with suppress(OSError):  # of a disk that is full
                handler.close()


def read_epochs(results: Path) -> list[EpochRecord]:
    """The lines of a run's train.jsonl, by epoch; one that was cut short by a crash, or is no record, is skipped."""
    file = results / "train.jsonl"
    epochs: dict[int, EpochRecord] = {}
    for text in file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []:
        with suppress(ValueError, RecursionError):
            line = json.loads(text)
            if _is_record(line):
                epochs[line["epoch"]] = line
    return [epochs[number] for number in sorted(epochs)]


def _is_record(line: Any) -> bool:
    """Whether a line of train.jsonl is an epoch's."""
    if not isinstance(line, dict) or type(line.get("epoch")) is not int or line["epoch"] < 0:
        return False
    needed = EpochRecord.__annotations__.keys() - {"topk"}
    return all(type(line.get(name)) in (int, float) and abs(line[name]) <= LARGEST for name in needed)


def report_epoch(run: Run, line: EpochRecord) -> list[EpochRecord]:
    """Add an epoch's numbers to train.jsonl, draw curves.png, log a line.

    Lines of this epoch and later ones, and of a run of another plan, are dropped: they are of an earlier run.

    Returns:
        all lines of the run.

    Raises:
        UserError: if the results cannot be written.
    """
    file, plan = run.results / "train.jsonl", run.plan.record
    before = [] if _is_of_another_run(file, plan) else read_epochs(run.results)
    lines = [*(earlier for earlier in before if earlier["epoch"] < line["epoch"]), line]
    with atomic_write(file) as temporary:
        temporary.write_text("".join(json.dumps(each) + "\n" for each in lines), encoding="utf-8")
    write_companion(file, plan)
    write_curves(run.results / "curves.png", lines)
    log.info(
        f"{run.plan.epoch_name(line['epoch'])}: loss {line['train_loss']:.3f}, val loss {line['val_loss']:.3f}, "
        f"val top-1 {line['val_top1']:.2f} %, top-5 {line['val_top5']:.2f} %, "
        f"{line['units_per_example']:.1f} units per example, {line['dead_units']:.0f} dead (in no prediction), "
        f"lr {line['lr']:.2g}, "
        f"{line['images_per_second']:.0f} images/s"
    )
    return lines


def _is_of_another_run(file: Path, plan: MadeOf) -> bool:
    """Whether the record beside a file says so; without one that can be read, its origin is unknown."""
    with suppress(UserError):
        made_of = read_companion(file)
        return made_of is not None and bool(differences(made_of, plan))
    return False


def write_curves(path: Path, epochs: list[EpochRecord]) -> None:
    """A run so far: loss, top-1 and top-5 of training and validation, and the learning rate, by epoch.

    Args:
        path: the image file to write.
        epochs: the lines of train.jsonl.
    """
    figure = Figure(figsize=(11, 2.8), layout="constrained", dpi=120)
    keys, titles = ("loss", "top1", "top5", "lr"), ("loss", "top-1, %", "top-5, %", "learning rate")
    table: list[dict[str, Any]] = [dict(line) for line in epochs]
    numbers = [line["epoch"] + 1 for line in table]
    for axis, key, title in zip(figure.subplots(1, 4), keys, titles, strict=True):
        curves = [(key, None)] if key == "lr" else [(f"train_{key}", "training"), (f"val_{key}", "validation")]
        for (name, label), (colour, style) in zip(curves, STYLES, strict=False):
            axis.plot(numbers, [line[name] for line in table], style, color=colour, label=label, markersize=3)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("epoch")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.spines[["top", "right"]].set_visible(False)
        if key == "loss":
            axis.legend(frameon=False, fontsize=8)
    save_figure(figure, path)


@contextmanager
def scalar_writer(results: Path, before: int) -> Iterator[Callable[[EpochRecord], None]]:
    """Yields a function that writes an epoch's numbers for TensorBoard, into the run's tensorboard/.

    Steps are epochs from 1, as people count them. Those after the first `before`, of an earlier start, are dropped.
    """
    from torch.utils.tensorboard import SummaryWriter  # not among the requirements

    with SummaryWriter(str(results / "tensorboard"), purge_step=before + 1) as writer:

        def write(line: EpochRecord) -> None:
            for name, value in line.items():
                if name != "epoch":
                    writer.add_scalar(name, value, line["epoch"] + 1)
            writer.flush()

        yield write


def best_of(epochs: list[EpochRecord]) -> EpochRecord:
    """The epoch of the best top-1, the first of equal ones."""
    return max(epochs, key=lambda line: (line["val_top1"], -line["epoch"]))


def summarize(epochs: list[EpochRecord]) -> None:
    """Log a table of the run: the mean of its last ten validations, the best and the last one."""
    last, best = epochs[-SUMMARY_EPOCHS:], best_of(epochs)
    columns = {
        "top-1, %": "val_top1",
        "top-5, %": "val_top5",
        "loss": "val_loss",
        "units per example": "units_per_example",
        "dead units": "dead_units",
    }
    means = [_mean_and_spread([dict(line)[key] for line in last]) for key in columns.values()]
    rows = {f"mean of the last {len(last)}": means}
    for name, line in (("best", best), ("last", epochs[-1])):
        rows[f"{name} (epoch {line['epoch'] + 1})"] = [f"{dict(line)[key]:.2f}" for key in columns.values()]
    log.info("%20s %s", "validation", " ".join(f"{title:>17}" for title in columns))
    for name, cells in rows.items():
        log.info("%20s %s", name, " ".join(f"{cell:>17}" for cell in cells))
    log.info("dead units have no part in the predicted class's score of any validation image")


def _mean_and_spread(values: list[Any]) -> str:
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread}"
