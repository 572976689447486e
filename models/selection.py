"""Finding each output's K largest votes without storing all of them.

On a CPU a compiled kernel (models/kernel.py) does it, on a GPU one in Triton (models/triton_kernel.py). The search
below, made of PyTorch's operators, serves everything else: no compiler, large K on a GPU, float64.

`x * weight` would be a (B, C, N) tensor. The search takes the maxima of groups of inputs first, which keep (B, C, N/g)
values, then looks for the K largest in the K groups with the largest maxima only: each of these maxima is a vote, so no
other group can hold a vote that belongs to the K largest.
"""

import functools
import logging
import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import forward_ad

from models import kernel, kernel_build

# In elements. Group maxima are taken of as many votes as fit in the second-level caches of two cores; the K largest
# among the candidates, a sequence of small operations whose cost is mostly the calls, of BLOCK_ELEMENTS votes at once.
CACHED_ELEMENTS = 1 << 18
BLOCK_ELEMENTS = 1 << 22
MAX_PASSES = 32  # above this K, one `topk` is faster than K times `amax`
MAX_FUSED = 12  # above this K, compiling the search no longer pays

logger = logging.getLogger(__name__)


def sum_of_largest(x: Tensor, weight: Tensor, topk: int) -> Tensor:
    """Sum of each output's K largest votes: x (B, N), weight (C, N) -> (B, C). Gradients flow through these only."""
    if _is_transformed(x, weight):
        chosen = (x[:, None] * weight).topk(topk, 2)[1].transpose(1, 2)  # stores all votes
        return kernel.sum_of_chosen(x, weight, chosen)
    on_cpu = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.compiler.is_exporting()
    if on_cpu and kernel.available():
        return kernel.sum_of_largest(x, weight, topk)
    with torch.no_grad():
        chosen = choose_votes(x, weight, topk)  # (B, K, C)
    return kernel.sum_of_chosen(x, weight, chosen)


def _is_transformed(*tensors: Tensor) -> bool:
    """Whether torch.func or forward-mode differentiation is at work, for which the searches below have no rules."""
    if torch._C._are_functorch_transforms_active():
        return True
    return not torch.compiler.is_compiling() and any(
        forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors
    )


def choose_votes(x: Tensor, weight: Tensor, topk: int) -> Tensor:
    """Find each output's K largest votes: x (B, N), weight (C, N) -> indices of inputs (B, K, C), all K different."""
    if not torch.compiler.is_compiling():
        choose = _gpu_kernel() if x.is_cuda and x.dtype == torch.float32 and topk <= MAX_PASSES else None
        return (choose or _choose_in_blocks)(x, weight, topk)
    if topk > MAX_FUSED:
        return _choose_in_blocks_op(x, weight, topk)
    # Compiled, the votes are never stored: they fuse into the first maximum. The classes are the inner dimension,
    # along which a reduction over inputs is vectorised.
    return _choose(x[:, :, None], weight.t().contiguous()[None], topk, 1)


@functools.cache
def _gpu_kernel() -> Callable[[Tensor, Tensor, int], Tensor] | None:
    """Triton's kernel, if it runs here; the log says once why not."""
    if kernel_build.disabled():
        return None
    try:
        from models import triton_kernel

        one = torch.ones(1, 2, device="cuda")
        triton_kernel.choose_votes(one, one, 1)
    except Exception as error:  # Triton fails in many ways, and the head can do without it
        logger.warning("DKA head: no Triton kernel (%s); PyTorch's operators choose the votes", error)
        return None
    return triton_kernel.choose_votes


