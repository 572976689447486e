"""Snapshots: reading and writing our own files, those of the paper's authors, and torchvision's ResNet weights."""

import os
import pickle
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.backbones import DKA_SUFFIX, TRUNKS, build_model, has_dynamic_k, model_names
from models.heads import HEADS
from util.cli import UserError
from util.files import atomic_write

# What a wrapper puts before every key: DataParallel and DistributedDataParallel, torch.compile.
_WRAPPERS = re.compile(r"^(module\.|_orig_mod\.)+")
_HEAD_KEYS = frozenset(f"{name}.{part}" for name in ("fc", "rfc") for part in ("weight", "bias", "mask"))
# BatchNorm's batch counters: absent from files older than PyTorch 0.4.1, and without effect on any output.
_COUNTER = "num_batches_tracked"


def read_checkpoint(path: str | os.PathLike) -> dict[str, Any]:
    """Read a .pth file with `weights_only=True`; code in it is refused, never run.

    Returns:
        A dict with at least `state_dict`, whose keys have no wrapper's prefix and whose floating-point tensors are
        float32. A file that is a bare state dict is returned as {"state_dict": ...}.

    Raises:
        UserError: if the file is missing, unreadable, truncated, or holds anything but tensors and plain values, or
            weights that are not finite.
    """
    path = Path(path)
    if not os.path.isfile(path):
        raise UserError(f"snapshot {path}: no such file")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"snapshot {path}: not a file of tensors and plain values that torch can load safely ({_first_line(error)})"
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise UserError(f"snapshot {path}: unreadable or truncated ({_first_line(error)})") from error
    if isinstance(checkpoint, dict) and "state_dict" not in checkpoint:
        checkpoint = {"state_dict": checkpoint}
    state = checkpoint["state_dict"] if isinstance(checkpoint, dict) else None
    if not isinstance(state, dict) or not state or not all(_is_weight(*item) for item in state.items()):
        raise UserError(f"snapshot {path}: expected a dict with `state_dict`, or a state dict of tensors")
    checkpoint["state_dict"] = {
        _WRAPPERS.sub("", key): value.float() if value.is_floating_point() else value for key, value in state.items()
    }
    for key, value in checkpoint["state_dict"].items():
        if not value.isfinite().all():
            raise UserError(f"snapshot {path}: {key} has values that are not finite")
    return checkpoint


def _is_weight(key: Any, value: Any) -> bool:
    """Whether a state dict can have this entry: a name, and real numbers in memory."""
    is_tensor = isinstance(key, str) and isinstance(value, Tensor)
    return is_tensor and value.layout == torch.strided and value.device.type == "cpu" and not value.is_complex()


def _first_line(error: Exception) -> str:
    """What an exception says, or what it is: an empty file's has no message."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def guess_arch(state: dict[str, Tensor]) -> str | None:
    """Name the architecture whose tensors `state` holds, or None if it is none of `model_names()`."""

    def trunk_shapes(tensors: dict[str, Tensor]) -> dict[str, torch.Size]:
        trunk = (key for key in tensors if key not in _HEAD_KEYS and not key.endswith(_COUNTER))
        return {key: tensors[key].shape for key in trunk}

    for trunk in TRUNKS:
        with torch.device("meta"):
            reference = build_model(trunk, 1)
        if trunk_shapes(state) == trunk_shapes(reference.state_dict()):
            return trunk + DKA_SUFFIX if "rfc.weight" in state else trunk
    return None


def load_state(
    model: nn.Module, state: dict[str, Tensor], path: str | os.PathLike, optional: frozenset[str] = frozenset()
) -> None:
    """Fill `model` with `state`; every tensor must be there and fit, but those named in `optional` may be missing.

    Raises:
        UserError: naming the missing, the unexpected and the misshapen keys.
    """
    own = model.state_dict()
    faults = {
        "missing": [key for key in own if key not in state and key not in optional and not key.endswith(_COUNTER)],
        "unexpected": [key for key in state if key not in own],
        "of another shape": [
            f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
            for key in own
            if key in state and state[key].shape != own[key].shape
        ],
    }
    if any(faults.values()):
        found = "; ".join(f"{what}: {', '.join(keys)}" for what, keys in faults.items() if keys)
        raise UserError(f"snapshot {path} does not fit the model: {found}")
    model.load_state_dict(state, strict=False)  # what may be missing was checked above


def load_snapshot(
    path: str | os.PathLike, arch: str | None = None, topk: int | None = None
) -> tuple[nn.Module, dict[str, Any]]:
    """Rebuild the model of a snapshot.

    Reads the files that `save_snapshot` writes and those of the paper's authors (`epoch`, `best_prec1`, `state_dict`
    with the prefix `module.`, nothing else).

    Args:
        path: the .pth file.
        arch: one of `model_names()`; None takes it from the file, or from the names and number of its tensors.
        topk: K of the head; None takes it from the file. A value given here takes precedence over the file's.

    Returns:
        The model in eval mode on the CPU, and the file's metadata: everything but the weights and the training state,
        with `arch`, `topk` (None for a dense head) and `num_classes` filled in.

    Raises:
        UserError: if the file cannot be read, K is unknown or out of range, or any tensor is missing, unexpected, of
            another shape or not finite, or the metadata are not of the types that train.py writes.
    """
    checkpoint = read_checkpoint(path)
    state = checkpoint["state_dict"]
    arch = _arch_of(checkpoint, arch, path)
    head = _head_of(checkpoint, path)
    num_classes = _num_classes(state, "rfc.weight" if has_dynamic_k(arch) else "fc.weight", arch, path)
    if head is None and not has_dynamic_k(arch):
        topk = None
    elif topk is None:
        topk = checkpoint.get("topk")
        if type(topk) is not int:  # a bool is an int too
            raise UserError(
                f"snapshot {path} does not say its K: name it, with --mark t5 (or TOPK in netdissect) for K = 5"
            )
    model = build_model(arch, num_classes, topk, head)
    load_state(model, state, path)
    metadata = {key: value for key, value in checkpoint.items() if key not in ("state_dict", "training")}
    _check_metadata(metadata, num_classes, path)
    return model.eval(), {**metadata, "arch": arch, "topk": topk, "num_classes": num_classes}


def _arch_of(checkpoint: dict[str, Any], arch: str | None, path: str | os.PathLike) -> str:
    arch = arch or checkpoint.get("arch") or guess_arch(checkpoint["state_dict"])
    if arch is None:
        raise UserError(f"snapshot {path}: its tensors are those of none of {', '.join(model_names())}")
    if arch not in model_names():
        raise UserError(f"snapshot {path}: architecture {arch!r}, expected one of {', '.join(model_names())}")
    return arch


def _head_of(checkpoint: dict[str, Any], path: str | os.PathLike) -> type[nn.Linear] | None:
    """The head that a snapshot names; None for its arch's own."""
    name = checkpoint.get("head")
    if name is not None and (not isinstance(name, str) or name not in HEADS):
        raise UserError(f"snapshot {path}: head {name!r}, expected one of {', '.join(HEADS)}")
    return None if name is None else HEADS[name]


