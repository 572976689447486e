"""The DKA head's kernel for CPUs as a PyTorch operator: kernel.cpp, compiled at first use and kept in a cache.

`available()` says whether there is a kernel: it needs a C++ compiler (`CXX`, c++, g++ or clang++), and takes a few
seconds once per machine. `DKA_KERNEL=0` in the environment turns it off. The library lies in
`$XDG_CACHE_HOME/dynamic_k` (by default `~/.cache/dynamic_k`), named by a hash of all that it depends on. Where that
folder cannot be written to, or others can write to it too, every process compiles its own.
"""

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SOURCE = Path(__file__).with_suffix(".cpp")
COMPILERS = ("c++", "g++", "clang++")
# Contracting a product and a sum into one operation would round otherwise than PyTorch does.
FLAGS = ("-O3", "-std=c++17", "-shared", "-fPIC", "-pthread", "-ffp-contract=off", "-march=native")
COMPILE_SECONDS = 60
MAX_NARROW = 1 << 15  # inputs whose positions fit int16

logger = logging.getLogger(__name__)


class _Call(ctypes.Structure):
    """`struct Call` of kernel.cpp."""

    _fields_ = (
        ("B", ctypes.c_int64),
        ("C", ctypes.c_int64),
        ("N", ctypes.c_int64),
        ("K", ctypes.c_int64),
        ("threads", ctypes.c_int64),
        ("pool", ctypes.c_void_p),
    )


# --- compiling ----------------------------------------------------------------------------------------------------


@torch.compiler.assume_constant_result
def available() -> bool:
    """Whether the kernel is there; the first call compiles it, and says once in the log why if it cannot."""
    return _library() is not None


@functools.cache
def _library() -> ctypes.CDLL | None:
    if os.environ.get("DKA_KERNEL") == "0":
        logger.info("DKA head: DKA_KERNEL=0, so PyTorch's operators choose the votes")
        return None
    try:
        return _build()
    except subprocess.CalledProcessError as error:
        reason = f"{error.cmd[0]} failed: {error.stderr.strip().splitlines()[0] if error.stderr else error.returncode}"
    except (OSError, subprocess.SubprocessError, AttributeError) as error:
        reason = str(error)
    logger.warning("DKA head: no compiled kernel (%s); PyTorch's operators choose the votes, more slowly", reason)
    return None


def _build() -> ctypes.CDLL:
    """The library from the cache, or compiled. Raises OSError or a SubprocessError."""
    command = [*_compiler(), *FLAGS]
    if platform.machine() in ("x86_64", "AMD64"):
        command.append("-mprefer-vector-width=512")  # ignored by processors without AVX-512
    name = f"kernel-{_fingerprint(command)}.so"
    with _cache() as folder:
        path = folder / name
        if path.exists():
            try:
                return _load(path)
            except (OSError, AttributeError):  # damaged; made anew
                path.unlink(missing_ok=True)
        descriptor, part = tempfile.mkstemp(prefix=name, dir=folder)
        os.close(descriptor)
        try:
            subprocess.run(
                [*command, str(SOURCE), "-o", part], check=True, capture_output=True, text=True, timeout=COMPILE_SECONDS
            )
            os.replace(part, path)  # whole at once: several processes may compile at the same time
        finally:
            Path(part).unlink(missing_ok=True)
        return _load(path)


def _compiler() -> list[str]:
    for command in [shlex.split(os.environ.get("CXX", "")), *([name] for name in COMPILERS)]:
        found = shutil.which(command[0]) if command else None
        if found:
            return [found, *command[1:]]
    raise FileNotFoundError("no C++ compiler found")


def _fingerprint(command: list[str]) -> str:
    """Of all that the library depends on: source, compiler, flags, PyTorch, processor."""
    version = subprocess.run([command[0], "--version"], check=True, capture_output=True, text=True, timeout=10).stdout
    parts = [SOURCE.read_bytes(), " ".join(command).encode(), version.encode(), torch.__version__.encode()]
    digest = hashlib.sha256()
    for part in [*parts, sys.platform.encode(), platform.machine().encode(), _processor_flags()]:
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()[:32]


def _processor_flags() -> bytes:
    try:
        lines = Path("/proc/cpuinfo").read_bytes().split(b"\n\n")[0].splitlines()
    except OSError:
        return platform.processor().encode()
    return b"\n".join(line for line in lines if line.startswith((b"flags", b"Features", b"model", b"CPU ")))


@contextmanager
def _cache() -> Iterator[Path]:
    """A folder that nobody else can write to, or what is in it could be another's code: the user's, or a new one."""
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dynamic_k"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.lstat()
        private = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o022
        if private and os.access(folder, os.W_OK):
            yield folder
            return
    except (OSError, RuntimeError):  # read-only, full, or no home
        pass
    with tempfile.TemporaryDirectory(prefix="dynamic_k") as own:  # a loaded library outlives its file
        yield Path(own)


