"""What the units of a layer do on every picture: preprocessing, the pass over the data, and the stored maps."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import settings as project
from engine import progress
from errors import UserError
from models.hooks import layer_outputs
from netdissect.broden import Broden

# Network Dissection's own numbers (RGB, of 0..255), not torchvision's: the default, so that tallies are comparable.
_NETDISSECT_MEAN = (124.6901, 118.6897, 109.5388)
_NETDISSECT_SCALE = 255 * 0.224


def preprocess_netdissect(picture: Image.Image) -> Tensor:
    """RGB picture -> (3, H, W) float32: minus the mean, divided by 255 * 0.224."""
    pixels = np.asarray(picture, np.float32)  # (H, W, 3)
    return torch.from_numpy((pixels - np.float32(_NETDISSECT_MEAN)) / np.float32(_NETDISSECT_SCALE)).permute(2, 0, 1)


def preprocess_imagenet(picture: Image.Image) -> Tensor:
    """RGB picture -> (3, H, W) float32: torchvision's normalisation, which the networks were trained with."""
    pixels = np.asarray(picture, np.float32) / 255  # (H, W, 3)
    return torch.from_numpy((pixels - np.float32(project.MEAN)) / np.float32(project.STD)).permute(2, 0, 1)


PREPROCESS: dict[str, Callable[[Image.Image], Tensor]] = {
    "netdissect": preprocess_netdissect,
    "imagenet": preprocess_imagenet,
}


class FeatureStore:
    """The maps of one layer for N pictures, float32, in one file on disk; pictures may differ in map size."""

    def __init__(self, path: Path):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "wb+")  # noqa: SIM115 - closed by `close`
        self._places: dict[int, tuple[int, tuple[int, int, int]]] = {}
        self._end = 0

    def put(self, index: int, maps: np.ndarray) -> None:
        """Store the maps (U, h, w) of picture `index`."""
        if self._places and maps.shape[0] != self.units:
            raise UserError(f"picture {index} has {maps.shape[0]} units, the ones before have {self.units}")
        self._places[index] = (self._end, maps.shape)
        self._file.seek(self._end)
        self._file.write(np.ascontiguousarray(maps, np.float32).data)
        self._end += maps.size * 4

    def freeze(self) -> None:
        """End of writing: the maps can be read from now on."""
        self._file.flush()
        self._data = np.memmap(self.path, np.float32, "r")

    def __len__(self) -> int:
        return len(self._places)

    @property
    def units(self) -> int:
        """U, the number of units."""
        return next(iter(self._places.values()))[1][0]

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return self._end

    def __getitem__(self, index: int) -> np.ndarray:
        """The maps (U, h, w) of picture `index`, a view of the file."""
        start, shape = self._places[index]
        return self._data[start // 4 : start // 4 + int(np.prod(shape))].reshape(shape)

    def close(self, remove: bool) -> None:
        """Close the file, and remove it."""
        self._data = None
        self._file.close()
        if remove:
            self.path.unlink(missing_ok=True)


class _Pictures(Dataset):
    """(index, picture (3, H, W)) of a Broden folder, each at its own size."""

    def __init__(self, broden: Broden, preprocess: Callable[[Image.Image], Tensor]):
        self._broden, self._preprocess = broden, preprocess

    def __len__(self) -> int:
        return len(self._broden)

    def __getitem__(self, index: int) -> tuple[int, Tensor]:
        return index, self._preprocess(self._broden.picture(index))


def _by_size(samples: list[tuple[int, Tensor]]) -> list[tuple[list[int], Tensor]]:
    """Split a batch into groups of equally large pictures: (indices, pictures (B, 3, H, W))."""
    groups: dict[torch.Size, list[tuple[int, Tensor]]] = {}
    for sample in samples:
        groups.setdefault(sample[1].shape, []).append(sample)
    return [([i for i, _ in group], torch.stack([picture for _, picture in group])) for group in groups.values()]


@torch.inference_mode()
def store_features(
    model: nn.Module,
    layers: Sequence[str],
    broden: Broden,
    folder: Path,
    device: torch.device,
    preprocess: str = "netdissect",
    batch_size: int = 64,
    workers: int = 0,
) -> dict[str, FeatureStore]:
    """One pass of the network over all pictures in float32, keeping the maps of the named layers.

    Raises:
        UserError: for a layer that is not there or whose output is not of shape (B, U, h, w).
    """
    loader = DataLoader(_Pictures(broden, PREPROCESS[preprocess]), batch_size, num_workers=workers, collate_fn=_by_size)
    stores = {layer: FeatureStore(folder / f"features_{layer}.f32") for layer in layers}
    try:
        with layer_outputs(model, layers) as outputs, progress(total=len(broden), desc="features", unit="img") as bar:
            for groups in loader:
                for indices, pictures in groups:
                    model(pictures.to(device, memory_format=torch.channels_last))  # (B, 3, H, W)
                    for layer, store in stores.items():
                        maps = outputs[layer]
                        if not isinstance(maps, Tensor) or maps.dim() != 4:
                            shape = tuple(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__
                            raise UserError(f"layer {layer}: its output is {shape}, expected maps (B, units, h, w)")
                        for index, unit_maps in zip(indices, maps.float().cpu().numpy(), strict=True):
                            store.put(index, unit_maps)  # (U, h, w)
                    bar.update(len(indices))
    except BaseException:
        for store in stores.values():
            store.close(remove=True)
        raise
    for store in stores.values():
        store.freeze()
    return stores
