"""Files of tensors: torch's own, and safetensors. They are a stranger's: no code, no surprises."""

import json
import os
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from util.cli import UserError


def read_tensors(path: Path) -> Any:
    """What torch can load of a file, without code and without more memory than the file has bytes."""
    try:
        with open(path, "rb") as file:
            start = file.read(9)
        if _is_safetensors(start, os.path.getsize(path)):
            return _read_safetensors(path)
        if start.startswith(b"PK\x03\x04"):  # what torch goes by; older files are pickles
            with zipfile.ZipFile(path) as listed:
                if sum(entry.file_size for entry in listed.infolist()) > os.path.getsize(path):
                    raise UserError(f"snapshot {path}: compressed, expected a file as torch.save writes it")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what torch would say of a strange file, one line is enough
            return torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        raise UserError(
            f"snapshot {path}: not a file of tensors and plain values that torch can load safely ({first_line(error)})"
        ) from error
    except Exception as error:  # a damaged file can fail anywhere in torch's reader
        raise UserError(f"snapshot {path}: unreadable or truncated ({first_line(error)})") from error


def _is_safetensors(start: bytes, size: int) -> bool:
    """Whether a file's first nine bytes are the length of a JSON header and its beginning, as safetensors has them."""
    return len(start) == 9 and start[8:] == b"{" and int.from_bytes(start[:8], "little") < size


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. The format forbids two of one name, of which its library takes either."""
    tensors = load_file(path)  # first, since it knows the limits of a header
    with open(path, "rb") as file:
        header = file.read(int.from_bytes(file.read(8), "little"))
    json.loads(header, object_pairs_hook=_once)
    return tensors


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose names differ."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("its header has a name twice")
    return found


def first_line(error: Exception) -> str:
    """What an exception says, or what it is: an empty file's has no message."""
    return next(iter(str(error).splitlines()), type(error).__name__)[:300]
