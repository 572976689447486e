"""What a study's results came from."""

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
import torch
import torchvision

from util.device import processor

ROOT = Path(__file__).resolve().parent.parent


def origin() -> dict[str, Any]:
    """What a result came from: commit ('+' if the code was changed since), versions, machine."""

    def git(*command: str) -> str:
        return subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True).stdout.strip()

    changed = git("status", "--porcelain", "--", "*.py")
    return {
        "commit": git("rev-parse", "--short", "HEAD") + ("+" if changed else ""),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "numpy": np.__version__,
        "scikit-learn": sklearn.__version__,
        "cores": os.cpu_count(),
        "cpu": processor(),
    }
