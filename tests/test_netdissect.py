"""Network Dissection: IoU of both modes worked by hand, thresholds, chance, the Broden reader and tally.csv."""

import pickle

import numpy as np
import pytest
import torch
from conftest import write_broden
from torch import nn

from models.hooks import layer_outputs
from netdissect.activity import ActiveMaps, LayerActivity, LayerSummary, StoredMaps
from netdissect.broden import Broden
from netdissect.chance import chance_scores, chance_summary, pairings
from netdissect.counting import count
from netdissect.features import preprocess_imagenet, preprocess_netdissect, stream_features
from netdissect.layout import MapLayout, find_layouts
from netdissect.tally import TallyRow, interpretable, read_tally, tally_rows, unique_detectors, write_tally
from netdissect.thresholds import LargestActivations, read_thresholds
from report.overlays import darken_outside
from util.cli import UserError

CATEGORIES = ["object", "part", "scene"]
LABELS = [
    {"number": 1, "name": "tree", "coverage": {"object": 5}},
    {"number": 2, "name": "leaf", "coverage": {"object": 1, "part": 3}},  # primary: part
    {"number": 300, "name": "car", "coverage": {"object": 2, "part": 2}},  # a tie: the later one, part
    {"number": 7, "name": "park-s", "coverage": {"scene": 2}},
]
# Image A is in colour, has two object maps, a part map and a scene; image B is grey and has one object map.
IMAGES = [
    {
        "name": "A",
        "pixels": np.full((4, 4, 3), 90),
        "sh": 2,
        "sw": 2,
        "cells": {"object": [[[1, 1], [2, 0]], [[0, 300], [0, 0]]], "part": [[[2, 0], [2, 0]]], "scene": [7]},
    },
    {"name": "B", "pixels": np.full((4, 4), 90), "sh": 2, "sw": 2, "cells": {"object": [[[300, 1], [1, 1]]]}},
]
# Unit 1 is on in A's upper row; unit 2 in A's lower right corner and on B's diagonal.
MAPS = [
    [[[1.0, 1.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 1.0]]],
    [[[0.0, 0.5], [0.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]],
]
THRESHOLDS = np.array([0.5, 0.5])


@pytest.fixture
def worked(tmp_path):
    return Broden(write_broden(tmp_path / "broden", CATEGORIES, LABELS, IMAGES))


def summary_of(maps=MAPS, thresholds=THRESHOLDS):
    """A layer with every map of every unit, whether or not it is ever on."""
    active = ActiveMaps()
    for index, unit_maps in enumerate(maps):
        active.put(index, torch.arange(len(unit_maps)), torch.tensor(np.array(unit_maps, np.float32)))
    peaks = np.array([[np.max(unit_map) for unit_map in unit_maps] for unit_maps in maps], np.float32).T
    return LayerSummary(np.array(thresholds), active, peaks, 0)


def count_own(*args):
    """Each image with its own labels."""
    (counts,), _ = count(*args)
    return counts


def approximately(**scores):
    return {name: pytest.approx(score, abs=1e-9) for name, score in scores.items()}


def ious(row):
    return {category: best.iou for category, best in row.categories.items()}


def test_reader(worked):
    assert worked.categories == CATEGORIES
    assert [worked.names[number] for number in (0, 1, 2, 7, 300)] == ["", "tree", "leaf", "park-s", "car"]
    assert [int(worked.primary[number]) for number in (0, 1, 2, 7, 300)] == [2, 0, 1, 2, 1]
    labels = worked.labels(0)
    assert labels.pixels.tolist() == [[[1, 1], [2, 0]], [[0, 300], [0, 0]], [[2, 0], [2, 0]]]
    assert (labels.pixel_categories.tolist(), labels.scalars.tolist()) == ([0, 0, 1], [7])
    assert worked.image(1).mode == "RGB"


def test_lite_worked_by_hand(worked, tmp_path):
    counts = count_own(summary_of(), worked, "lite")
    # T: tree 2 + 3; leaf 1 + 2; car 1 + 1; park 2 * 2
    assert [int(counts.truth[number]) for number in (0, 1, 2, 300, 7)] == [0, 5, 3, 2, 4]
    assert [int(counts.intersect[0, number]) for number in (1, 2, 300, 7)] == [2, 1, 1, 2]
    assert [int(counts.intersect[1, number]) for number in (1, 2, 300, 7)] == [1, 0, 1, 1]
    # unit 2 in A has nothing but the scene under its mask; in B a tree (object) and a car (part)
    assert counts.activation.tolist() == [[2, 2, 2], [2, 2, 1]]
    first, second = tally_rows(counts, worked)
    assert (first.unit, first.category, first.label) == (1, "scene", "park-s")
    assert ious(first) == approximately(object=2 / 5, part=1 / 3, scene=1 / 2)
    assert first.categories["part"].label == "car"
    assert (second.unit, second.category, second.label) == (2, "part", "car")
    assert ious(second) == approximately(object=1 / 6, part=1 / 3, scene=1 / 4)


def test_original_worked_by_hand(worked, tmp_path):
    counts = count_own(summary_of(), worked, "original")
    # B has an object column only: its mask pixels count for object, whatever is under them
    assert counts.activation.tolist() == [[2, 2, 2], [3, 1, 1]]
    rows = {row.unit: row for row in tally_rows(counts, worked)}
    assert ious(rows[1]) == approximately(object=2 / 5, part=1 / 3, scene=1 / 2)
    assert ious(rows[2]) == approximately(object=1 / 7, part=1 / 2, scene=1 / 4)


def test_the_integer_zero(tmp_path):
    """B's scene cell holds 0: in lite a nameless label of the last category that wins it, in original nothing."""
    images = [IMAGES[0], {**IMAGES[1], "cells": {**IMAGES[1]["cells"], "scene": [0]}}]
    broden = Broden(write_broden(tmp_path / "broden", CATEGORIES, LABELS, images))
    counts = count_own(summary_of(), broden, "lite")
    assert (counts.truth[0], counts.intersect[1, 0], counts.activation[1, 2]) == (4, 2, 3)
    row = next(row for row in tally_rows(counts, broden) if row.unit == 2)
    assert (row.category, row.label, row.score) == ("scene", "", pytest.approx(2 / 5, abs=1e-9))
    assert row.categories["scene"].truth == 4
    original = count_own(summary_of(), broden, "original")
    assert (original.truth[0], original.intersect[1, 0], original.activation[1, 2]) == (0, 0, 1)


def test_dead_unit(worked, tmp_path):
    rows = tally_rows(count_own(summary_of(np.zeros((2, 2, 2, 2))), worked), worked)
    assert [(row.unit, row.category, row.label, row.score) for row in rows] == [
        (1, "scene", "", 0),
        (2, "scene", "", 0),
    ]
    best = rows[0].categories["object"]
    assert (best.label, best.truth, best.activation, best.intersect, best.iou) == ("", 0, 0, 0, 0)


def test_masks_are_bilinear_with_half_pixel_centres(tmp_path):
    """A 1 x 2 map (0, 1) at width 4 is 0, 0.25, 0.75, 1; the comparison is strict."""
    cells = {"object": [[[1, 1, 1, 1]]]}
    image = {"name": "A", "pixels": np.zeros((4, 4)), "sh": 1, "sw": 4, "cells": cells}
    broden = Broden(write_broden(tmp_path / "b", ["object"], LABELS[:1], [image]))
    for threshold, expected in ((0.2, 3), (0.25, 2), (0.75, 1), (1.0, 0)):
        counts = count_own(summary_of([[[[0.0, 1.0]]]], [threshold]), broden)
        assert counts.intersect[0, 1] == expected


def test_categories_are_filtered_in_the_files_order(tmp_path):
    images = [*IMAGES, {"name": "C", "pixels": np.zeros((4, 4)), "sh": 2, "sw": 2, "cells": {"scene": [0]}}]
    directory = write_broden(tmp_path / "broden", CATEGORIES, LABELS, images)
    assert len(Broden(directory)) == 2  # C has no nonzero label
    broden = Broden(directory, categories=["scene", "part"])
    assert broden.categories == ["part", "scene"]
    assert len(broden) == 1  # B has objects only
    with pytest.raises(UserError, match=r"category 'colour': .* has object, part, scene"):
        Broden(directory, categories=["colour"])


@pytest.mark.parametrize(
    "file", ["index.csv", "label.csv", "category.csv", "c_part.csv", "images/A_part_0.png", "images/B.png"]
)
def test_missing_files_are_named(worked, file):
    (worked.directory / file).unlink()
    with pytest.raises(UserError, match=file.split("/")[-1]):
        Broden(worked.directory)


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("A.png,train,4,4,2", "A.png,train,4,4,x", r"line 2: sh 'x'"),
        (",7\n", ",888\n", r"line 2: label 888"),
        ("sh,sw", "s_h,sw", r"no column sh"),
        ("A.png,train,4,4,2,2", "A.png", r"line 2: fewer cells"),
    ],
)
def test_faulty_index_is_located(worked, old, new, message):
    index = worked.directory / "index.csv"
    text = index.read_text()
    assert old in text.replace("\r\n", "\n")
    index.write_text(text.replace("\r\n", "\n").replace(old, new))
    with pytest.raises(UserError, match=message):
        Broden(worked.directory)


