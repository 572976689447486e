"""One epoch of training and one evaluation, the same for every entry script."""

import math
import platform
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader
from tqdm import tqdm

import distributed
from errors import UserError
from models.hooks import layer_inputs
from models.resnet import head_of


class NonFiniteLoss(RuntimeError):
    """The loss became NaN or infinite; the message says in which epoch and batch."""


def progress(iterable: Iterable | None = None, **options: Any) -> tqdm:
    """A progress bar on stderr, silent when that is not a terminal, and in all processes of a run but the first."""
    quiet = None if distributed.is_first() else True  # None: quiet unless stderr is a terminal
    return tqdm(iterable, disable=quiet, file=sys.stderr, dynamic_ncols=True, leave=False, **options)


def pick_device(name: str) -> torch.device:
    """'auto' | 'cpu' | 'cuda' | 'cuda:1' -> device. Raises UserError for anything else or a GPU that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise UserError(f"device {name!r}: expected auto, cpu, cuda or cuda:<number>")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device {name!r}: this machine has {torch.cuda.device_count()} CUDA devices")
    return device


def describe_device(device: torch.device) -> str:
    """For people: 'cuda:0 (NVIDIA A100)' or 'cpu (2 threads)'."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"cpu ({torch.get_num_threads()} threads)"


def processor() -> str:
    """The processor's name, as the system calls it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def pick_amp(mode: str, device: torch.device) -> torch.dtype | None:
    """The autocast type of '--amp auto|on|off', None for float32.

    auto: bfloat16 on CPUs with AVX512-BF16 or AMX and on GPUs that compute in it, float16 on other GPUs.
    """
    if mode == "off":
        return None
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    # Not public, but all that there is: torch.cpu.get_capabilities came with 2.14.
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if fast or mode == "on" else None


def to_device(batch: Tensor, device: torch.device) -> Tensor:
    """Pictures (B, 3, H, W) to the device, channels last: the layout that its convolutions are fastest in."""
    return batch.to(device, non_blocking=True, memory_format=torch.channels_last)


@dataclass
class Sums:
    """What a pass over a loader has added up so far, in this process.

    Attributes:
        steps: batches.
        count: pictures.
        loss: sum of their losses.
        top1: of how many the true class is the most probable one.
        top5: of how many it is among the five most probable ones.
        seconds: since the pass began.
        lr: learning rate of the first batch, if it is training.
    """

    steps: int = 0
    count: int = 0
    loss: float = 0.0
    top1: int = 0
    top5: int = 0
    seconds: float = 0.0
    lr: float = 0.0

    def add(self, logits: Tensor, target: Tensor, loss: float) -> None:
        """Take in a batch: logits (B, C), classes (B,), and the sum of its B losses."""
        best = logits.topk(min(5, logits.shape[1]), 1).indices  # (B, 5)
        hits = best == target[:, None]
        self.steps += 1
        self.count += len(target)
        self.loss += loss
        self.top1 += int(hits[:, 0].sum())
        self.top5 += int(hits.sum())

    def of_all(self) -> "Sums":
        """The sums over all processes of the run."""
        everyone = distributed.everyones(self)
        added = {name: sum(getattr(sums, name) for sums in everyone) for name in ("count", "loss", "top1", "top5")}
        return replace(self, **added, seconds=max(sums.seconds for sums in everyone))

    def result(self) -> dict[str, float]:
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
    model: nn.Module,
    loader: DataLoader,
    optimizer: torch.optim.Optimizer,
    scheduler: LRScheduler,
    device: torch.device,
    amp: torch.dtype | None,
    scaler: torch.amp.GradScaler,
    epoch: int,
    sums: Sums | None = None,
    stop: Callable[[], bool] = never,
) -> dict[str, float]:
    """Train for one epoch, or for the rest of one; the learning rate moves on after each batch.

    Args:
        model: pictures (B, 3, H, W) -> logits (B, C).
        loader: yields (pictures, classes), the same number of batches in all processes of the run.
        optimizer: of the model's parameters.
        scheduler: of the optimizer.
        device: where the model is.
        amp: autocast type, None for float32.
        scaler: scales the loss where amp is float16, and does nothing otherwise.
        epoch: its number, for people.
        sums: what was added up in the epoch's earlier batches; goes on with those of this call.
        stop: asked after each batch; if it is true in any process, all of them leave the rest of the epoch out.

    Returns:
        loss (mean over the pictures of all processes), top1 and top5 (per cent, of the training crops), lr (of the
        first batch), images_per_second.

    Raises:
        NonFiniteLoss: naming the batch. The weights are those from before it.
    """
    model.train()
    sums = Sums() if sums is None else sums
    if not sums.steps:
        sums.lr = float(scheduler.get_last_lr()[0])
    began = time.perf_counter() - sums.seconds
    bar = progress(loader, desc=f"epoch {epoch}", unit="batch", initial=sums.steps, total=sums.steps + len(loader))
    for images, target in bar:
        images, target = to_device(images, device), target.to(device, non_blocking=True)
        with torch.autocast(device.type, amp, enabled=amp is not None):
            logits = model(images)  # (B, 3, H, W) -> (B, C)
            loss = F.cross_entropy(logits.float(), target)
        value = loss.item()
        if not math.isfinite(value):
            where = f"epoch {epoch}, batch {sums.steps}"
            raise NonFiniteLoss(f"the loss is {value} in {where}: lower --lr, or try --amp off")
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()
        sums.add(logits.detach(), target, value * len(target))
        sums.seconds = time.perf_counter() - began
        bar.set_postfix(loss=f"{value:.3f}", refresh=False)
        if distributed.anyone(stop()):
            break
    return {**sums.of_all().result(), "lr": sums.lr}


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    loader: DataLoader,
    device: torch.device,
    amp: torch.dtype | None = None,
    stop: Callable[[], bool] = never,
) -> dict[str, float]:
    """Mean cross-entropy and accuracy over a loader, in eval mode; the model's mode is restored.

    Args:
        model: pictures (B, 3, H, W) -> logits (B, C).
        loader: yields (pictures, classes), in each process of the run its share.
        device: where the model is.
        amp: autocast type, None for float32.
        stop: asked after each batch; if it is true, the rest is left out and the numbers mean little.

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
        sums.add(logits, target, F.cross_entropy(logits, target, reduction="sum").item())
        if stop():
            break
    sums.seconds = time.perf_counter() - began
    model.train(training)
    sums = sums.of_all()
    return {**sums.result(), "count": sums.count}


def evaluate_features(
    model: nn.Module,
    loader: DataLoader,
    device: torch.device,
    amp: torch.dtype | None = None,
    stop: Callable[[], bool] = never,
) -> tuple[dict[str, float], Tensor]:
    """`evaluate` a network of `models.build_model`, and keep what reached its head.

    Returns:
        the metrics, and the pooled features (V, N), float32 on the CPU, of this process's pictures.
    """
    with layer_inputs(head_of(model)) as pooled:
        metrics = evaluate(model, loader, device, amp, stop)
    return metrics, torch.cat(pooled) if pooled else torch.empty(0, head_of(model).in_features)
