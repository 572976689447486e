"""What a training step costs: the plain way beside ours, with the loader's share.

    python3 benchmarks/train.py                    # ResNet-18-d5a at 224 and 112 px, about four minutes on two cores
    python3 benchmarks/train.py --compile          # torch.compile too, some minutes more

Trains on mini_places, with train.py's loader, layer and loop, for a number of steps, and prints a Markdown table of
images per second of the whole step, and of the time that a step waits for its data.
"""

import argparse
import itertools
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

import settings
from loader.batches import LoaderOptions, epoch_loader
from loader.datasets import Schedule, find_dataset
from loader.images import train_transform
from models import build_model
from training.config import Plan
from training.epoch import train_one_epoch
from training.state import create_state
from util.device import pick_amp

DEVICE = torch.device("cpu")
WARM_UP = 3  # steps before the clock runs


class Timed:
    """A number of batches of a loader, and how long it took to wait for those after the first few."""

    def __init__(self, loader: DataLoader, steps: int):
        self._loader, self._steps = loader, steps
        self.waited = self.seconds = 0.0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        batches = itertools.islice(iter(self._loader), self._steps + WARM_UP)
        for step in range(self._steps + WARM_UP):
            asked = time.perf_counter()
            if step == WARM_UP:
                started = asked
            batch = next(batches)
            if step >= WARM_UP:
                self.waited += time.perf_counter() - asked
            yield batch
        self.seconds = time.perf_counter() - started

    def __len__(self) -> int:
        return self._steps + WARM_UP


def get_args_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20, help="measured per case (default 20)")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--compile", action="store_true", help="measure torch.compile too")
    return parser


def main(args: argparse.Namespace) -> None:
    """Measure, and print the table."""
    source = find_dataset("mini_places", None, ROOT)
    train_set = source.dataset("train")
    print(
        f"ResNet-18-d5a, batch {args.batch_size}, {torch.get_num_threads()} threads, {args.workers} workers, PyTorch "
        f"{torch.__version__}, autocast to {pick_amp('auto', DEVICE)}\n"
    )
    print("| px | step | images/s | / plain | waits for data, ms per step |\n|---:|---|---:|---:|---:|")
    cases: dict[str, Callable[[nn.Module, Timed], None]] = {
        "plain: float32, contiguous": plain_epoch,
        "ours": partial(our_epoch, schedule=source.spec.training),
    }
    if args.compile:
        cases["ours, compiled"] = partial(our_epoch, schedule=source.spec.training, compiled=True)
    for size, half in ((224, False), (112, True)):
        train_set.transform = train_transform(source.spec, half=half)
        plain = None
        for name, epoch in cases.items():
            torch.manual_seed(0)
            options = LoaderOptions(args.batch_size, args.workers, DEVICE)
            batches = Timed(epoch_loader(train_set, options, seed=0, epoch=0), args.steps)
            epoch(build_model(settings.ARCH, len(source.classes), 5), batches)
            speed = args.steps * args.batch_size / batches.seconds
            plain = plain or speed
            wait = 1000 * batches.waited / args.steps
            print(f"| {size} | {name} | {speed:.1f} | {speed / plain:.2f} | {wait:.1f} |", flush=True)


def plain_epoch(model: nn.Module, batches: Timed) -> None:
    """A training loop as one would first write it."""
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, weight_decay=5e-4)
    model.train()
    for images, target in batches:
        loss = F.cross_entropy(model(images), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def our_epoch(model: nn.Module, batches: Timed, schedule: Schedule, compiled: bool = False) -> None:
    """train.py's loop, with what `--amp auto` chooses."""
    plan = Plan(epochs=1, batch_size=1, steps_per_epoch=len(batches), lr=0.01, seed=0, k_schedule=None)
    train_one_epoch(create_state(model, plan, schedule, DEVICE, pick_amp("auto", DEVICE), compiled), batches)


if __name__ == "__main__":
    main(get_args_parser().parse_args())
