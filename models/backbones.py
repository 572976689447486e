"""Networks with any head: the paper's ResNets, any torchvision or timm classifier, and whatever a function returns.

A head takes the place of the last `nn.Linear`, which is found by running the network: there is no table of names. The
ResNets are built as in the paper's snapshots, with a head named `rfc`; in every other network the head keeps the name
of the layer that it replaces.
"""

import importlib
import inspect
from collections.abc import Callable
from numbers import Integral
from typing import Any, cast, get_type_hints

import torch
import torchvision
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized
from torchvision.models.resnet import ResNet

from models.dynamic_k import DynamicKLinear
from models.heads import HEADS, DenseHead, Head, adopt, fill
from models.probe import Call, NoInputFits, calls_of, evaluating, fitting_noise
from models.resnets import TRUNKS, DynamicKResNet, width_of
from util.cli import Terminated, UserError, describe

DKA_SUFFIX = "_fc_ma"
TIMM = "timm:"
# Networks of other packages that need more than a call: the function that builds each.
FACTORIES = {"efficientnet_lite0": "models.efficientnet_lite:efficientnet_lite0"}
ACCEPTED = (
    f"{', '.join(TRUNKS)}, {', '.join(FACTORIES)}, another classifier of torchvision, timm:<model> or "
    f"package.module:factory, with {DKA_SUFFIX} for a DKA head"
)


def model_names() -> list[str]:
    """The paper's architectures: each ResNet with a dense head, then each with a DKA head."""
    return [*TRUNKS, *(trunk + DKA_SUFFIX for trunk in TRUNKS)]


def has_dynamic_k(arch: str) -> bool:
    """Whether an architecture's head chooses K votes: `<name>_fc_ma`."""
    return arch.endswith(DKA_SUFFIX)


def is_code(arch: str) -> bool:
    """Whether an architecture names a function that is imported and called: `package.module:factory`."""
    return ":" in arch and not arch.startswith(TIMM)


def check_arch(arch: str, what: str | None = None) -> None:
    """Raises UserError, naming what is accepted, for an architecture that is not known, or not installed.

    Of `package.module:factory` only the form is checked: nothing is imported. `what` is how messages name it.
    """
    name = arch.removesuffix(DKA_SUFFIX)
    if name.startswith(TIMM):
        known = _timm().is_model(name.removeprefix(TIMM))
    elif ":" in name:
        module, _, factory = name.partition(":")
        known = all(part.isidentifier() for part in [*module.split("."), *factory.split(".")])
    else:
        known = name in TRUNKS or name in FACTORIES or name in torchvision_names()
    if not known:
        raise UserError(f"{what or f'architecture {arch!r}'}: expected one of {ACCEPTED}")


def torchvision_names() -> list[str]:
    """The names of torchvision's classifiers."""
    return torchvision.models.list_models(module=torchvision.models)


def build_model(
    arch: str, num_classes: int, topk: int | None = None, head: Callable[..., nn.Linear] | None = None
) -> nn.Module:
    """A network with a head: images (B, 3, H, W), normalised as ImageNet's -> scores (B, num_classes).

    Weights are freshly initialised, but for those that a factory brings. Where a factory's own classifier has
    `num_classes` outputs, the head starts with its weights.

    Args:
        arch: as `ACCEPTED` says.
        num_classes: C, at least 1.
        topk: K, from 1 to the number of pooled features (512 of resnet18); unused by dense heads.
        head: a class of `models.heads`, or anything that is called as they are; None: `DenseHead` for `<name>`,
            `DynamicKLinear` for `<name>_fc_ma`.

    Raises:
        UserError: for an unknown arch, topk or num_classes out of range, or a network that cannot be built or has no
            linear layer that puts out its scores.
    """
    check_arch(arch)
    if num_classes < 1:
        raise UserError(f"number of classes {num_classes}: expected at least 1")
    name = arch.removesuffix(DKA_SUFFIX)
    head = cast(Callable[..., nn.Linear], head or HEADS[own_head(arch)])
    if name not in TRUNKS:
        try:
            return with_head(build_backbone(name), head, topk, num_classes)
        except UserError:
            raise
        except ValueError as error:
            raise UserError(f"{arch}: {error}") from error
    trunk = TRUNKS[name]
    _check_topk(arch, head, topk, width_of(trunk))
    if has_dynamic_k(arch):
        return DynamicKResNet(num_classes, cast(int, topk), head, **trunk)
    model = ResNet(**trunk, num_classes=num_classes)
    model.fc = adopt(model.fc) if head is DenseHead else head(width_of(trunk), num_classes, topk=topk)
    return model


