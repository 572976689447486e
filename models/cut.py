"""A network cut in two: the part that stays as it is, and the rest, which is trained on that part's outputs.

Nothing here knows an architecture. Where to cut is found by running the network once, and that the two parts are the
network is checked, not assumed.
"""

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from models.fingerprint import COUNTER, state_fingerprint
from models.heads import head_of
from models.probe import evaluating, noise
from util.cli import UserError

TRUNK = "trunk"  # everything but the head, as a name for where to cut
TOLERANCE = 1e-4  # largest difference between the network and its two parts, as a share of the largest value


@dataclass(frozen=True)
class Cut:
    """A network in two parts that share its modules: what happens to one of them happens to the network.

    Attributes:
        model: the whole network: images (B, 3, H, W) -> logits (B, C).
        layer: the last module that is frozen, or `TRUNK`.
        rest: what follows: outputs of `trunk` (B, ...) -> logits (B, C).
        frozen: names in the network's state dict of the weights and buffers in front of the cut.
        trained: the names of all others.
    """

    model: nn.Module
    layer: str
    rest: nn.Module
    frozen: list[str]
    trained: list[str]

    def trunk(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> the outputs of the last frozen module (B, ...); the network runs no further.

        With `TRUNK` these are the head's inputs (B, N). The network should be in eval mode.
        """
        return run_until(self.model, self.layer, images)

    def parameters(self) -> list[nn.Parameter]:
        """The parameters that are trained, in the network's order."""
        trained = set(self.trained)
        return [value for name, value in self.model.named_parameters() if name in trained]

    def fingerprint(self) -> str:
        """SHA-256 of the frozen weights and buffers."""
        return frozen_fingerprint(self.model.state_dict(), self.frozen)


def frozen_fingerprint(state: Mapping[str, Tensor], names: Iterable[str]) -> str:
    """SHA-256 of some entries of a state dict, in its order.

    BatchNorm's batch counters are left out: old files have none, and they change no output.
    """
    chosen = {name for name in names if not name.endswith(COUNTER)}
    return state_fingerprint({name: tensor for name, tensor in state.items() if name in chosen})


def cut_at(model: nn.Module, layer: str, size: int = 64) -> Cut:
    """Cut a network behind a layer.

    Args:
        model: images (B, 3, H, W) -> logits (B, C), with a head that `head_of` finds. It is not changed, and should be
            on its device already.
        layer: the dotted name of the last module that is frozen, as in `named_modules()`; or `TRUNK`: all but the head.
        size: side of the images on which the network is tried, pixels.

    Raises:
        UserError: for a layer that does not exist, does not run exactly once, is or contains the head or has no tensor
            as its output; and if what follows needs more than its output: a skip connection leads across the cut,
            weights are used on both sides of it, or dropout in front of it that is no module would move behind it.
    """
    head = cast(nn.Module, head_of(model))
    module = _module(model, layer, head)
    images = noise(model, size).to(memory_format=torch.channels_last)
    with evaluating(model):
        seen = _watch(model, layer, module, images)
        rest = head if layer == TRUNK else _without(model, seen)
        used = _check(layer, rest, seen)
        _check_gradients(model, layer, used, images)
        if layer != TRUNK:  # a head alone has nothing around it
            _check_in_training(model, layer, rest, images, seen.finished)
    kept = {id(tensor) for tensor in [*used, *rest.buffers()]}
    state = model.state_dict(keep_vars=True)
    names = {within: [name for name in state if (id(state[name]) in kept) is within] for within in (False, True)}
    return Cut(model, layer, rest, frozen=names[False], trained=names[True])


def _module(model: nn.Module, layer: str, head: nn.Module) -> nn.Module:
    """The module that ends the frozen part; with `TRUNK` the head, in front of which the cut is."""
    if layer == TRUNK:
        return head
    named = dict(model.named_modules())
    if not layer or layer not in named:
        known = ", ".join(name for name, _ in model.named_children())
        raise UserError(f"--freeze {layer}: expected {TRUNK}, or a layer of the network or within one of {known}")
    if any(part is head for part in named[layer].modules()):
        raise UserError(f"--freeze {layer}: the head is in it; name a layer in front, or {TRUNK} for all of them")
    return named[layer]


# --- the frozen part ----------------------------------------------------------------------------------------------


class _Reached(Exception):
    """The network has come to the cut."""

    def __init__(self, value: Any):
        super().__init__()
        self.value = value


def run_until(model: nn.Module, layer: str, images: Tensor) -> Tensor:
    """Run a network up to a layer: its outputs, or with `TRUNK` the head's inputs. As `Cut.trunk`."""

    def stop(value: Any) -> None:
        raise _Reached(value)

    if layer == TRUNK:
        handle = cast(nn.Module, head_of(model)).register_forward_pre_hook(lambda _, given: stop(given[0]))
    else:
        handle = model.get_submodule(layer).register_forward_hook(lambda _module, _given, output: stop(output))
    try:
        model(images)
    except _Reached as reached:
        return reached.value
    finally:
        handle.remove()
    raise UserError(f"--freeze {layer}: it does not run")


# --- watching the network -----------------------------------------------------------------------------------------

Inputs = list[tuple[nn.Module, Tensor]]  # of modules without parts, in the order in which they run


@dataclass
class _Seen:
    """What one run of a network shows.

    Attributes:
        logits: (B, C).
        output: of the last frozen module, or the head's input; None until it was reached.
        total: how often each module runs.
        finished: how often each had run when the cut was reached.
        after: what went into each module that began after the cut.
    """

    logits: Tensor = field(default_factory=lambda: torch.empty(0))
    output: Any = None
    total: Counter[nn.Module] = field(default_factory=Counter)
    finished: Counter[nn.Module] = field(default_factory=Counter)
    after: Inputs = field(default_factory=list)


@torch.no_grad()
def _watch(
    model: nn.Module, layer: str, module: nn.Module, images: Tensor, reached: Callable[[], None] = lambda: None
) -> _Seen:
    """Run the network, call `reached` at the cut, and note what had run by then. Raises UserError as `cut_at`."""
    seen, behind = _Seen(), layer != TRUNK

    def begun(this: nn.Module, given: tuple[Any, ...]) -> None:
        if not behind and this is module and seen.output is None:
            seen.output = _copied(given[0])
            seen.finished = Counter(seen.total)
            reached()
        if seen.output is not None:
            _add_input(seen.after, this, given)

    def ended(this: nn.Module, _: Any, output: Any) -> None:
        seen.total[this] += 1
        if behind and this is module and seen.output is None:
            seen.output = _copied(output)
            seen.finished = Counter(seen.total)
            reached()

    with _hooked(set(model.modules()), begun, ended):
        try:
            seen.logits = model(images)
        except Exception as error:  # whatever a network raises on images that it cannot take
            size = images.shape[-1]
            reason = next(iter(str(error).splitlines()), type(error).__name__)[:200]
            raise UserError(
                f"--freeze {layer}: the network fails on images of {size} x {size} pixels: {reason}"
            ) from error
    times = seen.total[module]
    if times != 1:
        raise UserError(f"--freeze {layer}: it runs {times} times in one forward pass, expected once")
    if not isinstance(seen.output, Tensor):
        raise UserError(f"--freeze {layer}: its output is a {type(seen.output).__name__}, expected a tensor")
    if behind and seen.finished[cast(nn.Module, head_of(model))]:
        raise UserError(f"--freeze {layer}: it runs after the head, and nothing would be left to train")
    return seen


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value  # an in-place operation may follow


def _add_input(inputs: Inputs, module: nn.Module, given: tuple[Any, ...]) -> None:
    if given and isinstance(given[0], Tensor) and not any(True for _ in module.children()):
        inputs.append((module, given[0].detach().clone()))


@contextmanager
def _hooked(modules: Iterable[nn.Module], begun: Callable, ended: Callable) -> Iterator[None]:
    handles = []
    try:
        for module in modules:
            handles += [module.register_forward_pre_hook(begun), module.register_forward_hook(ended)]
        yield
    finally:
        for handle in handles:
            handle.remove()


# --- the rest -----------------------------------------------------------------------------------------------------


class PassThrough(nn.Module):
    """Stands for a module in front of the cut: it returns its first input as it is, whatever else it is given.

    Args:
        passed: how many of its runs in one forward pass lie in front of the cut.
        module: what runs afterwards, where a network uses one module in several places; None if nothing does.
        runs: of it in one forward pass, in all.
    """

    def __init__(self, passed: int = 1, module: nn.Module | None = None, runs: int = 1):
        super().__init__()
        self.again, self.passed, self.runs, self.count = module, passed, runs, 0

    def forward(self, first: Any, *others: Any, **named: Any) -> Any:
        """The first input, or the module's output."""
        before = self.count
        self.count = (before + 1) % self.runs
        return first if self.again is None or before < self.passed else self.again(first, *others, **named)


def _without(model: nn.Module, seen: _Seen) -> nn.Module:
    """The network with a `PassThrough` for each module in front of the cut, so that the cut's output can be its input.

    Modules that have none of those within them are the network's own, as are all weights; only those around are copies.
    """
    stands_for: dict[int, Any] = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}

    def visit(module: nn.Module) -> bool:
        """Whether a module is replaced, or anything within it is."""
        if id(module) in stands_for:
            return stands_for[id(module)] is not module
        if passed := seen.finished[module]:
            again = module if seen.total[module] > passed else None
            stands_for[id(module)] = PassThrough(passed, again, seen.total[module])
            return True
        if sum(map(visit, module.children())):  # of all of them: `any` would stop at the first
            return True
        stands_for[id(module)] = module
        return False

    visit(model)
    return copy.deepcopy(model, stands_for)


