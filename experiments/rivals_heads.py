"""The heads of experiments.rivals, and how each is made of others."""

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cached_property

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
NETS: dict[Job, ElasticNets] = {}  # of the last training images


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
        """Sparse heads on these features; those of all classes and the whole pool are the same for every seed."""
        same = replace(self.job, k=0, seed=0) == Job(k=0)
        key = replace(self.job, k=0, seed=0 if same else self.job.seed)
        if key not in NETS:
            NETS.clear()
            NETS[key] = ElasticNets(self.pooled, self.data.train.targets)
        return NETS[key]

    def tail(self, name: str) -> Tail:
        """A head of `METHODS` behind its layers, in eval mode."""
        if name not in self.made:
            parents = sum(self.seconds.values())
            began = time.perf_counter()
            torch.manual_seed(self.job.seed)
            made = METHODS[name](self)
            made_parents = sum(self.seconds.values()) - parents
            self.made[name], self.seconds[name] = made, time.perf_counter() - began - made_parents
        return self.made[name]

    def random(self) -> Tail:
        """A dense head with random weights behind the layers as they came."""
        layers = self.data.layers
        width = run_in_blocks(layers, self.data.train.values[:1]).shape[1]
        return Tail(layers, DenseHead(width, self.job.classes))

    def from_dense(self, kind: Callable[..., nn.Linear]) -> Tail:
        """A head of another kind that starts from the weights of the dense one, and from its layers."""
        tail = self.tail("dense")
        topk = self.job.k if kind is not DenseHead else None
        head = kind(tail.head.in_features, tail.head.out_features, topk=topk)
        return tail.with_head(fill(head, tail.head.weight, tail.head.bias))

    def trained(self, name: str, tail: Tail, after_step: Callable[[float], None] = nothing) -> Tail:
        """Train a head, and its layers, by its recipe."""
        train(tail, self.data.train, self.recipes[name], self.job.seed, after_step)
        return tail

    def masked(self, name: str, tail: Tail) -> Tail:
        """A static head whose weights are trained further, its mask fixed."""
        compact = self.trained(name, tail.with_head(CompactHead(tail.head)))
        return compact.with_head(compact.head.expanded())


def _mean_votes(bench: Bench) -> Tail:
    tail = bench.tail("dense")
    units = largest_mean_votes(tail.head, bench.pooled, bench.data.train.targets, bench.job.k)
    return bench.masked("largest mean votes, trained", tail.with_head(static_head(tail.head, units)))


def _elastic_trained(bench: Bench) -> Tail:
    wide = bench.nets.with_weights(SELECTED * bench.job.k)
    units = (wide.weight.detach().abs() * bench.pooled.std(0)).topk(bench.job.k, 1).indices
    return bench.masked("elastic net, trained", bench.tail("dense").with_head(static_head(wide, units)))


def _gradual(bench: Bench) -> Tail:
    tail = bench.from_dense(PrunedHead)
    return bench.trained("pruned gradually", tail, GradualPruning(tail.head))


def _frozen(bench: Bench, parent: str, kind: type[StaticHead]) -> Tail:
    tail = bench.tail(parent)
    return tail.with_head(kind.freeze(tail.head, bench.job.k))


METHODS: dict[str, Callable[[Bench], Tail]] = {
    "dense": lambda bench: bench.trained("dense", bench.random()),
    "dense, trained on": lambda bench: bench.trained("dense, trained on", bench.from_dense(DenseHead)),
    "dka": lambda bench: bench.trained("dka", bench.from_dense(DynamicKLinear)),
    "pruned": lambda bench: _frozen(bench, "dense", PrunedHead),
    "pruned, trained": lambda bench: bench.masked("pruned, trained", bench.tail("pruned")),
    "largest mean votes, trained": _mean_votes,
    "pruned gradually": _gradual,
    "elastic net": lambda bench: bench.tail("dense").with_head(bench.nets.with_weights(bench.job.k)),
    "elastic net, trained": _elastic_trained,
    "dka, frozen": lambda bench: _frozen(bench, "dka", StaticHead),
    "dka, frozen, trained": lambda bench: bench.masked("dka, frozen, trained", bench.tail("dka, frozen")),
    "top activations": lambda bench: bench.trained("top activations", bench.from_dense(TopActivationsHead)),
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
    """Those of some heads that a job has.

    Behind frozen features a dense head has one best answer, and training it further is training it longer.
    """
    return [name for name in names if job.frozen != TRUNK or name != "dense, trained on"]
