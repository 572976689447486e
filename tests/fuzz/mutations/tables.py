"""CSV files: the tally of demo.py, and the four tables of a Broden folder; and the records and arrays beside them."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from cases import (
    ANY,
    REFUSED,
    SAME,
    SAME_OR_REFUSED,
    STRANGE_NAMES,
    Case,
    mutation,
    replace_bytes,
    spoil_bytes,
    strange_file,
)

CELLS = ["", " ", "0", "1", "2", "-1", "1.5", "1.0", " 1", "+1", "nan", "inf", "-inf", "1e400", "1e308", "1e-400"]
CELLS += [
    "9" * 5000,
    "9" * 18,
    "9" * 30,
    "0x10",
    "1_0",
    "٣",
    "²",
    "1e3",
    "None",
    "True",
    "\ufeff1",
    "a;b",
    ";",
    "p1.png",
]
CELLS += ["../x.png", "/etc/passwd", "\x00", "\x1b[2J", "x" * 200_000, "=1+1", "'", "65535", "65536", "999999"]

Table = list[list[str]]


def read(path: Path) -> Table:
    """A simple table: without quotes."""
    return [line.split(",") for line in path.read_text(encoding="utf-8").splitlines()]


def quoted(cell: str) -> str:
    """A cell as CSV."""
    return '"' + cell.replace('"', '""') + '"' if any(sign in cell for sign in ',"\n\r') else cell


def encode(table: Table) -> bytes:
    """A table as a file."""
    return "".join(",".join(map(quoted, row)) + "\n" for row in table).encode("utf-8", "surrogateescape")


def write(path: Path, table: Table) -> None:
    """Write a table."""
    replace_bytes(path, encode(table))


# --- what any table can suffer ------------------------------------------------------------------------------------


def equivalent(case: Case, path: Path) -> str:
    """The same content, written in another way."""
    table, data = read(path), path.read_bytes()
    order = list(range(len(table[0])))
    case.rng.shuffle(order)
    ways: dict[str, Callable[[], bytes]] = {
        "BOM": lambda: b"\xef\xbb\xbf" + data,
        "CRLF": lambda: data.replace(b"\n", b"\r\n"),
        "no last newline": lambda: data.rstrip(b"\n"),
        "quoted": lambda: "".join(",".join(f'"{c}"' for c in row) + "\n" for row in table).encode(),
        "columns in another order": lambda: encode([[row[place] for place in order] for row in table]),
        "a column more": lambda: encode([[*row, "note" if line == 0 else "x"] for line, row in enumerate(table)]),
    }
    name = case.rng.choice(sorted(ways))
    case.note(name)
    replace_bytes(path, ways[name]())
    return SAME


def broken(case: Case, path: Path, needed: list[str]) -> str:
    """What is no such table any more. `needed`: columns without which it is none."""
    table, data = read(path), path.read_bytes()
    column = table[0].index(case.rng.choice(needed))
    ways: dict[str, Callable[[], bytes]] = {
        "UTF-16": lambda: data.decode().encode("utf-16"),
        "semicolons": lambda: data.replace(b",", b";"),
        "tabs": lambda: data.replace(b",", b"\t"),
        "empty": lambda: b"",
        "newlines": lambda: b"\n\n\n",
        "header only": lambda: encode(table[:1]),
        "no header": lambda: encode(table[1:]),
        "column missing": lambda: encode([row[:column] + row[column + 1 :] for row in table]),
        "column renamed": lambda: encode([[*table[0][:column], "x", *table[0][column + 1 :]], *table[1:]]),
        "column twice": lambda: encode([[*row, row[column] if line == 0 else "7"] for line, row in enumerate(table)]),
        "not UTF-8": lambda: encode([*table[:-1], [cell + "\udce9" for cell in table[-1]]]),
        "NUL": lambda: data[:-3] + b"\x00\x00\n",
        "fewer cells": lambda: encode([*table[:-1], table[-1][:1]]),
        "open quote": lambda: data[:-1] + b',"' + b"x" * 200_000,
        "carriage returns": lambda: data.replace(b"\n", b"\r"),
    }
    name = case.rng.choice(sorted(ways))
    case.note(name, table[0][column] if "column" in name else "")
    replace_bytes(path, ways[name]())
    if name == "fewer cells" and needed == table[0][:1]:
        return SAME_OR_REFUSED  # the row has all that is needed
    return ANY if name in ("carriage returns", "NUL", "open quote") else REFUSED


def cell(case: Case, path: Path) -> str:
    """Some cells of other content."""
    table = read(path)
    for _ in range(case.rng.choice([1, 1, 1, 3])):
        line = case.rng.randrange(0 if case.rng.random() < 0.1 else 1, len(table))
        column = case.rng.randrange(len(table[line]))
        value = case.rng.choice([*CELLS, *STRANGE_NAMES])
        case.note(table[0][column][:30], line, value[:40])
        table[line][column] = value
    write(path, table)
    return ANY


def rows(case: Case, path: Path) -> str:
    """Rows twice, missing, in another order, of other lengths, empty."""
    table = read(path)
    line = case.rng.randrange(1, len(table))
    way = case.rng.choice(["twice", "missing", "shuffled", "empty row", "longer", "twice with other cells", "many"])
    case.note(way, line)
    if way == "twice":
        table.append(table[line])
    elif way == "missing":
        del table[line]
    elif way == "shuffled":
        rest = table[1:]
        case.rng.shuffle(rest)
        table[1:] = rest
    elif way == "empty row":
        table.insert(line, [""])
    elif way == "longer":
        table[line] = [*table[line], "x", "y"]
    elif way == "twice with other cells":
        other = list(table[line])
        other[case.rng.randrange(1, len(other))] = case.rng.choice(["7", "x", ""])
        table.append(other)
    else:
        table += [list(table[line]) for _ in range(60_000)]
    write(path, table)
    return way


# --- tally.csv ----------------------------------------------------------------------------------------------------


def tally(case: Case, without: bool | None = None) -> Path:
    """A copy of a tally with what lies beside it; demo.py reads it.

    The record of what it was made of is left out three times of four, or as `without` says: with it, demo.py looks no
    further once the tally was changed.
    """
    path = case.copy("dissected_1") / "tally.csv"
    case.demo(tally=path)
    if without is None:
        without = case.rng.random() < 0.75
    if without:
        path.with_suffix(".made_of.json").unlink()
        case.note("no record")
        case.noticed = "origin of the tally"
    return path


def settle(case: Case, expect: str) -> None:
    """A record of the tally's very bytes may refuse what is equivalent."""
    case.expect = SAME_OR_REFUSED if expect == SAME and not case.noticed else expect


