"""The forward pass whose maps are measured, compiled by torch.compile where that is wanted and pays."""

import copy
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from models.hooks import layer_outputs
from netdissect.layout import device_of, run_network
from util.cli import Terminated, UserError, describe

COMPILE_SECONDS = 12.0  # assumed by 'auto': a ResNet-18 took 6 to 9 s on two idle cores, deeper networks longer
SAVED = 0.15  # share of the time of a batch that 'auto' expects to save: a little less than was measured
TRIAL = 3  # batches of which 'auto' takes the time, the first of them not counted
TOLERANCE = 1e-4  # largest difference of compiled from eager maps, relative to the largest activation

log = logging.getLogger(__name__)


class Forward:
    """The outputs of some layers for one batch after another.

    Compiled code is of one shape: the one that `expect` announces. Batches of other shapes, such as the last one, go
    through the network as it is. So does everything where compiling fails, there is no C++ compiler for example; one
    line in the log says so. Frozen weights are folded into the code, so they must not change afterwards.

    Args:
        model: in eval mode, on the device that is to compute.
        layers: dotted names.
        compiling: True, False, or 'auto': on the CPU, if enough batches follow to pay for it.

    Attributes:
        device: of the model.
        compiled: whether the maps of any batch came from compiled code.
    """

    def __init__(self, model: nn.Module, layers: Sequence[str], compiling: bool | str = False):
        self._model, self._layers = model, list(layers)
        self.device = device_of(model)
        self.compiled = False
        self._compiling = compiling
        self._shape: tuple[int, ...] | None = None
        self._left = 0  # batches of that shape
        self._eager: list[float] = []  # seconds of batches, measured by 'auto'
        self._code: Callable[[Tensor], dict[str, Any]] | None = None

    def expect(self, shape: tuple[int, ...] | None, batches: int) -> None:
        """Announce how many batches (B, 3, H, W) of the most frequent shape follow; None: no shape occurs."""
        self._shape, self._left = shape, batches
        if self._compiling == "auto" and self.device.type != "cpu":
            self._give_up("not compiled: 'auto' compiles on the CPU only")
        elif self._compiling and shape is None:
            self._give_up("not compiled: no batch is full and of images of one size")

    def __call__(self, images: Tensor, place: str = "") -> dict[str, Any]:
        """The outputs of the layers that run on images (B, 3, H, W). Arguments and errors as of `run_network`."""
        if not self._compiling or tuple(images.shape) != self._shape:
            return self._run(images, place)
        self._left -= 1
        if self._code is not None:
            return self._run_compiled(images, place)
        start = time.perf_counter()
        outputs = self._run(images, place)
        self._eager.append(time.perf_counter() - start)
        if self._compiling == "auto" and len(self._eager) < TRIAL:
            return outputs
        if self._compiling == "auto" and not self._pays():
            return outputs
        return self._compile(images, outputs)

    def _run(self, images: Tensor, place: str) -> dict[str, Any]:
        return run_network(self._model, self._layers, images, place)

    def _pays(self) -> bool:
        """Decide for 'auto', and say why."""
        seconds = min(self._eager[1:])
        saved = expected_saving(self._left, seconds)
        if saved > 0:
            log.info("compiling the network: %d batches follow, of %.2f s each", self._left, seconds)
            return True
        needed = f"compiling would save about {SAVED:.0%} of it and take about {COMPILE_SECONDS:.0f} s"
        self._give_up(f"not compiled: {self._left} batches follow, of {seconds:.2f} s each; {needed}")
        return False

    def _give_up(self, reason: str) -> None:
        """Leave the network as it is from now on."""
        log.info("%s", reason)
        self._compiling, self._code = False, None

    def _compile(self, images: Tensor, outputs: dict[str, Any]) -> dict[str, Any]:
        """Compile for this batch; where that succeeds and the results agree with these, return the compiled ones."""
        start = time.perf_counter()
        try:
            self._code = compiled(self._model, self._layers)
            with freezing():
                found = self._code(images)
        except (Terminated, UserError):
            raise
        except (Exception, SystemExit) as error:  # a compiler, and the code of any network, can fail in any way
            self._give_up(f"the network is not compiled ({describe(error)})")
            return outputs
        difference = max(_difference(found.get(layer), outputs.get(layer)) for layer in self._layers)
        if not difference <= TOLERANCE:
            self._give_up(f"the network is not compiled: its maps would differ by {difference:.1g} of the largest")
            return outputs
        log.info("network compiled in %.1f s for batches %s", time.perf_counter() - start, tuple(images.shape))
        self.compiled = True
        return found

    def _run_compiled(self, images: Tensor, place: str) -> dict[str, Any]:
        code = self._code
        try:
            return code(images) if code else {}
        except (Terminated, UserError):
            raise
        except (Exception, SystemExit) as error:
            self._give_up(f"the compiled network fails ({describe(error)}): the rest is not compiled")
            return self._run(images, place)


def expected_saving(batches: int, seconds: float) -> float:
    """Seconds that compiling is expected to save, less its own, if so many batches of so many seconds each follow."""
    return SAVED * batches * seconds - COMPILE_SECONDS


def common_shape(
    sizes: Sequence[tuple[int, int] | None], batches: Sequence[Sequence[int]], batch_size: int
) -> tuple[tuple[int, int, int, int] | None, int]:
    """The shape (B, 3, H, W) that most batches have, and how many have it; (None, 0) if none is full and of one size.

    Args:
        sizes: (height, width) of each image; None: not known.
        batches: the images of each batch.
        batch_size: B: only full batches count.
    """
    full = [{sizes[image] for image in batch} for batch in batches if len(batch) == batch_size]
    found = Counter(size for own in full if len(own) == 1 for size in own if size is not None)
    if not found:
        return None, 0
    (height, width), count = found.most_common(1)[0]
    return (batch_size, 3, height, width), count


def compiled(model: nn.Module, layers: Sequence[str], **options: Any) -> Callable[[Tensor], dict[str, Any]]:
    """A function of images (B, 3, H, W) that returns the layers' outputs, and is compiled when first called.

    What follows the last of the layers has no effect on them, so the compiler leaves it out.

    Args:
        model: not changed.
        layers: dotted names.
        options: of `torch.compile`.
    """
    # A copy with the same weights keeps its hooks: dynamo traces them once, and does not look whether they changed.
    weights = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    own = copy.deepcopy(model, weights)
    hooks = ExitStack()
    outputs = hooks.enter_context(layer_outputs(own, layers))

    def forward(images: Tensor) -> dict[str, Any]:
        own(images)
        found = dict(outputs)
        outputs.clear()
        return found

    code = torch.compile(forward, fullgraph=True, dynamic=False, **options)

    def call(images: Tensor, hooks: ExitStack = hooks) -> dict[str, Any]:  # the hooks last as long as the code
        return code(images)

    return call


def freezing() -> Any:
    """Within the block, what is compiled takes weights as constants: batch norms become part of the convolutions.

    Passed to `torch.compile` as an option it would come too late: weights are inputs by then.
    """
    from torch._inductor import config  # not needed, and slow to import, where nothing is compiled

    return config.patch(freezing=True)


def _difference(found: Any, expected: Any) -> float:
    """The largest difference of two outputs, relative to the largest expected value; infinite for other shapes."""
    if not isinstance(expected, Tensor):
        return 0.0 if found is None and expected is None else float("inf")
    if not isinstance(found, Tensor) or found.shape != expected.shape or found.dtype != expected.dtype:
        return float("inf")
    if not expected.numel():
        return 0.0
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-30))