def _num_classes(state: dict[str, Tensor], key: str, arch: str, path: str | os.PathLike) -> int:
    if key not in state:
        raise UserError(f"snapshot {path} does not fit the model: missing: {key}, the head of {arch}")
    if state[key].dim() != 2:
        raise UserError(f"snapshot {path}: {key} has {state[key].dim()} dimensions, expected 2")
    return len(state[key])


def _check_metadata(metadata: dict[str, Any], num_classes: int, path: str | os.PathLike) -> None:
    if not isinstance(metadata.get("dataset", ""), str):
        raise UserError(f"snapshot {path}: dataset {metadata['dataset']!r}, expected a name")
    classes = metadata.get("classes", [""] * num_classes)
    if not isinstance(classes, list) or len(classes) != num_classes or not all(isinstance(c, str) for c in classes):
        raise UserError(f"snapshot {path}: classes, expected a list of {num_classes} names")


def load_pretrained(model: nn.Module, path: str | os.PathLike) -> list[str]:
    """Start `model` from the weights in `path`: a snapshot, or torchvision's ResNet weights.

    The trunk must fit; the head is taken too where it has the same name, shape and classes.

    Returns:
        The names of the model's parameters that were left at their initial values (the head's or none).

    Raises:
        UserError: as `load_snapshot`.
    """
    own = model.state_dict()
    state = {
        key: value
        for key, value in read_checkpoint(path)["state_dict"].items()
        if key not in _HEAD_KEYS or (key in own and value.shape == own[key].shape)
    }
    load_state(model, state, path, optional=_HEAD_KEYS)
    return sorted(key for key in own if key in _HEAD_KEYS and key not in state)


def save_snapshot(path: str | os.PathLike, checkpoint: dict[str, Any]) -> None:
    """`torch.save` that leaves either the whole new file or the old one. Raises UserError as `atomic_write`."""
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        try:
            torch.save(checkpoint, file)
        except RuntimeError as error:  # the end of torch's own writer hides what the system said before
            raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None


def snapshots_of(folder: str | os.PathLike) -> list[Path]:
    """The epoch_{n}.pth of a run's folder, the one that was written last first."""
    numbered = {
        path: int(match[1])
        for path in Path(folder).glob("epoch_*.pth")
        if (match := re.fullmatch(r"epoch_(\d+)\.pth", path.name))
    }
    return sorted(numbered, key=lambda path: (path.stat().st_mtime_ns, numbered[path]), reverse=True)


def newest_snapshot(folder: str | os.PathLike) -> Path | None:
    """The first of `snapshots_of` a run's folder, None if there is none."""
    return next(iter(snapshots_of(folder)), None)


def run_name(arch: str, mark: str, dataset: str) -> str:
    """The folder of a run below snapshot/ and result/: `pytorch_{arch}_{mark}_{dataset}`.

    Raises:
        UserError: for a data set's name that no folder can have. Names come from other people's snapshots too: none may
            lead out of its parent folder.
    """
    if not re.fullmatch(r"[^/\\\x00-\x1f\x7f]{1,128}", dataset):
        raise UserError(f"data set name {dataset!r}: expected the name of a folder, without a path")
    return f"pytorch_{arch}_{mark}_{dataset}"
