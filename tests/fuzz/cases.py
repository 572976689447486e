"""Cases: one mutated input each, what reads it, and what may come of it. Kinds register their mutations here."""

import os
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ground as grounds
from ground import RUN, TREE, Ground
from sandbox import Job

# What may come of an input:
ANY = "any"  # one line and exit code 2, or results that are finite and agree with themselves
SAME = "same"  # the results of the trusted run
REFUSED = "refused"  # one line and exit code 2
SAME_OR_REFUSED = "same or refused"
OTHERS_SAME = "others same"  # exit code 0, and the results of the images that were not touched are the trusted run's


@dataclass
class Case:
    """One input.

    Attributes:
        ground: the folders.
        number: of the case; with the campaign's seed it determines everything.
        kind: of input.
        rng: of this case.
        name: of the mutation.
        detail: what exactly was done.
        program, argv, writable, options: of the `Job`.
        expect: what may come of it, one of the above.
        trusted: folder of `base` with the results to compare with.
        output: folder of the results; the earlier ones in it must survive a refusal.
        touched: names of files whose results may differ under `OTHERS_SAME`.
        noticed: a part of the one notice by which the report must differ from the trusted one; '': of none.
        held: a file that is open, and locked, during the run.
    """

    ground: Ground
    number: int
    kind: str
    rng: random.Random
    name: str = ""
    detail: str = ""
    program: str = ""
    argv: list[str] = field(default_factory=list)
    writable: list[Path] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    expect: str = ANY
    trusted: str = ""
    output: Path | None = None
    touched: set[str] = field(default_factory=set)
    noticed: str = ""
    held: Any = None

    @property
    def folder(self) -> Path:
        """The case's own folder."""
        return self.ground.case

    @property
    def base(self) -> Path:
        """The valid inputs."""
        return self.ground.base

    def copy(self, name: str) -> Path:
        """A copy of a valid input, file or folder, in the case's folder."""
        source, target = self.base / name, self.folder / Path(name).name
        if source.is_dir():
            shutil.copytree(source, target, symlinks=True)
        else:
            shutil.copyfile(source, target)
        return target

    def note(self, *parts: object) -> None:
        """Add to the detail."""
        self.detail = " ".join([self.detail, *(ascii(part)[:120] for part in parts)]).strip()

    def job(self) -> Job:
        """What to run."""
        return self.ground.job(self.program, self.argv, self.writable, **self.options)

    # --- the programs, on valid inputs but for those that are given -----------------------------------------------

    def demo(
        self,
        *more: str,
        snapshot: Path | str | None = None,
        tally: Path | str | None = None,
        tree: Path | str | None = None,
        own: bool = False,
    ) -> None:
        """demo.py, with an earlier report in its output folder; `own`: of a user's files, which `more` names."""
        snapshot = snapshot or self.base / "weights_1.pth"
        tally = tally or self.base / "dissected_1/tally.csv"
        self.trusted = "own" if own else "pages"
        self._earlier(self.trusted)
        self.program = "demo"
        self.argv = grounds.demo_flags(snapshot, tally, tree or self.base / TREE, self.folder / "out", *more)

    def dissect(self, *more: str, snapshot: Path | str | None = None, broden: Path | str | None = None) -> None:
        """netdissect/main.py, with earlier results in its output folder."""
        self._earlier("dissected")
        self.program, self.trusted = "netdissect", "dissected"
        snapshot, broden = snapshot or self.base / "weights_1.pth", broden or self.base / "broden"
        self.argv = grounds.dissect_flags(snapshot, broden, self.folder / "out", *more)

    def train(self, *more: str, tree: Path | str | None = None, earlier: bool = True) -> None:
        """train.py for one epoch, with an earlier run in the run's folder."""
        if earlier:
            self.run_folder("short")
        self.program, self.trusted = "train", "short"
        self.argv = grounds.train_flags(tree or self.base / TREE, "--epochs", "1", *more)
        self.writable, self.output = self.ground.run_folders(), self.ground.repo / "result"

    def resume(self, *more: str, tree: Path | str | None = None, run: str = "run") -> None:
        """train.py for the second of two epochs of a run of `base`; its folder is as after the first."""
        results, snapshots = self.run_folder(run)
        (snapshots / "epoch_1.pth").unlink()
        lines = (results / "train.jsonl").read_text().splitlines(keepends=True)
        (results / "train.jsonl").write_text(lines[0])
        self.program, self.trusted = "train", run
        self.argv = grounds.train_flags(tree or self.base / TREE, "--epochs", "2", *more)
        self.writable, self.output = self.ground.run_folders(), self.ground.repo / "result"

    def check(self, broden: Path) -> None:
        """`netdissect.broden check`."""
        self.program, self.trusted = "broden", "check"
        self.argv = ["check", str(broden)]

    def build(self, recipe: Path) -> None:
        """`netdissect.broden build`."""
        self.program, self.trusted, self.output = "broden", "built", self.folder / "out"
        self.argv = grounds.build_flags(recipe, self.output)
        self.writable = [self.folder]

    def run_folder(self, name: str) -> tuple[Path, Path]:
        """An earlier run beside the product: (results, snapshots)."""
        snapshots, results = (folder / RUN for folder in self.ground.run_folders())
        shutil.copytree(self.base / name / "snapshot", snapshots, copy_function=os.link)
        shutil.copytree(self.base / name / "result", results)
        return results, snapshots

    def _earlier(self, name: str) -> None:
        self.output = self.folder / "out"
        self.writable = [self.output]
        shutil.copytree(self.base / name, self.output)


