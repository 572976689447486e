"""The heads of experiments.rivals, and how each is made of others."""

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn

from experiments.heads import (
    CompactHead,
    ElasticNets,
    GradualPruning,
    Recipe,
    Tail,
    TopActivationsHead,
    largest_mean_votes,
    nothing,
    run_in_blocks,
    static_head,
    train,
)
from experiments.rivals_jobs import Data, Job
from models.cut import TRUNK
from models.dynamic_k import DynamicKLinear
from models.heads import DenseHead, PrunedHead, StaticHead, fill

SELECTED = 2  # times K: weights per class of the elastic net of which the K largest become a mask
NETS: dict[Job, ElasticNets] = {}  # of the last training images behind frozen features


class Bench:
    """The heads of a job with the layers that trained with each, made when they are first asked for.

    Args:
        job: what is trained on what.
        data: its features.
        recipes: by name, of the heads that are trained.
    """

    def __init__(self, job: Job, data: Data, recipes: dict[str, Recipe]):
        self.job, self.data, self.recipes = job, data, recipes
        self.made: dict[str, Tail] = {}
        self.seconds: dict[str, float] = {}

    @cached_property
    def pooled(self) -> Tensor:
        """The features (V, N) of the training images behind the dense head's layers."""
        return run_in_blocks(self.tail("dense").layers, self.data.train.values)

    @cached_property
    def nets(self) -> ElasticNets:
        """Sparse heads on these features.

        Behind frozen features they are the same for every K; of all classes and the whole pool, for every seed too.
        """
        if self.job.frozen != TRUNK:
            return ElasticNets(self.pooled, self.data.train.targets)
        same = replace(self.job, k=0, seed=0) == Job(k=0)
        key = replace(self.job, k=0, seed=0 if same else self.job.seed)
        if key not in NETS:
            NETS.clear()
            NETS[key] = ElasticNets(self.pooled, self.data.train.targets)
        return NETS[key]

    def tail(self, name: str) -> Tail:
        """A head of `METHODS` behind its layers, in eval mode."""
        if name not in self.made:
            parent, make = METHODS[name]
            start = self.tail(parent) if parent else None
            began = time.perf_counter()
            torch.manual_seed(self.job.seed)  # after the parent, so that it matters not when that was made
            self.made[name] = make(self, name, start or self.random())
            self.seconds[name] = time.perf_counter() - began
        return self.made[name]

    def random(self) -> Tail:
        """A dense head with random weights behind the layers as they came."""
        layers = self.data.layers
        width = run_in_blocks(layers, self.data.train.values[:1]).shape[1]
        return Tail(layers, DenseHead(width, self.job.classes))

    def trained(self, name: str, tail: Tail, after_step: Callable[[float], None] = nothing) -> Tail:
        """Train a head, and its layers, by the recipe of this name."""
        train(tail, self.data.train, self.recipes[name], self.job.seed, after_step)
        return tail

    def masked(self, name: str, static: Tail) -> Tail:
        """Train the weights of a static head further, its mask fixed."""
        compact = self.trained(name, static.with_head(CompactHead(static.head)))
        return compact.with_head(compact.head.expanded())


class Method(NamedTuple):
    """How a head is made.

    Attributes:
        parent: the head whose weights and layers it starts from; None: random weights, and the layers as they came.
        make: (bench, its name, the parent) -> the head behind its layers.
    """

    parent: str | None
    make: Callable[[Bench, str, Tail], Tail]


def _same_weights(kind: Callable[..., nn.Linear], bench: Bench, dense: Tail) -> Tail:
    """A head of another kind with the weights of a dense one."""
    head = kind(dense.head.in_features, dense.head.out_features, topk=bench.job.k)
    return dense.with_head(fill(head, dense.head.weight, dense.head.bias))


def _trained_as(kind: Callable[..., nn.Linear]) -> Callable[[Bench, str, Tail], Tail]:
    return lambda bench, name, dense: bench.trained(name, _same_weights(kind, bench, dense))


def _trained_on(bench: Bench, name: str, dense: Tail) -> Tail:
    return bench.trained(name, dense.with_head(DenseHead.of(dense.head.weight, dense.head.bias)))


def _frozen_as(kind: type[StaticHead]) -> Callable[[Bench, str, Tail], Tail]:
    return lambda bench, _, parent: parent.with_head(kind.freeze(parent.head, bench.job.k))


def _mean_votes(bench: Bench, name: str, dense: Tail) -> Tail:
    units = largest_mean_votes(dense.head, bench.pooled, bench.data.train.targets, bench.job.k)
    return bench.masked(name, dense.with_head(static_head(dense.head, units)))


def _gradual(bench: Bench, name: str, dense: Tail) -> Tail:
    tail = _same_weights(PrunedHead, bench, dense)
    return bench.trained(name, tail, GradualPruning(tail.head))


def _elastic(bench: Bench, _: str, dense: Tail) -> Tail:
    return dense.with_head(bench.nets.with_weights(bench.job.k))


def _elastic_trained(bench: Bench, name: str, dense: Tail) -> Tail:
    wide = bench.nets.with_weights(SELECTED * bench.job.k)
    units = (wide.weight.detach().abs() * bench.pooled.std(0)).topk(bench.job.k, 1).indices
    return bench.masked(name, dense.with_head(static_head(wide, units)))


METHODS = {
    "dense": Method(None, Bench.trained),
    "dense, trained on": Method("dense", _trained_on),
    "dka": Method("dense", _trained_as(DynamicKLinear)),
    "pruned": Method("dense", _frozen_as(PrunedHead)),
    "pruned, trained": Method("pruned", Bench.masked),
    "largest mean votes, trained": Method("dense", _mean_votes),
    "pruned gradually": Method("dense", _gradual),
    "elastic net": Method("dense", _elastic),
    "elastic net, trained": Method("dense", _elastic_trained),
    "dka, frozen": Method("dka", _frozen_as(StaticHead)),
    "dka, frozen, trained": Method("dka, frozen", Bench.masked),
    "top activations": Method("dense", _trained_as(TopActivationsHead)),
}
MASKED = (
    "pruned, trained",
    "largest mean votes, trained",
    "pruned gradually",
    "elastic net, trained",
    "dka, frozen, trained",
)  # fixed choices of K units per class, trained
TRAINED = ("dense", "dense, trained on", "dka", *MASKED, "top activations")


def heads_of(job: Job, names: Iterable[str] = METHODS) -> list[str]:
    """Those of some heads that a job has: all, but a dense head is trained further where layers train along only."""
    return [name for name in names if job.frozen != TRUNK or name != "dense, trained on"]
