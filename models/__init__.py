"""The networks: ResNets with a dense or a Dynamic-K Activation head, and their snapshots."""

from models.resnet import MODELS, build_model, mark_of, parse_mark, run_name
from models.snapshot import load_snapshot

__all__ = ["MODELS", "build_model", "load_snapshot", "mark_of", "parse_mark", "run_name"]
