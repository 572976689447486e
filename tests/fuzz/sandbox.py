"""One program, run in a forked process under limits: time, memory, no other process, no file outside its output.

The forking process has imported everything already, so that a run costs what the program does, not its imports. The
forked one runs the program's own file as `__main__`, so exit codes and what stderr gets are those of a shell. Linux.
"""

import faulthandler
import gc
import io
import json
import os
import resource
import runpy
import select
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MOST_SECONDS = 60.0  # of computing
MOST_WAITING = 20.0  # seconds of sleep without any computing
MOST_MEMORY = 6 << 30  # bytes of address space, beyond what the forking process has
MOST_FILE = 2 << 30  # bytes of any file
MOST_OUTPUT = 1 << 20  # bytes of stdout and of stderr that are looked at
DEVICES = ("/dev/null", "/dev/full", "/dev/tty")  # writing to these changes no file

STARTS = {"subprocess.Popen", "os.exec", "os.posix_spawn", "os.spawn", "os.system", "os.fork", "os.forkpty"}
REACHES = {"socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.bind"}
# Events that change the file system: the places of the paths in their arguments, each with that of its dir_fd.
CHANGES = {
    "os.mkdir": [(0, 2)],
    "os.rmdir": [(0, 1)],
    "os.remove": [(0, 1)],
    "os.rename": [(0, 2), (1, 3)],
    "os.link": [(1, 3)],
    "os.symlink": [(1, 2)],
    "os.truncate": [(0, None)],
    "os.chmod": [(0, 2)],
    "os.chown": [(0, 3)],
    "os.utime": [(0, 3)],
}
FOLLOWING = {"os.truncate", "os.chmod", "os.chown", "os.utime"}  # these change what a link leads to


@dataclass(frozen=True)
class Job:
    """What to run.

    Attributes:
        entry: the program's file, or `package.module`.
        argv: its arguments; surrogates stand for bytes that are not UTF-8.
        writable: folders and files that it may create and change, with all below them.
        cwd: where.
        most_file: bytes of the largest file that it can write.
        reimport: modules, with all below them, that it imports anew: their files are another's than the forking one's.
        streams: 'plain', or what becomes of its output: see `_open_streams`.
    """

    entry: str
    argv: Sequence[str]
    writable: Sequence[Path]
    cwd: Path
    most_file: int = MOST_FILE
    reimport: Sequence[str] = ()
    streams: str = "plain"


@dataclass(frozen=True)
class Outcome:
    """How it ended.

    Attributes:
        code: exit code; minus the signal's number if a signal ended it.
        hung: whether it was killed because it took too long.
        seconds: that it took.
        memory: peak resident size, bytes.
        stdout, stderr: the last `MOST_OUTPUT` bytes.
        violations: what it tried and was denied, one line each.
    """

    code: int
    hung: bool
    seconds: float
    memory: int
    stdout: bytes
    stderr: bytes
    violations: list[str] = field(default_factory=list)


def run(job: Job, home: Path, most_seconds: float = MOST_SECONDS, learn: Callable[[list[str]], None] | None = None):
    """Run a job in a forked process.

    Args:
        job: to run.
        home: a folder for its streams and its temporary files; emptied of those of the last run.
        most_seconds: of computing, after which it is killed.
        learn: gets the names of the modules that were imported during the run.

    Returns:
        its `Outcome`.
    """
    paths = {name: home / name for name in ("stdout", "stderr", "violations", "modules")}
    for path in paths.values():
        path.write_bytes(b"")
    sys.stdout.flush()
    sys.stderr.flush()
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        try:
            _child(job, home, paths, bool(learn))
        finally:
            os._exit(99)  # not reached
    hung = not _ends(child, most_seconds)
    if hung:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGABRT)  # faulthandler prints where it hangs
        if not _ends_within(child, 5):
            os.kill(child, signal.SIGKILL)
    _, status, usage = os.wait4(child, 0)
    seconds = time.monotonic() - start
    violations = paths["violations"].read_text("utf-8", "backslashreplace").splitlines()
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
        violations.append("process: one of its processes was still running when it had ended")
    if learn:
        learn(paths["modules"].read_text().split())
    return Outcome(
        code=os.waitstatus_to_exitcode(status),
        hung=hung,
        seconds=seconds,
        memory=usage.ru_maxrss * 1024,
        stdout=_tail(paths["stdout"]),
        stderr=_tail(paths["stderr"]),
        violations=list(dict.fromkeys(violations)),
    )


def _ends(child: int, most_seconds: float) -> bool:
    """Whether a process ends by itself; not one that computes or sleeps for too long.

    The time it computes is counted, not the time that passes: other processes may have the cores meanwhile.
    """
    spent, since = 0.0, time.monotonic()  # the time it had computed when that last changed, and when that was
    while time.monotonic() - since < MOST_WAITING:
        if _ends_within(child, 1):
            return True
        fields = Path(f"/proc/{child}/stat").read_text().rsplit(") ", 1)[1].split()
        now = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        if now > most_seconds:
            return False
        if now != spent or fields[0] != "S":
            spent, since = now, time.monotonic()
    return False


def _ends_within(child: int, seconds: float) -> bool:
    descriptor = os.pidfd_open(child)
    try:
        return bool(select.select([descriptor], [], [], seconds)[0])
    finally:
        os.close(descriptor)


