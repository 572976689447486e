"""Training states of --resume, and the files of the run's folder that it continues."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
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
from ground import RUN, TREE

NAN = float("nan")


def begin(case: Case, *more: str, auto: bool | None = None) -> tuple[dict[str, Any], Path]:
    """Set up a run that can be resumed: the content of its snapshot, and where that is."""
    auto = case.rng.random() < 0.5 if auto is None else auto
    path = case.ground.run_folders()[0] / RUN / "epoch_0.pth"
    case.resume("--resume", "auto" if auto else str(path), *more)
    case.note("auto" if auto else "by path")
    return torch.load(path, weights_only=True), path


def finish(case: Case, content: Any, path: Path, expect: str) -> None:
    """Write the snapshot anew."""
    path.unlink()
    torch.save(content, path)
    case.expect = expect


@mutation("resume", 2)
def resume_bytes(case: Case) -> None:
    _, path = begin(case)
    replace_bytes(path, path.read_bytes())
    spoil_bytes(case, path)


@mutation("resume")
def resume_strange_file(case: Case) -> None:
    _, path = begin(case)
    case.expect = SAME if strange_file(case, path) == "link" else ANY if "auto" in case.detail else REFUSED


@mutation("resume", 3)
def resume_strange_value(case: Case) -> None:
    """Any value anywhere in the training state."""
    content, path = begin(case)
    places: list[tuple[Any, Any]] = []

    def collect(node: Any) -> None:
        items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        for key, value in items:
            places.append((node, key))
            collect(value)

    places.extend((content, name) for name in content if name != "state_dict")
    collect(content["training"])
    node, key = case.rng.choice(places)
    old = node[key]
    new = case.rng.choice([*STRANGE_VALUES, torch.zeros(2), torch.tensor(NAN)])
    if isinstance(old, torch.Tensor) and case.rng.random() < 0.5:
        new = case.rng.choice([old[None], old.flatten()[:1], old * NAN, old.double(), old.half(), old.to_sparse()])
    node[key] = new
    case.note(key, type(old).__name__, new if not isinstance(new, torch.Tensor) else tuple(new.shape))
    finish(case, content, path, ANY)


@mutation("resume", 2)
def resume_absent(case: Case) -> None:
    """A part of the training state is missing."""
    content, path = begin(case)
    training = content["training"]
    holders: list[tuple[str, dict]] = [("training", training), ("content", content)]
    holders += [(name, part) for name, part in training.items() if isinstance(part, dict) and part]
    holders += [("group", training["optimizer"]["param_groups"][0]), ("state", training["optimizer"]["state"])]
    name, holder = case.rng.choice(holders)
    key = case.rng.choice(list(holder))
    del holder[key]
    case.note(name, key)
    # What else the file says, or what has no effect on the weights, need not be there, nor what older plans lack.
    free = {"torch", "torchvision", "prec1", "prec5", "num_classes", "head", "scaler", "amp"}
    free |= {"topk", "arch", "classes", "dataset", "size"}  # the plan has them
    lesser = name in ("scaler", "scheduler", "group", "plan") or key in free
    finish(case, content, path, SAME_OR_REFUSED if lesser else REFUSED)


PLAN_CHANGES: dict[str, Callable[[dict], Any]] = {
    "epochs": lambda plan: plan.update(epochs=3),
    "batch size": lambda plan: plan.update(batch_size=6),
    "steps": lambda plan: plan.update(steps_per_epoch=4),
    "lr": lambda plan: plan.update(lr=0.02),
    "lr nan": lambda plan: plan.update(lr=NAN),
    "seed": lambda plan: plan.update(seed=1),
    "schedule": lambda plan: plan.update(k_schedule="linear:50-5"),
    "types": lambda plan: plan.update({key: str(value) for key, value in plan.items()}),
    "empty": lambda plan: plan.clear(),
}


@mutation("resume")
def resume_other_plan(case: Case) -> None:
    content, path = begin(case)
    name = case.rng.choice(sorted(PLAN_CHANGES))
    PLAN_CHANGES[name](content["training"]["plan"])
    case.note(name)
    finish(case, content, path, REFUSED)


@mutation("resume", 2)
def resume_other_run(case: Case) -> None:
    """A snapshot of another network, data set or K; or the run asked for is another."""
    content, path = begin(case, auto=False)
    names = content.get("classes", [])
    changes: dict[str, dict[str, Any]] = {
        "topk": {"topk": 20},
        "arch": {"arch": "resnet18"},
        "classes": {"classes": names[::-1]},
        "other classes": {"classes": ["a", "b", "c"]},
        "dataset": {"dataset": "others"},
        "head": {"head": "static"},
        "schedule": {"k_schedule": "linear:9-5"},
    }
    flags = {"mark": ["--mark", "t6"], "lr flag": ["--lr", "0.1"], "seed flag": ["--seed", "3"], "batch": ["4", "3"]}
    name = case.rng.choice([*changes, *flags, "tree"])
    case.note(name)
    if name in changes:
        content.update(changes[name])
    elif name == "batch":
        case.argv[case.argv.index("--batch_size") + 1] = "3"
    elif name == "tree":
        tree = case.copy(TREE)
        (tree / "train/beach").rename(tree / "train/desert")
        (tree / "val/beach").rename(tree / "val/desert")
        case.argv[case.argv.index("--dataset") + 1] = str(tree)
    else:
        case.argv += flags[name]
    finish(case, content, path, REFUSED)


def _optimizer_changes(content: dict[str, Any]) -> dict[str, tuple[Callable[[], Any], str]]:
    optimizer = content["training"]["optimizer"]
    state, group = optimizer["state"], optimizer["param_groups"][0]
    first = next(iter(state))

    def momentum(value: Any) -> Callable[[], Any]:
        return lambda: state[first].update(momentum_buffer=value)

    buffer = state[first]["momentum_buffer"]
    return {
        "no state": (state.clear, REFUSED),
        "no buffers": (lambda: [entry.clear() for entry in state.values()], REFUSED),
        "buffer none": (momentum(None), REFUSED),
        "buffer nan": (momentum(buffer * NAN), REFUSED),
        "buffer shape": (momentum(buffer.flatten()), REFUSED),
        "buffer broadcast": (momentum(torch.zeros(1)), REFUSED),
        "buffer expanded": (momentum(torch.zeros(1).expand(10**9)), REFUSED),
        "buffer text": (momentum("x"), REFUSED),
        "buffer int": (momentum(buffer.long()), REFUSED),
        "buffer huge": (momentum(buffer * 0 + 3e38), ANY),
        "state keys": (lambda: state.update({"x": {}}), REFUSED),
        "state numbers": (lambda: state.update({10**9: {"momentum_buffer": buffer}}), REFUSED),
        "no groups": (lambda: optimizer.update(param_groups=[]), REFUSED),
        "two groups": (lambda: optimizer.update(param_groups=[group, group]), REFUSED),
        "groups none": (lambda: optimizer.update(param_groups=None), REFUSED),
        "group list": (lambda: optimizer.update(param_groups=[[1]]), REFUSED),
        "params order": (lambda: group.update(params=group["params"][::-1]), SAME_OR_REFUSED),
        "params fewer": (lambda: group.update(params=group["params"][1:]), REFUSED),
        "params twice": (lambda: group.update(params=[0] * len(group["params"])), REFUSED),
        "lr": (lambda: group.update(lr=1e9), REFUSED),
        "lr nan": (lambda: group.update(lr=NAN), REFUSED),
        "lr text": (lambda: group.update(lr="0.01"), REFUSED),
        "momentum": (lambda: group.update(momentum=5.0), REFUSED),
        "momentum text": (lambda: group.update(momentum="x"), REFUSED),
        "weight decay": (lambda: group.update(weight_decay=-7), REFUSED),
        "nesterov": (lambda: group.update(nesterov=True), REFUSED),
        "maximize": (lambda: group.update(maximize=True), REFUSED),
        "dampening": (lambda: group.update(dampening=0.9), REFUSED),
        "initial lr": (lambda: group.update(initial_lr=3.0), SAME_OR_REFUSED),
        "more": (lambda: group.update(author="x"), SAME_OR_REFUSED),
    }


@mutation("resume", 3)
def resume_optimizer(case: Case) -> None:
    content, path = begin(case)
    changes = _optimizer_changes(content)
    name = case.rng.choice(sorted(changes))
    case.note(name)
    change, expect = changes[name]
    change()
    finish(case, content, path, expect)


@mutation("resume", 3)
def resume_progress(case: Case) -> None:
    """Where the run was: epoch, sums of the epoch's batches, scheduler, best accuracy."""
    content, path = begin(case)
    training = content["training"]
    scheduler = training["scheduler"]
    sums = {"steps": 1, "loss": 1.0, "top1": 1, "top5": 1, "count": 4, "seconds": 1.0, "lr": 0.01}
    changes: dict[str, tuple[Callable[[], Any], str]] = {}
    for value in (100, -5, -1, 1, 2, "0", 0.0, 0.5, True, None, NAN, 10**30, [0], torch.tensor(0)):
        changes[f"epoch {value!r}"] = (lambda value=value: content.update(epoch=value), REFUSED)
    for value in (NAN, -1.0, 101.0, math.inf, "x", None, [], torch.tensor(3.0)):
        changes[f"best {value!r}"] = (lambda value=value: content.update(best_prec1=value), REFUSED)
    for value in ({"steps": -3}, {"steps": 10**9}, {"steps": "x"}, {"steps": 1}, {"x": 1}, {"steps": None}, {1: 2}):
        changes[f"sums {value!r}"] = (lambda value=value: training.update(sums=value), REFUSED)
    for field, value in (("steps", 3), ("steps", 10**6), ("steps", 1.5), ("count", -4), ("loss", NAN), ("lr", "x")):
        changes[f"sums {field} {value!r}"] = (
            lambda field=field, value=value: training.update(sums={**sums, field: value}),
            REFUSED,
        )
    # As many steps as an epoch has: this file cannot be told from one of a run that was stopped at the epoch's end.
    changes["sums steps 3"] = (changes["sums steps 3"][0], SAME_OR_REFUSED)
    changes["no scheduler"] = (scheduler.clear, REFUSED)
    for value in (0, -1, 99, "x", None, NAN):
        changes[f"last epoch {value!r}"] = (lambda value=value: scheduler.update(last_epoch=value), REFUSED)
    changes["base lr"] = (lambda: scheduler.update(base_lrs=[7.0]), REFUSED)
    changes["base lrs"] = (lambda: scheduler.update(base_lrs=[]), REFUSED)
    changes["gamma"] = (lambda: scheduler.update(gamma=NAN), REFUSED)
    changes["milestones"] = (lambda: scheduler.update(milestones={}), REFUSED)
    # What a scheduler has no name for is left out: the run's own methods stay.
    changes["methods"] = (lambda: scheduler.update(step=3, get_lr=4), SAME)
    changes["scheduler list"] = (lambda: training.update(scheduler=[1]), REFUSED)
    changes["scaler"] = (lambda: training.update(scaler={"scale": NAN, "x": 1}), ANY)
    name = case.rng.choice(sorted(changes))
    case.note(name)
    change, expect = changes[name]
    change()
    finish(case, content, path, expect)


