"""Train a network with a Dynamic-K Activation head (or a dense one), on CPU or GPU, or on many GPUs.

    python3 train.py --mark t5                                  # ResNet-d5a on Places365, or on the embedded scenes
    python3 train.py --mark t5 --dataset mini_places            # the embedded scenes, 24 epochs
    python3 train.py --mark t10 --arch resnet50_fc_ma           # ResNet-50, K = 10
    python3 train.py --mark t5 --arch convnext_tiny_fc_ma       # any network: torchvision's, timm:<model>, your own
    python3 train.py --mark dense --arch resnet18               # the baseline with a dense head
    python3 train.py --mark t5 --dataset /path/to/tree          # any folder with train/<class>/ and val/<class>/
    python3 train.py --mark t5 --k_schedule linear:50-5         # begin with K = 50
    python3 train.py --mark t5 --resume auto                    # resume from the newest snapshot of this run
    python3 train.py --mark t5 --finetune resnet18-f37072fd.pth # start from torchvision's ImageNet weights
    python3 train.py --mark t5 --finetune resnet18-f37072fd.pth --freeze trunk    # the head only, on cached features
    torchrun --nproc_per_node=8 train.py --mark t5              # eight GPUs share each batch

Writes snapshot/pytorch_{arch}_{mark}_{dataset}/epoch_{n}.pth, and train.jsonl (a line per epoch), curves.png and
train.log into result/pytorch_{arch}_{mark}_{dataset}/. File names and train.jsonl count epochs from 0, messages and
curves from 1: epoch_0.pth is the snapshot of epoch 1. The last epochs' snapshots and the best one are kept (--keep).

On SIGTERM, which clusters send before they take a machine away, it saves interrupted.pth in mid-epoch and exits with
code 143; a user's mistake exits with 2, Ctrl-C with 130, a non-finite loss with 1. --resume auto continues an ended
run, and ends with the weights of a run that was never interrupted.
"""

import argparse
import sys
from pathlib import Path

import settings
from util.cli import ArgumentParser, add_dataset_flags, default_workers, run

ROOT = Path(__file__).resolve().parent


def get_args_parser() -> ArgumentParser:
    """The command line: a flag for each field of `TrainConfig`, whose default holds where a flag is not given."""
    parser = ArgumentParser(__doc__, argument_default=argparse.SUPPRESS)
    add_model_arguments(parser)
    add_data_arguments(parser)
    add_schedule_arguments(parser)
    add_output_arguments(parser)
    add_machine_arguments(parser)
    return parser


def add_model_arguments(parser: ArgumentParser) -> None:
    """Which network, and the weights to start from."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--mark",
        metavar="tK",
        help=f"keep the K largest votes per class (default: {settings.MARK}); dense, or any name, for a dense head",
    )
    group.add_argument("--arch", metavar="NAME", help=f"{settings.ARCHITECTURES} (default: {settings.ARCH})")
    group.add_argument(
        "--k_schedule",
        metavar="linear:A-B",
        help="K of each epoch: A in the first, B (the mark's) in the last, evenly between (default: K is constant)",
    )
    group.add_argument(
        "--finetune", metavar="PTH", help="start from these weights: a snapshot, or torchvision's (default: random)"
    )
    group.add_argument(
        "--freeze",
        metavar="trunk|LAYER",
        help="train only what follows this layer, on its cached outputs (default: all)",
    )


def add_data_arguments(parser: ArgumentParser) -> None:
    """Which images."""
    group = parser.add_argument_group("data")
    add_dataset_flags(group, settings.DATASETS, default="places365 if it is there, else mini_places")
    group.add_argument(
        "--size", type=int, metavar="PIXELS", help="side of the network's input (default: the data set's)"
    )


def add_schedule_arguments(parser: ArgumentParser) -> None:
    """How long and how fast."""
    group = parser.add_argument_group("schedule")
    group.add_argument("--epochs", type=int, metavar="N", help="epochs (default: the data set's in settings.py)")
    group.add_argument(
        "--batch_size",
        type=int,
        metavar="N",
        help="images per step, of all processes together (default: the data set's)",
    )
    group.add_argument(
        "--lr", type=float, metavar="X", help="the largest learning rate, above 0 (default: the data set's)"
    )
    group.add_argument(
        "--scale_lr",
        action="store_true",
        help="multiply it by batch size / the schedule's batch size (linear scaling)",
    )
    group.add_argument("--seed", type=int, metavar="N", help="of weights, order and crops (default: 0)")


def add_output_arguments(parser: ArgumentParser) -> None:
    """What is written, and what a run resumes from."""
    group = parser.add_argument_group("output")
    group.add_argument(
        "--resume",
        metavar="auto|PTH",
        help="resume from the run's newest snapshot, or from this one (default: start anew)",
    )
    group.add_argument(
        "--keep",
        type=int,
        metavar="N",
        help=f"snapshots to keep: the last N (default: {settings.KEEP}) and the best",
    )
    group.add_argument("--slim", action="store_true", help="leave the weights that --freeze froze out of snapshots")
    group.add_argument("--tensorboard", action="store_true", help="write each epoch's numbers for TensorBoard")
    group.add_argument(
        "--dry_run",
        action="store_true",
        help="check data, model, speed, memory and disk by a few steps; write nothing",
    )


def add_machine_arguments(parser: ArgumentParser) -> None:
    """Where it computes."""
    group = parser.add_argument_group("machine")
    group.add_argument("--device", metavar="auto|cpu|cuda[:I]", help="where it computes (default: auto)")
    group.add_argument("--amp", choices=["auto", "on", "off"], help="mixed precision (default: auto)")
    group.add_argument("--compile", action="store_true", help="compile the model by torch.compile")
    group.add_argument(
        "--workers", type=int, metavar="N", help=f"processes that load images (default here: {default_workers()})"
    )


if __name__ == "__main__":  # --help and mistakes are answered before the imports below, which take seconds
    run(get_args_parser().parse_args, "train.py")

from training import TrainConfig, train_and_evaluate
from training.epoch import NonFiniteLoss
from util import distributed
from util.text import say


def main(workdir: Path = ROOT) -> None:
    """Parse the command line and train; snapshot/ and result/ are written below `workdir`."""
    config = TrainConfig(**vars(get_args_parser().parse_args()))
    with distributed.process_group():
        try:
            train_and_evaluate(config, workdir)
        except NonFiniteLoss as error:
            say(f"train.py: error: {error}", sys.stderr)
            sys.exit(1)


if __name__ == "__main__":
    run(main, "train.py")
