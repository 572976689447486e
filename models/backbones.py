"""ResNets with any head: torchvision's blocks and trunk, with the dense `fc` or, for `<name>_fc_ma`, the head `rfc`."""

from collections.abc import Callable
from typing import Any, cast

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from models.dynamic_k import DynamicKLinear
from models.heads import HEADS, DenseHead, Head
from util.cli import UserError

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


def model_names() -> list[str]:
    """All architectures: each trunk with a dense head, then each with a DKA head."""
    return [*TRUNKS, *(trunk + DKA_SUFFIX for trunk in TRUNKS)]


def has_dynamic_k(arch: str) -> bool:
    """Whether an architecture's head chooses K votes: `<name>_fc_ma`."""
    return arch.endswith(DKA_SUFFIX)


def build_model(
    arch: str, num_classes: int, topk: int | None = None, head: Callable[..., nn.Linear] | None = None
) -> ResNet:
    """A freshly initialised network.

    Args:
        arch: one of `model_names()`.
        num_classes: C, at least 1.
        topk: K, 1..512 (resnet18, resnet34) or 1..2048 (the others); unused by dense heads.
        head: a class of `models.heads`, or anything that is called as they are; None: `DenseHead` for `<name>`,
            `DynamicKLinear` for `<name>_fc_ma`.

    Raises:
        UserError: for an unknown arch, or topk or num_classes out of range.
    """
    if arch not in model_names():
        raise UserError(f"architecture {arch!r}: expected one of {', '.join(model_names())}")
    if num_classes < 1:
        raise UserError(f"number of classes {num_classes}: expected at least 1")
    trunk = TRUNKS[arch.removesuffix(DKA_SUFFIX)]
    width = width_of(trunk)
    if (has_dynamic_k(arch) or head not in (None, DenseHead)) and (topk is None or not 1 <= topk <= width):
        raise UserError(f"K = {topk}: {arch} has {width} pooled features, expected 1 <= K <= {width}")
    if has_dynamic_k(arch):
        return DynamicKResNet(num_classes, cast(int, topk), head or DynamicKLinear, **trunk)
    model = ResNet(**trunk, num_classes=num_classes)
    model.fc = DenseHead.adopt(model.fc) if head in (None, DenseHead) else head(width, num_classes, topk=topk)
    return model


def head_of(model: nn.Module) -> Head:
    """The head of a network that `build_model` made: dense `fc`, or `rfc`."""
    return cast(Head, model.rfc if isinstance(model, DynamicKResNet) else model.fc)


def head_name(head: Head, arch: str) -> str | None:
    """The name in `models.heads.HEADS` of a head that is not the one an arch has by itself; None for that one."""
    name = kind_of(head)
    return name if name in HEADS and name != own_head(arch) else None


def own_head(arch: str) -> str:
    """The name in `models.heads.HEADS` of the head that an architecture has by itself."""
    return "dynamic_k" if has_dynamic_k(arch) else "dense"


def kind_of(head: Head) -> str:
    """The name in `models.heads.HEADS` of a head; of one that has none there, the name of its class."""
    names = {kind: name for name, kind in HEADS.items()}
    return names.get(cast(type[nn.Linear], type(head)), type(head).__name__)
