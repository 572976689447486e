"""What the units of a layer do on every picture: preprocessing, and the one pass over the data."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import distributed
import settings as project
from engine import progress
from errors import UserError
from models.hooks import layer_outputs
from netdissect.broden import Broden

# Network Dissection's own numbers (RGB, of 0..255), not torchvision's: the default, so that tallies are comparable.
_NETDISSECT_MEAN = (124.6901, 118.6897, 109.5388)
_NETDISSECT_SCALE = 255 * 0.224


def preprocess_netdissect(pictures: Tensor) -> Tensor:
    """RGB pictures (B, H, W, 3) uint8 -> (B, 3, H, W) float32: minus the mean, divided by 255 * 0.224."""
    mean = pictures.new_tensor(_NETDISSECT_MEAN, dtype=torch.float32)
    return ((pictures - mean) / _NETDISSECT_SCALE).permute(0, 3, 1, 2)


def preprocess_imagenet(pictures: Tensor) -> Tensor:
    """RGB pictures (B, H, W, 3) uint8 -> (B, 3, H, W) float32: torchvision's, which the networks were trained with."""
    mean, std = (pictures.new_tensor(values, dtype=torch.float32) for values in (project.MEAN, project.STD))
    return ((pictures / 255 - mean) / std).permute(0, 3, 1, 2)


PREPROCESS: dict[str, Callable[[Tensor], Tensor]] = {
    "netdissect": preprocess_netdissect,
    "imagenet": preprocess_imagenet,
}


class _Pictures(Dataset):
    """(index, picture (H, W, 3) uint8) of a Broden folder, each at its own size."""

    def __init__(self, broden: Broden):
        self._broden = broden

    def __len__(self) -> int:
        return len(self._broden)

    def __getitem__(self, index: int) -> tuple[int, Tensor]:
        return index, torch.from_numpy(np.array(self._broden.picture(index)))


def _by_size(samples: list[tuple[int, Tensor]]) -> list[tuple[list[int], Tensor]]:
    """Split a batch into groups of equally large pictures: (indices, pictures (B, H, W, 3))."""
    groups: dict[torch.Size, list[tuple[int, Tensor]]] = {}
    for sample in samples:
        groups.setdefault(sample[1].shape, []).append(sample)
    return [([i for i, _ in group], torch.stack([picture for _, picture in group])) for group in groups.values()]


@torch.inference_mode()
def stream_features(
    model: nn.Module,
    layers: Sequence[str],
    broden: Broden,
    device: torch.device,
    preprocess: str = "netdissect",
    batch_size: int = 64,
    workers: int = 0,
) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
    """One pass of the network over all pictures, in float32.

    Under torchrun each process gets every so-manieth batch: the batches, and so their numbers, are those of one
    process alone.

    Yields:
        The numbers of B pictures and, by layer, their maps (B, U, h, w) on the CPU. Pictures of one batch are equally
        large; the order is that of the folder but within `batch_size` pictures.

    Raises:
        UserError: for a layer that is not there or whose output is not of shape (B, U, h, w).
    """
    batches = torch.arange(len(broden)).split(batch_size)[distributed.rank() :: distributed.world()]
    own = [batch.tolist() for batch in batches]
    loader = DataLoader(_Pictures(broden), batch_sampler=own, num_workers=workers, collate_fn=_by_size)
    total = sum(map(len, own))
    with layer_outputs(model, layers) as outputs, progress(total=total, desc="features", unit="img") as bar:
        for groups in loader:
            for indices, images in groups:
                model(PREPROCESS[preprocess](images.to(device)))  # (B, H, W, 3) -> (B, 3, H, W), channels last
                yield indices, {layer: _maps(layer, outputs[layer]) for layer in layers}
                bar.update(len(indices))


@torch.inference_mode()
def map_sizes(
    model: nn.Module, layers: Sequence[str], height: int, width: int, device: torch.device
) -> dict[str, tuple[int, int]]:
    """How many units each layer has, and how many positions its maps for a picture of height x width pixels."""
    with layer_outputs(model, layers) as outputs:
        model(torch.zeros(1, 3, height, width, device=device))
        maps = {layer: _maps(layer, outputs[layer]) for layer in layers}
    return {layer: (shape[1], shape[2] * shape[3]) for layer, shape in ((layer, maps[layer].shape) for layer in layers)}


def _maps(layer: str, output: Any) -> Tensor:
    if not isinstance(output, Tensor) or output.dim() != 4:
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise UserError(f"layer {layer}: its output is {shape}, expected maps (B, units, h, w)")
    return output.float().cpu()
