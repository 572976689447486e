"""Batches: loaders for training, in an order that a resumed run can continue, and for validation."""

import atexit
import math
import multiprocessing
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from util import distributed

_EPOCHS_APART = 100_003  # DistributedSampler shuffles by seed + epoch: runs of two seeds must not share an order


class Samples(Protocol):
    """A data set of a known number of samples."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...


def default_workers() -> int:
    """Up to eight per process, and not more than there are cores for all processes of the machine."""
    return max(1, min(8, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))


def make_loader(
    dataset: Samples, batch_size: int, workers: int, device: torch.device, sampler: Sequence[int] | None = None
) -> DataLoader:
    """Batches of (images (B, 3, H, W), classes (B,)), in the order of `sampler`; None takes all, in their own order.

    The worker processes ignore SIGTERM: a cluster sends it to every process of a job, and the training process may
    need one more batch to finish its step.
    """
    _kill_workers_at_exit()
    return DataLoader(
        cast(Dataset, dataset),
        batch_size,
        sampler=sampler,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        worker_init_fn=_ignore_sigterm,
    )


def _ignore_sigterm(_: int) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


@cache
def _kill_workers_at_exit() -> None:
    """Workers of an epoch that was left midway would otherwise be sent SIGTERM at exit, and waited for."""

    def kill() -> None:
        for child in multiprocessing.active_children():
            if child.daemon:
                child.kill()

    atexit.register(kill)


class Reproducible(Dataset):
    """Samples whose random transforms depend on the seed, the epoch and the sample's index only.

    So an epoch's crops are the same in every process, and wherever in the epoch a run resumes.
    """

    def __init__(self, dataset: Samples, seed: int, epoch: int):
        self._dataset, self._seed, self._epoch = dataset, seed, epoch

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Any:
        (state,) = np.random.SeedSequence((self._seed, self._epoch, index)).generate_state(1)
        with torch.random.fork_rng(devices=()):
            torch.default_generator.manual_seed(int(state))
            return self._dataset[index]


@dataclass(frozen=True)
class LoaderOptions:
    """How training batches are loaded.

    Attributes:
        batch_size: images per step, of all processes of the run together; a multiple of their number.
        workers: loading processes, per process of the run.
        device: where the batches go.
    """

    batch_size: int
    workers: int
    device: torch.device


def epoch_loader(dataset: Samples, options: LoaderOptions, seed: int, epoch: int, start: int = 0) -> DataLoader:
    """This process's training batches of one epoch, shuffled.

    The processes of a run share each batch, so that together they see what one process would see alone. Where the
    images cannot be shared equally, the last few in the epoch's order, different ones each time, are left out.

    Args:
        dataset: the training images with their transform.
        options: batch size, workers, device.
        seed: the run's.
        epoch: from 0; with the seed it determines order and crops.
        start: batches to skip, because a run that was interrupted has trained on them.
    """
    own_batch = options.batch_size // distributed.world_size()
    order: DistributedSampler = DistributedSampler(
        cast(Dataset, dataset),
        distributed.world_size(),
        distributed.rank(),
        seed=_EPOCHS_APART * seed,
        drop_last=True,
    )
    order.set_epoch(epoch)
    own = list(order)[start * own_batch :]
    return make_loader(Reproducible(dataset, seed, epoch), own_batch, options.workers, options.device, own)


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Number of batches of a whole `epoch_loader` over that many images."""
    return math.ceil(images // distributed.world_size() / (batch_size // distributed.world_size()))
