"""The jobs of experiments.rivals: which heads are trained on which images, and the features that they get."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import settings
from experiments.photo_features import Features, read_features
from models import build_model
from models.cut import TRUNK, cut_at
from models.heads import head_module_name
from util.cli import UserError

DATASET = "tiny_imagenet"
HELD_OUT = 30  # images of each class, a tenth, that the heads are tuned on and none is trained on
CLASSES, IMAGES, K = 200, 100, 5  # unless they are what is varied; images are training images per class
BEHIND = "_blocks.15"  # the last frozen layer where the last convolution trains along
FROZEN = (TRUNK, BEHIND)
KS = (1, 2, 3, 5, 10, 20, 50)  # beside N, where DKA is the dense head
CLASS_COUNTS = (10, 25, 50, 100, 200)
BEHIND_CLASS_COUNTS = (10, 50, 200)  # the same where the last convolution trains along
IMAGE_COUNTS = (10, 30, 100, 270)
SEEDS = (0, 1, 2, 3, 4)
FEW_SEEDS = 3  # of K other than 5, and of what comes first


@dataclass(frozen=True)
class Job:
    """Heads that are trained on the same images, behind the same frozen layers.

    Attributes:
        classes: number of classes, drawn by the seed unless it is all.
        images: training images of each.
        k: K.
        seed: of the draw, of initial weights and of the order of images.
        frozen: the last frozen layer, or `TRUNK`: all but the head.
    """

    classes: int = CLASSES
    images: int = IMAGES
    k: int = K
    seed: int = 0
    frozen: str = TRUNK

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "Job":
        """The job of a row of results."""
        return cls(*(row[field.name] for field in fields(cls)))


@dataclass(frozen=True)
class Data:
    """The features that a job uses.

    Attributes:
        train: of its training images.
        held_out: of other training images, to tune on.
        val: of the validation images of its classes.
        layers: from these features to pooled ones, with their weights before any training.
    """

    train: Features
    held_out: Features
    val: Features
    layers: nn.Module


def plan() -> list[Job]:
    """All jobs, the most important first; more seeds come last."""
    few, behind = SEEDS[:FEW_SEEDS], Job(frozen=BEHIND)
    jobs = [replace(job, seed=seed) for job in (Job(), behind) for seed in few]
    jobs += [replace(behind, classes=classes, seed=seed) for classes in BEHIND_CLASS_COUNTS for seed in few]
    jobs += [Job(k=k, seed=seed) for k in KS for seed in few]
    for seed in SEEDS:
        jobs += [Job(classes=classes, seed=seed) for classes in CLASS_COUNTS]
        jobs += [Job(images=images, seed=seed) for images in IMAGE_COUNTS]
        jobs += [replace(behind, classes=classes, seed=seed) for classes in BEHIND_CLASS_COUNTS]
    return list(dict.fromkeys(jobs))


def tuned_as(job: Job) -> Job:
    """The job on which a job's heads are tuned: seed 0, and at most IMAGES images per class."""
    return replace(job, images=min(job.images, IMAGES), seed=0)


# --- their features -----------------------------------------------------------------------------------------------


def pretrained() -> nn.Module:
    """EfficientNet-Lite0 with its ImageNet weights, in eval mode."""
    return build_model("efficientnet_lite0", settings.DATASETS["imagenet"]["num_classes"]).eval()


def layers_behind(network: nn.Module, frozen: str) -> nn.Module:
    """From the outputs (V, ...) of a network's frozen part to pooled features (V, N)."""
    if frozen == TRUNK:
        return nn.Identity()
    rest = cut_at(network, frozen).rest
    rest.set_submodule(head_module_name(rest), nn.Identity())
    return rest


@dataclass(frozen=True)
class Outputs:
    """What a frozen part puts out for all images: of training, classes taking turns, and of validation.

    Attributes:
        train, val: the features.
        layers: from them to pooled features.
    """

    train: Features
    val: Features
    layers: nn.Module

    def of(self, job: Job) -> Data:
        """What a job uses: classes are numbered anew, from 0.

        Of each class, the first images are held out. Up to IMAGES training images are drawn from the IMAGES that
        follow, more from all others.

        Raises:
            UserError: if there are too few rows.
        """
        generator = torch.Generator().manual_seed(job.seed)
        count = int(self.val.targets.max()) + 1
        classes = torch.randperm(count, generator=generator)[: job.classes].sort().values
        pool = max(job.images, IMAGES)
        turns = len(self.train.targets) // count
        if turns < HELD_OUT + pool:
            raise UserError(
                f"the features have {turns} images per class, {HELD_OUT + pool} are needed: --features_only"
            )
        drawn = HELD_OUT + torch.rand(pool, count, generator=generator).argsort(0)[: job.images, classes]  # (images, C)
        return Data(
            _part(self.train, (drawn * count + classes).flatten(), classes),
            _part(self.train, (torch.arange(HELD_OUT)[:, None] * count + classes).flatten(), classes),
            _part(self.val, torch.isin(self.val.targets, classes).nonzero().flatten(), classes),
            self.layers,
        )


@cache
def read_outputs(work: Path, frozen: str) -> Outputs:
    """The outputs of a frozen part, as far as they were computed."""
    folder = work / frozen
    return Outputs(read_features(folder, "train"), read_features(folder, "val"), layers_behind(pretrained(), frozen))


Every = Callable[[str], Outputs]  # of a frozen part, by its name


def _part(features: Features, index: Tensor, classes: Tensor) -> Features:
    """Some of them; their classes are numbered by their place in `classes`, which ascends."""
    return Features(features.values[index], torch.searchsorted(classes, features.targets[index]))
