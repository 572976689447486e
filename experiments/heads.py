"""Heads which the studies compare with DKA, behind frozen layers or layers that train along, and their training."""

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import sklearn
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.photo_features import Features
from experiments.plan import L1_RATIO
from models.heads import DenseHead, Head, PrunedHead, StaticHead

BATCH = 256
PATH_STEP, PATH_STEPS, PATH_TOLERANCE = 0.6, 50, 3e-4  # of the elastic net's strength; of its solver
PRUNINGS = 100  # in the whole of a training, evenly spaced, of which those after PRUNED_BY do nothing
PRUNED_BY = 0.5  # share of the training after which the gradual pruning has come down to K


class Recipe(NamedTuple):
    """How a head is trained: largest learning rate of Adam, and passes over the training images."""

    lr: float
    epochs: int


def elastic_nets(pooled: np.ndarray, targets: np.ndarray, strengths: tuple[float, ...]) -> Iterator[DenseHead]:
    """Sparse linear heads fitted on frozen features, the sparsest first (Zou and Hastie 2005; solver SAGA).

    Args:
        pooled: (V, N) features of the training images; they are standardised for the fit, and the heads take them
            as they are.
        targets: (V,) their classes.
        strengths: values of C, ascending.
    """
    mean, spread = pooled.mean(0), pooled.std(0) + 1e-6
    fit = LogisticRegression(solver="saga", l1_ratio=L1_RATIO, warm_start=True, tol=1e-3, max_iter=200, random_state=0)
    if tuple(map(int, sklearn.__version__.split(".")[:2])) < (1, 8):  # later versions infer it from l1_ratio
        fit.set_params(penalty="elasticnet")
    for strength in strengths:
        fit.set_params(C=strength).fit((pooled - mean) / spread, targets)
        weight = fit.coef_ / spread
        bias = fit.intercept_ - weight @ mean
        yield DenseHead.of(torch.from_numpy(weight).float(), torch.from_numpy(bias).float())


def elastic_net_path(pooled: Tensor, targets: Tensor) -> Iterator[DenseHead]:
    """The same sparse heads for many classes, the sparsest first: each strength is PATH_STEP times the one before.

    The objective is that of glm_saga (Wong, Santurkar, Madry 2021) and of scikit-learn: mean cross-entropy on
    standardised features, plus strength * (L1_RATIO * |W|_1 + (1 - L1_RATIO) / 2 * |W|_2^2). Both solvers are too slow
    on a CPU with hundreds of classes, so accelerated proximal gradient descent minimises it, with all images in each
    step (Beck and Teboulle 2009; restarted as by O'Donoghue and Candes 2015).

    Args:
        pooled: (V, N) features of the training images, which the heads take as they are.
        targets: (V,) their classes.
    """
    mean, spread = pooled.mean(0), pooled.std(0).clamp(min=1e-6)
    x = torch.cat([(pooled - mean) / spread, torch.ones(len(pooled), 1)], 1)  # (V, N + 1), the last for b
    wanted = F.one_hot(targets).float()  # (V, C)
    weight = torch.zeros(wanted.shape[1], x.shape[1])
    weight[:, -1] = wanted.mean(0).log()
    strength = ((wanted - wanted.mean(0)).t() @ x[:, :-1]).abs().max().item() / len(x) / L1_RATIO
    curvature = 0.5 * torch.linalg.eigvalsh(x.t() @ x / len(x))[-1].item()
    while True:
        strength *= PATH_STEP
        weight = _minimised(x, wanted, weight, strength, curvature)
        own = weight[:, :-1] / spread
        yield DenseHead.of(own, weight[:, -1] - own @ mean)


@torch.inference_mode()
def _minimised(x: Tensor, wanted: Tensor, weight: Tensor, strength: float, curvature: float) -> Tensor:
    """The weights (C, N + 1) that minimise the objective of `elastic_net_path`, from those at which it begins."""
    ridge = strength * (1 - L1_RATIO)
    size = 1 / (curvature + ridge)
    ahead, momentum = weight, 1.0
    for _ in range(PATH_STEPS):
        slope = ((x @ ahead.t()).softmax(1) - wanted).t() @ x / len(x)  # (C, N + 1)
        slope[:, :-1] += ridge * ahead[:, :-1]
        new = ahead - size * slope
        new[:, :-1] = F.softshrink(new[:, :-1], size * strength * L1_RATIO)
        change = new - weight
        if change.norm() <= PATH_TOLERANCE * new.norm():
            return new
        if ((ahead - new) * change).sum() > 0:
            momentum = 1.0
        following = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
        weight, ahead, momentum = new, new + (momentum - 1) / following * change, following
    return weight


class ElasticNets:
    """The heads of `elastic_net_path`, as far as they were asked for."""

    def __init__(self, pooled: Tensor, targets: Tensor):
        self.path, self.known = elastic_net_path(pooled, targets), list[DenseHead]()

    def with_weights(self, least: float) -> DenseHead:
        """The first head that has so many weights per class in the mean."""
        for head in self.known:
            if weights_per_class(head) >= least:
                return head
        self.known.append(next(self.path))
        return self.with_weights(least)


def weights_per_class(head: Head) -> float:
    """Mean number of weights other than zero."""
    weight = head.kept_weight if isinstance(head, StaticHead) else head.weight
    return (weight != 0).sum(1).double().mean().item()


