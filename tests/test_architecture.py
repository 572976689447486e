"""docs/ARCHITECTURE.md: its code runs, its tree is the tree, and imports point the way it says."""

import ast
import doctest
import re
from pathlib import Path

import pytest
from conftest import ROOT, write_tree

from loader import datasets
from models import dynamic_k, heads, resnets

PAGE = ROOT / "docs" / "ARCHITECTURE.md"
# In the order of imports: each may import those before it, and itself.
ROOMS = [
    "settings",
    "util",
    "scenes",
    "models",
    "loader",
    "training",
    "explain",
    "report",
    "netdissect",
    "train",
    "demo",
    "hubconf",
]
BELOW = ["experiments", "benchmarks", "docs", "tests"]  # may import all of these


@pytest.fixture
def registries():
    """What the page adds to the registries is removed afterwards."""
    before = [(registry, dict(registry)) for registry in (datasets._SPECS, resnets.TRUNKS, heads.HEADS)]
    yield
    for registry, content in before:
        registry.clear()
        registry.update(content)


@pytest.mark.usefixtures("registries")
def test_the_code_of_the_page_runs(tmp_path):
    write_tree(tmp_path / "data" / "toy")
    space = {"data_folder": str(tmp_path / "data"), "work_folder": tmp_path / "work"}
    code = "\n".join(re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S))
    exec(compile(code, str(PAGE), "exec"), space)
    assert space["source"].classes == ["bakery-shop", "beach", "tundra"]
    assert space["metrics"]["count"] == 6
    assert type(space["head"]) is heads.HEADS["positive"] and (space["head"].weight >= 0).all()
    assert 5 <= space["found"] <= 512


def test_the_example_of_the_layer_runs():
    failed, tried = doctest.testmod(dynamic_k)
    assert (failed, tried > 1) == (0, True)


def modules():
    """Every Python file of the product, and the room it is in."""
    for path in sorted(ROOT.rglob("*.py")):
        room = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if room in ROOMS:
            yield path, room


def imported_rooms(path: Path) -> set[str]:
    """The rooms that a file imports from, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            found.add(str(node.module).split(".")[0])
    return found & {*ROOMS, *BELOW}


@pytest.mark.parametrize("path, room", list(modules()), ids=lambda value: str(value).removeprefix(f"{ROOT}/"))
def test_imports_point_upward_only(path, room):
    # netdissect's own settings.py is netdissect.settings: a bare `import settings` is the one at the top.
    allowed = set(ROOMS[: ROOMS.index(room) + 1])
    if room == "scenes":
        allowed = {"util", "scenes"}
    assert imported_rooms(path) <= allowed


def test_the_page_names_every_room():
    tree = PAGE.read_text(encoding="utf-8").split("## One image")[0]
    for room in [*ROOMS, *BELOW[:2]]:
        assert re.search(rf"\b{room}(/|\.py)", tree), room
    named = re.findall(r"`((?:\w+\.)+\w+)(?::[^`]*)?`", PAGE.read_text(encoding="utf-8"))
    assert len(named) > 25
    for name in named:
        assert name.endswith((".json", ".csv", ".py")) or exists(name), name


def exists(name: str) -> bool:
    """Whether a file of that name, or `room.module` or `room.module.name`, is in the repository."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        base = ROOT.joinpath(*parts[:length])
        file = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
        if file.is_file():
            rest = parts[length:]
            return not rest or bool(re.search(rf"^((def|class) )?{rest[0]}\b", file.read_text(encoding="utf-8"), re.M))
    return False
