"""Time of an epoch of training a DKA head alone, on features computed before, as Markdown.

    python3 benchmarks/head_only.py               # under a minute on two cores
    python3 benchmarks/head_only.py --quick       # a small set, to see that everything runs
    python3 benchmarks/head_only.py --cpu_time    # on a busy machine: CPU time of one thread, not the clock on the wall

Features are random, as after a ReLU and an average pool: half of them are exactly zero. An epoch reads all of them in
a new order, and each step is forward, cross-entropy, backward and SGD with momentum, in float32 on the CPU. Every head
starts with an epoch that does not count.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

if not __package__:  # launched by path
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models import kernel
from models.dynamic_k import DynamicKLinear
from util.device import processor

INPUTS, CLASSES, BATCH = 1280, 200, 256  # Tiny-ImageNet on EfficientNet-Lite0


def get_args_parser() -> argparse.ArgumentParser:
    """Flags of the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="1,000 features, one epoch")
    parser.add_argument("--cpu_time", action="store_true", help="measure CPU time, with one thread")
    parser.add_argument("--features", type=int, default=100_000, metavar="n", help="features (default 100,000)")
    parser.add_argument("--topk", type=int, nargs="+", default=[1, 5, 20], metavar="K", help="heads (default 1 5 20)")
    parser.add_argument("--epochs", type=int, default=3, metavar="n", help="epochs of each head (default 3)")
    return parser


def main(args: argparse.Namespace) -> None:
    """Print a row per head."""
    if args.cpu_time:
        torch.set_num_threads(1)
    clock = time.process_time if args.cpu_time else time.perf_counter
    torch.manual_seed(0)
    count, epochs = (1000, 1) if args.quick else (args.features, args.epochs)
    features, targets = torch.randn(count, INPUTS).relu(), torch.randint(CLASSES, (count,))
    how = "compiled kernel" if kernel.available() else "PyTorch's operators"
    print(f"{processor()}, {torch.get_num_threads()} threads, PyTorch {torch.__version__}, {how}.\n")
    print(f"{count:,} features, N = {INPUTS}, C = {CLASSES}, B = {BATCH}, {epochs} epochs\n")
    print("| head | median, s per epoch | range, s | features/s |\n|---|---:|---:|---:|")
    heads = [nn.Linear(INPUTS, CLASSES), *(DynamicKLinear(INPUTS, CLASSES, topk=topk) for topk in args.topk)]
    for head in heads:
        optimizer = torch.optim.SGD(head.parameters(), lr=0.01, momentum=0.9)
        seconds = []
        for _ in range(epochs + 1):
            start = clock()
            train_epoch(head, optimizer, features, targets)
            seconds.append(clock() - start)
        seconds = seconds[1:]
        median = statistics.median(seconds)
        name = f"K = {head.topk}" if isinstance(head, DynamicKLinear) else "`nn.Linear`"
        print(
            f"| {name} | {median:.2f} | {min(seconds):.2f} to {max(seconds):.2f} | {count / median:,.0f} |", flush=True
        )


def train_epoch(head: nn.Module, optimizer: torch.optim.Optimizer, features: Tensor, targets: Tensor) -> None:
    """Each feature once, in random order."""
    for batch in torch.randperm(len(features)).split(BATCH):
        loss = F.cross_entropy(head(features[batch]), targets[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


if __name__ == "__main__":
    main(get_args_parser().parse_args())
