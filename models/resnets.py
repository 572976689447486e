"""The paper's networks: torchvision's ResNets, whose DKA head is named `rfc`."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

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


class DynamicKResNet(ResNet):
    """torchvision's ResNet whose classifier is named `rfc`, as in the paper's snapshots.

    Args:
        num_classes: C.
        topk: K of the head.
        head: makes the head from its number of inputs and outputs, and topk.
        trunk: torchvision's `ResNet` arguments but the number of classes, as in `TRUNKS`.

    Raises:
        ValueError: if topk is not in 1..number of pooled features.
    """

    def __init__(self, num_classes: int, topk: int, head: Callable[..., nn.Linear] = DynamicKLinear, **trunk: Any):
        super().__init__(**trunk, num_classes=1)
        self.fc = nn.Identity()  # the trunk's own forward then ends with the pooled features
        self.rfc = head(width_of(trunk), num_classes, topk=topk)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> logits (B, C)."""
        return self.rfc(self._forward_impl(x))  # (B, N) -> (B, C)


def width_of(trunk: dict[str, Any]) -> int:
    """N, the number of pooled features of a trunk."""
    return 512 * trunk["block"].expansion
