"""Compiles kernel.cpp at first use, and keeps the library for later processes.

It needs a C++ compiler (`CXX`, c++, g++ or clang++) once per machine, for a few seconds. The library lies in
`$XDG_CACHE_HOME/dynamic_k` (by default `~/.cache/dynamic_k`), named by a hash of all that it depends on; a process that
finds it there starts no compiler. Where that folder cannot be written to, or others can write to it too, every process
compiles its own. `DKA_KERNEL=0` in the environment turns the kernel off.
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

import torch

from util.cli import UserError
from util.files import atomic_write, lock_folder
from util.text import printable

SOURCE = Path(__file__).with_name("kernel.cpp")
COMPILERS = ("c++", "g++", "clang++")
# Contracting a product and a sum into one operation would round otherwise than PyTorch does.
FLAGS = ("-O3", "-std=c++17", "-shared", "-fPIC", "-pthread", "-ffp-contract=off", "-march=native")
COMPILE_SECONDS = 30

logger = logging.getLogger(__name__)


class Call(ctypes.Structure):
    """`struct Call` of kernel.cpp."""

    _fields_ = (
        ("B", ctypes.c_int64),
        ("C", ctypes.c_int64),
        ("N", ctypes.c_int64),
        ("K", ctypes.c_int64),
        ("threads", ctypes.c_int64),
        ("pool", ctypes.c_void_p),
    )


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled kernel; None where there is none, and then the log has said once why."""
    if disabled():
        logger.info("DKA head: DKA_KERNEL=0, so PyTorch's operators choose the votes")
        return None
    try:
        return build()
    except subprocess.CalledProcessError as error:
        lines = (error.stderr or "").splitlines() or [f"exit code {error.returncode}"]
        reason = f"{error.cmd[0]} failed: {next((line for line in lines if 'error' in line), lines[0])}"
    except (OSError, subprocess.SubprocessError, AttributeError, UserError) as error:
        reason = str(error)
    logger.warning(
        "DKA head: no compiled kernel (%s); PyTorch's operators choose the votes, more slowly", printable(reason)
    )
    return None


def disabled() -> bool:
    """Whether the user wants no kernel, neither of kernel.cpp nor of Triton."""
    return os.environ.get("DKA_KERNEL") == "0"


def build() -> ctypes.CDLL:
    """Load the library from the cache, or compile it.

    Raises:
        OSError, subprocess.SubprocessError, UserError: if there is no compiler, or it fails, or nothing can be written.
    """
    with _cache() as folder:
        path = folder / f"kernel-{_fingerprint()}.so"
        found = _load_own(path)
        if found:
            return found
        command = [*_compiler(), *_flags(), str(SOURCE), "-o"]
        with lock_folder(folder, wait=True):  # one process compiles, the others wait for it
            found = _load_own(path)
            if found:
                return found
            with atomic_write(path) as part:
                subprocess.run(
                    [*command, str(part)], check=True, capture_output=True, text=True, timeout=COMPILE_SECONDS
                )
                part.chmod(0o700)
        return _load(path)


def _compiler() -> list[str]:
    for command in [shlex.split(os.environ.get("CXX", "")), *([name] for name in COMPILERS)]:
        found = shutil.which(command[0]) if command else None
        if found:
            return [found, *command[1:]]
    raise FileNotFoundError("no C++ compiler found")


def _flags() -> list[str]:
    # Compilers prefer half of AVX-512's width; processors without it ignore the second flag.
    return [*FLAGS, *(["-mprefer-vector-width=512"] if platform.machine() in ("x86_64", "AMD64") else [])]


def _fingerprint() -> str:
    """Of all that the library depends on: source, flags, PyTorch, processor."""
    parts = [" ".join(_flags()), torch.__version__, sys.platform, platform.machine(), *_processor_features()]
    digest = hashlib.sha256(SOURCE.read_bytes())
    for part in parts:
        digest.update(hashlib.sha256(part.encode()).digest())
    return digest.hexdigest()[:32]


def _processor_features() -> list[str]:
    """What `-march=native` goes by: a library of another processor may hold instructions that this one lacks."""
    try:
        first = Path("/proc/cpuinfo").read_text(errors="replace").split("\n\n")[0]
    except OSError:
        return [platform.processor()]
    return [line for line in first.splitlines() if line.startswith(("flags", "Features", "model", "CPU "))]


@contextmanager
def _cache() -> Iterator[Path]:
    """The user's folder, if nobody else can write to it, for what is in it is run; otherwise a new one."""
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dynamic_k"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        usable = _is_own(folder.lstat(), stat.S_IFDIR) and os.access(folder, os.W_OK)
    except (OSError, RuntimeError):  # read-only, full, or no home
        usable = False
    if usable:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="dynamic_k") as own:  # a loaded library outlives its file
        yield Path(own)


def _is_own(status: os.stat_result, kind: int) -> bool:
    """Whether it is of that kind, the user's, and only the user's to write."""
    return stat.S_IFMT(status.st_mode) == kind and status.st_uid == os.geteuid() and not status.st_mode & 0o022


def _load_own(path: Path) -> ctypes.CDLL | None:
    """The library, if it is there, the user's own and whole."""
    try:
        return _load(path) if _is_own(path.lstat(), stat.S_IFREG) else None
    except (OSError, AttributeError):
        return None


def _load(path: Path) -> ctypes.CDLL:
    loaded = ctypes.CDLL(str(path))
    pointer, number = ctypes.c_void_p, ctypes.c_int
    loaded.dka_forward.argtypes = [pointer, pointer, pointer, pointer, number, ctypes.POINTER(Call)]
    loaded.dka_backward.argtypes = [pointer, pointer, number, *[pointer] * 4, ctypes.POINTER(Call)]
    loaded.dka_forward.restype = loaded.dka_backward.restype = None
    return loaded


def _gomp_parallel() -> int | None:
    """Address of the function that runs a task in PyTorch's own threads, where these are GNU OpenMP's."""
    try:
        return ctypes.cast(ctypes.CDLL(None).GOMP_parallel, ctypes.c_void_p).value
    except (AttributeError, OSError, TypeError):
        return None


# OpenMP's threads do not survive a fork: a forked process starts threads of its own.
_POOLS = {os.getpid(): _gomp_parallel()}  # by process


def thread_pool() -> int | None:
    """Address of `GOMP_parallel`, if this process can use PyTorch's threads."""
    return _POOLS.get(os.getpid())
