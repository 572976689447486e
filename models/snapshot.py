"""Snapshots: reading and writing our own files, and reading those of the paper's authors, torchvision and timm."""

import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor, nn

import settings
from models.backbones import (
    ACCEPTED,
    DKA_SUFFIX,
    FACTORIES,
    build_backbone,
    build_model,
    check_arch,
    has_dynamic_k,
    is_code,
    last_linear,
    own_head,
    with_head,
)
from models.fingerprint import COUNTER, state_fingerprint
from models.heads import HEADS, head_module_name, head_of
from models.probe import fitting_noise
from models.resnets import TRUNKS
from models.slim import fill, is_slim
from models.tensor_files import read_tensors
from util.cli import UserError
from util.files import atomic_write, regular_file
from util.text import shown

# What a wrapper puts before every key: DataParallel and DistributedDataParallel, torch.compile.
_WRAPPERS = re.compile(r"^(module\.|_orig_mod\.)+")
_HEAD_PARTS = ("weight", "bias", "mask")
_HEAD_KEYS = frozenset(f"{name}.{part}" for name in ("fc", "rfc") for part in _HEAD_PARTS)  # of the ResNets
# No trained network comes near it, and the squares of larger values overflow float32.
LARGEST = 1e18
MOST_NAMED = 20  # keys that a message names


def read_checkpoint(path: str | os.PathLike) -> dict[str, Any]:
    """Read a .pth file with `weights_only=True`, or a .safetensors file; code in it is refused, never run.

    Returns:
        A dict with at least `state_dict`, whose keys have no wrapper's prefix and whose floating-point tensors are
        float32. A file that is a bare state dict is returned as {"state_dict": ...}.

    Raises:
        UserError: if the file is missing, not a regular one, unreadable, truncated, or holds anything but tensors and
            plain values; if its weights are more than its bytes, not finite, beyond `LARGEST`, or variances below 0.
    """
    path = regular_file(path, "snapshot")
    checkpoint = read_tensors(path)
    if isinstance(checkpoint, dict) and "state_dict" not in checkpoint:
        checkpoint = {"state_dict": checkpoint}
    state = checkpoint["state_dict"] if isinstance(checkpoint, dict) else None
    if not isinstance(state, dict) or not state or not all(_is_weight(*item) for item in state.items()):
        raise UserError(f"snapshot {path}: expected a dict with `state_dict`, or a state dict of tensors")
    _check_sizes(state, path)
    named = {
        _WRAPPERS.sub("", key): value.float() if value.is_floating_point() else value for key, value in state.items()
    }
    if len(named) != len(state):
        raise UserError(f"snapshot {path}: two of its tensors have one name")
    for key, value in named.items():
        _check_values(key, value, path)
    return {**checkpoint, "state_dict": named}


def _is_weight(key: Any, value: Any) -> bool:
    """Whether a state dict can have this entry: a name, and real numbers in memory."""
    return isinstance(key, str) and is_plain_tensor(value)


_NUMBERS = {torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.bool, torch.uint8}
_NUMBERS |= {torch.int8, torch.int16, torch.int32, torch.int64}


def is_plain_tensor(value: Any) -> TypeGuard[Tensor]:
    """Whether a value is a tensor of real numbers in this process's memory."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and value.dtype in _NUMBERS
        and not value.is_nested
    )


def _check_sizes(state: dict[str, Tensor], path: Path) -> None:
    """Raises UserError for tensors that repeat what is stored once: they could need any amount of memory."""
    distinct: dict[tuple, int] = {}
    for key, value in state.items():
        size, storage = value.numel() * value.element_size(), value.untyped_storage()
        if size > storage.nbytes():
            raise UserError(f"snapshot {path}: {key} has {value.numel():,} values, more than the file holds of it")
        distinct[storage.data_ptr(), value.storage_offset(), value.shape, value.stride()] = size
    if sum(distinct.values()) > os.path.getsize(path):
        raise UserError(f"snapshot {path}: its tensors have more values than the file holds")


def _check_values(key: str, value: Tensor, path: Path) -> None:
    """Raises UserError for weights that no training leaves behind."""
    if value.dtype == torch.bool or not value.numel():
        return
    if not value.isfinite().all():
        raise UserError(f"snapshot {path}: {key} has values that are not finite")
    lowest, highest = float(value.min()), float(value.max())
    if max(-lowest, highest) > LARGEST:
        raise UserError(f"snapshot {path}: {key} has values up to {max(-lowest, highest):.0e}, expected {LARGEST:.0e}")
    if key.endswith("running_var") and lowest < 0:
        raise UserError(f"snapshot {path}: {key} has the variance {lowest:.3g}, expected at least 0")


def guess_arch(state: dict[str, Tensor]) -> str | None:
    """Name the architecture whose tensors `state` holds: one of the ResNets; None for others."""

    def trunk_shapes(tensors: dict[str, Tensor]) -> dict[str, torch.Size]:
        trunk = (key for key in tensors if key not in _HEAD_KEYS and not key.endswith(COUNTER))
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

    A model on the meta device, which has shapes but no memory, is compared only.

    Raises:
        UserError: naming the missing, the unexpected and the misshapen keys.
    """
    own = model.state_dict()
    faults = {
        "missing": [key for key in own if key not in state and key not in optional and not key.endswith(COUNTER)],
        "unexpected": [key[:80] for key in state if key not in own],
        "of another shape": [
            f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
            for key in own
            if key in state and state[key].shape != own[key].shape
        ],
    }
    if any(faults.values()):
        found = "; ".join(f"{what}: {_listed(keys)}" for what, keys in faults.items() if keys)
        raise UserError(f"snapshot {path} does not fit the model: {found}")
    if not any(tensor.is_meta for tensor in own.values()):
        model.load_state_dict(state, strict=False)  # what may be missing was checked above


