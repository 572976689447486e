"""Compiling the kernel and keeping it: caches that are shared, damaged, another's or not there; no compiler."""

import logging
import multiprocessing
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
import torch

from models import kernel, kernel_build
from models.dynamic_k import DynamicKLinear

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the kernel is compiled on POSIX systems only")
needs_kernel = pytest.mark.skipif(not kernel.available(), reason="needs a C++ compiler")

# Copies a library made before, more slowly than that would take, and counts.
COMPILER = """#!/bin/sh
echo started >> {count}
sleep 0.3
for last; do :; done
cp {library} "$last"
"""


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache, without compiling anew what is there already; its folder is `cache / 'dynamic_k'`."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("DKA_KERNEL", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def compiler(tmp_path, monkeypatch) -> Path:
    """Stands in for a compiler; the file of its starts is returned."""
    made = Path(kernel_build.library()._name) if kernel.available() else Path()
    if not made.is_file():
        pytest.skip("needs a C++ compiler, and a cache")
    library, count = tmp_path / "library.so", tmp_path / "count"
    shutil.copyfile(made, library)
    command = tmp_path / "compiler"
    command.write_text(COMPILER.format(count=count, library=library))
    command.chmod(0o755)
    monkeypatch.setenv("CXX", str(command))
    count.write_text("")
    return count


def starts(count: Path) -> int:
    return len(count.read_text().splitlines())


def libraries(cache: Path) -> list[Path]:
    return sorted((cache / "dynamic_k").glob("*.so"))


def build_in_a_process(queue):
    kernel_build.build()
    queue.put("built")


