"""Dynamic-K Activation: a linear layer in which each output is the sum of its K largest votes."""

import math
from numbers import Integral

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

# Votes held at one time while selecting, in elements: 1 MiB of float32, which stays in a core's second-level cache.
BLOCK_ELEMENTS = 1 << 18


class DynamicKLinear(nn.Linear):
    """`nn.Linear` whose outputs sum only the K largest of their signed votes.

    For input x (..., N), weight W (C, N) and bias b (C):

        vote[..., c, n] = x[..., n] * W[c, n]
        out[..., c]     = sum of the K largest vote[..., c, :] + b[c]

    Gradients flow through the K chosen votes only. Exactly K votes are chosen, also among equal ones (any of them,
    but the same ones forward and backward). topk = in_features is `nn.Linear`. Half-precision inputs, also those that
    autocast makes, vote in float32, because rounding would decide the choice; under autocast the output is float32.

    Source: Sun, Ravi, Singh, "Adaptive Activation Thresholding", ICCV 2019, Dynamic-K Activation.

    Args:
        in_features: N, size of each input sample.
        out_features: C, size of each output sample.
        bias: whether to add a learnable b.
        topk: K, the number of votes that each output keeps, 1 <= K <= N.

    Raises:
        ValueError: if topk is not an integer in 1..in_features, or the input's last dimension is not N.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True, topk: int = 5, device=None, dtype=None):
        if isinstance(topk, bool) or not isinstance(topk, Integral) or not 1 <= topk <= in_features:
            raise ValueError(f"topk must be an integer from 1 to in_features = {in_features}, not {topk!r}")
        super().__init__(in_features, out_features, bias, device=device, dtype=dtype)
        self.topk = int(topk)

    def forward(self, input: Tensor) -> Tensor:
        """Map (..., N) to (..., C)."""
        if input.dim() == 0 or input.shape[-1] != self.in_features:
            raise ValueError(f"expected an input of shape (..., {self.in_features}), got {tuple(input.shape)}")
        if self.topk == self.in_features:
            return F.linear(input, self.weight, self.bias)
        out_dtype = torch.promote_types(input.dtype, self.weight.dtype)
        vote_dtype = torch.promote_types(out_dtype, torch.float32)
        batch = input.shape[:-1]
        x = input.reshape(math.prod(batch), self.in_features).to(vote_dtype)  # (B, N)
        out = _TopVotesSum.apply(x, self.weight.to(vote_dtype), self.topk)  # (B, C)
        if self.bias is not None:
            out = out + self.bias
        return out.to(out_dtype).reshape(*batch, self.out_features)  # (..., C)

    def extra_repr(self) -> str:
        """Show K beside what `nn.Linear` shows."""
        return f"{super().extra_repr()}, topk={self.topk}"


class _TopVotesSum(torch.autograd.Function):
    """x (B, N), weight (C, N) -> (B, C): per output the sum of the K largest votes x[b] * weight[c].

    The (B, C, N) votes exist only a block of outputs at a time; the backward pass needs the chosen indices, (B, C, K).
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, topk: int) -> Tensor:
        sums, chosen = [], []
        for rows in weight.split(_block(x.shape[0] * x.shape[1])):  # (c, N)
            votes = x[:, None, :] * rows  # (B, c, N)
            values, indices = votes.topk(topk, dim=2, sorted=False)  # (B, c, K)
            sums.append(values.sum(2))
            chosen.append(indices.to(torch.int32))
        ctx.save_for_backward(x, weight, torch.cat(chosen, 1))
        return torch.cat(sums, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        x, weight, chosen = ctx.saved_tensors  # (B, N), (C, N), (B, C, K)
        need_x, need_weight, _ = ctx.needs_input_grad
        grad_x = torch.zeros_like(x) if need_x else None
        grad_weight = torch.zeros_like(weight) if need_weight else None
        block = _block(x.shape[0] * chosen.shape[2])
        for start in range(0, weight.shape[0], block):
            rows = slice(start, start + block)
            index = chosen[:, rows].long()  # (B, c, K)
            g = grad[:, rows, None]  # (B, c, 1)
            if need_x:
                w = weight[rows].expand(len(x), -1, -1).gather(2, index)  # (B, c, K)
                grad_x.scatter_add_(1, index.flatten(1), (g * w).flatten(1))
            if need_weight:
                chosen_x = x.gather(1, index.flatten(1)).view_as(index)  # (B, c, K)
                by_row = (g * chosen_x).transpose(0, 1).flatten(1)  # (c, B * K)
                grad_weight[rows].scatter_add_(1, index.transpose(0, 1).flatten(1), by_row)
        return grad_x, grad_weight, None


def _block(elements_per_output: int) -> int:
    """How many outputs are handled at one time."""
    return max(1, BLOCK_ELEMENTS // max(1, elements_per_output))
