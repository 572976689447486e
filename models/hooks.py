"""Looking at what layers inside a network put out."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from util.cli import UserError


@contextmanager
def layer_outputs(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Within the block, each forward pass of `model` leaves the outputs of the named layers in the yielded dict.

    Tensors are copied as soon as the layer returns: an in-place operation that follows, such as `nn.ReLU(inplace=True)`
    after a batch norm, would change them. A layer that runs several times leaves its last output, one that does not run
    leaves what it left before.

    Args:
        model: any module.
        names: dotted names, as in `model.named_modules()`: 'layer4', 'layer3.1.conv2', 'features.28'.

    Raises:
        UserError: for a name that is not a layer of the model. The hooks are gone after the block, whatever happened.
    """
    modules = dict(model.named_modules())
    for name in names:
        if name not in modules:
            raise UserError(f"layer {name!r}: the model has {', '.join(n for n, _ in model.named_children())}")
    outputs: dict[str, Tensor] = {}
    handles = []

    def record(name: str, output: Any) -> None:
        outputs[name] = output.clone() if isinstance(output, Tensor) else output

    try:
        for name in names:
            handles.append(modules[name].register_forward_hook(lambda _m, _i, out, name=name: record(name, out)))
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def layer_inputs(layer: nn.Module) -> Iterator[list[Tensor]]:
    """Within the block, each forward pass through `layer` adds its input, on the CPU, to the yielded list."""
    inputs: list[Tensor] = []

    def record(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        inputs.append(first_input(given, named).detach().float().cpu())

    handle = layer.register_forward_pre_hook(record, with_kwargs=True)
    try:
        yield inputs
    finally:
        handle.remove()


def first_input(given: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """A module's first argument, by place or by name; None without one."""
    return next(iter((*given, *named.values())), None)
