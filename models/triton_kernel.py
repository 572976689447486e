"""Choosing the K largest votes on a GPU, in Triton. Import it only where Triton is installed.

Nothing but the chosen indices is stored: each of K passes computes all votes again and takes the largest that is below
the one before. It was tested in Triton's interpreter only, and has never run on a GPU.
"""

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor

CLASSES, INPUTS = 16, 64  # of a block


@triton.jit
def _choose(x, weight, chosen, C, N, K, CLASSES: tl.constexpr, INPUTS: tl.constexpr):  # type: ignore[no-untyped-def]
    b = tl.program_id(0)
    c = tl.program_id(1) * CLASSES + tl.arange(0, CLASSES)
    last = tl.full((CLASSES,), 0x7FFFFFFFFFFFFFFF, tl.int64)
    for k in range(K):
        best = tl.full((CLASSES,), -0x7FFFFFFFFFFFFFFF, tl.int64)
        for first in range(0, N, INPUTS):
            n = first + tl.arange(0, INPUTS)
            inside = (c < C)[:, None] & (n < N)[None, :]
            own_x = tl.load(x + b.to(tl.int64) * N + n, mask=n < N, other=0.0)
            own_weight = tl.load(weight + c.to(tl.int64)[:, None] * N + n[None, :], mask=inside, other=0.0)
            votes = own_x[None, :] * own_weight  # (CLASSES, INPUTS)
            bits = votes.to(tl.int32, bitcast=True)
            value = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)  # integers in the order of the floats
            value = tl.where(votes == 0, 0, value)  # -0 equals 0
            value = tl.where(votes != votes, 0x7FFFFFFF, value)  # NaN is the largest
            # The position makes all keys differ; among equal votes the first input comes first.
            key = value.to(tl.int64) * 0x100000000 + (0x7FFFFFFF - n)[None, :]
            key = tl.where(inside & (key < last[:, None]), key, -0x7FFFFFFFFFFFFFFF)
            best = tl.maximum(best, tl.max(key, 1))
        tl.store(chosen + (b.to(tl.int64) * K + k) * C + c, 0x7FFFFFFF - (best & 0xFFFFFFFF), mask=c < C)
        last = best


def choose_votes(x: Tensor, weight: Tensor, topk: int) -> Tensor:
    """Like `models.selection.choose_votes`, in float32: x (B, N), weight (C, N) -> (B, K, C).

    In descending order, the first of equal votes first; NaN is the largest.
    """
    x, weight = x.contiguous(), weight.contiguous()
    (batch, inputs), classes = x.shape, len(weight)
    chosen = torch.empty(batch, topk, classes, dtype=torch.long, device=x.device)
    if batch:
        grid = (batch, triton.cdiv(classes, CLASSES))
        with torch.cuda.device_of(x):  # Triton launches on the current device
            _choose[grid](x, weight, chosen, classes, inputs, topk, CLASSES=CLASSES, INPUTS=INPUTS)
    return chosen
