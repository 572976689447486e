"""The documents: links and anchors lead somewhere, commands parse, the README is short."""

import importlib
import re
import shlex
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pytest
from torch.distributed import run as torchrun

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("", "benchmarks", "data", "docs", "netdissect/dataset", "netdissect/dataset/recipes", "result", "scenes")
DOCUMENTS = sorted(path for folder in (*FOLDERS, "snapshot") for path in (ROOT / folder).glob("*.md"))
PYTHON = r"(?:\.venv/bin/)?python3?"
PARTS = re.compile(r"\s*(?:&&|;|\|\|)\s*")  # commands of one line


class Command(NamedTuple):
    """A command of a document.

    Attributes:
        folder: in which it is to run, relative to the repository.
        words: of the command line.
        mentioned: it is part of a sentence, which may name a program without its arguments.
    """

    folder: str
    words: tuple[str, ...]
    mentioned: bool = False


# --- reading Markdown ---------------------------------------------------------------------------------------------


def split_code(text: str) -> tuple[str, list[str]]:
    """The text without its blocks of code, and the blocks: fenced, or indented by four spaces, or eight in a list."""
    prose, blocks = [], []
    block: list[str] | None = None
    fenced = blank = False
    for line in text.splitlines():
        if line.lstrip().startswith("```"):
            fenced = not fenced
            block = [] if fenced else None
            if block is not None:
                blocks.append(block)
        elif fenced or (line.startswith("    ") and (block is not None or blank)):
            if block is None:
                block = []
                blocks.append(block)
            block.append(line.strip())
        else:
            prose.append(line)
            block = None if line.strip() else block
        blank = not line.strip()
    return "\n".join(prose), ["\n".join(lines) for lines in blocks]


def anchors(text: str) -> set[str]:
    """The anchors of the headings of a document, as GitHub makes them."""
    headings = re.findall(r"^#+ +(.*)$", split_code(text)[0], re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(text: str) -> list[str]:
    """The relative targets of a document's links and images."""
    prose = re.sub(r"`[^`]*`", "", split_code(text)[0])
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", prose) if not re.match(r"[a-z]+:", target)]


def commands(text: str) -> Iterator[Command]:
    """The commands of a document that start a Python program or make, in blocks of code and in backticks."""
    prose, blocks = split_code(text)
    inline = [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose)]
    for block, mentioned in [*((block, False) for block in blocks), *((code, True) for code in inline)]:
        folder = PurePosixPath()
        for line in re.sub(r"<<'END'.*?^END$", "", block, flags=re.S | re.M).replace("\\\n", " ").splitlines():
            for part in PARTS.split(re.sub(r"(^|\s)#.*", "", line).strip()):
                if moved := re.fullmatch(r"cd (\S+)", part):
                    folder = folder.parent if moved[1] == ".." else folder / moved[1]
                elif found := re.search(rf"(?:^|\s)((?:{PYTHON}|torchrun|make) .*)", part):
                    words = tuple(word for word in shlex.split(found[1]) if word != "...")
                    yield Command(str(folder), words, mentioned)


# --- checking commands --------------------------------------------------------------------------------------------


def check_command(command: Command, targets: set[str]) -> None:
    """Raises AssertionError, or what the program's parser raises, if the command cannot be meant as it stands."""
    program, *rest = command.words
    if program == "make":
        assert set(rest) <= targets, f"no target of the Makefile: {rest}"
        return
    if program == "torchrun":
        args = torchrun.get_args_parser().parse_args(rest)
        rest = [args.training_script, *args.training_script_args]
    if rest[0] == "-":
        return
    name, arguments = (rest[1], rest[2:]) if rest[0] == "-m" else (module_name(command.folder, rest[0]), rest[1:])
    spec = find_spec(name)
    assert spec, f"no such module: {name}"
    if is_ours(name) and (arguments or not command.mentioned):
        check_arguments(f"{name}.__main__" if spec.submodule_search_locations else name, arguments)


def module_name(folder: str, script: str) -> str:
    """The module that a script is: `netdissect.main` for main.py in netdissect/."""
    path = ROOT / folder / script
    assert path.is_file(), f"no such file: {folder}/{script}"
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def is_ours(name: str) -> bool:
    """Whether a module is of this project. Of other people's only the name is checked."""
    top = ROOT / name.split(".")[0]
    return top.is_dir() or top.with_suffix(".py").is_file()


def check_arguments(name: str, arguments: list[str]) -> None:
    """Parse the arguments as the module does."""
    module = importlib.import_module(name)
    if hasattr(module, "get_args_parser"):
        module.get_args_parser().parse_args(arguments)
    else:
        assert not arguments, f"{name} takes no arguments"


def make_targets() -> set[str]:
    """The targets of the Makefile that are no files."""
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.M)
    return set(phony[1].split()) if phony else set()


@pytest.fixture(autouse=True)
def from_the_root(monkeypatch):
    """Programs put the repository first on the path when they are imported: keep that within the test."""
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_links_lead_somewhere(path):
    text = path.read_text(encoding="utf-8")
    for link in links(text):
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), f"{link}: no such file"
        assert not anchor or anchor in anchors(target.read_text(encoding="utf-8")), f"{link}: no such heading"


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_commands_parse(path):
    targets = make_targets()
    for command in commands(path.read_text(encoding="utf-8")):
        try:
            check_command(command, targets)
        except (Exception, SystemExit) as error:
            pytest.fail(f"`{' '.join(command.words)}`: {error}")


def test_every_page_of_docs_is_linked_from_the_readme():
    linked = {link.partition("#")[0] for link in links((ROOT / "README.md").read_text(encoding="utf-8"))}
    assert {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")} <= linked


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 900


# --- the checks themselves ----------------------------------------------------------------------------------------

SAMPLE = """# A title, with `code`!

Run `cd netdissect && python3 main.py --topn 3`, or [this](b.md#x) ![image](c.png) [web](https://a.b/c) `[no](link)`.

    cd netdissect      # a comment
    python3 main.py \\
        --topn 3   # another
    cd ..
    OMP_NUM_THREADS=1 torchrun --nproc_per_node=2 train.py --mark t5 ...

- point
  [anchor](#a-title-with-code)
"""


def test_what_is_found_in_a_document():
    assert links(SAMPLE) == ["b.md#x", "c.png", "#a-title-with-code"]
    assert anchors(SAMPLE) == {"a-title-with-code"}
    dissect = Command("netdissect", ("python3", "main.py", "--topn", "3"))
    train = Command(".", ("torchrun", "--nproc_per_node=2", "train.py", "--mark", "t5"))
    assert list(commands(SAMPLE)) == [dissect, train, dissect._replace(mentioned=True)]


@pytest.mark.parametrize(
    "line",
    [
        "python3 train.py --no_such_flag 1",
        "python3 trian.py --mark t5",
        "python3 -m netdissect.no_such_module",
        "python3 -m netdissect.compare one.csv",
        "python3 -m netdissect.broden make",
        "python3 -m experiments.report --quick",
        "torchrun --nproc_per_node=2 train.py --marc t5",
        "make no_such_target",
    ],
)
def test_mistakes_are_found(line):
    (command,) = commands(f"\n    {line}")
    with pytest.raises((Exception, SystemExit)):
        check_command(command, make_targets())
