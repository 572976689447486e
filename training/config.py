"""What a training run is asked to do, checked before any work; and the plan that makes a run what it is."""

import importlib.util
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import torch

import settings
from loader.batches import steps_per_epoch
from loader.datasets import Schedule
from models import DENSE_MARK, build_model, has_dynamic_k, mark_of, model_names, parse_mark
from models.backbones import check_arch
from util import distributed
from util.cli import UserError, check_ranges, default_workers
from util.files import regular_file
from util.made_of import MadeOf

RANGES = {
    "size": (16, settings.MOST_SIDE),
    "epochs": (1, 100_000),
    "batch_size": (1, 2**20),
    "workers": (0, settings.MOST_WORKERS),
    "seed": (0, 2**32 - 1),
    "keep": (1, 100_000),
}


@dataclass(frozen=True)
class TrainConfig:
    """The flags of train.py, by the same names; all are optional.

    Attributes:
        mark: 'tK' for a head of K votes, which names the run; a dense head's run is named by it only.
        arch: as `models.build_model` takes it.
        k_schedule: 'linear:A-B', K of the first and of the last epoch; None for a constant K.
        dataset: the name of a data set, or the path of a folder with train/ and val/; None: the default one.
        data: the folder that holds the data sets, or the data set's own; None: data/ of the repository.
        size: side of the network's square input, pixels; None: the data set's own.
        epochs, batch_size, lr: None: the data set's own.
        scale_lr: multiply lr by batch size / the schedule's batch size.
        workers: loading processes, per process of the run.
        device: 'auto', 'cpu', 'cuda' or 'cuda:<number>'.
        amp: 'auto', 'on' or 'off': mixed precision.
        compile: compile the model.
        resume: 'auto' or the path of a snapshot of the same run.
        finetune: the path of weights to start from.
        freeze: the last layer that keeps its weights, or 'trunk' for all but the head; None: all are trained.
            Images are not cropped at random then: they have the validation transform, and half of them are flipped.
        slim: snapshots of a frozen run have no frozen weights, but a reference to them.
        keep: how many snapshots are kept, the newest ones, beside the best.
        tensorboard: write the numbers of each epoch for TensorBoard.
        dry_run: check data, model, speed, memory and disk by a few steps; write nothing.
        seed: of initial weights, order and crops.
    """

    mark: str | None = None
    arch: str = settings.ARCH
    k_schedule: str | None = None
    dataset: str | None = None
    data: str | None = None
    size: int | None = None
    epochs: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    scale_lr: bool = False
    workers: int = field(default_factory=default_workers)
    device: str = "auto"
    amp: str = "auto"
    compile: bool = False
    resume: str | None = None
    finetune: str | None = None
    freeze: str | None = None
    slim: bool = False
    keep: int = settings.KEEP
    tensorboard: bool = False
    dry_run: bool = False
    seed: int = 0

    @property
    def topk(self) -> int | None:
        """K of the mark; None for a dense head. Raises UserError for a mark that names no K."""
        return parse_mark(self.mark or settings.MARK) if has_dynamic_k(self.arch) else None

    @property
    def run_mark(self) -> str:
        """The mark in the run's name."""
        return mark_of(self.topk) if has_dynamic_k(self.arch) else self.mark or DENSE_MARK

    def check(self) -> None:
        """Raises UserError for values out of range, and for those that contradict each other."""
        check_ranges(self, RANGES)
        if self.lr is not None and not (self.lr > 0 and math.isfinite(self.lr)):
            raise UserError(f"--lr {self.lr}: expected a positive number")
        check_arch(self.arch, f"--arch {self.arch}")
        if self.amp not in ("auto", "on", "off"):
            raise UserError(f"--amp {self.amp}: expected auto, on or off")
        if self.finetune and self.resume not in (None, "auto") and not self.freeze:  # a slim snapshot needs both
            raise UserError("--resume and --finetune: expected one of them")
        if self.slim and self.freeze is None:
            raise UserError("--slim: nothing is frozen; it is for runs with --freeze")
        for path in (self.finetune, self.resume):
            if path not in (None, "auto"):
                regular_file(path, "snapshot")
        if self.tensorboard and importlib.util.find_spec("tensorboard") is None:
            raise UserError("--tensorboard: the package is not installed; `pip install tensorboard` brings it")
        self._check_k()

    def _check_k(self) -> None:
        if has_dynamic_k(self.arch):
            for topk in k_of_epochs(self.k_schedule, self.topk, 2):
                if self.arch in model_names():  # other networks are looked over when they are built
                    with torch.device("meta"):  # without weights: only to see that K is in range before any work
                        build_model(self.arch, 1, topk)
        elif self.k_schedule:
            raise UserError(f"--k_schedule: {self.arch} has a dense head, without K")
        elif self.mark not in (None, DENSE_MARK):
            parse_mark(self.mark)  # a dense head has no K: the mark only names the run


@dataclass(frozen=True)
class Plan:
    """What must be the same for a run to be resumed. Snapshots hold it as a flat dict, its `record`.

    Attributes:
        epochs: in all.
        batch_size: images per step, of all processes together.
        steps_per_epoch: training batches.
        lr: largest learning rate.
        seed: of order and crops.
        k_schedule: as in `TrainConfig`.
        made_of: what the run is made of, as of `training.identity.made_of_run`.
    """

    epochs: int
    batch_size: int
    steps_per_epoch: int
    lr: float
    seed: int
    k_schedule: str | None
    made_of: MadeOf = field(default_factory=dict)

    def epoch_name(self, epoch: int) -> str:
        """An epoch as people count: 'epoch 1 of 24' for epoch 0."""
        return f"epoch {epoch + 1} of {self.epochs}"

    @property
    def record(self) -> MadeOf:
        """All of it as one flat dict."""
        numbers = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name != "made_of"}
        return {**numbers, **self.made_of}


def make_plan(config: TrainConfig, schedule: Schedule, images: int) -> Plan:
    """The plan of a run on that many training images, with the data set's values where the config has none.

    Raises:
        UserError: if the processes of the run cannot share the batches.
    """
    batch_size = config.batch_size or schedule.batch_size
    check_shares(batch_size, images)
    lr = config.lr or schedule.lr
    return Plan(
        epochs=config.epochs or schedule.epochs,
        batch_size=batch_size,
        steps_per_epoch=steps_per_epoch(images, batch_size),
        lr=lr * batch_size / schedule.batch_size if config.scale_lr else lr,
        seed=config.seed,
        k_schedule=config.k_schedule,
    )


def check_shares(batch_size: int, images: int) -> None:
    """Raises UserError if the processes of the run cannot share batches, or images, between them."""
    world = distributed.world_size()
    if batch_size % world:
        raise UserError(f"--batch_size {batch_size}: expected a multiple of {world}, the number of processes")
    if images < world:
        raise UserError(f"{images} training images: expected at least {world}, the number of processes")


def k_of_epochs(schedule: str | None, topk: int | None, epochs: int) -> Sequence[int | None]:
    """K of each epoch; 'linear:50-5' goes evenly from 50 in the first to 5 in the last, rounded to whole numbers.

    Raises:
        UserError: if the schedule is malformed, or does not end at the mark's K.
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
