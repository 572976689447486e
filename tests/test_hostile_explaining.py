"""demo.py on what does not fit, what strangers named, and streams and folders that fail: no wrong word, no mix."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import unquote

import matplotlib
import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image

import demo
from explain import network as loading
from explain.drawing import MOST_UNITS, heat_overlays
from explain.images import Classifier, NotFiniteError, explain_images, explain_subjects
from explain.naming import Names
from explain.population import validate
from explain.subjects import Subject
from models import build_model, load_snapshot
from models.snapshot import save_snapshot, weights_fingerprint
from report.figures import faithfulness_graph
from report.pages import file_name, link_to
from util.cli import UserError, run
from util.files import lock_folder, staged
from util.made_of import companion, fingerprint, write_companion

TALLY = "unit,category,label,score\n" + "".join(f"{unit},object,sky,0.1\n" for unit in range(1, 513))
CLASSES = ["bakery-shop", "beach", "tundra"]
ESCAPES = "\x1b[31mred\x07\u202e\ufeff"
SHOWN = r"\x1b[31mred\x07\u202e\ufeff"  # the same, printable


def network(path: Path, arch: str = "resnet18_fc_ma", topk: int | None = 5, seed: int = 0, **about) -> Path:
    """A snapshot with random weights; `about` is added to its metadata, None removes."""
    torch.manual_seed(seed)
    classes = about.get("classes") or CLASSES
    model = build_model(arch, len(classes), topk)
    metadata = {"arch": arch, "topk": topk, "num_classes": len(classes), "dataset": "tiny", "classes": classes, **about}
    kept = {name: value for name, value in metadata.items() if value is not None or name == "topk"}
    save_snapshot(path, {"epoch": 0, "best_prec1": 0.0, "state_dict": model.state_dict(), **kept})
    return path


def tally_of(folder: Path, snapshot: Path | None, label: str = "sky", **changed) -> Path:
    """A tally, with the record of the snapshot's weights beside it."""
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "tally.csv").write_text(TALLY.replace("sky", label))
    if snapshot:
        weights = weights_fingerprint(load_snapshot(snapshot)[0])
        record = {"weights": weights, "layer": "layer4", "arch": "a", **changed}
        write_companion(folder / "tally.csv", {**record, "tally": fingerprint((folder / "tally.csv").read_bytes())})
    return folder / "tally.csv"


def explain(*flags):
    """explain.json's content as demo.py returns it."""
    return demo.main(demo.get_args_parser().parse_args(["--workers", "0", "--device", "cpu", *map(str, flags)]))


@pytest.fixture
def figures():
    """For tests that need what figure.png shows: the others do without, for drawing takes longer than the rest."""


@pytest.fixture(autouse=True)
def quick(request, monkeypatch):
    if "figures" not in request.fixturenames:
        monkeypatch.setattr(demo, "write_figure", lambda path, _: path.touch())


@pytest.fixture
def said(monkeypatch, capsys):
    """Calls demo.py with flags; returns what it says in its one line, after `demo.py: error: `."""

    def say(*flags) -> str:
        monkeypatch.setattr(sys, "argv", ["demo.py", "--workers", "0", "--device", "cpu", *map(str, flags)])
        with pytest.raises(SystemExit) as ended:
            run(demo.cli, "demo.py")
        (line,) = capsys.readouterr().err.splitlines()
        assert ended.value.code == 2 and line.startswith("demo.py: error: ")
        return line.removeprefix("demo.py: error: ")

    return say


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory) -> Path:
    return network(tmp_path_factory.mktemp("network") / "epoch_0.pth")


@pytest.fixture(scope="module")
def photo(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 60, 3), np.uint8)).save(path)
    return path


