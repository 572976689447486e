"""Networks for torch.hub.

    import torch
    model = torch.hub.load("/path/to/this/repository", "resnet18_d5a_mini_places", source="local")
    model = torch.hub.load("/path/to/this/repository", "dynamic_k", "convnext_tiny", 10, 5, source="local")

By torch.hub's convention `pretrained` says whether a network comes with trained weights. Images are RGB, normalised by
ImageNet's means and deviations. This repository's packages (`models`, `util`, ...) are imported by these names: a
project that has packages of the same names needs a process of its own for it.
"""

from pathlib import Path as _Path

from torch import nn as _nn

import settings as _settings
from models import build_model as _build_model
from models import load_snapshot as _load_snapshot
from models.backbones import DKA_SUFFIX as _DKA_SUFFIX

dependencies = ["torch", "torchvision", "numpy", "easydict", "safetensors"]


def resnet18_fc_ma(num_classes: int = 365, topk: int = 5) -> _nn.Module:
    """ResNet-18 whose scores are sums of K votes, initialised at random; the defaults are the paper's ResNet-d5a.

    Images (B, 3, H, W) -> scores (B, C).

    Args:
        num_classes: C; the default is that of Places365.
        topk: K, 1 to 512.
    """
    return _build_model("resnet18_fc_ma", num_classes, topk)


def resnet50_fc_ma(num_classes: int = 365, topk: int = 5) -> _nn.Module:
    """ResNet-50 as `resnet18_fc_ma`; K from 1 to 2048."""
    return _build_model("resnet50_fc_ma", num_classes, topk)


def resnet18_d5a_mini_places(pretrained: bool = True) -> _nn.Module:
    """The network of this repository's demo, a ResNet-18 with K = 5 for 16 scene classes; in eval mode.

    Images (B, 3, 224, 224) -> scores (B, 16).

    Args:
        pretrained: with the shipped weights (top-1 87.62 % on mini_places), and the names of the classes as
            `model.classes`; False: initialised at random.
    """
    if not pretrained:
        return _build_model("resnet18_fc_ma", 16, 5).eval()
    return _load_snapshot(_Path(__file__).resolve().parent / _settings.SHIPPED_SNAPSHOT)[0]


def dynamic_k(arch: str, num_classes: int, topk: int) -> _nn.Module:
    """A network of any architecture with a DKA head, initialised at random.

    Images (B, 3, H, W) -> scores (B, C).

    Args:
        arch: a torchvision classifier, `timm:<model>`, or another name that `models.build_model` takes.
        num_classes: C.
        topk: K, 1 to the number of the head's inputs.
    """
    return _build_model(arch.removesuffix(_DKA_SUFFIX) + _DKA_SUFFIX, num_classes, topk)
