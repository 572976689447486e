"""demo.py on a user's own images: which network explains them, where the report goes, and what it warns of."""

import json
from pathlib import Path

import pytest

from explain.materials import concepts_notice, images_notice
from loader.datasets import dataset_names, spec_of
from loader.materials import material_of_folder, materials_of_files, read_manifest

MANIFEST = {"version": 1, "seed": 0, "classes": ["a"], "train": 16, "val": 16, "broden": 16}


def rendered(folder: Path, **changed) -> Path:
    """A folder with a manifest as the renderer writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps({**MANIFEST, **changed}))
    return folder


# --- materials ----------------------------------------------------------------------------------------------------


def test_materials_of_data_sets():
    drawn = {name for name in dataset_names() if spec_of(name).material == "drawn"}
    assert drawn == {"mini_places"}
    assert {name for name in dataset_names() if spec_of(name).material == "photographed"} == {
        "places365",
        "imagenet",
        "fashion_mnist",
        "tiny_imagenet",
    }
    assert spec_of("my holiday").material is None


def test_files_in_a_rendered_folder_are_drawn(tmp_path):
    scene = rendered(tmp_path / "scenes") / "val" / "harbor" / "1.jpg"
    mine = tmp_path / "mine" / "1.jpg"
    linked = tmp_path / "mine" / "link.jpg"
    for file in (scene, mine):
        file.parent.mkdir(parents=True)
        file.touch()
    linked.symlink_to(scene)
    assert materials_of_files([scene]) == materials_of_files([linked]) == {"drawn"}
    assert materials_of_files([mine]) == {"photographed"}
    assert materials_of_files([mine, linked]) == {"drawn", "photographed"}
    assert materials_of_files([]) == set()


@pytest.mark.parametrize("content", ["", "[]", "[" * 100_000, '{"version": 1, "seed": 0}', '{"version": "x"}'])
def test_other_manifests_say_nothing(tmp_path, content):
    (tmp_path / "manifest.json").write_text(content)
    assert material_of_folder(tmp_path) == "photographed"
    assert material_of_folder(tmp_path / "missing") == "photographed"
    assert read_manifest(rendered(tmp_path)) == MANIFEST
    assert material_of_folder(tmp_path) == "drawn"


DRAWN_NETWORK = "the network was trained on drawn scenes (mini_places)"
PHOTO_NETWORK = "the network was trained on photographs (tiny_imagenet)"


@pytest.mark.parametrize(
    "dataset, shown, notice",
    [
        ("mini_places", {"photographed"}, f"{DRAWN_NETWORK} and is shown photographs: its answers mean little"),
        ("tiny_imagenet", {"drawn"}, f"{PHOTO_NETWORK} and is shown drawn scenes: its answers mean little"),
        (
            "mini_places",
            {"drawn", "photographed"},
            f"{DRAWN_NETWORK}, and some of the images are photographs: its answers to them mean little",
        ),
        (
            "tiny_imagenet",
            {None, "drawn"},
            f"{PHOTO_NETWORK}, and some of the images are drawn scenes: its answers to them mean little",
        ),
        ("mini_places", {"drawn"}, None),
        ("tiny_imagenet", {"photographed"}, None),
        ("mini_places", {None}, None),
        ("mini_places", set(), None),
        ("my holiday", {"drawn"}, None),
        (None, {"photographed"}, None),
    ],
)
def test_a_notice_of_images_of_another_material(dataset, shown, notice):
    assert images_notice(dataset, shown) == notice


def named(concepts: str, network: str) -> str:
    return f"the units' names come from {concepts}, but the network was trained on {network}: the names mean little"


@pytest.mark.parametrize(
    "dataset, made_of, notice",
    [
        (
            "tiny_imagenet",
            {"data": "concepts", "material": "drawn"},
            named("drawn scenes (concepts)", "photographs (tiny_imagenet)"),
        ),
        (
            "mini_places",
            {"data": "photo_concepts", "material": "photographed"},
            named("photographs (photo_concepts)", "drawn scenes (mini_places)"),
        ),
        ("mini_places", {"material": "photographed"}, named("photographs", "drawn scenes (mini_places)")),
        # older records do not say it, but mini_broden is drawn
        (
            "imagenet",
            {"data": "mini_broden"},
            named("drawn scenes (mini_broden)", "photographs (imagenet)"),
        ),
        ("imagenet", {"data": "mini_broden", "material": "photographed"}, None),
        ("mini_places", {"data": "mini_broden"}, None),
        ("mini_places", {"data": "broden1_224"}, None),
        ("mini_places", {"data": ["mini_broden"], "material": ["drawn"]}, None),
        ("my holiday", {"material": "drawn"}, None),
        ("mini_places", None, None),
        (None, {"material": "drawn"}, None),
    ],
)
def test_a_notice_of_concepts_of_another_material(dataset, made_of, notice):
    assert concepts_notice(dataset, made_of) == notice
