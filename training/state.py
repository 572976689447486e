"""What changes while a network is trained, as one object."""

import warnings
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LRScheduler, MultiStepLR, OneCycleLR

from loader.datasets import Schedule
from models import Head, head_of
from models.cut import Cut
from models.dynamic_k import DynamicKLinear
from training.config import Plan
from util import distributed


@dataclass
class TrainState:
    """A network in training.

    Attributes:
        model: images (B, 3, H, W) -> logits (B, C); its weights are what snapshots hold.
        step_model: the same network as it is stepped: shared between processes, compiled.
        optimizer: of the model's parameters.
        scheduler: of the optimizer; advanced after each step.
        scaler: scales the loss where amp is float16, and does nothing otherwise.
        device: where the model is.
        amp: autocast type; None for float32.
        compiled: whether step_model is compiled.
        epoch: the current one, from 0.
        best: best top-1 so far, per cent.
        cut: where the model is frozen up to; None if all of it is trained.
    """

    model: nn.Module
    step_model: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: LRScheduler
    scaler: torch.amp.GradScaler
    device: torch.device
    amp: torch.dtype | None
    compiled: bool = False
    epoch: int = 0
    best: float = 0.0
    cut: Cut | None = None

    @property
    def trained(self) -> nn.Module:
        """What is trained: the model, or what follows its frozen part, on whose outputs it runs."""
        return self.model if self.cut is None else self.cut.rest

    @property
    def head(self) -> Head:
        """The model's head."""
        return head_of(self.model)

    def set_topk(self, topk: int | None) -> None:
        """Let the head choose K votes from now on; None leaves it as it is."""
        if topk is not None and isinstance(self.head, DynamicKLinear) and self.head.topk != topk:
            self.head.topk = topk
            if self.compiled:
                torch.compiler.reset()  # it was compiled for another K


def create_state(
    network: nn.Module | Cut,
    plan: Plan,
    schedule: Schedule,
    device: torch.device,
    amp: torch.dtype | None,
    compiled: bool,
) -> TrainState:
    """SGD with momentum on a network, at the beginning of a run (paper, section 5).

    Args:
        network: the network; it is moved to the device. One that is cut must be there already.
        plan: of the run.
        schedule: momentum, weight decay, and how the learning rate changes.
        device: where to train.
        amp: autocast type; None for float32.
        compiled: whether steps run the compiled model.
    """
    cut = network if isinstance(network, Cut) else None
    model = network.model if isinstance(network, Cut) else network
    model.to(device).to(memory_format=torch.channels_last)
    trained, parameters = (model, list(model.parameters())) if cut is None else (cut.rest, cut.parameters())
    for frozen in set(model.parameters()).difference(parameters):
        frozen.requires_grad_(False)
    optimizer = torch.optim.SGD(
        parameters,
        plan.lr,
        momentum=schedule.momentum,
        weight_decay=schedule.weight_decay,
        # On a GPU the fused step leaves the decision of the scaler, whether gradients are finite, on the device.
        fused=True if device.type == "cuda" else None,
    )
    step_model: nn.Module = DistributedDataParallel(trained) if distributed.world_size() > 1 else trained
    return TrainState(
        model=model,
        step_model=cast(nn.Module, torch.compile(step_model)) if compiled else step_model,
        optimizer=optimizer,
        scheduler=build_scheduler(schedule.schedule, optimizer, plan.epochs * plan.steps_per_epoch),
        scaler=torch.amp.GradScaler(device.type, enabled=amp is torch.float16),
        device=device,
        amp=amp,
        compiled=compiled,
        cut=cut,
    )


def lr_after(scheduler: LRScheduler, steps: int) -> float:
    """The learning rate that a scheduler of `build_scheduler` has after that many steps, up to rounding."""
    if isinstance(scheduler, MultiStepLR):
        passed = sum(times for milestone, times in scheduler.milestones.items() if milestone <= steps)
        return float(scheduler.base_lrs[0] * scheduler.gamma**passed)
    now = scheduler.last_epoch
    scheduler.last_epoch = steps
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it expects to be asked by its own step only
            return float(scheduler.get_lr()[0])
    finally:
        scheduler.last_epoch = now


def build_scheduler(name: str, optimizer: torch.optim.Optimizer, steps: int) -> LRScheduler:
    """'step': lr / 10 every third of the run; 'one_cycle': warm-up for a quarter of it, then cosine decay to zero."""
    if name == "step":
        return MultiStepLR(optimizer, [round(steps / 3), round(2 * steps / 3)], gamma=0.1)
    peak = optimizer.param_groups[0]["lr"]
    # One step more than there are batches: the scheduler is advanced after the last one too.
    share = 0.25 if steps != 3 else 0.5  # a quarter of three would be a warm-up without a step, which torch divides by
    return OneCycleLR(optimizer, peak, total_steps=steps + 1, pct_start=share, cycle_momentum=False)
