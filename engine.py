"""One epoch of training and one evaluation, the same for every entry script."""

import math
import sys
import time
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader
from tqdm import tqdm

import distributed
from errors import UserError


class NonFiniteLoss(RuntimeError):
    """The loss became NaN or infinite; the message says in which epoch and batch."""


def progress(iterable: Iterable | None = None, **options) -> tqdm:
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


class _Metrics:
    """Running loss and accuracy of one pass over a loader."""

    def __init__(self):
        self._start = time.perf_counter()
        self.count, self._loss_sum, self._hits = 0, 0.0, [0, 0]

    def add(self, logits: Tensor, target: Tensor, loss_sum: float) -> None:
        """Take in a batch: logits (B, C), classes (B,), and the sum of its B losses."""
        best = logits.topk(min(5, logits.shape[1]), 1).indices  # (B, 5)
        hits = best == target[:, None]
        self._hits[0] += int(hits[:, 0].sum())
        self._hits[1] += int(hits.sum())
        self._loss_sum += loss_sum
        self.count += len(target)

    def result(self) -> dict[str, float]:
        """Mean loss, top1 and top5 (per cent; with C < 5 classes top5 is 100), images_per_second."""
        return {
            "loss": self._loss_sum / self.count,
            "top1": 100 * self._hits[0] / self.count,
            "top5": 100 * self._hits[1] / self.count,
            "images_per_second": self.count / (time.perf_counter() - self._start),
        }


def train_one_epoch(
    model: nn.Module,
    loader: DataLoader,
    optimizer: torch.optim.Optimizer,
    scheduler: LRScheduler,
    device: torch.device,
    amp: torch.dtype | None,
    scaler: torch.amp.GradScaler,
    epoch: int,
) -> dict[str, float]:
    """Train for one epoch; the learning rate moves on after each batch.

    Returns:
        loss (mean over the pictures), top1 and top5 (per cent, of the training crops), lr (of the first batch),
        images_per_second.

    Raises:
        NonFiniteLoss: naming the batch. The weights are those from before it.
    """
    model.train()
    lr = scheduler.get_last_lr()[0]
    metrics = _Metrics()
    bar = progress(loader, desc=f"epoch {epoch}", unit="batch")
    for number, (images, target) in enumerate(bar):
        images, target = to_device(images, device), target.to(device, non_blocking=True)
        with torch.autocast(device.type, amp, enabled=amp is not None):
            logits = model(images)  # (B, 3, H, W) -> (B, C)
            loss = F.cross_entropy(logits.float(), target)
        value = loss.item()
        if not math.isfinite(value):
            raise NonFiniteLoss(f"the loss is {value} in epoch {epoch}, batch {number}: lower --lr, or try --amp off")
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()
        metrics.add(logits.detach(), target, value * len(target))
        bar.set_postfix(loss=f"{value:.3f}", refresh=False)
    return {**metrics.result(), "lr": lr}


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    loader: DataLoader,
    device: torch.device,
    amp: torch.dtype | None = None,
) -> dict[str, float]:
    """Mean cross-entropy and accuracy over a loader, in eval mode; the model's mode is restored.

    Args:
        model: pictures (B, 3, H, W) -> logits (B, C).
        loader: yields (pictures, classes).
        device: where the model is.
        amp: autocast type, None for float32.

    Returns:
        loss, top1 and top5 (per cent; with C < 5 classes top5 is 100), count, images_per_second.
    """
    training = model.training
    model.eval()
    metrics = _Metrics()
    for images, target in progress(loader, desc="validate", unit="batch"):
        images, target = to_device(images, device), target.to(device, non_blocking=True)
        with torch.autocast(device.type, amp, enabled=amp is not None):
            logits = model(images)  # (B, C)
        logits = logits.float()
        metrics.add(logits, target, F.cross_entropy(logits, target, reduction="sum").item())
    model.train(training)
    return {**metrics.result(), "count": metrics.count}