def test_compiles_once_for_all_processes(cache, compiler):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [context.Process(target=build_in_a_process, args=(queue,)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    assert starts(compiler) == 1
    (library,) = libraries(cache)
    assert stat.S_IMODE(library.stat().st_mode) == 0o700
    assert stat.S_IMODE(library.parent.stat().st_mode) == 0o700
    assert sorted(path.name for path in library.parent.iterdir()) == [".lock", library.name]


@pytest.mark.parametrize("how", ["cut short", "empty", "writable by others", "a link"])
def test_replaces_what_is_not_its_own_whole_library(cache, compiler, tmp_path, how):
    good = (tmp_path / "library.so").read_bytes()
    library = cache / "dynamic_k" / f"kernel-{kernel_build._fingerprint()}.so"
    library.parent.mkdir(parents=True, mode=0o700)
    if how == "a link":
        library.symlink_to(tmp_path / "library.so")
    else:
        library.write_bytes({"cut short": good[:100], "empty": b""}.get(how, good))
        library.chmod(0o722 if how == "writable by others" else 0o700)
    kernel_build.build()
    assert starts(compiler) == 1
    assert library.read_bytes() == good and not library.is_symlink()
    assert stat.S_IMODE(library.stat().st_mode) == 0o700
    kernel_build.build()
    assert starts(compiler) == 1


@pytest.mark.parametrize("how", ["writable by others", "a file", "a link", "another's"])
def test_a_folder_that_cannot_be_trusted_or_written_to_is_left_alone(cache, compiler, tmp_path, monkeypatch, how):
    folder = cache / "dynamic_k"
    cache.mkdir()
    if how == "a file":
        folder.write_text("")
    elif how == "a link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        folder.symlink_to(tmp_path / "elsewhere")
    else:
        folder.mkdir()
        folder.chmod(0o777 if how == "writable by others" else 0o700)
    if how == "another's":
        own = os.geteuid()
        # the folder is some other user's, what the process makes itself is not
        monkeypatch.setattr(kernel_build, "_is_own", lambda status, kind: kind == stat.S_IFREG and status.st_uid == own)
    before = folder.lstat()
    assert kernel_build.build().dka_forward
    assert starts(compiler) == 1
    assert folder.lstat().st_mode == before.st_mode
    assert how == "a file" or not list(folder.iterdir())


def test_a_cached_library_needs_no_compiler(cache, compiler, monkeypatch):
    kernel_build.build()
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("a process was started"))
    monkeypatch.setattr(shutil, "which", lambda _: None)
    kernel_build.build()


@pytest.mark.parametrize("what", ["processor", "torch", "source", "flags"])
def test_each_kind_of_machine_has_its_own(cache, compiler, tmp_path, monkeypatch, what):
    kernel_build.build()
    if what == "processor":
        monkeypatch.setattr(kernel_build, "_processor_features", lambda: ["flags: another"])
    elif what == "torch":
        monkeypatch.setattr(torch, "__version__", "9.9")
    elif what == "flags":
        monkeypatch.setattr(kernel_build, "FLAGS", ("-O2",))
    else:
        (tmp_path / "kernel.cpp").write_text("another")
        monkeypatch.setattr(kernel_build, "SOURCE", tmp_path / "kernel.cpp")
    kernel_build.build()
    assert len(libraries(cache)) == starts(compiler) == 2


@pytest.fixture
def afresh():
    """`library` forgets what it found, before and after."""
    kernel_build.library.cache_clear()
    yield
    kernel_build.library.cache_clear()


def warned(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_without_a_compiler(cache, afresh, monkeypatch, caplog):
    torch.manual_seed(0)
    layer, x = DynamicKLinear(64, 40, topk=5), torch.randn(30, 64)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CXX", "")
    without = [layer(x), layer(x)]
    line = "DKA head: no compiled kernel (no C++ compiler found); PyTorch's operators choose the votes, more slowly"
    assert warned(caplog) == [line]  # once
    monkeypatch.undo()
    kernel_build.library.cache_clear()
    assert torch.equal(without[0], without[1])
    torch.testing.assert_close(layer(x), without[0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("how", ["fails", "hangs", "makes no library", "is denied"])
def test_with_a_compiler_that_does_not_do_it(cache, afresh, tmp_path, monkeypatch, caplog, how):
    fails = "echo note >&2\necho error: '\033[2Jno such processor' >&2\nexit 1\n"
    command = tmp_path / "compiler"
    command.write_text("#!/bin/sh\n" + {"fails": fails, "hangs": "exec sleep 9\n"}.get(how, "exit 0\n"))
    command.chmod(0o755)
    monkeypatch.setenv("CXX", str(command))
    monkeypatch.setattr(kernel_build, "COMPILE_SECONDS", 0.3)
    if how == "is denied":

        def denied(*_, **__):
            raise PermissionError(1, "no process may be started")

        monkeypatch.setattr(subprocess, "run", denied)
    assert not kernel.available()
    (line,) = warned(caplog)
    assert line.startswith("DKA head: no compiled kernel (") and line.isprintable()
    no_processor, is_denied = r"error: \x1b[2Jno such processor", "no process may be started"
    assert {"fails": no_processor, "hangs": "timed out", "is denied": is_denied}.get(how, "") in line
    assert not libraries(cache) or how == "makes no library"
    torch.testing.assert_close(DynamicKLinear(9, 2, topk=1)(torch.zeros(1, 9)).shape, torch.Size([1, 2]))


def test_turned_off(cache, afresh, monkeypatch, caplog):
    monkeypatch.setenv("DKA_KERNEL", "0")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("a process was started"))
    assert not kernel.available()
    assert not cache.exists() and not warned(caplog)


def layer_in_a_process(queue):
    torch.manual_seed(0)
    layer, x = DynamicKLinear(128, 70, topk=5), torch.randn(130, 128, requires_grad=True)
    layer(x).square().sum().backward()
    queue.put((kernel.available(), layer.weight.grad.sum().item()))


@needs_kernel
def test_in_a_forked_process():
    """Also where the parent has threads, which a fork does not copy."""
    context = multiprocessing.get_context("fork")
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        queue = context.Queue()
        torch.ops.dynamic_k.sum_of_largest(torch.randn(130, 128), torch.randn(70, 128), 5)
        process = context.Process(target=layer_in_a_process, args=(queue,))
        process.start()
        there = queue.get(timeout=100)
        process.join()
        layer_in_a_process(queue)
        assert queue.get(timeout=10) == there
    finally:
        torch.set_num_threads(threads)


@needs_kernel
def test_compiles_here(cache, monkeypatch):
    """The real compiler, from an empty cache, without a warning."""
    monkeypatch.delenv("CXX", raising=False)
    # the intrinsics of GCC 12 are not free of warnings themselves
    strict = ("-Wall", "-Wextra", "-Werror", "-Wno-uninitialized", "-Wno-maybe-uninitialized")
    monkeypatch.setattr(kernel_build, "FLAGS", (*kernel_build.FLAGS, *strict))
    kernel_build.build()
    assert len(libraries(cache)) == 1
