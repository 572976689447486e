"""Activation maps of layers: preprocessing, and the one pass of the network over all images."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

import settings as project
from loader.batches import Loader
from netdissect.broden import Broden
from netdissect.forward import Forward, common_shape
from netdissect.layout import MapLayout
from util import distributed
from util.cli import UserError
from util.progress import progress

# Network Dissection's own mean and scale (RGB, 0 to 255), not torchvision's: the default, to keep tallies comparable.
_NETDISSECT_MEAN = (124.6901, 118.6897, 109.5388)
_NETDISSECT_SCALE = 255 * 0.224


def preprocess_netdissect(images: Tensor) -> Tensor:
    """RGB images (B, H, W, 3) uint8 -> (B, 3, H, W) float32: minus the mean, divided by 255 * 0.224."""
    mean = images.new_tensor(_NETDISSECT_MEAN, dtype=torch.float32)
    return ((images - mean) / _NETDISSECT_SCALE).permute(0, 3, 1, 2)


def preprocess_imagenet(images: Tensor) -> Tensor:
    """RGB images (B, H, W, 3) uint8 -> (B, 3, H, W) float32: torchvision's, as in training."""
    mean, std = (images.new_tensor(values, dtype=torch.float32) for values in (project.MEAN, project.STD))
    return ((images / 255 - mean) / std).permute(0, 3, 1, 2)


PREPROCESS: dict[str, Callable[[Tensor], Tensor]] = {
    "netdissect": preprocess_netdissect,
    "imagenet": preprocess_imagenet,
}


class _Images(Dataset):
    """The images of a Broden folder, each at its own size: (index, (H, W, 3) uint8)."""

    def __init__(self, broden: Broden):
        self._broden = broden

    def __len__(self) -> int:
        return len(self._broden)

    def __getitem__(self, index: int) -> tuple[int, Tensor]:
        return index, torch.from_numpy(np.array(self._broden.image(index)))


def _by_size(samples: list[tuple[int, Tensor]]) -> list[tuple[list[int], Tensor]]:
    """Split a batch into groups of images of one size: (indices, images (B, H, W, 3))."""
    groups: dict[torch.Size, list[tuple[int, Tensor]]] = {}
    for sample in samples:
        groups.setdefault(sample[1].shape, []).append(sample)
    return [([i for i, _ in group], torch.stack([image for _, image in group])) for group in groups.values()]


@torch.inference_mode()
def stream_features(
    model: nn.Module | Forward,
    layouts: Mapping[str, MapLayout],
    broden: Broden,
    preprocess: str = "netdissect",
    batch_size: int = 64,
    workers: int = 0,
) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
    """Pass all images through the network once, in float32, on the device of its parameters.

    Under torchrun the processes take batches in turn. The batches are those of a single process, and so are the maps.

    Args:
        model: in eval mode; or the `Forward` pass of one, through the layers of `layouts`.
        layouts: by layer, of `find_layouts`.
        broden: the images.
        preprocess: a key of `PREPROCESS`.
        batch_size: images per batch; one that has images of several sizes is split by size.
        workers: processes that read images; 0: this one.

    Yields:
        The numbers of B images of one size, and by layer their maps (B, U, h, w) on the CPU. Batches come in the
        folder's order.

    Raises:
        UserError: for an image on which the network fails, a layer whose output is not of its layout, and maps that are
            not finite, naming the image and the layer.
    """
    batches = torch.arange(len(broden)).split(batch_size)[distributed.rank() :: distributed.world_size()]
    own = [batch.tolist() for batch in batches]
    loader = Loader(_Images(broden), batch_sampler=own, num_workers=workers, collate_fn=_by_size)
    forward = model if isinstance(model, Forward) else Forward(model, list(layouts))
    forward.expect(*common_shape([row.image for row in broden.rows], own, batch_size))
    total = sum(map(len, own))
    with progress(total=total, desc="features", unit="img") as bar:
        for groups in loader:
            for indices, images in groups:
                place = f"image {broden.rows[indices[0]].file}: "
                batch = PREPROCESS[preprocess](images.to(forward.device))  # (B, H, W, 3) -> (B, 3, H, W), channels last
                outputs = forward(batch, place)
                maps = {layer: layout.maps(layer, outputs.get(layer), len(batch)) for layer, layout in layouts.items()}
                del outputs
                _check_finite(maps, indices, broden)
                yield indices, maps
                bar.update(len(indices))


def _check_finite(maps: Mapping[str, Tensor], indices: Sequence[int], broden: Broden) -> None:
    """One value that is not finite would spoil the thresholds of its unit, and of NaN, all of them."""
    for layer, of_layer in maps.items():
        finite = of_layer.isfinite().flatten(1).all(1)  # (B,)
        if not finite.all():
            file = broden.rows[indices[int(finite.int().argmin())]].file
            raise UserError(f"image {file}: layer {layer} has activations that are not finite (NaN or infinite)")
