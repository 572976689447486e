"""agreement.csv: ceiling, precision, recall and AUROC worked by hand, AUROC as scikit-learn has it, and the file."""

import numpy as np
import pytest
from conftest import ROOT, write_broden, write_small_broden
from scipy.sparse import csr_array
from sklearn.metrics import roc_auc_score
from test_netdissect import summary_of

import settings
from netdissect import agreement as agreement_module
from netdissect import main as dissection
from netdissect.agreement import AgreementRow, agreement_rows, auroc, describe, read_agreement, write_agreement
from netdissect.broden import Broden
from netdissect.counting import count
from netdissect.tally import read_tally, tally_rows
from util.cli import UserError

LABELS = [
    {"number": 1, "name": "tree", "coverage": {"object": 5}},
    {"number": 2, "name": "leaf", "coverage": {"object": 4}},
    {"number": 9, "name": "car", "coverage": {"object": 1, "part": 5}},
    {"number": 7, "name": "park-s", "coverage": {"scene": 20}},
]
# Ten images of 2 x 2 pixels. Tree is in the first pixel of images 0 to 4, car in their last one and sometimes in the
# third; leaf is in the second pixel of images 1 to 4. Images 5 to 9 are parks.
IMAGES = [
    {
        "name": f"p{number}",
        "pixels": np.zeros((4, 4)),
        "sh": 2,
        "sw": 2,
        "cells": {"object": [[[1, 2 * (number > 0)], [9 * (number > 1), 9]]]} if number < 5 else {"scene": [7]},
    }
    for number in range(10)
]
FLAT = np.ones((2, 2))
# Unit 1 is flat and on in images 0 and 1, unit 2 never, unit 3 in the second pixel of image 3.
PEAKS = [4, 3, 2, 2, 1, 2, 1, 0, 0, 0]
MAPS = [[peak * FLAT, 0 * FLAT, [[0.0, float(number == 3)], [0.0, 0.0]]] for number, peak in enumerate(PEAKS)]
THRESHOLDS = [2.5, 0.5, 0.5]


def agree(broden, maps=MAPS, thresholds=THRESHOLDS, iou_mode="lite"):
    summary = summary_of(maps, thresholds)
    (counts,), presence = count(summary, broden, iou_mode)
    return agreement_rows(tally_rows(counts, broden), counts, summary.peaks, presence, broden)


@pytest.fixture
def worked(tmp_path):
    return Broden(write_broden(tmp_path / "broden", ["object", "part", "scene"], LABELS, IMAGES))


def test_worked_by_hand(worked):
    third, first, second = agree(worked)  # in the tally's order
    # Tree: T = 5, and under the mask of 8 pixels I = 2. Of the 25 pairs of an image with and one without, the peaks 4
    # and 3 win 5 each, the two 2 win 4 and tie with 2, and 1 wins 3 and ties with 1: 22.5. Car has the same images and
    # the greater number.
    iou = pytest.approx(2 / 11)
    assert first == AgreementRow(1, "tree", "object", iou, 5 / 8, 2 / 8, 2 / 5, 0.9, "tree", "object", 0.9)
    # Nothing, and the same peak everywhere: all ties, and of equal labels the lowest number wins.
    assert second == AgreementRow(2, "", "scene", 0.0, 0.0, 0.0, 0.0, None, "tree", "object", 0.5)
    # Leaf: T = 4, the mask is one pixel of it; four images are too few. Tree: image 3 wins 5, and 20 tie.
    iou = pytest.approx(1 / 4)
    assert third == AgreementRow(3, "leaf", "object", iou, 1 / 4, 1.0, 1 / 4, None, "tree", "object", 0.6)
    expected = "median AUROC of the tally's labels: 0.900 (1 units); of those of greatest AUROC: 0.600 (3 units)"
    assert describe([third, first, second]) == expected
    assert describe([second]) == "median AUROC of the tally's labels: none; of those of greatest AUROC: 0.500 (1 units)"


def test_the_mode_of_the_iou_changes_masks_and_labels_only(worked):
    """In the mode original images 0 and 1, without maps of parts, do not count for car, a part: A = 0."""
    first, third, second = agree(worked, iou_mode="original")
    assert first == AgreementRow(1, "car", "part", pytest.approx(2 / 6), 0.0, 0.0, 2 / 8, 0.9, "tree", "object", 0.9)
    assert [third, second] == [row for row in agree(worked) if row.unit != 1]


def test_what_images_carry(worked):
    _, presence = count(
        summary_of(MAPS, THRESHOLDS), worked, partners=np.array([np.arange(10), np.roll(np.arange(10), 1)])
    )
    carried = [np.flatnonzero(row).tolist() for row in presence.toarray()]
    assert carried == [[1, 9]] + [[1, 2, 9]] * 4 + [[7]] * 5  # their own labels, not those of their partners


def test_label_0_and_numbers_without_a_name_are_no_names(tmp_path):
    """Images 0 to 4 have the integer 0, and a pixel of number 5, which label.csv lacks: neither competes."""
    cells = {"object": [[[5, 0], [0, 0]]], "scene": [0]}
    images = [{**image, "cells": cells} if number < 5 else image for number, image in enumerate(IMAGES)]
    broden = Broden(write_broden(tmp_path / "broden", ["object", "part", "scene"], LABELS, images))
    first, *_ = agree(broden, [[unit_maps[0]] for unit_maps in MAPS], THRESHOLDS[:1])
    # A = I = 8, T = 20: the nameless label of the last category that zeros have in the mode lite.
    iou = pytest.approx(8 / 20)
    assert first == AgreementRow(1, "", "scene", iou, 8 / 20, 1.0, 8 / 20, None, "park-s", "scene", 0.1)
    # Park is the only label that enough images have, though in those of the lower peaks.