def _listed(keys: list[str]) -> str:
    more = len(keys) - MOST_NAMED
    return ", ".join(keys[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def check_answers(model: nn.Module, path: str | os.PathLike) -> None:
    """Try a network on two images of noise, the same ones each time; its mode is restored.

    Args:
        model: images (B, 3, H, W) -> logits (B, C), with the weights of a file.
        path: of the file.

    Raises:
        UserError: if any logit is not finite.
    """
    _, logits = fitting_noise(model)  # (2, C)
    if not logits.isfinite().all():
        raise UserError(f"snapshot {path}: the network's answers to an image are not finite with these weights")


def load_snapshot(
    path: str | os.PathLike, arch: str | None = None, topk: int | None = None, finetune: str | os.PathLike | None = None
) -> tuple[nn.Module, dict[str, Any]]:
    """Rebuild the model of a snapshot.

    Reads the files that `save_snapshot` writes and those of the paper's authors (`epoch`, `best_prec1`, `state_dict`
    with the prefix `module.`, nothing else).

    Args:
        path: the .pth file.
        arch: as `models.build_model` takes it; None takes it from the file, or from the names and number of its
            tensors. Code that a file names, `package.module:factory`, is run only if it is named here too.
        topk: K of the head; None takes it from the file. A value given here takes precedence over the file's.
        finetune: the file that the frozen weights of a slim snapshot come from; None if its arch brings them.

    Returns:
        The model in eval mode on the CPU, and the file's metadata: those of `METADATA` that it has, with `arch`,
        `topk` (None for a dense head) and `num_classes` filled in. Its `classes`, if any, are `model.classes` too.

    Raises:
        UserError: as `read_checkpoint`, and if K is unknown or out of range, any tensor is missing, unexpected or of
            another shape, the network's answers are not finite, or the metadata are not what train.py writes.
    """
    checkpoint = read_checkpoint(path)
    state = checkpoint["state_dict"]
    arch = _arch_of(checkpoint, arch, path)
    head = _head_of(checkpoint, path)
    if head is None and not has_dynamic_k(arch):
        topk = None
    elif topk is None:
        topk = checkpoint.get("topk")
        if type(topk) is not int:  # a bool is an int too
            raise UserError(
                f"snapshot {path} does not say its K: name it, with --mark t5 (or TOPK in netdissect) for K = 5"
            )
    try:
        model, metadata = _rebuilt(arch, checkpoint, topk, head, path)
        if is_slim(checkpoint):
            if finetune is not None:
                load_pretrained(model, finetune)
            state = fill(checkpoint, model, path)["state_dict"]
    except UserError:
        raise
    except ValueError as error:  # a head that cannot have this K, a network that cannot have a head
        raise UserError(f"snapshot {path}: {error}") from error
    load_state(model, state, path)
    check_answers(model, path)
    for name in ("classes", "size"):  # for whoever has the network only
        if name in metadata:
            setattr(model, name, metadata[name])
    return model.eval(), {**metadata, "arch": arch, "topk": topk, "num_classes": head_of(model).out_features}


def _rebuilt(
    arch: str, checkpoint: dict[str, Any], topk: int | None, head: type[nn.Linear] | None, path: str | os.PathLike
) -> tuple[nn.Module, dict[str, Any]]:
    """The network that a checkpoint is of, with as many classes as its head and its own weights yet; and the metadata.

    What the file says is compared before anything is allocated that it claims to be.
    """
    state, partly = checkpoint["state_dict"], is_slim(checkpoint)
    if arch.removesuffix(DKA_SUFFIX) in TRUNKS:
        num_classes = _num_classes(state, "rfc.weight" if has_dynamic_k(arch) else "fc.weight", arch, path)
        metadata = _checked_metadata(checkpoint, num_classes, path)
        with torch.device("meta"):
            shapes = build_model(arch, num_classes, topk, head)
        absent = frozenset(shapes.state_dict().keys() - state.keys()) if partly else frozenset()
        load_state(shapes, state, path, optional=absent)
        return build_model(arch, num_classes, topk, head), metadata
    if not partly:
        _check_size(arch.removesuffix(DKA_SUFFIX), state, path)
    model = build_backbone(arch.removesuffix(DKA_SUFFIX))
    num_classes = _num_classes(state, f"{last_linear(model)}.weight", arch, path)
    metadata = _checked_metadata(checkpoint, num_classes, path)
    return with_head(model, head or HEADS[own_head(arch)], topk, num_classes), metadata


def _check_size(name: str, state: dict[str, Tensor], path: str | os.PathLike) -> None:
    """Raises UserError if a network of others has other tensors than the file, before they are allocated."""
    if is_code(FACTORIES.get(name, name)):
        return
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = build_backbone(name)
    except UserError:  # some networks cannot be built without values
        return
    own = model.state_dict()
    differing = {key.rsplit(".", 1)[0] for key in own if key in state and state[key].shape != own[key].shape}
    missing = [key for key in own if key not in state and not key.endswith(COUNTER)]
    if len(differing) > 1 or missing:  # the head may have another number of classes
        load_state(model, state, path)


def _arch_of(checkpoint: dict[str, Any], arch: str | None, path: str | os.PathLike) -> str:
    """The architecture that is asked for, or that the file names or looks like."""
    found: Any = arch or checkpoint.get("arch")  # a file's may be a tensor, which is neither true nor false
    if found is None:
        found = guess_arch(checkpoint["state_dict"])
    if found is None:
        raise UserError(
            f"snapshot {path}: its tensors are those of none of {', '.join(TRUNKS)}; name another "
            "architecture with --arch (MODEL in netdissect)"
        )
    if not isinstance(found, str):
        raise UserError(f"snapshot {path}: architecture {shown(found)}, expected one of {ACCEPTED}")
    check_arch(found, f"snapshot {path}: architecture {shown(found)}")
    if is_code(found) and arch is None:
        raise UserError(
            f"snapshot {path}: its network is made by {found!r}, a function that loading it would run: name it with "
            f"--arch (MODEL in netdissect) if you trust it"
        )
    return found


def _head_of(checkpoint: dict[str, Any], path: str | os.PathLike) -> type[nn.Linear] | None:
    """The head that a snapshot names; None for its arch's own."""
    name = checkpoint.get("head")
    if name is not None and (not isinstance(name, str) or name not in HEADS):
        raise UserError(f"snapshot {path}: head {shown(name)}, expected one of {', '.join(HEADS)}")
    return None if name is None else HEADS[name]


def _num_classes(state: dict[str, Tensor], key: str, arch: str, path: str | os.PathLike) -> int:
    if key not in state:
        raise UserError(f"snapshot {path} does not fit the model: missing: {key}, the head of {arch}")
    if state[key].dim() != 2:
        raise UserError(f"snapshot {path}: {key} has {state[key].dim()} dimensions, expected 2")
    return len(state[key])


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and -1e9 <= value <= 1e9  # false for NaN


def is_text(value: Any, longest: int = 1000) -> bool:
    """Whether a value is a text that can be written: a lone surrogate, half a character, cannot."""
    return isinstance(value, str) and len(value) <= longest and not re.search("[\ud800-\udfff]", value)


# What train.py writes beside weights, arch, head, topk and classes: what each must be, for people and as a test.
METADATA: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "epoch": ("a whole number from 0", lambda value: type(value) is int and 0 <= value <= 10**9),
    "best_prec1": ("a number", _is_number),
    "prec1": ("a number", _is_number),
    "prec5": ("a number", _is_number),
    "k_schedule": (
        "linear:A-B",
        lambda value: is_text(value) and bool(re.fullmatch(r"linear:[1-9][0-9]{0,8}-[1-9][0-9]{0,8}", value)),
    ),
    "dataset": ("a name", is_text),
    "size": (
        f"pixels, from 1 to {settings.MOST_SIDE}",
        lambda value: type(value) is int and 1 <= value <= settings.MOST_SIDE,
    ),
    "torch": ("a version", is_text),
    "torchvision": ("a version", is_text),
}


def _checked_metadata(checkpoint: dict[str, Any], num_classes: int, path: str | os.PathLike) -> dict[str, Any]:
    """Those entries of a checkpoint that `METADATA` names, and its classes; whatever else it has is left out."""
    found = {name: checkpoint[name] for name in METADATA if name in checkpoint}
    for name, value in found.items():
        if isinstance(value, Tensor) and is_plain_tensor(value) and value.numel() == 1:
            found[name] = value = value.item()  # older training scripts keep their accuracies so
        expected, fits = METADATA[name]
        if not fits(value):
            raise UserError(f"snapshot {path}: {name} {shown(value)}, expected {expected}")
    count = checkpoint.get("num_classes", num_classes)
    if type(count) is not int or count != num_classes:
        raise UserError(f"snapshot {path}: num_classes {shown(count)}, but its head has {num_classes}")
    if checkpoint.get("head") is not None:
        found["head"] = checkpoint["head"]  # checked by `_head_of`
    if "classes" in checkpoint:
        classes = checkpoint["classes"]
        if not isinstance(classes, list) or len(classes) != num_classes or not all(map(is_text, classes)):
            raise UserError(f"snapshot {path}: classes, expected a list of {num_classes} names")
        found["classes"] = list(classes)
    return found


class Fresh(NamedTuple):
    """What a network did not get from a file of weights.

    Attributes:
        names: its parameters that were left at their initial values: the head's or none.
        classes: of the file's head, which did not fit; None if the file has none.
    """

    names: list[str]
    classes: int | None


def load_pretrained(model: nn.Module, path: str | os.PathLike) -> Fresh:
    """Start `model` from the weights in `path`: a snapshot, or torchvision's, timm's or others' of this network.

    The trunk must fit; the head is taken too where it has the same name, shape and classes.

    Raises:
        UserError: as `load_snapshot`.
    """
    own, head = model.state_dict(), head_module_name(model)
    head_keys = _HEAD_KEYS | {f"{head}.{part}" for part in _HEAD_PARTS}
    found = read_checkpoint(path)["state_dict"]
    other = {key for key in head_keys & set(found) if key not in own or found[key].shape != own[key].shape}
    state = {key: value for key, value in found.items() if key not in other}
    load_state(model, state, path, optional=head_keys)
    check_answers(model, path)
    classes = next((len(found[key]) for key in sorted(other) if found[key].dim()), None)
    return Fresh(sorted(key for key in own if key in head_keys and key not in state), classes)


def weights_fingerprint(model: nn.Module) -> str:
    """SHA-256 of the names, types, shapes and values of all weights and buffers."""
    return state_fingerprint(model.state_dict())


def save_snapshot(path: str | os.PathLike, checkpoint: dict[str, Any]) -> None:
    """`torch.save` that leaves either the whole new file or the old one. Raises UserError as `atomic_write`."""
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        try:
            torch.save(checkpoint, file)
        except RuntimeError as error:  # the end of torch's own writer hides what the system said before
            raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None


def snapshots_of(folder: str | os.PathLike) -> list[Path]:
    """The epoch_{n}.pth of a run's folder, the latest epoch first; times on disk do not count, since clocks err."""
    found = (path for path in Path(folder).glob("epoch_*.pth") if re.fullmatch(r"epoch_[0-9]{1,9}\.pth", path.name))
    return sorted(found, key=lambda path: (epoch_of(path), path.name), reverse=True)


def epoch_of(path: Path) -> int:
    """N of epoch_{n}.pth."""
    return int(path.stem.removeprefix("epoch_"))


def newest_snapshot(folder: str | os.PathLike) -> Path | None:
    """The first of `snapshots_of` a run's folder, None if there is none."""
    return next(iter(snapshots_of(folder)), None)


def run_name(arch: str, mark: str, dataset: str) -> str:
    """The folder of a run below snapshot/ and result/: `pytorch_{arch}_{mark}_{dataset}`.

    Raises:
        UserError: for a data set's name that no folder can have. Names come from other people's snapshots too: none may
            lead out of its parent folder.
    """
    if not re.fullmatch(r"[^/\\\x00-\x1f\x7f]{1,128}", arch):
        raise UserError(f"architecture {arch!r}: expected a name that a folder can have")
    if not re.fullmatch(r"[^/\\\x00-\x1f\x7f]{1,128}", dataset):
        raise UserError(f"data set name {dataset!r}: expected the name of a folder, without a path")
    return f"pytorch_{arch}_{mark}_{dataset}"
