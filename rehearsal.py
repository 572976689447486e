"""A dry run of training: what the first steps tell of the whole run, before anything is written."""

import shutil
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, Subset

import distributed
from engine import Sums, evaluate_features
from errors import UserError
from loader.places365 import FashionMNISTFiles, ImageTree, epoch_loader, make_loader, steps_per_epoch
from models.resnet import head_of
from runs import log

try:
    import resource
except ImportError:  # on Windows
    resource = None  # type: ignore[assignment]

STEPS = 3


@dataclass(frozen=True)
class Sizes:
    """Of a run: pictures per step, epochs, processes that read pictures, snapshots that stay beside the best."""

    batch_size: int
    epochs: int
    workers: int
    keep: int


def rehearse(
    train_on: Callable[[DataLoader, int, Sums], dict[str, float]],
    model: nn.Module,
    train_set: ImageTree | FashionMNISTFiles,
    val_set: ImageTree | FashionMNISTFiles,
    sizes: Sizes,
    device: torch.device,
    amp: torch.dtype | None,
    root: Path,
) -> dict[str, float]:
    """A few steps of training and a batch of validation; says what they tell of data, speed, memory and disk.

    Args:
        train_on: trains on the batches of a loader.
        model: the network that it trains.
        train_set: the training pictures with the transform of full size.
        val_set: the validation pictures.
        sizes: of the run.
        device: where the model is.
        amp: autocast type, None for float32.
        root: the folder below which snapshots would be written.

    Returns:
        the metrics of the batch of validation.

    Raises:
        UserError: if the snapshots do not fit on the disk.
    """
    per_class = Counter(int(target) for target in train_set.targets)
    log.info("pictures per class: %d to %d, %d classes without any", min(per_class.values()), max(per_class.values()),
             head_of(model).out_features - len(per_class))  # fmt: skip

    some: Subset = Subset(train_set, range(min(len(train_set), STEPS * sizes.batch_size)))
    sums = Sums()
    train_on(epoch_loader(some, sizes.batch_size, sizes.workers, device, seed=0, epoch=0), 0, sums)
    few = distributed.share(min(len(val_set), sizes.batch_size))
    loader = make_loader(val_set, max(1, len(few)), sizes.workers, device, few)
    tested, _ = evaluate_features(model, loader, device, amp)
    step = sums.seconds / sums.steps
    epoch = step * steps_per_epoch(train_set, sizes.batch_size)
    log.info("speed: %.2f s per step, the mean of the first %d, which are slow: %.2f h per epoch, %.1f h in all",
             step, sums.steps, epoch / 3600, sizes.epochs * epoch / 3600)  # fmt: skip
    log.info("memory: %s", peak_memory(device))

    weights = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    momentum = sum(value.numel() * value.element_size() for value in model.parameters())
    kept, free = sizes.keep + 1, shutil.disk_usage(root).free
    needed = (kept + 1) * (weights + momentum)  # one more while it is written
    log.info("disk: %.1f GB for %d snapshots, %.1f GB are free", needed / 1e9, kept, free / 1e9)
    if needed > free:
        raise UserError(f"{root}: {free / 1e9:.1f} GB are free, {kept} snapshots need {needed / 1e9:.1f} (--keep)")
    log.info("dry run: nothing was written")
    return tested


def peak_memory(device: torch.device) -> str:
    """The most memory that was in use so far, of the GPU or, without one, of this process, in words."""
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        return f"{torch.cuda.max_memory_allocated(device) / 1e9:.1f} of {total / 1e9:.1f} GB on {device}"
    if resource is None:
        return "unknown on this system"
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes there, in KiB elsewhere
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9:.1f} GB"
