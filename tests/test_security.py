"""What SECURITY.md promises, and is not held by the tests of bad input and of the pages in a browser."""

import ast
import re
import socket
import sys
from pathlib import Path

import conftest
import pytest
import torch
from conftest import ROOT, call
from hypothesis import given
from hypothesis import strategies as st

import demo
from models import kernel_build, run_name
from models.dynamic_k import DynamicKLinear
from netdissect import main as dissection
from netdissect.config import parse_value
from report.pages import file_name
from util.cli import UserError

NAMES = st.text(max_size=200)
# What runs code that a file or a flag brings along.
FORBIDDEN = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "pickle.load",
    "pickle.loads",
    "os.system",
    "os.popen",
    "yaml.load",
    "joblib.load",
    "shelve.open",
}


def calls_of(path: Path) -> list[tuple[str, ast.Call]]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


def test_nothing_is_evaluated_and_no_file_unpickled():
    folders = [path.parent.name for path in ROOT.glob("*/*.py") if path.parent.name != "tests"]
    sources = [*ROOT.glob("*.py"), *(path for folder in folders for path in (ROOT / folder).rglob("*.py"))]
    assert len(sources) > 50
    safe = {"torch.load": ("weights_only", True), "np.load": ("allow_pickle", False)}
    seen = set()
    for path in sources:
        for name, made in calls_of(path):
            assert name not in FORBIDDEN, f"{path}, line {made.lineno}: {name}"
            options = {keyword.arg: keyword.value for keyword in made.keywords}
            assert "shell" not in options, f"{path}, line {made.lineno}"
            if name in safe:
                option, value = safe[name]
                assert options[option].value is value, f"{path}, line {made.lineno}"
                seen.add(name)
    assert seen == set(safe)


def test_flags_are_read_not_run(tmp_path):
    program = f"__import__('pathlib').Path({str(tmp_path / 'run')!r}).touch()"
    assert parse_value("CATEGORIES", program) == [part.strip() for part in program.split(",")]
    assert parse_value("MODEL", program) == program
    assert not (tmp_path / "run").exists()


def test_code_in_a_snapshot_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "run",))

    torch.save({"state_dict": {"conv1.weight": Evil()}}, tmp_path / "evil.pth")
    done = call("demo.py", "--modelfile", tmp_path / "evil.pth", "--output", tmp_path / "out")
    assert done.returncode == 2
    message = f"demo.py: error: snapshot {tmp_path / 'evil.pth'}: not a file of tensors and plain values that torch"
    assert done.stderr.startswith(message)
    assert not (tmp_path / "run").exists()


@given(name=NAMES)
def test_a_runs_folder_is_one_folder(name):
    try:
        folder = Path("result") / run_name("resnet18", "dense", name)
    except UserError:
        return
    assert folder.parent == Path("result")
    assert not {"..", "/", "\\", "\0"} & {*folder.parts, *folder.name}


@given(names=st.lists(NAMES, max_size=8))
def test_a_class_has_a_page_of_its_own_in_the_folder(names):
    taken: set[str] = set()
    pages = [file_name(name, taken) for name in [*names, *names]]
    assert len({page.lower() for page in pages}) == len(pages)
    assert all(re.fullmatch(r"[\w-]+", page) and len(page) < 100 for page in pages)


def test_whatever_things_are_called_files_stay_in_the_output(trained, tree, tmp_path, monkeypatch):
    names = ["../../class", "/tmp/class", '"><script>class']
    torch.save({**torch.load(trained[1], weights_only=True), "classes": names}, tmp_path / "s.pth")
    rows = "".join(f"{unit},../object,../../unit-{unit}/\\<xmp>,0.1\n" for unit in range(1, 513))
    (tmp_path / "tally.csv").write_text("unit,category,label,score\n" + rows)
    image = tmp_path / "a b#%2e%2e <xmp>.jpg"
    image.write_bytes((tree / "train/tundra/00000000.jpg").read_bytes())
    before = set(tmp_path.rglob("*"))
    flags = [
        "--modelfile",
        tmp_path / "s.pth",
        "--nd_result",
        tmp_path / "tally.csv",
        "--image",
        image,
        "--output",
        tmp_path / "out",
        "--workers",
        0,
        "--device",
        "cpu",
    ]
    monkeypatch.chdir(tmp_path)
    demo.main(demo.get_args_parser().parse_args(list(map(str, flags))))
    written = {path for path in set(tmp_path.rglob("*")) - before if path.is_file()}
    assert len([path for path in written if path.parent == tmp_path / "out" / "class"]) == 3
    assert all(path.is_relative_to(tmp_path / "out") for path in written)
    assert "&lt;xmp&gt;" in (tmp_path / "out" / "explain.html").read_text(encoding="utf-8")
    for page in (tmp_path / "out").rglob("*.html"):
        html = page.read_text(encoding="utf-8")
        assert "<xmp" not in html
        assert not re.search(r"""(?:src|href|action|data)\s*=\s*["']?\s*(?:https?:|//|javascript:|file:)""", html, re.I)


def test_no_network(trained, broden, tree, tmp_path, monkeypatch):
    """All that tests do in this process is refused the network (`conftest.py`); here it is the three steps."""
    with pytest.raises(PermissionError, match=r"no network in tests: 192\.0\.2\.1"):
        socket.create_connection(("192.0.2.1", 80), timeout=1)
    with pytest.raises(PermissionError, match=r"no network in tests: example\.com"):
        socket.getaddrinfo("example.com", 80)
    del conftest.reached_for[-2:]
    conftest.run_train(tmp_path, "--dataset", tree, "--epochs", 1, "--workers", 1)
    given = {"model_file": str(trained[1]), "data_directory": str(broden), "output_folder": str(tmp_path / "o")}
    dissection.main(dissection.make_config({**given, "gpu": "False", "workers": "1"}))
    flags = [
        "--modelfile",
        trained[1],
        "--nd_result",
        tmp_path / "o" / "tally.csv",
        "--dataset",
        tree,
        "--workers",
        1,
        "--device",
        "cpu",
        "--output",
        tmp_path / "out",
    ]
    demo.main(demo.get_args_parser().parse_args(list(map(str, flags))))
    assert conftest.reached_for == []
    assert sys.modules.get("requests") is None


def test_a_compiler_is_started_for_our_own_source_only(monkeypatch, tmp_path):
    """At first use, with a command that no file can change; denied, the head computes without."""
    commands = []

    def deny(command, **_):
        commands.append(command)
        raise PermissionError(1, "no process may be started")

    monkeypatch.setattr(kernel_build.subprocess, "run", deny)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", sys.executable)
    monkeypatch.delenv("DKA_KERNEL", raising=False)
    kernel_build.library.cache_clear()
    try:
        assert DynamicKLinear(9, 2, topk=3)(torch.zeros(4, 9)).shape == (4, 2)
    finally:
        kernel_build.library.cache_clear()
    ((compiler, *flags, source, output, path),) = commands
    assert (compiler, flags, source, output) == (sys.executable, kernel_build._flags(), str(kernel_build.SOURCE), "-o")
    assert Path(path).is_relative_to(tmp_path / "dynamic_k")
    assert not list((tmp_path / "dynamic_k").glob("*.so"))
