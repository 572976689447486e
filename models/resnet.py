"""ResNets with either head: torchvision's blocks and trunk, with the dense `fc` or the DKA head `rfc`."""

import re
from typing import Any

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from errors import UserError
from models.dynamic_k import DynamicKLinear

# torchvision's ResNets: the arguments of its `ResNet` for each.
TRUNKS: dict[str, dict[str, Any]] = {
    "resnet18": dict(block=BasicBlock, layers=[2, 2, 2, 2]),
    "resnet34": dict(block=BasicBlock, layers=[3, 4, 6, 3]),
    "resnet50": dict(block=Bottleneck, layers=[3, 4, 6, 3]),
    "resnet101": dict(block=Bottleneck, layers=[3, 4, 23, 3]),
    "resnet152": dict(block=Bottleneck, layers=[3, 8, 36, 3]),
    "resnext50_32x4d": dict(block=Bottleneck, layers=[3, 4, 6, 3], groups=32, width_per_group=4),
    "resnext101_32x8d": dict(block=Bottleneck, layers=[3, 4, 23, 3], groups=32, width_per_group=8),
    "resnext101_64x4d": dict(block=Bottleneck, layers=[3, 4, 23, 3], groups=64, width_per_group=4),
    "wide_resnet50_2": dict(block=Bottleneck, layers=[3, 4, 6, 3], width_per_group=128),
    "wide_resnet101_2": dict(block=Bottleneck, layers=[3, 4, 23, 3], width_per_group=128),
}
DKA_SUFFIX = "_fc_ma"
DENSE_MARK = "dense"
MODELS = (*TRUNKS, *(trunk + DKA_SUFFIX for trunk in TRUNKS))


class DynamicKResNet(ResNet):
    """torchvision's ResNet whose classifier is a `DynamicKLinear` named `rfc`, as in the paper's snapshots.

    Args:
        num_classes: C.
        topk: K of the head.
        trunk: torchvision's `ResNet` arguments but the number of classes, as in `TRUNKS`.

    Raises:
        ValueError: if topk is not in 1..number of pooled features.
    """

    def __init__(self, num_classes: int, topk: int, **trunk: Any):
        super().__init__(**trunk, num_classes=1)
        features = 512 * trunk["block"].expansion
        self.fc = nn.Identity()  # the trunk's own forward then ends with the pooled features
        self.rfc = DynamicKLinear(features, num_classes, topk=topk)

    def forward(self, x: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) -> logits (B, C)."""
        return self.rfc(self._forward_impl(x))  # (B, F) -> (B, C)


def parse_mark(mark: str) -> int:
    """'t5' -> K = 5. Raises UserError for anything but `t` and a positive number."""
    if not re.fullmatch(r"t[1-9][0-9]{0,8}", mark):
        raise UserError(f"mark {mark!r}: expected `t` and the number of votes K, for example t5")
    return int(mark[1:])


def mark_of(topk: int | None) -> str:
    """K = 5 -> 't5'; None -> 'dense'."""
    return DENSE_MARK if topk is None else f"t{topk}"


def run_name(arch: str, mark: str, dataset: str) -> str:
    """The folder of a run below snapshot/ and result/. Raises UserError for a data set's name that no folder can have.

    Names come from strangers' snapshots too: none may lead out of the folder that it is meant for.
    """
    if not re.fullmatch(r"[^/\\\x00-\x1f\x7f]{1,128}", dataset):
        raise UserError(f"data set name {dataset!r}: expected the name of a folder, without a path")
    return f"pytorch_{arch}_{mark}_{dataset}"


def build_model(arch: str, num_classes: int, topk: int | None = None) -> ResNet:
    """A freshly initialised network.

    Args:
        arch: one of `MODELS`.
        num_classes: C, at least 1.
        topk: K of a DKA head, 1..512 (resnet18, resnet34) or 1..2048 (the others); unused by dense heads.

    Raises:
        UserError: for an unknown arch, or topk or num_classes out of range.
    """
    if arch not in MODELS:
        raise UserError(f"architecture {arch!r}: expected one of {', '.join(MODELS)}")
    if num_classes < 1:
        raise UserError(f"number of classes {num_classes}: expected at least 1")
    trunk = TRUNKS[arch.removesuffix(DKA_SUFFIX)]
    if not arch.endswith(DKA_SUFFIX):
        return ResNet(**trunk, num_classes=num_classes)
    width = 512 * trunk["block"].expansion
    if topk is None or not 1 <= topk <= width:
        raise UserError(f"K = {topk}: {arch} has {width} pooled features, expected 1 <= K <= {width}")
    return DynamicKResNet(num_classes, topk, **trunk)


def head_of(model: nn.Module) -> nn.Linear:
    """The classifier, dense `fc` or DKA `rfc`, of a network that `build_model` made."""
    head = model.rfc if isinstance(model, DynamicKResNet) else model.fc
    assert isinstance(head, nn.Linear)
    return head
