"""The feature map whose spatial mean becomes the head's input: found by running the network, for any network.

A unit's heat map is its channel of that map. Three things are told apart, by numbers and not by names:

- the head's input is the mean of a layer's output, or of its positive part (DenseNet applies ReLU outside of a layer);
- something lies between the mean and the head that mixes channels, but not positions: ConvNeXt's LayerNorm,
  MobileNetV3's hidden layer. A unit's map is then what these layers make of each position alone;
- neither (VGG's hidden layers, the class token of a ViT): there is no map.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.heads import head_module_name
from models.probe import Call, calls_of, evaluating, fitting_noise, noise

_TOLERANCE = 1e-4  # of means that are added in another order, relative to the largest


@dataclass(frozen=True)
class FeatureMap:
    """Where the head's input comes from.

    Attributes:
        layer: dotted name of the layer whose output is averaged; None if there is no map.
        channels_last: its output is (B, h, w, M), not (B, M, h, w).
        relu: its positive part is averaged.
        between: names of the layers between the mean and the head; empty if the mean is the head's input.
        flat_from: place in `between` from which on these layers take vectors (B, M), not (B, M, 1, 1).
        about: all this in a sentence, for people.
    """

    layer: str | None
    channels_last: bool = False
    relu: bool = False
    between: tuple[str, ...] = ()
    flat_from: int = 0
    about: str = ""

    @property
    def direct(self) -> bool:
        """Whether a unit's pooled feature is the mean of its map."""
        return self.layer is not None and not self.between

    def maps(self, model: nn.Module, output: Tensor) -> Tensor:
        """The maps of all units.

        Args:
            model: the network.
            output: of `layer`, (B, M, h, w) or (B, h, w, M).

        Returns:
            (B, N, h, w)
        """
        features = _channels_first(output, self.channels_last, self.relu)  # (B, M, h, w)
        if not self.between:
            return features
        batch, _, height, width = features.shape
        positions = features.permute(0, 2, 3, 1).flatten(0, 2)[:, :, None, None]  # (B * h * w, M, 1, 1)
        layers = [model.get_submodule(name) for name in self.between]
        units = _through(layers, self.flat_from, positions)  # (B * h * w, N)
        return units.view(batch, height, width, -1).permute(0, 3, 1, 2)  # (B, N, h, w)


LARGER = 224  # pixels
NO_MAP = "no heat maps: the head's input is not the spatial mean of a layer's output"


def find_feature_map(model: nn.Module) -> FeatureMap:
    """The map behind a network's head, the last one to run and the outermost layer that puts it out.

    Args:
        model: images (B, 3, H, W) -> scores (B, C), with a head of `models.heads`.

    Raises:
        ValueError: if it has no head, or takes no image.
    """
    head = head_module_name(model)
    images, _ = fitting_noise(model)
    # Of small images a map may have a single position, which is its own mean: then larger ones are tried.
    for side in dict.fromkeys((images.shape[-1], max(images.shape[-1], LARGER))):
        calls = calls_of(model, noise(model, side))
        place = max((place for place, call in enumerate(calls) if call.name == head), default=None)
        if place is None:
            raise ValueError(f"the network does not call its head, {head}")
        before, pooled = calls[:place], calls[place].inputs
        if pooled is None or pooled.dim() != 2:
            break
        with evaluating(model):
            found = _direct(before, pooled) or _indirect(before, pooled)
        if found:
            return found
    return FeatureMap(None, about=NO_MAP)


def _maps_of(call: Call) -> list[tuple[bool, Tensor]]:
    """A module's output read as a map (B, M, h, w) of more than one position: channels first, then channels last."""
    output = call.output
    if output is None or output.dim() != 4 or not output.is_floating_point() or isinstance(call.module, nn.Identity):
        return []
    read = [(last, _channels_first(output, last, False)) for last in (False, True)]
    return [(last, features) for last, features in read if features.shape[2] * features.shape[3] > 1]


def _last_runs(calls: Sequence[Call]) -> list[Call]:
    """The last run of each module, the last one first: a hook keeps what a module put out last."""
    runs: dict[str, Call] = {}
    for call in reversed(calls):
        runs.setdefault(call.name, call)
    return list(runs.values())


def _direct(calls: Sequence[Call], pooled: Tensor) -> FeatureMap | None:
    """The last map whose mean, or the mean of whose positive part, is the head's input (B, N)."""
    for relu in (False, True):
        for call in _last_runs(calls):
            for last, features in _maps_of(call):
                if features.shape[1] != pooled.shape[1]:
                    continue
                if _equal((features.relu() if relu else features).mean((2, 3)), pooled):
                    part = "the positive part of " if relu else ""
                    about = f"a unit's map is {part}its channel of {call.name}, whose mean is the head's input"
                    return FeatureMap(call.name, last, relu, about=about)
    return None


def _indirect(calls: Sequence[Call], pooled: Tensor) -> FeatureMap | None:
    """The last map from whose mean the layers that follow make the head's input (B, N)."""
    for call in _last_runs(calls):
        after = [later for later in calls[calls.index(call) + 1 :] if not any(later.module.children())]
        flat_from = sum(later.inputs is None or later.inputs.dim() != 2 for later in after)
        for last, features in _maps_of(call):
            try:
                made = _through([later.module for later in after], flat_from, features.mean((2, 3), keepdim=True))
            except Exception:  # these layers do not take what is no map: it is not this one
                continue
            if made.shape == pooled.shape and _equal(made, pooled):
                kinds = ", ".join(type(later.module).__name__ for later in after if _does_something(later.module))
                about = (
                    f"between the mean of {call.name} and the head lies {kinds}: a unit's map is what this makes of "
                    "each position alone"
                )
                return FeatureMap(call.name, last, False, tuple(later.name for later in after), flat_from, about)
    return None


def _does_something(module: nn.Module) -> bool:
    """Whether a layer changes a vector in eval mode."""
    nothing = (nn.Identity, nn.Dropout, nn.Flatten, nn.AdaptiveAvgPool2d, nn.AvgPool2d)
    return not isinstance(module, nothing)


def _through(layers: Sequence[nn.Module], flat_from: int, x: Tensor) -> Tensor:
    """Vectors (B, M, 1, 1) through layers, of which those from `flat_from` on take them flat: (B, N)."""
    for place, layer in enumerate(layers):
        x = layer(x.flatten(1) if place >= flat_from else x)
    return x.flatten(1)


def _channels_first(output: Tensor, channels_last: bool, relu: bool) -> Tensor:
    features = output.permute(0, 3, 1, 2) if channels_last else output
    return F.relu(features) if relu else features


def _equal(found: Tensor, expected: Tensor) -> bool:
    scale = float(expected.abs().max())
    return scale > 0 and torch.allclose(found, expected, rtol=0, atol=_TOLERANCE * scale)
