"""Which axes of a layer's output are units, height and width: found by running the network on images of other sizes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from models.hooks import layer_outputs
from util.cli import Terminated, UserError, describe

MOST_PIXELS = 2**26  # of the image on which the network is tried
_EXPECTED = "expected maps (B, units, h, w)"
_CHANNELS_FIRST, _CHANNELS_LAST = (0, 1, 2, 3), (0, 3, 1, 2)


@dataclass(frozen=True)
class MapLayout:
    """How a layer's output becomes maps (B, U, h, w).

    Attributes:
        units: U.
        positions: h * w for the largest image: no map has more.
        axes: of the output, in the order batch, units, height, width: (0, 1, 2, 3) for (B, U, h, w), (0, 3, 1, 2) for
            the channels-last output (B, h, w, U) of a Swin transformer.
    """

    units: int
    positions: int
    axes: tuple[int, int, int, int] = _CHANNELS_FIRST

    def maps(self, layer: str, output: Any, images: int) -> Tensor:
        """The maps (B, U, h, w), float32 on the CPU, of a layer's output for B images.

        Raises:
            UserError: naming the layer, if the output is none of `images` maps of this layout.
        """
        maps = _checked(layer, output, images).permute(self.axes)
        if maps.shape[1] != self.units or maps.shape[2:].numel() > self.positions:
            found = f"{maps.shape[1]} units and {maps.shape[2]} x {maps.shape[3]} positions"
            raise UserError(
                f"layer {layer}: its output {tuple(output.shape)} has {found}, "
                f"for the largest image {self.units} units and {self.positions} positions in all"
            )
        return maps.float().cpu()


@torch.inference_mode()
def find_layouts(model: nn.Module, layers: Sequence[str], height: int, width: int) -> dict[str, MapLayout]:
    """The layout of each layer's output, from three forward passes on an empty image.

    Height is the axis that changes with the image's height alone, width likewise. Where no axis changes, or the network
    takes no images of other sizes, the shape decides if only one reading makes the map as square as the image.

    Args:
        model: in eval mode.
        layers: dotted names, as in `model.named_modules()`.
        height: greatest of any image, pixels.
        width: greatest of any image, pixels.

    Raises:
        UserError: for a layer that the model lacks, that does not run, or whose output is not of maps; and if the
            network fails on an image of this size.
    """
    if height * width > MOST_PIXELS:
        raise UserError(f"images of up to {width} x {height} pixels: expected at most {MOST_PIXELS:,} pixels")
    outputs = run_network(model, layers, _empty(model, height, width))
    found = {layer: _checked(layer, outputs.get(layer), 1).shape for layer in layers}
    taller = _shapes(model, layers, _other(height, width), width)
    wider = _shapes(model, layers, height, _other(width, height))
    layouts = {}
    for layer, shape in found.items():
        axes = _axes(shape, taller, wider, layer) or _axes_by_shape(shape, height, width)
        if axes is None:
            raise UserError(
                f"layer {layer}: its output is {tuple(shape)} for an image of {width} x {height} pixels, which does "
                f"not tell its axes of height and width; {_EXPECTED} or (B, h, w, units)"
            )
        layouts[layer] = MapLayout(shape[axes[1]], shape[axes[2]] * shape[axes[3]], axes)
    return layouts


def run_network(model: nn.Module, layers: Sequence[str], images: Tensor, place: str = "") -> dict[str, Any]:
    """The outputs of the layers that run when the network sees the images (B, 3, H, W).

    Args:
        model: in eval mode.
        layers: dotted names.
        images: preprocessed, on the model's device.
        place: what the message begins with, such as the file that is shown.

    Raises:
        UserError: for a layer that the model lacks, and if the forward pass fails.
    """
    with layer_outputs(model, layers) as outputs:
        try:
            model(images)
        except (Terminated, UserError):
            raise
        except (Exception, SystemExit) as error:  # the code of any network can fail in any way
            height, width = images.shape[2:]
            raise UserError(
                f"{place}the network fails on an image of {width} x {height} pixels and 3 channels ({describe(error)})"
            ) from error
    return outputs


def device_of(model: nn.Module) -> torch.device:
    """That of its weights and buffers; the CPU for a model that has none."""
    return next(chain(model.parameters(), model.buffers()), torch.empty(0)).device


def _empty(model: nn.Module, height: int, width: int) -> Tensor:
    return torch.zeros(1, 3, height, width, device=device_of(model))


def _other(side: int, beside: int) -> int:
    """Another length for a side of the image: twice, or where that is too large, half of it."""
    return 2 * side if 2 * side * beside <= MOST_PIXELS else side // 2


def _shapes(model: nn.Module, layers: Sequence[str], height: int, width: int) -> Mapping[str, Any] | None:
    """The shapes of the layers' outputs for an image of another size; None if the network does not take it."""
    try:
        outputs = run_network(model, layers, _empty(model, height, width))
    except UserError:
        return None
    return {layer: getattr(output, "shape", None) for layer, output in outputs.items()}


def _checked(layer: str, output: Any, images: int) -> Tensor:
    """The output, if it can be of maps of so many images."""
    if output is None:
        raise UserError(f"layer {layer}: it does not run, or returns nothing, when the network sees an image")
    if not isinstance(output, Tensor) or output.dim() != 4:
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        tokens = isinstance(output, Tensor) and output.dim() == 3
        hint = ": a sequence of tokens has neither height nor width" if tokens else ""
        raise UserError(f"layer {layer}: its output is {shape}, {_EXPECTED}{hint}")
    if not output.is_floating_point():
        raise UserError(f"layer {layer}: its output is of type {output.dtype}, expected floating-point numbers")
    if len(output) != images or not output.numel():
        raise UserError(f"layer {layer}: its output is {tuple(output.shape)} for a batch of {images}, {_EXPECTED}")
    return output


def _axes(
    shape: torch.Size, taller: Mapping[str, Any] | None, wider: Mapping[str, Any] | None, layer: str
) -> tuple[int, int, int, int] | None:
    """The axes, by which of them change with the image's height and width; None if that does not tell."""
    if taller is None or wider is None:
        return None
    changed = []
    for other in (taller.get(layer), wider.get(layer)):
        if other is None or len(other) != 4:
            raise UserError(f"layer {layer}: it has maps for images of some sizes only, {_EXPECTED} for any size")
        changed.append([axis for axis in range(4) if other[axis] != shape[axis]])
    if changed == [[], []]:
        return None
    if len(changed[0]) != 1 or len(changed[1]) != 1 or changed[0] == changed[1] or [0] in changed:
        raise UserError(
            f"layer {layer}: its output is {tuple(shape)}, {tuple(taller[layer])} for an image of another height and "
            f"{tuple(wider[layer])} for one of another width; {_EXPECTED}, one axis of height and one of width"
        )
    (tall,), (wide,) = changed
    return 0, ({1, 2, 3} - {tall, wide}).pop(), tall, wide


def _axes_by_shape(shape: torch.Size, height: int, width: int) -> tuple[int, int, int, int] | None:
    """The axes, if only one of (B, U, h, w) and (B, h, w, U) has a map that is square or as oblong as the image."""

    def fits(axes: tuple[int, int, int, int]) -> bool:
        h, w = shape[axes[2]], shape[axes[3]]
        oblong = height != width and abs(h * width - w * height) <= height + width  # rounded up or down
        return h == w or (oblong and h <= height and w <= width)

    fitting = [axes for axes in (_CHANNELS_FIRST, _CHANNELS_LAST) if fits(axes)]
    return fitting[0] if len(fitting) == 1 else None
