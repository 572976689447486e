"""One epoch of training and one evaluation, the same for every entry script."""

import math
import sys
import time
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader
from tqdm import tqdm

from errors import UserError


class NonFiniteLoss(RuntimeError):
    """The loss became NaN or infinite; the message says in which epoch and batch."""


def progress(iterable: Iterable | None = None, **options) -> tqdm:
    """A progress bar on stderr, silent when that is not a terminal."""
    return tqdm(iterable, disable=None, file=sys.stderr, dynamic_ncols=True, leave=False, **options)


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


def topk_hits(logits: Tensor, target: Tensor, k: int) -> int:
    """How many of the B targets are among the k largest of their C logits (k = C at most)."""
    best = logits.topk(min(k, logits.shape[1]), 1).indices  # (B, k)
    return int((best == target[:, None]).sum())


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
    count, loss_sum, hits1, hits5 = 0, 0.0, 0, 0
    start = time.perf_counter()
    bar = progress(loader, desc=f"epoch {epoch}", unit="batch")
    for number, (images, target) in enumerate(bar):
        images, target = to_device(images, device), target.to(device, non_blocking=True)
        with torch.autocast(device.type, amp, enabled=amp is not None):
            logits = model(images)  # (B, 3, H, W) -> (B, C)
            loss = F.cross_entropy(logits, target)
        value = loss.item()
        if not math.isfinite(value):
            raise NonFiniteLoss(f"the loss is {value} in epoch {epoch}, batch {number}: lower --lr, or try --amp off")
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()
        count += len(target)
        loss_sum += value * len(target)
        hits1 += topk_hits(logits.detach(), target, 1)
        hits5 += topk_hits(logits.detach(), target, 5)
        bar.set_postfix(loss=f"{loss_sum / count:.3f}", top1=f"{100 * hits1 / count:.1f}", refresh=False)
    return {
        "loss": loss_sum / count,
        "top1": 100 * hits1 / count,
        "top5": 100 * hits5 / count,
        "lr": lr,
        "images_per_second": count / (time.perf_counter() - start),
    }


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    loader: DataLoader,
    device: torch.device,
    amp: torch.dtype | None = None,
    on_batch: Callable[[Tensor], None] | None = None,
) -> dict[str, float]:
    """Mean cross-entropy and accuracy over a loader, in eval mode; the model's mode is restored.

    Args:
        model: pictures (B, 3, H, W) -> logits (B, C).
        loader: yields (pictures, classes).
        device: where the model is.
        amp: autocast type, None for float32.
        on_batch: called with each batch's logits (B, C).

    Returns:
        loss, top1 and top5 (per cent; with C < 5 classes top5 is 100), count, images_per_second.
    """
    training = model.training
    model.eval()
    count, loss_sum, hits1, hits5 = 0, 0.0, 0, 0
    start = time.perf_counter()
    for images, target in progress(loader, desc="validate", unit="batch"):
        images, target = to_device(images, device), target.to(device, non_blocking=True)
        with torch.autocast(device.type, amp, enabled=amp is not None):
            logits = model(images)  # (B, C)
        logits = logits.float()
        count += len(target)
        loss_sum += F.cross_entropy(logits, target, reduction="sum").item()
        hits1 += topk_hits(logits, target, 1)
        hits5 += topk_hits(logits, target, 5)
        if on_batch is not None:
            on_batch(logits)
    model.train(training)
    return {
        "loss": loss_sum / count,
        "top1": 100 * hits1 / count,
        "top5": 100 * hits5 / count,
        "count": count,
        "images_per_second": count / (time.perf_counter() - start),
    }