@pytest.mark.parametrize("decimals", [0, 1, 7])  # mostly ties, many, and none
def test_auroc_is_scikit_learns(monkeypatch, decimals):
    monkeypatch.setattr(agreement_module, "RANKS_AT_A_TIME", 300)  # four units at a time
    generator = np.random.default_rng(decimals)
    peaks = np.maximum(generator.normal(size=(9, 70)), -0.3).round(decimals).astype(np.float32)
    peaks[8] = 0
    presence = generator.random((70, 12)) < np.linspace(0.02, 0.98, 12)
    for label, count_ in enumerate((0, 4, 5)):
        presence[:, label] = np.arange(70) < count_
        presence[:, -1 - label] = np.arange(70) >= count_
    found = auroc(peaks, csr_array(presence))
    assert np.isnan(found).tolist() == [[label in (0, 1, 10, 11) for label in range(12)]] * 9
    for unit in range(9):
        for label in range(2, 10):
            expected = roc_auc_score(presence[:, label], peaks[unit])
            assert found[unit, label] == pytest.approx(expected, abs=1e-12)
    assert (found[8, 2:10] == 0.5).all()


def dissect(broden, output, **more):
    given = {
        "model": "test_hostile_dissection:small_network",
        "model_file": "none",
        "feature_names": "['0']",
        "data_directory": str(broden),
    }
    machine = {"output_folder": str(output), "gpu": "False", "workers": "0", "topn": "1", "chance_rounds": "0"}
    dissection.main(dissection.make_config({**given, **machine, **more}))
    return read_agreement(output / "agreement.csv", read_tally(output / "tally.csv"))


def test_a_dissection_says_how_its_units_agree(tmp_path, caplog):
    """The scene is in half of the images; a sample has 64 of them."""
    broden = write_small_broden(tmp_path / "broden", count=70, size=16)
    with caplog.at_level("INFO"):
        rows = dissect(broden, tmp_path / "all")
    assert {row.auroc_label for row in rows} <= {"beach-s", ""} and all(
        row.auroc is None or 0 <= row.auroc <= 1 for row in rows
    )
    assert "0: median AUROC of the tally's labels: " in caplog.text
    sample = dissect(broden, tmp_path / "sample", test_mode="True")
    assert [row.unit for row in sample] == [row.unit for row in read_tally(tmp_path / "sample" / "tally.csv")]
    assert sample != rows
    other = dissect(broden, tmp_path / "other", iou_mode="original")
    by_auroc = [{row.unit: (row.auroc_label, row.auroc_best) for row in found} for found in (rows, other)]
    assert by_auroc[0] == by_auroc[1]


# --- the file ------------------------------------------------------------------------------------------------------

HEADER = "unit,label,category,iou,ceiling,precision,recall,auroc,auroc-label,auroc-category,auroc-best"


def test_the_file_is_read_as_written(worked, tmp_path):
    rows = agree(worked)
    write_agreement(tmp_path / "agreement.csv", rows)
    lines = (tmp_path / "agreement.csv").read_text().splitlines()
    assert lines[0] == HEADER
    assert lines[3] == "2,,scene,0.0,0.0,0.0,0.0,,tree,object,0.5"
    assert read_agreement(tmp_path / "agreement.csv") == rows


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("ceiling", "top", "no column ceiling; expected unit, label, category, iou, ceiling"),
        ("0.625", "1.5", "line 3: ceiling '1.5', expected an IoU from 0 to 1"),
        ("0.25,0.4", "-1,0.4", "line 3: precision '-1', expected a number from 0"),
        (",0.9\n", ",nan\n", "line 3: auroc-best 'nan', expected a number"),
        (",0.9\n", ",1.9\n", "line 3: auroc-best '1.9', expected an AUROC from 0 to 1"),
        ("1,tree", "2,tree", "unit 2 has more than one row"),
        ("1,tree", "4,tree", r"3 units \(2 to 4\), the model's are 1 to 3"),
        ("1,tree", "1,bush", "unit 1 is not as in the tally: it was made with another one"),
        (",tree,object,0.5\n", "", "line 4: fewer cells"),
    ],
)
def test_faulty_files(worked, tmp_path, old, new, message):
    summary = summary_of(MAPS, THRESHOLDS)
    (counts,), presence = count(summary, worked)
    tally = tally_rows(counts, worked)
    write_agreement(tmp_path / "a.csv", agreement_rows(tally, counts, summary.peaks, presence, worked))
    text = (tmp_path / "a.csv").read_text()
    assert old in text
    (tmp_path / "a.csv").write_text(text.replace(old, new, 1))
    with pytest.raises(UserError, match=rf"agreement .*a\.csv.*{message}"):
        read_agreement(tmp_path / "a.csv", tally)


def test_the_shipped_file_is_of_the_shipped_tally():
    tally = read_tally(ROOT / settings.SHIPPED_TALLY, units=512)
    rows = read_agreement((ROOT / settings.SHIPPED_TALLY).with_name("agreement.csv"), tally)
    assert all(row.auroc <= row.auroc_best and (row.iou <= row.ceiling or row.category == "material") for row in rows)
