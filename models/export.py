"""Write a copy of a snapshot for sharing: `python3 -m models.export IN.pth OUT.pth`."""

import os

from models.snapshot import load_snapshot, save_snapshot
from util.cli import ArgumentParser, run


def export(source: str | os.PathLike, destination: str | os.PathLike) -> None:
    """Copy a snapshot with its parameters in float16, its buffers as they are, and no training state."""
    model, metadata = load_snapshot(source)
    parameters = {name for name, _ in model.named_parameters()}
    state = {key: value.half() if key in parameters else value for key, value in model.state_dict().items()}
    save_snapshot(destination, {**metadata, "state_dict": state})


def main() -> None:
    """Parse the command line and export."""
    parser = ArgumentParser(__doc__)
    parser.add_argument("source", help="snapshot that train.py wrote")
    parser.add_argument("destination", help="file to write")
    args = parser.parse_args()
    export(args.source, args.destination)


if __name__ == "__main__":
    run(main, "models.export")