def _tail(path: Path) -> bytes:
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - MOST_OUTPUT))
        return file.read()


# --- in the forked process ----------------------------------------------------------------------------------------


def _child(job: Job, home: Path, paths: dict[str, Path], learning: bool) -> None:
    os.setsid()
    sys.dont_write_bytecode = True
    known = set(sys.modules)
    channel = os.open(paths["violations"], os.O_WRONLY | os.O_APPEND)
    modules = os.open(paths["modules"], os.O_WRONLY)
    trace = _open_streams(paths, job.streams)
    temporary = home / "tmp"
    temporary.mkdir(exist_ok=True)
    tempfile.tempdir = os.environ["TMPDIR"] = str(temporary)  # the module keeps the place that it found first
    os.chdir(job.cwd)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    faulthandler.enable(trace, all_threads=True)
    for name in [name for name in sys.modules if any(f"{name}.".startswith(f"{top}.") for top in job.reimport)]:
        del sys.modules[name]
    sys.modules.pop(f"{job.entry}.__main__", None)  # it is run, not imported
    own = ("/proc/self/", *DEVICES)
    allowed = [os.path.realpath(place) for place in (*job.writable, temporary)]
    _limit(job.most_file)
    sys.addaudithook(_auditor(channel, allowed, own))
    code = _main(job, trace)
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    if learning:
        os.write(modules, "\n".join(set(sys.modules) - known - {"__main__"}).encode())
    os._exit(code)


def _main(job: Job, trace: Any) -> int:
    """Run the entry as the interpreter would; returns its exit code. `trace` gets what the interpreter prints."""
    sys.argv = [job.entry, *job.argv]
    try:
        if job.entry.endswith(".py"):
            runpy.run_path(job.entry, run_name="__main__")
        else:
            runpy.run_module(job.entry, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return (end.code or 0) & 255
        print(end.code, file=trace, flush=True)
        return 1
    except BaseException as error:  # whatever it is, the interpreter would print it
        with suppress(MemoryError):
            gc.collect()
        traceback.print_exception(error, file=trace)
        trace.flush()
        return 1
    return 0


def _limit(most_file: int) -> None:
    Path("/proc/self/oom_score_adj").write_text("1000")  # if memory runs out all the same, this process goes first
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MOST_MEMORY, size + MOST_MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_file, most_file))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _open_streams(paths: dict[str, Path], kind: str) -> Any:
    """Point the standard streams to files; returns the stream for tracebacks.

    'closed': stdout and stderr are closed; 'full': writing to them fails as on a full disk; 'pipe': nobody reads
    stdout; 'ascii': they encode ASCII only, as under the C locale of old.
    """
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    out, err = (os.open(paths[name], os.O_WRONLY | os.O_APPEND) for name in ("stdout", "stderr"))
    trace = open(os.dup(err), "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    if kind == "full":
        out = err = os.open("/dev/full", os.O_WRONLY)
    elif kind == "pipe":
        unread, out = os.pipe()
        os.close(unread)
    os.dup2(out, 1)
    os.dup2(err, 2)
    encoding = "ascii" if kind == "ascii" else "utf-8"
    files = [open(number, "rb" if number == 0 else "wb", closefd=False) for number in range(3)]  # noqa: SIM115
    sys.stdin, sys.stdout = io.TextIOWrapper(files[0]), io.TextIOWrapper(files[1], encoding)
    sys.stderr = io.TextIOWrapper(files[2], encoding, "backslashreplace", line_buffering=True)
    if kind == "closed":
        os.close(1)
        os.close(2)
    return trace


def _auditor(channel: int, allowed: list[str], devices: Sequence[str]) -> Callable[[str, tuple], None]:
    """An audit hook that notes and denies what a run must not do."""

    def deny(what: str) -> None:
        os.write(channel, (json.dumps(what)[1:-1] + "\n").encode())
        raise PermissionError(1, f"denied by the campaign: {what}")

    def check(event: str, path: Any, directory: Any, follow: bool) -> None:
        if isinstance(path, int):
            return
        place = _real(os.fsdecode(path), directory, follow)
        if event == "os.mkdir" and os.path.lexists(place):
            return  # of a folder that is there already: nothing will happen
        inside = any(place == root or place.startswith(f"{root}/") for root in allowed)
        if not inside and not place.startswith(tuple(devices)):
            deny(f"write: {event} {place}")

    def hook(event: str, arguments: tuple) -> None:
        if event == "open":
            path, _, flags = arguments
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND):
                check("open", path, None, not flags & os.O_NOFOLLOW)
        elif event in CHANGES:
            for place, directory in CHANGES[event]:
                check(event, arguments[place], None if directory is None else arguments[directory], event in FOLLOWING)
        elif event in STARTS:
            deny(f"process: {event} {arguments[0] if arguments else ''}")
        elif event in REACHES:
            deny(f"network: {event}")

    return hook


def _real(path: str, directory: Any, follow: bool) -> str:
    if isinstance(directory, int) and directory >= 0:
        path = os.path.join(os.readlink(f"/proc/self/fd/{directory}"), path)
    if follow:
        return os.path.realpath(path)
    parent, name = os.path.split(os.path.abspath(path))
    return os.path.join(os.path.realpath(parent), name)