def with_dynamic_k(model: nn.Module, topk: int, num_classes: int | None = None) -> nn.Module:
    """Put a `DynamicKLinear` in place of the last `nn.Linear` of a network.

    Args:
        model: images (B, 3, H, W) -> scores (B, C); changed in place. It is run once or more, in eval mode on noise, to
            find the layer.
        topk: K, 1..number of the layer's inputs.
        num_classes: C of the new layer, at least 1; None or the layer's own number keep its weights, and whether these
            are trained.

    Returns:
        the network; a bare `nn.Linear` is a network too, and gives the new layer.

    Raises:
        ValueError: if no linear layer puts out the network's scores, or topk is out of range.
    """
    return with_head(model, DynamicKLinear, topk, num_classes)


def with_head(
    model: nn.Module, head: Callable[..., nn.Linear], topk: int | None = None, num_classes: int | None = None
) -> nn.Module:
    """Put a head in place of the last `nn.Linear` of a network; arguments and errors as of `with_dynamic_k`."""
    name = last_linear(model)
    linear = cast(nn.Linear, model.get_submodule(name))
    if num_classes is not None and (not _is_whole(num_classes) or num_classes < 1):
        raise ValueError(f"num_classes {num_classes!r}: expected a whole number from 1")
    _check_topk("the network", head, topk, linear.in_features)
    placed = _head_for(linear, head, None if head is DenseHead else topk, num_classes or linear.out_features)
    if not name:
        return placed
    _replace(model, linear, placed)
    try:
        found: str | None = last_linear(model)
    except ValueError:
        found = None
    if found != name:
        _replace(model, placed, linear)
        raise ValueError(f"the network keeps its last linear layer, {name}, elsewhere too: it cannot be replaced")
    return model


def _replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put a module in place of another one, under all names that it has."""
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if module is old:
            model.set_submodule(name, new)


def _head_for(linear: nn.Linear, head: Callable[..., nn.Linear], topk: int | None, num_classes: int) -> nn.Linear:
    """A head that takes a layer's place: with its weights, if it has as many classes."""
    if not isinstance(linear.weight, nn.Parameter) or is_parametrized(linear):
        raise ValueError("the weight of the last linear layer is computed from others: make it a plain parameter first")
    same = num_classes == linear.out_features
    if same and head in (DenseHead, DynamicKLinear):
        return adopt(linear, head, topk)
    placed = head(linear.in_features, num_classes, topk=topk).to(linear.weight.device, linear.weight.dtype)
    return fill(placed, linear.weight, linear.bias) if same else placed


def _check_topk(arch: str, head: Callable[..., nn.Linear], topk: int | None, width: int) -> None:
    if head is not DenseHead and (not _is_whole(topk) or not 1 <= cast(int, topk) <= width):
        raise UserError(f"K = {topk!r}: {arch} has {width} pooled features, expected 1 <= K <= {width}")


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def last_linear(model: nn.Module) -> str:
    """The dotted name of the `nn.Linear` whose output is the network's.

    Raises:
        ValueError: if there is none, or the network does not run.
    """
    if isinstance(model, nn.Linear):
        return ""
    try:
        images, _ = fitting_noise(model)
    except NoInputFits as error:
        raise ValueError(str(error)) from error
    call = next((call for call in reversed(calls_of(model, images)) if isinstance(call.module, nn.Linear)), None)
    if call is None:
        raise ValueError("the network has no nn.Linear, in whose place a head could be put")
    if not _is_final(model, call, images):
        raise ValueError(
            f"the network changes the output of its last linear layer, {call.name}: a head's must be final"
        )
    return call.name


