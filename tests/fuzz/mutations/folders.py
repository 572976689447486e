"""Output folders, caches and streams: what earlier runs, or strangers, have left where results are written."""

import json
import os
import shutil
from pathlib import Path

from cases import (
    ANY,
    REFUSED,
    SAME,
    SAME_OR_REFUSED,
    STRANGE_VALUES,
    Case,
    mutation,
    replace_bytes,
    spoil_bytes,
    strange_file,
)
from ground import RUN


def earlier(case: Case) -> Path:
    """The folder of earlier results of one of the programs, which is to run again."""
    case.rng.choice([case.demo, case.dissect, case.train])()
    case.note(case.program)
    return case.ground.run_folders()[1] / RUN if case.program == "train" else case.folder / "out"


@mutation("folder", 3)
def folder_entries_are_links(case: Case) -> None:
    """An entry of the output folder leads elsewhere: nothing may be written there."""
    folder = earlier(case)
    entries = {
        "demo": [".report.lock", "vis", "class", "explain.html", "explain.json", "figure.png", "vis/cam_0.jpg"],
        "netdissect": [
            ".lock",
            "html",
            "tally.csv",
            "quantile.npy",
            "cache",
            "html/layer1",
            "chance.json",
            "agreement.csv",
            "tally.made_of.json",
        ],
        # A run's own folders may be links, to a larger disk for example.
        "train": [".lock", "train.jsonl", "train.log", "curves.png"],
    }
    name = case.rng.choice(entries[case.program])
    place = Path(os.path.normpath(folder / name))
    outside = case.ground.outside
    file = place.suffix not in ("", ".lock") or name.endswith(".lock")
    target = case.rng.choice([outside / "secret.txt", outside / "new"] if file else [outside, outside / "new"])
    case.note(name, target.name)
    if place.is_dir():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)
    place.symlink_to(target)


@mutation("folder", 2)
def folder_entries_are_strange(case: Case) -> None:
    """An entry of the output folder is a folder, a FIFO, a link to itself."""
    folder = earlier(case)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    chosen = case.rng.choice(files[:40])
    case.note(str(chosen.relative_to(folder)))
    strange_file(case, chosen, ["folder", "fifo", "socket", "link to itself", "link nowhere"])


@mutation("folder")
def folder_is_full(case: Case) -> None:
    """The system refuses files above a size: what was there before must stay."""
    earlier(case)
    size = case.rng.choice([0, 1000, 20_000, 100_000, 1_000_000])
    case.options = {"most_file": size}
    case.note(size)
    case.expect = REFUSED if size <= 20_000 or case.program == "train" else ANY


@mutation("folder", 3)
def folder_streams(case: Case) -> None:
    """Output that nobody reads, or that cannot be encoded: the results are the same."""
    earlier(case)
    kind = case.rng.choice(["closed", "full", "pipe", "ascii"])
    case.options = {"streams": kind}
    case.note(kind)
    case.expect = SAME


@mutation("folder", 3)
def cache_content(case: Case) -> None:
    """The activations of an earlier dissection, which this one would use."""
    case.dissect("--clean", "False")
    cache = case.folder / "out/cache"
    made = case.ground.job("netdissect", case.argv, case.writable)
    from sandbox import run

    run(made, case.ground.home)
    files = sorted(path for path in cache.iterdir() if path.is_file()) if cache.is_dir() else []
    if not files:
        case.note("no cache")
        return
    way = case.rng.choice(["bytes", "bytes", "strange", "key", "key", "absent", "folder link"])
    chosen = case.rng.choice(files)
    case.note(way)
    if way == "bytes":
        case.note(chosen.name)
        spoil_bytes(case, chosen)
    elif way == "strange":
        case.note(chosen.name)
        strange_file(case, chosen)
    elif way == "absent":
        case.note(chosen.name)
        chosen.unlink()
    elif way == "key":
        key = cache / "key.json"
        known = json.loads(key.read_text())
        name = case.rng.choice(sorted(known))
        value = case.rng.choice(
            [value for value in STRANGE_VALUES if isinstance(value, (int, float, str, list, type(None)))]
        )
        texts = ["[]", "3", "null", '"x"', "", "{", "{}", "[" * 100_000, json.dumps({**known, name: value})]
        text = case.rng.choice(texts)
        case.note(text[:200] if len(text) < 50 else name, value)
        replace_bytes(key, text.encode("utf-8", "surrogatepass"))
    else:
        moved = case.folder / "moved"
        cache.rename(moved)
        cache.symlink_to(moved)
    # Another weight in the cached maps, of the right size, cannot be told from what the network computed.
    case.expect = ANY if way == "bytes" else SAME_OR_REFUSED


@mutation("folder")
def cache_from_another(case: Case) -> None:
    """A cache of other weights, another layer, other images: made anew, with the trusted run's results."""
    way = case.rng.choice(["weights", "layer", "quantile", "images"])
    case.note(way)
    case.dissect("--clean", "False")
    flags = list(case.argv)
    if way == "weights":
        flags[flags.index("--model_file") + 1] = str(case.base / "weights_0.pth")
    elif way == "layer":
        flags += ["--feature_names", "relu"]
    elif way == "quantile":
        flags += ["--quantile", "0.1"]
    else:
        folder = case.copy("broden")
        (folder / "images/p0.png").write_bytes((folder / "images/p1.png").read_bytes())
        flags[flags.index("--data_directory") + 1] = str(folder)
    from sandbox import run

    run(case.ground.job("netdissect", flags, case.writable), case.ground.home)
    case.expect = SAME


@mutation("folder")
def folder_is_locked(case: Case) -> None:
    """Another run holds the folder."""
    import fcntl

    folder = earlier(case)
    lock = folder / (".report.lock" if case.program == "demo" else ".lock")
    case.held = open(lock, "a")  # noqa: SIM115  the campaign closes it
    fcntl.flock(case.held, fcntl.LOCK_EX)
    case.expect = REFUSED
