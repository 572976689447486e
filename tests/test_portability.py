"""Other machines' habits: spawned workers, odd paths and terminals, a checkout that cannot be written, no fcntl."""

import io
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest
from conftest import ROOT, call, run_train

import demo
from loader.mini_places import render_mini_places
from netdissect import main as dissection
from report.pages import file_name
from settings import SHIPPED_SNAPSHOT
from training import dry_run
from util import files
from util.cli import run

SPAWNED = """
import multiprocessing, sys
from pathlib import Path

sys.path.insert(0, {root!r})

if __name__ == "__main__":  # whose imports the workers are spared
    from loader.mini_places import render_mini_places
    from netdissect import main as dissection
    from training import TrainConfig, train_and_evaluate

    multiprocessing.set_start_method("spawn")  # as on macOS and Windows
    home = Path(sys.argv[1])
    render_mini_places(home / "data", train=16, val=16, broden=16, workers=2, progress=False)
    data = dict(data=str(home / "data"), dataset="mini_places")
    config = TrainConfig(**data, epochs=1, batch_size=8, workers=1, device="cpu")
    train_and_evaluate(config, home)
    settings = {{"data_directory": str(home / "data" / "mini_broden"), "output_folder": str(home / "o"), "gpu": "False",
                "workers": "1", "chance_rounds": "0", "topn": "1"}}
    dissection.main(dissection.make_config(settings))
"""


@pytest.mark.slow
def test_spawned_workers(tmp_path):
    (tmp_path / "spawned.py").write_text(SPAWNED.format(root=str(ROOT)), encoding="utf-8")
    subprocess.run([sys.executable, tmp_path / "spawned.py", tmp_path], check=True, stdout=subprocess.DEVNULL)
    assert list(tmp_path.glob("snapshot/*/epoch_0.pth"))
    render_mini_places(tmp_path / "here", train=16, val=16, broden=16, workers=1, progress=False)
    images = sorted((tmp_path / "here").rglob("*.jpg"))
    assert len(images) == 48
    for path in images:
        assert (tmp_path / "data" / path.relative_to(tmp_path / "here")).read_bytes() == path.read_bytes()
    settings = {
        "data_directory": str(tmp_path / "here" / "mini_broden"),
        "output_folder": str(tmp_path / "p"),
        "gpu": "False",
        "workers": "0",
        "chance_rounds": "0",
        "topn": "1",
    }
    dissection.main(dissection.make_config(settings))
    assert (tmp_path / "p" / "tally.csv").read_bytes() == (tmp_path / "o" / "tally.csv").read_bytes()


def test_odd_paths(tree, broden, tmp_path, monkeypatch, capsys):
    home = tmp_path / "été à la mer, 100 % #1 [日本]"
    shutil.copytree(tree, home / "plages & forêts")
    shutil.copytree(broden, home / "bro den")
    run_train(home, "--dataset", home / "plages & forêts", "--epochs", 1)
    (snapshot,) = home.glob("snapshot/pytorch_resnet18_fc_ma_t5_plages & forêts/epoch_0.pth")
    settings = {
        "model_file": str(snapshot),
        "data_directory": str(home / "bro den"),
        "output_folder": str(home / "ö"),
        "gpu": "False",
        "workers": "0",
        "chance_rounds": "0",
        "topn": "1",
    }
    (tally,) = dissection.main(dissection.make_config(settings))
    shutil.copy(tree / "val/beach/00000000.jpg", home / "ma photo [1] é%20.jpg")
    monkeypatch.chdir(home)
    flags = [
        "--modelfile",
        snapshot,
        "--nd_result",
        tally,
        "--dataset",
        home / "plages & forêts",
        "--images",
        "0,",
        "--image",
        "ma photo [1] é%20.jpg",
        "--output",
        "sortie 1",
        "--workers",
        0,
        "--device",
        "cpu",
    ]
    report = demo.main(demo.get_args_parser().parse_args(list(map(str, flags))))
    assert [image["file"] for image in report["images"]] == [
        str(Path("plages & forêts/val/bakery-shop/00000000.jpg")),
        "ma photo [1] é%20.jpg",
    ]
    page = (home / "sortie 1" / "units.html").read_text(encoding="utf-8")
    assert "../%C3%B6/html/layer4.html" in page
    assert (home / "sortie 1" / unquote("../%C3%B6/html/layer4.html")).is_file()


def test_a_terminal_that_lacks_letters(trained, tree, tmp_path, monkeypatch):
    image = tmp_path / "plage été.jpg"
    shutil.copy(tree / "val/beach/00000000.jpg", image)
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    flags = [
        "--modelfile",
        trained[1],
        "--image",
        image,
        "--workers",
        0,
        "--device",
        "cpu",
        "--output",
        tmp_path / "out",
    ]
    monkeypatch.setattr(sys, "argv", ["demo.py", *map(str, flags)])
    run(demo.cli, "demo.py")
    terminal.flush()
    assert rb"plage \xe9t\xe9.jpg: " in terminal.buffer.getvalue()


@pytest.fixture
def read_only_checkout(tmp_path):
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    if subprocess.run(["mount", "--bind", ROOT, checkout], capture_output=True).returncode:
        pytest.skip("no right to mount a file system")
    subprocess.run(["mount", "-o", "remount,ro,bind", checkout], check=True)
    yield checkout
    subprocess.run(["umount", "-l", checkout], check=True)


def test_a_checkout_that_cannot_be_written(read_only_checkout, tree, broden, tmp_path):
    dissected = call(
        read_only_checkout / "netdissect/main.py",
        "--data_directory",
        broden,
        "--output_folder",
        tmp_path / "o",
        "--gpu",
        "False",
        "--workers",
        0,
        "--topn",
        1,
        cwd=tmp_path,
    )
    assert dissected.returncode == 0, dissected.stderr
    explained = call(
        read_only_checkout / "demo.py",
        "--modelfile",
        read_only_checkout / SHIPPED_SNAPSHOT,
        "--image",
        tree / "val/beach",
        "--output",
        tmp_path / "e",
        "--nd_result",
        tmp_path / "o/tally.csv",
        "--workers",
        0,
        cwd=tmp_path,
    )
    assert explained.returncode == 0, explained.stderr
    trained = call(read_only_checkout / "train.py", "--dataset", tree, "--epochs", 1, cwd=tmp_path)
    folder = read_only_checkout / "result/pytorch_resnet18_fc_ma_t5_tiny_places"
    assert trained.stderr == f"train.py: error: {folder}: cannot be written (Read-only file system)\n"
    assert trained.returncode == 2


def test_systems_without_fcntl_and_resource(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "fcntl", None)
    monkeypatch.setattr(dry_run, "resource", None)
    with files.lock_folder(tmp_path), files.atomic_write(tmp_path / "a.txt") as temporary:
        temporary.write_text("whole")
    assert (tmp_path / "a.txt").read_text() == "whole"
    assert dry_run.peak_memory(demo.torch.device("cpu")) == "unknown on this system"


def test_names_that_windows_keeps_for_devices():
    taken: set[str] = set()
    assert [file_name(name, taken) for name in ("con", "CON", "lpt1", "console")] == [
        "con_",
        "CON_-2",
        "lpt1_",
        "console",
    ]
