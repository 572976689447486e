"""The files of a training run: its log, a line of numbers per epoch and their curves, snapshots to resume from.

In a run of several processes all of them read these files, and the main one writes them.
"""

import json
import logging
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypedDict

import torch
import torchvision
from matplotlib.figure import Figure

import settings
from loader.datasets import DataSource
from models.backbones import head_name
from models.snapshot import load_state, read_checkpoint, run_name, save_snapshot, snapshots_of
from training.config import Plan, TrainConfig, k_of_epochs
from training.state import TrainState
from util import distributed
from util.cli import UserError
from util.files import atomic_write, lock_folder, writing
from util.plots import STYLES, save_figure

INTERRUPTED = "interrupted.pth"  # the snapshot of a run that was told to stop in mid-epoch
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
    def opened(self, epoch: int) -> Iterator[None]:
        """Within the block the run's folder is this run's only, and its log is open, from `epoch` on.

        A dry run logs to the terminal only, and touches no folder.
        """
        with ExitStack() as held:
            if distributed.is_main_process() and not self.config.dry_run:
                held.enter_context(lock_folder(self.results))
                remove_partial_files(self)
            held.enter_context(open_log(None if self.config.dry_run else self.results, before=epoch))
            yield


class EpochRecord(TypedDict, total=False):
    """A line of train.jsonl. Losses are means over images, accuracies per cent.

    Attributes:
        epoch: from 0.
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


# --- resuming -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Checkpoint:
    """A snapshot to resume from.

    Attributes:
        path: of the file.
        content: of the file.
        unusable: why newer snapshots were not taken.
    """

    path: Path
    content: dict[str, Any]
    unusable: list[str]


def find_resume(resume: str | None, run: Run) -> Checkpoint | None:
    """The snapshot to resume from: the given one, or with 'auto' the run's newest readable one; None: start anew.

    Raises:
        UserError: if there are snapshots, and none can be read.
    """
    if resume is None:
        return None
    if resume != "auto":
        return Checkpoint(Path(resume), read_checkpoint(resume), [])
    paths = [*snapshots_of(run.snapshots), *run.snapshots.glob(INTERRUPTED)]
    unusable: list[str] = []
    for path in sorted(paths, key=lambda path: path.stat().st_mtime_ns, reverse=True):
        try:
            return Checkpoint(path, read_checkpoint(path), unusable)
        except UserError as error:
            unusable.append(str(error))
    if unusable:
        raise UserError(f"--resume auto: none of the {len(unusable)} snapshots can be read; {unusable[0]}")
    return None


def restore(state: TrainState, checkpoint: Checkpoint, plan: Plan) -> dict[str, Any]:
    """Put a state back to where a run was.

    No random state is needed: order and crops of an epoch follow from the seed, and nothing else is random.

    Returns:
        the `Sums`, as a dict, of the epoch's earlier batches; empty at the beginning of an epoch.

    Raises:
        UserError: if the snapshot is not of a run of this plan, or of one that has ended.
    """
    path, content = checkpoint.path, checkpoint.content
    if "training" not in content:
        raise UserError(f"snapshot {path} has no optimizer state to resume from: start from its weights by --finetune")
    training = content["training"]
    parts = ("plan", "sums", "optimizer", "scheduler", "scaler")
    if not isinstance(training, dict) or any(not isinstance(training.get(part), dict) for part in parts):
        raise UserError(f"snapshot {path}: its optimizer state is not one of train.py's")
    wanted, found = asdict(plan), training["plan"]
    other = [key for key in wanted if found.get(key) != wanted[key]]
    if other:
        was, asked = (", ".join(f"{key} {values.get(key)}" for key in other) for values in (found, wanted))
        raise UserError(f"snapshot {path} is of a run with {was}, not {asked}: it cannot be resumed so")
    load_state(state.model, content["state_dict"], path)
    sums = training["sums"]
    state.epoch = content["epoch"] if sums else content["epoch"] + 1
    if state.epoch == plan.epochs:
        raise UserError(f"snapshot {path} is the last of its {plan.epochs} epochs: nothing is left to train")
    state.best = content["best_prec1"]
    fused = [group["fused"] for group in state.optimizer.param_groups]  # by this device, not by the snapshot's
    state.optimizer.load_state_dict(training["optimizer"])
    for group, own in zip(state.optimizer.param_groups, fused, strict=True):
        group["fused"] = own
    state.scheduler.load_state_dict(training["scheduler"])
    state.scaler.load_state_dict(training["scaler"])
    return sums


# --- snapshots ----------------------------------------------------------------------------------------------------


def save_epoch(run: Run, state: TrainState, tested: dict[str, float]) -> None:
    """Write the snapshot of an epoch's end."""
    accuracy = {"prec1": tested["top1"], "prec5": tested["top5"]}
    save_snapshot(run.snapshot(state.epoch), _snapshot(run, state, accuracy, {}))


