"""Resuming: which snapshot a run continues from, and whether it is one of this run, whole and untouched."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from models.snapshot import (
    LARGEST,
    check_answers,
    epoch_of,
    is_plain_tensor,
    load_state,
    read_checkpoint,
    snapshots_of,
)
from training.config import Plan
from training.epoch import Sums
from training.identity import FINGERPRINTS, made_of_content
from training.runs import Run
from training.state import TrainState, lr_after
from util.cli import UserError
from util.made_of import differences, same
from util.text import shown

# Of SGD's groups: what the scheduler changes, and what suits the device.
_OWN_OF_DEVICE = {"lr", "params", "fused", "foreach"}
_SCHEDULERS = {"milestones": ("milestones", "gamma"), "total_steps": ("total_steps",)}
# Of a plan; the other fields were added later, and are absent from older snapshots.
_ALWAYS_THERE = ("epochs", "batch_size", "steps_per_epoch", "lr", "seed", "k_schedule")
_SCALER = ("scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker")


@dataclass(frozen=True)
class Checkpoint:
    """A snapshot to resume from.

    Attributes:
        path: of the file.
        content: of the file.
        unusable: why newer snapshots were not taken.
    """

    path: Path
    content: dict[str, Any]
    unusable: list[str] = field(default_factory=list)

    @property
    def training(self) -> dict[str, Any]:
        """Plan, sums, optimizer, scheduler and scaler. Raises UserError if these are not all there."""
        if "training" not in self.content:
            raise UserError(
                f"snapshot {self.path} has no optimizer state to resume from: start from its weights by --finetune"
            )
        training = self.content["training"]
        parts = ("plan", "sums", "optimizer", "scheduler", "scaler")
        if not isinstance(training, dict) or any(not isinstance(training.get(part), dict) for part in parts):
            raise UserError(f"snapshot {self.path}: its optimizer state is not one of train.py's")
        return training

    def unknown(self, plan: Plan) -> list[str]:
        """What of a plan it does not say: it was written before plans held this."""
        found = {**made_of_content(self.content), **self.training["plan"]}
        return [name for name in plan.record if name not in found]


def find_resume(resume: str | None, run: Run) -> Checkpoint | None:
    """The snapshot to resume from: the given one, or with 'auto' the run's latest readable one; None: start anew.

    The latest is by epoch, not by the time on disk; one that was interrupted comes after the epoch before it.

    Raises:
        UserError: if there are snapshots, and none can be read.
    """
    if resume is None:
        return None
    if resume != "auto":
        return Checkpoint(Path(resume), read_checkpoint(resume))
    read: dict[Path, dict[str, Any]] = {}
    unusable: list[str] = []
    paths = snapshots_of(run.snapshots)
    if run.interrupted.exists():
        try:
            read[run.interrupted] = read_checkpoint(run.interrupted)
        except UserError as error:
            unusable.append(str(error))
        else:
            epoch = read[run.interrupted].get("epoch")
            later = [path for path in paths if type(epoch) is int and epoch_of(path) >= epoch]
            paths.insert(len(later), run.interrupted)
    for path in paths:
        try:
            return Checkpoint(path, read.get(path) or read_checkpoint(path), unusable)
        except UserError as error:
            unusable.append(str(error))
    if unusable:
        raise UserError(f"--resume auto: none of the {len(unusable)} snapshots can be read; {unusable[0]}")
    return None


def check_plan(checkpoint: Checkpoint, plan: Plan, finetune: bool) -> Plan:
    """The plan of a run that continues a snapshot.

    Args:
        checkpoint: the snapshot. One from before holds less in its plan; what it holds must agree.
        plan: of this run.
        finetune: whether weights to start from were given. They need not be given again, and the plan that is returned
            has the snapshot's.

    Raises:
        UserError: if the snapshot is of a run of another plan, saying what differs.
    """
    expected, saved = plan.record, checkpoint.training["plan"]
    lacking = [name for name in _ALWAYS_THERE if name not in saved]
    if lacking:
        raise UserError(f"snapshot {checkpoint.path}: its plan does not say its {', '.join(lacking)}")
    if not finetune:  # `restore` compares the frozen weights, once it has read them
        expected.pop("finetune", None)
        expected.pop("frozen_weights", None)
    for found in (saved, made_of_content(checkpoint.content)):
        other = differences(found, {name: value for name, value in expected.items() if name in found})
        if other:
            was = ", ".join(_described(name, found[name], "other") for name in other)
            asked = ", ".join(_described(name, expected[name], "these") for name in other)
            raise UserError(f"snapshot {checkpoint.path} is of a run with {was}, not {asked}: it cannot be resumed so")
    if finetune or "finetune" not in plan.made_of:
        return plan
    origins = {name: saved.get(name) for name in ("finetune", "frozen_weights")}
    for name, origin in origins.items():
        if origin is not None and (not isinstance(origin, str) or len(origin) != 64):
            raise _malformed(checkpoint.path, FINGERPRINTS[name], origin, "a fingerprint")
    return replace(plan, made_of={**plan.made_of, **origins})


def _described(name: str, value: object, which: str) -> str:
    if name in FINGERPRINTS:
        return f"{which} {FINGERPRINTS[name]}"
    return f"{'K' if name == 'topk' else name} {value if isinstance(value, str) and len(value) < 80 else shown(value)}"


def restore(state: TrainState, checkpoint: Checkpoint, plan: Plan) -> dict[str, Any]:
    """Put a state back to where a run was.

    No random state is needed: order and crops of an epoch follow from the seed, and nothing else is random. Of the file
    only what a run cannot know is taken: weights, momenta, learning rate, best accuracy, scale of the loss; the rest is
    compared with what this run has at that step.

    Args:
        state: of a run at its beginning; after an error it is of no use.
        checkpoint: whose plan `check_plan` compared.
        plan: of the run.

    Returns:
        the `Sums`, as a dict, of the epoch's earlier batches; empty at the beginning of an epoch.

    Raises:
        UserError: if the training state is malformed, or of a run that has ended.
    """
    path, content, training = checkpoint.path, checkpoint.content, checkpoint.training
    load_state(state.model, content["state_dict"], path)
    check_answers(state.model, path)
    if state.cut is not None and state.cut.fingerprint() != plan.made_of["frozen_weights"]:
        raise UserError(f"snapshot {path}: its frozen weights are not those that its run began with")
    epoch: Any = content.get("epoch")
    best: Any = content.get("best_prec1")
    sums = training["sums"]
    if not _whole(epoch, 0, plan.epochs - 1):
        raise _malformed(path, "epoch", epoch, f"0 to {plan.epochs - 1}")
    if not _real(best, 0, 100):
        raise _malformed(path, "best_prec1", best, "0 to 100")
    _check_sums(sums, plan, path)
    if not sums and epoch == plan.epochs - 1:
        raise UserError(f"snapshot {path} is the last of its {plan.epochs} epochs: nothing is left to train")
    state.epoch, state.best = (epoch if sums else epoch + 1), best
    steps = state.epoch * plan.steps_per_epoch + sums.get("steps", 0)
    optimizer = _checked_optimizer(training["optimizer"], state, steps, path)
    scheduler = _checked_scheduler(training["scheduler"], state, steps, optimizer["param_groups"][0]["lr"], path)
    scaler = _checked_scaler(training["scaler"], state, path)
    try:
        state.optimizer.load_state_dict(optimizer)
        state.scheduler.load_state_dict(scheduler)
        if scaler:  # that of another precision is empty: this run's scale starts anew
            state.scaler.load_state_dict(scaler)
    except Exception as error:  # whatever the checks missed
        raise UserError(f"snapshot {path}: its optimizer state is not one of train.py's") from error
    return sums


# --- checks of what a stranger may have written -------------------------------------------------------------------


def _malformed(path: Path, what: str, found: object, expected: str) -> UserError:
    return UserError(f"snapshot {path}: malformed training state: {what} {shown(found)}, expected {expected}")


def _whole(value: object, lowest: int, highest: int) -> bool:
    return type(value) is int and lowest <= value <= highest


def _real(value: object, lowest: float, highest: float) -> bool:
    return type(value) in (int, float) and lowest <= value <= highest  # type: ignore[operator]  # false for NaN


def _check_sums(sums: dict[str, Any], plan: Plan, path: Path) -> None:
    """Raises UserError for sums that no part of an epoch of this plan can have."""
    if not sums:
        return
    names = list(Sums().to_dict())
    if list(sums) != names and (any(name not in sums for name in names) or len(sums) != len(names)):
        raise _malformed(path, "sums of", list(sums), ", ".join(names))
    if not _whole(sums["steps"], 1, plan.steps_per_epoch):
        raise _malformed(path, "steps", sums["steps"], f"1 to {plan.steps_per_epoch}")
    most = sums["steps"] * plan.batch_size
    if not _whole(sums["count"], sums["steps"], most):
        raise _malformed(path, "count", sums["count"], f"{sums['steps']} to {most}")
    if not _whole(sums["top5"], 0, sums["count"]):
        raise _malformed(path, "top5", sums["top5"], f"0 to {sums['count']}")
    if not _whole(sums["top1"], 0, sums["top5"]):
        raise _malformed(path, "top1", sums["top1"], f"0 to {sums['top5']}")
    for name, lowest, highest in (("loss", -1, LARGEST), ("seconds", 0, 1e9), ("lr", 0, plan.lr * 1.001)):
        if not _real(sums[name], lowest, highest):
            raise _malformed(path, name, sums[name], f"a number from {max(0, lowest)}")


def _checked_optimizer(found: dict[str, Any], state: TrainState, steps: int, path: Path) -> dict[str, Any]:
    """This run's optimizer state with the momenta and the learning rate of a file's. Raises UserError."""
    own = state.optimizer.state_dict()
    (own_group,), groups, momenta = own["param_groups"], found.get("param_groups"), found.get("state")
    if not isinstance(groups, list) or len(groups) != 1 or not isinstance(groups[0], dict):
        raise _malformed(path, "param_groups", groups, "one group")
    (group,) = groups
    if not same(group.get("params"), own_group["params"]):
        raise _malformed(path, "parameters", group.get("params"), f"{len(own_group['params'])}")
    for name, value in own_group.items():
        if name not in _OWN_OF_DEVICE and not _equal(group.get(name, value if name == "maximize" else None), value):
            raise _malformed(path, name, group.get(name), shown(value))
    lr, expected = group.get("lr"), lr_after(state.scheduler, steps)
    if not _equal(lr, expected):
        raise _malformed(path, "lr", lr, f"{expected:.6g} after {steps} steps")
    if not isinstance(momenta, dict):
        raise _malformed(path, "momenta", momenta, "one for each parameter")
    checked = _checked_momenta(momenta, state, path) if own_group["momentum"] else {}
    return {"state": checked, "param_groups": [{**own_group, "lr": lr}]}


def _checked_momenta(found: dict[Any, Any], state: TrainState, path: Path) -> dict[int, dict[str, Tensor]]:
    parameters = dict(enumerate(state.optimizer.param_groups[0]["params"]))
    trained = {number for number, parameter in parameters.items() if parameter.requires_grad}
    if set(found) != trained:
        raise _malformed(path, "momenta", sorted(map(str, found)), f"those of {len(trained)} parameters")
    for number in trained:
        momentum = found[number].get("momentum_buffer") if isinstance(found[number], dict) else None
        shape = tuple(parameters[number].shape)
        if not is_plain_tensor(momentum) or not momentum.is_floating_point() or tuple(momentum.shape) != shape:
            raise _malformed(path, f"momentum {number}", getattr(momentum, "shape", momentum), f"numbers {shape}")
        if momentum.numel() * momentum.element_size() > momentum.untyped_storage().nbytes():
            raise _malformed(path, f"momentum {number}", momentum.stride(), "a value of its own for each weight")
        if not momentum.abs().max() <= LARGEST:  # NaN is neither
            raise _malformed(path, f"momentum {number}", float(momentum.abs().max()), "finite numbers")
    return {number: {"momentum_buffer": found[number]["momentum_buffer"]} for number in sorted(trained)}


def _checked_scheduler(found: dict[str, Any], state: TrainState, steps: int, lr: float, path: Path) -> dict[str, Any]:
    """This run's scheduler at a step, if a file's is that. Raises UserError."""
    own = state.scheduler.state_dict()
    fixed = next(names for key, names in _SCHEDULERS.items() if key in own)
    for name in (*fixed, "base_lrs"):
        if not _equal(found.get(name), own[name]):
            raise _malformed(path, f"scheduler's {name}", found.get(name), shown(own[name]))
    if not _whole(found.get("last_epoch"), steps, steps):
        raise _malformed(path, "scheduler's step", found.get("last_epoch"), str(steps))
    if not _equal(found.get("_last_lr"), [lr]):
        raise _malformed(path, "scheduler's lr", found.get("_last_lr"), f"[{lr:.6g}]")
    return {**own, "last_epoch": steps, "_step_count": steps + 1, "_last_lr": [lr]}


def _checked_scaler(found: dict[str, Any], state: TrainState, path: Path) -> dict[str, Any]:
    """This run's scaler with the scale of a file's; empty if either of them scales nothing. Raises UserError."""
    if not found:
        return {}
    if set(found) != set(_SCALER):
        raise _malformed(path, "scaler of", sorted(map(str, found)), ", ".join(_SCALER))
    for name in _SCALER:
        if not _real(found[name], 0 if name == "_growth_tracker" else 1e-30, 1e30):
            raise _malformed(path, f"scaler's {name}", found[name], "a positive number")
    if not _whole(found["_growth_tracker"], 0, 10**9):
        raise _malformed(path, "scaler's _growth_tracker", found["_growth_tracker"], "a whole number")
    own = state.scaler.state_dict()
    return {**own, "scale": found["scale"], "_growth_tracker": found["_growth_tracker"]} if own else {}


def _equal(found: object, expected: object) -> bool:
    """Whether a file has this run's value, up to the rounding of other versions of torch."""
    if isinstance(expected, float):
        return _real(found, -LARGEST, LARGEST) and math.isclose(float(found), expected, rel_tol=1e-6, abs_tol=1e-12)  # type: ignore[arg-type]
    if isinstance(expected, list):
        return isinstance(found, list) and len(found) == len(expected) and all(map(_equal, found, expected))
    if isinstance(expected, Mapping):
        return isinstance(found, Mapping) and same(sorted_items(found), sorted_items(expected))
    return same(found, expected)


def sorted_items(mapping: Mapping[Any, Any]) -> list[Any]:
    """Keys and values of a mapping, by the text of the keys."""
    return [list(item) for item in sorted(mapping.items(), key=lambda item: str(item[0]))]
