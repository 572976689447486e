"""One epoch of training, and one evaluation, which every entry script uses.

A training step reads nothing back from the device: what it measures stays there, and is read every `READ_EVERY` steps.
"""

import math
import time
from collections.abc import Callable, Iterable, Sized
from dataclasses import dataclass, field, replace
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models import Head, head_of
from models.hooks import layer_inputs
from training.state import TrainState
from util import distributed
from util.device import to_device
from util.progress import progress

READ_EVERY = 20  # steps after which a loss that is not finite is noticed, at the latest


class NonFiniteLoss(RuntimeError):
    """The loss became NaN or infinite; the message says in which epoch and batch."""


class Batches(Iterable[tuple[Tensor, Tensor]], Sized, Protocol):
    """Yields (images (B, 3, H, W), classes (B,)), a known number of times; or cached features instead of images."""


@dataclass
class Sums:
    """Sums over the batches of an epoch or an evaluation, in this process.

    Batches that were added are on their device until `read` is called.

    Attributes:
        steps: batches.
        count: images.
        loss: sum of their losses.
        top1: for how many the true class is the most probable one.
        top5: for how many it is among the five most probable ones.
        seconds: since the first batch was asked for.
        lr: learning rate of the first batch, in training.
    """

    steps: int = 0
    count: int = 0
    loss: float = 0.0
    top1: int = 0
    top5: int = 0
    seconds: float = 0.0
    lr: float = 0.0
    unread: list[tuple[int, Tensor]] = field(default_factory=list, repr=False, compare=False)

    def add(self, logits: Tensor, target: Tensor, loss: Tensor) -> None:
        """Add a batch: logits (B, C), classes (B,), and the sum of its B losses, a scalar tensor."""
        best = logits.topk(min(5, logits.shape[1]), 1).indices  # (B, 5)
        hits = best == target[:, None]
        measured = torch.stack([loss.double(), hits[:, 0].sum().double(), hits.sum().double()])  # (3,)
        self.unread.append((len(target), measured))

    def read(self, must_be_finite: bool = False) -> None:
        """Fetch what was added since the last call: the one place that waits for the device.

        Raises:
            NonFiniteLoss: if asked to, for the first batch whose loss is not finite; it is not added.
        """
        if not self.unread:
            return
        counts = [count for count, _ in self.unread]
        rows = torch.stack([measured for _, measured in self.unread]).tolist()
        self.unread = []
        for count, (loss, top1, top5) in zip(counts, rows, strict=True):
            if must_be_finite and not math.isfinite(loss):
                raise NonFiniteLoss(f"the loss is {loss} in batch {self.steps}")
            self.steps += 1
            self.count += count
            self.loss += loss
            self.top1 += int(top1)
            self.top5 += int(top5)

    def to_dict(self) -> dict[str, float]:
        """The numbers that were read, for a snapshot: `Sums(**these)` continues them."""
        names = ("steps", "count", "loss", "top1", "top5", "seconds", "lr")
        return {name: getattr(self, name) for name in names}

    def of_all_processes(self) -> "Sums":
        """The sums over all processes of the run."""
        sums = distributed.all_gather(self)
        added = {name: sum(getattr(own, name) for own in sums) for name in ("count", "loss", "top1", "top5")}
        return replace(self, **added, seconds=max(own.seconds for own in sums))

    def metrics(self) -> dict[str, float]:
        """Mean loss, top1 and top5 (per cent; with C < 5 classes top5 is 100), images_per_second."""
        return {
            "loss": self.loss / self.count,
            "top1": 100 * self.top1 / self.count,
            "top5": 100 * self.top5 / self.count,
            "images_per_second": self.count / self.seconds,
        }


def never() -> bool:
    """Nothing asks to stop."""
    return False


