"""Write a copy of a snapshot for sharing: `python3 -m models.export IN.pth OUT.pth`.

The copy has no training state, and parameters in float16: half of the size, and logits that differ a little. A slim
snapshot, which lacks what was frozen, stays slim, and its parameters stay as they are: it is small, and its logits are
the same. It loads with the frozen weights that it was trained behind, and no others.
"""

import os

from models.slim import is_slim, slim_like
from models.snapshot import load_snapshot, read_checkpoint, save_snapshot
from util.cli import ArgumentParser, run


def export(
    source: str | os.PathLike, destination: str | os.PathLike, finetune: str | os.PathLike | None = None
) -> None:
    """Copy a snapshot without its training state.

    Args:
        source: a snapshot.
        destination: the file to write.
        finetune: the file of the frozen weights that a slim snapshot lacks; None if its architecture brings them.

    Raises:
        UserError: as `load_snapshot` and `save_snapshot`.
    """
    model, metadata = load_snapshot(source, finetune=finetune)
    checkpoint = read_checkpoint(source)
    state = model.state_dict()
    if not is_slim(checkpoint):
        parameters = {name for name, _ in model.named_parameters()}
        state = {key: value.half() if key in parameters else value for key, value in state.items()}
    save_snapshot(destination, slim_like({**metadata, "state_dict": state}, checkpoint))


def get_args_parser() -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(__doc__)
    parser.add_argument("source", help="snapshot that train.py wrote")
    parser.add_argument("destination", help="file to write")
    parser.add_argument("--finetune", metavar="PTH", help="the weights that a slim snapshot was trained on, and lacks")
    return parser


def main() -> None:
    """Parse the command line and export."""
    args = get_args_parser().parse_args()
    export(args.source, args.destination, args.finetune)


if __name__ == "__main__":
    run(main, "models.export")
