"""The network to dissect: from a snapshot, or built by name and filled with a state dict or random weights."""

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

import settings as project
from models import build_model, has_dynamic_k, load_snapshot, mark_of, model_names
from models.backbones import build_backbone
from models.snapshot import load_state, read_checkpoint
from util.cli import UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class NetworkInfo:
    """What a report calls a network.

    Attributes:
        arch, mark, dataset: as in the names of its folders; the data set is the one that it was trained on.
        topk: K of a DKA head; None for a dense one.
        title: arch, mark and the name of the file, for headings.
    """

    arch: str
    mark: str
    dataset: str
    topk: int | None
    title: str


def load_model(
    name: str | None,
    file: Path | None,
    topk: int | None,
    num_classes: int | None,
    dataset: str | None,
    finetune: Path | None = None,
) -> tuple[nn.Module, NetworkInfo]:
    """Build the network, with the weights of a file or random ones.

    Args:
        name: an architecture, as `models.build_model` takes it; None: from the file. Without a DKA head it need not be
            a classifier, and its file may be a bare state dict.
        file: a snapshot or state dict; None: random weights.
        topk: K of a DKA head; None: from the file.
        num_classes: None: from the file.
        dataset: that the network was trained on; None: from the file, 'unknown' if it does not say.
        finetune: the file of the weights that a slim snapshot lacks; None: its architecture brings them.

    Raises:
        UserError: if the network cannot be found or built, or the file does not fit it.
    """
    if name is None or (file is not None and (name in model_names() or has_dynamic_k(name))):
        if file is None:
            raise UserError("MODEL and MODEL_FILE are both None: expected one of them at least")
        model, found = load_snapshot(file, name, topk, finetune)
        if num_classes not in (None, found["num_classes"]):
            raise UserError(f"NUM_CLASSES = {num_classes}: {file} has {found['num_classes']} classes")
        name, topk = found["arch"], found["topk"]
        dataset = dataset or found.get("dataset", "unknown")
    else:
        torch.manual_seed(0)  # random weights, if they are kept, are equal in every run and process
        model = _build(name, num_classes, topk)
        if file is not None:
            load_state(model, read_checkpoint(file)["state_dict"], file)
        else:
            log.warning("MODEL_FILE is none: %s has random weights", name)
        dataset = dataset or "unknown"
    mark = mark_of(topk)
    return model, NetworkInfo(name, mark, dataset, topk, f"{name} {mark}" + (f" ({file.name})" if file else ""))


def _build(name: str, num_classes: int | None, topk: int | None) -> nn.Module:
    if name in model_names() or has_dynamic_k(name):
        return build_model(name, num_classes or project.DATASETS.imagenet.num_classes, topk)
    return build_backbone(name, num_classes, "MODEL")
