"""Kinds of inputs and weights that a choice among votes can get wrong, by name: shape -> tensor."""

import torch

CASES = {
    "normal": lambda *shape: torch.randn(shape),
    "after relu": lambda *shape: torch.randn(shape).relu(),
    "nearly all zero": lambda *shape: torch.randn(shape).sub(2).relu(),
    "negative": lambda *shape: -torch.rand(shape),
    "few values": lambda *shape: torch.randint(-1, 2, shape).float(),  # ties everywhere, also of 0.0 and -0.0
    "all equal": lambda *shape: torch.full(shape, -1.5),
    "zeros": lambda *shape: torch.zeros(shape).copysign(torch.randn(shape)),
    "denormal": lambda *shape: torch.randint(-3, 4, shape) * 2.0**-149,
    "tiny": lambda *shape: torch.randn(shape) * 2.0**-70,  # products are denormal
    "huge": lambda *shape: torch.randn(shape) * 2.0**127,  # products are infinite
    "all scales": lambda *shape: torch.randn(shape) * 2.0 ** torch.randint(-60, 60, shape),
    "neighbours": lambda *shape: 1 + torch.randint(0, 3, shape) * 2.0**-23,  # differ in the last bit only
    "infinite": lambda *shape: torch.where(torch.rand(shape) < 0.1, torch.randn(shape) / 0, torch.randn(shape)),
    "not a number": lambda *shape: torch.where(torch.rand(shape) < 0.1, torch.nan, torch.randn(shape).relu()),
}
