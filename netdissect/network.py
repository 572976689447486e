"""The network to dissect: from a snapshot, or built by name and filled with a state dict or random weights."""

import importlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision
from torch import nn
from torch.nn.parameter import is_lazy

import settings as project
from models import build_model, load_snapshot, mark_of, model_names
from models.snapshot import load_state, read_checkpoint
from netdissect.layout import describe
from util.cli import Terminated, UserError

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
    name: str | None, file: Path | None, topk: int | None, num_classes: int | None, dataset: str | None
) -> tuple[nn.Module, NetworkInfo]:
    """Build the network, with the weights of a file or random ones.

    Args:
        name: one of our architectures, a torchvision name, or 'package.module:factory'; None: from the file.
        file: a snapshot or state dict; None: random weights.
        topk: K of a DKA head; None: from the file.
        num_classes: None: from the file.
        dataset: that the network was trained on; None: from the file, 'unknown' if it does not say.

    Raises:
        UserError: if the network cannot be found or built, or the file does not fit it.
    """
    if name is None or (file is not None and name in model_names()):
        if file is None:
            raise UserError("MODEL and MODEL_FILE are both None: expected one of them at least")
        model, found = load_snapshot(file, name, topk)
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
    options = {} if num_classes is None else {"num_classes": num_classes}
    if name in model_names():
        return build_model(name, num_classes or project.DATASETS.imagenet.num_classes, topk)
    if ":" in name:
        module, _, factory = name.partition(":")
        model = _called(name, lambda: getattr(importlib.import_module(module), factory)(**options))
        _check_network(name, model)
        return model
    if name not in torchvision.models.list_models(module=torchvision.models):
        raise UserError(
            f"MODEL {name!r}: expected {', '.join(model_names())}, a torchvision name or package.module:factory"
        )
    return _called(name, lambda: torchvision.models.get_model(name, weights=None, **options))


def _called(name: str, factory: Callable[[], nn.Module]) -> nn.Module:
    """What a factory returns. Raises UserError for whatever it raises, an end of the process included."""
    try:
        return factory()
    except (Terminated, UserError):
        raise
    except (ImportError, AttributeError, ValueError) as error:  # ValueError: no name before the colon
        raise UserError(f"MODEL {name!r}: {str(error).strip() or type(error).__name__}") from error
    except (Exception, SystemExit) as error:
        raise UserError(f"MODEL {name!r}: it cannot be built ({describe(error)})") from error


def _check_network(name: str, model: object) -> None:
    """Raise UserError for what a factory returned, if it is no network with weights."""
    if not isinstance(model, nn.Module):
        raise UserError(f"MODEL {name!r}: it returned {type(model).__name__}, expected a torch.nn.Module")
    weights = [*model.parameters(), *model.buffers()]
    if not weights:
        raise UserError(f"MODEL {name!r}: {type(model).__name__} has no weights, expected a network")
    if any(is_lazy(weight) or weight.is_meta for weight in weights):
        raise UserError(f"MODEL {name!r}: it has weights without values, expected an initialised network")