def contents(folder: Path) -> dict[str, bytes | str]:
    """All files below a folder, links as what they point to; the lock is left out."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_symlink() or path.is_file()]
    return {
        str(path.relative_to(folder)): os.readlink(path) if path.is_symlink() else path.read_bytes()
        for path in files
        if path.name != demo.LOCK
    }


# --- classes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "classes, number, own, other",
    [
        (["beach", "bakery-shop", "tundra"], 0, "beach", "bakery-shop"),
        (["bakery-shop", "beach", "taiga"], 2, "taiga", "tundra"),
        (["bakery-shop", "Beach", "tundra"], 1, "Beach", "beach"),
        (["bakery-shop", "beach ", "tundra"], 1, "beach ", "beach"),
    ],
)
def test_other_classes_are_refused(tree, snapshot, tmp_path, said, classes, number, own, other):
    changed = network(tmp_path / "other.pth", classes=classes)
    message = (
        f"was trained on other classes than data set tiny_places has, or in another order: class {number} is "
        f"{own!r} in the snapshot, {other!r} in the data set"
    )
    flags = ["--dataset", tree, "--output", tmp_path / "out"]
    assert said("--modelfile", changed, *flags) == f"the snapshot {message}"
    assert said("--modelfile", snapshot, "--compare", changed, *flags) == f"the snapshot of --compare {message}"
    assert not (tmp_path / "out").exists()


def test_a_named_data_set_must_have_the_snapshots_classes(tmp_path, photo, said):
    demo_classes = [f"class {number}" for number in range(365)]
    changed = network(tmp_path / "p.pth", classes=demo_classes)
    line = said("--modelfile", changed, "--image", photo, "--dataset", "places365", "--output", tmp_path / "out")
    assert "class 0 is 'class 0' in the snapshot, 'airfield' in the data set" in line


def test_nameless_classes_are_a_notice(tree, snapshot, tmp_path, capsys):
    nameless = network(tmp_path / "nameless.pth", classes=None)
    report = explain(
        "--modelfile", nameless, "--compare", nameless, "--dataset", tree, "--images", 1, "--output", tmp_path / "out"
    )
    rest = "does not name its classes: those of tiny_places are assumed, in order"
    assert report["notices"] == [f"the snapshot {rest}", f"the snapshot of --compare {rest}"]
    out = capsys.readouterr().out.splitlines()
    assert out.count(f"notice: the snapshot {rest}") == 1
    for page in ("explain", "classes", "units", "faithfulness", "class/beach"):
        assert f"the snapshot {rest}." in (tmp_path / "out" / f"{page}.html").read_text()


# --- tallies --------------------------------------------------------------------------------------------------------


def test_a_tally_of_these_weights(snapshot, photo, tmp_path):
    tally = tally_of(tmp_path, snapshot, more=[1])
    report = explain("--modelfile", snapshot, "--nd_result", tally, "--image", photo, "--output", tmp_path / "out")
    assert (report["notices"], report["images"][0]["units"][0]["label"]) == ([], "sky")
    assert report["made_of"]["tally"] == json.loads(companion(tally).read_text())
    assert report["made_of"]["weights"] == weights_fingerprint(load_snapshot(snapshot)[0])
    assert json.loads((tmp_path / "out" / "explain.json").read_text())["made_of"] == report["made_of"]
    assert 'class="notice"' not in (tmp_path / "out" / "explain.html").read_text()


@pytest.mark.parametrize(
    "changed, fault",
    [
        ({"weights": "f" * 64}, "another snapshot (a, weights ffffffffffff, not {own})"),
        ({"weights": None}, "another snapshot (a, weights None, not {own})"),
        ({"weights": ["x"], "arch": ESCAPES}, rf"another snapshot ({SHOWN}, weights ['x'], not {{own}})"),
        ({"layer": "layer3"}, "layer 'layer3', not layer4"),
        ({"layer": ["layer4"]}, "layer ['layer4'], not layer4"),
    ],
)
def test_a_tally_of_another_snapshot_is_refused(snapshot, photo, tmp_path, said, changed, fault):
    tally = tally_of(tmp_path, snapshot, **changed)
    own = weights_fingerprint(load_snapshot(snapshot)[0])[:12]
    line = said("--modelfile", snapshot, "--nd_result", tally, "--image", photo, "--output", tmp_path / "out")
    assert line == (
        f"tally {tally}: it was made of {fault.format(own=own)}, not of {snapshot}: run netdissect/main.py "
        f"--model_file {snapshot}, or name the tally's own snapshot by --modelfile"
    )
    assert not (tmp_path / "out").exists()


def test_a_tally_of_unknown_origin_is_a_notice(snapshot, photo, tmp_path, capsys):
    tally = tally_of(tmp_path, None)
    report = explain("--modelfile", snapshot, "--nd_result", tally, "--image", photo, "--output", tmp_path / "out")
    notice = f"the origin of the tally {tally} is unknown: it may be another network's"
    assert (report["notices"], report["made_of"]["tally"]) == ([notice], None)
    assert f"notice: {notice}" in capsys.readouterr().out.splitlines()
    assert "is unknown: it may be another network&#39;s." in (tmp_path / "out" / "explain.html").read_text()


@pytest.mark.parametrize("fits", [True, False])
def test_the_tally_that_a_run_left(tree, tmp_path, monkeypatch, capsys, fits):
    """Whichever file is newer: what counts is what the tally was made of."""
    monkeypatch.setattr("explain.inputs.ROOT", tmp_path)
    monkeypatch.setattr(demo, "ROOT", tmp_path)
    name = "pytorch_resnet18_fc_ma_t5_tiny_places"
    folder = tmp_path / "snapshot" / name
    first = network(folder / "epoch_0.pth", seed=1)
    tally = tally_of(tmp_path / "result" / name / "netdissect", first)
    if not fits:
        first = network(folder / "epoch_1.pth", seed=2)
    for path, moment in ((first, 2_000_000_000), (tally, 1_900_000_000 if fits else 2_100_000_000)):
        os.utime(path, (moment, moment))
    report = explain("--dataset", tree, "--images", 1, "--no_val")
    assert (report["images"][0]["units"][0]["label"] == "sky") is fits
    out = capsys.readouterr().out
    assert ("the tally" in out and "is left out: it was made of another snapshot (a, weights" in out) is not fits
    assert (report["nd_result"] is None, len(report["notices"])) == (not fits, 0 if fits else 1)


@pytest.mark.parametrize("record", ["[]", "{", "null", "[" * 100_000, "\xff"])
def test_records_that_are_none(snapshot, photo, tmp_path, said, record):
    tally = tally_of(tmp_path, None)
    companion(tally).write_text(record, encoding="latin-1")
    line = said("--modelfile", snapshot, "--nd_result", tally, "--image", photo, "--output", tmp_path / "out")
    assert line.startswith(f"record {companion(tally)}: ")


@pytest.mark.parametrize("flag", ["--nd_result", "--modelfile", "--compare"])
def test_fifos_folders_and_devices(tree, snapshot, tmp_path, said, flag):
    os.mkfifo(tmp_path / "fifo")
    what = "tally" if flag == "--nd_result" else "snapshot"
    for path, reason in (
        (tmp_path / "fifo", "not a regular file, expected a file"),
        ("/dev/zero", "not a regular"),
        (tmp_path, "a folder, expected a file"),
        (tmp_path / "no", "no such file"),
    ):
        given = {"--modelfile": snapshot, "--dataset": tree, flag: path, "--output": tmp_path / "out"}
        line = said(*(part for pair in given.items() for part in pair))
        assert line.startswith(f"{what} {path}: {reason}")
    os.mkfifo(companion(tally_of(tmp_path, None)))
    line = said("--modelfile", snapshot, "--nd_result", tmp_path / "tally.csv", "--dataset", tree)
    assert line == f"record {companion(tmp_path / 'tally.csv')}: not a regular file, expected a file"


# --- marks ----------------------------------------------------------------------------------------------------------


def test_marks_and_heads_that_contradict_each_other(snapshot, photo, tmp_path, said, capsys):
    dense = network(tmp_path / "dense.pth", "resnet18", None)
    common = ["--image", photo, "--output", tmp_path / "out"]
    end = "leave --mark out"
    assert said("--modelfile", dense, "--mark", "t5", *common) == (
        f"--mark t5: {dense} has a dense head, which has no K: {end}"
    )
    assert said("--modelfile", snapshot, "--mark", "dense", *common) == (
        f"--mark dense: {snapshot} has a head of K = 5: {end}"
    )
    assert not (tmp_path / "out").exists()
    report = explain("--modelfile", snapshot, "--mark", "t7", *common)
    notice = "K = 7, as --mark says; the network was trained with K = 5"
    assert (report["topk"], report["notices"]) == (7, [notice])
    assert f"notice: {notice}" in capsys.readouterr().out.splitlines()
    assert explain("--modelfile", snapshot, "--mark", "t5", *common)["notices"] == []
    assert explain("--modelfile", dense, "--mark", "dense", *common)["notices"] == []


def test_another_k_than_the_network_was_trained_with(snapshot, photo, tmp_path, said):
    common = ["--image", photo, "--output", tmp_path / "out"]
    dense = network(tmp_path / "dense.pth", "resnet18", None)
    end = "has a dense head, which has no K: leave --topk out"
    assert said("--modelfile", dense, "--topk", "3", *common) == f"--topk 3: {dense} {end}"
    assert said("--modelfile", snapshot, "--topk", "0", *common) == f"--topk 0: expected 1 to {2**20}"
    assert "expected 1 <= K <= 512" in said("--modelfile", snapshot, "--topk", "513", *common)
    assert not (tmp_path / "out").exists()
    report = explain("--modelfile", snapshot, "--mark", "t5", "--topk", "3", *common)
    assert report["topk"] == 3
    assert report["notices"] == ["K = 3, as --topk says; the network was trained with K = 5"]
    entry = report["images"][0]
    assert [unit["active"] for unit in entry["units"]] == [True] * 3 + [False] * 2
    assert sum(unit["vote"] for unit in entry["units"][:3]) + entry["bias"] == pytest.approx(entry["logit"], abs=1e-4)


@pytest.mark.parametrize("topk, topn", [(1, 1), (1, 20), (512, 1), (512, 20), (None, 1)])
def test_one_vote_and_all_votes(tree, tmp_path, topk, topn):
    arch = "resnet18_fc_ma" if topk else "resnet18"
    path = network(tmp_path / "n.pth", arch, topk)
    report = explain(
        "--modelfile",
        path,
        "--dataset",
        tree,
        "--images",
        2,
        "--topn",
        topn,
        "--compare",
        path,
        "--output",
        tmp_path / "out",
    )
    for image in report["images"]:
        chosen = [unit["vote"] for unit in image["units"] if unit["active"]]
        assert len(chosen) + image["others"]["count"] == (topk or 512)
        assert sum(chosen) + image["others"]["vote"] + image["bias"] == pytest.approx(image["logit"], abs=1e-9)
    routes = json.loads((tmp_path / "out" / "routes.json").read_text())
    assert routes["topk"] == (topk or 512)
    steps = json.loads((tmp_path / "out" / "faithfulness.json").read_text())["steps"]
    assert steps == min(topk or topn, 20)


# --- numbers that are not finite --------------------------------------------------------------------------------------


def test_features_that_are_not_finite_name_the_image(tree, tmp_path, said):
    model = build_model("resnet18_fc_ma", 3, 5).eval()
    with torch.no_grad():
        model.rfc.weight.fill_(3e38)  # finite, and no score is
    images = torch.randn(3, 3, 64, 64)
    with pytest.raises(NotFiniteError, match=r"^image 0 of the batch: the network's features or scores of it"):
        explain_images(Classifier.of(model), images, [None] * 3, Names(CLASSES, {}), 5)
    model = build_model("resnet18_fc_ma", 3, 5).eval()
    images[1, 0, 5, 5] = torch.nan
    square = np.zeros((224, 224, 3), np.uint8)
    subjects = [Subject(f"{place}.jpg", None, None, image, square) for place, image in enumerate(images)]
    with pytest.raises(UserError, match=r"^1\.jpg: the network's features or scores of this image are not finite$"):
        list(explain_subjects(Classifier.of(model), subjects, Names(CLASSES, {}), 5))


def test_validation_images_that_are_not_finite(snapshot):
    class Bad(torch.utils.data.Dataset):
        targets = (0, 1, 2)

        def __len__(self):
            return 3

        def __getitem__(self, index):
            return torch.full((3, 64, 64), torch.inf if index == 2 else 1.0), self.targets[index]

        def file(self, index):
            return f"{index}.jpg"

    loader = torch.utils.data.DataLoader(Bad(), 2)
    with pytest.raises(UserError, match=r"2\.jpg"):
        validate(load_snapshot(snapshot)[0], loader)


# --- names ----------------------------------------------------------------------------------------------------------


NAMES = [f"a{ESCAPES}", "b$x_1$ $\\frac{", "c\udcff\n<script>"]


@pytest.fixture
def hostile(tmp_path):
    """A report whose classes, labels and files have hostile names; and the image's path."""
    path = network(tmp_path / "n.pth", classes=["a", "b", "c"])
    tally = tally_of(tmp_path, path, f"sky $^{{ $\x1b[2J {ESCAPES}\\")
    own = tmp_path / os.fsdecode(b"a $^{ \xff\x1b[31m\n #%?.png")
    Image.new("RGB", (30, 30), "red").save(tmp_path / "plain.png")
    os.rename(tmp_path / "plain.png", own)
    return path, tally, own