def _is_final(model: nn.Module, call: Call, images: Tensor) -> bool:
    """Whether a network returns what a layer puts out: seen by other scores in their place, as its own may be zeros."""
    if call.output is None:
        return False
    scores = torch.randn(call.output.shape, generator=torch.Generator("cpu").manual_seed(1), device="cpu")
    scores = scores.to(call.output.device, call.output.dtype)
    handle = call.module.register_forward_hook(lambda *_: scores)
    try:
        with evaluating(model):
            output = model(images)
    finally:
        handle.remove()
    if not isinstance(output, Tensor) or output.shape != scores.shape:
        return False
    return output.is_meta or bool(output.equal(scores))


# --- backbones of others ------------------------------------------------------------------------------------------


def build_backbone(name: str, num_classes: int | None = None, what: str = "architecture") -> nn.Module:
    """A network of torchvision, timm or a factory, as it comes.

    Args:
        name: a torchvision name, a key of `FACTORIES`, `timm:<model>` or `package.module:factory`.
        num_classes: passed on; None: its own number.
        what: the name is, for messages.

    Raises:
        UserError: for an unknown name, and for whatever a factory raises or returns that is no network.
    """
    what = f"{what} {name!r}"
    check_arch(name, what)
    options = {} if num_classes is None else {"num_classes": num_classes}
    name = FACTORIES.get(name, name)
    if name.startswith(TIMM):
        timm = _timm()
        return _called(what, lambda: timm.create_model(name.removeprefix(TIMM), **options))
    if ":" in name:
        model = _called(what, lambda: _factory(name)(**options))
        _check_network(what, model)
        return model
    builder = torchvision.models.get_model_builder(name)
    network = get_type_hints(builder).get("return")
    if network is not None and "aux_logits" in inspect.signature(network.__init__).parameters:
        options |= {"aux_logits": False, "init_weights": True}  # in training the others return several scores
    return _called(what, lambda: builder(weights=None, **options))


def _factory(name: str) -> Callable[..., nn.Module]:
    module, _, path = name.partition(":")
    found: Any = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    return found


def _timm() -> Any:
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise UserError("timm:<model>: the package timm is not installed; `pip install timm` brings it") from error


def _called(what: str, factory: Callable[[], nn.Module]) -> nn.Module:
    """What a factory returns. Raises UserError for whatever it raises, an end of the process included."""
    try:
        return factory()
    except (Terminated, UserError):
        raise
    except (ImportError, AttributeError, ValueError) as error:  # ValueError: no name before the colon
        raise UserError(f"{what}: {str(error).strip() or type(error).__name__}") from error
    except (Exception, SystemExit) as error:
        raise UserError(f"{what}: it cannot be built ({describe(error)})") from error


def _check_network(what: str, model: object) -> None:
    """Raise UserError for what a factory returned, if it is no network with weights."""
    if not isinstance(model, nn.Module):
        raise UserError(f"{what}: it returned {type(model).__name__}, expected a torch.nn.Module")
    weights = [*model.parameters(), *model.buffers()]
    if not weights:
        raise UserError(f"{what}: {type(model).__name__} has no weights, expected a network")
    if any(is_lazy(weight) or weight.is_meta for weight in weights):
        raise UserError(f"{what}: it has weights without values, expected an initialised network")


# --- names of heads -----------------------------------------------------------------------------------------------


def head_name(head: Head, arch: str) -> str | None:
    """The name in `models.heads.HEADS` of a head that is not the one an arch has by itself; None for that one."""
    name = kind_of(head)
    return name if name in HEADS and name != own_head(arch) else None


def own_head(arch: str) -> str:
    """The name in `models.heads.HEADS` of the head that an architecture has by itself."""
    return "dynamic_k" if has_dynamic_k(arch) else "dense"


def kind_of(head: Head) -> str:
    """The name in `models.heads.HEADS` of a head; of one that has none there, the name of its class."""
    names = {kind: name for name, kind in HEADS.items()}
    return names.get(cast(type[nn.Linear], type(head)), type(head).__name__)