def test_label_map_of_another_size(worked):
    rows = (worked.directory / "index.csv").read_text()
    (worked.directory / "index.csv").write_text(rows.replace("4,4,2,2", "4,4,3,2"))
    with pytest.raises(UserError, match="2 x 2 pixels, index says 2 x 3"):
        Broden(worked.directory).labels(0)


@pytest.mark.parametrize("quantile", [0.005, 0.1, 0.5])
@pytest.mark.parametrize("decimals", [1, 7])  # many ties, and none
def test_thresholds_are_numpys_quantile(quantile, decimals):
    generator = np.random.default_rng(0)
    maps = [np.maximum(generator.normal(size=(3, height, 5)), -0.2).round(decimals) for height in (4, 4, 7, 2, 30, 1)]
    everything = np.concatenate([unit_maps.reshape(3, -1) for unit_maps in maps], 1).astype(np.float32)
    exact = np.quantile(everything.astype(np.float64), 1 - quantile, axis=1)
    for slack in (0, 40):  # the number of activations known, and an upper bound of it
        largest = LargestActivations(3, everything.shape[1] + slack, quantile)
        for unit_maps in maps:
            assert (largest.bound.numpy() <= exact).all()
            largest.add(torch.tensor(unit_maps.reshape(3, -1), dtype=torch.float32))
        np.testing.assert_allclose(largest.thresholds(), exact, rtol=1e-12)