def _check(layer: str, rest: nn.Module, seen: _Seen) -> list[Tensor]:
    """Whether the rest, given the cut's output, does what the network did behind it.

    Not only the logits are compared but the inputs of all modules: a head of zeros would make any logits equal.

    Returns:
        the parameters of the rest that its answers depend on.

    Raises:
        UserError: if it does anything else.
    """
    for module in rest.modules():
        if isinstance(module, PassThrough) and module.again is not None and module.again.state_dict():
            raise UserError(f"--freeze {layer}: the network uses a module with weights before it and after it")
    with torch.enable_grad():
        logits = _compare(layer, rest, seen)
    wanted = [value for value in rest.parameters() if value.requires_grad]
    if not wanted or not logits.requires_grad:
        raise UserError(f"--freeze {layer}: nothing behind it can be trained")
    with torch.enable_grad():
        gradients = torch.autograd.grad(logits.sum(), wanted, allow_unused=True)
    unused = {id(value) for value, gradient in zip(wanted, gradients, strict=True) if gradient is None}
    return [value for value in rest.parameters() if id(value) not in unused]


def _compare(layer: str, rest: nn.Module, seen: _Seen) -> Tensor:
    """Run the rest on the cut's output: its logits. Raises UserError unless it does what was seen behind the cut."""
    again: Inputs = []
    with _hooked(set(rest.modules()), lambda *of: _add_input(again, *of), lambda *_: None):
        try:
            logits = rest(seen.output.clone())
        except Exception as error:  # of operations that get another shape than in the network
            raise _needs_more(layer) from error
    found = [(module, value) for module, value in again if not isinstance(module, PassThrough)]
    same_modules = [module for module, _ in found] == [module for module, _ in seen.after]
    if not same_modules or not _close(logits, seen.logits):
        raise _needs_more(layer)
    if not all(_close(value, before) for (_, value), (_, before) in zip(found, seen.after, strict=True)):
        raise _needs_more(layer)
    return logits


