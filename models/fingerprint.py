"""One number for the weights of a network."""

import hashlib
from collections.abc import Mapping

import numpy as np
from torch import Tensor

# BatchNorm's batch counters: absent from files older than PyTorch 0.4.1, and without effect on any output.
COUNTER = "num_batches_tracked"


def state_fingerprint(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of the names, types, shapes and values of a state dict's entries, in its order.

    Records of tallies, snapshots and caches hold it: it must not change.
    """
    digest = hashlib.sha256()
    for name, tensor in state.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(np.ascontiguousarray(tensor.detach().cpu().numpy()).tobytes())
    return digest.hexdigest()