Mutation = Callable[[Case], None]
KINDS: dict[str, list[Mutation]] = {}


def mutation(kind: str, times: int = 1) -> Callable[[Mutation], Mutation]:
    """Register a mutation of a kind; `times` as likely as others."""

    def register(function: Mutation) -> Mutation:
        KINDS.setdefault(kind, []).extend([function] * times)
        return function

    return register


def make_case(ground: Ground, seed: int, number: int, order: Sequence[str]) -> Case:
    """The case of a number: its kind by turns, its mutation and all else drawn by seed and number."""
    rng = random.Random(f"{seed}:{number}")
    kind = order[number % len(order)]
    case = Case(ground, number, kind, rng)
    mutate = rng.choice(KINDS[kind])
    case.name = mutate.__name__
    try:
        mutate(case)
    except Exception as error:
        raise RuntimeError(f"input {number} of seed {seed}, {kind}, {case.name}: {case.detail}") from error
    return case


# --- what several kinds need --------------------------------------------------------------------------------------


def flip_bytes(data: bytes, rng: random.Random, most: int = 32) -> bytes:
    """Some bytes set to others."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, most) if data else 0):
        changed[rng.randrange(len(changed))] = rng.choice([0, 255, rng.randrange(256), rng.randrange(256)])
    return bytes(changed)


def spoil_bytes(case: Case, path: Path) -> None:
    """Bytes changed, cut off, added, removed, repeated; all of them zero; none at all."""
    data = path.read_bytes()
    rng = case.rng
    place = rng.randrange(len(data))
    ways = {
        "flip": lambda: flip_bytes(data, rng),
        "flip the beginning": lambda: flip_bytes(data[:256], rng) + data[256:],
        "flip the end": lambda: data[:-512] + flip_bytes(data[-512:], rng),
        "cut": lambda: data[:place],
        "cut the beginning": lambda: data[place:],
        "insert": lambda: data[:place] + rng.randbytes(rng.randint(1, 64)) + data[place:],
        "append": lambda: data + rng.randbytes(rng.randint(1, 4096)),
        "remove": lambda: data[:place] + data[place + rng.randint(1, 64) :],
        "zero a stretch": lambda: data[:place] + bytes(min(512, len(data) - place)) + data[place + 512 :],
        "zeros": lambda: bytes(len(data)),
        "empty": lambda: b"",
        "random": lambda: rng.randbytes(rng.randint(1, 5000)),
        "twice": lambda: data + data,
    }
    way = rng.choice(sorted(ways))
    case.note(way)
    replace_bytes(path, ways[way]())


def replace_bytes(path: Path, data: bytes) -> None:
    """Write a file anew: it may be linked to a valid input."""
    path.unlink(missing_ok=True)
    path.write_bytes(data)


STRANGE_PLACES = ["missing", "folder", "fifo", "socket", "device", "endless", "link to itself", "link nowhere", "link"]


def strange_file(case: Case, path: Path, kinds: Sequence[str] = STRANGE_PLACES) -> str:
    """Put something else in a file's place: nothing, a folder, a FIFO, a device, a link. Returns what."""
    import socket

    kind = case.rng.choice(kinds)
    case.note(kind)
    kept = path.with_name("kept" + path.suffix)
    path.rename(kept)
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(os.path.relpath(path))
    elif kind == "device":
        path.symlink_to("/dev/null")
    elif kind == "endless":
        path.symlink_to("/dev/zero")
    elif kind == "link to itself":
        path.symlink_to(path)
    elif kind == "link nowhere":
        path.symlink_to(case.ground.outside / "nothing")
    elif kind == "link":
        target = case.ground.case / ("elsewhere" + path.suffix)
        kept.rename(target)
        path.symlink_to(target)
    kept.unlink(missing_ok=True)
    return kind


# Values of other types and sizes than the one that belongs there; for JSON-like content of snapshots.
STRANGE_VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    -1,
    -5,
    2,
    3,
    100,
    10**6,
    10**12,
    2**63,
    -(2**63),
    10**40,
    0.0,
    1.5,
    -0.5,
    1e308,
    float("nan"),
    float("inf"),
    float("-inf"),
    "",
    "5",
    "x",
    "nan",
    "\x1b[31mred\x1b[0m",
    "a\nb",
    "../../x",
    "/etc/x",
    "\x00",
    "\udce9",
    "$x$",
    "<script>alert(1)</script>",
    "x" * 300,
    "é",
    [],
    [1],
    ["a"],
    [[]],
    {},
    {"a": 1},
    {1: 2},
    (),
    (1, 2),
    b"bytes",
]
# Names of classes, files and labels that are legal, and hostile.
STRANGE_NAMES = [
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07",
    "a\nb",
    "a\tb",
    "a\rb",
    "$x^{2$",
    "$\\frac{1}{",
    "100 %",
    "%s%n",
    "{x}",
    "<script>alert(1)</script>",
    "\"><img src=x onerror='1'>",
    "&amp;",
    "a'b\"c",
    "é",
    "日本",
    "\u202eabc",
    "\u2028",
    "\x85",
    "x" * 200,
    " ",
    " a ",
    ".",
    "-",
    "--help",
    "a;b",
    "a,b",
    "'",
    "None",
    "nan",
    "0",
    "con",
    "aux.txt",
    "a\\b",
    "~",
    "*",
    "?",
    "[a]",
    "\ufeffa",
    "\udce9",
    "\x7f",
    "\x9b31m",
    "`id`",
    "$(id)",
    "|",
    "#",
    "a:b",
]