def test_hostile_names_on_terminal_page_and_figure(figures, hostile, tmp_path, monkeypatch, capsys):
    path, tally, own = hostile
    load = loading.load_snapshot

    def renamed(*given):
        model, about = load(*given)
        return model, {**about, "classes": NAMES, "dataset": f"set{ESCAPES}\udcff"}

    monkeypatch.setattr("explain.network.load_snapshot", renamed)
    out = tmp_path / os.fsdecode(b"out $^{ \xfe\x1b[31m")
    report = explain("--modelfile", path, "--nd_result", tally, "--image", own, "--output", out)
    assert report["images"][0]["file"].endswith(".png")
    said = capsys.readouterr()
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\ud800-\udfff]", said.out + said.err)
    assert len(said.out.splitlines()) == 6  # units, model, device, image, no images of the units, report
    pages = sorted(out.rglob("*.html"))
    assert len(pages) == 4 + 3
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e\u2066-\u2069]", text), page
        assert text.count("<script") == text.count("</script>")
        for link in re.findall(r'(?:href|src)="([^"#]*)', text):
            if link and not link.startswith("data:"):
                assert (page.parent / os.fsdecode(unquote(link, "utf-8", "surrogateescape"))).exists(), link
    assert json.loads((out / "routes.json").read_text())["classes"][2]["name"] == NAMES[2]
    assert (out / "figure.png").stat().st_size > 5_000