class TopActivationsHead(nn.Linear):
    """A dense layer that sees only an example's K largest features, the same for all classes.

    Args:
        in_features: N.
        out_features: C.
        bias: whether to add a learnable bias.
        topk: K, features that are kept.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True, topk: int = 5):
        super().__init__(in_features, out_features, bias)
        self.topk = topk

    def kept(self, pooled: Tensor) -> Tensor:
        """Which features of each example are seen: (V, N) bool."""
        return torch.zeros_like(pooled, dtype=torch.bool).scatter_(1, pooled.topk(self.topk, 1).indices, True)

    def forward(self, input: Tensor) -> Tensor:
        """Map (V, N) to (V, C)."""
        return F.linear(input * self.kept(input), self.weight, self.bias)

    def votes(self, pooled: Tensor, classes: Tensor) -> Tensor:
        """Pooled (V, N), classes (V,) -> (V, N); 0 for features that are not seen."""
        return pooled * self.kept(pooled) * self.weight.detach()[classes]

    def chosen(self, pooled: Tensor, classes: Tensor) -> Tensor:
        """The K largest features: (V, N) bool."""
        return self.kept(pooled)


class CompactHead(nn.Module):
    """The K weights per class of a static head, and nothing else: the same scores, trained in a fraction of the time.

    Args:
        static: the head; it is not changed.
    """

    def __init__(self, static: StaticHead):
        super().__init__()
        self.unit = static.mask.nonzero()[:, 1].view(len(static.mask), -1)  # (C, K)
        self.weight = nn.Parameter(static.weight.detach().gather(1, self.unit))  # (C, K)
        self.bias = nn.Parameter(static.bias.detach().clone())
        self.in_features = static.in_features

    def forward(self, input: Tensor) -> Tensor:
        """Map (V, N) to (V, C)."""
        kept = input.index_select(1, self.unit.flatten()).view(len(input), *self.unit.shape)  # (V, C, K)
        return torch.einsum("vck,ck->vc", kept, self.weight) + self.bias

    def expanded(self) -> StaticHead:
        """As a static head, in eval mode."""
        full = torch.zeros(len(self.unit), self.in_features).scatter_(1, self.unit, self.weight.detach())
        return static_head(DenseHead.of(full, self.bias.detach()), self.unit)


def static_head(head: Head, unit: Tensor) -> StaticHead:
    """A head's weights of the units (C, K), as a static head in eval mode."""
    static = StaticHead.freeze(head, unit.shape[1])
    static.mask.zero_().scatter_(1, unit, True)
    return static


def largest_mean_votes(head: Head, pooled: Tensor, targets: Tensor, topk: int) -> Tensor:
    """The K units of each class that have the largest mean votes for it in its own training images: (C, K).

    Args:
        head: N units, C classes.
        pooled: (V, N) features of the training images.
        targets: (V,) their classes.
        topk: K.
    """
    members = F.one_hot(targets, head.out_features).float()  # (V, C)
    means = members.t() @ pooled / members.sum(0)[:, None]  # (C, N)
    return (means * head.weight.detach()).topk(topk, 1).indices


class Tail(nn.Module):
    """What is trained of a network: its head, and the layers in front of it that are not frozen.

    Args:
        layers: maps what the frozen part puts out (V, ...) to pooled features (V, N); `nn.Identity()` if all but the
            head is frozen. They are copied.
        head: maps these to scores (V, C).
    """

    def __init__(self, layers: nn.Module, head: Any):
        super().__init__()
        self.layers, self.head = copy.deepcopy(layers), head

    def forward(self, input: Tensor) -> Tensor:
        """Map (V, ...) to (V, C)."""
        return self.head(self.layers(input))

    def with_head(self, head: Any) -> "Tail":
        """The same layers in front of another head, as they are now."""
        return Tail(self.layers, head).train(self.training)


class GradualPruning:
    """Magnitude pruning while a head is trained: weights per class fall from N to K by a cubic rule, then stay.

    Source: Zhu and Gupta, "To prune, or not to prune", 2017, section 3.

    Args:
        head: the head to prune, with its final K.
    """

    def __init__(self, head: PrunedHead):
        self.head, self.topk, self.done = head, head.topk, 0
        head.topk = head.in_features
        head.choose()

    def __call__(self, share: float) -> None:
        """Prune after a step; `share` of the training is done."""
        if math.floor(share * PRUNINGS) > self.done and self.head.topk > self.topk:
            self.done, left = math.floor(share * PRUNINGS), max(0.0, 1 - share / PRUNED_BY)
            self.head.topk = self.topk + math.floor((self.head.in_features - self.topk) * left**3)
            with torch.no_grad():
                self.head.weight.mul_(self.head.mask)  # what was pruned does not come back
            self.head.choose()


def nothing(share: float) -> None:
    """After each step of a plain training."""


def train(
    model: nn.Module, data: Features, recipe: Recipe, seed: int, after_step: Callable[[float], None] = nothing
) -> None:
    """Train by Adam on cross-entropy; the learning rate falls linearly to 0. The model is left in eval mode.

    Args:
        model: maps (V, ...) to (V, C).
        data: V training images.
        recipe: learning rate and epochs.
        seed: of the order of the images.
        after_step: called with the share of the steps that are done.
    """
    generator = torch.Generator().manual_seed(seed)
    steps = recipe.epochs * math.ceil(len(data.targets) / BATCH)
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe.lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    done = 0
    model.train()
    for _ in range(recipe.epochs):
        for index in torch.randperm(len(data.targets), generator=generator).split(BATCH):
            loss = F.cross_entropy(model(data.values[index]), data.targets[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            done += 1
            after_step(done / steps)
    model.eval()


@torch.inference_mode()
def run_in_blocks(model: nn.Module | Head, values: Tensor) -> Tensor:
    """What a model, in eval mode, puts out for many inputs (V, ...)."""
    return torch.cat([model(block) for block in values.split(BATCH)])