@mutation("tally", 2)
def tally_equivalent(case: Case) -> None:
    settle(case, equivalent(case, tally(case)))


@mutation("tally", 2)
def tally_broken(case: Case) -> None:
    case.expect = broken(case, tally(case), ["unit", "category", "label", "score"])


@mutation("tally", 3)
def tally_cell(case: Case) -> None:
    case.expect = cell(case, tally(case))


@mutation("tally")
def tally_bytes(case: Case) -> None:
    spoil_bytes(case, tally(case))


@mutation("tally")
def tally_strange_file(case: Case) -> None:
    case.expect = ANY if strange_file(case, tally(case)) == "link" else REFUSED


@mutation("tally", 2)
def tally_rows(case: Case) -> None:
    way = rows(case, tally(case))
    free = {"shuffled": SAME, "empty row": SAME_OR_REFUSED, "longer": SAME_OR_REFUSED}
    settle(case, free.get(way, REFUSED))


@mutation("tally", 2)
def tally_numbers(case: Case) -> None:
    """Numbers that no tally has."""
    path = tally(case)
    table = read(path)
    line = case.rng.randrange(1, len(table))
    column, values = case.rng.choice(
        [
            ("unit", ["0", "513", "-1", "1.5", "nan", "", "1e400", "9" * 5000, "x", table[1 if line != 1 else 2][0]]),
            ("score", ["nan", "inf", "-1", "2", "x", "", "1e400", "1e308", "-inf"]),
            ("object-truth", ["-1", "1.5", "nan", "x", "", "1e400", "1e308"]),
            ("object-iou", ["nan", "-1", "7", "inf", "x", ""]),
            ("object-intersect", ["-5", "0.5", "inf", "x", "99999999999999999999999"]),
        ]
    )
    value = case.rng.choice(values)
    case.note(column, line, value[:30])
    table[line][table[0].index(column)] = value
    write(path, table)
    case.expect = REFUSED


