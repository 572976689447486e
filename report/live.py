"""The scripts by which a page asks the head again: head.js, head_data.js, and the images' features in parts.

Scripts and not JSON, since a page that is opened as a file may not fetch. The first part comes with the page, the
others when an image of theirs is asked for: a report of thousands of images opens as quickly as one of ten.
"""

import base64
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from explain.live import LiveHead
from explain.naming import class_name, unit_name
from explain.records import Report, UnitRecord
from util.files import atomic_write
from util.text import printable

FEATURES = "features"  # folder of the images' features
_SCRIPT = Path(__file__).with_name("head.js")
_PART = 100  # images in a file of features


def write_live(
    folder: Path, live: LiveHead, report: Report, classes: Mapping[int, str], units: Sequence[UnitRecord]
) -> list[str]:
    """Write the scripts of live silencing into a folder.

    Args:
        folder: the report's.
        live: the head, and the features of the report's images.
        report: explain.json.
        classes: name of each class.
        units: every unit of the network, in order.

    Returns:
        Those that explain.html loads, in their order.
    """
    data: dict[str, Any] = {
        "rule": live.rule,
        "topk": live.topk,
        "adjustable": live.adjustable,
        "classes": live.classes,
        "names": [printable(class_name(classes[number])) for number in live.classes],
        "units": [printable(unit_name(unit)) for unit in units],
        "images": [image["explained"] for image in report["images"]],
        "part": _PART,
        "weight": _base64(live.weight),
        "bias": _base64(live.bias),
        "features": {},
    }
    _write(folder / "head_data.js", f"const headData = {_inert(data)};\n")
    for number, part in enumerate(live.pooled.split(_PART)):
        _write(folder / FEATURES / f"{number}.js", f'headData.features[{number}] = "{_base64(part)}";\n')
    with atomic_write(folder / "head.js") as temporary:
        shutil.copyfile(_SCRIPT, temporary)
    return ["head_data.js", f"{FEATURES}/0.js", "head.js"]


def _inert(data: Any) -> str:
    """JSON as a script, in which no text of a stranger ends the script or begins another."""
    return json.dumps(data, allow_nan=False).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _base64(values: Tensor) -> str:
    """Little-endian float32, row by row."""
    return base64.b64encode(values.numpy().astype("<f4").tobytes()).decode("ascii")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