def test_links_to_names_that_are_not_utf8():
    assert link_to(os.fsdecode(b"a/\xff b")) == "a/%FF%20b"


def test_graphs_take_dollars_and_escapes(tmp_path):
    point = {"mean": 0.5, "low": 0.4, "high": 0.6}
    curve = {"probability": [point, point], "area": point, "turned": [0.0, 0.0]}
    method = {"name": f"5 votes of $^{{ {ESCAPES}\udcff a$", "deletion": curve, "insertion": curve}
    svg = faithfulness_graph(tmp_path / "f.svg", {"images": "", "count": 1, "steps": 1, "methods": [method]})
    assert "$^{" in svg and "\x1b" not in svg and "\u202e" not in svg


@pytest.mark.parametrize("name", ["𠀀" * 80, "ü" * 200, "a" * 500])
def test_pages_of_classes_with_long_names_can_be_written(tmp_path, name):
    taken: set[str] = set()
    files = [file_name(name, taken) for _ in range(3)]
    assert len(set(files)) == 3
    for file in files:
        assert len(file.encode()) <= 170
        (tmp_path / f".{file}-12345678.html").touch()
    assert file_name("é" * 80, set()) == "é" * 80


# --- one report at a time, whole -----------------------------------------------------------------------------------


def fail(*_, **__):
    raise UserError("no more")