def _choose_in_blocks(x: Tensor, weight: Tensor, topk: int) -> Tensor:
    (batch, inputs), classes = x.shape, len(weight)
    rows = max(1, min(batch, BLOCK_ELEMENTS // inputs))
    columns = max(1, BLOCK_ELEMENTS // (inputs * rows))
    chosen = torch.empty(batch, topk, classes, dtype=torch.long, device=x.device)
    for b in range(0, batch, rows):
        for c in range(0, classes, columns):
            block = _choose(x[b : b + rows, None], weight[None, c : c + columns], topk, 2)  # (b, c, K)
            chosen[b : b + rows, :, c : c + columns] = block.transpose(1, 2)
    return chosen


# Opaque to torch.compile, which would unroll the loops.
_choose_in_blocks_op = torch.library.custom_op("dynamic_k::choose_in_blocks", _choose_in_blocks, mutates_args=())


@_choose_in_blocks_op.register_fake
def _(x: Tensor, weight: Tensor, topk: int) -> Tensor:
    return x.new_empty(len(x), topk, len(weight), dtype=torch.long)


def _choose(x: Tensor, weight: Tensor, topk: int, dim: int) -> Tensor:
    """Positions of the K largest of x * weight along a dimension of N, that dimension becoming K.

    Looks for the K groups of inputs with the largest maxima, then for K inputs in these: the maxima alone are K votes
    that no vote of another group exceeds.

    Args:
        x: (B, N, 1) or (B, 1, N).
        weight: (1, N, C) or (1, C, N).
        topk: K.
        dim: which dimension N is, 1 or 2.
    """
    inputs = x.shape[dim]
    size = _group_size(inputs, topk)
    if size == 1:
        return _largest(x * weight, topk, dim)
    # In terms of dim = 2, every (N/g)-th input is in the same group:
    x = x.unflatten(dim, (size, -1))  # (B, 1, g, N/g)
    weight = weight.unflatten(dim, (size, -1))  # (1, C, g, N/g)
    groups = _largest(_group_maxima(x, weight, dim), topk, dim)  # (B, C, K)
    shape = torch.broadcast_shapes(x.shape, weight.shape)
    index = groups.unsqueeze(dim).expand(*shape[: dim + 1], topk, *shape[dim + 2 :])  # (B, C, g, K)
    candidates = x.expand(shape).gather(dim + 1, index) * weight.expand(shape).gather(dim + 1, index)
    candidates = candidates.flatten(dim, dim + 1)  # (B, C, g * K)
    if torch.compiler.is_compiling():  # stored, not gathered again in each of the passes over them
        candidates = candidates.as_strided(candidates.shape, candidates.stride())
    best = _largest(candidates, topk, dim)
    return best // topk * (inputs // size) + groups.gather(dim, best % topk)


def _group_maxima(x: Tensor, weight: Tensor, dim: int) -> Tensor:
    """Maxima of x * weight along a dimension; a compiler fuses them, otherwise a part is held at a time."""
    if torch.compiler.is_compiling():
        return (x * weight).amax(dim)
    shape = list(torch.broadcast_shapes(x.shape, weight.shape))
    del shape[dim]
    maxima = x.new_empty(shape)
    held = CACHED_ELEMENTS if x.device.type == "cpu" else BLOCK_ELEMENTS  # on a GPU, fewer calls are worth more
    rows = max(1, held // weight.numel())
    for some_x, some_maxima in zip(x.split(rows), maxima.split(rows), strict=True):
        torch.amax(some_x * weight, dim, out=some_maxima)
    return maxima


def _group_size(inputs: int, topk: int) -> int:
    """The divisor g of N that leaves the fewest values to look at: N/g maxima, then K * g votes. 1 is no grouping."""
    best = 1
    for g in range(2, min(64, inputs // topk) + 1):  # a plain loop: TorchDynamo of 2.9 does not know min's key
        if inputs % g == 0 and inputs // g + topk * g < inputs // best + topk * best:
            best = g
    return best


def _largest(values: Tensor, topk: int, dim: int) -> Tensor:
    """Positions of the K largest along a dimension, in any order, that dimension becoming K."""
    if torch.compiler.is_compiling():
        return _largest_fused(values, topk, dim)
    if topk > MAX_PASSES or values.dtype != torch.float32:
        return values.topk(topk, dim, sorted=False)[1]
    # A float64 made of a float32 has 29 bits to spare. With the position in these all keys differ, and one `amax` finds
    # both. Zeros become 2^-250, because the bits of a position alone are a denormal; NaN is the largest, as in `topk`.
    keys = values.double().add_(2.0**-250).nan_to_num_(nan=2.0**300, posinf=2.0**200, neginf=-(2.0**200))
    keys.view(torch.long).bitwise_or_(torch.arange(values.shape[dim], device=values.device))
    chosen = []
    for _ in range(topk):
        position = keys.amax(dim, keepdim=True).view(torch.long).bitwise_and_((1 << 29) - 1)
        keys.scatter_(dim, position, -math.inf)
        chosen.append(position)
    return torch.cat(chosen, dim)


def _largest_fused(values: Tensor, topk: int, dim: int) -> Tensor:
    """`_largest` as reductions that hold nothing but their results, once a compiler has fused them.

    Goes down by value, and among equal values by position. After NaN, which comes first, the rest does not matter.
    """
    position = torch.arange(values.shape[dim], device=values.device, dtype=values.dtype)
    position = position.view([-1] + [1] * (values.dim() - 1 - dim))
    largest = values.amax(dim, keepdim=True)
    is_nan = values != values  # unlike isnan(), this is vectorised
    last = torch.where((values == largest) | is_nan, position, 0).amax(dim, keepdim=True)
    chosen = [last]
    for _ in range(topk - 1):
        left = (values < largest) | ((values == largest) & (position < last))
        largest = torch.where(left, values, -math.inf).amax(dim, keepdim=True)
        last = torch.where(left & (values == largest), position, 0).amax(dim, keepdim=True)
        chosen.append(last)
    return torch.cat(chosen, dim).long()
