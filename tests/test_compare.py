"""netdissect.compare: counts of two tallies worked by hand, and what it says of files and flags that do not fit."""

import json

import pytest
from conftest import call

from netdissect.compare import main
from util.cli import UserError

COLUMNS = ["label", "truth", "activation", "intersect", "iou"]
HEADER = ",".join(["unit,category,label,score", *(f"{name}-{part}" for name in ("object", "part") for part in COLUMNS)])
# Unit 3 is best as a part, and nearly as good as an object; 4 is equal in both, and the last one counts; 5 is nothing.
OURS = f"""{HEADER}
3,part,leaf,0.5,tree,90,50,40,0.4,leaf,60,60,40,0.5
1,object,tree,0.3,tree,90,40,30,0.3,wing,9,40,0,0.0
4,part,leaf,0.1,tree,90,20,10,0.1,leaf,60,50,10,0.1
2,object,sky,0.04,sky,80,24,4,0.04,leaf,60,20,1,0.01
5,part,,0.0,,0,0,0,0.0,,0,0,0,0.0
"""
# As the authors' code writes it: counts are floats.
THEIRS = f"""{HEADER}
1,object,sky,0.06,sky,80.0,24.0,6.0,0.06,leaf,60.0,20.0,1.0,0.0125
2,object,sky,0.02,sky,80.0,22.0,2.0,0.02,leaf,60.0,20.0,1.0,0.0125
"""


@pytest.fixture
def tallies(tmp_path):
    for name, text in (("ours", OURS), ("theirs", THEIRS)):
        (tmp_path / f"{name}.csv").write_text(text)
    return [str(tmp_path / "ours.csv"), str(tmp_path / "theirs.csv")]


def compared(tallies, tmp_path, *flags):
    main([*tallies, *flags, "--json", str(tmp_path / "out" / "c.json")])
    return json.loads((tmp_path / "out" / "c.json").read_text())


def detectors(interpretable, labels):
    return {"interpretable": interpretable, "detectors": labels}


def test_worked_by_hand(tallies, tmp_path, capsys):
    found = compared(tallies, tmp_path)
    assert (found["threshold"], found["categories"]) == (0.04, None)
    ours, theirs = found["tallies"]
    assert ours == {
        "tally": tallies[0],
        "units": 5,
        **detectors(4, 3),  # leaf twice, tree, and sky at the threshold itself
        "mean_score": pytest.approx((0.5 + 0.3 + 0.1 + 0.04 + 0) / 5),
        "categories": {"object": detectors(2, 2), "part": detectors(2, 1)},
    }
    assert theirs == {
        "tally": tallies[1],
        "units": 2,
        **detectors(1, 1),
        "mean_score": pytest.approx(0.04),
        "categories": {"object": detectors(1, 1), "part": detectors(0, 0)},
    }
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [f"A: {tallies[0]}", f"B: {tallies[1]}"]
    assert [line.split() for line in lines[3:7]] == [
        ["units", "5", "2"],
        ["interpretable", "(IoU", ">=", "0.04)", "4", "1"],
        ["unique", "detectors", "3", "1"],
        ["mean", "best", "IoU", "0.1880", "0.0400"],
    ]
    assert [line.split() for line in lines[8:]] == [
        ["object", "2", "/", "2", "1", "/", "1"],
        ["part", "2", "/", "1", "0", "/", "0"],
    ]


def test_a_higher_threshold(tallies, tmp_path):
    ours, theirs = compared(tallies, tmp_path, "--threshold", "0.11")["tallies"]
    assert (ours["interpretable"], ours["detectors"], theirs["interpretable"]) == (2, 2, 0)
    assert ours["mean_score"] == pytest.approx(0.188)  # is of all units


def test_labels_of_some_categories_compete(tallies, tmp_path):
    """Among objects unit 3 is a tree at 0.4, unit 4 one at 0.1."""
    found = compared(tallies, tmp_path, "--categories", "object")
    ours = found["tallies"][0]
    assert found["categories"] == ["object"]
    assert ours["categories"] == {"object": detectors(4, 2)}
    assert (ours["interpretable"], ours["detectors"]) == (4, 2)
    assert ours["mean_score"] == pytest.approx((0.4 + 0.3 + 0.1 + 0.04) / 5)
    # With all of them, in any order, the tally is as it was: the last category of the file wins a tie.
    both = compared(tallies, tmp_path, "--categories", "part, object")
    assert both["tallies"] == compared(tallies, tmp_path)["tallies"]


def test_a_tally_of_four_columns(tallies, tmp_path, capsys):
    (tmp_path / "theirs.csv").write_text("unit,category,label,score\n1,scene,park,0.2\n2,object,sky,0.01\n")
    _, short = compared(tallies, tmp_path)["tallies"]
    assert short["categories"] == {"scene": detectors(1, 1)}
    assert [line.split() for line in capsys.readouterr().out.splitlines()[8:]] == [
        ["object", "2", "/", "2", "-"],
        ["part", "2", "/", "1", "-"],
        ["scene", "-", "1", "/", "1"],
    ]


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--threshold", "1.5"], "--threshold 1.5: expected 0 to 1"),
        (["--threshold", "nan"], "--threshold nan: expected 0 to 1"),
        (["--threshold", "x"], "argument --threshold: invalid float value: 'x'"),
        (["--categories", "object,"], "--categories 'object,': expected names with commas between them"),
        (["--categories", "scene"], "ours.csv: no category 'scene'; it has object, part"),
        (["--json", "{ours}"], "ours.csv: it is one of the tallies, expected another file"),
    ],
)
def test_flags_that_do_not_fit(tallies, tmp_path, flags, message):
    with pytest.raises(UserError) as error:
        main([*tallies, *(flag.format(ours=tallies[0]) for flag in flags)])
    assert message in str(error.value)
    assert (tmp_path / "ours.csv").read_text() == OURS


@pytest.mark.parametrize(
    "text, message",
    [
        ("unit,category,label,score\n", "no units in it"),
        ("unit,category,label,score\n1,a,b,0.5\n", "no category 'object'; it has no columns of any"),
        ("unit;category\n", "no column unit, category, label, score"),
        (None, "no such file"),
    ],
)
def test_tallies_that_do_not_fit(tallies, tmp_path, text, message):
    (tmp_path / "theirs.csv").unlink()
    if text is not None:
        (tmp_path / "theirs.csv").write_text(text)
    with pytest.raises(UserError, match=rf"tally .*theirs\.csv: {message}"):
        main([*tallies, "--categories", "object"])


def test_from_the_command_line(tallies):
    done = call("-m", "netdissect.compare", *tallies)
    assert (done.returncode, done.stderr) == (0, "")
    assert "unique detectors" in done.stdout
    done = call("-m", "netdissect.compare", tallies[0])
    assert done.returncode == 2
    assert done.stderr.startswith("netdissect.compare: error: ") and len(done.stderr.splitlines()) == 1