@pytest.mark.parametrize("stage", ["explain_selection", "validate_network", "write_report", "write_figure", "silence"])
def test_a_failed_run_leaves_the_earlier_report(tree, snapshot, tmp_path, monkeypatch, said, stage):
    output = tmp_path / "out"
    (output / "netdissect").mkdir(parents=True)
    (output / "train.log").write_text("training's own")
    common = ["--modelfile", snapshot, "--dataset", tree, "--output", output, "--no_val"]
    explain(*common, "--images", 3)
    before = contents(output)
    assert {"train.log", "vis/cam_2.jpg", "class/beach.html", "explain.json", "figure.png"} < set(before)
    with monkeypatch.context() as context:
        context.setattr(demo, stage, fail)
        assert said(*common, "--images", "5,") == "no more"
    assert contents(output) == before
    assert not list(output.glob(".staged-*"))
    explain(*common, "--images", "5,")
    after = contents(output)
    assert set(after) == set(before) - {"vis/cam_1.jpg", "vis/cam_2.jpg"}
    assert after["explain.html"] != before["explain.html"] and (output / "netdissect").is_dir()


def test_a_page_that_cannot_be_written_is_named_as_what_it_would_be(tree, snapshot, tmp_path, monkeypatch, said):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", full)
    line = said("--modelfile", snapshot, "--dataset", tree, "--output", tmp_path / "out", "--images", 1, "--no_val")
    assert line == f"{tmp_path / 'out/explain.json'}: cannot be written (No space left on device)"
    assert not (tmp_path / "out").exists()


