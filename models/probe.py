"""Running a network on noise, to see how it is made: which layers run, in which order, and what they put out."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.hooks import first_input
from util.cli import describe

# Sides of the square images that are tried, pixels: the smallest that a network takes is enough, and the fastest.
SIDES = (64, 96, 128, 192, 224, 256, 299, 336, 384, 448, 512, 518)


class NoInputFits(ValueError):
    """A network takes images of none of `SIDES`; the message says why not."""


@dataclass(frozen=True, eq=False)
class Call:
    """One run of a module within a network's forward pass.

    Attributes:
        name: of the module, dotted.
        module: it.
        inputs: its first positional argument; None if there is none.
        output: a copy of what it returned, if that is a tensor: an operation that follows may change it in place.
    """

    name: str
    module: nn.Module
    inputs: Tensor | None
    output: Tensor | None


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within the block a network is in eval mode and computes no gradients; then each module has its mode again."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def noise(model: nn.Module, side: int) -> Tensor:
    """Two images (2, 3, side, side), the same ones each time, where the network's weights are."""
    images = torch.randn(2, 3, side, side, generator=torch.Generator("cpu").manual_seed(0), device="cpu")
    weight = next(model.parameters(), None)
    if weight is None:
        return images
    return images.to(weight.device, weight.dtype if weight.is_floating_point() else None)


def fitting_noise(model: nn.Module, sides: tuple[int, ...] = SIDES) -> tuple[Tensor, Tensor]:
    """The smallest images of noise that a network takes (2, 3, S, S), and what it returns for them.

    Raises:
        NoInputFits: if there are none, or it returns no tensor (2, C).
    """
    if hasattr(model, "_orig_mod") or isinstance(model, torch.jit.ScriptModule):
        raise NoInputFits("it is compiled, and its layers cannot be watched: give the network as it was before")
    reason = "no size was tried"
    for side in sides:
        images = noise(model, side)
        try:
            with evaluating(model):
                output = model(images)
        except Exception as error:  # of a stranger's code: too small an image can fail in any way
            reason = describe(error)
            continue
        if not isinstance(output, Tensor) or output.dim() != 2 or len(output) != 2:
            found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise NoInputFits(f"it returns {found} for two images, expected scores of shape (2, classes)")
        return images, output
    raise NoInputFits(f"it takes no square RGB image of {sides[0]} to {sides[-1]} pixels ({reason})")


def calls_of(model: nn.Module, images: Tensor) -> list[Call]:
    """The runs of all modules in a forward pass in eval mode, in the order in which they end; the network is last."""
    calls: list[Call] = []
    handles = []

    def record(name: str, module: nn.Module, first: Any, output: Any) -> None:
        tensors = (value.clone() if isinstance(value, Tensor) else None for value in (first, output))
        calls.append(Call(name, module, *tensors))

    try:
        for name, module in model.named_modules():
            handles.append(
                module.register_forward_hook(
                    lambda module, given, named, output, name=name: record(
                        name, module, first_input(given, named), output
                    ),
                    with_kwargs=True,
                )
            )
        with evaluating(model):
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    return calls
