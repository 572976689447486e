"""Slim snapshots: what was trained, and in place of the frozen weights what tells them: their SHA-256."""

import os
import reprlib
from collections.abc import Iterable
from typing import Any

from models.cut import Cut, frozen_fingerprint
from util.cli import UserError

KEY = "frozen"  # of a checkpoint: the reference to what it lacks


def slim(checkpoint: dict[str, Any], cut: Cut, file: tuple[str, str] | None = None) -> dict[str, Any]:
    """A checkpoint without the frozen weights, but with a reference to them.

    Args:
        checkpoint: with `state_dict`, all of the network's, and `arch`.
        cut: which of them were trained.
        file: name and SHA-256 of the file that the weights came from; None: the architecture brings its own.
    """
    state = checkpoint["state_dict"]
    name, digest = file or (None, None)
    reference = {
        "arch": checkpoint["arch"],
        "layer": cut.layer,
        "weights": frozen_fingerprint(state, cut.frozen),
        "file": name,
        "file_sha256": digest,
    }
    return _reduced(checkpoint, cut.trained, reference)


def slim_like(checkpoint: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint without what another one lacks: all of it, if that one is not slim.

    Args:
        checkpoint: with `state_dict`, all of the network's.
        other: of the same network.
    """
    return _reduced(checkpoint, other["state_dict"], other[KEY]) if is_slim(other) else checkpoint


def _reduced(checkpoint: dict[str, Any], kept: Iterable[str], reference: dict[str, Any]) -> dict[str, Any]:
    state = checkpoint["state_dict"]
    return {**checkpoint, "state_dict": {key: state[key] for key in kept}, KEY: reference}


def is_slim(checkpoint: dict[str, Any]) -> bool:
    """Whether a checkpoint lacks frozen weights."""
    return KEY in checkpoint


def fill(checkpoint: dict[str, Any], model: Any, path: str | os.PathLike) -> dict[str, Any]:
    """A slim checkpoint with its frozen weights, taken from a network that has them; another one is returned as it is.

    Args:
        checkpoint: as `models.snapshot.read_checkpoint` reads it.
        model: of the checkpoint's architecture, with the weights it is built with, or those of the file that the run
            was started from.
        path: of the checkpoint, for messages.

    Raises:
        UserError: if the network's weights are not those that the checkpoint was trained with, saying what is needed.
    """
    if not is_slim(checkpoint):
        return checkpoint
    reference, state, own = checkpoint[KEY], checkpoint["state_dict"], model.state_dict()
    if not isinstance(reference, dict) or not isinstance(reference.get("weights"), str):
        raise UserError(f"snapshot {path}: {KEY} {reprlib.repr(reference)}, expected the SHA-256 of frozen weights")
    missing = [key for key in own if key not in state]
    found = frozen_fingerprint(own, missing)
    if found != reference["weights"]:
        raise UserError(
            f"snapshot {path} has only what was trained: the weights up to {_text(reference, 'layer')} of "
            f"{_text(reference, 'arch')} are missing, and are not those that the network has "
            f"(SHA-256 {found[:12]}..., expected {reference['weights'][:12]}...): {_needed(reference)}"
        )
    filled = {key: state[key] if key in state else own[key] for key in own}
    unexpected = {key: value for key, value in state.items() if key not in own}  # for `load_state` to refuse
    rest = {key: value for key, value in checkpoint.items() if key != KEY}
    return {**rest, "state_dict": {**filled, **unexpected}}


def _needed(reference: dict[str, Any]) -> str:
    if reference.get("file") is None and reference.get("file_sha256") is None:
        return "the architecture's own weights are needed, in the version that it was trained with"
    known = _text(reference, "file_sha256")[:12]
    return f"name the file they came from by --finetune ({_text(reference, 'file')}, SHA-256 {known}...)"


def _text(reference: dict[str, Any], name: str) -> str:
    """A text from a file, for a message."""
    value = reference.get(name)
    return value[:80] if isinstance(value, str) else "unknown"
