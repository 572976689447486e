"""Dissections of what does not fit: odd networks and layers, faulty tables and label maps, settings, caches."""

import os
import shutil
import signal
import struct
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, call, write_broden, write_small_broden
from PIL import Image
from torch import nn

import settings as project
from explain.tally import read_made_of, tally_fingerprint
from models import load_snapshot
from models.hooks import layer_outputs
from models.snapshot import weights_fingerprint
from netdissect import counting
from netdissect import main as dissection
from netdissect.activity import ActiveMaps, LayerSummary
from netdissect.broden import Broden
from netdissect.broden.build import build
from netdissect.chance import pairings
from netdissect.counting import count
from netdissect.features import stream_features
from netdissect.layout import MapLayout, find_layouts
from netdissect.made_of import data_fingerprint
from netdissect.results import RESULTS, swapped_in
from netdissect.tally import read_tally
from netdissect.thresholds import read_thresholds
from util.cli import UserError, run
from util.made_of import differences
from util.tables import MOST_BYTES

FACTORIES = __name__


@pytest.fixture
def dissecting(tmp_path, monkeypatch, capsys):
    """What netdissect/main.py says on stderr, one line or nothing, and its exit code; flags replace those of a run."""

    def say(**flags) -> tuple[str, int]:
        network = {"model": f"{FACTORIES}:small_network", "model_file": "none", "feature_names": "['0']"}
        machine = {"gpu": "False", "output_folder": tmp_path / "o", "workers": "0"}
        given = {**network, **machine, "chance_rounds": "0", "topn": "1", **flags}
        if "data_directory" not in given:
            given["data_directory"] = tmp_path / "tiny_broden"
            if not given["data_directory"].exists():
                write_small_broden(given["data_directory"])
        arguments = [str(part) for name, value in given.items() for part in (f"--{name}", value)]
        monkeypatch.setattr(sys, "argv", ["main.py", *arguments])
        code = 0
        try:
            run(dissection.cli, "main.py")
        except SystemExit as ended:
            code = ended.code
        error = capsys.readouterr().err
        assert "Traceback" not in error
        assert len(error.splitlines()) <= 1, error
        return error.removeprefix("main.py: error: ").removesuffix("\n"), code

    return say


# --- networks ------------------------------------------------------------------------------------------------------


def small_network() -> nn.Module:
    """Two layers; equal in every call."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Given(nn.Module):
    """A network whose forward pass is a function of its first layer's output."""

    def __init__(self, then=lambda x: x, channels=3):
        super().__init__()
        self.first = nn.Conv2d(channels, 4, 8, stride=8)
        self.layer = nn.Identity()
        self.unused = nn.Conv2d(3, 4, 8)
        self.then = then

    def forward(self, x):
        return self.layer(self.then(self.first(x)))


def channels_last() -> nn.Module:
    return Given(lambda x: x.permute(0, 2, 3, 1))


def batch_merged() -> nn.Module:
    return Given(lambda x: x.reshape(-1, 2, *x.shape[2:]))


def batch_collapsed() -> nn.Module:
    return Given(lambda x: x.reshape(1, -1, *x.shape[2:]))


def tokens() -> nn.Module:
    return Given(lambda x: x.flatten(2).transpose(1, 2))


def one_dimensional() -> nn.Module:
    return Given(lambda x: x.flatten(2)[:, :, None])


def several() -> nn.Module:
    return Given(lambda x: (x, x))


def grey() -> nn.Module:
    return Given(channels=1)


def needs_224() -> nn.Module:
    def check(x):
        assert x.shape[-1] == 28, "Wrong image width!"
        return x

    return Given(check)


def exits_in_forward() -> nn.Module:
    return Given(lambda x: sys.exit(3))


def raising():
    raise KeyError("a\nb")


def exiting():
    sys.exit(0)


def lazy():
    return nn.Sequential(nn.LazyConv2d(3, 3))


def on_meta():
    with torch.device("meta"):
        return small_network()


def without_weights():
    return nn.Sequential(nn.AvgPool2d(2))


def integers():
    return Given(lambda x: (x > 0).long())


