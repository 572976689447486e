"""Runs behind a frozen layer: slim snapshots, which lack the frozen weights, and the cache of the frozen outputs."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from cases import (
    ANY,
    REFUSED,
    SAME_OR_REFUSED,
    STRANGE_VALUES,
    Case,
    mutation,
    replace_bytes,
    spoil_bytes,
    strange_file,
)
from ground import FROZEN, RUN

from mutations.snapshots import read_by


def caches(case: Case) -> Path:
    """Where train.py keeps the outputs of frozen layers."""
    return case.ground.run_folders()[1] / "frozen"


def begin(case: Case, resume: bool) -> Path:
    """A run of two epochs, or its second one, with the cache of an earlier run: the cache's folder."""
    more = ["--finetune", str(case.base / "weights_1.pth"), *FROZEN]
    if resume:
        case.resume("--resume", "auto", *more, run="frozen")
    else:
        case.train(*more, earlier=False)
        case.argv += ["--epochs", "2"]
    case.trusted = "frozen"
    case.note("resumed" if resume else "anew")
    shutil.copytree(case.base / "frozen/cache", caches(case))
    (folder,) = caches(case).iterdir()
    return folder


@mutation("frozen", 4)
def frozen_cache_files(case: Case) -> None:
    """A cache that was damaged is computed anew, or refused: never used."""
    folder = begin(case, case.rng.random() < 0.5)
    rows, record = folder / "features.bin", folder / "features.made_of.json"
    way = case.rng.choice(["rows", "rows", "record", "strange", "absent", "partial", "strange partial", "link", "lock"])
    chosen = case.rng.choice([rows, record])
    case.note(way)
    case.expect = SAME_OR_REFUSED
    if way in ("rows", "record"):
        spoil_bytes(case, rows if way == "rows" else record)
    elif way == "strange":
        case.note(chosen.name)
        strange_file(case, chosen)
    elif way == "absent":
        case.note(chosen.name)
        chosen.unlink()
    elif way in ("partial", "strange partial"):  # of a computation that was interrupted
        rows, record = (path.rename(folder / path.name.replace("features", "partial")) for path in (rows, record))
        chosen = case.rng.choice([rows, record])
        case.note(chosen.name)
        if way == "partial":
            spoil_bytes(case, chosen)
        else:
            strange_file(case, chosen)
    else:
        name = ".lock" if way == "lock" else chosen.name
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(case.ground.outside / case.rng.choice(["secret.txt", "new"]))


@mutation("frozen", 3)
def frozen_cache_record(case: Case) -> None:
    """The record beside a cache says something else."""
    folder = begin(case, case.rng.random() < 0.5)
    file = folder / "features.made_of.json"
    known = json.loads(file.read_text())
    name = case.rng.choice(sorted(known))
    plain = [value for value in STRANGE_VALUES if isinstance(value, (int, float, str, list, dict, type(None)))]
    other = {"float16": "bfloat16", "bfloat16": "float16"}[known["dtype"]]
    changes: dict[str, Any] = {
        "strange": {**known, name: case.rng.choice(plain)},
        "type": {**known, "dtype": other},
        "fewer sums": {**known, "crc": known["crc"][:1]},
        "no sums": {**known, "crc": []},
        "more sums": {**known, "crc": known["crc"] * 2},
        "other order": {**known, "crc": known["crc"][::-1]},
        "absent": {key: value for key, value in known.items() if key != name},
        "more": {**known, "author": "x"},
        "list": [known],
        "empty": {},
    }
    way = case.rng.choice(sorted(changes))
    case.note(way, name if way in ("strange", "absent") else "", changes[way] if way == "strange" else "")
    if case.rng.random() < 0.3:
        for path in sorted(folder.glob("features*")):
            path.rename(folder / path.name.replace("features", "partial"))
        file = folder / "partial.made_of.json"
        case.note("partial")
    replace_bytes(file, json.dumps(changes[way]).encode("utf-8", "surrogatepass"))
    case.expect = SAME_OR_REFUSED


@mutation("frozen")
def frozen_cache_of_another(case: Case) -> None:
    """The cache belongs to other weights, another layer, other images: these are computed."""
    begin(case, resume=False)
    way = case.rng.choice(["weights", "layer", "size", "images"])
    case.note(way)
    case.expect = ANY
    if way == "weights":
        case.argv[case.argv.index("--finetune") + 1] = str(case.base / "weights_0.pth")
    elif way == "layer":
        case.argv[case.argv.index("--freeze") + 1] = case.rng.choice(["layer4", "trunk", "avgpool", "layer4.1.bn1"])
    elif way == "size":
        case.argv += ["--size", "32"]
    else:
        tree = case.copy("tiny")
        shutil.copyfile(tree / "val/tundra/00000000.jpg", tree / "train/beach/00000000.jpg")
        case.argv[case.argv.index("--dataset") + 1] = str(tree)


