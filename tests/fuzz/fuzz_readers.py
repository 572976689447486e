"""Coverage-guided fuzzing of the readers of users' files with atheris; not part of the test suite.

    pip install atheris                                            # Linux or macOS, Python up to 3.13
    python3 tests/fuzz/fuzz_readers.py tally -max_total_time=300   # or: index, labels, image

Whatever the file, a reader answers or raises UserError. libFuzzer writes the input of anything else to a file crash-*:
fix the reader and keep the input as a case of tests/test_properties.py or tests/test_bad_input.py. Further flags are
libFuzzer's: -max_total_time=SECONDS, -runs=N, a folder of seed inputs.
"""

import sys
import tempfile
import warnings
from pathlib import Path

import atheris

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

INSTRUMENTED = [
    "explain.tally",
    "explain.unit_table",
    "util.tables",
    "netdissect.broden",
    "loader.images",
    "util.cli",
    "csv",
    "PIL.PngImagePlugin",
    "PIL.ImageFile",
    "PIL.JpegImagePlugin",
]

with atheris.instrument_imports(include=INSTRUMENTED):
    from conftest import write_small_broden

    from loader.images import read_image
    from netdissect.broden import Broden
    from netdissect.tally import read_tally
    from util.cli import UserError

HOME = Path(tempfile.mkdtemp(prefix="fuzz-"))


def fuzz_tally(content: bytes) -> None:
    """tally.csv."""
    (HOME / "tally.csv").write_bytes(content)
    read_tally(HOME / "tally.csv")


def fuzz_index(content: bytes) -> None:
    """index.csv of a Broden folder, and the labels that it names."""
    (BRODEN / "index_fuzzed.csv").write_bytes(content)
    broden = Broden(BRODEN, "index_fuzzed.csv")
    for image in range(len(broden)):
        broden.labels(image)


def fuzz_labels(content: bytes) -> None:
    """A label map."""
    (HOME / "map.png").write_bytes(content)
    SCENES.label_map(HOME / "map.png", next(row for row in SCENES.rows if row.maps))


def fuzz_image(content: bytes) -> None:
    """An image, read as the data sets and as --image read it."""
    (HOME / "image").write_bytes(content)
    read_image(HOME / "image")
    read_image(HOME / "image", upright=True, enough=64)


TARGETS = {"tally": fuzz_tally, "index": fuzz_index, "labels": fuzz_labels, "image": fuzz_image}
SEEDS = {
    "tally": lambda: b"unit,category,label,score\n1,object,sky,0.5\n",
    "index": lambda: (BRODEN / "index.csv").read_bytes(),
    "labels": lambda: (BRODEN / "images/p0_object_0.png").read_bytes(),
    "image": lambda: (BRODEN / "images/p0.png").read_bytes(),
}


def main() -> None:
    """Fuzz the reader that the first argument names."""
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"expected one of {', '.join(TARGETS)}")
    name = sys.argv.pop(1)
    seeds = HOME / "seeds"
    seeds.mkdir()
    (seeds / name).write_bytes(SEEDS[name]())

    def attempt(content: bytes) -> None:
        try:
            TARGETS[name](content)
        except UserError as error:
            assert str(error).strip()

    atheris.Setup([*sys.argv, str(seeds)], attempt)
    atheris.Fuzz()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    BRODEN = write_small_broden(HOME / "broden")
    SCENES = Broden(BRODEN)
    main()