@mutation("tally", 2)
def tally_labels(case: Case) -> None:
    """Labels that are legal text, and hostile where they are shown."""
    path = tally(case)
    table = read(path)
    column = table[0].index(case.rng.choice(["label", "label", "category"]))
    value = case.rng.choice([*STRANGE_NAMES, "x" * 100_000, "$" * 50, "\\" * 20])
    for row in table[1:]:
        row[column] = value
    case.note(table[0][column], value)
    write(path, table)


@mutation("tally")
def tally_of_four_columns(case: Case) -> None:
    path = tally(case)
    write(path, [row[:4] for row in read(path)])
    case.expect = SAME_OR_REFUSED


@mutation("tally", 2)
def tally_record(case: Case) -> None:
    """The record beside it, of what it was made of: junk, or of something else."""
    path = tally(case, without=False)
    record = path.with_suffix(".made_of.json")
    known = json.loads(record.read_text()) if record.is_file() else {"weights": "0" * 64}
    field = case.rng.choice(sorted(known))
    contents = {
        "junk": b"junk",
        "list": b"[]",
        "number": b"3",
        "empty": b"",
        "deep": b'{"a":' * 100_000,
        "large": b'{"a": "' + b"x" * (2 << 20) + b'"}',
        "not utf-8": b'{"a": "\xff"}',
        "other weights": json.dumps({**known, **{name: "f" * 64 for name in known if "weights" in name}}).encode(),
        "other field": json.dumps({**known, field: case.rng.choice(["x", 3, None, [], {"a": 1}])}).encode(),
        "absent field": json.dumps({name: value for name, value in known.items() if name != field}).encode(),
        "nan": b'{"weights": NaN}',
        "no fields": b"{}",
    }
    way = case.rng.choice([*sorted(contents), "file"])
    case.note(way, field if "field" in way else "")
    existed = record.is_file()
    replace_bytes(record, contents.get(way, b"{}"))
    if way == "file":
        strange_file(case, record, ["folder", "fifo", "socket", "endless", "link to itself", "link nowhere"])
    refused = way not in ("other field", "absent field", "no fields", "nan")
    case.expect = REFUSED if refused and (existed or way != "other weights") else ANY
    if not existed:
        case.expect = ANY  # this version knows no records


# --- the tables of a Broden folder --------------------------------------------------------------------------------

TABLES = {
    "index.csv": ["image", "sh", "sw", "object", "scene"],
    "label.csv": ["number", "name"],
    "category.csv": ["name"],
    "c_object.csv": ["number", "coverage"],
    "c_scene.csv": ["number", "coverage"],
}


def broden_table(case: Case, name: str = "") -> Path:
    """A table of a copy of the Broden folder, read by the dissection or by `check`."""
    folder = case.copy("broden")
    name = name or case.rng.choice(["index.csv", "index.csv", *TABLES])
    if case.rng.random() < 0.6:
        case.dissect(broden=folder)
    else:
        case.check(folder)
    case.note(case.program, name)
    return folder / name


@mutation("table")
def table_equivalent(case: Case) -> None:
    case.expect = equivalent(case, broden_table(case))


@mutation("table", 2)
def table_broken(case: Case) -> None:
    path = broden_table(case)
    case.expect = broken(case, path, TABLES[path.name])
    if path.name.startswith("c_") and case.expect == REFUSED and "'header only'" in case.detail:
        case.expect = ANY  # a category without labels


@mutation("table", 5)
def table_cell(case: Case) -> None:
    case.expect = cell(case, broden_table(case))


@mutation("table", 2)
def table_rows(case: Case) -> None:
    path = broden_table(case)
    way = rows(case, path)
    case.expect = {"twice": SAME_OR_REFUSED, "many": SAME_OR_REFUSED}.get(way, ANY)


@mutation("table")
def table_bytes(case: Case) -> None:
    spoil_bytes(case, broden_table(case))


@mutation("table")
def table_strange_file(case: Case) -> None:
    case.expect = SAME if strange_file(case, broden_table(case)) == "link" else REFUSED


