"""ResNets with either head: torchvision's blocks and trunk, with the dense `fc` or the DKA head `rfc`."""

import re

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from errors import UserError
from models.dynamic_k import DynamicKLinear

TRUNKS = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
}
DKA_SUFFIX = "_fc_ma"
DENSE_MARK = "dense"
MODELS = (*TRUNKS, *(trunk + DKA_SUFFIX for trunk in TRUNKS))


class DynamicKResNet(ResNet):
    """torchvision's ResNet whose classifier is a `DynamicKLinear` named `rfc`, as in the paper's snapshots.

    Args:
        block: BasicBlock or Bottleneck.
        layers: number of blocks in each of the four stages.
        num_classes: C.
        topk: K of the head.

    Raises:
        ValueError: if topk is not in 1..number of pooled features.
    """

    def __init__(self, block: type[nn.Module], layers: tuple[int, ...], num_classes: int, topk: int):
        super().__init__(block, list(layers), num_classes=1)
        features = self.fc.in_features
        self.fc = nn.Identity()  # the trunk's own forward then ends with the pooled features
        self.rfc = DynamicKLinear(features, num_classes, topk=topk)

    def forward(self, x: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) -> logits (B, C)."""
        return self.rfc(self._forward_impl(x))  # (B, F) -> (B, C)


def parse_mark(mark: str) -> int:
    """'t5' -> K = 5. Raises UserError for anything but `t` and a positive number."""
    if not re.fullmatch(r"t[1-9][0-9]*", mark):
        raise UserError(f"mark {mark!r}: expected `t` and the number of votes K, for example t5")
    return int(mark[1:])


def mark_of(topk: int | None) -> str:
    """K = 5 -> 't5'; None -> 'dense'."""
    return DENSE_MARK if topk is None else f"t{topk}"


def run_name(arch: str, mark: str, dataset: str) -> str:
    """The folder of a run below snapshot/ and result/."""
    return f"pytorch_{arch}_{mark}_{dataset}"


def build_model(arch: str, num_classes: int, topk: int | None = None) -> ResNet:
    """A freshly initialised network.

    Args:
        arch: one of `MODELS`.
        num_classes: C, at least 1.
        topk: K of a DKA head, 1..512 (resnet18) or 1..2048 (resnet50); unused by dense heads.

    Raises:
        UserError: for an unknown arch, or topk or num_classes out of range.
    """
    if arch not in MODELS:
        raise UserError(f"architecture {arch!r}: expected one of {', '.join(MODELS)}")
    if num_classes < 1:
        raise UserError(f"number of classes {num_classes}: expected at least 1")
    block, layers = TRUNKS[arch.removesuffix(DKA_SUFFIX)]
    if not arch.endswith(DKA_SUFFIX):
        return ResNet(block, list(layers), num_classes=num_classes)
    width = 512 * block.expansion
    if topk is None or not 1 <= topk <= width:
        raise UserError(f"K = {topk}: {arch} has {width} pooled features, expected 1 <= K <= {width}")
    return DynamicKResNet(block, layers, num_classes, topk)


def head_of(model: nn.Module) -> nn.Linear:
    """The classifier, dense `fc` or DKA `rfc`, of a network that `build_model` made."""
    return model.rfc if isinstance(model, DynamicKResNet) else model.fc
