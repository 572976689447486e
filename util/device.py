"""Which device computes, in which precision, and how images travel to it."""

import platform
from pathlib import Path

import torch
from torch import Tensor

from util.cli import UserError


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
    """The processor's name, as the system reports it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def pick_amp(mode: str, device: torch.device) -> torch.dtype | None:
    """The autocast type of '--amp auto|on|off', None for float32.

    auto: bfloat16 on CPUs with AVX512-BF16 or AMX and on GPUs that compute in it, float16 on other GPUs. Elsewhere
    PyTorch emulates bfloat16, which is several times slower than float32.
    """
    if mode == "off":
        return None
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    # Not public, but all there is: torch.cpu.get_capabilities came with 2.14.
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if fast or mode == "on" else None


def to_device(batch: Tensor, device: torch.device) -> Tensor:
    """Move images (B, 3, H, W) to the device, channels last: the layout in which its convolutions are fastest.

    Features of other shapes keep their layout. All are float32 there: cached features are stored in half precision.
    """
    layout = torch.channels_last if batch.dim() == 4 else torch.preserve_format
    return batch.to(device, non_blocking=True, memory_format=layout).float()
