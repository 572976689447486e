"""Checking, building and writing Broden-format folders."""

import os
import re

import numpy as np
import pytest
from conftest import call, write_broden
from PIL import Image
from test_netdissect import CATEGORIES, IMAGES, LABELS

from netdissect.broden import Broden
from netdissect.broden.__main__ import get_args_parser
from netdissect.broden.build import build
from netdissect.broden.check import check
from netdissect.broden.writer import BrodenWriter
from util.cli import UserError

NAMES = "number,name,category\n"


@pytest.fixture
def sources(tmp_path):
    """Two images with an object map each (8 bit and palette), one with a 16-bit part map."""
    for folder in ("images", "labels/object", "labels/part"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("a", "b"):
        Image.new("RGB", (8, 6), (9, 9, 9)).save(tmp_path / "images" / f"{name}.jpg")
    a, b, part = np.zeros((3, 4), np.uint8), np.zeros((3, 4), np.uint8), np.zeros((3, 4), np.uint16)
    a[0], b[:2], part[1, 1] = 1, 2, 300
    Image.fromarray(a).save(tmp_path / "labels/object/a.png")
    Image.fromarray(b).convert("P").save(tmp_path / "labels/object/b.png")
    Image.fromarray(part).save(tmp_path / "labels/part/a.png")
    (tmp_path / "names.csv").write_text(f"{NAMES}1,tree,object\n2,sea,object\n300,leaf,part\n")
    return tmp_path


def run_build(root):
    return build(root / "images", root / "labels", root / "names.csv", root / "broden")


def test_a_built_folder_is_sound_and_says_what_the_maps_say(sources):
    assert run_build(sources) == 2
    assert check(sources / "broden") == []
    broden = Broden(sources / "broden")
    assert broden.categories == ["object", "part"]
    assert broden.labels(0).pixels[0].tolist() == [[1] * 4, [0] * 4, [0] * 4]
    assert broden.labels(0).pixels[1][1, 1] == 300
    assert broden.labels(1).pixels.max() == 2
    done = call("-m", "netdissect.broden", "check", sources / "broden")
    assert (done.returncode, done.stdout) == (0, f"{sources / 'broden'}: no faults\n")


@pytest.mark.parametrize("words", [[], ["check"], ["check", "a", "--nothing"], ["build", "--images", "a"], ["nothing"]])
def test_bad_flags_are_one_line(words, capsys):
    with pytest.raises(UserError, match=r"arguments|invalid choice"):
        get_args_parser().parse_args(words)
    assert capsys.readouterr().err == ""


def other_image(root, make):
    """Something else in an image's place."""
    image = root / "images/a.jpg"
    image.unlink()
    make(image)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda root: Image.new("L", (4, 3)).save(root / "images/c.png"), "no label map named c.png"),
        (lambda root: Image.new("L", (4, 3), 7).save(root / "labels/object/a.png"), "label 7 is not among the names"),
        (
            lambda root: Image.new("L", (5, 3), 0).save(root / "labels/part/a.png"),
            "5 x 3 pixels, another category's map has 4 x 3",
        ),
        (lambda root: Image.new("RGB", (4, 3)).save(root / "labels/object/a.png"), "mode RGB, expected a PNG of"),
        (lambda root: (root / "names.csv").write_text("number,name\n"), "no column category"),
        (lambda root: (root / "names.csv").write_text(f"{NAMES}0,x,object\n"), "number '0', expected 1 to"),
        (lambda root: (root / "names.csv").write_text(f"{NAMES}1,x,../y\n"), "line 2: category '../y', expected"),
        (lambda root: (root / "broden").mkdir(), "already exists"),
        (lambda root: other_image(root, os.mkfifo), "a.jpg: not a regular file"),
        (lambda root: other_image(root, lambda path: path.symlink_to("/dev/zero")), "a.jpg: not a regular file"),
    ],
)
def test_sources_that_do_not_fit(sources, change, message):
    change(sources)
    with pytest.raises(UserError, match=message):
        run_build(sources)
    assert not (sources / "broden" / "index.csv").exists()
    assert not list(sources.glob(".broden-*"))


def test_a_written_folder_has_maps_and_whole_image_labels(sources, tmp_path):
    names = {"object": {1: "tree"}, "part": {300: "leaf", 2: "bark"}, "scene": {7: "park-s"}}
    tree, leaf = np.array([[1, 0, 0], [0, 0, 1]]), np.array([[300, 0, 300], [0, 0, 0]])
    with BrodenWriter(tmp_path / "new" / "written", names) as writer:
        writer.add(sources / "images/a.jpg", "0-a.jpg", (2, 3), {"object": tree, "part": leaf}, {"part": [2]})
        writer.add(sources / "images/a.jpg", "1-a.jpg", (6, 8), {}, {"scene": [7]})
        assert not (tmp_path / "new" / "written").exists()
    assert check(tmp_path / "new" / "written") == []
    broden = Broden(tmp_path / "new" / "written")
    both, scene = broden.labels(0), broden.labels(1)
    assert both.pixels.tolist() == [tree.tolist(), leaf.tolist()]
    assert both.pixel_categories.tolist() == [0, 1]
    assert (both.scalars.tolist(), both.scalar_categories.tolist()) == ([2], [1])
    assert scene.pixels.shape == (0, 6, 8)
    assert (scene.scalars.tolist(), scene.scalar_categories.tolist()) == ([7], [2])
    assert (broden.rows[1].image, broden.image(1).size) == ((6, 8), (8, 6))


def test_a_folder_that_is_not_finished_leaves_nothing(sources, tmp_path):
    with pytest.raises(RuntimeError), BrodenWriter(tmp_path / "written", {"scene": {7: "park-s"}}) as writer:
        writer.add(sources / "images/a.jpg", "a.jpg", (6, 8), {}, {"scene": [7]})
        raise RuntimeError
    assert not list(tmp_path.glob("*written*"))


def test_every_fault_is_listed_with_its_row(tmp_path):
    folder = write_broden(tmp_path / "b", CATEGORIES, LABELS, IMAGES)
    (folder / "images" / "A.png").unlink()
    Image.new("L", (2, 2)).save(folder / "images" / "A_part_0.png")
    Image.new("RGB", (3, 2)).save(folder / "images" / "B_object_0.png")
    Image.new("RGB", (5, 4)).save(folder / "images" / "B.png")
    scenes = folder / "c_scene.csv"
    scenes.write_text(re.sub(r",1,([0-9.]+)\n", r",many,\1\n", scenes.read_text(), count=1))
    faults = check(folder)
    parts = (
        "index.csv, line 2: ",
        "A.png: no such file",
        "A_part_0.png: mode L",
        "3 x 2 pixels, index says 2 x 2",
        "index.csv, line 3: ",
        "B.png is 5 x 4, ih and iw say 4 x 4",
        "c_object.csv, line 2: coverage 5",
        "frequency 1, the maps have it in 0 images",
        "c_scene.csv, line 2: frequency many, the maps have",
    )
    for part in parts:
        assert any(part in fault for fault in faults), (part, faults)
