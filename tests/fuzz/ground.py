"""The ground of a campaign: a copy of the product, small valid inputs, and what trusted runs make of them.

<work>/repo/     the product's modules, imported from here: what they write beside themselves is seen
<work>/base/     valid inputs and the results of trusted runs; never changed
<work>/case/     the present input, made of copies, and its output folders
<work>/outside/  files that no input may change, to which links and paths lead
<work>/home/     streams and temporary files of the run
"""

import os
import shutil
import stat
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from sandbox import Job, Outcome, run

SOURCE = Path(__file__).resolve().parent.parent.parent
NOT_COPIED = {"data", "result", "snapshot", "tests", "docs", "benchmarks", "experiments", "__pycache__"}
TREE = "tiny"  # the name of the image-folder tree, registered with a small size
PUBLISHED = "words"  # the name of the tree that is laid out as Tiny-ImageNet is published
SIZE = 64  # side of the network's input, pixels
FROZEN = ["--freeze", "layer4.0", "--slim"]  # of a run that trains what follows a layer
RUN = f"pytorch_resnet18_fc_ma_t5_{TREE}"
MODULE_OF = {
    "train": "train.py",
    "demo": "demo.py",
    "netdissect": "netdissect/main.py",
    "broden": "netdissect.broden",
}


@dataclass(frozen=True)
class Ground:
    """The folders of a campaign; see the module's docstring.

    Attributes:
        work: that all of them are in.
        first: what the product's copy was like before the first case.
    """

    work: Path
    first: dict[str, tuple] = field(default_factory=dict)

    @property
    def repo(self) -> Path:
        """The product's copy."""
        return self.work / "repo"

    @property
    def base(self) -> Path:
        """Valid inputs and trusted results."""
        return self.work / "base"

    @property
    def case(self) -> Path:
        """The present input."""
        return self.work / "case"

    @property
    def outside(self) -> Path:
        """What nothing may change."""
        return self.work / "outside"

    @property
    def home(self) -> Path:
        """Streams and temporary files."""
        return self.work / "home"

    def run_folders(self) -> list[Path]:
        """Where train.py and the defaults of the others write: beside the product."""
        return [self.repo / "snapshot", self.repo / "result"]

    def job(self, program: str, argv: Sequence[str], writable: Sequence[Path], **options: object) -> Job:
        """A job that runs a program in the case's folder."""
        entry = MODULE_OF[program]
        path = str(self.repo / entry) if entry.endswith(".py") else entry
        return Job(path, list(argv), list(writable), self.case, **options)  # type: ignore[arg-type]

    def clear(self) -> None:
        """Remove what the last case left."""
        for folder in (self.case, self.home, *self.run_folders()):
            remove(folder)
        for folder in (self.case, self.home, *self.run_folders()):
            folder.mkdir()
        (self.home / "tmp").mkdir()
        self.restore()

    def restore(self) -> None:
        """Put the product's copy and what lies outside back to what they were."""
        now = listing(self.repo, self.run_folders())
        first = self.first
        if not first:
            first.update(now)
        for path in sorted({*first, *now}):
            if first.get(path) != now.get(path):
                if os.path.lexists(path):
                    remove(Path(path))
                source = SOURCE / Path(path).relative_to(self.repo)
                if path in first and source.is_file():
                    shutil.copy2(source, path)
                    first[path] = listing(Path(path).parent)[path]
        for path in self.outside.iterdir():
            remove(path)
        (self.outside / "secret.txt").write_text("not to be changed\n")


def remove(path: Path) -> None:
    """Remove a file, a link or a folder, whatever its mode."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path)


def prepare(work: Path) -> Ground:
    """Copy the product and import it from there; build the inputs, and run the programs on them."""
    ground = Ground(work)
    copy_product(ground.repo)
    os.environ.update(MPLCONFIGDIR=str(work / "matplotlib"), CUDA_VISIBLE_DEVICES="")
    sys.path[:0] = [str(ground.repo)]
    sys.path.append(str(SOURCE / "tests"))  # of conftest, whose builders make the inputs
    import_product()
    for folder in (ground.base, ground.outside):
        folder.mkdir()
    ground.clear()
    build_inputs(ground)
    build_trusted(ground)
    return ground


def copy_product(repo: Path) -> None:
    """Copy the product's modules, without data, results and caches."""

    def unwanted(folder: str, names: list[str]) -> set[str]:
        top = Path(folder) == SOURCE
        return {
            name for name in names if name.startswith(".") or (name in NOT_COPIED if top else name == "__pycache__")
        }

    shutil.copytree(SOURCE, repo, ignore=unwanted, symlinks=True)
    (repo / "data").mkdir()


def import_product() -> None:
    """Import all programs, once, and give the tree's name a small size."""
    import torch

    torch.set_num_threads(1)
    import conftest  # noqa: F401

    import demo  # noqa: F401
    import netdissect.broden.__main__
    import netdissect.main  # noqa: F401
    import train  # noqa: F401
    from loader.datasets import register, spec_of
    from models import kernel

    with suppress(ImportError):  # if it is there, what it imports looks for libraries by starting ldconfig
        import timm  # noqa: F401
    torch.set_num_threads(1)  # conftest may have asked for more: a process with threads cannot be forked
    kernel.available()  # compiled here, if ever: runs may start no process, and write to no cache
    register(replace(spec_of(TREE), size=SIZE, resize=SIZE + 8))


