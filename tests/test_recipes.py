"""Recipes: small trees in the layouts of public data, built, and counted again from their raw label files."""

import csv
import json
import os
import shutil
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from matplotlib.colors import CSS4_COLORS, XKCD_COLORS, to_rgb
from PIL import Image

from explain.naming import plain_label
from netdissect.broden import Broden
from netdissect.broden.__main__ import main
from netdissect.broden.build import build_recipe
from netdissect.broden.check import check
from netdissect.broden.colours import NAMES, name_colours, resize_mean
from netdissect.broden.label_maps import resize_nearest
from netdissect.broden.recipe import read_recipe
from util.cielab import lab
from util.cli import UserError

RECIPES = ROOT / "netdissect" / "dataset" / "recipes"
PALETTE = [value for number in range(256) for value in (number, 255 - number, number * 7 % 256)]


def save(path: Path, pixels, palette=False, **options) -> Path:
    """Write an array, or an image, as a file of any type."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(np.asarray(pixels))
    if palette:
        image = image.convert("P")
        image.putpalette(PALETTE)
    image.save(path, **options)
    return path


def photo(seed: int, size=(12, 16)) -> np.ndarray:
    """Random pixels (H, W, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def numbers(seed: int, values, size=(12, 16), kind=np.uint8) -> np.ndarray:
    """A label map (H, W) of random values, in blocks that survive halving."""
    drawn = np.random.default_rng(seed).choice(values, (size[0] // 4, size[1] // 4))
    return np.kron(drawn, np.ones((4, 4), int)).astype(kind)


def write_recipe(folder: Path, sources: list[dict], **keys) -> Path:
    file = folder / "recipe.json"
    file.write_text(json.dumps({"sources": sources, **keys}))
    return file


def built(file: Path, output: Path) -> Broden:
    """What a recipe makes, checked."""
    build_recipe(read_recipe(file), output)
    assert check(output) == []
    return Broden(output)


def table(output: Path, category: str) -> dict[str, tuple[int, float]]:
    """Frequency and coverage by label, as c_<category>.csv says."""
    with open(output / f"c_{category}.csv", newline="") as file:
        return {row["name"]: (int(row["frequency"]), float(row["coverage"])) for row in csv.DictReader(file)}


def counted(maps: list[np.ndarray], names: dict[int, str], size: tuple[int, int] = (6, 8)):
    """The same by a plain count of label maps (H, W), each pixel of the smaller ones the one around its centre."""
    images, coverage = defaultdict(int), defaultdict(float)
    for whole in maps:
        rows, columns = (
            [int((i + 0.5) * of / to) for i in range(to)] for of, to in zip(whole.shape, size, strict=True)
        )
        small = [[whole[y, x] for x in columns] for y in rows]
        for number, name in names.items():
            share = float((np.array(small) == number).mean())
            images[name] += share > 0
            coverage[name] += share
    return {name: (images[name], round(coverage[name], 6)) for name in images if images[name]}


def csv_names(file: Path) -> dict[int, str]:
    with open(file, newline="") as opened:
        return {int(row["number"]): row["name"] for row in csv.DictReader(opened)}


@pytest.fixture
def home(tmp_path):
    """A copy of the recipes at their place in a repository, whose data/ is empty."""
    shutil.copytree(RECIPES, tmp_path / "netdissect" / "dataset" / "recipes")
    return tmp_path


def recipe_in(home: Path, name: str) -> Path:
    return home / "netdissect" / "dataset" / "recipes" / name


def test_voc_has_palettes_void_borders_and_images_without_a_map(home, capsys):
    root = home / "data/VOCdevkit/VOC2012"
    maps = [numbers(seed, [0, 7, 15, 255]) for seed in range(2)]
    for index in range(5):
        save(root / f"JPEGImages/2007_{index}.jpg", photo(index))
    for index, pixels in enumerate(maps):
        save(root / f"SegmentationClass/2007_{index}.png", pixels, palette=True)
    broden = built(recipe_in(home, "voc2012.json"), home / "out")
    names = csv_names(RECIPES / "voc2012.csv")
    assert (len(names), names[7], names[15]) == (20, "car", "person")
    assert table(home / "out", "object") == counted(maps, names)
    assert len(broden) == 2
    said = capsys.readouterr().err
    assert "JPEGImages: 3 of 5 images have no label map\n" in said and "left out 3 images without any label" in said
    assert "labels that no image has: 18 (aeroplane, bicycle, bird, boat, bottle, ...)\n" in said


def test_ade20k_has_folders_of_its_own_for_training_and_validation(home):
    root = home / "data/ADEChallengeData2016"
    places = ["training/ADE_train_00000001", "training/ADE_train_00000002", "validation/ADE_val_00000001"]
    maps = [numbers(seed, [0, 1, 2, 21, 150]) for seed in range(3)]
    for seed, place in enumerate(places):
        save(root / f"images/{place}.jpg", photo(seed))
        save(root / f"annotations/{place}.png", maps[seed])
    broden = built(recipe_in(home, "ade20k.json"), home / "out")
    names = csv_names(RECIPES / "ade20k.csv")
    assert (len(names), names[1], names[21], names[150]) == (150, "wall", "car", "flag")
    assert table(home / "out", "object") == counted(maps, names)
    assert [str(row.file.relative_to(home / "out/images")) for row in broden.rows] == [f"{p}.jpg" for p in places]


def test_coco_stuff_counts_from_0_and_255_is_void(home):
    root = home / "data/cocostuff/dataset"
    places = ["train2017/000000000009", "val2017/000000000139"]
    maps = [numbers(seed, [0, 11, 156, 181, 255]) for seed in range(2)]
    for seed, place in enumerate(places):
        save(root / f"images/{place}.jpg", photo(seed))
        save(root / f"annotations/{place}.png", maps[seed])
    built(recipe_in(home, "coco_stuff.json"), home / "out")
    names = csv_names(RECIPES / "coco_stuff.csv")
    assert (len(names), names[0], names[156], names[181]) == (171, "person", "sky-other", "wood")
    assert 11 not in names  # street sign, which COCO never used
    assert table(home / "out", "object") == counted(maps, names)


def test_camvid_has_a_name_for_0(home):
    root = home / "data/CamVid"
    maps = []
    for seed, split in enumerate(["train", "val", "test"]):
        maps.append(numbers(seed, [0, 6, 10, 11]))
        save(root / split / f"{seed}.png", photo(seed))
        save(root / f"{split}annot" / f"{seed}.png", maps[-1])
    broden = built(recipe_in(home, "camvid.json"), home / "out")
    assert table(home / "out", "object") == counted(maps, {0: "sky", 6: "sign symbol", 10: "bicyclist"})
    assert [row.file.parent.name for row in broden.rows] == ["train", "val", "test"]


def test_label_maps_of_colours(home):
    root = home / "data/camvid32"
    colours = {
        0: (0, 0, 0),
        1: (128, 128, 128),
        2: (64, 0, 128),
        3: (1, 2, 3),
    }  # void, sky, car, and one without a name
    maps = [numbers(seed, list(colours)) for seed in range(2)]
    for seed, pixels in enumerate(maps):
        save(root / f"701_StillsRaw_full/{seed}.png", photo(seed))
        save(root / f"LabeledApproved_full/{seed}_L.png", np.array(list(colours.values()), np.uint8)[pixels])
    built(recipe_in(home, "camvid32.json"), home / "out")
    assert table(home / "out", "object") == counted(maps, {1: "Sky", 2: "Car"})


@pytest.mark.parametrize(
    "recipe, folders, category, labels",
    [
        ("dtd.json", ["dtd/images/banded", "dtd/images/zigzagged"], "texture", ["banded", "zigzagged"]),
        ("folder_tree.json", ["my_images/train/park", "my_images/val/park"], "scene", ["park-s", "park-s"]),
    ],
)
def test_whole_image_labels_by_folder(home, recipe, folders, category, labels):
    for folder in folders:
        for index in range(2):
            save(home / "data" / folder / f"{index}.jpg", photo(index))
    (home / "data" / folders[0] / ".hidden").mkdir()
    broden = built(recipe_in(home, recipe), home / "out")
    assert table(home / "out", category) == {label: (2 * labels.count(label),) * 2 for label in labels}
    assert [broden.names[row.scalars[0][1]] for row in broden.rows] == [name for name in labels for _ in range(2)]
    assert [(row.height, row.width) for row in broden.rows] == [(6, 8)] * 4
    assert {plain_label(name) for name in broden.names} >= {name.removesuffix("-s") for name in labels}


def test_photo_concepts_merges_names_and_keeps_scenes_apart(home):
    root = home / "data/photo_concepts_sources"
    msrc, camvid = numbers(1, [0, 1, 8, 15, 13]), numbers(2, [0, 1, 6, 10, 11])
    save(root / "msrc_v2/images/a.jpg", photo(1))
    save(root / "msrc_v2/labels/a.png", msrc)
    save(root / "camvid/images/a.jpg", photo(2))
    save(root / "camvid/labels/a.png", camvid)
    save(root / "dtd/cracked/a.jpg", photo(3))
    for split, scene in (("train", "mountain"), ("val", "street")):
        save(root / f"scenes6/{split}/{scene}/a.jpg", photo(4))
    broden = built(recipe_in(home, "photo_concepts.json"), home / "out")
    assert broden.categories == ["color", "object", "texture", "scene"]
    both = {"building": 1, "mountain": 8, "sign": 15, "bicycle": 13}
    street = {"building": 1, "sign": 6, "bicyclist": 10, "sky": 0}
    expected: dict = defaultdict(lambda: np.zeros(2))
    for own, pixels in ((both, msrc), (street, camvid)):
        for name, counts in counted([pixels], {number: name for name, number in own.items()}, (112, 112)).items():
            expected[name] += counts
    found = table(home / "out", "object")
    assert found.keys() == expected.keys() == both.keys() | street.keys()
    assert np.allclose([found[name] for name in found], [expected[name] for name in found], atol=1e-5)
    assert table(home / "out", "scene") == {"mountain-s": (1, 1), "street-s": (1, 1)}
    assert broden.image(0).size == (224, 224)
    assert (broden.rows[0].height, broden.rows[0].width) == (112, 112)
    with open(home / "out/label.csv", newline="") as file:
        synonyms = {row["name"]: row["syns"] for row in csv.DictReader(file)}
    assert (synonyms["sign"], synonyms["building"]) == ("sign symbol", "")


@pytest.fixture
def pair(tmp_path):
    """Two sources with one label each: `Tree` in one, `tree` and `pavement` in the other, and a folder of parks."""
    save(tmp_path / "one/images/a.png", photo(1))
    save(tmp_path / "one/labels/a.png", numbers(1, [300, 9], kind=np.uint16))
    save(tmp_path / "two/images/a.png", photo(2))
    save(tmp_path / "two/labels/a.png", numbers(2, [1, 2, 3]))
    save(tmp_path / "scenes/park/b.png", photo(3))
    (tmp_path / "one.csv").write_text("number,name\n300,Tree\n")
    (tmp_path / "two.csv").write_text("number,name\n1,tree\n2,pavement\n3,sidewalk\n")
    return tmp_path


ONE = {"images": "one/images", "labels": "one/labels", "names": "one.csv", "category": "object"}
TWO = {"images": "two/images", "labels": "two/labels", "names": "two.csv", "category": "part"}
PARKS = {"folders": "scenes", "category": "scene"}


def test_a_label_has_one_number_whatever_its_case_source_and_category(pair):
    file = write_recipe(pair, [ONE, TWO], synonyms={"walk": ["Pavement", "SIDEWALK"]})
    broden = built(file, pair / "out")
    assert {number: name for number, name in enumerate(broden.names) if name} == {300: "Tree", 2: "walk"}
    second = broden.labels(1).pixels[0]
    expected = numbers(2, [1, 2, 3])[1::2, 1::2]
    assert np.array_equal(second, np.where(expected == 1, 300, 2))
    rows = (pair / "out/label.csv").read_text().splitlines()
    assert rows[1].startswith("2,walk,part(1),1,") and rows[1].endswith(",Pavement;SIDEWALK")
    assert rows[2].startswith("300,Tree,object(1);part(1),2,")


def test_an_image_of_two_sources_gets_the_labels_of_both(pair):
    (pair / "scenes/park/a.png").symlink_to(pair / "one/images/a.png")
    top, left = np.zeros((2, 12, 16), np.uint16)
    top[:6], left[:, :8] = 300, 300
    save(pair / "one/labels/a.png", top)
    save(pair / "more/a.png", left)
    again = {**ONE, "labels": "more"}
    broden = built(write_recipe(pair, [ONE, again, PARKS]), pair / "out")
    assert len(broden) == 2  # one/images/a.png and scenes/park/b.png
    labels = broden.labels(0)
    assert [broden.names[number] for number in labels.scalars] == ["park-s"]
    first, second = labels.pixels
    assert (first[:3] == 300).all() and not first[3:].any()
    assert (second[3:, :4] == 300).all() and second.sum() == 12 * 300  # no pixel counts twice
    assert broden.labels(1).pixels.shape == (0, 6, 8)


def test_sizes_of_images_and_of_label_maps(pair):
    save(pair / "one/images/a.png", photo(1, (7, 10)))
    whole = np.arange(7 * 10).reshape(7, 10).astype(np.uint16)
    save(pair / "one/labels/a.png", whole)
    (pair / "one.csv").write_text("number,name\n" + "".join(f"{n},n{n}\n" for n in range(70)))
    broden = built(write_recipe(pair, [ONE]), pair / "out")
    names = [[broden.names[number] for number in row] for row in broden.labels(0).pixels[0]]
    assert names == [[f"n{10 * y + x}" for x in (1, 3, 5, 7, 9)] for y in (0, 2, 4, 6)]  # rows at 0.875, 2.625, ...
    assert broden.rows[0].image == (7, 10)
    broden = built(write_recipe(pair, [ONE, PARKS], size=[5, 8]), pair / "small")
    assert [(row.image, row.height, row.width) for row in broden.rows] == [((5, 8), 3, 4)] * 2
    assert broden.image(1).size == (8, 5)


def test_a_pixel_is_the_one_in_which_its_centre_lies():
    row = np.arange(12)[None]
    assert resize_nearest(row, (1, 6)).tolist() == [[1, 3, 5, 7, 9, 11]]
    assert resize_nearest(row, (1, 4)).tolist() == [[1, 4, 7, 10]]
    assert resize_nearest(row, (1, 5)).tolist() == [[1, 3, 6, 8, 10]]  # 1.2, 3.6, 6, 8.4, 10.8
    assert resize_nearest(row, (1, 12)).tolist() == row.tolist()
    assert resize_nearest(row[:, :3], (2, 6)).tolist() == [[0, 0, 1, 1, 2, 2]] * 2


def test_lab_of_known_colours():
    # ISO 12640 and colour calculators: sRGB's primaries, white and middle grey under D65
    known = {(1, 0, 0): (53.24, 80.09, 67.20), (0, 1, 0): (87.73, -86.18, 83.18), (0, 0, 1): (32.30, 79.19, -107.86)}
    known |= {(1, 1, 1): (100, 0, 0), (0, 0, 0): (0, 0, 0)}
    assert np.allclose(lab(np.array(list(known), float)), list(known.values()), atol=0.02)


def test_colours_are_those_of_the_nearest_prototype():
    image = photo(5, (20, 30))
    prototypes = [(name.split(" ")[-1].removeprefix("xkcd:"), to_rgb(rgb)) for name, rgb in XKCD_COLORS.items()]
    prototypes = [(name, rgb) for name, rgb in prototypes if name in NAMES]
    assert len(prototypes) == 558
    points = lab(np.array([rgb for _, rgb in prototypes]))
    for pixel, code in zip(image.reshape(-1, 3), name_colours(image).ravel(), strict=True):
        distances = np.linalg.norm(points - lab(pixel / 255), axis=1)
        assert prototypes[int(distances.argmin())][0] == NAMES[code - 1]
    css = np.array([[to_rgb(CSS4_COLORS[name]) for name in ("navy", "skyblue", "crimson", "gold", "forestgreen")]])
    assert [NAMES[code - 1] for code in name_colours(255 * css)[0]] == ["blue", "blue", "red", "yellow", "green"]


def test_a_pixel_has_the_mean_colour_of_those_that_it_covers(pair):
    image = np.zeros((12, 16, 3), np.uint8)
    image[:, ::2, 0] = 255  # red beside black, and one red pixel among three of blue
    image[6:, :, 2] = 255
    image[::2, 1::2] = (255, 0, 0)
    assert resize_mean(image, (6, 8))[0, 0].tolist() == [191.25, 0, 0]
    save(pair / "one/images/a.png", image)
    broden = built(write_recipe(pair, [ONE], colors=True), pair / "out")
    assert broden.categories == ["color", "object"]
    means = image.reshape(6, 2, 8, 2, 3).mean((1, 3))
    expected = [[f"{NAMES[code - 1]}-c" for code in row] for row in name_colours(means)]
    assert [[broden.names[number] for number in row] for row in broden.labels(0).pixels[0]] == expected
    assert expected[0][0] == "red-c"
    total = sum(coverage for _, coverage in table(pair / "out", "color").values())
    assert total == pytest.approx(1, abs=1e-5)


def test_builds_are_equal_to_the_byte(pair):
    file = write_recipe(pair, [TWO, ONE, PARKS], colors=True, size=[9, 9])
    for name in ("first", "second"):
        build_recipe(read_recipe(file), pair / name)
    files = sorted(path.relative_to(pair / "first") for path in (pair / "first").rglob("*"))
    assert len([path for path in files if path.suffix == ".png"]) == 3 + 3 + 2  # images, colours, label maps
    for path in files:
        first, second = pair / "first" / path, pair / "second" / path
        assert first.is_dir() or first.read_bytes() == second.read_bytes()


def test_names_of_copies_are_safe_and_nobody_elses(pair):
    images = [
        "a.png",
        "a_object.png",
        "A.png",
        "b;c.png",
        "x.jpg/d.png",
        " e .png",
        "ü\n.png",
        "f" * 200 + ".png",
        "p.jpg",
    ]
    for index, name in enumerate(images[1:]):
        save(pair / "one/images" / name, photo(index))
        save(pair / "one/labels" / (os.path.splitext(name)[0] + ".png"), np.full((12, 16), 300, np.uint16))
    save(pair / "one/images" / "x.jpg.png", photo(8))
    save(pair / "one/labels" / "x.jpg.png", np.full((12, 16), 300, np.uint16))
    broden = built(write_recipe(pair, [ONE]), pair / "out")
    assert len(broden) == len(images) + 1
    for row in broden.rows:
        (number,) = {*np.unique(broden.labels(broden.rows.index(row)).pixels)} - {0}
        assert broden.names[number] == "Tree"
    stems = {row.file.name for row in broden.rows}
    assert {"b_c.png", "ü_.png", "p.jpg"} <= stems and max(map(len, stems)) < 70


def test_two_images_of_one_label_map_are_an_error(pair):
    save(pair / "one/images/a.jpg", photo(1))
    with pytest.raises(
        UserError, match=r"a\.png: .*a\.jpg has the same label map, a\.png; expected one image for each"
    ):
        build_recipe(read_recipe(write_recipe(pair, [ONE])), pair / "out")
    assert not list(pair.glob("*out*"))


@pytest.mark.parametrize(
    "name, stored", [("a.gif", "a.png"), ("a.tif", "a.png"), ("a.bmp", "a.png"), ("a.JPG", "a.JPG")]
)
@pytest.mark.parametrize("size", [None, [6, 6]])
def test_images_of_all_types_and_grey_ones(pair, name, stored, size):
    (pair / "one/images/a.png").unlink()
    save(pair / "one/images" / name, photo(1)[..., 0])
    broden = built(write_recipe(pair, [ONE], colors=True, size=size), pair / "out")
    assert broden.rows[0].file.name.lower() == stored.lower()
    assert broden.image(0).size == ((16, 12) if size is None else (6, 6))
    if size is None and stored == "a.png":
        assert np.array_equal(np.asarray(broden.image(0))[..., 1], photo(1)[..., 0])


def test_an_image_is_turned_only_if_its_label_map_says_so(pair):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    pixels = photo(1)  # 12 x 16 as stored, 16 x 12 upright
    save(pair / "one/images/a.png", pixels, exif=exif)
    save(pair / "one/images/b.png", pixels, exif=exif)
    save(pair / "one/labels/b.png", numbers(3, [300], (16, 12), np.uint16))
    broden = built(write_recipe(pair, [ONE]), pair / "out")
    assert np.array_equal(broden.image(0), pixels)
    assert np.array_equal(broden.image(1), np.rot90(pixels, -1))
    assert [(row.height, row.width) for row in broden.rows] == [(6, 8), (8, 6)]


def test_images_among_their_label_maps(pair):
    """labels/ in images/, and label maps beside the images, told apart by their suffix."""
    save(pair / "one/images/labels/a.png", numbers(1, [300], kind=np.uint16))
    inside = {**ONE, "labels": "one/images/labels"}
    assert len(built(write_recipe(pair, [inside]), pair / "inside")) == 1
    save(pair / "beside/a.png", photo(1))
    save(pair / "beside/a_seg.png", numbers(1, [300], kind=np.uint16))
    beside = {**ONE, "images": "beside", "labels": "beside", "label_suffix": "_seg.png"}
    assert len(built(write_recipe(pair, [beside]), pair / "out")) == 1


def test_a_column_of_categories(pair):
    (pair / "names.csv").write_text("number,name,category\n1,tree,object\n2,leaf,part\n")
    save(pair / "two/labels/object/a.png", numbers(1, [0, 1]))
    save(pair / "two/labels/part/a.png", numbers(2, [0, 2, 7]))
    source = {"images": "two/images", "labels": "two/labels", "names": "names.csv"}
    broden = built(write_recipe(pair, [source]), pair / "out")
    assert broden.categories == ["object", "part"]
    assert table(pair / "out", "part") == counted([numbers(2, [0, 2, 7])], {2: "leaf"})


def change(**keys):
    """A recipe of the first source with some keys changed; None removes a key."""
    return {"sources": [{key: value for key, value in {**ONE, **keys}.items() if value is not None}]}


NAMES_CSV = "{root}/one.csv"
PLACE = "recipe {root}/recipe.json: "


@pytest.mark.parametrize(
    "recipe, message",
    [
        ([], "recipe {root}/recipe.json: expected a JSON object"),
        ({}, PLACE + "no key sources, expected colors, size, sources, synonyms"),
        ({"sources": []}, PLACE + "sources: [], expected a list of at least one source"),
        ({"sources": [3]}, PLACE + "sources[0]: 3, expected an object"),
        (
            {"sources": [ONE], "colours": True},
            PLACE + "unknown key 'colours', expected colors, size, sources, synonyms",
        ),
        ({"sources": [ONE], "colors": 1}, PLACE + "colors: 1, expected true or false"),
        ({"sources": [ONE], "size": 224}, PLACE + "size: 224, expected [height, width], 1 to 8192"),
        ({"sources": [ONE], "size": [224, True]}, PLACE + "size: [224, True], expected [height, width]"),
        ({"sources": [ONE], "size": [0, 224]}, PLACE + "size: [0, 224], expected [height, width]"),
        ({"sources": [ONE], "size": [8192, 8192]}, PLACE + "size: [8192, 8192], expected [height, width]"),
        ({"sources": [ONE], "size": [float("nan"), 1]}, PLACE + "size: [nan, 1], expected [height, width]"),
        ({"sources": [ONE], "synonyms": []}, PLACE + "synonyms: [], expected an object of names"),
        ({"sources": [ONE], "synonyms": {"a": "b"}}, PLACE + "synonyms.a: 'b', expected a list of names"),
        ({"sources": [ONE], "synonyms": {"a": ["c"], "b": ["C"]}}, PLACE + "synonyms: 'C' is there twice"),
        ({"sources": [ONE], "synonyms": {"a": ["b"], "B": []}}, PLACE + "synonyms: 'B' is there twice"),
        ({"sources": [{**ONE, **PARKS}]}, PLACE + "sources[0]: unknown key 'images', expected category, folders"),
        (
            change(labels=None),
            PLACE + "sources[0]: no key labels, expected category, images, label_suffix, labels, names",
        ),
        (change(images="none"), PLACE + "sources[0].images: {root}/none: no such folder"),
        (change(labels=7), PLACE + "sources[0].labels: 7, expected a path"),
        (change(names="none.csv"), PLACE + "sources[0].names: {root}/none.csv: no such file"),
        (change(names="a\0"), PLACE + "sources[0].names: 'a\\x00', expected a path"),
        (change(category="../x"), PLACE + "sources[0]: category '../x', expected letters"),
        (change(category=["object"]), PLACE + "sources[0].category: ['object'], expected a text"),
        (change(category=None), PLACE + "sources[0].names: {root}/one.csv: no column category"),
        (
            change(label_suffix="../x.png"),
            PLACE + "sources[0].label_suffix: '../x.png', expected the end of a file's name",
        ),
        (
            change(label_suffix="_none.png"),
            PLACE + "sources[0]: none of 1 images in {root}/one/images has a label map in",
        ),
        (
            change(images="two"),
            PLACE + "sources[0]: none of 2 images in {root}/two has a label map in {root}/one/labels",
        ),
        ({"sources": [{"folders": [], "category": "scene"}]}, PLACE + "sources[0].folders: an empty list"),
        ({"sources": [{"folders": ["none"], "category": "scene"}]}, PLACE + "sources[0].folders: {root}/none: no such"),
        (
            {"sources": [{"folders": "one/images", "category": "scene"}]},
            PLACE + "sources[0]: {root}/one/images: no images",
        ),
    ],
)
def test_recipes_that_are_wrong_are_one_line(pair, recipe, message):
    file = pair / "recipe.json"
    file.write_text(json.dumps(recipe))
    with pytest.raises(UserError) as error:
        build_recipe(read_recipe(file), pair / "out")
    assert str(error.value).startswith(message.format(root=pair))
    assert not list(pair.glob("*out*"))


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "unreadable (Expecting"),
        ("[" * 100_000, "unreadable (maximum recursion"),
        ('{"size": ' + "9" * 5000 + "}", "unreadable (Exceeds the limit"),
        ('{"sources": [], "sources": []}', "unreadable (key 'sources' is there twice)"),
        (" " * (1 << 20) + "{}", "1,048,578 bytes, expected at most 1,048,576"),
        ("\udcff", "unreadable ("),
    ],
)
def test_files_that_are_no_recipe(pair, text, message):
    file = pair / "recipe.json"
    file.write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(UserError) as error:
        read_recipe(file)
    assert message in str(error.value) and str(error.value).startswith(f"recipe {file}: ")