def _load(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    pointer, number = ctypes.c_void_p, ctypes.c_int
    library.dka_forward.argtypes = [pointer, pointer, pointer, pointer, number, ctypes.POINTER(_Call)]
    library.dka_backward.argtypes = [pointer, pointer, number, *[pointer] * 4, ctypes.POINTER(_Call)]
    library.dka_forward.restype = library.dka_backward.restype = None
    return library


def _gomp_parallel() -> int | None:
    """Address of the function that runs a task in PyTorch's own threads, where these are GNU OpenMP's."""
    try:
        return ctypes.cast(ctypes.CDLL(None).GOMP_parallel, ctypes.c_void_p).value
    except (AttributeError, OSError, TypeError):
        return None


# OpenMP's threads do not survive a fork: a forked process starts threads of its own.
_POOLS = {os.getpid(): _gomp_parallel()}  # by process


# --- the operator -------------------------------------------------------------------------------------------------


torch.library.define("dynamic_k::sum_of_largest", "(Tensor x, Tensor weight, int topk) -> (Tensor, Tensor)")
torch.library.define(
    "dynamic_k::sum_of_largest_backward",
    "(Tensor grad, Tensor chosen, Tensor x, Tensor weight, bool needs_x, bool needs_weight) -> (Tensor, Tensor)",
)


def sum_of_largest(x: Tensor, weight: Tensor, topk: int) -> Tensor:
    """Sum of each output's K largest votes, by the kernel: x (B, N), weight (C, N), both float32 -> (B, C)."""
    return torch.ops.dynamic_k.sum_of_largest(x, weight, topk)[0]


def sum_of_chosen(x: Tensor, weight: Tensor, chosen: Tensor) -> Tensor:
    """Sum of chosen votes, by PyTorch: x (B, N), weight (C, N), indices of inputs (B, K, C) int64 -> (B, C)."""
    chosen_x = x.gather(1, chosen.flatten(1)).view(chosen.shape)
    chosen_weight = weight.t().gather(0, chosen.flatten(0, 1)).view(chosen.shape)
    return (chosen_x * chosen_weight).sum(1)


def _empty_chosen(x: Tensor, weight: Tensor, topk: int) -> Tensor:
    dtype = torch.int16 if x.shape[1] <= MAX_NARROW else torch.int32
    return x.new_empty(x.shape[0], topk, weight.shape[0], dtype=dtype)


@torch.library.register_fake("dynamic_k::sum_of_largest")
def _(x: Tensor, weight: Tensor, topk: int) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape[0], weight.shape[0]), _empty_chosen(x, weight, topk)


@torch.library.register_fake("dynamic_k::sum_of_largest_backward")
def _empty_gradients(
    grad: Tensor, chosen: Tensor, x: Tensor, weight: Tensor, needs_x: bool, needs_weight: bool
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape if needs_x else 0), weight.new_empty(weight.shape if needs_weight else 0)


@torch.library.impl("dynamic_k::sum_of_largest", "cpu")
def _forward(x: Tensor, weight: Tensor, topk: int) -> tuple[Tensor, Tensor]:
    """Out (B, C), and the chosen indices (B, K, C), in descending order of votes for K <= 32."""
    x, weight = x.contiguous(), weight.contiguous()
    out, chosen = x.new_empty(len(x), len(weight)), _empty_chosen(x, weight, topk)
    tensors = (tensor.data_ptr() for tensor in (x, weight, out, chosen))
    _require().dka_forward(*tensors, chosen.dtype == torch.int32, _describe(x, weight, topk))
    return out, chosen


@torch.library.impl("dynamic_k::sum_of_largest_backward", "cpu")
def _backward(
    grad: Tensor, chosen: Tensor, x: Tensor, weight: Tensor, needs_x: bool, needs_weight: bool
) -> tuple[Tensor, Tensor]:
    """Gradients (B, N) and (C, N), or of no elements where not needed, of the output's (B, C)."""
    grad, chosen, x, weight = (tensor.contiguous() for tensor in (grad, chosen, x, weight))
    grad_x, grad_weight = _empty_gradients(grad, chosen, x, weight, needs_x, needs_weight)
    _require().dka_backward(
        grad.data_ptr(),
        chosen.data_ptr(),
        chosen.dtype == torch.int32,
        x.data_ptr(),
        weight.data_ptr(),
        grad_x.data_ptr() if needs_x else None,
        grad_weight.data_ptr() if needs_weight else None,
        _describe(x, weight, chosen.shape[1]),
    )
    return grad_x, grad_weight


def _require() -> ctypes.CDLL:
    library = _library()
    if library is None:
        raise RuntimeError("dynamic_k::sum_of_largest needs the compiled kernel, which is not available")
    return library


def _describe(x: Tensor, weight: Tensor, topk: int) -> Any:
    call = _Call(len(x), len(weight), x.shape[1], topk, torch.get_num_threads(), _POOLS.get(os.getpid()))
    return ctypes.byref(call)


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:2], output[1])
    ctx.set_materialize_grads(False)  # or `chosen` gets a gradient of zeros


def _differentiate(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
    x, weight, chosen = ctx.saved_tensors
    needs_x, needs_weight, _ = ctx.needs_input_grad
    gradients = torch.ops.dynamic_k.sum_of_largest_backward(grad, chosen, x, weight, needs_x, needs_weight)
    return gradients[0] if needs_x else None, gradients[1] if needs_weight else None, None


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:4])
    ctx.needs = inputs[4:]


def _differentiate_twice(ctx: Any, of_x: Tensor | None, of_weight: Tensor | None) -> tuple[Tensor | None, ...]:
    """The gradients are linear in grad, x and weight each, so theirs are the same sums with one exchanged."""
    grad, chosen, x, weight = ctx.saved_tensors
    of_x = of_x if of_x is not None and ctx.needs[0] else torch.zeros_like(x)
    of_weight = of_weight if of_weight is not None and ctx.needs[1] else torch.zeros_like(weight)
    chosen_long = chosen.long()
    of_grad = sum_of_chosen(of_x, weight, chosen_long) + sum_of_chosen(x, of_weight, chosen_long)
    again = torch.ops.dynamic_k.sum_of_largest_backward(grad, chosen, of_x, of_weight, True, True)
    return of_grad, None, *again, None, None


torch.library.register_autograd("dynamic_k::sum_of_largest", _differentiate, setup_context=_save)
torch.library.register_autograd(
    "dynamic_k::sum_of_largest_backward", _differentiate_twice, setup_context=_save_backward
)
