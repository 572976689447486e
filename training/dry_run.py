"""A dry run of training: what its first steps tell of the whole run, before anything is written."""

import shutil
import sys
from collections import Counter
from pathlib import Path

import torch
from torch.utils.data import Subset

from loader.batches import LoaderOptions, epoch_loader, make_loader
from loader.splits import Images
from training.epoch import Batches, Sums, evaluate_features, train_one_epoch
from training.frozen import Job, first_features
from training.runs import Run, log
from training.state import TrainState
from util import distributed
from util.cli import UserError

try:
    import resource
except ImportError:  # on Windows
    resource = None  # type: ignore[assignment]

STEPS = 3


def dry_run(
    run: Run, state: TrainState, train_set: Images, val_set: Images, options: LoaderOptions, job: Job | None = None
) -> dict[str, float]:
    """Train a few steps, validate a batch, and log what they tell of data, speed, memory and disk.

    Args:
        run: which would write below its workdir.
        state: at the beginning of the run.
        train_set: the training images with the transform of full size.
        val_set: the validation images.
        options: of the loaders.
        job: the outputs of the frozen part, if there is one; those that are needed are computed.

    Returns:
        the metrics of the batch of validation.

    Raises:
        UserError: if the snapshots do not fit on the disk.
    """
    per_class = Counter(int(target) for target in train_set.targets)
    classes = state.head.out_features
    log.info(
        f"images per class: {min(per_class.values())} to {max(per_class.values())}, "
        f"{classes - len(per_class)} classes without any"
    )
    sums, images, val_images = Sums(), STEPS * options.batch_size, min(len(val_set), options.batch_size)
    batches: Batches
    loader: Batches
    if job is None:
        first: Subset = Subset(train_set, range(min(len(train_set), images)))  # type: ignore[arg-type]
        batches = epoch_loader(first, options, seed=0, epoch=0)
        own = distributed.shard(val_images)
        loader = make_loader(val_set, max(1, len(own)), options.workers, state.device, own)
    else:
        features = first_features(job, images, val_images)
        batches, loader = features.epoch_batches(options, seed=0, epoch=0), features.val_batches(options.batch_size)
    train_one_epoch(state, batches, sums)
    tested, _ = evaluate_features(state.trained, loader, state.device, state.amp, head=state.head)
    step = sums.seconds / sums.steps
    hours = step * run.plan.steps_per_epoch / 3600
    log.info(
        f"speed: {step:.2f} s per step, the mean of the first {sums.steps}, which are slow: "
        f"{hours:.2f} h per epoch, {run.plan.epochs * hours:.1f} h in all"
    )
    log.info("memory: %s", peak_memory(state.device))
    check_room(state, run.workdir, run.config.keep)
    log.info("dry run: nothing was written")
    return tested


def check_room(state: TrainState, folder: Path, keep: int) -> None:
    """Raises UserError if the disk of `folder` has no room for the snapshots that a run keeps, beside the best."""
    weights = sum(value.numel() * value.element_size() for value in state.model.state_dict().values())
    momentum = sum(value.numel() * value.element_size() for value in state.optimizer.param_groups[0]["params"])
    existing = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    kept, free = keep + 1, shutil.disk_usage(existing).free
    needed = (kept + 1) * (weights + momentum)  # one more while it is written
    log.info("disk: %.1f GB for %d snapshots, %.1f GB are free", needed / 1e9, kept, free / 1e9)
    if needed > free:
        raise UserError(f"{folder}: {free / 1e9:.1f} GB are free, {kept} snapshots need {needed / 1e9:.1f} (--keep)")


def peak_memory(device: torch.device) -> str:
    """The most memory used so far, of the GPU or, without one, of this process, in words."""
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        return f"{torch.cuda.max_memory_allocated(device) / 1e9:.1f} of {total / 1e9:.1f} GB on {device}"
    if resource is None:
        return "unknown on this system"
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes there, in KiB elsewhere
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9:.1f} GB"
