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
train.log into result/pytorch_{arch}_{mark}_{dataset}/. The last epochs' snapshots and the best one are kept (--keep).

On SIGTERM, which clusters send before they take a machine away, it saves interrupted.pth in mid-epoch and exits with
code 143; a user's mistake exits with 2, Ctrl-C with 130, a non-finite loss with 1. --resume auto continues an ended
run, and ends with the weights of a run that was never interrupted.
"""

import sys
from pathlib import Path

import settings
from loader.datasets import dataset_names
from models import DENSE_MARK
from models.backbones import ACCEPTED
from training import TrainConfig, train_and_evaluate
from training.epoch import NonFiniteLoss
from util import distributed
from util.cli import ArgumentParser, run
from util.text import say

ROOT = Path(__file__).resolve().parent
DEFAULTS = TrainConfig()


def get_args_parser() -> ArgumentParser:
    """The command line: a flag for each field of `TrainConfig`. None takes the data set's value in settings.py."""
    parser = ArgumentParser(__doc__)
    parser.add_argument(
        "--mark",
        help=f"tK: keep the K largest votes per class (default {settings.MARK}); {DENSE_MARK} for a dense head",
    )
    parser.add_argument("--arch", default=DEFAULTS.arch, help=f"one of {ACCEPTED}")
    parser.add_argument(
        "--k_schedule",
        metavar="linear:A-B",
        help="K of each epoch: A in the first, B (the mark's) in the last, evenly between",
    )
    parser.add_argument("--dataset", help=f"{', '.join(dataset_names())}, or a folder with train/ and val/")
    parser.add_argument("--data", help="folder that holds the data sets, or the data set's own (default data/)")
    parser.add_argument("--size", type=int, help="side of the network's input, pixels (default: the data set's)")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--batch_size", type=int, help="images per step, of all processes together")
    parser.add_argument("--lr", type=float, help="the largest learning rate")
    parser.add_argument(
        "--scale_lr",
        action="store_true",
        help="multiply it by batch size / the schedule's batch size (linear scaling)",
    )
    parser.add_argument("--workers", type=int, default=DEFAULTS.workers, help="image loading processes")
    parser.add_argument("--device", default=DEFAULTS.device, help="auto, cpu, cuda or cuda:<number>")
    parser.add_argument("--amp", default=DEFAULTS.amp, choices=["auto", "on", "off"], help="mixed precision")
    parser.add_argument("--compile", action="store_true", help="torch.compile the model")
    parser.add_argument("--resume", metavar="auto|PTH", help="resume from the run's newest snapshot, or from this one")
    parser.add_argument("--finetune", metavar="PTH", help="start from these weights: a snapshot, or torchvision's")
    parser.add_argument("--freeze", metavar="trunk|LAYER", help="train what follows this layer, on its cached outputs")
    parser.add_argument("--slim", action="store_true", help="snapshots have a fingerprint of what --freeze froze, only")
    parser.add_argument(
        "--keep",
        type=int,
        default=DEFAULTS.keep,
        metavar="N",
        help=f"snapshots to keep: the last N (default {DEFAULTS.keep}) and the best",
    )
    parser.add_argument("--tensorboard", action="store_true", help="write each epoch's numbers for TensorBoard")
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="check data, model, speed, memory and disk by a few steps; write nothing",
    )
    parser.add_argument("--seed", type=int, default=DEFAULTS.seed)
    return parser


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