@pytest.mark.parametrize(
    "rows, message",
    [
        ("number,name\n", "no names in it"),
        ("number,title\n1,a\n", "no column name"),
        ("name\na\n", "line 2: no column number; expected number,name or name,r,g,b"),
        ("number,name\n1,a\n1,b\n", "line 3: number 1 is 'a' already"),
        ("number,name\n1,a\n1,a\n", "line 3: number 1 is 'a' already"),
        ("number,name\n65536,a\n", "line 2: number '65536', expected 0 to 65535"),
        ("number,name\n-1,a\n", "line 2: number '-1', expected 0 to 65535"),
        ("number,name\n1, \n", "line 2: no name"),
        ("number,name\n1,\x1b[31m\n", r"name '\x1b[31m', expected no control characters"),
        ("number,name,category\n1,a,object\n", "has a column category, and the recipe 'object'"),
        ("name,r,g,b\na,1,2,256\n", "line 2: b '256', expected 0 to 255"),
        ("name,r,g\na,1,2\n", "line 2: b None, expected 0 to 255"),
        ("name,r,g,b\na,1,2,3\nb,1,2,3\n", "line 3: colour 1, 2, 3 is 'a' already"),
    ],
)
def test_tables_of_names_that_are_wrong(pair, rows, message):
    (pair / "one.csv").write_text(rows)
    with pytest.raises(UserError) as error:
        read_recipe(write_recipe(pair, [ONE]))
    assert str(error.value).startswith(f"recipe {pair}/recipe.json: sources[0].names: {pair}/one.csv")
    assert message in str(error.value)


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda root: save(root / "one/labels/a.png", photo(1)), "mode RGB, expected a PNG of integers"),
        (
            lambda root: (root / "one.csv").write_text("name,r,g,b\na,1,2,3\n"),
            "expected RGB, as its table of names has",
        ),
        (lambda root: (root / "one.csv").write_text("number,name\n77,a\n"), "none of 1 images has a label"),
        (lambda root: save(root / "one/labels/a.png", np.zeros((12, 12), np.uint8)), "expected the same proportions"),
        (lambda root: (root / "one/images/a.png").write_text("no image"), "not a readable image"),
        (lambda root: (root / "one/labels/a.png").write_text("no map"), "not a readable label map"),
        (lambda root: (root / "one/images/l").symlink_to(root / "one"), "a folder around it"),
        (lambda root: (root / "one/images/b.png").symlink_to("/dev/zero"), "not a regular file"),
        (
            lambda root: (
                save(root / "one/images/a.png", Image.new("L", (20_000, 4)))
                and save(root / "one/labels/a.png", np.full((4, 20_000), 300, np.uint16))
            ),
            "sw 10000, expected 1 to 8192",
        ),
    ],
)
def test_sources_that_are_wrong(pair, spoil, message):
    spoil(pair)
    with pytest.raises(UserError, match=message):
        build_recipe(read_recipe(write_recipe(pair, [ONE])), pair / "out")
    assert not list(pair.glob("*out*"))


def test_the_command_line(pair, capsys):
    file = str(write_recipe(pair, [ONE, PARKS]))
    output = ["--output", str(pair / "out")]
    main(["build", "--recipe", file, *output])
    assert capsys.readouterr().out == f"{pair / 'out'}: 2 images\n"
    with pytest.raises(UserError, match="expected without --images, --labels and --names"):
        main(["build", "--recipe", file, "--images", str(pair), *output])
    with pytest.raises(UserError, match="arguments are required: --recipe, or --labels, --names"):
        main(["build", "--images", str(pair), *output])