def test_links_in_the_output_folder_are_replaced_not_followed(snapshot, photo, tmp_path):
    output, outside = tmp_path / "out", tmp_path / "outside"
    for name in ("class", "vis"):
        (outside / name).mkdir(parents=True)
        (outside / name / "beach.html").write_text("precious")
    for name in ("page", "lock", "folder/deep"):
        (outside / name).parent.mkdir(exist_ok=True)
        (outside / name).write_text("precious")
    before = contents(outside)
    output.mkdir()
    for name, target in (
        ("class", "class"),
        ("vis", "vis"),
        ("explain.html", "page"),
        ("explain.json", "no"),
        ("figure.png", "folder"),
        (".staged-x", "folder"),
    ):
        (output / name).symlink_to(outside / target)
    explain("--modelfile", snapshot, "--image", photo, "--output", output)
    assert contents(outside) == before
    assert not any((output / name).is_symlink() for name in ("class", "vis", "explain.html", "explain.json"))
    assert (output / "class" / "beach.html").read_text() != "precious"
    assert (output / "vis" / "cam_0.jpg").is_file()


@pytest.mark.parametrize("kind", ["link", "fifo"])
def test_a_lock_that_is_no_file(snapshot, photo, tmp_path, said, kind):
    output, precious = tmp_path / "out", tmp_path / "precious"
    output.mkdir()
    precious.write_text("precious")
    (output / demo.LOCK).symlink_to(precious) if kind == "link" else os.mkfifo(output / demo.LOCK)
    line = said("--modelfile", snapshot, "--image", photo, "--output", output)
    reason = "cannot be written (Too many levels of symbolic links)"
    lock = f"{output / demo.LOCK}: not a regular file, expected a lock file"
    assert line == (f"{output}: {reason}" if kind == "link" else lock)
    assert precious.read_text() == "precious"


def test_two_reports_of_one_folder(snapshot, photo, tmp_path, said):
    flags = ["--modelfile", snapshot, "--image", photo, "--output", tmp_path]
    with lock_folder(tmp_path, name=demo.LOCK):
        assert said(*flags) == f"{tmp_path}: another run is writing to it; wait, or name another folder"
    with lock_folder(tmp_path):  # training's
        explain(*flags)


def test_other_files_in_a_reports_folders_stay(snapshot, photo, tmp_path):
    flags = ["--modelfile", snapshot, "--image", photo, "--output", tmp_path]
    (tmp_path / "class" / "deep").mkdir(parents=True)
    for name in ("class/notes.txt", "class/deep/notes.txt", "class/old.html"):
        (tmp_path / name).write_text("mine")
    explain(*flags)
    assert (tmp_path / "class/notes.txt").read_text() == (tmp_path / "class/deep/notes.txt").read_text() == "mine"
    assert not (tmp_path / "class/old.html").exists()  # of a class of an earlier report


@pytest.mark.parametrize("name, kind", [("vis", "file"), ("explain.html", "folder")])
def test_what_stands_in_the_way_stays(snapshot, photo, tmp_path, said, name, kind):
    (tmp_path / name).write_text("mine") if kind == "file" else (tmp_path / name).mkdir()
    before = contents(tmp_path)
    other = "folder" if kind == "file" else "file"
    line = said("--modelfile", snapshot, "--image", photo, "--output", tmp_path)
    assert line == f"{tmp_path / name}: a {kind}, where a {other} is to be written"
    assert contents(tmp_path) == before


@pytest.mark.parametrize("failing", range(1, 8))
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(16, "Device or resource busy")])
def test_a_swap_that_fails_is_undone(tmp_path, monkeypatch, failing, error):
    (tmp_path / "a").mkdir()
    for name in ("a/kept", "a/old.html", "b", "other"):
        (tmp_path / name).write_text("old")
    (tmp_path / "c").symlink_to("other")
    before, calls, rename = contents(tmp_path), [], os.rename

    def counted(source, target):
        calls.append(source)
        if len(calls) == failing:
            raise error
        rename(source, target)

    with monkeypatch.context() as context:
        context.setattr(os, "rename", counted)
        with pytest.raises((KeyboardInterrupt, UserError)), staged(tmp_path, r"a/.*\.html") as folder:
            (folder / "a").mkdir()
            for name in ("a/new.html", "b", "c"):
                (folder / name).write_text("new")
    assert contents(tmp_path) == before
    with staged(tmp_path) as folder:
        (folder / "b").write_text("new")
    assert contents(tmp_path) == {**before, "b": b"new"}


