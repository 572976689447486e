"""The processes of one run: those that torchrun started together, or this one alone.

Every process of a run calls the same functions of this module in the same order; alone, they cost nothing.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

# How long a process waits for the others: the first one may draw a data set or write a report meanwhile.
_PATIENCE = timedelta(hours=12)


def rank() -> int:
    """This process's number in the run, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """Number of processes in the run."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_first() -> bool:
    """Whether this process is the one that speaks and writes files."""
    return rank() == 0


def share(count: int) -> range:
    """Which of `count` things are this process's: every world-th, none of them another's too."""
    return range(rank(), count, world())


@contextmanager
def joined() -> Iterator[None]:
    """Within the block the processes that torchrun started are one run: gloo for CPU tensors, NCCL for GPU tensors.

    Each gets the GPU of its number on its machine, as the current one.
    """
    if not dist.is_torchelastic_launched():
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=_PATIENCE)
    try:
        yield
    finally:
        dist.destroy_process_group()


def everyones(value: Any) -> list[Any]:
    """The values of all processes, in the order of their ranks."""
    if world() == 1:
        return [value]
    values = [None] * world()
    dist.all_gather_object(values, value)
    return values


def anyone(condition: bool) -> bool:
    """Whether it holds in any of the processes."""
    if world() == 1:
        return condition
    held = torch.tensor(int(condition))
    dist.all_reduce(held, dist.ReduceOp.MAX)
    return bool(held)


def same_as_first(tensors: Iterable[Tensor]) -> None:
    """Overwrite the tensors, in place, with those of the first process."""
    if world() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, 0)


def wait() -> None:
    """Until all processes are here."""
    if world() > 1:
        dist.barrier()


@contextmanager
def first_before_others() -> Iterator[None]:
    """The first process runs the block alone, then all others do: what it made is there for them."""
    if not is_first():
        wait()
    yield
    if is_first():
        wait()


def add_up(*arrays: np.ndarray) -> None:
    """Replace arrays of integers, in place, by their sums over all processes."""
    if world() > 1:
        for array in arrays:
            dist.all_reduce(torch.from_numpy(array))