@pytest.mark.parametrize(
    "factory, layer, message",
    [
        ("batch_merged", "layer", "layer layer: its output is (2, 2, 8, 8) for a batch of 1, expected maps (B, units"),
        ("batch_collapsed", "layer", "layer layer: its output is (1, 24, 8, 8) for a batch of 6, expected maps (B, un"),
        ("tokens", "layer", "layer layer: its output is (1, 64, 4), expected maps (B, units, h, w): a sequence of tok"),
        ("one_dimensional", "layer", "layer layer: its output is (1, 4, 1, 64), (1, 4, 1, 128) for an image of anoth"),
        ("several", "layer", "layer layer: its output is tuple, expected maps (B, units, h, w)"),
        ("small_network", "unused", "layer 'unused': the model has 0, 1, 2, 3"),
        ("grey", "unused", "the network fails on an image of 64 x 64 pixels and 3 channels (RuntimeError: Given grou"),
        ("needs_224", "layer", "the network fails on an image of 64 x 64 pixels and 3 channels (AssertionError: Wron"),
        ("exits_in_forward", "first", "the network fails on an image of 64 x 64 pixels and 3 channels (SystemExit: "),
        ("channels_last", "unused", "layer unused: it does not run, or returns nothing, when the network sees an im"),
        ("integers", "layer", "layer layer: its output is of type torch.int64, expected floating-point numbers"),
        ("raising", "first", f"MODEL '{FACTORIES}:raising': it cannot be built (KeyError: 'a\\nb')"),
        ("exiting", "first", f"MODEL '{FACTORIES}:exiting': it cannot be built (SystemExit: 0)"),
        ("lazy", "first", f"MODEL '{FACTORIES}:lazy': it has weights without values, expected an initialised network"),
        (
            "on_meta",
            "first",
            f"MODEL '{FACTORIES}:on_meta': it has weights without values, expected an initialised netw",
        ),
        (
            "without_weights",
            "first",
            f"MODEL '{FACTORIES}:without_weights': Sequential has no weights, expected a netw",
        ),
        ("no_such", "first", f"MODEL '{FACTORIES}:no_such': module '{FACTORIES}' has no attribute 'no_such'"),
    ],
)
def test_networks_that_do_not_fit(dissecting, tmp_path, factory, layer, message):
    said, code = dissecting(model=f"{FACTORIES}:{factory}", feature_names=layer)
    assert (said[: len(message)], code) == (message, 2)
    assert not (tmp_path / "o" / "tally.csv").exists()


def test_images_too_small_for_the_network(dissecting, tmp_path):
    data = write_small_broden(tmp_path / "small", size=2)
    said, code = dissecting(data_directory=data, model=f"{FACTORIES}:channels_last", feature_names="layer")
    assert said.startswith("the network fails on an image of 2 x 2 pixels and 3 channels (RuntimeError: ")
    assert code == 2


def test_one_image_too_small_is_named(dissecting, tmp_path):
    labels = [{"number": 1, "name": "sky", "coverage": {"object": 3.0}}]
    common = {"sh": 2, "sw": 2, "cells": {"object": [1]}}
    images = [{"name": f"p{side}", "pixels": np.zeros((side, side, 3)), **common} for side in (16, 4)]
    data = write_broden(tmp_path / "b", ["object"], labels, images)
    said, code = dissecting(data_directory=data, model=f"{FACTORIES}:channels_last", feature_names="layer")
    assert said.startswith(f"image {data / 'images/p4.png'}: the network fails on an image of 4 x 4 pixels")
    assert code == 2


# --- layers --------------------------------------------------------------------------------------------------------


def test_a_layer_is_recorded_before_an_in_place_operation():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True)).eval()
    images = torch.randn(2, 3, 8, 8)
    with torch.inference_mode(), layer_outputs(model, ["0", "1"]) as outputs:
        model(images)
        expected = model[0](images)
    assert (outputs["0"] < 0).any() and torch.equal(outputs["0"], expected)
    assert torch.equal(outputs["1"], expected.relu())


def test_channels_last_maps_are_dissected_as_their_channels_first_form(dissecting, tmp_path):
    tallies = []
    for layer in ("first", "layer"):
        assert dissecting(model=f"{FACTORIES}:channels_last", feature_names=layer, output_folder=tmp_path / layer) == (
            "",
            0,
        )
        tallies.append((tmp_path / layer / "tally.csv").read_bytes())
    assert tallies[0] == tallies[1]


