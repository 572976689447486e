"""Dynamic-K Activation: a linear layer in which each output is the sum of its K largest votes."""

import math
from numbers import Integral

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.selection import sum_of_largest


class DynamicKLinear(nn.Linear):
    """`nn.Linear` whose outputs sum only the K largest of their signed votes.

    For input x (..., N), weight W (C, N) and bias b (C):

        vote[..., c, n] = x[..., n] * W[c, n]
        out[..., c]     = sum of the K largest vote[..., c, :] + b[c]

    Gradients flow through the K chosen votes only. Exactly K votes are chosen, also among equal ones (any of them, but
    the same ones forward and backward). With topk = in_features it is `nn.Linear`. Half-precision inputs, also those
    made by autocast, vote in float32, since rounding would decide the choice; under autocast the output is float32.

    Source: Sun, Ravi, Singh, "Adaptive Activation Thresholding", ICCV 2019, Dynamic-K Activation.

    Args:
        in_features: N, size of each input sample.
        out_features: C, size of each output sample.
        bias: whether to add a learnable b.
        topk: K, the number of votes that each output keeps, 1 <= K <= N.
        device: where the parameters are created.
        dtype: type of the parameters.

    Raises:
        ValueError: if topk is not an integer in 1..in_features, or the input's last dimension is not N.

    Example:
        >>> layer = DynamicKLinear(3, 1, topk=2)
        >>> _ = layer.load_state_dict({"weight": torch.tensor([[1.0, -2.0, 3.0]]), "bias": torch.tensor([0.5])})
        >>> layer(torch.tensor([1.0, 1.0, 1.0])).item()  # votes 1, -2, 3: the two largest and the bias
        4.5
    """

    topk: int

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        topk: int = 5,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ):
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
        weight = self.weight.to(vote_dtype)  # (C, N)
        out = sum_of_largest(x, weight, self.topk)  # (B, C)
        if self.bias is not None:
            out = out + self.bias
        return out.to(out_dtype).reshape(*batch, self.out_features)  # (..., C)

    def votes(self, pooled: Tensor, classes: Tensor) -> Tensor:
        """Votes for one class per example: pooled (V, N), classes (V,) -> (V, N)."""
        return pooled * self.weight.detach()[classes]

    def chosen(self, pooled: Tensor, classes: Tensor) -> Tensor:
        """Which votes enter the score of each example's class: (V, N) bool, K per row; equal votes in unit order."""
        order = self.votes(pooled, classes).sort(descending=True, stable=True).indices  # (V, N)
        return torch.zeros_like(order, dtype=torch.bool).scatter_(1, order[:, : self.topk], True)

    def extra_repr(self) -> str:
        """Show K beside what `nn.Linear` shows."""
        return f"{super().extra_repr()}, topk={self.topk}"