@mutation("resume")
def resume_weights(case: Case) -> None:
    """Other weights than those the momentum belongs to are not told apart, but must be finite and fit."""
    content, path = begin(case, auto=False)
    key = case.rng.choice(["rfc.weight", "conv1.weight", "bn1.running_var"])
    way = case.rng.choice(["nan", "shape", "missing", "huge"])
    state = content["state_dict"]
    case.note(key, way)
    if way == "nan":
        state[key][(0,) * state[key].dim()] = NAN
    elif way == "shape":
        state[key] = state[key][None]
    elif way == "missing":
        del state[key]
    else:
        state[key].fill_(3e38)
    finish(case, content, path, ANY if way == "huge" else REFUSED)


@mutation("resume")
def resume_other_snapshots(case: Case) -> None:
    """Further files in the run's folder: --resume auto takes the newest that can be used, and says so."""
    _, path = begin(case, auto=True)
    folder = path.parent
    name = case.rng.choice(
        [
            "epoch_7.pth",
            "epoch_00.pth",
            "epoch_999999999999999999999.pth",
            "epoch_x.pth",
            ".epoch_0.pth",
            "epoch_1.pth",
            "interrupted.pth",
            "epoch_-1.pth",
            "epoch_1.pth\n",
            "epoch_\udce9.pth",
        ]
    )
    way = case.rng.choice(["junk", "empty", "folder", "copy", "fifo", "link"])
    case.note(name, way)
    target = folder / name
    if way in ("junk", "empty"):
        target.write_bytes(b"junk" if way == "junk" else b"")
        case.expect = SAME_OR_REFUSED
    elif way == "folder":
        target.mkdir()
        case.expect = SAME_OR_REFUSED
    elif way == "copy":
        shutil.copyfile(path, target)
        case.expect = SAME_OR_REFUSED
    else:
        shutil.copyfile(path, folder / "kept")
        target.write_bytes(b"")
        strange_file(case, target, ["fifo"] if way == "fifo" else ["link to itself", "link nowhere"])
        (folder / "kept").unlink()
        case.expect = SAME_OR_REFUSED