# --- inputs and trusted runs --------------------------------------------------------------------------------------


def build_inputs(ground: Ground) -> None:
    """A tree, a Broden folder, images and label maps to build one from, and a user's own image."""
    from conftest import write_tree
    from PIL import Image

    base = ground.base
    write_tree(base / TREE)
    write_broden(base / "broden")
    shutil.copytree(base / TREE / "val" / "beach", base / "photos")
    for name in ("images", "labels"):
        (base / "recipe" / name).mkdir(parents=True)
    for index in range(2):
        shutil.copyfile(base / f"broden/images/p{index}.png", base / f"recipe/images/p{index}.png")
        with Image.open(base / f"broden/images/p{index}_object_0.png") as labels:
            labels.getchannel(0).save(base / f"recipe/labels/p{index}.png")
    (base / "recipe/names.csv").write_text("number,name,category\n1,sky,object\n2,sea,object\n")


def write_broden(root: Path, count: int = 4) -> None:
    """A Broden folder without faults: two objects per pixel, a scene of every second image."""
    import numpy as np
    from PIL import Image

    (root / "images").mkdir(parents=True)
    generator = np.random.default_rng(1)
    names = {1: ("sky", "object"), 2: ("sea", "object"), 300: ("beach-s", "scene")}
    images, covered = dict.fromkeys(names, 0), dict.fromkeys(names, 0.0)
    index = ["image,split,ih,iw,sh,sw,object,scene"]
    for number in range(count):
        numbers = np.zeros((SIZE // 2, SIZE // 2), np.uint8)
        image = generator.integers(100, 140, (SIZE, SIZE, 3), np.uint8)
        for label, value in ((1, (20, 40, 250)), (2, (250, 220, 10))):  # a patch of its own colour each
            y, x = generator.integers(0, SIZE // 2 - 10, 2)
            numbers[y : y + 10, x : x + 10] = label
            image[2 * y : 2 * y + 20, 2 * x : 2 * x + 20] = value
        Image.fromarray(image).save(root / f"images/p{number}.png")
        pixels = np.stack([numbers, 0 * numbers, 0 * numbers], -1)
        Image.fromarray(pixels).save(root / f"images/p{number}_object_0.png")
        shares = {1: (numbers == 1).mean(), 2: (numbers == 2).mean(), **({300: 1.0} if number % 2 else {})}
        for label, share in shares.items():
            images[label] += 1
            covered[label] += share
        scene = "300" if number % 2 else ""
        index.append(f"p{number}.png,train,{SIZE},{SIZE},{SIZE // 2},{SIZE // 2},p{number}_object_0.png,{scene}")
    labels = ["number,name,category,frequency,coverage,syns"]
    labels += [f"{n},{name},{c}({images[n]}),{images[n]},{covered[n]:.6f}," for n, (name, c) in names.items()]
    tables = {"index": index, "label": labels}
    tables["category"] = ["name,first,last,count,frequency", "object,1,2,2,4", "scene,300,300,1,2"]
    for category in ("object", "scene"):
        own = [(number, name) for number, (name, home) in names.items() if home == category]
        rows = [f"{code},{n},{name},{images[n]},{covered[n]:.6f}" for code, (n, name) in enumerate(own, start=1)]
        tables[f"c_{category}"] = ["code,number,name,frequency,coverage", *rows]
    for name, lines in tables.items():
        (root / f"{name}.csv").write_text("".join(f"{line}\n" for line in lines))


def build_trusted(ground: Ground) -> None:
    """Run the programs on the valid inputs: a run of two epochs and one of one epoch, tallies, pages."""
    base, run_folder = ground.base, ground.base / "run"
    tree, broden = str(base / TREE), str(base / "broden")
    for name, epochs in (("run", "2"), ("short", "1")):
        ground.clear()
        trusted(ground, "train", train_flags(tree, "--epochs", epochs), ground.run_folders())
        (base / name).mkdir()
        for folder in ground.run_folders():
            shutil.copytree(folder / RUN, base / name / folder.name)
    for epoch in (0, 1):  # of the same run, but not the same weights
        snapshot, output = run_folder / f"snapshot/epoch_{epoch}.pth", base / f"dissected_{epoch}"
        trusted(ground, "netdissect", dissect_flags(snapshot, broden, output, "--feature_names", "layer4"), [output])
        export(snapshot, base / f"weights_{epoch}.pth")
    build_frozen(ground)
    snapshot, tally = base / "weights_1.pth", base / "dissected_1/tally.csv"
    layer, pages, own = base / "dissected", base / "pages", base / "own"
    trusted(ground, "netdissect", dissect_flags(snapshot, broden, layer), [layer])
    trusted(ground, "demo", demo_flags(snapshot, tally, tree, pages), [pages])
    trusted(ground, "demo", demo_flags(snapshot, tally, tree, own, "--image", str(base / "photos")), [own])
    trusted(ground, "broden", ["check", broden], [])
    trusted(ground, "broden", build_flags(base / "recipe", base / "built"), [base])


def build_frozen(ground: Ground) -> None:
    """A run behind a frozen layer with the cache of its outputs, and a run on a tree of Tiny-ImageNet's kind."""
    from test_tiny_imagenet import write_tiny_imagenet

    base, (snapshots, results) = ground.base, ground.run_folders()
    ground.clear()
    flags = ["--epochs", "2", "--finetune", str(base / "weights_1.pth"), *FROZEN]
    trusted(ground, "train", train_flags(base / TREE, *flags), [snapshots, results])
    shutil.copytree(snapshots / RUN, base / "frozen/snapshot")
    shutil.copytree(results / RUN, base / "frozen/result")
    shutil.copytree(results / "frozen", base / "frozen/cache")
    ground.clear()
    tree = write_tiny_imagenet(base / PUBLISHED)
    trusted(ground, "train", published_flags(tree), [snapshots, results])
    for folder in (snapshots, results):
        (run,) = (path for path in folder.iterdir() if path.name.startswith("pytorch_"))
        shutil.copytree(run, base / "published" / folder.name)
    ground.clear()


def trusted(ground: Ground, program: str, argv: Sequence[str], writable: Sequence[Path]) -> Outcome:
    """Run a program on valid inputs, and import what it imported on the way. Raises RuntimeError if it fails."""
    outcome = run(ground.job(program, argv, writable), ground.home, 300, learn=import_all)
    if outcome.code or outcome.violations:
        message = outcome.stderr.decode("utf-8", "replace")
        raise RuntimeError(f"{program} {' '.join(argv)}: exit code {outcome.code}, {outcome.violations}\n{message}")
    return outcome


def import_all(names: Sequence[str]) -> None:
    """Import modules by name, where they can be: later runs find them."""
    import importlib

    for name in sorted(names):
        try:
            importlib.import_module(name)
        except Exception:  # a module that only exists within another's import
            continue


def export(source: Path, target: Path) -> None:
    """A snapshot without its training state, of half the size."""
    import torch

    content = torch.load(source, weights_only=True)
    content.pop("training", None)
    torch.save(content, target)


# --- valid command lines ------------------------------------------------------------------------------------------


def train_flags(tree: str | Path, *more: str) -> list[str]:
    """Of train.py, on a tree."""
    common = ["--mark", "t5", "--batch_size", "4", "--lr", "0.01", "--workers", "0", "--device", "cpu"]
    return ["--dataset", str(tree), *common, *more]


def published_flags(tree: Path) -> list[str]:
    """Of train.py, on a tree as Tiny-ImageNet is published."""
    return train_flags(tree, "--epochs", "1", "--size", str(SIZE))


def dissect_flags(snapshot: str | Path, broden: str | Path, output: str | Path, *more: str) -> list[str]:
    """Of netdissect/main.py, on a Broden folder; a layer of 64 units unless `more` names another.

    The masks are larger than by default: on so few pixels, some units reach the threshold of interpretability.
    """
    flags = ["--model_file", str(snapshot), "--data_directory", str(broden), "--output_folder", str(output)]
    return [*flags, "--feature_names", "layer1", "--topn", "1", "--quantile", "0.05", "--workers", "0", *more]


def demo_flags(
    snapshot: str | Path, tally: str | Path | None, tree: str | Path | None, output: str | Path, *more: str
) -> list[str]:
    """Of demo.py, on two images of a tree."""
    flags = [
        "--modelfile",
        str(snapshot),
        "--output",
        str(output),
        "--workers",
        "0",
        "--device",
        "cpu",
        "--topn",
        "3",
        "--figure",
        "0",
    ]
    flags += ["--nd_result", str(tally)] if tally else []
    flags += ["--dataset", str(tree)] if tree else []
    return [*flags, "--no_val", *more] if "--image" in more else [*flags, "--no_val", "--images", "0,3", *more]


def build_flags(recipe: str | Path, output: str | Path) -> list[str]:
    """Of `netdissect.broden build`."""
    recipe = Path(recipe)
    parts = {"--images": recipe / "images", "--labels": recipe / "labels", "--names": recipe / "names.csv"}
    return ["build", *(text for flag, path in parts.items() for text in (flag, str(path))), "--output", str(output)]


# --- what is on disk ----------------------------------------------------------------------------------------------


def listing(root: Path, without: Sequence[Path] = ()) -> dict[str, tuple]:
    """Everything below a folder, links not followed: by path, what tells whether it was changed."""
    found: dict[str, tuple] = {}
    pending = [str(root)]
    skipped = {str(path) for path in without}
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.path in skipped:
                    continue
                about = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(about.st_mode):
                    found[entry.path] = (about.st_mode,)
                    pending.append(entry.path)
                else:
                    found[entry.path] = (about.st_mode, about.st_ino, about.st_size, about.st_mtime_ns)
    return found
