"""Batches: loaders for training, in an order that a resumed run can continue, and for validation."""

import atexit
import errno
import math
import multiprocessing
import re
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only
from torch.utils.data import DataLoader, Dataset, DistributedSampler, default_collate, get_worker_info

from util import distributed
from util.cli import UserError

_EPOCHS_APART = 100_003  # DistributedSampler shuffles by seed + epoch: runs of two seeds must not share an order


class Samples(Protocol):
    """A data set of a known number of samples."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...


def make_loader(
    dataset: Samples, batch_size: int, workers: int, device: torch.device, sampler: Sequence[int] | None = None
) -> DataLoader:
    """Batches of (images (B, 3, H, W), classes (B,)), in the order of `sampler`; None takes all, in their own order.

    Raises:
        UserError: while iterating, if a worker process was killed; and what reading an image raises.
    """
    return Loader(
        dataset,
        batch_size,
        sampler=sampler,
        num_workers=workers,
        pin_memory=device.type == "cuda",
    )


class Loader(DataLoader):
    """torch's DataLoader, with workers that outlive the signals that end a run, and whose own end is a UserError.

    The worker processes ignore SIGTERM and SIGHUP: a cluster sends them to every process of a job, and the training
    process may need one more batch to finish its step.
    """

    def __init__(
        self, dataset: Samples, batch_size: int | None = 1, collate_fn: Callable = default_collate, **options: Any
    ):
        super().__init__(
            cast(Dataset, dataset),
            batch_size,
            collate_fn=_Shared(collate_fn),
            worker_init_fn=_set_signals,
            **options,
        )

    def __iter__(self) -> Any:
        _kill_workers_at_exit()
        with _naming_lost_workers(), _same_handler("SIGCHLD"):
            batches = super().__iter__()
        return _renamed(batches) if self.num_workers else batches


@dataclass(frozen=True)
class _Shared:
    """Collates, and moves tensors to shared memory: torch would do so in a thread, whose failure goes unnoticed."""

    collate: Callable

    def __call__(self, samples: list) -> Any:
        batch = self.collate(samples)
        return batch if get_worker_info() is None else tree_map_only(Tensor, Tensor.share_memory_, batch)


def _renamed(batches: Iterator) -> Iterator:
    with _naming_lost_workers():
        yield from batches


@contextmanager
def _naming_lost_workers() -> Iterator[None]:
    """Turn torch's errors about a worker that was killed, or lacks a resource, within the block into a UserError."""
    try:
        yield
    except (RuntimeError, OSError, EOFError) as error:
        reason = _reason_of_loss(error)
        if reason is None:
            raise
        raise UserError(f"{reason}; try fewer --workers") from error


def _reason_of_loss(error: Exception) -> str | None:
    """What happened to a worker, by the error that the main process gets; None if the error is about something else."""
    text = str(error)
    if re.search("unable to .*shared memory|Bus error", text) and "Too many open files" not in text:
        return "data loading processes have too little shared memory (/dev/shm)"
    if "Too many open files" in text or "items of ancdata" in text:
        return "data loading processes have too many open files (ulimit -n)"
    if isinstance(error, OSError) and error.errno in (errno.EAGAIN, errno.ENOMEM):
        return f"data loading processes cannot be started ({error.strerror})"
    killed = re.search(r"DataLoader worker \(pid.*(is killed by signal|exited unexpectedly)", text)
    # What a worker raises itself is raised here as "Caught ..."; others are about the connection to it.
    cut_off = isinstance(error, (ConnectionError, EOFError)) and not text.startswith("Caught ")
    return "a data loading process was killed (out of memory?)" if killed or cut_off else None


@contextmanager
def _same_handler(name: str) -> Iterator[None]:
    """Restore a signal's handler after the block, in the main thread.

    torch's handler of SIGCHLD raises wherever the main process happens to be, while it saves a snapshot for example.
    Without it, a dead worker is noticed within five seconds where its batch is waited for.
    """
    number = getattr(signal, name, None)  # Windows has no SIGCHLD
    before = None if number is None else signal.getsignal(number)
    yield
    if number is not None and before is not None and threading.current_thread() is threading.main_thread():
        signal.signal(number, before)


def _set_signals(_: int) -> None:
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    for name in ("SIGBUS", "SIGSEGV", "SIGFPE"):  # torch's handlers print a line of their own
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_DFL)


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
    own = epoch_order(len(dataset), options, seed, epoch, start)
    return make_loader(Reproducible(dataset, seed, epoch), own_batch, options.workers, options.device, own)


def epoch_order(count: int, options: LoaderOptions, seed: int, epoch: int, start: int = 0) -> list[int]:
    """The indices of this process's images in the order of an epoch, as `epoch_loader` takes them from `count`."""
    order: DistributedSampler = DistributedSampler(
        cast(Dataset, range(count)),
        distributed.world_size(),
        distributed.rank(),
        seed=_EPOCHS_APART * seed,
        drop_last=True,
    )
    order.set_epoch(epoch)
    return list(order)[start * (options.batch_size // distributed.world_size()) :]


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Number of batches of a whole `epoch_loader` over that many images."""
    return math.ceil(images // distributed.world_size() / (batch_size // distributed.world_size()))