def save_interrupted(run: Run, state: TrainState, sums: dict[str, float]) -> None:
    """Write the snapshot of a run that stops in mid-epoch; `sums` are the epoch's so far."""
    save_snapshot(run.interrupted, _snapshot(run, state, {}, sums))


def _snapshot(run: Run, state: TrainState, accuracy: dict[str, float], sums: dict[str, float]) -> dict[str, Any]:
    """The weights, what rebuilds the model and names its classes without the data, and what resumes the run."""
    config, classes = run.config, run.source.classes
    return {
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
        **accuracy,
        "torch": str(torch.__version__),
        "torchvision": str(torchvision.__version__),
        "training": {
            "plan": asdict(run.plan),
            "sums": sums,
            "optimizer": state.optimizer.state_dict(),
            "scheduler": state.scheduler.state_dict(),
            "scaler": state.scaler.state_dict(),
        },
    }


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

    def handleError(self, record: logging.LogRecord) -> None:
        with writing(self.baseFilename):
            raise


@contextmanager
def open_log(results: Path | None, before: int = 0) -> Iterator[None]:
    """Within the block, log to the terminal and to train.log in the run's folder; without a folder, to the terminal.

    Lines of train.jsonl from epoch `before` on are removed. Only the main process of a run logs.
    """
    log.setLevel(logging.INFO if distributed.is_main_process() else logging.CRITICAL)
    log.propagate = False
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stdout)]
    if results is not None and distributed.is_main_process():
        lines = [json.dumps(line) + "\n" for line in read_epochs(results) if line["epoch"] < before]
        with atomic_write(results / "train.jsonl") as temporary:
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


def read_epochs(results: Path) -> list[EpochRecord]:
    """The lines of a run's train.jsonl; one that was cut short by a crash is skipped."""
    file, epochs = results / "train.jsonl", []
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else []:
        with suppress(json.JSONDecodeError):
            epochs.append(json.loads(line))
    return epochs


def report_epoch(results: Path, line: EpochRecord, epochs: int) -> list[EpochRecord]:
    """Append an epoch's numbers to train.jsonl, draw curves.png, log a line. Returns all lines of the run."""
    with writing(results / "train.jsonl"), open(results / "train.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    lines = read_epochs(results)
    write_curves(results / "curves.png", lines)
    log.info(
        f"epoch {line['epoch']}/{epochs - 1}: loss {line['train_loss']:.3f}, val loss {line['val_loss']:.3f}, "
        f"val top-1 {line['val_top1']:.2f} %, top-5 {line['val_top5']:.2f} %, "
        f"{line['units_per_example']:.1f} units per example, {line['dead_units']:.0f} dead, lr {line['lr']:.2g}, "
        f"{line['images_per_second']:.0f} images/s"
    )
    return lines


def write_curves(path: Path, epochs: list[EpochRecord]) -> None:
    """A run so far: loss, top-1 and top-5 of training and validation, and the learning rate, by epoch.

    Args:
        path: the image file to write.
        epochs: the lines of train.jsonl.
    """
    figure = Figure(figsize=(11, 2.8), layout="constrained", dpi=120)
    keys, titles = ("loss", "top1", "top5", "lr"), ("loss", "top-1, %", "top-5, %", "learning rate")
    table: list[dict[str, Any]] = [dict(line) for line in epochs]
    numbers = [line["epoch"] for line in table]
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
    """Yields a function that writes an epoch's numbers for TensorBoard, into the run's tensorboard/."""
    from torch.utils.tensorboard import SummaryWriter  # not among the requirements

    with SummaryWriter(str(results / "tensorboard"), purge_step=before) as writer:

        def write(line: EpochRecord) -> None:
            for name, value in line.items():
                if name != "epoch":
                    writer.add_scalar(name, value, line["epoch"])
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
        rows[f"{name} (epoch {line['epoch']})"] = [f"{dict(line)[key]:.2f}" for key in columns.values()]
    log.info("%20s %s", "validation", " ".join(f"{title:>17}" for title in columns))
    for name, cells in rows.items():
        log.info("%20s %s", name, " ".join(f"{cell:>17}" for cell in cells))


def _mean_and_spread(values: list[Any]) -> str:
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread}"
