"""Processes that load and count images: what a run says when the system ends one of them."""

from collections.abc import Iterator
from contextlib import contextmanager

from util.cli import UserError


def is_worker_failure(error: BaseException) -> bool:
    """Whether PyTorch reports by it that a worker process was killed, which it can do at any moment."""
    return isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker (pid")


@contextmanager
def worker_failures() -> Iterator[None]:
    """Within the block, the end of a worker process, or of the memory that it shares, is a UserError."""
    try:
        yield
    except RuntimeError as error:
        lines = str(error).strip().splitlines()
        shared = str(error).startswith("Caught RuntimeError in DataLoader worker") and "torch_" in lines[-1]
        if not (is_worker_failure(error) or shared):
            raise
        reason = lines[-1] if shared else lines[0]
        raise UserError(f"a worker process ended unexpectedly ({reason}); WORKERS = 0 does without them") from error