@pytest.mark.parametrize(
    "shape, height, width, axes",
    [
        ((1, 5, 7, 7), 224, 224, (0, 1, 2, 3)),
        ((1, 7, 7, 5), 224, 224, (0, 3, 1, 2)),
        ((1, 512, 1, 1), 224, 224, (0, 1, 2, 3)),
        ((1, 16, 7, 14), 224, 448, (0, 1, 2, 3)),
        ((1, 7, 7, 7), 224, 224, None),
        ((1, 7, 14, 5), 224, 224, None),
        ((1, 14, 28, 28), 224, 448, None),
    ],
)
def test_maps_of_one_size_are_read_by_their_shape_or_refused(shape, height, width, axes):
    class OneSize(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Identity()

        def forward(self, x):
            assert x.shape[2:] == (height, width)
            return self.layer(torch.zeros(shape))

    if axes:
        assert find_layouts(OneSize(), ["layer"], height, width)["layer"].axes == axes
    else:
        with pytest.raises(UserError, match=r"layer layer: its output is .* for an image of .* does not tell its axes"):
            find_layouts(OneSize(), ["layer"], height, width)


def test_the_network_runs_three_times_on_one_image_to_find_the_axes():
    model, seen = Given(), []
    model.register_forward_pre_hook(lambda _, given: seen.append(tuple(given[0].shape)))
    assert find_layouts(model, ["first", "layer"], 64, 48)["layer"] == MapLayout(4, 48)
    assert seen == [(1, 3, 64, 48), (1, 3, 128, 48), (1, 3, 64, 96)]
    with pytest.raises(UserError, match="images of up to 60000 x 60000 pixels: expected at most 67,108,864 pixels"):
        find_layouts(model, ["first"], 60000, 60000)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_activations_that_are_not_finite_are_refused_by_image_and_layer(broden, bad):
    class Spoiled(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(3, 4, 8, stride=8)
            self.after = nn.Identity()
            self.seen = 0

        def forward(self, x):
            x = self.layer(x)
            self.seen += len(x)
            if self.seen > 4:
                x[4 - self.seen + len(x), 2, 1, 1] = bad
            return self.after(x)

    images, model = Broden(broden), Spoiled()
    layouts = find_layouts(model, ["after"], 64, 64)
    model.seen = 0
    with pytest.raises(UserError) as error:
        list(stream_features(model, layouts, images, batch_size=3))
    file = broden / "images" / "p4.png"
    assert str(error.value) == f"image {file}: layer after has activations that are not finite (NaN or infinite)"


# --- tables and label maps -----------------------------------------------------------------------------------------


def in_file(name: str, old: str, new: str):
    def change(root: Path) -> None:
        text = (root / name).read_bytes().decode().replace("\r\n", "\n")
        assert old in text
        (root / name).write_text(text.replace(old, new, 1))

    return change


def again(name: str, line: int):
    """Add a copy of a line to a table."""

    def change(root: Path) -> None:
        lines = (root / name).read_text().splitlines()
        (root / name).write_text("\n".join([*lines, lines[line - 1], ""]))

    return change


def large(root: Path) -> None:
    with open(root / "index.csv", "ab") as file:
        file.truncate(MOST_BYTES + 1)


def fifo(name: str):
    def change(root: Path) -> None:
        (root / name).unlink()
        os.mkfifo(root / name)

    return change


def png(name: str, colour: int, depth: int, channels: int):
    """A label map of 32 x 32 zeros, of any of PNG's colour types and depths."""

    def change(root: Path) -> None:
        rows = (b"\0" + bytes(32 * channels * depth // 8)) * 32
        chunks = {b"IHDR": struct.pack(">IIBBBBB", 32, 32, depth, colour, 0, 0, 0), b"IDAT": zlib.compress(rows)}
        with open(root / name, "wb") as file:
            file.write(b"\x89PNG\r\n\x1a\n")
            for kind, content in {**chunks, b"IEND": b""}.items():
                file.write(struct.pack(">I", len(content)) + kind + content)
                file.write(struct.pack(">I", zlib.crc32(kind + content)))

    return change


def other_format(name: str, kind: str):
    return lambda root: Image.new("RGB", (32, 32), (1, 0, 0)).save(root / name, kind)


MAP = "images/p0_object_0.png"
RGB_ONLY = "expected RGB (label = R + 256 * G)"


@pytest.mark.parametrize(
    "change, message",
    [
        (again("index.csv", 3), "index.csv, lines 3 and 8: the same image 'p1.png', expected it once"),
        (in_file("index.csv", "p1.png", "./p0.png"), "index.csv, lines 2 and 3: the same image './p0.png', exp"),
        (
            in_file("index.csv", "p0_object_0.png", "p0_object_0.png;p0_object_0.png"),
            "index.csv, line 2: object has 'p0_object_0.png' twice, expected it once",
        ),
        (in_file("index.csv", ",300", ",300; 300"), "index.csv, line 3: scene has '300' twice, expected it once"),
        (in_file("index.csv", "sw,object", "sw,object,object"), "index.csv: column 'object' is there twice, expected"),
        (in_file("label.csv", "name,category", "name,name,category"), "label.csv: column 'name' is there twice, expec"),
        (in_file("category.csv", "first,last", "last,last"), "category.csv: column 'last' is there twice, expected"),
        (in_file("c_object.csv", "frequency", "coverage"), "c_object.csv: column 'coverage' is there twice, expected"),
        (again("c_object.csv", 2), "c_object.csv, line 4: label 1 is there already"),
        (in_file("category.csv", "scene", "split"), "category.csv, line 3: category 'split', expected none of image,"),
        (
            in_file("index.csv", "64,64,32,32", "64,64,8192,8192"),
            "index.csv, line 2: sh 8192, sw 8192, expected at most 33,554,432 pixels together",
        ),
        (
            in_file("index.csv", "32,32,p0_object_0.png", "8192,4096,a;b;c"),
            "index.csv, line 2: 3 label maps of 4096 x 8192 pixels, expected at most 67,108,864 pixels together",
        ),
        (large, f"index.csv: {MOST_BYTES + 1:,} bytes, expected at most {MOST_BYTES:,}"),
        (fifo("index.csv"), "index.csv: not a regular file, expected a file"),
        (fifo("label.csv"), "label.csv: not a regular file, expected a file"),
        (fifo("category.csv"), "category.csv: not a regular file, expected a file"),
        (fifo("c_scene.csv"), "c_scene.csv: not a regular file, expected a file"),
        (fifo(MAP), f"index.csv, line 2: {{root}}/{MAP} is missing"),
        (png(MAP, 2, 16, 3), f"label map {{root}}/{MAP}: mode RGB of 16 bits, {RGB_ONLY}"),
        (png(MAP, 6, 16, 4), f"label map {{root}}/{MAP}: mode RGBA of 16 bits, {RGB_ONLY}"),
        (png(MAP, 0, 8, 1), f"label map {{root}}/{MAP}: mode L, {RGB_ONLY}"),
        (other_format(MAP, "JPEG"), f"{{root}}/{MAP}: not a readable label map (cannot identify image file"),
        (other_format(MAP, "BMP"), f"{{root}}/{MAP}: not a readable label map (cannot identify image file"),
        (other_format(MAP, "GIF"), f"{{root}}/{MAP}: not a readable label map (cannot identify image file"),
    ],
)
def test_faulty_broden_folders(dissecting, tmp_path, change, message):
    root = write_small_broden(tmp_path / "broden")
    change(root)
    message = message.format(root=root)
    message = message if str(root) in message.split(",")[0] else f"{root}/{message}"
    said, code = dissecting(data_directory=root)
    assert (said[: len(message)], code) == (message, 2)
    assert not (tmp_path / "o" / "tally.csv").exists()


def test_a_sound_label_map_of_either_kind_is_read(tmp_path):
    root = write_small_broden(tmp_path / "broden")
    for colour, channels in ((2, 3), (6, 4)):
        png(MAP, colour, 8, channels)(root)
        assert (Broden(root).labels(0).pixels == 0).all()


def test_empty_columns_are_no_duplicates(tmp_path):
    root = write_small_broden(tmp_path / "broden")
    in_file("index.csv", "object,scene", "object,scene,,")(root)
    assert len(Broden(root)) == 6


@pytest.mark.parametrize(
    "colour, depth, mode", [(0, 2, "L of 2 bits"), (0, 4, "L of 4 bits"), (2, 16, "RGB of 16 bits")]
)
def test_integers_that_pillow_would_scale_are_refused_in_a_build(tmp_path, colour, depth, mode):
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "images" / "a.jpg")
    (tmp_path / "names.csv").write_text("number,name,category\n1,tree,object\n")
    png("labels/a.png", colour, depth, 3 if colour == 2 else 1)(tmp_path)
    with pytest.raises(UserError, match=f"mode {mode}, expected a PNG of integers"):
        build(tmp_path / "images", tmp_path / "labels", tmp_path / "names.csv", tmp_path / "o")
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("iou_mode", ["lite", "original"])
def test_units_are_counted_alike_at_once_and_in_parts(broden, monkeypatch, iou_mode):
    active, generator = ActiveMaps(), torch.Generator().manual_seed(0)
    for image in range(6):
        active.put(image, torch.arange(image, 9), torch.rand(9 - image, 3, 3, generator=generator))
    summary = LayerSummary(np.full(9, 0.7), active, np.zeros((9, 6), np.float32), 0)
    once, labels = count(summary, Broden(broden), iou_mode, partners=pairings(6, 2))
    monkeypatch.setattr(counting, "MASK_PIXELS", 2 * 32 * 32)
    again, same_labels = count(summary, Broden(broden), iou_mode, partners=pairings(6, 2))
    np.testing.assert_array_equal(labels.toarray(), same_labels.toarray())
    for whole, parts in zip(once, again, strict=True):
        for name in ("truth", "intersect", "activation"):
            np.testing.assert_array_equal(getattr(whole, name), getattr(parts, name))


@pytest.mark.slow
def test_large_maps_of_many_units_take_bounded_memory(tmp_path):
    """60 masks of 4096 x 1024 pixels, of which all are on, at once: 1 GB as floats, and 6 GB as lists of pixels."""
    program = f"""
import resource, sys
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
import numpy as np, torch
from pathlib import Path
from conftest import write_broden
from netdissect.activity import ActiveMaps, LayerSummary
from netdissect.broden import Broden
from netdissect.counting import count
labels = [{{"number": 1, "name": "s", "coverage": {{"scene": 1}}}}]
image = {{"name": "a", "pixels": np.zeros((8, 8)), "sh": 4096, "sw": 1024, "cells": {{"scene": [1]}}}}
broden = Broden(write_broden(Path({str(tmp_path)!r}) / "b", ["scene"], labels, [image]))
active = ActiveMaps()
active.put(0, torch.arange(60), torch.ones(60, 2, 2))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
(counts,), _ = count(LayerSummary(np.zeros(60), active, np.zeros((60, 1), np.float32), 0), broden)
assert (counts.intersect[:, 1] == 4096 * 1024).all()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    done = call("-c", program)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 1800  # MB


# --- tallies and thresholds ----------------------------------------------------------------------------------------


def test_a_unit_that_is_twice_in_a_long_tally_is_found_at_once(tmp_path):
    rows = [f"{unit},object,sky,0.5" for unit in [*range(1, 60_000), 59_999]]
    (tmp_path / "tally.csv").write_text("\n".join(["unit,category,label,score", *rows]))
    start = time.monotonic()
    with pytest.raises(UserError, match=r"tally\.csv: unit 59999 has more than one row"):
        read_tally(tmp_path / "tally.csv")
    assert time.monotonic() - start < 5


def test_tallies_that_are_not_regular_or_have_a_column_twice(tmp_path):
    (tmp_path / "twice.csv").write_text("unit,category,label,score,score\n1,object,sky,0.5,0.1\n")
    os.mkfifo(tmp_path / "fifo.csv")
    with open(tmp_path / "large.csv", "wb") as file:
        file.truncate((1 << 28) + 1)
    for name, message in (
        ("twice", "column 'score' is there twice, expected it once"),
        ("fifo", "not a regular file, expected a file"),
        ("large", "268,435,457 bytes, expected at most 268,435,456"),
    ):
        with pytest.raises(UserError) as error:
            read_tally(tmp_path / f"{name}.csv")
        assert str(error.value) == f"tally {tmp_path / name}.csv: {message}"


def test_quantile_files_that_would_hang_or_take_memory(tmp_path):
    os.mkfifo(tmp_path / "fifo.npy")
    np.savez(tmp_path / "archive.npz", np.zeros(3))
    np.save(tmp_path / "long.npy", np.full(3, np.finfo(np.longdouble).max))
    with open(tmp_path / "huge.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": (10**13,)})
    for name, message in (
        ("fifo.npy", "not a regular file"),
        ("archive.npz", "an archive of arrays, expected a .npy file"),
        ("long.npy", "expected finite numbers only"),
        ("huge.npy", "not a readable .npy file of numbers"),
    ):
        with pytest.raises(UserError, match=rf"quantile file .*{name}: {message}"):
            read_thresholds(tmp_path / name, 3)


# --- what a tally was made of --------------------------------------------------------------------------------------


def test_a_tally_says_what_it_was_made_of(dissecting, tmp_path):
    assert dissecting(preprocess="imagenet", quantile="0.01") == ("", 0)
    tally = tmp_path / "o" / "tally.csv"
    made_of = read_made_of(tally)
    assert made_of == {
        "format": 1,
        "arch": f"{FACTORIES}:small_network",
        "topk": None,
        "weights": weights_fingerprint(small_network()),
        "layer": "0",
        "preprocess": "imagenet",
        "quantile": 0.01,
        "quantile_file": None,
        "data": "tiny_broden",
        "material": "photographed",
        "data_fingerprint": data_fingerprint(Broden(tmp_path / "tiny_broden")),
        "images": 6,
        "categories": ["object", "scene"],
        "iou_mode": "lite",
        "tally": tally_fingerprint(tally),
    }
    quantiles = tmp_path / "q.npy"
    shutil.copy(tmp_path / "o" / "quantile.npy", quantiles)
    assert dissecting(quantile_file=quantiles) == ("", 0)
    assert len(read_made_of(tally)["quantile_file"]) == 64
    tally.write_bytes(tally.read_bytes().replace(b"\n", b"\r\n"))
    assert read_made_of(tally)["layer"] == "0"  # line ends do not count
    tally.write_text("unit,category,label,score\n")
    with pytest.raises(UserError, match="the record beside it is of another tally"):
        read_made_of(tally)
    (tmp_path / "o" / "tally.made_of.json").unlink()
    assert read_made_of(tally) is None


def test_the_fingerprint_of_data_is_that_of_its_content(tmp_path):
    first = data_fingerprint(Broden(write_small_broden(tmp_path / "a")))
    shutil.copytree(tmp_path / "a", tmp_path / "elsewhere" / "b")
    os.utime(tmp_path / "elsewhere" / "b" / "images" / "p0.png", (0, 0))
    assert data_fingerprint(Broden(tmp_path / "elsewhere" / "b")) == first
    assert data_fingerprint(Broden(tmp_path / "a", categories=["object"])) != first
    assert data_fingerprint(Broden(tmp_path / "a", sample=3)) != first
    in_file("label.csv", "2,sea", "2,lake")(tmp_path / "a")
    assert data_fingerprint(Broden(tmp_path / "a")) != first


def test_the_shipped_tally_has_its_record():
    made_of = read_made_of(ROOT / project.SHIPPED_TALLY)
    model, about = load_snapshot(ROOT / project.SHIPPED_SNAPSHOT)
    expected = {"arch": "resnet18_fc_ma", "topk": 5, "layer": "layer4", "data": "mini_broden", "images": 1000}
    expected["material"] = "drawn"
    assert differences(made_of, {**expected, "weights": weights_fingerprint(model), "iou_mode": "lite"}) == []
    assert about["arch"] == made_of["arch"]


# --- results of one run --------------------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("stage", ["write_tally", "write_agreement", "write_chance", "write_report", "write_companion"])
def test_results_are_those_of_one_run_after_a_failure(dissecting, tmp_path, monkeypatch, stage):
    def fail(*_):
        raise UserError("no more")

    assert dissecting(chance_rounds="1") == ("", 0)
    before = contents(tmp_path / "o")
    results = {"tally.csv", "tally.made_of.json", "agreement.csv", "chance.json", "quantile.npy", "html/0.html"}
    assert results < set(before)
    with monkeypatch.context() as context:
        context.setattr(dissection, stage, fail)
        assert dissecting(chance_rounds="1", quantile="0.1") == ("no more", 2)
    after = contents(tmp_path / "o")
    assert {name: after.get(name) for name in before} == before
    assert all(name.startswith("cache/") for name in set(after) - set(before))
    assert dissecting(quantile="0.1", feature_names="['1']") == ("", 0)
    last = contents(tmp_path / "o")
    assert "html/1.html" in last and "html/0.html" not in last and "chance.json" not in last


@pytest.mark.parametrize("failing", [1, 4, 6, 9])
def test_results_that_cannot_all_be_put_in_place_are_put_back(tmp_path, monkeypatch, failing):
    for name in RESULTS[:2] + RESULTS[3:]:
        (tmp_path / name).write_text(f"old {name}")
    before = contents(tmp_path)
    rename, calls = os.rename, []

    def failing_rename(source, target):
        calls.append(source)
        if len(calls) == failing:
            raise PermissionError(13, "Permission denied", str(target))
        rename(source, target)

    monkeypatch.setattr(os, "rename", failing_rename)
    with pytest.raises(UserError, match=r"cannot be written \(Permission denied\)"), swapped_in(tmp_path) as new:
        for name in RESULTS:
            (new / name).write_text("new")
    assert contents(tmp_path) == before


@pytest.mark.parametrize("stage", ["measure_layers", "score_layer", "write_tally", "write_report", "write_companion"])
def test_a_result_folder_that_is_removed_meanwhile(dissecting, tmp_path, monkeypatch, stage):
    own = getattr(dissection, stage)

    def removing(*args):
        result = own(*args)
        shutil.rmtree(tmp_path / "o")
        return result

    monkeypatch.setattr(dissection, stage, removing)
    said, code = dissecting()
    if code:
        assert said == f"{tmp_path / 'o'}: removed, or changed, while the run was writing to it"
        assert not (tmp_path / "o" / "tally.csv").exists()
    else:
        assert {"tally.csv", "tally.made_of.json", "quantile.npy", "html/0.html"} < set(contents(tmp_path / "o"))


def test_leftovers_of_a_killed_run_are_removed(tmp_path):
    (tmp_path / ".netdissect-new-abc" / "html").mkdir(parents=True)
    with swapped_in(tmp_path) as new:
        (new / "tally.csv").write_text("new")
    assert contents(tmp_path) == {"tally.csv": b"new"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tally.csv"]


@pytest.mark.parametrize("reader", ["image", "labels"])
def test_a_killed_worker_is_one_line(dissecting, tmp_path, monkeypatch, reader):
    monkeypatch.setattr(Broden, reader, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    said, code = dissecting(workers="1")
    assert (said, code) == ("a data loading process was killed (out of memory?); try fewer --workers", 2)
    assert not (tmp_path / "o" / "tally.csv").exists()


# --- caches --------------------------------------------------------------------------------------------------------


def compressed(folder: Path) -> None:
    with np.load(folder / "summary.npz") as table:
        np.savez_compressed(folder / "summary.npz", **dict(table))


def of_other_units(folder: Path) -> None:
    with np.load(folder / "summary.npz") as table:
        np.savez(folder / "summary.npz", **{**table, "thresholds": table["thresholds"][:2]})


def with_nan(folder: Path) -> None:
    with np.load(folder / "summary.npz") as table:
        np.savez(folder / "summary.npz", **{**table, "thresholds": np.full_like(table["thresholds"], np.nan)})


def peaks_with_nan(folder: Path) -> None:
    peaks = np.fromfile(folder / "peaks.f32", np.float32)
    peaks[1] = np.nan
    peaks.tofile(folder / "peaks.f32")


def of_images_beyond(folder: Path) -> None:
    with np.load(folder / "maps.npz") as table:
        np.savez(folder / "maps.npz", **{**table, "images": table["images"] + 100})


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda folder: (folder / "key.json").write_text("[1, 2]"), "is damaged (key.json is not a JSON object)"),
        (lambda folder: (folder / "key.json").write_text("3"), "is damaged (key.json is not a JSON object)"),
        (lambda folder: (folder / "key.json").write_text("{}"), "differs in format, weights, layer"),
        (lambda folder: (folder / "key.json").write_text("[" * 100_000), "is damaged ("),
        (lambda folder: (folder / "summary.npz").write_bytes(b"PK"), "is damaged ("),
        (fifo("maps.npz"), "is damaged (arrays "),
        (fifo("key.json"), "is damaged (key "),
        (compressed, "is damaged (summary.npz is compressed)"),
        (of_other_units, "is damaged (summary.npz is of other units)"),
        (with_nan, "is damaged (summary.npz has thresholds that are not finite)"),
        (of_images_beyond, "is damaged (maps.npz is of other images)"),
        (lambda folder: (folder / "peaks.f32").unlink(), "is damaged (peaks "),
        (fifo("peaks.f32"), "is damaged (peaks "),
        (lambda folder: (folder / "peaks.f32").write_bytes(b""), "is damaged ("),
        (lambda folder: os.truncate(folder / "peaks.f32", 16), "is damaged (peaks.f32 is incomplete)"),
        (lambda folder: os.truncate(folder / "peaks.f32", 13), "is damaged ("),
        (peaks_with_nan, "is damaged (peaks.f32 has values that are not finite)"),
    ],
)
def test_caches_that_are_not_whole_are_made_again(dissecting, tmp_path, caplog, change, reason):
    assert dissecting(clean="False") == ("", 0)
    expected = (tmp_path / "o" / "tally.csv").read_bytes()
    change(tmp_path / "o" / "cache")
    with caplog.at_level("INFO"):
        assert dissecting(clean="False") == ("", 0)
    assert f"0: not reusing {tmp_path / 'o' / 'cache'}, which {reason}" in caplog.text
    assert (tmp_path / "o" / "tally.csv").read_bytes() == expected
    caplog.clear()
    with caplog.at_level("INFO"):
        assert dissecting(clean="True") == ("", 0)
    assert "reusing the activations" in caplog.text


def test_files_of_other_origin_in_the_place_of_a_cache_are_kept(dissecting, tmp_path):
    cache = tmp_path / "o" / "cache"
    cache.mkdir(parents=True)
    (cache / "notes.json").write_text("{}")
    message = f"{cache}: it has files of other origin (notes.json), and a cache would replace them; move them"
    assert dissecting() == (message, 2)
    assert (cache / "notes.json").read_text() == "{}"
    (cache / "notes.json").rename(tmp_path / "notes.json")
    cache.rmdir()
    cache.symlink_to(tmp_path)
    assert dissecting() == (f"{cache}: expected no file or link of this name: the cache is stored there", 2)
    assert (tmp_path / "notes.json").exists()


# --- settings.py ---------------------------------------------------------------------------------------------------


@pytest.fixture
def edited(tmp_path):
    """What netdissect/main.py of a copy of the checkout says when its settings.py is edited."""
    for name in ("explain", "loader", "models", "netdissect", "report", "scenes", "util", "settings.py"):
        place = tmp_path / "checkout" / name
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        place.parent.mkdir(exist_ok=True)
        copy(
            ROOT / name, place, **({"ignore": shutil.ignore_patterns("__pycache__")} if copy is not shutil.copy else {})
        )

    def say(change, *flags):
        file = tmp_path / "checkout" / "netdissect" / "settings.py"
        change(file)
        return call(tmp_path / "checkout" / "netdissect" / "main.py", *flags, "--model", "os:getcwd")

    return say


def setting(old: str, new: str):
    return lambda file: in_file("settings.py", old, new)(file.parent)


PLACE = "netdissect/main.py: error: netdissect/settings.py"


@pytest.mark.slow
def test_settings_that_are_edited_badly(edited, tmp_path):
    file = tmp_path / "checkout" / "netdissect" / "settings.py"
    original = file.read_text()
    lines = original.splitlines()
    topn = next(number for number, line in enumerate(lines, 1) if line.startswith("TOPN"))
    for change, message in (
        (
            setting("TOPN = 10", "TOPN = ="),
            f", line {topn}: SyntaxError: invalid syntax; expected lines such as TOPN =",
        ),
        (setting("TOPN = 10", "TOPN = ten"), f", line {topn}: NameError: name 'ten' is not defined; expected"),
        (setting("TOPN = 10", "raise SystemExit(0)"), f", line {topn}: SystemExit: 0; expected lines such"),
        (setting("TOPN = 10", "raise BaseException('x')"), f", line {topn}: BaseException: x; expected lines such"),
        (setting("TOPN = 10", "  TOPN = 10"), f", line {topn}: IndentationError: unexpected indent; expected"),
        (setting("TOPN = 10", ""), ": no TOPN, expected TOPN = a whole number from 1 to 292"),
        (setting("MODEL_FILE =", "MODELFILE ="), ": no MODEL_FILE, expected MODEL_FILE = None or a path"),
        (setting("TOPN = 10", "TOPN = '10'"), ": TOPN = '10': expected a whole number from 1 to 292"),
        (setting("MODEL = None", "MODEL = {1: 2}"), ": MODEL = {1: 2}: expected None or a name"),
        (setting("OUTPUT_FOLDER = None", "OUTPUT_FOLDER = 5"), ": OUTPUT_FOLDER = 5: expected None or a path"),
        (setting("OUTPUT_FOLDER = None", "OUTPUT_FOLDER = 'a\\0b'"), ": OUTPUT_FOLDER = 'a\\x00b': expected None or"),
        (
            setting("['layer4']", "'layer4'") if "['layer4']" in original else setting('["layer4"]', '"layer4"'),
            ": FEATURE_NAMES = 'layer4': expected a list of layer names",
        ),
        (setting("TOPN = 10", "TOPN = [10] * 1000"), ": TOPN = [10, 10, "),
        (setting("TOPN = 10", "TOPN = 10 ** 5000"), ": TOPN = a value of type int: expected a whole number from 1 to"),
        (setting("TOPN = 10", "TOPN = 10\nCATAGORIES = None"), ": CATEGORIES and CATAGORIES, expected one of them"),
        (lambda file: file.write_bytes(b"TOPN = '\xff'\n"), ": SyntaxError: "),
        (lambda file: fifo("settings.py")(file.parent), ""),
    ):
        file.unlink(missing_ok=True)
        file.write_text(original)
        done = edited(change)
        assert done.returncode == 2, done.stderr
        expected = PLACE + message if message else "netdissect/main.py: error: settings "
        # Not every Python says on which line bytes are not UTF-8.
        assert done.stderr.replace(", line 1: SyntaxError", ": SyntaxError").startswith(
            expected.replace(", line 1: SyntaxError", ": SyntaxError")
        ), done.stderr
        assert done.stderr.count("\n") == 1, done.stderr


def test_settings_with_percent_signs_and_unknown_names(edited):
    help_ = edited(setting("DATASET = None", 'DATASET = "50%d of %(prog)s"\nTOP_N = 3'), "--help")
    assert help_.returncode == 0, help_.stderr
    assert "default '50%d of %(prog)s'" in " ".join(help_.stdout.split())
    assert "top_n" not in help_.stdout
    done = edited(lambda file: None)
    assert "netdissect/settings.py: TOP_N is not a setting and has no effect\n" in done.stdout
    assert done.stderr.endswith("MODEL 'os:getcwd': it returned str, expected a torch.nn.Module\n")


# --- text ----------------------------------------------------------------------------------------------------------


def test_labels_with_dollars_and_control_characters(dissecting, tmp_path):
    root = write_small_broden(tmp_path / "broden")
    for name in ("label.csv", "c_object.csv"):
        text = (root / name).read_text()
        (root / name).write_text(text.replace("sky", "$\\frac{").replace("sea", "a$b$\x9b2J\u202e"))
    assert dissecting(data_directory=root, score_threshold="0") == ("", 0)
    graph = (tmp_path / "o" / "html" / "0.svg").read_text()
    assert "$\\frac{" in graph or "a$b$" in graph


def test_faults_are_printed_without_control_characters(tmp_path):
    root = write_small_broden(tmp_path / "broden")
    in_file("label.csv", "sky", "s\x9bky")(root)
    (root / "images" / "p0.png").write_bytes(b"")
    done = call("-m", "netdissect.broden", "check", root)
    assert done.returncode == 1
    assert "\\x9b" in done.stdout and "\x9b" not in done.stdout
