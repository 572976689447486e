"""The networks: backbones with a dense or a Dynamic-K Activation head, and their snapshots."""

from models.backbones import build_model, has_dynamic_k, model_names, with_dynamic_k
from models.heads import DENSE_MARK, Head, head_of, mark_of, parse_mark
from models.snapshot import load_snapshot, run_name

__all__ = [
    "DENSE_MARK",
    "Head",
    "build_model",
    "has_dynamic_k",
    "head_of",
    "load_snapshot",
    "mark_of",
    "model_names",
    "parse_mark",
    "run_name",
    "with_dynamic_k",
]
