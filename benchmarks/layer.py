"""Time and memory of the DKA layer against the plain formula, as Markdown.

    python3 benchmarks/layer.py > layer.md     # about five minutes on two cores
    python3 benchmarks/layer.py --tables train inference --repeats 5
    python3 benchmarks/layer.py --quick        # tiny shapes, to see that everything runs
    python3 benchmarks/layer.py --cpu_time     # on a busy machine: CPU time of one thread, not the clock on the wall

Everything runs on the CPU in float32. *Ours* is the compiled kernel; with DKA_KERNEL=0 it is PyTorch's operators. The
variants of a row take turns, so that whatever else the machine does slows all of them; a time is the median over the
turns. Peak memory is the most that PyTorch's allocator held at one time during a step beyond what it held before (the
input, the parameters), from the allocation events of `torch.profiler`.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

if not __package__:  # launched by path
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from models import kernel
from models.dynamic_k import DynamicKLinear
from util.device import processor

MAX_SECONDS = 8  # spent on the turns of a row, once each variant has had three


class Case(NamedTuple):
    """A layer and its input: batch size, number of classes, number of inputs, votes that count."""

    B: int
    C: int
    N: int
    K: int


BASE = Case(256, 365, 512, 5)  # Places365 on ResNet-18
LARGE = Case(256, 1000, 2048, 5)  # ImageNet on ResNet-50
GROWTH = {"B": (64, 256, 1024), "C": (100, 365, 1000), "N": (256, 512, 2048), "K": (1, 5, 10, 20, 50)}
TABLES = ("train", "inference", "memory", "growth")
QUICK_GROWTH = {"B": (2, 8), "K": (1, 5)}


class PlainLayer(DynamicKLinear):
    """The formula as it is written, with the whole tensor of votes (B, C, N)."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, N) to (B, C)."""
        return (x[:, None] * self.weight).topk(self.topk, 2)[0].sum(2) + self.bias


def product_and_max(x: Tensor, weight: Tensor) -> Tensor:
    """One pass over all votes that holds none of them: what any choice must cost at least. Compiled, no gradients."""
    return (x[:, None] * weight).amax(2)


def get_args_parser() -> argparse.ArgumentParser:
    """Flags of the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny shapes")
    parser.add_argument("--repeats", type=int, default=9, metavar="n", help="turns of each variant (default 9)")
    parser.add_argument("--cpu_time", action="store_true", help="measure CPU time, with one thread")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=TABLES, help="which tables (default all)")
    parser.add_argument("--threads", type=int, metavar="n", help="threads that PyTorch uses (default: its own choice)")
    return parser


def main(args: argparse.Namespace) -> None:
    """Print all tables."""
    if args.threads or args.cpu_time:
        torch.set_num_threads(1 if args.cpu_time else args.threads)
    clock = time.process_time if args.cpu_time else time.perf_counter
    torch.manual_seed(0)
    base, large = (Case(8, 16, 64, 5), Case(8, 16, 128, 5)) if args.quick else (BASE, LARGE)
    cases = [case._replace(K=k) for case in (base, large) for k in (1, 5, 20, 50)]
    how = "compiled kernel" if kernel.available() else "PyTorch's operators"
    print(f"{processor()}, {torch.get_num_threads()} threads, PyTorch {torch.__version__}, float32, {how}.\n")
    for title, table in (("Forward and backward", "train"), ("Inference", "inference")):
        if table in args.tables:
            print(f"### {title}\n")
            print_times(cases, table == "train", args.repeats, clock)
    if "memory" in args.tables:
        print("### Peak extra memory, forward and backward\n")
        print_memory(cases)
    growth = (QUICK_GROWTH if args.quick else GROWTH) if "growth" in args.tables else {}
    for name, values in growth.items():
        print(f"### Growth with {name}, forward and backward\n")
        print_times([base._replace(**{name: value}) for value in values], True, args.repeats, clock)


def print_times(cases: list[Case], train: bool, repeats: int, clock: Callable[[], float]) -> None:
    """A row per case: milliseconds of each variant, and how many times faster than the plain formula ours is."""
    ratios_of = ("plain / ours", "plain / compiled")
    print_row("B", "C", "N", "K", "plain", "ours", "compiled", "one pass*", "`nn.Linear`", *ratios_of)
    print_row(*["--:"] * 11)
    for case in cases:
        ms = [1000 * seconds for seconds in take_turns(make_variants(case, train), repeats, clock)]
        ratios = (ms[0] / ms[1], ms[0] / ms[2])
        print_row(*case, *(f"{value:.1f}" for value in ms), *(f"{ratio:.1f} ×" for ratio in ratios))
    print("\nMilliseconds. * a single product-and-max pass over the votes, compiled, forward only.\n")


def print_memory(cases: list[Case]) -> None:
    """A row per case: MiB that a step holds at its peak."""
    print_row("B", "C", "N", "K", "plain", "ours", "compiled", "ours / plain", "compiled / plain")
    print_row(*["--:"] * 9)
    for case in cases:
        mib = [peak_memory(step) / 2**20 for step in make_variants(case, train=True)[:3]]
        print_row(*case, *(f"{value:.1f}" for value in mib), *(f"{value / mib[0]:.3f}" for value in mib[1:]))
    print("\nMiB.\n")


def print_row(*cells: object) -> None:
    """A line of a Markdown table, shown at once."""
    print("|", " | ".join(map(str, cells)), "|", flush=True)


def make_variants(case: Case, train: bool) -> list[Callable[[], None]]:
    """What is measured: a step of the plain formula, ours, ours compiled, the single pass, `nn.Linear`."""
    torch.compiler.reset()
    x = torch.randn(case.B, case.N).relu().requires_grad_(train)  # as after a ReLU: half of it is exactly zero
    grad = torch.randn(case.B, case.C)
    plain = PlainLayer(case.N, case.C, topk=case.K)
    ours = DynamicKLinear(case.N, case.C, topk=case.K)
    linear = nn.Linear(case.N, case.C)
    one_pass = torch.compile(product_and_max, dynamic=False)

    def make_step(layer: Callable[[Tensor], Tensor]) -> Callable[[], None]:
        def step() -> None:
            with torch.set_grad_enabled(train):
                out = layer(x)
                if train:
                    out.backward(grad)

        return step

    def pass_over_votes() -> None:
        with torch.no_grad():
            one_pass(x, ours.weight)

    compiled = torch.compile(ours, dynamic=False)
    return [make_step(plain), make_step(ours), make_step(compiled), pass_over_votes, make_step(linear)]


def take_turns(steps: list[Callable[[], None]], repeats: int, clock: Callable[[], float]) -> list[float]:
    """Median seconds of each step, after a warm-up that also compiles."""
    for step in steps:
        step()
    seconds: list[list[float]] = [[] for _ in steps]
    start = time.perf_counter()
    while len(seconds[0]) < repeats and (len(seconds[0]) < 3 or time.perf_counter() - start < MAX_SECONDS):
        for step, times in zip(steps, seconds, strict=True):
            begin = clock()
            step()
            times.append(clock() - begin)
    return [statistics.median(times) for times in seconds]


def peak_memory(step: Callable[[], None]) -> int:
    """Bytes that a step holds at most, beyond what was held before it."""
    step()  # compile, and make the gradients that stay
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        step()
    held = peak = 0
    for event in sorted(recorded.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":  # an allocation, or negative, a release
            held += event.nbytes()
            peak = max(peak, held)
    return peak


if __name__ == "__main__":
    main(get_args_parser().parse_args())
