"""The processes of one run: those that torchrun started together, or this one alone.

Every process of a run calls the same functions of this module in the same order; in a run of one process they cost
nothing. They have the names and meanings of `torch.distributed`.
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

# How long a process waits for the others: the main process may render a data set or write a report meanwhile.
_TIMEOUT = timedelta(hours=12)


def rank() -> int:
    """This process's number in the run, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes in the run."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main_process() -> bool:
    """Whether this process has rank 0: the one that logs and writes files."""
    return rank() == 0


def shard(count: int) -> range:
    """This process's share of `count` items: every world_size-th, disjoint from the other processes' shares."""
    return range(rank(), count, world_size())


@contextmanager
def process_group() -> Iterator[None]:
    """Within the block the processes that torchrun started form a group: gloo for CPU tensors, NCCL for GPU tensors.

    Each process's current GPU is the one of its local rank. Without torchrun, nothing happens.
    """
    if not dist.is_torchelastic_launched():
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=_TIMEOUT)
    try:
        yield
    finally:
        dist.destroy_process_group()


def all_gather(value: Any) -> list[Any]:
    """The values of all processes, by rank."""
    if world_size() == 1:
        return [value]
    values = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def any_process(condition: bool) -> bool:
    """Whether the condition is true in any process."""
    if world_size() == 1:
        return condition
    flag = torch.tensor(int(condition))
    dist.all_reduce(flag, dist.ReduceOp.MAX)
    return bool(flag)


def broadcast(tensors: Iterable[Tensor]) -> None:
    """Overwrite the tensors, in place, with the main process's."""
    if world_size() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, 0)


def barrier() -> None:
    """Wait until all processes are here."""
    if world_size() > 1:
        dist.barrier()


@contextmanager
def main_process_first() -> Iterator[None]:
    """Run the block in the main process, then in the others: they find what it made."""
    if not is_main_process():
        barrier()
    yield
    if is_main_process():
        barrier()


def all_reduce(*arrays: np.ndarray) -> None:
    """Replace arrays, in place, by their sums over all processes."""
    if world_size() > 1:
        for array in arrays:
            dist.all_reduce(torch.from_numpy(array))
