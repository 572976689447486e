"""The embedded scenes: the same pixels from the same seed, two complete layouts, tables that match the label maps."""

import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from loader import mini_places
from loader.broden_format import spelled
from loader.datasets import class_names
from loader.materials import material_of_folder, materials_of_files
from loader.mini_places import CATEGORIES, CLASSES, ensure_mini_places, is_complete, label_numbers, render_mini_places
from netdissect.broden import Broden
from netdissect.made_of import of_tally
from netdissect.network import NetworkInfo
from util.cli import UserError


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("rendered")
    render_mini_places(root, train=32, val=16, broden=32, workers=2, progress=False)
    return root


def table(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_same_seed_same_pixels_however_many_workers(root, tmp_path):
    render_mini_places(tmp_path, train=32, val=16, broden=32, workers=1, progress=False)
    assert content(tmp_path / "mini_places") == content(root / "mini_places")
    assert content(tmp_path / "mini_broden") == content(root / "mini_broden")


def test_no_scene_is_in_two_splits(root):
    images = [path.read_bytes() for path in root.rglob("*.jpg")]
    assert len(images) == len(set(images)) == 80


def test_places_layout(root):
    assert set(CLASSES) <= set(class_names("places365"))
    for split, count in (("train", 2), ("val", 1)):
        folders = sorted((root / "mini_places" / split).iterdir())
        assert tuple(folder.name for folder in folders) == CLASSES
        for folder in folders:
            files = sorted(folder.glob("*.jpg"))
            assert len(files) == count
            with Image.open(files[0]) as image:
                assert (image.size, image.mode) == ((224, 224), "RGB")


def test_broden_tables_match_the_label_maps(root):
    folder = root / "mini_broden"
    broden = Broden(folder)
    assert broden.categories == list(CATEGORIES)
    assert len(broden) == 32
    images, pixels = Counter(), Counter()
    for index in range(32):
        labels = broden.labels(index)
        for category, layer in zip(labels.pixel_categories, labels.pixels, strict=True):
            assert layer.shape == (112, 112)
            found, counts = np.unique(layer[layer > 0], return_counts=True)
            for number, count in zip(found.tolist(), counts.tolist(), strict=True):
                images[int(category), number] += 1
                pixels[int(category), number] += count
        (scene,) = labels.scalars
        assert broden.rows[index].file.name.startswith(broden.names[scene].removesuffix("-s") + "_")
        images[broden.categories.index("scene"), int(scene)] += 1
        pixels[broden.categories.index("scene"), int(scene)] += 112 * 112
    for category, name in enumerate(broden.categories):
        rows = table(folder / f"c_{name}.csv")
        assert [int(row["code"]) for row in rows] == list(range(1, len(rows) + 1))
        assert {int(row["number"]) for row in rows} == {number for c, number in images if c == category}
        for row in rows:
            key = (category, int(row["number"]))
            assert int(row["frequency"]) == images[key]
            assert float(row["coverage"]) == pytest.approx(pixels[key] / 112**2, abs=1e-5)
            assert row["name"] == broden.names[key[1]]
        summary = next(row for row in table(folder / "category.csv") if row["name"] == name)
        assert int(summary["count"]) == len(rows)
    for row in table(folder / "label.csv"):
        homes = {f"{broden.categories[c]}({images[c, n]})" for c, n in images if n == int(row["number"])}
        assert set(row["category"].split(";")) == homes


def test_concepts_are_many_and_shared(root):
    names = {category: {name for c, name in label_numbers() if c == category} for category in CATEGORIES}
    assert len(names["object"]) >= 25
    assert len(names["part"]) >= 10
    assert len(names["texture"]) >= 6
    assert len(names["color"]) == 11
    assert len(names["scene"]) == len(CLASSES) == 16
    assert max(label_numbers().values()) > 255
    assert label_numbers()["object", "window"] == label_numbers()["part", "window"]
    assert len(set(label_numbers().values())) == len({spelled(*key) for key in label_numbers()})


def test_no_object_gives_a_class_away():
    """No object is in nearly every scene of one class and in no scene of any other."""
    seen = {}
    for class_name in CLASSES:
        seen[class_name] = Counter()
        for seed in range(30):
            scene = mini_places.render_scene(class_name, seed, 96)
            seen[class_name].update(np.unique(scene.labels["object"]).tolist())
    for class_name, counts in seen.items():
        others = sum((seen[other] for other in CLASSES if other != class_name), Counter())
        assert all(others[code] for code, count in counts.items() if count >= 27), class_name


def test_an_interrupted_rendering_leaves_nothing_behind(tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(mini_places, "_write_broden_tables", stop)
    with pytest.raises(KeyboardInterrupt):
        render_mini_places(tmp_path, 16, 16, 16, workers=1, progress=False)
    assert not is_complete(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_complete_rendering_is_kept_and_an_outdated_one_is_not(root, tmp_path, monkeypatch):
    monkeypatch.setattr(mini_places, "render_mini_places", lambda *_, **__: pytest.fail("rendered again"))
    assert ensure_mini_places(root) == (root / "mini_places", root / "mini_broden")
    manifest = root / "mini_broden" / "manifest.json"
    text = manifest.read_text()
    try:
        manifest.write_text(json.dumps({**json.loads(text), "version": 0}))
        assert not is_complete(root)
    finally:
        manifest.write_text(text)


def test_rendered_folders_say_that_they_are_drawn(root):
    assert {material_of_folder(folder) for folder in root.iterdir()} == {"drawn"}
    scenes = [*root.rglob("val/*/*.jpg"), *root.rglob("images/mini/*.jpg")]
    assert len(scenes) == 48 and materials_of_files(scenes) == {"drawn"}
    made_of = of_tally({}, NetworkInfo("tiny", "dense", "unknown", None, "tiny"), Broden(root / "mini_broden"), "lite")
    assert (made_of["data"], made_of["material"]) == ("mini_broden", "drawn")


def test_unknown_class_and_unwritable_root(tmp_path):
    with pytest.raises(UserError, match="scene class 'moon': expected one of beach"):
        mini_places.render_scene("moon", 0)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be rendered there"):
        render_mini_places(tmp_path / "file", 16, 16, 16)