@mutation("frozen", 3)
def frozen_resume(case: Case) -> None:
    """A slim snapshot, resumed with what is not its own."""
    begin(case, resume=True)
    path = case.ground.run_folders()[0] / RUN / "epoch_0.pth"
    content = torch.load(path, weights_only=True)
    reference = content["frozen"]
    state = content["state_dict"]
    finetune = case.argv.index("--finetune")
    freeze = case.argv.index("--freeze")

    def counted(key: str) -> bool:  # batch counters change no output, and old files have none
        return not key.endswith("num_batches_tracked")

    def flags(start: int, *given: str) -> Callable[[], None]:
        def change() -> None:
            case.argv[start : start + 2] = given

        return change

    strange = case.rng.choice(STRANGE_VALUES)
    told = case.rng.choice(["arch", "layer", "file", "file_sha256"])  # for messages only
    changes: dict[str, tuple[Callable[[], Any], str]] = {
        "no weights": (flags(finetune), REFUSED),
        "other weights": (flags(finetune, "--finetune", str(case.base / "weights_0.pth")), REFUSED),
        "nothing frozen": (lambda: [case.argv.remove("--slim"), flags(freeze)()], REFUSED),
        "other layer": (flags(freeze, "--freeze", "layer4.1"), REFUSED),
        "not slim": (lambda: case.argv.remove("--slim"), SAME_OR_REFUSED),
        "no reference": (lambda: content.pop("frozen"), REFUSED),
        "strange reference": (lambda: content.update(frozen=strange), REFUSED),
        "strange weights": (lambda: reference.update(weights=strange), REFUSED),
        "absent weights": (lambda: reference.pop("weights"), REFUSED),
        "strange text": (lambda: reference.update({told: strange}), SAME_OR_REFUSED),
        "absent text": (lambda: reference.pop(told), SAME_OR_REFUSED),
        "fewer": (lambda: state.pop(case.rng.choice([key for key in sorted(state) if counted(key)])), REFUSED),
        "fewer counters": (lambda: [state.pop(key) for key in sorted(state) if not counted(key)], ANY),
        "more": (lambda: state.update({"conv1.weight": torch.zeros(64, 3, 7, 7)}), REFUSED),
        "plan": (lambda: content["training"]["plan"].update(frozen_weights=strange), REFUSED),
        "plan's layer": (lambda: content["training"]["plan"].update(freeze=strange), REFUSED),
    }
    name = case.rng.choice(sorted(changes))
    case.note(name, told if "text" in name else "", strange if "strange" in name or "plan" in name else "")
    change, expect = changes[name]
    change()
    path.unlink()
    torch.save(content, path)
    case.expect = expect


HUGE = [
    "vit_h_14",
    "vit_h_14_fc_ma",
    "regnet_y_128gf_fc_ma",
    "vgg19_bn",
    "convnext_large_fc_ma",
    "timm:vit_giant_fc_ma",
]


@mutation("frozen", 3)
def slim_read_by_others(case: Case) -> None:
    """A slim snapshot where nothing has the weights that it lacks, or with a reference that is none."""
    content = torch.load(case.base / "frozen/snapshot/epoch_1.pth", weights_only=True)
    content.pop("training")
    nothing = hashlib.sha256().hexdigest()  # the fingerprint of no weights at all
    whole = torch.load(case.base / "weights_1.pth", weights_only=True)["state_dict"]
    changes: dict[str, tuple[Callable[[], Any], str]] = {
        "as it is": (lambda: None, REFUSED),
        "reference": (lambda: content.update(frozen=case.rng.choice(STRANGE_VALUES)), REFUSED),
        "weights": (lambda: content["frozen"].update(weights=case.rng.choice([*STRANGE_VALUES, nothing])), REFUSED),
        "nothing is missing": (
            lambda: [content.update(state_dict=whole), content["frozen"].update(weights=nothing)],
            ANY,
        ),
        "nothing but the head": (
            lambda: content.update(state_dict={key: whole[key] for key in ("rfc.weight", "rfc.bias")}),
            REFUSED,
        ),
        "no head": (lambda: [content["state_dict"].pop(key) for key in ("rfc.weight", "rfc.bias")], REFUSED),
        "other arch": (lambda: content.update(arch=case.rng.choice([*HUGE, "os:abort", "resnet50_fc_ma"])), REFUSED),
    }
    name = case.rng.choice(sorted(changes))
    change, expect = changes[name]
    change()
    case.note(name, content["arch"], content["frozen"])
    path = case.folder / "slim.pth"
    torch.save(content, path)
    read_by(case, path, expect)


@mutation("frozen")
def frozen_folder_is_strange(case: Case) -> None:
    """The cache's folder, or the folder of all caches, is something else."""
    folder = begin(case, case.rng.random() < 0.5)
    place = case.rng.choice([folder, folder.parent])
    way = case.rng.choice(["file", "fifo", "link to itself", "link to nothing below it"])
    case.note("all" if place == folder.parent else "one", way)
    shutil.rmtree(place)
    if way == "file":
        place.write_bytes(b"")
    elif way == "fifo":
        os.mkfifo(place)
    elif way == "link to itself":
        place.symlink_to(place.name)
    else:
        place.symlink_to("nothing")
    case.expect = SAME_OR_REFUSED
