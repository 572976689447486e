"""Properties of the readers of users' files and flags: whatever is given, an answer or one line, never a traceback."""

import csv

import numpy as np
import pytest
from conftest import write_small_broden
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from explain.inputs import pick_figure, pick_indices
from models import parse_mark
from netdissect import main as dissection
from netdissect.broden import Broden
from netdissect.tally import CategoryScore, TallyRow, read_tally, write_tally
from training.config import k_of_epochs
from util.cli import UserError

SLOW_FIXTURES = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=12)
CELLS = st.one_of(
    st.sampled_from(
        ["", "0", "1", "-1", "1.5", "nan", "inf", "1e400", "9" * 5000, "٣", "\ufeff1", "a;b", "p1.png", "../x"]
    ),
    st.text(max_size=8),
)


def answers_or_one_line(read, *given):
    """What it returns, or None after a UserError of one line."""
    try:
        return read(*given)
    except UserError as error:
        assert "\n" not in " ".join(str(error).split())
        return None


def write_csv(path, rows):
    """All cells quoted; Python 3.10's own writer refuses NUL."""
    lines = [",".join('"' + cell.replace('"', '""') + '"' for cell in row) for row in rows]
    path.write_bytes("".join(line + "\r\n" for line in lines).encode())


@SLOW_FIXTURES
@given(rows=st.lists(st.tuples(NAMES, NAMES, st.floats(0, 1), st.integers(0, 2**40)), min_size=1, max_size=5))
def test_a_tally_that_was_written_is_read_as_it_was(tmp_path, rows):
    written = [
        TallyRow(
            unit,
            "object",
            label,
            score,
            {"object": CategoryScore(other, size, size, 0, score)},
        )
        for unit, (label, other, score, size) in enumerate(rows, start=1)
    ]
    write_tally(tmp_path / "tally.csv", written)
    found = read_tally(tmp_path / "tally.csv", units=len(rows))
    assert [(row.unit, row.label) for row in found] == [(row.unit, row.label) for row in written]
    assert all(one.score == pytest.approx(other.score, abs=1e-6) for one, other in zip(found, written, strict=True))


@SLOW_FIXTURES
@given(cells=st.lists(st.lists(CELLS, min_size=1, max_size=7), max_size=4), units=st.sampled_from([None, 1, 2]))
def test_any_tally(tmp_path, cells, units):
    write_csv(tmp_path / "tally.csv", [["unit", "category", "label", "score"], *cells])
    rows = answers_or_one_line(read_tally, tmp_path / "tally.csv", units)
    if rows is not None and units:
        assert sorted(row.unit for row in rows) == list(range(1, units + 1))


@SLOW_FIXTURES
@given(content=st.binary(max_size=200))
def test_any_bytes_as_a_tally(tmp_path, content):
    (tmp_path / "tally.csv").write_bytes(content)
    answers_or_one_line(read_tally, tmp_path / "tally.csv")


@SLOW_FIXTURES
@given(column=st.sampled_from(["image", "sh", "sw", "object", "scene"]), cell=CELLS)
def test_any_cell_of_an_index(broden, column, cell):
    with open(broden / "index.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    rows[0][column] = cell
    write_csv(broden / "index_changed.csv", [list(rows[0]), *(row.values() for row in rows)])

    def read():
        changed = Broden(broden, "index_changed.csv")
        for index in range(len(changed)):
            changed.labels(index)

    answers_or_one_line(read)


@pytest.mark.parametrize(
    "table, column",
    [("label.csv", "number"), ("c_object.csv", "number"), ("c_object.csv", "coverage"), ("category.csv", "name")],
)
@SLOW_FIXTURES
@given(cell=CELLS)
def test_any_cell_of_brodens_tables(tmp_path_factory, table, column, cell):
    root = write_small_broden(tmp_path_factory.mktemp("b") / "broden", count=1)
    with open(root / table, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    rows[0][column] = cell
    write_csv(root / table, [list(rows[0]), *(row.values() for row in rows)])
    answers_or_one_line(Broden, root)


@SLOW_FIXTURES
@given(numbers=st.lists(st.integers(0, 300), min_size=4, max_size=4))
def test_label_maps_are_red_plus_256_green(broden, tmp_path, numbers):
    scene = Broden(broden)
    row = next(row for row in scene.rows if row.maps)
    wanted = np.resize(np.array(numbers), (row.height, row.width))
    colours = np.stack([wanted % 256, wanted // 256, np.full_like(wanted, 7)], -1).astype(np.uint8)
    Image.fromarray(colours).save(tmp_path / "map.png")
    assert (scene.label_map(tmp_path / "map.png", row) == wanted).all()


@SLOW_FIXTURES
@given(content=st.binary(max_size=300), cut=st.integers(0, 300))
def test_any_bytes_as_a_label_map(broden, tmp_path, content, cut):
    scene = Broden(broden)
    row = next(row for row in scene.rows if row.maps)
    whole = row.maps[0][1].read_bytes()
    for attempt in (content, whole[:cut], whole[:cut] + content + whole[cut + len(content) :]):
        (tmp_path / "map.png").write_bytes(attempt)
        answers_or_one_line(scene.label_map, tmp_path / "map.png", row)


@given(text=st.one_of(CELLS, st.text("0123456789,- ", max_size=12)), count=st.integers(1, 50))
def test_any_images_flag(text, count):
    indices = answers_or_one_line(pick_indices, text, count)
    assert indices is None or (indices and all(0 <= index < count for index in indices))
    places = answers_or_one_line(pick_figure, text, count)
    assert places is None or all(0 <= place < count for place in places)


@given(text=st.one_of(CELLS, st.text("t0123456789linear:-", max_size=16)))
def test_any_mark_and_k_schedule(text):
    answers_or_one_line(parse_mark, text)
    answers_or_one_line(k_of_epochs, text, 5, 3)


@given(text=st.one_of(CELLS, st.text("[]()'\",object ", max_size=16)))
def test_any_categories(text):
    config = answers_or_one_line(dissection.make_config, {"categories": text})
    if config is not None and config.categories is not None:
        assert config.categories