@mutation("resume", 2)
def resume_log(case: Case) -> None:
    """The lines of train.jsonl that a resumed run continues."""
    begin(case, auto=True)
    file = case.ground.run_folders()[1] / RUN / "train.jsonl"
    line = json.loads(file.read_text())
    name = case.rng.choice(sorted(line))
    lines = {
        "junk": b"junk\n" + file.read_bytes(),
        "number": b"3\n",
        "list": b"[]\n",
        "null": b"null\n",
        "deep": b"[" * 100_000 + b"\n",
        "not utf-8": b"\xff\xfe\n",
        "nul": b"\x00\n",
        "cut": file.read_bytes()[:-20],
        "absent": (json.dumps({k: v for k, v in line.items() if k != name}) + "\n").encode(),
        "strange": (
            json.dumps({**line, name: case.rng.choice([None, "x", NAN, [], {}, 1e400, -1, 10**400])}) + "\n"
        ).encode(),
        "twice": file.read_bytes() * 2,
        "later": (json.dumps({**line, "epoch": 5}) + "\n").encode(),
        "huge number": b'{"epoch": ' + b"9" * 5000 + b"}\n",
        "empty": b"",
    }
    way = case.rng.choice(sorted(lines))
    case.note(way, name if way in ("absent", "strange") else "")
    file.write_bytes(lines[way])