@mutation("table", 4)
def index_cell(case: Case) -> None:
    """Cells of index.csv that lead out of the folder, to other files, to sizes and labels that do not fit."""
    path = broden_table(case, "index.csv")
    table = read(path)
    outside = case.ground.outside / "map.png"
    folder = path.parent / "images"
    folder.joinpath("away").symlink_to(case.ground.outside)
    folder.joinpath("deep").mkdir()
    sizes = ["0", "-1", "1", "31", "33", "8192", "8193", "65536", "9" * 9, "9" * 18, "", "x", "32.0", "nan"]
    ways = {
        "image": [
            "",
            str(outside),
            "../label.csv",
            "missing.png",
            "p0_object_0.png",
            ".",
            "deep",
            "away/secret.txt",
            "p0.png\x00",
        ],
        "sh": sizes,
        "sw": sizes,
        "ih": sizes,
        "object": [
            str(outside),
            "../label.csv",
            "..",
            "missing.png",
            "p0.png",
            "away/secret.txt",
            "0",
            "1",
            "65535",
            "299",
            "301",
            "9" * 18,
            "9" * 400,
            "-1",
            "1;1",
            "p0_object_0.png;p0_object_0.png",
            "p0_object_0.png;1",
            ";;",
            "p0_object_0.png;p1_object_0.png",
            "300",
        ],
        "scene": ["300;300", "0", "1", "2", "301", "65536", "x", "-300", "300.0", "p0_object_0.png", "３００"],
    }
    column = case.rng.choice(["image", "sh", "sw", "ih", "object", "object", "scene"])
    value = case.rng.choice(ways[column])
    lines = [case.rng.randrange(1, len(table))] if case.rng.random() < 0.7 else range(1, len(table))
    for line in lines:
        table[line][table[0].index(column)] = value
    case.note(column, value[:60], "one row" if len(lines) == 1 else "all rows")
    write(path, table)
    leaves = column in ("image", "object") and ("/" in value or value == "..")
    case.expect = REFUSED if leaves and case.program == "netdissect" else ANY


@mutation("table", 2)
def index_large(case: Case) -> None:
    """Label maps of great size without a map: whole-image labels only."""
    path = broden_table(case, "index.csv")
    table = read(path)
    size = case.rng.choice(["2000", "8192", "8191"])
    for row in table[1:]:
        row[table[0].index("sh")] = row[table[0].index("sw")] = size
        row[table[0].index("object")] = ""
        row[table[0].index("scene")] = "300"
    if case.rng.random() < 0.5:
        table += [[*row] for row in table[1:] * 3]
    case.note(size, len(table))
    write(path, table)


# --- quantile.npy -------------------------------------------------------------------------------------------------


@mutation("table")
def quantile_file(case: Case) -> None:
    path = case.copy("dissected/quantile.npy")
    values = np.load(path)

    def saved(array: np.ndarray, **options: bool) -> bytes:
        buffer = io.BytesIO()
        np.save(buffer, array, **options)
        return buffer.getvalue()

    header = b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999,), }".ljust(128)
    contents = {
        "same": saved(values),
        "shape": saved(values[:, None]),
        "fewer": saved(values[1:]),
        "nan": saved(values * np.nan),
        "text": saved(values.astype(str)),
        "objects": saved(np.array([{}] * 64, dtype=object), allow_pickle=True),
        "huge": header,
        "float16": saved(values.astype(np.float16)),
        "complex": saved(values.astype(complex)),
        "big endian": saved(values.astype(">f8")),
        "npz": (case.base / "weights_1.pth").read_bytes()[:1000],
        "text file": b"0.1\n" * 64,
        "integers": saved(np.full(64, 2**62)),
    }
    way = case.rng.choice([*sorted(contents), "bytes", "file"])
    case.note(way)
    replace_bytes(path, contents.get(way, saved(values)))
    if way == "bytes":
        spoil_bytes(case, path)
    if way == "file":
        strange_file(case, path, ["missing", "folder", "fifo", "endless", "link to itself"])
    case.dissect("--quantile_file", str(path))
    known = {"same": SAME, "big endian": SAME, "bytes": ANY, "float16": ANY, "integers": ANY}
    case.expect = known.get(way, REFUSED)
