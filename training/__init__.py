"""Training: the loop that train.py calls, usable from Python.

from training import TrainConfig, train_and_evaluate
metrics = train_and_evaluate(TrainConfig(mark="t5", dataset="mini_places", epochs=2), workdir="/tmp/run")
"""

from training.config import TrainConfig
from training.loop import train_and_evaluate

__all__ = ["TrainConfig", "train_and_evaluate"]