def train_one_epoch(
    state: TrainState, batches: Batches, sums: Sums | None = None, stop: Callable[[], bool] = never
) -> dict[str, float]:
    """Train for one epoch, or for the rest of one.

    Args:
        state: the network and its optimizer; changed in place.
        batches: the same number of them in all processes of the run.
        sums: of the epoch's earlier batches; this call's are added.
        stop: asked after each batch; if it is true in any process, all of them skip the rest of the epoch.

    Returns:
        loss (mean over the images of all processes), top1 and top5 (per cent, of the training crops), lr (of the
        first batch), images_per_second.

    Raises:
        NonFiniteLoss: naming the batch, at most `READ_EVERY` steps after it.
    """
    state.trained.train()
    sums = Sums() if sums is None else sums
    if not sums.steps:
        sums.lr = float(state.scheduler.get_last_lr()[0])
    began = time.perf_counter() - sums.seconds
    total = sums.steps + len(batches)
    bar = progress(batches, desc=f"epoch {state.epoch + 1}", unit="batch", initial=sums.steps, total=total)
    for images, target in bar:
        train_step(state, images, target, sums)
        if len(sums.unread) >= READ_EVERY:
            _read(state, sums)
            bar.set_postfix(loss=f"{sums.loss / sums.count:.3f}", refresh=False)
        if distributed.any_process(stop()):
            break
    _read(state, sums)
    sums.seconds = time.perf_counter() - began
    return {**sums.of_all_processes().metrics(), "lr": sums.lr}


def train_step(state: TrainState, images: Tensor, target: Tensor, sums: Sums) -> None:
    """One step of SGD on a batch: images (B, 3, H, W), classes (B,). Does not wait for the device."""
    images, target = to_device(images, state.device), target.to(state.device, non_blocking=True)
    with torch.autocast(state.device.type, state.amp, enabled=state.amp is not None):
        logits = state.step_model(images)  # (B, 3, H, W) -> (B, C)
        loss = F.cross_entropy(logits.float(), target)
    state.optimizer.zero_grad(set_to_none=True)
    state.scaler.scale(loss).backward()
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.scheduler.step()
    sums.add(logits.detach(), target, loss.detach().double() * len(target))


def _read(state: TrainState, sums: Sums) -> None:
    try:
        sums.read(must_be_finite=True)
    except NonFiniteLoss as error:
        raise NonFiniteLoss(f"{error} of epoch {state.epoch + 1}: lower --lr, or try --amp off") from None


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    loader: Batches,
    device: torch.device,
    amp: torch.dtype | None = None,
    stop: Callable[[], bool] = never,
) -> dict[str, float]:
    """Mean cross-entropy and accuracy over a loader, in eval mode; the model's mode is restored.

    Args:
        model: images (B, 3, H, W) -> logits (B, C); or what follows a frozen trunk, and its features.
        loader: yields (images, classes), in each process of the run its share.
        device: where the model is.
        amp: autocast type; None for float32.
        stop: asked after each batch; if it is true, the rest is skipped and the numbers mean little.

    Returns:
        loss, top1 and top5 (per cent; with C < 5 classes top5 is 100), count, images_per_second: of all processes.
    """
    training = model.training
    model.eval()
    sums, began = Sums(), time.perf_counter()
    for images, target in progress(loader, desc="validate", unit="batch"):
        images, target = to_device(images, device), target.to(device, non_blocking=True)
        with torch.autocast(device.type, amp, enabled=amp is not None):
            logits = model(images)  # (B, C)
        logits = logits.float()
        sums.add(logits, target, F.cross_entropy(logits, target, reduction="sum"))
        if stop():
            break
    sums.read()
    sums.seconds = time.perf_counter() - began
    model.train(training)
    sums = sums.of_all_processes()
    return {**sums.metrics(), "count": sums.count}


def evaluate_features(
    model: nn.Module,
    loader: Batches,
    device: torch.device,
    amp: torch.dtype | None = None,
    stop: Callable[[], bool] = never,
    head: Head | None = None,
) -> tuple[dict[str, float], Tensor]:
    """`evaluate` a network of `models.build_model`, and keep what reached its head; of a part of one, name the head.

    Returns:
        the metrics, and the pooled features (V, N), float32 on the CPU, of this process's images.
    """
    head = head or head_of(model)
    with layer_inputs(cast(nn.Module, head)) as pooled:
        metrics = evaluate(model, loader, device, amp, stop)
    return metrics, torch.cat(pooled) if pooled else torch.empty(0, head.in_features)