def test_a_killed_runs_staging_folder_is_removed(snapshot, photo, tmp_path):
    process = subprocess.Popen(
        [
            sys.executable,
            "demo.py",
            "--modelfile",
            snapshot,
            "--image",
            *[photo] * 2,
            "--output",
            tmp_path,
            "--device",
            "cpu",
        ],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not list(tmp_path.glob(".staged-*")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(tmp_path.glob(".staged-*")) and not (tmp_path / "explain.html").exists()
    explain("--modelfile", snapshot, "--image", photo, "--output", tmp_path)
    assert not list(tmp_path.glob(".staged-*")) and (tmp_path / "explain.html").exists()


# --- streams --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "redirection",
    [
        "| head -1",
        pytest.param("<&- > /dev/full 2>&1", marks=pytest.mark.slow),
        *(pytest.param(more, marks=pytest.mark.slow) for more in ("> /dev/full", ">&-", "2>&-", "2> /dev/full")),
        *(pytest.param(more, marks=pytest.mark.slow) for more in (">&- 2>&-", "| true")),
    ],
)
def test_streams_that_fail_do_not_stop_the_report(snapshot, photo, tree, tmp_path, redirection):
    command = (
        f"{sys.executable} demo.py --modelfile {snapshot} --dataset {tree} --images 2 --workers 1 --device cpu "
        f"--output {tmp_path}/out; echo $? > {tmp_path}/code"
    )
    done = subprocess.run(["bash", "-c", f"( {command} ) {redirection}"], cwd=ROOT, capture_output=True, text=True)
    assert (tmp_path / "code").read_text() == "0\n", done.stderr
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
    report = json.loads((tmp_path / "out" / "explain.json").read_text())
    assert len(report["images"]) == 2 and report["validation"]["count"] == 6
    assert {"faithfulness.html", "figure.png", "class/tundra.html"} < set(contents(tmp_path / "out"))


# --- time -----------------------------------------------------------------------------------------------------------


def test_figures_are_bounded(figures, snapshot, photo, tmp_path, said, capsys):
    many = ",".join(["0"] * 300)
    common = ["--modelfile", snapshot, "--image", photo, "--output", tmp_path]
    assert said(*common, "--figure", many) == "--figure: 300 images, expected at most 12"
    report = explain(*common, "--topn", 291)
    assert len(report["images"][0]["units"]) == 291
    assert f"figure.png shows the {MOST_UNITS} largest votes of each image only" in capsys.readouterr().out
    with Image.open(tmp_path / "figure.png") as figure:
        assert figure.height < 13 * 2.75 * 150 + 2
    with Image.open(tmp_path / "vis" / "cam_0.jpg") as strip:
        assert strip.size == (292 * 224, 224)


@pytest.mark.parametrize("size, side", [(96, 224), (256, 256)])
def test_overlays_are_no_smaller_than_what_the_network_sees(photo, tmp_path, size, side):
    explain("--modelfile", network(tmp_path / "n.pth", size=size), "--image", photo, "--output", tmp_path / "o")
    with Image.open(tmp_path / "o" / "vis" / "cam_0.jpg") as strip:
        assert strip.size == (6 * side, side)


def test_overlays_are_those_of_the_plain_formula():
    generator = np.random.default_rng(0)
    image = generator.integers(0, 255, (32, 32, 3), np.uint8)
    maps = torch.from_numpy(generator.normal(size=(6, 7, 7)).astype(np.float32))
    large = torch.nn.functional.interpolate(maps[None], size=(32, 32), mode="bilinear", align_corners=False)[0].numpy()
    strengths = [1.0, 0.3, -0.2, 0.0, 0.77, 1 / 3]
    for heat, strength, overlay in zip(large, strengths, heat_overlays(image, maps, strengths), strict=True):
        jet = matplotlib.colormaps["jet"]((heat - heat.min()) / (heat.max() - heat.min()))[..., :3] * 255
        plain = 0.5 * image + 0.45 * max(0.0, strength) * jet
        assert (overlay == plain.round().clip(0, 255).astype(np.uint8)).all()
