"""The DKA head's kernel for CPUs, kernel.cpp, as a PyTorch operator with gradients of any order, in float32."""

import ctypes
from typing import Any

import torch
from torch import Tensor

from models import kernel_build

MAX_NARROW = 1 << 15  # inputs whose positions fit int16


@torch.compiler.assume_constant_result
def available() -> bool:
    """Whether there is a kernel; the first call compiles it, and says in the log why if it cannot."""
    return kernel_build.library() is not None


torch.library.define("dynamic_k::sum_of_largest", "(Tensor x, Tensor weight, int topk) -> (Tensor, Tensor)")
torch.library.define(
    "dynamic_k::sum_of_largest_backward",
    "(Tensor grad, Tensor chosen, Tensor x, Tensor weight, bool needs_x, bool needs_weight) -> (Tensor, Tensor)",
)


def sum_of_largest(x: Tensor, weight: Tensor, topk: int) -> Tensor:
    """Sum of each output's K largest votes, by the kernel: x (B, N), weight (C, N), both float32 -> (B, C).

    Among equal votes the first inputs are chosen; NaN is the largest.

    Raises:
        ValueError: if shapes or types do not fit, or K is not in 1..N.
        RuntimeError: if there is no kernel.
    """
    return torch.ops.dynamic_k.sum_of_largest(x, weight, topk)[0]


def sum_of_chosen(x: Tensor, weight: Tensor, chosen: Tensor) -> Tensor:
    """Sum of chosen votes, by PyTorch: x (B, N), weight (C, N), indices of inputs (B, K, C) int64 -> (B, C)."""
    chosen_x = x.gather(1, chosen.flatten(1)).view(chosen.shape)
    chosen_weight = weight.t().gather(0, chosen.flatten(0, 1)).view(chosen.shape)
    return (chosen_x * chosen_weight).sum(1)


def _empty_chosen(x: Tensor, weight: Tensor, topk: int) -> Tensor:
    dtype = torch.int16 if x.shape[1] <= MAX_NARROW else torch.int32
    return x.new_empty(x.shape[0], topk, weight.shape[0], dtype=dtype)


@torch.library.register_fake("dynamic_k::sum_of_largest")
def _(x: Tensor, weight: Tensor, topk: int) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape[0], weight.shape[0]), _empty_chosen(x, weight, topk)


@torch.library.register_fake("dynamic_k::sum_of_largest_backward")
def _empty_gradients(
    grad: Tensor, chosen: Tensor, x: Tensor, weight: Tensor, needs_x: bool, needs_weight: bool
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape if needs_x else 0), weight.new_empty(weight.shape if needs_weight else 0)


@torch.library.impl("dynamic_k::sum_of_largest", "cpu")
def _forward(x: Tensor, weight: Tensor, topk: int) -> tuple[Tensor, Tensor]:
    """Out (B, C), and the chosen indices (B, K, C), in descending order of votes for K <= 32."""
    x, weight, call = x.contiguous(), weight.contiguous(), _describe(x, weight, topk)
    out, chosen = x.new_empty(len(x), len(weight)), _empty_chosen(x, weight, topk)
    tensors = (tensor.data_ptr() for tensor in (x, weight, out, chosen))
    _library().dka_forward(*tensors, chosen.dtype == torch.int32, call)
    return out, chosen


@torch.library.impl("dynamic_k::sum_of_largest_backward", "cpu")
def _backward(
    grad: Tensor, chosen: Tensor, x: Tensor, weight: Tensor, needs_x: bool, needs_weight: bool
) -> tuple[Tensor, Tensor]:
    """Gradients (B, N) and (C, N), or of no elements where not needed, of the output's (B, C)."""
    grad, chosen, x, weight = (tensor.contiguous() for tensor in (grad, chosen, x, weight))
    call = _describe(x, weight, chosen.shape[1])
    if grad.shape != (len(x), len(weight)) or grad.dtype != torch.float32 or len(chosen) != len(x):
        raise ValueError(f"grad is {tuple(grad.shape)} of {grad.dtype}, chosen {tuple(chosen.shape)}")
    grad_x, grad_weight = _empty_gradients(grad, chosen, x, weight, needs_x, needs_weight)
    _library().dka_backward(
        grad.data_ptr(),
        chosen.data_ptr(),
        chosen.dtype == torch.int32,
        x.data_ptr(),
        weight.data_ptr(),
        grad_x.data_ptr() if needs_x else None,
        grad_weight.data_ptr() if needs_weight else None,
        call,
    )
    return grad_x, grad_weight


def _library() -> ctypes.CDLL:
    found = kernel_build.library()
    if found is None:
        raise RuntimeError("dynamic_k::sum_of_largest needs the compiled kernel, which is not available")
    return found


def _describe(x: Tensor, weight: Tensor, topk: int) -> Any:
    """The call's sizes, as the library takes them. It would read and write anywhere if they did not fit."""
    if x.dim() != 2 or weight.dim() != 2 or x.shape[1] != weight.shape[1] or not 1 <= topk <= x.shape[1]:
        shapes = f"x {tuple(x.shape)}, weight {tuple(weight.shape)}"
        raise ValueError(f"{shapes}, K = {topk}: expected (B, N), (C, N) and K in 1..N")
    if x.dtype != torch.float32 or weight.dtype != torch.float32:
        raise ValueError(f"x is {x.dtype}, weight {weight.dtype}: expected float32")
    threads, pool = torch.get_num_threads(), kernel_build.thread_pool()
    return ctypes.byref(kernel_build.Call(len(x), len(weight), x.shape[1], topk, threads, pool))


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:2], output[1])
    ctx.set_materialize_grads(False)  # or `chosen` gets a gradient of zeros


def _differentiate(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
    x, weight, chosen = ctx.saved_tensors
    needs_x, needs_weight, _ = ctx.needs_input_grad
    gradients = torch.ops.dynamic_k.sum_of_largest_backward(grad, chosen, x, weight, needs_x, needs_weight)
    return gradients[0] if needs_x else None, gradients[1] if needs_weight else None, None


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:4])
    ctx.needs = inputs[4:]


def _differentiate_twice(ctx: Any, of_x: Tensor | None, of_weight: Tensor | None) -> tuple[Tensor | None, ...]:
    """The gradients are linear in grad, x and weight each, so theirs are the same sums with one exchanged."""
    grad, chosen, x, weight = ctx.saved_tensors
    of_x = of_x if of_x is not None and ctx.needs[0] else torch.zeros_like(x)
    of_weight = of_weight if of_weight is not None and ctx.needs[1] else torch.zeros_like(weight)
    chosen_long = chosen.long()
    of_grad = sum_of_chosen(of_x, weight, chosen_long) + sum_of_chosen(x, of_weight, chosen_long)
    again = torch.ops.dynamic_k.sum_of_largest_backward(grad, chosen, of_x, of_weight, True, True)
    return of_grad, None, *again, None, None


torch.library.register_autograd("dynamic_k::sum_of_largest", _differentiate, setup_context=_save)
torch.library.register_autograd(
    "dynamic_k::sum_of_largest_backward", _differentiate_twice, setup_context=_save_backward
)
