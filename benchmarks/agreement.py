"""The cost of agreement.csv's AUROC on data of Broden's size, as Markdown, on one thread.

    python3 benchmarks/agreement.py               # half a minute
    python3 benchmarks/agreement.py --quick       # 1,000 images, to see that everything runs

Peaks are random, half of them zero as after a ReLU; so are the labels of the images.
"""

import argparse
import sys
import time
from pathlib import Path

if not __package__:  # launched by path
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np
import torch
from scipy.sparse import csr_array

from netdissect.agreement import auroc
from util.device import processor

IMAGES, LABELS = 63_305, 1_197  # Broden's
PER_IMAGE = 20  # labels; an assumption
UNITS = (512, 2048)  # layer4 of ResNet-18 and -50


def get_args_parser() -> argparse.ArgumentParser:
    """Flags of the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="1,000 images")
    return parser


def main(args: argparse.Namespace) -> None:
    """Print a row per number of units."""
    torch.set_num_threads(1)
    images = 1000 if args.quick else IMAGES
    generator = np.random.default_rng(0)
    rows = np.repeat(np.arange(images), PER_IMAGE)
    columns = np.concatenate([generator.choice(LABELS, PER_IMAGE, replace=False) for _ in range(images)])
    presence = csr_array((np.ones(len(rows), bool), (rows, columns)), (images, LABELS))
    print(f"{processor()}, one thread, {images:,} images, {LABELS:,} labels, {PER_IMAGE} per image\n")
    print("| units | peaks, MB | AUROC, s of processor time |\n|---:|---:|---:|")
    for units in UNITS:
        peaks = np.maximum(generator.standard_normal((units, images), np.float32), 0)
        start = time.process_time()
        auroc(peaks, presence)
        print(f"| {units} | {peaks.nbytes / 1e6:.0f} | {time.process_time() - start:.1f} |")


if __name__ == "__main__":
    main(get_args_parser().parse_args())
