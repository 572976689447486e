"""Heads that the study compares with DKA: static sparsity on frozen features, and variations of DKA itself."""

from collections.abc import Iterator

import numpy as np
import sklearn
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.plan import L1_RATIO
from models.dynamic_k import DynamicKLinear
from models.resnet import head_of


class StraightThrough(DynamicKLinear):
    """DKA whose gradients are those of the dense layer: they reach all votes, not the chosen ones only."""

    def forward(self, input: Tensor) -> Tensor:
        """Map (..., N) to (..., C)."""
        dense = F.linear(input, self.weight, self.bias)
        return dense + (super().forward(input) - dense).detach()


class ByMagnitude(DynamicKLinear):
    """DKA that keeps the K votes of the largest absolute value, whatever their sign."""

    def forward(self, input: Tensor) -> Tensor:
        """Map (B, N) to (B, C). Stores all votes: for small numbers of classes."""
        votes = input.float()[:, None] * self.weight  # (B, C, N)
        chosen = votes.abs().topk(self.topk, 2).indices  # (B, C, K)
        return votes.gather(2, chosen).sum(2) + self.bias


def apply_variant(model: nn.Module, variant: str) -> nn.Module:
    """Change the DKA head of a network to a variant of it; '' and others that concern no head leave it as it is."""
    if variant == "straight-through":
        head_of(model).__class__ = StraightThrough
    elif variant == "by magnitude":
        head_of(model).__class__ = ByMagnitude
    elif variant == "no bias":
        head_of(model).bias.requires_grad_(False).zero_()
    return model


def linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    """A dense layer of given weights (C, N) and bias (C,)."""
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    return layer.eval()


def pruned(head: nn.Linear, k: int) -> nn.Linear:
    """The head with all but each class's k weights of the largest absolute value set to zero (static sparsity)."""
    kept = torch.zeros_like(head.weight).scatter_(1, head.weight.abs().topk(k, 1).indices, 1.0)
    return linear(head.weight * kept, head.bias)


def elastic_nets(pooled: np.ndarray, targets: np.ndarray, strengths: tuple[float, ...]) -> Iterator[nn.Linear]:
    """Sparse linear heads fitted on frozen features, from the sparsest on (Zou and Hastie 2005; solver SAGA).

    Args:
        pooled: (V, N) features of the training pictures; they are standardised for the fit, and the layers take them
            as they are.
        targets: (V,) their classes.
        strengths: values of C, ascending.
    """
    mean, spread = pooled.mean(0), pooled.std(0) + 1e-6
    fit = LogisticRegression(solver="saga", l1_ratio=L1_RATIO, warm_start=True, tol=1e-3, max_iter=200, random_state=0)
    if tuple(map(int, sklearn.__version__.split(".")[:2])) < (1, 8):  # from there on l1_ratio says it alone
        fit.set_params(penalty="elasticnet")
    for strength in strengths:
        fit.set_params(C=strength).fit((pooled - mean) / spread, targets)
        weight = fit.coef_ / spread
        bias = fit.intercept_ - weight @ mean
        yield linear(torch.from_numpy(weight).float(), torch.from_numpy(bias).float())