def _needs_more(layer: str) -> UserError:
    return UserError(f"--freeze {layer}: what follows it needs more than its output: choose a later layer")


@torch.enable_grad()
def _check_gradients(model: nn.Module, layer: str, used: list[Tensor], images: Tensor) -> None:
    """Whether the network uses the weights of the rest behind the cut only, and no others there.

    Raises:
        UserError: if not: training them would change the frozen part, or what is in front of it counts as behind it.
    """
    outputs: list[Tensor] = []

    def cut_off(output: Tensor) -> Tensor:
        outputs.append(output)
        return output.detach().clone()

    if layer == TRUNK:
        head = cast(nn.Module, head_of(model))
        handle = head.register_forward_pre_hook(lambda _, given: (cut_off(given[0]), *given[1:]))
    else:
        handle = model.get_submodule(layer).register_forward_hook(lambda _module, _given, output: cut_off(output))
    try:
        logits = model(images)
    finally:
        handle.remove()
    weights = {id(value) for value in used if value.requires_grad}
    if _weights_of(model, logits) != weights:
        raise _needs_more(layer)
    if _weights_of(model, outputs[0]) & weights:
        raise UserError(f"--freeze {layer}: the network uses weights before it and after it")


def _weights_of(model: nn.Module, output: Tensor) -> set[int]:
    """The identities of the parameters that an output depends on."""
    wanted = [value for value in model.parameters() if value.requires_grad]
    if not wanted or not output.requires_grad:
        return set()
    gradients = torch.autograd.grad(output.sum(), wanted, allow_unused=True)
    return {id(value) for value, gradient in zip(wanted, gradients, strict=True) if gradient is not None}


def _check_in_training(
    model: nn.Module, layer: str, rest: nn.Module, images: Tensor, finished: Counter[nn.Module]
) -> None:
    """Whether the rest does what the network did behind the cut also in training, the frozen part in eval mode.

    Args:
        model: the network, whose modes are changed; its running statistics stay as they are.
        layer: the cut.
        rest: what follows it.
        images: on which to run.
        finished: the modules that ran in front of the cut.

    Raises:
        UserError: if it does anything else: dropout that is no module of its own is nothing in eval mode.
    """

    def begin() -> None:
        rest.train()  # also the modules that have run in front already
        torch.manual_seed(0)

    model.train()
    for module in finished:
        module.eval()
    devices = [images.device] if images.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices), torch.no_grad():
            with _buffers_kept(model):
                seen = _watch(model, layer, model.get_submodule(layer), images, begin)
            with _buffers_kept(model):
                begin()
                _compare(layer, rest, seen)
    finally:
        rest.eval()


@contextmanager
def _buffers_kept(model: nn.Module) -> Iterator[None]:
    """After the block the network's buffers have the values from before it."""
    before = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in before:
                buffer.copy_(value)


def _close(found: Any, expected: Any) -> bool:
    if not isinstance(found, Tensor) or not isinstance(expected, Tensor) or found.shape != expected.shape:
        return False
    scale = float(expected.abs().max()) if expected.numel() else 0.0
    return bool((found.detach().float() - expected.float()).abs().le(TOLERANCE * scale).all())