def test_a_layers_record_is_complete(tmp_path):
    """Streaming keeps every map that exceeds the final threshold, unchanged, and each unit's peaks and top images."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.relu(torch.randn(60, 8, 3, 3, generator=generator))
    maps[:, 5] = 0  # a dead unit
    activity = LayerActivity(8, 60, 9, quantile=0.02)
    activity.maps = ActiveMaps(budget=2000)  # bytes: most of it goes to disk
    for start in range(0, 60, 7):
        batch = maps[start : start + 7]
        activity.add(range(start, start + len(batch)), batch)
    summary = activity.finish()
    expected = np.quantile(maps.transpose(0, 1).flatten(1).double().numpy(), 0.98, axis=1)
    assert summary.maps.on_disk > 0
    peaks = maps.amax((2, 3)).numpy()
    summary.save(tmp_path)
    for record in (summary, LayerSummary.load(tmp_path)):
        np.testing.assert_allclose(record.thresholds, expected, rtol=1e-12)
        assert (record.peaks == peaks.T).all()
        assert record.top_images(4).tolist() == np.argsort(-peaks, axis=0, kind="stable")[:4].tolist()
        for index in range(60):
            units, kept = record.maps.get(index)
            on = (maps[index].amax((1, 2)) > torch.tensor(expected)).nonzero()[:, 0]
            assert set(on.tolist()) <= set(units.tolist())
            assert torch.equal(kept, maps[index][units])


@pytest.mark.parametrize("counts", [[2, 0, 1], [0, 0]])
def test_images_in_which_no_unit_is_on_are_stored_too(tmp_path, counts):
    active = ActiveMaps()
    for image, count_ in enumerate(counts):
        active.put(image, torch.arange(count_), torch.rand(count_, 2, 3))
    active.save(tmp_path)
    for stored in (StoredMaps(tmp_path), pickle.loads(pickle.dumps(StoredMaps(tmp_path)))):
        assert list(stored) == list(range(len(counts)))
        for image in stored:
            for found, expected in zip(stored.get(image), active.get(image), strict=True):
                assert torch.equal(found, expected)


def test_most_maps_need_no_place():
    generator = torch.Generator().manual_seed(0)
    activity = LayerActivity(64, 800, 49, quantile=0.005)
    for start in range(0, 800, 16):
        field = torch.randn(16, 64, 3, 3, generator=generator)
        maps = torch.relu(nn.functional.interpolate(field, 7, mode="bilinear"))
        activity.add(range(start, start + 16), maps * torch.rand(16, 64, 1, 1, generator=generator) ** 2)
    summary = activity.finish()
    assert summary.maps.most < 0.1 * 8 * summary.values


def test_threshold_files(tmp_path):
    np.save(tmp_path / "good.npy", np.arange(3.0))
    np.save(tmp_path / "short.npy", np.arange(2.0))
    np.save(tmp_path / "nan.npy", np.full(3, np.nan))
    np.save(tmp_path / "pickled.npy", np.array([{}, {}, {}]))
    assert read_thresholds(tmp_path / "good.npy", 3).tolist() == [0, 1, 2]
    for name, message in (
        ("short", r"expected \(3,\)"),
        ("nan", "finite"),
        ("pickled", "not a readable"),
        ("no", "no such file"),
    ):
        with pytest.raises(UserError, match=message):
            read_thresholds(tmp_path / f"{name}.npy", 3)


def test_preprocessing():
    images = torch.tensor([[[[124, 118, 109], [255, 0, 0]]]], dtype=torch.uint8)  # (1, 1, 2, 3)
    ours = preprocess_netdissect(images)
    assert ours.shape == (1, 3, 1, 2)
    np.testing.assert_allclose(ours[0, :, 0, 0], [-0.6901 / 57.12, -0.6897 / 57.12, -0.5388 / 57.12], atol=1e-5)
    np.testing.assert_allclose(ours[0, 0, 0, 1], (255 - 124.6901) / 57.12, atol=1e-5)
    np.testing.assert_allclose(preprocess_imagenet(images)[0, 0, 0, 1], (1 - 0.485) / 0.229, atol=1e-5)


def test_features_keep_each_images_own_size(tmp_path):
    images = [{**IMAGES[1], "name": f"p{side}", "pixels": np.full((side, 6), side)} for side in (4, 8, 4)]
    images[2]["name"] = "last"
    broden = Broden(write_broden(tmp_path / "broden", CATEGORIES, LABELS, images))
    model = nn.Sequential(nn.AvgPool2d(2), nn.Flatten())
    maps = {}
    layouts = find_layouts(model, ["0"], 8, 6)
    for indices, outputs in stream_features(model, layouts, broden, batch_size=3):
        maps.update(zip(indices, outputs["0"], strict=True))
    assert [maps[index].shape for index in range(3)] == [(3, 2, 3), (3, 4, 3), (3, 2, 3)]
    np.testing.assert_allclose(maps[1][0], (8 - 124.6901) / 57.12, rtol=1e-5)
    assert broden.largest_image() == (8, 6)
    assert layouts == {"0": MapLayout(units=3, positions=12)}
    with pytest.raises(UserError, match=r"layer 1: its output is \(.*\), expected maps"):
        list(stream_features(model, {"1": MapLayout(36, 1)}, broden))
    assert not model[1]._forward_hooks


def test_hooks_are_gone_after_an_exception():
    model = nn.Sequential(nn.Identity())
    with pytest.raises(RuntimeError), layer_outputs(model, ["0"]):
        raise RuntimeError
    assert not model[0]._forward_hooks
    with pytest.raises(UserError, match="layer 'nope': the model has 0"), layer_outputs(model, ["nope"]):
        pass


def test_chance(worked, tmp_path):
    (own, *random), _ = count(summary_of(), worked, partners=pairings(2, rounds=3))
    assert own.intersect.tolist() == count_own(summary_of(), worked).intersect.tolist()
    scores = chance_scores(random, worked)
    assert scores.shape == (3, 2)
    # Two images can only be swapped: unit 1's mask of A meets B's upper row, a car (part) and a tree.
    # object tree: 1 / (2 + 5 - 1); part car: 1 / (2 + 2 - 1); no scene.
    assert scores[:, 0] == pytest.approx(1 / 3, abs=1e-9)
    rows = tally_rows(count_own(summary_of(), worked), worked)
    chance = chance_summary(rows, np.array([[0.1, 0.4], [0.5, 0.2]]), 0.04)
    assert [unit["unit"] for unit in chance["units"]] == [1, 2]
    assert [unit["chance"] for unit in chance["units"]] == [0.25, 0.5]  # own scores 1/2 - and 1/3
    assert (chance["rounds"], chance["units_above_threshold"]) == (2, 2)


def test_pairings():
    partners = pairings(9, rounds=4)
    assert partners.shape == (5, 9)
    assert partners[0].tolist() == list(range(9))
    for partner in partners[1:]:
        assert sorted(partner) == list(range(9)) and (partner != np.arange(9)).all()
    assert pairings(9, rounds=4).tolist() == partners.tolist()  # seeded
    assert pairings(1, rounds=4).tolist() == [[0]]  # no other image to pair it with


def test_one_map_more_than_a_byte_can_number(tmp_path):
    """400 labels in one image: positions need two bytes."""
    labels = [{"number": n, "name": f"n{n}", "coverage": {"object": 1}} for n in range(1, 401)]
    cells = {"object": [np.arange(1, 401).reshape(20, 20)]}
    image = {"name": "A", "pixels": np.zeros((20, 20)), "sh": 20, "sw": 20, "cells": cells}
    broden = Broden(write_broden(tmp_path / "b", ["object"], labels, [image]))
    counts = count_own(summary_of([np.ones((1, 20, 20))], [0.5]), broden)
    assert counts.truth.tolist() == counts.intersect[0].tolist() == [0, *[1] * 400]


def test_unique_detectors_are_distinct_labels():
    rows = [
        TallyRow(1, "object", "tree", 0.5, {}),
        TallyRow(2, "part", "tree", 0.4, {}),
        TallyRow(3, "object", "sea", 0.03, {}),
    ]
    assert unique_detectors(interpretable(rows, 0.04)) == ["tree"]


def test_tally_is_read_as_written(worked, tmp_path):
    rows = tally_rows(count_own(summary_of(), worked), worked)
    write_tally(tmp_path / "tally.csv", rows)
    header = (tmp_path / "tally.csv").read_text().splitlines()[0]
    assert header == (
        "unit,category,label,score,"
        "object-label,object-truth,object-activation,object-intersect,object-iou,"
        "part-label,part-truth,part-activation,part-intersect,part-iou,"
        "scene-label,scene-truth,scene-activation,scene-intersect,scene-iou"
    )
    assert read_tally(tmp_path / "tally.csv", units=2) == rows


def test_short_tally_with_windows_line_ends(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"\xef\xbb\xbfunit,category,label,score\r\n2,object,tree,0.5\r\n1,,,0.0\r\n")
    assert read_tally(tmp_path / "t.csv", 2) == [TallyRow(2, "object", "tree", 0.5, {}), TallyRow(1, "", "", 0.0, {})]


@pytest.mark.parametrize(
    "text, message",
    [
        ("unit,category,label\n1,a,b\n", "no column score"),
        ("unit,category,label,score\n1,a,b,nan\n", "line 2: score 'nan', expected a number"),
        ("unit,category,label,score\n1.5,a,b,1\n", "line 2: unit '1.5', expected a whole number"),
        ("unit,category,label,score\n1e308,a,b,1\n", "line 2: unit '1e308', expected at most 9,007,199,254,740,992"),
        ("unit,category,label,score\n1,a,b,1\n1,a,b,1\n", "unit 1 has more than one row"),
        ("unit,category,label,score\n0,a,b,1\n1,a,b,1\n", r"2 units \(0 to 1\), the model's are 1 to 2"),
        ("unit,category,label,score\n1,a,b,1\n", r"1 units \(1 to 1\), the model's are 1 to 2"),
        ("unit,category,label,score,x-truth\n1,a,b,1,2\n", "no column x-label"),
    ],
)
def test_faulty_tallies(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        read_tally(tmp_path / "t.csv", 2)


def test_images_of_a_unit_are_dark_outside_of_its_mask():
    images, masks = np.full((2, 5, 5, 3), 100, np.uint8), np.zeros((2, 5, 5), bool)
    masks[0, :, :2] = True
    dark = darken_outside(images, masks)
    assert dark[0, 0, :, 0].tolist() == [100, 100, 25, 25, 25]
    assert (dark[1] == 25).all()
